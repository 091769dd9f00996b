"""Physical memory: frames with content, the folios they form, and the buddy allocator that hands them out.

A struct of arrays. Per frame: content, mapcount, anon_exclusive and the folio it belongs to, in the narrowest
dtypes, so that a terabyte fits in a few GiB. Per folio: the wide counters. Both grow as memory is first used.
"""

from __future__ import annotations

import heapq
import zlib
from typing import Self

import numpy as np
import numpy.typing as npt

MAX_BUDDY_ORDER = 10
"""The largest block of the buddy allocator: 1,024 frames (MAX_PAGE_ORDER, include/linux/mmzone.h)."""

ZERO_PFN = 0
"""The frame of the shared zero page. It belongs to no folio, and no mapping of it is counted (`vm_normal_page`)."""

GUP_PIN_COUNTING_BIAS = 1 << 10
"""What one pin adds to the refcount of a small folio (include/linux/mm.h)."""

NO_FOLIO = -1


class OutOfMemory(MemoryError):
    """No free frame is left; raised before the fault that needed it has mapped, copied or counted any page."""


class Buddy:
    """Free blocks of 2**order frames, each aligned to its size, the lowest address first (mm/page_alloc.c)."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.untouched = 0
        self._order_of: dict[int, int] = {}
        self._heaps: list[list[int]] = [[] for _ in range(MAX_BUDDY_ORDER + 1)]
        self._fragmentation: tuple[int, float, int] | None = None

    def alloc(self, order: int) -> int | None:
        """The first frame of a block of 2**order frames, or None when no free block is large enough."""
        while True:
            for size in range(order, MAX_BUDDY_ORDER + 1):
                head = self._pop(size)
                if head is not None:
                    return self._split(head, size, order)
            if not self._may_carve(order):
                return None
            self._carve()

    def free(self, head: int, order: int) -> None:
        """Give a block back and merge it with its buddy as long as that one is free too."""
        while order < MAX_BUDDY_ORDER and self._order_of.get(head ^ (1 << order)) == order:
            del self._order_of[head ^ (1 << order)]
            head &= ~(1 << order)
            order += 1
        self._push(head, order)

    def fragment(self, largest_order: int, fraction: float = 1.0, seed: int = 0) -> None:
        """Let somebody else hold frames, so that free blocks above `largest_order` become rare or none.

        In every aligned block of 2**(largest_order + 1) free frames one frame is taken for good, with probability
        `fraction`. Holds for memory not used yet as well.
        """
        if not 0 <= largest_order < MAX_BUDDY_ORDER:
            raise ValueError(f"largest_order={largest_order} must lie in 0..{MAX_BUDDY_ORDER - 1}")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction={fraction} must lie between 0 and 1")
        self._fragmentation = (largest_order, fraction, seed)
        for head, order in sorted(self._order_of.items()):
            del self._order_of[head]
            self._push_fragmented(head, order)

    def free_frames(self) -> int:
        """How many frames are free, untouched ones included."""
        return sum(1 << order for order in self._order_of.values()) + self.frames - self.untouched

    def blocks(self) -> dict[int, int]:
        """The free blocks that were ever handed out before, as first frame -> order."""
        return dict(self._order_of)

    def copy(self) -> Self:
        """An independent allocator in the same state."""
        twin = object.__new__(type(self))
        twin.frames, twin.untouched = self.frames, self.untouched
        twin._order_of = self._order_of.copy()
        twin._heaps = [heap.copy() for heap in self._heaps]
        twin._fragmentation = self._fragmentation
        return twin

    def _pop(self, order: int) -> int | None:
        heap = self._heaps[order]
        while heap:
            head = heapq.heappop(heap)
            # A merge leaves the old entry in its heap; the dict alone says what is free.
            if self._order_of.get(head) == order:
                del self._order_of[head]
                return head
        return None

    def _push(self, head: int, order: int) -> None:
        self._order_of[head] = order
        heapq.heappush(self._heaps[order], head)

    def _split(self, head: int, size: int, order: int) -> int:
        while size > order:
            size -= 1
            self._push(head + (1 << size), size)
        return head

    def _may_carve(self, order: int) -> bool:
        """Whether memory never used before can still give a block of that order."""
        if self.untouched >= self.frames:
            return False
        return self._fragmentation is None or self._fragmentation[1] < 1 or order <= self._fragmentation[0]

    def _carve(self) -> None:
        """Bring the next untouched stretch of memory into the free lists."""
        head = self.untouched
        order = MAX_BUDDY_ORDER
        while head + (1 << order) > self.frames:
            order -= 1
        self.untouched += 1 << order
        self._push_fragmented(head, order)

    def _push_fragmented(self, head: int, order: int) -> None:
        if self._fragmentation is None or order <= self._fragmentation[0]:
            self._push(head, order)
            return
        largest_order, fraction, seed = self._fragmentation
        for part in range(head, head + (1 << order), 2 << largest_order):
            # A number of its own for each place: copies of this allocator go on alike, without a generator to share.
            if zlib.crc32(f"{seed} {part}".encode()) < fraction * (1 << 32):
                # One frame taken leaves a free block of each smaller order.
                for smaller in range(largest_order + 1):
                    self._push(part + (1 << smaller), smaller)
            else:
                self._push(part, largest_order + 1)


class Memory:
    """Frames and folios as arrays; every process of a machine shares one.

    Attributes
    ----------
    content : ndarray of shape (frames,), uint8
        The byte that stands for the 4 KiB of each frame.
    mapcount : ndarray of shape (frames,), int16
        Page-table entries that map the frame (the kernel's ``_mapcount + 1``); PMD mappings count in
        `entire_mapcount` instead.
    anon_exclusive : ndarray of shape (frames,), bool
        PageAnonExclusive. Only the head's is meaningful while a PMD maps the folio.
    folio_of : ndarray of shape (frames,), int32
        The folio that owns the frame, or -1.
    head, order, refcount, large_mapcount, entire_mapcount, nr_mapped, pincount : ndarray of shape (folios,)
        First frame; log2 of the size; all references (a pin of a small folio adds 1,024); mappings of a large folio
        (a PTE counts 1, a PMD 1); PMD mappings; pages that some PTE maps; pins of a large folio.
    mm_id, mm_id_mapcount : ndarray of shape (folios, 2), int32
        The two mm_id slots of a large folio (include/linux/rmap.h, 6.15): which mm, 0 for free, and its mappings.
    maybe_mapped_shared : ndarray of shape (folios,), bool
        The slots' shared bit.
    partially_mapped : ndarray of shape (folios,), bool
        Queued for the deferred split: some page lost its last mapping while another is still mapped.
    """

    def __init__(self, frames: int) -> None:
        if frames < 2:
            raise ValueError(f"frames={frames}: a machine needs the zero page and at least one frame more")
        self.buddy = Buddy(frames)
        self.content = np.zeros(0, np.uint8)
        self.mapcount = np.zeros(0, np.int16)
        self.anon_exclusive = np.zeros(0, np.bool_)
        self.folio_of = np.zeros(0, np.int32)
        self.head = np.zeros(0, np.int32)
        self.order = np.zeros(0, np.uint8)
        self.refcount = np.zeros(0, np.int32)
        self.large_mapcount = np.zeros(0, np.int32)
        self.entire_mapcount = np.zeros(0, np.int16)
        self.nr_mapped = np.zeros(0, np.int16)
        self.pincount = np.zeros(0, np.int32)
        self.mm_id = np.zeros((0, 2), np.int32)
        self.mm_id_mapcount = np.zeros((0, 2), np.int32)
        self.maybe_mapped_shared = np.zeros(0, np.bool_)
        self.partially_mapped = np.zeros(0, np.bool_)
        self._free_folios: list[int] = []
        zero = self.buddy.alloc(0)
        assert zero == ZERO_PFN
        self._grow_frames()

    def folio_alloc(self, order: int) -> int | None:
        """A zeroed folio of 2**order frames with one reference, or None when no block is free (`folio_prealloc`)."""
        head = self.buddy.alloc(order)
        if head is None:
            return None
        if self.buddy.untouched > len(self.content):
            self._grow_frames()
        if not self._free_folios:
            self._grow_folios()
        folio = self._free_folios.pop()
        frames = slice(head, head + (1 << order))
        self.content[frames] = 0
        self.folio_of[frames] = folio
        self.head[folio] = head
        self.order[folio] = order
        self.refcount[folio] = 1
        return folio

    def folio_get(self, folio: int, refs: int = 1) -> None:
        """Take references (`folio_ref_add`)."""
        self.refcount[folio] += refs

    def folio_put(self, folio: int, refs: int = 1) -> None:
        """Drop references; the last one frees the frames (`folio_put_refs`)."""
        left = self.refcount[folio] - refs
        self.refcount[folio] = left
        if left == 0:
            self._folio_free(folio)

    def nr_pages(self, folio: int) -> int:
        """Frames of the folio (`folio_nr_pages`)."""
        return 1 << int(self.order[folio])

    def frames_of(self, folio: int) -> slice:
        """The folio's frames as a slice into the per-frame arrays."""
        head = int(self.head[folio])
        return slice(head, head + self.nr_pages(folio))

    def is_large(self, folio: int) -> bool:
        """Whether the folio has more than one page (`folio_test_large`)."""
        return bool(self.order[folio] > 0)

    def maybe_dma_pinned(self, folio: int) -> bool:
        """Whether the folio may be pinned: exact for large folios (`folio_maybe_dma_pinned`, 6.1-7.2)."""
        if self.is_large(folio):
            return bool(self.pincount[folio] > 0)
        return bool(self.refcount[folio] >= GUP_PIN_COUNTING_BIAS)

    def total_mapcount(self, pfn: int) -> int:
        """Mappings of one frame, PMD mappings included (`folio_precise_page_mapcount`)."""
        folio = self.folio_of[pfn]
        return int(self.mapcount[pfn]) + (int(self.entire_mapcount[folio]) if folio >= 0 else 0)

    def live_folios(self) -> npt.NDArray[np.intp]:
        """The folios that exist, as indices into the per-folio arrays."""
        return np.flatnonzero(self.refcount)

    def held_pages(self) -> int:
        """Frames that folios hold, mapped or not."""
        return int((1 << self.order[self.live_folios()].astype(np.int64)).sum())

    def copy(self) -> Self:
        """An independent memory in the same state."""
        twin = object.__new__(type(self))
        for name, value in self.__dict__.items():
            setattr(twin, name, value.copy())
        return twin

    def _folio_free(self, folio: int) -> None:
        frames = self.frames_of(folio)
        self.folio_of[frames] = NO_FOLIO
        self.anon_exclusive[frames] = False
        self.mapcount[frames] = 0
        self.buddy.free(frames.start, int(self.order[folio]))
        for column in (self.large_mapcount, self.entire_mapcount, self.nr_mapped, self.pincount, self.order):
            column[folio] = 0
        self.mm_id[folio] = 0
        self.mm_id_mapcount[folio] = 0
        self.maybe_mapped_shared[folio] = False
        self.partially_mapped[folio] = False
        self._free_folios.append(folio)

    def _grow_frames(self) -> None:
        size = max(self.buddy.untouched, min(2 * len(self.content), self.buddy.frames))
        for name, fill in (("content", 0), ("mapcount", 0), ("anon_exclusive", False), ("folio_of", NO_FOLIO)):
            setattr(self, name, _longer(getattr(self, name), size, fill))

    def _grow_folios(self) -> None:
        old = len(self.head)
        size = max(16, 2 * old)
        for name in ("head", "order", "refcount", "large_mapcount", "entire_mapcount", "nr_mapped", "pincount",
                     "mm_id", "mm_id_mapcount", "maybe_mapped_shared", "partially_mapped"):  # fmt: skip
            setattr(self, name, _longer(getattr(self, name), size, 0))
        self._free_folios.extend(range(size - 1, old - 1, -1))


def _longer(column: npt.NDArray[np.generic], size: int, fill: int) -> npt.NDArray[np.generic]:
    grown = np.full((size, *column.shape[1:]), fill, column.dtype)
    grown[: len(column)] = column
    return grown
