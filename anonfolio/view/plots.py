"""Figures for notebooks: small, the same each time they are drawn, readable on paper and on a dark page.

Each function returns a `Plot`: SVG where HTML is shown, and the numbers behind it as text, for whoever cannot see it.
Importing this needs matplotlib (the ``lab`` extra).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from ..draw.drawing import printable, themed, xml

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, INK, FAINT = "#ffffff", "#17212b", "#d3d9df"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#6b6b6b")
DARK = {
    PAPER: "#14191f", INK: "#eef2f6", FAINT: "#333d47",
    **dict(zip(COLOURS, ("#56b4e9", "#f28e3c", "#2fc79a", "#e08fd4", "#a9b0b8"), strict=True)),
}  # fmt: skip
"""What each colour becomes on a dark page. Every figure brings its own ground: ink reads on it wherever it stands."""

STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
"""Lines differ in colour and in dashes: neither alone has to tell them apart."""
MARKERS = (("o", 9.0), ("s", 7.0), ("D", 5.0), ("o", 3.0), ("x", 6.0))
"""Where curves over named sizes coincide, each one's marker shows inside the one before it."""


@dataclass(frozen=True)
class Plot:
    """A figure: its SVG, and what it says in words and numbers."""

    svg: str
    words: str

    def __repr__(self) -> str:
        return self.words

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass(frozen=True)
class Line:
    """A curve: what it is called, and a value at each x."""

    name: str
    y: Sequence[float]


def _in_legend(name: str) -> str:
    """A name as a label: one that begins with _ would be left out of the legend."""
    return f" {name}" if name.startswith("_") else name


def _literal(words: str) -> str:
    """Foreign words for matplotlib: a $ begins no formula, and there is no character that XML may not hold."""
    return printable(words).replace("$", r"\$")


def _at_ticks(names: Iterable[str]) -> list[str]:
    """Names along an axis, which are formatted only when they are drawn."""
    return [_literal(name) for name in names]


def new_figure(width: float = 7.4, height: float = 3.4) -> Figure:
    """An empty figure, sizes in inches. It belongs to no window and to no backend."""
    return Figure(figsize=(width, height), facecolor=PAPER, layout="constrained")


def finished(figure: Figure, title: str, words: str) -> Plot:
    """The figure as SVG: the same bytes each time, text as text."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(_literal(text.get_text()))
    image = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "anonfolio", "svg.fonttype": "none"}):
        figure.savefig(image, format="svg", facecolor=PAPER, metadata={"Date": None, "Creator": None})
    svg = image.getvalue()
    # What is not styled (GitHub drops style sheets) falls back to the light colour.
    names = {colour: f"c{at}" for at, colour in enumerate(DARK)}
    svg = re.sub("|".join(DARK), lambda found: f"var(--{names[found[0]]},{found[0]})", svg)
    style = themed("afl", {name: colour for colour, name in names.items()}, {names[of]: DARK[of] for of in names})
    tag, rest = svg[svg.index("<svg") :].split(">", 1)
    told = f"<title>{xml(title)}</title><desc>{xml(words)}</desc><style>{style}</style>"
    return Plot(f'{tag} class="afl" role="img" style="max-width: 100%; height: auto">{told}{rest}', f"{title}\n{words}")


def dress(axes: Axes, title: str, x: str, y: str) -> None:
    """The look that all figures share."""
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(visible=True, color=FAINT, linewidth=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def curves(
    title: str,
    x: Sequence[float],
    lines: Sequence[Line],
    *,
    x_name: str,
    y_name: str,
    marks: Sequence[tuple[float, str]] = (),
    digits: int = 1,
) -> Plot:
    """Curves over a logarithmic x axis to base 2, each named in the legend; `marks` are vertical lines with words.

    The words are a table: a row per x, a column per curve, with `digits` decimals.
    """
    figure = new_figure()
    axes = figure.subplots()
    for at, line in enumerate(lines):
        axes.plot(
            x, line.y, color=COLOURS[at % 5], linestyle=STYLES[at % 5], linewidth=2, marker="o", markersize=3,
            label=_in_legend(line.name),
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    # Between powers of two there is no room for a name.
    named = [each for each in x if math.log2(each).is_integer()] or list(x)
    axes.set_xticks(named, [f"{each:g}" for each in named])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for where, says in marks:
        axes.axvline(where, color=INK, linewidth=0.8)
        axes.annotate(says, (where, top), xytext=(3, -2), textcoords="offset points", va="top", fontsize=9, color=INK)
    dress(axes, title, x_name, y_name)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return finished(figure, title, table(x_name, x, lines, digits))


def table(x_name: str, x: Sequence[float], lines: Sequence[Line], digits: int = 1) -> str:
    """Curves as text."""
    widths = [max(len(line.name), 6) + 2 for line in lines]
    head = f"{x_name:>20}" + "".join(f"{line.name:>{width}}" for line, width in zip(lines, widths, strict=True))
    rows = [
        f"{each:20,g}" + "".join(f"{line.y[at]:{width},.{digits}f}" for line, width in zip(lines, widths, strict=True))
        for at, each in enumerate(x)
    ]
    return "\n".join([head, *rows])


Piece = tuple[int, int]
"""First page of what one entry covers, and its pages."""


def coverage(title: str, rows: Sequence[tuple[str, Sequence[Piece]]]) -> Plot:
    """How entries cover pages: a row per machine, a box per entry as wide as it covers."""
    pages = max(first + count for _, pieces in rows for first, count in pieces)
    figure = new_figure(7.4, 0.75 + 0.5 * len(rows))
    axes = figure.subplots()
    axes.set_xlim(-0.2, pages + 0.2)
    axes.set_ylim(len(rows) - 0.5, -0.75)
    for row, (_, pieces) in enumerate(rows):
        for first, count in pieces:
            box = FancyBboxPatch(
                (first + 0.08, row - 0.3), count - 0.16, 0.6, boxstyle="round,pad=0,rounding_size=0.15",
                facecolor=PAPER if count == 1 else COLOURS[0], edgecolor=COLOURS[0], linewidth=1.2,
            )  # fmt: skip
            axes.add_patch(box)
            says = str(first) if count == 1 else f"{first}–{first + count - 1}"
            axes.text(
                first + count / 2, row, says, ha="center", va="center", fontsize=9,
                color=INK if count == 1 else PAPER,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), _at_ticks(f"{name}: {_entries(pieces)}" for name, pieces in rows))
    axes.set_xticks([])
    dress(axes, title, "", "")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    told = [
        f"{name}: {_entries(pieces)}: " + ", ".join(_span(first, count) for first, count in pieces)
        for name, pieces in rows
    ]
    return finished(figure, title, "\n".join(told))


def _entries(pieces: Sequence[Piece]) -> str:
    return f"{len(pieces)} entr{'y' if len(pieces) == 1 else 'ies'}"


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


# --- by size --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One of several drawings of a figure: its y axis, its curves, and whether the axis is logarithmic.

    Curves named in `dots` are drawn as rings without a line: what was measured, beside what was computed.
    """

    y_name: str
    lines: Sequence[Line]
    log: bool = False
    dots: Sequence[str] = ()
    digits: int = 1


def panels(title: str, names: Sequence[str], drawn: Sequence[Panel], *, x_name: str) -> Plot:
    """Curves over named sizes, in one panel or in several, one below the other, that share the legend."""
    several = len(drawn) > 1
    figure = new_figure(7.4, 0.9 + 1.7 * len(drawn) if several else 3.2)
    every = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
    for axes, panel in zip(every, drawn, strict=True):
        for at, line in enumerate(panel.lines):
            dotted = line.name in panel.dots
            shape, size = MARKERS[at % 5] if several else ("o", 9 if dotted else 3)
            axes.plot(
                range(len(names)), line.y, color=COLOURS[at % 5], linestyle="none" if dotted else STYLES[at % 5],
                linewidth=2, marker=shape, markersize=size, fillstyle="none" if dotted else "full",
                markeredgewidth=1.5, label=_in_legend(line.name),
            )  # fmt: skip
        axes.set_xticks(range(len(names)), _at_ticks(names))
        if panel.log:
            axes.set_yscale("log", base=2)
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,.0f}")
        below = x_name if axes is every[-1] else ""
        dress(axes, panel.y_name if several else "", below, "" if several else panel.y_name)
    _head(figure, title, every[0])
    told = "\n\n".join(f"{panel.y_name}\n{named_table(x_name, names, panel.lines, panel.digits)}" for panel in drawn)
    return finished(figure, title, told)


def _head(figure: Figure, title: str, axes: Axes) -> None:
    """The title, and one legend for all panels below it."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=len(labels), frameon=False, fontsize=9, labelcolor=INK
    )


HATCHES = ("", "///", "..", "xx", "--")
"""Parts differ in colour and in hatching."""


def stacks(
    title: str, names: Sequence[str], parts: Sequence[Line], *, x_name: str, y_name: str, digits: int = 1
) -> Plot:
    """Bars by named size, each made of parts from the bottom up."""
    figure = new_figure(7.4, 3.2)
    axes = figure.subplots()
    below = [0.0] * len(names)
    for at, part in enumerate(parts):
        axes.bar(
            range(len(names)), part.y, 0.62, bottom=below, label=_in_legend(part.name), color=COLOURS[at % 5],
            edgecolor=PAPER, hatch=HATCHES[at % 5], linewidth=0.8,
        )  # fmt: skip
        below = [low + each for low, each in zip(below, part.y, strict=True)]
    axes.set_ylim(0, 1.1 * max(below))
    axes.set_xticks(range(len(names)), _at_ticks(names))
    dress(axes, "", x_name, y_name)
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    _head(figure, title, axes)
    return finished(figure, title, named_table(x_name, names, [*parts, Line("all", below)], digits))


def straight(title: str, x: Sequence[float], names: Sequence[str], drawn: Sequence[Panel], *, x_name: str) -> Plot:
    """Curves over two logarithmic axes, where growth in proportion is a straight line of 45 degrees (drawn thin).

    `names` are what the values of `x` are called, in the words and (first, middle, last) below the axis.
    """
    figure = new_figure(7.4, 3.2)
    every = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, panel in zip(every, drawn, strict=True):
        for at, line in enumerate(panel.lines):
            axes.plot(
                x, line.y, color=COLOURS[at % 5], linestyle=STYLES[at % 5], linewidth=2, marker="o", markersize=4,
                label=_in_legend(line.name),
            )  # fmt: skip
        top = panel.lines[0].y[-1]
        axes.plot(x, [top * each / x[-1] for each in x], color=INK, linewidth=0.8, label="in proportion")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=10)
        axes.yaxis.set_major_formatter("{x:,g}")
        step = max(1, (len(x) - 1) // 2)
        axes.set_xticks(list(x[::step]), _at_ticks(names[::step]))
        axes.minorticks_off()
        dress(axes, panel.y_name, x_name, "")
    _head(figure, title, every[0])
    told = "\n\n".join(f"{panel.y_name}\n{named_table(x_name, names, panel.lines, panel.digits)}" for panel in drawn)
    return finished(figure, title, told)


def named_table(x_name: str, names: Sequence[str], lines: Sequence[Line], digits: int = 1) -> str:
    """Curves over named sizes as text."""
    widths = [max(len(line.name), 8) + 2 for line in lines]
    first = max(12, len(x_name))
    head = f"{x_name:{first}}" + "".join(f"{line.name:>{width}}" for line, width in zip(lines, widths, strict=True))
    rows = [
        f"{name:{first}}"
        + "".join(f"{line.y[at]:{width},.{digits}f}" for line, width in zip(lines, widths, strict=True))
        for at, name in enumerate(names)
    ]
    return "\n".join([head, *rows])
