"""The stepper without a browser: what it sends, what it says, what it leaves for pages that run no widgets."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, cast

import pytest

import anonfolio.view
from anonfolio.draw.drawing import lean
from anonfolio.draw.picture import Picture
from anonfolio.kernel.policy import POLICIES
from anonfolio.program.scenario import Scenario, scenario_names
from anonfolio.view import Playground, Stepper, program
from anonfolio.view.program import packed, unpacked
from anonfolio.witness.recording import DATA_DIR, read_recording

COPY = Scenario(
    8, (("write", 0, 0, 7), ("fork", 0), ("write", 1, 2, 9), ("read", 0, 2)), orders=(3,), name="fork, then write"
)
VIEW = Path(anonfolio.view.__file__).parent


def put_together(frames: dict[str, Any], pane: int) -> list[dict[int, str]]:
    """What each key holds at each moment, as the front end makes it of the changes."""
    found, now = [], {}
    for changes in frames["panes"][pane]["moments"]:
        for key, piece in zip(changes[::2], changes[1::2], strict=True):
            now[key] = piece
        found.append({key: frames["pieces"][piece] for key, piece in sorted(now.items()) if piece >= 0})
    return found


def test_every_frame_is_the_python_svg_piece_by_piece() -> None:
    stepper = Stepper(COPY.run("linux-6.15"), other=COPY.run("rfc-v2"))
    frames = unpacked(json.loads(json.dumps(stepper.get_state()))["frames"])
    assert len(frames["pieces"]) == len(set(frames["pieces"]))
    for at, column in enumerate(stepper.columns):
        moments = put_together(frames, at)
        assert len(moments) == len(COPY.steps) + 1
        for moment, picture in zip(moments, column.pictures, strict=True):
            drawn = "".join(moment.values())
            assert drawn == lean(picture.sheet.body(column.height))
            pane = frames["panes"][at]
            assert f'viewBox="0 0 {pane["width"]:g} {pane["height"]:g}"' in picture.svg(column.height)


def test_pieces_and_lines_that_stay_are_sent_once() -> None:
    timeline = read_recording(DATA_DIR / "named-6.18.json.gz").named("third-process-alone").scenario.run("linux-6.15")
    frames = Stepper(timeline).frames
    shown = sum(map(len, put_together(frames, 0)))
    sent = sum(len(changes) // 2 for changes in frames["panes"][0]["moments"])
    assert sent * 3 < shown
    assert len(frames["pieces"]) < sent
    assert len(frames["lines"]) == len(set(frames["lines"]))
    assert len(packed(frames)) < 24_000


def test_steppers_share_one_program_and_playgrounds_another() -> None:
    first, second = Stepper(COPY.run()), Stepper(COPY.run("rfc-v2"))
    assert first.program is second.program
    assert first.program._esm == (VIEW / "stepper.js").read_text(encoding="utf-8")
    assert ".afp{" in first.program._css
    assert len(first._esm) < 1000
    assert Playground().program is Playground().program
    assert Playground().program is not first.program
    # The front end replaces a style sheet by one of the same id.
    assert first.program._anywidget_id != Playground().program._anywidget_id


@pytest.mark.parametrize("text", ["?", "YQ==", packed("a")[:-8], packed("a" * 100)])
def test_what_nobody_packed_is_not_unpacked(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_UNPACKED", 50)
    assert unpacked(packed({"a": ["é", 1]})) == {"a": ["é", 1]}
    with pytest.raises(ValueError, match=r"packed|base64|padding|cut off"):
        unpacked(text)


def test_the_text_of_every_moment_travels_along() -> None:
    stepper = Stepper(COPY.run("linux-6.15"), other=COPY.run("rfc-v2"))
    for told, column in zip(stepper.frames["texts"], stepper.columns, strict=True):
        for lines, picture in zip(told, column.pictures, strict=True):
            assert "\n".join(stepper.frames["lines"][line] for line in lines) == picture.text()


def test_the_program_is_listed_and_writes_that_go_on_are_one_line() -> None:
    scenario = Scenario.load("fork-both-write")
    lines = Stepper(scenario.run("linux-6.15")).frames["program"]
    assert lines == [
        [1, 16, "P0 writes pages 0–15"], [17, 17, "P0 forks, which makes P1"], [18, 18, "P0 writes page 4"],
        [19, 19, "P1 writes page 4"], [20, 20, "P1 writes page 5"],
    ]  # fmt: skip
    steps = (("write", 0, 1, 1), ("write", 0, 2, 1), ("write", 0, 0, 1), ("write", 0, 1, 1), ("write", 0, 2, 1))
    assert [line[:2] for line in Stepper(Scenario(4, steps).run()).frames["program"]] == [[1, 1], [2, 2], [3, 5]]


def test_what_decided_is_kept_for_each_page_that_a_fault_acted_on() -> None:
    decided = Stepper(COPY.run("rfc-v2")).frames["decided"][0]
    assert [(step, process, lo, hi) for step, process, lo, hi, _ in decided] == [(1, 0, 0, 7), (3, 1, 0, 7)]
    assert decided[1][4].endswith(" → cow copy")


def test_its_text_names_the_step_and_shows_the_frame() -> None:
    timeline = COPY.run("linux-6.15")
    text = repr(Stepper(timeline, key=2))
    assert text.startswith("Stepper fork, then write: step 3 of 4\n")
    assert timeline.show(2).scene.source in text
    assert ">Bw" in text
    assert repr(Stepper(timeline, key=2)) == text
    assert repr(Stepper(timeline, key=1)) != text
    assert "step 4 of 4" in repr(Stepper(timeline, title="mine"))
    assert repr(Stepper(timeline, title="mine")).startswith("Stepper mine:")


@pytest.mark.parametrize(("key", "step"), [(-1, 4), (0, 1), (2, 3), (-4, 1)])
def test_the_key_frame_is_numbered_as_the_timeline(key: int, step: int) -> None:
    assert Stepper(COPY.run("linux-6.15"), key=key).step == step


@pytest.mark.parametrize(("at", "step"), [(0, 0), (3, 3), (4, 4), (-1, 4)])
def test_a_moment_is_numbered_as_the_stepper_is(at: int, step: int) -> None:
    """So that one can begin before the step that a question is about."""
    stepper = Stepper(COPY.run("linux-6.15"), at=at)
    assert stepper.step == step
    assert f"step {step} of 4" in repr(stepper)
    with pytest.raises(IndexError):
        Stepper(COPY.run("linux-6.15"), at=5)


@pytest.mark.parametrize("key", [4, -5])
def test_a_key_outside_is_an_error(key: int) -> None:
    with pytest.raises(IndexError):
        Stepper(COPY.run("linux-6.15"), key=key)


def test_an_empty_program_shows_its_start() -> None:
    stepper = Stepper(Scenario(4, (), orders=()).run("linux-6.15"))
    assert stepper.step == 0
    assert "step 0 of 0" in repr(stepper)


def test_one_output_holds_widget_picture_and_text() -> None:
    stepper = Stepper(COPY.run("linux-6.15"), key=2)
    bundle, _ = stepper._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/svg+xml", "text/plain"}
    assert bundle["text/plain"] == repr(stepper)
    assert (
        ET.fromstring(bundle["image/svg+xml"])
        .findtext("{http://www.w3.org/2000/svg}title", "")
        .startswith("Process 1 writes page 2")
    )
    # Where style sheets are dropped the static picture keeps its colours.
    assert 'fill="#' in bundle["image/svg+xml"]


def test_two_policies_are_told_apart_at_the_first_step_they_differ() -> None:
    mine, other = COPY.run("linux-6.15"), COPY.run("rfc-v2")
    stepper = Stepper(mine, other=other)
    assert list(stepper.differences) == [difference.number + 1 for difference in mine.compare(other)]
    assert min(stepper.differences) == 3
    assert stepper.differences[3] == "process 0 page 0: mapped exactly once: linux-6.15 no, rfc-v2 yes"
    assert "first at step 3" in repr(stepper)


def test_a_recorded_kernel_stands_beside_the_model() -> None:
    recorded = read_recording(DATA_DIR / "named-6.18.json.gz").named("fork-both-write")
    stepper = Stepper(recorded.scenario.run("linux-6.15"), other=recorded)
    assert stepper.differences == {}
    assert "they do not differ" in repr(stepper)
    assert f"recorded on {recorded.kernel}" in repr(stepper)
    assert len(stepper.frames["panes"]) == 2


# --- several panes --------------------------------------------------------------------------------------------------

KERNELS = ("linux-6.15", "linux-6.9", "linux-6.8", "linux-6.3", "rfc-v2")
SOLE = Scenario.load("child-writes-and-exits")


def five() -> Stepper:
    first, *others = (SOLE.run(kernel) for kernel in KERNELS)
    return Stepper(first, others=others)


def test_five_policies_are_each_compared_with_the_first() -> None:
    stepper = five()
    assert stepper.labels == list(KERNELS)
    first = SOLE.run(KERNELS[0])
    for kernel, differences in zip(KERNELS, [column.differences for column in stepper.columns], strict=True):
        assert list(differences) == [found.number + 1 for found in first.compare(SOLE.run(kernel))]
    starts = [min(pane) for pane in [column.differences for column in stepper.columns[1:]]]
    assert len(set(starts)) > 1
    assert min(stepper.differences) == min(starts)
    text = repr(stepper)
    for kernel, start in zip(KERNELS[1:], starts, strict=True):
        assert f"linux-6.15 and {kernel} differ at " in text
        assert f"first at step {start}: " in text
    assert stepper.frames["faulting"] == sorted(
        {step for kernel in KERNELS for step, result in enumerate(SOLE.run(kernel), 1) if result.faults}
    )


def test_two_panes_count_the_same_things() -> None:
    """One copies where the other reuses: a path that one of them takes has its line in both."""
    steps = (("write", 0, 0, 1), ("read", 0, 9), ("fork", 0), ("exit", 1), ("write", 0, 0, 2), ("write", 0, 9, 1))
    scenario = Scenario(16, steps, orders=(2,))
    frames = Stepper(scenario.run("linux-6.9"), other=scenario.run("linux-6.15")).frames
    left, right = (
        [dict(zip(pane["names"], now, strict=True)) for now in pane["values"]] for pane in frames["counters"]
    )
    assert set(left[-1]) == set(right[-1])
    assert (left[-1]["cow copy"], left[-1]["exclusive reuse"]) == (1, 0)
    assert (right[-1]["cow copy"], right[-1]["exclusive reuse"]) == (0, 1)
    assert [now["faults"] for now in left] == [0, 1, 2, 2, 2, 3, 4]


def test_entries_that_differ_are_outlined_in_both_of_two_panes() -> None:
    mine, other = (column.pictures for column in Stepper(COPY.run("linux-6.15"), other=COPY.run("rfc-v2")).columns)
    assert [bool(cast(Picture, picture).scene.differing) for picture in mine] == [False, False, False, True, True]
    both = [cast(Picture, pane[3]) for pane in (mine, other)]
    # RFC v2 copies all pages: those beside the written one are shared under 6.15, and alone under RFC v2.
    for picture in both:
        assert picture.scene.differing == {(who, page) for who in (0, 1) for page in range(8)} - {(0, 2)}
        assert "afp-differs" in picture.sheet.body()


def test_the_static_form_shows_every_pane() -> None:
    stepper = five()
    svg, text = stepper.svg(), repr(stepper)
    root = ET.fromstring(svg)
    words = ["".join(found.itertext()) for found in root.iter("{http://www.w3.org/2000/svg}text")]
    for kernel in KERNELS:
        assert any(line.startswith(f"{kernel} · step 21 of 21") for line in words)
        assert f"{kernel} · step 21 of 21" in text
    assert root.findtext("{http://www.w3.org/2000/svg}desc") == text
    assert "never merged" in svg
    assert svg.count("<style>") == 1
    assert len(svg) < 25_000 * len(KERNELS)


def test_other_and_others_are_one_list() -> None:
    runs = [COPY.run(kernel) for kernel in KERNELS[:3]]
    assert Stepper(runs[0], other=runs[1], others=runs[2:]).labels == list(KERNELS[:3])
    assert Stepper(runs[0], other=runs[1], labels=["mine", "hers"]).differences == {}


def test_a_policy_says_what_it_is_only_under_its_own_name() -> None:
    """A proposal is called one; a policy that hides whose child it is (a bug hunt) does not get its parent's words."""
    hidden = POLICIES["rfc-v2"].but(name="ash")
    abouts = Stepper(COPY.run("linux-6.15"), others=[COPY.run("rfc-v2"), COPY.run(hidden)]).frames["abouts"]
    assert "never merged" in abouts[1]
    assert abouts[2] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"others": [COPY.run("rfc-v2")] * 5}, "6 panes are more than one can read; there are at most 5"),
        ({"other": Scenario(8, ()).run("rfc-v2")}, "a run of 0 steps cannot stand beside one of 4"),
        ({"labels": ["a", "b"]}, "there are 2 labels for 1 panes"),
        ({"panel": ["a"] * 4}, "the panel has 4 texts for 5 moments"),
        ({"key": 1, "at": 1}, "key=1 and at=1 both say what is shown at first; give one of them"),
    ],
)
def test_what_does_not_fit_is_an_error(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Stepper(COPY.run("linux-6.15"), **options)


# --- predicting -----------------------------------------------------------------------------------------------------


def test_reads_and_writes_are_asked_about_and_nothing_else() -> None:
    assert {step: asked["path"] for step, asked in Stepper(COPY.run("linux-6.15")).asked.items()} == {
        1: "first touch", 3: "cow copy", 4: "no fault",
    }  # fmt: skip


def test_each_reason_names_the_check_that_decided() -> None:
    asked = Stepper(COPY.run("linux-6.15")).asked
    assert asked[1]["because"] == "nothing is mapped there and the access is a write (pte_none: yes)"
    assert asked[3]["because"].endswith("mapped by more than one process (FOLIO_MM_IDS_SHARED_BITNUM: yes)")
    assert asked[4]["because"] == "the page is mapped"


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", scenario_names())
def test_what_is_asked_is_what_happened(name: str) -> None:
    scenario = Scenario.load(name)
    for kernel in ("linux-6.15", "rfc-v2"):
        timeline = scenario.run(kernel)
        stepper = Stepper(timeline)
        for step, asked in stepper.asked.items():
            result = timeline[step - 1]
            assert asked["path"] == (result.faults[-1].path if result.faults else "no fault")
            assert asked["path"] in stepper.frames["choices"]
            assert asked["because"]
            assert asked["because"] not in asked["question"]


def test_sigsegv_is_a_choice_where_one_happens() -> None:
    hole = Scenario(4, (("munmap", 0, 1, 1), ("write", 0, 1, 1)), orders=()).run("linux-6.15")
    stepper = Stepper(hole)
    assert stepper.frames["choices"][-1] == "sigsegv"
    assert stepper.asked[2]["because"] == "no mapping contains it"
    assert "sigsegv" not in Stepper(COPY.run("linux-6.15")).frames["choices"]


def test_the_static_form_of_a_question_holds_no_outcome() -> None:
    timeline = COPY.run("linux-6.15")
    stepper = Stepper(timeline, predict=True, key=2)
    assert stepper.step == 3
    root = ET.fromstring(stepper.svg())
    lines = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for shown in (repr(stepper), " ".join(lines), stepper.svg()):
        if shown != stepper.svg():
            assert "Step 3, linux-6.15: Process 1 writes page 2. Which path does it take?" in shown
            assert timeline.show(1).sentence[:60] in shown
        assert "is copied" not in shown
        assert "maybe_mapped_shared" not in shown
    stepper.predict = False
    assert "is copied" in repr(stepper)


def test_predicting_begins_with_the_first_question() -> None:
    forked = Scenario(4, (("fork", 0), ("read", 0, 1), ("write", 0, 1, 1)), orders=())
    assert Stepper(forked.run("linux-6.15"), predict=True).step == 2
    assert Stepper(Scenario(4, (("fork", 0),)).run("linux-6.15"), predict=True).step == 1


# --- a panel --------------------------------------------------------------------------------------------------------


def test_a_panel_goes_with_the_moments() -> None:
    timeline = COPY.run("linux-6.15")
    stepper = Stepper(timeline, panel=[f"CPU 0 <{at}>\n  page 2" for at in range(5)], panel_title="TLB", key=2)
    assert stepper.frames["panel"][3] == "CPU 0 <3>\n  page 2"
    assert repr(stepper).endswith("TLB\nCPU 0 <3>\n  page 2")
    words = [found.text for found in ET.fromstring(stepper.svg()).iter("{http://www.w3.org/2000/svg}text")]
    assert words[-3:] == ["TLB", "CPU 0 <3>", "  page 2"]


def test_a_panel_may_be_drawn() -> None:
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1736 400" width="99" style="x:y"><title>{at} &lt; 9'
        f'</title><rect width="9" height="9"/></svg>'
        for at in range(5)
    ]
    stepper = Stepper(COPY.run("linux-6.15"), panel=drawn, panel_title="TLB", key=2)
    assert repr(stepper).endswith("TLB\n3 < 9")
    inner = list(ET.fromstring(stepper.svg()).iter("{http://www.w3.org/2000/svg}svg"))[1]
    assert (inner.get("width"), inner.get("height"), inner.get("style")) == ("832", "191.705", None)


def test_the_front_end_asks_nobody_outside() -> None:
    for name in ("stepper.js", "stepper.css"):
        text = (VIEW / name).read_text(encoding="utf-8")
        assert "http" not in text.replace("http://www.w3.org", "")
        assert "@import" not in text
        assert "fetch(" not in text
