"""Judges what is no function: answers and programs, each in a child of this process, which has limits.

`python -m anonfolio.teach.judge BYTES SECONDS` reads a request a line (``{"id", "given"}``) and writes a verdict a line
(``{"points", "note"}``). A request is data: nothing in it is run but programs, on the model.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import partial
from typing import Any

from ..lesson.patience import Told, apart
from ..lesson.quiz import Asked, Cases, Question


def question_named(id: str) -> Asked | None:
    """The question of that id (`first_touch.order`), or None."""
    module, _, name = id.partition(".")
    try:
        bank = importlib.import_module(f"..exercises.{module}", __package__) if module.isidentifier() else None
    except ImportError:
        return None
    found = getattr(bank, name, None)
    return found if isinstance(found, Asked) and found.id == id else None


def points(question: Asked, given: Any) -> tuple[float, str]:
    """From 0 to 1, and what is said to the answer."""
    if isinstance(question, Cases) and isinstance(given, dict):
        said = {letter: given[letter] for letter in question.cases if letter in given}
        right = [question.check(**{letter: answer}).kind == "right" for letter, answer in said.items()]
        return sum(right) / len(question.cases), f"{sum(right)} of {len(question.cases)} cases"
    parts = getattr(question, "jobs", None) or getattr(question, "hunts", None)
    check: Any = question.check  # type: ignore[attr-defined]
    if parts is not None:
        if not isinstance(given, dict):
            return 0.0, "no answer of this kind"
        right = [check(**{name: _listed(given[name])}).kind == "right" for name in parts if name in given]
        return sum(right) / len(parts), f"{sum(right)} of {len(parts)}"
    note = check(given)
    return float(note.kind == "right"), note.head


def _listed(given: Any) -> Any:
    """Steps as tuples again, which JSON has as lists."""
    return [tuple(each) if isinstance(each, list) else each for each in given] if isinstance(given, list) else given


def main(arguments: list[str]) -> None:
    """Serve until the input ends."""
    most_bytes, seconds = int(arguments[0]), float(arguments[1])
    os.environ["ANONFOLIO_ANSWERS"] = ""
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_judged(request["id"], request["given"], most_bytes, seconds)), flush=True)


def _judged(id: str, given: Any, most_bytes: int, seconds: float) -> dict[str, Any]:
    question = question_named(id)
    if question is None:
        return {"points": 0.0, "note": "there is no such question"}
    if isinstance(question, Question):
        # Once for all who answer it.
        _ = question.answer
    text, ended = apart(partial(_judge, question, given), seconds, most_bytes)
    if not ended:
        return {"points": 0.0, "note": f"stopped after {seconds:g} seconds"}
    try:
        verdict: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"points": 0.0, "note": "judging it failed"}
    return verdict


def _judge(question: Asked, given: Any, tell: Told) -> None:
    """In a copy of this process: judge, and say so."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        got, note = points(question, given)
        said = {"points": got, "note": note[:200]}
    except MemoryError:
        said = {"points": 0.0, "note": "it takes more memory than is allowed"}
    except BaseException as error:  # An answer that nobody thought of is a wrong answer, not the end.
        said = {"points": 0.0, "note": f"cannot be judged: {type(error).__name__}"}
    tell(json.dumps(said).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
