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
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..kernel.faults import READ, WRITE, ZERO_BITS
from ..kernel.frames import Memory
from ..kernel.index import Numbers
from ..kernel.pagetable import PMD_HUGE, PMD_NONE, PMD_TABLE, PTE_WRITE
from ..kernel.record import FIRST_TOUCH, ZERO_READ
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD, ZERO_PFN
from ..kernel.vma import Vma
from .install import Faults, install, install_blocks, make_page_tables
from .plan import plan_anonymous_pages, plan_wp_pages, plan_zero_page_copies, set_huge_aside
from .window import Bytes, Codes, Mask, Pages, Process, Stretch, orders_in

_Each = TypeVar("_Each", bool | Mask, int | Bytes)

STRETCH_ACCESSES = 1 << 18
"""Accesses planned together: enough that an array of scattered pages fills its window."""
STRETCH_PAGES = 1 << 16
"""The same for ranges, whose windows are full anyway: what they need stays in the processor's cache."""
MOST_FRESH_PAGES = 1 << 24
"""The same where nothing is mapped yet: what is only filled need not fit the cache."""
SHORTEST_STRETCH = 1 << 10
"""After a cut, stretches get shorter down to this, so that replanning never costs more than stepping."""


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
        Faults by path (`anonfolio.kernel.record.PATHS`); an access may take none, or more than one.
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
            stretch = Stretch(process, vpns[part], writes, values)
            run(stretch)
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
    process.step(int(vpns[at]), WRITE if writes else READ, byte)


def touch_fresh_range(process: Process, pages: range, value: int) -> int:
    """Write pages in order where nothing is mapped yet; returns how many were done.

    None unless the range consists of aligned blocks of the largest order that its VMA allows. Each block then faults
    on its first page, and its other pages find themselves mapped: nothing is left to plan.
    """
    machine, mm, memory = process.machine, process.mm, process.machine.memory
    vma = mm.find_vma(pages.start)
    if vma is None or pages.step != 1 or not pages or pages.stop > vma.end:
        return 0
    order = max(orders_in(machine, vma), default=0)
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
    install_blocks(process, block, heads, folios, order, value)
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


# --- one stretch ------------------------------------------------------------------------------------------------------


PREPARE, HUGE, STEP, FREE = range(4)
"""What happens at one time, in this order: anon_vma, stepped accesses, and after the allocation the freed folio."""


def run(stretch: Stretch) -> None:
    """Plan, allocate, install."""
    set_huge_aside(stretch)
    plan_anonymous_pages(stretch)
    if stretch.writes:
        plan_zero_page_copies(stretch)
        plan_wp_pages(stretch)
    faults = Faults.of(stretch.plan)
    _allocate(stretch, faults)
    install(stretch, faults)


def _settled(stretch: Stretch, time: int, first_write: Vma | int) -> bool:
    vpn = int(stretch.vpns[time])
    assert isinstance(first_write, int)
    return stretch.mm.is_huge(vpn) and (time < first_write or bool(stretch.mm.pte[vpn] & PTE_WRITE))


def _allocate(stretch: Stretch, faults: Faults) -> None:
    freed = False
    for time, rank, what in _events(stretch, faults.alloc_times):
        upto = int(np.searchsorted(faults.alloc_times, time, "right" if rank == FREE else "left"))
        if not _allocate_upto(stretch, faults, upto):
            return
        if rank == PREPARE:
            assert isinstance(what, Vma)
            stretch.mm.anon_vma_prepare(what)
        elif rank == FREE:
            freed = True
            assert isinstance(what, int)
            stretch.memory.release_folios(*_folio_to_free(stretch.memory, what))
        elif freed:
            # A stepped fault must not get a folio whose old counts are still to be taken down.
            stretch.end = time
            return
        else:
            step_one(stretch.process, stretch.vpns, stretch.write, stretch.value, time)
            stretch.stepped += 1
            if rank == HUGE and not _settled(stretch, time, what):
                stretch.end = time + 1
                return
    _allocate_upto(stretch, faults, len(faults.alloc_times))


def _allocate_upto(stretch: Stretch, faults: Faults, upto: int) -> bool:
    """Hand out folios for the next planned faults; False, and the plan cut, when an order is not to be had."""
    start = faults.allocated
    if start >= upto:
        return True
    orders = faults.alloc_codes[start:upto] & 15
    cuts = (np.flatnonzero(orders[1:] != orders[:-1]) + 1).tolist()
    for first, stop in zip([0, *cuts], [*cuts, len(orders)], strict=True):
        heads = stretch.memory.buddy.alloc_many(int(orders[first]), stop - first)
        faults.heads.append(heads)
        faults.folios.append(stretch.memory.take_folios(len(heads)))
        faults.allocated += len(heads)
        if len(heads) < stop - first:
            stretch.end = int(faults.alloc_times[faults.allocated])
            return False
    return True


def _events(stretch: Stretch, alloc_times: Pages) -> list[tuple[int, int, Vma | int]]:
    """What must happen at its own place among the allocations: (time, rank, what), in order."""
    events: list[tuple[int, int, Vma | int]] = []
    events += [(time, PREPARE, vma) for time, vma in _first_anon_pages(stretch, alloc_times)]
    events += [(time, HUGE, write) for time, write in stretch.huge if time < stretch.accesses]
    if stretch.stepping is not None:
        events += [(time, STEP, 0) for time in np.flatnonzero(stretch.stepping[stretch.at]).tolist()]
    events += [(time, FREE, folio) for time, folio in stretch.last_copies]
    events.sort(key=lambda event: event[:2])
    return events


def _first_anon_pages(stretch: Stretch, times: Pages) -> Iterator[tuple[int, Vma]]:
    if not len(times):
        return
    bare = [vma for vma in stretch.vmas if not vma.anon_vma]
    if len(stretch.vmas) == 1:
        yield from ((int(times[0]), vma) for vma in bare)
        return
    pages = stretch.vpn_of(stretch.at[times]) if bare else times
    for vma in bare:
        here = (pages >= vma.start) & (pages < vma.end)
        if here.any():
            yield int(times[here.argmax()]), vma


def _folio_to_free(memory: Memory, folio: int) -> tuple[Numbers, Numbers, Codes]:
    only = np.array([folio], np.int32)
    return only, memory.head[only], memory.order[only]
