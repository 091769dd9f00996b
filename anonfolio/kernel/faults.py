"""The page fault on anonymous memory, function by function as in mm/memory.c and mm/huge_memory.c.

Start at `handle_mm_fault`. The four paths are `do_anonymous_page` (first touch), `wp_page_copy` (of the zero page,
and of a maybe-shared page) and `wp_page_reuse` (of an exclusive page); `do_wp_page` decides among the last three.
Where kernels differ, the function asks the `Policy`. Every decision goes through ``vmf.check(…)``, which leaves the
trail that pictures show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from . import contpte
from .buddy import OutOfMemory
from .frames import Memory
from .mm import Mm
from .pagetable import PMD_HUGE, PMD_NONE, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from .policy import Policy
from .record import (
    AGED,
    COW_COPY,
    FIRST_TOUCH,
    PF_PROT,
    PF_USER,
    PF_WRITE,
    REUSE,
    UNSHARE_REUSE,
    ZERO_COPY,
    ZERO_READ,
    Effect,
    Fault,
    Trail,
)
from .rmap import folio_add_new_anon_rmap, folio_remove_rmap_ptes
from .rules import ANY_ORDER, HUGE_REUSES, Around, Extent, Folio, one_page, refcount_one, suitable
from .sizes import NO_FOLIO, PMD_ORDER, PTRS_PER_PMD, ZERO_PFN
from .system import System
from .vma import VM_WRITE, Vma

Entries = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
READ, WRITE, UNSHARE = "read", "write", "unshare"
MOST_FAULTS = 4
"""No access needs more faults than that, whatever the policy: more would go on for ever."""
ZERO_BITS = PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL


class VmFault(NamedTuple):
    """One fault being handled (struct vm_fault): what was asked, which does not change; its trail; and its effect."""

    system: System
    memory: Memory
    policy: Policy
    mm: Mm
    vma: Vma
    vpn: int
    access: str
    check: Trail
    effect: Effect

    @classmethod
    def at(cls, system: System, mm: Mm, vma: Vma, vpn: int, access: str) -> Self:
        """A fault on page `vpn` of which nothing is done yet."""
        return cls(system, system.memory, system.policy, mm, vma, vpn, access, Trail(), Effect(range(vpn, vpn + 1)))

    @property
    def unshare(self) -> bool:
        """FAULT_FLAG_UNSHARE: make the page exclusive, leave it read-only."""
        return self.access == UNSHARE

    def writable_bits(self) -> int:
        """The bits of an entry that this fault installs for a page of its own (`maybe_mkwrite`)."""
        if self.unshare:
            return PTE_PRESENT | PTE_YOUNG
        return PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | (PTE_WRITE if self.vma.flags & VM_WRITE else 0)

    def done(self, path: str) -> None:
        """Remember which path was taken."""
        self.effect.path = path
        self.check.decide()


def handle_mm_fault(system: System, mm: Mm, vma: Vma, vpn: int, access: str, *, user: bool = True) -> Fault:
    """Handle one fault on page `vpn`, which lies in `vma` and whose access the VMA allows; returns its record.

    The PMD level is asked first, as in `__handle_mm_fault` (6.1-7.3).
    """
    vmf = VmFault.at(system, mm, vma, vpn, access)
    error_code = (PF_PROT if mm.pte[vpn] else 0) | (0 if access == READ else PF_WRITE) | PF_USER
    if not (create_huge_pmd(vmf) or huge_pmd_set_accessed(vmf) or wp_huge_pmd(vmf)):
        handle_pte_fault(vmf)
    did = vmf.effect
    fault = Fault(
        mm.id - 1, vpn, access, did.path, error_code, did.order, did.pages, tuple(vmf.check), _or_none(did.folio),
        _or_none(did.old_folio), did.zeroed, did.copied, did.scanned, did.flushed, user,
    )  # fmt: skip
    system.counters.add(fault)
    return fault


def _or_none(folio: int) -> int | None:
    return None if folio == NO_FOLIO else folio


def handle_pte_fault(vmf: VmFault) -> None:
    """The PTE level: nothing there is a first touch, else it is write-protected, or old (`handle_pte_fault`)."""
    vmf.mm.pte_alloc(vmf.vpn)
    if vmf.check("pte_none", not vmf.mm.pte[vmf.vpn]):
        do_anonymous_page(vmf)
    elif bits := age_bits(vmf):
        contpte.ptep_set_age(vmf.mm, vmf.vpn, bits)
        vmf.done(AGED)
    else:
        do_wp_page(vmf)


def needed_bits(policy: Policy, access: str) -> int:
    """What an entry must have so that the hardware lets this access pass."""
    if policy.hardware_age:
        return PTE_WRITE if access == WRITE else PTE_PRESENT
    return PTE_WRITE | PTE_DIRTY | PTE_YOUNG if access == WRITE else PTE_PRESENT | PTE_YOUNG


def age_bits(vmf: VmFault) -> int:
    """The bits to set where an entry allows the access and is only too old or too clean for it; 0 where it does not.

    Such faults are there for processors that set neither (`Policy.hardware_age`). What is old and read-only is copied
    or reused for a write, all the same.
    """
    if vmf.policy.hardware_age or (vmf.access != READ and not vmf.mm.pte[vmf.vpn] & PTE_WRITE):
        return 0
    return PTE_YOUNG | (PTE_DIRTY if vmf.access == WRITE else 0)


# --- first touch ----------------------------------------------------------------------------------------------------


def do_anonymous_page(vmf: VmFault) -> None:
    """Nothing is mapped: a read gets the zero page, a write a fresh folio (`do_anonymous_page`, 6.1-7.3).

    The fresh folio's pages are all mapped writable, dirty and exclusive, not only the one that was written.
    """
    if vmf.access != WRITE:
        vmf.check("FAULT_FLAG_WRITE", False, "a read maps the shared zero page, one entry")
        vmf.mm.set_ptes(vmf.vpn, ZERO_PFN, 1, ZERO_BITS)
        vmf.done(ZERO_READ)
        return
    vmf.check.decide()
    vmf.mm.anon_vma_prepare(vmf.vma)
    folio, start = alloc_anon_folio(vmf, _pte_range_none)
    _map_new_folio(vmf, folio, start)
    vmf.done(FIRST_TOUCH)


def alloc_anon_folio(
    vmf: VmFault, usable: Callable[[Entries], Mask], usable_name: str = "pte_range_none"
) -> tuple[int, int]:
    """A zeroed folio of the largest order that fits around the page, and its first page (`alloc_anon_folio`, 6.8+).

    An order fits when its naturally aligned block lies in the VMA and every entry of it is `usable`; when no
    block of that order is free, the next lower allowed order is tried, in the end one page. RFC v2 does the same
    with orders of its own (v1 10/10, `alloc_anon_folio`).
    """
    orders = thp_vma_allowable_orders(vmf)
    while orders and not thp_vma_suitable_order(vmf, orders[0]):
        del orders[0]
    while orders:
        start = vmf.vpn & -(1 << orders[0])
        good = usable(vmf.mm.pte[start : start + (1 << orders[0])])
        fits = bool(good.all())
        vmf.effect.scanned += len(good) if fits else int(good.argmin()) + 1
        if vmf.check(usable_name, fits, f"order {orders[0]}: pages {start}..{start + len(good) - 1}"):
            break
        del orders[0]
    while orders:
        order = vmf.policy.rules.chosen_order((*orders, 0), vmf.check)
        if not order:
            break
        folio = vmf.memory.folio_alloc(order)
        if vmf.check("vma_alloc_folio", folio is not None, f"order {order}") and folio is not None:
            vmf.effect.zeroed += 1 << order
            return folio, vmf.vpn & -(1 << order)
        vmf.system.counters.anon_fault_fallback[order] += 1
        orders = [lower for lower in orders if lower < order]
    return folio_prealloc(vmf, need_zero=True), vmf.vpn


def thp_vma_allowable_orders(vmf: VmFault) -> list[int]:
    """Orders below PMD size that a first touch may use here, largest first (`thp_vma_allowable_orders`, 6.8+)."""
    orders = [order for order in vmf.system.orders_of(vmf.mm, vmf.vma) if order != PMD_ORDER]
    if not orders:
        vmf.check("thp_vma_allowable_orders", False, "no size above one page is allowed here")
    return orders


def thp_vma_suitable_order(vmf: VmFault, order: int) -> bool:
    """Whether the aligned block of that order around the page stays inside the VMA (`thp_vma_suitable_order`)."""
    return suitable(vmf.vpn, order, vmf.vma.start, vmf.vma.end, vmf.check)


def folio_prealloc(vmf: VmFault, *, need_zero: bool) -> int:
    """One page of its own (`folio_prealloc`); OutOfMemory when none is free."""
    folio = vmf.memory.folio_alloc(0)
    if folio is None:
        raise OutOfMemory(f"no frame is free for page {vmf.vpn} of process {vmf.mm.id - 1}")
    if need_zero:
        vmf.effect.zeroed += 1
    return folio


def _pte_range_none(block: Entries) -> Mask:
    none: Mask = block == 0
    return none


def _pte_range_none_or_zero(block: Entries) -> Mask:
    none_or_zero: Mask = (block == 0) | (block & PTE_SPECIAL > 0)
    return none_or_zero


def _map_new_folio(vmf: VmFault, folio: int, start: int) -> None:
    """Map every page of a folio that nobody else has seen, and count it as this process's."""
    memory, order = vmf.memory, vmf.memory.order.item(folio)
    pages = 1 << order
    if order:
        memory.folio_get(folio, pages - 1)
    folio_add_new_anon_rmap(memory, folio, vmf.mm.id)
    contpte.set_ptes(vmf.mm, start, memory.head.item(folio), pages, vmf.writable_bits())
    vmf.mm.rss_pages += pages
    vmf.effect.maps(folio, order, range(start, start + pages))


# --- write on what is mapped read-only ------------------------------------------------------------------------------


def do_wp_page(vmf: VmFault) -> None:
    """A write, or an unshare, meets a read-only entry: reuse the page or copy it (`do_wp_page`, 6.1-7.3)."""
    reusable = wp_reusable(vmf)
    if reusable:
        first = vmf.mm.pfn.item(reusable.start)
        vmf.memory.anon_exclusive[first : first + len(reusable)] = vmf.memory.marks_exclusive
        wp_page_reuse(vmf, reusable)
        return
    for _ in wp_page_copy(Copying(vmf)):
        pass
    vmf.done(ZERO_COPY if vmf.effect.old_folio == NO_FOLIO else COW_COPY)


def wp_reusable(vmf: VmFault) -> range:
    """The pages that are this process's alone, the faulting one among them; none says copy (asked in `do_wp_page`)."""
    if vmf.mm.pte.item(vmf.vpn) & PTE_SPECIAL:
        vmf.check("vm_normal_page", False, "the zero page belongs to no folio")
        vmf.check.decide()
        return range(0)
    memory, pfn = vmf.memory, vmf.mm.pfn.item(vmf.vpn)
    vmf.effect.old_folio = folio = int(memory.folio_of[pfn])
    where = f"page {pfn - memory.head.item(folio)} of a folio of order {memory.order.item(folio)}"
    vmf.check("vm_normal_page", True, where)
    if vmf.policy.marks_exclusive and vmf.check(
        "PageAnonExclusive", memory.anon_exclusive.item(pfn), yes="the page is exclusive to it"
    ):
        vmf.check.decide()
        return reuse_range(vmf)
    sole = wp_can_reuse_anon_folio(vmf)
    vmf.check.decide()
    return sole


def wp_page_reuse(vmf: VmFault, pages: range) -> None:
    """Make the entries writable where they are (`wp_page_reuse`): no copy, one flush each.

    Released kernels do one page; RFC v2 the range it found. An unshare stops before: the entry stays read-only.
    """
    vmf.effect.folio = vmf.effect.old_folio
    if vmf.unshare:
        vmf.done(UNSHARE_REUSE)
        return
    contpte.ptep_set_access_flags(vmf.mm, pages, vmf.writable_bits())
    vmf.effect.pages = pages
    vmf.effect.flushed += len(pages)
    vmf.done(REUSE)


class Copying:
    """What `wp_page_copy` holds from one step to the next.

    Attributes
    ----------
    folio, head : int
        The new folio and its first frame.
    start, stop : int
        The pages that it will be mapped at.
    source : int
        The frame that the first of them maps when the fault looks.
    seen : tuple of int
        Their entries at that moment, all bits before all frames.
    gave_up : bool
        Whether somebody else changed an entry meanwhile: then the fault leaves everything as it is.
    """

    __slots__ = ("folio", "gave_up", "head", "seen", "source", "start", "stop", "vmf")

    def __init__(self, vmf: VmFault) -> None:
        self.vmf = vmf
        self.folio = self.head = self.source = NO_FOLIO
        self.start = self.stop = vmf.vpn
        self.seen: tuple[int, ...] = ()
        self.gave_up = False


def _allocate(copying: Copying) -> None:
    """Choose the pages and take a folio for them; hold the old one while the lock is not held (`folio_get`)."""
    vmf = copying.vmf
    vmf.mm.anon_vma_prepare(vmf.vma)
    zero = vmf.effect.old_folio == NO_FOLIO
    folio, start = alloc_zero_copy_folio(vmf) if zero else alloc_copy_folio(vmf)
    copying.folio, copying.start, copying.stop = folio, start, start + vmf.memory.nr_pages(folio)
    copying.head, copying.source = vmf.memory.head.item(folio), vmf.mm.pfn.item(start)
    copying.seen = _entries(copying)
    if not zero:
        vmf.memory.folio_get(vmf.effect.old_folio)


def _copy(copying: Copying) -> None:
    """Copy the bytes, page by page as they lie (`__wp_page_copy_user`); in place of the zero page, zeros do."""
    vmf, pages = copying.vmf, copying.stop - copying.start
    if vmf.effect.old_folio == NO_FOLIO:
        return
    content, head, source = vmf.memory.content, copying.head, copying.source
    if pages == 1:
        content[head] = content.item(source)
    else:
        content[head : head + pages] = content[source : source + pages]
    vmf.effect.copied += pages


def _recheck(copying: Copying) -> None:
    """Under the page-table lock: are the entries what the fault saw (`pte_same`)? If not, all was for nothing."""
    if _entries(copying) == copying.seen:
        return
    copying.gave_up = True
    copying.vmf.memory.folio_put(copying.folio)
    if copying.vmf.effect.old_folio != NO_FOLIO:
        copying.vmf.memory.folio_put(copying.vmf.effect.old_folio)


def _clear(copying: Copying) -> None:
    """No access that walks the page table from now on finds the old pages (first half of `ptep_clear_flush`)."""
    contpte.clear_ptes(copying.vmf.mm, copying.start, copying.stop)


def _flush(copying: Copying) -> None:
    """What was mapped is dropped from the TLBs, entry by entry (the other half of `ptep_clear_flush`)."""
    pages = copying.stop - copying.start
    copying.vmf.effect.flushed += pages - copying.seen[:pages].count(0)


def _set(copying: Copying) -> None:
    """Count the new folio as mapped and exclusive, and install it (`folio_add_new_anon_rmap`, `set_pte_at`)."""
    _map_new_folio(copying.vmf, copying.folio, copying.start)


def _drop(copying: Copying) -> None:
    """Let go of the old folio, of its mapping first (`folio_remove_rmap_pte`, `folio_put`)."""
    vmf, pages = copying.vmf, copying.stop - copying.start
    if vmf.effect.old_folio == NO_FOLIO:
        return
    vmf.mm.rss_pages -= pages
    folio_remove_rmap_ptes(vmf.memory, vmf.effect.old_folio, copying.source, pages, vmf.mm.id)
    vmf.memory.folio_put(vmf.effect.old_folio, pages + 1)


COPY_STEPS: dict[str, Callable[[Copying], None]] = {
    "allocate": _allocate,
    "copy": _copy,
    "recheck": _recheck,
    "clear": _clear,
    "flush": _flush,
    "set": _set,
    "drop": _drop,
}
"""The steps of a copy by name."""
COPY_ORDER = tuple(COPY_STEPS)
"""The kernel's order of them (`wp_page_copy` in 6.1, 6.12, 6.17 and 7.3)."""


def wp_page_copy(copying: Copying, order: Iterable[str] = COPY_ORDER) -> Iterator[str]:
    """Give the process pages of its own in place of the zero page or of maybe-shared ones (`wp_page_copy`, 6.1-7.3).

    It stops after each step of `COPY_STEPS` and names it: a fault runs it to its end, a race lets others in between,
    and may ask for another order, which no kernel has.
    """
    for step in order:
        COPY_STEPS[step](copying)
        yield step
        if copying.gave_up:
            return


def _entries(copying: Copying) -> tuple[int, ...]:
    """The entries, bits before frames, as `pte_same` compares them."""
    mm, start, stop = copying.vmf.mm, copying.start, copying.stop
    if stop - start == 1:
        return mm.pte.item(start), mm.pfn.item(start)
    return (*mm.pte[start:stop].tolist(), *mm.pfn[start:stop].tolist())


def alloc_zero_copy_folio(vmf: VmFault) -> tuple[int, int]:
    """A folio for a zero page and the first page that it replaces.

    Released kernels replace one page; RFC v2 what a first touch would get (patch 15).
    """
    if vmf.policy.zero_page_write == "page" or vmf.unshare:
        return folio_prealloc(vmf, need_zero=True), vmf.vpn
    if vmf.policy.zero_neighbours == "none_or_zero":
        return alloc_anon_folio(vmf, _pte_range_none_or_zero, "every entry none or zero page")
    return alloc_anon_folio(vmf, _pte_range_none_but(vmf.vpn), "every other entry none")


def _pte_range_none_but(vpn: int) -> Callable[[Entries], Mask]:
    def usable(block: Entries) -> Mask:
        good: Mask = block == 0
        good[vpn % len(block)] = True
        return good

    return usable


# --- may this page be reused? ---------------------------------------------------------------------------------------


def wp_can_reuse_anon_folio(vmf: VmFault) -> range:
    """The pages that may be reused although nothing marks them exclusive; none says copy (`wp_can_reuse_anon_folio`).

    A small folio with one reference is this process's alone, in every kernel. For large ones the policy decides.
    """
    memory, folio = vmf.memory, vmf.effect.old_folio
    found: list[range] = []

    def run() -> int:
        found.append(reuse_range(vmf))
        return len(found[0])

    facts = Folio(
        memory.order.item(folio), memory.refcount.item(folio), memory.large_mapcount.item(folio),
        memory.maybe_mapped_shared.item(folio), run, lambda: _seen_slots(memory, folio),
        lambda: vmf.mm.mappings_of(np.array([folio])).item(0),
        lambda: memory.mapcounts_of(vmf.mm.pfn[vmf.vpn : vmf.vpn + 1]).item(0), memory.maybe_dma_pinned(folio),
    )  # fmt: skip
    rule = vmf.policy.rules.large_reuse if facts.order else refcount_one
    if not rule(facts, vmf.check):
        return range(0)
    return found[0] if found else reuse_range(vmf)


def _seen_slots(memory: Memory, folio: int) -> str:
    slots = zip(memory.mm_id[folio], memory.mm_id_mapcount[folio], strict=True)
    return "tracked: " + (", ".join(f"process {mm - 1} {count}" for mm, count in slots if mm) or "nobody")


# --- ranges ---------------------------------------------------------------------------------------------------------


def reuse_range(vmf: VmFault) -> range:
    """The pages that one reuse acts on: the page itself, or what `Policy.reuse_extent` finds around it."""
    rule = vmf.policy.rules.reuse_extent
    if rule is one_page:
        return range(vmf.vpn, vmf.vpn + 1)
    return _reach(vmf, rule, _around(vmf))


def alloc_copy_folio(vmf: VmFault) -> tuple[int, int]:
    """A folio for a copy, and the first page that the copy replaces (`folio_prealloc`; RFC v2: of a larger order).

    How far it reaches is `Policy.copy_extent`'s choice. Where no folio of that order is free, or the mapping's sizes
    and advice forbid it and the policy respects them, it is asked again for a smaller one.
    """
    rule = vmf.policy.rules.unshare_extent if vmf.unshare else vmf.policy.rules.copy_extent
    if rule is one_page:
        return folio_prealloc(vmf, need_zero=False), vmf.vpn
    orders = vmf.system.orders_of(vmf.mm, vmf.vma) if vmf.policy.copy_respects_knobs else ANY_ORDER
    while orders:
        pages = _reach(vmf, rule, _around(vmf, orders))
        order = len(pages).bit_length() - 1
        if not order:
            break
        if order in orders:
            folio = vmf.memory.folio_alloc(order)
            if vmf.check("vma_alloc_folio", folio is not None, f"order {order}") and folio is not None:
                return folio, pages.start
        orders = tuple(lower for lower in orders if lower < order)
    return folio_prealloc(vmf, need_zero=False), vmf.vpn


def _around(vmf: VmFault, orders: tuple[int, ...] = ()) -> Around:
    table, folio = slice(*vmf.mm.block_of(vmf.vpn)), vmf.effect.old_folio
    frames = vmf.memory.frames_of(folio)
    return Around(
        vmf.vpn, range(vmf.vma.start, vmf.vma.end), (vmf.mm.pte[table], vmf.mm.pfn[table]),
        range(frames.start, frames.stop), vmf.memory.anon_exclusive, orders,
        mapcounts=lambda: vmf.memory.mapcounts_of(np.arange(frames.start, frames.stop)),
        pinned=vmf.memory.maybe_dma_pinned(folio),
    )  # fmt: skip


def _reach(vmf: VmFault, rule: Extent, around: Around) -> range:
    """What a rule finds around the page, as page numbers."""
    found = rule(around, vmf.check)
    vmf.effect.scanned += around.looked
    return range(around.first + found.start, around.first + found.stop)


# --- PMD level (mm/huge_memory.c) -----------------------------------------------------------------------------------


def create_huge_pmd(vmf: VmFault) -> bool:
    """`do_huge_pmd_anonymous_page`: map 2 MiB at once if nothing hangs here and all of it lies in the VMA.

    A read maps the huge zero page, and prepares the anon_vma all the same. Returns False to fall back to PTEs.
    """
    if vmf.mm.pmd.item(vmf.vpn >> 9) != PMD_NONE:
        return False
    orders = vmf.system.orders_of(vmf.mm, vmf.vma)
    if PMD_ORDER not in orders:
        return False
    if not vmf.check("pmd_none", True) or not thp_vma_suitable_order(vmf, PMD_ORDER):
        return False
    if vmf.access == WRITE and vmf.policy.rules.chosen_order((*orders, 0), vmf.check) != PMD_ORDER:
        return False
    start, _ = vmf.mm.block_of(vmf.vpn)
    vmf.mm.anon_vma_prepare(vmf.vma)
    if vmf.access != WRITE and vmf.system.use_zero_page:
        vmf.mm.set_ptes(start, ZERO_PFN, PTRS_PER_PMD, ZERO_BITS)
        vmf.mm.own_pfns()[start : start + PTRS_PER_PMD] = ZERO_PFN
        vmf.mm.pmd[vmf.vpn >> 9] = PMD_HUGE
        vmf.effect.maps(NO_FOLIO, PMD_ORDER, range(start, start + PTRS_PER_PMD))
        vmf.done(ZERO_READ)
        return True
    return _map_huge_folio(vmf, start, FIRST_TOUCH)


def huge_pmd_set_accessed(vmf: VmFault) -> bool:
    """A PMD that allows the access is marked accessed, and dirty for a write (`huge_pmd_set_accessed`)."""
    bits = age_bits(vmf) if vmf.mm.is_huge(vmf.vpn) else 0
    if not bits:
        return False
    start, end = vmf.mm.block_of(vmf.vpn)
    vmf.mm.pte[start:end] |= bits
    vmf.effect.maps(int(vmf.memory.folio_of[vmf.mm.pfn[vmf.vpn]]), PMD_ORDER, range(start, end))
    vmf.done(AGED)
    return True


def wp_huge_pmd(vmf: VmFault) -> bool:
    """`do_huge_pmd_wp_page`: reuse the whole PMD, or split it and fall back to PTEs (returns False)."""
    if vmf.access == READ or not vmf.mm.is_huge(vmf.vpn):
        return False
    start, end = vmf.mm.block_of(vmf.vpn)
    if not vmf.check("is_huge_zero_pmd", bool(vmf.mm.pte[start] & PTE_SPECIAL)):
        return _wp_huge_folio(vmf, start, end)
    if vmf.policy.huge_zero_write == "huge" and do_huge_zero_wp_pmd(vmf, start):
        return True
    vmf.mm.split_huge_pmd(vmf.vpn)
    return False


def do_huge_zero_wp_pmd(vmf: VmFault, start: int) -> bool:
    """A PMD-sized folio replaces the huge zero page, for a write and for an unshare alike (1ced09e0331f, 6.13)."""
    vmf.mm.anon_vma_prepare(vmf.vma)
    if not _map_huge_folio(vmf, start, ZERO_COPY):
        return False
    vmf.effect.flushed += PTRS_PER_PMD
    return True


def _map_huge_folio(vmf: VmFault, start: int, path: str) -> bool:
    folio = vmf.memory.folio_alloc(PMD_ORDER)
    if not vmf.check("vma_alloc_folio", folio is not None, f"order {PMD_ORDER}") or folio is None:
        vmf.system.counters.anon_fault_fallback[PMD_ORDER] += 1
        return False
    folio_add_new_anon_rmap(vmf.memory, folio, vmf.mm.id, pmd=True)
    bits = PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | (PTE_WRITE if vmf.vma.flags & VM_WRITE else 0)
    vmf.mm.set_ptes(start, int(vmf.memory.head[folio]), PTRS_PER_PMD, bits)
    vmf.mm.pmd[vmf.vpn >> 9] = PMD_HUGE
    vmf.mm.rss_pages += PTRS_PER_PMD
    vmf.effect.zeroed += PTRS_PER_PMD
    vmf.effect.maps(folio, PMD_ORDER, range(start, start + PTRS_PER_PMD))
    vmf.done(path)
    return True


def _wp_huge_folio(vmf: VmFault, start: int, end: int) -> bool:
    head = int(vmf.mm.pfn[start])
    folio = vmf.effect.old_folio = int(vmf.memory.folio_of[head])
    marked = bool(vmf.memory.anon_exclusive[head])
    saw = "the head's stands for all 512"
    if not (
        vmf.policy.marks_exclusive and vmf.check("PageAnonExclusive", marked, saw, yes="the page is exclusive to it")
    ):
        refcount, mappings = vmf.memory.refcount.item(folio), vmf.memory.large_mapcount.item(folio)
        pinned = vmf.memory.maybe_dma_pinned(folio)
        facts = Folio(PMD_ORDER, refcount, mappings, False, int, str, int, lambda: mappings, pinned)
        if not HUGE_REUSES[vmf.policy.huge_reuse](facts, vmf.check):
            vmf.mm.split_huge_pmd(vmf.vpn)
            return False
        vmf.memory.anon_exclusive[head] = vmf.memory.marks_exclusive
    if vmf.unshare:
        vmf.effect.maps(folio, PMD_ORDER, vmf.effect.pages)
        vmf.done(UNSHARE_REUSE)
        return True
    vmf.mm.pte[start:end] |= vmf.writable_bits()
    vmf.effect.maps(folio, PMD_ORDER, range(start, end))
    vmf.effect.flushed += PTRS_PER_PMD
    vmf.done(REUSE)
    return True
