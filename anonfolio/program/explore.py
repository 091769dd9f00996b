"""All states that programs reach, level by level: how far each program goes, and which of its states are new.

A waiting state is kept as the way to it, two bytes a step, and a seen one as its name (`states.name_of`); machines
live only while they are walked. So a level can be cut anywhere and expanded by whoever runs `expand`: this process,
a pool of them, or any other `concurrent.futures.Executor`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.policy import Policy
from ..machine.invariants import Invariant, Violation, check
from ..machine.machine import ADVICE, Machine
from .ops import TABLE, Situation, Step, do_step
from .scenario import Scenario
from .states import name_of

Ways = npt.NDArray[np.uint16]
"""Programs of one length as rows: for each step its place among those that are possible before it."""

BATCH = 64
"""So many states are expanded in one go: half a millisecond each."""
MOST_SOUND, MOST_MACHINES = 1 << 20, 1024
MACHINE_BYTES = 10_000
"""About what a machine of four pages takes."""
_FRAMES, _FRAMES_PER_PAGE = 128, 32


@dataclass(frozen=True)
class Space:
    """What is searched: where programs start, what they are made of, and what must not break.

    Attributes
    ----------
    policy : Policy
    start : Scenario
        Run first; its mapping is the one that programs act on.
    operations : tuple of str
        Operations and advice (`OPERATIONS` in `program.search`).
    processes : int
        How many may be alive at once.
    invariants : tuple of Invariant
    """

    policy: Policy
    start: Scenario
    operations: tuple[str, ...]
    processes: int
    invariants: tuple[Invariant, ...]

    def begin(self) -> Machine:
        """The machine that programs start from, with just as much memory as they can use."""
        return self.start.end(self.policy, frames=max(_FRAMES, _FRAMES_PER_PAGE * self.start.pages))

    def possible(self, machine: Machine) -> list[Step]:
        """The steps worth trying from this state."""
        return list(possible_steps(machine, self.start.pages, self.operations, self.processes))

    def name(self, machine: Machine) -> bytes:
        return name_of(machine, self.start.pages)


def possible_steps(machine: Machine, pages: int, operations: tuple[str, ...], processes: int) -> Iterator[Step]:
    """The steps worth trying from this state, always in the same order."""
    live = machine.live()
    for process in live:
        # A child of nothing but MADV_DONTFORK mappings has no page table at all.
        entries = process.mm.pte[:pages].tolist() or [0] * pages
        for word in operations:
            op = TABLE["madvise" if word in ADVICE else word]
            at = Situation(process, pages, max(1, pages // 2), entries, len(live) < processes, len(live) > 1, word)
            yield from ((op.name, process.number, *arguments) for arguments in op.tries(at)) if op.tries else ()


class Broken(NamedTuple):
    """A program that breaks something: its steps, and what the last one breaks."""

    program: tuple[Step, ...]
    violation: Violation


class Expanded(NamedTuple):
    """What one step more leads to.

    Attributes
    ----------
    names : bytes
        Of the states reached, `NAME_BYTES` each, each once.
    parents, steps : ndarray of uint16, shape (states,)
        From which of the ways, and by which of its steps.
    transitions : int
        Steps that were tried.
    broken : Broken or None
        The first that broke something; nothing after it was tried.
    """

    names: bytes
    parents: npt.NDArray[np.uint16]
    steps: npt.NDArray[np.uint16]
    transitions: int
    broken: Broken | None


def expand(space: Space, ways: Ways) -> Expanded:
    """Try every possible step after every way. A pure function of both, so it may run anywhere, and again."""
    known = _known(space)
    found: dict[bytes, tuple[int, int]] = {}
    transitions = 0
    for parent, machine in enumerate(walk(space, ways)):
        for number, step in enumerate(space.possible(machine)):
            after = machine.copy()
            do_step(after, step)
            transitions += 1
            name = space.name(after)
            if name in found:
                continue
            found[name] = (parent, number)
            if name in known.sound:
                continue
            if broken := check(after, space.invariants):
                program = (*program_of(space, ways[parent]), step)
                return _expanded(found, transitions, Broken(program, broken[0]))
            known.sound.add(name)
            known.keep((*ways[parent].tolist(), number), after)
    return _expanded(found, transitions, None)


def walk(space: Space, ways: Ways) -> Iterator[Machine]:
    """The machine at the end of each way.

    Neighbours in a level have most of their way in common, so a stack of machines makes it two steps a way or fewer.
    """
    known = _known(space)
    stack = [known.beginning]
    walked: list[int] = []
    for way in ways.tolist():
        if machine := known.machines.pop(tuple(way), None):
            yield machine
            continue
        common = next((at for at, (old, new) in enumerate(zip(walked, way, strict=False)) if old != new), len(walked))
        del stack[common + 1 :]
        for number in way[common:]:
            after = stack[-1].copy()
            do_step(after, space.possible(after)[number])
            stack.append(after)
        walked = way
        yield stack[-1]


def program_of(space: Space, way: npt.NDArray[np.uint16]) -> tuple[Step, ...]:
    """The steps of a way."""
    machine, program = space.begin(), []
    for number in way.tolist():
        program.append(space.possible(machine)[number])
        do_step(machine, program[-1])
    return tuple(program)


def _expanded(found: dict[bytes, tuple[int, int]], transitions: int, broken: Broken | None) -> Expanded:
    numbers = np.array(list(found.values()), np.uint16).reshape(-1, 2)
    return Expanded(b"".join(found), numbers[:, 0], numbers[:, 1], transitions, broken)


class _Known:
    """What this process knows of a space, to be quicker. What it forgets is only made or looked at again.

    Attributes
    ----------
    beginning : Machine
    sound : set of bytes
        Names of states that it found to break nothing.
    machines : dict of tuple of int to Machine
        Some states that it made, by the way there.
    """

    def __init__(self, space: Space) -> None:
        self.space, self.beginning = space, space.begin()
        self.sound: set[bytes] = set()
        self.machines: dict[tuple[int, ...], Machine] = {}

    def keep(self, way: tuple[int, ...], machine: Machine) -> None:
        if len(self.machines) < MOST_MACHINES:
            self.machines[way] = machine
        if len(self.sound) > MOST_SOUND:
            self.sound.clear()

    def kept_bytes(self) -> int:
        return sys.getsizeof(self.sound) + 64 * len(self.sound) + MACHINE_BYTES * len(self.machines)


_latest: _Known | None = None


def _known(space: Space) -> _Known:
    global _latest
    if _latest is None or _latest.space != space:
        _latest = _Known(space)
    return _latest


def kept_bytes() -> int:
    """What this process keeps of states that it has made or looked at."""
    return _latest.kept_bytes() if _latest else 0
