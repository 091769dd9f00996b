"""Grading: what students hand in is judged anew, and nothing in it is believed but what was answered.

A function runs in a fresh process that holds no answer (`sandbox`), on cases of another seed than the notebook's; it
and programs have limits of time and memory. Answers to drawn questions are compared with those of the paper that the
secret gives for this student.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..lesson import answers as stored
from ..lesson.plain import packed, unpacked
from ..lesson.quiz import Asked, Function
from . import judge, papers, sandbox

LONGEST_FILE = 1 << 20
MOST_BYTES = 1 << 30
"""Of memory, for a function or a program."""
MOST_FILES = 40
CASES = 60
"""So many cases of another seed judge a function."""
DRAWN = "homework."


@dataclass
class Row:
    """What one student has: points from 0 to 1 by question, and what is to be said."""

    student: str
    points: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Grader:
    """Judges submissions; `close` it at the end.

    Parameters
    ----------
    secret : bytes
        What papers and the cases of functions hang on.
    seconds : float
        How long a function, or a program, may run.
    only : tuple of str
        Banks (``first_touch``) or questions that count; all by default.
    """

    secret: bytes
    seconds: float = 10.0
    only: tuple[str, ...] = ()
    _functions: dict[str, Function] = field(default_factory=dict)

    # --- submissions

    def row(self, student: str, files: list[Path]) -> Row:
        """Judge all files of a student."""
        row = Row(student)
        for file in files[:MOST_FILES]:
            try:
                entries, paper = read_submission(file)
            except ValueError as error:
                row.notes.append(str(error))
                continue
            self._add(row, entries, paper)
        if not files:
            row.notes.append(f"no file of answers: {stored.FILE}, or another that ends in .json")
        if len(files) > MOST_FILES:
            row.notes.append(f"only {MOST_FILES} of {len(files)} files were read")
        return row

    def _add(self, row: Row, entries: Mapping[str, Mapping[str, Any]], paper: Any) -> None:
        drawn = {key: entry for key, entry in entries.items() if key.startswith(DRAWN)}
        if drawn or paper is not None:
            self._homework(row, drawn, paper)
        for id, entry in entries.items():
            if id in drawn or not self._counts(id):
                continue
            question = judge.question_named(id)
            if question is None:
                row.notes.append(f"{id:.60}: there is no such question")
                continue
            got, note = self._judged(question, entry)
            row.points[id] = max(got, row.points.get(id, 0.0))
            if got < 1 and isinstance(question, Function):
                row.notes.append(f"{id}: {note}")

    def _counts(self, id: str) -> bool:
        return not self.only or id in self.only or id.partition(".")[0] in self.only

    def _judged(self, question: Asked, entry: Mapping[str, Any]) -> tuple[float, str]:
        given = entry["given"]
        if not given:
            return 0.0, "not answered"
        if isinstance(question, Function):
            return self.function(question, given[-1])
        return self._asked_judge(question.id, given[-1])

    # --- drawn questions

    def _homework(self, row: Row, entries: Mapping[str, Mapping[str, Any]], paper: Any) -> None:
        made = self._paper(row.student, paper)
        if made is None:
            row.notes.append("homework: this is no paper that was made for this student")
            return
        right = 0
        for number, question in enumerate(made.drawn, 1):
            given = entries.get(f"{DRAWN}{number}", {}).get("given") or [""]
            right += str(given[-1]).strip().lower() == question.letter
        name = f"homework {made.topic} {made.seed}"
        row.points[name] = max(right / made.count, row.points.get(name, 0.0))

    def _paper(self, student: str, paper: Any) -> papers.Paper | None:
        if not isinstance(paper, dict):
            return None
        topic, seed, count, given = (paper.get(key) for key in ("topic", "seed", "count", "ticket"))
        if type(topic) is not str or type(seed) is not int or type(count) is not int or type(given) is not str:
            return None
        right = papers.ticket(self.secret, topic, seed, count, student)
        if not hmac.compare_digest(right.encode(), given.encode()):
            return None
        return papers.paper(topic, seed, count, student, self.secret)

    # --- functions

    def function(self, question: Function, given: Any) -> tuple[float, str]:
        """A function's points and what is said of it."""
        if not isinstance(given, dict) or not all(type(given.get(key)) is str for key in ("name", "source")):
            return 0.0, "no function was handed in"
        if not given["source"]:
            return 0.0, "the function's text was not kept: define it in a cell of its own"
        mine = self._other_cases(question)
        said = self._run(mine, given["name"], given["source"])
        if isinstance(said, str):
            return 0.0, said
        note = mine.compared(said)
        # The last line knows the mistake, or says what came instead.
        head = note.head.removesuffix(" The first that fails:")
        return float(note.kind == "right"), " ".join((head, *note.lines[-1:]))

    def _other_cases(self, question: Function) -> Function:
        """The same question with cases that its reader has not met."""
        if question.id not in self._functions:
            seed = int(papers.signed(self.secret, "cases", question.id), 16)
            self._functions[question.id] = replace(question, seed=seed, count=CASES)
        return self._functions[question.id]

    def _run(self, question: Function, name: str, source: str) -> list[Any] | str:
        """What a function says of the cases, or why it says nothing."""
        asked = {
            "name": name, "source": source, "bytes": MOST_BYTES, "seconds": int(self.seconds) + 1,
            "cases": [{key: packed(value) for key, value in case.items()} for case, _ in question.cases],
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "out", "w+b") as out:
            place = Path(folder) / "empty"
            place.mkdir()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", sandbox.__file__], stdin=subprocess.PIPE, stdout=out,
                stderr=subprocess.DEVNULL, cwd=place, env={}, start_new_session=True,
            )  # fmt: skip
            try:
                process.communicate(json.dumps(asked).encode(), timeout=self.seconds)
            except subprocess.TimeoutExpired:
                return f"stopped after {self.seconds:g} seconds"
            finally:
                _end(process)
            out.seek(0)
            return _answers(out.read(sandbox.MOST_OUTPUT), len(question.cases))

    # --- everything else

    @cached_property
    def _judge(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", judge.__name__, str(MOST_BYTES), str(self.seconds)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip

    def _asked_judge(self, id: str, given: Any) -> tuple[float, str]:
        assert self._judge.stdin
        assert self._judge.stdout
        self._judge.stdin.write(json.dumps({"id": id, "given": given}) + "\n")
        self._judge.stdin.flush()
        line = self._judge.stdout.readline()
        if not line:
            self.close()
            return 0.0, "judging it failed"
        said = json.loads(line)
        return float(said["points"]), str(said["note"])

    def close(self) -> None:
        """End the process that judges."""
        if "_judge" in self.__dict__:
            _end(self.__dict__.pop("_judge"))


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it began."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            stream.close()


def _answers(text: bytes, count: int) -> list[Any] | str:
    """What the sandbox wrote; whatever else is there is no answer."""
    try:
        said = json.loads(text)
        if "error" in said:
            return str(said["error"])[:200]
        found = [unpacked(each) for each in said["answers"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "it ended without an answer"
    return found if len(found) == count else "it ended before the last case"


def read_submission(file: Path) -> tuple[dict[str, dict[str, Any]], Any]:
    """Entries by question, and what is said of a paper; ValueError for what is no file of answers."""
    if file.is_symlink() or not file.is_file():
        raise ValueError(f"{file.name} is no plain file")
    if file.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{file.name} has more than {LONGEST_FILE:,} bytes")
    entries = stored.read(file)
    paper = json.loads(file.read_text(encoding="utf-8")).get("paper")
    try:
        json.dumps([entries, paper], ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        # Half of a surrogate pair, or lists without end: JSON can spell it, nobody can judge or print it.
        raise ValueError(f"{file.name} holds what is no character, or lists in lists without end") from None
    return entries, paper


def submissions(folder: str) -> Iterator[tuple[str, list[Path]]]:
    """Students and their files: NAME.json, or a folder NAME with files ending in .json. Others are left alone."""
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{folder} is no folder of submissions")
    for entry in sorted(place.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield entry.name, sorted(entry.glob("*.json"))
        elif entry.suffix == ".json":
            yield entry.stem, [entry]


def graded(folder: str, grader: Grader, progress: Callable[[str], None] = lambda student: None) -> list[Row]:
    """A row for each student, by name."""
    rows = []
    for student, files in submissions(folder):
        progress(student)
        rows.append(grader.row(student, files))
    if not rows:
        raise ValueError(f"{folder} holds no submission: NAME.json, or a folder NAME with {stored.FILE}")
    return rows


def table(rows: list[Row]) -> str:
    """Scores as CSV: student, score, of how many, a column a question, notes."""
    asked = sorted({id for row in rows for id in row.points})
    lines: list[list[Any]] = [["student", "score", "of", *asked, "notes"]]
    for row in rows:
        points = [row.points.get(id, 0.0) for id in asked]
        cells = [f"{each:.3g}" for each in points]
        lines.append([row.student, f"{sum(points):.4g}", len(asked), *cells, "; ".join(row.notes)[:1000]])
    # A file's name may hold bytes that are no text.
    return papers.csv_text(lines).encode(errors="backslashreplace").decode()
