"""The same question about many things, shared by several processes where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ..program.pools import forked, forks_safely, losses_told

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")

PARTS_PER_JOB = 8
"""So many parts each process gets, that none is left with a long one at the end."""


Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


def spread(
    ask: Callable[[Thing], Answer], things: Sequence[Thing], jobs: int = 1, progress: Progress | None = None
) -> list[Answer]:
    """``[ask(thing) for thing in things]``, by so many processes.

    They are forked, so that they know a rule that was written in a cell or a file. Where that is not to be had, or
    threads run beside (a notebook has some), this process does all by itself.
    """
    if jobs == 1 or len(things) < 2 * jobs or not forks_safely():
        return _gathered(map(ask, things), len(things), progress)
    size = max(1, len(things) // (jobs * PARTS_PER_JOB))
    with losses_told(), forked(jobs, _know, (ask, things)) as pool:
        # Only numbers are sent: what is asked about may hold a rule that has no name, and so cannot be.
        return _gathered(pool.map(_answer, range(len(things)), chunksize=size), len(things), progress)


def _gathered(answers: Iterable[Answer], total: int, progress: Progress | None) -> list[Answer]:
    found: list[Answer] = []
    for answer in answers:
        found.append(answer)
        if progress:
            progress(len(found), total)
    return found


_ask: Callable[[Any], Any]
_things: Sequence[Any]


def _know(ask: Callable[[Any], Any], things: Sequence[Any]) -> None:
    global _ask, _things
    _ask, _things = ask, things


def _answer(number: int) -> Any:
    return _ask(_things[number])
