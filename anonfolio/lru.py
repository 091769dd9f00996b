"""Exact LRU over whole traces: hit by hit for one geometry, or the hits of every size from one pass.

A cache of `ways` entries a set keeps, per set, a stack of keys, the most recently used first; an access hits when its
key stands in the first `ways` places (Mattson et al., "Evaluation techniques for storage hierarchies", 1970). Three
ways to know that without walking the trace in Python:

- `filter_misses`: place k of the stack changes only at accesses that were not found in places 1 to k - 1. So level by
  level the accesses found there drop out, and the k-th place before each survivor is the (k-1)-th place before the
  survivor before it: one comparison and one shift a level. What is left after `ways` levels are the misses.
- `window_misses`: in one large set, an access hits when its key was used since the time at which the `ways`-th most
  recent key was last used. That time never goes back, so it is computed at block boundaries only, and again inside the
  few blocks where it does not decide.
- `stack_distances`: how many other keys came since, for all accesses at once: an inversion count, done by splitting a
  permutation bit by bit.

Keys are non-negative integers; a key lives in set ``key % sets``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Narrow = npt.NDArray[np.integer[Any]]

CHUNK = 1 << 17
"""Accesses handled at once: what a level touches then stays in a second-level cache."""


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


def filter_misses(trace: Narrow, bounds: npt.NDArray[np.int64], ways: int) -> tuple[npt.NDArray[np.int64], Keys]:
    """Where `trace` misses, and what each set holds afterwards.

    Parameters
    ----------
    trace : ndarray of shape (n,), unsigned
        Keys grouped by set, each set's in the order of use; every set begins empty. None is its dtype's largest value.
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
    # Before a set's first access its places hold keys of the sets before it, and before those a key that is never
    # used: they match no key of this set, so they stand for empty places.
    foreign = np.iinfo(trace.dtype).max
    place, shifted = trace, trace
    for way in range(ways):
        last = np.searchsorted(at, bounds[1:][used]) - 1
        stacks[used, way] = place[last]
        shifted = np.empty_like(place)
        shifted[0] = foreign
        shifted[1:] = place[:-1]
        place = shifted
        kept = np.flatnonzero(trace != place)
        if len(kept) < len(trace):
            at, trace, place = at.take(kept), trace.take(kept), place.take(kept)
    stacks[(stacks == foreign) | (stacks % sets != np.arange(sets)[:, None])] = -1
    return at.astype(np.int64), stacks


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


def _stable_order(keys: Narrow) -> npt.NDArray[np.int32]:
    """As argsort(kind="stable"), 16 bits at a time: numpy sorts 16-bit keys by radix."""
    order = np.argsort(keys.astype(np.uint16), kind="stable").astype(np.int32)
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
        ways = entries if ways is None else ways
        if entries < 1 or ways < 1:
            raise ValueError(f"{entries} entries in {ways} ways: both must be at least 1")
        if entries % ways:
            raise ValueError(f"{entries} entries do not divide into sets of {ways} ways")
        self.ways = ways
        self.sets = entries // ways
        self.stacks = np.full((self.sets, ways), -1, np.int64)

    def access(self, keys: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Use these keys, in order: whether each was found. A key that was not found is brought in."""
        asked = _checked(keys)
        hits = np.ones(len(asked), np.bool_)
        # A key used twice in a row hits, and changes nothing.
        changes = _changes(asked)
        used = asked if len(changes) == len(asked) else asked.take(changes)
        for start in range(0, len(used), CHUNK):
            missed = self._chunk(used[start : start + CHUNK])
            hits[changes[start:].take(missed)] = False
        return hits

    def flush(self, keys: npt.ArrayLike | None = None) -> None:
        """Forget these keys, or all. Their places are free: what comes next takes them before anything is evicted."""
        if keys is None:
            self.stacks.fill(-1)
            return
        gone = np.isin(self.stacks, _checked(keys))
        kept = np.where(gone, -1, self.stacks)
        order = np.argsort(kept < 0, axis=1, kind="stable")
        self.stacks = np.take_along_axis(kept, order, axis=1)

    def _chunk(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Use some keys; returns where they missed, as indices into `keys`."""
        # What is in the cache is used once more, oldest first: then the cache can be forgotten.
        carried = self.stacks[:, ::-1].ravel()
        carried = carried[carried >= 0]
        trace = _narrow(np.concatenate((carried, keys)))
        missed = None
        if self.sets == 1 and self.ways > FEW_WAYS:
            missed = self._by_window(trace)
        if missed is None:
            missed = self._by_filter(trace)
        return missed[np.searchsorted(missed, len(carried)) :] - len(carried)

    def _by_filter(self, trace: Narrow) -> npt.NDArray[np.int64]:
        if self.sets == 1:
            missed, self.stacks = filter_misses(trace, np.array([0, len(trace)]), self.ways)
            return missed
        home = trace % trace.dtype.type(self.sets)
        order = _stable_order(home)
        bounds = np.concatenate(([0], np.cumsum(np.bincount(home, minlength=self.sets))))
        missed, self.stacks = filter_misses(trace.take(order), bounds, self.ways)
        in_order = np.zeros(len(trace), np.bool_)
        in_order[order.take(missed)] = True
        return np.flatnonzero(in_order)

    def _by_window(self, trace: Narrow) -> npt.NDArray[np.int64] | None:
        answer = window_misses(trace, self.ways)
        if answer is None:
            return None
        missed, stack = answer
        self.stacks = np.full((1, self.ways), -1, np.int64)
        self.stacks[0, : len(stack)] = stack
        return missed


def _checked(keys: npt.ArrayLike) -> Keys:
    array = np.asarray(keys)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"keys must be one row of integers, not {array.ndim} dimensions of {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(f"keys must not be negative: {array.min()} at {int(array.argmin())}")
    return array.astype(np.int64, copy=False)


def _changes(keys: Keys) -> npt.NDArray[np.int64]:
    """Where a key is not the one before it."""
    changed = np.empty(len(keys), np.bool_)
    changed[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=changed[1:])
    return np.flatnonzero(changed)


def _narrow(keys: Keys) -> Narrow:
    """The same keys in as few bytes as they fit, one value to spare; narrow keys are compared and sorted faster."""
    top = int(keys.max()) if len(keys) else 0
    return keys.astype(np.uint16 if top < 0xFFFF else np.uint32 if top < 0xFFFFFFFF else np.int64)


# --- every size at once ---------------------------------------------------------------------------------------------


def hits_by_place(keys: npt.ArrayLike, sets: int, ways: int) -> npt.NDArray[np.int64]:
    """Hits at each place of the stacks: the first w of them, summed, are the hits with w ways, for every w at once.

    Returns
    -------
    ndarray of shape (ways,)
        Accesses that found their key at place 1, 2, ... of its set.
    """
    if sets < 1 or ways < 1:
        raise ValueError(f"{sets} sets of {ways} ways: both must be at least 1")
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
    changes = _changes(asked)
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
    wanted = np.asarray(sizes)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or (wanted.size and wanted.min() < 1):
        raise ValueError(f"sizes must be a row of numbers of entries, each at least 1, not {sizes!r:.60}")
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
