"""advise: eleven sets of sizes replayed for a program of 80,000 faults, and how many processor seconds one takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
from results import Measured, Result

from anonfolio.hardware.advice import replayed
from anonfolio.hardware.trace import DATA_DIR, Call, Trace, read_measured, read_trace, replay
from anonfolio.kernel.policy import policy_for_kernel

PART = "advise: the compile of data/traces twice, one after the other"
TASKS = 11


def run(rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Seconds for all together, as `advise` has them done: at one time as many as there are CPUs."""
    trace = twice(read_trace(DATA_DIR / "compile-6.18.44.npz"))
    policy = policy_for_kernel(trace.kernel)
    tasks = [(setting.orders, policy) for setting in read_measured(DATA_DIR / "compile-6.18.44.json")]
    assert len(tasks) == TASKS
    together, one, ratio = [], [], []
    for number in range(rounds):
        tell(f"advise, round {number + 1} of {rounds}")
        start = time.perf_counter()
        assert len(list(replayed(trace, tasks, os.cpu_count() or 1))) == TASKS
        together.append(time.perf_counter() - start)
        start, busy = time.perf_counter(), time.process_time()
        for orders, _ in tasks:
            replay(trace, orders, policy)
        one.append(time.process_time() - busy)
        ratio.append((time.perf_counter() - start) / together[-1])
    yield Measured(PART, f"{TASKS} sets of sizes, {len(trace):,} faults", tuple(together), "s", at_most=2)
    yield Measured(PART, "processor time of the same, one after the other", tuple(one), "s")
    yield Measured(PART, "one after the other ÷ together", tuple(ratio))


def twice(trace: Trace) -> Trace:
    """A program that does it all, ends, and does it again."""
    more = len(trace.processes)

    def again(call: Call) -> Call:
        argument = call.argument + more if call.name == "fork" else call.argument
        return call._replace(at=call.at + len(trace), process=call.process + more, argument=argument)

    return Trace(
        trace.kernel, trace.about, np.tile(trace.vpn, 2), np.concatenate([trace.process, trace.process + more]),
        np.tile(trace.code, 2), (*trace.calls, *map(again, trace.calls)), trace.blocks, trace.processes * 2,
        2 * trace.kernel_faults,
    )  # fmt: skip
