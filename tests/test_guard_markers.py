"""Guard pages (MADV_GUARD_INSTALL, 6.13): nothing is mapped, and yet something is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_NONE, PMD_TABLE, PTE_GUARD
from anonfolio.kernel.vma import VM_MAYBE_GUARD
from anonfolio.machine.invariants import check
from anonfolio.machine.machine import Process, SegmentationFault


def started(policy: af.Policy | str = "7.3", orders: tuple[int, ...] = (4,), pages: int = 16) -> Process:
    process = af.Machine(policy, orders=orders, frames=1 << 12).spawn()
    process.mmap(pages, at=0)
    return process


def guards(process: Process) -> list[int]:
    return np.flatnonzero(process.mm.pte & PTE_GUARD).tolist()


def test_whoever_touches_a_guard_page_dies_and_nothing_comes_of_it() -> None:
    process = started()
    process.write(4, 1)
    held = process.mm.memory.held_pages()
    assert process.madvise(4, 2, "guard_install")
    assert guards(process) == [4, 5]
    for access, code in (("read", 4), ("write", 6)):
        with pytest.raises(SegmentationFault, match=f"process 0 {access}s page 5: a guard marker is there") as caught:
            getattr(process, access)(5)
        fault = caught.value.fault
        assert (fault.code, fault.error_code) == ("sigsegv", code)
        assert fault.decided_by is not None
        assert fault.decided_by.what == "softleaf_is_guard_marker"
    assert not process.pin(3, 2)
    assert process.gup(4) is None
    assert not process.ref(5)
    # What was mapped is dropped, but its folio still has other pages.
    assert process.mm.memory.held_pages() == held
    assert process.rss_pages == 14
    assert check(process.machine) == []


def test_a_new_folio_keeps_away_from_guard_pages() -> None:
    """They are not none: no block that has one is taken (`pte_range_none`)."""
    process = started(orders=(2, 3, 4))
    process.madvise(6, 1, "guard_install")
    assert [process.write(page).code for page in (0, 4, 8)] == ["alloc2", "alloc0", "alloc3"]
    process.madvise(6, 1, "guard_remove")
    assert process.write(6).code == "alloc0"


def test_2_mib_are_not_mapped_at_once_where_markers_were() -> None:
    process = started(orders=(9,), pages=512)
    process.madvise(3, 1, "guard_install")
    process.madvise(0, 512, "guard_remove")
    assert process.mm.pmd[0] == PMD_TABLE
    assert process.write(0).code == "alloc0"


@pytest.mark.parametrize("reads", [True, False])
def test_a_guard_page_in_a_huge_mapping_splits_it(reads: bool) -> None:
    process = started(orders=(9,), pages=512)
    process.read(5) if reads else process.write(5, 1)
    process.madvise(5, 1, "guard_install")
    assert process.mm.pmd[0] == PMD_TABLE
    assert guards(process) == [5]
    assert process.read(6) == 0
    process.madvise(0, 512, "guard_install")
    assert process.rss_pages == 0
    assert process.mm.memory.held_pages() == 0
    assert check(process.machine) == []


def test_markers_stay_when_pages_are_dropped_and_go_with_the_mapping() -> None:
    process = started(pages=1024)
    process.madvise(5, 2, "guard_install")
    process.madvise(600, 1, "guard_install")
    process.madvise(600, 1, "guard_remove")
    process.madvise(0, 1024, "dontneed")
    assert guards(process) == [5, 6]
    # A page table that holds a marker stays, the other one goes (PT_RECLAIM).
    assert process.mm.pmd[:2].tolist() == [PMD_TABLE, PMD_NONE]
    process.madvise(0, 16, "free")
    process.mprotect(0, 16, 1)
    assert guards(process) == [5, 6]
    process.munmap(0, 6)
    assert guards(process) == [6]


def test_many_pages_at_once_keep_their_markers_too() -> None:
    process = started(orders=(), pages=512)
    process.touch(range(512))
    process.madvise(100, 3, "guard_install")
    process.madvise(0, 300, "dontneed")
    assert guards(process) == [100, 101, 102]
    process.fork()
    assert guards(process.machine.process(1)) == [100, 101, 102]


def test_fork_copies_markers_and_mremap_moves_them() -> None:
    process = started()
    # Nothing but a marker: it needs an anon_vma, or fork would not look.
    process.madvise(2, 1, "guard_install")
    child = process.fork()
    assert guards(child) == [2]
    child.mremap(0, 4, 8)
    assert guards(child) == [10]
    with pytest.raises(SegmentationFault):
        child.write(10)
    process.madvise(0, 8, "wipeonfork")
    assert guards(process.fork()) == []


def left_by_a_move(policy: str) -> Process:
    """Guarded once, then all of it moved away and the mapping kept: no anon_vma is left, a read maps the zero page."""
    process = started(policy, orders=(), pages=32)
    process.madvise(2, 1, "guard_install")
    process.madvise(2, 1, "guard_remove")
    process.munmap(16, 16)
    process.remap(0, 16, 16, 16, keep=True)
    process.read(3)
    return process


@pytest.mark.parametrize(("policy", "copied"), [("6.18.36", []), ("6.18.37", [3]), ("6.19", [3]), ("7.3", [3])])
def test_fork_copies_what_was_guarded_once_though_there_is_no_anon_vma(policy: str, copied: list[int]) -> None:
    """`vma_needs_copy` asks VM_COPY_ON_FORK first; VM_MAYBE_GUARD stays when the guard pages go."""
    process = left_by_a_move(policy)
    child = process.fork()
    assert np.flatnonzero(child.mm.pte[:16]).tolist() == copied
    assert [vma.anon_vma for vma in child.mm.vmas if vma.start == 0] == [0]
    assert check(process.machine) == []


def test_what_joins_a_guarded_mapping_is_guarded_too() -> None:
    """VM_STICKY: it keeps no mappings apart, and whoever stays of those that join has it, new ones and moved ones."""
    process = started(orders=(), pages=16)
    process.mprotect(8, 8, 1)
    process.madvise(2, 1, "guard_install")
    assert [bool(vma.flags & VM_MAYBE_GUARD) for vma in process.mm.vmas] == [True, False]
    process.mprotect(8, 8, 3)
    assert [(vma.start, vma.end, bool(vma.flags & VM_MAYBE_GUARD)) for vma in process.mm.vmas] == [(0, 16, True)]
    process.mprotect(0, 8, 1)
    assert [bool(vma.flags & VM_MAYBE_GUARD) for vma in process.mm.vmas] == [True, True]
    process.munmap(8, 8)
    process.mmap(8, at=8)
    process.mprotect(0, 8, 3)
    assert [(vma.start, vma.end, bool(vma.flags & VM_MAYBE_GUARD)) for vma in process.mm.vmas] == [(0, 16, True)]


def test_a_kernel_before_6_13_knows_no_guard_pages() -> None:
    process = started("6.12")
    process.write(0, 1)
    for advice in ("guard_install", "guard_remove"):
        outcome = process.madvise(0, 4, advice)
        assert (outcome.errno, process.read(0)) == ("EINVAL", 1)
    assert started("6.13").madvise(0, 4, "guard_install")


def test_a_hole_among_what_is_guarded_is_told_at_the_end() -> None:
    process = started()
    process.munmap(4, 4)
    assert process.madvise(0, 16, "guard_install").errno == "ENOMEM"
    assert guards(process) == [0, 1, 2, 3, *range(8, 16)]


def test_a_stream_is_refused_at_the_guard_page_and_steps_around_it_otherwise() -> None:
    for pages in (64, 1024):
        one, many = started(orders=(2, 4), pages=pages), started(orders=(2, 4), pages=pages)
        for process in (one, many):
            process.madvise(20, 1, "guard_install")
            process.madvise(37, 2, "guard_install")
        with pytest.raises(SegmentationFault, match="access 20 of the stream"):
            many.touch(range(pages))
        accesses = np.array([page for page in range(pages) if page not in (20, 37, 38)])
        many.touch(accesses, value=7)
        for page in accesses.tolist():
            one.write(page, 7)
        assert np.array_equal(one.mm.pte, many.mm.pte)
        assert one.machine.counters.anon_fault_alloc == many.machine.counters.anon_fault_alloc
        assert check(many.machine) == []


def test_a_guard_page_is_seen(tmp_path: Path) -> None:
    process = started()
    process.madvise(1, 1, "guard_install")
    assert "!" in str(process.machine.show())
    timeline = af.Scenario(4, (("madvise", 0, 1, 1, "guard_install"), ("write", 0, 1, 1)), (2,)).run()
    assert not timeline[1].ok
    path = tmp_path / "guard.json.gz"
    af.write_recording(path, "7.3", [timeline])
    (program,) = af.read_recording(path).programs
    assert program.steps[0]["view"]["0"] == [0, "g", 0, 0]
    assert program.replay(af.Policy.at("7.3")) == []
    assert program.replay(af.Policy.at("6.12"))
