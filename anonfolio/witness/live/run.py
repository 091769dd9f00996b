"""The kernel of this machine as a witness: real processes do a scenario's steps, their page tables are read.

What comes back is what a recording holds, so ``scenario.run(policy).compare(live_run(scenario))`` is the judgement.
Needs root on x86-64 Linux; `live_kernel` says what else, and what is changed meanwhile.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...kernel.record import PF_PROT, PF_USER, PF_WRITE
from ...kernel.sizes import PTRS_PER_PMD
from ...program.ops import TABLE, Step
from ...program.scenario import Scenario
from ..comparing import Recorded
from ..fields import FLAGS, FRAME, ONCE, PRESENT
from ..here import Disturbed, LiveError, NotLive, TooDisturbed
from ..hidden.bpf import Fault
from ..hidden.reader import Kernel as HiddenKernel
from ..hidden.state import HiddenState, state_of_look
from .kernel import PROC, WINDOW_PAGES, Knobs, LiveKernel, Remote, memory_info, smaps
from .worker import PAGE, WINDOW_START, IoVec, _system_call, libc

T = TypeVar("T")
ATTEMPTS = 4
PM_SWAP, PM_GUARD_REGION = 62, 58
HEAD, TAIL = FLAGS["head"], FLAGS["tail"]
ENOMEM = 12
MADV_COLD = 20
SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 430, 431, 432
FSCONFIG_CMD_CREATE = 6

Cell = int | str | list[int]


def live_run(scenario: Scenario, kernel: LiveKernel | None = None) -> Recorded:
    """Run a scenario on the kernel of this machine.

    Parameters
    ----------
    kernel : LiveKernel, optional
        The prepared kernel, for many runs in a row; by default one for this run alone.

    Raises
    ------
    LiveError
        The machine or the kernel cannot, in one line that says what to do.
    """
    _check_possible(scenario)
    if kernel is None:
        with LiveKernel() as prepared:
            return live_run(scenario, prepared)
    kernel.enable(scenario.sizes, scenario.thp)
    steps = undisturbed(kernel, lambda: _attempt(scenario, kernel))
    return Recorded(kernel.version, scenario, tuple(steps), kernel.arch)


def undisturbed(kernel: LiveKernel, attempt: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """What an attempt returns in which nothing else on the machine got in the way."""
    for _ in range(attempts):
        fallbacks = kernel.fallbacks()
        try:
            found = attempt()
        except Disturbed as disturbance:
            why = str(disturbance)
            continue
        except OSError as error:
            raise LiveError(f"the live run was cut short: {error}; run it again") from error
        if kernel.fallbacks() == fallbacks:
            return found
        why = "a large folio could not be had: memory is short or fragmented"
    raise TooDisturbed(f"something disturbed the live run {attempts} times ({why}); try again when the machine is idle")


def _check_possible(scenario: Scenario) -> None:
    for number, step in enumerate(scenario.steps, 1):
        if why := TABLE[step[0]].not_live:
            raise NotLive(f"step {number}, {step[0]}, cannot be run live: {why}")
    if scenario.skew + scenario.pages > WINDOW_PAGES:
        raise NotLive(f"{scenario.pages} pages are too many for a live run; at most {WINDOW_PAGES - scenario.skew}")


# --- one run --------------------------------------------------------------------------------------------------------


def _attempt(scenario: Scenario, kernel: LiveKernel) -> list[dict[str, Any]]:
    run = LiveRun(scenario, kernel)
    try:
        return [run.do(step) for step in scenario.steps]
    finally:
        run.close()


class LiveRun:
    """One mapping and its processes, on which a scenario's steps are done one by one. Who makes one closes it.

    Attributes
    ----------
    base : int
        The address of page 0.
    live : dict of int to Remote
        The processes that have not exited, by their numbers in the scenario.
    """

    def __init__(self, scenario: Scenario, kernel: LiveKernel) -> None:
        self.scenario, self.kernel = scenario, kernel
        self.base = WINDOW_START + scenario.skew * PAGE
        self.live: dict[int, Remote] = {}
        self.count = 0
        self.folios: dict[int, int] = {}
        self.valid: dict[int, list[bool]] = {}
        self._page = mmap.mmap(-1, PAGE)
        # What came before, the end of the run before among it, is no step's.
        kernel.faults()
        self._converts()
        self._adopt(kernel.nursery.call("fork"))
        if not self.live:
            raise Disturbed("no process could be forked")
        if not self.live[0].call("map", scenario.pages, scenario.skew, scenario.advised)["ok"]:
            raise LiveError("this kernel has no MADV_HUGEPAGE (CONFIG_TRANSPARENT_HUGEPAGE)")

    def _adopt(self, answer: dict[str, Any]) -> None:
        if answer["ok"]:
            self.live[self.count] = answer["child"]
            self.count += 1

    def close(self) -> None:
        """End all processes, and wait until their memory is free: the next run must find none of it."""
        for remote in self.live.values():
            with suppress(LiveError, OSError):
                remote.call("exit")
            remote.close()
        self.live.clear()
        self._page.close()

    def do(self, step: Step) -> dict[str, Any]:
        """Do one step and look; what was seen, as recordings write it."""
        operation, number, *arguments = step
        remote = self.live[number]
        if operation == "forkfail":
            answer: dict[str, Any] = {"ok": False}
            FailingFork(self.kernel, remote).run(self.base + arguments[0] * PAGE)
        elif operation == "gup":
            answer = self._short_pin(remote, *arguments)
        elif operation == "split":
            answer = self._split(remote, *arguments)
        elif operation == "shrink":
            # Slab caches go to every shrinker; that of partly mapped folios is one (`shrink_slab`).
            (PROC / "sys/vm/drop_caches").write_text("2")
            answer = {"ok": True}
        else:
            answer = remote.call(operation, *arguments)
        if operation == "fork":
            self._adopt(answer)
        elif operation == "exit":
            remote.close()
            del self.live[number]
        # Whoever exits puts its locked pages into a batch, too (`munlock_folio`): it must be gone.
        self._drain_lru()
        value = answer.get("value") if answer["ok"] else None
        faults = self._faults(step, remote, answer) if self.kernel.traces else _fault_count(operation, answer)
        view, mapcounts = self.view()
        counted = {**answer.get("counted", {}), "mapcount": mapcounts}
        counted |= {key: answer[key] for key in ("minflt", "held", "errno") if key in answer}
        seen = {"ok": answer["ok"], "value": value, "faults": faults, "view": view, "counted": counted}
        if self.kernel.hidden is not None:
            seen["hidden"] = self._hidden(self.kernel.hidden)
        if self.kernel.arch == "arm64":
            seen |= {"raw": self._raw(), "converts": self._converts()}
        return seen

    def _drain_lru(self) -> None:
        """Let go of the references that this CPU's batches for the LRU lists hold (`lru_add_drain`, in `madvise_cold`).

        A small page that is new, one that is taken a second time and is to become active (`mark_page_accessed`), one
        that MADV_FREE or MADV_COLD met: until the batch is full it holds a reference. A write fault drains only for a
        page without the LRU flag (`wp_can_reuse_anon_folio`), and such a page has it (but for kernels with
        33dfe9204f29, in 6.11, taken back in 6.17): it is copied, not reused. 5.10 never drains there.
        """
        self._page.madvise(MADV_COLD)

    def _split(self, remote: Remote, page: int, n: int, order: int) -> dict[str, Any]:
        start = self.base + page * PAGE
        write_debugfs("split_huge_pages", f"{remote.pid},{start:#x},{start + n * PAGE:#x},{order}")
        return {"ok": True}

    def _short_pin(self, remote: Remote, page: int) -> dict[str, Any]:
        byte = ctypes.create_string_buffer(1)
        here, there = IoVec(ctypes.addressof(byte), 1), IoVec(self.base + page * PAGE, 1)
        ok = libc.process_vm_readv(remote.pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) == 1
        return {"ok": ok, "value": byte.raw[0]}

    def _faults(self, step: Step, remote: Remote, answer: dict[str, Any]) -> list[list[int]]:
        ours = {other.pid for other in self.live.values()} - {remote.pid}
        faults = []
        for pid, address, code in self.kernel.faults():
            if pid in ours:
                raise Disturbed(f"process {pid} faulted in another's step")
            # What is in no process of ours is another program's, which maps something at the same address.
            if pid == remote.pid:
                faults.append([(address - self.base) // PAGE, code])
        return faults if self.kernel.tells_present else self._completed(faults, step, answer)

    def _completed(self, faults: list[list[int]], step: Step, answer: dict[str, Any]) -> list[list[int]]:
        """Faults with the bit that says whether something was there, and the refused one.

        arm64 does not tell of a refusal that the mapping decides; that of a guard marker comes from the fault itself.
        """
        operation, number, *arguments = step
        if TABLE[operation].access and not answer["ok"] and not faults:
            faults.append([arguments[0], PF_USER | (PF_WRITE if operation == "write" else 0)])
        there = self.valid.get(number, [False] * self.scenario.pages)
        for fault in faults:
            page, code = fault
            fault[1] = code | (PF_PROT if there[page] else 0)
            there[page] = True
        return faults

    # --- looking ------------------------------------------------------------------------------------------------

    def view(self) -> tuple[dict[str, list[Cell]], dict[str, list[int]]]:
        """Per process its cells, and how often each of its pages is mapped (0 where there is no folio)."""
        frames = Frames(self.kernel)
        seen = {str(number): self._cells(remote, frames) for number, remote in self.live.items()}
        return {name: cells for name, (cells, _) in seen.items()}, {name: counts for name, (_, counts) in seen.items()}

    def _hidden(self, kernel: HiddenKernel) -> HiddenState:
        """The kernel's own state."""
        first, pages = self.base // PAGE, self.scenario.pages
        pagemaps = {number: remote.pagemap for number, remote in self.live.items()}
        try:
            return state_of_look(kernel.look_at(pagemaps, first, first + pages), first, pages)
        except Fault as error:
            raise Disturbed(f"the kernel's memory changed while it was read: {error.strerror}") from None

    def _raw(self) -> dict[str, list[int | list[int | str]]]:
        """The raw entries, one word a page; ``["H1", word]`` for a page under a PMD that maps memory itself."""
        tables = self.kernel.hidden
        if tables is None:
            raise LiveError("raw page-table entries cannot be read here")
        found = {}
        for number, remote in self.live.items():
            entries, huge = tables.entries(tables.mm_of(remote.pagemap), self.base // PAGE, self.scenario.pages)
            self.valid[number] = (entries & np.uint64(1)).astype(bool).tolist()
            pairs = zip(entries.tolist(), huge.tolist(), strict=True)
            found[str(number)] = [["H1", word] if whole else word for word, whole in pairs]
        return found

    def _converts(self) -> list[int] | None:
        """The pages at which `contpte_convert` was called since the last look; None where that is not told."""
        found = self.kernel.converts
        if found is None:
            return None
        pages = [(address - self.base) // PAGE for address in found]
        found.clear()
        return pages

    def _cells(self, remote: Remote, frames: Frames) -> tuple[list[Cell], list[int]]:
        raw = os.pread(remote.pagemap, 8 * self.scenario.pages, self.base // PAGE * 8)
        if not raw:
            raise LiveError(f"process {remote.pid} of the live run was killed from outside; run it again")
        cells: list[Cell] = []
        mapcounts: list[int] = []
        for entry in memoryview(raw).cast("Q"):
            frame, mapcount = entry & FRAME, 0
            cell: Cell = 0
            if entry >> PRESENT & 1:
                cell = "z"
                if folio := frames.folio(frame):
                    head, mapped = folio
                    place, mapcount = frame - head, mapped[frame - head]
                    cell = [self.folios.setdefault(head, len(self.folios)), place, len(mapped), entry >> ONCE & 1]
            elif entry >> PM_GUARD_REGION & 1:
                cell = "g"
            elif entry >> PM_SWAP & 1:
                raise Disturbed("a page was swapped out")
            cells.append(cell)
            mapcounts.append(mapcount)
        return cells, mapcounts


def write_debugfs(name: str, text: str) -> None:
    """Write a file of debugfs, mounted where nobody sees it, which ends with the descriptor (`fsopen`, `fsmount`)."""
    opened: list[int] = []
    try:
        opened.append(_system_call(SYS_FSOPEN, b"debugfs", 0, what="fsopen"))
        _system_call(SYS_FSCONFIG, opened[0], FSCONFIG_CMD_CREATE, None, None, 0, what="fsconfig")
        opened.append(_system_call(SYS_FSMOUNT, opened[0], 0, 0, what="fsmount"))
        opened.append(os.open(name, os.O_WRONLY, dir_fd=opened[1]))
        os.write(opened[2], text.encode())
    except OSError as error:
        why = "this kernel must have CONFIG_DEBUG_FS and not be locked down"
        raise NotLive(f"debugfs's {name} cannot be written ({error}); {why}") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


class Frames:
    """What the kernel says of frames at one moment, asked for folio by folio."""

    def __init__(self, kernel: LiveKernel) -> None:
        self.kernel = kernel
        self._folios: dict[int, tuple[int, memoryview[int]] | None] = {}

    def folio(self, frame: int) -> tuple[int, memoryview[int]] | None:
        """Head of its folio, and how often each page of it is mapped, by PTEs and PMDs; None for the zero page."""
        if frame not in self._folios:
            head, pages, flags = self._find_folio(frame)
            found = None if flags >> FLAGS["zero page"] & 1 else (head, self.kernel.frame_mapcounts(head, pages))
            self._folios.update(dict.fromkeys(range(head, head + pages), found))
        return self._folios[frame]

    def _find_folio(self, frame: int) -> tuple[int, int, int]:
        """Head and pages of the folio, and the flags of its head."""
        flags = self.kernel.frame_flags(frame, 1)[0]
        if not flags >> HEAD & 1 and not flags >> TAIL & 1:
            return frame, 1, flags
        first = frame // PTRS_PER_PMD * PTRS_PER_PMD
        block = self.kernel.frame_flags(first, PTRS_PER_PMD)
        head = frame - first
        while head and block[head] >> TAIL & 1:
            head -= 1
        end = head + 1
        while end < len(block) and block[end] >> TAIL & 1:
            end += 1
        return first + head, end - head, block[head]


def _fault_count(operation: str, answer: dict[str, Any]) -> int:
    """User faults of a step that was not traced: a refused access is one, and only accesses take any in the window."""
    if not TABLE[operation].access:
        return 0
    return int(answer["minflt"]) if answer["ok"] else 1


# --- a fork that fails ----------------------------------------------------------------------------------------------


class FailingFork:
    """A fork that is refused (ENOMEM) exactly when one chosen mapping would be copied.

    Fork charges each mapping in the order of addresses. Under strict overcommit the charge is held against a limit
    through a per-CPU counter, which reaches the global count in batches only. Pad A, below everything in the window,
    takes the global count to just under the limit and leaves this CPU's part empty; pad B and the mappings between it
    and the chosen one fill that part to one page short of a batch; the chosen mapping makes it overflow and is
    refused. Setting the mode folds the parts of all CPUs first. How many mappings were copied is traced, and must be
    right.
    """

    PAD_A, PAD_B = 0x8_0000_0000, 0x10_0000_0000

    def __init__(self, kernel: LiveKernel, remote: Remote) -> None:
        self.kernel, self.remote = kernel, remote
        self.sysctl = PROC / "sys/vm"
        info = memory_info()
        if not kernel.traces:
            raise NotLive("a fork can be made to fail only where page faults can be traced")
        if info["SwapTotal"] or Knobs.read(self.sysctl / "overcommit_memory") == "2":
            raise NotLive("a fork can be made to fail only without swap, and when overcommit_memory is not 2")
        cpus = sum(1 for _ in Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))
        # mm_compute_batch, in pages.
        self.batch = max(info["MemTotal"] * 1024 // PAGE // cpus // 256, 2 * cpus, 32)
        self.pad_a = info["MemTotal"] * 1024 // PAGE // 2

    def run(self, address: int) -> None:
        """Have it fail at the mapping that contains an address; nothing happens when fork does not copy any there."""
        rows = smaps(self.remote.pid)
        chosen = next((row for row in rows if row.start <= address < row.end), None)
        if chosen is None or not chosen.copied:
            return
        if not chosen.charged_pages:
            raise NotLive("fork does not charge that mapping, so it cannot fail there")
        below = [row for row in rows if row.end <= chosen.start]
        under_a = sum(row.charged_pages for row in below if row.end <= self.PAD_A)
        pad_b = self.batch - 1 - sum(row.charged_pages for row in below if row.end > self.PAD_A)
        if pad_b < 1:
            raise NotLive(f"the mappings are too large to fail between them on this machine ({self.batch} pages)")
        pads = ((self.PAD_A, self.pad_a), (self.PAD_B, pad_b))
        self.remote.call("pads", *pads)
        try:
            answer, copied = self._fork(under_a)
        finally:
            self.remote.call("pads_off", *pads)
        expected = sum(row.copied for row in below) + len(pads)
        if answer["ok"] or answer["errno"] != ENOMEM or copied != expected:
            raise Disturbed(f"fork copied {copied} mappings where {expected} were meant")

    def _fork(self, under_a: int) -> tuple[dict[str, Any], int]:
        knobs, overcommit = self.kernel.knobs, self.sysctl / "overcommit_memory"
        knobs.remember(overcommit)
        # Setting one of these clears the other.
        both = [self.sysctl / name for name in ("overcommit_kbytes", "overcommit_ratio")]
        knobs.remember(both[0] if Knobs.read(both[0]) != "0" else both[1])
        knobs.set(self.sysctl / "user_reserve_kbytes", 0)
        committed = memory_info()["Committed_AS"] * 1024 // PAGE
        limit = committed + under_a + self.pad_a + self.batch // 2
        both[0].write_text(str(limit * PAGE // 1024))
        size = Path("/sys/kernel/slab/vm_area_struct/object_size").read_text().strip()
        try:
            with self.kernel.tracing("kmem/kmem_cache_alloc", f"common_pid == {self.remote.pid}") as lines:
                answer = self.remote.call("failing_fork")
            duplicated = re.compile(rf"call_site=vm_area_dup\+.*bytes_req={size}\b")
            return answer, sum(bool(duplicated.search(line)) for line in lines())
        finally:
            knobs.put_back(overcommit)
