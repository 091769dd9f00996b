"""What a run costs: nanoseconds from what was counted, and one row with time, memory held and never written, TLB reach.

A table of costs (``anonfolio-costs/1``, data/costs) holds what one kernel on one machine needed for a page, measured
under single pages and under each size of folio (`live_cost`; ``python -m anonfolio cost measure``). `fit` makes unit
costs of it: so much a fault, so much a page zeroed, an entry copied at fork, a folio let go. What was counted, times
these, is the time: `ns`, in parts `priced`.

A measured price is the median over rounds of what a loop over many pages took for each of them on average; the table's
`about` says how many pages, how many rounds, by which clock and under what load. Memory is at hand: no contention for
locks, no reclaim, no waiting for another CPU's TLB, caches as cold as such a loop leaves them. A fitted price is the
same for every page: how far it misses each measurement is in `Fitted.residuals`. Faults elsewhere than in anonymous
memory, and the program's own work, cost nothing here.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..kernel import given
from ..kernel.contpte import CONT_PTE_ORDER
from ..kernel.pagetable import PMD_HUGE, PTE_CONT, PTE_PRESENT, PTE_SPECIAL
from ..kernel.record import (
    AGED,
    COW_COPY,
    FIRST_TOUCH,
    REUSE,
    UNSHARE_REUSE,
    ZERO_COPY,
    ZERO_READ,
    Counters,
    Fault,
)
from ..kernel.sizes import PMD_ORDER
from ..machine.machine import Machine, Process
from ..program.formats import DATA, read_json
from .tlb import NEOVERSE_N1, UNMAPPED, Coalescing, Contiguous, Core, PageTable, page_table
from .trace import Part, Replay, size_names

FORMAT = "anonfolio-costs/1"
DATA_DIR = DATA / "costs"
PMD_PAGES = 1 << PMD_ORDER

MEASURED = (
    "first_touch", "fork", "cow_copy", "exit_last", "exit_shared", "reuse", "no_fault", "unmap",
    "zero_read", "zero_copy", "copy_page", "clear_page", "read_entry", "protect_entry",
)  # fmt: skip
"""What is measured: per page, in ns. The last six under single pages only."""


COLD = "first_touch_cold"
"""Measured where somebody asked for it, under some sizes: the first touch of memory that was free for long. A host that
takes free memory back must provide it anew; elsewhere it is as ``first_touch``, which finds what was just in use."""
ALLOCATING = ("first_touch", "zero_copy", "cow_copy")
"""What takes new pages."""


class CostError(ValueError):
    """A file that is no table of costs, or a broken one; the message names the file and what is wrong with it."""


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """What was measured on one machine, and where.

    Attributes
    ----------
    machine, kernel, date, compiler : str
        Provenance.
    about : dict
        Further notes: pages a round, rounds, load, how it was measured.
    measured : dict of int to dict of str to list of float
        Per order of the folios (0: single pages) and per name in `MEASURED` the ns per base page of every round.
    """

    machine: str
    kernel: str
    date: str
    compiler: str
    about: dict[str, Any]
    measured: dict[int, dict[str, list[float]]]

    def __post_init__(self) -> None:
        absent = [name for name in MEASURED if name not in self.measured.get(0, {})]
        if absent:
            raise CostError(f"costs of single pages (order 0) lack {', '.join(absent)}")
        for order, row in self.measured.items():
            unknown = [name for name in row if name not in (*MEASURED, COLD)]
            if unknown:
                raise CostError(f"order {order}: {given.said(unknown[0])} is no cost; there are {', '.join(MEASURED)}")
            for name, rounds in row.items():
                if not rounds or not all(map(_is_time, rounds)):
                    raise CostError(
                        f"order {order}, {name}: {given.said(rounds)} are no nanoseconds; each is a number above 0"
                    )

    def ns_per_page(self, name: str, order: int = 0) -> float:
        """The median of the rounds."""
        return statistics.median(self.measured[order][name])

    def orders(self, name: str) -> tuple[int, ...]:
        """Under which orders it was measured, single pages first."""
        return tuple(sorted(order for order, row in self.measured.items() if name in row))

    @property
    def host_ns(self) -> float | None:
        """What the host adds to a page that it provides anew, the same under every size; None where not measured."""
        orders = self.orders(COLD)
        if not orders:
            return None
        return max(
            0.0, statistics.median(self.ns_per_page(COLD, at) - self.ns_per_page("first_touch", at) for at in orders)
        )

    @cached_property
    def cold(self) -> Table | None:
        """The same prices where each page that a fault takes comes from the host; None where that is not known."""
        more = self.host_ns
        if more is None:
            return None
        measured = {
            order: {name: [ns + more * (name in ALLOCATING) for ns in rounds] for name, rounds in row.items()}
            for order, row in self.measured.items()
        }
        return replace(self, about={**self.about, "memory": "cold"}, measured=measured)

    @cached_property
    def fitted(self) -> Fitted:
        """Unit costs, and how well they give back what was measured."""
        return fit(self)

    @property
    def units(self) -> Mapping[str, float]:
        """Nanoseconds per unit, by name; see `UNITS`."""
        return self.fitted.units

    def __str__(self) -> str:
        names = [name for name in (*MEASURED, COLD) if any(name in row for row in self.measured.values())]
        lines = [f"{self.machine}, Linux {self.kernel}, {self.date}, {self.compiler}", "", "ns per 4K page, medians:"]
        lines.append(f"{'':16}" + "".join(f"{size_names((order,)):>9}" for order in sorted(self.measured)))
        for name in names:
            cells = [_cell(self.measured[order].get(name)) for order in sorted(self.measured)]
            lines.append(f"{name:16}" + "".join(cells))
        return "\n".join([*lines, "", str(self.fitted)])


def _is_time(ns: object) -> bool:
    return isinstance(ns, int | float) and not isinstance(ns, bool) and 0 < ns < math.inf


def _cell(rounds: Sequence[float] | None) -> str:
    return f"{statistics.median(rounds):9,.1f}" if rounds else f"{'':9}"


def tables() -> tuple[str, ...]:
    """Names of the stored tables."""
    return tuple(sorted(path.stem for path in DATA_DIR.glob("*.json") if _format_of(path) == FORMAT))


def _format_of(path: Path) -> object:
    content = json.loads(path.read_text())
    return content.get("format") if isinstance(content, dict) else None


def read_table(name: str | Path) -> Table:
    """A stored table by its name (`tables`), or one in a file; CostError says in one line what is wrong with it."""
    path = Path(name) if str(name).endswith(".json") else DATA_DIR / f"{name}.json"
    if not path.exists():
        raise CostError(f"{name}: no such table; stored are {', '.join(tables()) or 'none'}")
    content = read_json(path, FORMAT, CostError)
    try:
        measured = {int(order): dict(row) for order, row in content["measured"].items()}
        machine, kernel, date, compiler = (str(content[key]) for key in ("machine", "kernel", "date", "compiler"))
        return Table(machine, kernel, date, compiler, dict(content["about"]), measured)
    except KeyError as missing:
        raise CostError(f"{path}: {missing} is missing") from None
    except (CostError, TypeError, ValueError, AttributeError) as error:
        raise CostError(f"{path}: {error!s:.400}") from None


def write_table(path: str | Path, table: Table) -> None:
    """Write it, one measurement a line."""
    head = {
        "format": FORMAT, "machine": table.machine, "kernel": table.kernel, "date": table.date,
        "compiler": table.compiler, "about": table.about, "unit": "ns per 4K page, one number a round",
    }  # fmt: skip
    orders = []
    for order, row in sorted(table.measured.items()):
        lines = ",\n   ".join(f'"{name}": {json.dumps([round(each, 2) for each in row[name]])}' for name in row)
        orders.append(f'  "{order}": {{\n   {lines}\n  }}')
    text = json.dumps(head, indent=1)[:-2]
    rows = ",\n".join(orders)
    Path(path).write_text(f'{text},\n "measured": {{\n{rows}\n }}\n}}\n')


# --- unit costs -------------------------------------------------------------------------------------------------------

FAULT_UNITS = {
    FIRST_TOUCH: "first touch",
    ZERO_READ: "zero page read",
    ZERO_COPY: "zero page copy",
    COW_COPY: "cow copy",
    REUSE: "reuse",
    UNSHARE_REUSE: "reuse",
    AGED: "reuse",
}

UNITS = {
    "first touch": "a fault that allocates a folio below 2 MiB, without its pages",
    "first touch of 2 MiB": "a fault that maps one by PMD, zeroing included",
    "zero page read": "a fault that maps the zero page",
    "zero page copy": "a fault that replaces the zero page, without the zeroing",
    "cow copy": "a fault that copies, without the copying",
    "reuse": "a fault that makes a page writable",
    "zeroed page": "a page of a folio: zeroed, its entry set",
    "copied page": "4 KiB copied",
    "scanned entry": "an entry read to find a range",
    "changed entry": "an entry that a fault changes and flushes besides the one that faulted",
    "forked single page": "a folio of one page, copied and write-protected at fork",
    "forked page": "a page of a larger folio, copied and write-protected at fork",
    "forked folio": "such a folio, besides its pages",
    "forked 2 MiB": "a PMD mapping",
    "unmapped single page": "a folio of one page, dropped at exit, still used by others",
    "unmapped page": "a page of a larger folio, dropped at exit, still used by others",
    "unmapped folio": "such a folio, besides its pages",
    "unmapped 2 MiB": "a PMD mapping",
    "freed single page": "a folio of one page, dropped at exit and freed",
    "freed page": "a page of a larger folio, dropped at exit by the last who maps it",
    "freed folio": "such a folio freed, besides its pages",
    "freed 2 MiB": "a PMD mapping and its folio",
}
"""What has a price, and what it is."""


class Residual(NamedTuple):
    """One measurement, and what the unit costs say of it, in ns per base page."""

    name: str
    order: int
    measured: float
    fitted: float

    @property
    def part(self) -> float:
        """Fitted against measured: 0.1 is ten per cent too much."""
        return self.fitted / self.measured - 1


@dataclass(frozen=True)
class Fitted:
    """Unit costs in ns (`UNITS`), and the residual of each measurement they came from."""

    units: dict[str, float]
    residuals: tuple[Residual, ...]

    @property
    def worst(self) -> Residual:
        """The measurement that the unit costs miss by most."""
        return max(self.residuals, key=lambda each: abs(each.part))

    def __str__(self) -> str:
        lines = ["unit costs, ns:"]
        lines += [f"{ns:11,.1f}  {name:21}{UNITS[name]}" for name, ns in self.units.items()]
        names = {each.name: None for each in self.residuals}
        lines += ["", "what they miss by, fitted against measured:"]
        for name in names:
            mine = [each for each in self.residuals if each.name == name]
            lines.append(
                f"{name:14}" + ", ".join(f"{size_names((each.order,))} {100 * each.part:+.0f} %" for each in mine)
            )
        return "\n".join(lines)


_SPANS = {"fork": "forked", "exit_shared": "unmapped", "exit_last": "freed"}
_COPIES = {"cow_copy": "cow copy", "reuse": "reuse"}


def fit(table: Table) -> Fitted:
    """Unit costs from measurements.

    First touch is a straight line: a part per fault, a part per page. So are fork and both kinds of exit over the
    large folios, a part per folio and a part per page; a folio of one page, whose counts are simpler, has a price of
    its own there. The line is the one with the least squared relative error over the orders below 9, neither part
    negative. PMD mappings have no entries per page and prices of their own.
    Copying and reusing faults act on one page under every size in the measured kernel: their price is the median over
    the sizes, less the bare copy. What cannot be told apart by fault counts is measured in bulk: copying pages by
    memcpy, reading entries by mincore, changing them by mprotect.
    """
    units: dict[str, float] = {}
    residuals: list[Residual] = []
    units["scanned entry"] = table.ns_per_page("read_entry")
    units["first touch"], units["zeroed page"] = _line(table, "first_touch", residuals, units["scanned entry"])
    if PMD_ORDER in table.orders("first_touch"):
        units["first touch of 2 MiB"] = table.ns_per_page("first_touch", PMD_ORDER) * PMD_PAGES
    else:
        units["first touch of 2 MiB"] = units["first touch"] + units["zeroed page"] * PMD_PAGES
    units["copied page"] = table.ns_per_page("copy_page")
    units["changed entry"] = table.ns_per_page("protect_entry")
    units["zero page read"] = table.ns_per_page("zero_read")
    units["zero page copy"] = max(0.0, table.ns_per_page("zero_copy") - units["zeroed page"])
    for name, unit in _COPIES.items():
        orders = _below_pmd(table, name)
        typical = statistics.median(table.ns_per_page(name, order) for order in orders)
        residuals += [Residual(name, order, table.ns_per_page(name, order), typical) for order in orders]
        units[unit] = max(0.0, typical - (units["copied page"] if name == "cow_copy" else 0.0))
    for name, verb in _SPANS.items():
        folio, page = _line(table, name, residuals, large=True)
        units |= {f"{verb} single page": table.ns_per_page(name), f"{verb} page": page, f"{verb} folio": folio}
        huge = table.orders(name)[-1] == PMD_ORDER
        units[f"{verb} 2 MiB"] = PMD_PAGES * table.ns_per_page(name, PMD_ORDER) if huge else folio + PMD_PAGES * page
    return Fitted({name: units[name] for name in UNITS}, tuple(residuals))


def _below_pmd(table: Table, name: str) -> list[int]:
    return [order for order in table.orders(name) if order < PMD_ORDER]


def _line(
    table: Table, name: str, residuals: list[Residual], scanned_ns: float = 0.0, large: bool = False
) -> tuple[float, float]:
    """Cost per folio and per page; a fault that makes a large folio has read as many entries first."""
    orders = np.array([order for order in _below_pmd(table, name) if order or not large])
    measured = np.array([table.ns_per_page(name, order) for order in orders.tolist()])
    scanned = np.where(orders > 0, scanned_ns, 0.0)
    shape = np.stack([1 / (1 << orders), np.ones(len(orders))], axis=1)
    folio, page = _least_squares(shape / np.maximum(measured - scanned, 1e-9)[:, None])
    fitted = shape @ np.array([folio, page]) + scanned
    for each in zip(orders.tolist(), measured.tolist(), fitted.tolist(), strict=True):
        residuals.append(Residual(name, *each))
    return folio, page


def _least_squares(shape: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Two numbers, neither negative, that bring every row as close to 1 as can be."""
    both = np.linalg.lstsq(shape, np.ones(len(shape)), rcond=None)[0]
    if len(shape) > 1 and (both >= 0).all():
        return float(both[0]), float(both[1])
    # At the border one of them is zero.
    alone = [float(column.sum() / (column @ column)) for column in shape.T]
    errors = [float(((column * one - 1) ** 2).sum()) for column, one in zip(shape.T, alone, strict=True)]
    return (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])


# --- what was done ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """How much was done of everything that has a price: units by name (`UNITS`). Adds up, and takes a difference.

    Make one with `Work.of` from counters, a fault or a replay, or with `forking` and `exiting` for what no fault
    counts.
    """

    units: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, done: Counters | Fault | Replay | Part | Work) -> Work:
        """What was counted.

        Of a replay all that its faults did, a copy of a block as its pages; forks and exits are not among it.
        """
        if isinstance(done, Work):
            return done
        if isinstance(done, Fault):
            counters = Counters()
            counters.add(done)
            done = counters
        if isinstance(done, (Replay, Part)):
            done = done.counters
        return cls(_counted(done))

    def __add__(self, other: Work) -> Self:
        return type(self)(self.units + other.units)

    def __sub__(self, other: Work) -> Self:
        """What came after `other`, of the same machine, was counted."""
        return type(self)(self.units - other.units)


def _counted(counters: Counters) -> Counter[str]:
    huge = counters.anon_fault_alloc[PMD_ORDER]
    units: Counter[str] = Counter()
    for path, unit in FAULT_UNITS.items():
        units[unit] += counters.faults[path]
    units["first touch"] -= huge
    units["first touch of 2 MiB"] = huge
    units["zeroed page"] = counters.zeroed - huge * PMD_PAGES
    units["copied page"] = counters.copied
    units["scanned entry"] = counters.scanned
    flushing = sum(counters.faults[path] for path in (ZERO_COPY, COW_COPY, REUSE))
    units["changed entry"] = max(0, counters.flushed - flushing)
    return +units


def forking(process: Process) -> Work:
    """What a fork of this process does, as it is now: every entry, and every folio they map.

    A folio in several pieces counts once a piece. Advice (DONTFORK, WIPEONFORK) and pins are not looked at.
    """
    small, huge = _mapped(process)
    return _span("forked", process, small, len(huge))


def exiting(process: Process) -> Work:
    """What the exit of this process does, as it is now: a page that nobody else maps is freed.

    A folio of which others still map a part counts among those that are freed.
    """
    memory = process.machine.memory
    small, huge = _mapped(process)
    alone = memory.mapcount[process.mm.pfn[small]] == 1
    freed, kept = small[alone], small[~alone]
    last = memory.entire_mapcount[memory.folio_of[process.mm.pfn[huge]]] == 1
    freed_huge = int(np.count_nonzero(last))
    return _span("freed", process, freed, freed_huge) + _span("unmapped", process, kept, len(huge) - freed_huge)


def _span(verb: str, process: Process, small: npt.NDArray[np.intp], huge: int) -> Work:
    memory = process.machine.memory
    large = small[memory.order[memory.folio_of[process.mm.pfn[small]]] > 0]
    units = {
        f"{verb} single page": len(small) - len(large),
        f"{verb} page": len(large),
        f"{verb} folio": _pieces(process, large),
        f"{verb} 2 MiB": huge,
    }
    return Work(+Counter(units))


def _mapped(process: Process) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pages that entries of their own map, and the first pages of PMD mappings; the zero pages are not among them."""
    mm = process.mm
    mapped = np.flatnonzero((mm.pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
    huge = mm.pmd[mapped >> PMD_ORDER] == PMD_HUGE
    return mapped[~huge], mapped[huge][::PMD_PAGES]


def _pieces(process: Process, vpns: npt.NDArray[np.intp]) -> int:
    """Runs of consecutive pages that map consecutive pages of one folio (`Mm.folio_runs`)."""
    if not len(vpns):
        return 0
    pfns = process.mm.pfn[vpns]
    folios = process.machine.memory.folio_of[pfns]
    return 1 + int(np.count_nonzero((np.diff(vpns) != 1) | (np.diff(pfns) != 1) | (np.diff(folios) != 0)))


# --- the price --------------------------------------------------------------------------------------------------------


def priced(done: Counters | Fault | Replay | Part | Work, table: Table) -> dict[str, float]:
    """Nanoseconds by unit (`UNITS`), those that occurred."""
    return {unit: count * table.units[unit] for unit, count in Work.of(done).units.items()}


def ns(done: Counters | Fault | Replay | Part | Work, table: Table) -> float:
    """Nanoseconds that the kernel of the table would have needed."""
    return sum(priced(done, table).values())


# --- a run as one row -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One run: its faults, the kernel's time, the memory it holds and what of that it never wrote, its TLB reach.

    Attributes
    ----------
    name : str
        Whatever tells it from the others.
    faults : int
        Page faults in anonymous memory.
    time_ms : float
        Time by the table.
    held_pages, never_written_pages : int
        Frames held (of a replay: at its peak), and how many of them never held a written byte.
    reach_pages : int
        Pages that the core's last TLB level covers when its entries are as those of this run on average: of a replay,
        over all folios that it allocated, as if each stayed mapped whole.
    """

    name: str
    faults: int
    time_ms: float
    held_pages: int
    never_written_pages: int
    reach_pages: int

    def __str__(self) -> str:
        return (
            f"{self.name:>12} {self.faults:>10,} {self.time_ms:>10,.2f} {self.held_pages:>10,} "
            f"{self.never_written_pages:>13,} {self.reach_pages:>10,}"
        )


HEADING = f"{'':12} {'faults':>10} {'time, ms':>10} {'held':>10} {'never written':>13} {'reach':>10}"


def row(
    run: Machine | Replay,
    table: Table,
    *,
    name: str = "",
    core: Core = NEOVERSE_N1,
    coalescing: Coalescing | None = None,
    work: Work | None = None,
) -> Row:
    """Time, memory held, memory never written and TLB reach of a run.

    Parameters
    ----------
    run : Machine or Replay
        A machine's memory is as it is now; never written are frames whose byte is 0, so write other values, and its
        page tables carry a contiguous bit only under a policy that sets it (`Policy.cont_pte_order`). A replay's page
        tables are gone: its reach is that of its folios as they were allocated, mapped whole, on an arm64.
    table : Table
        The prices.
    core, coalescing : Core, Coalescing
        Whose TLB, and what a walk gives it; the contiguous bit by default.
    work : Work, optional
        What was done; by default all that the machine or the replay counted, which leaves out forks and exits.
    """
    coalescing = coalescing or Contiguous()
    done = Work.of(run.counters if isinstance(run, Machine) else run) if work is None else work
    time_ms = ns(done, table) / 1e6
    if isinstance(run, Replay):
        reach = reach_pages(core, entry_orders_of_folios(run.allocated, coalescing))
        return Row(name, run.anonymous, time_ms, run.held_peak_pages, run.never_written_pages, reach)
    memory = run.memory
    never_written = int(np.count_nonzero((memory.folio_of[:] >= 0) & (memory.content == 0)))
    reach = reach_pages(core, entry_orders(run.live(), coalescing))
    return Row(name, sum(run.counters.faults.values()), time_ms, memory.held_pages(), never_written, reach)


def entry_orders(processes: Iterable[Process], coalescing: Coalescing) -> Counter[int]:
    """Pages by the order of the TLB entry that covers them, from the page tables as they are now."""
    pages: Counter[int] = Counter()
    for process in processes:
        for vma in process.mm.vmas:
            known = min(vma.end, len(process.mm.pte))
            if known > vma.start:
                _count_orders(coalescing.orders(page_table(process, vma.start, known - vma.start)), pages)
    return pages


def entry_orders_of_folios(allocated: Mapping[int, int], coalescing: Coalescing) -> Counter[int]:
    """The same for folios that are mapped whole and aligned: `allocated` counts them by order."""
    pages: Counter[int] = Counter()
    for order, count in allocated.items():
        found: Counter[int] = Counter()
        _count_orders(coalescing.orders(_folio_table(order)), found)
        for entry, covered in found.items():
            pages[entry] += covered * count
    return pages


def _folio_table(order: int) -> PageTable:
    size = 1 << order
    bits = PTE_PRESENT | (PTE_CONT if CONT_PTE_ORDER <= order < PMD_ORDER else 0)
    return PageTable(
        0, np.full(size, bits, np.uint8), np.arange(size, dtype=np.int32), np.full(size, order == PMD_ORDER)
    )


def _count_orders(orders: npt.NDArray[np.uint8], pages: Counter[int]) -> None:
    counts = np.bincount(orders, minlength=UNMAPPED + 1)
    for order in np.flatnonzero(counts[:UNMAPPED]).tolist():
        pages[order] += int(counts[order])


def reach_pages(core: Core, pages: Mapping[int, int]) -> int:
    """Pages that the last level of a core covers, each array filled with average entries for what is mapped.

    Parameters
    ----------
    pages : dict of int to int
        Pages by the order of the entry that covers them (`entry_orders`). A size that an array does not keep is kept
        in pieces of the next smaller one.
    """
    kept = sorted(order for array in core.levels[-1] for order in array.orders)
    covered: Counter[int] = Counter()
    for order, count in pages.items():
        covered[max(each for each in kept if each <= order)] += count
    reach = 0.0
    for array in core.levels[-1]:
        mine = {order: covered[order] for order in array.orders if covered[order]}
        entries = sum(count / (1 << order) for order, count in mine.items())
        reach += array.entries * sum(mine.values()) / entries if entries else 0
    return round(reach)
