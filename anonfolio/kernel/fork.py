"""fork: write-protect both sides and share, or copy what is pinned (kernel/fork.c, mm/mmap.c, mm/memory.c)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import contpte
from .buddy import OutOfMemory
from .frames import Memory
from .index import Index
from .mm import Mm
from .pagetable import (
    MANY_PAGES,
    MKOLD,
    PMD_HUGE,
    PMD_NONE,
    PMD_TABLE,
    PTE_DIRTY,
    PTE_GUARD,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    PTE_YOUNG,
    STRETCH_PAGES,
    WRPROTECT,
    Run,
    stretches,
)
from .record import Counters
from .rmap import (
    folio_add_new_anon_rmap,
    folio_dup_anon_rmap_pmd,
    folio_dup_anon_rmap_ptes,
    folios_dup_anon_rmap_ptes,
)
from .sizes import PTRS_PER_PMD
from .vma import VM_COPY_ON_FORK, VM_DONTCOPY, VM_LOCKED_MASK, VM_WIPEONFORK, VM_WRITE, Vma


class ForkFailed(Exception):
    """fork ran out of something on the way: what it had shared stays write-protected and maybe shared."""


def dup_mmap(
    mm: Mm, child: Mm, counters: Counters, *, fail_at: Vma | None = None, fail_after_pages: int | None = None
) -> None:
    """Copy the VMAs of `mm` and what they map, lowest first (`dup_mmap`, 6.1-7.3).

    MADV_DONTFORK leaves a VMA out, MADV_WIPEONFORK copies it empty. A VMA that never held an anonymous page has
    nothing to copy (`vma_needs_copy`): its zero-page entries do not appear in the child, unless it had guard pages.

    Parameters
    ----------
    counters : Counters
        Where pages that are copied for the child are counted, also those of a fork that fails later.
    fail_at : Vma, optional
        Fail when this VMA's turn comes, as `security_vm_enough_memory_mm` does.
    fail_after_pages : int, optional
        Fault injection: fail after that many entries were copied, wherever that is. No kernel since 6.9 fails
        inside a run of equal entries of one folio, but of one that may be pinned: its pages are copied singly.

    Raises
    ------
    ForkFailed
        The child is unfinished; the caller tears it down.
    """
    budget = _Budget(fail_after_pages)
    # Ids count up from 1: there are at most as many processes.
    mm.memory.make_room_for_mms(child.id)
    child.map_as(mm)
    child.thp_disabled, child.arena = mm.thp_disabled, mm.arena
    child.start_brk, child.brk = mm.start_brk, mm.brk
    for vma in mm.vmas:
        if vma.flags & VM_DONTCOPY:
            continue
        if vma is fail_at:
            raise ForkFailed(f"no memory for mapping {vma.start}..{vma.end - 1}")
        copy = vma.copy()
        copy.flags &= ~VM_LOCKED_MASK
        child.insert_vma(copy)
        if vma.flags & VM_WIPEONFORK:
            copy.anon_vma, copy.chain = 0, frozenset()
            continue
        if vma.anon_vma:
            copy.anon_vma = child.new_anon_vma()
            copy.chain = vma.chain | {copy.anon_vma}
        elif not vma.flags & VM_COPY_ON_FORK:
            continue
        copy_page_range(mm, child, vma, counters, budget)
    budget.fail()


class _Budget:
    """Entries that may still be copied before the injected failure; None for no failure."""

    def __init__(self, pages: int | None) -> None:
        self.pages = pages

    def spend(self, wanted: int) -> int:
        """How many of `wanted` entries may be copied now; ForkFailed when the budget is used up."""
        if self.pages is None:
            return wanted
        if self.pages == 0:
            self.fail()
        granted = min(wanted, self.pages)
        self.pages -= granted
        return granted

    def fail(self) -> None:
        """Raise ForkFailed if this fork was to fail at all."""
        if self.pages is not None:
            raise ForkFailed("injected failure")


def copy_page_range(mm: Mm, child: Mm, vma: Vma, counters: Counters, budget: _Budget) -> None:
    """Share what one VMA maps, PMD by PMD (`copy_page_range`). The child has page tables where the parent has.

    Where nothing can stop the fork half-way and no pin asks for copies, many page tables are shared at once.
    """
    many = vma.end - vma.start >= MANY_PAGES and not mm.policy.cont_pte_order
    if many and budget.pages is None and not mm.has_pinned:
        for start, end, state in mm.pmd_stretches(vma.start, vma.end):
            if state == PMD_TABLE:
                copy_pte_tables(mm, child, start, end)
            elif state == PMD_HUGE:
                for first, stop in mm.pmd_ranges(start, end):
                    copy_huge_pmd(mm, child, first, stop, budget)
        return
    for start, end in mm.pmd_ranges(vma.start, vma.end):
        if mm.pmd[start >> 9] == PMD_NONE:
            continue
        if mm.is_huge(start) and copy_huge_pmd(mm, child, start, end, budget):
            continue
        child.pte_alloc(start)
        copy_pte_range(mm, child, vma, start, end, counters, budget)


def copy_pte_tables(mm: Mm, child: Mm, start: int, end: int) -> None:
    """`copy_pte_range` for all page tables of [start, end) at once; none of the folios is pinned."""
    child.pmd[start >> 9 : -(-end // PTRS_PER_PMD)] = PMD_TABLE
    for frames in mm.frames_in(start, end):
        child.rss_pages += folios_dup_anon_rmap_ptes(mm.memory, frames, child.id)
    # Zero-page entries are never writable: taking the bit from all of them is the same.
    _share_ptes(mm, child, start, end)


def copy_huge_pmd(mm: Mm, child: Mm, start: int, end: int, budget: _Budget) -> bool:
    """Share a PMD mapping whole; False after splitting it, because a pin asks for a copy (`copy_huge_pmd`)."""
    memory = mm.memory
    if budget.pages is not None and budget.pages < end - start:
        mm.split_huge_pmd(start)
        return False
    if not mm.pte[start] & PTE_SPECIAL:
        head = mm.pfn.item(start)
        folio = int(memory.folio_of[head])
        if folio_needs_cow_for_dma(mm, folio) and _cannot_be_shared(mm, slice(head, head + 1)).item(0):
            mm.split_huge_pmd(start)
            return False
        memory.folio_get(folio)
        folio_dup_anon_rmap_pmd(memory, folio, child.id)
        child.rss_pages += end - start
    budget.spend(end - start)
    _share_entries(mm, child, start, end)
    child.pmd[start >> 9] = PMD_HUGE
    return True


def copy_pte_range(mm: Mm, child: Mm, vma: Vma, start: int, end: int, counters: Counters, budget: _Budget) -> None:
    """Share the entries of one page table: zero pages and markers as they are, folios run by run (`copy_pte_range`)."""
    if budget.pages is not None:
        mapped = [vpn for vpn in range(start, end) if mm.pte[vpn]]
        granted = budget.spend(len(mapped)) if mapped else 0
        if granted < len(mapped):
            copy_pte_range(mm, child, vma, start, mapped[granted], counters, _Budget(None))
            budget.fail()
    for run in mm.folio_runs(start, end):
        copy_present_ptes(mm, child, vma, run, counters)
    no_folio = (mm.pte[start:end] & (PTE_SPECIAL | PTE_GUARD)) > 0
    child.pte[start:end][no_folio] = mm.pte[start:end][no_folio] & MKOLD


def copy_present_ptes(mm: Mm, child: Mm, vma: Vma, run: Run, counters: Counters) -> None:
    """Share a run of entries of one folio, or copy its exclusive pages if the folio is pinned (`copy_present_ptes`).

    The pin test is per folio: one pinned page makes the child copy every exclusive page of it. Pages that are
    maybe shared cannot be pinned, and are shared further: by batches, where no page of the batch is exclusive (-EAGAIN
    else has one page done by itself; 6.12, 7.3).
    """
    copied = _cannot_be_shared(mm, slice(run.pfn, run.pfn + run.pages))
    if not (copied.any() and folio_needs_cow_for_dma(mm, run.folio)):
        _share_run(mm, child, run)
        return
    done = 0
    while done < run.pages:
        page = Run(run.vpn + done, run.pfn + done, 1, run.folio)
        if copied[done]:
            copy_present_page(child, vma, page, mm.memory)
            counters.copied += 1
            done += 1
            continue
        batch = contpte.first_batch(mm, page.vpn, run.vpn + run.pages, PTE_DIRTY) or page
        shared = page if copied[done : done + batch.pages].any() else batch
        _share_run(mm, child, shared)
        done += shared.pages


def _cannot_be_shared(mm: Mm, pfns: Index) -> npt.NDArray[np.bool_]:
    """Which pages fork copies if they may be pinned: exclusive ones; all of them where nothing says so (5.10)."""
    exclusive = mm.memory.anon_exclusive[pfns]
    return exclusive if mm.policy.marks_exclusive else np.ones_like(exclusive)


def folio_needs_cow_for_dma(mm: Mm, folio: int) -> bool:
    """Whether this process ever pinned anything and the folio may be pinned now (`folio_needs_cow_for_dma`)."""
    return mm.has_pinned and mm.memory.maybe_dma_pinned(folio)


def copy_present_page(child: Mm, vma: Vma, page: Run, memory: Memory) -> None:
    """The child gets a page of its own, exclusive and writable; the parent's stays as it is (`copy_present_page`)."""
    folio = memory.folio_alloc(0)
    if folio is None:
        raise OutOfMemory(f"no frame is free for the child's copy of pinned page {page.vpn}")
    pfn = int(memory.head[folio])
    memory.content[pfn] = memory.content[page.pfn]
    folio_add_new_anon_rmap(memory, folio, child.id)
    writable = PTE_WRITE if vma.flags & VM_WRITE else 0
    child.set_ptes(page.vpn, pfn, 1, PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | writable)
    child.rss_pages += 1


def _share_run(mm: Mm, child: Mm, run: Run) -> None:
    mm.memory.folio_get(run.folio, run.pages)
    folio_dup_anon_rmap_ptes(mm.memory, run.folio, run.pfn, run.pages, child.id)
    _share_ptes(mm, child, run.vpn, run.vpn + run.pages)
    child.rss_pages += run.pages


def _share_ptes(mm: Mm, child: Mm, start: int, end: int) -> None:
    share = contpte.copy_ptes if mm.policy.cont_pte_order else _share_entries
    share(mm, child, start, end)


def _share_entries(mm: Mm, child: Mm, start: int, end: int) -> None:
    """`__copy_present_ptes`: the parent's entries lose the write bit, the child's are the same and not young.

    Frames and all: the child's `pfn` is the parent's (`Mm.map_as`).
    """
    for first, stop in stretches(start, end, STRETCH_PAGES):
        bits = mm.pte[first:stop]
        bits &= WRPROTECT
        np.bitwise_and(bits, MKOLD, out=child.pte[first:stop])
