"""What a run costs: prices give back what was measured, counts are priced once, and what is measured can be read back.

Tests marked `live` build the C program and change kernel settings for a moment; they skip where they cannot.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import anonfolio as af
from anonfolio.__main__ import main
from anonfolio.hardware import cost
from anonfolio.hardware.cost import COLD, CostError, Table, Work, read_table, write_table
from anonfolio.hardware.tlb import CORTEX_A76, GOLDEN_COVE, Contiguous, Core, Entries, Hpa, Plain
from anonfolio.hardware.trace import Replay

FAULT, ZERO, FORK_FOLIO, FORK_PAGE, FREE_FOLIO, FREE_PAGE, DROP_FOLIO, DROP_PAGE = 900, 400, 60, 40, 300, 30, 90, 12
SCAN = 5
SINGLE = {
    "cow_copy": 2400, "reuse": 800, "no_fault": 10, "unmap": 350, "zero_read": 700, "zero_copy": 1800,
    "copy_page": 350, "clear_page": 200, "read_entry": SCAN, "protect_entry": 50,
}  # fmt: skip


def first_touch_ns(order: int) -> float:
    """Per page; the entries of a large folio are read before it is made."""
    return FAULT / (1 << order) + ZERO + (SCAN if order else 0)


def made_up(orders: tuple[int, ...] = (0, 2, 4, 6), huge: bool = True) -> Table:
    """A machine on which every cost is exactly a part per folio and a part per page."""
    measured: dict[int, dict[str, list[float]]] = {}
    for order in orders:
        size = 1 << order
        row = {
            "first_touch": first_touch_ns(order),
            "fork": FORK_FOLIO / size + FORK_PAGE,
            "exit_last": FREE_FOLIO / size + FREE_PAGE,
            "exit_shared": DROP_FOLIO / size + DROP_PAGE,
        }
        row |= SINGLE if not order else {"cow_copy": 2400, "reuse": 800}
        measured[order] = {name: [0.5 * ns, float(ns), 9.0 * ns] for name, ns in row.items()}
    if huge:
        measured[9] = {"first_touch": [300.0], "fork": [4.0], "exit_last": [14.0], "exit_shared": [2.0]}
    return Table("a machine", "6.18", "2026-11-23", "cc", {"pages": 4096}, measured)


TABLE = made_up()


# --- prices -----------------------------------------------------------------------------------------------------------


def test_prices_are_found_where_every_cost_is_a_straight_line() -> None:
    assert TABLE.units == pytest.approx({
        "first touch": FAULT, "first touch of 2 MiB": 300 * 512,
        "zero page read": 700, "zero page copy": 1800 - ZERO, "cow copy": 2400 - 350, "reuse": 800,
        "zeroed page": ZERO, "copied page": 350, "scanned entry": 5, "changed entry": 50,
        "forked single page": FORK_FOLIO + FORK_PAGE, "forked page": FORK_PAGE,
        "forked folio": FORK_FOLIO, "forked 2 MiB": 4 * 512,
        "unmapped single page": DROP_FOLIO + DROP_PAGE, "unmapped page": DROP_PAGE,
        "unmapped folio": DROP_FOLIO, "unmapped 2 MiB": 2 * 512,
        "freed single page": FREE_FOLIO + FREE_PAGE, "freed page": FREE_PAGE,
        "freed folio": FREE_FOLIO, "freed 2 MiB": 14 * 512,
    })  # fmt: skip
    assert all(abs(each.part) < 1e-9 for each in TABLE.fitted.residuals)
    assert set(TABLE.units) == set(cost.UNITS)


def test_residual_says_what_a_line_cannot_give_back() -> None:
    table = made_up()
    table.measured[4]["fork"] = [2 * FORK_PAGE] * 3
    assert (table.fitted.worst.name, table.fitted.worst.order) == ("fork", 4)
    assert table.fitted.worst.part < -0.15


def test_no_price_is_negative_even_when_pages_of_folios_cost_more() -> None:
    table = made_up()
    for order in (0, 2, 4, 6):
        table.measured[order]["fork"] = [100.0 + order]
    assert table.units["forked folio"] == 0
    assert 100 < table.units["forked page"] < 107


def test_without_2_mib_its_price_is_that_of_its_parts() -> None:
    table = made_up(huge=False)
    assert table.units["first touch of 2 MiB"] == pytest.approx(FAULT + 512 * ZERO)
    assert table.units["forked 2 MiB"] == pytest.approx(FORK_FOLIO + 512 * FORK_PAGE)


# --- what was done ----------------------------------------------------------------------------------------------------


ARM64 = af.LINUX_6_15.but(name="arm64", cont_pte_order=4)


def touched(orders: tuple[int, ...], pages: int = 64) -> tuple[af.Machine, af.Process]:
    machine = af.Machine(ARM64, orders=orders)
    process = machine.spawn()
    process.mmap(pages)
    process.touch(range(pages))
    return machine, process


@pytest.mark.parametrize("order", [0, 2, 4, 6])
def test_a_run_of_the_model_costs_what_the_measured_run_cost(order: int) -> None:
    machine, process = touched((order,) if order else ())
    assert cost.ns(machine.counters, TABLE) / 64 == pytest.approx(first_touch_ns(order))
    assert cost.ns(cost.forking(process), TABLE) / 64 == pytest.approx(FORK_FOLIO / (1 << order) + FORK_PAGE)
    assert cost.ns(cost.exiting(process), TABLE) / 64 == pytest.approx(FREE_FOLIO / (1 << order) + FREE_PAGE)
    child = process.fork()
    assert cost.ns(cost.exiting(child), TABLE) / 64 == pytest.approx(DROP_FOLIO / (1 << order) + DROP_PAGE)
    before = Work.of(machine.counters.copy())
    process.touch(range(64), value=2)
    assert cost.ns(Work.of(machine.counters) - before, TABLE) / 64 == pytest.approx(2400)
    before = Work.of(machine.counters.copy())
    if not order:
        child.exit()
        process.fork().exit()
        process.touch(range(64), value=3)
        assert cost.ns(Work.of(machine.counters) - before, TABLE) / 64 == pytest.approx(800)


def test_zero_page_is_priced_as_measured() -> None:
    machine = af.Machine(orders=())
    process = machine.spawn()
    process.mmap(8)
    process.touch(range(8), write=False)
    assert cost.ns(machine.counters, TABLE) == pytest.approx(8 * 700)
    process.touch(range(8))
    assert cost.ns(machine.counters, TABLE) == pytest.approx(8 * (700 + 1800))


def test_2_mib_have_prices_of_their_own() -> None:
    _, process = touched((9,), pages=1024)
    assert cost.ns(process.machine.counters, TABLE) == pytest.approx(2 * 512 * 300)
    assert cost.forking(process).units == Counter({"forked 2 MiB": 2})
    assert cost.exiting(process).units == Counter({"freed 2 MiB": 2})
    process.fork()
    assert cost.exiting(process).units == Counter({"unmapped 2 MiB": 2})


def test_a_copy_of_a_whole_folio_is_one_fault_and_sixteen_copies() -> None:
    machine = af.Machine(af.RFC_V2_FIXED, orders=(4,))
    process = machine.spawn()
    process.mmap(16)
    process.write(0)
    process.fork()
    fault = process.write(5)
    assert (fault.path, fault.copied) == ("cow copy", 16)
    work = Work.of(fault)
    assert work.units["copied page"] == 16
    assert work.units["cow copy"] == 1
    assert work.units["changed entry"] == 15
    extra = 15 * 50 + fault.scanned * 5
    assert cost.ns(fault, TABLE) == pytest.approx(2050 + 16 * 350 + extra)
    assert sum(cost.priced(fault, TABLE).values()) == cost.ns(fault, TABLE)


def test_a_partly_unmapped_folio_is_forked_in_pieces() -> None:
    _, process = touched((4,), pages=16)
    process.munmap(4, 2)
    assert cost.forking(process).units == Counter({"forked page": 14, "forked folio": 2})


def test_the_zero_page_is_neither_forked_nor_freed() -> None:
    machine = af.Machine(orders=())
    process = machine.spawn()
    process.mmap(8)
    process.touch(range(8), write=False)
    process.write(3)
    assert cost.forking(process).units == Counter({"forked single page": 1})
    assert cost.exiting(process).units == Counter({"freed single page": 1})


def test_a_replay_costs_what_its_counters_cost() -> None:
    machine, process = touched((4,), pages=40)
    process.fork()
    process.touch(range(3), value=2)
    counters = machine.counters
    replay = Replay((4,), "linux-6.15", counters, 7, 43, 40, 40, 0, {})
    assert Work.of(replay) == Work.of(counters)
    row = cost.row(replay, TABLE, name="64K")
    assert (row.faults, row.held_pages, row.never_written_pages) == (sum(counters.faults.values()), 43, 3)
    assert row.time_ms == pytest.approx(cost.ns(counters, TABLE) / 1e6)


# --- a row ------------------------------------------------------------------------------------------------------------


def test_row_shows_that_larger_folios_save_faults_and_waste_memory() -> None:
    rows = []
    for order in (0, 4):
        machine = af.Machine(ARM64, orders=(order,) if order else ())
        process = machine.spawn()
        process.mmap(64)
        process.touch(range(0, 64, 8))
        rows.append(cost.row(machine, TABLE, name=f"order {order}"))
    single, large = rows
    assert (single.faults, single.held_pages, single.never_written_pages) == (8, 8, 0)
    assert (large.faults, large.held_pages, large.never_written_pages) == (4, 64, 56)
    assert (single.reach_pages, large.reach_pages) == (1280, 1280 * 16)
    assert "order 4" in str(large)
    assert len(str(large)) == len(cost.HEADING)


def test_reach_is_that_of_the_page_table_as_it_is() -> None:
    machine, process = touched((4,), pages=32)
    assert cost.row(machine, TABLE, core=CORTEX_A76).reach_pages == 1280 * 16
    process.fork().exit()
    process.write(3)
    # 16 pages in one entry, 16 single ones: the copy unfolds the block.
    assert cost.row(machine, TABLE, core=CORTEX_A76).reach_pages == round(1280 * 32 / 17)
    assert cost.row(machine, TABLE, core=CORTEX_A76, coalescing=Plain()).reach_pages == 1280


def test_reach_of_whole_folios_is_that_of_their_page_table() -> None:
    for coalescing in (Plain(), Contiguous(), Hpa(2), Hpa(3)):
        for order in (0, 2, 3, 4, 6):
            _, process = touched((order,) if order else (), pages=64)
            from_tables = cost.entry_orders([process], coalescing)
            from_folios = cost.entry_orders_of_folios({order: 64 >> order}, coalescing)
            assert cost.reach_pages(CORTEX_A76, from_tables) >= cost.reach_pages(CORTEX_A76, from_folios)
            if order:
                assert from_tables == from_folios


def test_reach_fills_every_array_with_what_it_keeps() -> None:
    split = Core("split", ((Entries(64, orders=(0,)), Entries(32, orders=(9,))),))
    assert cost.reach_pages(split, {0: 5}) == 64
    assert cost.reach_pages(split, {0: 5, 9: 512}) == 64 + 32 * 512
    # A size that no array keeps is kept in smaller pieces.
    assert cost.reach_pages(GOLDEN_COVE, {4: 160}) == 2048
    assert cost.reach_pages(GOLDEN_COVE, {}) == 0


# --- files ------------------------------------------------------------------------------------------------------------


def test_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_table(tmp_path / "t.json", TABLE)
    again = read_table(tmp_path / "t.json")
    assert (again.machine, again.kernel, again.date, again.about) == ("a machine", "6.18", "2026-11-23", TABLE.about)
    assert again.units == pytest.approx(TABLE.units, rel=1e-3)


def broken(tmp_path: Path, change: Any) -> str:
    path = tmp_path / "broken.json"
    write_table(path, TABLE)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content.update(format="anonfolio-recording/1"), "format is 'anonfolio-recording/1'"),
        (lambda content: content.pop("kernel"), "'kernel' is missing"),
        (lambda content: content["measured"]["0"].pop("reuse"), "costs of single pages .* lack reuse"),
        (lambda content: content["measured"]["2"].update(tea=[1]), "'tea' is no cost"),
        (lambda content: content["measured"]["2"].update(fork=[]), r"order 2, fork: \[\] are no nanoseconds"),
        (lambda content: content["measured"]["2"].update(fork=["1"]), "are no nanoseconds"),
        (lambda content: content["measured"]["4"].update(exit_last=[False]), "are no nanoseconds"),
        (lambda content: content["measured"]["4"].update(exit_last=[0.0]), "each is a number above 0"),
        (lambda content: content["measured"]["4"].update(exit_last=[float("inf")]), "are no nanoseconds"),
        (lambda content: content.update(measured=[1]), "list"),
    ],
)
def test_broken_table_is_refused_with_its_name(tmp_path: Path, change: Any, says: str) -> None:
    path = broken(tmp_path, change)
    with pytest.raises(CostError, match=rf"broken\.json: .*{says}"):
        read_table(path)


def test_unknown_table_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "show", "linux-1.0"]) == 2
    assert "no such table; stored are linux-" in capsys.readouterr().err


def test_stored_tables_say_where_they_are_from_and_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.tables()
    for name in cost.tables():
        table = read_table(name)
        assert table.machine
        assert table.kernel in name
        assert table.date.startswith("20")
        assert len(table.measured[0]["first_touch"]) == table.about["rounds"] >= 3
        # Sixteen times fewer faults are not sixteen times less time: zeroing stays.
        assert 2 < table.ns_per_page("first_touch", 0) / table.ns_per_page("first_touch", 4) < 8
        touches = [each for each in table.fitted.residuals if each.name in ("first_touch", "cow_copy", "reuse")]
        assert max(abs(each.part) for each in touches) < 0.3
        assert main(["cost", "show", name]) == 0
        assert "what they miss by" in capsys.readouterr().out


# --- live -------------------------------------------------------------------------------------------------------------


def test_measuring_where_it_cannot_be_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert main(["cost", "measure", "--rounds", "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("anonfolio: ")
    assert len(said.splitlines()) == 1
    assert main(["cost", "measure", "--pages", "100"]) == 2
    assert main(["cost", "measure", "table.txt"]) == 2


@pytest.mark.live
def test_this_kernel_gives_a_table_and_its_knobs_are_put_back(tmp_path: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("measuring needs Linux and root")
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live.cost import check_possible, measure
    from anonfolio.witness.live.kernel import THP, Knobs, only_run

    try:
        check_possible(512)
    except LiveError as reason:
        pytest.skip(str(reason))

    def knobs() -> list[str]:
        # With the lock held, for someone else's run changes them too.
        with only_run():
            return [Knobs.read(path) for path in (THP / "enabled", *sorted(THP.glob("hugepages-*kB/enabled")))]

    told = []
    try:
        before = knobs()
        table = measure(pages=512, rounds=1, orders=(9,), cold_rounds=0, progress=lambda *what: told.append(what))
    except LiveError as reason:
        pytest.skip(str(reason))
    assert knobs() == before
    assert set(table.measured) == {0, 9}
    assert set(table.measured[0]) == set(cost.MEASURED)
    assert table.ns_per_page("first_touch", 0) > table.ns_per_page("no_fault", 0)
    assert [done for done, _, _ in told] == [0, 1]
    write_table(tmp_path / "mine.json", table)
    assert read_table(tmp_path / "mine.json").kernel == table.kernel


def test_a_host_that_takes_memory_back_adds_the_same_to_each_page_of_a_first_touch() -> None:
    warm = read_table("linux-6.18.44")
    assert (warm.cold, warm.host_ns) == (None, None)
    first = warm.ns_per_page("first_touch", 9)
    known = replace(
        warm, measured={**warm.measured, 9: {**warm.measured[9], COLD: [first + 4000, first + 4200, first]}}
    )
    assert known.host_ns == pytest.approx(4000)
    cold = known.cold
    assert cold is not None
    for order in (0, 4, 9):
        assert cold.ns_per_page("first_touch", order) == pytest.approx(warm.ns_per_page("first_touch", order) + 4000)
    assert cold.ns_per_page("cow_copy") == pytest.approx(warm.ns_per_page("cow_copy") + 4000)
    assert cold.ns_per_page("reuse") == warm.ns_per_page("reuse")
    # A folio of 2 MiB is provided whole.
    assert cold.units["first touch of 2 MiB"] - warm.units["first touch of 2 MiB"] == pytest.approx(512 * 4000)
    assert "first_touch_cold" in str(known)
    never_slower = replace(known, measured={**known.measured, 9: {**known.measured[9], COLD: [1.0]}})
    assert never_slower.host_ns == 0


def test_costs_of_cold_memory_are_kept_in_a_file(tmp_path: Path) -> None:
    table = read_table("linux-6.18.44")
    known = replace(table, measured={**table.measured, 9: {**table.measured[9], COLD: [4000.0]}})
    write_table(tmp_path / "t.json", known)
    assert read_table(tmp_path / "t.json").host_ns == pytest.approx(known.host_ns, abs=0.1)
