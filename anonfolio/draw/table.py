"""A process's page table as a value to be drawn: per page what it maps, and the rows of cells that shows it.

A folio is a number that stands for it as long as it lives; its letter is the name of that number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.sizes import PMD_ORDER
from ..witness.comparing import GUARD, NONE, ZERO

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


def letter(number: int) -> str:
    """0 is A, 25 is Z, 26 is AA, as spreadsheets name columns."""
    name = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


def page_name(folio: int, offset: int, large: bool) -> str:
    """A5 is page 5 of folio A; the letter alone is a folio of one page."""
    return f"{letter(folio)}{offset}" if large else letter(folio)


class Entries(NamedTuple):
    """All page-table entries of a process, mapping after mapping: one position per page, ascending.

    Parameters
    ----------
    vpn : ndarray of shape (pages,), int64
        Page numbers.
    mapping : ndarray of shape (pages,), int64
        Which of the process's mappings, in order.
    folio : ndarray of shape (pages,), int64
        The folio's number; NONE, ZERO for the zero page, or GUARD for a guard page.
    offset : ndarray of shape (pages,), int64
        Which page of the folio.
    large, writable, huge : ndarray of shape (pages,), bool
        Whether the folio has several pages, the hardware may write, a PMD maps the page.
    """

    vpn: Numbers
    mapping: Numbers
    folio: Numbers
    offset: Numbers
    large: Flags
    writable: Flags
    huge: Flags

    def changed_since(self, was: Entries | None) -> Flags:
        """Which of them differ from what the process mapped there before; None: there was no such process."""
        changed: Flags = self.folio != NONE
        if was is None:
            return changed
        there = np.isin(self.vpn, was.vpn)
        at = np.searchsorted(was.vpn, self.vpn[there])
        changed[there] = np.any([now[there] != old[at] for now, old in zip(self[2:], was[2:], strict=True)], axis=0)
        return changed


_NO, _NEVER = np.zeros(0, np.int64), np.zeros(0, np.bool_)
NO_ENTRIES = Entries(_NO, _NO, _NO, _NO, _NEVER, _NEVER, _NEVER)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One process: what it maps, what the step changed and where it faulted, its mappings and what it holds.

    Attributes
    ----------
    changed, faulted : ndarray of shape (pages,), bool
        Per entry.
    mappings : tuple of (int, int, str)
        First page, end, and what is special about it in words.
    holdings : tuple of str
        Pins and references, in words.
    """

    process: int
    alive: bool
    rss_pages: int
    entries: Entries
    changed: Flags
    faulted: Flags
    mappings: tuple[tuple[int, int, str], ...] = ()
    holdings: tuple[str, ...] = ()


# --- rows -----------------------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """Neighbours that are drawn as one row of cells, or folded into one bar: positions [lo, hi)."""

    lo: int
    hi: int
    folded: bool


FOLD_ROWS = 3
"""That many whole rows of equal neighbours, or more, are drawn as one bar."""


def spans(index: Numbers, keys: Numbers, columns: int, *, fold: bool = True) -> list[Span]:
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


class Cell(NamedTuple):
    """One page-table entry as drawn: ``name`` is A5, B, z, !, or empty; `folio` is NONE, ZERO or GUARD without one."""

    vpn: int
    name: str
    folio: int
    writable: bool
    changed: bool
    faulting: bool


class Row(NamedTuple):
    """Cells side by side, or one bar for many: then `cells` holds the first and the last; `fault` faulted last."""

    cells: tuple[Cell, ...]
    pages: int
    folded: bool
    huge: bool
    fault: int | None


def entry_keys(table: Table) -> Numbers:
    """Per entry what two neighbours must have alike to be folded: an array of shape (pages, parts)."""
    at = table.entries
    # Pages of one large folio are alike when they follow each other in it; small folios are alike as such.
    kind = np.where((at.folio >= 0) & ~at.large, -3, at.folio)
    run = np.where(kind >= 0, at.vpn - at.offset, 0)
    block = np.where(at.huge, at.vpn >> PMD_ORDER, -1)
    keys = np.stack([at.mapping, kind, run, at.writable, block, table.changed, table.faulted & ~at.huge], axis=1)
    return keys.astype(np.int64)


def row_spans(table: Table, columns: int, fold: bool = True) -> list[Span]:
    """Where the rows of a page table begin and end, and which of them are folded."""
    return spans(table.entries.vpn, entry_keys(table), columns, fold=fold)


def rows(table: Table, columns: int, fold: bool = True) -> Iterator[Row]:
    """A page table in rows of up to that many cells."""
    for lo, hi, folded in row_spans(table, columns, fold):
        shown = (lo, hi - 1) if folded else range(lo, hi)
        hit = np.flatnonzero(table.faulted[lo:hi])
        fault = int(table.entries.vpn[lo + hit[-1]]) if len(hit) else None
        cells = tuple(_cell(table, at) for at in shown)
        yield Row(cells, hi - lo, folded, bool(table.entries.huge[lo]), fault)


def _cell(table: Table, at: int) -> Cell:
    entries = table.entries
    folio = int(entries.folio[at])
    name = {ZERO: "z", GUARD: "!"}.get(folio, "")
    if folio >= 0:
        name = page_name(folio, int(entries.offset[at]), bool(entries.large[at]))
    return Cell(
        int(entries.vpn[at]), name, folio, bool(entries.writable[at]), bool(table.changed[at]), bool(table.faulted[at])
    )
