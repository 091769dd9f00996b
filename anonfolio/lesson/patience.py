"""Limits of time and memory for what a reader wrote: a loop without end is an answer, too."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 30
"""So much memory more than before, and no further: else the system would end the notebook's kernel."""


class TooLong(BaseException):
    """The time is over. No Exception, so that ``except Exception`` in a reader's loop does not keep it."""


@contextmanager
def _less_memory(more: int) -> Iterator[None]:
    """What asks for `more` bytes beyond what is used now gets a MemoryError (on Linux; elsewhere there is no limit)."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    least = min(bound for bound in (used + more, *before) if bound != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (least, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block when it has run so long, and again each second while it goes on; MemoryError when it
    takes more than `MOST_BYTES`.

    Signals do it, so only on the main thread, where notebooks run their cells, and not on Windows; elsewhere there is
    no limit. A call that never comes back to Python is not ended.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        with _less_memory(MOST_BYTES):
            yield
        return

    def over(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        with _less_memory(MOST_BYTES):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
