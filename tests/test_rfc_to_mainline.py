"""Notebook 10: its table, its figure and its history are what the policies and the recordings say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anonfolio import LINUX_6_9, LINUX_6_15, RFC_V2, Scenario, scenario_names
from anonfolio.exercises import rfc_to_mainline as q
from anonfolio.lesson.quiz import Choice, Number

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    everything = (q.taken, q.faults, q.agrees, q.lost, q.missing, q.six, q.hunt, q.fingerprint)
    for one in everything:
        one.forget()
    yield
    for one in everything:
        one.forget()


# --- codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", q.KERNELS)
def test_what_a_recording_tells_of_a_write_is_what_the_model_of_that_kernel_says(kernel: str) -> None:
    policy = q.known_policy(kernel).name
    seen = set()
    for name in scenario_names():
        real = q.recorded(name, kernel)
        if real is None:
            continue
        for at, step in enumerate(real.scenario.steps):
            if step[0] == "write":
                said = q.code_of(q.ran(name, policy), at)
                told = q.code_recorded(real, at)
                assert told == ("reuse" if said.startswith("reuse") else said), (name, at)
                seen.add(told)
    assert len(seen) > 4


@pytest.mark.parametrize(("code", "pages"), [("alloc0", 1), ("alloc4", 16), ("zero9", 512), ("copy3", 8),
                                             ("reuse1", 1), ("reuse16", 16)])  # fmt: skip
def test_how_many_pages_a_code_is_about(code: str, pages: int) -> None:
    assert q.pages_of(code) == pages


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_row_is_a_named_scenario_whose_step_is_there_and_tells_versions_apart() -> None:
    for row in q.ROWS:
        assert row.scenario in scenario_names()
        assert row.at >= 0
        # One is there to show where all do the same.
        assert (len(set(q.table().codes(row))) > 1) is (row.scenario != "huge-child-gone-first")
    assert [row.path[0] for row in q.FOUR] == ["1", "2", "3", "4"]
    assert set(q.FOUR) <= set(q.ROWS)
    paths = [row.path for row in q.ROWS]
    assert paths == sorted(paths)


def test_the_four_paths_and_the_six_versions() -> None:
    table = q.table(q.FOUR)
    assert [table.codes(row) for row in q.FOUR] == [
        ["alloc4", "alloc4", "alloc0", "alloc4", "alloc4", "alloc4"],
        ["zero4", "zero4", "zero0", "zero0", "zero0", "zero0"],
        ["copy4", "copy4", "copy0", "copy0", "copy0", "copy0"],
        ["reuse16", "reuse16", "reuse1", "copy0", "copy0", "reuse1"],
    ]


def test_every_kernel_that_ran_a_row_agrees_with_its_model_and_the_others_have_a_dash() -> None:
    for row in q.ROWS:
        cells = q.table().cells(row)
        assert [cell.agrees for cell in cells[1:]] == [True] * 3
        assert all(cell.text.endswith("✓") for cell in cells[1:])
        assert cells[0].agrees in (True, None)
        assert (cells[0].text == "–") is (cells[0].agrees is None)
    assert sum(q.table().cells(row)[0].agrees is not None for row in q.ROWS) == 4


def test_a_kernel_that_does_not_agree_would_be_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(q, "known_policy", lambda kernel: RFC_V2)
    cells = q.table().cells(q.FOUR[1])
    assert [cell.text for cell in cells[1:]] == ["zero0 ≠"] * 3


def test_the_table_says_the_same_in_text_and_in_html() -> None:
    table = q.table()
    text, html = repr(table), table._repr_html_()
    assert len(text.splitlines()) == len(q.ROWS) + 3
    blocks = 0
    for row, line in zip(q.ROWS, text.splitlines()[2:], strict=False):
        cells = [*table.codes(row), *(cell.text for cell in table.cells(row))]
        assert " ".join(line.split()) == " ".join((row.path, row.state, *cells))
        codes = [*table.codes(row), *(cell.code for cell in table.cells(row))]
        blocks += sum(q.pages_of(code) > 1 for code in codes if code not in ("", "reuse"))
    assert html.count("background") == blocks > 20
    assert html.count("✓") == text.count("✓")
    assert html.count("never merged") == 1


def test_the_second_looks_of_the_prose() -> None:
    codes = {
        row.state: dict(zip((policy.name for policy in q.SIX), q.table().codes(row), strict=True)) for row in q.ROWS
    }
    assert set(codes["no size allowed"].values()) == {"alloc4", "alloc0"}
    assert codes["no size allowed"]["rfc-v2"] == "alloc4"
    assert (codes["half is exclusive"]["rfc-v2"], codes["half is exclusive"]["rfc-v2-fixed"]) == ("copy4", "copy3")
    hole = Scenario.load("hole-defeats-the-scan")
    assert hole.end(RFC_V2).counters.copied > hole.end(LINUX_6_15).counters.copied


# --- all scenarios --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_each_kernel_equals_its_own_version_in_all_scenarios_and_no_other_but_6_1() -> None:
    found = q.agreement()
    assert found.recorded == {"6.1": 4, "6.12": 45, "6.18": 45, "7.3": 45}
    for kernel, count in found.recorded.items():
        whole = {policy for policy, equal in found.equal.items() if equal[kernel] == count}
        own = q.known_policy(kernel).name
        assert whole == ({own} if kernel != "6.1" else {"linux-6.3", "linux-6.8", "linux-6.9"})
    assert repr(found).count("*") == len(q.KERNELS) + 1
    assert [line.split() for line in repr(found).splitlines()[:2]] == [
        ["recorded", "on", *q.KERNELS], ["scenarios", "4", "45", "45", "45"],
    ]  # fmt: skip


def test_some_scenarios_end_before_the_longer_reuse_of_rfc_v2_shows() -> None:
    hidden = {
        name for name in scenario_names()
        if q.equal(name, "rfc-v2", "7.3")
        and q.transcript(q.ran(name, "rfc-v2")) != q.transcript(q.ran(name, "linux-6.15"))
    }  # fmt: skip
    assert hidden == {"grandchild-takes-the-slot", "read-pin-child-gone", "wipe-on-fork-child-gone"}


# --- what one path cost ---------------------------------------------------------------------------------------------


def test_what_path_1_cost_without_path_4() -> None:
    rows = {" ".join(line.split()[:-3]): line.split()[-3:] for line in q.costs(q.gone.name).splitlines()[1:]}
    assert rows == {
        "rfc-v2": ["2", "0", "16"], "rfc-v2-fixed": ["2", "0", "16"], "linux-6.3": ["32", "0", "16"],
        "linux-6.8": ["17", "15", "31"], "linux-6.9": ["17", "16", "16"], "linux-6.15": ["17", "0", "16"],
        "recorded 6.12": ["17", "16", "-"], "recorded 6.18": ["17", "0", "-"], "recorded 7.3": ["17", "0", "-"],
    }  # fmt: skip


# --- the history ----------------------------------------------------------------------------------------------------


def test_the_bars_of_the_figure_are_computed_for_every_release() -> None:
    found = {lane.name.strip(): [(first, kind) for first, _, kind, _ in q.spans(lane)] for lane in q.LANES}
    assert found == {
        "1 first touch": [("6.3", "one"), ("6.8", "block")],
        "2 zero page": [("6.3", "one")],
        "huge zero page": [("6.3", "one"), ("6.13", "block")],
        "3 copy": [("6.3", "one")],
        "4 reuse": [("6.3", "one"), ("6.8", "copies"), ("6.9", "copies"), ("6.15", "one")],
    }
    assert [words for *_, words in q.spans(q.LANES[-1])][1:3] == ["copies 15 of 16", "copies 16 of 16"]


def test_from_6_13_on_the_huge_zero_page_is_written_as_it_is_today() -> None:
    assert q.release_policy("6.12") == LINUX_6_9
    assert q.release_policy("6.12").huge_zero_write == "page"
    assert {q.release_policy(release).huge_zero_write for release in ("6.13", "6.14", "6.15")} == {"huge"}


def elements(tag: str) -> list[ET.Element]:
    return [element for element in ET.fromstring(q.history.svg()).iter() if element.tag.endswith(tag)]


def bars() -> list[ET.Element]:
    """The rectangles that say what they are; the frame of the proposal and the colours of the key say nothing."""
    return [rect for rect in elements("rect") if any(child.tag.endswith("title") for child in rect)]


def test_the_figure_is_one_readable_svg_whose_text_takes_the_colour_of_the_page() -> None:
    svg = q.history.svg()
    assert svg == q.history.svg()
    texts = elements("text")
    words = [element.text for element in texts]
    assert ET.fromstring(svg).get("fill") == "currentColor"
    assert not any("fill" in element.attrib for element in texts)
    for release in q.RELEASES:
        assert release in words or f"[{release}]" in words
    assert {"[6.12]", "[6.18]", "→ [7.3]"} <= set(words)
    assert "7.3" not in q.RELEASES
    assert "never merged" in svg
    for element in texts:
        assert 0 <= float(element.get("x", "-1")) <= q._WIDTH
        assert int(element.get("font-size", "0")) >= 12
    assert repr(q.history).count("never merged") == len(q.LANES)


def test_bars_stand_in_time_order_and_inside_the_figure() -> None:
    starts: dict[str, list[float]] = {}
    for rect in bars():
        left, width = float(rect.get("x", "-1")), float(rect.get("width", "-1"))
        assert left >= q._LEFT_EDGE
        assert width > 0
        assert left + width <= q._RIGHT_EDGE
        starts.setdefault(rect.get("y", ""), []).append(left)
    assert len(starts) == len(q.LANES)
    for lefts in starts.values():
        # Each lane is full: what kernels did before 6.8 is no gap in which the proposal's number stands.
        assert lefts[0] == q._LEFT_EDGE
        assert lefts == sorted(lefts)


def test_the_proposal_stands_before_the_axis_and_what_is_inferred_has_a_question_mark() -> None:
    numbers = [text for text in elements("text") if text.get("x") == str(q._PROPOSED) and text.text[:2] == "16"]
    assert [text.text for text in numbers] == ["16", "16", "16?", "16", "16"]
    (frame,) = [rect for rect in elements("rect") if rect.get("stroke-dasharray")]
    assert float(frame.get("x", "0")) + float(frame.get("width", "0")) < q._LEFT_EDGE
    assert repr(q.history).count("(inferred)") == 1


def test_the_figure_has_its_key_and_says_when_a_block_is_had() -> None:
    words = [text.text for text in elements("text")]
    assert set(q._COLOURS.values()) <= set(words)
    colours = {rect.get("fill") for rect in bars()}
    assert colours == {rect.get("fill") for rect in elements("rect") if rect not in bars()} & colours
    assert [words for lane in q.LANES for *_, kind, words in q.spans(lane) if kind == "block"] == [
        "16 pages at once, if the size is enabled", "512 pages at once, if 2 MiB are free",
    ]  # fmt: skip


def test_events_come_in_order_and_each_can_be_looked_up() -> None:
    for events in (q.POSTED, q.MERGED, q.AROUND):
        assert [event.day for event in events] == sorted(event.day for event in events)
    for event in q.POSTED:
        # A message id of this author begins with the day.
        if event.found:
            assert event.found.startswith(f"{event.day:%Y%m%d}")
    commits = [commit for event in (*q.MERGED, *q.AROUND) for commit in event.found.split(", ")]
    assert len(set(commits)) == len(commits) == len(q.MERGED) + len(q.AROUND) + 1
    assert [event.what.endswith("(id not found)") for event in q.POSTED if not event.found] == [True]
    assert {event.what.partition(":")[0] for event in q.MERGED} >= {"path 1", "path 4"}
    assert all(re.fullmatch(r"[0-9a-f]{12}", commit) for commit in commits)
    assert list(q.RELEASES.values()) == sorted(q.RELEASES.values())
    for events_shown in (q.mails, q.merged):
        for event in events_shown.events:
            assert event.what in repr(events_shown)
            assert event.what.replace('"', "") in events_shown._repr_html_().replace('"', "")


def test_every_notebook_names_the_release_of_a_commit_as_the_history_does() -> None:
    known = {commit: event.where for event in (*q.MERGED, *q.AROUND) for commit in event.found.split(", ")}
    named = {path.stem: commits_named(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for name, pairs in named.items():
        for commit, release in pairs:
            assert known.get(commit, release) == release, (name, commit)
    assert len(named["10_rfc_to_mainline"]) == 5
    assert {commit for commit, _ in named["10_rfc_to_mainline"]} <= known.keys()


def commits_named(path: Path) -> set[tuple[str, str]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return set(re.findall(r"\b([0-9a-f]{12}), (\d+\.\d+)", text))


# --- predictions ----------------------------------------------------------------------------------------------------


def test_the_answers_and_that_it_was_merged_is_recognised() -> None:
    assert (q.taken.answer, q.faults.answer, q.agrees.answer) == (1, 17, "b")
    assert "it was merged" in q.taken.check(4).lines[0]
    assert "it was merged" in q.agrees.check("all").lines[0]
    assert "RFC v2" in q.faults.check(2).lines[0]
    assert "Since 6.8" in q.faults.check(32).lines[0]


@pytest.mark.parametrize("question", [q.taken, q.faults, q.agrees], ids=lambda question: str(question.name))
def test_known_mistakes_are_wrong_and_differ(question: Number | Choice) -> None:
    wrong = [mistake.answer() if callable(mistake.answer) else mistake.answer for mistake in question.mistakes]
    assert question.answer not in wrong
    assert len(set(wrong)) == len(wrong)
    assert question.hint().lines[0] == question.hints[0]


@pytest.mark.long
def test_the_words_around_the_shares_name_the_numbers() -> None:
    of = q.agreement().recorded["7.3"]
    assert f"ran {of} named scenarios" in q.agrees.prompt
    assert f"All {of} equal" in q.agrees.check("d").lines[0]
    assert q.equal_scenarios(LINUX_6_15, "7.3") == of
    assert q.agrees.because.startswith(f"{q.equal_scenarios(RFC_V2, '7.3')}, as far as")
    read_only, wide = {"copy_requires_ro": True}, {"unshare_extent": "source_order"}
    readings: tuple[dict[str, Any], ...] = (
        read_only, wide, read_only | wide, {"zero_neighbours": "none_only"}, {"copy_max_order": 9},
        {"mprotect_needs_dirty": False},
    )  # fmt: skip
    counts = []
    for reading in readings:
        programs = ((Scenario.load(name), q.recorded(name, "7.3")) for name in scenario_names())
        alike = [not one.run(RFC_V2.but(**reading)).compare(real) for one, real in programs if real is not None]
        counts.append(sum(alike))
    assert counts == [13, 13, 12, 14, 14, 14]
    assert "the other way give 13, both 12" in q.agrees.because
    assert all(field in q.agrees.because for reading in readings[:-1] for field in reading)
    assert [q._share(policy) for policy in (LINUX_6_15, LINUX_6_9)] == ["d", "b"]


def test_one_path_works_on_a_block_on_the_recorded_kernel_too() -> None:
    real = [q.recorded(row.scenario, "7.3") for row in q.FOUR]
    codes = [q.code_recorded(run, row.at) for run, row in zip(real, q.FOUR, strict=True) if run is not None]
    assert codes == ["alloc4", "zero0", "copy0", "reuse"]
    # The reuse reached no further than its page: the next write faults as well.
    gone = q.recorded(q.gone.name, "7.3")
    assert gone is not None
    assert gone.steps[q.FOUR[3].at + 1]["faults"]


# --- exercise 1 -----------------------------------------------------------------------------------------------------


def test_six_behaviours_are_six_versions_each_once() -> None:
    right = {letter: case.truth() for letter, case in q.six.cases.items()}
    assert sorted(right.values()) == sorted(policy.name for policy in q.SIX)
    said = q.six.check(**right)
    assert said.kind == "right"
    assert "6 of 6" in said.head


def test_a_wrong_version_is_told_what_it_would_have_done() -> None:
    for letter, case in q.six.cases.items():
        for policy in q.SIX:
            if policy.name != case.truth():
                said = q.six.check(**{letter: policy.name})
                assert said.kind == "wrong"
                assert f"`{policy.name}` gives:" in said.lines[1]
                assert said.picture is not None


def test_versions_may_be_called_by_their_number() -> None:
    assert q.six.check(a="6.9", c="6.15", d="6.3", e="6.8", b="fixed", f="rfc").kind == "right"


def test_a_run_that_two_versions_share_has_no_owner() -> None:
    with pytest.raises(ValueError, match=r"linux-6\.8, linux-6\.9"):
        q.who_does("first-write", "alloc4, nf")
    with pytest.raises(ValueError, match="no policy"):
        q.who_does("first-write", "nf")


def test_other_steps_begin_a_new_run_of_what_came_of_writes() -> None:
    assert q.transcript(q.ran("wipe-on-fork", "rfc-v2")) == "alloc4, nf ×15, nf, copy4"


def test_whether_the_posted_copy_stops_at_writable_entries_decides_b_and_f() -> None:
    other = q.half.run(RFC_V2.but(copy_requires_ro=True))
    assert q.transcript(other) == q.transcript(q.ran(q.half.name, "rfc-v2-fixed"))
    assert "is not known" in q.six.prompt


# --- exercise 2 -----------------------------------------------------------------------------------------------------


def test_the_hunt_knows_what_was_put_in_and_no_answer_fits_two_kernels() -> None:
    right = {letter: case.truth() for letter, case in q.hunt.cases.items()}
    assert right == {"a": "mm_id", "b": "copy", "c": "nothing", "d": "last page"}
    assert q.hunt.check(**right).head == "4 of 4 right."
    for case in q.hunt.cases.values():
        assert set(case.wrong) == set(q.hunt.answers) - {case.truth()}
    assert set(q.hunt.answers) == set(q._CHANGES)


def test_each_change_shows_in_its_program_and_hardly_in_another() -> None:
    shows = {
        (word, show) for word in q._SHOWS for show in q._SHOWS
        if q._show(show, q._PLAIN).compare(q._show(show, q._PLAIN.but(**q._CHANGES[word])))
    }  # fmt: skip
    # Where 6.12 copies a page that nobody else has, the RFC's copy takes more.
    assert shows == {(word, word) for word in q._SHOWS} | {("copy", "mm_id")}


def test_a_wrong_answer_hears_what_that_change_would_have_done() -> None:
    said = q.hunt.check(a="last page")
    assert said.kind == "wrong"
    assert "munmap 0 0 15" in said.lines[1]
    assert "gives alloc4, nf ×15, reuse1. Here it gives alloc4, nf ×15, copy0." in said.lines[1]
    assert "Something is in it" in q.hunt.check(b="nothing").lines[1]


@pytest.mark.parametrize(
    ("letter", "steps", "told"),
    [
        ("a", "write 0 0..15\nfork 0\nexit 1\nwrite 0 5 1",
         "plain 6.12   alloc4, nf ×15, copy0\nvendor a     alloc4, nf ×15, reuse1\nthey part at step 19"),
        ("c", "write 0 0 1", "plain 6.12   alloc4\nvendor c     alloc4\nno difference in this program"),
        ("a", "fly 0", "Cannot run that program: your program, line 2: 'fly'"),
        ("a", "unpin 0 0", "Step 1, `unpin 0 0`, is refused"),
    ],
)  # fmt: skip
def test_a_vendors_kernel_runs_beside_a_plain_one(letter: str, steps: str, told: str) -> None:
    assert q.vendor(letter, f"pages 16\n{steps}").startswith(told)


HALF_WIPED = "write 0 0..15\nmadvise 0 8 8 wipeonfork\nfork 0\nmadvise 0 8 8 keeponfork\nwrite 0 2 1"


# --- exercise 3 -----------------------------------------------------------------------------------------------------


def test_the_worked_program_tells_all_six_apart() -> None:
    said = q.fingerprint.check(q.told_apart.text())
    assert said.kind == "right"
    assert len(q.alike(q.told_apart)) == 6
    assert "wipeonfork" in q.fingerprint.solution().code


@pytest.mark.parametrize(
    ("steps", "groups", "told"),
    [
        ("read 0 0", 1, "write something"),
        ("write 0 0 1", 2, "copies and reuses blocks"),
        # Without KEEPONFORK two VMAs are left, and the repaired proposal copies no less than the other.
        (
            "write 0 0..15\nmadvise 0 8 8 wipeonfork\nfork 0\nwrite 0 2 1",
            3,
            "two VMAs, and no block crosses a VMA edge",
        ),
        ("write 0 0..15\nfork 0\nwrite 0 0 1", 3, "exclusive pages lie beside shared ones"),
        (HALF_WIPED, 4, "6.9 does not"),
        (f"{HALF_WIPED}\nexit 1\nwrite 0 5 1", 5, "one-page-left"),
    ],
)
def test_a_program_that_leaves_some_alike_is_told_which_and_what_next(steps: str, groups: int, told: str) -> None:
    said = q.fingerprint.check(f"pages 16\n{steps}")
    assert said.kind == "wrong"
    assert said.head == f"It tells {groups} of 6 apart."
    assert said.lines[0].startswith("- alike: ")
    assert told in said.lines[-1]


def test_a_step_that_cannot_be_done_is_told() -> None:
    said = q.fingerprint.check("pages 16\nmprotect 0 0 16 1\nwrite 0 0 1")
    assert said.kind == "wrong"
    assert "refused" in said.lines[0]
    assert q.fingerprint.check("pages 16\nfly 0").kind == "wrong"


def test_groups_are_what_witnesses_see() -> None:
    groups = q.alike(Scenario.parse("pages 16\nwrite 0 0 1"))
    assert groups == [["rfc-v2", "rfc-v2-fixed", "linux-6.8", "linux-6.9", "linux-6.15"], ["linux-6.3"]]


# --- a release that was wrong ---------------------------------------------------------------------------------------


def test_the_moved_mapping_loses_its_anon_vma_from_6_16_to_6_18_7_and_its_child_the_byte() -> None:
    for release, byte in {"6.15": 1, "6.16": 0, "6.17": 0, "6.18.7": 0, "6.18.8": 1, "6.19": 1, "7.3": 1}.items():
        *_, moved, reads = q.anon_vmas(release).splitlines()
        assert reads.split()[-1] == str(byte), release
        assert ("*" in moved) is bool(byte), release
    assert q.child_read_on() == {"6.17.13": 0, "6.18.5": 0, "6.18.9": 1, "6.18.44": 1}
    assert q.lost.check(0).kind == q.missing.check("c").kind == "right"
