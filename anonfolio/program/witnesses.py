"""Other witnesses of a scenario. Who knows of them is a room further right, which says so here when it is imported."""

from __future__ import annotations

from functools import singledispatch
from typing import Any, TypeAlias

Witnessed: TypeAlias = Any
"""`anonfolio.Recorded`: a scenario and, per step, what a kernel's page tables held."""
Differing: TypeAlias = Any
"""`anonfolio.Difference`: one step at which two witnesses differ."""


@singledispatch
def compare(mine: Any, other: Any) -> list[Differing]:
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
