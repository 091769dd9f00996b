"""MADV_FREE and MADV_COLD: which folios become old, clean and lazily freed, and which are split for it."""

from __future__ import annotations

import numpy as np
import pytest

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_HUGE, PMD_TABLE, PTE_DIRTY, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from anonfolio.machine.invariants import check
from anonfolio.machine.machine import Process

AGE = PTE_YOUNG | PTE_DIRTY


def started(policy: af.Policy | str = "7.3", orders: tuple[int, ...] = (4,), pages: int = 16) -> Process:
    process = af.Machine(policy, orders=orders, frames=1 << 12).spawn()
    process.mmap(pages, at=0)
    return process


def filled(process: Process, pages: int = 16) -> Process:
    for page in range(pages):
        process.write(page, page + 1)
    return process


def folio_of(process: Process, page: int) -> int:
    return int(process.mm.memory.folio_of[process.mm.pfn[page]])


def ages(process: Process) -> list[int]:
    return (process.mm.pte & AGE).tolist()


def test_a_folio_that_lies_in_the_range_stays_whole_and_keeps_its_bytes() -> None:
    process = filled(started())
    folio = folio_of(process, 0)
    assert process.madvise(0, 16, "free")
    memory = process.mm.memory
    assert folio_of(process, 15) == folio
    assert memory.lazyfree[folio]
    assert ages(process)[:16] == [0] * 16
    assert [process.read(page) for page in range(16)] == list(range(1, 17))
    # What is written is needed again: dirty, without a fault, but still on the list.
    assert not process.write(3, 9)
    assert ages(process)[3] == AGE
    assert memory.lazyfree[folio]
    assert "freed lazily" in str(process.machine.show())


def test_a_part_of_a_folio_is_split_off_and_the_rest_is_what_it_was() -> None:
    process = filled(started())
    process.madvise(4, 4, "free")
    memory = process.mm.memory
    assert [memory.order[folio_of(process, page)] for page in range(16)] == [0] * 16
    assert [bool(memory.lazyfree[folio_of(process, page)]) for page in range(16)] == [4 <= at < 8 for at in range(16)]
    assert ages(process)[:16] == [0 if 4 <= at < 8 else AGE for at in range(16)]
    # Writable and exclusive, as they were; the split took the dirty bit over, and MADV_FREE from its pages alone.
    assert (process.mm.pte[:16] & PTE_WRITE).all()
    assert memory.anon_exclusive[process.mm.pfn[:16]].all()
    assert [bool(memory.dirty[folio_of(process, page)]) for page in (0, 5)] == [True, False]
    assert check(process.machine) == []


@pytest.mark.parametrize(("release", "zeros", "rss"), [("6.11", 0, 16), ("6.12", 14, 2), ("7.3", 14, 2)])
def test_a_split_gives_back_pages_that_hold_zeros(release: str, zeros: int, rss: int) -> None:
    process = started(release)
    process.write(0, 1)
    process.write(9, 2)
    held = process.mm.memory.held_pages()
    process.madvise(0, 1, "free")
    assert np.count_nonzero(process.mm.pte & PTE_SPECIAL) == zeros
    assert process.rss_pages == rss
    assert held - process.mm.memory.held_pages() == zeros
    assert [process.read(0), process.read(9), process.read(5)] == [1, 2, 0]
    assert check(process.machine) == []


def test_an_unmapped_page_of_a_split_folio_is_free_again() -> None:
    process = filled(started())
    process.munmap(12, 4)
    assert process.mm.memory.held_pages() == 16
    process.madvise(0, 1, "free")
    assert process.mm.memory.held_pages() == 12
    assert check(process.machine) == []


@pytest.mark.parametrize(
    ("release", "splits", "old"),
    [("6.9", True, [0] * 16), ("6.10", False, [0] * 16), ("7.3", False, [0] * 16)],
)
def test_before_6_11_each_folio_was_split(release: str, splits: bool, old: list[int]) -> None:
    process = filled(started(release))
    process.madvise(0, 16, "free")
    assert (process.mm.memory.order[folio_of(process, 0)] == 0) == splits
    assert ages(process)[:16] == old


@pytest.mark.parametrize(
    ("release", "split"),
    # Before 6.10 and 6.15 only the first page is asked: others map the rest, and it is split all the same.
    [("6.9", True), ("6.12", True), ("7.3", False)],
)
def test_whether_others_map_a_folio_is_guessed_from_its_first_page(release: str, split: bool) -> None:
    parent = filled(started(release))
    child = parent.fork()
    child.munmap(0, 8)
    parent.munmap(8, 8)
    parent.madvise(0, 2, "free")
    assert (parent.mm.memory.order[folio_of(parent, 0)] == 0) == split
    assert (folio_of(parent, 0) != folio_of(child, 8)) == split
    assert child.read(8) == 9
    assert check(parent.machine) == []


def test_more_mappings_than_pages_are_never_one_owner_s() -> None:
    """6.12 looks at the first page only where the count alone does not say."""
    parent = filled(started("6.12"))
    parent.fork().munmap(0, 8)
    parent.madvise(0, 2, "free")
    assert parent.mm.memory.order[folio_of(parent, 0)] == 4


def test_2_mib_of_one_process_grow_cold_in_every_release() -> None:
    for release in ("6.9", "6.12", "7.3"):
        process = started(release, (9,), 512)
        process.write(0, 1)
        process.madvise(0, 512, "cold")
        assert process.mm.pmd[0] == PMD_HUGE
        assert ages(process) == [PTE_DIRTY] * 512


def test_before_6_11_a_folio_that_others_map_ends_the_work_on_its_page_table() -> None:
    def old_pages(release: str) -> list[int]:
        parent = filled(started(release, (2,), 8), 8)
        child = parent.fork()
        child.munmap(4, 4)
        parent.madvise(0, 8, "free")
        return [page for page in range(8) if not ages(parent)[page]]

    assert old_pages("6.9") == []
    assert old_pages("6.12") == list(range(8))


def test_a_folio_that_is_marked_dirty_is_taken_only_from_its_one_owner() -> None:
    """Two processes map the page; the flag comes from a split, and keeps a page with two owners as it is."""
    for marked in (False, True):
        parent = started(orders=() if not marked else (9,), pages=512)
        parent.write(0, 1)
        if marked:
            parent.munmap(511, 1)
            # What was a PMD's dirty bit is the folio's flag now; split, so that its pages are on their own.
            parent.madvise(1, 1, "free")
        parent.fork()
        parent.madvise(0, 1, "free")
        assert ages(parent)[0] == (AGE if marked else 0)
        assert bool(parent.mm.memory.lazyfree[folio_of(parent, 0)]) == (not marked)


def test_a_reference_keeps_a_folio_whole() -> None:
    for hold in ("ref", "pin"):
        process = filled(started())
        getattr(process, hold)(2)
        assert process.madvise(0, 1, "free")
        assert process.mm.memory.order[folio_of(process, 0)] == 4
        assert ages(process)[:16] == [AGE] * 16


def test_two_mebibytes_are_freed_as_one_or_split() -> None:
    process = started(orders=(9,), pages=512)
    for page in range(512):
        process.write(page, 1)
    process.madvise(0, 512, "free")
    folio = folio_of(process, 0)
    assert process.mm.pmd[0] == PMD_HUGE
    assert process.mm.memory.lazyfree[folio]
    assert not np.any(process.mm.pte & AGE)
    process.write(1, 2)
    process.madvise(0, 2, "free")
    assert process.mm.pmd[0] == PMD_TABLE
    assert ages(process) == [0, 0, *[AGE] * 510]
    child = process.fork()
    child.write(5)
    assert check(process.machine) == []


def test_two_mebibytes_that_another_process_maps_are_left_alone() -> None:
    for pages in (512, 3):
        process = started(orders=(9,), pages=512)
        process.write(0, 1)
        process.fork()
        process.madvise(0, pages, "free")
        assert process.mm.pmd[0] == PMD_HUGE
        assert ages(process) == [AGE] * 512


def test_the_huge_zero_page_is_nobodys_to_free() -> None:
    process = started(orders=(9,), pages=512)
    process.read(0)
    assert process.madvise(0, 4, "free")
    assert process.mm.pmd[0] == PMD_HUGE


def test_cold_pages_stay_dirty_and_no_folio_is_given_up() -> None:
    process = filled(started())
    process.madvise(0, 16, "cold")
    assert ages(process)[:16] == [PTE_DIRTY] * 16
    assert not process.mm.memory.lazyfree.any()
    process.fork()
    process.read(0)
    # Mapped twice: of no one's business alone.
    process.madvise(0, 16, "cold")
    assert ages(process)[0] == AGE


def test_a_hole_is_told_after_the_rest_was_done() -> None:
    process = filled(started())
    process.munmap(4, 4)
    outcome = process.madvise(0, 16, "free")
    assert outcome.errno == "ENOMEM"
    assert not any(ages(process)[:4] + ages(process)[8:16])


def test_a_split_of_what_several_processes_map_keeps_their_shares() -> None:
    """6.9 guesses wrong: the folio is split under all, and what each maps stays where it was."""
    parent = filled(started("6.9"))
    child = parent.fork()
    child.munmap(0, 1)
    grandchild = child.fork()
    grandchild.mremap(4, 4, 0)
    before = child.mm.pfn[1:16].tolist()
    parent.madvise(0, 2, "free")
    assert [int(parent.mm.memory.order[folio_of(child, page)]) for page in range(1, 16)] == [0] * 15
    assert child.mm.pfn[1:16].tolist() == before
    assert [grandchild.read(page) for page in range(4)] == [5, 6, 7, 8]
    assert [int(parent.mm.memory.mapcount[parent.mm.pfn[page]]) for page in (0, 1, 4)] == [1, 2, 3]
    assert check(parent.machine) == []


def test_a_pin_for_writing_marks_a_clean_page_dirty_when_it_walks_under_the_lock() -> None:
    """The first page faults, so that the rest is walked; a pin that finds all there sets nothing (FOLL_TOUCH)."""
    for missing, dirty in ((True, True), (False, False)):
        process = filled(started(orders=()), 4)
        process.madvise(0, 4, "free")
        if missing:
            process.madvise(0, 1, "dontneed")
        process.pin(0, 4)
        assert bool(process.mm.memory.dirty[folio_of(process, 2)]) == dirty


def test_a_copied_machine_finds_its_own_processes() -> None:
    process = filled(started())
    twin = process.machine.copy()
    twin.process(0).madvise(0, 1, "free")
    assert process.mm.memory.order[folio_of(process, 0)] == 4
    assert check(twin) == []
    assert check(process.machine) == []
    assert len(twin.memory.mms) == 1
