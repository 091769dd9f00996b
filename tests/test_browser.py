"""The stepper in a real browser: alone on a page with its stored state, and in JupyterLab with a kernel."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

import anonfolio.view
from anonfolio.recording import DATA_DIR, read_recording
from anonfolio.view import Stepper

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

VIEW = Path(anonfolio.view.__file__).parent
COPY_STEP = 18
"""fork-both-write: the first copy, after 16 writes and a fork."""

# What anywidget gives a front end: a model with get, set, on and off, and an element.
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>stepper</title>
<style>CSS</style><div id="before"><button>before</button></div><div id="el"></div>
<script type="application/json" id="state">STATE</script>
<script type="module">
import widget from "./stepper.js";
const state = JSON.parse(document.getElementById("state").textContent);
const heard = new Set();
window.model = {
  get: (name) => state[name],
  set: (name, value) => { if (state[name] !== value) { state[name] = value; heard.forEach((act) => act()); } },
  save_changes: () => { window.saved = (window.saved ?? 0) + 1; },
  on: (event, act) => heard.add(act),
  off: (event, act) => heard.delete(act),
};
window.heard = heard;
window.escaped = [];
document.addEventListener("keydown", (event) => window.escaped.push(event.key));
window.cleanup = widget.render({ model, el: document.getElementById("el") });
window.ready = true;
</script>"""


def stepper(**options: object) -> Stepper:
    recorded = read_recording(DATA_DIR / "named-6.18.json.gz").named("fork-both-write")
    timeline = recorded.scenario.run("linux-6.15")
    if options.pop("beside", False):
        options["other"] = recorded.scenario.run("rfc-v2")
    return Stepper(timeline, **options)  # type: ignore[arg-type]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 900, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert errors == []


def show(page: Page, widget: Stepper) -> list[str]:
    """Open a page with the widget's stored state; returns the list that requests to outside are added to."""
    state = json.dumps({"frames": widget.frames, "step": widget.step}).replace("</", "<\\/")
    html = PAGE.replace("CSS", (VIEW / "stepper.css").read_text(encoding="utf-8")).replace("STATE", state)
    files = {
        "/": (html, "text/html"),
        "/stepper.js": ((VIEW / "stepper.js").read_text(encoding="utf-8"), "text/javascript"),
    }
    outside: list[str] = []

    def serve(route: object) -> None:
        url = route.request.url  # type: ignore[attr-defined]
        path = url.removeprefix("http://stepper.test")
        if path in files:
            body, kind = files[path]
            route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")  # type: ignore[attr-defined]
        else:
            outside.append(url)
            route.abort()  # type: ignore[attr-defined]

    page.route("**/*", serve)
    page.goto("http://stepper.test/")
    page.wait_for_function("window.ready")
    return outside


def shown(page: Page) -> int:
    return int(page.locator(".afs").get_attribute("data-step") or -1)


def test_buttons_slider_and_keys_step(page: Page) -> None:
    widget = stepper(key=COPY_STEP - 1)
    outside = show(page, widget)
    last = len(widget.panes[0]) - 1
    assert shown(page) == COPY_STEP

    clicks = [("First", 0), ("Next", 1), ("Next", 2), ("Back", 1), ("Last", last), ("Next", last), ("First", 0)]
    for name, step in (*clicks, ("Back", 0)):
        # At an end the button keeps the focus and says that it does nothing: a click must not wait for it.
        page.get_by_role("button", name=name, exact=True).click(force=True)
        assert shown(page) == step, name
        assert page.locator(".afs-view title").first.text_content() == widget.panes[0][step].sentence
        assert page.get_by_role("slider").input_value() == str(step)

    page.get_by_role("slider").fill("5")
    assert shown(page) == 5
    assert page.locator(".afs-place").text_content() == f"step 5 of {last}"

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
        assert widget.panes[0][step].sentence in (live.text_content() or "")
    text = page.locator(".afs-view svg desc").text_content()
    assert text == widget.panes[0][COPY_STEP].text()
    deciding = page.locator(".afs-view g:has(> .afp-say)")
    assert "folio_test_large_maybe_mapped_shared" in re.sub(r"\s", "", (deciding.text_content() or ""))
    assert "this decides" in (deciding.text_content() or "")


def test_two_policies_step_together_and_the_first_difference_is_marked(page: Page) -> None:
    widget = stepper(beside=True, key=0)
    show(page, widget)
    first = min(widget.differences)
    page.get_by_role("button", name="First difference").click()
    assert shown(page) == first
    assert [title.split(":")[0] for title in page.locator(".afs-view > svg > title").all_text_contents()] == [
        pane[first].sentence.split(":")[0] for pane in widget.panes
    ]
    assert page.locator(".afs-differs").text_content() == f"First difference: {widget.differences[first]}"
    page.get_by_role("button", name="First", exact=True).click()
    assert page.locator(".afs-differs").text_content() == f"First difference at step {first}."


def test_it_leaves_nothing_behind(page: Page) -> None:
    show(page, stepper())
    assert page.evaluate("window.heard.size") == 1
    page.evaluate("window.cleanup()")
    assert page.evaluate("window.heard.size") == 0
    page.get_by_role("button", name="First", exact=True).click()
    assert page.evaluate("window.model.get('step')") != 0


@pytest.mark.parametrize("width", [900, 450])
def test_nothing_is_cut_off(page: Page, width: int) -> None:
    """900 px, and the same at 200 % zoom: the controls wrap, and only the picture may scroll sideways."""
    page.set_viewport_size({"width": width, "height": 900})
    show(page, stepper())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for control in page.locator(".afs-bar > *").all():
        box = control.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


@pytest.mark.parametrize("how", ["prefers-color-scheme", "JupyterLab"])
def test_dark_mode_changes_picture_and_controls(page: Page, how: str) -> None:
    show(page, stepper())
    colour = "selector => getComputedStyle(document.querySelector(selector)).%s"
    light = page.evaluate(colour % "fill", ".afp-bg"), page.evaluate(colour % "backgroundColor", ".afs")
    if how == "JupyterLab":
        page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    else:
        page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colour % "fill", ".afp-bg"), page.evaluate(colour % "backgroundColor", ".afs")
    assert light == ("rgb(255, 255, 255)", "rgb(255, 255, 255)")
    assert dark == ("rgb(20, 25, 31)", "rgb(20, 25, 31)")


# --- JupyterLab -----------------------------------------------------------------------------------------------------

NOTEBOOK_CODE = """\
from anonfolio.scenario import Scenario
from anonfolio.view import Stepper

copy = Scenario(8, (("write", 0, 0, 7), ("fork", 0), ("write", 1, 2, 9)), orders=(3,), name="copy")
Stepper(copy.run("linux-6.15"))"""


TOKEN = secrets.token_hex(16)


@pytest.fixture
def lab(tmp_path: Path, browser: Browser) -> Iterator[str]:
    """A JupyterLab of our own on a free port, with nothing of the user's settings; gives its address."""
    root = tmp_path / "root"
    root.mkdir()
    cell = nbformat.v4.new_code_cell(NOTEBOOK_CODE, id="stepper")
    # Without a kernel's name JupyterLab would ask for one.
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), root / "copy.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_WORKSPACES", "JUPYTERLAB_SETTINGS")
    own = {f"{place}_DIR": str(tmp_path / place) for place in places}
    environment = {**os.environ, **own, "IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={root}", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", "--allow-root",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class="
        "jupyterlab.NeverCheckForUpdate", "--ServerApp.terminals_enabled=False",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("wb")
    server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, tmp_path / "lab.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not answer:\n{log.read_text(errors='replace')[-3000:]}")


RUN_ALL = """() => Promise.race([
  new Promise((_, fail) => setTimeout(() => fail(new Error("the notebook did not run within 60 s")), 60_000)),
  (async () => {
  const app = window.jupyterapp;
  await app.restored;
  let panel = null;
  while (!(panel = [...app.shell.widgets("main")].find((widget) => widget.context?.path === "copy.ipynb")))
    await new Promise((wake) => setTimeout(wake, 50));
  await panel.context.ready;
  await panel.sessionContext.ready;
  await app.commands.execute("notebook:run-all-cells");
  return panel.context.model.cells.get(0).outputs.toJSON();
})()])"""


def test_jupyterlab_renders_the_widget_and_steps_it(lab: str, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    page.set_default_timeout(30_000)
    outside: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not _is_local(request.url, lab) else None)
    page.goto(f"{lab}/lab/tree/copy.ipynb?token={TOKEN}")
    page.wait_for_function("window.jupyterapp")
    (output,) = page.evaluate(RUN_ALL)
    assert output["output_type"] == "execute_result", output
    assert "Stepper copy: step 3 of 3" in "".join(output["data"]["text/plain"])
    assert "image/svg+xml" in output["data"]

    widget = page.locator(".jp-OutputArea .afs")
    widget.wait_for()
    # The widget, not the static picture beside it.
    assert page.locator(".jp-RenderedSVG").count() == 0
    assert widget.get_attribute("data-step") == "3"
    page.get_by_role("button", name="Back", exact=True).click()
    assert widget.get_attribute("data-step") == "2"
    # Home would select the first cell, and letters are commands, if JupyterLab heard them.
    active = "document.querySelector('.jp-Notebook').classList.contains('jp-mod-commandMode') && " \
             "document.activeElement.closest('.afs') !== null"  # fmt: skip
    for key, step in (("Home", "0"), ("ArrowRight", "1"), ("b", "1"), ("End", "3")):
        page.keyboard.press(key)
        assert widget.get_attribute("data-step") == step
        assert page.evaluate(active)
    assert page.evaluate("document.querySelectorAll('.jp-Notebook .jp-Cell').length") == 1
    context.close()
    assert outside == []


def _is_local(url: str, lab: str) -> bool:
    return url.startswith((lab, lab.replace("http", "ws", 1), "data:", "blob:"))
