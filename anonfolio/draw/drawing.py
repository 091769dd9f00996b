"""The SVG of a `Picture`, as a list of pieces: one per cell, folio and label, so that a stepper sends each once.

Colours are custom properties of a style sheet that every SVG carries, in a light and a dark theme; all its classes
begin with ``afp``. Nothing is said by colour alone: letters name folios, edges tell writable from read-only, thick
outlines mark what changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from ..kernel.record import PATHS, Check, Fault
from .picture import (
    SHORT_WORDS,
    Block,
    Cell,
    Row,
    Span,
    Strip,
    alike,
    delta,
    letter_number,
    spans,
    was_and_is,
)
from .words import TRAILS, more_faults

if TYPE_CHECKING:
    from .picture import Picture

# Okabe-Ito hues, as tints with a dark edge in light mode and the reverse in dark mode: (fill, edge) of each.
_HUES = (
    (("#d3e8f7", "#005a8c"), ("#0d3550", "#7cc4f0")),
    (("#fde6bd", "#8a5a00"), ("#4a3400", "#f5b942")),
    (("#cbeee2", "#00694c"), ("#003d2e", "#4fd3ab")),
    (("#f8dfec", "#8f3d6b"), ("#4b223d", "#e8a9cc")),
    (("#fbdacb", "#9a3f00"), ("#52250b", "#f9a06c")),
    (("#f8f4b8", "#665c00"), ("#423e00", "#eee35a")),
    (("#e3e0f5", "#4f4791"), ("#2d2953", "#b9b2f0")),
)
_LIGHT = {
    "bg": "#ffffff", "ink": "#17212b", "mut": "#55616d", "line": "#c3ccd6", "soft": "#f3f5f8", "say": "#fff4de",
    "sayl": "#d9a441", "zero": "#e4e8ec", "dash": "#8d9aa8", **{f"f{at}": hue[0][0] for at, hue in enumerate(_HUES)},
    **{f"e{at}": hue[0][1] for at, hue in enumerate(_HUES)},
}  # fmt: skip
_DARK = {
    "bg": "#14191f", "ink": "#eef2f6", "mut": "#a9b4bf", "line": "#47525e", "soft": "#1e252d", "say": "#3a2e12",
    "sayl": "#c9962f", "zero": "#39424c", "dash": "#74808c", **{f"f{at}": hue[1][0] for at, hue in enumerate(_HUES)},
    **{f"e{at}": hue[1][1] for at, hue in enumerate(_HUES)},
}  # fmt: skip

SANS = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

# Class -> properties; a value that is a key of the themes is a colour.
_CLASSES: dict[str, dict[str, str]] = {
    "bg": {"fill": "bg", "stroke": "line"},
    "soft": {"fill": "soft"},
    "say": {"fill": "say", "stroke": "sayl"},
    "rule": {"stroke": "line", "fill": "none"},
    "none": {"fill": "none", "stroke": "dash", "stroke-dasharray": "2 2"},
    "zero": {"fill": "zero", "stroke": "mut"},
    "vma": {"fill": "none", "stroke": "mut"},
    "box": {"fill": "bg", "stroke": "line"},
    "new": {"fill": "none", "stroke": "ink", "stroke-width": "2.5"},
    "mark": {"fill": "ink"},
    "track": {"fill": "line"},
    "was": {"fill": "mut"},
    "arrow": {"fill": "ink", "stroke": "bg", "stroke-width": "2", "paint-order": "stroke"},
    "hollow": {"fill": "none", "stroke": "ink", "stroke-width": "1.3"},
    "pen": {"stroke": "ink", "fill": "none", "stroke-width": "3.5"},
    "ro": {"stroke": "mut", "fill": "none", "stroke-width": "1.1"},
    "t": {"fill": "ink", "font-size": "14px", "font-weight": "600"},
    "b": {"fill": "ink", "font-size": "11.5px", "font-weight": "600"},
    "p": {"fill": "ink", "font-size": "11.5px"},
    "m": {"fill": "mut", "font-size": "11px"},
    "n": {"fill": "ink", "font-size": "12px", "font-weight": "600", "text-anchor": "middle", "font-family": MONO},
    "ns": {"fill": "ink", "font-size": "10px", "font-weight": "600", "text-anchor": "middle", "font-family": MONO},
    "nt": {"fill": "ink", "font-size": "8px", "font-weight": "600", "text-anchor": "middle", "font-family": MONO},
    "v": {"fill": "mut", "font-size": "9.5px", "text-anchor": "middle", "font-family": MONO},
    "vb": {"fill": "ink", "font-size": "9.5px", "font-weight": "700", "text-anchor": "middle", "font-family": MONO},
    "k": {"fill": "ink", "font-size": "11px", "font-family": MONO},
    "kb": {"fill": "ink", "font-size": "11px", "font-weight": "700", "font-family": MONO},
    **{f"c{at}": {"fill": f"f{at}", "stroke": f"e{at}"} for at in range(len(_HUES))},
}


def stylesheet() -> str:
    """All classes in both themes, for the `<style>` of an SVG."""

    def theme(colours: Mapping[str, str]) -> str:
        return ";".join(f"--{name}:{value}" for name, value in colours.items())

    def rule(name: str, properties: Mapping[str, str]) -> str:
        told = (f"{key}:{f'var(--{value})' if value in _LIGHT else value}" for key, value in properties.items())
        return f".afp .afp-{name}{{{';'.join(told)}}}"

    return (
        f".afp{{{theme(_LIGHT)}}}"
        f"@media (prefers-color-scheme:dark){{.afp{{{theme(_DARK)}}}}}"
        f'[data-jp-theme-light="true"] .afp{{{theme(_LIGHT)}}}[data-jp-theme-light="false"] .afp{{{theme(_DARK)}}}'
        + "".join(rule(name, properties) for name, properties in _CLASSES.items())
    )


@cache
def paint(name: str) -> str:
    """The class, and the light theme's values as attributes, last in the tag: GitHub and nbviewer drop style sheets."""
    told = " ".join(f'{key}="{_ATTRIBUTES.get(value, value)}"' for key, value in _CLASSES[name].items())
    return f'class="afp-{name}" {told}'


_ATTRIBUTES = {**_LIGHT, MONO: "monospace"}


def lean(piece: str) -> str:
    """A piece without those attributes, for where the style sheet is sure to apply: half the size."""
    return re.sub(r'(class="afp-\w+") [^<>]*?(/?>)', r"\1\2", piece)


def open_group(x: float, y: float) -> str:
    """Opens a group at a place: what is in it does not say where it is, and so stays the same when it moves."""
    return f'<g transform="translate({x:g} {y:g})">'


def svg_text(x: float, y: float, words: str, name: str) -> str:
    """A line of text, its baseline at a place, painted as a class; that says whether it begins or is centred there."""
    return f'<text x="{x:g}" y="{y:g}" {paint(name)}>{escape(words)}</text>'


def svg_rect(x: float, y: float, width: float, height: float, name: str, radius: float = 3) -> str:
    """A rectangle with round corners from its upper left corner, painted as a class."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" {paint(name)}/>'


def svg_path(d: str, name: str) -> str:
    """Lines, as the attribute `d` of a path tells them, painted as a class."""
    return f'<path d="{d}" {paint(name)}/>'


def folio_class(name: str) -> str:
    """The class that paints a folio by the letters of its name; no name, no folio."""
    return f"c{letter_number(name) % len(_HUES)}" if name else "none"


def exclusive_mark(x: float, y: float) -> str:
    """The diamond that says PageAnonExclusive, around a place."""
    return svg_path(f"M{x:g} {y - 4:g}l4 4l-4 4l-4 -4z", "mark")


def _pin(x: float, y: float) -> str:
    return f'<circle cx="{x:g}" cy="{y - 2.5:g}" r="2.6" {paint("mark")}/>' + svg_path(f"M{x:g} {y:g}v5", "hollow")


def _ref(x: float, y: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="3" {paint("hollow")}/>'


def write_edge(x: float, y: float, width: float, writable: bool) -> str:
    """The bottom edge of a cell: a solid bar where the hardware may write, hatching where it may not."""
    if writable:
        return svg_path(f"M{x + 2:g} {y - 3:g}h{width - 4:g}", "pen")
    strokes = "".join(f"M{x + 3 + 5 * at:g} {y - 1.5:g}l4 -4" for at in range(int((width - 6) // 5)))
    return svg_path(strokes, "ro")


_NARROW = {**dict.fromkeys("iljI.,:;'|!", 0.32), **dict.fromkeys(" ftr()[]-/", 0.4), **dict.fromkeys("mwMW→…—×", 0.92)}


def measure(words: str, size: float = 11, bold: bool = False) -> float:
    """About how wide words are in a wide sans-serif font (DejaVu Sans), in units of the picture: never too narrow."""
    return size * sum(_NARROW.get(char, 0.635) for char in words) * (1.1 if bold else 1.0)


def measure_mono(words: str, size: float = 11) -> float:
    """How wide words are in a monospaced font."""
    return 0.61 * size * len(words)


def wrap(words: str, room: float, width: Callable[[str], float] = measure) -> list[str]:
    """Lines no wider than `room`, broken at spaces and after underscores."""
    lines = [""]
    for piece in re.findall(r"[^\s_]*_+|\S+?(?=_)|[^\s_]+\s*|\s+", words):
        if lines[-1] and width((lines[-1] + piece).rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _sized(size: float, bold: bool = False) -> Callable[[str], float]:
    return lambda words: measure(words, size, bold)


WIDTH = 900
DECIDES = "decides the path"
"""Said of the check that did; further ones decide how far a fault reaches."""
LEFT, RIGHT = 92, 884
CELL, FRAME = 28, 43
COUNTER = 38
"""Height of a line of counters: name, number, bar."""
SMALL = 104
"""Width of a folio of one page: five fit in a row."""


def open_svg(height: float, said: str, told: str) -> list[str]:
    """Opens a document, `WIDTH` wide: how it is said in a sentence and told in full, and its style sheet."""
    # As wide as its place, so that nothing is cut off where an <img> holds it; never wider than drawn.
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="100%"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} class="afp" role="img" font-family="{escape(SANS)}"'
        f' style="max-width:{WIDTH}px;height:auto">',
        f"<title>{escape(said)}</title>",
        f"<desc>{escape(told)}</desc>",
        f"<style>{stylesheet()}</style>",
    ]


def stacked(
    head: str, panes: Sequence[tuple[str, Picture]], panel: tuple[str, str] | None = None, *, told: str = ""
) -> str:
    """Several pictures as one SVG, one below the other; the legend stands under the last.

    Parameters
    ----------
    head : str
        A line above all of them; empty for none.
    panes : sequence of (str, Picture)
        The pictures, each with the line that stands above it.
    panel : (str, str), optional
        A title, and what stands below all pictures: plain text, or an SVG (it begins with ``<svg``).
    told : str
        The whole in plain text, for whoever listens.
    """
    parts: list[str] = []
    y = 4.0

    def line(words: str, name: str, size: float) -> None:
        nonlocal y
        for piece in wrap(words, RIGHT - 16, _sized(size, True)):
            y += size + 5
            parts.append(svg_text(16, y, piece, name))
        y += 7

    if head:
        line(head, "t", 14)
    for label, picture in panes:
        drawing = Drawing(picture, legend=picture is panes[-1][1])
        if label:
            line(label, "b", 11.5)
        parts += [open_group(0, y), *drawing.body(drawing.height), "</g>"]
        y += drawing.height + 4
    if panel:
        title, shown = panel
        line(title, "b", 11.5)
        if shown.startswith("<svg"):
            nested, height = _nested(shown, 16, y, RIGHT - 16)
            parts.append(nested)
            y += height
        else:
            for row in shown.splitlines():
                y += 15
                parts.append(svg_text(16, y, row, "k").replace("<text ", '<text xml:space="preserve" ', 1))
        y += 8
    said = head or "; ".join(dict.fromkeys(picture.sentence for _, picture in panes))
    whole = svg_rect(0.5, 0.5, WIDTH - 1, y - 1, "bg", 6)
    return "".join([*open_svg(y, said, told), whole, *parts, "</svg>"])


def _nested(svg: str, x: float, y: float, room: float) -> tuple[str, float]:
    """An SVG put at a place inside another, no wider than the room; and its height there."""
    tag, rest = svg.split(">", 1)
    box = re.search(r'\bviewBox="([^"]*)"', tag)
    if box is None:
        raise ValueError("an SVG in a panel needs a viewBox, which says how large it is")
    wide, high = map(float, box[1].replace(",", " ").split()[2:])
    scale = min(1.0, room / wide)
    tag = re.sub(r'\s(?:x|y|width|height|style)="[^"]*"', "", tag)
    size = f' x="{x:g}" y="{y:g}" width="{wide * scale:g}" height="{high * scale:g}"'
    return f"{tag}{size}>{rest}", high * scale


class Drawing:
    """Lays one picture out, top to bottom: sentence, processes, folios, checks beside or below, counters, legend."""

    def __init__(self, picture: Picture, *, legend: bool = True) -> None:
        self.picture, self.legend = picture, legend
        self.columns = 32 if picture.wide else 16
        self.pitch = 24.25 if self.columns == 32 else 33.5
        self.parts: list[str] = []
        faults = picture.result.faults if picture.result else ()
        self.beside = self.columns == 16
        self.main = LEFT + self.columns * self.pitch if self.columns == 16 else RIGHT
        y = self._header()
        top = y
        y = self._processes(y)
        y = self._memory(y)
        if faults and self.beside:
            y = max(y, self._trail(faults, self.main + 14, top, RIGHT - self.main - 14))
        elif faults:
            y = self._trail(faults, 16, y + 4, RIGHT - 16)
        self.height = y + self._footer_height()

    def fragments(self, height: float) -> list[str]:
        height = max(height, self.height)
        return [*open_svg(height, self.picture.sentence, self.picture.text()), *self.body(height), "</svg>"]

    def body(self, height: float) -> list[str]:
        """Everything but the document around it."""
        return [
            svg_rect(0.5, 0.5, WIDTH - 1, height - 1, "bg", 6),
            *self.parts,
            *self._footer(height - self._footer_height()),
        ]

    # --- sentence -----------------------------------------------------------------------------------------------

    def _header(self) -> float:
        self.parts.append(svg_text(16, 21, self.picture.heading, "m"))
        lines = wrap(self.picture.sentence, RIGHT - 16, _sized(14, True))
        for at, line in enumerate(lines):
            self.parts.append(svg_text(16, 41 + 18 * at, line, "t"))
        return 41 + 18 * max(2, len(lines)) - 8

    # --- page tables --------------------------------------------------------------------------------------------

    def _x(self, vpn: int) -> float:
        at = vpn % self.columns
        # A small gap after 16 shows the alignment in the wide form.
        return LEFT + at * self.pitch + (6 if at >= 16 else 0)

    def _processes(self, y: float) -> float:
        for strip in self.picture.strips(self.columns):
            y = self._process(strip, y)
        return y

    def _process(self, strip: Strip, y: float) -> float:
        process = strip.process
        self.parts.append(svg_text(16, y + 24, f"P{process.number}", "t"))
        if not process.alive:
            self.parts.append(svg_text(LEFT, y + 24, "exited", "m"))
            return y + 34
        below = y + 39
        self.parts.append(svg_text(16, below, f"RSS {process.rss_pages}", "m"))
        for held in strip.holdings:
            for line in wrap(held, LEFT - 20):
                below += 13
                self.parts.append(svg_text(16, below, line, "m"))
        for row in strip.rows:
            y = self._row(strip, row, y)
        if not strip.rows:
            self.parts.append(svg_text(LEFT, y + 24, "no mapping", "m"))
        return max(y, below + 6) + 4

    def _row(self, strip: Strip, row: Row, y: float) -> float:
        first, last = row.cells[0].vpn, row.cells[-1].vpn
        self.parts.append(open_group(0, y + 13).replace("<g ", f'<g data-process="{strip.process.number}" ', 1))
        self.parts.extend([self._bar(row)] if row.folded else map(self._cell, row.cells))
        for start, end, words in strip.mappings:
            lo, hi = max(start, first), min(end - 1, last)
            if lo > hi:
                continue
            x0, x1 = (LEFT, self._x(self.columns - 1)) if row.folded else (self._x(lo), self._x(hi))
            x1 += self.pitch - 2
            self.parts.append(self._bracket(x0 - 2, x1 + 2, lo == start, hi == end - 1))
            if words and (lo == start or row is strip.rows[0]):
                self.parts.append(self._label(words, x0, x1 - x0))
        self.parts.append("</g>")
        return y + CELL + 30

    @staticmethod
    def _label(words: str, x: float, room: float) -> str:
        short = words if measure(words) <= room else " ".join(SHORT_WORDS[word] for word in words.split())
        return f"<g><title>{words}</title>{svg_text(x, -5, short, 'm')}</g>"

    @staticmethod
    def _bracket(x0: float, x1: float, opens: bool, closes: bool) -> str:
        """Above and below a mapping; closed on a side where it ends."""
        y0, y1 = -2.5, CELL + 2.5
        d = (
            f"M{x0:g} {y0:g}H{x1:g}"
            + (f"V{y1:g}" if closes else f"M{x1:g} {y1:g}")
            + f"H{x0:g}"
            + (f"V{y0:g}" if opens else "")
        )
        return svg_path(d, "vma")

    def _cell(self, cell: Cell) -> str:
        x, width = self._x(cell.vpn), self.pitch - 2
        told = f'<g data-page="{cell.vpn}"><title>{escape(self._cell_words(cell))}</title>'
        fill = folio_class(cell.folio) if cell.folio else ("zero" if cell.name == "z" else "none")
        told += svg_rect(x, 0, width, CELL, fill)
        if cell.name:
            told += svg_text(x + width / 2, 16, cell.name, self._name_class(cell.name))
            if not self.picture.tables_only:
                told += write_edge(x, CELL, width, cell.writable)
        if cell.changed:
            told += svg_rect(x, 0, width, CELL, "new")
        if cell.faulting:
            told += self._arrow(x + width / 2)
        return told + svg_text(x + width / 2, CELL + 12, f"{cell.vpn}", "vb" if cell.faulting else "v") + "</g>"

    def _cell_words(self, cell: Cell) -> str:
        where = f"page {cell.vpn}: "
        if not cell.name:
            return where + "nothing mapped"
        what = "the zero page, read-only" if cell.name == "z" else cell.name
        if cell.folio and not self.picture.tables_only:
            what += ", writable" if cell.writable else ", read-only"
        return where + what

    def _name_class(self, name: str) -> str:
        room = (self.pitch - 4) / len(name)
        return "n" if room >= 7.6 else "ns" if room >= 6 else "nt"

    @staticmethod
    def _arrow(x: float, top: float = 0) -> str:
        return svg_path(f"M{x - 5:g} {top - 11:g}h10l-5 8z", "arrow")

    def _bar(self, row: Row) -> str:
        first, last = row.cells[0], row.cells[-1]
        width = self._x(self.columns - 1) + self.pitch - 2 - LEFT
        fill = folio_class(first.folio) if first.folio else ("zero" if first.name == "z" else "none")
        told = f'<g data-page="{first.vpn}" data-last="{last.vpn}">' + svg_rect(LEFT, 0, width, CELL, fill)
        words = f"{first.name}–{last.name}" if first.folio else first.name or "nothing mapped"
        words += f"  ×{row.pages}" + ("  one PMD entry" if row.huge else "")
        if row.huge:
            told += svg_rect(LEFT + 3, 3, width - 6, CELL - 11, "rule", 2)
        told += svg_text(LEFT + width / 2, 16, words, "n")
        if first.name and not self.picture.tables_only:
            told += write_edge(LEFT, CELL, width, first.writable)
        if first.changed:
            told += svg_rect(LEFT, 0, width, CELL, "new")
        if row.fault is not None:
            x = LEFT + (row.fault - first.vpn + 0.5) / row.pages * width
            told += self._arrow(x) + svg_text(x + 9, -5, f"page {row.fault}", "b")
        told += svg_text(LEFT + 18, CELL + 12, f"{first.vpn}", "v")
        return told + svg_text(LEFT + width - 18, CELL + 12, f"{last.vpn}", "v") + "</g>"

    # --- memory -------------------------------------------------------------------------------------------------

    def _memory(self, y: float) -> float:
        picture = self.picture
        y += 4
        self.parts.append(svg_path(f"M16 {y:g}H{self.main - 2:g}", "rule"))
        self.parts.append(svg_text(16, y + 18, "memory", "t"))
        y += 8
        x, row_height, right = float(LEFT - 4), 0.0, self.main + 4
        if not picture.blocks:
            self.parts.append(svg_text(LEFT, y + 10, "no folio", "m"))
            row_height = 24
        for blocks in alike(picture.by_letter):
            width = self._block_width(blocks)
            if x > LEFT and x + width > right:
                x, y, row_height = LEFT - 4, y + row_height + 6, 0
            self.parts.append(open_group(x, y))
            row_height = max(row_height, self._block(blocks, width))
            self.parts.append("</g>")
            x += width + 6
        y += row_height + 6
        if picture.freed:
            self.parts.append(svg_text(LEFT, y + 12, f"freed by this step: {', '.join(picture.freed)}", "p"))
            y += 20
        return y

    def _block_width(self, blocks: Sequence[Block]) -> float:
        if len(blocks) > 1:
            return 2 * SMALL + 6
        if not blocks[0].view.order:
            return SMALL
        frames = min(blocks[0].view.pages, self.columns)
        return frames * self.pitch + (6 if frames > 16 else 0) + 6

    def _block(self, blocks: Sequence[Block], width: float) -> float:
        block = blocks[0]
        told: list[str]
        if len(blocks) == 1 and not block.view.order:
            # One frame, and beside it what a large folio has above.
            frames, below = self._frames(block, 4, 4)
            facts = [fact for fact in self._facts(blocks)[1:] if "mapped " not in fact]
            lines = [line for fact in facts for line in wrap(fact, width - self.pitch - 10)]
            told = [*frames, *(svg_text(self.pitch + 8, 16 + 14 * at, line, "m") for at, line in enumerate(lines))]
        else:
            lines = _wrap_facts(self._facts(blocks), width - 10)
            told = [svg_text(5, 15 + 14 * at, line, "p" if at else "b") for at, line in enumerate(lines)]
            below = 14.0 * len(lines) + 7
            if len(blocks) == 1:
                frames, below = self._frames(block, 4, below)
                told += frames
        height = below + 2
        self.parts.append(svg_rect(0, 0, width, height, "new" if block.fresh else "box", 4))
        self.parts.extend(told)
        return height

    def _facts(self, blocks: Sequence[Block]) -> list[str]:
        block = blocks[0]
        if self.picture.tables_only:
            return [block.name, f"order {block.view.order}"]
        if len(blocks) > 1:
            told = "exclusive" if block.exclusive[0] else "not exclusive"
            return [f"{block.name}–{blocks[-1].name}", f"{len(blocks)} folios", *block.facts(), told]
        return [block.name, *block.facts()]

    def _frames(self, block: Block, x: float, y: float) -> tuple[list[str], float]:
        view = block.view
        index = np.arange(view.pages)
        keys = np.stack([view.mapcount, block.exclusive, block.pins, block.refs, block.changed], axis=1).astype(
            np.int64
        )
        told: list[str] = []
        for span in spans(index, keys, self.columns):
            # A group for each row, as in the page tables: when a row above it opens, only its place changes.
            told.append(open_group(x, y))
            if span.folded:
                told.append(self._frame_bar(block, span, 0, 0))
            else:
                told.extend(self._frame(block, at, 0, 0) for at in range(span.lo, span.hi))
            told.append("</g>")
            y += CELL + 17 if span.folded or self.picture.tables_only else FRAME + 17
        return told, y

    def _frame(self, block: Block, at: int, x: float, y: float) -> str:
        view, column = block.view, at % self.columns
        x += column * self.pitch + (6 if column >= 16 else 0)
        width = self.pitch - 2
        bare = self.picture.tables_only
        high = CELL if bare else FRAME
        middle = x + width / 2
        told = f"<g><title>{escape(self._frame_words(block, at))}</title>" + svg_rect(
            x, y, width, high, folio_class(block.name) if view.mapcount[at] else "none"
        )
        told += svg_text(middle, y + 14, block.page(at), self._name_class(block.page(at)))
        if not bare:
            told += svg_text(middle, y + 26, f"{view.content[at]}", "v")
            marks = [
                mark
                for mark, there in (
                    (exclusive_mark, block.exclusive[at]),
                    (_pin, block.pins[at]),
                    (_ref, block.refs[at]),
                )
                if there
            ]
            left = middle - 5 * (len(marks) - 1)
            told += "".join(mark(left + 10 * slot, y + 35) for slot, mark in enumerate(marks))
        if block.changed[at] and not bare and not block.fresh:
            told += svg_rect(x, y, width, high, "new")
        was = None if block.before is None else int(block.before.mapcount[at])
        mapped = was_and_is(was, int(view.mapcount[at]))
        return told + svg_text(middle, y + high + 12, f"{mapped}×", "vb" if "→" in mapped else "v") + "</g>"

    @staticmethod
    def _frame_words(block: Block, at: int) -> str:
        view = block.view
        told = [f"{block.page(at)}: byte {view.content[at]}", f"mapped {view.mapcount[at]}×"]
        if not view.mapcount[at]:
            told.append("held but mapped by nobody")
        else:
            told.append("exclusive (PageAnonExclusive)" if block.exclusive[at] else "not exclusive: maybe shared")
        told += [f"pinned {block.pins[at]}×"] if block.pins[at] else []
        told += [f"referenced {block.refs[at]}×"] if block.refs[at] else []
        return ", ".join(told)

    def _frame_bar(self, block: Block, span: Span, x: float, y: float) -> str:
        view = block.view
        width = self.columns * self.pitch + (6 if self.columns > 16 else 0) - 2
        told = "<g>" + svg_rect(x, y, width, CELL, folio_class(block.name) if view.mapcount[span.lo] else "none")
        words = f"{block.page(span.lo)}–{block.page(span.hi - 1)}  ×{span.hi - span.lo}"
        if not self.picture.tables_only:
            content = view.content[span.lo : span.hi]
            other = np.count_nonzero(content)
            same = bool((content == content[0]).all())
            words += f"  byte {content[0]}" if same else f"  {other} {'page' if other == 1 else 'pages'} not 0"
            words += "  pinned" if block.pins[span.lo] else ""
        told += svg_text(x + width / 2, y + 16, words, "n")
        if block.exclusive[span.lo] and not self.picture.tables_only:
            told += exclusive_mark(x + 14, y + 14)
        if block.changed[span.lo] and not self.picture.tables_only and not block.fresh:
            told += svg_rect(x, y, width, CELL, "new")
        was = None if block.before is None else int(block.before.mapcount[span.lo])
        mapped = was_and_is(was, int(view.mapcount[span.lo]))
        return told + svg_text(x + width / 2, y + CELL + 12, f"{mapped}× each", "vb" if "→" in mapped else "v") + "</g>"

    # --- checks -------------------------------------------------------------------------------------------------

    def _trail(self, faults: Sequence[Fault], x: float, y: float, width: float) -> float:
        told: list[str] = []
        at = y + 19
        told.append(svg_text(x + 10, at, "why", "t"))
        for fault in faults[:TRAILS]:
            head = f"P{fault.process} {fault.access} page {fault.vpn} → {fault.path} [{fault.code}]"
            for line in wrap(head, width - 20, _sized(11.5, True)):
                at += 16
                told.append(svg_text(x + 10, at, line, "b"))
            at += 4
            for check in fault.checks:
                at = self._check(check, x, at, width, told)
        if more := more_faults(faults):
            at += 18
            told.append(svg_text(x + 10, at, f"… and {more}", "m"))
        self.parts.append(svg_rect(x, y, width, at - y + 12, "soft", 5))
        self.parts.extend(told)
        return at + 14

    def _check(self, check: Check, x: float, y: float, width: float, told: list[str]) -> float:
        answer = "yes" if check.outcome else "no"
        wide = not self.beside
        names = wrap(check.what, 330 if wide else width - 50, measure_mono)
        saw = wrap(check.saw, width - 410 if wide else width - 24) if check.saw else []
        if check.decides:
            saw = [" — ".join(filter(None, (" ".join(saw), DECIDES)))] if wide else [*saw, DECIDES]
        lines = max(len(names), len(saw)) if wide else len(names) + len(saw)
        box = [svg_rect(x + 5, y + 3, width - 10, 14 * lines + 5, "say", 4)] if check.decides else []
        style = "kb" if check.decides else "k"
        for at, line in enumerate(names):
            box.append(svg_text(x + 11, y + 15 + 14 * at, line, style))
        box.append(svg_text(x + 345 if wide else x + width - 36, y + 15, answer, style))
        for at, line in enumerate(saw):
            down = at if wide else at + len(names)
            last = check.decides and at == len(saw) - 1
            box.append(svg_text(x + 385 if wide else x + 18, y + 15 + 14 * down, line, "b" if last else "m"))
        told.append("<g>" + "".join(box) + "</g>")
        return y + 14 * lines + 6

    # --- counters and legend ------------------------------------------------------------------------------------

    def _footer_height(self) -> float:
        legend = 54 if self.legend else 4
        return 4 + legend if self.picture.tables_only else 8 + legend + 2 * COUNTER

    def _footer(self, y: float) -> list[str]:
        told = []
        if not self.picture.tables_only:
            told.append(svg_rect(8, y + 4, WIDTH - 16, 2 * COUNTER, "soft", 5))
            told += self._counter_line(("faults", *PATHS), y + 4)
            told += self._counter_line([what for what, _, _ in self.picture.counted()], y + 4 + COUNTER)
            y += 4 + 2 * COUNTER
        return [*told, self._legend(y + 4)] if self.legend else told

    def _counter_line(self, names: Iterable[str], y: float) -> list[str]:
        """A column is kept for each that will ever count anything: none moves when another one begins."""
        counted = {what: (now, was) for what, now, was in self.picture.all_counted()}
        there = [what for what in names if what in counted or what in self.picture.most]
        pitch = (WIDTH - 32) / 8
        return [
            self._counter(what, *counted[what], 16 + at * pitch, y, pitch - 14)
            for at, what in enumerate(there)
            if what in counted
        ]

    def _counter(self, what: str, now: int, was: int | None, x: float, y: float, width: float) -> str:
        """A name, a number, and a bar of what it comes to in the end: filled so far, darker where this step added."""
        told = svg_text(x, y + 14, what, "m") + svg_text(x, y + 28, delta(now, was), "p" if was in (None, now) else "b")
        most = self.picture.most.get(what, 0)
        if not most:
            return f"<g>{told}</g>"
        full, before = width * now / most, width * min(now if was is None else was, now) / most
        told += svg_rect(x, y + 32, width, 3, "track", 0)
        told += svg_rect(x, y + 32, round(before, 1), 3, "was", 0) if before else ""
        # A thin bar is still to be seen: one page of 512 is a fifth of a pixel.
        grown = max(round(full - before, 1), 2) if now > (now if was is None else was) else 0
        told += svg_rect(x + round(min(before, width - grown), 1), y + 31, grown, 5, "mark", 0) if grown else ""
        return f"<g>{told}</g>"

    def _legend(self, y: float) -> str:
        told = svg_text(16, y + 17, "A5: page 5 of folio A", "m")
        x = 150.0

        def item(sample: str, words: str, wide: float = 22) -> None:
            nonlocal told, x
            told += sample + svg_text(x + wide, y + 17, words, "m")
            x += wide + measure(words) + 12

        bare = self.picture.tables_only
        if not bare:
            item(svg_rect(x, y + 6, 18, 14, "c0") + write_edge(x, y + 20, 18, True), "writable")
            item(svg_rect(x, y + 6, 18, 14, "c0") + write_edge(x, y + 20, 18, False), "read-only")
        item(svg_rect(x, y + 6, 18, 14, "zero") + svg_text(x + 9, y + 17, "z", "ns"), "zero page")
        item(svg_rect(x, y + 6, 18, 14, "none"), "nothing mapped")
        item(svg_rect(x, y + 6, 18, 14, "new"), "changed by this step")
        item(self._arrow(x + 7, y + 20), "the page that faulted", 18)
        x = 16.0
        y += 21
        if bare:
            told += svg_text(
                x,
                y + 17,
                "A recording of page tables: counters, contents and write bits cannot be seen from user space.",
                "m",
            )
            return f"<g>{told}</g>"
        item(exclusive_mark(x + 5, y + 13), "PageAnonExclusive", 14)
        item(_pin(x + 5, y + 12), "pinned for a device", 14)
        item(_ref(x + 5, y + 13), "plain reference", 14)
        item("", "in memory: name, byte, marks; below: times mapped (2×)", 0)
        return f"<g>{told}</g>"


def _wrap_facts(facts: Sequence[str], room: float) -> list[str]:
    lines = [facts[0]]
    for fact in facts[1:]:
        longer = f"{lines[-1]} · {fact}"
        if measure(longer, 11.5, len(lines) == 1) <= room:
            lines[-1] = longer
        else:
            lines.append(fact)
    return lines
