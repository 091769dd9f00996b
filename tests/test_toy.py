"""The toy on the site's first page: what was computed beforehand is what the model does, and the page shows that."""

from __future__ import annotations

import base64
import colorsys
import importlib.util
import json
import random
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from browser_support import quiet_page

import anonfolio as af
from anonfolio.draw.drawing import ROLE_HUES, stylesheet

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_tool", ROOT / "tools" / "toy.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


toy = load()
STORED = json.loads(toy.FILE.read_text(encoding="utf-8"))
STEPS = len(toy.STEPS)


class Table(NamedTuple):
    """A stored graph, unpacked apart from what packed it."""

    cells: npt.NDArray[np.uint8]
    folios: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.uint16]
    says: npt.NDArray[np.uint8]
    renamed: npt.NDArray[np.uint16]
    sentences: list[str]

    @classmethod
    def of(cls, policy: dict[str, Any]) -> Table:
        raw, states, at = zlib.decompress(base64.b64decode(policy["table"])), policy["states"], 0
        parts = []
        shapes = (8, states), (8, states), (18, states), (18, states), (18, states), (states, 36)
        for shape in shapes:
            part = np.frombuffer(raw, np.uint8, shape[0] * shape[1], at)
            at += part.nbytes
            parts.append(part.reshape(shape))
        assert at == len(raw)
        cells, folios, low, high, says, renamed = parts
        targets = low + (high.astype(np.uint16) << 8)
        return cls(cells, folios, targets, says, renamed.view("<u2").T, policy["sentences"])

    def rows(self, state: int) -> list[list[int]]:
        return self.cells[:, state].reshape(2, 4).tolist()


def seen(machine: af.Machine, places: list[int | None]) -> list[list[Any]]:
    """What the two places show: the model's own folio, and the other bits."""
    rows: list[list[Any]] = []
    for number in places:
        pages = [machine.process(number).page(page) for page in range(4)] if number is not None else []
        rows.append([(page.folio, toy.cell(page, {page.folio: 0} if page.folio is not None else {})) for page in pages])
    return [row or [(None, 0)] * 4 for row in rows]


def told(rows: list[list[int]], folios: list[int]) -> list[list[Any]]:
    """The same of a stored state, whose folios are known by what became of them."""
    return [
        [(folios[value >> 4 & 7], value & ~0x70) if value >= toy.MAPPED else (None, value) for value in row]
        for row in rows
    ]


def _stored(places: list[int | None], mirrored: int) -> list[int]:
    """The processes as the stored state has them."""
    return [number for number in (places[::-1] if mirrored else places) if number is not None]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("policy", STORED["policies"], ids=lambda policy: policy["name"])
def test_the_toy_does_what_the_model_does_on_random_walks(policy: dict[str, Any]) -> None:
    """Some 340 walks under each policy, of up to 24 steps, each process's place followed as the page follows it."""
    table = Table.of(policy)
    draw = random.Random(policy["name"])
    for _ in range(340):
        machine, state, mirrored = toy.start(af.policy_named(policy["name"])), 0, 0
        folios: list[int] = []
        places: list[int | None] = [machine.live()[0].number, None]
        for _ in range(draw.randrange(4, 24)):
            side = draw.choice([at for at, number in enumerate(places) if number is not None])
            number, other = places[side], places[1 - side]
            assert number is not None
            step = draw.choice([*range(4), *range(4), draw.randrange(4, 8), 8, 8])
            what, page = toy.STEPS[step]
            taken, words = toy.taken(machine, number, what, page)
            row = (side ^ mirrored) * STEPS + step
            said = int(table.says[row, state])
            assert table.sentences[said & ~toy.MIRROR] == words
            came = policy["renames"][int(table.renamed[row, state])]
            state = (state + int(table.targets[row, state])) % (1 << 16)
            if step == 8 and other is not None:
                places[side], mirrored = None, 1 - side
            else:
                mirrored ^= said >= toy.MIRROR
            machine = taken
            if step == 8 and other is None:
                places[1 - side] = max(process.number for process in machine.live())
            # A folio that is new to the page is new to the model.
            known = set(folios)
            met = toy.folios_met(machine, [machine.process(number) for number in _stored(places, mirrored)])
            folios = [folios[before] if before >= 0 else folio for before, folio in zip(came, met, strict=True)]
            assert all(folio not in known for before, folio in zip(came, folios, strict=True) if before < 0)
            rows = table.rows(state)
            assert told(rows[::-1] if mirrored else rows, folios) == seen(machine, places), (policy["name"], words)


def test_every_step_that_can_be_taken_leads_to_a_stored_state() -> None:
    for policy in STORED["policies"]:
        table, states = Table.of(policy), np.arange(policy["states"])
        there = (states + table.targets) % (1 << 16)
        assert there.max() < policy["states"]
        assert set(np.unique(table.says & ~np.uint8(toy.MIRROR))) == set(range(len(table.sentences)))
        # All of them are reached.
        assert len(np.unique(there)) == policy["states"]


def test_a_colour_means_in_the_toy_what_it_means_in_the_pictures() -> None:
    style = (ROOT / "tools" / "site" / "toy.css").read_text(encoding="utf-8")
    for toy_name, role in (("mine", "alone"), ("shared", "shared")):
        found = re.findall(rf"--{toy_name}: #(\w{{6}})", style)
        edges = re.findall(rf"--e{ROLE_HUES[role]}:#(\w{{6}})", stylesheet())
        assert len(found) == 2  # light and dark
        assert all(abs(_hue(one) - _hue(edges[0])) < 0.05 for one in found)


def _hue(colour: str) -> float:
    red, green, blue = bytes.fromhex(colour)
    return colorsys.rgb_to_hsv(red, green, blue)[0]


def test_the_toy_is_light_enough_to_travel_with_a_page() -> None:
    assert toy.FILE.stat().st_size < 3 << 20


# --- in a browser ---------------------------------------------------------------------------------------------------


LABELS = """panes => panes.map((pane) =>
  [...pane.querySelectorAll(".cell")].map((cell) => cell.getAttribute("aria-label")))"""


@pytest.mark.browser
def test_a_click_and_a_key_do_what_the_model_does(browser: Browser, site: Path) -> None:
    """A random walk by mouse and keyboard; each pane's cells, as a screen reader says them, are the model's."""
    draw = random.Random(16)
    with quiet_page(browser, 1200) as page:
        page.emulate_media(reduced_motion="reduce")  # a click waits until what it hits stands still
        page.goto((site / "index.html").as_uri())
        page.wait_for_selector("#toy .cell")
        names = [policy["name"] for policy in STORED["policies"]]
        machines = {name: toy.start(af.policy_named(name)) for name in names}
        for _ in range(30):
            live = [process.number for process in machines[names[0]].live()]
            # While both places are taken by the first two, a number is a place; that is enough of a walk.
            step = draw.choice(["write"] * 5 + ["read"] * 2 + ["fork"] * (live == [0]))
            side = draw.choice(live)
            at = draw.randrange(4)
            for name in names:
                what, where = (step, at) if step != "fork" else ("fork or exit", 0)
                machines[name] = toy.taken(machines[name], side, what, where)[0]
            if step == "fork":
                page.click("[data-does=fork]")
            else:
                page.check(f"input[value='{0 if step == 'write' else 4}']")
                cell = (
                    page.locator("#toy section")
                    .nth(draw.randrange(3))
                    .locator(f".cell[data-side='{side}'][data-page='{at}']")
                )
                if draw.random() < 0.5:
                    cell.click()
                else:
                    cell.focus()
                    page.keyboard.press("Enter")
            said = page.locator("#toy section").evaluate_all(LABELS)
            for labels, name in zip(said, names, strict=True):
                assert [without_letters(label) for label in labels] == model_words(machines[name])
        page.click("[data-does=again]")
        assert page.locator("#toy .cell").count() == 12


def without_letters(label: str) -> str:
    return re.sub("folio [A-Z]", "folio", label)


def model_words(machine: af.Machine) -> list[str]:
    words = []
    for process in machine.live():
        for at in range(4):
            page, where = process.page(at), f"P{process.number}, page {at}: "
            if page.frame is None or page.head is None:
                words.append(where + ("zero page, read-only" if page.zero else "nothing mapped"))
                continue
            allowed = "writable" if page.writable else "read-only"
            alone = "exclusive" if page.exclusive else "not exclusive"
            words.append(f"{where}folio, its page {page.frame - page.head}, {allowed}, {alone}")
    return words
