"""The steps inside a copy-on-write fault one at a time, while other CPUs go on reading and writing.

A `Race` says where it starts (a `Scenario` run on the model), which process each CPU runs, and what CPU 0 does: a
write that copies (`wp_page_copy`) or a fork, as a tuple of step names. The order of the steps is that tuple, so a
wrong order is data. Between any two steps another CPU may load or store, through its TLB: what it holds there is
used even when the page table says something else by now. An interleaving is a list of events,

    [("cpu0", "allocate"), ("cpu1", "read", 0), ("cpu0", "copy"), ("cpu2", "write", 0, 66)]

and `Race.run` does them on the model's own page tables, frames and counters. `search` tries every interleaving.

Three kinds of damage are looked for (`DAMAGE`). Of a frame the model keeps one byte, the latest; here it also remembers
all stores that reached it, as if each went to a byte of its own, and a copy copies them too. A read then sees which
stores are there, and whether one is missing that its process has done or seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from ..kernel.faults import (
    READ,
    WRITE,
    VmFault,
    alloc_copy_folio,
    handle_mm_fault,
    wp_can_reuse_anon_folio,
)
from ..kernel.index import Numbers
from ..kernel.mm import Mm
from ..kernel.pagetable import PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG, WRPROTECT
from ..kernel.policy import LINUX_6_15, RFC_V2, Policy
from ..kernel.record import COW_COPY, FIRST_TOUCH, ZERO_COPY, Fault
from ..kernel.rmap import folio_add_new_anon_rmap, folio_remove_rmap_ptes
from ..kernel.sizes import ZERO_PFN
from ..kernel.vma import Vma
from ..machine.machine import Process
from ..machine.show import Shown, show
from ..program.scenario import Scenario, do_step

Event = tuple[Any, ...]
"""``("cpu0", step)``, ``("cpu1", "read", page)`` or ``("cpu1", "write", page, byte)``."""

STALE_READ, LEAK, LOST_WRITE = "stale read", "leak", "lost write"
DAMAGE = {
    STALE_READ: "a thread misses a store that its process has done or seen: its TLB entry is stale",
    LEAK: "a process reads a byte that another process wrote after the fork",
    LOST_WRITE: "a store was done, and the frame that its process maps has no trace of it",
}
"""What can go wrong, and what each word means here."""

COPY_STEPS = {
    "allocate": "look at the entry, take a reference on the old folio (`do_wp_page`), allocate a new one",
    "copy": "copy the bytes",
    "recheck": "take the page-table lock; if the entries are not what the fault saw, give up (`pte_same`)",
    "clear": "clear the entries (first half of `ptep_clear_flush`)",
    "flush": "make every CPU that runs this process drop them from its TLB (second half of `ptep_clear_flush`)",
    "set": "count the new folio as mapped and exclusive, write the new entries (`set_pte_at`)",
    "drop": "no longer count the old folio as mapped (`folio_remove_rmap_pte`), drop both references (`folio_put`)",
    "store": "back in the program: the store is done again",
}
"""The steps of a write that copies, by name."""

FORK_STEPS = {
    "write-protect": "take the write bit from the parent's entries",
    "share": "give the child the same entries, count references and mappings, take the exclusive marks",
    "flush": "make every CPU that runs the parent drop its entries (`flush_tlb_mm`, at the end of `dup_mmap`)",
}
"""The steps of a fork, by name. The child runs when the last one is done."""

KERNEL_COPY = ("allocate", "copy", "recheck", "clear", "flush", "set", "drop", "store")
"""`wp_page_copy` in 6.1, 6.12 (read) and, by its identical text, 6.17 and 7.2."""
KERNEL_FORK = ("write-protect", "share", "flush")
"""`dup_mmap` and `copy_present_ptes` in 6.12."""

_LOCKED = ("recheck", "clear", "set", "drop")
"""The page-table lock is held from the first of these to the last: others of the process that fault then must wait."""
_BEFORE = {
    "copy": ("allocate",),
    "recheck": ("allocate",),
    "set": ("allocate", "recheck"),
    "clear": ("recheck",),
    "drop": ("allocate", "recheck"),
    "store": ("allocate", "copy", "set", "drop"),
}
"""What must have been done before, when it is done at all, for a step to make sense."""
_NEEDED = ("allocate", "copy", "set", "drop", "store")


class OrderError(ValueError):
    """An order of steps that nobody could carry out: which step, and what it lacks."""


class Impossible(ValueError):
    """An event that cannot happen at this moment: which one, and what stands in its way."""


# --- what CPU 0 does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    """A store by CPU 0 that meets a read-only entry, as steps in an order."""

    page: int
    byte: int
    order: tuple[str, ...] = KERNEL_COPY

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(self.order))
        check_order(self.order)

    def locked(self, at: int) -> bool:
        """Whether the page-table lock is held when `at` steps are done."""
        inside = [place for place, step in enumerate(self.order) if step in _LOCKED]
        return inside[0] < at <= inside[-1]


@dataclass(frozen=True)
class Fork:
    """A fork by CPU 0. Without ``flush`` the entries stay in the TLBs of the parent's threads."""

    order: tuple[str, ...] = KERNEL_FORK

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(self.order))
        if tuple(step for step in self.order if step != "flush") != KERNEL_FORK[:2]:
            raise OrderError(f"a fork write-protects, then shares; it may flush: {', '.join(KERNEL_FORK)}")

    def locked(self, at: int) -> bool:
        """fork holds mmap_lock for writing to its end: a fault of another thread waits (`dup_mmap`, 6.12)."""
        return 0 < at < len(self.order)


def check_order(order: Sequence[str]) -> None:
    """Raise OrderError unless the steps of a copy can be carried out in that order."""
    for at, step in enumerate(order):
        if step not in COPY_STEPS:
            raise OrderError(f"there is no step {step!r}; there are {', '.join(COPY_STEPS)}")
        if step in order[:at]:
            raise OrderError(f"{step!r} comes twice")
        for earlier in _BEFORE.get(step, ()):
            if earlier in order[at:]:
                raise OrderError(f"{step!r} comes before {earlier!r}: {_WHY_BEFORE[step, earlier]}")
    missing = [step for step in _NEEDED if step not in order]
    if missing:
        raise OrderError(f"without {', '.join(map(repr, missing))} the fault is never finished")
    if order[-1] not in ("store", "flush"):
        raise OrderError("the program's store comes when the kernel is done; only a late flush may follow it")


_FOUND = "it compares the entry with what the fault saw, and would find the kernel's own change"
_WHY_BEFORE = {
    ("copy", "allocate"): "there is nothing to copy to yet",
    ("recheck", "allocate"): "'allocate' is the step that looks at the entry first",
    ("set", "allocate"): "there is no new page yet",
    ("drop", "allocate"): "the reference that it drops is taken there",
    **{(step, "recheck"): _FOUND for step in ("set", "clear", "drop")},
    **{("store", step): "the program goes on when the fault is handled" for step in _BEFORE["store"]},
}


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
        The pages that `search` lets other CPUs touch.
    """

    name: str
    start: Scenario
    work: tuple[Write | Fork, ...]
    cpus: tuple[int, ...]
    policy: Policy = LINUX_6_15
    warm: tuple[Event, ...] = ()
    pages: tuple[int, ...] = (0,)

    def steps(self) -> list[tuple[int, str]]:
        """Everything CPU 0 does, in order: which piece of its work, which step of it."""
        return [(at, step) for at, work in enumerate(self.work) for step in work.order]

    def but_order(self, *order: str) -> Race:
        """The same race with another order of the (last) copy's steps, or of the fork's if they are a fork's."""
        forks = set(order) <= set(FORK_STEPS)
        at = max(at for at, work in enumerate(self.work) if isinstance(work, Fork) == forks)
        work = [*self.work]
        work[at] = replace(work[at], order=order)
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
        state = self.begin()
        moments = [Moment(None, "Before the first step.", state.view(), ())]
        for event in events:
            for single in state.spelt_out(event):
                moments.append(_moment(state, single))
        while not state.finished:
            moments.append(_moment(state, ("cpu0", state.next_step)))
        found = state.settle()
        moments.append(Moment(None, _aftermath(found), state.view(), tuple(found)))
        return Run(self, tuple(moments))


class Damage(NamedTuple):
    """One kind of `DAMAGE`, where it showed, and a sentence."""

    kind: str
    process: int
    page: int
    says: str


class Store(NamedTuple):
    """A store: whose, where, what."""

    process: int
    page: int
    byte: int


class Translation(NamedTuple):
    """A TLB entry: the frame, and whether it may be written."""

    pfn: int
    writable: bool


@dataclass
class _Copying:
    """What a write fault of CPU 0 holds between its steps."""

    pages: range
    folio: int = -1
    old_folio: int = -1
    old_pfn: int = -1
    seen: bytes = b""
    vmf: VmFault | None = None
    over: str = ""
    """Why nothing is left to be done, or empty."""

    @property
    def new_pfn(self) -> int:
        assert self.vmf is not None
        return int(self.vmf.memory.head[self.folio])


class State:
    """A machine, the TLBs of its CPUs, and how far CPU 0 has come."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self.machine = race.start.machine(race.policy)
        self.base = race.start.first_vpn
        self.stores: list[Store] = []
        self.held: dict[int, tuple[int, ...]] = {}
        """Per frame the stores that reached it, by number, in order."""
        self.known: dict[tuple[int, int], frozenset[int]] = {}
        """Per process and page the stores that its threads have done or seen."""
        self.forked_at: dict[int, int] = {}
        """Per child how many stores there were when its fork was done."""
        self.tlb: list[dict[int, Translation]] = [{} for _ in race.cpus]
        self.done = 0
        self.copying: _Copying | None = None
        self._start()

    def _start(self) -> None:
        for step in self.race.start.steps:
            before = {process.number: process.mm.pfn.copy() for process in self.machine.processes}
            do_step(self.machine, step, self.base)
            for fault in self.machine.faults:
                self._carried(self.machine.processes[fault.process].mm, before[fault.process], fault)
            if step[0] == "write":
                vpn = self.base + step[2]
                self._stored(step[1], vpn, step[3], int(self.machine.processes[step[1]].mm.pfn[vpn]))
            if step[0] == "fork":
                self._forked(self.machine.processes[-1].number)

    def copy(self) -> State:
        """An independent state; the fault in flight is copied with it."""
        twin = object.__new__(State)
        twin.__dict__.update(self.__dict__)
        twin.machine = self.machine.copy()
        twin.stores, twin.held, twin.known = self.stores.copy(), self.held.copy(), self.known.copy()
        twin.forked_at = self.forked_at.copy()
        twin.tlb = [entries.copy() for entries in self.tlb]
        if self.copying:
            twin.copying = replace(self.copying, vmf=twin._vm_fault() if self.copying.vmf else None)
        return twin

    def key(self) -> tuple[Any, ...]:
        """Equal for states that go on alike."""
        memory, copying = self.machine.memory, self.copying
        tables = tuple(
            (process.mm.pte[vma.start : vma.end].tobytes(), process.mm.pfn[vma.start : vma.end].tobytes())
            for process in self.machine.processes
            for vma in process.mm.vmas
        )
        counts = (memory.refcount, memory.large_mapcount, memory.head, memory.order)
        folios = tuple(tuple(int(column[folio]) for column in counts) for folio in memory.live_folios())
        frames = tuple(
            (pfn, held, int(memory.mapcount[pfn]), bool(memory.anon_exclusive[pfn]))
            for pfn, held in sorted(self.held.items())
        )
        tlb = tuple(tuple(sorted(entries.items())) for entries in self.tlb)
        flight = (copying.folio, copying.old_pfn, copying.seen, copying.over) if copying else ()
        known = (frozenset(self.known.items()), tuple(sorted(self.forked_at.items())), tuple(self.stores))
        return self.done, flight, tables, folios, frames, tlb, known

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
        if self.finished:
            return False
        if self.copying and self.copying.over:
            return False
        at = self.race.steps()[self.done][0]
        before = sum(len(work.order) for work in self.race.work[:at])
        return self.race.work[at].locked(self.done - before)

    def process(self, cpu: int) -> Process:
        """The process that a CPU runs; `Impossible` before its fork is done."""
        number = self.race.cpus[cpu]
        if number >= len(self.machine.processes) or (number and number not in self.forked_at):
            raise Impossible(f"process {number} does not run before the fork is done")
        return self.machine.processes[number]

    # --- events -------------------------------------------------------------------------------------------------

    def spelt_out(self, event: Event | str) -> list[Event]:
        """One event as it is; a name alone as CPU 0's steps up to it."""
        if not isinstance(event, str):
            return [tuple(event)]
        left = [step for _, step in self.race.steps()[self.done :]]
        if event not in left:
            raise Impossible(f"CPU 0 has no step {event!r} left; it still has to do: {', '.join(left) or 'nothing'}")
        return [("cpu0", step) for step in left[: left.index(event) + 1]]

    def do(self, event: Event) -> tuple[str, list[Damage]]:
        """Do one event; what happened in a sentence, and the damage that it showed."""
        cpu, op, *arguments = self._checked(event)
        if op == "read":
            return self._read(cpu, *arguments)
        if op == "write":
            return self._write(cpu, *arguments)
        if self.finished:
            raise Impossible("CPU 0 has done all its steps")
        if op != self.next_step:
            raise Impossible(f"CPU 0's next step is {self.next_step!r}, not {op!r}")
        work = self.race.work[self.race.steps()[self.done][0]]
        said, found = self._fork_step(op) if isinstance(work, Fork) else self._copy_step(work, op)
        self.done += 1
        if op == work.order[-1]:
            self.copying = None
        if isinstance(work, Fork) and op == work.order[-1]:
            self._forked(len(self.machine.processes) - 1)
        return said, found

    def _checked(self, event: Event) -> tuple[Any, ...]:
        names = [f"cpu{number}" for number in range(len(self.race.cpus))]
        if len(event) < 2 or event[0] not in names or not isinstance(event[1], str):
            raise Impossible(f"{event!r} does not begin with {', '.join(map(repr, names))} and what it does")
        cpu, op = names.index(event[0]), event[1]
        count = {"read": 1, "write": 2}.get(op, 0)
        if len(event) != 2 + count:
            raise Impossible(f"{event!r}: read takes a page, write a page and a byte, a step nothing")
        if op in ("read", "write"):
            if not cpu:
                raise Impossible(f"{event!r}: CPU 0 is in the kernel; its own store is its last step")
            if not all(type(number) is int for number in event[2:]) or not 0 <= event[-1] <= 255:
                raise Impossible(f"{event!r}: a page is a number, and a byte one in 0..255")
            if not 0 <= event[2] < self.race.start.pages:
                raise Impossible(f"{event!r}: the mapping has pages 0..{self.race.start.pages - 1}")
            return (cpu, op, self.base + event[2], *event[3:])
        if cpu:
            raise Impossible(f"{event!r}: only CPU 0 goes through the kernel's steps; the others read and write")
        return cpu, op

    # --- loads and stores ---------------------------------------------------------------------------------------

    def _read(self, cpu: int, vpn: int) -> tuple[str, list[Damage]]:
        process = self.process(cpu)
        entry = self.tlb[cpu].get(vpn)
        how = "through its TLB entry" if entry else "after a walk of the page table"
        if entry is None:
            how += self._fault_in(cpu, process, vpn, READ)
            entry = self._walk(cpu, process, vpn)
        found = self._judge_read(process, vpn, entry.pfn)
        return f"{self._who(cpu)} reads page {vpn - self.base} {how}: {self._bytes(entry.pfn)}.", found

    def _write(self, cpu: int, vpn: int, byte: int) -> tuple[str, list[Damage]]:
        process = self.process(cpu)
        entry = self.tlb[cpu].get(vpn)
        how = "through its TLB entry"
        if entry is None or not entry.writable:
            # A read-only entry does not do for a store: the CPU walks again, and faults if the page table says so too.
            # Some CPUs fault at once; then less can happen than here, not more.
            how = "after a walk of the page table" + self._fault_in(cpu, process, vpn, WRITE)
            entry = self._walk(cpu, process, vpn)
        self.machine.memory.content[entry.pfn] = byte
        if self._entry(process, vpn) == entry:
            process.mm.pte[vpn] |= PTE_DIRTY | PTE_YOUNG
        self._stored(process.number, vpn, byte, entry.pfn)
        return f"{self._who(cpu)} writes {byte} to page {vpn - self.base} {how}.", []

    def _fault_in(self, cpu: int, process: Process, vpn: int, access: str) -> str:
        """Handle the fault that a walk would meet, whole: the model's own fault path. Says what it was."""
        wanted = PTE_WRITE if access == WRITE else PTE_PRESENT
        mm = process.mm
        if mm.pte[vpn] & wanted:
            return ""
        if process.number == self.race.cpus[0] and self.locked:
            raise Impossible(f"{self._who(cpu)} faults on page {vpn - self.base} and waits: CPU 0 holds the lock")
        vma = mm.find_vma(vpn)
        if vma is None:
            raise Impossible(f"page {vpn - self.base} is not mapped")
        before = mm.pfn.copy()
        told = []
        while not mm.pte[vpn] & wanted:
            fault = handle_mm_fault(self.machine, mm, vma, vpn, access)
            self._carried(mm, before, fault)
            self._flush(process.number, fault.pages)
            told.append(fault.path)
        return f" and a fault ({', '.join(told)})"

    def _carried(self, mm: Mm, before: Numbers, fault: Fault) -> None:
        """A fault's copy holds the stores that the frames `before` it held; a frame that it zeroed holds none."""
        for page in fault.pages:
            new = int(mm.pfn[page])
            if fault.path == COW_COPY:
                self.held[new] = self.held.get(int(before[page]), ())
            elif fault.path in (FIRST_TOUCH, ZERO_COPY):
                self.held[new] = ()

    def _entry(self, process: Process, vpn: int) -> Translation | None:
        bits = int(process.mm.pte[vpn])
        return Translation(int(process.mm.pfn[vpn]), bool(bits & PTE_WRITE)) if bits & PTE_PRESENT else None

    def _walk(self, cpu: int, process: Process, vpn: int) -> Translation:
        entry = self._entry(process, vpn)
        assert entry is not None
        self.tlb[cpu][vpn] = entry
        return entry

    def _judge_read(self, process: Process, vpn: int, pfn: int) -> list[Damage]:
        """The damage that a load from a frame shows; what it rightly sees is known from now on."""
        number, page = process.number, vpn - self.base
        held, known = frozenset(self.held.get(pfn, ())), self.known.get((number, vpn), frozenset())
        foreign = frozenset(store for store in held if self._foreign(number, store))
        found = []
        for store in sorted(foreign):
            writer, _, byte = self.stores[store]
            says = f"P{number} reads {byte} in page {page}, which P{writer} wrote after the fork."
            found.append(Damage(LEAK, number, page, says))
        entry = self._entry(process, vpn)
        stale = entry is None or entry.pfn != pfn
        for store in sorted(known - held):
            writer, _, byte = self.stores[store]
            if stale:
                says = f"P{number} reads page {page} in a frame that it maps no longer: it misses the {byte}."
                found.append(Damage(STALE_READ, number, page, says))
            else:
                did = "stored" if writer == number else "saw"
                says = f"P{number} {did} {byte} in page {page}, and the frame that it maps there has no {byte}."
                found.append(Damage(LOST_WRITE, number, page, says))
        self.known[number, vpn] = known | (held - foreign)
        return found

    def _foreign(self, reader: int, store: int) -> bool:
        writer = self.stores[store].process
        # A race has one fork, so of two processes the one with the higher number is the other's child.
        return writer != reader and store >= self.forked_at.get(max(reader, writer), 0)

    def settle(self) -> list[Damage]:
        """All TLBs are empty and everybody reads what its page table maps: what is wrong for good."""
        found: list[Damage] = []
        for entries in self.tlb:
            entries.clear()
        for process in self.machine.live():
            for vpn in range(self.base, self.base + self.race.start.pages):
                entry = self._entry(process, vpn)
                if entry or (process.number, vpn) in self.known:
                    found += self._judge_read(process, vpn, entry.pfn if entry else ZERO_PFN)
        return found

    # --- bookkeeping --------------------------------------------------------------------------------------------

    def _who(self, cpu: int) -> str:
        return f"CPU {cpu} (P{self.race.cpus[cpu]})"

    def _bytes(self, pfn: int) -> str:
        return " ".join(str(self.stores[store].byte) for store in self.held.get(pfn, ())) or "0"

    def _stored(self, process: int, vpn: int, byte: int, pfn: int) -> None:
        number = len(self.stores)
        self.stores.append(Store(process, vpn, byte))
        self.held[pfn] = (*self.held.get(pfn, ()), number)
        self.known[process, vpn] = self.known.get((process, vpn), frozenset()) | {number}

    def _forked(self, child: int) -> None:
        self.forked_at[child] = len(self.stores)

    def _flush(self, number: int, pages: range | None = None) -> int:
        dropped = 0
        for cpu, runs in enumerate(self.race.cpus):
            if runs != number:
                continue
            for vpn in list(self.tlb[cpu]):
                if pages is None or vpn in pages:
                    del self.tlb[cpu][vpn]
                    dropped += 1
        return dropped

    # --- CPU 0 in the kernel ------------------------------------------------------------------------------------

    def _fork_step(self, step: str) -> tuple[str, list[Damage]]:
        parent = self.process(0)
        if step == "write-protect":
            for vma in parent.mm.vmas:
                parent.mm.pte[vma.start : vma.end] &= WRPROTECT
            return f"CPU 0 forks: it takes the write bit from every entry of P{parent.number}.", []
        if step == "share":
            child = parent.fork()
            return f"CPU 0 gives P{child.number} the same entries; every page is maybe shared now.", []
        dropped = self._flush(parent.number)
        return f"CPU 0 flushes: every CPU that runs P{parent.number} drops all it holds ({_many(dropped)}).", []

    def _copy_step(self, work: Write, step: str) -> tuple[str, list[Damage]]:
        if step == "store":
            said, found = self._write(0, self.base + work.page, work.byte)
            return f"The fault is handled. {said}", found
        if step == "allocate":
            return self._allocate(work), []
        assert self.copying is not None
        if self.copying.over:
            return f"CPU 0 skips '{step}': {self.copying.over}.", []
        return _COPY[step](self, self.copying), []

    def _vm_fault(self) -> VmFault:
        work = self.race.work[self.race.steps()[self.done][0]]
        assert isinstance(work, Write)
        process, vpn = self.process(0), self.base + work.page
        vma = process.mm.find_vma(vpn)
        assert isinstance(vma, Vma)
        vmf = VmFault.at(self.machine, process.mm, vma, vpn, WRITE)
        vmf.effect.old_folio = int(self.machine.memory.folio_of[process.mm.pfn[vpn]])
        return vmf

    def _allocate(self, work: Write) -> str:
        vmf, mm, memory = self._vm_fault(), self.process(0).mm, self.machine.memory
        where = f"CPU 0 (P{mm.id - 1}) writes page {work.page}"
        self.copying = _Copying(range(vmf.vpn, vmf.vpn + 1), over=_no_copy(vmf))
        if self.copying.over:
            return f"{where}: {self.copying.over}."
        memory.folio_get(vmf.effect.old_folio)
        folio, start = alloc_copy_folio(vmf)
        pages = range(start, start + memory.nr_pages(folio))
        self.copying = _Copying(pages, folio, vmf.effect.old_folio, int(mm.pfn[start]), _entries(vmf, pages), vmf)
        for pfn in range(self.copying.new_pfn, self.copying.new_pfn + len(pages)):
            self.held[pfn] = ()
        many = "a page" if len(pages) == 1 else f"{len(pages)} pages"
        return f"{where}, which is read-only: a fault. It holds the old folio and allocates {many}."

    def _copy(self, copying: _Copying) -> str:
        memory, new, old, pages = self.machine.memory, copying.new_pfn, copying.old_pfn, len(copying.pages)
        memory.content[new : new + pages] = memory.content[old : old + pages]
        for at in range(pages):
            self.held[new + at] = self.held.get(old + at, ())
        return "CPU 0 copies the bytes: " + ", ".join(self._bytes(new + at) for at in range(pages)) + "."

    def _recheck(self, copying: _Copying) -> str:
        vmf = copying.vmf
        assert vmf is not None
        if _entries(vmf, copying.pages) == copying.seen:
            return "CPU 0 takes the page-table lock and looks again: the entries are as the fault saw them."
        vmf.memory.folio_put(copying.folio)
        vmf.memory.folio_put(copying.old_folio)
        copying.over = "somebody else has changed the entry, so the fault gave up"
        return "CPU 0 takes the lock and looks again: the entry has changed. It frees its copy and gives up."

    def _clear(self, copying: _Copying) -> str:
        self.process(0).mm.pte[copying.pages.start : copying.pages.stop] = 0
        return f"CPU 0 clears {_entry_words(copying)}. TLBs know nothing of it."

    def _flush_step(self, copying: _Copying) -> str:
        dropped = self._flush(self.race.cpus[0], copying.pages)
        return f"CPU 0 flushes: every CPU that runs P{self.race.cpus[0]} drops what it holds there ({_many(dropped)})."

    def _set(self, copying: _Copying) -> str:
        vmf, pages = copying.vmf, len(copying.pages)
        assert vmf is not None
        vmf.memory.folio_get(copying.folio, pages - 1)
        folio_add_new_anon_rmap(vmf.memory, copying.folio, vmf.mm.id)
        vmf.mm.set_ptes(copying.pages.start, copying.new_pfn, pages, vmf.writable_bits())
        return f"CPU 0 sets {_entry_words(copying)} to the new folio, writable."

    def _drop(self, copying: _Copying) -> str:
        vmf, pages = copying.vmf, len(copying.pages)
        assert vmf is not None
        folio_remove_rmap_ptes(vmf.memory, copying.old_folio, copying.old_pfn, pages, vmf.mm.id)
        vmf.memory.folio_put(copying.old_folio, pages + 1)
        left = int(vmf.memory.refcount[copying.old_folio])
        return f"CPU 0 drops the old folio's mapping and its references: {left} left."

    # --- for pictures -------------------------------------------------------------------------------------------

    def view(self) -> View:
        """What a picture shows."""
        base = self.base
        pages = range(base, base + self.race.start.pages)
        tables = tuple(
            (process.number, tuple(self._entry(process, vpn) for vpn in pages))
            for process in self.machine.processes
            if process.alive
        )
        tlbs = []
        for cpu, runs in enumerate(self.race.cpus):
            known = runs < len(self.machine.processes)
            tlbs.append(
                tuple(
                    (vpn - base, entry, not known or self._entry(self.machine.processes[runs], vpn) != entry)
                    for vpn, entry in sorted(self.tlb[cpu].items())
                )
            )
        frames = tuple(self._frame_view(pfn) for pfn in sorted(self.held))
        return View(self.race, self.done, self.locked, tuple(tlbs), tables, frames)

    def _frame_view(self, pfn: int) -> FrameView:
        memory, folio = self.machine.memory, int(self.machine.memory.folio_of[pfn])
        told, mapcount = self._bytes(pfn), int(memory.mapcount[pfn])
        if folio < 0:
            return FrameView(pfn, told, folio, pfn, 1, 0, mapcount, False)
        head, pages, refs = int(memory.head[folio]), memory.nr_pages(folio), int(memory.refcount[folio])
        return FrameView(pfn, told, folio, head, pages, refs, mapcount, bool(memory.anon_exclusive[pfn]))


_COPY: dict[str, Callable[[State, _Copying], str]] = {
    "copy": State._copy,
    "recheck": State._recheck,
    "clear": State._clear,
    "flush": State._flush_step,
    "set": State._set,
    "drop": State._drop,
}


def _many(entries: int) -> str:
    return f"{entries} entr{'y' if entries == 1 else 'ies'}"


def _entry_words(copying: _Copying) -> str:
    return "the entry" if len(copying.pages) == 1 else f"the {len(copying.pages)} entries"


def _entries(vmf: VmFault, pages: range) -> bytes:
    """The entries as `pte_same` compares them."""
    return vmf.mm.pte[pages.start : pages.stop].tobytes() + vmf.mm.pfn[pages.start : pages.stop].tobytes()


def _no_copy(vmf: VmFault) -> str:
    """Why the write needs no copy (any more): as `do_wp_page` asks."""
    bits = int(vmf.mm.pte[vmf.vpn])
    if bits & PTE_WRITE:
        return "the entry is writable, there is nothing to do"
    if not bits & PTE_PRESENT or bits & PTE_SPECIAL:
        return "nothing is there to copy"
    if vmf.memory.anon_exclusive[vmf.mm.pfn[vmf.vpn]] or wp_can_reuse_anon_folio(vmf):
        return "the page is this process's alone, it is reused and not copied"
    return ""


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


def _moment(state: State, event: Event) -> Moment:
    said, found = state.do(event)
    return Moment(event, said, state.view(), tuple(found))


def _aftermath(found: Sequence[Damage]) -> str:
    told = "Afterwards all TLBs are flushed and everybody reads again"
    return f"{told}, and not all is well." if found else f"{told}: each finds what it should."


# --- every interleaving ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """What all interleavings of a race show.

    Attributes
    ----------
    states : int
        How many different states they lead through.
    found : dict of str to tuple of Event
        Per kind of damage a shortest interleaving that shows it; empty when none does.
    """

    race: Race
    accesses: int
    states: int
    found: dict[str, tuple[Event, ...]]

    def __bool__(self) -> bool:
        return bool(self.found)

    def __str__(self) -> str:
        bound = f"{self.states:,} states, up to {self.accesses} accesses by other CPUs"
        if not self.found:
            return f"{self.race.name}: no damage ({bound})"
        lines = [f"{self.race.name}: {bound}"]
        for kind, events in self.found.items():
            lines.append(f"  {kind}: " + ", ".join(" ".join(map(str, event)) for event in events))
        return "\n".join(lines)


def search(race: Race, accesses: int = 2) -> Searched:
    """Try every interleaving of CPU 0's steps with up to that many loads and stores by the other CPUs.

    Shortest first, so what is found is shortest. Loads and stores go to `Race.pages`; each store writes a byte of its
    own. Loads that hit and change nothing are tried all the same: they may be the one that sees damage.
    """
    start = race.begin()
    queue: deque[tuple[State, tuple[Event, ...], int]] = deque([(start, (), 0)])
    met = {(0, start.key())}
    found: dict[str, tuple[Event, ...]] = {}
    while queue:
        state, events, used = queue.popleft()
        if state.finished:
            for damage in state.copy().settle():
                found.setdefault(damage.kind, events)
        for event in _possible(state, used < accesses):
            twin = state.copy()
            try:
                _, seen = twin.do(event)
            except Impossible:
                continue
            for damage in seen:
                found.setdefault(damage.kind, (*events, event))
            spent = used + (event[1] in ("read", "write"))
            key = (spent, twin.key())
            if key not in met:
                met.add(key)
                queue.append((twin, (*events, event), spent))
    return Searched(race, accesses, len(met), found)


def _possible(state: State, accesses: bool) -> Iterator[Event]:
    if not state.finished:
        yield ("cpu0", state.next_step)
    if not accesses:
        return
    for cpu in range(1, len(state.race.cpus)):
        for page in state.race.pages:
            yield (f"cpu{cpu}", "read", page)
            yield (f"cpu{cpu}", "write", page, 60 + len(state.stores))


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


@cache
def searched(race: Race, accesses: int = 2) -> Searched:
    """`search`, remembered."""
    return search(race, accesses)
