"""What is installed is whole: the wheel holds its data, runs without the checkout, and an sdist makes the same one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
MOST_BYTES = 5_000_000
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def said(*command: object, folder: Path) -> str:
    """What a command prints, run where nothing of the checkout can be imported by chance."""
    away = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run([str(word) for word in command], cwd=folder, env=away, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}{run.stderr}"
    return run.stdout


def built(kind: str, source: Path, target: Path) -> Path:
    """A wheel or an sdist, by the backend of this environment: nothing is fetched."""
    return target / said(sys.executable, "-c", BUILD, f"build_{kind}", target, folder=source).splitlines()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    for name in ("anonfolio", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and of ours nothing but numpy; the folder of its commands."""
    folder = tmp_path_factory.mktemp("installed")
    commands = folder / "venv" / "bin"
    # To give an environment a pip of its own takes six seconds; ours, where there is one, installs into another, too.
    ours = find_spec("pip") is not None
    said(sys.executable, "-m", "venv", *["--without-pip"] * ours, folder / "venv", folder=folder)
    pip = [sys.executable, "-m", "pip", "--python", commands / "python"] if ours else [commands / "python", "-m", "pip"]
    say_where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    libraries = Path(said(commands / "python", "-c", say_where, folder=folder).strip())
    for path in Path(np.__file__).parent.parent.glob("numpy*"):
        (libraries / path.name).symlink_to(path)
    said(*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel, folder=folder)
    return commands


def files_of(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as content:
        return {file.filename: file.CRC for file in content.infolist()}


def test_every_module_and_every_stored_file_is_in_the_wheel(source: Path, wheel: Path) -> None:
    there = set(files_of(wheel))
    written = {path.relative_to(source) for path in (source / "anonfolio").rglob("*") if path.is_file()}
    stored = {"anonfolio" / path.relative_to(source) for path in (source / "data").rglob("*") if path.is_file()}
    assert {path.as_posix() for path in written | stored} - there == set()
    assert [name for name in there if not name.startswith("anonfolio/") and ".dist-info/" not in name] == []
    assert wheel.stat().st_size <= MOST_BYTES


@pytest.mark.long
def test_an_sdist_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built("sdist", source, tmp_path)) as archive:
        # Python 3.11 got the filter in its fourth patch release; later ones warn without it.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert files_of(built("wheel", unpacked, tmp_path)) == files_of(wheel)


def test_the_packages_listed_are_the_rooms() -> None:
    rooms = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "anonfolio").rglob("*.py")
    }  # `anonfolio.data` is data/
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == rooms | {"anonfolio.data"}


IMPORTS = """
import importlib, pkgutil
import anonfolio, anonfolio.exercises
for module in pkgutil.iter_modules(anonfolio.exercises.__path__):
    importlib.import_module(f"anonfolio.exercises.{module.name}")
from anonfolio.hardware.trace import DATA_DIR
from anonfolio.hardware.cost import tables
from anonfolio.witness.fields import stored
print(anonfolio.__file__)
print(len(anonfolio.scenario_names()), len(tables()), len(list(DATA_DIR.glob("*.npz"))), len(stored().kernel))
"""


@pytest.mark.long
def test_what_is_installed_has_its_scenarios_recordings_and_exercises(installed: Path) -> None:
    place, counts = said(installed / "python", "-c", IMPORTS, folder=installed).splitlines()
    assert Path(place).is_relative_to(installed.parent)
    assert all(int(count) > 0 for count in counts.split())
    held = said(installed / "anonfolio", "run", "wipe-on-fork", "--against", "6.18", folder=installed)
    assert "linux-6.15 against 6.18: 0 of" in held


def test_the_command_and_the_module_are_one(installed: Path) -> None:
    command = said(installed / "anonfolio", "--help", folder=installed)
    assert said(installed / "python", "-m", "anonfolio", "--help", folder=installed) == command
    assert command.startswith("usage: anonfolio ")
