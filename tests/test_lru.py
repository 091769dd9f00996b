"""Exact LRU: whatever is done for a whole trace at once equals one access after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

import anonfolio.hardware.lru
from anonfolio.hardware.lru import Lru, hits_by_place, lru_by_steps, miss_curve, stack_distances
from anonfolio.stream.run import keep_temporaries


@st.composite
def traces(draw: st.DrawFn) -> npt.NDArray[np.int64]:
    """Few or many keys, narrow or wide, with runs and with loops."""
    keys = draw(st.sampled_from([2, 5, 17, 60, 400]))
    scale = draw(st.sampled_from([1, 7, 1 << 14, 1 << 20, 1 << 40]))
    body = draw(st.lists(st.integers(0, keys - 1), max_size=250))
    repeat, loops = draw(st.sampled_from([1, 1, 3])), draw(st.sampled_from([1, 1, 2]))
    lowest = draw(st.sampled_from([0, 0, 3, 0xFFFF, 1 << 36]))
    return np.repeat(np.tile(np.array(body, np.int64), loops), repeat) * scale + lowest


GEOMETRIES = st.tuples(st.sampled_from([1, 2, 3, 8, 20]), st.sampled_from([1, 2, 4, 9, 16, 48]))


def with_limits(patch: pytest.MonkeyPatch, **limits: int) -> None:
    """Small limits, so that short traces go the way of long ones."""
    for name, limit in limits.items():
        patch.setattr(anonfolio.hardware.lru, name, limit)


LIMITS = st.fixed_dictionaries(
    {
        "CHUNK": st.sampled_from([1, 7, 64, 1 << 20]),
        "LONG": st.sampled_from([1, 40, 1 << 16]),
        "LANE": st.sampled_from([1, 4, 22]),
        "NEAR": st.sampled_from([1, 16]),
    }
)


@settings(max_examples=examples(500), deadline=None)
@given(traces(), GEOMETRIES, LIMITS)
def test_each_access_hits_or_misses_as_in_a_plain_lru(
    keys: npt.NDArray[np.int64], geometry: tuple[int, int], limits: dict[str, int]
) -> None:
    sets, ways = geometry
    with pytest.MonkeyPatch.context() as patch:
        with_limits(patch, **limits)
        cache = Lru(sets * ways, ways)
        half = len(keys) // 2
        hits = np.concatenate((cache.access(keys[:half]), cache.access(keys[half:])))
    assert hits.tolist() == lru_by_steps(keys, sets, ways).tolist()


@settings(max_examples=examples(200), deadline=None)
@given(traces(), GEOMETRIES, LIMITS)
def test_a_cache_holds_the_keys_used_last_in_their_order(
    keys: npt.NDArray[np.int64], geometry: tuple[int, int], limits: dict[str, int]
) -> None:
    sets, ways = geometry
    cache = Lru(sets * ways, ways)
    with pytest.MonkeyPatch.context() as patch:
        with_limits(patch, **limits)
        cache.access(keys)
    for at, stack in enumerate(cache.stacks.tolist()):
        latest = list(dict.fromkeys(key for key in reversed(keys.tolist()) if key % sets == at))[:ways]
        assert stack == latest + [-1] * (ways - len(latest))


@pytest.mark.sweep(4)
@pytest.mark.parametrize(("sets", "ways"), [(1, 3), (1, 48), (16, 4), (256, 5), (7, 16), (1 << 17, 2)])
@pytest.mark.parametrize("distinct", [6, 900, 65_536])
def test_long_traces_are_exact_in_any_geometry(sets: int, ways: int, distinct: int) -> None:
    random = np.random.default_rng(7)
    keys = np.concatenate((random.zipf(1.3, 90_000) % distinct, random.integers(0, distinct, 90_000)))
    cache = Lru(sets * ways, ways)
    hits = np.concatenate((cache.access(keys[:80_000]), cache.access(keys[80_000:])))
    assert hits.tolist() == lru_by_steps(keys, sets, ways).tolist()


@pytest.mark.parametrize("distinct", [100, 3000, 65536])
def test_long_traces_in_one_large_set_are_exact_whichever_method_answers(distinct: int) -> None:
    keys = np.random.default_rng(5).zipf(1.2, 40_000) % distinct
    by_filter, held = anonfolio.hardware.lru.filter_misses(keys.astype(np.uint32), np.array([0, len(keys)]), 64)
    by_lane, stacks = anonfolio.hardware.lru.lane_misses(keys.astype(np.uint32), np.array([0, len(keys)]), 64)
    by_window = anonfolio.hardware.lru.window_misses(keys.astype(np.uint32), 64)
    misses = np.flatnonzero(~lru_by_steps(keys, 1, 64))
    assert by_filter.tolist() == misses.tolist()
    assert np.flatnonzero(by_lane).tolist() == misses.tolist()
    assert stacks.tolist() == held.tolist()
    assert by_window is not None
    assert by_window[0].tolist() == misses.tolist()


def test_a_trace_that_stays_in_a_few_keys_goes_through_the_filter() -> None:
    keys = np.tile(np.arange(40), 5_000)
    assert anonfolio.hardware.lru.window_misses(keys, 48) is None
    assert np.count_nonzero(~Lru(48).access(keys)) == 40


def test_a_flushed_key_misses_and_its_place_is_taken_before_anything_is_evicted() -> None:
    cache = Lru(4)
    cache.access([1, 2, 3, 4])
    cache.flush([2, 9])
    assert cache.stacks.tolist() == [[4, 3, 1, -1]]
    assert cache.access([5, 1, 2]).tolist() == [False, True, False]
    assert cache.stacks.tolist() == [[2, 1, 5, 4]]
    cache.flush()
    assert not cache.access([1]).any()


@settings(max_examples=examples(150), deadline=None)
@given(traces(), st.sampled_from([1, 2, 5, 16]))
def test_hits_at_each_place_give_every_associativity(keys: npt.NDArray[np.int64], sets: int) -> None:
    at = hits_by_place(keys, sets, 9)
    for ways in range(1, 10):
        assert at[:ways].sum() == lru_by_steps(keys, sets, ways).sum()


@settings(max_examples=examples(150), deadline=None)
@given(traces())
def test_the_miss_curve_is_what_each_size_misses(keys: npt.NDArray[np.int64]) -> None:
    sizes = [1, 2, 3, 10, 50, 1000]
    assert miss_curve(keys, sizes).tolist() == [int((~lru_by_steps(keys, 1, size)).sum()) for size in sizes]


def test_a_stack_distance_counts_other_keys_since() -> None:
    assert stack_distances([7, 7, 8, 9, 8, 7]).tolist() == [-1, 0, -1, -1, 1, 2]


@pytest.mark.parametrize(
    ("entries", "ways", "told"),
    [
        (0, None, "entries=0 is not a whole number in 1"),
        (4, 0, "ways=0 is not a whole number of at least 1"),
        (2.5, None, r"entries=2\.5"),
        (True, None, "entries=True"),
        ("4", None, "entries='4'"),
        (64, 5, "64 entries do not divide into sets of 5 ways"),
    ],
)
def test_a_geometry_that_does_not_divide_is_told(entries: int, ways: int | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Lru(entries, ways)


@pytest.mark.parametrize(
    ("keys", "told"), [([1.5], "integers"), ([[1]], "one row"), ([3, -4], "must not be negative: -4 at 1")]
)
def test_keys_that_are_none_are_told_and_change_nothing(keys: list[object], told: str) -> None:
    cache = Lru(4)
    cache.access([1, 2])
    with pytest.raises(ValueError, match=told):
        cache.access(keys)  # type: ignore[arg-type]
    assert cache.stacks.tolist() == [[2, 1, -1, -1]]


def test_sizes_that_are_none_are_told() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        miss_curve([1, 2], [0])
    with pytest.raises(ValueError, match="sets=0 is not a whole number in 1"):
        hits_by_place([1, 2], 0, 4)
    with pytest.raises(ValueError, match="one row of integers"):
        miss_curve([1, 2], [1.5])
    with pytest.raises(ValueError, match=r"ways=1\.5"):
        hits_by_place([1, 2], 1, 1.5)  # type: ignore[arg-type]


def test_a_trace_keeps_the_memory_of_its_temporaries() -> None:
    """Without that a TLB over a long trace takes a fifth longer, for fresh pages."""
    keep_temporaries.cache_clear()
    Lru(4).access([1, 2])
    assert keep_temporaries.cache_info().currsize == 1
