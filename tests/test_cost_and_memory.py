"""Notebook 09: what it says of faults, time, memory and other people's figures is what model, kernel and data say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from anonfolio import LINUX_6_15, RFC_V2, Scenario
from anonfolio.exercises import cost_and_memory as q
from anonfolio.trace import ALL_SIZES
from anonfolio.view import plots

ROOT = Path(__file__).parent.parent
WORDS = "\n".join(
    cell.source
    for cell in nbformat.read(ROOT / "notebooks" / "09_cost_and_memory.ipynb", as_version=4).cells
    if cell.cell_type == "markdown"
)
SIZES = list(q.SIZES)


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    everything = (q.best, q.cheaper, q.bound, q.hoard, q.choose)
    for one in everything:
        one.forget()
    yield
    for one in everything:
        one.forget()


# --- the compile ----------------------------------------------------------------------------------------------------


def test_one_recording_predicts_what_the_kernel_counts_under_every_size() -> None:
    for model, kernel in zip(q.model_faults(), q.kernel_faults(), strict=True):
        assert abs(model / kernel - 1) < 0.01


def test_the_knee_is_at_64k_measured_and_modelled_and_in_reach() -> None:
    for faults in (q.kernel_faults(), q.model_faults()):
        knee = SIZES.index("64K")
        assert min(faults) == faults[knee]
        assert faults[: knee + 1] == sorted(faults[: knee + 1], reverse=True)
        assert faults[knee + 1] > faults[knee]
    reach = q.over_sizes(lambda bill: bill.row.reach_pages)["the compile"]
    assert max(reach) == reach[SIZES.index("64K")]


def test_peak_memory_grows_as_the_kernels_did() -> None:
    rows = [line.split() for line in q.checked().splitlines()[2:]]
    assert len(rows) == len(SIZES)
    for row in rows:
        assert abs(int(row[4]) - int(row[5])) < 64, row


def test_one_program_wants_large_blocks_and_the_other_small_ones() -> None:
    compiler, assembler = q.program_faults("cc1"), q.program_faults("as")
    assert compiler == sorted(compiler, reverse=True)
    assert SIZES[compiler.index(min(compiler))] == "2M"
    assert SIZES[assembler.index(min(assembler))] == "32K"
    # Nothing larger than 128K ever fits: as many faults as with 4K alone.
    assert set(assembler[SIZES.index("256K") :]) == {assembler[0]}
    others = [q.replayed((4,), name).anonymous for name in ("as", "gcc")]
    assert q.program_faults("cc1")[SIZES.index("64K")] == q.replayed((4,)).anonymous - sum(others)
    assert "512 pages" in WORDS
    assert "by 33 pages" in WORDS
    assert [line.split()[0] for line in q.growth_of_heaps().splitlines()] == ["cc1", "as"]
    assert "512 pages  61 times" in q.growth_of_heaps()
    assert "33 pages 143 times" in q.growth_of_heaps()


def test_one_programs_trace_alone_costs_it_what_it_costs_among_the_others() -> None:
    whole = q.replayed((4,)).anonymous
    assert whole == sum(q.replayed((4,), name).anonymous for name in ("gcc", "cc1", "as"))


def test_a_growing_heap_takes_single_pages_where_smaller_orders_would_fit() -> None:
    assert q.grows.run(LINUX_6_15).codes() == ["alloc4", "alloc0", "alloc0", "alloc0", "alloc4"]
    assert q.grows.run(RFC_V2).codes()[1] == "alloc3"
    singles = q.grows.but(steps=[*q.grows.steps[:2], ("write", 0, 16, 1)])
    assert singles.run(LINUX_6_15).show(2).text().count("alloc0") == 1
    to_the_end = q.grows.but(steps=[*q.grows.steps[:2], *(("write", 0, page, 1) for page in range(16, 24))])
    assert to_the_end.run(LINUX_6_15).codes()[1:] == ["alloc0"] * 8
    assert to_the_end.run(RFC_V2).codes()[1:] == ["alloc3"] + ["nf"] * 7


def test_several_sizes_together_take_fewer_faults_and_waste_more() -> None:
    faults = [q.replayed(orders).total for orders in ((4,), (2, 4), ALL_SIZES)]
    waste = [q.replayed(orders).waste_pages for orders in ((4,), (2, 4), ALL_SIZES)]
    assert faults == sorted(faults, reverse=True)
    assert waste == sorted(waste)
    for orders in ((4,), (2, 4), ALL_SIZES):
        assert abs(q.replayed(orders).total / q.compile_measured()[orders].median_faults - 1) < 0.01


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_page_gets_cheaper_and_a_fault_dearer_with_every_size() -> None:
    orders = [orders[0] if orders else 0 for orders in q.SIZES.values()]
    waits = [q.fault_us(order) for order in orders]
    assert waits == sorted(waits)
    assert waits[-1] > 20 * waits[0]
    page = [q.prices().ns_per_page("first_touch", order) for order in orders]
    assert page[0] > 2 * page[-1]
    assert page[-1] < page[4] < page[1]


def test_zeroing_hardly_changes_with_the_size_and_the_knee_is_in_the_time_too() -> None:
    parts = q.time_parts()
    zeroing = parts["zeroing"][:-1]
    assert max(zeroing) / min(zeroing) < 1.05
    whole = [sum(each) for each in zip(*parts.values(), strict=True)]
    below_2m = whole[:-1]
    assert SIZES[below_2m.index(min(below_2m))] == "64K"
    for size, ms in zip(SIZES, whole, strict=True):
        assert ms == pytest.approx(q.bill("the compile", size).row.time_ms)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_dense_programs_waste_nothing_and_sparse_ones_a_folio_per_page() -> None:
    memory = q.over_sizes(lambda bill: bill.held_per_written)
    assert set(memory["every page"]) == {1.0}
    assert memory["one page in 64"] == [1, 4, 8, 16, 32, 64, 64, 64, 64]
    assert max(memory["the compile"]) < 1.02
    sparse = [q.bill("one page in 64", size).row.faults for size in SIZES]
    assert set(sparse[: SIZES.index("256K") + 1]) == {sparse[0]}
    assert sparse[SIZES.index("512K")] < sparse[0]


def test_three_reach_curves_coincide_and_only_the_contiguous_bit_and_the_pmd_make_them_rise() -> None:
    reach = q.over_sizes(lambda bill: bill.row.reach_pages)
    assert reach["every page"] == reach["a quarter, at random"] == reach["one page in 64"]
    assert reach["every page"] == [1280] * 3 + [1280 * 16] * 5 + [1280 * 512]


def test_frames_that_nobody_maps_stay_held_on_real_kernels_and_in_the_model() -> None:
    rows = [line.split() for line in q.kept_for_nothing().splitlines()[1:]]
    assert len(rows) == 9
    for row in rows:
        mapped, held = map(int, row[-4:-2])
        assert mapped < held
        assert row[-2:] == ["the", "same"]
    end = q.left.run(LINUX_6_15)[16].snapshot
    assert (end.rss_pages, end.held_pages, end.waste_pages) == (1, 16, 15)


def test_the_last_write_frees_the_folio_in_6_18_and_keeps_it_in_the_proposal() -> None:
    real = q.left.recorded("6.18")
    assert not q.left.run(LINUX_6_15).compare(real)
    found = q.left.run(RFC_V2).compare(real)
    assert [difference.number for difference in found] == [len(q.left.steps) - 1]
    assert q.left.run(LINUX_6_15)[-1].snapshot.held_pages == 1
    assert q.left.run(RFC_V2)[-1].snapshot.held_pages == 16


# --- what others published ------------------------------------------------------------------------------------------


def published() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "data" / "published" / q.PUBLISHED).read_text(encoding="utf-8"))
    return content


def test_every_published_table_has_source_machine_unit_and_whole_rows() -> None:
    content = published()
    assert content["format"] == "anonfolio-published/1"
    names = [table["name"] for table in content["tables"]]
    assert len(names) == len(set(names))
    for table in content["tables"]:
        assert re.fullmatch(r"https://lore\.kernel\.org/linux-mm/2\d{13}\.[\d.]+-1-[\w.]+@[\w.]+/", table["source"])
        assert table["by"]
        assert table["machine"]
        assert table["unit"]
        assert re.match(r"20\d\d-\d\d", table["date"])
        for line, values in table["rows"]:
            assert line
            assert len(values) == len(table["columns"])
            assert all(value is None or isinstance(value, (int, float)) for value in values)


@pytest.mark.parametrize(
    ("table", "line", "column", "value"),
    [
        ("v1", "anonfolio", "kern", -46.0),
        ("v6-j8", "4k-page-64k-folio", "kern", -37.9),
        ("v6-j8", "64k-page", "memory", 28.3),
        ("v6-j80", "4k-page-16k-folio", "memory", 2.7),
        ("contpte-v5-j8", "mTHP + contpte", "real", -6.0),
        ("fork-batching", "64K", "with the series", 0.010444),
        ("mm-id", "16K", "reuse-byte", -66),
        ("v1", "baseline-64k", "Speedometer", None),
    ],
)
def test_published_figures_are_found(table: str, line: str, column: str, value: float | None) -> None:
    assert q.figure(table, line, column) == value


def test_an_unknown_published_table_is_named() -> None:
    with pytest.raises(ValueError, match="'v7' is none of"):
        q.published("v7")


def test_their_figures_and_ours_level_off_towards_64k_and_64k_pages_cost_memory() -> None:
    theirs = [q.figure("v6-j8", name, "kern") or 0 for name in q.THEIRS]
    base = q.replayed().anonymous
    ours = [100 * (q.replayed(orders).anonymous / base - 1) for orders in q.THEIRS.values()]
    for values in (theirs, ours):
        assert values == sorted(values, reverse=True)
        steps = [before - after for before, after in zip([0, *values], values, strict=False)]
        assert steps == sorted(steps, reverse=True)
    assert (q.figure("v6-j8", "64k-page", "memory") or 0) > 10 * (q.figure("v6-j8", "4k-page-64k-folio", "memory") or 0)
    text = q.beside()
    assert "Ampere Altra" in text
    assert "https://lore.kernel.org/" in text
    assert "+28.3%" in text


def test_a_copy_costs_more_than_a_reuse_on_both_machines() -> None:
    times = [float(re.search(r"([\d.]+) times", line)[1]) for line in q.copies_against_reuses().splitlines()]  # type: ignore[index]
    assert times[0] == 2.8
    assert 1.5 < times[1] < 5


# --- growth ---------------------------------------------------------------------------------------------------------


def test_the_models_own_time_and_memory_grow_in_proportion() -> None:
    sizes = q.grown_mib()
    assert (sizes[0], sizes[-1]) == (1, 1 << 20)
    for what in ("first_touch", "fork"):
        seconds = q.grown(what)
        for mib, taken in zip(sizes, seconds, strict=True):
            if mib >= 1024:
                assert 0.4 < taken / (seconds[-1] * mib / sizes[-1]) < 2.5, (what, mib)
    gib = q.grown("memory")
    assert gib == sorted(gib)
    assert gib[-1] < 8


# --- questions ------------------------------------------------------------------------------------------------------


def test_the_question_says_what_was_compiled() -> None:
    lines = re.search(r"([\d,]+) lines", q.best.prompt)
    assert lines
    assert f"{lines[1].replace(',', '')} lines" in q.compile_trace().about["source"]


def test_bigger_is_better_is_recognised() -> None:
    assert q.best.answer == "b"
    assert "Bigger is not better" in q.best.check("d").lines[0]
    assert q.best.check("64 KiB").kind == "right"
    assert {mistake.answer for mistake in q.best.mistakes} == {"a", "c", "d"}


def test_a_sixteenth_of_the_faults_is_not_a_sixteenth_of_the_time() -> None:
    assert q.cheaper.answer == "b"
    assert "zeroed" in q.cheaper.check("a").lines[0]
    assert "Not a" in q.cheaper.check("a").head
    assert {mistake.answer for mistake in q.cheaper.mistakes} == {"a", "d"}


def test_waste_bounded_by_the_order_is_recognised() -> None:
    assert q.bound.answer == 64 * 15
    assert "bounded by the order" in q.bound.check(15).lines[0]
    assert {mistake.answer for mistake in q.bound.mistakes} == {0, 15, 1024}


def test_hoarding_right_programs_are_accepted() -> None:
    assert (q.held(q.hoards.run(LINUX_6_15)), q.held(q.hoards_more.run(LINUX_6_15))) == (31, 44)
    said = q.hoard.check(q.hoards.text())
    assert said.kind == "right"
    assert "44 are possible" in said.lines[0] + said.lines[-1]
    assert q.hoard.check(q.hoards_more.text()).kind == "right"
    assert "madvise 0 0 15 dontneed" in q.hoard.solution().code


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("pages 16\norders 4\nwrite 0 0..15", "That holds 16"),
        ("pages 16\norders 4\nwrite 0 0..15\nmunmap 0 0 15", "use the dropped addresses again"),
        ("pages 32\norders 4\nwrite 0 0..31", "may have 16 pages"),
        ("pages 16\norders 4\nwrite 0 0..15\nfork 0", "only write, read"),
        ("pages 16\norders 4\nwrite 0 0..15\nmunmap 0 0 4\nwrite 0 1 1", "SIGSEGV"),
        ("pages 16\norders 4", "does nothing"),
    ],
)
def test_hoarding_wrong_programs_are_told_why(program: str, says: str) -> None:
    said = q.hoard.check(program)
    assert said.kind == "wrong"
    assert says in " ".join([said.head, *said.lines])


RIGHT = {"a": ("64K", "faults"), "b": ("4K", "memory"), "c": ("256K", "latency")}


def test_each_program_has_another_size_and_another_reason_and_both_are_computed() -> None:
    assert {letter: (job.best(), job.against_next()) for letter, job in q.JOBS.items()} == RIGHT
    assert {reason for _, reason in RIGHT.values()} == set(q.REASONS)
    said = q.choose.check(**RIGHT)
    assert (said.kind, said.head) == ("right", "3 of 3 right.")
    assert q.choose.kept == RIGHT
    solution = q.choose.solution()
    assert solution.fold
    for (size, reason), line in zip(RIGHT.values(), solution.lines, strict=True):
        assert f": {size}. " in line
        assert f": {reason}. " in line


@pytest.mark.parametrize(
    ("letter", "answer", "says"),
    [
        ("a", ("2M", "faults"), "Bigger is not better"),
        ("a", ("16 KiB", "faults"), "a larger one"),
        ("a", ("64K", "memory"), "64K is right, but"),
        ("b", ("64K", "memory"), "breaks the limit"),
        ("c", ("2M", "latency"), "breaks the limit"),
        ("c", ("64K", "latency"), "a larger one"),
    ],
)
def test_a_wrong_choice_or_defence_is_told_why(letter: str, answer: tuple[str, str], says: str) -> None:
    said = q.choose.check(**{letter: answer})
    assert said.kind == "wrong"
    assert says in said.lines[0]


def test_sizes_are_read_as_people_write_them_and_nonsense_is_no_error() -> None:
    assert q.choose.check(a=("64 kib", "Faults")).kind == "right"
    assert "Still open: b, c." in q.choose.check(a=("64K", "faults")).lines
    assert "put a size and a reason" in " ".join(q.choose.check(a=...).lines)
    for answer in ("64K", ("64K",), ("3K", "faults"), ("64K", "fun")):
        assert q.choose.check(a=answer).head.startswith("Cannot read")
    assert q.choose.check(z=("64K", "faults")).head.startswith("Cannot read")


def test_the_limits_are_far_from_every_size_so_that_new_prices_change_no_answer() -> None:
    waits = [q.bill("every page", size).longest_us for size in SIZES]
    assert all(abs(wait / q.LONGEST_US - 1) > 0.15 for wait in waits)
    memory = [q.bill("a quarter, at random", size).held_per_written for size in SIZES]
    assert all(abs(held / q.MOST_PER_WRITTEN - 1) > 0.15 for held in memory)


@pytest.mark.parametrize("scenario", [q.grows, q.hoards, q.hoards_more, q.left], ids=lambda each: each.name)
def test_every_program_runs_without_a_refusal(scenario: Scenario) -> None:
    assert all(result.ok for result in scenario.run(LINUX_6_15))


# --- figures --------------------------------------------------------------------------------------------------------


def drawn() -> list[plots.Plot]:
    names, line = ["4K", "16K"], plots.Line("one", [1.0, 3.5])
    ring = plots.Line("counted", [1.25, 3.0])
    return [
        plots.panels("A", names, [plots.Panel("faults", [line, ring], dots=["counted"])], x_name="size"),
        plots.panels("B", names, [plots.Panel("x", [line]), plots.Panel("y", [line], log=True)], x_name="size"),
        plots.stacks("C", names, [line, ring], x_name="size", y_name="ms"),
        plots.straight("D", [1, 4], [plots.Panel("s", [line])], x_name="MiB", x_ticks={1: "1 MiB", 4: "4 MiB"}),
    ]


def test_figures_are_the_same_each_time_and_say_their_numbers() -> None:
    first, second = drawn(), drawn()
    assert [each.svg for each in first] == [each.svg for each in second]
    told = [line.split() for line in repr(first[0]).splitlines()[3:]]
    assert told == [["4K", "1.0", "1.2"], ["16K", "3.5", "3.0"]]
    assert first[2].words.splitlines()[2].split() == ["4K", "1.0", "1.2", "2.2"]
    assert "1 MiB" in first[3].svg
    assert all(plots.PAPER in each.svg for each in first)
