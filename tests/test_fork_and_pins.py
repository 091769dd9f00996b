"""fork and pins: what is shared and copied, what a failing fork leaves, what a pin holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support import folio, freeze, machine_with_folio

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_HUGE, PMD_TABLE, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from anonfolio.kernel.sizes import GUP_PIN_COUNTING_BIAS

POLICIES = pytest.mark.parametrize("policy", af.POLICIES)


def exclusive(machine: af.Machine, process: af.Process, pages: range = range(16)) -> list[int]:
    """The pages whose PageAnonExclusive is set."""
    return [vpn for vpn in pages if process.mm.pte[vpn] and machine.memory.anon_exclusive[process.mm.pfn[vpn]]]


def writable(process: af.Process, pages: int = 16) -> list[int]:
    return np.flatnonzero(process.mm.pte[:pages] & PTE_WRITE).tolist()  # type: ignore[no-any-return]


def huge_machine(policy: str = "linux-6.15") -> tuple[af.Machine, af.Process]:
    machine = af.Machine(policy, orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    process.write(3, 33)
    return machine, process


# --- fork -----------------------------------------------------------------------------------------------------------


@POLICIES
def test_fork_write_protects_both_sides_and_takes_every_flag(policy: str) -> None:
    machine, parent = machine_with_folio(policy)
    before = parent.mm.pte[:16].copy()
    child = parent.fork()
    assert (parent.mm.pte[:16] == before & ~np.uint8(PTE_WRITE)).all()
    assert (child.mm.pte[:16] == before & ~np.uint8(PTE_WRITE | PTE_YOUNG)).all()
    assert (child.mm.pte[:16] & PTE_DIRTY).all()
    assert (child.mm.pfn[:16] == parent.mm.pfn[:16]).all()
    assert exclusive(machine, parent) == []
    assert (parent.rss_pages, child.rss_pages) == (16, 16)
    assert (machine.memory.mapcount[parent.mm.pfn[:16]] == 2).all()
    assert af.check(machine) == []


def test_fork_doubles_references_and_mappings_of_a_large_folio() -> None:
    machine, parent = machine_with_folio()
    parent.fork()
    number = folio(machine, parent, 0)
    assert (machine.memory.refcount[number], machine.memory.large_mapcount[number]) == (32, 32)


def test_fork_copies_zero_pages_as_they_are_and_counts_nothing() -> None:
    machine, parent = machine_with_folio()
    parent.madvise(4, 2, "dontneed")
    parent.read(4)
    child = parent.fork()
    assert child.mm.pte[4] == PTE_PRESENT | PTE_SPECIAL
    assert not child.mm.pte[5]
    assert child.rss_pages == 14
    assert af.check(machine) == []


def test_a_child_of_a_read_only_mapping_stays_read_only() -> None:
    _, parent = machine_with_folio()
    parent.mprotect(0, 8, 1)
    child = parent.fork()
    with pytest.raises(af.SegmentationFault):
        child.write(3)
    assert child.write(9).code == "copy0"


@POLICIES
def test_parent_and_child_go_their_own_ways(policy: str) -> None:
    _, parent = machine_with_folio(policy)
    child = parent.fork()
    parent.write(3, 100)
    child.write(4, 200)
    assert [parent.read(vpn) for vpn in (2, 3, 4, 5)] == [3, 100, 5, 6]
    assert [child.read(vpn) for vpn in (2, 3, 4, 5)] == [3, 4, 200, 6]


def test_dontfork_leaves_a_mapping_out_and_wipeonfork_copies_it_empty() -> None:
    machine, parent = machine_with_folio()
    parent.madvise(0, 4, "dontfork")
    parent.madvise(12, 4, "wipeonfork")
    child = parent.fork()
    with pytest.raises(af.SegmentationFault):
        child.read(2)
    assert [child.read(vpn) for vpn in (4, 11, 12, 15)] == [5, 12, 0, 0]
    assert exclusive(machine, parent) == [0, 1, 2, 3, 12, 13, 14, 15]
    assert writable(parent) == [0, 1, 2, 3, 12, 13, 14, 15]
    assert machine.memory.refcount[folio(machine, parent, 0)] == 16 + 8
    grandchild = child.fork()
    assert grandchild.read(12) == 0


def test_fork_shares_a_pmd_mapping_whole() -> None:
    machine, parent = huge_machine()
    child = parent.fork()
    number = folio(machine, parent, 0)
    assert (parent.mm.pmd[0], child.mm.pmd[0]) == (PMD_HUGE, PMD_HUGE)
    assert (machine.memory.entire_mapcount[number], machine.memory.refcount[number]) == (2, 2)
    assert not machine.memory.anon_exclusive[machine.memory.head[number]]
    assert writable(parent, 512) == writable(child, 512) == []
    assert (child.mm.pte[:512] & PTE_YOUNG == 0).all()
    assert child.rss_pages == 512
    assert child.read(3) == 33


def test_fork_shares_the_huge_zero_page() -> None:
    machine = af.Machine(orders=(9,))
    parent = machine.spawn()
    parent.mmap(512)
    parent.read(0)
    child = parent.fork()
    assert child.mm.pmd[0] == PMD_HUGE
    assert child.rss_pages == 0
    assert child.write(5, 1).code == "zero9"
    assert parent.read(5) == 0
    assert af.check(machine) == []


# --- fork and pins --------------------------------------------------------------------------------------------------


@POLICIES
@pytest.mark.parametrize("write", [True, False])
def test_fork_copies_every_exclusive_page_of_a_pinned_folio(policy: str, write: bool) -> None:
    machine, parent = machine_with_folio(policy)
    large = machine.memory.order[folio(machine, parent, 0)] == 4
    parent.pin(4, write=write)
    child = parent.fork()
    copied = [vpn for vpn in range(16) if parent.mm.pfn[vpn] != child.mm.pfn[vpn]]
    assert copied == (list(range(16)) if large else [4])
    assert exclusive(machine, child) == exclusive(machine, parent) == writable(child) == writable(parent) == copied
    assert all(child.mm.pte[vpn] == PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | PTE_WRITE for vpn in copied)
    assert [child.read(vpn) for vpn in range(16)] == list(range(1, 17))
    assert child.rss_pages == 16
    assert af.check(machine) == []


def test_pages_of_a_pinned_folio_that_are_shared_already_are_shared_further() -> None:
    machine, parent = machine_with_folio()
    parent.madvise(8, 8, "dontfork")
    first = parent.fork()
    parent.madvise(8, 8, "dofork")
    parent.pin(12)
    second = parent.fork()
    shared = [vpn for vpn in range(16) if parent.mm.pfn[vpn] == second.mm.pfn[vpn]]
    assert shared == list(range(8))
    assert exclusive(machine, second) == list(range(8, 16))
    assert machine.memory.mapcount[parent.mm.pfn[0]] == 3
    first.exit()
    assert af.check(machine) == []


def test_a_copied_page_of_a_read_only_mapping_is_read_only_in_the_child() -> None:
    machine, parent = machine_with_folio()
    parent.pin(4)
    parent.mprotect(0, 16, 1)
    child = parent.fork()
    assert exclusive(machine, child) == list(range(16))
    assert writable(child) == []
    assert af.check(machine) == []


def test_after_unpinning_fork_shares_again() -> None:
    """That the process ever pinned is remembered; whether a folio is copied depends on its pins now."""
    machine, parent = machine_with_folio()
    parent.pin(4)
    parent.unpin()
    assert parent.mm.has_pinned
    child = parent.fork()
    assert (child.mm.pfn[:16] == parent.mm.pfn[:16]).all()
    assert exclusive(machine, parent) == []


@pytest.mark.parametrize("large", [True, False], ids=["large", "single"])
def test_what_fork_copies_is_counted(large: bool) -> None:
    machine, parent = machine_with_folio("linux-6.15" if large else "linux-6.3")
    parent.pin(4)
    before = machine.counters.copied
    parent.fork()
    assert machine.counters.copied - before == (16 if large else 1)
    parent.fork_fails_after(5)
    assert machine.counters.copied - before == (21 if large else 2)
    parent.unpin(0)
    parent.fork()
    assert machine.counters.copied - before == (21 if large else 2)


def test_only_the_folio_that_is_pinned_is_copied() -> None:
    machine = af.Machine()
    parent = machine.spawn()
    parent.mmap(32)
    parent.write(0)
    parent.write(16)
    parent.pin(20)
    child = parent.fork()
    assert [vpn for vpn in range(32) if parent.mm.pfn[vpn] != child.mm.pfn[vpn]] == list(range(16, 32))


def test_a_plain_reference_makes_fork_copy_nothing() -> None:
    """FOLL_GET promises nothing; the parent is the one whose next write leaves the page to the pipe."""
    _, parent = machine_with_folio()
    parent.ref(4)
    assert not parent.mm.has_pinned
    child = parent.fork()
    assert (child.mm.pfn[:16] == parent.mm.pfn[:16]).all()
    child.exit()
    parent.pin(9, id=1)
    assert parent.mm.has_pinned


def test_a_pinned_pmd_mapping_is_split_in_the_parent_and_copied_page_by_page() -> None:
    machine, parent = huge_machine()
    parent.pin(100)
    child = parent.fork()
    assert (parent.mm.pmd[0], child.mm.pmd[0]) == (PMD_TABLE, PMD_TABLE)
    assert not (parent.mm.pfn[:512] == child.mm.pfn[:512]).any()
    assert exclusive(machine, child, range(512)) == exclusive(machine, parent, range(512)) == list(range(512))
    assert writable(parent, 512) == list(range(512))
    assert child.read(3) == 33
    assert af.check(machine) == []


def test_children_inherit_no_pins() -> None:
    _, parent = machine_with_folio()
    parent.pin(0)
    parent.ref(1)
    child = parent.fork()
    assert child.pins() == {}
    assert not child.mm.has_pinned
    assert child.pin(0)


# --- a fork that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", range(17))
@POLICIES
def test_a_fork_that_fails_after_k_pages_has_cost_those_pages_their_flag(policy: str, pages: int) -> None:
    machine, parent = machine_with_folio(policy)
    outcome = parent.fork_fails_after(pages)
    assert (bool(outcome), outcome.errno) == (False, "ENOMEM")
    assert exclusive(machine, parent) == writable(parent) == list(range(pages, 16))
    assert (machine.memory.mapcount[parent.mm.pfn[:16]] == 1).all()
    assert len(machine.processes) == 1
    assert af.check(machine) == []
    assert [parent.read(vpn) for vpn in range(16)] == list(range(1, 17))


def test_a_fork_that_fails_beyond_what_is_mapped_fails_at_its_end() -> None:
    machine, parent = machine_with_folio()
    assert not parent.fork_fails_after(1000)
    assert exclusive(machine, parent) == []
    assert len(machine.processes) == 1


def test_what_is_not_mapped_does_not_count() -> None:
    machine, parent = machine_with_folio()
    parent.madvise(2, 3, "dontneed")
    parent.read(3)
    parent.fork_fails_after(4)  # pages 0, 1, the zero page at 3, and page 5
    assert exclusive(machine, parent) == list(range(6, 16))


def test_a_fork_that_fails_inside_a_huge_mapping_splits_it() -> None:
    machine, parent = huge_machine()
    parent.fork_fails_after(10)
    assert parent.mm.pmd[0] == PMD_TABLE
    assert exclusive(machine, parent, range(512)) == list(range(10, 512))
    assert af.check(machine) == []
    machine, parent = huge_machine()
    parent.fork_fails_after(512)
    assert parent.mm.pmd[0] == PMD_HUGE
    assert writable(parent, 512) == []


def test_a_fork_that_fails_at_a_mapping_has_shared_those_below() -> None:
    machine = af.Machine()
    parent = machine.spawn()
    parent.mmap(16)
    parent.mmap(16)
    parent.mmap(16)
    for start in (0, 512, 1024):
        parent.write(start)
    assert not parent.fork_fails(512 + 7)
    assert writable(parent, 1040) == [*range(512, 528), *range(1024, 1040)]
    assert not parent.fork_fails(0)
    assert writable(parent, 1040) == [*range(512, 528), *range(1024, 1040)]
    assert parent.fork().number == 1


def test_a_mapping_that_fork_leaves_out_cannot_be_where_it_fails() -> None:
    machine, parent = machine_with_folio()
    parent.madvise(8, 8, "dontfork")
    before = freeze([machine.memory, parent.mm])
    for vpn in (8, 16, 10_000):
        with pytest.raises(ValueError, match=f"page {vpn} "):
            parent.fork_fails(vpn)
    assert freeze([machine.memory, parent.mm]) == before


def test_fork_fails_at_no_mapping_that_is_not_charged() -> None:
    """A read-only mapping that was never written lost VM_ACCOUNT (6.7): `dup_mmap` asks for nothing there."""
    for version, charged in (("6.1", True), ("6.12", False)):
        parent = af.Machine(af.Policy.at(version)).spawn()
        parent.mmap(8)
        parent.mprotect(0, 8, 1)
        assert parent.may_fork_fail_at(0) == charged
        if not charged:
            with pytest.raises(ValueError, match="page 0 "):
                parent.fork_fails(0)
        parent.mprotect(0, 8, 3)
        assert not parent.fork_fails(0)


def test_a_wiped_mapping_can_be_where_fork_fails() -> None:
    machine, parent = machine_with_folio()
    parent.madvise(8, 8, "wipeonfork")
    assert not parent.fork_fails(8)
    assert exclusive(machine, parent) == list(range(8, 16))


def test_a_failing_fork_of_a_pinned_folio_leaves_nothing_of_the_child() -> None:
    machine, parent = machine_with_folio()
    parent.pin(4)
    held = machine.memory.held_pages()
    parent.fork_fails_after(7)
    assert machine.memory.held_pages() == held
    assert exclusive(machine, parent) == list(range(16))
    assert af.check(machine) == []


# --- pins -----------------------------------------------------------------------------------------------------------


def test_a_pin_counts_on_the_folio_and_a_small_one_counts_1024() -> None:
    machine, process = machine_with_folio()
    number = folio(machine, process, 0)
    process.pin(4, 3, id=1)
    process.pin(4, 1, id=2)
    assert (machine.memory.refcount[number], machine.memory.pincount[number]) == (20, 4)
    process.unpin(1)
    assert (machine.memory.refcount[number], machine.memory.pincount[number]) == (17, 1)
    machine, process = machine_with_folio(orders=())
    number = folio(machine, process, 4)
    process.pin(4)
    assert (machine.memory.refcount[number], machine.memory.pincount[number]) == (1 + GUP_PIN_COUNTING_BIAS, 0)
    process.unpin()
    assert machine.memory.refcount[number] == 1


def test_a_reference_counts_one_and_pins_nothing() -> None:
    for orders in ((4,), ()):
        machine, process = machine_with_folio(orders=orders)
        number = folio(machine, process, 4)
        before = int(machine.memory.refcount[number])
        process.ref(4, id=7)
        assert (machine.memory.refcount[number], machine.memory.pincount[number]) == (before + 1, 0)
        assert not machine.memory.maybe_dma_pinned(number)
        process.unref(7)
        assert machine.memory.refcount[number] == before


def test_a_small_folio_with_many_references_is_taken_for_pinned() -> None:
    """`folio_maybe_dma_pinned` of a small folio can only guess from its references: 1,024 of them look like a pin."""
    machine, process = machine_with_folio(pages=1, orders=())
    number = folio(machine, process, 0)
    machine.memory.folio_get(number, GUP_PIN_COUNTING_BIAS - 2)
    assert not machine.memory.maybe_dma_pinned(number)
    machine.memory.folio_get(number)
    assert machine.memory.maybe_dma_pinned(number)


def test_a_device_and_the_process_work_on_the_same_page() -> None:
    _, process = machine_with_folio()
    process.pin(4, 3)
    process.dma_write(0, 1, 77)
    assert process.read(5) == 77
    process.write(6, 88)
    assert process.dma_read(0, 2) == 88


def test_a_page_that_its_owner_unmapped_is_the_device_s_alone() -> None:
    machine, process = machine_with_folio()
    process.pin(4, 2)
    process.madvise(4, 1, "dontneed")
    process.dma_write(0, 0, 77)
    assert process.read(4) == 0
    assert process.dma_read(0, 0) == 77
    process.mremap(5, 1, 40)
    process.dma_write(0, 1, 66)
    assert process.read(40) == 66
    assert af.check(machine) == []


@pytest.mark.parametrize(
    "leave", [lambda p: p.munmap(4), lambda p: p.madvise(4, 1, "dontneed"), lambda p: p.mremap(4, 1, 40)]
)
def test_leaving_a_pinned_page_oneself_breaks_no_promise(leave: Callable[[af.Process], object]) -> None:
    machine, process = machine_with_folio()
    process.pin(3, 3)
    leave(process)
    assert af.check(machine) == []
    (pin,) = process.pins().values()
    assert sorted(pin.expected) == [3, 5]


def test_a_write_pin_faults_pages_in_one_by_one() -> None:
    machine = af.Machine(orders=(2,))
    process = machine.spawn()
    process.mmap(16)
    process.read(5)
    assert process.pin(2, 6)
    assert [fault.code for fault in machine.faults] == ["alloc2", "alloc0", "zero0", "alloc0", "alloc0"]
    assert [fault.vpn for fault in machine.faults] == [2, 4, 5, 6, 7]
    assert not any(fault.user for fault in machine.faults)


@pytest.mark.parametrize("write", [True, False])
def test_a_pin_that_meets_a_hole_leaves_what_it_had_faulted_in_and_holds_nothing(write: bool) -> None:
    machine = af.Machine()
    process = machine.spawn()
    process.mmap(16)
    process.munmap(6, 2)
    outcome = process.pin(3, 8, write=write)
    assert (bool(outcome), outcome.errno) == (False, "EFAULT")
    assert "page 6" in outcome.why
    assert process.pins() == {}
    assert process.mm.pins == []
    assert [vpn for vpn in range(16) if process.mm.pte[vpn]] == (list(range(6)) if write else [3, 4, 5])
    assert not any(machine.memory.pincount)
    assert process.mm.has_pinned
    assert af.check(machine) == []


def test_a_write_pin_stops_at_a_read_only_mapping_and_a_read_pin_does_not() -> None:
    _, process = machine_with_folio()
    process.mprotect(8, 8, 1)
    outcome = process.pin(6, 4)
    assert (bool(outcome), outcome.errno) == (False, "EFAULT")
    assert "page 8" in outcome.why
    assert process.pin(6, 4, write=False)


def test_a_write_pin_of_a_shared_page_copies_or_reuses_first() -> None:
    for exits, path in ((False, "copy0"), (True, "reuse1")):
        machine, parent = machine_with_folio()
        child = parent.fork()
        if exits:
            child.exit()
        parent.pin(4)
        assert [fault.code for fault in machine.faults] == [path]
        assert exclusive(machine, parent) == [4]


def test_a_read_pin_unshares_first_and_leaves_the_entry_read_only() -> None:
    machine, parent = machine_with_folio()
    child = parent.fork()
    old = int(parent.mm.pfn[4])
    parent.pin(4, write=False)
    (fault,) = machine.faults
    assert (fault.access, fault.code, fault.pages) == ("unshare", "copy0", range(4, 5))
    assert parent.mm.pfn[4] != old
    assert not parent.mm.pte[4] & (PTE_WRITE | PTE_DIRTY)
    assert exclusive(machine, parent) == [4]
    assert parent.write(4, 9).code == "reuse1"
    assert parent.dma_read(0, 0) == 9
    assert child.read(4) == 5


def test_a_read_pin_of_an_exclusive_page_takes_no_fault() -> None:
    machine, process = machine_with_folio()
    process.mprotect(0, 16, 1)
    process.pin(4, write=False)
    assert machine.faults == []


def test_a_read_pin_in_place_marks_the_page_exclusive_and_pins_that_one_alone() -> None:
    machine, parent = machine_with_folio()
    parent.fork().exit()
    parent.pin(4, write=False)
    assert [fault.code for fault in machine.faults] == ["unshare"]
    assert exclusive(machine, parent) == [4]
    assert writable(parent) == []


@POLICIES
def test_a_long_term_read_pin_does_not_keep_the_zero_page_but_in_6_1(policy: str) -> None:
    machine = af.Machine(policy)
    process = machine.spawn()
    process.mmap(16)
    process.read(4)
    process.pin(4, write=False)
    if af.POLICIES[policy].unshares_zero_page:
        (fault,) = machine.faults
        assert (fault.access, fault.code) == ("unshare", "zero0")
        assert not process.mm.pte[4] & (PTE_SPECIAL | PTE_WRITE)
        assert exclusive(machine, process) == [4]
    else:
        assert machine.faults == []
        assert process.mm.pte[4] & PTE_SPECIAL
    assert process.dma_read(0, 0) == 0
    assert af.check(machine) == []


def test_a_short_term_read_pin_leaves_the_zero_page_and_holds_nothing() -> None:
    machine, process = machine_with_folio()
    process.madvise(4, 1, "dontneed")
    assert process.gup(4) == 0
    assert [fault.code for fault in machine.faults] == ["zeroread"]
    assert process.gup(4) == 0
    assert machine.faults == []
    assert process.gup(5) == 6
    assert process.gup(16) is None
    assert process.pins() == {}
    assert af.check(machine) == []


def test_a_read_pin_of_a_shared_pmd_splits_it_and_copies_one_page() -> None:
    machine, parent = huge_machine()
    parent.fork()
    parent.pin(100, write=False)
    assert [fault.code for fault in machine.faults] == ["copy0"]
    assert parent.mm.pmd[0] == PMD_TABLE
    assert af.check(machine) == []


def test_a_read_pin_of_a_pmd_that_is_left_alone_marks_it_whole() -> None:
    machine, parent = huge_machine()
    parent.fork().exit()
    parent.pin(100, write=False)
    assert [fault.code for fault in machine.faults] == ["unshare"]
    assert parent.mm.pmd[0] == PMD_HUGE
    assert machine.memory.anon_exclusive[machine.memory.head[folio(machine, parent, 0)]]
    assert writable(parent, 512) == []
    assert parent.write(7).code == "reuse512"


def test_exit_lets_go_of_pins_references_and_memory() -> None:
    machine, process = machine_with_folio()
    process.pin(0, 4)
    process.ref(5)
    process.munmap(0, 4)
    process.exit()
    assert machine.memory.held_pages() == 0
    assert (process.pins(), process.rss_pages, process.alive) == ({}, 0, False)
    assert machine.live() == []
    assert af.check(machine) == []


def test_two_pins_of_the_same_pages_are_two() -> None:
    machine, process = machine_with_folio()
    process.pin(4, id=0)
    process.pin(4, id=1)
    process.unpin(0)
    assert machine.memory.pincount[folio(machine, process, 0)] == 1
    assert process.dma_read(1, 0) == 5
    assert af.check(machine) == []


def test_a_pin_and_a_reference_may_have_the_same_number() -> None:
    _, process = machine_with_folio()
    assert process.pin(4, id=3)
    assert process.ref(5, id=3)
    assert process.unpin(3)
    assert not process.unpin(3)
    assert process.unref(3)
    assert process.unref(3).errno == "ENXIO"


@pytest.mark.parametrize("ever_pinned", [False, True])
def test_many_references_look_like_a_pin_only_to_a_process_that_ever_pinned(ever_pinned: bool) -> None:
    """A small folio cannot tell 1,024 references from a pin; MMF_HAS_PINNED spares all who never pinned the copy."""
    process = af.Machine(orders=()).spawn()
    process.mmap(2)
    process.write(0, 7)
    for number in range(GUP_PIN_COUNTING_BIAS):
        assert process.ref(0, number)
    if ever_pinned:
        assert process.pin(1)
        assert process.unpin()
    child = process.fork()
    assert (child.mm.pfn[0] != process.mm.pfn[0]) == ever_pinned
    assert child.read(0) == 7


# --- accessed ---------------------------------------------------------------------------------------------------------


def child_of_a_writer(order: int) -> tuple[af.Machine, af.Process]:
    """A machine whose process 1 maps a folio that it did not touch yet."""
    machine = af.Machine(orders=(order,))
    parent = machine.spawn()
    parent.mmap(1 << order)
    parent.write(0, 7)
    return machine, parent.fork()


def owner_of_old_entries(order: int) -> tuple[af.Machine, af.Process]:
    machine = af.Machine(orders=(order,))
    process = machine.spawn()
    process.mmap(1 << order)
    process.write(0)
    process.mm.pte[: 1 << order] &= 0xFF ^ PTE_YOUNG
    return machine, process


def accessed(process: af.Process, pages: int) -> list[int]:
    return np.flatnonzero(process.mm.pte[:pages] & PTE_YOUNG).tolist()


def test_a_read_sets_accessed_in_the_entry_that_it_goes_by() -> None:
    _, child = child_of_a_writer(2)
    child.read(1)
    assert accessed(child, 4) == [1]
    child.touch([3, 1], write=False)
    assert accessed(child, 4) == [1, 3]


@pytest.mark.parametrize("how", ["read", "touch", "mixed"])
def test_a_read_under_a_pmd_sets_accessed_in_all_of_it(how: str) -> None:
    _, child = child_of_a_writer(9)
    if how == "read":
        child.read(77)
    else:
        child.touch([77, 77], write=False if how == "touch" else [False, True])
    assert accessed(child, 512) == list(range(512))


@pytest.mark.parametrize(("order", "how", "seen"), [(2, "gup", 0), (2, "ref", 0), (9, "gup", 512), (9, "ref", 0)])
def test_what_takes_pages_sets_accessed_only_in_a_pmd_and_where_it_walks_under_the_lock(
    order: int, how: str, seen: int
) -> None:
    """And there only on a processor whose kernel writes the entry for a reader, too: arm64's does, x86-64's not."""
    for ages, expected in ((True, seen), (False, 0)):
        _, process = owner_of_old_entries(order)
        process.mm.policy = process.mm.policy.but(read_ages_pmd=ages)
        getattr(process, how)(1)
        assert len(accessed(process, 1 << order)) == expected


def test_a_pin_takes_what_is_exclusive_without_the_lock_and_sets_accessed_where_it_must_unshare() -> None:
    machine, process = owner_of_old_entries(9)
    process.pin(3, write=False)
    assert accessed(process, 512) == []
    process.unpin()
    machine.memory.anon_exclusive[:] = False
    process.mm.policy = process.mm.policy.but(read_ages_pmd=True)
    process.pin(3, write=False)
    assert len(accessed(process, 512)) == 512
