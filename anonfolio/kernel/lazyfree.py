"""MADV_FREE, MADV_COLD, clear_refs: pages that may go first when memory gets short. No reclaim runs here."""

from __future__ import annotations

from collections.abc import Iterator

from . import contpte
from .mm import Mm
from .pagetable import MKCLEAN, MKOLD, PMD_NONE, PTE_SPECIAL, Run
from .sizes import PTRS_PER_PMD
from .split import split_folio


def madvise_free(mm: Mm, start: int, end: int) -> None:
    """Nobody needs what these pages hold: clean, old and lazily freed from now on (`madvise_free_pte_range`).

    A write makes the entry dirty, which saves the page; until memory gets short the bytes stay. A folio that is marked
    dirty itself is left alone where others map it, too; one that is not is taken.
    """
    memory = mm.memory
    for run in _whole_folios(mm, start, end, cold=False):
        if memory.dirty[run.folio] and not _maps_all(mm, run):
            continue
        memory.dirty[run.folio] = False
        mm.pte[run.vpn : run.vpn + run.pages] &= MKOLD & MKCLEAN
        memory.lazyfree[run.folio] = True


def madvise_cold(mm: Mm, start: int, end: int) -> None:
    """These pages are not needed soon: old, and as dirty as they are (`madvise_cold_or_pageout_pte_range`)."""
    for run in _whole_folios(mm, start, end, cold=True):
        if _maps_all(mm, run):
            mm.pte[run.vpn : run.vpn + run.pages] &= MKOLD


def clear_refs(mm: Mm) -> None:
    """/proc/PID/clear_refs, 1: every page is old from now on but single zero pages (`clear_refs_pte_range`)."""
    for vma in mm.vmas:
        for start, end in mm.pmd_ranges(vma.start, vma.end):
            entries = mm.pte[start:end]
            entries[mm.is_huge(start) | ((entries & PTE_SPECIAL) == 0)] &= MKOLD


def _maps_all(mm: Mm, run: Run) -> bool:
    """Whether a folio has no mappings but these, which map it whole; under a PMD that was asked already."""
    if not mm.memory.is_large(run.folio):
        return bool(mm.memory.mapcount[run.pfn] == 1)
    return mm.is_huge(run.vpn) or bool(mm.memory.large_mapcount[run.folio] == run.pages)


def _whole_folios(mm: Mm, start: int, end: int, *, cold: bool) -> Iterator[Run]:
    """The folios that lie whole in [start, end); one that does not is split first, if nobody else seems to map it."""
    for first, stop in mm.pmd_ranges(start, end):
        if mm.pmd[first >> 9] == PMD_NONE or (mm.is_huge(first) and mm.pte[first] & PTE_SPECIAL):
            continue
        if mm.is_huge(first):
            pfn = int(mm.pfn[first])
            run = Run(first, pfn, stop - first, int(mm.memory.folio_of[pfn]))
            if _maybe_shared(mm, run.folio, pfn if cold else None):
                continue
            if run.pages == PTRS_PER_PMD:
                yield run
                continue
            if not split_folio(mm.memory, run.folio):
                continue
        yield from _whole_pte_folios(mm, first, stop, cold=cold)


def _whole_pte_folios(mm: Mm, start: int, end: int, *, cold: bool) -> Iterator[Run]:
    """The same of one page table. Before 6.10 no large folio stays whole, and one that cannot be split ends it."""
    whole = mm.policy.ages_whole_folios
    while batch := contpte.first_batch(mm, start, end):
        start = batch.vpn + batch.pages
        if not mm.memory.is_large(batch.folio) or (whole and batch.pages == mm.memory.nr_pages(batch.folio)):
            yield batch
            continue
        head = int(mm.memory.head[batch.folio])
        shared = _maybe_shared(mm, batch.folio, batch.pfn if cold else head)
        if not shared and split_folio(mm.memory, batch.folio):
            start = batch.vpn
        elif not whole:
            return


def _maybe_shared(mm: Mm, folio: int, pfn: int | None) -> bool:
    """Whether others may map a large folio: by its slots (6.15), by a guess from its first page, before 6.10 by a page.

    (`folio_maybe_mapped_shared`, 7.3; `folio_likely_mapped_shared`, 6.12; `page_mapcount`, `total_mapcount`, 6.1.)
    """
    memory = mm.memory
    if mm.policy.keeps_mm_ids:
        return bool(memory.maybe_mapped_shared[folio])
    mappings, entire = int(memory.large_mapcount[folio]), int(memory.entire_mapcount[folio])
    if not mm.policy.ages_whole_folios:
        return (mappings if pfn is None else int(memory.mapcount[pfn]) + entire) != 1
    many = entire > 0 or mappings > memory.nr_pages(folio) or bool(memory.mapcount[memory.head[folio]] > 1)
    return mappings > 1 and many
