"""What tests in a browser share: pages that may not fail, a widget on a page of its own, JupyterLab and hands in it."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nbformat

import anonfolio
from anonfolio.draw.drawing import stylesheet

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

VIEW = Path(anonfolio.__file__).parent / "view"

# --- a widget on a page of its own ----------------------------------------------------------------------------------

# What anywidget gives a front end: a model, which the test brings, and an element.
WIDGET_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>NAME</title>
<link rel="icon" href="data:,"><style>CSS</style><div id="before"><button>before</button></div><div id="el"></div>
<script type="application/json" id="state">STATE</script>
<script type="module">
import widget from "./NAME.js";
const state = JSON.parse(document.getElementById("state").textContent);
MODEL
window.escaped = [];
document.addEventListener("keydown", (event) => window.escaped.push(event.key));
window.cleanup = await widget.render({ model, el: document.getElementById("el") });
window.ready = true;
</script>"""


@contextmanager
def as_new(page: Page, height: int) -> Iterator[Page]:
    """A page that others have, too, 900 wide: nothing of theirs is left there, and nothing will be."""
    page.set_viewport_size({"width": 900, "height": height})
    try:
        yield page
    finally:
        page.evaluate("location.protocol === 'about:' || localStorage.clear()")
        page.mouse.move(0, 0)
        page.goto("about:blank")
        # Not before: what the page still asks for would go out into the world.
        page.unroute_all()
        page.emulate_media(media="null", color_scheme="null", reduced_motion="null")


@contextmanager
def quiet(page: Page, height: int) -> Iterator[Page]:
    """The page as new; no script may fail on it and nothing may complain."""
    errors: list[str] = []

    def failed(error: object) -> None:
        errors.append(str(error))

    def told(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    page.on("pageerror", failed)
    page.on("console", told)
    try:
        with as_new(page, height):
            yield page
    finally:
        page.remove_listener("pageerror", failed)
        page.remove_listener("console", told)
    assert errors == [], errors


@contextmanager
def quiet_page(browser: Browser, height: int) -> Iterator[Page]:
    """A page of its own, 900 wide, on which no script may fail and nothing may complain."""
    context = browser.new_context()
    try:
        with quiet(context.new_page(), height) as page:
            yield page
    finally:
        context.close()


def show_widget(page: Page, name: str, state: Mapping[str, Any], model: str) -> list[str]:
    """Open a page with a widget of `anonfolio.view` and its stored state; returns the list of requests to outside.

    `model` is the script that makes ``model`` of ``state``.
    """
    css, script = ((VIEW / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    css += stylesheet()
    stored = json.dumps(state).replace("</", "<\\/")
    html = WIDGET_PAGE.replace("NAME", name).replace("MODEL", model).replace("CSS", css).replace("STATE", stored)
    files = {"/": (html, "text/html"), f"/{name}.js": (script, "text/javascript")}
    outside: list[str] = []

    def serve(route: Any) -> None:
        url = urlsplit(route.request.url)
        if url.netloc == "widget.test" and url.path in files:
            body, kind = files[url.path]
            route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")
        else:
            outside.append(route.request.url)
            route.abort()

    page.route("**/*", serve)
    page.goto("http://widget.test/")
    page.wait_for_function("window.ready")
    return outside


def check_nothing_is_cut_off(page: Page, controls: str) -> None:
    """The page is no wider than its window, and so is every control."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for control in page.locator(controls).all():
        box = control.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= page.evaluate("window.innerWidth")


def check_dark_mode(page: Page, how: str, controls: str) -> None:
    """Picture and controls are light, and dark when the system or JupyterLab is."""
    colours = """controls => [getComputedStyle(document.querySelector(".afp-bg")).fill,
                              getComputedStyle(document.querySelector(controls)).backgroundColor]"""
    assert page.evaluate(colours, controls) == 2 * ["rgb(255, 255, 255)"]
    if how == "JupyterLab":
        page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    else:
        page.emulate_media(color_scheme="dark")
    assert page.evaluate(colours, controls) == 2 * ["rgb(20, 25, 31)"]


# --- a stepper in a browser -----------------------------------------------------------------------------------------


def walk(stepper: Locator) -> None:
    """Step a stepper with its buttons, then with the keyboard: each gets where it says, and the picture changes."""
    from playwright.sync_api import expect

    last = int(stepper.get_by_role("slider").get_attribute("max") or 0)
    assert last > 0

    def arrives(step: int, by: str) -> None:
        expect(stepper, f"{by} leads to step {step}").to_have_attribute("data-step", str(step))

    drawn = {}
    for name, step in (("First", 0), ("Next", 1), ("Last", last), ("Back", last - 1)):
        button = stepper.get_by_role("button", name=name, exact=True)
        # A click waits until the page around it stands still. At an end a button keeps the focus and says that it
        # does nothing: there a click must not wait.
        button.click(force=button.get_attribute("aria-disabled") == "true")
        arrives(step, name)
        show_me = stepper.locator(".afs-answers:not([hidden]) button").last
        if show_me.count():
            show_me.dispatch_event("click")  # it asks, and shows the step before until it is answered
        drawn[step] = stepper.locator(".afs-view").first.inner_html()
    assert len(set(drawn.values())) == len(drawn)
    stepper.focus()
    for key, step in (("Home", 0), ("ArrowRight", 1), ("End", last), ("ArrowLeft", last - 1)):
        stepper.page.keyboard.press(key)
        arrives(step, key)


WALKED = """steppers => steppers.map((stepper) => {
  const last = Number(stepper.querySelector("[type=range]").max), wrong = [], drawn = {};
  const arrives = (by, step) => {
    if (stepper.dataset.step !== `${step}`) wrong.push([by, step, stepper.dataset.step]);
  };
  for (const [name, step] of [["First", 0], ["Next", 1], ["Last", last], ["Back", last - 1]]) {
    stepper.querySelector(`button[aria-label="${name}"]`).click();
    arrives(name, step);
    // It may ask, and shows the step before until it is answered.
    [...stepper.querySelectorAll(".afs-answers:not([hidden]) button")].at(-1)?.click();
    drawn[step] = stepper.querySelector(".afs-view").innerHTML;
  }
  for (const [key, step] of [["Home", 0], ["ArrowRight", 1], ["End", last], ["ArrowLeft", last - 1]]) {
    stepper.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    arrives(key, step);
  }
  const different = new Set(Object.values(drawn)).size === Object.keys(drawn).length;
  return last > 0 && different && !wrong.length ? "" : JSON.stringify({ last, different, wrong });
}).filter(Boolean)"""


def walk_quickly(steppers: Locator) -> None:
    """The same by script, in the page, with all steppers that are found: a hand takes seconds for each."""
    assert steppers.evaluate_all(WALKED) == []


FOCUSED = """() => {
  const node = document.activeElement, style = getComputedStyle(node);
  return [Boolean(node.closest(".afs")), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}"""


def tab_through(page: Page, most: int = 120) -> int:
    """Press Tab until a stepper is reached and left again: its number of stops. At each an outline shows the focus."""
    inside = 0
    for _ in range(most):
        page.keyboard.press("Tab")
        within, outlined = page.evaluate(FOCUSED)
        if inside and not within:
            return inside
        inside += within
        assert outlined or not within
    raise AssertionError(f"no way into a stepper and out again with {most} times Tab")


# --- a card in a browser --------------------------------------------------------------------------------------------


def verdict(card: Locator) -> str:
    return card.locator(".afq-verdict").inner_text()


def then(card: Locator, *names: str, by: str = "click") -> None:
    for name in names:
        button = card.get_by_role("button", name=name, exact=True)
        if by == "click":
            button.click(force=button.get_attribute("aria-disabled") == "true")
        else:
            button.focus()
            button.page.keyboard.press(by)


# --- JupyterLab -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: where it answers, what it serves."""

    address: str
    root: Path
    token: str

    def page(self) -> str:
        """The address of its page, with no notebook open: what a page before left in its workspace is forgotten."""
        return f"{self.address}/lab?token={self.token}&reset"

    def serves(self, url: str) -> bool:
        """Whether a request stays on this machine."""
        return url.startswith((self.address, self.address.replace("http", "ws", 1), "data:", "blob:"))


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Lab]:
    """A JupyterLab of our own on a free port, with nothing of the user's settings and `folder`/root to serve."""
    root = folder / "root"
    root.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", root, secrets.token_hex(16))
    places = ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_WORKSPACES", "JUPYTERLAB_SETTINGS")
    own = {f"{place}_DIR": str(folder / place) for place in places}
    # A reader's: where a machine that tests says so (CI), no answers would be kept.
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ANONFOLIO_ANSWERS")}
    environment |= {**own, "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1"}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={root}", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={lab.token}", "--allow-root",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class="
        "jupyterlab.NeverCheckForUpdate", "--ServerApp.terminals_enabled=False",
    ]  # fmt: skip
    log = folder / "lab.log"
    with log.open("wb") as said:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"{lab.address}/api/status?token={lab.token}", server, log)
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not answer:\n{log.read_text(errors='replace')[-3000:]}")


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
  // All cells up to one.
  async runTo(last) {
    this.panel.content.activeCellIndex = last;
    await jupyterapp.commands.execute("notebook:run-all-above");
    this.panel.content.deselectAll();
    this.panel.content.activeCellIndex = last;
    await jupyterapp.commands.execute("notebook:run-cell");
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
    await this.panel?.sessionContext.shutdown();
    this.panel?.dispose();
    this.panel = null;
    // What was answered in this browser.
    localStorage.clear();
  },
};"""


# anywidget 0.11 throws this when a model's script has not run two seconds after the model came, whatever kept the
# machine busy: in a browser slowed down forty times each of a notebook's widgets says so, and is shown once it has
# loaded. What our own scripts throw says more than that; a widget that never loads is missed by whoever looks for it.
TOO_BUSY = "[anywidget] Failed to initialize model."


ENDED_EARLY = re.compile("(Error: )?Canceled future for \\w+ message before replies were done")
"""Said of what JupyterLab asks a kernel when a notebook opens, if a test ends that kernel before it has answered."""


@contextmanager
def lab_page(lab: Lab, browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """JupyterLab with no notebook open, `HANDS`, and what went wrong: scripts failed, other machines were asked."""
    context = browser.new_context(viewport={"width": 1280, "height": 1600})
    page = context.new_page()
    # All of JupyterLab is loaded: on a machine with load 15 that took longer than other pages are waited for.
    page.set_default_timeout(120_000)
    wrong: list[str] = []

    def failed(error: object) -> None:
        if str(error) != TOO_BUSY and not ENDED_EARLY.fullmatch(str(error)):
            wrong.append(str(error))

    page.on("request", lambda request: wrong.append(request.url) if not lab.serves(request.url) else None)
    page.on("pageerror", failed)
    page.goto(lab.page())
    page.wait_for_function("window.jupyterapp")
    page.evaluate("jupyterapp.restored.then(() => undefined)")
    page.evaluate(HANDS)
    try:
        yield page, wrong
    finally:
        context.close()


def open_notebook(page: Page, name: str) -> None:
    """Open one of the notebooks that JupyterLab serves."""
    page.evaluate("name => hands.within(120, 'opening', hands.open(name))", name)


def close_notebook(page: Page) -> None:
    """Close it and end its kernel: JupyterLab would open it anew for the next test."""
    page.evaluate("hands.within(60, 'closing', hands.close())")


def run_to(page: Page, last: int) -> list[list[Any]]:
    """Run the open notebook up to a cell; the outputs of each cell."""
    outputs: list[list[Any]] = page.evaluate("last => hands.within(120, 'running', hands.runTo(last))", last)
    return outputs


def run_cells(page: Page, lab: Lab, name: str, *sources: str) -> list[dict[str, Any]]:
    """Write a notebook of some cells, open it and run it; each cell's only output."""
    cells = [nbformat.v4.new_code_cell(source, id=f"c{at}") for at, source in enumerate(sources)]
    # Without a kernel's name JupyterLab would ask for one.
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), lab.root / name)
    open_notebook(page, name)
    outputs = [output for (output,) in run_to(page, len(cells) - 1)]
    assert {output["output_type"] for output in outputs} == {"execute_result"}, outputs
    return outputs
