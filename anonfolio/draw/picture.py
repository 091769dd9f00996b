"""The picture of a state: page tables as strips of cells, folios under them, and why the last step did what it did.

A letter and a colour stand for one folio, and ``A5`` is page 5 of folio A, in a page-table entry as in memory. What
there is to see is a `Scene`; a `Picture` holds one and shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..machine.show import Latest, show
from ..program.scenario import Timeline
from ..witness.comparing import Recorded
from .drawing import Drawn, Sheet
from .scene import Scene, latest_scene, lined_up, recorded_scenes, scenes
from .svg import SceneSheet
from .text import to_text


class Picture(Drawn):
    """A scene, shown: `text` for a terminal, `svg` for a notebook."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @classmethod
    def of(cls, timeline: Timeline, step: int | None = -1) -> Picture:
        """The picture after a step of a timeline, numbered as the timeline is; None for the state before the first."""
        shown = pictures(timeline)
        return shown[0] if step is None else shown[1:][step]

    @property
    def sentence(self) -> str:
        """What the step did, in words; for a state without a step, what it holds."""
        return self.scene.sentence

    def text(self) -> str:
        """The picture as plain text of at most 100 columns."""
        return to_text(self.scene)

    def sheet(self, *, legend: bool = True) -> Sheet:
        """The picture, drawn."""
        return SceneSheet(self.scene, legend=legend)


def pictures(run: Timeline | Recorded) -> list[Picture]:
    """One picture per moment of a timeline or a recorded program: the start, then after each step."""
    return side_by_side([run])[0]


def side_by_side(runs: Sequence[Timeline | Recorded]) -> list[list[Picture]]:
    """`pictures` of each of several runs, their counters in the same columns."""
    panes = [scenes(run) if isinstance(run, Timeline) else recorded_scenes(run) for run in runs]
    return [[Picture(scene) for scene in pane] for pane in lined_up(panes)]


@show.register
def _show_latest(latest: Latest, at: int | None = None) -> Picture:
    return Picture(latest_scene(latest))


@show.register
def _show_timeline(timeline: Timeline, at: int | None = None) -> Picture:
    return Picture.of(timeline, at)
