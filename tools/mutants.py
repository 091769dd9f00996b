"""Break the model on purpose, one way at a time: every break must make a test fail.

    python tools/mutants.py [WORD …]     only the mutants whose name contains one of the words

A mutant (tools/mutants.txt) replaces one text that occurs exactly once. It runs in a copy of the tree, with the tests
that need no browser and no live kernel, until the first failure: the one that the list names, those about the file, all
others; of all these the sample that `make test` runs, then the rest. Survivors are tests that are missing; the exit
code is then 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 1200
"""Seconds after which a mutant counts as caught: whoever runs the tests would notice."""
PASSED = "passed"
COPIED = (
    "anonfolio", "tests", "data", "docs", "teach", "notebooks", "pyproject.toml", "README.md", "Makefile", ".gitignore",
    "tools", "CHANGELOG.md", "CONTRIBUTING.md",
)  # fmt: skip
# A mutant's run ends at the first failure: what is about the file or its room comes first, then what catches most.
ABOUT = {
    "draw": ("test_drawings.py", "test_picture.py", "test_scene.py", "test_look.py", "test_advice.py"),
    "advice": ("test_advice.py",),
    "advising": ("test_advice.py",),
    "history": ("test_history.py", "test_claims.py", "test_releases.py", "test_policy_evidence.py"),
    "given": ("test_misuse.py",),
    "pools": ("test_advice.py", "test_report.py"),
}
"""Tests about a file or a room that are not named after it."""
TESTS = (
    "test_worked_scenarios.py",
    "test_records.py",
    "test_mm_ids.py",
    "test_fork_and_pins.py",
    "test_mappings.py",
    "test_populate.py",
    "test_mmap.py",
    "test_split.py",
    "test_collapse.py",
    "test_lazyfree.py",
    "test_memory.py",
    "test_ops.py",
    "test_misuse.py",
    "test_rules.py",
    "test_invariants.py",
    "test_policy_evidence.py",
    "test_history.py",
    "test_hidden.py",
    "test_hidden_state.py",
    "test_replay.py",
    "test_properties.py",
    "test_search.py",
    "test_search_states.py",
    "test_trace.py",
    "test_contpte.py",
    "test_tlb.py",
    "test_walks.py",
    "test_lru.py",
    "test_microsteps.py",
    "test_scene.py",
    "test_touch.py",
    "test_selftests.py",
    "test_commands.py",
    "test_late.py",
    "test_policy_file.py",
    "test_report.py",
    "test_report_page.py",
    "test_places.py",
    "test_fuzz.py",
    "test_systems.py",
    "test_words.py",
    "test_answers.py",
    "test_quiz.py",
    "test_homework.py",
    "test_grade.py",
    "test_kit.py",
    "test_stepper.py",
    "test_look.py",
    "test_live.py",
    "test_playground.py",
    "test_injection_browser.py",
    "test_advice.py",
    "test_attach.py",
    "test_claims.py",
    "test_cost.py",
    "test_drawings.py",
    "test_examination.py",
    "test_guard_markers.py",
    "test_lab.py",
    "test_picture.py",
    "test_recorder_kinds.py",
    "test_releases.py",
    "test_toy.py",
    "test_workloads.py",
)  # fmt: skip


class Mutant(NamedTuple):
    """One break: what is wrong then, in which file, the text that is replaced, and the test that is tried first."""

    name: str
    file: str
    text: str
    broken: str
    test: str = ""


def read_mutants(path: Path) -> list[Mutant]:
    """Read the list: ``= FILE: NAME``, after ``!`` a test, after ``-`` lines to replace, after ``+`` the new ones."""
    mutants = []
    for block in path.read_text(encoding="utf-8").split("\n= ")[1:]:
        title, *lines = block.splitlines()
        file, name = title.split(": ", 1)
        text = "\n".join(line[1:] for line in lines if line.startswith("-"))
        broken = [line[1:] for line in lines if line.startswith("+")]
        test = "".join(line[1:].strip() for line in lines if line.startswith("!"))
        # Lines that go without a replacement go with their line break.
        text += "" if broken else "\n"
        mutants.append(Mutant(name, file, text, "\n".join(broken), test))
    return mutants


def stale(mutants: Iterable[Mutant]) -> Iterator[str]:
    """A line for each whose text does not stand exactly once in its file, or stays as it is."""
    for mutant in mutants:
        found = (ROOT / "anonfolio" / mutant.file).read_text(encoding="utf-8").count(mutant.text)
        if found != 1:
            yield f"{mutant.name}: its text occurs {found} times in {mutant.file}, not once"
        elif mutant.text == mutant.broken:
            yield f"{mutant.name}: nothing is broken in {mutant.file}"


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen mutants; 1 when one survives, 2 when none can be run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="*")
    words = parser.parse_args(arguments).word
    mutants = read_mutants(ROOT / "tools" / "mutants.txt")
    chosen = [mutant for mutant in mutants if not words or any(word in mutant.name for word in words)]
    if lines := list(stale(mutants)):
        print(*lines, sep="\n")
        return 2
    if not chosen:
        print(f"no mutant's name has {' or '.join(words)} in it")
        return 2
    survivors, killers = [], set()
    with ProcessPoolExecutor(os.cpu_count(), get_context("fork"), initializer=warm_up) as pool:
        for mutant, killer in zip(chosen, pool.map(run, chosen), strict=True):
            print(
                f"{'killed  ' if killer else 'SURVIVED'} {mutant.name}{f'  ({killer})' if killer else ''}", flush=True
            )
            if not killer:
                survivors.append(mutant)
            elif "::" in killer:
                killers.add(killer)
        failing = pool.submit(run_as_it_is, sorted(killers)).result()
    if failing:
        print(f"{failing} fails where nothing is broken, too: what it killed shows nothing")
        return 2
    print(f"{len(chosen)} mutants, {len(survivors)} survived")
    return 1 if survivors else 0


def warm_up() -> None:
    """Import what takes long and nothing breaks: each mutant's process begins as a copy of this one."""
    for name in ("pytest", "numpy", "hypothesis", "IPython", "anywidget", "matplotlib.pyplot"):
        importlib.import_module(name)


def run(mutant: Mutant) -> str | None:
    """The test that fails under a mutant, or None."""
    with a_copy() as tree:
        file = tree / "anonfolio" / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.text, mutant.broken), encoding="utf-8")
        if mutant.test and (failed := in_a_child(tree, [], [[mutant.test]])):
            return failed
        tests = [[name] for name in in_order(mutant.file)]
        return in_a_child(tree, ["--sample"], tests) or in_a_child(tree, [], tests)


def run_as_it_is(tests: list[str]) -> str | None:
    """The first of some tests that fails where nothing is broken."""
    with a_copy() as tree:
        return in_a_child(tree, [], [tests]) if tests else None


@contextmanager
def a_copy() -> Iterator[Path]:
    """The tree once more, as long as it is needed."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        yield tree


def in_order(file: str) -> list[str]:
    """All files of tests, those about a file of the library first."""
    words = Path(file).stem.split("_")[0], Path(file).parent.name
    about = [name for word in words for name in ABOUT.get(word, ())]
    own = [name for name in TESTS if any(f"test_{word}" in name for word in words)]
    return list(dict.fromkeys((*own, *about, *TESTS)))


def in_a_child(tree: Path, options: list[str], runs: list[list[str]]) -> str | None:
    """The first test that fails, in a process of its own, which ends with all that it began."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        try:
            os.write(writing, (first_failure(tree, options, runs) or PASSED).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        if not select.select([reading], [], [], PATIENCE)[0]:
            return "out of patience"
        said = os.read(reading, 1 << 12).decode() or "the tests did not run to their end"
        return None if said == PASSED else said
    finally:
        os.close(reading)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)


def first_failure(tree: Path, options: list[str], runs: list[list[str]]) -> str | None:
    """The first test that fails, run by run: what is in those after it is not even imported."""
    import pytest

    class Watch:
        failed: str | None = None

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            self.failed = report.nodeid if report.failed else self.failed

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            self.failed = report.nodeid if report.failed else self.failed

    # The copy must be what is imported, not the installed tree.
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    # No live tests: they take turns on the one kernel, and what it is asked meanwhile must not decide.
    options = [*options, "-x", "-p", "no:cacheprovider", "-m", "not live"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is there already.
    for tests in runs:
        watch = Watch()
        code = pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[watch])
        if watch.failed or code in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
            return (watch.failed or f"{tests[0]}: {code.name}").removeprefix("tests/")
    return None


if __name__ == "__main__":
    sys.exit(main())
