"""The recorder of traces: runs a program on this machine's kernel and notes every fault and every change of a mapping.

Tracepoints, in a tracefs instance of our own that follows children, say what happened and in which order. What exec
maps comes with no system call: ptrace stops each process right after exec and before exit, and /proc tells its
mappings then. Address layout randomisation is off, so that every run has the same addresses.

A thread of its own follows the program: no signal handler of Python runs there, so whoever stopped is sent on in any
case. Nothing else would help a process that stands right before its exit: a signal is dropped then, SIGKILL as well
(`prepare_signal`, 6.18).

Needs root; `live_kernel` prepares the machine, holds the lock and puts every knob back.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...hardware.trace import (
    ADVICE,
    ALL_SIZES,
    ALONE,
    CALLS,
    LATE_ACCESSES,
    LATE_CALLS,
    MOST_CALLS,
    MOST_PROCESSES,
    NO_ACCESS,
    NO_HUGE,
    NO_RESERVE,
    POINTS,
    READ_ONLY,
    READ_WRITE,
    TAKE,
    TAKE_FOR_READING,
    TAKE_FOR_WRITING,
    TAKE_WHERE_LOCKED,
    TAKES,
    Call,
    Counted,
    Point,
    Setting,
    Trace,
    settled,
)
from ...kernel.record import PF_USER, PF_WRITE
from ...kernel.sizes import PTRS_PER_PMD
from ...program.formats import DATA, MOST_BYTES
from ..here import LiveError
from .kernel import (
    PMD_ORDER,
    PROC,
    THP,
    LiveKernel,
    check_machine,
    kernel_version,
    size_knobs,
    sizes_there,
    smaps,
    trace_ability,
)
from .kernel import Mapping as Row
from .worker import ADVICE as LIVE_ADVICE
from .worker import PAGE, libc

BUFFER_KIB = 65536
ACCESS_BYTES, CALL_BYTES = 7, 56
"""What a trace's file has for each, unpacked."""
MOST_RECORDED = MOST_BYTES - (8 << 20)
"""More would not go into one, with what is said of the processes."""
STACK_LIMIT_PAGES = (8 << 20) // PAGE
"""How far a fault may be below the stack to make it grow (RLIMIT_STACK, which the recorder sets)."""
PM_PRESENT = 1 << 63

# x86-64 system calls.
FOLLOWED = {
    9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 25: "mremap", 28: "madvise", 149: "mlock", 150: "munlock",
    151: "mlockall", 152: "munlockall", 157: "prctl", 257: "openat", 325: "mlock2",
}  # fmt: skip
EXECS = (59, 322)
"""execve and execveat."""
UNFOLLOWED = {
    30: "shmat", 216: "remap_file_pages", 278: "vmsplice", 310: "process_vm_readv", 311: "process_vm_writev",
    323: "userfaultfd", 425: "io_uring_setup", 440: "process_madvise",
}  # fmt: skip
"""What is counted by name. Pages that the kernel takes for them show among the faults that nobody traced."""
PROT_WRITE, PROT_ANY = 2, 7
MAP_SHARED, MAP_PRIVATE_MASK, MAP_ANONYMOUS = 0x01, 0x0F, 0x20
MAP_POPULATE, MAP_LOCKED, MAP_STACK, MAP_HUGETLB, MAP_NORESERVE = 0x8000, 0x2000, 0x20000, 0x40000, 0x4000
MREMAP_DONTUNMAP = 4
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT = 1, 2, 4, 1
MLOCK, MLOCK_AS_THEY_COME = 1, 2
"""Indices in `LOCKS`."""
PR_SET_THP_DISABLE, PR_THP_DISABLE_EXCEPT_ADVISED = 41, 2
MOVES = ("move", "move_keep")
O_DIRECT = 0o40000
ENOMEM = 12
MADV = {number: name for name, number in LIVE_ADVICE.items() if name in ADVICE}
MADV_TAKES = {22: TAKE_FOR_READING, 23: TAKE_FOR_WRITING}
"""MADV_POPULATE_READ and _WRITE."""
MADV_NO_MATTER = (3, 20, 21)
"""MADV_WILLNEED, _COLD, _PAGEOUT: nothing that faults could tell where there is no swap."""
MADV_LEFT_OUT = {
    0: "normal", 1: "random", 2: "sequential", 9: "remove", 12: "mergeable", 13: "unmergeable", 16: "dontdump",
    17: "dodump", 19: "keeponfork", 100: "hwpoison", 101: "soft_offline",
}  # fmt: skip
CLONE_VM = 0x100

Span = tuple[int, int]
"""Pages [start, end)."""


class Image(NamedTuple):
    """The memory of a process as exec left it: anonymous mappings, the stack among them, what of them is present."""

    pid: int
    name: str
    anonymous: list[Span]
    stack: int
    brk: int
    present: list[Span]
    faults: int


class Ended(NamedTuple):
    """What a process had when it, or one of its threads, was about to exit.

    `pid` is the thread's number, `process` that of its process. `faults` counts all of the process's life until then,
    other threads included (minflt + majflt). `file_copies` are pages of private copies of files, which the kernel
    counts as anonymous.
    """

    pid: int
    process: int
    anonymous: list[Span]
    anonymous_pages: int
    peak_rss_kib: int
    faults: int
    file_copies: int = 0


class Found(NamedTuple):
    """A process that ran already.

    What `image` tells, the end of its heap, its threads, its mappings as (first page, end, argument of a ``map`` call,
    advice), pages that are in memory, and whether they were written.
    """

    image: Image
    brk: int
    threads: list[int]
    areas: list[tuple[int, int, int, str]]
    pages: list[int]
    written: list[bool]


class Run(NamedTuple):
    """One traced run, as it comes out of the kernel: its events as lines, or what was read of them meanwhile."""

    lines: list[str]
    images: list[Image]
    ended: list[Ended]
    status: int
    found: Found | None = None
    read: Converter | None = None

    @property
    def before(self) -> int:
        """The kernel's count at the end of the first exec: what the launcher did before is not the program's. Of a
        process that ran already each page that it has counts as a fault."""
        return self.found.image.faults - len(self.found.pages) if self.found else self.images[0].faults

    @property
    def kernel_faults(self) -> int:
        """The kernel's count from then on."""
        # Of a process with threads the last one to exit has the whole count.
        counts = {ended.process: ended.faults for ended in self.ended}
        return sum(counts.values()) - self.before

    @property
    def peak_rss_kib(self) -> int:
        """Of the process with most."""
        return max(process.peak_rss_kib for process in self.ended)


# --- the trace buffer -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """How a program is run.

    Attributes
    ----------
    environment : dict of str to str
        By default the same few words for every run: they lie on the program's stack.
    output, errors : int, optional
        Descriptors to be its standard output and error; by default ours.
    cpus : frozenset of int
        Where it may run; none means the one CPU that a live run stays on.
    buffer_kib : int
        Room for events, on each CPU.
    most_bytes : int
        So much of a run is recorded: `ACCESS_BYTES` for an access, `CALL_BYTES` for a call. What comes later is counted
        by name.
    """

    environment: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TMPDIR": "."}
    )
    output: int | None = None
    errors: int | None = None
    cpus: frozenset[int] = frozenset()
    buffer_kib: int = BUFFER_KIB
    most_bytes: int = MOST_RECORDED


def most_bytes(asked: int | None) -> int:
    """The bound of a recording, in bytes; LiveError for more than a trace's file holds."""
    if asked is not None and asked > MOST_RECORDED:
        raise LiveError(f"a trace has {MOST_RECORDED >> 20}M at most, {MOST_RECORDED // ACCESS_BYTES:,} accesses")
    return asked or MOST_RECORDED


def check_traces() -> None:
    """Raise LiveError where no kernel tells where faults happen."""
    if not (able := trace_ability()).ok:
        raise LiveError(f"no trace can be recorded: {able.says}")


def trace_instance(kernel: LiveKernel, buffer_kib: int = BUFFER_KIB) -> Path:
    """A tracefs instance of our own, off, with the events a trace is made of; it goes when the kernel is put back."""
    check_traces()
    path = kernel.instance("-trace")
    (path / "tracing_on").write_text("0")
    try:
        (path / "buffer_size_kb").write_text(str(buffer_kib))
    except OSError as error:
        raise LiveError(f"no room for {buffer_kib >> 10} MiB of events on each CPU ({error.strerror})") from None
    # The local clock of one CPU may be a little ahead of another's.
    (path / "trace_clock").write_text("global")
    (path / "options/event-fork").write_text("1")
    numbers = " || ".join(f"id == {number}" for number in (*FOLLOWED, *EXECS, *UNFOLLOWED))
    for event in ("sys_enter", "sys_exit"):
        (path / "events/raw_syscalls" / event / "filter").write_text(numbers)
    return path


READS_A_TURN = 512
"""Of a page or two each: so much is read before one looks whether the room must grow."""
READ_SECONDS = 0.02
RUNNING = ("sched_process_exec", "tracing_mark_write")
"""What tells that a program began."""
KEPT_BACK_SECONDS = 0.05

EVENTS = (
    "exceptions/page_fault_user", "exceptions/page_fault_kernel", "raw_syscalls/sys_enter", "raw_syscalls/sys_exit",
    "sched/sched_process_exec", "sched/sched_process_exit", "task/task_newtask",
)  # fmt: skip
RSS_EVENT, RSS_FILTER = "kmem/rss_stat", "member == 1"
"""MM_ANONPAGES: copies of file pages are in it. The event adds up what each CPU has for itself; VmHWM does
not (`percpu_counter_sum_positive` against `percpu_counter_read_positive`, 6.18), and is off by up to a batch a CPU."""
MARK_ACCESSES = 64
"""How often the clock of a trace is looked at."""


def begin(instance: Path, *pids: int, rss: bool = False) -> None:
    """Tell of these processes and their children; with `rss`, of each change of their anonymous memory too."""
    (instance / "trace").write_text("")
    (instance / "set_event_pid").write_text("")
    for pid in pids:
        _follow_too(instance, pid)
    if rss:
        (instance / "events" / RSS_EVENT / "filter").write_text(RSS_FILTER)
    for event in (*EVENTS, RSS_EVENT) if rss else EVENTS:
        (instance / "events" / event / "enable").write_text("1")
    (instance / "tracing_on").write_text("1")


def _follow_too(instance: Path, pid: int) -> None:
    """One more process whose events are told."""
    # Python's own open(…, "a") seeks to the end, which tracefs refuses.
    at = os.open(instance / "set_event_pid", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(at, str(pid).encode())
    finally:
        os.close(at)


class Event(NamedTuple):
    """One event: when (seconds), whose, its name, and what it says."""

    time: float
    pid: int
    name: str
    rest: str


_LOST = re.compile(rb"^CPU:\d+ \[LOST (?:(\d+) )?EVENTS\]$")
_FORM = re.compile(r"-(\d+)\s+\[\d+\][^:]*:? +([\d.]+): (\w+): (.*)")


def events_of(lines: Iterable[str]) -> Iterator[Event]:
    """Lines of the trace as events."""
    for line in lines:
        match = _FORM.search(line)
        if match:
            yield Event(float(match[2]), int(match[1]), match[3], match[4])
        elif line.strip():
            raise LiveError(f"the trace cannot be read: {line.strip()!r:.100}")


class Events:
    """The events of a run, read while it goes on; the kernel's room for them grows when reading falls behind.

    What one CPU writes may be read a little before an earlier event of another one: lines are kept back for a moment,
    and put in order of their times.
    """

    def __init__(self, instance: Path, what: str) -> None:
        self._instance, self._what = instance, what
        self._pipe = os.open(instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        self._raw: list[bytes] = []
        self._rest = b""
        self._kept: list[Event] = []
        self._lost = 0

    def read(self) -> list[Event]:
        """What has come, but for the newest; nothing while there is more to read than a turn takes."""
        if not self._caught_up():
            self._grow()
            return []
        self._split()
        return self._older(self._kept[-1].time - KEPT_BACK_SECONDS) if self._kept else []

    def rest(self) -> list[Event]:
        """What is left. EventsLost when events were lost: a trace with holes tells nothing."""
        (self._instance / "tracing_on").write_text("0")
        (self._instance / "events/enable").write_text("0")
        (self._instance / "set_event_pid").write_text("")
        while not self._caught_up():
            pass
        self._split()
        lost = max(self._lost, self._stats(r"(?:overrun|dropped events): (\d+)"))
        (self._instance / "trace").write_text("")
        if lost:
            raise EventsLost(lost, self._room_kib(), self._what)
        return self._older(math.inf)

    def _caught_up(self) -> bool:
        """Read for a turn; whether that was all there is."""
        for _ in range(READS_A_TURN):
            try:
                told = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return True
            if not told:
                return True
            self._raw.append(told)
        return False

    def _split(self) -> None:
        """Whole lines, in the order of their times."""
        *lines, self._rest = (self._rest + b"".join(self._raw)).split(b"\n")
        self._raw = []
        told = [(line, _LOST.search(line)) for line in lines]
        # A buffer that was made larger meanwhile has forgotten what it had overwritten before.
        self._lost += sum(int(lost[1] or 1) for _, lost in told if lost)
        self._kept += events_of(line.decode(errors="replace") for line, lost in told if not lost)
        self._kept.sort(key=itemgetter(0))

    def _older(self, time: float) -> list[Event]:
        count = bisect_right(self._kept, time, key=itemgetter(0))
        events, self._kept = self._kept[:count], self._kept[count:]
        return events

    def close(self) -> None:
        """An instance goes when nobody reads it."""
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = -1

    def _grow(self) -> None:
        """Twice the room where half of it is full, as long as the machine has memory for it."""
        room_kib = self._room_kib()
        if 2 * self._stats(r"^bytes: (\d+)", max) < room_kib << 10:
            return
        available = re.search(r"MemAvailable:\s+(\d+)", (PROC / "meminfo").read_text())
        if available and 4 * room_kib * (os.cpu_count() or 1) < int(available[1]):
            with suppress(OSError):
                (self._instance / "buffer_size_kb").write_text(str(2 * room_kib))

    def _room_kib(self) -> int:
        return int((self._instance / "buffer_size_kb").read_text().split()[0])

    def _stats(self, pattern: str, together: Callable[[Iterable[int]], int] = sum) -> int:
        """A number of each CPU's statistics, put together."""
        files = self._instance.glob("per_cpu/cpu*/stats")
        return together(int(each) for stats in files for each in re.findall(pattern, stats.read_text(), re.M))


class EventsLost(LiveError):
    """There was no room for so many events, although the kernel had so much on each CPU."""

    def __init__(self, lost: int, room_kib: int, what: str) -> None:
        super().__init__(
            f"{lost:,} events of the trace were lost, for which {room_kib >> 10} MiB a CPU were too little: nothing "
            f"can be predicted from the rest. With four times as much: anonfolio advise --buffer {room_kib >> 8} {what}"
        )


# --- ptrace -----------------------------------------------------------------------------------------------------------

PTRACE_CONT, PTRACE_GETEVENTMSG, PTRACE_SEIZE = 7, 0x4201, 0x4206
PTRACE_EVENT_EXEC, PTRACE_EVENT_EXIT = 4, 6
# FORK, VFORK, CLONE, EXEC, EXIT, and EXITKILL: nobody is left behind when the recorder dies.
PTRACE_OPTIONS = 2 | 4 | 8 | 16 | 64 | 1 << 20
WALL, WNOTHREAD = 0x40000000, 0x20000000
RAN = "anonfolio: ran"
"""Begins what we write into the trace ourselves."""
END_SECONDS = 20.0
"""How long a program that was killed may take to end."""

LAUNCHER = """
import ctypes, os, resource, sys
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, 8 << 20))
ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE
parent = int(sys.argv[1])
os.write(parent, b"?")
if not os.read(parent, 1):
    sys.exit("the recorder is gone")
os.close(parent)
os.chdir(sys.argv[2])
if sys.argv[3]:
    os.sched_setaffinity(0, set(map(int, sys.argv[3].split(","))))
try:
    os.execvp(sys.argv[4], sys.argv[4:])
except OSError as error:
    sys.exit(f"{sys.argv[4]}: {error.strerror}")
"""


def ptrace(request: int, pid: int, data: int = 0) -> None:
    long = ctypes.c_long
    if libc.ptrace(long(request), long(pid), long(0), long(data)) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of process {pid}")


def run_traced(
    instance: Path, command: Sequence[str], folder: Path, progress: Callable[[str], None] | None = None,
    launch: Launch | None = None, rss: bool = False,
) -> Run:  # fmt: skip
    """Run a command to its end under the tracepoints. `progress` gets a line every now and then, in another thread."""
    program = Program(instance, command, folder, progress, launch or Launch(), rss)
    try:
        # No thread.join: in Python 3.11 a thread whose join was interrupted counts as ended.
        program.start()
        program.ended.wait()
        if program.error:
            raise program.error
        return Run([], program.images, program.exits, program.status, read=program.converted())
    except BaseException:
        program.end()
        raise
    finally:
        program.close()


class Program:
    """A program and all its children, followed by a thread of its own."""

    def __init__(
        self, instance: Path, command: Sequence[str], folder: Path, progress: Callable[[str], None] | None,
        launch: Launch, rss: bool = False,
    ) -> None:  # fmt: skip
        self.instance, self.command, self.folder, self.progress = instance, command, folder, progress
        self.launch, self.rss = launch, rss
        self.images: list[Image] = []
        self.exits: list[Ended] = []
        self.root = 0
        self.status = 0
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._events: Events | None = None
        self._converter: Converter | None = None
        # A daemon: should somebody not end, the interpreter still does, and PTRACE_O_EXITKILL is the last resort.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._read_up = threading.Event()
        self._alive: set[int] = set()
        self._killed = False

    def start(self) -> None:
        """Begin; `ended` is set when nobody is left."""
        self._thread.start()
        threading.Thread(target=self._read_on, daemon=True).start()

    def _read_on(self) -> None:
        """Read the events as they come: not in the main thread, where Ctrl-C would end the reading between two."""
        try:
            while not self.ended.wait(READ_SECONDS):
                if self._events and self._converter:
                    self._converter.feed(self._events.read())
        except BaseException as error:
            self._fail(error)
        self._read_up.set()

    def converted(self) -> Converter:
        """All events, when nobody is left."""
        self._read_up.wait()
        if self.error:
            raise self.error
        if not self._events or not self._converter:
            raise LiveError("the program could not be launched; run it again")
        self._converter.feed(self._events.rest())
        self._converter.finish()
        return self._converter

    def close(self) -> None:
        """Read no more."""
        self._read_up.wait(END_SECONDS)
        if self._events:
            self._events.close()

    def _begin_to_read(self, found: Found | None = None) -> None:
        # In this order: who finds the events finds who reads them.
        self._converter = Converter(self.images, self.exits, found, self.launch.most_bytes)
        self._events = Events(self.instance, f"-- {shlex.join(self.command)}" if self.command else f"--pid {self.root}")

    def end(self) -> None:
        """Kill everybody, and wait until they have gone."""
        self._kill()
        if self._thread.is_alive() and not self.ended.wait(END_SECONDS):
            left = ", ".join(map(str, sorted(self._alive)))
            raise LiveError(f"processes {left} of the program were killed, and do not end")

    def _kill(self) -> None:
        # First the mark: who is not yet in the set is killed when it stops for the first time.
        self._killed = True
        for pid in tuple(self._alive):
            _kill(pid)

    # --- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        for part in (self._launch, self._follow):
            try:
                part()
            except BaseException as error:
                self._fail(error)
        self.ended.set()

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self._kill()

    def _launch(self) -> None:
        """Start the launcher; when it waits for a word to exec the command, attach, begin to trace, and give it."""
        go, waiting = socket.socketpair()
        waiting.set_inheritable(True)
        launch = self.launch
        arguments = [
            sys.executable, "-I", "-S", "-c", LAUNCHER, str(waiting.fileno()), str(self.folder),
            ",".join(map(str, sorted(launch.cpus))), *self.command,
        ]  # fmt: skip
        # In a process group of its own, every read from a terminal would stop it (SIGTTIN), again and again.
        files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
        if os.isatty(0):
            files.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
        files += [
            (os.POSIX_SPAWN_DUP2, at, to) for at, to in ((launch.output, 1), (launch.errors, 2)) if at is not None
        ]
        with go:
            with waiting:
                self.root = os.posix_spawn(
                    sys.executable, arguments, dict(launch.environment), file_actions=files, setpgroup=0
                )
            self._alive.add(self.root)
            if self._killed or not go.recv(1):
                raise LiveError("the program could not be launched; run it again")
            ptrace(PTRACE_SEIZE, self.root, PTRACE_OPTIONS)
            begin(self.instance, self.root, rss=self.rss)
            self._begin_to_read()
            go.send(b"!")

    def _follow(self) -> None:
        """Until nobody is left. What goes wrong ends the program: whoever stopped is sent on in any case."""
        while True:
            try:
                # All that this thread traces, and only that: in whatever process group, and no child of other threads.
                pid, event = os.waitpid(-1, WALL | WNOTHREAD)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(event):
                self._alive.discard(pid)
                self.status = event if pid == self.root else self.status
                continue
            self._alive.add(pid)
            try:
                self._note(pid, event >> 16)
            except BaseException as error:
                self._fail(error)
            if self._killed:
                _kill(pid)
            # A stop for a signal delivers it; all other stops are ptrace's own.
            _resume(pid, 0 if event >> 16 else os.WSTOPSIG(event))

    def _note(self, pid: int, what: int) -> None:
        if self._killed:
            return
        if what == PTRACE_EVENT_EXEC:
            self._ran_from_thread(pid, event_message(pid))
            self.images.append(image_of(pid))
            if self.progress:
                self.progress(f"running {self.images[-1].name}")
        elif what == PTRACE_EVENT_EXIT:
            self.exits.append(ended_of(pid))

    def _ran_from_thread(self, pid: int, before: int) -> None:
        """A thread other than the first ran a program, and has the first one's number since (`de_thread`, fs/exec.c).

        The first thread's exit took that number from those that are traced, so that nobody told of the exec: we do.
        """
        if before == pid:
            return
        self._alive.discard(before)
        _follow_too(self.instance, pid)
        (self.instance / "trace_marker").write_text(f"{RAN} {pid} old_pid={before}")


def event_message(pid: int) -> int:
    """What ptrace says of the event: of an exec, which thread it was (PTRACE_GETEVENTMSG)."""
    message = ctypes.c_ulong()
    if libc.ptrace(ctypes.c_long(PTRACE_GETEVENTMSG), ctypes.c_long(pid), ctypes.c_long(0), ctypes.byref(message)) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace asks of process {pid}")
    return message.value


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _resume(pid: int, number: int) -> None:
    # Whoever was killed meanwhile stands still no more.
    with suppress(ProcessLookupError):
        ptrace(PTRACE_CONT, pid, number)


ELF_64 = b"\x7fELF\x02"


def check_64_bit(program: Path) -> None:
    """Raise LiveError for a 32-bit program: its system calls have other numbers, and would be taken for others."""
    with program.open("rb") as file:
        if file.read(len(ELF_64)) != ELF_64:
            raise LiveError(f"{program.resolve()} is no 64-bit program; a trace knows the system calls of x86-64 alone")


def image_of(pid: int) -> Image:
    check_64_bit(PROC / f"{pid}/exe")
    anonymous, stack, _, _ = _anonymous(pid)
    with open(PROC / f"{pid}/pagemap", "rb", buffering=0) as pagemap:
        present = [span for start, end in anonymous for span in _present(pagemap.fileno(), start, end)]
    name = _told(pid, "comm").strip()
    stat = _stat(pid)
    return Image(pid, name, anonymous, stack, stat[START_BRK], present, stat[MINFLT] + stat[MAJFLT])


def ended_of(pid: int) -> Ended:
    anonymous, _, pages, copies = _anonymous(pid)
    status = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", _told(pid, "status"), re.M)}
    stat = _stat(pid)
    return Ended(pid, status["Tgid"], anonymous, pages, status.get("VmHWM", 0), stat[MINFLT] + stat[MAJFLT], copies)


MINFLT, MAJFLT, START_BRK = 10, 12, 47


def _told(pid: int, name: str) -> str:
    """A file of /proc/PID. Names of programs and files in it may be no text, or cut off within a letter."""
    return (PROC / f"{pid}" / name).read_text(errors="replace")


def _stat(pid: int) -> dict[int, int]:
    """/proc/PID/stat, numbered as proc(5) does; the name, which may hold anything, ends at the last bracket."""
    words = _told(pid, "stat").rpartition(")")[2].split()
    return {number: int(word) for number, word in enumerate(words, 3) if word.lstrip("-").isdigit()}


def is_ours(row: Row) -> bool:
    """Whether a mapping is private anonymous memory."""
    ours = row.name in ("", "[heap]", "[stack]") or row.name.startswith("[anon:")
    return row.inode == "0" and row.access[3] == "p" and ours


def _anonymous(pid: int) -> tuple[list[Span], int, int, int]:
    """Private anonymous mappings, the first page of the stack, how many pages are mapped there, and how many are copies
    of file pages. The zero page is not counted.
    """
    found: list[Span] = []
    stack = pages = copies = 0
    for row in smaps(pid):
        here = int(row.fields["Anonymous"].split()[0]) * 1024 // PAGE
        if is_ours(row):
            found.append((row.start // PAGE, row.end // PAGE))
            pages += here
        else:
            copies += here
        if row.name == "[stack]":
            stack = row.start // PAGE
    return found, stack, pages, copies


def _present(pagemap: int, start: int, end: int) -> Iterator[Span]:
    entries = memoryview(os.pread(pagemap, 8 * (end - start), 8 * start)).cast("Q")
    first = None
    for at, entry in enumerate([*entries, 0], start):
        if entry & PM_PRESENT:
            first = at if first is None else first
        elif first is not None:
            yield first, at
            first = None


# --- from events to a trace -------------------------------------------------------------------------------------------


class Spans:
    """A set of pages as spans that do not touch."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self.spans: list[Span] = []
        for start, end in spans:
            self.add(start, end)

    def __contains__(self, page: int) -> bool:
        at = bisect_right(self.spans, (page, sys.maxsize)) - 1
        return at >= 0 and page < self.spans[at][1]

    def add(self, start: int, end: int) -> None:
        """Add [start, end), joining what it touches."""
        first, last = self._from(start - 1), bisect_right(self.spans, (end, sys.maxsize))
        if first < last:
            start, end = min(start, self.spans[first][0]), max(end, self.spans[last - 1][1])
        self.spans[first:last] = [(start, end)]

    def within(self, start: int, end: int) -> list[Span]:
        """The parts of [start, end) in the set."""
        spans = self.spans[self._from(start) : bisect_left(self.spans, (end,))] if start < end else []
        return [(max(low, start), min(high, end)) for low, high in spans]

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out; nothing when it ends before it starts."""
        if start >= end:
            return
        first, last = self._from(start), bisect_left(self.spans, (end,))
        pieces = [((low, min(high, start)), (max(low, end), high)) for low, high in self.spans[first:last]]
        self.spans[first:last] = [(low, high) for pair in pieces for low, high in pair if low < high]

    def _from(self, page: int) -> int:
        """The place of the first span that ends after this page: a program may have ten thousands."""
        at = bisect_right(self.spans, (page, sys.maxsize))
        return at - 1 if at and page < self.spans[at - 1][1] else at


@dataclass
class Space:
    """One address space while its events are read: where its anonymous memory lies, and what becomes its summary.

    `seen` are its faults in anonymous memory; `memory` has (time, faults until then, anonymous pages), where told.
    """

    number: int
    name: str = ""
    anonymous: Spans = field(default_factory=Spans)
    stack: int = 0
    start_brk: int = 0
    brk: int = 0
    users: int = 1
    elsewhere: int = 0
    kernel_faults: int = 0
    lock_future: int = 0
    ever_locked: bool = False
    thp_disable: int = 0
    ended: Ended | None = None
    became: str = ""
    seen: int = 0
    memory: list[tuple[float, int, int]] = field(default_factory=list)


class Accesses:
    """Rows of (process, page, code) in the order of their times: 24 MiB for a million, as tuples they took 100."""

    def __init__(self) -> None:
        self._flat = array("q")

    def __len__(self) -> int:
        return len(self._flat) // 3

    def __iadd__(self, rows: Iterable[tuple[int, int, int]]) -> Accesses:
        for row in rows:
            self._flat.extend(row)
        return self

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Shape (accesses, 3)."""
        return np.array(self._flat, np.int64).reshape(-1, 3)


class Fault(NamedTuple):
    """A fault as the tracepoint tells it."""

    page: int
    code: int


class Converter:
    """Turns the events of a run into accesses and calls, in page numbers of the real addresses at first.

    `images` and `exits` may still be growing while events are fed: one that tells of an exec whose image is not there
    yet waits, and what comes after it. Once there is no more room, accesses and calls are counted, and that is all.
    """

    def __init__(
        self, images: Sequence[Image], exits: Sequence[Ended], found: Found | None = None,
        most_bytes: int = MOST_RECORDED,
    ) -> None:  # fmt: skip
        self.room = most_bytes
        self._seen, self._looked_up = (images, exits), [0, 0]
        self.images: dict[int, list[Image]] = {}
        # A number may be had twice: the first thread's, when another one runs a program.
        self.ended: dict[int, list[Ended]] = {}
        self.waiting: list[Event] = []
        self.counted: dict[int, int] = {}
        self.spaces: list[Space] = []
        self.space_of: dict[int, Space] = {}
        self.called: dict[int, tuple[int, list[int]]] = {}
        self.during_exec: dict[int, list[Fault]] = {}
        self.in_kernel: dict[int, Fault] = {}
        self.accesses = Accesses()
        self.calls: list[Call] = []
        self.left_out: Counter[str] = Counter()
        self.traced = 0
        self.of_others: dict[int, int] = {}
        self.marks: list[tuple[int, float]] = []
        self.began = self.now = 0.0
        if found:
            self._begin_with(found)

    def feed(self, events: Iterable[Event]) -> None:
        """Events, in order."""
        self.waiting += events
        self._look_up()
        for at, event in enumerate(self.waiting):
            if self._too_early(event):
                del self.waiting[:at]
                return
            self._tick(event.time)
            self._happened(event.pid, event.name, event.rest)
        self.waiting = []

    def _tick(self, time: float) -> None:
        self.now = time
        if not self.spaces or not self.began:
            self.began = time
        if len(self.accesses) >= (self.marks[-1][0] if self.marks else 0) + MARK_ACCESSES:
            self.marks.append((len(self.accesses), time))

    def clock(self) -> tuple[tuple[int, int], ...]:
        """How many accesses there were, and at which millisecond; the last one is the end."""
        marks = [*self.marks, (len(self.accesses), self.now)]
        return tuple((count, round(1000 * (time - self.began))) for count, time in marks)

    def _look_up(self) -> None:
        """What ptrace has seen meanwhile."""
        images, exits = self._seen
        first_image, first_exit = self._looked_up
        self._looked_up = [len(images), len(exits)]
        for image in images[first_image : self._looked_up[0]]:
            self.images.setdefault(image.pid, []).append(image)
        for ended in exits[first_exit : self._looked_up[1]]:
            self.ended.setdefault(ended.pid, []).append(ended)

    def finish(self) -> None:
        """All was fed, and all was seen."""
        if self.waiting:
            pid = self.waiting[0].pid
            raise LiveError(f"process {pid} ran a program that was not seen to start; run it again")
        self._look_up()
        # Who lives on was seen at the end: of several threads the first, which has the process's number, comes last.
        for pid in sorted(self.space_of, key=lambda pid: pid in self.ended):
            self._leave(pid, self.ended[pid].pop(0) if self.ended.get(pid) else None)
        if not self.spaces:
            raise LiveError("the trace holds no exec: the program did not start")

    def _begin_with(self, found: Found) -> None:
        """A process that ran already, as if it had just mapped what it has and touched what is in memory, in order."""
        image = found.image
        space = Space(0, image.name, Spans(), image.stack, image.brk, found.brk, users=len(found.threads))
        self.spaces.append(space)
        self.space_of |= dict.fromkeys(found.threads, space)
        self._call("spawn", space)
        for start, end, argument, advice in found.areas:
            self._map(space, start, end, argument)
            if advice:
                self._call("advise", space, start, end, ADVICE.index(advice))
        code = {True: PF_USER | PF_WRITE, False: PF_USER}
        self._note((0, page, code[written]) for page, written in zip(found.pages, found.written, strict=True))
        self.traced += len(found.pages)
        self.counted[image.pid] = image.faults - len(found.pages)

    # --- lines --------------------------------------------------------------------------------------------------

    _FAULT = re.compile(r"address=(?:0x)?([0-9a-f]+) .*error_code=0x([0-9a-f]+)")

    def _too_early(self, event: Event) -> bool:
        """Whether it tells of an exec that ptrace has not seen yet."""
        ran = _ran(event.pid, event.rest) if event.name in RUNNING else None
        return ran is not None and not self.images.get(ran[0])

    def _happened(self, pid: int, event: str, rest: str) -> None:
        before = self.in_kernel.pop(pid, None)
        if event in ("page_fault_user", "page_fault_kernel"):
            self._fault(pid, rest, before)
        elif event == "rss_stat":
            self._remember_memory(pid, rest)
        elif event == "sys_enter":
            self._enter(pid, rest)
        elif event == "sys_exit":
            self._exit_call(pid, rest)
        elif event == "task_newtask":
            self._new_task(pid, rest)
        elif event in RUNNING:
            if ran := _ran(pid, rest):
                self._exec(*ran)
        elif event == "sched_process_exit":
            ends = self.ended.get(pid)
            self._leave(pid, ends.pop(0) if ends else None)

    def _fault(self, pid: int, rest: str, before: Fault | None) -> None:
        """A fault, unless it repeats the one in the kernel that the same task took just `before`.

        That one was not handled: where the kernel must not sleep it gives up (`faulthandler_disabled`), brings in the
        page by another fault and tries again. A signal frame is written so (`copy_fpstate_to_sigframe`, x86, 6.18).
        """
        match = self._FAULT.search(rest)
        if not match:
            raise LiveError(f"a fault of the trace cannot be read: {rest!r:.100}")
        address, code = int(match[1], 16), int(match[2], 16)
        if address >= 1 << 47:
            # The kernel's own memory.
            return
        fault = Fault(address // PAGE, code)
        if not code & PF_USER:
            self.in_kernel[pid] = fault
        if fault == before:
            return
        if pid in self.during_exec:
            self.during_exec[pid].append(fault)
        elif pid in self.space_of:
            self._access(self.space_of[pid], fault)

    def _remember_memory(self, pid: int, rest: str) -> None:
        """Of the memory of who runs; or of a child's, which its parent fills before anybody can tell whose it is."""
        match = re.search(r"curr=(\d) .*size=(-?\d+)B", rest)
        if not match:
            raise LiveError(f"a change of memory in the trace cannot be read: {rest!r:.100}")
        pages, space = int(match[2]) // PAGE, self.space_of.get(pid)
        if match[1] == "0":
            self.of_others[pid] = pages
        elif space:
            space.memory.append((self.now, space.seen, pages))

    def _access(self, space: Space, fault: Fault) -> None:
        self.traced += 1
        if fault.page not in space.anonymous:
            if not space.stack - STACK_LIMIT_PAGES <= fault.page < space.stack:
                space.elsewhere += 1
                return
            # expand_stack (mm/vma.c): the stack now begins with the page that was touched.
            self._call("grow_down", space, fault.page, space.stack)
            space.anonymous.add(fault.page, space.stack)
            space.stack = fault.page
        space.seen += 1
        if space.memory:
            # A copy changes no count of pages, but is a fault.
            space.memory.append((self.now, space.seen, space.memory[-1][2]))
        self._note([(space.number, fault.page, fault.code)])

    def _enter(self, pid: int, rest: str) -> None:
        number, arguments = _system_call(rest)
        self.called[pid] = number, arguments
        if number in EXECS and pid not in self.during_exec:
            self.during_exec[pid] = []

    def _exit_call(self, pid: int, rest: str) -> None:
        match = re.match(r"NR (-?\d+) = (-?\d+)", rest)
        number, arguments = self.called.pop(pid, (-1, []))
        if match is None or int(match[1]) != number:
            return
        result = int(match[2])
        space = self.space_of.get(pid)
        faults = self.during_exec.pop(pid) if number in EXECS and result < 0 else []
        if space is None:
            return
        for fault in faults:
            self._access(space, fault)
        # Advice passes over holes, and says so at the end.
        holes = number in FOLLOWED and FOLLOWED[number] == "madvise" and result == -ENOMEM
        if -4096 < result < 0 and not holes:
            return
        if number in UNFOLLOWED:
            self.left_out[UNFOLLOWED[number]] += 1
        elif number in FOLLOWED:
            getattr(self, "_" + FOLLOWED[number])(space, arguments, result)

    # --- system calls -------------------------------------------------------------------------------------------

    def _mmap(self, space: Space, arguments: list[int], result: int) -> None:
        length, access, flags = arguments[1:4]
        start, end = result // PAGE, _pages_up(result + length)
        self._unmap(space, start, end)
        shared = flags & MAP_PRIVATE_MASK != 2
        if not flags & MAP_ANONYMOUS or shared or flags & MAP_HUGETLB:
            self.left_out["shared anonymous mmap"] += bool(flags & MAP_ANONYMOUS and shared)
            self.left_out["hugetlb mmap"] += bool(flags & MAP_HUGETLB)
            return
        further = (NO_HUGE if flags & MAP_STACK else 0) | (NO_RESERVE if flags & MAP_NORESERVE else 0)
        self._map(space, start, end, _access_of(access) | further)
        if flags & MAP_LOCKED and not space.lock_future:
            self._lock(space, start, end, MLOCK)
        if flags & (MAP_POPULATE | MAP_LOCKED) or space.lock_future == MLOCK:
            self._take(space, start, end, TAKE)

    def _munmap(self, space: Space, arguments: list[int], _: int) -> None:
        self._unmap(space, arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1]))

    def _brk(self, space: Space, _: list[int], result: int) -> None:
        old, new = _pages_up(space.brk), _pages_up(result)
        space.brk = result
        if new > old:
            self._map(space, old, new, READ_WRITE | (ALONE if old == _pages_up(space.start_brk) else 0))
            if space.lock_future == MLOCK:
                self._take(space, old, new, TAKE)
        elif new < old:
            self._unmap(space, new, old)

    def _mprotect(self, space: Space, arguments: list[int], _: int) -> None:
        start, end = arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1])
        for low, high in space.anonymous.within(start, end):
            self._call("protect", space, low, high, _access_of(arguments[2]))
            self._take(space, low, high, TAKE_WHERE_LOCKED)

    def _madvise(self, space: Space, arguments: list[int], _: int) -> None:
        number = arguments[2]
        start, end = arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1])
        if number in MADV_TAKES:
            self._take(space, start, end, MADV_TAKES[number])
        advice = MADV.get(number)
        if advice is None:
            left_out = number not in MADV_TAKES and number not in MADV_NO_MATTER
            self.left_out[f"madvise {MADV_LEFT_OUT.get(number, number)}"] += left_out
            return
        for low, high in space.anonymous.within(start, end):
            self._call("advise", space, low, high, ADVICE.index(advice))

    def _mremap(self, space: Space, arguments: list[int], result: int) -> None:
        old = arguments[0] // PAGE
        old_end, pages = old + _pages_up(arguments[1]), _pages_up(arguments[2])
        new = result // PAGE
        if old == old_end:
            # Of shared memory: a private mapping cannot be had twice.
            self.left_out["mremap of shared memory"] += 1
            return
        keeps = bool(arguments[3] & MREMAP_DONTUNMAP)
        grows = old_end - 1 in space.anonymous and pages > old_end - old
        if new == old:
            self._unmap(space, old + pages, old_end)
        else:
            self._unmap(space, new, new + pages)
            self._unmap(space, old + pages, old_end)
            for low, high in space.anonymous.within(old, old_end):
                target = low - old + new
                self._call("move_keep" if keeps else "move", space, low, high, target)
                if not keeps:
                    space.anonymous.remove(low, high)
                space.anonymous.add(target, target + high - low)
        if grows:
            end = new + old_end - old
            self._call("grow", space, end, new + pages)
            space.anonymous.add(end, new + pages)
            self._take(space, end, new + pages, TAKE_WHERE_LOCKED)

    def _mlock(self, space: Space, arguments: list[int], _: int) -> None:
        self._mlock2(space, [arguments[0], arguments[1], 0], 0)

    def _mlock2(self, space: Space, arguments: list[int], _: int) -> None:
        how = MLOCK_AS_THEY_COME if arguments[2] & MLOCK_ONFAULT else MLOCK
        self._lock(space, arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1]), how)
        if how == MLOCK:
            self._take(space, arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1]), TAKE)

    def _munlock(self, space: Space, arguments: list[int], _: int) -> None:
        self._lock(space, arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1]), 0)

    def _mlockall(self, space: Space, arguments: list[int], _: int) -> None:
        how = MLOCK_AS_THEY_COME if arguments[0] & MCL_ONFAULT else MLOCK
        space.lock_future = how if arguments[0] & MCL_FUTURE else 0
        if arguments[0] & MCL_CURRENT:
            self._lock(space, 0, 1 << 47, how)
            if how == MLOCK:
                self._take(space, 0, 1 << 47, TAKE)

    def _munlockall(self, space: Space, _: list[int], __: int) -> None:
        space.lock_future = 0
        self._lock(space, 0, 1 << 47, 0)

    def _prctl(self, space: Space, arguments: list[int], _: int) -> None:
        if arguments[0] != PR_SET_THP_DISABLE:
            return
        spares = arguments[2] & PR_THP_DISABLE_EXCEPT_ADVISED
        space.thp_disable = (2 if spares else 1) if arguments[1] else 0
        self._call("thp_disable", space, argument=space.thp_disable)

    def _openat(self, _: Space, arguments: list[int], __: int) -> None:
        self.left_out["open with O_DIRECT"] += bool(arguments[2] & O_DIRECT)

    # --- processes ----------------------------------------------------------------------------------------------

    def _new_task(self, parent: int, rest: str) -> None:
        match = re.search(r"pid=(\d+) .*clone_flags=([0-9a-f]+)", rest)
        space = self.space_of.get(parent)
        if match is None or space is None:
            return
        child = int(match[1])
        if int(match[2], 16) & CLONE_VM:
            space.users += 1
            self.space_of[child] = space
            return
        twin = Space(
            len(self.spaces), space.name, Spans(space.anonymous.spans), space.stack, space.start_brk, space.brk,
            thp_disable=space.thp_disable,
        )  # fmt: skip
        self.spaces.append(twin)
        self.space_of[child] = twin
        if (pages := self.of_others.pop(parent, None)) is not None:
            twin.memory.append((self.now, 0, pages))
        self._call("fork", space, argument=twin.number)

    def _exec(self, pid: int, thread: int) -> None:
        """A program begins: process `pid`, run by that thread of its predecessor."""
        image = self.images[pid].pop(0)
        self.of_others.pop(pid, None)
        before, faults = self.space_of.get(thread), self.during_exec.pop(thread, [])
        # What exec faults in is the new program's, but the first one's is nobody's.
        self._counts(pid, before, image.faults - len(faults) if self.spaces else image.faults)
        # Nobody has seen what the program before had at its end.
        if before and before.users == 1:
            before.became = image.name
        self._leave(thread, None)
        space = Space(len(self.spaces), image.name, Spans(), image.stack, image.brk, image.brk)
        self.spaces.append(space)
        first = len(self.spaces) == 1
        self.space_of[pid] = space
        self._call("spawn", space)
        for start, end in image.anonymous:
            self._map(space, start, end, READ_WRITE)
        if before and before.thp_disable:
            # It outlives exec (MMF_DISABLE_THP, `mmf_init_flags`).
            space.thp_disable = before.thp_disable
            self._call("thp_disable", space, argument=space.thp_disable)
        self._populate(space, image, faults, counted=not first)

    def _populate(self, space: Space, image: Image, faults: list[Fault], counted: bool) -> None:
        """What exec left in memory: pages of its temporary stack, and then what it faulted in like anybody else."""
        ours = [fault for fault in faults if fault.code & PF_WRITE and fault.page in Spans(image.present)]
        single = Spans(image.present)
        for fault in ours:
            single.remove(fault.page, fault.page + 1)
        for start, end in single.spans:
            self._call("populate", space, start, end)
        if not counted:
            # The kernel's count begins at the end of the first exec.
            for fault in ours:
                self._call("populate", space, fault.page, fault.page + 1)
            return
        space.elsewhere += len(faults) - len(ours)
        self.traced += len(faults)
        self._note((space.number, fault.page, fault.code) for fault in ours)

    def _leave(self, pid: int, ended: Ended | None) -> None:
        space = self.space_of.pop(pid, None)
        if ended:
            self._counts(ended.process, space, ended.faults)
        if space is None:
            return
        space.users -= 1
        if not space.users:
            space.ended = ended
            if space.memory:
                space.memory.append((self.now, space.seen, 0))
            self._call("exit", space)

    def _counts(self, process: int, space: Space | None, faults: int) -> None:
        """The kernel has counted so many faults of a process by now: what is new of it happened in this space."""
        before = self.counted.get(process, 0)
        self.counted[process] = max(before, faults)
        if space:
            space.kernel_faults += max(0, faults - before)

    # --- notes --------------------------------------------------------------------------------------------------

    def _note(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Accesses, as long as there is room. Whether one that was taken unseen is a fault, nobody will know then."""
        for row in rows:
            if self.room <= 0:
                self.left_out[LATE_ACCESSES] += not row[2] & TAKES
                continue
            self.room -= ACCESS_BYTES
            self.accesses += (row,)

    def _call(self, name: str, space: Space, start: int = 0, end: int = 0, argument: int = 0) -> None:
        assert name in CALLS
        if self.room <= 0 or len(self.calls) >= MOST_CALLS:
            # What comes after a call that is missing would have another meaning.
            self.room = 0
            self.left_out[LATE_CALLS] += 1
            return
        self.room -= CALL_BYTES
        self.calls.append(Call(len(self.accesses), name, space.number, start, end - start, argument))

    def _map(self, space: Space, start: int, end: int, argument: int) -> None:
        self._call("map", space, start, end, argument)
        space.anonymous.add(start, end)
        if space.lock_future:
            self._lock(space, start, end, space.lock_future)

    def _unmap(self, space: Space, start: int, end: int) -> None:
        for low, high in space.anonymous.within(start, end):
            if not self._unmaps_more(space, low, high):
                self._call("unmap", space, low, high)
        space.anonymous.remove(start, end)

    def _unmaps_more(self, space: Space, start: int, end: int) -> bool:
        """What was unmapped beside it just before, with no access since, is unmapped with it.

        A heap that is freed from its top is given back a page a call (`systrim`, glibc's malloc).
        """
        last = self.calls[-1] if self.calls and self.room > 0 else None
        if last is None or last[:3] != (len(self.accesses), "unmap", space.number):
            return False
        if end != last.vpn and last.vpn + last.pages != start:
            return False
        self.calls[-1] = last._replace(vpn=min(start, last.vpn), pages=last.pages + end - start)
        return True

    def _lock(self, space: Space, start: int, end: int, how: int) -> None:
        space.ever_locked = space.ever_locked or bool(how)
        for low, high in space.anonymous.within(start, end):
            self._call("lock", space, low, high, how)

    def _take(self, space: Space, start: int, end: int, how: int) -> None:
        """The kernel faults in what is lacking there (`populate_vma_page_range`) and no event tells: see `settled`."""
        if how == TAKE_WHERE_LOCKED and not space.ever_locked:
            return
        for low, high in space.anonymous.within(start, end):
            before = len(self.accesses)
            self._note((space.number, page, how) for page in range(low, high))
            self.left_out[LATE_CALLS] += len(self.accesses) - before < high - low


def _ran(pid: int, rest: str) -> tuple[int, int] | None:
    """Who ran a program, as which thread of its predecessor. Of another thread than the first our own mark tells,
    whether or not the kernel did."""
    if marked := re.match(rf"{RAN} (\d+) old_pid=(\d+)", rest):
        return int(marked[1]), int(marked[2])
    return (pid, pid) if rest.endswith(f" old_pid={pid}") else None


def _system_call(rest: str) -> tuple[int, list[int]]:
    match = re.match(r"NR (-?\d+) \(([^)]*)\)", rest)
    if not match:
        raise LiveError(f"a system call of the trace cannot be read: {rest!r:.100}")
    return int(match[1]), [int(word, 16) for word in match[2].split(", ")]


def _pages_up(address: int) -> int:
    return -(-address // PAGE)


def _access_of(access: int) -> int:
    if access & PROT_WRITE:
        return READ_WRITE
    return READ_ONLY if access & PROT_ANY else NO_ACCESS


def converter_of(run: Run) -> Converter:
    """What the lines of a run tell."""
    found = Converter(run.images, run.ended, run.found)
    found.feed(events_of(run.lines))
    found.finish()
    return found


Settle = Callable[[Trace, npt.NDArray[np.int64]], Trace]


def trace_of(run: Run, kernel: str, settle: Settle = settled, **about: Any) -> Trace:
    """The trace of a run. Of one that the model cannot follow, all accesses stay as the events told them."""
    found = run.read or converter_of(run)
    if len(found.spaces) > MOST_PROCESSES:
        raise LiveError(f"{len(found.spaces)} programs and forks are too many for a trace; at most {MOST_PROCESSES}")
    ends = [span for space in found.spaces if space.ended for span in space.ended.anonymous]
    new_block, blocks = _moved_together(found.calls, ends)

    def page(vpn: int) -> int:
        return new_block[vpn // PTRS_PER_PMD] * PTRS_PER_PMD + vpn % PTRS_PER_PMD

    def renumbered(call: Call) -> Call:
        if not call.pages:
            return call
        return call._replace(vpn=page(call.vpn), argument=page(call.argument) if call.name in MOVES else call.argument)

    owners, pages, codes = found.accesses.rows.T
    there = np.array(blocks, np.int64)
    numbers = np.flatnonzero(there >= 0)
    moved = numbers[there[numbers].searchsorted(pages // PTRS_PER_PMD)]
    trace = Trace(
        kernel=kernel,
        about=about,
        vpn=moved * PTRS_PER_PMD + pages % PTRS_PER_PMD,
        process=owners.astype(np.uint8) if len(found.spaces) <= 256 else owners.astype(np.uint16),
        code=codes.astype(np.uint8),
        calls=tuple(map(renumbered, found.calls)),
        blocks=there,
        processes=tuple(_summary(space, page) for space in found.spaces),
        kernel_faults=run.kernel_faults,
        left_out={name: count for name, count in found.left_out.items() if count},
        status=os.waitstatus_to_exitcode(run.status),
        clock=found.clock(),
    )
    return settle(trace, codes & TAKES)


def _moved_together(calls: Iterable[Call], ends: Iterable[Span]) -> tuple[dict[int, int], list[int]]:
    """Number the 2 MiB that hold anything, with a gap wherever there was one: what was apart must not touch.

    `ends` are mappings that somebody had at the end, whether or not a call made them.
    """
    used: set[int] = set()
    places = [(call.vpn, call.pages) for call in calls]
    places += [(call.argument, call.pages) for call in calls if call.name in MOVES]
    for start, pages in (*places, *((start, end - start) for start, end in ends)):
        if pages:
            used.update(range(start // PTRS_PER_PMD, (start + pages - 1) // PTRS_PER_PMD + 1))
    numbers: dict[int, int] = {}
    blocks: list[int] = []
    for block in sorted(used):
        if blocks and blocks[-1] != block - 1:
            blocks.append(-1)
        numbers[block] = len(blocks)
        blocks.append(block)
    return numbers, blocks


def _summary(space: Space, page: Callable[[int], int]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": space.name, "elsewhere": space.elsewhere, "kernel_faults": space.kernel_faults,
    }  # fmt: skip
    if space.ended:
        summary["anonymous_pages"] = space.ended.anonymous_pages
        summary["mappings"] = [[page(start), end - start] for start, end in space.ended.anonymous]
        summary["peak_rss_kib"] = space.ended.peak_rss_kib
        summary["file_copies"] = space.ended.file_copies
    if space.became:
        summary["became"] = space.became
    return summary


# --- runs -------------------------------------------------------------------------------------------------------------

COMPILE = ("gcc", "-w", "-O0", "-c", "program.c")
SETTINGS = ((), (2,), (3,), (4,), (5,), (6,), (7,), (8,), (2, 4), ALL_SIZES, (PMD_ORDER,))
"""What the compile is measured under, unless said otherwise."""
GENERATOR = DATA.parent / "tools" / "make_c_source.py"


def write_program(folder: Path) -> dict[str, Any]:
    """Write the C file that `COMPILE` compiles; returns what a trace should say about it."""
    if not GENERATOR.is_file():
        raise LiveError(f"{GENERATOR.name} is missing: the compile needs the project's files, not the package alone")
    program = folder / "program.c"
    subprocess.run([sys.executable, str(GENERATOR), str(program)], check=True)
    try:
        asked = subprocess.run([COMPILE[0], "--version"], check=False, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise LiveError(f"the compile needs {COMPILE[0]}: {error.strerror}") from None
    version = asked.stdout.strip()
    if asked.returncode or not version:
        says = " ".join(asked.stderr.split()) or "nothing"
        raise LiveError(
            f"the compile needs {COMPILE[0]}; asked for its version it ended with {asked.returncode} "
            f"and said: {says:.300}"
        )
    text = program.read_bytes()
    return {
        "command": " ".join(COMPILE),
        "compiler": version.splitlines()[0],
        "source": f"tools/{GENERATOR.name}, {text.count(10)} lines, sha256 {hashlib.sha256(text).hexdigest()}",
        "recorded": time.strftime("%Y-%m-%d"),
    }


def check_traced(settings: Iterable[Sequence[int]] = ()) -> None:
    """Raise LiveError for the first thing that runs under these sets of sizes need and do not find."""
    check_machine()
    check_traces()
    check_sizes(chain.from_iterable(settings))


def check_sizes(orders: Iterable[int]) -> None:
    """Raise LiveError for a size that this kernel has not."""
    there = sizes_there()
    missing = set(orders) - set(there)
    if missing:
        says = ", ".join(map(str, there))
        raise LiveError(f"kernel {kernel_version()} has no size of order {min(missing)}; it has {says}")


def enable_always(kernel: LiveKernel, orders: Sequence[int]) -> None:
    """Enable exactly these sizes for every mapping."""
    check_sizes(orders)
    if PMD_ORDER in orders:
        kernel.nursery.call("keep_khugepaged")
    knobs = size_knobs()
    for order, path in knobs.items():
        kernel.knobs.set(path / "enabled", "always" if order in orders else "never")
    if not knobs:
        kernel.knobs.set(THP / "enabled", "always" if orders else "never")
    # khugepaged may have been woken; it finds nothing to do, but should be asleep again.
    time.sleep(0.01)


BINFMT = PROC / "sys/fs/binfmt_misc"
"""Here the kernel says what else it can run."""


def check_program(program: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Raise LiveError for a program that is not there, or not to be run."""
    path = environment.get("PATH", os.defpath)
    found = shutil.which(str(folder / program) if "/" in program else program, path=path)
    if found is None:
        there = "/" in program and (folder / program).exists()
        why = "is no program that can be run" if there else "there is no such program"
        raise LiveError(f"{program or 'a program of no name'}: {why}")
    with suppress(OSError), open(found, "rb") as file:
        head = file.read(256)
        if head[:4] == ELF_64[:4]:
            check_64_bit(Path(found))
        elif head[:2] == b"#!":
            interpreter = (head[2:].split(b"\n")[0].split() or [b""])[0].decode(errors="replace")
            if not (folder / interpreter).is_file():
                raise LiveError(f"{program}: its interpreter {interpreter or 'of no name'} is not there")
        elif {path.name for path in BINFMT.glob("*")} <= {"register", "status"}:
            raise LiveError(f"{program}: its first line names no interpreter (#!); one of the shell: sh {program}")


@contextmanager
def prepared(orders: Sequence[int], launch: Launch) -> Iterator[tuple[LiveKernel, Path, Launch]]:
    """The kernel with exactly these sizes, and a tracefs instance.

    The program stays on the one CPU of a live run, if no others are asked for; who reads its events, elsewhere.
    """
    there = os.sched_getaffinity(0)
    try:
        with LiveKernel() as kernel:
            cpus = launch.cpus or frozenset(os.sched_getaffinity(0))
            os.sched_setaffinity(0, there - cpus or there)
            enable_always(kernel, orders)
            yield kernel, trace_instance(kernel, launch.buffer_kib), replace(launch, cpus=cpus)
    except OSError as error:
        raise LiveError(f"the run was cut short: {error}; run it again") from error


def record(
    command: Sequence[str], folder: Path, about: Mapping[str, Any], progress: Callable[[str], None] | None = None,
    launch: Launch | None = None, settle: Settle = settled,
) -> Trace:  # fmt: skip
    """Run a command in a folder with 4K pages alone, and return its trace. `progress` gets a line now and then."""
    launch = launch or Launch()
    check_program(command[0], folder, launch.environment)
    with prepared((), launch) as (kernel, instance, placed):
        run = run_traced(instance, command, folder, progress, placed)
    return trace_of(run, kernel.version, settle, **about)


def measure(
    command: Sequence[str],
    folder: Path,
    settings: Iterable[Sequence[int]] = SETTINGS,
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
    launch: Launch | None = None,
) -> list[Setting]:
    """Run a command under each set of sizes, in interleaved rounds, and count as a trace does.

    The machine is given back after every run: other live runs get their turn.
    """
    measured = [Setting(tuple(orders), [], [], [], [], []) for orders in settings]
    for number in range(1, rounds + 1):
        for at, setting in enumerate(measured):
            if progress:
                progress(f"round {number} of {rounds}: {setting.name}")
            measured[at] = _measure_once(command, folder, setting, launch or Launch())
    return measured


def _measure_once(command: Sequence[str], folder: Path, setting: Setting, launch: Launch) -> Setting:
    """The setting with one more round."""
    with prepared(setting.orders, launch) as (kernel, instance, placed):
        before = kernel.fallbacks()
        run = run_traced(instance, command, folder, launch=placed, rss=True)
        setting.fallbacks.append(kernel.fallbacks() - before)
    if run.kernel_faults < 1:
        raise LiveError(f"{' '.join(command)} did not run (exit {os.waitstatus_to_exitcode(run.status)})")
    found = run.read or converter_of(run)
    setting.faults.append(run.kernel_faults)
    setting.traced.append(found.traced)
    counted = _counted(found)
    setting.anonymous.append(sum(each.anonymous for each in counted))
    setting.peak_rss_kib.append(run.peak_rss_kib)
    curves = tuple(_curve(space.memory, found.began, found.now) for space in found.spaces)
    names = tuple(space.name for space in found.spaces)
    return setting._replace(processes=(*setting.processes, counted), curves=curves, names=(*setting.names, names))


def _curve(memory: Sequence[tuple[float, int, int]], began: float, ended: float) -> tuple[Point, ...]:
    """What was told of a process, at evenly spaced moments of the whole run's time, from its first change to its exit;
    of one that exits at the end of the run, what it had before."""
    step = (ended - began) / POINTS or 1.0
    told = ((math.ceil((time - began) / step), faults, pages) for time, faults, pages in memory)
    last = {number: (faults, pages) for number, faults, pages in told if pages or number < POINTS}
    return tuple(Point(round(number / POINTS, 4), *there) for number, there in last.items())


def _in_anonymous(space: Space, seen: int, taking: bool) -> int:
    """Faults that were refused (SIGSEGV) are told of, and not counted."""
    counted = space.kernel_faults - space.elsewhere
    return counted if taking else min(seen, counted)


def _counted(found: Converter) -> tuple[Counted, ...]:
    """What the kernel counted for each process.

    Faults in anonymous memory are those that the events told of, for a few of exec's own are counted and not told; but
    where the kernel faulted in pages unseen, or there was no room for all that was told, they are what it counted
    beyond those elsewhere.
    """
    rows = found.accesses.rows
    unseen = (rows[:, 2] & TAKES) > 0
    seen = np.bincount(rows[~unseen, 0], minlength=len(found.spaces)).tolist()
    taking = set(rows[unseen, 0].tolist()) if found.room > 0 else {space.number for space in found.spaces}
    return tuple(
        Counted(
            space.kernel_faults,
            _in_anonymous(space, seen[space.number], space.number in taking),
            space.ended.peak_rss_kib if space.ended else 0,
            PAGE // 1024 * max((pages for _, _, pages in space.memory), default=0),
        )
        for space in found.spaces
    )
