"""What must always hold, each rule named and explained; check any of them after any step.

The first three are the kernel's promises, which a policy can break; the rest is the model's own bookkeeping,
recounted from the page tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.contpte import foldable
from ..kernel.mm import Mm
from ..kernel.pagetable import PMD_HUGE, PMD_NONE, PTE_CONT, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.sizes import GUP_PIN_COUNTING_BIAS, MAX_BUDDY_ORDER
from ..kernel.vma import VM_WRITE
from .machine import Machine


class Violation(NamedTuple):
    """A broken invariant: its name, and where."""

    invariant: str
    where: str
    process: int | None = None
    vpn: int | None = None
    pin: int | None = None

    def __str__(self) -> str:
        return f"{self.invariant}: {self.where}"


class Invariant(NamedTuple):
    """A rule: its name, why it must hold, and the function that yields what breaks it."""

    name: str
    why: str
    broken: Callable[[Machine], Iterable[Violation]]


def check(machine: Machine, invariants: Iterable[Invariant] | None = None) -> list[Violation]:
    """Everything that is broken now; by default of all invariants."""
    rules = INVARIANTS.values() if invariants is None else invariants
    return [violation for rule in rules for violation in rule.broken(machine)]


# --- promises of the kernel -----------------------------------------------------------------------------------------


def _pinned_page_stays(machine: Machine) -> Iterable[Violation]:
    for process in machine.live():
        for (kind, number), pin in process.pins().items():
            for vpn, pfn in pin.expected.items():
                if not process.mm.pte[vpn] or process.mm.pfn[vpn] != pfn:
                    where = f"process {process.number} page {vpn} no longer maps the frame that {kind} {number} holds"
                    yield Violation("pinned_page_stays", where, process.number, vpn, number)


def _writable_is_exclusive(machine: Machine) -> Iterable[Violation]:
    for process in machine.live():
        mm = process.mm
        vpns = np.flatnonzero(mm.pte & PTE_WRITE)
        for vpn in vpns[~machine.memory.anon_exclusive[_flag_index(mm, vpns)]].tolist():
            where = f"process {process.number} may write page {vpn}, which is not marked exclusive"
            yield Violation("writable_is_exclusive", where, process.number, vpn)


def _exclusive_is_mapped_once(machine: Machine) -> Iterable[Violation]:
    memory = machine.memory
    for process in machine.live():
        mm = process.mm
        vpns = np.flatnonzero(_maps_folio(mm))
        vpns = vpns[memory.anon_exclusive[_flag_index(mm, vpns)]]
        pfns = mm.pfn[vpns]
        mapped = memory.mapcount[pfns] + memory.entire_mapcount[memory.folio_of[pfns]]
        for vpn, times in zip(vpns[mapped != 1].tolist(), mapped[mapped != 1].tolist(), strict=True):
            where = f"process {process.number} page {vpn} is marked exclusive and mapped {times} times"
            yield Violation("exclusive_is_mapped_once", where, process.number, vpn)


def _flag_index(mm: Mm, vpns: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
    """Whose PageAnonExclusive counts for these pages: their own, or the head's under a PMD mapping."""
    pfns = mm.pfn[vpns]
    return np.where(mm.pmd[vpns >> 9] == PMD_HUGE, mm.memory.head[mm.memory.folio_of[pfns]], pfns)


def _maps_folio(mm: Mm) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = (mm.pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT
    return present


# --- the model's bookkeeping ----------------------------------------------------------------------------------------


def _entries_lie_in_mappings(machine: Machine) -> Iterable[Violation]:
    name = "entries_lie_in_mappings"
    for process in machine.live():
        mm = process.mm
        allowed, writable = np.zeros(len(mm.pte), np.bool_), np.zeros(len(mm.pte), np.bool_)
        for vma in mm.vmas:
            allowed[vma.start : vma.end] = True
            writable[vma.start : vma.end] = bool(vma.flags & VM_WRITE)
        has_table = np.repeat(mm.pmd != PMD_NONE, 512)
        for bad, what in (
            ((mm.pte != 0) & ~allowed, "is mapped outside every mapping"),
            ((mm.pte & PTE_WRITE > 0) & ~writable, "is writable in a read-only mapping"),
            ((mm.pte != 0) & ~has_table, "is mapped without a page table"),
            ((mm.pte & PTE_SPECIAL > 0) & (mm.pte & PTE_WRITE > 0), "is a writable zero page"),
        ):
            for vpn in np.flatnonzero(bad).tolist():
                yield Violation(name, f"process {process.number} page {vpn} {what}", process.number, vpn)
        for lower, upper in zip(mm.vmas, mm.vmas[1:], strict=False):
            if lower.end > upper.start:
                yield Violation(name, f"process {process.number}: {lower} overlaps {upper}", process.number)


def _huge_mappings_are_whole(machine: Machine) -> Iterable[Violation]:
    name = "huge_mappings_are_whole"
    for process in machine.live():
        mm = process.mm
        for block in np.flatnonzero(mm.pmd == PMD_HUGE).tolist():
            start, end = block << 9, (block + 1) << 9
            vma = mm.find_vma(start)
            if vma is None or vma.end < end:
                yield Violation(
                    name, f"process {process.number} block {block}: a mapping ends inside it", process.number
                )
            if len(set(mm.pte[start:end].tolist())) != 1:
                yield Violation(name, f"process {process.number} block {block}: entries differ", process.number)


def _contiguous_blocks_are_whole(machine: Machine) -> Iterable[Violation]:
    name = "contiguous_blocks_are_whole"
    order = machine.policy.cont_pte_order
    for process in machine.live():
        mm = process.mm
        marked = (mm.pte & PTE_CONT) > 0
        if not order:
            for vpn in np.flatnonzero(marked).tolist():
                where = f"process {process.number} page {vpn} carries the bit, and the machine has no contiguous bit"
                yield Violation(name, where, process.number, vpn)
            continue
        marked = marked.reshape(-1, 1 << order)
        # Protections must agree with the bit itself, but it is the same in all.
        good = foldable(mm.pte, mm.pfn, machine.memory.folio_of, order) & marked.all(axis=1)
        good &= np.repeat(mm.pmd != PMD_HUGE, 512 >> order)
        for block in np.flatnonzero(marked.any(axis=1) & ~good).tolist():
            where = f"process {process.number} block {block << order} carries the bit and is not 16 like entries"
            yield Violation(name, where, process.number, block << order)


def _mapcounts_match(machine: Machine) -> Iterable[Violation]:
    """Recount, from the page tables, everything that rmap keeps."""
    memory = machine.memory
    name = "mapcounts_match"
    mapcount = np.zeros(len(memory.mapcount), np.int64)
    entire = np.zeros(len(memory.head), np.int64)
    for process in machine.live():
        mm = process.mm
        huge = np.repeat(mm.pmd == PMD_HUGE, 512)
        maps = _maps_folio(mm)
        np.add.at(mapcount, mm.pfn[maps & ~huge], 1)
        np.add.at(entire, memory.folio_of[mm.pfn[np.flatnonzero(maps & huge)[::512]]], 1)
    for pfn in np.flatnonzero(mapcount != memory.mapcount).tolist():
        yield Violation(name, f"frame {pfn} is mapped {mapcount[pfn]} times, its mapcount says {memory.mapcount[pfn]}")
    for folio in memory.live_folios().tolist():
        frames = memory.frames_of(folio)
        total = int(mapcount[frames].sum() + entire[folio])
        if entire[folio] != memory.entire_mapcount[folio]:
            yield Violation(
                name, f"folio {folio}: {entire[folio]} PMD mappings, its count says {memory.entire_mapcount[folio]}"
            )
        if memory.is_large(folio) and total != memory.large_mapcount[folio]:
            yield Violation(
                name, f"folio {folio}: {total} mappings, large_mapcount says {memory.large_mapcount[folio]}"
            )
        if int(np.count_nonzero(mapcount[frames])) != memory.nr_mapped[folio]:
            yield Violation(name, f"folio {folio}: nr_mapped says {memory.nr_mapped[folio]}")


def _references_match(machine: Machine) -> Iterable[Violation]:
    memory = machine.memory
    name = "references_match"
    expected = np.zeros(len(memory.head), np.int64)
    pins = np.zeros(len(memory.head), np.int64)
    for folio in memory.live_folios().tolist():
        expected[folio] = int(memory.mapcount[memory.frames_of(folio)].sum()) + int(memory.entire_mapcount[folio])
    for process in machine.live():
        for pin in process.pins().values():
            for folio in (int(memory.folio_of[pfn]) for pfn in pin.frames):
                if folio < 0:
                    continue
                expected[folio] += GUP_PIN_COUNTING_BIAS if pin.pinned and not memory.is_large(folio) else 1
                pins[folio] += pin.pinned and memory.is_large(folio)
    for folio in np.flatnonzero(expected != memory.refcount).tolist():
        yield Violation(name, f"folio {folio}: {expected[folio]} references, refcount says {memory.refcount[folio]}")
    for folio in np.flatnonzero(pins != memory.pincount).tolist():
        yield Violation(name, f"folio {folio}: {pins[folio]} pins, pincount says {memory.pincount[folio]}")


def _slots_never_lie(machine: Machine) -> Iterable[Violation]:
    """Not "shared" is exact; "shared" may be stale, which is the blind spot of mm_id and no violation."""
    memory = machine.memory
    name = "slots_never_lie"
    mappers: dict[int, dict[int, int]] = {}
    for process in machine.live():
        mm = process.mm
        for vpn in np.flatnonzero(_maps_folio(mm)).tolist():
            if mm.is_huge(vpn) and vpn % 512:
                continue
            folio = int(memory.folio_of[mm.pfn[vpn]])
            by_mm = mappers.setdefault(folio, {})
            by_mm[mm.id] = by_mm.get(mm.id, 0) + 1
    for folio in memory.live_folios().tolist():
        if not memory.is_large(folio):
            continue
        by_mm = mappers.get(folio, {})
        if len(by_mm) > 1 and not memory.maybe_mapped_shared[folio]:
            several = sorted(mm - 1 for mm in by_mm)
            yield Violation(name, f"folio {folio} is mapped by processes {several} and says not shared")
        for mm_id, count in zip(memory.mm_id[folio].tolist(), memory.mm_id_mapcount[folio].tolist(), strict=True):
            # A slot that was taken while its mm had untracked mappings may count too few, never too many.
            if mm_id and count > by_mm.get(mm_id, 0):
                yield Violation(
                    name, f"folio {folio}: slot of process {mm_id - 1} says {count}, maps {by_mm.get(mm_id, 0)}"
                )


def _rss_matches(machine: Machine) -> Iterable[Violation]:
    for process in machine.live():
        rss = int(np.count_nonzero(_maps_folio(process.mm)))
        if rss != process.rss_pages:
            yield Violation(
                "rss_matches",
                f"process {process.number} maps {rss} pages, RSS says {process.rss_pages}",
                process.number,
            )


def _frames_are_accounted_for(machine: Machine) -> Iterable[Violation]:
    memory = machine.memory
    name = "frames_are_accounted_for"
    free = np.zeros(len(memory.folio_of), np.bool_)
    for head, order in memory.buddy.blocks().items():
        if head % (1 << order) or order > MAX_BUDDY_ORDER:
            yield Violation(name, f"free block {head} of order {order} is not aligned")
        if free[head : head + (1 << order)].any():
            yield Violation(name, f"free block {head} of order {order} overlaps another")
        free[head : head + (1 << order)] = True
    for pfn in np.flatnonzero(free & (memory.folio_of[:] >= 0)).tolist():
        yield Violation(name, f"frame {pfn} is free and belongs to folio {memory.folio_of[pfn]}")
    for folio in memory.live_folios().tolist():
        frames = memory.frames_of(folio)
        if frames.start % (frames.stop - frames.start):
            yield Violation(
                name, f"folio {folio} of order {memory.order[folio]} starts at frame {frames.start}, not aligned"
            )
        if (memory.folio_of[frames] != folio).any():
            yield Violation(name, f"folio {folio} does not own its frames")
    if int(np.count_nonzero(memory.folio_of[:] >= 0)) != memory.held_pages():
        yield Violation(name, "frames belong to folios that do not exist")


def _dead_hold_nothing(machine: Machine) -> Iterable[Violation]:
    for process in machine.processes:
        if not process.alive and (process.mm.pte.any() or process.mm.vmas or process.pins()):
            yield Violation(
                "dead_hold_nothing", f"process {process.number} has exited and still holds memory", process.number
            )


INVARIANTS: dict[str, Invariant] = {
    rule.name: rule
    for rule in (
        Invariant(
            "pinned_page_stays",
            "A page that a device has pinned stays mapped where it was, as long as its owner does not unmap it: else "
            "process and device work on different pages (the comments of `gup_must_unshare`, mm/internal.h).",
            _pinned_page_stays,
        ),
        Invariant(
            "writable_is_exclusive",
            "An entry of a private mapping is writable only if its page is marked PageAnonExclusive (6.1-7.2).",
            _writable_is_exclusive,
        ),
        Invariant(
            "exclusive_is_mapped_once",
            "PageAnonExclusive promises that one entry maps the page, so that its owner may write without asking.",
            _exclusive_is_mapped_once,
        ),
        Invariant(
            "entries_lie_in_mappings",
            "Page-table entries exist only under a mapping, in a page table, and are writable only if it is.",
            _entries_lie_in_mappings,
        ),
        Invariant(
            "huge_mappings_are_whole",
            "A PMD maps 512 pages alike, inside one mapping.",
            _huge_mappings_are_whole,
        ),
        Invariant(
            "contiguous_blocks_are_whole",
            "Entries with arm64's contiguous bit come in whole aligned blocks: present, frames in a row of one folio, "
            "equal protection. Else one TLB entry would say of a page what its own entry does not (6.9 and later).",
            _contiguous_blocks_are_whole,
        ),
        Invariant(
            "mapcounts_match",
            "mapcount, entire_mapcount, large_mapcount and nr_mapped are what the page tables say.",
            _mapcounts_match,
        ),
        Invariant(
            "references_match",
            "A folio has one reference for each mapping, pin and plain reference; a pin of a small folio counts 1,024.",
            _references_match,
        ),
        Invariant(
            "slots_never_lie",
            "A large folio that several processes map says so; a slot never counts more than its process maps.",
            _slots_never_lie,
        ),
        Invariant("rss_matches", "RSS is the number of pages mapped, the zero page not counted.", _rss_matches),
        Invariant(
            "frames_are_accounted_for",
            "Every frame is free or in one folio, and blocks and folios are aligned to their size.",
            _frames_are_accounted_for,
        ),
        Invariant("dead_hold_nothing", "An exited process maps and pins nothing.", _dead_hold_nothing),
    )
}

KERNEL_PROMISES = tuple(
    INVARIANTS[name] for name in ("pinned_page_stays", "writable_is_exclusive", "exclusive_is_mapped_once")
)
"""The rules that a policy can break; what the search looks for."""
