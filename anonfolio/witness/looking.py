"""A running process's anonymous memory: which folios back it, and what the kernel knows of each. Nothing is changed.

`look` reads struct pages where that is possible (`hidden`), else what pagemap, kpageflags and kpagecount show, and then
says what is missing. A process that runs meanwhile is seen in pieces of different moments.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..kernel.sizes import GUP_PIN_COUNTING_BIAS, PMD_ORDER, PTRS_PER_PMD
from .here import LiveError
from .hidden.bpf import Fault, NotHidden
from .hidden.look import SPECIAL, WRITE, Folios, VmaLook
from .hidden.reader import Kernel

PROC = Path("/proc")
PAGE = 4096
PM_PRESENT, PM_FRAME = 1 << 63, (1 << 55) - 1
KPF_HEAD, KPF_TAIL, KPF_ANON, KPF_ZERO = 1 << 15, 1 << 16, 1 << 12, 1 << 24
PF_KTHREAD = 0x200000
UNSEEN = "references, PageAnonExclusive, mm_id slots, pins, write bits, partially mapped and deferred"
PIECE_PAGES = 1 << 18
"""So many entries of a page table are read at once."""
MOST_PAGES = 1 << 26
"""Without the kernel's own page tables every page of a mapping is asked for: of mappings above 256 GiB none is."""
MOST_PAGE = 1 << 35
"""Above it is the vsyscall page, which no process has to itself."""
NO_FOLIO, ZERO_PAGE = -1, -2

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class LookError(LiveError):
    """A process that cannot be looked at: why, in one line."""


class Area(NamedTuple):
    """One mapping: first page, end, what may be done with it (``rw-p``), and its name in /proc/PID/maps."""

    start: int
    end: int
    access: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class FoundFolios:
    """Anonymous folios, in the order of frames. None: it cannot be seen here, or this kernel has no such thing.

    Attributes
    ----------
    head, order : ndarray of shape (folios,), int64
        First frame, and log2 of the pages.
    refcount, mappings, pins : ndarray of shape (folios,), int64, or None
        References, entries of page tables that map something of it (a PMD is one), and pins.
    mm_id, mm_id_mapcount : ndarray of shape (folios, 2), int64, or None
        The two slots (6.15): the mm's number, 0 for none, and how many of the mappings are its.
    shared, partially_mapped, deferred : ndarray of shape (folios,), bool, or None
        The bit beside the slots, PG_partially_mapped (6.12), and whether it waits to be split.
    first : ndarray of shape (folios + 1,), int64
        Where a folio's pages begin in what follows.
    mapcount : ndarray of shape (pages,), int64
        How often each page is mapped, by PTE or PMD.
    exclusive : ndarray of shape (pages,), bool, or None
        PageAnonExclusive; of a folio that a PMD maps, that of its first page on all.
    """

    head: Numbers
    order: Numbers
    refcount: Numbers | None
    mappings: Numbers | None
    pins: Numbers | None
    mm_id: Numbers | None
    mm_id_mapcount: Numbers | None
    shared: Flags | None
    partially_mapped: Flags | None
    deferred: Flags | None
    first: Numbers
    mapcount: Numbers
    exclusive: Flags | None

    def __len__(self) -> int:
        return len(self.head)

    @property
    def held(self) -> Numbers:
        """Per folio, how many of its pages nobody maps any more."""
        unmapped = np.concatenate((np.zeros(1, np.int64), np.cumsum(self.mapcount == 0)))
        found: Numbers = unmapped[self.first[1:]] - unmapped[self.first[:-1]]
        return found


class Pages(NamedTuple):
    """What a process maps, page by page, ascending: one position per page that maps a folio or the zero page.

    `mapping` counts the mappings; `folio` is an index into the folios or ZERO_PAGE; `offset` which page of it.
    `writable` is None where entries cannot be seen.
    """

    page: Numbers
    mapping: Numbers
    folio: Numbers
    offset: Numbers
    huge: Flags
    writable: Flags | None


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """One process at one moment.

    Attributes
    ----------
    owners : mapping of int to int
        The process to each number of an mm in a slot, as far as they run.
    missing : str
        What cannot be seen here and why; empty when all is.
    """

    pid: int
    name: str
    mappings: tuple[Area, ...]
    pages: Pages
    folios: FoundFolios
    owners: Mapping[int, int]
    missing: str

    def owner(self, mm_id: int) -> str:
        """``P1234``, or ``mm#7`` for an mm that no running process is known to have."""
        return f"P{self.owners[mm_id]}" if mm_id in self.owners else f"mm#{mm_id}"


# --- the way there --------------------------------------------------------------------------------------------------


class Looker:
    """Looks at processes, again and again; a context manager. LookError says in one line what is in the way.

    Attributes
    ----------
    missing : str
        Why struct pages cannot be read here, and what therefore is not seen; empty when they can.
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise LookError("only root sees which frames back a process: run it with sudo")
        self._kernel: Kernel | None = None
        self.missing = ""
        try:
            self._kernel = Kernel()
        except LiveError as reason:
            self.missing = f"{UNSEEN} cannot be seen: {reason}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._kernel:
            self._kernel.close()

    def look(self, pid: int) -> Process:
        """One process as it is now."""
        with suppress(ProcessLookupError, FileNotFoundError), _pagemap(pid) as fd:
            name, areas = _name(pid), _areas(pid)
            try:
                seen = self._seen(fd, areas)
            except (Fault, RecursionError, NotHidden):
                # What ends meanwhile, or changes its mappings, lets go of what was followed.
                seen = None
            if areas and (later := _areas(pid)):
                changed = LookError(f"process {pid} changed while it was looked at; look again")
                if seen is None:
                    raise changed
                pages, folios, starts = seen
                # A heap of mmap's grows downwards: where it begins is another page a moment later.
                around = [_around(start, areas) or _around(start, later) for start in starts]
                kept = tuple(area for area in around if area)
                if len(kept) < len(starts):
                    raise changed
                return Process(pid, name, kept, pages, folios, self._owners(pid, fd, folios), self.missing)
        raise LookError(_why_not(pid))

    def _seen(self, fd: int, areas: Sequence[Area]) -> Seen:
        return _with_struct_pages(self._kernel, fd) if self._kernel else _as_shown(fd, areas)

    def _owners(self, pid: int, fd: int, folios: FoundFolios) -> dict[int, int]:
        """The process of each mm that stands in a slot: this one, else whoever runs and has it."""
        if self._kernel is None or folios.mm_id is None:
            return {}
        own = self._kernel.mm_id(fd)
        owners = {} if own is None else {own: pid}
        wanted = set(np.unique(folios.mm_id).tolist()) - {0, *owners}
        for path in PROC.glob("[0-9]*"):
            if not wanted:
                break
            with suppress(OSError), _pagemap(int(path.name)) as other:
                mm_id = self._kernel.mm_id(other) or 0
                if mm_id in wanted:
                    owners[mm_id] = int(path.name)
                    wanted.remove(mm_id)
        return owners


@contextmanager
def _pagemap(pid: int) -> Iterator[int]:
    fd = os.open(PROC / f"{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _name(pid: int) -> str:
    return (PROC / f"{pid}/comm").read_text(errors="replace").rstrip("\n")


def _why_not(pid: int) -> str:
    """Why a process has no memory to look at."""
    try:
        stat = (PROC / f"{pid}/stat").read_text(errors="replace")
    except OSError:
        return f"there is no process {pid}, or it has ended"
    flags = int(stat.rpartition(")")[2].split()[6])
    if flags & PF_KTHREAD:
        return f"process {pid} ({_name(pid)}) is a thread of the kernel: it has no memory of its own"
    return f"process {pid} has ended"


def _areas(pid: int) -> list[Area]:
    """/proc/PID/maps; empty for whoever has no memory (any more)."""
    found = []
    with suppress(OSError):
        for line in (PROC / f"{pid}/maps").read_text(errors="replace").splitlines():
            place, access, _, _, _, *name = line.split(maxsplit=5)
            start, end = (int(text, 16) // PAGE for text in place.split("-"))
            found.append(Area(start, end, access, "".join(name)))
    return found


def _around(page: int, areas: Sequence[Area]) -> Area | None:
    """The mapping that a page lies in."""
    at = bisect_right(areas, page, key=lambda area: area.start) - 1
    return areas[at] if at >= 0 and page < areas[at].end else None


Seen = tuple[Pages, FoundFolios, list[int]]
"""Pages, folios, and where the mappings begin that the pages' column `mapping` counts."""


# --- through struct pages -------------------------------------------------------------------------------------------


def _with_struct_pages(kernel: Kernel, fd: int) -> Seen:
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    starts: list[int] = []
    for vma in kernel.mappings(fd):
        if not vma.anon_vma:
            continue
        for first, entries, huge in kernel.present(fd, vma.start, vma.end):
            here = VmaLook(vma.start, vma.end, 0, 0, 0, (), first, entries, huge)
            at = np.flatnonzero(here.present)
            frames = np.where(here.has(SPECIAL)[at], ZERO_PAGE, here.frames[at])
            columns.append((first + at, np.full(len(at), len(starts)), frames, huge[at], here.has(WRITE)[at]))
        starts.append(vma.start)
    page, mapping, frame, by_pmd, may_write = _joined(columns, 5)
    found = kernel.folios(frame)
    folio = np.where(frame == ZERO_PAGE, ZERO_PAGE, found.of(frame))
    return _kept(page, mapping, frame, folio, by_pmd > 0, may_write > 0, _found(found), starts)


def _found(folios: Folios) -> FoundFolios:
    large = folios.order > 0
    pins = np.where(large, 0 if folios.pincount is None else folios.pincount, folios.refcount // GUP_PIN_COUNTING_BIAS)
    pages = 1 << folios.order
    entire = 0 if folios.entire_mapcount is None else folios.entire_mapcount
    mapcount = folios.mapcount + np.repeat(np.where(large, entire, 0), pages)
    mapped = np.add.reduceat(folios.mapcount, folios.first[:-1]) if len(folios) else folios.head
    mappings = mapped + np.where(large, entire, 0)
    if folios.large_mapcount is not None:
        mappings = np.where(large, folios.large_mapcount, mappings)
    exclusive = folios.exclusive
    if exclusive is not None:
        # Where PMDs alone map a folio the flag of its first page speaks for all.
        whole = np.repeat(large & (np.asarray(entire) > 0) & (mapped == 0), pages)
        exclusive = np.where(whole, np.repeat(exclusive[folios.first[:-1]], pages), exclusive) & (mapcount > 0)
    return FoundFolios(
        folios.head, folios.order, folios.refcount, mappings, pins, folios.mm_id,
        folios.mm_id_mapcount, folios.maybe_mapped_shared, folios.partially_mapped, folios.deferred, folios.first,
        mapcount, exclusive,
    )  # fmt: skip


# --- through /proc ----------------------------------------------------------------------------------------------------


def _as_shown(fd: int, areas: Sequence[Area]) -> Seen:
    """What pagemap, kpageflags and kpagecount show (root)."""
    flags_of, counts_of = (Frames(name) for name in ("kpageflags", "kpagecount"))
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    for number, area in enumerate(areas):
        if area.start >= MOST_PAGE or area.end - area.start > MOST_PAGES:
            continue
        for first in range(area.start, area.end, PIECE_PAGES):
            raw = os.pread(fd, 8 * min(PIECE_PAGES, area.end - first), 8 * first)
            entries = np.frombuffer(raw, np.uint64)
            at = np.flatnonzero(entries & np.uint64(PM_PRESENT))
            frame = (entries[at] & np.uint64(PM_FRAME)).astype(np.int64)
            columns.append((first + at, np.full(len(at), number), frame))
    page, mapping, frame = _joined(columns, 3)
    flags = flags_of(frame)
    zero = (flags & KPF_ZERO) > 0
    wanted = zero | ((flags & KPF_ANON) > 0)
    page, mapping, frame, zero = page[wanted], mapping[wanted], frame[wanted], zero[wanted]
    folios = _folios_shown(frame[~zero], flags_of, counts_of)
    folio = np.where(zero, ZERO_PAGE, _folio_of(folios, frame))
    return _kept(page, mapping, frame, folio, zero & False, None, folios, [area.start for area in areas])


class Frames:
    """One number for each frame of the machine: /proc/kpageflags, /proc/kpagecount."""

    def __init__(self, name: str) -> None:
        self._path = PROC / name

    def __call__(self, frames: Numbers) -> Numbers:
        """The numbers of these frames, 0 where there is no memory; neighbours are read at once."""
        found = np.zeros(len(frames), np.int64)
        blocks, at = np.unique(frames >> PMD_ORDER, return_inverse=True)
        rows = np.zeros((len(blocks), PTRS_PER_PMD), np.uint64)
        with self._path.open("rb", buffering=0) as file:
            for row, block in zip(rows, blocks.tolist(), strict=True):
                read = np.frombuffer(os.pread(file.fileno(), row.nbytes, block * row.nbytes), np.uint64)
                row[: len(read)] = read
        if len(frames):
            found[:] = rows[at, frames & PTRS_PER_PMD - 1].astype(np.int64)
        return found


def _folios_shown(frames: Numbers, flags_of: Frames, counts_of: Frames) -> FoundFolios:
    """Where folios begin and end: a head, and the tails behind it. None crosses a multiple of 512 frames."""
    blocks = np.unique(frames >> PMD_ORDER)
    every = (blocks[:, None] * PTRS_PER_PMD + np.arange(PTRS_PER_PMD)).ravel()
    flags = flags_of(every)
    tail = (flags & KPF_TAIL) > 0
    starts = np.flatnonzero(~tail)
    sizes = np.diff(np.append(starts, len(every)))
    sizes = np.where(flags[starts] & KPF_HEAD, sizes, 1)
    owner = np.cumsum(~tail) - 1
    wanted = np.unique(owner[np.searchsorted(every, frames)]) if len(frames) else np.zeros(0, np.int64)
    head, size = every[starts[wanted]], sizes[wanted]
    first = np.append(0, np.cumsum(size))
    pages = np.repeat(head - first[:-1], size) + np.arange(first[-1])
    order = np.log2(size).astype(np.int64) if len(size) else size
    mapcount = counts_of(pages)
    return FoundFolios(head, order, None, None, None, None, None, None, None, None, first, mapcount, None)


def _folio_of(folios: FoundFolios, frames: Numbers) -> Numbers:
    if not len(folios):
        return np.full(len(frames), NO_FOLIO)
    at = np.maximum(np.searchsorted(folios.head, frames, "right") - 1, 0)
    return np.where((frames >= folios.head[at]) & (frames < folios.head[at] + (1 << folios.order[at])), at, NO_FOLIO)


# --- both -------------------------------------------------------------------------------------------------------------


def _joined(columns: Sequence[tuple[npt.NDArray[Any], ...]], count: int) -> list[Numbers]:
    return [np.concatenate([np.zeros(0, np.int64), *column]) for column in zip(*columns, strict=True)] or [
        np.zeros(0, np.int64)
    ] * count


def _kept(
    page: Numbers, mapping: Numbers, frame: Numbers, folio: Numbers, huge: Flags, writable: Flags | None,
    folios: FoundFolios, starts: Sequence[int],
) -> Seen:  # fmt: skip
    """Pages of files are left out, and mappings without a page."""
    kept = folio != NO_FOLIO
    page, mapping, frame, folio, huge = page[kept], mapping[kept], frame[kept], folio[kept], huge[kept]
    there = np.unique(mapping)
    offset = np.where(folio >= 0, frame - (folios.head[np.maximum(folio, 0)] if len(folios) else 0), 0)
    pages = Pages(
        page, np.searchsorted(there, mapping), folio, offset, huge, None if writable is None else writable[kept]
    )
    return pages, folios, [starts[at] for at in there.tolist()]


def as_json(seen: Process) -> dict[str, Any]:
    """Everything, as JSON holds it: mappings with runs of pages of one folio, and the folios.

    A run is [page, pages, folio, first page of the folio, by a PMD, writable pages]; a page counts from address 0, a
    folio is an index into ``folios`` or null for the zero page. What cannot be seen is null.
    """
    pages, folios = seen.pages, seen.folios
    slots = None
    if folios.mm_id is not None and folios.mm_id_mapcount is not None:
        slots = [
            [[seen.owners.get(mm), mm, count] for mm, count in zip(*pair, strict=True) if mm]
            for pair in zip(folios.mm_id.tolist(), folios.mm_id_mapcount.tolist(), strict=True)
        ]
    columns = {
        "frame": folios.head, "order": folios.order, "refcount": folios.refcount, "mappings": folios.mappings,
        "pins": folios.pins, "maybe_mapped_shared": folios.shared, "partially_mapped": folios.partially_mapped,
        "deferred": folios.deferred,
    }  # fmt: skip
    told = {name: None if column is None else column.tolist() for name, column in columns.items()} | {"slots": slots}
    rows = [{name: column and column[at] for name, column in told.items()} for at in range(len(folios))]
    for at, row in enumerate(rows):
        here = slice(int(folios.first[at]), int(folios.first[at + 1]))
        row["mapcount"] = folios.mapcount[here].tolist()
        row["exclusive"] = None if folios.exclusive is None else folios.exclusive[here].tolist()
    areas: list[dict[str, Any]] = [
        {"start": area.start, "end": area.end, "access": area.access, "name": area.name, "runs": []}
        for area in seen.mappings
    ]
    for start, end in runs_of(pages):
        writable = None if pages.writable is None else int(np.count_nonzero(pages.writable[start:end]))
        folio = int(pages.folio[start])
        areas[int(pages.mapping[start])]["runs"].append(
            [int(pages.page[start]), end - start, None if folio == ZERO_PAGE else folio, int(pages.offset[start]),
             bool(pages.huge[start]), writable]
        )  # fmt: skip
    return {"pid": seen.pid, "name": seen.name, "missing": seen.missing, "mappings": areas, "folios": rows}


def runs_of(pages: Pages) -> list[tuple[int, int]]:
    """Neighbours that map consecutive pages of one folio, and in one way: [start, end) positions."""
    differs = np.ones(len(pages.page), np.bool_)
    differs[1:] = np.diff(pages.page) != 1
    # Zero pages follow each other; a folio's pages do where it goes on.
    place = np.where(pages.folio == ZERO_PAGE, 0, pages.page - pages.offset)
    for column in (place, pages.mapping, pages.folio, pages.huge.astype(np.int64)):
        differs[1:] |= np.diff(column) != 0
    start = np.flatnonzero(differs)
    return list(zip(start.tolist(), [*start[1:].tolist(), len(differs)], strict=True)) if len(start) else []
