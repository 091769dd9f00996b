"""The 40 worked scenarios, for every policy whose outcome was stated before the model was written, remarks included.

The expectations are transcribed from what was stated, never from a run of the model: this file holds the model to
it. A row's codes are those of its writes and reads after the folio was filled, in order; `copy0*3` is three of them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

import anonfolio as af
from anonfolio.kernel.record import COW_COPY, FIRST_TOUCH, REUSE, ZERO_COPY

A, R, F = "linux-6.15", "rfc-v2", "rfc-v2-fixed"
L3, L8, L9 = "linux-6.3", "linux-6.8", "linux-6.9"

POLICIES = {
    **af.POLICIES,
    "none_only": af.RFC_V2.but(name="none_only", zero_neighbours="none_only"),
    "copy_requires_ro": af.RFC_V2.but(name="copy_requires_ro", copy_requires_ro=True),
    "copy_requires_ro, fixed": af.RFC_V2_FIXED.but(name="copy_requires_ro, fixed", copy_requires_ro=True),
}
RO = "copy_requires_ro"


class Row(NamedTuple):
    number: int
    scenario: str
    codes: dict[str, str]
    orders: tuple[int, ...] = (4, 3, 2)


def mainline_and_rfc(mainline: str, rfc: str, **more: str) -> dict[str, str]:
    """The two columns that every row has; "fixed" equals rfc-v2 unless it is named."""
    return {A: mainline, R: rfc, F: rfc} | {
        {"l3": L3, "l8": L8, "l9": L9, "fixed": F, "ro": RO, "none_only": "none_only"}[name]: codes
        for name, codes in more.items()
    }


both = mainline_and_rfc

TABLE = [
    Row(1, "first-write", both("alloc4 nf", "alloc4 nf", l3="alloc0 alloc0")),
    Row(2, "zero-page-neighbour", both("zeroread alloc3 alloc0 alloc2", "zeroread alloc3 alloc0 alloc2")),
    Row(2, "zero-page-neighbour", {A: "zeroread alloc0 alloc0 alloc0"}, orders=(4,)),
    Row(2, "zero-page-neighbour-64k-only", {A: "zeroread alloc0"}, orders=(4,)),
    Row(3, "mapping-ends-inside-block", both("alloc3 alloc2", "alloc3 alloc2")),
    Row(3, "mapping-ends-inside-block", {A: "alloc0 alloc0"}, orders=(4,)),
    Row(4, "no-order-1", both("alloc0", "alloc0")),
    Row(5, "mapping-starts-inside-block", both("alloc2 alloc0", "alloc2 alloc0")),
    Row(6, "read-then-write", both("zeroread zero0 alloc3", "zeroread zero4 nf")),
    Row(7, "read-twice-then-write", both("zeroread*2 zero0*2", "zeroread*2 zero4 nf", none_only="zeroread*2 zero3*2")),
    Row(8, "fork-both-write", both("copy0*3", "copy4 reuse16 nf", l3="copy0 reuse1 copy0")),
    Row(9, "child-writes-and-exits", both("copy0 reuse1*2", "copy4 reuse16 nf", l8="copy0*3", l9="copy0*3")),
    Row(10, "parent-writes-child-exits", both("copy0 reuse1*2", "copy4 nf*2", l8="copy0*3", l9="copy0*3")),
    Row(11, "child-exits-parent-writes-all", both("reuse1*16", "reuse16 nf*15", l8="copy0*15 reuse1", l9="copy0*16")),
    Row(12, "parent-copies-all-child-is-sole",
        both("copy0*16 reuse1*2", "copy4 nf*15 reuse16 nf", l8="copy0*18", l9="copy0*18")),
    Row(13, "child-unmaps-most", both("copy0 reuse1", "copy4 nf")),
    Row(14, "two-children", both("copy0 reuse1", "copy4 nf")),
    Row(15, "wipe-on-fork", both("nf copy0", "nf copy4", fixed="nf copy3", ro="nf copy3")),
    Row(15, "dont-fork", both("nf copy0", "nf copy4", fixed="nf copy3", ro="nf copy3")),
    Row(16, "pinned-beside-shared", both("copy0 nf", "copy4 nf", fixed="copy3 nf", ro="copy3 nf")),
    Row(17, "wipe-on-fork-child-gone", both("reuse1", "reuse16", ro="copy3")),
    Row(18, "fork-fails", both("reuse1*2", "reuse16 nf", l9="copy0*2")),
    Row(19, "fork-fails-half-moved", both("reuse1*2 nf", "copy3 nf nf")),
    Row(20, "fork-while-pinned", both("nf*3", "nf*3")),
    Row(20, "fork-while-pinned-base-pages", {L3: "nf copy0 reuse1"}, orders=()),
    Row(21, "pin-blocks-reuse", both("copy0 reuse1", "nf*2")),
    Row(22, "reference-blocks-reuse", both("copy0*2 reuse1", "copy4 nf*2")),
    Row(23, "half-unmapped", both("nf reuse1*2", "nf reuse8 nf")),
    Row(24, "one-page-left", both("copy0", "reuse1", l8="reuse1", l9="copy0")),
    Row(25, "moved-off-alignment", both("nf copy0 reuse1*3", "nf copy2 nf copy3 copy0")),
    Row(26, "half-moved-away", both("reuse1*2", "copy3 reuse8")),
    Row(27, "protect-and-back", both("nf reuse1 nf reuse1", "nf reuse16 nf nf")),
    Row(28, "hole-refilled", both("alloc2 nf", "alloc2 nf")),
    Row(28, "hole-refilled-64k-only", {A: "alloc0*2"}, orders=(4,)),
    Row(29, "half-dropped-child-gone", both("reuse1*2 alloc3", "reuse8 nf alloc3")),
    Row(30, "hole-defeats-the-scan", both("reuse1*2", "copy0 copy3")),
    Row(31, "last-two-pages", both("copy0*14 reuse1*2", "copy4 nf*15", l8="copy0*15 reuse1")),
    Row(32, "last-page", both("copy0*16", "copy4 nf*15", l8="copy0*15 reuse1")),
    Row(33, "each-keeps-a-half", both("copy0*3", "copy3 reuse8 nf")),
    Row(34, "third-process-alone", both("copy0*16", "reuse16 nf*15")),
    Row(35, "nested-fork", both("copy0*2 reuse1", "copy4 reuse16 nf")),
    Row(36, "grandchild-takes-the-slot", both("reuse1", "reuse16")),
    Row(37, "mapping-split-inside-folio", both("reuse1*2", "copy3 nf")),
    Row(38, "read-pin-while-shared", {A: "reuse1"}),
    Row(38, "read-pin-child-gone", {A: "reuse1"}),
    Row(39, "only-reads-then-fork", both("zeroread*2", "zeroread*2")),
    Row(39, "reads-one-write-then-fork", {A: "zeroread alloc3"}),
    Row(40, "huge-fork-write-exit-write", {A: "alloc9 copy0 reuse1*2"}, orders=(9,)),
    Row(
        42, "guard-page",
        both("alloc2 alloc0 alloc3", "alloc4 nf*2", l3="alloc0*3", l8="alloc4 nf*2", l9="alloc4 nf*2"),
    ),
    Row(41, "lazy-free-part", both("alloc4 nf zero0", "alloc4 nf*2", l3="alloc0 nf alloc0", l8="alloc4 nf*2")),
    Row(40, "huge-child-gone-first", {A: "alloc9 reuse512 nf"}, orders=(9,)),
    # The huge zero page: C.4 and N.11.
    Row(40, "huge-zero-page", {A: "zeroread zero9", L9: "zeroread zero0", L3: "zeroread zero0"}, orders=(9,)),
]  # fmt: skip

# Not remarks of §L but what §0.1 says of the released kernels: they differ from 6.15 in the reuse of a page of a large
# folio alone, so what was written above for 6.15 without such a reuse is theirs too.
TABLE += [
    Row(row.number, row.scenario, {name: row.codes[A] for name in (L8, L9) if name not in row.codes}, row.orders)
    for row in TABLE
    if A in row.codes
    and row.scenario not in ("huge-zero-page", "third-process-alone")
    and not re.search(r"reuse1\b", row.codes[A])
]
# The same rule, applied to a reuse of several pages' folio by hand: 6.9 never, 6.8 at the last page.
TABLE += [
    Row(13, "child-unmaps-most", {L8: "copy0*2", L9: "copy0*2"}),
    Row(14, "two-children", {L8: "copy0*2", L9: "copy0*2"}),
    Row(17, "wipe-on-fork-child-gone", {L8: "copy0", L9: "copy0"}),
    Row(18, "fork-fails", {L8: "copy0*2"}),
    Row(23, "half-unmapped", {L8: "nf copy0*2", L9: "nf copy0*2"}),
    Row(30, "hole-defeats-the-scan", {L8: "copy0*2", L9: "copy0*2"}),
    Row(31, "last-two-pages", {L9: "copy0*16"}),
    Row(32, "last-page", {L9: "copy0*16"}),
    Row(34, "third-process-alone", {L8: "copy0*15 reuse1", L9: "copy0*16"}),
    Row(36, "grandchild-takes-the-slot", {L8: "copy0", L9: "copy0"}),
]

CASES = [
    pytest.param(row, policy, id=f"{row.number}-{row.scenario}-{'.'.join(map(str, row.orders))}-{policy}")
    for row in TABLE
    for policy in row.codes
]


def unfolded(codes: str) -> list[str]:
    """``"copy0*2 nf"`` as ``["copy0", "copy0", "nf"]``."""
    parts = (part.partition("*") for part in codes.split())
    return [code for code, _, times in parts for _ in range(int(times or 1))]


@cache
def run(scenario: str, policy: str = A, orders: tuple[int, ...] | None = None) -> af.Timeline:
    loaded = af.Scenario.load(scenario)
    return (loaded if orders is None else loaded.but(orders=orders)).run(POLICIES[policy])


def is_fill(step: tuple[object, ...]) -> bool:
    """The filling writes: byte = page + 1, where the writes that a scenario is about add 100."""
    return step[0] == "write" and step[3] == step[2] + 1  # type: ignore[operator]


def codes_after_fill(timeline: af.Timeline) -> list[str]:
    steps = timeline.scenario.steps
    filled = len(steps) >= 16 and all(is_fill(step) for step in steps[:16])
    return timeline.codes()[16:] if filled else timeline.codes()


def at_end(timeline: af.Timeline) -> af.Snapshot:
    return timeline[-1].snapshot


def page(snapshot: af.Snapshot, process: int, vpn: int) -> tuple[int, int]:
    """Bits and frame of one page's entry."""
    for mapping in snapshot.processes[process].mappings:
        if mapping.start <= vpn < mapping.end:
            return int(mapping.pte[vpn - mapping.start]), int(mapping.pfn[vpn - mapping.start])
    raise AssertionError(f"process {process} has no mapping at page {vpn}")


def folio_of(snapshot: af.Snapshot, process: int, vpn: int) -> af.snapshot.FolioView:  # type: ignore[name-defined]
    found = snapshot.folio_at(page(snapshot, process, vpn)[1])
    assert found is not None
    return found


def after(timeline: af.Timeline, *step: object) -> af.Snapshot:
    """The state after the (only) step of a scenario that begins so."""
    found = [result.snapshot for result in timeline if result.step[: len(step)] == step]
    assert len(found) == 1, f"{step} is not one step of {timeline.scenario.name}"
    return found[0]


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "policy"), CASES)
def test_the_row_comes_out_as_specified(row: Row, policy: str) -> None:
    timeline = run(row.scenario, policy, row.orders)
    assert codes_after_fill(timeline) == unfolded(row.codes[policy])


def test_every_row_is_here_and_every_named_scenario_is_in_a_row() -> None:
    numbers = {row.number for row in TABLE}
    assert numbers == set(range(1, max(len(numbers), STATED) + 1)), "a new scenario takes the next number"
    assert {row.scenario for row in TABLE} == set(af.scenario_names())


def test_every_named_scenario_says_which_row_it_is() -> None:
    for row in TABLE:
        assert f"(worked scenario {row.number})" in af.Scenario.load(row.scenario).about, row.scenario


@pytest.mark.parametrize("name", sorted({row.scenario for row in TABLE}))
def test_requiring_read_only_changes_the_rfc_in_rows_15_to_17_only(name: str) -> None:
    row = {row.scenario: row.number for row in TABLE}[name]
    posted, strict = codes_after_fill(run(name, R)), codes_after_fill(run(name, RO))
    assert (posted != strict) == (row in (15, 16, 17))
    if row in (15, 16):
        assert strict == codes_after_fill(run(name, F))


# --- recordings -----------------------------------------------------------------------------------------------------

RECORDED = {"6.1": L3, "6.12": L9, "6.18": A, "7.3": A}
BASE_PAGES_OR_HUGE = {
    "fork-while-pinned-base-pages", "huge-fork-write-exit-write", "huge-child-gone-first", "huge-zero-page",
}  # fmt: skip
STATED = 40
"""So many were recorded. One that is added later is a row here at once, and recorded when somebody has the kernels."""
UNRECORDED = {"mapping-starts-inside-block", "fork-fails", "fork-fails-half-moved"}
"""A skewed start and forks that fail are not in the recorders' programs."""


@pytest.mark.parametrize("name", sorted({row.scenario for row in TABLE if row.number <= STATED}))
@pytest.mark.parametrize("kernel", RECORDED)
def test_a_named_scenario_carries_its_recordings_and_equals_them(name: str, kernel: str) -> None:
    scenario = af.Scenario.load(name)
    if name in UNRECORDED or (kernel == "6.1" and name not in BASE_PAGES_OR_HUGE):
        with pytest.raises(af.RecordingError, match=f"{name}.* was not recorded on kernel {re.escape(kernel)}"):
            scenario.recorded(kernel)
        return
    recorded = scenario.recorded(kernel)
    assert recorded.kernel.startswith(kernel + ".")
    assert (recorded.scenario.steps, recorded.scenario.orders) == (scenario.steps, scenario.orders)
    assert (recorded.scenario.pages, recorded.scenario.skew) == (scenario.pages, scenario.skew)
    assert scenario.run(RECORDED[kernel]).compare(recorded) == []


# --- counters per row -----------------------------------------------------------------------------------------------


@pytest.mark.sweep(3)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted({row.scenario for row in TABLE}))
def test_each_fault_moves_the_counters_as_the_table_says(name: str, policy: str) -> None:
    """The rules below the table, at every step of every scenario that took one user fault at the PTE level."""
    timeline = run(name, policy)
    before = timeline.start
    for result in timeline:
        now = result.snapshot
        if len(result.faults) == 1 and result.faults[0].user:
            one_fault_moved_the_counters(result.faults[0], before, now)
        elif not result.faults:
            copied = now.counters.copied
            assert now.counters == replace(before.counters, copied=copied), result.step
            # Fork copies what may be pinned.
            assert copied == before.counters.copied or result.step[0].startswith("fork"), result.step
        before = now


def one_fault_moved_the_counters(fault: af.Fault, before: af.Snapshot, now: af.Snapshot) -> None:
    pages = 1 << fault.order
    rss = now.processes[fault.process].rss_pages - before.processes[fault.process].rss_pages
    counted = sum(now.counters.faults.values()) - sum(before.counters.faults.values())
    pgreuse = now.counters.pgreuse - before.counters.pgreuse
    allocs = {
        order: now.counters.anon_fault_alloc.get(order, 0) - before.counters.anon_fault_alloc.get(order, 0)
        for order in range(10)
    }
    assert counted == 1
    assert pgreuse == (fault.path == REUSE)
    assert {order: count for order, count in allocs.items() if count} == (
        {fault.order: 1} if fault.path == FIRST_TOUCH else {}
    )
    assert rss == (pages if fault.path in (FIRST_TOUCH, ZERO_COPY) else 0)
    if fault.path == COW_COPY:
        old = next(folio for folio in before.folios if folio.id == fault.old_folio)
        left = next((folio for folio in now.folios if folio.id == fault.old_folio and folio.head == old.head), None)
        split = 511 if old.order == 9 and old.refcount < 4 else 0  # a PMD mapping became 512 entries on the way
        assert old.refcount + split - (left.refcount if left else 0) == pages
        if old.order:
            assert old.large_mapcount + split - (left.large_mapcount if left else 0) == pages
        if left:
            lost = old.mapcount - left.mapcount
            at = [vpn_frame - old.head for vpn_frame in frames_before(before, fault)]
            assert lost[at].tolist() == [1] * pages
            assert lost.sum() == pages
    if fault.path == REUSE:
        same = [(f.head, f.refcount, f.large_mapcount, f.mapcount.tolist()) for f in before.folios]
        assert [(f.head, f.refcount, f.large_mapcount, f.mapcount.tolist()) for f in now.folios] == same


def frames_before(before: af.Snapshot, fault: af.Fault) -> list[int]:
    return [page(before, fault.process, vpn)[1] for vpn in fault.pages]


# --- what the rows say of the state ---------------------------------------------------------------------------------


def test_row_1_makes_all_sixteen_pages_writable_dirty_young_and_exclusive() -> None:
    snapshot = run("first-write")[0].snapshot
    (mapping,) = snapshot.processes[0].mappings
    assert mapping.writable.all()
    assert len(set(mapping.pte.tolist())) == 1
    assert mapping.pfn.tolist() == list(range(mapping.pfn[0], mapping.pfn[0] + 16))
    (folio,) = snapshot.folios
    assert (folio.order, folio.refcount, folio.large_mapcount, folio.mm_ids) == (4, 16, 16, ((0, 16),))
    assert folio.anon_exclusive.all()
    assert folio.mapcount.tolist() == [1] * 16
    assert folio.head % 16 == 0
    assert snapshot.processes[0].rss_pages == 16


def test_row_1_under_6_3_touches_page_5_only() -> None:
    (mapping,) = run("first-write", L3)[0].snapshot.processes[0].mappings
    assert np.flatnonzero(mapping.present).tolist() == [5]


def test_row_5_takes_the_block_from_4_to_7() -> None:
    fault = run("mapping-starts-inside-block").faults()[0]
    assert fault.pages == range(4, 8)


@pytest.mark.parametrize(("policy", "pages"), [(A, range(3, 4)), (R, range(16))])
def test_row_6_replaces_the_zero_page_by_one_page_or_by_the_block(policy: str, pages: range) -> None:
    timeline = run("read-then-write", policy)
    assert timeline.faults()[1].pages == pages
    assert not timeline[1].snapshot.processes[0].mappings[0].zero.any()


def test_row_7_with_none_only_splits_the_block_between_the_two_zero_pages() -> None:
    first, second = run("read-twice-then-write", "none_only").faults()[2:]
    assert (first.pages, second.pages) == (range(8), range(8, 16))


def test_row_9_leaves_the_flag_off_and_bit_56_on_when_the_child_is_gone() -> None:
    """PageAnonExclusive never comes back by a child's exit; "mapped exactly once" does."""
    folio = folio_of(after(run("child-exits-parent-writes-all"), "exit", 1), 0, 0)
    assert not folio.anon_exclusive.any()
    assert folio.mapcount.tolist() == [1] * 16
    assert not folio.maybe_mapped_shared


def test_row_10_page_4_stays_a_foreign_base_page() -> None:
    end = at_end(run("parent-writes-child-exits"))
    orders = [folio_of(end, 0, vpn).order for vpn in range(16)]
    assert orders == [4] * 4 + [0] + [4] * 11


def test_row_10_under_the_rfc_moves_the_parent_to_a_new_folio() -> None:
    timeline = run("parent-writes-child-exits", R)
    old = folio_of(after(timeline, "fork", 0), 0, 0)
    new = folio_of(at_end(timeline), 0, 0)
    assert new.order == 4
    assert new.head != old.head
    assert {folio_of(at_end(timeline), 0, vpn).head for vpn in range(16)} == {new.head}


def test_row_11_under_6_8_keeps_sixteen_pages_for_one() -> None:
    end = at_end(run("child-exits-parent-writes-all", L8))
    folio = folio_of(end, 0, 15)
    assert (folio.order, int(np.count_nonzero(folio.mapcount)), folio.partially_mapped) == (4, 1, True)
    assert end.waste_pages == 15
    assert end.held_pages == 15 + 16


def test_row_11_counts_sixteen_reuses() -> None:
    assert at_end(run("child-exits-parent-writes-all")).counters.pgreuse == 16
    assert at_end(run("child-exits-parent-writes-all", R)).counters.pgreuse == 1


def test_row_13_sharing_is_the_folio_s_although_the_page_is_mapped_once() -> None:
    before = after(run("child-unmaps-most"), "munmap", 1)
    folio = folio_of(before, 0, 9)
    assert folio.mapcount.tolist() == [2] + [1] * 15
    assert folio.maybe_mapped_shared


@pytest.mark.parametrize("name", ["wipe-on-fork", "dont-fork"])
def test_row_15_the_upper_half_is_exclusive_and_the_folio_has_24_mappings(name: str) -> None:
    timeline = run(name, R)
    folio = folio_of(after(timeline, "fork", 0), 0, 0)
    assert folio.anon_exclusive.tolist() == [False] * 8 + [True] * 8
    assert (folio.large_mapcount, folio.refcount) == (24, 24)
    assert timeline.faults()[-1].pages == range(16)  # eight exclusive pages inside: the bug
    assert run(name, F).faults()[-1].pages == range(8)


def test_row_15_the_child_has_no_page_in_the_wiped_half_and_no_mapping_there_with_dontfork() -> None:
    wiped = after(run("wipe-on-fork"), "fork", 0).processes[1]
    assert [(mapping.start, mapping.end, bool(mapping.present.any())) for mapping in wiped.mappings] == [
        (0, 8, True), (8, 16, False),
    ]  # fmt: skip
    left_out = after(run("dont-fork"), "fork", 0).processes[1]
    assert [(mapping.start, mapping.end) for mapping in left_out.mappings] == [(0, 8)]


def test_row_15_restoring_the_advice_makes_one_mapping_again() -> None:
    for name in ("wipe-on-fork", "dont-fork"):
        assert len(at_end(run(name)).processes[0].mappings) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_row_16_only_the_rfc_as_posted_replaces_the_page_under_the_pin(policy: str) -> None:
    timeline = run("pinned-beside-shared", policy)
    (pin,) = at_end(timeline).processes[0].pins
    stays = page(at_end(timeline), 0, 10)[1] == pin.frames[0]
    assert stays == (policy not in (R, "none_only"))
    machine = af.Scenario.load("pinned-beside-shared").end(POLICIES[policy])
    broken = [violation for violation in af.check(machine) if violation.invariant == "pinned_page_stays"]
    assert [(v.process, v.vpn, v.pin) for v in broken] == ([] if stays else [(0, 10, 0)])
    # The device's byte is lost, and the device is sent the old byte: wrong data, not a flag.
    owner = machine.process(0)
    owner.dma_write(0, 0, 222)
    assert owner.read(10) == (222 if stays else 110)
    owner.write(10, 33)
    assert owner.dma_read(0, 0) == (33 if stays else 222)


def test_row_17_the_range_and_the_references_are_both_sixteen() -> None:
    timeline = run("wipe-on-fork-child-gone", R)
    assert folio_of(after(timeline, "exit", 1), 0, 3).refcount == 16
    assert timeline.faults()[-1].pages == range(16)


def test_row_18_a_fork_that_failed_has_cost_every_page_its_flag() -> None:
    snapshot = after(run("fork-fails"), "forkfail", 0)
    folio = folio_of(snapshot, 0, 0)
    assert not folio.anon_exclusive.any()
    assert (folio.refcount, folio.large_mapcount, folio.maybe_mapped_shared) == (16, 16, False)
    assert not snapshot.processes[0].mappings[0].writable.any()
    assert [process.alive for process in snapshot.processes] == [True]


def test_row_19_leaves_one_folio_half_maybe_shared_and_half_exclusive() -> None:
    snapshot = after(run("fork-fails-half-moved", R), "forkfail", 0)
    folio = folio_of(snapshot, 0, 0)
    assert folio.anon_exclusive.tolist() == [False] * 8 + [True] * 8
    assert folio.refcount == 16
    assert folio_of(snapshot, 0, 34).head == folio.head


@pytest.mark.parametrize("policy", [A, R, F, L8, L9])
def test_row_20_the_child_gets_sixteen_exclusive_base_pages_and_the_parent_keeps_its_folio(policy: str) -> None:
    timeline = run("fork-while-pinned", policy)
    snapshot = after(timeline, "fork", 0)
    child = [folio_of(snapshot, 1, vpn) for vpn in range(16)]
    assert [folio.order for folio in child] == [0] * 16
    assert len({folio.head for folio in child}) == 16
    assert all(folio.anon_exclusive.all() and folio.refcount == 1 for folio in child)
    assert [int(folio.content[0]) for folio in child] == list(range(1, 17))
    assert snapshot.processes[1].mappings[0].writable.all()
    assert snapshot.processes[0].mappings[0].writable.all()
    parent = folio_of(snapshot, 0, 0)
    assert (parent.order, parent.refcount, parent.pincount) == (4, 17, 1)
    assert parent.anon_exclusive.all()


def test_row_20_with_base_pages_only_the_pinned_one_is_copied() -> None:
    snapshot = after(run("fork-while-pinned-base-pages", L3), "fork", 0)
    shared = [page(snapshot, 0, vpn)[1] == page(snapshot, 1, vpn)[1] for vpn in range(16)]
    assert shared == [vpn != 4 for vpn in range(16)]


@pytest.mark.parametrize(("policy", "code"), [(A, "reuse1"), (R, "reuse16"), (F, "reuse16")])
def test_row_21_the_pin_itself_takes_the_write_fault(policy: str, code: str) -> None:
    pin = next(result for result in run("pin-blocks-reuse", policy) if result.step[0] == "pin")
    assert [fault.code for fault in pin.faults] == [code]
    assert pin.user_faults == []


def test_row_22_the_pipe_keeps_the_old_page() -> None:
    for policy in (A, R):
        before_close = [
            result.snapshot for result in run("reference-blocks-reuse", policy) if result.step[0] != "unref"
        ]
        snapshot = before_close[-2]
        (reference,) = snapshot.processes[0].pins
        assert page(snapshot, 0, 3)[1] != reference.frames[0]
        held = snapshot.folio_at(reference.frames[0])
        assert held is not None
        assert int(held.content[reference.frames[0] - held.head]) == 4


def test_row_24_frees_the_folio_by_copying_its_last_page_or_keeps_it_for_that_page() -> None:
    assert at_end(run("one-page-left")).held_pages == 1
    for policy in (R, L8):
        assert (at_end(run("one-page-left", policy)).held_pages, at_end(run("one-page-left", policy)).waste_pages) == (
            16,
            15,
        )


def test_row_25_under_the_rfc_copies_aligned_parts_of_slots_4_and_8() -> None:
    copies = [fault.pages for fault in run("moved-off-alignment", R).faults() if fault.path == COW_COPY]
    assert copies == [range(20, 24), range(24, 32), range(18, 19)]  # slots 4..7, 8..15 and 2 of pages 16..31


def test_row_26_the_second_range_has_all_references_that_are_left() -> None:
    timeline = run("half-moved-away", R)
    assert folio_of(timeline[-2].snapshot, 0, 25).refcount == 8
    assert timeline.faults()[-1].pages == range(24, 32)


def test_row_28_the_folio_with_the_hole_is_partially_mapped() -> None:
    snapshot = after(run("hole-refilled"), "madvise", 0)
    folio = folio_of(snapshot, 0, 0)
    assert folio.partially_mapped
    assert snapshot.held_pages == 16


def test_row_32_the_copy_of_the_last_page_frees_the_folio_where_6_8_keeps_it() -> None:
    assert at_end(run("last-page")).held_pages == 16
    assert at_end(run("last-page", L8)).held_pages == 15 + 16


def test_row_33_every_page_is_mapped_once_and_yet_shared() -> None:
    folio = folio_of(after(run("each-keeps-a-half"), "munmap", 0), 0, 9)
    assert folio.mapcount.tolist() == [1] * 16
    assert folio.maybe_mapped_shared


def test_row_34_the_survivor_is_tracked_by_nobody_and_the_bit_sticks() -> None:
    folio = folio_of(after(run("third-process-alone"), "munmap", 0), 2, 0)
    assert folio.maybe_mapped_shared
    assert folio.mm_ids == ()
    assert (folio.large_mapcount, folio.refcount) == (16, 16)


def test_row_36_the_grandchild_is_tracked() -> None:
    folio = folio_of(after(run("grandchild-takes-the-slot"), "munmap", 2), 3, 0)
    assert folio.mm_ids == ((3, 16),)
    assert not folio.maybe_mapped_shared


def test_row_38_a_read_pin_gets_an_exclusive_page_that_stays_read_only() -> None:
    shared = after(run("read-pin-while-shared"), "gup", 0)
    new = folio_of(shared, 0, 4)
    assert (new.order, bool(new.anon_exclusive[0]), page(shared, 0, 4)[0] & 2) == (0, True, 0)
    alone = run("read-pin-child-gone")
    gone = after(alone, "gup", 0)
    assert page(gone, 0, 4)[1] == page(alone[0].snapshot, 0, 4)[1]
    assert folio_of(gone, 0, 4).anon_exclusive.tolist() == [vpn == 4 for vpn in range(16)]
    assert not gone.processes[0].mappings[0].writable.any()
    assert [fault.code for result in alone if result.step[0] == "gup" for fault in result.faults] == ["unshare"]


@pytest.mark.parametrize("policy", POLICIES)
def test_row_39_reads_alone_leave_the_child_nothing(policy: str) -> None:
    end = at_end(run("only-reads-then-fork", policy))
    assert end.processes[0].mappings[0].zero.sum() == 2
    assert not end.processes[1].mappings[0].present.any()
    with_write = at_end(run("reads-one-write-then-fork", policy))
    assert with_write.processes[1].mappings[0].zero.tolist() == [vpn == 3 for vpn in range(16)]
    assert with_write.folios[0].refcount == 2 * with_write.folios[0].pages  # the zero page is not counted anywhere


def test_row_40_the_write_splits_the_writer_s_mapping_only() -> None:
    timeline = run("huge-fork-write-exit-write")
    shared = after(timeline, "fork", 0)
    assert (shared.folios[0].large_mapcount, shared.folios[0].refcount) == (2, 2)
    split = after(timeline, "write", 0, 5)
    assert not split.processes[0].mappings[0].huge.any()
    assert split.processes[1].mappings[0].huge.all()
    old = folio_of(split, 1, 0)
    assert (old.large_mapcount, old.refcount) == (2 + 511 - 1, 2 + 511 - 1)
    assert old.mapcount.tolist() == [1 if vpn == 5 else 2 for vpn in range(512)]


def test_row_40_two_megabytes_are_reused_by_one_fault_when_the_child_is_gone() -> None:
    timeline = run("huge-child-gone-first")
    reuse = timeline.faults()[-1]
    assert (reuse.code, len(reuse.pages)) == ("reuse512", 512)
    (mapping,) = at_end(timeline).processes[0].mappings
    assert mapping.huge.all()
    assert mapping.writable.all()


@pytest.mark.parametrize(("policy", "huge", "rss"), [(A, True, 512), (L9, False, 1), (L8, False, 1), (L3, False, 1)])
def test_the_huge_zero_page_becomes_a_huge_folio_or_one_page(policy: str, huge: bool, rss: int) -> None:
    timeline = run("huge-zero-page", policy)
    assert timeline[0].snapshot.processes[0].mappings[0].huge.all()
    assert timeline[0].snapshot.rss_pages == 0
    (mapping,) = at_end(timeline).processes[0].mappings
    assert bool(mapping.huge.all()) == huge
    assert at_end(timeline).rss_pages == rss
    assert int(mapping.zero.sum()) == 512 - rss


# --- partially mapped, as below the table ---------------------------------------------------------------------------


def test_a_copy_makes_the_folio_partially_mapped_only_when_the_child_lets_go_too() -> None:
    timeline = run("parent-writes-child-exits")
    written = next(result.snapshot for result in timeline if result.step[0] == "write" and result.step[3] == 104)
    assert not folio_of(written, 0, 0).partially_mapped
    assert folio_of(after(timeline, "exit", 1), 0, 0).partially_mapped


def test_a_partial_munmap_counts_only_when_the_child_is_gone() -> None:
    program = [("write", 0, vpn, vpn + 1) for vpn in range(16)]
    program += [("fork", 0), ("munmap", 0, 0, 8), ("exit", 1)]
    timeline = af.Scenario(16, tuple(program)).run(af.LINUX_6_15)
    assert not folio_of(after(timeline, "munmap", 0), 0, 8).partially_mapped
    assert folio_of(after(timeline, "exit", 1), 0, 8).partially_mapped
