"""teach/EXAMINATION.md: answers are the model's and the recordings', and what is cited stands where it is said to."""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("examination", ROOT / "tools" / "examination.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["examination"] = importlib.util.module_from_spec(spec)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


examination = load()
TEXT = examination.PAGE.read_text(encoding="utf-8")
CASES = re.split(r"^(?=### )", TEXT, flags=re.M)[1:]
HEAD = re.compile(
    r"### (?P<number>\d+)\. (?P<kind>.*?): .*\n\n\(`(?P<file>.*)`, program (?P<program>\d+), step (?P<step>\d+)\)"
)
CITED = re.compile(r"^\d+\. .*?: \[(\d\d)\]\(\.\./notebooks/(.*)\), `(.*)`: “(.*)”$", re.M)
POLICIES = {kind.name: kind.policy for kind in examination.KINDS}


def told(text: str) -> list[str]:
    """Of a case its text, without what is cited: which earlier steps matter takes a run for each."""
    found = HEAD.match(text)
    assert found, text[:80]
    case = examination.case_of(
        found["kind"], found["file"], int(found["program"]), int(found["step"]), POLICIES[found["kind"]]
    )
    keys = [key for fault in case.result.faults for key in examination.fault_lessons(case, fault)]
    return [
        examination.program_text(case.scenario),
        examination.answer(case),
        *(examination.LESSONS[k][1] for k in keys),
    ]


def test_there_are_forty_of_every_kind() -> None:
    kinds = [found["kind"] for text in CASES if (found := HEAD.match(text))]
    assert [kind.name for kind in examination.KINDS for _ in range(kind.count)] == kinds
    assert len(kinds) == 40


@pytest.mark.sweep(8)
@pytest.mark.parametrize("file", sorted({found["file"] for text in CASES if (found := HEAD.match(text))}))
def test_each_answer_is_what_the_model_does_and_the_kernel_did(file: str) -> None:
    """And what the kernel asked is cited. (`case_of` raises where model and recording differ.)"""
    for text in CASES:
        if f"\n(`{file}`, program " in text:
            for part in told(text):
                assert part in text


def test_each_citation_stands_in_its_cell() -> None:
    cited = CITED.findall(TEXT)
    assert len(cited) == len(re.findall(r"^\d+\. ", TEXT, re.M)) > 200
    for number, name, cell, words in cited:
        file, found = examination.cells(number)
        assert file == name
        assert words in dict(found)[cell], words


def test_every_lesson_is_taught() -> None:
    for key in examination.LESSONS:
        assert examination.cited(key)


def test_the_seed_draws_these() -> None:
    for number, case in enumerate(islice(examination.drawn(examination.SEED), 3), 1):
        assert examination.told(number, case) == CASES[number - 1].rstrip("\n") + "\n"


def test_a_recording_that_differs_is_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    _, arch, found = examination.programs("named-6.12")
    monkeypatch.setattr(examination, "programs", lambda file: ("6.18.44", arch, found))
    with pytest.raises(ValueError, match="program 10"):
        examination.case_of("another kernel's", "named-6.12", 10, 19)


@pytest.mark.parametrize("pattern", ["no-such-.*", "min-6.18.9"])
def test_a_kind_that_no_recording_shows_is_named(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Instead of being looked for without an end."""
    never = examination.Kind("a miracle", pattern, lambda *_: False)
    monkeypatch.setattr(examination, "KINDS", (never,))
    monkeypatch.setattr(examination, "MOST_TRIES", 3)
    with pytest.raises(LookupError, match=rf"^a miracle: 0 of 1 found in recordings named {re.escape(pattern)}$"):
        next(examination.drawn(1))


@pytest.mark.parametrize(
    ("file", "program", "step", "key"),
    [
        ("free-7.3.4", 41, 5, "split, zeros"), ("shrink-6.18.44", 0, 18, "split, zeros"),
        ("locked-6.18.44", 72, 3, "mlock, faults"), ("locked-6.18.44", 118, 10, "mmap, placed"),
        ("mixed-7.3", 118, 8, "fork, zero pages"),
    ],
)  # fmt: skip
def test_what_the_second_reader_missed_is_cited(file: str, program: int, step: int, key: str) -> None:
    """Drawn with seed 20261129 and answered by hand: steps of the reasoning that no citation named."""
    assert key in examination.needed(examination.case_of("", file, program, step))
    assert key not in examination.needed(examination.case_of("", "mixed-7.3", 118, 1))
