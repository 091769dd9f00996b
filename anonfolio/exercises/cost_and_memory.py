"""Questions of ``09_cost_and_memory``: ``from anonfolio.exercises import cost_and_memory as q``."""

from __future__ import annotations

import dataclasses
import json
import random
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..hardware.cost import Row, Table, entry_orders_of_folios, priced, reach_pages, read_table, row, tables
from ..hardware.tlb import NEOVERSE_N1, Contiguous
from ..hardware.trace import DATA_DIR as TRACES
from ..hardware.trace import Replay, Setting, Trace, read_measured, read_trace, replay, size_names
from ..kernel.policy import LINUX_6_15, policy_for_kernel
from ..kernel.record import COW_COPY, REUSE
from ..lesson.looking import Unreadable, looking, shown
from ..lesson.quiz import (
    GOES_ON,
    Asked,
    Choice,
    Function,
    Note,
    Number,
    Program,
    Verdict,
    but,
    is_open,
    modelled,
    refused,
)
from ..lesson.topics import asking
from ..lesson.words import Words
from ..machine.machine import Machine
from ..program.formats import DATA
from ..program.scenario import Scenario, Timeline

words = Words(__file__)
more = asking("touch", "copy")

COMPILE = "compile-6.18.44"
LARGEST = "cc1"
"""The program of the compile with the most memory: the compiler proper."""
FRAMES_OF_ONE = 1 << 16
"""Memory for the replay of one of the smaller programs: a smaller machine is sooner set up."""
PRICES = "linux-6.18.44"
PUBLISHED = "large-anon-folios.json"

SIZES: dict[str, tuple[int, ...]] = {size_names(orders): orders for orders in ((), *((each,) for each in range(2, 10)))}
"""One size enabled at a time, by name."""
THEIRS: dict[str, tuple[int, ...]] = {
    "4k-page-16k-folio": (2,), "4k-page-32k-folio": (2, 3), "4k-page-64k-folio": (2, 3, 4),
}  # fmt: skip
"""What the published tables call their kernels, and the orders these had enabled."""

PAGES_PER_MIB = 256

grows = Scenario.parse("""
# A heap of 24 pages that grows to 48. The memory to come is read-only at first, so that no block may cover both.
scenario grows
pages 48
orders 4
mprotect 0 24 24 1
write 0 5 1
write 0 16..23
mprotect 0 24 24 3
write 0 24 25
write 0 31 32
write 0 40 5
""")
left = Scenario.load("one-page-left")


# --- a compile ------------------------------------------------------------------------------------------------------


@cache
def compile_trace() -> Trace:
    """What gcc did to its memory."""
    return read_trace(TRACES / f"{COMPILE}.npz")


@cache
def compile_measured() -> dict[tuple[int, ...], Setting]:
    """What the kernel counted when the same compile ran under other sizes."""
    return {setting.orders: setting for setting in read_measured(TRACES / f"{COMPILE}.json")}


@cache
def prices() -> Table:
    """What things cost on the machine that ran it."""
    return read_table(PRICES)


@cache
def replayed(orders: tuple[int, ...] = (), program: str = "") -> Replay:
    """The compile under these sizes, in the model; only one of its programs if one is named."""
    if program:
        return replay(_only(compile_trace(), program), orders, frames=FRAMES_OF_ONE)
    return replay(compile_trace(), orders)


def _only(trace: Trace, program: str) -> Trace:
    number = next(at for at, process in enumerate(trace.processes) if process["name"] == program)
    mine = trace.process == number
    before = np.concatenate([[0], np.cumsum(mine)])
    calls = tuple(call._replace(at=int(before[call.at])) for call in trace.calls if call.process == number)
    return dataclasses.replace(
        trace, vpn=trace.vpn[mine], process=trace.process[mine], code=trace.code[mine], calls=calls,
        kernel_faults=int(mine.sum()),
    )  # fmt: skip


def kernel_faults() -> list[int]:
    """Per size the faults that the kernel counted (median of its rounds)."""
    return [compile_measured()[orders].median_faults for orders in SIZES.values()]


def model_faults() -> list[int]:
    """Per size the faults of the replay, those in files included."""
    return [replayed(orders).total for orders in SIZES.values()]


def checked() -> str:
    """Per size: faults and peak memory, the model's and the kernel's."""
    base, first = compile_measured()[()], replayed()
    lines = [
        f"{'':6}{'faults:':>10}{'':28}{'peak memory, pages more than 4K:':>36}",
        f"{'':6}{'model':>10}{'kernel':>10}{'differ':>10}{'model':>20}{'kernel':>12}",
    ]
    for name, orders in SIZES.items():
        run, real = replayed(orders), compile_measured()[orders]
        off = 100 * (run.total / real.median_faults - 1)
        rss = (_median(real.peak_rss_kib) - _median(base.peak_rss_kib)) // 4
        lines.append(
            f"{name:6}{run.total:10,}{real.median_faults:10,}{off:+9.2f}%"
            f"{run.held_peak_pages - first.held_peak_pages:20,}{rss:12,}"
        )
    return "\n".join(lines)


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def program_faults(program: str) -> list[int]:
    """Per size the faults of one of the compile's programs, in its anonymous memory."""
    if program != LARGEST:
        return [replayed(orders, program).anonymous for orders in SIZES.values()]
    # Programs share no anonymous memory here: the largest one's are what the others leave.
    others = [process["name"] for process in compile_trace().processes if process["name"] != LARGEST]
    return [
        replayed(orders).anonymous - sum(replayed(orders, other).anonymous for other in others)
        for orders in SIZES.values()
    ]


def growth_of_heaps() -> str:
    """By how many pages the compiler's and the assembler's mappings grow most often, as recorded."""
    trace = compile_trace()
    lines = []
    for number, process in enumerate(trace.processes):
        sizes = Counter(call.pages for call in trace.calls if (call.name, call.process) == ("map", number))
        pages, times = sizes.most_common(1)[0]
        anonymous = process["anonymous_pages"]
        if times > 10:
            lines.append(f"{process['name']:4} ends with {anonymous:6,} pages; it got {pages:3} pages {times:3} times")
    return "\n".join(lines)


# --- time -----------------------------------------------------------------------------------------------------------


def fault_us(order: int) -> float:
    """How long one first touch takes on average, in µs: its pages' share of a long loop, measured."""
    return prices().ns_per_page("first_touch", order) * (1 << order) / 1e3


def one_fault() -> str:
    """What the first touch of a folio costs, and what that is for each of its pages."""
    lines = [f"{'':6}{'one fault, µs':>14}{'a page, ns':>12}{'of 4K':>8}"]
    single = prices().ns_per_page("first_touch")
    for name, orders in SIZES.items():
        order = orders[0] if orders else 0
        page = prices().ns_per_page("first_touch", order)
        lines.append(f"{name:6}{fault_us(order):14.1f}{page:12,.0f}{page / single:8.0%}")
    return "\n".join([*lines, how_measured(), *elsewhere()])


def elsewhere() -> list[str]:
    """What other stored tables say of a page of 64K against one of 4K, a line each."""
    lines = []
    for name in tables():
        table = read_table(name)
        if name != PRICES:
            share = table.ns_per_page("first_touch", 4) / table.ns_per_page("first_touch")
            load = max(table.about["load_before_and_after"])
            lines.append(f"{table.machine}, load {load}: a page of 64K costs {share:.0%} of one of 4K.")
    return lines


def how_measured() -> str:
    """In a sentence, as the table of prices says of itself: what was measured how often, on what, under which load."""
    about = prices().about
    before, after = about["load_before_and_after"]
    mib = about["pages"] // PAGES_PER_MIB
    told = (
        f"Medians of {about['rounds']} rounds over {about['pages']:,} pages each ({mib} MiB); "
        f"{about['clock']}; {prices().machine}, Linux {prices().kernel}, {prices().date}; {about['cpus']} CPUs, load "
        f"{before} before and {after} after."
    )
    return textwrap.fill(told, 100)


def line_against_measured() -> str:
    """The straight line that prices a fault below 2 MiB, and by how much it misses what was measured."""
    fitted = prices().fitted
    touches = [each for each in fitted.residuals if each.name == "first_touch"]
    single = next(each for each in touches if not each.order)
    worst = max(touches, key=lambda each: abs(each.part))
    size = size_names((worst.order,) if worst.order else ())
    told = (
        f"The line: {fitted.units['first touch']:,.0f} ns a fault and {fitted.units['zeroed page']:,.0f} ns a page "
        f"(clearing 4 KiB alone: {prices().ns_per_page('clear_page'):,.0f} ns). For 4K it says {single.fitted:,.0f} ns "
        f"a page, measured {single.measured:,.0f} ({single.part:+.0%}); furthest off for {size}: {worst.part:+.0%}."
    )
    return textwrap.fill(told, 100)


PARTS = ("per fault", "per page (zeroing, PTE, counters)", "2 MiB faults, whole")


def time_parts() -> dict[str, list[float]]:
    """Per part the ms that the compile's anonymous faults cost under each size: counted by the model, priced."""
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    for orders in SIZES.values():
        spent = priced(replayed(orders), prices())
        huge = spent.pop("first touch of 2 MiB", 0.0)
        pages = spent.pop("zeroed page") + spent.pop("scanned entry", 0.0)
        for name, ns in zip(PARTS, (sum(spent.values()), pages, huge), strict=True):
            parts[name].append(ns / 1e6)
    return parts


# --- memory ---------------------------------------------------------------------------------------------------------

MAPPED_PAGES = 32 * PAGES_PER_MIB


def _quarter() -> npt.NDArray[np.int64]:
    chosen: npt.NDArray[np.int64] = np.random.default_rng(9).permutation(MAPPED_PAGES)[: MAPPED_PAGES // 4]
    return chosen


WRITES: dict[str, Callable[[], range | npt.NDArray[np.int64]]] = {
    "every page": lambda: range(MAPPED_PAGES),
    "a quarter, at random": _quarter,
    "one page in 64": lambda: range(0, MAPPED_PAGES, 64),
}
"""Which pages of a mapping of 32 MiB a program writes."""
RUNS = ("the compile", *WRITES)


class Bill(NamedTuple):
    """What a run costs under one size: its row, the pages it wrote, and what a fault of its largest folio takes."""

    row: Row
    written_pages: int
    largest_us: float

    @property
    def held_per_written(self) -> float:
        """Pages held for each page written."""
        return self.row.held_pages / self.written_pages


@cache
def bill(run: str, size: str) -> Bill:
    """The compile, or one of `WRITES`, under one size."""
    orders = SIZES[size]
    if run == "the compile":
        done = replayed(orders)
        return Bill(row(done, prices(), name=size), done.touched_pages, fault_us(max(done.allocated)))
    machine = Machine(LINUX_6_15, orders=orders, frames=4 * MAPPED_PAGES)
    process = machine.spawn()
    process.mmap(MAPPED_PAGES)
    process.touch(WRITES[run](), value=1)
    allocated = machine.counters.anon_fault_alloc
    # All folios are mapped whole and aligned, so what an arm64 would make of them follows from their sizes.
    reach = reach_pages(NEOVERSE_N1, entry_orders_of_folios(allocated, Contiguous()))
    made = dataclasses.replace(row(machine, prices(), name=size), reach_pages=reach)
    return Bill(made, len(WRITES[run]()), fault_us(max(allocated)))


def bills(run: str) -> str:
    """What a run costs under each size."""
    lines = [
        f"{run:22}{'faults':>8}{'time, ms':>10}{'largest, µs':>13}{'held':>8}{'never written':>15}{'reach, MiB':>12}"
    ]
    for size in SIZES:
        cost, _, largest = bill(run, size)
        lines.append(
            f"{size:22}{cost.faults:8,}{cost.time_ms:10.1f}{largest:13.1f}{cost.held_pages:8,}{cost.never_written_pages:15,}"
            f"{cost.reach_pages / PAGES_PER_MIB:12.0f}"
        )
    return "\n".join(lines)


def over_sizes(of: Callable[[Bill], float]) -> dict[str, list[float]]:
    """Per run something of its bill under each size."""
    return {run: [of(bill(run, size)) for size in SIZES] for run in RUNS}


def fault_share(run: str) -> list[float]:
    """Faults per 100 faults of the same run with 4K alone."""
    return [100 * bill(run, size).row.faults / bill(run, "4K").row.faults for size in SIZES]


def mapped_and_held(views: Mapping[str, Sequence[Any]]) -> tuple[int, int]:
    """Of a recorded moment: how many pages all processes map, and how many pages their folios have."""
    cells = [cell for view in views.values() for cell in view if isinstance(cell, list)]
    return len(cells), sum({folio: size for folio, _, size, _ in cells}.values())


KEPT = {"one-page-left": 17, "half-unmapped": 17, "hole-refilled-64k-only": 19}
"""Recorded programs, and after which of their steps something is held that nobody maps."""


def kept_for_nothing(kernels: Iterable[str] = ("6.12", "6.18", "7.3")) -> str:
    """At those moments on real kernels: pages mapped, pages of the folios they belong to, what the model says."""
    lines = [f"{'after':28}{'':16}{'Linux':>6}{'mapped':>8}{'held':>6}{'model':>10}"]
    for name, steps in KEPT.items():
        program = Scenario.load(name)
        step = " ".join(map(str, program.steps[steps - 1]))
        for kernel in kernels:
            mapped, holds = mapped_and_held(program.recorded(kernel).steps[steps - 1]["view"])
            mine = program.run(policy_for_kernel(kernel))[steps - 1].snapshot
            same = "the same" if (mine.rss_pages, mine.held_pages) == (mapped, holds) else "differs"
            lines.append(f"{name:28}{step:16}{kernel:>6}{mapped:8}{holds:6}{same:>10}")
    return "\n".join(lines)


# --- what others published ------------------------------------------------------------------------------------------


@cache
def published(name: str) -> dict[str, Any]:
    """One of the published tables, by name, with its source and its machine."""
    content = json.loads((DATA / "published" / PUBLISHED).read_text(encoding="utf-8"))
    tables: list[dict[str, Any]] = content["tables"]
    for table in tables:
        if table["name"] == name:
            return table
    raise ValueError(f"{name!r} is none of {', '.join(table['name'] for table in tables)}")


def figure(name: str, line: str, column: str) -> float | None:
    """One number of a published table."""
    table = published(name)
    at: int = table["columns"].index(column)
    values: dict[str, list[float | None]] = dict(table["rows"])
    return values[line][at]


def beside() -> str:
    """A published table, in per cent against 4K pages, and beside it ours for the same sizes."""
    table, base = published("v6-j8"), replayed()
    base_ms = sum(part[0] for part in time_parts().values())
    lines = [
        f"{'':18}{'theirs: building Linux':>33}{'':4}{'ours: one compile, model':>30}",
        f"{'':18}{'wall-clock':>12}{'in kernel':>11}{'memory':>10}{'':4}{'faults':>8}{'fault time':>13}{'memory':>9}",
    ]
    for name, values in table["rows"]:
        theirs = f"{values[0]:+11.1f}%{values[1]:+10.1f}%{values[3]:+9.1f}%"
        ours = f"{'-':>8}{'-':>13}{'-':>9}"
        if name in THEIRS:
            run = replayed(THEIRS[name])
            ms = sum(priced(run, prices()).values()) / 1e6
            ours = (
                f"{_more(run.anonymous, base.anonymous):+7.1f}%{_more(ms, base_ms):+12.1f}%"
                f"{_more(run.held_peak_pages, base.held_peak_pages):+8.1f}%"
            )
        lines.append(f"{name:18}{theirs}{'':4}{ours}")
    source = f"theirs: {table['by']}, {table['date']}, {table['machine']}, {table['what']},\n  {table['source']}"
    mine = f"ours: {prices().machine}, Linux {prices().kernel}"
    return "\n".join([*lines, "", source, mine])


def _more(value: float, base: float) -> float:
    return 100 * (value / base - 1)


def copies_against_reuses() -> str:
    """How much dearer a fault that copies is than one that reuses: derived from a published figure, and ours."""
    table = published("mm-id")
    saved = figure("mm-id", "64K", "reuse-byte")
    assert saved is not None
    theirs = 1 / (1 + saved / 100)
    ours = prices().ns_per_page("cow_copy", 4) / prices().ns_per_page("reuse", 4)
    return "\n".join(
        f"{which:7}{times:4.1f} times a reuse ({where})"
        for which, times, where in (
            ("theirs", theirs, f"derived from {saved:+.0f} %: {table['by']}, {table['date']}, {table['machine']}"),
            ("ours", ours, f"{prices().machine}, Linux {prices().kernel}"),
        )
    )


# --- programs that fork ---------------------------------------------------------------------------------------------

FORKING = {
    "make": "make-6.18.44", "server": "server-6.18.44", "database": "database-6.18.44-1", "objects": "objects-6.18.44",
}  # fmt: skip
"""Recorded programs: a make, a pre-forking server, a database that saves in a child, objects without a fork."""
AFTER_FORK = {"6.8": "linux-6.8", "6.9": "linux-6.9", "6.15": "linux-6.15", "RFC v2": "rfc-v2-fixed"}
"""Rules of reuse and copy, by the release that had them; RFC v2 as repaired."""
FORK_SIZE = (4,)


@cache
def forking(program: str, rule: str = "6.15") -> Replay:
    """One of the programs under 64K and the rule of a release."""
    return replay(read_trace(TRACES / f"{FORKING[program]}.npz"), FORK_SIZE, AFTER_FORK[rule])


def after_fork() -> str:
    """Per program and rule: write faults on what fork shared, what they copied, and the price of all faults."""
    lines = [f"{'64K':10}{'rule':>8}{'copies':>9}{'of pages':>10}{'reuses':>8}{'time, ms':>10}{'peak, pages':>13}"]
    for program in FORKING:
        for rule in AFTER_FORK:
            done = forking(program, rule)
            ms = sum(priced(done, prices()).values()) / 1e6
            copies, reuses = done.counters.faults[COW_COPY], done.counters.faults[REUSE]
            lines.append(
                f"{program if rule == '6.8' else '':10}{rule:>8}{copies:9,}{done.counters.copied:10,}{reuses:8,}"
                f"{ms:10.1f}{done.held_peak_pages:13,}"
            )
    return "\n".join(lines)


def by_process(program: str = "server") -> str:
    """Per process of a program under 64K: faults by model and kernel, copies, and how far its memory grew over 4K."""
    name = FORKING[program]
    stored = read_measured(TRACES / f"{'-'.join(name.split('-')[:2])}.json")
    small, large = ({each.orders: each for each in stored}[orders].processes for orders in ((), FORK_SIZE))
    single, found = replay(read_trace(TRACES / f"{name}.npz")), forking(program)
    lines = [
        f"{program:18}{'faults':>8}{'kernel':>8}{'copies':>8}   more memory than 4K, KiB: {'model':>6}{'kernel':>8}"
    ]
    for number, part in enumerate(found.processes):
        counted = _median([one[number].anonymous for one in large])
        more = 4 * (part.rss_peak_pages - single.processes[number].rss_peak_pages)
        peaks = [_median([one[number].peak_rss_kib for one in rounds]) for rounds in (small, large)]
        name = f"{number} {part.name}"
        lines.append(
            f"{name:18}{part.anonymous:8,}{counted:8,}{part.counters.faults[COW_COPY]:8,}"
            f"{more:36,}{peaks[1] - peaks[0]:8,}"
        )
    return "\n".join(lines)


# --- predictions ----------------------------------------------------------------------------------------------------

OFFERED = {"a": "16K", "b": "64K", "c": "256K", "d": "2M"}


def _best() -> str:
    return min(OFFERED, key=lambda letter: compile_measured()[SIZES[OFFERED[letter]]].median_faults)


best = Choice(**words("best"), truth=_best)


def _cheaper() -> str:
    part = prices().ns_per_page("first_touch", 4) / prices().ns_per_page("first_touch")
    return "a" if part < 0.12 else "b" if part < 0.45 else "c" if part < 0.8 else "d"


cheaper = Choice(**words("cheaper"), truth=_cheaper)

BOUND_WRITES = 128


def _bound(writes: int = BOUND_WRITES) -> int:
    machine = Machine(LINUX_6_15, orders=(4,), frames=1 << 14)
    process = machine.spawn()
    process.mmap(writes * 64)
    process.touch(range(0, writes * 64, 64), value=1)
    return machine.memory.held_pages() - writes


bound = Number(
    **words("bound"),
    prompt=f"64 KiB is enabled. A program writes {BOUND_WRITES} pages of a large mapping, no two in the same 64 KiB. "
    "How many pages does it then hold that it has never written?",
    truth=_bound,
)


# --- exercises ------------------------------------------------------------------------------------------------------

HOARD_PAGES, HOARD_GOAL = 16, 31
hoards = Scenario.parse("""
scenario hoards
pages 16
orders 4
write 0 15 1
madvise 0 0 15 dontneed
write 0 0..14
""")
hoards_more = Scenario.parse("""
# With three sizes each smaller folio can be kept by its last page too.
scenario hoards-more
pages 16
orders 4 3 2
write 0 15 1
madvise 0 0 15 dontneed
write 0 7 1
madvise 0 0 7 dontneed
write 0 11 1
madvise 0 8 3 dontneed
write 0 3 1
madvise 0 0 3 dontneed
write 0 0..14
""")


def held(timeline: Timeline) -> int:
    """Pages that are held after a timeline's last step."""
    return timeline[-1].snapshot.held_pages if len(timeline) else 0


def _hoards(scenario: Scenario) -> Verdict:
    if scenario.pages > HOARD_PAGES:
        told = f"The mapping may have {HOARD_PAGES} pages; yours has {scenario.pages}."
        return Verdict(False, (told,), head="Too large.")
    timeline = scenario.run(LINUX_6_15)
    if failed := refused(timeline):
        return failed
    if not len(timeline):
        return Verdict(False, ("It has no steps, so it holds nothing.",), head="It does nothing.")
    end, holds = timeline[-1].snapshot, held(timeline)
    told = f"{holds} pages held for a mapping of {scenario.pages}; RSS is {end.rss_pages}."
    if holds >= HOARD_GOAL:
        most = held(hoards_more.run(LINUX_6_15))
        more = f"With smaller sizes enabled too, {most} are possible." if holds < most else "More is not known to us."
        return Verdict(True, (told, more), timeline.show(-1), f"{holds} pages held.")
    if holds <= HOARD_PAGES and end.waste_pages == 0:
        told += " Drop most of a folio, so that it must stay."
    elif end.waste_pages and any(step[0] == "munmap" for step in scenario.steps):
        told += (
            f" {end.waste_pages} are mapped by nobody, and kept. But munmap took the addresses away, too; which word "
            "drops pages and leaves the mapping?"
        )
    elif end.waste_pages:
        told += f" {end.waste_pages} are mapped by nobody, and kept; now use the dropped addresses again."
    return Verdict(False, (told,), timeline.show(-1), f"That holds {holds}, fewer than {HOARD_GOAL}.")


hoard = Program(
    **words("hoard"),
    prompt=f"Make a mapping of {HOARD_PAGES} pages hold at least {HOARD_GOAL}: one process, no fork, no move. Words: "
    "`pages 16`, `orders 4`, `write 0 0..15`, `write 0 3 1` (byte 1 to page 3), `madvise 0 4 8 dontneed` "
    "(8 pages from page 4), `munmap 0 4 8`.",
    judge=_hoards,
    worked=lambda: hoards,
    may=("write", "read", "madvise", "munmap", "mprotect"),
)


def never_written(order: int, writes: Sequence[int], mapping: range) -> int:
    """How many pages are held and never written once these pages were written, with this order enabled."""
    size = 1 << order
    idle = 0
    for block in {page // size for page in writes}:
        pages = range(block * size, (block + 1) * size)
        if mapping.start <= pages.start and pages.stop <= mapping.stop:
            idle += size - len(set(writes) & set(pages))
    return idle


def _scenario(order: int, writes: Sequence[int], mapping: range) -> Scenario:
    steps = tuple(("write", 0, page - mapping.start, 1) for page in writes)
    return Scenario(len(mapping), steps, (order,), skew=mapping.start, name="never-written")


def _some_writes(source: random.Random) -> Mapping[str, Any]:
    start = source.choice((0, 0, 1, 3, 4, 6, 8))
    mapping = range(start, start + source.randint(4, 60))
    count = min(source.choice((1, 2, 3, 6)), len(mapping))
    writes = source.sample(mapping, count)
    if source.random() < 0.4:  # neighbours, and the same page again
        writes += [page for page in (writes[0] + 1, writes[0]) if page in mapping]
    return {"order": source.choice((2, 3, 4)), "writes": writes, "mapping": mapping}


def _one_a_block(order: int, writes: Sequence[int], mapping: range) -> int:
    return never_written(order, list({page >> order: page for page in writes}.values()), mapping)


def _from_start_of_mapping(order: int, writes: Sequence[int], mapping: range) -> int:
    return never_written(order, [page - mapping.start for page in writes], range(len(mapping)))


unwritten = Function(
    **words(
        "unwritten",
        no_edges=but(never_written, mapping=range(-512, 512)),
        folio_a_write=lambda writes, **of: sum(never_written(writes=[page], **of) for page in set(writes)),
        again_counts=lambda writes, **of: never_written(writes=writes, **of) + len(set(writes)) - len(writes),
        all_held=lambda writes, **of: never_written(writes=writes, **of) + len(set(writes)),
        from_start_of_mapping=_from_start_of_mapping,
        one_a_block=_one_a_block,
        bounded=lambda order, **_: (1 << order) - 1,
    ),
    **modelled(_scenario, LINUX_6_15, lambda machine, writes, **_: machine.memory.held_pages() - len(set(writes))),
    case=_some_writes,
    worked=never_written,
    count=200,
)

FAULTS, MEMORY, LATENCY = "faults", "memory", "latency"
REASONS = {
    FAULTS: "it takes more faults", MEMORY: "it holds more than allowed", LATENCY: "one fault takes too long",
}  # fmt: skip
LARGEST_US = 45.0
MOST_PER_WRITTEN = 1.25


@dataclass(frozen=True)
class Job:
    """A program, what it must not do, and which reason that is; of the sizes that keep to it the fewest faults win."""

    run: str
    story: str
    keeps: Callable[[Bill], bool] = field(default=lambda _: True)
    reason: str = FAULTS

    def best(self) -> str:
        """The size to choose."""
        fitting = [size for size in SIZES if self.keeps(bill(self.run, size))]
        return min(fitting, key=lambda size: bill(self.run, size).row.faults)

    def against_next(self) -> str:
        """What speaks against the next larger size."""
        larger = _next(self.best())
        return FAULTS if self.keeps(bill(self.run, larger)) else self.reason


def _next(size: str) -> str:
    names = list(SIZES)
    return names[min(names.index(size) + 1, len(names) - 1)]


JOBS = {
    "a": Job("the compile", "the compile; no limits"),
    "b": Job(
        "a quarter, at random",
        "a store that writes a random quarter of its 32 MiB; it may hold at most 1.25 pages for each page written",
        lambda each: each.held_per_written <= MOST_PER_WRITTEN,
        MEMORY,
    ),
    "c": Job(
        "every page",
        "a server that writes all of its 32 MiB; no size of fault may take longer than 45 µs on average (first touch, "
        "as measured)",
        lambda each: each.largest_us <= LARGEST_US,
        LATENCY,
    ),
}


@dataclass(eq=False, kw_only=True, repr=False)
class Choosing(Asked):
    """A size for each of several programs, and what speaks against the next larger one."""

    kind = "pairs"

    jobs: Mapping[str, Job]
    kept: dict[str, tuple[str, str]] = field(default_factory=dict)

    def check(self, **given: Any) -> Note:
        """Judge what is answered: ``a=("64K", "faults")``."""
        try:
            with looking():
                said = {letter: self._read(letter, answer) for letter, answer in given.items() if not is_open(answer)}
        except Unreadable as error:
            return self._unread(str(error))
        if not said:
            note = self._asked(f"Not answered yet: put a size and a reason, such as `a={_SUCH}`. {GOES_ON}")
            return self._by_hand(note, "check")
        self.kept.update(said)
        return self._noted(lambda: {letter: list(pair) for letter, pair in self.kept.items()}, self._judged(said))

    def _unread(self, why: str) -> Note:
        return Note("wrong", f"Cannot read that answer: {why}", (f"Such as `{self.name}.check(a={_SUCH})`.",))

    def _judged(self, said: Mapping[str, tuple[str, str]]) -> Note:
        told = {letter: self._judge(letter, *answer) for letter, answer in said.items()}
        right = sum(not line for line in told.values())
        half = [letter for letter, (size, _) in said.items() if told[letter] and size == self.jobs[letter].best()]
        head = f"{right} of {len(self.jobs)} right" + (f"; {', '.join(half)}: size right, reason not." if half else ".")
        still = [letter for letter in self.jobs if letter not in said]
        lines = [f"- {letter}: {line}" for letter, line in told.items() if line]
        lines += [f"Still open: {', '.join(still)}."] if still else []
        lines += self._why(said) if right == len(said) else []
        return Note("right" if right == len(said) else "wrong", head, tuple(lines))

    def solution(self) -> Note:
        """Every size and why, folded where HTML is shown."""
        return self._solved(Note("tell", f"Solution of `{self.name}`", self._solved_lines(), fold=True))

    def _solved_lines(self) -> tuple[str, ...]:
        return tuple(self._why(self.jobs))

    def _asks(self) -> dict[str, Any]:
        stories = {letter: job.story for letter, job in self.jobs.items()}
        return {"cases": stories, "sizes": list(SIZES), "reasons": REASONS}

    def _judges(self) -> dict[str, Any]:
        pairs = {
            letter: {
                "best": job.best(),
                "said": {f"{size} {why}": self._judge(letter, size, why) for size in SIZES for why in REASONS},
                "why": self._why([letter])[0],
            }
            for letter, job in self.jobs.items()
        }
        return {**super()._judges(), "pairs": pairs}

    def forget(self) -> None:
        """As if it had never been asked."""
        super().forget()
        self.kept.clear()

    def _why(self, letters: Iterable[str]) -> list[str]:
        lines = []
        for letter in letters:
            job = self.jobs[letter]
            size, larger = job.best(), _next(job.best())
            lines.append(f"- {letter}: {size}. {_bill_in_words(job, size)} Against {larger}: {job.against_next()}. "
                         f"{_bill_in_words(job, larger)}")  # fmt: skip
        return lines

    def _asked(self, *more: str) -> Note:
        listed = tuple(f"- {letter}: {job.story}" for letter, job in self.jobs.items())
        reasons = ", ".join(f"`{name}` ({what})" for name, what in REASONS.items())
        names = ", ".join(f"`{size}`" for size in SIZES)
        return Note("ask", self.prompt, (*listed, f"Sizes: {names}.", f"Against the next larger: {reasons}.", *more))

    def _read(self, letter: str, answer: Any) -> tuple[str, str]:
        if letter not in self.jobs:
            raise Unreadable(f"there is no program {shown(letter)}; there are {', '.join(self.jobs)}.")
        if isinstance(answer, str) or not isinstance(answer, Sequence) or len(answer) != 2:
            raise Unreadable(f"{letter}={shown(answer)} is not a size and a reason.")
        size = shown(answer[0], str).upper().replace(" ", "").removesuffix("IB").removesuffix("B")
        reason = shown(answer[1], str).lower()
        if size not in SIZES:
            raise Unreadable(f"{shown(answer[0])} is none of {', '.join(SIZES)}.")
        if reason not in REASONS:
            raise Unreadable(f"{shown(answer[1])} is none of {', '.join(REASONS)}.")
        return size, reason

    def _judge(self, letter: str, size: str, reason: str) -> str:
        """What is wrong with a choice; nothing if it is right."""
        job = self.jobs[letter]
        mine = bill(job.run, size)
        right = job.best()
        if not job.keeps(mine):
            return f"{size} breaks the limit. {_bill_in_words(job, size)}"
        if size != right and list(SIZES).index(size) > list(SIZES).index(right):
            return f"Bigger is not better here: {mine.row.faults:,} faults, and a smaller size takes fewer."
        if size != right:
            return f"{size} takes {mine.row.faults:,} faults; a larger one that keeps to the limits takes fewer."
        if reason != job.against_next():
            larger = _next(size)
            return f"{size} is right, but `{reason}` is not what speaks against {larger}. {_bill_in_words(job, larger)}"
        return ""


_SUCH = '("4K", "memory")'


def _bill_in_words(job: Job, size: str) -> str:
    mine = bill(job.run, size)
    return (
        f"{size}: {mine.row.faults:,} faults, {mine.held_per_written:.2f} pages held for each one written, "
        f"{mine.largest_us:.1f} µs on average for a fault of its largest folio."
    )


choose = Choosing(**words("choose"), jobs=JOBS)
