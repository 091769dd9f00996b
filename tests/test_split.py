"""A folio is split: by debugfs to any order, by the shrinker where it is partly mapped."""

from __future__ import annotations

import re

import numpy as np
import pytest

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_TABLE, PTE_CONT, PTE_DIRTY, PTE_SPECIAL, PTE_WRITE
from anonfolio.machine.invariants import check
from anonfolio.machine.machine import Process
from anonfolio.program.ops import ScenarioError
from anonfolio.witness.here import NotLive
from anonfolio.witness.live import run


def filled(policy: af.Policy | str = "7.3", orders: tuple[int, ...] = (4,), pages: int = 16) -> Process:
    process = af.Machine(policy, orders=orders, frames=1 << 13).spawn()
    process.mmap(pages, at=0)
    for page in range(pages):
        process.write(page, page % 255 + 1)
    return process


def orders_of(process: Process, pages: range) -> list[int]:
    memory = process.mm.memory
    return [int(memory.order[memory.folio_of[process.mm.pfn[page]]]) for page in pages]


@pytest.mark.parametrize("order", [0, 2, 3])
def test_a_folio_becomes_several_and_every_page_stays_where_it_is(order: int) -> None:
    process = filled()
    frames = process.mm.pfn[:16].copy()
    process.split(5, 1, order)
    assert orders_of(process, range(16)) == [order] * 16
    assert np.array_equal(process.mm.pfn[:16], frames)
    assert (process.mm.pte[:16] & (PTE_WRITE | PTE_DIRTY) == PTE_WRITE | PTE_DIRTY).all()
    assert not process.write(3, 1)
    assert process.fork().write(3, 2).code == "copy0"
    assert check(process.machine) == []


def test_only_what_is_larger_is_split_and_nothing_beyond_a_hole() -> None:
    process = filled(pages=64)
    process.munmap(32, 1)
    process.split(0, 64, 2)
    assert orders_of(process, range(0, 64, 16)) == [2, 2, 2, 4] or orders_of(process, range(0, 64, 8))[:4] == [2] * 4
    assert orders_of(process, range(48, 64)) == [4] * 16
    process.split(0, 16, 3)
    assert orders_of(process, range(16)) == [2] * 16


def test_2_mib_are_split_in_every_process_that_maps_them() -> None:
    parent = filled(orders=(9,), pages=512)
    child = parent.fork()
    child.write(3, 9)
    parent.split(0, 1, 8)
    assert (parent.mm.pmd[0], child.mm.pmd[0]) == (PMD_TABLE, PMD_TABLE)
    assert orders_of(parent, range(0, 512, 64)) == [8] * 8
    memory = parent.mm.memory
    folio = int(memory.folio_of[parent.mm.pfn[300]])
    assert [row.tolist() for row in (memory.mm_id[folio], memory.mm_id_mapcount[folio])] == [[1, 2], [256, 256]]
    assert memory.maybe_mapped_shared[folio]
    assert memory.dirty[folio]
    assert [parent.read(3), child.read(3), child.read(300)] == [4, 9, 46]
    child.exit()
    assert parent.write(300).code == "reuse1"
    assert check(parent.machine) == []


def test_6_1_leaves_a_dirty_pmd_dirty_page_by_page_when_the_folio_is_split() -> None:
    """There, a PMD that is split for itself leaves its entries clean."""
    for split in (True, False):
        process = filled("6.1", (9,), 512)
        process.split(0, 1) if split else process.munmap(511, 1)
        assert bool(process.mm.pte[5] & PTE_DIRTY) == split


def test_before_6_9_no_order_is_read() -> None:
    for release, order in (("6.8", 0), ("6.9", 3)):
        process = filled(release)
        process.split(0, 16, 3)
        assert orders_of(process, range(16)) == [order] * 16


def test_a_reference_keeps_it_whole_in_both_ways() -> None:
    process = filled()
    process.ref(4)
    process.munmap(12, 4)
    process.split(0, 16)
    process.machine.process(0).shrink()
    assert orders_of(process, range(12)) == [4] * 12
    assert process.mm.memory.partially_mapped.any()
    process.unref()
    process.shrink()
    assert orders_of(process, range(12)) == [0] * 12


@pytest.mark.parametrize(("release", "held"), [("6.11", 12), ("6.12", 3)])
def test_the_shrinker_gives_back_what_nobody_maps_and_pages_of_zeros(release: str, held: int) -> None:
    process = af.Machine(release, orders=(4,), frames=1 << 12).spawn()
    process.mmap(32, at=0)
    for page in (0, 1, 2, 20):
        process.write(page, 7)
    process.munmap(12, 4)
    process.shrink()
    # The other folio is mapped whole, and stays.
    assert process.mm.memory.held_pages() == held + 16
    assert np.count_nonzero(process.mm.pte & PTE_SPECIAL) == 12 - held
    assert not process.mm.memory.partially_mapped.any()
    assert [process.read(page) for page in (0, 1, 2, 3)] == [7, 7, 7, 0]
    assert check(process.machine) == []


def test_locked_pages_of_zeros_stay_pages() -> None:
    process = af.Machine("7.3", orders=(4,), frames=1 << 12).spawn()
    process.mmap(16, at=0)
    process.write(0, 7)
    process.mlock(4, 4)
    process.split(0, 16)
    assert np.flatnonzero(process.mm.pte & PTE_SPECIAL).tolist() == [1, 2, 3, *range(8, 16)]
    assert process.rss_pages == 5
    assert check(process.machine) == []


def test_what_an_arm64_block_shares_each_page_has_afterwards() -> None:
    process = filled(af.Policy.at("7.3", "arm64"), (5,), 32)
    assert (process.mm.pte[:32] & PTE_CONT).all()
    process.split(0, 1, 4)
    assert (process.mm.pte[:32] & PTE_CONT).all()
    process.split(0, 1, 2)
    assert not (process.mm.pte[:16] & PTE_CONT).any()
    assert (process.mm.pte[:16] & PTE_DIRTY).all()
    assert check(process.machine) == []


def test_an_order_that_no_folio_has_is_refused() -> None:
    process = filled()
    for order in (1, 10, True, "2"):
        with pytest.raises(ValueError, match="folios are split to order 0 or to one of 2 to 9"):
            process.split(0, 1, order)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="order is 1; folios are split to order 0 or to one of 2 to 9"):
        af.Scenario(4, (("split", 0, 0, 1, 1),))
    assert orders_of(process, range(16)) == [4] * 16


def test_a_kernel_without_debugfs_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, what: str) -> int:
        raise PermissionError(1, what)

    monkeypatch.setattr(run, "_system_call", refuse)
    with pytest.raises(NotLive, match=re.escape("this kernel must have CONFIG_DEBUG_FS and not be locked down")):
        run.write_debugfs("split_huge_pages", "1,0x0,0x1000,0")
