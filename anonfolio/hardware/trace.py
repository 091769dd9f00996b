"""What a real program did to its memory (``anonfolio-trace/1``), replayed through the model under any set of sizes.

A trace is made under 4K pages alone (`live_trace`), where every page that is touched first takes a fault: so the faults
are the accesses that matter, whatever the sizes. What lies between two system calls is one stream (`Process.touch`).

Treated as the kernel treats it, each checked against the kernel's own maps at the end of the recorded run: mappings
that merge, split and grow, brk, bss, the stack and its growth, reads that map the zero page, faults that the kernel
takes on the program's behalf (copies from and to user space; pages that are faulted in for MAP_POPULATE, mlock,
O_DIRECT, process_vm_writev and whatever else takes pages, where the recorder could see them), exec (whose pages of the
new stack are single: the stack is temporary then), fork, and exit. Memory of files, private copies of it included, is a
hole for the model: its faults are the same under all sizes and are counted as they were.

Left out: shared memory, swap, hugetlb, userfaultfd, execution as an access bit. What a run did of that kind is counted,
by name, in `Trace.left_out`.

What a trace offers, for whoever builds on it:

- accesses: ``vpn``, ``process``, ``code``. One that the kernel took in get_user_pages has no user bit (4) in its code,
  like any other that it takes in kernel mode.
- ``calls``: one row per change of a mapping (`CALLS`), fork, exec (``spawn``) and exit.
- ``processes``: a dict for each, in the order in which they began: ``name``; ``elsewhere``, its faults outside
  anonymous memory; ``kernel_faults``, the kernel's own count for it (minflt + majflt; not in older files); and, of
  those seen to exit, ``anonymous_pages``, ``mappings`` ([first page, pages]), ``peak_rss_kib`` (VmHWM) and
  ``file_copies``, pages that are private copies of a file's. exec begins a new process: ``became`` is which one.
- ``kernel_faults``, all of the kernel's counts together; ``untraced``, those of them that are neither accesses, such
  as came when the recording was full included, nor elsewhere: 0, or the recorder missed some.
- ``left_out`` by name; ``status``, how the program ended (its exit code, or minus a signal's number).
- `anonfolio.hardware.trust.trust` puts these together: how far a prediction from this trace holds.

What a replay offers: counts for all processes and for each (`Replay.processes`: `Part`), what each had at its exit
(`Replay.ends`), and, where asked for, moments in between (`Replay.curve`).
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..kernel import given
from ..kernel.asked import RuleError
from ..kernel.faults import READ, WRITE, needed_bits
from ..kernel.mlock import apply_vma_lock_flags
from ..kernel.mmap import do_mremap
from ..kernel.pagetable import PTE_GUARD, PTE_PRESENT, PTE_SPECIAL
from ..kernel.policy import Policy, check_orders, policy_for_kernel
from ..kernel.record import PF_USER, PF_WRITE, Counters, Tally
from ..kernel.refused import Refused
from ..kernel.sizes import MAX_VPN, PMD_ORDER, PTRS_PER_PMD
from ..kernel.vma import VM_LOCKED, VM_LOCKONFAULT, VM_READ, VM_WRITE, Vma
from ..machine.machine import Machine, Outcome, Process, SegmentationFault
from ..program.formats import DATA, MOST_BYTES, new_file, of_format, plain_file, read_json
from ..stream.run import NotYetMapped, runs_ahead
from ..stream.window import Later

FORMAT = "anonfolio-trace/1"
MEASURED_FORMAT = "anonfolio-trace-measured/1"
DATA_DIR = DATA / "traces"
POINTS = 64
"""Points of a curve over time."""

CALLS = (
    "spawn", "populate", "map", "unmap", "protect", "move", "advise", "fork", "exit",
    "grow", "move_keep", "lock", "thp_disable", "grow_down",
)  # fmt: skip
"""What a call in a trace can be; a row of `Trace.calls` holds the index in here. The second row is of November 2026."""
ADVICE = (
    "dontneed", "wipeonfork", "keeponfork", "dontfork", "dofork", "hugepage", "nohugepage",
    "free", "guard_install", "guard_remove", "collapse",
)  # fmt: skip
"""What the argument of advise counts."""
NO_ACCESS, READ_ONLY, READ_WRITE, NO_HUGE, ALONE, NO_RESERVE = 0, 1, 3, 4, 8, 16
"""The argument of map and protect: the access (older files have READ_ONLY for none). Added for map: NO_HUGE for
MAP_STACK (VM_NOHUGEPAGE in 6.12, not yet in 6.1), ALONE for the first brk, which joins no neighbour: `do_brk_flags` is
given no mapping below start_brk (6.12), NO_RESERVE for MAP_NORESERVE."""
TAKE, TAKE_FOR_READING, TAKE_FOR_WRITING, TAKE_WHERE_LOCKED = 0x100, 0x200, 0x400, 0x800
TAKES = TAKE | TAKE_FOR_READING | TAKE_FOR_WRITING | TAKE_WHERE_LOCKED
"""What a recorder knows of pages that the kernel faulted in unseen (`settled`): as the mapping allows, as by reads or
by writes, or only where it is locked."""
LOCKS = (0, VM_LOCKED, VM_LOCKED | VM_LOCKONFAULT)
"""The argument of lock: munlock, mlock, mlock2 with MLOCK_ONFAULT. The pages that it faults in are accesses."""
THP_DISABLE = (False, True, "except_advised")
"""The argument of thp_disable: prctl(PR_SET_THP_DISABLE)."""
LATE_ACCESSES, LATE_CALLS = "accesses after the recording was full", "calls after the recording was full"
"""How what comes after a recorder's bound is called in `Trace.left_out`."""
STARTS = ("spawn", "fork")
RELEASING = ("unmap", "move", "advise", "exit", "end")
"""Calls before which memory in use may be at its peak; ``end`` stands for the end of the trace."""
LEAST_FRAMES = 1 << 17
MOST_PROCESSES = 1 << 16
"""A trace has one byte for whose an access is, or two where there are more than 256."""
MOST_CALLS, MOST_BLOCKS, MOST_POPULATED = 500_000, 1 << 15, 1 << 16
"""Calls of a trace, 2 MiB blocks of its pages (64 GiB), pages that exec populates at once: far more than the recorder
makes, and little enough that no small file makes much work."""


class TraceError(ValueError):
    """A file that is no trace, or a broken one; the message names the file and what is wrong with it."""


class Call(NamedTuple):
    """One system call, or what else changes mappings, in page numbers of the trace.

    `at` counts the accesses before it; `name` is one of `CALLS`; `argument` depends on it: access (map, protect), the
    new page (move, move_keep), index in `ADVICE` (advise), `LOCKS` (lock) or `THP_DISABLE`, the child (fork).
    ``grow`` adds `pages` from `vpn` on to the mapping that ends there (mremap in place); ``move_keep`` moves the pages
    and leaves the mapping (MREMAP_DONTUNMAP). ``grow_down`` adds `pages` from `vpn` on to the stack above them.
    """

    at: int
    name: str
    process: int
    vpn: int = 0
    pages: int = 0
    argument: int = 0


@dataclass(frozen=True)
class Trace:
    """One recorded run of a program and its children.

    Attributes
    ----------
    kernel : str
        The kernel's version.
    about : dict
        Provenance: what ran, which compiler, which source, when.
    vpn : ndarray of shape (accesses,), int64
        The page of each access. Pages keep their place in 2 MiB; areas far apart were moved together.
    process : ndarray of shape (accesses,), uint8 or uint16
        Whose it is.
    code : ndarray of shape (accesses,), uint8
        x86 error code of its fault: 1 present, 2 write, 4 user.
    calls : tuple of Call
        In order.
    blocks : ndarray of shape (n,), int64
        Per 2 MiB of the trace's pages the number of the 2 MiB it was (address >> 21), -1 for gaps.
    processes : tuple of dict
        Per process (see the module): ``name``, ``elsewhere``, ``kernel_faults``, ``anonymous_pages``, ``mappings``,
        ``peak_rss_kib``.
    kernel_faults : int
        The kernel's own count for all processes (minflt + majflt), from the first exec on.
    left_out : dict of str to int
        What was met and is not part of the trace.
    status : int
        The program's exit code; minus a signal's number when that ended it.
    clock : tuple of (int, int)
        How many accesses there were at which millisecond of the recorded run; the last one is its end. Empty in older
        files.
    """

    kernel: str
    about: dict[str, Any]
    vpn: npt.NDArray[np.int64]
    process: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    code: npt.NDArray[np.uint8]
    calls: tuple[Call, ...]
    blocks: npt.NDArray[np.int64]
    processes: tuple[dict[str, Any], ...]
    kernel_faults: int
    left_out: dict[str, int] = field(default_factory=dict)
    status: int = 0
    clock: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.vpn)

    @property
    def ending(self) -> str:
        """How the program ended, in words."""
        return f"exit code {self.status}" if self.status >= 0 else f"signal {-self.status}"

    @property
    def elsewhere(self) -> int:
        """Faults of the kernel's count that are not accesses of the trace: files, exec, what GUP faulted in."""
        return self.kernel_faults - len(self)

    @property
    def untraced(self) -> int:
        """Faults of the kernel's count that no event told of: neither accesses, which may have come after the
        recorder's bound, nor elsewhere in any process."""
        told = sum(int(process.get("elsewhere", 0)) for process in self.processes)
        return self.elsewhere - told - self.left_out.get(LATE_ACCESSES, 0)

    @cached_property
    def single(self) -> Replay:
        """Its replay under single pages by the model of the recorded kernel, with a curve: made when first asked for.

        TraceError when the trace contradicts itself.
        """
        return replay(self, points=POINTS)

    def part(self, at: int) -> float:
        """Which part of the recorded run's time was over after so many accesses; of all accesses, where no clock is."""
        places, times = zip((0, 0), *(self.clock or ((max(len(self), 1), max(len(self), 1)),)), strict=True)
        return float(np.interp(at, places, times) / max(times[-1], 1))

    def address(self, vpn: int) -> int:
        """The address that a page of the trace had."""
        block = int(self.blocks[vpn >> 9])
        if block < 0:
            raise ValueError(f"page {vpn} is in a gap between the areas of the trace")
        return block << 21 | (vpn & 511) << 12


@dataclass(frozen=True)
class End:
    """What a process had when it exited, by the model: mappings as (first page, pages), and pages mapped."""

    mappings: tuple[tuple[int, int], ...]
    anonymous_pages: int


@dataclass(frozen=True)
class Part:
    """One process's part of a replay.

    Attributes
    ----------
    name : str
        The program.
    counters : Counters
        What its faults and its forks did: faults by path, pages zeroed and copied, entries scanned and flushed.
    elsewhere : int
        Its faults outside anonymous memory, as recorded.
    rss_peak_pages : int
        The most anonymous pages that it mapped at one time.
    held_pages : int
        Frames of the folios that it mapped any page of, when it exited; one that others map too counts in full.
    """

    name: str
    counters: Counters
    elsewhere: int
    rss_peak_pages: int
    held_pages: int

    @property
    def anonymous(self) -> int:
        """Its faults in anonymous memory."""
        return sum(self.counters.faults.values())


class Moment(NamedTuple):
    """How things stood after `at` accesses: frames held by all, and per live process its faults so far and its RSS."""

    at: int
    held_pages: int
    faults: dict[int, int]
    rss_pages: dict[int, int]


@dataclass(frozen=True)
class Replay:
    """What the model says of a trace under a set of sizes.

    Attributes
    ----------
    counters : Counters
        What was done, by all processes together.
    elsewhere : int
        All other faults, as recorded.
    held_peak_pages, rss_peak_pages : int
        The most frames held, and the most pages mapped, at one time by all processes together (anonymous memory).
        Frames of a folio that is partly unmapped stay held.
    touched_pages : int
        Of the frames held at that peak, how many the program had written.
    stepped : int
        Accesses that `Process.touch` took one at a time.
    ends : dict of int to End
        Per process what it had when it exited.
    processes : tuple of Part
        Per process, numbered as in the trace, what it did.
    curve : tuple of Moment
        What was asked for with `points`.
    """

    orders: tuple[int, ...]
    policy: str
    counters: Counters
    elsewhere: int
    held_peak_pages: int
    rss_peak_pages: int
    touched_pages: int
    stepped: int
    ends: dict[int, End]
    processes: tuple[Part, ...] = ()
    curve: tuple[Moment, ...] = ()

    @property
    def faults(self) -> dict[str, int]:
        """Anonymous faults by path (`anonfolio.kernel.record.PATHS`)."""
        return dict(self.counters.faults)

    @property
    def allocated(self) -> dict[int, int]:
        """First touches by the order of their folio."""
        return dict(self.counters.anon_fault_alloc)

    @property
    def anonymous(self) -> int:
        """Faults in anonymous memory."""
        return sum(self.faults.values())

    @property
    def total(self) -> int:
        """All faults, as the kernel counts them."""
        return self.anonymous + self.elsewhere

    @property
    def never_written_pages(self) -> int:
        """Frames held at the peak that the program had never written."""
        return self.held_peak_pages - self.touched_pages


# --- replay -----------------------------------------------------------------------------------------------------------


def replay(
    trace: Trace,
    orders: Iterable[int] = (),
    policy: Policy | str | None = None,
    *,
    frames: int | None = None,
    points: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Do what the program did, on a machine of the model with these sizes always on.

    Parameters
    ----------
    orders : iterable of int
        The enabled sizes (2 to 9); none means 4K alone.
    policy : Policy or str, optional
        Which kernel to be; by default the one that models the recorded kernel.
    frames : int, optional
        Memory of the machine, in base pages; by default more than the program can use.
    points : int
        How many moments of its curve to keep, evenly over the accesses.
    progress : callable, optional
        Called with (accesses done, all accesses) after each call of the trace.

    Raises
    ------
    TraceError
        The trace contradicts itself: an access or a call outside of what it has mapped.
    OutOfMemory
        `frames` is too small for the trace.
    """
    kernel = policy if policy is not None else policy_for_kernel(trace.kernel)
    room, orders = enough_frames(trace) if frames is None else frames, tuple(orders)
    machine = Machine(kernel, orders=orders, frames=room)
    try:
        return Replaying(trace, machine, points, ahead=runs_ahead(machine.policy)).run(progress)
    except NotYetMapped:
        return Replaying(trace, Machine(kernel, orders=orders, frames=room), points).run(progress)


def enough_frames(trace: Trace) -> int:
    """Frames for all, twice: each 2 MiB can be in use once a live process, and be copied once more."""
    alive = most = 0
    for call in trace.calls:
        alive += (call.name in STARTS) - (call.name == "exit")
        most = max(most, alive)
    return max(LEAST_FRAMES, 2 * (most + 1) * PTRS_PER_PMD * len(trace.blocks))


class Replaying:
    """One replay as it goes on; who wants to see more of it overrides `_turn` and `_note_peak`.

    With `ahead`, new mappings are made before the accesses that come before them, so that these are one long stream:
    most calls of a program that only grows.
    """

    def __init__(self, trace: Trace, machine: Machine, points: int, ahead: bool = False) -> None:
        self.trace, self.machine, self.ahead = trace, machine, ahead
        self.done = 0
        self.later: list[Later] = []
        changes = np.flatnonzero(trace.process[1:] != trace.process[:-1]) + 1
        self.turns = [*changes.tolist(), len(trace)]
        self.write = (trace.code & PF_WRITE) > 0
        self.processes: dict[int, Process] = {}
        self.live: dict[int, Process] = {}
        self.counters: dict[int, Counters] = {}
        self.rss: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.ends: dict[int, End] = {}
        self.held_peak = self.rss_peak = self.touched = self.stepped = 0
        self.noted = False
        total = len(trace)
        self.moments = [total * number // points for number in range(1, points + 1)] if points > 0 else []
        self.curve: list[Moment] = []

    def run(self, progress: Callable[[int, int], None] | None) -> Replay:
        """The calls in order, and the accesses before each."""
        total = len(self.trace)
        for number, call in enumerate((*self.trace.calls, Call(total, "end", 0))):
            try:
                if self._may_go_ahead(call):
                    self.later.append(Later(call.at, call.vpn, call.vpn + call.pages))
                else:
                    self._until(call.at)
                self._do(call)
            except RuleError:
                raise
            except (ValueError, SegmentationFault, KeyError) as error:
                raise TraceError(f"the trace contradicts itself at call {number} ({call.name}): {error}") from error
            if progress:
                progress(self.done, total)
        for number in self.live:
            self._note_held(number)
        return Replay(
            self.machine.orders, self.machine.policy.name, _together(self.counters.values()), self.trace.elsewhere,
            self.held_peak, self.rss_peak, self.touched, self.stepped, self.ends, self._parts(), tuple(self.curve),
        )  # fmt: skip

    def _parts(self) -> tuple[Part, ...]:
        return tuple(
            Part(
                about.get("name", ""), self.counters.get(number, Counters()), about.get("elsewhere", 0),
                self.rss.get(number, 0), self.held.get(number, 0),
            )
            for number, about in enumerate(self.trace.processes)
        )  # fmt: skip

    def _may_go_ahead(self, call: Call) -> bool:
        """Whether a call can be done before the accesses that are still to come before it.

        A new mapping can, unless the accesses are somebody else's, or it lies between two others: whether these become
        one then depends on what was touched in each (`can_vma_merge_right`, mm/vma.c, 6.18).
        """
        if not self.ahead or call.name != "map" or call.at == self.done or call.argument & (NO_HUGE | ALONE):
            return False
        process = self.live.get(call.process)
        if process is None or self.trace.process[self.done] != call.process:
            return False
        if call.at > self.turns[bisect_right(self.turns, self.done)]:
            return False
        find = process.mm.find_vma
        return find(call.vpn - 1) is None or find(call.vpn + call.pages) is None

    def _until(self, end: int) -> None:
        """The accesses, with a stop at each moment that is to be kept."""
        while self.moments and self.moments[0] <= end:
            at = self.moments.pop(0)
            self._touch(self.done, at)
            self.done = at
            self.curve.append(self._moment(at))
        self._touch(self.done, end)
        self.done, self.later = end, []

    def _moment(self, at: int) -> Moment:
        faults = {number: sum(self.counters[number].faults.values()) for number in self.live}
        rss = {number: process.rss_pages for number, process in self.live.items()}
        return Moment(at, self.machine.memory.held_pages(), faults, rss)

    def _touch(self, start: int, end: int) -> None:
        """One stream for each turn of a process: nearly always one between two calls."""
        if start == end:
            return
        self.noted = False
        owners = self.trace.process[start:end]
        turns = (np.flatnonzero(owners[1:] != owners[:-1]) + 1 + start).tolist()
        for first, stop in zip([start, *turns], [*turns, end], strict=True):
            self._turn(self._acting(int(self.trace.process[first])), first, stop)

    def _turn(self, process: Process, first: int, stop: int) -> None:
        later = [each._replace(time=each.time - first) for each in self.later if each.time > first]
        touched = process.touch(self.trace.vpn[first:stop], write=self.write[first:stop], later=later)
        self.stepped += touched.stepped

    def _acting(self, number: int) -> Process:
        """The process, and what it does is counted as its own from now on."""
        self.machine.counters = self.counters[number]
        return self.processes[number]

    def _do(self, call: Call) -> None:
        if call.name in RELEASING and not self.noted:
            self._note_peak()
        # A program that frees its heap from the top gives it back a page a call: no peak lies between two of these.
        self.noted = call.name == "unmap"
        if call.name == "end":
            return
        if call.name == "spawn":
            self._began(call.process, self.machine.spawn())
            return
        process = self._acting(call.process)
        if call.name == "populate":
            self._populate(process, call)
        elif call.name == "fork":
            self._began(call.argument, process.fork())
        elif call.name == "exit":
            self.ends[call.process] = End(_mappings(process), process.rss_pages)
            self._note_held(call.process)
            process.exit()
            del self.live[call.process]
        else:
            DOES[call.name](process, call)

    def _began(self, number: int, process: Process) -> None:
        self.processes[number] = self.live[number] = process
        self.counters[number], self.rss[number] = Counters(), 0

    def _populate(self, process: Process, call: Call) -> None:
        """exec writes the arguments to a stack that is still temporary: single pages (`vma_is_temporary_stack`).

        These are no faults of the program, and none of the tracepoint's. RFC v2's fixed orders hold here as well: no
        source says that it made an exception.
        """
        machine = self.machine
        disabled, counters = process.mm.thp_disabled, machine.counters
        process.mm.thp_disabled, machine.counters = "disabled", counters.copy()
        try:
            process.touch(range(call.vpn, call.vpn + call.pages))
        finally:
            process.mm.thp_disabled, machine.counters = disabled, counters

    def _note_held(self, number: int) -> None:
        mm, memory = self.processes[number].mm, self.machine.memory
        mapped = np.flatnonzero((mm.pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
        folios = np.unique(memory.folio_of[mm.pfn[mapped]])
        self.held[number] = int((1 << memory.order[folios].astype(np.int64)).sum())

    def _note_peak(self) -> None:
        """Between two calls that release memory there is only more of it: the end of such a stretch is its peak."""
        together = 0
        for number, process in self.live.items():
            together += process.rss_pages
            self.rss[number] = max(self.rss[number], process.rss_pages)
        self.rss_peak = max(self.rss_peak, together)
        held = self.machine.memory.held_pages()
        if held <= self.held_peak:
            return
        self.held_peak = held
        memory = self.machine.memory
        # A fresh frame holds 0, and every write of the replay leaves 1.
        self.touched = int(np.count_nonzero(memory.content[memory.folio_of[:] >= 0]))


def settled(trace: Trace, takes: npt.NDArray[np.int64]) -> Trace:
    """A trace whose accesses are those that faulted, of one that says of some only where the kernel looked for pages.

    A replay under single pages knows which of those pages were there already, and where a mapping allows no write.
    Accesses that the mappings refuse (SIGSEGV, EFAULT) brought no page, nor did faults in the kernel that find it
    there; they are left out by name. A trace that cannot be replayed comes back as it is, as does one of whose accesses
    each took a fault.

    Parameters
    ----------
    takes : ndarray of shape (accesses,), int64
        0 for an access that took a fault; else one of `TAKE` and its kin.
    """
    if not takes.any():
        with suppress(TraceError):
            if trace.single.anonymous == len(trace):
                return trace
    machine = Machine(policy_for_kernel(trace.kernel), orders=(), frames=enough_frames(trace))
    settling = _Settling(trace, machine, takes)
    try:
        settling.run(None)
    except (TraceError, ValueError):
        return trace
    kept = settling.keep
    before = np.concatenate([[0], np.cumsum(kept)])
    told = {"accesses that were refused": settling.refused, "faults that were given up": settling.unhandled}
    return replace(
        trace, vpn=trace.vpn[kept], process=trace.process[kept], code=settling.code[kept],
        calls=tuple(call._replace(at=int(before[call.at])) for call in trace.calls),
        clock=tuple((int(before[at]), time) for at, time in trace.clock),
        left_out=trace.left_out | {name: times for name, times in told.items() if times},
    )  # fmt: skip


class _Settling(Replaying):
    """A replay that finds out which accesses can have faulted."""

    def __init__(self, trace: Trace, machine: Machine, takes: npt.NDArray[np.int64]) -> None:
        super().__init__(trace, machine, 0)
        self.takes, self.code = takes, trace.code.copy()
        self.keep = np.ones(len(trace), np.bool_)
        self.refused = self.unhandled = 0

    def _turn(self, process: Process, first: int, stop: int) -> None:
        self._drop_unhandled(process, first, stop)
        kinds = self.takes[first:stop]
        turns = (np.flatnonzero(kinds[1:] != kinds[:-1]) + 1 + first).tolist()
        for start, end in zip([first, *turns], [*turns, stop], strict=True):
            if self.takes[start]:
                self._take(process, start, end)
            self._try(process, start, end)

    def _drop_unhandled(self, process: Process, first: int, stop: int) -> None:
        """Where the kernel may not sleep it gives a fault up, and takes another one for the page later.

        Told are both and counted is one (`faulthandler_disabled`): the one that finds the page there is dropped.
        """
        vpn, write = self.trace.vpn[first:stop], self.write[first:stop]
        in_kernel = (self.trace.code[first:stop] & PF_USER == 0) & (self.takes[first:stop] == 0)
        if not in_kernel.any():
            return
        bits = [needed_bits(self.machine.policy, access) for access in (READ, WRITE)]
        wanted = np.where(write, bits[1], bits[0])
        again = np.ones(stop - first, np.bool_)
        again[np.unique(2 * vpn + write, return_index=True)[1]] = False
        dropped = in_kernel & (again | (process.mm.pte.take(vpn, mode="clip") & wanted == wanted))
        self.keep[first:stop] &= ~dropped
        self.unhandled += int(np.count_nonzero(dropped))

    def _take(self, process: Process, first: int, stop: int) -> None:
        """Keep what is not there yet, as the access that it was; the code of a fault in the kernel has no user bit."""
        kind, mm = int(self.takes[first]), process.mm
        for at in range(first, stop):
            vpn = int(self.trace.vpn[at])
            vma = mm.find_vma(vpn)
            flags = vma.flags if vma else 0
            write = kind == TAKE_FOR_WRITING or (kind != TAKE_FOR_READING and bool(flags & VM_WRITE))
            self.write[at], self.code[at] = write, PF_WRITE if write else 0
            wanted = needed_bits(self.machine.policy, WRITE if write else READ)
            locked = kind != TAKE_WHERE_LOCKED or flags & LOCKS[-1] == VM_LOCKED
            allowed = flags & (VM_WRITE if write else VM_READ) and not mm.pte[vpn] & PTE_GUARD
            self.keep[at] = bool(locked and allowed) and mm.pte[vpn] & wanted != wanted

    def _try(self, process: Process, first: int, stop: int) -> None:
        """Do the accesses that are kept, without those that no mapping allows."""
        while True:
            chosen = first + np.flatnonzero(self.keep[first:stop])
            try:
                process.touch(self.trace.vpn[chosen], write=self.write[chosen])
                return
            except SegmentationFault as refusal:
                alike = self.trace.vpn[chosen] == refusal.fault.vpn
                alike &= self.write[chosen] == (refusal.fault.access == WRITE)
                self.keep[chosen[alike]] = False
                self.refused += int(np.count_nonzero(alike))


def _together(parts: Iterable[Counters]) -> Counters:
    total = Counters()
    for part in parts:
        for name in Counters.__slots__:
            mine, more = getattr(total, name), getattr(part, name)
            setattr(total, name, Tally(Counter(mine) + Counter(more)) if isinstance(mine, Tally) else mine + more)
    return total


def _map(process: Process, call: Call) -> None:
    if call.argument & ALONE:
        if process.mm.vmas_in(call.vpn, call.vpn + call.pages):
            raise ValueError(f"pages {call.vpn}..{call.vpn + call.pages - 1} overlap a mapping")
        process.mm.insert_vma(Vma(call.vpn, call.vpn + call.pages, VM_READ | VM_WRITE, pgoff=call.vpn))
        return
    access, reserve = call.argument & READ_WRITE, not call.argument & NO_RESERVE
    mapped = process.map(call.vpn, call.pages, access, replace=False, reserve=reserve)
    if isinstance(mapped, Outcome):
        raise ValueError(f"pages {call.vpn}..{call.vpn + call.pages - 1} overlap a mapping")
    if call.argument & NO_HUGE:
        _must(process.madvise(call.vpn, call.pages, "nohugepage"))


def _grow(process: Process, call: Call) -> None:
    """In place: the last page of the mapping that ends there becomes so many more (`expand_vma`).

    What mremap faults in of a locked one are accesses.
    """
    if call.vpn < 1:
        raise ValueError("nothing ends at page 0 that could grow")
    try:
        do_mremap(process.mm, call.vpn - 1, 1, 1 + call.pages, None, may_move=False)
    except Refused as refusal:
        raise ValueError(f"the model refuses: {refusal.why}") from None


def _grow_down(process: Process, call: Call) -> None:
    """The stack reaches down to the page that was touched (`expand_downwards`): no new mapping, which after a fork
    would not join it."""
    mm, end = process.mm, call.vpn + call.pages
    stack = mm.find_vma(end)
    if stack is None or stack.start != end or mm.vmas_in(call.vpn, end):
        raise ValueError(f"pages {call.vpn}..{end - 1} are not the free ones below a mapping")
    mm.anon_vma_prepare(stack)
    stack.pgoff -= call.pages
    stack.start = call.vpn


def _lock(process: Process, call: Call) -> None:
    try:
        apply_vma_lock_flags(process.mm, call.vpn, call.vpn + call.pages, LOCKS[call.argument])
    except Refused as refusal:
        raise ValueError(f"the model refuses: {refusal.why}") from None


def _protect(process: Process, call: Call) -> None:
    """As `Process.mprotect`; but what that faults in of a locked mapping are accesses."""
    end = call.vpn + call.pages
    locked = [vma for vma in process.mm.vmas_in(call.vpn, end) if vma.flags & VM_LOCKED]
    pieces = [(max(vma.start, call.vpn), min(vma.end, end), vma.flags & LOCKS[-1]) for vma in locked]
    for first, stop, _ in pieces:
        apply_vma_lock_flags(process.mm, first, stop, 0)
    _must(process.mprotect(call.vpn, call.pages, call.argument))
    for first, stop, flags in pieces:
        apply_vma_lock_flags(process.mm, first, stop, flags)


DOES: dict[str, Callable[[Process, Call], object]] = {
    "map": _map,
    "grow": _grow,
    "grow_down": _grow_down,
    "lock": _lock,
    "unmap": lambda process, call: process.munmap(call.vpn, call.pages),
    "protect": _protect,
    "move": lambda process, call: _must(process.mremap(call.vpn, call.pages, call.argument)),
    "move_keep": lambda process, call: _must(process.remap(call.vpn, call.pages, call.pages, call.argument, keep=True)),
    "advise": lambda process, call: _must(process.madvise(call.vpn, call.pages, ADVICE[call.argument])),
    "thp_disable": lambda process, call: _must(process.thp_disable(THP_DISABLE[call.argument])),
}
"""What a call does to a process, but for those that the replay itself must know of."""


def _must(outcome: object) -> None:
    if isinstance(outcome, Outcome) and not outcome:
        raise ValueError(f"the model refuses: {outcome.errno}, {outcome.why}")


def _mappings(process: Process) -> tuple[tuple[int, int], ...]:
    return tuple((vma.start, vma.end - vma.start) for vma in process.mm.vmas)


# --- files ------------------------------------------------------------------------------------------------------------

_HEADER = {"kernel": str, "about": dict, "processes": list, "kernel_faults": int, "left_out": dict}
_PROCESS: dict[str, type] = {
    "name": str, "elsewhere": int, "kernel_faults": int, "anonymous_pages": int, "mappings": list, "peak_rss_kib": int,
    "became": str, "file_copies": int,
}  # fmt: skip
_ARRAYS = ("steps", "process", "code", "calls", "blocks")


def write_trace(path: str | Path, trace: Trace) -> None:
    """Write a trace; its bytes depend on its content alone. TraceError for what `read_trace` would not read."""
    path = Path(path)
    unknown = next((call.name for call in trace.calls if call.name not in CALLS), None)
    if unknown is not None:
        raise TraceError(f"{path}: there is no call {given.said(unknown)}; there are {', '.join(CALLS)}")
    _check(path, trace)
    header = {
        "format": FORMAT, "kernel": trace.kernel, "about": trace.about, "processes": trace.processes,
        "kernel_faults": trace.kernel_faults, "left_out": trace.left_out,
    }  # fmt: skip
    if trace.status:
        header["status"] = trace.status
    if trace.clock:
        header["clock"] = [list(mark) for mark in trace.clock]
    try:
        text = json.dumps(header).encode()
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}: the header is no JSON ({error})") from None
    rows = [[call.at, CALLS.index(call.name), *call[2:]] for call in trace.calls]
    # Neighbours are touched one after the other: differences pack far better than page numbers.
    arrays: dict[str, npt.NDArray[Any]] = {
        "header": np.frombuffer(text, np.uint8),
        "steps": np.diff(trace.vpn, prepend=0).astype(np.int32),
        "process": trace.process,
        "code": trace.code,
        "calls": np.array(rows, np.int64).reshape(-1, len(Call._fields)),
        "blocks": trace.blocks,
    }
    _of_arrays(path, arrays)
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES - (1 << 16):
        raise TraceError(f"{path}: {size:,} bytes are more than a trace has, which is {MOST_BYTES:,} at most")
    try:
        with new_file(path) as file:
            np.savez_compressed(file, **cast(dict[str, Any], arrays))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None


def read_trace(path: str | Path) -> Trace:
    """Read a trace; TraceError says in one line what is wrong with it."""
    path = Path(path)
    try:
        arrays = _read_arrays(path)
    except TraceError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise TraceError(f"{path}: the file is damaged or cut off; fetch it again") from None
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, RuntimeError, LookupError, SyntaxError, OverflowError, struct.error):
        raise TraceError(f"{path}: not a trace ({FORMAT} is a numpy .npz file)") from None
    return _of_arrays(path, arrays)


def _of_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> Trace:
    header = _header(path, arrays)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise TraceError(f"{path}: {', '.join(missing)} missing; the file is no whole trace")
    trace = _trace(path, header, arrays)
    _check(path, trace)
    return trace


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file. What they would take is asked before any is unpacked: it may be a thousand times as
    much as the file."""
    with plain_file(path, TraceError) as file:
        if file.read(2) != b"PK":
            raise ValueError("no archive")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > MOST_BYTES:
                raise TraceError(f"{path}: holds {unpacked:,} bytes; a trace has {MOST_BYTES:,} at most")
            # No member gives more than it promises: zipfile stops there.
            return {member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members}


def _array(raw: bytes) -> npt.NDArray[Any]:
    """The array in an .npy file: a view of what is there, so no room is made for what its head promises alone."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, by_columns, dtype = read_head(file)
    except Exception as error:  # The head is Python source: whatever its tokens and literals raise.
        raise ValueError("no head of an array") from error
    return np.frombuffer(memoryview(raw)[file.tell() :], dtype).reshape(shape, order="F" if by_columns else "C")


def _header(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    try:
        header = json.loads(arrays["header"].tobytes())
    except (KeyError, ValueError, RecursionError):
        raise TraceError(f"{path}: not a trace ({FORMAT} begins with a header)") from None
    header = of_format(header, path, FORMAT, TraceError)
    for key, kind in _HEADER.items():
        if key not in header:
            raise TraceError(f"{path}: the header has no {key!r}")
        if type(header[key]) is not kind:
            raise TraceError(f"{path}: {key} in the header is {given.said(header[key])}, no {kind.__name__}")
    if len(header["processes"]) > MOST_PROCESSES or not all(isinstance(each, dict) for each in header["processes"]):
        raise TraceError(f"{path}: processes in the header are not at most {MOST_PROCESSES} objects")
    if not all(type(times) is int for times in header["left_out"].values()):
        raise TraceError(f"{path}: left_out in the header is {given.said(header['left_out'])}, not numbers by name")
    if type(header.get("status", 0)) is not int:
        raise TraceError(f"{path}: status in the header is {given.said(header['status'])}, no int")
    for number, process in enumerate(header["processes"]):
        _check_process(path, number, process)
    marks = header.get("clock", [])
    if not isinstance(marks, list) or not all(_two_numbers(mark) and min(mark) >= 0 for mark in marks):
        raise TraceError(f"{path}: clock in the header is {given.said(marks)}, not accesses and milliseconds")
    if any(mark[at] > later[at] for mark, later in pairwise(marks) for at in (0, 1)):
        raise TraceError(f"{path}: the clock in the header goes back")
    return header


def _two_numbers(row: object) -> bool:
    return isinstance(row, list) and [type(each) for each in row] == [int, int]


def _check_process(path: Path, number: int, process: dict[str, Any]) -> None:
    """What is said of a process, as far as it is said."""
    for key, kind in _PROCESS.items():
        if type(process.get(key, kind())) is not kind:
            raise TraceError(
                f"{path}: {key} of process {number} in the header is {given.said(process[key])}, no {kind.__name__}"
            )
    for mapping in process.get("mappings", []):
        if not _two_numbers(mapping):
            raise TraceError(
                f"{path}: a mapping of process {number} in the header is {given.said(mapping)}, not two numbers"
            )


def _trace(path: Path, header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Trace:
    rows = arrays["calls"]
    if rows.ndim != 2 or rows.shape[1] != len(Call._fields) or rows.dtype.kind != "i":
        raise TraceError(f"{path}: calls has shape {rows.shape}; a call is {len(Call._fields)} whole numbers")
    if len(rows) > MOST_CALLS:
        raise TraceError(f"{path}: {len(rows):,} calls; a trace has {MOST_CALLS:,} at most")
    if len(rows) and not 0 <= rows[:, 1].min() <= rows[:, 1].max() < len(CALLS):
        raise TraceError(f"{path}: calls beyond {CALLS[-1]!r}; made by a newer version?")
    for name in ("steps", "blocks"):
        if arrays[name].ndim != 1 or arrays[name].dtype.kind != "i":
            raise TraceError(
                f"{path}: {name} has shape {arrays[name].shape}, dtype {arrays[name].dtype}; wanted numbers"
            )
    return Trace(
        vpn=np.cumsum(arrays["steps"], dtype=np.int64),
        process=arrays["process"],
        code=arrays["code"],
        calls=tuple(Call(at, CALLS[name], *rest) for at, name, *rest in rows.tolist()),
        blocks=arrays["blocks"],
        processes=tuple(header["processes"]),
        status=header.get("status", 0),
        clock=tuple((at, time) for at, time in header.get("clock", [])),
        **{key: header[key] for key in ("kernel", "about", "kernel_faults", "left_out")},
    )


def _check(path: Path, trace: Trace) -> None:
    accesses = len(trace.vpn)
    wide = np.uint16 if len(trace.processes) > 256 else np.uint8
    for name, dtype in (("process", wide), ("code", np.uint8)):
        array = getattr(trace, name)
        if array.shape != (accesses,) or array.dtype != dtype:
            wanted = f"{accesses} of {np.dtype(dtype)}"
            raise TraceError(f"{path}: {name} has shape {array.shape}, dtype {array.dtype}; wanted {wanted}")
    if accesses and not 0 <= int(trace.vpn.min()) <= int(trace.vpn.max()) < MAX_VPN:
        raise TraceError(f"{path}: pages outside 0..{MAX_VPN - 1}")
    if any(call.vpn < 0 or call.pages < 0 or call.vpn + call.pages > MAX_VPN for call in trace.calls):
        raise TraceError(f"{path}: a call has pages outside 0..{MAX_VPN - 1}")
    if len(trace.blocks) > MOST_BLOCKS:
        raise TraceError(f"{path}: {len(trace.blocks):,} blocks; a trace has {MOST_BLOCKS:,} at most")
    most = len(trace.blocks) * PTRS_PER_PMD
    if any(call.vpn + call.pages > most for call in trace.calls) or (accesses and int(trace.vpn.max()) >= most):
        raise TraceError(f"{path}: pages outside the {len(trace.blocks)} blocks")
    for call in trace.calls:
        _check_argument(path, call, most)
    places = [call.at for call in trace.calls]
    if places != sorted(places) or (places and not 0 <= places[0] <= places[-1] <= accesses):
        raise TraceError(f"{path}: the calls are not in the order of the accesses")
    started = {call.argument if call.name == "fork" else call.process for call in trace.calls if call.name in STARTS}
    unknown = set(np.unique(trace.process).tolist()) | {call.process for call in trace.calls}
    if unknown - started:
        raise TraceError(f"{path}: process {min(unknown - started)} is never started")


def _check_argument(path: Path, call: Call, most: int) -> None:
    """What a call of its name cannot have."""
    highest = {
        "fork": MOST_PROCESSES, "advise": len(ADVICE), "lock": len(LOCKS), "thp_disable": len(THP_DISABLE),
        "move": most - call.pages + 1, "move_keep": most - call.pages + 1,
    }.get(call.name, 1 << 31)  # fmt: skip
    if not 0 <= call.argument < highest or not 0 <= call.process < MOST_PROCESSES:
        raise TraceError(f"{path}: {call.name} of process {call.process} cannot have {call.argument}")
    if call.name == "populate" and call.pages > MOST_POPULATED:
        raise TraceError(f"{path}: exec populates {call.pages:,} pages; {MOST_POPULATED:,} at most")


# --- what the kernel counted ------------------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What the kernel counted for one process: all its faults, those in anonymous memory, its VmHWM, and the most
    anonymous memory that it mapped (copies of file pages too), to the page; 0 where that was not told.
    """

    faults: int
    anonymous: int
    peak_rss_kib: int
    peak_anonymous_kib: int = 0


class Point(NamedTuple):
    """A process at a part of the run's time, as a kernel told of it: faults in anonymous memory so far, and pages."""

    part: float
    faults: int
    rss_pages: int


ROUNDS = ("faults", "traced", "anonymous", "peak_rss_kib", "fallbacks")


class Setting(NamedTuple):
    """What the kernel did under one set of sizes, one number for each round.

    `faults` is its own count (minflt + majflt of all processes), `traced` that of the tracepoints, `anonymous` those of
    them in anonymous memory; `peak_rss_kib` is the VmHWM of the process with most; `fallbacks` is how often a large
    folio was not to be had. `processes` has, for each round, one `Counted` a process, in the order in which they began,
    `names` how each was called, and `curves` a row of `Point` for each process of the last round; empty in older files.
    """

    orders: tuple[int, ...]
    faults: list[int]
    traced: list[int]
    anonymous: list[int]
    peak_rss_kib: list[int]
    fallbacks: list[int]
    processes: tuple[tuple[Counted, ...], ...] = ()
    curves: tuple[tuple[Point, ...], ...] = ()
    names: tuple[tuple[str, ...], ...] = ()

    @property
    def name(self) -> str:
        """Such as ``16K+64K``."""
        return size_names(self.orders)

    def counted(self, names: Sequence[str]) -> list[Counted | None]:
        """What was counted in the first round for the processes of another run, which are called so.

        Who comes first is up to the scheduler: the second ``sh`` of one run is the second one of the other.
        """
        return _matched(self.processes[0] if self.processes else (), self.names[:1], names)

    def curves_of(self, names: Sequence[str]) -> list[tuple[Point, ...] | None]:
        """The same for the curves of the last round."""
        return _matched(self.curves, self.names[-1:], names)

    def without_file_copies(self, trace: Trace) -> Setting:
        """The same with `curves` less the copies of file pages that a process has at its end, where that is known.

        The kernel counts them as anonymous memory. When each was made is not told: most of them by who loads a program.
        """
        names = [str(process.get("name", "")) for process in trace.processes]
        known = [int(process.get("file_copies", 0)) for process in trace.processes]
        copies = _matched(known, [names], self.names[-1] if self.names else names)
        if len(copies) != len(self.curves):
            return self
        curves = (
            tuple(point._replace(rss_pages=max(point.rss_pages - (less or 0), 0)) for point in curve)
            for curve, less in zip(self.curves, copies, strict=True)
        )
        return self._replace(curves=tuple(curves))

    @property
    def median_faults(self) -> int:
        """The middle one of the kernel's counts."""
        return sorted(self.faults)[len(self.faults) // 2]


Row = TypeVar("Row")


def _matched(rows: Sequence[Row], called: Sequence[Sequence[str]], names: Sequence[str]) -> list[Row | None]:
    """Rows of one run's processes, which are `called` so in it, for those of another one."""
    if not called or len(called[0]) != len(rows):
        return list(rows) if len(rows) == len(names) else [None] * len(names)
    there = dict(zip(_numbered(called[0]), rows, strict=True))
    return [there.get(each) for each in _numbered(names)]


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Each name with how many like it came before."""
    before: Counter[str] = Counter()
    numbered = []
    for name in names:
        numbered.append((name, before[name]))
        before[name] += 1
    return numbered


def joined(rounds: Sequence[Setting]) -> Setting:
    """Rounds of the same sizes as one setting; the curves are those of the last."""
    counts = ([count for each in rounds for count in getattr(each, name)] for name in ROUNDS)
    one, two, three, four, five = counts
    processes = tuple(each for setting in rounds for each in setting.processes)
    names = tuple(each for setting in rounds for each in setting.names)
    return Setting(rounds[-1].orders, one, two, three, four, five, processes, rounds[-1].curves, names)


class Compared(NamedTuple):
    """Prediction and measurement of one setting."""

    measured: Setting
    predicted: Replay

    @property
    def difference(self) -> float:
        """Predicted against measured, as a part of the measured: 0.01 is one per cent too many."""
        return self.predicted.total / self.measured.median_faults - 1

    def __str__(self) -> str:
        spread = max(self.measured.faults) - min(self.measured.faults)
        return (
            f"{self.measured.name:>9} {self.predicted.total:>10,} {self.measured.median_faults:>10,} "
            f"{spread:>7,} {100 * self.difference:>+9.2f} %"
        )


HEADING = f"{'sizes':>9} {'predicted':>10} {'kernel':>10} {'spread':>7} {'difference':>11}"


def read_measured(path: str | Path) -> list[Setting]:
    """Read what was measured together with a trace; TraceError when it is something else."""
    content = read_json(path, MEASURED_FORMAT, TraceError)
    try:
        return [_setting(row) for row in content["settings"]]
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{path}: a setting is not whole: {error!s:.160}") from None


def _setting(row: dict[str, Any]) -> Setting:
    orders = tuple(row["orders"])
    check_orders(orders, "orders")
    for name in ROUNDS:
        counts = row[name]
        if type(counts) is not list or not counts or not all(type(each) is int and each >= 0 for each in counts):
            raise ValueError(f"{name} is {given.said(counts)}, not one count a round")
    if not min(row["faults"]):
        raise ValueError("a round without a fault")
    rounds = tuple(tuple(_counted(each) for each in counts) for counts in row.get("processes", ()))
    curves = tuple(tuple(_point(each) for each in curve) for curve in row.get("curves", ()))
    names = tuple(tuple(each) for each in row.get("names", ()))
    if any(type(name) is not str for each in names for name in each):
        raise ValueError(f"names has {given.said(row['names'])}, not names")
    if names and [*map(len, names)] != [*map(len, rounds)]:
        raise ValueError("names are not as many as processes")
    return Setting(orders, *(row[name] for name in ROUNDS))._replace(processes=rounds, curves=curves, names=names)


def _counted(row: object) -> Counted:
    if not isinstance(row, list) or len(row) not in (3, 4) or any(type(each) is not int for each in row):
        raise ValueError(f"processes has {given.said(row)}, not three numbers or four")
    return Counted(*row)


def _point(row: object) -> Point:
    if not isinstance(row, list) or len(row) != 3 or any(type(each) not in (int, float) for each in row):
        raise ValueError(f"curves has {given.said(row)}, not three numbers")
    return Point(*row)


def write_measured(path: str | Path, settings: Sequence[Setting], **notes: Any) -> None:
    """Write what was measured, one setting a line."""
    head = json.dumps({"format": MEASURED_FORMAT, **notes})[:-1]
    rows = ",\n  ".join(json.dumps(_said(setting)) for setting in settings)
    Path(path).write_text(f'{head},\n "settings": [\n  {rows}\n ]}}\n')


def _said(setting: Setting) -> dict[str, Any]:
    return {name: said for name, said in setting._asdict().items() if said or name in ("orders", *ROUNDS)}


def compared(
    trace: Trace,
    settings: Iterable[Setting],
    policy: Policy | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Compared]:
    """Replay the trace under each measured setting, one by one."""
    for setting in settings:
        yield Compared(setting, replay(trace, setting.orders, policy, points=POINTS, progress=progress))


def size_names(orders: Iterable[int]) -> str:
    """``(2, 4)`` as ``16K+64K``; no order is ``4K``, and all that there are below 2 MiB ``all``."""
    chosen = tuple(sorted(orders))
    if chosen[: len(ALL_SIZES)] == ALL_SIZES:
        return "+".join(["all", *map(_size_name, chosen[len(ALL_SIZES) :])])
    return "+".join(map(_size_name, chosen)) or _size_name(0)


def _size_name(order: int) -> str:
    return f"{4 << order}K" if order < 8 else f"{1 << (order - 8)}M"


def sizes_named(text: str) -> tuple[int, ...]:
    """The inverse of `size_names`, as people write it: ``64K``, ``16k+1m``, ``64kB``, ``1024k``, ``all+2M``, ``4K``."""
    found: set[int] = set()
    for word in text.split("+"):
        found.update(ALL_SIZES if word.strip().lower() == "all" else _sizes_of(word.strip()))
    return tuple(sorted(found))


def settings_named(texts: Iterable[str]) -> list[tuple[int, ...]]:
    """Sets of sizes, each once: ``["64k,16k+64k", "all"]`` are three."""
    named = (sizes_named(name) for text in texts for name in text.split(",") if name.strip())
    return list(dict.fromkeys(named))


def _sizes_of(word: str) -> tuple[int, ...]:
    """One size as orders; 4K, which is always there, is none."""
    match = re.fullmatch(r"([1-9]\d{0,6})([km])(?:i?b)?", word.lower())
    kib = int(match[1]) << (10 if match[2] == "m" else 0) if match else 0
    order = next((order for order in (0, *ALL_SIZES, PMD_ORDER) if 4 << order == kib), None)
    if order is None:
        names = ", ".join(map(_size_name, (*ALL_SIZES, PMD_ORDER)))
        raise ValueError(f"{given.said(word)} is no size; there are 4K alone, {names}, joined by +, and all")
    return (order,) if order else ()


ALL_SIZES = (2, 3, 4, 5, 6, 7, 8)
"""What ``all`` means: every size below 2 MiB."""
