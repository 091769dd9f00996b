"""What tests in a browser share: pages that may not fail, a widget on a page of its own, JupyterLab and hands in it."""

from __future__ import annotations

import json
import os
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
    from playwright.sync_api import Browser, Locator, Page

VIEW = Path(anonfolio.__file__).parent / "view"

# --- a widget on a page of its own ----------------------------------------------------------------------------------

# What anywidget gives a front end: a model, which the test brings, and an element.
WIDGET_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>NAME</title>
<style>CSS</style><div id="before"><button>before</button></div><div id="el"></div>
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
def quiet_page(browser: Browser, height: int) -> Iterator[Page]:
    """A page, 900 wide, on which no script may fail and nothing may complain."""
    context = browser.new_context(viewport={"width": 900, "height": height})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        yield page
    finally:
        context.close()
    assert errors == [], errors


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


def walk(stepper: Locator, *, mouse: bool = True) -> None:
    """Step a stepper with its buttons, then with the keyboard: each gets where it says, and the picture changes.

    Without the mouse its buttons are clicked by script, which is ten times faster.
    """
    from playwright.sync_api import expect

    last = int(stepper.get_by_role("slider").get_attribute("max") or 0)
    assert last > 0

    def arrives(step: int, by: str) -> None:
        expect(stepper, f"{by} leads to step {step}").to_have_attribute("data-step", str(step))

    drawn = {}
    for name, step in (("First", 0), ("Next", 1), ("Last", last), ("Back", last - 1)):
        button = stepper.get_by_role("button", name=name, exact=True)
        if mouse:
            # A click waits until the page around it stands still. At an end a button keeps the focus and says that it
            # does nothing: there a click must not wait.
            button.click(force=button.get_attribute("aria-disabled") == "true")
        else:
            button.dispatch_event("click")
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


# anywidget 0.11 throws this when a model's script has not run two seconds after the model came, whatever kept the
# machine busy: in a browser slowed down forty times each of a notebook's widgets says so, and is shown once it has
# loaded. What our own scripts throw says more than that; a widget that never loads is missed by whoever looks for it.
TOO_BUSY = "[anywidget] Failed to initialize model."


ENDED_EARLY = "Error: Canceled future for create_subshell_request message before replies were done"
"""JupyterLab asks for one when a notebook opens, and says that when a test is through and ends the kernel before."""


@contextmanager
def lab_page(lab: Lab, browser: Browser, height: int = 1600) -> Iterator[Page]:
    """JupyterLab with no notebook open, and `HANDS`; no script may fail, and nothing may be asked of other machines."""
    context = browser.new_context(viewport={"width": 1280, "height": height})
    page = context.new_page()
    page.set_default_timeout(30_000)
    outside: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if not lab.serves(request.url) else None)
    page.on("pageerror", lambda error: errors.append(str(error)) if str(error) not in (TOO_BUSY, ENDED_EARLY) else None)
    page.goto(lab.page())
    page.wait_for_function("window.jupyterapp")
    page.evaluate("jupyterapp.restored.then(() => undefined)")
    page.evaluate(HANDS)
    try:
        yield page
    finally:
        context.close()
    assert outside == []
    assert errors == [], errors


def open_notebook(page: Page, name: str) -> None:
    """Open one of the notebooks that JupyterLab serves."""
    page.evaluate("name => hands.within(40, 'opening', hands.open(name))", name)


def close_notebook(page: Page) -> None:
    """Close it and end its kernel: JupyterLab would open it anew for the next test."""
    page.evaluate("hands.within(20, 'closing', hands.close())")


def run_all(page: Page) -> list[list[Any]]:
    """Run the open notebook; the outputs of each cell."""
    outputs: list[list[Any]] = page.evaluate("hands.within(120, 'running', hands.runAll())")
    return outputs


def run_one_cell(page: Page, lab: Lab, name: str, source: str) -> dict[str, Any]:
    """Write a notebook of one cell, open it and run it; the cell's only output."""
    cell = nbformat.v4.new_code_cell(source, id="only")
    # Without a kernel's name JupyterLab would ask for one.
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), lab.root / name)
    open_notebook(page, name)
    ((output,),) = run_all(page)
    assert output["output_type"] == "execute_result", output
    return dict(output)
