"""A scene as plain text of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from ..kernel.record import Fault
from .drawing import printable
from .scene import Folio, Scene, alike
from .table import Cell, Flags, Row, Table, letter, rows
from .words import TRAILS, more_faults

COLUMNS = 16
WIDTH = 100


def to_text(scene: Scene) -> str:
    """The scene as text; what a terminal could take for a command is replaced."""
    return "\n".join(map(printable, _lines(scene)))


def _lines(scene: Scene) -> Iterator[str]:
    yield scene.heading
    yield from _wrapped(scene.sentence)
    for table in scene.tables:
        yield from _table(table, scene)
    freed = ", ".join(map(letter, scene.freed))
    yield "memory" + (f" (freed by this step: {freed})" if freed else "")
    if not scene.folios:
        yield "  no folio"
    for folios in alike(scene.folios):
        yield from _folios(folios, scene.tables_only)
    if scene.counters:
        paths = ", ".join(f"{counter.what} {counter}" for counter in scene.paths()) or "none"
        yield from _wrapped(f"faults: {paths}", later=2)
        yield from _wrapped(", ".join(f"{counter.what} {counter}" for counter in scene.totals()), later=2)
    yield from _trail(scene.faults)
    written = "" if scene.tables_only else "w writable, - read-only, "
    yield f"[{written}z zero page, . nothing mapped, > faulted, * changed by this step]"


def _wrapped(words: str, width: int = WIDTH, first: int = 0, later: int = 0, *, hyphens: bool = True) -> list[str]:
    """Lines, the first and the later ones indented."""
    return textwrap.wrap(
        words, width, initial_indent=" " * first, subsequent_indent=" " * later, break_on_hyphens=hyphens
    )


# --- page tables ----------------------------------------------------------------------------------------------------


def _table(table: Table, scene: Scene) -> Iterator[str]:
    if not table.alive:
        yield f"P{table.process}  exited"
        return
    held = f"  {', '.join(table.holdings)}" if table.holdings else ""
    yield f"P{table.process}  RSS {table.rss_pages}{held}"
    told = [f"{start}-{end - 1} {words}".strip() for start, end, words in table.mappings]
    if len(told) > 1 or any(words for *_, words in table.mappings):
        yield from _wrapped("mappings: " + ", ".join(told), first=2, later=4, hyphens=False)
    bare, found = scene.tables_only, list(rows(table, COLUMNS, scene.folds))
    width = max([4, *(len(_cell(cell, bare)) for row in found if not row.folded for cell in row.cells)]) + 1
    for row in found:
        yield from [_bar(row, bare)] if row.folded else _row(row, width, bare)


def _bar(row: Row, bare: bool) -> str:
    huge = ", one PMD entry" if row.huge else ""
    fault = f", page {row.fault} faulted" if row.fault is not None else ""
    first, last = (_cell(cell, bare) for cell in row.cells)
    return f"{row.cells[0].vpn:>4}  [{first} … {last}] ×{row.pages}{huge}{fault}"


def _row(row: Row, width: int, bare: bool) -> Iterator[str]:
    """One line, or two of half as many cells where the names are long."""
    columns = COLUMNS if 4 + COLUMNS * width <= WIDTH else COLUMNS // 2
    for half in range(0, COLUMNS, columns):
        cells = [cell for cell in row.cells if half <= cell.vpn % COLUMNS < half + columns]
        line = ""
        for cell in cells:
            line = line.ljust((cell.vpn % columns) * width) + _cell(cell, bare).rjust(width)
        if cells:
            yield f"{cells[0].vpn:>4}{line}"


def _cell(cell: Cell, bare: bool) -> str:
    mark = ">" if cell.faulting else "*" if cell.changed else ""
    edge = "" if cell.folio < 0 or bare else "w" if cell.writable else "-"
    return f"{mark}{cell.name or '.'}{edge}"


# --- memory and checks ----------------------------------------------------------------------------------------------


def _folios(folios: Sequence[Folio], bare: bool) -> Iterator[str]:
    folio = folios[0]
    name = folio.name if len(folios) == 1 else f"{folio.name} … {folios[-1].name} ({len(folios)} folios)"
    new = ["new"] if folio.fresh else []
    if bare:
        yield f"  {name}  order {folio.order}"
    elif folio.order:
        yield f"  {name}  order {folio.order}  " + ", ".join([*folio.facts()[1:], *new])
        yield f"       mapcount  {_runs(folio.mapcount.tolist())}"
        marks = [("exclusive", folio.exclusive), ("pinned", folio.pins > 0), ("referenced", folio.refs > 0)]
        told = [f"{what} {_ranges(flags)}" for what, flags in marks if what == "exclusive" or flags.any()]
        yield " " * 7 + "   ".join(told)
        if folio.content is not None:
            yield from _wrapped(f"bytes     {_runs(folio.content.tolist())}", WIDTH - 7, 7, 17)
    else:
        page = "exclusive" if folio.exclusive[0] else "maybe shared"
        bytes_ = [] if folio.content is None else [f"byte {folio.content[0]}" if len(folios) == 1 else "bytes vary"]
        yield f"  {name}  order 0  " + ", ".join([*folio.facts()[1:], page, *bytes_, *new])


def _runs(values: Sequence[int]) -> str:
    """1 1 1 2 as ``1×3 2``."""
    runs = [(value, len(list(same))) for value, same in groupby(values)]
    told = [f"{value}×{count}" if count > 2 else " ".join([str(value)] * count) for value, count in runs]
    return " ".join(told if len(told) <= 40 else [*told[:38], "…", told[-1]])


def _ranges(flags: Flags) -> str:
    """The true positions as ``0-6 8-15``, or none or all."""
    if flags.all():
        return "all"
    edges = np.flatnonzero(np.diff(np.r_[False, flags, False]))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return " ".join(f"{lo}" if hi - lo == 1 else f"{lo}-{hi - 1}" for lo, hi in pairs) or "none"


def _trail(faults: Sequence[Fault]) -> Iterator[str]:
    for fault in faults[:TRAILS]:
        yield f"why: process {fault.process} {fault.access} page {fault.vpn}: {fault.path} [{fault.code}]"
        for check in fault.checks:
            yield from _wrapped(str(check), WIDTH - 2, 2, 7)
    if more := more_faults(faults):
        yield f"  … and {more}"
