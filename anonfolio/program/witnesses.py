"""Other witnesses of a scenario. Who knows of them is a room further right, which says so here when it is imported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

from .ops import Step


class Witnessed(Protocol):
    """What a kernel did with a scenario: `anonfolio.Recorded` is such."""

    @property
    def kernel(self) -> str:
        """Its version."""

    @property
    def steps(self) -> tuple[dict[str, Any], ...]:
        """Per step what was seen, as recordings write it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One step at which two witnesses differ: its index, the step, and what each says. Printed, steps count from 1."""

    number: int
    step: Step
    what: str
    mine: str
    theirs: str

    def __str__(self) -> str:
        return f"step {self.number + 1} {list(self.step)}: {self.what}: {self.mine} against {self.theirs}"


@singledispatch
def compare(mine: Any, other: Any) -> list[Difference]:
    """Every step at which the model and another witness differ, with the first difference of each."""
    raise TypeError(f"nothing compares a {type(mine).__name__}")


@singledispatch
def recorded_run(scenario: Any, kernel: str) -> Witnessed:
    """What a recorded kernel did with a scenario."""
    raise TypeError(f"nothing was recorded of a {type(scenario).__name__}")


@singledispatch
def live_run(scenario: Any) -> Witnessed:
    """What the kernel of this machine does with a scenario."""
    raise TypeError(f"no kernel runs a {type(scenario).__name__}")
