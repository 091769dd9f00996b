"""Limits of time and memory for what a reader wrote: a loop without end is an answer, too.

Where processes can be copied (Linux), what she wrote runs in a copy of this one, which is ended when its time is over,
whatever it does: a call into C that never comes back (``sum(iter(int, 1))``) cannot be ended from Python inside.
Elsewhere it runs here, and a timer ends it, if it comes back to Python.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from ..kernel.late import TooLong, within

MOST_BYTES = 1 << 30
"""So much memory more than before, and no further: else the system would end the notebook's kernel."""

COPIES = sys.platform == "linux"
"""Whether this process can be copied: what other systems' libraries keep does not outlive a fork."""

Told = Callable[[bytes], None]
Work = Callable[[Told], None]
"""Does something, and tells of it in bytes."""


def apart(work: Work, seconds: float, most_bytes: int = MOST_BYTES) -> tuple[bytes, bool]:
    """Have `work` done in a copy of this process: all that it told, and whether it came to its end in time.

    The copy ends with `work`, or after `seconds`, or when this process is interrupted, and with it what it began;
    beyond `most_bytes` more than are used now it gets a MemoryError. Nothing that it changes is seen here.
    """
    reading, writing = os.pipe()
    try:
        child = _fork()
        if not child:
            _do(work, writing, seconds, most_bytes)
    finally:
        os.close(writing)
    try:
        return _read(reading, seconds)
    finally:
        os.close(reading)
        _end(child)


def _end(child: int) -> None:
    """End a copy, and whatever it began that is still in its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python warns from 3.12 on where there are threads: a lock that another one holds stays locked in the copy.
        # Whoever meets one there is ended, as late as everybody.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _do(work: Work, out: int, seconds: float, most_bytes: int) -> NoReturn:
    """In the copy: the work, and no cleaning up, for files and sockets are the other's."""

    def tell(told: bytes) -> None:
        while told:
            told = told[os.write(out, told) :]

    try:
        os.setpgid(0, 0)
        # In a group that is not the terminal's, who waits for a key would be stopped: nobody answers here.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # An interrupt is meant for the other, which ends this one; and should it be gone, this one does not stay.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        with less_memory(most_bytes):
            work(tell)
    finally:
        os._exit(0)


def _read(reading: int, seconds: float) -> tuple[bytes, bool]:
    told: list[bytes] = []
    until = time.monotonic() + seconds
    while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            return b"".join(told), True
        told.append(part)
    return b"".join(told), False


@contextmanager
def less_memory(more: int) -> Iterator[None]:
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


def here(work: Work, seconds: float) -> tuple[bytes, bool]:
    """The same as `apart` in this process, for systems without copies.

    A timer ends it, so only on the main thread, where notebooks run their cells, and not on Windows; elsewhere there
    is no limit. A call that never comes back to Python is not ended, and memory is not limited.
    """
    told: list[bytes] = []
    with suppress(TooLong), within(seconds):
        work(told.append)
        return b"".join(told), True
    return b"".join(told), False


limited = apart if COPIES else here
