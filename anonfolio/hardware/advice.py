"""Which folio sizes a program should get: its trace under several sets of sizes, side by side, with a reason.

`advise` replays a trace (`trace.replay`) and gives an `Advice`: one `Option` a set of sizes, what is suggested and why,
and how far to trust it (`trust`). Times are those of the page faults alone, by a table of costs; the program's own
work, forks and exits, khugepaged and reclaim are not in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from ..kernel.policy import Policy, policy_for_kernel
from ..kernel.sizes import PMD_ORDER
from ..program.pools import forked, forks_safely, losses_told
from .cost import Table, entry_orders_of_folios, ns, reach_pages
from .cpu import Cpu
from .trace import ALL_SIZES, POINTS, Compared, Replay, Setting, Trace, replay, settled, size_names
from .trust import Trust, trust

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

SETTINGS = ((), (4,), (2, 4), ALL_SIZES, (PMD_ORDER,))
"""What a program is tried under, unless said otherwise."""
GOOD_ENOUGH = 0.95
"""A set of sizes that saves so much of what the best one saves is as good as that one; then less memory decides."""
WORTH_IT = 0.05
"""Less time saved than this part of what 4K takes is not worth a change."""
LEAST_MS = 0.5
"""A program whose faults take less than that under 4K has nothing to save."""
WORTH_SAYING = 0.01
"""The same, for another one to be mentioned."""
MEMORY_PART, MEMORY_PAGES = 0.05, 512
"""So much more memory at the peak, by part or in pages, is not held against a set of sizes."""
NEXT_TO_NOTHING = 0.002
"""Memory never written is compared in steps of this part of the peak."""
CLOSE = 0.01
"""A prediction is right within this part of what the kernel counts."""
MIB = 256
"""Base pages."""


@dataclass(frozen=True)
class Option:
    """A program under one set of sizes.

    Attributes
    ----------
    replay : Replay
        What the model says.
    time_ms : float
        Its faults by the table of costs.
    cold_ms : float or None
        The same where memory that was free for a while is first taken back from the host; None where the table does not
        know.
    reach_pages : int or None
        Pages that this CPU's last TLB level covers, its entries as those of this run on average; None for a CPU that is
        not known.
    """

    replay: Replay
    time_ms: float
    reach_pages: int | None
    cold_ms: float | None = None

    @property
    def name(self) -> str:
        """Such as ``16K+64K``."""
        return size_names(self.replay.orders)

    @property
    def takes_nothing(self) -> bool:
        """Whether its faults take so little time that no sizes can save any that counts."""
        return self.time_ms < LEAST_MS

    @property
    def faults(self) -> int:
        """In anonymous memory."""
        return self.replay.anonymous

    @property
    def peak_mib(self) -> float:
        """Anonymous memory held at its peak."""
        return self.replay.held_peak_pages / MIB

    @property
    def never_written_mib(self) -> float:
        """How much of that the program had never written."""
        return self.replay.never_written_pages / MIB

    @property
    def reach_mib(self) -> float | None:
        """`reach_pages` in MiB."""
        return None if self.reach_pages is None else self.reach_pages / MIB


@dataclass(frozen=True)
class Advice:
    """A program under several sets of sizes.

    Attributes
    ----------
    trace : Trace
    policy : str
        Which kernel the model was.
    options : tuple of Option
        In the order they were asked for.
    base : Option
        4K alone, whether asked for or not.
    trust : Trust
    table : Table
        The prices.
    cpu : Cpu
        Whose TLB.
    measured : tuple of Setting
        What a kernel counted under some of these sets of sizes.
    """

    trace: Trace
    policy: str
    options: tuple[Option, ...]
    base: Option
    trust: Trust
    table: Table
    cpu: Cpu
    measured: tuple[Setting, ...] = ()

    def counted(self, option: Option) -> Setting | None:
        """What the kernel counted under these sizes."""
        return next((each for each in self.measured if each.orders == option.replay.orders), None)

    @property
    def spread(self) -> float:
        """How far runs under the same sizes are apart, as a part: rounds, and under 4K the recorded run too."""
        recorded = [self.trace.kernel_faults]
        runs = [(each, each.faults if each.orders else each.faults + recorded) for each in self.measured]
        return max(((max(counts) - min(counts)) / each.median_faults for each, counts in runs), default=0.0)

    @property
    def wrong(self) -> tuple[Compared, ...]:
        """Predictions that are more than 1 % from what the kernel counted, and more than the program itself varies."""
        both = [(self.counted(option), option.replay) for option in self.options]
        compared = [Compared(setting, found) for setting, found in both if setting]
        return tuple(each for each in compared if abs(each.difference) > max(CLOSE, self.spread))

    @cached_property
    def suggested(self) -> Option:
        """What to enable (`suggested`)."""
        return suggested(self.base, self.options)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The advice and its reason; none where something speaks against the prediction."""
        if not self.trust:
            return ("No advice: the prediction does not hold (see Trust).",)
        if self.base.takes_nothing:
            few = f"its {self.base.faults:,} anonymous faults take {self.base.time_ms:.2f} ms"
            return (f"Suggest 4K: {few}, so that there is nothing to save.",)
        return (reason(self.base, self.suggested, self.options), *in_pieces(self.base, self.options))


def advise(
    trace: Trace,
    settings: Iterable[Sequence[int]] = SETTINGS,
    policy: Policy | None = None,
    *,
    table: Table,
    cpu: Cpu,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    ahead: Ahead | None = None,
) -> Advice:
    """Replay a trace under each set of sizes, and judge.

    Parameters
    ----------
    settings : iterable of sequences of int
        Sets of sizes, as orders.
    policy : Policy, optional
        Which kernel to be; by default the one that models the recorded kernel. The trace is held against that one in
        any case.
    table : Table
        The prices.
    cpu : Cpu
        Whose TLB reach to tell.
    jobs : int
        How many replays at one time, each in a process of its own.
    progress : callable, optional
        Called with (replays done, all replays).
    ahead : Ahead, optional
        Replays of this trace that have begun already.

    Raises
    ------
    TraceError
        The trace contradicts itself.
    """
    policy = policy or policy_for_kernel(trace.kernel)
    wanted = list(dict.fromkeys(tuple(sorted(orders)) for orders in settings))
    tasks = tasks_of(trace, wanted, policy)
    replays: list[Replay] = []
    for found in ahead.replayed(trace, tasks, jobs) if ahead else replayed(trace, tasks, jobs):
        replays.append(found)
        if progress:
            progress(len(replays), len(tasks))
    options = {task[0]: _option(found, table, cpu) for task, found in zip(tasks, replays, strict=True)
               if task[1] == policy}  # fmt: skip
    told = tuple(options[orders] for orders in wanted)
    return Advice(trace, policy.name, told, options[()], trust(trace, replays[0]), table, cpu)


def tasks_of(trace: Trace, settings: Iterable[Sequence[int]], policy: Policy | None) -> list[Task]:
    """Which replays an advice needs, each once; first the one under 4K by the model of the recorded kernel."""
    recorded = policy_for_kernel(trace.kernel)
    policy = policy or recorded
    tasks = [((), recorded), ((), policy), *((tuple(sorted(orders)), policy) for orders in settings)]
    return [task for at, task in enumerate(tasks) if task not in tasks[:at]]


def _option(found: Replay, table: Table, cpu: Cpu) -> Option:
    reach = None
    if cpu.core:
        reach = reach_pages(cpu.core, entry_orders_of_folios(found.allocated, cpu.coalescing))
    cold = ns(found, table.cold) / 1e6 if table.cold else None
    return Option(found, ns(found, table) / 1e6, reach, cold)


def faults_so_far(trace: Trace, found: Replay) -> list[tuple[int, int]]:
    """Anonymous faults of all processes, those that have exited too, at each moment of a replay's curve:
    (accesses, faults)."""
    exits = {call.process: call.at for call in trace.calls if call.name == "exit"}
    return [
        (
            moment.at,
            sum(
                moment.faults.get(number, part.anonymous if exits.get(number, moment.at + 1) <= moment.at else 0)
                for number, part in enumerate(found.processes)
            ),
        )
        for moment in found.curve
    ]


# --- judging ----------------------------------------------------------------------------------------------------------


def suggested(base: Option, options: Sequence[Option]) -> Option:
    """What to enable: of those that hold little more memory than 4K does and save nearly as much time as the best of
    them, the one that holds least that was never written; what differs by next to nothing there is decided by time. 4K
    where nothing saves enough.
    """
    room = base.replay.held_peak_pages + max(MEMORY_PAGES, MEMORY_PART * base.replay.held_peak_pages)
    fitting = [option for option in options if option.replay.held_peak_pages <= room]
    best = max((base.time_ms - option.time_ms for option in fitting), default=0.0)
    if best < WORTH_IT * base.time_ms or best <= 0 or base.takes_nothing:
        return base
    good = [option for option in fitting if base.time_ms - option.time_ms >= GOOD_ENOUGH * best]
    grain = max(1.0, NEXT_TO_NOTHING * base.replay.held_peak_pages)
    return min(good, key=lambda option: (round(option.replay.never_written_pages / grain), option.time_ms))


def reason(base: Option, chosen: Option, options: Sequence[Option]) -> str:
    """Why, in a sentence or two: what it saves, and what the fastest of the others would save more."""
    fastest = min((base, *options), key=lambda option: option.time_ms)
    if chosen is base:
        said = "Suggest 4K: no set of sizes saves enough time"
        if fastest.time_ms < (1 - WORTH_IT) * base.time_ms:
            more = fastest.peak_mib - base.peak_mib
            said += f" without much more memory ({fastest.name} takes {_ms(fastest)} instead of {_ms(base)}"
            return f"{said}, and holds {more:.1f} MiB more)."
        return f"{said} ({fastest.name}: {_ms(fastest)}, 4K: {_ms(base)})."
    fewer = 100 * (1 - chosen.faults / max(base.faults, 1))
    said = f"Suggest {chosen.name}: {fewer:.0f} % fewer anonymous faults"
    said += f" for {chosen.never_written_mib:.1f} MiB never written"
    saved = chosen.time_ms - fastest.time_ms
    if saved > WORTH_SAYING * base.time_ms:
        more = fastest.never_written_mib - chosen.never_written_mib
        said += f"; {fastest.name} saves {saved:,.1f} ms more for {more:.1f} MiB more"
    return said + "."


def in_pieces(base: Option, options: Iterable[Option]) -> Iterator[str]:
    """A remark on 2M where most of the memory came in pieces that are smaller, and most of the faults with it."""
    for option in options:
        if 2 * option.faults < base.faults:
            continue
        allocated = option.replay.allocated
        pages = {order: count << order for order, count in allocated.items()}
        if option.replay.orders == (PMD_ORDER,) and 2 * pages.get(PMD_ORDER, 0) < sum(pages.values()):
            part = 100 * pages.get(0, 0) / sum(pages.values())
            yield f"2M alone: {part:.0f} % of the memory first touched still comes as 4K (areas too short for more)."


def _ms(option: Option) -> str:
    return f"{option.time_ms:,.1f} ms"


# --- many replays -----------------------------------------------------------------------------------------------------

Task = tuple[tuple[int, ...], Policy]


def replayed(trace: Trace, tasks: Sequence[Task], jobs: int = 1) -> Iterator[Replay]:
    """One replay for each (orders, policy), in order; `jobs` at one time where processes can be forked."""
    if jobs < 2 or len(tasks) < 2 or not forks_safely():
        yield from (_replayed_once(trace, task) for task in tasks)
        return
    with losses_told(), _pool(trace, tasks, min(jobs, len(tasks))) as pool:
        yield from pool.map(_replay_task, range(len(tasks)))


class Ahead:
    """Replays that begin before the recorder has settled its trace, which most often is left as it is.

    `settle` is what a recorder calls; the rest is as for `advise`, whose `policy` has to be this very one.
    """

    def __init__(self, settings: Iterable[Sequence[int]], policy: Policy | None = None, jobs: int = 1) -> None:
        self._settings, self._policy, self._jobs = list(settings), policy, jobs
        self._trace: Trace | None = None
        self._tasks: list[Task] = []
        self._found: list[Future[Replay]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._trace = None
        self._stack.close()

    def settle(self, trace: Trace, takes: npt.NDArray[np.int64]) -> Trace:
        """As `trace.settled`, which replays under 4K, while others do the rest."""
        if self._jobs > 1 and not takes.any() and forks_safely():
            # What was recorded is kept nowhere yet: where no process is to be had, it is replayed later.
            with suppress(OSError, RuntimeError):
                self._begin(trace)
        found = settled(trace, takes)
        if found is not self._trace:
            self.__exit__()
        return found

    def _begin(self, trace: Trace) -> None:
        tasks = tasks_of(trace, self._settings, self._policy)[1:]
        if not tasks:
            return
        pool = self._stack.enter_context(_pool(trace, tasks, min(self._jobs, len(tasks))))
        self._found = [pool.submit(_replay_task, number) for number in range(len(tasks))]
        self._trace, self._tasks = trace, tasks

    def replayed(self, trace: Trace, tasks: Sequence[Task], jobs: int) -> Iterator[Replay]:
        """As `replayed`; what has begun is waited for."""
        if trace is not self._trace or list(tasks[1:]) != self._tasks:
            yield from replayed(trace, tasks, jobs)
            return
        yield trace.single
        with losses_told():
            yield from (found.result() for found in self._found)


_work: tuple[Trace, Sequence[Task]]


@contextmanager
def _pool(trace: Trace, tasks: Sequence[Task], jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Forked processes, which inherit the trace; what each does it is told by its number."""
    global _work
    _work = trace, tasks
    try:
        with forked(jobs) as pool:
            yield pool
    finally:
        del _work


def _replay_task(number: int) -> Replay:
    trace, tasks = _work
    return _replayed_once(trace, tasks[number])


def _replayed_once(trace: Trace, task: Task) -> Replay:
    """A recorder has replayed its trace under single pages already: forked processes inherit that."""
    orders, policy = task
    if not orders and policy == policy_for_kernel(trace.kernel):
        return trace.single
    return replay(trace, orders, policy, points=POINTS)
