"""An end for what a reader wrote, where it does not come to one itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

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


def watched(seconds: float, work: Callable[[], Result]) -> Result:
    """What `work` returns; the same limit for any thread, by another one: too slow for what is asked often.

    No block, for TooLong may come wherever Python looks, and between a block and its end it would get away.
    """
    # Few need it.
    import ctypes

    raises, me = ctypes.pythonapi.PyThreadState_SetAsyncExc, ctypes.c_ulong(threading.get_ident())
    ended, lock = threading.Lock(), threading.Lock()
    told = over = False

    def tell() -> None:
        raises(me, ctypes.py_object(TooLong))

    def watch() -> None:
        nonlocal told
        wait = seconds
        while not ended.acquire(timeout=wait):
            wait = AGAIN_S
            with lock:
                if not over:
                    told = True
                    tell()

    ended.acquire()
    try:
        threading.Thread(target=watch, daemon=True).start()
        return work()
    finally:
        over, quiet = True, False
        # What was on its way comes too late, and may come here. There is one place for it, so another one takes it
        # along. To take it back instead would leave the interpreter looking for it for good (CPython 3.11, whose
        # `async_exc` stays set: a thread with a profiler then never gets past the first instruction of a function).
        while not quiet:
            try:
                with lock:
                    quiet, told = not told, False
                if not quiet:
                    tell()
                    for _ in range(1000):
                        pass
            except TooLong:
                pass
        ended.release()
