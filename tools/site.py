"""Write the notebooks as web pages that need neither a network nor a kernel.

    python tools/site.py [--output DIR] [FILE ...]

One page per notebook and an index, into site/. Every page holds all it needs, so that it opens from a disk and can
be mailed on its own. Code is shown with its stored outputs; widgets that store all they show (`Stepper`) run. Exits
with 1 when some were stored by another version of the library: those stand still. What is no notebook is told in one
line, with exit code 2 and nothing written.

A widget whose front end sends messages waits for Python's answers: in its place stand the picture stored beside it and
a line that it needs a running notebook. The same line stands where ordinary ipywidgets were.

Questions that one answers by click or key are asked and judged on the page. What stands between a question and its
comparison (`anonfolio.lesson.spoilers`) is folded away until the reader has answered, or asks for it.

A notebook may come from a stranger. What it stores reaches a page as JupyterLab shows it of a notebook that nobody has
signed: HTML and markdown without scripts and handlers, a drawing that holds more than shapes as an image, where nothing
runs. Widgets run whose front end is the library's own, no other.
"""

from __future__ import annotations

import argparse
import base64
import json
import mimetypes
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html import escape, unescape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import bleach
import jsonschema
import mistune
import nbformat
from bleach.css_sanitizer import CSSSanitizer
from mistune.plugins.table import render_table_cell
from mistune.renderers.html import HTMLRenderer
from nbformat.v4 import reads_json
from nbformat.validator import get_validator
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from anonfolio.draw.drawing import stylesheet
from anonfolio.lesson.spoilers import spoilers
from anonfolio.program.formats import is_file, read_value
from anonfolio.report.render import STYLE
from anonfolio.view.program import packed, unpacked

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PARTS = Path(__file__).with_suffix("")
VIEWS = ROOT / "anonfolio" / "view"
PICTURE = ROOT / "docs" / "picture.svg"
WITH_TOY = "12_playground.ipynb"
"""The notebook whose widget needs Python: on its page stands something that does not."""

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
REFERENCE = "IPY_MODEL_"
TOO_DEEP = "what it holds is nested too deeply for a page"


def _holding(**kinds: Any) -> dict[str, Any]:
    return {"type": "object", "properties": kinds}


_TEXT = {"type": "string"}
_WIDGET = _holding(
    state=_holding(
        _esm=_TEXT, _css=_TEXT, program=_TEXT, children={"type": ["array", "null"], "items": _TEXT}
    ),
    model_module=_TEXT,
) | {"required": ["state"]}  # fmt: skip
_WIDGETS = _holding(**{STATE: _holding(state={"type": "object", "additionalProperties": _WIDGET})})
FORMAT = _holding(
    nbformat={"const": 4},
    nbformat_minor={"type": "integer", "minimum": 0, "maximum": nbformat.current_nbformat_minor},
    cells={"type": "array", "items": _holding(cell_type=_TEXT, outputs={"type": "array", "items": {"type": "object"}})},
    metadata=_holding(widgets=_WIDGETS),
) | {"required": ["nbformat", "nbformat_minor"]}
"""What is asked of a notebook before nbformat's own schema is: that says nothing of widgets, and relies on some."""
NOT_WORDS = {"tlb": "TLB", "rfc": "RFC", "cow": "CoW"}
ANSWERS = re.compile(r"^q\.\w+\.(compare|solution)\(", re.MULTILINE)
"""A cell that gives the answer to a question; all that it prints belongs to the answer."""
# What is never closed ends a match where the next of its kind begins: many would take the square of their length.
EMPTY_HEADING = re.compile(r"<th(\s[^<>]*)?>\s*</th>")
SHEET = re.compile(r"<style[^<>]*>(?:(?!<style).)*?</style>", re.DOTALL)
MARKUP = re.compile(r"<[^<>]+>")
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


# --- what may reach a page ------------------------------------------------------------------------------------------

# ruff: noqa: SIM905
_TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr tt "
    "u ul var wbr svg g path rect line circle ellipse polygon polyline text tspan title desc".split()
)
_ATTRIBUTES = frozenset(
    "align alt aria-hidden aria-label class colspan cx cy d dx dy fill fill-opacity font-family font-size font-weight "
    "height href open points r role rowspan rx ry scope stroke stroke-dasharray stroke-linecap stroke-opacity "
    "stroke-width style text-anchor title transform viewbox viewBox width x x1 x2 xml:space xmlns y y1 y2".split()
)
_CSS = CSSSanitizer(
    allowed_css_properties=(
        "background background-color border border-bottom border-collapse border-left border-radius border-right "
        "border-top color display fill font-family font-size font-style font-weight height letter-spacing line-height "
        "list-style margin margin-bottom margin-left margin-right margin-top max-width min-width opacity overflow "
        "overflow-x padding padding-bottom padding-left padding-right padding-top stroke stroke-width text-align "
        "text-decoration vertical-align white-space width"
    ).split()
)
_SHAPES = frozenset(
    "svg g path rect line circle ellipse polygon polyline text tspan title desc style defs pattern clipPath use marker "
    "symbol metadata linearGradient radialGradient stop".split()
)
_SVG = "{http://www.w3.org/2000/svg}"
_ABOUT = (
    "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}",
    "{http://creativecommons.org/ns#}",
    "{http://purl.org/dc/elements/1.1/}",
)


def _may_stay(tag: str, name: str, value: str) -> bool:
    if name == "style" and re.search(r"url|image|\\", value, re.IGNORECASE):
        return False
    if name == "src":
        # An image brings itself along: nothing is loaded from elsewhere.
        return bool(re.fullmatch(r"data:image/(png|jpeg|gif|svg\+xml);base64,[A-Za-z0-9+/=\s]*", value))
    return name in _ATTRIBUTES and not (name == "href" and value.lstrip().lower().startswith("data:"))


def harmless(html: str) -> str:
    """HTML without scripts, handlers, forms and frames, and with nothing that is loaded from elsewhere.

    Of style sheets the library's own stay.
    """
    own = "".join(f"<style>{sheet}</style>" for sheet in (STYLE, stylesheet()) if f"<style>{sheet}</style>" in html)
    clean: str = own + bleach.clean(
        SHEET.sub("", html), tags=_TAGS, attributes=_may_stay, protocols=("http", "https", "mailto", "data"),
        css_sanitizer=_CSS, strip=True,
    )  # fmt: skip
    return clean


def shapes_alone(svg: str) -> bool:
    """Whether a drawing holds shapes and words, refers to nothing outside, and reads as HTML as it does as XML."""
    if "<![" in svg or "<!ENTITY" in svg:
        return False
    try:
        elements = list(ElementTree.fromstring(svg).iter())
    except ElementTree.ParseError:
        return False
    return all(_is_shape(element) for element in elements)


def _is_shape(element: ElementTree.Element) -> bool:
    name = str(element.tag)
    if not name.startswith(_ABOUT) and not (name.startswith(_SVG) and name.removeprefix(_SVG) in _SHAPES):
        return False
    if name.removeprefix(_SVG) in ("title", "desc", "style") and len(element):
        return False
    styles = [*element.attrib.values(), (element.text or "") if name == f"{_SVG}style" else ""]
    if any(re.search(r"url\(\s*['\"]?(?!['\"#])|@import|javascript:", style, re.IGNORECASE) for style in styles):
        return False
    plain = {attribute.rpartition("}")[2].lower(): value for attribute, value in element.attrib.items()}
    return not any(name.startswith("on") for name in plain) and plain.get("href", "#").startswith("#")


def drawn_in_pieces(stored: Any) -> bool:
    """Whether a stepper's front end finds shapes and words alone in what it makes elements of, each on its own."""
    try:
        frames = dict(unpacked(str(stored)))
        svgs = [*(text for text in frames.get("panel", ()) if text.startswith("<svg")), frames.get("legend", "")]
        return all(map(_is_piece, frames.get("pieces", ()))) and all(map(shapes_alone, filter(None, svgs)))
    except (AttributeError, RecursionError, TypeError, ValueError):
        return False


@cache
def _is_piece(piece: str) -> bool:
    return shapes_alone(f'<svg xmlns="{_SVG[1:-1]}">{piece}</svg>')


@cache
def own_fronts() -> frozenset[str]:
    """The front ends of the library's widgets."""
    return frozenset(path.read_text(encoding="utf-8") for path in VIEWS.glob("*.js"))


@cache
def loader() -> str:
    """The front end of widgets that share one: it fetches the other."""
    return (VIEWS / "loader.js").read_text(encoding="utf-8")


# --- what a notebook says of itself ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Book:
    """A notebook; its first cell is the heading, how long it takes, and what one can do afterwards."""

    path: Path
    nb: Any = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Book:
        """What is in a file; ValueError with its name where that is no notebook, or its widgets are none."""
        content = read_value(path, ValueError)
        try:
            jsonschema.validate(content, FORMAT)
            # Neither `validate` nor `nbformat.reads`: they mend what they look at, and rely on what they have not seen.
            for error in get_validator(4, content["nbformat_minor"]).iter_errors(content):
                raise error
            return cls(path, reads_json(json.dumps(content)))
        except jsonschema.ValidationError as error:
            raise ValueError(f"{path}: no notebook of format 4 ({error.message:.200})") from None
        except RecursionError:
            raise ValueError(f"{path}: {TOO_DEEP}") from None

    @property
    def page(self) -> str:
        """The file's name; a link to it is `address`."""
        return f"{self.path.stem}.html"

    @property
    def address(self) -> str:
        return quote(self.page)

    @property
    def number(self) -> str:
        return self.path.stem.partition("_")[0]

    @property
    def name(self) -> str:
        words = [NOT_WORDS.get(word, word) for word in self.path.stem.split("_")[1:]]
        return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]]) if words else self.number

    @property
    def _first(self) -> str:
        return next((cell.source for cell in self.nb.cells if cell.cell_type == "markdown"), "")

    @property
    def question(self) -> str:
        found = re.search(r"^# (.+)$", self._first, re.MULTILINE)
        return found[1].strip() if found else self.name

    @property
    def minutes(self) -> int | None:
        """To read it and to do its exercises, together."""
        found = re.search(r"About (\d{1,4}) minutes(?: to read, (\d{1,4}))?", self._first)
        return int(found[1]) + int(found[2] or 0) if found else None

    @property
    def afterwards(self) -> str:
        found = re.search(r"^\*\*(Afterwards you can)\*\* (.+?)(?:\n\n|\Z)", self._first, re.MULTILINE | re.DOTALL)
        return f"{found[1]} {found[2]}" if found else ""

    @property
    def models(self) -> dict[str, Any]:
        """The stored state of its widgets, by model id."""
        return dict(self.nb.metadata.get("widgets", {}).get(STATE, {}).get("state", {}))

    @property
    def is_stale(self) -> bool:
        """Whether widgets of the library were stored with front ends that are no longer those of today."""
        return any(is_stale(model, self.models) for model in self.models.values())


# --- markdown -------------------------------------------------------------------------------------------------------


def _parted(code: re.Match[str]) -> str:
    """Code that may go on in the next line after `_` or `/`: a phone is narrower than a kernel's names."""
    return "<code>" + re.sub(r"([_/]+)(?=\w)", r"\1<wbr>", code.group()[6:-7]) + "</code>"


class Markdown(HTMLRenderer):
    """As Jupyter renders it, with links that hold between pages and images inside the page."""

    def __init__(self, folder: Path, pages: Iterable[str]) -> None:
        super().__init__(escape=False)
        self.folder = folder
        self.pages = set(pages)
        self.headings: list[tuple[int, str, str]] = []

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        plain = unescape(MARKUP.sub("", text))
        # The name that Jupyter gives it: a notebook may link to it.
        anchor = escape(re.sub(r"\s+", "-", plain), quote=True)
        self.headings.append((level, anchor, plain))
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def block_html(self, html: str) -> str:
        return harmless(html)

    def inline_html(self, html: str) -> str:
        return harmless(html)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        parts = urlsplit(url)
        if parts.scheme or parts.netloc or not parts.path:
            return super().link(text, url, title)
        page = unquote(parts.path).removesuffix(".ipynb") + ".html"
        if page not in self.pages:
            # A file of the project, which a page that travels alone does not have beside it.
            return f'<span class="file">{text}</span>'
        return super().link(text, page + (f"#{parts.fragment}" if parts.fragment else ""), title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        path = Path(os.path.realpath(self.folder / unquote(url).replace("\0", "")))
        kind = mimetypes.guess_type(path.name)[0] or ""
        if not kind.startswith("image/") or not is_file(path) or self.folder.resolve().parent not in path.parents:
            return f'<span class="file">{escape(MARKUP.sub("", text))}</span>'
        data = base64.b64encode(path.read_bytes()).decode()
        return f'<img src="data:{kind};base64,{data}" alt="{escape(MARKUP.sub("", text))}">'

    def block_code(self, code: str, info: str | None = None) -> str:
        return coloured(code, (info or "").partition(" ")[0])

    def table(self, text: str) -> str:
        return f'<div class="wide"><table>\n{text}</table></div>\n'

    def table_cell(self, text: str, align: str | None = None, head: bool = False) -> str:
        # A corner that is empty is the heading of nothing.
        head = head and bool(text.strip())
        # What is escaped in code within a table is escaped for the table's sake alone.
        text = re.sub(r"<code>[^<]*</code>", _parted, text.replace(r"\|", "|"))
        return render_table_cell(self, text, align, head)

    def inline_math(self, text: str) -> str:
        raise ValueError(f"no page can show mathematics yet: {text}")

    block_math = inline_math


def coloured(code: str, language: str) -> str:
    try:
        lexer = get_lexer_by_name(language, stripnl=False) if language else None
    except ClassNotFound:
        lexer = None
    inner = highlight(code, lexer, HtmlFormatter(nowrap=True)) if lexer else escape(code)
    return f"<pre><code>{inner.rstrip()}</code></pre>\n"


# --- cells ----------------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def image(kind: str, base64_data: str, data: dict[str, Any]) -> str:
    words = escape(text_of(data.get("text/plain", "")), quote=True)
    return f'<img src="data:{kind};base64,{base64_data}" alt="{words}">'


def drawn_px(svg: str) -> float:
    """How wide a drawing is in its own units: narrower than that its words would be smaller than they were meant."""
    tag = svg.partition(">")[0]
    points = re.search(r'\swidth="(\d{1,6}(?:\.\d+)?)pt"', tag)
    box = re.search(r'\sviewBox="\S+ \S+ (\d{1,6}(?:\.\d+)?)', tag)
    return round(float(points[1]) * 4 / 3) if points else float(box[1]) if box else 620


def shown_as(data: dict[str, Any]) -> str:
    """The best form of an output that needs no program, as HTML."""
    if "text/html" in data:
        html = EMPTY_HEADING.sub(r"<td\1></td>", harmless(text_of(data["text/html"])))
        return f'<div class="wide">{html}</div>'
    if "image/svg+xml" in data:
        svg = text_of(data["image/svg+xml"])
        if shapes_alone(svg):
            return f'<div class="wide drawing" style="--least:{drawn_px(svg):g}px">{svg}</div>'
        return image("image/svg+xml", base64.b64encode(svg.encode()).decode(), data)
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return image(kind, re.sub(r"[^A-Za-z0-9+/=]", "", text_of(data[kind])), data)
    return f"<pre>{escape(text_of(data.get('text/plain', '')))}</pre>"


def below(model: str, models: dict[str, Any]) -> Iterator[str]:
    """A model and those it shows inside, in order, each once: a file may say that a box holds itself."""
    met, waiting = set[str](), [model]
    while waiting:
        name = waiting.pop()
        if name in met:
            continue
        met.add(name)
        yield name
        children = models.get(name, {}).get("state", {}).get("children") or ()
        waiting += [child.removeprefix(REFERENCE) for child in reversed(children)]


def program_of(model: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """The state that holds a widget's front end and style sheet: its own, or that of the model it shares them with."""
    state: dict[str, Any] = model.get("state", {})
    if state.get("_esm") != loader():
        return state
    shared: dict[str, Any] = models.get(str(state.get("program")).removeprefix(REFERENCE), {}).get("state", {})
    return shared


def runs(model: dict[str, Any], models: dict[str, Any]) -> bool:
    """Whether a widget is one of the library's, holds what these draw, and can run with nobody to answer it."""
    front = program_of(model, models).get("_esm", "")
    is_own = model.get("model_module") == "anywidget" and front in own_fronts() and front != loader()
    if not is_own or "model.send(" in front:
        return False
    state = model["state"]
    return "frames" not in state or drawn_in_pieces(state["frames"])


def is_stale(model: dict[str, Any], models: dict[str, Any]) -> bool:
    """Whether a widget is of the library, as it says, but of a time at which its front end was another."""
    name = str(model.get("state", {}).get("_anywidget_id", ""))
    return name.startswith("anonfolio.") and program_of(model, models).get("_esm") not in own_fronts()


def widget(data: dict[str, Any], models: dict[str, Any]) -> str:
    """The stored picture, which the page's script puts the widget in the place of; and whether parts need a kernel."""
    inside = [name for name in below(data[VIEW]["model_id"], models) if name in models]
    running = [name for name in inside if runs(models[name], models)]
    boxes = {name for name in inside if "children" in models[name]["state"]}
    waiting = set(inside) - set(running) - boxes
    static = {kind: value for kind, value in data.items() if kind != VIEW}
    names = escape(" ".join(running), quote=True)
    note = "" if running and not waiting else " data-needs-kernel"
    picture = shown_as(static) if {*static} - {"text/plain"} or not running else ""
    return f'<div class="widget" data-models="{names}"{note}>{picture}</div>'


def output(out: Any, models: dict[str, Any]) -> str:
    if out.output_type == "stream":
        kind = " stderr" if out.name == "stderr" else ""
        return f'<pre class="stream{kind}">{escape(TERMINAL_COLOUR.sub("", text_of(out.text)).rstrip())}</pre>'
    if out.output_type == "error":
        said = TERMINAL_COLOUR.sub("", "\n".join(out.traceback)) or f"{out.ename}: {out.evalue}"
        return f'<pre class="error">{escape(said)}</pre>'
    if VIEW in out.data and models:
        return widget(out.data, models)
    return shown_as({kind: value for kind, value in out.data.items() if kind != VIEW})


def compares(out: Any, models: dict[str, Any]) -> bool:
    """Whether an output asks for the answer itself before it compares."""
    model = models.get(out.get("data", {}).get(VIEW, {}).get("model_id"), {})
    return runs(model, models) and model["state"].get("mode") == "compare"


def cell_html(cell: Any, markdown: mistune.Markdown, models: dict[str, Any], questions: tuple[str, ...] = ()) -> str:
    """A cell; what it shows is folded away where it would answer these questions."""
    if cell.cell_type == "markdown":
        return f'<div class="prose">\n{markdown(cell.source)}</div>'
    if cell.cell_type != "code":
        return ""
    closes = bool(questions) or ANSWERS.search(cell.source)
    closed = [output(out, models) for out in cell.outputs if closes and not compares(out, models)]
    shown = [output(out, models) for out in cell.outputs if not closes or compares(out, models)]
    if closed:
        names, inside = escape(" ".join(questions), quote=True), "\n".join(closed)
        fold = f'<details class="answer" data-questions="{names}"><summary>Show me</summary>\n{inside}\n</details>'
        shown.insert(0, fold)
    parts = [f'<div class="input">{coloured(cell.source, "python")}</div>'] if cell.source.strip() else []
    parts += ['<div class="output">{}</div>'.format("\n".join(shown))] if shown else []
    return f'<div class="cell">{"".join(parts)}</div>'


# --- pages ----------------------------------------------------------------------------------------------------------


def stored_widgets(models: dict[str, Any]) -> tuple[str, str]:
    """What the page's script needs of the widgets, packed, and their style sheets; each front end once."""
    fronts: dict[str, int] = {}
    styles: dict[str, None] = {}
    stored = {}
    programs = {str(model.get("state", {}).get("program")).removeprefix(REFERENCE) for model in models.values()}
    for name, model in models.items():
        if name in programs or not runs(model, models):
            continue
        if model.get("buffers"):
            raise ValueError(f"widget {name} stores binary data, which the pages cannot show yet")
        program = program_of(model, models)
        styles[program.get("_css", "").replace("</", "<\\/")] = None
        front = fronts.setdefault(program["_esm"], len(fronts))
        state = {key: value for key, value in model["state"].items() if not key.startswith("_") and key != "program"}
        stored[name] = {"front": front, "state": state}
    return packed({"fronts": list(fronts), "models": stored}), "\n".join(styles)


def fill(name: str, /, **parts: str) -> str:
    return Template((PARTS / name).read_text(encoding="utf-8")).substitute(parts)


def part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8").strip()


def step_link(book: Book | None, relation: str) -> str:
    """The neighbour's link; the index is the neighbour of the first and the last."""
    words = {"prev": "Previous", "next": "Next"}[relation]
    page, number, question = (
        (book.address, escape(book.number), book.question) if book else ("index.html", "", "All notebooks")
    )
    return (
        f'<a rel="{relation}" class="{relation}" href="{page}"><small>{words} {escape(number)}</small>'
        f"<span>{escape(question)}</span></a>"
    )


def sheets_once(cells: str) -> str:
    """Cells with the style sheets of their drawings in front, each once: a sheet holds for the whole page anyway.

    Only drawings write such an element; all other text is escaped. It stays inside a drawing, where it reads as before.
    """
    sheets = "".join(dict.fromkeys(SHEET.findall(cells)))
    return f'<svg xmlns="{_SVG[1:-1]}" hidden>{sheets}</svg>\n{SHEET.sub("", cells)}' if sheets else cells


def described(words: str) -> str:
    """Markdown as the plain words that a search engine shows, inside an attribute."""
    html = str(mistune.html(words))
    return escape(" ".join(unescape(MARKUP.sub("", html)).split()), quote=True)


def notebook_page(book: Book, books: list[Book]) -> str:
    renderer = Markdown(book.path.parent, [other.page for other in books])
    markdown = mistune.create_markdown(renderer=renderer, plugins=["table", "strikethrough", "math"])
    closed = spoilers([cell.source if cell.cell_type == "code" else "" for cell in book.nb.cells])
    shown = [cell_html(cell, markdown, book.models, closed.get(at, ())) for at, cell in enumerate(book.nb.cells)]
    at = books.index(book)
    stored, styles = stored_widgets(book.models)
    sections = [f'<li><a href="#{anchor}">{escape(words)}</a></li>' for level, anchor, words in renderer.headings
                if level == 2]  # fmt: skip
    return fill(
        "page.html",
        title=f"{escape(book.question)} · anonfolio",
        description=described(book.afterwards or book.question),
        number=escape(book.number),
        name=escape(book.name),
        minutes=f" · about {book.minutes} minutes" if book.minutes else "",
        notebook=escape(book.path.name),
        style=part("site.css"),
        widget_styles=styles,
        sections="\n".join(sections),
        # Below the title and what one learns: it is part of the page.
        cells="\n".join(
            [*shown[:1], *([toy()] if book.path.name == WITH_TOY else []), sheets_once("\n".join(shown[1:]))]
        ),
        previous=step_link(books[at - 1] if at else None, "prev"),
        next=step_link(books[at + 1] if at + 1 < len(books) else None, "next"),
        stored=stored,
        script=part("scrolled.js") + "\n" + part("widgets.js"),
    )


def toy() -> str:
    """A mapping to click on, with all its states (tools/toy.py)."""
    data = (PARTS / "toy.json").read_text(encoding="utf-8").replace("</", "<\\/")
    return fill("toy.html", style=part("toy.css"), data=data, script=part("toy.js"))


def index_page(books: list[Book]) -> str:
    inline = mistune.create_markdown()
    rows = []
    for book in books:
        minutes = f'<span class="minutes">{book.minutes} min</span>' if book.minutes else ""
        rows.append(
            f'<li><a href="{book.address}"><span class="number">{escape(book.number)}</span><span class="what">'
            f'<span class="name">{escape(book.name)}{minutes}</span><span class="question">{escape(book.question)}'
            f'</span></span></a><div class="afterwards">{inline(book.afterwards)}</div></li>'
        )
    total = sum(book.minutes or 0 for book in books)
    return fill(
        "index.html",
        style=part("site.css"),
        count=str(len(books)),
        hours=f"{total / 60:.0f} hours" if total >= 90 else f"{total} minutes",
        first=books[0].address,
        picture=PICTURE.read_text(encoding="utf-8"),
        toy=toy(),
        books="\n".join(rows),
        script=part("scrolled.js"),
    )


def build(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Write the pages of these notebooks and their index; what it wrote, index first.

    Before anything is written ValueError says of which notebook there can be no page.
    """
    books = [Book.read(path) for path in paths]
    if not books:
        raise ValueError("no notebook to make a page of")
    twice = [name for name, times in Counter(["index.html", *(book.page for book in books)]).items() if times > 1]
    if twice:
        raise ValueError(f"two pages would be {twice[0]}: give the notebooks other names")
    pages = {"index.html": index_page(books)} | {book.page: page_of(book, books) for book in books}
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        # Half of a surrogate pair is no character.
        (folder / name).write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return [folder / name for name in pages]


def page_of(book: Book, books: list[Book]) -> str:
    """`notebook_page`; ValueError with the file's name where there can be none."""
    try:
        return notebook_page(book, books)
    except RecursionError:
        raise ValueError(f"{book.path}: {TOO_DEEP}") from None
    except ValueError as error:
        raise ValueError(f"{book.path}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "site")
    arguments = parser.parse_args(argv)
    paths = arguments.files or sorted(NOTEBOOKS.glob("*.ipynb"))
    try:
        written = build(paths, arguments.output)
    except (OSError, ValueError) as error:
        print(f"site: {error!s:.500}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in written)
    print(f"{len(written)} pages, {size / 1e6:.1f} MB: open {written[0]}")
    stale = [path.name for path in paths if Book.read(path).is_stale]
    if stale:
        print(f"{', '.join(stale)}: stored with widgets of another version, which stand still on the pages; "
              "run the notebooks again (make notebooks)", file=sys.stderr)  # fmt: skip
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
