"""Every notebook in JupyterLab, as a reader opens it: cells run, steppers step, answers are judged, nothing leaves."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_support import Lab, close_notebook, lab_page, open_notebook, run_all, tab_through, walk

from anonfolio.exercises import start_here
from anonfolio.lesson import answers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ElementHandle, Locator, Page

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
FIRST = NOTEBOOKS[0].name
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser) -> Iterator[Page]:
    """JupyterLab with no notebook open, and copies of all of them to open."""
    for path in NOTEBOOKS:
        shutil.copy(path, lab.root)
    with lab_page(lab, browser) as page:
        yield page


@pytest.fixture
def close(page: Page, lab: Lab) -> Iterator[None]:
    yield
    close_notebook(page)
    # Answers are kept beside the notebooks, which other tests open, too.
    (lab.root / answers.FILE).unlink(missing_ok=True)


def shown(page: Page, at: int) -> ElementHandle:
    cell = page.evaluate_handle("at => hands.show(at)", at).as_element()
    assert cell is not None
    return cell


def cell_at(page: Page, at: int) -> Locator:
    return page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{at}']")


def failures(outputs: list[list[Any]]) -> list[str]:
    return [f"cell {at}: {out['ename']}: {out['evalue']}" for at, cell in enumerate(outputs) for out in cell
            if out["output_type"] == "error"]  # fmt: skip


@pytest.mark.sweep(14)
@pytest.mark.usefixtures("close")
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_runs_and_its_steppers_step(page: Page, name: str) -> None:
    open_notebook(page, name)
    outputs = run_all(page)
    assert failures(outputs) == []
    widgets = [(at, out["data"]) for at, cell in enumerate(outputs) for out in cell if VIEW in out.get("data", {})]
    assert widgets
    for n, (at, data) in enumerate(widgets):
        shown(page, at).wait_for_selector(".jp-OutputArea-output button")
        # Where there is a widget, the picture stored beside it is not shown too.
        cell = cell_at(page, at)
        assert cell.locator(".jp-RenderedSVG").count() == 0
        # A `Stepper` or a kind of it; other widgets have tests of their own.
        if data["text/plain"].partition(" ")[0].endswith("Stepper"):
            walk(cell.locator(".afs"), mouse=n == 0)


@pytest.mark.usefixtures("close")
def test_answers_are_kept_compared_and_judged(page: Page) -> None:
    from playwright.sync_api import expect

    open_notebook(page, FIRST)
    assert failures(run_all(page)) == []

    def says(before: str, after: str, words: str) -> None:
        """What the cell says then, once it does: a widget is drawn when its script has come."""
        at = page.evaluate("([old, new_]) => hands.within(30, 'a cell', hands.answer(old, new_))", [before, after])
        page.evaluate("at => hands.show(at)", at)
        expect(cell_at(page, at).locator(".jp-OutputArea-output").first).to_contain_text(re.compile(words))

    right = start_here.backed.answer
    says("backed.predict(...)", f"backed.predict({right + 1})", f"you say {right + 1} pages")
    says("backed.compare()", "backed.compare()", rf"You said {right + 1} pages; it is {right} pages\.")
    # What was compared stays; who wants to answer anew says so.
    stays = rf"stays as it was: you say {right + 1} pages\."
    says(f"backed.predict({right + 1})", f"backed.predict({right})", stays)
    anew = f"backed.forget(); q.backed.predict({right})"
    says(f"backed.predict({right})", anew, f"you say {right} pages")
    says("backed.compare()", "backed.compare()", rf"As you said: {right} pages\.")
    # Without an answer it is a card to click, with its own style sheet beside the stepper's.
    says("writable.check(...)", "writable.check(...)", "Show me")
    ids = page.evaluate("[...document.querySelectorAll('style')].map((sheet) => sheet.id)")
    assert {"anonfolio.view.program.asked", "anonfolio.view.program.stepper"} <= {*ids}
    says("writable.check(...)", "writable.check({15})", r"^\s*Not page 15\.")
    says("check({15})", f"check({set(start_here.writable.answer)})", r"^\s*Right: ")


@pytest.mark.usefixtures("close")
def test_tab_reaches_a_stepper_and_leaves_it(page: Page) -> None:
    open_notebook(page, FIRST)
    outputs = run_all(page)
    widgets = [(at, out["data"]) for at, cell in enumerate(outputs) for out in cell if VIEW in out.get("data", {})]
    at = next(at for at, data in widgets if data["text/plain"].startswith("Stepper"))
    shown(page, at).wait_for_selector(".jp-OutputArea .afs")
    page.evaluate("at => { hands.panel.content.activeCellIndex = at; hands.panel.content.activate(); }", at)
    assert tab_through(page) > 3
