"""Notebook 09: what it says of faults, time, memory and other people's figures is what model, kernel and data say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from anonfolio import LINUX_6_15, RFC_V2, Scenario
from anonfolio.exercises import cost_and_memory as q
from anonfolio.hardware.trace import ALL_SIZES
from anonfolio.program.formats import DATA
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
    everything = (q.best, q.cheaper, q.bound, q.hoard, q.unwritten, q.choose)
    for one in everything:
        one.forget()
    yield
    for one in everything:
        one.forget()


# --- the compile ----------------------------------------------------------------------------------------------------


def test_one_recording_predicts_what_the_kernel_counts_under_every_size() -> None:
    for model, kernel in zip(q.model_faults(), q.kernel_faults(), strict=True):
        assert abs(model / kernel - 1) < 0.01


def test_the_curve_is_lowest_at_64k_and_falls_again_past_256k_measured_and_modelled() -> None:
    for faults in (q.kernel_faults(), q.model_faults()):
        lowest, last = SIZES.index("64K"), SIZES.index("256K")
        assert min(faults) == faults[lowest]
        assert faults[: lowest + 1] == sorted(faults[: lowest + 1], reverse=True)
        assert faults[lowest + 1] > faults[lowest]
        assert faults[last:] == sorted(faults[last:], reverse=True)
        assert faults[last] == max(faults[lowest:])
    reach = q.over_sizes(lambda bill: bill.row.reach_pages)["the compile"]
    assert max(reach) == reach[SIZES.index("64K")]


def test_peak_memory_grows_as_the_kernels_did() -> None:
    rows = [line.split() for line in q.checked().splitlines()[2:]]
    assert len(rows) == len(SIZES)
    for row in rows:
        assert abs(int(row[4]) - int(row[5])) <= 22, row
        assert abs(float(row[3].rstrip("%"))) < 0.1, row
    assert "Faults: within 0.1 %. Extra memory: within 22 pages" in WORDS


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
    assert q.grows.run(LINUX_6_15).codes() == ["alloc4", *["alloc0"] * 10, "alloc4"]
    proposal = q.grows.run(RFC_V2).codes()
    assert [code for code in proposal if code != "nf"] == ["alloc4", "alloc3", "alloc3", "alloc4"]
    # All of block 16-31, also what is written after the heap has grown.
    grown = ("mprotect", 0, 24, 24, 3)
    steps = [*q.grows.steps[:2], *(("write", 0, page, 1) for page in range(16, 24)), grown]
    whole = q.grows.but(steps=[*steps, *(("write", 0, page, 1) for page in range(24, 32))])
    assert whole.run(LINUX_6_15).codes()[1:] == ["alloc0"] * 16
    assert whole.run(RFC_V2).codes()[1:] == ["alloc3", *["nf"] * 7] * 2


def test_a_block_of_32_pages_fits_33_new_ones_from_two_starts_in_32() -> None:
    fits = [start for start in range(32) if any(block % 32 == 0 for block in range(start, start + 33 - 31))]
    assert len(fits) == 2
    assert "from two starts in 32 only" in WORDS


def test_several_sizes_together_take_fewer_faults_and_waste_more() -> None:
    faults = [q.replayed(orders).total for orders in ((4,), (2, 4), ALL_SIZES)]
    waste = [q.replayed(orders).never_written_pages for orders in ((4,), (2, 4), ALL_SIZES)]
    assert faults == sorted(faults, reverse=True)
    assert waste == sorted(waste)
    assert f"{faults[-1]:,} faults against {faults[0]:,}, for {waste[-1] - waste[0]} more pages" in WORDS
    assert faults[-1] < min(q.model_faults())
    for orders in ((4,), (2, 4), ALL_SIZES):
        assert abs(q.replayed(orders).total / q.compile_measured()[orders].median_faults - 1) < 0.01


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_page_gets_cheaper_up_to_a_size_and_a_fault_dearer_with_every_size() -> None:
    orders = [orders[0] if orders else 0 for orders in q.SIZES.values()]
    waits = [q.fault_us(order) for order in orders]
    assert waits == sorted(waits)
    assert waits[-1] > 20 * waits[0]
    page = [q.prices().ns_per_page("first_touch", order) for order in orders]
    assert page[:5] == sorted(page[:5], reverse=True)
    assert page[0] > 2 * page[3]
    # What is left is zeroing.
    assert all(0.6 < each / page[3] < 1.2 for each in page[4:])


def test_what_another_machine_measured_is_said_beside_it() -> None:
    others = [name for name in q.tables() if name != q.PRICES]
    assert others
    told = q.one_fault()
    for name in others:
        table = q.read_table(name)
        share = table.ns_per_page("first_touch", 4) / table.ns_per_page("first_touch")
        assert (
            f"{table.machine}, load {max(table.about['load_before_and_after'])}: a page of 64K costs {share:.0%}"
            in told
        )


def test_how_prices_were_measured_and_how_far_the_line_is_off_is_said_by_the_table() -> None:
    about = q.prices().about
    told = " ".join(q.one_fault().split())
    assert f"{about['rounds']} rounds" in told
    assert f"{about['pages']:,} pages each" in told
    assert "load {} before and {} after".format(*about["load_before_and_after"]) in told
    line = " ".join(q.line_against_measured().split())
    single = next(each for each in q.prices().fitted.residuals if (each.name, each.order) == ("first_touch", 0))
    assert f"measured {single.measured:,.0f} ({single.part:+.0%})" in line
    assert f"{q.prices().units['zeroed page']:,.0f} ns a page" in line
    assert f"clearing 4 KiB alone: {q.prices().ns_per_page('clear_page'):,.0f} ns" in line


def test_no_measured_price_stands_in_the_prose() -> None:
    # Prices are measured anew: only what code prints may be exact.
    assert not re.search(r"\d (ns|µs|ms)\b", WORDS)


def test_the_part_per_page_hardly_changes_with_the_size_and_the_time_is_lowest_at_64k_too() -> None:
    parts = q.time_parts()
    pages = parts[q.PARTS[1]][:-1]
    assert max(pages) / min(pages) < 1.05
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


def test_their_table_names_its_columns_and_no_line_is_too_long_for_a_page() -> None:
    lines = q.beside().splitlines()
    assert "wall-clock" in lines[1]
    assert "in kernel" in lines[1]
    assert max(map(len, [*lines, *q.copies_against_reuses().splitlines()])) <= 106
    assert "derived from -64 %" in q.copies_against_reuses()


def test_a_copy_costs_more_than_a_reuse_on_both_machines() -> None:
    times = [float(re.search(r"([\d.]+) times", line)[1]) for line in q.copies_against_reuses().splitlines()]  # type: ignore[index]
    assert times[0] == 2.8
    assert 1.5 < times[1] < 5


# --- programs that fork ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_what_a_rule_costs_shows_where_children_write_and_nowhere_else() -> None:
    copied = {rule: q.forking("server", rule).counters.faults["cow copy"] for rule in q.AFTER_FORK}
    assert copied["6.9"] > copied["6.8"] > copied["6.15"] > 10 * copied["RFC v2"]
    assert len({q.forking("objects", rule).anonymous for rule in ("6.8", "6.9", "6.15")}) == 1
    assert q.forking("make", "6.9").faults == q.forking("make", "6.15").faults
    rows = q.after_fork().splitlines()
    assert len(rows) == 1 + len(q.FORKING) * len(q.AFTER_FORK)
    assert f"{q.forking('server').counters.copied:,}" in rows[7]


def test_each_process_stands_beside_the_kernels_count() -> None:
    for row in q.by_process().splitlines()[1:]:
        model, kernel = (int(word.replace(",", "")) for word in row[18:34].split())
        assert abs(model - kernel) <= 4


# --- growth ---------------------------------------------------------------------------------------------------------


def test_the_models_own_time_and_memory_grow_in_proportion() -> None:
    rows = json.loads((DATA / "costs" / "growth.json").read_text())["sizes"]
    sizes = [each["pages"] / 256 for each in rows]
    assert (sizes[0], sizes[-1]) == (1, 1 << 20)
    for what in ("first_touch", "fork"):
        seconds = [float(np.median(each["warm_s"][what])) for each in rows]
        for mib, taken in zip(sizes, seconds, strict=True):
            if mib >= 1024:
                assert 0.4 < taken / (seconds[-1] * mib / sizes[-1]) < 2.5, (what, mib)
    gib = [each["peak_gib"] for each in rows]
    # What starting takes differs by a page or so.
    assert all(small < large + 0.001 for small, large in pairwise(gib))
    assert gib[-1] < 8


# --- questions ------------------------------------------------------------------------------------------------------


def test_the_question_says_what_was_compiled() -> None:
    lines = re.search(r"([\d,]+) lines", q.best.prompt)
    assert lines
    assert f"{lines[1].replace(',', '')} lines" in q.compile_trace().about["source"]


def test_bigger_is_better_is_recognised() -> None:
    assert q.best.answer == "b"
    assert "Bigger is not better: this is second best" in q.best.check("d").lines[0]
    offered = {letter: q.compile_measured()[q.SIZES[size]].median_faults for letter, size in q.OFFERED.items()}
    assert sorted(offered, key=lambda letter: offered[letter])[1] == "d"
    assert q.program_faults("as")[-1] == q.program_faults("as")[0]
    assert q.best.check("64 KiB").kind == "right"
    assert {mistake.answer for mistake in q.best.mistakes} == {"a", "c", "d"}


def test_a_sixteenth_of_the_faults_is_not_a_sixteenth_of_the_time() -> None:
    assert q.cheaper.answer == "b"
    assert "zeroed" in q.cheaper.check("a").lines[0]
    assert "Not a" in q.cheaper.check("a").head
    assert {mistake.answer for mistake in q.cheaper.mistakes} == {"a", "c", "d"}
    assert "Less than half" in q.cheaper.check("c").lines[0]


def test_waste_bounded_by_the_order_is_recognised() -> None:
    assert q.bound.answer == 128 * 15
    # The program of the table that answers it.
    assert q.bound.answer == q.bill("one page in 64", "64K").row.never_written_pages
    assert "bounded by the order" in q.bound.check(15).lines[0]
    assert {mistake.answer for mistake in q.bound.mistakes} == {0, 15, 2048}


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
        ("pages 16\norders 4\nwrite 0 0..15", "Drop most of a folio, so that it must stay."),
        ("pages 16\norders 4\nwrite 0 0..15\nmunmap 0 0 15", "kept. But munmap took the addresses away, too"),
        ("pages 16\norders 4\nwrite 0 15 1\nmadvise 0 0 15 dontneed", "use the dropped addresses again"),
        ("pages 32\norders 4\nwrite 0 0..31", "Too large. The mapping may have 16 pages"),
        ("pages 16\norders 4\nwrite 0 0..15\nfork 0", "only write, read"),
        ("pages 16\norders 4\nwrite 0 0..15\nmunmap 0 0 4\nwrite 0 1 1", "SIGSEGV"),
        ("pages 16\norders 4", "does nothing"),
    ],
)
def test_hoarding_wrong_programs_are_told_why(program: str, says: str) -> None:
    said = q.hoard.check(program)
    assert said.kind == "wrong"
    assert says in " ".join([said.head, *said.lines])


def test_the_worked_count_is_the_librarys_and_each_wrong_one_is_known() -> None:
    assert q.unwritten.check(q.never_written).kind == "right"
    for says, wrong in q.unwritten.wrong.items():
        note = q.unwritten.check(wrong)
        assert note.kind == "wrong"
        assert says in note.lines
        assert note.picture is not None
    answers = [right for _, right in q.unwritten.cases]
    assert answers.count(0) < len(answers) / 2
    assert len(set(answers)) > 15


def test_counting_waits_for_a_function_and_gives_hints_and_a_solution() -> None:
    assert "returns nothing" in repr(q.unwritten.check(lambda order, writes, mapping: ...))
    assert "def never_written" in q.unwritten.solution().code
    assert q.unwritten.hint().lines[0].startswith("Which blocks")


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


def test_a_right_size_with_a_wrong_reason_is_told_apart_from_a_wrong_one() -> None:
    assert q.choose.check(a=("64K", "memory")).head == "0 of 3 right; a: size right, reason not."
    assert q.choose.check(a=("2M", "faults"), b=("4K", "memory")).head == "1 of 3 right."
    assert q.choose.check(a=("64K", "memory"), c=("256K", "faults")).head.endswith("; a, c: size right, reason not.")


def test_sizes_are_read_as_people_write_them_and_nonsense_is_no_error() -> None:
    assert q.choose.check(a=("64 kib", "Faults")).kind == "right"
    assert "Still open: b, c." in q.choose.check(a=("64K", "faults")).lines
    assert "put a size and a reason" in " ".join(q.choose.check(a=...).lines)
    for answer in ("64K", ("64K",), ("3K", "faults"), ("64K", "fun")):
        assert q.choose.check(a=answer).head.startswith("Cannot read")
    assert q.choose.check(z=("64K", "faults")).head.startswith("Cannot read")


def test_the_limits_are_far_from_every_size_so_that_new_prices_change_no_answer() -> None:
    waits = [q.bill("every page", size).largest_us for size in SIZES]
    assert all(abs(wait / q.LARGEST_US - 1) > 0.15 for wait in waits)
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
        plots.straight("D", [1, 4], ["1 MiB", "4 MiB"], [plots.Panel("s", [line])], x_name="memory"),
    ]


def test_figures_are_the_same_each_time_and_say_their_numbers() -> None:
    first, second = drawn(), drawn()
    assert [each.svg for each in first] == [each.svg for each in second]
    told = [line.split() for line in repr(first[0]).splitlines()[3:]]
    assert told == [["4K", "1.0", "1.2"], ["16K", "3.5", "3.0"]]
    assert first[2].words.splitlines()[2].split() == ["4K", "1.0", "1.2", "2.2"]
    assert "1 MiB" in first[3].svg
    assert all(plots.PAPER in each.svg for each in first)
    assert [row.split()[:2] for row in first[3].words.splitlines()[3:]] == [["1", "MiB"], ["4", "MiB"]]


@pytest.mark.long
def test_panels_stand_one_below_the_other_and_each_names_every_size() -> None:
    made = drawn()[1]
    assert made.svg.count(">16K</text>") == 2
    heights = [float(height) for height in re.findall(r'<svg[^>]*height="([\d.]+)pt"', made.svg)]
    single = [float(height) for height in re.findall(r'<svg[^>]*height="([\d.]+)pt"', drawn()[0].svg)]
    assert heights > single
