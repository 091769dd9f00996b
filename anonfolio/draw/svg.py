"""A scene as SVG: processes above and below, memory between them, ribbons from pages to folios, and what decided.

Each piece has a key: the same page of the same process, the same page of the same folio, at all moments. A stepper
moves what has the same key; what is written here is what it ends at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from ..witness.comparing import GUARD, NONE, ZERO
from .drawing import (
    Sheet,
    document,
    exclusive_mark,
    measure,
    measure_mono,
    open_svg,
    pin_mark,
    ref_mark,
    svg_path,
    svg_rect,
    svg_text,
    xml,
)
from .place import is_above
from .plan import LABEL, PITCH, Band, Plan, heading_lines, plan, sentence_lines, why_lines
from .scene import Copied, Folio, Scene
from .table import Table, letter, page_name
from .text import to_text

WIDE = PITCH - 2
"""How wide the cell of a page is."""
CELL, TITLE, FRAME = 22.0, 16.0, 26.0
"""How high a page-table entry is, the line that names a folio, and a page of it."""
NUMBERS, WORDS, RIBBON, LANES = 19.0, 15.0, 20.0, 18.0
"""How high a line of page numbers and of what mappings are called is; the room for ribbons, and between lanes."""
LANE = TITLE + FRAME + LANES
SHORT_WORDS = {"read-only": "ro", "wipe-on-fork": "wipe", "dont-fork": "dont", "no-huge": "4K", "no access": "none"}
"""What a mapping is called that is too narrow for the words."""
SCALE = 1.32
"""So much larger a picture may be shown than it is drawn: 12 px are 16 then."""


def to_svg(scene: Scene, height: float = 0) -> str:
    """The scene as one SVG document, at least that high (in its own units)."""
    return document(SceneSheet(scene), height, scene.sentence, to_text(scene))


class SceneSheet(Sheet):
    """A scene laid out after a plan; without one it takes what room it needs itself."""

    def __init__(self, scene: Scene, plan_: Plan | None = None) -> None:
        super().__init__()
        self.scene = scene
        self.plan = plan_ or plan([scene])
        self.width = self.plan.width
        self.shown_px = round(self.width * SCALE)
        self.ribboned = scene.ribboned()
        self.roles = {folio.number: folio.roles() for folio in scene.folios}
        self.by_number = scene.by_number() | {folio.number: folio for folio in scene.gone}
        y = self._header()
        for band in self.plan.bands:
            y = _BandDrawing(self, band, y).end + 8
        self.height = self._why(y)

    def _header(self) -> float:
        room = self.plan.room
        heading, sentence = heading_lines(self.scene, room), sentence_lines(self.scene, room)
        for at, line in enumerate(heading):
            self.add(svg_text(8, 18 + 15 * at, line, "h"), f"0h{at}")
        y = 4 + 15 * self.plan.heading
        for at, line in enumerate(sentence):
            self.add(svg_text(8, y + 17 + 17 * at, line, "s"), f"0s{at}")
        return y + 17 * self.plan.sentence + 10

    def _why(self, y: float) -> float:
        if not self.plan.why:
            return y
        height = 10 + 17 * self.plan.why
        lines = why_lines(self.scene, self.plan.room)
        if lines:
            told = svg_rect(8, y, self.width - 16, 10 + 17 * len(lines), "say", 4)
            for at, line in enumerate(lines):
                told += svg_text(16, y + 18 + 17 * at, line.words, "q" if line.strong else "f")
            self.add(f'<g data-why="">{told}</g>', "9why")
        return y + height + 8


class _BandDrawing:
    """Draws the pages of a band; `end` is where it ends."""

    def __init__(self, sheet: SceneSheet, band: Band, y: float) -> None:
        self.sheet, self.scene, self.band = sheet, sheet.scene, band
        self.columns = sheet.plan.columns
        self.rows: dict[int, float] = {}
        above, below = band.above(), band.below()
        for process in above:
            y += NUMBERS + (WORDS if process in sheet.plan.labelled else 0)
            self.rows[process] = y
            y += CELL + 5
        y += RIBBON - 5 if above and band.lanes else 0
        self.lanes = {lane: y + LANE * at for at, lane in enumerate(band.lanes)}
        y += LANE * len(band.lanes) - LANES if band.lanes else 0
        y += RIBBON if below and band.lanes else 0
        for process in below:
            self.rows[process] = y
            y += CELL + NUMBERS + (WORDS if process in sheet.plan.labelled else 0) + 5
        self.end = y
        tables = {table.process: table for table in self.scene.tables}
        for process in band.processes:
            if process in tables:
                self._process(tables[process])
            else:
                self._label(process, "not there yet")
        self._memory()
        self._copies(self.scene.copied)

    def key(self, layer: str, *numbers: int) -> str:
        """Sorted by layer, then by what it is."""
        return layer + ".".join(f"{number + 1:06d}" for number in (self.band.lo, *numbers))

    def x(self, vpn: float) -> float:
        return self.band.x(vpn, self.columns)

    # --- processes ----------------------------------------------------------------------------------------------

    def _label(self, process: int, words: str = "", told: str = "") -> None:
        y = self.rows[process] + 16
        acts = process == self.scene.acting and not words
        name = f"<g><title>{xml(told or words or f'process {process}')}</title>"
        # The number of a process that runs may be long: what stands above the picture says it.
        short = f"P{process}" if measure(f"P{process}", 12, True) < LABEL else "P…"
        name += svg_text(4, y, short, "fb" if acts else "fm") + "</g>"
        self.sheet.add(name, self.key("7p", process))
        if words:
            self.sheet.add(svg_text(LABEL, y, words, "h"), self.key("7w", process))

    def _process(self, table: Table) -> None:
        process, band = table.process, self.band
        if not table.alive:
            return self._label(process, "exited")
        at = table.entries
        here = np.flatnonzero((at.vpn >= band.lo) & (at.vpn < band.hi))
        rss = "" if self.scene.tables_only else f": RSS {table.rss_pages} page{'s' * (table.rss_pages != 1)}"
        told = f"process {process}{rss}"
        self._label(process, "" if len(here) else "no mapping here", "; ".join([told, *table.holdings]))
        if not len(here):
            return None
        if process in self.sheet.plan.labelled:
            self._mappings(table)
        if band.folded:
            self._bar(table, here)
        else:
            for index in here.tolist():
                self._cell(table, index)
        self._numbers(table, here)
        self._outlines(table, here)
        if process in self.sheet.ribboned:
            self._ribbons(table, here)
        return None

    def _cell(self, table: Table, index: int) -> None:
        at, process, y = table.entries, table.process, self.rows[table.process]
        vpn, folio, offset = int(at.vpn[index]), int(at.folio[index]), int(at.offset[index])
        x = self.x(vpn)
        frame = page_name(folio, offset, bool(at.large[index])) if folio >= 0 else ""
        writable = bool(at.writable[index]) and folio >= 0
        words = f"page {vpn}: {self._entry_words(folio, frame, writable, bool(at.huge[index]))}"
        here = f' data-frame="{frame}"' if frame else ""
        told = f'<g data-process="{process}" data-page="{vpn}"{here}><title>{xml(words)}</title>'
        told += svg_rect(x, y, WIDE, CELL, self._entry_role(folio, offset))
        name = self._entry_name(process, folio)
        told += fitting(x + WIDE / 2, y + 15, name, WIDE) if name else ""
        self.sheet.add(told + "</g>", self.key("4c", process, vpn))
        if writable:
            self.sheet.add(svg_path(f"M{x + 3:g} {y + CELL - 4:g}h{WIDE - 6:g}", "pen"), self.key("5w", process, vpn))

    def _entry_words(self, folio: int, frame: str, writable: bool, huge: bool) -> str:
        if folio < 0:
            return {NONE: "nothing mapped", ZERO: "the zero page, read-only", GUARD: "a guard page"}[folio]
        if self.scene.tables_only:
            return frame
        return f"{frame}, {'writable' if writable else 'read-only'}" + (", by one PMD entry" if huge else "")

    def _entry_role(self, folio: int, offset: int) -> str:
        return "zero" if folio == ZERO else "none" if folio < 0 else f"is_{self.sheet.roles[folio][offset]}"

    def _entry_name(self, process: int, folio: int) -> str:
        """A letter where no ribbon leads to the folio."""
        if folio < 0:
            return {ZERO: "z", GUARD: "!"}.get(folio, "")
        ribbon = process in self.sheet.ribboned and self._stands_here(self.sheet.by_number[folio])
        return "" if ribbon else letter(folio)

    def _bar(self, table: Table, here: np.ndarray) -> None:
        at, process, y = table.entries, table.process, self.rows[table.process]
        first, last = int(here[0]), int(here[-1])
        lo, hi = int(at.vpn[first]), int(at.vpn[last])
        folio, huge = int(at.folio[first]), bool(at.huge[first])
        x, width = self.x(lo), self.x(hi + 1) - self.x(lo) - 2
        what = {NONE: "nothing mapped", ZERO: "zero page", GUARD: "guard pages"}.get(folio, "")
        if folio >= 0:
            large = bool(at.large[first])
            what = "–".join(page_name(int(at.folio[end]), int(at.offset[end]), large) for end in (first, last))
        writable = bool(at.writable[first]) and folio >= 0
        words = self._entry_words(folio, what, writable, huge)
        told = f'<g data-process="{process}" data-page="{lo}" data-last="{hi}" data-frame="{what}">'
        told += f"<title>pages {lo}–{hi}: {xml(words)}</title>"
        told += svg_rect(x, y, width, CELL, self._entry_role(folio, int(at.offset[first])))
        told += svg_text(x + width / 2, y + 14, f"{what}, {hi - lo + 1} pages" + (", one PMD" if huge else ""), "a")
        self.sheet.add(told + "</g>", self.key("4c", process, lo))
        if writable:
            self.sheet.add(svg_path(f"M{x + 3:g} {y + CELL - 3:g}h{width - 6:g}", "pen"), self.key("5w", process, lo))

    def _outlines(self, table: Table, here: np.ndarray) -> None:
        """Around each run of entries that the step changed, and of those that another run has otherwise."""
        process, y, at = table.process, self.rows[table.process], table.entries
        changed = {
            int(at.vpn[index]): self._entry_role(int(at.folio[index]), int(at.offset[index]))
            for index in here[table.changed[here]]
        }
        for lo, hi in _runs(changed):
            x, width = self.x(lo), self.x(hi) - self.x(lo) - 2
            self.sheet.add(svg_rect(x, y, width, CELL, "new"), self.key("6n", process, lo))
        for lo, hi in _runs({vpn: "" for vpn in at.vpn[here].tolist() if (process, vpn) in self.scene.differing}):
            x, width = self.x(lo) - 2, self.x(hi) - self.x(lo) + 2
            self.sheet.add(svg_rect(x, y - 2.5, width, CELL + 5, "differs", 4), self.key("6d", process, lo))

    def _numbers(self, table: Table, here: np.ndarray) -> None:
        """Every fourth page's number, and those that faulted."""
        band, process, y = self.band, table.process, self.rows[table.process]
        above = is_above(process)
        base = y - 7 if above else y + CELL + 15
        vpns = table.entries.vpn[here].tolist()
        faulted = [int(table.entries.vpn[index]) for index in here[table.faulted[here]]]
        for vpn in faulted[-1:] if band.folded else faulted:
            x = self.x(vpn + 0.5) - 1
            edge = f"M{x - 5:g} {y - 5:g}h10l-5 7z" if above else f"M{x - 5:g} {y + CELL + 5:g}h10l-5 -7z"
            mark = svg_path(edge, "arrow") + svg_text(x, base, f"{vpn}", "a")
            self.sheet.add(f'<g data-fault="{vpn}">{mark}</g>', self.key("8f", process, vpn))
        shown = [vpns[0], vpns[-1]] if band.folded else [vpn for vpn in vpns if vpn % 4 == 0 or vpn == vpns[-1]]
        shown = [vpn for vpn in shown if all(abs(self.x(vpn) - self.x(other)) > 1.6 * PITCH for other in faulted)]
        first = min((*shown, *faulted), key=self.x, default=0)
        # Pressed to what it takes in a narrow font: in a wide one it would run into the 0 beside it.
        begin, room = 2, 26
        fits = self.x(first + 0.5) - 1 - measure_mono(f"{first}") / 2 >= begin + room + 4
        if above and process == band.processes[0] and band == self.sheet.plan.bands[0] and fits and not band.folded:
            self.sheet.add(_pressed(svg_text(begin, base, "page", "h"), room), self.key("7q", process))
        for vpn in shown:
            if vpn == vpns[-1] and any(0 < vpn - other < (2 if vpn > 99 else 1) for other in shown):
                continue
            x = self.x(vpn) + (14 if band.folded and vpn == vpns[0] else self.x(1) - self.x(0) - 14 if band.folded
                               else WIDE / 2)  # fmt: skip
            self.sheet.add(svg_text(x, base, f"{vpn}", "i"), self.key("7n", process, vpn))

    def _mappings(self, table: Table) -> None:
        """A line along each mapping, and what it is called."""
        above, y = is_above(table.process), self.rows[table.process]
        for start, end, words in table.mappings:
            lo, hi = max(start, self.band.lo), min(end, self.band.hi)
            if lo >= hi:
                continue
            x0, x1, line, tick = self.x(lo), self.x(hi) - 2, *((y - 2, 4) if above else (y + CELL + 2, -4))
            left = f"M{x0:g} {line + tick:g}V{line:g}" if lo == start else f"M{x0:g} {line:g}"
            drawn = svg_path(f"{left}H{x1:g}" + (f"v{tick:g}" if hi == end else ""), "vma")
            if words:
                short = words if measure(words, 12) <= x1 - x0 + 14 else _shortened(words)
                base = y - NUMBERS - 4 if above else y + CELL + NUMBERS + 11
                drawn += f"<title>{xml(words)}</title>" + svg_text(x0, base, short, "h")
            self.sheet.add(f"<g>{drawn}</g>", self.key("7v", table.process, start))

    # --- ribbons ------------------------------------------------------------------------------------------------

    def _ribbons(self, table: Table, here: np.ndarray) -> None:
        """One for each run of pages that go on alike in one folio, down to its box."""
        at = table.entries
        role = [self._entry_role(int(at.folio[index]), int(at.offset[index])) for index in here]
        index = here.tolist()

        def run(item: tuple[int, int]) -> tuple[int, int, int, str]:
            step, one = item
            large = bool(at.large[one])
            # Small folios side by side in one lane look like one run, and each has its ribbon.
            start = int(at.vpn[one]) - (int(at.offset[one]) if large or not self.band.folded else 0)
            folio = int(at.folio[one])
            if self.band.folded and not large and folio >= 0:
                return -9, self.sheet.by_number[folio].place.lane, 0, role[step]
            return folio, start, 0, role[step]

        for (folio, *_), items in groupby(enumerate(index), run):
            found = [one for _, one in items]
            first, last = found[0], found[-1]
            number = int(at.folio[first])
            if number < 0 or not self._stands_here(self.sheet.by_number[number]):
                continue
            one = self.sheet.by_number[number]
            lo, hi = int(at.vpn[first]), int(at.vpn[last]) + 1
            start = one.place.home + int(at.offset[first]) if folio != -9 else lo
            self._ribbon(table.process, lo, hi, start, one, role[index.index(first)])

    def _ribbon(self, process: int, lo: int, hi: int, start: int, folio: Folio, role: str) -> None:
        x0, x1 = self.x(lo), self.x(hi) - 2
        to0, to1 = self.x(start), self.x(start + hi - lo) - 2
        lane = self.lanes[folio.place.lane]
        above = is_above(process)
        y0 = self.rows[process] + (CELL if above else 0)
        y1 = lane if above else lane + TITLE + FRAME
        if x0 == to0:
            path = f"M{x0:g} {y0:g}V{y1:g}H{x1:g}V{y0:g}"
        else:
            middle = (y0 + y1) / 2
            path = f"M{x0:g} {y0:g}C{x0:g} {middle:g} {to0:g} {middle:g} {to0:g} {y1:g}H{to1:g}"
            path += f"C{to1:g} {middle:g} {x1:g} {middle:g} {x1:g} {y0:g}"
        end = "0" if above else "1"
        told = f'<path data-ribbon="{end}" data-of="{process} {folio.name}" '
        drawn = svg_path(path, role.replace("is_", "to_")).replace("<path ", told, 1)
        self.sheet.add(drawn, self.key("1r", process, lo, folio.number))

    # --- memory -------------------------------------------------------------------------------------------------

    def _stands_here(self, folio: Folio) -> bool:
        home, lo, hi = folio.place.home, self.band.lo, self.band.hi
        return home < hi and lo < home + folio.pages

    def _memory(self) -> None:
        folios = [folio for folio in self.scene.folios if self._stands_here(folio)]
        gone = [folio for folio in self.scene.gone if self._stands_here(folio)]
        taken = sorted((folio.place.lane, folio.place.home) for folio in (*folios, *gone))
        if self.band.folded:
            for lane in self.band.lanes:
                self._folded([folio for folio in folios if folio.place.lane == lane], lane)
        else:
            for folio in folios:
                self._folio(folio, taken)
        for folio in gone:
            self._gone(folio)
        if self.lanes and self.band == self.sheet.plan.bands[0]:
            y = sum(self.lanes.values()) / len(self.lanes) + (TITLE + FRAME) / 2
            self.sheet.add(_upright(11, y, "memory"), self.key("7m"))
        if not self.band.folded:
            # A byte in a cell is a number as a page's is: each row says which.
            for lane in {folio.place.lane for folio in folios if folio.content is not None and folio.content.any()}:
                self.sheet.add(_upright(24, self.lanes[lane] + TITLE + FRAME / 2, "byte"), self.key("7y", lane))

    def _part(self, folio: Folio) -> range:
        """Which of its pages stand in this band."""
        home = folio.place.home
        return range(max(0, self.band.lo - home), min(folio.pages, self.band.hi - home))

    def _box(self, folio: Folio) -> tuple[float, float, float]:
        """Its left edge, top and width."""
        part = self._part(folio)
        x0, x1 = self.x(folio.place.home + part[0]), self.x(folio.place.home + part[-1] + 1) - 2
        return x0, self.lanes[folio.place.lane], x1 - x0

    def _folio(self, folio: Folio, taken: Sequence[tuple[int, int]]) -> None:
        x, y, width = self._box(folio)
        part = self._part(folio)
        box = svg_rect(x - 0.75, y, width + 1.5, TITLE + FRAME, "fresh" if folio.fresh else "box")
        self.sheet.add(box, self.key("2b", folio.number))
        later = [home for lane, home in taken if lane == folio.place.lane and home > folio.place.home]
        room = self.x(min([*later, self.band.hi])) - x - 4
        name = folio.name if not part[0] else folio.page(part[0])
        told = f"<title>{xml(folio.told())}</title>"
        told += svg_text(x + 4, y + 13, name, "fb")
        facts = _facts(folio, room - measure(name, 12, True) - 12) if not part[0] else ""
        told += svg_text(x + 10 + measure(name, 12, True), y + 13, facts, "over") if facts else ""
        self.sheet.add(f'<g data-folio="{folio.name}">{told}</g>', self.key("3t", folio.number))
        for at in part:
            self._frame(folio, at, y + TITLE)
        roles = self.sheet.roles[folio.number]
        for lo, hi in _runs({at: roles[at] for at in part if self._is_changed(folio, at)}):
            begin, end = self.x(folio.place.home + lo), self.x(folio.place.home + hi)
            outline = svg_rect(begin, y + TITLE, end - begin - 2, FRAME, "new")
            self.sheet.add(outline, self.key("3n", folio.number, lo))

    def _is_changed(self, folio: Folio, at: int) -> bool:
        """Whether a page is outlined: a new folio is as a whole, and a recording does not see memory."""
        return not folio.fresh and not self.scene.tables_only and bool(folio.changed[at])

    def _frame(self, folio: Folio, at: int, y: float) -> None:
        x = self.x(folio.place.home + at)
        name = folio.page(at)
        told = f'<g data-frame="{name}"><title>{xml(_frame_words(folio, at))}</title>'
        told += svg_rect(x, y, WIDE, FRAME, f"is_{self.sheet.roles[folio.number][at]}")
        if folio.content is not None and folio.content[at]:
            told += fitting(x + WIDE / 2, y + 12, f"{folio.content[at]}", WIDE - 1)
        there = ((exclusive_mark, folio.exclusive), (pin_mark, folio.pins), (ref_mark, folio.refs))
        marks = [mark for mark, held in there if held[at]]
        left = x + WIDE / 2 - 3 * (len(marks) - 1)
        told += "".join(mark(left + 6 * slot, y + 19.5) for slot, mark in enumerate(marks))
        self.sheet.add(told + "</g>", self.key("3f", folio.number, at))

    def _folded(self, folios: Sequence[Folio], lane: int) -> None:
        """Each folio as one bar, or all small ones as one."""
        if not folios:
            return
        small = not folios[0].order
        for group in [folios] if small else [[folio] for folio in folios]:
            folio, last = group[0], group[-1]
            (x, y, width), part = self._box(folio), self._part(folio)
            width = self._box(last)[0] + self._box(last)[2] - x
            words = f"{len(group)} folios of one page" if small else f"{folio.page(part[0])}–{folio.page(part[-1])}"
            box = svg_rect(x - 0.75, y, width + 1.5, TITLE + FRAME, "fresh" if folio.fresh else "box")
            box += svg_rect(x, y + TITLE, width, FRAME, f"is_{self.sheet.roles[folio.number][part[0]]}")
            box += svg_rect(x, y + TITLE, width, FRAME, "new") if self._is_changed(folio, part[0]) else ""
            box += svg_text(x + width / 2, y + TITLE + 17, f"{words}{_bytes_of(group, part)}", "a")
            box += exclusive_mark(x + 10, y + TITLE + 13) if folio.exclusive[part[0]] else ""
            box += pin_mark(x + 20, y + TITLE + 13) if folio.pins[part[0]] else ""
            name = f"{folio.name}–{last.name}" if small and len(group) > 1 else folio.name
            if small or not part[0]:
                box += svg_text(x + 4, y + 13, name, "fb")
                facts = _facts(folio, width - measure(name, 12, True) - 16)
                box += svg_text(x + 10 + measure(name, 12, True), y + 13, facts, "over") if facts else ""
            box += f"<title>{xml(folio.told())}</title>" if not small else ""
            self.sheet.add(f'<g data-frame="{words}">{box}</g>', self.key("2b", folio.number))

    def _gone(self, folio: Folio) -> None:
        """A folio that the step freed, one moment longer."""
        x, y, width = self._box(folio)
        drawn = f"<title>folio {folio.name}, freed by this step</title>"
        drawn += svg_rect(x - 0.75, y, width + 1.5, TITLE + FRAME, "is_held")
        drawn += svg_text(x + 4, y + 13, folio.name, "fm")
        drawn += svg_text(x + 10 + measure(folio.name, 12, True), y + 13, "freed", "h") if width > 60 else ""
        self.sheet.add(f"<g>{drawn}</g>", self.key("2g", folio.number))

    # --- content ------------------------------------------------------------------------------------------------

    def _copies(self, copied: Sequence[Copied]) -> None:
        """An arrow from each page to where its content went, where both stand in this band."""
        for number, copy in enumerate(copied):
            source, target = (self.sheet.by_number.get(folio) for folio in (copy.folio, copy.to_folio))
            if source is None or target is None or self.band.folded:
                continue
            here, there = source.place.home + copy.offset, target.place.home + copy.to_offset
            if not all(self.band.lo <= vpn < self.band.hi for vpn in (here, there)):
                continue
            x0, x1 = self.x(here) + WIDE / 2, self.x(there) + WIDE / 2
            y0, y1 = self.lanes[source.place.lane], self.lanes[target.place.lane]
            if y0 == y1:
                continue
            up, way = y1 < y0, f"{x0 - x1:g} {y0 - y1:g}"
            y0, y1 = (y0, y1 + TITLE + FRAME + 1) if up else (y0 + TITLE + FRAME, y1 - 1)
            head = f"M{x1 - 4:g} {y1 + (7 if up else -7):g}h8l-4 {-7 if up else 7}z"
            drawn = svg_path(f"M{x0:g} {y0:g}L{x1:g} {y1 + (6 if up else -6):g}", "copy") + svg_path(head, "mark")
            to = target.page(copy.to_offset)
            self.sheet.add(f'<g data-copy="{way}" data-to="{to}">{drawn}</g>', self.key("2z", number))


def _runs(roles: Mapping[int, str]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as ranges [lo, hi): each of one role, so that what is not mapped stands apart."""
    for _, items in groupby(enumerate(roles.items()), lambda item: (item[1][0] - item[0], item[1][1])):
        found = [number for _, (number, _) in items]
        yield found[0], found[-1] + 1


def fitting(x: float, y: float, words: str, room: float) -> str:
    """Text in the middle of a cell, pressed together where it is too long."""
    told = svg_text(x, y, words, "a")
    return told if 7.4 * len(words) <= room else _pressed(told, room - 1)


def _pressed(text: str, width: float) -> str:
    """A line of text made exactly that wide."""
    return text.replace("<text ", f'<text textLength="{width:g}" lengthAdjust="spacingAndGlyphs" ', 1)


def _upright(x: float, y: float, words: str) -> str:
    return f'<g transform="translate({x:g} {y:g}) rotate(-90)">{svg_text(0, 0, words, "e")}</g>'


def _shortened(words: str) -> str:
    return " ".join(SHORT_WORDS.get(word, "") for word in words.split())


def _facts(folio: Folio, room: float) -> str:
    """What is known of the folio as a whole, as far as there is room; of one page only what is not to be seen."""
    facts = [*(["new"] if folio.fresh else []), *folio.facts()[1:]]
    if folio.pages < 3:
        facts = [fact for fact in facts if fact.startswith(("refs", "pins")) and _matters(folio)]
    told = ""
    for fact in facts:
        longer = f"{told} · {fact}" if told else fact
        if 0.94 * measure(longer, 12) > room:
            break
        told = longer
    return told


def _matters(folio: Folio) -> bool:
    counts = folio.counts
    return counts is not None and (counts.references.now != counts.mappings.now or counts.references.was !=
                                   counts.references.now)  # fmt: skip


def _frame_words(folio: Folio, at: int) -> str:
    name = folio.page(at)
    told = [name if folio.content is None else f"{name}: byte {folio.content[at]}"]
    was, now = folio.mapcount_before[at], folio.mapcount[at]
    told.append(f"mapped {now}×" if was == now else f"mapped {was}→{now}×")
    if not now:
        told.append("held but mapped by nobody")
    elif folio.counts:
        told.append("exclusive (PageAnonExclusive)" if folio.exclusive[at] else "not exclusive: maybe shared")
    told += [f"pinned {folio.pins[at]}×"] if folio.pins[at] else []
    told += [f"referenced {folio.refs[at]}×"] if folio.refs[at] else []
    return ", ".join(told)


def _bytes_of(folios: Sequence[Folio], part: range) -> str:
    if any(folio.content is None for folio in folios):
        return ""
    if len(folios) > 1:
        content = np.concatenate([folio.content for folio in folios if folio.content is not None])
    else:
        assert folios[0].content is not None
        content = folios[0].content[part.start : part.stop]
    other = np.count_nonzero(content)
    same = bool((content == content[0]).all())
    return f", byte {content[0]}" if same else f", {other} {'page' if other == 1 else 'pages'} not 0"


# --- legend ---------------------------------------------------------------------------------------------------------


def legend() -> str:
    """What ribbons, colours and marks mean, as one SVG document."""
    x, y, width = 16.0, 14.0, 560.0
    parts: list[str] = []

    def item(sample: str, words: str) -> None:
        nonlocal y
        parts.append(f'<g transform="translate({x:g} {y:g})">{sample}</g>' + svg_text(x + 44, y + 15, words, "f"))
        y += 28

    def cell(role: str, more: str = "") -> str:
        return svg_rect(8, 0, WIDE, CELL, role) + more

    bar = svg_path(f"M{11:g} {CELL - 4:g}h{WIDE - 6:g}", "pen")
    item(cell("is_alone", exclusive_mark(8 + WIDE / 2, 11)), "of one process alone: exclusive (PageAnonExclusive)")
    item(cell("is_shared"), "maybe shared: not marked exclusive")
    item(cell("is_new"), "new: allocated by this step")
    item(cell("is_mapped"), "mapped: a recording sees page tables, and no more")
    item(cell("zero", svg_text(8 + WIDE / 2, 15, "z", "a")), "the zero page, of which nobody has a copy yet")
    item(cell("is_held"), "in memory: held, but mapped by nobody. In a process: nothing mapped")
    item(cell("is_alone", bar), "thick bar: the process may write; without it a write faults")
    item(svg_path("M2 0V22H34V0", "to_shared"), "ribbon: these pages are mapped to those of a folio below or above")
    arrow = svg_path("M17 0V15", "copy") + svg_path("M13 14h8l-4 7z", "mark")
    item(arrow, "dashed arrow: content that this step copied")
    item(svg_path("M12 6h10l-5 7z", "arrow"), "the page that faulted")
    item(cell("is_shared", svg_rect(8, 0, WIDE, CELL, "new")), "thick outline: changed by this step")
    item(
        cell("is_shared", svg_rect(5, -2.5, WIDE + 6, CELL + 5, "differs", 4)),
        "dashed outline: another kernel has it otherwise",
    )
    item(pin_mark(11, 10) + ref_mark(25, 11), "pinned for a device; a plain reference")
    item(
        svg_text(17, 15, "A", "fb") + svg_text(30, 15, "7", "a"),
        "letter: a folio. Number: the byte stored in the page (none: 0)",
    )
    said = "What the picture's ribbons, colours and marks mean"
    ground = svg_rect(0.5, 0.5, width - 1, y + 3, "bg", 6)
    return "".join([*open_svg(y + 4, said, said, width, width), ground, *parts, "</svg>"])
