"""Predictions and exercises: a question that knows its answer, keeps yours, and says what went wrong.

A question computes its answer from the model or from a recording when it is first needed; none is written down. Ask
one with ``predict`` (your answer is kept, nothing is given away), look with ``compare`` ("you said 64, it is 16"), or
have an answer judged with ``check``. ``hint`` gives one hint more at each call, ``solution`` everything. An answer
that is still ``...`` or None is no error: a notebook runs through without any.

What comes back is a `Note`: text in a terminal, plain HTML in a notebook. The questions of each notebook live in
`anonfolio.exercises`.
"""

from __future__ import annotations

import inspect
import io
import json
import random
import re
import secrets
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from html import escape
from importlib.util import find_spec
from itertools import islice
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..draw.drawing import printable, xml
from ..program.scenario import Scenario, ScenarioError, Step, Timeline
from . import answers, patience, plain, sheet
from .looking import Unreadable, is_long, kind_of, looking, shown

if TYPE_CHECKING:
    from ..kernel.policy import Policy
    from ..machine.show import Shown

TEXT_WIDTH = 100
GOES_ON = "The notebook runs on without it."
FIXED = "Compared, and so it stays as it was"
MOST, MOST_NUMBERS = 10**18, 1 << 16
"""What an answer may be: a number below that, so many of them."""
COLOURS = {"ask": "#7a828c", "kept": "#3f7fc4", "right": "#2f8f5b", "wrong": "#cc6a2c", "tell": "#3f7fc4"}
"""Bar on the left of a note. It repeats what the first words say, and each reads on light and dark."""


# --- what a question says back --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """What a question says: a head in bold, lines (``- `` begins a list item), code, a picture.

    `fold` puts all but the head behind a click where HTML is shown, `behind` the head too: it is what one clicks on.
    `card` makes what is shown instead where widgets run (`anonfolio.view.asked.Card`). Backticks mark code.
    """

    kind: str
    head: str
    lines: tuple[str, ...] = ()
    code: str = ""
    picture: Shown | None = None
    fold: bool = False
    behind: str = ""
    card: Callable[[], Any] | None = None

    def with_line(self, line: str) -> Note:
        """The same with a line more, unless that is empty."""
        return replace(self, lines=(*self.lines, line)) if line else self

    def __repr__(self) -> str:
        parts = [_wrapped(self.head), *map(_wrapped, self.lines)]
        if self.code:
            parts.append(textwrap.indent(self.code.rstrip(), "    "))
        if self.picture is not None:
            parts.append(self.picture.text())
        return printable("\n".join(parts))

    def _repr_html_(self) -> str:
        style = f"border-left: 4px solid {COLOURS[self.kind]}; padding: 2px 0 2px 12px"
        head = f"<strong>{_marked(self.head)}</strong>"
        body = _html_lines(self.lines)
        if self.code:
            body += f"<pre>{xml(self.code.rstrip())}</pre>"
        if self.picture is not None:
            body += self.picture.svg()
        if self.behind:
            body, head = f"<p>{head}</p>{body}", f"<strong>{_marked(self.behind)}</strong>"
        if self.fold or self.behind:
            return f'<div style="{style}"><details><summary>{head}</summary>{body}</details></div>'
        return f'<div style="{style}"><p>{head}</p>{body}</div>'

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        told = {"text/plain": repr(self), "text/html": self._repr_html_()}
        bundle, metadata = (self.card()._repr_mimebundle_(**kwargs) or ({}, {})) if self.card else ({}, {})
        return {**bundle, **told}, metadata


def _wrapped(line: str) -> str:
    hang = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, TEXT_WIDTH, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)


def _marked(words: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(printable(words), quote=False))


def _html_lines(lines: Iterable[str]) -> str:
    html = ""
    listing = False
    for line in lines:
        item = line.startswith("- ")
        if item != listing:
            html += "<ul>" if item else "</ul>"
            listing = item
        html += f"<li>{_marked(line[2:])}</li>" if item else f"<p>{_marked(line)}</p>"
    return html + ("</ul>" if listing else "")


# --- questions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that says how its giver thinks. `answer` may be a function without arguments."""

    answer: Any
    says: str

    @cached_property
    def means(self) -> Any:
        """The answer itself."""
        return self.answer() if callable(self.answer) else self.answer


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, what to say of it, and the picture of what it got wrong; a program's has a head."""

    right: bool
    lines: tuple[str, ...] = ()
    picture: Shown | None = None
    head: str = ""


@dataclass(eq=False, kw_only=True, repr=False)
class Asked:
    """What predictions and exercises have in common: a name, a prompt, hints from gentle to nearly there.

    Parameters
    ----------
    name : str
        What the notebook calls it.
    prompt : str
        The question, in a sentence or two.
    hints : tuple of str
        Given one at a time.
    bank : str
        The module of `anonfolio.exercises` that asks it: under ``bank.name`` its answers are kept in a file
        (`anonfolio.lesson.answers`); without one they are not.
    """

    kind: ClassVar[str]
    """What an answer is, as `anonfolio.lesson.answers` lists it."""

    name: str
    prompt: str
    hints: tuple[str, ...] = ()
    bank: str = ""
    hinted: int = 0

    @property
    def id(self) -> str:
        """Its name in files and browsers; empty for a question of no bank."""
        return f"{self.bank}.{self.name.rpartition('.')[2]}" if self.bank else ""

    def hint(self, number: Any = None) -> Note:
        """The next hint, or the one of that number from 1."""
        if not self.hints:
            return Note("tell", f"There is no hint for `{self.name}`.")
        try:
            with looking():
                wanted = self.hinted + 1 if is_open(number) else whole(number)
        except Unreadable as error:
            told = f"`{self.name}.hint()` gives the next of {len(self.hints)}, `{self.name}.hint(1)` the first."
            return Note("wrong", f"Cannot read that number: {error}", (told,))
        self.hinted = max(1, min(wanted, len(self.hints)))
        rest = len(self.hints) - self.hinted
        more = (
            f"Call it again for another ({rest} left)."
            if rest
            else f"That was the last; there is `{self.name}.solution()`."
        )
        hints = self.hinted
        unkept = answers.note(self.id, lambda entry: answers.helped(entry, self.kind, hints=hints))
        return Note("tell", f"Hint {hints} of {len(self.hints)}", (self.hints[hints - 1], more)).with_line(unkept)

    def _noted(self, given: Callable[[], Any], said: Note) -> Note:
        """The same note, once the answer is in the reader's file; it says so where it cannot be."""
        right = {"right": True, "wrong": False}.get(said.kind)
        return said.with_line(answers.note(self.id, lambda entry: answers.answered(entry, self.kind, given(), right)))

    def _solved(self, said: Note) -> Note:
        """The same note, once the file says that the solution was shown."""
        return said.with_line(answers.note(self.id, lambda entry: answers.helped(entry, self.kind, shown=True)))

    def sheet(self, mode: str = "check") -> dict[str, Any] | None:
        """What a browser asks and judges by (`anonfolio.lesson.sheet`); None where only Python can judge.

        For a prediction nothing is judged yet, and so the answer is not computed.
        """
        asks = self._asks()
        if asks is None:
            return None
        judges = {"hints": self.hints} | ({} if mode == "predict" else self._judges())
        return sheet.made(self.id or self.name, self.kind, self.prompt, {"name": self.name, **asks}, judges)

    def _asks(self) -> dict[str, Any] | None:
        """What the browser may show of it."""
        return None

    def _judges(self) -> dict[str, Any]:
        """By what the browser judges it."""
        return {"solution": self._solved_lines()}

    def _solved_lines(self) -> tuple[str, ...]:
        return ()

    def _by_hand(self, note: Note, mode: str) -> Note:
        """The same note, with a card to answer it by click or key where widgets run."""
        return replace(note, card=partial(_card, self, mode)) if self._asks() is not None and widgets() else note

    def _clicked(self, mode: str, given: Any) -> str:
        """Take an answer that was clicked, or None where it is to be forgotten; what to tell the reader of her file."""
        if given is None:
            self.forget()
            return ""
        said: Note = getattr(self, mode)(**given) if isinstance(given, dict) else getattr(self, mode)(given)
        return next((line for line in (said.head, *said.lines) if line.startswith((FIXED, answers.UNKEPT))), "")

    def _helped(self, hinted: int, shown: bool) -> None:
        """The browser showed hints, or the solution."""
        self.hinted = max(hinted, self.hinted)
        answers.note(self.id, lambda entry: answers.helped(entry, self.kind, hints=hinted, shown=shown))

    def forget(self) -> None:
        """As if it had never been asked."""
        self.hinted = 0

    def __repr__(self) -> str:
        return repr(self._asked())

    def _repr_html_(self) -> str:
        return self._asked()._repr_html_()

    def _asked(self, *more: str) -> Note:
        return Note("ask", self.prompt, more)


@dataclass(eq=False, kw_only=True, repr=False)
class Question(Asked, ABC):
    """A question with one answer: `Number`, `Choice`, `Pages` or `Sizes`.

    Parameters
    ----------
    truth : callable
        Computes the answer from the model or a recording; called once, when it is first needed.
    because : str
        Why it is so, with ``{truth}`` for the answer.
    mistakes : tuple of Mistake
        Known wrong answers.
    """

    truth: Callable[[], Any]
    because: str = ""
    mistakes: tuple[Mistake, ...] = ()
    kept: list[Any] = field(default_factory=list)
    compared: bool = False

    @cached_property
    def answer(self) -> Any:
        """What is right."""
        return self._read(self.truth())

    def predict(self, answer: Any = None) -> Note:
        """Keep an answer for `compare`; says nothing of whether it is right. One that was compared stays."""
        given = self._given(answer, "predict")
        if isinstance(given, Note):
            return given
        if self.compared and given != self.kept[-1]:
            return Note(
                "kept", f"{FIXED}: you say {self._say(self.kept[-1])}.", (f"`{self.name}.forget()` asks anew.",)
            )
        self.kept.append(given)
        told = Note("kept", f"Kept: you say {self._say(given)}.", ("Read on; the answer comes in a moment.",))
        return self._noted(lambda: self._plain(given), told)

    def compare(self) -> Note:
        """What was predicted beside what is so."""
        if not self.kept:
            told = f"It is {self._say(self.answer)}. You made no prediction: the next one teaches more if you do."
            return self._by_hand(Note("tell", told, self._why(), behind="Show me"), "compare")
        given = self.kept[-1]
        self.compared = True
        verdict = self._judge(given)
        if verdict.right:
            said = Note("right", f"As you said: {self._say(self.answer)}.", self._why())
        else:
            head = f"You said {self._say(given)}; it is {self._say(self.answer)}."
            said = Note("wrong", head, (*self._recognised(given), *self._why()), picture=verdict.picture)
        return self._noted(lambda: self._plain(given), said)

    def check(self, answer: Any = None) -> Note:
        """Judge an answer. A wrong one is told why, when we know the mistake, but not what is right."""
        given = self._given(answer, "check")
        if isinstance(given, Note):
            return given
        self.kept.append(given)
        verdict = self._judge(given)
        if verdict.right:
            said = Note("right", f"Right: {self._say(given)}.", self._why())
        else:
            lines = verdict.lines or (f"`{self.name}.hint()` helps.",)
            said = Note("wrong", f"Not {self._say(given)}.", lines, picture=verdict.picture)
        return self._noted(lambda: self._plain(given), said)

    def solution(self) -> Note:
        """The answer and why, folded where HTML is shown."""
        return self._solved(Note("tell", f"Solution of `{self.name}`", self._solved_lines(), fold=True))

    def _solved_lines(self) -> tuple[str, ...]:
        return (f"It is {self._say(self.answer)}.", *self._why())

    def _judges(self) -> dict[str, Any]:
        mistakes = [[self._plain(self._read(mistake.means)), mistake.says] for mistake in self.mistakes]
        return {**super()._judges(), "answer": self._plain(self.answer), "why": self._why(), "mistakes": mistakes}

    def forget(self) -> None:
        """As if it had never been asked."""
        super().forget()
        self.kept.clear()
        self.compared = False

    def _asked(self, *more: str) -> Note:
        return Note("ask", self.prompt, (*self._choices(), *more))

    def _given(self, answer: Any, verb: str) -> Any:
        """The answer as it is kept, or the note that asks for one."""
        if is_open(answer):
            such = f"`{self.name}.{verb}({self._example()})`"
            note = self._asked(f"Not answered yet: put your answer in place of the dots, such as {such}. {GOES_ON}")
            return self._by_hand(note, verb)
        try:
            with looking():
                return self._read(answer)
        except Unreadable as error:
            such = f"Such as `{self.name}.{verb}({self._example()})`."
            return Note("wrong", f"Cannot read that answer: {error}", (such,))

    def _why(self) -> tuple[str, ...]:
        return (self.because.format(truth=self._say(self.answer)),) if self.because else ()

    def _judge(self, given: Any) -> Verdict:
        if given == self.answer:
            return Verdict(True)
        return Verdict(False, self._recognised(given) or self._miss(given))

    def _recognised(self, given: Any) -> tuple[str, ...]:
        """What is said of a known mistake."""
        return next(((mistake.says,) for mistake in self.mistakes if self._read(mistake.means) == given), ())

    def _plain(self, given: Any) -> Any:
        """An answer as JSON has it."""
        return given

    def _miss(self, given: Any) -> tuple[str, ...]:
        """What to say of a wrong answer that is no known mistake."""
        return ()

    def _choices(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def _read(self, answer: Any) -> Any:
        """The reader's answer as the truth is kept; Unreadable when it is no answer of this kind."""

    @abstractmethod
    def _say(self, answer: Any) -> str:
        """An answer in words."""

    @abstractmethod
    def _example(self) -> str:
        """An answer as one would type it."""


_EXAMPLES = (8, 16, 32, 2, 128, 512)
"""Numbers that are a count of faults or pages as well as a size."""


@dataclass(eq=False, kw_only=True, repr=False)
class Number(Question):
    """How many? `unit` is the word after the number, in the plural; `one` after 1, where its s alone does not do."""

    kind = "number"

    unit: str = ""
    one: str = ""

    def _asks(self) -> dict[str, Any]:
        return {"unit": self.unit, "one": self.one or _singular(self.unit)}

    def _read(self, answer: Any) -> int:
        return whole(answer)

    def _say(self, answer: int) -> str:
        unit = (self.one or _singular(self.unit)) if answer == 1 else self.unit
        return f"{answer:,} {unit}".strip()

    def _miss(self, given: int) -> tuple[str, ...]:
        return (f"{'Fewer' if given > self.answer else 'More'} than that; `{self.name}.hint()` helps.",)

    def _example(self) -> str:
        """A number as large as the answers people give, and never the right one."""
        said = {self._read(mistake.means) for mistake in self.mistakes}
        known = {self.answer, *said}
        likely = [number for number in _EXAMPLES if min(known) <= number <= max(known)]
        silent = [number for number in likely if number not in known]
        return str(next(number for number in (*silent, *likely, *sorted(said), *_EXAMPLES) if number != self.answer))


@dataclass(eq=False, kw_only=True, repr=False)
class Choice(Question):
    """Which one? `options` are letters and what they stand for; `truth` gives a letter."""

    kind = "choice"

    options: Mapping[str, str]

    def _asks(self) -> dict[str, Any]:
        return {"options": dict(self.options)}

    def _read(self, answer: Any) -> str:
        said = shown(answer, str).lower()
        for letter, words in self.options.items():
            if said in (letter.lower(), shown(words, str).lower()):
                return letter
        raise Unreadable(f"{shown(answer)} is none of {', '.join(map(repr, self.options))}.")

    def _say(self, answer: str) -> str:
        return f"{answer}, {self.options[answer].rstrip('.')}"

    def _choices(self) -> tuple[str, ...]:
        return tuple(f"- `{letter}` {words}" for letter, words in self.options.items())

    def _example(self) -> str:
        return f'"{next(letter for letter in self.options if letter != self.answer)}"'


@dataclass(eq=False, kw_only=True, repr=False)
class Pages(Question):
    """Which pages? An answer is a set, list or range of page numbers; `pages` says how many one chooses among."""

    kind = "pages"

    pages: int = 16

    def _asks(self) -> dict[str, Any]:
        return {"pages": self.pages}

    def _read(self, answer: Any) -> frozenset[int]:
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            raise Unreadable(f"{shown(answer)} is not a set of pages.")
        return frozenset(_numbers(answer))

    def _say(self, answer: frozenset[int]) -> str:
        return f"page{'' if len(answer) == 1 else 's'} {runs(answer)}" if answer else "no page"

    def _miss(self, given: frozenset[int]) -> tuple[str, ...]:
        missing, extra = self.answer - given, given - self.answer
        said = [f"{len(extra)} too many"] if extra else []
        return (
            " and ".join(said + ([f"{len(missing)} missing"] if missing else [])) + f"; `{self.name}.hint()` helps.",
        )

    def _plain(self, given: frozenset[int]) -> list[int]:
        return sorted(given)

    def _example(self) -> str:
        return "{0, 1, 2}"


@dataclass(eq=False, kw_only=True, repr=False)
class Sizes(Question):
    """Which numbers, in this order? An answer is a list; `offers` are those that one chooses among."""

    kind = "sizes"

    offers: tuple[int, ...] = (1, 2, 4, 8, 16)

    def _asks(self) -> dict[str, Any]:
        return {"offers": self.offers}

    def _read(self, answer: Any) -> tuple[int, ...]:
        if isinstance(answer, (str, set, frozenset)) or not isinstance(answer, Iterable):
            raise Unreadable(f"{shown(answer)} is not a list of numbers.")
        return _numbers(answer)

    def _say(self, answer: tuple[int, ...]) -> str:
        return ", ".join(map(str, answer)) or "nothing"

    def _miss(self, given: tuple[int, ...]) -> tuple[str, ...]:
        pairs = zip(given, self.answer, strict=False)
        at = next((at for at, (mine, right) in enumerate(pairs) if mine != right), min(len(given), len(self.answer)))
        if at < len(given):
            return (f"The first {at} are right; look again at number {at + 1}, where you say {given[at]}.",)
        return (f"The {at} you name are right, but there are more.",)

    def _plain(self, given: tuple[int, ...]) -> list[int]:
        return list(given)

    def _example(self) -> str:
        return "[4, 2, 1]"


# --- several small cases --------------------------------------------------------------------------------------------


LOOK = "Look at the picture: what was asked, and what decided?"


@dataclass(frozen=True)
class Case:
    """One of several: what happens, what is right, the wrong answers that tell something, the picture.

    `other` says something of those that `wrong` does not have.
    """

    story: str
    truth: Callable[[], str]
    wrong: Mapping[str, str] = field(default_factory=dict)
    picture: Callable[[], Shown] | None = None
    other: Callable[[str], str] = lambda answer: LOOK

    def __post_init__(self) -> None:
        object.__setattr__(self, "truth", cache(self.truth))

    def says(self, answer: str) -> str:
        """What is said of a wrong answer."""
        return self.wrong.get(answer) or self.other(answer)

    def judges(self, answers: Iterable[str]) -> dict[str, Any]:
        """By what a browser judges it: the picture as text, and what is said of each answer where it is no `LOOK`."""
        picture = self.picture().text() if self.picture else ""
        said = {answer: self.says(answer) for answer in {*answers, *self.wrong} if answer != self.truth()}
        wrong = {answer: says for answer, says in sorted(said.items()) if says != LOOK}
        return {"truth": self.truth(), "wrong": wrong, "picture": picture}


@dataclass(eq=False, kw_only=True, repr=False)
class Cases(Asked):
    """Several small questions with the same possible answers: ``check(a="first touch", b=...)``.

    Parameters
    ----------
    cases : mapping of str to Case
        By letter.
    answers : mapping of str to str
        Every possible answer, and other words for it.
    """

    kind = "cases"

    cases: Mapping[str, Case]
    answers: Mapping[str, tuple[str, ...]]
    kept: dict[str, str] = field(default_factory=dict)

    def check(self, **given: Any) -> Note:
        """Judge the cases that are answered; the first wrong one is shown."""
        try:
            with looking():
                said = {letter: self._read(letter, answer) for letter, answer in given.items() if not is_open(answer)}
        except Unreadable as error:
            return Note("wrong", f"Cannot read that answer: {error}")
        if not said:
            letter, case = next(iter(self.cases.items()))
            such = f'`{letter}="{next(answer for answer in self.answers if answer != case.truth())}"`'
            note = self._asked(f"Not answered yet: put one of these in place of each `...`, such as {such}. {GOES_ON}")
            return self._by_hand(note, "check")
        self.kept.update(said)
        return self._noted(lambda: dict(self.kept), self._judged(said))

    def _judged(self, said: Mapping[str, str]) -> Note:
        wrong = [letter for letter in self.cases if letter in said and said[letter] != self.cases[letter].truth()]
        open_ = [letter for letter in self.cases if letter not in said]
        rest = (f"Still open: {', '.join(open_)}.",) if open_ else ()
        right = len(said) - len(wrong)
        if not wrong:
            return Note("right", f"{right} of {len(self.cases)} right.", rest)
        first = wrong[0]
        case, answer = self.cases[first], said[first]
        lines = [
            f"{first}: {case.story}",
            f"You say {answer}. {case.says(answer)}",
        ]
        if len(wrong) > 1:
            lines.append(f"Not right either: {', '.join(wrong[1:])}.")
        return Note(
            "wrong",
            f"{right} of {len(self.cases)} right.",
            (*lines, *rest),
            picture=case.picture() if case.picture else None,
        )

    def solution(self) -> Note:
        """Every case's answer, folded where HTML is shown."""
        return self._solved(Note("tell", f"Solution of `{self.name}`", self._solved_lines(), fold=True))

    def _solved_lines(self) -> tuple[str, ...]:
        return tuple(f"- {letter}: {case.truth()}. {case.story}" for letter, case in self.cases.items())

    def _asks(self) -> dict[str, Any]:
        return {"cases": {letter: case.story for letter, case in self.cases.items()}, "answers": list(self.answers)}

    def _judges(self) -> dict[str, Any]:
        cases = {letter: case.judges(self.answers) for letter, case in self.cases.items()}
        return {**super()._judges(), "cases": cases}

    def forget(self) -> None:
        """As if it had never been asked."""
        super().forget()
        self.kept.clear()

    def _asked(self, *more: str) -> Note:
        listed = tuple(f"- {letter}: {case.story}" for letter, case in self.cases.items())
        return Note(
            "ask", self.prompt, (*listed, f"Answers: {', '.join(f'`{answer}`' for answer in self.answers)}.", *more)
        )

    def _read(self, letter: str, answer: Any) -> str:
        if letter not in self.cases:
            raise Unreadable(f"there is no case {shown(letter)}; there are {', '.join(self.cases)}.")
        said = shown(answer, str).lower()
        for known, other in self.answers.items():
            if said in (known, *other):
                return known
        raise Unreadable(f"{letter}={shown(answer)} is none of {', '.join(map(repr, self.answers))}.")


# --- a function -----------------------------------------------------------------------------------------------------


Cased = list[tuple[Mapping[str, Any], Any]]
"""Cases, arguments by name, each with what the library says of it."""

FRESH = 5
"""One new case for so many of the others."""

MOST_TOLD, MOST_PRINTED = 1 << 22, 1 << 16
"""So many bytes of answers and so many characters that it prints a reader's function may give."""


class LibraryAsked(Exception):
    """A reader's function asked what it is compared with."""


class Library:
    """What the library says of a case; while a reader's function runs it says nothing."""

    _silent = False

    def __init__(self, says: Callable[..., Any]) -> None:
        self._says = says

    def __call__(self, **case: Any) -> Any:
        if Library._silent:
            raise LibraryAsked
        return self._says(**case)

    @staticmethod
    @contextmanager
    def silent() -> Iterator[None]:
        """Nobody may ask in this block."""
        Library._silent = True
        try:
            yield
        finally:
            Library._silent = False


class Printed(io.TextIOBase):
    """Where what a reader's function prints goes: over to the notebook, up to a bound."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say, self._left = say, MOST_PRINTED

    def write(self, text: str) -> int:
        """Take a text."""
        told, self._left = text[: self._left], self._left - len(text[: self._left])
        if told:
            self._say("printed", told.encode(errors="replace").decode())
        return len(text)


def _ask(function: Callable[..., Any], cases: Sequence[Mapping[str, Any]], tell: patience.Told) -> None:
    """Ask a reader's function about every case, and tell a record a line of what it says and prints, and how it fails.

    It may be another process that is told, and what a reader's own object does when it is looked at is her function's
    doing: an answer that is no plain value goes over as its kind and in words.
    """
    left = MOST_TOLD

    def say(*record: Any) -> None:
        nonlocal left
        line = json.dumps(record).encode() + b"\n"
        left -= len(line)
        if left < 0:
            raise OverflowError(f"it says more than {MOST_TOLD:,} bytes")
        tell(line)

    printed = Printed(say)
    try:
        with Library.silent(), redirect_stdout(printed), redirect_stderr(printed):
            ask = plain.asked(function, cases[0])
            for case in cases:
                say(*_record(ask(deepcopy(case))))
    except LibraryAsked:
        tell(b'["library"]\n')
    except (Exception, SystemExit) as error:  # Whatever a reader's function does is part of her answer.
        left = MOST_TOLD
        say("raised", kind_of(error), shown(error, str))


def _record(answer: Any) -> tuple[Any, ...]:
    if is_open(answer):
        return ("says", None)
    try:
        told = plain.packed(answer)
        json.dumps(told)
        plain.unpacked(told)  # A set of sets is plain, and its copy holds what no set may hold.
        return ("says", told)
    except (ValueError, TypeError, RecursionError):
        return ("other", kind_of(answer), shown(answer))


def _answer(kind: str, *told: Any) -> Any:
    """The answer again; of one that is no plain value its kind and words, which equal nothing."""
    if kind == "says":
        return plain.unpacked(*told)
    name, words = told
    return type(name, (), {"__repr__": lambda self: words})()


@dataclass(eq=False, kw_only=True, repr=False)
class Function(Asked):
    """Write a function; it is run beside the library on random cases, the same ones every time.

    Parameters
    ----------
    truth : callable
        What the library says of a case, by keyword.
    case : callable
        Makes one case, a mapping of argument names to values, from a `random.Random`.
    worked : callable
        A right function, whose source is the solution.
    wrong : mapping of str to callable
        Functions that are wrong in a known way, by what to say of it.
    picture : callable, optional
        The picture of a case.
    seconds : float
        How long a reader's function may take for all cases together, and again for the new ones. It is ended then,
        whatever it does, where it runs in a copy of the process (`anonfolio.lesson.patience`): on Linux.
    fresh : callable
        Gives the seed of the new cases on which a right function is tried as well, another each time.
    """

    kind = "function"

    truth: Callable[..., Any]
    case: Callable[[random.Random], Mapping[str, Any]]
    worked: Callable[..., Any]
    wrong: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    picture: Callable[..., Shown] | None = None
    count: int = 300
    seed: int = 1
    seconds: float = 20
    fresh: Callable[[], int] = lambda: secrets.randbits(32)

    def __post_init__(self) -> None:
        self.truth = Library(self.truth)

    @cached_property
    def cases(self) -> Cased:
        """The cases that are the same every time, each with what the library says."""
        return self._drawn(self.seed, self.count)

    def _drawn(self, seed: int, count: int) -> Cased:
        source = random.Random(seed)
        made = [self.case(source) for _ in range(count)]
        return [(case, self.truth(**deepcopy(case))) for case in made]

    def check(self, function: Any = None) -> Note:
        """Run it on every case, and where it is right there on new ones; the first that fails is shown."""
        if is_open(function):
            return self._asked(f"No function yet: pass yours to `{self.name}.check`. {GOES_ON}")
        if not callable(function):
            return Note("wrong", f"That is {kind_of(function)}, not a function.")
        said = self._judged(function, self.cases)
        return said if said.kind == "ask" else self._noted(lambda: answers.source(function), self._anew(function, said))

    def _anew(self, function: Callable[..., Any], said: Note) -> Note:
        """What is said of the cases that are always the same, if it holds on new ones: a table of those fails."""
        if said.kind != "right":
            return said
        again = self._judged(function, self._drawn(self.fresh(), max(1, self.count // FRESH)))
        head = f"Right on the {self.count} cases that are the same every time, but not on new ones. {again.head}"
        return said if again.kind == "right" else replace(again, kind="wrong", head=head)

    def _judged(self, function: Callable[..., Any], cases: Cased) -> Note:
        told, ended = patience.limited(partial(_ask, function, [case for case, _ in cases]), self.seconds)
        records = [json.loads(line) for line in told[: told.rfind(b"\n") + 1].splitlines()]
        sys.stdout.write("".join(record[1] for record in records if record[0] == "printed"))
        said = [_answer(*record) for record in records if record[0] in ("says", "other")]
        if len(said) < len(cases):
            return self._failed(cases, len(said), records[-1:], ended)
        if all(map(is_open, said)):
            return self._asked(f"Not written yet: your function returns nothing. {GOES_ON}")
        return self._unfit(said) or self._compared(cases, said)

    def compared(self, said: list[Any]) -> Note:
        """What to say of answers to `cases`, one each, which somebody else has asked a function for."""
        return self._unfit(said) or self._compared(self.cases, said)

    def _failed(self, cases: Cased, at: int, last: list[Any], ended: bool) -> Note:
        head = f"It fails on case {at + 1} of {len(cases)}."
        match last:
            case [["library"]]:
                return Note("wrong", "That asks the library, which yours is compared with. Write one of your own.")
            case [["raised", kind, words]]:
                did = f"Your function raised {kind}: {words}."
            case _ if ended:
                did = "Your function ended the process that it ran in."
            case _:
                head = f"It is stopped on case {at + 1} of {len(cases)}."
                did = f"Your function had not said anything after {self.seconds:g} seconds for all cases."
        asked, right = cases[at]
        told = (self._called(asked), f"The library says {right}. {did}")
        return Note("wrong", head, told, picture=self._picture(asked))

    def _unfit(self, answers: list[Any]) -> Note | None:
        """What to say when the answers are not of the kind that is asked for; by default they may be of any."""
        return None

    def _compared(self, cases: Cased, said: list[Any]) -> Note:
        failing = [at for at, (_, right) in enumerate(cases) if said[at] != right]
        if not failing:
            return Note("right", f"Right: the same as the library on all {len(cases)} cases.")
        case, right = cases[failing[0]]
        lines = [
            self._called(case),
            f"The library says {right}; yours says {shown(said[failing[0]])}.",
            *_of_another_kind(said[failing[0]], right),
            *self._recognised(cases, said, failing[0]),
        ]
        head = f"Right on {len(cases) - len(failing)} of {len(cases)} cases. The first that fails:"
        return Note("wrong", head, tuple(lines), picture=self._picture(case))

    def solution(self) -> Note:
        """A right function, folded where HTML is shown."""
        code = inspect.getsource(self.worked)
        return self._solved(Note("tell", f"Solution of `{self.name}`", ("One way to write it:",), code=code, fold=True))

    def _called(self, case: Mapping[str, Any]) -> str:
        return f"`{self.worked.__name__}({', '.join(f'{name}={value!r}' for name, value in case.items())})`"

    def _picture(self, case: Mapping[str, Any]) -> Shown | None:
        return self.picture(**deepcopy(case)) if self.picture else None

    def _recognised(self, cases: Cased, said: list[Any], first: int) -> list[str]:
        """The known wrong function that fails in the same way where this one first does: the one most like it."""
        here = cases[first][0]
        alike = {
            says: sum(answer == wrong(**deepcopy(case)) for (case, _), answer in zip(cases, said, strict=True))
            for says, wrong in self.wrong.items()
            if said[first] == wrong(**deepcopy(here))
        }
        if not alike:
            return []
        nearest = max(alike, key=lambda says: alike[says])
        return [nearest if alike[nearest] == len(said) else f"A mistake that fails here in the same way: {nearest}"]


def modelled(
    program: Callable[..., Scenario], policy: Policy, says: Callable[..., Any], *, frames: int = 1 << 20
) -> dict[str, Any]:
    """What a `Function` is compared with and drawn by, where `program` makes the state of a case under a policy.

    `says` reads the answer from the machine at the end, and takes the case by keyword.
    """
    return {
        "truth": lambda **case: says(program(**case).end(policy, frames=frames), **case),
        "picture": lambda **case: program(**case).run(policy).show(),
    }


def but(function: Callable[..., Any], **changed: Any) -> Callable[..., Any]:
    """A function with arguments overwritten: what somebody says who does not look at them.

    A callable is a new value, made from the old one.
    """

    def says(**case: Any) -> Any:
        mine = {name: new(case[name]) if callable(new) else new for name, new in changed.items()}
        return function(**case | mine)

    return says


# --- a program ------------------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True, repr=False)
class Program(Asked):
    """Write or change a program, so that something happens.

    A program is a `Scenario`, its text, or what holds one as its `scenario` (a playground, a timeline). Where one is
    given to `start` from, it is a scenario or a list of steps, over the same mapping.

    Parameters
    ----------
    judge : callable
        Runs a scenario and says whether it does what was asked.
    worked : callable
        Makes a program that does, the solution.
    start : Scenario, optional
        The program as the reader finds it; unchanged, it is no answer.
    may : tuple of str, optional
        The operations that are allowed; by default all.
    limits : callable, optional
        A sentence that is part of the question and has to be computed.
    told : str
        The solution as code; by default the text of the worked program.
    """

    kind = "program"

    judge: Callable[[Scenario], Verdict]
    worked: Callable[[], Scenario]
    start: Scenario | None = None
    may: tuple[str, ...] = ()
    limits: Callable[[], str] | None = None
    told: str = ""

    def check(self, program: Any = None) -> Note:
        """Run it: does it do what was asked?"""
        if is_open(program):
            return self._asked(f"No program yet: {self._pass_one()}. {GOES_ON}")
        try:
            with looking(ScenarioError):
                scenario = self._read(program)
        except (Unreadable, ScenarioError) as error:
            told = shown(error, str).rstrip(".")
            such = ("Such as `[('read', 0, 7), ('write', 0, 7, 8)]`.",) if self.start else ()
            return Note("wrong", "Cannot run that program.", (f"{told}.", *such))
        verdict = self.judge(scenario)
        if self.start is not None and scenario.steps == self.start.steps:
            return self._asked(f"Not changed yet. {verdict.lines[0]} {GOES_ON}")
        lines = verdict.lines if verdict.right or verdict.lines else (f"`{self.name}.hint()` helps.",)
        said = Note("right" if verdict.right else "wrong", verdict.head, lines, picture=verdict.picture)
        return self._noted(scenario.text, said)

    def solution(self) -> Note:
        """A program that does it, folded where HTML is shown."""
        code = self.told or self.worked().text()
        told = ("One program that does it:",)
        return self._solved(Note("tell", f"Solution of `{self.name}`", told, code=code, fold=True))

    def _asked(self, *more: str) -> Note:
        limits = (self.limits(),) if self.limits else ()
        return Note("ask", self.prompt, (*limits, *more))

    def _pass_one(self) -> str:
        if self.start is not None:
            return f"pass a list of steps to `{self.name}.check`"
        return f'pass its text, `{self.name}.check("""pages 16 …""")`'

    def _read(self, program: Any) -> Scenario:
        scenario = self._scenario(program)
        for at, step in enumerate(scenario.steps, 1):
            if self.may and step[0] not in self.may:
                raise Unreadable(f"step {at} is {step!r:.40}; only {', '.join(self.may)} may be used here")
        return scenario

    def _scenario(self, program: Any) -> Scenario:
        # What runs or holds a program, such as a playground, stands for it.
        program = getattr(program, "scenario", program)
        if isinstance(program, Scenario):
            return program if self.start is None else self._over_same_mapping(program)
        if self.start is None:
            if is_long(program) and not isinstance(program, str):
                raise Unreadable(f"{shown(program)} is no text of a program")
            return Scenario.parse(str(program), "your program")
        if not isinstance(program, Sequence) or isinstance(program, str):
            raise Unreadable(f"{kind_of(program)} is not a list of steps")
        for at, step in enumerate(program, 1):
            if not isinstance(step, (tuple, list)):
                raise Unreadable(f"step {at} is {step!r:.40}; a step is a tuple such as ('read', 0, 7)")
        return self.start.but(steps=tuple(tuple(step) for step in program), name=self.name)

    def _over_same_mapping(self, program: Scenario) -> Scenario:
        assert self.start is not None
        mine, given = ((scenario.pages, scenario.skew, scenario.orders) for scenario in (self.start, program))
        if mine != given:
            raise Unreadable(f"its pages, skew and orders are {given}; here they are {mine}")
        return program


def judged_under(policy: Policy, judge: Callable[[Timeline], Verdict]) -> Callable[[Scenario], Verdict]:
    """A judge of what a program does under a policy; a step that is refused is told first."""

    def judged(program: Scenario) -> Verdict:
        timeline = program.run(policy)
        return refused(timeline) or judge(timeline)

    return judged


def refused(timeline: Timeline) -> Verdict | None:
    """What to say when a step of a program could not be done, or None."""
    for number, result in enumerate(timeline, 1):
        if not result.ok:
            told = f"Step {number}, `{' '.join(map(str, result.step))}`, is refused: {result.why}."
            return Verdict(False, (told,), timeline.show(number - 1), "Not every step can be done.")
    return None


# --- answered by hand -----------------------------------------------------------------------------------------------


def widgets() -> bool:
    """Whether widgets can be made here; the core of the library does without."""
    return find_spec("anywidget") is not None


def _card(asked: Asked, mode: str) -> Any:
    from ..view.asked import Card

    return Card(asked.sheet(mode) or {}, mode, partial(asked._clicked, mode), asked._helped)


# --- helpers --------------------------------------------------------------------------------------------------------


def runs(pages: Iterable[int]) -> str:
    """Pages in words: ``{0, 1, 2, 9}`` is ``0–2, 9``."""
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in in_a_row(pages))


def over(pages: Iterable[int], op: str, *how: Any) -> list[Step]:
    """Steps by which process 0 does something to these pages, one for each stretch of them."""
    return [(op, 0, run.start, len(run), *how) for run in in_a_row(pages)]


def in_a_row(pages: Iterable[int]) -> list[range]:
    """Pages that follow each other, from the first stretch to the last."""
    found: list[range] = []
    for page in sorted(set(pages)):
        if found and page == found[-1].stop:
            found[-1] = range(found[-1].start, page + 1)
        else:
            found.append(range(page, page + 1))
    return found


def _of_another_kind(given: Any, right: Any) -> Iterable[str]:
    """That a list is wanted, where a number was given."""
    numbers = isinstance(given, Real) and isinstance(right, Real)
    if not numbers and not isinstance(given, type(right)):
        wanted = type(right).__name__
        yield f"{'An' if wanted[0] in 'aeiou' else 'A'} {wanted} is wanted; {type(given).__name__} is another kind."


def _singular(plural: str) -> str:
    return f"{plural[:-3]}y" if plural.endswith("ies") else plural.removesuffix("s")


def is_open(answer: Any) -> bool:
    """Whether there is no answer yet: the dots of the notebook, or None."""
    return answer is None or answer is ...


def whole(value: Any) -> int:
    """A reader's answer as a number: of any kind of number that is whole and has up to 18 digits; not True or False."""
    number: Any = _plain(value)
    is_number = number is not True and number is not False and isinstance(number, Real)
    if is_number and (number >= MOST or number <= -MOST):
        raise Unreadable(f"{shown(value)} is not a number of up to 18 digits.")
    if is_number and number == number and int(number) == number:
        return int(number)
    raise Unreadable(f"{shown(value)} is not a whole number.")


def _numbers(answer: Iterable[Any]) -> tuple[int, ...]:
    if isinstance(answer, Iterator):
        raise Unreadable(f"{shown(answer)} gives numbers one by one and may never end; give them as a list.")
    found = tuple(whole(number) for number in islice(answer, MOST_NUMBERS + 1))
    if len(found) > MOST_NUMBERS:
        raise Unreadable(f"there are more than {MOST_NUMBERS:,} numbers.")
    return found


def _plain(value: Any) -> Any:
    """numpy's numbers, an array without dimensions too, as Python's own."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0 else value
