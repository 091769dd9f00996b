"""What the laboratory found of a policy, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..kernel.policy import Policy
from .breaks import Breaks
from .changes import Changes
from .prices import Prices


class Field(NamedTuple):
    """A field of the policy that is not the base's: both values in words, and a rule's source where it is known."""

    name: str
    base: str
    mine: str
    source: str


@dataclass(frozen=True)
class Findings:
    """What was found of a policy.

    Attributes
    ----------
    policy, base : Policy
    called : str
        How the command line names the policy: a file, or a name.
    quick, steps : bool, int or None
        Whether the short bounds were used, and the longest program that was searched where it was asked for.
    seed : int
        With what random programs began.
    fields : tuple of Field
        Where the two differ.
    changes, breaks, prices
        What it changes, breaks and buys; None where it was stopped before that was known.
    stopped : str
        What was looked at when it was stopped.
    """

    policy: Policy
    base: Policy
    called: str
    quick: bool
    steps: int | None
    seed: int
    fields: tuple[Field, ...]
    changes: Changes | None
    breaks: Breaks
    prices: Prices | None
    stopped: str = ""

    def __bool__(self) -> bool:
        """Whether something refutes the policy."""
        return bool(self.refutations)

    @cached_property
    def refutations(self) -> list[str]:
        """What refutes it, in a sentence each; none where nothing was found."""
        return self.breaks.refutations()

    @property
    def command(self) -> str:
        """What makes this report again."""
        bounds = (" --quick" if self.quick else "") + (f" --steps {self.steps}" if self.steps else "")
        return f"anonfolio lab {self.called} --against {self.base.name}{bounds} --seed {self.seed}"
