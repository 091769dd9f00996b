"""What a state is to the search: a name that two machines share iff renaming makes them equal.

Renamed are processes, frames, folios and anon_vmas. Bytes, counters and the accessed bit are left out: no rule of the
searched operations reads them. The dirty bit counts only where a policy's mprotect asks for it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, permutations, product
from operator import itemgetter

from ..kernel.frames import Memory
from ..kernel.pagetable import PTE_CONT, PTE_DIRTY, PTE_GUARD, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.rules import PRCTL
from ..machine.machine import Machine, Process

SEEN_BITS = PTE_PRESENT | PTE_WRITE | PTE_SPECIAL | PTE_CONT | PTE_GUARD
NAME_BYTES = 16
"""Of a state's name. Two of a billion states share one by chance with a probability of 10^-21."""

Local = tuple[int, ...]
"""What a process looks like by itself: numbers in which no other process, frame or folio is named."""


def name_of(machine: Machine, pages: int) -> bytes:
    """The name of a state over `pages` pages, as `NAME_BYTES` bytes."""
    return hashlib.blake2b(canonical(machine, pages), digest_size=NAME_BYTES).digest()


def canonical(machine: Machine, pages: int) -> bytes:
    """The state itself, the same for all machines that differ only in names.

    Processes that differ in themselves are ordered by that. For the rest every order is tried, the least wins.
    """
    # The order of 6.1's mprotect asks for the dirty bit (`can_change_pte_writable`).
    seen_bits = SEEN_BITS | (PTE_DIRTY if machine.policy.mprotect_needs_dirty else 0)
    pairs = sorted(((_local(process, pages, seen_bits), process) for process in machine.live()), key=itemgetter(0))
    named = list(chain.from_iterable(local for local, _ in pairs))
    folios = _Folios(machine.memory)
    return _as_bytes([len(pairs), *named, *min(folios.linked(order, pages) for order in _orders(pairs))])


def _orders(pairs: Sequence[tuple[Local, Process]]) -> Iterator[Iterable[Process]]:
    """Every order in which processes that look alike may stand."""
    if len({local for local, _ in pairs}) == len(pairs):
        yield [process for _, process in pairs]
        return
    alike = [[process for _, process in group] for _, group in groupby(pairs, key=itemgetter(0))]
    for order in product(*map(permutations, alike)):
        yield chain.from_iterable(order)


def _local(process: Process, pages: int, seen_bits: int) -> Local:
    mm = process.mm
    flat = [len(mm.vmas), mm.has_pinned, PRCTL.index(mm.thp_disabled)]
    for vma in mm.vmas:
        flat += (vma.start, vma.end, vma.flags, vma.pgoff, len(vma.chain) > 1)
    flat += [bits & seen_bits for bits in mm.pte[:pages].tolist()]
    pins = sorted(process.pins().items(), key=itemgetter(0))
    flat.append(len(pins))
    for (kind, number), pin in pins:
        flat += (kind == "pin", number, pin.vpn, pin.writable, len(pin.frames))
        flat += [pin.vpn + at in pin.expected for at in range(len(pin.frames))]
    return tuple(flat)


class _Folios:
    """A machine's memory as lists: it is small, and asked number by number."""

    def __init__(self, memory: Memory) -> None:
        self.of_frame = memory.folio_of[:].tolist()
        self.mapcount, self.exclusive = memory.mapcount.tolist(), memory.anon_exclusive.tolist()
        self.head, self.order, self.refcount = memory.head.tolist(), memory.order.tolist(), memory.refcount.tolist()
        self.pincount, self.shared = memory.pincount.tolist(), memory.maybe_mapped_shared.tolist()
        self.mm_id, self.mm_id_mapcount = memory.mm_id.tolist(), memory.mm_id_mapcount.tolist()

    def linked(self, order: Iterable[Process], pages: int) -> list[int]:
        """Which folios and anon_vmas processes share, then the folios, all in the order in which they are met."""
        of_frame, head = self.of_frame, self.head
        anon_vmas: dict[int, int] = {0: 0}
        # The zero page belongs to no folio; nothing of it needs a name.
        folios: dict[int, int] = {-1: -1}
        mms: dict[int, int] = {0: 0}
        flat: list[int] = []
        for process in order:
            mm = process.mm
            mms[mm.id] = len(mms)
            flat += [anon_vmas.setdefault(vma.anon_vma, len(anon_vmas)) for vma in mm.vmas]
            for bits, pfn in zip(mm.pte[:pages].tolist(), mm.pfn[:pages].tolist(), strict=True):
                if bits & PTE_PRESENT and not bits & PTE_SPECIAL:
                    folio = of_frame[pfn]
                    flat += (folios.setdefault(folio, len(folios)), pfn - head[folio])
            for _, pin in sorted(process.pins().items(), key=itemgetter(0)):
                for pfn in pin.frames:
                    folio = of_frame[pfn]
                    flat += (folios.setdefault(folio, len(folios)), pfn - head[folio] if folio >= 0 else 0)
        del folios[-1]
        for folio in folios:
            first, last = head[folio], head[folio] + (1 << self.order[folio])
            flat += self.mapcount[first:last]
            flat += self.exclusive[first:last]
            one, other = self.mm_id[folio]
            flat += (mms.get(one, 0), mms.get(other, 0), *self.mm_id_mapcount[folio], self.order[folio])
            flat += (self.refcount[folio], self.pincount[folio], self.shared[folio])
        return flat


def _as_bytes(flat: list[int]) -> bytes:
    try:
        return array("h", flat).tobytes()
    except OverflowError:
        # One more byte, so that no state of small numbers has the same name.
        return array("q", flat).tobytes() + b"q"
