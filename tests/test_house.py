"""The contract of the house: a room imports from its left only, and no module imports itself by way of others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import anonfolio

HOUSE = Path(anonfolio.__file__).parent
ROOMS = (
    "kernel", "stream", "machine", "program", "hardware", "witness", "draw", "report", "view", "lesson", "exercises",
    "teach",
)  # fmt: skip
MODULES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(HOUSE.rglob("*.py"))
}


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements in a module, those in functions and classes too; no import stands in an expression."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for inner in getattr(node, name, ()):
            if isinstance(inner, ast.stmt):
                yield inner
            yield from statements(inner)


def imported_by(module: str, text: str) -> set[str]:
    """What a module of the house imports of it: lazily or for types alone counts as well."""
    package = module if MODULES.get(module, HOUSE / "x.py").name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name.removeprefix("anonfolio.") for name in node.names if name.name.startswith("anonfolio.")}
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            outer = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*outer, *([node.module] if node.module else [])])
        elif (node.module or "").split(".")[0] == "anonfolio":
            base = (node.module or "").partition(".")[2]
        else:
            continue
        for name in node.names:
            inside = f"{base}.{name.name}".lstrip(".")
            found.add(inside if inside in MODULES else base)
    return found - {module, ""}


@cache
def all_imports() -> dict[str, set[str]]:
    """What each module of the house imports of it."""
    return {module: imported_by(module, path.read_text(encoding="utf-8")) for module, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[0]


def outside_their_room(imports: dict[str, set[str]]) -> list[str]:
    """Imports that go to the right, or from a room to the ground floor."""
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        if room(module) in ROOMS
        for other in sorted(others)
        if room(other) not in ROOMS or ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]


def reached(module: str, imports: dict[str, set[str]]) -> set[str]:
    """What a module imports, and what that imports."""
    seen: set[str] = set()
    todo = list(imports[module])
    while todo:
        if (other := todo.pop()) not in seen:
            seen.add(other)
            todo += imports.get(other, set())
    return seen


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Modules that reach themselves."""
    return [module for module in imports if module in reached(module, imports)]


def test_every_module_has_a_room_or_stands_on_the_ground_floor() -> None:
    assert {room(module) for module in MODULES if "." in module} == set(ROOMS)


def test_a_room_imports_from_its_left_only() -> None:
    assert outside_their_room(all_imports()) == []


def test_there_is_no_circle() -> None:
    assert circles(all_imports()) == []


@pytest.mark.parametrize(
    "reader", ["hardware.trace", "hardware.cost", "witness.fields", "witness.recording", "witness.comparing"]
)
def test_what_reads_a_file_knows_nothing_of_who_records_it(reader: str) -> None:
    assert not [module for module in reached(reader, all_imports()) if module.startswith("witness.live")]


@pytest.mark.parametrize(
    "line",
    [
        "from ..machine import machine",
        "from ..machine.machine import Machine",
        "import anonfolio.machine.machine",
        "def later() -> None:\n    from ..draw.picture import Picture",
        "if TYPE_CHECKING:\n    from anonfolio.program.scenario import Scenario",
        "from ..search import counterexample",
        "from .. import search",
    ],
)
def test_each_way_to_the_right_is_seen(line: str) -> None:
    assert outside_their_room({"kernel.faults": imported_by("kernel.faults", line)})


def test_a_circle_is_seen() -> None:
    assert circles({"kernel.faults": {"kernel.fork"}, "kernel.fork": {"kernel.mm"}, "kernel.mm": {"kernel.faults"}})


@pytest.mark.parametrize("name", ROOMS)
def test_each_room_says_what_it_may_hold_and_what_guards_it(name: str) -> None:
    told = ast.get_docstring(ast.parse((HOUSE / name / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert "Holds " in told
    assert "Imports " in told
    guards = told.split("Guarded by ")[1].rstrip(".").split(",")
    assert all((Path(__file__).parent / f"{guard.strip()}.py").exists() for guard in guards)
