"""Who expands the states of a search: this process, processes of its own, or any executor that it is given."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING

from .explore import BATCH, Expanded, Space, expand
from .states import NAME_BYTES

AHEAD = 16
"""So many batches are under way at most; none of some workers is idle while what it did is taken in."""
POOLED_STATES = 1000
"""A level of fewer is done before a second process has begun."""

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future, ProcessPoolExecutor

Forms = list[bytes]
Send = Callable[[Forms], "Future[Expanded]"]


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
        self._pool: ProcessPoolExecutor | None = None

    def expansions(self, level: Forms, seen: Container[bytes]) -> Iterator[Expanded]:
        """One result for each `BATCH` of states; those whose names were seen need not be told."""
        batches = (level[at : at + BATCH] for at in range(0, len(level), BATCH))
        send = self._send(len(level))
        if not send:
            yield from (expand(self._space, batch, seen) for batch in batches)
            return
        waiting: deque[Future[Expanded]] = deque()
        try:
            for batch in batches:
                waiting.append(send(batch))
                if len(waiting) == AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """End the processes of its own; a given executor stays as it is."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _send(self, states: int) -> Send | None:
        if executor := self._executor:
            return lambda forms: executor.submit(expand, self._space, forms)
        if self._jobs == 1 or (not self._pool and states < POOLED_STATES):
            return None
        pool = self._pool = self._pool or _pool(self._space, self._jobs)
        if not pool:
            self._jobs = 1
            return None
        return lambda forms: pool.submit(_expand_here, forms)


def _pool(space: Space, jobs: int) -> ProcessPoolExecutor | None:
    """Processes that know the space; None where they cannot be told.

    A forked process inherits rules that are written in a cell or a file; a fresh one can only import them. To fork
    beside threads of Python (a notebook has some) would be unsafe.
    """
    # Not every search needs processes, and not every system that can import this has them.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    how = "fork" if _forks_safely() else "spawn"
    if how == "spawn":
        try:
            pickle.dumps(space)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
    context = multiprocessing.get_context(how)
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(space, os.getpid()))
    with warnings.catch_warnings():
        # Python 3.12 warns of any thread; numpy's own only multiply matrices.
        warnings.simplefilter("ignore", DeprecationWarning)
        pool.submit(os.getpid).result()
    return pool


def _forks_safely() -> bool:
    return hasattr(os, "fork") and threading.active_count() == 1


_space: Space
_told: set[bytes] = set()
"""What this process has told its search."""
MOST_TOLD = 1 << 20
"""So many names it remembers; beyond, it tells all again."""


def _begin(space: Space, parent: int) -> None:
    """In a new process: know the space, leave Ctrl-C to the one that asks, and end with it even if it is killed."""
    global _space
    _space = space
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _expand_here(forms: Forms) -> Expanded:
    expanded = expand(_space, forms, _told)
    if len(_told) > MOST_TOLD:
        _told.clear()
    names = expanded.names
    _told.update([names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)])
    return expanded
