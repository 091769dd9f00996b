"""Every notebook in JupyterLab, as a reader opens it: cells run, steppers step, answers are judged, nothing leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import Lab, tab_through, walk

from anonfolio.exercises import start_here

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ElementHandle, Page

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
FIRST = NOTEBOOKS[0].name
VIEW = "application/vnd.jupyter.widget-view+json"

# What the tests do in the page; `within` keeps a kernel that hangs from hanging the tests.
HANDS = """window.hands = {
  within: (seconds, what, work) => Promise.race([work, new Promise((_, fail) => {
    setTimeout(() => fail(new Error(`${what} took more than ${seconds} s`)), 1000 * seconds);
  })]),
  async open(path) {
    const panel = await jupyterapp.commands.execute("docmanager:open", { path, factory: "Notebook" });
    this.panel = panel;
    await panel.context.ready;
    await panel.sessionContext.ready;
  },
  outputs() {
    return [...this.panel.model.cells].map((cell) => (cell.type === "code" ? cell.outputs.toJSON() : []));
  },
  async runAll() {
    await jupyterapp.commands.execute("notebook:run-all-cells");
    return this.outputs();
  },
  async answer(before, after) {
    const cells = [...this.panel.model.cells];
    const at = cells.findIndex((cell) => cell.sharedModel.getSource().includes(before));
    const source = cells[at].sharedModel.getSource();
    this.panel.content.activeCellIndex = at;
    cells[at].sharedModel.setSource(source.replace(before, after));
    await jupyterapp.commands.execute("notebook:run-cell");
    return at;
  },
  // Only what is in view is drawn.
  async show(at) {
    await this.panel.content.scrollToItem(at, "start");
    return this.panel.content.widgets[at].node;
  },
  async close() {
    // A question that JupyterLab asks would stand before the next notebook too.
    document.querySelector(".jp-Dialog .jp-mod-reject")?.click();
    await this.panel.sessionContext.shutdown();
    this.panel.dispose();
  },
};"""


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[Page]:
    """JupyterLab with no notebook open, and copies of all of them to open."""
    for path in NOTEBOOKS:
        shutil.copy(path, lab.root)
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.set_default_timeout(30_000)
    outside: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not lab.serves(request.url) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(lab.page())
    page.wait_for_function("window.jupyterapp")
    page.evaluate("jupyterapp.restored.then(() => undefined)")
    page.evaluate(HANDS)
    yield page
    context.close()
    assert outside == []
    assert errors == []


def opened(page: Page, name: str) -> None:
    page.evaluate("name => hands.within(40, 'opening', hands.open(name))", name)


@pytest.fixture
def close(page: Page) -> Iterator[None]:
    yield
    page.evaluate("hands.within(20, 'closing', hands.close())")


def shown(page: Page, at: int) -> ElementHandle:
    cell = page.evaluate_handle("at => hands.show(at)", at).as_element()
    assert cell is not None
    return cell


def failures(outputs: list[list[Any]]) -> list[str]:
    return [f"cell {at}: {out['ename']}: {out['evalue']}" for at, cell in enumerate(outputs) for out in cell
            if out["output_type"] == "error"]  # fmt: skip


@pytest.mark.usefixtures("close")
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_runs_and_its_steppers_step(page: Page, name: str) -> None:
    opened(page, name)
    outputs = page.evaluate("hands.within(120, 'running', hands.runAll())")
    assert failures(outputs) == []
    widgets = [(at, out["data"]) for at, cell in enumerate(outputs) for out in cell if VIEW in out.get("data", {})]
    assert widgets
    for n, (at, data) in enumerate(widgets):
        shown(page, at).wait_for_selector(".jp-OutputArea-output button")
        # Where there is a widget, the picture stored beside it is not shown too.
        cell = page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{at}']")
        assert cell.locator(".jp-RenderedSVG").count() == 0
        # A `Stepper` or a kind of it; other widgets have tests of their own.
        if data["text/plain"].partition(" ")[0].endswith("Stepper"):
            walk(cell.locator(".afs"), mouse=n == 0)


@pytest.mark.usefixtures("close")
def test_answers_are_kept_compared_and_judged(page: Page) -> None:
    opened(page, FIRST)
    assert failures(page.evaluate("hands.within(120, 'running', hands.runAll())")) == []

    def says(before: str, after: str) -> str:
        at = page.evaluate("([old, new_]) => hands.within(30, 'a cell', hands.answer(old, new_))", [before, after])
        output = shown(page, at).wait_for_selector(".jp-OutputArea-output")
        assert output is not None
        return output.inner_text()

    right = start_here.backed.answer
    assert f"you say {right + 1} pages" in says("backed.predict(...)", f"backed.predict({right + 1})")
    assert f"You said {right + 1} pages; it is {right} pages." in says("backed.compare()", "backed.compare()")
    assert f"you say {right} pages" in says(f"backed.predict({right + 1})", f"backed.predict({right})")
    assert f"As you said: {right} pages." in says("backed.compare()", "backed.compare()")
    assert "Not answered yet" in says("writable.check(...)", "writable.check(...)")
    wrong = says("writable.check(...)", "writable.check({15})")
    assert wrong.startswith("Not page 15.")
    assert says("check({15})", f"check({set(start_here.writable.answer)})").startswith("Right: ")


@pytest.mark.usefixtures("close")
def test_tab_reaches_a_stepper_and_leaves_it(page: Page) -> None:
    opened(page, FIRST)
    outputs = page.evaluate("hands.within(120, 'running', hands.runAll())")
    at = next(at for at, cell in enumerate(outputs) for out in cell if VIEW in out.get("data", {}))
    shown(page, at).wait_for_selector(".jp-OutputArea .afs")
    page.evaluate("at => { hands.panel.content.activeCellIndex = at; hands.panel.content.activate(); }", at)
    assert tab_through(page) > 3
