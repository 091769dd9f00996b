"""What a state is to the search: numbers in which nothing is named, a name of 16 bytes, and a machine made of them.

Two machines are one state iff renaming makes them equal. Renamed are processes, frames, folios and anon_vmas. Bytes,
counters and the accessed bit are left out: no rule of the searched operations reads them. The dirty bit counts only
where a policy's mprotect asks for it; it is kept beside the name all the same, with what else few operations read.

What a process or a folio looks like by itself comes again in many states: each such `Shape` and `Kind` is one object,
whose bytes are made once. Who is meant is a text of one character for each name, which Python renames without a loop.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain, groupby, pairwise, permutations, product
from operator import itemgetter
from struct import Struct, pack, unpack_from
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

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
from ..machine.invariants import Mapped
from ..machine.machine import Machine, Process

SEEN_BITS = PTE_PRESENT | PTE_WRITE | PTE_SPECIAL | PTE_CONT | PTE_GUARD
NAME_BYTES = 16
"""Of a state's name. Two of a billion states share one by chance with a probability of 10^-21."""
ANCESTOR = -1
"""Stands for whatever else a fork child's mapping hangs on: nobody asks what that is."""
NOBODY = "\0"
"""No folio (the zero page), no anon_vma, no process."""
FRESH = 1 << 17
"""Names from here on are new: no state counts so far."""
_REMEMBERED = 1 << 16
"""So many pieces and renamings are remembered; others are made anew."""
_FLAGS = 7
"""Numbers of a folio's facts beside those of its pages."""

Numbers = tuple[int, ...]


class Shape:
    """What a process looks like by itself: numbers in which no other process, folio or anon_vma is named.

    Attributes
    ----------
    local : tuple of int
        Mappings, their entries, what is held.
    places : tuple of int
        For each page that is mapped, then for each that is held, which page of its folio it is.
    hidden : tuple of int
        What is no part of a state's name: dirty bits, and which PMDs have a table.
    name, form : bytes
        As it stands in a state's name, and whole.
    mappings, owners : int
        How many anon_vmas and folios it has to name.
    hash : int
        Of `form`; the same number in every process.
    """

    def __init__(self, form: bytes) -> None:
        self.form = form
        self.local, self.places, self.hidden = _parts(form, 3)
        self.name = _packed((*self.local, *self.places))
        self.mappings, self.owners = self.local[0], len(self.places)
        self.hash = crc32(form)

    @cached_property
    def entries(self) -> tuple[tuple[int, int, bool, int], ...]:
        """Entries that are not none: page, bits, whether a PMD maps it, and its dirty bit."""
        found = []
        at, hid = 3, 0
        for _ in range(self.mappings):
            start, end = self.local[at : at + 2]
            huge, pages = at + 5 - (start >> 9), end - start
            at, hid = at + 5 + _tables(start, end), hid + _tables(start, end)
            seen, dirty = self.local[at : at + pages], self.hidden[hid : hid + pages]
            found += [
                (vpn, bits, bool(self.local[huge + (vpn >> 9)]), wrote)
                for vpn, bits, wrote in zip(range(start, end), seen, dirty, strict=True)
                if bits
            ]
            at, hid = at + pages, hid + pages
        return tuple(found)

    @cached_property
    def around(self) -> Numbers:
        """What it is beside its entries and what it holds: its mappings."""
        found, at = self.local[:3], 3
        for _ in range(self.mappings):
            start, end = self.local[at : at + 2]
            found += self.local[at : at + 5]
            at += 5 + _tables(start, end) + end - start
        return found

    @cached_property
    def pages(self) -> tuple[tuple[object, ...], ...]:
        """For each of `places` all that is known of the entry, or of what holds it."""
        mapped = [entry for entry in self.entries if entry[0] in self.maps]
        held = [(*what, page, stay) for *what, page, stays in self.held for stay in stays]
        return tuple([(*what, place) for what, place in zip((*mapped, *held), self.places, strict=True)])

    @cached_property
    def held(self) -> tuple[tuple[str, int, int, Numbers], ...]:
        """What it holds: kind, number, first page, and for each page whether its entry must still map the frame."""
        at = 3
        for _ in range(self.mappings):
            start, end = self.local[at : at + 2]
            at += 5 + _tables(start, end) + end - start
        found = []
        for _ in range(self.local[at]):
            pinned, number, vpn, _, pages = self.local[at + 1 : at + 6]
            found.append(("pin" if pinned else "reference", number, vpn, self.local[at + 6 : at + 6 + pages]))
            at += 5 + pages
        return tuple(found)

    @cached_property
    def maps(self) -> dict[int, int]:
        """Pages that map a folio: which of `places` each is."""
        pages = [vpn for vpn, bits, *_ in self.entries if bits & (PTE_PRESENT | PTE_SPECIAL) == PTE_PRESENT]
        return {page: at for at, page in enumerate(pages)}

    @cached_property
    def holds(self) -> dict[tuple[str, int], range]:
        """What it holds: which of `places` those pages are."""
        sizes = [len(stays) for *_, stays in self.held]
        ends = [*accumulate(sizes, initial=len(self.maps))]
        return {
            (kind, number): range(start, end)
            for (kind, number, *_), (start, end) in zip(self.held, pairwise(ends), strict=True)
        }


class Kind:
    """What a folio is by itself.

    Attributes
    ----------
    named : tuple of int
        Of each page how often it is mapped, and whether it is marked exclusive; then `_FLAGS` numbers of the whole.
    hidden : tuple of int
        What is no part of a state's name: its other flags, and which pages hold a byte, where that is asked for.
    name, form : bytes
        As it stands in a state's name, and whole.
    size, entire : int
        Pages, and how many PMDs map it.
    """

    def __init__(self, form: bytes) -> None:
        self.form = form
        self.named, self.hidden = _parts(form, 2)
        self.name = _packed((len(self.named), *self.named))
        self.size = len(self.named) - _FLAGS >> 1
        self.entire = self.named[2 * self.size + 3]


def _tables(start: int, end: int) -> int:
    """How many page tables [start, end) reaches into."""
    return ((end - 1) >> 9) + 1 - (start >> 9)


class State(NamedTuple):
    """All processes, and all folios that they map or hold; names are counted from 1 as they are met.

    Attributes
    ----------
    shapes : tuple of Shape
        One for each process.
    anon_vmas : str
        Of each mapping of each process.
    owners : str
        The folio of each page in `Shape.places` of each process.
    kinds : tuple of Kind
        One for each folio.
    slots : str
        For each folio the processes of its two slots.
    """

    shapes: tuple[Shape, ...]
    anon_vmas: str
    owners: str
    kinds: tuple[Kind, ...]
    slots: str

    @property
    def folios(self) -> dict[str, Facts]:
        """What is known of each folio."""
        slots = self.slots
        pairs = [slots[at : at + 2] for at in range(0, len(slots), 2)]
        return dict(zip(map(chr, range(1, len(pairs) + 1)), zip(self.kinds, pairs, strict=True), strict=True))


class Side(NamedTuple):
    """One process of a state, with its share of the names."""

    shape: Shape
    anon_vmas: str
    owners: str

    @property
    def hash(self) -> int:
        """The same number for all that differ only in the names of folios; in every process that is asked."""
        return crc32(renamed(self.owners).text.encode(), self.shape.hash)


Facts = tuple[Kind, str]
"""One folio, and the processes of its two slots."""


def sides_of(state: State) -> list[Side]:
    """The processes of a state."""
    shapes, anon_vmas, owners, *_ = state
    sides, mapping, page = [], 0, 0
    for shape in shapes:
        up_to, last = mapping + shape.mappings, page + shape.owners
        sides.append(Side(shape, anon_vmas[mapping:up_to], owners[page:last]))
        mapping, page = up_to, last
    return sides


# --- of a machine ---------------------------------------------------------------------------------------------------


class Taken(NamedTuple):
    """A state as a machine names it: its processes and their ids, and its folios."""

    sides: list[Side]
    mms: str
    folios: dict[str, Facts]


def taken(machine: Machine, *, content: bool = False, known: Iterable[str] = ()) -> Taken:
    """The state of a machine as it is named there, folios from 1; `content`: with which frames are not zero.

    Of folios that are `known` the facts are told even if no process maps or holds them any more.
    """
    live, memory = machine.live(), machine.memory
    # The order of 6.1's mprotect asks for the dirty bit (`can_change_pte_writable`).
    seen = SEEN_BITS | (PTE_DIRTY if machine.policy.mprotect_needs_dirty else 0)
    folio_of, head = memory.folio_of[: memory.buddy.untouched].tolist(), memory.head.tolist()
    large: dict[int, str] = {}
    sides = [_side(process, seen, folio_of, head, large) for process in live]
    folios = dict.fromkeys("".join([side.owners for side in sides]))
    folios.update(dict.fromkeys([name for name in known if memory.refcount.item(ord(name) - 1)]))
    folios.pop(NOBODY, None)
    facts = facts_of(memory, folios, content)
    return Taken(sides, "".join([chr(process.mm.id) for process in live]), facts)


def _side(process: Process, seen: int, folio_of: Sequence[int], head: Sequence[int], large: dict[int, str]) -> Side:
    mm = process.mm
    local, hidden = [len(mm.vmas), mm.has_pinned, PRCTL.index(mm.thp_disabled)], []
    owners: list[str] = []
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
                owners.append(chr(folio + 1))
                places.append(pfn - head[folio])
    held = sorted(process.pins().items(), key=itemgetter(0)) if mm.pins else []
    local.append(len(held))
    for (kind, number), pin in held:
        local += (kind == "pin", number, pin.vpn, pin.writable, len(pin.frames))
        local += [pin.vpn + at in pin.expected for at in range(len(pin.frames))]
        for pfn in pin.frames:
            folio = folio_of[pfn]
            owners.append(chr(folio + 1))
            places.append(pfn - head[folio] if folio >= 0 else 0)
    anon_vmas = [_anon_vma(vma.anon_vma, large) for vma in mm.vmas]
    shape = _shape(tuple(local), tuple(places), tuple(hidden))
    return Side(shape, "".join(anon_vmas), "".join(owners))


def _anon_vma(number: int, large: dict[int, str]) -> str:
    return chr(number) if number < FRESH else large.setdefault(number, chr(FRESH + len(large)))


def facts_of(memory: Memory, names: Iterable[str], content: bool) -> dict[str, Facts]:
    """What is to be known of folios, by their names."""
    used = memory.buddy.untouched
    mapcounts, marks = memory.mapcount[:used].tolist(), memory.anon_exclusive[:used].tolist()
    head, order, *others = (getattr(memory, name).tolist() for name in ("head", "order", *_NAMED))
    slots, slot_counts = memory.mm_id.tolist(), memory.mm_id_mapcount.tolist()
    hidden = [getattr(memory, name).tolist() for name in _HIDDEN]
    found = {}
    for name in names:
        folio = ord(name) - 1
        start = head[folio]
        stop = start + (1 << order[folio])
        named = (
            *mapcounts[start:stop], *marks[start:stop], order[folio], *slot_counts[folio],
            *[column[folio] for column in others],
        )  # fmt: skip
        beside = tuple([column[folio] for column in hidden])
        if content:
            beside += tuple((memory.content[start:stop] > 0).tolist())
        one, other = slots[folio]
        found[name] = _kind(named, beside), chr(one) + chr(other)
    return found


_NAMED = ("entire_mapcount", "refcount", "pincount", "maybe_mapped_shared")
_HIDDEN = ("partially_mapped", "dirty", "lazyfree")


# --- in normal form ---------------------------------------------------------------------------------------------------


class Renamed(NamedTuple):
    """A text whose names are counted as they are met; those names in that order; and the table for the way back."""

    text: str
    met: str
    back: dict[int, str]


@lru_cache(_REMEMBERED)
def renamed(text: str) -> Renamed:
    """The text with its names counted as they are met; `NOBODY` stays."""
    met = "".join(dict.fromkeys(NOBODY + text))
    return Renamed(text.translate({ord(name): at for at, name in enumerate(met)}), met[1:], dict(enumerate(met)))


class _Ids(dict[int, str]):
    """Processes by their ids; who is not in it has exited."""

    def __missing__(self, _: int) -> str:
        return NOBODY


@lru_cache(_REMEMBERED)
def _ids(mms: str) -> _Ids:
    return _Ids({ord(mm): chr(number) for number, mm in enumerate(mms, 1)})


def normal(sides: Sequence[Side], mms: str, folios: Mapping[str, Facts]) -> State:
    """A state in normal form; of `folios` only those that somebody maps or holds are part of it.

    Processes that differ in themselves are ordered by that. For the rest every order is tried, the least wins.
    """
    if len(sides) == 1:
        return _counted(sides, mms, folios)
    if len(sides) == 2:
        one, other = sides[0][0].local, sides[1][0].local
        if one != other:
            if one < other:
                return _counted(sides, mms, folios)
            return _counted(sides[::-1], mms[::-1], folios)
    return _least(sides, mms, folios)[0]


def _least(sides: Sequence[Side], mms: str, folios: Mapping[str, Facts]) -> tuple[State, list[int]]:
    """The least of all that the state looks like, and the order of processes that it takes."""
    found = [
        (_counted([sides[at] for at in order], "".join([mms[at] for at in order]), folios), order)
        for order in _orders(sides)
    ]
    return min(found, key=_looks)


def _looks(found: tuple[State, list[int]]) -> tuple[object, ...]:
    state, _ = found
    names = [(anon_vmas, owners, shape.places) for shape, anon_vmas, owners in sides_of(state)]
    return names, [(kind.named, pair) for kind, pair in state.folios.values()]


def _orders(sides: Sequence[Side]) -> Iterator[list[int]]:
    """Every order in which processes that look alike may stand."""

    def local(at: int) -> Numbers:
        return sides[at].shape.local

    alike = [list(group) for _, group in groupby(sorted(range(len(sides)), key=local), key=local)]
    for some in product(*map(permutations, alike)):
        yield list(chain.from_iterable(some))


def _counted(sides: Sequence[Side], mms: str, folios: Mapping[str, Facts]) -> State:
    """The state with its processes in that order."""
    shapes, anon_vmas, owners = zip(*sides, strict=True)
    owned = renamed("".join(owners))
    facts = [folios[name] for name in owned.met]
    slots = "".join([pair for _, pair in facts]).translate(_ids(mms))
    return State(shapes, renamed("".join(anon_vmas)).text, owned.text, tuple([kind for kind, _ in facts]), slots)


def state_of(machine: Machine, *, content: bool = False) -> State:
    """The state of a machine; `content`: with which frames are not zero."""
    return normal(*taken(machine, content=content))


def order_of(machine: Machine) -> list[Process]:
    """A machine's processes in the order of its normal form."""
    live = machine.live()
    return [live[at] for at in _least(*taken(machine))[1]]


def canonical(state: State) -> bytes:
    """What makes the state this one: the same for all machines that differ only in names."""
    shapes, anon_vmas, owners, kinds, slots = state
    pieces = [shape.name for shape in shapes] + [kind.name for kind in kinds]
    return b"%d %d " % (len(shapes), len(kinds)) + b"".join(pieces) + (anon_vmas + owners + slots).encode()


def name_of(state: State) -> bytes:
    """The name of a state, as `NAME_BYTES` bytes."""
    return hashlib.blake2b(canonical(state), digest_size=NAME_BYTES).digest()


# --- as bytes ---------------------------------------------------------------------------------------------------------


def _packed(numbers: Sequence[int]) -> bytes:
    """Numbers in as few bytes as they take."""
    for width in "bhq":
        try:
            return width.encode() + array(width, numbers).tobytes()
        except OverflowError:
            continue
    raise OverflowError(f"{max(numbers)} is no number of a state")


def _form(*parts: Sequence[int]) -> bytes:
    return _packed([*map(len, parts), *chain.from_iterable(parts)])


def _parts(form: bytes, count: int) -> list[Numbers]:
    """The other way round."""
    packed = array(chr(form[0]))
    packed.frombytes(form[1:])
    numbers = packed.tolist()
    ends = [count, *accumulate(numbers[:count], initial=count)][1:]
    return [tuple(numbers[start:end]) for start, end in pairwise(ends)]


shape_of, kind_of = lru_cache(_REMEMBERED)(Shape), lru_cache(_REMEMBERED)(Kind)
"""The one object of those bytes."""


@lru_cache(_REMEMBERED)
def _shape(local: Numbers, places: Numbers, hidden: Numbers) -> Shape:
    return shape_of(_form(local, places, hidden))


@lru_cache(_REMEMBERED)
def _kind(named: Numbers, hidden: Numbers) -> Kind:
    return kind_of(_form(named, hidden))


_PIECES = ((shape_of, 2200), (kind_of, 900), (renamed, 700))
"""What is remembered, and about how many bytes one takes, what leads to it included."""


def remembered_bytes() -> int:
    """About what this process remembers of pieces of states."""
    return sum(each * remembers.cache_info().currsize for remembers, each in _PIECES)


def forget() -> None:
    """Remember nothing of another search."""
    for remembers in (shape_of, kind_of, _shape, _kind, renamed, _ids):
        remembers.cache_clear()


def to_bytes(state: State) -> bytes:
    """A state as bytes: how many shapes and kinds, the size of each, each; and the names."""
    shapes, anon_vmas, owners, kinds, slots = state
    pieces = [*[shape.form for shape in shapes], *[kind.form for kind in kinds]]
    head = _COUNTS.pack(len(shapes), len(kinds)) + pack(f"<{len(pieces)}I", *map(len, pieces))
    return head + b"".join(pieces) + (anon_vmas + owners + slots).encode()


def from_bytes(form: bytes) -> State:
    """The other way round."""
    processes, folios = _COUNTS.unpack_from(form)
    count = processes + folios
    ends = [*accumulate(unpack_from(f"<{count}I", form, _COUNTS.size), initial=_COUNTS.size + 4 * count)]
    pieces = [form[start:end] for start, end in pairwise(ends)]
    shapes, kinds = tuple(map(shape_of, pieces[:processes])), tuple(map(kind_of, pieces[processes:]))
    names = form[ends[-1] :].decode()
    mappings = sum([shape.mappings for shape in shapes])
    pages = mappings + sum([shape.owners for shape in shapes])
    return State(shapes, names[:mappings], names[mappings:pages], kinds, names[pages:])


_COUNTS = Struct("<BH")


# --- what promises are asked of ---------------------------------------------------------------------------------------


def mapped_of(states: Sequence[State], *, marks_exclusive: bool) -> Mapped:
    """What the processes of many states map and hold, side by side as if they were those of one machine."""
    rows: list[tuple[int, ...]] = []
    held: list[tuple[int, str, int, int]] = []
    expected: list[tuple[int, str, int, int, int]] = []
    who, frames = 0, 1
    for state in states:
        bases = []
        for kind in state.kinds:
            bases.append(frames)
            frames += kind.size
        for shape, _, owners in sides_of(state):
            who += 1
            pages = [(ord(owner) - 1, place) for owner, place in zip(owners, shape.places, strict=True)]
            mapped = iter(pages)
            for vpn, bits, huge, _ in shape.entries:
                if bits & (PTE_PRESENT | PTE_SPECIAL) != PTE_PRESENT:
                    rows.append((who, vpn, bits, ZERO_PFN, 0, False))
                    continue
                folio, place = next(mapped)
                kind = state.kinds[folio]
                marked = kind.named[kind.size + (0 if huge else place)]
                rows.append((who, vpn, bits, bases[folio] + place, kind.named[place] + kind.entire, marked))
            for hold, number, vpn, stays in shape.held:
                for at, stay in enumerate(stays):
                    folio, place = next(mapped)
                    pfn = bases[folio] + place if folio >= 0 else ZERO_PFN
                    held.append((who, hold, number, pfn))
                    if stay:
                        expected.append((who, hold, number, vpn + at, pfn))
    process, vpn, bits, pfn, times, exclusive = np.array(rows or [(0,) * 6])[: len(rows)].T
    return Mapped(process, vpn, bits, pfn, times, exclusive > 0, held, expected, marks_exclusive)


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
        self._memories: dict[Numbers, tuple[Memory, npt.NDArray[np.intp], list[int]]] = {}

    def machine(self, state: State) -> Machine:
        """A machine in that state: its processes are 0, 1, …; those that are only named in slots have exited."""
        like, (sides, kinds) = self._like, (sides_of(state), state.kinds)
        ids = max(len(sides), *map(ord, state.slots), 0)
        machine = object.__new__(type(like))
        machine.__dict__.update(like.__dict__)
        orders = tuple([kind.size.bit_length() - 1 for kind in kinds])
        if orders not in self._memories:
            self._memories[orders] = self._blank(orders)
        blank, frames, heads = self._memories[orders]
        memory = machine.memory = blank.copy()
        machine.counters = like.counters.copy()
        machine.processes, machine.faults = [], []
        if kinds:
            _put_folios(memory, frames, kinds, state.slots)
        for at in range(ids):
            process = Process(machine, Mm(at + 1, memory, machine.policy))
            process.alive = at < len(sides)
            machine.processes.append(process)
        for process, side in zip(machine.processes, sides, strict=False):
            _put_side(process, like.processes[0].mm, side, heads)
        memory.make_room_for_mms(ids + 1)
        return machine

    def _blank(self, orders: Numbers) -> tuple[Memory, npt.NDArray[np.intp], list[int]]:
        """A memory with folios of these orders that nobody maps, all their frames, and the first of each."""
        like = self._like.memory
        memory = Memory(like.buddy.frames, like.marks_exclusive)
        folios = [memory.folio_alloc(order) for order in orders]
        assert folios == list(range(len(orders)))
        heads = memory.head[: len(orders)].tolist()
        frames = [head + at for head, order in zip(heads, orders, strict=True) for at in range(1 << order)]
        return memory, np.array(frames, np.intp), heads


def _put_folios(memory: Memory, frames: npt.NDArray[np.intp], kinds: Sequence[Kind], slots: str) -> None:
    mapcounts: list[int] = []
    exclusive: list[int] = []
    content: list[int] = []
    rows = []
    for at, kind in enumerate(kinds):
        size, named = kind.size, kind.named
        counts = named[:size]
        mapcounts += counts
        exclusive += named[size : 2 * size]
        content += kind.hidden[3:] or (0,) * size
        _, one, other, entire, refcount, pincount, shared = named[2 * size :]
        mappings = sum(counts) + entire if size > 1 else 0
        mapped = size - counts.count(0)
        mms = map(ord, slots[2 * at : 2 * at + 2])
        rows.append((one, other, entire, refcount, pincount, shared, mappings, mapped, *kind.hidden[:3], *mms))
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
    local, places, hidden = side.shape.local, side.shape.places, side.shape.hidden
    anon_vmas, owners = map(ord, side.anon_vmas), map(ord, side.owners)
    mm = process.mm
    mm.arena, mm.start_brk, mm.brk = like.arena, like.start_brk, like.brk
    pfns = iter([heads[owner - 1] + at if owner else ZERO_PFN for owner, at in zip(owners, places, strict=True)])
    mm.has_pinned, mm.thp_disabled = bool(local[1]), PRCTL[local[2]]
    at, hid = 3, 0
    for anon_vma in anon_vmas:
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
