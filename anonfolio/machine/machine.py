"""A machine with one kernel's policy: processes, and everything they can do to their memory.

The one place where arguments are checked. Misuse raises `ValueError` (or `SegmentationFault`, as the hardware
would) before anything changes. What the kernel itself refuses is an `Outcome` that is false and names the errno.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Self

import numpy as np
import numpy.typing as npt

from ..kernel import fork as _fork
from ..kernel import given, gup, mlock, mmap
from ..kernel.buddy import OutOfMemory
from ..kernel.faults import MOST_FAULTS, READ, WRITE, handle_mm_fault, needed_bits
from ..kernel.frames import Memory
from ..kernel.given import check_call, check_kind, flag
from ..kernel.index import blocks_of
from ..kernel.lazyfree import clear_refs
from ..kernel.mm import ARENA, Mm
from ..kernel.pagetable import PTE_DIRTY, PTE_GUARD, PTE_PRESENT, PTE_YOUNG
from ..kernel.pin import Pin
from ..kernel.policy import LINUX_6_15, Policy, check_orders, policy_named
from ..kernel.record import NO_FAULT, PF_PROT, PF_USER, PF_WRITE, SIGSEGV, Counters, Fault, Trail
from ..kernel.rules import KNOBS
from ..kernel.sizes import ANON_ORDERS, MAX_VPN, PMD_ORDER, PTRS_PER_PMD
from ..kernel.split import deferred_split_scan, split_huge_pages_pid
from ..kernel.system import System
from ..kernel.vma import (
    VM_DONTCOPY,
    VM_GROWSDOWN,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_NORESERVE,
    VM_READ,
    VM_UNACCOUNTED,
    VM_WRITE,
    Vma,
)
from ..stream.run import Touched, runs_ahead, touch_stream
from ..stream.window import Later, Pages, Stream
from .page import Page, VmaView, mapping_of, page_of
from .show import Latest, Shown, show
from .snapshot import Snapshot, snapshot

ADVICE = (*mmap.ACTING, *mmap.ADVICE, *mmap.POPULATE)
PROTECTIONS = {0: 0, 1: VM_READ, 3: VM_READ | VM_WRITE}
"""mprotect's argument -> VMA access bits: PROT_NONE, PROT_READ, and PROT_READ | PROT_WRITE."""


class SegmentationFault(Exception):
    """The access hits a hole, or the mapping does not allow it: SIGSEGV. `fault` is its record."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system call returned: true, or false with the errno and the reason."""

    ok: bool = True
    errno: str = ""
    why: str = ""

    def __bool__(self) -> bool:
        return self.ok


class Machine(System):
    """Memory, a policy, and the processes that use both.

    Parameters
    ----------
    policy : Policy or str
        Which kernel; a `Policy`, or the name of one.
    orders : iterable of int
        The ``hugepages-*kB/enabled`` knobs that are on. Policies that know no such knob for an order ignore it.
    thp : {"always", "madvise"}
        What the knobs are set to: ``madvise`` needs MADV_HUGEPAGE on the mapping.
    knobs : mapping of int to str, optional
        In place of `orders`, per order: ``"always"``, ``"madvise"``, ``"inherit"`` (what `thp` says, which may then be
        ``"never"`` too) or ``"never"``; orders that are not named are off.
    use_zero_page : bool
        Whether a read may map the huge zero page.
    frames : int
        Base pages of physical memory.

    Attributes
    ----------
    processes : list of Process
        All there ever were; an exited one has ``alive`` false.
    counters : Counters
        What was done so far.
    faults : list of Fault
        The faults of the latest operation.
    """

    def __init__(
        self,
        policy: Policy | str = LINUX_6_15,
        *,
        orders: Iterable[int] = (2, 3, 4),
        thp: str = "always",
        knobs: Mapping[int, str] | None = None,
        use_zero_page: bool = True,
        frames: int = 1 << 20,
    ) -> None:
        self.policy = policy_named(policy) if isinstance(policy, str) else policy
        if not isinstance(self.policy, Policy):
            raise ValueError(f"policy={given.said(policy)} is neither a Policy nor the name of one")
        enabled = _knobs(orders, thp) if knobs is None else check_knobs(knobs, thp)
        self.orders = tuple(sorted(order for order, said in enabled.items() if said != "never"))
        self.knobs = {order: said for order, said in enabled.items() if order in self.policy.knob_orders}
        self.thp = thp
        self._orders = {}
        self.use_zero_page = flag("use_zero_page", use_zero_page)
        self.memory = Memory(_whole("frames", frames), self.policy.marks_exclusive)
        self.counters = Counters()
        self.processes: list[Process] = []
        self.faults: list[Fault] = []
        self._operations = 0
        self._shown: tuple[int, Snapshot | None, Snapshot | None] = (-1, None, None)

    def spawn(self, arena: range = ARENA) -> Process:
        """A new process with an empty address space. `arena`: the pages for mappings that ask for no place."""
        if type(arena) is not range or arena.step != 1 or not 0 <= arena.start < arena.stop <= MAX_VPN:
            raise ValueError(
                f"arena={given.said(arena)} is no range of pages within 0..{MAX_VPN - 1}, such as range(512)"
            )
        process = Process(self, Mm(len(self.processes) + 1, self.memory, self.policy))
        process.mm.arena = arena
        process.mm.start_brk = process.mm.brk = arena.start
        self.processes.append(process)
        return process

    def process(self, number: int) -> Process:
        """The process of that number; ValueError when there is none."""
        if not 0 <= _whole("process", number) < len(self.processes):
            raise ValueError(f"there is no process {number!s:.60}; there are {len(self.processes)}, numbered from 0")
        return self.processes[number]

    def live(self) -> list[Process]:
        """The processes that have not exited."""
        return [process for process in self.processes if process.alive]

    def copy(self) -> Self:
        """An independent machine in the same state."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.memory = self.memory.copy()
        twin.counters = self.counters.copy()
        twin.faults = []
        twin.processes = [process.copy(twin) for process in self.processes]
        return twin

    def snapshot(self) -> Snapshot:
        """What everything holds now, detached from the machine."""
        return snapshot(self, self.processes)

    def show(self) -> Shown:
        """The picture of this state, and what the latest operation did: text in a terminal, SVG in a notebook.

        A fault's own record says why, and which pages it changed. When the machine was shown right before that
        operation, too, everything that changed is marked; to remember more would cost every operation a snapshot.
        """
        now = self.snapshot()
        operation, before, state = self._shown
        if operation != self._operations:
            before = state if operation == self._operations - 1 else None
        self._shown = self._operations, before, now
        return show(Latest(now, before, tuple(self.faults)))


class Process:
    """One process and the system calls it can make. Pages are virtual page numbers, contents one byte a page.

    Made by `Machine.spawn` and `Process.fork`.
    """

    def __init__(self, machine: Machine, mm: Mm) -> None:
        self.machine = machine
        self.mm = mm
        self.alive = True
        self._held: dict[tuple[str, int], Pin] = {}

    def __repr__(self) -> str:
        return f"<process {self.number}{'' if self.alive else ' (exited)'}: {self.mm.rss_pages} pages>"

    @property
    def number(self) -> int:
        """0 for the first process of the machine."""
        return self.mm.id - 1

    @property
    def rss_pages(self) -> int:
        """Anonymous pages mapped, each counted once per mapping; the zero page not at all."""
        return self.mm.rss_pages

    # --- mappings -----------------------------------------------------------------------------------------------

    def mmap(self, pages: int, at: int | None = None, advice: str | None = None) -> range:
        """Map anonymous private memory; returns its page numbers.

        Without `at` the first mapping starts at page 0 and each further one at the next 2 MiB boundary. `advice`
        (``"hugepage"`` or ``"nohugepage"``) is given to it at once, by a call of its own: mmap has merged by then.
        """
        self._begin()
        if at is None:
            last = self.mm.vmas[-1].end if self.mm.vmas else 0
            at = -(-last // PTRS_PER_PMD) * PTRS_PER_PMD
        at, pages = self._checked_range(at, pages)
        if self.mm.vmas_in(at, at + pages):
            raise ValueError(f"pages {at}..{at + pages - 1} overlap a mapping; mmap takes free addresses, map does not")
        if advice is not None and (not isinstance(advice, str) or advice not in ("hugepage", "nohugepage")):
            raise ValueError(f"advice={given.said(advice)}: a new mapping takes 'hugepage', 'nohugepage' or None")
        mmap.do_mmap(self.mm, at, pages, VM_READ | VM_WRITE, replace=False)
        if advice:
            mmap.do_madvise(self.mm, at, at + pages, advice)
        return range(at, at + pages)

    def map(
        self,
        vpn: int | None,
        pages: int,
        prot: int = 3,
        *,
        replace: bool = True,
        reserve: bool = True,
        populate: bool = False,
        grows_down: bool = False,
    ) -> int | Outcome:
        """As mmap(2) maps: returns the first page, or an `Outcome` that says why not.

        Parameters
        ----------
        vpn : int or None
            The place, where what is there goes (MAP_FIXED); None is the kernel's choice, from the end of the arena
            downwards (see `Machine.spawn`); refused with ENOMEM when no gap is large enough.
        prot : {0, 1, 3}
            As for `mprotect`.
        replace : bool
            False refuses with EEXIST where something is mapped (MAP_FIXED_NOREPLACE).
        reserve : bool
            False charges nothing for it, then and later (MAP_NORESERVE).
        populate : bool
            Whether it is faulted in at once (MAP_POPULATE): as by writes, or by reads where it is read-only.
        grows_down : bool
            A stack (MAP_GROWSDOWN): an access below it takes it there, if nothing is near; a pin or `touch` does not.
        """
        self._begin()
        at, pages = self._checked_range(0 if vpn is None else vpn, pages)
        _check_prot(prot)
        flags = PROTECTIONS[prot] | (0 if flag("reserve", reserve) else VM_NORESERVE)
        flags |= VM_GROWSDOWN if flag("grows_down", grows_down) else 0
        replace, populate = flag("replace", replace), flag("populate", populate)
        try:
            at = mmap.do_mmap(self.mm, None if vpn is None else at, pages, flags, replace=replace)
        except mmap.Refused as refusal:
            return Outcome(False, refusal.errno, refusal.why)
        if populate:
            gup.mm_populate(self.machine, self.mm, at, at + pages, self.machine.faults)
        return at

    def brk(self, vpn: int) -> Outcome:
        """Move the end of the heap to page `vpn`, the first after it (brk); it begins with the arena, empty."""
        self._begin()
        vpn, _ = self._checked_range(vpn, 1)
        return _outcome(mmap.do_brk, self.mm, vpn)

    def thp_disable(self, how: bool | str = True) -> Outcome:
        """prctl(PR_SET_THP_DISABLE): no large folios for this process from now on, and for children it forks.

        ``"except_advised"`` spares mappings with MADV_HUGEPAGE (PR_THP_DISABLE_EXCEPT_ADVISED, 6.18; EINVAL before);
        False allows all again. RFC v2's fixed orders ask nobody.
        """
        self._begin()
        if type(how) is not bool and (not isinstance(how, str) or how != "except_advised"):
            raise ValueError(f"how={given.said(how)} is neither True, False nor 'except_advised'")
        if isinstance(how, str) and not self.machine.policy.thp_disable_except_advised:
            return Outcome(False, "EINVAL", "EINVAL: this kernel has no PR_THP_DISABLE_EXCEPT_ADVISED")
        self.mm.thp_disabled = how if isinstance(how, str) else "disabled" if how else ""
        return Outcome()

    def munmap(self, vpn: int, pages: int = 1) -> Outcome:
        """Unmap a range; holes in it are no error."""
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        mmap.do_munmap(self.mm, vpn, vpn + pages)
        return Outcome()

    def mremap(self, vpn: int, pages: int, new_vpn: int) -> Outcome:
        """Move a range to a fixed place, unmapping what was there (MREMAP_FIXED)."""
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        new_vpn, _ = self._checked_range(new_vpn, pages)
        return _outcome(mmap.do_mremap, self.mm, vpn, pages, pages, new_vpn)

    def remap(
        self,
        vpn: int,
        pages: int,
        new_pages: int,
        new_vpn: int | None = None,
        *,
        may_move: bool = True,
        keep: bool = False,
    ) -> int | Outcome:
        """As mremap(2) moves, grows and shrinks: returns the first page, or an `Outcome` that says why not.

        Parameters
        ----------
        vpn, pages, new_pages : int
            The range, and its size from now on. Sizes of 0 are refused (EINVAL).
        new_vpn : int or None
            Its place, where what is there goes (MREMAP_FIXED); None leaves it where it is, or lets the kernel choose.
        may_move : bool
            MREMAP_MAYMOVE: whether it may go elsewhere.
        keep : bool
            MREMAP_DONTUNMAP: the pages go, the old mapping stays, empty.
        """
        self._begin()
        vpn, pages, new_pages = _whole("page", vpn), _whole("pages", pages), _whole("pages", new_pages)
        new_vpn = None if new_vpn is None else _whole("page", new_vpn)
        for at, size in ((vpn, pages), (vpn, new_pages), (vpn if new_vpn is None else new_vpn, new_pages)):
            self._checked_range(at, size or 1)
        may_move, keep = flag("may_move", may_move), flag("keep", keep)
        try:
            at = mmap.do_mremap(self.mm, vpn, pages, new_pages, new_vpn, may_move=may_move, keep=keep)
        except mmap.Refused as refusal:
            return Outcome(False, refusal.errno, refusal.why)
        mlock.mremap_populate(self.machine, self.mm, at + pages, at + new_pages, self.machine.faults)
        return at

    def mprotect(self, vpn: int, pages: int, prot: int) -> Outcome:
        """Allow nothing (``prot=0``), reading only (``prot=1``) or reading and writing (``prot=3``)."""
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        _check_prot(prot)
        return _outcome(
            mmap.do_mprotect, self.machine, self.mm, vpn, vpn + pages, PROTECTIONS[prot], self.machine.faults
        )

    def madvise(self, vpn: int, pages: int, advice: str) -> Outcome:
        """Advise a range: one of `ADVICE`."""
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        if not isinstance(advice, str) or advice not in ADVICE:
            raise ValueError(f"there is no advice {given.said(advice)}; there are {', '.join(ADVICE)}")
        if advice in mmap.POPULATE:
            machine = self.machine
            return _outcome(mmap.madvise_populate, machine, self.mm, vpn, vpn + pages, advice, machine.faults)
        return _outcome(mmap.do_madvise, self.mm, vpn, vpn + pages, advice)

    def mlock(self, vpn: int, pages: int = 1, *, onfault: bool = False) -> Outcome:
        """Lock a range, and fault in what it lacks; `onfault` locks pages as they come (mlock2, MLOCK_ONFAULT).

        As a process without a limit (RLIMIT_MEMLOCK). ENOMEM at the first hole, and where a page cannot be had.
        """
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        flags = VM_LOCKED | (VM_LOCKONFAULT if flag("onfault", onfault) else 0)
        machine = self.machine
        return _outcome(mlock.do_mlock, machine, self.mm, vpn, vpn + pages, flags, machine.faults)

    def munlock(self, vpn: int, pages: int = 1) -> Outcome:
        """Unlock a range; ENOMEM at the first hole."""
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        return _outcome(mlock.apply_vma_lock_flags, self.mm, vpn, vpn + pages, 0)

    def split(self, vpn: int, pages: int = 1, order: int = 0) -> Outcome:
        """Split the folios of a range, as far as they are larger, to this order (debugfs, split_huge_pages)."""
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        if type(order) is not int or order not in (0, *ANON_ORDERS):
            raise ValueError(f"order={given.said(order)}: folios are split to order 0 or to one of 2 to 9")
        split_huge_pages_pid(self.mm, vpn, vpn + pages, order)
        return Outcome()

    def shrink(self) -> Outcome:
        """Memory gets short, and the shrinker splits what is partly mapped (here on behalf of any process)."""
        self._begin()
        deferred_split_scan(self.machine.memory)
        return Outcome()

    # --- looking ------------------------------------------------------------------------------------------------

    def mappings(self) -> tuple[VmaView, ...]:
        """Its mappings as values, in order."""
        return tuple(map(mapping_of, self.mm.vmas))

    def mapping(self, vpn: int) -> VmaView:
        """The mapping that contains page `vpn`; ValueError where there is none."""
        return mapping_of(self._mapped(vpn))

    def page(self, vpn: int) -> Page:
        """What page `vpn` maps, and in which mapping it lies; ValueError where there is none."""
        return page_of(self.mm, self._mapped(vpn), int(vpn))

    def _mapped(self, vpn: int) -> Vma:
        vma = self.mm.find_vma(_whole("page", vpn))
        if vma is None:
            there = ", ".join(f"{vma.start}..{vma.end - 1}" for vma in self.mm.vmas[:20])
            raise ValueError(f"page {vpn} is in no mapping of process {self.number}; it has {there or 'none'}")
        return vma

    # --- accesses -----------------------------------------------------------------------------------------------

    def read(self, vpn: int) -> int:
        """Read a page's byte. Its fault, if any, is ``machine.faults[-1]``. SegmentationFault in a hole."""
        self._begin()
        vpn = _whole("page", vpn)
        self._access(vpn, READ)
        self._mark(vpn, PTE_YOUNG)
        return int(self.machine.memory.content[self.mm.pfn[vpn]])

    def write(self, vpn: int, value: int = 1) -> Fault:
        """Write a page's byte; returns the fault it took (false, path ``no fault``, when there was none)."""
        self._begin()
        vpn, value = _whole("page", vpn), _byte(value)
        fault = self._access(vpn, WRITE)
        self._store(vpn, value)
        return fault

    def touch(
        self,
        vpns: npt.ArrayLike | range | slice,
        write: bool | npt.ArrayLike = True,
        value: int | npt.ArrayLike = 1,
        progress: Callable[[int, int], None] | None = None,
        later: Sequence[Later] = (),
    ) -> Touched:
        """Read and write whole arrays of pages, in order: what as many `read` and `write` would do, at once.

        The state and the counters come out the same, bit for bit. Faults are counted, not recorded: ``machine.faults``
        stays empty.

        Parameters
        ----------
        vpns : array_like of int, range or slice
            The pages, one an access. A range or slice takes no memory, however long.
        write : bool or array_like of bool
            Whether the accesses are writes; one for all, or one each.
        value : int or array_like of int
            The byte that writes leave (0..255); one for all, or one each. Reads ignore it.
        progress : callable, optional
            Called with (accesses done, all accesses) every now and then.
        later : sequence of Later
            Mappings that are there, and were made while these accesses went on, in their order: many short streams
            between calls of mmap become a long one. For policies of which `anonfolio.stream.run.runs_ahead` says so.

        Raises
        ------
        NotYetMapped
            An access has to be stepped before what is around it was mapped; the process is of no use then.
        ValueError
            For arrays of a wrong shape or kind, a value that is no byte, a process that has exited.
        SegmentationFault
            If any access hits a hole, or writes where the mapping is read-only: names the first, and nothing is done.
        OutOfMemory
            When no frame is left: all accesses before that one are done.
        """
        self._begin()
        pages = _pages(vpns)
        writes = _flags(write, len(pages))
        values = _bytes(value, len(pages))
        check_call("progress", progress)
        check_kind("later", later, tuple, list)
        for one in later:
            check_kind("one of later", one, Later)
        if later and not runs_ahead(self.machine.policy):
            raise ValueError(f"under {self.machine.policy.name} no mapping may come later than its stream begins")
        self._check_accesses(pages, writes, later)
        return touch_stream(self.machine, self.mm, self.step, Stream(pages, writes, values, tuple(later)), progress)

    # --- processes ----------------------------------------------------------------------------------------------

    def fork(self) -> Process:
        """A child that shares every page copy-on-write, but for what advice or a pin says otherwise."""
        self._begin()
        child = Mm(len(self.machine.processes) + 1, self.machine.memory, self.machine.policy)
        try:
            _fork.dup_mmap(self.mm, child, self.machine.counters)
        except OutOfMemory:
            mmap.exit_mmap(child)
            raise
        process = Process(self.machine, child)
        self.machine.processes.append(process)
        return process

    def may_fork_fail_at(self, vpn: int) -> bool:
        """Whether page `vpn` is in a mapping that fork copies and charges (VM_ACCOUNT), so that fork can fail there."""
        vma = self.mm.find_vma(_whole("page", vpn))
        return vma is not None and not vma.flags & (VM_DONTCOPY | VM_UNACCOUNTED)

    def fork_fails(self, vpn: int) -> Outcome:
        """A fork that fails when the mapping with page `vpn` would be copied; mappings below were already shared.

        What `security_vm_enough_memory_mm` does to a fork in real life. No process comes of it.
        """
        self._begin()
        if not self.may_fork_fail_at(vpn):
            raise ValueError(
                f"page {vpn} is in no mapping that process {self.number} copies and charges at fork; name one in one"
            )
        return self._failing_fork(fail_at=self.mm.find_vma(vpn))

    def fork_fails_after(self, pages: int) -> Outcome:
        """Fault injection: a fork that fails after `pages` entries were copied, even in the middle of a folio.

        When fewer are mapped, it fails at the end. No process comes of it.
        """
        self._begin()
        if _whole("pages", pages) < 0:
            raise ValueError(f"pages={pages}: a fork cannot fail before it begins")
        return self._failing_fork(fail_after_pages=pages)

    def exit(self) -> None:
        """Let go of everything: memory, pins, references."""
        self._begin()
        mmap.exit_mmap(self.mm)
        self._held.clear()
        self.alive = False

    def clear_refs(self) -> None:
        """Every page is old from now on: 1 written to /proc/PID/clear_refs."""
        self._begin()
        clear_refs(self.mm)

    # --- pins and references ------------------------------------------------------------------------------------

    def pin(self, vpn: int, pages: int = 1, id: int = 0, *, write: bool = True) -> Outcome:
        """A long-term pin for a device, for writing (io_uring fixed buffer) or for reading (unshares first).

        Refused (EFAULT) at the first page that is not mapped or, for writing, is read-only.
        """
        self._begin()
        vpn, pages = self._checked_range(vpn, pages)
        id, write = self._check_free("pin", id), flag("write", write)
        try:
            held = gup.pin_user_pages(
                self.machine, self.mm, vpn, pages, write=write, longterm=True, faults=self.machine.faults
            )
        except gup.BadAddress as refusal:
            return Outcome(False, "EFAULT", str(refusal))
        self._hold("pin", id, held)
        return Outcome()

    def unpin(self, id: int = 0) -> Outcome:
        """Let go of a pin; refused (ENXIO) when there is none of that number."""
        return self._release("pin", id)

    def ref(self, vpn: int, id: int = 0) -> Outcome:
        """A plain reference to one page (FOLL_GET, as vmsplice takes it)."""
        self._begin()
        vpn = _whole("page", vpn)
        id = self._check_free("reference", id)
        try:
            held = gup.get_user_page(self.machine, self.mm, vpn, self.machine.faults)
        except gup.BadAddress as refusal:
            return Outcome(False, "EFAULT", str(refusal))
        self._hold("reference", id, held)
        return Outcome()

    def unref(self, id: int = 0) -> Outcome:
        """Let go of a plain reference; refused (ENXIO) when there is none of that number."""
        return self._release("reference", id)

    def gup(self, vpn: int) -> int | None:
        """A short-term read pin, taken and dropped (process_vm_readv): the byte read, or None when refused."""
        self._begin()
        vpn = _whole("page", vpn)
        try:
            held = gup.pin_user_pages(
                self.machine, self.mm, vpn, 1, write=False, longterm=False, faults=self.machine.faults
            )
        except gup.BadAddress:
            return None
        value = int(self.machine.memory.content[held.frames[0]])
        gup.unpin_user_pages(self.machine.memory, held)
        return value

    def dma_write(self, id: int, page: int, value: int) -> None:
        """The device writes a byte into page `page` of a pin: into the frame, whatever is mapped now."""
        self._begin()
        held, value = self._pinned(id, page), _byte(value)
        if not held.writable:
            raise ValueError(f"pin {id} of process {self.number} is for reading; the device may not write through it")
        self.machine.memory.content[held.frames[page]] = value

    def dma_read(self, id: int, page: int) -> int:
        """The device reads the byte in page `page` of a pin."""
        self._begin()
        return int(self.machine.memory.content[self._pinned(id, page).frames[page]])

    def pins(self) -> dict[tuple[str, int], Pin]:
        """What this process holds: ``("pin", id)`` and ``("reference", id)`` to the frames."""
        return dict(self._held)

    def copy(self, machine: Machine) -> Process:
        """The same process on a copied machine."""
        if not self.alive:
            # Nothing of an exited process can change any more.
            twin = Process(machine, self.mm)
            twin.alive = False
            return twin
        twin = Process(machine, self.mm.copy(machine.memory))
        if not self._held:
            return twin
        twins = dict(zip(map(id, self.mm.pins), twin.mm.pins, strict=True))
        twin._held = {key: twins[id(held)] for key, held in self._held.items()}
        return twin

    # --- inside -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self.alive:
            live = [process.number for process in self.machine.live()]
            raise ValueError(f"process {self.number} has exited; live ones are {live}")
        self.machine.faults = []
        self.machine._operations += 1

    def _checked_range(self, vpn: int, pages: int) -> tuple[int, int]:
        vpn, pages = _whole("page", vpn), _whole("pages", pages)
        if pages < 1:
            raise ValueError(f"pages={pages}: a range has at least one page")
        if not 0 <= vpn <= MAX_VPN - pages:
            raise ValueError(f"pages {vpn}..{vpn + pages - 1} are outside the address space 0..{MAX_VPN - 1}")
        return vpn, pages

    def _access(self, vpn: int, access: str) -> Fault:
        vma = self.mm.find_vma(vpn) or mmap.expand_stack(self.mm, vpn)
        if vma is None or not vma.flags & (VM_WRITE if access == WRITE else VM_READ):
            raise self._sigsegv(vpn, access, vma)
        if self.mm.pte[vpn] & PTE_GUARD:
            raise self._sigsegv(vpn, access, vma)
        wanted = needed_bits(self.machine.policy, access)
        faults = self.machine.faults
        while self.mm.pte[vpn] & wanted != wanted:
            assert len(faults) < MOST_FAULTS, f"page {vpn} faults again and again"
            faults.append(handle_mm_fault(self.machine, self.mm, vma, vpn, access))
        return faults[-1] if faults else self._no_fault(vpn, access)

    def _store(self, vpn: int, value: int) -> None:
        self.machine.memory.content[self.mm.pfn[vpn]] = value
        self._mark(vpn, PTE_DIRTY | PTE_YOUNG)

    def _mark(self, vpn: int, bits: int) -> None:
        # What the hardware sets in the entry that it goes by; under a PMD there is one for the whole block.
        pte, old = self.mm.pte, self.mm.pte.item(vpn)
        if old & bits == bits:
            return
        if self.mm.is_huge(vpn):
            blocks_of(pte, PMD_ORDER)[vpn >> PMD_ORDER] |= bits
        else:
            pte[vpn] = old | bits

    def step(self, vpn: int, access: str, value: int) -> None:
        """One access of a stream, taken the ordinary way: as `read` or `write`, without a record."""
        wanted = needed_bits(self.machine.policy, access)
        if self.mm.pte[vpn] & wanted != wanted:
            self.machine.faults = []
            self._access(vpn, access)
            self.machine.faults = []
        if access == WRITE:
            self._store(vpn, value)
        else:
            self._mark(vpn, PTE_YOUNG)

    def _check_accesses(
        self, pages: Pages | range, writes: bool | npt.NDArray[np.bool_], later: Sequence[Later] = ()
    ) -> None:
        """Raise for the first access of a stream that would be a SIGSEGV."""
        if not len(pages):
            return
        vma = self.mm.find_vma(int(pages[0]))
        low, high = (
            (min(pages[0], pages[-1]), max(pages[0], pages[-1]))
            if isinstance(pages, range)
            else (int(pages.min()), int(pages.max()))
        )
        guarded = np.bitwise_or.reduce(self.mm.pte[max(0, low) : high + 1], initial=0) & PTE_GUARD
        early = _first_early_access(pages, later)
        if early is None and vma and vma.start <= low and high < vma.end and vma.flags & VM_WRITE and not guarded:
            return
        bad = [at for at in (early, _first_bad_access(self.mm, pages, writes)) if at is not None]
        if not bad:
            return
        at = min(bad)
        vpn = int(pages[at])
        access = WRITE if (writes if isinstance(writes, bool) else writes[at]) else READ
        vma = None if at == early else self.mm.find_vma(vpn)
        raise self._sigsegv(vpn, access, vma, f"access {at} of the stream, of which nothing is done: ")

    def _no_fault(self, vpn: int, access: str) -> Fault:
        trail = Trail()
        trail("pte_write" if access == WRITE else "pte_present", True, "the hardware asks nobody")
        trail.decide()
        folio = int(self.machine.memory.folio_of[self.mm.pfn[vpn]])
        return Fault(
            self.number, vpn, access, NO_FAULT, 0, pages=range(vpn, vpn), checks=tuple(trail),
            folio=folio if folio >= 0 else None,
        )  # fmt: skip

    def _sigsegv(self, vpn: int, access: str, vma: Vma | None, which: str = "") -> SegmentationFault:
        # The hardware finds nothing present under PROT_NONE (_PAGE_PROTNONE).
        allowed = vma is not None and bool(vma.flags & (VM_WRITE if access == WRITE else VM_READ))
        present = vma is not None and vma.flags & VM_READ and bool(self.mm.pte[vpn] & PTE_PRESENT)
        code = PF_USER | (PF_WRITE if access == WRITE else 0) | (PF_PROT if present else 0)
        reason = f"the mapping is {vma.access_word}" if vma else "no mapping contains it"
        trail = Trail()
        trail("vma_lookup", vma is not None, "" if vma else "a hole")
        if allowed:
            reason = "a guard marker is there"
            trail("softleaf_is_guard_marker", True, reason)
        elif vma is not None:
            trail("VM_WRITE" if access == WRITE else "VM_READ", False, reason)
        trail.decide()
        fault = Fault(self.number, vpn, access, SIGSEGV, code, pages=range(vpn, vpn), checks=tuple(trail))
        self.machine.faults.append(fault)
        return SegmentationFault(f"SIGSEGV: {which}process {self.number} {access}s page {vpn}: {reason}", fault)

    def _failing_fork(self, fail_at: Vma | None = None, fail_after_pages: int | None = None) -> Outcome:
        # A child that never lives takes no process number, but an mm_id of its own while it is torn down.
        child = Mm(len(self.machine.processes) + 1, self.machine.memory, self.machine.policy)
        try:
            _fork.dup_mmap(self.mm, child, self.machine.counters, fail_at=fail_at, fail_after_pages=fail_after_pages)
        except (_fork.ForkFailed, OutOfMemory) as failure:
            mmap.exit_mmap(child)
            return Outcome(False, "ENOMEM", str(failure))
        raise AssertionError("a fork that was to fail did not")

    def _check_free(self, kind: str, id: int) -> int:
        id = _whole("id", id)
        if (kind, id) in self._held:
            raise ValueError(f"process {self.number} holds {kind} {id} already; choose another id or let go first")
        return id

    def _hold(self, kind: str, id: int, held: Pin) -> None:
        self._held[kind, id] = held
        self.mm.pins.append(held)

    def _release(self, kind: str, id: int) -> Outcome:
        self._begin()
        held = self._held.pop((kind, _whole("id", id)), None)
        if held is None:
            return Outcome(False, "ENXIO", f"process {self.number} holds no {kind} {id}")
        # By identity: two pins of the same pages are equal.
        self.mm.pins = [other for other in self.mm.pins if other is not held]
        gup.unpin_user_pages(self.machine.memory, held)
        return Outcome()

    def _pinned(self, id: int, page: int) -> Pin:
        held = self._held.get(("pin", _whole("id", id)))
        if held is None:
            pins = sorted(number for kind, number in self._held if kind == "pin")
            raise ValueError(f"process {self.number} holds no pin {id}; it holds {pins}")
        if not 0 <= _whole("page", page) < len(held.frames):
            raise ValueError(f"pin {id} has pages 0..{len(held.frames) - 1}, not {page}")
        return held


MOST_ORDERS = 64
"""So many may be named; there are eight."""


def _knobs(orders: Iterable[int], thp: str) -> dict[int, str]:
    try:
        enabled = given.items("orders", orders, MOST_ORDERS)
    except ValueError as error:
        raise ValueError(f"{error}; such as (2, 4)") from None
    check_orders(enabled, "orders")
    if not isinstance(thp, str) or thp not in ("always", "madvise"):
        instead = "orders=() has no large folios, knobs={4: 'always'} says it per size"
        raise ValueError(f"thp={given.said(thp)} is neither 'always' nor 'madvise'; {instead}")
    return dict.fromkeys(enabled, "inherit")


def check_knobs(knobs: Mapping[int, str], thp: str) -> dict[int, str]:
    """The knobs as a dict; ValueError unless each is one that a size or the global one can be set to."""
    if not isinstance(knobs, Mapping):
        raise ValueError(f"knobs={given.said(knobs)} is no dict of orders, such as {{4: 'always'}}")
    check_orders(tuple(knobs), "knobs")
    for order, said in knobs.items():
        if not isinstance(said, str) or said not in KNOBS:
            raise ValueError(f"knobs: order {order} is {given.said(said)}; a knob says {', '.join(KNOBS)}")
    if not isinstance(thp, str) or thp not in ("always", "madvise", "never"):
        raise ValueError(f"thp={given.said(thp)} is none of 'always', 'madvise', 'never'")
    return dict(knobs)


def _whole(name: str, value: int) -> int:
    """The value as an int of 63 bits, no bool; an index of anybody's own may raise whatever it likes."""
    if value is True or value is False:
        raise ValueError(f"{name}={value} is not a whole number")
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={given.said(value)} is not a whole number") from None
    except Exception as error:
        raise ValueError(f"{name} is a {type(value).__name__} that is not a whole number") from error
    if number.bit_length() > 63:
        raise ValueError(f"{name} is a number of {number.bit_length()} bits; at most 63")
    return number


def _check_prot(prot: int) -> None:
    if type(prot) is not int or prot not in PROTECTIONS:
        raise ValueError(f"prot={given.said(prot)} is none of 0 (nothing), 1 (read) and 3 (read and write)")


def _byte(value: int) -> int:
    if not 0 <= _whole("value", value) <= 255:
        raise ValueError(f"value={value} is not a byte (0..255)")
    return int(value)


def _pages(vpns: npt.ArrayLike | range | slice) -> Pages | range:
    if isinstance(vpns, slice):
        if vpns.start is None or vpns.stop is None:
            raise ValueError(f"{vpns} is open: a stream needs a first page and an end")
        step = 1 if vpns.step is None else _whole("vpns.step", vpns.step)
        vpns = range(_whole("vpns.start", vpns.start), _whole("vpns.stop", vpns.stop), step)
    if isinstance(vpns, range):
        for name in ("start", "stop", "step"):
            _whole(f"vpns.{name}", getattr(vpns, name))
        return vpns
    pages = np.asarray(vpns)
    if pages.ndim != 1 or (pages.size and pages.dtype.kind not in "iu"):
        raise ValueError(f"vpns has shape {pages.shape} and dtype {pages.dtype}; a stream is one row of whole numbers")
    return pages.astype(np.intp, copy=False)


def _flags(write: bool | npt.ArrayLike, accesses: int) -> bool | npt.NDArray[np.bool_]:
    flags = np.asarray(write)
    if flags.dtype != np.bool_ or flags.shape not in ((), (accesses,)):
        raise ValueError(f"write has shape {flags.shape} and dtype {flags.dtype}; it is one bool or {accesses}")
    return flags if flags.ndim else bool(flags)


def _bytes(value: int | npt.ArrayLike, accesses: int) -> int | npt.NDArray[np.uint8]:
    values = np.asarray(value)
    if values.ndim == 0:
        return _byte(value)  # type: ignore[arg-type]
    if values.shape != (accesses,) or (accesses and values.dtype.kind not in "iu"):
        raise ValueError(f"value has shape {values.shape} and dtype {values.dtype}; it is one byte or {accesses}")
    bad = np.flatnonzero((values < 0) | (values > 255))
    if len(bad):
        raise ValueError(f"value[{bad[0]}]={values[bad[0]]} is not a byte (0..255)")
    return values.astype(np.uint8, copy=False)


def _first_bad_access(mm: Mm, pages: Pages | range, writes: bool | npt.NDArray[np.bool_]) -> int | None:
    """Position of the first access that no mapping allows; None when there is none."""
    if not mm.vmas:
        return 0
    starts = np.array([vma.start for vma in mm.vmas])
    ends = np.array([vma.end for vma in mm.vmas])
    readable, writable = (np.array([bool(vma.flags & bit) for vma in mm.vmas]) for bit in (VM_READ, VM_WRITE))
    for first in range(0, len(pages), 1 << 20):
        part = pages[first : first + (1 << 20)]
        some = np.arange(part.start, part.stop, part.step) if isinstance(part, range) else part
        of = np.searchsorted(starts, some, "right") - 1
        wants = writes if isinstance(writes, bool) else writes[first : first + (1 << 20)]
        bad = (of < 0) | (some >= ends[of]) | ~np.where(wants, writable[of], readable[of])
        bad |= (mm.pte.take(some, mode="clip") & PTE_GUARD) > 0
        if bool(bad.any()):
            return first + int(bad.argmax())
    return None


def _first_early_access(pages: Pages | range, later: Sequence[Later]) -> int | None:
    """Position of the first access to what is mapped after it. No page is mapped twice while a stream goes on."""
    if not later:
        return None
    times, starts, ends = np.array(sorted(later, key=itemgetter(1))).T
    pages = np.asarray(pages)
    of = starts.searchsorted(pages, "right") - 1
    early = np.flatnonzero((of >= 0) & (pages < ends[of]) & (np.arange(len(pages)) < times[of]))
    return int(early[0]) if len(early) else None


def _outcome(call: Callable[..., object], *arguments: object) -> Outcome:
    try:
        call(*arguments)
    except mmap.Refused as refusal:
        return Outcome(False, refusal.errno, refusal.why)
    return Outcome()
