"""advise: eleven sets of sizes replayed for a program of 80,000 faults, and how many processor seconds one takes; and
from the end of a program with 100,000 faults to its table: one process, and a hundred and more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from results import Measured, Result

from anonfolio.draw.advised import advice_text
from anonfolio.hardware.advice import SETTINGS, Ahead, advise, replayed
from anonfolio.hardware.cost import read_table
from anonfolio.hardware.cpu import this_cpu
from anonfolio.hardware.trace import DATA_DIR, Call, Trace, read_measured, read_trace, replay
from anonfolio.kernel.policy import policy_for_kernel

PART = "advise: the compile of data/traces twice, one after the other"
END = "advise: from the end of a program to its table, five sets of sizes"
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
    yield from _from_the_end_on(rounds, tell)


def _from_the_end_on(rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Seconds between a program's end and its table: its events are read by then (they are while it runs).

    Processor seconds are those of all processes together.
    """
    # Of many short processes each has its own few dozen streams to plan: more than a second on two CPUs.
    for name, times, most in (("objects", 3, 1), ("make", 5, None)):
        trace = repeated(read_trace(DATA_DIR / f"{name}-6.18.44.npz"), times)
        clock, busy = [], []
        for number in range(rounds):
            tell(f"advise on {name}, round {number + 1} of {rounds}")
            start, before = time.perf_counter(), _busy()
            text = _table_of(replace(trace))
            clock.append(time.perf_counter() - start)
            busy.append(_busy() - before)
            assert "Suggest" in text
        said = f"{len(trace):,} faults, {len(trace.processes)} processes"
        yield Measured(END, f"{said}: its table after", tuple(clock), "s", at_most=most)
        yield Measured(END, f"{said}: processor time", tuple(busy), "s")


def _table_of(trace: Trace) -> str:
    """What a recorder does that has just made a trace, and the command after it."""
    jobs = os.cpu_count() or 1
    with Ahead(SETTINGS, jobs=jobs) as ahead:
        trace = ahead.settle(trace, np.zeros(len(trace), np.int64))
        found = advise(trace, table=read_table("linux-6.18.44"), cpu=this_cpu(), jobs=jobs, ahead=ahead)
        return advice_text(found)


def _busy() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def twice(trace: Trace) -> Trace:
    """A program that does it all, ends, and does it again."""
    return repeated(trace, 2)


def repeated(trace: Trace, times: int) -> Trace:
    """A program that does it all so often, each time from the start."""
    width = np.uint8 if times * len(trace.processes) <= 256 else np.uint16

    def again(call: Call, number: int) -> Call:
        more = number * len(trace.processes)
        argument = call.argument + more if call.name == "fork" else call.argument
        return call._replace(at=call.at + number * len(trace), process=call.process + more, argument=argument)

    process = trace.process.astype(np.uint16)
    owners = [(process + number * len(trace.processes)).astype(width) for number in range(times)]
    return Trace(
        trace.kernel, trace.about, np.tile(trace.vpn, times), np.concatenate(owners), np.tile(trace.code, times),
        tuple(again(call, number) for number in range(times) for call in trace.calls), trace.blocks,
        trace.processes * times, times * trace.kernel_faults,
    )  # fmt: skip
