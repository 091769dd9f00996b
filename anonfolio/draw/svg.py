"""A scene as SVG, top to bottom: sentence, processes, folios, checks beside or below, counters, legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..kernel.record import PATHS, Check, Fault
from ..witness.comparing import ZERO
from .drawing import (
    RIGHT,
    WIDTH,
    Sheet,
    document,
    exclusive_mark,
    folio_class,
    measure,
    measure_mono,
    open_group,
    pin_mark,
    ref_mark,
    sized,
    svg_path,
    svg_rect,
    svg_text,
    wrap,
    write_edge,
    xml,
)
from .scene import Counter, Folio, Scene, alike
from .table import Cell, Row, Span, Table, letter, rows, spans
from .text import to_text
from .words import TRAILS, more_faults

LEFT = 92
CELL, FRAME = 28, 43
COUNTER = 38
"""Height of a line of counters: name, number, bar."""
SMALL = 104
"""Width of a folio of one page: five fit in a row."""
DECIDES = "decides the path"
"""Said of the check that did; further ones decide how far a fault reaches."""
SHORT_WORDS = {"read-only": "ro", "wipe-on-fork": "wipe", "dont-fork": "dont", "no-huge": "4K", "no access": "none"}
"""What stands over a mapping that is too narrow for the words."""


def to_svg(scene: Scene, height: float = 0) -> str:
    """The scene as one SVG document, at least that high (in its own units; its width is 900)."""
    return "".join(document(SceneSheet(scene), height, scene.sentence, to_text(scene)))


class SceneSheet(Sheet):
    """A scene laid out. Where rows are wide, the checks stand below."""

    def __init__(self, scene: Scene, *, legend: bool = True) -> None:
        super().__init__()
        self.scene, self.legend = scene, legend
        self.columns, self.pitch = (32, 24.25) if scene.wide else (16, 33.5)
        self.main = RIGHT if scene.wide else LEFT + self.columns * self.pitch
        top = y = self._header()
        for table in scene.tables:
            y = self._process(table, y)
        y = self._memory(y)
        if scene.faults and scene.wide:
            y = self._trail(scene.faults, 16, y + 4, RIGHT - 16)
        elif scene.faults:
            y = max(y, self._trail(scene.faults, self.main + 14, top, RIGHT - self.main - 14))
        self.height = y + self._foot_height()

    def _header(self) -> float:
        self.text(16, 21, self.scene.heading, "m")
        lines = wrap(self.scene.sentence, RIGHT - 16, sized(14, True))
        self.lines(16, 41, lines, "t", 18)
        return 41 + 18 * max(2, len(lines)) - 8

    def _across(self, column: int) -> float:
        # A small gap after 16 shows the alignment in the wide form.
        return column * self.pitch + (6 if column >= 16 else 0)

    # --- page tables --------------------------------------------------------------------------------------------

    def _process(self, table: Table, y: float) -> float:
        self.text(16, y + 24, f"P{table.process}", "t")
        if not table.alive:
            self.text(LEFT, y + 24, "exited", "m")
            return y + 34
        below = y + 39
        self.text(16, below, f"RSS {table.rss_pages}", "m")
        held = [line for held in table.holdings for line in wrap(held, LEFT - 20)]
        self.lines(16, below + 13, held, "m", 13)
        below += 13 * len(held)
        found = list(rows(table, self.columns, self.scene.folds))
        for row in found:
            self._row(table, row, row is found[0], y + 13)
            y += CELL + 30
        if not found:
            self.text(LEFT, y + 24, "no mapping", "m")
        return max(y, below + 6) + 4

    def _row(self, table: Table, row: Row, is_first: bool, y: float) -> None:
        first, last = row.cells[0].vpn, row.cells[-1].vpn
        self.parts.append(open_group(0, y).replace("<g ", f'<g data-process="{table.process}" ', 1))
        self.parts += [self._bar(row)] if row.folded else map(self._cell, row.cells)
        for start, end, words in table.mappings:
            lo, hi = max(start, first), min(end - 1, last)
            if lo > hi:
                continue
            left, right = (0, self.columns - 1) if row.folded else (lo % self.columns, hi % self.columns)
            x0, x1 = LEFT + self._across(left), LEFT + self._across(right) + self.pitch - 2
            self.parts.append(_bracket(x0 - 2, x1 + 2, lo == start, hi == end - 1))
            if words and (lo == start or is_first):
                self.parts.append(_label(words, x0, x1 - x0))
        self.parts.append("</g>")

    def _cell(self, cell: Cell) -> str:
        x, width = LEFT + self._across(cell.vpn % self.columns), self.pitch - 2
        told = f'<g data-page="{cell.vpn}"><title>{xml(self._cell_words(cell))}</title>'
        told += svg_rect(x, 0, width, CELL, _fill(cell))
        if cell.name:
            told += svg_text(x + width / 2, 16, cell.name, self._name_class(cell.name))
            told += self._edge(x, width, cell)
        if cell.changed:
            told += svg_rect(x, 0, width, CELL, "new")
        if cell.faulting:
            told += _arrow(x + width / 2)
        return told + svg_text(x + width / 2, CELL + 12, f"{cell.vpn}", "vb" if cell.faulting else "v") + "</g>"

    def _edge(self, x: float, width: float, cell: Cell) -> str:
        return "" if self.scene.tables_only else write_edge(x, CELL, width, cell.writable)

    def _cell_words(self, cell: Cell) -> str:
        what = {"": "nothing mapped", "z": "the zero page, read-only", "!": "a guard page"}.get(cell.name, cell.name)
        if cell.folio >= 0 and not self.scene.tables_only:
            what += ", writable" if cell.writable else ", read-only"
        return f"page {cell.vpn}: {what}"

    def _name_class(self, name: str) -> str:
        room = (self.pitch - 4) / len(name)
        return "n" if room >= 7.6 else "ns" if room >= 6 else "nt"

    def _bar(self, row: Row) -> str:
        first, last = row.cells[0], row.cells[-1]
        width = self._across(self.columns - 1) + self.pitch - 2
        told = f'<g data-page="{first.vpn}" data-last="{last.vpn}">' + svg_rect(LEFT, 0, width, CELL, _fill(first))
        words = f"{first.name}–{last.name}" if first.folio >= 0 else first.name or "nothing mapped"
        words += f"  ×{row.pages}" + ("  one PMD entry" if row.huge else "")
        if row.huge:
            told += svg_rect(LEFT + 3, 3, width - 6, CELL - 11, "rule", 2)
        told += svg_text(LEFT + width / 2, 16, words, "n")
        if first.name:
            told += self._edge(LEFT, width, first)
        if first.changed:
            told += svg_rect(LEFT, 0, width, CELL, "new")
        if row.fault is not None:
            x = LEFT + (row.fault - first.vpn + 0.5) / row.pages * width
            told += _arrow(x) + svg_text(x + 9, -5, f"page {row.fault}", "b")
        told += svg_text(LEFT + 18, CELL + 12, f"{first.vpn}", "v")
        return told + svg_text(LEFT + width - 18, CELL + 12, f"{last.vpn}", "v") + "</g>"

    # --- memory -------------------------------------------------------------------------------------------------

    def _memory(self, y: float) -> float:
        y += 4
        self.parts.append(svg_path(f"M16 {y:g}H{self.main - 2:g}", "rule"))
        self.text(16, y + 18, "memory", "t")
        y += 8
        x, high = float(LEFT - 4), 0.0
        if not self.scene.folios:
            self.text(LEFT, y + 10, "no folio", "m")
            high = 24
        for folios in alike(self.scene.folios):
            width = self._folio_width(folios)
            if x > LEFT and x + width > self.main + 4:
                x, y, high = LEFT - 4, y + high + 6, 0
            self.parts.append(open_group(x, y))
            high = max(high, self._folio(folios, width))
            self.parts.append("</g>")
            x += width + 6
        y += high + 6
        if self.scene.freed:
            self.text(LEFT, y + 12, f"freed by this step: {', '.join(map(letter, self.scene.freed))}", "p")
            y += 20
        return y

    def _folio_width(self, folios: Sequence[Folio]) -> float:
        if len(folios) > 1:
            return 2 * SMALL + 6
        if not folios[0].order:
            return SMALL
        return self._across(min(folios[0].pages, self.columns) - 1) + self.pitch + 6

    def _folio(self, folios: Sequence[Folio], width: float) -> float:
        folio, alone = folios[0], len(folios) == 1
        if alone and not folio.order:
            # One frame, and beside it what a large folio has above.
            frames, below = self._frames(folio, 4)
            facts = [fact for fact in folio.facts() if "mapped " not in fact]
            lines = [line for fact in facts for line in wrap(fact, width - self.pitch - 10)]
            told = [*frames, *(svg_text(self.pitch + 8, 16 + 14 * at, line, "m") for at, line in enumerate(lines))]
        else:
            lines = _wrap_facts([folio.name, *folio.facts()] if alone else _facts_of_many(folios), width - 10)
            told = [svg_text(5, 15 + 14 * at, line, "p" if at else "b") for at, line in enumerate(lines)]
            below = 14.0 * len(lines) + 7
            if alone:
                frames, below = self._frames(folio, below)
                told += frames
        self.rect(0, 0, width, below + 2, "new" if folio.fresh else "box", 4)
        self.parts += told
        return below + 2

    def _frames(self, folio: Folio, y: float) -> tuple[list[str], float]:
        parts = (folio.mapcount, folio.exclusive, folio.pins, folio.refs, folio.changed)
        keys = np.stack(parts, axis=1).astype(np.int64)
        told: list[str] = []
        for span in spans(np.arange(folio.pages), keys, self.columns):
            # A group for each row, as in the page tables: when a row above it opens, only its place changes.
            told.append(open_group(4, y))
            told += [self._frame_bar(folio, span)] if span.folded else self._frame_row(folio, span)
            told.append("</g>")
            y += CELL + 17 if span.folded or self.scene.tables_only else FRAME + 17
        return told, y

    def _frame_row(self, folio: Folio, span: Span) -> Iterator[str]:
        return (self._frame(folio, at) for at in range(span.lo, span.hi))

    def _frame(self, folio: Folio, at: int) -> str:
        x, width = self._across(at % self.columns), self.pitch - 2
        bare = self.scene.tables_only
        high, middle = CELL if bare else FRAME, x + width / 2
        name = folio.page(at)
        told = f"<g><title>{xml(_frame_words(folio, at))}</title>"
        told += svg_rect(x, 0, width, high, _frame_fill(folio, at))
        told += svg_text(middle, 14, name, self._name_class(name))
        if not bare:
            told += "" if folio.content is None else svg_text(middle, 26, f"{folio.content[at]}", "v")
            there = ((exclusive_mark, folio.exclusive), (pin_mark, folio.pins), (ref_mark, folio.refs))
            marks = [mark for mark, held in there if held[at]]
            left = middle - 5 * (len(marks) - 1)
            told += "".join(mark(left + 10 * slot, 35) for slot, mark in enumerate(marks))
        told += self._outline(folio, at, x, width, high)
        return told + _mapped(folio, at, middle, high) + "</g>"

    def _frame_bar(self, folio: Folio, span: Span) -> str:
        width = self._across(self.columns - 1) + self.pitch - 2
        told = "<g>" + svg_rect(0, 0, width, CELL, _frame_fill(folio, span.lo))
        words = f"{folio.page(span.lo)}–{folio.page(span.hi - 1)}  ×{span.hi - span.lo}"
        if not self.scene.tables_only:
            words += _bytes_of(folio, span)
            words += "  pinned" if folio.pins[span.lo] else ""
        told += svg_text(width / 2, 16, words, "n")
        if folio.exclusive[span.lo]:
            told += exclusive_mark(14, 14)
        told += self._outline(folio, span.lo, 0, width, CELL)
        return told + _mapped(folio, span.lo, width / 2, CELL, " each") + "</g>"

    def _outline(self, folio: Folio, at: int, x: float, width: float, high: float) -> str:
        shown = folio.changed[at] and not self.scene.tables_only and not folio.fresh
        return svg_rect(x, 0, width, high, "new") if shown else ""

    # --- checks -------------------------------------------------------------------------------------------------

    def _trail(self, faults: Sequence[Fault], x: float, y: float, width: float) -> float:
        told: list[str] = []
        at = y + 19
        told.append(svg_text(x + 10, at, "why", "t"))
        for fault in faults[:TRAILS]:
            head = f"P{fault.process} {fault.access} page {fault.vpn} → {fault.path} [{fault.code}]"
            for line in wrap(head, width - 20, sized(11.5, True)):
                at += 16
                told.append(svg_text(x + 10, at, line, "b"))
            at += 4
            for check in fault.checks:
                piece, at = self._check(check, x, at, width)
                told.append(piece)
        if more := more_faults(faults):
            at += 18
            told.append(svg_text(x + 10, at, f"… and {more}", "m"))
        self.rect(x, y, width, at - y + 12, "soft", 5)
        self.parts += told
        return at + 14

    def _check(self, check: Check, x: float, y: float, width: float) -> tuple[str, float]:
        """A check as a piece, and where it ends; the answer's reason beside the question where there is room."""
        wide = self.scene.wide
        names = wrap(check.what, 330 if wide else width - 50, measure_mono)
        saw = wrap(check.saw, width - 410 if wide else width - 24) if check.saw else []
        if check.decides:
            saw = [" — ".join(filter(None, (" ".join(saw), DECIDES)))] if wide else [*saw, DECIDES]
        first, lines = (0, max(len(names), len(saw))) if wide else (len(names), len(names) + len(saw))
        told = svg_rect(x + 5, y + 3, width - 10, 14 * lines + 5, "say", 4) if check.decides else ""
        style = "kb" if check.decides else "k"
        told += "".join(svg_text(x + 11, y + 15 + 14 * at, line, style) for at, line in enumerate(names))
        told += svg_text(x + 345 if wide else x + width - 36, y + 15, "yes" if check.outcome else "no", style)
        for at, line in enumerate(saw):
            last = check.decides and at == len(saw) - 1
            told += svg_text(x + 385 if wide else x + 18, y + 15 + 14 * (first + at), line, "b" if last else "m")
        return f"<g>{told}</g>", y + 14 * lines + 6

    # --- counters and legend ------------------------------------------------------------------------------------

    def _foot_height(self) -> float:
        legend = 54 if self.legend else 4
        return 8 + legend + 2 * COUNTER if self.scene.counters else 4 + legend

    def foot(self, bottom: float) -> list[str]:
        """The counters, and the legend."""
        y = bottom - self._foot_height() + 4
        told = []
        if self.scene.counters:
            told.append(svg_rect(8, y, WIDTH - 16, 2 * COUNTER, "soft", 5))
            first = {counter.what: counter for counter in self.scene.counters}
            # A column is kept for each path that is taken later: none moves when another one begins.
            told += _counter_line([first[what] for what in ("faults", *PATHS) if what in first], y)
            told += _counter_line(self.scene.totals(), y + COUNTER)
            y += 4 + 2 * COUNTER
        return [*told, _legend(y, self.scene.tables_only)] if self.legend else told


def _fill(cell: Cell) -> str:
    return folio_class(cell.folio) if cell.folio >= 0 else "zero" if cell.folio == ZERO else "none"


def _frame_fill(folio: Folio, at: int) -> str:
    return folio_class(folio.number) if folio.mapcount[at] else "none"


def _label(words: str, x: float, room: float) -> str:
    short = words if measure(words) <= room else " ".join(SHORT_WORDS.get(word, "") for word in words.split())
    return f"<g><title>{xml(words)}</title>{svg_text(x, -5, short, 'm')}</g>"


def _bracket(x0: float, x1: float, opens: bool, closes: bool) -> str:
    """Above and below a mapping; closed on a side where it ends."""
    y0, y1 = -2.5, CELL + 2.5
    right = f"V{y1:g}" if closes else f"M{x1:g} {y1:g}"
    return svg_path(f"M{x0:g} {y0:g}H{x1:g}{right}H{x0:g}" + (f"V{y0:g}" if opens else ""), "vma")


def _arrow(x: float, top: float = 0) -> str:
    return svg_path(f"M{x - 5:g} {top - 11:g}h10l-5 8z", "arrow")


def _facts_of_many(folios: Sequence[Folio]) -> list[str]:
    folio = folios[0]
    told = [f"{folio.name}–{folios[-1].name}", f"{len(folios)} folios", *folio.facts()]
    return [*told, *(["exclusive" if folio.exclusive[0] else "not exclusive"] if folio.counts else [])]


def _wrap_facts(facts: Sequence[str], room: float) -> list[str]:
    lines = [facts[0]]
    for fact in facts[1:]:
        longer = f"{lines[-1]} · {fact}"
        if measure(longer, 11.5, len(lines) == 1) <= room:
            lines[-1] = longer
        else:
            lines.append(fact)
    return lines


def _frame_words(folio: Folio, at: int) -> str:
    name = folio.page(at)
    told = [name if folio.content is None else f"{name}: byte {folio.content[at]}", f"mapped {folio.mapcount[at]}×"]
    if not folio.mapcount[at]:
        told.append("held but mapped by nobody")
    else:
        told.append("exclusive (PageAnonExclusive)" if folio.exclusive[at] else "not exclusive: maybe shared")
    told += [f"pinned {folio.pins[at]}×"] if folio.pins[at] else []
    told += [f"referenced {folio.refs[at]}×"] if folio.refs[at] else []
    return ", ".join(told)


def _bytes_of(folio: Folio, span: Span) -> str:
    if folio.content is None:
        return ""
    content = folio.content[span.lo : span.hi]
    other = np.count_nonzero(content)
    same = bool((content == content[0]).all())
    return f"  byte {content[0]}" if same else f"  {other} {'page' if other == 1 else 'pages'} not 0"


def _mapped(folio: Folio, at: int, x: float, y: float, each: str = "") -> str:
    was, now = folio.mapcount_before[at], folio.mapcount[at]
    words = f"{now}×" if was == now else f"{was}→{now}×"
    return svg_text(x, y + 12, words + each, "v" if was == now else "vb")


def _counter_line(counters: Sequence[Counter], y: float) -> Iterator[str]:
    pitch = (WIDTH - 32) / 8
    for at, counter in enumerate(counters):
        if counter.now or counter.what not in PATHS:
            yield _counter(counter, 16 + at * pitch, y, pitch - 14)


def _counter(counter: Counter, x: float, y: float, width: float) -> str:
    """A name, a number, and a bar of what it comes to in the end: filled so far, darker where this step added."""
    told = svg_text(x, y + 14, counter.what, "m") + svg_text(x, y + 28, f"{counter}", "b" if counter.grown else "p")
    if not counter.most:
        return f"<g>{told}</g>"
    was = counter.now if counter.was is None else counter.was
    full, before = width * counter.now / counter.most, width * min(was, counter.now) / counter.most
    told += svg_rect(x, y + 32, width, 3, "track", 0)
    told += svg_rect(x, y + 32, round(before, 1), 3, "was", 0) if before else ""
    # A thin bar is still to be seen: one page of 512 is a fifth of a pixel.
    grown = max(round(full - before, 1), 2) if counter.now > was else 0
    told += svg_rect(x + round(min(before, width - grown), 1), y + 31, grown, 5, "mark", 0) if grown else ""
    return f"<g>{told}</g>"


def _legend(y: float, bare: bool) -> str:
    told = svg_text(16, y + 17, "A5: page 5 of folio A", "m")
    x = 150.0

    def item(sample: str, words: str, wide: float = 22) -> None:
        nonlocal told, x
        told += sample + svg_text(x + wide, y + 17, words, "m")
        x += wide + measure(words) + 12

    if not bare:
        item(svg_rect(x, y + 6, 18, 14, "c0") + write_edge(x, y + 20, 18, True), "writable")
        item(svg_rect(x, y + 6, 18, 14, "c0") + write_edge(x, y + 20, 18, False), "read-only")
    item(svg_rect(x, y + 6, 18, 14, "zero") + svg_text(x + 9, y + 17, "z", "ns"), "zero page")
    item(svg_rect(x, y + 6, 18, 14, "none"), "nothing mapped")
    item(svg_rect(x, y + 6, 18, 14, "new"), "changed by this step")
    item(_arrow(x + 7, y + 20), "the page that faulted", 18)
    x = 16.0
    y += 21
    if bare:
        item("", "A recording of page tables: counters, contents and write bits cannot be seen from user space.", 0)
        return f"<g>{told}</g>"
    item(exclusive_mark(x + 5, y + 13), "PageAnonExclusive", 14)
    item(pin_mark(x + 5, y + 12), "pinned for a device", 14)
    item(ref_mark(x + 5, y + 13), "plain reference", 14)
    item("", "in memory: name, byte, marks; below: times mapped (2×)", 0)
    return f"<g>{told}</g>"
