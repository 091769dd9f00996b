"""One search: which states have been seen, which wait, what it may still take, and where a killed run goes on."""

from __future__ import annotations

import hashlib
import marshal
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..machine.invariants import check
from .explore import BATCH, Broken, Expanded, Space, Ways, kept_bytes
from .states import NAME_BYTES
from .workers import Workers

if TYPE_CHECKING:
    # It brings logging, which has something to do at exit.
    from concurrent.futures import Executor

Progress = Callable[[int, int, int], None]
"""Called about once a second with the depth, the distinct states and the transitions so far."""

SEEN_BYTES = 64
"""What Python takes for a name, besides its place in the set."""
SAVED_EVERY_S = 60
_NO_WAY = np.zeros((1, 0), np.uint16)


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
        What it keeps of states, by its own count; that of processes that help is not counted (some 100 MiB each).
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
        self._waiting: Ways = _NO_WAY
        self._done = 0
        self._next: list[Ways] = []
        self._begun = self._told = self._saved = time.monotonic()

    @property
    def states(self) -> int:
        """Distinct states so far."""
        return len(self._seen)

    def digest(self) -> str:
        """SHA-256 of all states' names: equal for searches that saw the same states, however they did it."""
        return hashlib.sha256(b"".join(sorted(self._seen))).hexdigest()

    def run(self) -> Broken | None:
        """The first program that breaks something; None when there is none within the limits."""
        if not self._go_on():
            start = self.space.begin()
            self._seen.add(self.space.name(start))
            if violations := check(start, self.space.invariants):
                return Broken((), violations[0])
            # Where no file can be is said before hours of searching.
            self._save()
        workers = Workers(self.space, self.limits.executor, self.limits.jobs)
        try:
            while len(self._waiting) and (self.limits.steps is None or self.depth < self.limits.steps):
                self.depth += 1
                if broken := self._level(workers):
                    return broken
        except BaseException:
            self._save()
            raise
        finally:
            workers.close()
        self.complete = not len(self._waiting)
        self._save()
        return None

    def _level(self, workers: Workers) -> Broken | None:
        for expanded in workers.expansions(self._waiting[self._done :]):
            self._take_in(expanded)
            if expanded.broken:
                return expanded.broken
            self._check_limits()
        width = self._waiting.shape[1] + 1
        self._waiting = np.concatenate(self._next) if self._next else np.zeros((0, width), np.uint16)
        self._done, self._next = 0, []
        return None

    def _take_in(self, expanded: Expanded) -> None:
        self.transitions += expanded.transitions
        names, seen = expanded.names, self._seen
        fresh = []
        for at in range(len(expanded.parents)):
            name = names[NAME_BYTES * at : NAME_BYTES * (at + 1)]
            if name not in seen:
                seen.add(name)
                fresh.append(at)
        if fresh:
            parents = self._waiting[self._done + expanded.parents[fresh]]
            self._next.append(np.column_stack((parents, expanded.steps[fresh])))
        self._done = min(self._done + BATCH, len(self._waiting))

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
        """What the search keeps: names, and the ways to states that wait."""
        ways = self._waiting.nbytes + sum(part.nbytes for part in self._next)
        return sys.getsizeof(self._seen) + SEEN_BYTES * len(self._seen) + ways + kept_bytes()

    # --- going on -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        path = self.limits.checkpoint
        if not path:
            return
        self._saved = time.monotonic()
        part = path.with_name(path.name + ".part")
        width = self._waiting.shape[1] + 1
        with part.open("wb") as file:
            np.savez(
                file, space=np.array(fingerprint(self.space)), waiting=self._waiting,
                next=np.concatenate([np.zeros((0, width), np.uint16), *self._next]),
                numbers=np.array([self.depth, self.transitions, self._done]),
                seen=np.frombuffer(b"".join(self._seen), np.uint8),
            )  # fmt: skip
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
                space, numbers = str(kept["space"]), kept["numbers"].tolist()
                waiting, following, seen = kept["waiting"], kept["next"], kept["seen"].tobytes()
            if waiting.ndim != 2 or following.shape[1:] != (waiting.shape[1] + 1,):
                raise ValueError
            self.depth, self.transitions, self._done = map(int, numbers)
        except Exception:  # what is in somebody's file may raise anything
            raise ValueError(f"{path} is not the checkpoint of a search; name another file, or remove it") from None
        if space != fingerprint(self.space):
            raise ValueError(f"{path} is the checkpoint of another search; name another file, or remove it")
        self._waiting, self._next = waiting, [following]
        self._seen = {seen[at : at + NAME_BYTES] for at in range(0, len(seen), NAME_BYTES)}
        # A level that was begun is counted again when it goes on.
        self.depth = max(0, waiting.shape[1])
        return True


def fingerprint(space: Space) -> str:
    """What a search is of, as SHA-256: two are the same search if it is equal. Functions count by their code."""
    said: list[object] = [space.start.text(), space.operations, space.processes]
    said += [rule.name for rule in space.invariants]
    said += [(field.name, _words(getattr(space.policy, field.name))) for field in fields(space.policy)]
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _words(value: Any) -> object:
    if not callable(value):
        return value
    code = getattr(value, "__code__", None)
    kept = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
    return getattr(value, "__qualname__", ""), marshal.dumps(code) if code else repr(value), list(map(_words, kept))
