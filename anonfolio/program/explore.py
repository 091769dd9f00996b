"""All states that programs reach, level by level: what one step more leads to.

A state that waits is kept as numbers (`states.to_bytes`), and a seen one as its name; machines live only while they
are asked something. The fault paths alone say what a step does, once for all states that look the same to the process
that takes it: its own memory, and of the folios that it maps or holds what the kernel knows of them (`View`). A level
can be cut anywhere and expanded by whoever runs `expand`: this process, a pool of them, or any other executor.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.mmap import ADVICE as FLAGS_OF_ADVICE
from ..kernel.policy import Policy
from ..machine.invariants import Invariant, Violation, check
from ..machine.machine import ADVICE, Machine, Process
from .ops import TABLE, Situation, Step, do_step
from .scenario import Scenario
from .states import (
    FRESH,
    NAME_BYTES,
    NOBODY,
    Facts,
    Maker,
    Shape,
    Side,
    State,
    canonical,
    forget,
    from_bytes,
    mapped_of,
    name_of,
    normal,
    order_of,
    remembered_bytes,
    renamed,
    sides_of,
    state_of,
    taken,
    to_bytes,
)

BATCH = 128
"""So many states are expanded in one go."""
MOST_EFFECTS = 1 << 17
EFFECT_BYTES = 1500
"""About what is kept of a step of a view."""
_FRAMES, _FRAMES_PER_PAGE = 128, 32
WIDE = ("split", "shrink", "free", "cold")
"""What may change page tables of others: it is done on all of a state, each time anew."""
NEAR = {*FLAGS_OF_ADVICE, "write", "read", "pin", "pin_ro", "gup", "ref", "munmap", "mprotect"}
"""What looks at its process, and of folios at those that its pages map."""
HELD = {"unpin": "pin", "unref": "reference"}
"""What looks at its process, and of folios at those that it holds under its number."""
LEAVES = "exit"
"""What lets go of all: of each folio by itself, by what maps and holds it, whatever else there is."""
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
    every : int
        Operations on one page are tried with multiples of it: with 8 of 16 pages, the first of each half.
    """

    policy: Policy
    start: Scenario
    operations: tuple[str, ...]
    processes: int
    invariants: tuple[Invariant, ...]
    every: int = 1

    def begin(self) -> Machine:
        """The machine that programs start from, with just as much memory as they can use."""
        return self.start.end(self.policy, frames=max(_FRAMES, _FRAMES_PER_PAGE * self.start.pages))

    def possible(self, processes: Sequence[Process]) -> list[Step]:
        """The steps worth trying of a machine's live processes, in the order in which they are given."""
        return [step for process in processes for step, _ in self.steps_of(process, len(processes))]

    def steps_of(self, process: Process, live: int) -> list[tuple[Step, str]]:
        """The steps worth trying of a process, always in the same order, and which operation or advice each is."""
        pages = self.start.pages
        # A child of nothing but MADV_DONTFORK mappings has no page table at all.
        entries = process.mm.pte[:pages].tolist() or [0] * pages
        steps: list[tuple[Step, str]] = []
        for word in self.operations:
            op = TABLE["madvise" if word in ADVICE else word]
            at = Situation(
                process, pages, max(1, pages // 2), entries, live < self.processes, live > 1, word,
                range(0, pages, self.every),
            )  # fmt: skip
            tried = op.tries(at) if op.tries else ()
            steps += [((op.name, process.number, *arguments), word) for arguments in tried]
        return steps

    @property
    def reads_content(self) -> bool:
        """Whether some operation asks what pages hold."""
        return any(word in READS_CONTENT for word in self.operations)


class Share(NamedTuple):
    """Which processes' steps are to be tried: those of about one view in `of`, always the same ones.

    What was learnt of a view is then learnt once, however many share the work.
    """

    number: int
    of: int


ALL = Share(0, 1)


class Expanded(NamedTuple):
    """What one step more leads to.

    Attributes
    ----------
    names : bytes
        Of the states reached, `NAME_BYTES` each, each once.
    parents, steps : ndarray of uint16, shape (states,)
        From which state of the batch, and by which of its steps.
    tried : ndarray of uint32, shape (states,)
        How many steps had been tried by then.
    forms : list of bytes
        The states.
    transitions : int
        Steps that were tried, those of other shares counted.
    kept : dict of int to int
        What the processes that did it keep of states and steps: by their ids, in bytes.
    """

    names: bytes
    parents: npt.NDArray[np.uint16]
    steps: npt.NDArray[np.uint16]
    tried: npt.NDArray[np.uint32]
    forms: list[bytes]
    transitions: int
    kept: dict[int, int]


class Broken(NamedTuple):
    """A program that breaks something: its steps, and what the last one breaks."""

    program: tuple[Step, ...]
    violation: Violation


class Miscounted(ValueError):
    """What was kept of a step is not what it does: nothing that the search said is worth anything."""


def expand(space: Space, forms: Sequence[bytes], told: Container[bytes] = (), share: Share = ALL) -> Expanded:
    """Try every possible step of every state; what comes out depends on the arguments alone, but for `kept`.

    It may run anywhere, and again. Each process remembers what it has learnt of one space (`_Known`), and is quicker
    the next time.

    Parameters
    ----------
    told : container of bytes
        Names of states that need not be told once more.
    share : Share
        Of each state only some processes' steps, the others' are counted; `joined` puts all shares together.

    Raises
    ------
    Miscounted
        What was remembered of a step is not what it does.
    """
    known = _known(space)
    found: dict[bytes, tuple[int, int, int, bytes]] = {}
    transitions = 0
    with _paused_gc():
        for parent, form in enumerate(forms):
            for number, after in enumerate(known.successors(from_bytes(form), share)):
                transitions += 1
                if after is None:
                    continue
                name = name_of(after)
                if name not in told and name not in found:
                    found[name] = parent, number, transitions, to_bytes(after)
        # One step of one state in each batch is done on all of it.
        known.audit(from_bytes(forms[0]), share)
    parents, steps, tried = np.array([row[:3] for row in found.values()], np.uint32).reshape(-1, 3).T
    new = [form for *_, form in found.values()]
    kept = {os.getpid(): kept_bytes()}
    return Expanded(b"".join(found), parents.astype(np.uint16), steps.astype(np.uint16), tried, new, transitions, kept)


def joined(shares: Sequence[Expanded]) -> Expanded:
    """What all shares of the same states lead to, in the order of the steps; a state may be told more than once."""
    tried = np.concatenate([share.tried for share in shares])
    order = tried.argsort()
    forms = [*chain.from_iterable(share.forms for share in shares)]
    names = np.frombuffer(b"".join([share.names for share in shares]), f"V{NAME_BYTES}")
    return Expanded(
        names[order].tobytes(),
        np.concatenate([share.parents for share in shares])[order],
        np.concatenate([share.steps for share in shares])[order],
        tried[order],
        [forms[at] for at in order.tolist()],
        shares[0].transitions,
        {who: kept for share in shares for who, kept in share.kept.items()},
    )


@contextmanager
def _paused_gc() -> Iterator[None]:
    """Machines and what they know of each other are many and soon gone: Python looks for them once a batch."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def first_broken(space: Space, forms: Sequence[bytes]) -> int | None:
    """The first of these states that breaks something.

    What promises ask for is asked of all at once; only where one is broken, or where a rule asks for more, is a machine
    made of each.
    """
    states = list(map(from_bytes, forms))
    if all(rule.breaches for rule in space.invariants):
        mapped = mapped_of(states, marks_exclusive=space.policy.marks_exclusive)
        breaches = chain.from_iterable(rule.breaches(mapped) for rule in space.invariants if rule.breaches)
        if next(breaches, None) is None:
            return None
    make = _known(space).make
    return next((at for at, state in enumerate(states) if check(make(state), space.invariants)), None)


def program_of(space: Space, way: Sequence[int]) -> tuple[tuple[Step, ...], Machine]:
    """The steps of a way, each told by its place among those that are possible; and where they lead to."""
    machine, program = space.begin(), []
    for number in way:
        program.append(space.possible(order_of(machine))[number])
        do_step(machine, program[-1])
    return tuple(program), machine


# --- what a process sees, and what its steps do -----------------------------------------------------------------------


View = tuple[State, int]
"""What a step of one process can depend on: itself, the folios that it maps or holds, and how many processes are alive,
for it may fork while there is room, and exit unless it is the last. Folios and anon_vmas are numbered as it meets them,
it is process 1.
"""

Back = dict[int, str]


class _Names(NamedTuple):
    """What a view's folios, anon_vmas and processes, by their numbers, are in the state that it was taken of."""

    folios: Back
    anon_vmas: Back
    mms: Back


class _Effect(NamedTuple):
    """What a step leaves of a view: its processes and their ids, and what is new of folios; names that it brings are
    `FRESH`. And which of the view's folios it changes or frees.
    """

    sides: list[Side]
    mms: str
    folios: list[tuple[str, Facts]]
    touches: frozenset[str]


class _Near(NamedTuple):
    """A step, its process, and the folios that it looks at."""

    shape: Shape
    anon_vmas: str
    owners: str
    step: Step
    folios: frozenset[str]
    facts: tuple[Facts, ...]


def _near(view: State, folios: dict[str, Facts], step: Step, word: str) -> _Near | None:
    """What a step of a view looks at; None if that may be anything."""
    (shape, *_), (_, _, first, *rest) = view.shapes, (*step, 0)
    if word in HELD:
        at = [*shape.holds.get((HELD[word], first), ())]
    elif word in NEAR:
        pages = range(first, first + rest[0]) if "n" in TABLE[step[0]].arguments else (first,)
        at = [shape.maps[page] for page in pages if page in shape.maps]
    else:
        return None
    owners = sorted({view.owners[place] for place in at} - {NOBODY})
    facts = tuple([folios[owner] for owner in owners])
    return _Near(shape, view.anon_vmas, view.owners, step, frozenset(owners), facts)


def _left(view: State, folios: dict[str, Facts]) -> list[tuple[str, _Left]]:
    """Each folio of a view, and what tells what becomes of it when the process exits."""
    (shape,), owners = view.shapes, view.owners
    mapped: dict[str, list[tuple[object, ...]]] = {name: [] for name in folios}
    for page, owner in zip(shape.pages, owners, strict=True):
        if owner != NOBODY:
            mapped[owner].append(page)
    return [(name, (shape.around, tuple(pages), folios[name])) for name, pages in mapped.items()]


_Left = tuple[tuple[int, ...], tuple[tuple[object, ...], ...], Facts]
"""The mappings of a process, its pages of one folio, and what is known of that one."""


def _view(state: State, folios: dict[str, Facts], at: int, side: Side) -> tuple[View, _Names]:
    owned, anon_vmas = renamed(side.owners), renamed(side.anon_vmas)
    facts = [folios[name] for name in owned.met]
    ids = renamed(chr(at + 1) + "".join([slots for _, slots in facts]))
    view = State((side.shape,), anon_vmas.text, owned.text, tuple([kind for kind, _ in facts]), ids.text[1:])
    return (view, len(state.shapes)), _Names(owned.back, anon_vmas.back, ids.back)


def _after(others: list[Side], mms: str, folios: dict[str, Facts], names: _Names, effect: _Effect) -> State:
    """The state after a step of one process, in normal form; `others` and `mms`: those that did nothing."""
    backs, anon_vmas, ids = names
    sides = [
        *others,
        *[Side(shape, anon.translate(anon_vmas), owners.translate(backs)) for shape, anon, owners in effect.sides],
    ]
    folios = folios.copy()
    for name, (kind, slots) in effect.folios:
        folios[name.translate(backs)] = kind, slots.translate(ids)
    return normal(sides, mms + effect.mms.translate(ids), folios)


class _Known:
    """What this process knows of a space, to be quicker. What it forgets is only made or looked at again.

    Attributes
    ----------
    effects : dict
        What each step of a view does; None for one that others may feel.
    near : dict
        The same for a step, by the process that takes it and those folios alone that it looks at (`NEAR`, `HELD`).
    left : dict
        What becomes of a folio when a process exits; None for one that is freed.
    steps : dict
        The steps of a process, by its shape and how many are alive.
    """

    def __init__(self, space: Space) -> None:
        self.space, self._maker, self._content = space, Maker(space.begin()), space.reads_content
        self.effects: dict[View, list[_Effect | None]] = {}
        self.near: dict[_Near, _Effect] = {}
        self.left: dict[_Left, Facts | None] = {}
        self.steps: dict[tuple[Shape, int], list[tuple[Step, str]]] = {}
        self._kept = self._audits = 0

    def make(self, state: State) -> Machine:
        """A machine in that state."""
        return self._maker.machine(state)

    def successors(self, state: State, share: Share = ALL) -> Iterator[State | None]:
        """Where the steps of a state lead, in the order of its processes; None for those that are not in the share."""
        sides, folios, live = sides_of(state), state.folios, len(state.shapes)
        mms = "".join(map(chr, range(1, live + 1)))
        for at, side in enumerate(sides):
            steps = self.steps.get((side.shape, live))
            if steps is not None and side.hash % share.of != share.number:
                yield from repeat(None, len(steps))
                continue
            view, names = _view(state, folios, at, side)
            effects = self.effects.get(view)
            if effects is None:
                effects = self._look(view)
            others, their_mms = sides[:at] + sides[at + 1 :], mms[:at] + mms[at + 1 :]
            for number, effect in enumerate(effects):
                if effect:
                    yield _after(others, their_mms, folios, names, effect)
                else:
                    yield self._wide(state, at, number)

    def audit(self, state: State, share: Share = ALL) -> None:
        """Do one step of a state on all of it, and compare; raises Miscounted."""
        afters = [(at, after) for at, after in enumerate(self.successors(state, share)) if after]
        if not afters:
            return
        self._audits += 1
        at, after = afters[self._audits % len(afters)]
        machine = self.make(state)
        do_step(machine, step := self.space.possible(machine.processes)[at])
        if canonical(self._state(machine)) != canonical(after):
            raise Miscounted(
                f"{self.space.policy.name}: {step} does something else where other processes are in another state: "
                "a rule has looked at what is not the process's own, or the search is wrong"
            )

    def kept_bytes(self) -> int:
        """About what all that takes."""
        return EFFECT_BYTES * self._kept

    def _look(self, view: View) -> list[_Effect | None]:
        """What each step of a view does: known of the little that it looks at, or done."""
        state, live = view
        shape = state.shapes[0], live
        machine = None if shape in self.steps else self.make(state)
        if machine:
            self.steps[shape] = self.space.steps_of(machine.processes[0], live)
        steps = self.steps[shape]
        folios = state.folios
        nears = [_near(state, folios, step, word) for step, word in steps]
        effects = [self.near.get(near) if near else None for near in nears]
        leaves = next((at for at, (_, word) in enumerate(steps) if word == LEAVES), None)
        parts = [] if leaves is None else _left(state, folios)
        if leaves is not None and all(part in self.left for _, part in parts):
            stay = [(name, facts) for name, part in parts if (facts := self.left[part])]
            effects[leaves] = _Effect([], "", stay, frozenset())
        missing = [at for at, (_, word) in enumerate(steps) if not effects[at] and word not in WIDE]
        for at in missing:
            machine = machine or self.make(state)
            ids = len(machine.processes)
            # Whoever comes last needs nothing left for others.
            after = machine if at == missing[-1] else machine.copy()
            do_step(after, steps[at][0])
            effect = effects[at] = self._effect(after, folios, ids)
            _let_go(after)
            if (near := nears[at]) and effect.touches <= near.folios:
                self.near[near] = effect
            if at == leaves:
                after_exit = dict(effect.folios)
                self.left.update({part: after_exit.get(name) for name, part in parts})
        if self._kept > MOST_EFFECTS:
            self.effects.clear()
            self.near.clear()
            self.left.clear()
            self._kept = 0
        self._kept += len(missing)
        self.effects[view] = effects
        return effects

    def _effect(self, machine: Machine, were: dict[str, Facts], ids: int) -> _Effect:
        # A folio that is nothing of the process's own any more may be others' still.
        sides, mms, found = taken(machine, content=self._content, known=were)
        changed = {folio: facts for folio, facts in found.items() if were.get(folio) != facts}
        folios = {ord(folio): chr(ord(folio) + FRESH) for folio in changed if folio not in were}
        slots = "".join([slots for _, slots in changed.values()])
        processes = {ord(mm): chr(ord(mm) + FRESH) for mm in mms + slots if ord(mm) > ids}
        return _Effect(
            [Side(shape, anon_vmas, owners.translate(folios)) for shape, anon_vmas, owners in sides],
            mms.translate(processes),
            [(folio.translate(folios), (kind, slots.translate(processes))) for folio, (kind, slots) in changed.items()],
            frozenset(were).intersection(changed) | (were.keys() - found.keys()),
        )

    def _wide(self, state: State, at: int, number: int) -> State:
        machine = self.make(state)
        do_step(machine, self.space.steps_of(machine.processes[at], len(state.shapes))[number][0])
        return self._state(machine)

    def _state(self, machine: Machine) -> State:
        return state_of(machine, content=self._content)


def _let_go(machine: Machine) -> None:
    """Nobody asks it any more: undo the circles in it, so that Python need not look for them."""
    machine.processes.clear()
    machine.memory.mms.clear()


_latest: _Known | None = None


def _known(space: Space) -> _Known:
    global _latest
    if _latest is None or _latest.space != space:
        forget()
        _latest = _Known(space)
    return _latest


def kept_bytes() -> int:
    """What this process keeps of states that it has looked at, and of steps that it has done."""
    return (_latest.kept_bytes() if _latest else 0) + remembered_bytes()
