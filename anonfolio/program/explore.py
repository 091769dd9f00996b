"""All states that programs reach, level by level: what one step more leads to.

A state that waits is kept as numbers (`states.to_bytes`), and a seen one as its name; machines live only while they
are asked something. The fault paths alone say what a step does, once for all states that look the same to the process
that takes it: its own memory, and of the folios that it maps or holds what the kernel knows of them (`View`). A level
can be cut anywhere and expanded by whoever runs `expand`: this process, a pool of them, or any other executor.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.policy import Policy
from ..machine.invariants import Invariant, Violation, check
from ..machine.machine import ADVICE, Machine, Process
from .ops import TABLE, Situation, Step, do_step
from .scenario import Scenario
from .states import Facts, Maker, Side, State, facts_of, from_bytes, name_of, normal, order_of, state_of, to_bytes

BATCH = 64
"""So many states are expanded in one go."""
MOST_SOUND, MOST_EFFECTS = 1 << 20, 1 << 17
EFFECT_BYTES = 1500
"""About what is kept of a step of a view."""
_FRAMES, _FRAMES_PER_PAGE = 128, 32
WIDE = ("split", "shrink", "free", "cold")
"""What may change page tables of others: it is done on all of a state, each time anew."""
READS_CONTENT = (*WIDE, "collapse")
"""What may ask whether a page holds nothing but zeros."""


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

    def possible(self, processes: Sequence[Process]) -> list[Step]:
        """The steps worth trying of a machine's live processes, in the order in which they are given."""
        return [step for process in processes for step, _ in self.steps_of(process, len(processes))]

    def steps_of(self, process: Process, live: int) -> list[tuple[Step, bool]]:
        """The steps worth trying of a process, always in the same order, and whether others may feel them."""
        pages = self.start.pages
        # A child of nothing but MADV_DONTFORK mappings has no page table at all.
        entries = process.mm.pte[:pages].tolist() or [0] * pages
        steps: list[tuple[Step, bool]] = []
        for word in self.operations:
            op = TABLE["madvise" if word in ADVICE else word]
            at = Situation(process, pages, max(1, pages // 2), entries, live < self.processes, live > 1, word)
            tried = op.tries(at) if op.tries else ()
            steps += [((op.name, process.number, *arguments), word in WIDE) for arguments in tried]
        return steps

    @property
    def reads_content(self) -> bool:
        """Whether some operation asks what pages hold."""
        return any(word in READS_CONTENT for word in self.operations)


class Found(NamedTuple):
    """Where something breaks: by which step of which state of a batch."""

    parent: int
    step: int


class Expanded(NamedTuple):
    """What one step more leads to.

    Attributes
    ----------
    names : bytes
        Of the states reached, `NAME_BYTES` each, each once.
    parents, steps : ndarray of uint16, shape (states,)
        From which state of the batch, and by which of its steps.
    forms : list of bytes
        The states.
    transitions : int
        Steps that were tried.
    broken : Found or None
        The first that broke something; nothing after it was tried.
    """

    names: bytes
    parents: npt.NDArray[np.uint16]
    steps: npt.NDArray[np.uint16]
    forms: list[bytes]
    transitions: int
    broken: Found | None


class Broken(NamedTuple):
    """A program that breaks something: its steps, and what the last one breaks."""

    program: tuple[Step, ...]
    violation: Violation


class Miscounted(ValueError):
    """What was kept of a step is not what it does: nothing that the search said is worth anything."""


def expand(space: Space, forms: Sequence[bytes]) -> Expanded:
    """Try every possible step of every state. A pure function of both, so it may run anywhere, and again."""
    known = _known(space)
    found: dict[bytes, tuple[int, int, bytes]] = {}
    transitions = 0
    for parent, form in enumerate(forms):
        state = from_bytes(form)
        for number, (numbers, after) in enumerate(known.successors(state)):
            transitions += 1
            name = name_of(numbers)
            if name in found:
                continue
            found[name] = parent, number, to_bytes(after)
            if name in known.sound:
                continue
            if check(known.make(after), space.invariants):
                return _expanded(found, transitions, Found(parent, number))
            known.sound.add(name)
    if len(known.sound) > MOST_SOUND:
        known.sound.clear()
    # One step of one state in each batch is done on all of it.
    known.audit(from_bytes(forms[0]))
    return _expanded(found, transitions, None)


def _expanded(found: dict[bytes, tuple[int, int, bytes]], transitions: int, broken: Found | None) -> Expanded:
    parents = np.array([parent for parent, _, _ in found.values()], np.uint16)
    steps = np.array([step for _, step, _ in found.values()], np.uint16)
    return Expanded(b"".join(found), parents, steps, [form for *_, form in found.values()], transitions, broken)


def program_of(space: Space, way: Sequence[int]) -> tuple[tuple[Step, ...], Machine]:
    """The steps of a way, each told by its place among those that are possible; and where they lead to."""
    machine, program = space.begin(), []
    for number in way:
        program.append(space.possible(order_of(machine))[number])
        do_step(machine, program[-1])
    return tuple(program), machine


# --- what a process sees, and what its steps do -----------------------------------------------------------------------


View = tuple[Side, tuple[Facts, ...], int]
"""What a step of one process can depend on: itself, the folios that it maps or holds, and how many processes are alive,
for it may fork while there is room, and exit unless it is the last. Folios and anon_vmas are numbered as it meets them,
it is process 1.
"""


class _Names(NamedTuple):
    """What a view's folios, anon_vmas and processes, by their numbers, are in the state that it was taken of."""

    folios: list[int]
    anon_vmas: list[int]
    mms: list[int]


class _Effect(NamedTuple):
    """What a step leaves of a view: its processes and their ids, and its folios; None for those that are gone."""

    sides: tuple[Side, ...]
    mms: tuple[int, ...]
    folios: dict[int, Facts | None]


def _view(state: State, at: int) -> tuple[View, _Names]:
    local, hidden, anon, owners, places = state.sides[at]
    met, anon_vmas, ids = {0: 0}, {0: 0}, {0: 0, at + 1: 1}
    for owner in owners:
        if owner not in met:
            met[owner] = len(met)
    for anon_vma in anon:
        if anon_vma not in anon_vmas:
            anon_vmas[anon_vma] = len(anon_vmas)
    known = list(met)
    facts = []
    for folio in known[1:]:
        named, beside, (one, other) = state.folios[folio]
        facts.append((named, beside, (ids.setdefault(one, len(ids)), ids.setdefault(other, len(ids)))))
    side = local, hidden, tuple([anon_vmas[one] for one in anon]), tuple([met[owner] for owner in owners]), places
    return (side, tuple(facts), len(state.sides)), _Names(known, list(anon_vmas), list(ids))


_FRESH = 1 << 40
"""From here on count folios and processes that a step brings."""


def _after(state: State, at: int, names: _Names, effect: _Effect) -> tuple[array[int], State]:
    """The state after a step of the process `at`, in normal form, and the numbers that name it."""
    known, anon_known, id_known = names
    count, anon_count, id_count = len(known), len(anon_known), len(id_known)
    sides, mms, folios = [*state.sides], [*state.mms], state.folios.copy()
    del sides[at], mms[at]
    for (local, hidden, anon, owners, places), mm in zip(effect.sides, effect.mms, strict=True):
        owners = tuple([known[owner] if owner < count else owner + _FRESH for owner in owners])
        anon = tuple([anon_known[one] if one < anon_count else one for one in anon])
        sides.append((local, hidden, anon, owners, places))
        mms.append(id_known[mm] if mm < id_count else mm + _FRESH)
    for number, facts in effect.folios.items():
        folio = known[number] if number < count else number + _FRESH
        if not facts:
            del folios[folio]
            continue
        named, hidden, (one, other) = facts
        one = id_known[one] if one < id_count else one + _FRESH
        other = id_known[other] if other < id_count else other + _FRESH
        folios[folio] = named, hidden, (one, other)
    return normal(State(tuple(sides), tuple(mms), folios))


class _Known:
    """What this process knows of a space, to be quicker. What it forgets is only made or looked at again.

    Attributes
    ----------
    sound : set of bytes
        Names of states that it found to break nothing.
    effects : dict
        What each step of a view does; None for one that others may feel.
    """

    def __init__(self, space: Space) -> None:
        self.space, self._maker, self._content = space, Maker(space.begin()), space.reads_content
        self.sound: set[bytes] = set()
        self.effects: dict[View, list[_Effect | None]] = {}
        self._kept = self._audits = 0

    def make(self, state: State) -> Machine:
        """A machine in that state."""
        return self._maker.machine(state.sides, state.folios, len(state.sides))

    def successors(self, state: State) -> Iterator[tuple[array[int], State]]:
        """Where the steps of a state lead, in the order of its processes."""
        for at in range(len(state.sides)):
            view, names = _view(state, at)
            effects = self.effects.get(view)
            if effects is None:
                effects = self._look(view)
            for number, effect in enumerate(effects):
                yield _after(state, at, names, effect) if effect else self._wide(state, at, number)

    def audit(self, state: State) -> None:
        """Do one step of a state on all of it, and compare; raises Miscounted."""
        afters = [numbers for numbers, _ in self.successors(state)]
        if not afters:
            return
        self._audits += 1
        wanted = self._audits % len(afters)
        machine = self.make(state)
        do_step(machine, step := self.space.possible(machine.processes)[wanted])
        if normal(self._taken(machine))[0] != afters[wanted]:
            raise Miscounted(
                f"{self.space.policy.name}: {step} does something else where other processes are in another state: "
                "a rule has looked at what is not the process's own, or the search is wrong"
            )

    def kept_bytes(self) -> int:
        """About what all that takes."""
        return sys.getsizeof(self.sound) + 64 * len(self.sound) + EFFECT_BYTES * self._kept

    def _look(self, view: View) -> list[_Effect | None]:
        """Do every step of a view."""
        side, facts, live = view
        folios = dict(enumerate(facts, 1))
        ids = max((1, *(mm for _, _, slots in facts for mm in slots)))
        machine = self._maker.machine((side,), folios, ids)
        effects: list[_Effect | None] = []
        for step, wide in self.space.steps_of(machine.processes[0], live):
            if wide:
                effects.append(None)
                continue
            after = machine.copy()
            do_step(after, step)
            effects.append(self._effect(after, folios))
        if self._kept > MOST_EFFECTS:
            self.effects.clear()
            self._kept = 0
        self._kept += len(effects)
        self.effects[view] = effects
        return effects

    def _effect(self, machine: Machine, before: dict[int, Facts]) -> _Effect:
        sides, mms, found = self._taken(machine)
        changed: dict[int, Facts | None] = {at: facts for at, facts in found.items() if before.get(at) != facts}
        for folio in before:
            if folio not in found:
                # Nothing of the process's own, but it may be others' still.
                gone = machine.memory.refcount.item(folio - 1) == 0
                changed[folio] = None if gone else facts_of(machine.memory, folio, self._content)
        return _Effect(sides, mms, changed)

    def _wide(self, state: State, at: int, number: int) -> tuple[array[int], State]:
        machine = self.make(state)
        do_step(machine, self.space.steps_of(machine.processes[at], len(state.sides))[number][0])
        return normal(self._taken(machine))

    def _taken(self, machine: Machine) -> State:
        return state_of(machine, content=self._content)


_latest: _Known | None = None


def _known(space: Space) -> _Known:
    global _latest
    if _latest is None or _latest.space != space:
        _latest = _Known(space)
    return _latest


def kept_bytes() -> int:
    """What this process keeps of states that it has looked at, and of steps that it has done."""
    return _latest.kept_bytes() if _latest else 0
