"""The stepper: a timeline one reads step by step. All its frames live in the browser, drawn once by `Picture`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from ..drawing import lean
from ..picture import Picture, pictures, recorded_pictures
from ..scenario import Timeline

if TYPE_CHECKING:
    from ..recording import Recorded

HERE = Path(__file__).parent


class Stepper(anywidget.AnyWidget):
    """Walk through a timeline: First, Back, Next, Last, a slider, and ← → Home End.

    Needs no kernel once it is shown: the pieces of every picture travel with it, and the key frame as SVG and text
    beside it for pages that run no widgets.

    Parameters
    ----------
    timeline : Timeline
        What to show.
    other : Timeline or Recorded, optional
        The same scenario under another policy, or as a kernel did it: shown beside, stepping together, with the
        steps at which they differ marked.
    title : str
        What it is called; by default the scenario's name.
    key : int
        The step shown at first and in the static form, numbered as the timeline is; the last by default.

    Attributes
    ----------
    step : int
        The moment shown: 0 is the start, k what k steps have led to. The browser keeps it up to date.
    """

    _esm = HERE / "stepper.js"
    _css = HERE / "stepper.css"
    frames = traitlets.Dict().tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(
        self, timeline: Timeline, *, other: Timeline | Recorded | None = None, title: str = "", key: int = -1
    ) -> None:
        self.title = title or timeline.scenario.name or "scenario"
        self.panes = [pictures(timeline)]
        self.differences: dict[int, str] = {}
        if other is not None:
            self.panes.append(pictures(other) if isinstance(other, Timeline) else recorded_pictures(other))
            mine, theirs = (pane[0].snapshot.policy for pane in self.panes)
            self.differences = {
                found.number + 1: f"{found.what}: {mine} {found.mine}, {theirs} {found.theirs}"
                for found in timeline.compare(other)
            }
        # As a sequence is indexed: out of range is an error, negative counts from the end.
        step = range(1, len(timeline) + 1)[key] if len(timeline) else 0
        super().__init__(frames=self._frames(), step=step)

    @property
    def pictures(self) -> list[Picture]:
        """The pictures of the moment shown, one per pane."""
        return [pane[self.step] for pane in self.panes]

    def svg(self) -> str:
        """The moment shown as one SVG: the first pane's, as high as the highest of its pictures."""
        return self.pictures[0].svg(_height(self.panes[0]))

    def _frames(self) -> dict[str, Any]:
        """The pieces once each, and per pane and moment which of them, in order."""
        number: dict[str, int] = {}
        panes = []
        for pane in self.panes:
            height = _height(pane)
            drawn = [[lean(piece) for piece in picture.fragments(height)] for picture in pane]
            panes.append([[number.setdefault(piece, len(number)) for piece in pieces] for pieces in drawn])
        return {
            "title": self.title,
            "pieces": list(number),
            "panes": panes,
            "said": [[picture.sentence for picture in pane] for pane in self.panes],
            "differences": {str(step): words for step, words in self.differences.items()},
        }

    def __repr__(self) -> str:
        last = len(self.panes[0]) - 1
        lines = [f"Stepper {self.title}: step {self.step} of {last}"]
        if self.differences:
            first = min(self.differences)
            lines.append(
                f"they differ at {len(self.differences)} steps, first at step {first}: {self.differences[first]}"
            )
        elif len(self.panes) > 1:
            lines.append("they do not differ")
        return "\n\n".join(["\n".join(lines), *(picture.text() for picture in self.pictures)])

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Front ends with a widget manager prefer the widget; the others find a picture in the same output.
        bundle, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**bundle, "image/svg+xml": self.svg(), "text/plain": repr(self)}, metadata


def _height(pane: list[Picture]) -> float:
    return max(picture.height for picture in pane)
