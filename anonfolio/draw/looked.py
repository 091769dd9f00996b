"""What was seen of a running process (`witness.looking`): as text, like neighbours folded, and as a scene to draw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..kernel.rules import many
from ..kernel.sizes import PTRS_PER_PMD
from ..witness.comparing import NONE, ZERO
from ..witness.looking import ZERO_PAGE, FoundFolios, Process, runs_of
from .drawing import printable
from .picture import Picture
from .scene import Count, Counts, Folio, Scene, is_wide, placed
from .table import Entries, Flags, Numbers, Table
from .text import COLUMNS

SHOWN_PAGES = 2048
"""More cells than that are no picture any more."""


# --- runs of pages --------------------------------------------------------------------------------------------------


class _Runs:
    """Runs of pages of one folio (`runs_of`), and what is said of each."""

    def __init__(self, seen: Process) -> None:
        pages, folios = seen.pages, seen.folios
        runs = np.array(runs_of(pages), np.int64).reshape(-1, 2)
        self.start, self.end = runs[:, 0], runs[:, 1]
        self.folio, self.offset = pages.folio[self.start], pages.offset[self.start]
        self.exclusive, self.least, self.most = self._of_pages(pages.folio, pages.offset, folios)
        self.writable = None if pages.writable is None else _sums(pages.writable, self.start)
        self._keys = self._alike(seen)

    def _of_pages(
        self, folio: Numbers, offset: Numbers, folios: FoundFolios
    ) -> tuple[Numbers | None, Numbers, Numbers]:
        """Per run how many pages are exclusive, and the least and the most that one is mapped."""
        at = np.where(folio >= 0, (folios.first[np.maximum(folio, 0)] if len(folios) else 0) + offset, 0)
        mapcount = np.where(folio >= 0, folios.mapcount[at] if len(folios) else 0, 0)
        exclusive = None
        if folios.exclusive is not None:
            exclusive = _sums((folio >= 0) & (folios.exclusive[at] if len(folios) else False), self.start)
        if not len(self.start):
            return exclusive, self.start, self.start
        return exclusive, np.minimum.reduceat(mapcount, self.start), np.maximum.reduceat(mapcount, self.start)

    def _alike(self, seen: Process) -> Numbers:
        """Runs with equal rows say the same; a mixed one is like no other."""
        folios, size = seen.folios, self.end - self.start
        mixed = self.least != self.most
        columns = [size, self.offset, self.folio == ZERO_PAGE, seen.pages.huge[self.start], self.least]
        for counted in (self.exclusive, self.writable):
            if counted is not None:
                columns.append(counted)
                mixed |= (counted > 0) & (counted < size)
        columns.append(np.where(mixed, np.arange(len(size)), -1))
        for column in (folios.order, folios.refcount, folios.mappings, folios.pins, folios.shared,
                       folios.partially_mapped, folios.deferred, folios.held, *_slots(folios)):  # fmt: skip
            if column is not None and len(folios):
                columns.append(np.where(self.folio >= 0, column[np.maximum(self.folio, 0)], 0))
        return np.stack([column.astype(np.int64) for column in columns], axis=1)

    def folded(self, pages: Numbers, mapping: Numbers) -> Iterator[tuple[int, int]]:
        """Neighbouring runs that say the same: first and last of them."""
        if not len(self.start):
            return
        new = np.ones(len(self.start), np.bool_)
        apart = pages[self.start[1:]] != pages[self.end[:-1] - 1] + 1
        new[1:] = apart | (np.diff(mapping[self.start]) != 0) | (np.diff(self._keys, axis=0) != 0).any(axis=1)
        first = np.flatnonzero(new)
        yield from zip(first.tolist(), [*(first[1:] - 1).tolist(), len(new) - 1], strict=True)


def _slots(folios: FoundFolios) -> tuple[Numbers, ...]:
    if folios.mm_id is None or folios.mm_id_mapcount is None:
        return ()
    return tuple(column for pair in (folios.mm_id, folios.mm_id_mapcount) for column in pair.T)


def _sums(flags: Flags, starts: Numbers) -> Numbers:
    return np.add.reduceat(flags.astype(np.int64), starts) if len(starts) else starts


# --- as text --------------------------------------------------------------------------------------------------------


def look_text(seen: Process) -> str:
    """A process as text: per mapping its folios, like neighbours folded; then totals. Names are made harmless."""
    return "\n".join(map(printable, _lines(seen)))


def _lines(seen: Process) -> Iterator[str]:
    pages, folios = seen.pages, seen.folios
    count, places = len(pages.page), len(seen.mappings)
    held = f"{many(count, 'page')} in {many(len(folios), 'folio')}, {many(places, 'mapping')}"
    yield f"P{seen.pid} {seen.name}: {held}"
    if seen.missing:
        yield seen.missing
    runs = _Runs(seen)
    last = -1
    for first, stop in runs.folded(pages.page, pages.mapping):
        number = int(pages.mapping[runs.start[first]])
        if number != last:
            area, last = seen.mappings[number], number
            size = many(area.end - area.start, "page")
            yield f"{area.start << 12:#x}  {size}  {area.access}  {area.name}".rstrip()
        low = int(pages.page[runs.start[first]]) - seen.mappings[number].start
        high = int(pages.page[runs.end[stop] - 1]) - seen.mappings[number].start
        place = f"{low}" if low == high else f"{low}-{high}"
        times = f"{stop - first + 1:,} × " if stop > first else ""
        yield f"  {place:>13}  {times}{', '.join(_said(seen, runs, first))}"
    yield "in all"
    yield from (f"  {line}" for line in _totals(seen))


def _said(seen: Process, runs: _Runs, at: int) -> Iterator[str]:
    """A run in words."""
    folios, folio = seen.folios, int(runs.folio[at])
    here = slice(int(runs.start[at]), int(runs.end[at]))
    if folio == ZERO_PAGE:
        yield "zero page"
        return
    size, offset, order = here.stop - here.start, int(runs.offset[at]), int(folios.order[folio])
    whole = size == 1 << order
    part = "" if whole else f" page {offset}" if size == 1 else f" pages {offset}-{offset + size - 1}"
    yield f"order {order}{part}" + (", by a PMD" if seen.pages.huge[here.start] else "")
    if folios.refcount is not None:
        yield f"refs {folios.refcount[folio]}"
    if folios.mappings is not None and order:
        yield f"mapped {folios.mappings[folio]}×"
    least, most = int(runs.least[at]), int(runs.most[at])
    yield f"each page {least}×" if least == most else f"pages {_counts(seen, here)}"
    if folios.exclusive is not None and runs.exclusive is not None:
        yield _some("exclusive", int(runs.exclusive[at]), size, folios.exclusive[_at(seen, here)], offset)
    if seen.pages.writable is not None and runs.writable is not None:
        yield _some("writable", int(runs.writable[at]), size, seen.pages.writable[here], offset)
    yield from folio_words(seen, folio)


def folio_words(seen: Process, folio: int) -> Iterator[str]:
    """What else is known of a whole folio."""
    folios = seen.folios
    if folios.mm_id is not None and folios.mm_id_mapcount is not None and folios.order[folio]:
        slots = zip(folios.mm_id[folio].tolist(), folios.mm_id_mapcount[folio].tolist(), strict=True)
        yield "slots " + (" ".join(f"{seen.owner(mm)}:{count}" for mm, count in slots if mm) or "free")
    if folios.pins is not None and folios.pins[folio]:
        yield f"pins {folios.pins[folio]}"
    for column, words in (
        (folios.shared, "maybe mapped shared"), (folios.partially_mapped, "partially mapped"),
        (folios.deferred, "deferred"),
    ):  # fmt: skip
        if column is not None and column[folio]:
            yield words
    if held := int(np.count_nonzero(folios.mapcount[folios.first[folio] : folios.first[folio + 1]] == 0)):
        yield f"{held} held and not mapped"


def _at(seen: Process, here: slice) -> Numbers:
    """Where pages stand in the folios' columns of pages."""
    found: Numbers = seen.folios.first[seen.pages.folio[here]] + seen.pages.offset[here]
    return found


def _counts(seen: Process, here: slice) -> str:
    """1 1 1 2 as ``1××3 2×``."""
    mapcount = seen.folios.mapcount[_at(seen, here)]
    edges = np.flatnonzero(np.diff(mapcount)) + 1
    pieces = [(int(part[0]), len(part)) for part in np.split(mapcount, edges)]
    told = [f"{count}×" if pages == 1 else f"{count}× ({pages} pages)" for count, pages in pieces]
    return " ".join(told if len(told) <= 8 else [*told[:6], "…", told[-1]])


def _some(word: str, count: int, size: int, flags: Flags, offset: int) -> str:
    if count in (0, size):
        return word if count else f"not {word}"
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False])) + offset
    pairs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    told = [f"{lo}" if hi - lo == 1 else f"{lo}-{hi - 1}" for lo, hi in pairs]
    return f"{word} " + " ".join(told if len(told) <= 8 else [*told[:6], "…", told[-1]])


def _totals(seen: Process) -> Iterator[str]:
    folios, pages = seen.folios, seen.pages
    orders, unmapped = int(folios.order.max(initial=0)) + 1, folios.held
    mapped = np.bincount(folios.order[pages.folio[pages.folio >= 0]], minlength=orders)
    for order in np.unique(folios.order).tolist():
        these = folios.order == order
        count = int(these.sum())
        told = [f"order {order}: {many(count, 'folio')}, {mapped[order]:,} of {count << order:,} pages mapped here"]
        if held := int(unmapped[these].sum()):
            told.append(f"{held:,} held and mapped by nobody")
        for column, words in (
            (folios.shared, "maybe mapped shared"), (folios.partially_mapped, "partially mapped"),
            (folios.deferred, "deferred"), (folios.pins, "pinned"),
        ):  # fmt: skip
            if column is not None and (number := int(np.count_nonzero(column[these]))):
                told.append(f"{number:,} {words}")
        yield ", ".join(told)
    if zero := int(np.count_nonzero(pages.folio == ZERO_PAGE)):
        yield f"zero page: mapped at {many(zero, 'page')}"
    if not len(pages.page):
        yield "no anonymous page"


# --- as a picture ---------------------------------------------------------------------------------------------------


def look_picture(seen: Process) -> Picture:
    """A process as the picture of its pages and folios; of very many pages the first `SHOWN_PAGES`.

    Pages have numbers of their own there: each mapping begins at the next multiple of 512, but for its own place in
    2 MiB.
    """
    return Picture(look_scene(seen))


def look_scene(seen: Process) -> Scene:
    """The same as a scene."""
    pages, folios = seen.pages, seen.folios
    shown = slice(0, SHOWN_PAGES)
    bases = _bases(seen)
    entries = _entries(seen, shown, bases)
    # Letters go by where folios are mapped, not by where they lie.
    mapped, met = np.unique(entries.folio[entries.folio >= 0], return_index=True)
    mapped = mapped[np.argsort(met)]
    named = np.zeros(len(folios), np.int64)
    named[mapped] = np.arange(len(mapped))
    folio = np.where(entries.folio >= 0, named[np.maximum(entries.folio, 0)] if len(folios) else 0, entries.folio)
    entries = entries._replace(folio=folio)
    no = np.zeros(len(entries.vpn), np.bool_)
    there = np.unique(entries.mapping).tolist()
    areas = [(seen.mappings[at], bases[at]) for at in there]
    mappings = tuple(
        (area.start - base, area.end - base, " ".join(filter(None, (area.access, area.name)))) for area, base in areas
    )
    said = f"Process {seen.pid} ({seen.name}) maps {len(pages.page):,} pages of {len(folios):,} anonymous folios."
    if len(pages.page) > SHOWN_PAGES:
        said += f" The picture shows the first {SHOWN_PAGES:,} pages."
    table = Table(seen.pid, True, len(pages.page), entries, no, no, mappings)
    return Scene(
        "this kernel", " · ".join(filter(None, (f"P{seen.pid} {seen.name}", seen.missing))), said, (table,),
        placed([_folio(seen, at, number) for at, number in enumerate(mapped.tolist())], (table,)), (),
        acting=seen.pid, tables_only=bool(seen.missing), wide=is_wide((table,), True),
    )  # fmt: skip


def _bases(seen: Process) -> list[int]:
    """What is taken from the page numbers of each mapping."""
    bases, following = [], 0
    for area in seen.mappings:
        bases.append(area.start // PTRS_PER_PMD * PTRS_PER_PMD - following)
        following += -(-(area.end - bases[-1] - following) // PTRS_PER_PMD) * PTRS_PER_PMD
    return bases


def _entries(seen: Process, shown: slice, bases: list[int]) -> Entries:
    """What is mapped, and what is not in rows of 16 in which something is."""
    pages, folios = seen.pages, seen.folios
    page, mapping, folio = pages.page[shown], pages.mapping[shown], pages.folio[shown]
    rows = np.unique(np.stack([mapping, page // COLUMNS], axis=1), axis=0)
    every = (rows[:, 1, None] * COLUMNS + np.arange(COLUMNS)).ravel()
    owner = np.repeat(rows[:, 0], COLUMNS)
    start, end = (np.array([getattr(area, name) for area in seen.mappings], np.int64) for name in ("start", "end"))
    inside = (every >= start[owner]) & (every < end[owner]) if len(owner) else np.zeros(0, np.bool_)
    every, owner = every[inside], owner[inside]
    at = np.searchsorted(every, page)

    def column(values: Numbers | Flags, nothing: int) -> Numbers:
        whole = np.full(len(every), nothing)
        whole[at] = values
        return whole

    number = np.where(folio == ZERO_PAGE, ZERO, folio)
    large = (folio >= 0) & (folios.order[np.maximum(folio, 0)] > 0) if len(folios) else folio >= 0
    writable = np.zeros(len(page), np.bool_) if pages.writable is None else pages.writable[shown]
    return Entries(
        every - np.array(bases, np.int64)[owner] if len(owner) else every, owner, column(number, NONE),
        column(pages.offset[shown], 0), column(large, 0) > 0, column(writable, 0) > 0, column(pages.huge[shown], 0) > 0,
    )  # fmt: skip


def _folio(seen: Process, letter: int, number: int) -> Folio:
    folios, order = seen.folios, int(seen.folios.order[number])
    here = slice(int(folios.first[number]), int(folios.first[number + 1]))
    mapcount = folios.mapcount[here].astype(np.int16)
    none = np.zeros(1 << order, np.int64)
    counts: Counts | None = None
    slots: tuple[tuple[int, int], ...] = ()
    if folios.refcount is not None and folios.mappings is not None and folios.pins is not None:
        known = (folios.refcount, folios.mappings, folios.pins)
        counts = Counts(*(Count(int(column[number]), int(column[number])) for column in known))
    if folios.mm_id is not None and folios.mm_id_mapcount is not None:
        pairs = zip(folios.mm_id[number].tolist(), folios.mm_id_mapcount[number].tolist(), strict=True)
        slots = tuple((seen.owners.get(mm, -mm), count) for mm, count in pairs if mm)
    return Folio(
        letter, order, False, mapcount, mapcount, none > 0, None,
        none > 0 if folios.exclusive is None else folios.exclusive[here], none, none, counts, slots,
        _is(folios.shared, number), _is(folios.partially_mapped, number), deferred=_is(folios.deferred, number),
    )  # fmt: skip


def _is(column: Flags | None, number: int) -> bool:
    return column is not None and bool(column[number])
