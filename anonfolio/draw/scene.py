"""What there is to see at one moment, as a pure value: `to_text` and `to_svg` write it down and decide nothing.

A scene is made from a snapshot of the model and the scene before it, or from what a recording saw. It says who maps
what, what the step changed, from where to where content was copied, and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.record import COW_COPY, FIRST_TOUCH, PATHS, ZERO_COPY, Fault
from ..kernel.sizes import GUP_PIN_COUNTING_BIAS
from ..kernel.vma import VM_DONTCOPY, VM_LOCKED, VM_NOHUGEPAGE, VM_READ, VM_WIPEONFORK, VM_WRITE
from ..machine.show import Latest
from ..machine.snapshot import FolioView, MappingView, PinView, ProcessView, Snapshot
from ..program.ops import in_text
from ..program.scenario import Result, Timeline
from ..witness.comparing import GUARD, NONE, ZERO, PageView, Recorded
from .place import NOWHERE, Kept, Place, is_above, places
from .table import NO_ENTRIES, Entries, Flags, Numbers, Table, letter, page_name, row_spans
from .words import fault_sentence, forks, recorded_sentence, sentence, state_sentence

ALLOCATING = (FIRST_TOUCH, ZERO_COPY, COW_COPY)


class Count(NamedTuple):
    """A number, and what it was before the step; the same where nobody knows."""

    now: int
    was: int

    def __str__(self) -> str:
        return f"{self.now}" if self.was == self.now else f"{self.was}→{self.now}"


class Counts(NamedTuple):
    """References to a folio, page-table entries (PMDs included) that map something of it, and its pins."""

    references: Count
    mappings: Count
    pins: Count


class Counter(NamedTuple):
    """What a machine counts: how much, how much before the step (None: nobody knows), the most it comes to (0: so)."""

    what: str
    now: int
    was: int | None
    most: int = 0

    @property
    def grown(self) -> bool:
        """Whether the step changed it."""
        return self.was not in (None, self.now)

    def __str__(self) -> str:
        return f"{self.now}" if self.was is None or not self.grown else f"{self.now} ({self.now - self.was:+})"


class Copied(NamedTuple):
    """Content that the step copied: from page `offset` of a folio, which it may have freed, to a page of a new one."""

    folio: int
    offset: int
    to_folio: int
    to_offset: int


def owner_name(owner: int) -> str:
    """P0 is a process; mm#7 an mm that no process is known to have."""
    return f"P{owner}" if owner >= 0 else f"mm#{-owner}"


@dataclass(frozen=True, slots=True, eq=False)
class Folio:
    """One folio as it is seen.

    Attributes
    ----------
    number : int
        Stands for it and no other in all moments of a run; `letter` names it.
    fresh : bool
        Whether the step allocated it.
    mapcount, mapcount_before : ndarray of shape (pages,), int16
        How often each page is mapped, and was; the same where nobody knows.
    changed : ndarray of shape (pages,), bool
        What the step changed of a page itself.
    content, exclusive, pins, refs : ndarray of shape (pages,)
        Byte, PageAnonExclusive (where a page is mapped: the flag outlives the last mapping, and nobody reads it then),
        how many pins and plain references hold the page. All zero in a recording, which does not say. `content` is
        None where nobody looked at it.
    counts : Counts or None
        Of the whole folio; None in a recording.
    mm_ids : tuple of (int, int)
        The (process, mappings) of its slots, where the kernel has slots; `maybe_shared` is the bit beside them. An mm
        of which no process is known is its number, negative.
    place : Place
        Where it stands in a picture.
    """

    number: int
    order: int
    fresh: bool
    mapcount: npt.NDArray[np.int16]
    mapcount_before: npt.NDArray[np.int16]
    changed: Flags
    content: npt.NDArray[np.uint8] | None
    exclusive: Flags
    pins: Numbers
    refs: Numbers
    counts: Counts | None = None
    mm_ids: tuple[tuple[int, int], ...] = ()
    maybe_shared: bool = False
    partially_mapped: bool = False
    lazyfree: bool = False
    deferred: bool = False
    place: Place = NOWHERE

    @property
    def name(self) -> str:
        """Its letter."""
        return letter(self.number)

    @property
    def pages(self) -> int:
        """Its pages."""
        return 1 << self.order

    def page(self, at: int) -> str:
        """A5; the letter alone for a folio of one page."""
        return page_name(self.number, at, self.order > 0)

    def facts(self) -> list[str]:
        """What is known of the folio as a whole, a changed number with what it was."""
        told = [f"order {self.order}"]
        if self.counts is None:
            return told
        told += [f"refs {self.counts.references}", f"mapped {self.counts.mappings}×"]
        if any(self.counts.pins):
            told.append(f"pins {self.counts.pins}")
        if self.order and self.mm_ids:
            told.append("mm_id " + " ".join(f"{owner_name(owner)}:{count}" for owner, count in self.mm_ids))
        told += ["maybe mapped shared"] if self.maybe_shared else []
        told += ["partly mapped"] if self.partially_mapped else []
        told += ["waits to be split"] if self.deferred else []
        return told + (["freed lazily"] if self.lazyfree else [])

    def told(self) -> str:
        """The same in words, for who meets these numbers for the first time."""
        size = "one page" if not self.order else f"{self.pages} pages, order {self.order}"
        told = [f"folio {self.name} ({size})" + (", new in this step" if self.fresh else "")]
        told += [_explained(fact) for fact in self.facts()[1:]]
        return "; ".join(told)

    def roles(self) -> list[str]:
        """Per page what it is to who looks: new in this step, held but mapped by nobody, one process's alone, shared.

        ``shared`` is *maybe shared*: not marked exclusive. A recording says ``mapped`` of a page that it sees mapped.
        """
        if self.fresh:
            return ["new"] * self.pages
        known = np.where(self.exclusive, "alone", "mapped" if self.counts is None else "shared")
        found: list[str] = np.where(self.mapcount > 0, known, "held").tolist()
        return found


_MEANING = {
    "refs": "how many hold it, each entry that maps it and others such as a device or a pipe",
    "mapped": "how many page-table entries map a page of it",
    "pins": "how many promises that a page stays where it is, such as a device's",
    "mm_id": "how many of these entries the kernel counts for each of two processes",
    "maybe mapped shared": "the bit by which a write sees that more processes may map it",
    "partly mapped": "some of its pages are mapped by nobody, and held with it",
    "waits to be split": "so that pages that nobody maps can be given back",
    "freed lazily": "its content may be dropped until it is written again",
}
"""What a fact of a folio counts or says."""


def _explained(fact: str) -> str:
    name = next(name for name in _MEANING if fact.startswith(name))
    step = " (before the step → now)" if "→" in fact else ""
    return f"{fact}{step}: {_MEANING[name]}"


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One moment.

    Attributes
    ----------
    source : str
        The policy's name, or which kernel was recorded.
    heading, sentence : str
        Where we are; what the step did, or what the state holds.
    tables : tuple of Table
        One for each process, in order: who maps what.
    folios : tuple of Folio
        By number.
    freed : tuple of int
        Numbers of the folios that the step freed.
    gone : tuple of Folio
        They, as they were.
    acting : int
        The process that the step is about.
    differing : frozenset of (int, int)
        Process and page number of entries that another run, shown beside, has otherwise.
    copied : tuple of Copied
        Which content the step copied; empty where the state before it is not known.
    faults : tuple of Fault
        Those of the step, with what was asked.
    counters : tuple of Counter
        Faults, faults by path, pages zeroed and so on; with a path that a later step takes first.
    tables_only : bool
        A recording: page tables, and no more.
    folds, wide : bool
        Whether whole rows of pages that are alike are drawn as one bar; whether rows have 32 cells, with the checks
        below.
    """

    source: str
    heading: str
    sentence: str
    tables: tuple[Table, ...]
    folios: tuple[Folio, ...]
    freed: tuple[int, ...]
    copied: tuple[Copied, ...] = ()
    gone: tuple[Folio, ...] = ()
    acting: int = 0
    differing: frozenset[tuple[int, int]] = frozenset()
    faults: tuple[Fault, ...] = ()
    counters: tuple[Counter, ...] = ()
    tables_only: bool = False
    folds: bool = True
    wide: bool = False

    def ribboned(self) -> tuple[int, ...]:
        """The processes whose mappings are drawn as ribbons: the acting one, and one across that shares most with it.

        At most one stands above memory and one below; of those that share as much the one next to memory.
        """
        mapping = [table for table in self.tables if table.alive and (table.entries.folio >= 0).any()]
        if not mapping:
            return ()
        acts = next((table for table in mapping if table.process == self.acting), mapping[0])
        mine = acts.entries.folio[acts.entries.folio >= 0]
        across = [table for table in mapping if is_above(table.process) != is_above(acts.process)]
        shared = [int(np.isin(table.entries.folio, mine).sum()) for table in across]
        best = [across[shared.index(max(shared))].process] if across else []
        return tuple(sorted([acts.process, *best]))

    def by_number(self) -> dict[int, Folio]:
        """The folios by number."""
        return {folio.number: folio for folio in self.folios}

    def paths(self) -> list[Counter]:
        """The counters of the paths that faults have taken so far."""
        return [counter for counter in self.counters if counter.what in PATHS and counter.now]

    def totals(self) -> list[Counter]:
        """The counters that are of no path, but for the number of faults."""
        return [counter for counter in self.counters if counter.what in TOTALS]


TOTALS = ("pages zeroed", "pages copied", "pages scanned", "pages flushed", "RSS", "held", "waste")
"""What is counted beside faults, in the order in which it is told."""

FOLD_FOLIOS = 16
"""With more folios than this, neighbours of order 0 that are alike and did not change are drawn as one."""


def alike(folios: Sequence[Folio]) -> list[list[Folio]]:
    """Folios in their order, those of order 0 that tell the same story together."""
    groups: list[list[Folio]] = []
    for folio in folios:
        if len(folios) > FOLD_FOLIOS and groups and _story(folio) == _story(groups[-1][-1]) is not None:
            groups[-1].append(folio)
        else:
            groups.append([folio])
    return groups


def _story(folio: Folio) -> tuple[Any, ...] | None:
    if folio.order or folio.changed.any() or folio.pins.any() or folio.refs.any():
        return None
    facts = folio.facts()
    return None if "→" in "".join(facts) else (*facts, int(folio.mapcount[0]), bool(folio.exclusive[0]))


# --- the model ------------------------------------------------------------------------------------------------------


def folio_numbers(timeline: Timeline) -> list[dict[int, int]]:
    """Per moment (the start, then after each step) id to number of every folio: one per folio, never used again.

    A folio's id may be given to another once it is freed; its number is not.
    """
    numbered = [{folio.id: at for at, folio in enumerate(timeline.start.folios)}]
    used = len(numbered[0])
    for result in timeline:
        fresh = _allocated(result.faults)
        there = {folio.id: None for folio in result.snapshot.folios}
        now = {id: number for id, number in numbered[-1].items() if id in there and id not in fresh}
        for id in (*fresh, *there):
            if id in there and id not in now:
                now[id] = used
                used += 1
        numbered.append(now)
    return numbered


def _allocated(faults: Sequence[Fault]) -> list[int]:
    return [fault.folio for fault in faults if fault.path in ALLOCATING and fault.folio is not None]


def scene(
    snapshot: Snapshot,
    *,
    faults: Sequence[Fault] = (),
    before: Scene | None = None,
    numbers: Mapping[int, int] | None = None,
    forked: int | None = None,
    acting: int | None = None,
    heading: str = "",
    said: str = "",
    folds: bool = True,
) -> Scene:
    """A state of the model.

    Parameters
    ----------
    snapshot : Snapshot
        What everything holds.
    faults : sequence of Fault
        Those of the step that led here.
    before : Scene, optional
        The state before that step: what changed since is marked. Without it, what the faults say they changed is.
    numbers : mapping of int to int, optional
        Folio id to number (see `folio_numbers`); by default its id.
    forked : int, optional
        The process that the step forked.
    acting : int, optional
        The process that the step is about; by default the one that faulted last, else the first.
    heading : str
        What stands above the sentence; the policy's name by default.
    said : str
        What the step did; by default what the state holds.
    folds : bool
        Whether rows that are alike are folded.
    """
    number = {folio.id: folio.id if numbers is None else numbers[folio.id] for folio in snapshot.folios}
    earlier = before.by_number() if before else {}
    fresh = {number[id] for id in _allocated(faults) if id in number}
    if before:
        # What a split leaves under the old number is new, too.
        sizes = {number[view.id]: view.pages for view in snapshot.folios}
        fresh |= {one for one, pages in sizes.items() if one not in earlier or earlier[one].pages != pages}
    where = _Frames(snapshot, number)
    tables = tuple(_table(process, where, faults, before, fresh) for process in snapshot.processes)
    folios = [
        _folio(view, one, snapshot.has_mm_ids, held, None if one in fresh else earlier.get(one), one in fresh)
        for view, one, held in zip(snapshot.folios, number.values(), where.held(), strict=True)
    ]
    kept = set(number.values()) - fresh
    if acting is None:
        acting = faults[-1].process if faults else 0
    return Scene(
        snapshot.policy,
        heading or snapshot.policy,
        said or state_sentence(snapshot),
        tables,
        placed(sorted(folios, key=lambda folio: folio.number), tables, before),
        tuple(one for one in earlier if one not in kept),
        copied=tuple(_copied(tables, before, forked, fresh)) if before else (),
        gone=tuple(folio for one, folio in earlier.items() if one not in kept),
        acting=acting,
        faults=tuple(faults),
        counters=tuple(_counters(snapshot, before)),
        folds=folds,
        wide=is_wide(tables, folds),
    )


def placed(folios: Sequence[Folio], tables: Sequence[Table], before: Scene | None = None) -> tuple[Folio, ...]:
    """The folios, each where it stands in a picture."""
    kept = {folio.number: Kept(folio.place, folio.pages) for folio in before.folios} if before else {}
    found = places(tables, {folio.number: folio.pages for folio in folios}, kept)
    return tuple(replace(folio, place=found[folio.number]) for folio in folios)


class _Frames:
    """Which page of which folio a frame is, and what pins it."""

    def __init__(self, snapshot: Snapshot, number: Mapping[int, int]) -> None:
        folios = snapshot.folios
        # No folio comes first: it stands for every frame that is in none.
        self.heads = np.array([-1, *(folio.head for folio in folios)], np.int64)
        self.sizes = np.array([1, *(folio.pages for folio in folios)], np.int64)
        self.numbers = np.array([NONE, *(number[folio.id] for folio in folios)], np.int64)
        self.pins = [pin for process in snapshot.processes for pin in process.pins]

    def located(self, pfns: npt.NDArray[np.int32]) -> tuple[Numbers, Numbers, Flags]:
        """Per frame the folio's number (NONE: no folio), which page of it, and whether that folio is large."""
        at = np.searchsorted(self.heads, pfns, "right") - 1
        at[pfns - self.heads[at] >= self.sizes[at]] = 0
        return self.numbers[at], np.where(at, pfns - self.heads[at], 0), self.sizes[at] > 1

    def entries(self, process: ProcessView) -> Entries:
        """What a process maps. All its mappings at once: hundreds of small ones, one by one, took seconds."""
        if not process.mappings:
            return NO_ENTRIES
        views = process.mappings
        whole = replace(
            views[0],
            pte=np.concatenate([view.pte for view in views]),
            pfn=np.concatenate([view.pfn for view in views]),
            huge=np.concatenate([view.huge for view in views]),
        )
        vpn = np.concatenate([np.arange(view.start, view.end) for view in views])
        mapping = np.repeat(np.arange(len(views)), [len(view.pte) for view in views])
        folio, offset, large = self.located(np.where(whole.present & ~whole.zero, whole.pfn, -1))
        folio = np.where(whole.zero, ZERO, np.where(whole.guarded, GUARD, folio))
        return Entries(vpn, mapping, folio, offset, large, whole.writable, whole.huge)

    def holds(self, pin: PinView) -> str:
        """A pin or a reference in words."""
        places = zip(*(column.tolist() for column in self.located(np.array(pin.frames, np.int32))), strict=True)
        names = ["z" if place[0] == NONE else page_name(*place) for place in places]
        kind = "pin" if pin.kind == "pin" else "ref"
        only = " reads" if kind == "pin" and not pin.writable else ""
        return f"{kind} {pin.id}{only}: " + (names[0] if len(names) == 1 else f"{names[0]}–{names[-1]}")

    def held(self) -> Iterator[tuple[Numbers, Numbers]]:
        """Per folio, how many pins and plain references hold each page."""
        frames = max(*(self.heads + self.sizes).tolist(), *(1 + pfn for pin in self.pins for pfn in pin.frames), 0)
        counts = np.zeros((2, frames), np.int64)
        for pin in self.pins:
            np.add.at(counts[0 if pin.kind == "pin" else 1], list(pin.frames), 1)
        for head, size in zip(self.heads[1:].tolist(), self.sizes[1:].tolist(), strict=True):
            yield counts[0, head : head + size], counts[1, head : head + size]


_MAPPING_WORDS = (
    (VM_WIPEONFORK, "wipe-on-fork"),
    (VM_DONTCOPY, "dont-fork"),
    (VM_NOHUGEPAGE, "no-huge"),
    (VM_LOCKED, "locked"),
)


def _mapping_words(view: MappingView) -> str:
    words = [] if view.flags & VM_WRITE else ["read-only" if view.flags & VM_READ else "no access"]
    return " ".join(words + [word for flag, word in _MAPPING_WORDS if view.flags & flag])


def _table(
    process: ProcessView, where: _Frames, faults: Sequence[Fault], before: Scene | None, fresh: set[int]
) -> Table:
    entries, number = where.entries(process), process.number
    mine = [fault for fault in faults if fault.process == number]
    if before:
        was = before.tables[number].entries if number < len(before.tables) else None
        changed = entries.changed_since(was) | np.isin(entries.folio, list(fresh))
    else:
        changed = np.isin(entries.vpn, [vpn for fault in mine for vpn in fault.pages])
    return Table(
        number, process.alive, process.rss_pages, entries, changed,
        np.isin(entries.vpn, [fault.vpn for fault in mine]),
        tuple((view.start, view.end, _mapping_words(view)) for view in process.mappings),
        tuple(map(where.holds, process.pins)),
    )  # fmt: skip


def _folio(
    view: FolioView, number: int, slots: bool, held: tuple[Numbers, Numbers], before: Folio | None, fresh: bool
) -> Folio:
    pins, refs = held
    exclusive = view.anon_exclusive & (view.mapcount > 0)
    now = (view.refcount, view.large_mapcount, view.pincount)
    if not view.order:
        now = (view.refcount, int(view.mapcount[0]), view.refcount // GUP_PIN_COUNTING_BIAS)
    was = [count.now for count in before.counts] if before and before.counts else now
    changed = np.full(view.pages, fresh)
    if before:
        both = ((view.content, before.content), (view.mapcount, before.mapcount), (exclusive, before.exclusive),
                (pins, before.pins), (refs, before.refs))  # fmt: skip
        changed = np.any([is_ != was_ for is_, was_ in both], axis=0)
    return Folio(
        number, view.order, fresh, view.mapcount, before.mapcount if before else view.mapcount, changed,
        view.content, exclusive, pins, refs, Counts(*map(Count, now, was)),
        view.mm_ids if slots else (), slots and view.maybe_mapped_shared, view.partially_mapped, view.lazyfree,
    )  # fmt: skip


def _copied(tables: Sequence[Table], before: Scene, forked: int | None, fresh: set[int]) -> Iterator[Copied]:
    """A page that mapped a folio and maps a new one was copied; what a child maps of a new folio, its parent had."""
    copies = [*zip(before.tables, tables, strict=False), *([] if forked is None else [(tables[forked], tables[-1])])]
    for source, target in copies if fresh else ():
        was = source.entries
        place = dict(zip(was.vpn.tolist(), zip(was.folio.tolist(), was.offset.tolist(), strict=True), strict=True))
        at = target.entries
        for here in np.flatnonzero(np.isin(at.folio, list(fresh))).tolist():
            folio, offset = place.get(int(at.vpn[here]), (NONE, 0))
            if folio >= 0:
                yield Copied(folio, offset, int(at.folio[here]), int(at.offset[here]))


def _counters(snapshot: Snapshot, before: Scene | None) -> Iterator[Counter]:
    counters = snapshot.counters
    pages = (counters.zeroed, counters.copied, counters.scanned, counters.flushed)
    held = (snapshot.rss_pages, snapshot.held_pages, snapshot.waste_pages)
    now = {
        "faults": sum(counters.faults.values()),
        **{path: count for path, count in counters.faults.items() if count},
        **dict(zip(TOTALS, (*pages, *held), strict=True)),
    }
    was = {counter.what: counter.now for counter in before.counters} if before else None
    for what, count in now.items():
        yield Counter(what, count, None if was is None else was.get(what, 0))


MOST_ROWS = 3
"""Of 16 cells; a process that would fill more has rows of 32."""


def is_wide(tables: Sequence[Table], folds: bool) -> bool:
    """Whether rows have 32 cells."""
    open_spans = ([span for span in row_spans(table, 16, folds) if not span.folded] for table in tables)
    return any(sum(hi - lo for lo, hi, _ in found) > 16 * MOST_ROWS for found in open_spans)


def after(
    result: Result, before: Scene, numbers: Mapping[int, int], heading: str, *, base: int = 0, folds: bool = True
) -> Scene:
    """The scene after a step; `base` is the page number of the scenario's page 0 (`Scenario.first_vpn`)."""
    forked = result.step[1] if result.step[0] == "fork" and result.ok else None
    return scene(
        result.snapshot, faults=result.faults, before=before, numbers=numbers, forked=forked,
        acting=result.step[1], heading=heading, said=sentence(result, base), folds=folds,
    )  # fmt: skip


def scenes(timeline: Timeline) -> list[Scene]:
    """One scene per moment of a timeline: the start, then after each step; numbers stay with their folios."""
    return _side_by_side([*each_scene(timeline)])


def each_scene(timeline: Timeline) -> Iterator[Scene]:
    """`scenes`, one at a time, each with the room and the counters that it needs by itself."""
    numbers = folio_numbers(timeline)
    base, total = timeline.scenario.first_vpn, len(timeline)
    where = f" · page 0 of the scenario is page {base}" if base else ""
    shown = scene(timeline.start, numbers=numbers[0], heading=f"{timeline.policy.name} · start{where}")
    yield shown
    for at, result in enumerate(timeline, 1):
        words = f"{timeline.policy.name} · step {at} of {total} · {' '.join(map(in_text, result.step))}{where}"
        shown = after(result, shown, numbers[at], words, base=base)
        yield shown


def latest_scene(latest: Latest) -> Scene:
    """The state of a machine, and what its latest operation did as far as its faults tell."""
    before = scene(latest.before) if latest.before else None
    return scene(latest.snapshot, faults=latest.faults, before=before, said=fault_sentence(latest.faults))


def _side_by_side(found: list[Scene]) -> list[Scene]:
    """Rows of one length in all of them, and counters that grow towards the most: nothing jumps from step to step."""
    wide = any(one.wide for one in found)
    most: dict[str, int] = {}
    for counter in (counter for one in found for counter in one.counters):
        most[counter.what] = max(most.get(counter.what, 0), counter.now)

    def counters(one: Scene) -> tuple[Counter, ...]:
        later = [Counter(what, 0, 0) for what in most if what not in {counter.what for counter in one.counters}]
        return tuple(counter._replace(most=most[counter.what]) for counter in (*one.counters, *later))

    return [replace(one, wide=wide, counters=counters(one)) for one in found]


def lined_up(panes: Sequence[Sequence[Scene]]) -> list[list[Scene]]:
    """Runs to be shown side by side: a path that one of them takes has its row in all, and rows come in one order."""
    taken = {counter.what for pane in panes for one in pane for counter in one.counters}
    rows = [what for what in ("faults", *PATHS, *TOTALS) if what in taken]

    def counters(one: Scene) -> tuple[Counter, ...]:
        mine = {counter.what: counter for counter in one.counters}
        return tuple(mine.get(what, Counter(what, 0, 0)) for what in rows if mine)

    found = [[replace(one, counters=counters(one)) for one in pane] for pane in panes]
    if len(found) == 1:
        return found
    alike = [[_entries_alike(one) for one in pane] for pane in found]
    differing = [[_unlike(*both) for both in zip(alike[0], pane, strict=True)] for pane in alike]
    if len(found) == 2:
        # Of two, both are marked; of more, each but the first shows where it differs from that.
        differing[0] = differing[1]
    return [
        [replace(one, differing=pages) for one, pages in zip(pane, unlike, strict=True)]
        for pane, unlike in zip(found, differing, strict=True)
    ]


Entry = tuple[int, int]
"""A process and a page number."""


def _unlike(mine: Mapping[Entry, object], other: Mapping[Entry, object]) -> frozenset[Entry]:
    return frozenset(where for where in mine.keys() | other.keys() if mine.get(where) != other.get(where))


def _entries_alike(one: Scene) -> dict[Entry, object]:
    """Per entry what another run should have alike: which page of a folio of which size, and who else maps it."""
    sizes = {folio.number: folio.pages for folio in one.folios}
    found: dict[Entry, tuple[int, int]] = {}
    mappers: dict[tuple[int, int], list[Entry]] = {}
    for table in one.tables:
        at = table.entries
        for vpn, folio, offset in zip(at.vpn.tolist(), at.folio.tolist(), at.offset.tolist(), strict=True):
            found[table.process, vpn] = (folio, offset)
            mappers.setdefault((folio, offset), []).append((table.process, vpn))
    return {
        where: (sizes[folio], offset, *mappers[folio, offset]) if folio >= 0 else (folio,)
        for where, (folio, offset) in found.items()
    }


# --- recordings -----------------------------------------------------------------------------------------------------


def recorded_scenes(recorded: Recorded) -> list[Scene]:
    """One scene per moment of a recorded program: page tables only, for that is what a recording holds.

    The start is empty: nothing is touched yet.
    """
    base, steps = recorded.scenario.first_vpn, recorded.scenario.steps
    source = f"recorded on {recorded.kernel}"
    nothing = np.zeros(recorded.scenario.pages, np.int64)
    start = PageView(nothing + NONE, nothing, nothing, nothing > 0, nothing > 0)
    numbers: dict[tuple[int, int], int] = {}
    found: list[Scene] = []
    for at, view in enumerate([{0: start}, *(seen.view for seen in recorded.seen())]):
        words = f"step {at} of {len(steps)} · {' '.join(map(in_text, steps[at - 1]))}" if at else "start"
        said = recorded_sentence(recorded, at - 1) if at else "Nothing is mapped yet."
        before = found[-1] if at else None
        processes = 1 + forks(recorded, at)
        now = _recorded_scene(source, f"{source} · {words}", said, view, processes, base, numbers, before)
        found.append(replace(now, acting=steps[at - 1][1] if at else 0))
    return _side_by_side(found)


def _recorded_scene(
    source: str,
    heading: str,
    said: str,
    views: Mapping[int, PageView],
    processes: int,
    base: int,
    numbers: dict[tuple[int, int], int],
    before: Scene | None,
) -> Scene:
    """The page tables of one moment; a folio that is new gets the next number."""
    entries = {process: _recorded_entries(view, base, numbers) for process, view in views.items()}
    mapped: dict[int, npt.NDArray[np.int16]] = {}
    for process, view in views.items():
        folio = entries[process].folio
        for at in np.flatnonzero(folio >= 0).tolist():
            mapped.setdefault(int(folio[at]), np.zeros(int(view.size[at]), np.int16))[view.offset[at]] += 1
    earlier = before.by_number() if before else {}
    tables = tuple(_recorded_table(process, entries.get(process), before) for process in range(processes))
    folios = [_recorded_folio(number, mapped[number], earlier.get(number)) for number in sorted(mapped)]
    return Scene(
        source, heading, said, tables, placed(folios, tables, before),
        tuple(number for number in earlier if number not in mapped),
        gone=tuple(folio for number, folio in earlier.items() if number not in mapped),
        tables_only=True, wide=is_wide(tables, True),
    )  # fmt: skip


def _recorded_entries(view: PageView, base: int, numbers: dict[tuple[int, int], int]) -> Entries:
    folios = zip(view.folio.tolist(), view.size.tolist(), strict=True)
    folio = [numbers.setdefault(seen, len(numbers)) if seen[0] >= 0 else seen[0] for seen in folios]
    vpn, no = base + np.arange(len(folio)), np.zeros(len(folio), np.bool_)
    return Entries(vpn, no.astype(np.int64), np.array(folio, np.int64), view.offset, view.size > 1, no, no)


def _recorded_table(process: int, entries: Entries | None, before: Scene | None) -> Table:
    if entries is None:
        return Table(process, False, 0, NO_ENTRIES, NO_ENTRIES.huge, NO_ENTRIES.huge)
    was = before.tables[process].entries if before and process < len(before.tables) else None
    changed = entries.changed_since(was) if before else entries.huge
    mapping = (int(entries.vpn[0]), int(entries.vpn[-1]) + 1, "")
    return Table(process, True, int((entries.folio >= 0).sum()), entries, changed, entries.huge, (mapping,))


def _recorded_folio(number: int, mapcount: npt.NDArray[np.int16], before: Folio | None) -> Folio:
    was = before.mapcount if before else mapcount
    changed = mapcount != was if before else np.ones(len(mapcount), np.bool_)
    no = np.zeros(len(mapcount), np.int64)
    return Folio(
        number, len(mapcount).bit_length() - 1, before is None, mapcount, was, changed, no.astype(np.uint8),
        no > 0, no, no,
    )  # fmt: skip
