"""The teacher's kit: what it says is computed or looked up, and what is generated is whole."""

from __future__ import annotations

import importlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest

from anonfolio import Scenario
from anonfolio.__main__ import COMMANDS, main
from anonfolio.teach import kit, sheet, times

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "teach"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(KIT.glob("*.md"))}
BOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SEEN = ["alloc4", "alloc2", "zeroread", "zero0", "zero4", None, "copy0", "copy4", "copy0", "reuse1", "copy0", None]
"""What each key step's last fault is; a fork has none."""


def test_key_steps_are_what_their_slides_say() -> None:
    found = []
    for key in kit.KEY_STEPS:
        step = Scenario.load(key.scenario).run(key.policy)[key.step - 1 if key.step > 0 else -1]
        found.append(step.faults[-1].code if step.faults else None)
    assert found == SEEN


def test_the_third_process_copies_because_of_the_bit_and_not_because_it_is_a_last_page() -> None:
    key = kit.KEY_STEPS[-2]
    (fault,) = Scenario.load(key.scenario).run(key.policy)[key.step - 1].faults
    assert fault.decided_by is not None
    assert fault.decided_by.what == "FOLIO_MM_IDS_SHARED_BITNUM"


def test_the_fork_of_a_pinned_folio_copies_it_for_the_child() -> None:
    key = kit.KEY_STEPS[-1]
    machine = Scenario.load(key.scenario).run(key.policy)
    before, after = (machine[key.step - at].snapshot for at in (2, 1))
    assert after.held_pages - before.held_pages == 16


def test_the_fork_of_a_lesson_shares_every_page_read_only() -> None:
    key = kit.KEY_STEPS[5]
    result = Scenario.load(key.scenario).run(key.policy)[key.step - 1]
    assert result.step[0] == "fork"
    assert not any(process.mappings[0].writable.any() for process in result.snapshot.processes)


def test_slides_are_whole(tmp_path: Path) -> None:
    count = kit.slides(tmp_path)
    page = (tmp_path / "slides.html").read_text(encoding="utf-8")
    assert page.count("<section>") == count == 2 * len(kit.KEY_STEPS)
    images = re.findall(r'src="([^"]+)"', page)
    assert len(images) == len(kit.KEY_STEPS)
    for image in images:
        assert ET.parse(tmp_path / image).getroot().tag.endswith("svg")
    assert "http" not in page


def test_a_figure_is_the_picture_of_its_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f.svg"
    assert main(["figure", "read-then-write", "--step", "2", "--policy", "rfc-v2", "-o", str(file)]) == 0
    timeline = Scenario.load("read-then-write").run("rfc-v2")
    assert file.read_text(encoding="utf-8") == timeline.show(1).svg()
    assert kit.figure("read-then-write", 0) == Scenario.load("read-then-write").run().show(None).svg()
    assert kit.figure("read-then-write", -1) == Scenario.load("read-then-write").run().show().svg()
    assert main(["figure", "read-then-write", "--step", "4"]) == 2
    assert "steps 1 to 3" in capsys.readouterr().err
    assert main(["figure", "read-then-write", "-o", "x.png"]) == 2
    assert "NAME.svg" in capsys.readouterr().err


# --- the reading sheet ------------------------------------------------------------------------------------------------


def test_each_function_of_the_sheet_is_there_in_the_model_and_in_the_kernel() -> None:
    stored = json.loads((ROOT / "data/kernel/names.json").read_text())["releases"][sheet.RELEASE]
    for pair in sheet.READING:
        module, _, name = pair.model.rpartition(".")
        assert callable(getattr(importlib.import_module(f"anonfolio.{module}"), name)), pair.model
        assert pair.kernel in stored, pair.kernel
    assert len({pair.kernel for pair in sheet.READING}) == len(sheet.READING)


def test_the_sheet_stands_in_the_onboarding() -> None:
    assert sheet.sheet() in PAGES["ONBOARDING.md"]


# --- times ------------------------------------------------------------------------------------------------------------


def test_the_times_in_the_readme_and_in_the_notebooks_are_what_the_model_gives() -> None:
    rows = re.findall(r"^\| (\d\d) \| .* \| (\d+) \| (\d+) \|$", PAGES["README.md"], re.M)
    assert [number for number, *_ in rows] == [path.name[:2] for path in BOOKS]
    for path, (_, *listed) in zip(BOOKS, rows, strict=True):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        told = re.search(r"About (\d+) minutes to read, (\d+) for the exercises", first)
        assert told, path.name
        found = times.times(path)
        # A sentence more or less may round to the next five minutes.
        for said in (told.groups(), listed):
            assert abs(int(said[0]) - found.reading) <= times.ROUND, (path.name, found.told())
            assert abs(int(said[1]) - found.exercises) <= times.ROUND, (path.name, found.told())
    hours = [f"{sum(int(row[at]) for row in rows) / 60:.1f}" for at in (1, 2)]
    assert "| all | {} hours | {} hours |".format(*hours) in PAGES["README.md"]
    assert "{} hours\nand {} for all".format(*hours) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_notebook_with_more_to_do_takes_longer(tmp_path: Path) -> None:
    book = json.loads(BOOKS[1].read_text(encoding="utf-8"))
    more = [cell for cell in book["cells"] if cell["cell_type"] == "markdown"]
    longer = tmp_path / BOOKS[1].name
    longer.write_text(json.dumps(book | {"cells": book["cells"] + more}), encoding="utf-8")
    old, new = times.times(BOOKS[1]), times.times(longer)
    assert new.reading > old.reading
    assert new.exercises == old.exercises
    without = [cell for cell in book["cells"] if "q.order.check" not in "".join(cell["source"])]
    shorter = tmp_path / "shorter.ipynb"
    shorter.write_text(json.dumps(book | {"cells": without}), encoding="utf-8")
    assert times.times(shorter).exercises == old.exercises - times.MINUTES["function"]


# --- solutions and students' notebooks --------------------------------------------------------------------------------


def test_every_question_of_every_notebook_has_its_solution(tmp_path: Path) -> None:
    one = [path for path in BOOKS if path.name[:2] in ("00", "01", "05")]
    for path in one:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    asked = sum(len(kit.asked_in(path)) for path in one)
    assert asked > 9
    assert kit.solutions(tmp_path / "out", tmp_path) == asked
    for path in one:
        text = (tmp_path / "out" / f"{path.stem}.md").read_text(encoding="utf-8")
        for question in kit.asked_in(path):
            assert f"### `{question.name}`" in text
        assert text.count("What goes wrong:") >= 3
    assert all(kit.asked_in(path) for path in BOOKS)


def test_students_notebooks_hold_no_output_no_state_and_the_same_cells(tmp_path: Path) -> None:
    assert kit.student(tmp_path, ROOT / "notebooks") == len(BOOKS)
    for path in BOOKS:
        old, new = (nbformat.read(file, as_version=4) for file in (path, tmp_path / path.name))
        nbformat.validate(new)
        assert [cell.source for cell in new.cells] == [cell.source for cell in old.cells]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in new.cells)
        assert "widgets" not in new.metadata
        assert (tmp_path / path.name).stat().st_size < path.stat().st_size


def test_what_is_generated_is_no_part_of_the_repository() -> None:
    assert "/teach/out/" in (ROOT / ".gitignore").read_text().splitlines()
    made = re.findall(r"teach/out\S*", (ROOT / "Makefile").read_text())
    assert len(made) >= 4


# --- the pages --------------------------------------------------------------------------------------------------------


def test_the_exit_ticket_is_right() -> None:
    said = re.findall(r"\*\(([^)]+)\)\*", PAGES["LESSON.md"].split("## Exit ticket")[1])
    program = Scenario(16, (("write", 0, 3, 1), ("fork", 0), ("write", 1, 3, 2), ("exit", 1), ("write", 0, 3, 3)), (4,))
    writable = [int(result.snapshot.processes[0].mappings[0].writable.sum()) for result in program.run("linux-6.15")]
    assert said[0] == str(writable[0])
    assert said[1].startswith("none")
    assert writable[1] == 0
    codes = [program.run(policy)[-1].faults[-1].code for policy in ("6.12", "6.18")]
    assert codes == ["copy0", "reuse1"]
    assert said[2] == "copy; reuse"


def test_the_lesson_has_ninety_minutes_and_its_slides_are_there() -> None:
    spans = re.findall(r"^\| (\d+)–(\d+) \|.*\|\s*([^|]*?)\s*\|$", PAGES["LESSON.md"], re.M)
    assert [start for start, _, _ in spans] == ["0", *(end for _, end, _ in spans[:-1])]
    assert spans[-1][1] == "90"
    numbers = [int(number) for _, _, told in spans if re.match(r"\d", told) for number in re.findall(r"\d+", told)]
    assert numbers == sorted(numbers)
    assert max(numbers) <= 2 * len(kit.KEY_STEPS)


def test_every_way_to_install_says_whether_it_was_tried() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGES["INSTALL.md"], re.M)[1:]
    assert len(rows) >= 10
    assert all(tested.startswith(("tested", "not tested")) for _, _, tested in rows)
    for system in ("Linux", "macOS", "Windows", "Chromebook", "Colab", "Hub", "Binder"):
        assert any(system in where for where, _, _ in rows), system


def test_the_rubric_adds_up() -> None:
    assert sum(map(int, re.findall(r"\((\d+) %", PAGES["ASSIGNMENT.md"]))) == 100


@pytest.mark.parametrize("page", PAGES)
def test_links_commands_and_targets_of_a_page_exist(page: str) -> None:
    text = PAGES[page]
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (KIT / link).exists(), link
    names = {command.name.split()[0] for command in COMMANDS}
    assert {*re.findall(r"`anonfolio (\w+)", text), *re.findall(r"^anonfolio (\w+)", text, re.M)} <= names
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_notebooks_that_are_named_exist() -> None:
    numbers = {path.name[:2] for path in BOOKS}
    named: set[str] = set()
    for key in kit.KEY_STEPS:
        named |= set(re.findall(r"\d\d", key.notebook))
    assert named <= numbers
    short = re.search(r"one evening \| ([\d, ]+) \|", PAGES["README.md"])
    assert short
    assert short[1] == "00, 01, 03, 05, 12"


def test_the_kit_says_how_it_is_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert kit.main([]) == 2
    assert kit.main(["student", str(tmp_path / "a"), "x"]) == 2
    assert "slides|solutions|student FOLDER" in capsys.readouterr().err


def test_a_folder_without_notebooks_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no notebook"):
        kit.student(tmp_path / "a", tmp_path)
