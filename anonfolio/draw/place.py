"""Where a folio stands in a picture: above or below which pages, and in which lane between the processes.

Memory does not move: a folio keeps its place as long as it lives, and only what maps it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from .table import Table


class Place(NamedTuple):
    """The page number under which a folio's first page stands, and its lane: 0 in the middle, less is further up."""

    home: int
    lane: int


NOWHERE = Place(0, 0)
"""Where a folio stands that has not been placed."""


class Kept(NamedTuple):
    """A folio of the moment before: where it stood, and how many pages it had."""

    place: Place
    pages: int


def is_above(process: int) -> bool:
    """Whether a process stands above memory: P0 does, P1 stands below, and so on in turn."""
    return process % 2 == 0


def places(tables: Sequence[Table], sizes: Mapping[int, int], before: Mapping[int, Kept]) -> dict[int, Place]:
    """Where each folio stands.

    Parameters
    ----------
    tables : sequence of Table
        Who maps what.
    sizes : mapping of int to int
        Folio number to pages, in the order in which they are placed.
    before : mapping of int to Kept
        The folios of the moment before; those that are gone keep their place one moment longer.
    """
    homes = _homes(tables, sizes, {number: kept.place.home for number, kept in before.items()})
    stay = {number: before[number].place for number, home in homes.items() if _stays(before.get(number), home)}
    taken: dict[int, list[tuple[int, int]]] = {}

    def take(place: Place, pages: int) -> None:
        taken.setdefault(place.lane, []).append((place.home, place.home + pages))

    for number, place in stay.items():
        take(place, sizes[number])
    for number, kept in before.items():
        if number not in sizes:
            take(kept.place, kept.pages)
    side = _sides(tables)
    for number, home in homes.items():
        if number in stay:
            continue
        lanes = (step * side.get(number, 1) for step in count())
        lane = next(lane for lane in lanes if _is_free(taken.get(lane, ()), home, home + sizes[number]))
        stay[number] = Place(home, lane)
        take(stay[number], sizes[number])
    return stay


def _stays(kept: Kept | None, home: int) -> bool:
    return kept is not None and kept.place.home == home


def _is_free(taken: Sequence[tuple[int, int]], lo: int, hi: int) -> bool:
    return all(end <= lo or hi <= start for start, end in taken)


def _homes(tables: Sequence[Table], sizes: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """Per folio where most of its pages are mapped, on a multiple of its size: a moved one is seen not to fit."""
    votes: dict[int, dict[int, int]] = {}
    for table in tables:
        at = table.entries
        mapped = at.folio >= 0
        pairs = np.stack([at.folio[mapped], (at.vpn - at.offset)[mapped]])
        found, counts = np.unique(pairs, axis=1, return_counts=True)
        for number, start, many in zip(*found.tolist(), counts.tolist(), strict=True):
            size = sizes[number]
            home = max(0, (start + size // 2) // size * size)
            votes.setdefault(number, {})[home] = votes.get(number, {}).get(home, 0) + many
    return {number: _elected(votes.get(number, {}), before.get(number)) for number in sizes}


def _elected(votes: Mapping[int, int], before: int | None) -> int:
    if before is not None and (before in votes or not votes):
        return before
    return max(votes, key=lambda home: (votes[home], -home), default=0)


def _sides(tables: Sequence[Table]) -> dict[int, int]:
    """Towards which side a folio stands: to the first process that maps it."""
    side: dict[int, int] = {}
    for table in tables:
        for number in np.unique(table.entries.folio).tolist():
            side.setdefault(number, -1 if is_above(table.process) else 1)
    return side
