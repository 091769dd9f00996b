"""The page fault on anonymous memory, function by function as in mm/memory.c and mm/huge_memory.c.

Start at `handle_mm_fault`. The four paths are `do_anonymous_page` (first touch), `wp_page_copy` (of the zero page,
and of a maybe-shared page) and `wp_page_reuse` (of an exclusive page); `do_wp_page` decides among the last three.
Where kernels differ, the function asks the `Policy`. Every decision goes through ``vmf.check(…)``, which leaves the
trail that pictures show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from . import contpte
from .buddy import OutOfMemory
from .mm import Mm
from .pagetable import PMD_HUGE, PMD_NONE, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from .record import (
    COW_COPY,
    FIRST_TOUCH,
    PF_PROT,
    PF_USER,
    PF_WRITE,
    REUSE,
    UNSHARE_REUSE,
    ZERO_COPY,
    ZERO_READ,
    Fault,
    Trail,
)
from .rmap import folio_add_new_anon_rmap, folio_remove_rmap_ptes
from .sizes import NO_FOLIO, PMD_ORDER, PTRS_PER_PMD, ZERO_PFN
from .system import System
from .vma import VM_HUGEPAGE, VM_NOHUGEPAGE, VM_WRITE, Vma

Entries = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
READ, WRITE, UNSHARE = "read", "write", "unshare"
MOST_FAULTS = 4
"""No access needs more faults than that, whatever the policy: more would go on for ever."""
ZERO_BITS = PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL


class VmFault:
    """One fault being handled (struct vm_fault): where, why, and what became of it."""

    __slots__ = (
        "access", "check", "copied", "error_code", "flushed", "folio", "memory", "mm", "old_folio", "order",
        "pages", "path", "policy", "scanned", "system", "vma", "vpn", "zeroed",
    )  # fmt: skip

    def __init__(self, system: System, mm: Mm, vma: Vma, vpn: int, access: str) -> None:
        self.system, self.memory, self.policy = system, system.memory, system.policy
        self.mm, self.vma, self.vpn, self.access = mm, vma, vpn, access
        self.check = Trail()
        present = bool(mm.pte[vpn])
        self.error_code = (PF_PROT if present else 0) | (0 if access == READ else PF_WRITE) | PF_USER
        self.path = ""
        self.order = 0
        self.pages = range(vpn, vpn + 1)
        self.folio = self.old_folio = NO_FOLIO
        self.zeroed = self.copied = self.scanned = self.flushed = 0

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
        self.path = path
        self.check.decide()


def handle_mm_fault(system: System, mm: Mm, vma: Vma, vpn: int, access: str, *, user: bool = True) -> Fault:
    """Handle one fault on page `vpn`, which lies in `vma` and whose access the VMA allows; returns its record.

    The PMD level is asked first, as in `__handle_mm_fault` (6.1-7.2).
    """
    vmf = VmFault(system, mm, vma, vpn, access)
    if not (create_huge_pmd(vmf) or wp_huge_pmd(vmf)):
        handle_pte_fault(vmf)
    fault = Fault(
        mm.id - 1, vpn, access, vmf.path, vmf.error_code, vmf.order, vmf.pages, tuple(vmf.check), _or_none(vmf.folio),
        _or_none(vmf.old_folio), vmf.zeroed, vmf.copied, vmf.scanned, vmf.flushed, user,
    )  # fmt: skip
    system.counters.add(fault)
    return fault


def _or_none(folio: int) -> int | None:
    return None if folio == NO_FOLIO else folio


def handle_pte_fault(vmf: VmFault) -> None:
    """The PTE level: nothing there is a first touch, anything else is write-protected (`handle_pte_fault`)."""
    vmf.mm.pte_alloc(vmf.vpn)
    if vmf.check("pte_none", not vmf.mm.pte[vmf.vpn]):
        do_anonymous_page(vmf)
    else:
        do_wp_page(vmf)


# --- first touch ----------------------------------------------------------------------------------------------------


def do_anonymous_page(vmf: VmFault) -> None:
    """Nothing is mapped: a read gets the zero page, a write a fresh folio (`do_anonymous_page`, 6.1-7.2).

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
        vmf.scanned += len(good) if fits else int(good.argmin()) + 1
        if vmf.check(usable_name, fits, f"order {orders[0]}: pages {start}..{start + len(good) - 1}"):
            break
        del orders[0]
    for order in orders:
        folio = vmf.memory.folio_alloc(order)
        if vmf.check("vma_alloc_folio", folio is not None, f"order {order}") and folio is not None:
            vmf.zeroed += 1 << order
            return folio, vmf.vpn & -(1 << order)
        vmf.system.counters.anon_fault_fallback[order] += 1
    return folio_prealloc(vmf, need_zero=True), vmf.vpn


def thp_vma_allowable_orders(vmf: VmFault) -> list[int]:
    """Orders below PMD size that a first touch may use here, largest first (`thp_vma_allowable_orders`, 6.8+)."""
    orders = set(vmf.policy.fixed_orders)
    if _knobs_apply(vmf):
        orders |= vmf.system.knob_orders
    orders.discard(PMD_ORDER)
    if not orders:
        vmf.check("thp_vma_allowable_orders", False, "no size above one page is allowed here")
    return sorted(orders, reverse=True)


def thp_vma_suitable_order(vmf: VmFault, order: int) -> bool:
    """Whether the aligned block of that order around the page stays inside the VMA (`thp_vma_suitable_order`)."""
    start = vmf.vpn & -(1 << order)
    end = start + (1 << order)
    return vmf.check(
        "thp_vma_suitable_order",
        vmf.vma.start <= start and end <= vmf.vma.end,
        f"order {order}: pages {start}..{end - 1} in mapping {vmf.vma.start}..{vmf.vma.end - 1}",
    )


def folio_prealloc(vmf: VmFault, *, need_zero: bool) -> int:
    """One page of its own (`folio_prealloc`); OutOfMemory when none is free."""
    folio = vmf.memory.folio_alloc(0)
    if folio is None:
        raise OutOfMemory(f"no frame is free for page {vmf.vpn} of process {vmf.mm.id - 1}")
    if need_zero:
        vmf.zeroed += 1
    return folio


def _knobs_apply(vmf: VmFault) -> bool:
    if vmf.vma.flags & VM_NOHUGEPAGE:
        return False
    return vmf.system.thp == "always" or bool(vmf.vma.flags & VM_HUGEPAGE)


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
    vmf.folio, vmf.order, vmf.pages = folio, order, range(start, start + pages)


# --- write on what is mapped read-only ------------------------------------------------------------------------------


def do_wp_page(vmf: VmFault) -> None:
    """A write, or an unshare, meets a read-only entry: reuse the page or copy it (`do_wp_page`, 6.1-7.2)."""
    reusable = wp_reusable(vmf)
    if reusable:
        first = vmf.mm.pfn.item(reusable.start)
        vmf.memory.anon_exclusive[first : first + len(reusable)] = True
        wp_page_reuse(vmf, reusable)
        return
    for _ in wp_page_copy(Copying(vmf)):
        pass
    vmf.done(ZERO_COPY if vmf.old_folio == NO_FOLIO else COW_COPY)


def wp_reusable(vmf: VmFault) -> range:
    """The pages that are this process's alone, the faulting one among them; none says copy (asked in `do_wp_page`)."""
    if vmf.mm.pte.item(vmf.vpn) & PTE_SPECIAL:
        vmf.check("vm_normal_page", False, "the zero page belongs to no folio")
        vmf.check.decide()
        return range(0)
    memory, pfn = vmf.memory, vmf.mm.pfn.item(vmf.vpn)
    vmf.old_folio = folio = int(memory.folio_of[pfn])
    where = f"page {pfn - memory.head.item(folio)} of a folio of order {memory.order.item(folio)}"
    vmf.check("vm_normal_page", True, where)
    if vmf.check("PageAnonExclusive", memory.anon_exclusive.item(pfn)):
        vmf.check.decide()
        return reuse_range(vmf, exclusive=True)
    sole = wp_can_reuse_anon_folio(vmf)
    vmf.check.decide()
    return sole


def wp_page_reuse(vmf: VmFault, pages: range) -> None:
    """Make the entries writable where they are (`wp_page_reuse`): no copy, one flush each.

    Released kernels do one page; RFC v2 the range it found. An unshare stops before: the entry stays read-only.
    """
    vmf.folio, vmf.pages = vmf.old_folio, pages
    if vmf.unshare:
        vmf.pages = range(vmf.vpn, vmf.vpn + 1)
        vmf.done(UNSHARE_REUSE)
        return
    contpte.ptep_set_access_flags(vmf.mm, pages, vmf.writable_bits())
    vmf.flushed += len(pages)
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
    zero = vmf.old_folio == NO_FOLIO
    folio, start = alloc_zero_copy_folio(vmf) if zero else alloc_copy_folio(vmf)
    copying.folio, copying.start, copying.stop = folio, start, start + vmf.memory.nr_pages(folio)
    copying.head, copying.source = vmf.memory.head.item(folio), vmf.mm.pfn.item(start)
    copying.seen = _entries(copying)
    if not zero:
        vmf.memory.folio_get(vmf.old_folio)


def _copy(copying: Copying) -> None:
    """Copy the bytes, page by page as they lie (`__wp_page_copy_user`); in place of the zero page, zeros do."""
    vmf, pages = copying.vmf, copying.stop - copying.start
    if vmf.old_folio == NO_FOLIO:
        return
    content, head, source = vmf.memory.content, copying.head, copying.source
    if pages == 1:
        content[head] = content.item(source)
    else:
        content[head : head + pages] = content[source : source + pages]
    vmf.copied += pages


def _recheck(copying: Copying) -> None:
    """Under the page-table lock: are the entries what the fault saw (`pte_same`)? If not, all was for nothing."""
    if _entries(copying) == copying.seen:
        return
    copying.gave_up = True
    copying.vmf.memory.folio_put(copying.folio)
    if copying.vmf.old_folio != NO_FOLIO:
        copying.vmf.memory.folio_put(copying.vmf.old_folio)


def _clear(copying: Copying) -> None:
    """No access that walks the page table from now on finds the old pages (first half of `ptep_clear_flush`)."""
    contpte.clear_ptes(copying.vmf.mm, copying.start, copying.stop)


def _flush(copying: Copying) -> None:
    """What was mapped is dropped from the TLBs, entry by entry (the other half of `ptep_clear_flush`)."""
    pages = copying.stop - copying.start
    copying.vmf.flushed += pages - copying.seen[:pages].count(0)


def _set(copying: Copying) -> None:
    """Count the new folio as mapped and exclusive, and install it (`folio_add_new_anon_rmap`, `set_pte_at`)."""
    _map_new_folio(copying.vmf, copying.folio, copying.start)


def _drop(copying: Copying) -> None:
    """Let go of the old folio, of its mapping first (`folio_remove_rmap_pte`, `folio_put`)."""
    vmf, pages = copying.vmf, copying.stop - copying.start
    if vmf.old_folio == NO_FOLIO:
        return
    vmf.mm.rss_pages -= pages
    folio_remove_rmap_ptes(vmf.memory, vmf.old_folio, copying.source, pages, vmf.mm.id)
    vmf.memory.folio_put(vmf.old_folio, pages + 1)


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
"""The kernel's order of them (`wp_page_copy` in 6.1, 6.12, 6.17 and 7.2)."""


def wp_page_copy(copying: Copying, order: Iterable[str] = COPY_ORDER) -> Iterator[str]:
    """Give the process pages of its own in place of the zero page or of maybe-shared ones (`wp_page_copy`, 6.1-7.2).

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
    if not vmf.memory.is_large(vmf.old_folio):
        return _reuse_if_refcount_one(vmf)
    return CAN_REUSE_LARGE[vmf.policy.large_reuse](vmf)


def _reuse_if_refcount_one(vmf: VmFault) -> range:
    """Small folios in every kernel, large ones up to 6.8 (in 6.1 inline in `do_wp_page`): one reference is left.

    For a large folio the one reference is that of its last mapped page; the rest of it stays allocated.
    """
    refcount = int(vmf.memory.refcount[vmf.old_folio])
    if vmf.check("folio_ref_count == 1", refcount == 1, f"refcount {refcount}"):
        return reuse_range(vmf, exclusive=False)
    return range(0)


def _reuse_never(vmf: VmFault) -> range:
    """6.9-6.14: a page of a large folio is never reused ("mm: prohibit the last subpage from reusing …", 6.9-rc1)."""
    vmf.check("!folio_test_large", False, f"order {vmf.memory.order[vmf.old_folio]}")
    return range(0)


def _reuse_if_one_mm(vmf: VmFault) -> range:
    """`__wp_can_reuse_large_anon_folio` (1da190f4d0a6, 6.15): all mappings and references are this mm's."""
    memory, folio = vmf.memory, vmf.old_folio
    mapcount, refcount = int(memory.large_mapcount[folio]), int(memory.refcount[folio])
    if not vmf.check("folio_large_mapcount > 1", mapcount > 1, f"{mapcount} mappings"):
        return range(0)
    if vmf.check("folio_test_large_maybe_mapped_shared", bool(memory.maybe_mapped_shared[folio]), _seen_slots(vmf)):
        return range(0)
    same = mapcount == refcount
    if vmf.check("folio_large_mapcount == folio_ref_count", same, f"mappings {mapcount}, references {refcount}"):
        return reuse_range(vmf, exclusive=False)
    return range(0)


def _reuse_if_scan_finds_all(vmf: VmFault) -> range:
    """RFC v2 patch 10: count this process's entries of the folio around the page; equal to its references, all is ours.

    A hole, a VMA boundary or a moved half ends the scan, so a sole owner can be missed, but never a sharer.
    """
    pages = reuse_range(vmf, exclusive=False)
    refcount = int(vmf.memory.refcount[vmf.old_folio])
    saw = f"{refcount} references, {len(pages)} pages"
    return pages if vmf.check("folio_ref_count == pages of the range", refcount == len(pages), saw) else range(0)


CAN_REUSE_LARGE: dict[str, Callable[[VmFault], range]] = {
    "refcount_one": _reuse_if_refcount_one,
    "never": _reuse_never,
    "mm_id": _reuse_if_one_mm,
    "scan": _reuse_if_scan_finds_all,
}
"""`Policy.large_reuse` -> the test that a PTE-mapped large folio must pass; it returns the pages that may be reused."""


def _seen_slots(vmf: VmFault) -> str:
    folio = vmf.old_folio
    slots = zip(vmf.memory.mm_id[folio], vmf.memory.mm_id_mapcount[folio], strict=True)
    return "tracked: " + (", ".join(f"process {mm - 1} {count}" for mm, count in slots if mm) or "nobody")


# --- ranges (RFC v2) ------------------------------------------------------------------------------------------------


def reuse_range(vmf: VmFault, *, exclusive: bool) -> range:
    """The pages that one reuse acts on: the page itself, or RFC v2's run around it (`calc_anon_folio_range_reuse`).

    The run ends where the VMA, the page table or the folio ends, or an entry does not map the next page of the
    folio; with `exclusive`, also at the first page that is not marked exclusive.
    """
    if vmf.policy.reuse_extent == "page":
        return range(vmf.vpn, vmf.vpn + 1)
    pfn = int(vmf.mm.pfn[vmf.vpn])
    frames = vmf.memory.frames_of(vmf.old_folio)
    block_start, block_end = vmf.mm.block_of(vmf.vpn)
    start = max(vmf.vma.start, block_start, vmf.vpn - (pfn - frames.start))
    end = min(vmf.vma.end, block_end, vmf.vpn + (frames.stop - pfn))
    good = _maps_folio_in_step(vmf, start, end)
    if exclusive:
        first = pfn - (vmf.vpn - start)
        good &= vmf.memory.anon_exclusive[first : first + len(good)]
    at = vmf.vpn - start
    bad = np.flatnonzero(~good)
    below, above = bad[bad < at], bad[bad > at]
    lo = int(below[-1]) + 1 if len(below) else 0
    hi = int(above[0]) if len(above) else len(good)
    vmf.scanned += hi - lo + (len(below) > 0) + (len(above) > 0)
    vmf.check("calc_anon_folio_range_reuse", True, f"pages {start + lo}..{start + hi - 1}")
    return range(start + lo, start + hi)


def alloc_copy_folio(vmf: VmFault) -> tuple[int, int]:
    """A folio for a copy, and the first page that the copy replaces (`folio_prealloc`; RFC v2: of a larger order).

    RFC v2 (`calc_anon_folio_order_copy`) starts at the source's order and goes down until the aligned block lies in
    the VMA and maps consecutive pages of the one folio. As posted it did not ask whether they are exclusive.
    """
    extent = vmf.policy.unshare_extent if vmf.unshare else vmf.policy.copy_extent
    if extent == "page":
        return folio_prealloc(vmf, need_zero=False), vmf.vpn
    for order in range(min(int(vmf.memory.order[vmf.old_folio]), vmf.policy.copy_max_order), 1, -1):
        if not thp_vma_suitable_order(vmf, order) or not _copy_may_cover(vmf, order):
            continue
        folio = vmf.memory.folio_alloc(order)
        if vmf.check("vma_alloc_folio", folio is not None, f"order {order}") and folio is not None:
            return folio, vmf.vpn & -(1 << order)
    return folio_prealloc(vmf, need_zero=False), vmf.vpn


def _copy_may_cover(vmf: VmFault, order: int) -> bool:
    start = vmf.vpn & -(1 << order)
    end = start + (1 << order)
    saw = f"order {order}: pages {start}..{end - 1}"
    good = _maps_folio_in_step(vmf, start, end)
    fits = bool(good.all())
    vmf.scanned += len(good) if fits else int(good.argmin()) + 1
    if not vmf.check("consecutive pages of one folio", fits, saw):
        return False
    if not vmf.policy.copy_requires_maybe_shared:
        return True
    first = int(vmf.mm.pfn[start])
    exclusive = bool(vmf.memory.anon_exclusive[first : first + (1 << order)].any())
    return vmf.check("no page PageAnonExclusive", not exclusive, saw)


def _maps_folio_in_step(vmf: VmFault, start: int, end: int) -> Mask:
    """Per page of [start, end): does it map the page of the folio that lies as far from the faulting one?"""
    pfn = int(vmf.mm.pfn[vmf.vpn])
    frames = vmf.memory.frames_of(vmf.old_folio)
    expected = np.arange(pfn - (vmf.vpn - start), pfn + (end - vmf.vpn))
    bits = vmf.mm.pte[start:end]
    good: Mask = (
        ((bits & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT)
        & (vmf.mm.pfn[start:end] == expected)
        & (expected >= frames.start)
        & (expected < frames.stop)
    )
    if vmf.policy.copy_requires_ro:
        good &= (bits & PTE_WRITE) == 0
    return good


# --- PMD level (mm/huge_memory.c) -----------------------------------------------------------------------------------


def create_huge_pmd(vmf: VmFault) -> bool:
    """`do_huge_pmd_anonymous_page`: map 2 MiB at once if nothing hangs here and all of it lies in the VMA.

    A read maps the huge zero page, and prepares the anon_vma all the same. Returns False to fall back to PTEs.
    """
    if PMD_ORDER not in vmf.system.knob_orders or vmf.mm.pmd[vmf.vpn >> 9] != PMD_NONE:
        return False
    if not _knobs_apply(vmf) or not vmf.check("pmd_none", True) or not thp_vma_suitable_order(vmf, PMD_ORDER):
        return False
    start, _ = vmf.mm.block_of(vmf.vpn)
    vmf.mm.anon_vma_prepare(vmf.vma)
    if vmf.access != WRITE and vmf.system.use_zero_page:
        vmf.mm.set_ptes(start, ZERO_PFN, PTRS_PER_PMD, ZERO_BITS)
        vmf.mm.own_pfns()[start : start + PTRS_PER_PMD] = ZERO_PFN
        vmf.mm.pmd[vmf.vpn >> 9] = PMD_HUGE
        vmf.order, vmf.pages = PMD_ORDER, range(start, start + PTRS_PER_PMD)
        vmf.done(ZERO_READ)
        return True
    return _map_huge_folio(vmf, start, FIRST_TOUCH)


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
    vmf.flushed += PTRS_PER_PMD
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
    vmf.zeroed += PTRS_PER_PMD
    vmf.folio, vmf.order, vmf.pages = folio, PMD_ORDER, range(start, start + PTRS_PER_PMD)
    vmf.done(path)
    return True


def _wp_huge_folio(vmf: VmFault, start: int, end: int) -> bool:
    head = int(vmf.mm.pfn[start])
    folio = vmf.old_folio = int(vmf.memory.folio_of[head])
    refcount = int(vmf.memory.refcount[folio])
    if not vmf.check("PageAnonExclusive", bool(vmf.memory.anon_exclusive[head]), "the head's stands for all 512"):
        if not vmf.check("folio_ref_count == 1", refcount == 1, f"refcount {refcount}"):
            vmf.mm.split_huge_pmd(vmf.vpn)
            return False
        vmf.memory.anon_exclusive[head] = True
    vmf.folio, vmf.order = folio, PMD_ORDER
    if vmf.unshare:
        vmf.done(UNSHARE_REUSE)
        return True
    vmf.mm.pte[start:end] |= vmf.writable_bits()
    vmf.pages = range(start, end)
    vmf.flushed += PTRS_PER_PMD
    vmf.done(REUSE)
    return True
