"""One page, and one mapping, of a process as frozen values: what a test or a reader asks of a state."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel import vma as flags
from ..kernel.mm import Mm
from ..kernel.pagetable import PTE_DIRTY, PTE_GUARD, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from ..kernel.vma import Vma

FLAG_WORDS = {
    flags.VM_READ: "readable", flags.VM_WRITE: "writable", flags.VM_WIPEONFORK: "wipeonfork",
    flags.VM_DONTCOPY: "dontfork", flags.VM_HUGEPAGE: "hugepage", flags.VM_NOHUGEPAGE: "nohugepage",
    flags.VM_UNACCOUNTED: "uncharged", flags.VM_GROWSDOWN: "growsdown", flags.VM_NORESERVE: "noreserve",
    flags.VM_LOCKED: "locked", flags.VM_LOCKONFAULT: "locked_on_fault",
    flags.VM_MTE_ALLOWED: "taggable", flags.VM_MAYBE_GUARD: "guarded_once",
}  # fmt: skip
"""A mapping's flags in words; ``uncharged`` is that it has no VM_ACCOUNT."""


@dataclass(frozen=True, slots=True)
class VmaView:
    """One mapping (VMA).

    Attributes
    ----------
    start, end : int
        Page numbers, `end` excluded.
    flags : tuple of str
        Of `FLAG_WORDS`, in their order.
    anon_vma : int or None
        A number that mappings with the same anon_vma share; None before the first anonymous page.
    ancestors : int
        How many further anon_vmas it hangs on: of the processes that its own was forked from.
    page_offset : int
        In pages (vm_pgoff): `start`, unless it was moved after it had an anon_vma.
    """

    start: int
    end: int
    flags: tuple[str, ...]
    anon_vma: int | None
    ancestors: int
    page_offset: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a process, and the folio that it maps.

    Attributes
    ----------
    vpn : int
        Its number.
    mapping : VmaView
        The mapping that contains it.
    frame, folio, head, order : int or None
        The frame that it maps; number, first frame and order of the folio of that. None where it maps none: nothing
        at all, the zero page, or a guard marker.
    present, zero, guard : bool
        Whether it maps anything, the zero page (small or huge) among it; that; whether it holds a guard marker.
    huge : bool
        Whether a PMD maps it.
    writable, dirty, accessed : bool
        The bits of its entry.
    exclusive : bool
        PageAnonExclusive, of the folio's head under a PMD.
    """

    vpn: int
    mapping: VmaView
    frame: int | None
    folio: int | None
    head: int | None
    order: int | None
    present: bool
    zero: bool
    guard: bool
    huge: bool
    writable: bool
    dirty: bool
    accessed: bool
    exclusive: bool


def mapping_of(vma: Vma) -> VmaView:
    """A VMA as a value."""
    words = tuple(word for flag, word in FLAG_WORDS.items() if vma.flags & flag)
    return VmaView(vma.start, vma.end, words, vma.anon_vma or None, max(0, len(vma.chain) - 1), vma.pgoff)


def page_of(mm: Mm, vma: Vma, vpn: int) -> Page:
    """A page of a VMA as a value."""
    memory, bits = mm.memory, mm.pte.item(vpn)
    huge, zero = mm.is_huge(vpn), bool(bits & PTE_SPECIAL)
    frame = mm.pfn.item(vpn) if bits & PTE_PRESENT and not zero else None
    folio = None if frame is None else int(memory.folio_of[frame])
    head = None if folio is None else memory.head.item(folio)
    marked = head if huge else frame
    return Page(
        vpn, mapping_of(vma), frame, folio, head, None if folio is None else memory.order.item(folio),
        present=bool(bits & PTE_PRESENT), zero=zero, guard=bool(bits & PTE_GUARD), huge=huge,
        writable=bool(bits & PTE_WRITE), dirty=bool(bits & PTE_DIRTY), accessed=bool(bits & PTE_YOUNG),
        exclusive=marked is not None and bool(memory.anon_exclusive[marked]),
    )  # fmt: skip
