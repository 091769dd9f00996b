"""How long a notebook takes: a stated model, reading and exercises apart.

Reading: words at `WORDS_A_MINUTE`, as technical text that is to be understood; for each code cell, prediction, stepper
and each name of code in the text some time more. Exercises: minutes by the kind of question. The numbers are estimates,
of nobody's measured pace; what they give is rounded to five minutes. Double them for who never read kernel code.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lesson.quiz import Asked, Cases

WORDS_A_MINUTE = 130
CODE_CELL, PREDICTION, STEPPER, NAME = 1 / 2, 3 / 2, 5 / 2, 1 / 8
"""Minutes: to run a cell and look at what it shows; to guess; to step through; to place a name such as `do_wp_page`."""
MINUTES = {
    "number": 3.0, "choice": 3.0, "pages": 4.0, "sizes": 5.0, "order": 8.0, "pairs": 10.0, "events": 15.0,
    "program": 10.0, "function": 15.0,
}  # fmt: skip
"""By kind of question; several small cases take one each."""
ROUND = 5


@dataclass(frozen=True)
class Times:
    """Minutes of one notebook, rounded."""

    name: str
    title: str
    reading: int
    exercises: int

    @property
    def both(self) -> int:
        """Reading and exercises."""
        return self.reading + self.exercises

    def told(self) -> str:
        """As the notebook's head says it."""
        return f"About {self.reading} minutes to read, {self.exercises} for the exercises."


def times(notebook: Path) -> Times:
    """What the model says of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text, code = "\n".join(texts), "\n".join(codes)
    names = set(re.findall(r"`([^`\n]+)`", text))
    reading = (
        len(text.split()) / WORDS_A_MINUTE
        + CODE_CELL * len(codes)
        + PREDICTION * len(re.findall(r"\.predict\(", code))
        + STEPPER * len(re.findall(r"\bStepper\(", code))
        + NAME * len(names)
    )
    asked = sum(map(_minutes, _questions(code)))
    return Times(notebook.stem, texts[0].splitlines()[0].removeprefix("# "), _rounded(reading), _rounded(asked))


def _rounded(minutes: float) -> int:
    return max(ROUND, ROUND * round(minutes / ROUND))


def _questions(code: str) -> Iterator[Asked]:
    """What a notebook has judged with ``check``."""
    found = re.search(r"from anonfolio\.exercises import (\w+) as q", code)
    if found:
        bank: Any = importlib.import_module(f"anonfolio.exercises.{found[1]}")
        for name in dict.fromkeys(re.findall(r"\bq\.(\w+)\.check\(", code)):
            yield getattr(bank, name)


def _minutes(question: Asked) -> float:
    if isinstance(question, Cases):
        return float(len(question.cases))
    return MINUTES[question.kind]


def table(notebooks: list[Path]) -> str:
    """Per notebook its minutes, and all of them in hours, as Markdown."""
    found = [times(path) for path in notebooks]
    rows = [f"| {one.name[:2]} | {one.title} | {one.reading} | {one.exercises} |" for one in found]
    reading, asked = sum(one.reading for one in found) / 60, sum(one.exercises for one in found) / 60
    total = f"| | all | {reading:.1f} hours | {asked:.1f} hours |"
    return "\n".join(["| | notebook | to read | exercises |", "|---|---|---|---|", *rows, total]) + "\n"
