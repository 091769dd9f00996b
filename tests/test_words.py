"""What protects the words of the questions: each question has its own, none is left over, none is said of nothing."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

from anonfolio import exercises
from anonfolio.lesson.quiz import Asked, Case, Function, Mistake, Number, Pages
from anonfolio.lesson.words import Words

BANKS = [
    importlib.import_module(f"anonfolio.exercises.{found.name}") for found in pkgutil.iter_modules(exercises.__path__)
]


@pytest.mark.parametrize("bank", BANKS, ids=lambda bank: bank.__name__.rpartition(".")[2])
def test_every_table_is_a_question_and_every_question_has_a_table(bank: ModuleType) -> None:
    asked = [name for name, value in vars(bank).items() if isinstance(value, Asked)]
    assert sorted(bank.words.tables) == sorted(asked)


@pytest.mark.parametrize("bank", BANKS, ids=lambda bank: bank.__name__.rpartition(".")[2])
def test_no_word_is_lost_or_glued_where_a_line_ends(bank: ModuleType) -> None:
    for asked in vars(bank).values():
        if isinstance(asked, Asked):
            for told in (asked.prompt, *asked.hints):
                assert re.search(r"\n|  |^ | $", told) is None


BANK = '''
[size]
prompt = """
How many pages has
    its folio?"""
unit = "pages"
hints = ["One.", """
    Two
    lines."""]
mistakes = [[512, "Not 2 MiB."], ["small", "Not one page."]]

[which]
prompt = "Which?"
mistakes = [["8..15", "The upper half."], [[], "None."], [[1, 5], "Two."]]

[double]
prompt = "Write it."

[double.wrong]
same = "That is the same."

[eight]
prompt = "What then?"

[eight.cases.a]
story = "write"
steps = """
write 0 0
write 0 1"""
wrong.copy = "No."
'''


@pytest.fixture
def words(tmp_path: Path) -> Words:
    (tmp_path / "bank.toml").write_text(BANK, encoding="utf-8")
    return Words(str(tmp_path / "bank.py"))


def test_a_question_gets_its_name_its_words_and_its_mistakes_in_their_order(words: Words) -> None:
    size = Number(**words("size", small=lambda: 1), truth=lambda: 16)
    assert (size.name, size.prompt, size.unit) == ("q.size", "How many pages has its folio?", "pages")
    assert size.hints == ("One.", "Two lines.")
    assert [mistake.says for mistake in size.mistakes] == ["Not 2 MiB.", "Not one page."]
    assert size.check(1).lines == ("Not one page.",)
    assert size.check(512).lines == ("Not 2 MiB.",)


def test_mistakes_about_pages_are_a_stretch_or_a_list(words: Words) -> None:
    which = Pages(**words("which"), truth=lambda: range(8))
    assert which.mistakes == (
        Mistake(range(8, 16), "The upper half."), Mistake((), "None."), Mistake((1, 5), "Two."),
    )  # fmt: skip
    assert which.check({5, 1}).lines == ("Two.",)


def test_wrong_functions_are_found_by_their_names(words: Words) -> None:
    def twice(number: int) -> int:
        return 2 * number

    double = Function(
        **words("double", same=lambda number: number), truth=twice, case=lambda source: {"number": source.randrange(9)},
        worked=twice,
    )  # fmt: skip
    assert "That is the same." in double.check(lambda number: number).lines


def test_cases_are_made_of_what_is_given_and_what_is_said(words: Words) -> None:
    def make(right: str, story: str, steps: str, wrong: dict[str, str]) -> Case:
        return Case(f"{story}: {steps.splitlines()}", lambda: right, wrong)

    case = words.cases("eight", make, {"a": ["reuse"]})["a"]
    assert (case.story, case.truth(), case.wrong) == ("write: ['write 0 0', 'write 0 1']", "reuse", {"copy": "No."})


def test_a_question_without_words_is_refused(words: Words) -> None:
    with pytest.raises(ValueError, match=r"bank\.toml has no question 'sizes'; it has size, which, double, eight"):
        words("sizes")


def test_a_mistake_of_which_nothing_is_said_is_refused(words: Words) -> None:
    with pytest.raises(ValueError, match=r"bank\.toml: nothing is said of 'smal' in 'size'"):
        words("size", smal=lambda: 1)


def test_words_about_a_function_that_is_not_there_are_refused(words: Words) -> None:
    with pytest.raises(ValueError, match=r"there is no wrong function 'same' for 'double'"):
        words("double")
