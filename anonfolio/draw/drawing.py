"""What all drawings share: colours, text that fits, and a sheet of pieces that become one SVG document.

A sheet is a list of pieces, one per cell, folio and label, so that a stepper sends each once.

Colours are custom properties of a style sheet that every SVG carries, in a light and a dark theme; all its classes
begin with ``afp``. Nothing is said by colour alone: letters name folios, edges tell writable from read-only, thick
outlines mark what changed. No text is smaller than 12 of a sheet's units, and no sheet shown narrower than it is drawn.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from html import escape

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
ROLE_HUES = {"shared": 0, "new": 1, "alone": 2, "mapped": 3}
"""Which hue says what a page is (`Folio.roles`); what nobody maps has none."""
_LIGHT = {
    "diff": "#b3005e", "bg": "#ffffff", "ink": "#17212b", "mut": "#55616d", "line": "#c3ccd6", "soft": "#f3f5f8",
    "say": "#fff4de", "sayl": "#d9a441", "zero": "#e4e8ec",
    "dash": "#8d9aa8",
    **{f"f{at}": hue[0][0] for at, hue in enumerate(_HUES)}, **{f"e{at}": hue[0][1] for at, hue in enumerate(_HUES)},
}  # fmt: skip
_DARK = {
    "diff": "#ff8ac2", "bg": "#14191f", "ink": "#eef2f6", "mut": "#a9b4bf", "line": "#47525e", "soft": "#1e252d",
    "say": "#3a2e12", "sayl": "#c9962f", "zero": "#39424c",
    "dash": "#74808c",
    **{f"f{at}": hue[1][0] for at, hue in enumerate(_HUES)}, **{f"e{at}": hue[1][1] for at, hue in enumerate(_HUES)},
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
    "new": {"fill": "none", "stroke": "ink", "stroke-width": "2.2"},
    "mark": {"fill": "ink"},
    "was": {"fill": "mut"},
    "arrow": {"fill": "ink", "stroke": "bg", "stroke-width": "2", "paint-order": "stroke"},
    "hollow": {"fill": "none", "stroke": "ink", "stroke-width": "1.3"},
    "pen": {"stroke": "ink", "fill": "none", "stroke-width": "3.5"},
    "t": {"fill": "ink", "font-size": "14px", "font-weight": "600"},
    "k": {"fill": "ink", "font-size": "12px", "font-family": MONO},
    "s": {"fill": "ink", "font-size": "13px", "font-weight": "600"},
    "h": {"fill": "mut", "font-size": "12px"},
    "e": {"fill": "mut", "font-size": "12px", "text-anchor": "middle"},
    "f": {"fill": "ink", "font-size": "12px"},
    "fb": {"fill": "ink", "font-size": "12px", "font-weight": "700"},
    "fm": {"fill": "mut", "font-size": "12px", "font-weight": "700"},
    "q": {"fill": "ink", "font-size": "12px", "font-weight": "700", "font-family": MONO},
    "a": {"fill": "ink", "font-size": "12px", "font-weight": "700", "text-anchor": "middle", "font-family": MONO},
    "i": {"fill": "mut", "font-size": "12px", "text-anchor": "middle", "font-family": MONO},
    "copy": {"fill": "none", "stroke": "ink", "stroke-width": "1.4", "stroke-dasharray": "3 2"},
    "differs": {"fill": "none", "stroke": "diff", "stroke-width": "2", "stroke-dasharray": "6 3"},
    **{f"c{at}": {"fill": f"f{at}", "stroke": f"e{at}"} for at in range(len(_HUES))},
    **{f"is_{role}": {"fill": f"f{at}", "stroke": f"e{at}"} for role, at in ROLE_HUES.items()},
    **{f"to_{role}": {"fill": f"f{at}", "fill-opacity": "0.5", "stroke": f"e{at}", "stroke-width": "0.7"}
       for role, at in ROLE_HUES.items()},
    "is_held": {"fill": "bg", "stroke": "dash", "stroke-dasharray": "2 2"},
    "fresh": {"fill": "bg", "stroke": "ink", "stroke-width": "2"},
    "over": {"fill": "ink", "font-size": "12px", "stroke": "bg", "stroke-width": "3", "stroke-linejoin": "round",
             "paint-order": "stroke"},
}  # fmt: skip


def themed(name: str, light: Mapping[str, str], dark: Mapping[str, str]) -> str:
    """Rules that set custom properties for a class: by what the system prefers, and by JupyterLab where it says."""

    def theme(colours: Mapping[str, str]) -> str:
        return ";".join(f"--{name}:{value}" for name, value in colours.items())

    return (
        f".{name}{{{theme(light)}}}"
        f"@media (prefers-color-scheme:dark){{.{name}{{{theme(dark)}}}}}"
        f'[data-jp-theme-light="true"] .{name}{{{theme(light)}}}[data-jp-theme-light="false"] .{name}{{{theme(dark)}}}'
    )


@cache
def stylesheet() -> str:
    """All classes in both themes, for the `<style>` of an SVG."""

    def rule(name: str, properties: Mapping[str, str]) -> str:
        told = (f"{key}:{f'var(--{value})' if value in _LIGHT else value}" for key, value in properties.items())
        return f".afp .afp-{name}{{{';'.join(told)}}}"

    return themed("afp", _LIGHT, _DARK) + "".join(rule(name, properties) for name, properties in _CLASSES.items())


@cache
def paint(name: str) -> str:
    """The class, and the light theme's values as attributes, last in the tag: GitHub and nbviewer drop style sheets."""
    told = " ".join(f'{key}="{_ATTRIBUTES.get(value, value)}"' for key, value in _CLASSES[name].items())
    return f'class="afp-{name}" {told}'


_ATTRIBUTES = {**_LIGHT, MONO: "monospace"}


def lean(piece: str) -> str:
    """A piece without those attributes, for where the style sheet is sure to apply: half the size."""
    return re.sub(r'(class="afp-\w+") [^<>]*?(/?>)', r"\1\2", piece)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(words: str) -> str:
    """Words whose control characters, which no XML may hold and a terminal obeys, are replaced: names are foreign."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", words)


def xml(words: str) -> str:
    """Words as text inside a tag."""
    return escape(printable(words))


def unstyled(svg: str) -> str:
    """An SVG without the style sheet of all drawings, for where there is one already."""
    style = stylesheet()
    return lean(svg.replace(style, "")).replace("<style></style>", "") if style in svg else svg


def svg_text(x: float, y: float, words: str, name: str) -> str:
    """A line of text, its baseline at a place, painted as a class; that says whether it begins or is centred there."""
    return f'<text x="{x:g}" y="{y:g}" {paint(name)}>{xml(words)}</text>'


def svg_rect(x: float, y: float, width: float, height: float, name: str, radius: float = 3) -> str:
    """A rectangle with round corners from its upper left corner, painted as a class."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" {paint(name)}/>'


def svg_path(d: str, name: str) -> str:
    """Lines, as the attribute `d` of a path tells them, painted as a class."""
    return f'<path d="{d}" {paint(name)}/>'


def exclusive_mark(x: float, y: float) -> str:
    """The diamond that says PageAnonExclusive, around a place."""
    return svg_path(f"M{x:g} {y - 4:g}l4 4l-4 4l-4 -4z", "mark")


def pin_mark(x: float, y: float) -> str:
    """A pin for a device."""
    return f'<circle cx="{x:g}" cy="{y - 2.5:g}" r="2.6" {paint("mark")}/>' + svg_path(f"M{x:g} {y:g}v5", "hollow")


def ref_mark(x: float, y: float) -> str:
    """A plain reference."""
    return f'<circle cx="{x:g}" cy="{y:g}" r="3" {paint("hollow")}/>'


_NARROW = {**dict.fromkeys("iljI.,:;'|!", 0.32), **dict.fromkeys(" ftr()[]-/", 0.4), **dict.fromkeys("mwMW→…—×", 0.92)}


def measure(words: str, size: float = 12, bold: bool = False) -> float:
    """About how wide words are in a wide sans-serif font (DejaVu Sans), in units of the picture: never too narrow."""
    return size * sum(_NARROW.get(char, 0.635) for char in words) * (1.1 if bold else 1.0)


def measure_mono(words: str, size: float = 12) -> float:
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


def sized(size: float, bold: bool = False) -> Callable[[str], float]:
    """`measure` of a size."""
    return lambda words: measure(words, size, bold)


WIDTH = 848
RIGHT = 832


def open_svg(height: float, said: str, told: str, width: float = WIDTH, shown_px: float = WIDTH) -> list[str]:
    """Opens a document: how it is said in a sentence and told in full, and its style sheet."""
    # As wide as its place, so that nothing is cut off where an <img> holds it; never wider than `shown_px`.
    size = f'viewBox="0 0 {width:g} {height:g}" width="100%"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} class="afp" role="img" font-family="{escape(SANS)}"'
        f' style="max-width:{shown_px:g}px;height:auto">',
        f"<title>{xml(said)}</title>",
        f"<desc>{xml(told)}</desc>",
        f"<style>{stylesheet()}</style>",
    ]


class Sheet:
    """Pieces by key, each a whole element: what has the same key at two moments is the same thing.

    Sorted by key they stand in the order in which they are painted, whatever moment it is.
    """

    width: float = WIDTH
    shown_px: float = WIDTH
    """As wide as it is shown at most."""

    def __init__(self) -> None:
        self.pieces: dict[str, str] = {}
        self.height = 0.0

    def add(self, piece: str, key: str = "") -> None:
        """One more piece; without a key it is the next."""
        self.pieces[key or f"~{len(self.pieces):05d}"] = piece

    def text(self, x: float, y: float, words: str, name: str) -> None:
        """`svg_text`, as the next piece."""
        self.add(svg_text(x, y, words, name))

    def lines(self, x: float, y: float, lines: Sequence[str], name: str, step: float) -> None:
        """Lines of text below each other."""
        for at, line in enumerate(lines):
            self.text(x, y + step * at, line, name)

    def rect(self, x: float, y: float, width: float, height: float, name: str, radius: float = 3) -> None:
        """`svg_rect`, as the next piece."""
        self.add(svg_rect(x, y, width, height, name, radius))

    @contextmanager
    def group(self, x: float, y: float) -> Iterator[None]:
        """What is added inside is one piece, at a place."""
        outer, self.pieces = self.pieces, {}
        yield
        inside, self.pieces = "".join(self.pieces.values()), outer
        self.add(f'<g transform="translate({x:g} {y:g})">{inside}</g>')

    def keyed(self, height: float = 0) -> dict[str, str]:
        """All pieces but the document around them, in order, on a ground at least that high."""
        ground = svg_rect(0.5, 0.5, self.width - 1, max(height, self.height) - 1, "bg", 6)
        return {"": ground, **dict(sorted(self.pieces.items()))}

    def body(self, height: float = 0) -> str:
        """The same, written down."""
        return "".join(self.keyed(height).values())


def document(sheet: Sheet, height: float, said: str, told: str) -> str:
    """A whole SVG, at least that high."""
    height = max(height, sheet.height)
    return "".join([*open_svg(height, said, told, sheet.width, sheet.shown_px), sheet.body(height), "</svg>"])


class Drawn(ABC):
    """What is shown at one moment: text in a terminal, SVG in a notebook, a sentence for whoever listens."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What happened."""

    @abstractmethod
    def text(self) -> str:
        """It as plain text."""

    @abstractmethod
    def _draw(self) -> Sheet:
        """It drawn."""

    @cached_property
    def sheet(self) -> Sheet:
        """It drawn: what a stepper moves, piece by piece, is what `svg` writes down."""
        return self._draw()

    def svg(self, height: float = 0) -> str:
        """It as one SVG document, at least that high (in its own units)."""
        return document(self.sheet, height, self.sentence, self.text())

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": self.text()}


GAP = 12


def stacked(
    head: str, panes: Sequence[tuple[str, Drawn]], panel: tuple[str, str] | None = None, *, told: str = ""
) -> str:
    """Several pictures as one SVG, beside each other where there is room, else one below the other.

    Parameters
    ----------
    head : str
        A line above all of them; empty for none.
    panes : sequence of (str, Drawn)
        The pictures, each with the line that stands above it.
    panel : (str, str), optional
        A title, and what stands below all pictures: plain text, or an SVG (it begins with ``<svg``).
    told : str
        The whole in plain text, for whoever listens.
    """
    sheets = [picture.sheet for _, picture in panes]
    one = max(sheet.width for sheet in sheets)
    columns = max(1, min(len(panes), int((WIDTH + GAP) // (one + GAP))))
    width = columns * (one + GAP) - GAP
    if panel and panel[1].startswith("<svg"):
        width = max(width, min(WIDTH, _size(panel[1])[0] + 16))
    parts: list[str] = []
    y = 4.0

    def lines(words: str, name: str, size: float, x: float = 8, room: float = width - 16) -> float:
        found = wrap(words, room, sized(size, True)) if words else []
        parts.extend(svg_text(x, y + (size + 5) * (at + 1), line, name) for at, line in enumerate(found))
        return (size + 5) * len(found) + 7 * bool(found)

    y += lines(head, "t", 14)
    for first in range(0, len(panes), columns):
        row = [*zip(panes[first : first + columns], sheets[first : first + columns], strict=True)]
        places = [at * (one + GAP) for at in range(len(row))]
        y += max(lines(label, "fb", 12, x + 8, one - 16) for x, ((label, _), _) in zip(places, row, strict=True))
        for x, (_, sheet) in zip(places, row, strict=True):
            parts.append(f'<g transform="translate({x:g} {y:g})">{sheet.body()}</g>')
        y += max(sheet.height for _, sheet in row) + 4
    if panel:
        title, shown = panel
        y += lines(title, "fb", 12)
        if shown.startswith("<svg"):
            nested, height = _nested(shown, 8, y, width - 16)
            parts.append(nested)
            y += height
        else:
            for row_ in shown.splitlines():
                y += 15
                parts.append(svg_text(8, y, row_, "k").replace("<text ", '<text xml:space="preserve" ', 1))
        y += 8
    said = head or "; ".join(dict.fromkeys(picture.sentence for _, picture in panes))
    whole = svg_rect(0.5, 0.5, width - 1, y - 1, "bg", 6)
    shown_px = max(width, columns * max(sheet.shown_px for sheet in sheets))
    return "".join([*open_svg(y, said, told, width, min(shown_px, WIDTH)), whole, *parts, "</svg>"])


def _nested(svg: str, x: float, y: float, room: float) -> tuple[str, float]:
    """An SVG put at a place inside another, no wider than the room; and its height there."""
    tag, rest = svg.split(">", 1)
    wide, high = _size(svg)
    scale = min(1.0, room / wide)
    tag = re.sub(r'\s(?:x|y|width|height|style)="[^"]*"', "", tag)
    size = f' x="{x:g}" y="{y:g}" width="{wide * scale:g}" height="{high * scale:g}"'
    return f"{tag}{size}>{rest}", high * scale


def _size(svg: str) -> tuple[float, float]:
    box = re.search(r'\bviewBox="([^"]*)"', svg.split(">", 1)[0])
    if box is None:
        raise ValueError("an SVG in a panel needs a viewBox, which says how large it is")
    wide, high = map(float, box[1].replace(",", " ").split()[2:])
    return wide, high
