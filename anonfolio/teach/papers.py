"""Homework: a paper of drawn questions for everybody, or one of her own for each student.

A student's questions hang on a secret (HMAC-SHA256 of topic, seed, number and name), so that nobody can draw another's,
or know them before; who has the secret draws the same again, which is how they are graded. A paper carries a ticket,
which is the same of other words: it says that this student was given this paper, and nothing of what is right.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..lesson.answers import FILE, FORMAT
from ..lesson.drawn import LETTERS, Drawn
from ..lesson.topics import questions

PAPER = "anonfolio-homework/1"
SHORTEST_SECRET = 16
LONGEST_FILE = 1 << 20
MOST_QUESTIONS = 300
FORBIDDEN = '/\\:*?"<>|'
"""In a student's name, which is a file's: what some system cannot have there."""


@dataclass(frozen=True)
class Paper:
    """So many questions of a topic; without a student, everybody's."""

    topic: str
    seed: int
    count: int
    student: str = ""
    ticket: str = ""
    drawn: tuple[Drawn, ...] = ()


def paper(topic: str, seed: int, count: int, student: str = "", secret: bytes = b"") -> Paper:
    """Draw a paper.

    Parameters
    ----------
    topic : str
        One of `anonfolio.lesson.topics`.
    seed, count : int
        Which questions, and how many (1 to `MOST_QUESTIONS`).
    student : str
        Whose; with a secret.
    secret : bytes
        What students' questions hang on.

    Raises
    ------
    ValueError
        There is no such topic, or not so many questions.
    """
    if not 1 <= count <= MOST_QUESTIONS:
        raise ValueError(f"{count} questions: a paper has 1 to {MOST_QUESTIONS}")
    if not student:
        return Paper(topic, seed, count, drawn=tuple(questions(topic, seed, count)))
    own = questions(topic, signed(secret, "questions", topic, seed, count, student), count)
    return Paper(topic, seed, count, student, ticket(secret, topic, seed, count, student), tuple(own))


def ticket(secret: bytes, topic: str, seed: int, count: int, student: str) -> str:
    """What a student's paper carries."""
    return signed(secret, "ticket", topic, seed, count, student)[:32]


def signed(secret: bytes, *what: str | int) -> str:
    """HMAC-SHA256 of these words, hexadecimal; JSON keeps them apart."""
    return hmac.new(secret, json.dumps(what).encode(), hashlib.sha256).hexdigest()


def read_secret(file: str) -> bytes:
    """A secret from a file; ValueError for one that is short enough to guess."""
    secret = _small(file).strip()
    if len(secret) < SHORTEST_SECRET:
        raise ValueError(
            f"{file}: a secret has at least {SHORTEST_SECRET} characters; make one: "
            'python3 -c "import secrets; print(secrets.token_hex(32))" > FILE'
        )
    return secret


def read_students(file: str) -> list[str]:
    """Names, one a line; what follows a comma, empty lines and lines that begin with # are left out.

    Raises
    ------
    ValueError
        A name cannot be a file's, or stands there twice.
    """
    try:
        lines = _small(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text with a name on each line") from None
    given = [line.split(",")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    names = [unicodedata.normalize("NFC", name) for name in given]
    for name in names:
        check_name(name)
    twice = [name for name in names if sum(name.lower() == other.lower() for other in names) > 1]
    if twice:
        raise ValueError(f"{file}: {twice[0]} is there twice; names of files tell no capitals apart everywhere")
    if not names:
        raise ValueError(f"{file} holds no name")
    return names


def check_name(name: str) -> None:
    """ValueError for a name that no file should have."""
    if (
        not name.isprintable()
        or not 0 < len(name.encode()) <= 200
        or len(name) > 64
        or name[0] in "."
        or any(mark in FORBIDDEN for mark in name)
    ):
        raise ValueError(f"{name!r:.80} is no name for a file: 1 to 64 characters, none of {FORBIDDEN}, no dot first")


def _small(file: str) -> bytes:
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{file} is no file")
    if path.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{file} has more than {LONGEST_FILE:,} bytes")
    return path.read_bytes()


def prove(made: Paper) -> str:
    """The run behind each answer."""
    return "\n\n".join(f"Question {number}\n{one.prove()}" for number, one in enumerate(made.drawn, 1)) + "\n"


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _title(made: Paper) -> str:
    return f"{made.topic}, paper {made.seed}" + (f", {made.student}" if made.student else "")


def markdown(made: Paper, answers: bool) -> str:
    """A paper to print; with answers, each with its reason and those of what is wrong."""
    parts = [f"# anonfolio: {_plain(_title(made))}\n"]
    for number, one in enumerate(made.drawn, 1):
        parts.append(f"## Question {number} ({one.difficulty})\n\n{_question(one)}")
        if answers:
            parts.append(_answer(one))
    return "\n".join(parts)


def _question(one: Drawn) -> str:
    options = "\n".join(f"- **{letter}** {words}" for letter, words in options_of(one).items())
    return f"{one.setting()}\n\n{chr(10).join(one.lines())}\n\n{one.prompt}\n\n{options}\n"


def _answer(one: Drawn) -> str:
    return f"**{one.letter}.** {one.because}\n\n" + "\n".join(f"- {line}" for line in reasons(one)) + "\n"


def _plain(words: str) -> str:
    """A name in Markdown: what would be a mark there is none."""
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]<>()#+-.!|~$&" else mark for mark in words)


def options_of(one: Drawn) -> dict[str, str]:
    """The options by letter."""
    return {letter: option.words for letter, option in zip(LETTERS, one.options, strict=False)}


def reasons(one: Drawn) -> list[str]:
    """Why each wrong option is wrong, or whose it is."""
    lettered = zip(LETTERS, one.options, strict=False)
    return [f"{letter}: {option.reason}" for letter, option in lettered if letter != one.letter]


# --- JSON -------------------------------------------------------------------------------------------------------------


def as_json(made: Paper, answers: bool) -> str:
    """A paper as JSON; teach/README.md says what is in it."""
    head: dict[str, Any] = {"format": PAPER, "topic": made.topic, "seed": made.seed, "count": made.count}
    if made.student:
        head |= {"student": made.student, "ticket": made.ticket}
    head["questions"] = [_as_object(number, one, answers) for number, one in enumerate(made.drawn, 1)]
    return json.dumps(head, indent=1, ensure_ascii=False) + "\n"


def _as_object(number: int, one: Drawn, answers: bool) -> dict[str, Any]:
    made: dict[str, Any] = {
        "number": number, "kind": one.kind, "difficulty": one.difficulty, "points": one.points,
        "kernel": one.kernel.name, "setting": one.setting(), "steps": one.lines(), "program": one.program.text(),
        "prompt": one.prompt, "options": options_of(one),
    }  # fmt: skip
    if answers:
        wrong = {
            letter: {"reason": option.reason, "kernels": list(option.kernels)}
            for letter, option in zip(LETTERS, one.options, strict=False)
            if letter != one.letter
        }
        made |= {"answer": one.letter, "because": one.because, "wrong": wrong}
    return made


# --- GIFT -------------------------------------------------------------------------------------------------------------


def gift(made: Paper, answers: bool) -> str:
    """A paper for Moodle and its kin, which judge themselves: right answers and reasons are always in it."""
    return "\n".join(_as_gift(f"{_title(made)}, {number}", one) for number, one in enumerate(made.drawn, 1))


def _as_gift(title: str, one: Drawn) -> str:
    steps = "".join(f"<li>{escape(line.split('. ', 1)[1])}</li>" for line in one.lines())
    asked = f"<p>{escape(one.setting())}</p><ol>{steps}</ol><p>{escape(one.prompt)}</p>"
    options = []
    for letter, option in zip(LETTERS, one.options, strict=False):
        mark, told = ("=", one.because) if letter == one.letter else ("~", option.reason)
        options.append(f"{mark}{_gift(escape(option.words))}#{_gift(escape(told))}")
    body = "\n".join(options)
    return f"// {one.difficulty}\n::{_gift(title)}::[html]{_gift(asked)}{{\n{body}\n}}\n"


def _gift(words: str) -> str:
    """Text in which none of GIFT's own marks is one."""
    return "".join(f"\\{mark}" if mark in "\\~=#{}:" else mark for mark in words)


# --- a notebook -------------------------------------------------------------------------------------------------------


def notebook(made: Paper, answers: bool) -> str:
    """A notebook that asks, and writes the file that `anonfolio grade` reads; it needs Python alone.

    With answers they stand in it: then it is the teacher's.
    """
    about = f"# anonfolio: {_plain(_title(made))}\n\nPut a letter in place of each `...`, run all cells, and hand in "
    about += f"`{FILE}`, which the last cell writes."
    cells = [_cell("markdown", "about", about), _cell("code", "begin", "answers = {}")]
    for number, one in enumerate(made.drawn, 1):
        text = f"## Question {number} ({one.difficulty})\n\n{_question(one)}"
        if answers:
            text += f"\n{_answer(one)}"
        cells.append(_cell("markdown", f"question-{number}", text))
        cells.append(_cell("code", f"answer-{number}", f'answers[{number}] = ...  # "a", "b", "c" or "d"'))
    cells.append(_cell("code", "end", _writes(made)))
    python = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    book = {"cells": cells, "metadata": python | {"language_info": {"name": "python"}}, "nbformat": 4}
    return json.dumps(book | {"nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, id: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": id, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _writes(made: Paper) -> str:
    head = {"topic": made.topic, "seed": made.seed, "count": made.count, "student": made.student, "ticket": made.ticket}
    return f"""\
import json

given = {{number: said for number, said in answers.items() if said is not ...}}
entries = {{
    f"homework.{{number}}": {{"kind": "choice", "given": [str(said)], "right": [None], "hints": 0, "shown": False}}
    for number, said in given.items()
}}
paper = {head!r}
with open({FILE!r}, "w", encoding="utf-8") as file:
    json.dump({{"format": {FORMAT!r}, "paper": paper, "answers": entries}}, file, indent=1)
print(f"{{len(given)}} of {made.count} answered; hand in {FILE}")"""


FORMATS: dict[str, tuple[str, Callable[[Paper, bool], str]]] = {
    "md": (".md", markdown),
    "ipynb": (".ipynb", notebook),
    "gift": (".gift", gift),
    "json": (".json", as_json),
}
"""By name: the ending of a file, and what writes it."""


def write_papers(papers: Iterable[Paper], form: str, folder: str, answers: bool) -> int:
    """One file a student, named after her, into a folder that is made; returns how many."""
    suffix, write = FORMATS[form]
    texts = {f"{made.student}{suffix}": write(made, answers) for made in papers}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (target / name).write_text(text, encoding="utf-8", newline="\n")
    return len(texts)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        writer.writerow([f"'{cell}" if str(cell).startswith(tuple("=+-@\t\r")) else cell for cell in row])
    return out.getvalue()
