"""Carry out the plan of a stretch: path by path, in slices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..kernel.contpte import unfold_blocks
from ..kernel.faults import ZERO_BITS
from ..kernel.index import Index, Numbers, as_run, as_slice, blocks_of, count_up, is_forward, places_of, rows_at
from ..kernel.mm import Mm
from ..kernel.pagetable import PMD_NONE, PMD_TABLE, PTE_CONT, PTE_DIRTY, PTE_PRESENT, PTE_WRITE, PTE_YOUNG
from ..kernel.policy import Policy
from ..kernel.rmap import folios_add_new_anon_rmap, folios_remove_rmap_ptes, mapped_folios
from ..kernel.sizes import PTRS_PER_PMD, ZERO_PFN
from .plan import Plan
from .window import COW_COPY, PATHS, REUSE, ZERO_COPY, ZERO_READ, Bytes, Codes, Pages, Window

_WRITTEN = PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | PTE_WRITE


class Allocated(NamedTuple):
    """How far a plan can be carried out, and the folios for its faults.

    Attributes
    ----------
    end : int
        Accesses that are done; fewer than the stretch has when the plan was cut.
    heads, folios : ndarray of shape (n,), int32
        First frame and number of the folio of each of the first n faults that need one.
    stopped : Exception, optional
        What the access at `end` raised when it was stepped.
    """

    end: int
    heads: Numbers
    folios: Numbers
    stopped: Exception | None = None


def install(window: Window, plan: Plan, done: Allocated) -> None:
    """Carry out the plan up to where it was cut.

    Zero pages come first, for a later write may have replaced them; then what copies leave behind, since a folio that
    they free may be handed out again.
    """
    if len(plan.times):
        _install_faults(window, plan, done)
    _mark_hits(window, plan, done.end)
    if window.writes:
        _write_contents(window, plan, done.end)


def _install_faults(window: Window, plan: Plan, done: Allocated) -> None:
    cut = done.end < window.never
    count = int(plan.times.searchsorted(done.end)) if cut else len(plan.times)
    times, codes = plan.times[:count], plan.codes[:count]
    kinds = _by_code(codes)
    if ZERO_READ in kinds:
        _install_zero_reads(window, times[kinds[ZERO_READ]])
    if window.policy.cont_pte_order:
        _unfold_blocks(window, times, codes)
    if len(done.heads):
        _install_folios(window, plan, done)
    for code, chosen in kinds.items():
        if code >= REUSE:
            together = code == REUSE and len(plan.reusing) == len(times[chosen]) and not cut
            _install_reuses(window, times[chosen], code & 15, plan.reusing if together else None)
    if min(kinds, default=ZERO_COPY) < ZERO_COPY:
        _make_page_tables(window)
    counters = window.system.counters
    for code, chosen in kinds.items():
        counters.add_many(PATHS[code >> 4], code & 15, len(times[chosen]))
    if plan.scanned is not None:
        counters.scanned += int(plan.scanned[:count].sum())


def _by_code(codes: Codes) -> dict[int, Index]:
    """Where each code is."""
    if not len(codes):
        return {}
    if codes.min() == codes.max():
        return {int(codes[0]): slice(None)}
    return {code: places_of(codes == code) for code in places_of(np.bincount(codes)).tolist()}


def _unfold_blocks(window: Window, times: Pages, codes: Codes) -> None:
    """Copies and reuses of less than a folded block unfold it, and nothing in a stream folds it again.

    What was read in the block before then is accessed in all of it: unfolding leaves the OR in each entry.
    """
    cont = window.policy.cont_pte_order
    times = times[(codes >= COW_COPY) & (codes & 15 < cont)]
    blocks, first = np.unique(window.vpns_at(times) >> cont, return_index=True)
    if window.reads and len(blocks):
        vpns = window.vpn_of(np.arange(window.places))
        of = np.searchsorted(blocks, vpns >> cont).clip(max=len(blocks) - 1)
        before = (blocks[of] == vpns >> cont) & (window.first_read < times[first[of]])
        window.mm.pte[vpns[before]] |= PTE_YOUNG
    unfold_blocks(window.mm, blocks)


def _block_index(window: Window, vpns: Pages, order: int) -> Index:
    """The blocks of that order that begin at these pages, as an index."""
    return as_slice(vpns >> order if order else vpns, rising=window.in_step)


def _install_zero_reads(window: Window, times: Pages) -> None:
    index = _block_index(window, window.vpns_at(times), 0)
    window.mm.own_pfns()[index] = ZERO_PFN
    window.mm.pte[index] = ZERO_BITS


def _install_folios(window: Window, plan: Plan, done: Allocated) -> None:
    count = len(done.heads)
    times = plan.times[plan.allocates][:count]
    kinds = _by_code(plan.codes[plan.allocates][:count])
    contents = {
        code: _take_copies(window, times[chosen], code & 15, plan.copying)
        for code, chosen in kinds.items()
        if code >= COW_COPY
    }
    for code, chosen in kinds.items():
        order = code & 15
        block = _block_index(window, window.vpns_at(times[chosen], order), order)
        # A folio of one page is there for a write, which overwrites what it contains.
        content = contents.get(code, 0) if order else None
        install_blocks(window.mm, block, done.heads[chosen], done.folios[chosen], order, content)


def _take_copies(window: Window, times: Pages, order: int, copying: Pages) -> Bytes | None:
    """What is copied, in the order of the faults; None for single pages, which the access overwrites.

    The sources are counted down and, if nobody is left, cleared.
    """
    memory, size = window.memory, 1 << order
    pfn = blocks_of(window.mm.pfn, order)
    block = window.vpns_at(times, order) >> order
    content = None
    if order:
        heads = rows_at(pfn, as_slice(block, rising=window.in_step))[:, 0]
        # A copy, not a view: what these frames hold is lost if they are freed and handed out again.
        content = rows_at(blocks_of(memory.content, order), as_slice(heads >> order)).copy()
    # Counting goes by pages: there, what belongs together lies together.
    if order == 0 and len(copying) == len(block):
        block = window.vpn_of(copying)
    elif not window.in_step:
        block = np.sort(block)
    pages = block if order == 0 else ((block << order)[:, None] + np.arange(size)).reshape(-1)
    mapped = mapped_folios(memory, rows_at(pfn, as_slice(block, rising=True)).reshape(-1), pages)
    gone = folios_remove_rmap_ptes(memory, mapped, window.mm.id, singly=order == 0)
    if len(gone):
        memory.clear_folios(gone)
    window.mm.rss_pages -= len(times) << order
    return content


def install_blocks(
    mm: Mm, block: Index, heads: Numbers, folios: Numbers, order: int, content: int | Bytes | None
) -> None:
    """Set up folios that got numbers and frames, and map them whole at blocks of pages. No content: leave what is."""
    memory = mm.memory
    at, frames = as_slice(folios), as_slice(heads >> order if order else heads)
    memory.folios_alloc(folios, at, heads, frames, order)
    if content is not None:
        blocks_of(memory.content, order)[frames] = content
    folios_add_new_anon_rmap(memory, at, frames, order, mm.id)
    entries = blocks_of(mm.own_pfns(), order)
    if not order:
        entries[block] = heads
    elif is_forward(block) and is_forward(frames):
        count_up(mm.pfn[block.start << order : block.stop << order], frames.start << order)
    else:
        entries[block] = heads[:, None] + np.arange(1 << order, dtype=np.int32)
    blocks_of(mm.pte, order)[block] = _written(mm.policy, order)
    mm.rss_pages += len(heads) << order


def _written(policy: Policy, order: int) -> int:
    """The bits of entries that one fault sets for a whole folio of that order."""
    cont = policy.cont_pte_order
    return _WRITTEN | (PTE_CONT if cont and order >= cont else 0)


def _install_reuses(window: Window, times: Pages, order: int, places: Pages | None) -> None:
    """`wp_page_reuse`: the pages stay, exclusive now if they were not. `places`: the same ones, ascending."""
    if places is None:
        block = _block_index(window, window.vpns_at(times, order), order)
    else:
        # Which comes first does not matter: in the order of pages, what belongs together lies together.
        block = as_slice(window.vpn_of(places), rising=True)
    sources = rows_at(blocks_of(window.mm.pfn, order), block)
    heads = sources[:, 0] >> order if order else sources
    blocks_of(window.memory.anon_exclusive, order)[as_run(heads)] = window.memory.marks_exclusive
    blocks_of(window.mm.pte, order)[block] = _written(window.policy, order)


def _mark_hits(window: Window, plan: Plan, end: int) -> None:
    """What the hardware sets in the entries that accesses find: a fault's own are accessed already."""
    pte = window.mm.pte
    if window.reads:
        pte[window.pages] |= (window.first_read < end).view(np.uint8) * np.uint8(PTE_YOUNG)
    if window.writes:
        found = window.vpn_of(places_of(plan.writable & (window.first_write < end)))
        pte[as_slice(found, rising=True)] |= PTE_DIRTY | PTE_YOUNG
    for time, start, bits in plan.huge_hits:
        if time < end:
            pte[start : start + PTRS_PER_PMD] |= bits


def _write_contents(window: Window, plan: Plan, end: int) -> None:
    """The bytes that the stream wrote."""
    content, pfn = window.memory.content, window.mm.pfn
    vpns, write, value = window.stream.vpns, window.stream.write, window.stream.value
    if isinstance(value, int) and write is True and plan.stepping is None:
        # Which comes first does not matter.
        written: Index = slice(vpns[0], vpns[0] + end)
        if not window.in_step:
            written = as_slice(window.vpn_of(places_of(window.first_write < end)), rising=True)
        content[as_run(rows_at(pfn, written))] = value
        return
    chosen: Index = slice(0, end)
    if plan.stepping is not None or isinstance(write, np.ndarray):
        wanted = write[:end] if isinstance(write, np.ndarray) else np.full(end, write)
        if plan.stepping is not None:
            wanted = wanted & (plan.stepping[window.at[:end]] == 0)
        chosen = places_of(wanted)
    # Of several bytes for one page the last one stays.
    pages = vpns[chosen] if isinstance(vpns, np.ndarray) else window.vpn_of(window.at[chosen])
    content[as_slice(pfn[as_slice(pages)])] = value if isinstance(value, int) else value[:end][chosen]


def _make_page_tables(window: Window) -> None:
    if isinstance(window.pages, slice):
        make_page_tables(window.mm, window.pages.start, window.pages.stop)
        return
    mapped = window.pages[window.mm.pte[window.pages] > 0] >> 9
    window.mm.pmd[mapped[window.mm.pmd[mapped] == PMD_NONE]] = PMD_TABLE


def make_page_tables(mm: Mm, first: int, end: int) -> None:
    """A page table hangs wherever something is mapped now (`pte_alloc`)."""
    pmds = slice(first >> 9, ((end - 1) >> 9) + 1)
    states = mm.pmd[pmds]
    new = states == PMD_NONE
    if bool(new.any()):
        new &= blocks_of(mm.pte, 9)[pmds].view(np.uint64).any(axis=1)
        states[new] = PMD_TABLE
