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
from functools import cache

import numpy as np

from ..kernel.faults import ZERO_BITS
from ..kernel.frames import Memory
from ..kernel.index import Numbers, blocks_of, places_of
from ..kernel.mm import Mm
from ..kernel.pagetable import PMD_HUGE, PMD_NONE, PMD_TABLE, PTE_WRITE, PTE_YOUNG
from ..kernel.policy import Policy
from ..kernel.record import FIRST_TOUCH, ZERO_READ
from ..kernel.rules import largest, one_page
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD, ZERO_PFN
from ..kernel.system import System
from .install import Allocated, install, install_blocks, make_page_tables
from .plan import Plan
from .window import Codes, Pages, Stream, Window

Step = Callable[[int, str, int], None]
"""One access, taken the ordinary way: page, READ or WRITE, and the byte that a write leaves."""

STRETCH_ACCESSES = 1 << 18
"""Accesses planned together: enough that an array of scattered pages fills its window."""
STRETCH_PAGES = 1 << 16
"""The same for ranges, whose windows are full anyway: what they need stays in the processor's cache."""
MOST_FRESH_PAGES = 1 << 24
"""The same where nothing is mapped yet: what is only filled need not fit the cache."""
SHORTEST_STRETCH = 1 << 10
"""After a cut, stretches get shorter down to this, so that replanning never costs more than stepping."""


@cache
def keep_temporaries() -> None:
    """Teach glibc, once, to keep the memory of large temporary arrays instead of giving it back after each use.

    Clearing fresh pages for the next one costs more than what is done with it. To free one array of this size raises
    the threshold (mallopt(3), M_MMAP_THRESHOLD); none of its pages is ever touched, and elsewhere it means nothing.
    """
    np.empty(31 << 20, np.uint8)


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
    why_stepped : dict of str to int
        The same by reason: what of the policy, or of the memory, could not be planned.
    """

    accesses: int
    faults: dict[str, int]
    stepped: int
    why_stepped: dict[str, int] = field(default_factory=dict)


class NotYetMapped(Exception):
    """An access must be stepped while there are mappings around its page that, for it, come later (`Stream.later`)."""


def runs_ahead(policy: Policy) -> bool:
    """Whether mappings may be made before the accesses that come before them: what a first touch takes then hangs on
    nothing but which blocks are mapped as a whole, and none."""
    rules = policy.rules
    alone = rules.copy_extent is one_page and rules.reuse_extent is one_page and policy.zero_page_write == "page"
    return alone and policy.hardware_age and policy.allowed_orders == "knobs" and rules.chosen_order is largest


def _take_step(step: Step, stream: Stream, time: int) -> None:
    vpn, access, value = stream.access(time)
    block = vpn & -PTRS_PER_PMD
    if stream.mapped_from(block, block + PTRS_PER_PMD) > time:
        raise NotYetMapped(f"page {vpn} at access {time}")
    step(vpn, access, value)


def touch_stream(
    system: System, mm: Mm, step: Step, stream: Stream, progress: Callable[[int, int], None] | None
) -> Touched:
    """Do the accesses, whose arguments were checked. `progress(done, all)` is called after each stretch."""
    keep_temporaries()
    before = dict(system.counters.faults)
    stepped: dict[str, int] = {}
    total, done = len(stream), 0
    if not system.policy.hardware_age:
        for at in range(total):
            step(*stream.access(at))
        stepped, done = {BY_FAULT: total}, total
    length = longest = STRETCH_PAGES if isinstance(stream.vpns, range) else STRETCH_ACCESSES
    fresh_length = STRETCH_PAGES
    while done < total:
        fresh = 0
        if isinstance(stream.vpns, range) and stream.write is True and isinstance(stream.value, int):
            part = stream.vpns[done : done + (0 if stream.later else fresh_length)]
            fresh = touch_fresh_range(system, mm, part, stream.value)
            fresh_length = min(2 * fresh_length, MOST_FRESH_PAGES) if fresh else STRETCH_PAGES
        elif stream.write is False:
            fresh = touch_by_reads(system, mm, stream.part(done, done + longest))
        done += fresh
        if not fresh:
            stretch = stream.part(done, min(done + length, total))
            end = run(system, mm, step, stretch, stepped)
            done += end
            length = min(2 * length, longest)
            if end < len(stretch):
                length = max(SHORTEST_STRETCH, 2 * end)
                _take_step(step, stream, done)
                stepped[CUT] = stepped.get(CUT, 0) + 1
                done += 1
        if progress:
            progress(done, total)
    faults = {path: count - before.get(path, 0) for path, count in system.counters.faults.items()}
    return Touched(total, {path: count for path, count in faults.items() if count}, sum(stepped.values()), stepped)


def touch_fresh_range(system: System, mm: Mm, pages: range, value: int) -> int:
    """Write pages in order where nothing is mapped yet; returns how many were done.

    None unless the range consists of aligned blocks of the largest order that its VMA allows. Each block then faults
    on its first page, and its other pages find themselves mapped: nothing is left to plan.
    """
    memory = system.memory
    vma = mm.find_vma(pages.start)
    if vma is None or pages.step != 1 or not pages or pages.stop > vma.end:
        return 0
    if system.policy.rules.chosen_order is not largest:
        return 0
    order = max((order for order in system.orders_of(mm, vma) if order != PMD_ORDER), default=0)
    states = mm.pmd[pages.start >> 9 : ((pages.stop - 1) >> 9) + 1]
    huge = states == (PMD_NONE if system.may_map_huge else PMD_HUGE)
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
    install_blocks(mm, block, heads, folios, order, value)
    mm.pmd[pages.start >> 9 : ((pages.start + done - 1) >> 9) + 1] = PMD_TABLE
    system.counters.add_many(FIRST_TOUCH, order, len(heads))
    system.counters.scanned += done if order else 0
    return done


def touch_by_reads(system: System, mm: Mm, stream: Stream) -> int:
    """Read pages, in any order: each that nothing maps gets the zero page, and all are accessed; returns how many.

    None where a read may bring the huge zero page, or where the pages lie too far apart to be marked in a row of bytes.
    """
    pages = stream.vpns
    low, last = stream.span()
    tables = mm.pmd[low >> 9 : (last >> 9) + 1]
    if last - low >= max(PTRS_PER_PMD, 4 * len(pages)) or (system.may_map_huge and not bool(tables.all())):
        return 0
    entries = mm.pte[low : last + 1]
    if isinstance(pages, range):
        entries[:: abs(pages.step)] |= PTE_YOUNG
    else:
        bits = np.zeros(len(entries), np.uint8)
        bits[pages - low] = PTE_YOUNG
        entries |= bits
    # Whatever is mapped has other bits too.
    none = entries == PTE_YOUNG
    found = int(np.count_nonzero(none))
    if found:
        np.copyto(entries, np.uint8(ZERO_BITS), where=none)
        np.copyto(mm.own_pfns()[low : last + 1], np.int32(ZERO_PFN), where=none)
        make_page_tables(mm, low, last + 1)
        system.counters.add_many(ZERO_READ, 0, found)
    for pmd in places_of(tables == PMD_HUGE).tolist():
        # There is one entry for all 512: if one of them is accessed now, all are.
        block = blocks_of(mm.pte, PMD_ORDER)[(low >> 9) + pmd]
        block |= block.max() & PTE_YOUNG
    return len(pages)


# --- one stretch ------------------------------------------------------------------------------------------------------


PREPARE, HUGE, STEP, FREE = range(4)
"""What happens at one time, in this order: anon_vma, stepped accesses, and after the allocation the freed folio."""
HUGE_PAGES = "2 MiB at once"
CUT = "the plan was cut"
BY_FAULT = "accessed and dirty are set by faults"


def run(system: System, mm: Mm, step: Step, stretch: Stream, stepped: dict[str, int]) -> int:
    """Plan, allocate, install; returns how many accesses are done. Those that were stepped are counted by reason."""
    window = Window.of(system, mm, stretch)
    plan = Plan.of(window)
    done = _allocate(window, plan, step, stepped)
    install(window, plan, done)
    if done.stopped:
        raise done.stopped
    return done.end


def is_settled(mm: Mm, vpn: int, written: bool) -> bool:
    """Whether a PMD maps the page now, writable if it was written: then none of its 512 pages faults any more."""
    return mm.is_huge(vpn) and (not written or bool(mm.pte[vpn] & PTE_WRITE))


def _allocate(window: Window, plan: Plan, step: Step, stepped: dict[str, int]) -> Allocated:
    """Hand out frames and folio numbers in the order of the accesses, and take the stepped accesses between them."""
    times = plan.times[plan.allocates]
    handed = _Handed(window.memory, plan.codes[plan.allocates] & np.uint8(15))
    end, freed = window.never, False
    stopped: Exception | None = None
    for time, rank, what in _events(window, plan, times):
        if not handed.upto(int(times.searchsorted(time, "right" if rank == FREE else "left"))):
            break
        if rank == PREPARE:
            window.mm.anon_vma_prepare(window.vmas[what])
        elif rank == FREE:
            freed = True
            window.memory.release_folios(*_folio_to_free(window.memory, what))
        elif freed:
            # A stepped fault must not get a folio whose old counts are still to be taken down.
            end = time
            break
        else:
            try:
                _take_step(step, window.stream, time)
            except Exception as error:  # out of memory, or a reader's rule: what comes before it is done all the same
                end, stopped = time, error
                break
            why = HUGE_PAGES if rank == HUGE else plan.reasons[what]
            stepped[why] = stepped.get(why, 0) + 1
            if rank == HUGE and not is_settled(window.mm, window.stream.access(time)[0], what <= time):
                end = time + 1
                break
    else:
        handed.upto(len(times))
    if handed.short:
        end = int(times[handed.count])
    return Allocated(end, handed.heads, handed.folios, stopped)


FEW = 8
"""So many blocks of an order are quicker had one by one."""


class _Handed:
    """Folios that were handed out for planned faults, in their order."""

    def __init__(self, memory: Memory, orders: Codes) -> None:
        self.memory, self.orders, self.count, self.short = memory, orders, 0, False
        self._heads: list[Numbers] = []
        self._folios: list[Numbers] = []

    def upto(self, count: int) -> bool:
        """Hand out for the faults up to that one; false, and the plan cut, when an order is not to be had."""
        if count <= self.count:
            return not self.short
        before, few = self.count, list[int]()
        orders = self.orders[before:count]
        starts = [0, *(places_of(orders[1:] != orders[:-1]) + 1).tolist()]
        stops = [*starts[1:], len(orders)]
        for order, start, stop in zip(orders[starts].tolist(), starts, stops, strict=True):
            wanted = stop - start
            if wanted <= FEW:
                heads = self._one_by_one(order, wanted)
                few += heads
                self.count += len(heads)
            else:
                many = self.memory.buddy.alloc_many(order, wanted)
                self._heads += [np.array(few, np.int32), many]
                few = []
                self.count += len(many)
            self.short = self.count < before + stop
            if self.short:
                break
        self._heads.append(np.array(few, np.int32))
        # Which numbers come next does not hang on the orders.
        self._folios.append(self.memory.take_folios(self.count - before))
        return not self.short

    def _one_by_one(self, order: int, wanted: int) -> list[int]:
        found = []
        for _ in range(wanted):
            head = self.memory.buddy.alloc(order)
            if head is None:
                break
            found.append(head)
        return found

    @property
    def heads(self) -> Numbers:
        """First frames."""
        return _joined(self._heads)

    @property
    def folios(self) -> Numbers:
        """Folio numbers."""
        return _joined(self._folios)


def _joined(parts: list[Numbers]) -> Numbers:
    if len(parts) < 2:
        return parts[0] if parts else np.zeros(0, np.int32)
    return np.concatenate(parts)


def _events(window: Window, plan: Plan, times: Pages) -> list[tuple[int, int, int]]:
    """What must happen at its own place among the allocations, in order: (time, rank, which).

    That is: PREPARE and a mapping's place among the window's; HUGE and when that block is first written; STEP and its
    reason; FREE and a folio.
    """
    events = [(time, PREPARE, vma) for time, vma in _first_anon_pages(window, times)]
    events += [(time, HUGE, write) for time, write in plan.huge_steps]
    if plan.stepping is not None:
        reasons = plan.stepping[window.at]
        stepped = places_of(reasons)
        events += zip(stepped.tolist(), [STEP] * len(stepped), (reasons[stepped] - 1).tolist(), strict=True)
    events += [(time, FREE, folio) for time, folio in plan.frees]
    return sorted(events)


def _first_anon_pages(window: Window, times: Pages) -> Iterator[tuple[int, int]]:
    """Mappings that get their anon_vma here, by their place among the window's, and when."""
    bare = [at for at, vma in enumerate(window.vmas) if not vma.anon_vma] if len(times) else []
    if len(window.vmas) == 1:
        yield from ((int(times[0]), at) for at in bare)
        return
    pages = window.vpns_at(times) if bare else times
    for at in bare:
        here = (pages >= window.vmas[at].start) & (pages < window.vmas[at].end)
        if here.any():
            yield int(times[here.argmax()]), at


def _folio_to_free(memory: Memory, folio: int) -> tuple[Numbers, Numbers, Codes]:
    only = np.array([folio], np.int32)
    return only, memory.head[only], memory.order[only]
