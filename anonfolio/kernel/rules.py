"""What a `Policy` decides with a function, and the functions of the kernels there are.

A rule sees facts and asks its questions aloud: ``ask(name in the kernel, answer, what was seen)`` notes the question in
the trail of the fault and returns the answer. So the trail, the sentence of a picture and the decision tree come from
the rule itself, a reader's as well as the kernel's own. The same function decides for one fault and for a stream.

=================  ==================================  =============================================================
field of a policy  signature                           decides
=================  ==================================  =============================================================
large_reuse        (Folio, Ask) -> bool                may pages of a large folio that nothing marks be reused?
allowed_orders     (Where) -> orders                   which orders may a first touch use in a mapping?
chosen_order       (orders, Ask) -> order              which of those that fit does it take?
copy_extent        (Around, Ask) -> range              how far does a copy reach: an aligned block
unshare_extent     (Around, Ask) -> range              the same for an unshare, before a read-only pin
reuse_extent       (Around, Ask) -> range              how far does a reuse reach: any run of pages
=================  ==================================  =============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .pagetable import PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from .sizes import ANON_ORDERS, PMD_ORDER, PTRS_PER_PMD

Mask = npt.NDArray[np.bool_]


class Ask(Protocol):
    """Notes a question and returns its answer."""

    def __call__(self, what: str, outcome: bool, saw: str = "", *, asks: str = "", yes: str = "", no: str = "") -> bool:
        """`what` is its name in the kernel, `saw` what the answer was read from.

        `asks` puts it in plain words (for the decision tree), `yes` and `no` say what the answer means, as a clause of
        a sentence: "all of it is this process's".
        """


# --- may pages of a large folio be reused that nothing marks exclusive? --------------------------------------------


class Folio:
    """What a reuse rule may look at: the folio as a whole. The same for one fault and for a stream.

    Attributes
    ----------
    order : int
        log2 of its pages.
    refcount, mappings : int
        References to it, and how many page-table entries map pages of it, of all processes.
    shared : bool
        Whether another process may map it (`FOLIO_MM_IDS_SHARED_BITNUM`, mm_id slots).
    pinned : bool
        Whether a device may hold it (`folio_maybe_dma_pinned`).
    mapcount : int
        How many entries map the one page that faulted, PMDs included (`folio_precise_page_mapcount`).
    run : int
        How many of its pages a reuse would reach around the one that faulted: what the policy's own `reuse_extent`
        says, so 1 wherever that is one page, as it is in every released kernel. ``reuse_extent="range"`` gives the row.
    mine : int
        How many of its mappings are this process's.
    slots : str
        Which processes its mm_id slots track, in words: for a question's `saw`.
    """

    __slots__ = (
        "_mapcount", "_mine", "_pages", "_run", "_slots", "looked", "mappings", "order", "pinned", "refcount", "shared",
    )  # fmt: skip

    def __init__(
        self,
        order: int,
        refcount: int,
        mappings: int,
        shared: bool,
        run: Callable[[], int],
        slots: Callable[[], str],
        mine: Callable[[], int],
        mapcount: Callable[[], int],
        pinned: bool,
    ) -> None:
        self.order, self.refcount, self.mappings, self.shared, self.pinned = order, refcount, mappings, shared, pinned
        self._run, self._slots, self._mine, self._mapcount = run, slots, mine, mapcount
        self._pages, self.looked = 0, False

    def __repr__(self) -> str:
        shared = "maybe" if self.shared else "not"
        counts = f"{many(self.refcount, 'reference')}, {many(self.mappings, 'mapping')} ({self.mine} of this process)"
        run = many(self._run(), "page")
        pinned = ", pinned" if self.pinned else ""
        return (
            f"a folio of order {self.order}, {counts}, {shared} mapped by others, {run} in a row, "
            f"the page mapped {many(self.mapcount, 'time')}{pinned}"
        )

    @property
    def run(self) -> int:
        """How many of its pages a reuse would reach: 1 where `reuse_extent` is one page. To look is what costs."""
        if not self.looked:
            self.looked, self._pages = True, self._run()
        return self._pages

    @property
    def slots(self) -> str:
        """Which processes its two mm_id slots track, in words."""
        return self._slots()

    @property
    def mine(self) -> int:
        """How many of its mappings are the faulting process's, over all its VMAs: a walk of the reverse map finds them.

        No kernel does that here, for it takes locks and time (`rmap_walk_anon`); `Fault.scanned` leaves the walk out.
        """
        return self._mine()

    @property
    def mapcount(self) -> int:
        """How many entries map the page that faulted, of all processes: it says nothing of who holds a reference.

        A kernel built without per-page mapcounts cannot tell (CONFIG_NO_PAGE_MAPCOUNT, an option since 6.15).
        """
        return self._mapcount()

    def told(self, slots: str) -> Folio:
        """The same folio with other words for its slots."""
        return self._but(self.refcount, self.mappings, lambda: slots, self._mine)

    def after(self, copies: int) -> Folio:
        """The folio when so many of its pages were copied away: each took one mapping and one reference.

        The mapping was the faulting process's; that of the page it writes now is left.
        """
        mine = self._mine
        return self._but(self.refcount - copies, self.mappings - copies, self._slots, lambda: max(1, mine() - copies))

    def _but(self, refcount: int, mappings: int, slots: Callable[[], str], mine: Callable[[], int]) -> Folio:
        return Folio(self.order, refcount, mappings, self.shared, self._run, slots, mine, self._mapcount, self.pinned)


def many(count: int, what: str) -> str:
    """``"1 case"``, ``"2 cases"``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


Reuse = Callable[[Folio, Ask], bool]


def refcount_one(folio: Folio, ask: Ask) -> bool:
    """Small folios in every kernel, large ones up to 6.8 (in 6.1 inline in `do_wp_page`): one reference is left.

    For a large folio the one reference is that of its last mapped page; the rest of it stays allocated.
    """
    return ask(
        "folio_ref_count == 1", folio.refcount == 1, f"refcount {folio.refcount}",
        asks="is this mapping the only reference?", yes="the folio has no other reference",
        no="the page is maybe shared and the folio has other references",
    )  # fmt: skip


def never(folio: Folio, ask: Ask) -> bool:
    """6.9-6.14: a page of a large folio is never reused ("mm: prohibit the last subpage from reusing …", 6.9-rc1)."""
    ask(
        "!folio_test_large", False, f"order {folio.order}", asks="is the folio a single page?",
        no="the page is maybe shared, and this kernel never reuses a page of a large folio then",
    )  # fmt: skip
    return False


def mm_id(folio: Folio, ask: Ask) -> bool:
    """`__wp_can_reuse_large_anon_folio` (1da190f4d0a6, 6.15): all mappings and references are this mm's."""
    if not ask(
        "folio_large_mapcount > 1", folio.mappings > 1, many(folio.mappings, "mapping"),
        asks="has it more than one mapping?",
        no="one mapping is left of the folio, and a last page is copied, not reused",
    ):  # fmt: skip
        return False
    if ask(
        "FOLIO_MM_IDS_SHARED_BITNUM", folio.shared, folio.slots, asks="may another process map it?",
        yes="the folio may be mapped by more than one process",
    ):  # fmt: skip
        return False
    return ask(
        "folio_large_mapcount == folio_ref_count", folio.mappings == folio.refcount,
        f"mappings {folio.mappings}, references {folio.refcount}", asks="is every reference a mapping?",
        yes="every mapping and every reference of the folio is its own",
        no="the folio has references that are no mappings",
    )  # fmt: skip


def scan(folio: Folio, ask: Ask) -> bool:
    """RFC v2 patch 10: the pages that this process maps in a row around the page make up every reference.

    A hole, a VMA boundary or a moved half ends the row, so a sole owner can be missed, but never a sharer.
    """
    pages = folio.run
    return ask(
        "folio_ref_count == pages of the range", folio.refcount == pages,
        f"{many(folio.refcount, 'reference')}, {many(pages, 'page')}",
        asks="do these mappings make up every reference?",
        yes="the pages it maps in a row account for every reference",
        no="the folio has more references than it maps pages in a row",
    )  # fmt: skip


def mapped_once(folio: Folio, ask: Ask) -> bool:
    """A PMD in 5.10 (`reuse_swap_page`): one mapping is all that the folio has; references are not asked for."""
    return ask(
        "reuse_swap_page", folio.mappings == 1, many(folio.mappings, "mapping"), asks="is this its only mapping?",
        yes="nobody else maps a page of the folio", no="the folio has other mappings",
    )  # fmt: skip


OLDER_NAMES: dict[str, dict[str, str]] = {
    "5.10": {
        "folio_ref_count": "page_count",
        "thp_vma_allowable_orders": "__transparent_hugepage_enabled",
        "thp_vma_suitable_order": "transhuge_vma_suitable",
        "vma_alloc_folio": "alloc_hugepage_vma",
    },
    "6.1": {"thp_vma_allowable_orders": "hugepage_vma_check", "thp_vma_suitable_order": "transhuge_vma_suitable"},
}
"""What a question is called here -> in a release that is older than the name (tests/test_claims.py)."""

HUGE_REUSES: dict[str, Reuse] = {"refcount_one": refcount_one, "mapped_once": mapped_once}
"""`Policy.huge_reuse` by name."""
REUSES: dict[str, Reuse] = {"refcount_one": refcount_one, "never": never, "mm_id": mm_id, "scan": scan}
"""`Policy.large_reuse` by name."""


def answers(rule: Reuse, folio: Folio) -> bool:
    """What a reuse rule says, without a trail."""
    return bool(rule(folio, silently))


def silently(what: str, outcome: bool, saw: str = "", *, asks: str = "", yes: str = "", no: str = "") -> bool:
    """An `Ask` that notes nothing."""
    return bool(outcome)


def copies_before_reuse(rule: Reuse, folio: Folio, pages: int) -> int:
    """A copy takes one mapping and one reference: after how many of them the rule says reuse; `pages` for never."""
    for copied in range(min(pages, 1 << folio.order, folio.mappings)):
        if answers(rule, folio.after(copied)):
            return copied
    return pages


# --- which orders a mapping may use ---------------------------------------------------------------------------------

KNOBS = ("always", "madvise", "inherit", "never")
"""What ``hugepages-*kB/enabled`` can say; the global knob says the same but for ``inherit``."""
PRCTL = ("", "disabled", "except_advised")
"""Nothing, PR_SET_THP_DISABLE, and the same with PR_THP_DISABLE_EXCEPT_ADVISED (6.18)."""


class Where(NamedTuple):
    """What decides which orders a first touch may use in a mapping; no page number, for it is asked once a mapping.

    Attributes
    ----------
    advice : {"", "hugepage", "nohugepage"}
        What madvise said of the mapping.
    pages : int
        Its size.
    knobs : mapping of int to str
        Per order that this kernel has a knob for, what it says: one of `KNOBS`.
    thp : {"always", "madvise", "never"}
        The global knob, which ``inherit`` refers to.
    prctl : {"", "disabled", "except_advised"}
        What the process said of itself.
    fixed : tuple of int
        `Policy.fixed_orders`: allowed whatever the rest says (RFC v2).
    """

    advice: str
    pages: int
    knobs: Mapping[int, str]
    thp: str
    prctl: str = ""
    fixed: tuple[int, ...] = ()

    def __repr__(self) -> str:
        advice = f"MADV_{self.advice.upper()}" if self.advice else "no advice"
        said = {how: [order for order in self.knobs if self.knobs[order] == how] for how in KNOBS}
        every = len(ANON_ORDERS)
        knobs = [f"{how} for {'all' if len(of) == every else f'orders {of}'}" for how, of in said.items() if of]
        prctl = f", prctl {self.prctl}" if self.prctl else ""
        fixed = f", orders {self.fixed} fixed" if self.fixed else ""
        told = f"{', '.join(knobs) or 'none'}; global {self.thp}"
        return f"a mapping of {many(self.pages, 'page')}, {advice}{prctl}, knobs: {told}{fixed}"

    def enabled(self) -> set[int]:
        """The orders that the knobs, the advice and prctl switch on together (`thp_vma_allowable_orders`, 6.8+)."""
        advised = self.advice == "hugepage"
        if self.advice == "nohugepage" or self.prctl == "disabled" or (self.prctl and not advised):
            return set()
        good = ("always", "madvise") if advised else ("always",)
        return {order for order, said in self.knobs.items() if (self.thp if said == "inherit" else said) in good}


AllowedOrders = Callable[[Where], Iterable[int]]


def knobs(where: Where) -> set[int]:
    """Every kernel: what sysfs, madvise and prctl allow, and RFC v2's hard-coded orders, which never map a PMD."""
    return where.enabled() | (set(where.fixed) - {PMD_ORDER})


ALLOWED_ORDERS: dict[str, AllowedOrders] = {"knobs": knobs}
"""`Policy.allowed_orders` by name."""

# --- which of those that fit it takes -------------------------------------------------------------------------------

ChosenOrder = Callable[[tuple[int, ...], Ask], int]


def largest(fits: tuple[int, ...], ask: Ask) -> int:
    """Every kernel: `fits` are the orders whose block is whole and nobody's, largest first: one or more, and 0 last."""
    return fits[0]


CHOSEN_ORDERS: dict[str, ChosenOrder] = {"largest": largest}
"""`Policy.chosen_order` by name."""

# --- how far a copy, a reuse, an unshare reach ----------------------------------------------------------------------


class Around:
    """The page table around the page that faulted: places 0..511, and what each entry maps.

    Attributes
    ----------
    at : int
        The place of the page that faulted.
    order : int
        Order of the folio that it maps.
    vma, folio : range
        The places that its mapping takes in this table, and those that the whole folio would take, going on from the
        page on both sides (these may lie outside of the table).
    reach : range
        Where both and the table overlap: no range may leave it.
    orders : tuple of int
        For a copy: the orders above 0 that are to be had, largest first. Fewer after an allocation failed.
    pinned : bool
        Whether a device may hold the folio (`folio_maybe_dma_pinned`).
    looked : int
        Entries read so far. That a rule of RFC v2 reads each once, and at what cost, is this suite's assumption: the
        mails name none.
    """

    def __init__(
        self,
        vpn: int,
        mapping: range,
        entries: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]],
        frames: range,
        marked: Mask,
        orders: tuple[int, ...] = (),
        *,
        mapcounts: Callable[[], npt.NDArray[np.integer]],
        pinned: bool,
    ) -> None:
        self.at, self.orders, self.looked = vpn % PTRS_PER_PMD, orders, 0
        self.pinned, self._mapcounts = pinned, mapcounts
        self.first, self.mapping, self._frames, self._marked = vpn - self.at, mapping, frames, marked
        self._bits, self._pfns = entries
        self.order = len(frames).bit_length() - 1
        start = self.at - (int(self._pfns[self.at]) - frames.start)
        self.folio = range(start, start + len(frames))
        self.vma = range(max(0, mapping.start - self.first), min(PTRS_PER_PMD, mapping.stop - self.first))
        self.reach = range(max(self.vma.start, start), min(self.vma.stop, self.folio.stop))

    def __repr__(self) -> str:
        return f"page {self.at} of a folio of order {self.order} at {self.folio.start}, mapping {self.vma}"

    @cached_property
    def same_folio(self) -> Mask:
        """Shape (512,): does the entry map the page of the folio that lies as far from the faulting one?"""
        inside = slice(self.reach.start, self.reach.stop)
        low = int(self._pfns[self.at]) - self.at + self.reach.start
        good = np.zeros(PTRS_PER_PMD, np.bool_)
        good[inside] = (self._bits[inside] & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT
        good[inside] &= self._pfns[inside] == np.arange(low, low + len(self.reach))
        return _to_read(good)

    @cached_property
    def exclusive(self) -> Mask:
        """Shape (512,): is it a page of the folio (`same_folio`) that is marked exclusive?"""
        low = int(self._pfns[self.at]) - self.at + self.reach.start
        marked = np.zeros(PTRS_PER_PMD, np.bool_)
        marked[self.reach.start : self.reach.stop] = self._marked[low : low + len(self.reach)]
        return _to_read(marked & self.same_folio)

    @cached_property
    def mapcount(self) -> npt.NDArray[np.integer]:
        """Shape (512,): how many entries map the page, PMDs counted; 0 where it is none of `same_folio`."""
        counts = np.zeros(PTRS_PER_PMD, np.int32)
        first = self.reach.start - self.folio.start
        counts[self.reach.start : self.reach.stop] = self._mapcounts()[first : first + len(self.reach)]
        counts[~self.same_folio] = 0
        counts.flags.writeable = False
        return counts

    @cached_property
    def writable(self) -> Mask:
        """Shape (512,): may the entry be written without a fault?"""
        return _to_read((self._bits & PTE_WRITE) > 0)

    @property
    def page(self) -> range:
        """The faulting page alone."""
        return range(self.at, self.at + 1)

    def block(self, order: int) -> range:
        """The aligned block of 2**order places around the page, whether it lies in the mapping or not."""
        start = self.at & -(1 << order)
        return range(start, start + (1 << order))

    def pages(self, places: range) -> str:
        """Places as page numbers, in words."""
        return f"pages {self.first + places.start}..{self.first + places.stop - 1}"

    def suitable(self, order: int, ask: Ask) -> bool:
        """Ask whether the aligned block of that order stays inside the mapping (`thp_vma_suitable_order`)."""
        return suitable(self.first + self.at, order, self.mapping.start, self.mapping.stop, ask)

    def all_of(self, good: Mask, places: range) -> bool:
        """Whether all these places are good, read one by one up to the first that is not."""
        part = good[places.start : places.stop]
        fits = bool(part.all())
        self.looked += len(part) if fits else int(part.argmin()) + 1
        return fits

    def run(self, good: Mask) -> range:
        """The good places in a row around the page, inside the reach, read one by one to both sides."""
        bad = np.flatnonzero(~good[self.reach.start : self.reach.stop]) + self.reach.start
        below, above = bad[bad < self.at], bad[bad > self.at]
        start = int(below[-1]) + 1 if len(below) else self.reach.start
        stop = int(above[0]) if len(above) else self.reach.stop
        self.looked += stop - start + (len(below) > 0) + (len(above) > 0)
        return range(start, stop)


def _to_read(facts: Mask) -> Mask:
    """A rule that changed what it is told (``good &= …``) would change what its range is checked by."""
    facts.flags.writeable = False
    return facts


Extent = Callable[[Around, Ask], range]


def suitable(vpn: int, order: int, start: int, end: int, ask: Ask) -> bool:
    """Whether the aligned block around `vpn` stays inside the mapping [start, end) (`thp_vma_suitable_order`)."""
    first = vpn & -(1 << order)
    stop = first + (1 << order)
    saw = f"order {order}: pages {first}..{stop - 1} in mapping {start}..{end - 1}"
    return ask("thp_vma_suitable_order", start <= first and stop <= end, saw)


def one_page(around: Around, ask: Ask) -> range:
    """Every released kernel: one page."""
    return around.page


@dataclass(frozen=True)
class SourceOrder:
    """RFC v2 (`calc_anon_folio_order_copy`): as large a block as the source folio, if all of it maps that folio.

    It starts at the source's order and goes down until the aligned block lies in the VMA and maps consecutive pages of
    the one folio. As posted it did not ask whether they are exclusive (``maybe_shared=False``).
    """

    max_order: int = 4
    maybe_shared: bool = True
    read_only: bool = False

    def __call__(self, around: Around, ask: Ask) -> range:
        """The block to copy, the page alone if none fits."""
        for order in around.orders:
            if order > min(around.order, self.max_order) or not around.suitable(order, ask):
                continue
            block = around.block(order)
            saw = f"order {order}: {around.pages(block)}"
            good = around.same_folio & ~around.writable if self.read_only else around.same_folio
            if not ask("consecutive pages of one folio", around.all_of(good, block), saw):
                continue
            marked = self.maybe_shared and bool(around.exclusive[block.start : block.stop].any())
            if not self.maybe_shared or ask("no page PageAnonExclusive", not marked, saw):
                return block
        return around.page


@dataclass(frozen=True)
class Run:
    """RFC v2 (`calc_anon_folio_range_reuse`): the run around the page.

    It ends where the VMA, the page table or the folio ends, or an entry does not map the next page of the folio; around
    an exclusive page, also at the first that is not.
    """

    read_only: bool = False

    def __call__(self, around: Around, ask: Ask) -> range:
        """The run, at least the page."""
        good = around.exclusive if around.exclusive[around.at] else around.same_folio
        found = around.run(good & ~around.writable if self.read_only else good)
        ask(
            "calc_anon_folio_range_reuse", True, around.pages(found),
            asks="which of its pages are mapped in a row?",
        )  # fmt: skip
        return found


ANY_ORDER = tuple(reversed(ANON_ORDERS))
"""What a copy may take where no knob is asked, largest first."""
