"""A limit of time for what a reader wrote: a loop without end is an answer, too."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooLong(BaseException):
    """The time is over. No Exception, so that ``except Exception`` in a reader's loop does not keep it."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block when it has run so long, and again each second while it goes on.

    Signals do it, so only on the main thread, where notebooks run their cells, and not on Windows; elsewhere there is
    no limit. A call that never comes back to Python is not ended.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
