"""What CONTRIBUTING and the architecture page say of the code is so: names exist, and are called in the order told."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import anonfolio as af

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
LIFE = re.findall(r"^\d+\. `(anonfolio\.[\w.]+)`", PAGE, re.MULTILINE)


def found(name: str) -> Any:
    """The function of that dotted name."""
    module = name.rpartition(".")[0]
    while module not in sys.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            module = module.rpartition(".")[0]
    thing: Any = sys.modules[module]
    for part in name.removeprefix(f"{module}.").split("."):
        thing = getattr(thing, part)
    return thing


def test_the_life_of_one_write_is_told_in_the_order_in_which_it_happens() -> None:
    wanted = {found(name).__code__: name for name in LIFE}
    assert len(wanted) == len(LIFE) > 10
    called: list[str] = []

    def watch(frame: FrameType, event: str, _: object) -> None:
        name = wanted.get(frame.f_code) if event == "call" else None
        if name and name not in called:
            called.append(name)

    machine = af.Machine("linux-6.15", orders=(4,))
    parent = machine.spawn()
    parent.mmap(16)
    parent.write(0)
    parent.fork()
    sys.setprofile(watch)
    try:
        parent.write(5)
    finally:
        sys.setprofile(None)
    assert called == LIFE
    assert machine.faults[0].path == "cow copy"


def test_every_name_in_backticks_is_one_of_the_code() -> None:
    said = re.findall(r"`(anonfolio\.[\w.]+)`", PAGE)
    assert all(found(name) for name in said)


def test_every_file_that_the_pages_name_exists() -> None:
    for page in ("CONTRIBUTING.md", "docs/ARCHITECTURE.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for said in re.findall(r"`((?:anonfolio|tests|tools|data|docs|kernel|machine|witness)/[\w./-]+\w)/?`", text):
            # NAME and NN stand for the reader's own.
            name = str(Path(said).parent) if re.search("NAME|NN_", said) else said
            assert (ROOT / name).exists() or (ROOT / "anonfolio" / name).exists(), f"{page} names {name}"
        for name in re.findall(r"`(test_\w+)`", text):
            assert (ROOT / "tests" / f"{name}.py").exists(), f"{page} names {name}"
