"""The kernel of this machine, made ready to be a witness: its knobs, what it shows, and the processes that act.

`LiveKernel` is a context manager. Inside it the knobs stand as a scenario needs them, on one CPU, and nobody else runs
one; outside everything is as it was, whatever happened. What a killed run left behind stands in the lock file: the
next run puts it back, or ``anonfolio doctor --restore``.
"""

from __future__ import annotations

import atexit
import ctypes
import gzip
import json
import os
import platform
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

from ...kernel.history import ARCHITECTURES
from ...kernel.policy import policy_for_kernel
from ..here import Disturbed, LiveError, NotLive
from ..hidden.bpf import NotHidden
from ..hidden.reader import Kernel as HiddenKernel
from . import worker as live_worker
from .worker import MESSAGE_BYTES, PAGE, WINDOW_START

THP = Path("/sys/kernel/mm/transparent_hugepage")
KSM = Path("/sys/kernel/mm/ksm/run")
DAMON_STAT = Path("/sys/module/damon_stat/parameters/enabled")
"""On by default in some kernels (6.17 on): it clears accessed bits."""
PROC = Path("/proc")
TRACEFS = Path("/sys/kernel/tracing")
# One place for the machine, whatever TMPDIR says. /run belongs to root, as live runs do, and is empty after a boot,
# when the kernel has forgotten what a killed run changed, too.
LOCK = next(filter(Path.is_dir, map(Path, ("/run", "/var/run"))), Path("/tmp")) / "anonfolio-live.lock"
INSTANCES = "anonfolio-live-"
WINDOW_PAGES = 4096
FIRST_PID_NAMESPACE = 0xEFFFFFFC
PMD_ORDER = 9
SIZE_COUNTERS = ("anon_fault_alloc", "anon_fault_fallback", "nr_anon_partially_mapped", "split_deferred")
PATIENCE = 60.0
"""Seconds to wait for another live run to end."""


# --- user faults ----------------------------------------------------------------------------------------------------


class FaultEvent(NamedTuple):
    """How an architecture's kernel tells of user faults.

    Attributes
    ----------
    says, needs : str
        The event, for people, and the file in tracefs that must be there for it.
    defines : str
        What makes it an event in the first place; empty for a tracepoint.
    condition : str
        The filter for user faults at addresses from ``{low}`` to below ``{high}``.
    line : str
        What a line of the trace has of it: a group for the address, one for the code.
    bits : dict of int to int
        Bits of that code to those of x86's error codes.
    present : bool
        Whether the code says that something was there.
    """

    says: str
    needs: str
    defines: str
    condition: str
    line: str
    bits: dict[int, int]
    present: bool


GROUP = "anonfolio"
FAULT_EVENTS = {
    "x86_64": FaultEvent(
        "exceptions:page_fault_user", "events/exceptions/page_fault_user", "",
        "address >= {low:#x} && address < {high:#x}",
        r"page_fault_user: address=(?:0x)?([0-9a-f]+) .*error_code=0x([0-9a-f]+)",
        {1: 1, 2: 2, 4: 4}, True,
    ),
    # No tracepoint there. Flags are FAULT_FLAG_WRITE and FAULT_FLAG_USER (include/linux/mm_types.h); an access that no
    # mapping allows does not come so far.
    "aarch64": FaultEvent(
        "kprobe on handle_mm_fault", "kprobe_events", "handle_mm_fault address=%x1:x64 flags=%x2:x32",
        "address >= {low:#x} && address < {high:#x} && flags & 0x40",
        r"\(handle_mm_fault\+0x0/\S+\) address=0x([0-9a-f]+) flags=0x([0-9a-f]+)",
        {0x1: 2, 0x40: 4}, False,
    ),
}  # fmt: skip
"""By what ``uname -m`` says."""
CONVERT = "contpte_convert address=%x1:x64"
CONVERT_CONDITION = "address >= {low:#x} && address < {high:#x}"
CONVERTED = re.compile(r"\(contpte_convert\+0x0/\S+\) address=0x([0-9a-f]+)")
"""Where arm64 gives its contiguous bit to a block that is mapped, or takes it away."""
VMA_LOCK = 0x1000
"""FAULT_FLAG_VMA_LOCK: a fault that could not be handled under it alone comes a second time, without it."""


# --- what this machine can show -------------------------------------------------------------------------------------


class Ability(NamedTuple):
    """One thing that a live run may need: whether it is there, and what that means or what to do."""

    name: str
    ok: bool
    says: str
    needed: bool = True

    def __str__(self) -> str:
        return f"{'yes' if self.ok else 'no':4} {self.name}: {self.says}"


def kernel_version() -> str:
    """``"6.18.44"``. Debian's release name counts its own builds, the version stands in the build's text."""
    debian = re.search(r"Debian (\d+\.\d+\.\d+)", platform.version())
    plain = re.match(r"[0-9.]*\d", platform.release())
    return debian[1] if debian else plain[0] if plain else platform.release()


def abilities() -> Iterator[Ability]:
    """What this machine can show, the needed things first and in the order in which they depend on each other."""
    linux = sys.platform == "linux" and platform.machine() in FAULT_EVENTS and os.sysconf("SC_PAGE_SIZE") == PAGE
    there = "Linux on x86-64 or arm64, base pages of 4 KiB"
    yield _ability(there, linux, platform.platform(), "use such a machine; recordings show it anywhere")
    if not linux:
        return
    yield _ability("root", os.geteuid() == 0, "effective user 0", "run it with sudo, or look at recordings")
    elsewhere = "be root on a machine or virtual machine of your own, not in a container"
    yield _ability("frame numbers in pagemap", _shows_frames(), "pagemap, kpageflags", elsewhere)
    knobs = os.access(THP / "enabled", os.W_OK)
    yield _ability("knobs of huge pages", knobs, str(THP), f"{THP} must be writable; {elsewhere}")
    merging = KSM.exists() and KSM.read_text().strip() == "1"
    yield _ability("KSM off", not merging, "no page merging", f"echo 0 > {KSM}")
    guessed = _configured("NO_PAGE_MAPCOUNT")
    yield _ability(
        "mapcounts of single pages", not guessed, "bit 56 of pagemap, kpagecount",
        "CONFIG_NO_PAGE_MAPCOUNT has no such count: boot a kernel without it",
    )  # fmt: skip
    yield from _further_abilities()


def _further_abilities() -> Iterator[Ability]:
    yield trace_ability()
    version = kernel_version()
    try:
        policy = policy_for_kernel(version, platform.machine()).name
    except ValueError as error:
        policy, advice = "", f"{error} (--policy)"
    else:
        advice = ""
    yield _ability("a policy for this kernel", bool(policy), f"{version} is {policy}", advice, needed=False)
    sizes = sorted(size_knobs())
    names = ", ".join(map(str, sizes))
    yield _ability(
        "sizes below 2 MiB", bool(sizes), f"orders {names}", "orders 9 alone: boot 6.8 or later", needed=False
    )
    disabled = PROC / "sys/kernel/io_uring_disabled"
    pins = not (disabled.exists() and disabled.read_text().strip() == "2")
    yield _ability("pins (io_uring)", pins, "fixed buffers", f"echo 0 > {disabled}", needed=False)
    reason = _no_failing_fork()
    yield _ability("forks that fail", not reason, "by strict overcommit, for a moment", reason, needed=False)
    reason = _no_hidden_state()
    says = "struct pages, page tables, mappings, by bpf(2) and BTF"
    yield _ability("the kernel's own state", not reason, says, reason, needed=False)
    looking = _damon()
    advice = f"{looking} clears accessed bits at random: stop it"
    yield _ability("DAMON off", not looking, "nobody else clears accessed bits", advice, needed=False)
    left = _left_behind()
    yield _ability("nothing left by a killed run", not left, "all knobs are as they were", left, needed=False)


def _ability(name: str, ok: bool, says: str, advice: str, needed: bool = True) -> Ability:
    return Ability(name, ok, says if ok else advice, needed)


def check_machine() -> None:
    """Raise LiveError for the first thing that a live run needs and does not find."""
    for ability in abilities():
        if ability.needed and not ability.ok:
            raise LiveError(f"no live run here, it needs {ability.name}: {ability.says}")


def _shows_frames() -> bool:
    buffer = ctypes.create_string_buffer(b"touched")
    try:
        with open(PROC / "self/pagemap", "rb", buffering=0) as pagemap, open(PROC / "kpageflags", "rb") as flags:
            pagemap.seek(ctypes.addressof(buffer) // PAGE * 8)
            entry = int.from_bytes(pagemap.read(8), "little")
            return bool(entry & (1 << 55) - 1) and len(flags.read(8)) == 8
    except OSError:
        return False


def _tracefs() -> bool:
    """Whether page faults can be traced there, mounting tracefs when root can."""
    needed = TRACEFS / FAULT_EVENTS[platform.machine()].needs
    if not os.path.exists(needed) and os.path.isdir(TRACEFS) and os.geteuid() == 0:
        live_worker.libc.mount(b"tracefs", os.fsencode(TRACEFS), b"tracefs", 0, None)
    return os.path.exists(needed)


def trace_ability() -> Ability:
    """Whether a run can say where faults happened."""
    reason = _no_fault_trace()
    advice = f"{reason}; faults are counted instead (minflt)"
    says = FAULT_EVENTS[platform.machine()].says
    return _ability("where faults happen", not reason, says, advice, needed=False)


def _no_fault_trace() -> str:
    """Why page faults cannot be traced here; empty when they can."""
    if os.stat(PROC / "self/ns/pid").st_ino != FIRST_PID_NAMESPACE:
        return "not in the first pid namespace, whose process ids a trace has"
    return "" if _tracefs() else f"no {FAULT_EVENTS[platform.machine()].says} in {TRACEFS}"


def _no_hidden_state() -> str:
    """Why the kernel's own state cannot be read here; empty when it can."""
    try:
        HiddenKernel().close()
    except NotHidden as error:
        return str(error)
    return ""


def _damon() -> str:
    """Who of DAMON looks at memory now and is not stopped for a live run; empty when nobody is."""
    if _reads(DAMON_STAT) == "Y":
        return ""
    names = {_reads(path) for path in PROC.glob("[0-9]*/comm")}
    return next((name for name in sorted(names) if name.startswith("kdamond")), "")


def _reads(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _configured(option: str) -> bool:
    """Whether the kernel was built with an option; no when its configuration is not to be had."""
    line = f"CONFIG_{option}=y"
    try:
        return line in gzip.decompress((PROC / "config.gz").read_bytes()).decode().splitlines()
    except OSError:
        pass
    with suppress(OSError):
        return line in Path(f"/boot/config-{platform.release()}").read_text().splitlines()
    return False


def _no_failing_fork() -> str:
    """Why no fork can be made to fail here; empty when it can."""
    if reason := _no_fault_trace():
        return reason
    if memory_info()["SwapTotal"]:
        return "swapoff -a first"
    if Knobs.read(PROC / "sys/vm/overcommit_memory") == "2":
        return "needs another overcommit_memory than 2"
    if not os.path.exists(TRACEFS / "events/kmem/kmem_cache_alloc"):
        return "needs root and the tracepoint kmem:kmem_cache_alloc"
    return ""


def memory_info() -> dict[str, int]:
    """/proc/meminfo, in kB."""
    rows = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


class Mapping(NamedTuple):
    """A mapping in /proc/PID/smaps: addresses, access, inode, name, and what its further lines say."""

    start: int
    end: int
    access: str
    inode: str
    name: str
    fields: dict[str, str]

    @property
    def copied(self) -> bool:
        """Whether fork copies it (no VM_DONTCOPY)."""
        return "dc" not in self.fields["VmFlags"].split()

    @property
    def charged_pages(self) -> int:
        """What fork charges for its copy (VM_ACCOUNT)."""
        charged = self.copied and "ac" in self.fields["VmFlags"].split()
        return (self.end - self.start) // PAGE if charged else 0


def smaps(pid: int) -> list[Mapping]:
    """The mappings of a process. Names of files may be no text, or cut off within a letter."""
    found: list[Mapping] = []
    for line in (PROC / f"{pid}/smaps").read_text(errors="replace").splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)(?: +(.*))?", line):
            start, end, access, inode, name = match.groups(default="")
            found.append(Mapping(int(start, 16), int(end, 16), access, inode, name, {}))
        else:
            name, _, value = line.partition(":")
            found[-1].fields[name] = value.strip()
    return found


def size_knobs() -> dict[int, Path]:
    """Per order the directory of its knob; empty before 6.8."""
    sizes = {}
    for path in THP.glob("hugepages-*kB"):
        if (path / "enabled").exists():
            sizes[(int(path.name[10:-2]) * 1024 // PAGE).bit_length() - 1] = path
    return sizes


def sizes_there() -> tuple[int, ...]:
    """The orders that folios can have."""
    return tuple(sorted(size_knobs())) or (PMD_ORDER,)


# --- knobs ----------------------------------------------------------------------------------------------------------


class Knobs:
    """Sets values in /sys and /proc/sys and puts back what was there; keeps a journal of that in an open file."""

    def __init__(self, journal: int) -> None:
        self._journal = journal
        self._before: dict[str, str] = {}

    @staticmethod
    def read(path: Path) -> str:
        """The value, which is the word in brackets when the file lists the choices."""
        text = path.read_text().strip()
        chosen = re.search(r"\[(.+?)\]", text)
        return chosen[1] if chosen else text

    def remember(self, path: Path) -> str:
        """Note the value before anything changes it, and return it. A knob that something else changes, as well."""
        if str(path) not in self._before:
            self._before[str(path)] = self.read(path)
            self._write_journal()
        return self._before[str(path)]

    def set(self, path: Path, value: int | str) -> bool:
        """Set it; returns whether it was different."""
        self.remember(path)
        if self.read(path) == str(value):
            return False
        path.write_text(str(value))
        return True

    def put_back(self, path: Path) -> None:
        """Set it to what it was."""
        if self.read(path) != self._before[str(path)]:
            path.write_text(self._before[str(path)])

    def restore(self) -> None:
        """Put everything back, last first. What cannot be stays in the journal, and is told."""
        for name in reversed(list(self._before)):
            try:
                self.put_back(Path(name))
                del self._before[name]
            except OSError as error:
                print(f"anonfolio: {name} could not be put back to {self._before[name]!r}: {error}", file=sys.stderr)
        self._write_journal()

    def take_over(self) -> None:
        """Read what a killed run left, as if this one had changed it."""
        self._before.update(read_journal(self._journal))

    def _write_journal(self) -> None:
        text = json.dumps(self._before).encode() if self._before else b""
        os.pwrite(self._journal, text, 0)
        os.ftruncate(self._journal, len(text))


def read_journal(fd: int) -> dict[str, str]:
    """What a run wrote down. Anything but kernel settings is not from us."""
    try:
        content = json.loads(os.pread(fd, 1 << 16, 0) or b"{}")
        ours = re.compile(rf"/(sys/kernel/mm|proc/sys)/[\w/-]+|{DAMON_STAT}")
        return {path: value for path, value in content.items() if ours.fullmatch(path)}
    except (ValueError, AttributeError):
        return {}


@contextmanager
def only_run(patience: float = PATIENCE) -> Iterator[int]:
    """Hold the lock: knobs belong to the whole machine. Yields the lock file, which is the journal too."""
    import fcntl

    try:
        fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LiveError(f"the lock {LOCK} cannot be opened ({error.strerror}); remove it") from None
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise LiveError(f"the lock {LOCK} belongs to another user; remove it")
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LiveError(f"another live run is going on{_holder(fd)}; try again when it has ended") from None
                time.sleep(0.05)
        yield fd
    finally:
        os.close(fd)


def _holder(lock: int) -> str:
    """Who holds the lock, in brackets; nothing where that is not to be seen."""
    about = os.fstat(lock)
    file = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    rows = [line.split() for line in _reads(PROC / "locks").splitlines()]
    pids = [row[4] for row in rows if row[1] == "FLOCK" and row[5] == file]
    said = [f"process {pid}: {_reads(PROC / pid / 'cmdline').replace(chr(0), ' ').strip():.80}" for pid in pids]
    return f" ({said[0]})" if said else ""


def restore_leftovers(journal: int) -> None:
    """Put back what a killed run left, with the lock held."""
    knobs = Knobs(journal)
    knobs.take_over()
    knobs.restore()
    for path in (TRACEFS / "instances").glob(INSTANCES + "*"):
        path.rmdir()
    for path in (TRACEFS / "events" / GROUP).glob("*_*"):
        _define(f"-:{GROUP}/{path.name}")


def _left_behind() -> str:
    """What a killed run left, or why that cannot be known now, and what to do about it; empty when nothing is left.

    Who is not root sees the length of the journal, which is enough: it is written before anything is changed, and is
    empty when everything is put back.
    """
    restore = "anonfolio doctor --restore"
    if os.geteuid() != 0:
        try:
            changed = LOCK.stat().st_size > 0
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{LOCK} cannot be looked at ({error.strerror}); root can: sudo anonfolio doctor"
        return f"a run is going on, or was killed and left settings changed: sudo {restore}" if changed else ""
    try:
        with only_run(patience=0) as journal:
            traces = chain((TRACEFS / "instances").glob(INSTANCES + "*"), (TRACEFS / "events" / GROUP).glob("*_*"))
            left = [*read_journal(journal), *map(str, traces)]
    except LiveError as error:
        return str(error)
    return f"{', '.join(left)}: {restore}" if left else ""


# --- the processes --------------------------------------------------------------------------------------------------


class Remote:
    """A process of a run, seen from outside: its socket, its page table."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid, self.sock = pid, sock
        self.pidfd = os.pidfd_open(pid)
        self.pagemap = os.open(PROC / f"{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def call(self, *request: Any) -> dict[str, Any]:
        """Have it do something; ``"child"`` in the answer is a `Remote`."""
        try:
            self.sock.send(json.dumps(request).encode())
            data, descriptors, _, _ = socket.recv_fds(self.sock, MESSAGE_BYTES, 1)
        except (BrokenPipeError, ConnectionResetError):
            data = b""
        if not data:
            raise LiveError(f"process {self.pid} of the live run was killed from outside; run it again")
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise LiveError(f"{request[0]} failed in the live run: {answer['error']}")
        if descriptors:
            answer["child"] = Remote(answer["pid"], socket.socket(fileno=descriptors[0]))
            if not answer["child"].sock.recv(MESSAGE_BYTES):
                raise LiveError("a forked process was killed before it began; run it again")
        return answer

    def gone(self, timeout: float = 20) -> bool:
        """Wait until it has let go of its memory."""
        return bool(select.select([self.pidfd], [], [], timeout)[0])

    def close(self) -> None:
        """Let go of it: it exits when nobody holds the other end of its socket."""
        self.sock.close()
        if not self.gone():
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.gone()
        os.close(self.pidfd)
        os.close(self.pagemap)


# --- the kernel -----------------------------------------------------------------------------------------------------


class LiveKernel:
    """This machine's kernel as a witness; a context manager (see the module).

    Parameters
    ----------
    patience : float
        Seconds to wait for another live run to end.

    Attributes
    ----------
    version : str
        Its version, as recordings name it.
    arch : str
        Its architecture, as policies name it.
    nursery : Remote
        The process whose children run the scenarios.
    knobs : Knobs
        What was changed.
    sizes : tuple of int
        Orders that can be enabled.
    traces : bool
        Whether it says where faults happen; else they are only counted.
    hidden : Kernel or None
        Reads its own state, where that can be read; else `not_hidden` says why not.
    converts : list of int or None
        On arm64 the addresses of the `contpte_convert` calls that came with the faults; whoever takes them clears it.
    """

    nursery: Remote
    knobs: Knobs
    sizes: tuple[int, ...]
    traces: bool
    hidden: HiddenKernel | None
    not_hidden: str = ""
    converts: list[int] | None

    def __init__(self, patience: float = PATIENCE) -> None:
        self.version = kernel_version()
        self.arch = ARCHITECTURES.get(platform.machine(), platform.machine())
        self._patience = patience
        self.converts = None
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        check_machine()
        # The last resort for an exception that arrives before the body of the with begins.
        atexit.register(self.close)
        try:
            self._prepare()
        except OSError as error:
            self.close()
            raise LiveError(f"no live run here, {error.filename or 'the kernel'} says: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Put everything back. May be called twice."""
        atexit.unregister(self.close)
        stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        try:
            self._undo.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _prepare(self) -> None:
        """Each thing is noted for undoing before it is done: a signal may come in between."""
        self._raise_on_signals()
        journal = self._undo.enter_context(only_run(self._patience))
        restore_leftovers(journal)
        self.knobs = Knobs(journal)
        self._undo.callback(self.knobs.restore)
        self._undo.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        # Another CPU's batch of the LRU would hold references that no fault can drain.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        self._set_knobs()
        self._fault_event = FAULT_EVENTS[platform.machine()]
        self.traces = not _no_fault_trace()
        if self.traces:
            self._open_trace()
        self.tells_present = self._fault_event.present
        self._kpageflags = self._open(PROC / "kpageflags", os.O_RDONLY)
        self._kpagecount = self._open(PROC / "kpagecount", os.O_RDONLY)
        self.hidden = self._open_hidden()
        self._start_nursery()
        self.nursery.call("watch", self._counter_files())

    def _raise_on_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, _: FrameType | None) -> None:
            sys.exit(128 + number)

        for number in (signal.SIGTERM, signal.SIGHUP):
            self._undo.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, stop)

    def _set_knobs(self) -> None:
        """Nothing but the faults themselves may change what pages map."""
        sysctl, khugepaged = PROC / "sys", THP / "khugepaged"
        # khugepaged raises it when a size of 2 MiB is enabled.
        self.knobs.remember(sysctl / "vm/min_free_kbytes")
        wanted: list[tuple[Path, int | str]] = [
            (sysctl / "vm/compaction_proactiveness", 0),
            (sysctl / "kernel/numa_balancing", 0),
            (khugepaged / "scan_sleep_millisecs", 2**32 - 1),
            (khugepaged / "alloc_sleep_millisecs", 2**32 - 1),
            (khugepaged / "pages_to_scan", 1),
            (khugepaged / "max_ptes_none", 0),
            (khugepaged / "max_ptes_shared", 0),
            (khugepaged / "defrag", 0),
            (THP / "use_zero_page", 1),
            (THP / "shrink_underused", 0),
            (THP / "defrag", "madvise"),
            (THP / "enabled", "madvise"),
            (DAMON_STAT, "N"),
        ]
        for path, value in wanted:
            if path.exists():
                self.knobs.set(path, value)
        self._knob_of = size_knobs()
        self.sizes = sizes_there()
        self._enabled: tuple[dict[int, str], str] | None = None

    def _open(self, path: Path, flags: int) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC)
        self._undo.callback(os.close, fd)
        return fd

    def _open_trace(self) -> None:
        """A tracefs instance of our own, with the user faults in the window."""
        known = self._fault_event
        events = {self._probe("fault", known.defines) if known.defines else known.needs: known.condition}
        if self.arch == "arm64":
            # Some compilers leave no such function.
            with suppress(OSError):
                events[self._probe("convert", CONVERT)] = CONVERT_CONDITION
                self.converts = []
        self._instance = self.instance()
        window = {"low": WINDOW_START, "high": WINDOW_START + WINDOW_PAGES * PAGE}
        for event, condition in events.items():
            path = self._instance / event
            (path / "filter").write_text(condition.format(**window))
            (path / "enable").write_text("1")
        self._trace = self._open(self._instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)

    def _probe(self, name: str, what: str) -> str:
        """A kprobe as an event of our own, until everything is put back; returns where it is in tracefs."""
        full = f"{GROUP}/{name}_{os.getpid()}"
        self._undo.callback(_undefine, full)
        _define(f"p:{full} {what}")
        return f"events/{full}"

    def _open_hidden(self) -> HiddenKernel | None:
        try:
            hidden = HiddenKernel()
        except NotHidden as reason:
            self.not_hidden = str(reason)
            return None
        self._undo.callback(hidden.close)
        return hidden

    def _start_nursery(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", live_worker.__file__, str(theirs.fileno())]
        nowhere = subprocess.DEVNULL
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
        self.nursery = Remote(process.pid, mine)
        self._undo.callback(_end_nursery, process, self.nursery)
        theirs.close()

    def _counter_files(self) -> dict[str, str]:
        """Machine-wide counters, by name; what a size has is ``"name/order"``. 6.10 brought the sizes' own."""
        files = {
            f"{name}/{order}": path / "stats" / name for order, path in self._knob_of.items() for name in SIZE_COUNTERS
        }
        files |= dict.fromkeys(live_worker.VMSTAT, PROC / "vmstat")
        return {name: str(path) for name, path in files.items() if path.exists()}

    # --- what runs need -----------------------------------------------------------------------------------------

    def enable(self, sizes: dict[int, str], thp: str = "madvise") -> None:
        """Have each size's knob say this, those of all others never, and the global one what `thp` says.

        Before 6.8 there is the global one alone, which then says what 2 MiB should.
        """
        missing = {order for order, said in sizes.items() if said != "never"} - set(self.sizes)
        if missing:
            there = ", ".join(map(str, self.sizes))
            raise NotLive(f"kernel {self.version} has no size of order {min(missing)}; it has {there}")
        wanted = dict(sizes), thp
        if self._enabled == wanted:
            return
        self._enabled = None
        changed = [self.knobs.set(path / "enabled", sizes.get(order, "never")) for order, path in self._knob_of.items()]
        huge = sizes.get(PMD_ORDER, "never")
        huge = thp if huge == "inherit" else huge
        changed.append(self.knobs.set(THP / "enabled", thp if self._knob_of else huge))
        if any(changed) or not self._knob_of:
            if huge != "never":
                self.nursery.call("keep_khugepaged")
            # khugepaged may have been woken; it finds nothing to do, but should be asleep again.
            time.sleep(0.01 if self._knob_of else 0.1)
        self._enabled = wanted

    def fallbacks(self) -> int:
        """How often a large folio could not be had, machine-wide: no model knows which block was free."""
        counts = [path / "stats/anon_fault_fallback" for path in self._knob_of.values()]
        count = sum(int(path.read_text()) for path in counts if path.exists())
        found = re.search(r"^thp_fault_fallback (\d+)$", (PROC / "vmstat").read_text(), re.M)
        return count + (int(found[1]) if found else 0)

    def instance(self, name: str = "") -> Path:
        """A tracefs instance of our own, with no event enabled; it goes when everything is put back."""
        path = TRACEFS / "instances" / f"{INSTANCES}{os.getpid()}{name}"
        self._undo.callback(_remove_instance, path)
        path.mkdir()
        return path

    def trace_lines(self) -> list[str]:
        """What was traced since the last call."""
        pieces = []
        with suppress(BlockingIOError):
            while piece := os.read(self._trace, 1 << 16):
                pieces.append(piece)
        lines = b"".join(pieces).decode(errors="replace").splitlines()
        if any("LOST" in line for line in lines):
            raise Disturbed("events of the trace were lost")
        return lines

    def faults(self) -> list[tuple[int, int, int]]:
        """User faults in the window since the last call: process id, address, x86 error code; empty when not traced.

        Where the kernel does not say whether something was there (`FaultEvent.present`), the code lacks that bit.
        """
        if not self.traces:
            return []
        known = self._fault_event
        form = re.compile(r"-(\d+)\s+\[\d+\].*" + known.line)
        found: list[tuple[int, int, int]] = []
        again = None
        for line in self.trace_lines():
            match = form.search(line)
            if match:
                pid, address, flags = int(match[1]), int(match[2], 16), int(match[3], 16)
                if (pid, address, flags) == again:
                    found.pop()
                again = (pid, address, flags & ~VMA_LOCK) if not known.present and flags & VMA_LOCK else None
                code = sum(bit for flag, bit in known.bits.items() if flags & flag)
                found.append((pid, address, code))
            elif (converted := CONVERTED.search(line)) and self.converts is not None:
                self.converts.append(int(converted[1], 16))
            elif line.strip():
                raise LiveError(f"the trace of page faults cannot be read: {line.strip()!r:.100}")
        return found

    @contextmanager
    def tracing(self, event: str, condition: str) -> Iterator[Callable[[], list[str]]]:
        """Trace another event as well; gives the function that returns its lines when it is over."""
        path = self._instance / "events" / event
        (path / "filter").write_text(condition)
        (path / "enable").write_text("1")
        try:
            yield self.trace_lines
        finally:
            (path / "enable").write_text("0")

    def frame_flags(self, first: int, frames: int) -> memoryview[int]:
        """/proc/kpageflags of frames [first, first + frames), fewer at the end of memory."""
        return memoryview(os.pread(self._kpageflags, 8 * frames, 8 * first)).cast("Q")

    def frame_mapcounts(self, first: int, frames: int) -> memoryview[int]:
        """/proc/kpagecount of frames [first, first + frames), fewer at the end of memory: how often each is mapped."""
        return memoryview(os.pread(self._kpagecount, 8 * frames, 8 * first)).cast("Q")


def _define(text: str) -> None:
    """Make an event, or take one away: the file only takes what is appended."""
    fd = os.open(TRACEFS / "kprobe_events", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _undefine(name: str) -> None:
    if (TRACEFS / "events" / name).is_dir():
        _define(f"-:{name}")


def _remove_instance(path: Path) -> None:
    if path.is_dir():
        (path / "events/enable").write_text("0")
        path.rmdir()


def _end_nursery(process: subprocess.Popen[bytes], nursery: Remote) -> None:
    """It ends when its socket is closed and its descendants have ended; whoever hangs is killed."""
    nursery.sock.close()
    nursery.gone(timeout=5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    nursery.close()
