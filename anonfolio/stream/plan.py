"""Plan a draft of accesses: which of them fault, on which path, with which order. Nothing of the machine changes.

Each function decides for all pages of one path together, and is named for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.index import Index, Numbers, as_run, as_slice, blocks_of, is_forward, places_of, rows_at
from ..kernel.pagetable import PMD_HUGE, PMD_NONE, PTE_DIRTY, PTE_GUARD, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from ..kernel.rules import Folio, Run, SourceOrder, answers, copies_before_reuse, largest, one_page
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD
from .window import COW_COPY, FIRST_TOUCH, REUSE, ZERO_COPY, ZERO_READ, Codes, Mask, Pages, Times, Window

# --- a plan -----------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What was decided for a window. Places and times are the window's.

    Attributes
    ----------
    times, codes : ndarray of shape (faults,), intp and uint8
        The planned faults in the order of the accesses: when, and their paths and orders.
    allocates : slice, or ndarray of shape (n,), intp
        Which of them need a folio.
    scanned : ndarray of shape (faults,), int32, or None
        Entries that each fault reads to find its range; None when none reads any.
    stepping : ndarray of shape (places,), uint8, or None
        Pages all of whose accesses are stepped: 0 for none, else the reason is ``reasons[number - 1]``.
    reasons : tuple of str
        Why pages are stepped.
    copying, reusing : ndarray of shape (n,), intp
        Pages that are copied, or reused, one by one; ascending.
    writable : ndarray of shape (places,), bool
        Pages that a write finds writable.
    frees : tuple of (int, int)
        Large folios that lose their last reference to a copy of this draft: when, and which.
    huge_steps : tuple of (int, int)
        Accesses that act on 2 MiB at once and are stepped: when, and the time of the first write there.
    huge_hits : tuple of (int, int, int)
        Accesses that find 2 MiB mapped at once: when, the first page, and the bits that the hardware sets.
    """

    times: Pages
    codes: Codes
    allocates: Index
    scanned: Times | None
    stepping: Codes | None
    reasons: tuple[str, ...]
    copying: Pages
    reusing: Pages
    writable: Mask
    frees: tuple[tuple[int, int], ...]
    huge_steps: tuple[tuple[int, int], ...]
    huge_hits: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, window: Window) -> Plan:
        """Path by path."""
        draft = Draft(window)
        set_huge_aside(draft)
        plan_anonymous_pages(draft)
        if window.writes:
            plan_zero_page_copies(draft)
            plan_wp_pages(draft)
        return draft.done()


class Draft:
    """A plan in the making: what the pages are when a path looks at them, and what was decided so far."""

    def __init__(self, window: Window) -> None:
        bits = window.mm.pte[window.pages]
        self.window, self.memory, self.policy = window, window.memory, window.policy
        self.none = bits == 0
        # Of a guard page only this counts, that it is not none: accesses to it were refused.
        self.writable = (bits & (PTE_WRITE | PTE_GUARD)) > 0
        self.zero = (bits & PTE_SPECIAL) > 0
        self.codes = np.zeros(window.never, np.uint8)
        self.scanned: Times | None = None
        self.stepping: Codes | None = None
        self.reasons: list[str] = []
        self.copying = self.reusing = np.zeros(0, np.intp)
        self.frees: list[tuple[int, int]] = []
        self.huge_steps: list[tuple[int, int]] = []
        self.huge_hits: list[tuple[int, int, int]] = []

    def mark(self, times: Times, code: int, scanned: npt.NDArray[np.integer] | int = 0) -> None:
        """Plan one fault at each of these times."""
        self.codes[slice(None) if len(times) == len(self.codes) else times] = code
        if isinstance(scanned, np.ndarray) or scanned:
            if self.scanned is None:
                self.scanned = np.zeros(len(self.codes), np.int32)
            self.scanned[times] = scanned

    def step_pages(self, places: Mask | slice, why: str) -> None:
        """Let every access to these pages go through the ordinary path; `why` is the field of the policy."""
        if self.stepping is None:
            self.stepping = np.zeros(self.window.places, np.uint8)
        reason = f"{self.policy.name}: {why}"
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.stepping[places] = self.reasons.index(reason) + 1

    def read_only(self) -> Mask:
        """Pages that are mapped, not the zero page, and may not be written without a fault."""
        mapped: Mask = ~(self.none | self.zero | self.writable)
        return mapped if self.stepping is None else mapped & (self.stepping == 0)

    def done(self) -> Plan:
        """The plan."""
        times = np.arange(len(self.codes)) if bool(self.codes.all()) else places_of(self.codes)
        at = as_slice(times, rising=True)
        codes = self.codes[at]
        allocates = (codes >= FIRST_TOUCH) & (codes < REUSE)
        return Plan(
            times, codes, slice(None) if bool(allocates.all()) else places_of(allocates),
            None if self.scanned is None else self.scanned[at], self.stepping, tuple(self.reasons),
            self.copying, self.reusing, self.writable, tuple(self.frees), tuple(self.huge_steps), tuple(self.huge_hits),
        )  # fmt: skip


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


def maximal_blocks(usable: Mask, allowed: dict[int, Mask]) -> tuple[list[tuple[int, Pages]], Mask]:
    """Partition usable places into the largest allowed aligned blocks: (order, block numbers), and the single places.

    Decided level by level, the largest order first. Aligned blocks nest, so a block that fits and lies in no larger one
    that fits stays whole until one of its own places is touched: which folios a set of first touches makes does
    not depend on their order.
    """
    left = usable.copy()
    blocks = []
    for order, good in allowed.items():
        found = places_of(all_of(left, order) & good)
        if len(found):
            blocks_of(left, order)[as_slice(found, rising=True)] = False
            blocks.append((order, found))
    return blocks, left


# --- PMD level --------------------------------------------------------------------------------------------------------


def set_huge_aside(draft: Draft) -> None:
    """2 MiB that are mapped by PMD, or will be, are stepped once: after that, none of their pages faults.

    `run.is_settled` checks that it came so. Where it hangs on a reader's choice, all their accesses are stepped.
    """
    window = draft.window
    low, end = window.span
    states = window.mm.pmd[low >> 9 : -(-end // PTRS_PER_PMD)]
    special = states == PMD_HUGE
    if window.system.may_map_huge:
        special = special | (states == PMD_NONE)
    if not special.any():
        return
    pmds = window.vpn_of(np.arange(window.places)) >> 9
    starts = places_of(np.diff(pmds, prepend=-1))
    reads = np.minimum.reduceat(window.first_read, starts).tolist()
    writes = np.minimum.reduceat(window.first_write, starts).tolist()
    ends = [*starts[1:].tolist(), window.places]
    for at, stop, pmd, read, write in zip(starts.tolist(), ends, pmds[starts].tolist(), reads, writes, strict=True):
        huge = bool(window.mm.pmd[pmd] == PMD_HUGE)
        if not special[pmd - (low >> 9)] or not (huge or _may_be_huge(window, pmd << 9, min(read, write))):
            continue
        draft.none[at:stop] = draft.zero[at:stop] = False
        if not huge and draft.policy.rules.chosen_order is not largest:
            draft.step_pages(slice(at, stop), "chosen_order")
            continue
        writable = bool(draft.writable[at])
        draft.writable[at:stop] = True
        if huge:
            draft.huge_hits.append((read, pmd << 9, PTE_YOUNG))
        if huge and writable:
            draft.huge_hits.append((write, pmd << 9, PTE_DIRTY | PTE_YOUNG))
        elif write < window.never:
            draft.huge_steps.append((write, write))
        if not huge and read < write:
            draft.huge_steps.append((read, write))


def _may_be_huge(window: Window, start: int, time: int) -> bool:
    """Whether 2 MiB that are first touched at a time may come at once."""
    vma = window.mm.find_vma(start)
    if vma is None or vma.end < start + PTRS_PER_PMD or time < window.stream.mapped_from(start, start + PTRS_PER_PMD):
        return False
    return PMD_ORDER in window.system.orders_of(window.mm, vma)


# --- first touch, and the zero page -----------------------------------------------------------------------------------


def plan_anonymous_pages(draft: Draft) -> None:
    """Nothing is mapped: the first read gets the zero page, the first write a folio (`do_anonymous_page`).

    Writes alone: `maximal_blocks` of the none pages; a block's fault is its earliest write. A read before that makes a
    hole in it, and leaves smaller blocks, each with a first write of its own that a read may precede: so on, until no
    block has such a read. Reads that come after the first write of their block do not fault.
    """
    _step_entangled_tiles(draft)
    if not draft.none.any():
        return
    window = draft.window
    allowed = {order: window.allowed(order) for order in window.orders} if window.writes else {}
    whole = {order: good & _mapped_in_time(window, order) for order, good in allowed.items()}
    none = draft.none
    blocks, singles = maximal_blocks(none, whole)
    while window.reads and blocks and bool((early := _early_reads(window, blocks)).any()):
        none = none & ~early
        blocks, singles = maximal_blocks(none, whole)
    mapped_at = np.where(draft.none, np.int32(window.never), np.int32(-1))
    faults: list[tuple[int, Pages, Times]] = []
    for order, block in blocks:
        at = as_slice(block, rising=True)
        times = window.earliest_write(order)[at]
        blocks_of(mapped_at, order)[at] = times[:, None]
        touched = times < window.never
        faults.append((order, block[touched], times[touched]))
    place = places_of(singles & (window.first_write < window.first_read))
    if len(place):
        at = as_slice(place, rising=True)
        times = window.first_write[at]
        mapped_at[at] = times
        faults.append((0, place, times))
    _plan_zero_reads(draft, mapped_at)
    for order, block, times in faults:
        draft.mark(times, FIRST_TOUCH | order, _scanned_to_fit(window, allowed, mapped_at, order, block, times))


def _mapped_in_time(window: Window, order: int) -> Mask | np.bool_:
    """Which blocks are mapped as a whole when the first of their pages is touched: any other is torn then."""
    since = window.mapped_from(order)
    if since is None:
        return np.bool_(True)
    touched = window.earliest_write(order)
    if window.reads:
        touched = np.minimum(touched, blocks_of(window.first_read, order).min(axis=1))
    return touched >= since


def _plan_zero_reads(draft: Draft, mapped_at: Times) -> None:
    """A read of what nothing has mapped before maps the zero page, one entry."""
    first_read = draft.window.first_read
    if not draft.window.reads:
        return
    reading = draft.none & (first_read < mapped_at)
    times = first_read[reading]
    draft.mark(times, ZERO_READ)
    mapped_at[reading] = times
    draft.zero |= reading


def _early_reads(window: Window, blocks: list[tuple[int, Pages]]) -> Mask:
    """Pages that are read before the first write of their block: they get the zero page, and there is no such block."""
    early = np.zeros(window.places, np.bool_)
    for order, block in blocks:
        at = as_slice(block, rising=True)
        written = window.earliest_write(order)[at]
        reads = blocks_of(window.first_read, order)[at]
        blocks_of(early, order)[at] = (reads < written[:, None]) & (written < window.never)[:, None]
    return early


def _step_entangled_tiles(draft: Draft) -> None:
    """Step what is none or zero page in the blocks where one first touch looks at what another left.

    That is so in all of them if a policy takes another than the largest order that fits. Where a write on a zero page
    is a first touch (RFC v2), only blocks of nothing but zero pages are planned.
    """
    window, policy = draft.window, draft.policy
    if not window.orders or not window.writes:
        return
    if policy.rules.chosen_order is not largest:
        written = window.first_write < window.never
        _step_tiles(draft, (draft.none | draft.zero) & written, np.bool_(True), "chosen_order")
    if policy.zero_page_write == "first_touch":
        written, tile = window.first_write < window.never, window.orders[0]
        zero = draft.zero | (draft.none & (window.first_read < window.first_write))
        torn: Mask | np.bool_ = np.bool_(True)
        if policy.zero_neighbours != "none_only":
            torn = ~(all_of(draft.zero, tile) & window.allowed(tile))
        _step_tiles(draft, zero & written, torn, "zero_page_write")


def _step_tiles(draft: Draft, touched: Mask, chosen: Mask | np.bool_, why: str) -> None:
    """Step what is none or zero page in the chosen blocks of the largest order that are touched."""
    tile = draft.window.orders[0]
    tiles = blocks_of(touched, tile).any(axis=1) & chosen
    if bool(tiles.any()):
        places = np.repeat(tiles, 1 << tile) & (draft.none | draft.zero)
        draft.step_pages(places, why)
        draft.none &= ~places
        draft.zero &= ~places


def _scanned_to_fit(
    window: Window, allowed: dict[int, Mask], mapped_at: Times, order: int, block: Pages, times: Times
) -> npt.NDArray[np.integer] | int:
    """Entries read until an order fits: up to the first page in the way for each that does not, and the block itself.

    What is in the way depends on when: pages that an earlier access has mapped count.
    """
    larger = [wider for wider in allowed if wider > order]
    own = 1 << order if order else 0
    scanned: npt.NDArray[np.integer] | int = own
    for wider in larger:
        outer = block >> (wider - order)
        since = window.mapped_from(wider)
        tried = places_of(allowed[wider][outer] & (np.bool_(True) if since is None else since[outer] <= times))
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


def plan_zero_page_copies(draft: Draft) -> None:
    """A write on the zero page (`wp_page_copy`): one page in released kernels, independent of all others.

    RFC v2 treats it as a first touch of none pages and zero pages together (patch 15): a block of the largest order
    that is all zero pages is replaced at its earliest write. Any other block was stepped (`_step_entangled_tiles`).
    """
    window = draft.window
    written = draft.zero & (window.first_write < window.never)
    if not bool(written.any()):
        return
    if draft.policy.zero_page_write == "page" or not window.orders:
        draft.mark(window.first_write[written], ZERO_COPY)
        return
    order = window.orders[0]
    times = window.earliest_write(order)[blocks_of(written, order).any(axis=1)]
    draft.mark(times, ZERO_COPY | order, 1 << order)


# --- write on what is mapped read-only --------------------------------------------------------------------------------


def plan_wp_pages(draft: Draft) -> None:
    """A write meets a read-only page: reuse it or copy it (`do_wp_page`)."""
    window, memory, rules = draft.window, draft.memory, draft.policy.rules
    places = places_of(draft.read_only() & (window.first_write < window.never))
    if not len(places):
        return
    pfns = rows_at(window.mm.pfn[window.pages], as_slice(places, rising=True))
    frames = as_run(pfns)
    folios = memory.folio_of[frames]
    for field, known in (("copy_extent", SourceOrder), ("reuse_extent", Run)):
        rule = getattr(rules, field)
        if rule is not one_page and not isinstance(rule, known):
            _step_folios(draft, np.unique(folios), field)
            return
    large = rows_at(memory.order, as_slice(folios)) > 0
    if not bool(large.any()):
        plan_wp_small_folios(draft, places, pfns, frames, folios)
        return
    in_order = as_slice(pfns)
    if isinstance(frames, slice) and not is_forward(in_order):
        back = pfns - np.int32(frames.start)
        frames, folios, large = in_order, folios.take(back), large.take(back)
    if rules.copy_extent is one_page and rules.reuse_extent is one_page:
        plan_wp_single_pages(draft, places, frames, folios, large)
        return
    plan_wp_whole_folios(draft, folios[large])
    small = places_of(~large)
    if len(small):
        plan_wp_small_folios(draft, places[small], pfns[small], pfns[small].astype(np.intp), folios[small])


def _step_folios(draft: Draft, folios: Numbers, why: str) -> None:
    """Step every page of the window that maps one of these folios."""
    mapped = places_of(~(draft.none | draft.zero))
    places = np.zeros(draft.window.places, np.bool_)
    owners = draft.memory.folio_of[draft.window.mm.pfn[draft.window.pages][mapped]]
    places[mapped[np.isin(owners, folios)]] = True
    draft.step_pages(places, why)


def plan_wp_small_folios(draft: Draft, places: Pages, pfns: Numbers, frames: Index, folios: Numbers) -> None:
    """Folios of one page, in every kernel: reused if marked or if one reference is left, else copied.

    Each is mapped once here, so that no fault changes what the next one finds. `folios` go by `frames`: the same frames
    as `pfns`, which go by `places`, or the run that these are in another order.
    """
    reuse = rows_at(draft.memory.anon_exclusive, frames)
    if not bool(reuse.all()):
        reuse = reuse | (rows_at(draft.memory.refcount, as_slice(folios)) == 1)
        if isinstance(frames, slice) and bool(reuse.any()) and not bool(reuse.all()):
            reuse = reuse.take(pfns - np.int32(frames.start))
    _mark_reuses_and_copies(draft, places, reuse)


def plan_wp_single_pages(draft: Draft, places: Pages, frames: Index, folios: Numbers, large: Mask) -> None:
    """Pages one by one (every released kernel): the marked ones are reused, of the others those that the rule allows.

    A copy takes one mapping and one reference at once, and the shared bit of a folio clears only with the last page of
    a sharer; a reuse changes nothing that a rule sees. So the first copies of a folio's pages go before, and once the
    rule says reuse it goes on saying so.
    """
    memory = draft.memory
    reuse = rows_at(memory.anon_exclusive, frames)
    if not bool(reuse.all()):
        reuse = reuse | (~large & (rows_at(memory.refcount, as_slice(folios)) == 1))
        asked = places_of(large & ~reuse)
        if len(asked):
            some = as_slice(asked, rising=True)
            reuse[some] = _reused(draft, places[some], folios[some])
        copied = large & ~reuse
        if bool(copied.any()):
            draft.frees = _frees(draft, places, folios, copied)
    _mark_reuses_and_copies(draft, places, reuse)


def _reused(draft: Draft, places: Pages, folios: Numbers) -> Mask:
    """Which of these unmarked pages of large folios are reused, after the copies that the rule wants to see first."""
    rule, pages = draft.policy.rules.large_reuse, len(places)
    starts = np.concatenate((np.zeros(1, np.intp), places_of(folios[1:] != folios[:-1]) + 1))
    owners = folios[starts]
    most = min(pages, PTRS_PER_PMD)
    wanted = _decided(draft, owners, lambda folio: copies_before_reuse(rule, folio, most), (1, most))
    if wanted is None:
        return _reused_by_page(draft, places, folios)
    if int(wanted.min()) == most or not bool(wanted.any()):
        return np.full(pages, not wanted[0])
    sizes = np.diff(starts, append=pages)
    reuse: Mask = np.repeat(wanted == 0, sizes)
    between = (wanted > 0) & (wanted < most)
    if bool(between.any()):
        some = places_of(np.repeat(between, sizes))
        some = some[np.lexsort((draft.window.first_write[places[some]], folios[some]))]
        starts = places_of(np.diff(folios[some], prepend=-1))
        rank = np.arange(len(some)) - np.repeat(starts, np.diff(starts, append=len(some)))
        reuse[some] = rank >= np.repeat(wanted, sizes)[some]
    return reuse


def _reused_by_page(draft: Draft, places: Pages, folios: Numbers) -> Mask:
    """The same for a rule that looks at the page's own mapcount: page after page of each folio, as they are written."""
    rule, window = draft.policy.rules.large_reuse, draft.window
    order = np.lexsort((window.first_write[places], folios))
    starts = places_of(np.diff(folios[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    owners, pfns = folios[order[starts]], window.mm.pfn[window.pages][places]
    facts, mine, copied = _packed(draft, owners), window.mm.mappings_of(owners), np.zeros(len(owners), np.int64)
    reuse = np.zeros(len(places), np.bool_)
    for rank in range(int(sizes.max())):
        has = places_of(sizes > rank)
        page = order[starts[has] + rank]
        left = facts[has] - (copied[has] << 32) - (copied[has] << 6)
        mapcounts = draft.memory.mapcounts_of(pfns[page])
        columns = (left, np.maximum(1, mine[has] - copied[has]), mapcounts)
        reuse[page] = _decided_by(columns, partial(answers, rule), 1) > 0
        copied[has] += ~reuse[page]
    return reuse


def _decided(draft: Draft, folios: Numbers, decide: Callable[[Folio], int], near: tuple[int, int]) -> Pages | None:
    """What is decided for each of these folios, asked once for all that a rule cannot tell apart.

    `near` is how many pages a reuse would reach, and what else `decide` hangs on. Whose the mappings are is counted
    only if the rule looks: then it is asked again, once for each count. None if it looks at the page's mapcount.
    """
    facts = _packed(draft, folios)
    alike = bool((facts == facts[0]).all())
    rows = facts[:1] if alike else np.unique(facts)
    looks: list[str] = []

    def look(at: str) -> int:
        looks.append(at)
        return 1

    told, said = draft.policy.told, []
    for row in rows.tolist():
        key = (row, *near)
        if key not in told:
            answer = decide(_facts(row, near[0], partial(look, "mine"), partial(look, "mapcount")))
            if looks:
                break
            told[key] = answer
        said.append(told[key])
    else:
        decided = np.array(said, np.intp)
        return decided.repeat(len(facts)) if alike else decided[rows.searchsorted(facts)]
    # With another count of its own mappings a rule may go on to what it has not looked at so far.
    looks.clear()
    counts = draft.window.mm.mappings_of(folios)
    said_of = _decided_by((facts, counts, np.ones_like(counts)), decide, near[0], partial(look, "mapcount"))
    return None if "mapcount" in looks else said_of


def _decided_by(
    columns: tuple[npt.NDArray[np.integer], ...],
    decide: Callable[[Folio], int],
    run: int,
    look: Callable[[], int] | None = None,
) -> Pages:
    """What is decided for each row of packed facts, own mappings and mapcount; `look` stands for the last."""
    rows, of = np.unique(np.stack(columns), axis=1, return_inverse=True)
    said = [
        decide(_facts(row, run, partial(int, mine), look or partial(int, mapcount)))
        for row, mine, mapcount in rows.T.tolist()
    ]
    return np.array(said, np.intp)[of.reshape(-1)]


def _packed(draft: Draft, folios: Numbers) -> npt.NDArray[np.int64]:
    """What a rule sees of each folio at once, in one number. One folio has fewer than 2**26 mappings."""
    memory, at = draft.memory, as_slice(folios)
    facts = np.left_shift(rows_at(memory.refcount, at), 32, dtype=np.int64)
    facts |= np.left_shift(rows_at(memory.large_mapcount, at), 6, dtype=np.int64)
    facts |= np.left_shift(rows_at(memory.pincount, at) > 0, 5, dtype=np.int64)
    facts |= rows_at(memory.order, at) << 1 | rows_at(memory.maybe_mapped_shared, at)
    return facts


def _facts(row: int, run: int, mine: Callable[[], int], mapcount: Callable[[], int]) -> Folio:
    return Folio(
        row >> 1 & 15, row >> 32, row >> 6 & (1 << 26) - 1, bool(row & 1), partial(int, run), str, mine, mapcount,
        bool(row >> 5 & 1),
    )  # fmt: skip


def _mark_reuses_and_copies(draft: Draft, places: Pages, reuse: Mask) -> None:
    scanned = 0 if draft.policy.rules.reuse_extent is one_page else 1
    first_write = draft.window.first_write
    if bool(reuse.all()):
        draft.reusing, draft.copying = places, places[:0]
    elif not bool(reuse.any()):
        draft.reusing, draft.copying = places[:0], places
    else:
        draft.reusing, draft.copying = places[reuse], places[~reuse]
    for code, chosen, entries in ((REUSE, draft.reusing, scanned), (COW_COPY, draft.copying, 0)):
        if len(chosen):
            draft.mark(first_write[as_slice(chosen, rising=True)], code, entries)


def _frees(draft: Draft, places: Pages, folios: Numbers, copied: Mask) -> list[tuple[int, int]]:
    """Large folios that lose their last reference to a copy of this stretch: when, and which."""
    memory = draft.memory
    at = as_slice(folios)
    copied &= rows_at(memory.refcount, at) <= np.int32(1) << rows_at(memory.order, at)
    may_go = places_of(copied)
    if not len(may_go):
        return []
    owner, copies_of = np.unique(folios[may_go], return_inverse=True)
    last = np.zeros(len(owner), np.int32)
    np.maximum.at(last, copies_of, draft.window.first_write[places[may_go]])
    gone = np.bincount(copies_of) == memory.refcount[owner]
    return list(zip(last[gone].tolist(), owner[gone].tolist(), strict=True))


def plan_wp_whole_folios(draft: Draft, folios: Numbers) -> None:
    """Ranges (RFC v2): large folios that a process maps whole, aligned, read-only and uniformly.

    Then the range of a reuse is the folio, and so is that of a copy: each folio takes one fault, its earliest write. A
    folio that is mapped in any other way is stepped, with all its pages.
    """
    window, memory, rules = draft.window, draft.memory, draft.policy.rules
    reuses_all = rules.reuse_extent is not one_page
    max_order = rules.copy_extent.max_order if isinstance(rules.copy_extent, SourceOrder) else 0
    planned = [folios[:0]]
    for order in places_of(np.bincount(memory.order[folios])).tolist():
        if order > window.tile:
            continue
        size = 1 << order
        block, owner, exclusive = _whole_folios(draft, order)
        if not len(block):
            continue
        times = window.earliest_write(order)[block]
        # Twice the answer, and whether the rule looked for the range.
        near = (size if reuses_all else 1, 0)
        said = _decided(draft, owner, lambda folio: 2 * answers(rules.large_reuse, folio) + folio.looked, near)
        if said is None:
            # What it says hangs on which page is written first, and what of the others.
            _step_folios(draft, owner, "large_reuse")
            planned.append(owner)
            continue
        sole = exclusive | (said > 1)
        # As for a reuse, the scan that finds another owner has read the folio's entries too.
        looked = np.where(sole | (said & 1 > 0), size if reuses_all else 0, 0)
        planned.append(owner[sole])
        if reuses_all:
            draft.mark(times[sole], REUSE | order, looked[sole])
        else:
            written = blocks_of(window.first_write, order)[block[sole]]
            draft.mark(written[written < window.never], REUSE)
        copied = ~sole
        if draft.policy.copy_respects_knobs:
            copied &= window.allowed(order)[block]
        if order <= max_order:
            draft.mark(times[copied], COW_COPY | order, looked[copied] + size)
            planned.append(owner[copied])
            gone = copied & (memory.refcount[owner] == size)
            draft.frees += zip(times[gone].tolist(), owner[gone].tolist(), strict=True)
    odd = np.setdiff1d(folios, np.concatenate(planned))
    if len(odd):
        _step_folios(draft, odd, "copy_extent" if max_order else "reuse_extent")


def _whole_folios(draft: Draft, order: int) -> tuple[Pages, Numbers, Mask]:
    """Blocks that are written here and map a whole folio of that order read-only, all of it exclusive or nothing.

    Returns the blocks' numbers, the folios, and whether they are exclusive.
    """
    window, memory, size = draft.window, draft.memory, 1 << order
    rows = blocks_of(window.mm.pfn[window.pages], order)
    good = all_of(draft.read_only(), order) & window.inside(order, window.vmas) & (rows[:, 0] & (size - 1) == 0)
    good &= window.earliest_write(order) < window.never
    block = places_of(good)
    heads = rows[block, 0]
    owner = memory.folio_of[heads]
    marked = blocks_of(memory.anon_exclusive, order)[heads >> order]
    exclusive = marked.all(axis=1)
    fits = (memory.order[owner] == order) & (exclusive | ~marked.any(axis=1))
    fits &= (rows[block] == heads[:, None] + np.arange(size, dtype=np.int32)).all(axis=1)
    return block[fits], owner[fits], exclusive[fits]
