"""Sizes that everything else is measured in, under their names in the kernel."""

from __future__ import annotations

MAX_BUDDY_ORDER = 10
"""The largest block of the buddy allocator: 1,024 frames (MAX_PAGE_ORDER, include/linux/mmzone.h)."""

ZERO_PFN = 0
"""The frame of the shared zero page. It belongs to no folio, and no mapping of it is counted (`vm_normal_page`)."""

GUP_PIN_COUNTING_BIAS = 1 << 10
"""What one pin adds to the refcount of a small folio (include/linux/mm.h)."""

NO_FOLIO = -1
PTRS_PER_PMD = 512
STACK_GUARD_GAP = 256
"""So many pages below a stack nothing is placed, and no accessible mapping lets it come nearer (stack_guard_gap)."""
MAX_VPN = 1 << 28
"""Address spaces end after a tebibyte: one array entry a page, touched only where something is mapped."""

PMD_ORDER = 9
"""A PMD maps 512 base pages of 4 KiB: the largest folio that a page fault allocates."""

ANON_ORDERS = (2, 3, 4, 5, 6, 7, 8, 9)
"""Orders that an anonymous folio may have besides 0. Order 1 is excluded (THP_ORDERS_ALL_ANON, huge_mm.h, 6.8+)."""
