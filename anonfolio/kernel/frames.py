"""Physical memory: frames with content, and the folios they form.

A struct of arrays. Per frame: content, mapcount, anon_exclusive and the folio it belongs to, in the narrowest
dtypes, so that a terabyte fits in a few GiB. Per folio: the wide counters. Both grow as memory is first used.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from .buddy import Buddy
from .index import Index, Numbers, as_slice, ascending, blocks_of, count_up, in_pieces, is_forward, longer, rows_at
from .sizes import GUP_PIN_COUNTING_BIAS, NO_FOLIO, ZERO_PFN

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
        self._of_frame = longer(self._of_frame, size)
        self._of_group = longer(self._of_group, -(-size >> GROUP_ORDER))

    def copy(self) -> Self:
        """An independent one in the same state."""
        twin = object.__new__(type(self))
        twin._of_group, twin._of_frame = self._of_group.copy(), self._of_frame.copy()
        twin._groups_owned = self._groups_owned
        return twin

    def _column(self, order: int) -> tuple[Numbers, int]:
        """Where a folio of that order is noted, and log2 of the entries that it has there."""
        return (self._of_group, order - GROUP_ORDER) if order >= GROUP_ORDER else (self._of_frame, order)


_OF_FRAMES: dict[str, tuple[Any, ...]] = {"content": (np.uint8,), "mapcount": (np.int8,), "anon_exclusive": (np.bool_,)}
_OF_FOLIOS: dict[str, tuple[Any, ...]] = {
    "head": (np.int32,),
    "refcount": (np.int32,),
    "order": (np.uint8,),
    "large_mapcount": (np.int32,),
    "entire_mapcount": (np.int16,),
    "nr_mapped": (np.int16,),
    "pincount": (np.int32,),
    "mm_id": (np.int32, 2),
    "mm_id_mapcount": (np.int16, 2),
    "maybe_mapped_shared": (np.bool_,),
    "partially_mapped": (np.bool_,),
    "dirty": (np.bool_,),
    "lazyfree": (np.bool_,),
}
"""The columns: dtype, and how many numbers where an entry is not one. All but the first two are 0 in a freed folio."""
_CLEARED = tuple(_OF_FOLIOS)[2:]
_COLUMNS = ("_free_folios", *_OF_FRAMES, *_OF_FOLIOS)
_columns = attrgetter(*_COLUMNS)


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
    marks_exclusive : bool
        Whether the kernel has that mark (`Policy.marks_exclusive`); without it nothing ever sets it.
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
    dirty, lazyfree : ndarray of shape (folios,), bool
        PG_dirty, which a split takes over from entries; not PG_swapbacked: MADV_FREE gave it up.
    mms : list of Mm
        The address spaces that may map its frames: what the kernel finds through the anon_vma.
    """

    buddy: Buddy
    folio_of: FolioOf
    content: npt.NDArray[np.uint8]
    mapcount: npt.NDArray[np.signedinteger]
    anon_exclusive: npt.NDArray[np.bool_]
    head: Numbers
    order: npt.NDArray[np.uint8]
    refcount: Numbers
    large_mapcount: Numbers
    entire_mapcount: npt.NDArray[np.int16]
    nr_mapped: npt.NDArray[np.int16]
    pincount: Numbers
    mm_id: Numbers
    mm_id_mapcount: npt.NDArray[np.int16]
    maybe_mapped_shared: npt.NDArray[np.bool_]
    dirty: npt.NDArray[np.bool_]
    lazyfree: npt.NDArray[np.bool_]
    partially_mapped: npt.NDArray[np.bool_]

    def __init__(self, frames: int, marks_exclusive: bool = True) -> None:
        self.marks_exclusive = marks_exclusive
        if frames < 2:
            raise ValueError(f"frames={frames}: a machine needs the zero page and at least one frame more")
        self.buddy = Buddy(frames)
        self.contpte_converts = 0
        self.folio_of = FolioOf()
        for name, (dtype, *shape) in (_OF_FRAMES | _OF_FOLIOS).items():
            setattr(self, name, np.zeros((0, *shape), dtype))
        # Folios given back, a stack, above folios never used: those count up from `_folios_used`.
        self._free_folios = np.zeros(0, np.int32)
        self._free_count = 0
        self._folios_used = 0
        self._held = 0
        self.mms: list[Any] = []
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
        self._held += 1 << order
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
        """Whether the folio may be pinned: exact for large folios (`folio_maybe_dma_pinned`, 6.1-7.3)."""
        if self.is_large(folio):
            return bool(self.pincount[folio] > 0)
        return bool(self.refcount[folio] >= GUP_PIN_COUNTING_BIAS)

    def mapcounts_of(self, pfns: Index | Numbers) -> npt.NDArray[np.integer]:
        """How many entries map each of these frames of folios, a PMD counted (`folio_precise_page_mapcount`, 6.11)."""
        counts: npt.NDArray[np.integer] = self.mapcount[pfns] + self.entire_mapcount[self.folio_of[pfns]]
        return counts

    def make_room_for_mms(self, mms: int) -> None:
        """Each process maps a frame at most once: the counts are as wide as there are processes."""
        if mms > np.iinfo(self.mapcount.dtype).max:
            self.mapcount = self.mapcount.astype(np.min_scalar_type(-mms - 1))

    def live_folios(self) -> npt.NDArray[np.intp]:
        """The folios that exist, as indices into the per-folio arrays."""
        return np.flatnonzero(self.refcount)

    def held_pages(self) -> int:
        """Frames that folios hold, mapped or not: counted as they come and go, for a replay asks before each call."""
        return self._held

    def copy(self) -> Self:
        """An independent memory in the same state."""
        twin = object.__new__(type(self))
        state = twin.__dict__
        state.update(self.__dict__)
        # The search copies machines by the million: no loop of Python's own over the columns.
        state.update(zip(_COLUMNS, map(np.ndarray.copy, _columns(self)), strict=True))
        twin.buddy, twin.folio_of, twin.mms = self.buddy.copy(), self.folio_of.copy(), []
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
            self._free_folios = longer(self._free_folios, max(16, 2 * self._free_count))
        self._free_folios[self._free_count] = folio
        self._free_count += 1

    def folios_alloc(self, folios: Numbers, at: Index, heads: Numbers, block: Index, order: int) -> None:
        """Set up folios that got their numbers (`take_folios`) and frames (`Buddy.alloc_many`), as `folio_alloc` does.

        `at` and `block` are the folios and their aligned blocks of frames as indices. Each gets one reference per page:
        what it holds once it is mapped whole. What the frames contain is left to the caller.
        """
        if self.buddy.untouched > len(self.content):
            self._grow_frames()
        self._held += len(folios) << order
        self.folio_of.set_blocks(block, order, folios)
        self.head[at] = heads
        self.order[at] = order
        self.refcount[at] = 1 << order

    def folio_split(self, folio: int, order: int) -> Numbers:
        """Folios of 2**order in place of a larger one; what the pages map and hold stays (`__split_folio_to_order`).

        Their references and counts are left to the caller.
        """
        frames, old_order = self.frames_of(folio), int(self.order[folio])
        flags = self.dirty[folio], self.lazyfree[folio]
        self._held -= 1 << old_order
        self.folio_of.set_block(frames.start >> old_order, old_order, NO_FOLIO)
        for name in _CLEARED:
            getattr(self, name)[folio] = 0
        self.give_back_folio(folio)
        heads = np.arange(frames.start, frames.stop, 1 << order, dtype=np.int32)
        folios = self.take_folios(len(heads))
        self.folios_alloc(folios, as_slice(folios), heads, as_slice(heads >> order), order)
        self.dirty[folios], self.lazyfree[folios] = flags
        self.anon_exclusive[frames] &= self.mapcount[frames] > 0
        return folios

    def release_folios(self, folios: Numbers, heads: Numbers, orders: npt.NDArray[np.uint8]) -> None:
        """Free folios whose last reference went, in that order: their frames and numbers may be handed out again."""
        self.buddy.free_many(heads, orders)
        self._held -= int((1 << orders.astype(np.int64)).sum())
        count = self._free_count + len(folios)
        if count > len(self._free_folios):
            self._free_folios = longer(self._free_folios, max(count, 2 * len(self._free_folios)))
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
        columns = [getattr(self, name) for name in _CLEARED]
        for at in in_pieces(ascending(folios)):
            for column in columns:
                # Two columns of numbers are cleared quicker than one of pairs.
                for part in column.T if column.ndim > 1 else (column,):
                    part[at] = 0

    def _folio_free(self, folio: int) -> None:
        frames, order = self.frames_of(folio), int(self.order[folio])
        self.folio_of.set_block(frames.start >> order, order, NO_FOLIO)
        self.anon_exclusive[frames] = False
        self.mapcount[frames] = 0
        self.buddy.free(frames.start, order)
        self._held -= 1 << order
        for name in _CLEARED:
            getattr(self, name)[folio] = 0
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
        for name in _OF_FRAMES:
            setattr(self, name, longer(getattr(self, name), size))
        self.folio_of.grow(size)

    def _grow_folios(self, wanted: int) -> None:
        size = max(16, wanted, 2 * len(self.head))
        for name in _OF_FOLIOS:
            setattr(self, name, longer(getattr(self, name), size))
