"""Follows a process that runs already, for some time: what it has is looked at once, then faults and calls are noted.

All its threads are stopped twice for a moment (PTRACE_SEIZE, PTRACE_INTERRUPT): to look at what is there, and to see at
the end what is there then. Nobody is killed, whatever goes wrong; when the recorder dies the kernel lets everybody go.
Pages that are there at the beginning are taken as written one after the other, as if the process had just done so:
nobody knows in which order it did. What only the zero page backs was read.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...hardware.trace import ALONE, NO_ACCESS, NO_HUGE, NO_RESERVE, READ_ONLY, READ_WRITE, Trace
from ..here import LiveError
from .kernel import PROC, Mapping, smaps
from .trace import (
    PTRACE_CONT,
    PTRACE_OPTIONS,
    PTRACE_SEIZE,
    WALL,
    WNOTHREAD,
    Found,
    Launch,
    Program,
    Run,
    begin,
    check_64_bit,
    ended_of,
    event_message,
    image_of,
    is_ours,
    prepared,
    ptrace,
    trace_of,
)
from .worker import PAGE

PTRACE_DETACH, PTRACE_INTERRUPT, PTRACE_LISTEN = 17, 0x4207, 0x4208
PTRACE_EVENTS_OF_CHILDREN, PTRACE_EVENT_STOP = (1, 2, 3), 128
WITHOUT_A_KILL = PTRACE_OPTIONS & ~(1 << 20)
"""A process that was here before us stays when we go (no PTRACE_O_EXITKILL)."""
STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
SECONDS = 10.0
PAUSE_SECONDS = 0.001
STOP_SECONDS = 5.0
"""How long the threads may take to stop; one that the kernel holds (D state) may never."""
FRAME = (1 << 55) - 1
"""Of an entry in pagemap."""
MOST_PAGES = 1 << 24
"""64 GiB of mappings that hold anything: as much as a trace has."""


def follow(
    pid: int, seconds: float = SECONDS, progress: Callable[[str], None] | None = None, launch: Launch | None = None
) -> Trace:
    """The trace of a running process and of what it starts; until it ends, for so long, or until Ctrl-C.

    Raises
    ------
    LiveError
        There is no such process, or it cannot be followed: why, in one line.
    """
    name = check_process(pid)
    launch = launch or Launch()
    with prepared((), launch) as (kernel, instance, placed):
        program = Attached(instance, pid, seconds, progress, placed)
        run = program.run()
    there = len(run.found.pages) if run.found else 0
    about: dict[str, Any] = {
        "command": f"process {pid} ({name})",
        "seconds": round(program.lasted, 1),
        "there_before": there,
    }
    return trace_of(run, kernel.version, **about)


def check_process(pid: int) -> str:
    """The name of a process that can be followed; LiveError says why one cannot."""
    if pid == os.getpid():
        raise LiveError(f"process {pid} is the recorder itself")
    try:
        status = dict(re.findall(r"^(\w+):\s+(.*)$", (PROC / f"{pid}/status").read_text(errors="replace"), re.M))
    except OSError:
        raise LiveError(f"there is no process {pid}") from None
    if int(status["Tgid"]) != pid:
        raise LiveError(f"{pid} is a thread of process {status['Tgid']}; follow that one")
    if int(status["TracerPid"]):
        raise LiveError(f"process {pid} is traced already, by process {status['TracerPid']}")
    if "VmSize" not in status:
        raise LiveError(f"process {pid} ({status['Name']}) has no memory of its own: it is the kernel's, or has ended")
    check_64_bit(PROC / f"{pid}/exe")
    return str(status["Name"])


class Attached(Program):
    """A running process, and all that it starts, followed by a thread of its own."""

    def __init__(
        self, instance: Path, pid: int, seconds: float, progress: Callable[[str], None] | None, launch: Launch
    ) -> None:
        super().__init__(instance, (), Path(), progress, launch)
        self.root, self.seconds = pid, seconds
        self.found: Found | None = None
        self.stopping = False
        self.lasted = self.started = 0.0
        self._gone: set[int] = set()

    def run(self) -> Run:
        """From the first stop to the last."""
        try:
            self.start()
            self.ended.wait()
        except KeyboardInterrupt:
            # Seen enough: what was noted until now is told.
            self.end()
        except BaseException:
            self.end()
            self.close()
            raise
        try:
            if self.error:
                raise self.error
            return Run([], self.images, self.exits, 0, self.found, self.converted())
        finally:
            self.close()

    def end(self) -> None:
        """Let everybody go."""
        self.stopping = True
        self.ended.wait(2 * STOP_SECONDS)

    def _fail(self, error: BaseException) -> None:
        self.error, self.stopping = self.error or error, True

    # --- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._begin()
            self._follow()
        except BaseException as error:
            self.error = self.error or error
        finally:
            for thread in tuple(self._alive):
                _let_go(thread)
            self.ended.set()

    def _begin(self) -> None:
        """Stop all threads, look, and send them on with the events on."""
        threads: set[int] = set()
        while new := {int(name) for name in os.listdir(PROC / f"{self.root}/task")} - threads:
            for thread in new:
                # A thread that ends meanwhile is none.
                with suppress(ProcessLookupError):
                    ptrace(PTRACE_SEIZE, thread, WITHOUT_A_KILL)
                    self._alive.add(thread)
                    ptrace(PTRACE_INTERRUPT, thread)
            threads |= new
        held = self._hold(set())
        self.found = found_of(self.root, held)
        begin(self.instance, *sorted(held))
        self._begin_to_read(self.found)
        self.started = time.monotonic()
        for thread in held:
            _send_on(thread)

    def _follow(self) -> None:
        """Until nobody is left, or the time is over."""
        told = -1
        while self._alive and not self.stopping:
            self.lasted = time.monotonic() - self.started
            if self.lasted >= self.seconds:
                break
            if self.progress and int(self.lasted) > told:
                told = int(self.lasted)
                self.progress(f"process {self.root} followed for {told} of {self.seconds:g} s")
            if not self._next():
                time.sleep(PAUSE_SECONDS)
        for thread in tuple(self._alive):
            with suppress(ProcessLookupError):
                ptrace(PTRACE_INTERRUPT, thread)
        held = self._hold(set())
        (self.instance / "tracing_on").write_text("0")
        processes = {_process_of(thread) for thread in held} - {0}
        self.exits += [ended_of(process) for process in sorted(processes)]

    def _hold(self, held: set[int]) -> set[int]:
        """Wait until all threads stand still because they were asked to."""
        deadline = time.monotonic() + STOP_SECONDS
        while held < self._alive:
            if time.monotonic() > deadline:
                stuck = min(self._alive - held)
                raise LiveError(f"thread {stuck} of process {self.root} does not stop: the kernel is busy with it")
            if stopped := self._next(hold=True):
                held.add(stopped)
            else:
                time.sleep(PAUSE_SECONDS)
            held &= self._alive
        return held

    def _next(self, hold: bool = False) -> int:
        """Look after one that has stopped or ended; 0 when there is none, or none that stays held."""
        try:
            pid, event = os.waitpid(-1, WALL | WNOTHREAD | os.WNOHANG)
        except ChildProcessError:
            self._alive.clear()
            return 0
        if not pid:
            return 0
        if not os.WIFSTOPPED(event):
            self._alive.discard(pid)
            self._gone.add(pid)
            return 0
        self._alive.add(pid)
        what, number = event >> 16, os.WSTOPSIG(event)
        if what in PTRACE_EVENTS_OF_CHILDREN and (child := event_message(pid)) not in self._gone:
            self._alive.add(child)
        self._note(pid, what)
        if hold and what == PTRACE_EVENT_STOP:
            return pid
        if what == PTRACE_EVENT_STOP and number in STOPS:
            # Somebody else has stopped it, and it stays so.
            with suppress(ProcessLookupError):
                ptrace(PTRACE_LISTEN, pid)
            return 0
        _send_on(pid, 0 if what else number)
        return 0


def _send_on(pid: int, number: int = 0) -> None:
    with suppress(ProcessLookupError):
        ptrace(PTRACE_CONT, pid, number)


def _let_go(pid: int) -> None:
    """Only one that stands still can be let go."""
    with suppress(OSError):
        ptrace(PTRACE_DETACH, pid)


def _process_of(thread: int) -> int:
    try:
        told = re.search(r"^Tgid:\s+(\d+)", (PROC / f"{thread}/status").read_text(errors="replace"), re.M)
    except OSError:
        return 0
    return int(told[1]) if told else 0


# --- what is there ----------------------------------------------------------------------------------------------------


def found_of(pid: int, threads: set[int]) -> Found:
    """A process that stands still: its private anonymous mappings, and what of them is in memory."""
    rows = [row for row in smaps(pid) if is_ours(row)]
    holding = [row for row in rows if row.fields.get("Rss", "0 kB").split()[0] != "0"]
    if sum(row.end - row.start for row in holding) > MOST_PAGES * PAGE:
        raise LiveError(f"process {pid} maps more than {MOST_PAGES * PAGE >> 30} GiB, which is more than a trace has")
    pages, written = _in_memory(pid, holding)
    heap = max((row.end for row in rows if row.name == "[heap]"), default=0)
    seen = image_of(pid)
    return Found(seen, heap or seen.brk, sorted(threads), list(map(_area, rows)), pages.tolist(), written.tolist())


def _area(row: Mapping) -> tuple[int, int, int, str]:
    """First page, end, argument of a `map` call, and the advice."""
    flags = row.fields["VmFlags"].split()
    access = READ_WRITE if row.access[1] == "w" else READ_ONLY if row.access[0] == "r" else NO_ACCESS
    argument = access | (NO_HUGE if "nh" in flags else 0) | (NO_RESERVE if "nr" in flags else 0)
    # What the kernel has not merged with its neighbours stays by itself.
    argument = READ_WRITE | ALONE if argument == READ_WRITE else argument
    return row.start // PAGE, row.end // PAGE, argument, "hugepage" if "hg" in flags else ""


def _in_memory(pid: int, rows: list[Mapping]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Pages in memory, and which of them have a frame of their own: many pages of one frame are the zero page."""
    present = list(_present(pid, rows))
    pages = np.concatenate([each for each, _ in present]) if present else np.zeros(0, np.int64)
    frames = np.concatenate([each for _, each in present]) if present else np.zeros(0, np.uint64)
    _, at, counts = np.unique(frames, return_inverse=True, return_counts=True)
    return pages, (counts[at] == 1) & (frames != _zero_frame())


def _zero_frame() -> np.uint64:
    """The frame of the zero page, which a page that is only read gets."""
    with mmap(-1, PAGE, flags=MAP_PRIVATE | MAP_ANONYMOUS) as mine, open(PROC / "self/pagemap", "rb", 0) as pagemap:
        assert mine[0] == 0
        at = ctypes.addressof(ctypes.c_char.from_buffer(mine))
        entry = int.from_bytes(os.pread(pagemap.fileno(), 8, at // PAGE * 8), "little")
    return np.uint64(entry & FRAME)


def _present(pid: int, rows: list[Mapping]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
    with open(PROC / f"{pid}/pagemap", "rb", buffering=0) as pagemap:
        for row in rows:
            first, count = row.start // PAGE, (row.end - row.start) // PAGE
            entries = np.frombuffer(os.pread(pagemap.fileno(), 8 * count, 8 * first), np.uint64)
            there = np.flatnonzero(entries >> np.uint64(63))
            yield there + first, entries[there] & np.uint64(FRAME)
