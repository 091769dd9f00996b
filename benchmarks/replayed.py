"""The recorded compile, replayed: a whole trace under each set of sizes, and its accesses as one stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from results import Measured, Result

import anonfolio as af
from anonfolio.hardware.trace import DATA_DIR, Trace, read_measured, read_trace, replay, size_names
from anonfolio.kernel.record import PF_WRITE

PART = "the compile of data/traces, replayed"
NOW = time.process_time_ns


def run(rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Seconds for the whole trace, calls and all; millions of accesses a second where no call lies between."""
    trace = read_trace(DATA_DIR / "compile-6.18.44.npz")
    settings = [setting.orders for setting in read_measured(DATA_DIR / "compile-6.18.44.json")]
    whole: dict[tuple[int, ...], list[float]] = {orders: [] for orders in settings}
    streams = {orders: _OneStream(trace, orders) for orders in ((), (4,), tuple(range(2, 9)))}
    for number in range(rounds):
        tell(f"compile, round {number + 1} of {rounds}")
        for orders, times in whole.items():
            times.append(_seconds(partial(replay, trace, orders)))
        for stream in streams.values():
            stream.round()
    slowest = max(whole, key=lambda orders: float(np.median(whole[orders])))
    name = f"whole trace, slowest of {len(settings)} settings ({size_names(slowest)})"
    yield Measured(PART, name, tuple(whole[slowest]), "s", at_most=0.5)
    for orders, stream in streams.items():
        rates = tuple(stream.rates[1:])
        yield Measured(PART, f"in one stream, {size_names(orders)}", rates, "M accesses/s", at_least=10)


class _OneStream:
    """What the busiest process touched, in its order, all of its memory mapped beforehand: no call lies between.

    `rates` are millions of accesses a second; the first, which brings in the library's own memory, does not count.
    """

    def __init__(self, trace: Trace, orders: tuple[int, ...]) -> None:
        busiest = trace.process == np.bincount(trace.process).argmax()
        self.pages, self.write = trace.vpn[busiest], (trace.code[busiest] & PF_WRITE) > 0
        self.machine = af.Machine(orders=orders, thp="always", frames=1 << 20)
        self.rates: list[float] = []
        self.round()

    def round(self) -> None:
        """Once more, by a new process."""
        process = self.machine.spawn()
        process.mmap(int(self.pages.max()) + 1)
        self.rates.append(len(self.pages) / _seconds(lambda: process.touch(self.pages, write=self.write)) / 1e6)
        process.exit()


def _seconds(action: Callable[[], object]) -> float:
    start = NOW()
    action()
    return (NOW() - start) / 1e9
