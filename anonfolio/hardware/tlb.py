"""What the TLB makes of a page table: how many pages one entry covers, and which accesses find one.

A page-table walk gives an entry of some order: 0 for one page, 4 for a block of 16 that carries arm64's contiguous bit,
9 for a PMD. Which order depends on what the machine can put together (`Plain`, `Contiguous`, `Hpa`). A `Tlb` holds such
entries in one or two levels, each level in one or more arrays with a fixed number of entries, and replaces the least
recently used. Our sources do not give the rule by which real cores replace, which is why hit rates here are a model's.

Not modelled: several address spaces at once (no ASIDs), page-walk caches, prefetching of entries, the instruction side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..kernel import given
from ..kernel.contpte import CONT_PTE_ORDER, gathered
from ..kernel.given import check_kind, said
from ..kernel.pagetable import PTE_CONT, PTE_PRESENT, PTE_SPECIAL
from ..kernel.record import Fault
from ..kernel.sizes import MAX_VPN, PMD_ORDER
from ..machine.machine import Process
from .checks import whole, whole_row
from .lru import Lru

Orders = npt.NDArray[np.uint8]

UNMAPPED = 255
"""Order of a page that nothing maps: no walk ends there, it faults."""


class PageTable(NamedTuple):
    """Entries of consecutive pages, as arrays of shape (pages,).

    `pte` are entry bits (uint8), `pfn` the frames (int32), `huge` whether a PMD maps the page (bool); `start` is the
    first page number.
    """

    start: int
    pte: npt.NDArray[np.uint8]
    pfn: npt.NDArray[np.int32]
    huge: npt.NDArray[np.bool_]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Pages that map anything."""
        return (self.pte & PTE_PRESENT) > 0

    def seen(self) -> npt.NDArray[np.uint8]:
        """The entries as the kernel reads them: a contiguous block's accessed and dirty bits are one for all 16.

        The hardware sets them in any entry of the block, so readers take the OR over it (`contpte_ptep_get`,
        arch/arm64/mm/contpte.c, 6.9 and later).
        """
        first, blocks = _blocks(self, CONT_PTE_ORDER)
        seen = self.pte.copy()
        seen[first : first + blocks.size] = gathered(blocks.reshape(-1))
        return seen


def page_table(process: Process, start: int, pages: int) -> PageTable:
    """The entries of pages [start, start + pages) of a process, as they are now."""
    check_kind("process", process, Process)
    mm = process.mm
    start, pages = whole("page", start), whole("pages", pages, 1)
    stop = start + pages
    if stop > len(mm.pte):
        raise ValueError(f"pages {start} to {stop - 1} do not lie in the {len(mm.pte)} pages mapped so far")
    span = slice(start, stop)
    huge = np.repeat(mm.pmd[start >> PMD_ORDER : -(-stop >> PMD_ORDER)] == 2, 1 << PMD_ORDER)
    huge = huge[start & ((1 << PMD_ORDER) - 1) :][:pages]
    return PageTable(start, mm.pte[span].copy(), mm.pfn[span].copy(), huge)


# --- what one entry covers ------------------------------------------------------------------------------------------


class Coalescing(Protocol):
    """How a machine makes one entry of several pages."""

    @property
    def name(self) -> str:
        """What it is called."""

    def orders(self, table: PageTable) -> Orders:
        """Per page the order of the entry that a walk for it gives, 255 where nothing is mapped."""


@dataclass(frozen=True)
class Plain:
    """One entry a page, or a PMD. Contiguous memory alone gains nothing."""

    name: str = "plain"

    def orders(self, table: PageTable) -> Orders:
        """0 or 9 per mapped page."""
        return np.where(table.present, np.where(table.huge, PMD_ORDER, 0), UNMAPPED).astype(np.uint8)


@dataclass(frozen=True)
class Contiguous:
    """arm64's contiguous bit: software says that 16 entries are alike, and the TLB may keep one for all."""

    name: str = "contiguous bit"

    def orders(self, table: PageTable) -> Orders:
        """4 where the bit is set."""
        folded = (table.pte & PTE_CONT) > 0
        return np.where(folded, CONT_PTE_ORDER, Plain().orders(table)).astype(np.uint8)


@dataclass(frozen=True)
class Hpa:
    """Hardware page aggregation: the walker itself joins neighbours that are alike, without being told.

    Parameters
    ----------
    order : int
        So many pages as a power of two at most: 1 to 3. Arm says 2 to 8 pages, "typically up to 4".
    compares : int
        The entry bits that must agree. Not published; by default all, accessed and dirty included, as Arm's engineers
        say that pages whose bits differ lose by it (linux-mm, 1 March 2023).

    Notes
    -----
    That groups are aligned in both address spaces is not published either; it is what a comparison of tags needs.
    """

    order: int = 2
    compares: int = 0xFF
    name: str = "HPA"

    def __post_init__(self) -> None:
        whole("HPA joins 2 to 8 pages; order", self.order, 1, 3)
        whole("compares", self.compares, 0, 0xFF)

    def orders(self, table: PageTable) -> Orders:
        """The largest order up to `order` whose aligned group maps consecutive, aligned frames with equal bits."""
        orders = Plain().orders(table)
        whole = table.present & ~table.huge & ((table.pte & PTE_SPECIAL) == 0)
        for order in range(1, self.order + 1):
            first, bits = _blocks(table, order)
            size = 1 << order
            groups = slice(first, first + bits.size)
            pfn = table.pfn[groups].reshape(-1, size)
            alike = whole[groups].reshape(-1, size).all(axis=1) & (pfn[:, 0] % size == 0)
            alike &= (np.diff(pfn, axis=1) == 1).all(axis=1)
            alike &= ((bits ^ bits[:, :1]) & self.compares == 0).all(axis=1)
            orders[groups].reshape(-1, size)[alike] = order
        return orders


def _blocks(table: PageTable, order: int) -> tuple[int, npt.NDArray[np.uint8]]:
    """Where the first whole aligned group of 2 ** order pages begins, and the groups' bits, one group a row."""
    size = 1 << order
    first = min(-table.start % size, len(table.pte))
    count = (len(table.pte) - first) // size
    return first, table.pte[first : first + count * size].reshape(count, size)


# --- geometries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entries:
    """One array of a TLB: how many entries, how many ways (all by default), and which page sizes, as orders."""

    entries: int
    ways: int | None = None
    orders: tuple[int, ...] = tuple(range(PMD_ORDER + 1))

    def __post_init__(self) -> None:
        Lru(self.entries, self.ways)
        if not isinstance(self.orders, tuple) or not self.orders:
            raise ValueError(f"orders={given.said(self.orders)} must be a tuple of some of 0 to {PMD_ORDER}")
        for order in self.orders:
            whole("orders", order, 0, PMD_ORDER)


@dataclass(frozen=True)
class Core:
    """A core's data TLBs.

    Attributes
    ----------
    levels : tuple of tuples of Entries
        The arrays of the first level, then of the second; no order twice in a level, and order 0 in each.
    source : str
        Where the numbers are from.
    inferred : str
        What our sources do not give, or the model cannot hold, or "".

    Notes
    -----
    Reach is an upper bound, for a second level serves more than data pages. The A76's 1,280 entries are shared by
    instructions and data and hold intermediate steps of walks too (its manual, A5.2.3); Zen 2's second level is said to
    hold PDEs besides (that source was not read here).
    """

    name: str
    levels: tuple[tuple[Entries, ...], ...]
    source: str = ""
    inferred: str = ""

    def __post_init__(self) -> None:
        check_kind("name", self.name, str)
        check_kind("levels", self.levels, tuple)
        if not self.levels:
            raise ValueError(f"{self.name}: a TLB needs at least one level")
        for number, level in enumerate(self.levels, 1):
            check_kind(f"level {number}", level, tuple)
            for array in level:
                check_kind(f"an array of level {number}", array, Entries)
            orders = [order for array in level for order in array.orders]
            if len(set(orders)) != len(orders):
                raise ValueError(f"{self.name}: an order is in two arrays of level {number}: {sorted(orders)}")
            if 0 not in orders:
                raise ValueError(f"{self.name}: level {number} has no array for single pages (order 0)")

    def reach_pages(self, order: int) -> int:
        """Pages that the last level covers when all its entries for that order are in use."""
        whole("order", order, 0, PMD_ORDER)
        return max(
            array.entries << fits
            for array in self.levels[-1]
            for fits in [max((each for each in array.orders if each <= order), default=0)]
        )


_ARM = (0, 2, 4, 9)

CORTEX_A76 = Core(
    "Cortex-A76",
    ((Entries(48, orders=_ARM),), (Entries(1280, 5, _ARM),)),
    "Cortex-A76 Technical Reference Manual, A5.2: sizes 4K, 16K, 64K, 2M, 512M in 48 entries; 4K to 1G in 1,280, 5-way",
)
NEOVERSE_N1 = Core(
    "Neoverse N1",
    CORTEX_A76.levels,
    CORTEX_A76.source,
    "that the N1 (Ampere Altra, on which the published tables were measured) is as its sibling, the A76",
)
ZEN_2 = Core(
    "Zen 2",
    ((Entries(64, orders=(0, 9)),), (Entries(2048, 16, (0, 9)),)),
    "WikiChip, Zen 2: 64 entries, all sizes, fully associative; 2,048 entries for 4K and 2M",
    "16 ways in the second level where WikiChip has 12, which does not divide 2,048; no joining of pages",
)
GOLDEN_COVE = Core(
    "Golden Cove",
    ((Entries(96, 6, (0,)), Entries(32, 4, (9,))), (Entries(2048, 16, (0, 9)),)),
    "Secondary: an article on Golden Cove (cpunews), notes on Hennessy and Patterson, 7th edition, for the i9-12900: "
    "96 entries for loads of 4K pages, 32 for 2M; 2,048 entries, 16-way",
    "6 and 4 ways in the first level",
)
CORES = (CORTEX_A76, NEOVERSE_N1, ZEN_2, GOLDEN_COVE)


# --- running --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lookups:
    """What happened to a row of accesses.

    Attributes
    ----------
    level : ndarray of shape (n,), uint8
        Where each found its entry: 1, 2, or one more than there are levels for a page-table walk.
    levels : int
        How many levels there are.
    """

    level: npt.NDArray[np.uint8]
    levels: int

    @property
    def walks(self) -> int:
        """Accesses that needed a page-table walk."""
        return int(np.count_nonzero(self.level > self.levels))

    def misses(self, level: int = 1) -> int:
        """Accesses that did not find their entry in that level or one before."""
        return int(np.count_nonzero(self.level > whole("level", level, 1, self.levels)))


@dataclass
class Tlb:
    """The data TLBs of one core, and what is in them.

    Parameters
    ----------
    core : Core
        Their geometry.
    coalescing : Coalescing
        What a walk gives.
    """

    core: Core
    coalescing: Coalescing = field(default_factory=Plain)

    def __post_init__(self) -> None:
        check_kind("core", self.core, Core)
        if isinstance(self.coalescing, type) or not callable(getattr(self.coalescing, "orders", None)):
            raise ValueError(f"coalescing={said(self.coalescing)} is none, such as Plain(), Contiguous() or Hpa()")
        self._arrays = [[(array, Lru(array.entries, array.ways)) for array in level] for level in self.core.levels]

    def access(self, vpns: npt.ArrayLike, table: PageTable) -> Lookups:
        """Look up these pages, in order, with the page table as it is now.

        Raises
        ------
        ValueError
            For a page outside `table`, or one that nothing maps: it would fault first.
        """
        pages = whole_row("pages", vpns)
        _check_table(table)
        orders = self.coalescing.orders(table)
        index = pages - table.start
        if len(index) and (index.min() < 0 or index.max() >= len(orders)):
            at = int(np.flatnonzero((index < 0) | (index >= len(orders)))[0])
            raise ValueError(f"page {pages[at]} (access {at}) is not one of the {len(orders)} from page {table.start}")
        asked = orders.take(index)
        if (asked == UNMAPPED).any():
            at = int(np.argmax(asked == UNMAPPED))
            raise ValueError(f"page {pages[at]} (access {at}) is not mapped: it faults before the TLB can hold it")
        return self.look_up(pages, asked)

    def look_up(self, pages: npt.NDArray[np.int64], orders: Orders) -> Lookups:
        """The same with the order of each page's entry as it is known already; all are mapped."""
        level = np.ones(len(pages), np.uint8)
        left = np.arange(len(pages))
        for arrays in self._arrays:
            missed = np.zeros(len(left), np.bool_)
            kept = _kept_as(arrays).take(orders[left])
            for array, lru in arrays:
                mine = np.flatnonzero(np.isin(kept, array.orders))
                missed[mine] = ~lru.access(_tags(pages[left[mine]], kept[mine]))
            left = left[missed]
            level[left] += 1
        return Lookups(level, len(self._arrays))

    def shootdown(self, start: int, pages: int = 1) -> None:
        """Drop every entry that covers any of these pages, as a flush of that range does."""
        start = whole("page", start, 0, MAX_VPN - 1)
        last = start + whole("pages", pages, 1, MAX_VPN - start) - 1
        for arrays in self._arrays:
            for array, lru in arrays:
                for order in array.orders:
                    low, high = ((order << TAG_BITS) | (page >> order) for page in (start, last))
                    lru.flush(lru.stacks[(lru.stacks >= low) & (lru.stacks <= high)])

    def flush_for(self, fault: Fault) -> None:
        """Drop what a fault flushed: the pages it acted on, when it replaced or changed what was there."""
        check_kind("fault", fault, Fault)
        if fault.flushed:
            self.shootdown(fault.pages.start, len(fault.pages))

    def flush(self) -> None:
        """Drop everything, as after a context switch without address space identifiers."""
        for arrays in self._arrays:
            for _, lru in arrays:
                lru.flush()

    def held(self, level: int = 1) -> list[tuple[int, int]]:
        """The entries of a level, most recently used first within each set: (first page, order)."""
        found = []
        for _, lru in self._arrays[whole("level", level, 1, len(self._arrays)) - 1]:
            for tag in lru.stacks.ravel().tolist():
                if tag >= 0:
                    order, number = divmod(tag, 1 << TAG_BITS)
                    found.append((number << order, order))
        return found


def _check_table(table: PageTable) -> None:
    """ValueError for what is no page table of pages that there are."""
    check_kind("table", table, PageTable)
    shapes = {np.shape(column) for column in table[1:]}
    if len(shapes) != 1 or len(min(shapes)) != 1:
        raise ValueError(f"table: pte, pfn and huge have shapes {sorted(shapes)}; each is one row, one value a page")
    whole("table.start", table.start, 0, MAX_VPN - len(table.pte))


TAG_BITS = 28
"""An entry's tag is its number among entries of its order, which also chooses its set, and above that its order."""


def _tags(pages: npt.NDArray[np.int64], orders: Orders) -> npt.NDArray[np.int64]:
    wide = orders.astype(np.int64)
    return (pages >> wide) | (wide << TAG_BITS)


def _kept_as(arrays: list[tuple[Entries, Lru]]) -> Orders:
    """For each order of an entry, the order it is kept as: a level without that size keeps a smaller piece."""
    known = sorted(order for array, _ in arrays for order in array.orders)
    return np.array([max(each for each in known if each <= order) for order in range(PMD_ORDER + 1)], np.uint8)
