"""An end for what a reader wrote, where it does not come to one itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.05
"""What caught it once is told again so soon, until it is out."""

REAL = "REAL"
"""The clock on the wall; its signal is SIGALRM."""
VIRTUAL = "VIRTUAL"
"""The processor's, so that a busy machine stops nobody; its signal is SIGVTALRM."""


class TooLong(BaseException):
    """The time is over. No Exception, so that ``except Exception`` in what a reader wrote does not keep it.

    Attributes
    ----------
    clock : str
        Whose; empty where another thread watched.
    """

    clock = ""


class _Stop:
    """What is done when the time is over."""

    def __init__(self, seconds: float, clock: str) -> None:
        self.seconds, self.clock, self.over = seconds, clock, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.over:
            return
        late = TooLong(f"no answer after {self.seconds:g} s")
        late.clock = self.clock
        raise late


@contextmanager
def within(seconds: float, clock: str = REAL) -> Iterator[None]:
    """Raise TooLong in the block when it has run so long, and again and again as long as it goes on.

    Where that can be done: on Unix, in the main thread; elsewhere there is no limit. A call that never comes back to
    Python is not ended. A block inside another one with the same clock has the outer one's time, for Linux gives a
    timer that is set again a tick more, and who asks often would never be late.
    """
    main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not main or is_timed(clock):
        yield
        return
    number, which = getattr(signal, _SIGNALS[clock]), getattr(signal, f"ITIMER_{clock}")
    stop = _Stop(seconds, clock)
    before = signal.signal(number, stop)
    timer = signal.setitimer(which, seconds, AGAIN_S)
    try:
        yield
    finally:
        # Whatever comes on the way out comes too late.
        stop.over = True
        try:
            signal.setitimer(which, *timer)
        finally:
            signal.signal(number, before)


_SIGNALS = {REAL: "SIGALRM", VIRTUAL: "SIGVTALRM"}


def is_timed(clock: str) -> bool:
    """Whether a block with that clock is running."""
    stop = signal.getsignal(getattr(signal, _SIGNALS[clock])) if hasattr(signal, "setitimer") else None
    return isinstance(stop, _Stop) and not stop.over


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """The same for any thread, by another one that watches: too slow for what is asked often."""
    # Few need it.
    import ctypes

    raises, me = ctypes.pythonapi.PyThreadState_SetAsyncExc, ctypes.c_ulong(threading.get_ident())
    done, lock = threading.Event(), threading.Lock()

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            wait = AGAIN_S
            with lock:
                if not done.is_set():
                    raises(me, ctypes.py_object(TooLong))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        with lock:
            # What was on its way comes too late.
            raises(me, None)
