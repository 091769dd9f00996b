"""The steps inside a copy-on-write fault one at a time, while other CPUs go on reading and writing.

A `Race` says where it starts (a `Scenario` run on the model), which process each CPU runs, and what CPU 0 does: a
write that copies (the model's own `wp_page_copy`) or a fork, as a tuple of step names. The order of the steps is that
tuple, so a wrong order is data. Between any two steps another CPU may load or store, through its TLB: what it holds
there is used even when the page table says something else by now. An interleaving is a list of events,

    [("cpu0", "allocate"), ("cpu1", "read", 0), ("cpu0", "copy"), ("cpu2", "write", 0, 66)]

and `Race.run` does them on the model's own page tables, frames and counters. What goes wrong is found by the
stores that a load sees (`anonfolio.hardware.stores`); `interleavings.search` tries every interleaving.

Loads set no accessed bit here. A processor would, and a fault that finds it set between two looks is taken once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy as shallow
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..kernel import given
from ..kernel.faults import (
    READ,
    WRITE,
    Copying,
    VmFault,
    handle_mm_fault,
    wp_huge_pmd,
    wp_page_copy,
    wp_reusable,
)
from ..kernel.index import Numbers
from ..kernel.mm import Mm
from ..kernel.pagetable import PTE_PRESENT, PTE_WRITE
from ..kernel.policy import LINUX_6_15, RFC_V2, Policy
from ..kernel.record import COW_COPY, FIRST_TOUCH, ZERO_COPY, Effect, Fault
from ..kernel.sizes import NO_FOLIO, ZERO_PFN
from ..kernel.vma import VM_WRITE, Vma
from ..machine.machine import Process
from ..machine.show import Shown, show
from ..program.scenario import Scenario, do_step
from .checks import as_tuple, whole
from .orders import FORK_STEPS, Fork, OrderError, Write
from .stores import Damage, Stores

Event = tuple[Any, ...]
"""``("cpu0", step)``, ``("cpu1", "read", page)`` or ``("cpu1", "write", page, byte)``."""


class Impossible(ValueError):
    """An event that cannot happen at this moment: which one, and what stands in its way."""


# --- the race -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Race:
    """Who runs where, and what CPU 0 is about to do.

    Parameters
    ----------
    start : Scenario
        Brings the machine into the state from which everybody starts.
    policy : Policy
        Which kernel; RFC v2 (a proposal) copies whole ranges.
    cpus : tuple of int
        The process that each CPU runs; CPU 0 is the one that forks or faults.
    work : tuple of Write or Fork
        What CPU 0 does, one after the other.
    warm : tuple of Event
        Accesses made before, so that a TLB holds an entry already.
    pages : tuple of int
        The pages that `interleavings.search` lets other CPUs touch.
    """

    name: str
    start: Scenario
    work: tuple[Write | Fork, ...]
    cpus: tuple[int, ...]
    policy: Policy = LINUX_6_15
    warm: tuple[Event, ...] = ()
    pages: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not isinstance(self.start, Scenario):
            raise ValueError(f"start={self.start!r} is no Scenario")
        if not isinstance(self.policy, Policy):
            raise ValueError(f"policy={self.policy!r} is no Policy; `policy_named` finds one by its name")
        holds = {"work": "writes and forks", "cpus": "processes", "warm": "events", "pages": "pages"}
        for name, what in holds.items():
            object.__setattr__(self, name, as_tuple(name, getattr(self, name), what))
        warm = (as_tuple("warm", event, "a CPU and what it does") for event in self.warm)
        object.__setattr__(self, "warm", tuple(warm))
        for work in self.work:
            if not isinstance(work, (Write, Fork)):
                raise ValueError(f"work: {work!r} is neither a Write nor a Fork")
        if not self.cpus:
            raise ValueError("cpus=(): at least CPU 0 runs a process")
        for process in self.cpus:
            whole("cpus: the process", process)
        for page in (*self.pages, *(work.page for work in self.work if isinstance(work, Write))):
            whole("page", page, 0, self.start.pages - 1)

    def steps(self) -> list[tuple[int, str]]:
        """Everything CPU 0 does, in order: which piece of its work, which step of it."""
        return [(at, step) for at, work in enumerate(self.work) for step in work.order]

    def but_order(self, *order: str) -> Race:
        """The same race with another order of the (last) copy's steps, or of the fork's if they are a fork's."""
        kind = Fork if order and set(order) <= set(FORK_STEPS) else Write
        places = [at for at, work in enumerate(self.work) if isinstance(work, kind)]
        if not places:
            does = ", ".join(f"a {type(work).__name__.lower()}" for work in self.work) or "nothing"
            raise OrderError(f"{self.name!r} has no {kind.__name__.lower()}; CPU 0 does: {does}")
        work = [*self.work]
        work[places[-1]] = replace(work[places[-1]], order=order)
        return replace(self, work=tuple(work))

    def begin(self) -> State:
        """The state before the first event; what warms the TLBs has been done."""
        state = State(self)
        for event in self.warm:
            state.do(event)
        return state

    def run(self, events: Sequence[Event | str]) -> Run:
        """Do the events, then what CPU 0 has left to do, then let everybody read; `Impossible` where it stops.

        A name alone, such as ``"copy"``, stands for all of CPU 0's steps up to the next one of that name.
        """
        events = as_tuple("events", events, "names of steps, and events such as ('cpu1', 'read', 0)")
        state = self.begin()
        moments = [Moment(None, "Before the first step.", state.view(), ())]
        for event in events:
            for single in state.spelt_out(event):
                moments.append(_moment(state, single))
        while not state.finished:
            moments.append(_moment(state, ("cpu0", state.next_step)))
        return Run(self, (*moments, looked_after(state)))


class Translation(NamedTuple):
    """A TLB entry: the frame, and whether it may be written."""

    pfn: int
    writable: bool


class State:
    """A machine, the TLBs of its CPUs, and how far CPU 0 has come.

    Attributes
    ----------
    done : int
        How many of its steps CPU 0 has done.
    copying : Copying or None
        What the fault that it is handling holds.
    over : str
        Why nothing of that fault's copy is left to be done, or empty.
    """

    def __init__(self, race: Race) -> None:
        self.race = race
        self.machine = race.start.machine(race.policy)
        self.base = race.start.first_vpn
        self.stores = Stores()
        self.tlb: list[dict[int, Translation]] = [{} for _ in race.cpus]
        self.done = 0
        self.copying: Copying | None = None
        self.over = ""
        for step in race.start.steps:
            self._start(step)
        self._know_what_is_mapped()

    def _start(self, step: tuple[Any, ...]) -> None:
        machine, (op, number, *arguments) = self.machine, step
        before = [process.mm.pfn.copy() for process in machine.processes]
        done, *_ = do_step(machine, step, self.base)
        for fault in machine.faults:
            self._carried(machine.processes[fault.process].mm, before[fault.process], fault)
        if op == "write" and done:
            page, byte = arguments
            self.stores.store(number, page, byte, int(machine.processes[number].mm.pfn[self.base + page]))
        if op == "fork":
            self.stores.forked(number, machine.processes[-1].number)

    def _know_what_is_mapped(self) -> None:
        """Of its own stores a process misses those only that are there now: the start may have unmapped or moved."""
        self.stores.known.clear()
        for process in self.machine.live():
            for page, entry in enumerate(self._table(process)):
                if entry:
                    self.stores.know_own(process.number, page, entry.pfn)

    def copy(self) -> State:
        """An independent state; the fault in flight is copied with it."""
        twin = shallow(self)
        twin.machine, twin.stores = self.machine.copy(), self.stores.copy()
        twin.tlb = [entries.copy() for entries in self.tlb]
        if self.copying:
            twin.copying = shallow(self.copying)
            twin.copying.vmf = twin._vm_fault(self.copying.vmf.vpn)
            twin.copying.vmf.effect.old_folio = self.copying.vmf.effect.old_folio
        return twin

    def key(self) -> tuple[Any, ...]:
        """Equal for states that go on alike."""
        memory, stores, copying = self.machine.memory, self.stores, self.copying
        tables = tuple(
            column.tobytes()
            for mm in (process.mm for process in self.machine.processes)
            for vma in mm.vmas
            for column in (mm.pte[vma.start : vma.end], mm.pfn[vma.start : vma.end], mm.pmd)
        )
        live = memory.live_folios()
        counts = (
            memory.head, memory.order, memory.refcount, memory.large_mapcount, memory.entire_mapcount, memory.pincount,
            memory.mm_id, memory.mm_id_mapcount, memory.maybe_mapped_shared,
        )  # fmt: skip
        folios = tuple(column[live].tobytes() for column in counts)
        frames = tuple(
            (pfn, held, int(memory.mapcount[pfn]), bool(memory.anon_exclusive[pfn]))
            for pfn, held in sorted(stores.held.items())
        )
        tlb = tuple(tuple(sorted(entries.items())) for entries in self.tlb)
        flight = (copying.folio, copying.source, copying.seen) if copying else ()
        known = frozenset(stores.known.items()), tuple(sorted(stores.forks.items())), tuple(stores.done)
        return self.done, self.over, flight, tables, folios, frames, tlb, known

    # --- where CPU 0 stands -------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether CPU 0 has done all its steps."""
        return self.done == len(self.race.steps())

    @property
    def next_step(self) -> str:
        """The step that CPU 0 does next."""
        return self.race.steps()[self.done][1]

    @property
    def locked(self) -> bool:
        """Whether a fault of another thread of CPU 0's process must wait."""
        if self.finished or self.over:
            return False
        work, at = self._stands()
        return work.locked(at)

    def _stands(self) -> tuple[Write | Fork, int]:
        """The piece of work that CPU 0 is at, and how many of its steps are done."""
        at = self.race.steps()[self.done][0]
        return self.race.work[at], self.done - sum(len(work.order) for work in self.race.work[:at])

    def process(self, cpu: int) -> Process:
        """The process that a CPU runs; `Impossible` before its fork is done."""
        number = self.race.cpus[cpu]
        if number and number not in self.stores.forks:
            raise Impossible(f"process {number} does not run before the fork is done")
        return self.machine.processes[number]

    # --- events -------------------------------------------------------------------------------------------------

    def spelt_out(self, event: Event | str) -> list[Event]:
        """One event as it is; a name alone as CPU 0's steps up to it."""
        if not isinstance(event, str):
            return [event]
        left = [step for _, step in self.race.steps()[self.done :]]
        if event not in left:
            raise Impossible(
                f"CPU 0 has no step {given.said(event)} left; it still has to do: {', '.join(left) or 'nothing'}"
            )
        return [("cpu0", step) for step in left[: left.index(event) + 1]]

    def do(self, event: Event) -> tuple[str, list[Damage]]:
        """Do one event; what happened in a sentence, and the damage that it showed."""
        cpu, op, *arguments = self._checked(event)
        if op == "read":
            return self._read(cpu, *arguments)
        if op == "write":
            return self._write(cpu, *arguments), []
        if self.finished:
            raise Impossible("CPU 0 has done all its steps")
        work, at = self._stands()
        if op != work.order[at]:
            raise Impossible(f"CPU 0's next step is {work.order[at]!r}, not {given.said(op)}")
        said = self._fork_step(op) if isinstance(work, Fork) else self._copy_step(work, op)
        self.done += 1
        if at + 1 == len(work.order):
            self.copying, self.over = None, ""
            if isinstance(work, Fork):
                self.stores.forked(self.race.cpus[0], self.machine.processes[-1].number)
        return said, []

    def _checked(self, event: Event) -> tuple[Any, ...]:
        names = [f"cpu{number}" for number in range(len(self.race.cpus))]
        if not isinstance(event, (tuple, list)):
            raise Impossible(f"{given.said(event)} is neither a step's name nor an event such as ('cpu1', 'read', 0)")
        if len(event) < 2 or event[0] not in names or not isinstance(event[1], str):
            raise Impossible(f"{given.said(event)} does not begin with {', '.join(map(repr, names))} and what it does")
        cpu, op = names.index(event[0]), event[1]
        if len(event) != 2 + {"read": 1, "write": 2}.get(op, 0):
            raise Impossible(f"{given.said(event)}: read takes a page, write a page and a byte, a step nothing")
        if op in ("read", "write"):
            if not cpu:
                raise Impossible(f"{given.said(event)}: CPU 0 is in the kernel; its own store is its last step")
            if not all(type(number) is int for number in event[2:]) or not 0 <= event[-1] <= 255:
                raise Impossible(f"{given.said(event)}: a page is a number, and a byte one in 0..255")
            if not 0 <= event[2] < self.race.start.pages:
                raise Impossible(f"{given.said(event)}: the mapping has pages 0..{self.race.start.pages - 1}")
            return (cpu, op, self.base + event[2], *event[3:])
        if cpu:
            raise Impossible(
                f"{given.said(event)}: only CPU 0 goes through the kernel's steps; the others read and write"
            )
        return cpu, op

    # --- loads and stores ---------------------------------------------------------------------------------------

    def _read(self, cpu: int, vpn: int) -> tuple[str, list[Damage]]:
        process, entry, how = self._translated(cpu, vpn, READ)
        said = f"{self._who(cpu)} reads page {vpn - self.base} {how}: {self.stores.bytes(entry.pfn)}."
        return said, self._judged(process, vpn, entry.pfn)

    def _write(self, cpu: int, vpn: int, byte: int) -> str:
        process, entry, how = self._translated(cpu, vpn, WRITE)
        if self._entry(process, vpn) == entry:
            process.step(vpn, WRITE, byte)
        else:
            self.machine.memory.content[entry.pfn] = byte
        self.stores.store(process.number, vpn - self.base, byte, entry.pfn)
        return f"{self._who(cpu)} writes {byte} to page {vpn - self.base} {how}."

    def _translated(self, cpu: int, vpn: int, access: str) -> tuple[Process, Translation, str]:
        """The process that a CPU runs, the TLB entry that its access goes through, and how it came by that.

        A read-only entry does not do for a store: the CPU walks again, and faults if the page table says so too. Some
        CPUs fault at once; then less can happen than here, not more.
        """
        process = self.process(cpu)
        held = self.tlb[cpu].get(vpn)
        if held and (held.writable or access == READ):
            return process, held, "through its TLB entry"
        told = self._fault_in(cpu, process, vpn, access)
        entry = self._entry(process, vpn)
        assert entry is not None
        self.tlb[cpu][vpn] = entry
        return process, entry, f"after a walk of the page table{told}"

    def _fault_in(self, cpu: int, process: Process, vpn: int, access: str) -> str:
        """Handle the fault that a walk would meet, whole. Says what it was."""
        wanted = PTE_WRITE if access == WRITE else PTE_PRESENT
        mm = process.mm
        if mm.pte[vpn] & wanted:
            return ""
        if process.number == self.race.cpus[0] and self.locked:
            raise Impossible(f"{self._who(cpu)} faults on page {vpn - self.base} and waits: CPU 0 holds the lock")
        vma, before, told = self._vma(process, vpn, access), mm.pfn.copy(), []
        while not mm.pte[vpn] & wanted:
            fault = handle_mm_fault(self.machine, mm, vma, vpn, access)
            self._carried(mm, before, fault)
            told.append(fault.path)
        return f" and a fault ({', '.join(told)})"

    def _vma(self, process: Process, vpn: int, access: str) -> Vma:
        vma = process.mm.find_vma(vpn)
        if vma is None or (access == WRITE and not vma.flags & VM_WRITE):
            what = "read-only" if vma else "not mapped"
            raise Impossible(f"page {vpn - self.base} of process {process.number} is {what}: SIGSEGV")
        return vma

    def _carried(self, mm: Mm, before: Numbers, fault: Fault | Effect) -> None:
        """What a whole fault did: its copy holds the stores that the frames `before` held, what it zeroed none."""
        for vpn in fault.pages:
            if fault.path == COW_COPY:
                self.stores.copied(int(mm.pfn[vpn]), int(before[vpn]))
            elif fault.path in (FIRST_TOUCH, ZERO_COPY):
                self.stores.zeroed(int(mm.pfn[vpn]))
        self._flush(mm.id - 1, fault.pages)

    def _entry(self, process: Process, vpn: int) -> Translation | None:
        bits = int(process.mm.pte[vpn])
        return Translation(int(process.mm.pfn[vpn]), bool(bits & PTE_WRITE)) if bits & PTE_PRESENT else None

    def _table(self, process: Process) -> list[Translation | None]:
        return [self._entry(process, self.base + page) for page in range(self.race.start.pages)]

    def _judged(self, process: Process, vpn: int, pfn: int) -> list[Damage]:
        entry = self._entry(process, vpn)
        return self.stores.read(process.number, vpn - self.base, pfn, entry.pfn if entry else None)

    def settle(self) -> list[Damage]:
        """All TLBs are empty and everybody reads what its page table maps: what is wrong for good."""
        found: list[Damage] = []
        for entries in self.tlb:
            entries.clear()
        for process in self.machine.live():
            for page, entry in enumerate(self._table(process)):
                if entry or (process.number, page) in self.stores.known:
                    found += self._judged(process, self.base + page, entry.pfn if entry else ZERO_PFN)
        return found

    def _who(self, cpu: int) -> str:
        return f"CPU {cpu} (P{self.race.cpus[cpu]})"

    def _flush(self, number: int, pages: range | None = None) -> str:
        """Every CPU that runs a process drops what it holds of these pages, of all by default; says how many."""
        dropped = 0
        for entries, runs in zip(self.tlb, self.race.cpus, strict=True):
            gone = [vpn for vpn in entries if runs == number and (pages is None or vpn in pages)]
            dropped += len(gone)
            for vpn in gone:
                del entries[vpn]
        return f"{dropped} entr{'y' if dropped == 1 else 'ies'}"

    # --- CPU 0 in the kernel ------------------------------------------------------------------------------------

    def _fork_step(self, step: str) -> str:
        parent = self.process(0)
        if step == "flush":
            dropped = self._flush(parent.number)
            return f"CPU 0 flushes: every CPU that runs P{parent.number} drops all it holds ({dropped})."
        if step == "write-protect":
            # Which entries those are, a fork of a copy of the machine says.
            twin = self.machine.copy().processes[parent.number]
            twin.fork()
            parent.mm.pte[:] = twin.mm.pte
            return f"CPU 0 forks: it takes the write bit from every entry of P{parent.number}."
        # The fork itself, which finds nothing left to write-protect.
        return f"CPU 0 gives P{parent.fork().number} the same entries; every page is maybe shared now."

    def _copy_step(self, work: Write, step: str) -> str:
        if step == "store":
            return f"The fault is handled. {self._write(0, self.base + work.page, work.byte)}"
        if step == "allocate":
            vmf = self._vm_fault(self.base + work.page)
            self.over = self._why_no_copy(vmf)
            if self.over:
                return f"{self._who(0)} writes page {work.page}: {self.over}."
            self.copying = Copying(vmf)
        elif self.over:
            return f"CPU 0 skips '{step}': {self.over}."
        assert self.copying is not None
        # One step of the fault that the model handles elsewhere whole; a state can be copied, a generator could not.
        next(wp_page_copy(self.copying, (step,)))
        return self._done(self.copying, step)

    def _vm_fault(self, vpn: int) -> VmFault:
        process = self.process(0)
        return VmFault.at(self.machine, process.mm, self._vma(process, vpn, WRITE), vpn, WRITE)

    def _why_no_copy(self, vmf: VmFault) -> str:
        """Why the write needs no copy (any more), as the fault asks itself; what a PMD maps is handled here and now."""
        bits, before = vmf.mm.pte.item(vmf.vpn), vmf.mm.pfn.copy()
        if bits & PTE_WRITE:
            return "the entry is writable, there is nothing to do"
        if not bits & PTE_PRESENT:
            return "nothing is there to copy"
        if wp_huge_pmd(vmf):
            self._carried(vmf.mm, before, vmf.effect)
            return "it is mapped by a PMD, which is handled whole"
        if wp_reusable(vmf):
            return "the page is this process's alone, it is reused and not copied"
        return ""

    def _done(self, copying: Copying, step: str) -> str:
        """What a step of the copy has done, in words, after the stores and the TLBs have followed it."""
        vmf, pages, stores = copying.vmf, range(copying.start, copying.stop), self.stores
        frames = range(copying.head, copying.head + len(pages))
        entries = "the entry" if len(pages) == 1 else f"the {len(pages)} entries"
        zero = vmf.effect.old_folio == NO_FOLIO
        match step:
            case "allocate":
                for pfn in frames:
                    stores.zeroed(pfn)
                many = "a page" if len(pages) == 1 else f"{len(pages)} pages"
                where = f"{self._who(0)} writes page {vmf.vpn - self.base}"
                if zero:
                    return f"{where}, where the zero page is: a fault. It allocates {many}, zeroed."
                return f"{where}, which is read-only: a fault. It holds the old folio and allocates {many}."
            case "copy" if zero:
                return "CPU 0 copies nothing: what it allocated is zero."
            case "copy":
                for at, pfn in enumerate(frames):
                    stores.copied(pfn, copying.source + at)
                return "CPU 0 copies the bytes: " + ", ".join(map(stores.bytes, frames)) + "."
            case "recheck" if copying.gave_up:
                self.over = "somebody else has changed the entry, so the fault gave up"
                return "CPU 0 takes the lock and looks again: the entry has changed. It frees its copy and gives up."
            case "recheck":
                return "CPU 0 takes the page-table lock and looks again: the entries are as the fault saw them."
            case "clear":
                return f"CPU 0 clears {entries}. TLBs know nothing of it."
            case "flush":
                dropped, who = self._flush(vmf.mm.id - 1, pages), self.race.cpus[0]
                return f"CPU 0 flushes: every CPU that runs P{who} drops what it holds there ({dropped})."
            case "set":
                return f"CPU 0 sets {entries} to the new folio, writable."
        if zero:
            return "CPU 0 has nothing to drop: nobody counts who maps the zero page."
        left = int(vmf.memory.refcount[vmf.effect.old_folio])
        return f"CPU 0 drops the old folio's mapping and its references: {left} left."

    # --- for pictures -------------------------------------------------------------------------------------------

    def view(self) -> View:
        """What a picture shows."""
        base, processes = self.base, self.machine.processes
        tables = tuple((process.number, tuple(self._table(process))) for process in self.machine.live())
        tlbs = tuple(
            tuple(
                (vpn - base, held, self._entry(processes[runs], vpn) != held) for vpn, held in sorted(entries.items())
            )
            for entries, runs in zip(self.tlb, self.race.cpus, strict=True)
        )
        frames = tuple(self._frame_view(pfn) for pfn in sorted(self.stores.held))
        return View(self.race, self.done, self.locked, tlbs, tables, frames)

    def _frame_view(self, pfn: int) -> FrameView:
        memory, folio = self.machine.memory, int(self.machine.memory.folio_of[pfn])
        told, mapcount = self.stores.bytes(pfn), int(memory.mapcount[pfn])
        if folio < 0:
            return FrameView(pfn, told, folio, pfn, 1, 0, mapcount, False)
        head, pages, refs = int(memory.head[folio]), memory.nr_pages(folio), int(memory.refcount[folio])
        return FrameView(pfn, told, folio, head, pages, refs, mapcount, bool(memory.anon_exclusive[pfn]))


# --- what a run shows -----------------------------------------------------------------------------------------------


class FrameView(NamedTuple):
    """One frame: the bytes stored in it, its folio (-1: free), that one's head, pages and references; its mappings,
    PageAnonExclusive."""

    pfn: int
    told: str
    folio: int
    head: int
    pages: int
    refcount: int
    mapcount: int
    exclusive: bool


TlbView = tuple[int, Translation, bool]
"""A page, what a TLB holds for it, and whether that is stale."""


class View(NamedTuple):
    """What everybody holds at one moment: per CPU its TLB entries, per process its page table, the frames."""

    race: Race
    done: int
    locked: bool
    tlbs: tuple[tuple[TlbView, ...], ...]
    tables: tuple[tuple[int, tuple[Translation | None, ...]], ...]
    frames: tuple[FrameView, ...]


@dataclass(frozen=True)
class Moment:
    """One event (None: the start, or the look afterwards), what it did, what everybody holds, the damage it showed."""

    event: Event | None
    says: str
    view: View
    damage: tuple[Damage, ...]


@dataclass(frozen=True)
class Run:
    """An interleaving that was run.

    Attributes
    ----------
    moments : tuple of Moment
        The start, one per event, one for each step that CPU 0 still had to do, and the look afterwards.
    """

    race: Race
    moments: tuple[Moment, ...] = field(repr=False)

    @property
    def damage(self) -> list[Damage]:
        """Everything that went wrong, in order, each once."""
        return list(dict.fromkeys(found for moment in self.moments for found in moment.damage))

    @property
    def kinds(self) -> set[str]:
        """The kinds of damage that showed."""
        return {found.kind for found in self.damage}

    def first(self, kind: str | None = None) -> int | None:
        """The moment at which damage (of that kind) first showed."""
        for at, moment in enumerate(self.moments):
            if any(kind in (None, found.kind) for found in moment.damage):
                return at
        return None

    def show(self, at: int | None = None) -> Shown:
        """The picture of a moment; by default the first that shows damage, else the last."""
        return show(self, at)


def looked_after(state: State) -> Moment:
    """The look at the end: all TLBs are flushed and everybody reads; the state is then another one."""
    found = state.settle()
    return Moment(None, _aftermath(found), state.view(), tuple(found))


def _moment(state: State, event: Event) -> Moment:
    said, found = state.do(event)
    return Moment(event, said, state.view(), tuple(found))


def _aftermath(found: Sequence[Damage]) -> str:
    told = "Afterwards all TLBs are flushed and everybody reads again"
    return f"{told}, and not all is well." if found else f"{told}: each finds what it should."


# --- the races that the notebook is about ---------------------------------------------------------------------------

_SHARED_PAGE = Scenario(1, (("write", 0, 0, 11), ("fork", 0)), orders=(), name="one page, shared with a child")
_OWN_PAGE = Scenario(1, (("write", 0, 0, 11),), orders=(), name="one page")
_HALF_SHARED = Scenario(
    4,
    (
        *(("write", 0, page, 11 + page) for page in range(4)),
        ("madvise", 0, 2, 2, "wipeonfork"),
        ("fork", 0),
        ("madvise", 0, 2, 2, "keeponfork"),
    ),
    orders=(2,),
    name="a folio of four, its upper half still exclusive",
)

THREADS = Race(
    name="three threads", start=_SHARED_PAGE, work=(Write(0, 20),), cpus=(0, 0, 0), warm=(("cpu1", "read", 0),)
)
"""P0 runs on all three CPUs; CPU 0 writes the page, CPU 1 holds its entry."""
CHILD = Race(
    name="a thread and the child", start=_SHARED_PAGE, work=(Write(0, 20),), cpus=(0, 0, 1),
    warm=(("cpu1", "read", 0),),
)  # fmt: skip
"""CPU 1 runs P0 too and holds the page's entry; CPU 2 runs the child, which maps the same page."""
FORKING = Race(
    name="fork, then a write", start=_OWN_PAGE, work=(Fork(), Write(0, 20)), cpus=(0, 0, 1),
    warm=(("cpu1", "write", 0, 12),),
)  # fmt: skip
"""CPU 0 forks, then writes the page; CPU 1, a thread of the same process, has written it and holds a writable entry."""
RANGE = Race(
    name="a range with a writable neighbour", start=_HALF_SHARED, work=(Write(0, 20),), cpus=(0, 0), policy=RFC_V2,
    warm=(("cpu1", "write", 3, 18),), pages=(0, 3),
)  # fmt: skip
"""RFC v2 as posted (a proposal): the copy of page 0 takes all four; pages 2 and 3 are exclusive and writable."""

SET_BEFORE_FLUSH = THREADS.but_order("allocate", "copy", "recheck", "set", "flush", "drop", "store")
FLUSH_BEFORE_CLEAR = THREADS.but_order("allocate", "copy", "recheck", "flush", "clear", "set", "drop", "store")
DROP_BEFORE_FLUSH = CHILD.but_order("allocate", "copy", "recheck", "clear", "drop", "flush", "set", "store")
FORK_WITHOUT_FLUSH = FORKING.but_order("write-protect", "share")
NO_RECHECK = THREADS.but_order("allocate", "copy", "clear", "flush", "set", "drop", "store")
RANGE_CLEARED_FIRST = RANGE.but_order("allocate", "recheck", "clear", "flush", "copy", "set", "drop", "store")
