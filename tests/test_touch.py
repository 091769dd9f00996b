"""Whole streams at once equal one access at a time: frames, folios, counts, entries, contents and counters."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support import examples

import anonfolio as af
from anonfolio.kernel import fork, mm, mmap, rules
from anonfolio.kernel.asked import RuleError
from anonfolio.kernel.buddy import Buddy
from anonfolio.kernel.pagetable import PTE_DIRTY, PTE_YOUNG
from anonfolio.kernel.vma import VM_WRITE
from anonfolio.stream import run as touch
from anonfolio.stream.window import Later


def last_page_too(folio: Any, ask: Any) -> bool:
    """6.15's rule without its first question: a last page is reused."""
    if ask("maybe shared?", folio.shared):
        return False
    return bool(ask("mappings == references", folio.mappings == folio.refcount))


def few_references(folio: Any, ask: Any) -> bool:
    """A rule that changes its mind in the middle of a folio."""
    return bool(ask("at most five references", folio.refcount <= 5))


def looks_if_alone(folio: Any, ask: Any) -> bool:
    """RFC v2's scan, but only where nobody else may map the folio."""
    return not ask("maybe shared?", folio.shared) and bool(ask("all of it", folio.refcount == folio.run))


def copies_16k(around: Any, ask: Any) -> range:
    """Four pages, where all of them are maybe shared."""
    block = around.block(2)
    free = around.same_folio & ~around.exclusive
    inside = around.suitable(2, ask) and around.order >= 2
    return block if inside and around.all_of(free, block) else around.page


def two_around(around: Any, ask: Any) -> range:
    return around.run(around.same_folio & ~around.writable if around.exclusive[around.at] else around.same_folio)


def second_largest(fits: tuple[int, ...], ask: Any) -> int:
    return fits[1] if len(fits) > 1 else fits[0]


def walks_the_rmap(folio: Any, ask: Any) -> bool:
    """Whatever is left of a folio is its last process's, whether a slot names it or not."""
    return ask("all mine", folio.mine == folio.mappings) and ask("all mappings", folio.mappings == folio.refcount)


def page_mapped_once(folio: Any, ask: Any) -> bool:
    """The page's own mapcount, where nobody holds a reference to the folio."""
    held = ask("pinned?", folio.pinned) or not ask("all mappings", folio.mappings == folio.refcount)
    return not held and bool(ask("page_mapcount == 1", folio.mapcount == 1))


def few_of_mine(folio: Any, ask: Any) -> bool:
    """Copies change what is said of the pages that are left, and their own mapcount tells these apart."""
    if not ask("three of mine, or six references", folio.mine <= 3 or folio.refcount <= 6):
        return False
    return page_mapped_once(folio, ask)


def by_mapping(where: Any) -> set[int]:
    """Large orders where advised, small ones elsewhere, none at all in short mappings."""
    return ({4, 3} if where.advice == "hugepage" else {2}) if where.pages > 16 else set()


READERS = {
    "last page too": af.LINUX_6_15.but(name="last page too", large_reuse=last_page_too),
    "few references": af.LINUX_6_9.but(name="few references", large_reuse=few_references, cont_pte_order=4),
    "looks if alone": af.RFC_V2_FIXED.but(name="looks if alone", large_reuse=looks_if_alone),
    "last page too, copy large": af.RFC_V2.but(name="last page too, copy large", large_reuse=last_page_too),
    "walks the rmap": af.LINUX_6_15.but(name="walks the rmap", large_reuse=walks_the_rmap),
    "walks the rmap, range": af.RFC_V2_FIXED.but(name="walks the rmap, range", large_reuse=walks_the_rmap),
    "page mapped once": af.LINUX_6_15.but(name="page mapped once", large_reuse=page_mapped_once),
    "few of mine": af.LINUX_6_15.but(name="few of mine", large_reuse=few_of_mine, cont_pte_order=4),
    "page mapped once, range": af.RFC_V2_FIXED.but(name="page mapped once, range", large_reuse=page_mapped_once),
    "copies 16K": af.LINUX_6_15.but(name="copies 16K", copy_extent=copies_16k),
    "reuses a run": af.LINUX_6_15.but(name="reuses a run", reuse_extent=two_around),
    "second largest": af.RFC_V2.but(name="second largest", chosen_order=second_largest),
    "by mapping": af.LINUX_6_15.but(name="by mapping", allowed_orders=by_mapping, copy_extent="source_order",
                                    copy_respects_knobs=True),
}  # fmt: skip
"""Policies with a rule that no kernel has."""

POLICIES = {
    **af.POLICIES,
    "none_only": af.RFC_V2_FIXED.but(name="none_only", zero_neighbours="none_only", copy_requires_ro=True),
    "everything large": af.LINUX_6_15.but(
        name="everything large", copy_extent="source_order", copy_max_order=9, unshare_extent="source_order",
        zero_page_write="first_touch", reuse_extent="range",
    ),
    "mm_id, range": af.RFC_V2.but(name="mm_id, range", large_reuse="mm_id", copy_requires_ro=True),
    "6.8, range": af.LINUX_6_8.but(name="6.8, range", reuse_extent="range"),
    "scan one": af.RFC_V2.but(name="scan one", reuse_extent="page"),
    "never, range": af.RFC_V2_FIXED.but(name="never, range", large_reuse="never"),
    "contiguous": af.LINUX_6_15.but(name="contiguous", cont_pte_order=4),
    "scan, copy one": af.RFC_V2.but(name="scan, copy one", copy_extent="page"),
    "5.10": af.Policy.at("5.10"),
    "accessed by faults": af.Policy.at("7.3", "arm64").but(name="accessed by faults", hardware_age=False),
    "contiguous, range": af.RFC_V2_FIXED.but(name="contiguous, range", cont_pte_order=4),
}  # fmt: skip


PHASES = [Phase.explicit, Phase.generate]
"""No shrinking: a failing machine is printed by its parts, and shrinking takes minutes."""

# --- everything that must be equal ------------------------------------------------------------------------------------


def state_of(machine: af.Machine) -> dict[str, Any]:
    """All that a machine holds, by name; what no kernel could tell apart is put in one form.

    That is: how far the arrays have grown, frames of entries that are none, and in which order equal free blocks lie
    in the allocator's own lists.
    """
    memory = machine.memory
    state: dict[str, Any] = {}
    for name, column in vars(memory).items():
        if isinstance(column, np.ndarray) and name != "_free_folios":
            used = np.flatnonzero(column.any(axis=tuple(range(1, column.ndim))))
            state[name] = column[: used[-1] + 1 if len(used) else 0].tolist()
    owners = memory.folio_of[:]
    state["folio_of"] = owners[: np.flatnonzero(owners >= 0).max(initial=-1) + 1].tolist()
    state["free folios"] = memory._free_folios[: memory._free_count].tolist(), memory._folios_used
    state["free blocks"] = memory.buddy.blocks(), memory.buddy.untouched
    counters = machine.counters
    state["counters"] = {name: getattr(counters, name) for name in counters.__slots__}
    for name, counter in state["counters"].items():
        if not isinstance(counter, int):
            state["counters"][name] = {key: count for key, count in counter.items() if count}
    for process in machine.processes:
        space = process.mm
        state[f"process {process.number}"] = {
            "alive": process.alive, "rss": process.rss_pages, "pte": space.pte.tolist(), "pmd": space.pmd.tolist(),
            "pfn": np.where(space.pte > 0, space.pfn, 0).tolist(), "pins": [pin.frames for pin in space.pins],
            "vmas": [(vma.start, vma.end, vma.flags, vma.pgoff, vma.anon_vma, vma.chain) for vma in space.vmas],
        }  # fmt: skip
    return state


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def step_through(process: af.Process, vpns: Any, write: Any, value: Any) -> None:
    """The stream, one access at a time."""
    writes = np.broadcast_to(write, len(vpns)).tolist()
    values = np.broadcast_to(value, len(vpns)).tolist()
    for vpn, is_write, byte in zip(vpns, writes, values, strict=True):
        if is_write:
            process.write(int(vpn), byte)
        else:
            process.read(int(vpn))


def check_equal(machine: af.Machine, number: int, vpns: Any, write: Any, value: Any) -> touch.Touched:
    """Do a stream on two copies of a machine, both ways, compare, and return what the fast one says it did."""
    slow, fast = machine.copy(), machine.copy()
    stops: list[str] = []
    done = touch.Touched(0, {}, 0)
    try:
        step_through(slow.process(number), vpns, write, value)
    except af.OutOfMemory as out:
        stops.append(str(out))
    try:
        done = fast.process(number).touch(vpns, write, value)
    except af.OutOfMemory as out:
        stops.append(str(out))
    assert len(stops) != 1
    assert len(set(stops)) < 2
    assert not difference(state_of(slow), state_of(fast))
    assert not af.check(fast)
    assert sum(done.why_stepped.values()) == done.stepped
    return done


# --- random states, streams, orders, policies, fragmentation ----------------------------------------------------------

KNOBS = (None, None, None, {4: "madvise", 3: "always", 2: "never"}, {4: "never", 2: "inherit", 9: "madvise"})
START, PAGES = 488, 72  # across a 2 MiB boundary, aligned to no block


@st.composite
def machines(draw: st.DrawFn, policy: af.Policy, huge: bool) -> tuple[af.Machine, range]:
    """A machine in a random state, and the pages that streams may name."""
    orders = draw(st.sampled_from(((4, 3, 2), (4,), (3, 2), (), (2, 4, 5), (2,))))
    start, pages, unit = (500, 2100, 25) if huge else (START, PAGES, 1)
    machine = af.Machine(
        policy,
        orders=(*orders, 9) if huge else orders,
        thp=draw(st.sampled_from(("always", "always", "madvise"))),
        knobs=draw(st.sampled_from(KNOBS)),
        use_zero_page=draw(st.booleans()),
        frames=1 << 14 if huge else draw(st.sampled_from((1 << 11, 1 << 11, 1 << 10, 400))),
    )
    parent = machine.spawn()
    largest = draw(st.sampled_from((None, None, None, 8, 3, 2, 0)))
    if largest is not None:
        machine.memory.buddy.fragment(largest, draw(st.sampled_from((1.0, 0.5))))
    pieces = draw(st.sampled_from((((0, pages),), ((0, pages // 2), (pages // 2, pages - pages // 2)))))
    for at, count in pieces:
        parent.mmap(count, at=start + at, advice=draw(st.sampled_from((None, None, "hugepage"))))
    places = st.integers(0, 71).map(lambda place: start + place * unit)
    lengths = st.sampled_from((1, 2, 4, 8, 16, 32)).map(lambda length: length * unit)
    for kind in draw(st.lists(st.sampled_from(DEEDS), max_size=10)):
        process = machine.live()[draw(st.integers(0, 3)) % len(machine.live())]
        place, length = draw(places), draw(lengths)
        length = min(length, start + pages - place)
        _do(machine, process, kind, place, length, start, pages)
    return machine, range(start, start + pages)


DEEDS = (
    "fork", "fork", "exit", "exit", "fork and exit", "fork and exit", "write", "write", "write", "read", "read",
    "mprotect", "dontneed", "pin", "unpin", "ref", "mremap", "nohugepage", "hugepage", "fork fails", "prctl",
)  # fmt: skip


def _do(machine: af.Machine, process: af.Process, kind: str, place: int, length: int, start: int, pages: int) -> None:
    match kind:
        case "fork" if len(machine.live()) < 4:
            process.fork()
        case "exit" if len(machine.live()) > 1:
            process.exit()
        case "fork and exit":
            process.fork().exit()
        case "write" | "read":
            for vpn in range(place, place + length):
                vma = process.mm.find_vma(vpn)
                if vma and (kind == "read" or vma.flags & VM_WRITE):
                    process.write(vpn, vpn % 251) if kind == "write" else process.read(vpn)
        case "mprotect":
            process.mprotect(place, length, 1)
            process.mprotect(place, length, 3)
        case "dontneed" | "nohugepage" | "hugepage":
            process.madvise(place, length, kind)
        case "pin" if ("pin", 0) not in process.pins():
            process.pin(place, min(length, 5))
        case "unpin":
            process.unpin()
        case "prctl":
            process.thp_disable((False, True, "except_advised")[place % 3])
        case "ref" if ("reference", 0) not in process.pins():
            process.ref(place)
        case "mremap":
            to = start + (place * 7 + 5) % max(1, pages - length)
            if to + length <= place or place + length <= to:
                process.mremap(place, length, to)
                # The hole that it leaves is mapped anew: streams may name any page.
                if not process.mm.vmas_in(place, place + length):
                    process.mmap(length, at=place)
        case "fork fails":
            process.fork_fails_after(length)


@st.composite
def streams(draw: st.DrawFn, pages: range) -> tuple[Any, Any, Any]:
    """Pages, whether each is written, and with what."""
    low = draw(st.integers(0, len(pages) - 1))
    count = draw(st.integers(1, len(pages) - low))
    vpns: Any = pages[low : low + count]
    kind = draw(st.sampled_from(("range", "backwards", "shuffled", "repeated", "strided")))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    if kind == "backwards":
        vpns = vpns[::-1]
    if kind == "strided":
        vpns = vpns[:: draw(st.sampled_from((2, 3, 16)))]
    if kind == "shuffled":
        vpns = rng.permutation(np.array(vpns))
    if kind == "repeated":
        vpns = rng.choice(np.array(vpns), draw(st.integers(1, 150)))
    write: Any = draw(st.sampled_from((True, True, False, 0.1, 0.5, 0.9, "reads first", "writes first")))
    if isinstance(write, float):
        write = rng.random(len(vpns)) < write
    elif isinstance(write, str):
        both = np.concatenate((np.array(vpns), rng.permutation(np.array(vpns))[: len(vpns) // 2 + 1]))
        vpns, write = (
            both,
            np.arange(len(both)) >= len(vpns) if write == "reads first" else np.arange(len(both)) < len(vpns),
        )
    value: Any = 7 if draw(st.booleans()) else rng.integers(0, 256, len(vpns))
    return vpns, write, value


def accessible(process: af.Process, vpns: Any, write: Any) -> bool:
    writes = np.broadcast_to(write, len(vpns))
    vmas = [process.mm.find_vma(int(vpn)) for vpn in vpns]
    return all(vma and (vma.flags & VM_WRITE or not w) for vma, w in zip(vmas, writes, strict=True))


THOROUGH = not settings().derandomize
"""HYPOTHESIS_PROFILE=explore: other examples each time, as many as the profile says."""


def drawing(count: int) -> Any:
    return settings(
        max_examples=examples(count), deadline=None, derandomize=not THOROUGH,
        database=None, phases=PHASES, suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def property_test(policy: af.Policy, huge: bool, count: int) -> Any:
    @drawing(count)
    @given(st.data())
    def test(data: st.DataObject) -> None:
        machine, pages = data.draw(machines(policy, huge))
        live = machine.live()
        process = live[data.draw(st.integers(0, 3)) % len(live)]
        vpns, write, value = data.draw(streams(pages))
        if not accessible(process, vpns, write):
            before = state_of(machine)
            with pytest.raises(af.SegmentationFault, match="of which nothing is done"):
                process.touch(vpns, write, value)
            assert state_of(machine) == before
            return
        check_equal(machine, process.number, vpns, write, value)

    return test


def test_every_rule_that_has_a_name_is_held_against_single_faults() -> None:
    kinds = {"large_reuse": rules.REUSES, "allowed_orders": rules.ALLOWED_ORDERS, "chosen_order": rules.CHOSEN_ORDERS}
    for field, named in kinds.items():
        assert set(named) == {getattr(policy, field) for policy in POLICIES.values()}, f"POLICIES leaves out a {field}"


for _name, _policy in POLICIES.items():
    _id = "".join(ch if ch.isalnum() else "_" for ch in _name)
    globals()[f"test_stream_equals_steps_{_id}"] = property_test(_policy, huge=False, count=60)
    globals()[f"test_stream_equals_steps_huge_{_id}"] = property_test(_policy, huge=True, count=10)
for _name, _policy in READERS.items():
    _id = "".join(ch if ch.isalnum() else "_" for ch in _name)
    globals()[f"test_stream_equals_steps_under_a_readers_rule_{_id}"] = property_test(_policy, huge=False, count=40)
globals()["test_stream_equals_steps_under_a_readers_rule_huge"] = property_test(
    READERS["second largest"], huge=True, count=10
)


# --- what random states seldom hold -----------------------------------------------------------------------------------


def sole_owner(policy: str, pages: int = 64) -> tuple[af.Machine, af.Process]:
    """Every page written, forked, and the child gone: nothing is exclusive, nobody else maps anything."""
    machine = af.Machine(POLICIES[policy], orders=(4,), frames=1 << 10)
    process = machine.spawn()
    process.mmap(pages + 64)
    for page in range(pages):
        process.write(page, page + 1)
    process.fork().exit()
    return machine, process


@pytest.mark.parametrize("policy", POLICIES)
def test_pages_that_come_twice_fault_when_they_come_first(policy: str) -> None:
    machine, _ = fresh(64, policy=POLICIES[policy], orders=())
    check_equal(machine, 0, np.array([9, 4, 7, 4, 9, 2, 9]), True, 5)
    check_equal(machine, 0, np.array([9, 4, 7, 4, 9, 2, 9]), np.array([1, 0, 1, 1, 0, 1, 1], bool), 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_folio_that_its_last_copy_frees_is_handed_out_again(policy: str) -> None:
    machine, _ = sole_owner(policy)
    shuffled = np.random.default_rng(3).permutation(64)
    check_equal(machine, 0, range(64), True, 5)
    check_equal(machine, 0, shuffled, True, 5)
    check_equal(machine, 0, shuffled[:50], True, 5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stepped_access_after_a_folio_was_freed_finds_it_free(policy: str) -> None:
    machine, _ = sole_owner(policy)
    # Reads and writes of pages 80..95 in turn cannot be planned; they come between and after the copies.
    torn = np.array([83, 85, 84, 90])
    vpns = np.concatenate((np.arange(16), torn, np.arange(16, 40), [110, 112, 111, 81]))
    write = ~np.isin(vpns, [83, 84, 110, 111])
    check_equal(machine, 0, vpns, write, 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kept", [0, 7])
def test_the_only_page_left_of_a_folio(policy: str, kept: int) -> None:
    machine, process = sole_owner(policy)
    if kept:
        process.madvise(0, kept, "dontneed")
    process.madvise(kept + 1, 15 - kept, "dontneed")
    check_equal(machine, 0, range(kept, kept + 1), True, 5)
    check_equal(machine, 0, range(64), True, 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("hole", [None, 5])
def test_a_folio_that_a_reference_keeps_is_partially_mapped_for_good(policy: str, hole: int | None) -> None:
    machine, process = sole_owner(policy)
    process.ref(3)
    if hole is not None:
        process.madvise(hole, 1, "dontneed")
    check_equal(machine, 0, np.setdiff1d(np.arange(16), [hole]) if hole else np.arange(16), True, 5)
    states = []
    for stretch in (0, 64):
        twin = machine.copy()
        with in_stretches(stretch):
            twin.process(0).munmap(0, 64)
        states.append(without_order_of_numbers(state_of(twin)))
    assert not difference(*states)


@pytest.mark.parametrize(
    ("at", "to"),
    [(0, 504), (16, 504), (0, 500), (0, 1020)],
    ids=["across two tables", "another folio", "unevenly", "the second two tables"],
)
def test_a_folio_across_two_page_tables_goes_in_two_goes(at: int, to: int) -> None:
    machine, process = fresh(64, orders=(4,))
    process.touch(range(64))
    process.mremap(at, 16, to)
    process.ref(to + 3)
    states = []
    for stretch in (0, 512, 1 << 15):
        twin = machine.copy()
        with in_stretches(stretch):
            twin.process(0).munmap(0, 2048)
        states.append(without_order_of_numbers(state_of(twin)))
    assert any(states[0]["partially_mapped"])
    assert not difference(states[0], states[1])
    assert not difference(states[0], states[2])


def test_stretches_cut_no_folio_that_one_page_table_maps() -> None:
    # 1029 + 512 lies in the middle of the folio.
    machine, process = fresh(100, orders=(4,))
    process.mmap(700, at=1029)
    process.write(1030)
    process.write(1541)
    process.ref(1541)
    states = []
    for stretch in (0, 512):
        twin = machine.copy()
        with in_stretches(stretch):
            twin.process(0).munmap(1029, 700)
        states.append(without_order_of_numbers(state_of(twin)))
    assert not any(states[0]["partially_mapped"])
    assert not difference(*states)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_third_process_that_survives_alone(policy: str) -> None:
    machine, first = sole_owner(policy)
    second = first.fork()
    third = second.fork()
    first.exit()
    second.exit()
    check_equal(machine, third.number, np.random.default_rng(1).permutation(64), True, 5)
    check_equal(machine, third.number, range(3, 20), True, 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_fresh_range_is_like_any_other_stream(policy: str) -> None:
    for orders in ((), (4,), (4, 2)):
        machine, process = fresh(128, policy=POLICIES[policy], orders=orders)
        check_equal(machine, 0, range(16, 48), True, 5)
        process.write(70, 1)
        for stream in (range(64), range(3, 64), range(16, 61), range(16, 128), range(80, 128)):
            check_equal(machine, 0, stream, True, 5)


@pytest.mark.parametrize("policy", POLICIES)
def test_entries_written_before_are_dirty_and_young_again(policy: str) -> None:
    machine, process = sole_owner(policy)
    process.touch(range(64))
    process.mm.pte[:64] &= 0xFF ^ (PTE_DIRTY | PTE_YOUNG)
    check_equal(machine, 0, range(8, 24), True, 5)
    check_equal(machine, 0, range(8, 24), False, 5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_block_that_a_pmd_maps_is_dirty_and_young_again(policy: str) -> None:
    machine = af.Machine(POLICIES[policy], orders=(9,), frames=1 << 12)
    process = machine.spawn()
    process.mmap(1024)
    process.write(3)
    process.write(600)
    process.mm.pte[:1024] &= 0xFF ^ (PTE_DIRTY | PTE_YOUNG)
    check_equal(machine, 0, range(100, 110), True, 5)
    check_equal(machine, 0, np.array([700, 9]), np.array([False, True]), 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("orders", [(4,), (9,)], ids=["64K", "2M"])
def test_a_read_is_accessed_before_a_block_unfolds_or_splits_or_only_itself_after(
    policy: str, orders: tuple[int, ...]
) -> None:
    machine, process = fresh(1536, policy=POLICIES[policy], orders=orders, frames=1 << 13)
    process.touch(range(1536))
    child = process.fork()
    assert not (child.mm.pte[:1536] & PTE_YOUNG).any()
    for vpns, writes in (
        ([1, 5, 7, 40, 46, 50, 60], [5, 46, 50]),
        ([5, 1, 7, 46, 40, 600, 50, 601, 602], [5, 46, 600]),
        ([1500, 1100, 513, 1100, 3], [1100]),
    ):
        check_equal(machine, 1, np.array(vpns), np.isin(vpns, writes), 5)
    check_equal(machine, 1, np.array([1, 5, 70, 1535]), False, 5)
    check_equal(machine, 1, range(500, 520), False, 5)
    check_equal(machine, 1, np.array([1, 1535, 900, 900]), False, 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("marked", [[0], [3], [15], range(1, 16), range(16)], ids=str)
def test_a_folio_that_is_exclusive_in_parts(policy: str, marked: Any) -> None:
    machine, process = sole_owner(policy)
    machine.memory.anon_exclusive[process.mm.pfn[marked]] = True
    for stream in (range(16), np.arange(15, -1, -1), np.array([7, 3, 0, 20])):
        check_equal(machine, 0, stream, True, 5)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", POLICIES)
def test_blocks_that_are_zero_page_in_parts(policy: str) -> None:
    machine, process = fresh(96, policy=POLICIES[policy], orders=(4, 2))
    for page in (*range(5), *range(6, 16), *range(16, 32), *range(40, 48), *range(64, 81)):
        process.read(page)
    process.write(33, 9)
    everything = np.arange(96)
    for stream in (everything, everything[::-1], everything[::7], np.array([6, 20, 44, 70, 5, 80, 90])):
        check_equal(machine, 0, stream, True, 5)
        check_equal(machine, 0, np.concatenate((stream, stream)), np.arange(2 * len(stream)) >= len(stream), 5)
        check_equal(machine, 0, stream, stream % 3 > 0, 5)


@pytest.mark.parametrize("stream", [np.arange(0, 1536, 7), np.arange(1535, -1, -1)], ids=["every seventh", "backwards"])
def test_reads_alone_get_the_huge_zero_page_where_a_read_would(stream: Any) -> None:
    machine, process = fresh(1300, orders=(9, 4))
    process.munmap(600, 20)
    process.mmap(236, at=1300)
    reads = np.setdiff1d(stream, np.arange(600, 620))[:: 1 if stream[0] < stream[-1] else -1]
    check_equal(machine, 0, reads, False, 0)


@pytest.mark.parametrize("policy", ["linux-6.3", "linux-6.15", "rfc-v2"])
def test_pages_whose_frames_lie_in_another_order_are_told_apart(policy: str) -> None:
    random = np.random.default_rng(3)
    machine, process = fresh(64, policy=POLICIES[policy].but(name="single pages", fixed_orders=()), orders=())
    for page in random.permutation(64).tolist():
        process.write(page, page)
    child = process.fork()
    for page in random.permutation(64)[:30].tolist():
        child.munmap(page, 1)
    check_equal(machine, 0, np.arange(64), True, 5)
    check_equal(machine, 0, random.permutation(64), True, 5)


@pytest.mark.parametrize("policy", ["linux-6.8", "linux-6.9", "linux-6.15", "rfc-v2"])
def test_folios_whose_frames_lie_in_another_order_are_told_apart(policy: str) -> None:
    random = np.random.default_rng(4)
    machine, process = fresh(128, policy=POLICIES[policy], orders=(4,))
    for block in random.permutation(8).tolist():
        process.write(16 * block, block)
    child = process.fork()
    for block in random.permutation(8)[:4].tolist():
        child.munmap(16 * block, 16)
    check_equal(machine, 0, np.arange(128), True, 5)
    check_equal(machine, 0, random.permutation(128), True, 5)


def test_what_comes_after_a_cut_is_not_done_before_it() -> None:
    machine, process = fresh(96, orders=(4,), frames=1 << 10)
    process.madvise(64, 32, "nohugepage")
    process.touch(range(64, 96))
    process.fork().exit()
    machine.memory.buddy.fragment(3)
    stream = np.concatenate((np.arange(64, 70), np.arange(0, 64), np.arange(70, 96)))
    assert check_equal(machine, 0, stream, True, 5).faults["exclusive reuse"] == 32


# --- fork, exit and munmap of many pages ------------------------------------------------------------------------------


def in_stretches(pages: int) -> ExitStack:
    """Everything in stretches of that many pages, a power of two; 0: never."""
    many, stretch = (1, pages) if pages else (1 << 40, 1)
    stack = ExitStack()
    for module in (fork, mmap):
        stack.enter_context(patch.multiple(module, MANY_PAGES=many, STRETCH_PAGES=stretch))
    stack.enter_context(patch.multiple(mm, STRETCH_PAGES=stretch, REGION_PAGES=2 * stretch))
    return stack


def without_order_of_numbers(state: dict[str, Any]) -> dict[str, Any]:
    """Folios that go at once give their numbers back in another order than one by one; nothing else may differ."""
    numbers, used = state["free folios"]
    return state | {"free folios": (sorted(numbers), used)}


def ranges_property(policy: af.Policy, huge: bool, count: int) -> Any:
    @drawing(count)
    @given(st.data())
    def test(data: st.DataObject) -> None:
        machine, pages = data.draw(machines(policy, huge))
        number = data.draw(st.sampled_from([process.number for process in machine.live()]))
        call = data.draw(st.sampled_from(("fork", "exit", "dontneed", "munmap")))
        place = data.draw(st.integers(0, len(pages) - 1))
        length = data.draw(st.integers(1, len(pages) - place))
        states = []
        for stretch in (0, 512, 1 << 15):
            twin = machine.copy()
            process = twin.process(number)
            with in_stretches(stretch):
                match call:
                    case "fork":
                        process.fork()
                    case "exit":
                        process.exit()
                    case "munmap":
                        process.munmap(pages[place], length)
                    case _:
                        process.madvise(pages[place], length, call)
            assert not af.check(twin)
            states.append(without_order_of_numbers(state_of(twin)))
        assert not difference(states[0], states[1])
        assert not difference(states[0], states[2])

    return test


for _name in ("linux-6.3", "linux-6.15", "rfc-v2", "contiguous"):
    _id = "".join(ch if ch.isalnum() else "_" for ch in _name)
    globals()[f"test_ranges_equal_single_runs_{_id}"] = ranges_property(POLICIES[_name], huge=False, count=60)
    globals()[f"test_ranges_equal_single_runs_huge_{_id}"] = ranges_property(POLICIES[_name], huge=True, count=12)


def test_a_fork_tells_groups_of_16_frames_from_halves_of_two() -> None:
    machine, process = fresh(128, orders=(4,))
    process.touch(range(128))
    for first, pages in ((0, 8), (24, 32), (72, 56)):
        process.madvise(first, pages, "dontneed")
    states = []
    for stretch in (0, 512):
        twin = machine.copy()
        with in_stretches(stretch):
            twin.process(0).fork()
        assert not af.check(twin)
        states.append(state_of(twin))
    assert not difference(*states)


@drawing(150)
@given(st.data())
def test_blocks_taken_and_freed_together_equal_one_by_one(data: st.DataObject) -> None:
    one = Buddy(data.draw(st.sampled_from((100, 1 << 10, 5000))))
    largest = data.draw(st.sampled_from((None, None, 0, 2, 4)))
    if largest is not None:
        one.fragment(largest, data.draw(st.sampled_from((1.0, 0.5))))
    other = one.copy()
    held: list[tuple[int, int]] = []
    for _ in range(data.draw(st.integers(1, 6))):
        if held and data.draw(st.booleans()):
            rng = np.random.default_rng(data.draw(st.integers(0, 99)))
            rng.shuffle(held)
            gone = held[: data.draw(st.integers(1, len(held)))]
            held = held[len(gone) :]
            for head, order in gone:
                one.free(head, order)
            heads, orders = np.array(gone).T
            other.free_many(heads.astype(np.int32), orders.astype(np.uint8))
        else:
            order, count = data.draw(st.integers(0, 10)), data.draw(st.integers(1, 300))
            heads = [one.alloc(order) for _ in range(count)]
            got = [head for head in heads if head is not None]
            assert other.alloc_many(order, count).tolist() == got
            held += [(head, order) for head in got]
        assert (one.blocks(), one.untouched) == (other.blocks(), other.untouched)


# --- nothing common is stepped ----------------------------------------------------------------------------------------


ALL = range(1 << 12)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("policy", [*af.POLICIES, "mm_id, range", "scan one", "contiguous"])
@pytest.mark.parametrize("stream", [ALL, ALL[::-1], np.random.default_rng(0).permutation(len(ALL))], ids=len)
def test_the_four_paths_are_never_stepped(policy: str, stream: Any) -> None:
    machine = af.Machine(POLICIES[policy], orders=(4, 3, 2), frames=1 << 15)
    parent = machine.spawn()
    parent.mmap(len(ALL))
    paths = []
    for before, write in (
        (None, False), (None, True), ("dontneed", True), ("fork", True), ("exit", True), ("fork and exit", True),
    ):  # fmt: skip
        match before:
            case "dontneed":
                parent.madvise(0, len(ALL), "dontneed")
            case "fork":
                child = parent.fork()
            case "exit":
                child.exit()
            case "fork and exit":
                parent.fork().exit()
        done = parent.touch(stream, write)
        assert done.stepped == 0
        paths.append(set(done.faults))
    reuses = paths.pop()
    assert paths == [{"zero page read"}, {"zero page copy"}, {"first touch"}, {"cow copy"}, set()]
    assert reuses <= {"exclusive reuse", "cow copy"}
    assert reuses


@pytest.mark.parametrize("policy", ["linux-6.15", "contiguous", "rfc-v2", "none_only"])
def test_reads_and_writes_of_one_block_in_turn(policy: str) -> None:
    random = np.random.default_rng(7)
    stepped = 0
    for _ in range(60):
        machine, _ = fresh(32, policy=POLICIES[policy], orders=(4, 3, 2))
        stream = random.integers(0, 32, random.integers(2, 40))
        write = random.random(len(stream)) < random.choice((0.2, 0.5, 0.8))
        stepped += check_equal(machine, 0, stream, write, 5).stepped
    # RFC v2 replaces a zero page together with its neighbours.
    assert (stepped > 0) == policy.startswith(("rfc", "none"))


def child_died(policy: af.Policy, pages: int = 128) -> af.Process:
    """Every page written, forked, and the child gone; three pages of each folio were given back."""
    machine = af.Machine(policy, orders=(4,), frames=1 << 12)
    process = machine.spawn()
    process.mmap(pages)
    process.touch(range(pages))
    process.fork().exit()
    for start in range(0, pages, 16):
        process.madvise(start + 3, 3, "dontneed")
    return process


@pytest.mark.parametrize(("name", "reused"), [("last page too", 13), ("few references", 5)])
def test_a_readers_reuse_rule_is_planned(name: str, reused: int) -> None:
    process = child_died(READERS[name])
    kept = np.array([page for page in range(128) if not 3 <= page % 16 < 6])
    done = process.touch(kept)
    assert (done.stepped, done.why_stepped) == (0, {})
    assert done.faults.get("exclusive reuse") == 8 * reused
    assert done.faults.get("cow copy", 0) == 8 * (13 - reused)


def test_a_rule_that_looks_at_the_mapcount_of_each_page_is_planned() -> None:
    """Half of the folio is mapped twice, and of that each copy leaves one mapping less: the other half is reused."""
    machines = []
    for stream in (True, False):
        machine, process = fresh(16, policy=READERS["page mapped once"], orders=(4,))
        process.touch(range(16))
        process.fork().munmap(0, 8)
        if stream:
            done = process.touch(range(15, -1, -1), value=5)
            assert (done.stepped, done.faults) == (0, {"cow copy": 8, "exclusive reuse": 8})
        else:
            step_through(process, range(15, -1, -1), True, 5)
        machines.append(machine)
    assert not difference(*map(state_of, machines))
    # Where one answer is for a range, what it says hangs on which page is written first: that is stepped.
    machine, process = fresh(16, policy=READERS["page mapped once, range"], orders=(4,))
    process.touch(range(16))
    process.fork()
    assert process.touch(range(16)).why_stepped == {"page mapped once, range: large_reuse": 16}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("copies 16K", "copies 16K: copy_extent"),
        ("reuses a run", "reuses a run: reuse_extent"),
    ],
)
def test_what_a_readers_range_rule_decides_is_stepped_and_told(name: str, why: str) -> None:
    process = child_died(READERS[name])
    done = process.touch(range(16))
    # The three that were given back are first touches.
    assert done.why_stepped == {why: 13}
    # What the rule does not decide is planned as ever.
    assert process.touch(range(16), value=9).stepped == 0
    assert process.touch(range(16), write=False).stepped == 0


def test_a_large_copy_asks_what_its_mapping_may_use_if_the_policy_says_so() -> None:
    policy = af.LINUX_6_15.but(name="asks", copy_extent="source_order", copy_respects_knobs=True)
    machine, process = fresh(64, policy=policy, orders=(4,))
    process.touch(range(64))
    process.fork()
    process.madvise(0, 32, "nohugepage")
    done = check_equal(machine, 0, range(64), True, 5)
    assert (done.faults, done.why_stepped) == ({"cow copy": 32 + 2}, {"asks: copy_extent": 32})


def test_only_first_touches_are_stepped_for_a_readers_choice_of_orders() -> None:
    _, process = fresh(64, policy=af.LINUX_6_15.but(name="second largest", chosen_order=second_largest))
    done = process.touch(range(64))
    assert done.why_stepped == {"second largest: chosen_order": 64}
    process.fork()
    assert process.touch(range(64)).stepped == 0


@pytest.mark.parametrize("name", ["last page too", "few references", "by mapping"])
def test_a_rule_is_asked_once_for_folios_that_are_alike(name: str) -> None:
    asked = []

    def counting(folio: Any, ask: Any) -> bool:
        asked.append(folio.refcount)
        return bool(READERS[name].rules.large_reuse(folio, ask))

    process = child_died(READERS[name].but(large_reuse=counting), pages=1024)
    asked.clear()
    process.touch(np.arange(1023, -1, -1)[np.arange(1024) % 16 < 8])
    assert 0 < len(asked) < 64


# --- what a stream is -------------------------------------------------------------------------------------------------


def fresh(pages: int = 64, **knobs: Any) -> tuple[af.Machine, af.Process]:
    machine = af.Machine(**knobs)
    process = machine.spawn()
    process.mmap(pages)
    return machine, process


def test_the_last_of_several_writes_stays() -> None:
    _, process = fresh()
    process.touch([5, 6, 5, 5, 6], True, [1, 2, 3, 4, 5])
    assert [process.read(page) for page in (4, 5, 6)] == [0, 4, 5]


def test_ranges_slices_and_arrays_are_the_same_stream() -> None:
    states = []
    for stream in (range(3, 40), slice(3, 40), np.arange(3, 40, dtype=np.uint16), list(range(3, 40))):
        machine, process = fresh()
        assert process.touch(stream, value=9).faults == {"first touch": 3}
        states.append(state_of(machine))
    assert states.count(states[0]) == len(states)


def test_importing_changes_nothing_in_the_process_and_the_first_stream_does_once() -> None:
    program = (
        "import anonfolio as af; from anonfolio.stream.run import keep_temporaries as told\n"
        "process = af.Machine().spawn(); process.mmap(4); seen = [told.cache_info().misses]\n"
        "for _ in range(2): process.touch([1]); seen.append(told.cache_info().misses)\n"
        "print(seen)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1, 1]\n"


def test_an_empty_stream_does_nothing() -> None:
    machine, process = fresh()
    before = state_of(machine)
    for stream in (range(0), [], slice(4, 4)):
        assert process.touch(stream) == touch.Touched(0, {}, 0)
    assert state_of(machine) == before


def test_a_long_stream_reports_its_progress() -> None:
    _, process = fresh(1 << 18)
    seen: list[tuple[int, int]] = []
    process.touch(range(1 << 18), progress=lambda done, total: seen.append((done, total)))
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == (1 << 18, 1 << 18)


def test_scattered_pages_need_no_window_of_the_whole_mapping() -> None:
    machine, process = fresh(1 << 20, orders=(4,))
    pages = np.random.default_rng(0).integers(0, 1 << 20, 500)
    slow = machine.copy()
    step_through(slow.process(0), pages, True, pages % 256)
    done = process.touch(pages, value=pages % 256)
    assert (done.faults, done.stepped) == ({"first touch": len(np.unique(pages >> 4))}, 0)
    for column in ("pte", "pfn", "pmd"):
        assert (getattr(process.mm, column) == getattr(slow.process(0).mm, column)).all()
    assert machine.memory.content.tolist() == slow.memory.content.tolist()


@pytest.mark.parametrize(
    ("vpns", "write", "value", "says"),
    [
        ([[1, 2]], True, 1, "vpns has shape"),
        ([1.0, 2.0], True, 1, "vpns has shape"),
        (["a"], True, 1, "vpns has shape"),
        (5, True, 1, "vpns has shape"),
        (slice(None, 5), True, 1, "is open"),
        ([1, 2], 1, 1, "write has shape"),
        ([1, 2], [True], 1, "write has shape"),
        ([1, 2], [1, 0], 1, "write has shape"),
        ([1, 2], True, 256, "value=256 is not a byte"),
        ([1, 2], True, -1, "value=-1 is not a byte"),
        ([1, 2], True, 1.5, "is not a whole number"),
        ([1, 2], True, [3, 300], r"value\[1\]=300 is not a byte"),
        ([1, 2], True, [3], "value has shape"),
        ([1, 2], True, [1.0, 2.0], "value has shape"),
    ],
)
def test_what_is_no_stream_raises_before_anything_changes(vpns: Any, write: Any, value: Any, says: str) -> None:
    machine, process = fresh()
    before = state_of(machine)
    with pytest.raises(ValueError, match=says):
        process.touch(vpns, write, value)
    assert state_of(machine) == before


@pytest.mark.parametrize("stream", [[1, 2, 64, 3, 99], range(1, 70), range(70, 0, -1), [1, -1], slice(60, 99)])
def test_the_first_page_in_a_hole_is_named_and_nothing_changes(stream: Any) -> None:
    machine, process = fresh()
    pages = list(range(stream.start, stream.stop)) if isinstance(stream, slice) else list(stream)
    at = next(at for at, page in enumerate(pages) if not 0 <= page < 64)
    before = state_of(machine)
    with pytest.raises(
        af.SegmentationFault, match=rf"access {at} of the stream.* page {pages[at]}: no mapping"
    ) as stop:
        process.touch(stream)
    assert stop.value.fault.vpn == pages[at]
    assert state_of(machine) == before


def test_a_write_where_the_mapping_is_read_only_is_named_and_reads_are_not() -> None:
    machine, process = fresh()
    process.mprotect(8, 8, 1)
    before = state_of(machine)
    with pytest.raises(af.SegmentationFault, match=r"access 2 of the stream.* page 9: the mapping is read-only"):
        process.touch([7, 8, 9], [True, False, True])
    assert state_of(machine) == before
    assert process.touch([7, 8], [True, False]).faults == {"first touch": 1, "zero page read": 1}


def test_an_exited_process_touches_nothing() -> None:
    _, process = fresh()
    process.exit()
    with pytest.raises(ValueError, match="process 0 has exited"):
        process.touch([1])


@pytest.mark.parametrize("orders", [(), (4, 2)])
def test_out_of_memory_leaves_what_came_before(orders: tuple[int, ...]) -> None:
    machine, process = fresh(512, orders=orders, frames=300)
    slow = machine.copy()
    with pytest.raises(af.OutOfMemory):
        step_through(slow.process(0), range(512), True, 3)
    with pytest.raises(af.OutOfMemory):
        process.touch(range(512), value=3)
    assert process.rss_pages > 250
    assert not difference(state_of(slow), state_of(machine))


def copies_no_late_page(around: Any, ask: Any) -> range:
    if around.order == 3 and around.at > 20:
        raise LookupError("late")
    return range(around.at, around.at + 1)


@pytest.mark.parametrize(
    ("error", "rule", "frames"), [(af.OutOfMemory, copies_16k, 100), (RuleError, copies_no_late_page, 400)]
)
def test_a_stepped_access_that_fails_leaves_what_was_planned_before_it(error: Any, rule: Any, frames: int) -> None:
    machine, process = fresh(128, orders=(3,), frames=frames, policy=af.LINUX_6_15.but(name="mine", copy_extent=rule))
    process.touch(range(64))
    process.fork()
    slow = machine.copy()
    stream = [*range(64, 96), *range(64), *range(96, 128)]
    with pytest.raises(error):
        step_through(slow.process(0), stream, True, 3)
    with pytest.raises(error):
        process.touch(stream, value=3)
    assert not difference(state_of(slow), state_of(machine))


# --- mappings that are made while a stream goes on --------------------------------------------------------------------


@st.composite
def growing_programs(draw: st.DrawFn) -> tuple[af.Machine, list[tuple[int, int]], list[list[tuple[int, bool]]]]:
    """A machine, mappings next to each other that are made one by one, and what is touched after each of them."""
    orders = draw(st.sampled_from(((4, 3, 2), (4,), (3, 2), (), (9,), (4, 9), (2, 5))))
    policy = draw(st.sampled_from((af.LINUX_6_15, af.LINUX_6_9, af.Policy.at("6.1"), POLICIES["contiguous"])))
    maps, first = [], draw(st.integers(440, 520))
    for _ in range(draw(st.integers(2, 6))):
        pages = draw(st.sampled_from((1, 3, 4, 7, 16, 33, 300)))
        maps.append((first, pages))
        first += pages + draw(st.sampled_from((0, 0, 0, 2)))
    touched = []
    for at in range(len(maps)):
        pages = [page for start, count in maps[: at + 1] for page in range(start, start + count)]
        some = st.tuples(st.sampled_from(pages) | st.sampled_from(pages[-8:]), st.booleans() | st.just(True))
        touched.append(draw(st.lists(some, max_size=12)))
    return af.Machine(policy, orders=orders), maps, touched


@given(growing_programs())
@settings(max_examples=examples(60), deadline=None, phases=PHASES)
def test_mappings_may_be_made_before_what_comes_before_them(
    program: tuple[af.Machine, list[tuple[int, int]], list[list[tuple[int, bool]]]],
) -> None:
    slow, maps, touched = program
    fast = slow.copy()
    ahead, later = fast.spawn(), []
    process = slow.spawn()
    for (first, pages), accesses in zip(maps, touched, strict=True):
        process.map(first, pages)
        step_through(process, *np.array(accesses, np.int64).reshape(-1, 2).T.astype(np.int64), 1)
        ahead.map(first, pages)
        later.append(first)
    count = np.cumsum([0, *map(len, touched)]).tolist()
    all_of_them = [access for accesses in touched for access in accesses]
    pages_touched = np.array([page for page, _ in all_of_them], np.intp)
    writes = np.array([write for _, write in all_of_them], np.bool_)
    ahead.touch(
        pages_touched, writes,
        later=[Later(time, first, first + pages) for time, (first, pages) in zip(count, maps, strict=False) if time],
    )  # fmt: skip
    assert not difference(state_of(slow), state_of(fast))


def test_an_access_before_its_mapping_is_refused() -> None:
    process = af.Machine(af.LINUX_6_15, orders=(4,)).spawn()
    process.map(0, 32)
    with pytest.raises(af.SegmentationFault, match="access 1 of the stream"):
        process.touch([0, 16, 17], later=[Later(2, 16, 32)])
    assert not process.rss_pages
    process.touch([0, 16, 17], later=[Later(1, 16, 32)])


def test_a_policy_whose_faults_hang_on_more_than_what_is_mapped_takes_no_later_mappings() -> None:
    process = af.Machine(af.RFC_V2, orders=(4,)).spawn()
    process.map(0, 32)
    with pytest.raises(ValueError, match="under rfc-v2 no mapping may come later"):
        process.touch([0, 16], later=[Later(1, 16, 32)])


def test_what_must_be_stepped_before_its_surroundings_are_mapped_is_not_guessed() -> None:
    """Frames for few large folios: the plan is cut, and the access that cuts it would see a mapping of the future."""
    machine = af.Machine(af.LINUX_6_15, orders=(4,), frames=64)
    machine.memory.buddy.fragment(3)
    process = machine.spawn()
    process.map(0, 64)
    with pytest.raises(touch.NotYetMapped):
        process.touch(np.array([0, 33]), later=[Later(2, 8, 16)])
