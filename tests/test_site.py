"""The notebooks as web pages: opened from a disk with no network, one by one, as a reader would."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mistune
import nbformat
import pytest
from browser_support import as_new, tab_through, walk, walk_quickly
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from site_support import NOTEBOOKS, tool

from anonfolio.report.render import STYLE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def offline(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    context = browser.new_context(offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: wrong.append(request.url[:200]) if not allowed(request) else None)
    yield page, wrong
    context.close()


@pytest.fixture
def page(offline: tuple[Page, list[str]]) -> Iterator[Page]:
    """A page with no network, on which nothing may go wrong and which may load nothing but what one navigates to."""
    page, wrong = offline
    wrong.clear()
    with as_new(page, 1000):
        yield page
    assert wrong == []


def allowed(request: Any) -> bool:
    opened = request.url.startswith(("file:", "about:")) and request.is_navigation_request()
    return opened or request.url.startswith("data:")


def ready(page: Page) -> None:
    page.wait_for_function("[...document.querySelectorAll('.widget')].every((place) => 'shown' in place.dataset)")


# --- the real notebooks ---------------------------------------------------------------------------------------------


@pytest.mark.sweep(15)
@pytest.mark.browser
@each
def test_every_stepper_steps_with_no_network(site: Path, page: Page, path: Path) -> None:
    page.goto((site / f"{path.stem}.html").as_uri())
    ready(page)
    # Steppers that answer a question are folded away.
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    stored = nbformat.read(path, as_version=4)
    shown = sum(tool.VIEW in output.get("data", {}) for cell in stored.cells for output in cell.get("outputs", []))
    assert page.locator(".widget").count() == shown
    steppers = page.locator(".afs")
    models = tool.Book(path, stored).models.values()
    assert steppers.count() == sum("frames" in model["state"] for model in models)
    walk(steppers.first)
    walk_quickly(steppers)
    # On a phone too, nothing is cut off: what is wider than the page scrolls inside it.
    for width in (900, 360):
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") == width


class Folds(HTMLParser):
    """How many cells of a page are folded away, how many of those are open, and what stands outside every fold."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.open = self.inside = 0
        self.outside = ""
        self.script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.script = tag == "script"
        if tag != "details":
            return
        self.count += ("class", "answer") in attrs
        self.open += "open" in dict(attrs)
        self.inside += 1

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag == "details"

    def handle_data(self, data: str) -> None:
        self.outside += "" if self.inside or self.script else data


@pytest.mark.sweep(14)
@each
def test_what_answers_a_question_is_folded_and_stands_nowhere_else(site: Path, path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    hidden = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("outputs_hidden")]
    said = [output["data"]["text/plain"] for cell in cells for output in cell.outputs if "data" in output]
    page = Folds()
    page.feed((site / f"{path.stem}.html").read_text(encoding="utf-8"))
    # A comparison asks for the answer itself; what else its cell shows is folded.
    folded = [cell for cell in hidden if len(cell.outputs) > ("compare(" in cell.source)]
    assert sum("You made no prediction" in " ".join(words.split()) for words in said) >= 3
    assert (page.count, page.open, page.inside) == (len(folded), 0, 0)
    assert "You made no prediction" not in " ".join(page.outside.split())


@pytest.mark.browser
def test_an_answer_is_shown_on_demand_without_javascript_or_mouse(site: Path, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((site / f"{NOTEBOOKS[0].stem}.html").as_uri())
    answer = page.locator(".widget details").first
    note = answer.get_by_text("You made no prediction")
    assert answer.locator("summary").inner_text() == "Show me"
    assert note.is_hidden()
    answer.locator("summary").focus()
    page.keyboard.press("Enter")
    assert note.is_visible()
    answer.locator("summary").click()
    assert note.is_hidden()
    context.close()


AXE = files("axe_playwright_python") / "axe.min.js"
CONTRAST, LINKS = "color-contrast", "link-in-text-block"
"""Rules whose finding no width changes; the first takes longer than all others together."""

# Of texts that look alike, in places that look alike, one is looked at.
UNALIKE = """() => {
  const LOOKS = ["color", "backgroundColor", "backgroundImage", "opacity", "fontSize", "fontWeight"];
  const met = new Set();
  const meet = (node, place) => {
    const style = getComputedStyle(node);
    const looks = LOOKS.map((name) => style[name]);
    const words = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    const inert = node.matches(":disabled, [aria-disabled=true], [aria-hidden=true]");
    place = [place, node.localName, node.getAttribute("class"), ...looks, inert, node.checkVisibility()].join(" ");
    node.toggleAttribute("data-unalike", words && !met.has(place));
    if (words) met.add(place);
    for (const child of node.children) meet(child, place);
  };
  meet(document.body, "");
}"""


@pytest.mark.sweep(15)
@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", *(path.stem for path in NOTEBOOKS)])
def test_axe_finds_nothing_serious_at_any_width(site: Path, page: Page, name: str) -> None:
    page.goto((site / f"{name}.html").as_uri())
    ready(page)
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    page.evaluate(UNALIKE)
    found = axe(page, {"include": [["[data-unalike]"]]}, runOnly={"type": "rule", "values": [CONTRAST]})
    for width in (1280, 900, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        page.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
        left_out = [CONTRAST] if width == 1280 else [CONTRAST, LINKS]
        found += axe(page, {"exclude": []}, rules={rule: {"enabled": False} for rule in left_out})
    assert found == []


def axe(page: Page, context: dict[str, Any], **options: Any) -> list[str]:
    """What axe calls serious or critical: the rule, and the first element of the page that breaks it."""
    violations = page.evaluate(
        "async ([context, options]) => (await axe.run(context, options)).violations",
        [{"include": [["html"]], **context}, {"resultTypes": ["violations"], **options}],
    )
    serious = [each for each in violations if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in serious]


@pytest.mark.browser
def test_the_index_lists_all_and_leads_to_the_first(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    assert page.locator(".books .question").all_inner_texts() == [tool.Book.read(path).question for path in NOTEBOOKS]
    assert all("min" in words for words in page.locator(".books .name").all_inner_texts())

    page.get_by_role("link", name="Begin").click()
    assert Path(page.url).stem == NOTEBOOKS[0].stem
    page.locator("a[rel=next]").click()
    assert Path(page.url).stem == NOTEBOOKS[1].stem
    page.locator("a[rel=prev]").click()
    assert Path(page.url).stem == NOTEBOOKS[0].stem


def test_next_and_previous_lead_through_all_pages_and_back(site: Path) -> None:
    names = [path.stem for path in NOTEBOOKS]
    for relation, way in (("next", [*names, "index"]), ("prev", [*names[::-1], "index"])):
        for here, there in itertools.pairwise(way):
            (link,) = re.findall(rf'<a rel="{relation}"[^>]* href="([^"]+)"', (site / f"{here}.html").read_text())
            assert link == f"{there}.html"


@pytest.mark.browser
def test_dark_mode_is_readable(site: Path, page: Page) -> None:
    """Contrast of text and of links on their background, by the rule of WCAG AA."""
    for name in ("index", NOTEBOOKS[0].stem):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate(FAINT) == [], (name, scheme)


# The text of the page itself; pictures and steppers have tests of their own.
FAINT = """() => {
  const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const faint = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("svg, script, noscript, .afs, .skip")) continue;
    const pair = [light(rgba(getComputedStyle(node).color).slice(0, 3)), light(behind(node))].sort((a, b) => b - a);
    if ((pair[0] + 0.05) / (pair[1] + 0.05) < 4.5) faint.add(`${node.tagName}.${node.className}`);
  }
  return [...faint];
}"""


@pytest.mark.browser
def test_tab_reaches_a_stepper_and_leaves_it_and_one_sees_where_one_is(site: Path, page: Page) -> None:
    page.goto((site / f"{NOTEBOOKS[0].stem}.html").as_uri())
    ready(page)
    assert tab_through(page) > 3


class Addresses(HTMLParser):
    """What a page names: addresses that a browser would load or follow, ids, and the text of its style sheets."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.followed: list[str] = []
        self.ids: set[str] = set()
        self.styles = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            elif name == "style":
                self.styles += value or ""
            elif name == "href" and tag == "a":
                self.followed.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action", "background"):
                self.loaded.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.styles += data


def addresses(path: Path) -> Addresses:
    parser = Addresses()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


@pytest.mark.sweep(15)
@pytest.mark.parametrize("name", ["index", *(path.stem for path in NOTEBOOKS)])
def test_a_page_holds_all_it_needs_and_its_links_lead_somewhere(site: Path, name: str) -> None:
    page = addresses(site / f"{name}.html")
    assert [address for address in page.loaded if not address.startswith(("data:", "#"))] == []
    assert re.findall(r"@import|url\((?!#|data:)[^)]*\)", page.styles) == []
    for address in page.followed:
        if re.match(r"https?://", address):
            continue
        there, _, anchor = address.partition("#")
        target = addresses(site / there) if there else page
        assert not anchor or anchor in target.ids, address
    assert (site / f"{name}.html").stat().st_size < 3_000_000


# --- what a notebook may hold ---------------------------------------------------------------------------------------

FRONT = """
export default () => ({
  render({ model, el }) {
    el.append(document.createElement("button"));
    el.firstChild.textContent = model.get("said");
    el.firstChild.onclick = () => { model.set("said", "once more"); model.save_changes(); };
    model.on("change:said", () => { el.firstChild.textContent = model.get("said"); });
    const { send } = model;
    if (model.get("asks")) send({ please: 1 });
  },
});
"""
# What would end a script element, were it written as it is.
ODD = "</script><!-- <b>'&\u2028"


def anywidget(**state: Any) -> dict[str, Any]:
    return {"model_module": "anywidget", "model_name": "AnyModel", "state": {"_esm": FRONT, "_css": ""} | state}


def shows(model: str, **data: str) -> Any:
    view = {"model_id": model, "version_major": 2, "version_minor": 0}
    data = {kind.replace("_", "/"): value for kind, value in data.items()}
    return new_code_cell("show()", outputs=[new_output("display_data", {tool.VIEW: view, "text/plain": "?", **data})])


def book(tmp_path: Path, *cells: Any, **models: Any) -> Path:
    path = tmp_path / "07_tlb_reach.ipynb"
    nb = new_notebook(cells=list(cells))
    if models:
        nb.metadata["widgets"] = {tool.STATE: {"version_major": 2, "version_minor": 0, "state": models}}
    nbformat.write(nb, path)
    return path


PLAYED = "export default { render({ model }) { model.send(1); } };"
HOSTILE = "window.hacked = 'a widget'; export default { render({ el }) { el.textContent = 'ran'; } };"


@pytest.fixture(autouse=True)
def fronts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on a page is the library's own: for these tests, two of ours."""
    own = tool.own_fronts()
    monkeypatch.setattr(tool, "own_fronts", lambda: own | {FRONT, PLAYED})


@pytest.mark.browser
def test_widgets_run_or_say_that_they_need_a_notebook(page: Page, tmp_path: Path) -> None:
    box = {"model_module": "@jupyter-widgets/controls", "model_name": "VBoxModel",
           "state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_inside"]}}  # fmt: skip
    slider = {"model_module": "@jupyter-widgets/controls", "model_name": "IntSliderModel", "state": {"value": 3}}
    models = {
        "plain": anywidget(said=ODD),
        "inside": anywidget(said="inside"),
        "asking": anywidget(said="asking", asks=True),
        "played": anywidget(said="played", _esm=PLAYED),
        "box": box,
        "slider": slider,
    }
    cells = [shows("plain", text_html="<i>stored</i>"), shows("plain"), shows("box"), shows("asking"),
             shows("played", text_html="<i>the picture</i>"), shows("slider")]  # fmt: skip
    tool.build([book(tmp_path, *cells, **models)], tmp_path / "site")
    page.goto((tmp_path / "site" / "07_tlb_reach.html").as_uri())
    ready(page)
    places = page.locator(".widget")
    said = ["".join(place.locator("button, i, pre").all_text_contents()) for place in places.all()]
    assert said == [ODD, ODD, "inside", "asking", "the picture", "?"]
    notes = page.evaluate(
        "[...document.querySelectorAll('.widget')].map((it) => !!it.nextElementSibling?.matches('.needs-kernel'))"
    )
    assert notes == [False, False, True, True, True, True]
    # Two views of one model are one.
    places.nth(0).get_by_role("button").click()
    assert places.nth(1).inner_text() == "once more"


@pytest.mark.browser
def test_a_widget_that_fails_leaves_its_picture(browser: Browser, tmp_path: Path) -> None:
    broken = anywidget(_esm="export default { render() { throw new Error('no'); } }")
    tool.build([book(tmp_path, shows("broken", text_html="<i>stored</i>"), broken=broken)], tmp_path / "site")
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "site" / "07_tlb_reach.html").as_uri())
    page.locator(".needs-kernel").wait_for()
    assert page.locator(".widget").inner_text() == "stored"
    context.close()


def test_cells_become_html_that_says_what_they_said(tmp_path: Path) -> None:
    path = book(
        tmp_path,
        new_markdown_cell("# Why & when?\n\n*About 20 minutes. More.*\n\n**Afterwards you can** say `why`.\n\nElse."),
        new_markdown_cell("## The `a` < b\n\n| x |\n|---|\n| `p \\| q` |\n\n[there](07_tlb_reach.ipynb#The-a-<-b)"),
        new_markdown_cell("[a file](../README.md) and [elsewhere](https://example.org/x)"),
        new_code_cell(
            "print('<b>')",
            outputs=[
                new_output("stream", name="stdout", text="\x1b[31m<b>\x1b[0m\n"),
                new_output("error", ename="ValueError", evalue="no", traceback=["\x1b[0;31mValueError\x1b[0m: no"]),
                new_output("display_data", {"image/png": "QUJD\n", "text/plain": "a plot"}),
            ],
        ),
    )
    index, page = tool.build([path], tmp_path / "site")
    html = page.read_text()
    assert '<h2 id="The-a-&lt;-b">The <code>a</code> &lt; b</h2>' in html
    assert 'href="07_tlb_reach.html#The-a-' in html
    assert "<code>p | q</code>" in html
    assert '<span class="file">a file</span> and <a href="https://example.org/x">' in html
    assert '<pre class="stream">&lt;b&gt;</pre>' in html
    assert '<pre class="error">ValueError: no</pre>' in html
    assert 'src="data:image/png;base64,QUJD"' in html
    listed = index.read_text()
    for words in ("07", "TLB reach", "20 min", "Why &amp; when?", "Afterwards you can say <code>why</code>."):
        assert words in listed
    assert "Else." not in listed


@pytest.mark.parametrize(
    ("cell", "models", "words"),
    [
        (new_markdown_cell("so $$x^2$$"), {}, "mathematics"),
        (shows("a"), {"a": anywidget() | {"buffers": [{"path": ["x"]}]}}, "binary"),
    ],
    ids=["math", "buffers"],
)
def test_what_a_page_cannot_show_stops_the_build(tmp_path: Path, cell: Any, models: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tool.build([book(tmp_path, cell, **models)], tmp_path / "site")


CODE = {"cell_type": "code", "id": "a", "metadata": {}, "source": "", "outputs": [], "execution_count": None}
HEAD = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [CODE]}
DEEP = json.loads("[" * 600 + "]" * 600)


def stored(**models: Any) -> Any:
    return HEAD | {"metadata": {"widgets": {tool.STATE: {"state": models}}}}


def shown(**data: Any) -> Any:
    output = {
        "output_type": "display_data",
        "metadata": {},
        "data": {kind.replace("_", "/"): it for kind, it in data.items()},
    }
    return HEAD | {"cells": [CODE | {"outputs": [output]}]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON"),
        ("5", "5 is not of type 'object'"),
        ('{"nbformat": 3, "nbformat_minor": 0}', "4 was expected"),
        ({"nbformat": 4, "nbformat_minor": 5}, "['cells', 'metadata'] properties"),
        (HEAD | {"nbformat_minor": 99}, "99 is greater than the maximum"),
        (HEAD | {"cells": ["x"]}, "'x' is not of type 'object'"),
        (HEAD | {"cells": [CODE | {"cell_type": 0}]}, "0 is not of type 'string'"),
        (HEAD | {"cells": [CODE | {"source": ["a", 1]}]}, "data.cells[0] must be valid"),
        (stored(a=None), "None is not of type 'object'"),
        (stored(a={"state": {"_esm": []}}), "[] is not of type 'string'"),
        (stored(a={}), "'state' is a required property"),
        (shown(application_json=DEEP), "nested too deeply"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_notebook_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, words: str
) -> None:
    path = tmp_path / "07_x.ipynb"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert tool.main([str(path), "--output", str(tmp_path / "site")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"site: {path}: ")
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["index", "07_x"])
def test_no_page_takes_the_place_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    paths = [tmp_path / folder / f"{name}.ipynb" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps(HEAD))
    assert tool.main([*map(str, paths), "--output", str(tmp_path / "site")]) == 2
    assert capsys.readouterr().err == f"site: two pages would be {name}.html: give the notebooks other names\n"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (new_markdown_cell("![a](a%00b.png)"), '<span class="file">a</span>'),
        (new_markdown_cell(f"![a]({'a' * 5000}.png)"), '<span class="file">a</span>'),
        (new_markdown_cell(f"# a\n\nAbout {'9' * 6000} minutes"), f"<p>About {'9' * 6000} minutes</p>"),
        (new_code_cell("1", outputs=[new_output("stream", text="\ud800")]), '<pre class="stream">?</pre>'),
        (shows("a", **{"image_svg+xml": '<svg xmlns="http://www.w3.org/2000/svg" width="1.2.3pt"/>'}), "--least:620px"),
    ],
    ids=["zero byte", "long name", "minutes", "half a character", "width"],
)
def test_what_is_odd_in_a_notebook_is_shown(tmp_path: Path, cell: Any, words: str) -> None:
    path = tmp_path / "07_x.ipynb"
    path.write_text(json.dumps(new_notebook(cells=[cell])))
    _, page = tool.build([path], tmp_path / "site")
    assert words in page.read_text(encoding="utf-8")


def test_a_box_that_holds_itself_is_shown_once() -> None:
    boxes = {name: {"state": {"children": ["IPY_MODEL_a", "IPY_MODEL_b"]}} for name in "ab"}
    assert list(tool.below("a", boxes)) == ["a", "b"]


def test_two_builds_are_the_same_bytes(site: Path, tmp_path: Path) -> None:
    tool.build(NOTEBOOKS[:1], tmp_path / "a")
    tool.build(NOTEBOOKS[:1], tmp_path / "b")
    name = f"{NOTEBOOKS[0].stem}.html"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def stored_widgets(path: Path) -> Any:
    packed = re.search(r'id="stored-widgets">(.*?)</script>', path.read_text(), re.DOTALL)[1]  # type: ignore[index]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_widgets_of_another_version_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = {"_anywidget_id": "anonfolio.view.stepper.Stepper"}
    model = anywidget(**ours, _esm="export default 'of yesterday'")
    assert tool.main([str(book(tmp_path, shows("a"), a=model)), "--output", str(tmp_path / "site")]) == 1
    assert capsys.readouterr().err.startswith("07_tlb_reach.ipynb: stored with widgets of another version")
    # Somebody else's is none of ours, and waits for a kernel as ever.
    for other in (anywidget(**ours), anywidget(_anywidget_id="its.own", _esm=HOSTILE)):
        assert tool.main([str(book(tmp_path, shows("a"), a=other)), "--output", str(tmp_path / "site")]) == 0
    assert capsys.readouterr().err == ""


def test_a_front_end_is_stored_once(site: Path) -> None:
    stored = stored_widgets(site / f"{NOTEBOOKS[0].stem}.html")
    assert len(stored["models"]) > len(stored["fronts"])


def test_the_site_is_light_enough_to_mail(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.iterdir()) <= 6_000_000


def test_a_style_sheet_of_drawings_is_written_once() -> None:
    drawing = "<svg><style>.a{fill:red}</style><path/></svg>"
    page = tool.sheets_once(drawing + drawing + "<svg><style>.b{fill:red}</style></svg>")
    assert re.findall(r"<style>(.*?)</style>", page) == [".a{fill:red}", ".b{fill:red}"]
    assert page.index(".b{fill:red}") < page.index("<path/>")
    assert tool.sheets_once("<p>style</p>") == "<p>style</p>"


def test_an_empty_corner_of_a_table_is_no_heading(tmp_path: Path) -> None:
    table = book(tmp_path, new_markdown_cell("# t\n\n| | a |\n|---|---|\n| b | c |\n", id="1"))
    tool.build([table], tmp_path)
    html = (tmp_path / f"{table.stem}.html").read_text()
    assert re.search(r"<td>\s*</td>\s*<th>a</th>", html)
    assert not re.search(r"<th>\s*</th>", html)


def test_code_in_a_table_breaks_where_a_name_has_a_joint(tmp_path: Path) -> None:
    markdown = mistune.create_markdown(renderer=tool.Markdown(tmp_path, []), plugins=["table"])
    html = str(markdown("|a|b|\n|-|-|\n|`wp_page_copy`|`mm/memory.c`, `__x`|\n"))
    assert "<code>wp_<wbr>page_<wbr>copy</code>" in html
    assert "<code>mm/<wbr>memory.c</code>, <code>__<wbr>x</code>" in html
    assert "<wbr>" not in str(markdown("`wp_page_copy`"))


def test_the_toy_stands_below_the_title_of_its_page(site: Path) -> None:
    page = (site / "12_playground.html").read_text(encoding="utf-8")
    places = [
        page.index(words)
        for words in ("<h1", "<strong>Afterwards you can</strong>", 'id="toy-title"', ">Answer first</h2>")
    ]
    assert places == sorted(places)


def test_every_page_says_what_it_is_about(site: Path) -> None:
    found = [re.findall(r'<meta name="description" content="([^"]+)">', path.read_text()) for path in site.iterdir()]
    assert all(len(words) == 1 and len(words[0]) > 30 and "*" not in words[0] for words in found)
    assert len({words[0] for words in found}) == len(found)


SCROLLING = """() => [
  ...document.querySelectorAll("pre, .wide, .wide > div, .afs-view, .afs-program"),
].filter((node) => {
  const style = getComputedStyle(node);
  return node.checkVisibility() && (/auto|scroll/.test(style.overflowX) && node.scrollWidth > node.clientWidth + 1
    || /auto|scroll/.test(style.overflowY) && node.scrollHeight > node.clientHeight + 1);
})"""


@pytest.mark.browser
def test_what_scrolls_is_reached_by_keyboard_and_what_fits_is_no_stop(site: Path, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto((site / f"{NOTEBOOKS[0].stem}.html").as_uri())
    ready(page)
    unreached = f"({SCROLLING})().filter((node) => node.tabIndex < 0).length"
    page.wait_for_function(f"() => ({SCROLLING})().length > 5 && {unreached} === 0")
    many = page.locator("[data-scrolled]").count()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_function(
        f"many => document.querySelectorAll('[data-scrolled]').length < many && {unreached} === 0", arg=many
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 384])
def test_a_picture_of_16_pages_is_seen_whole_on_a_phone(site: Path, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((site / f"{NOTEBOOKS[0].stem}.html").as_uri())
    ready(page)
    too_wide = page.locator(".afs-view:visible").evaluate_all(
        "views => views.map((view) => view.scrollWidth - view.clientWidth)"
    )
    assert set(too_wide) == {0}


@pytest.mark.browser
@pytest.mark.parametrize("name", ["00_start_here", "04_cow_copy_order"])
def test_on_paper_nothing_is_cut_off_and_no_answer_is_given_away(site: Path, page: Page, name: str) -> None:
    page.set_viewport_size({"width": 700, "height": 1000})  # what A4 leaves between its margins
    page.goto((site / f"{name}.html").as_uri())
    ready(page)
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(f"({SCROLLING})().length") == 0
    # Panes stand side by side or below each other, never one over the other.
    assert page.evaluate("""() => {
      const boxes = [...document.querySelectorAll(".afs-pane")].map((pane) => pane.getBoundingClientRect());
      const apart = (one, other) => one.bottom <= other.top + 1 || one.right <= other.left + 1;
      return boxes.length > 1 && boxes.every((box, at) => !at || apart(boxes[at - 1], box));
    }""")
    assert page.locator(".afs-pane > .afs-view > svg").count() > 1
    for answer in page.locator("details.answer").all():
        assert not answer.is_visible()


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="nothing here reads a PDF (poppler-utils)")
def test_a_pdf_holds_the_text_of_every_pane(site: Path, page: Page, tmp_path: Path) -> None:
    page.goto((site / "00_start_here.html").as_uri())
    ready(page)
    pdf = tmp_path / "page.pdf"
    page.pdf(path=pdf, format="A4")
    printed = subprocess.run(["pdftotext", "-raw", str(pdf), "-"], capture_output=True, text=True, check=True).stdout
    # Letters alone: a PDF keeps no word together.
    letters = "".join(printed.split())
    panes = [pane for pane in page.locator(".afs-pane").all() if pane.is_visible()]
    assert len(panes) >= 2
    for pane in panes:
        lines = pane.locator(".afs-label, .afs-differs, .afs-view > svg text").all_text_contents()
        assert len(lines) > 20
        assert [line for line in lines if "".join(line.split()) not in letters] == []


# --- a stranger's notebook --------------------------------------------------------------------------------------------

SCRIPT = "<script>window.hacked = 'script'</script>"
IMAGE = "<img src=x onerror=\"window.hacked = 'image'\">"
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/>{}</svg>'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def out(**data: str) -> Any:
    return new_code_cell(
        "1", outputs=[new_output("display_data", {k.replace("_", "/", 1): v for k, v in data.items()})]
    )


HOSTILE_CELLS = {
    "markdown script": new_markdown_cell(f"a {SCRIPT} b\n\n{SCRIPT}\n\n{IMAGE}"),
    "markdown link": new_markdown_cell("[go](javascript:window.hacked='link') <a href='data:text/html,x'>there</a>"),
    "markdown frame": new_markdown_cell("<iframe srcdoc=\"<script>parent.hacked='frame'</script>\"></iframe>"),
    "heading": new_markdown_cell(f'## "{IMAGE} {SCRIPT}'),
    "code": new_code_cell(SCRIPT),
    "text": out(text_plain=SCRIPT),
    "html": out(
        text_html=f"<b>kept</b>{SCRIPT}{IMAGE}<svg onload=\"window.hacked='svg'\"><style>@import 'x'</style></svg>"
    ),
    "style": out(text_html="<p style=\"background:url('http://example.org/x.png');color:red\">kept</p>"),
    "drawing with a script": out(**{"image_svg+xml": DRAWING.format("<script>window.hacked='drawn'</script>")}),
    "drawing with a handler": out(**{"image_svg+xml": DRAWING.format("<g onload=\"window.hacked='loaded'\"/>")}),
    "drawing with html": out(
        **{"image_svg+xml": DRAWING.format("<title><![CDATA[><script>window.hacked='title'</script>]]></title>")}
    ),
    "drawing that is none": out(**{"image_svg+xml": f"<svg>{SCRIPT}"}),
    "png": out(image_png=f'{PIXEL}" onerror="window.hacked=1'),
    "png, words": out(image_png=PIXEL, text_plain='" onload="window.hacked=1'),
    "widget": shows("hostile", text_html="<i>stored</i>"),
    "widget name": shows('x"><script>window.hacked=1</script>'),
}


@pytest.mark.sweep(4)
@pytest.mark.browser
@pytest.mark.parametrize("name", HOSTILE_CELLS)
def test_nothing_of_a_strangers_notebook_runs(browser: Browser, tmp_path: Path, name: str) -> None:
    models = {
        "hostile": anywidget(said="x", _esm=HOSTILE),
        'x"><script>window.hacked=1</script>': anywidget(said="x"),
        "own": anywidget(said="x", _css="</style><script>window.hacked='css'</script>"),
    }
    path = book(tmp_path, new_markdown_cell("# About"), HOSTILE_CELLS[name], new_markdown_cell("the end"), **models)
    path = path.rename(tmp_path / "07_a\"><script>window.hacked='name'<script>&.ipynb".replace("/", ""))
    tool.build([path], tmp_path / "site")
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if not allowed(request) else None)
    for file in (tmp_path / "site" / "index.html", tmp_path / "site" / f"{path.stem}.html"):
        page.goto(file.as_uri())
        ready(page)
        assert page.evaluate("window.hacked") is None
        assert page.locator("main").count() == 1
    assert "the end" in page.locator("main").inner_text()
    assert page.locator("iframe, object, embed, form, [onload], [onerror]").count() == 0
    assert asked == []
    context.close()


def test_a_drawing_of_the_library_stays_a_drawing_and_another_becomes_an_image() -> None:
    shapes = DRAWING.format('<style>text{fill:red}</style><use href="#a"/><rect fill="url(#b)"/>')
    assert tool.shapes_alone(shapes)
    assert "<svg" in tool.shown_as({"image/svg+xml": shapes})
    for inside in (
        '<image href="x.png"/>',
        '<use href="x.svg#a"/>',
        '<rect fill="url(http://a/b)"/>',
        "<foreignObject/>",
    ):
        assert not tool.shapes_alone(DRAWING.format(inside))
        assert "<svg" not in tool.shown_as({"image/svg+xml": DRAWING.format(inside)})


def test_of_style_sheets_the_librarys_own_stay_and_none_is_read_as_text() -> None:
    told = tool.harmless(f"<style>{STYLE}</style><p>a report</p><style>p {{ position: fixed }}</style><p>more</p>")
    assert told == f"<style>{STYLE}</style><p>a report</p><p>more</p>"
    assert "fixed" not in tool.harmless("<style>p { position: fixed }</style>")


@pytest.mark.parametrize(("svg", "px"), [
    ('<svg viewBox="0 0 620 90" width="100%">', 620), ('<svg viewBox="0 0 9 9" width="532.8pt">', 710), ("<svg>", 620),
])  # fmt: skip
def test_a_drawing_is_as_wide_as_it_was_drawn(svg: str, px: int) -> None:
    assert tool.drawn_px(svg) == px


def test_an_image_of_markdown_lies_in_the_project(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secret.png").write_bytes(b"outside")
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    renderer = tool.Markdown(tmp_path / "project" / "notebooks", [])
    for url in ("../../secret.txt", "../../secret.png", "http://example.org/x.png"):
        assert "data:" not in renderer.image("words", url)
