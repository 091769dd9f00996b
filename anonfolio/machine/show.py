"""A picture of a value. Who draws is a room further right, which says so here when the library is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

from ..kernel.record import Fault
from .snapshot import Snapshot


class Shown(Protocol):
    """What is shown at one moment: `Picture` and `MicroPicture` are such."""

    @property
    def sentence(self) -> str:
        """What happened, for whoever listens."""

    def svg(self, height: float = 0) -> str:
        """Its SVG."""

    def text(self) -> str:
        """It as text."""


@dataclass(frozen=True, slots=True)
class Latest:
    """What the latest operation on a machine left: the state, the faults, and the state before it where it is known."""

    snapshot: Snapshot
    before: Snapshot | None
    faults: Sequence[Fault]


@singledispatch
def show(value: Any, at: int | None = None) -> Shown:
    """The picture of a machine, a timeline or a run of micro-steps; `at` which of its moments, where it has many."""
    raise TypeError(f"nothing draws a {type(value).__name__}; `import anonfolio.draw` brings what draws")
