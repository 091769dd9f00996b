"""What must always hold, each rule named and explained; check any of them after any step.

The first five are the kernel's promises, which a policy can break; the rest is the model's own bookkeeping,
recounted from the page tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..kernel.contpte import foldable
from ..kernel.given import check_kind
from ..kernel.index import places_of
from ..kernel.mm import Mm
from ..kernel.pagetable import PMD_HUGE, PMD_NONE, PTE_CONT, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.sizes import GUP_PIN_COUNTING_BIAS, MAX_BUDDY_ORDER, PTRS_PER_PMD
from ..kernel.vma import VM_LOCKED_MASK, VM_LOCKONFAULT, VM_WRITE
from .machine import Machine


class Violation(NamedTuple):
    """A broken invariant: its name, and where: a process, its page, and what holds that, of which other process."""

    invariant: str
    where: str
    process: int | None = None
    vpn: int | None = None
    pin: int | None = None
    holder: int | None = None
    kind: str = "pin"

    def __str__(self) -> str:
        return f"{self.invariant}: {self.where}"


_Column = npt.NDArray[np.integer]
_NONE = np.zeros(0, np.uint8)


class Mapped(NamedTuple):
    """What processes map and hold, as columns; of one machine, or of many side by side that share no frame.

    Attributes
    ----------
    process, vpn : ndarray of shape (entries,)
        Every page-table entry that is not none, ordered by process, then page.
    bits, pfn : ndarray of shape (entries,)
        Its bits, and the frame.
    times : ndarray of shape (entries,)
        How many entries map that frame, a PMD counted; 0 for the zero page.
    exclusive : ndarray of shape (entries,), bool
        PageAnonExclusive, the head's under a PMD.
    held : list of (int, str, int, int)
        Frames that processes hold: the process, ``"pin"`` or ``"reference"``, its number, the frame.
    expected : list of (int, str, int, int, int)
        Pages whose entries must still map a held frame: process, kind, number, page, frame.
    marks_exclusive : bool
        Whether the kernel marks pages exclusive at all.
    """

    process: _Column
    vpn: _Column
    bits: _Column
    pfn: _Column
    times: _Column
    exclusive: npt.NDArray[np.bool_]
    held: list[tuple[int, str, int, int]]
    expected: list[tuple[int, str, int, int, int]]
    marks_exclusive: bool

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """What the live processes of a machine map and hold."""
        memory, live = machine.memory, machine.live()
        pages = [(each, places_of(each.mm.pte)) for each in live]
        process, vpn, bits, pfn, pmd = (
            np.concatenate([*columns, _NONE])
            for columns in (
                [np.full(len(vpns), each.number) for each, vpns in pages],
                [vpns for _, vpns in pages],
                [each.mm.pte[vpns] for each, vpns in pages],
                [each.mm.pfn[vpns] for each, vpns in pages],
                [each.mm.pmd[vpns >> 9] for each, vpns in pages],
            )
        )
        maps = bits & (PTE_PRESENT | PTE_SPECIAL) == PTE_PRESENT
        frames = pfn[maps]
        times, exclusive = np.zeros(len(pfn), np.int64), np.zeros(len(pfn), np.bool_)
        times[maps] = memory.mapcounts_of(frames)
        # Under a PMD the head's mark counts for all.
        heads = memory.head[memory.folio_of[frames]]
        exclusive[maps] = memory.anon_exclusive[np.where(pmd[maps] == PMD_HUGE, heads, frames)]
        holds = [(each.number, *key, pin) for each in live for key, pin in each.pins().items()]
        held = [(who, kind, number, pfn) for who, kind, number, pin in holds for pfn in pin.frames]
        expected = [(who, kind, number, *page) for who, kind, number, pin in holds for page in pin.expected.items()]
        return cls(process, vpn, bits, pfn, times, exclusive, held, expected, machine.policy.marks_exclusive)


class Invariant(NamedTuple):
    """A rule: its name, why it must hold, and the function that yields what breaks it.

    `breaches` finds the same in what processes map and hold, for a rule that asks for nothing else.
    """

    name: str
    why: str
    broken: Callable[[Machine], Iterable[Violation]]
    breaches: Callable[[Mapped], Iterable[Violation]] | None = None

    def __reduce__(self) -> tuple[Callable[[str], Invariant], tuple[str]]:
        return invariant_named, (self.name,)


def invariant_named(name: str) -> Invariant:
    """The rule of that name; what pickles of rules consist of."""
    return INVARIANTS[name]


INVARIANTS: dict[str, Invariant] = {}

_Where = tuple[Any, ...]
"""What is wrong in words; then, as far as there are such, process, page and pin."""


def invariant(finds: Callable[[Machine], Iterable[_Where]]) -> Invariant:
    """A rule under its function's name; the function's docstring says why it must hold."""
    name = finds.__name__.strip("_")

    def broken(machine: Machine) -> Iterator[Violation]:
        return (Violation(name, *where) for where in finds(machine))

    rule = INVARIANTS[name] = Invariant(name, _why(finds), broken)
    return rule


def promise(finds: Callable[[Mapped], Iterable[_Where]]) -> Invariant:
    """The same for a rule about what processes map and hold."""
    name = finds.__name__.strip("_")

    def breaches(mapped: Mapped) -> Iterator[Violation]:
        return (Violation(name, *where) for where in finds(mapped))

    def broken(machine: Machine) -> Iterator[Violation]:
        return breaches(Mapped.of(machine))

    rule = INVARIANTS[name] = Invariant(name, _why(finds), broken, breaches)
    return rule


def _why(finds: Callable[..., object]) -> str:
    return " ".join((finds.__doc__ or "").split())


def check(machine: Machine, invariants: Iterable[Invariant] | None = None) -> list[Violation]:
    """Everything that is broken now; by default of all invariants."""
    check_kind("machine", machine, Machine)
    rules = INVARIANTS.values() if invariants is None else invariants
    mapped = Mapped.of(machine)
    found = (rule.breaches(mapped) if rule.breaches else rule.broken(machine) for rule in rules)
    return list(chain.from_iterable(found))


# --- promises of the kernel -----------------------------------------------------------------------------------------


@promise
def _pinned_page_stays(mapped: Mapped) -> Iterator[_Where]:
    """A page that a device has pinned stays mapped where it was, as long as its owner does not unmap it: else process
    and device work on different pages (the comments of `gup_must_unshare`, mm/internal.h).
    """
    if not mapped.expected:
        return
    who, _, _, pages, frames = (np.array(column) for column in zip(*mapped.expected, strict=True))
    # Entries are ordered by process and page, so the place of each can be looked up.
    entries, wanted = mapped.process * _PAGES + mapped.vpn, who * _PAGES + pages
    at = np.minimum(np.searchsorted(entries, wanted), len(entries) - 1)
    stays = (entries[at] == wanted) & (mapped.pfn[at] == frames) if len(entries) else np.zeros(len(who), np.bool_)
    for number in places_of(~stays).tolist():
        process, kind, pin, vpn, _ = mapped.expected[number]
        where = f"process {process} page {vpn} no longer maps the frame that {kind} {pin} holds"
        yield where, process, vpn, pin


_PAGES = 1 << 40
"""More than an address space has."""


@promise
def _writable_is_exclusive(mapped: Mapped) -> Iterator[_Where]:
    """An entry of a private mapping is writable only if its page is marked PageAnonExclusive (6.1-7.3).

    A kernel that marks nothing (5.10) does not promise that.
    """
    if not mapped.marks_exclusive:
        return
    for at in places_of((mapped.bits & PTE_WRITE > 0) & ~mapped.exclusive).tolist():
        process, vpn = int(mapped.process[at]), int(mapped.vpn[at])
        yield f"process {process} may write page {vpn}, which is not marked exclusive", process, vpn


@promise
def _exclusive_is_mapped_once(mapped: Mapped) -> Iterator[_Where]:
    """PageAnonExclusive promises that one entry maps the page, so that its owner may write without asking."""
    for at in places_of(mapped.exclusive & (mapped.times != 1)).tolist():
        process, vpn = int(mapped.process[at]), int(mapped.vpn[at])
        yield f"process {process} page {vpn} is marked exclusive and mapped {mapped.times[at]} times", process, vpn


@promise
def _held_page_is_private(mapped: Mapped) -> Iterator[_Where]:
    """Whoever holds a page through a pin or a plain reference must not see what another process writes to it after
    fork: else a child that had a page spliced into a pipe reads its parent's secrets (CVE-2020-29374; `do_wp_page`
    asks for references, not for mappings alone).
    """
    if not mapped.held:
        return
    held = np.array([pfn for *_, pfn in mapped.held])
    writers: dict[int, list[tuple[int, int]]] = {}
    for at in places_of((mapped.bits & PTE_WRITE > 0) & np.isin(mapped.pfn, held)).tolist():
        writers.setdefault(int(mapped.pfn[at]), []).append((int(mapped.process[at]), int(mapped.vpn[at])))
    for holder, kind, number, pfn in mapped.held:
        for process, vpn in writers.get(pfn, ()):
            if process != holder:
                where = f"process {process} may write page {vpn}, which {kind} {number} of process {holder} holds"
                yield where, process, vpn, number, holder, kind


@promise
def _reads_what_it_wrote(mapped: Mapped) -> Iterator[_Where]:
    """What a process reads is what it last wrote, or what its parent had at fork: nobody may write a page that another
    process maps, whatever marks say (mmap(2): updates to private memory are not visible to other processes).
    """
    for at in places_of((mapped.bits & PTE_WRITE > 0) & (mapped.times > 1)).tolist():
        process, vpn = int(mapped.process[at]), int(mapped.vpn[at])
        readers: dict[int, int] = {}
        for row in places_of((mapped.pfn == mapped.pfn[at]) & (mapped.times > 0)).tolist():
            readers.setdefault(int(mapped.process[row]), int(mapped.vpn[row]))
        for other, page in readers.items():
            if other != process:
                where = f"process {process} may write page {vpn}, which process {other} reads as its page {page}"
                yield where, process, vpn, page, other, "page"


KERNEL_PROMISES = (
    _pinned_page_stays, _writable_is_exclusive, _exclusive_is_mapped_once, _held_page_is_private, _reads_what_it_wrote,
)  # fmt: skip
"""The rules that a policy can break; what the search looks for."""


def _maps_folio(mm: Mm) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = (mm.pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT
    return present


# --- the model's bookkeeping ----------------------------------------------------------------------------------------


@invariant
def _entries_lie_in_mappings(machine: Machine) -> Iterator[_Where]:
    """Page-table entries exist only under a mapping, in a page table, and are writable only if it is."""
    for process in machine.live():
        mm, who = process.mm, f"process {process.number}"
        allowed, writable = np.zeros(len(mm.pte), np.bool_), np.zeros(len(mm.pte), np.bool_)
        for vma in mm.vmas:
            allowed[vma.start : vma.end] = True
            writable[vma.start : vma.end] = bool(vma.flags & VM_WRITE)
        has_table = np.repeat(mm.pmd != PMD_NONE, PTRS_PER_PMD)
        for bad, what in (
            ((mm.pte != 0) & ~allowed, "is mapped outside every mapping"),
            ((mm.pte & PTE_WRITE > 0) & ~writable, "is writable in a read-only mapping"),
            ((mm.pte != 0) & ~has_table, "is mapped without a page table"),
            ((mm.pte & PTE_SPECIAL > 0) & (mm.pte & PTE_WRITE > 0), "is a writable zero page"),
        ):
            yield from ((f"{who} page {vpn} {what}", process.number, vpn) for vpn in np.flatnonzero(bad).tolist())
        for lower, upper in pairwise(mm.vmas):
            if lower.end > upper.start:
                yield f"{who}: {lower} overlaps {upper}", process.number


@invariant
def _huge_mappings_are_whole(machine: Machine) -> Iterator[_Where]:
    """A PMD maps 512 pages alike, inside one mapping."""
    for process in machine.live():
        mm = process.mm
        for block in np.flatnonzero(mm.pmd == PMD_HUGE).tolist():
            start, end = mm.block_of(block << 9)
            vma = mm.find_vma(start)
            if vma is None or vma.end < end:
                yield f"process {process.number} block {block}: a mapping ends inside it", process.number
            if len(set(mm.pte[start:end].tolist())) != 1:
                yield f"process {process.number} block {block}: entries differ", process.number


@invariant
def _locked_says_how(machine: Machine) -> Iterator[_Where]:
    """Only what is locked is locked as pages come (VM_LOCKONFAULT stands beside VM_LOCKED)."""
    for process in machine.live():
        for vma in process.mm.vmas:
            if vma.flags & VM_LOCKED_MASK == VM_LOCKONFAULT:
                yield f"process {process.number} page {vma.start} is locked on fault and not locked", process.number


@invariant
def _contiguous_blocks_are_whole(machine: Machine) -> Iterator[_Where]:
    """Entries with arm64's contiguous bit come in whole aligned blocks: present, frames in a row of one folio, equal
    protection. Else one TLB entry would say of a page what its own entry does not (6.9 and later).
    """
    order = machine.policy.cont_pte_order
    for process in machine.live():
        mm, who = process.mm, f"process {process.number}"
        marked = (mm.pte & PTE_CONT) > 0
        if not order:
            for vpn in np.flatnonzero(marked).tolist():
                where = f"{who} page {vpn} carries the bit, and the machine has no contiguous bit"
                yield where, process.number, vpn
            continue
        marked = marked.reshape(-1, 1 << order)
        # Protections must agree with the bit itself, but it is the same in all.
        good = foldable(mm.pte, mm.pfn, machine.memory.folio_of, order) & marked.all(axis=1)
        good &= np.repeat(mm.pmd != PMD_HUGE, PTRS_PER_PMD >> order)
        for block in np.flatnonzero(marked.any(axis=1) & ~good).tolist():
            where = f"{who} block {block << order} carries the bit and is not 16 like entries"
            yield where, process.number, block << order


@invariant
def _mapcounts_match(machine: Machine) -> Iterator[_Where]:
    """mapcount, entire_mapcount, large_mapcount and nr_mapped are what the page tables say."""
    memory = machine.memory
    mapcount = np.zeros(len(memory.mapcount), np.int64)
    entire = np.zeros(len(memory.head), np.int64)
    for process in machine.live():
        mm = process.mm
        huge = np.repeat(mm.pmd == PMD_HUGE, PTRS_PER_PMD)
        maps = _maps_folio(mm)
        np.add.at(mapcount, mm.pfn[maps & ~huge], 1)
        np.add.at(entire, memory.folio_of[mm.pfn[np.flatnonzero(maps & huge)[::PTRS_PER_PMD]]], 1)
    for pfn in np.flatnonzero(mapcount != memory.mapcount).tolist():
        yield (f"frame {pfn} is mapped {mapcount[pfn]} times, its mapcount says {memory.mapcount[pfn]}",)
    for folio in memory.live_folios().tolist():
        frames = memory.frames_of(folio)
        total = int(mapcount[frames].sum() + entire[folio])
        if entire[folio] != memory.entire_mapcount[folio]:
            yield (f"folio {folio}: {entire[folio]} PMD mappings, its count says {memory.entire_mapcount[folio]}",)
        if memory.is_large(folio) and total != memory.large_mapcount[folio]:
            yield (f"folio {folio}: {total} mappings, large_mapcount says {memory.large_mapcount[folio]}",)
        if int(np.count_nonzero(mapcount[frames])) != memory.nr_mapped[folio]:
            yield (f"folio {folio}: nr_mapped says {memory.nr_mapped[folio]}",)


@invariant
def _references_match(machine: Machine) -> Iterator[_Where]:
    """A folio has one reference for each mapping, pin and plain reference; a pin of a small folio counts 1,024."""
    memory = machine.memory
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
        yield (f"folio {folio}: {expected[folio]} references, refcount says {memory.refcount[folio]}",)
    for folio in np.flatnonzero(pins != memory.pincount).tolist():
        yield (f"folio {folio}: {pins[folio]} pins, pincount says {memory.pincount[folio]}",)


@invariant
def _slots_never_lie(machine: Machine) -> Iterator[_Where]:
    """A large folio that several processes map says so; a slot never counts more than its process maps."""
    # Not "shared" is exact; "shared" may be stale, which is the blind spot of mm_id and no violation.
    memory = machine.memory
    maps = {process.mm.id: _mappings_by_folio(process.mm) for process in machine.live()}
    for folio in memory.live_folios().tolist():
        if not memory.is_large(folio):
            continue
        several = [mm_id - 1 for mm_id, mappings in maps.items() if mappings[folio]]
        if len(several) > 1 and not memory.maybe_mapped_shared[folio]:
            yield (f"folio {folio} is mapped by processes {several} and says not shared",)
        for mm_id, count in zip(memory.mm_id[folio].tolist(), memory.mm_id_mapcount[folio].tolist(), strict=True):
            # A slot that was taken while its mm had untracked mappings may count too few, never too many.
            found = maps[mm_id][folio] if mm_id in maps else 0
            if mm_id and count > found:
                yield (f"folio {folio}: slot of process {mm_id - 1} says {count}, maps {found}",)


def _mappings_by_folio(mm: Mm) -> npt.NDArray[np.intp]:
    """How often the process maps each folio, a PMD counted once."""
    vpns = np.flatnonzero(_maps_folio(mm))
    vpns = vpns[(mm.pmd[vpns >> 9] != PMD_HUGE) | (vpns % PTRS_PER_PMD == 0)]
    return np.bincount(mm.memory.folio_of[mm.pfn[vpns]], minlength=len(mm.memory.head))


@invariant
def _rss_matches(machine: Machine) -> Iterator[_Where]:
    """RSS is the number of pages mapped, the zero page not counted."""
    for process in machine.live():
        rss = int(np.count_nonzero(_maps_folio(process.mm)))
        if rss != process.rss_pages:
            where = f"process {process.number} maps {rss} pages, RSS says {process.rss_pages}"
            yield where, process.number


@invariant
def _frames_are_accounted_for(machine: Machine) -> Iterator[_Where]:
    """Every frame is free or in one folio, and blocks and folios are aligned to their size."""
    memory = machine.memory
    free = np.zeros(len(memory.folio_of), np.bool_)
    for head, order in memory.buddy.blocks().items():
        if head % (1 << order) or order > MAX_BUDDY_ORDER:
            yield (f"free block {head} of order {order} is not aligned",)
        if free[head : head + (1 << order)].any():
            yield (f"free block {head} of order {order} overlaps another",)
        free[head : head + (1 << order)] = True
    for pfn in np.flatnonzero(free & (memory.folio_of[:] >= 0)).tolist():
        yield (f"frame {pfn} is free and belongs to folio {memory.folio_of[pfn]}",)
    for folio in memory.live_folios().tolist():
        frames = memory.frames_of(folio)
        if frames.start % (frames.stop - frames.start):
            yield (f"folio {folio} of order {memory.order[folio]} starts at frame {frames.start}, not aligned",)
        if (memory.folio_of[frames] != folio).any():
            yield (f"folio {folio} does not own its frames",)
    held = int((1 << memory.order[memory.live_folios()].astype(np.int64)).sum())
    if int(np.count_nonzero(memory.folio_of[:] >= 0)) != held:
        yield ("frames belong to folios that do not exist",)
    if memory.held_pages() != held:
        yield (f"{memory.held_pages()} frames are counted as held, and folios have {held}",)
    # The zero page is nobody's; what `fragment` gave away is somebody else's.
    lost = memory.buddy.frames - 1 - memory.buddy.held_by_others - memory.buddy.free_frames() - held
    if lost:
        yield (f"{lost} frames are neither free nor in a folio",)


@invariant
def _dead_hold_nothing(machine: Machine) -> Iterator[_Where]:
    """An exited process maps and pins nothing."""
    for process in machine.processes:
        if not process.alive and (process.mm.pte.any() or process.mm.vmas or process.pins()):
            yield f"process {process.number} has exited and still holds memory", process.number
