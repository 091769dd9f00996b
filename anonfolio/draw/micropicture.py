"""One moment of a `Run` of micro-steps, drawn: CPU 0's steps, the TLBs, the page tables, the frames, the damage.

As `Picture` it has a text for a terminal, an SVG for a notebook, and a sentence for whoever listens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property

from ..hardware.microsteps import FrameView, Moment, Run, TlbView, Translation, View
from ..hardware.orders import Fork
from ..hardware.stores import Damage
from ..machine.show import show
from .drawing import Drawn, Sheet, exclusive_mark, measure, printable, sized, svg_path, svg_rect, svg_text, wrap, xml
from .place import is_above
from .svg import CELL, FRAME, NUMBERS, TITLE, fitting
from .table import letter


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


def rows(run: Run) -> list[tuple[str, int, tuple[str, ...]]]:
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
    for name, first, steps in rows(picture.run):
        told = [_step_words(picture, first + at, step) for at, step in enumerate(steps)]
        yield f"CPU 0, {name}: {' '.join(told)}" + ("  (page-table lock held)" if view.locked else "")
    yield from held(picture)


def held(picture: MicroPicture) -> Iterator[str]:
    """What TLBs, page tables and frames hold, a line each."""
    view = picture.view
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

SIDE, CPU_WIDTH, CHIP, ROW = 16, 206, 24, 30
"""The margin; how wide a CPU is, how high a step and an entry of a TLB are."""
MEMORY, NARROWEST, WIDEST = 294, 78, 166
"""Where pages begin, and how wide one is."""
GAP = 26.0
"""Room for ribbons between a page table and memory, and between lanes."""
LANE = TITLE + FRAME + GAP


class _Layout:
    """Where pages, folios and processes stand: the same at all moments of a run."""

    def __init__(self, run: Run) -> None:
        views = [moment.view for moment in run.moments]
        tables = [table for view in views for table in view.tables]
        mapped = {entry.pfn: page for _, table in reversed(tables) for page, entry in enumerate(table) if entry}
        self.folios: dict[int, FrameView] = {}
        for frame in (frame for view in views for frame in view.frames if frame.pfn == 0 or frame.folio >= 0):
            self.folios.setdefault(frame.head, frame)
        first = next((work.page for work in run.race.work if not isinstance(work, Fork)), 0)
        self.home = {
            head: next((mapped[head + at] - at for at in range(folio.pages) if head + at in mapped), first)
            for head, folio in self.folios.items()
        }
        held = {self.home[head] + at for head, folio in self.folios.items() for at in range(folio.pages)}
        self.pages = sorted(held | set(mapped.values()))
        self.pitch = min(WIDEST, max(NARROWEST, 312 // len(self.pages)))
        self.processes = sorted({number for number, _ in tables})
        self.entries = max(1, *(len(entries) for view in views for entries in view.tlbs))

    def x(self, page: int) -> float:
        """Where a page begins."""
        return MEMORY + self.pitch * bisect_left(self.pages, page)

    def lane(self, head: int) -> int:
        """From the top: what is newest stands next to process 0."""
        return len(self.folios) - 1 - list(self.folios).index(head)


class _MicroSheet(Sheet):
    """Lays a moment out. Everything has the room that it needs at any moment of the run."""

    def __init__(self, picture: MicroPicture) -> None:
        super().__init__()
        self.picture, self.view, self.at = picture, picture.view, _Layout(picture.run)
        self.width = max(620.0, MEMORY + self.at.pitch * len(self.at.pages) + SIDE)
        self.shown_px = max(848.0, self.width)
        self.room = self.width - 2 * SIDE
        y = self._work(self._header())
        self.height = self._legend(max(self._memory(y), self._cpus(y)) + 10)

    def _header(self) -> float:
        self.add(svg_text(SIDE, 21, self.picture.heading, "h"), "0h")
        moments = [moment.says for moment in self.picture.run.moments]
        for at, line in enumerate(self._wrapped(self.picture.moment.says)):
            self.add(svg_text(SIDE, 41 + 17 * at, line, "s"), f"0s{at}")
        y = 36.0 + 17 * max(len(self._wrapped(says)) for says in moments)
        room = max(len(self._alarms(picture)) for picture in micropictures(self.picture.run))
        told = self._alarms(self.picture)
        if told:
            drawn = svg_rect(SIDE, y, self.room, 17 * len(told) + 12, "say", 4)
            drawn += svg_rect(SIDE, y, self.room, 17 * len(told) + 12, "new", 4)
            drawn += svg_path(f"M{SIDE + 18:g} {y + 7:g}l8 14h-16z", "mark")
            drawn += "".join(svg_text(SIDE + 34, y + 18 + 17 * at, line, "s") for at, line in enumerate(told))
            self.add(f"<g>{drawn}</g>", "9a")
        return y + (17 * room + 18 if room else 0)

    def _wrapped(self, words: str, less: float = 0) -> list[str]:
        return wrap(words, self.room - less, sized(13, True))

    def _alarms(self, picture: MicroPicture) -> list[str]:
        return [line for alarm in picture.alarms for line in self._wrapped(alarm, 44)]

    def _work(self, y: float) -> float:
        for number, (name, first, steps) in enumerate(rows(self.picture.run)):
            here = first <= self.view.done < first + len(steps)
            lock = ", holding the page-table lock" if self.view.locked and here else ""
            self.add(svg_text(SIDE, y + 14, f"CPU 0: {name}{lock}", "fb"), f"0w{number}")
            x, y = float(SIDE), y + 20
            for at, step in enumerate(steps):
                wide = measure(step, 12, True) + 27
                if x + wide > self.width - SIDE:
                    x, y = float(SIDE), y + CHIP + 4
                self._chip(x, y, wide, step, first + at)
                x += wide + 5
            y += CHIP + 9
        return y + 4

    def _chip(self, x: float, y: float, wide: float, step: str, number: int) -> None:
        done = number < self.view.done
        drawn = svg_rect(x, y, wide, CHIP, "soft" if done else "none", 12)
        drawn += svg_path(f"M{x + 8:g} {y + 12:g}l4 4l6 -8", "hollow") if done else ""
        drawn += svg_text(x + (21 if done else 15), y + 16, step, "fb" if done else "h")
        if _just_done(self.picture, number):
            drawn += svg_rect(x, y, wide, CHIP, "new", 12)
        self.add(f"<g>{drawn}</g>", f"0x{number:03d}")

    # --- CPUs ---------------------------------------------------------------------------------------------------

    def _cpus(self, y: float) -> float:
        cpus, event = self.picture.run.race.cpus, self.picture.moment.event
        high = 26.0 + ROW * self.at.entries
        for cpu, runs in enumerate(cpus):
            acts = event is not None and event[0] == f"cpu{cpu}"
            drawn = svg_rect(SIDE, y, CPU_WIDTH, high, "soft", 4)
            drawn += svg_rect(SIDE, y, CPU_WIDTH, high, "new" if acts else "rule", 4)
            drawn += svg_text(SIDE + 10, y + 17, f"CPU {cpu} runs P{runs}", "fb")
            drawn += svg_text(SIDE + CPU_WIDTH - 10 - measure("its TLB", 12), y + 17, "its TLB", "h")
            drawn += "" if self.view.tlbs[cpu] else svg_text(SIDE + 10, y + 42, "no entry", "h")
            for row, entry in enumerate(self.view.tlbs[cpu]):
                drawn += self._tlb_entry(y + 24 + ROW * row, cpu, entry)
            self.add(f"<g>{drawn}</g>", f"4u{cpu}")
            y += high + 8
        return y - 8

    def _tlb_entry(self, y: float, cpu: int, seen: TlbView) -> str:
        page, entry, stale = seen
        x = SIDE + 76
        told = svg_text(SIDE + 10, y + 16, f"page {page} →", "f")
        told += svg_rect(x, y, 44, 24, self._role(entry.pfn))
        told += svg_text(x + 22, y + 15, self.picture.names[entry.pfn][:4], "a")
        told += svg_path(f"M{x + 3:g} {y + 20:g}h38", "pen") if entry.writable else ""
        if stale:
            told += svg_rect(x - 3, y - 3, 50, 30, "differs", 5) + svg_text(x + 56, y + 16, "stale", "fb")
        self._leads(cpu, y + 12, entry.pfn, stale)
        return told

    def _leads(self, cpu: int, y: float, pfn: int, stale: bool) -> None:
        """From an entry of a TLB to the frame that the CPU uses, whatever the page table says by now."""
        head = next(head for head, folio in self.at.folios.items() if head <= pfn < head + folio.pages)
        x, turn = self.at.x(self.at.home[head] + pfn - head) + 12 + 12 * cpu, MEMORY - 40
        bottom = self.lanes[head] + TITLE + FRAME
        gap, begin = bottom + 8 + 4 * cpu, SIDE + CPU_WIDTH
        way = f"M{begin:g} {y:g}C{begin + 24:g} {y:g} {turn - 24:g} {gap:g} {turn:g} {gap:g}H{x:g}V{bottom + 6:g}"
        line = svg_path(way, "differs" if stale else "hollow")
        self.add(f"<g>{line}{svg_path(f'M{x - 4:g} {bottom + 8:g}h8l-4 -7z', 'mark')}</g>", f"6t{cpu}.{pfn:04d}")

    # --- page tables and memory ---------------------------------------------------------------------------------

    def _memory(self, y: float) -> float:
        above = [process for process in self.at.processes if is_above(process)]
        below = [process for process in self.at.processes if not is_above(process)]
        rows: dict[int, float] = {}
        for process in reversed(above):
            rows[process] = y + NUMBERS
            y += NUMBERS + CELL + 4
        y += GAP - 4
        self.lanes = {head: y + LANE * self.at.lane(head) for head in self.at.folios}
        y += LANE * len(self.lanes)
        for process in below:
            rows[process] = y
            y += CELL + NUMBERS + 4
        for process in self.at.processes:
            self._process(process, rows[process])
        known = [frame for frame in self.view.frames if frame.pfn in self.picture.names]
        for head in self.at.folios:
            frames = [frame for frame in known if frame.head == head and frame.folio >= 0]
            if frames:
                self._folio(head, frames)
        return y

    def _process(self, process: int, y: float) -> None:
        table, was = dict(self.view.tables).get(process), {}
        if self.picture.before:
            was = dict(self.picture.before.view.tables)
        self.add(svg_text(MEMORY - 28, y + 16, f"P{process}", "fb"), f"7p{process}")
        if table is None:
            return self.add(svg_text(MEMORY, y + 16, "not there yet", "h"), f"7w{process}")
        number = y - 6 if is_above(process) else y + CELL + 15
        for page in self.at.pages:
            entry = table[page] if page < len(table) else None
            old = was.get(process, ())
            changed = self.picture.before is not None and (page < len(old) and old[page]) != entry
            self._entry(process, page, y, entry, changed)
            middle = self.at.x(page) + self.at.pitch / 2 - 2
            self.add(svg_text(middle, number, f"page {page}", "e"), f"7n{process}.{page:04d}")
        return None

    def _entry(self, process: int, page: int, y: float, entry: Translation | None, changed: bool) -> None:
        x, wide, key = self.at.x(page), self.at.pitch - 4, f"{process}.{page:04d}"
        words = f"page {page}: {self.picture.entry_words(entry)}"
        frame = f' data-frame="{self.picture.names[entry.pfn]}"' if entry else ""
        told = f'<g data-process="{process}" data-page="{page}"{frame}><title>{xml(words)}</title>'
        told += svg_rect(x, y, wide, CELL, self._role(entry.pfn) if entry else "none")
        if entry:
            told += svg_text(x + wide / 2, y + 13.5, "writable" if entry.writable else "read-only", "e")
            self._ribbon(process, page, y, entry.pfn)
        self.add(told + "</g>", f"4c{key}")
        if entry and entry.writable:
            self.add(svg_path(f"M{x + 3:g} {y + CELL - 3:g}h{wide - 6:g}", "pen"), f"5w{key}")
        if changed:
            self.add(svg_rect(x, y, wide, CELL, "new"), f"6n{key}")

    def _ribbon(self, process: int, page: int, y: float, pfn: int) -> None:
        head = next(head for head, folio in self.at.folios.items() if head <= pfn < head + folio.pages)
        x, to, wide = self.at.x(page), self.at.x(self.at.home[head] + pfn - head), self.at.pitch - 4
        above = is_above(process)
        y0 = y + CELL if above else y
        y1 = self.lanes[head] + (0 if above else TITLE + FRAME)
        path = f"M{x:g} {y0:g}L{to:g} {y1:g}h{wide:g}L{x + wide:g} {y0:g}"
        drawn = svg_path(path, self._role(pfn).replace("is_", "to_"))
        told = f'<path data-ribbon="{0 if above else 1}" data-of="{process} {self.picture.names[pfn]}" '
        self.add(drawn.replace("<path ", told, 1), f"1r{process}.{page:04d}.{pfn:04d}")

    def _folio(self, head: int, frames: Sequence[FrameView]) -> None:
        y, one = self.lanes[head], frames[0]
        x, wide = self.at.x(self.at.home[head]), self.at.pitch * len(frames) - 4
        fresh = self._role(head) == "is_new"
        facts = self.picture.frame_facts(one)
        told = facts[0].removeprefix("folio has ") + (f" · {facts[1]}" if one.pages == 1 and one.pfn else "")
        box = svg_rect(x - 2, y, wide + 4, TITLE + FRAME + 2, "fresh" if fresh else "box")
        self.add(box, f"2b{head:04d}")
        name = self.picture.names[head].rstrip("0123456789") if one.pages > 1 else self.picture.names[head]
        words = svg_text(x + 2, y + 13, name, "fb") + svg_text(x + 10 + measure(name, 12, True), y + 13, told, "f")
        self.add(f"<g>{words}</g>", f"3t{head:04d}")
        before = {frame.pfn: frame for frame in self.picture.before.view.frames} if self.picture.before else {}
        for at, frame in enumerate(frames):
            changed = self.picture.before is not None and before.get(frame.pfn) != frame
            self._frame(x + self.at.pitch * at, y + TITLE, frame, changed)

    def _frame(self, x: float, y: float, frame: FrameView, changed: bool) -> None:
        name, wide = self.picture.names[frame.pfn], self.at.pitch - 4
        told = f'<g data-frame="{name}"><title>{xml(", ".join([name, *self.picture.frame_facts(frame)]))}</title>'
        told += svg_rect(x, y, wide, FRAME, self._role(frame.pfn))
        told += fitting(x + wide / 2 - 4 * frame.exclusive, y + 17, frame.told, wide - 18)
        told += exclusive_mark(x + wide - 8, y + 13) if frame.exclusive and frame.folio >= 0 else ""
        self.add(told + "</g>", f"3f{frame.pfn:04d}")
        if changed:
            self.add(svg_rect(x, y, wide, FRAME, "new"), f"3n{frame.pfn:04d}")

    def _role(self, pfn: int) -> str:
        """The class that paints a page: as in the picture of a state."""
        if pfn == 0:
            return "zero"
        frame = next((frame for frame in self.view.frames if frame.pfn == pfn), None)
        if frame is None or frame.folio < 0:
            return "none"
        before = self.picture.before
        if before and all(other.pfn != pfn or other.folio < 0 for other in before.view.frames):
            return "is_new"
        return "is_held" if not frame.mapcount else "is_alone" if frame.exclusive else "is_shared"

    def _legend(self, y: float) -> float:
        samples = (
            (svg_rect(0, 2, 26, 18, "is_alone") + exclusive_mark(13, 11), "exclusive"),
            (svg_rect(0, 2, 26, 18, "is_shared"), "maybe shared"),
            (svg_rect(0, 2, 26, 18, "is_new"), "new"),
            (svg_rect(0, 2, 26, 18, "is_held"), "mapped by nobody"),
            (svg_rect(0, 2, 26, 18, "new"), "changed now"),
            (svg_path("M0 11h18", "hollow") + svg_path("M18 7v8l7 -4z", "mark"), "where a TLB leads"),
            (svg_path("M0 11h26", "differs"), "where a stale entry leads"),
            (svg_text(13, 15, "7 8", "a"), "bytes stored, in order"),
        )
        told, x = "", float(SIDE)
        for sample, words in samples:
            wide = 33 + measure(words, 12)
            if x + wide > self.width - SIDE:
                x, y = float(SIDE), y + 24
            told += f'<g transform="translate({x:g} {y:g})">{sample}{svg_text(32, 15, words, "h")}</g>'
            x += wide + 6
        self.add(f"<g>{told}</g>", "8l")
        return y + 32


@show.register
def _show_run(run: Run, at: int | None = None) -> MicroPicture:
    found = run.first() if at is None else at
    return MicroPicture(run, -1 if found is None else found)
