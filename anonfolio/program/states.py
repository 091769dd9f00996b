"""What a state is to the search: numbers in which nothing is named, a name of 16 bytes, and a machine made of them.

Two machines are one state iff renaming makes them equal. Renamed are processes, frames, folios and anon_vmas. Bytes,
counters and the accessed bit are left out: no rule of the searched operations reads them. The dirty bit counts only
where a policy's mprotect asks for it; it is kept beside the name all the same, with what else few operations read.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, pairwise, permutations, product
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from ..kernel.frames import Memory
from ..kernel.mm import Mm
from ..kernel.pagetable import (
    PMD_HUGE,
    PTE_CONT,
    PTE_DIRTY,
    PTE_GUARD,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    PTE_YOUNG,
)
from ..kernel.pin import Pin
from ..kernel.rules import PRCTL
from ..kernel.sizes import ZERO_PFN
from ..kernel.vma import Vma
from ..machine.machine import Machine, Process

SEEN_BITS = PTE_PRESENT | PTE_WRITE | PTE_SPECIAL | PTE_CONT | PTE_GUARD
NAME_BYTES = 16
"""Of a state's name. Two of a billion states share one by chance with a probability of 10^-21."""
ANCESTOR = -1
"""Stands for whatever else a fork child's mapping hangs on: nobody asks what that is."""

Numbers = tuple[int, ...]
Side = tuple[Numbers, Numbers, Numbers, Numbers, Numbers]
"""One process. What it looks like by itself: numbers in which no other process, folio or anon_vma is named. What is no
part of the state's name: dirty bits, and which PMDs have a table. The anon_vma of each mapping, 0 for none. The folio
of each page that is mapped, then of each that is held, 0 for the zero page; and which page of it.
"""
Facts = tuple[Numbers, Numbers, tuple[int, int]]
"""One folio: what names nobody, what is no part of the name, and the processes of its two slots, 0 for none."""
_FLAGS = 7
"""Numbers of a folio's facts beside those of its pages."""


class State(NamedTuple):
    """All processes, their ids, and all folios that they map or hold.

    In normal form folios, anon_vmas and processes are numbered from 1 as they are met.
    """

    sides: tuple[Side, ...]
    mms: Numbers
    folios: dict[int, Facts]


# --- of a machine ---------------------------------------------------------------------------------------------------


def state_of(machine: Machine, *, content: bool = False) -> State:
    """The state of a machine as it is numbered there, folios from 1; `content`: with which frames are not zero."""
    live, memory = machine.live(), machine.memory
    # The order of 6.1's mprotect asks for the dirty bit (`can_change_pte_writable`).
    seen = SEEN_BITS | (PTE_DIRTY if machine.policy.mprotect_needs_dirty else 0)
    folio_of, head = memory.folio_of[:].tolist(), memory.head.tolist()
    sides = tuple([_side(process, seen, folio_of, head) for process in live])
    met = dict.fromkeys(chain.from_iterable([side[3] for side in sides]))
    met.pop(0, None)
    facts = {number: facts_of(memory, number, content) for number in met}
    return State(sides, tuple([process.mm.id for process in live]), facts)


def _side(process: Process, seen: int, folio_of: Sequence[int], head: Sequence[int]) -> Side:
    mm = process.mm
    local, hidden = [len(mm.vmas), mm.has_pinned, PRCTL.index(mm.thp_disabled)], []
    owners: list[int] = []
    places: list[int] = []
    for vma in mm.vmas:
        start, end = vma.start, vma.end
        local += (start, end, vma.flags, vma.pgoff, len(vma.chain) > 1)
        states = mm.pmd[start >> 9 : ((end - 1) >> 9) + 1].tolist()
        hidden += states
        local += [state == PMD_HUGE for state in states]
        entries = mm.pte[start:end].tolist()
        local += [bits & seen for bits in entries]
        hidden += [bits & PTE_DIRTY for bits in entries]
        for bits, pfn in zip(entries, mm.pfn[start:end].tolist(), strict=True):
            if bits & PTE_PRESENT and not bits & PTE_SPECIAL:
                folio = folio_of[pfn]
                owners.append(folio + 1)
                places.append(pfn - head[folio])
    held = sorted(process.pins().items(), key=itemgetter(0)) if mm.pins else []
    local.append(len(held))
    for (kind, number), pin in held:
        local += (kind == "pin", number, pin.vpn, pin.writable, len(pin.frames))
        local += [pin.vpn + at in pin.expected for at in range(len(pin.frames))]
        for pfn in pin.frames:
            folio = folio_of[pfn]
            owners.append(folio + 1)
            places.append(pfn - head[folio] if folio >= 0 else 0)
    return tuple(local), tuple(hidden), tuple([vma.anon_vma for vma in mm.vmas]), tuple(owners), tuple(places)


def facts_of(memory: Memory, number: int, content: bool) -> Facts:
    """What is to be known of a folio, which is told by its number plus 1."""
    folio = number - 1
    frames = memory.frames_of(folio)
    one, other = memory.mm_id[folio].tolist()
    named = (
        *memory.mapcount[frames].tolist(), *memory.anon_exclusive[frames].tolist(), memory.order.item(folio),
        *memory.mm_id_mapcount[folio].tolist(), memory.entire_mapcount.item(folio), memory.refcount.item(folio),
        memory.pincount.item(folio), memory.maybe_mapped_shared.item(folio),
    )  # fmt: skip
    hidden = memory.partially_mapped.item(folio), memory.dirty.item(folio), memory.lazyfree.item(folio)
    return named, (*hidden, *(memory.content[frames] > 0).tolist()) if content else hidden, (one, other)


# --- in normal form ---------------------------------------------------------------------------------------------------


def normal(state: State) -> tuple[array[int], State]:
    """The numbers that name a state, and the state in normal form.

    Processes that differ in themselves are ordered by that. For the rest every order is tried, the least wins.
    """
    sides = state.sides
    order, alike = _order(sides)
    numbers = [len(order)]
    for at in order:
        numbers += sides[at][0]
    flat, done = _renamed(state, order)
    if alike:
        for some in _orders(sides, order):
            other, renamed = _renamed(state, some)
            if other < flat:
                flat, done = other, renamed
    numbers += flat
    return _packed(numbers), done


def order_of(machine: Machine) -> list[Process]:
    """A machine's processes in the order of its normal form."""
    state, live = state_of(machine), machine.live()
    least = min(_orders(state.sides, _order(state.sides)[0]), key=lambda some: _renamed(state, some)[0])
    return [live[at] for at in least]


def canonical(machine: Machine) -> bytes:
    """What names a state, the same for all machines that differ only in names."""
    return normal(state_of(machine))[0].tobytes()


def name_of(numbers: array[int]) -> bytes:
    """The name of a state, as `NAME_BYTES` bytes."""
    return hashlib.blake2b(numbers, digest_size=NAME_BYTES).digest()


def _order(sides: Sequence[Side]) -> tuple[list[int], bool]:
    """The processes ordered by what they look like, and whether some look alike."""
    if len(sides) == 2:
        one, other = sides[0][0], sides[1][0]
        return [0, 1] if one <= other else [1, 0], one == other
    order = sorted(range(len(sides)), key=lambda at: sides[at][0])
    return order, any(sides[one][0] == sides[other][0] for one, other in pairwise(order))


def _orders(sides: Sequence[Side], order: Sequence[int]) -> Iterator[list[int]]:
    """Every order in which processes that look alike may stand."""
    alike = [list(group) for _, group in groupby(order, key=lambda at: sides[at][0])]
    for some in product(*map(permutations, alike)):
        yield list(chain.from_iterable(some))


def _renamed(state: State, order: Sequence[int]) -> tuple[list[int], State]:
    """The state in that order, folios and anon_vmas numbered as they are met; and the numbers that say which is."""
    sides, mms, folios = state
    anon_vmas: dict[int, int] = {0: 0}
    met: dict[int, int] = {0: 0}
    ids: dict[int, int] = {0: 0}
    flat: list[int] = []
    done = []
    for at in order:
        local, hidden, anon, owners, places = sides[at]
        ids[mms[at]] = len(ids)
        for anon_vma in anon:
            if anon_vma not in anon_vmas:
                anon_vmas[anon_vma] = len(anon_vmas)
        anon = tuple([anon_vmas[anon_vma] for anon_vma in anon])
        for owner in owners:
            if owner not in met:
                met[owner] = len(met)
        owners = tuple([met[owner] for owner in owners])
        flat += anon
        flat += owners
        flat += places
        done.append((local, hidden, anon, owners, places))
    facts = {}
    del met[0]
    for folio, number in met.items():
        named, hidden, (one, other) = folios[folio]
        slots = ids.get(one, 0), ids.get(other, 0)
        flat += named
        flat += slots
        facts[number] = named, hidden, slots
    return flat, State(tuple(done), tuple(range(1, len(done) + 1)), facts)


# --- as bytes ---------------------------------------------------------------------------------------------------------


def _packed(flat: list[int]) -> array[int]:
    try:
        return array("h", flat)
    except OverflowError:
        # One more number, so that no state of small numbers has the same name.
        return array("q", [*flat, -1])


def to_bytes(state: State) -> bytes:
    """A state in normal form, as bytes."""
    flat = [len(state.sides)]
    for numbers in chain.from_iterable(state.sides):
        flat.append(len(numbers))
        flat += numbers
    for named, hidden, slots in state.folios.values():
        flat.append(len(named))
        flat += named
        flat.append(len(hidden))
        flat += hidden
        flat += slots
    packed = _packed(flat)
    return packed.typecode.encode() + packed.tobytes()


def from_bytes(form: bytes) -> State:
    """The other way round."""
    wide = form[:1] == b"q"
    flat = memoryview(form)[1:].cast("q" if wide else "h").tolist()
    end, at = len(flat) - wide, 1
    sides: list[Side] = []
    for _ in range(flat[0]):
        parts = []
        for _ in range(5):
            stop = at + 1 + flat[at]
            parts.append(tuple(flat[at + 1 : stop]))
            at = stop
        local, hidden, anon_vmas, owners, places = parts
        sides.append((local, hidden, anon_vmas, owners, places))
    folios: dict[int, Facts] = {}
    while at < end:
        stop = at + 1 + flat[at]
        last = stop + 1 + flat[stop]
        folios[len(folios) + 1] = tuple(flat[at + 1 : stop]), tuple(flat[stop + 1 : last]), (flat[last], flat[last + 1])
        at = last + 2
    return State(tuple(sides), tuple(range(1, len(sides) + 1)), folios)


# --- a machine of it --------------------------------------------------------------------------------------------------


class Maker:
    """Makes machines of states in normal form.

    Parameters
    ----------
    like : Machine
        Whose policy, knobs and size of memory they have; its first process says where mappings go.
    """

    def __init__(self, like: Machine) -> None:
        self._like = like
        self._memories: dict[Numbers, tuple[Memory, list[int], list[int]]] = {}

    def machine(self, sides: Sequence[Side], folios: dict[int, Facts], ids: int) -> Machine:
        """A machine in that state: its processes are 0, 1, …; what has the other ids up to `ids` has exited."""
        like = self._like
        machine = object.__new__(type(like))
        machine.__dict__.update(like.__dict__)
        orders = tuple([_order_of(named) for named, _, _ in folios.values()])
        if orders not in self._memories:
            self._memories[orders] = self._blank(orders)
        blank, frames, heads = self._memories[orders]
        memory = machine.memory = blank.copy()
        machine.counters = like.counters.copy()
        machine.processes, machine.faults = [], []
        if folios:
            _put_folios(memory, frames, folios)
        for at in range(ids):
            process = Process(machine, Mm(at + 1, memory, machine.policy))
            process.alive = at < len(sides)
            machine.processes.append(process)
        for process, side in zip(machine.processes, sides, strict=False):
            _put_side(process, like.processes[0].mm, side, heads)
        memory.make_room_for_mms(ids + 1)
        return machine

    def _blank(self, orders: Numbers) -> tuple[Memory, list[int], list[int]]:
        """A memory with folios of these orders that nobody maps, all their frames, and the first of each."""
        like = self._like.memory
        memory = Memory(like.buddy.frames, like.marks_exclusive)
        folios = [memory.folio_alloc(order) for order in orders]
        assert folios == list(range(len(orders)))
        heads = memory.head[: len(orders)].tolist()
        frames = [head + at for head, order in zip(heads, orders, strict=True) for at in range(1 << order)]
        return memory, frames, heads


def _order_of(named: Numbers) -> int:
    return (len(named) - _FLAGS >> 1).bit_length() - 1


def _put_folios(memory: Memory, frames: list[int], folios: dict[int, Facts]) -> None:
    mapcounts: list[int] = []
    exclusive: list[int] = []
    content: list[int] = []
    rows = []
    for named, hidden, slots in folios.values():
        size = len(named) - _FLAGS >> 1
        counts = named[:size]
        mapcounts += counts
        exclusive += named[size : 2 * size]
        content += hidden[3:] or (0,) * size
        _, one, other, entire, refcount, pincount, shared = named[2 * size :]
        mappings = sum(counts) + entire if size > 1 else 0
        mapped = size - counts.count(0)
        rows.append((one, other, entire, refcount, pincount, shared, mappings, mapped, *hidden[:3], *slots))
    memory.mapcount[frames], memory.anon_exclusive[frames], memory.content[frames] = mapcounts, exclusive, content
    table = np.array(rows)
    these = slice(len(rows))
    memory.mm_id_mapcount[these], memory.mm_id[these] = table[:, :2], table[:, 11:]
    columns: tuple[Any, ...] = (
        memory.entire_mapcount, memory.refcount, memory.pincount, memory.maybe_mapped_shared, memory.large_mapcount,
        memory.nr_mapped, memory.partially_mapped, memory.dirty, memory.lazyfree,
    )  # fmt: skip
    for column, numbers in zip(columns, table.T[2:11], strict=True):
        column[these] = numbers


def _put_side(process: Process, like: Mm, side: Side, heads: Sequence[int]) -> None:
    local, hidden, anon_vmas, owners, places = side
    mm = process.mm
    mm.arena, mm.start_brk, mm.brk = like.arena, like.start_brk, like.brk
    pfns = iter([heads[owner - 1] + at if owner else ZERO_PFN for owner, at in zip(owners, places, strict=True)])
    mappings, mm.has_pinned, mm.thp_disabled = local[0], bool(local[1]), PRCTL[local[2]]
    at, hid = 3, 0
    for anon_vma in anon_vmas[:mappings]:
        start, end, flags, pgoff, several = local[at : at + 5]
        chained = frozenset((anon_vma, ANCESTOR) if several else (anon_vma,)) if anon_vma else frozenset[int]()
        mm.insert_vma(Vma(start, end, flags, pgoff, anon_vma, chained))
        blocks, pages = ((end - 1) >> 9) + 1 - (start >> 9), end - start
        mm.pmd[start >> 9 : ((end - 1) >> 9) + 1] = hidden[hid : hid + blocks]
        at, hid = at + 5 + blocks, hid + blocks
        bits = [
            seen | dirty | (PTE_YOUNG if seen & PTE_PRESENT else 0)
            for seen, dirty in zip(local[at : at + pages], hidden[hid : hid + pages], strict=True)
        ]
        maps = [entry & (PTE_PRESENT | PTE_SPECIAL) == PTE_PRESENT for entry in bits]
        mm.pte[start:end] = bits
        mm.pfn[start:end] = [next(pfns) if mapped else ZERO_PFN for mapped in maps]
        mm.rss_pages += sum(maps)
        at, hid = at + pages, hid + pages
    rest = iter(local[at:])
    for _ in range(next(rest)):
        pinned, number, vpn, writable, pages = (next(rest) for _ in range(5))
        frames = [next(pfns) for _ in range(pages)]
        expected = {vpn + at: pfn for at, pfn in enumerate(frames) if next(rest)}
        pin = Pin(process.number, vpn, frames, bool(writable), bool(pinned), expected)
        process._hold("pin" if pinned else "reference", number, pin)
