"""One mapping: struct vm_area_struct (include/linux/mm_types.h), its flags, and what lets two of them merge."""

from __future__ import annotations

from .sizes import STACK_GUARD_GAP

# VMA flags, under the kernel's names.
VM_READ = 1
VM_WRITE = 2
VM_WIPEONFORK = 4
VM_DONTCOPY = 8
VM_HUGEPAGE = 16
VM_NOHUGEPAGE = 32
VM_UNACCOUNTED = 64
"""Not VM_ACCOUNT: set where the kernel takes that flag away from a mapping that had it, or never gave it."""
VM_GROWSDOWN = 1 << 8
"""A stack: it grows to where it is accessed below its start."""
VM_NORESERVE = 1 << 11
"""Made with MAP_NORESERVE: never charged, whatever access it gets."""
VM_LOCKED, VM_LOCKONFAULT = 1 << 12, 1 << 13
"""Made by mlock; page by page as they come alone (MLOCK_ONFAULT)."""
VM_MTE_ALLOWED = 1 << 14
"""Memory tags may be asked for. Here only a heap of arm64 has it: a processor that tags memory is not modelled."""

VM_MAYBE_GUARD = 1 << 15
"""Guard pages were put there once, taken away again or not (6.19 and 6.18.37; before, no flag says so)."""

VM_LOCKED_MASK = VM_LOCKED | VM_LOCKONFAULT
VM_ACCESS_FLAGS = VM_READ | VM_WRITE
VM_STICKY = VM_MAYBE_GUARD
"""Keeps no two mappings from merging, and what they become has it (VMA_STICKY_FLAGS, 7.3)."""
VM_COPY_ON_FORK = VM_MAYBE_GUARD
"""Fork copies the entries, anon_vma or none. Userfaultfd's flags, of this kind too, are not modelled."""


class Vma:
    """One mapping: pages [start, end), its flags, and what decides whether it may merge with a neighbour.

    `anon_vma` is a number, 0 for none; `chain` holds every anon_vma the VMA hangs on, its ancestors' included
    (struct vm_area_struct, `anon_vma_chain`).
    """

    __slots__ = ("anon_vma", "chain", "end", "flags", "pgoff", "start")

    def __init__(
        self, start: int, end: int, flags: int, pgoff: int, anon_vma: int = 0, chain: frozenset[int] = frozenset()
    ) -> None:
        self.start, self.end, self.flags, self.pgoff = start, end, flags, pgoff
        self.anon_vma, self.chain = anon_vma, chain

    def copy(self) -> Vma:
        return Vma(self.start, self.end, self.flags, self.pgoff, self.anon_vma, self.chain)

    def without_ancestors(self) -> Vma:
        """The same, on its own anon_vma alone."""
        chain = frozenset((self.anon_vma,)) if self.anon_vma else self.chain
        return Vma(self.start, self.end, self.flags, self.pgoff, self.anon_vma, chain)

    def __repr__(self) -> str:
        return f"Vma({self.start}..{self.end - 1}, flags={self.flags:#x}, pgoff={self.pgoff}, anon_vma={self.anon_vma})"

    @property
    def start_gap(self) -> int:
        """Where what is placed below it must end (`vm_start_gap`)."""
        return self.start - (STACK_GUARD_GAP if self.flags & VM_GROWSDOWN else 0)

    @property
    def access_word(self) -> str:
        """What may be done there, in a word."""
        return "writable" if self.flags & VM_WRITE else "read-only" if self.flags & VM_READ else "inaccessible"

    @property
    def is_fork_child(self) -> bool:
        """Whether it may hold pages of an ancestor (`vma_is_fork_child`, 6.18; `list_is_singular` before)."""
        return self.anon_vma != 0 and len(self.chain) != 1


def start_of(vma: Vma) -> int:
    return vma.start


def can_vma_merge(lower: Vma, upper: Vma, may_differ: int = 0) -> bool:
    """Whether `upper` goes on where `lower` ends, page and offset, under the same flags (`can_vma_merge_after`)."""
    alike = not (lower.flags ^ upper.flags) & ~(may_differ | VM_STICKY)
    return lower.end == upper.start and alike and upper.pgoff == lower.pgoff + upper.start - lower.start


def anon_vma_compatible(lower: Vma, upper: Vma) -> bool:
    """Whether one may take the other's anon_vma: they could merge, but for access bits (`anon_vma_compatible`)."""
    return can_vma_merge(lower, upper, VM_ACCESS_FLAGS)


def merge_sticky(new: Vma, prev: Vma | None, following: Vma | None) -> None:
    """Whoever stays of two or three that become one has what is sticky of each (`vma_merge_existing_range`, 7.3)."""
    sticky = new.flags & VM_STICKY
    for vma in (prev, following):
        sticky |= vma.flags & VM_STICKY if vma else 0
    for vma in (prev, following):
        if vma:
            vma.flags |= sticky


def dup_anon_vma(into: Vma, source: Vma) -> None:
    if source.anon_vma and not into.anon_vma:
        into.anon_vma, into.chain = source.anon_vma, source.chain
