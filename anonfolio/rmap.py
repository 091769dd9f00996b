"""Who maps a folio: mapcounts, exclusivity and the two mm_id slots (mm/rmap.c, include/linux/rmap.h).

Functions carry the kernel's names. A range is `pages` frames from `pfn`, all of one folio, all mapped by one mm.
"""

from __future__ import annotations

from .memory import Memory


def folio_add_new_anon_rmap(memory: Memory, folio: int, mm_id: int, *, pmd: bool = False) -> None:
    """A fresh folio is mapped whole, by one mm, exclusively (RMAP_EXCLUSIVE).

    Every page gets PageAnonExclusive; under a PMD only the head, as there is one mapping (6.12, 6.17).
    """
    frames = memory.frames_of(folio)
    pages = frames.stop - frames.start
    if pmd:
        memory.entire_mapcount[folio] = 1
        memory.anon_exclusive[frames.start] = True
    else:
        memory.mapcount[frames] = 1
        memory.anon_exclusive[frames] = True
        memory.nr_mapped[folio] = pages
    if pages > 1:
        folio_set_large_mapcount(memory, folio, mm_id, 1 if pmd else pages)


def folio_dup_anon_rmap_ptes(memory: Memory, folio: int, pfn: int, pages: int, mm_id: int) -> None:
    """Fork shares a range with the child `mm_id`: nobody is exclusive any more (`folio_try_dup_anon_rmap_ptes`).

    The caller has made sure that no pin is in the way.
    """
    memory.mapcount[pfn : pfn + pages] += 1
    memory.anon_exclusive[pfn : pfn + pages] = False
    if memory.is_large(folio):
        folio_add_large_mapcount(memory, folio, mm_id, pages)


def folio_dup_anon_rmap_pmd(memory: Memory, folio: int, mm_id: int) -> None:
    """Fork shares a PMD mapping with the child `mm_id` (`folio_try_dup_anon_rmap_pmd`)."""
    memory.entire_mapcount[folio] += 1
    memory.anon_exclusive[memory.head[folio]] = False
    folio_add_large_mapcount(memory, folio, mm_id, 1)


def folio_remove_rmap_ptes(memory: Memory, folio: int, pfn: int, pages: int, mm_id: int) -> None:
    """An mm no longer maps a range (`__folio_remove_rmap`, RMAP_LEVEL_PTE).

    A page that lost its last mapping while another keeps one queues the folio for the deferred split, for good.
    PageAnonExclusive stays on the page until it is freed, as in the kernel: nothing reads it meanwhile.
    """
    mapcount = memory.mapcount[pfn : pfn + pages]
    mapcount -= 1
    if not memory.is_large(folio):
        memory.nr_mapped[folio] = 0 if mapcount[0] == 0 else 1
        return
    folio_sub_large_mapcount(memory, folio, mm_id, pages)
    unmapped = pages - int(mapcount.astype(bool).sum())
    if not unmapped:
        return
    memory.nr_mapped[folio] -= unmapped
    if memory.nr_mapped[folio] and not memory.entire_mapcount[folio]:
        memory.partially_mapped[folio] = True


def folio_remove_rmap_pmd(memory: Memory, folio: int, mm_id: int) -> None:
    """An mm no longer maps the folio by PMD (`__folio_remove_rmap`, RMAP_LEVEL_PMD)."""
    memory.entire_mapcount[folio] -= 1
    folio_sub_large_mapcount(memory, folio, mm_id, 1)
    if not memory.entire_mapcount[folio] and 0 < memory.nr_mapped[folio] < memory.nr_pages(folio):
        memory.partially_mapped[folio] = True


def folio_split_rmap_pmd(memory: Memory, folio: int, mm_id: int) -> None:
    """One PMD mapping becomes a PTE mapping of every page (`__split_huge_pmd_locked`).

    511 mappings and references more; every page inherits the head's PageAnonExclusive.
    """
    frames = memory.frames_of(folio)
    pages = frames.stop - frames.start
    memory.folio_get(folio, pages - 1)
    if memory.anon_exclusive[frames.start]:
        memory.anon_exclusive[frames] = True
    memory.mapcount[frames] += 1
    memory.entire_mapcount[folio] -= 1
    memory.nr_mapped[folio] = pages
    folio_add_large_mapcount(memory, folio, mm_id, pages - 1)


def folio_set_large_mapcount(memory: Memory, folio: int, mm_id: int, mappings: int) -> None:
    """A new folio is mapped by one mm, which takes slot 0 (`folio_set_large_mapcount`, 6.17)."""
    memory.large_mapcount[folio] = mappings
    memory.mm_id[folio, 0] = mm_id
    memory.mm_id_mapcount[folio, 0] = mappings


def folio_add_large_mapcount(memory: Memory, folio: int, mm_id: int, mappings: int) -> None:
    """`folio_add_return_large_mapcount` (6.17): the mm's slot grows, or it takes a free one, or it stays untracked."""
    others = memory.large_mapcount[folio] > 0
    memory.large_mapcount[folio] += mappings
    ids, counts = memory.mm_id[folio], memory.mm_id_mapcount[folio]
    for slot in (0, 1):
        if ids[slot] == mm_id:
            counts[slot] += mappings
            return
    for slot in (0, 1):
        if ids[slot] == 0:
            ids[slot], counts[slot] = mm_id, mappings
            if others:
                memory.maybe_mapped_shared[folio] = True
            return


def folio_sub_large_mapcount(memory: Memory, folio: int, mm_id: int, mappings: int) -> None:
    """`folio_sub_return_large_mapcount` (6.17): the shared bit clears only when one tracked mm has all mappings.

    An mm that came third is in no slot, so when it alone survives nothing clears the bit: the blind spot.
    """
    memory.large_mapcount[folio] -= mappings
    left = memory.large_mapcount[folio]
    ids, counts = memory.mm_id[folio], memory.mm_id_mapcount[folio]
    for slot in (0, 1):
        if ids[slot] == mm_id:
            counts[slot] -= mappings
            if counts[slot] > 0:
                return
            # Also where the count went negative: mappings came while the mm was untracked and go while it is tracked.
            ids[slot] = counts[slot] = 0
            break
    if left == 0 or counts[0] == left or counts[1] == left:
        memory.maybe_mapped_shared[folio] = False
