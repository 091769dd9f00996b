"""The buddy allocator that hands out frames (mm/page_alloc.c)."""

from __future__ import annotations

import heapq
import zlib
from typing import Self

import numpy as np
import numpy.typing as npt

from .index import Numbers, ascending, expanded, in_pieces
from .sizes import MAX_BUDDY_ORDER


class OutOfMemory(MemoryError):
    """No free frame is left; raised before the fault that needed it has mapped, copied or counted any page."""


class Buddy:
    """Free blocks of 2**order frames, each aligned to its size, the lowest address first (mm/page_alloc.c)."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.untouched = 0
        self.held_by_others = 0
        self._order_of: dict[int, int] = {}
        self._heaps: list[list[int]] = []
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

    def alloc_many(self, order: int, count: int) -> Numbers:
        """What `count` calls of `alloc` would return, in that order; fewer when memory runs out.

        Blocks of the order itself go first, then the smallest larger size, each cut up from its lowest address
        on: between two allocations of one order nothing smaller than the block being cut is free, so whole blocks can
        be taken and only the last one leaves a rest.
        """
        firsts: list[int] = []
        counts: list[int] = []
        while count:
            for size in range(order, MAX_BUDDY_ORDER + 1):
                blocks = 1 << (size - order)
                heads = self._pop_many(size, -(-count // blocks))
                if not heads:
                    continue
                firsts += heads
                counts += [blocks] * len(heads)
                count -= blocks * len(heads)
                if count < 0:
                    counts[-1] += count
                    end = heads[-1] + (1 << size)
                    self._push_rest(end + (count << order), end)
                    count = 0
                if not count:
                    break
            if not count or not self._may_carve(order):
                break
            whole = min(count >> (MAX_BUDDY_ORDER - order), (self.frames - self.untouched) >> MAX_BUDDY_ORDER)
            if whole and self._fragmentation is None:
                firsts.append(self.untouched)
                counts.append(whole << (MAX_BUDDY_ORDER - order))
                self.untouched += whole << MAX_BUDDY_ORDER
                count -= counts[-1]
            else:
                self._carve()
        return expanded(np.array(firsts, np.int64), np.array(counts, np.int64), 1 << order)

    def free_many(self, heads: Numbers, orders: npt.NDArray[np.uint8]) -> None:
        """Give many blocks back at once; the outcome does not depend on the order of freeing.

        Blocks of one order that lie in long runs are freed as the largest blocks that these runs consist of. Else,
        order by order: two blocks freed here that are buddies merge, then one that was freed here with one that was
        free already. What merged is freed at the next order.
        """
        if len(heads) and bool((orders == orders[0]).all()):
            order = int(orders[0])
            pieces = in_pieces(ascending(heads >> order))
            if isinstance(pieces[0], slice):
                for piece in pieces:
                    assert isinstance(piece, slice)
                    self._free_run(piece.start << order, piece.stop << order)
                return
        merged = np.zeros(0, np.int32)
        for order in range(MAX_BUDDY_ORDER + 1):
            chosen = heads if bool((orders == order).all()) else heads[orders == order]
            here = ascending(np.concatenate((merged, chosen)) if len(merged) else chosen)
            if order == MAX_BUDDY_ORDER or not len(here):
                merged = here
                continue
            size = 1 << order
            pairs = np.flatnonzero((here[1:] - here[:-1] == size) & (here[:-1] & size == 0))
            alone = np.ones(len(here), np.bool_)
            alone[pairs] = alone[pairs + 1] = False
            more = []
            heap, order_of = self._heap(order), self._order_of
            for head in here[alone].tolist():
                if order_of.get(head ^ size) == order:
                    del order_of[head ^ size]
                    more.append(head & ~size)
                else:
                    order_of[head] = order
                    heapq.heappush(heap, head)
            merged = np.concatenate((here[pairs], np.array(more, np.int32)))
        for head in merged.tolist():
            self._push(head, MAX_BUDDY_ORDER)

    def _free_run(self, start: int, end: int) -> None:
        while start < end:
            aligned = (start & -start).bit_length() - 1 if start else MAX_BUDDY_ORDER
            order = min(aligned, (end - start).bit_length() - 1, MAX_BUDDY_ORDER)
            self.free(start, order)
            start += 1 << order

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
        twin.frames, twin.untouched, twin.held_by_others = self.frames, self.untouched, self.held_by_others
        twin._order_of = self._order_of.copy()
        twin._heaps = []
        twin._fragmentation = self._fragmentation
        return twin

    def _heap(self, order: int) -> list[int]:
        """The free blocks of that order, and what merges left behind: a copy makes it when it is first asked."""
        if not self._heaps:
            self._heaps = [[] for _ in range(MAX_BUDDY_ORDER + 1)]
            # A sorted list is a heap.
            for head, size in sorted(self._order_of.items()):
                self._heaps[size].append(head)
        return self._heaps[order]

    def _pop(self, order: int) -> int | None:
        heap = self._heap(order)
        while heap:
            head = heapq.heappop(heap)
            # A merge leaves the old entry in its heap; the dict alone says what is free.
            if self._order_of.get(head) == order:
                del self._order_of[head]
                return head
        return None

    def _pop_many(self, order: int, wanted: int) -> list[int]:
        """What up to `wanted` calls of `_pop` would return."""
        heap, order_of = self._heap(order), self._order_of
        if not heap:
            return []
        if 32 * wanted < len(heap):
            heads = [self._pop(order) for _ in range(wanted)]
            return [head for head in heads if head is not None]
        # A sorted list is a heap too.
        heap.sort()
        taken: list[int] = []
        seen = 0
        for head in heap:
            if len(taken) == wanted:
                break
            seen += 1
            if order_of.get(head) == order:
                del order_of[head]
                taken.append(head)
        del heap[:seen]
        return taken

    def _push(self, head: int, order: int) -> None:
        heap = self._heap(order)
        self._order_of[head] = order
        heapq.heappush(heap, head)

    def _push_rest(self, start: int, end: int) -> None:
        """Free what is left of a block: [start, end), where `end` is aligned to the block's size."""
        while start < end:
            order = (start & -start).bit_length() - 1
            self._push(start, order)
            start += 1 << order

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
                self.held_by_others += 1
                for smaller in range(largest_order + 1):
                    self._push(part + (1 << smaller), smaller)
            else:
                self._push(part, largest_order + 1)
