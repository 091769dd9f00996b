"""The stepper without a browser: what it sends, what it says, what it leaves for pages that run no widgets."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import anonfolio.view
from anonfolio.drawing import lean
from anonfolio.recording import DATA_DIR, read_recording
from anonfolio.scenario import Scenario
from anonfolio.view import Stepper

COPY = Scenario(
    8, (("write", 0, 0, 7), ("fork", 0), ("write", 1, 2, 9), ("read", 0, 2)), orders=(3,), name="fork, then write"
)
VIEW = Path(anonfolio.view.__file__).parent


def test_every_frame_is_the_python_svg_piece_by_piece() -> None:
    stepper = Stepper(COPY.run("linux-6.15"), other=COPY.run("rfc-v2"))
    state = json.loads(json.dumps(stepper.get_state()))
    frames = state["frames"]
    assert len(frames["pieces"]) == len(set(frames["pieces"]))
    for pane, pictures in zip(frames["panes"], stepper.panes, strict=True):
        height = max(picture.height for picture in pictures)
        assert len(pane) == len(COPY.steps) + 1
        for pieces, picture in zip(pane, pictures, strict=True):
            drawn = "".join(frames["pieces"][piece] for piece in pieces)
            assert drawn == lean(picture.svg(height))
            assert ET.fromstring(drawn).get("viewBox") == f"0 0 900 {height:g}"


def test_pieces_that_stay_are_sent_once() -> None:
    timeline = read_recording(DATA_DIR / "named-6.18.json.gz").named("third-process-alone").scenario.run("linux-6.15")
    frames = Stepper(timeline).frames
    used = sum(map(len, frames["panes"][0]))
    assert len(frames["pieces"]) * 4 < used
    assert len(json.dumps(frames)) < 250_000


def test_its_text_names_the_step_and_shows_the_frame() -> None:
    timeline = COPY.run("linux-6.15")
    text = repr(Stepper(timeline, key=2))
    assert text.startswith("Stepper fork, then write: step 3 of 4\n")
    assert timeline.show(2).snapshot.policy in text
    assert ">Bw" in text
    assert repr(Stepper(timeline, key=2)) == text
    assert repr(Stepper(timeline, key=1)) != text
    assert "step 4 of 4" in repr(Stepper(timeline, title="mine"))
    assert repr(Stepper(timeline, title="mine")).startswith("Stepper mine:")


@pytest.mark.parametrize(("key", "step"), [(-1, 4), (0, 1), (2, 3), (-4, 1)])
def test_the_key_frame_is_numbered_as_the_timeline(key: int, step: int) -> None:
    assert Stepper(COPY.run("linux-6.15"), key=key).step == step


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


def test_the_front_end_asks_nobody_outside() -> None:
    for name in ("stepper.js", "stepper.css"):
        text = (VIEW / name).read_text(encoding="utf-8")
        assert "http" not in text.replace("http://www.w3.org", "")
        assert "@import" not in text
        assert "fetch(" not in text
