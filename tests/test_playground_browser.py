"""The playground in a real browser: every click goes to Python and comes back; in JupyterLab, with a real kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_support import (
    check_dark_mode,
    check_nothing_is_cut_off,
    quiet,
    quiet_page,
    show_widget,
)

from anonfolio.program.scenario import Scenario
from anonfolio.view import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.browser


# A message goes to Python at once, and what it answers is the new view.
MODEL = """const heard = {};
window.sent = [];
const model = window.model = {
  get: (name) => state[name],
  on: (event, act) => (heard[event] ??= new Set()).add(act),
  off: (event, act) => heard[event].delete(act),
  send: async (message) => {
    window.sent.push(message);
    if (!window.python) return;
    state.view = JSON.parse(await window.python(JSON.stringify(message)));
    window.seen = state.view.turn;
    heard["change:view"].forEach((act) => act());
  },
};
window.heard = heard;"""


PLAYED: list[Playground] = []
"""Who hears what is clicked: the last one."""


@pytest.fixture(scope="module")
def with_kernel(kept: Page) -> Page:
    """The page, where clicks are answered by Python."""

    def python(message: str) -> str:
        play = PLAYED[-1]
        play._heard(play, json.loads(message), [])
        return json.dumps(play.view)

    kept.expose_function("python", python)
    return kept


@pytest.fixture
def page(with_kernel: Page) -> Iterator[Page]:
    with quiet(with_kernel, height=1400) as page:
        yield page


def show(page: Page, play: Playground) -> list[str]:
    """Open a page with the widget; returns the list of requests to outside."""
    PLAYED[:] = [play]
    return show_widget(page, "playground", {"fixed": play.fixed, "view": play.view}, MODEL)


def settled(page: Page, play: Playground) -> None:
    """Wait until what Python has is what the page shows, and check that it does."""
    page.wait_for_function(
        "turn => Number(document.querySelector('.afg').dataset.turn) === turn", arg=play.view["turn"]
    )
    assert page.locator(".afg-view > svg > title").text_content() == play.picture.sentence
    assert page.locator(".afg-view > svg > desc").text_content() == play.picture.text()
    assert play.picture.sentence in (page.locator(".afg-live").text_content() or "")


def acts(page: Page, play: Playground, act: Any, *, steps: int | None = None) -> None:
    """Do something in the page that Python answers; then the program has so many steps."""
    turn = play.view["turn"]
    act()
    page.wait_for_function("turn => window.seen > turn", arg=turn)
    settled(page, play)
    if steps is not None:
        assert len(play.scenario.steps) == steps


def cell(page: Page, process: int, vpn: int) -> Locator:
    return page.locator(f'.afg-view [data-process="{process}"][data-page="{vpn}"]')


def middle(page: Page, process: int, vpn: int) -> tuple[float, float]:
    box = cell(page, process, vpn).locator("rect").first.bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Page, process: int, first: int, last: int) -> None:
    page.mouse.move(*middle(page, process, first))
    page.mouse.down()
    page.mouse.move(*middle(page, process, (first + last) // 2))
    page.mouse.move(*middle(page, process, last))
    page.mouse.up()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def choose(page: Page, tool: str) -> None:
    if page.get_by_role("radio", name=tool, exact=True).count() == 0:
        page.locator(".afg-more > summary").click()
    page.get_by_role("radio", name=tool, exact=True).check()


def unfold(page: Page) -> None:
    """The mapping and the program, below the picture."""
    for summary in page.locator(".afg-fold > summary").all():
        summary.click()


def note(page: Page, place: str = "use") -> Locator:
    """What is said beside what asked for it; nothing is said elsewhere."""
    said = page.locator(f".afg-note[data-for={place}]")
    assert page.locator(".afg-note:not(:empty)").count() <= 1
    return said


def test_the_legend_comes_from_python_when_one_opens_it(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Playground(pages=16)
    show(page, play)
    told: list[Any] = []
    monkeypatch.setattr(play, "send", told.append)
    legend = page.locator(".afg-fold", has_text="Legend")
    assert legend.locator("svg").count() == 0
    legend.locator("summary").press("Enter")
    page.wait_for_function("window.sent.some((message) => message.verb === 'legend')")
    (answer,) = [message for message in told if "legend" in message]
    page.evaluate("message => window.heard['msg:custom'].forEach((act) => act(message))", answer)
    assert "thick bar: the process may write" in (legend.locator("svg").text_content() or "")
    assert "P0" in (legend.locator("xpath=..").locator(".afg-view").text_content() or "")


# --- by mouse -------------------------------------------------------------------------------------------------------


def test_a_click_writes_forks_exits_and_is_taken_back(page: Page) -> None:
    play = Playground()
    outside = show(page, play)
    before = page.locator(".afg-view").inner_html()
    acts(page, play, cell(page, 0, 5).click, steps=1)
    assert play.scenario.steps[-1] == ("write", 0, 5, 1)
    assert page.locator(".afg-view").inner_html() != before
    assert cell(page, 0, 5).locator("title").text_content() == "page 5: A5, writable"

    acts(page, play, button(page, "Fork process 0").click, steps=2)
    acts(page, play, cell(page, 1, 2).click, steps=3)
    assert play.scenario.steps[-1] == ("write", 1, 2, 3)
    assert cell(page, 1, 2).locator("title").text_content() == "page 2: B, writable"
    acts(page, play, button(page, "Exit process 1").click, steps=4)
    assert page.locator(".afg-person").all_text_contents()[1] == "P1 exited"
    assert button(page, "Fork process 1").count() == 0

    acts(page, play, button(page, "Undo (4)").click, steps=3)
    acts(page, play, button(page, "Undo (3)").click, steps=2)
    acts(page, play, button(page, "Redo (2)").click, steps=3)
    acts(page, play, button(page, "Start over").click, steps=0)
    acts(page, play, button(page, "Undo (4)").click, steps=3)
    assert outside == []


def test_pages_are_dragged_over_unmapped_and_moved(page: Page) -> None:
    play = Playground()
    show(page, play)
    acts(page, play, lambda: drag(page, 0, 0, 7), steps=8)
    choose(page, "Unmap")
    acts(page, play, lambda: drag(page, 0, 7, 4), steps=9)
    assert play.scenario.steps[-1] == ("munmap", 0, 4, 4)

    # There is no cell any more, but one can still see what happens there.
    choose(page, "Write")
    acts(page, play, cell(page, 0, 5).click, steps=10)
    assert "SIGSEGV" in (page.locator(".afg-live").text_content() or "")

    choose(page, "Move")
    cell(page, 0, 0).click()
    assert "Moving page 0 of process 0" in (note(page).text_content() or "")
    page.keyboard.press("Escape")
    assert note(page).text_content() == "Nothing is moved."
    drag(page, 0, 0, 3)
    acts(page, play, cell(page, 0, 4).click, steps=11)
    assert play.scenario.steps[-1] == ("mremap", 0, 0, 4, 4)
    assert play.timeline[-1].ok

    choose(page, "Read")
    cell(page, 0, 8).click()
    page.wait_for_function("document.querySelector('.afg').dataset.steps === '12'")
    acts(page, play, lambda: cell(page, 0, 11).click(modifiers=["Shift"]), steps=16)
    assert play.scenario.steps[-4:] == tuple(("read", 0, vpn) for vpn in range(8, 12))


def test_pins_advice_and_the_device_have_their_buttons(page: Page) -> None:
    play = Playground("rfc-v2")
    show(page, play)
    acts(page, play, cell(page, 0, 0).click)
    choose(page, "Advise")
    page.get_by_role("combobox", name="which").select_option("wipeonfork")
    acts(page, play, lambda: drag(page, 0, 8, 15))
    acts(page, play, button(page, "Fork process 0").click)
    page.get_by_role("combobox", name="which").select_option("keeponfork")
    acts(page, play, lambda: drag(page, 0, 8, 15))
    assert page.locator(".afg-broken").inner_text() == ""
    for tool, vpn in (("Pin", 10), ("Write", 2), ("Device writes", 10), ("Read", 10)):
        choose(page, tool)
        acts(page, play, cell(page, 0, vpn).click)
    assert [step[0] for step in play.scenario.steps[-4:]] == ["pin", "write", "dma_write", "read"]
    # A broken promise is said where nobody misses it, and once.
    assert page.get_by_role("alert").inner_text().startswith("Broken promise: step 6 breaks pinned_page_stays")
    choose(page, "Unpin")
    acts(page, play, cell(page, 0, 10).click)
    acts(page, play, cell(page, 0, 10).click)
    assert "holds no pin on page 10" in note(page).inner_text()
    assert note(page).get_attribute("data-kind") == "wrong"


def test_kernel_and_mapping_can_be_changed_under_the_program(page: Page) -> None:
    play = Playground("linux-6.9", scenario="one-page-left")
    show(page, play)
    kernel = page.get_by_role("combobox", name="kernel")
    acts(page, play, lambda: kernel.select_option("linux-6.8"))
    assert play.policy.name == "linux-6.8"
    assert "exclusive reuse (1 page), linux-6.9 cow copy (1 page)" in note(page).inner_text()
    unfold(page)
    assert page.locator(".afg-about").inner_text() == play.policy.about
    acts(page, play, page.get_by_label("64 KiB").uncheck)
    assert play.scenario.orders == (3, 2)
    acts(page, play, lambda: (page.get_by_label("pages", exact=True).fill("32"), page.keyboard.press("Tab")))
    assert play.scenario.pages == 32
    acts(page, play, lambda: (page.get_by_label("pages", exact=True).fill("3"), page.keyboard.press("Tab")))
    assert "outside the mapping" in note(page, "change").inner_text()
    assert page.get_by_label("pages", exact=True).input_value() == "32"
    # All of that is taken back like steps, the kernel last.
    for _ in range(3):
        acts(page, play, page.get_by_role("button", name="Undo").click)
    assert page.get_by_label("pages", exact=True).input_value() == str(Scenario.load("one-page-left").pages)
    assert page.get_by_label("64 KiB").is_checked()
    assert (kernel.input_value(), play.policy.name) == ("linux-6.9", "linux-6.9")
    assert note(page).inner_text() == "The kernel is linux-6.9 again."
    acts(page, play, page.get_by_role("button", name="Redo").click)
    assert (kernel.input_value(), play.policy.name) == ("linux-6.8", "linux-6.8")


def test_with_a_skew_the_pages_are_those_that_are_drawn(page: Page) -> None:
    play = Playground(skew=3)
    show(page, play)
    acts(page, play, cell(page, 0, 5).click)
    assert play.scenario.steps[-1] == ("write", 0, 2, 1)
    assert page.get_by_label("first page").input_value() == "5"
    page.get_by_label("first page").fill("18")
    page.keyboard.press("Tab")
    acts(page, play, page.locator(".afg-do").click)
    assert play.scenario.steps[-1] == ("write", 0, 15, 2)


# --- by keyboard ----------------------------------------------------------------------------------------------------


def test_it_can_be_played_without_a_mouse(page: Page) -> None:
    play = Playground()
    show(page, play)
    page.locator("#before button").focus()
    # What Tab reaches, in order, and each shows that it has the focus.
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        at, outlined = page.evaluate(
            """() => {
              const here = document.activeElement;
              const shown = here.matches(".afg-tool > input") ? here.nextElementSibling : here;
              return [here.closest(".afg") ? here.className || here.textContent || here.value || here.type : "",
                      parseFloat(getComputedStyle(shown).outlineWidth) >= 2];
            }"""
        )
        reached.append(at)
        if not at:
            break
        assert outlined, at
        if at == "afg-view":
            break
    assert reached[-1] == "afg-view"
    assert {"afg-policy", "write", "More"} <= set(reached)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Fork process 0"
    page.locator(".afg-view").focus()

    press = page.keyboard.press
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight"):
        press(key)
    assert page.locator(".afg-live").text_content() == "Process 0, page 3: nothing mapped; pages 2–3 chosen."
    acts(page, play, lambda: press("Enter"), steps=2)
    assert play.scenario.steps == (("write", 0, 2, 1), ("write", 0, 3, 2))
    press("End")
    acts(page, play, lambda: press(" "), steps=3)
    assert play.scenario.steps[-1] == ("write", 0, 15, 3)
    acts(page, play, lambda: press("Control+z"), steps=2)
    acts(page, play, lambda: press("Control+Shift+Z"), steps=3)
    acts(page, play, lambda: press("Control+z"), steps=2)
    acts(page, play, lambda: press("Control+y"), steps=3)

    button(page, "Fork process 0").focus()
    acts(page, play, lambda: press("Enter"), steps=4)
    # The button is drawn anew, and still has the focus.
    assert page.evaluate("document.activeElement.ariaLabel") == "Fork process 0"
    page.locator(".afg-view").focus()
    press("ArrowDown")
    acts(page, play, lambda: press("Enter"), steps=5)
    assert play.scenario.steps[-1] == ("write", 1, 15, 5)
    button(page, "Exit process 1").focus()
    acts(page, play, lambda: press("Enter"), steps=6)
    # That process has no button any more: the focus is not lost.
    assert page.evaluate("document.activeElement.className") == "afg-view"

    page.get_by_role("radio", name="Write", exact=True).focus()
    press("ArrowRight")
    press("ArrowRight")
    assert page.locator(".afg-tool input:checked").get_attribute("value") == "munmap"
    page.locator(".afg-view").focus()
    acts(page, play, lambda: press("Enter"), steps=7)
    assert play.scenario.steps[-1] == ("munmap", 0, 15, 1)
    # The other tools are folded away, and unfolded by a key.
    page.locator(".afg-more > summary").focus()
    press("Enter")
    page.get_by_role("radio", name="Unmap", exact=True).focus()
    for _ in range(3):
        press("ArrowRight")
    assert page.locator(".afg-tool input:checked").get_attribute("value") == "gup"
    assert page.locator(".afg-more > summary").inner_text() == "More: Read via kernel"
    assert set(page.evaluate("window.escaped")) <= {"Tab", "Shift", "Control"}


# --- the program ----------------------------------------------------------------------------------------------------


def test_the_program_is_typed_copied_saved_and_searched(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    play = Playground("rfc-v2", pages=4, orders=(2,))
    show(page, play)
    unfold(page)
    for step in ("write 0 0..3", "madvise 0 0 2 wipeonfork", "fork 0", "madvise 0 0 2 keeponfork"):
        page.get_by_label("type a step").fill(step)
        acts(page, play, lambda: page.keyboard.press("Enter"))
    assert len(play.scenario.steps) == 7
    assert page.get_by_label("the program").input_value() == play.scenario.text()

    # The clipboard is not there without https: then the text is marked for Ctrl+C.
    button(page, "Copy as code").click()
    assert page.get_by_label("the program").input_value() == play.code()
    page.wait_for_function("document.querySelector('.afg-copied').textContent !== ''")
    assert "opied the code" in page.locator(".afg-copied").inner_text() or page.evaluate(
        "document.activeElement.selectionEnd === document.activeElement.value.length"
    )
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "my-program.scenario"
    assert download.value.path().read_text() == play.scenario.text()
    acts(page, play, button(page, "Save").click)
    assert Scenario.load("my-program.scenario").steps == play.scenario.steps
    acts(page, play, button(page, "Save").click)
    assert "exists already" in note(page, "save").inner_text()

    page.get_by_label("for at most").fill("2")
    button(page, "Search").click()
    page.wait_for_function("window.sent.at(-1).verb === 'search'")
    assert page.evaluate("window.sent.at(-1)") == {"verb": "search", "steps": 2, "seconds": 20, "here": True}
    page.wait_for_function("window.model.send({ verb: 'hello' }), window.model.get('view').note[1].includes('Found')")
    settled(page, play)
    assert "2 more steps break pinned_page_stays" in note(page, "search").inner_text()
    assert "Broken promise" in page.get_by_role("alert").inner_text()
    assert page.locator(".afg-program").get_attribute("open") is not None


# --- without a kernel, small, dark ---------------------------------------------------------------------------------


def test_a_search_is_cancelled_where_it_was_begun(page: Page) -> None:
    play = Playground("linux-6.15", scenario="pin-blocks-reuse")
    show(page, play)
    unfold(page)
    page.get_by_label("for at most").fill("6")
    acts(page, play, button(page, "Search").click)
    assert "Searching" in note(page, "search").inner_text()
    acts(page, play, cell(page, 0, 5).click)
    assert "A search is going on" in note(page).inner_text()
    button(page, "Cancel").click()
    page.wait_for_function("window.model.send({ verb: 'hello' }), !window.model.get('view').searching")
    settled(page, play)
    assert "stopped early (cancelled)" in note(page, "search").inner_text()
    assert button(page, "Cancel").count() == 0
    acts(page, play, cell(page, 0, 5).click, steps=len(Scenario.load("pin-blocks-reuse").steps) + 1)


def test_a_click_beside_a_page_says_why_nothing_happens(page: Page) -> None:
    play = Playground()
    show(page, play)
    acts(page, play, cell(page, 0, 5).click)
    turn = play.view["turn"]
    page.locator('.afg-view [data-frame="A5"]:not([data-process])').click()
    assert "That is memory, A5" in note(page).inner_text()
    page.locator(".afg-view").click(position={"x": 3, "y": 3})
    assert "There is no page" in note(page).inner_text()
    assert play.view["turn"] == turn


def test_pages_of_a_long_mapping_are_found_in_their_bar(page: Page) -> None:
    play = Playground(pages=512, orders=(9,))
    show(page, play)
    box = cell(page, 0, 0).locator("rect").first.bounding_box()
    assert box
    where = (box["x"] + box["width"] * 300.5 / 512, box["y"] + box["height"] / 2)
    acts(page, play, lambda: page.mouse.click(*where), steps=1)
    assert play.scenario.steps[-1] == ("write", 0, 300, 1)
    mark = page.locator(".afg-mark").bounding_box()
    assert mark
    assert mark["x"] - 1 <= where[0] <= mark["x"] + mark["width"] + 1
    page.locator(".afg-view").focus()
    page.keyboard.press("ArrowRight")
    acts(page, play, lambda: page.keyboard.press("Enter"), steps=2)
    assert play.scenario.steps[-1] == ("write", 0, 301, 2)


def test_without_a_kernel_it_shows_its_picture_and_says_what_is_missing(browser: Browser) -> None:
    play = Playground(scenario="pin-blocks-reuse")
    with quiet_page(browser, height=1400) as page:
        # The page's time stands still until the test lets it pass: on a busy machine five seconds are over soon.
        page.clock.install(time=0)
        page.clock.pause_at(3600)
        outside = show(page, play)
        assert page.locator(".afg-view desc").text_content() == play.picture.text()
        assert page.locator(".afg-offline").is_hidden()
        page.clock.run_for(5_000)
        assert page.locator(".afg-offline").is_visible()
        assert "needs a running notebook" in page.locator(".afg-offline").inner_text()
        cell(page, 0, 5).click()
        assert page.locator(".afg").get_attribute("data-kernel") == "none"
        assert outside == []


def test_it_leaves_nothing_behind(page: Page) -> None:
    play = Playground()
    show(page, play)
    page.wait_for_function("window.seen !== undefined")
    page.evaluate("window.cleanup()")
    assert page.evaluate("Object.values(window.heard).map((acts) => acts.size)") == [0, 0]
    sent = page.evaluate("window.sent.length")
    cell(page, 0, 5).click()
    button(page, "Fork process 0").click()
    assert page.evaluate("window.sent.length") == sent


def test_two_on_a_page_do_not_share_their_tools(page: Page) -> None:
    """A notebook has several, and each is a module of its own."""
    show(page, Playground())
    page.evaluate(
        """async () => {
          const again = document.body.appendChild(document.createElement("div"));
          (await import("./playground.js?again")).default.render({ model: window.model, el: again });
        }"""
    )
    assert page.locator(".afg").count() == 2
    page.locator(".afg").nth(1).get_by_role("radio", name="Read", exact=True).check()
    chosen = page.locator(".afg-tool input:checked").evaluate_all("radios => radios.map((radio) => radio.value)")
    assert chosen == ["write", "read"]


@pytest.mark.parametrize("width", [900, 450])
def test_nothing_is_cut_off(page: Page, width: int) -> None:
    """900 px, and the same at 200 % zoom: the controls wrap, and only the picture may scroll sideways."""
    page.set_viewport_size({"width": width, "height": 900})
    show(page, Playground("rfc-v2", scenario="third-process-alone"))
    unfold(page)
    page.locator(".afg-more > summary").click()
    choose(page, "Advise")
    check_nothing_is_cut_off(page, ".afg button, .afg select, .afg input, .afg textarea")


@pytest.mark.parametrize("how", ["prefers-color-scheme", "JupyterLab"])
def test_dark_mode_changes_picture_and_controls(page: Page, how: str) -> None:
    show(page, Playground())
    check_dark_mode(page, how, ".afg")


def test_paper_has_the_picture_and_nothing_to_click(page: Page) -> None:
    show(page, Playground("linux-6.15", pages=16))
    page.emulate_media(media="print")
    assert page.locator(".afg-view > svg").is_visible()
    assert page.locator(".afg-title").is_visible()
    for name in (".afg-tools", ".afg-people", ".afg-chosen", ".afg-fold", ".afg-note", ".afg button"):
        assert page.locator(name).count(), name
        assert not page.locator(f"{name}:visible").count(), name
    page.emulate_media(media="screen")
