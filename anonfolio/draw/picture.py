"""The picture of a state: processes above and below, memory between, ribbons for who maps what, and what decided.

A letter stands for one folio, and ``A5`` is page 5 of folio A. What there is to see is a `Scene`; a `Picture` holds one
and shows it, in as much room as a `Plan` gives to all pictures that are shown together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ..machine.show import Latest, show
from ..program.scenario import Timeline
from ..witness.comparing import Recorded
from .drawing import Drawn, Sheet
from .plan import Plan, plan
from .scene import Scene, each_scene, latest_scene, lined_up, recorded_scenes, scenes
from .svg import SceneSheet
from .text import to_text


class Picture(Drawn):
    """A scene, shown: `text` for a terminal, `svg` for a notebook."""

    def __init__(self, scene: Scene, plan: Plan | None = None) -> None:
        self.scene, self.plan = scene, plan

    @classmethod
    def of(cls, timeline: Timeline, step: int | None = -1) -> Picture:
        """The picture after a step of a timeline, numbered as the timeline is; None for the state before the first."""
        shown = scenes(timeline)
        return cls(shown[0] if step is None else shown[1:][step])

    @property
    def sentence(self) -> str:
        """What the step did, in words; for a state without a step, what it holds."""
        return self.scene.sentence

    def text(self) -> str:
        """The picture as plain text of at most 100 columns."""
        return to_text(self.scene)

    def _draw(self) -> Sheet:
        return SceneSheet(self.scene, self.plan)


def texts(timeline: Timeline) -> Iterator[str]:
    """The picture after each step as plain text, one at a time: what a terminal is shown of a long run."""
    return (to_text(scene) for scene in islice(each_scene(timeline), 1, None))


def pictures(run: Timeline | Recorded) -> list[Picture]:
    """One picture per moment of a timeline or a recorded program: the start, then after each step."""
    return side_by_side([run])[0]


def side_by_side(runs: Sequence[Timeline | Recorded]) -> list[list[Picture]]:
    """`pictures` of each of several runs, in the same places."""
    panes = [scenes(run) if isinstance(run, Timeline) else recorded_scenes(run) for run in runs]
    lined = lined_up(panes)
    room = plan([scene for pane in lined for scene in pane])
    return [[Picture(scene, room) for scene in pane] for pane in lined]


@show.register
def _show_latest(latest: Latest, at: int | None = None) -> Picture:
    return Picture(latest_scene(latest))


@show.register
def _show_timeline(timeline: Timeline, at: int | None = None) -> Picture:
    return Picture.of(timeline, at)
