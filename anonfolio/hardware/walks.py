"""Page-table walks on a recorded program: what its trace holds of them, and what its memory at the peak would cost.

A trace holds the accesses that faulted under single pages: the first touch of each page, and the first write after
each fork. What the program did with a page after that no trace holds, so these walks are not the program's. Two things
can be counted without guessing at the rest:

- `Walks.recorded`: walks when exactly the recorded accesses are made, each once its faults are served. The first access
  of an entry always walks; larger entries save the walks of their other pages. Each process has a TLB of its own, empty
  at its start; what a fault or a call changes is flushed.
- `Walks.peak`: walks when each page that is mapped at the peak is read once, in a random order, by TLBs that are empty.
  The order is ours, not the program's.

The reach is that of the page tables at the peak, copies by fork and all. Every machine here has arm64's contiguous bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernel.contpte import CONT_PTE_ORDER
from ..kernel.pagetable import PMD_HUGE, PTE_CONT, PTE_PRESENT, PTE_WRITE
from ..kernel.policy import Policy
from ..kernel.rules import one_page
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD
from ..machine.machine import Machine, Process
from .cost import reach_pages
from .tlb import NEOVERSE_N1, UNMAPPED, Core, Entries, Tlb
from .trace import Call, Replay, Replaying, Trace, enough_frames

CHANGING = ("unmap", "move", "move_keep", "advise", "protect")
"""Calls after which the entries of their pages may be others."""


@dataclass(frozen=True)
class Walks:
    """Page-table walks of a replayed trace, and what its page tables look like at the peak.

    Attributes
    ----------
    accesses, recorded : int
        The recorded accesses, and how many of them walk.
    peak_pages, peak : int
        Pages that are mapped when most memory is held, and how many of them walk when each is read once.
    reach_pages : int
        Pages that the core's last TLB level covers with entries as they are then on average.
    """

    accesses: int
    recorded: int
    peak_pages: int
    peak: int
    reach_pages: int


def walks(
    trace: Trace, orders: Iterable[int], policy: Policy, *, core: Core = NEOVERSE_N1, seed: int = 0
) -> tuple[Replay, Walks]:
    """Replay a trace as `replay` does, with a look at the TLB; `seed` is of the order in which pages are read."""
    marking = policy if policy.cont_pte_order else policy.but(cont_pte_order=CONT_PTE_ORDER)
    replaying = _Walking(trace, Machine(marking, orders=orders, frames=enough_frames(trace)), core, seed)
    return replaying.run(None), replaying.walks()


class _Walking(Replaying):
    """A replay with a TLB for each process."""

    def __init__(self, trace: Trace, machine: Machine, core: Core, seed: int) -> None:
        super().__init__(trace, machine, 0)
        self.core, self.seed = core, seed
        self.tlbs: dict[int, OneByOne] = {}
        self.recorded = 0
        self.at_peak: list[npt.NDArray[np.uint8]] = []

    def walks(self) -> Walks:
        """What was counted."""
        random = np.random.default_rng(self.seed)
        pages: Counter[int] = Counter()
        peak = 0
        for orders in self.at_peak:
            mapped = random.permutation(np.flatnonzero(orders != UNMAPPED))
            peak += Tlb(self.core).look_up(mapped, orders[mapped]).walks
            counts = np.bincount(orders[mapped], minlength=1)
            pages.update({order: int(count) for order, count in enumerate(counts.tolist()) if count})
        return Walks(len(self.trace), self.recorded, pages.total(), peak, reach_pages(self.core, pages))

    def _turn(self, process: Process, first: int, stop: int) -> None:
        vpns, write = self.trace.vpn[first:stop], self.write[first:stop]
        for start, end in _pieces(process, vpns, write):
            self._piece(process, first + start, first + end)

    def _piece(self, process: Process, first: int, stop: int) -> None:
        """Accesses none of which changes the entry of another one: they are made, and then looked up."""
        tlb = self.tlbs.setdefault(process.number, OneByOne(self.core))
        vpns = self.trace.vpn[first:stop]
        flushed = self.write[first:stop] & _read_only(process, vpns)
        if stop - first > 1:
            super()._turn(process, first, stop)
        else:
            access = process.write if self.write[first] else process.read
            access(int(vpns[0]))
            for fault in self.machine.faults:
                if fault.flushed:
                    tlb.shootdown(fault.pages)
        orders = _entry_orders(process, vpns)
        self.recorded += tlb.walks(vpns.tolist(), orders.tolist(), flushed.tolist())

    def _do(self, call: Call) -> None:
        super()._do(call)
        tlb = self.tlbs.get(self.processes[call.process].number) if call.process in self.processes else None
        if tlb and call.name == "fork":
            # All that may be written is write-protected, and the kernel flushes the whole mm (`dup_mmap`).
            tlb.flush()
        elif tlb and call.name in CHANGING:
            tlb.shootdown(range(call.vpn, call.vpn + call.pages))

    def _note_peak(self) -> None:
        before = self.held_peak
        super()._note_peak()
        if self.held_peak > before:
            self.at_peak = [_all_orders(process) for process in self.live.values()]


def _entry_orders(process: Process, vpns: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The orders of the entries of these pages, as a walk finds them now; all are mapped (`tlb.Contiguous`)."""
    mm = process.mm
    folded = np.where(mm.pte[vpns] & PTE_CONT, CONT_PTE_ORDER, 0)
    return np.where(mm.pmd[vpns >> PMD_ORDER] == PMD_HUGE, PMD_ORDER, folded).astype(np.uint8)


def _all_orders(process: Process) -> npt.NDArray[np.uint8]:
    mm = process.mm
    orders = np.where(mm.pte & PTE_CONT, CONT_PTE_ORDER, 0).astype(np.uint8)
    orders.reshape(-1, PTRS_PER_PMD)[mm.pmd == PMD_HUGE] = PMD_ORDER
    orders[mm.pte & PTE_PRESENT == 0] = UNMAPPED
    return orders


def _read_only(process: Process, vpns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (process.mm.pte.take(vpns, mode="clip") & (PTE_PRESENT | PTE_WRITE)) == PTE_PRESENT
    return found


def _pieces(process: Process, vpns: npt.NDArray[np.int64], write: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Cut accesses so that none changes an entry that another one of its piece has looked at.

    A first touch changes no entry but those it makes. Where one page is copied or reused that may unfold its block, but
    nothing of the block was looked at before: a write would have unfolded it. Only after a read of this turn, or where
    a policy acts on several pages, a write to what is mapped read-only, or may be by then, is a piece of its own.
    """
    rules = process.machine.policy.rules
    single_pages = rules.copy_extent is one_page and rules.reuse_extent is one_page
    unknown = _again(vpns) | np.isin(vpns >> PMD_ORDER, vpns[~write] >> PMD_ORDER)
    done = 0
    for at in np.flatnonzero(write & (unknown | _read_only(process, vpns))).tolist():
        if not unknown[at] and (single_pages or not _read_only(process, vpns[at : at + 1])[0]):
            continue
        if done < at:
            yield done, at
        yield at, at + 1
        done = at + 1
    if done < len(vpns):
        yield done, len(vpns)


def _again(vpns: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which are not the first of their page."""
    again = np.ones(len(vpns), np.bool_)
    again[np.unique(vpns, return_index=True)[1]] = False
    return again


# --- a TLB that is asked page by page -------------------------------------------------------------------------------


class OneByOne:
    """A core's TLBs as `tlb.Tlb`, for accesses with a flush between nearly every two: what numpy is no help for.

    Each array is its sets, each a dict of tags in the order of their use; a tag is (order, number among that order's).
    """

    def __init__(self, core: Core) -> None:
        self._levels = [[_Array(array) for array in level] for level in core.levels]

    def walks(self, vpns: list[int], orders: list[int], flushed: list[bool]) -> int:
        """Look these pages up, in order, each after a flush of it or not; how many are found on no level."""
        walked = 0
        for vpn, order, flush in zip(vpns, orders, flushed, strict=True):
            if flush:
                self.shootdown(range(vpn, vpn + 1))
            walked += not self._found(vpn, order)
        return walked

    def _found(self, vpn: int, order: int) -> bool:
        for arrays in self._levels:
            kept = max(each for array in arrays for each in array.orders if each <= order)
            array = next(array for array in arrays if kept in array.orders)
            if array.access(kept, vpn >> kept):
                return True
        return False

    def shootdown(self, pages: range) -> None:
        """Drop every entry that covers any of these pages."""
        for array in self._arrays():
            array.drop(pages)

    def flush(self) -> None:
        """Drop everything."""
        for array in self._arrays():
            array.clear()

    def _arrays(self) -> Iterator[_Array]:
        return (array for level in self._levels for array in level)


class _Array:
    def __init__(self, entries: Entries) -> None:
        self.orders = entries.orders
        self._ways = entries.ways or entries.entries
        self._sets: list[dict[tuple[int, int], None]] = [{} for _ in range(entries.entries // self._ways)]

    def access(self, order: int, number: int) -> bool:
        held = self._sets[number % len(self._sets)]
        found = held.pop((order, number), self) is None
        held[order, number] = None
        if len(held) > self._ways:
            del held[next(iter(held))]
        return found

    def drop(self, pages: range) -> None:
        for order in self.orders:
            first, last = pages.start >> order, (pages.stop - 1) >> order
            if last - first > _MANY:
                self._drop_each(order, first, last)
                continue
            for number in range(first, last + 1):
                self._sets[number % len(self._sets)].pop((order, number), None)

    def _drop_each(self, order: int, first: int, last: int) -> None:
        for held in self._sets:
            for tag in [tag for tag in held if tag[0] == order and first <= tag[1] <= last]:
                del held[tag]

    def clear(self) -> None:
        for held in self._sets:
            held.clear()


_MANY = 1 << 11
"""From so many numbers on it is quicker to look at each entry."""
