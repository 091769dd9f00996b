"""mlock, mlock2 and munlock (mm/mlock.c): flags of mappings, and pages that are faulted in for them.

That a folio is unevictable is not modelled, for nothing here is evicted. It shows in one place: what is locked in one
process is not freed lazily by another's MADV_FREE (`folio_mark_lazyfree`); here it is.
"""

from __future__ import annotations

from .gup import BadAddress, mm_populate
from .mm import Mm
from .record import Fault
from .refused import Refused
from .system import System
from .vma import VM_LOCKED, VM_LOCKED_MASK


def do_mlock(system: System, mm: Mm, start: int, end: int, flags: int, faults: list[Fault]) -> None:
    """Lock a range, as a process without a limit, and fault in what it lacks (`do_mlock`, 6.1-7.3).

    Where that stops, at a mapping without access or a guard page, all is locked, and ENOMEM returned.
    """
    apply_vma_lock_flags(mm, start, end, flags)
    try:
        mm_populate(system, mm, start, end, faults, strict=True)
    except BadAddress as stop:
        raise Refused("ENOMEM", str(stop)) from None


def apply_vma_lock_flags(mm: Mm, start: int, end: int, flags: int) -> None:
    """Lock or unlock VMA by VMA, up to the first hole (`apply_vma_lock_flags`, `mlock_fixup`): they split and merge."""
    while start < end:
        vma = mm.find_vma(start)
        if vma is None:
            raise Refused("ENOMEM", f"nothing is mapped at page {start}")
        changed = vma.flags & ~VM_LOCKED_MASK | flags
        if changed != vma.flags:
            vma = mm.vma_modify_flags(vma, start, min(vma.end, end), changed)
        start = vma.end


def mremap_populate(system: System, mm: Mm, start: int, end: int, faults: list[Fault]) -> None:
    """A locked mapping is populated where mremap made it grow (at the end of `do_mremap`)."""
    vma = mm.find_vma(start)
    if start < end and vma and vma.flags & VM_LOCKED:
        mm_populate(system, mm, start, end, faults)
