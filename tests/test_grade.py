"""A folder of made-up submissions: right, wrong, cheating, hanging and broken ones, each graded as it should be."""

from __future__ import annotations

import csv
import inspect
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from anonfolio.__main__ import main
from anonfolio.exercises import exclusive_reuse, first_touch, start_here, zero_page_copy
from anonfolio.lesson.plain import packed, unpacked
from anonfolio.teach import papers, sandbox
from anonfolio.teach.grade import Grader, Row, read_submission
from anonfolio.teach.sandbox import MODULES

pytestmark = pytest.mark.skipif(os.name != "posix", reason="grade needs the limits of a Unix")

SECRET = b"a secret that is long enough"
SECONDS = 1.5
RIGHT = inspect.getsource(first_touch.choose_order)
HEAD = "def choose_order(page, mapping, used, enabled):\n"


def entry(kind: str, *given: Any) -> dict[str, Any]:
    return {"kind": kind, "given": list(given), "right": [True] * len(given), "hints": 0, "shown": False}


def function(source: str, name: str = "choose_order") -> dict[str, Any]:
    return entry("function", {"name": name, "source": source})


def submitted(**answers: Any) -> str:
    return json.dumps({"format": "anonfolio-answers/1", "answers": answers})


def of(id: str, one: dict[str, Any]) -> str:
    return submitted(**{id: one})


def memorised() -> str:
    """The answers to the cases that the notebook asks, as a table."""
    known = {repr(case): right for case, right in first_touch.order.cases}
    return f"KNOWN = {known!r}\n{HEAD}    return KNOWN.get(repr(locals()), 0)\n"


@cache
def homework(student: str, right: bool, **changed: Any) -> str:
    made = papers.paper("touch", 3, 4, student, SECRET)
    letters = [question.letter if right else "abcd"[question.right - 1] for question in made.drawn]
    answers = {f"homework.{number}": entry("choice", letter) for number, letter in enumerate(letters, 1)}
    paper = {"topic": "touch", "seed": 3, "count": 4, "student": student, "ticket": made.ticket} | changed
    return json.dumps({"format": "anonfolio-answers/1", "paper": paper, "answers": answers})


ORDER = "first_touch.order"
ALL_RIGHT = {"start_here.size": entry("number", 512, 16), "start_here.last": entry("choice", "c")}
SUBMISSIONS: dict[str, tuple[str | Callable[[], str], str, float, str]] = {
    # student: (what is handed in, or draws it, question, points, a word of the note)
    "01 right": (of(ORDER, function(RIGHT)), ORDER, 1, ""),
    "02 wrong": (
        of(ORDER, function(f"{HEAD}    return max(enabled, default=0)\n")),
        ORDER, 0, "of 60 cases. That is the largest enabled size, whether its block fits or not.",
    ),
    "03 memorised": (of(ORDER, function(memorised())), ORDER, 0, "Right on"),
    "04 asks the truth": (
        of(ORDER, function(f"{HEAD}    return q.order.truth(page=page, used=used)\n")),
        ORDER, 0, "NameError",
    ),
    "05 imports the answers": (
        of(ORDER, function("from anonfolio.exercises.first_touch import choose_order\n")), ORDER, 0, "ImportError",
    ),
    "06 finds the answers": (
        of(
            ORDER,
            function(
                f"import sys\nsys.path.insert(0, {str(Path(first_touch.__file__).parents[2])!r})\n"
                "from anonfolio.exercises.first_touch import choose_order\n"
            ),
        ), ORDER, 0, "ImportError",
    ),
    "07 reads the answers": (
        of(ORDER, function(f"exec(open({first_touch.__file__!r}).read())\n{HEAD}    return 0\n")),
        ORDER, 0, "Permission",
    ),
    "08 no end": (of(ORDER, function(f"{HEAD}    while True:\n        pass\n")), ORDER, 0, "stopped after"),
    "09 no end, stubborn": (
        of(
            ORDER,
            function(
                f"{HEAD}    while True:\n        try:\n            x = 1\n"
                "        except BaseException:\n            pass\n"
            ),
        ), ORDER, 0, "stopped after",
    ),
    "10 memory": (of(ORDER, function(f"{HEAD}    return len([0] * (1 << 40))\n")), ORDER, 0, "MemoryError"),
    "11 ends": (
        of(ORDER, function(f"{HEAD}    print.__self__.__import__('os')._exit(0)\n")), ORDER, 0, "ended without",
    ),
    "12 forges its score": (
        of(
            ORDER,
            function(
                "os = print.__self__.__import__('os')\n"
                'for fd in range(1, 9):\n    try:\n        os.write(fd, b\'{"answers": [], "points": 1}\')\n'
                "    except OSError:\n        pass\nos._exit(0)\n"
            ),
        ), ORDER, 0, "ended",
    ),
    "13 writes files": (
        of(ORDER, function(f"{HEAD}    open('/tmp/anonfolio-forged', 'w').write('x')\n    return 0\n")),
        ORDER, 0, "Permission",
    ),
    "14 not JSON": ('{"format": "anonfolio-answers/1", "answers": {', ORDER, 0, "not JSON"),
    "15 huge": (" " * (2 << 20), ORDER, 0, "more than 1,048,576 bytes"),
    "16 nested": ("[" * 100_000, ORDER, 0, "not JSON"),
    "17 answers": (submitted(**ALL_RIGHT), "start_here.last", 1, ""),
    "18 says it is right": (of("start_here.size", entry("number", 512)), "start_here.size", 0, ""),
    "19 homework": (lambda: homework("19 homework", right=True), "homework touch 3", 1, ""),
    "20 another's paper": (lambda: homework("19 homework", right=True), "homework touch 3", 0, "no paper"),
    "21 homework wrong": (lambda: homework("21 homework wrong", right=False), "homework touch 3", 0, ""),
    "22 easier homework": (
        lambda: homework("22 easier homework", right=True, count=1), "homework touch 3", 0, "no paper",
    ),
    "23 program that hangs": (
        of(
            "zero_page_copy.cheap",
            entry("program", "pages 1048576\n" + "fork 0\n" * 40 + "write 0 0..1000\n" * 90),
        ), "zero_page_copy.cheap", 0, "",
    ),
    "24 strange": (
        submitted(**{
            "start_here.eight": entry("cases", {"a": {}, "b": [1], "zz": 3}), "start_here.size": entry("number", "NaN"),
            "start_here.writable": entry("pages", 7), ORDER: entry("function", 7),
            "no.such": entry("number", 1), "first_touch.words": entry("number", 1),
        }), "start_here.eight", 0, "no such question",
    ),
}  # fmt: skip


def test_a_folder_of_submissions_is_graded_as_it_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "handed in"
    folder.mkdir()
    for student, (text, *_) in SUBMISSIONS.items():
        (folder / f"{student}.json").write_text(text() if callable(text) else text, encoding="utf-8")
    (folder / "scores.csv").write_text("student,score\n03 memorised,99\n")
    (folder / "link.json").symlink_to(folder / "01 right.json")
    (folder / "=1+1.json").write_text(of("start_here.size", entry("number", 16)))
    (folder / "many").mkdir()
    (folder / "many" / "one.json").write_text(of("start_here.size", entry("number", 16)))
    (folder / "many" / "two.json").write_text(of("start_here.last", entry("choice", "b")))
    (folder / "nothing").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    scores = tmp_path / "scores.csv"
    forged = Path("/tmp/anonfolio-forged")
    assert main([
        "grade", str(folder), "--secret", str(tmp_path / "secret"), "--seconds", str(SECONDS), "-o", str(scores),
    ]) == 0  # fmt: skip
    assert "students in" in capsys.readouterr().out
    assert not forged.exists()
    rows = {row["student"]: row for row in csv.DictReader(scores.read_text(encoding="utf-8").splitlines())}
    for student, (_, question, points, note) in SUBMISSIONS.items():
        assert float(rows[student][question]) == points, (student, rows[student])
        assert note in rows[student]["notes"], (student, rows[student])
    assert rows["17 answers"]["score"] == "2"
    assert "plain file" in rows["link"]["notes"]
    assert rows["'=1+1"]["score"] == "1"
    assert rows["many"]["start_here.size"] == "1"
    assert rows["many"]["start_here.last"] == "0"
    assert (rows["nothing"]["score"], "no file of answers" in rows["nothing"]["notes"]) == ("0", True)
    assert len(rows) == len(SUBMISSIONS) + 4


def judged(id: str, one: dict[str, Any]) -> Row:
    grader = Grader(SECRET, 5.0)
    try:
        row = Row("ada")
        grader._add(row, {id: one}, None)
        return row
    finally:
        grader.close()


@pytest.mark.parametrize("question", [exclusive_reuse.decided, zero_page_copy.count])
def test_a_function_that_stands_in_the_solutions_is_right(question: Any) -> None:
    row = judged(
        question.id, function(inspect.getsource(question.worked).replace("page: Met", "page"), question.worked.__name__)
    )
    assert row.points == {question.id: 1.0}, row.notes


def test_parts_of_cases_count() -> None:
    known = {letter: case.truth() for letter, case in start_here.eight.cases.items()}
    wrong = next(answer for answer in start_here.eight.answers if answer != known["a"])
    row = judged("start_here.eight", entry("cases", known | {"a": wrong}))
    assert row.points == {"start_here.eight": (len(known) - 1) / len(known)}


def test_only_what_counts_counts() -> None:
    row = Row("ada")
    grader = Grader(SECRET, only=("start_here.last",))
    grader._add(row, {"start_here.last": entry("choice", "c"), "first_touch.order": function(RIGHT)}, None)
    grader.close()
    assert row.points == {"start_here.last": 1.0}


def test_the_cases_that_judge_are_not_those_of_the_notebook() -> None:
    other = Grader(SECRET)._other_cases(first_touch.order)
    assert not {repr(case) for case, _ in other.cases} <= {repr(case) for case, _ in first_touch.order.cases}


@pytest.mark.parametrize(
    "value",
    [1, True, None, "x", 1.5, float("inf"), range(3, 9, 2), {1, 2}, (1, [2, {"a": (3,)}]), {"k": {1: "v"}}, []],
)
def test_plain_values_come_back_as_they_were(value: Any) -> None:
    back = unpacked(json.loads(json.dumps(packed(value))))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", [object(), lambda: 1, [object()]])
def test_what_is_no_plain_value_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="no plain value"):
        packed(value)


def test_a_list_in_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="deeply"):
        packed(value)


def test_what_a_function_may_import_is_the_library_alone() -> None:
    assert "os" not in MODULES
    assert all(name.split(".")[0] in sys.stdlib_module_names for name in MODULES)
    assert sandbox._import("math").pi > 3
    with pytest.raises(ImportError, match="os is not there when a function is judged"):
        sandbox._import("os")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("[]", "no file of answers"),
        ('{"format": "anonfolio-answers/1", "answers": []}', "kind, given"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_submission(tmp_path / "x.json")


def test_a_folder_without_submissions_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    assert main(["grade", str(tmp_path), "--secret", str(tmp_path / "secret")]) == 2
    assert "holds no submission" in capsys.readouterr().err


def test_a_file_of_no_characters_costs_nobody_else_her_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, secret = tmp_path / "in", tmp_path / "secret"
    folder.mkdir()
    secret.write_bytes(SECRET)
    forged = json.dumps({"format": "anonfolio-answers/1", "paper": {}, "answers": {"\ud800": entry("number", 1)}})
    (folder / "forged.json").write_text(forged)
    # Which of these can be read, and which of those be written again, hangs on how deep calls are here.
    for depth in range(930, 1000, 3):
        deep = of("start_here.eight", entry("number", 1)).replace("[1]", "[" * depth + "]" * depth)
        (folder / f"deep {depth}.json").write_text(deep)
    (folder / "honest.json").write_text(submitted())
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text(submitted())
    assert main(["grade", str(folder), "--secret", str(secret), "-o", str(tmp_path / "scores.csv")]) == 0
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    rows = {row["student"]: row for row in csv.DictReader(lines)}
    assert len(rows) == 27
    assert {row["score"] for row in rows.values()} == {"0"}
    assert rows["honest"]["notes"] == ""  # Nothing to say is an empty cell.
    assert "no character" in rows["forged"]["notes"]
