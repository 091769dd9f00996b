"""Notebooks in JupyterLab, as a reader opens them: cells run, steppers step, answers are judged, nothing leaves."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from browser_support import (
    Lab,
    close_notebook,
    lab_page,
    open_notebook,
    run_cells,
    run_to,
    tab_through,
    then,
    verdict,
    walk,
    walk_quickly,
)
from nbformat.sign import NotebookNotary
from test_playground_browser import button, note
from test_playground_browser import cell as page_of

from anonfolio.exercises import cow_copy_order, start_here
from anonfolio.lesson import answers
from anonfolio.program.scenario import Scenario

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ElementHandle, Locator, Page

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
FIRST = NOTEBOOKS[0]
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def opened(lab: Lab, browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    with lab_page(lab, browser) as opened:
        yield opened


@pytest.fixture
def page(opened: tuple[Page, list[str]], lab: Lab) -> Iterator[Page]:
    """JupyterLab with no notebook open; nobody has answered, no script may fail, and no other machine be asked."""
    page, wrong = opened
    wrong.clear()
    yield page
    close_notebook(page)
    # Answers are kept beside the notebooks.
    (lab.root / answers.FILE).unlink(missing_ok=True)
    assert wrong == []


def open_copy(page: Page, lab: Lab, path: Path) -> None:
    """Open a notebook as it is stored: JupyterLab saves what has been open for two minutes, as it is then."""
    shutil.copy(path, lab.root)
    open_notebook(page, path.name)


def shown(page: Page, at: int) -> ElementHandle:
    cell = page.evaluate_handle("at => hands.show(at)", at).as_element()
    assert cell is not None
    return cell


def cell_at(page: Page, at: int) -> Locator:
    return page.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{at}']")


def cell(page: Page, source: str) -> Locator:
    """The cell with that in it, scrolled to."""
    found = "source => [...hands.panel.model.cells].findIndex((it) => it.sharedModel.getSource().includes(source))"
    at = page.evaluate(found, source)
    page.evaluate("at => hands.show(at)", at)
    return cell_at(page, at)


def run(page: Page, before: str, after: str | None = None) -> Locator:
    """Run one cell, something in it replaced."""
    changed = [before, before if after is None else after]
    at = page.evaluate("([old, new_]) => hands.within(60, 'a cell', hands.answer(old, new_))", changed)
    page.evaluate("at => hands.show(at)", at)
    return cell_at(page, at)


def failures(outputs: list[list[Any]]) -> list[str]:
    return [f"cell {at}: {out['ename']}: {out['evalue']}" for at, cell in enumerate(outputs) for out in cell
            if out["output_type"] == "error"]  # fmt: skip


def views(outputs: list[list[Any]]) -> list[tuple[int, dict[str, Any]]]:
    """The cells that show a widget, and what is stored beside it."""
    return [(at, out["data"]) for at, cell in enumerate(outputs) for out in cell if VIEW in out.get("data", {})]


@pytest.mark.sweep(14)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_its_steppers_step_and_let_tab_through(page: Page, lab: Lab, path: Path) -> None:
    stored = views([cell.get("outputs", []) for cell in nbformat.read(path, 4).cells])
    open_copy(page, lab, path)
    # What runs below the last widget shows none; nbval compares what it prints.
    outputs = run_to(page, stored[-1][0])
    assert failures(outputs) == []
    widgets = views(outputs)
    assert [at for at, _ in widgets] == [at for at, _ in stored]
    steppers = 0
    for at, data in widgets:
        shown(page, at).wait_for_selector(".jp-OutputArea-output button")
        # Where there is a widget, the picture stored beside it is not shown too.
        cell = cell_at(page, at)
        assert cell.locator(".jp-RenderedSVG").count() == 0
        # A `Stepper` or a kind of it; other widgets have tests of their own.
        if not data["text/plain"].partition(" ")[0].endswith("Stepper"):
            continue
        walk_quickly(cell.locator(".afs"))
        steppers += 1
        if steppers == 1:
            walk(cell.locator(".afs"))
            page.evaluate("at => { hands.panel.content.activeCellIndex = at; hands.panel.content.activate(); }", at)
            assert tab_through(page) > 3
    assert steppers


def test_answers_are_kept_compared_and_judged(page: Page, lab: Lab) -> None:
    from playwright.sync_api import expect

    open_copy(page, lab, FIRST)

    def says(before: str, after: str, words: str) -> None:
        """What the cell says then, once it does: a widget is drawn when its script has come."""
        output = run(page, before, after).locator(".jp-OutputArea-output").first
        expect(output).to_contain_text(re.compile(words))

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
    run(page, "four = q.four_paths")
    run(page, "other=four.run(RFC_V2)").locator(".afs").wait_for()
    ids = page.evaluate("[...document.querySelectorAll('style')].map((sheet) => sheet.id)")
    assert {"anonfolio.view.program.asked", "anonfolio.view.program.stepper"} <= {*ids}
    says("writable.check(...)", "writable.check({15})", r"^\s*Not page 15\.")
    says("check({15})", f"check({set(start_here.writable.answer)})", r"^\s*Right: ")


# --- a stepper, the playground --------------------------------------------------------------------------------------

STEPPER = """\
from anonfolio.program.scenario import Scenario
from anonfolio.view import Stepper

copy = Scenario(8, (("write", 0, 0, 7), ("fork", 0), ("write", 1, 2, 9)), orders=(3,), name="copy")
Stepper(copy.run("linux-6.15"))"""

PLAYGROUND = """\
from anonfolio.view import Playground

play = Playground()
play"""


def test_jupyterlab_renders_the_widget_and_steps_it(page: Page, lab: Lab) -> None:
    (output,) = run_cells(page, lab, "copy.ipynb", STEPPER)
    assert "Stepper copy: step 3 of 3" in "".join(output["data"]["text/plain"])
    assert "image/svg+xml" in output["data"]

    widget = page.locator(".jp-OutputArea .afs")
    widget.wait_for()
    # The widget, not the static picture beside it.
    assert page.locator(".jp-RenderedSVG").count() == 0
    assert widget.get_attribute("data-step") == "3"
    button(page, "Back").click()
    assert widget.get_attribute("data-step") == "2"
    # Home would select the first cell, and letters are commands, if JupyterLab heard them.
    active = "document.querySelector('.jp-Notebook').classList.contains('jp-mod-commandMode') && " \
             "document.activeElement.closest('.afs') !== null"  # fmt: skip
    for key, step in (("Home", "0"), ("ArrowRight", "1"), ("b", "1"), ("End", "3")):
        page.keyboard.press(key)
        assert widget.get_attribute("data-step") == step
        assert page.evaluate(active)
    assert page.evaluate("hands.panel.content.widgets.length") == 1


ASK = """(source) => new Promise((said) => {
  const future = hands.panel.sessionContext.session.kernel.requestExecute({ code: source });
  let text = "";
  future.onIOPub = (message) => { if (message.header.msg_type === "stream") text += message.content.text; };
  future.done.then(() => said(text.trim()));
})"""


@pytest.mark.long
def test_in_jupyterlab_the_kernel_answers_every_click(page: Page, lab: Lab) -> None:
    (output,) = run_cells(page, lab, "play.ipynb", PLAYGROUND)
    assert "image/svg+xml" in output["data"]
    root = page.locator(".jp-OutputArea .afg")
    root.wait_for()
    # The widget, not the static picture beside it.
    assert page.locator(".jp-RenderedSVG").count() == 0

    def steps(count: int, turn: int) -> None:
        page.wait_for_function(
            "([count, turn]) => { const { steps, turn: now } = document.querySelector('.afg').dataset;"
            " return Number(steps) === count && Number(now) === turn; }",
            arg=[count, turn],
        )

    page.wait_for_function("document.querySelector('.afg').dataset.kernel === 'there'")
    page_of(page, 0, 5).click()
    steps(1, 1)
    assert page_of(page, 0, 5).locator("title").text_content() == "page 5: A5, writable"
    button(page, "Fork process 0").click()
    steps(2, 2)
    # No shortcut of JupyterLab's: b would make a cell, x cut this one, Enter edit it, Shift+Enter run it.
    page.locator(".afg-view").focus()
    for key in ("b", "x", "Home", "ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    steps(3, 3)
    page.keyboard.press("Control+z")
    steps(2, 4)
    page.keyboard.press("Control+y")
    steps(3, 5)
    page.get_by_role("combobox", name="kernel").select_option("linux-6.3")
    steps(3, 6)
    assert "linux-6.3 first touch (1 page)" in note(page).inner_text()
    page.locator(".afg-program > summary").click()
    button(page, "Save").click()
    steps(3, 7)
    saved = lab.root / "my-program.scenario"
    assert Scenario.load(saved).steps == (("write", 0, 5, 1), ("fork", 0), ("write", 0, 1, 3))
    page.get_by_label("for at most").fill("1")
    button(page, "Search").click()
    # Turn 8 says that it searches; a short search may have ended before a frame is drawn.
    steps(3, 9)
    assert "no proof" in note(page, "search").inner_text()
    page.get_by_label("for at most").fill("6")
    button(page, "Search").click()
    button(page, "Cancel").click()
    steps(3, 11)
    assert "stopped early (cancelled)" in note(page, "search").inner_text()
    # What is clicked is what Python has, and the other way round.
    assert page.evaluate(ASK, "print(len(play.scenario.steps), play.policy.name)") == "3 linux-6.3"
    page.evaluate(ASK, "play.exit(1)")
    steps(4, 12)
    assert page.evaluate("hands.panel.content.widgets.length") == 1


# --- questions ------------------------------------------------------------------------------------------------------


def test_nothing_shows_before_one_asks_and_answers_reach_python(page: Page, lab: Lab) -> None:
    open_copy(page, lab, FIRST)
    # As it is opened, before anything runs: no picture, no answer.
    for source in ("fault = parent.write(5, value=105)", "q.backed.compare()"):
        hidden = cell(page, source)
        hidden.locator(".jp-OutputPlaceholder, .jp-OutputArea-output").first.wait_for()
        assert not shows(hidden), source
    printed = cell(page, "print(fault)")
    printed.locator(".jp-OutputArea-output").first.wait_for()
    assert shows(printed)
    last = page.evaluate("hands.panel.model.cells.length") - 1
    assert failures(run_to(page, last)) == []
    asks = cell(page, "q.backed.predict(...)")
    asks.get_by_role("textbox", name="Your answer, in pages").fill("64")
    page.keyboard.press("Enter")
    asks.get_by_text("Kept: you say 64 pages.").wait_for()
    compare = cell(page, "q.backed.compare()")
    compare.get_by_text("You said 64 pages; it is 16 pages.").wait_for()
    # Python has heard it: compared anew it says the same, without a card.
    again = run(page, "q.backed.compare()")
    again.get_by_text("You said 64 pages; it is 16 pages.").wait_for()
    assert again.locator(".afq").count() == 0
    writable = cell(page, "q.writable.check(...)")
    writable.get_by_role("button", name="page 8", exact=True).click()
    writable.get_by_role("button", name="Answer").click()
    writable.get_by_text("Right: page 8.").wait_for()
    # Keys that are shortcuts of JupyterLab are the card's.
    cells = page.evaluate("hands.panel.model.cells.length")
    writable.get_by_role("button", name="page 8", exact=True).focus()
    for key in ("a", "b", "x", "d", "d"):
        page.keyboard.press(key)
    assert page.evaluate("hands.panel.model.cells.length") == cells
    assert kept(lab, "start_here.backed", [False])["given"] == [64]
    assert kept(lab, "start_here.writable", [True])["given"] == [[8]]


BY_HAND = (
    "from anonfolio.exercises import cow_copy_order, start_here\ncow_copy_order.order.check(...)",
    "cow_copy_order.damage.check(stale=..., leak=..., lost=...)",
    "start_here.writable.check(...)",
    "start_here.eight.check()",
)


def kept(lab: Lab, name: str, right: list[bool]) -> dict[str, Any]:
    """What Python's file says of a question, once all its answers have arrived: an order takes Python seconds."""
    path, entry = lab.root / answers.FILE, {}
    for _ in range(300):
        entry = answers.read(path).get(name, {}) if path.exists() else {}
        if entry.get("right") == right:
            return entry
        time.sleep(0.1)
    raise AssertionError(entry)


@pytest.mark.long
def test_all_that_is_clicked_is_by_mouse_and_by_keyboard(page: Page, lab: Lab) -> None:
    """Wrong by mouse, right by keyboard, then "Show me"; the file beside the notebook says the same."""
    run_cells(page, lab, "by_hand.ipynb", *BY_HAND)

    def card(source: str) -> Locator:
        return cell(page, source).locator(".afq")

    def tell(card: Locator, by: str = "") -> None:
        answer = card.get_by_role("button", name="Answer", exact=True)
        answer.press(by) if by else answer.click()

    order = card("order.check")
    then(order, "then allocate", "then copy", "then recheck", "then clear")
    tell(order)
    order.get_by_text("the fault is never finished").wait_for()
    then(order, "then flush", "then set", by="Enter")
    then(order, "then drop", by="Space")
    tell(order, "Enter")
    order.get_by_text("Right: the kernel's own order.").wait_for()
    assert kept(lab, "cow_copy_order.order", [False, True])["given"][-1] == list(cow_copy_order.KERNEL_COPY)

    damage = card("damage.check")
    then(damage, "lost: then CPU 0 to copy")
    tell(damage)
    damage.get_by_text("lost: no lost write yet.").wait_for()
    then(damage, "lost: then CPU 1 writes 66 to page 0", by="Enter")
    tell(damage, "Space")
    damage.get_by_text("1 of 3 shown.").wait_for()
    given = kept(lab, "cow_copy_order.damage", [False, True])["given"]
    assert given == [{"lost": ["copy"]}, {"lost": ["copy", ["cpu1", "write", 0, 66]]}]

    pages = card("writable.check")
    pages.get_by_role("button", name="page 7", exact=True).click()
    tell(pages)
    pages.get_by_text("Not page 7.").wait_for()
    pages.get_by_role("button", name="page 7", exact=True).press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    tell(pages, "Enter")
    pages.get_by_text("Right: page 8.").wait_for()
    assert kept(lab, "start_here.writable", [False, True])["given"] == [[7], [8]]

    cases = card("eight.check")
    groups = cases.get_by_role("radiogroup")
    groups.nth(1).get_by_text("first touch").click()
    tell(cases)
    cases.get_by_text("0 of 8 right.").wait_for()
    groups.nth(1).get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    cases.get_by_text("1 of 8 right.").wait_for()
    assert kept(lab, "start_here.eight", [False, True])["given"] == [{"b": "first touch"}, {"b": "zero page read"}]

    for one, words in ((order, "The kernel's own order:"), (damage, "stale: "), (pages, "page 8"), (cases, "a: ")):
        one.get_by_role("button", name="Show me").press("Enter")
        one.get_by_text("Solution of").wait_for()
        assert words in verdict(one)
    kept(lab, "start_here.eight", [False, True])
    assert page.evaluate("hands.panel.model.cells.length") == len(BY_HAND), "a key reached JupyterLab"


@pytest.mark.sweep(2)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_notebook_that_is_not_yet_run_shows_no_source_and_no_broken_link(page: Page, lab: Lab, signed: bool) -> None:
    path = lab.root / f"signed-{signed}.ipynb"
    notebook = nbformat.read(FIRST, 4)
    if signed:
        notary = NotebookNotary(data_dir=str(lab.root.parent / "JUPYTER_DATA"))
        notary.sign(notebook)
        notary.store.close()
    else:
        # Who signs a text signs its copies: this one is nobody's copy.
        notebook.metadata["about"] = "nobody's copy"
    nbformat.write(notebook, path)
    open_notebook(page, path.name)
    if signed and not appears(cell(page, "q.backed.predict(...)").locator(".afq")):
        # Seen twice on a busy machine, and why is not known: JupyterLab trusts it, and restores none of its widgets.
        # A reader opens it again.
        close_notebook(page)
        open_notebook(page, path.name)
    for source in ("q.backed.predict(...)", "other=four.run(RFC_V2)"):
        at = cell(page, source)
        at.locator(".afq, .afs" if signed else ".jp-OutputArea-output").first.wait_for()
        told = at.inner_text()
        assert not [tag for tag in ("<svg", "<div", "<p>", "<strong") if tag in told]
    assert signed or not page.locator(".afq, .afs").count()
    # JupyterLab's place for a widget has its mark until the widget's program has come.
    page.wait_for_function(f"() => !{BROKEN_LINK}")


def appears(what: Locator) -> bool:
    from playwright.sync_api import TimeoutError as TooLate

    try:
        what.first.wait_for(timeout=30_000)
    except TooLate:
        return False
    return True


BROKEN_LINK = """[...document.querySelectorAll(".jupyter-widgets-disconnected")]
    .some((node) => getComputedStyle(node, "::before").display !== "none")"""


def shows(cell: Locator) -> bool:
    """Whether a cell's output can be seen."""
    return any(output.is_visible() for output in cell.locator(".jp-OutputArea-output").all())
