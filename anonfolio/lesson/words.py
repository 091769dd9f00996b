"""The words of a notebook's questions: prompts, reasons, hints, and what is said to answers that are known to be wrong.

They stand in a TOML file beside the module that computes the answers, one table a question, so that who teaches can
change or translate them without reading code::

    [size]
    prompt = "A mapping of 4 MiB, only 64 KiB enabled, one write on page 700. How many pages does its folio have?"
    unit = "pages"
    hints = ["How many 4 KiB pages make 64 KiB?"]
    mistakes = [
        [512, "THP is not 2 MiB."],
        ["no_size", "A folio need not be a huge page."],
    ]

and in the module ``size = Number(**words("size", no_size=lambda: …), truth=…)``. A mistake is an answer, pages also as
``"8..15"``, or the name of one that the module computes. A `Function` has a table ``wrong`` instead, by the names of
wrong functions; `Cases` have a table ``cases``. Words may be broken over lines anywhere; steps of programs and code
keep their lines. Of what stands in the file and in the module, neither may miss the other: both are a ValueError.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .quiz import Case, Mistake

KEEPS_ITS_LINES = ("steps", "told")


class Words:
    """The tables of one file; called with a question's name it gives the arguments that the question is made of.

    Parameters
    ----------
    module : str
        ``__file__`` of the module; its words have the same name and end in ``.toml``.
    """

    def __init__(self, module: str) -> None:
        self.file = Path(module).with_suffix(".toml")
        self.tables: dict[str, dict[str, Any]] = tomllib.loads(self.file.read_text(encoding="utf-8"))

    def __call__(self, question: str, **computed: Callable[..., Any]) -> dict[str, Any]:
        """Name, prompt, hints and so on of a question, with the mistakes that are computed in their places."""
        told = {key: value for key, value in self._table(question).items() if key != "cases"}
        named = [answer for answer, _ in told.get("mistakes", ())] + list(told.get("wrong", ()))
        for name in computed:
            if name not in named:
                raise ValueError(f"{self.file.name}: nothing is said of {name!r} in {question!r}")
        if "mistakes" in told:
            told["mistakes"] = tuple(Mistake(_answer(which, computed), says) for which, says in told["mistakes"])
        if "wrong" in told:
            if missing := [name for name in told["wrong"] if name not in computed]:
                raise ValueError(f"{self.file.name}: there is no wrong function {missing[0]!r} for {question!r}")
            told["wrong"] = {says: computed[name] for name, says in told["wrong"].items()}
        return {"name": f"q.{question}", "bank": self.file.stem, **told}

    def cases(
        self, question: str, make: Callable[..., Case], given: Mapping[str, Sequence[Any]] | None = None
    ) -> dict[str, Case]:
        """The cases of a question by letter, each made of what is given for it and of what its table says."""
        told = self._table(question)["cases"]
        return {letter: make(*(given[letter] if given else ()), **of) for letter, of in told.items()}

    def _table(self, question: str) -> dict[str, Any]:
        if question not in self.tables:
            raise ValueError(f"{self.file.name} has no question {question!r}; it has {', '.join(self.tables)}")
        table: dict[str, Any] = _joined(self.tables[question])
        return table


def _joined(value: Any, key: str = "") -> Any:
    """The same with every text on one line, and lists as tuples."""
    if isinstance(value, str):
        return value if key in KEEPS_ITS_LINES else re.sub(r"\s*\n\s*", " ", value.strip())
    if isinstance(value, dict):
        return {name: _joined(each, name) for name, each in value.items()}
    return tuple(map(_joined, value)) if isinstance(value, list) else value


def _answer(which: Any, computed: Mapping[str, Callable[..., Any]]) -> Any:
    """The answer that a mistake is about."""
    if isinstance(which, str) and which in computed:
        return computed[which]
    if isinstance(which, str) and (pages := re.fullmatch(r"(\d+)\.\.(\d+)", which)):
        return range(int(pages[1]), int(pages[2]) + 1)
    return which
