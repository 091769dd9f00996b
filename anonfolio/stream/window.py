"""A stretch of a stream of accesses, and the window of pages around it that its plan needs to see."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..kernel import record
from ..kernel.index import as_slice
from ..kernel.mm import Mm
from ..kernel.pagetable import PTE_SPECIAL, PTE_WRITE
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD
from ..kernel.system import System
from ..kernel.vma import VM_HUGEPAGE, VM_NOHUGEPAGE, Vma

Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]
Pages = npt.NDArray[np.intp]

# A plan's byte: the path in the upper half, the order of the folio in the lower one. 0: no fault.
PATHS = {1: record.ZERO_READ, 2: record.FIRST_TOUCH, 3: record.ZERO_COPY, 4: record.COW_COPY, 5: record.REUSE}
ZERO_READ, FIRST_TOUCH, ZERO_COPY, COW_COPY, REUSE = (code << 4 for code in PATHS)


class Process(Protocol):
    """What a stream needs to know of the process that makes it."""

    @property
    def machine(self) -> System:
        """The machine it runs on."""

    @property
    def mm(self) -> Mm:
        """Its memory."""

    def step(self, vpn: int, access: str, value: int) -> None:
        """One access, taken the ordinary way."""


class Stretch:
    """One stretch of the stream, and the window of pages around it that its plan needs to see.

    Pages are numbered by their place in the window, which holds whole aligned blocks of the largest order that a fault
    can act on. Times are positions in the stretch; `accesses` stands for never.

    Attributes
    ----------
    at : ndarray of shape (accesses,), intp
        Place of each access.
    first_write, first_read : ndarray of shape (places,), int32
        When each page is first written and first read.
    plan : ndarray of shape (accesses,), uint8
        Path and order of the fault that each access takes.
    scanned : ndarray of shape (accesses,), int32, or None
        Entries that the fault reads to find its range; None while no fault reads any.
    stepping : ndarray of shape (places,), bool
        Pages all of whose accesses are stepped.
    copying, reusing : ndarray of shape (n,), intp
        Pages that are copied, or reused, one by one; ascending.
    end : int
        Accesses that are done; smaller than `accesses` when the plan was cut.
    """

    def __init__(self, process: Process, vpns: Pages | range, write: bool | Mask, value: int | Bytes) -> None:
        self.process, self.machine, self.mm = process, process.machine, process.mm
        self.memory, self.policy = process.machine.memory, process.machine.policy
        if isinstance(vpns, range) and vpns.step != 1:
            vpns = np.arange(vpns.start, vpns.stop, vpns.step)
        self.vpns, self.write, self.value = vpns, write, value
        self.accesses = self.end = len(vpns)
        self.stepped = 0
        self.orders = orders_anywhere(self.machine)
        self._open_window()
        self._note_first_accesses()
        self._earliest_writes = [self.first_write]
        bits = self.mm.pte[self.window]
        self.none = bits == 0
        self.writable = (bits & PTE_WRITE) > 0
        self.zero = (bits & PTE_SPECIAL) > 0
        self.plan = np.zeros(self.accesses, np.uint8)
        self.scanned: Times | None = None
        self.stepping: Mask | None = None
        self.copying = self.reusing = np.zeros(0, np.intp)
        self.last_copies: list[tuple[int, int]] = []
        self.huge: list[tuple[int, int]] = []
        self.huge_writes: list[tuple[int, int]] = []

    # --- the window ---------------------------------------------------------------------------------------------

    def _open_window(self) -> None:
        tile = max(self.orders, default=0)
        if self.policy.copy_extent == "source_order":
            tile = max(tile, self.policy.copy_max_order)
        self.tile = tile
        size = 1 << tile
        vpns = self.vpns
        in_step = isinstance(vpns, range)
        low, high = (vpns[0], vpns[-1]) if in_step else (int(np.min(vpns)), int(np.max(vpns)))
        self.first, end = low & -size, (high | (size - 1)) + 1
        self.vmas = self.mm.vmas_in(self.first, end)
        self.in_step = in_step
        self.window: slice | Pages
        self.at: Pages
        if in_step or end - self.first <= max(4 * self.accesses, PTRS_PER_PMD):
            self.dense = True
            self.window = slice(self.first, end)
            self.places = end - self.first
            self.at = np.arange(low - self.first, high + 1 - self.first) if in_step else np.asarray(vpns) - self.first
            return
        self.dense = False
        pages = np.asarray(vpns)
        tiles, tile_of = np.unique(pages >> tile, return_inverse=True)
        self.window = ((tiles << tile)[:, None] + np.arange(size)).reshape(-1)
        self.places = len(tiles) << tile
        self.at = (tile_of << tile) + (pages & (size - 1))

    def vpn_of(self, places: Pages) -> Pages:
        """Page numbers of places in the window."""
        return places + self.first if isinstance(self.window, slice) else self.window[places]

    def vpns_at(self, times: Pages, order: int = 0) -> Pages:
        """First page of the aligned block of 2**order pages that each of these accesses hits."""
        at = self.at[as_slice(times, rising=True)]
        return self.vpn_of(at & -(1 << order) if order else at)

    def read_only(self) -> Mask:
        """Pages that are mapped, not the zero page, and may not be written without a fault."""
        mapped: Mask = ~(self.none | self.zero | self.writable)
        return mapped if self.stepping is None else mapped & ~self.stepping

    def _note_first_accesses(self) -> None:
        never = self.accesses
        self.first_write = self.first_read = np.broadcast_to(np.int32(never), self.places)
        self.writes = self.write is True or (not isinstance(self.write, bool) and bool(self.write.any()))
        self.reads = self.write is False or (not isinstance(self.write, bool) and not bool(self.write.all()))
        if self.writes:
            self.first_write = self._first_accesses(True)
        if self.reads:
            self.first_read = self._first_accesses(False)

    def _first_accesses(self, wanted: bool) -> Times:
        first = np.full(self.places, self.accesses, np.int32)
        if not isinstance(self.write, bool):
            times = np.flatnonzero(self.write == wanted)
            first[self.at[times][::-1]] = times[::-1]
        elif self.in_step:
            start = int(self.at[0])
            first[start : start + self.accesses] = np.arange(self.accesses, dtype=np.int32)
        else:
            # Of several values for one place the last one stays: backwards, that is the earliest.
            first[self.at[::-1]] = np.arange(self.accesses - 1, -1, -1, dtype=np.int32)
        return first

    def earliest_write(self, order: int) -> Times:
        """Per aligned block of 2**order places: the earliest of their first writes."""
        while len(self._earliest_writes) <= order:
            times = self._earliest_writes[-1]
            self._earliest_writes.append(np.minimum(times[0::2], times[1::2]))
        return self._earliest_writes[order]

    def inside(self, order: int) -> Mask:
        """Which aligned blocks of the window lie inside one VMA."""
        return self._inside(order, self.vmas)

    def allowed(self, order: int) -> Mask:
        """Which of them may become a folio of that order on a first touch (`thp_vma_allowable_orders`)."""
        return self._inside(order, [vma for vma in self.vmas if order in orders_in(self.machine, vma)])

    def _inside(self, order: int, vmas: list[Vma]) -> Mask:
        size = 1 << order
        count = self.places >> order
        if len(vmas) == 1 and self.dense:
            good = np.zeros(count, np.bool_)
            good[max(0, -(-(vmas[0].start - self.first) // size)) : max(0, (vmas[0].end - self.first) // size)] = True
            return good
        starts = self.vpn_of(np.arange(0, self.places, size))
        if not vmas:
            return np.zeros(count, np.bool_)
        lows = np.array([vma.start for vma in vmas])
        highs = np.array([vma.end for vma in vmas])
        of = np.searchsorted(lows, starts, "right") - 1
        return np.asarray((of >= 0) & (starts + size <= highs[of]))

    # --- the plan -----------------------------------------------------------------------------------------------

    def last(self) -> int:
        return self.window.stop - 1 if isinstance(self.window, slice) else int(self.window[-1])

    def mark(self, times: Times, code: int, scanned: npt.NDArray[np.integer] | int = 0) -> None:
        """Plan one fault at each of these times."""
        self.plan[slice(None) if len(times) == self.accesses else times] = code
        if isinstance(scanned, np.ndarray) or scanned:
            if self.scanned is None:
                self.scanned = np.zeros(self.accesses, np.int32)
            self.scanned[times] = scanned

    def step_pages(self, places: Mask) -> None:
        """Let every access to these pages go through the ordinary path."""
        if self.stepping is None:
            self.stepping = np.zeros(self.places, np.bool_)
        self.stepping |= places


# --- which orders -----------------------------------------------------------------------------------------------------


def orders_anywhere(system: System) -> list[int]:
    """Orders below PMD size that any first touch may use, largest first."""
    return sorted((set(system.policy.fixed_orders) | system.knob_orders) - {PMD_ORDER}, reverse=True)


def orders_in(system: System, vma: Vma) -> set[int]:
    orders = set(system.policy.fixed_orders)
    if knobs_apply(system, vma):
        orders |= system.knob_orders
    return orders - {PMD_ORDER}


def knobs_apply(system: System, vma: Vma) -> bool:
    if vma.flags & VM_NOHUGEPAGE:
        return False
    return system.thp == "always" or bool(vma.flags & VM_HUGEPAGE)
