"""The model against the kernel of this machine: processor time per base page, kernel ÷ model."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import streams
from results import LeftOut, Measured, Result

import anonfolio as af

PART = "the model against the kernel of this machine (kernel ÷ model, processor time per 4K page)"


class Operation(NamedTuple):
    """What is compared: the name in `streams`, the one in live_cost.c, and the goal for the ratio."""

    name: str
    order: int
    measured: str
    goal: float | None


OPERATIONS = (
    Operation("first touch 4K", 0, "first_touch", 50),
    Operation("first touch 64K", 4, "first_touch", 20),
    Operation("zero page read", 0, "zero_read", 50),
    Operation("zero page write", 0, "zero_copy", 50),
    Operation("CoW copy 4K", 0, "cow_copy", 50),
    Operation("CoW copy 64K", 4, "cow_copy", None),
    Operation("reuse 4K", 0, "reuse", 30),
    Operation("reuse 64K", 4, "reuse", None),
    Operation("fork 4K", 0, "fork", 5),
    Operation("fork 64K", 4, "fork", 20),
)
ORDERS = {"4K": (), "64K": (4,)}


def run(model_pages: int, kernel_pages: int, rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Both by turns, each from the first page to the last and in random order."""
    model = _Model(model_pages)
    try:
        theirs = _rounds(model, kernel_pages, rounds, tell)
    except (ValueError, ImportError) as reason:
        yield LeftOut(PART, str(reason))
        return
    for operation in OPERATIONS:
        for how in model.streams:
            kernel = theirs[f"{operation.measured} {operation.order} {how}"]
            ours = model.clock[f"{operation.name}, {how}"]
            yield Measured(
                PART,
                f"{operation.name}, {how}",
                tuple(their_ns / our_ns for their_ns, our_ns in zip(kernel, ours, strict=True)),
                at_least=operation.goal,
                detail={"kernel_ns": kernel, "model_ns": ours},
            )


def _rounds(model: _Model, kernel_pages: int, rounds: int, tell: Callable[[str], None]) -> dict[str, list[float]]:
    """The kernel's ns per page; LiveError, a ValueError, says what this machine lacks."""
    from anonfolio.witness.live.cost import check_possible, measure_once, program
    from anonfolio.witness.live.kernel import LiveKernel

    check_possible(kernel_pages)
    kernel: dict[str, list[float]] = defaultdict(list)
    with program() as executable, LiveKernel() as live:
        tell("kernel, warming up")
        model.round(warm=False)
        for number in range(rounds):
            tell(f"kernel, round {number + 1} of {rounds}")
            for order in sorted({operation.order for operation in OPERATIONS}):
                for seed, how in enumerate(model.streams):
                    for name, spent in measure_once(executable, live, kernel_pages, order, seed).items():
                        kernel[f"{name} {order} {how}"].append(spent.ns / kernel_pages)
            model.round()
    return kernel


class _Model:
    """The model's side, with machines that live through all rounds; `clock` has the ns per page of each."""

    def __init__(self, pages: int) -> None:
        streams.NOW = time.process_time_ns
        self.clock: streams.Clock = defaultdict(list)
        self.streams: dict[str, streams.Stream] = {
            "in order": range(pages),
            "at random": np.random.default_rng(0).permutation(pages),
        }
        frames = 2 * pages + (1 << 12)
        self.machines = {
            how: {size: af.Machine(orders=orders, frames=frames) for size, orders in ORDERS.items()}
            for how in self.streams
        }

    def round(self, warm: bool = True) -> None:
        """Every operation once. The first round makes the library's own memory warm, and does not count."""
        clock = self.clock if warm else defaultdict(list)
        for how, stream in self.streams.items():
            streams.zero_page(clock, self.machines[how]["4K"], how, stream)
            for size, machine in self.machines[how].items():
                streams.one_size(clock, size, machine, how, stream)
