"""Physical memory: frames with content, the folios they form, and the buddy allocator that hands them out.

A struct of arrays. Per frame: content, mapcount, anon_exclusive and the folio it belongs to, in the narrowest
dtypes, so that a terabyte fits in a few GiB. Per folio: the wide counters. Both grow as memory is first used.
"""

from __future__ import annotations

import heapq
import zlib
from typing import Self, TypeGuard, TypeVar, overload

import numpy as np
import numpy.typing as npt

MAX_BUDDY_ORDER = 10
"""The largest block of the buddy allocator: 1,024 frames (MAX_PAGE_ORDER, include/linux/mmzone.h)."""

ZERO_PFN = 0
"""The frame of the shared zero page. It belongs to no folio, and no mapping of it is counted (`vm_normal_page`)."""

GUP_PIN_COUNTING_BIAS = 1 << 10
"""What one pin adds to the refcount of a small folio (include/linux/mm.h)."""

NO_FOLIO = -1

Scalar = TypeVar("Scalar", bound=np.generic)
Numbers = npt.NDArray[np.int32]
Index = npt.NDArray[np.intp] | slice


def as_slice(numbers: npt.NDArray[np.integer], *, rising: bool = False) -> Index:
    """The same numbers as an index: a slice, many times cheaper, where they count up or down by one.

    A numpy function that gets a slice writes straight ahead; an array of numbers makes it look up every place. `rising`
    says that each number is known to be larger than the one before: then the first and the last tell.
    """
    count = len(numbers)
    if count == 0:
        return slice(0, 0)
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first == count - 1 and (rising or count < 3 or bool((numbers[1:] > numbers[:-1]).all())):
        return slice(first, last + 1)
    if first - last == count - 1 and (count < 3 or bool((numbers[1:] < numbers[:-1]).all())):
        return slice(first, last - 1 if last else None, -1)
    return numbers.astype(np.intp, copy=False)


def as_run(numbers: npt.NDArray[np.integer]) -> Index:
    """Different numbers as an index where their order does not matter: a slice where they are a run in any order."""
    if not len(numbers):
        return slice(0, 0)
    low, high = int(numbers.min()), int(numbers.max())
    return slice(low, high + 1) if high - low == len(numbers) - 1 else numbers.astype(np.intp, copy=False)


def ascending(numbers: Numbers) -> Numbers:
    """Different numbers in order; sorts only what is in neither direction sorted already.

    Numbers that lie close together are not compared: each marks its place.
    """
    if len(numbers) < 2:
        return numbers
    if numbers[0] > numbers[-1]:
        numbers = numbers[::-1]
    if bool((numbers[1:] > numbers[:-1]).all()):
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    if high - low > 8 * len(numbers):
        return np.sort(numbers)
    marks = np.zeros(high - low + 1, np.bool_)
    marks[numbers - low] = True
    return (np.flatnonzero(marks) + low).astype(np.int32)


def in_pieces(numbers: Numbers) -> list[Index]:
    """Ascending numbers as indices: slices for the runs where there are few, else the numbers themselves."""
    cuts = np.flatnonzero(numbers[1:] - numbers[:-1] != 1) + 1
    if 64 * len(cuts) >= len(numbers):
        return [numbers.astype(np.intp, copy=False)]
    firsts = numbers[np.concatenate((np.zeros(1, np.intp), cuts))].tolist()
    lasts = numbers[np.concatenate((cuts, np.array([len(numbers)]))) - 1].tolist()
    return [slice(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]


def numbers_of(index: Index) -> npt.NDArray[np.intp]:
    """The numbers that an index from `as_slice` stands for."""
    if not isinstance(index, slice):
        return index
    return np.arange(index.start, -1 if index.stop is None else index.stop, index.step or 1)


def is_forward(index: Index) -> TypeGuard[slice]:
    """Whether an index from `as_slice` is a run that counts up."""
    return isinstance(index, slice) and index.step is None


COPIED_AT_ONCE = 1 << 16
"""Entries of a column that grows are copied by as many, and not at all where all of them are zero."""

_COUNTING = np.arange(1 << 17, dtype=np.int32)


def count_up(out: Numbers, first: int, order: int = 0) -> None:
    """Fill with `first`, `first` + 1, ..., each 2**order times: several times quicker than from an array of numbers."""
    for at in range(0, len(out), len(_COUNTING)):
        part = out[at : at + len(_COUNTING)]
        if order:
            np.right_shift(_COUNTING[: len(part)], order, out=part)
            part += first + (at >> order)
        else:
            np.add(_COUNTING[: len(part)], first + at, out=part)


def blocks_of(column: npt.NDArray[Scalar], order: int) -> npt.NDArray[Scalar]:
    """A column cut into aligned blocks of 2**order, one a row: a view. A tail that fills no block is left out.

    Order 0 leaves the column as it is: rows of one cost numpy half as much again as no rows.
    """
    if order == 0:
        return column
    return column[: len(column) >> order << order].reshape(-1, 1 << order)


def rows_at(rows: npt.NDArray[Scalar], at: Index) -> npt.NDArray[Scalar]:
    """``rows[at]``, in the quickest of numpy's ways."""
    return rows[at] if isinstance(at, slice) else rows.take(at, axis=0)


GROUP_ORDER = 4
"""Folios from this order on own whole aligned groups of 16 frames."""


class FolioOf:
    """The folio that owns each frame (`page_folio`), -1 for none: ``folio_of[pfn]``, a slice or an array of frames.

    Of a folio of 16 frames or more only its groups of 16 know it; only frames of smaller folios know theirs one by one.
    Both columns hold the number plus one: 0 says to ask the frame, or that nobody owns it. What large folios own of the
    long column is never written, and memory that was never written costs nothing.
    """

    def __init__(self) -> None:
        self._of_group = np.zeros(0, np.int32)
        self._of_frame = np.zeros(0, np.int32)
        self._groups_owned = 0

    def __len__(self) -> int:
        return len(self._of_frame)

    @overload
    def __getitem__(self, frames: int | np.integer) -> int: ...
    @overload
    def __getitem__(self, frames: Index | Numbers) -> Numbers: ...
    def __getitem__(self, frames: int | np.integer | Index | Numbers) -> int | Numbers:
        if isinstance(frames, slice):
            return self._of_run(frames)
        if isinstance(frames, np.ndarray):
            if not self._groups_owned:
                return self._of_frame.take(frames) - np.int32(1)
            owners = self._of_group.take(frames >> GROUP_ORDER)
            if not bool(owners.all()):
                owners = np.where(owners, owners, self._of_frame.take(frames))
            return owners - np.int32(1)
        return int(self._of_group[frames >> GROUP_ORDER] or self._of_frame[frames]) - 1

    def _of_run(self, frames: slice) -> Numbers:
        if not self._groups_owned:
            return self._of_frame[frames] - np.int32(1)
        start, stop, step = frames.indices(len(self))
        if step != 1:
            return self[np.arange(start, stop, step)]
        skip = start & ((1 << GROUP_ORDER) - 1)
        groups = self._of_group[start >> GROUP_ORDER : -(-stop >> GROUP_ORDER)]
        owners = np.repeat(groups, 1 << GROUP_ORDER)[skip : skip + max(0, stop - start)]
        if not bool(groups.all()):
            np.copyto(owners, self._of_frame[frames], where=owners == 0)
        owners -= 1
        return owners

    def groups(self, groups: Index) -> Numbers | None:
        """The folios that own these aligned groups of 16 frames; None unless each is owned as a whole."""
        owners = rows_at(self._of_group, groups)
        return owners - np.int32(1) if bool(owners.all()) else None

    def set_block(self, block: int, order: int, folio: int) -> None:
        """One folio, or NO_FOLIO, owns the aligned block of 2**order frames with this number."""
        column, level = self._column(order)
        column[block << level : (block + 1) << level] = folio + 1
        if column is self._of_group:
            self._groups_owned += -(1 << level) if folio == NO_FOLIO else 1 << level

    def set_blocks(self, block: Index, order: int, folios: Numbers) -> None:
        """Folios own aligned blocks of 2**order frames that nobody owned, one each."""
        column, level = self._column(order)
        if is_forward(block) and is_forward(at := as_slice(folios)):
            count_up(column[block.start << level : block.stop << level], at.start + 1, level)
        else:
            numbers = folios + np.int32(1)
            blocks_of(column, level)[block] = numbers[:, None] if level else numbers
        if column is self._of_group:
            self._groups_owned += len(folios) << level

    def clear_blocks(self, block: Index, order: int) -> None:
        """Nobody owns these aligned blocks of 2**order frames any more."""
        column, level = self._column(order)
        rows = blocks_of(column, level)
        if column is self._of_group:
            self._groups_owned -= len(rows[block]) << level
        rows[block] = 0

    def grow(self, size: int) -> None:
        """Room for as many frames."""
        self._of_frame = _longer(self._of_frame, size)
        self._of_group = _longer(self._of_group, -(-size >> GROUP_ORDER))

    def copy(self) -> Self:
        """An independent one in the same state."""
        twin = object.__new__(type(self))
        twin._of_group, twin._of_frame = self._of_group.copy(), self._of_frame.copy()
        twin._groups_owned = self._groups_owned
        return twin

    def _column(self, order: int) -> tuple[Numbers, int]:
        """Where a folio of that order is noted, and log2 of the entries that it has there."""
        return (self._of_group, order - GROUP_ORDER) if order >= GROUP_ORDER else (self._of_frame, order)


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
                firsts += heads
                counts += [blocks] * len(heads)
                count -= blocks * len(heads)
                if count < 0:
                    counts[-1] += count
                    end = heads[-1] + (1 << size)
                    self._push_rest(end + (count << order), end)
                    count = 0
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
        return _expanded(np.array(firsts, np.int64), np.array(counts, np.int64), 1 << order)

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
            for head in here[alone].tolist():
                if self._order_of.get(head ^ size) == order:
                    del self._order_of[head ^ size]
                    more.append(head & ~size)
                else:
                    self._push(head, order)
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

    def _pop_many(self, order: int, wanted: int) -> list[int]:
        """What up to `wanted` calls of `_pop` would return."""
        heap, order_of = self._heaps[order], self._order_of
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
        self._order_of[head] = order
        heapq.heappush(self._heaps[order], head)

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
    mapcount : ndarray of shape (frames,), int8, or wider where many processes are (`make_room_for_mms`)
        Page-table entries that map the frame (the kernel's ``_mapcount + 1``); PMD mappings count in
        `entire_mapcount` instead.
    anon_exclusive : ndarray of shape (frames,), bool
        PageAnonExclusive. Only the head's is meaningful while a PMD maps the folio.
    folio_of : FolioOf
        The folio that owns the frame, or -1.
    head, order, refcount, large_mapcount, entire_mapcount, nr_mapped, pincount : ndarray of shape (folios,)
        First frame; log2 of the size; all references (a pin of a small folio adds 1,024); mappings of a large folio
        (a PTE counts 1, a PMD 1); PMD mappings; pages that some PTE maps; pins of a large folio.
    mm_id, mm_id_mapcount : ndarray of shape (folios, 2), int32 and int16
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
        self.mapcount: npt.NDArray[np.signedinteger] = np.zeros(0, np.int8)
        self.anon_exclusive = np.zeros(0, np.bool_)
        self.folio_of = FolioOf()
        self.head = np.zeros(0, np.int32)
        self.order = np.zeros(0, np.uint8)
        self.refcount = np.zeros(0, np.int32)
        self.large_mapcount = np.zeros(0, np.int32)
        self.entire_mapcount = np.zeros(0, np.int16)
        self.nr_mapped = np.zeros(0, np.int16)
        self.pincount = np.zeros(0, np.int32)
        self.mm_id = np.zeros((0, 2), np.int32)
        self.mm_id_mapcount = np.zeros((0, 2), np.int16)
        self.maybe_mapped_shared = np.zeros(0, np.bool_)
        self.partially_mapped = np.zeros(0, np.bool_)
        # Folios given back, a stack, above folios never used: those count up from `_folios_used`.
        self._free_folios = np.zeros(0, np.int32)
        self._free_count = 0
        self._folios_used = 0
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
        folio = self._next_folio()
        frames = slice(head, head + (1 << order))
        self.content[frames] = 0
        self.folio_of.set_block(head >> order, order, folio)
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

    def make_room_for_mms(self, mms: int) -> None:
        """Each process maps a frame at most once: the counts are as wide as there are processes."""
        if mms > np.iinfo(self.mapcount.dtype).max:
            self.mapcount = self.mapcount.astype(np.min_scalar_type(-mms - 1))

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
            setattr(twin, name, value if isinstance(value, int) else value.copy())
        return twin

    # --- many at once ---------------------------------------------------------------------------------------------

    def take_folios(self, count: int) -> Numbers:
        """The numbers that the next `count` new folios get; nothing else is set up yet."""
        again = min(count, self._free_count)
        top = self._free_count
        self._free_count -= again
        fresh = count - again
        if self._folios_used + fresh > len(self.head):
            self._grow_folios(self._folios_used + fresh)
        numbers = np.concatenate((
            self._free_folios[top - again : top][::-1],
            np.arange(self._folios_used, self._folios_used + fresh, dtype=np.int32),
        ))  # fmt: skip
        self._folios_used += fresh
        return numbers

    def give_back_folio(self, folio: int) -> None:
        """The number is free for the next new folio."""
        if self._free_count == len(self._free_folios):
            self._free_folios = _longer(self._free_folios, max(16, 2 * self._free_count))
        self._free_folios[self._free_count] = folio
        self._free_count += 1

    def folios_alloc(self, folios: Numbers, at: Index, heads: Numbers, block: Index, order: int) -> None:
        """Set up folios that got their numbers (`take_folios`) and frames (`Buddy.alloc_many`), as `folio_alloc` does.

        `at` and `block` are the folios and their aligned blocks of frames as indices. Each gets one reference per page:
        what it holds once it is mapped whole. What the frames contain is left to the caller.
        """
        if self.buddy.untouched > len(self.content):
            self._grow_frames()
        self.folio_of.set_blocks(block, order, folios)
        self.head[at] = heads
        self.order[at] = order
        self.refcount[at] = 1 << order

    def release_folios(self, folios: Numbers, heads: Numbers, orders: npt.NDArray[np.uint8]) -> None:
        """Free folios whose last reference went, in that order: their frames and numbers may be handed out again."""
        self.buddy.free_many(heads, orders)
        count = self._free_count + len(folios)
        if count > len(self._free_folios):
            self._free_folios = _longer(self._free_folios, max(count, 2 * len(self._free_folios)))
        self._free_folios[self._free_count : count] = folios
        self._free_count = count

    def clear_folios(self, folios: Numbers) -> None:
        """The other half of freeing: nothing is known of the frames and the folios any more."""
        heads, orders = self.head[folios], self.order[folios]
        for order in np.flatnonzero(np.bincount(orders)).tolist():
            for block in in_pieces(ascending(heads[orders == order] >> order)):
                self.folio_of.clear_blocks(block, order)
                blocks_of(self.anon_exclusive, order)[block] = False
                blocks_of(self.mapcount, order)[block] = 0
        for at in in_pieces(ascending(folios)):
            for column in (
                self.large_mapcount,
                self.entire_mapcount,
                self.nr_mapped,
                self.pincount,
                self.order,
                self.maybe_mapped_shared,
                self.partially_mapped,
                *self.mm_id.T,
                *self.mm_id_mapcount.T,
            ):
                column[at] = 0

    def _folio_free(self, folio: int) -> None:
        frames, order = self.frames_of(folio), int(self.order[folio])
        self.folio_of.set_block(frames.start >> order, order, NO_FOLIO)
        self.anon_exclusive[frames] = False
        self.mapcount[frames] = 0
        self.buddy.free(frames.start, order)
        for column in (self.large_mapcount, self.entire_mapcount, self.nr_mapped, self.pincount, self.order):
            column[folio] = 0
        self.mm_id[folio] = 0
        self.mm_id_mapcount[folio] = 0
        self.maybe_mapped_shared[folio] = False
        self.partially_mapped[folio] = False
        self.give_back_folio(folio)

    def _next_folio(self) -> int:
        if self._free_count:
            self._free_count -= 1
            return int(self._free_folios[self._free_count])
        if self._folios_used == len(self.head):
            self._grow_folios(self._folios_used + 1)
        self._folios_used += 1
        return self._folios_used - 1

    def _grow_frames(self) -> None:
        size = max(self.buddy.untouched, min(2 * len(self.content), self.buddy.frames))
        for name in ("content", "mapcount", "anon_exclusive"):
            setattr(self, name, _longer(getattr(self, name), size))
        self.folio_of.grow(size)

    def _grow_folios(self, wanted: int) -> None:
        size = max(16, wanted, 2 * len(self.head))
        for name in ("head", "order", "refcount", "large_mapcount", "entire_mapcount", "nr_mapped", "pincount",
                     "mm_id", "mm_id_mapcount", "maybe_mapped_shared", "partially_mapped"):  # fmt: skip
            setattr(self, name, _longer(getattr(self, name), size))


def _expanded(firsts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], step: int) -> Numbers:
    """The numbers of runs, `step` apart."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    if total and bool((firsts == firsts[0] + (ends - counts) * step).all()):
        return np.arange(firsts[0], firsts[0] + total * step, step, dtype=np.int32)
    numbers = np.arange(total) - np.repeat(ends - counts, counts)
    return (np.repeat(firsts, counts) + numbers * step).astype(np.int32)


def _longer(column: npt.NDArray[Scalar], size: int) -> npt.NDArray[Scalar]:
    """The column with zeros behind it. Zeros come from the system untouched: what is never written costs nothing."""
    grown: npt.NDArray[Scalar] = np.zeros((size, *column.shape[1:]), column.dtype)
    for start in range(0, len(column), COPIED_AT_ONCE):
        part = column[start : start + COPIED_AT_ONCE]
        if bool(part.any()):
            grown[start : start + len(part)] = part
    return grown
