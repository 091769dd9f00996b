"""Questions by hand, in a real browser: judged as Python judges, answered by mouse and keyboard, nothing spoiled."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_support import as_new, quiet, quiet_page, show_widget, then, verdict
from site_support import NOTEBOOKS
from test_quiz import ASKED

from anonfolio.exercises import cow_copy_order, start_here
from anonfolio.lesson import answers
from anonfolio.lesson.quiz import Asked, Question

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser

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


@cache
def sheet_of(asked: Asked, mode: str) -> Any:
    """Some take a second to make."""
    return asked.sheet(mode)


def state_of(asked: Asked, mode: str, keep: Any = None) -> dict[str, Any]:
    sheet = keep(sheet_of(asked, mode)) if keep else sheet_of(asked, mode)
    return {"sheet": sheet, "mode": mode, "given": None, "hinted": 0, "shown": False, "unkept": ""}


def show(tab: Page, asked: Asked, mode: str, keep: Any = None) -> Locator:
    assert show_widget(tab, "asked", state_of(asked, mode, keep), MODEL) == []
    return tab.locator(".afq")


@pytest.fixture
def bare(kept: Page) -> Iterator[Page]:
    with quiet(kept, 800) as tab:
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


# The card is drawn as well: each is seen once. As one text: playwright takes a value apart piece by piece, for seconds.
JUDGE = """async (text) => {
  const [state, modes, given] = JSON.parse(text);
  const { default: widget, says, unseal } = await import("./asked.js");
  const model = { get: (name) => state[name], set() {}, on() {}, save_changes() {} };
  const el = document.getElementById("el");
  el.replaceChildren();
  await widget.render({ model, el });
  const right = await unseal(state.sheet);
  return JSON.stringify(given.map((one) => modes.map((mode) => says[mode](state.sheet, right, one))));
}"""


@pytest.fixture(scope="module")
def judge(browser: Browser) -> Iterator[Page]:
    """A page with a card, whose place others take."""
    with quiet_page(browser, 800) as tab:
        show(tab, ASKED["start_here.backed"], "check")
        yield tab


@pytest.mark.sweep(8)
@pytest.mark.parametrize("name", BY_HAND)
def test_the_browser_judges_every_answer_as_python_does(judge: Page, name: str) -> None:
    asked = BY_HAND[name]
    modes = ("predict", "compare", "check") if isinstance(asked, Question) else ("check",)
    given = tried(asked)
    judged = json.loads(judge.evaluate(JUDGE, json.dumps([state_of(asked, "check", stored), modes, given])))
    assert judge.locator(f".afq[data-question='{name}'] button").first.is_visible()
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


NAMES = """controls => controls.map((node) => (
  node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") ||
  node.closest("label")?.textContent || node.textContent).trim())"""
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
        names = card.locator("button, input, select").evaluate_all(NAMES)
        assert names
        assert all(names), name


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


@pytest.fixture(scope="module")
def offline(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    context = browser.new_context(offline=True)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    own = ("file:", "data:", "blob:", "about:")
    tab.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url[:200]))
    yield tab, wrong
    context.close()


@pytest.fixture
def tab(offline: tuple[Page, list[str]]) -> Iterator[Page]:
    """A page with no network, on which nothing may go wrong and which loads nothing but what one opens."""
    tab, wrong = offline
    wrong.clear()
    with as_new(tab, 1000):
        yield tab
    assert wrong == []


def goto(tab: Page, site: Path, stem: str) -> None:
    tab.goto((site / f"{stem}.html").as_uri())
    tab.wait_for_function("[...document.querySelectorAll('.widget')].every((place) => 'shown' in place.dataset)")


@pytest.mark.sweep(14)
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
        assert not tab.evaluate(SEEN, f"It is {asked._say(asked.answer)}.")
        ask, compare = tab.locator(f"[data-question='{name}']").all()
        assert "You have not answered" in compare.inner_text()
        wrong = next(given for given in tried(asked) if given != asked._plain(asked.answer))
        answer(ask, asked, wrong, press=by_script)
        assert ask.locator(".afq-verdict").inner_text().startswith("Kept: you say")
        assert asked._say(asked.answer) in compare.inner_text()
        assert compare.locator(".afq-wrong").count() == 1
        # What was compared stays; who wants to answer anew says so.
        assert ask.get_by_role("button", name="Answer").is_disabled()
        by_script(ask.get_by_role("button", name="Forget this one"))
        answer(ask, asked, asked._plain(asked.answer), press=by_script)
        assert compare.inner_text().startswith("As you said: ")
    assert tab.locator(".answer:not([open])").count() == 0
    goto(tab, site, path.stem)
    assert tab.locator(".afq-verdict .afq-right").count() == len(predicted)


SEEN = "words => document.querySelector('main').innerText.includes(words)"


def by_hand(control: Locator) -> None:
    control.click()


def by_script(control: Locator) -> None:
    """A click by mouse waits until all of a long page is drawn."""
    control.dispatch_event("click")


def answer(card: Locator, asked: Any, given: Any, press: Callable[[Locator], None] = by_hand) -> None:
    if asked.kind == "number":
        card.get_by_role("textbox").fill(str(given))
    elif asked.kind == "choice":
        press(card.locator(f"input[value='{given}']"))
    elif asked.kind == "pages":
        cells = card.locator(".afq-strip button")
        pressed = cells.evaluate_all("cells => cells.map((cell) => cell.ariaPressed === 'true')")
        for page, before in enumerate(pressed):
            if before != (page in given):
                press(cells.nth(page))
        if not given:
            press(card.get_by_role("checkbox"))
    else:
        for _ in range(card.locator(".afq-list li").count()):
            press(card.get_by_role("button", name="Take back"))
        for size in given:
            press(card.get_by_role("button", name=f"then {size}", exact=True))
    press(card.get_by_role("button", name="Answer"))


def test_answers_are_saved_as_the_file_that_python_reads(site: Path, tab: Page, tmp_path: Path) -> None:
    goto(tab, site, "00_start_here")
    card = tab.locator("[data-question='start_here.backed']").first
    answer(card, start_here.backed, 64)
    writable = tab.locator("[data-question='start_here.writable']")
    answer(writable, start_here.writable, [9])
    answer(writable, start_here.writable, [8])
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
