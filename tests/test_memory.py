"""Physical memory: the buddy allocator's alignment, merging and exhaustion, and faults when an order is not free."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from support import examples, folio, freeze, machine_with_folio

import anonfolio as af
from anonfolio.kernel.buddy import Buddy
from anonfolio.kernel.frames import FolioOf, Memory
from anonfolio.kernel.index import as_slice
from anonfolio.kernel.sizes import MAX_BUDDY_ORDER, ZERO_PFN

# --- the buddy allocator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(MAX_BUDDY_ORDER + 1))
def test_a_block_is_aligned_to_its_size(order: int) -> None:
    buddy = Buddy(1 << 13)
    buddy.alloc(0)  # so that nothing starts aligned by luck
    for _ in range(3):
        head = buddy.alloc(order)
        assert head is not None
        assert head % (1 << order) == 0


def test_blocks_do_not_overlap_and_come_lowest_first() -> None:
    buddy = Buddy(64)
    assert [buddy.alloc(order) for order in (0, 2, 0, 1, 4, 0)] == [0, 4, 1, 2, 16, 8]


def test_what_is_split_merges_again_whatever_the_order_of_freeing() -> None:
    buddy = Buddy(1 << 10)
    heads = [buddy.alloc(0) for _ in range(1 << 10)]
    assert buddy.alloc(0) is None
    for head in sorted(heads, key=lambda head: (head or 0) * 7919 % 1024):
        assert head is not None
        buddy.free(head, 0)
    assert buddy.blocks() == {0: 10}


def test_only_buddies_merge() -> None:
    buddy = Buddy(4)
    for _ in range(4):
        buddy.alloc(0)
    buddy.free(1, 0)
    buddy.free(2, 0)
    assert buddy.blocks() == {1: 0, 2: 0}
    buddy.free(3, 0)
    assert buddy.blocks() == {1: 0, 2: 1}
    buddy.free(0, 0)
    assert buddy.blocks() == {0: 2}


def test_blocks_never_merge_beyond_the_largest_order() -> None:
    buddy = Buddy(1 << 11)
    heads = [buddy.alloc(MAX_BUDDY_ORDER) for _ in range(2)]
    for head in heads:
        assert head is not None
        buddy.free(head, MAX_BUDDY_ORDER)
    assert buddy.blocks() == {0: 10, 1024: 10}


def test_a_block_of_another_order_is_no_buddy() -> None:
    buddy = Buddy(8)
    assert [buddy.alloc(1), buddy.alloc(0), buddy.alloc(0), buddy.alloc(2)] == [0, 2, 3, 4]
    buddy.free(0, 1)
    buddy.free(2, 0)
    assert buddy.blocks() == {0: 1, 2: 0}


@pytest.mark.parametrize("frames", [2, 7, 8, 1000, 1024, 1025, 3000])
def test_memory_of_any_size_is_handed_out_to_the_last_frame(frames: int) -> None:
    buddy = Buddy(frames)
    assert buddy.free_frames() == frames
    heads = []
    while (head := buddy.alloc(0)) is not None:
        heads.append(head)
    assert sorted(heads) == list(range(frames))
    assert buddy.free_frames() == 0


def test_when_no_block_is_large_enough_smaller_ones_are_left_alone() -> None:
    buddy = Buddy(16)
    buddy.alloc(3)
    assert buddy.alloc(4) is None
    assert buddy.free_frames() == 8
    assert buddy.alloc(3) == 8


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("touched", [False, True])
def test_fragmentation_leaves_no_larger_block(largest: int, touched: bool) -> None:
    buddy = Buddy(1 << 12)
    if touched:
        held = [buddy.alloc(0), buddy.alloc(9)]
        assert None not in held
        buddy.free(0, 0)
        buddy.free(512, 9)
    buddy.fragment(largest)
    for order in range(largest + 1, MAX_BUDDY_ORDER + 1):
        assert buddy.alloc(order) is None
    head = buddy.alloc(largest)
    assert head is not None
    assert head % (1 << largest) == 0
    # One frame in every block of the next order is somebody else's.
    left = 0
    while buddy.alloc(0) is not None:
        left += 1
    assert left == (1 << 12) - ((1 << 12) >> (largest + 1)) - (1 << largest)


def test_fragmentation_of_a_part_leaves_some_larger_blocks() -> None:
    buddy = Buddy(1 << 12)
    buddy.fragment(2, 0.5, seed=3)
    blocks = 0
    while buddy.alloc(3) is not None:
        blocks += 1
    assert 0 < blocks < (1 << 12) >> 3
    assert buddy.alloc(4) is None


def test_fragmentation_is_the_same_for_the_same_seed() -> None:
    blocks = []
    for seed in (1, 1, 2):
        buddy = Buddy(1 << 12)
        buddy.fragment(2, 0.5, seed)
        while buddy.alloc(3) is not None:
            pass
        blocks.append(buddy.blocks())
    assert blocks[0] == blocks[1] != blocks[2]


@pytest.mark.parametrize("largest", [-1, MAX_BUDDY_ORDER, 20])
def test_an_order_that_fragmentation_cannot_leave_is_refused(largest: int) -> None:
    buddy = Buddy(64)
    before = freeze(buddy)
    with pytest.raises(ValueError, match=f"largest_order={largest} must lie in 0..9"):
        buddy.fragment(largest)
    assert freeze(buddy) == before


@pytest.mark.parametrize("fraction", [-0.5, 7])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=str(fraction)):
        Buddy(64).fragment(2, fraction)


def test_a_copied_allocator_is_independent_to_its_dice() -> None:
    """Which blocks of memory not used yet are fragmented must not depend on what another copy has drawn."""
    one = Buddy(1 << 13)
    one.fragment(2, 0.5)
    two = one.copy()
    for buddy in (one, two):
        while buddy.alloc(3) is not None:
            pass
    assert one.blocks() == two.blocks()
    one.free(0, 0)
    assert one.blocks() != two.blocks()


def test_a_large_memory_can_be_fragmented() -> None:
    """Looking for a block that nowhere is must end, however much memory there is to look through."""
    machine = af.Machine(frames=1 << 20)
    machine.memory.buddy.fragment(2)
    process = machine.spawn()
    process.mmap(16)
    assert process.write(5).code == "alloc2"


# --- folios ---------------------------------------------------------------------------------------------------------


def test_a_machine_needs_a_frame_beside_the_zero_page() -> None:
    with pytest.raises(ValueError, match="frames=1"):
        Memory(1)


def test_the_zero_page_belongs_to_no_folio_and_stays_zero() -> None:
    machine = af.Machine()
    process = machine.spawn()
    process.mmap(4)
    assert process.read(2) == 0
    assert int(process.mm.pfn[2]) == ZERO_PFN
    assert machine.memory.folio_of[ZERO_PFN] == -1
    process.write(2, 9)
    assert machine.memory.content[ZERO_PFN] == 0
    assert process.read(3) == 0


def test_a_frame_that_was_used_before_is_handed_out_zeroed_and_not_exclusive() -> None:
    machine, process = machine_with_folio()
    head = int(process.mm.pfn[0])
    process.munmap(0, 16)
    assert machine.memory.held_pages() == 0
    assert not machine.memory.anon_exclusive.any()
    process.mmap(16)
    process.write(3, 7)
    assert int(process.mm.pfn[0]) == head
    assert [process.read(vpn) for vpn in range(16)] == [7 if vpn == 3 else 0 for vpn in range(16)]


def test_state_survives_the_growth_of_the_arrays() -> None:
    machine = af.Machine(orders=(), frames=1 << 13)
    process = machine.spawn()
    process.mmap(4000)
    for vpn in range(0, 4000, 3):
        process.write(vpn, vpn % 251)
    assert all(process.read(vpn) == vpn % 251 for vpn in range(0, 4000, 3))
    assert af.check(machine) == []


def test_state_is_kept_in_narrow_types() -> None:
    memory = Memory(16)
    assert (memory.content.dtype, memory.mapcount.dtype, memory.folio_of[:].dtype) == (np.uint8, np.int8, np.int32)
    assert memory.anon_exclusive.dtype == np.bool_


def test_a_page_has_as_many_mappings_as_there_are_processes() -> None:
    machine = af.Machine(orders=(4,), frames=1 << 12)
    parent = machine.spawn()
    parent.mmap(16)
    parent.write(0)
    children = [parent.fork() for _ in range(300)]
    pfn = int(parent.mm.pfn[3])
    assert machine.memory.mapcount[pfn] == 301
    assert af.check(machine) == []
    for child in children:
        child.exit()
    assert machine.memory.mapcount[pfn] == 1
    assert af.check(machine) == []


FOLIO_ORDERS = (0, 2, 3, 4, 5, 9)


@given(
    st.lists(st.tuples(st.sampled_from(FOLIO_ORDERS), st.booleans(), st.randoms(use_true_random=False)), max_size=12)
)
@settings(max_examples=examples(60), deadline=None, derandomize=True)
def test_folio_of_equals_an_array_with_a_number_for_each_frame(steps: list[tuple[int, bool, random.Random]]) -> None:
    frames, plain, owner = 2048 + 8, np.full(2048 + 8, -1, np.int32), FolioOf()
    owner.grow(frames)
    blocks: list[tuple[int, int]] = []
    for number, (order, several, chance) in enumerate(steps):
        free = [at for at in range(frames >> order) if (plain[at << order : (at + 1) << order] < 0).all()]
        taken = np.array(chance.sample(free, min(len(free), 5 if several else 1)))
        folios = np.arange(10 * number, 10 * number + len(taken), dtype=np.int32)
        if several and chance.random() < 0.5:
            taken, folios = np.sort(taken), folios[::-1]
        for at, own in zip(taken.tolist(), folios.tolist(), strict=True):
            plain[at << order : (at + 1) << order] = own
            if not several:
                owner.set_block(at, order, own)
        if several:
            owner.set_blocks(as_slice(taken), order, folios)
        blocks += [(at, order) for at in taken.tolist()]
        if blocks and chance.random() < 0.4:
            at, order = blocks.pop(chance.randrange(len(blocks)))
            plain[at << order : (at + 1) << order] = -1
            if several:
                owner.clear_blocks(as_slice(np.array([at])), order)
            else:
                owner.set_block(at, order, -1)
        if chance.random() < 0.3:
            owner = owner.copy()
        first, last = sorted(chance.sample(range(frames), 2))
        some = np.array([chance.randrange(frames) for _ in range(40)])
        assert owner[:].tolist() == plain.tolist()
        assert owner[first:last].tolist() == plain[first:last].tolist()
        assert owner[last:first:-1].tolist() == plain[last:first:-1].tolist()
        assert owner[some].tolist() == plain[some].tolist()
        assert owner[some.reshape(8, 5)].tolist() == plain[some.reshape(8, 5)].tolist()
        assert [owner[int(pfn)] for pfn in some] == plain[some].tolist()
        whole = {group for at, size in blocks if size >= 4 for group in range(at << size >> 4, (at + 1) << size >> 4)}
        groups = owner.groups(slice(first >> 4, last >> 4))
        assert (groups is not None) == whole.issuperset(range(first >> 4, last >> 4))
        if groups is not None:
            assert groups.tolist() == plain[first >> 4 << 4 : last >> 4 << 4 : 16].tolist()


def test_a_copied_memory_is_equal_and_independent() -> None:
    machine, process = machine_with_folio()
    twin = machine.copy()
    assert freeze(twin.memory) == freeze(machine.memory)
    process.write(0, 99)
    process.munmap(8, 8)
    assert twin.process(0).read(0) == 1
    assert twin.process(0).read(8) == 9


# --- when an order is not free --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "code", "fallback"),
    [(4, "alloc4", {}), (3, "alloc3", {4: 1}), (2, "alloc2", {4: 1, 3: 1}), (1, "alloc0", {4: 1, 3: 1, 2: 1}),
     (0, "alloc0", {4: 1, 3: 1, 2: 1})],
)  # fmt: skip
@pytest.mark.parametrize("policy", ["linux-6.15", "linux-6.9", "linux-6.8", "rfc-v2", "rfc-v2-fixed"])
def test_a_first_touch_falls_back_order_by_order_and_counts_it(
    policy: str, largest: int, code: str, fallback: dict[int, int]
) -> None:
    machine = af.Machine(policy, frames=1 << 12)
    machine.memory.buddy.fragment(largest)
    process = machine.spawn()
    process.mmap(16)
    fault = process.write(5)
    assert fault.code == code
    assert {order: count for order, count in machine.counters.anon_fault_fallback.items() if count} == fallback
    asked = [(check.saw, check.outcome) for check in fault.checks if check.what == "vma_alloc_folio"]
    assert asked == [(f"order {order}", False) for order in fallback] + (
        [(f"order {code[-1]}", True)] if code != "alloc0" else []
    )
    assert len(fault.pages) == fault.zeroed == 1 << int(code[-1])
    assert af.check(machine) == []


def test_fallback_skips_orders_that_are_not_enabled() -> None:
    machine = af.Machine(orders=(4, 2), frames=1 << 12)
    machine.memory.buddy.fragment(3)
    process = machine.spawn()
    process.mmap(16)
    assert process.write(5).code == "alloc2"
    assert {order: count for order, count in machine.counters.anon_fault_fallback.items() if count} == {4: 1}


def test_a_pmd_sized_first_touch_falls_back_to_the_smaller_sizes() -> None:
    machine = af.Machine(orders=(4, 9), frames=1 << 12)
    machine.memory.buddy.fragment(8)
    process = machine.spawn()
    process.mmap(512)
    assert process.write(5).code == "alloc4"
    assert {order: count for order, count in machine.counters.anon_fault_fallback.items() if count} == {9: 1}


def test_a_write_on_the_huge_zero_page_falls_back_to_one_page() -> None:
    machine = af.Machine(orders=(9,), frames=1 << 12)
    machine.memory.buddy.fragment(8)
    process = machine.spawn()
    process.mmap(512)
    process.read(7)
    assert process.write(7).code == "zero0"
    assert machine.counters.anon_fault_fallback[9] == 1
    assert machine.snapshot().processes[0].mappings[0].zero.sum() == 511


@pytest.mark.parametrize(("largest", "code"), [(3, "copy3"), (2, "copy2"), (1, "copy0")])
def test_a_large_copy_falls_back_too_but_is_not_counted_as_a_first_touch(largest: int, code: str) -> None:
    machine, parent = machine_with_folio(af.RFC_V2_FIXED, frames=1 << 12)
    parent.fork()
    machine.memory.buddy.fragment(largest)
    assert parent.write(5).code == code
    assert not any(machine.counters.anon_fault_fallback.values())
    assert sum(machine.counters.anon_fault_alloc.values()) == 1


@pytest.mark.parametrize(("largest", "code"), [(3, "zero3"), (1, "zero0")])
def test_a_large_replacement_of_the_zero_page_falls_back_too(largest: int, code: str) -> None:
    machine = af.Machine(af.RFC_V2, frames=1 << 12)
    machine.memory.buddy.fragment(largest)
    process = machine.spawn()
    process.mmap(16)
    process.read(5)
    assert process.write(5).code == code


# --- when nothing is free -------------------------------------------------------------------------------------------


def visible(machine: af.Machine) -> object:
    """Pages, frames, counts of pages: what an allocation that failed must not have touched."""
    machine = machine.copy()
    machine.counters.anon_fault_fallback.clear()
    return freeze([machine.memory, machine.counters, [[p.mm.pte, p.mm.pfn, p.mm.rss_pages] for p in machine.processes]])


def full_machine(policy: str = "linux-6.15", frames: int = 5) -> tuple[af.Machine, af.Process]:
    """Every frame is used: one for each page that was written."""
    machine = af.Machine(policy, orders=(), frames=frames)
    process = machine.spawn()
    process.mmap(16)
    for vpn in range(frames - 1):
        process.write(vpn, vpn + 1)
    return machine, process


@pytest.mark.parametrize("policy", af.POLICIES)
def test_a_first_touch_without_memory_changes_nothing(policy: str) -> None:
    machine = af.Machine(policy, frames=2)
    process = machine.spawn()
    process.mmap(16)
    process.write(0, 5)
    before = visible(machine)
    with pytest.raises(af.OutOfMemory, match="no frame is free for page 4 of process 0"):
        process.write(4)
    assert visible(machine) == before
    assert process.read(0) == 5


@pytest.mark.parametrize("policy", af.POLICIES)
def test_a_copy_without_memory_changes_nothing(policy: str) -> None:
    machine, parent = full_machine(policy)
    child = parent.fork()
    before = visible(machine)
    with pytest.raises(af.OutOfMemory, match="no frame is free for page 1 of process 1"):
        child.write(1, 77)
    assert visible(machine) == before
    assert (parent.read(1), child.read(1)) == (2, 2)
    assert af.check(machine) == []


@pytest.mark.parametrize("policy", af.POLICIES)
def test_a_zero_page_cannot_be_replaced_without_memory(policy: str) -> None:
    machine, process = full_machine(policy)
    process.read(9)
    before = visible(machine)
    with pytest.raises(af.OutOfMemory, match="no frame is free for page 9"):
        process.write(9)
    assert visible(machine) == before


def test_memory_that_comes_back_can_be_used() -> None:
    _, process = full_machine()
    process.madvise(0, 1, "dontneed")
    assert process.write(9, 3).code == "alloc0"


def test_a_fork_that_cannot_copy_a_pinned_page_leaves_no_child_and_no_reference() -> None:
    machine, process = full_machine()
    process.pin(2)
    with pytest.raises(af.OutOfMemory, match="child's copy of pinned page 2"):
        process.fork()
    assert len(machine.processes) == 1
    assert af.check(machine) == []
    assert machine.memory.refcount[folio(machine, process, 0)] == 1
    assert [process.read(vpn) for vpn in range(4)] == [1, 2, 3, 4]


def test_a_pin_that_runs_out_of_memory_lets_go_of_what_it_had_pinned() -> None:
    machine, process = full_machine(frames=8)
    with pytest.raises(af.OutOfMemory):
        process.pin(5, 8)
    assert process.pins() == {}
    assert af.check(machine) == []
    process.exit()
    assert machine.memory.held_pages() == 0


# --- memory that is held --------------------------------------------------------------------------------------------


def test_the_rest_of_a_partly_unmapped_folio_stays_allocated_and_is_waste() -> None:
    machine, process = machine_with_folio()
    process.munmap(0, 15)
    snapshot = machine.snapshot()
    assert (snapshot.rss_pages, snapshot.held_pages, snapshot.waste_pages) == (1, 16, 15)
    process.munmap(15)
    snapshot = machine.snapshot()
    assert (snapshot.rss_pages, snapshot.held_pages, snapshot.waste_pages) == (0, 0, 0)


def test_a_pinned_folio_outlives_its_mapping() -> None:
    machine, process = machine_with_folio()
    process.pin(3)
    process.munmap(0, 16)
    assert machine.memory.held_pages() == 16
    assert process.dma_read(0, 0) == 4
    process.unpin()
    assert machine.memory.held_pages() == 0


def test_partially_mapped_is_for_good_and_only_when_a_page_lost_its_last_mapping() -> None:
    machine, parent = machine_with_folio()
    number = folio(machine, parent, 0)
    child = parent.fork()
    parent.munmap(3)
    assert not machine.memory.partially_mapped[number]
    child.munmap(3)
    assert machine.memory.partially_mapped[number]
    assert machine.memory.nr_mapped[number] == 15
    child.munmap(0, 16)
    assert machine.memory.partially_mapped[number]


def test_unmapping_everything_at_once_is_not_partially_mapped() -> None:
    machine, process = machine_with_folio()
    process.pin(0)  # keeps the folio, so that its flag can be seen
    number = folio(machine, process, 0)
    process.munmap(0, 16)
    assert not machine.memory.partially_mapped[number]
    assert machine.memory.nr_mapped[number] == 0


@pytest.mark.parametrize("orders", [(), (4,), (2, 3, 9)])
def test_held_frames_are_counted_as_they_come_and_go(orders: tuple[int, ...]) -> None:
    machine = af.Machine(orders=orders, frames=1 << 13)
    parent = machine.spawn()
    parent.mmap(pages=1024)
    parent.touch(range(0, 1024, 2))
    child = parent.fork()
    child.touch(range(700))
    for start, pages in ((3, 1), (8, 300), (600, 17)):
        parent.munmap(start, pages)
        child.madvise(start, pages, "dontneed")
        assert not af.check(machine)
    child.exit()
    parent.exit()
    assert machine.memory.held_pages() == 0
    assert not af.check(machine)
