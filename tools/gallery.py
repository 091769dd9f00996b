"""Draw the gallery anew: docs/gallery/, shown by docs/GALLERY.md.

    python tools/gallery.py [--output DIR]

Drawings are written as the library makes them, the same each time. What lives in a page (stepper, question, toy,
report) is photographed in Chromium, on the site that tools/site.py builds of the stored notebooks.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from anonfolio import LINUX_6_15, RFC_V2, Scenario
from anonfolio import microsteps as ms
from anonfolio.draw.drawing import Drawn, stacked
from anonfolio.draw.micropicture import MicroPicture
from anonfolio.draw.picture import side_by_side
from anonfolio.draw.tree import Decision

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "gallery"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
COLOURS = 160
"""So many does a photograph keep: it is a quarter as large, and nobody sees it."""


# --- drawings ---------------------------------------------------------------------------------------------------------


def two_kernels() -> str:
    """The first write after a fork, under a kernel and under the proposal."""
    program = Scenario.load("fork-both-write")
    written = next(at for at, step in enumerate(program.steps, 1) if step[0] == "fork") + 1
    panes = side_by_side([program.run(policy) for policy in (LINUX_6_15, RFC_V2)])
    drawn: list[tuple[str, Drawn]] = [
        (name, pane[written]) for name, pane in zip(("Linux 6.15 to 6.18", "RFC v2, never merged"), panes, strict=True)
    ]
    return stacked("A parent writes a page that its child maps, too", drawn)


def tree() -> str:
    """What a later write was asked."""
    return Decision(Scenario.load("fork-both-write").run(LINUX_6_15).faults()[-1], LINUX_6_15).svg()


def micro_steps() -> str:
    """A copy half done, another CPU still going by what its TLB holds."""
    return MicroPicture(ms.THREADS.run([("cpu1", "read", 0), "clear", ("cpu1", "read", 0)]), 6).svg()


DRAWINGS: dict[str, Callable[[], str]] = {"two-kernels": two_kernels, "tree": tree, "micro-steps": micro_steps}


SEEN = ("look",)
"""Of a process that ran, and so not drawn anew: ``anonfolio look PID --svg FILE``."""


# --- photographs ------------------------------------------------------------------------------------------------------


def stepper(page: Page) -> Locator:
    page.locator(".afs-view > svg:visible").first.wait_for()
    return page.locator(".afs:visible").first


def question(page: Page) -> Locator:
    page.locator(".afq:visible").first.wait_for()
    return page.locator(".afq:has(input[type=radio]):visible").first


def toy(page: Page) -> Locator:
    cells = page.locator("#toy .cell")
    cells.first.click()
    page.get_by_role("button", name="fork", exact=True).click()
    cells.first.click()
    return page.locator("#toy")


def report(page: Page) -> Locator:
    return page.locator(".afr").first


PHOTOGRAPHS: dict[str, tuple[str, Callable[[Page], Locator]]] = {
    "stepper": ("00_start_here.html", stepper),
    "question": ("00_start_here.html", question),
    "toy": ("index.html", toy),
    "report": ("13_laboratory.html", report),
}
HIGHEST = 900
"""Pixels; what is longer goes on."""


def photographs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each as PNG."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        raise SystemExit(f"error: no browser on the PATH (looked for {', '.join(CHROMIUM)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        for name, (file, find) in PHOTOGRAPHS.items():
            # What moves would be caught on its way, wherever the machine is then.
            page = browser.new_page(viewport={"width": 960, "height": HIGHEST}, reduced_motion="reduce")
            page.goto((folder / file).as_uri())
            found = find(page)
            page.mouse.move(0, 0)
            box = found.bounding_box()
            assert box, name
            size = {"x": box["x"], "y": box["y"], "width": box["width"], "height": min(box["height"], HIGHEST)}
            yield name, page.screenshot(full_page=True, clip=size)
            page.close()
        browser.close()


def small(png: bytes) -> bytes:
    """The same with few colours."""
    stored = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS).save(stored, "PNG", optimize=True)
    return stored.getvalue()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (output / f"{name}.svg").write_text(draw(), encoding="utf-8", newline="\n")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, Path(__file__).with_name("site.py"), "--output", folder], check=True)
        for name, png in photographs(Path(folder)):
            (output / f"{name}.png").write_bytes(small(png))
    size = sum(path.stat().st_size for path in output.iterdir())
    print(f"{len(DRAWINGS) + len(PHOTOGRAPHS)} pictures, {size / 1000:.0f} kB, in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
