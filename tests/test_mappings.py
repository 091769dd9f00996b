"""Mappings and page tables: which VMAs split and merge, and what hangs in a page table.

Both are seen through what a process gets: the layout of its mappings, and the order that a fault allocates.
"""

from __future__ import annotations

import numpy as np
import pytest
from support import folio, freeze, layout, machine_with_folio, vma_at

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_HUGE, PMD_NONE, PMD_TABLE, PTE_DIRTY, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from anonfolio.kernel.vma import VM_UNACCOUNTED, VM_WIPEONFORK

OLD, NEW = af.LINUX_6_9, af.LINUX_6_15


def process_with(pages: int = 16, policy: af.Policy = NEW, **knobs: object) -> af.Process:
    process = af.Machine(policy, **knobs).spawn()  # type: ignore[arg-type]
    process.mmap(pages)
    return process


def flags_of(process: af.Process) -> list[int]:
    return [vma.flags for vma in process.mm.vmas]


# --- where mmap puts a mapping --------------------------------------------------------------------------------------


def test_the_first_mapping_starts_at_page_0_and_the_next_at_a_2_mib_boundary() -> None:
    process = af.Machine().spawn()
    assert process.mmap(16) == range(16)
    assert process.mmap(600) == range(512, 1112)
    assert process.mmap(1) == range(1536, 1537)
    assert layout(process) == [(0, 16), (512, 1112), (1536, 1537)]


def test_an_adjacent_mapping_joins_its_neighbour() -> None:
    process = process_with(8)
    process.mmap(8, at=8)
    assert layout(process) == [(0, 16)]
    assert process.write(5).code == "alloc4"


def test_a_mapping_that_fills_a_gap_joins_both_sides() -> None:
    process = process_with(8)
    process.mmap(8, at=16)
    process.mmap(8, at=8)
    assert layout(process) == [(0, 24)]


@pytest.mark.parametrize(
    ("version", "written", "mappings"),
    [
        ("6.1", (0, 8), [(0, 4), (4, 12)]),
        ("6.11", (0, 8), [(0, 4), (4, 12)]),
        ("6.12", (0, 8), [(0, 8), (8, 12)]),
        ("7.3", (0, 8), [(0, 8), (8, 12)]),
        ("6.1", (8,), [(0, 4), (4, 12)]),
        ("6.12", (8,), [(0, 12)]),
        ("6.1", (0,), [(0, 12)]),
        ("6.1", (), [(0, 12)]),
    ],
)
def test_which_side_a_mapping_in_a_gap_joins_where_it_cannot_have_both(
    version: str, written: tuple[int, ...], mappings: list[tuple[int, int]]
) -> None:
    """6.1 (running) asks the lower neighbour about the upper one's anon_vma (`mmap_region`); 6.12 does not."""
    process = af.Machine(af.Policy.at(version)).spawn()
    process.mmap(4, at=0)
    process.mmap(4, at=8)
    for page in written:
        process.write(page)
    process.mmap(4, at=4)
    assert layout(process) == mappings


def test_what_mremap_puts_in_a_gap_of_6_1_joins_the_lower_side() -> None:
    """`copy_vma` asks both about the moved mapping, in 6.1 as later."""
    process = af.Machine(af.Policy.at("6.1")).spawn()
    process.mmap(4, at=0)
    process.mmap(4, at=8)
    process.write(0)
    process.write(8)
    process.mmap(4, at=20)
    process.mremap(20, 4, 4)
    assert layout(process) == [(0, 8), (8, 12)]


def test_a_mapping_is_advised_after_it_has_merged() -> None:
    """mmap merges and takes the anon_vma, madvise splits: the child gets the zero page of 5 (6.18.44, running)."""
    process = process_with(4)
    process.write(0)
    process.mmap(4, at=4, advice="nohugepage")
    assert layout(process) == [(0, 4), (4, 8)]
    assert vma_at(process, 4).anon_vma == vma_at(process, 0).anon_vma != 0
    process.read(5)
    child = process.fork()
    assert child.mm.pte[5] & PTE_SPECIAL


@pytest.mark.parametrize(
    ("version", "mappings"),
    [
        ("6.12", [(1, 4), (4, 7)]), ("6.16.12", [(1, 7)]), ("6.17.13", [(1, 7)]), ("6.18.5", [(1, 7)]),
        ("6.18.44", [(1, 4), (4, 7)]), ("7.3", [(1, 4), (4, 7)]),
    ],
)  # fmt: skip
def test_what_a_child_moved_joins_an_untouched_mapping_up_to_6_18_7(
    version: str, mappings: list[tuple[int, int]]
) -> None:
    process = af.Machine(af.Policy.at(version)).spawn()
    process.mmap(3, at=4)
    process.write(4)
    child = process.fork()
    assert child.mremap(4, 3, 20)
    child.mmap(3, at=1)
    assert child.mremap(20, 3, 4)
    assert layout(child) == mappings


@pytest.mark.parametrize(("version", "value"), [("6.12", 7), ("6.16.12", 0), ("6.18.5", 0), ("6.18.8", 7)])
def test_a_moved_mapping_that_lost_its_anon_vma_is_not_forked(version: str, value: int) -> None:
    """The bug of 6.16 to 6.18.7 (879bca0a2c4f), as 6.17.13 and 6.18.5 did it."""
    process = process_with(8, af.Policy.at(version))
    process.madvise(0, 4, "wipeonfork")
    process.write(4, 7)
    process.mremap(4, 4, 20)
    process.madvise(0, 4, "keeponfork")
    process.mremap(20, 4, 4)
    child = process.fork()
    assert process.read(4) == 7
    assert child.read(4) == value


def test_a_moved_mapping_that_meets_no_neighbour_keeps_its_ancestors() -> None:
    for version in ("6.18.5", "6.18.8"):
        process = process_with(8, af.Policy.at(version))
        process.write(0)
        child = process.fork()
        child.mremap(0, 8, 20)
        assert len(vma_at(child, 20).chain) == 2


def test_a_mapping_joins_the_one_above() -> None:
    process = af.Machine().spawn()
    process.mmap(8, at=8)
    process.write(9)
    process.mmap(8, at=0)
    assert layout(process) == [(0, 16)]
    assert vma_at(process, 0).pgoff == 0
    assert vma_at(process, 0).anon_vma


def test_mappings_with_other_advice_or_a_gap_stay_apart() -> None:
    process = process_with(8)
    process.mmap(8, at=8, advice="hugepage")
    process.mmap(8, at=17)
    assert layout(process) == [(0, 8), (8, 16), (17, 25)]


def test_a_mapping_joins_no_neighbour_that_a_fork_child_inherited() -> None:
    process = process_with(8)
    process.write(0)
    child = process.fork()
    for who, expected in ((process, [(0, 16)]), (child, [(0, 8), (8, 16)])):
        who.mmap(8, at=8)
        assert layout(who) == expected


def test_a_wiped_or_never_written_mapping_of_a_child_takes_new_neighbours() -> None:
    process = process_with(8)
    process.write(0)
    process.madvise(0, 8, "wipeonfork")
    child = process.fork()
    child.madvise(0, 8, "keeponfork")
    child.mmap(8, at=8)
    assert layout(child) == [(0, 16)]


# --- splitting and merging by mprotect and madvise ------------------------------------------------------------------


@pytest.mark.parametrize("written", [False, True])
def test_a_part_with_other_flags_splits_and_merges_again(written: bool) -> None:
    process = process_with()
    if written:
        process.write(0)
    for change, back in (
        (lambda at, n: process.mprotect(at, n, 1), lambda at, n: process.mprotect(at, n, 3)),
        (lambda at, n: process.madvise(at, n, "wipeonfork"), lambda at, n: process.madvise(at, n, "keeponfork")),
        (lambda at, n: process.madvise(at, n, "dontfork"), lambda at, n: process.madvise(at, n, "dofork")),
    ):
        for (at, pages), split in {
            (4, 8): [(0, 4), (4, 12), (12, 16)],
            (0, 8): [(0, 8), (8, 16)],
            (8, 8): [(0, 8), (8, 16)],
            (15, 1): [(0, 15), (15, 16)],
            (0, 16): [(0, 16)],
        }.items():
            assert change(at, pages)
            assert layout(process) == split
            assert back(at, pages)
            assert layout(process) == [(0, 16)]
            assert vma_at(process, 0).pgoff == 0


def test_a_range_joins_the_neighbour_below_and_leaves_the_rest() -> None:
    process = process_with()
    process.mprotect(0, 4, 1)
    process.mprotect(4, 4, 1)
    assert layout(process) == [(0, 8), (8, 16)]
    assert vma_at(process, 8).pgoff == 8


def test_a_range_joins_the_neighbour_above_and_leaves_the_rest() -> None:
    process = process_with()
    process.mprotect(12, 4, 1)
    process.mprotect(8, 4, 1)
    assert layout(process) == [(0, 8), (8, 16)]
    assert vma_at(process, 8).pgoff == 8


def test_a_range_between_two_equal_neighbours_joins_both() -> None:
    process = process_with()
    process.mprotect(0, 4, 1)
    process.mprotect(8, 4, 1)
    process.mprotect(4, 4, 1)
    assert layout(process) == [(0, 12), (12, 16)]


def test_one_call_over_several_mappings_changes_and_merges_all() -> None:
    process = process_with()
    process.mprotect(4, 4, 1)
    process.madvise(8, 4, "wipeonfork")
    process.mprotect(0, 16, 1)
    assert layout(process) == [(0, 8), (8, 12), (12, 16)]
    process.madvise(0, 16, "wipeonfork")
    assert layout(process) == [(0, 16)]
    assert flags_of(process) == [1 | VM_WIPEONFORK | VM_UNACCOUNTED]


def test_hugepage_and_nohugepage_exclude_each_other() -> None:
    process = process_with()
    process.madvise(0, 16, "hugepage")
    with_huge = flags_of(process)
    process.madvise(0, 16, "nohugepage")
    assert flags_of(process) != with_huge
    process.madvise(0, 16, "hugepage")
    assert flags_of(process) == with_huge


@pytest.mark.parametrize(
    "same",
    [
        lambda p: p.mprotect(100, 50, 3),
        lambda p: p.madvise(100, 50, "keeponfork"),
        lambda p: p.madvise(100, 50, "dofork"),
        lambda p: p.madvise(100, 50, "hugepage"),
    ],
)
def test_what_already_is_so_splits_neither_the_mapping_nor_its_pmd(same: object) -> None:
    machine = af.Machine(orders=(9,))
    process = machine.spawn()
    process.mmap(512, advice="hugepage")
    process.write(0)
    before = freeze([machine.memory, process.mm])
    assert same(process)  # type: ignore[operator]
    assert freeze([machine.memory, process.mm]) == before


# --- anon_vma -------------------------------------------------------------------------------------------------------


def test_a_mapping_has_no_anon_vma_before_its_first_write_or_pin() -> None:
    process = process_with()
    process.read(3)
    assert not vma_at(process, 0).anon_vma
    process.gup(4)
    assert not vma_at(process, 0).anon_vma
    process.write(3)
    assert vma_at(process, 0).anon_vma
    other = process_with()
    other.pin(2)
    assert vma_at(other, 0).anon_vma


def test_a_read_that_maps_the_huge_zero_page_prepares_the_anon_vma_so_fork_copies_it() -> None:
    process = process_with(512, orders=(9,))
    process.read(3)
    assert vma_at(process, 0).anon_vma
    child = process.fork()
    assert child.mm.pmd[0] == PMD_HUGE
    small = process_with(512)
    small.read(3)
    assert not small.fork().mm.pte[3]


def test_neighbours_that_differ_in_access_alone_share_an_anon_vma_and_merge_later() -> None:
    apart = process_with(policy=OLD)
    apart.mprotect(8, 8, 1)
    apart.write(0)
    apart.mprotect(0, 8, 1)
    apart.mprotect(8, 8, 3)
    apart.write(8)
    assert vma_at(apart, 8).anon_vma == vma_at(apart, 0).anon_vma
    apart.mprotect(0, 8, 3)
    assert layout(apart) == [(0, 16)]


def test_neighbours_that_differ_in_more_get_anon_vmas_of_their_own_and_never_merge() -> None:
    for policy in (OLD, NEW):
        process = process_with(policy=policy)
        process.madvise(8, 8, "wipeonfork")
        process.write(0)
        process.write(8)
        assert vma_at(process, 0).anon_vma != vma_at(process, 8).anon_vma
        process.madvise(8, 8, "keeponfork")
        assert layout(process) == [(0, 8), (8, 16)]
        assert len(set(flags_of(process))) == 1


def test_a_range_between_two_anon_vmas_joins_the_lower_alone() -> None:
    process = process_with(8)
    process.mmap(8, at=16)
    process.write(0)
    process.write(16)
    process.mmap(8, at=8)
    assert layout(process) == [(0, 16), (16, 24)]
    process.madvise(8, 8, "wipeonfork")
    process.madvise(8, 8, "keeponfork")
    assert layout(process) == [(0, 16), (16, 24)]


def test_the_neighbour_above_lends_its_anon_vma_before_the_one_below() -> None:
    """`find_mergeable_anon_vma` looks at the next mapping first; 6.9 keeps the middle apart so that it shows."""
    process = process_with(24, OLD)
    process.mprotect(8, 8, 1)
    process.write(0)
    process.write(16)
    process.mprotect(0, 8, 1)
    process.mprotect(16, 8, 1)
    process.mprotect(8, 8, 3)
    process.write(8)
    assert vma_at(process, 8).anon_vma == vma_at(process, 16).anon_vma != vma_at(process, 0).anon_vma


@pytest.mark.parametrize(
    ("policy", "merges"),
    [(af.LINUX_6_3, False), (af.LINUX_6_8, False), (OLD, False), (NEW, True), (af.RFC_V2, False)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_mapping_with_pages_joins_one_without_an_anon_vma_since_6_16(policy: af.Policy, merges: bool) -> None:
    process = process_with(policy=policy)
    process.madvise(8, 8, "wipeonfork")
    process.write(0)
    process.madvise(0, 8, "wipeonfork")
    assert layout(process) == ([(0, 16)] if merges else [(0, 8), (8, 16)])


def test_a_mapping_without_an_anon_vma_joins_one_with_pages_in_every_kernel() -> None:
    for policy in (OLD, NEW):
        process = process_with(policy=policy)
        process.mprotect(8, 8, 1)
        process.write(0)
        process.mprotect(8, 8, 3)
        assert layout(process) == [(0, 16)]
        assert vma_at(process, 12).anon_vma


def test_a_mapping_that_a_child_inherited_joins_none_that_has_no_anon_vma() -> None:
    process = process_with()
    process.mprotect(8, 8, 1)
    process.write(0)
    child = process.fork()
    child.mprotect(0, 8, 1)
    assert layout(child) == [(0, 8), (8, 16)]
    child.mprotect(0, 8, 3)
    child.mprotect(8, 8, 3)
    assert layout(child) == [(0, 8), (8, 16)]


def test_each_mapping_of_a_child_gets_an_anon_vma_of_its_own() -> None:
    """Two that could merge in the parent cannot in the child."""
    process = process_with()
    process.mprotect(8, 8, 1)
    process.mprotect(8, 8, 3)
    process.write(0)
    process.mprotect(8, 8, 1)
    child = process.fork()
    assert vma_at(child, 0).anon_vma != vma_at(child, 8).anon_vma
    for who, expected in ((process, [(0, 16)]), (child, [(0, 8), (8, 16)])):
        who.mprotect(8, 8, 3)
        assert layout(who) == expected


def test_halves_that_a_child_split_itself_merge_again() -> None:
    process = process_with()
    process.write(0)
    child = process.fork()
    child.mprotect(8, 8, 1)
    child.mprotect(8, 8, 3)
    assert layout(child) == [(0, 16)]


def test_an_inherited_anon_vma_is_not_lent_to_a_neighbour() -> None:
    process = process_with()
    process.mprotect(8, 8, 1)
    process.write(0)
    child = process.fork()
    child.mprotect(0, 8, 1)
    child.mprotect(8, 8, 3)
    child.write(8)
    assert vma_at(child, 8).anon_vma not in (0, vma_at(child, 0).anon_vma)


# --- munmap and mremap ----------------------------------------------------------------------------------------------


def test_munmap_takes_out_the_middle_and_passes_over_holes() -> None:
    process = process_with()
    process.munmap(4, 4)
    assert layout(process) == [(0, 4), (8, 16)]
    assert process.munmap(2, 8)
    assert layout(process) == [(0, 2), (10, 16)]
    assert process.munmap(0, 1000)
    assert layout(process) == []
    assert process.munmap(0, 1000)


def test_a_moved_range_keeps_its_page_offset_and_merges_when_it_comes_back() -> None:
    process = process_with()
    process.write(0)
    assert process.mremap(8, 8, 40)
    assert layout(process) == [(0, 8), (40, 48)]
    assert vma_at(process, 40).pgoff == 8
    assert process.mremap(40, 8, 8)
    assert layout(process) == [(0, 16)]


def test_a_moved_range_does_not_merge_where_its_page_offset_does_not_continue() -> None:
    process = process_with()
    process.write(0)
    process.munmap(4, 8)
    process.mremap(12, 4, 4)
    assert layout(process) == [(0, 4), (4, 8)]


def test_a_range_that_was_never_written_takes_the_offset_of_its_new_place() -> None:
    process = process_with()
    process.munmap(4, 8)
    process.mremap(12, 4, 4)
    assert layout(process) == [(0, 8)]


@pytest.mark.parametrize(("start", "apart"), [(0, [(8, 16), (40, 48)]), (4, [(0, 4), (12, 16), (40, 48)])])
def test_a_moved_range_that_comes_back_joins_the_mapping_above_or_both(
    start: int, apart: list[tuple[int, int]]
) -> None:
    process = process_with()
    process.write(0)
    process.mremap(start, 8, 40)
    assert layout(process) == apart
    process.mremap(40, 8, start)
    assert layout(process) == [(0, 16)]
    assert vma_at(process, 0).pgoff == 0


def test_mremap_moves_pages_with_their_frames_contents_and_flags() -> None:
    machine, process = machine_with_folio()
    head = int(process.mm.pfn[0])
    assert process.mremap(4, 8, 101)
    assert process.mm.pfn[101:109].tolist() == list(range(head + 4, head + 12))
    assert [process.read(vpn) for vpn in range(101, 109)] == list(range(5, 13))
    assert process.write(101).code == "nf"
    assert process.rss_pages == 16
    assert not machine.memory.partially_mapped[folio(machine, process, 0)]
    assert machine.memory.refcount[folio(machine, process, 0)] == 16
    assert not process.mm.pte[4:12].any()


def test_mremap_unmaps_what_was_at_the_new_place() -> None:
    _, process = machine_with_folio()
    assert process.mremap(0, 4, 8)
    assert layout(process) == [(4, 8), (8, 12), (12, 16)]
    assert [process.read(vpn) for vpn in (4, 8, 11, 12)] == [5, 1, 4, 13]
    assert process.rss_pages == 12


def test_mremap_refuses_an_overlap_and_a_hole_and_changes_nothing() -> None:
    machine, process = machine_with_folio()
    before = freeze([machine.memory, process.mm])
    for arguments, errno in (
        ((0, 8, 4), "EINVAL"),
        ((4, 8, 0), "EINVAL"),
        ((0, 8, 7), "EINVAL"),
        ((16, 4, 40), "EFAULT"),
    ):
        outcome = process.mremap(*arguments)
        assert (bool(outcome), outcome.errno) == (False, errno)
    assert freeze([machine.memory, process.mm]) == before
    assert process.mremap(0, 8, 8)


@pytest.mark.parametrize(("version", "errno"), [("6.1", "EFAULT"), ("6.16.12", "EFAULT"), ("6.17", "EINVAL")])
def test_a_hole_moved_onto_itself_is_refused_as_a_hole_before_6_17(version: str, errno: str) -> None:
    """`mremap` looks at the mapping first up to 6.16, at the places first from 6.17 on; both ran."""
    process = process_with(policy=af.Policy.at(version))
    assert process.mremap(40, 4, 42).errno == errno
    assert process.mremap(4, 4, 6).errno == "EINVAL"


def test_mremap_over_two_mappings_is_refused_up_to_6_16() -> None:
    for version, moves in (("6.16.12", False), ("6.17", True)):
        process = af.Machine(af.Policy.at(version)).spawn()
        for at in (0, 4):
            process.mmap(2, at=at)
            process.write(at)
        outcome = process.mremap(0, 6, 20)
        assert (bool(outcome), outcome.errno) == ((True, "") if moves else (False, "EFAULT"))


@pytest.mark.parametrize(("policy", "moves"), [(OLD, False), (af.LINUX_6_8, False), (af.RFC_V2, False), (NEW, True)])
def test_a_range_of_several_mappings_moves_since_6_17_and_before_only_unmaps_its_target(
    policy: af.Policy, moves: bool
) -> None:
    machine = af.Machine(policy)
    process = machine.spawn()
    process.mmap(64)
    for vpn in range(64):
        process.write(vpn, vpn + 1)
    process.munmap(4, 4)
    outcome = process.mremap(2, 10, 32)
    assert bool(outcome) == moves
    if moves:
        # Each mapping unmaps its own target only: the gap between them leaves what is there.
        assert [process.read(vpn) for vpn in range(32, 42)] == [3, 4, 35, 36, 37, 38, 9, 10, 11, 12]
        assert layout(process)[:2] == [(0, 2), (12, 32)]
    else:
        assert outcome.errno == "EFAULT"
        assert layout(process) == [(0, 4), (8, 32), (42, 64)]
        assert [process.read(vpn) for vpn in (2, 3, 8, 11)] == [3, 4, 9, 12]
    assert af.check(machine) == []


def test_a_range_that_runs_past_its_mapping_moves_what_there_is_or_is_refused() -> None:
    for policy, moves in ((OLD, False), (NEW, True)):
        process = process_with(policy=policy)
        process.write(12, 9)
        assert bool(process.mremap(12, 8, 40)) == moves
        assert layout(process) == ([(0, 12), (40, 44)] if moves else [(0, 16)])


# --- the kernel's refusals ------------------------------------------------------------------------------------------


def test_mprotect_goes_as_far_as_the_first_hole() -> None:
    process = process_with()
    process.munmap(8, 4)
    outcome = process.mprotect(4, 12, 1)
    assert (bool(outcome), outcome.errno) == (False, "ENOMEM")
    assert "page 8" in outcome.why
    assert [(vma.start, vma.end, vma.flags & 2) for vma in process.mm.vmas] == [(0, 4, 2), (4, 8, 0), (12, 16, 2)]
    assert not process.mprotect(9, 4, 1)
    assert vma_at(process, 12).flags & 2


def test_madvise_goes_around_holes_and_reports_the_first() -> None:
    process = process_with()
    for vpn in range(16):
        process.write(vpn, 7)
    process.munmap(4, 2)
    process.munmap(8, 2)
    outcome = process.madvise(2, 10, "dontneed")
    assert (bool(outcome), outcome.errno) == (False, "ENOMEM")
    assert "page 4" in outcome.why
    assert np.flatnonzero(process.mm.pte[:16]).tolist() == [0, 1, 12, 13, 14, 15]
    assert not process.madvise(8, 2, "wipeonfork")
    assert not process.madvise(0, 16, "wipeonfork")
    assert all(vma.flags & VM_WIPEONFORK for vma in process.mm.vmas)
    assert not process.madvise(14, 4, "keeponfork")
    assert not vma_at(process, 15).flags & VM_WIPEONFORK


# --- the mapping's edges decide the order ---------------------------------------------------------------------------


def test_a_split_mapping_bounds_the_block() -> None:
    process = process_with()
    process.mprotect(0, 4, 1)
    assert process.write(5).pages == range(4, 8)
    assert process.write(8).pages == range(8, 16)


def test_a_block_next_to_a_hole_fits_only_inside_the_mapping() -> None:
    process = process_with(64)
    process.munmap(20, 2)
    assert process.write(17).pages == range(16, 20)
    assert process.write(22).pages == range(22, 23)
    assert process.write(24).pages == range(24, 32)
    assert process.write(40).pages == range(32, 48)


@pytest.mark.parametrize(
    ("thp", "advice", "code"),
    [("always", None, "alloc4"), ("always", "nohugepage", "alloc0"), ("always", "hugepage", "alloc4"),
     ("madvise", None, "alloc0"), ("madvise", "hugepage", "alloc4"), ("madvise", "nohugepage", "alloc0")],
)  # fmt: skip
def test_the_knobs_and_the_advice_decide_together(thp: str, advice: str | None, code: str) -> None:
    process = af.Machine(thp=thp).spawn()
    process.mmap(16, advice=advice)
    assert process.write(0).code == code


@pytest.mark.parametrize("advice", [None, "nohugepage"])
def test_the_rfc_asks_neither_knob_nor_advice(advice: str | None) -> None:
    process = af.Machine(af.RFC_V2, orders=(), thp="madvise").spawn()
    process.mmap(16, advice=advice)
    assert process.write(0).code == "alloc4"


def test_no_block_leaves_its_2_mib_whatever_orders_there_are() -> None:
    process = process_with(1024, orders=(8, 4))
    assert process.write(300).pages == range(256, 512)
    assert process.write(600).pages == range(512, 768)


@pytest.mark.parametrize("policy", ["linux-6.3", "linux-6.8", "linux-6.9", "linux-6.15"])
def test_before_6_8_there_is_nothing_between_a_page_and_2_mib(policy: str) -> None:
    process = af.Machine(policy, orders=(2, 3, 4, 9)).spawn()
    process.mmap(512 + 16)
    assert process.write(0).code == "alloc9"
    assert process.write(520).code == ("alloc0" if policy == "linux-6.3" else "alloc4")


# --- page tables ----------------------------------------------------------------------------------------------------


def huge_process(policy: af.Policy = NEW, pages: int = 512) -> af.Process:
    return process_with(pages, policy, orders=(9,))


def table_beneath(process: af.Process) -> None:
    """A page-table entry in the first 2 MiB, and nothing mapped there: only the table is left."""
    process.madvise(0, 512, "nohugepage")
    process.write(7)
    process.madvise(7, 1, "dontneed")
    process.madvise(0, 512, "hugepage")
    assert not process.mm.pte[:512].any()


def test_a_pmd_is_mapped_only_where_no_page_table_hangs() -> None:
    assert huge_process().write(3).code == "alloc9"
    process = huge_process()
    table_beneath(process)
    assert process.mm.pmd[0] == PMD_TABLE
    assert process.write(3).code == "alloc0"


def test_a_read_maps_the_huge_zero_page_only_where_no_page_table_hangs() -> None:
    process = huge_process()
    process.read(3)
    assert process.mm.pmd[0] == PMD_HUGE
    process = huge_process()
    table_beneath(process)
    process.read(3)
    assert np.flatnonzero(process.mm.pte).tolist() == [3]


def test_without_use_zero_page_a_read_gets_a_huge_folio() -> None:
    process = process_with(512, orders=(9,), use_zero_page=False)
    assert process.read(3) == 0
    assert process.machine.faults[0].code == "alloc9"
    assert process.write(4).code == "nf"


def test_a_mapping_that_does_not_cover_the_2_mib_gets_no_pmd() -> None:
    process = process_with(1023, orders=(9,))
    assert process.write(511).code == "alloc9"
    assert process.write(512).code == "alloc0"
    machine = af.Machine(orders=(9,))
    skewed = machine.spawn()
    skewed.mmap(1023, at=1)
    assert skewed.write(1).code == "alloc0"
    assert skewed.write(512).code == "alloc9"


@pytest.mark.parametrize(
    ("policy", "code"),
    [(af.LINUX_6_3, "alloc0"), (af.LINUX_6_8, "alloc0"), (OLD, "alloc0"), (NEW, "alloc9")],
    ids=lambda value: getattr(value, "name", value),
)
def test_dontneed_of_the_whole_2_mib_takes_the_table_along_since_6_14(policy: af.Policy, code: str) -> None:
    process = huge_process(policy)
    table_beneath(process)
    process.madvise(0, 512, "dontneed")
    assert process.write(3).code == code


@pytest.mark.parametrize(("start", "pages"), [(0, 511), (1, 511), (0, 500)])
def test_dontneed_of_less_than_2_mib_leaves_the_table(start: int, pages: int) -> None:
    process = huge_process()
    table_beneath(process)
    process.madvise(start, pages, "dontneed")
    assert process.write(3).code == "alloc0"


def test_dontneed_takes_the_tables_of_whole_blocks_only() -> None:
    process = huge_process(pages=1536)
    process.madvise(0, 1536, "nohugepage")
    for vpn in (7, 600, 1100):
        process.write(vpn)
    process.madvise(0, 1536, "hugepage")
    process.madvise(5, 1530, "dontneed")
    assert process.mm.pmd[:3].tolist() == [PMD_TABLE, PMD_NONE, PMD_TABLE]


def test_munmap_frees_the_table_when_no_mapping_is_left_over_it() -> None:
    for policy in (OLD, NEW):
        process = huge_process(policy)
        table_beneath(process)
        process.munmap(0, 512)
        process.mmap(512, at=0)
        assert process.write(3).code == "alloc9"


def test_munmap_keeps_the_table_while_another_mapping_hangs_on_it() -> None:
    process = huge_process()
    table_beneath(process)
    process.munmap(0, 511)
    assert process.mm.pmd[0] == PMD_TABLE
    process.mmap(511, at=0, advice="hugepage")
    assert layout(process) == [(0, 512)]
    assert process.write(3).code == "alloc0"


def test_dontneed_of_a_huge_page_leaves_no_table() -> None:
    for policy in (OLD, NEW):
        process = huge_process(policy)
        process.write(0)
        process.madvise(0, 512, "dontneed")
        assert process.write(1).code == "alloc9"


def test_a_child_has_page_tables_where_its_parent_has_under_a_copied_mapping() -> None:
    for written, advice, code in ((True, None, "alloc0"), (False, None, "alloc9"), (True, "wipeonfork", "alloc9")):
        process = huge_process(OLD)
        process.madvise(0, 512, "nohugepage")
        (process.write if written else process.read)(7)
        if advice:
            process.madvise(0, 512, advice)
        child = process.fork()
        child.madvise(0, 512, "dontneed")
        child.madvise(0, 512, "hugepage")
        assert child.write(3).code == code


def test_mremap_brings_a_page_table_to_its_target() -> None:
    for moved, code in ((True, "alloc0"), (False, "alloc9")):
        process = huge_process()
        process.mmap(16, at=1024, advice="nohugepage")
        process.write(1030)
        process.munmap(6)
        if moved:
            process.mremap(1030, 1, 6)
            process.munmap(6)
        process.mmap(1, at=6)
        assert layout(process)[0] == (0, 512)
        assert process.write(3).code == code


def test_mremap_of_memory_without_a_table_brings_none() -> None:
    process = huge_process()
    process.mmap(16, at=1024)
    process.munmap(6)
    process.mremap(1030, 1, 6)
    assert process.mm.pmd[0] == PMD_NONE


# --- PMD splits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cut",
    [
        lambda p: p.munmap(500, 12), lambda p: p.munmap(0, 1), lambda p: p.mprotect(100, 10, 1),
        lambda p: p.mprotect(0, 256, 1), lambda p: p.madvise(256, 256, "wipeonfork"),
        lambda p: p.madvise(1, 1, "dontfork"), lambda p: p.mremap(100, 10, 1024), lambda p: p.madvise(3, 1, "dontneed"),
        lambda p: p.madvise(0, 511, "dontneed"),
    ],
)  # fmt: skip
def test_a_boundary_inside_a_huge_mapping_splits_it(cut: object) -> None:
    machine = af.Machine(orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    for vpn in range(512):
        process.write(vpn, vpn % 256)
    number = folio(machine, process, 0)
    cut(process)  # type: ignore[operator]
    assert process.mm.pmd[0] == PMD_TABLE
    mapped = int(np.count_nonzero(machine.memory.mapcount[machine.memory.frames_of(number)]))
    assert mapped in (500, 511, 512, 1)
    assert machine.memory.large_mapcount[number] == machine.memory.refcount[number] == mapped
    assert machine.memory.entire_mapcount[number] == 0
    assert machine.memory.anon_exclusive[machine.memory.frames_of(number)].all()
    assert bool(machine.memory.partially_mapped[number]) == (mapped < 512)
    here = np.flatnonzero(process.mm.pte[:512])
    assert all(process.read(vpn) == vpn % 256 for vpn in here.tolist())
    assert af.check(machine) == []


@pytest.mark.parametrize(
    "cut",
    [
        lambda p: p.munmap(512, 512), lambda p: p.mprotect(512, 512, 1), lambda p: p.madvise(0, 512, "wipeonfork"),
        lambda p: p.madvise(512, 512, "dontneed"), lambda p: p.munmap(600, 100),
    ],
)  # fmt: skip
def test_a_boundary_between_huge_mappings_splits_none_of_the_first(cut: object) -> None:
    process = huge_process(pages=1024)
    process.write(0)
    process.write(512)
    cut(process)  # type: ignore[operator]
    assert process.mm.pmd[0] == PMD_HUGE


def test_mremap_moves_a_huge_mapping_whole_where_alignment_allows() -> None:
    machine = af.Machine(orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    process.write(5, 9)
    process.mremap(0, 512, 1024)
    assert (process.mm.pmd[0], process.mm.pmd[2]) == (PMD_NONE, PMD_HUGE)
    assert process.read(1029) == 9
    assert process.write(1030).code == "nf"
    process.mremap(1024, 512, 4097)
    assert process.mm.pmd[8:10].tolist() == [PMD_TABLE, PMD_TABLE]
    assert process.read(4097 + 5) == 9
    assert af.check(machine) == []


def test_a_split_of_the_huge_zero_page_leaves_zero_entries() -> None:
    process = huge_process()
    process.read(0)
    process.munmap(0, 1)
    assert process.mm.pmd[0] == PMD_TABLE
    assert process.machine.snapshot().processes[0].mappings[0].zero.all()
    assert process.rss_pages == 0


def test_a_split_keeps_sharing_and_gives_no_exclusivity_back() -> None:
    machine = af.Machine(orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    process.write(0)
    process.fork()
    process.munmap(511)
    number = folio(machine, process, 0)
    assert not machine.memory.anon_exclusive[machine.memory.frames_of(number)].any()
    assert machine.memory.entire_mapcount[number] == 1
    assert not machine.memory.partially_mapped[number]
    assert af.check(machine) == []


# --- protection -----------------------------------------------------------------------------------------------------


def test_mprotect_takes_the_write_bit_and_gives_it_back_to_exclusive_pages_only() -> None:
    machine, process = machine_with_folio()
    child = process.fork()
    process.write(3, 9)
    process.mprotect(0, 16, 1)
    assert not (process.mm.pte[:16] & PTE_WRITE).any()
    with pytest.raises(af.SegmentationFault):
        process.write(3)
    assert process.read(3) == 9
    process.mprotect(0, 16, 3)
    assert np.flatnonzero(process.mm.pte[:16] & PTE_WRITE).tolist() == [3]
    child.exit()
    assert af.check(machine) == []


def test_mprotect_never_makes_a_zero_page_writable() -> None:
    process = process_with()
    process.read(3)
    process.write(8)
    process.mprotect(0, 16, 1)
    process.mprotect(0, 16, 3)
    assert np.flatnonzero(process.mm.pte[:16] & PTE_WRITE).tolist() == list(range(8, 16))


def test_a_copy_or_a_reuse_makes_nothing_writable_in_a_read_only_mapping() -> None:
    """A read pin unshares a page of a read-only mapping; the entry stays read-only."""
    for exits in (False, True):
        machine, process = machine_with_folio()
        child = process.fork()
        if exits:
            child.exit()
        process.mprotect(0, 16, 1)
        assert process.pin(4, write=False)
        assert not (process.mm.pte[:16] & PTE_WRITE).any()
        assert af.check(machine) == []


@pytest.mark.parametrize(("policy", "code"), [(af.LINUX_6_3, "reuse1"), (OLD, "nf"), (NEW, "nf")])
def test_6_1_leaves_the_pages_of_a_split_pmd_clean_and_mprotect_asks_for_dirty_ones(
    policy: af.Policy, code: str
) -> None:
    process = huge_process(policy)
    process.write(0)
    process.munmap(511)
    assert bool(process.mm.pte[5] & PTE_DIRTY) == (policy is not af.LINUX_6_3)
    process.write(6)
    process.mprotect(0, 511, 1)
    process.mprotect(0, 511, 3)
    assert process.write(5).code == code
    assert process.write(6).code == "nf"


@pytest.mark.parametrize(("policy", "code"), [(af.LINUX_6_3, "reuse512"), (OLD, "nf"), (NEW, "nf")])
def test_6_1_never_makes_a_pmd_writable_by_mprotect(policy: af.Policy, code: str) -> None:
    process = huge_process(policy)
    process.write(0)
    process.mprotect(0, 512, 1)
    process.mprotect(0, 512, 3)
    assert process.write(5).code == code


def test_mprotect_does_not_make_a_shared_pmd_writable() -> None:
    process = huge_process()
    process.write(0)
    process.fork()
    process.mprotect(0, 512, 1)
    process.mprotect(0, 512, 3)
    assert process.write(5).code == "copy0"


def test_a_write_sets_young_and_dirty_in_hardware() -> None:
    process = process_with()
    process.write(0)
    child = process.fork()
    assert not child.mm.pte[3] & PTE_YOUNG
    process.write(3)
    assert process.mm.pte[3] & PTE_YOUNG
    assert process.mm.pte[3] & PTE_DIRTY


# --- accessed and dirty ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "spread"), [("6.12", False), ("6.16.12", False), ("6.17.13", True), ("7.3", True)])
def test_mprotect_spreads_accessed_and_dirty_over_a_batch_from_6_17_on(version: str, spread: bool) -> None:
    """`modify_prot_start_ptes`: generic, seen on x86-64 6.17.13 and 6.18.44, not on 6.12."""
    _, process = machine_with_folio(af.Policy.at(version))
    process.mprotect(0, 16, 1)
    for bit, page in ((PTE_YOUNG, 2), (PTE_DIRTY, 6)):
        process.mm.pte[:16] &= 0xFF ^ bit
        process.mm.pte[page] |= bit
    process.mprotect(0, 8, 3)
    for bit, page in ((PTE_YOUNG, 2), (PTE_DIRTY, 6)):
        has = np.flatnonzero(process.mm.pte[:16] & bit).tolist()
        assert has == ([*range(8)] if spread else [page])
    assert (process.mm.pte[:8] & PTE_WRITE).all()
    assert not (process.mm.pte[8:16] & PTE_WRITE).any()


def test_a_batch_of_mprotect_ends_with_its_folio_and_its_run() -> None:
    machine = af.Machine(orders=(2,))
    process = machine.spawn()
    process.mmap(12)
    for page in (0, 4, 8):
        process.write(page)
    process.munmap(6)
    process.mmap(1, at=6)
    process.mm.pte[:12] &= 0xFF ^ PTE_YOUNG
    for page in (1, 5):
        process.mm.pte[page] |= PTE_YOUNG
    process.mprotect(0, 12, 1)
    assert np.flatnonzero(process.mm.pte[:12] & PTE_YOUNG).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_huge_zero_page_that_is_split_is_mapped_anew_and_accessed() -> None:
    """`__split_huge_zero_page_pmd`: the child's 511 are accessed, on 6.18 and 7.3 running."""
    process = af.Machine(orders=(9,)).spawn()
    process.mmap(512)
    process.read(3)
    child = process.fork()
    assert not (child.mm.pte[:512] & PTE_YOUNG).any()
    child.munmap(1)
    assert np.flatnonzero(child.mm.pte[:512] & PTE_YOUNG).tolist() == [0, *range(2, 512)]
