"""Break the model on purpose, one way at a time: every break must make a test fail.

    python tools/mutants.py [WORD …]     only the mutants whose name contains one of the words

A mutant (tools/mutants.txt) replaces one text that occurs exactly once. It runs in a copy of the tree, with the tests
that need no browser and no live kernel, until the first failure. Survivors are tests that are missing; the exit code is
then 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 1200
"""Seconds after which a mutant counts as caught: whoever runs the tests would notice."""
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
    """One break: what is wrong then, in which file, and the text that is replaced."""

    name: str
    file: str
    text: str
    broken: str


def read_mutants(path: Path) -> list[Mutant]:
    """Read the list: ``= FILE: NAME``, then the lines to replace after ``-``, and what replaces them after ``+``."""
    mutants = []
    for block in path.read_text(encoding="utf-8").split("\n= ")[1:]:
        title, *lines = block.splitlines()
        file, name = title.split(": ", 1)
        text = "\n".join(line[1:] for line in lines if line.startswith("-"))
        broken = [line[1:] for line in lines if line.startswith("+")]
        # Lines that go without a replacement go with their line break.
        mutants.append(Mutant(name, file, text, "\n".join(broken)) if broken else Mutant(name, file, text + "\n", ""))
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
    failing = run(Mutant("nothing is broken", "kernel/policy.py", "", ""))
    if failing:
        print(f"the tests fail as they are ({failing}): no mutant would show anything")
        return 2
    survivors = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for mutant, killer in zip(chosen, pool.map(run, chosen), strict=True):
            print(
                f"{'killed  ' if killer else 'SURVIVED'} {mutant.name}{f'  ({killer})' if killer else ''}", flush=True
            )
            if not killer:
                survivors.append(mutant)
    print(f"{len(chosen)} mutants, {len(survivors)} survived")
    return 1 if survivors else 0


def run(mutant: Mutant) -> str | None:
    """The test that fails under a mutant, or None."""
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        file = tree / "anonfolio" / mutant.file
        if mutant.text:
            file.write_text(file.read_text(encoding="utf-8").replace(mutant.text, mutant.broken), encoding="utf-8")
        words = Path(mutant.file).stem.split("_")[0], Path(mutant.file).parent.name
        about = [name for word in words for name in ABOUT.get(word, ())]
        own = list(dict.fromkeys((*(name for name in TESTS if any(f"test_{word}" in name for word in words)), *about)))
        tests = [f"tests/{name}" for name in (*own, *(name for name in TESTS if name not in own))]
        # No live tests: they take turns on the one kernel, and what it is asked meanwhile must not decide.
        options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not live"]
        command = [sys.executable, "-m", "pytest", *options, *tests]
        # The copy must be what is imported, not the installed tree.
        settings = {**os.environ, "PYTHONPATH": place}
        try:
            done = subprocess.run(
                command, cwd=tree, capture_output=True, text=True, env=settings, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            return "out of patience"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split()[1].removeprefix("tests/") if failed else "the tests did not run to their end"


if __name__ == "__main__":
    sys.exit(main())
