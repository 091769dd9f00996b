"""One moment of a `Run` of micro-steps, drawn: CPU 0's steps, the TLBs, the page tables, the frames, the damage.

As `Picture` it has a text for a terminal, an SVG for a notebook, and a sentence for whoever listens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ..hardware.microsteps import FrameView, Moment, Run, TlbView, Translation, View
from ..hardware.orders import Fork
from ..hardware.stores import Damage
from ..machine.show import show
from .drawing import (
    RIGHT,
    Drawn,
    Sheet,
    exclusive_mark,
    folio_class,
    measure,
    printable,
    svg_path,
    svg_rect,
    svg_text,
    wrap,
    write_edge,
)
from .table import letter

SIDE, LEFT = 16, 112
CHIP, ENTRY, CELL, FRAME = 24, 24, 28, 64


class MicroPicture(Drawn):
    """One moment of a run; what changed since the one before is outlined.

    Parameters
    ----------
    run : Run
        What was run.
    at : int
        Which of its moments; negative counts from the end.
    """

    def __init__(self, run: Run, at: int = -1) -> None:
        self.run, self.at = run, range(len(run.moments))[at]
        self.moment: Moment = run.moments[self.at]
        self.before: Moment | None = run.moments[self.at - 1] if self.at else None
        self.view: View = self.moment.view
        self.names = frame_names(run)

    @property
    def heading(self) -> str:
        """Which race, which moment, which event."""
        last = len(self.run.moments) - 1
        where = f"step {self.at} of {last}" if self.at else f"start, {last} steps"
        told = [" ".join(map(str, self.moment.event))] if self.moment.event else []
        return " · ".join([self.run.race.name, where, *told])

    @property
    def sentence(self) -> str:
        """What happened, damage included."""
        return " ".join([self.moment.says, *self.alarms])

    @cached_property
    def damage(self) -> list[Damage]:
        """The damage that this moment shows and none before it did."""
        known = {found for moment in self.run.moments[: self.at] for found in moment.damage}
        return [found for found in self.moment.damage if found not in known]

    @property
    def alarms(self) -> list[str]:
        """That damage in words."""
        return [f"{found.kind.capitalize()}: {found.says}" for found in self.damage]

    def frame_facts(self, frame: FrameView) -> list[str]:
        """What is counted of a frame."""
        if frame.folio < 0:
            return ["free"]
        whose = "folio has " if frame.pages > 1 else ""
        refs = f"{whose}{frame.refcount} ref{'' if frame.refcount == 1 else 's'}"
        return [refs, f"mapped {frame.mapcount}×", "exclusive" if frame.exclusive else "maybe shared"]

    def entry_words(self, entry: Translation | None) -> str:
        """A translation in words."""
        if entry is None:
            return "none"
        return f"{self.names[entry.pfn]} {'writable' if entry.writable else 'read-only'}"

    # --- shown --------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The picture as plain text."""
        return "\n".join(map(printable, _lines(self)))

    def _draw(self) -> Sheet:
        return _MicroSheet(self)


def micropictures(run: Run) -> list[MicroPicture]:
    """One picture per moment."""
    return [MicroPicture(run, at) for at in range(len(run.moments))]


def frame_names(run: Run) -> dict[int, str]:
    """Frame to name: a letter per folio in the order of appearance, with a number where it has several pages."""
    names: dict[int, str] = {0: "zero page"}
    letters = 0
    for moment in run.moments:
        for frame in moment.view.frames:
            if frame.pfn in names or frame.folio < 0:
                continue
            for at in range(frame.pages):
                names[frame.head + at] = letter(letters) + (str(at) if frame.pages > 1 else "")
            letters += 1
    return names


def _rows(run: Run) -> list[tuple[str, int, tuple[str, ...]]]:
    """CPU 0's work: what it is, how many steps come before it, and its steps."""
    rows, first = [], 0
    for work in run.race.work:
        rows.append(("fork" if isinstance(work, Fork) else f"write page {work.page}", first, work.order))
        first += len(work.order)
    return rows


# --- text -----------------------------------------------------------------------------------------------------------


def _lines(picture: MicroPicture) -> Iterator[str]:
    view = picture.view
    yield picture.heading
    yield picture.moment.says
    for alarm in picture.alarms:
        yield f"!! {alarm}"
    for name, first, steps in _rows(picture.run):
        told = [_step_words(picture, first + at, step) for at, step in enumerate(steps)]
        yield f"CPU 0, {name}: {' '.join(told)}" + ("  (page-table lock held)" if view.locked else "")
    for cpu, entries in enumerate(view.tlbs):
        told = [f"{page}→{picture.entry_words(entry)}{' STALE' if stale else ''}" for page, entry, stale in entries]
        yield f"TLB of CPU {cpu} (P{picture.run.race.cpus[cpu]}): {', '.join(told) or 'empty'}"
    for number, table in view.tables:
        told = [f"{page}→{picture.entry_words(entry)}" for page, entry in enumerate(table)]
        yield f"page table of P{number}: {', '.join(told)}"
    for frame in view.frames:
        if frame.pfn in picture.names:
            yield f"{picture.names[frame.pfn]}: stored {frame.told}; {', '.join(picture.frame_facts(frame))}"


def _step_words(picture: MicroPicture, number: int, step: str) -> str:
    if number >= picture.view.done:
        return f"({step})"
    return f"[{step}]" if _just_done(picture, number) else step


def _just_done(picture: MicroPicture, number: int) -> bool:
    return picture.before is not None and picture.before.view.done <= number < picture.view.done


# --- SVG ------------------------------------------------------------------------------------------------------------


class _MicroSheet(Sheet):
    """Lays a moment out, top to bottom. Everything has the room that it needs at any moment of the run."""

    def __init__(self, picture: MicroPicture) -> None:
        super().__init__()
        self.picture, self.view = picture, picture.view
        y = self._header()
        y = self._work(y)
        y = self._cpus(y + 8)
        y = self._tables(y + 12)
        y = self._frames(y + 12)
        self.add(self._legend(y + 6))
        self.height = y + 36

    def _header(self) -> float:
        self.text(SIDE, 21, self.picture.heading, "m")
        lines = _wrapped(self.picture.moment.says)
        self.lines(SIDE, 41, lines, "t", 18)
        y = 37.0 + 18 * max(len(_wrapped(moment.says)) for moment in self.picture.run.moments)
        room = max(len(_alarm_lines(picture)) for picture in micropictures(self.picture.run))
        if not room:
            return y
        told = _alarm_lines(self.picture)
        if told:
            self.rect(SIDE, y, RIGHT - SIDE, 18 * len(told) + 10, "say")
            self.rect(SIDE, y, RIGHT - SIDE, 18 * len(told) + 10, "new")
            self.add(svg_path(f"M{SIDE + 20:g} {y + 6:g}l8 14h-16z", "mark"))
        self.lines(SIDE + 36, y + 19, told, "t", 18)
        return y + 18 * room + 16

    def _work(self, y: float) -> float:
        for name, first, steps in _rows(self.picture.run):
            self.text(SIDE, y + 16, name, "b")
            x = float(LEFT)
            for at, step in enumerate(steps):
                x += self._chip(x, y, step, first + at) + 6
            y += CHIP + 8
        if self.view.locked:
            words = "CPU 0 holds the page-table lock"
            self.text(RIGHT - measure(words, 11.5, True), y - 16, words, "b")
        return y

    def _chip(self, x: float, y: float, step: str, number: int) -> float:
        done = number < self.view.done
        width = measure(step, 11.5, True) + (30 if done else 16)
        self.rect(x, y, width, CHIP, "soft" if done else "none", 12)
        if done:
            self.add(svg_path(f"M{x + 9:g} {y + 12:g}l4 4l6 -8", "hollow"))
        if _just_done(self.picture, number):
            self.rect(x, y, width, CHIP, "new", 12)
        self.text(x + (23 if done else 8), y + 16, step, "b" if done else "m")
        return width

    def _cpus(self, y: float) -> float:
        cpus = self.picture.run.race.cpus
        rows = max(len(entries) for moment in self.picture.run.moments for entries in moment.view.tlbs)
        width = (RIGHT - SIDE - 8 * (len(cpus) - 1)) / len(cpus)
        high = 26.0 + (ENTRY + 12) * max(1, rows)
        event = self.picture.moment.event
        for cpu, runs in enumerate(cpus):
            acts = event is not None and event[0] == f"cpu{cpu}"
            with self.group(SIDE + cpu * (width + 8), y):
                self.rect(0, 0, width, high, "new" if acts else "box", 4)
                self.text(8, 17, f"CPU {cpu} runs P{runs}", "b")
                self.text(width - 8 - measure("its TLB"), 17, "its TLB", "m")
                if not self.view.tlbs[cpu]:
                    self.text(8, 42, "no entry", "m")
                for row, entry in enumerate(self.view.tlbs[cpu]):
                    self._tlb_entry(26 + (ENTRY + 12) * row, entry)
        return y + high

    def _tlb_entry(self, y: float, seen: TlbView) -> None:
        page, entry, stale = seen
        self.text(8, y + 16, f"page {page} →", "p")
        self._cell(66, y, entry)
        if stale:
            self.rect(120, y, 52, ENTRY, "say", 3)
            self.text(130, y + 16, "stale", "b")

    def _cell(self, x: float, y: float, entry: Translation | None, changed: bool = False) -> None:
        name = self.picture.names[entry.pfn] if entry else ""
        self.rect(x, y, 44, CELL, _paint(name) if name else "none")
        if entry:
            self.text(x + 22, y + 16, name if len(name) < 4 else "zero", "n")
            self.add(write_edge(x, y + CELL, 44, entry.writable))
        if changed:
            self.rect(x, y, 44, CELL, "new")

    def _tables(self, y: float) -> float:
        was = dict(self.picture.before.view.tables) if self.picture.before else {}
        rows = max(len(moment.view.tables) for moment in self.picture.run.moments)
        x = float(SIDE)
        for number, table in self.view.tables:
            words = f"page table of P{number}"
            self.text(x, y + 18, words, "b")
            at = x + measure(words, 11.5, True) + 10
            for page, entry in enumerate(table):
                old = was.get(number)
                changed = self.picture.before is not None and (old is None or old[page] != entry)
                self._cell(at + 48 * page, y, entry, changed)
                self.text(at + 48 * page + 22, y + CELL + 12, f"{page}", "v")
            x += max(290.0, at - x + 48 * len(table) + 24)
        return y + (CELL + 16 if rows else 0)

    def _frames(self, y: float) -> float:
        frames = [frame for frame in self.view.frames if frame.pfn in self.picture.names]
        known = {frame.pfn for moment in self.picture.run.moments for frame in moment.view.frames}
        was = {frame.pfn: frame for frame in self.picture.before.view.frames} if self.picture.before else {}
        self.text(SIDE, y + 18, "memory", "b")
        columns = 5
        for frame in frames:
            at = sorted(known).index(frame.pfn)
            x = LEFT - 32 + 162 * (at % columns)
            self._frame(x, y + (FRAME + 6) * (at // columns), frame, was.get(frame.pfn))
        return y + (FRAME + 6) * (-(-len(known) // columns))

    def _frame(self, x: float, y: float, frame: FrameView, was: FrameView | None) -> None:
        name = self.picture.names[frame.pfn]
        changed = self.picture.before is not None and was != frame
        with self.group(x, y):
            self.rect(0, 0, 156, FRAME, "box", 4)
            self.rect(6, 6, 34, FRAME - 12, _paint(name) if frame.folio >= 0 else "none")
            self.text(23, FRAME / 2 + 4, name, "n")
            self.text(48, 20, frame.told, "t" if len(frame.told) < 12 else "b")
            for row, fact in enumerate(self.picture.frame_facts(frame)[:2]):
                self.text(48, 37 + 15 * row, fact, "p")
            if frame.exclusive and frame.folio >= 0:
                self.add(exclusive_mark(145, 17))
            if changed:
                self.rect(0, 0, 156, FRAME, "new", 4)

    def _legend(self, y: float) -> str:
        told, x = "", float(SIDE)
        samples = (
            (svg_rect(0, 4, 18, 14, "c0") + write_edge(0, 18, 18, True), "writable"),
            (svg_rect(0, 4, 18, 14, "c0") + write_edge(0, 18, 18, False), "read-only"),
            (svg_rect(0, 4, 18, 14, "none"), "none, not yet"),
            (svg_rect(0, 4, 18, 14, "new"), "changed by this step"),
            (svg_rect(0, 4, 18, 14, "say"), "stale"),
            (exclusive_mark(9, 11), "PageAnonExclusive"),
        )
        for sample, words in samples:
            told += f'<g transform="translate({x:g} {y:g})">{sample}{svg_text(22, 15, words, "m")}</g>'
            x += 22 + measure(words) + 11
        told += svg_text(x, y + 15, "in memory: the bytes stored, in order", "m")
        return f"<g>{told}</g>"


def _paint(name: str) -> str:
    return folio_class(ord(name[0]) - ord("A"))


def _wrapped(words: str, room: float = RIGHT - SIDE) -> list[str]:
    return wrap(words, room, lambda piece: measure(piece, 14, True))


def _alarm_lines(picture: MicroPicture) -> list[str]:
    return [line for alarm in picture.alarms for line in _wrapped(alarm, RIGHT - SIDE - 52)]


@show.register
def _show_run(run: Run, at: int | None = None) -> MicroPicture:
    found = run.first() if at is None else at
    return MicroPicture(run, -1 if found is None else found)
