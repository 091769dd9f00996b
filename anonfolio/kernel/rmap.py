"""Who maps a folio: mapcounts, exclusivity and the two mm_id slots (mm/rmap.c, include/linux/rmap.h).

Functions carry the kernel's names. A range is `pages` frames from `pfn`, all of one folio, all mapped by one mm.
The last part does the same for many folios at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .frames import GROUP_ORDER, Memory
from .index import Index, Numbers, Scalar, as_slice, blocks_of, is_forward, numbers_of, rows_at
from .sizes import PTRS_PER_PMD


def folio_add_new_anon_rmap(memory: Memory, folio: int, mm_id: int, *, pmd: bool = False) -> None:
    """A fresh folio is mapped whole, by one mm, exclusively (RMAP_EXCLUSIVE).

    Every page gets PageAnonExclusive; under a PMD only the head, as there is one mapping (6.12, 6.17).
    """
    if not memory.order[folio]:
        head = memory.head.item(folio)
        memory.mapcount[head] = 1
        memory.anon_exclusive[head] = memory.marks_exclusive
        memory.nr_mapped[folio] = 1
        return
    frames = memory.frames_of(folio)
    pages = frames.stop - frames.start
    if pmd:
        memory.entire_mapcount[folio] = 1
        memory.anon_exclusive[frames.start] = memory.marks_exclusive
    else:
        memory.mapcount[frames] = 1
        memory.anon_exclusive[frames] = memory.marks_exclusive
        memory.nr_mapped[folio] = pages
    folio_set_large_mapcount(memory, folio, mm_id, 1 if pmd else pages)


def folio_dup_anon_rmap_ptes(memory: Memory, folio: int, pfn: int, pages: int, mm_id: int) -> None:
    """Fork shares a range with the child `mm_id`: nobody is exclusive any more (`folio_try_dup_anon_rmap_ptes`).

    The caller has made sure that no pin is in the way.
    """
    memory.mapcount[pfn : pfn + pages] += 1
    memory.anon_exclusive[pfn : pfn + pages] = False
    if memory.is_large(folio):
        folio_add_large_mapcount(memory, folio, mm_id, pages)


def folio_dup_anon_rmap_pmd(memory: Memory, folio: int, mm_id: int) -> None:
    """Fork shares a PMD mapping with the child `mm_id` (`folio_try_dup_anon_rmap_pmd`)."""
    memory.entire_mapcount[folio] += 1
    memory.anon_exclusive[memory.head[folio]] = False
    folio_add_large_mapcount(memory, folio, mm_id, 1)


def folio_remove_rmap_ptes(memory: Memory, folio: int, pfn: int, pages: int, mm_id: int) -> None:
    """An mm no longer maps a range (`__folio_remove_rmap`, RMAP_LEVEL_PTE).

    A page that lost its last mapping while another keeps one queues the folio for the deferred split, for good.
    PageAnonExclusive stays on the page until it is freed, as in the kernel: nothing reads it meanwhile.
    """
    mapcount = memory.mapcount
    if pages == 1:
        left = mapcount.item(pfn) - 1
        mapcount[pfn] = left
        unmapped = 0 if left else 1
    else:
        mapcount[pfn : pfn + pages] -= 1
        unmapped = pages - int(np.count_nonzero(mapcount[pfn : pfn + pages]))
    if not memory.is_large(folio):
        memory.nr_mapped[folio] = 1 - unmapped
        return
    folio_sub_large_mapcount(memory, folio, mm_id, pages)
    if not unmapped:
        return
    memory.nr_mapped[folio] -= unmapped
    if memory.nr_mapped[folio] and not memory.entire_mapcount[folio]:
        memory.partially_mapped[folio] = True


def folio_remove_rmap_pmd(memory: Memory, folio: int, mm_id: int) -> None:
    """An mm no longer maps the folio by PMD (`__folio_remove_rmap`, RMAP_LEVEL_PMD)."""
    memory.entire_mapcount[folio] -= 1
    folio_sub_large_mapcount(memory, folio, mm_id, 1)
    if not memory.entire_mapcount[folio] and 0 < memory.nr_mapped[folio] < memory.nr_pages(folio):
        memory.partially_mapped[folio] = True


def folio_split_rmap_pmd(memory: Memory, folio: int, mm_id: int) -> None:
    """One PMD mapping becomes a PTE mapping of every page (`__split_huge_pmd_locked`).

    511 mappings and references more; every page inherits the head's PageAnonExclusive.
    """
    frames = memory.frames_of(folio)
    pages = frames.stop - frames.start
    memory.folio_get(folio, pages - 1)
    if memory.anon_exclusive[frames.start]:
        memory.anon_exclusive[frames] = True
    memory.mapcount[frames] += 1
    memory.entire_mapcount[folio] -= 1
    memory.nr_mapped[folio] = pages
    folio_add_large_mapcount(memory, folio, mm_id, pages - 1)


def folio_set_large_mapcount(memory: Memory, folio: int, mm_id: int, mappings: int) -> None:
    """A new folio is mapped by one mm, which takes slot 0 (`folio_set_large_mapcount`, 6.17)."""
    memory.large_mapcount[folio] = mappings
    memory.mm_id[folio, 0] = mm_id
    memory.mm_id_mapcount[folio, 0] = mappings


def folio_add_large_mapcount(memory: Memory, folio: int, mm_id: int, mappings: int) -> None:
    """`folio_add_return_large_mapcount` (6.17): the mm's slot grows, or it takes a free one, or it stays untracked."""
    others = memory.large_mapcount[folio] > 0
    memory.large_mapcount[folio] += mappings
    ids, counts = memory.mm_id[folio], memory.mm_id_mapcount[folio]
    for slot in (0, 1):
        if ids[slot] == mm_id:
            counts[slot] += mappings
            return
    for slot in (0, 1):
        if ids[slot] == 0:
            ids[slot], counts[slot] = mm_id, mappings
            if others:
                memory.maybe_mapped_shared[folio] = True
            return


def folio_sub_large_mapcount(memory: Memory, folio: int, mm_id: int, mappings: int) -> None:
    """`folio_sub_return_large_mapcount` (6.17): the shared bit clears only when one tracked mm has all mappings.

    An mm that came third is in no slot, so when it alone survives nothing clears the bit: the blind spot.
    """
    memory.large_mapcount[folio] -= mappings
    left = memory.large_mapcount[folio]
    ids, counts = memory.mm_id[folio], memory.mm_id_mapcount[folio]
    for slot in (0, 1):
        if ids[slot] == mm_id:
            counts[slot] -= mappings
            if counts[slot] > 0:
                return
            # Also where the count went negative: mappings came while the mm was untracked and go while it is tracked.
            ids[slot] = counts[slot] = 0
            break
    if left == 0 or counts[0] == left or counts[1] == left:
        memory.maybe_mapped_shared[folio] = False


# --- many folios at once ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a stretch of one process's entries maps: every frame once, every folio once.

    Within one process no two entries map the same frame, so a count of mappings per frame goes up by exactly one:
    ``mapcount[frames] += 1`` needs no care for repeated numbers.

    Attributes
    ----------
    order : int
        When the entries map whole folios of one order, one after the other: that order; frames are then numbered in
        blocks of that size. Else -1.
    frames : slice or ndarray
        The frames, or the blocks of frames.
    folios : ndarray of shape (n,), int32
        The folios.
    pages : ndarray of shape (n,), int32, or int
        How many entries map each folio.
    keys : ndarray of shape (entries,), intp, or None
        For `order` -1: a small number for each entry's folio.
    folio_keys : ndarray of shape (n,), intp, or None
        For `order` -1: the same for each of `folios`.
    runs : ndarray of intp, or None
        For `order` -1: the first entry of each run of consecutive pages of a folio.
    """

    order: int
    frames: Index
    folios: Numbers
    pages: Numbers | int
    keys: npt.NDArray[np.intp] | None = None
    folio_keys: npt.NDArray[np.intp] | None = None
    runs: npt.NDArray[np.intp] | None = None

    def view(self, column: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """A per-frame column as `frames` numbers it."""
        return blocks_of(column, max(self.order, 0))

    def per_folio(self, marked: npt.NDArray[np.bool_]) -> Numbers:
        """How many of the marked entries each folio has."""
        if self.keys is None:
            return (np.count_nonzero(marked, axis=1) if self.order > 0 else marked).astype(np.int32)
        return self._tally(self.keys[marked])

    def in_two_runs(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether two runs of a folio have marked entries."""
        if self.keys is None or self.runs is None or len(self.runs) == len(self.folios):
            return np.zeros(len(self.folios), np.bool_)
        found = np.logical_or.reduceat(marked, self.runs)
        return self._tally(self.keys[self.runs[found]]) > 1

    def _tally(self, keys: npt.NDArray[np.intp]) -> Numbers:
        assert self.folio_keys is not None
        return np.bincount(keys, minlength=int(self.folio_keys[-1]) + 1)[self.folio_keys].astype(np.int32)


def mapped_folios(memory: Memory, pfns: Numbers, vpns: npt.NDArray[np.intp] | int) -> Mapped:
    """Describe entries that map `pfns`, in order; `vpns` are their pages, or the first where those are consecutive.

    Runs end with their page table: `zap_pte_range` unmaps a folio that lies across two in two goes.
    """
    order = int(memory.order[memory.folio_of[pfns[0]]])
    heads = vpns if isinstance(vpns, int) else vpns[:: 1 << order]
    across = order > 0 and bool(np.any(heads & ((1 << order) - 1)))
    whole = None if across else _whole_folios(memory, pfns, order)
    if whole is not None:
        return whole
    frames = as_slice(pfns)
    folio_of = memory.folio_of[frames]
    cut = (folio_of[1:] != folio_of[:-1]) | (pfns[1:] - pfns[:-1] != 1)
    if isinstance(vpns, int):
        cut[(-vpns - 1) % PTRS_PER_PMD :: PTRS_PER_PMD] = True
    else:
        cut |= (vpns[1:] - vpns[:-1] != 1) | (vpns[1:] % PTRS_PER_PMD == 0)
    runs = np.concatenate((np.zeros(1, np.intp), np.flatnonzero(cut) + 1))
    low, high = int(folio_of.min()), int(folio_of.max())
    if high - low <= 4 * len(pfns):
        keys = folio_of.astype(np.intp) - low
        counts = np.bincount(keys)
        folio_keys = np.flatnonzero(counts)
        folios = (folio_keys + low).astype(np.int32)
    else:
        folios, keys = np.unique(folio_of, return_inverse=True)
        counts = np.bincount(keys)
        folio_keys = np.arange(len(folios))
    return Mapped(-1, frames, folios, counts[folio_keys].astype(np.int32), keys, folio_keys, runs)


def _whole_folios(memory: Memory, pfns: Numbers, order: int) -> Mapped | None:
    size = 1 << order
    frames = as_slice(pfns)
    blocks = whole_groups(frames, order)
    if blocks is None:
        return None
    folios = memory.folio_of[frames if order == 0 else pfns[::size]]
    orders = rows_at(memory.order, as_slice(folios))
    if bool((orders != order).any()):
        return None
    return Mapped(order, blocks, folios, size)


def folios_add_new_anon_rmap(memory: Memory, at: Index, block: Index, order: int, mm_id: int) -> None:
    """`folio_add_new_anon_rmap` for fresh folios of one order in these blocks of frames, each mapped whole."""
    blocks_of(memory.mapcount, order)[block] = 1
    blocks_of(memory.anon_exclusive, order)[block] = memory.marks_exclusive
    memory.nr_mapped[at] = 1 << order
    if order:
        memory.large_mapcount[at] = 1 << order
        memory.mm_id[at, 0] = mm_id
        memory.mm_id_mapcount[at, 0] = 1 << order


def whole_groups(frames: Index, order: int) -> Index | None:
    """The aligned groups of 2**order frames that these consist of, each from its first frame on; else None."""
    size = 1 << order
    if order == 0:
        return frames
    if isinstance(frames, slice):
        if not is_forward(frames) or (frames.start | frames.stop) & (size - 1):
            return None
        return slice(frames.start >> order, frames.stop >> order)
    heads = frames[::size]
    if len(frames) & (size - 1) or bool((heads & (size - 1)).any()):
        return None
    follows = frames[1:] - frames[:-1] == 1
    follows[size - 1 :: size] = True
    return heads >> order if bool(follows.all()) else None


def owners_of(memory: Memory, frames: Index) -> tuple[Index, Numbers | int]:
    """The folios that frames, all different, belong to, each once, and how many of the frames are each one's."""
    level = GROUP_ORDER
    groups = whole_groups(frames, level)
    owners = None if groups is None else memory.folio_of.groups(groups)
    if owners is None:
        level, owners = 0, memory.folio_of[frames]
    at = as_slice(owners)
    if bool((rows_at(memory.order, at) == level).all()):
        return at, 1 << level
    low, high = int(owners.min()), int(owners.max())
    if high - low > 4 * len(owners):
        folios, counts = np.unique(owners, return_counts=True)
        return as_slice(folios), counts.astype(np.int32) << level
    counts = np.bincount(owners - low)
    found = np.flatnonzero(counts)
    return as_slice(found + low, rising=True), counts[found].astype(np.int32) << level


def folios_dup_anon_rmap_ptes(memory: Memory, frames: Index, mm_id: int) -> int:
    """`folio_dup_anon_rmap_ptes` and the references of `folio_get`, for frames that one process maps, in any order.

    It maps none of them twice, so that each count goes up by one. Returns how many they are.
    """
    memory.mapcount[frames] += 1
    memory.anon_exclusive[frames] = False
    at, pages = owners_of(memory, frames)
    memory.refcount[at] += pages
    large = rows_at(memory.order, at) > 0
    if bool(large.all()):
        folios_add_large_mapcount(memory, at, pages, mm_id)
    elif bool(large.any()):
        folios_add_large_mapcount(memory, numbers_of(at)[large], _of(pages, large), mm_id)
    return pages * len(large) if isinstance(pages, int) else int(pages.sum())


def folios_remove_rmap_ptes(memory: Memory, mapped: Mapped, mm_id: int, *, singly: bool = False) -> Numbers:
    """`folio_remove_rmap_ptes` and the dropped references for all that a stretch maps; returns what must be freed.

    Where single calls would meet a folio in two runs that both leave pages unmapped, the first of them finds pages
    still mapped: partially mapped for good. `singly`: the calls would be one a page.
    """
    view = mapped.view(memory.mapcount)
    left = rows_at(view, mapped.frames) - view.dtype.type(1)
    view[mapped.frames] = left
    at = as_slice(mapped.folios)
    refcount = (
        memory.refcount[at] - np.int32(mapped.pages)
        if isinstance(mapped.pages, int)
        else (memory.refcount[at] - mapped.pages)
    )
    memory.refcount[at] = refcount
    if mapped.order == 0:
        memory.nr_mapped[at] = left > 0
        return np.asarray(mapped.folios[refcount == 0])
    gone = left == 0
    unmapped = mapped.per_folio(gone)
    twice = unmapped > 1 if singly else mapped.in_two_runs(gone)
    if mapped.order > 0:
        folios_sub_large_mapcount(memory, mapped.folios, mapped.pages, mm_id)
    else:
        large = memory.order[at] > 0
        assert not isinstance(mapped.pages, int)
        folios_sub_large_mapcount(memory, mapped.folios[large], mapped.pages[large], mm_id)
    folios_unmap_pages(memory, mapped.folios, unmapped, twice)
    return np.asarray(mapped.folios[refcount == 0])


def folios_unmap_pages(memory: Memory, folios: Numbers, unmapped: Numbers, twice: npt.NDArray[np.bool_]) -> None:
    """Folios lost the last mapping of `unmapped` pages, where `twice` says so in more than one go."""
    at = as_slice(folios)
    nr_mapped = memory.nr_mapped[at] - unmapped.astype(np.int16)
    memory.nr_mapped[at] = nr_mapped
    partial = (twice | ((unmapped > 0) & (nr_mapped > 0))) & (memory.entire_mapcount[at] == 0)
    if bool(partial.any()):
        partial &= memory.order[at] > 0
        memory.partially_mapped[folios[partial]] = True


def _by_slots(memory: Memory, at: Index) -> Iterator[tuple[Index, Index, list[int]]]:
    """Folios grouped by the two mms in their slots: (which of `at`, these folios as an index, the mms).

    All that fork and exit meet in one stretch is nearly always one group, and what happens to it is decided once.
    """
    pairs = rows_at(memory.mm_id.view(np.int64).reshape(-1), at)
    if bool((pairs == pairs[:1]).all()):
        if len(pairs):
            yield slice(None), at, pairs[:1].view(np.int32).tolist()
        return
    folios = numbers_of(at)
    different, group_of = np.unique(pairs, return_inverse=True)
    for group in range(len(different)):
        chosen = np.flatnonzero(group_of == group)
        yield chosen, folios[chosen], different[group : group + 1].view(np.int32).tolist()


def _of(each: Numbers | int, chosen: Index | npt.NDArray[np.bool_]) -> Numbers | int:
    return each if isinstance(each, int) else each[chosen]


def folios_add_large_mapcount(memory: Memory, at: Index, mappings: Numbers | int, mm_id: int) -> None:
    """`folio_add_large_mapcount` for folios that are all different."""
    for chosen, here, slots in _by_slots(memory, at):
        more = _of(mappings, chosen)
        mapcount = memory.large_mapcount[here]
        memory.large_mapcount[here] = mapcount + np.asarray(more, np.int32)
        if mm_id in slots:
            memory.mm_id_mapcount[here, slots.index(mm_id)] += more
        elif 0 in slots:
            memory.mm_id[here, slots.index(0)] = mm_id
            memory.mm_id_mapcount[here, slots.index(0)] = more
            memory.maybe_mapped_shared[here] |= mapcount > 0


def folios_sub_large_mapcount(memory: Memory, folios: Numbers, mappings: Numbers | int, mm_id: int) -> None:
    """`folio_sub_large_mapcount` for folios that are all different.

    One call for several pages equals one call for each: no slot counts more than its mm has mapped, so the shared
    bit cannot clear before the last page of an mm goes, and then the last call decides.
    """
    for chosen, at, slots in _by_slots(memory, as_slice(folios)):
        fewer = np.asarray(_of(mappings, chosen), np.int32)
        left = memory.large_mapcount[at] - fewer
        memory.large_mapcount[at] = left
        gone: npt.NDArray[np.bool_] | bool = True
        if mm_id in slots:
            slot = slots.index(mm_id)
            count = memory.mm_id_mapcount[at, slot] - fewer
            gone = count <= 0
            memory.mm_id[at, slot] = np.where(gone, np.int32(0), np.int32(mm_id))
            memory.mm_id_mapcount[at, slot] = np.where(gone, 0, count)
        first, second = memory.mm_id_mapcount[at, 0], memory.mm_id_mapcount[at, 1]
        memory.maybe_mapped_shared[at] &= ~(gone & ((left == 0) | (first == left) | (second == left)))
