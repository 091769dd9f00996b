"""Page-table walks of recorded programs: the recorded accesses exactly, the memory at its peak, and nothing guessed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import anonfolio as af
from anonfolio.hardware.tlb import CORES, Core, Entries, Tlb
from anonfolio.hardware.trace import CALLS, DATA_DIR, Call, Trace, read_trace, replay
from anonfolio.hardware.walks import OneByOne, _pieces, walks

DATABASE = read_trace(DATA_DIR / "database-6.18.44-1.npz")


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("policy", "orders"), [(af.LINUX_6_15, (2, 4)), (af.RFC_V2_FIXED, (9,))])
def test_the_replay_is_the_same_whoever_looks_at_the_tlb(policy: af.Policy, orders: tuple[int, ...]) -> None:
    plain, (seen, _) = replay(DATABASE, orders, policy), walks(DATABASE, orders, policy)
    assert seen.counters == plain.counters
    assert (seen.held_peak_pages, seen.touched_pages, seen.ends) == (
        plain.held_peak_pages,
        plain.touched_pages,
        plain.ends,
    )


@pytest.mark.sweep(2)
@pytest.mark.parametrize("policy", [af.LINUX_6_15, af.RFC_V2_FIXED], ids=lambda policy: policy.name)
def test_walks_are_those_of_one_access_after_the_other(policy: af.Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = walks(DATABASE, (2, 4), policy)
    monkeypatch.setattr("anonfolio.hardware.walks._pieces", _singles)
    _, slow = walks(DATABASE, (2, 4), policy)
    assert fast == slow
    assert fast.recorded < fast.accesses == len(DATABASE)


def _singles(process: Any, vpns: Any, write: Any) -> Iterator[tuple[int, int]]:
    return ((at, at + 1) for at in range(len(vpns)))


def traced(*calls: Call, vpns: list[int], writes: list[bool], owners: list[int] | None = None) -> Trace:
    count = len(vpns)
    return Trace(
        "6.18.44", {}, np.array(vpns, np.int64), np.array(owners or [0] * count, np.uint8),
        np.where(writes, 6, 4).astype(np.uint8), calls, np.arange(4), tuple({"name": "p"} for _ in range(2)), count,
    )  # fmt: skip


BEGIN = (Call(0, "spawn", 0), Call(0, "map", 0, 0, 64, 3))


def test_single_pages_walk_each_and_a_folded_block_once() -> None:
    assert "spawn" in CALLS
    trace = traced(*BEGIN, vpns=list(range(32)), writes=[True] * 32)
    for orders, recorded, reach in (((), 32, 1280), ((4,), 2, 1280 * 16)):
        _, found = walks(trace, orders, af.LINUX_6_15)
        assert found == (type(found)(32, recorded, 32, recorded, reach))


def test_what_a_fork_and_a_copy_change_is_walked_again_and_shortens_the_reach() -> None:
    # 16 pages in one entry; after the fork the child's page 3 is copied, which unfolds the block for it.
    owners = [0] * 16 + [1, 1]
    trace = traced(
        *BEGIN, Call(16, "fork", 0, argument=1), vpns=[*range(16), 3, 3], writes=[True] * 18, owners=owners
    )  # fmt: skip
    _, found = walks(trace, (4,), af.LINUX_6_15)
    # The parent walks once. The child's copy walks, and its next access finds that entry.
    assert found.recorded == 2
    # At the peak the parent's 16 pages are one entry, the child's 16.
    assert (found.peak_pages, found.peak) == (32, 1 + 16)
    assert found.reach_pages == round(1280 * 32 / 17)


def test_a_fork_flushes_the_parent() -> None:
    trace = traced(*BEGIN, Call(16, "fork", 0, argument=1), vpns=[*range(16), 3], writes=[True] * 16 + [False])
    assert walks(trace, (4,), af.LINUX_6_15)[1].recorded == 2


def test_the_peak_is_before_the_end() -> None:
    trace = traced(*BEGIN, Call(32, "unmap", 0, 0, 16), vpns=list(range(32)), writes=[True] * 32)
    _, found = walks(trace, (4,), af.LINUX_6_15)
    assert (found.peak_pages, found.peak) == (32, 2)


def test_pieces_stand_alone_where_an_entry_may_change() -> None:
    machine = af.Machine("linux-6.15", orders=(2,))
    parent = machine.spawn()
    parent.mmap(64, at=0)
    parent.write(0)
    parent.fork()
    pages, writes = np.array([8, 9, 0, 16, 8, 32, 17]), np.array([1, 1, 1, 1, 1, 1, 1], bool)
    assert list(_pieces(parent, pages, writes)) == [(0, 4), (4, 5), (5, 7)]
    # After a read of the zero page any write of its 2 MiB may replace it.
    assert list(_pieces(parent, pages[3:], np.array([0, 1, 0, 1], bool))) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "core", [*CORES, Core("small", ((Entries(4, 2),), (Entries(16, 4),)))], ids=lambda core: core.name
)
def test_page_by_page_is_the_tlb_of_whole_arrays(core: Core) -> None:
    random = np.random.default_rng(7)
    whole, single = Tlb(core), OneByOne(core)
    for _ in range(30):
        pages = random.integers(0, 6000, 400)
        orders = random.choice([0, 4, 9], 400, p=[0.6, 0.3, 0.1]).astype(np.uint8)
        assert single.walks(pages.tolist(), orders.tolist(), [False] * 400) == whole.look_up(pages, orders).walks
        start, length = int(random.integers(0, 6000)), int(random.choice([1, 16, 5000]))
        whole.shootdown(start, length)
        single.shootdown(range(start, start + length))
    whole.flush()
    single.flush()
    assert (
        single.walks([1, 1], [0, 0], [False, False])
        == whole.look_up(np.array([1, 1]), np.zeros(2, np.uint8)).walks
        == 1
    )
