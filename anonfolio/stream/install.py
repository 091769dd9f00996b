"""Carry out the plan of a stretch: path by path, in slices."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..kernel.contpte import unfold_blocks
from ..kernel.faults import ZERO_BITS
from ..kernel.index import Index, Numbers, as_run, as_slice, blocks_of, count_up, is_forward, rows_at
from ..kernel.mm import Mm
from ..kernel.pagetable import PMD_NONE, PMD_TABLE, PTE_CONT, PTE_DIRTY, PTE_PRESENT, PTE_WRITE, PTE_YOUNG
from ..kernel.policy import Policy
from ..kernel.rmap import folios_add_new_anon_rmap, folios_remove_rmap_ptes, mapped_folios
from ..kernel.sizes import PTRS_PER_PMD, ZERO_PFN
from .window import COW_COPY, FIRST_TOUCH, PATHS, REUSE, ZERO_READ, Bytes, Codes, Pages, Process, Stretch

_WRITTEN = PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | PTE_WRITE


@dataclass(slots=True)
class Faults:
    """The planned faults in the order of the accesses, and the folios for those that need one, as far as handed out."""

    times: Pages
    codes: Codes
    alloc_times: Pages
    alloc_codes: Codes
    heads: list[Numbers] = field(default_factory=list)
    folios: list[Numbers] = field(default_factory=list)
    allocated: int = 0

    @classmethod
    def of(cls, plan: Codes) -> Faults:
        times = np.arange(len(plan)) if bool(plan.all()) else np.flatnonzero(plan)
        codes = plan[as_slice(times, rising=True)]
        allocates = (codes >= FIRST_TOUCH) & (codes < REUSE)
        if bool(allocates.all()):
            return cls(times, codes, times, codes)
        return cls(times, codes, times[allocates], codes[allocates])


def install(stretch: Stretch, faults: Faults) -> None:
    """Carry out the plan up to where it was cut.

    Zero pages come first, for a later write may have replaced them; then what copies leave behind, since a folio that
    they free may be handed out again.
    """
    count = len(faults.times) if stretch.end == stretch.accesses else int(np.searchsorted(faults.times, stretch.end))
    times, codes = faults.times[:count], faults.codes[:count]
    kinds = _by_code(codes)
    for code, chosen in kinds.items():
        if code == ZERO_READ:
            _install_zero_reads(stretch, times[chosen])
    _unfold_blocks(stretch, times, kinds)
    if faults.allocated:
        _install_folios(stretch, faults)
    for code, chosen in kinds.items():
        if code >= REUSE:
            _install_reuses(stretch, times[chosen], code & 15)
    _make_page_tables(stretch)
    _write_contents(stretch)
    for code, chosen in kinds.items():
        stretch.machine.counters.add_many(PATHS[code >> 4], code & 15, len(times[chosen]))
    if stretch.scanned is not None:
        stretch.machine.counters.scanned += int(stretch.scanned[as_slice(times, rising=True)].sum())


def _unfold_blocks(stretch: Stretch, times: Pages, kinds: dict[int, Index]) -> None:
    """Copies and reuses of less than a folded block unfold it, and nothing in a stream folds it again."""
    cont = stretch.policy.cont_pte_order
    for code, chosen in kinds.items():
        if code >= COW_COPY and code & 15 < cont:
            unfold_blocks(stretch.mm, np.unique(stretch.vpns_at(times[chosen]) >> cont))


def _written(policy: Policy, order: int) -> int:
    """The bits of entries that one fault sets for a whole folio of that order."""
    cont = policy.cont_pte_order
    return _WRITTEN | (PTE_CONT if cont and order >= cont else 0)


def _by_code(codes: Codes) -> dict[int, Index]:
    """Where each code is."""
    if not len(codes):
        return {}
    if codes.min() == codes.max():
        return {int(codes[0]): slice(None)}
    return {code: np.flatnonzero(codes == code) for code in np.flatnonzero(np.bincount(codes)).tolist()}


def _install_zero_reads(stretch: Stretch, times: Pages) -> None:
    vpns = stretch.vpns_at(times)
    index = as_slice(vpns, rising=stretch.in_step)
    stretch.mm.own_pfns()[index] = ZERO_PFN
    stretch.mm.pte[index] = ZERO_BITS


def _install_folios(stretch: Stretch, faults: Faults) -> None:
    count = faults.allocated
    times = faults.alloc_times[:count]
    heads, folios = _joined(faults.heads), _joined(faults.folios)
    kinds = _by_code(faults.alloc_codes[:count])
    contents = {
        code: _take_copies(stretch, times[chosen], code & 15) for code, chosen in kinds.items() if code >= COW_COPY
    }
    for code, chosen in kinds.items():
        content = contents.get(code, 0)
        _map_new_folios(stretch, times[chosen], heads[chosen], folios[chosen], code & 15, content)


def _joined(parts: list[Numbers]) -> Numbers:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _take_copies(stretch: Stretch, times: Pages, order: int) -> Bytes | None:
    """What is copied, in the order of the faults; None for single pages, which the access overwrites.

    The sources are counted down and, if nobody is left, cleared.
    """
    memory, size = stretch.memory, 1 << order
    pfn = blocks_of(stretch.mm.pfn, order)
    block = stretch.vpns_at(times, order) >> order
    content = None
    if order:
        heads = rows_at(pfn, as_slice(block, rising=stretch.in_step))[:, 0]
        # A copy, not a view: what these frames hold is lost if they are freed and handed out again.
        content = rows_at(blocks_of(memory.content, order), as_slice(heads >> order)).copy()
    # Counting goes by pages: there, what belongs together lies together.
    if order == 0 and len(stretch.copying) == len(block):
        block = stretch.vpn_of(stretch.copying)
    elif not stretch.in_step:
        block = np.sort(block)
    pages = block if order == 0 else ((block << order)[:, None] + np.arange(size)).reshape(-1)
    mapped = mapped_folios(memory, rows_at(pfn, as_slice(block, rising=True)).reshape(-1), pages)
    gone = folios_remove_rmap_ptes(memory, mapped, stretch.mm.id, singly=order == 0)
    if len(gone):
        memory.clear_folios(gone)
    stretch.mm.rss_pages -= len(times) << order
    return content


def _map_new_folios(
    stretch: Stretch, times: Pages, heads: Numbers, folios: Numbers, order: int, content: int | Bytes | None
) -> None:
    """`_map_new_folio` for folios of one order."""
    vpns = stretch.vpns_at(times, order)
    block = as_slice(vpns >> order if order else vpns, rising=stretch.in_step)
    # A folio of one page is there for a write, which overwrites what it contains.
    install_blocks(stretch.process, block, heads, folios, order, content if order else None)


def install_blocks(
    process: Process, block: Index, heads: Numbers, folios: Numbers, order: int, content: int | Bytes | None
) -> None:
    """Set up folios that got numbers and frames, and map them whole at blocks of pages. No content: leave what is."""
    memory, mm = process.machine.memory, process.mm
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


def _install_reuses(stretch: Stretch, times: Pages, order: int) -> None:
    """`wp_page_reuse`: the pages stay, exclusive now if they were not."""
    if order == 0 and len(stretch.reusing) == len(times) and stretch.end == stretch.accesses:
        # Which comes first does not matter: in the order of pages, what belongs together lies together.
        block = as_slice(stretch.vpn_of(stretch.reusing), rising=True)
    else:
        vpns = stretch.vpns_at(times, order)
        block = as_slice(vpns >> order if order else vpns, rising=stretch.in_step)
    sources = rows_at(blocks_of(stretch.mm.pfn, order), block)
    heads = sources[:, 0] >> order if order else sources
    blocks_of(stretch.memory.anon_exclusive, order)[as_run(heads)] = True
    blocks_of(stretch.mm.pte, order)[block] = _written(stretch.policy, order)


def _write_contents(stretch: Stretch) -> None:
    """The bytes that the stream wrote, and what the hardware sets in entries that were writable already."""
    if not stretch.writes:
        return
    mm, end = stretch.mm, stretch.end
    old = stretch.writable & (stretch.first_write < end)
    if bool(old.any()):
        mm.pte[stretch.vpn_of(np.flatnonzero(old))] |= PTE_DIRTY | PTE_YOUNG
    for start, time in stretch.huge_writes:
        if time < end:
            mm.pte[start : start + PTRS_PER_PMD] |= PTE_DIRTY | PTE_YOUNG
    if isinstance(stretch.value, int) and stretch.write is True and stretch.stepping is None:
        # Which comes first does not matter.
        written: Index = slice(stretch.vpns[0], stretch.vpns[0] + end)
        if not stretch.in_step:
            written = as_slice(stretch.vpn_of(np.flatnonzero(stretch.first_write < end)), rising=True)
        stretch.memory.content[as_run(rows_at(mm.pfn, written))] = stretch.value
        return
    value = stretch.value if isinstance(stretch.value, int) else stretch.value[:end]
    chosen: Index = slice(0, end)
    if stretch.stepping is not None or not isinstance(stretch.write, bool):
        wanted = np.broadcast_to(np.asarray(stretch.write), stretch.accesses)[:end].copy()
        if stretch.stepping is not None:
            wanted &= ~stretch.stepping[stretch.at[:end]]
        chosen = np.flatnonzero(wanted)
        value = value if isinstance(value, int) else value[chosen]
    # Of several bytes for one page the last one stays.
    pages = stretch.vpns[chosen] if isinstance(stretch.vpns, np.ndarray) else stretch.vpn_of(stretch.at[chosen])
    stretch.memory.content[as_slice(mm.pfn[as_slice(pages)])] = value


def _make_page_tables(stretch: Stretch) -> None:
    """A page table hangs wherever something is mapped now (`pte_alloc`)."""
    if isinstance(stretch.window, slice):
        make_page_tables(stretch.mm, stretch.first, stretch.last() + 1)
        return
    mapped = stretch.window[stretch.mm.pte[stretch.window] > 0] >> 9
    stretch.mm.pmd[mapped[stretch.mm.pmd[mapped] == PMD_NONE]] = PMD_TABLE


def make_page_tables(mm: Mm, first: int, end: int) -> None:
    """A page table hangs wherever something is mapped now (`pte_alloc`)."""
    pmds = slice(first >> 9, ((end - 1) >> 9) + 1)
    states = mm.pmd[pmds]
    new = states == PMD_NONE
    if bool(new.any()):
        new &= blocks_of(mm.pte, 9)[pmds].view(np.uint64).any(axis=1)
        states[new] = PMD_TABLE
