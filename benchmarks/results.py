"""What the parts of the bench hand back, and the report made of it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One figure, from interleaved rounds.

    Attributes
    ----------
    part, name : str
        Where it belongs, and what it is.
    rounds : tuple of float
        The figure of each round: a ratio where the unit is "×".
    at_least, at_most : float, optional
        The goal for the median.
    detail : dict
        What it was made of.
    """

    part: str
    name: str
    rounds: tuple[float, ...]
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.rounds)

    @property
    def worst(self) -> float:
        """The round that was furthest from the goal."""
        return max(self.rounds) if self.at_most is not None else min(self.rounds)

    @property
    def goal(self) -> str:
        """Such as ``≥ 50``; empty when there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:g}" if self.at_most is not None else ""

    @property
    def missed(self) -> bool:
        """Whether the median is on the wrong side of the goal."""
        if self.at_least is not None and not self.median >= self.at_least:
            return True
        return self.at_most is not None and not self.median <= self.at_most

    def __str__(self) -> str:
        verdict = "" if not self.goal else "MISSED" if self.missed else "met"
        figures = f"{_short(self.median):>9} ({_short(self.worst)}) {self.unit}"
        return f"  {self.name:44}{figures:26}{self.goal:>8}  {verdict}".rstrip()


@dataclass(frozen=True)
class LeftOut:
    """A part, or a piece of one, that this machine cannot run, and why."""

    part: str
    why: str

    def __str__(self) -> str:
        return f"  left out: {self.why}"


Result = Measured | LeftOut


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def geomean(figures: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, figures)))


def missed(results: Sequence[Result]) -> list[Measured]:
    """The goals that were missed."""
    return [each for each in results if isinstance(each, Measured) and each.missed]


def report(results: Sequence[Result], about: dict[str, Any]) -> str:
    """The whole table as text."""
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += ["", "medians over interleaved rounds, in brackets the worst round"]
    for part in dict.fromkeys(each.part for each in results):
        lines += ["", part, *(str(each) for each in results if each.part == part)]
    wrong = missed(results)
    lines += ["", *(f"missed: {each.part}: {each.name}, {_short(each.median)}, goal {each.goal}" for each in wrong)]
    if not wrong:
        lines.append("no goal was missed" + (", of those that ran" if _incomplete(results) else ""))
    return "\n".join(lines)


def _incomplete(results: Sequence[Result]) -> bool:
    return any(isinstance(each, LeftOut) for each in results)


def write(folder: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """bench.txt and bench.json in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.txt").write_text(report(results, about) + "\n")
    rows = [
        {"median": each.median, "worst": each.worst, "missed": each.missed, **asdict(each)}
        if isinstance(each, Measured)
        else {"part": each.part, "left_out": each.why}
        for each in results
    ]
    (folder / "bench.json").write_text(json.dumps({"about": about, "results": rows}, indent=1) + "\n")
