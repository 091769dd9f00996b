"""What a step of the stepper costs in a real browser: from the key to the painted picture.

    python benchmarks/stepper.py

Median over many steps, back and forth through a scenario, in a Chromium without a graphics card. The key comes as a
frame begins, and the clock stops once that frame is painted: the wait for a frame to begin is the screen's, not ours.
Exits with 1 when a median is above its limit.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import anonfolio.view
from anonfolio.program.scenario import Scenario, Step
from anonfolio.view import Stepper
from anonfolio.view.program import packed

STEPS = 200
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
MEASURE = """async (steps) => {
  const root = document.querySelector(".afs");
  root.focus();
  const times = [];
  let key = "ArrowLeft";
  for (let at = 0; at < steps; at++) {
    if (root.dataset.step === "0") key = "ArrowRight";
    if (root.dataset.step === root.querySelector("input").max) key = "ArrowLeft";
    await new Promise((wake) => requestAnimationFrame(() => {
      const before = performance.now();
      root.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => wake(times.push(performance.now() - before));
      port2.postMessage(0);
    }));
  }
  return times;
}"""


def scenarios() -> list[tuple[str, Scenario, float]]:
    """What is stepped through, and the limit of its median in milliseconds."""
    copies: list[Step] = [("write", 1, page, 7) for page in range(0, 64, 5)]
    small = Scenario(64, (*[("write", 0, page, 1) for page in range(64)], ("fork", 0), *copies), orders=(4,))
    scattered: list[Step] = [("write", 1, page, 7) for page in range(0, 512, 37)]
    large = Scenario(512, (("write", 0, 0, 1), ("fork", 0), *scattered, ("write", 0, 5, 9)), orders=(9,))
    return [("64 pages", small, 16), ("512 pages", large, 50)]


def measure(page: Page, scenario: Scenario) -> list[float]:
    """Milliseconds per step."""
    widget = Stepper(scenario.run("linux-6.15"))
    state = json.dumps({"frames": packed(widget.frames), "step": widget.step, "predict": False}).replace("</", "<\\/")
    html = PAGE.replace("CSS", (VIEW / "stepper.css").read_text(encoding="utf-8")).replace("STATE", state)
    code = (VIEW / "stepper.js").read_text(encoding="utf-8")
    page.route("**/stepper.js", lambda route: route.fulfill(body=code, content_type="text/javascript; charset=utf-8"))
    page.route("**/page", lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
    page.goto("http://stepper.test/page")
    page.wait_for_function("window.ready")
    page.evaluate(MEASURE, 20)
    return [float(time) for time in page.evaluate(MEASURE, STEPS)]


def main() -> int:
    """Print the medians; 1 when one is above its limit."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        print(f"no browser on the PATH (looked for {', '.join(CHROMIUM)})", file=sys.stderr)
        return 1
    slow = False
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        for name, scenario, limit in scenarios():
            page = browser.new_page(viewport={"width": 1000, "height": 1000})
            painted = statistics.median(measure(page, scenario))
            print(f"{name}: {painted:.1f} ms from key to paint (median of {STEPS} steps; limit {limit} ms)")
            slow |= painted > limit
            page.close()
        browser.close()
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
