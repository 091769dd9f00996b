"""What a policy buys and costs: work, time, memory and TLB on recorded programs and under forks, beside other kernels.

Counts are the model's; time is counts times a stored table of measured prices (`hardware.cost`). Trace files are
replayed whole. The workloads with forks are made here: a heap of 16 MiB, and what becomes of it in three ways in which
programs use fork.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from ..hardware.cost import Table, Work, entry_orders, exiting, forking, ns, reach_pages, read_table
from ..hardware.tlb import NEOVERSE_N1, Contiguous, Tlb, page_table
from ..hardware.trace import ALL_SIZES, DATA_DIR, Trace, read_trace, size_names
from ..hardware.walks import walks
from ..kernel.contpte import CONT_PTE_ORDER
from ..kernel.policy import LINUX_6_9, LINUX_6_15, RFC_V2_FIXED, Policy
from ..kernel.record import Counters
from ..machine.machine import Machine, Process
from ..program.ops import do_step
from ..program.scenario import Scenario, scenario_names
from .spread import Progress, spread

BESIDE = (LINUX_6_9, LINUX_6_15, RFC_V2_FIXED)
"""What a policy is laid beside: 6.12, 6.15 and later, the proposal of 2023 with the check from its review."""
TABLE = "linux-6.18.44"
"""The stored table of prices."""
QUICK_SIZES, WHOLE_SIZES = ((2, 4),), ((2, 4), (4,), ALL_SIZES, (9,))
QUICK_FAULTS = 10_000
"""A quick report replays the traces with at most so many accesses."""
HEAP_PAGES, HEAP_SIZES = 4096, (2, 4)
"""The heap is in folios of 64 KiB; a copy that asks the knobs may take 16 KiB, too."""
SNAPSHOT_EVERY = 3
"""While its snapshot is taken, the parent writes every third page."""
CORE = NEOVERSE_N1


class Bill(NamedTuple):
    """What one policy does on one workload.

    Attributes
    ----------
    faults, copied, zeroed, scanned, flushed : int
        Faults in anonymous memory; pages copied and zeroed, entries read to find a range, entries flushed.
    time_ms : float
        By the table of prices.
    held_pages, never_written_pages : int
        Of a trace at its peak, of a workload of ours at its end.
    reach_pages : int
        Pages that the last TLB level covers with entries as they are then on average.
    mapped_pages, walks : int
        Pages that are mapped then, and page-table walks when each is read once in a random order.
    recorded, recorded_walks : int
        The accesses that a trace holds, and how many of them walk; none in a workload of ours (`hardware.walks`).
    """

    faults: int
    copied: int
    zeroed: int
    scanned: int
    flushed: int
    time_ms: float
    held_pages: int
    never_written_pages: int
    reach_pages: int
    mapped_pages: int
    walks: int
    recorded: int = 0
    recorded_walks: int = 0


class Workload(NamedTuple):
    """What was run, under which sizes, how it can be run again; and a bill for each policy, by name."""

    name: str
    about: str
    sizes: str
    again: str
    bills: dict[str, Bill]


@dataclass(frozen=True)
class Prices:
    """All workloads, whom the policy was laid beside, and where the prices come from."""

    policies: tuple[str, ...]
    workloads: tuple[Workload, ...]
    table: str
    left_out: tuple[str, ...]
    seed: int


def beside(policy: Policy, base: Policy) -> list[Policy]:
    """The policy, its base, and the others; none twice."""
    found: list[Policy] = []
    for each in (policy, base, *BESIDE):
        if all(each != known for known in found):
            found.append(each)
    return found


def prices(
    policy: Policy, base: Policy, seed: int, *, quick: bool, jobs: int = 1, progress: Progress | None = None
) -> Prices:
    """Run every workload under every policy."""
    policies = beside(policy, base)
    table = read_table(TABLE)
    named, left_out = _traces(quick)
    sizes = QUICK_SIZES if quick else WHOLE_SIZES
    todo: list[tuple[str, str, str, str, Callable[[Policy], Bill]]] = [
        *(
            (name, _about(trace), size_names(orders), f"trace replay {path} --sizes {size_names(orders)}",
             partial(_of_trace, trace, orders, table, seed))
            for name, path, trace in named for orders in sizes
        ),
        *(
            (name, about, size_names(HEAP_SIZES), "", partial(_of_forks, forks, table, seed))
            for name, (about, forks) in FORKS.items()
        ),
    ]  # fmt: skip
    asked = [(bill, each) for *_, bill in todo for each in policies]
    bills = iter(spread(_ask, asked, jobs, progress))
    workloads = tuple(
        Workload(name, about, sizes, again, {each.name: next(bills) for each in policies})
        for name, about, sizes, again, _ in todo
    )
    return Prices(tuple(each.name for each in policies), workloads, TABLE, left_out, seed)


def _ask(asked: tuple[Callable[[Policy], Bill], Policy]) -> Bill:
    bill, policy = asked
    return bill(policy)


# --- traces of real programs ----------------------------------------------------------------------------------------


def _traces(quick: bool) -> tuple[list[tuple[str, str, Trace]], tuple[str, ...]]:
    """The stored traces, one of each program; and the names of those that are left out for their size."""
    found: dict[str, tuple[str, str, Trace]] = {}
    for path in sorted(DATA_DIR.glob("*.npz")):
        trace = read_trace(path)
        found.setdefault(trace.about.get("command", path.stem), (path.stem, f"data/traces/{path.name}", trace))
    chosen = [each for each in found.values() if not quick or len(each[2]) <= QUICK_FAULTS]
    return chosen, tuple(name for name, _, trace in found.values() if quick and len(trace) > QUICK_FAULTS)


def _about(trace: Trace) -> str:
    forks = sum(call.name == "fork" for call in trace.calls)
    command = str(trace.about.get("command", "a program"))
    count = len(trace.processes)
    processes, forked = f"{count} process{'' if count == 1 else 'es'}", f"{forks} fork{'' if forks == 1 else 's'}"
    return f"{command}: {processes}, {forked}, recorded on {trace.kernel}"


def _of_trace(trace: Trace, orders: tuple[int, ...], table: Table, seed: int, policy: Policy) -> Bill:
    done, seen = walks(trace, orders, policy, core=CORE, seed=seed)
    return Bill(
        done.anonymous, *_work(done.counters), ns(done, table) / 1e6, done.held_peak_pages, done.never_written_pages,
        seen.reach_pages, seen.peak_pages, seen.peak, seen.accesses, seen.recorded,
    )  # fmt: skip


def _work(counters: Counters) -> tuple[int, int, int, int]:
    return counters.copied, counters.zeroed, counters.scanned, counters.flushed


# --- what programs do with fork -------------------------------------------------------------------------------------


class _Family:
    """Processes with one heap, and what their forks and exits cost, which no fault counts."""

    def __init__(self, policy: Policy) -> None:
        # The contiguous bit changes no fault; the TLB of the core that is asked reads it.
        there = policy if policy.cont_pte_order else policy.but(cont_pte_order=CONT_PTE_ORDER)
        self.machine = Machine(there, orders=HEAP_SIZES, frames=1 << 16)
        self.parent = self.machine.spawn()
        self.parent.mmap(HEAP_PAGES, at=0)
        self.parent.touch(range(HEAP_PAGES))
        self.work = Work()

    def fork(self, process: Process) -> Process:
        self.work += forking(process)
        return process.fork()

    def exit(self, process: Process) -> None:
        self.work += exiting(process)
        process.exit()


def _snapshot(family: _Family) -> None:
    parent = family.parent
    child = family.fork(parent)
    parent.touch(range(0, HEAP_PAGES, SNAPSHOT_EVERY))
    child.touch(range(HEAP_PAGES), write=False)
    family.exit(child)
    parent.touch(range(HEAP_PAGES))


def _helper(family: _Family) -> None:
    parent = family.parent
    child = family.fork(parent)
    child.touch(range(64))
    family.exit(child)
    parent.touch(range(HEAP_PAGES))


def _workers(family: _Family) -> None:
    parent = family.parent
    workers = [family.fork(parent) for _ in range(3)]
    for number, worker in enumerate(workers):
        worker.touch(range(number, HEAP_PAGES, 2 + number))
    family.exit(parent)
    for worker in workers[:2]:
        family.exit(worker)
    workers[2].touch(range(HEAP_PAGES))


FORKS: dict[str, tuple[str, Callable[[_Family], None]]] = {
    "snapshot": (
        f"a heap of 16 MiB is forked; the parent writes every {SNAPSHOT_EVERY}rd page while the child reads all and"
        " exits, then all (a database that saves itself)", _snapshot,
    ),
    "helper": (
        "a heap of 16 MiB is forked; the child writes 64 pages and exits, then the parent writes all (a program that"
        " starts another)", _helper,
    ),
    "workers": (
        "a heap of 16 MiB is forked three times; the children write every 2nd, 3rd, 4th page; all but the third exit,"
        " and that one writes all (a server with workers)", _workers,
    ),
}  # fmt: skip


def under_forks(name: str, policy: Policy, seed: int = 0) -> Bill:
    """The bill of one of the workloads in `FORKS`."""
    return _of_forks(FORKS[name][1], read_table(TABLE), seed, policy)


def _of_forks(forks: Callable[[_Family], None], table: Table, seed: int, policy: Policy) -> Bill:
    family = _Family(policy)
    forks(family)
    machine = family.machine
    live = machine.live()
    counters, memory = machine.counters, machine.memory
    never_written = int(np.count_nonzero((memory.folio_of[:] >= 0) & (memory.content == 0)))
    done = Work.of(counters) + family.work
    return Bill(
        counters.faults.total(), *_work(counters), ns(done, table) / 1e6, memory.held_pages(), never_written,
        reach_pages(CORE, entry_orders(live, Contiguous())), HEAP_PAGES * len(live),
        sum(_walks(process, seed) for process in live),
    )  # fmt: skip


def _walks(process: Process, seed: int) -> int:
    """Page-table walks when each page of the heap is read once, in a random order."""
    order = np.random.default_rng(seed).permutation(HEAP_PAGES)
    start = process.mm.vmas[0].start
    return Tlb(CORE, Contiguous()).access(start + order, page_table(process, start, HEAP_PAGES)).walks


# --- the stored scenarios with forks --------------------------------------------------------------------------------


def fork_scenarios() -> list[Scenario]:
    """The named scenarios in which somebody forks."""
    found = (Scenario.load(name) for name in scenario_names())
    return [scenario for scenario in found if any(step[0] == "fork" for step in scenario.steps)]


def of_scenarios(scenarios: Sequence[Scenario], policy: Policy) -> Iterator[Counters]:
    """What each did in all."""
    for scenario in scenarios:
        machine = scenario.machine(policy, frames=1 << 16)
        for step in scenario.steps:
            do_step(machine, step, scenario.first_vpn)
        yield machine.counters
