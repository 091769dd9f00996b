"""What a reader has answered, in one file beside the notebook: her score, and what `anonfolio grade` judges anew.

``anonfolio-answers.json`` is UTF-8 JSON::

    {"format": "anonfolio-answers/1",
     "answers": {
       "start_here.backed": {"kind": "number", "given": [64, 16], "right": [false, true], "hints": 1, "shown": false},
       "first_touch.order": {"kind": "function", "given": [{"name": "mine", "source": "def mine(...): ..."}],
                             "right": [true], "hints": 0, "shown": false}}}

A key is the module of `anonfolio.exercises` and the question's name in it. Of each question:

``kind``
    ``number``, ``choice``, ``pages``, ``sizes``, ``cases``, ``pairs``, ``order``, ``events``, ``function`` or
    ``program``.
``given``
    Every answer in the order in which it was given, the first and the last `MOST` of them at most; equal ones that
    follow each other count once. What an answer is depends on the kind:

    - number: an integer. choice: its letter. pages: their numbers, ascending. sizes, order: a list, in order.
    - cases: letter to answer (a text; numbers are written as text, too), all that are answered so far.
    - pairs: letter to ``[size, reason]``. events: name to a list of events (a step's name or a list).
    - function: ``{"name": what it is called, "source": text}``; run in a fresh process, the source defines that name.
      With it come the functions, plain values and imports of the notebook that it uses. ``source`` is empty where
      Python does not know it.
    - program: the scenario's text, as `Scenario.text` writes it and `Scenario.parse` reads it.
``right``
    As long as ``given``: whether it was right, or null for a prediction that was not yet compared. For the reader
    herself: who grades judges ``given`` anew and trusts nothing else.
``hints``, ``shown``
    How many hints were asked for, and whether the solution was shown.

The browser keeps the same for itself (localStorage) and exports the same format. Nothing here depends on the time.

Written when a question is judged, into the folder of the notebook, where a Jupyter server or VS Code runs it. Not by
nbconvert, nbval or any other program that runs notebooks, and not where the environment has ``CI``.
``ANONFOLIO_ANSWERS=FILE`` writes that file whoever runs, ``ANONFOLIO_ANSWERS=`` (empty) writes none.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import textwrap
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .looking import Unreadable, kind_of, looking

FORMAT = "anonfolio-answers/1"
FILE = "anonfolio-answers.json"
KINDS = ("number", "choice", "pages", "sizes", "cases", "pairs", "order", "events", "function", "program")
MOST = 20
UNKEPT = "Not kept in"
LONGEST = 1 << 16
"""A text that is longer than that, a function's or a program's, is not kept."""

_told: set[str] = set()
"""Why no file can be written, once each: a line at every answer would be noise."""


def place(environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that answers are written to; None where none is to be written."""
    environment = os.environ if environment is None else environment
    named = environment.get("ANONFOLIO_ANSWERS")
    if named is not None:
        return Path(named) if named else None
    if environment.get("CI") or not _someone_reads(environment):
        return None
    return Path(FILE)


def _someone_reads(environment: Mapping[str, str]) -> bool:
    """Whether a person runs the notebook: a server names the session, VS Code the file; nbclient does neither."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and ("JPY_SESSION_NAME" in environment or "__vsc_ipynb_file__" in shell.user_ns)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The answers of a file by question; ValueError where it is none."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f'{path.name} is no file of answers: its "format" must be "{FORMAT}"')
    answers = stored.get("answers")
    if not isinstance(answers, dict) or not all(map(_is_entry, answers.values())):
        raise ValueError(f'{path.name}: "answers" must have kind, given and right of each question')
    return answers


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.get("kind") not in KINDS:
        return False
    given, right = entry.get("given"), entry.get("right")
    return isinstance(given, list) and isinstance(right, list) and len(given) == len(right)


def answered(entry: Mapping[str, Any], kind: str, given: Any, right: bool | None) -> dict[str, Any]:
    """An entry with one answer more; one that was given just before is only judged."""
    said, judged = list(entry.get("given", ())), list(entry.get("right", ()))
    if said and said[-1] == given:
        judged[-1] = judged[-1] if right is None else right
    else:
        said, judged = [*said, given], [*judged, right]
    if len(said) > MOST:
        del said[1], judged[1]
    return _entry(entry) | {"kind": kind, "given": said, "right": judged}


def helped(entry: Mapping[str, Any], kind: str, *, hints: int = 0, shown: bool = False) -> dict[str, Any]:
    """An entry whose reader has had so many hints, or has seen the solution."""
    old = _entry(entry)
    return old | {"kind": kind, "hints": max(hints, old["hints"]), "shown": shown or old["shown"]}


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "", "given": [], "right": [], "hints": 0, "shown": False} | dict(entry)


def note(question: str, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> str:
    """Change what the file says of a question; a line where it cannot be written, said once, else nothing."""
    path = place()
    if path is None or not question:
        return ""
    try:
        answers = read(path) if path.exists() else {}
        answers[question] = dict(change(answers.get(question, {})))
        _replace(path, json.dumps({"format": FORMAT, "answers": answers}, indent=1, ensure_ascii=False) + "\n")
    except (OSError, ValueError) as error:
        why = f"{UNKEPT} {path}: {getattr(error, 'strerror', None) or error}."
        news = why not in _told
        _told.add(why)
        return why if news else ""
    return ""


def _replace(path: Path, text: str) -> None:
    """All of it or nothing: who reads meanwhile finds the old file."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8", newline="\n")
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def score(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many questions were answered, how many right at last and at once; a shown solution counts for neither."""
    judged = [entry for entry in answers.values() if entry["given"]]
    own = [entry["right"] for entry in judged if not entry.get("shown")]
    return {
        "answered": len(judged),
        "right": sum(right[-1] is True for right in own),
        "at_once": sum(right[0] is True for right in own),
    }


# --- a function as text ---------------------------------------------------------------------------------------------


def source(function: Any) -> dict[str, str]:
    """A function's name and the text that defines it, with what it uses of the notebook's own names."""
    try:
        with looking():
            return _source(function)
    except Unreadable:
        return {"name": kind_of(function), "source": ""}


def _source(function: Any) -> dict[str, str]:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):  # A reader's own object may call itself anything.
        name = kind_of(function)
    parts: dict[str, str] = {}
    _gather(name, function, parts)
    text = "\n\n".join(part for part in parts.values() if part)
    known = bool(parts.get(name)) and len(text) <= LONGEST
    return {"name": name, "source": text if known else ""}


def _gather(name: str, value: Any, parts: dict[str, str]) -> None:
    """What defines a name, and before it what that uses."""
    if name in parts:
        return
    parts[name] = ""  # A function that calls itself is gathered once.
    text = _definition(name, value)
    if isinstance(value, FunctionType) and text:
        for used in _names(value.__code__):
            if used in value.__globals__ and used != name:
                _gather(used, value.__globals__[used], parts)
    del parts[name]
    parts[name] = text


def _definition(name: str, value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}"
    module = getattr(value, "__module__", None)
    if not name.isidentifier():
        return ""
    if isinstance(value, (FunctionType, type)) and module not in (None, "__main__") and name == value.__name__:
        return f"from {module} import {name}"
    if isinstance(value, (FunctionType, type)):
        try:
            text = textwrap.dedent(inspect.getsource(value)).strip()
        except (OSError, TypeError):
            return ""
        return text if text.startswith(("def ", "class ", "@")) else ""
    try:
        with looking():
            text = repr(value)
            # A long one would not be kept, and to read it takes memory by the gigabyte.
            return f"{name} = {text}" if len(text) <= LONGEST and literal_eval(text) == value else ""
    except Unreadable:
        return ""


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
