"""arm64's contiguous bit: the cases one can name, and every fold and unfold against contpte.c taken literally."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anonfolio as af
from anonfolio.hardware.tlb import Contiguous, page_table
from anonfolio.kernel import contpte, fork, mmap
from anonfolio.kernel.contpte import foldable
from anonfolio.kernel.mm import Mm
from anonfolio.kernel.pagetable import (
    PMD_HUGE,
    PTE_CONT,
    PTE_DIRTY,
    PTE_GUARD,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    PTE_YOUNG,
)
from anonfolio.kernel.vma import Vma
from anonfolio.program.random_programs import random_scenario
from anonfolio.program.scenario import do_step
from anonfolio.witness.entries import FIELDS
from anonfolio.witness.recording import DATA_DIR, Replay, replay

ARM64 = af.Policy.at("7.3", arch="arm64")
ARM64_OLD = af.Policy.at("6.12", arch="arm64")
ARM64_DIRTIES = af.Policy.at("6.16.12", arch="arm64")
ARM64_RFC = af.RFC_V2_FIXED.but(name="rfc-v2-fixed, arm64", cont_pte_order=4)
ARM64_RFC_FIRST = af.RFC_V2.but(name="rfc-v2, arm64", cont_pte_order=4, unshare_extent="source_order")
NORMAL = PTE_PRESENT | PTE_WRITE | PTE_YOUNG | PTE_DIRTY


def folded(process: af.Process, start: int = 0, pages: int = 16) -> list[int]:
    """The blocks of a range that carry the bit, by first page; all 16 entries of a block or none."""
    bits = (process.mm.pte[start : start + pages].reshape(-1, 16) & PTE_CONT) > 0
    assert (bits.all(axis=1) == bits.any(axis=1)).all()
    return (start + 16 * np.flatnonzero(bits[:, 0])).tolist()


def written(policy: af.Policy = ARM64, pages: int = 16, **knobs: Any) -> af.Process:
    """A process that has written each page of its mapping."""
    process = af.Machine(policy, **knobs).spawn()
    process.mmap(pages)
    for page in range(pages):
        process.write(page, page % 256)
    return process


# --- cases one can name ---------------------------------------------------------------------------------------------


def test_a_machine_without_the_bit_never_shows_it() -> None:
    process = written(af.LINUX_6_15)
    process.fork()
    process.mprotect(0, 16, 1)
    assert not (process.mm.pte & PTE_CONT).any()


@pytest.mark.parametrize("order", [1, 3, 5, 6, -4])
def test_no_other_order_than_those_of_4k_and_16k_pages(order: int) -> None:
    with pytest.raises(ValueError, match="none of 0, 4, 7"):
        ARM64.but(cont_pte_order=order)


def test_a_fresh_folio_of_16_is_folded_at_once() -> None:
    process = af.Machine(ARM64).spawn()
    process.mmap(32)
    process.write(5)
    assert folded(process, pages=32) == [0]
    assert (Contiguous().orders(page_table(process, 0, 16)) == 4).all()


@pytest.mark.parametrize(("order", "blocks"), [(2, []), (3, []), (4, [0, 16]), (5, [0, 16]), (6, [0, 16, 32, 48])])
def test_smaller_folios_never_and_larger_ones_in_blocks(order: int, blocks: list[int]) -> None:
    process = written(pages=max(32, 1 << order), orders=(order,))
    assert folded(process, pages=max(32, 1 << order)) == blocks


def test_two_folios_side_by_side_are_no_block_although_their_frames_are_consecutive() -> None:
    process = written(orders=(3,))
    assert (np.diff(process.mm.pfn[:16]) == 1).all()
    assert folded(process) == []
    process.mprotect(0, 16, 1)
    assert folded(process) == []


def test_fork_keeps_the_bit_on_both_sides() -> None:
    process = written()
    child = process.fork()
    assert (folded(process), folded(child)) == ([0], [0])
    assert not (child.mm.pte[:16] & PTE_YOUNG).any()


@pytest.mark.parametrize("page", [0, 5, 15])
def test_one_copy_unfolds_the_block_here_and_not_there(page: int) -> None:
    process = written()
    child = process.fork()
    process.write(page)
    assert (folded(process), folded(child)) == ([], [0])


@pytest.mark.parametrize("page", [0, 5, 15])
def test_one_reuse_unfolds_and_reusing_all_folds_nothing(page: int) -> None:
    process = written()
    process.fork().exit()
    assert folded(process) == [0]
    assert process.write(page).path == "exclusive reuse"
    assert folded(process) == []
    for each in range(16):
        process.write(each)
    assert len(set(process.mm.pte[:16].tolist())) == 1
    assert folded(process) == []


def test_mprotect_folds_what_reuse_left_unfolded() -> None:
    process = written()
    process.fork().exit()
    for page in range(16):
        process.write(page)
    process.mprotect(0, 16, 1)
    assert folded(process) == [0]
    process.mprotect(0, 16, 3)
    assert folded(process) == [0]


def test_mprotect_of_a_part_unfolds_until_the_last_entry_makes_them_alike_up_to_6_16() -> None:
    process = written(ARM64_OLD)
    process.mprotect(8, 8, 1)
    assert folded(process) == []
    process.mprotect(0, 8, 1)
    assert folded(process) == []
    process.mprotect(8, 8, 3)
    process.mprotect(8, 8, 1)
    assert folded(process) == [0]


@pytest.mark.parametrize("part", [(0, 8), (8, 8), (12, 4)])
@pytest.mark.parametrize(("version", "blocks"), [("6.12", [0]), ("6.16.12", [0]), ("6.17", []), ("7.3", [])])
def test_a_part_made_read_only_and_back_does_not_fold_from_6_17_on(
    version: str, blocks: list[int], part: tuple[int, int]
) -> None:
    """Up to 6.16 the block's last entry, set alone, folds it; where it is not set again, nothing does."""
    process = written(af.Policy.at(version, arch="arm64"))
    process.mprotect(*part, 1)
    process.mprotect(*part, 3)
    assert folded(process) == (blocks if sum(part) == 16 else [])


def test_one_last_page_made_read_only_and_back_folds_in_every_kernel() -> None:
    for version in ("6.12", "7.3"):
        process = written(af.Policy.at(version, arch="arm64"))
        process.mprotect(15, 1, 1)
        process.mprotect(15, 1, 3)
        assert folded(process) == [0]


def test_fork_s_batch_ends_where_the_contiguous_bit_changes() -> None:
    """8-15 are folded and read-only, 16-31 not, 20 writable: a batch for all would unfold 0-15 (6.12 and 7.3 ran)."""
    for policy in (ARM64, ARM64_OLD):
        process = written(policy, pages=32, orders=(5,))
        process.fork().exit()
        process.write(20)
        assert folded(process, pages=32) == [0]
        process.madvise(0, 8, "wipeonfork")
        process.fork()
        assert folded(process, pages=32) == [0]


@pytest.mark.parametrize("policy", [ARM64_OLD, ARM64], ids=lambda policy: policy.name)
def test_what_is_not_folded_moves_one_by_one_and_folds_with_its_last_entry(policy: af.Policy) -> None:
    process = written(policy)
    process.mprotect(0, 8, 1)
    process.mprotect(0, 8, 3)
    assert folded(process) == []
    process.mremap(0, 16, 512)
    assert folded(process, 512) == [512]


@pytest.mark.parametrize(("policy", "accessed"), [(ARM64_OLD, 16), (ARM64, 32)], ids=lambda value: str(value)[:24])
def test_what_is_folded_moves_by_batches_that_share_accessed_from_6_17_on(policy: af.Policy, accessed: int) -> None:
    """Two folded blocks of one folio are one batch (`mremap_folio_pte_batch`); one by one each keeps its own."""
    process = written(policy, pages=32, orders=(5,))
    process.mm.pte[16:32] &= 0xFF ^ PTE_YOUNG
    process.mremap(0, 32, 512)
    assert folded(process, 512, 32) == [512, 528]
    assert np.count_nonzero(process.mm.pte[512:544] & PTE_YOUNG) == accessed


def test_a_page_table_that_moves_whole_folds_nothing() -> None:
    """The range begins its mapping and ends its page table: both go down to the table's start (`try_realign_addr`)."""
    process = af.Machine(ARM64).spawn()
    process.mmap(512 - 16, at=16)
    for page in range(16, 32):
        process.write(page)
    process.fork().exit()
    for page in range(16, 32):
        process.write(page)
    assert folded(process, pages=32) == []
    process.mremap(16, 496, 1024 + 16)
    assert folded(process, 1024, 32) == []
    process.mmap(16, at=0)
    process.mremap(1040, 496, 16)
    # Something lies below now: entry by entry, and the last one of each block folds it.
    assert folded(process, pages=32) == [16]


@pytest.mark.parametrize("policy", [ARM64_OLD, ARM64])
def test_a_split_folds_and_unfolds_the_blocks_of_its_folio_alone(policy: af.Policy) -> None:
    """One page of it was moved behind another folio: entry by entry it is unmapped and mapped again."""
    process = written(policy, pages=64)
    process.mremap(15, 1, 64)
    assert folded(process, pages=64) == [16, 32, 48]
    before = process.machine.memory.contpte_converts
    process.madvise(0, 4, "free")
    assert process.machine.memory.order[process.machine.memory.folio_of[process.mm.pfn[0]]] == 0
    assert folded(process, pages=64) == [16, 32, 48]
    assert process.machine.memory.contpte_converts == before


def test_a_split_to_smaller_folios_folds_what_it_maps_and_nothing_beside_it() -> None:
    process = written(pages=64, orders=(5,))
    process.fork().exit()
    for page in range(64):
        process.write(page)
    assert folded(process, pages=64) == []
    process.mremap(31, 1, 64)
    process.split(0, 4, 4)
    # Its own first half; what lies between its pages is alike, too, and nobody looked.
    assert folded(process, pages=64) == [0]


@pytest.mark.parametrize(("policy", "converts"), [(ARM64_OLD, 3), (af.Policy.at("6.17", arch="arm64"), 0)])
def test_a_collapse_unfolds_what_it_clears_entry_by_entry(policy: af.Policy, converts: int) -> None:
    process = af.Machine(policy, orders=(4,)).spawn()
    process.mmap(512)
    for page in (0, 16, 48):
        process.write(page)
    assert folded(process, pages=64) == [0, 16, 48]
    assert process.madvise(0, 512, "collapse")
    assert process.machine.memory.contpte_converts == converts


def test_the_next_child_gets_the_bit_that_its_parent_lost() -> None:
    process = written()
    process.fork().exit()
    process.write(5)
    child = process.fork()
    assert (folded(process), folded(child)) == ([], [0])


@pytest.mark.parametrize(
    ("clean", "blocks"), [(range(0), [0]), (range(15, 16), [0]), (range(8, 16), []), (range(1), [])]
)
def test_a_child_is_given_entries_in_batches_that_are_equally_dirty(clean: range, blocks: list[int]) -> None:
    process = written()
    process.fork().exit()
    process.write(5)
    process.mm.pte[clean.start : clean.stop] &= 0xFF ^ PTE_DIRTY
    child = process.fork()
    # A batch of one, the block's last, looks at all 16; a batch of several looks at nothing but itself.
    assert folded(child) == blocks
    assert bool((child.mm.pte[:16] & PTE_DIRTY > 0).all()) == bool(blocks)


@pytest.mark.parametrize(("target", "blocks"), [(512, [512]), (528, [528]), (513, []), (520, [])])
def test_a_moved_folio_is_folded_where_its_alignment_stays(target: int, blocks: list[int]) -> None:
    process = written()
    process.mremap(0, 16, target)
    assert folded(process, 512, 48) == blocks


def test_halves_that_meet_again_are_folded_when_the_upper_one_comes_last() -> None:
    process = written()
    process.mremap(0, 8, 512)
    assert folded(process) == []
    process.mremap(8, 8, 520)
    assert folded(process, 512) == [512]
    process.mremap(512, 8, 0)
    process.mremap(520, 8, 8)
    assert folded(process) == [0]
    process.mremap(8, 8, 520)
    process.mremap(0, 8, 512)
    assert folded(process, 512) == []


@pytest.mark.parametrize("call", ["munmap", "dontneed"])
def test_a_hole_unfolds_its_block_only(call: str) -> None:
    process = written(pages=48)
    assert (process.munmap(20) if call == "munmap" else process.madvise(20, 1, "dontneed")).ok
    assert folded(process, pages=48) == [0, 32]


def test_a_fork_that_copies_half_a_block_unfolds_it() -> None:
    process = written()
    process.madvise(8, 8, "wipeonfork")
    assert folded(process) == [0]
    child = process.fork()
    assert (folded(process), folded(child)) == ([], [])


def test_a_pmd_that_is_split_leaves_32_folded_blocks() -> None:
    process = written(pages=512, orders=(9,))
    assert folded(process, pages=512) == []
    process.madvise(100, 1, "dontneed")
    assert folded(process, pages=512) == [block for block in range(0, 512, 16) if block != 96]


def test_range_copy_and_range_reuse_of_the_proposal_are_whole_blocks() -> None:
    process = written(ARM64_RFC)
    child = process.fork()
    assert process.write(5).pages == range(16)
    assert (folded(process), folded(child)) == ([0], [0])
    assert child.write(5).path == "exclusive reuse"
    assert (folded(process), folded(child)) == ([0], [0])


def test_a_copy_of_less_than_a_block_unfolds_it_in_the_proposal_too() -> None:
    process = written(ARM64_RFC)
    process.madvise(8, 8, "dontfork")
    process.fork()
    assert process.write(2).pages == range(8)
    assert folded(process) == []


def test_accessed_and_dirty_are_one_for_a_block_and_are_spread_when_it_unfolds() -> None:
    process = written()
    process.mm.pte[:16] &= 0xFF ^ (PTE_YOUNG | PTE_DIRTY)
    process.mm.pte[3] |= PTE_YOUNG
    process.mm.pte[9] |= PTE_DIRTY
    assert (contpte.ptep_get(process.mm, 4, 7) & contpte.AGE == contpte.AGE).all()
    child = process.fork()
    assert (child.mm.pte[:16] & PTE_DIRTY > 0).all()
    process.munmap(0)
    assert (process.mm.pte[1:16] & contpte.AGE == contpte.AGE).all()


def aged(version: str, pages: int = 32) -> af.Process:
    """Written, then freed lazily: clean, and writable."""
    process = written(af.Policy.at(version, arch="arm64"), pages=pages, orders=(max(4, pages.bit_length() - 1),))
    assert process.madvise(0, pages, "free").ok
    assert not (process.mm.pte[:pages] & PTE_DIRTY).any()
    return process


UNMENDED = pytest.mark.parametrize(("version", "dirty"), [("6.16.12", True), ("6.17.5", True), ("6.17.6", False)])
"""arm64 took what is writable and not read-only for dirty, and `pte_mkwrite` made it so (143937ca51cc)."""


@UNMENDED
@pytest.mark.parametrize("pages", [32, 512])
def test_mprotect_back_to_writable_dirties_clean_entries_where_pte_mkwrite_does(
    version: str, dirty: bool, pages: int
) -> None:
    process = aged(version, pages)
    process.mprotect(0, pages, 1)
    process.mprotect(0, pages, 3)
    assert set((process.mm.pte[:pages] & PTE_DIRTY > 0).tolist()) == {dirty}


@UNMENDED
def test_a_clean_pmd_that_is_split_dirties_its_entries_where_pte_mkwrite_does(version: str, dirty: bool) -> None:
    process = aged(version, 512)
    process.munmap(0, 16)
    assert set((process.mm.pte[16:512] & PTE_DIRTY > 0).tolist()) == {dirty}


@UNMENDED
def test_a_folio_that_is_split_dirties_what_is_writable_where_pte_mkwrite_does(version: str, dirty: bool) -> None:
    process = aged(version, 512)
    process.split(0, 512)
    assert process.mm.memory.order[process.mm.memory.folio_of[process.mm.pfn[5]]] == 0
    assert set((process.mm.pte[1:256] & PTE_DIRTY > 0).tolist()) == {dirty}
    assert not process.mm.memory.dirty[process.mm.memory.folio_of[process.mm.pfn[5]]]


@UNMENDED
@pytest.mark.parametrize(("pages", "batched"), [(32, True), (16, False)])
def test_fork_makes_a_batch_writable_that_is_so_behind_its_first_block(
    version: str, dirty: bool, pages: int, batched: bool
) -> None:
    process = aged(version, pages)
    child = process.fork()
    assert set((child.mm.pte[:pages] & PTE_DIRTY > 0).tolist()) == {dirty and batched}
    assert not (process.mm.pte[:pages] & PTE_DIRTY).any()


def test_what_a_pinned_folio_shares_all_the_same_it_shares_by_batches() -> None:
    """Recorded on 6.16.12: one page after the other, the last of each block would fold it by repainting."""
    process = written(pages=64, orders=(6,))
    process.fork().exit()
    process.write(5)
    pin = process.pin(5, 1)
    assert pin
    before = process.machine.memory.contpte_converts
    child = process.fork()
    assert process.machine.memory.contpte_converts == before
    assert folded(child, pages=64) == [16, 32, 48]
    assert child.mm.pfn[5] != process.mm.pfn[5]


@pytest.mark.parametrize(("arch", "mappings"), [("x86-64", 1), ("arm64", 2)])
def test_a_heap_of_arm64_joins_nothing_that_mmap_made(arch: str, mappings: int) -> None:
    process = af.Machine(af.Policy.at("7.3", arch=arch)).spawn()
    heap = process.mm.arena.start
    assert process.brk(heap + 8).ok
    process.mmap(8, at=heap + 8)
    assert len(process.mm.vmas) == mappings
    assert process.brk(heap + 8).ok


# --- the fold check -------------------------------------------------------------------------------------------------


def a_block() -> tuple[Any, Any, Any]:
    return (
        np.full(32, NORMAL, np.uint8),
        np.arange(64, 96, dtype=np.int32),
        np.repeat(np.arange(8, dtype=np.int32), 16),
    )


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda pte, pfn, folio_of: pte.__setitem__(7, 0), "a hole"),
        (lambda pte, pfn, folio_of: pte.__setitem__(7, NORMAL & ~PTE_WRITE), "one entry read-only"),
        (lambda pte, pfn, folio_of: pte.__setitem__(slice(0, 16), PTE_PRESENT | PTE_SPECIAL), "zero pages"),
        (lambda pte, pfn, folio_of: pfn.__setitem__(7, 99), "another frame"),
        (lambda pte, pfn, folio_of: pfn.__isub__(1), "frames not aligned"),
        (lambda pte, pfn, folio_of: folio_of.__setitem__(slice(72, 80), 7), "two folios"),
    ],
)
def test_what_keeps_a_block_from_being_folded(spoil: Callable[..., Any], why: str) -> None:
    pte, pfn, folio_of = a_block()
    assert foldable(pte, pfn, folio_of).tolist() == [True, True]
    spoil(pte, pfn, folio_of)
    assert not foldable(pte, pfn, folio_of)[0], why


def test_accessed_and_dirty_may_differ() -> None:
    pte, pfn, folio_of = a_block()
    pte[3] &= 0xFF ^ PTE_YOUNG
    pte[4] &= 0xFF ^ PTE_DIRTY
    pte[16:] |= PTE_CONT
    assert foldable(pte, pfn, folio_of).tolist() == [True, True]


# --- against the kernel's own steps ---------------------------------------------------------------------------------


class Literal:
    """One process's entries, changed call by call as mm/ and arch/arm64 do it (6.12, 7.3), with nothing vectorised."""

    def __init__(self, mm: Mm) -> None:
        self.memory, self.pmd = mm.memory, mm.pmd.tolist()
        self.dirties = not mm.policy.mkwrite_keeps_clean
        self.pte, self.pfn = mm.pte.tolist(), mm.pfn.tolist()

    def _block(self, vpn: int) -> range:
        return range(vpn & -16, (vpn & -16) + 16)

    def get(self, vpn: int) -> int:
        pte = self.pte[vpn]
        if pte & PTE_CONT:
            for each in self._block(vpn):
                pte |= self.pte[each] & (PTE_YOUNG | PTE_DIRTY)
        return pte

    def _convert(self, vpn: int, cont: int) -> None:
        age = 0
        for each in self._block(vpn):
            age |= self.pte[each] & (PTE_YOUNG | PTE_DIRTY)
        for each in self._block(vpn):
            self.pte[each] = self.pte[each] & ~PTE_CONT | age | cont

    def unfold(self, vpn: int) -> None:
        if self.pte[vpn] & PTE_CONT:
            self._convert(vpn, 0)

    def unfold_partial(self, start: int, nr: int) -> None:
        if start % 16 or nr < 16:
            self.unfold(start)
        if (start + nr) % 16:
            self.unfold(start + nr - 1)

    def try_fold(self, vpn: int) -> None:
        pte, pfn = self.pte[vpn], self.pfn[vpn]
        if vpn % 16 != 15 or pfn % 16 != 15 or not pte & PTE_PRESENT or pte & (PTE_CONT | PTE_SPECIAL):
            return
        folio = int(self.memory.folio_of[pfn])
        frames = self.memory.frames_of(folio)
        if frames.start > pfn - 15:
            return
        for at, each in enumerate(self._block(vpn)):
            if (self.pte[each] ^ pte) & ~(PTE_YOUNG | PTE_DIRTY) or self.pfn[each] != pfn - 15 + at:
                return
        self._convert(vpn, PTE_CONT)

    def set_ptes(self, vpn: int, pfn: int, pte: int, nr: int) -> None:
        pte &= ~PTE_CONT
        if nr == 1:
            self.unfold(vpn)
            self.pte[vpn], self.pfn[vpn] = pte, pfn
            self.try_fold(vpn)
            return
        end = vpn + nr
        while vpn < end:
            following = min((vpn & -16) + 16, end)
            cont = PTE_CONT if not (vpn | following | pfn) % 16 else 0
            for each in range(vpn, following):
                self.pte[each], self.pfn[each] = pte | cont, pfn + each - vpn
            pfn += following - vpn
            vpn = following

    def mkwrite(self, pte: int) -> int:
        return pte | PTE_WRITE | (PTE_DIRTY if self.dirties else 0)

    def hint(self, vpn: int) -> int:
        """`pte_batch_hint`."""
        return 16 - vpn % 16 if self.pte[vpn] & PTE_CONT else 1

    def share(self, its: Literal, vpn: int, nr: int) -> None:
        """`copy_present_ptes` of a batch, `__copy_present_ptes`."""
        pte, at = self.get(vpn), vpn + self.hint(vpn)
        while at < vpn + nr:
            if self.pte[at] & PTE_WRITE:
                pte = self.mkwrite(pte)
            at += self.hint(at)
        if pte & PTE_WRITE:
            self.unfold_partial(vpn, nr)
            for each in range(vpn, vpn + nr):
                self.pte[each] &= ~PTE_WRITE
        its.set_ptes(vpn, self.pfn[vpn], pte & ~(PTE_WRITE | PTE_YOUNG), nr)

    def split_pmds_of(self, after: Mm) -> None:
        """PMDs that the call has split: one set_ptes of 512 entries each."""
        for at, state in enumerate(self.pmd):
            if state == PMD_HUGE and after.pmd[at] != PMD_HUGE and not self.pte[at << 9] & PTE_SPECIAL:
                bits = self.pte[at << 9] & (~0 if after.policy.split_keeps_dirty else ~PTE_DIRTY)
                bits = self.mkwrite(bits) if bits & PTE_WRITE else bits
                self.set_ptes(at << 9, self.pfn[at << 9], bits, 512)

    def get_and_clear(self, vpn: int, nr: int) -> int:
        """`get_and_clear_ptes`: the first entry, accessed and dirty as any of them is."""
        pte = self.get(vpn)
        for each in range(vpn, vpn + nr):
            pte |= self.get(each) & (PTE_YOUNG | PTE_DIRTY)
        self.unfold_partial(vpn, nr)
        self.pte[vpn : vpn + nr] = [0] * nr
        return pte

    def batches(self, start: int, end: int, ignored: int = PTE_YOUNG | PTE_WRITE) -> Iterator[tuple[int, int]]:
        """`folio_pte_batch`; the contiguous bit is compared."""
        vpn = start
        while vpn < end:
            if not self.pte[vpn]:
                vpn += 1
                continue
            nr = 1
            first, pfn = self.get(vpn), self.pfn[vpn]
            special = first & PTE_SPECIAL
            while not special and vpn + nr < end:
                other, frame = self.get(vpn + nr), self.pfn[vpn + nr]
                same_folio = other and not other & PTE_SPECIAL
                same_folio = same_folio and self.memory.folio_of[frame] == self.memory.folio_of[pfn]
                if (first ^ other) & ~ignored or frame != pfn + nr or not same_folio:
                    break
                nr += 1
            yield vpn, nr
            vpn += nr


class Spy:
    """Calls the model's function and then compares all entries with those that the literal steps leave."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.folded = self.realigned = self.copied = 0

    def compare(self, name: str, mm: Mm, literal: Literal) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        pte = np.array(literal.pte, np.uint8)
        wrong = np.flatnonzero(pte != mm.pte)
        assert not len(wrong), (name, wrong[:5], pte[wrong[:5]], mm.pte[wrong[:5]])
        self.folded += int(np.count_nonzero(pte & PTE_CONT))

    def change_protection(self, mm: Mm, start: int, end: int, *, writable: bool) -> None:
        literal = Literal(mm)
        change_protection(mm, start, end, writable=writable)
        literal.split_pmds_of(mm)
        if mm.policy.batches_ptes:
            for first, stop in mm.pmd_ranges(start, end):
                if literal.pmd[first >> 9] == PMD_HUGE and mm.pmd[first >> 9] == PMD_HUGE:
                    literal.pte[first:stop] = mm.pte[first:stop].tolist()
                    continue
                self.protect_by_batches(mm, literal, first, stop)
        else:
            self.protect_singly(mm, literal, start, end)
        self.compare("mprotect", mm, literal)

    def protect_singly(self, mm: Mm, literal: Literal, start: int, end: int) -> None:
        for vpn in range(start, end):
            if literal.pte[vpn]:
                bits = literal.get(vpn) & ~PTE_WRITE
                bits = literal.mkwrite(bits) if mm.pte[vpn] & PTE_WRITE else bits
                if mm.pmd[vpn >> 9] == PMD_HUGE:
                    literal.pte[vpn] = bits
                    continue
                literal.unfold(vpn)
                literal.pte[vpn] = 0
                literal.set_ptes(vpn, literal.pfn[vpn], bits, 1)

    def protect_by_batches(self, mm: Mm, literal: Literal, start: int, end: int) -> None:
        for vpn, nr in list(literal.batches(start, end, PTE_YOUNG | PTE_DIRTY)):
            bits = literal.get_and_clear(vpn, nr) & ~PTE_WRITE
            while nr:
                write = int(mm.pte[vpn]) & PTE_WRITE
                alike = 1
                while alike < nr and int(mm.pte[vpn + alike]) & PTE_WRITE == write:
                    alike += 1
                literal.set_ptes(vpn, literal.pfn[vpn], literal.mkwrite(bits) if write else bits, alike)
                vpn, nr = vpn + alike, nr - alike

    def move_page_tables(self, mm: Mm, start: int, end: int, new_start: int) -> None:
        literal = Literal(mm)
        move_page_tables(mm, start, end, new_start)
        below = start & 511
        if below and (new_start - start) % 512 == 0 and end - start >= 512 - below:
            lowest = {at: [vpn for vpn in range(at - below, at + 1) if mm.find_vma(vpn)] for at in (start, new_start)}
            if all(mapped == [at] for at, mapped in lowest.items()):
                self.realigned += 1
                start, new_start = start - below, new_start - below
        whole = [at for at in range(len(literal.pmd)) if start <= at << 9 and (at + 1) << 9 <= end]
        if (new_start - start) % 512 == 0:
            for at in whole:
                source, target = range(at << 9, (at + 1) << 9), (at << 9) + new_start - start
                for vpn in source:
                    literal.pte[target + vpn - source.start], literal.pte[vpn] = literal.pte[vpn], 0
                    literal.pfn[target + vpn - source.start] = literal.pfn[vpn]
                literal.pmd[at] = 0
        literal.split_pmds_of(mm)
        vpn = start
        while vpn < end:
            nr = 1
            if literal.pte[vpn]:
                extent = min((vpn & -512) + 512, end, ((vpn - start + new_start) & -512) + 512 - new_start + start)
                if mm.policy.batches_ptes and literal.pte[vpn] & PTE_CONT:
                    nr = next(literal.batches(vpn, extent, PTE_YOUNG | PTE_DIRTY))[1]
                bits = literal.get_and_clear(vpn, nr)
                literal.set_ptes(new_start + vpn - start, literal.pfn[vpn], bits, nr)
            vpn += nr
        self.compare("mremap", mm, literal)

    def zap_page_range(self, mm: Mm, start: int, end: int) -> None:
        literal = Literal(mm)
        # What is unmapped may be freed: batches are looked at before.
        was_huge = [literal.pmd[vpn >> 9] == PMD_HUGE for vpn in range(start, end)]
        if any(was_huge):
            zap_page_range(mm, start, end)
            return
        batches = [batch for first, stop in mm.pmd_ranges(start, end) for batch in literal.batches(first, stop)]
        zap_page_range(mm, start, end)
        for vpn, nr in batches:
            literal.unfold_partial(vpn, nr)
            literal.pte[vpn : vpn + nr] = [0] * nr
        self.compare("zap", mm, literal)

    def copy_page_range(self, mm: Mm, child: Mm, vma: Vma, counters: Any, budget: Any) -> None:
        mine, its = Literal(mm), Literal(child)
        if budget.pages is not None:
            copy_page_range(mm, child, vma, counters, budget)
            return
        exclusive = mm.memory.anon_exclusive.copy()
        copy_page_range(mm, child, vma, counters, budget)
        mine.split_pmds_of(mm)
        mine.pmd = mm.pmd.tolist()
        for start, end in mm.pmd_ranges(vma.start, vma.end):
            if mine.pmd[start >> 9] == PMD_HUGE:
                for vpn in range(start, end):
                    mine.pte[vpn] &= ~PTE_WRITE
                    its.pte[vpn] = mine.pte[vpn] & ~PTE_YOUNG
                continue
            vpn = start
            while batch := next(mine.batches(vpn, end), None):
                vpn, nr = batch
                folio, pfns = mm.memory.folio_of[mine.pfn[vpn]], mine.pfn[vpn : vpn + nr]
                if fork.folio_needs_cow_for_dma(mm, int(folio)) and exclusive[pfns].any():
                    self.copied += 1
                    nr = 1
                if nr == 1 and child.pfn[vpn] != mine.pfn[vpn]:
                    its.set_ptes(vpn, int(child.pfn[vpn]), int(child.pte[vpn]), 1)
                else:
                    mine.share(its, vpn, nr)
                vpn += nr
        self.compare("fork", mm, mine)
        self.compare("fork", child, its)

    def set_ptes(self, mm: Mm, vpn: int, pfn: int, pages: int, bits: int) -> None:
        literal = Literal(mm)
        set_ptes(mm, vpn, pfn, pages, bits)
        literal.unfold_partial(vpn, pages)
        literal.pte[vpn : vpn + pages] = [0] * pages
        literal.set_ptes(vpn, pfn, bits, pages)
        self.compare("new folio", mm, literal)

    def access_flags(self, mm: Mm, pages: range, bits: int) -> None:
        literal = Literal(mm)
        access_flags(mm, pages, bits)
        if len(pages) > 1:
            return
        vpn = pages.start
        literal.unfold(vpn)
        literal.pte[vpn] |= bits
        self.compare("reuse", mm, literal)


change_protection, move_page_tables, zap_page_range = (
    mmap.change_protection,
    mmap._move_page_tables,
    mmap.zap_page_range,
)
copy_page_range, set_ptes, access_flags = fork.copy_page_range, contpte.set_ptes, contpte.ptep_set_access_flags


def where_the_bit_is(real: Callable[..., None], watched: Callable[..., None]) -> Callable[..., None]:
    """Random programs are made up on a machine without the bit: that one is not watched."""

    def call(mm: Mm, *arguments: Any, **named: Any) -> None:
        (watched if mm.policy.cont_pte_order else real)(mm, *arguments, **named)

    return call


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spying = Spy()
    for module, name, real, watched in (
        (mmap, "change_protection", change_protection, spying.change_protection),
        (mmap, "_move_page_tables", move_page_tables, spying.move_page_tables),
        (mmap, "zap_page_range", zap_page_range, spying.zap_page_range),
        (fork, "copy_page_range", copy_page_range, spying.copy_page_range),
        (contpte, "set_ptes", set_ptes, spying.set_ptes),
        (contpte, "ptep_set_access_flags", access_flags, spying.access_flags),
    ):
        monkeypatch.setattr(module, name, where_the_bit_is(real, watched))
    return spying


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "policy", [ARM64, ARM64_OLD, ARM64_DIRTIES, ARM64_RFC, ARM64_RFC_FIRST], ids=lambda policy: policy.name
)
@pytest.mark.parametrize("kind", ["mixed", "merge", "populate", "forkfail", "huge", "dma", "free"])
def test_random_programs_fold_and_unfold_as_the_kernel_does(policy: af.Policy, kind: str, spy: Spy) -> None:
    for seed in range(3 if kind == "huge" else 15):
        scenario = random_scenario(seed, kind, sizes=(4, 5, 6, 9) if seed % 2 else (2, 3, 4, 5, 6, 9))
        machine = scenario.machine(policy, frames=1 << 13)
        for step in scenario.steps:
            do_step(machine, step, scenario.first_vpn)
            assert not af.check(machine, [af.INVARIANTS["contiguous_blocks_are_whole"]]), (kind, seed, step)
    assert spy.folded
    assert spy.calls["new folio"]
    assert spy.copied or kind != "dma"


def test_the_same_in_stretches(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (fork, mmap):
        monkeypatch.setattr(module, "MANY_PAGES", 1)
        monkeypatch.setattr(module, "STRETCH_PAGES", 7)
    for seed in range(25):
        random_scenario(seed, "mixed", sizes=(4, 5, 6)).end(ARM64, frames=1 << 13)
    assert spy.calls["fork"] > 10
    assert spy.calls["zap"] > 10


# --- against running kernels ----------------------------------------------------------------------------------------

RAW = sorted((DATA_DIR / "arm64").glob("*.json.gz"))


def bits_of(word: int | list[Any]) -> int:
    """A raw arm64 entry in the model's bits; a PMD's comes as ["H1", word]."""
    raw = word if isinstance(word, int) else word[1]
    # PROT_NONE hides a page by taking the valid bit alone; what is neither is a guard marker, or nothing.
    if not raw & 1 and not raw >> 11 & 1:
        return PTE_GUARD if raw else 0
    write, read_only = raw >> 51 & 1, raw >> 7 & 1
    dirty = raw >> 55 & 1 or (write and not read_only)
    age = (PTE_YOUNG if raw >> 10 & 1 else 0) | (PTE_DIRTY if dirty else 0)
    special, cont = (PTE_SPECIAL if raw >> 56 & 1 else 0), (PTE_CONT if raw >> 52 & 1 else 0)
    return PTE_PRESENT | (PTE_WRITE if write else 0) | age | special | cont


def entries_that_differ(path: Path, policy: af.Policy) -> int:
    """In how many entries, over all steps of all programs, the model differs from a kernel in any bit."""
    found = compared = 0
    programs = json.loads(gzip.decompress(path.read_bytes()))["programs"]
    for recorded, program in zip(af.read_recording(path).programs, programs, strict=True):
        scenario = recorded.scenario
        machine = scenario.machine(policy.but(hardware_age=recorded.policy.hardware_age))
        for step, seen in zip(scenario.steps, program["steps"], strict=True):
            do_step(machine, step, scenario.first_vpn)
            for number, words in seen["raw"].items():
                mine = machine.process(int(number)).mm.pte[scenario.first_vpn :][: scenario.pages]
                theirs = np.array([bits_of(word) for word in words], np.uint8)
                # Up to 6.16 the huge zero page is not marked; what maps it shows in the view.
                huge = np.array([isinstance(word, list) for word in words])
                found += int(np.count_nonzero((mine ^ theirs) & ~(huge * np.uint8(PTE_SPECIAL))))
                compared += len(theirs)
    assert compared
    return found


@pytest.mark.sweep(9)
@pytest.mark.parametrize("path", RAW, ids=lambda path: path.name)
def test_every_entry_is_as_the_kernel_s(path: Path) -> None:
    recording = af.read_recording(path)
    assert entries_that_differ(path, af.Policy.at(recording.kernel, recording.arch)) == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("exp616n1", "6.17"), ("exp617n1", "6.16"), ("bits6.17", "6.12"), ("merge612", "7.3"), ("merge73", "6.16")],
)
def test_entries_tell_one_release_from_the_next(name: str, wrong: str) -> None:
    path = DATA_DIR / "arm64" / f"{name}.json.gz"
    assert entries_that_differ(path, af.Policy.at(wrong, arch="arm64"))


def replayed(name: str, policy: af.Policy | None = None) -> Replay:
    return replay(af.read_recording(DATA_DIR / "arm64" / f"{name}.json.gz"), policy)


def test_a_replay_says_how_many_entries_it_compared_and_how_often_blocks_were_repainted() -> None:
    found = replayed("exp616n1")
    assert not found.mismatches
    assert found.cells == {**dict.fromkeys(FIELDS, 11296), "contpte_convert": 54}
    assert str(found) == "25 programs, 208 steps, 0 mismatches"


def test_what_the_program_before_repainted_is_not_the_first_step_s(tmp_path: Path) -> None:
    content = json.loads(gzip.decompress((DATA_DIR / "arm64" / "mkwrite-6.16.12.json.gz").read_bytes()))
    changed = tmp_path / "changed.json"
    for step, wrong in ((0, 0), (1, 1)):
        content["programs"][0]["steps"][step]["converts"].append(733)
        changed.write_text(json.dumps(content))
        assert len(replay(af.read_recording(changed)).mismatches) == wrong


def test_the_blocks_that_were_repainted_are_counted_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncounted(mm: Mm, start: int, end: int) -> None:
        before = mm.memory.contpte_converts
        try_fold(mm, start, end)
        mm.memory.contpte_converts = before

    try_fold = contpte.contpte_try_fold
    monkeypatch.setattr(contpte, "contpte_try_fold", uncounted)
    assert {difference.what for _, _, difference in replayed("bits6.12").mismatches} == {"contpte_convert of the step"}


WRONG_BIT: dict[str, Callable[[int], int]] = {
    "raw: present": lambda word: 0,
    "raw: contiguous": lambda word: word ^ 1 << 52,
    "raw: writable": lambda word: word & ~(1 << 51) | 1 << 55,
    "raw: zero page": lambda word: word ^ 1 << 56,
    "raw: accessed": lambda word: word ^ 1 << 10,
    "raw: dirty": lambda word: word & ~(1 << 55) | 1 << 7,
}


@pytest.mark.parametrize("what", FIELDS)
def test_each_bit_of_an_entry_is_seen_when_it_is_wrong(what: str, tmp_path: Path) -> None:
    content = json.loads(gzip.decompress((DATA_DIR / "arm64" / "bits7.3.json.gz").read_bytes()))
    words = content["programs"][0]["steps"][0]["raw"]["0"]
    page = next(page for page, word in enumerate(words) if word)
    words[page] = WRONG_BIT[what](words[page])
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    assert [each.what for _, _, each in replay(af.read_recording(changed)).mismatches] == [
        f"{what} of process 0 page {page}"
    ]


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", ["exp612a72", "exp73a72"])
def test_a_processor_that_marks_nothing_itself_is_known_by_its_faults(name: str) -> None:
    recording = af.read_recording(DATA_DIR / "arm64" / f"{name}.json.gz")
    assert not replay(recording).mismatches
    other = replay(recording, af.Policy.at(recording.kernel, "arm64"))
    assert {difference.what for _, _, difference in other.mismatches} >= {"page faults"}
    assert sum(not program.policy.hardware_age for program in recording.programs) == 6


def test_without_hardware_s_accessed_bit_a_read_marks_the_whole_block() -> None:
    process = written(ARM64.but(name="by faults", hardware_age=False))
    process.clear_refs()
    process.read(7)
    fault = process.machine.faults[-1]
    assert (fault.path, fault.error_code, fault.code) == ("accessed or dirty", 5, "age")
    assert (process.mm.pte[:16] & PTE_YOUNG).all()
    process.read(8)
    assert not process.machine.faults
    process.madvise(0, 16, "free")
    assert process.write(9).error_code == 7
    assert folded(process) == [0]
    assert (process.mm.pte[:16] & (PTE_YOUNG | PTE_DIRTY) == PTE_YOUNG | PTE_DIRTY).all()
    assert process.machine.memory.contpte_converts == 0


def test_without_hardware_s_accessed_bit_a_pmd_is_marked_by_one_fault() -> None:
    machine = af.Machine(af.LINUX_6_15.but(name="by faults", hardware_age=False), orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    process.write(5)
    process.clear_refs()
    assert process.write(7).code == "age"
    assert not process.write(300)
    assert process.mm.is_huge(0)


def test_clear_refs_makes_old_what_belongs_to_folios_and_the_huge_zero_page() -> None:
    process = written()
    zero = process.mmap(16).start
    process.read(zero)
    process.clear_refs()
    assert not (process.mm.pte[:16] & PTE_YOUNG).any()
    assert process.mm.pte[zero] & PTE_YOUNG


def test_with_pages_of_16k_128_fold() -> None:
    policy = af.Policy.at("7.3", arch="arm64-16k")
    assert (policy.cont_pte_order, af.Policy.at("6.8", arch="arm64-16k").cont_pte_order) == (7, 0)
    assert policy.but(name="", about="", cont_pte_order=4) == ARM64.but(name="", about="")
    found = replayed("exp16")
    assert (found.mismatches, found.cells["raw: contiguous"], found.cells["contpte_convert"]) == ((), 5120, 4)
    assert replayed("exp16", ARM64).mismatches


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda program: program.update(orders=[9]), ("orders below 9",)),
        (lambda program: program.update(skew=200), ("within 512 pages",)),
        (lambda program: program["steps"][0].update(raw={"0": [1]}), ("step 0: raw: process 0 has no 256 entries",)),
        (lambda program: program["steps"][0]["raw"]["0"].__setitem__(3, 1 << 64), ("page 3", "H1")),
        (lambda program: program["steps"][0]["raw"]["0"].__setitem__(3, ["H2", 1]), ("page 3", "H1")),
        (lambda program: program["steps"][0].update(raw={"1": []}), ("not of the processes",)),
        (lambda program: program["steps"][0].update(converts=3), ("converts: 3",)),
    ],
)
def test_what_cannot_be_replayed_of_16k_pages_or_raw_entries_is_one_line(
    change: Callable[[dict[str, Any]], Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    content = json.loads(gzip.decompress((DATA_DIR / "arm64" / "exp16.json.gz").read_bytes()))
    change(content["programs"][0])
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    with pytest.raises(af.RecordingError) as raised:
        af.read_recording(path)
    assert all(word in str(raised.value) for word in words), raised.value
    assert "\n" not in str(raised.value)


# --- the invariant --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda mm: mm.pte.__setitem__(3, mm.pte[3] & (0xFF ^ PTE_CONT)), "block 0"),
        (lambda mm: mm.pte.__setitem__(3, mm.pte[3] & (0xFF ^ PTE_WRITE)), "block 0"),
        (lambda mm: mm.pfn.__setitem__(slice(16, 32), mm.pfn[16:32][::-1].copy()), "block 16"),
        (lambda mm: mm.pte.__setitem__(slice(32, 48), PTE_CONT), "block 32"),
    ],
)
def test_the_invariant_sees_a_block_that_is_not_whole(spoil: Callable[[Mm], Any], where: str) -> None:
    process = written(pages=48)
    rule = [af.INVARIANTS["contiguous_blocks_are_whole"]]
    assert af.check(process.machine, rule) == []
    spoil(process.mm)
    assert af.check(process.machine, rule)[0].where.startswith(f"process 0 {where}")


def test_the_invariant_forbids_the_bit_where_there_is_none() -> None:
    process = written(af.LINUX_6_15)
    process.mm.pte[:16] |= PTE_CONT
    assert "has no contiguous bit" in str(af.check(process.machine)[0])
