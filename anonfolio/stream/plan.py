"""Plan a stretch of accesses: which of them fault, on which path, with which order. Nothing of the machine changes.

Each function decides for all pages of one path together, and is named for it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..kernel.index import Index, Numbers, as_run, as_slice, blocks_of, is_forward, rows_at
from ..kernel.pagetable import PMD_HUGE, PMD_NONE
from ..kernel.policy import Policy
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD
from .window import COW_COPY, FIRST_TOUCH, REUSE, ZERO_COPY, ZERO_READ, Mask, Pages, Stretch, Times, knobs_apply

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
        found = np.flatnonzero(all_of(left, order) & good)
        if len(found):
            blocks_of(left, order)[as_slice(found, rising=True)] = False
            blocks.append((order, found))
    return blocks, left


# --- PMD level --------------------------------------------------------------------------------------------------------


def set_huge_aside(stretch: Stretch) -> None:
    """2 MiB that are mapped by PMD, or will be, are stepped once: after that, none of their pages faults.

    `touch._settled` checks that it came so.
    """
    low, high = stretch.first >> 9, -(-(stretch.last() + 1) // PTRS_PER_PMD)
    states = stretch.mm.pmd[low:high]
    special = states == PMD_HUGE
    if PMD_ORDER in stretch.machine.knob_orders:
        special = special | (states == PMD_NONE)
    if not special.any():
        return
    pmds = stretch.vpn_of(np.arange(stretch.places)) >> 9
    starts = np.concatenate((np.zeros(1, np.intp), np.flatnonzero(np.diff(pmds)) + 1))
    reads = np.minimum.reduceat(stretch.first_read, starts).tolist()
    writes = np.minimum.reduceat(stretch.first_write, starts).tolist()
    ends = [*starts[1:].tolist(), stretch.places]
    for at, stop, read, write in zip(starts.tolist(), ends, reads, writes, strict=True):
        pmd = int(pmds[at])
        if not special[pmd - low]:
            continue
        huge = states[pmd - low] == PMD_HUGE
        if not huge and not _may_be_huge(stretch, pmd << 9):
            continue
        stretch.none[at:stop] = stretch.zero[at:stop] = False
        writable = bool(stretch.writable[at])
        stretch.writable[at:stop] = True
        if huge and writable:
            stretch.huge_writes.append((pmd << 9, write))
        if not huge:
            stretch.huge.append((min(read, write), write))
            if read < write < stretch.accesses:
                stretch.huge.append((write, write))
        elif not writable and write < stretch.accesses:
            stretch.huge.append((write, write))
    stretch.huge.sort()


def _may_be_huge(stretch: Stretch, start: int) -> bool:
    vma = stretch.mm.find_vma(start)
    return vma is not None and vma.end >= start + PTRS_PER_PMD and knobs_apply(stretch.machine, vma)


# --- first touch, and the zero page -----------------------------------------------------------------------------------


def plan_anonymous_pages(stretch: Stretch) -> None:
    """Nothing is mapped: the first read gets the zero page, the first write a folio (`do_anonymous_page`).

    Writes alone: `maximal_blocks` of the none pages; a block's fault is its earliest write. A read before that makes a
    hole in it, and leaves smaller blocks, each with a first write of its own that a read may precede: so on, until no
    block has such a read. Reads that come after the first write of their block do not fault.
    """
    _step_torn_zero_tiles(stretch)
    if not stretch.none.any():
        return
    allowed = {order: stretch.allowed(order) for order in stretch.orders} if stretch.writes else {}
    none = stretch.none
    blocks, singles = maximal_blocks(none, allowed)
    while stretch.reads and blocks and bool((early := _early_reads(stretch, blocks)).any()):
        none = none & ~early
        blocks, singles = maximal_blocks(none, allowed)
    mapped_at = np.where(stretch.none, np.int32(stretch.accesses), np.int32(-1))
    faults: list[tuple[int, Pages, Times]] = []
    for order, block in blocks:
        at = as_slice(block, rising=True)
        times = stretch.earliest_write(order)[at]
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
        stretch.mark(times, FIRST_TOUCH | order, _scanned_to_fit(allowed, mapped_at, order, block, times))


def _plan_zero_reads(stretch: Stretch, mapped_at: Times) -> None:
    """A read of what nothing has mapped before maps the zero page, one entry."""
    if not stretch.reads:
        return
    reading = stretch.none & (stretch.first_read < mapped_at)
    times = stretch.first_read[reading]
    stretch.mark(times, ZERO_READ)
    mapped_at[reading] = times
    stretch.zero |= reading


def _early_reads(stretch: Stretch, blocks: list[tuple[int, Pages]]) -> Mask:
    """Pages that are read before the first write of their block: they get the zero page, and there is no such block."""
    early = np.zeros(stretch.places, np.bool_)
    for order, block in blocks:
        at = as_slice(block, rising=True)
        written = stretch.earliest_write(order)[at]
        reads = blocks_of(stretch.first_read, order)[at]
        blocks_of(early, order)[at] = (reads < written[:, None]) & (written < stretch.accesses)[:, None]
    return early


def _step_tiles(stretch: Stretch, tiles: Mask, tile: int) -> None:
    """Step all that is none or zero page in some blocks of 2**tile pages: there, one fault looks at another's pages."""
    places = np.repeat(tiles, 1 << tile) & (stretch.none | stretch.zero)
    stretch.step_pages(places)
    stretch.none &= ~places
    stretch.zero &= ~places


def _step_torn_zero_tiles(stretch: Stretch) -> None:
    """Where a write on a zero page is a first touch (RFC v2), only blocks of nothing but zero pages are planned."""
    if stretch.policy.zero_page_write == "page" or not stretch.orders or not stretch.writes:
        return
    zero = stretch.zero | (stretch.none & (stretch.first_read < stretch.first_write))
    zero &= stretch.first_write < stretch.accesses
    tile = stretch.orders[0]
    torn = blocks_of(zero, tile).any(axis=1) & ~_whole_zero_tiles(stretch, tile)
    if bool(torn.any()):
        _step_tiles(stretch, torn, tile)


def _whole_zero_tiles(stretch: Stretch, tile: int) -> Mask:
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


def plan_zero_page_copies(stretch: Stretch) -> None:
    """A write on the zero page (`wp_page_copy`): one page in released kernels, independent of all others.

    RFC v2 treats it as a first touch of none pages and zero pages together (patch 15): a block of the largest order
    that is all zero pages is replaced at its earliest write. Any other block was stepped (`_step_torn_zero_tiles`).
    """
    written = stretch.zero & (stretch.first_write < stretch.accesses)
    if not bool(written.any()):
        return
    if stretch.policy.zero_page_write == "page" or not stretch.orders:
        stretch.mark(stretch.first_write[written], ZERO_COPY)
        return
    order = stretch.orders[0]
    times = stretch.earliest_write(order)[blocks_of(written, order).any(axis=1)]
    stretch.mark(times, ZERO_COPY | order, 1 << order)


# --- write on what is mapped read-only --------------------------------------------------------------------------------


def plan_wp_pages(stretch: Stretch) -> None:
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
    in_order = as_slice(pfns)
    if isinstance(frames, slice) and not is_forward(in_order):
        back = pfns - np.int32(frames.start)
        frames, folios, large = in_order, folios.take(back), large.take(back)
    if policy.copy_extent == "page" and policy.reuse_extent == "page":
        plan_wp_single_pages(stretch, places, frames, folios, large)
        return
    plan_wp_whole_folios(stretch, folios[large])
    small = np.flatnonzero(~large)
    if len(small):
        plan_wp_small_folios(stretch, places[small], pfns[small], pfns[small].astype(np.intp), folios[small])


def plan_wp_small_folios(stretch: Stretch, places: Pages, pfns: Numbers, frames: Index, folios: Numbers) -> None:
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


def plan_wp_single_pages(stretch: Stretch, places: Pages, frames: Index, folios: Numbers, large: Mask) -> None:
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


def _mark_reuses_and_copies(stretch: Stretch, places: Pages, reuse: Mask) -> None:
    scanned = 1 if stretch.policy.reuse_extent == "range" else 0
    if bool(reuse.all()):
        stretch.mark(stretch.first_write[as_slice(places, rising=True)], REUSE, scanned)
        stretch.reusing = places
        return
    if bool(reuse.any()):
        stretch.reusing = places[reuse]
        stretch.mark(stretch.first_write[stretch.reusing], REUSE, scanned)
        places = places[~reuse]
    stretch.mark(stretch.first_write[as_slice(places, rising=True)], COW_COPY)
    stretch.copying = places


def _test(policy: Policy) -> str:
    # The scan of one page asks for one reference.
    return "refcount_one" if policy.large_reuse == "scan" and policy.reuse_extent == "page" else policy.large_reuse


def _last_reference(stretch: Stretch, places: Pages, folios: Numbers, unmarked: Mask) -> Mask:
    """6.8: each copy takes a reference away; the page that then has the only one left is reused."""
    refcount = stretch.memory.refcount[folios]
    candidates = np.flatnonzero(unmarked & (refcount <= PTRS_PER_PMD))
    sole = np.zeros(len(folios), np.bool_)
    order = candidates[np.lexsort((stretch.first_write[places[candidates]], folios[candidates]))]
    starts = np.flatnonzero(np.diff(folios[order], prepend=-1))
    copied_before = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    sole[order] = refcount[order] - copied_before == 1
    return sole


def _one_mm(stretch: Stretch, folios: Index) -> Mask:
    """6.15: all mappings and references are this mm's (`__wp_can_reuse_large_anon_folio`)."""
    memory = stretch.memory
    mapcount = rows_at(memory.large_mapcount, folios)
    shared = rows_at(memory.maybe_mapped_shared, folios)
    alone: Mask = (mapcount > 1) & ~shared & (mapcount == rows_at(memory.refcount, folios))
    return alone


def _last_copies(stretch: Stretch, places: Pages, folios: Numbers, copied: Mask) -> list[tuple[int, int]]:
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


def plan_wp_whole_folios(stretch: Stretch, folios: Numbers) -> None:
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
        times = stretch.earliest_write(order)[block]
        sole = exclusive | _sole_owner(stretch, owner, size)
        # As for a reuse, the scan that finds another owner has read the folio's entries too.
        scans = policy.reuse_extent == "range"
        looked = np.where(sole | (_test(policy) == "scan"), size if scans else 0, 0)
        if scans:
            stretch.mark(times[sole], REUSE | order, looked[sole])
        else:
            written = blocks_of(stretch.first_write, order)[block[sole]]
            stretch.mark(written[written < stretch.accesses], REUSE)
        planned.append(owner[sole])
        if policy.copy_extent == "source_order" and order <= policy.copy_max_order:
            stretch.mark(times[~sole], COW_COPY | order, looked[~sole] + size)
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


def _whole_folios(stretch: Stretch, order: int) -> tuple[Pages, Numbers, Mask]:
    """Blocks that are written here and map a whole folio of that order read-only, all of it exclusive or nothing.

    Returns the blocks' numbers, the folios, and whether they are exclusive.
    """
    memory, size = stretch.memory, 1 << order
    rows = blocks_of(stretch.mm.pfn[stretch.window], order)
    good = all_of(stretch.read_only(), order) & stretch.inside(order) & (rows[:, 0] & (size - 1) == 0)
    good &= stretch.earliest_write(order) < stretch.accesses
    block = np.flatnonzero(good)
    heads = rows[block, 0]
    owner = memory.folio_of[heads]
    marked = blocks_of(memory.anon_exclusive, order)[heads >> order]
    exclusive = marked.all(axis=1)
    fits = (memory.order[owner] == order) & (exclusive | ~marked.any(axis=1))
    fits &= (rows[block] == heads[:, None] + np.arange(size, dtype=np.int32)).all(axis=1)
    return block[fits], owner[fits], exclusive[fits]


def _sole_owner(stretch: Stretch, owner: Numbers, size: int) -> Mask:
    """Whether folios that a process maps whole pass the policy's test for its first page."""
    test = _test(stretch.policy)
    if test == "scan":
        whole: Mask = stretch.memory.refcount[owner] == size
        return whole
    if test == "mm_id":
        return _one_mm(stretch, as_slice(owner))
    # One reference is never all there is of a folio that is mapped whole.
    return np.zeros(len(owner), np.bool_)
