"""How much room pictures take: one plan for all moments of all runs shown together, so that nothing jumps.

Pages stand in bands of 16 or 32. In each the processes stand above and below, memory between them in lanes. Bands that
are alike in all moments are one folded band.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .drawing import measure_mono, sized, wrap
from .place import is_above
from .scene import Folio, Scene
from .table import FOLD_ROWS, Numbers, Table, entry_keys
from .words import TRAILS

LABEL, PITCH, MARGIN = 27.0, 20.0, 5.0
"""Width of a process's name, of a page, and of what is free at the right."""


class Band(NamedTuple):
    """Pages [lo, hi) below each other in all processes that have any of them, and the lanes of memory between.

    `folded`: all pages of a process are alike, and drawn as one bar.
    """

    lo: int
    hi: int
    folded: bool
    processes: tuple[int, ...]
    lanes: range

    def above(self) -> list[int]:
        """Processes above memory, from the top."""
        return sorted(filter(is_above, self.processes), reverse=True)

    def below(self) -> list[int]:
        """Processes below memory, from the top."""
        return sorted(process for process in self.processes if not is_above(process))

    def x(self, vpn: float, columns: int) -> float:
        """Where a page begins."""
        share = (vpn - self.lo) / (self.hi - self.lo) * columns if self.folded else vpn - self.lo
        return LABEL + share * PITCH


class Plan(NamedTuple):
    """`labelled`: processes of which some mapping has a name or does not begin and end with the others.

    `why` is how many lines the deciding checks take at most.
    """

    columns: int
    heading: int
    sentence: int
    why: int
    labelled: frozenset[int]
    bands: tuple[Band, ...]

    @property
    def width(self) -> float:
        """Of the picture."""
        return LABEL + self.columns * PITCH + MARGIN

    @property
    def room(self) -> float:
        """For its lines of text: they are counted and drawn with the same."""
        return _room(self.columns)


def plan(scenes: Sequence[Scene]) -> Plan:
    """The plan for pictures that are shown one after the other, or beside each other."""
    columns = 32 if any(one.wide for one in scenes) else 16
    room = _room(columns)
    return Plan(
        columns,
        max(len(heading_lines(one, room)) for one in scenes),
        max(len(sentence_lines(one, room)) for one in scenes),
        max(len(why_lines(one, room)) for one in scenes),
        frozenset(table.process for one in scenes for table in one.tables if _is_labelled(table)),
        tuple(_bands(scenes, columns)),
    )


def _room(columns: int) -> float:
    return LABEL + columns * PITCH - 8


def heading_lines(scene: Scene, room: float) -> list[str]:
    """Where we are, in lines."""
    return wrap(scene.heading, room, sized(12))


def sentence_lines(scene: Scene, room: float) -> list[str]:
    """What the step did, in lines."""
    return wrap(scene.sentence, room, sized(13, True))


class Line(NamedTuple):
    """A line of the box that says why; `strong`: the kernel's question and its answer."""

    words: str
    strong: bool


def why_lines(scene: Scene, room: float) -> list[Line]:
    """Per fault that is told the check that decided, and what came of it."""
    found: list[Line] = []
    for fault in scene.faults[:TRAILS]:
        check = fault.decided_by
        pages = f", {len(fault.pages)} pages" if len(fault.pages) > 1 else ""
        came = f"{fault.path}{pages}"
        if check is None:
            found.append(Line(came, True))
            continue
        found += [Line(line, True) for line in wrap(check.answer, room - 16, lambda words: measure_mono(words, 12))]
        saw = f" ({check.saw})" if check.saw else ""
        checks = f"{len(fault.checks)} check{'s' * (len(fault.checks) > 1)}"
        found += [Line(line, False) for line in wrap(f"→ {came}{saw}; {checks}", room - 16, sized(12))]
    return found


def _is_labelled(table: Table) -> bool:
    return len(table.mappings) > 1 or any(words for *_, words in table.mappings)


# --- bands ----------------------------------------------------------------------------------------------------------


def _bands(scenes: Sequence[Scene], columns: int) -> Iterator[Band]:
    processes: dict[int, set[int]] = {}
    lanes: dict[int, set[int]] = {}
    for one in scenes:
        for table in one.tables:
            for band in np.unique(table.entries.vpn // columns).tolist():
                processes.setdefault(band, set()).add(table.process)
        for folio in (*one.folios, *one.gone):
            home = folio.place.home
            for band in range(home // columns, (home + folio.pages - 1) // columns + 1):
                processes.setdefault(band, set())
                lanes.setdefault(band, set()).add(folio.place.lane)
    for group in _groups(scenes, sorted(processes), columns):
        there = {process for band in group for process in processes[band]}
        used = {lane for band in group for lane in lanes.get(band, ())}
        high = range(min(used), max(used) + 1) if used else range(0)
        lo, hi = group[0] * columns, (group[-1] + 1) * columns
        yield Band(lo, hi, len(group) > 1, tuple(sorted(there)), high)


def _groups(scenes: Sequence[Scene], bands: Sequence[int], columns: int) -> Iterator[list[int]]:
    """Bands one by one, and those together that go on alike in all moments."""
    mixed, cut = set[int](), set[int]()
    for one in scenes:
        if not one.folds:
            mixed.update(bands)
        for index, keys in _strands(one):
            _note_breaks(index, keys, columns, mixed, cut)
    group: list[int] = []

    def flush() -> Iterator[list[int]]:
        yield from [group[:]] if len(group) >= FOLD_ROWS else ([band] for band in group)
        group.clear()

    for band in bands:
        if group and (band != group[-1] + 1 or band in cut or band in mixed or group[-1] in mixed):
            yield from flush()
        group.append(band)
    yield from flush()


def _strands(one: Scene) -> Iterator[tuple[Numbers, Numbers]]:
    """What runs through the bands: each process's entries, each lane's folios; per page number what must be alike."""
    for table in one.tables:
        if len(table.entries.vpn):
            yield table.entries.vpn, entry_keys(table)
    by_lane: dict[int, list[Folio]] = {}
    for folio in (*one.folios, *one.gone):
        by_lane.setdefault(folio.place.lane, []).append(folio)
    for folios in by_lane.values():
        folios.sort(key=lambda folio: folio.place.home)
        index = np.concatenate([folio.place.home + np.arange(folio.pages) for folio in folios])
        yield index, np.concatenate([_frame_keys(folio) for folio in folios])


def _frame_keys(folio: Folio) -> Numbers:
    # Small folios that are alike are drawn as one bar.
    which = folio.number if folio.order else -3
    refs = folio.counts.references if folio.counts else (0, 0)
    parts: Iterable[object] = (
        which, folio.mapcount, folio.mapcount_before, folio.exclusive, folio.pins, folio.refs, folio.changed, *refs,
    )  # fmt: skip
    return np.stack([np.broadcast_to(np.asarray(part, np.int64), folio.pages) for part in parts], axis=1)


def _note_breaks(index: Numbers, keys: Numbers, columns: int, mixed: set[int], cut: set[int]) -> None:
    differs = np.ones(len(index), np.bool_)
    differs[1:] = (np.diff(index) != 1) | (np.diff(keys, axis=0) != 0).any(axis=1)
    first = index % columns == 0
    mixed.update((index[differs & ~first] // columns).tolist())
    cut.update((index[differs & first] // columns).tolist())
    # Where a strand ends inside a band, that band is mixed; where it ends with one, the next is another.
    ends = index[np.r_[np.diff(index) != 1, True]] + 1
    mixed.update((ends[ends % columns != 0] // columns).tolist())
    cut.update((ends[ends % columns == 0] // columns).tolist())
