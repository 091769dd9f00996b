"""Whole access streams at once: the four fault paths on arrays of pages, equal to one fault at a time, bit for bit.

A stretch of the stream goes through three steps.

1. *Plan.* Each path decides for all its pages together which accesses fault, and with which folio order: one byte per
   access. Nothing of the machine changes. The functions are named for the paths: `plan_anonymous_pages` (first touch
   and zero-page read), `plan_zero_page_copies`, `plan_wp_pages` (CoW copy and exclusive reuse). What they cannot
   decide, because the outcome hangs on the order of accesses, they mark: those pages are *stepped*, that is, each
   access to them takes the ordinary fault path.
2. *Allocate.* In the order of the accesses: frames and folio numbers for runs of planned faults, the stepped accesses
   between them, folios freed by their last copy. Only the allocators and the stepped pages see this order; pages that
   are stepped share neither folio nor block with planned ones, so nothing else has to happen in order.
3. *Install.* Everything that was planned, path by path, in slices.

When an order runs out of blocks, or a huge page does not come to be, the plan is cut at that access: what lies before
is installed, that access is stepped, and the rest is planned anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from .contpte import unfold_blocks
from .faults import READ, WRITE, ZERO_BITS
from .memory import ZERO_PFN, Index, Memory, Numbers, as_run, as_slice, blocks_of, count_up, is_forward, rows_at
from .mm import (
    PMD_HUGE,
    PMD_NONE,
    PMD_TABLE,
    PTE_CONT,
    PTE_DIRTY,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    PTE_YOUNG,
    PTRS_PER_PMD,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
    Mm,
    Vma,
)
from .policy import PMD_ORDER, Policy
from .record import COW_COPY, FIRST_TOUCH, REUSE, ZERO_COPY, ZERO_READ
from .rmap import folios_add_new_anon_rmap, folios_remove_rmap_ptes, mapped_folios

if TYPE_CHECKING:
    from .machine import Machine, Process

Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]
_Each = TypeVar("_Each", bool | Mask, int | Bytes)
Pages = npt.NDArray[np.intp]

STRETCH_ACCESSES = 1 << 18
"""Accesses planned together: enough that an array of scattered pages fills its window."""
STRETCH_PAGES = 1 << 16
"""The same for ranges, whose windows are full anyway: what they need stays in the processor's cache."""
MOST_FRESH_PAGES = 1 << 24
"""The same where nothing is mapped yet: what is only filled need not fit the cache."""
SHORTEST_STRETCH = 1 << 10
"""After a cut, stretches get shorter down to this, so that replanning never costs more than stepping."""

# A plan's byte: the path in the upper half, the order of the folio in the lower one. 0: no fault.
_PATHS = {1: ZERO_READ, 2: FIRST_TOUCH, 3: ZERO_COPY, 4: COW_COPY, 5: REUSE}
_ZERO_READ, _FIRST_TOUCH, _ZERO_COPY, _COW_COPY, _REUSE = (code << 4 for code in _PATHS)
_WRITTEN = PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | PTE_WRITE


def _keep_temporaries() -> None:
    """Teach glibc to keep the memory of large temporary arrays instead of giving it back after each use.

    Clearing fresh pages for the next one costs more than what is done with it. To free one array of this size raises
    the threshold (mallopt(3), M_MMAP_THRESHOLD); none of its pages is ever touched, and elsewhere it means nothing.
    """
    np.empty(31 << 20, np.uint8)


_keep_temporaries()


@dataclass(frozen=True, slots=True)
class Touched:
    """What a stream did.

    Attributes
    ----------
    accesses : int
        Its length.
    faults : dict of str to int
        Faults by path (`anonfolio.record.PATHS`); an access may take none, or more than one.
    stepped : int
        Accesses that were handled one at a time, because their outcome hangs on the order of accesses in a way that
        is not vectorised.
    """

    accesses: int
    faults: dict[str, int]
    stepped: int


def touch_stream(
    process: Process,
    vpns: Pages | range,
    write: bool | Mask,
    value: int | Bytes,
    progress: Callable[[int, int], None] | None,
) -> Touched:
    """Do the accesses, whose arguments were checked. `progress(done, all)` is called after each stretch."""
    counted = dict(process.machine.counters.faults)
    total, done, stepped = len(vpns), 0, 0
    longest = STRETCH_PAGES if isinstance(vpns, range) else STRETCH_ACCESSES
    length = longest
    fresh_length = STRETCH_PAGES
    while done < total:
        fresh = 0
        if isinstance(vpns, range) and write is True and isinstance(value, int):
            fresh = touch_fresh_range(process, vpns[done : done + fresh_length], value)
            fresh_length = min(2 * fresh_length, MOST_FRESH_PAGES) if fresh else STRETCH_PAGES
            done += fresh
        elif write is False:
            fresh = touch_by_reads(process, vpns[done : done + longest])
            done += fresh
        if not fresh:
            part = slice(done, min(done + length, total))
            writes, values = _part(write, part), _part(value, part)
            stretch = _Stretch(process, vpns[part], writes, values)
            stretch.run()
            stepped += stretch.stepped
            done += stretch.end
            length = min(2 * length, longest)
            if stretch.end < stretch.accesses:
                length = max(SHORTEST_STRETCH, 2 * stretch.end)
                step_one(process, vpns, write, value, done)
                stepped += 1
                done += 1
        if progress:
            progress(done, total)
    faults = {path: count - counted.get(path, 0) for path, count in process.machine.counters.faults.items()}
    return Touched(total, {path: count for path, count in faults.items() if count}, stepped)


def _part(each: _Each, part: slice) -> _Each:
    """The same part of an argument that may be one for all."""
    return each[part] if isinstance(each, np.ndarray) else each


def step_one(process: Process, vpns: Pages | range, write: bool | Mask, value: int | Bytes, at: int) -> None:
    """One access of the stream through the ordinary path."""
    writes = bool(write[at]) if isinstance(write, np.ndarray) else write
    byte = int(value[at]) if isinstance(value, np.ndarray) else value
    process._step(int(vpns[at]), WRITE if writes else READ, byte)


def touch_fresh_range(process: Process, pages: range, value: int) -> int:
    """Write pages in order where nothing is mapped yet; returns how many were done.

    None unless the range consists of aligned blocks of the largest order that its VMA allows. Each block then faults
    on its first page, and its other pages find themselves mapped: nothing is left to plan.
    """
    machine, mm, memory = process.machine, process.mm, process.machine.memory
    vma = mm.find_vma(pages.start)
    if vma is None or pages.step != 1 or not pages or pages.stop > vma.end:
        return 0
    order = max(_orders_in(machine, vma), default=0)
    states = mm.pmd[pages.start >> 9 : ((pages.stop - 1) >> 9) + 1]
    huge = states == (PMD_NONE if PMD_ORDER in machine.knob_orders else PMD_HUGE)
    if (pages.start | pages.stop) & ((1 << order) - 1) or bool(huge.any()):
        return 0
    # Where no page table was there is no entry; to look would bring in memory.
    if bool(states.any()) and bool(mm.pte[pages.start : pages.stop].any()):
        return 0
    mm.anon_vma_prepare(vma)
    heads = memory.buddy.alloc_many(order, len(pages) >> order)
    if not len(heads):
        return 0
    folios = memory.take_folios(len(heads))
    done = len(heads) << order
    block = slice(pages.start >> order, (pages.start + done) >> order)
    _install_blocks(process, block, heads, folios, order, value)
    mm.pmd[pages.start >> 9 : ((pages.start + done - 1) >> 9) + 1] = PMD_TABLE
    machine.counters.add_many(FIRST_TOUCH, order, len(heads))
    machine.counters.scanned += done if order else 0
    return done


def touch_by_reads(process: Process, pages: Pages | range) -> int:
    """Read pages, in any order: each that nothing maps gets the zero page; returns how many were done.

    None where a read may bring the huge zero page, or where the pages lie too far apart to be marked in a row of bytes.
    """
    machine, mm = process.machine, process.mm
    low, high = int(min(pages[0], pages[-1])), int(max(pages[0], pages[-1])) + 1
    if not isinstance(pages, range):
        low, high = int(pages.min()), int(pages.max()) + 1
    tables = mm.pmd[low >> 9 : ((high - 1) >> 9) + 1]
    if high - low > max(PTRS_PER_PMD, 4 * len(pages)) or (PMD_ORDER in machine.knob_orders and not bool(tables.all())):
        return 0
    read = np.zeros(high - low, np.bool_)
    read[slice(None, None, abs(pages.step)) if isinstance(pages, range) else pages - low] = True
    entries = mm.pte[low:high]
    read &= entries == 0
    found = int(np.count_nonzero(read))
    if found:
        np.copyto(entries, np.uint8(ZERO_BITS), where=read)
        np.copyto(mm.own_pfns()[low:high], np.int32(ZERO_PFN), where=read)
        make_page_tables(mm, low, high)
        machine.counters.add_many(ZERO_READ, 0, found)
    return len(pages)


def make_page_tables(mm: Mm, first: int, end: int) -> None:
    """A page table hangs wherever something is mapped now (`pte_alloc`)."""
    pmds = slice(first >> 9, ((end - 1) >> 9) + 1)
    states = mm.pmd[pmds]
    new = states == PMD_NONE
    if bool(new.any()):
        new &= blocks_of(mm.pte, 9)[pmds].view(np.uint64).any(axis=1)
        states[new] = PMD_TABLE


@dataclass(slots=True)
class _Faults:
    """The planned faults in the order of the accesses, and the folios for those that need one, as far as handed out."""

    times: Pages
    codes: Codes
    alloc_times: Pages
    alloc_codes: Codes
    heads: list[Numbers] = field(default_factory=list)
    folios: list[Numbers] = field(default_factory=list)
    allocated: int = 0

    @classmethod
    def of(cls, plan: Codes) -> _Faults:
        times = np.arange(len(plan)) if bool(plan.all()) else np.flatnonzero(plan)
        codes = plan[as_slice(times, rising=True)]
        allocates = (codes >= _FIRST_TOUCH) & (codes < _REUSE)
        if bool(allocates.all()):
            return cls(times, codes, times, codes)
        return cls(times, codes, times[allocates], codes[allocates])


class _Stretch:
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
        self.orders = _orders_anywhere(self.machine)
        self._open_window()
        self._note_first_accesses()
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

    def inside(self, order: int) -> Mask:
        """Which aligned blocks of the window lie inside one VMA."""
        return self._inside(order, self.vmas)

    def allowed(self, order: int) -> Mask:
        """Which of them may become a folio of that order on a first touch (`thp_vma_allowable_orders`)."""
        return self._inside(order, [vma for vma in self.vmas if order in _orders_in(self.machine, vma)])

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

    def make_page_tables(self) -> None:
        """A page table hangs wherever something is mapped now (`pte_alloc`)."""
        if isinstance(self.window, slice):
            make_page_tables(self.mm, self.first, self._last() + 1)
            return
        mapped = self.window[self.mm.pte[self.window] > 0] >> 9
        self.mm.pmd[mapped[self.mm.pmd[mapped] == PMD_NONE]] = PMD_TABLE

    # --- run ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Plan, allocate, install."""
        bits = self.mm.pte[self.window]
        self.none = bits == 0
        self.writable = (bits & PTE_WRITE) > 0
        self.zero = (bits & PTE_SPECIAL) > 0
        self._set_huge_aside()
        plan_anonymous_pages(self)
        if self.writes:
            plan_zero_page_copies(self)
            plan_wp_pages(self)
        faults = _Faults.of(self.plan)
        self._allocate(faults)
        install(self, faults)

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

    # --- PMD level ----------------------------------------------------------------------------------------------

    def _set_huge_aside(self) -> None:
        """2 MiB that are mapped by PMD, or will be, are stepped once: after that, none of their pages faults.

        `_settled` checks that it came so.
        """
        low, high = self.first >> 9, -(-(self._last() + 1) // PTRS_PER_PMD)
        states = self.mm.pmd[low:high]
        special = states == PMD_HUGE
        if PMD_ORDER in self.machine.knob_orders:
            special = special | (states == PMD_NONE)
        if not special.any():
            return
        pmds = self.vpn_of(np.arange(self.places)) >> 9
        starts = np.concatenate((np.zeros(1, np.intp), np.flatnonzero(np.diff(pmds)) + 1))
        reads = np.minimum.reduceat(self.first_read, starts).tolist()
        writes = np.minimum.reduceat(self.first_write, starts).tolist()
        ends = [*starts[1:].tolist(), self.places]
        for at, stop, read, write in zip(starts.tolist(), ends, reads, writes, strict=True):
            pmd = int(pmds[at])
            if not special[pmd - low]:
                continue
            huge = states[pmd - low] == PMD_HUGE
            if not huge and not self._may_be_huge(pmd << 9):
                continue
            self.none[at:stop] = self.zero[at:stop] = False
            writable = bool(self.writable[at])
            self.writable[at:stop] = True
            if huge and writable:
                self.huge_writes.append((pmd << 9, write))
            if not huge:
                self.huge.append((min(read, write), write))
                if read < write < self.accesses:
                    self.huge.append((write, write))
            elif not writable and write < self.accesses:
                self.huge.append((write, write))
        self.huge.sort()

    def _last(self) -> int:
        return self.window.stop - 1 if isinstance(self.window, slice) else int(self.window[-1])

    def _may_be_huge(self, start: int) -> bool:
        vma = self.mm.find_vma(start)
        return vma is not None and vma.end >= start + PTRS_PER_PMD and _knobs_apply(self.machine, vma)

    def _settled(self, time: int, first_write: Vma | int) -> bool:
        vpn = int(self.vpns[time])
        assert isinstance(first_write, int)
        return self.mm.is_huge(vpn) and (time < first_write or bool(self.mm.pte[vpn] & PTE_WRITE))

    # --- allocate -----------------------------------------------------------------------------------------------

    def _allocate(self, faults: _Faults) -> None:
        freed = False
        for time, rank, what in self._events(faults.alloc_times):
            upto = int(np.searchsorted(faults.alloc_times, time, "right" if rank == FREE else "left"))
            if not self._allocate_upto(faults, upto):
                return
            if rank == PREPARE:
                assert isinstance(what, Vma)
                self.mm.anon_vma_prepare(what)
            elif rank == FREE:
                freed = True
                assert isinstance(what, int)
                self.memory.release_folios(*_folio_to_free(self.memory, what))
            elif freed:
                # A stepped fault must not get a folio whose old counts are still to be taken down.
                self.end = time
                return
            else:
                step_one(self.process, self.vpns, self.write, self.value, time)
                self.stepped += 1
                if rank == HUGE and not self._settled(time, what):
                    self.end = time + 1
                    return
        self._allocate_upto(faults, len(faults.alloc_times))

    def _allocate_upto(self, faults: _Faults, upto: int) -> bool:
        """Hand out folios for the next planned faults; False, and the plan cut, when an order is not to be had."""
        start = faults.allocated
        if start >= upto:
            return True
        orders = faults.alloc_codes[start:upto] & 15
        cuts = (np.flatnonzero(orders[1:] != orders[:-1]) + 1).tolist()
        for first, stop in zip([0, *cuts], [*cuts, len(orders)], strict=True):
            heads = self.memory.buddy.alloc_many(int(orders[first]), stop - first)
            faults.heads.append(heads)
            faults.folios.append(self.memory.take_folios(len(heads)))
            faults.allocated += len(heads)
            if len(heads) < stop - first:
                self.end = int(faults.alloc_times[faults.allocated])
                return False
        return True

    def _events(self, alloc_times: Pages) -> list[tuple[int, int, Vma | int]]:
        """What must happen at its own place among the allocations: (time, rank, what), in order."""
        events: list[tuple[int, int, Vma | int]] = []
        events += [(time, PREPARE, vma) for time, vma in self._first_anon_pages(alloc_times)]
        events += [(time, HUGE, write) for time, write in self.huge if time < self.accesses]
        if self.stepping is not None:
            events += [(time, STEP, 0) for time in np.flatnonzero(self.stepping[self.at]).tolist()]
        events += [(time, FREE, folio) for time, folio in self.last_copies]
        events.sort(key=lambda event: event[:2])
        return events

    def _first_anon_pages(self, times: Pages) -> Iterator[tuple[int, Vma]]:
        if not len(times):
            return
        bare = [vma for vma in self.vmas if not vma.anon_vma]
        if len(self.vmas) == 1:
            yield from ((int(times[0]), vma) for vma in bare)
            return
        pages = self.vpn_of(self.at[times]) if bare else times
        for vma in bare:
            here = (pages >= vma.start) & (pages < vma.end)
            if here.any():
                yield int(times[here.argmax()]), vma


PREPARE, HUGE, STEP, FREE = range(4)
"""What happens at one time, in this order: anon_vma, stepped accesses, and after the allocation the freed folio."""


# --- which orders -----------------------------------------------------------------------------------------------------


def _orders_anywhere(machine: Machine) -> list[int]:
    """Orders below PMD size that any first touch may use, largest first."""
    return sorted((set(machine.policy.fixed_orders) | machine.knob_orders) - {PMD_ORDER}, reverse=True)


def _orders_in(machine: Machine, vma: Vma) -> set[int]:
    orders = set(machine.policy.fixed_orders)
    if _knobs_apply(machine, vma):
        orders |= machine.knob_orders
    return orders - {PMD_ORDER}


def _knobs_apply(machine: Machine, vma: Vma) -> bool:
    if vma.flags & VM_NOHUGEPAGE:
        return False
    return machine.thp == "always" or bool(vma.flags & VM_HUGEPAGE)


# --- blocks -----------------------------------------------------------------------------------------------------------


def all_of(marked: Mask, order: int) -> Mask:
    """Per aligned block of 2**order places: are all of them marked? Eight at a time, then pair by pair."""
    level = min(order, 3)
    word = {0: np.uint8, 1: np.uint16, 2: np.uint32, 3: np.uint64}[level]
    ones = int.from_bytes(b"\1" * (1 << level), "little")
    good: Mask = marked.view(word) == word(ones)
    for _ in range(order - level):
        good = good[0::2] & good[1::2]
    return good


def earliest(times: Times, order: int) -> Times:
    """Per aligned block of 2**order places: the earliest of their times."""
    for _ in range(order):
        times = np.minimum(times[0::2], times[1::2])
    return times


def maximal_blocks(usable: Mask, allowed: dict[int, Mask]) -> tuple[list[tuple[int, Pages]], Mask]:
    """Partition usable places into the largest allowed aligned blocks: (order, block numbers), and the single places.

    Decided level by level, the largest order first. Aligned blocks nest, so a block that fits and lies in no larger one
    that fits stays whole until one of its own places is touched: which folios a set of first touches makes does
    not depend on their order.
    """
    left = usable.copy()
    blocks = []
    for order, good in allowed.items():
        found = np.flatnonzero(all_of(left, order) & good)
        if len(found):
            blocks_of(left, order)[as_slice(found, rising=True)] = False
            blocks.append((order, found))
    return blocks, left


# --- first touch, and the zero page -----------------------------------------------------------------------------------


def plan_anonymous_pages(stretch: _Stretch) -> None:
    """Nothing is mapped: the first read gets the zero page, the first write a folio (`do_anonymous_page`).

    Writes alone: `maximal_blocks` of the none pages; a block's fault is its earliest write. A read before that makes a
    hole in the block. When all reads of a block come before its first write, the block is partitioned again
    without those pages; when they come after it, they do not fault; when they are mixed, the block is stepped.
    """
    _step_torn_zero_tiles(stretch)
    if not stretch.none.any():
        return
    allowed = {order: stretch.allowed(order) for order in stretch.orders} if stretch.writes else {}
    none = stretch.none
    blocks, singles = maximal_blocks(none, allowed)
    if stretch.reads and blocks:
        none = _without_early_reads(stretch, none, blocks)
        blocks, singles = maximal_blocks(none, allowed)
    mapped_at = np.where(stretch.none, np.int32(stretch.accesses), np.int32(-1))
    faults: list[tuple[int, Pages, Times]] = []
    for order, block in blocks:
        at = as_slice(block, rising=True)
        times = earliest(stretch.first_write, order)[at]
        blocks_of(mapped_at, order)[at] = times[:, None]
        touched = times < stretch.accesses
        faults.append((order, block[touched], times[touched]))
    place = np.flatnonzero(singles & (stretch.first_write < stretch.first_read))
    if len(place):
        at = as_slice(place, rising=True)
        times = stretch.first_write[at]
        mapped_at[at] = times
        faults.append((0, place, times))
    _plan_zero_reads(stretch, mapped_at)
    for order, block, times in faults:
        stretch.mark(times, _FIRST_TOUCH | order, _scanned_to_fit(allowed, mapped_at, order, block, times))


def _plan_zero_reads(stretch: _Stretch, mapped_at: Times) -> None:
    """A read of what nothing has mapped before maps the zero page, one entry."""
    if not stretch.reads:
        return
    reading = stretch.none & (stretch.first_read < mapped_at)
    times = stretch.first_read[reading]
    stretch.mark(times, _ZERO_READ)
    mapped_at[reading] = times
    stretch.zero |= reading


def _without_early_reads(stretch: _Stretch, none: Mask, blocks: list[tuple[int, Pages]]) -> Mask:
    """The none pages but for those that a read has taken before the first write of their block."""
    none = none.copy()
    for order, block in blocks:
        at = as_slice(block, rising=True)
        written = earliest(stretch.first_write, order)[at]
        reads = blocks_of(stretch.first_read, order)[at]
        read = reads < np.minimum(blocks_of(stretch.first_write, order)[at], stretch.accesses)
        early = read & (reads < written[:, None])
        torn = early.any(axis=1) & (written < stretch.accesses)
        if not torn.any():
            continue
        mixed = torn & (read & ~early).any(axis=1)
        blocks_of(none, order)[block[torn]] &= ~early[torn]
        if bool(mixed.any()):
            tile = stretch.orders[0]
            tiles = np.zeros(stretch.places >> tile, np.bool_)
            tiles[block[mixed] >> (tile - order)] = True
            _step_tiles(stretch, tiles, tile)
    none &= stretch.none
    return none


def _step_tiles(stretch: _Stretch, tiles: Mask, tile: int) -> None:
    """Step all that is none or zero page in some blocks of 2**tile pages: there, one fault looks at another's pages."""
    places = np.repeat(tiles, 1 << tile) & (stretch.none | stretch.zero)
    stretch.step_pages(places)
    stretch.none &= ~places
    stretch.zero &= ~places


def _step_torn_zero_tiles(stretch: _Stretch) -> None:
    """Where a write on a zero page is a first touch (RFC v2), only blocks of nothing but zero pages are planned."""
    if stretch.policy.zero_page_write == "page" or not stretch.orders or not stretch.writes:
        return
    zero = stretch.zero | (stretch.none & (stretch.first_read < stretch.first_write))
    zero &= stretch.first_write < stretch.accesses
    tile = stretch.orders[0]
    torn = blocks_of(zero, tile).any(axis=1) & ~_whole_zero_tiles(stretch, tile)
    if bool(torn.any()):
        _step_tiles(stretch, torn, tile)


def _whole_zero_tiles(stretch: _Stretch, tile: int) -> Mask:
    if stretch.policy.zero_neighbours == "none_only":
        return np.zeros(stretch.places >> tile, np.bool_)
    return all_of(stretch.zero, tile) & stretch.allowed(tile)


def _scanned_to_fit(
    allowed: dict[int, Mask], mapped_at: Times, order: int, block: Pages, times: Times
) -> npt.NDArray[np.integer] | int:
    """Entries read until an order fits: up to the first page in the way for each that does not, and the block itself.

    What is in the way depends on when: pages that an earlier access has mapped count.
    """
    larger = [wider for wider in allowed if wider > order]
    own = 1 << order if order else 0
    scanned: npt.NDArray[np.integer] | int = own
    for wider in larger:
        outer = block >> (wider - order)
        tried = np.flatnonzero(allowed[wider][outer])
        if not len(tried):
            continue
        if isinstance(scanned, int):
            scanned = np.full(len(block), own, np.int32)
        piece = max(1, (1 << 20) >> wider)
        for first in range(0, len(tried), piece):
            some = tried[first : first + piece]
            in_the_way = blocks_of(mapped_at, wider)[outer[some]] < times[some][:, None]
            scanned[some] += in_the_way.argmax(axis=1) + 1
    return scanned


def plan_zero_page_copies(stretch: _Stretch) -> None:
    """A write on the zero page (`wp_page_copy`): one page in released kernels, independent of all others.

    RFC v2 treats it as a first touch of none pages and zero pages together (patch 15): a block of the largest order
    that is all zero pages is replaced at its earliest write. Any other block was stepped (`_step_torn_zero_tiles`).
    """
    written = stretch.zero & (stretch.first_write < stretch.accesses)
    if not bool(written.any()):
        return
    if stretch.policy.zero_page_write == "page" or not stretch.orders:
        stretch.mark(stretch.first_write[written], _ZERO_COPY)
        return
    order = stretch.orders[0]
    times = earliest(stretch.first_write, order)[blocks_of(written, order).any(axis=1)]
    stretch.mark(times, _ZERO_COPY | order, 1 << order)


# --- write on what is mapped read-only --------------------------------------------------------------------------------


def plan_wp_pages(stretch: _Stretch) -> None:
    """A write meets a read-only page: reuse it or copy it (`do_wp_page`)."""
    places = np.flatnonzero(stretch.read_only() & (stretch.first_write < stretch.accesses))
    if not len(places):
        return
    memory, policy = stretch.memory, stretch.policy
    pfns = rows_at(stretch.mm.pfn[stretch.window], as_slice(places, rising=True))
    frames = as_run(pfns)
    folios = memory.folio_of[frames]
    large = rows_at(memory.order, as_slice(folios)) > 0
    if not bool(large.any()):
        plan_wp_small_folios(stretch, places, pfns, frames, folios)
        return
    if isinstance(frames, slice):
        back = pfns - np.int32(frames.start)
        frames, folios, large = as_slice(pfns), folios.take(back), large.take(back)
    if policy.copy_extent == "page" and policy.reuse_extent == "page":
        plan_wp_single_pages(stretch, places, frames, folios, large)
        return
    plan_wp_whole_folios(stretch, folios[large])
    small = np.flatnonzero(~large)
    if len(small):
        plan_wp_small_folios(stretch, places[small], pfns[small], pfns[small].astype(np.intp), folios[small])


def plan_wp_small_folios(stretch: _Stretch, places: Pages, pfns: Numbers, frames: Index, folios: Numbers) -> None:
    """Folios of one page, in every kernel: reused if marked or if one reference is left, else copied.

    Each is mapped once here, so that no fault changes what the next one finds. `folios` go by `frames`: the same frames
    as `pfns`, which go by `places`, or the run that these are in another order.
    """
    reuse = rows_at(stretch.memory.anon_exclusive, frames)
    if not bool(reuse.all()):
        reuse = reuse | (rows_at(stretch.memory.refcount, as_slice(folios)) == 1)
        if isinstance(frames, slice) and bool(reuse.any()) and not bool(reuse.all()):
            reuse = reuse.take(pfns - np.int32(frames.start))
    _mark_reuses_and_copies(stretch, places, reuse)


def plan_wp_single_pages(stretch: _Stretch, places: Pages, frames: Index, folios: Numbers, large: Mask) -> None:
    """Pages one by one (every released kernel): the marked ones are reused, of the others those that pass the test.

    The tests ask for counts that copies of this stream take down. For all but 6.8's the answer stays what it was
    at first: a copy takes one mapping and one reference at once, and the shared bit of a folio clears only with the
    last page of a sharer.
    """
    memory = stretch.memory
    reuse = rows_at(memory.anon_exclusive, frames)
    if not bool(reuse.all()):
        test = _test(stretch.policy)
        at = as_slice(folios)
        sole = ~large & (rows_at(memory.refcount, at) == 1)
        if test == "mm_id":
            sole |= large & _one_mm(stretch, at)
        elif test == "refcount_one":
            sole |= large & _last_reference(stretch, places, folios, ~reuse)
        reuse = reuse | sole
        stretch.last_copies = _last_copies(stretch, places, folios, large & ~reuse)
    _mark_reuses_and_copies(stretch, places, reuse)


def _mark_reuses_and_copies(stretch: _Stretch, places: Pages, reuse: Mask) -> None:
    scanned = 1 if stretch.policy.reuse_extent == "range" else 0
    if bool(reuse.all()):
        stretch.mark(stretch.first_write[as_slice(places, rising=True)], _REUSE, scanned)
        stretch.reusing = places
        return
    if bool(reuse.any()):
        stretch.reusing = places[reuse]
        stretch.mark(stretch.first_write[stretch.reusing], _REUSE, scanned)
        places = places[~reuse]
    stretch.mark(stretch.first_write[as_slice(places, rising=True)], _COW_COPY)
    stretch.copying = places


def _test(policy: Policy) -> str:
    # The scan of one page asks for one reference.
    return "refcount_one" if policy.large_reuse == "scan" and policy.reuse_extent == "page" else policy.large_reuse


def _last_reference(stretch: _Stretch, places: Pages, folios: Numbers, unmarked: Mask) -> Mask:
    """6.8: each copy takes a reference away; the page that then has the only one left is reused."""
    refcount = stretch.memory.refcount[folios]
    candidates = np.flatnonzero(unmarked & (refcount <= PTRS_PER_PMD))
    sole = np.zeros(len(folios), np.bool_)
    order = candidates[np.lexsort((stretch.first_write[places[candidates]], folios[candidates]))]
    starts = np.flatnonzero(np.diff(folios[order], prepend=-1))
    copied_before = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    sole[order] = refcount[order] - copied_before == 1
    return sole


def _one_mm(stretch: _Stretch, folios: Index) -> Mask:
    """6.15: all mappings and references are this mm's (`__wp_can_reuse_large_anon_folio`)."""
    memory = stretch.memory
    mapcount = rows_at(memory.large_mapcount, folios)
    shared = rows_at(memory.maybe_mapped_shared, folios)
    alone: Mask = (mapcount > 1) & ~shared & (mapcount == rows_at(memory.refcount, folios))
    return alone


def _last_copies(stretch: _Stretch, places: Pages, folios: Numbers, copied: Mask) -> list[tuple[int, int]]:
    """Large folios that lose their last reference to a copy of this stretch: when, and which."""
    memory = stretch.memory
    at = as_slice(folios)
    copied &= rows_at(memory.refcount, at) <= np.int32(1) << rows_at(memory.order, at)
    may_go = np.flatnonzero(copied)
    if not len(may_go):
        return []
    owner, copies_of = np.unique(folios[may_go], return_inverse=True)
    last = np.zeros(len(owner), np.int32)
    np.maximum.at(last, copies_of, stretch.first_write[places[may_go]])
    gone = np.bincount(copies_of) == memory.refcount[owner]
    return list(zip(last[gone].tolist(), owner[gone].tolist(), strict=True))


def plan_wp_whole_folios(stretch: _Stretch, folios: Numbers) -> None:
    """Ranges (RFC v2): large folios that a process maps whole, aligned, read-only and uniformly.

    Then the range of a reuse is the folio, and so is that of a copy: each folio takes one fault, its earliest write. A
    folio that is mapped in any other way is stepped, with all its pages.
    """
    memory, policy = stretch.memory, stretch.policy
    planned = [folios[:0]]
    for order in np.flatnonzero(np.bincount(memory.order[folios])).tolist():
        if order > stretch.tile:
            continue
        size = 1 << order
        block, owner, exclusive = _whole_folios(stretch, order)
        times = earliest(stretch.first_write, order)[block]
        sole = exclusive | _sole_owner(stretch, owner, size)
        # As for a reuse, the scan that finds another owner has read the folio's entries too.
        scans = policy.reuse_extent == "range"
        looked = np.where(sole | (_test(policy) == "scan"), size if scans else 0, 0)
        if scans:
            stretch.mark(times[sole], _REUSE | order, looked[sole])
        else:
            written = blocks_of(stretch.first_write, order)[block[sole]]
            stretch.mark(written[written < stretch.accesses], _REUSE)
        planned.append(owner[sole])
        if policy.copy_extent == "source_order" and order <= policy.copy_max_order:
            stretch.mark(times[~sole], _COW_COPY | order, looked[~sole] + size)
            planned.append(owner[~sole])
            gone = ~sole & (memory.refcount[owner] == size)
            stretch.last_copies += zip(times[gone].tolist(), owner[gone].tolist(), strict=True)
    odd = np.setdiff1d(folios, np.concatenate(planned))
    if not len(odd):
        return
    mapped = np.flatnonzero(~(stretch.none | stretch.zero))
    mapped = mapped[np.isin(memory.folio_of[stretch.mm.pfn[stretch.window][mapped]], odd)]
    places = np.zeros(stretch.places, np.bool_)
    places[mapped] = True
    stretch.step_pages(places)


def _whole_folios(stretch: _Stretch, order: int) -> tuple[Pages, Numbers, Mask]:
    """Blocks that are written here and map a whole folio of that order read-only, all of it exclusive or nothing.

    Returns the blocks' numbers, the folios, and whether they are exclusive.
    """
    memory, size = stretch.memory, 1 << order
    rows = blocks_of(stretch.mm.pfn[stretch.window], order)
    good = all_of(stretch.read_only(), order) & stretch.inside(order) & (rows[:, 0] & (size - 1) == 0)
    good &= earliest(stretch.first_write, order) < stretch.accesses
    block = np.flatnonzero(good)
    heads = rows[block, 0]
    owner = memory.folio_of[heads]
    marked = blocks_of(memory.anon_exclusive, order)[heads >> order]
    exclusive = marked.all(axis=1)
    fits = (memory.order[owner] == order) & (exclusive | ~marked.any(axis=1))
    fits &= (rows[block] == heads[:, None] + np.arange(size, dtype=np.int32)).all(axis=1)
    return block[fits], owner[fits], exclusive[fits]


def _sole_owner(stretch: _Stretch, owner: Numbers, size: int) -> Mask:
    """Whether folios that a process maps whole pass the policy's test for its first page."""
    test = _test(stretch.policy)
    if test == "scan":
        whole: Mask = stretch.memory.refcount[owner] == size
        return whole
    if test == "mm_id":
        return _one_mm(stretch, as_slice(owner))
    # One reference is never all there is of a folio that is mapped whole.
    return np.zeros(len(owner), np.bool_)


def _folio_to_free(memory: Memory, folio: int) -> tuple[Numbers, Numbers, Codes]:
    only = np.array([folio], np.int32)
    return only, memory.head[only], memory.order[only]


# --- install ----------------------------------------------------------------------------------------------------------


def install(stretch: _Stretch, faults: _Faults) -> None:
    """Carry out the plan up to where it was cut.

    Zero pages come first, for a later write may have replaced them; then what copies leave behind, since a folio that
    they free may be handed out again.
    """
    count = len(faults.times) if stretch.end == stretch.accesses else int(np.searchsorted(faults.times, stretch.end))
    times, codes = faults.times[:count], faults.codes[:count]
    kinds = _by_code(codes)
    for code, chosen in kinds.items():
        if code == _ZERO_READ:
            _install_zero_reads(stretch, times[chosen])
    _unfold_blocks(stretch, times, kinds)
    if faults.allocated:
        _install_folios(stretch, faults)
    for code, chosen in kinds.items():
        if code >= _REUSE:
            _install_reuses(stretch, times[chosen], code & 15)
    stretch.make_page_tables()
    _write_contents(stretch)
    for code, chosen in kinds.items():
        stretch.machine.counters.add_many(_PATHS[code >> 4], code & 15, len(times[chosen]))
    if stretch.scanned is not None:
        stretch.machine.counters.scanned += int(stretch.scanned[as_slice(times, rising=True)].sum())


def _unfold_blocks(stretch: _Stretch, times: Pages, kinds: dict[int, Index]) -> None:
    """Copies and reuses of less than a folded block unfold it, and nothing in a stream folds it again."""
    cont = stretch.policy.cont_pte_order
    for code, chosen in kinds.items():
        if code >= _COW_COPY and code & 15 < cont:
            unfold_blocks(stretch.mm, np.unique(stretch.vpns_at(times[chosen]) >> cont))


def _written(policy: Policy, order: int) -> int:
    """The bits of entries that one fault sets for a whole folio of that order."""
    cont = policy.cont_pte_order
    return _WRITTEN | (PTE_CONT if cont and order >= cont else 0)


def _by_code(codes: Codes) -> dict[int, Index]:
    """Where each code is."""
    if not len(codes):
        return {}
    if codes.min() == codes.max():
        return {int(codes[0]): slice(None)}
    return {code: np.flatnonzero(codes == code) for code in np.flatnonzero(np.bincount(codes)).tolist()}


def _install_zero_reads(stretch: _Stretch, times: Pages) -> None:
    vpns = stretch.vpns_at(times)
    index = as_slice(vpns, rising=stretch.in_step)
    stretch.mm.own_pfns()[index] = ZERO_PFN
    stretch.mm.pte[index] = ZERO_BITS


def _install_folios(stretch: _Stretch, faults: _Faults) -> None:
    count = faults.allocated
    times = faults.alloc_times[:count]
    heads, folios = _joined(faults.heads), _joined(faults.folios)
    kinds = _by_code(faults.alloc_codes[:count])
    contents = {
        code: _take_copies(stretch, times[chosen], code & 15) for code, chosen in kinds.items() if code >= _COW_COPY
    }
    for code, chosen in kinds.items():
        content = contents.get(code, 0)
        _map_new_folios(stretch, times[chosen], heads[chosen], folios[chosen], code & 15, content)


def _joined(parts: list[Numbers]) -> Numbers:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _take_copies(stretch: _Stretch, times: Pages, order: int) -> Bytes | None:
    """What is copied, in the order of the faults; None for single pages, which the access overwrites.

    The sources are counted down and, if nobody is left, cleared.
    """
    memory, size = stretch.memory, 1 << order
    pfn = blocks_of(stretch.mm.pfn, order)
    block = stretch.vpns_at(times, order) >> order
    content = None
    if order:
        heads = rows_at(pfn, as_slice(block, rising=stretch.in_step))[:, 0]
        # A copy, not a view: what these frames hold is lost if they are freed and handed out again.
        content = rows_at(blocks_of(memory.content, order), as_slice(heads >> order)).copy()
    # Counting goes by pages: there, what belongs together lies together.
    if order == 0 and len(stretch.copying) == len(block):
        block = stretch.vpn_of(stretch.copying)
    elif not stretch.in_step:
        block = np.sort(block)
    pages = block if order == 0 else ((block << order)[:, None] + np.arange(size)).reshape(-1)
    mapped = mapped_folios(memory, rows_at(pfn, as_slice(block, rising=True)).reshape(-1), pages)
    gone = folios_remove_rmap_ptes(memory, mapped, stretch.mm.id, singly=order == 0)
    if len(gone):
        memory.clear_folios(gone)
    stretch.mm.rss_pages -= len(times) << order
    return content


def _map_new_folios(
    stretch: _Stretch, times: Pages, heads: Numbers, folios: Numbers, order: int, content: int | Bytes | None
) -> None:
    """`_map_new_folio` for folios of one order."""
    vpns = stretch.vpns_at(times, order)
    block = as_slice(vpns >> order if order else vpns, rising=stretch.in_step)
    # A folio of one page is there for a write, which overwrites what it contains.
    _install_blocks(stretch.process, block, heads, folios, order, content if order else None)


def _install_blocks(
    process: Process, block: Index, heads: Numbers, folios: Numbers, order: int, content: int | Bytes | None
) -> None:
    """Set up folios that got numbers and frames, and map them whole at blocks of pages. No content: leave what is."""
    memory, mm = process.machine.memory, process.mm
    at, frames = as_slice(folios), as_slice(heads >> order if order else heads)
    memory.folios_alloc(folios, at, heads, frames, order)
    if content is not None:
        blocks_of(memory.content, order)[frames] = content
    folios_add_new_anon_rmap(memory, at, frames, order, mm.id)
    entries = blocks_of(mm.own_pfns(), order)
    if not order:
        entries[block] = heads
    elif is_forward(block) and is_forward(frames):
        count_up(mm.pfn[block.start << order : block.stop << order], frames.start << order)
    else:
        entries[block] = heads[:, None] + np.arange(1 << order, dtype=np.int32)
    blocks_of(mm.pte, order)[block] = _written(mm.policy, order)
    mm.rss_pages += len(heads) << order


def _install_reuses(stretch: _Stretch, times: Pages, order: int) -> None:
    """`wp_page_reuse`: the pages stay, exclusive now if they were not."""
    if order == 0 and len(stretch.reusing) == len(times) and stretch.end == stretch.accesses:
        # Which comes first does not matter: in the order of pages, what belongs together lies together.
        block = as_slice(stretch.vpn_of(stretch.reusing), rising=True)
    else:
        vpns = stretch.vpns_at(times, order)
        block = as_slice(vpns >> order if order else vpns, rising=stretch.in_step)
    sources = rows_at(blocks_of(stretch.mm.pfn, order), block)
    heads = sources[:, 0] >> order if order else sources
    blocks_of(stretch.memory.anon_exclusive, order)[as_run(heads)] = True
    blocks_of(stretch.mm.pte, order)[block] = _written(stretch.policy, order)


def _write_contents(stretch: _Stretch) -> None:
    """The bytes that the stream wrote, and what the hardware sets in entries that were writable already."""
    if not stretch.writes:
        return
    mm, end = stretch.mm, stretch.end
    old = stretch.writable & (stretch.first_write < end)
    if bool(old.any()):
        mm.pte[stretch.vpn_of(np.flatnonzero(old))] |= PTE_DIRTY | PTE_YOUNG
    for start, time in stretch.huge_writes:
        if time < end:
            mm.pte[start : start + PTRS_PER_PMD] |= PTE_DIRTY | PTE_YOUNG
    if isinstance(stretch.value, int) and stretch.write is True and stretch.stepping is None:
        # Which comes first does not matter.
        written: Index = slice(stretch.vpns[0], stretch.vpns[0] + end)
        if not stretch.in_step:
            written = as_slice(stretch.vpn_of(np.flatnonzero(stretch.first_write < end)), rising=True)
        stretch.memory.content[as_run(rows_at(mm.pfn, written))] = stretch.value
        return
    value = stretch.value if isinstance(stretch.value, int) else stretch.value[:end]
    chosen: Index = slice(0, end)
    if stretch.stepping is not None or not isinstance(stretch.write, bool):
        wanted = np.broadcast_to(np.asarray(stretch.write), stretch.accesses)[:end].copy()
        if stretch.stepping is not None:
            wanted &= ~stretch.stepping[stretch.at[:end]]
        chosen = np.flatnonzero(wanted)
        value = value if isinstance(value, int) else value[chosen]
    # Of several bytes for one page the last one stays.
    pages = stretch.vpns[chosen] if isinstance(stretch.vpns, np.ndarray) else stretch.vpn_of(stretch.at[chosen])
    stretch.memory.content[as_slice(mm.pfn[as_slice(pages)])] = value
