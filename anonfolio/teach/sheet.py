"""The reading sheet for who comes to mm/ from here: a kernel function, its file in 7.3, its model, what to see."""

from __future__ import annotations

from typing import NamedTuple

RELEASE = "7.3"
"""Whose functions and files these are; a test finds the names in data/kernel/names.json."""


class Pair(NamedTuple):
    """A kernel function, its file, the model's function, and what to look for."""

    kernel: str
    file: str
    model: str
    see: str


READING = (
    Pair("__handle_mm_fault", "mm/memory.c", "kernel.faults.handle_mm_fault", "the PMD is asked before any PTE"),
    Pair("handle_pte_fault", "mm/memory.c", "kernel.faults.handle_pte_fault", "nothing there, or write-protected?"),
    Pair("do_anonymous_page", "mm/memory.c", "kernel.faults.do_anonymous_page", "a read maps the zero page"),
    Pair("alloc_anon_folio", "mm/memory.c", "kernel.faults.alloc_anon_folio", "largest order first, then down"),
    Pair(
        "thp_vma_suitable_order", "include/linux/huge_mm.h", "kernel.faults.thp_vma_suitable_order",
        "an aligned block that stays in the VMA",
    ),
    Pair(
        "do_huge_pmd_anonymous_page", "mm/huge_memory.c", "kernel.faults.create_huge_pmd",
        "2 MiB at once, and when it falls back",
    ),
    Pair("do_wp_page", "mm/memory.c", "kernel.faults.do_wp_page", "zero page, exclusive, or maybe shared"),
    Pair(
        "wp_can_reuse_anon_folio", "mm/memory.c", "kernel.faults.wp_can_reuse_anon_folio",
        "small folios by reference count, large ones by mm_id",
    ),
    Pair(
        "__wp_can_reuse_large_anon_folio", "mm/memory.c", "kernel.rules.mm_id",
        "more than one mapping, not maybe shared, mappings equal references",
    ),
    Pair("wp_page_reuse", "mm/memory.c", "kernel.faults.wp_page_reuse", "one entry becomes writable"),
    Pair("wp_page_copy", "mm/memory.c", "kernel.faults.wp_page_copy", "clear and flush before the new entry is set"),
    Pair(
        "do_huge_pmd_wp_page", "mm/huge_memory.c", "kernel.faults.wp_huge_pmd", "reuse all of it, or split and go on"
    ),
    Pair("dup_mmap", "mm/mmap.c", "kernel.fork.dup_mmap", "which VMAs a child gets, and what stops half-way"),
    Pair(
        "copy_page_range", "mm/memory.c", "kernel.fork.copy_page_range", "no anon_vma, no guard page ever: not copied"
    ),
    Pair(
        "copy_present_ptes", "mm/memory.c", "kernel.fork.copy_present_ptes", "share a batch, or copy what is pinned"
    ),
    Pair(
        "folio_needs_cow_for_dma", "include/linux/mm.h", "kernel.fork.folio_needs_cow_for_dma",
        "the question is of the folio, not of the page",
    ),
    Pair(
        "folio_add_new_anon_rmap", "mm/rmap.c", "kernel.rmap.folio_add_new_anon_rmap",
        "PageAnonExclusive for every page; under a PMD for the first alone",
    ),
    Pair(
        "folio_add_return_large_mapcount", "include/linux/rmap.h", "kernel.rmap.folio_add_large_mapcount",
        "two slots; a third process finds none",
    ),
    Pair(
        "folio_sub_return_large_mapcount", "include/linux/rmap.h", "kernel.rmap.folio_sub_large_mapcount",
        "when the shared bit is cleared, and when never",
    ),
    Pair("gup_must_unshare", "mm/internal.h", "kernel.gup.gup_must_unshare", "before a pin for reading"),
    Pair("try_grab_folio", "mm/gup.c", "kernel.gup.try_grab_folio", "1,024 references, or a pin count"),
    Pair(
        "can_change_private_pte_writable", "mm/mprotect.c", "kernel.mmap.change_protection",
        "mprotect makes exclusive pages writable without a fault",
    ),
    Pair("move_ptes", "mm/mremap.c", "kernel.contpte.move_ptes", "what is folded moves in batches"),
    Pair(
        "contpte_set_ptes", "arch/arm64/mm/contpte.c", "kernel.contpte.set_ptes", "where 16 entries become one block"
    ),
    Pair("contpte_convert", "arch/arm64/mm/contpte.c", "kernel.contpte.unfold_blocks", "what a change of one costs"),
)  # fmt: skip
"""In the order in which one reads: first touch, write faults, fork, counts, pins, the rest."""


def sheet() -> str:
    """The table as Markdown."""
    rows = [f"| `{one.kernel}` | {one.file} | `anonfolio.{one.model}` | {one.see} |" for one in READING]
    return "\n".join([f"| Linux {RELEASE} | file | model | look for |", "|---|---|---|---|", *rows]) + "\n"
