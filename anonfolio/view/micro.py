"""The stepper over a run of micro-steps: a few CPUs, their TLBs, and a fault done step by step."""

from __future__ import annotations

from ..draw.micropicture import micropictures
from ..hardware.microsteps import Run
from .stepper import Pane, Walk


class MicroStepper(Walk):
    """Walk through a `Run`.

    Parameters
    ----------
    run : Run
        What to show.
    title : str
        What it is called; by default the race's name.
    key : int, optional
        The moment shown at first and in the static form, 0 for the start. By default the first that shows damage,
        else the last.
    """

    def __init__(self, run: Run, *, title: str = "", key: int | None = None) -> None:
        if key is None:
            first = run.first()
            key = -1 if first is None else first
        moments = Pane(micropictures(run), run.race.policy.name)
        super().__init__(title or run.race.name, [moments], range(len(run.moments))[key])
