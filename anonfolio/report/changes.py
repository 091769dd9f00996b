"""What a policy changes: every stored program whose course differs from the base's, and the shortest of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..kernel.pagetable import PTE_WRITE
from ..kernel.policy import Policy
from ..kernel.record import COW_COPY, FIRST_TOUCH, REUSE, ZERO_COPY, Fault
from ..machine.machine import Machine
from ..program.ops import do_step
from ..program.scenario import Scenario, scenario_names
from ..witness.recording import DATA_DIR, read_scenarios
from .spread import Progress, spread

QUICK_RECORDINGS = ("named-6.18.json.gz", "release-6.18.44.json.gz", "various-6.18.44.json.gz")
"""What a quick report looks at: they were made to hold every fault path, and each field of a release's policy."""
FRAMES = 1 << 16
"""Memory of a machine, in base pages: more than any stored program can use."""


class Program(NamedTuple):
    """A stored program, and where it is."""

    scenario: Scenario
    source: str


class Kind(NamedTuple):
    """A kind of difference: what came of a step under the base, and what under the policy."""

    base: str
    mine: str


class Course(NamedTuple):
    """A program whose course differs: after so many steps, counted from 0, and how."""

    program: Program
    at: int
    kind: Kind

    def shortest(self) -> Scenario:
        """The program up to the step that differs."""
        return self.program.scenario.but(steps=self.program.scenario.steps[: self.at + 1])


@dataclass(frozen=True)
class Changes:
    """What was looked at, and what differs.

    Attributes
    ----------
    scenarios, recorded : int
        Named scenarios and recorded programs that were run, each program once.
    courses : tuple of Course
        All that differ, in the order they are stored.
    """

    scenarios: int
    recorded: int
    courses: tuple[Course, ...]

    def kinds(self) -> dict[Kind, tuple[int, Course]]:
        """Per kind of difference how many programs first differ so, and the shortest; most frequent first."""
        found: dict[Kind, list[Course]] = {}
        for course in self.courses:
            found.setdefault(course.kind, []).append(course)
        most = sorted(found.items(), key=lambda each: -len(each[1]))
        return {kind: (len(all_of), min(all_of, key=_length)) for kind, all_of in most}


def _length(course: Course) -> tuple[int, int]:
    return course.at, course.program.scenario.pages


def changes(policy: Policy, base: Policy, *, quick: bool, jobs: int = 1, progress: Progress | None = None) -> Changes:
    """Run the named scenarios and the recorded programs under both, up to the first step that differs."""
    named = [Program(Scenario.load(name), name) for name in scenario_names()]
    paths = sorted(DATA_DIR.rglob("*.json.gz"), key=lambda path: path.relative_to(DATA_DIR).as_posix())
    chosen = [path for path in paths if not quick or path.name in QUICK_RECORDINGS]
    recorded = list(_once(chosen, {_what(program.scenario) for program in named}, jobs))
    programs = [*named, *recorded]
    found = spread(partial(_course, policy, base), programs, jobs, progress)
    return Changes(len(named), len(recorded), tuple(course for course in found if course))


def _once(paths: Sequence[Path], known: set[tuple[Any, ...]], jobs: int) -> Iterator[Program]:
    """Recorded programs, those that ran on several kernels once."""
    for path, scenarios in zip(paths, spread(read_scenarios, paths, jobs), strict=True):
        for number, scenario in enumerate(scenarios):
            if (what := _what(scenario)) not in known:
                known.add(what)
                yield Program(scenario, f"{path.relative_to(DATA_DIR).as_posix()} {number}")


def _what(scenario: Scenario) -> tuple[Any, ...]:
    """What makes it another program: not its name."""
    plain = scenario.but(name="", about="")
    return plain.pages, plain.steps, plain.orders, plain.skew, plain.knobs, plain.thp, plain.advice


def _course(policy: Policy, base: Policy, program: Program) -> Course | None:
    """Where the course of a program first differs, if it does."""
    found = differs(policy, base, program.scenario)
    return Course(program, *found) if found else None


def differs(policy: Policy, base: Policy, scenario: Scenario) -> tuple[int, Kind] | None:
    """The first step at which a scenario's course differs under two policies, and how; None where it does not."""
    mine, other = (scenario.machine(each, frames=FRAMES) for each in (policy, base))
    for at, step in enumerate(scenario.steps):
        here, there = (_came(machine, step, scenario.first_vpn) for machine in (mine, other))
        if here != there:
            return at, _kind(there, here)
    return None


class Came(NamedTuple):
    """What came of a step: whether it was done, what it returned, its faults, and what everybody holds then."""

    ok: bool
    value: int | None
    faults: tuple[tuple[str, tuple[Any, ...]], ...]
    state: tuple[Any, ...]


def _came(machine: Machine, step: tuple[Any, ...], base: int) -> Came:
    ok, value, _ = do_step(machine, step, base)
    did = tuple((fault_words(fault), (*fault[:4], fault.pages, fault.user)) for fault in machine.faults)
    return Came(ok, value, did, _state(machine))


def _state(machine: Machine) -> tuple[Any, ...]:
    """What everybody holds, as far as it can be counted quickly."""
    return machine.memory.held_pages(), tuple(
        (process.number, process.rss_pages, len(process.mm.vmas), int(np.count_nonzero(process.mm.pte & PTE_WRITE)))
        for process in machine.live()
    )


def fault_words(fault: Fault) -> str:
    """A fault in a few words: its path, and how much it acted on."""
    if fault.path in (FIRST_TOUCH, ZERO_COPY, COW_COPY):
        return f"{fault.path} of {4 << fault.order} KiB"
    if fault.path == REUSE:
        return f"{fault.path} of {'one page' if len(fault.pages) == 1 else 'several pages'}"
    return fault.path


def _kind(base: Came, mine: Came) -> Kind:
    """The first thing that differs, in words."""
    for there, here in zip_longest(base.faults, mine.faults, fillvalue=("no fault", ())):
        if there != here:
            return Kind(there[0], here[0] if here[0] != there[0] else f"{here[0]}, elsewhere")
    if base.ok != mine.ok:
        return Kind(*("done" if came.ok else "refused" for came in (base, mine)))
    if base.value != mine.value:
        return Kind("one value", "another value")
    return Kind("one state", "another state")
