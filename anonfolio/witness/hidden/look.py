"""What was seen of processes at one moment: their mappings and page tables, and the folios behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PTRS_PER_PMD = 512
FRAME = ((1 << 52) - 1) & ~0xFFF
NO_FOLIO = -1

# x86 (arch/x86/include/asm/pgtable_types.h). An entry of PROT_NONE is not PRESENT; DIRTY of a read-only one is kept in
# SAVED_DIRTY where the processor has shadow stacks (6.6).
PRESENT, WRITE, ACCESSED, DIRTY, LEAF, PROTNONE, SPECIAL, SAVED_DIRTY = (1 << at for at in (0, 1, 5, 6, 7, 8, 9, 58))

Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class VmaLook:
    """One mapping and the entries under it.

    Attributes
    ----------
    start, end : int
        Page numbers, `end` excluded; the whole mapping's, also where entries of a part were asked for.
    flags, pgoff : int
        `vm_flags` and `vm_pgoff` as they stand.
    anon_vma : int
        Its address, 0 for none: the same for mappings that share one.
    chain : tuple of int
        The addresses of all anon_vmas that the mapping hangs on.
    first : int
        The page that `entries` begin with.
    entries : ndarray of shape (pages,), uint64
        The entry of each page as it stands, 0 for none; of a page under a PMD that PMD's entry.
    huge : ndarray of shape (pages,), bool
        Whether a PMD maps the page.
    """

    start: int
    end: int
    flags: int
    pgoff: int
    anon_vma: int
    chain: tuple[int, ...]
    first: int
    entries: Words
    huge: Bools

    def has(self, bits: int) -> Bools:
        """Pages whose entry has any of these bits (`WRITE`, `ACCESSED`, `DIRTY | SAVED_DIRTY`, `SPECIAL`)."""
        return self.present & ((self.entries & np.uint64(bits)) > 0)

    @property
    def present(self) -> Bools:
        """Pages that map anything, the zero page and what PROT_NONE hides included (`pte_present`)."""
        return (self.entries & np.uint64(PRESENT | PROTNONE)) > 0

    @property
    def frames(self) -> Numbers:
        """Frame numbers, -1 where nothing is mapped. What is hidden by PROT_NONE is inverted (`pte_pfn`, L1TF)."""
        plain = (self.entries & np.uint64(PRESENT)) > 0
        entries = np.where(plain, self.entries, ~self.entries)
        frames = ((entries & np.uint64(FRAME)) >> np.uint64(12)).astype(np.int64)
        pages = np.arange(self.first, self.first + len(frames))
        # A PMD has other bits below its frame, which are not inverted (`pmd_pfn_mask`).
        frames = np.where(self.huge, (frames & -PTRS_PER_PMD) + pages % PTRS_PER_PMD, frames)
        return np.where(self.present, frames, -1)


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """One process: the number of its mm in folios' slots (None before 6.15), MMF_HAS_PINNED, its mappings in order."""

    mm_id: int | None
    has_pinned: bool
    vmas: tuple[VmaLook, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Folios:
    """Anonymous folios as their struct pages have them, in the order of frames. None: this kernel has no such field.

    Counts are what they mean, not as stored (one less). What only large folios have is 0 or false for the others.

    Attributes
    ----------
    head, order : ndarray of shape (folios,), int64
        First frame, and log2 of the pages.
    flags : ndarray of shape (folios,), uint64
        Page flags of the head (`Kernel.flag` gives the numbers of the bits).
    refcount, large_mapcount, entire_mapcount, nr_mapped, pincount : ndarray of shape (folios,), int64
        References; mappings by PTE and PMD; by PMD; pages that PTEs map; pins. Before 6.2 `nr_mapped` is None, and
        before 6.7 `large_mapcount`. A pin of a small folio is 1,024 of its references, not counted here.
    mm_id, mm_id_mapcount : ndarray of shape (folios, 2), int64
        The two slots (6.15): the mm's number, 0 for none, and how many of the mappings are its.
    maybe_mapped_shared, partially_mapped, deferred : ndarray of shape (folios,), bool
        The bit beside the slots (6.15), PG_partially_mapped (6.12), and whether it waits to be split.
    first : ndarray of shape (folios + 1,), int64
        Where a folio's pages begin in what follows: ``slice(first[i], first[i + 1])``.
    mapcount : ndarray of shape (pages,), int64
        PTEs that map each page.
    exclusive : ndarray of shape (pages,), bool, or None
        PageAnonExclusive as it stands (6.0): where a PMD maps the folio only the head's means anything.
    lazyfree : ndarray of shape (folios,), bool
        Whether MADV_FREE gave the folio up (it is not PG_swapbacked).
    """

    head: Numbers
    order: Numbers
    flags: Words
    refcount: Numbers
    large_mapcount: Numbers | None
    entire_mapcount: Numbers | None
    nr_mapped: Numbers | None
    pincount: Numbers | None
    mm_id: Numbers | None
    mm_id_mapcount: Numbers | None
    maybe_mapped_shared: Bools | None
    partially_mapped: Bools | None
    deferred: Bools | None
    first: Numbers
    mapcount: Numbers
    exclusive: Bools | None
    lazyfree: Bools | None = None

    def __len__(self) -> int:
        return len(self.head)

    def pages(self, index: int) -> slice:
        """Where the pages of a folio are in `mapcount` and `exclusive`."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def of(self, frames: Numbers) -> Numbers:
        """Which folio each frame belongs to, as an index; NO_FOLIO for the zero page, a file's, and none at all."""
        if not len(self.head):
            return np.full(len(frames), NO_FOLIO)
        at = np.maximum(np.searchsorted(self.head, frames, "right") - 1, 0)
        inside = (frames >= self.head[at]) & (frames < self.head[at] + (1 << self.order[at]))
        return np.where(inside, at, NO_FOLIO)


@dataclass(frozen=True, slots=True)
class Look:
    """Processes by the names that the caller gave them, and every anonymous folio that one of them maps."""

    processes: Mapping[int, ProcessLook]
    folios: Folios
