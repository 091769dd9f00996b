"""mmap, munmap, mremap, mprotect, madvise, exit: what makes, takes away or changes mappings (mm/mmap.c and neighbours).

Each function is one system call, returns None or a page when the kernel would succeed, and raises `Refused` with the
errno otherwise; what it did before it was refused stays done, as in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from . import contpte
from .collapse import madvise_collapse
from .gup import BadAddress, faultin_page_range, populate_vma_page_range, unpin_user_pages
from .index import ascending
from .lazyfree import madvise_cold, madvise_free
from .mm import Mm
from .pagetable import (
    MANY_PAGES,
    PMD_HUGE,
    PMD_NONE,
    PMD_TABLE,
    PTE_DIRTY,
    PTE_GUARD,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    STRETCH_PAGES,
    WRPROTECT,
    stretches,
)
from .record import Fault
from .refused import Refused as Refused
from .rmap import folio_remove_rmap_pmd, folio_remove_rmap_ptes, folios_remove_rmap_ptes, mapped_folios
from .sizes import PTRS_PER_PMD, STACK_GUARD_GAP
from .system import System
from .vma import (
    VM_ACCESS_FLAGS,
    VM_DONTCOPY,
    VM_GROWSDOWN,
    VM_HUGEPAGE,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAYBE_GUARD,
    VM_MTE_ALLOWED,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_READ,
    VM_UNACCOUNTED,
    VM_WIPEONFORK,
    VM_WRITE,
    Vma,
)

ADVICE: dict[str, tuple[int, int]] = {
    "wipeonfork": (VM_WIPEONFORK, 0),
    "keeponfork": (0, VM_WIPEONFORK),
    "dontfork": (VM_DONTCOPY, 0),
    "dofork": (0, VM_DONTCOPY),
    "hugepage": (VM_HUGEPAGE, VM_NOHUGEPAGE),
    "nohugepage": (VM_NOHUGEPAGE, VM_HUGEPAGE),
}
"""Advice that changes a VMA's flags -> (flags set, flags cleared) (`madvise_vma_behavior`)."""


def do_mmap(mm: Mm, start: int | None, pages: int, flags: int, *, replace: bool) -> int:
    """Map anonymous private memory; returns its first page (`do_mmap`, `mmap_region`).

    `start` None is no hint; else what is there goes, or refuses where it may not be replaced (MAP_FIXED_NOREPLACE).
    """
    if start is None:
        start = get_unmapped_area(mm, pages)
    elif replace:
        do_munmap(mm, start, start + pages)
    elif mm.vmas_in(start, start + pages):
        raise Refused("EEXIST", f"something of {start}..{start + pages - 1} is mapped already")
    # What is not writable is not charged, nor what is mapped with MAP_NORESERVE (`accountable_mapping`).
    charged = flags & VM_WRITE and not flags & VM_NORESERVE
    vma = Vma(start, start + pages, flags if charged else flags | VM_UNACCOUNTED, pgoff=start)
    if mm.vma_merge_new_range(vma) is None:
        mm.insert_vma(vma)
    return start


def get_unmapped_area(mm: Mm, pages: int) -> int:
    """Where a mapping goes that asks for no place: to the end of the topmost gap that holds it (`__get_unmapped_area`).

    What the policy aligns for large folios goes to a 2 MiB boundary, if there is room for as much more
    (`thp_get_unmapped_area_vmflags`, 6.12; a place that is aligned as it is moves up by that).
    """
    aligned = mm.policy.thp_aligns_mmap
    if (aligned == "larger" and pages >= PTRS_PER_PMD) or (aligned == "multiples" and pages % PTRS_PER_PMD == 0):
        gap = mm.highest_gap(pages + PTRS_PER_PMD)
        if gap is not None:
            return gap + PTRS_PER_PMD - gap % PTRS_PER_PMD
    found = mm.highest_gap(pages)
    if found is None:
        raise Refused("ENOMEM", f"no gap of the arena holds {pages} pages")
    return found


def do_brk(mm: Mm, end: int) -> None:
    """Move the end of the heap, `end` being the page after it (`brk`, `do_brk_flags`; 6.1-7.3).

    It grows only while a page stays free above it. What it gains joins the mapping that ends the heap, never one above.
    """
    if end < mm.start_brk:
        raise Refused("ENOMEM", f"the heap begins at page {mm.start_brk}")
    oldest = mm.next_vma(min(end, mm.brk))
    if end < mm.brk:
        if oldest is None or oldest.start >= mm.brk:
            raise Refused("ENOMEM", f"nothing of the heap is mapped from page {end} on")
        do_munmap(mm, end, mm.brk)
    elif end > mm.brk:
        if oldest and end + 1 > oldest.start_gap:
            raise Refused("ENOMEM", f"a mapping at page {oldest.start} is in the way")
        flags = VM_READ | VM_WRITE | (0 if mm.policy.heap_joins_mmap else VM_MTE_ALLOWED)
        new = Vma(mm.brk, end, flags, pgoff=mm.brk)
        heap = mm.find_vma(mm.brk - 1) if mm.brk > mm.start_brk else None
        if heap is None or mm.vma_merge_new_range(new) is None:
            mm.insert_vma(new)
    mm.brk = end


def expand_stack(mm: Mm, vpn: int) -> Vma | None:
    """The VMA that contains page `vpn` after a stack above has grown down to it, if one may (`expand_downwards`).

    Not nearer than the gap to an accessible mapping below that is no stack itself. RLIMIT_STACK is not modelled.
    """
    vma = mm.next_vma(vpn)
    if vma is None or vma.start <= vpn or not vma.flags & VM_GROWSDOWN:
        return vma if vma and vma.start <= vpn else None
    below, _ = mm.neighbours(vma)
    near = below is not None and vpn - below.end < STACK_GUARD_GAP
    if below and near and below.flags & VM_ACCESS_FLAGS and not below.flags & VM_GROWSDOWN:
        return None
    mm.anon_vma_prepare(vma)
    vma.pgoff -= vma.start - vpn
    vma.start = vpn
    return vma


def zap_page_range(mm: Mm, start: int, end: int) -> None:
    """Unmap what [start, end) maps: rmap, references, RSS; a huge mapping that is not covered whole is split first.

    (`zap_pte_range`, `zap_huge_pmd`, 6.1-7.3; `zap_present_folio_ptes`, 6.12-7.3.)
    """
    for pin in mm.pins:
        pin.forget(start, end)
    if end - start >= MANY_PAGES and not mm.policy.cont_pte_order:
        for first, stop, state in mm.pmd_stretches(start, end):
            if state == PMD_TABLE:
                _zap_pte_tables(mm, first, stop)
            elif state == PMD_HUGE:
                _zap_pmds(mm, first, stop)
        return
    _zap_pmds(mm, start, end)


def _zap_pmds(mm: Mm, start: int, end: int) -> None:
    for first, stop in mm.pmd_ranges(start, end):
        if mm.is_huge(first) and stop - first < PTRS_PER_PMD:
            mm.split_huge_pmd(first)
        if mm.is_huge(first):
            _zap_huge_pmd(mm, first)
        elif mm.pmd[first >> 9] == PMD_TABLE:
            for run in mm.folio_runs(first, stop):
                folio_remove_rmap_ptes(mm.memory, run.folio, run.pfn, run.pages, mm.id)
                mm.memory.folio_put(run.folio, run.pages)
                mm.rss_pages -= run.pages
        contpte.clear_ptes(mm, first, stop)


def _zap_pte_tables(mm: Mm, start: int, end: int) -> None:
    """What is below [start, end), all of it page tables, goes at once.

    Folios are freed together, at the end: to merge scattered frames one by one is what costs. Their numbers go back
    so that the lowest comes next.
    """
    memory = mm.memory
    freed = []
    contpte.contpte_try_unfold_partial(mm, start, end)
    for first, stop in stretches(start, end, STRETCH_PAGES):
        pfns, vpns = mm.present_pfns(first, stop)
        if len(pfns):
            freed.append(folios_remove_rmap_ptes(memory, mapped_folios(memory, pfns, vpns), mm.id))
            mm.rss_pages -= len(pfns)
        mm.pte[first:stop] = 0
    if freed:
        gone = ascending(np.concatenate(freed))[::-1]
        memory.release_folios(gone, memory.head[gone], memory.order[gone])
        memory.clear_folios(gone)


def _zap_huge_pmd(mm: Mm, start: int) -> None:
    mm.pmd[start >> 9] = PMD_NONE
    if mm.pte[start] & PTE_SPECIAL:
        return
    folio = int(mm.memory.folio_of[mm.pfn[start]])
    folio_remove_rmap_pmd(mm.memory, folio, mm.id)
    mm.memory.folio_put(folio)
    mm.rss_pages -= PTRS_PER_PMD


def exit_mmap(mm: Mm) -> None:
    """The process is gone: everything unmapped, its pins and references released (`exit_mmap`, then its files)."""
    for vma in mm.vmas:
        zap_page_range(mm, vma.start, vma.end)
    mm.vmas.clear()
    # Copies: an empty view would keep the whole page table.
    mm.pfn, mm.pte, mm.pmd = mm.pfn[:0].copy(), mm.pte[:0].copy(), mm.pmd[:0].copy()
    for pin in mm.pins:
        unpin_user_pages(mm.memory, pin)
    mm.pins.clear()
    mm.memory.mms.remove(mm)


def do_munmap(mm: Mm, start: int, end: int) -> None:
    """Take the range out of the VMAs it meets; holes are no error (`do_vmi_munmap`)."""
    for vma in mm.vmas_in(start, end):
        if vma.start < start:
            vma = mm.split_vma(vma, start)
        if vma.end > end:
            mm.split_vma(vma, end)
        zap_page_range(mm, vma.start, vma.end)
        mm.vmas.remove(vma)
    mm.free_pgtables(start, end)


def do_mremap(
    mm: Mm, start: int, pages: int, new_pages: int, new_start: int | None, *, may_move: bool = True, keep: bool = False
) -> int:
    """mremap(2): move, grow, shrink; returns the first page (`do_mremap`, `mremap_to`, `expand_vma`; 6.1-7.3).

    `new_start` is a place (MREMAP_FIXED), `may_move` MREMAP_MAYMOVE, `keep` MREMAP_DONTUNMAP. Before 6.17 a range that
    leaves its VMA is refused after the target was unmapped.
    """
    hole = mm.find_vma(start) is None
    if not new_pages or (new_start is not None and not may_move) or (keep and pages != new_pages):
        why = "no size, a place without leave to move, or another size while the old mapping stays"
        raise Refused("EINVAL", why)
    # Places are looked at before mappings in 5.10 (`mremap_to`) and from 6.17 on (`check_mremap_params`), else after.
    places_first = mm.policy.moves_many_vmas or not mm.policy.mremap_looks_first
    overlaps = new_start is not None and start < new_start + new_pages and new_start < start + pages
    if overlaps and (places_first or not hole):
        raise Refused("EINVAL", f"the new place, {new_start} and {new_pages - 1} more, overlaps the old one")
    if hole and mm.policy.mremap_looks_first:
        raise Refused("EFAULT", f"nothing is mapped at page {start}")
    if new_start is not None and pages == new_pages and mm.policy.moves_many_vmas:
        _remap_move(mm, start, start + pages, new_start, keep=keep)
        return new_start
    if new_start is not None or keep:
        return _mremap_to(mm, start, pages, new_pages, new_start, keep=keep)
    if pages < new_pages:
        return _expand_vma(mm, start, pages, new_pages, may_move=may_move)
    if pages > new_pages:
        do_munmap(mm, start + new_pages, start + pages)
    return start


def _remap_move(mm: Mm, start: int, end: int, target: int, *, keep: bool) -> None:
    """Every VMA in the range moves, with the gaps between them, each unmapping only its own target (`remap_move`)."""
    last_end = start
    for piece in [piece.copy() for piece in mm.vmas_in(start, end)]:
        first, stop = max(piece.start, start), min(piece.end, end)
        target += max(0, piece.start - last_end)
        last_end = piece.end
        do_munmap(mm, target, target + stop - first)
        move_vma(mm, _vma_to_resize(mm, first, stop - first), first, stop, target, stop - first, keep=keep)
        target += stop - first


def _mremap_to(mm: Mm, start: int, pages: int, new_pages: int, new_start: int | None, *, keep: bool) -> int:
    """To a place, other sizes too; or, the old mapping kept, to where the kernel likes (`mremap_to`)."""
    if mm.policy.moves_many_vmas:
        _vma_to_resize(mm, start, min(pages, new_pages) if pages else 0)
    if new_start is not None:
        do_munmap(mm, new_start, new_start + new_pages)
    if pages > new_pages:
        do_munmap(mm, start + new_pages, start + pages)
        pages = new_pages
    vma = _vma_to_resize(mm, start, pages)
    place = get_unmapped_area(mm, new_pages) if new_start is None else new_start
    move_vma(mm, vma, start, start + pages, place, new_pages, keep=keep)
    return place


def _expand_vma(mm: Mm, start: int, pages: int, new_pages: int, *, may_move: bool) -> int:
    """Grow where it is, when the range ends its VMA and a gap follows; else elsewhere (`expand_vma`)."""
    vma = _vma_to_resize(mm, start, pages)
    if vma.end == start + pages and not mm.vmas_in(vma.end, start + new_pages):
        mm.vma_merge_extend(vma, new_pages - pages)
        return start
    if not may_move:
        raise Refused("ENOMEM", f"the mapping of page {start} cannot grow where it is")
    place = get_unmapped_area(mm, new_pages)
    move_vma(mm, vma, start, start + pages, place, new_pages)
    return place


def _vma_to_resize(mm: Mm, start: int, pages: int) -> Vma:
    """The VMA of a range that must lie in one (`vma_to_resize`; `check_prep_vma`, 6.17)."""
    vma = mm.find_vma(start)
    if vma and not pages:
        raise Refused("EINVAL", "a private mapping cannot be duplicated")
    if vma is None or vma.end < start + pages:
        raise Refused("EFAULT", f"{start}..{start + pages - 1} is not inside one mapping")
    return vma


def move_vma(mm: Mm, vma: Vma, start: int, end: int, new_start: int, new_pages: int, *, keep: bool = False) -> None:
    """Move [start, end) of one VMA, entries and all (`move_vma`, `copy_vma`, `move_page_tables`).

    Frames, exclusivity and counts stay as they are. The page offset stays too when there is an anon_vma, so that
    reverse mapping still finds the pages; without one it restarts at the new place. What is kept is locked no more: a
    locked VMA is cut for it (7.2.11), or loses the lock whole.
    """
    if keep and vma.flags & VM_LOCKED and mm.policy.dontunmap_splits_locked:
        vma = mm.split_vma(vma, start) if vma.start < start else vma
        if end < vma.end:
            mm.split_vma(vma, end)
    pgoff = vma.pgoff + start - vma.start if vma.anon_vma else new_start
    new = Vma(new_start, new_start + new_pages, vma.flags, pgoff, vma.anon_vma, vma.chain)
    joins = mm.policy.dontunmap_joins
    apart = vma if keep and not vma.anon_vma and joins != "itself" else None
    beside = apart and (apart.end == new_start or apart.start == new.end)
    if (joins == "nothing" and beside) or mm.vma_merge_copied_range(new, apart) is None:
        mm.insert_vma(new)
    _move_page_tables(mm, start, end, new_start)
    if keep:
        _dontunmap_complete(mm, start, end)
    else:
        do_munmap(mm, start, end)


def _dontunmap_complete(mm: Mm, start: int, end: int) -> None:
    """What stays of a VMA that moved whole is as if nothing had ever been written there (`dontunmap_complete`).

    Where such a VMA may join itself, its page offset does not start again either.
    """
    vma = mm.find_vma(start)
    if vma:
        vma.flags &= ~VM_LOCKED_MASK
        if not mm.policy.dontunmap_keeps_account:
            vma.flags |= VM_UNACCOUNTED
    if vma and (vma.start, vma.end) == (start, end):
        vma.anon_vma, vma.chain = 0, frozenset()
        if mm.policy.dontunmap_joins != "itself":
            vma.pgoff = start


def _move_page_tables(mm: Mm, start: int, end: int, new_start: int) -> None:
    for pin in mm.pins:
        pin.forget(start, end)
    down = _realigned(mm, start, end, new_start)
    start, new_start = start - down, new_start - down
    while start < end:
        # The extent stops at the next PMD boundary of either side (`get_extent`).
        extent = min(mm.block_of(start)[1], mm.block_of(new_start)[1] - new_start + start, end) - start
        state = mm.pmd[start >> 9]
        if state == PMD_HUGE and extent == PTRS_PER_PMD:
            mm.pmd[new_start >> 9] = PMD_HUGE
            mm.pmd[start >> 9] = PMD_NONE
        elif state == PMD_HUGE:
            mm.split_huge_pmd(start)
        if state != PMD_NONE:
            whole_table = state == PMD_TABLE and extent == PTRS_PER_PMD and mm.pmd[new_start >> 9] == PMD_NONE
            mm.pte_alloc(new_start)
            if whole_table:
                # It moves as it is, and none is left where it was (`move_normal_pmd`, 6.1-7.3).
                mm.pmd[start >> 9] = PMD_NONE
            one_by_one = extent < PTRS_PER_PMD and mm.policy.cont_pte_order
            move = contpte.move_ptes if one_by_one else _move_entries
            move(mm, start, start + extent, new_start)
        start += extent
        new_start += extent


def _move_entries(mm: Mm, start: int, end: int, new_start: int) -> None:
    target = slice(new_start, new_start + end - start)
    mm.own_pfns()[target] = mm.pfn[start:end]
    mm.pte[target] = mm.pte[start:end]
    mm.pte[start:end] = 0


def _realigned(mm: Mm, start: int, end: int, new_start: int) -> int:
    """How far both places go down to the start of their PMDs, to move a page table whole (`try_realign_addr`, 6.7).

    Only where they lie alike in their PMDs, begin their VMAs, reach the end, and no VMA is below in the same PMD.
    """
    down = start % PTRS_PER_PMD if mm.policy.realigns_moves else 0
    if down != new_start % PTRS_PER_PMD or end - start < PTRS_PER_PMD - down:
        return 0
    places = (start, new_start)
    alone = all([vma.start for vma in mm.vmas_in(at - down, at + 1)] == [at] for at in places)
    return down if alone else 0


def do_mprotect(system: System, mm: Mm, start: int, end: int, flags: int, faults: list[Fault]) -> None:
    """Give the range other access bits, VMA by VMA, up to the first hole (`do_mprotect_pkey`)."""
    vma = mm.find_vma(start)
    if vma is None:
        raise Refused("ENOMEM", f"nothing is mapped at page {start}")
    while start < end:
        vma = mm.find_vma(start)
        if vma is None:
            raise Refused("ENOMEM", f"nothing is mapped at page {start}")
        start = mprotect_fixup(system, mm, vma, start, min(vma.end, end), flags, faults)


def mprotect_fixup(system: System, mm: Mm, vma: Vma, start: int, end: int, flags: int, faults: list[Fault]) -> int:
    """Change one VMA and its entries; returns where to go on (`mprotect_fixup`).

    A VMA that has the access already is left alone: no split. A locked one that becomes writable is populated, for no
    write is to fault then.
    """
    if vma.flags & VM_ACCESS_FLAGS == flags:
        return end
    changed = vma.flags & ~VM_ACCESS_FLAGS | flags
    if flags & VM_WRITE and not vma.flags & VM_NORESERVE:
        changed &= ~VM_UNACCOUNTED
    elif not vma.anon_vma and mm.policy.unaccounts_read_only:
        changed |= VM_UNACCOUNTED
    populates = vma.flags & (VM_LOCKED | VM_WRITE) == VM_LOCKED and flags & VM_WRITE
    vma = mm.vma_modify_flags(vma, start, end, changed)
    change_protection(mm, start, end, writable=bool(flags & VM_WRITE))
    if populates:
        with suppress(BadAddress):
            populate_vma_page_range(system, mm, vma, start, end, faults)
    return vma.end


def change_protection(mm: Mm, start: int, end: int, *, writable: bool) -> None:
    """Write-protect entries, or make those of exclusive pages writable at once (`change_pte_range`, `change_huge_pmd`).

    `can_change_pte_writable` asks for PageAnonExclusive (6.12; `can_change_private_pte_writable` from 6.17 on), in 6.1
    also for a dirty entry, and 6.1 never makes a PMD writable here.
    """
    for first, stop in mm.pmd_ranges(start, end):
        if mm.pmd[first >> 9] == PMD_NONE:
            continue
        if mm.is_huge(first) and stop - first < PTRS_PER_PMD:
            mm.split_huge_pmd(first)
        may = _may_be_writable(mm, first, stop) if writable else np.zeros(stop - first, np.bool_)
        if mm.policy.batches_ptes and not mm.is_huge(first):
            contpte.change_ptes(mm, first, stop, may)
            continue
        # One entry after the other is cleared and set again (`ptep_modify_prot_start`, 6.12): blocks unfold, and fold
        # when the last of them is set and they are alike.
        contpte.contpte_try_unfold(mm, first, stop)
        bits = mm.pte[first:stop]
        if mm.is_huge(first) and not mm.policy.pmd_modify_keeps_dirty:
            # What is read-only already has it in _PAGE_SAVED_DIRTY, which stays (`pmd_modify`).
            bits[(bits & PTE_WRITE) > 0] &= 0xFF ^ PTE_DIRTY
        bits &= WRPROTECT
        bits[may] |= mm.mkwrite
        if not mm.is_huge(first):
            contpte.contpte_try_fold(mm, first, stop)


def _may_be_writable(mm: Mm, first: int, stop: int) -> npt.NDArray[np.bool_]:
    bits = mm.pte[first:stop]
    candidates: npt.NDArray[np.bool_] = (bits & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT
    if mm.policy.mprotect_needs_dirty:
        candidates &= (bits & PTE_DIRTY) > 0
    if mm.is_huge(first):
        exclusive = bool(mm.memory.anon_exclusive[mm.pfn[first]]) and not mm.policy.mprotect_needs_dirty
        candidates &= exclusive
    else:
        candidates[candidates] = mm.memory.anon_exclusive[mm.pfn[first:stop][candidates]]
    return candidates


def do_madvise(mm: Mm, start: int, end: int, advice: str) -> None:
    """Advise every mapping in the range; holes are passed over and reported at the end (`madvise_walk_vmas`)."""
    guards, collapse = advice.startswith("guard"), advice == "collapse"
    if (guards and not mm.policy.has_guard_markers) or (collapse and not mm.policy.has_collapse):
        raise Refused("EINVAL", f"this kernel knows no advice {advice}")
    hole: int | None = None
    while start < end:
        vma = next(iter(mm.vmas_in(start, end)), None)
        if hole is None and (vma is None or vma.start > start):
            hole = start
        if vma is None:
            break
        start = madvise_vma_behavior(mm, vma, max(vma.start, start), min(vma.end, end), advice)
    if hole is not None:
        raise Refused("ENOMEM", f"nothing is mapped at page {hole}")


def madvise_vma_behavior(mm: Mm, vma: Vma, start: int, end: int, advice: str) -> int:
    """Advise a part of one VMA; returns where to go on. Advice that changes nothing splits nothing."""
    if vma.flags & VM_LOCKED and advice in NOT_WHERE_LOCKED:
        raise Refused("EINVAL", f"pages {vma.start}..{vma.end - 1} are locked")
    if advice in ACTING:
        ACTING[advice](mm, start, end)
        return end
    on, off = ADVICE[advice]
    flags = vma.flags & ~off | on
    if flags == vma.flags:
        return vma.end
    return mm.vma_modify_flags(vma, start, end, flags).end


def madvise_dontneed(mm: Mm, start: int, end: int) -> None:
    """Drop the pages, keep the mapping (`madvise_dontneed_single_vma`).

    A page table that this leaves empty over its whole 2 MiB goes too (PT_RECLAIM; from 6.14 on x86-64, from 7.0
    on arm64; `zap_empty_pte_table`, `zap_pte_table_if_empty`, 7.3).
    """
    _zap_but_guards(mm, start, end)
    if not mm.policy.reclaims_page_tables:
        return
    for first, stop in mm.pmd_ranges(start, end):
        if stop - first == PTRS_PER_PMD and not mm.pte[first:stop].any():
            mm.pmd[first >> 9] = PMD_NONE


def _zap_but_guards(mm: Mm, start: int, end: int) -> None:
    """Zapping leaves guard markers, but where the mapping goes, too (`zap_drop_markers`)."""
    guards = start + np.flatnonzero(mm.pte[start:end] & PTE_GUARD)
    zap_page_range(mm, start, end)
    mm.pte[guards] = PTE_GUARD


def madvise_guard_install(mm: Mm, start: int, end: int) -> None:
    """Drop the pages and leave markers, page tables and an anon_vma with them (`madvise_guard_install`, 6.13)."""
    vma = mm.find_vma(start)
    assert vma is not None
    if mm.policy.fork_copies_guarded:
        vma.flags |= VM_MAYBE_GUARD
    mm.anon_vma_prepare(vma)
    zap_page_range(mm, start, end)
    mm.pmd[start >> 9 : -(-end // PTRS_PER_PMD)] = PMD_TABLE
    mm.pte[start:end] = PTE_GUARD


def madvise_guard_remove(mm: Mm, start: int, end: int) -> None:
    """Take the markers away and nothing else, VM_MAYBE_GUARD neither (`madvise_guard_remove`)."""
    mm.pte[start:end] &= 0xFF ^ PTE_GUARD


ACTING: dict[str, Callable[[Mm, int, int], None]] = {
    "dontneed": madvise_dontneed,
    "free": madvise_free,
    "cold": madvise_cold,
    "guard_install": madvise_guard_install,
    "guard_remove": madvise_guard_remove,
    "collapse": madvise_collapse,
}
"""Advice that acts on the pages of one mapping, and leaves the mapping as it is."""
NOT_WHERE_LOCKED = ("dontneed", "free", "cold", "guard_install")
POPULATE = {"populate_read": False, "populate_write": True}
"""Advice that faults pages in -> whether as by writes."""


def madvise_populate(system: System, mm: Mm, start: int, end: int, advice: str, faults: list[Fault]) -> None:
    """Fault in a range as by reads or writes, up to the first hole (`madvise_populate`, 5.14; past holes before 6.10).

    EINVAL where a mapping does not allow it, EFAULT at a guard page; what lies before stays.
    """
    if mm.policy.madvise_populate == "unknown":
        raise Refused("EINVAL", f"this kernel knows no advice {advice}")
    hole: int | None = None
    while start < end:
        vma = next(iter(mm.vmas_in(start, end)), None)
        if hole is None and (vma is None or vma.start > start):
            hole = start
        if vma is None or (hole is not None and mm.policy.madvise_populate == "to_hole"):
            break
        if not vma.flags & (VM_WRITE if POPULATE[advice] else VM_READ):
            raise Refused("EINVAL", f"page {max(start, vma.start)} is {vma.access_word}")
        try:
            stop = min(end, vma.end)
            faultin_page_range(system, mm, max(start, vma.start), stop, write=POPULATE[advice], faults=faults)
        except BadAddress as refusal:
            raise Refused("EFAULT", str(refusal)) from None
        start = stop
    if hole is not None:
        raise Refused("ENOMEM", f"nothing is mapped at page {hole}")
