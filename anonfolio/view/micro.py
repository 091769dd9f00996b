"""The stepper over a run of micro-steps: two or three CPUs, their TLBs, and a fault done step by step."""

from __future__ import annotations

from typing import cast

import anywidget

from ..micropicture import micropictures
from ..microsteps import Run
from ..picture import Picture
from .stepper import Stepper


class MicroStepper(Stepper):
    """Walk through a `Run`: the buttons, the keys and the static form are the `Stepper`'s.

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
        self.title = title or run.race.name
        self.panel, self.panel_title = [], ""
        # A MicroPicture has all that the stepper asks of a picture.
        self.panes = [cast("list[Picture]", micropictures(run))]
        self.labels = [run.race.policy.name]
        self.pane_differences: list[dict[int, str]] = [{}]
        self.differences: dict[int, str] = {}
        self.asked: dict[int, dict[str, str]] = {}
        self._abouts = [""]
        self._faulting: list[int] = []
        if key is None:
            first = run.first()
            key = -1 if first is None else first
        step = range(len(run.moments))[key]
        anywidget.AnyWidget.__init__(self, frames=self._frames(), step=step, predict=False)
