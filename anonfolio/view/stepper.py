"""The stepper: a timeline one reads step by step. All its frames live in the browser, drawn once by `Picture`."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from ..draw.drawing import Drawn, lean, stacked, stylesheet, unstyled
from ..draw.picture import Picture, side_by_side
from ..draw.svg import legend
from ..draw.words import path_taken, question, reason
from ..kernel.policy import POLICIES
from ..kernel.record import COW_COPY, FIRST_TOUCH, NO_FAULT, REUSE, ZERO_COPY, ZERO_READ
from ..program.ops import said
from ..program.scenario import Scenario, Step, Timeline
from .program import Sharing, packed, unpacked

if TYPE_CHECKING:
    from ..witness.comparing import Recorded

MOST_PANES = 5

CHOICES = (FIRST_TOUCH, ZERO_READ, ZERO_COPY, COW_COPY, REUSE, NO_FAULT)
"""What a reader can predict of a read or a write; SIGSEGV is added where a timeline has one."""


@dataclass(frozen=True)
class Pane:
    """One column: a picture per moment.

    `about` tells more than its label; `differences` are, per moment at which it differs from the first pane, how.
    """

    pictures: Sequence[Drawn]
    label: str
    about: str = ""
    differences: Mapping[int, str] = field(default_factory=dict)

    @property
    def height(self) -> float:
        """Of its highest picture."""
        return max(picture.sheet.height for picture in self.pictures)


class Walk(Sharing):
    """Moments one goes through: First, Back, Play, Next, Last, a slider, the program, and the keyboard.

    ← → Home End step, space plays and pauses, f and b go to the next and the previous fault, d to the first
    difference, l makes a link to the step, p turns the questions on and off (1, 2, … answer, 0 shows). In the picture
    arrow keys choose a page. Needs no kernel once it is shown: the pieces of every picture travel with it, and the key
    frame as SVG and text beside it for pages that run no widgets. An address that ends with ``#stepper2=7`` opens the
    second stepper of a page at step 7.

    A single step moves what it changes for a quarter of a second; the picture itself is at its end at once, and the
    next step need not wait. Jumps move nothing, nor do steps that change more than 160 shapes (a fork of 512 pages);
    for whoever asked for reduced motion nothing moves. What is seen in the end is the same.

    Attributes
    ----------
    step : int
        The moment shown: 0 is the start, k what k steps have led to. The browser keeps it up to date.
    predict : bool
        Whether the reader is asked before an outcome is shown.
    """

    name: ClassVar[str] = "stepper"
    style: ClassVar[str] = stylesheet()
    frames = traitlets.Dict().tag(sync=True, to_json=packed, from_json=unpacked)
    step = traitlets.Int(0).tag(sync=True)
    predict = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        title: str,
        columns: Sequence[Pane],
        step: int,
        *,
        asked: Mapping[int, Mapping[str, str]] | None = None,
        faulting: Sequence[int] = (),
        panel: Sequence[str] = (),
        panel_title: str = "",
        predict: bool = False,
        listing: Sequence[tuple[int, int, str]] = (),
    ) -> None:
        self.title, self.columns, self.listing = title, columns, listing
        self.asked = asked or {}
        self.panel, self.panel_title = list(panel), panel_title
        super().__init__(frames=self._frames(faulting), step=step, predict=predict)

    @property
    def labels(self) -> list[str]:
        """What stands above each pane."""
        return [column.label for column in self.columns]

    @property
    def differences(self) -> dict[int, str]:
        """Per moment at which a pane differs from the first one, how."""
        return {
            step: "; ".join(column.differences[step] for column in self.columns if step in column.differences)
            for step in sorted({step for column in self.columns for step in column.differences})
        }

    @property
    def _hidden(self) -> bool:
        """Whether the static form leaves the outcome of its step to the reader."""
        return self.predict and self.step in self.asked

    @property
    def _moment(self) -> int:
        return self.step - 1 if self._hidden else self.step

    @property
    def pictures(self) -> list[Drawn]:
        """The pictures of the moment shown, one per pane; of the one before while the reader is asked."""
        return [column.pictures[self._moment] for column in self.columns]

    def svg(self) -> str:
        """The moment shown as one SVG, panes beside each other where there is room."""
        if len(self.columns) == 1 and not self._hidden and not self.panel:
            return self.pictures[0].svg()
        return stacked(
            self._question if self._hidden else "",
            list(zip(self._lines(), self.pictures, strict=True)),
            (self.panel_title, self.panel[self._moment]) if self.panel else None,
            told=repr(self),
        )

    @property
    def _question(self) -> str:
        return f"Step {self.step}, {self.labels[0]}: {self.asked[self.step]['question']}"

    def _lines(self) -> list[str]:
        """What stands above each pane of the static form."""
        if len(self.columns) == 1:
            return [""]
        told: list[str] = []
        for column in self.columns:
            found = column.differences
            first = f"First difference at step {min(found)}: {found[min(found)]}" if found else "No difference"
            told.append(" · ".join(filter(None, (column.label, column.about, first if told else ""))))
        return told

    def _frames(self, faulting: Sequence[int]) -> dict[str, Any]:
        """What the browser needs: pieces and lines of text once each, and per pane and moment what is new in it."""
        number: dict[str, int] = {}
        line: dict[str, int] = {}
        panes = [_moments(column, number) for column in self.columns]
        texts = [
            [[line.setdefault(words, len(line)) for words in picture.text().splitlines()] for picture in pane.pictures]
            for pane in self.columns
        ]
        there = {answer["path"] for answer in self.asked.values()}
        return {
            "title": self.title,
            "pieces": list(number),
            "panes": panes,
            "labels": self.labels,
            "abouts": [column.about for column in self.columns],
            "said": [[picture.sentence for picture in column.pictures] for column in self.columns],
            "lines": list(line),
            "texts": texts,
            "counters": [_counters(column.pictures) for column in self.columns],
            "decided": [_decided(column.pictures) for column in self.columns],
            "program": [list(row) for row in self.listing],
            "legend": unstyled(legend()) if self.listing else "",
            "differences": [_by_name(column.differences) for column in self.columns],
            "faulting": list(faulting),
            "asked": _by_name(self.asked),
            "choices": [*CHOICES, *sorted(there - {*CHOICES})],
            "panel": [unstyled(shown) for shown in self.panel],
            "panel_title": self.panel_title,
        }

    def __repr__(self) -> str:
        last = len(self.columns[0].pictures) - 1
        lines = [f"Stepper {self.title}: step {self.step} of {last}"]
        for column in self.columns[1:]:
            found = column.differences
            who = "they" if len(self.columns) == 2 else f"{self.labels[0]} and {column.label}"
            lines.append(
                f"{who} differ at {len(found)} steps, first at step {min(found)}: {found[min(found)]}"
                if found
                else f"{who} do not differ"
            )
        if self._hidden:
            lines.append(f"{self._question} Before it:")
        shown = [picture.text() for picture in self.pictures]
        if self.panel:
            shown.append(f"{self.panel_title}\n{_plain(self.panel[self._moment])}")
        return "\n\n".join(["\n".join(lines), *shown])

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Front ends with a widget manager prefer the widget; the others find a picture in the same output.
        bundle, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**bundle, "image/svg+xml": self.svg(), "text/plain": repr(self)}, metadata


def _moments(column: Pane, number: dict[str, int]) -> dict[str, Any]:
    """Per moment pairs of a key and the piece it holds from then on (-1: none), numbered in the order of painting."""
    height = column.height
    drawn = [picture.sheet.keyed(height) for picture in column.pictures]
    keys = {key: at for at, key in enumerate(sorted({key for pieces in drawn for key in pieces}))}
    moments: list[list[int]] = []
    before: dict[str, str] = {}
    for pieces in drawn:
        gone = [value for key in sorted(before.keys() - pieces.keys()) for value in (keys[key], -1)]
        come = [(key, piece) for key, piece in pieces.items() if before.get(key) != piece]
        pairs = [(keys[key], number.setdefault(lean(piece), len(number))) for key, piece in come]
        moments.append([*gone, *chain.from_iterable(pairs)])
        before = pieces
    sheet = column.pictures[0].sheet
    return {"width": sheet.width, "height": height, "shown_px": sheet.shown_px, "moments": moments}


def _counters(pictures: Sequence[Drawn]) -> dict[str, list[Any]]:
    """The names of what is counted, and per moment the counts."""
    counted = [picture.scene.counters if isinstance(picture, Picture) else () for picture in pictures]
    names = list(dict.fromkeys(counter.what for counters in counted for counter in counters))
    now = [{counter.what: counter.now for counter in counters} for counters in counted]
    return {"names": names, "values": [[counts.get(name, 0) for name in names] for counts in now]}


def _decided(pictures: Sequence[Drawn]) -> list[tuple[int, int, int, int, str]]:
    """Per fault the moment, the process, the first and the last page it acted on, and what decided."""
    return [
        (at, fault.process, fault.pages[0], fault.pages[-1], f"{check.answer} → {fault.path}")
        for at, picture in enumerate(pictures)
        if isinstance(picture, Picture)
        for fault in picture.scene.faults
        if fault.pages and (check := fault.decided_by)
    ]


class Stepper(Walk):
    """Walk through a timeline, alone or beside others.

    Parameters
    ----------
    timeline : Timeline
        What to show.
    other : Timeline or Recorded, optional
        The same scenario under another policy, or as a kernel did it: shown beside, stepping together, with the
        steps at which they differ marked.
    others : sequence of Timeline or Recorded
        More of them, up to five panes in all. Each is compared with `timeline`.
    title : str
        What it is called; by default the scenario's name.
    labels : sequence of str
        One per pane, what stands above it; by default the names of policies and kernels.
    key : int, optional
        The step shown at first and in the static form, numbered as the timeline is. By default the last one; when
        the reader predicts, the first that she is asked about.
    at : int, optional
        The moment shown at first instead, numbered as the stepper is: 0 for the start, 7 for what step 7 leaves. Before
        a question about step 7 one shows at most moment 6.
    predict : bool
        Whether the reader is asked which path a read or a write takes before its outcome is shown. What steps
        land on is asked about; what a jump passes over is not. A question left open is asked again. The static form
        then shows the state before the key step.
    panel : sequence of str
        One text or one SVG (it begins with ``<svg``, has a viewBox, and a title for whoever cannot see it) per moment:
        the start, then after each step. Shown beside the pictures: TLB entries for instance.
    panel_title : str
        What stands above it.

    Raises
    ------
    IndexError
        The timeline has no step `key`.
    ValueError
        Both `key` and `at`, too many panes, or too few or too many steps, labels or texts for them.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        other: Timeline | Recorded | None = None,
        others: Sequence[Timeline | Recorded] = (),
        title: str = "",
        labels: Sequence[str] = (),
        key: int | None = None,
        at: int | None = None,
        predict: bool = False,
        panel: Sequence[str] = (),
        panel_title: str = "",
    ) -> None:
        beside = [*([] if other is None else [other]), *others]
        _check(timeline, beside, labels, panel)
        runs = [timeline, *beside]
        shown = side_by_side(runs)
        named = list(labels) or [pane[0].scene.source for pane in shown]
        differences = [_differences(timeline, run, named[0], name) for run, name in zip(runs, named, strict=True)]
        asked = _asked(timeline)
        super().__init__(
            title or timeline.scenario.name or "scenario",
            [Pane(*column) for column in zip(shown, named, map(_about, runs), differences, strict=True)],
            _first_step(len(timeline), key, at, asked if predict else {}),
            asked=asked,
            faulting=sorted({step for run in runs for step in _faulting(run)}),
            panel=panel,
            panel_title=panel_title,
            predict=predict,
            listing=_listing(timeline.scenario),
        )


def _check(
    timeline: Timeline, beside: Sequence[Timeline | Recorded], labels: Sequence[str], panel: Sequence[str]
) -> None:
    panes, moments = 1 + len(beside), 1 + len(timeline)
    if panes > MOST_PANES:
        raise ValueError(f"{panes} panes are more than one can read; there are at most {MOST_PANES}")
    for run in beside:
        if len(run.scenario.steps) != len(timeline):
            raise ValueError(f"a run of {len(run.scenario.steps)} steps cannot stand beside one of {len(timeline)}")
    if labels and len(labels) != panes:
        raise ValueError(f"there are {len(labels)} labels for {panes} panes")
    if panel and len(panel) != moments:
        raise ValueError(f"the panel has {len(panel)} texts for {moments} moments (the start is one)")


def _first_step(steps: int, key: int | None, at: int | None, asked: Mapping[int, Any]) -> int:
    if at is not None:
        if key is not None:
            raise ValueError(f"key={key} and at={at} both say what is shown at first; give one of them")
        return range(steps + 1)[at]
    if key is None and asked:
        return min(asked)
    # As a sequence is indexed: out of range is an error, negative counts from the end.
    return range(1, steps + 1)[-1 if key is None else key] if steps else 0


def _differences(timeline: Timeline, run: Timeline | Recorded, mine: str, theirs: str) -> dict[int, str]:
    if run is timeline:
        return {}
    return {
        found.number + 1: f"{found.what}: {mine} {found.mine}, {theirs} {found.theirs}"
        for found in timeline.compare(run)
    }


MOST_FOLDED = 2
"""So many writes of neighbouring pages stand as lines of their own in the program."""


def _listing(scenario: Scenario) -> list[tuple[int, int, str]]:
    """The program in lines: the first and the last step of each, and what it does; writes that go on are one."""
    lines: list[tuple[int, int, str]] = []
    children = 0
    at = 0
    while at < len(scenario.steps):
        many = _writes_on(scenario.steps[at:])
        step = scenario.steps[at]
        if many > MOST_FOLDED:
            lo, hi = step[2] + scenario.first_vpn, step[2] + scenario.first_vpn + many - 1
            lines.append((at + 1, at + many, f"P{step[1]} writes pages {lo}–{hi}"))
            at += many
            continue
        children += step[0] == "fork"
        words = said(step, scenario.first_vpn, children)
        lines.append((at + 1, at + 1, re.sub(r"\b[Pp]rocess (\d+)", r"P\1", words)))
        at += 1
    return lines


def _writes_on(steps: Sequence[Step]) -> int:
    """How many of the first steps write neighbouring pages, ascending, by one process."""
    first = steps[0]
    going = (step[:3] == ("write", first[1], first[2] + at) for at, step in enumerate(steps) if first[0] == "write")
    return sum(1 for _ in takewhile(bool, going))


def _by_name(numbered: Mapping[int, Any]) -> dict[str, Any]:
    return {str(step): what for step, what in numbered.items()}


def _about(run: Timeline | Recorded) -> str:
    """What a policy of the library says of itself; a reader's own may carry the words of the one it was made from."""
    if not isinstance(run, Timeline):
        return "A real kernel, as far as user space can see it."
    return run.policy.about if POLICIES.get(run.policy.name) == run.policy else ""


def _faulting(run: Timeline | Recorded) -> set[int]:
    faults = [result.faults for result in run] if isinstance(run, Timeline) else [step["faults"] for step in run.steps]
    return {step for step, taken in enumerate(faults, 1) if taken}


def _asked(timeline: Timeline) -> dict[int, dict[str, str]]:
    """Per read and write the question, the path it took, and why."""
    base = timeline.scenario.first_vpn
    return {
        step: {"question": question(result, base), "path": path, "because": reason(result)}
        for step, result in enumerate(timeline, 1)
        if (path := path_taken(result)) is not None
    }


def _plain(panel: str) -> str:
    """A text as it is; of an SVG its title and description."""
    if not panel.startswith("<svg"):
        return panel
    told = re.findall(r"<(title|desc)>(.*?)</\1>", panel, re.DOTALL)
    return "\n".join(html.unescape(words) for _, words in told) or "(a drawing)"
