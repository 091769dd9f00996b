"""Who expands the states of a search: this process, processes of its own, or any executor that it is given.

Processes of its own get every batch, each its share of it, always of the same views (`explore.Share`): what one has
learnt no other needs to learn. Whoever is behind an executor gets whole batches.
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from .explore import BATCH, Expanded, Share, Space, expand, joined
from .pools import begin, forks_safely, losses_told, serve
from .states import NAME_BYTES

AHEAD = 16
"""So many batches are under way at most; none of some workers is idle while what it did is taken in."""
POOLED_STATES = 250
"""A level of fewer is done before a second process has begun."""

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future, ProcessPoolExecutor

Forms = list[bytes]
Send = Callable[[Forms], "Sequence[Future[Expanded]]"]


class Workers:
    """Expands one level after the other, always in order.

    Parameters
    ----------
    space : Space
    executor : Executor, optional
        Whoever runs functions elsewhere. What it is sent is pickled, the policy's own rules included.
    jobs : int
        Without an executor: how many processes, this one alone or so many of its own. They begin with the first level
        that is worth it.
    """

    def __init__(self, space: Space, executor: Executor | None = None, jobs: int = 1) -> None:
        self._space, self._executor, self._jobs = space, executor, jobs
        self._pools: list[ProcessPoolExecutor] = []

    def expansions(self, level: Forms, seen: Container[bytes]) -> Iterator[Expanded]:
        """One result for each `BATCH` of states; those whose names were seen need not be told."""
        batches = (level[at : at + BATCH] for at in range(0, len(level), BATCH))
        with losses_told():
            if send := self._send(len(level)):
                yield from _sent(send, batches)
            else:
                yield from (expand(self._space, batch, seen) for batch in batches)

    def close(self) -> None:
        """End the processes of its own; a given executor stays as it is."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def _send(self, states: int) -> Send | None:
        if executor := self._executor:
            return lambda forms: [executor.submit(expand, self._space, forms)]
        if self._jobs == 1 or (not self._pools and states < POOLED_STATES):
            return None
        pools = self._pools = self._pools or _pools(self._space, self._jobs)
        if not pools:
            self._jobs = 1
            return None
        return lambda forms: [pool.submit(_expand_here, forms) for pool in pools]


def _sent(send: Send, batches: Iterable[Forms]) -> Iterator[Expanded]:
    """What comes back, in order; some batches are always under way."""
    waiting: deque[Sequence[Future[Expanded]]] = deque()
    try:
        for batch in batches:
            waiting.append(send(batch))
            if len(waiting) == AHEAD:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for future in chain.from_iterable(waiting):
            future.cancel()


def _result(shares: Sequence[Future[Expanded]]) -> Expanded:
    return joined([share.result() for share in shares])


def _pools(space: Space, jobs: int) -> list[ProcessPoolExecutor]:
    """Processes that know the space, each alone in a pool, so that it gets its share; none where they cannot be told.

    A forked process inherits rules that are written in a cell or a file; a fresh one can only import them. To fork
    beside threads of Python (a notebook has some) would be unsafe. Those of the pools themselves only wait.
    """
    # Not every search needs processes, and not every system that can import this has them.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    how = "fork" if forks_safely() else "spawn"
    if how == "spawn":
        try:
            pickle.dumps(space)
        except (pickle.PicklingError, AttributeError, TypeError):
            return []
    context = multiprocessing.get_context(how)
    shares = [Share(number, jobs) for number in range(jobs)]
    pools = [
        ProcessPoolExecutor(1, context, initializer=_begin, initargs=(space, share, os.getpid())) for share in shares
    ]
    begin(*pools)
    return pools


_space: Space
_share: Share
_told: set[bytes] = set()
"""What this process has told its search."""
MOST_TOLD = 1 << 20
"""So many names it remembers; beyond, it tells all again."""
TOLD_BYTES = 100
"""About what a name takes there."""


def _begin(space: Space, share: Share, parent: int) -> None:
    """In a new process: know the space."""
    global _space, _share
    _space, _share = space, share
    serve(parent)


def _expand_here(forms: Forms) -> Expanded:
    expanded = expand(_space, forms, _told, _share)
    if len(_told) > MOST_TOLD:
        _told.clear()
    names = expanded.names
    _told.update([names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)])
    return expanded._replace(kept={who: kept + TOLD_BYTES * len(_told) for who, kept in expanded.kept.items()})
