"""How an architecture's page tables are laid out: what an entry of which level is, and where it leads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .look import ACCESSED, DIRTY, FRAME, LEAF, PRESENT, PROTNONE, SPECIAL, WRITE, Words

LEVELS = 4
PMD_ORDER = 9
PTRS_PER_PMD = 1 << PMD_ORDER


@dataclass(frozen=True, slots=True)
class Paging:
    """Page tables of 4 levels with base pages of 4 KiB.

    Attributes
    ----------
    name : str
        The architecture.
    table : tuple of int
        A mask and what an entry that leads to a table is under it.
    leaf : tuple of int
        The same for an entry of a higher level that maps memory itself.
    frame : int
        The bits of an entry that are a physical address.
    pgd_names_mm : bool
        Whether the struct page of the top table says whose it is (`pgd_set_mm`).
    as_x86 : callable
        Entries in the bits of x86, in which looks have them.
    """

    name: str
    table: tuple[int, int]
    leaf: tuple[int, int]
    frame: int
    pgd_names_mm: bool
    as_x86: Callable[[Words], Words]

    def is_table(self, entry: int) -> bool:
        """Whether an entry above the last level leads to a table."""
        mask, value = self.table
        return entry & mask == value

    def is_leaf(self, entry: int) -> bool:
        """Whether an entry above the last level maps memory."""
        mask, value = self.leaf
        return entry & mask == value


MARKER = 1 << 63
"""An arm64 entry that maps nothing and is not zero (`make_pte_marker`: guard pages). None of x86's bits."""


def _arm64_as_x86(entries: Words) -> Words:
    """An arm64 entry (arch/arm64/include/asm/pgtable-prot.h, 6.12) in the bits of x86.

    It is dirty by software's bit, or by hardware's way: writable and no longer read-only. PROT_NONE and what is being
    changed is not valid, but present.
    """

    def bit(number: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return (entries >> np.uint64(number) & np.uint64(1)) > 0

    valid, writable = bit(0), bit(51)
    hidden = ~valid & bit(11)
    frame = entries & np.uint64((1 << 48) - 1 & FRAME)
    found = np.where(hidden, ~frame & np.uint64(FRAME), frame)
    for mask, there in (
        (PRESENT, valid), (PROTNONE, hidden), (WRITE, writable), (ACCESSED, bit(10)),
        (DIRTY, bit(55) | (writable & ~bit(7))), (SPECIAL, bit(56)), (LEAF, valid & ~bit(1)),
    ):  # fmt: skip
        found |= np.where(there, np.uint64(mask), np.uint64(0))
    # What is neither is a marker, or nothing.
    return np.where(valid | hidden, found, np.where(entries > 0, np.uint64(MARKER), np.uint64(0)))


PAGING = {
    "x86_64": Paging("x86-64", (1 << 7 | 1, 1), (1 << 7, 1 << 7), FRAME, True, lambda entries: entries),
    "aarch64": Paging("arm64", (3, 3), (3, 1), (1 << 48) - 1 & FRAME, False, _arm64_as_x86),
}
"""By what ``uname -m`` says. x86: bit 0 present, 7 leaf (of PROT_NONE too); arm64: bit 0 valid, 1 table."""
