"""What the README says is so: its picture, its code, its commands, its list of the house."""

from __future__ import annotations

import re
from pathlib import Path

from test_house import ROOMS

import anonfolio as af
from anonfolio.__main__ import DIFFERENT, EQUAL, INTERRUPTED, WRONG_INPUT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PICTURE = ROOT / "docs" / "picture.svg"


def picture() -> str:
    """The step that the README describes: RFC v2 copies a block that holds a pinned page."""
    return af.Scenario.load("pinned-beside-shared").run("rfc-v2").show(-2).svg()


def test_picture_is_what_the_model_draws() -> None:
    assert PICTURE.read_text(encoding="utf-8") == picture(), "make it anew with: python tests/test_readme.py"


def test_what_the_picture_is_said_to_show_happens() -> None:
    timeline = af.Scenario.load("pinned-beside-shared").run("rfc-v2")
    fault = timeline[-2].faults[0]
    assert (fault.process, fault.vpn, fault.code) == (0, 2, "copy4")
    assert 10 in fault.pages
    machine = timeline.scenario.end("rfc-v2")
    assert [violation.invariant for violation in af.check(machine)] == ["pinned_page_stays"]


def test_code_runs_as_printed() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code
    names: dict[str, object] = {}
    exec(code[1], names)
    fault = names["fault"]
    assert isinstance(fault, af.Fault)
    assert fault.code == "alloc4"
    scenario = names["s"]
    assert isinstance(scenario, af.Scenario)
    assert scenario.run(af.RFC_V2).compare(scenario.recorded("6.18"))
    assert not scenario.run(af.LINUX_6_15).compare(scenario.recorded("6.18"))


def test_the_code_for_a_kernel_of_your_own_does_what_it_says() -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.S)[1]
    names: dict[str, object] = {"af": af}
    exec(code, names)
    mine, machine, changes = names["mine"], names["machine"], names["changes"]
    assert isinstance(mine, af.Policy)
    assert isinstance(machine, af.Machine)
    assert isinstance(changes, list)
    assert [row.release for row in changes] == [*4 * ["6.13"], "6.14"]
    orders = []
    for advice in (None, "hugepage"):
        process = machine.spawn()
        process.mmap(1024, advice=advice)
        orders.append(process.write(5).order)
    assert orders == [4, 9]
    assert not names["found"]


def test_each_notebook_is_in_the_table() -> None:
    for book in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert f"\n| [{book.stem}](notebooks/{book.name}) | " in README, book.name


def test_policies_commands_and_modules_are_all_named() -> None:
    for policy in af.POLICIES:
        assert f"`{policy}`" in README
    for command in ("run", "replay", "search", "compare", "record", "doctor"):
        assert f"\nanonfolio {command} " in README
    house = README[README.index("## The house") :]
    for module in (ROOT / "anonfolio").glob("*.py"):
        assert module.name.startswith("__") or f"`{module.name}`" in house, module.name


def test_the_house_has_the_rooms_that_there_are_in_their_order() -> None:
    house = README[README.index("## The house") :]
    told = re.findall(r"^\| `(\w+)` \| (.+) \|$", house, re.M)
    assert [name for name, _ in told] == list(ROOMS)
    there = {path.parent.name for path in (ROOT / "anonfolio").glob("*/__init__.py")}
    assert {name for name, _ in told} == there
    for name, holds in told:
        for module in re.findall(r"`(\w+)`", holds):
            assert (ROOT / "anonfolio" / name / module / "__init__.py").exists(), module


def test_exit_codes_are_the_ones_the_command_has() -> None:
    told = re.search(r"Exit codes: (\d+) .*?, (\d+) .*?, (\d+) .*?, (\d+) ", README, re.S)
    assert told
    assert tuple(map(int, told.groups())) == (EQUAL, DIFFERENT, WRONG_INPUT, INTERRUPTED)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
