"""The TLB: what one entry covers, and which accesses find one, against a plain walk of lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

import anonfolio as af
from anonfolio.hardware.tlb import (
    CORES,
    CORTEX_A76,
    UNMAPPED,
    Contiguous,
    Core,
    Entries,
    Hpa,
    Lookups,
    PageTable,
    Plain,
    Tlb,
    page_table,
)
from anonfolio.kernel.pagetable import PTE_CONT, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG

NORMAL = PTE_PRESENT | PTE_WRITE | PTE_YOUNG | PTE_DIRTY


def table(pages: int = 64, start: int = 0, first_frame: int = 0) -> PageTable:
    """So many pages on consecutive frames, all alike."""
    return PageTable(
        start,
        np.full(pages, NORMAL, np.uint8),
        np.arange(first_frame, first_frame + pages, dtype=np.int32),
        np.zeros(pages, np.bool_),
    )


# --- what an entry covers -------------------------------------------------------------------------------------------


def test_plain_entries_are_single_pages_whatever_is_contiguous() -> None:
    made = table(32)
    made.pte[3] = 0
    made.huge[16:] = True
    assert Plain().orders(made).tolist() == [0, 0, 0, UNMAPPED, *[0] * 12, *[9] * 16]


def test_the_contiguous_bit_makes_one_entry_of_sixteen_pages() -> None:
    made = table(48)
    made.pte[16:32] |= PTE_CONT
    assert Contiguous().orders(made).tolist() == [0] * 16 + [4] * 16 + [0] * 16
    assert not Plain().orders(made).any()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda made: made.pfn.__setitem__(5, 99), "another frame in the middle"),
        (lambda made: made.pte.__setitem__(5, NORMAL & ~PTE_DIRTY), "a clean page among dirty ones"),
        (lambda made: made.pte.__setitem__(5, NORMAL & ~PTE_WRITE), "one page read-only"),
        (lambda made: made.pte.__setitem__(5, 0), "a hole"),
        (lambda made: made.pte.__setitem__(slice(4, 8), PTE_PRESENT | PTE_SPECIAL), "zero pages"),
    ],
)
def test_hpa_joins_a_group_only_when_all_its_pages_are_alike(spoil: Any, why: str) -> None:
    made = table(16)
    assert Hpa().orders(made).tolist() == [2] * 16
    spoil(made)
    orders = Hpa().orders(made)
    assert (orders[4:8] != 2).all(), why
    assert (orders[:4] == 2).all()
    assert (orders[8:] == 2).all()


def test_hpa_wants_virtual_and_physical_alignment_to_agree() -> None:
    assert not Hpa().orders(table(16, first_frame=1)).any()
    assert Hpa().orders(table(16, start=1, first_frame=1)).tolist() == [0, 1, 1, *[2] * 12, 0]
    assert Hpa(order=1).orders(table(16, first_frame=2)).tolist() == [1] * 16
    assert Hpa(order=3).orders(table(16)).tolist() == [3] * 16


def test_hpa_falls_back_to_the_largest_group_that_is_alike() -> None:
    made = table(4)
    made.pte[3] &= ~PTE_DIRTY & 0xFF
    assert Hpa().orders(made).tolist() == [1, 1, 0, 0]
    assert Hpa(compares=0xFF & ~PTE_DIRTY).orders(made).tolist() == [2] * 4


def test_hpa_of_more_than_eight_pages_does_not_exist() -> None:
    with pytest.raises(ValueError, match="2 to 8 pages"):
        Hpa(order=4)


def test_a_contiguous_block_is_read_as_accessed_when_any_of_its_pages_was() -> None:
    made = table(48)
    made.pte[:] = PTE_PRESENT | PTE_WRITE
    made.pte[16:32] |= PTE_CONT
    made.pte[20] |= PTE_YOUNG | PTE_DIRTY
    made.pte[40] |= PTE_YOUNG
    seen = made.seen()
    assert np.flatnonzero(seen & PTE_YOUNG).tolist() == [*range(16, 32), 40]
    assert np.flatnonzero(seen & PTE_DIRTY).tolist() == list(range(16, 32))
    assert np.flatnonzero(made.pte & PTE_YOUNG).tolist() == [20, 40]


def test_the_page_table_is_the_models() -> None:
    machine = af.Machine(orders=(4,))
    process = machine.spawn()
    process.mmap(64, at=16)
    process.write(16)
    process.read(40)
    made = page_table(process, 16, 64)
    assert made.present.tolist() == [True] * 16 + [False] * 8 + [True] + [False] * 39
    assert (Hpa().orders(made)[:16] == 2).all()
    with pytest.raises(ValueError, match="do not lie in"):
        page_table(process, 16, 1 << 20)


# --- against lists --------------------------------------------------------------------------------------------------


def by_steps(core: Core, pages: list[int], orders: npt.NDArray[np.uint8]) -> list[int]:
    """Each access's level, with a list per set and no tags: (order, number) pairs."""
    levels: list[dict[tuple[int, int], list[tuple[int, int]]]] = [{} for _ in core.levels]
    found = []
    for page in pages:
        hit = len(core.levels) + 1
        for number, (arrays, sets) in enumerate(zip(core.levels, levels, strict=True), 1):
            order = max(each for array in arrays for each in array.orders if each <= orders[page])
            at, array = next((at, array) for at, array in enumerate(arrays) if order in array.orders)
            entry = (order, page >> order)
            ways = array.ways or array.entries
            stack = sets.setdefault((at, entry[1] % (array.entries // ways)), [])
            if entry in stack:
                stack.remove(entry)
                hit = min(hit, number)
            stack.insert(0, entry)
            del stack[ways:]
            if hit == number:
                break
        found.append(hit)
    return found


SMALL = Core("small", ((Entries(4, orders=(0, 2)), Entries(2, orders=(9,))), (Entries(12, 3, (0, 4, 9)),)))


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.integers(0, 1535), max_size=120), st.sampled_from([SMALL, CORTEX_A76]), st.data())
def test_each_access_is_found_where_lists_find_it(pages: list[int], core: Core, data: st.DataObject) -> None:
    made = table(1536)
    for block in data.draw(st.sets(st.integers(0, 31))):
        made.pte[16 * block : 16 * block + 16] |= PTE_CONT
    made.huge[512:1024] = data.draw(st.booleans())
    for page in data.draw(st.sets(st.integers(0, 511))):
        made.pte[page] &= 0xFF & ~PTE_DIRTY
    coalescing = data.draw(st.sampled_from([Plain(), Contiguous(), Hpa()]))
    looked_up = Tlb(core, coalescing).access(pages, made)
    assert looked_up.level.tolist() == by_steps(core, pages, coalescing.orders(made))


def test_an_entry_larger_than_any_array_holds_is_kept_in_pieces() -> None:
    made = table(32)
    made.pte[:] |= PTE_CONT
    small_sizes = Core("4K and 16K", ((Entries(8, orders=(0, 2)),),))
    assert Tlb(small_sizes, Contiguous()).access(np.arange(32), made).walks == 8
    assert Tlb(CORTEX_A76, Contiguous()).access(np.arange(32), made).walks == 2
    assert Tlb(CORTEX_A76, Plain()).access(np.arange(32), made).walks == 32


# --- flushing -------------------------------------------------------------------------------------------------------


def test_a_shootdown_drops_every_entry_that_covers_the_pages_and_no_other() -> None:
    made = table(64)
    made.pte[:32] |= PTE_CONT
    tlb = Tlb(CORTEX_A76, Contiguous())
    tlb.access(np.arange(64), made)
    tlb.shootdown(20, 14)
    assert sorted(tlb.held()) == sorted([(0, 4), *((page, 0) for page in range(34, 64))])
    assert tlb.access([3, 20, 33, 40], made).level.tolist() == [1, 3, 3, 1]
    tlb.flush()
    assert tlb.held(1) == tlb.held(2) == []


def test_a_copy_fault_flushes_its_page_and_a_first_touch_nothing() -> None:
    machine = af.Machine(orders=(4,))
    parent = machine.spawn()
    parent.mmap(16, at=0)
    tlb = Tlb(CORTEX_A76)
    touched = parent.write(0)
    tlb.access(np.arange(16), page_table(parent, 0, 16))
    tlb.flush_for(touched)
    assert len(tlb.held()) == 16
    parent.fork()
    tlb.flush_for(parent.write(5))
    assert len(tlb.held()) == 15
    assert (5, 0) not in tlb.held()


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_page_that_nothing_maps_or_that_is_elsewhere_is_told_and_nothing_changes() -> None:
    made = table(8, start=100)
    made.pte[3] = 0
    tlb = Tlb(CORTEX_A76)
    with pytest.raises(ValueError, match=r"page 103 \(access 1\) is not mapped"):
        tlb.access([100, 103], made)
    with pytest.raises(ValueError, match=r"page 99 \(access 2\) is not one of the 8 from page 100"):
        tlb.access([100, 101, 99], made)
    assert tlb.held() == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (lambda tlb: tlb.access([1.7], table(8)), "pages must be one row of integers"),
        (lambda tlb: tlb.access([True], table(8)), "pages must be one row of integers"),
        (lambda tlb: tlb.access([[1]], table(8)), "pages must be one row of integers"),
        (lambda tlb: tlb.shootdown(0, -5), r"pages=-5 is not a whole number in 1\.\."),
        (lambda tlb: tlb.shootdown(0, 0), "pages=0 is not"),
        (lambda tlb: tlb.shootdown(0.5), r"page=0\.5 is not"),
        (lambda tlb: tlb.shootdown(-1), "page=-1 is not"),
        (lambda tlb: tlb.held(0), r"level=0 is not a whole number in 1\.\.2"),
        (lambda tlb: tlb.held(3), "level=3 is not"),
        (lambda tlb: tlb.held(1.0), r"level=1\.0 is not"),
        (lambda tlb: tlb.held(True), "level=True is not"),
        (lambda tlb: Lookups(np.ones(1, np.uint8), 2).misses(0), "level=0 is not"),
        (lambda tlb: tlb.core.reach_pages(10), r"order=10 is not a whole number in 0\.\.9"),
        (lambda tlb: Hpa(2.5), r"order=2\.5 is not a whole number in 1\.\.3"),
        (lambda tlb: Hpa(True), "order=True"),
        (lambda tlb: Hpa(compares=256), r"compares=256 is not a whole number in 0\.\.255"),
        (lambda tlb: Entries(4, orders=(0.5,)), r"orders=0\.5 is not a whole number in 0\.\.9"),
        (lambda tlb: Entries(4, orders=(10,)), "orders=10 is not"),
        (lambda tlb: Entries(4, orders=()), "a tuple of some of 0 to 9"),
        (lambda tlb: Entries(4, orders=5), "a tuple of some of 0 to 9"),
        (lambda tlb: Entries(4.0), r"entries=4\.0 is not"),
        (lambda tlb: Entries(4, 2.0), r"ways=2\.0 is not"),
        (lambda tlb: page_table(af.Machine().spawn(), 0.5, 1), r"page=0\.5 is not"),
        (lambda tlb: page_table(af.Machine().spawn(), 0, 0), "pages=0 is not"),
    ],
)
def test_a_number_of_a_wrong_kind_or_size_is_refused_in_one_line(asked: Callable[[Tlb], object], told: str) -> None:
    tlb = Tlb(CORTEX_A76)
    tlb.access([100, 101], table(8, start=100))
    held = [tlb.held(1), tlb.held(2)]
    with pytest.raises(ValueError, match=told) as caught:
        asked(tlb)
    assert "\n" not in str(caught.value)
    assert [tlb.held(1), tlb.held(2)] == held


@pytest.mark.parametrize(
    ("levels", "told"),
    [
        ((), "at least one level"),
        (((Entries(4, orders=(0, 2)), Entries(4, orders=(2,))),), "in two arrays of level 1"),
        (((Entries(4, orders=(4,)),),), "no array for single pages"),
    ],
)
def test_a_core_that_cannot_be_is_told(levels: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Core("impossible", levels)


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.name)
def test_every_preset_says_where_it_is_from_and_runs(core: Core) -> None:
    assert core.source
    made = table(256)
    assert Tlb(core).access(np.tile(np.arange(256), 2), made).walks == 256


def test_reach_grows_with_the_entries_the_last_level_can_hold() -> None:
    assert CORTEX_A76.reach_pages(0) == 1280
    assert CORTEX_A76.reach_pages(4) == 1280 * 16
    assert CORTEX_A76.reach_pages(3) == 1280 * 4
