"""Page-table entries: their bits, the states of a PMD, and how many of them are handled at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

# Page-table entry bits; 0 is pte_none.
PTE_PRESENT = 1
PTE_WRITE = 2
PTE_DIRTY = 4
PTE_YOUNG = 8
PTE_SPECIAL = 16
"""Set on zero-page entries only: `vm_normal_page` finds no page behind them."""

PTE_CONT = 32
"""arm64's contiguous bit (PTE_CONT, arch/arm64/include/asm/pgtable-hwdef.h): this entry may share one TLB entry."""

PTE_GUARD = 128
"""No mapping but a marker: whoever touches the page dies of it (PTE_MARKER_GUARD, 6.13). It is not pte_none either."""

# Masks that take one bit out of entries (`pte_wrprotect`, `pte_mkold`, `pte_mkclean`).
WRPROTECT = 0xFF ^ PTE_WRITE
MKOLD = 0xFF ^ PTE_YOUNG
MKCLEAN = 0xFF ^ PTE_DIRTY

MANY_PAGES = 128
"""From this many pages on, fork, munmap and exit handle whole stretches at once: from here it pays in any case."""

STRETCH_PAGES = 1 << 17
"""How many at once: what a stretch needs fits the processor's cache."""

REGION_PAGES = 1 << 20
"""Within so many pages it is seen whether the frames that they map are a run."""

# States of a PMD.
PMD_NONE = 0
PMD_TABLE = 1
PMD_HUGE = 2


class Run(NamedTuple):
    """Consecutive entries that map consecutive pages of one folio."""

    vpn: int
    pfn: int
    pages: int
    folio: int


def stretches(start: int, end: int, pages: int) -> Iterator[tuple[int, int]]:
    """[start, end) cut at multiples of `pages`, a power of two: no page table is in two stretches."""
    while start < end:
        stop = min((start & -pages) + pages, end)
        yield start, stop
        start = stop
