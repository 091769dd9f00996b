"""The picture of a state: page tables as strips of cells, folios under them, and why the last step did what it did.

Text in a terminal, SVG in a notebook, and one plain sentence for whoever listens. Everything is read from a
`Snapshot` and the `Result` that led to it; nothing is recomputed. A letter and a colour stand for one folio, and
``A5`` is page 5 of folio A, in a page-table entry as in memory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.pagetable import PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.record import COW_COPY, FIRST_TOUCH, ZERO_COPY, Counters
from ..kernel.sizes import GUP_PIN_COUNTING_BIAS, PMD_ORDER
from ..kernel.vma import VM_DONTCOPY, VM_NOHUGEPAGE, VM_READ, VM_WIPEONFORK, VM_WRITE
from ..machine.machine import Machine
from ..machine.show import show
from ..machine.snapshot import FolioView, MappingView, ProcessView, Snapshot
from ..program.scenario import Result, Timeline
from ..witness.comparing import ZERO, PageView, Recorded, page_view_of_cells
from .words import TRAILS, forks, more_faults, recorded_sentence, sentence, state_sentence

if TYPE_CHECKING:
    from .drawing import Drawing

ALLOCATING = (FIRST_TOUCH, ZERO_COPY, COW_COPY)

# --- letters --------------------------------------------------------------------------------------------------------


def letter(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA, as spreadsheets name columns."""
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


def letter_number(name: str) -> int:
    number = 0
    for char in name:
        number = number * 26 + ord(char) - ord("A") + 1
    return number - 1


def folio_letters(timeline: Timeline) -> list[dict[int, str]]:
    """Per moment (the start, then after each step) the letter of every folio: one per folio, never used again.

    A folio's number may be given to another once it is freed; its letter is not.
    """
    named = [{folio.id: letter(at) for at, folio in enumerate(timeline.start.folios)}]
    used = len(named[0])
    for result in timeline:
        fresh = [fault.folio for fault in result.faults if fault.path in ALLOCATING and fault.folio is not None]
        there = {folio.id for folio in result.snapshot.folios}
        now = {id: name for id, name in named[-1].items() if id in there and id not in fresh}
        for id in (*fresh, *(folio.id for folio in result.snapshot.folios)):
            if id in there and id not in now:
                now[id] = letter(used)
                used += 1
        named.append(now)
    return named


# --- what there is to draw ------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """Neighbours that are drawn as one row of cells, or folded into one bar: positions [lo, hi)."""

    lo: int
    hi: int
    folded: bool


FOLD_ROWS = 3
"""That many whole rows of equal neighbours, or more, are drawn as one bar."""


def spans(index: npt.NDArray[np.int64], keys: npt.NDArray[np.int64], columns: int, *, fold: bool = True) -> list[Span]:
    """Cut consecutive numbers into rows aligned to `columns`, and fold rows that go on alike.

    Parameters
    ----------
    index : ndarray of shape (cells,), int64
        Ascending page numbers.
    keys : ndarray of shape (cells, parts), int64
        Neighbours are alike when all parts are equal.
    """
    if not len(index):
        return []
    differs = np.ones(len(index), np.bool_)
    differs[1:] = (np.diff(index) != 1) | (np.diff(keys, axis=0) != 0).any(axis=1)
    row = index // columns
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    ends = np.r_[starts[1:], len(index)]
    inside = np.add.reduceat(differs, starts) - differs[starts]
    found: list[Span] = []
    group: list[tuple[int, int]] = []

    def flush() -> None:
        if fold and len(group) >= FOLD_ROWS:
            found.append(Span(group[0][0], group[-1][1], True))
        else:
            found.extend(Span(lo, hi, False) for lo, hi in group)
        group.clear()

    for lo, hi, breaks in zip(starts.tolist(), ends.tolist(), inside.tolist(), strict=True):
        if group and (breaks or differs[lo]):
            flush()
        group.append((lo, hi))
        if breaks:
            flush()
    flush()
    return found


class Entries(NamedTuple):
    """All page-table entries of a process, mapping after mapping: one position per page."""

    vpn: npt.NDArray[np.int64]
    mapping: npt.NDArray[np.int64]
    pte: npt.NDArray[np.uint8]
    pfn: npt.NDArray[np.int64]
    huge: npt.NDArray[np.bool_]


def _entries(process: ProcessView) -> Entries:
    views = process.mappings
    empty = np.zeros(0, np.int64)
    return Entries(
        np.concatenate([empty, *(np.arange(view.start, view.end) for view in views)]),
        np.concatenate([empty, *(np.full(view.end - view.start, at) for at, view in enumerate(views))]),
        np.concatenate([empty.astype(np.uint8), *(view.pte for view in views)]),
        np.concatenate([empty, *(np.where(view.present & ~view.zero, view.pfn, -1) for view in views)]),
        np.concatenate([empty.astype(np.bool_), *(view.huge for view in views)]),
    )


@dataclass(frozen=True, slots=True)
class Cell:
    """One page-table entry as drawn: ``name`` is A5, B, z, or empty."""

    vpn: int
    name: str
    folio: str
    writable: bool
    changed: bool
    faulting: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Cells side by side, or one bar for many: then `cells` holds the first and the last."""

    cells: tuple[Cell, ...]
    pages: int
    folded: bool
    huge: bool
    fault: int | None


@dataclass(frozen=True, slots=True)
class Strip:
    """One process: its rows, and its mappings as (start, end, words)."""

    process: ProcessView
    rows: tuple[Row, ...]
    mappings: tuple[tuple[int, int, str], ...]
    holdings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One folio as drawn: its letter, its state before the step if it was there, and per page what pins it.

    `has_mm_ids` says whether the kernel that is drawn keeps mm_id slots; another one has nothing to show of them.
    """

    name: str
    view: FolioView
    before: FolioView | None
    fresh: bool
    pins: npt.NDArray[np.int64]
    refs: npt.NDArray[np.int64]
    changed: npt.NDArray[np.bool_]
    has_mm_ids: bool

    @property
    def exclusive(self) -> npt.NDArray[np.bool_]:
        """PageAnonExclusive where it means something: the flag outlives the last mapping, and nobody reads it then."""
        return self.view.anon_exclusive & (self.view.mapcount > 0)

    def page(self, at: int) -> str:
        """A5; the letter alone for a folio of one page."""
        return f"{self.name}{at}" if self.view.order else self.name

    def facts(self) -> list[str]:
        """What is known of the folio as a whole, a changed number with what it was."""
        view, before = self.view, self.before or self.view
        told = [
            f"order {view.order}",
            f"refs {was_and_is(before.refcount, view.refcount)}",
            f"mapped {was_and_is(mappings_of(before), mappings_of(view))}×",
        ]
        if pin_count(view) or pin_count(before):
            told.append(f"pins {was_and_is(pin_count(before), pin_count(view))}")
        if self.has_mm_ids and view.order and view.mm_ids:
            told.append("mm_id " + " ".join(f"P{process}:{count}" for process, count in view.mm_ids))
        if self.has_mm_ids and view.maybe_mapped_shared:
            told.append("maybe mapped shared")
        if view.partially_mapped:
            told.append("partly mapped")
        return told


def mappings_of(view: FolioView) -> int:
    """How many page-table entries, PMDs included, map something of the folio."""
    return view.large_mapcount if view.order else int(view.mapcount[0])


def pin_count(view: FolioView) -> int:
    """Pins of the folio: counted for a large one, 1,024 references each for a small one."""
    return view.pincount if view.order else view.refcount // GUP_PIN_COUNTING_BIAS


def was_and_is(before: int | None, now: int) -> str:
    return f"{now}" if before is None or before == now else f"{before}→{now}"


MAPPING_WORDS = ((VM_WIPEONFORK, "wipe-on-fork"), (VM_DONTCOPY, "dont-fork"), (VM_NOHUGEPAGE, "no-huge"))
SHORT_WORDS = {"read-only": "ro", "wipe-on-fork": "wipe", "dont-fork": "dont", "no-huge": "4K"}
"""What stands over a mapping that is too narrow for the words."""


def _mapping_words(view: MappingView) -> str:
    words = [] if view.flags & VM_WRITE else ["read-only"]
    return " ".join(words + [word for flag, word in MAPPING_WORDS if view.flags & flag])


def _held_frames(snapshot: Snapshot | None) -> dict[int, tuple[int, int]]:
    """Frame -> how many pins and how many plain references hold it."""
    held: dict[int, tuple[int, int]] = {}
    for process in snapshot.processes if snapshot else ():
        for pin in process.pins:
            for pfn in pin.frames:
                pins, refs = held.get(pfn, (0, 0))
                held[pfn] = (pins + 1, refs) if pin.kind == "pin" else (pins, refs + 1)
    return held


def _held_in(
    view: FolioView, held: Mapping[int, tuple[int, int]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    counts = np.zeros((2, view.pages), np.int64)
    for pfn, count in held.items():
        if view.head <= pfn < view.head + view.pages:
            counts[:, pfn - view.head] = count
    return counts[0], counts[1]


class Picture:
    """A state, drawn: `text` for a terminal, `svg` for a notebook.

    Parameters
    ----------
    snapshot : Snapshot
        What to draw.
    result : Result, optional
        The step that led here: its trail of checks is shown, and the page that faulted.
    before : Snapshot, optional
        The state before that step: what changed since is outlined. Without it, the pages that faults acted on are.
    base : int
        The page number of the scenario's page 0, for the sentence.
    letters, letters_before : mapping of int to str, optional
        Folio number to letter (see `folio_letters`); by default folio 0 is A, 1 is B.
    heading : str
        What stands above the sentence; the policy's name by default.

    Attributes
    ----------
    most : dict of str to int
        The most that each counter comes to in the timeline, which the bars under the counters are measured by;
        empty for a state on its own, which has no bars.
    folds : bool
        Whether whole rows of pages that are alike are drawn as one bar; where one is to be clicked, they are not.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        result: Result | None = None,
        before: Snapshot | None = None,
        *,
        base: int = 0,
        letters: Mapping[int, str] | None = None,
        letters_before: Mapping[int, str] | None = None,
        heading: str = "",
    ) -> None:
        self.snapshot, self.result, self.before, self.base = snapshot, result, before, base
        self.letters = dict(letters) if letters is not None else {f.id: letter(f.id) for f in snapshot.folios}
        self.letters_before = dict(letters_before) if letters_before is not None else dict(self.letters)
        self.heading = heading or snapshot.policy
        self.tables_only, self.said = False, ""
        self.folds = True
        self.most: dict[str, int] = {}
        self._strips: dict[int, list[Strip]] = {}

    @classmethod
    def of(cls, timeline: Timeline, step: int | None = -1) -> Picture:
        """The picture after a step of a timeline, numbered as the timeline is; None for the state before the first."""
        shown = pictures(timeline)
        return shown[0] if step is None else shown[1:][step]

    @cached_property
    def wide(self) -> bool:
        """Whether rows have 32 cells, and the checks stand below: when a process would fill more than 3 rows of 16."""
        return any(sum(row.pages for row in strip.rows if not row.folded) > 48 for strip in self.strips(16))

    @property
    def sentence(self) -> str:
        """What the step did, in words; for a state without a step, what it holds."""
        if self.said:
            return self.said
        if self.result is not None:
            return sentence(self.result, self.base)
        return state_sentence(self.snapshot)

    # --- what to draw -------------------------------------------------------------------------------------------

    @cached_property
    def _heads(self) -> npt.NDArray[np.int64]:
        return np.array([folio.head for folio in self.snapshot.folios], np.int64)

    def _block_at(self, pfn: int) -> tuple[Block, int]:
        at = int(np.searchsorted(self._heads, pfn, "right")) - 1
        return self.blocks[at], pfn - int(self._heads[at])

    @cached_property
    def _fresh(self) -> set[int]:
        """Folios that this step allocated."""
        if self.before is None:
            faults = self.result.faults if self.result else ()
            return {fault.folio for fault in faults if fault.path in ALLOCATING and fault.folio is not None}
        return {id for id, name in self.letters.items() if self.letters_before.get(id) != name} | (
            {folio.id for folio in self.snapshot.folios} - {folio.id for folio in self.before.folios}
        )

    @cached_property
    def freed(self) -> list[str]:
        """Letters of the folios that this step freed."""
        if self.before is None:
            return []
        kept = {folio.id for folio in self.snapshot.folios} - self._fresh
        return [self.letters_before.get(folio.id, "?") for folio in self.before.folios if folio.id not in kept]

    @cached_property
    def blocks(self) -> list[Block]:
        """The folios, by first frame."""
        held, held_before = _held_frames(self.snapshot), _held_frames(self.before)
        earlier = {folio.id: folio for folio in self.before.folios} if self.before else {}
        found = []
        for view in self.snapshot.folios:
            fresh = view.id in self._fresh
            before = None if fresh else earlier.get(view.id)
            pins, refs = _held_in(view, held)
            changed = np.full(view.pages, fresh)
            if before is not None:
                pins_before, refs_before = _held_in(view, held_before)
                changed |= (view.content != before.content) | (view.mapcount != before.mapcount)
                changed |= (
                    (view.anon_exclusive != before.anon_exclusive) | (pins != pins_before) | (refs != refs_before)
                )
            name = self.letters.get(view.id, "?")
            found.append(Block(name, view, before, fresh, pins, refs, changed, self.snapshot.has_mm_ids))
        return found

    @property
    def by_letter(self) -> list[Block]:
        """The folios in the order of their letters: what is drawn stays where it was when a new one comes."""
        return sorted(self.blocks, key=lambda block: (len(block.name), block.name))

    def strips(self, columns: int) -> list[Strip]:
        """The processes, in rows of up to that many cells."""
        if columns not in self._strips:
            self._strips[columns] = [self._strip(process, columns) for process in self.snapshot.processes]
        return self._strips[columns]

    def _strip(self, process: ProcessView, columns: int) -> Strip:
        entries = _entries(process)
        changed = self._changed(process, entries)
        faults = [f.vpn for f in self.result.faults if f.process == process.number] if self.result else []
        faulting = np.isin(entries.vpn, faults)
        folio = np.searchsorted(self._heads, entries.pfn, "right").astype(np.int64)
        orders = np.array([0, *(view.order for view in self.snapshot.folios)], np.int64)
        small = (entries.pfn >= 0) & (orders[folio] == 0)
        # Pages of one large folio are alike when they follow each other in it; small folios are alike as such.
        kind = np.where(entries.pfn >= 0, np.where(small, -1, folio), np.where(entries.pte & PTE_SPECIAL, -2, -3))
        keys = np.stack(
            [
                entries.mapping, kind, np.where(kind > 0, entries.vpn - entries.pfn, 0), entries.pte & PTE_WRITE,
                np.where(entries.huge, entries.vpn >> 9, -1), changed, faulting & ~entries.huge,
            ],
            axis=1,
        ).astype(np.int64)  # fmt: skip
        rows = [
            self._row(span, entries, changed, faulting) for span in spans(entries.vpn, keys, columns, fold=self.folds)
        ]
        words = tuple((view.start, view.end, _mapping_words(view)) for view in process.mappings)
        return Strip(process, tuple(rows), words, tuple(self._holdings(process)))

    def _row(
        self, span: Span, entries: Entries, changed: npt.NDArray[np.bool_], faulting: npt.NDArray[np.bool_]
    ) -> Row:
        at = (span.lo, span.hi - 1) if span.folded else range(span.lo, span.hi)
        cells = []
        for here in at:
            name, folio = "", ""
            if entries.pfn[here] >= 0:
                block, offset = self._block_at(int(entries.pfn[here]))
                name, folio = block.page(offset), block.name
            elif entries.pte[here] & PTE_SPECIAL:
                name = "z"
            cells.append(
                Cell(
                    int(entries.vpn[here]), name, folio, bool(entries.pte[here] & PTE_WRITE), bool(changed[here]),
                    bool(faulting[here]),
                )
            )  # fmt: skip
        hit = np.flatnonzero(faulting[span.lo : span.hi])
        fault = int(entries.vpn[span.lo + hit[-1]]) if len(hit) else None
        return Row(tuple(cells), span.hi - span.lo, span.folded, bool(entries.huge[span.lo]), fault)

    def _changed(self, process: ProcessView, now: Entries) -> npt.NDArray[np.bool_]:
        if self.before is None:
            changed = np.zeros(len(now.vpn), np.bool_)
            for fault in self.result.faults if self.result else ():
                if fault.process == process.number:
                    changed |= (now.vpn >= fault.pages.start) & (now.vpn < fault.pages.stop)
            return changed
        if process.number >= len(self.before.processes):
            return now.pte > 0
        was = _entries(self.before.processes[process.number])
        there = np.isin(now.vpn, was.vpn)
        at = np.searchsorted(was.vpn, now.vpn[there])
        shown = PTE_PRESENT | PTE_WRITE | PTE_SPECIAL
        changed = ~there & (now.pte > 0)
        fresh = [
            frame
            for block in self.blocks
            if block.fresh
            for frame in range(block.view.head, block.view.head + block.view.pages)
        ]
        changed[there] = (
            (now.pte[there] & shown != was.pte[at] & shown)
            | (now.pfn[there] != was.pfn[at])
            | (now.huge[there] != was.huge[at])
            | np.isin(now.pfn[there], fresh)
        )
        return changed

    def _holdings(self, process: ProcessView) -> Iterator[str]:
        for pin in process.pins:
            names = []
            for pfn in pin.frames:
                if self.snapshot.folio_at(pfn) is None:
                    names.append("z")
                else:
                    block, offset = self._block_at(pfn)
                    names.append(block.page(offset))
            kind = "pin" if pin.kind == "pin" else "ref"
            only = " reads" if kind == "pin" and not pin.writable else ""
            yield f"{kind} {pin.id}{only}: " + (names[0] if len(names) == 1 else f"{names[0]}–{names[-1]}")

    def counted(self) -> list[tuple[str, int, int | None]]:
        """(what, how much, before) of the counters that the picture shows."""
        snapshot, before = self.snapshot, self.before
        now, was = snapshot.counters, before.counters if before else None

        def of(name: str) -> tuple[int, int | None]:
            return getattr(now, name), getattr(was, name) if was else None

        return [
            *((f"pages {name}", *of(name)) for name in ("zeroed", "copied", "scanned", "flushed")),
            ("RSS", snapshot.rss_pages, before.rss_pages if before else None),
            ("held", snapshot.held_pages, before.held_pages if before else None),
            ("waste", snapshot.waste_pages, before.waste_pages if before else None),
        ]

    def faults_by_path(self) -> list[tuple[str, int, int | None]]:
        """(path, how many faults, before) of every path that was taken."""
        was = self.before.counters.faults if self.before else None
        return [
            (path, count, was.get(path, 0) if was is not None else None)
            for path, count in self.snapshot.counters.faults.items()
            if count
        ]

    def all_counted(self) -> list[tuple[str, int, int | None]]:
        """Faults, faults by path, and `counted`."""
        paths = self.faults_by_path()
        was = None if self.before is None else sum(self.before.counters.faults.values())
        return [("faults", sum(now for _, now, _ in paths), was), *paths, *self.counted()]

    # --- shown --------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The picture as plain text of at most 100 columns."""
        return "\n".join(_text_lines(self))

    def __repr__(self) -> str:
        return self.text()

    def svg(self, height: float = 0) -> str:
        """The picture as one SVG document, at least that high (in its own units; its width is 900)."""
        return "".join(self.fragments(height))

    def fragments(self, height: float = 0) -> list[str]:
        """The pieces whose concatenation is the SVG: one per cell, folio, label."""
        return self._drawing.fragments(height)

    @property
    def height(self) -> float:
        """How high the SVG is by itself, in its own units."""
        return self._drawing.height

    @cached_property
    def _drawing(self) -> Drawing:
        from .drawing import Drawing

        return Drawing(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": self.text()}


def pictures(timeline: Timeline) -> list[Picture]:
    """One picture per moment of a timeline: the start, then after each step; letters stay with their folios."""
    letters = folio_letters(timeline)
    base, total = timeline.scenario.first_vpn, len(timeline)
    where = f" · page 0 of the scenario is page {base}" if base else ""
    shown = [Picture(timeline.start, base=base, letters=letters[0], heading=f"{timeline.policy.name} · start{where}")]
    for at, result in enumerate(timeline):
        before = timeline[at - 1].snapshot if at else timeline.start
        shown.append(
            Picture(
                result.snapshot, result, before, base=base, letters=letters[at + 1], letters_before=letters[at],
                heading=f"{timeline.policy.name} · step {at + 1} of {total} · {' '.join(map(str, result.step))}{where}",
            )
        )  # fmt: skip
    most = {what: 0 for picture in shown for what, _, _ in picture.all_counted()}
    for picture in shown:
        picture.most = most
        for what, now, _ in picture.all_counted():
            most[what] = max(most[what], now)
    return _same_layout(shown)


def _same_layout(shown: list[Picture]) -> list[Picture]:
    """Rows of one length in all of them, so that nothing jumps from step to step."""
    wide = any(picture.wide for picture in shown)
    for picture in shown:
        picture.wide = wide
    return shown


# --- text -----------------------------------------------------------------------------------------------------------

TEXT_COLUMNS = 16
TEXT_WIDTH = 100


def _text_lines(picture: Picture) -> Iterator[str]:
    yield picture.heading
    yield from textwrap.wrap(picture.sentence, TEXT_WIDTH)
    for strip in picture.strips(TEXT_COLUMNS):
        yield from _text_strip(strip, picture.tables_only)
    yield "memory" + (f" (freed by this step: {', '.join(picture.freed)})" if picture.freed else "")
    if not picture.blocks:
        yield "  no folio"
    for blocks in alike(picture.by_letter):
        yield from _text_blocks(blocks, picture.tables_only)
    if not picture.tables_only:
        yield from _text_counters(picture)
    yield from _text_trail(picture)
    written = "" if picture.tables_only else "w writable, - read-only, "
    yield f"[{written}z zero page, . nothing mapped, > faulted, * changed by this step]"


def _text_strip(strip: Strip, tables_only: bool) -> Iterator[str]:
    process = strip.process
    held = f"  {', '.join(strip.holdings)}" if strip.holdings else ""
    if not process.alive:
        yield f"P{process.number}  exited"
        return
    yield f"P{process.number}  RSS {process.rss_pages}{held}"
    told = [f"{start}-{end - 1} {words}".strip() for start, end, words in strip.mappings]
    if len(told) > 1 or any(words for *_, words in strip.mappings):
        yield from textwrap.wrap("mappings: " + ", ".join(told), TEXT_WIDTH, initial_indent="  ",
                                 subsequent_indent="    ", break_on_hyphens=False)  # fmt: skip
    open_cells = [_text_cell(cell, tables_only) for row in strip.rows if not row.folded for cell in row.cells]
    width = max([4, *map(len, open_cells)]) + 1
    for row in strip.rows:
        yield _text_bar(row, tables_only) if row.folded else "\n".join(_text_row(row, width, tables_only))


def _text_bar(row: Row, tables_only: bool) -> str:
    huge = ", one PMD entry" if row.huge else ""
    fault = f", page {row.fault} faulted" if row.fault is not None else ""
    first, last = (_text_cell(cell, tables_only) for cell in row.cells)
    return f"{row.cells[0].vpn:>4}  [{first} … {last}] ×{row.pages}{huge}{fault}"


def _text_row(row: Row, width: int, tables_only: bool) -> Iterator[str]:
    """One line, or two of half as many cells where the names are long."""
    columns = TEXT_COLUMNS if 4 + TEXT_COLUMNS * width <= TEXT_WIDTH else TEXT_COLUMNS // 2
    for half in range(0, TEXT_COLUMNS, columns):
        cells = [cell for cell in row.cells if half <= cell.vpn % TEXT_COLUMNS < half + columns]
        line = ""
        for cell in cells:
            line = line.ljust((cell.vpn % columns) * width) + _text_cell(cell, tables_only).rjust(width)
        if cells:
            yield f"{cells[0].vpn:>4}{line}"


def _text_cell(cell: Cell, tables_only: bool) -> str:
    mark = ">" if cell.faulting else "*" if cell.changed else ""
    if not cell.name:
        return f"{mark}."
    return f"{mark}{cell.name}" + ("" if cell.name == "z" or tables_only else "w" if cell.writable else "-")


def _text_blocks(blocks: Sequence[Block], tables_only: bool) -> Iterator[str]:
    block = blocks[0]
    name = block.name if len(blocks) == 1 else f"{block.name} … {blocks[-1].name} ({len(blocks)} folios)"
    if tables_only:
        yield f"  {name}  order {block.view.order}"
        return
    facts = [fact for fact in block.facts() if not fact.startswith("order")]
    new = ["new"] if block.fresh else []
    if block.view.order:
        yield f"  {name}  order {block.view.order}  " + ", ".join(facts + new)
        yield f"       mapcount  {_runs(block.view.mapcount.tolist())}"
        yield (
            f"       exclusive {_ranges(block.exclusive)}"
            + (f"   pinned {_ranges(block.pins > 0)}" if block.pins.any() else "")
            + (f"   referenced {_ranges(block.refs > 0)}" if block.refs.any() else "")
        )
        yield from textwrap.wrap(f"bytes     {_runs(block.view.content.tolist())}", TEXT_WIDTH - 7,
                                 initial_indent=" " * 7, subsequent_indent=" " * 17)  # fmt: skip
        return
    exclusive = ["exclusive"] if block.exclusive[0] else ["maybe shared"]
    bytes_ = [f"byte {block.view.content[0]}" if len(blocks) == 1 else "bytes vary"]
    yield f"  {name}  order 0  " + ", ".join(facts + exclusive + bytes_ + new)


def _runs(values: Sequence[int]) -> str:
    """1 1 1 2 as ``1×3 2``."""
    told: list[list[int]] = []
    for value in values:
        if told and told[-1][0] == value:
            told[-1][1] += 1
        else:
            told.append([value, 1])
    shown = [f"{value}×{count}" if count > 2 else " ".join([str(value)] * count) for value, count in told]
    return " ".join(shown if len(shown) <= 40 else [*shown[:38], "…", shown[-1]])


def _ranges(flags: npt.NDArray[np.bool_]) -> str:
    """The true positions as ``0-6 8-15``, or none or all."""
    if flags.all():
        return "all"
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False]))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return " ".join(f"{lo}" if hi - lo == 1 else f"{lo}-{hi - 1}" for lo, hi in pairs) or "none"


def delta(now: int, was: int | None) -> str:
    return f"{now}" if was is None or was == now else f"{now} ({now - was:+})"


def _text_counters(picture: Picture) -> Iterator[str]:
    faults = ", ".join(f"{path} {delta(now, was)}" for path, now, was in picture.faults_by_path()) or "none"
    counted = ", ".join(f"{what} {delta(now, was)}" for what, now, was in picture.counted())
    yield from textwrap.wrap(f"faults: {faults}", TEXT_WIDTH, subsequent_indent="  ")
    yield from textwrap.wrap(counted, TEXT_WIDTH, subsequent_indent="  ")


def _text_trail(picture: Picture) -> Iterator[str]:
    faults = picture.result.faults if picture.result else ()
    for fault in faults[:TRAILS]:
        yield f"why: process {fault.process} {fault.access} page {fault.vpn}: {fault.path} [{fault.code}]"
        for check in fault.checks:
            yield from textwrap.wrap(str(check), TEXT_WIDTH - 2, initial_indent="  ", subsequent_indent="       ")
    if more := more_faults(faults):
        yield f"  … and {more}"


FOLD_FOLIOS = 16
"""With more folios than this, neighbours of order 0 that are alike and did not change are drawn as one."""


def alike(blocks: Sequence[Block]) -> list[list[Block]]:
    """Folios in the order of memory, those of order 0 that tell the same story together."""
    groups: list[list[Block]] = []
    for block in blocks:
        if len(blocks) > FOLD_FOLIOS and groups and _story(block) == _story(groups[-1][-1]) is not None:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _story(block: Block) -> tuple[Any, ...] | None:
    if block.view.order or block.changed.any() or block.pins.any() or block.refs.any():
        return None
    facts = block.facts()
    return None if "→" in "".join(facts) else (*facts, bool(block.exclusive[0]))


# --- recordings -----------------------------------------------------------------------------------------------------


def recorded_pictures(recorded: Recorded) -> list[Picture]:
    """One picture per moment of a recorded program: page tables only, for that is what a recording holds.

    The start is drawn empty: nothing is touched yet.
    """
    base, pages = recorded.scenario.first_vpn, recorded.scenario.pages
    letters: dict[tuple[int, int], int] = {}
    views: list[dict[int, PageView]] = [{0: page_view_of_cells([0] * pages)}, *(seen.view for seen in recorded.seen())]
    moments = [
        _recorded_snapshot(recorded.kernel, view, 1 + forks(recorded, at), base, letters)
        for at, view in enumerate(views)
    ]
    names = {number: letter(number) for number in letters.values()}
    shown = []
    for at, now in enumerate(moments):
        step = recorded.scenario.steps[at - 1] if at else None
        words = f"step {at} of {len(moments) - 1} · {' '.join(map(str, step))}" if step else "start"
        picture = Picture(now, None, moments[at - 1] if at else None, base=base, letters=names,
                          heading=f"recorded on {recorded.kernel} · {words}")  # fmt: skip
        picture.tables_only = True
        picture.said = recorded_sentence(recorded, at - 1) if at else "Nothing is mapped yet."
        shown.append(picture)
    return _same_layout(shown)


def _recorded_snapshot(
    kernel: str,
    views: Mapping[int, PageView],
    processes: int,
    base: int,
    letters: dict[tuple[int, int], int],
) -> Snapshot:
    """Page tables in the shape of a snapshot; a folio's head is made up, and grows `letters` when it is new."""
    orders: dict[int, int] = {}
    mapped: dict[int, npt.NDArray[np.int16]] = {}
    tables: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]] = {}
    for number, view in views.items():
        zero = np.where(view.folio == ZERO, PTE_PRESENT | PTE_SPECIAL, 0)
        pfn = np.zeros(len(view.folio), np.int32)
        for at in np.flatnonzero(view.folio >= 0).tolist():
            size, offset = int(view.size[at]), int(view.offset[at])
            id = letters.setdefault((int(view.folio[at]), size), len(letters))
            orders[id] = size.bit_length() - 1
            mapped.setdefault(id, np.zeros(size, np.int16))[offset] += 1
            pfn[at] = (id << PMD_ORDER) + offset
        tables[number] = (np.where(view.folio >= 0, PTE_PRESENT, zero).astype(np.uint8), pfn)
    folios = tuple(_recorded_folio(id, orders[id], mapped[id]) for id in sorted(orders))
    live = tuple(_recorded_process(number, base, tables.get(number)) for number in range(processes))
    return Snapshot(f"recorded on {kernel}", live, folios, sum(folio.pages for folio in folios), Counters())


def _recorded_folio(id: int, order: int, mapped: npt.NDArray[np.int16]) -> FolioView:
    unknown = np.zeros(1 << order, np.uint8)
    return FolioView(id, id << PMD_ORDER, order, 0, 0, 0, (), False, False, unknown, mapped, unknown.astype(np.bool_))


def _recorded_process(
    number: int, base: int, table: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]] | None
) -> ProcessView:
    if table is None:
        return ProcessView(number, False, 0, (), ())
    pte, pfn = table
    view = MappingView(base, base + len(pte), VM_READ | VM_WRITE, pte, pfn, np.zeros(len(pte), np.bool_))
    return ProcessView(number, True, int(np.count_nonzero(pte == PTE_PRESENT)), (view,), ())


@show.register
def _show_machine(machine: Machine, at: int | None = None) -> Picture:
    return Picture(machine.snapshot())


@show.register
def _show_timeline(timeline: Timeline, at: int | None = None) -> Picture:
    return Picture.of(timeline, at)
