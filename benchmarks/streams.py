"""What whole streams cost, in ns per base page: the operations that `touch` vectorises, fork, and exit.

    python benchmarks/streams.py [--pages N] [--rounds R] [--tebibyte]

One gibibyte by default, one byte written per page, counters on. Medians over interleaved rounds, the fastest in
brackets. Rounds share one machine, so that all but the first find the library's own memory warm.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

import anonfolio as af

Clock = dict[str, list[float]]
Stream = range | np.ndarray
NOW = time.perf_counter_ns
ORDERS = {"4K": (), "16K": (2,), "64K": (4,), "2M": (9,)}


def timed(clock: Clock, name: str, pages: int, action: Callable[[], object]) -> None:
    """Do it, and note the nanoseconds per page."""
    start = NOW()
    action()
    clock[name].append((NOW() - start) / pages)


def one_size(clock: Clock, size: str, machine: af.Machine, how: str, stream: Stream) -> None:
    """First touch, fork, copy, the child's exit, reuse, exit."""
    pages = len(stream)
    parent = machine.spawn()
    parent.mmap(pages)
    timed(clock, f"first touch {size}, {how}", pages, lambda: parent.touch(stream))
    children: list[af.Process] = []
    timed(clock, f"fork {size}, {how}", pages, lambda: children.append(parent.fork()))
    timed(clock, f"CoW copy {size}, {how}", pages, lambda: parent.touch(stream, value=2))
    timed(clock, f"child's exit {size}, {how}", pages, children.pop().exit)
    parent.fork().exit()
    timed(clock, f"reuse {size}, {how}", pages, lambda: parent.touch(stream, value=3))
    timed(clock, f"exit {size}, {how}", pages, parent.exit)


def zero_page(clock: Clock, machine: af.Machine, how: str, stream: Stream) -> None:
    """Every page read, then every page written."""
    process = machine.spawn()
    process.mmap(len(stream))
    timed(clock, f"zero page read, {how}", len(stream), lambda: process.touch(stream, write=False))
    timed(clock, f"zero page write, {how}", len(stream), lambda: process.touch(stream))
    process.exit()


def peak_gib() -> float:
    """The most memory this process ever had. Linux: of this program alone, not of the one that started it."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / (1 << 20)
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def tebibyte(clock: Clock, machine: af.Machine, pages: int) -> float:
    """A tebibyte of 64K folios, touched and forked; returns the most memory it took, in GiB."""
    parent = machine.spawn()
    parent.mmap(pages)
    timed(clock, "first touch", pages, lambda: parent.touch(range(pages)))
    children: list[af.Process] = []
    timed(clock, "fork", pages, lambda: children.append(parent.fork()))
    memory = peak_gib()
    timed(clock, "child's exit", pages, children.pop().exit)
    timed(clock, "exit", pages, parent.exit)
    return memory


def tebibyte_twice() -> None:
    """Once cold, once warm."""
    pages = 1 << 28
    machine = af.Machine(orders=(4,), frames=pages + (1 << 11))
    for what in ("cold", "warm"):
        clock: Clock = defaultdict(list)
        memory = tebibyte(clock, machine, pages)
        seconds = ", ".join(f"{name} {times[0] * pages / 1e9:.2f} s" for name, times in clock.items())
        print(f"1 TiB of 64K folios, {what}: {seconds}; at most {memory:.1f} GiB")


def main() -> None:
    """Print a row for each operation."""
    global NOW
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=1 << 18)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tebibyte", action="store_true", help="touch and fork 2**28 pages instead")
    parser.add_argument("--cpu", action="store_true", help="count processor time, not elapsed time (busy machines)")
    chosen = parser.parse_args()
    if chosen.cpu:
        NOW = time.process_time_ns
    if chosen.tebibyte:
        tebibyte_twice()
        return
    streams: dict[str, Stream] = {
        "in order": range(chosen.pages),
        "at random": np.random.default_rng(0).permutation(chosen.pages),
    }
    clock: Clock = defaultdict(list)
    for how, stream in streams.items():
        machines = {
            size: af.Machine(orders=orders, frames=2 * chosen.pages + (1 << 12)) for size, orders in ORDERS.items()
        }
        # The first round makes the library's own memory warm; it does not count.
        for counted in [{}, *[clock] * chosen.rounds]:
            counted = counted if counted is clock else defaultdict(list)
            zero_page(counted, machines["4K"], how, stream)
            for size, machine in machines.items():
                one_size(counted, size, machine, how, stream)
    for name, times in clock.items():
        print(f"{name:34} {statistics.median(times):8.1f} ({min(times):.1f}) ns/page")


if __name__ == "__main__":
    main()
