"""MADV_COLLAPSE: 2 MiB in place of what a page table maps, whatever the knobs say (mm/khugepaged.c, 6.1 and later).

khugepaged makes smaller folios, too, from 7.2 on; MADV_COLLAPSE does not (`collapse_possible_orders`, 7.3).
"""

from __future__ import annotations

import numpy as np

from . import contpte
from .mm import Mm
from .pagetable import PMD_HUGE, PMD_NONE, PTE_DIRTY, PTE_GUARD, PTE_PRESENT, PTE_WRITE, PTE_YOUNG
from .refused import Refused
from .rmap import folio_add_new_anon_rmap, folio_remove_rmap_ptes
from .sizes import PMD_ORDER, PTRS_PER_PMD
from .vma import VM_NOHUGEPAGE, VM_WRITE, Vma

ERRNO = {"SCAN_ALLOC_HUGE_PAGE_FAIL": "ENOMEM", "SCAN_PAGE_COUNT": "EAGAIN"}
"""What is not EINVAL (`madvise_collapse_errno`)."""
GO_ON = ("SCAN_NO_PTE_TABLE", "SCAN_PAGE_COUNT", "SCAN_PAGE_RO")
"""After these the next 2 MiB are tried."""


def madvise_collapse(mm: Mm, start: int, end: int) -> None:
    """Collapse each whole 2 MiB of [start, end), part of one VMA; the last one that fails says why."""
    vma = mm.find_vma(start)
    assert vma is not None
    first, last = -(-start // PTRS_PER_PMD), end // PTRS_PER_PMD
    failed = "" if collapse_possible(mm, vma) else "SCAN_VMA_CHECK"
    if not failed and last < first and not mm.policy.collapse_takes_small_ranges:
        failed = "SCAN_FAIL"
    for block in range(first, last if not failed else first):
        result = collapse_scan_pmd(mm, vma, block * PTRS_PER_PMD)
        failed = result or failed
        if result and (result not in GO_ON or (result == "SCAN_NO_PTE_TABLE" and mm.policy.collapse_stops_at_hole)):
            break
    if failed:
        raise Refused(ERRNO.get(failed, "EINVAL"), failed)


def collapse_possible(mm: Mm, vma: Vma) -> bool:
    """Whether a VMA may hold 2 MiB at all and has pages; no knob is asked (`__thp_vma_allowable_orders`)."""
    last = (vma.end - PTRS_PER_PMD) & -PTRS_PER_PMD
    allowed = not vma.flags & VM_NOHUGEPAGE and mm.thp_disabled != "disabled"
    return allowed and vma.anon_vma != 0 and last >= vma.start


def collapse_scan_pmd(mm: Mm, vma: Vma, start: int) -> str:
    """Collapse 2 MiB, or say why not; empty when a PMD maps them afterwards.

    (`hpage_collapse_scan_pmd`, 6.1-6.12; `collapse_scan_pmd`, 7.3.)
    """
    memory, state, end = mm.memory, mm.pmd[start >> 9], start + PTRS_PER_PMD
    if state == PMD_HUGE:
        return ""
    if state == PMD_NONE:
        return "SCAN_NO_PTE_TABLE"
    runs = mm.folio_runs(start, end)
    for run in runs:
        # Pins and other references, as in a split.
        mapped = memory.large_mapcount[run.folio] if memory.is_large(run.folio) else memory.mapcount[run.pfn]
        if mapped != memory.refcount[run.folio]:
            return "SCAN_PAGE_COUNT"
    if mm.policy.collapse_needs_writable and not np.any(mm.pte[start:end] & PTE_WRITE):
        return "SCAN_PAGE_RO"
    folio = memory.folio_alloc(PMD_ORDER)
    if folio is None:
        return "SCAN_ALLOC_HUGE_PAGE_FAIL"
    if np.any(mm.pte[start:end] & PTE_GUARD):
        # To fault in what is no page and not none kills (`__collapse_huge_page_swapin`).
        memory.folio_put(folio)
        return "SCAN_FAIL"
    collapse_huge_page(mm, vma, start, folio)
    return ""


def collapse_huge_page(mm: Mm, vma: Vma, start: int, folio: int) -> None:
    """Copy what is mapped, let go of it, and map the new folio in place of the page table (`collapse_huge_page`)."""
    memory, head, end = mm.memory, int(mm.memory.head[folio]), start + PTRS_PER_PMD
    for run in mm.folio_runs(start, end):
        at = head + run.vpn - start
        memory.content[at : at + run.pages] = memory.content[run.pfn : run.pfn + run.pages]
        folio_remove_rmap_ptes(memory, run.folio, run.pfn, run.pages, mm.id)
        memory.folio_put(run.folio, run.pages)
        mm.rss_pages -= run.pages
    if not mm.policy.batches_ptes:
        # Each entry by itself, by `ptep_clear`, which unfolds what is folded; later kernels clear batches.
        contpte.contpte_try_unfold(mm, start, end)
    contpte.clear_ptes(mm, start, end)
    folio_add_new_anon_rmap(memory, folio, mm.id, pmd=True)
    bits = PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | (PTE_WRITE if vma.flags & VM_WRITE else 0)
    mm.set_ptes(start, head, PTRS_PER_PMD, bits)
    mm.pmd[start >> 9] = PMD_HUGE
    mm.rss_pages += PTRS_PER_PMD
