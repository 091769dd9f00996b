"""Questions by hand, in a real browser: judged as Python judges, answered by mouse and keyboard, nothing spoiled."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from browser_support import Lab, close_notebook, lab_page, open_notebook, quiet_page, run_all, show_widget
from nbformat.sign import NotebookNotary
from test_quiz import ASKED
from test_site import tool

from anonfolio.exercises import cow_copy_order, start_here
from anonfolio.lesson import answers
from anonfolio.lesson.quiz import Asked, Question

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
BY_HAND = {name: asked for name, asked in ASKED.items() if asked._asks() is not None}

MODEL = """
const model = {
  get: (name) => state[name], on() {}, save_changes() { window.saved = { ...state }; },
  set(name, value) { state[name] = value; },
};"""


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    for asked in ASKED.values():
        asked.forget()
    yield
    for asked in ASKED.values():
        asked.forget()


def stored(value: Any) -> Any:
    """As a notebook keeps it: every mapping's keys sorted."""
    return json.loads(json.dumps(value, sort_keys=True))


def show(tab: Page, asked: Asked, mode: str, keep: Any = None) -> Locator:
    sheet = keep(asked.sheet(mode)) if keep else asked.sheet(mode)
    state = {"sheet": sheet, "mode": mode, "given": None, "hinted": 0, "shown": False, "unkept": ""}
    assert show_widget(tab, "asked", state, MODEL) == []
    return tab.locator(".afq")


@pytest.fixture
def bare(browser: Browser) -> Iterator[Page]:
    with quiet_page(browser, 800) as tab:
        yield tab


# --- the same judging -----------------------------------------------------------------------------------------------


def tried(asked: Any) -> list[Any]:
    """Answers of every kind: the right one, each known mistake, and others near them and far."""
    draw = random.Random(7)
    if isinstance(asked, Question):
        known = [asked._plain(asked.answer), *(asked._plain(asked._read(mistake.means)) for mistake in asked.mistakes)]
    if asked.kind == "number":
        return [*known, *range(-2, 70), 511, 1000, 1024, 2049, 1_234_567]
    if asked.kind == "choice":
        return list(asked.options)
    if asked.kind == "pages":
        sets = [[page for page in range(asked.pages) if draw.random() < share] for share in (0.1, 0.5, 0.9) * 10]
        return [*known, [], *sets, *([page] for page in range(asked.pages))]
    if asked.kind == "sizes":
        near = [known[0][:at] for at in range(1, len(known[0]))] + [[*known[0], 1], [16], [2, *known[0][1:]]]
        return [*known, *near]
    if asked.kind == "cases":
        possible = list(asked.answers) or ["0", "1", "3", "4", "7", "8", "16", "48", "56", "64"]
        right = {letter: case.truth() for letter, case in asked.cases.items()}
        one = [{**right, letter: answer} for letter in right for answer in possible]
        alone = [{letter: answer} for letter in right for answer in possible[:2]]
        mixed = [{letter: draw.choice(possible) for letter in right} for _ in range(5)]
        return [right, *one, *alone, *mixed]
    if asked.kind == "order":
        steps = [*asked._asks()["steps"]]
        some = draw.sample(cow_copy_order.possible_orders(), 4)
        known = [cow_copy_order.KERNEL_COPY, *some, *(race.work[-1].order for race in cow_copy_order.ORDERS.values())]
        drawn = [draw.sample(steps, draw.randint(1, len(steps))) for _ in range(200)]
        return [[*(step for step in order if step != "store"), "store"] for order in (*known, *drawn)]
    if asked.kind == "events":
        return [drawn_events(asked, draw) for _ in range(300)] + [
            {name: as_json(hunt.worked) for name, hunt in asked.hunts.items()},
            {"leak": [], "lost": ["share"]},
            {"stale": ["set", "copy"]},
        ]
    sizes, reasons = asked._asks()["sizes"], list(asked._asks()["reasons"])
    alone = [{letter: [size, why]} for letter in asked.jobs for size in sizes for why in reasons]
    every = [{letter: [draw.choice(sizes), draw.choice(reasons)] for letter in asked.jobs} for _ in range(20)]
    return [*alone, *every]


def drawn_events(asked: Any, draw: random.Random) -> dict[str, list[Any]]:
    """What somebody may click: steps that are still to come, and up to three accesses, anywhere."""
    given = {}
    for name in draw.sample([*asked.hunts], draw.randint(1, 3)):
        hunt = asked._asks()["hunts"][name]
        at = sorted(draw.sample(range(len(hunt["steps"])), draw.randint(0, 3)))
        given[name] = [hunt["steps"][step] for step in at]
        for _ in range(draw.randint(not at, asked._asks()["most"])):
            given[name].insert(draw.randint(0, len(given[name])), list(draw.choice(hunt["accesses"])))
    return {name: given[name] for name in asked.hunts if name in given}


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def as_python_says(asked: Any, mode: str, given: Any) -> dict[str, Any]:
    asked.forget()
    if mode == "compare":
        asked.predict(given)
        said = asked.compare()
    else:
        said = getattr(asked, mode)(**given) if isinstance(given, dict) else getattr(asked, mode)(given)
    picture = said.picture.text() if said.picture is not None else ""
    told = {"kind": said.kind, "head": said.head, "lines": list(said.lines), "code": picture}
    return {key: value for key, value in told.items() if value}


@pytest.mark.sweep(8)
@pytest.mark.parametrize("name", BY_HAND)
def test_the_browser_judges_every_answer_as_python_does(bare: Page, name: str) -> None:
    asked = BY_HAND[name]
    modes = ("predict", "compare", "check") if isinstance(asked, Question) else ("check",)
    show(bare, asked, "check")
    given = tried(asked)
    judged = bare.evaluate(
        """async ([sheet, modes, given]) => {
          const { says, unseal } = await import("./asked.js");
          const right = await unseal(sheet);
          return given.map((one) => modes.map((mode) => says[mode](sheet, right, one)));
        }""",
        [stored(asked.sheet()), modes, given],
    )
    for one, told in zip(given, judged, strict=True):
        for mode, said in zip(modes, told, strict=True):
            assert {key: value for key, value in said.items() if value} == as_python_says(asked, mode, one), (mode, one)


@pytest.mark.sweep(10)
@pytest.mark.parametrize("name", BY_HAND)
def test_pythons_file_keeps_what_the_browser_keeps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer that is judged right or wrong counts, those that nobody could carry out too."""
    monkeypatch.setenv("ANONFOLIO_ANSWERS", str(tmp_path / answers.FILE))
    asked, every = BY_HAND[name], tried(BY_HAND[name])
    for given in (*every[:5], *random.Random(1).sample(every, min(12, len(every)))):
        told = as_python_says(asked, "check", given)
        entry = answers.read(tmp_path / answers.FILE)[name]
        assert (entry["given"][-1], entry["right"][-1]) == (given, told["kind"] == "right"), told


@pytest.mark.parametrize("name", ["cow_copy_order.damage", "cost_and_memory.choose"])
def test_a_stored_question_is_the_fresh_one(bare: Page, name: str) -> None:
    """A notebook sorts keys: the hunts of 04 stood on the page in another order than in Python."""
    fresh = show(bare, ASKED[name], "check").inner_text()
    assert show(bare, ASKED[name], "check", stored).inner_text() == fresh


def test_every_kind_is_judged() -> None:
    assert {asked.kind for asked in BY_HAND.values()} == {
        "number",
        "choice",
        "pages",
        "sizes",
        "cases",
        "pairs",
        "order",
        "events",
    }
    assert len(BY_HAND) >= 54


# --- by mouse and by keyboard ---------------------------------------------------------------------------------------


def saved(tab: Page) -> Any:
    return tab.evaluate("window.saved")


def verdict(card: Locator) -> str:
    return card.locator(".afq-verdict").inner_text()


def test_a_number_by_mouse_and_by_keyboard_wrong_and_right(bare: Page) -> None:
    card = show(bare, ASKED["start_here.backed"], "check")
    card.get_by_role("button", name="Answer").click()
    assert verdict(card) == "Type a whole number."
    card.get_by_role("textbox").click()
    bare.keyboard.type("1.5")
    bare.keyboard.press("Enter")
    assert verdict(card) == "Type a whole number."
    card.get_by_role("textbox").fill("1")
    card.get_by_role("button", name="Answer").click()
    assert "Not 1 page." in verdict(card)
    assert "kernels up to 6.7" in verdict(card)
    assert saved(bare)["given"] == 1
    card.get_by_role("textbox").fill("")
    bare.keyboard.type("16")
    bare.keyboard.press("Enter")
    assert "Right: 16 pages." in verdict(card)
    assert saved(bare)["given"] == 16


def test_a_choice_by_mouse_and_by_keyboard(bare: Page) -> None:
    card = show(bare, ASKED["start_here.last"], "check")
    card.get_by_text("no fault: the child is gone").click()
    card.get_by_role("button", name="Answer").click()
    assert "It does not touch the parent's page table." in verdict(card)
    card.get_by_role("radio").first.focus()
    bare.keyboard.press("ArrowDown")
    bare.keyboard.press("ArrowDown")
    bare.keyboard.press("Enter")
    assert verdict(card).startswith("Right: c, reuse")
    # Nothing of that reaches what the page does with keys.
    assert bare.evaluate("window.escaped") == []


def test_pages_by_mouse_by_drag_and_by_keyboard(bare: Page) -> None:
    card = show(bare, ASKED["start_here.writable"], "check")
    answer = card.get_by_role("button", name="Answer")

    def cell(page: int) -> Locator:
        return card.get_by_role("button", name=f"page {page}", exact=True)

    def chosen() -> list[int]:
        return [at for at in range(16) if cell(at).get_attribute("aria-pressed") == "true"]

    answer.click()
    assert verdict(card) == "Click the pages."
    cell(8).click()
    cell(12).click(modifiers=["Shift"])
    assert chosen() == [8, 9, 10, 11, 12]
    cell(10).click()
    assert chosen() == [8, 9, 11, 12]
    answer.click()
    assert "Not pages 8–9, 11–12." in verdict(card)
    assert "3 too many" in verdict(card)
    for page in (9, 11, 12):
        cell(page).click()
    cell(2).hover()
    bare.mouse.down()
    cell(4).hover()
    cell(5).hover()
    bare.mouse.up()
    assert chosen() == [2, 3, 4, 5, 8]
    cell(0).focus()
    for key in ("ArrowRight", *4 * ("ArrowRight", "Space")):
        bare.keyboard.press(key)
    assert chosen() == [8]
    bare.keyboard.press("Tab")
    bare.keyboard.press("Tab")
    bare.keyboard.press("Enter")
    assert verdict(card).startswith("Right: page 8.")
    assert saved(bare)["given"] == [8]


def test_a_list_in_order_and_taken_back(bare: Page) -> None:
    asked: Any = ASKED["first_touch.blocks"]
    card = show(bare, asked, "check")
    for size in (1, 4, 4):
        card.get_by_role("button", name=f"then {size}", exact=True).click()
    card.get_by_role("button", name="Answer").click()
    assert "The first 2 are right" in verdict(card)
    card.get_by_role("button", name="Take back").press("Enter")
    for size in asked.answer[2:]:
        card.get_by_role("button", name=f"then {size}", exact=True).press("Enter")
    card.get_by_role("button", name="Answer").press("Enter")
    assert verdict(card).startswith("Right: 1, 4, 8")


def test_cases_one_by_one(bare: Page) -> None:
    card = show(bare, ASKED["start_here.eight"], "check")
    groups = card.get_by_role("radiogroup")
    groups.nth(0).get_by_text("no fault", exact=True).click()
    groups.nth(1).get_by_text("first touch").click()
    card.get_by_role("button", name="Answer").click()
    assert "1 of 8 right." in verdict(card)
    assert "A read takes no memory" in verdict(card)
    assert "reads page 5" in card.locator("pre").inner_text()
    assert saved(bare)["given"] == {"a": "no fault", "b": "first touch"}


def then(card: Locator, *names: str, by: str = "click") -> None:
    for name in names:
        button = card.get_by_role("button", name=name, exact=True)
        if by == "click":
            button.click(force=button.get_attribute("aria-disabled") == "true")
        else:
            button.focus()
            button.page.keyboard.press(by)


def test_steps_in_order_by_mouse_and_by_keyboard(bare: Page) -> None:
    asked: Any = ASKED["cow_copy_order.order"]
    card = show(bare, asked, "check")
    answer = card.get_by_role("button", name="Answer", exact=True)
    answer.click()
    assert verdict(card) == "Choose the steps in order."
    then(card, "then allocate", "then copy", "then clear")
    # A step is done once: its button says so, and keeps the focus.
    then(card, "then copy")
    assert card.locator(".afq-list li").all_inner_texts() == ["allocate", "copy", "clear"]
    then(card, "then recheck", "then flush", "then set", "then drop")
    answer.click()
    assert "Nobody can do it in that order." in verdict(card)
    assert "'clear' comes before 'recheck'" in verdict(card)
    for _ in range(5):
        then(card, "Take back", by="Enter")
    then(card, "then recheck", "then clear", "then set", "then flush", "then drop", by="Enter")
    answer.press("Enter")
    assert "Stale read: P0 reads page 0 in a frame that it maps no longer" in verdict(card)
    assert "!! Stale read" in card.locator("pre").inner_text()
    for _ in range(3):
        then(card, "Take back", by="Space")
    then(card, "then flush", "then set", "then drop", by="Space")
    answer.press("Enter")
    assert verdict(card).startswith("Right: the kernel's own order.")
    assert saved(bare)["given"] == list(cow_copy_order.KERNEL_COPY)
    assert asked.check(saved(bare)["given"]).kind == "right"
    assert bare.evaluate("window.escaped") == []


def test_interleavings_by_mouse_and_by_keyboard(bare: Page) -> None:
    asked: Any = ASKED["cow_copy_order.damage"]
    card = show(bare, asked, "check")
    answer = card.get_by_role("button", name="Answer", exact=True)
    answer.click()
    assert verdict(card) == "Answer at least one."
    then(card, "lost: then CPU 0 to copy")
    answer.click()
    assert "lost: no lost write yet." in verdict(card)
    assert "Which step of CPU 0 must come before its store?" not in verdict(card)
    assert "page table of P1" in card.locator("pre").inner_text()
    then(card, "lost: then CPU 0 to share")  # is over
    then(card, "lost: then CPU 1 writes 66 to page 0")
    answer.click()
    assert "1 of 3 shown." in verdict(card)
    assert "Still open: stale, leak." in verdict(card)
    assert saved(bare)["given"] == {"lost": ["copy", ["cpu1", "write", 0, 66]]}
    for _ in range(4):
        then(card, "leak: then CPU 1 reads page 0", by="Enter")
    rows = card.locator(".afq-case").nth(1)
    assert rows.locator("li").all_inner_texts() == 3 * ["CPU 1 reads page 0"]
    for _ in range(3):
        then(card, "leak: Take back", by="Enter")
    then(card, "leak: then CPU 0 to drop", "leak: then CPU 2 writes 66 to page 0", by="Space")
    then(card, "leak: then CPU 1 reads page 0", by="Space")
    then(card, "stale: then CPU 0 to flush", "stale: then CPU 1 reads page 0", "stale: then CPU 0 to set", by="Enter")
    then(card, "stale: then CPU 2 writes 66 to page 0", "stale: then CPU 1 reads page 0", by="Enter")
    answer.press("Enter")
    assert "3 of 3 shown." in verdict(card)
    given = saved(bare)["given"]
    assert given == {name: as_json(hunt.worked) for name, hunt in asked.hunts.items()}
    assert asked.check(**given).head == "3 of 3 shown."
    assert bare.evaluate("window.escaped") == []


def test_hints_come_one_by_one_and_the_solution_when_asked(bare: Page) -> None:
    asked = ASKED["start_here.last"]
    card = show(bare, asked, "check")
    told = card.locator(".afq-hints")
    for number in range(len(asked.hints)):
        card.get_by_role("button", name="Hint").click()
        assert told.inner_text().count("Hint ") == number + 1
        assert asked.hints[number] in told.inner_text()
    assert card.get_by_role("button", name="Hint").is_hidden()
    card.get_by_role("button", name="Show me").click()
    assert "It is c, reuse" in verdict(card)
    assert (saved(bare)["hinted"], saved(bare)["shown"]) == (2, True)


IN_04 = ("cow_copy_order.order", "cow_copy_order.damage")


@pytest.mark.sweep(4)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 848])
def test_a_card_fits_and_every_control_has_a_name(bare: Page, scheme: Any, width: int) -> None:
    bare.emulate_media(color_scheme=scheme)
    bare.set_viewport_size({"width": width, "height": 800})
    for name in ("start_here.eight", "start_here.writable", "first_touch.blocks", "fork_and_share.counts", *IN_04):
        card = show(bare, ASKED[name], "check")
        assert bare.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for control in card.locator("button, input, select").all():
            assert control.evaluate(
                "node => (node.getAttribute('aria-label') || node.getAttribute('aria-labelledby') ||"
                " node.closest('label')?.textContent || node.textContent).trim()"
            )


# --- nothing is given away ------------------------------------------------------------------------------------------


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", BY_HAND)
def test_no_sheet_can_be_read_in_passing(name: str) -> None:
    asked = BY_HAND[name]
    sheet = asked.sheet()
    assert sheet is not None
    shown = json.dumps(sheet, ensure_ascii=False)
    for words in (*asked.hints, *asked._solved_lines(), *(mistake.says for mistake in getattr(asked, "mistakes", ()))):
        assert words not in shown


def test_a_prediction_says_nothing_until_it_is_compared(bare: Page) -> None:
    asked = ASKED["start_here.backed"]
    card = show(bare, asked, "predict")
    travels = bare.evaluate("async (sheet) => (await import('./asked.js')).unseal(sheet)", asked.sheet("predict"))
    assert travels == {"hints": list(asked.hints)}
    card.get_by_role("textbox").fill("16")
    bare.keyboard.press("Enter")
    assert verdict(card).split("\n")[0] == "Kept: you say 16 pages."
    assert verdict(card).endswith("Read on; the answer comes in a moment.")


def test_a_comparison_waits_for_an_answer_or_for_show_me(bare: Page) -> None:
    card = show(bare, ASKED["start_here.backed"], "compare")
    assert "You have not answered q.backed yet." in verdict(card)
    assert "16" not in card.inner_text()
    card.get_by_role("button", name="Show me").click()
    assert "It is 16 pages." in verdict(card)
    assert saved(bare)["shown"] is True


# --- on the pages ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page with no network, on which nothing may go wrong and which loads nothing but what one opens."""
    context = browser.new_context(viewport={"width": 900, "height": 1000}, offline=True)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    own = ("file:", "data:", "blob:")
    tab.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url[:200]))
    yield tab
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    tool.build(NOTEBOOKS, folder)
    return folder


def goto(tab: Page, site: Path, stem: str) -> None:
    tab.goto((site / f"{stem}.html").as_uri())
    tab.wait_for_function("[...document.querySelectorAll('.widget')].every((place) => 'shown' in place.dataset)")


@pytest.mark.sweep(13)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_on_a_page_every_answer_is_closed_until_asked_for(site: Path, tab: Page, path: Path) -> None:
    goto(tab, site, path.stem)
    bank = next(name.split(".")[0] for name in ASKED if path.stem.endswith(name.split(".")[0]))
    of_this = [name for name in ASKED if name.startswith(f"{bank}.")]
    predicted = [name for name in of_this if tab.locator(f"[data-question='{name}']").count() == 2]
    assert len(predicted) >= 3
    assert tab.locator(".answer[open]").count() == 0
    assert tab.locator(".needs-kernel").filter(has=tab.locator(".afq")).count() == 0
    for name in predicted:
        asked: Any = ASKED[name]
        seen = tab.locator("main").inner_text()
        assert f"It is {asked._say(asked.answer)}." not in seen
        ask, compare = tab.locator(f"[data-question='{name}']").all()
        assert "You have not answered" in compare.inner_text()
        wrong = next(given for given in tried(asked) if given != asked._plain(asked.answer))
        answer_by_hand(ask, asked, wrong)
        assert ask.locator(".afq-verdict").inner_text().startswith("Kept: you say")
        assert asked._say(asked.answer) in compare.inner_text()
        assert compare.locator(".afq-wrong").count() == 1
        # What was compared stays; who wants to answer anew says so.
        assert ask.get_by_role("button", name="Answer").is_disabled()
        ask.get_by_role("button", name="Forget this one").click()
        answer_by_hand(ask, asked, asked._plain(asked.answer))
        assert compare.inner_text().startswith("As you said: ")
    assert tab.locator(".answer:not([open])").count() == 0
    goto(tab, site, path.stem)
    assert tab.locator(".afq-verdict .afq-right").count() == len(predicted)


def answer_by_hand(card: Locator, asked: Any, given: Any) -> None:
    if asked.kind == "number":
        card.get_by_role("textbox").fill(str(given))
    elif asked.kind == "choice":
        card.locator(f"input[value='{given}']").check()
    elif asked.kind == "pages":
        for page, cell in enumerate(card.locator(".afq-strip button").all()):
            if (cell.get_attribute("aria-pressed") == "true") != (page in given):
                cell.click()
        if not given:
            card.get_by_role("checkbox").check()
    else:
        while card.locator(".afq-list li").count():
            card.get_by_role("button", name="Take back").click()
        for size in given:
            card.get_by_role("button", name=f"then {size}", exact=True).click()
    card.get_by_role("button", name="Answer").click()


def test_answers_are_saved_as_the_file_that_python_reads(site: Path, tab: Page, tmp_path: Path) -> None:
    goto(tab, site, "00_start_here")
    card = tab.locator("[data-question='start_here.backed']").first
    answer_by_hand(card, start_here.backed, 64)
    writable = tab.locator("[data-question='start_here.writable']")
    answer_by_hand(writable, start_here.writable, [9])
    answer_by_hand(writable, start_here.writable, [8])
    with tab.expect_download() as saved:
        writable.get_by_role("button", name="Save as JSON").click()
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    found = answers.read(path)
    assert path.name == answers.FILE
    assert (found["start_here.backed"]["given"], found["start_here.backed"]["right"]) == ([64], [False])
    assert found["start_here.writable"]["given"] == [[9], [8]]
    assert found["start_here.writable"]["right"] == [False, True]
    assert answers.score(found) == {"answered": 2, "right": 1, "at_once": 0}
    writable.get_by_role("button", name="Forget this one").click()
    assert writable.locator(".afq-note").count() == 0


# --- in JupyterLab --------------------------------------------------------------------------------------------------


def cell(tab: Page, source: str) -> Locator:
    found = "source => [...hands.panel.model.cells].findIndex((it) => it.sharedModel.getSource().includes(source))"
    at = tab.evaluate(found, source)
    tab.evaluate("at => hands.show(at)", at)
    return tab.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{at}']")


def run(tab: Page, source: str) -> Locator:
    tab.evaluate("([old, new_]) => hands.within(30, 'a cell', hands.answer(old, new_))", [source, source])
    return cell(tab, source)


def test_in_jupyterlab_nothing_shows_before_one_asks_and_answers_reach_python(lab: Lab, browser: Browser) -> None:
    shutil.copy(NOTEBOOKS[0], lab.root)
    with lab_page(lab, browser) as tab:
        open_notebook(tab, NOTEBOOKS[0].name)
        # As it is opened, before anything runs: no picture, no answer.
        assert not shows(cell(tab, "fault = parent.write(5, value=105)"))
        assert not shows(cell(tab, "q.backed.compare()"))
        cell(tab, "print(fault)").locator(".jp-OutputArea-output").first.wait_for()
        assert all(not failed(outputs) for outputs in run_all(tab))
        asks = cell(tab, "q.backed.predict(...)")
        asks.get_by_role("textbox", name="Your answer, in pages").fill("64")
        tab.keyboard.press("Enter")
        asks.get_by_text("Kept: you say 64 pages.").wait_for()
        compare = cell(tab, "q.backed.compare()")
        compare.get_by_text("You said 64 pages; it is 16 pages.").wait_for()
        # Python has heard it: compared anew it says the same, without a card.
        again = run(tab, "q.backed.compare()")
        again.get_by_text("You said 64 pages; it is 16 pages.").wait_for()
        assert again.locator(".afq").count() == 0
        writable = cell(tab, "q.writable.check(...)")
        writable.get_by_role("button", name="page 8", exact=True).click()
        writable.get_by_role("button", name="Answer").click()
        writable.get_by_text("Right: page 8.").wait_for()
        # Keys that are shortcuts of JupyterLab are the card's.
        cells = tab.evaluate("hands.panel.model.cells.length")
        writable.get_by_role("button", name="page 8", exact=True).focus()
        for key in ("a", "b", "x", "d", "d"):
            tab.keyboard.press(key)
        assert tab.evaluate("hands.panel.model.cells.length") == cells
        assert kept(lab, "start_here.backed", [False])["given"] == [64]
        assert kept(lab, "start_here.writable", [True])["given"] == [[8]]
        close_notebook(tab)
        (lab.root / answers.FILE).unlink()


IN_LAB = """from anonfolio.exercises import cow_copy_order, start_here
cow_copy_order.order.check(...)
cow_copy_order.damage.check(stale=..., leak=..., lost=...)
start_here.writable.check(...)
start_here.eight.check()"""


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
def test_in_jupyterlab_all_that_is_clicked_is_by_mouse_and_by_keyboard(lab: Lab, browser: Browser) -> None:
    """Wrong by mouse, right by keyboard, then "Show me"; the file beside the notebook says the same."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    cells = [nbformat.v4.new_code_cell(line, id=f"c{at}") for at, line in enumerate(IN_LAB.splitlines())]
    path = lab.root / "by_hand.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    with lab_page(lab, browser) as tab:
        open_notebook(tab, path.name)
        assert not any(map(failed, run_all(tab)))
        count = "hands.panel.model.cells.length"

        def card(source: str) -> Locator:
            return cell(tab, source).locator(".afq")

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
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Space")
        tell(pages, "Enter")
        pages.get_by_text("Right: page 8.").wait_for()
        assert kept(lab, "start_here.writable", [False, True])["given"] == [[7], [8]]

        cases = card("eight.check")
        groups = cases.get_by_role("radiogroup")
        groups.nth(1).get_by_text("first touch").click()
        tell(cases)
        cases.get_by_text("0 of 8 right.").wait_for()
        groups.nth(1).get_by_role("radio").first.focus()
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("Enter")
        cases.get_by_text("1 of 8 right.").wait_for()
        assert kept(lab, "start_here.eight", [False, True])["given"] == [{"b": "first touch"}, {"b": "zero page read"}]

        for one, words in ((order, "The kernel's own order:"), (damage, "stale: "), (pages, "page 8"), (cases, "a: ")):
            one.get_by_role("button", name="Show me").press("Enter")
            one.get_by_text("Solution of").wait_for()
            assert words in verdict(one)
        kept(lab, "start_here.eight", [False, True])
        assert tab.evaluate(count) == len(cells), "a key reached JupyterLab"
        close_notebook(tab)
    path.unlink()
    (lab.root / answers.FILE).unlink()


@pytest.mark.sweep(2)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_notebook_that_is_not_yet_run_shows_no_source_and_no_broken_link(
    lab: Lab, browser: Browser, signed: bool
) -> None:
    path = lab.root / f"signed-{signed}.ipynb"
    notebook = nbformat.read(NOTEBOOKS[0], 4)
    if signed:
        notary = NotebookNotary(data_dir=str(lab.root.parent / "JUPYTER_DATA"))
        notary.sign(notebook)
        notary.store.close()
    else:
        # Who signs a text signs its copies: this one is nobody's copy.
        notebook.metadata["about"] = "nobody's copy"
    nbformat.write(notebook, path)
    with lab_page(lab, browser) as tab:
        open_notebook(tab, path.name)
        for source in ("q.backed.predict(...)", "other=four.run(RFC_V2)"):
            at = cell(tab, source)
            at.locator(".afq, .afs" if signed else ".jp-OutputArea-output").first.wait_for()
            told = at.inner_text()
            assert not [tag for tag in ("<svg", "<div", "<p>", "<strong") if tag in told]
        assert signed or not tab.locator(".afq, .afs").count()
        # JupyterLab's place for a widget has its mark until the widget's program has come.
        tab.wait_for_function(f"() => !{BROKEN_LINK}")
        close_notebook(tab)
    path.unlink()


BROKEN_LINK = """[...document.querySelectorAll(".jupyter-widgets-disconnected")]
    .some((node) => getComputedStyle(node, "::before").display !== "none")"""


def shows(cell: Locator) -> bool:
    """Whether a cell's output can be seen."""
    return any(output.is_visible() for output in cell.locator(".jp-OutputArea-output").all())


def failed(outputs: list[Any]) -> bool:
    return any(out["output_type"] == "error" for out in outputs)
