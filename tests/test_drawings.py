"""All drawings: no text is smaller than 12 px where it is shown, and all are light or dark as the page is."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from test_look import a_process

from anonfolio import LINUX_6_15, RFC_V2, Scenario
from anonfolio import microsteps as ms
from anonfolio.draw.advised import advice_svg
from anonfolio.draw.drawing import Drawn, stacked
from anonfolio.draw.looked import look_picture
from anonfolio.draw.micropicture import MicroPicture
from anonfolio.draw.picture import Picture, side_by_side
from anonfolio.draw.svg import legend
from anonfolio.draw.tree import Decision
from anonfolio.exercises.rfc_to_mainline import history
from anonfolio.hardware.advice import advise
from anonfolio.hardware.cost import read_table
from anonfolio.hardware.cpu import cpu_told
from anonfolio.hardware.trace import DATA_DIR, read_trace
from anonfolio.view import plots

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"
IN_LAB = 848
"""Pixels that JupyterLab gives an output in a window 1,280 wide; where there are fewer, a drawing scrolls."""
COPY = Scenario.load("fork-both-write")
ONE, TWO = plots.Line("one", [1.0, 30.0]), plots.Line("two", [4.0, 1000.0])


def of(name: str) -> Picture:
    return Picture.of(Scenario.load(name).run(LINUX_6_15))


def beside() -> str:
    panes = side_by_side([COPY.run(LINUX_6_15), COPY.run(RFC_V2)])
    drawn: list[tuple[str, Drawn]] = [(name, pane[-1]) for name, pane in zip("ab", panes, strict=True)]
    return stacked("both", drawn, ("What it was asked", tree().svg()))


def tree() -> Decision:
    return Decision(COPY.run(LINUX_6_15).faults()[-1], LINUX_6_15)


def advice() -> str:
    whole = read_trace(DATA_DIR / "compile-6.18.44.npz")
    first = slice(0, 500)
    trace = replace(
        whole, vpn=whole.vpn[first], process=whole.process[first], code=whole.code[first], kernel_faults=500,
        calls=tuple(call for call in whole.calls if call.at <= 500),
    )  # fmt: skip
    return advice_svg(advise(trace, [(), (4,)], table=read_table("linux-6.18.44"), cpu=cpu_told("")))


DRAWINGS: dict[str, Callable[[], str]] = {
    "scene": lambda: Picture.of(COPY.run(LINUX_6_15)).svg(),
    "three processes": lambda: of("nested-fork").svg(),
    "pins": lambda: of("pin-blocks-reuse").svg(),
    "512 pages": lambda: Picture.of(Scenario(512, (("write", 0, 0, 1), ("fork", 0)), (9,)).run(LINUX_6_15)).svg(),
    "look": lambda: look_picture(a_process()).svg(),
    "two kernels and a panel": beside,
    "legend": legend,
    "tree": lambda: tree().svg(),
    "tree of several": lambda: Decision({f"fault {n}": f for n, f in enumerate(COPY.run(LINUX_6_15).faults())}).svg(),
    "micro-steps": lambda: MicroPicture(ms.THREADS.run([("cpu1", "read", 0), "clear"]), 5).svg(),
    "micro-steps of a range": lambda: MicroPicture(ms.RANGE.run(["copy", ("cpu1", "write", 3, 66)])).svg(),
    "advice": advice,
    "history": history.svg,
    "plot of curves": lambda: plots.curves("A", [1, 2], [ONE, TWO], x_name="x", y_name="y", marks=[(2, "here")]).svg,
    "plot of coverage": lambda: plots.coverage("A", [("one", [(0, 4), (4, 1)])]).svg,
    "plot of panels": lambda: plots.panels("A", ["4K", "16K"], [plots.Panel("y", [ONE, TWO])], x_name="x").svg,
    "plot of stacks": lambda: plots.stacks("A", ["4K", "16K"], [ONE, TWO], x_name="x", y_name="y").svg,
    "plot of growth": lambda: plots.straight("A", [1, 4], ["1", "4"], [plots.Panel("s", [ONE])], x_name="x").svg,
}


def sizes(root: ET.Element) -> set[float]:
    """The sizes of all texts, in the drawing's own units."""
    told = set()
    for element in root.iter():
        if element.tag not in (f"{SVG}text", f"{SVG}tspan"):
            continue
        size = element.get("font-size") or "".join(
            re.findall(r"font(?:-size)?:[^;]*?([\d.]+px)", element.get("style", ""))
        )
        if size or element.tag == f"{SVG}text":
            told.add(float(size.removesuffix("px")))
    return told


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", DRAWINGS)
def test_no_text_of_a_drawing_is_smaller_than_12_px(name: str) -> None:
    root = ET.fromstring(DRAWINGS[name]())
    points = re.fullmatch(r"([\d.]+)pt", root.get("width", ""))
    width = float(root.attrib["viewBox"].split()[2])
    # matplotlib's units are points.
    as_drawn = width * 4 / 3 if points else width
    assert as_drawn <= IN_LAB
    assert min(sizes(root)) * as_drawn / width >= 12


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", sorted(DRAWINGS.keys() - {"history"}))
def test_a_drawing_is_light_or_dark_as_the_page_is(name: str) -> None:
    svg = DRAWINGS[name]()
    assert "prefers-color-scheme:dark" in svg
    assert '[data-jp-theme-light="false"]' in svg


# --- the gallery ------------------------------------------------------------------------------------------------------


def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery_tool", ROOT / "tools" / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gallery_shows_what_the_library_draws_and_is_small() -> None:
    folder = ROOT / "docs" / "gallery"
    tool = gallery()
    for name, draw in tool.DRAWINGS.items():
        assert (folder / f"{name}.svg").read_text(encoding="utf-8") == draw(), (
            "make it anew with: python tools/gallery.py"
        )
    told = (ROOT / "docs" / "GALLERY.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\(gallery/([^)]+)\)", told))
    assert shown == {path.name for path in folder.iterdir()}
    assert {Path(name).stem for name in shown} == {*tool.DRAWINGS, *tool.PHOTOGRAPHS, *tool.SEEN}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 600_000
