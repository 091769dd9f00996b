"""The stepper in a real browser: alone on a page with its stored state, and in JupyterLab with a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest
from browser_support import (
    check_dark_mode,
    check_nothing_is_cut_off,
    quiet,
    quiet_page,
    show_widget,
)

from anonfolio.draw.drawing import lean
from anonfolio.program.scenario import Scenario
from anonfolio.view import Stepper
from anonfolio.view.program import packed
from anonfolio.witness.recording import DATA_DIR, read_recording

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

COPY_STEP = 18
"""fork-both-write: the first copy, after 16 writes and a fork."""

MODEL = """const heard = new Set();
const model = window.model = {
  get: (name) => state[name],
  set: (name, value) => { if (state[name] !== value) { state[name] = value; heard.forEach((act) => act()); } },
  save_changes: () => { window.saved = (window.saved ?? 0) + 1; },
  on: (event, act) => heard.add(act),
  off: (event, act) => heard.delete(act),
};
window.heard = heard;"""


def stepper(**options: object) -> Stepper:
    recorded = read_recording(DATA_DIR / "named-6.18.json.gz").named("fork-both-write")
    timeline = recorded.scenario.run("linux-6.15")
    if options.pop("beside", False):
        options["other"] = recorded.scenario.run("rfc-v2")
    return Stepper(timeline, **options)  # type: ignore[arg-type]


@pytest.fixture
def page(kept: Page) -> Iterator[Page]:
    with quiet(kept, height=900) as page:
        yield page


@pytest.fixture
def still(browser: Browser) -> Iterator[Page]:
    """A page of its own, for there time passes only when the test says so."""
    with quiet_page(browser, height=900) as page:
        page.clock.install(time=0)
        # It goes on until it is paused, which a busy machine may be late with: only a time to come is one to pause at.
        page.clock.pause_at(3600)
        yield page


def show(page: Page, widget: Stepper) -> list[str]:
    """Open a page with the widget's stored state; returns the list that requests to outside are added to."""
    state = {"frames": packed(widget.frames), "step": widget.step, "predict": widget.predict}
    return show_widget(page, "stepper", state, MODEL)


def shown(page: Page) -> int:
    return int(page.locator(".afs").get_attribute("data-step") or -1)


def sentences(page: Page) -> list[str]:
    """What each picture says of itself."""
    return [picture.get_attribute("aria-label") or "" for picture in page.locator(".afs-view > svg").all()]


def test_buttons_slider_and_keys_step(page: Page) -> None:
    widget = stepper(key=COPY_STEP - 1)
    outside = show(page, widget)
    last = len(widget.columns[0].pictures) - 1
    assert shown(page) == COPY_STEP

    clicks = [("First", 0), ("Next", 1), ("Next", 2), ("Back", 1), ("Last", last), ("Next", last), ("First", 0)]
    for name, step in (*clicks, ("Back", 0)):
        # At an end the button keeps the focus and says that it does nothing: a click must not wait for it.
        page.get_by_role("button", name=name, exact=True).click(force=True)
        assert shown(page) == step, name
        assert sentences(page) == [widget.columns[0].pictures[step].sentence]
        assert page.get_by_role("slider").input_value() == str(step)

    page.get_by_role("slider").fill("5")
    assert shown(page) == 5
    assert page.locator(".afs-place").text_content() == f"5 / {last}"

    # Keys work wherever the focus is inside, and nobody outside hears them.
    for focus in (".afs", ".afs-bar button >> nth=0", ".afs-bar input"):
        page.locator(focus).focus()
        for key, step in (("End", last), ("ArrowLeft", last - 1), ("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0)):
            page.keyboard.press(key)
            assert shown(page) == step, (focus, key)
    assert page.evaluate("window.escaped") == []
    assert page.evaluate("window.model.get('step')") == 0
    assert page.evaluate("window.saved") > 10

    # Outside the widget the keys are not ours.
    page.locator("#before button").focus()
    page.keyboard.press("End")
    assert shown(page) == 0
    assert outside == []


def test_each_step_is_said_and_the_picture_is_pythons(page: Page) -> None:
    widget = stepper(key=0)
    show(page, widget)
    live = page.locator(".afs [aria-live=polite]")
    for step in (1, 17, COPY_STEP):
        page.evaluate("step => window.model.set('step', step)", step)
        assert widget.columns[0].pictures[step].sentence in (live.text_content() or "")
    deciding = page.locator(".afs-view [data-why]").text_content() or ""
    assert deciding.startswith("FOLIO_MM_IDS_SHARED_BITNUM: yes→ cow copy")
    # Everything else is there when one asks for it, and goes along.
    page.get_by_role("button", name="As text").click()
    assert page.locator(".afs-fold pre").text_content() == widget.columns[0].pictures[COPY_STEP].text()
    page.get_by_role("button", name="All checks").click()
    assert page.locator(".afs-fold strong").text_content() == (
        "  => FOLIO_MM_IDS_SHARED_BITNUM: yes (tracked: process 0 16, process 1 16)\n"
    )
    page.get_by_role("button", name="Counters").click()
    assert page.locator(".afs-counters tr", has_text="cow copy").text_content() == "cow copy1 (+1)"
    page.evaluate("window.model.set('step', 17)")
    assert page.locator(".afs-fold pre >> nth=0").text_content() == "no fault\n"
    assert page.locator(".afs-counters tr", has_text="cow copy").text_content() == "cow copy0"


def more(page: Page, name: str) -> None:
    """Press a button of the menu, opened if need be."""
    if not page.get_by_role("button", name=name).is_visible():
        page.locator(".afs-more > summary").click()
    page.get_by_role("button", name=name).click(force=True)


def test_two_policies_step_together_and_the_first_difference_is_marked(page: Page) -> None:
    widget = stepper(beside=True, key=0)
    show(page, widget)
    first = min(widget.differences)
    more(page, "First difference")
    assert shown(page) == first
    assert [said.split(":")[0] for said in sentences(page)] == [
        pane.pictures[first].sentence.split(":")[0] for pane in widget.columns
    ]
    assert page.locator(".afs-differs").text_content() == f"First difference: {widget.differences[first]}"
    page.get_by_role("button", name="First", exact=True).click()
    assert page.locator(".afs-differs").text_content() == f"First difference at step {first}."


def test_what_is_put_together_step_by_step_is_pythons_picture(page: Page) -> None:
    """Pieces that stay are kept in the page; whatever way one came to a moment, it is the SVG that Python drew."""
    scenario = Scenario.load("huge-fork-write-exit-write")
    widget = Stepper(scenario.run("linux-6.15"), other=scenario.run("rfc-v2"), key=0)
    show(page, widget)
    last = len(widget.columns[0].pictures) - 1
    for step in (0, *range(1, last + 1), 2, last, 0, 3, 1, 4):
        page.evaluate("step => window.model.set('step', step)", step)
        for at, column in enumerate(widget.columns):
            drawn = page.locator(".afs-view > svg").nth(at).evaluate(STILL)
            assert drawn == page.evaluate(PARSED, lean(column.pictures[step].sheet.body(column.height))), (step, at)


STILL = "svg => svg.firstChild.innerHTML"
PARSED = """drawn => { const into = document.createElement('div'); into.innerHTML = `<svg><g>${drawn}</g></svg>`;
                       return into.firstChild.firstChild.innerHTML; }"""


# --- motion ---------------------------------------------------------------------------------------------------------

MOVING = "document.getAnimations().filter(one => one.effect.target.closest('.afs-view')).length"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_step_moves_what_changed_and_ends_as_a_jump_does(
    page: Page, motion: Literal["no-preference", "reduce"]
) -> None:
    page.emulate_media(reduced_motion=motion)
    widget = stepper(key=COPY_STEP - 2)
    show(page, widget)
    height = widget.columns[0].height
    drawn = page.locator(".afs-view > svg")
    going = page.evaluate(f"""() => {{ window.model.set('step', 18);
        return [{MOVING}, document.querySelector(".afs-moving").childElementCount]; }}""")
    assert [number > 0 for number in going] == 2 * [motion == "no-preference"]
    # The picture is at its end at once; what lets go is shown above it for a moment.
    end = page.evaluate(PARSED, lean(widget.columns[0].pictures[18].sheet.body(height)))
    assert drawn.evaluate(STILL) == end
    page.wait_for_function(f"{MOVING} === 0")
    page.wait_for_function("document.querySelector('.afs-moving').childElementCount === 0")
    assert drawn.evaluate(STILL) == end
    # A step in the middle of a motion ends it.
    page.evaluate("window.model.set('step', 19); window.model.set('step', 18); window.model.set('step', 17)")
    assert drawn.evaluate(STILL) == page.evaluate(PARSED, lean(widget.columns[0].pictures[17].sheet.body(height)))
    page.evaluate("window.model.set('step', 18)")
    page.evaluate("window.model.set('step', 2)")
    assert page.evaluate(MOVING) == 0, "a jump moves nothing"
    assert drawn.evaluate(STILL) == page.evaluate(PARSED, lean(widget.columns[0].pictures[2].sheet.body(height)))


def test_a_step_that_changes_very_much_is_a_jump_to_the_same_end(page: Page) -> None:
    """A thousand shapes that move held the page up for a third of a second."""
    copies = (("write", 1, page, 7) for page in range(0, 512, 37))
    widget = Stepper(Scenario(512, (("write", 0, 0, 1), ("fork", 0), *copies), orders=(9,)).run(), at=1)
    show(page, widget)
    column = widget.columns[0]
    for step, moves in ((2, False), (3, True)):
        going = page.evaluate(f"step => {{ window.model.set('step', step); return {MOVING}; }}", step)
        assert (going > 0) == moves
        end = page.evaluate(PARSED, lean(column.pictures[step].sheet.body(column.height)))
        assert page.locator(".afs-view > svg").evaluate(STILL) == end


def test_content_travels_from_the_page_that_is_copied(page: Page) -> None:
    show(page, stepper(key=COPY_STEP - 2))
    moved = page.evaluate("""() => { window.model.set('step', 18); return document.getAnimations()
        .filter((one) => one.effect.target.dataset.frame === "B")
                             .map((one) => one.effect.getKeyframes()[0].transform); }""")
    assert moved == ["translate(0px, 60px)"]


# --- pages under the mouse, the finger, the keyboard ----------------------------------------------------------------

LIT = "document.querySelectorAll('.afs-lit rect').length"


def test_a_page_lights_up_its_frame_all_its_mappers_and_what_decided(page: Page) -> None:
    show(page, stepper(key=COPY_STEP - 1))
    told = page.locator(".afs-told")
    assert "Point at a page" in (told.text_content() or "")
    page.locator('[data-process="1"][data-page="7"]').hover()
    assert page.evaluate(LIT) == 3
    assert (told.text_content() or "").startswith(
        "P1 page 7: A7, read-only; A7: byte 8, mapped 2×, not exclusive: maybe shared; mapped by P0 page 7, P1 page 7; "
        "folio A (16 pages, order 4); refs 32→31 (before the step → now): how many hold it"
    )
    page.locator('[data-process="0"][data-page="4"]').hover()
    assert page.evaluate(LIT) == 2
    assert (told.text_content() or "").endswith("in this step: FOLIO_MM_IDS_SHARED_BITNUM: yes → cow copy.")
    assert page.locator("svg.afs-why [data-why]").count() == 1
    # It stays with the page when the step changes, and says which step decided.
    page.evaluate("window.model.set('step', 19)")
    assert "since step 18: FOLIO_MM_IDS_SHARED_BITNUM" in (told.text_content() or "")
    assert page.locator("svg.afs-why").count() == 0
    page.locator('[data-frame="A7"]:not([data-process])').hover()
    assert (told.text_content() or "").startswith(
        "A7: byte 8, mapped 2×, not exclusive: maybe shared; mapped by P0 page 7, "
    )
    # What is counted of a folio is said in words, too, and what the step did to it.
    page.locator('[data-folio="A"]').hover()
    assert (told.text_content() or "").startswith("folio A (16 pages, order 4); refs 31→30 (before")
    page.locator(".afs-title").hover()
    assert page.evaluate(LIT) == 0
    assert "Point at a page" in (told.text_content() or "")


def test_pages_are_chosen_by_keyboard(page: Page) -> None:
    show(page, stepper(key=COPY_STEP - 1))
    page.locator(".afs-view").focus()
    told = page.locator(".afs-told")
    for key, words in (
        ("ArrowRight", "P0 page 0: A0, "), ("ArrowRight", "P0 page 1: A1, "), ("ArrowDown", "P1 page 1: A1, "),
        ("ArrowLeft", "P1 page 0: A0, "), ("ArrowLeft", "P1 page 0: A0, "), ("ArrowUp", "P0 page 0: A0, "),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert (told.text_content() or "").startswith(words)
        assert (page.locator(".afs [aria-live=polite]").text_content() or "").startswith(words)
    assert shown(page) == COPY_STEP
    page.keyboard.press("Escape")
    assert page.evaluate(LIT) == 0
    # All other keys step.
    page.keyboard.press("Home")
    assert shown(page) == 0


def test_a_tap_lights_up_a_page(browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    show(page, stepper(key=COPY_STEP - 1))
    page.locator('[data-process="0"][data-page="4"]').tap()
    assert page.evaluate(LIT) == 2
    assert (page.locator(".afs-told").text_content() or "").startswith("P0 page 4: B, writable; B: byte 104")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


# --- the program, links ---------------------------------------------------------------------------------------------


def test_the_program_shows_where_one_is_and_leads_there(page: Page) -> None:
    show(page, stepper(key=4))
    current = page.locator(".afs-program [aria-current]")
    assert current.text_content() == "1–16P0 writes pages 0–15 5/16"
    page.get_by_role("button", name="P1 writes page 4").click()
    assert shown(page) == 19
    assert current.text_content() == "19P1 writes page 4"
    page.get_by_role("button", name="P0 writes pages 0–15").click()
    assert shown(page) == 16


def test_an_address_leads_to_a_step(page: Page) -> None:
    show(page, stepper(key=4))
    page.evaluate("location.hash = 'stepper1=18'")
    page.wait_for_function("document.querySelector('.afs').dataset.step === '18'")
    page.evaluate("location.hash = 'stepper2=3'")
    page.evaluate("location.hash = 'stepper1=300'")
    page.wait_for_function("document.querySelector('.afs').dataset.step === '20'")
    focus(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("l")
    assert page.evaluate("location.hash") == "#stepper1=19"


def test_the_controls_stay_in_view(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 500})
    show(page, stepper(key=4, beside=True))
    page.evaluate("window.scrollTo(0, 500)")
    box = page.locator(".afs-bar").bounding_box()
    assert box
    assert (box["y"], box["height"]) == (0, 42)


# --- playing, faults ------------------------------------------------------------------------------------------------


def focus(page: Page) -> None:
    page.locator(".afs").focus()


def test_it_plays_to_the_end_and_stops(still: Page) -> None:
    widget = stepper(key=0)
    last = len(widget.columns[0].pictures) - 1
    show(still, widget)
    still.locator(".afs-more > summary").click()
    still.get_by_label("speed").select_option("fast")
    still.get_by_role("button", name="Play").click()
    assert shown(still) == 2
    still.clock.run_for(400)
    assert shown(still) == 3
    still.get_by_role("button", name="Pause").click()
    still.clock.run_for(3000)
    assert shown(still) == 3

    still.locator(".afs-more > summary").click()
    still.get_by_label("speed").select_option("medium")
    still.get_by_role("button", name="Play").click()
    still.clock.run_for(999)
    assert shown(still) == 4
    still.clock.run_for(1)
    assert shown(still) == 5
    still.clock.run_for(1000 * last)
    assert shown(still) == last
    assert still.get_by_role("button", name="Pause").count() == 0
    # From the end it plays anew.
    still.get_by_role("button", name="Play").click()
    assert shown(still) == 0
    still.clock.run_for(1000)
    assert shown(still) == 1


def test_space_plays_and_a_step_stops_it(still: Page) -> None:
    show(still, stepper(key=0))
    focus(still)
    still.keyboard.press("Space")
    still.clock.run_for(1000)
    assert shown(still) == 3
    still.keyboard.press("Space")
    still.clock.run_for(5000)
    assert shown(still) == 3
    still.keyboard.press("Space")
    assert shown(still) == 4
    still.keyboard.press("ArrowLeft")
    still.clock.run_for(5000)
    assert shown(still) == 3
    # On a button space presses the button.
    still.get_by_role("button", name="Next", exact=True).focus()
    still.keyboard.press("Space")
    still.clock.run_for(5000)
    assert shown(still) == 4
    # The list of speeds has arrows of its own.
    still.locator(".afs-more > summary").click()
    still.get_by_label("speed").focus()
    still.keyboard.press("ArrowDown")
    assert (shown(still), still.get_by_label("speed").input_value()) == (4, "fast")
    assert still.evaluate("window.escaped") == []


def test_it_stops_when_it_is_taken_away(still: Page) -> None:
    show(still, stepper(key=0))
    still.get_by_role("button", name="Play").click()
    still.evaluate("window.cleanup()")
    still.clock.run_for(5000)
    assert still.evaluate("window.model.get('step')") == 2


def test_who_asked_for_less_motion_gets_more_time(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    show(page, stepper())
    assert page.get_by_label("speed").input_value() == "slow"


def test_faults_are_jumped_to(page: Page) -> None:
    """fork-both-write faults at the first write and at the three copies after the fork."""
    show(page, stepper(key=4))
    for name, step in (
        ("Next fault", 18), ("Next fault", 19), ("Next fault", 20), ("Next fault", 20), ("Previous fault", 19),
    ):  # fmt: skip
        more(page, name)
        assert shown(page) == step, name
    focus(page)
    for key, step in (("b", 18), ("Shift+F", 1), ("b", 1), ("f", 18)):
        page.keyboard.press(key)
        assert shown(page) == step, key


# --- several panes --------------------------------------------------------------------------------------------------


def test_five_panes_each_mark_their_first_difference(page: Page) -> None:
    scenario = Scenario.load("child-writes-and-exits")
    first, *others = (scenario.run(name) for name in ("linux-6.15", "linux-6.9", "linux-6.8", "linux-6.3", "rfc-v2"))
    widget = Stepper(first, others=others, key=0)
    show(page, widget)
    assert page.locator(".afs-label strong").all_text_contents() == widget.labels
    page.evaluate("window.model.set('step', 0)")
    starts = [min(pane) for pane in [column.differences for column in widget.columns[1:]]]
    for start in sorted(set(starts)):
        page.keyboard.press("d") if start != min(starts) else more(page, "First difference")
        assert shown(page) == start
        for pane, mine, note in zip(
            [column.differences for column in widget.columns[1:]],
            starts,
            page.locator(".afs-differs").all_text_contents(),
            strict=True,
        ):
            if start in pane:
                assert note == f"{'First difference' if start == mine else 'They differ here'}: {pane[start]}"
            else:
                assert note == f"First difference at step {mine}."
    page.keyboard.press("d")
    assert shown(page) == min(starts), "after the last one comes the first again"
    assert sentences(page) == [column.pictures[min(starts)].sentence for column in widget.columns]


@pytest.mark.parametrize(("width", "columns"), [(1400, 3), (864, 2), (700, 1), (390, 1)])
def test_panes_stand_beside_or_below_each_other(page: Page, width: int, columns: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    scenario = Scenario.load("child-writes-and-exits")
    show(page, Stepper(scenario.run("linux-6.15"), others=[scenario.run("linux-6.9"), scenario.run("rfc-v2")]))
    boxes = [view.bounding_box() for view in page.locator(".afs-view").all()]
    assert len({box["x"] for box in boxes if box}) == columns
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert all(box["width"] >= 350 for box in boxes if box)
    if columns >= 2:
        assert boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"]  # noqa: PT018


def test_a_panel_goes_along(page: Page) -> None:
    timeline = Scenario.load("fork-both-write").run("linux-6.15")
    texts = [f"<b>{at}</b>" for at in range(len(timeline))]
    drawn = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="9"><title>all empty</title></svg>'
    show(page, Stepper(timeline, panel=[*texts, drawn], panel_title="TLB of CPU 0", key=3))
    panel = page.get_by_role("group", name="TLB of CPU 0")
    assert panel.text_content() == "TLB of CPU 0<b>4</b>"
    focus(page)
    page.keyboard.press("ArrowRight")
    assert panel.text_content() == "TLB of CPU 0<b>5</b>"
    page.keyboard.press("End")
    assert panel.locator("svg title").text_content() == "all empty"
    # An outcome shows in the panel too.
    page.evaluate("window.model.set('step', 17)")
    page.keyboard.press("p")
    page.keyboard.press("ArrowRight")
    assert panel.text_content() == "TLB of CPU 0<b>17</b>"


# --- predicting -----------------------------------------------------------------------------------------------------


def asked(page: Page) -> bool:
    return page.locator(".afs-answers").is_visible()


def test_an_outcome_stays_hidden_until_the_reader_chooses(page: Page) -> None:
    widget = stepper(predict=True, beside=True, key=COPY_STEP - 1)
    outside = show(page, widget)
    before = [pane.pictures[COPY_STEP - 1].sentence for pane in widget.columns]
    everything = page.locator("#el")
    assert asked(page)
    assert "Step 18, linux-6.15: Process 0 writes page 4. Which path does it take?" in (everything.text_content() or "")
    assert sentences(page) == before
    told = (everything.text_content() or "") + (everything.inner_html() or "")
    for secret in (
        widget.columns[0].pictures[COPY_STEP].sentence,
        "FOLIO_MM_IDS_SHARED_BITNUM",
        "First difference:",
    ):
        assert secret not in told
    live = page.locator(".afs [aria-live=polite]")
    assert "Which path does it take? Choose 1 first touch, " in (live.text_content() or "")

    page.get_by_role("button", name="exclusive reuse").click()
    assert not asked(page)
    verdict = (
        "You said exclusive reuse; it is cow copy, because the folio may be mapped by more than one process "
        "(FOLIO_MM_IDS_SHARED_BITNUM: yes)."
    )
    assert page.locator(".afs-question").text_content() == verdict
    assert page.locator(".afs-score").text_content() == "0 of 1 right"
    assert (live.text_content() or "").startswith(
        f"{verdict} 0 of 1 right step 18 of 20. {widget.columns[0].pictures[18].sentence}"
    )
    assert sentences(page)[0] == widget.columns[0].pictures[COPY_STEP].sentence
    # What was answered stays answered.
    for step in ("ArrowLeft", "ArrowRight"):
        page.keyboard.press(step)
    assert page.locator(".afs-question").text_content() == verdict
    assert outside == []


def test_predicting_needs_no_mouse(page: Page) -> None:
    """fork-both-write from its start: one answer wrong, one shown, the rest right; the fork asks nothing."""
    widget = stepper(predict=True)
    show(page, widget)
    page.locator("#before button").focus()
    page.keyboard.press("Tab")
    assert (shown(page), asked(page)) == (1, True)
    page.keyboard.press("9")
    assert asked(page), "there is no ninth answer"
    page.keyboard.press("1")
    assert page.locator(".afs-question").text_content() == (
        "Right: first touch, because nothing is mapped there and the access is a write (pte_none: yes)."
    )
    page.keyboard.press("ArrowRight")
    page.keyboard.press("1")
    assert (page.locator(".afs-question").text_content() or "").startswith("You said first touch; it is no fault, ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("0")
    assert page.locator(".afs-question").text_content() == "It is no fault, because the entry is writable."
    assert page.locator(".afs-score").text_content() == "1 of 2 right"
    # A jump is asked about where it lands, and a question left open is asked again.
    page.keyboard.press("f")
    assert (shown(page), asked(page)) == (18, True)
    page.keyboard.press("ArrowLeft")
    assert (shown(page), asked(page)) == (17, False)
    page.keyboard.press("ArrowRight")
    assert asked(page)
    # The buttons too: Tab to the answer, press it, and the focus is where one goes on.
    while page.evaluate("document.activeElement.textContent") != "4cow copy":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".afs-score").text_content() == "2 of 3 right"
    assert page.evaluate("document.activeElement.ariaLabel") == "Next"
    page.keyboard.press("End")
    assert (shown(page), asked(page)) == (20, True)
    assert set(page.evaluate("window.escaped")) == {"Tab"}


def test_the_predict_button_turns_the_questions_on_and_off(still: Page) -> None:
    widget = stepper(key=COPY_STEP - 1)
    show(still, widget)
    toggle = still.get_by_role("button", name="Predict")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "true"
    assert not asked(still), "what was on the screen is no question"
    still.get_by_role("button", name="Next", exact=True).click()
    assert asked(still)
    toggle.click()
    assert not asked(still)
    assert not still.locator(".afs-ask").is_visible()
    assert sentences(still) == [widget.columns[0].pictures[19].sentence]
    # Playing waits for the answer.
    still.evaluate("window.model.set('step', 15)")
    toggle.click()
    still.get_by_role("button", name="Play").click()
    still.clock.run_for(10_000)
    assert (shown(still), asked(still)) == (16, True)


def test_it_leaves_nothing_behind(page: Page) -> None:
    show(page, stepper())
    assert page.evaluate("window.heard.size") == 1
    page.evaluate("window.cleanup()")
    assert page.evaluate("window.heard.size") == 0
    page.get_by_role("button", name="First", exact=True).click()
    assert page.evaluate("window.model.get('step')") != 0


@pytest.mark.parametrize("width", [900, 450, 390])
def test_nothing_is_cut_off(page: Page, width: int) -> None:
    """900 px, and the same at 200 % zoom: the controls wrap, and only the picture may scroll sideways."""
    page.set_viewport_size({"width": width, "height": 900})
    show(page, stepper(beside=True, predict=True))
    check_nothing_is_cut_off(page, ".afs-bar > *, .afs-answers > *, .afs-folds > *")


PAGE_AND_NUMBER = """view => {
  const texts = [...view.querySelectorAll("text")];
  const [word, number] = ["page", "0"].map((words) => texts.find((text) => text.textContent === words).getBBox());
  return [word.x, number.x - word.x - word.width];
}"""


def test_the_word_page_keeps_clear_of_the_number_beside_it_and_of_the_edge(page: Page) -> None:
    """In whatever font there is, at least a space (in units of the picture)."""
    show(page, stepper(key=COPY_STEP))
    from_edge, from_number = page.locator(".afs-view").evaluate(PAGE_AND_NUMBER)
    assert from_edge >= 1.5
    assert from_number >= 3.5


@pytest.mark.parametrize("how", ["prefers-color-scheme", "JupyterLab"])
def test_dark_mode_changes_picture_and_controls(page: Page, how: str) -> None:
    show(page, stepper())
    check_dark_mode(page, how, ".afs")
