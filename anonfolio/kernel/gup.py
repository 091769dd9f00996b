"""Getting user pages: pins for devices, plain references, and what they ask of a page first (mm/gup.c)."""

from __future__ import annotations

from .buddy import OutOfMemory
from .faults import MOST_FAULTS, READ, UNSHARE, WRITE, handle_mm_fault
from .frames import Memory
from .mm import Mm
from .pagetable import PTE_DIRTY, PTE_GUARD, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from .pin import Pin
from .record import Fault
from .sizes import GUP_PIN_COUNTING_BIAS
from .system import System
from .vma import VM_ACCESS_FLAGS, VM_LOCKONFAULT, VM_READ, VM_WRITE, Vma


class BadAddress(Exception):
    """-EFAULT: GUP met a hole, or was to write where the mapping is read-only. What it faulted in stays."""


def pin_user_pages(
    system: System, mm: Mm, vpn: int, pages: int, *, write: bool, longterm: bool, faults: list[Fault]
) -> Pin:
    """Pin pages one by one, faulting in what is missing (`pin_user_pages`, FOLL_PIN).

    That the process ever pinned is remembered for good (MMF_HAS_PINNED), also when the pin is refused.

    Raises
    ------
    BadAddress
        At the first page that cannot be had; pages pinned before it are let go again, but stay faulted in.
    """
    mm.has_pinned = True
    pin = Pin(mm.id - 1, vpn, [], write)
    try:
        for page in range(vpn, vpn + pages):
            faults.extend(_fault_in(system, mm, page, write=write, pin=True, longterm=longterm))
            if faults or not longterm:
                touch_page(mm, page, write=write)
            pfn = int(mm.pfn[page])
            try_grab_folio(mm.memory, pfn)
            pin.frames.append(pfn)
            if not mm.pte[page] & PTE_SPECIAL:
                pin.expected[page] = pfn
    except (BadAddress, OutOfMemory):
        unpin_user_pages(mm.memory, pin)
        raise
    return pin


def get_user_page(system: System, mm: Mm, vpn: int, faults: list[Fault]) -> Pin:
    """A plain reference to one page (`get_user_pages`, FOLL_GET, as vmsplice takes it): nothing is unshared."""
    faults.extend(_fault_in(system, mm, vpn, write=False, pin=False, longterm=False))
    pfn = int(mm.pfn[vpn])
    folio = int(mm.memory.folio_of[pfn])
    if folio >= 0:
        mm.memory.folio_get(folio)
    return Pin(mm.id - 1, vpn, [pfn], writable=False, pinned=False)


def faultin_page_range(system: System, mm: Mm, start: int, end: int, *, write: bool, faults: list[Fault]) -> None:
    """Fault in what [start, end) lacks, and take none of it (`faultin_page_range`; `__get_user_pages` without pages).

    Raises
    ------
    BadAddress
        At the first page that cannot be had; what lies before it stays.
    """
    wanted = PTE_WRITE if write else PTE_PRESENT
    for first, stop in mm.pmd_ranges(start, end):
        while (lacks := mm.pte[first:stop] & wanted == 0).any():
            faults.extend(_fault_in(system, mm, first + int(lacks.argmax()), write=write, pin=False, longterm=False))
        for vpn in (first,) if mm.is_huge(first) else range(first, stop) if write else ():
            touch_page(mm, vpn, write=write)


def populate_vma_page_range(system: System, mm: Mm, vma: Vma, start: int, end: int, faults: list[Fault]) -> None:
    """Fault in a part of a VMA: as by writes, which breaks COW, or as by reads where it may not be written.

    Where pages are locked as they come, nothing (`populate_vma_page_range`, 6.1-7.3). BadAddress as above.
    """
    if vma.flags & VM_LOCKONFAULT:
        return
    if not vma.flags & VM_ACCESS_FLAGS:
        raise BadAddress(f"pages {start}..{end - 1} of process {mm.id - 1} are {vma.access_word}")
    faultin_page_range(system, mm, start, end, write=bool(vma.flags & VM_WRITE), faults=faults)


def mm_populate(system: System, mm: Mm, start: int, end: int, faults: list[Fault], *, strict: bool = False) -> None:
    """Populate the VMAs in a range, each as far as it can be (`mm_populate`); `strict` raises BadAddress there."""
    for vma in mm.vmas_in(start, end):
        try:
            populate_vma_page_range(system, mm, vma, max(start, vma.start), min(end, vma.end), faults)
        except BadAddress:
            if strict:
                raise


def try_grab_folio(memory: Memory, pfn: int) -> None:
    """Take one pin: a reference and the pin count of a large folio, 1,024 references of a small one.

    The zero page is never pinned (`try_grab_folio`, 6.1-7.3).
    """
    folio = int(memory.folio_of[pfn])
    if folio < 0:
        return
    if memory.is_large(folio):
        memory.folio_get(folio)
        memory.pincount[folio] += 1
    else:
        memory.folio_get(folio, GUP_PIN_COUNTING_BIAS)


def touch_page(mm: Mm, vpn: int, *, write: bool) -> None:
    """The walk under the lock sets dirty and accessed in a PMD for writing (`touch_pmd`, FOLL_TOUCH, 6.1-7.3).

    For reading it sets accessed alone, on arm64; x86-64 leaves the entry as it is (`pmdp_set_access_flags`, 5.10-7.3).

    It never sets them in a PTE; a folio is marked dirty that is to be written under a clean one (`follow_page_pte`).
    Short-term pins of another process's memory go that way (`pin_user_pages_remote`), long-term ones only after a
    fault: what is there, they take without the lock (`pin_user_pages_fast`), and so do references; that sets nothing.
    """
    if mm.is_huge(vpn):
        start, end = mm.block_of(vpn)
        if write:
            mm.pte[start:end] |= PTE_YOUNG | PTE_DIRTY
        elif mm.policy.read_ages_pmd:
            mm.pte[start:end] |= PTE_YOUNG
    elif write and not mm.pte[vpn] & PTE_DIRTY:
        mm.memory.dirty[mm.memory.folio_of[mm.pfn[vpn]]] = True


def unpin_user_pages(memory: Memory, pin: Pin) -> None:
    """Let go of what a pin or a reference holds (`gup_put_folio`); frames that nobody maps any more are freed."""
    for pfn in pin.frames:
        folio = int(memory.folio_of[pfn])
        if folio < 0:
            continue
        if not pin.pinned:
            memory.folio_put(folio)
        elif memory.is_large(folio):
            memory.pincount[folio] -= 1
            memory.folio_put(folio)
        else:
            memory.folio_put(folio, GUP_PIN_COUNTING_BIAS)
    pin.frames = []
    pin.expected = {}


def gup_must_unshare(mm: Mm, pfn: int, *, write: bool, longterm: bool) -> bool:
    """Whether a read-only pin must first make the page exclusive (`gup_must_unshare`, 6.1-7.3).

    An anonymous page unless it is exclusive; the zero page only for a long-term pin, and not in 6.1. 5.10 has no such
    question.
    """
    if write or not mm.policy.marks_exclusive:
        return False
    if mm.memory.folio_of[pfn] < 0:
        return longterm and mm.policy.unshares_zero_page
    return not mm.memory.anon_exclusive[_exclusive_index(mm.memory, pfn)]


def _exclusive_index(memory: Memory, pfn: int) -> int:
    folio = int(memory.folio_of[pfn])
    # While only PMDs map the folio, the head's flag stands for every page.
    return int(memory.head[folio]) if memory.entire_mapcount[folio] and not memory.mapcount[pfn] else pfn


def _fault_in(system: System, mm: Mm, vpn: int, *, write: bool, pin: bool, longterm: bool) -> list[Fault]:
    """Fault until the page may be taken (`__get_user_pages`, `faultin_page`); BadAddress where that cannot be."""
    vma = mm.find_vma(vpn)
    if vma is None or not vma.flags & (VM_WRITE if write else VM_READ):
        raise BadAddress(f"page {vpn} of process {mm.id - 1} is {vma.access_word if vma else 'not mapped'}")
    faults: list[Fault] = []
    if mm.pte[vpn] & PTE_GUARD:
        raise BadAddress(f"page {vpn} of process {mm.id - 1} is a guard page")
    while True:
        bits = mm.pte[vpn]
        if not bits & PTE_PRESENT or (write and not bits & PTE_WRITE):
            access = WRITE if write else READ
        elif pin and gup_must_unshare(mm, int(mm.pfn[vpn]), write=write, longterm=longterm):
            access = UNSHARE
        else:
            return faults
        assert len(faults) < MOST_FAULTS, f"page {vpn} faults again and again"
        faults.append(handle_mm_fault(system, mm, vma, vpn, access, user=False))
