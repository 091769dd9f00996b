"""Hold the model against the kernel of this machine, program after program, until a difference that repeats.

A machine has other things to do: what differs once may have been disturbed from outside in a way that no check saw (on
a busy virtual machine entries were seen without the accessed bit that the next run had). A difference counts when more
runs of the program, each a little later, show the same one, and none goes past that step without it; else the program
is counted as disturbed. A run that differs earlier was disturbed itself, and says nothing of what comes later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...kernel.policy import Policy
from ...program.random_programs import shrink
from ...program.scenario import Scenario
from ...program.witnesses import Difference
from ..comparing import iter_differences
from ..counted import iter_count_differences
from ..here import NotLive, TooDisturbed
from .kernel import LiveKernel
from .run import live_run

REPEATS, LATER_S = 3, 0.1
MOST_RUNS = 12
"""So often is a program run until a difference has shown `REPEATS` times more: on a busy machine most runs may differ
by chance somewhere before it."""
TURN_S = 15.0
"""After so long the machine is put back for a moment: another live run may be waiting for it."""
PAUSE_S = 0.2
TURN_PATIENCE_S = 3600.0
BUSY_S = 2.0


@dataclass
class Tally:
    """What was compared so far, and what could not be believed."""

    programs: int = 0
    steps: int = 0
    disturbed: int = 0
    left_out: int = 0
    cells: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        text = f"{self.programs} programs, {self.steps} steps"
        if self.disturbed:
            text += f", {self.disturbed} disturbed (no difference when they ran again)"
        if self.left_out:
            text += f", {self.left_out} left out (the machine was too busy, or cannot run them)"
        return text


def live_difference(
    scenario: Scenario, kernel: LiveKernel, policy: Policy, cells: Counter[str] | None = None
) -> Difference | None:
    """The first step at which page tables, values, faults, hidden state or counters differ, in one run.

    `cells` counts what was compared of the hidden state, by field.
    """
    timeline, recorded = scenario.run(policy), live_run(scenario, kernel)
    seen = next(iter_differences(timeline, recorded, cells), None)
    counted = next(iter_count_differences(timeline, recorded), None)
    return min(filter(None, (seen, counted)), key=lambda difference: difference.number, default=None)


def repeated_difference(scenario: Scenario, kernel: LiveKernel, policy: Policy, tally: Tally) -> Difference | None:
    """A difference that shows again and again at the same step; what a run does without is tallied as disturbed."""
    seen: Counter[tuple[int, str]] = Counter()
    last = 0
    for times in range(MOST_RUNS):
        time.sleep(LATER_S * min(times, REPEATS))
        found = live_difference(scenario, kernel, policy, None if times else tally.cells)
        if not found:
            tally.disturbed += times > 0
            return None
        if found.number < last:
            continue
        last = found.number
        seen[found.number, found.what] += 1
        if seen[found.number, found.what] > REPEATS:
            return found
    tally.disturbed += 1
    return None


def smallest_program(scenario: Scenario, kernel: LiveKernel, policy: Policy) -> Scenario:
    """The scenario without all the steps that its difference does not need."""

    def first_difference(candidate: Scenario) -> int | None:
        try:
            found = repeated_difference(candidate, kernel, policy, Tally())
        except (NotLive, TooDisturbed):
            # A part of a program that cannot be run shows nothing.
            return None
        return found.number if found else None

    return shrink(scenario, first_difference)


def smallest_difference(scenario: Scenario, kernel: LiveKernel, policy: Policy) -> tuple[Scenario, Difference] | None:
    """What is left of a program that differs, or all of it where no part is sure to; and how. None: not any more."""
    for candidate in (smallest_program(scenario, kernel, policy), scenario):
        if found := repeated_difference(candidate, kernel, policy, Tally()):
            return candidate, found
    return None


def live_differences(
    scenarios: Callable[[LiveKernel], Iterator[Scenario]],
    policy: Policy,
    tally: Tally,
    *,
    programs: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> Iterator[tuple[Scenario, Difference]]:
    """Compare until so many programs have been compared, or so long; what differs is handed out, the machine put back.

    Parameters
    ----------
    scenarios : callable
        Gives the programs, without end, for the sizes of a kernel.
    tally : Tally
        Counts along.
    """
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    source: Iterator[Scenario] | None = None
    while tally.programs != programs and time.monotonic() < end:
        found: Difference | None = None
        # Who was running gives way to others for as long as they need.
        with LiveKernel(TURN_PATIENCE_S) if source else LiveKernel() as kernel:
            source = source or scenarios(kernel)
            turn_end = min(end, time.monotonic() + TURN_S)
            while not found and tally.programs != programs and time.monotonic() < turn_end:
                scenario = next(source)
                try:
                    found = repeated_difference(scenario, kernel, policy, tally)
                except (NotLive, TooDisturbed) as reason:
                    tally.left_out += 1
                    time.sleep(BUSY_S if isinstance(reason, TooDisturbed) else 0)
                    continue
                tally.programs += 1
                tally.steps += len(scenario.steps)
                progress(tally)
        if found:
            yield scenario, found
        time.sleep(PAUSE_S)
