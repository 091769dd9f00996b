"""The search beside a plain one: breadth first over dictionaries, written apart (tests/plain_search.py), which keeps no
machines and asks for no promises. Both visit the same states; how many transitions each makes in a second of processor
time, and what a state takes. Each search runs in a process of its own, for what one has learnt of steps would help the
next. How fast two processes are together is asked of more states: where there are few, each has to learn most steps.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from results import Measured, Result

from anonfolio.kernel.policy import policy_named
from anonfolio.machine.invariants import KERNEL_PROMISES
from anonfolio.program import explore
from anonfolio.program.exploration import Exploration, Limits
from anonfolio.program.explore import Space
from anonfolio.program.scenario import Scenario

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import plain_search

PART = "search: four pages, two processes, programs of any length"
FORK = ("write", "fork", "exit")
PIN = (*FORK, "pin", "unpin")
TRIED = (("rfc-v2-fixed", PIN), ("linux-6.15", FORK))
SHARED = "linux-6.9", PIN
"""What two processes share: 63,091 states, 713,499 transitions."""
GOAL_PER_S, GOAL_BYTES = 30_000, 400


class Searched(NamedTuple):
    """What a search counted, and took: seconds of this process and by the clock, bytes for a state."""

    counted: tuple[int, int, int]
    busy_s: float
    clock_s: float
    state_bytes: float = 0


def run(rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """By turns; a round in which the two do not count the same is an error of one of them."""
    for policy, operations in TRIED:
        ours, plain = [], []
        for number in range(rounds):
            tell(f"search, {policy}, round {number + 1} of {rounds}")
            ours.append(_alone(searched, policy, operations, 1))
            plain.append(_alone(searched_plainly, policy, "pin" in operations))
            assert ours[-1].counted == plain[-1].counted
        ratio = tuple(theirs.busy_s / own.busy_s for theirs, own in zip(plain, ours, strict=True))
        yield _speed(policy, operations, ours)
        yield Measured(PART, "… beside the plain search", ratio)
        yield _size(ours[0])
    alone, two = [], []
    for number in range(rounds):
        tell(f"search, two processes, round {number + 1} of {rounds}")
        alone.append(_alone(searched, *SHARED, 1))
        two.append(_alone(searched, *SHARED, 2))
        assert two[-1].counted == alone[-1].counted
    yield _speed(*SHARED, alone)
    yield Measured(PART, "… two processes, by the clock", tuple(both.counted[1] / both.clock_s for both in two), "/s",
                   at_least=GOAL_PER_S)  # fmt: skip
    ratio = tuple(one.clock_s / both.clock_s for one, both in zip(alone, two, strict=True))
    yield Measured(PART, "… beside one, by the clock", ratio)
    yield _size(alone[0])


def _speed(policy: str, operations: tuple[str, ...], found: list[Searched]) -> Measured:
    states, transitions, _ = found[0].counted
    return Measured(PART, f"{policy}: {' '.join(operations)}", tuple(transitions / each.busy_s for each in found), "/s",
                    detail={"states": states, "transitions": transitions})  # fmt: skip


def _size(found: Searched) -> Measured:
    return Measured(PART, "… kept for a state, less what is kept of steps", (found.state_bytes,), "bytes",
                    at_most=GOAL_BYTES)  # fmt: skip


def searched(policy: str, operations: tuple[str, ...], jobs: int) -> Searched:
    """The library's search, to the end."""
    space = Space(policy_named(policy), Scenario(4, (), (2,)), operations, 2, KERNEL_PROMISES)
    exploration = Exploration(space, Limits(steps=None, jobs=jobs))
    busy, clock = time.process_time(), time.perf_counter()
    assert exploration.run() is None
    busy, clock = time.process_time() - busy, time.perf_counter() - clock
    counted = exploration.states, exploration.transitions, exploration.depth - 1
    return Searched(counted, busy, clock, (exploration.kept_bytes() - explore.kept_bytes()) / exploration.states)


def searched_plainly(policy: str, pins: bool) -> Searched:
    """The plain one."""
    busy, clock = time.process_time(), time.perf_counter()
    counted = plain_search.explore(policy, pins=pins)
    return Searched(counted, time.process_time() - busy, time.perf_counter() - clock)


def _alone(search: Callable[..., Searched], *arguments: object) -> Searched:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(search, *arguments).result()
