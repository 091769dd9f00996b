"""A stream of accesses, and the window of pages around a stretch of it that a plan needs to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel import record
from ..kernel.faults import READ, WRITE
from ..kernel.frames import Memory
from ..kernel.index import as_slice, places_of
from ..kernel.mm import Mm
from ..kernel.policy import Policy
from ..kernel.rules import SourceOrder
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD
from ..kernel.system import System
from ..kernel.vma import Vma

Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]
Pages = npt.NDArray[np.intp]

# The code of a planned fault: the path in the upper half, the order of the folio in the lower one. 0: no fault.
PATHS = {1: record.ZERO_READ, 2: record.FIRST_TOUCH, 3: record.ZERO_COPY, 4: record.COW_COPY, 5: record.REUSE}
ZERO_READ, FIRST_TOUCH, ZERO_COPY, COW_COPY, REUSE = (code << 4 for code in PATHS)


class Later(NamedTuple):
    """Pages [start, end) that are mapped when a stream begins, but as far as its accesses go only from `time` on."""

    time: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Accesses in order.

    Attributes
    ----------
    vpns : range, or ndarray of shape (accesses,), intp
        Their pages.
    write : bool, or ndarray of shape (accesses,), bool
        Whether they are writes: one for all, or one each.
    value : int, or ndarray of shape (accesses,), uint8
        The byte that each write leaves: one for all, or one each.
    later : tuple of Later
        Mappings that were made while the accesses went on.
    """

    vpns: Pages | range
    write: bool | Mask
    value: int | Bytes
    later: tuple[Later, ...] = ()

    def __len__(self) -> int:
        return len(self.vpns)

    def part(self, first: int, stop: int) -> Stream:
        """The accesses from `first` on, before `stop`."""
        if first == 0 and stop >= len(self):
            return self
        part = slice(first, stop)
        return Stream(
            self.vpns[part],
            self.write[part] if isinstance(self.write, np.ndarray) else self.write,
            self.value[part] if isinstance(self.value, np.ndarray) else self.value,
            tuple(each._replace(time=each.time - first) for each in self.later if each.time > first),
        )

    def mapped_from(self, start: int, end: int) -> int:
        """From which time on all of these pages are mapped, as far as that changes."""
        return max((each.time for each in self.later if each.start < end and start < each.end), default=0)

    def access(self, time: int) -> tuple[int, str, int]:
        """One of them: page, READ or WRITE, and the byte."""
        write = self.write[time] if isinstance(self.write, np.ndarray) else self.write
        value = self.value[time] if isinstance(self.value, np.ndarray) else self.value
        return int(self.vpns[time]), WRITE if write else READ, int(value)

    def span(self) -> tuple[int, int]:
        """The lowest page and the highest."""
        if isinstance(self.vpns, range):
            return min(self.vpns[0], self.vpns[-1]), max(self.vpns[0], self.vpns[-1])
        return int(self.vpns.min()), int(self.vpns.max())


class Window(NamedTuple):
    """What a plan sees: a stretch of a stream, and whole aligned blocks of the largest order a fault can act on.

    Pages are numbered by their place in the window. Times are positions in the stretch; its length stands for never.

    Attributes
    ----------
    orders : list of int
        Orders below PMD size that a first touch may use there, largest first.
    tile : int
        The largest order that a fault can act on, below PMD size.
    pages : slice, or ndarray of shape (places,), intp
        The page numbers of the places: a slice where all between the lowest and the highest access are in the window.
    at : ndarray of shape (accesses,), intp
        Place of each access.
    vmas : list of Vma
        What is mapped there, and in the rest of its first and last 2 MiB.
    first_write, first_read : ndarray of shape (places,), int32
        When each page is first written and first read.
    writes, reads : bool
        Whether any access is one.
    earliest_writes, mapped_times : list of ndarray
        What `earliest_write` and `mapped_from` found so far, by order.
    """

    system: System
    mm: Mm
    stream: Stream
    orders: list[int]
    tile: int
    pages: slice | Pages
    at: Pages
    vmas: list[Vma]
    first_write: Times
    first_read: Times
    writes: bool
    reads: bool
    earliest_writes: list[Times]
    mapped_times: list[Times]

    @classmethod
    def of(cls, system: System, mm: Mm, stream: Stream) -> Window:
        """The window of a stretch that is not empty."""
        low, last = stream.span()
        vmas = mm.vmas_in(low & -PTRS_PER_PMD, (last | (PTRS_PER_PMD - 1)) + 1)
        orders = {order for vma in vmas for order in system.orders_of(mm, vma)} - {PMD_ORDER}
        copies = system.policy.rules.copy_extent
        tile = max(0, *orders, copies.max_order if isinstance(copies, SourceOrder) else 0)
        if isinstance(stream.vpns, range) and stream.vpns.step != 1:
            vpns = np.arange(stream.vpns.start, stream.vpns.stop, stream.vpns.step)
            stream = Stream(vpns, stream.write, stream.value, stream.later)
        pages, at = _pages_around(stream, tile, low, last)
        places = pages.stop - pages.start if isinstance(pages, slice) else len(pages)
        write = stream.write
        writes, reads = (bool(write.any()), not write.all()) if isinstance(write, np.ndarray) else (write, not write)
        first_write = _first_accesses(stream, at, places, True) if writes else _never(at, places)
        first_read = _first_accesses(stream, at, places, False) if reads else _never(at, places)
        return cls(
            system, mm, stream, sorted(orders, reverse=True), tile, pages, at, vmas, first_write, first_read,
            writes, reads, [first_write], [],
        )  # fmt: skip

    @property
    def never(self) -> int:
        """The time that no access has."""
        return len(self.at)

    @property
    def places(self) -> int:
        """How many pages it has."""
        return len(self.first_write)

    @property
    def memory(self) -> Memory:
        """The frames and folios."""
        return self.system.memory

    @property
    def policy(self) -> Policy:
        """Which kernel."""
        return self.system.policy

    @property
    def in_step(self) -> bool:
        """Whether each access hits the page after the one before."""
        return isinstance(self.stream.vpns, range)

    @property
    def span(self) -> tuple[int, int]:
        """Its first page number, and the one behind its last."""
        if isinstance(self.pages, slice):
            return self.pages.start, self.pages.stop
        return int(self.pages[0]), int(self.pages[-1]) + 1

    def vpn_of(self, places: Pages) -> Pages:
        """Page numbers of places."""
        return places + self.pages.start if isinstance(self.pages, slice) else self.pages[places]

    def vpns_at(self, times: Pages, order: int = 0) -> Pages:
        """First page of the aligned block of 2**order pages that each of these accesses hits."""
        at = self.at[as_slice(times, rising=True)]
        return self.vpn_of(at & -(1 << order) if order else at)

    def earliest_write(self, order: int) -> Times:
        """Per aligned block of 2**order places: the earliest of their first writes."""
        while len(self.earliest_writes) <= order:
            times = self.earliest_writes[-1]
            self.earliest_writes.append(np.minimum(times[0::2], times[1::2]))
        return self.earliest_writes[order]

    def inside(self, order: int, vmas: Sequence[Vma]) -> Mask:
        """Which aligned blocks of 2**order places lie inside one of these mappings, which are in order."""
        size = 1 << order
        good = np.zeros(self.places >> order, np.bool_)
        if isinstance(self.pages, slice) and len(vmas) == 1:
            first, end = vmas[0].start - self.pages.start, vmas[0].end - self.pages.start
            good[max(0, -(-first // size)) : max(0, end // size)] = True
        elif vmas:
            starts = self.vpn_of(np.arange(0, self.places, size))
            of = np.searchsorted(np.array([vma.start for vma in vmas]), starts, "right") - 1
            good = (of >= 0) & (starts + size <= np.array([vma.end for vma in vmas])[of])
        return good

    def allowed(self, order: int) -> Mask:
        """Which of them may become a folio of that order on a first touch (`thp_vma_allowable_orders`)."""
        return self.inside(order, [vma for vma in self.vmas if order in self.system.orders_of(self.mm, vma)])

    def mapped_from(self, order: int) -> Times | None:
        """Per aligned block of 2**order places: since when all of it is mapped; None where nothing is mapped later."""
        if not self.stream.later:
            return None
        if not self.mapped_times:
            times, *spans = np.array(self.stream.later).T
            firsts, ends = self.vpn_of(np.arange(self.places)).searchsorted(np.array(spans))
            since = np.zeros(self.places, np.int32)
            for time, first, end in zip(times.tolist(), firsts.tolist(), ends.tolist(), strict=True):
                since[first:end] = time
            self.mapped_times.append(since)
        while len(self.mapped_times) <= order:
            since = self.mapped_times[-1]
            self.mapped_times.append(np.maximum(since[0::2], since[1::2]))
        return self.mapped_times[order]


def _pages_around(stream: Stream, tile: int, low: int, last: int) -> tuple[slice | Pages, Pages]:
    """The pages of a window, and the place in it of each access, which lie from `low` to `last`."""
    size = 1 << tile
    first, end = low & -size, (last | (size - 1)) + 1
    if isinstance(stream.vpns, range):
        return slice(first, end), np.arange(low - first, last + 1 - first)
    if end - first <= max(4 * len(stream), PTRS_PER_PMD):
        return slice(first, end), stream.vpns - first
    tiles, tile_of = np.unique(stream.vpns >> tile, return_inverse=True)
    return ((tiles << tile)[:, None] + np.arange(size)).reshape(-1), (tile_of << tile) + (stream.vpns & (size - 1))


def _never(at: Pages, places: int) -> Times:
    """No access to any place: one number stands for all (as `np.broadcast_to`, which takes ten times as long)."""
    return np.ndarray(places, np.int32, np.array([len(at)], np.int32), strides=(0,))


def _first_accesses(stream: Stream, at: Pages, places: int, wanted: bool) -> Times:
    """When each place is first written (`wanted`), or first read."""
    count = len(at)
    first = np.full(places, count, np.int32)
    if isinstance(stream.write, np.ndarray):
        times = places_of(stream.write == wanted)
        first[at[times][::-1]] = times[::-1]
    elif isinstance(stream.vpns, range):
        first[at[0] : at[0] + count] = np.arange(count, dtype=np.int32)
    else:
        # Of several values for one place the last one stays: backwards, that is the earliest.
        first[at[::-1]] = np.arange(count - 1, -1, -1, dtype=np.int32)
    return first
