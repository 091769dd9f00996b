"""The shortest program that breaks a promise of the kernel, or the statement that within a bound there is none.

Breadth first over short programs on one small mapping, so the first counterexample is a shortest one. States that
differ only in the names of processes, frames and folios, or in bytes, are one state: they are explored once.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from ..kernel.pagetable import PTE_GUARD, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.policy import Policy, policy_named
from ..kernel.rules import PRCTL
from ..machine.invariants import KERNEL_PROMISES, Invariant, Violation, check
from ..machine.machine import ADVICE, Machine, Process
from .ops import TABLE, Situation, Step, do_step
from .scenario import Scenario

OPERATIONS = ("write", "fork", "exit", "wipeonfork", "keeponfork", "pin", "unpin")
"""What programs are made of by default. Nothing in it needs a failure to be injected."""

EXTRA_OPERATIONS = tuple(
    name
    for op in TABLE.values()
    if op.tries
    for name in (ADVICE if op.name == "madvise" else (op.name,))
    if name not in OPERATIONS
)
"""More that can be asked for. `forkfail_after` is fault injection: a fork that fails inside a folio."""

MEMORY_MIB = 2048
"""So much memory a search takes at most, unless told otherwise."""
MOST = {"pages": 512, "steps": 100, "processes": 6, "memory_mib": 1 << 20}
"""Far beyond what can be searched; every renaming of processes is tried for each state."""
SHOWN_BYTE = 0xDD
CTRL_C = "Ctrl-C"
"""What stops a search besides its bounds."""
_FRAMES, _FRAMES_PER_PAGE = 128, 32
_SEEN_BITS = PTE_PRESENT | PTE_WRITE | PTE_SPECIAL | PTE_GUARD


@dataclass(frozen=True)
class Counterexample:
    """A shortest program that breaks an invariant.

    Attributes
    ----------
    scenario : Scenario
        The program; after a lost pin, with a write on one side and a read on the other appended.
    violation : Violation
        What its last step before those broke.
    steps : int
        How many steps it takes to break it, the appended ones not counted.
    read, written : int or None
        Where a pin was lost: the byte that was written on one side, and the byte that the other side reads.
    said : str
        The same as a sentence. A device with a pin for reading cannot write: then the process does.
    """

    policy: str
    scenario: Scenario
    violation: Violation
    steps: int
    states: int
    transitions: int
    read: int | None = None
    written: int | None = None
    said: str = ""

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        lines = [
            f"{self.policy}: {self.steps} steps break {self.violation}",
            f"(found after {self.transitions:,} transitions, {self.states:,} distinct states)",
            "",
            self.scenario.text().rstrip(),
        ]
        if self.said:
            lines += ["", self.said]
        return "\n".join(lines)


@dataclass(frozen=True)
class Exhausted:
    """No program within the bound breaks an invariant; or the search was stopped before it could say so.

    `interrupted` says that it was stopped, and `why` what stopped it; all programs of up to `steps` steps had been
    tried by then. `after` is the number of steps of the program that the search went on from.
    """

    policy: str
    pages: int
    steps: int
    operations: tuple[str, ...]
    states: int
    transitions: int
    interrupted: bool = False
    after: int = 0
    why: str = ""

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        early = f"stopped early ({self.why})" if self.why else "stopped early"
        verdict = f"{early}: nothing found in" if self.interrupted else "nothing found; exhausted"
        after = f" after the {self.after} of the program" if self.after else ""
        return (
            f"{self.policy}: {verdict} {self.states:,} distinct states, {self.transitions:,} transitions,"
            f" all programs of up to {self.steps} steps{after} over {self.pages} pages"
            f" and {', '.join(self.operations)}"
        )


Progress = Callable[[int, int, int], None]
"""Called now and then with the depth, the distinct states and the transitions so far."""


def counterexample(
    policy: Policy | str,
    *,
    pages: int = 4,
    steps: int = 6,
    orders: tuple[int, ...] = (2,),
    processes: int = 2,
    operations: tuple[str, ...] = OPERATIONS,
    invariants: tuple[Invariant, ...] = KERNEL_PROMISES,
    progress: Progress | None = None,
    start: Scenario | None = None,
    seconds: float | None = None,
    memory_mib: int = MEMORY_MIB,
) -> Counterexample | Exhausted:
    """Search all programs of up to `steps` steps, starting with one process and an untouched mapping.

    Parameters
    ----------
    policy : Policy or str
        Which kernel.
    pages, orders : int, tuple of int
        The mapping, and the sizes that are enabled.
    processes : int
        How many may be alive at once.
    operations : tuple of str
        From `OPERATIONS` and `EXTRA_OPERATIONS`. Advice and unmapping act on halves of the mapping.
    invariants : tuple of Invariant
        What must not break.
    progress : callable, optional
        Told about once a second how far it is.
    start : Scenario, optional
        Search what may follow this program instead, over its mapping: `pages` and `orders` are then its own, and
        `steps` counts what is added to it. Its skew must be 0.
    seconds : float, optional
        Stop after so long, as Ctrl-C does.
    memory_mib : int
        Stop when what the search keeps takes more than so many MiB, by its own count: the machines it has to go on
        from, and the states it has seen.

    Returns
    -------
    Counterexample or Exhausted
        True or false in an ``if``. Ctrl-C ends the search with what is known so far.
    """
    policy = policy if isinstance(policy, Policy) else policy_named(policy)
    _check_bound(operations, pages=pages, steps=steps, processes=processes, memory_mib=memory_mib)
    scenario = start or Scenario(pages, (), orders)
    if scenario.skew:
        raise ValueError(
            f"skew={scenario.skew}: the search names pages from 0, so a program that it goes on from has none"
        )
    frames = max(_FRAMES, _FRAMES_PER_PAGE * scenario.pages)
    search = _Search(scenario, operations, processes, invariants, progress, seconds, memory_mib)
    bound = (policy.name, scenario.pages)
    try:
        found = search.run(scenario.end(policy, frames=frames), steps)
    except (KeyboardInterrupt, _Stopped) as stop:
        return Exhausted(
            *bound, max(0, search.depth - 1), operations, search.states, search.transitions,
            interrupted=True, after=len(scenario.steps), why=str(stop) or CTRL_C,
        )  # fmt: skip
    if found is None:
        return Exhausted(
            *bound, steps, operations, search.states, search.transitions, after=len(scenario.steps)
        )  # fmt: skip
    return _explain(policy, scenario, *found, search.states, search.transitions)


class _Stopped(Exception):
    """The search took more than it may; the message says of what."""


class _Search:
    def __init__(
        self,
        scenario: Scenario,
        operations: tuple[str, ...],
        processes: int,
        invariants: tuple[Invariant, ...],
        progress: Progress | None,
        seconds: float | None,
        memory_mib: int,
    ) -> None:
        self.scenario, self.operations, self.processes = scenario, operations, processes
        self.invariants, self.progress = invariants, progress
        self.seconds, self.memory_mib = seconds, memory_mib
        self.states = 0
        self._names: set[bytes] = set()
        self.transitions = 0
        self.depth = 0
        self._named_bytes = self._waiting_bytes = 0
        self._begun = self._told = time.monotonic()

    def run(self, start: Machine, steps: int) -> tuple[tuple[Step, ...], Violation] | None:
        """Shortest programs first; a machine is kept until all that may follow it has been tried."""
        self._remember(start)
        broken = check(start, self.invariants)
        if broken:
            return (), broken[0]
        waiting: deque[tuple[Machine, tuple[Step, ...], int]] = deque([(start, (), 0)])
        while waiting:
            machine, program, bytes_held = waiting.popleft()
            self._waiting_bytes -= bytes_held
            self.depth = len(program) + 1
            for step in possible_steps(machine, self.scenario.pages, self.operations, self.processes):
                after = machine.copy()
                do_step(after, step)
                self._count()
                if not self._remember(after):
                    continue
                broken = check(after, self.invariants)
                if broken:
                    return (*program, step), broken[0]
                if self.depth < steps:
                    bytes_held = bytes_of(after)
                    self._waiting_bytes += bytes_held
                    waiting.append((after, (*program, step), bytes_held))
        return None

    def _remember(self, machine: Machine) -> bool:
        """Whether the state is new under every renaming of processes; all its names are known from now on."""
        live = machine.live()
        if packed(machine, live, self.scenario.pages) in self._names:
            return False
        self.states += 1
        for order in permutations(live):
            name = packed(machine, order, self.scenario.pages)
            if name not in self._names:
                self._names.add(name)
                self._named_bytes += sys.getsizeof(name) + _NAME_BYTES
        return True

    def _count(self) -> None:
        self.transitions += 1
        now = time.monotonic()
        if self.seconds is not None and now - self._begun > self.seconds:
            raise _Stopped(f"{self.seconds:g} s are over")
        if self._named_bytes + self._waiting_bytes > self.memory_mib << 20:
            raise _Stopped(f"{self.memory_mib:,} MiB of memory are used")
        if self.progress and now - self._told > 1:
            self._told = now
            self.progress(self.depth, self.states, self.transitions)


_NAME_BYTES = 64
"""What a set takes for an entry: a set of n has up to 4 n places of 16 bytes."""
_MACHINE_BYTES, _PROCESS_BYTES, _ARRAY_BYTES, _OBJECT_BYTES = 1800, 700, 144, 200
"""What Python takes for a machine and a process themselves, for an array besides its numbers, for a VMA or a pin."""


def bytes_of(machine: Machine) -> int:
    """About how much memory a copy of a machine takes; frame numbers that are not its own it shares with others."""
    memory = machine.memory
    holders = [memory, memory.folio_of, *(process.mm for process in machine.processes)]
    arrays = [held for holder in holders for held in vars(holder).values() if isinstance(held, np.ndarray)]
    small = sum(len(process.mm.vmas) + len(process.mm.pins) for process in machine.processes)
    return (
        _MACHINE_BYTES
        + _PROCESS_BYTES * len(machine.processes)
        + sum(array.nbytes for array in arrays if array.flags.writeable)
        + _ARRAY_BYTES * len(arrays)
        + _OBJECT_BYTES * small
    )


def possible_steps(machine: Machine, pages: int, operations: tuple[str, ...], processes: int) -> Iterator[Step]:
    """The steps worth trying from this state."""
    live = machine.live()
    for process in live:
        # A child of nothing but MADV_DONTFORK mappings has no page table at all.
        entries = process.mm.pte[:pages].tolist() or [0] * pages
        for word in operations:
            op = TABLE["madvise" if word in ADVICE else word]
            at = Situation(process, pages, max(1, pages // 2), entries, len(live) < processes, len(live) > 1, word)
            yield from ((op.name, process.number, *arguments) for arguments in op.tries(at)) if op.tries else ()


def packed(machine: Machine, live: Sequence[Process], pages: int) -> bytes:
    """A state without its names: equal for two machines iff renaming frames and folios makes them equal.

    Processes are named by their place in `live`. Bytes, counters and the accessed and dirty bits are left out: no rule
    of the searched operations reads them.
    """
    memory = machine.memory
    folio_of, head = memory.folio_of[:].tolist(), memory.head.tolist()
    anon_vmas: dict[int, int] = {0: 0}
    folios: dict[int, int] = {}
    flat: list[int] = []
    for process in live:
        mm = process.mm
        flat += (len(mm.vmas), mm.has_pinned, PRCTL.index(mm.thp_disabled))
        for vma in mm.vmas:
            anon_vma = anon_vmas.setdefault(vma.anon_vma, len(anon_vmas))
            flat += (vma.start, vma.end, vma.flags, vma.pgoff, anon_vma, len(vma.chain) > 1)
        for bits, pfn in zip(mm.pte[:pages].tolist(), mm.pfn[:pages].tolist(), strict=True):
            flat.append(bits & _SEEN_BITS)
            if bits and not bits & PTE_SPECIAL:
                folio = folio_of[pfn]
                flat += (folios.setdefault(folio, len(folios)), pfn - head[folio])
        flat.append(len(process.pins()))
        for (kind, number), pin in process.pins().items():
            flat += (kind == "pin", number, pin.vpn, pin.writable, len(pin.frames))
            for at, pfn in enumerate(pin.frames):
                folio = folio_of[pfn]
                # The zero page belongs to no folio; nothing of it needs a name.
                flat += (folios.setdefault(folio, len(folios)), pfn - head[folio]) if folio >= 0 else (-1, 0)
                flat.append(pin.vpn + at in pin.expected)
    mms = {process.mm.id: at for at, process in enumerate(live, 1)}
    for folio in folios:
        frames = memory.frames_of(folio)
        flat += memory.mapcount[frames].tolist()
        flat += memory.anon_exclusive[frames].tolist()
        flat += (mms.get(mm_id, 0) for mm_id in memory.mm_id[folio].tolist())
        flat += memory.mm_id_mapcount[folio].tolist()
        flat += (column.item(folio) for column in (memory.order, memory.refcount, memory.pincount))
        flat.append(memory.maybe_mapped_shared.item(folio))
    try:
        return array("h", flat).tobytes()
    except OverflowError:
        # One more byte, so that no state of small numbers has the same name.
        return array("q", flat).tobytes() + b"q"


def _explain(
    policy: Policy, start: Scenario, program: tuple[Step, ...], violation: Violation, states: int, transitions: int
) -> Counterexample:
    name = f"{violation.invariant.replace('_', '-')}-{policy.name}"
    about = f"Found by search: breaks {violation.invariant} under {policy.name}."
    scenario = start.but(steps=(*start.steps, *program), name=name, about=about)
    found = Counterexample(policy.name, scenario, violation, len(program), states, transitions)
    if violation.pin is None or violation.process is None or violation.vpn is None:
        return found
    pin = scenario.end(policy).process(violation.process).pins()["pin", violation.pin]
    where = (violation.process, violation.vpn)
    through = (violation.process, violation.pin, violation.vpn - pin.vpn)
    shown: tuple[Step, ...]
    if pin.writable:
        writer, reader, shown = "device", "process", (("dma_write", *through, SHOWN_BYTE), ("read", *where))
    else:
        writer, reader, shown = "process", "device", (("write", *where, SHOWN_BYTE), ("dma_read", *through))
    scenario = scenario.but(steps=(*scenario.steps, *shown))
    read = scenario.run(policy)[-1].value
    said = f"the {writer} wrote {SHOWN_BYTE:#04x}, the {reader} reads {read:#04x}"
    return replace(found, scenario=scenario, read=read, written=SHOWN_BYTE, said=said)


def _check_bound(operations: tuple[str, ...], **bound: int) -> None:
    for name, value in bound.items():
        if type(value) is not int or not 1 <= value <= MOST[name]:
            raise ValueError(f"{name}={value!r:.60}: the search needs at least one and takes {MOST[name]:,} at most")
    known = OPERATIONS + EXTRA_OPERATIONS
    for op in operations or ("nothing",):
        if op not in known:
            raise ValueError(f"cannot search over {op!r:.60}; it knows {', '.join(known)}")
