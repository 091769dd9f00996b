"""arm64's contiguous bit: 16 entries that say of themselves that they are alike, so that one TLB entry may do for all.

Software sets the bit, and must take it away before one of the 16 changes alone in more than accessed and dirty
(arch/arm64/mm/contpte.c, from 6.9 on; for hugetlb long before). A block that carries it is *folded*: aligned in both
address spaces, wholly present, of one folio, with equal protection. To fold or unfold what is mapped, the kernel clears
the 16 entries, flushes them and writes them again (`contpte_convert`; later kernels skip the flush where the CPU allows
it: BBML2_NOABORT, in 7.3 BBML3); only where nothing was mapped the bit costs nothing. So blocks become folded in two
places only:

- `set_ptes` of several entries, empty until then, folds each aligned block that lies in the call (`contpte_set_ptes`);
- `set_ptes` of one entry looks at its block when it is the block's last (`contpte_try_fold`).

All other calls only unfold what they change a part of. The functions below are what the model's fault, fork and system
calls use in place of plain writes to entries; they fold nothing when `Policy.cont_pte_order` is 0. They are written for
ranges, and equal one call of the kernel's for each entry, or for each batch where the kernel has them: fork and unmap
in every release, mprotect and the move of what is folded from 6.17 on.

A folded block has one accessed and one dirty bit: the hardware sets them in any of its entries, and whoever reads takes
the OR (`ptep_get` here, `PageTable.seen` in `anonfolio.hardware.tlb`). So (un)folding leaves the OR in all 16.

Not modelled: the flush of all 16 that each repainting needs is not in a fault's `flushed`; `Memory.contpte_converts`
counts them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .frames import FolioOf
from .mm import Mm
from .pagetable import (
    MKOLD,
    PTE_CONT,
    PTE_DIRTY,
    PTE_GUARD,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
    PTE_YOUNG,
    WRPROTECT,
    Run,
)

Entries = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

CONT_PTE_ORDER = 4
"""16 entries share the bit with 4K pages (CONFIG_ARM64_CONT_PTE_SHIFT, 4 by default)."""

AGE = PTE_YOUNG | PTE_DIRTY
NONCONT = 0xFF ^ PTE_CONT


# --- pure functions on arrays ---------------------------------------------------------------------------------------


def foldable(
    pte: Entries, pfn: npt.NDArray[np.int32], folio_of: FolioOf | npt.NDArray[np.int32], order: int = CONT_PTE_ORDER
) -> Mask:
    """Which blocks may carry the bit (`__contpte_try_fold`, 6.9 and later).

    Parameters
    ----------
    pte : ndarray of shape (blocks * 2**order,), uint8
        Entries, from a block's first on.
    pfn : ndarray of the same shape, int32
        Their frames.
    folio_of : FolioOf, or ndarray of int32
        Per frame the number of its folio.

    Returns
    -------
    ndarray of shape (blocks,), bool
        True where all entries are present, none is the zero page, the frames are consecutive and begin aligned, all in
        one folio, and the entries differ in accessed and dirty at most.
    """
    size = 1 << order
    bits, frames = pte.reshape(-1, size), pfn.reshape(-1, size)
    good: Mask = ((bits & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT).all(axis=1)
    good &= frames[:, 0] & (size - 1) == 0
    good &= (frames == frames[:, :1] + np.arange(size, dtype=np.int32)).all(axis=1)
    good &= (((bits ^ bits[:, :1]) & (0xFF ^ (AGE | PTE_CONT))) == 0).all(axis=1)
    # A folio's frames are consecutive: with the first and the last it has all between.
    ends = folio_of[frames[good][:, [0, -1]]]
    good[good] = ends[:, 0] == ends[:, 1]
    return good


def gathered(pte: Entries, order: int = CONT_PTE_ORDER) -> Entries:
    """Entries as the kernel reads them: in a folded block, accessed and dirty are those of any (`contpte_ptep_get`)."""
    blocks = pte.reshape(-1, 1 << order)
    together = np.bitwise_or.reduce(blocks, axis=1, keepdims=True) & AGE
    read: Entries = np.where(blocks & PTE_CONT, blocks | together, blocks).reshape(-1)
    return read


# --- an address space -----------------------------------------------------------------------------------------------


def contpte_try_fold(mm: Mm, start: int, end: int) -> None:
    """Entries [start, end) were set one by one: fold each block whose last one is among them, if it may be."""
    order = mm.policy.cont_pte_order
    if order:
        mm.memory.contpte_converts += _fold(mm, np.arange(start >> order, end >> order))


def contpte_try_unfold(mm: Mm, start: int, end: int) -> None:
    """Each of [start, end) is about to change by itself: no block that it lies in stays folded."""
    order = mm.policy.cont_pte_order
    if order and end > start:
        unfold_blocks(mm, np.arange(start >> order, ((end - 1) >> order) + 1))


def try_fold_each(mm: Mm, vpns: npt.NDArray[np.intp]) -> None:
    """Entries `vpns`, rising and with gaps, were set one by one: `contpte_try_fold` for each."""
    if mm.policy.cont_pte_order:
        _set_by_calls(mm, vpns, np.arange(len(vpns)))


def try_unfold_each(mm: Mm, vpns: npt.NDArray[np.intp]) -> None:
    """Entries `vpns`, rising and with gaps, are about to change: `contpte_try_unfold` for each."""
    unfold_blocks(mm, np.unique(vpns >> mm.policy.cont_pte_order))


def contpte_try_unfold_partial(mm: Mm, start: int, end: int) -> None:
    """[start, end) is about to change as a whole: blocks of which it is only a part do not stay folded."""
    partial = (1 << mm.policy.cont_pte_order) - 1
    if start & partial:
        contpte_try_unfold(mm, start, start + 1)
    if end & partial:
        contpte_try_unfold(mm, end - 1, end)


def unfold_blocks(mm: Mm, blocks: npt.NDArray[np.integer]) -> None:
    """Take the bit from these blocks, by number, where they have it (`__contpte_try_unfold`)."""
    order = mm.policy.cont_pte_order
    if not order:
        return
    table = mm.pte.reshape(-1, 1 << order)
    folded = blocks[(table[blocks, 0] & PTE_CONT) > 0]
    if len(folded):
        mm.memory.contpte_converts += len(folded)
        table[folded] = gathered(table[folded].reshape(-1), order).reshape(-1, 1 << order) & NONCONT


def _fold(mm: Mm, blocks: npt.NDArray[np.integer]) -> int:
    """Give these blocks the bit where they may have it; returns how many that were."""
    order = mm.policy.cont_pte_order
    table = mm.pte.reshape(-1, 1 << order)
    frames = mm.pfn.reshape(-1, 1 << order)
    good = foldable(table[blocks].reshape(-1), frames[blocks].reshape(-1), mm.memory.folio_of, order)
    chosen = blocks[good]
    if len(chosen):
        table[chosen] = gathered((table[chosen] | PTE_CONT).reshape(-1), order).reshape(-1, 1 << order)
    return len(chosen)


def ptep_get(mm: Mm, start: int, end: int) -> Entries:
    """Entries [start, end) as the kernel reads them, a copy."""
    order = mm.policy.cont_pte_order
    if not order:
        return mm.pte[start:end].copy()
    first, last = start & -(1 << order), -(-end >> order) << order
    return gathered(mm.pte[first:last], order)[start - first : end - first]


def set_ptes(mm: Mm, vpn: int, pfn: int, pages: int, bits: int) -> None:
    """Map consecutive frames with one template of bits, in place of what was there (`ptep_clear_flush`, `set_ptes`)."""
    if not mm.policy.cont_pte_order:
        mm.set_ptes(vpn, pfn, pages, bits)
        return
    contpte_try_unfold_partial(mm, vpn, vpn + pages)
    mm.set_ptes(vpn, pfn, pages, bits)
    if pages > 1:
        contpte_set_ptes(mm, vpn, vpn + pages)
    else:
        contpte_try_fold(mm, vpn, vpn + 1)


def contpte_set_ptes(mm: Mm, start: int, end: int) -> None:
    """[start, end) was set by one call: fold the aligned blocks that lie in it."""
    order = mm.policy.cont_pte_order
    if order:
        _fold(mm, np.arange(-(-start >> order), end >> order))


def clear_ptes(mm: Mm, start: int, end: int) -> None:
    """Nothing is mapped at [start, end) any more (`contpte_clear_full_ptes`)."""
    if mm.policy.cont_pte_order:
        contpte_try_unfold_partial(mm, start, end)
    mm.pte[start:end] = 0


def ptep_set_access_flags(mm: Mm, pages: range, bits: int) -> None:
    """Add bits, the write bit among them, to entries that had it not (`contpte_ptep_set_access_flags`).

    One entry, as in every released kernel, unfolds its block, and nothing folds it again. For a range, RFC v2's reuse
    (a proposal, never merged; the bit was posted on top of it in June 2023, 20230622144210.2623299-1), the model takes
    the range to be set by one call, so that whole blocks end up folded: inferred, for the range calls were not found.
    """
    if len(pages) == 1:
        contpte_try_unfold(mm, pages.start, pages.stop)
    else:
        contpte_try_unfold_partial(mm, pages.start, pages.stop)
    mm.pte[pages.start : pages.stop] |= bits
    if len(pages) > 1:
        contpte_set_ptes(mm, pages.start, pages.stop)


def ptep_set_age(mm: Mm, vpn: int, bits: int) -> None:
    """Mark an entry accessed, or dirty too: a folded block as a whole (`contpte_ptep_set_access_flags`)."""
    size = 1 << mm.policy.cont_pte_order
    first = vpn & -size if mm.pte[vpn] & PTE_CONT else vpn
    mm.pte[first : first + (size if mm.pte[vpn] & PTE_CONT else 1)] |= bits


def folio_pte_batches(
    mm: Mm, start: int, end: int, alike: int
) -> tuple[npt.NDArray[np.intp], Entries, npt.NDArray[np.intp]]:
    """The entries of [start, end) that map folios, in the batches that one call changes (`folio_pte_batch`).

    A batch maps consecutive pages of one folio and differs in none of the bits `alike`. The contiguous bit is among
    them in every caller: `ptep_get` keeps it and `pte_same` compares it (6.12, 7.3).

    Returns
    -------
    vpns : ndarray of shape (n,), intp
    bits : ndarray of shape (n,), uint8
        As the kernel reads them.
    firsts : ndarray of shape (batches,), intp
        Where in `vpns` each batch begins.
    """
    bits = ptep_get(mm, start, end)
    pages = np.flatnonzero((bits & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
    bits, pfns = bits[pages], mm.pfn[start:end][pages]
    folios = mm.memory.folio_of[pfns]
    cut = (np.diff(pages) != 1) | (np.diff(pfns) != 1) | (np.diff(folios) != 0)
    cut |= np.diff(bits & (alike | PTE_CONT)) != 0
    firsts = np.flatnonzero(np.concatenate((np.ones(min(len(pages), 1), np.bool_), cut)))
    return pages + start, bits, firsts


def first_batch(mm: Mm, start: int, end: int, alike: int = 0) -> Run | None:
    """The first batch of one page table's [start, end), none of whose bits `alike` differ; None where none is."""
    vpns, _, firsts = folio_pte_batches(mm, start, end, alike)
    if not len(vpns):
        return None
    pages = int(firsts[1]) if len(firsts) > 1 else len(vpns)
    pfn = int(mm.pfn[vpns[0]])
    return Run(int(vpns[0]), pfn, pages, int(mm.memory.folio_of[pfn]))


def _set_by_calls(mm: Mm, vpns: npt.NDArray[np.intp], firsts: npt.NDArray[np.intp]) -> None:
    """Entries `vpns` were set by one `set_ptes` for each run that begins at `firsts`: fold what those fold.

    A block lies in a call when its last page is in it and so is the one size - 1 before; a call for one entry looks at
    its block when it is the block's last.
    """
    order = mm.policy.cont_pte_order
    last = (1 << order) - 1
    at = np.flatnonzero((vpns & last) == last)
    call = np.searchsorted(firsts, at, "right") - 1
    alone = np.diff(np.append(firsts, len(vpns)))[call] == 1
    mm.memory.contpte_converts += _fold(mm, vpns[at[alone]] >> order)
    _fold(mm, vpns[at[~alone & (at - firsts[call] >= last)]] >> order)


def _together(bits: Entries, firsts: npt.NDArray[np.intp]) -> Entries:
    """Entries whose accessed and dirty are those of any in the batch (`get_and_clear_ptes`), without contiguous bit."""
    age = np.bitwise_or.reduceat(bits & AGE, firsts) if len(firsts) else bits
    together: Entries = bits & NONCONT | np.repeat(age, np.diff(np.append(firsts, len(bits))))
    return together


def change_ptes(mm: Mm, start: int, end: int, writable: Mask) -> None:
    """Mprotect of one page table's [start, end) by batches (`change_pte_range`, cac1db8c3aad, 6.17).

    A batch is cleared as a whole, so that its entries share accessed and dirty from then on, whatever the architecture
    (`modify_prot_start_ptes`), and set by one call. The kernel's calls end where `writable` changes, too: no block that
    such an end lies in is alike, so that none would fold.
    """
    vpns, bits, firsts = folio_pte_batches(mm, start, end, PTE_WRITE)
    contpte_try_unfold_partial(mm, start, end)
    mm.pte[start:end] &= WRPROTECT
    writes = writable[vpns - start]
    mm.pte[vpns] = _together(bits, firsts) & WRPROTECT | writes * mm.mkwrite
    if mm.policy.cont_pte_order:
        _set_by_calls(mm, vpns, firsts)


def move_ptes(mm: Mm, start: int, end: int, new_start: int) -> None:
    """Mremap moves [start, end) of one page table to where nothing is mapped (`move_ptes`).

    One entry after the other; from 6.17 on (f822a9a81a31) what is folded goes by batches, the rest still does not.
    """
    by_batches = mm.policy.batches_ptes
    vpns, bits, firsts = folio_pte_batches(mm, start, end, PTE_WRITE)
    alone = np.arange(len(vpns)) if not by_batches else np.flatnonzero(bits & PTE_CONT == 0)
    firsts = np.union1d(firsts, alone)
    (contpte_try_unfold_partial if by_batches else contpte_try_unfold)(mm, start, end)
    target = slice(new_start, new_start + end - start)
    mm.own_pfns()[target] = mm.pfn[start:end]
    mm.pte[target] = mm.pte[start:end]
    mm.pte[start:end] = 0
    moved = vpns + (new_start - start)
    mm.pte[moved] = _together(bits, firsts)
    _set_by_calls(mm, moved, firsts)


def _written_behind(mm: Mm, vpns: npt.NDArray[np.intp], bits: Entries, firsts: npt.NDArray[np.intp]) -> Mask:
    """Per entry whether its batch has a writable one behind those that `pte_batch_hint` takes at once."""
    size = 1 << mm.policy.cont_pte_order
    at = vpns[firsts]
    hints = np.where(bits[firsts] & PTE_CONT, size - at % size, 1)
    sizes = np.diff(np.append(firsts, len(vpns)))
    place = np.arange(len(vpns)) - np.repeat(firsts, sizes)
    writable = ((bits & PTE_WRITE) > 0) & (place >= np.repeat(hints, sizes))
    found: Mask = np.repeat(np.logical_or.reduceat(writable, firsts), sizes)
    return found


def copy_ptes(mm: Mm, child: Mm, start: int, end: int) -> None:
    """Fork shares [start, end): write-protected here and there, not young there (`__copy_present_ptes`).

    It goes by batches of entries that are equally dirty. Whole blocks keep their bit here, and the child's, set by one
    call a batch, get it. What a child is to share of a batch that is writable behind its first entry, or block, is made
    writable for a moment (`folio_pte_batch`, any_writable), which makes it dirty where that does.
    """
    no_folio = np.flatnonzero(mm.pte[start:end] & (PTE_SPECIAL | PTE_GUARD))
    child.pte[start:end][no_folio] = mm.pte[start:end][no_folio] & MKOLD
    vpns, bits, firsts = folio_pte_batches(mm, start, end, PTE_DIRTY)
    if not len(vpns):
        return
    sizes = np.diff(np.append(firsts, len(vpns)))
    writable = np.logical_or.reduceat((bits & PTE_WRITE) > 0, firsts)
    # A folded block lies in one batch, unless the range cuts it: then the batch is the first or the last.
    for batch in (0, -1):
        first = int(vpns[firsts[batch]])
        if writable[batch]:
            contpte_try_unfold_partial(mm, first, first + int(sizes[batch]))
    mm.pte[vpns] &= WRPROTECT
    if not mm.policy.mkwrite_keeps_clean:
        bits = bits | _written_behind(mm, vpns, bits, firsts) * np.uint8(PTE_DIRTY)
    child.pte[vpns] = bits & WRPROTECT & MKOLD & NONCONT
    _set_by_calls(child, vpns, firsts)
