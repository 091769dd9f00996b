"""The shape every notebook keeps, so that a reader finds the same things in the same places, and strict nbval holds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BOOKS: dict[str, Any] = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
LAB = {
    Requirement(line).name
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lab"]
}
each = pytest.mark.parametrize("name", BOOKS)


def words(name: str) -> str:
    return "\n\n".join(cell.source for cell in BOOKS[name].cells if cell.cell_type == "markdown")


def code(name: str) -> list[Any]:
    return [cell for cell in BOOKS[name].cells if cell.cell_type == "code"]


def section(name: str, heading: str) -> str:
    found = re.search(rf"^## {heading}.*?\n(.*?)(?=^## |\Z)", words(name), re.DOTALL | re.MULTILINE)
    assert found, f"no section {heading!r}"
    return found[1]


@each
def test_it_is_neither_long_nor_dense(name: str) -> None:
    assert 25 <= len(BOOKS[name].cells) <= 40
    assert len(words(name).split()) <= 1300
    for cell in code(name):
        assert len(cell.source.splitlines()) <= 12, cell.source
        # Longer lines are cut off where the notebook is read as a page.
        assert max(map(len, cell.source.splitlines())) <= 106, cell.source


@each
def test_it_is_light(name: str) -> None:
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size <= 600 * 1024


@each
def test_it_says_how_long_it_takes_and_what_for(name: str) -> None:
    first = BOOKS[name].cells[0].source
    assert first.startswith("# ")
    assert re.search(r"About \d+ minutes", first)
    assert "Afterwards you can" in first


@each
def test_a_question_comes_first_and_a_picture_within_five_cells(name: str) -> None:
    early = BOOKS[name].cells[:5]
    assert any(".predict(" in cell.source for cell in early if cell.cell_type == "code")
    assert any("image/svg+xml" in output.get("data", {}) for cell in early for output in cell.get("outputs", []))


@each
def test_predictions_come_back_and_nothing_is_answered(name: str) -> None:
    sources = "\n".join(cell.source for cell in code(name))
    predicted = re.findall(r"q\.(\w+)\.predict\((.*?)\)", sources)
    assert len(predicted) >= 3
    for question, answer in predicted:
        assert answer == "..."
        assert sources.index(f"q.{question}.predict(") < sources.index(f"q.{question}.compare()")
    # The playground is nothing but challenges.
    most = 5 if name == "12_playground" else 3
    assert 2 <= len(re.findall(r"q\.\w+\.check\(", sources)) <= most
    assert ".solution()" not in sources


@each
def test_it_steps_compares_policies_and_asks_the_kernels(name: str) -> None:
    sources = "\n".join(cell.source for cell in code(name))
    assert "Stepper(" in sources
    assert re.search(r"Stepper\(.*other=\w+\.run\(", sources)
    assert ".recorded(" in sources


@each
def test_it_ends_with_kernel_limits_and_five_lines(name: str) -> None:
    table = section(name, "Where in the kernel")
    assert re.search(r"\b[0-9a-f]{12}\b", table)
    assert "mm/memory.c" in table
    assert len(section(name, "What the model leaves out").split()) > 10
    assert len(re.findall(r"^\d\. ", section(name, "Five lines to remember"), re.MULTILINE)) == 5


@each
def test_the_proposal_is_said_to_be_one_before_anything_of_it_is_shown(name: str) -> None:
    """Once in words, where it is first spoken of; then in the title of each stepper that shows it."""
    first = next((cell for cell in BOOKS[name].cells if re.search(r"RFC v2|rfc-v2|RFC_V2\)", cell.source)), None)
    if first is None:
        return
    assert first.cell_type == "markdown"
    assert re.search(r"never\*? ?merged", first.source), first.source
    for title in re.findall(r'title ?= ?"([^"]*RFC v2[^"]*)"', "\n".join(cell.source for cell in code(name))):
        assert re.search("never merged|proposal", title), title


@each
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", words(name)):
        assert (ROOT / "notebooks" / target).is_file(), target


@each
def test_it_imports_only_what_the_lab_has(name: str) -> None:
    allowed = set(sys.stdlib_module_names) | {"anonfolio", "numpy"} | LAB
    for cell in code(name):
        for node in ast.walk(ast.parse(cell.source)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {module.partition(".")[0] for module in modules} <= allowed


@each
def test_outputs_are_small_stored_and_compared(name: str) -> None:
    for cell in code(name):
        assert cell.execution_count is not None
        assert not cell.source.rstrip().endswith(";")
        assert not {"Output(", "interact(", "%%", "time.time"} & set(
            re.findall(r"Output\(|interact\(|%%|time\.time", cell.source)
        )
        assert not any("nbval" in tag.lower() or "raises" in tag for tag in cell.metadata.get("tags", []))
        for output in cell.outputs:
            assert output.output_type != "error"
            text = output.get("text") or output.data["text/plain"]
            assert "NBVAL" not in cell.source
            assert len(text.splitlines()) <= 60


@each
def test_a_widget_leaves_a_picture_where_none_runs(name: str) -> None:
    for cell in code(name):
        for output in cell.outputs:
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                # A question is words.
                asked = re.search(r"\bq\.\w+\.(predict|check|compare)\(", cell.source)
                words = output.data["text/html" if asked else "image/svg+xml"]
                assert words.startswith("<div" if asked else "<svg")


# --- nothing is given away ------------------------------------------------------------------------------------------

ASKED_STEP = {
    "00_start_here": {"last": 7}, "01_first_touch": {"edge": 2, "neighbour": 3},
    "02_zero_page_copy": {"own": 2, "stray": 2},
    "03_fork_and_share": {"held": 17, "own": 10}, "05_exclusive_reuse": {"gone": 24, "faults": 19},
    "06_exclusive_pitfalls": {"device": 7, "half": 18, "culprits": 21},
    "10_rfc_to_mainline": {"lost": 7}, "12_playground": {"again": 4},
}  # fmt: skip
"""The step that answers a question, where a stepper stands between it and its comparison."""


def before_comparison(name: str) -> Iterator[tuple[str, Any]]:
    """Each question with the code cells after it, up to its comparison."""
    cells = code(name)
    for at, cell in enumerate(cells):
        for question in re.findall(r"q\.(\w+)\.predict\(", cell.source):
            last = next(n for n, other in enumerate(cells) if f"q.{question}.compare(" in other.source)
            assert last > at
            yield from ((question, other) for other in cells[at + 1 : last + 1])


@each
def test_what_stands_between_a_question_and_its_comparison_is_closed(name: str) -> None:
    # Another question says no answer; a playground shows what its reader does.
    may_be_open = re.compile(r"^q\.\w+\.(predict|check)\(|\bPlayground\(", re.MULTILINE)
    closed = set()
    for question, cell in before_comparison(name):
        open_ = not cell.metadata.get("jupyter", {}).get("outputs_hidden")
        if f"q.{question}.compare(" in cell.source or not may_be_open.search(cell.source):
            assert not open_, f"{question}: {cell.source}"
            closed.add(cell.id)
    assert len(closed) >= len(re.findall(r"\.predict\(", "\n".join(cell.source for cell in code(name))))
    # And nothing else is: a reader would miss it.
    hidden = {cell.id for cell in code(name) if cell.metadata.get("jupyter", {}).get("outputs_hidden")}
    assert hidden == closed


def test_every_question_of_all_notebooks_is_looked_at() -> None:
    assert sum(cell.source.count(".predict(...)") for name in BOOKS for cell in code(name)) >= 41


@each
def test_a_question_cell_stores_the_question_alone(name: str) -> None:
    for cell in code(name):
        if ".predict(" in cell.source:
            (output,) = cell.outputs
            assert "Not answered yet" in output.data["text/plain"]
            assert cell.source.rstrip().splitlines()[-1].endswith(".predict(...)")


@each
def test_a_stepper_between_starts_before_the_step_that_is_asked_about(name: str) -> None:
    steppers = {cell.id: (question, cell) for question, cell in before_comparison(name) if "Stepper(" in cell.source}
    seen = {}
    for question, cell in steppers.values():  # the question asked last, where one stands within another
        (output,) = cell.outputs
        step = re.search(r"step (\d+) of \d+$", output.data["text/plain"], re.MULTILINE)
        assert step is not None
        seen[question] = int(step[1])
    asked = ASKED_STEP.get(name, {})
    assert seen.keys() == asked.keys()
    assert all(seen[question] < asked[question] for question in seen)
