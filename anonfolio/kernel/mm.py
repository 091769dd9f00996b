"""An address space: VMAs that split and merge, and page tables as arrays (mm/vma.c, include/linux/mm_types.h).

A page table is two flat arrays over virtual page numbers, plus one state per PMD. A huge mapping fills its 512
entries too, so that whoever reads entries need not care; only the PMD state says how they are mapped.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt

from .frames import Memory
from .index import Index, as_slice, places_of
from .pagetable import (
    MKCLEAN,
    PMD_HUGE,
    PMD_NONE,
    PMD_TABLE,
    PTE_CONT,
    PTE_DIRTY,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    PTE_YOUNG,
    REGION_PAGES,
    STRETCH_PAGES,
    Run,
    stretches,
)
from .pin import Pin
from .policy import Policy
from .rmap import folio_split_rmap_pmd
from .sizes import PTRS_PER_PMD
from .vma import Vma, anon_vma_compatible, can_vma_merge, dup_anon_vma, merge_sticky, start_of

ARENA = range(1 << 18)
"""A GiB, unless a program says otherwise."""


class Mm:
    """The memory of one process (struct mm_struct).

    Attributes
    ----------
    pfn : ndarray of shape (pages,), int32
        The frame that each page maps; meaningless where `pte` is 0. After a fork one read-only array serves both
        sides until either changes an entry (`own_pfns`).
    pte : ndarray of shape (pages,), uint8
        The bits of each entry, 0 for none.
    pmd : ndarray of shape (pages / 512,), uint8
        PMD_NONE, PMD_TABLE or PMD_HUGE for each 2 MiB.
    has_pinned : bool
        Whether this process ever pinned anything (MMF_HAS_PINNED): it never goes back.
    pins : list of Pin
        The pins it holds.
    thp_disabled : {"", "disabled", "except_advised"}
        What the process said with prctl (MMF_DISABLE_THP); a fork child inherits it.
    arena : range
        Where a mapping goes that asks for no place: from the end downwards (mm->mmap_base).
    start_brk, brk : int
        The first page of the heap, and its end; the heap begins with the arena, empty.
    """

    def __init__(self, mm_id: int, memory: Memory, policy: Policy) -> None:
        self.id = mm_id
        self.memory = memory
        self.policy = policy
        self.vmas: list[Vma] = []
        self.pfn = np.zeros(0, np.int32)
        self.pte = np.zeros(0, np.uint8)
        self.pmd = np.zeros(0, np.uint8)
        self.has_pinned = False
        self.pins: list[Pin] = []
        self.thp_disabled = ""
        self.arena = ARENA
        self.start_brk = self.brk = 0
        self.rss_pages = 0
        self._anon_vmas = 0
        memory.mms.append(self)

    @property
    def mkwrite(self) -> np.uint8:
        """The bits that an entry gets which is made writable and not written (`pte_mkwrite_novma`)."""
        return np.uint8(PTE_WRITE if self.policy.mkwrite_keeps_clean else PTE_WRITE | PTE_DIRTY)

    # --- VMAs ---------------------------------------------------------------------------------------------------

    def find_vma(self, vpn: int) -> Vma | None:
        """The VMA that contains page `vpn` (`vma_lookup`)."""
        at = bisect_right(self.vmas, vpn, key=start_of) - 1
        return self.vmas[at] if at >= 0 and vpn < self.vmas[at].end else None

    def vmas_in(self, start: int, end: int) -> list[Vma]:
        """The VMAs that intersect [start, end), in order (`for_each_vma_range`)."""
        first = bisect_right(self.vmas, start, key=start_of)
        first -= bool(first and self.vmas[first - 1].end > start)
        return self.vmas[first : bisect_left(self.vmas, end, lo=first, key=start_of)]

    def neighbours(self, vma: Vma) -> tuple[Vma | None, Vma | None]:
        """The VMAs before and after, adjacent or not."""
        at = self.vmas.index(vma)
        return self.vmas[at - 1] if at else None, self.vmas[at + 1] if at + 1 < len(self.vmas) else None

    def highest_gap(self, pages: int) -> int | None:
        """The first page of the topmost `pages` that no VMA has, in the arena (`unmapped_area_topdown`).

        Where a gap would do, but a stack is above it, everything ends at that one's guard gap from then on.
        """
        low, end = self.arena.start, self.arena.stop
        above: Vma | None = None
        for below in (*reversed(self.vmas_in(low, end)), None):
            floor = max(low, below.end) if below else low
            if above and end - floor >= pages:
                end = min(end, above.start_gap)
            if end - floor >= pages:
                return end - pages
            end, above = min(end, below.start) if below else end, below
        return None

    def insert_vma(self, vma: Vma) -> None:
        """Add a VMA that overlaps none."""
        self.vmas.insert(bisect_right(self.vmas, vma.start, key=start_of), vma)
        self._reserve(vma.end)

    def new_anon_vma(self) -> int:
        """A number that no other VMA of any process carries."""
        self._anon_vmas += 1
        return self.id << 20 | self._anon_vmas

    def anon_vma_prepare(self, vma: Vma) -> None:
        """Give a VMA its anon_vma before its first anonymous page (`__anon_vma_prepare`).

        It takes that of an adjacent, continuous neighbour that differs at most in access bits and is no fork
        child, the next one first (`find_mergeable_anon_vma`), so that both can merge later.
        """
        if vma.anon_vma:
            return
        before, after = self.neighbours(vma)
        anon_vma = 0
        if after and anon_vma_compatible(vma, after) and len(after.chain) == 1:
            anon_vma = after.anon_vma
        elif before and anon_vma_compatible(before, vma) and len(before.chain) == 1:
            anon_vma = before.anon_vma
        vma.anon_vma = anon_vma or self.new_anon_vma()
        vma.chain = frozenset((vma.anon_vma,))

    def split_vma(self, vma: Vma, vpn: int) -> Vma:
        """Split a VMA in two at `vpn`; returns the upper part (`__split_vma`). A huge mapping across is split too."""
        self.split_huge_pmd_if_needed(vpn)
        upper = Vma(vpn, vma.end, vma.flags, vma.pgoff + vpn - vma.start, vma.anon_vma, vma.chain)
        vma.end = vpn
        self.vmas.insert(self.vmas.index(vma) + 1, upper)
        return upper

    def vma_modify_flags(self, vma: Vma, start: int, end: int, flags: int) -> Vma:
        """Give [start, end) of one VMA other flags; returns the VMA that covers it afterwards (`vma_modify`).

        The range merges with an equal neighbour, or with both, before any split is thought of.
        """
        merged = self._vma_merge_existing_range(vma, start, end, flags)
        if merged:
            return merged
        if vma.start < start:
            vma = self.split_vma(vma, start)
        if vma.end > end:
            self.split_vma(vma, end)
        vma.flags = flags
        return vma

    def _vma_merge_existing_range(self, vma: Vma, start: int, end: int, flags: int) -> Vma | None:
        pgoff = vma.pgoff + start - vma.start
        like = Vma(start, end, flags, pgoff, vma.anon_vma, vma.chain)
        prev, following = self._partners(like, *self.neighbours(vma))
        merge_sticky(like, prev, following)
        if prev and following:
            dup_anon_vma(prev, following if following.anon_vma else vma)
            prev.end = following.end
            self.vmas.remove(vma)
            self.vmas.remove(following)
        elif prev:
            dup_anon_vma(prev, vma)
            prev.end = end
            self._shrink_from_below(vma, end)
        elif following:
            dup_anon_vma(following, vma)
            following.start, following.pgoff = start, pgoff
            if start == vma.start:
                self.vmas.remove(vma)
            else:
                vma.end = start
                self.split_huge_pmd_if_needed(start)
        return prev or following

    def next_vma(self, vpn: int) -> Vma | None:
        """The VMA that contains page `vpn`, or else the first above it (`find_vma`)."""
        return next((vma for vma in self.vmas if vma.end > vpn), None)

    def vma_merge_new_range(self, new: Vma) -> Vma | None:
        """Let a range that is in no VMA yet join its neighbours (`vma_merge_new_range`, 6.12); returns whom."""
        return self._merge_range(new, upper_first=self.policy.mmap_asks_upper_first)

    def vma_merge_copied_range(self, new: Vma, apart: Vma | None = None) -> Vma | None:
        """The same for what mremap brings, anon_vma and all (`copy_vma`, `vma_merge_copied_range`).

        From 6.16 to 6.18.7 nobody asks for the ancestors of that, and a neighbour without an anon_vma does not get it:
        a bug of those kernels. `apart`: a neighbour that it may not join, its source.
        """
        forgets = not self.policy.moved_keeps_anon_vma
        joined = self._merge_range(new.without_ancestors() if forgets else new, apart=apart)
        if joined and not forgets:
            dup_anon_vma(joined, new)
        return joined

    def vma_merge_extend(self, vma: Vma, pages: int) -> None:
        """Let a VMA grow into the gap above, and join what follows (`vma_merge_extend`, 6.12; `vma_merge` before).

        Nobody asks whether it is a fork child when what follows has no anon_vma.
        """
        pgoff = vma.pgoff + vma.end - vma.start
        more = Vma(vma.end, vma.end + pages, vma.flags, pgoff, vma.anon_vma, vma.chain)
        self._merge_range(more.without_ancestors())

    def _merge_range(self, new: Vma, *, upper_first: bool = False, apart: Vma | None = None) -> Vma | None:
        at = bisect_right(self.vmas, new.start, key=start_of)
        near = self.vmas[at - 1] if at else None, self.vmas[at] if at < len(self.vmas) else None
        prev, following = self._partners(
            new, *(vma if vma is not apart else None for vma in near), upper_first=upper_first
        )
        merge_sticky(new, prev, following)
        if prev and following:
            dup_anon_vma(prev, following)
            prev.end = following.end
            self.vmas.remove(following)
        elif prev:
            prev.end = new.end
        elif following:
            following.start, following.pgoff = new.start, new.pgoff
        joined = prev or following
        if joined:
            self._reserve(joined.end)
        return joined

    def _shrink_from_below(self, vma: Vma, end: int) -> None:
        if end == vma.end:
            self.vmas.remove(vma)
            return
        vma.pgoff += end - vma.start
        vma.start = end
        self.split_huge_pmd_if_needed(end)

    def _partners(
        self, like: Vma, prev: Vma | None, following: Vma | None, *, upper_first: bool = False
    ) -> tuple[Vma | None, Vma | None]:
        """Which neighbours `like` may join: both where they fit each other too, else the lower one.

        `upper_first`: the lower one is asked about the upper one's anon_vma, the upper one stays (6.1, `mmap_region`).
        """
        if following and not (can_vma_merge(like, following) and self._is_mergeable_anon_vma(like, following)):
            following = None
        if prev and not (can_vma_merge(prev, like) and self._is_mergeable_anon_vma(like, prev)):
            prev = None
        if prev and following:
            if upper_first and not self._is_mergeable_anon_vma(following, prev):
                prev = None
            elif prev.anon_vma and following.anon_vma and prev.anon_vma != following.anon_vma:
                following = None
        return prev, following

    def _is_mergeable_anon_vma(self, vma: Vma, neighbour: Vma) -> bool:
        if vma.anon_vma == neighbour.anon_vma:
            return True
        if not vma.anon_vma:
            return not neighbour.is_fork_child
        if not neighbour.anon_vma:
            return self.policy.merges_into_unfaulted and not vma.is_fork_child
        return False

    # --- page tables --------------------------------------------------------------------------------------------

    def pte_alloc(self, vpn: int) -> None:
        """Make sure that a page table hangs at this PMD (`pte_alloc`)."""
        if self.pmd[vpn >> 9] == PMD_NONE:
            self.pmd[vpn >> 9] = PMD_TABLE

    def set_ptes(self, vpn: int, pfn: int, pages: int, bits: int) -> None:
        """Map consecutive frames with one template of bits (`set_ptes`)."""
        if pages == 1:
            self.pte[vpn] = bits
            self.own_pfns()[vpn] = pfn
            return
        self.pte[vpn : vpn + pages] = bits
        self.own_pfns()[vpn : vpn + pages] = np.arange(pfn, pfn + pages, dtype=np.int32)

    def map_as(self, parent: Mm) -> None:
        """A new process: its entries, none of them present yet, name the frames that its parent maps."""
        parent.pfn.flags.writeable = False
        self.pfn = parent.pfn
        self._reserve(len(parent.pte))

    def own_pfns(self) -> npt.NDArray[np.int32]:
        """`pfn` for writing: a copy, once, where it is shared with a parent or a child."""
        if not self.pfn.flags.writeable:
            self.pfn = self.pfn.copy()
        return self.pfn

    def block_of(self, vpn: int) -> tuple[int, int]:
        """First page and end of the 2 MiB that contain `vpn`: the reach of one page table."""
        start = vpn & -PTRS_PER_PMD
        return start, start + PTRS_PER_PMD

    def is_huge(self, vpn: int) -> bool:
        """Whether a PMD maps this page (`pmd_trans_huge`), a folio's or the huge zero page's."""
        return bool(self.pmd[vpn >> 9] == PMD_HUGE)

    def split_huge_pmd(self, vpn: int) -> None:
        """Replace a PMD mapping by 512 PTEs that map the same pages (`__split_huge_pmd_locked`).

        6.1 leaves the entries clean, whatever the PMD's dirty bit said; 6.12 and later hand it on.
        """
        start, end = self.block_of(vpn)
        self.pmd[vpn >> 9] = PMD_TABLE
        if self.pte[start] & PTE_SPECIAL:
            # Made anew from the VMA's bits, with *accessed* among them (`__split_huge_zero_page_pmd`, 6.1-7.3).
            self.pte[start:end] |= PTE_YOUNG
            return
        folio = int(self.memory.folio_of[self.pfn[start]])
        folio_split_rmap_pmd(self.memory, folio, self.id)
        self.memory.dirty[folio] |= self.pte[start] & PTE_DIRTY > 0
        if not self.policy.split_keeps_dirty:
            self.pte[start:end] &= MKCLEAN
        if self.pte[start] & PTE_WRITE:
            self.pte[start:end] |= self.mkwrite
        if self.policy.cont_pte_order:
            # One `set_ptes` of 512 entries: every block of them is whole.
            self.pte[start:end] |= PTE_CONT

    def split_huge_pmd_if_needed(self, vpn: int) -> None:
        """A VMA boundary may not lie inside a huge mapping (`split_huge_pmd_if_needed`, huge_memory.c)."""
        if vpn % PTRS_PER_PMD and self.is_huge(vpn):
            self.split_huge_pmd(vpn)

    def folio_runs(self, start: int, end: int) -> list[Run]:
        """What [start, end) maps, cut where the folio, the frames or the virtual pages stop being consecutive."""
        present = places_of((self.pte[start:end] & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
        if not len(present):
            return []
        pfns = self.pfn[start:end][present]
        folios = self.memory.folio_of[pfns]
        if len(present) == 1:
            return [Run(start + int(present[0]), int(pfns[0]), 1, int(folios[0]))]
        apart = (present[1:] - present[:-1] != 1) | (pfns[1:] - pfns[:-1] != 1) | (folios[1:] != folios[:-1])
        cuts = places_of(apart) + 1
        firsts = [0, *cuts.tolist()]
        lasts = [*cuts.tolist(), len(present)]
        return [
            Run(start + int(present[at]), int(pfns[at]), stop - at, int(folios[at]))
            for at, stop in zip(firsts, lasts, strict=True)
        ]

    def pmd_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """[start, end) cut at PMD boundaries (`pmd_addr_end`)."""
        while start < end:
            stop = min(self.block_of(start)[1], end)
            yield start, stop
            start = stop

    def pmd_stretches(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """[start, end) cut where the state of the PMD changes: (first page, end, state)."""
        states = self.pmd[start >> 9 : -(-end // PTRS_PER_PMD)]
        cuts = np.flatnonzero(states[1:] != states[:-1]) + 1
        firsts = [start, *(((start >> 9) + cuts) << 9).tolist()]
        kinds = states[np.concatenate((np.zeros(1, np.intp), cuts))].tolist()
        yield from zip(firsts, [*firsts[1:], end], kinds, strict=True)

    def present_pfns(self, start: int, end: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.intp] | int]:
        """The frames that [start, end) maps, zero page aside, and their pages; `start` where every page maps one."""
        entries = self.pte[start:end]
        if np.bitwise_and.reduce(entries) & PTE_PRESENT and not np.bitwise_or.reduce(entries) & PTE_SPECIAL:
            return self.pfn[start:end], start
        pages = np.flatnonzero((entries & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
        return self.pfn[start:end][pages], start + pages

    def mappings_of(self, folios: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
        """How many entries of this process map pages of each of these folios, whichever VMAs they are in."""
        mapped = [self.memory.folio_of[self.present_pfns(vma.start, vma.end)[0]] for vma in self.vmas]
        counts: npt.NDArray[np.intp] = np.bincount(np.concatenate(mapped), minlength=int(folios.max()) + 1)[folios]
        return counts

    def frames_in(self, start: int, end: int) -> Iterator[Index]:
        """The frames that [start, end) maps, zero page aside, by stretches that fit the processor's cache.

        In the order of frames where they are a run, however the pages that map them lie: no frame is mapped twice, so
        it is enough that the last comes as many after the first as there are.
        """
        for first, stop in stretches(start, end, REGION_PAGES):
            parts = [self.present_pfns(*piece)[0] for piece in stretches(first, stop, STRETCH_PAGES)]
            parts = [pfns for pfns in parts if len(pfns)]
            low, high = (
                min((int(pfns.min()) for pfns in parts), default=0),
                max((int(pfns.max()) for pfns in parts), default=-1),
            )
            if high + 1 - low == sum(map(len, parts)):
                yield from (slice(*piece) for piece in stretches(low, high + 1, REGION_PAGES))
            else:
                yield from map(as_slice, parts)

    def free_pgtables(self, start: int, end: int) -> None:
        """Free the page tables under which no VMA is left (`free_pgtables`)."""
        for first, _ in self.pmd_ranges(start & -PTRS_PER_PMD, min(end, len(self.pte))):
            if not self.vmas_in(*self.block_of(first)):
                self.pmd[first >> 9] = PMD_NONE

    def copy(self, memory: Memory) -> Self:
        """The same address space over a copied memory."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.memory = memory
        memory.mms.append(twin)
        twin.vmas = [vma.copy() for vma in self.vmas]
        # What two processes share stays shared: whoever changes an entry first takes a copy (`own_pfns`).
        twin.pfn = self.pfn.copy() if self.pfn.flags.writeable else self.pfn
        twin.pte, twin.pmd = self.pte.copy(), self.pmd.copy()
        twin.pins = [pin.copy() for pin in self.pins]
        return twin

    def _reserve(self, end: int) -> None:
        if end <= len(self.pte):
            return
        size = max(PTRS_PER_PMD, 1 << (end - 1).bit_length())
        for name, length in (("pfn", size), ("pte", size), ("pmd", size >> 9)):
            old = getattr(self, name)
            if len(old) >= length:
                continue
            grown = np.zeros(length, old.dtype)
            grown[: len(old)] = old
            setattr(self, name, grown)
