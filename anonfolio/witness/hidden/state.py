"""Hidden state as it is compared: of the model and of a kernel in the same terms, after each step of a scenario.

Addresses and frame numbers mean nothing, so nothing of them is left: pages and offsets count from the scenario's first
page, folios come in the order in which processes map them, slots name processes, and anon_vmas are numbered by who has
them. What a kernel has no field for is None, and is not compared. Held to be the witness's own, not the model's:

- io_uring keeps fewer pins than it takes (`kept_pins`), so that pins and references are less what it dropped;
- `special` of the huge zero page is set by newer kernels only (not 6.12, but 6.18): it is not compared under a PMD;
- a fork may use an ancestor's anon_vma again (`anon_vma_clone`: no VMA has it, and it has fewer than two children), so
  that the list behind a VMA is compared by what decides a merge: none, one, or several.

A step of a recording may have the key ``"hidden"`` (`as_json`). Where arrays repeat, they are written as runs:
``[count, value, count, value, ...]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...kernel import vma as model_vma
from ...kernel.history import kernel_number
from ...kernel.pagetable import PTE_CONT, PTE_DIRTY, PTE_GUARD, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from ...kernel.sizes import PMD_ORDER
from ...machine.snapshot import FolioView, ProcessView, Snapshot
from .look import ACCESSED, DIRTY, SAVED_DIRTY, SPECIAL, WRITE, Bools, Folios, Look, Numbers, ProcessLook

BY_PMD = 64
ENTRY_BITS = {
    "present": PTE_PRESENT, "write": PTE_WRITE, "dirty": PTE_DIRTY, "accessed": PTE_YOUNG, "special": PTE_SPECIAL,
    "by PMD": BY_PMD, "guard": PTE_GUARD,
}  # fmt: skip
"""Bits of an entry that are compared. The model's contiguous bit is arm64's (`PTE_CONT`)."""
KERNEL_BITS = {PTE_WRITE: WRITE, PTE_DIRTY: DIRTY | SAVED_DIRTY, PTE_YOUNG: ACCESSED, PTE_SPECIAL: SPECIAL}
VM_ACCOUNT = 0x10_0000
VMA_FLAGS = {
    model_vma.VM_READ: 0x1, model_vma.VM_WRITE: 0x2, model_vma.VM_WIPEONFORK: 0x200_0000,
    model_vma.VM_GROWSDOWN: 0x100,
    model_vma.VM_DONTCOPY: 0x2_0000, model_vma.VM_HUGEPAGE: 0x2000_0000, model_vma.VM_NOHUGEPAGE: 0x4000_0000,
    model_vma.VM_NORESERVE: 0x20_0000, model_vma.VM_GROWSDOWN: 0x100, model_vma.VM_LOCKED: 0x2000,
    model_vma.VM_LOCKONFAULT: 0x8_0000,
    model_vma.VM_LOCKED: 0x2000, model_vma.VM_LOCKONFAULT: 0x8_0000,
}  # fmt: skip
"""The model's flags and the kernel's (include/linux/mm.h); VM_UNACCOUNTED is that VM_ACCOUNT is missing."""
COMPARED_FLAGS = sum(VMA_FLAGS) | model_vma.VM_UNACCOUNTED
VMA_COLUMNS = ("start", "end", "flags", "page offset", "anon_vma", "anon_vma chain")
FOLIO_COLUMNS = (
    "order", "refcount", "large mapcount", "entire mapcount", "mapped pages", "pins", "mm_id slot 0", "mm_id slot 1",
    "mappings of slot 0", "mappings of slot 1", "shared bit", "partially mapped", "deferred", "lazy free",
)  # fmt: skip
PAGE_COLUMNS = ("mapcount", "PageAnonExclusive")
FIELDS = (
    *(f"entry: {name}" for name in ENTRY_BITS), *(f"mapping: {name}" for name in VMA_COLUMNS), "MMF_HAS_PINNED",
    *(f"folio: {name}" for name in FOLIO_COLUMNS), *(f"page: {name}" for name in PAGE_COLUMNS),
)  # fmt: skip
"""Everything that is compared, in the order in which a difference is looked for."""
SEVERAL = 2
SOMEBODY = -1
"""In a slot: an mm that no process of the scenario has."""
NEWEST = "7.3"

Table = npt.NDArray[np.int64]
Entries = npt.NDArray[np.uint8]


class ProcessState(NamedTuple):
    """One process: bits of each page's entry (`ENTRY_BITS`), its VMAs (rows of `VMA_COLUMNS`), MMF_HAS_PINNED."""

    entries: Entries
    vmas: Table
    has_pinned: bool


@dataclass(frozen=True, slots=True, eq=False)
class HiddenState:
    """What the processes of a scenario hold after a step.

    Attributes
    ----------
    processes : mapping of int to ProcessState
        Those that live, by number.
    folios : ndarray of shape (folios, columns), int64
        Those that one of them maps in the scenario's pages, in the order of processes and pages; a row of
        `FOLIO_COLUMNS`. A slot holds a process number plus one, 0 when it is free.
    lacks : frozenset of str
        Columns that this kernel has no field for: they are 0.
    mapcount, exclusive : ndarray of shape (pages of all folios,), int64
        PTEs that map each page, and PageAnonExclusive as it stands.
    """

    processes: Mapping[int, ProcessState]
    folios: Table
    mapcount: Table
    exclusive: Table
    lacks: frozenset[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HiddenState) and as_json(self) == as_json(other)

    __hash__ = None  # type: ignore[assignment]


# --- of a kernel ----------------------------------------------------------------------------------------------------


def state_of_look(look: Look, first: int, pages: int) -> HiddenState:
    """What was read of a kernel; `look` has processes by their numbers, `first` is the page of the scenario's first."""
    frames, states = [], {}
    for number, process in sorted(look.processes.items()):
        entries, mapped = _entries_of_look(process, first, pages)
        frames.append(mapped)
        states[number] = ProcessState(entries, _vmas_of_look(process, first, pages), process.has_pinned)
    owner = {process.mm_id: number + 1 for number, process in look.processes.items() if process.mm_id} | {0: 0}
    _number_anon_vmas(states)
    return _state_of_folios(
        states, look.folios, _as_met(look.folios.of(np.concatenate(frames or [np.zeros(0, np.int64)]))), owner
    )


def _entries_of_look(process: ProcessLook, first: int, pages: int) -> tuple[Entries, Numbers]:
    raw, frames, entries = np.zeros(pages, np.uint64), np.full(pages, -1), np.zeros(pages, np.uint8)
    for vma in process.vmas:
        low, high = max(vma.first, first), min(vma.first + len(vma.entries), first + pages)
        here, there = slice(low - first, high - first), slice(low - vma.first, high - vma.first)
        frames[here] = vma.frames[there]
        raw[here] = np.where(vma.present, vma.entries, np.uint64(0))[there]
        # Nothing is swapped out in a live run: what is there and not present is a marker (`make_pte_marker`).
        marker = ~vma.present & (vma.entries > 0)
        entries[here] = (marker * np.uint8(PTE_GUARD) + (vma.present & vma.huge) * np.uint8(BY_PMD))[there]
    entries |= (frames >= 0) * np.uint8(PTE_PRESENT)
    for model, kernel in KERNEL_BITS.items():
        entries |= ((raw & np.uint64(kernel)) > 0) * np.uint8(model)
    return entries, frames


def _vmas_of_look(process: ProcessLook, first: int, pages: int) -> Table:
    rows = []
    for vma in process.vmas:
        flags = sum(model for model, kernel in VMA_FLAGS.items() if vma.flags & kernel)
        flags |= 0 if vma.flags & VM_ACCOUNT else model_vma.VM_UNACCOUNTED
        # An address without its sign still tells one from another.
        anon_vma = vma.anon_vma & (1 << 63) - 1
        rows.append((vma.start, vma.end, flags, vma.pgoff, anon_vma, _several(len(vma.chain))))
    return _clipped(rows, first, pages)


def _state_of_folios(
    states: Mapping[int, ProcessState], folios: Folios, met: Numbers, owner: Mapping[int, int]
) -> HiddenState:
    """The folios at these indices, in that order, with processes in their slots instead of mm ids."""
    ids, counts = folios.mm_id, folios.mm_id_mapcount
    columns = (
        folios.order, folios.refcount, folios.large_mapcount, folios.entire_mapcount, folios.nr_mapped, folios.pincount,
        *((None, None) if ids is None else ids.T), *((None, None) if counts is None else counts.T),
        folios.maybe_mapped_shared, folios.partially_mapped, folios.deferred, folios.lazyfree,
    )  # fmt: skip
    lacks = {name for name, column in zip(FOLIO_COLUMNS, columns, strict=True) if column is None}
    table = np.stack([np.zeros(len(met), np.int64) if column is None else column[met] for column in columns], axis=1)
    if ids is not None:
        for name in ("mm_id slot 0", "mm_id slot 1"):
            slot = table[:, FOLIO_COLUMNS.index(name)]
            slot[:] = [owner.get(mm, SOMEBODY) for mm in slot.tolist()]
    sizes = 1 << folios.order[met]
    pages = np.repeat(folios.first[met] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    mapcount, exclusive = folios.mapcount[pages], folios.exclusive
    if exclusive is None:
        return HiddenState(states, table, mapcount, np.zeros_like(mapcount), frozenset(lacks | {"PageAnonExclusive"}))
    return HiddenState(states, table, mapcount, exclusive[pages].astype(np.int64), frozenset(lacks))


# --- of the model ---------------------------------------------------------------------------------------------------


def state_of_snapshot(snapshot: Snapshot, first: int, pages: int, kernel: str) -> HiddenState:
    """What a model's kernel holds, as that kernel would show it of a live run (see the module)."""
    frames, states = [], {}
    for process in snapshot.processes:
        if process.alive:
            entries, mapped = _entries_of_snapshot(process, first, pages)
            frames.append(mapped)
            states[process.number] = ProcessState(entries, _vmas_of_view(process, first, pages), process.has_pinned)
    _number_anon_vmas(states)
    heads = np.array([folio.head for folio in snapshot.folios], np.int64)
    mapped = np.concatenate(frames) if frames else np.zeros(0, np.int64)
    # Every frame that is mapped is in a folio, and they are in the order of frames.
    met = _as_met(np.where(mapped >= 0, np.searchsorted(heads, mapped, "right") - 1, -1))
    folios = [snapshot.folios[at] for at in met.tolist()]
    dropped = _dropped_pins(snapshot, kernel)
    table = np.array([_folio_row(folio, dropped[folio.head]) for folio in folios], np.int64)
    mapcount = [folio.mapcount - folio.entire_mapcount for folio in folios]
    exclusive = [_exclusive_as_it_stands(folio) for folio in folios]
    return HiddenState(states, table.reshape(-1, len(FOLIO_COLUMNS)), _joined(mapcount), _joined(exclusive))


def _joined(columns: Sequence[npt.NDArray[Any]]) -> Table:
    return np.concatenate(columns or [np.zeros(0)]).astype(np.int64)


def _entries_of_snapshot(process: ProcessView, first: int, pages: int) -> tuple[Entries, Numbers]:
    entries, frames = np.zeros(pages, np.uint8), np.full(pages, -1)
    for mapping in process.mappings:
        low, high = max(mapping.start, first), min(mapping.end, first + pages)
        if low < high:
            here, there = slice(low - first, high - first), slice(low - mapping.start, high - mapping.start)
            entries[here] = mapping.pte[there] & ~np.uint8(PTE_CONT)
            entries[here] |= (mapping.huge & mapping.present)[there] * np.uint8(BY_PMD)
            frames[here] = np.where((mapping.present & ~mapping.zero)[there], mapping.pfn[there], -1)
    return entries, frames


def _vmas_of_view(process: ProcessView, first: int, pages: int) -> Table:
    rows = [
        (vma.start, vma.end, vma.flags & COMPARED_FLAGS, vma.pgoff, vma.anon_vma, _several(len(vma.chain)))
        for vma in process.mappings
    ]
    return _clipped(rows, first, pages)


def _folio_row(folio: FolioView, dropped_pins: int) -> tuple[int, ...]:
    """`FOLIO_COLUMNS`; what only large folios have is 0 for the others."""
    if not folio.order:
        return (0, folio.refcount, *(0,) * (len(FOLIO_COLUMNS) - 3), folio.lazyfree)
    (mm, mappings), (other, others) = folio.slots
    partially = folio.partially_mapped
    return (
        folio.order, folio.refcount - dropped_pins, folio.large_mapcount, folio.entire_mapcount, folio.nr_mapped,
        folio.pincount - dropped_pins, mm, other, mappings, others, folio.maybe_mapped_shared, partially, partially,
        folio.lazyfree,
    )  # fmt: skip


def _exclusive_as_it_stands(folio: FolioView) -> Bools:
    """PageAnonExclusive of each page, which a PMD's is the head's alone, with nothing in the tail pages."""
    if not folio.entire_mapcount:
        return folio.anon_exclusive
    own = folio.mapcount > folio.entire_mapcount
    own[0] = True
    return folio.anon_exclusive & own


# --- pins that io_uring keeps ---------------------------------------------------------------------------------------


def kept_pins(frames: Sequence[int], heads: Sequence[int], sizes: Sequence[int], kernel: str) -> list[bool]:
    """Which of its pins a registered buffer keeps (`io_sqe_buffer_register`, io_uring/rsrc.c).

    Up to 6.2 all. From 6.3 on (57bebf807e2a; 776617db78c6 asks for consecutive pages) one where the whole buffer lies
    in one folio; from 6.12 on (a8edbb424b13, `io_check_coalesce_buffer`) one a folio where all folios have one size,
    above one page, and are in order and whole, but for the first and the last. By source of 6.1, 6.12 and 7.3; recorded
    on 6.1, 6.12, 6.18, 7.3.

    Parameters
    ----------
    frames, heads, sizes : sequence of int
        The frame of each page of the buffer, the first frame of its folio, and that folio's pages.
    """
    everything = [True] * len(frames)
    version = _version(kernel)
    if version < (6, 3) or sizes[0] == 1:
        return everything
    starts = [
        at == 0 or head != heads[at - 1] or frame != frames[at - 1] + 1
        for at, (frame, head) in enumerate(zip(frames, heads, strict=True))
    ]
    first = [at for at, start in enumerate(starts) if start]
    if version < (6, 12) and len(first) > 1:
        return everything
    for at, end in pairwise(first):
        whole = frames[end - 1] == heads[at] + sizes[0] - 1 and (at == 0 or frames[at] == heads[at])
        if not whole or sizes[end] != sizes[0] or frames[end] != heads[end]:
            return everything
    return starts


def _version(kernel: str) -> tuple[int, int]:
    try:
        return kernel_number(kernel)[:2]
    except ValueError:
        # Whoever names a policy for a kernel of unreadable version gets what the newest does.
        return kernel_number(NEWEST)[:2]


def _dropped_pins(snapshot: Snapshot, kernel: str) -> Counter[int]:
    """Per first frame of a folio how many of the model's pins that kernel's io_uring has let go of."""
    dropped: Counter[int] = Counter()
    for process in snapshot.processes:
        for pin in process.pins:
            folios = [snapshot.folio_at(frame) for frame in pin.frames] if pin.kind == "pin" else []
            known = [folio for folio in folios if folio]
            if known and len(known) == len(folios):
                heads, sizes = [folio.head for folio in known], [folio.pages for folio in known]
                kept = kept_pins(pin.frames, heads, sizes, kernel)
                dropped.update(head for head, keeps in zip(heads, kept, strict=True) if not keeps)
    return dropped


# --- the same for both ----------------------------------------------------------------------------------------------


def _several(length: int) -> int:
    return min(length, SEVERAL)


def _clipped(rows: Sequence[tuple[int, ...]], first: int, pages: int) -> Table:
    """VMAs as far as they are in the scenario's pages, counted from their first."""
    table = np.array(rows, np.int64).reshape(-1, len(VMA_COLUMNS))
    table = table[(table[:, 1] > first) & (table[:, 0] < first + pages)]
    start = np.maximum(table[:, 0], first)
    table[:, 3] += start - table[:, 0] - first
    table[:, 0] = start - first
    table[:, 1] = np.minimum(table[:, 1], first + pages) - first
    return table


def _number_anon_vmas(states: Mapping[int, ProcessState]) -> None:
    """They are numbered as they are met; 0 stays none."""
    numbers = {0: 0}
    for state in states.values():
        owners = state.vmas[:, VMA_COLUMNS.index("anon_vma")]
        owners[:] = [numbers.setdefault(owner, len(numbers)) for owner in owners.tolist()]


def _as_met(folios: Numbers) -> Numbers:
    """Each index but those below 0 once, in the order in which they are met."""
    found, where = np.unique(folios[folios >= 0], return_index=True)
    return found[np.argsort(where)]


# --- comparing ------------------------------------------------------------------------------------------------------


class Cells(NamedTuple):
    """One field in one place, of both witnesses: arrays that must be the same, and how to say where they are not."""

    field: str
    where: str
    mine: npt.NDArray[Any]
    theirs: npt.NDArray[Any]


def compared(mine: HiddenState, theirs: HiddenState) -> Iterator[Cells]:
    """Everything that both have, field by field."""
    for number in sorted(mine.processes.keys() & theirs.processes.keys()):
        here, there, where = mine.processes[number], theirs.processes[number], f"process {number}"
        left, right = _entries_alike(here), _entries_alike(there)
        for name, bit in ENTRY_BITS.items():
            yield Cells(f"entry: {name}", where, left & bit, right & bit)
        for at, name in enumerate(VMA_COLUMNS):
            yield Cells(f"mapping: {name}", where, here.vmas[:, at], there.vmas[:, at])
        yield Cells("MMF_HAS_PINNED", where, np.array([here.has_pinned]), np.array([there.has_pinned]))
    lacks = mine.lacks | theirs.lacks
    where = "the folios that are mapped"
    for at, name in enumerate(FOLIO_COLUMNS):
        if name not in lacks:
            yield Cells(f"folio: {name}", where, mine.folios[:, at], theirs.folios[:, at])
    where = "the pages of all folios"
    yield Cells("page: mapcount", where, mine.mapcount, theirs.mapcount)
    if "PageAnonExclusive" not in lacks:
        yield Cells("page: PageAnonExclusive", where, mine.exclusive, theirs.exclusive)


def _entries_alike(state: ProcessState) -> Entries:
    """Of the huge zero page older kernels do not set `special`."""
    return np.where(state.entries & BY_PMD, state.entries & ~np.uint8(PTE_SPECIAL), state.entries)


def first_difference(
    mine: HiddenState, theirs: HiddenState, tally: Counter[str] | None = None
) -> tuple[str, str, str] | None:
    """The first field that differs, what it is and what each says; None when all are equal.

    `tally` counts the cells that were compared, by field.
    """
    if tally is not None:
        tally.update(_cells(mine, theirs))
    if _all_equal(mine, theirs):
        return None
    for cells in compared(mine, theirs):
        if not np.array_equal(cells.mine, cells.theirs):
            return _in_words(cells)
    return None


def _all_equal(mine: HiddenState, theirs: HiddenState) -> bool:
    """Whether all is, at once: it nearly always is."""
    if mine.lacks != theirs.lacks or mine.processes.keys() != theirs.processes.keys():
        return False
    pairs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [
        (mine.folios, theirs.folios), (mine.mapcount, theirs.mapcount), (mine.exclusive, theirs.exclusive)
    ]  # fmt: skip
    for number, here in mine.processes.items():
        there = theirs.processes[number]
        pairs += [(here.entries, there.entries), (here.vmas, there.vmas)]
        if here.has_pinned != there.has_pinned:
            return False
    return all(left.shape == right.shape and bool((left == right).all()) for left, right in pairs)


def _cells(mine: HiddenState, theirs: HiddenState) -> dict[str, int]:
    """How many cells of each field both have."""
    both = [state for number, state in theirs.processes.items() if number in mine.processes]
    lacks = mine.lacks | theirs.lacks
    cells = dict.fromkeys((f"entry: {name}" for name in ENTRY_BITS), sum(len(state.entries) for state in both))
    cells |= dict.fromkeys((f"mapping: {name}" for name in VMA_COLUMNS), sum(len(state.vmas) for state in both))
    cells["MMF_HAS_PINNED"] = len(both)
    cells |= dict.fromkeys((f"folio: {name}" for name in FOLIO_COLUMNS if name not in lacks), len(theirs.folios))
    return cells | dict.fromkeys((f"page: {name}" for name in PAGE_COLUMNS if name not in lacks), len(theirs.mapcount))


def _in_words(cells: Cells) -> tuple[str, str, str]:
    if cells.mine.shape != cells.theirs.shape:
        return f"{cells.field} of {cells.where}", f"{len(cells.mine)} of them", f"{len(cells.theirs)} of them"
    at = int(np.flatnonzero(cells.mine != cells.theirs)[0])
    return f"{cells.field} of {cells.where}, number {at}", str(cells.mine[at]), str(cells.theirs[at])


# --- in a recording -------------------------------------------------------------------------------------------------

MOST = 1 << 40
ENTRY_MASK = sum(ENTRY_BITS.values())


class NotAState(ValueError):
    """What a recording has is no hidden state: what is wrong."""


def as_json(state: HiddenState) -> dict[str, Any]:
    """As a step of a recording holds it."""
    processes = {
        str(number): {
            "entries": _runs(process.entries),
            "mappings": process.vmas.tolist(),
            "pinned": int(process.has_pinned),
        }
        for number, process in state.processes.items()
    }
    folios = {
        name: column
        for name, column in zip(FOLIO_COLUMNS, state.folios.T.tolist(), strict=True)
        if name not in state.lacks
    }
    pages = {name: _runs(column) for name, column in _page_columns(state).items() if name not in state.lacks}
    return {"processes": processes, "folios": folios, "pages": pages}


def _page_columns(state: HiddenState) -> dict[str, Table]:
    return dict(zip(PAGE_COLUMNS, (state.mapcount, state.exclusive), strict=True))


def _runs(values: npt.NDArray[Any]) -> list[int]:
    if not len(values):
        return []
    starts = np.flatnonzero(np.concatenate((np.ones(1, np.bool_), values[1:] != values[:-1])))
    lengths = np.diff(starts, append=len(values))
    return [number for run in zip(lengths.tolist(), values[starts].tolist(), strict=True) for number in run]


def from_json(content: Any, pages: int) -> HiddenState:
    """What a step of a recording holds; `NotAState` says what is wrong with it."""
    parts = ("processes", "folios", "pages")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        raise NotAState(f"is no object of {', '.join(parts)}")
    processes = {
        _process_number(name): _process_from_json(row, pages, f"process {name!s:.20}")
        for name, row in content["processes"].items()
    }
    folios, lacks = _folios_from_json(content["folios"], max(1, len(processes)) * pages)
    total = int((1 << folios[:, 0]).sum())
    mapcount, exclusive = (
        _unrun(content["pages"][name], total, name) if name in content["pages"] else np.zeros(total, np.int64)
        for name in PAGE_COLUMNS
    )
    if "mapcount" not in content["pages"]:
        raise NotAState("pages have no mapcount")
    lacks |= {name for name in PAGE_COLUMNS if name not in content["pages"]}
    return HiddenState(processes, folios, mapcount, exclusive, frozenset(lacks))


def _process_number(name: str) -> int:
    if not name.isascii() or not name.isdigit() or len(name) > 9:
        raise NotAState(f"{name!r:.40} is no process")
    return int(name)


def _process_from_json(row: Any, pages: int, where: str) -> ProcessState:
    if not isinstance(row, dict) or not isinstance(row.get("mappings"), list) or row.get("pinned") not in (0, 1):
        raise NotAState(f"{where} is no object of entries, mappings and pinned")
    mappings = [_numbers(each, f"{where}, a mapping", len(VMA_COLUMNS)) for each in row["mappings"]]
    entries = _unrun(row.get("entries"), pages, f"{where}, entries")
    if bool((entries & ~ENTRY_MASK).any()):
        raise NotAState(f"{where}, entries: {entries.max()} are no bits of an entry")
    table = np.array(mappings, np.int64).reshape(-1, len(VMA_COLUMNS))
    return ProcessState(entries.astype(np.uint8), table, bool(row["pinned"]))


def _folios_from_json(row: dict[str, Any], most: int) -> tuple[Table, set[str]]:
    """The table of folios, and the columns that are missing."""
    if "order" not in row:
        raise NotAState("folios have no order")
    order = _numbers(row["order"], "order")
    if len(order) > most or any(not 0 <= each <= PMD_ORDER for each in order):
        raise NotAState(f"order: more than {most} folios, or one that is not from 0 to {PMD_ORDER}")
    columns = [_numbers(row[name], name, len(order)) if name in row else [0] * len(order) for name in FOLIO_COLUMNS]
    return np.array(columns, np.int64).T, {name for name in FOLIO_COLUMNS if name not in row}


def _numbers(values: Any, where: str, length: int | None = None) -> list[int]:
    """A list of whole numbers."""
    if not isinstance(values, list) or not {*map(type, values)} <= {int}:
        raise NotAState(f"{where}: {values!r:.40} is no list of numbers")
    if length is not None and len(values) != length:
        raise NotAState(f"{where}: {len(values)} numbers, not {length}")
    if values and not -MOST <= min(values) <= max(values) <= MOST:
        raise NotAState(f"{where}: a number out of bounds")
    return values


def _unrun(values: Any, length: int, where: str) -> Table:
    """Runs as an array of that length; nothing larger is made."""
    runs = _numbers(values, where)
    lengths = runs[::2]
    if len(runs) % 2 or min(runs, default=0) < 0 or sum(lengths) != length:
        raise NotAState(f"{where}: no runs of {length} pages together")
    return np.repeat(np.array(runs[1::2], np.int64), lengths)
