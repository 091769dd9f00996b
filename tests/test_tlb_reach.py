"""Notebook 08: what it says of entries, reach, walks and the contiguous bit is what the library and recordings do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from anonfolio import LINUX_6_15, Scenario
from anonfolio.exercises import tlb_reach as q
from anonfolio.hardware.lru import lru_by_steps
from anonfolio.hardware.tlb import CORES, Contiguous, Hpa, Plain, page_table
from anonfolio.kernel.pagetable import PTE_CONT, PTE_YOUNG
from anonfolio.kernel.record import COW_COPY, REUSE
from anonfolio.view import plots


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    everything = (q.alike, q.sixteen, q.refold, q.stops, q.may_carry)
    for one in everything:
        one.forget()
    yield
    for one in everything:
        one.forget()


# --- what entries cover ---------------------------------------------------------------------------------------------


def test_one_folio_takes_16_entries_or_4_or_1() -> None:
    assert [len(found) for _, found in q.rows(q.folio16)] == [16, 4, 1]
    assert q.alike.answer == 16
    assert "Contiguity is not enough" in q.alike.check(1).lines[0]
    assert "HPA" in q.alike.check(4).lines[0]
    assert q.alike.check(2).lines[0].startswith("No entry")


def test_a_copied_page_costs_the_bit_15_entries_and_hpa_2() -> None:
    plain, hpa, bit = (found for _, found in q.rows(q.copied))
    assert len(plain) == len(bit) == 16
    assert hpa == [(0, 4), (4, 1), (5, 1), (6, 2), (8, 4), (12, 4)]
    assert [len(found) for _, found in q.rows(q.copied, process=1)] == [16, 4, 1]


def test_pieces_leave_out_what_nothing_maps() -> None:
    scenario = Scenario.parse("pages 32\norders 4\nwrite 0 16 1\nread 0 3")
    table = page_table(scenario.end(q.ARM64).process(0), 0, 32)
    assert q.pieces(table, Contiguous()) == [(3, 1), (16, 16)]


def test_the_bits_table_says_who_has_the_bit() -> None:
    _, *rows = q.bits().splitlines()
    found = [re.findall(r"(yes|no) +(\d+)", row) for row in rows]
    assert found == [
        [("no", "16")], [("yes", "1")], [("yes", "1")], [("yes", "1")], [("yes", "1")], [("no", "16")], [("no", "15")],
        [("no", "16")], [("yes", "1")], [("no", "16")],
    ]  # fmt: skip
    assert "up to 6.16" in rows[-2]
    assert "from 6.17" in rows[-1]


def test_reach_is_entries_times_pages_and_what_is_inferred_is_said() -> None:
    told = q.reach()
    assert re.search(r"Cortex-A76 +5 +20 +80 +2560\n", told)
    assert re.search(r"Golden Cove +8 +- +- +4096\n", told)
    # 09 counts single entries for folios of 16 KiB: with base pages of 4 KiB the A76 has no such entries.
    assert "(16 KiB): only with base pages of 16 KiB" in told
    assert told.count("Inferred for") == sum(bool(core.inferred) for core in CORES)


# --- how often it walks ---------------------------------------------------------------------------------------------


def test_memory_is_what_it_says_and_copies_do_not_spoil_it() -> None:
    table = q.memory(1, 4)
    assert (Contiguous().orders(table) == 4).all()
    assert not Contiguous().orders(q.memory(1, 0)).any()
    assert (Hpa().orders(table) == 2).all()
    assert (Plain().orders(q.memory(2, 9)) == 9).all()
    table.pte[:] = 0
    assert q.memory(1, 4).pte.all()


@pytest.mark.parametrize(("setup", "order"), list(zip(q.SETUPS, (0, 2, 4, 9), strict=True)))
def test_the_curve_agrees_with_lists(setup: str, order: int) -> None:
    trace = q.visits("random", 8)
    for size, walks in zip((16, 200), q.curve(setup, 8, "random", (16, 200)), strict=True):
        missed = np.count_nonzero(~lru_by_steps(trace >> order, 1, size))
        assert walks == pytest.approx(100 * missed / len(trace))


def test_between_the_two_reaches_the_bit_saves_every_walk_and_beyond_hardly_any() -> None:
    for mib in (1, 2, 4):
        assert q.walks("4 KiB", mib) == 0
    for mib in (8, 16, 32, 64):
        assert q.walks("4 KiB", mib) > 30
        assert q.walks("64 KiB, bit", mib) == 0
    assert q.walks("64 KiB, HPA", 16) == 0 < q.walks("64 KiB, HPA", 32)
    assert [q.walks("2 MiB", mib) for mib in (64, 1024)] == [0, 0]
    saved = [q.fewer(mib, "random") for mib in (128, 256, 512, 1024)]
    assert saved == sorted(saved, reverse=True)
    assert saved[-1] < 1.1


def test_sixteen_times_is_for_visits_in_order_only() -> None:
    assert q.fewer(512, "in order") == pytest.approx(16)
    assert q.fewer(512, "every 16th") == pytest.approx(1)
    assert q.fewer(512, "random") < 1.3
    assert q.fewer(512, "hot") < 1.3
    assert q.sixteen.answer == "d"
    assert "16 times only where" in q.sixteen.check("a").lines[0]
    assert all(q.sixteen.check(wrong).kind == "wrong" for wrong in "abc")
    assert q.sixteen.check("d").kind == "right"
    with pytest.raises(ValueError, match="no pattern"):
        q.visits("sideways", 1)


def test_what_the_hot_curve_is_said_to_show() -> None:
    plain, bit = (q.curve(setup, 64, "hot", [48, 1280]) for setup in ("4 KiB", "64 KiB, bit"))
    assert plain[0] - bit[0] < 6
    assert plain[1] > 10 * bit[1]
    # 64 MiB are 1,024 blocks, and each is walked for once.
    assert bit[1] == pytest.approx(100 * 1024 / q.ACCESSES)


def test_where_the_bit_stops_helping() -> None:
    assert q.stops.answer == 128
    assert q.stops.check(128).kind == "right"
    assert [q.MY_CORE.reach_pages(order) // q.PAGES_PER_MIB for order in (0, 4)] == [2, 32]
    for wrong in (1, 2, 32, 64):
        assert q.stops.check(wrong).kind == "wrong"
        assert "helps" not in q.stops.check(wrong).lines[0]
    assert q.stops.check(256).kind == "wrong"
    # Far from the threshold on both sides, so that no seed decides.
    assert q.fewer(64, "random", q.MY_CORE) > 1.8
    assert q.fewer(128, "random", q.MY_CORE) < 1.4


# --- a write in the middle ------------------------------------------------------------------------------------------


def test_the_panel_shows_what_the_stepper_steps_through() -> None:
    first, other = q.middle.run(q.ARM64), q.middle.run(q.ARM64_RFC)
    assert [result.faults[-1].path for result in first if result.faults][1:] == [COW_COPY, REUSE]
    panel = q.tlb_panel(first, other)
    assert len(panel) == 1 + len(first)
    assert panel[0].count("holds nothing") == 2
    assert panel[3].count("holds 0–15; needs 1 in all") == 2
    assert panel[4].count("holds nothing; needs 1 in all") == 2  # the fork has flushed
    assert "holds 5; needs 16 in all" in panel[6]
    assert "holds 0–15; needs 1 in all" in panel[6]
    assert "holds 5, 6, 12; needs 16" in panel[-1]


def test_reusing_all_16_in_place_does_not_bring_the_bit_back_but_mprotect_does() -> None:
    needs = q.entries(q.gone.run(q.ARM64))
    assert needs[:18] == [1] * 18
    assert needs[18:] == [16] * 16
    assert q.refold.answer == 16
    assert "Contiguity is not enough" in q.refold.check(1).lines[0]
    assert "HPA" in q.refold.check(4).lines[0]
    more = [("mprotect", 0, 0, 16, 1), ("mprotect", 0, 0, 16, 3)]
    assert q.entries(q.gone.but(steps=[*q.gone.steps, *more]).run(q.ARM64))[-3:] == [16, 1, 1]


@pytest.mark.parametrize(("kernel", "stays"), [("6.12", False), ("6.18", True), ("7.3", True)])
def test_recorded_kernels_leave_the_frames_in_a_row_or_copy_them_apart(kernel: str, stays: bool) -> None:
    found = q.left(q.gone.recorded(kernel))
    assert found[:18] == [True] * 18
    assert found[18:] == [stays] * 16


def test_in_a_row_wants_an_aligned_run_of_one_folio() -> None:
    whole: list[Any] = [[0, at, 32, 1] for at in range(16, 32)]
    assert q.in_a_row(whole)
    assert not q.in_a_row([[0, at, 32, 1] for at in range(8, 24)])
    assert not q.in_a_row([*whole[:15], "z"])
    assert not q.in_a_row([*whole[:15], [1, 31, 32, 1]])


def test_four_used_pages_look_like_64_with_the_bit() -> None:
    for order, seen in ((0, 4), (4, 64)):
        table = q.memory(1, order)
        table.pte[:] &= 0xFF ^ PTE_YOUNG
        table.pte[[3, 40, 130, 200]] |= PTE_YOUNG
        assert np.count_nonzero(table.seen() & PTE_YOUNG) == seen


def test_no_recorded_kernel_has_the_bit() -> None:
    assert not LINUX_6_15.cont_pte_order
    assert not (q.gone.end(LINUX_6_15).process(0).mm.pte & PTE_CONT).any()


# --- the function ---------------------------------------------------------------------------------------------------


def test_the_worked_fold_is_the_librarys_and_each_wrong_one_is_known() -> None:
    assert q.may_carry.check(q.fold).kind == "right"
    for says, wrong in q.may_carry.wrong.items():
        note = q.may_carry.check(wrong)
        assert note.kind == "wrong"
        assert says in note.lines


def test_a_function_with_two_mistakes_is_told_both_and_one_with_a_new_one_the_nearest() -> None:
    note = q.may_carry.check(lambda pages: q._fold_unless(pages, ["aligned", "alike"]))
    assert "multiple of 16" in note.lines[-1]
    assert "one permission" in note.lines[-1]
    assert "folios" not in note.lines[-1]

    def nearly(pages: Sequence[q.Page | None]) -> list[int]:
        # Not aligned, and wrong in a way of its own where nothing is mapped.
        return q._fold_unless(pages, ["aligned"]) if all(pages) else []

    note = q.may_carry.check(nearly)
    assert note.lines[-1].startswith("A mistake that fails here in the same way: It folds blocks whose frames")
    assert "and blocks" not in note.lines[-1]
    assert q.may_carry.check(lambda pages: [7]).lines[-1].startswith("The library says")


def test_an_array_is_a_list() -> None:
    assert q.may_carry.check(lambda pages: np.array(q.fold(pages))).kind == "right"


def test_a_case_is_told_block_by_block() -> None:
    pages: list[q.Page | None] = [(32 + at, 1, False) for at in range(16)]
    pages[3], pages[4], pages[5] = None, (0, None, False), (37, 1, True)
    assert q._block_in_words(16, pages) == (
        "pages 16–18: frames 32–34 of folio 1, read-only; page 19: nothing; page 20: the zero page; "
        "page 21: frame 37 of folio 1, writable; pages 22–31: frames 38–47 of folio 1, read-only"
    )
    told = q.may_carry.check(lambda pages: [0]).lines[0]
    assert told.startswith("`fold` of: page")
    assert "(" not in told


@pytest.mark.parametrize("wrong", [lambda pages: set(), lambda pages: (0,), lambda pages: np.int64(2), lambda pages: 7])
def test_a_function_that_returns_no_list_is_told_to(wrong: Any) -> None:
    note = q.may_carry.check(wrong)
    assert (note.kind, note.head) == ("wrong", "That is no list.")
    assert note.lines[0].startswith("Return a list")


def test_a_function_that_raises_is_told_where() -> None:
    note = q.may_carry.check(lambda pages: 1 // 0)
    assert "ZeroDivisionError" in note.lines[-1]


def test_fold_cases_have_blocks_of_both_kinds_and_share_no_frame() -> None:
    answers = [tuple(right) for _, right in q.may_carry.cases]
    assert set(answers) == {(), (0,), (16,), (0, 16)}
    for case, _ in q.may_carry.cases:
        frames = [page[0] for page in case["pages"] if page and page[1] is not None]
        assert len(set(frames)) == len(frames)


def test_questions_wait_for_an_answer_and_give_hints_and_solutions() -> None:
    for question in (q.alike, q.sixteen, q.refold, q.stops):
        assert "Not answered yet" in repr(question.check(...))
        assert question.hint().kind == "tell"
        assert str(question.answer) in repr(question.solution())
    assert "returns nothing" in repr(q.may_carry.check(lambda pages: None))
    assert "def fold" in q.may_carry.solution().code


# --- figures --------------------------------------------------------------------------------------------------------


def a_figure() -> plots.Plot:
    lines = [plots.Line("one", [1, 2, 3]), plots.Line("two", [3.25, 2, 0])]
    return plots.curves("A & B", [1, 2, 4], lines, x_name="x", y_name="y", marks=[(2, "here")])


def test_a_figure_is_the_same_each_time_and_carries_no_date() -> None:
    first, again = a_figure(), a_figure()
    assert first == again
    assert "dc:date" not in first.svg
    assert first.svg.startswith("<svg")
    assert len(first.svg) < 60_000


def test_a_figure_says_its_numbers_for_whoever_cannot_see_it() -> None:
    made = a_figure()
    assert repr(made).splitlines()[0] == "A & B"
    assert [row.split() for row in repr(made).splitlines()[1:]] == [
        ["x", "one", "two"], ["1", "1.0", "3.2"], ["2", "2.0", "2.0"], ["4", "3.0", "0.0"],
    ]  # fmt: skip
    assert "<title>A &amp; B</title>" in made.svg
    assert made._repr_svg_() == made.svg


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colour", "least"), [(plots.INK, 7.0), *((each, 3.0) for each in plots.COLOURS)])
def test_ink_and_lines_stand_out_from_the_paper(colour: str, least: float) -> None:
    assert (luminance(plots.PAPER) + 0.05) / (luminance(colour) + 0.05) >= least
    assert (luminance(plots.DARK[colour]) + 0.05) / (luminance(plots.DARK[plots.PAPER]) + 0.05) >= least


def test_every_colour_of_a_figure_follows_the_theme() -> None:
    svg = a_figure().svg
    told = svg.partition("</style>")[2]
    assert set(re.findall(r"#[0-9a-f]{6}", told)) <= set(plots.DARK)
    assert not re.search(r"(?<!,)#[0-9a-f]{6}", told)
    assert svg.count(plots.DARK[plots.INK]) == 2


def test_only_powers_of_two_are_named_below_a_curve_unless_there_are_none() -> None:
    line = plots.Line("one", [1, 2, 3])
    svg = plots.curves("A", [4, 5, 8], [line], x_name="x", y_name="y").svg
    assert re.findall(r">(\d)</text>", svg.split("matplotlib.axis_2")[0]) == ["4", "8"]
    svg = plots.curves("A", [3, 5, 7], [line], x_name="x", y_name="y").svg
    assert re.findall(r">(\d)</text>", svg.split("matplotlib.axis_2")[0]) == ["3", "5", "7"]


def test_coverage_draws_a_box_per_entry() -> None:
    found: Sequence[tuple[str, Sequence[plots.Piece]]] = [("a", [(0, 4), (4, 1)]), ("b", [(0, 5)])]
    made = plots.coverage("c", found)
    assert repr(made) == "c\na: 2 entries: 0-3, 4\nb: 1 entry: 0-4"
    assert made.svg.count("0–") == 2


def test_entries_are_those_of_all_mappings() -> None:
    scenario = q.folio16.but(steps=[*q.folio16.steps, ("mprotect", 0, 0, 8, 1)])
    assert q.entries(scenario.run(q.ARM64)) == [1, 16]


@pytest.mark.parametrize("mib", [64, 512])
def test_columns_of_patterns_stay_apart(mib: int) -> None:
    for line in q.patterns(mib).splitlines()[1:]:
        assert re.fullmatch(r"[\w ]+( +\d+\.\d){3} +(all|\d+\.\d times)", line), line


def test_the_entries_of_real_arm64_kernels_fold_and_unfold_as_the_notebook_says() -> None:
    word, kernels, *rows, _ = q.real_entries().splitlines()
    assert "bit 52 (contiguous) 1" in word
    assert kernels.split()[-4:] == ["6.12", "6.16", "6.17", "7.3"]
    told = {row[:38].strip(): row[38:].split() for row in rows}
    assert told["the child gone, each page written"] == ["0"] * 4
    assert told["then mprotect: read-only, and back"] == ["0", "16", "16", "16"]
    assert told["mprotect by quarters"] == ["16", "16", "0", "0"]
