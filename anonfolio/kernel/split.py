"""Splitting a folio into smaller ones: what MADV_FREE, debugfs and the shrinker ask for (mm/huge_memory.c)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import contpte
from .frames import Memory
from .mm import Mm
from .pagetable import MKCLEAN, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from .rmap import folio_add_large_mapcount
from .sizes import ZERO_PFN
from .vma import VM_LOCKED


def split_folio(memory: Memory, folio: int, order: int = 0) -> bool:
    """Make folios of 2**order pages of a larger one; False (EAGAIN) when somebody holds a reference (`__folio_split`).

    Every entry becomes a migration entry and comes back: write, accessed and dirty as they were, PageAnonExclusive,
    too. Pages that nobody maps are freed. From 6.12 on (b1f202060afe) a page that holds only zeros comes back as the
    zero page, if it is a folio of its own; not where a mapping is locked, nor in a process whose turn comes after one
    that has locked the page (`try_to_map_unused_to_zeropage`: the VMA is asked, and the folio, which
    `remove_migration_pte` locks again as it goes).
    """
    if memory.large_mapcount[folio] != memory.refcount[folio]:
        return False
    frames = memory.frames_of(folio)
    mappers = [(mm, vpns) for mm in memory.mms if len(vpns := _unmap(mm, frames))]
    memory.dirty[folio] |= any(bool((mm.pte[vpns] & PTE_DIRTY).any()) for mm, vpns in mappers)
    # The walk goes by page offset, then by age: who comes first gets the slots of what stays large.
    mappers.sort(key=lambda mapper: (_pgoff(*mapper), mapper[0].id))
    folios = memory.folio_split(folio, order)
    locked = np.zeros(frames.stop - frames.start, np.bool_)
    for mm, vpns in mappers:
        _remap(mm, vpns, folios, frames.start, order, locked)
    mapped = memory.mapcount[frames].reshape(-1, 1 << order)
    memory.refcount[folios] = mapped.sum(axis=1)
    memory.nr_mapped[folios] = np.count_nonzero(mapped, axis=1)
    gone = folios[memory.refcount[folios] == 0]
    memory.release_folios(gone, memory.head[gone], memory.order[gone])
    memory.clear_folios(gone)
    return True


def split_huge_pages_pid(mm: Mm, start: int, end: int, order: int) -> None:
    """Split what [start, end) maps, up to the first hole, as far as it is larger (`split_huge_pages_pid`, debugfs).

    Kernels before 6.9 do not read the order, and split to single pages. 5.10 takes no range at all, only every page of
    the machine; there this is a range of it.
    """
    order = order if mm.policy.splits_to_any_order else 0
    stop = start
    while stop < end and (vma := mm.find_vma(stop)):
        stop = vma.end
    for first, last in mm.pmd_ranges(start, min(stop, end)):
        for folio in dict.fromkeys(run.folio for run in mm.folio_runs(first, last)):
            if mm.memory.order[folio] > order:
                split_folio(mm.memory, folio, order)


def deferred_split_scan(memory: Memory) -> None:
    """Memory gets short: what is partly mapped is split, and pages that nobody maps are free (`deferred_split_scan`).

    From 6.12 on 2 MiB that are mostly zeros would be, too, were khugepaged's max_ptes_none not 511 (`thp_underused`):
    by that default none is, and no other is modelled. Locked ones are left out of that (7.2.13 and 7.3, not 6.12); what
    is partly mapped is split, locked or not.
    """
    for folio in memory.live_folios().tolist():
        if memory.partially_mapped[folio]:
            split_folio(memory, folio)


def _unmap(mm: Mm, frames: slice) -> npt.NDArray[np.intp]:
    """The pages that map any of these frames; by single entries from now on (`try_to_migrate`, TTU_SPLIT_HUGE_PMD)."""
    vpns: npt.NDArray[np.intp] = np.flatnonzero((mm.pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
    pfns = mm.pfn[vpns]
    vpns = vpns[(pfns >= frames.start) & (pfns < frames.stop)]
    if len(vpns) and mm.is_huge(int(vpns[0])):
        first, end = mm.block_of(int(vpns[0]))
        # Each entry takes the PMD's dirty bit with it, and no other, whatever a split else does (`freeze`).
        dirty = mm.pte[first] & PTE_DIRTY
        mm.split_huge_pmd(first)
        mm.pte[first:end] = mm.pte[first:end] & MKCLEAN & contpte.NONCONT | dirty
    contpte.try_unfold_each(mm, vpns)
    return vpns


def _pgoff(mm: Mm, vpns: npt.NDArray[np.intp]) -> int:
    vma = mm.find_vma(int(vpns[0]))
    return vma.pgoff if vma else 0


def _remap(
    mm: Mm,
    vpns: npt.NDArray[np.intp],
    folios: npt.NDArray[np.int32],
    head: int,
    order: int,
    locked: npt.NDArray[np.bool_],
) -> None:
    """Put entries back, one by one (`remove_migration_pte`); `locked` is kept up to date, per page of the old folio."""
    memory = mm.memory
    pfns = mm.pfn[vpns]
    mm.pte[vpns[(mm.pte[vpns] & PTE_WRITE) > 0]] |= mm.mkwrite
    if order:
        at, counts = np.unique((pfns - head) >> order, return_counts=True)
        for folio, count in zip(folios[at].tolist(), counts.tolist(), strict=True):
            folio_add_large_mapcount(memory, folio, mm.id, count)
        contpte.try_fold_each(mm, vpns)
    elif mm.policy.split_maps_zero_page:
        for vma in mm.vmas_in(int(vpns[0]), int(vpns[-1]) + 1):
            # What is locked must not fault at the next write.
            if vma.flags & VM_LOCKED:
                locked[pfns[(vpns >= vma.start) & (vpns < vma.end)] - head] = True
        unused = (memory.content[pfns] == 0) & ~locked[pfns - head]
        mm.own_pfns()[vpns[unused]] = ZERO_PFN
        mm.pte[vpns[unused]] = PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL
        memory.mapcount[pfns[unused]] -= 1
        mm.rss_pages -= int(np.count_nonzero(unused))
