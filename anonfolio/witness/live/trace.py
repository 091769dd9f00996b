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
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...hardware.trace import (
    ADVICE,
    ALL_SIZES,
    ALONE,
    CALLS,
    MOST_PROCESSES,
    NO_HUGE,
    READ_ONLY,
    READ_WRITE,
    Call,
    Setting,
    Trace,
)
from ...kernel.record import PF_USER, PF_WRITE
from ...kernel.sizes import PTRS_PER_PMD
from ...program.formats import DATA
from ..here import LiveError
from .kernel import PMD_ORDER, PROC, THP, LiveKernel, size_knobs, smaps, trace_ability
from .worker import ADVICE as LIVE_ADVICE
from .worker import PAGE, libc

BUFFER_KIB = 65536
STACK_LIMIT_PAGES = (8 << 20) // PAGE
"""How far a fault may be below the stack to make it grow (RLIMIT_STACK, which the recorder sets)."""
PM_PRESENT = 1 << 63

# x86-64 system calls.
FOLLOWED = {9: "mmap", 10: "mprotect", 11: "munmap", 12: "brk", 25: "mremap", 28: "madvise"}
EXECS = (59, 322)
"""execve and execveat."""
UNFOLLOWED = {
    30: "shmat", 149: "mlock", 151: "mlockall", 216: "remap_file_pages", 325: "mlock2", 440: "process_madvise",
}  # fmt: skip
PROT_WRITE = 2
MAP_SHARED, MAP_PRIVATE_MASK, MAP_ANONYMOUS = 0x01, 0x0F, 0x20
MAP_POPULATE, MAP_LOCKED, MAP_STACK, MAP_HUGETLB = 0x8000, 0x2000, 0x20000, 0x40000
MREMAP_DONTUNMAP = 4
MADV = {number: name for name, number in LIVE_ADVICE.items() if name in ADVICE}
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
    other threads included (minflt + majflt).
    """

    pid: int
    process: int
    anonymous: list[Span]
    anonymous_pages: int
    peak_rss_kib: int
    faults: int


class Run(NamedTuple):
    """One traced run, as it comes out of the kernel."""

    lines: list[str]
    images: list[Image]
    ended: list[Ended]
    status: int

    @property
    def kernel_faults(self) -> int:
        """The kernel's count from the end of the first exec on: what the launcher did before is not the program's."""
        # Of a process with threads the last one to exit has the whole count.
        counts = {ended.process: ended.faults for ended in self.ended}
        return sum(counts.values()) - self.images[0].faults

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
    """

    environment: Mapping[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TMPDIR": "."}
    )
    output: int | None = None
    errors: int | None = None
    cpus: frozenset[int] = frozenset()
    buffer_kib: int = BUFFER_KIB


def trace_instance(kernel: LiveKernel, buffer_kib: int = BUFFER_KIB) -> Path:
    """A tracefs instance of our own, off, with the events a trace is made of; it goes when the kernel is put back."""
    if not kernel.traces:
        raise LiveError(f"no trace can be recorded: {trace_ability().says}")
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


EVENTS = (
    "exceptions/page_fault_user", "exceptions/page_fault_kernel", "raw_syscalls/sys_enter", "raw_syscalls/sys_exit",
    "sched/sched_process_exec", "sched/sched_process_exit", "task/task_newtask",
)  # fmt: skip


def _begin(instance: Path, pid: int) -> None:
    (instance / "trace").write_text("")
    (instance / "set_event_pid").write_text(str(pid))
    for event in EVENTS:
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


def _collect(instance: Path) -> list[str]:
    (instance / "tracing_on").write_text("0")
    (instance / "events/enable").write_text("0")
    (instance / "set_event_pid").write_text("")
    room_kib = int((instance / "buffer_size_kb").read_text().split()[0])
    for stats in instance.glob("per_cpu/cpu*/stats"):
        lost = re.findall(r"(?:overrun|dropped events): ([1-9]\d*)", stats.read_text())
        if lost:
            raise LiveError(
                f"{lost[0]} events of the trace were lost: the program is too long for {room_kib >> 10} MiB of them; "
                f"--buffer {room_kib >> 8} has room for four times as many"
            )
    lines = [line for line in (instance / "trace").read_text(errors="replace").splitlines() if not line.startswith("#")]
    (instance / "trace").write_text("")
    return lines


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


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    long = ctypes.c_long
    if libc.ptrace(long(request), long(pid), long(0), long(data)) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of process {pid}")


def run_traced(
    instance: Path, command: Sequence[str], folder: Path, progress: Callable[[str], None] | None = None,
    launch: Launch | None = None,
) -> Run:  # fmt: skip
    """Run a command to its end under the tracepoints. `progress` gets a line every now and then, in another thread."""
    program = _Program(instance, command, folder, progress, launch or Launch())
    try:
        # No thread.join: in Python 3.11 a thread whose join was interrupted counts as ended.
        program.start()
        program.ended.wait()
    except BaseException:
        program.end()
        raise
    if program.error:
        raise program.error
    return Run(_collect(instance), program.images, program.exits, program.status)


class _Program:
    """A program and all its children, followed by a thread of its own."""

    def __init__(
        self, instance: Path, command: Sequence[str], folder: Path, progress: Callable[[str], None] | None,
        launch: Launch,
    ) -> None:  # fmt: skip
        self.instance, self.command, self.folder, self.progress = instance, command, folder, progress
        self.launch = launch
        self.images: list[Image] = []
        self.exits: list[Ended] = []
        self.root = 0
        self.status = 0
        self.error: BaseException | None = None
        self.ended = threading.Event()
        # A daemon: should somebody not end, the interpreter still does, and PTRACE_O_EXITKILL is the last resort.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._alive: set[int] = set()
        self._killed = False

    def start(self) -> None:
        """Begin; `ended` is set when nobody is left."""
        self._thread.start()

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
            _ptrace(PTRACE_SEIZE, self.root, PTRACE_OPTIONS)
            _begin(self.instance, self.root)
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
            self._ran_from_thread(pid, _event_message(pid))
            self.images.append(_image(pid))
            if self.progress:
                self.progress(f"running {self.images[-1].name}")
        elif what == PTRACE_EVENT_EXIT:
            self.exits.append(_ended(pid))

    def _ran_from_thread(self, pid: int, before: int) -> None:
        """A thread other than the first ran a program, and has the first one's number since (`de_thread`, fs/exec.c).

        The first thread's exit took that number from those that are traced, so that nobody told of the exec: we do.
        """
        if before == pid:
            return
        self._alive.discard(before)
        _follow_too(self.instance, pid)
        (self.instance / "trace_marker").write_text(f"{RAN} {pid} old_pid={before}")


def _event_message(pid: int) -> int:
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
        _ptrace(PTRACE_CONT, pid, number)


ELF_64 = b"\x7fELF\x02"


def check_64_bit(program: Path) -> None:
    """Raise LiveError for a 32-bit program: its system calls have other numbers, and would be taken for others."""
    with program.open("rb") as file:
        if file.read(len(ELF_64)) != ELF_64:
            raise LiveError(f"{program.resolve()} is no 64-bit program; a trace knows the system calls of x86-64 alone")


def _image(pid: int) -> Image:
    check_64_bit(PROC / f"{pid}/exe")
    anonymous, stack, _ = _anonymous(pid)
    with open(PROC / f"{pid}/pagemap", "rb", buffering=0) as pagemap:
        present = [span for start, end in anonymous for span in _present(pagemap.fileno(), start, end)]
    name = _told(pid, "comm").strip()
    stat = _stat(pid)
    return Image(pid, name, anonymous, stack, stat[START_BRK], present, stat[MINFLT] + stat[MAJFLT])


def _ended(pid: int) -> Ended:
    anonymous, _, pages = _anonymous(pid)
    status = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", _told(pid, "status"), re.M)}
    stat = _stat(pid)
    return Ended(pid, status["Tgid"], anonymous, pages, status.get("VmHWM", 0), stat[MINFLT] + stat[MAJFLT])


MINFLT, MAJFLT, START_BRK = 10, 12, 47


def _told(pid: int, name: str) -> str:
    """A file of /proc/PID. Names of programs and files in it may be no text, or cut off within a letter."""
    return (PROC / f"{pid}" / name).read_text(errors="replace")


def _stat(pid: int) -> dict[int, int]:
    """/proc/PID/stat, numbered as proc(5) does; the name, which may hold anything, ends at the last bracket."""
    words = _told(pid, "stat").rpartition(")")[2].split()
    return {number: int(word) for number, word in enumerate(words, 3) if word.lstrip("-").isdigit()}


def _anonymous(pid: int) -> tuple[list[Span], int, int]:
    """Private anonymous mappings, the first page of the stack, and how many pages are mapped there.

    The zero page is not counted; RssAnon would count copies of file pages too.
    """
    found: list[Span] = []
    stack = pages = 0
    for row in smaps(pid):
        ours = row.name in ("", "[heap]", "[stack]") or row.name.startswith("[anon:")
        if row.inode == "0" and row.access[3] == "p" and ours:
            found.append((row.start // PAGE, row.end // PAGE))
            pages += int(row.fields["Anonymous"].split()[0]) * 1024 // PAGE
        if row.name == "[stack]":
            stack = row.start // PAGE
    return found, stack, pages


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
        return any(start <= page < end for start, end in self.spans)

    def add(self, start: int, end: int) -> None:
        """Add [start, end), joining what it touches."""
        touching = [span for span in self.spans if span[0] <= end and start <= span[1]]
        apart = [span for span in self.spans if not (span[0] <= end and start <= span[1])]
        joined = min([start, *(low for low, _ in touching)]), max([end, *(high for _, high in touching)])
        self.spans = sorted([*apart, joined])

    def within(self, start: int, end: int) -> list[Span]:
        """The parts of [start, end) in the set."""
        parts = ((max(low, start), min(high, end)) for low, high in self.spans)
        return [(low, high) for low, high in parts if low < high]

    def remove(self, start: int, end: int) -> None:
        """Take [start, end) out; nothing when it ends before it starts."""
        if start < end:
            pieces = [((low, min(high, start)), (max(low, end), high)) for low, high in self.spans]
            self.spans = [(low, high) for pair in pieces for low, high in pair if low < high]


@dataclass
class Space:
    """One address space while its events are read: where its anonymous memory lies, and what becomes its summary."""

    number: int
    name: str = ""
    anonymous: Spans = field(default_factory=Spans)
    stack: int = 0
    start_brk: int = 0
    brk: int = 0
    users: int = 1
    elsewhere: int = 0
    ended: Ended | None = None


class Fault(NamedTuple):
    """A fault as the tracepoint tells it."""

    page: int
    code: int


class Converter:
    """Turns the events of a run into accesses and calls, in page numbers of the real addresses at first."""

    def __init__(self, run: Run) -> None:
        self.images: dict[int, list[Image]] = {}
        for image in run.images:
            self.images.setdefault(image.pid, []).append(image)
        self.ended = {ended.pid: ended for ended in run.ended}
        self.spaces: list[Space] = []
        self.space_of: dict[int, Space] = {}
        self.called: dict[int, tuple[int, list[int]]] = {}
        self.during_exec: dict[int, list[Fault]] = {}
        self.in_kernel: dict[int, Fault] = {}
        self.accesses: list[tuple[int, int, int]] = []
        self.calls: list[Call] = []
        self.left_out: Counter[str] = Counter()
        self.traced = 0
        for line in run.lines:
            self._line(line)
        if not self.spaces:
            raise LiveError("the trace holds no exec: the program did not start")

    # --- lines --------------------------------------------------------------------------------------------------

    _FORM = re.compile(r"-(\d+)\s+\[\d+\][^:]*:? +[\d.]+: (\w+): (.*)")
    _FAULT = re.compile(r"address=(?:0x)?([0-9a-f]+) .*error_code=0x([0-9a-f]+)")

    def _line(self, line: str) -> None:
        match = self._FORM.search(line)
        if not match:
            if line.strip():
                raise LiveError(f"the trace cannot be read: {line.strip()!r:.100}")
            return
        pid, event, rest = int(match[1]), match[2], match[3]
        before = self.in_kernel.pop(pid, None)
        if event in ("page_fault_user", "page_fault_kernel"):
            self._fault(pid, rest, before)
        elif event == "sys_enter":
            self._enter(pid, rest)
        elif event == "sys_exit":
            self._exit_call(pid, rest)
        elif event == "task_newtask":
            self._new_task(pid, rest)
        elif event == "sched_process_exec":
            # From another thread than the first: our own mark follows, whether or not this was told.
            if rest.endswith(f" old_pid={pid}"):
                self._exec(pid, pid)
        elif event == "tracing_mark_write" and (marked := re.match(rf"{RAN} (\d+) old_pid=(\d+)", rest)):
            self._exec(int(marked[1]), int(marked[2]))
        elif event == "sched_process_exit":
            self._leave(pid, self.ended.get(pid))

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

    def _access(self, space: Space, fault: Fault) -> None:
        self.traced += 1
        if fault.page not in space.anonymous:
            if not space.stack - STACK_LIMIT_PAGES <= fault.page < space.stack:
                space.elsewhere += 1
                return
            # expand_stack (mm/vma.c): the stack now begins with the page that was touched.
            self._map(space, fault.page, space.stack, READ_WRITE)
            space.stack = fault.page
        self.accesses.append((space.number, fault.page, fault.code))

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
        if -4096 < result < 0:
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
        self.left_out["populate"] += bool(flags & (MAP_POPULATE | MAP_LOCKED))
        self._map(space, start, end, _access_of(access) | (NO_HUGE if flags & MAP_STACK else 0))

    def _munmap(self, space: Space, arguments: list[int], _: int) -> None:
        self._unmap(space, arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1]))

    def _brk(self, space: Space, _: list[int], result: int) -> None:
        old, new = _pages_up(space.brk), _pages_up(result)
        space.brk = result
        if new > old:
            self._map(space, old, new, READ_WRITE | (ALONE if old == _pages_up(space.start_brk) else 0))
        elif new < old:
            self._unmap(space, new, old)

    def _mprotect(self, space: Space, arguments: list[int], _: int) -> None:
        start, end = arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1])
        for low, high in space.anonymous.within(start, end):
            self._call("protect", space, low, high, _access_of(arguments[2]))

    def _madvise(self, space: Space, arguments: list[int], _: int) -> None:
        advice = MADV.get(arguments[2])
        if advice is None:
            self.left_out[f"madvise {arguments[2]}"] += 1
            return
        start, end = arguments[0] // PAGE, _pages_up(arguments[0] + arguments[1])
        for low, high in space.anonymous.within(start, end):
            self._call("advise", space, low, high, ADVICE.index(advice))

    def _mremap(self, space: Space, arguments: list[int], result: int) -> None:
        old = arguments[0] // PAGE
        old_end, pages = old + _pages_up(arguments[1]), _pages_up(arguments[2])
        new = result // PAGE
        if old == old_end or arguments[3] & MREMAP_DONTUNMAP:
            self.left_out["mremap that keeps the old place"] += 1
            return
        grows = old_end - 1 in space.anonymous and pages > old_end - old
        if new == old:
            self._unmap(space, old + pages, old_end)
        else:
            self._unmap(space, new, new + pages)
            self._unmap(space, old + pages, old_end)
            for low, high in space.anonymous.within(old, old_end):
                target = low - old + new
                self._call("move", space, low, high, target)
                space.anonymous.remove(low, high)
                space.anonymous.add(target, target + high - low)
        if grows:
            # Nobody grows what may only be read.
            self._map(space, new + old_end - old, new + pages, READ_WRITE)

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
            len(self.spaces), space.name, Spans(space.anonymous.spans), space.stack, space.start_brk, space.brk
        )
        self.spaces.append(twin)
        self.space_of[child] = twin
        self.calls.append(Call(len(self.accesses), "fork", space.number, argument=twin.number))

    def _exec(self, pid: int, thread: int) -> None:
        """A program begins: process `pid`, run by that thread of its predecessor."""
        # Nobody has seen what the program before had at its end.
        self._leave(thread, None)
        images = self.images.get(pid)
        if not images:
            raise LiveError(f"process {pid} ran a program that was not seen to start; run it again")
        image = images.pop(0)
        space = Space(len(self.spaces), image.name, Spans(), image.stack, image.brk, image.brk)
        self.spaces.append(space)
        first = len(self.spaces) == 1
        self.space_of[pid] = space
        self._call("spawn", space)
        for start, end in image.anonymous:
            self._map(space, start, end, READ_WRITE)
        faults = self.during_exec.pop(thread, [])
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
        self.accesses += [(space.number, fault.page, fault.code) for fault in ours]

    def _leave(self, pid: int, ended: Ended | None) -> None:
        space = self.space_of.pop(pid, None)
        if space is None:
            return
        space.users -= 1
        if not space.users:
            space.ended = ended
            self._call("exit", space)

    # --- notes --------------------------------------------------------------------------------------------------

    def _call(self, name: str, space: Space, start: int = 0, end: int = 0, argument: int = 0) -> None:
        assert name in CALLS
        self.calls.append(Call(len(self.accesses), name, space.number, start, end - start, argument))

    def _map(self, space: Space, start: int, end: int, argument: int) -> None:
        self._call("map", space, start, end, argument)
        space.anonymous.add(start, end)

    def _unmap(self, space: Space, start: int, end: int) -> None:
        for low, high in space.anonymous.within(start, end):
            self._call("unmap", space, low, high)
        space.anonymous.remove(start, end)


def _system_call(rest: str) -> tuple[int, list[int]]:
    match = re.match(r"NR (-?\d+) \(([^)]*)\)", rest)
    if not match:
        raise LiveError(f"a system call of the trace cannot be read: {rest!r:.100}")
    return int(match[1]), [int(word, 16) for word in match[2].split(", ")]


def _pages_up(address: int) -> int:
    return -(-address // PAGE)


def _access_of(access: int) -> int:
    return READ_WRITE if access & PROT_WRITE else READ_ONLY


def trace_of(run: Run, kernel: str, **about: Any) -> Trace:
    """The trace of a run."""
    found = Converter(run)
    if len(found.spaces) > MOST_PROCESSES:
        raise LiveError(f"{len(found.spaces)} programs and forks are too many for a trace; at most {MOST_PROCESSES}")
    new_block, blocks = _moved_together(found.calls)

    def page(vpn: int) -> int:
        return new_block[vpn // PTRS_PER_PMD] * PTRS_PER_PMD + vpn % PTRS_PER_PMD

    def renumbered(call: Call) -> Call:
        if not call.pages:
            return call
        return call._replace(vpn=page(call.vpn), argument=page(call.argument) if call.name == "move" else call.argument)

    columns = list(zip(*found.accesses, strict=True)) or [(), (), ()]
    return Trace(
        kernel=kernel,
        about=about,
        vpn=np.array([page(vpn) for vpn in columns[1]], np.int64),
        process=_owners(columns[0], len(found.spaces)),
        code=np.array(columns[2], np.uint8),
        calls=tuple(map(renumbered, found.calls)),
        blocks=np.array(blocks, np.int64),
        processes=tuple(_summary(space, page) for space in found.spaces),
        kernel_faults=run.kernel_faults,
        left_out={name: count for name, count in found.left_out.items() if count},
    )


def _owners(processes: Sequence[int], count: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    return np.array(processes, np.uint8) if count <= 256 else np.array(processes, np.uint16)


def _moved_together(calls: Iterable[Call]) -> tuple[dict[int, int], list[int]]:
    """Number the 2 MiB that hold anything, with a gap wherever there was one: what was apart must not touch."""
    used: set[int] = set()
    for call in calls:
        for start in (call.vpn, call.argument) if call.name == "move" else (call.vpn,):
            if call.pages:
                used.update(range(start // PTRS_PER_PMD, (start + call.pages - 1) // PTRS_PER_PMD + 1))
    numbers: dict[int, int] = {}
    blocks: list[int] = []
    for block in sorted(used):
        if blocks and blocks[-1] != block - 1:
            blocks.append(-1)
        numbers[block] = len(blocks)
        blocks.append(block)
    return numbers, blocks


def _summary(space: Space, page: Callable[[int], int]) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": space.name, "elsewhere": space.elsewhere}
    if space.ended:
        summary["anonymous_pages"] = space.ended.anonymous_pages
        summary["mappings"] = [[page(start), end - start] for start, end in space.ended.anonymous]
        summary["peak_rss_kib"] = space.ended.peak_rss_kib
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


def enable_always(kernel: LiveKernel, orders: Sequence[int]) -> None:
    """Enable exactly these sizes for every mapping."""
    missing = set(orders) - set(kernel.sizes)
    if missing:
        there = ", ".join(map(str, kernel.sizes))
        raise LiveError(f"kernel {kernel.version} has no size of order {min(missing)}; it has {there}")
    if PMD_ORDER in orders:
        kernel.nursery.call("keep_khugepaged")
    knobs = size_knobs()
    for order, path in knobs.items():
        kernel.knobs.set(path / "enabled", "always" if order in orders else "never")
    if not knobs:
        kernel.knobs.set(THP / "enabled", "always" if orders else "never")
    # khugepaged may have been woken; it finds nothing to do, but should be asleep again.
    time.sleep(0.01)


def check_program(program: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Raise LiveError for a program that is not there, or not to be run."""
    path = environment.get("PATH", os.defpath)
    found = shutil.which(str(folder / program) if "/" in program else program, path=path)
    if found is None:
        there = "/" in program and (folder / program).exists()
        raise LiveError(f"{program}: {'is no program that can be run' if there else 'there is no such program'}")
    with suppress(OSError), open(found, "rb") as file:
        if file.read(len(ELF_64))[:4] == ELF_64[:4]:
            check_64_bit(Path(found))


@contextmanager
def _prepared(orders: Sequence[int], launch: Launch) -> Iterator[tuple[LiveKernel, Path]]:
    """The kernel with exactly these sizes, and a tracefs instance."""
    try:
        with LiveKernel() as kernel:
            enable_always(kernel, orders)
            yield kernel, trace_instance(kernel, launch.buffer_kib)
    except OSError as error:
        raise LiveError(f"the run was cut short: {error}; run it again") from error


def record(
    command: Sequence[str], folder: Path, about: Mapping[str, Any], progress: Callable[[str], None] | None = None,
    launch: Launch | None = None,
) -> Trace:  # fmt: skip
    """Run a command in a folder with 4K pages alone, and return its trace. `progress` gets a line now and then."""
    launch = launch or Launch()
    check_program(command[0], folder, launch.environment)
    with _prepared((), launch) as (kernel, instance):
        run = run_traced(instance, command, folder, progress, launch)
    _check_success(run, command)
    return trace_of(run, kernel.version, **about)


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
        for setting in measured:
            if progress:
                progress(f"round {number} of {rounds}: {setting.name}")
            _measure_once(command, folder, setting, launch or Launch())
    return measured


def _measure_once(command: Sequence[str], folder: Path, setting: Setting, launch: Launch) -> None:
    with _prepared(setting.orders, launch) as (kernel, instance):
        before = kernel.fallbacks()
        run = run_traced(instance, command, folder, launch=launch)
        setting.fallbacks.append(kernel.fallbacks() - before)
    _check_success(run, command)
    found = Converter(run)
    setting.faults.append(run.kernel_faults)
    setting.traced.append(found.traced)
    setting.anonymous.append(len(found.accesses))
    setting.peak_rss_kib.append(run.peak_rss_kib)


def _check_success(run: Run, command: Sequence[str]) -> None:
    if run.status:
        code = os.waitstatus_to_exitcode(run.status)
        raise LiveError(f"{' '.join(command)} failed (exit {code}); nothing is recorded")
