"""What a step of the stepper costs in a real browser: its script, and from the key to the painted picture.

Back and forth through a scenario, in a Chromium without a graphics card, with motion and without. The key comes as a
frame begins; once its script has run, what the page shows is compared with what Python says of that moment. The second
clock stops when the frame is painted: the wait for a frame to begin is the screen's, not ours. Each round opens a page
of its own, for the first way through a step is the dearest; the dearest step (a fork) is told beside the median. On a
busy machine these are the times of whoever keeps it busy: look at the load.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from results import LeftOut, Measured, Result

import anonfolio.view
from anonfolio.program.scenario import Scenario, Step
from anonfolio.view import Stepper
from anonfolio.view.program import packed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PART = "stepper: one step, in the browser"
STEPS = 60
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
VIEW = Path(anonfolio.view.__file__).parent

PAGE = """<!doctype html><meta charset="utf-8"><style>CSS</style><div id="el"></div>
<script type="application/json" id="state">STATE</script>
<script type="module">
import widget from "./stepper.js";
const state = JSON.parse(document.getElementById("state").textContent);
const heard = new Set();
const model = {
  get: (name) => state[name], on: (event, act) => heard.add(act), off: (event, act) => heard.delete(act),
  set: (name, value) => { state[name] = value; heard.forEach((act) => act()); }, save_changes: () => {},
};
await widget.render({ model, el: document.getElementById("el") });
window.ready = true;
</script>"""

# A message that is posted from a frame's own callback is handled once the frame is painted.
MEASURE = """async ([steps, said]) => {
  const root = document.querySelector(".afs");
  root.focus();
  const script = [], painted = [];
  let way = -1;
  for (let at = 0; at < steps; at++) {
    const was = Number(root.dataset.step);
    if (!was || was === said.length - 1) way = was ? -1 : 1;
    await new Promise((wake, fail) => requestAnimationFrame(() => {
      const before = performance.now();
      root.dispatchEvent(new KeyboardEvent("keydown", { key: way < 0 ? "ArrowLeft" : "ArrowRight", bubbles: true }));
      script.push(performance.now() - before);
      const shown = root.querySelector(".afs-view > svg").getAttribute("aria-label");
      if (shown !== said[was + way]) fail(new Error(`after step ${was} stands: ${shown}`));
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => wake(painted.push(performance.now() - before));
      port2.postMessage(0);
    }));
  }
  return [script, painted];
}"""


@dataclass(frozen=True)
class Walked:
    """What is stepped through, and the goals in milliseconds."""

    name: str
    scenario: Scenario
    script: float
    worst: float
    painted: float


def scenarios() -> list[Walked]:
    """A folio a row, as in the notebooks; and one whose fork changes more than a thousand shapes."""
    copies: list[Step] = [("write", 1, page, 7) for page in range(0, 64, 5)]
    small = Scenario(64, (*[("write", 0, page, 1) for page in range(64)], ("fork", 0), *copies), orders=(4,))
    scattered: list[Step] = [("write", 1, page, 7) for page in range(0, 512, 37)]
    large = Scenario(512, (("write", 0, 0, 1), ("fork", 0), *scattered, ("write", 0, 5, 9)), orders=(9,))
    return [Walked("64 pages", small, 5, 16, 16), Walked("512 pages", large, 16, 100, 50)]


def run(rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """The median and the dearest step of each round."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        yield LeftOut(PART, f"no browser on the PATH (looked for {', '.join(CHROMIUM)})")
        return
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        yield LeftOut(PART, "playwright is not installed")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        for walked in scenarios():
            tell(f"stepper, {walked.name}")
            moving, still = ([_walk(browser, walked.scenario, moves) for _ in range(rounds)] for moves in (True, False))
            yield from _judged(walked, moving, walked.name)
            yield from _judged(walked, still, f"{walked.name}, less motion")
        browser.close()


def _walk(browser: Browser, scenario: Scenario, moves: bool) -> tuple[list[float], list[float]]:
    """Per step its script and its way to the screen, in milliseconds, on a page that nobody has seen before."""
    motion: Literal["no-preference", "reduce"] = "no-preference" if moves else "reduce"
    page = browser.new_page(viewport={"width": 1000, "height": 1000}, reduced_motion=motion)
    script, painted = page.evaluate(MEASURE, [STEPS, opened(page, scenario)])
    page.close()
    return script, painted


def _judged(walked: Walked, rounds: list[tuple[list[float], list[float]]], name: str) -> Iterator[Result]:
    script, painted = zip(*rounds, strict=True)
    yield Measured(PART, f"{name}: script", tuple(map(median, script)), "ms", at_most=walked.script)
    yield Measured(PART, "… of its dearest step", tuple(map(max, script)), "ms", at_most=walked.worst)
    yield Measured(PART, "… to the painted picture", tuple(map(median, painted)), "ms", at_most=walked.painted)


def opened(page: Page, scenario: Scenario) -> list[str]:
    """Show a stepper; what Python says of each of its moments."""
    widget = Stepper(scenario.run("linux-6.15"))
    state = json.dumps({"frames": packed(widget.frames), "step": widget.step, "predict": False})
    html = PAGE.replace("CSS", (VIEW / "stepper.css").read_text(encoding="utf-8")).replace("STATE", state)
    code = (VIEW / "stepper.js").read_text(encoding="utf-8")
    page.route("**/stepper.js", lambda route: route.fulfill(body=code, content_type="text/javascript; charset=utf-8"))
    page.route("**/page", lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
    page.goto("http://stepper.test/page")
    page.wait_for_function("window.ready")
    return [picture.sentence for picture in widget.columns[0].pictures]
