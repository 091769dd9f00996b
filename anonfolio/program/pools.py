"""Processes that share work: whether they may be forked, how they begin and end, what is said when one is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

LOST = "a process that shared the work was killed, as happens when memory runs out"


class WorkerLost(MemoryError):
    """A process that shared the work ended before its answer."""


@contextmanager
def losses_told() -> Iterator[None]:
    """What a pool or an executor says of a process that ended in the middle becomes `WorkerLost`."""
    try:
        yield
    except RuntimeError as error:
        from concurrent.futures import BrokenExecutor

        if isinstance(error, BrokenExecutor):
            raise WorkerLost(LOST) from None
        raise


def forks_safely() -> bool:
    """Whether a process may be forked, which inherits rules of a cell or a file; beside threads it would be unsafe."""
    return hasattr(os, "fork") and threading.active_count() == 1


@contextmanager
def forked(
    jobs: int, know: Callable[..., object] | None = None, told: Sequence[Any] = ()
) -> Iterator[ProcessPoolExecutor]:
    """So many forked processes, each begun with ``know(*told)``. Where they are left with an error they are ended."""
    # Not every question needs processes, and not every system that can import this has them.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    before = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("fork"), initializer=_begin, initargs=(os.getpid(), know, told)
    )
    try:
        begin(pool)
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in before:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def begin(*pools: ProcessPoolExecutor) -> None:
    """Fork now, while no thread of theirs runs; come back when all have begun."""
    with warnings.catch_warnings():
        # Python 3.12 warns of any thread; numpy's own only multiply matrices.
        warnings.simplefilter("ignore", DeprecationWarning)
        for begun in [pool.submit(os.getpid) for pool in pools]:
            begun.result()


def serve(parent: int) -> None:
    """In a new process: leave Ctrl-C to the one that asks, and end with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _begin(parent: int, know: Callable[..., object] | None, told: Sequence[Any]) -> None:
    serve(parent)
    if know:
        know(*told)
