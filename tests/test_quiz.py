"""What protects a reader's answers: they are kept, judged against the model, and a wrong one is told why."""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import importlib
import inspect
import itertools
import math
import os
import pkgutil
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anonfolio import exercises
from anonfolio.exercises import cow_copy_order, exclusive_reuse, first_touch, start_here, zero_page_copy
from anonfolio.kernel.policy import LINUX_6_15
from anonfolio.lesson import patience, quiz
from anonfolio.lesson.quiz import (
    LOOK,
    MOST_PRINTED,
    Asked,
    Case,
    Cases,
    Choice,
    Function,
    Mistake,
    Note,
    Number,
    Pages,
    Question,
    Sizes,
    Verdict,
    but,
    in_a_row,
    judged_under,
    modelled,
    over,
    runs,
)
from anonfolio.program.scenario import Scenario

BANKS = [
    importlib.import_module(f"anonfolio.exercises.{found.name}") for found in pkgutil.iter_modules(exercises.__path__)
]
ASKED: dict[str, Asked] = {
    f"{bank.__name__.rpartition('.')[2]}.{name}": value
    for bank in BANKS
    for name, value in vars(bank).items()
    if isinstance(value, Asked)
}
SEARCHED = ("laboratory.shortest", "laboratory.saves")
"""What is right is the end of a search, or the bill of six programs: seconds."""
QUESTIONS = {name: asked for name, asked in ASKED.items() if isinstance(asked, Question)}


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    for asked in ASKED.values():
        asked.forget()
    yield
    for asked in ASKED.values():
        asked.forget()


def given(mistake: Mistake) -> Any:
    return mistake.answer() if callable(mistake.answer) else mistake.answer


class Balanced(HTMLParser):
    """Fails on a tag that is closed wrongly or not at all."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# --- every question of every notebook -------------------------------------------------------------------------------


def test_the_banks_are_found() -> None:
    assert {"start_here.eight", "first_touch.order"} <= ASKED.keys()


@pytest.mark.parametrize("name", ASKED)
def test_it_is_called_what_the_notebook_calls_it(name: str) -> None:
    assert ASKED[name].name == f"q.{name.rpartition('.')[2]}"


@pytest.mark.parametrize("name", ASKED)
def test_there_is_more_than_one_hint_or_it_is_a_one_liner(name: str) -> None:
    asked = ASKED[name]
    assert len(asked.hints) >= (1 if isinstance(asked, Number) else 2)
    told = [asked.hint().lines[0] for _ in asked.hints]
    assert tuple(told) == asked.hints
    assert asked.hint().lines[0] == asked.hints[-1]
    assert asked.hint(1).lines[0] == asked.hints[0]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", QUESTIONS)
def test_its_own_answer_is_right_and_every_mistake_is_wrong_and_named(name: str) -> None:
    question = QUESTIONS[name]
    assert question.check(question.answer).kind == "right"
    assert question.mistakes
    seen = set()
    for mistake in question.mistakes:
        said = question.check(given(mistake))
        assert said.kind == "wrong", given(mistake)
        assert said.lines[0] == mistake.says
        seen.add(mistake.says)
    assert len(seen) == len(question.mistakes)


@pytest.mark.sweep(9)
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_wrong_answer_is_not_told_the_right_one(name: str) -> None:
    question = QUESTIONS[name]
    for mistake in question.mistakes:
        # As words of their own: "4 KiB" does not stand in "64 KiB".
        told = rf"(?<!\w){re.escape(question._say(question.answer))}(?!\w)"
        assert not re.search(told, repr(question.check(given(mistake))))


@pytest.mark.sweep(9)
@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("answer", [..., None])
def test_an_unanswered_one_asks_in_a_friendly_line_and_keeps_nothing(name: str, answer: Any) -> None:
    asked = ASKED[name]
    by_letter = getattr(asked, "cases", {}) if "given" in inspect.signature(asked.check).parameters else None
    said = asked.check(answer) if by_letter is None else asked.check(**dict.fromkeys(by_letter, answer))
    assert said.kind == "ask"
    assert said.head == asked.prompt
    assert "runs on without it" in said.lines[-1]
    assert not getattr(asked, "kept", None)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in SEARCHED)) for name in ASKED])
def test_what_it_says_is_sound_html_and_text_that_fits(name: str) -> None:
    asked = ASKED[name]
    for said in (asked._asked(), asked.hint(), asked.solution()):
        Balanced(said._repr_html_())
        if not said.code:
            assert max(map(len, repr(said).splitlines())) <= 100
    assert "details" in Balanced(asked.solution()._repr_html_()).tags


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in SEARCHED)) for name in ASKED])
def test_asking_twice_says_the_same(name: str) -> None:
    asked = ASKED[name]
    assert repr(asked) == repr(copy.deepcopy(asked))
    assert repr(asked.solution()) == repr(asked.solution())


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def number() -> Number:
    return Number(
        name="q.n", prompt="How many?", unit="pages", truth=lambda: 16, because="Because.", hints=("Think.",),
        mistakes=(Mistake(lambda: 1, "One is not enough."),),
    )  # fmt: skip


def test_a_prediction_is_kept_and_compared(number: Number) -> None:
    assert "16" not in repr(number.predict(64))
    said = number.compare()
    assert said.head == "You said 64 pages; it is 16 pages."
    assert said.lines[-1] == "Because."


def test_the_last_prediction_counts(number: Number) -> None:
    number.predict(1)
    number.predict(16)
    assert number.compare().head == "As you said: 16 pages."
    assert number.kept == [1, 16]


def test_a_prediction_with_a_known_mistake_is_told_which(number: Number) -> None:
    number.predict(1)
    assert number.compare().lines[0] == "One is not enough."


def test_without_a_prediction_the_answer_is_shown_all_the_same(number: Number) -> None:
    assert number.compare().head.startswith("It is 16 pages.")


def test_a_prediction_is_fixed_once_it_was_compared(number: Number) -> None:
    number.predict(8)
    number.predict(1)
    number.compare()
    assert number.predict(1).head == "Kept: you say 1 page."
    assert number.predict(16).head == f"{quiz.FIXED}: you say 1 page."
    assert number._clicked("predict", 16) == f"{quiz.FIXED}: you say 1 page."
    assert number.compare().kind == "wrong"
    assert number._clicked("predict", None) == ""
    assert number.predict(16).head == "Kept: you say 16 pages."
    assert number.compare().kind == "right"


@pytest.mark.parametrize("name", QUESTIONS)
def test_beside_the_right_answer_no_hint_is_given(name: str) -> None:
    question = QUESTIONS[name]
    if isinstance(question, Number):
        question.predict(question.answer + 1)
        said = question.compare()
        assert said.kind == "wrong"
        assert not re.search(r"than that|hint\(\)|missing|too many", " ".join(said.lines))


def test_another_wrong_number_is_told_the_direction(number: Number) -> None:
    assert number.check(99).lines[0].startswith("Fewer")
    assert number.check(2).lines[0].startswith("More")


@pytest.mark.parametrize("answer", [16, 16.0, np.int64(16), np.array(16)])
def test_sixteen_is_sixteen(number: Number, answer: Any) -> None:
    assert number.check(answer).kind == "right"


@pytest.mark.parametrize("answer", ["16", 1.5, True, [16], object])
def test_what_is_no_number_is_told_so_and_not_kept(number: Number, answer: Any) -> None:
    said = number.check(answer)
    assert said.head.startswith("Cannot read that answer")
    assert number.kept == []


@pytest.mark.parametrize(
    ("unit", "one", "told"),
    [("pages", "", "1 page"), ("entries", "", "1 entry"), ("kB", "", "1 kB"), ("", "", "1"),
     ("processes", "process", "1 process")],
)  # fmt: skip
def test_one_is_said_in_the_singular(unit: str, one: str, told: str) -> None:
    asked = Number(name="q.n", prompt="?", unit=unit, one=one, truth=lambda: 16)
    assert asked.predict(1).head == f"Kept: you say {told}."
    assert asked.predict(2).head == f"Kept: you say {f'2 {unit}'.strip()}."


@pytest.mark.parametrize("name", [name for name, asked in QUESTIONS.items() if isinstance(asked, Number)])
def test_the_example_of_a_number_could_be_an_answer_and_is_not_the_right_one(name: str) -> None:
    question = QUESTIONS[name]
    example = int(question._example())
    mistakes = [question._read(given(mistake)) for mistake in question.mistakes]
    assert example != question.answer
    assert min(*mistakes, question.answer) <= example <= max(*mistakes, question.answer)
    assert f"such as `q.{name.rpartition('.')[2]}.predict({example})`" in question.predict(...).lines[-1]


def test_an_example_that_is_a_known_mistake_is_the_last_resort(number: Number) -> None:
    assert number._example() == "8"
    number.mistakes = tuple(Mistake(answer, f"not {answer}") for answer in (0, 2, 8))
    assert number._example() == "8"
    number.mistakes = ()
    assert number._example() == "8"
    assert Number(name="q.n", prompt="?", truth=lambda: 8)._example() == "16"


@pytest.mark.parametrize("name", [name for name, asked in QUESTIONS.items() if not isinstance(asked, Pages)])
def test_the_example_of_a_question_is_not_the_right_answer(name: str) -> None:
    question = QUESTIONS[name]
    assert question._read(ast.literal_eval(question._example())) != question.answer


@pytest.mark.parametrize("name", [name for name, asked in ASKED.items() if type(asked) is Cases])
def test_the_example_of_cases_is_not_the_right_answer_of_the_first(name: str) -> None:
    cases = ASKED[name]
    assert isinstance(cases, Cases)
    letter, case = next(iter(cases.cases.items()))
    such = re.search(r'such as `(\w+)="(.*?)"`', cases.check().lines[-1])
    assert such is not None
    assert such[1] == letter
    assert such[2] != case.truth()


class Unspeakable:
    """What a reader may have defined: looking at it raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    __str__ = __repr__

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no steps")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


def raising(error: type[BaseException], *names: str) -> Any:
    """An object of which each of these raises that."""

    def raises(*_: object) -> Any:
        raise error("no")

    return type("Raising", (), dict.fromkeys(names, raises))()


def exits() -> Any:
    """An object that ends the program whenever it is looked at."""
    return raising(SystemExit, *LOOKS)


LOOKS = ("__repr__", "__str__", "__eq__", "__hash__", "__iter__", "__len__", "__int__", "__ge__", "__getattribute__")


class Hidden(type):
    """Of its classes nothing can be asked."""

    def __getattribute__(cls, name: str) -> Any:
        raise SystemExit(name)


def secret() -> Any:
    """A class that does not even say what it is called; pytest asks those of a module."""
    return Hidden("Secret", (), {})


class Nobody(BaseException):
    """What no Exception catches."""


@dataclass(frozen=True)
class Place:
    """A value that may be a key; what comes of it in another process may not."""

    page: int = 0


STRANGE: dict[str, Callable[[], Any]] = {
    "array": lambda: np.array([1, 2]), "array of arrays": lambda: np.zeros((2, 2)), "no dimension": lambda: np.array(7),
    "infinite": lambda: math.inf, "not a number": lambda: math.nan, "complex": lambda: 1j, "bytes": lambda: b"16",
    "long number": lambda: 10**5000, "long float": lambda: 1e300, "long fraction": lambda: Fraction(10**400, 3),
    "range without end": lambda: range(10**12), "counts for ever": itertools.count, "unspeakable": Unspeakable,
    "list of those": lambda: [Unspeakable(), np.array([1, 2])], "class": lambda: int, "dict": lambda: {"a": 1},
    "deep": lambda: [[[]]], "true": lambda: True, "text": lambda: "x" * 10**6, "generator": lambda: (x for x in (1, 1)),
    "pair": lambda: (np.array([1]), np.array([1])), "step": lambda: [("write", 0, np.array([1, 2]))],
    "steps": lambda: [("write", 0, math.inf), ("write", Unspeakable(), 1)], "event": lambda: [("cpu1", Unspeakable())],
    "list in list": lambda: functools.reduce(lambda inner, _: [inner], range(5000), []),
    "set of sets": lambda: {frozenset({1})}, "by place": lambda: {Place(): 1},
    "numpy's yes": lambda: np.True_, "objects": lambda: np.array([object(), None], dtype=object),
    "exits": lambda: exits(), "list of exits": lambda: [exits()] * 2,
    "ends": lambda: raising(Nobody, *LOOKS), "stops": lambda: raising(StopIteration, *LOOKS),
    "too deep": lambda: raising(RecursionError, *LOOKS),
    "step that exits": lambda: [("write", 0, exits())],
    "event that exits": lambda: [("cpu1", exits())], "pair of exits": lambda: ("4K", exits()),
    "secret": lambda: secret()(), "secret class": secret, "long list": lambda: [10] * 10**6,
    "long within": lambda: [[10] * 10**6],
    "makes exits": lambda: lambda **_: exits(), "makes secrets": lambda: lambda **_: secret()(),
}  # fmt: skip
"""Answers of no kind that is asked for, and such as would take all memory or never end."""


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ASKED)
def test_whatever_is_given_the_answer_is_a_short_note(name: str) -> None:
    asked: Any = ASKED[name]
    letters = getattr(asked, "jobs", None) or getattr(asked, "hunts", None) or getattr(asked, "cases", None)
    by_letter = "given" in inspect.signature(asked.check).parameters
    for kind, strange in STRANGE.items():
        said = asked.check(**{next(iter(letters)): strange()}) if by_letter else asked.check(strange())
        assert said.kind in ("wrong", "ask"), kind
        assert len(said.head) + sum(map(len, said.lines)) < 4000, kind


@pytest.mark.parametrize(
    "number",
    [lambda: "x", lambda: 1.5, lambda: math.nan, lambda: True, lambda: [1], lambda: np.arange(2), secret, exits],
)
def test_a_hint_of_no_number_is_told_how_to_ask(number: Callable[[], Any]) -> None:
    asked = Number(name="q.n", prompt="How many?", truth=lambda: 8, hints=("one", "two"))
    assert asked.hint(number()).head.startswith("Cannot read that number: ")
    assert [asked.hint(each).lines[0] for each in (None, None, 1, np.int8(2), -5, 99)] == [
        "one", "two", "one", "two", "one", "two",
    ]  # fmt: skip


def test_who_ends_a_look_with_ctrl_c_is_let_go(number: Number) -> None:
    with pytest.raises(KeyboardInterrupt):
        number.check(raising(KeyboardInterrupt, "__repr__"))


def test_the_words_of_a_long_answer_are_not_made() -> None:
    made: list[int] = []

    class Item:
        def __repr__(self) -> str:
            made.append(1)
            return "item"

    choice = Choice(name="q.c", prompt="Which?", options={"a": "one", "b": "two"}, truth=lambda: "a")
    assert choice.check([Item()] * 20_000).head == "Cannot read that answer: a long list is none of 'a', 'b'."
    assert choice.check({1: [[Item()] * 20_000]}).head.startswith("Cannot read that answer: a long dict")
    assert not made
    assert choice.check([Item()]).head == "Cannot read that answer: [item] is none of 'a', 'b'."


@pytest.mark.parametrize("answer", [16.0, np.float32(16), np.int8(16), np.array(16), Fraction(32, 2)])
def test_a_whole_number_of_any_kind_is_one(number: Number, answer: Any) -> None:
    assert number.check(answer).kind == "right"


@pytest.mark.parametrize(
    ("answer", "told"),
    [(math.inf, "inf is not a number of up to 18 digits"), (-(10**18), "not a number of up to 18 digits"),
     (math.nan, "nan is not a whole number"), (np.array([16]), "array([16]) is not a whole number"),
     (True, "True is not a whole number"), (np.True_, "is not a whole number")],
)  # fmt: skip
def test_a_number_that_cannot_be_is_told_why(number: Number, answer: Any, told: str) -> None:
    assert told in number.check(answer).head


def test_pages_without_end_are_refused_before_they_are_counted() -> None:
    pages = Pages(name="q.p", prompt="Which?", truth=lambda: {8, 9})
    assert "more than 65,536 numbers" in pages.check(range(10**12)).head


def test_what_gives_numbers_one_by_one_is_not_asked_for_the_first() -> None:
    asked: list[int] = []
    numbers = map(asked.append, [8, 9])
    for question in (
        Pages(name="q.p", prompt="Which?", truth=lambda: {8, 9}), Sizes(name="q.s", prompt="Which?", truth=lambda: [8]),
    ):  # fmt: skip
        assert "may never end; give them as a list" in question.check(numbers).head
    assert cow_copy_order.order.check(numbers).head == "Cannot read that answer."
    assert asked == []


def test_the_answer_is_computed_once_and_late() -> None:
    calls: list[int] = []
    late = Number(name="q.n", prompt="?", truth=lambda: calls.append(1) or 3)
    late.predict(3)
    assert calls == []
    late.compare()
    late.check(3)
    assert calls == [1]


def test_a_choice_takes_its_letter_or_its_words() -> None:
    choice = Choice(name="q.c", prompt="Which?", options={"a": "reuse", "b": "copy"}, truth=lambda: "a")
    assert [choice.check(said).kind for said in ("a", "A ", "reuse", "b")] == ["right", "right", "right", "wrong"]
    assert "none of 'a', 'b'" in choice.check("c").head


def test_pages_may_come_as_set_list_or_range() -> None:
    pages = Pages(name="q.p", prompt="Which?", truth=lambda: {8, 9})
    assert [pages.check(said).kind for said in ({8, 9}, [9, 8, 8], range(8, 10))] == ["right"] * 3
    assert pages.check({9, 10, 11}).lines[0].startswith("2 too many and 1 missing")
    assert pages.check(8).head.startswith("Cannot read")
    assert pages.check(set()).head == "Not no page."


def test_sizes_are_told_how_far_they_are_right() -> None:
    sizes = Sizes(name="q.s", prompt="Which?", truth=lambda: [1, 4, 8])
    assert sizes.check((1, 4, 8)).kind == "right"
    assert sizes.check([1, 4, 4]).lines[0].startswith("The first 2 are right; look again at number 3")
    assert "there are more" in sizes.check([1, 4]).lines[0]
    assert sizes.check([1, 4, 8, 1]).lines[0].startswith("The first 3 are right; look again at number 4")
    assert sizes.check({1, 4, 8}).head.startswith("Cannot read")


def test_runs_of_pages_in_words() -> None:
    assert runs({0, 1, 2, 9}) == "0–2, 9"
    assert runs([]) == ""


def test_pages_in_a_row_and_the_steps_over_them() -> None:
    assert in_a_row([9, 1, 0, 2, 2]) == [range(3), range(9, 10)]
    assert in_a_row(()) == []
    assert over({0, 1, 9}, "madvise", "dontneed") == [
        ("madvise", 0, 0, 2, "dontneed"),
        ("madvise", 0, 9, 1, "dontneed"),
    ]


def test_who_overlooks_an_argument_answers_for_another_one() -> None:
    def minus(one: int, other: int) -> int:
        return one - other

    assert but(minus, other=1)(one=5, other=3) == 4
    assert but(minus, one=lambda one: 10 * one)(one=5, other=3) == 47


def test_a_function_is_compared_with_a_program_of_the_model() -> None:
    def program(pages: int) -> Scenario:
        return Scenario(16, (("write", 0, pages, 1),), (2,))

    made = modelled(program, LINUX_6_15, lambda machine, pages: (pages, machine.faults[-1].pages))
    assert made["truth"](pages=5) == (5, range(4, 8))
    assert "writes page 5" in made["picture"](pages=5).text()


def test_a_judge_hears_of_no_program_with_a_step_that_is_refused() -> None:
    judge = judged_under(LINUX_6_15, lambda timeline: Verdict(True, (timeline.policy.name,)))
    assert judge(Scenario(4, (("write", 0, 0, 1),))).lines == ("linux-6.15",)
    said = judge(Scenario(4, (("munmap", 0, 0, 4), ("write", 0, 0, 1))))
    assert not said.right
    assert "`write 0 0 1`, is refused" in said.lines[0]


# --- several cases --------------------------------------------------------------------------------------------------


def test_eight_cases_know_their_answers() -> None:
    eight = start_here.eight
    right = {letter: case.truth() for letter, case in eight.cases.items()}
    assert len(right) == 8
    assert set(right.values()) == set(eight.answers), "every answer is right somewhere"
    assert eight.check(**right).head == "8 of 8 right."


def test_some_cases_may_stay_open() -> None:
    said = start_here.eight.check(a="no fault", b=..., c=None)
    assert said.kind == "right"
    assert said.head == "1 of 8 right."
    assert said.lines == ("Still open: b, c, d, e, f, g, h.",)


def test_the_first_wrong_case_is_told_its_mistake_and_drawn() -> None:
    said = start_here.eight.check(a="nf", b="first touch", f="copy")
    assert said.head == "1 of 8 right."
    assert "A read takes no memory" in said.lines[1]
    assert said.lines[2] == "Not right either: f."
    assert said.picture is not None
    assert "reads page 5" in said.picture.text()


def test_the_wrong_answers_of_a_case_are_possible_and_wrong() -> None:
    for case in start_here.eight.cases.values():
        assert set(case.wrong) <= set(start_here.eight.answers)
        assert case.truth() not in case.wrong


def test_every_wrong_answer_of_a_walk_is_told_where_that_question_stands() -> None:
    for case in exclusive_reuse.walk.cases.values():
        assert all(case.says(answer) != LOOK for answer in exclusive_reuse.walk.answers if answer != case.truth())
    said = exclusive_reuse.walk.check(b="shared").lines[1]
    assert "The walk never comes to that question" in said
    assert "its answer does not end the walk" in exclusive_reuse.walk.check(e="last page").lines[1]


@pytest.mark.parametrize(("answer", "told"), [({"a": "magic"}, "a='magic' is none of"), ({"z": "nf"}, "no case 'z'")])
def test_an_unknown_case_or_answer_is_told(answer: dict[str, str], told: str) -> None:
    assert told in start_here.eight.check(**answer).head


def test_a_case_needs_no_picture() -> None:
    cases = Cases(name="q.c", prompt="?", cases={"a": Case("one", lambda: "x")}, answers={"x": (), "y": ()})
    assert cases.check(a="y").picture is None


# --- functions ------------------------------------------------------------------------------------------------------


def test_the_worked_order_choice_is_the_librarys() -> None:
    assert first_touch.order.check(first_touch.choose_order).head == "Right: the same as the library on all 300 cases."


def test_a_wrong_function_is_shown_its_first_failing_case() -> None:
    said = first_touch.order.check(lambda page, mapping, used, enabled: 0)
    at, (case, right) = next((at, found) for at, found in enumerate(first_touch.order.cases) if found[1] != 0)
    assert all(answer == 0 for _, answer in first_touch.order.cases[:at])
    assert f"page={case['page']}," in said.lines[0]
    assert said.lines[1] == f"The library says {right}; yours says 0."
    assert said.picture is not None
    assert f"writes page {case['page']}" in said.picture.text()


@pytest.mark.sweep(3)
@pytest.mark.parametrize("says", first_touch.order.wrong)
def test_a_function_with_a_known_mistake_is_told_which(says: str) -> None:
    said = first_touch.order.check(first_touch.order.wrong[says])
    assert said.kind == "wrong"
    assert said.lines[-1] == says


def test_the_worked_fault_count_is_the_librarys() -> None:
    assert zero_page_copy.count.check(zero_page_copy.count_faults).kind == "right"


@pytest.mark.sweep(3)
@pytest.mark.parametrize("says", zero_page_copy.count.wrong)
def test_a_wrong_fault_count_is_told_which(says: str) -> None:
    said = zero_page_copy.count.check(zero_page_copy.count.wrong[says])
    assert said.kind == "wrong"
    assert said.lines[-1] == says


def test_known_mistakes_differ_from_each_other() -> None:
    answers = {
        says: tuple(wrong(**copy.deepcopy(case)) for case, _ in first_touch.order.cases)
        for says, wrong in first_touch.order.wrong.items()
    }
    assert len(set(answers.values())) == len(answers)


def test_a_function_that_raises_is_shown_where() -> None:
    def broken(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
        return enabled[0] // (page - page)

    said = first_touch.order.check(broken)
    assert said.head == "It fails on case 1 of 300."
    assert "ZeroDivisionError" in said.lines[1]


def test_a_function_cannot_change_the_cases() -> None:
    def greedy(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
        used.clear()
        return 0

    before = copy.deepcopy(first_touch.order.cases)
    first_touch.order.check(greedy)
    assert first_touch.order.cases == before


def test_a_function_may_name_its_arguments_as_it_likes() -> None:
    def mine(seite: int, bereich: range, belegt: set[int], erlaubt: tuple[int, ...]) -> int:
        return first_touch.choose_order(seite, bereich, belegt, erlaubt)

    assert first_touch.order.check(mine).kind == "right"
    assert first_touch.order.check(lambda *of: first_touch.choose_order(*of)).kind == "right"
    assert first_touch.order.check(lambda **of: first_touch.choose_order(**of)).kind == "right"
    said = first_touch.order.check(lambda page, mapping: 0)
    assert said.head == "It fails on case 1 of 300."
    assert "TypeError" in said.lines[1]


@pytest.mark.parametrize("name", [name for name, asked in ASKED.items() if isinstance(asked, Function)])
def test_a_case_has_its_arguments_in_the_order_of_the_worked_function(name: str) -> None:
    asked = ASKED[name]
    assert isinstance(asked, Function)
    assert list(asked.cases[0][0]) == list(inspect.signature(asked.worked).parameters)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", [name for name, asked in ASKED.items() if isinstance(asked, Function)])
def test_asking_the_library_is_no_answer(name: str) -> None:
    asked = ASKED[name]
    assert isinstance(asked, Function)
    assert asked.check(asked.truth).kind == "wrong"


@pytest.mark.parametrize("asks", ["calls it", "keeps it", "names it"])
def test_a_function_that_asks_the_library_is_no_answer_however_it_does(asks: str) -> None:
    order, kept = first_touch.order, first_touch.order.truth

    def calls(**case: Any) -> Any:
        return order.truth(**case)

    function = {"calls it": calls, "keeps it": lambda **case: kept(**case), "names it": kept}[asks]
    assert order.check(function).head.startswith("That asks the library")
    assert order.truth(**order.cases[0][0]) == order.cases[0][1]


def test_a_memorised_table_fails_on_new_cases() -> None:
    table = {repr(case): right for case, right in first_touch.order.cases}
    said = first_touch.order.check(lambda **case: table[repr(case)])
    assert said.kind == "wrong"
    assert said.head.startswith("Right on the 300 cases that are the same every time, but not on new ones. It fails on")
    said = first_touch.order.check(lambda **case: table.get(repr(case), 0))
    assert said.head.startswith("Right on the 300 cases that are the same every time, but not on new ones. Right on")


def test_new_cases_are_other_ones_each_time_and_what_is_right_stays_right(capsys: pytest.CaptureFixture[str]) -> None:
    order = copy.deepcopy(first_touch.order)
    assert order.fresh() != order.fresh()

    def watched(**case: Any) -> int:
        print(case)
        return first_touch.choose_order(**case)

    for seed in (5, 6):
        order.fresh = lambda seed=seed: seed
        assert order.check(watched).head == "Right: the same as the library on all 300 cases."
    seen = capsys.readouterr().out.splitlines()
    assert len(seen) == 2 * 360
    assert seen[300:360] != seen[660:]


def test_arrays_and_numbers_of_numpy_are_answers_of_a_function() -> None:
    twice = Function(
        name="q.f", prompt="Twice.", truth=lambda x: [x, x], case=lambda source: {"x": source.randint(1, 9)},
        worked=lambda x: [x, x], count=5,
    )  # fmt: skip
    assert twice.check(lambda x: np.array([x, x])).kind == "right"
    assert twice.check(lambda x: [np.int64(x), x]).kind == "right"
    assert "says [" in twice.check(lambda x: np.array([x, x + 1])).lines[1]


@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", STRANGE)
def test_a_function_may_return_anything(kind: str) -> None:
    answer = STRANGE[kind]()
    said = first_touch.order.check(lambda **of: answer)
    assert said.kind == "wrong"
    assert len(repr(said)) < 4000


def test_a_function_that_ends_the_program_does_not() -> None:
    assert "SystemExit" in first_touch.order.check(lambda **of: exit(3)).lines[1]


def never(x: int) -> int:
    while x:
        pass
    return x


def stubborn(x: int) -> int:
    while x:
        with contextlib.suppress(Exception):
            while x:
                pass
    return x


def endless_sum(x: int) -> int:
    return sum(iter(int, 1)) if x else x


def endless_power(x: int) -> int:
    return 10**10**9 if x else x


def endless_match(x: int) -> int:
    return bool(re.match("(a+)+$", 40 * "a" + "b")) if x else x


def endless_sleep(x: int) -> int:
    time.sleep(1000 * x)
    return x


def deaf(x: int) -> int:
    while x:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            sum(iter(int, 1))
    return x


def children() -> set[str]:
    """The processes that this one has begun and not ended, where that can be seen."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent.
            if path.read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.add(path.parent.name)
    return found


def same_number(seconds: float = 20, zeros: bool = True) -> Function:
    """Cases are 0 or 1; without zeros a function without end is stopped on the first, however slow the machine is."""
    return Function(
        name="q.f", prompt="?", truth=lambda x: x, case=lambda source: {"x": source.randint(1 - zeros, 1)},
        worked=lambda x: x, seconds=seconds,
    )  # fmt: skip


HERE = [never, stubborn]
IN_C = [endless_sum, endless_power, endless_match, endless_sleep, deaf]
LIMITS = [
    *(pytest.param(patience.here, endless, id=f"here-{endless.__name__}") for endless in HERE),
    *(pytest.param(patience.apart, endless, id=f"apart-{endless.__name__}") for endless in [*HERE, *IN_C]),
]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here, so no limit")
@pytest.mark.parametrize(("limited", "endless"), LIMITS)
def test_a_function_without_end_is_stopped_and_shown_where(
    limited: Any, endless: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "limited", limited)
    same, before = same_number(0.2, zeros=False), children()
    began, handler = time.monotonic(), signal.getsignal(signal.SIGALRM)
    said = same.check(endless)
    assert said.head == "It is stopped on case 1 of 300."
    assert "after 0.2 seconds" in said.lines[1]
    assert time.monotonic() - began < 20
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert children() == before


@pytest.mark.skipif(not patience.COPIES, reason="it runs in this process here")
def test_the_case_on_which_a_function_ends_its_process_is_shown() -> None:
    same = same_number()
    at = next(at for at, (case, _) in enumerate(same.cases, 1) if case["x"])
    assert at > 1
    assert same.check(lambda x: os._exit(0) if x else x).head == f"It fails on case {at} of 300."


@pytest.mark.skipif(not patience.COPIES, reason="it runs in this process here")
def test_what_a_function_does_to_its_process_is_a_verdict() -> None:
    same = same_number()
    assert "ended the process" in same.check(lambda x: os._exit(0)).lines[1]
    assert "ended the process" in same.check(lambda x: os.kill(os.getpid(), signal.SIGKILL)).lines[1]
    seen: set[int] = set()
    assert same.check(lambda x: x if seen.add(x) is None else 0).kind == "right"  # type: ignore[func-returns-value]
    assert seen == set()


@pytest.mark.skipif(not patience.COPIES, reason="it runs in this process here")
def test_what_a_function_began_ends_with_it() -> None:
    held, holding = os.pipe()
    said = same_number().check(lambda x: x if subprocess.Popen(["sleep", "60"], pass_fds=[holding]) else None)
    os.close(holding)
    assert said.kind == "right"
    # The end of the pipe comes when nobody holds it any more.
    assert select.select([held], [], [], 30)[0]
    assert os.read(held, 1) == b""
    os.close(held)


@pytest.mark.skipif(not patience.COPIES, reason="it runs in this process here")
def test_a_function_that_asks_for_a_line_is_not_waited_for() -> None:
    silent, unsaid = os.pipe()
    before = os.dup(0)
    os.dup2(silent, 0)
    try:
        assert same_number().check(lambda x: x if os.read(0, 1) == b"" else None).kind == "right"
    finally:
        os.dup2(before, 0)
        for end in (silent, unsaid, before):
            os.close(end)


@pytest.mark.skipif(not patience.COPIES, reason="it runs in this process here")
def test_an_interrupt_ends_the_check_and_what_it_runs() -> None:
    began, before = time.monotonic(), children()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - wherever it comes
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        same_number(60).check(endless_sum)
    assert time.monotonic() - began < 20
    assert children() == before


@pytest.mark.parametrize("limited", [patience.limited, patience.here])
def test_what_a_function_prints_is_seen(
    limited: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "limited", limited)

    def talks(x: int) -> int:
        print("é", x, "\ud800")
        return x

    same = same_number(20)
    assert same.check(talks).kind == "right"
    assert capsys.readouterr().out[:20] == "".join(f"é {case['x']} ?\n" for case, _ in same.cases)[:20]
    assert same.check(lambda x: print("x" * (1 << 20)) or x).kind == "right"
    assert len(capsys.readouterr().out) == 2 * MOST_PRINTED


class Endless:
    """Looking at it, comparing it or keeping it never ends."""

    def __repr__(self) -> str:
        return str(sum(iter(int, 1)))

    __eq__ = __hash__ = __reduce__ = lambda *_: sum(iter(int, 1))  # type: ignore[assignment]


@pytest.mark.sweep(4)
@pytest.mark.parametrize("answer", [
    lambda: 10**5000, lambda: object(), lambda: iter(int, 1), lambda: [[...]], lambda: {0: {1: object()}},
    lambda: "\ud800", lambda: math.nan, lambda: np.float64("inf"), lambda: np.arange(9), lambda: 1 << 63,
    lambda: [1] * (1 << 21), lambda: type("A b\n", (), {})(),
    pytest.param(Endless, marks=pytest.mark.skipif(not patience.COPIES, reason="it runs in this process here")),
])  # fmt: skip
def test_an_answer_of_any_kind_gets_a_verdict(answer: Callable[[], Any]) -> None:
    said = same_number(0.4).check(lambda x: answer())
    assert said.kind == "wrong"
    assert len(said.head) + sum(map(len, said.lines)) < 2000


HUNGRY: dict[str, Callable[[], object]] = {
    "at once": lambda: bytearray(1 << 45),
    "bit by bit": lambda: [bytearray(1 << 26) for _ in range(1 << 20)],
    "as numbers": lambda: list(range(1 << 34)),
    "as text": lambda: "x" * (1 << 33),
    "in arrays": lambda: [np.ones(1 << 24) for _ in range(1 << 12)],
}


@pytest.mark.sweep(5)
@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory here")
@pytest.mark.parametrize("how", HUNGRY)
def test_a_function_that_takes_all_memory_is_told_so(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    # To touch a gibibyte takes seconds.
    monkeypatch.setattr(patience, "limited", functools.partial(patience.apart, most_bytes=1 << 28))

    before, began = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    said = first_touch.order.check(lambda **of: HUNGRY[how]())
    assert "MemoryError" in said.lines[1]
    assert time.monotonic() - began < first_touch.order.seconds + 10
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_function_is_judged_on_another_thread_too() -> None:
    said: list[Note] = []
    thread = threading.Thread(target=lambda: said.append(first_touch.order.check(first_touch.choose_order)))
    thread.start()
    thread.join()
    assert said[0].kind == "right"


def test_an_unwritten_function_is_no_error() -> None:
    def unwritten(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int: ...  # type: ignore[empty-body]

    said = first_touch.order.check(unwritten)
    assert said.kind == "ask"
    assert "Not written yet" in said.lines[-1]


def test_what_is_no_function_is_told_so() -> None:
    assert first_touch.order.check(4).head == "That is int, not a function."


def test_the_cases_are_the_same_every_time_and_of_every_kind() -> None:
    again = copy.deepcopy(first_touch.order)
    again.__dict__.pop("cases", None)
    assert again.cases == first_touch.order.cases
    assert {right for _, right in again.cases} == {0, 2, 3, 4}


def test_the_solution_is_the_function_that_was_checked() -> None:
    assert "def choose_order(" in first_touch.order.solution().code


def test_a_function_without_known_mistakes_just_fails() -> None:
    double = Function(
        name="q.f", prompt="Double it.", truth=lambda x: 2 * x, case=lambda source: {"x": source.randint(1, 9)},
        worked=lambda x: 2 * x, count=5,
    )  # fmt: skip
    assert double.check(lambda x: x + x).kind == "right"
    assert len(double.check(lambda x: x).lines) == 2


def test_an_answer_of_another_kind_is_told_which_is_wanted() -> None:
    double = Function(
        name="q.f", prompt="Twice.", truth=lambda x: [x, x], case=lambda source: {"x": source.randint(1, 9)},
        worked=lambda x: [x, x], count=5,
    )  # fmt: skip
    assert "A list is wanted; tuple is another kind." in double.check(lambda x: (x, x)).lines
    assert not any("is wanted" in line for line in double.check(lambda x: [x]).lines)
    number = Function(
        name="q.f", prompt="?", truth=lambda x: x, case=lambda source: {"x": source.randint(1, 9)},
        worked=lambda x: x, count=5,
    )  # fmt: skip
    assert not any("is wanted" in line for line in number.check(lambda x: x + 0.5).lines)
    assert not any("is wanted" in line for line in number.check(lambda x: np.int64(x + 1)).lines)
    assert "An int is wanted; list is another kind." in number.check(lambda x: [x]).lines


# --- programs -------------------------------------------------------------------------------------------------------


def reading_loop() -> list[Any]:
    return zero_page_copy.reading_loop()


@pytest.mark.parametrize("name", ["cheap", "sparse"])
def test_a_worked_program_is_right_and_the_given_one_is_not_yet_changed(name: str) -> None:
    asked = getattr(zero_page_copy, name)
    assert asked.check(asked.worked()).kind == "right"
    said = asked.check([list(step) for step in asked.start.steps])
    assert said.kind == "ask"
    assert "Not changed yet" in said.lines[-1]


@pytest.mark.parametrize("name", ["cheap", "sparse"])
def test_the_solution_shown_is_the_one_that_was_checked(name: str) -> None:
    asked = getattr(zero_page_copy, name)
    names: dict[str, Any] = {}
    exec(asked.solution().code, names)
    assert tuple(names["steps"]) == asked.worked().steps


def test_the_reading_loop_cannot_be_cheaper_than_the_writes_alone() -> None:
    writes = Scenario(1024, tuple(zero_page_copy.reading_loop(())))
    fewest = zero_page_copy.run(writes).faults.total()
    assert zero_page_copy.cheap.limits() == f"At most {fewest} faults and 1,024 pages held."


@pytest.mark.parametrize(
    ("program", "told", "drawn"),
    [
        ([step for both in zip(reading_loop()[:1024], reading_loop()[1024:], strict=True) for step in both],
         "1,024 writes met a zero page", True),
        ([*reading_loop()[:1024], ("madvise", 0, 0, 1024, "dontneed"), *reading_loop()[1024:]],
         "1,024 reads mapped the zero page all the same", False),
        ([*(("write", 0, page, 0) for page in range(0, 1024, 32)), *reading_loop()],
         "512 writes met a zero page", True),
        ([("read", 0, 0), *(("write", 0, page, 0) for page in range(1, 1024)), ("madvise", 0, 0, 1, "dontneed"),
          ("write", 0, 0, 0), *reading_loop()], "4 first touches got one page", False),
        (reading_loop()[1024:], "must read page 0 while a zero is there", False),
        (reading_loop()[:1024], "page 0 holds 0; it must hold 1", False),
    ],
    ids=["page by page", "given back between", "every other block", "one read too many", "no reads", "no writes"],
)  # fmt: skip
def test_a_program_that_does_not_do_is_told_why(program: list[Any], told: str, drawn: bool) -> None:
    said = zero_page_copy.cheap.check(program)
    assert said.kind == "wrong"
    assert told in " ".join(said.lines)
    assert (said.picture is not None) == drawn
    Balanced(said._repr_html_())


def test_a_program_that_takes_memory_for_nothing_is_told_so() -> None:
    said = zero_page_copy.sparse.check(zero_page_copy.cheap.worked())
    assert said.kind == "wrong"
    assert "768 pages too many are held" in " ".join(said.lines)
    assert said.picture is not None


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (7, "int is not a list of steps"),
        ("read", "str is not a list of steps"),
        ([3], "step 1 is 3;"),
        ([("read", 0, 1), ("fork", 0)], "step 2 is ('fork', 0);"),
        ([("read", 0)], "read takes process, page"),
        ([("read", 0, 1024)], "outside the mapping"),
        ([()], "no operation"),
    ],
)
def test_what_is_no_program_is_told_so(program: Any, told: str) -> None:
    said = zero_page_copy.cheap.check(program)
    assert said.kind == "wrong"
    assert told in said.lines[0]


def test_a_program_over_another_mapping_is_not_taken() -> None:
    said = zero_page_copy.cheap.check(zero_page_copy.cheap.worked().but(orders=(4,)))
    assert said.kind == "wrong"
    assert "orders" in said.lines[0]


# --- how it looks ---------------------------------------------------------------------------------------------------


def test_a_note_escapes_what_it_quotes() -> None:
    html = Note("wrong", "a < b & `x << 2`", ("- one", "- two", "then `<script>`"), code="1 < 2")._repr_html_()
    Balanced(html)
    assert "<script>" not in html
    assert "<code>x &lt;&lt; 2</code>" in html
    assert html.count("<li>") == 2


def test_colours_are_borders_only_so_that_both_themes_can_be_read() -> None:
    html = Note("right", "Right.")._repr_html_()
    assert "color:" not in html.replace("border", "")
    assert "background" not in html


def test_the_figure_of_four_paths_has_all_four() -> None:
    figure = start_here.figure(start_here.four_paths.run())
    for path in ("first touch", "zero page copy", "cow copy", "exclusive reuse"):
        assert path in figure
    assert "5 write 1 8   cow copy          ...a....bbbbbbbb  ...a....Cbbbbbbb" in figure.splitlines()
