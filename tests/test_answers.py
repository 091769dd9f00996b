"""What protects the file of answers: what was given stands in it, and only a person's notebook writes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anonfolio.exercises import cost_and_memory, cow_copy_order, first_touch, fork_and_share, start_here, zero_page_copy
from anonfolio.hardware.orders import KERNEL_COPY
from anonfolio.lesson import answers, sheet
from anonfolio.lesson.spoilers import spoilers

ASKED = (
    start_here.backed, start_here.last, start_here.writable, start_here.eight, first_touch.blocks, first_touch.order,
    zero_page_copy.cheap, cost_and_memory.choose, cow_copy_order.order, cow_copy_order.damage, fork_and_share.counts,
)  # fmt: skip


@pytest.fixture(autouse=True)
def nobody_has_answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(answers, "_told", set())
    for asked in ASKED:
        asked.forget()
    yield
    for asked in ASKED:
        asked.forget()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "anonfolio-answers.json"
    monkeypatch.setenv("ANONFOLIO_ANSWERS", str(path))
    return path


def test_every_kind_of_answer_is_kept_as_json_has_it(file: Path) -> None:
    start_here.backed.predict(64)
    start_here.backed.compare()
    start_here.backed.forget()
    start_here.backed.predict(16)
    start_here.last.check("C")
    start_here.writable.check({8, 9})
    start_here.eight.check(a="nf")
    start_here.eight.check(b="first touch")
    first_touch.blocks.check((1, 4))
    zero_page_copy.cheap.check(zero_page_copy.cheap.worked())
    cost_and_memory.choose.check(a=("4K", "memory"))
    cow_copy_order.order.check(list(KERNEL_COPY[:-1]))
    cow_copy_order.damage.check(leak=["drop", ("cpu2", "write", 0, 66), ("cpu1", "read", 0)])
    found = answers.read(file)
    assert found["start_here.backed"] == {
        "kind": "number", "given": [64, 16], "right": [False, None], "hints": 0, "shown": False,
    }  # fmt: skip
    given = {name: (entry["kind"], entry["given"][-1], entry["right"][-1]) for name, entry in found.items()}
    assert given == {
        "start_here.backed": ("number", 16, None),
        "start_here.last": ("choice", "c", True),
        "start_here.writable": ("pages", [8, 9], False),
        "start_here.eight": ("cases", {"a": "no fault", "b": "first touch"}, False),
        "first_touch.blocks": ("sizes", [1, 4], False),
        "zero_page_copy.cheap": ("program", zero_page_copy.cheap.worked().text(), True),
        "cost_and_memory.choose": ("pairs", {"a": ["4K", "memory"]}, False),
        "cow_copy_order.order": ("order", list(KERNEL_COPY), True),
        "cow_copy_order.damage": ("events", {"leak": ["drop", ["cpu2", "write", 0, 66], ["cpu1", "read", 0]]}, True),
    }
    assert json.loads(file.read_text())["format"] == "anonfolio-answers/1"
    assert {entry["kind"] for entry in found.values()} | {"function"} == set(answers.KINDS)


def test_what_is_kept_is_judged_alike_by_who_reads_it(file: Path) -> None:
    start_here.writable.check({8})
    first_touch.blocks.check([1, 4, 8, 4, 1, 1, 1])
    start_here.eight.check(a="no fault")
    zero_page_copy.cheap.check(zero_page_copy.cheap.worked())
    for name, entry in answers.read(file).items():
        bank, _, question = name.partition(".")
        asked: Any = getattr(sys.modules[f"anonfolio.exercises.{bank}"], question)
        given = entry["given"][-1]
        if entry["kind"] == "program":
            given = type(asked.start).parse(given)
        said = asked.check(**given) if entry["kind"] == "cases" else asked.check(given)
        assert (said.kind == "right") is entry["right"][-1] is True, name


def test_the_same_answer_again_is_one_and_a_comparison_judges_it(file: Path) -> None:
    start_here.backed.predict(64)
    start_here.backed.predict(64)
    start_here.backed.compare()
    start_here.backed.compare()
    entry = answers.read(file)["start_here.backed"]
    assert (entry["given"], entry["right"]) == ([64], [False])


def test_many_answers_keep_the_first_and_the_last(file: Path) -> None:
    for number in range(100):
        start_here.backed.check(number + 100)
    entry = answers.read(file)["start_here.backed"]
    assert (len(entry["given"]), len(entry["right"])) == (answers.MOST, answers.MOST)
    assert (entry["given"][0], entry["given"][1], entry["given"][-1]) == (100, 181, 199)


def test_hints_and_solutions_are_counted_and_a_shown_one_is_not_a_right_one(file: Path) -> None:
    start_here.backed.hint()
    start_here.backed.hint(2)
    start_here.backed.hint(1)
    start_here.backed.solution()
    start_here.backed.check(16)
    start_here.last.check("a")
    start_here.last.check("c")
    start_here.writable.check({8})
    found = answers.read(file)
    assert (found["start_here.backed"]["hints"], found["start_here.backed"]["shown"]) == (2, True)
    assert answers.score(found) == {"answered": 3, "right": 2, "at_once": 1}


def test_what_is_no_answer_is_not_kept(file: Path) -> None:
    start_here.backed.predict(...)
    start_here.backed.check("many")
    start_here.eight.check(a=...)
    start_here.eight.check(a="magic")
    first_touch.order.check(...)
    zero_page_copy.cheap.check(7)
    assert not file.exists()


def test_a_question_of_no_bank_is_in_no_file(file: Path) -> None:
    type(start_here.backed)(name="q.n", prompt="?", truth=lambda: 3).check(3)
    assert not file.exists()


def test_a_function_is_kept_as_text_with_what_it_uses(file: Path, tmp_path: Path) -> None:
    module = tmp_path / "cell.py"
    module.write_text(
        "import math as m\nlimit = (4, 3)\nlost = object()\n\n\ndef helper(order):\n    return 1 << order\n\n\n"
        "def mine(page, mapping, used, enabled):\n    lost\n    for order in limit:\n        helper(m.floor(order))\n"
        "    return 0\n"
    )
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(module.read_text(), str(module), "exec"), names)
    first_touch.order.check(names["mine"])
    kept = answers.read(file)["first_touch.order"]["given"][-1]
    assert kept["name"] == "mine"
    fresh: dict[str, Any] = {}
    with pytest.raises(NameError, match="lost"):
        exec(f"{kept['source']}\nmine(1, range(4), set(), (4,))", fresh)
    assert fresh["limit"] == (4, 3)
    assert fresh["helper"](3) == 8
    assert fresh["m"].floor(3.5) == 3


class Secret:
    """Whoever asks it anything ends the program."""

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(name)


MANY = list(range(10**6))


def test_a_long_value_that_a_function_uses_is_not_read_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would take gigabytes, and it is not kept."""
    read: list[str] = []
    monkeypatch.setattr(answers, "literal_eval", lambda text: read.append(text))

    def counts() -> int:
        return len(MANY)

    answers.source(counts)
    assert max(map(len, read), default=0) <= answers.LONGEST


def test_a_function_without_a_text_is_kept_by_name(file: Path) -> None:
    first_touch.order.check(eval("lambda **of: 0"))
    assert answers.read(file)["first_touch.order"]["given"] == [{"name": "<lambda>", "source": ""}]
    assert answers.source(Secret()) == {"name": "Secret", "source": ""}
    assert answers.source(SimpleNamespace(__name__=5)) == {"name": "SimpleNamespace", "source": ""}


def test_functions_that_call_each_other_end() -> None:
    assert set(answers.source(_ping)) == {"name", "source"}


def _ping(n: int) -> int:
    return _pong(n - 1) if n else 0


def _pong(n: int) -> int:
    return _ping(n - 1) if n else 0


# --- where and when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "kernel", "written"),
    [
        ({"JPY_SESSION_NAME": "00_start_here.ipynb"}, True, True),
        ({}, True, False),
        ({"JPY_SESSION_NAME": "x", "CI": "true"}, True, False),
        ({"JPY_SESSION_NAME": "x"}, False, False),
        ({"JPY_SESSION_NAME": "x", "ANONFOLIO_ANSWERS": ""}, True, False),
        ({"ANONFOLIO_ANSWERS": "anonfolio-answers.json", "CI": "1"}, False, True),
    ],
)
def test_only_a_persons_notebook_writes_unless_asked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kernel: bool, written: bool
) -> None:
    shell = SimpleNamespace(user_ns={}) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert answers.place(environment) == (Path("anonfolio-answers.json") if written else None)


def test_vs_code_is_a_person_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(user_ns={"__vsc_ipynb_file__": "x.ipynb"})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert answers.place({}) is not None


def test_a_file_that_cannot_be_written_is_one_line_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANONFOLIO_ANSWERS", str(tmp_path / "missing" / "answers.json"))
    first, second = start_here.backed.predict(8), start_here.backed.predict(9)
    assert first.lines[-1].startswith("Not kept in ")
    assert first.lines[-1].endswith("No such file or directory.")
    assert second.lines == ("Read on; the answer comes in a moment.",)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": "else"}', '{"format": "anonfolio-answers/1", "answers": []}',
     '{"format": "anonfolio-answers/1", "answers": {"a.b": {"kind": "number", "given": [1], "right": []}}}',
     '{"format": "anonfolio-answers/1", "answers": {"a.b": {"kind": "magic", "given": [], "right": []}}}'],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_in_a_line_and_left_alone(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=r"^anonfolio-answers\.json"):
        answers.read(file)
    assert start_here.backed.predict(8).lines[-1].startswith("Not kept in ")
    assert file.read_text() == text
    assert list(file.parent.iterdir()) == [file]


# --- what stays closed ----------------------------------------------------------------------------------------------


def test_what_answers_a_question_is_what_stands_between_it_and_its_comparison() -> None:
    cells = [
        "1",
        "q.a.predict(...)",
        "",
        "print(1)",
        "q.b.predict(...)",
        "Playground()",
        "2\nq.b.compare()",
        "q.a.compare()",
        "3",
    ]
    assert spoilers(cells) == {3: ("a",), 6: ("a", "b"), 7: ("a",)}
    assert spoilers(["q.a.compare()", "q.c.check(...)"]) == {}


# --- what travels to a browser --------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ASKED[:5], ids=lambda asked: asked.id)
def test_a_sheet_is_sealed_and_the_same_every_time(asked: Any) -> None:
    made = asked.sheet()
    shown = json.dumps(made, ensure_ascii=False)
    right = sheet.unseal(made["id"], made["sealed"])
    assert right["hints"] == list(asked.hints)
    assert right["solution"] == list(asked._solved_lines())
    assert not any(words in shown for words in (*asked.hints, *asked._solved_lines()))
    assert sheet.seal("another", right) != made["sealed"]
    assert asked.sheet() == made


def test_a_prediction_takes_no_answer_along_and_computes_none() -> None:
    def never() -> int:
        raise AssertionError("asked too early")

    asked = type(start_here.backed)(name="q.n", prompt="?", hints=("Think.",), truth=never)
    made = asked.sheet("predict")
    assert made is not None
    assert sheet.unseal("q.n", made["sealed"]) == {"hints": ["Think."]}


def test_a_question_that_only_python_can_judge_has_no_sheet() -> None:
    assert first_touch.order.sheet() is None
    assert zero_page_copy.cheap.sheet() is None


def test_a_card_hears_what_is_clicked_and_python_keeps_it(file: Path) -> None:
    card = start_here.backed.predict(...).card()
    card.given = 64
    assert start_here.backed.kept == [64]
    card.hinted = 1
    card.shown = True
    assert answers.read(file)["start_here.backed"] == {
        "kind": "number", "given": [64], "right": [None], "hints": 1, "shown": True,
    }  # fmt: skip
    cases = start_here.eight.check(a=...).card()
    cases.given = {"a": "no fault"}
    assert start_here.eight.kept == {"a": "no fault"}
    counts = fork_and_share.counts.check(a=...).card()
    counts.given = {"a": "8"}
    assert answers.read(file)["fork_and_share.counts"]["right"] == [True]


def test_a_card_says_that_no_file_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANONFOLIO_ANSWERS", str(tmp_path / "missing" / "answers.json"))
    card = start_here.backed.predict(...).card()
    card.given = 8
    assert card.unkept.startswith("Not kept in ")


def test_all_cards_of_a_notebook_share_one_program() -> None:
    first, second = start_here.backed.predict(...).card(), start_here.last.predict(...).card()
    assert first.program is second.program
    assert "answers" in first.program._esm
    assert len(first._esm) < 1000
    first.program.close()
    assert start_here.backed.predict(...).card().program is not first.program


def test_what_is_shown_without_widgets_gives_nothing_away() -> None:
    said = start_here.backed.compare()
    bundle, _ = said._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"].startswith("It is 16 pages.")
    head, _, hidden = bundle["text/html"].partition("</summary>")
    assert "16" not in head
    assert "It is 16 pages." in hidden
