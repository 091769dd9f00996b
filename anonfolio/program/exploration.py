"""One search: which states have been seen, which wait, what it may still take, and where a killed run goes on."""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..machine.invariants import check
from .explore import BATCH, Broken, Expanded, Miscounted, Space, first_broken, kept_bytes, program_of
from .states import NAME_BYTES, name_of, state_of, to_bytes
from .workers import Workers

if TYPE_CHECKING:
    # It brings logging, which has something to do at exit.
    from concurrent.futures import Executor

Progress = Callable[[int, int, int], None]
"""Called about once a second with the depth, the distinct states and the transitions so far."""

SEEN_BYTES = 64
"""What Python takes for a name, besides its place in the set."""
FORM_BYTES = 48
"""The same for a state that waits, with its place in the list."""
SAVED_EVERY_S = 60
KEPT = ("numbers", "seen", "parents", "steps", "sizes", "forms")
"""What a checkpoint holds, besides of which search it is, and its seal."""
CHECKPOINT = "anonfolio-search/5"
"""What a checkpoint says that it is; one of another version is not gone on from."""


class Stopped(Exception):
    """The search took more than it may; the message says of what."""


@dataclass(frozen=True)
class Limits:
    """What a search may take, and who does it.

    Attributes
    ----------
    steps : int or None
        The longest program; None for any length.
    seconds : float or None
    memory_mib : int
        What it keeps of states, by its own count, and what processes that help it keep; not counted is what each of
        them is without (some 50 MiB).
    executor : Executor or None
    jobs : int
        How many processes, without an executor.
    checkpoint : Path or None
        A file to go on from and to keep up to date.
    """

    steps: int | None
    seconds: float | None = None
    memory_mib: int = 2048
    executor: Executor | None = None
    jobs: int = 1
    checkpoint: Path | None = None


class Exploration:
    """Breadth first over a space.

    Attributes
    ----------
    depth : int
        Steps of the programs that are tried now.
    transitions : int
        Steps tried so far.
    complete : bool
        Whether every state has been expanded: then programs of any length have been tried.
    """

    def __init__(self, space: Space, limits: Limits, progress: Progress | None = None) -> None:
        self.space, self.limits, self.progress = space, limits, progress
        self.depth = self.transitions = 0
        self.complete = False
        self._seen: set[bytes] = set()
        # States are numbered as they are found, so a level is a row of them: how each was found, by its number.
        self._parents, self._steps = array("I"), array("H")
        self._waiting: list[bytes] = []
        self._next: list[bytes] = []
        self._first = self._done = 0
        # How many steps it takes to those that wait.
        self._reached = -1
        self._waiting_bytes = self._next_bytes = 0
        # What each process keeps that expands states, by its id.
        self._helpers: dict[int, int] = {}
        self._begun = self._told = self._saved = time.monotonic()

    @property
    def states(self) -> int:
        """Distinct states so far."""
        return len(self._seen)

    @property
    def levels(self) -> tuple[int, ...]:
        """How many states take 0, 1, 2, … steps to reach, as far as every shorter program was tried."""
        # States are found in the order of their parents, so each level's parents are a row before the next one's.
        parents, ends = np.array(self._parents), [0, 1]
        while len(ends) <= self._reached + 1 and ends[-1] > ends[-2]:
            ends.append(int(np.searchsorted(parents, ends[-1])))
        return tuple(number for number in np.diff(ends).tolist() if number)

    def digest(self) -> str:
        """SHA-256 of all states' names: equal for searches that saw the same states, however they did it."""
        return hashlib.sha256(b"".join(sorted(self._seen))).hexdigest()

    def run(self) -> Broken | None:
        """The first program that breaks something; None when there is none within the limits."""
        if not self._go_on():
            start = self.space.begin()
            if violations := check(start, self.space.invariants):
                return Broken((), violations[0])
            state = state_of(start, content=self.space.reads_content)
            self._seen.add(name_of(state))
            self._found(0, 0, to_bytes(state))
            self._turn()
            # Where no file can be is said before hours of searching.
            self._save()
        workers = Workers(self.space, self.limits.executor, self.limits.jobs)
        try:
            while self._waiting and (self.limits.steps is None or self.depth < self.limits.steps):
                self.depth = self._reached + 1
                if broken := self._level(workers):
                    return broken
        except Miscounted:
            raise
        except BaseException:
            self._save()
            raise
        finally:
            workers.close()
        self.complete = not self._waiting
        self._save()
        return None

    def _level(self, workers: Workers) -> Broken | None:
        for expanded in workers.expansions(self._waiting[self._done :], self._seen):
            if broken := self._take_in(expanded):
                return broken
            self._done = min(self._done + BATCH, len(self._waiting))
            self._check_limits()
        self._turn()
        return None

    def _turn(self) -> None:
        """What was found waits now."""
        self._reached += 1
        self._first += len(self._waiting)
        self._waiting, self._waiting_bytes = self._next, self._next_bytes
        self._next, self._next_bytes, self._done = [], 0, 0

    def _take_in(self, expanded: Expanded) -> Broken | None:
        names, seen = expanded.names, self._seen
        self._helpers.update(expanded.kept)
        rows = zip(
            expanded.parents.tolist(), expanded.steps.tolist(), expanded.tried.tolist(), expanded.forms, strict=True
        )
        found: dict[bytes, tuple[int, int, int, bytes]] = {}
        for at, row in enumerate(rows):
            name = names[NAME_BYTES * at : NAME_BYTES * (at + 1)]
            if name not in seen:
                found.setdefault(name, row)
        new = list(found.values())
        broken = first_broken(self.space, [form for *_, form in new])
        for parent, step, _, form in new if broken is None else new[: broken + 1]:
            self._found(self._first + self._done + parent, step, form)
        seen.update(list(found)[: len(new) if broken is None else broken + 1])
        if broken is None:
            self.transitions += expanded.transitions
            return None
        parent, step, tried, _ = new[broken]
        self.transitions += tried
        return self._broken(self._first + self._done + parent, step)

    def _found(self, parent: int, step: int, form: bytes) -> None:
        self._parents.append(parent)
        self._steps.append(step)
        self._next.append(form)
        self._next_bytes += len(form) + FORM_BYTES

    def _broken(self, parent: int, step: int) -> Broken:
        """The program that leads to a step that breaks something, run again from its beginning."""
        way = [step]
        while parent:
            way.append(self._steps[parent])
            parent = self._parents[parent]
        program, machine = program_of(self.space, way[::-1])
        violations = check(machine, self.space.invariants)
        if not violations:
            raise Miscounted(f"{self.space.policy.name}: {program} breaks nothing when it is run again")
        return Broken(program, violations[0])

    def _check_limits(self) -> None:
        now, limits = time.monotonic(), self.limits
        if limits.seconds is not None and now - self._begun > limits.seconds:
            raise Stopped(f"{limits.seconds:g} s are over")
        if self.kept_bytes() > limits.memory_mib << 20:
            raise Stopped(f"{limits.memory_mib:,} MiB of memory are used")
        if self.progress and now - self._told > 1:
            self._told = now
            self.progress(self.depth, self.states, self.transitions)
        if now - self._saved > SAVED_EVERY_S:
            self._save()

    def kept_bytes(self) -> int:
        """What the search keeps: names, how each state was found, those that wait; and what was learnt of steps."""
        names = sys.getsizeof(self._seen) + (SEEN_BYTES + 6) * len(self._seen)
        learnt = sum({**self._helpers, os.getpid(): kept_bytes()}.values())
        return names + self._waiting_bytes + self._next_bytes + learnt

    # --- going on -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        path = self.limits.checkpoint
        if not path:
            return
        self._saved = time.monotonic()
        part = path.with_name(path.name + ".part")
        forms = [*self._waiting, *self._next]
        arrays = {
            "numbers": np.array([self._reached, self.transitions, self._first, self._done, len(self._waiting)]),
            "seen": np.frombuffer(b"".join(self._seen), np.uint8),
            "parents": np.array(self._parents, np.uint32),
            "steps": np.array(self._steps, np.uint16),
            "sizes": np.array(list(map(len, forms)), np.uint32),
            "forms": np.frombuffer(b"".join(forms), np.uint8),
        }
        kept: dict[str, Any] = dict(arrays)
        with part.open("wb") as file:
            np.savez(file, seal=np.array(_seal(self.space, arrays)), space=np.array(fingerprint(self.space)), **kept)
        os.replace(part, path)

    def _go_on(self) -> bool:
        """Take over what an earlier run left; whether there was one."""
        path = self.limits.checkpoint
        if not path or not path.exists():
            return False
        try:
            if not path.is_file():
                raise ValueError
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            space, seal = str(arrays.pop("space")), str(arrays.pop("seal"))
            numbers, seen, parents, steps, sizes, forms = (arrays[name] for name in KEPT)
        except Exception:  # what is in somebody's file may raise anything
            raise ValueError(f"{path} is not the checkpoint of a search; name another file, or remove it") from None
        if space != fingerprint(self.space):
            raise ValueError(f"{path} is the checkpoint of another search; name another file, or remove it")
        if seal != _seal(self.space, arrays):
            raise ValueError(f"{path} was changed since the search wrote it; name another file, or remove it")
        self._reached, self.transitions, self._first, self._done, waiting = numbers.tolist()
        # A level that was begun is counted again when it goes on.
        self.depth = self._reached
        self._parents, self._steps = array("I", parents.tolist()), array("H", steps.tolist())
        blob, names_blob = forms.tobytes(), seen.tobytes()
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        states = [blob[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        self._waiting, self._next = states[:waiting], states[waiting:]
        self._waiting_bytes, self._next_bytes = (
            sum(map(len, some)) + FORM_BYTES * len(some) for some in (self._waiting, self._next)
        )
        self._seen = {names_blob[at : at + NAME_BYTES] for at in range(0, len(names_blob), NAME_BYTES)}
        return True


def _seal(space: Space, arrays: dict[str, Any]) -> str:
    """What a checkpoint's content is held to, as SHA-256: a search believes no states that none has found."""
    seal = hashlib.sha256(f"{CHECKPOINT} {fingerprint(space)}".encode())
    for name in sorted(arrays):
        seal.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        seal.update(arrays[name].tobytes())
    return seal.hexdigest()


def fingerprint(space: Space) -> str:
    """What a search is of, as SHA-256: two are the same search if it is equal. Functions count by their code."""
    said: list[object] = [space.start.text(), space.operations, space.processes, space.every]
    said += [rule.name for rule in space.invariants]
    said += [(field.name, _words(getattr(space.policy, field.name))) for field in fields(space.policy)]
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _words(value: Any) -> object:
    if not callable(value):
        return value
    code = getattr(value, "__code__", None)
    kept = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return getattr(value, "__qualname__", ""), marshal.dumps(code) if code else repr(value), list(map(_words, kept))
