"""MADV_COLLAPSE: 2 MiB in place of what a page table maps, or one errno that says why not."""

from __future__ import annotations

import numpy as np
import pytest

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_HUGE, PMD_TABLE, PTE_DIRTY, PTE_WRITE, PTE_YOUNG
from anonfolio.machine.invariants import check
from anonfolio.machine.machine import Process


def started(policy: af.Policy | str = "7.3", pages: int = 512, frames: int = 1 << 13) -> Process:
    process = af.Machine(policy, orders=(4,), frames=frames).spawn()
    process.mmap(pages, at=0)
    return process


def test_what_was_there_is_copied_the_rest_is_zeros_and_all_is_the_process_s_own() -> None:
    process = started()
    process.write(3, 7)
    process.read(100)
    process.write(200, 9)
    assert process.madvise(0, 512, "collapse")
    memory = process.mm.memory
    assert process.mm.pmd[0] == PMD_HUGE
    assert (process.mm.pte == PTE_WRITE | PTE_DIRTY | PTE_YOUNG | 1).all()
    assert process.rss_pages == memory.held_pages() == 512
    assert [process.read(page) for page in (3, 100, 200, 400)] == [7, 0, 9, 0]
    assert not process.write(400, 1)
    assert check(process.machine) == []


def test_a_shared_page_is_copied_and_stays_with_the_other_process() -> None:
    parent = started()
    parent.write(3, 7)
    child = parent.fork()
    assert child.madvise(0, 512, "collapse")
    assert parent.mm.pmd[0] == PMD_TABLE
    child.write(3, 8)
    assert (parent.read(3), child.read(3)) == (7, 8)
    # The parent's folio has one owner again.
    assert parent.write(3, 1).code == "reuse1"
    assert check(parent.machine) == []


def test_what_a_pmd_maps_is_fine_as_it_is() -> None:
    process = af.Machine("7.3", orders=(9,), frames=1 << 13).spawn()
    process.mmap(512, at=0)
    process.read(0)
    assert process.madvise(0, 512, "collapse")
    assert process.rss_pages == 0


@pytest.mark.parametrize(("hold", "let_go"), [("pin", "unpin"), ("ref", "unref")])
def test_a_reference_is_in_the_way_for_as_long_as_it_is_held(hold: str, let_go: str) -> None:
    process = started(pages=1024)
    process.write(3, 7)
    process.write(600, 7)
    getattr(process, hold)(3)
    assert process.madvise(0, 1024, "collapse").errno == "EAGAIN"
    # The other 2 MiB are done all the same.
    assert process.mm.pmd[:2].tolist() == [PMD_TABLE, PMD_HUGE]
    getattr(process, let_go)()
    assert process.madvise(0, 1024, "collapse")


def test_a_mapping_that_may_hold_no_2_mib_is_einval() -> None:
    without_pages, small, advised, disabled = started(), started(pages=511), started(), started()
    for process in (small, advised, disabled):
        process.write(0, 1)
    advised.madvise(0, 512, "nohugepage")
    disabled.thp_disable()
    for process in (without_pages, small, advised, disabled):
        assert process.madvise(0, process.mm.vmas[0].end, "collapse").errno == "EINVAL"
        assert process.mm.pmd[0] != PMD_HUGE
    disabled.thp_disable("except_advised")
    assert disabled.madvise(0, 512, "collapse")


def test_no_free_block_is_enomem_and_changes_nothing() -> None:
    process = started(frames=512)
    process.write(0, 5)
    before = process.machine.snapshot()
    assert process.madvise(0, 512, "collapse").errno == "ENOMEM"
    assert np.array_equal(process.mm.pte[:512], before.processes[0].mappings[0].pte)
    assert process.read(0) == 5


def test_a_guard_page_is_in_the_way() -> None:
    process = started(pages=1024)
    for page in (0, 512):
        process.write(page, 1)
    process.madvise(100, 1, "guard_install")
    held = process.mm.memory.held_pages()
    assert process.madvise(0, 1024, "collapse").errno == "EINVAL"
    # It ends the call: the second 2 MiB are not tried.
    assert process.mm.pmd[:2].tolist() == [PMD_TABLE, PMD_TABLE]
    assert process.mm.memory.held_pages() == held
    assert check(process.machine) == []


@pytest.mark.parametrize(("release", "done"), [("6.12", False), ("7.3", True)])
def test_pages_that_nobody_may_write_were_left_alone_once(release: str, done: bool) -> None:
    process = started(release)
    process.write(0, 1)
    process.mprotect(0, 512, 1)
    assert bool(process.madvise(0, 512, "collapse")) == done
    assert not np.any(process.mm.pte & PTE_WRITE)
    assert process.read(0) == 1


@pytest.mark.parametrize(("release", "goes_on"), [("6.18", False), ("7.3", True)])
def test_two_mib_without_a_page_table_end_it_or_are_passed_over(release: str, goes_on: bool) -> None:
    process = started(release, 1024)
    process.write(600, 1)
    assert process.madvise(0, 1024, "collapse").errno == "EINVAL"
    assert (process.mm.pmd[1] == PMD_HUGE) == goes_on


@pytest.mark.parametrize(("release", "ok"), [("6.18", False), ("7.3", True)])
def test_a_range_inside_2_mib_is_refused_or_nothing_to_do(release: str, ok: bool) -> None:
    process = started(release, 1024)
    process.write(0, 1)
    assert bool(process.madvise(4, 8, "collapse")) == ok
    # From one boundary on, or up to it, there is nothing to do in any release.
    assert process.madvise(510, 8, "collapse")
    assert process.mm.pmd[0] == PMD_TABLE


def test_5_10_knows_no_such_advice() -> None:
    process = started("5.10")
    process.write(0, 1)
    assert process.madvise(0, 512, "collapse").errno == "EINVAL"
    assert started("6.1").madvise(0, 512, "collapse").errno == "EINVAL"
    process = started("6.1")
    process.write(0, 1)
    assert process.madvise(0, 512, "collapse")
