"""What a machine holds at one moment, detached from it: what pictures, comparisons and quizzes read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..kernel.frames import Memory
from ..kernel.mm import Mm
from ..kernel.pagetable import PMD_HUGE, PTE_GUARD, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.pin import Pin
from ..kernel.record import Counters
from ..kernel.system import System


@dataclass(frozen=True, slots=True)
class MappingView:
    """One VMA of a process and the entries under it.

    Attributes
    ----------
    start, end : int
        Page numbers, `end` excluded.
    flags : int
        The VM_* bits of `anonfolio.kernel.vma`.
    pte : ndarray of shape (end - start,), uint8
        Entry bits, 0 for none.
    pfn : ndarray of shape (end - start,), int32
        Frames; meaningless where `pte` is 0.
    huge : ndarray of shape (end - start,), bool
        Whether a PMD maps the page.
    pgoff, anon_vma, chain : int, int, frozenset of int
        What decides whether it may merge (`anonfolio.kernel.vma.Vma`).
    """

    start: int
    end: int
    flags: int
    pte: npt.NDArray[np.uint8]
    pfn: npt.NDArray[np.int32]
    huge: npt.NDArray[np.bool_]
    pgoff: int
    anon_vma: int
    chain: frozenset[int]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Pages that map anything, the zero page included."""
        return (self.pte & PTE_PRESENT) > 0

    @property
    def zero(self) -> npt.NDArray[np.bool_]:
        """Pages that map the zero page, small or huge."""
        return (self.pte & PTE_SPECIAL) > 0

    @property
    def guarded(self) -> npt.NDArray[np.bool_]:
        """Guard pages: a marker in place of a mapping."""
        return (self.pte & PTE_GUARD) > 0

    @property
    def writable(self) -> npt.NDArray[np.bool_]:
        """Pages that the hardware may write without asking."""
        return (self.pte & PTE_WRITE) > 0


@dataclass(frozen=True, slots=True)
class PinView:
    """What a process holds for a device or a pipe: its kind (``"pin"``, ``"reference"``), number and frames."""

    kind: str
    id: int
    writable: bool
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process: its mappings in order, its resident pages, its pins, and whether it ever pinned (MMF_HAS_PINNED)."""

    number: int
    alive: bool
    rss_pages: int
    mappings: tuple[MappingView, ...]
    pins: tuple[PinView, ...]
    has_pinned: bool


@dataclass(frozen=True, slots=True)
class FolioView:
    """One folio: its counters, and per page content, mapcount and PageAnonExclusive.

    `slots` are the two mm_id slots as they stand, (process + 1, mappings) or (0, 0), `mm_ids` lists the tracked
    (process, mappings) in them, and `maybe_mapped_shared` is the bit beside them: they are kept under every policy, and
    are something a kernel has only where the snapshot says `has_mm_ids`. `mapcount` counts PMD mappings on every page:
    those are `entire_mapcount`; `nr_mapped` pages are mapped by PTEs. `lazyfree` says that MADV_FREE gave the folio up.
    """

    id: int
    head: int
    order: int
    refcount: int
    large_mapcount: int
    pincount: int
    slots: tuple[tuple[int, int], ...]
    maybe_mapped_shared: bool
    partially_mapped: bool
    content: npt.NDArray[np.uint8]
    mapcount: npt.NDArray[np.int16]
    anon_exclusive: npt.NDArray[np.bool_]
    entire_mapcount: int
    nr_mapped: int
    lazyfree: bool = False

    @property
    def pages(self) -> int:
        """Frames of the folio."""
        return 1 << self.order

    @property
    def mm_ids(self) -> tuple[tuple[int, int], ...]:
        """The slots that are taken: (process, mappings) each."""
        return tuple((mm - 1, count) for mm, count in self.slots if mm)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one moment.

    Attributes
    ----------
    policy : str
        The policy's name.
    processes : tuple of ProcessView
        Indexed by number; exited ones have no mappings.
    folios : tuple of FolioView
        By first frame.
    held_pages : int
        Frames that folios hold. What is held but mapped by nobody is waste.
    counters : Counters
        What was done up to this moment.
    has_mm_ids : bool
        Whether the policy's kernel keeps mm_id slots in its large folios (6.15 and later).
    contpte_converts : int
        How often arm64's contiguous bit was given to or taken from a block that stayed mapped.
    """

    policy: str
    processes: tuple[ProcessView, ...]
    folios: tuple[FolioView, ...]
    held_pages: int
    counters: Counters
    has_mm_ids: bool = False
    contpte_converts: int = 0

    @property
    def rss_pages(self) -> int:
        """Resident pages of all processes; a shared page counts once for each."""
        return sum(process.rss_pages for process in self.processes)

    @property
    def waste_pages(self) -> int:
        """Frames that are held and mapped by nobody."""
        return self.held_pages - sum(int(np.count_nonzero(folio.mapcount)) for folio in self.folios)

    def folio_at(self, pfn: int) -> FolioView | None:
        """The folio that contains a frame; None for the zero page."""
        for folio in self.folios:
            if folio.head <= pfn < folio.head + folio.pages:
                return folio
        return None


class Running(Protocol):
    """What a snapshot needs to know of a process."""

    @property
    def number(self) -> int:
        """0 for the first one of the machine."""

    @property
    def alive(self) -> bool:
        """Whether it has not exited."""

    @property
    def mm(self) -> Mm:
        """Its memory."""

    def pins(self) -> dict[tuple[str, int], Pin]:
        """What it holds for devices and pipes."""


def snapshot(system: System, processes: Sequence[Running]) -> Snapshot:
    """Copy out what a machine and its processes hold now."""
    memory = system.memory
    folios = sorted((int(folio) for folio in memory.live_folios()), key=lambda folio: int(memory.head[folio]))
    return Snapshot(
        system.policy.name,
        tuple(
            ProcessView(
                process.number, process.alive, process.mm.rss_pages, _mappings(process.mm),
                tuple(PinView(kind, id, pin.writable, tuple(pin.frames)) for (kind, id), pin in process.pins().items()),
                process.mm.has_pinned,
            )
            for process in processes
        ),
        tuple(_folio_view(memory, folio) for folio in folios),
        memory.held_pages(),
        system.counters.copy(),
        system.policy.keeps_mm_ids,
        memory.contpte_converts,
    )  # fmt: skip


def _mappings(mm: Mm) -> tuple[MappingView, ...]:
    maps_huge = mm.pmd == PMD_HUGE
    # Hundreds of small mappings are asked one by one only where one of them may be huge.
    none_huge = not maps_huge.any()
    return tuple(
        MappingView(
            vma.start, vma.end, vma.flags, mm.pte[vma.start : vma.end].copy(), mm.pfn[vma.start : vma.end].copy(),
            np.zeros(vma.end - vma.start, np.bool_) if none_huge else maps_huge[np.arange(vma.start, vma.end) >> 9],
            vma.pgoff, vma.anon_vma, vma.chain,
        )
        for vma in mm.vmas
    )  # fmt: skip


def _folio_view(memory: Memory, folio: int) -> FolioView:
    frames = memory.frames_of(folio)
    slots = zip(memory.mm_id[folio].tolist(), memory.mm_id_mapcount[folio].tolist(), strict=True)
    exclusive = memory.anon_exclusive[frames].copy()
    if memory.entire_mapcount[folio]:
        # The head's flag stands for the pages that only a PMD maps.
        exclusive[memory.mapcount[frames] == 0] = exclusive[0]
    return FolioView(
        folio, frames.start, int(memory.order[folio]), int(memory.refcount[folio]), int(memory.large_mapcount[folio]),
        int(memory.pincount[folio]), tuple(slots),
        bool(memory.maybe_mapped_shared[folio]), bool(memory.partially_mapped[folio]), memory.content[frames].copy(),
        memory.mapcount[frames] + memory.entire_mapcount[folio], exclusive, int(memory.entire_mapcount[folio]),
        int(memory.nr_mapped[folio]), bool(memory.lazyfree[folio]),
    )  # fmt: skip
