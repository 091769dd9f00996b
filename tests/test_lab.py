"""Every notebook in JupyterLab, as a reader opens it: cells run, steppers step, answers are judged, nothing leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_support import Lab, close_notebook, lab_page, open_notebook, run_all, tab_through, walk

from anonfolio.exercises import start_here

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ElementHandle, Page

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
def close(page: Page) -> Iterator[None]:
    yield
    close_notebook(page)


def shown(page: Page, at: int) -> ElementHandle:
    cell = page.evaluate_handle("at => hands.show(at)", at).as_element()
    assert cell is not None
    return cell


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
        cell = page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{at}']")
        assert cell.locator(".jp-RenderedSVG").count() == 0
        # A `Stepper` or a kind of it; other widgets have tests of their own.
        if data["text/plain"].partition(" ")[0].endswith("Stepper"):
            walk(cell.locator(".afs"), mouse=n == 0)


@pytest.mark.usefixtures("close")
def test_answers_are_kept_compared_and_judged(page: Page) -> None:
    open_notebook(page, FIRST)
    assert failures(run_all(page)) == []

    def says(before: str, after: str) -> str:
        at = page.evaluate("([old, new_]) => hands.within(30, 'a cell', hands.answer(old, new_))", [before, after])
        output = shown(page, at).wait_for_selector(".jp-OutputArea-output")
        assert output is not None
        return output.inner_text()

    right = start_here.backed.answer
    assert f"you say {right + 1} pages" in says("backed.predict(...)", f"backed.predict({right + 1})")
    assert f"You said {right + 1} pages; it is {right} pages." in says("backed.compare()", "backed.compare()")
    # What was compared stays; who wants to answer anew says so.
    stays = says(f"backed.predict({right + 1})", f"backed.predict({right})")
    assert f"stays as it was: you say {right + 1} pages." in stays
    anew = f"backed.forget(); q.backed.predict({right})"
    assert f"you say {right} pages" in says(f"backed.predict({right})", anew)
    assert f"As you said: {right} pages." in says("backed.compare()", "backed.compare()")
    # Without an answer it is a card to click, with its own style sheet beside the stepper's.
    assert "Show me" in says("writable.check(...)", "writable.check(...)")
    ids = page.evaluate("[...document.querySelectorAll('style')].map((sheet) => sheet.id)")
    assert {"anonfolio.view.program.asked", "anonfolio.view.program.stepper"} <= {*ids}
    wrong = says("writable.check(...)", "writable.check({15})")
    assert wrong.startswith("Not page 15.")
    assert says("check({15})", f"check({set(start_here.writable.answer)})").startswith("Right: ")


@pytest.mark.usefixtures("close")
def test_tab_reaches_a_stepper_and_leaves_it(page: Page) -> None:
    open_notebook(page, FIRST)
    outputs = run_all(page)
    widgets = [(at, out["data"]) for at, cell in enumerate(outputs) for out in cell if VIEW in out.get("data", {})]
    at = next(at for at, data in widgets if data["text/plain"].startswith("Stepper"))
    shown(page, at).wait_for_selector(".jp-OutputArea .afs")
    page.evaluate("at => { hands.panel.content.activeCellIndex = at; hands.panel.content.activate(); }", at)
    assert tab_through(page) > 3
