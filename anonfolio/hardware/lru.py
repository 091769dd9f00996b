"""Exact LRU over whole traces: hit by hit for one geometry, or the hits of every size from one pass.

A cache of `ways` entries a set keeps, per set, a stack of keys, the most recently used first; an access hits when its
key stands in the first `ways` places (Mattson et al., "Evaluation techniques for storage hierarchies", 1970). Four
ways to know that without walking the trace in Python:

- `filter_misses`: place k of the stack changes only at accesses that were not found in places 1 to k - 1. So level by
  level the accesses found there drop out, and the k-th place before each survivor is the (k-1)-th place before the
  survivor before it: one comparison and one shift a level. What is left after `ways` levels are the misses.
- `lane_misses`: the trace is cut into lanes of equal length, which all step at once, each with a stack of its own. It
  begins empty, so a lane's first `ways` misses may find what the lanes before left. They alone are used once more, on
  the stack with which the lane before ended; no other access can turn out differently.
- `window_misses`: in one large set, an access hits when its key was used since the time at which the `ways`-th most
  recent key was last used. That time never goes back, so it is computed at block boundaries only, and again inside the
  few blocks where it does not decide.
- `stack_distances`: how many other keys came since, for all accesses at once: an inversion count, done by splitting a
  permutation bit by bit.

Keys are non-negative integers; a key lives in set ``key % sets``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..stream.run import keep_temporaries
from .checks import whole, whole_row

Keys = npt.NDArray[np.int64]
Narrow = npt.NDArray[np.integer[Any]]

CHUNK = 1 << 20
"""Accesses handled at once: with fewer the rows of lanes are so short that a step's calls cost more than its work."""


def lru_by_steps(keys: Keys, sets: int, ways: int) -> npt.NDArray[np.bool_]:
    """Hits, one access after the other: what every other function here must equal."""
    stacks: dict[int, list[int]] = {}
    hits = np.zeros(len(keys), np.bool_)
    for at, key in enumerate(keys.tolist()):
        stack = stacks.setdefault(key % sets, [])
        hits[at] = key in stack
        if hits[at]:
            stack.remove(key)
        stack.insert(0, key)
        del stack[ways:]
    return hits


# --- one geometry: where a trace misses ------------------------------------------------------------------------------

FEW_WAYS = 8
"""Up to here the filter is always as fast: a level costs less than knowing each key's previous use."""

LONG = 1 << 16
"""From here on lanes are faster than the filter: a step over all lanes costs little more than its calls."""

STACK_BYTES = 160
"""Up to here lanes are faster than the window, whose time does not depend on the ways."""

MOST_WAYS = 255
"""Lanes count places in a byte."""


def misses(trace: Narrow, bounds: npt.NDArray[np.int64], ways: int) -> tuple[npt.NDArray[np.bool_], Keys]:
    """Which accesses miss, and what each set holds afterwards, by the method that is fastest.

    Parameters and stacks are those of `filter_misses`; the misses are one bool an access.
    """
    if not _stays_near(trace, ways):
        lanes = len(trace) >= LONG and ways <= MOST_WAYS
        if len(bounds) == 2 and ways > (STACK_BYTES // trace.itemsize if lanes else FEW_WAYS):
            answer = window_misses(trace, ways)
            if answer is not None:
                stacks = np.full((1, ways), -1, np.int64)
                stacks[0, : len(answer[1])] = answer[1]
                return _marked(answer[0], len(trace)), stacks
        if lanes:
            return lane_misses(trace, bounds, ways)
    missed, stacks = filter_misses(trace, bounds, ways)
    return _marked(missed, len(trace)), stacks


NEAR = 16
"""The filter is fastest where one place in so many leaves less than one access in so many."""


def _stays_near(trace: Narrow, ways: int) -> bool:
    """Whether the first accesses find nearly all their keys in the first few places."""
    sample = trace[: 1 << 12]
    missed, _ = filter_misses(sample, np.array([0, len(sample)]), max(ways // NEAR, 1))
    return len(missed) * NEAR < len(sample)


def _marked(at: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    marked = np.zeros(size, np.bool_)
    marked[at] = True
    return marked


def filter_misses(trace: Narrow, bounds: npt.NDArray[np.int64], ways: int) -> tuple[npt.NDArray[np.int64], Keys]:
    """Where `trace` misses, and what each set holds afterwards.

    Parameters
    ----------
    trace : ndarray of shape (n,), unsigned
        Keys grouped by set, each set's in the order of use; every set begins empty.
    bounds : ndarray of shape (sets + 1,)
        Where each set's accesses begin in `trace`.
    ways : int
        Places a set.

    Returns
    -------
    ndarray
        Indices of the misses, ascending.
    ndarray of shape (sets, ways)
        The stacks, most recent first, -1 where nothing is.
    """
    sets = len(bounds) - 1
    stacks = np.full((sets, ways), -1, np.int64)
    at = np.arange(len(trace), dtype=np.int32)
    if not len(trace):
        return at.astype(np.int64), stacks
    used = np.flatnonzero(bounds[1:] > bounds[:-1])
    # Before a set's first access its places hold keys of the sets before it, and in the first set its own first key
    # once more, which stands higher up as well: none of them is ever found there, so they stand for empty places.
    first, place = trace[0], trace
    for way in range(ways):
        last = np.searchsorted(at, bounds[1:][used]) - 1
        stacks[used, way] = place[last]
        shifted = np.empty_like(place)
        shifted[0] = first
        shifted[1:] = place[:-1]
        place = shifted
        differs = trace != place
        differs[0] = True
        kept = np.flatnonzero(differs)
        if len(kept) < len(trace):
            at, trace, place = at.take(kept), trace.take(kept), place.take(kept)
    stacks[used[0], np.flatnonzero(stacks[used[0]] == first)[1:]] = -1
    stacks[stacks % sets != np.arange(sets)[:, None]] = -1
    return at.astype(np.int64), stacks


LANE = 22
"""Divides a lane's length: long lanes take more calls, short ones use more keys twice; this balances them."""


def lane_misses(trace: Narrow, bounds: npt.NDArray[np.int64], ways: int) -> tuple[npt.NDArray[np.bool_], Keys]:
    """As `misses`, for at most 255 ways.

    A lane runs on from one set into the next: the keys of the set before are none of this one's, and stand for empty
    places.
    """
    length = max(math.isqrt(len(trace) * ways) // LANE, 2 * ways)
    lanes = -(-len(trace) // length)
    uses = _by_step(trace, lanes, length)
    # An empty place holds the lane's first key: that is found higher up, so it is never found there.
    stacks = np.repeat(uses[:1], ways, axis=0)
    by_step = _step(stacks, uses)
    by_step[0] = True
    missed = np.ascontiguousarray(by_step.T).ravel()
    counts = np.add.reduce(by_step, axis=0, dtype=np.int32)
    first = np.minimum(counts, ways)
    _carry_over(stacks, first)
    # Where there are fewer the last one is used again, which changes nothing.
    place = np.arange(first.max())[:, None]
    again = _set_flags(missed, length, counts, np.minimum(place, first - 1))[:, 1:]
    still = _step(stacks[:, :-1].copy(), trace.take(again))
    missed[again.ravel().take(np.flatnonzero((place < first)[:, 1:] > still))] = False
    return missed[: len(trace)], _held(trace, bounds, stacks, length)


def _set_flags(
    flags: npt.NDArray[np.bool_], length: int, counts: npt.NDArray[np.int32], ranks: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where the flags with these ranks are, a column a lane; each lane has so many of them."""
    lanes = len(counts)
    at = np.empty(ranks.shape, np.int64)
    group = max(1, (1 << 16) // length)
    for start in range(0, lanes, group):
        some = slice(start, start + group)
        before = np.cumsum(counts[some]) - counts[some]
        found = np.flatnonzero(flags[start * length : (start + group) * length])
        at[:, some] = found.take(before + ranks[:, some]) + start * length
    return at


def _by_step(trace: Narrow, lanes: int, length: int) -> Narrow:
    """The keys of all lanes step by step: a transpose, in blocks that a first-level cache holds."""
    steps = np.empty((length, lanes), trace.dtype)
    whole = len(trace) // length
    rows = trace[: whole * length].reshape(whole, length)
    for start in range(0, whole, 128):
        steps[:, start : min(start + 128, whole)] = rows[start : start + 128].T
    # The last key once more changes nothing.
    steps[:, whole:] = trace[-1]
    steps[: len(trace) - whole * length, whole:] = trace[whole * length :, None]
    return steps


def _step(stacks: Narrow, uses: Narrow) -> npt.NDArray[np.bool_]:
    """Use a key in every lane, step after step.

    Parameters
    ----------
    stacks : ndarray of shape (ways, lanes)
        Each lane's stack, most recent first; changed in place.
    uses : ndarray of shape (steps, lanes)
        The keys.

    Returns
    -------
    ndarray of shape (steps, lanes), bool
        Which of them were not in their lane's stack.
    """
    ways, lanes = stacks.shape
    missed = np.empty(uses.shape, np.bool_)
    # A key at place k is found at height ways - k, the highest one counts; 0 is a miss.
    height = np.arange(ways, 0, -1, dtype=np.uint8)[:, None]
    heights = np.repeat(height, lanes, axis=1)
    found, nowhere = np.empty(lanes, np.uint8), np.zeros(lanes, np.uint8)
    equal = np.empty((ways, lanes), np.bool_)
    at, moves = equal.view(np.uint8), equal[:-1]
    above, below = stacks[:-1], stacks[1:]
    change = np.empty_like(below)
    for keys, misses_ in zip(uses, missed, strict=True):
        np.equal(stacks, keys, out=equal)
        np.multiply(at, heights, out=at)
        np.maximum.reduce(at, axis=0, out=found)
        np.equal(found, nowhere, out=misses_)
        # What stands above the key moves one place down.
        np.less(found, height[:-1], out=moves)
        np.subtract(above, below, out=change)
        np.multiply(change, moves, out=change)
        np.add(below, change, out=below)
        stacks[0] = keys
    return missed


def _carry_over(stacks: Narrow, distinct: npt.NDArray[np.int64]) -> None:
    """Make each lane's stack what it is after the lanes before, not after this lane alone.

    Only a stack with free places changes: what it holds is used once more on the stack of the lane before; then two
    lanes are known together, then four.

    Parameters
    ----------
    stacks : ndarray of shape (ways, lanes)
        Changed in place.
    distinct : ndarray of shape (lanes,)
        How many different keys each holds.
    """
    ways = len(stacks)
    distinct = distinct.copy()
    back = 1
    while len(some := back + np.flatnonzero(distinct[back:] < ways)):
        joined = stacks.take(some - back, axis=1)
        new = _step(joined, stacks[: distinct[some].max()].take(some, axis=1)[::-1])
        stacks[:, some] = joined
        distinct[some] = np.minimum(distinct.take(some - back) + np.count_nonzero(new, axis=0), ways)
        back *= 2


def _held(trace: Narrow, bounds: npt.NDArray[np.int64], stacks: Narrow, length: int) -> Keys:
    """What each set holds after `trace`: what the lane before the set's last one left, and the uses since."""
    ways = len(stacks)
    lane = (bounds[1:] - 1) // length
    since = np.maximum(bounds[:-1], lane * length)
    left = np.where(since > bounds[:-1], ways, 0)
    # Row by row the stack, oldest first, then the uses.
    starts = np.stack((len(trace) + (lane - 1) * ways, since), axis=1).ravel()
    counts = np.stack((left, bounds[1:] - since), axis=1).ravel()
    ends = np.cumsum(counts)
    at = np.arange(ends[-1]) + np.repeat(starts - ends + counts, counts)
    uses = np.concatenate((trace, stacks[::-1].T.ravel())).take(at)
    return filter_misses(uses, np.append(0, ends[1::2]), ways)[1]


def window_misses(trace: Narrow, ways: int) -> tuple[npt.NDArray[np.int64], Narrow] | None:
    """Where `trace` misses in one set that begins empty, and what the set holds afterwards, most recent first.

    None when a place was not used for so long that looking for it costs more than the filter.
    """
    size = len(trace)
    before, after = _neighbours(trace)
    bounds = np.append(np.arange(0, size, BLOCK, dtype=np.int32), np.int32(size))
    limits = _oldest_use(after, bounds, ways)
    if limits is None:
        return None
    lengths = np.diff(bounds)
    hits = before >= np.repeat(limits[1][1:], lengths)
    open_ = np.flatnonzero((before >= np.repeat(limits[0][:-1], lengths)) & ~hits)
    hits[open_] = _few_between(before, after, open_, ways)
    held = np.flatnonzero(after == size)[: -ways - 1 : -1]
    return np.flatnonzero(~hits), trace[held]


BLOCK = 16
"""Accesses between two times at which the oldest place's last use is computed."""


def _neighbours(trace: Narrow) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Per access where its key was used before, -1 for never, and where it is used next, the length for never."""
    size = len(trace)
    order = _stable_order(trace)
    sorted_ = trace.take(order)
    same = np.flatnonzero(sorted_[1:] == sorted_[:-1])
    earlier, later = order.take(same), order[1:].take(same)
    before = np.full(size, -1, np.int32)
    after = np.full(size, size, np.int32)
    before[later] = earlier
    after[earlier] = later
    return before, after


def _stable_order(keys: Narrow) -> npt.NDArray[np.int64]:
    """As argsort(kind="stable"), 16 bits at a time: numpy sorts 8-bit and 16-bit keys by radix."""
    order = np.argsort(keys if keys.itemsize == 1 else keys.astype(np.uint16), kind="stable")
    shift = 16
    while shift < 8 * keys.itemsize and int(keys.max(initial=0)) >> shift:
        high = (keys >> keys.dtype.type(shift)).astype(np.uint16)
        order = order.take(np.argsort(high.take(order), kind="stable"))
        shift += 16
    return order


def _oldest_use(
    after: npt.NDArray[np.int32], bounds: npt.NDArray[np.int32], ways: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None:
    """Between which times the key in the last place was used last, seen from each bound; 0 while a place is free.

    A use is a key's last one, seen from a bound, when its next use does not come before the bound. So many of them are
    counted backwards from the bound, 16 at a time, as the set has places.
    """
    lowest = np.zeros(len(bounds), np.int32)
    highest = np.zeros(len(bounds), np.int32)
    width = _next_power(2 * ways)
    todo = np.arange(len(bounds))
    while len(todo):
        if width * len(todo) > 64 * len(after) or width > CHUNK:
            return None
        padded = np.concatenate((np.full(width, -1, np.int32), after))
        windows = np.lib.stride_tricks.sliding_window_view(padded, width)
        far = []
        for start in range(0, len(todo), max(1, (1 << 18) // width)):
            some = todo[start : start + max(1, (1 << 18) // width)]
            bound = bounds[some]
            packed = np.packbits(windows[bound] >= bound[:, None], axis=1).view(np.uint16)
            counts = np.cumsum(np.bitwise_count(packed).T[::-1], axis=0, dtype=np.int32)
            steps = np.count_nonzero(counts < ways, axis=0).astype(np.int32)
            enough = counts[-1] >= ways
            lowest[some] = np.where(enough, bound - 16 * (steps + 1), 0)
            highest[some] = np.where(enough, bound - 16 * steps, 0)
            far.append(some[~enough & (bound > width)])
        todo = np.concatenate(far)
        width *= 4
    return np.maximum(lowest, 0), np.maximum(highest, 0)


def _few_between(
    before: npt.NDArray[np.int32], after: npt.NDArray[np.int32], open_: npt.NDArray[np.int64], ways: int
) -> npt.NDArray[np.bool_]:
    """Whether fewer than `ways` other keys were used between each of these accesses and its key's use before."""
    first = before.take(open_)
    gap = open_ - first - 1
    few = gap < ways
    rest = np.flatnonzero(~few)
    rest = rest[np.argsort(gap[rest], kind="stable")]
    while len(rest):
        some = rest[:4096]
        some = some[: max(1, (1 << 20) // int(gap[some[-1]]))]
        widest = int(gap[some[-1]])
        here = open_[some].astype(np.int32)[:, None]
        between: npt.NDArray[np.int32] = np.subtract(here, np.arange(1, widest + 1, dtype=np.int32))
        last_uses = (after.take(between, mode="clip") >= here) & (between > first[some][:, None])
        few[some] = np.count_nonzero(last_uses, axis=1) < ways
        rest = rest[len(some) :]
    return few


def _next_power(value: int) -> int:
    return 1 << (value - 1).bit_length()


# --- a cache --------------------------------------------------------------------------------------------------------


MOST_ENTRIES = 1 << 24
"""Each takes eight bytes; a second-level TLB has 2,048."""


class Lru:
    """A set-associative cache with exact least-recently-used replacement, and what is in it.

    Parameters
    ----------
    entries : int
        How many keys it holds.
    ways : int, optional
        How many of them share a set; all by default (fully associative). It must divide `entries`.

    Attributes
    ----------
    stacks : ndarray of shape (entries // ways, ways), int64
        Per set its keys, the most recently used first; -1 where nothing is.
    """

    def __init__(self, entries: int, ways: int | None = None) -> None:
        entries = whole("entries", entries, 1, MOST_ENTRIES)
        ways = entries if ways is None else whole("ways", ways, 1)
        if entries % ways:
            raise ValueError(f"{entries} entries do not divide into sets of {ways} ways")
        self.ways = ways
        self.sets = entries // ways
        self.stacks = np.full((self.sets, ways), -1, np.int64)

    def access(self, keys: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Use these keys, in order: whether each was found. A key that was not found is brought in."""
        trace, low, bits = _checked_and_low(keys)
        # What is in the cache is used once more, oldest first: then the cache can be forgotten.
        carried = _oldest_first(self.stacks)
        if len(carried):
            trace, low, bits = _checked_and_low(np.concatenate((carried, trace)))
        narrow, lowest = (low, 0) if bits < 1 << 16 else _narrow(trace, self.sets)
        missed, stacks = _without_repeats(narrow, self.sets, self.ways)
        self.stacks = np.where(stacks < 0, -1, stacks + lowest)
        return ~missed[len(carried) :]

    def flush(self, keys: npt.ArrayLike | None = None) -> None:
        """Forget these keys, or all. Their places are free: what comes next takes them before anything is evicted."""
        if keys is None:
            self.stacks.fill(-1)
            return
        gone = np.isin(self.stacks, _checked(keys))
        kept = np.where(gone, -1, self.stacks)
        order = np.argsort(kept < 0, axis=1, kind="stable")
        self.stacks = np.take_along_axis(kept, order, axis=1)


WORTH_KEEPING = 0.75
"""More changes than that, and taking out the repeats costs more than they do."""


def _without_repeats(trace: Narrow, sets: int, ways: int) -> tuple[npt.NDArray[np.bool_], Keys]:
    """Which accesses miss in a cache that begins empty, and the stacks afterwards."""
    # A key used twice in a row hits, and changes nothing.
    changes = _changes(trace)
    if np.count_nonzero(changes) > len(trace) * WORTH_KEEPING:
        return _in_chunks(trace, sets, ways)
    at = np.flatnonzero(changes)
    missed, stacks = _in_chunks(trace.take(at), sets, ways)
    return _scattered(missed, at, len(trace)), stacks


def _in_chunks(trace: Narrow, sets: int, ways: int) -> tuple[npt.NDArray[np.bool_], Keys]:
    # The window sorts by key, which takes longer for more of them.
    size = max(CHUNK // 8, 1) if sets == 1 and ways * trace.itemsize > STACK_BYTES else CHUNK
    if 0 < len(trace) <= size:
        return _by_set(trace, sets, ways)
    missed = np.empty(len(trace), np.bool_)
    stacks = np.full((sets, ways), -1, np.int64)
    for start in range(0, len(trace), size):
        carried = _oldest_first(stacks).astype(trace.dtype)
        found, stacks = _by_set(np.concatenate((carried, trace[start : start + size])), sets, ways)
        missed[start : start + size] = found[len(carried) :]
    return missed, stacks


def _scattered(flags: npt.NDArray[np.bool_], at: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    """A row of so many flags, these at those places; the others are not set. Few are set one by one."""
    if 4 * np.count_nonzero(flags) < len(flags):
        return _marked(at.take(np.flatnonzero(flags)), size)
    row = np.zeros(size, np.bool_)
    row[at] = flags
    return row


def _oldest_first(stacks: Keys) -> Keys:
    keys = stacks[:, ::-1].ravel()
    return keys[keys >= 0]


def _by_set(trace: Narrow, sets: int, ways: int) -> tuple[npt.NDArray[np.bool_], Keys]:
    """`misses` of a trace that is not grouped."""
    if sets == 1:
        return misses(trace, np.array([0, len(trace)]), ways)
    home = _remainders(trace, sets)
    order = _stable_order(home)
    first = np.searchsorted(home, np.arange(sets, dtype=home.dtype), sorter=order)
    grouped, stacks = misses(trace.take(order), np.append(first, len(trace)), ways)
    return _scattered(grouped, order, len(trace)), stacks


def _checked(keys: npt.ArrayLike) -> Keys:
    return _checked_and_low(keys)[0]


def _checked_and_low(keys: npt.ArrayLike) -> tuple[Keys, Narrow, int]:
    """The keys as an array, their lowest 16 bits, and all bits that any key has, from reading them once."""
    keep_temporaries()
    array = whole_row("keys", keys)
    low, bits = np.empty(len(array), np.uint16), 0
    for start in range(0, len(array), READ):
        block = array[start : start + READ]
        low[start : start + READ] = block
        bits |= int(np.bitwise_or.reduce(block))
    if bits < 0:
        raise ValueError(f"keys must not be negative: {array.min()} at {int(array.argmin())}")
    return array, low, bits


READ = 1 << 14
"""Keys copied and checked at once, so that the second look finds them in a cache."""


def _changes(keys: Narrow) -> npt.NDArray[np.bool_]:
    """Whether each key is not the one before it."""
    changed = np.empty(len(keys), np.bool_)
    changed[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=changed[1:])
    return changed


def _narrow(keys: Keys, sets: int) -> tuple[Narrow, int]:
    """The same keys in as few bytes as they fit, and the multiple of `sets` by which they are less.

    Narrow keys are compared and sorted faster; page numbers are large, but not far apart.
    """
    lowest = int(keys.min()) // sets * sets
    top = int(keys.max()) - lowest
    return (keys - lowest).astype(np.uint16 if top < 1 << 16 else np.uint32 if top < 1 << 32 else np.int64), lowest


def _remainders(keys: Narrow, sets: int) -> Narrow:
    """As ``keys % sets``, in as few bytes as they fit: numpy is faster at dividing than at taking remainders."""
    if sets & (sets - 1) == 0 and sets <= 1 << 16:
        keys = keys & keys.dtype.type(sets - 1)
    elif sets <= np.iinfo(keys.dtype).max:
        whole = keys // keys.dtype.type(sets)
        whole *= keys.dtype.type(sets)
        keys = np.subtract(keys, whole, out=whole)
    return keys.astype(np.uint8 if sets <= 1 << 8 else np.uint16 if sets <= 1 << 16 else np.int64)


# --- every size at once ---------------------------------------------------------------------------------------------


def hits_by_place(keys: npt.ArrayLike, sets: int, ways: int) -> npt.NDArray[np.int64]:
    """Hits at each place of the stacks: the first w of them, summed, are the hits with w ways, for every w at once.

    Returns
    -------
    ndarray of shape (ways,)
        Accesses that found their key at place 1, 2, ... of its set.
    """
    sets, ways = whole("sets", sets, 1, (1 << 63) - 1), whole("ways", ways, 1, MOST_ENTRIES)
    asked = _checked(keys)
    trace = asked.take(_stable_order(asked % sets))
    hits = np.zeros(ways, np.int64)
    place = trace
    for way in range(ways):
        if not len(trace):
            break
        place = np.concatenate(([-1], place[:-1]))
        kept = np.flatnonzero(trace != place)
        hits[way] = len(trace) - len(kept)
        trace, place = trace.take(kept), place.take(kept)
    return hits


def stack_distances(keys: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How many other keys were used since each access's key was: a cache of more entries than that hits.

    Returns
    -------
    ndarray of shape (n,), int64
        -1 where a key is used for the first time.

    Notes
    -----
    Other keys since are the accesses since, less those whose own use before lies after ours: they repeat a key that was
    counted. Those are inversions of the sequence of uses before, which is a permutation once first uses are left out.
    """
    asked = _checked(keys)
    distances = np.full(len(asked), -1, np.int64)
    if not len(asked):
        return distances
    changes = np.flatnonzero(_changes(asked))
    distances[:] = 0
    distances[changes] = _distances(asked.take(changes))
    return distances


def _distances(keys: Keys) -> npt.NDArray[np.int64]:
    before, after = _neighbours(_dense(keys))
    again = np.flatnonzero(before >= 0)
    first = before.take(again)
    numbered = np.cumsum(after < len(keys), dtype=np.int32) - 1
    distances = np.full(len(keys), -1, np.int64)
    distances[again] = again - first - 1 - _greater_before(numbered.take(first))
    return distances


def miss_curve(keys: npt.ArrayLike, sizes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Misses of a fully associative cache of each of these sizes, in entries, from one pass."""
    wanted = whole_row("sizes", sizes)
    whole("the smallest of sizes", wanted.min(initial=1), 1)
    distances = stack_distances(keys)
    found = np.sort(distances[distances >= 0])
    return len(distances) - np.searchsorted(found, wanted, side="left")


def _dense(keys: Keys) -> Narrow:
    top = int(keys.max())
    return keys.astype(np.uint16) if top < 1 << 16 else keys.astype(np.uint32) if top < 1 << 32 else keys


def _greater_before(permutation: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """For each element of a permutation of 0..n-1, how many greater ones come before it.

    Bit by bit from the top: elements that agree in the bits above form a group, in their order; each one with a 0 here
    is passed by the group's elements with a 1 that come before it. Each group has as many of both, so that after the
    split the groups are again rows of one array.
    """
    count = len(permutation)
    size = _next_power(max(count, 2 * SMALL))
    values = np.arange(size, dtype=np.int32)
    values[:count] = permutation
    passed = np.zeros(size, np.int32)
    shift = size.bit_length() - 2
    while 1 << shift >= SMALL:
        bit = 1 << shift
        ones = (values & bit) > 0
        zero, one = np.flatnonzero(~ones), np.flatnonzero(ones)
        # i zeros come before element `zero[i]`, so the rest are ones; those of the groups before are half their size.
        ahead = zero - np.arange(len(zero)) - (zero >> (shift + 1) << shift)
        passed = _side_by_side(passed.take(zero) + ahead.astype(np.int32), passed.take(one), bit)
        values = _side_by_side(values.take(zero), values.take(one), bit)
        shift -= 1
    passed += _greater_before_in_groups(values)
    by_value = np.empty_like(passed)
    by_value[values] = passed
    return by_value.take(permutation)


SMALL = 16
"""Groups of this size are compared element by element."""


def _side_by_side(left: npt.NDArray[np.int32], right: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.int32]:
    """Runs of `width` elements, from `left` and `right` in turn."""
    shape = (-1, 1, width)
    return np.concatenate((left.reshape(shape), right.reshape(shape)), axis=1).ravel()


def _greater_before_in_groups(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    rows = np.ascontiguousarray((values % SMALL).astype(np.uint8).reshape(-1, SMALL).T)
    counts = np.zeros_like(rows)
    for later in range(SMALL):
        for earlier in range(later):
            counts[later] += rows[earlier] > rows[later]
    return counts.T.astype(np.int32).ravel()
