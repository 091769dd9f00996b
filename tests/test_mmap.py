"""mmap as a program calls it: where the kernel puts what asks for no place, what it refuses, and PROT_NONE.

Most programs here also ran on a kernel (6.18.44), which did the same.
"""

from __future__ import annotations

import pytest
from support import freeze, layout, vma_at

import anonfolio as af
from anonfolio.draw.words import reason
from anonfolio.kernel.pagetable import PTE_PRESENT, PTE_WRITE
from anonfolio.kernel.vma import VM_LOCKED, VM_UNACCOUNTED, VM_WRITE
from anonfolio.machine.invariants import check
from anonfolio.program.random_programs import random_scenario


def arena(pages: int = 64, policy: af.Policy | str = af.LINUX_6_15, start: int = 0) -> af.Process:
    return af.Machine(policy, orders=(2, 4, 9)).spawn(range(start, start + pages))


# --- where ----------------------------------------------------------------------------------------------------------


def test_two_mappings_without_a_place_lie_side_by_side_and_merge() -> None:
    process = arena()
    assert [process.map(None, 16), process.map(None, 16)] == [48, 32]
    assert layout(process) == [(32, 64)]


def test_the_topmost_gap_that_is_large_enough_is_taken_at_its_end() -> None:
    process = arena(start=100)
    for at, pages in ((160, 2), (150, 4), (120, 10)):
        process.map(at, pages)
    assert [process.map(None, pages) for pages in (7, 6, 2, 16, 20)] == [143, 154, 162, 104, af.Outcome(
        False, "ENOMEM", "no gap of the arena holds 20 pages"
    )]  # fmt: skip


def test_a_mapping_that_reaches_out_of_the_arena_bounds_its_gaps() -> None:
    process = arena(start=10)
    process.map(5, 10)
    process.map(70, 10)
    assert [process.map(None, pages) for pages in (54, 1)] == [16, 15]
    assert not process.map(None, 1)


@pytest.mark.parametrize(
    ("version", "pages", "place"),
    [
        ("6.1", 512, 1448), ("6.1", 600, 1360),
        ("6.8", 512, 1024), ("6.8", 600, 1024), ("6.8", 511, 1449),
        ("6.12", 512, 1024), ("6.12", 600, 1360), ("6.12", 1024, 512), ("7.3", 512, 1024),
    ],
)  # fmt: skip
def test_which_mappings_go_to_a_2_mib_boundary(version: str, pages: int, place: int) -> None:
    """None (6.1), 2 MiB and more (6.7), multiples of 2 MiB (6.12): an arena of 1960 pages that ends 424 after one."""
    assert arena(1960, af.Policy.at(version)).map(None, pages) == place


def test_what_is_aligned_already_moves_up_by_what_was_left_for_it() -> None:
    process = arena(2048)
    assert process.map(None, 512) == 1536
    # No room for 2 MiB more: wherever it fits.
    assert process.map(None, 1024) == 512
    assert process.map(None, 512) == 0


def test_a_child_places_in_the_same_arena() -> None:
    process = arena(start=64)
    process.map(None, 4)
    assert process.fork().map(None, 4) == 120


# --- a place of its own ---------------------------------------------------------------------------------------------


def test_a_fixed_mapping_takes_the_place_of_what_is_there() -> None:
    process = arena()
    process.map(0, 16)
    process.write(0, 7)
    process.write(8, 8)
    assert process.map(4, 8, 1) == 4
    assert layout(process) == [(0, 4), (4, 12), (12, 16)]
    assert (process.read(0), process.read(8)) == (7, 0)
    assert process.rss_pages == 8


def test_a_fixed_mapping_may_cover_itself_and_merge_with_what_is_left() -> None:
    process = arena()
    process.map(0, 16)
    process.write(1)
    assert process.map(4, 8) == 4
    assert layout(process) == [(0, 16)]


def test_what_may_not_be_replaced_is_refused_and_nothing_changes() -> None:
    process = arena()
    process.map(8, 8)
    process.write(9)
    before = freeze(process.mm)
    for at, pages in ((8, 1), (4, 5), (15, 4), (0, 64)):
        answer = process.map(at, pages, replace=False)
        assert isinstance(answer, af.Outcome)
        assert answer.errno == "EEXIST"
    assert freeze(process.mm) == before
    assert process.map(4, 4, replace=False) == 4
    assert layout(process) == [(4, 16)]


# --- what is not writable is not charged, and merges with none that is ----------------------------------------------


def test_what_was_reserved_and_then_made_writable_merges_with_what_was_writable_before() -> None:
    process = arena()
    process.map(0, 8, 3)
    process.map(8, 8, 0)
    assert process.mprotect(8, 8, 3)
    assert layout(process) == [(0, 16)]
    assert not vma_at(process, 8).flags & VM_UNACCOUNTED


def test_a_written_mapping_that_becomes_read_only_stays_charged_and_merges_with_no_read_only_one() -> None:
    process = arena()
    process.map(0, 8, 3)
    process.map(8, 8, 1)
    process.write(0)
    process.mprotect(0, 8, 1)
    assert [bool(vma.flags & VM_UNACCOUNTED) for vma in process.mm.vmas] == [False, True]


@pytest.mark.parametrize(("version", "mappings"), [("6.1", 2), ("6.7", 1), ("6.18", 1)])
def test_an_unwritten_mapping_that_becomes_inaccessible_merges_with_what_was_so_from_6_7_on(
    version: str, mappings: int
) -> None:
    process = arena(policy=af.Policy.at(version))
    process.map(0, 8, 3)
    process.map(8, 8, 0)
    process.mprotect(0, 8, 0)
    assert len(layout(process)) == mappings


# --- PROT_NONE ------------------------------------------------------------------------------------------------------


def test_nothing_may_be_done_with_an_inaccessible_page_and_it_keeps_its_content() -> None:
    process = arena()
    process.map(0, 16)
    process.write(3, 7)
    process.mprotect(0, 16, 0)
    for access in (lambda: process.read(3), lambda: process.write(3), lambda: process.touch([3], False)):
        with pytest.raises(af.SegmentationFault, match="the mapping is inaccessible") as raised:
            access()
        # The hardware finds no entry: its present bit is not set (error codes 4 and 6, as 6.18.44 traces them).
        assert raised.value.fault.error_code in (4, 6)
    assert not process.pin(3)
    assert not process.ref(3)
    assert process.gup(3) is None
    assert process.mm.pte[3] & PTE_PRESENT
    assert not process.mm.pte[3] & PTE_WRITE
    assert process.rss_pages == 16
    process.mprotect(0, 16, 1)
    assert process.read(3) == 7


def test_a_page_that_is_this_process_s_alone_is_writable_at_once_when_access_comes_back() -> None:
    process = arena()
    process.map(0, 16)
    process.write(3)
    process.mprotect(0, 16, 0)
    process.mprotect(0, 16, 3)
    assert not process.write(3)
    process.mprotect(0, 16, 0)
    child = process.fork()
    process.mprotect(0, 16, 3)
    assert process.write(3).code == "copy0"
    with pytest.raises(af.SegmentationFault):
        child.read(3)
    child.mprotect(0, 16, 3)
    assert child.read(3) == 1


def test_a_huge_mapping_becomes_inaccessible_whole_and_is_split_where_a_part_does() -> None:
    process = arena(1024)
    process.map(0, 1024)
    process.write(0)
    process.write(600)
    process.mprotect(0, 512, 0)
    assert process.mm.is_huge(0)
    process.mprotect(600, 8, 0)
    assert not process.mm.is_huge(600)
    assert process.write(599).code == "nf"
    process.mprotect(0, 512, 3)
    assert process.write(5).code == "nf"
    assert not check(process.machine)


def test_the_zero_page_is_kept_too() -> None:
    process = arena()
    process.map(0, 4)
    process.read(0)
    process.mprotect(0, 4, 0)
    process.mprotect(0, 4, 3)
    assert process.write(0).code == "zero0"


def test_a_stream_that_would_write_an_inaccessible_page_does_nothing() -> None:
    process = arena()
    process.map(0, 32)
    process.mprotect(20, 4, 0)
    with pytest.raises(af.SegmentationFault, match="access 20 of the stream"):
        process.touch(range(32), False)
    assert process.rss_pages == 0
    assert not process.mm.pte.any()


def test_what_is_said_of_an_inaccessible_page() -> None:
    scenario = af.Scenario(8, (("mprotect", 0, 0, 8, 0), ("read", 0, 2), ("write", 0, 2, 1)))
    run = scenario.run()
    assert [reason(result) for result in run][1:] == 2 * ["the mapping is inaccessible"]
    assert "no access" in str(run.show())


# --- as operation of a program --------------------------------------------------------------------------------------


def test_a_program_names_the_place_that_the_kernel_chose_as_a_page_of_the_arena() -> None:
    scenario = af.Scenario.parse("pages 32\nskew 5\nmunmap 0 0 32\nmmap 0 - 8 3 anywhere\nmmap 0 4 2 0 fixed\n")
    assert scenario.steps[1] == ("mmap", 0, None, 8, 3, "anywhere")
    run = scenario.run()
    assert [result.value for result in run] == [None, 24, 4]
    assert [(view.start, view.end) for view in run[-1].snapshot.processes[0].mappings] == [(9, 11), (29, 37)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mmap 0 - 8 3 fixed", "go together"),
        ("mmap 0 4 8 3 anywhere", "go together"),
        ("mmap 0 30 8 3 fixed", "page 37 is outside"),
        ("mmap 0 0 8 2 fixed", "prot 2"),
        ("mmap 0 0 8 3 there", "no how 'there'"),
        ("mmap 0 x 8 3 fixed", "is 'x', not a number"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_no_scenario(line: str, words: str) -> None:
    with pytest.raises(af.ScenarioError, match=words):
        af.Scenario.parse(f"pages 32\n{line}\n")


def test_many_mappings_break_no_invariant() -> None:
    for seed in range(12):
        machine = random_scenario(seed, "mappings").end(frames=1 << 14)
        assert check(machine) == []


def test_what_is_mapped_with_noreserve_is_never_charged_and_merges_whatever_access_it_had() -> None:
    process = arena()
    process.map(0, 10, reserve=False)
    assert vma_at(process, 0).flags & VM_UNACCOUNTED
    process.mprotect(0, 5, 1)
    process.mprotect(0, 5, 3)
    assert layout(process) == [(0, 10)]
    assert not process.may_fork_fail_at(0)
    # It merges with none that is charged.
    process.map(10, 2)
    assert layout(process) == [(0, 10), (10, 12)]
    # Written first and then made read-only, or the other way round: both are never charged.
    process.mprotect(0, 5, 1)
    process.write(5)
    process.mprotect(5, 5, 1)
    assert layout(process)[0] == (0, 10)


# --- mremap with other sizes, and without unmapping ------------------------------------------------------------------


def test_a_mapping_grows_where_it_is_and_joins_what_follows() -> None:
    process = arena()
    process.map(0, 8)
    process.map(12, 8)
    process.write(12, 5)
    assert process.remap(0, 8, 12, may_move=False) == 0
    assert layout(process) == [(0, 20)]
    assert vma_at(process, 0).anon_vma
    assert process.read(12) == 5


def test_the_end_of_a_mapping_grows_too_and_what_grows_keeps_its_flags() -> None:
    process = arena()
    process.map(0, 8, 1)
    assert process.remap(4, 4, 8, may_move=False) == 4
    assert layout(process) == [(0, 12)]
    assert not vma_at(process, 11).flags & VM_WRITE


def test_a_fork_child_s_mapping_grows_into_an_untouched_one() -> None:
    """Nobody asks for its ancestors then (`vma_merge_extend`, 6.16 and later; 6.18.44, running)."""
    for version, mappings in (("6.12", [(0, 16), (16, 20)]), ("6.16", [(0, 20)]), ("7.3", [(0, 20)])):
        process = arena(policy=af.Policy.at(version))
        process.map(0, 8)
        process.write(0)
        child = process.fork()
        child.map(16, 4)
        assert child.remap(0, 8, 16) == 0
        assert layout(child) == mappings


def test_what_cannot_grow_where_it_is_moves_or_is_refused() -> None:
    process = arena()
    process.map(0, 8)
    process.map(10, 8, 1)
    process.write(2, 7)
    refused = process.remap(0, 8, 12, may_move=False)
    assert isinstance(refused, af.Outcome)
    assert refused.errno == "ENOMEM"
    assert process.remap(0, 8, 12) == 52
    assert layout(process) == [(10, 18), (52, 64)]
    assert process.read(54) == 7
    assert vma_at(process, 52).pgoff == 0
    # The middle of a mapping cannot grow where it is.
    assert process.remap(53, 4, 5) == 47
    assert layout(process) == [(10, 18), (47, 52), (52, 53), (57, 64)]
    with pytest.raises(ValueError, match="pages=-1"):
        process.remap(10, -1, 4)
    full = process.remap(10, 8, 60)
    assert isinstance(full, af.Outcome)
    assert full.errno == "ENOMEM"


def test_shrinking_unmaps_the_end_holes_or_not() -> None:
    process = arena()
    process.map(0, 16)
    process.write(0)
    process.map(20, 4)
    assert process.remap(0, 24, 4, may_move=False) == 0
    assert layout(process) == [(0, 4)]
    assert process.remap(0, 4, 4, may_move=False) == 0
    assert process.remap(0, 4, 2, 30) == 30
    assert layout(process) == [(30, 32)]
    assert not check(process.machine)


def test_a_place_and_another_size() -> None:
    process = arena()
    process.map(0, 8)
    process.map(32, 16, 1)
    process.write(0, 9)
    assert process.remap(0, 8, 12, 36) == 36
    assert layout(process) == [(32, 36), (36, 48)]
    assert process.read(36) == 9


@pytest.mark.parametrize(
    ("version", "arguments", "keywords", "errno", "target_stays"),
    [
        ("6.1", (4, 4, 0), {}, "EINVAL", True),
        ("6.18", (4, 0, 4), {}, "EINVAL", True),
        ("6.18", (4, 0, 4, 32), {}, "EINVAL", True),
        ("6.1", (4, 0, 4, 32), {}, "EINVAL", False),
        ("6.18", (4, 8, 12), {}, "EFAULT", True),
        ("6.18", (4, 8, 12, 32), {}, "EFAULT", True),
        ("6.1", (4, 8, 12, 32), {}, "EFAULT", False),
        ("6.18", (12, 1, 4), {}, "EFAULT", True),
        ("6.18", (4, 4, 6, 3), {}, "EINVAL", True),
        ("6.18", (12, 1, 4, 14), {}, "EFAULT", True),
        ("6.18", (12, 4, 6, 14), {}, "EINVAL", True),
        ("6.1", (12, 4, 6, 14), {}, "EFAULT", True),
        ("6.18", (4, 4, 4, 32), {"may_move": False}, "EINVAL", True),
        ("6.18", (4, 2, 4), {"keep": True}, "EINVAL", True),
        ("6.18", (4, 8, 8), {"keep": True}, "EFAULT", True),
    ],
)
def test_what_mremap_refuses_and_what_was_done_by_then(
    version: str, arguments: tuple[int, ...], keywords: dict[str, bool], errno: str, *, target_stays: bool
) -> None:
    """Before 6.17 a place is unmapped before anybody looks at the source."""
    process = arena(policy=af.Policy.at(version))
    process.map(0, 8)
    process.map(32, 16)
    process.write(4)
    before = freeze(process.mm)
    answer = process.remap(*arguments, **keywords)
    assert isinstance(answer, af.Outcome)
    assert answer.errno == errno
    assert (freeze(process.mm) == before) == target_stays


def test_what_is_kept_stays_empty_and_as_if_never_written() -> None:
    process = arena()
    process.map(0, 8)
    process.write(0, 7)
    assert process.remap(0, 8, 8, keep=True) == 56
    assert layout(process) == [(0, 8), (56, 64)]
    assert (process.read(56), process.read(0)) == (7, 0)
    assert vma_at(process, 56).anon_vma
    assert not vma_at(process, 0).anon_vma
    assert not process.fork().mm.pte[:8].any()


def test_a_part_that_is_kept_leaves_the_mapping_whole() -> None:
    process = arena()
    process.map(0, 8)
    process.write(0, 7)
    process.write(7, 8)
    assert process.remap(0, 4, 4, keep=True) == 60
    assert layout(process) == [(0, 8), (60, 64)]
    assert vma_at(process, 0).anon_vma == vma_at(process, 60).anon_vma != 0
    assert [process.read(page) for page in (0, 7, 60)] == [0, 8, 7]


@pytest.mark.parametrize(
    ("joins", "mappings"),
    [
        ("itself", [(8, 32)]),
        ("others", [(8, 16), (16, 32)]),
        ("nothing", [(8, 16), (16, 24), (24, 32)]),
    ],
)
def test_what_a_mapping_joins_that_is_kept_beside_itself(joins: str, mappings: list[tuple[int, int]]) -> None:
    process = arena(policy=af.LINUX_6_15.but(name="kept", dontunmap_joins=joins))
    process.map(24, 8)
    process.write(24)
    process.map(8, 8)
    assert process.remap(8, 8, 8, 16, keep=True) == 16
    assert layout(process) == mappings


def test_the_offset_of_what_is_kept_starts_again() -> None:
    for joins, pgoff in (("itself", 40), ("others", 0), ("nothing", 0)):
        process = arena(policy=af.LINUX_6_15.but(name="kept", dontunmap_joins=joins))
        process.map(40, 8)
        process.write(40)
        process.mremap(40, 8, 0)
        process.remap(0, 8, 8, 20, keep=True)
        assert vma_at(process, 0).pgoff == pgoff


@pytest.mark.parametrize(
    ("version", "locked"),
    [
        ("7.2.10", []),
        ("7.2.11", [(0, 4), (8, 16), (60, 64)]),
        ("6.12.113", []),
        ("6.12.114", [(0, 4), (8, 16), (60, 64)]),
    ],
)
def test_a_locked_mapping_is_cut_around_what_is_kept(version: str, locked: list[tuple[int, int]]) -> None:
    """Before, all of it loses its lock (`move_vma`, 7.3); what moved stays locked."""
    process = arena(policy=af.Policy.at(version))
    process.map(0, 16)
    process.mlock(0, 16)
    assert process.remap(4, 4, 4, keep=True) == 60
    assert [(vma.start, vma.end) for vma in process.mm.vmas if vma.flags & VM_LOCKED] == (locked or [(60, 64)])
    assert vma_at(process, 4).anon_vma == (0 if locked else vma_at(process, 0).anon_vma)


@pytest.mark.parametrize(("version", "mappings"), [("6.14", 2), ("6.15", 3), ("6.17.5", 3), ("6.17.6", 2), ("7.3", 2)])
def test_what_is_kept_is_uncharged_by_mistake_and_then_merges_with_no_neighbour(version: str, mappings: int) -> None:
    """Recorded on 6.16.12 (`dontunmap_complete`)."""
    process = arena(policy=af.Policy.at(version))
    process.map(0, 8)
    process.write(0, 7)
    assert process.remap(0, 8, 8, keep=True) == 56
    process.map(8, 8)
    assert len(process.mm.vmas) == mappings


def test_a_huge_mapping_that_is_kept_moves_whole() -> None:
    process = arena(2048)
    process.map(0, 512)
    process.write(0, 7)
    assert process.remap(0, 512, 512, keep=True) == 1536
    assert process.mm.is_huge(1536)
    assert not process.mm.is_huge(0)
    assert process.write(5).code == "alloc9"
    assert not check(process.machine)


def test_many_mappings_are_kept_at_once_from_6_17_on() -> None:
    for version, errno in (("6.12", "EFAULT"), ("6.17", "")):
        process = arena(policy=af.Policy.at(version))
        process.map(0, 4)
        process.map(4, 4, 1)
        process.write(0, 7)
        answer = process.remap(0, 8, 8, 32, keep=True)
        assert (answer.errno if isinstance(answer, af.Outcome) else "") == errno
        if not errno:
            assert layout(process) == [(0, 4), (4, 8), (32, 36), (36, 40)]
            assert process.read(32) == 7


# --- the heap and stacks ---------------------------------------------------------------------------------------------


def test_a_heap_grows_as_one_mapping_and_shrinks() -> None:
    process = arena(start=100)
    for end in (101, 104, 137):
        assert process.brk(end)
        assert layout(process) == [(100, end)]
    process.write(110)
    assert process.brk(105)
    assert layout(process) == [(100, 105)]
    assert process.brk(100)
    assert layout(process) == []
    assert process.rss_pages == 0
    assert not process.brk(99)


def test_what_is_in_the_way_of_a_heap_keeps_a_page_between() -> None:
    process = arena()
    process.map(8, 4)
    assert process.brk(7)
    assert process.brk(8).errno == "ENOMEM"
    assert layout(process) == [(0, 7), (8, 12)]
    process.munmap(0, 7)
    assert process.brk(3).errno == "ENOMEM"
    process.munmap(8, 4)
    assert process.brk(9)
    assert layout(process) == [(7, 9)]


def test_a_heap_joins_no_mapping_below_it_and_none_of_other_flags() -> None:
    process = arena(start=8)
    process.map(4, 4)
    assert process.brk(12)
    assert layout(process) == [(4, 8), (8, 12)]
    process.mprotect(10, 2, 1)
    assert process.brk(16)
    assert layout(process) == [(4, 8), (8, 10), (10, 12), (12, 16)]


def test_a_child_s_heap_goes_on_where_its_parent_s_was() -> None:
    process = arena()
    process.brk(8)
    process.write(0)
    child = process.fork()
    assert child.brk(12)
    assert layout(child) == [(0, 8), (8, 12)]
    assert process.brk(12)
    assert layout(process) == [(0, 12)]


@pytest.mark.parametrize(("step", "orders"), [(1, {0: 66}), (33, {4: 3, 0: 18})])
def test_the_folios_of_a_heap_hang_on_how_it_grows(step: int, orders: dict[int, int]) -> None:
    """Page by page it gets single pages, by 33 pages folios of 16, where its end was not before (6.18.44, running)."""
    process = af.Machine(orders=(4,)).spawn(range(200))
    for end in range(step, 67, step):
        process.brk(end)
        for page in range(end - step, end):
            process.write(page)
    assert dict(process.machine.counters.anon_fault_alloc) == orders


def test_a_stack_grows_to_where_it_is_accessed_but_not_near_a_mapping() -> None:
    process = arena(1000)
    process.map(600, 4, grows_down=True)
    assert process.write(590).code == "alloc0"
    assert layout(process) == [(590, 604)]
    assert vma_at(process, 590).pgoff == 590
    process.map(100, 4)
    for page in (359, 200):
        with pytest.raises(af.SegmentationFault, match="no mapping"):
            process.read(page)
    assert process.read(360) == 0
    # What cannot be accessed, or is a stack itself, may be as near as it is.
    process.mprotect(100, 4, 0)
    assert process.read(104) == 0
    assert layout(process) == [(100, 104), (104, 604)]
    with pytest.raises(af.SegmentationFault):
        process.read(700)


def test_a_stack_takes_an_anon_vma_when_it_grows_and_a_pin_lets_none_grow() -> None:
    process = arena(1000)
    process.map(600, 4, grows_down=True)
    assert not process.pin(599)
    assert process.gup(599) is None
    assert not vma_at(process, 600).anon_vma
    process.read(599)
    assert vma_at(process, 599).anon_vma


def test_nothing_is_placed_near_below_a_stack() -> None:
    process = arena(1000)
    process.map(600, 4, grows_down=True)
    process.map(604, 396)
    assert process.map(None, 100) == 244
    assert process.map(None, 500) == af.Outcome(False, "ENOMEM", "no gap of the arena holds 500 pages")
    # Where a gap below it would not do anyway, the stack is as any mapping.
    process.map(300, 300, 0)
    process.munmap(244, 100)
    assert process.map(None, 120) == 224
    assert process.brk(224).errno == "ENOMEM"


def test_a_heap_grows_no_nearer_to_a_stack_than_its_gap() -> None:
    process = arena(1000)
    process.map(600, 4, grows_down=True)
    assert process.brk(344).errno == "ENOMEM"
    assert process.brk(343)


# --- a page and a mapping as values ----------------------------------------------------------------------------------


def test_a_page_says_what_it_maps() -> None:
    process = arena(1600)
    process.map(0, 16)
    process.write(3)
    process.map(400, 104)
    process.read(500)
    page = process.page(3)
    assert (page.vpn, page.order, page.present, page.huge, page.writable, page.exclusive) == (
        3,
        4,
        True,
        False,
        True,
        True,
    )
    assert page.head is not None
    assert page.frame == page.head + 3
    assert page.folio == process.page(0).folio
    assert (page.dirty, page.accessed) == (True, True)
    child = process.fork()
    assert not process.page(3).exclusive
    assert not process.page(3).writable
    assert child.page(3).frame == page.frame
    assert not child.page(3).accessed
    zero = process.page(500)
    assert (zero.zero, zero.present, zero.frame, zero.folio, zero.head, zero.order) == (
        True,
        True,
        None,
        None,
        None,
        None,
    )
    none = process.page(501)
    assert (none.zero, none.present, none.frame, none.writable) == (False, False, None, False)
    process.map(512, 512)
    process.write(600)
    assert process.page(700).huge
    assert process.page(700).exclusive
    assert process.page(700).head == process.page(512).frame


def test_a_mapping_says_where_it_came_from() -> None:
    process = arena()
    process.map(0, 8)
    assert process.mapping(7).anon_vma is None
    process.write(0)
    process.map(32, 4, 0)
    process.madvise(0, 8, "wipeonfork")
    process.madvise(0, 8, "keeponfork")
    process.mremap(0, 8, 16)
    child = process.fork()
    mine, nothing = process.mappings()
    theirs = child.mapping(16)
    assert (mine.start, mine.end, mine.page_offset, len(mine)) == (16, 24, 0, 8)
    assert (mine.flags, nothing.flags) == (("readable", "writable"), ("uncharged",))
    assert (mine.ancestors, theirs.ancestors) == (0, 1)
    assert mine.anon_vma
    assert theirs.anon_vma not in (None, mine.anon_vma)
    assert process.page(20).mapping == mine


def test_what_is_in_no_mapping_is_said_in_one_line() -> None:
    process = arena()
    with pytest.raises(ValueError, match=r"^page 3 is in no mapping of process 0; it has none$"):
        process.page(3)
    process.map(4, 4)
    with pytest.raises(ValueError, match=r"^page 9 is in no mapping of process 0; it has 4\.\.7$"):
        process.mapping(9)
    with pytest.raises(ValueError, match="not a whole number"):
        process.page("x")  # type: ignore[arg-type]


def test_every_flag_has_a_word() -> None:
    from anonfolio.kernel import vma
    from anonfolio.machine.page import FLAG_WORDS

    named = {value for name, value in vars(vma).items() if name.startswith("VM_") and value & (value - 1) == 0}
    assert named == set(FLAG_WORDS)
