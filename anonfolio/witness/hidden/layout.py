"""Where the fields of page, folio, mm and VMA are on this kernel: names decide, not versions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .bpf import NotHidden
from .btf import Btf

MMF_HAS_PINNED = 27
"""A macro, so that BTF does not have it: 27 in 6.1, 6.12 and 7.3. 5.10 has a field instead."""


@dataclass(frozen=True, slots=True)
class FolioLayout:
    """Bytes from a folio's first struct page, also to fields that lie in further ones; None: no such field.

    `order` is a byte. `bits` are numbers of page flags, by name.
    """

    page_bytes: int
    flags: int
    compound_head: int
    mapping: int
    mapcount: int
    refcount: int
    order: int
    large_mapcount: int | None
    nr_mapped: int | None
    entire_mapcount: int | None
    pincount: int | None
    mm_id_mapcount: int | None
    mm_ids: int | None
    deferred_list: int | None
    bits: dict[str, int]

    @classmethod
    def of(cls, btf: Btf) -> FolioLayout:
        """What a kernel's BTF says; KeyError for a field that none is without."""
        size = btf.size("page")
        # Behind each other: what a kernel calls the field, the newest first, and in which struct page it is.
        first = _First(btf)
        head = first(("page", "compound_head", 0), ("page", "compound_info", 0))
        flags = btf.offset("page", "flags")
        order = first(("folio", "_folio_order", 0), ("page", "compound_order", size))
        if head is None:
            raise KeyError("this kernel's struct page has no compound_head")
        return cls(
            size, flags, head, btf.offset("page", "mapping"), btf.offset("page", "_mapcount"),
            btf.offset("page", "_refcount"), size + flags if order is None else order,
            first(("folio", "_large_mapcount", 0)),
            first(("folio", "_nr_pages_mapped", 0), ("page", "subpages_mapcount", size)),
            first(("folio", "_entire_mapcount", 0), ("page", "compound_mapcount", size)),
            first(("folio", "_pincount", 0), ("page", "compound_pincount", size),
                  ("page", "hpage_pinned_refcount", 2 * size)),
            first(("folio", "_mm_id_mapcount", 0)), first(("folio", "_mm_ids", 0)),
            first(("folio", "_deferred_list", 0), ("page", "deferred_list", 2 * size)),
            btf.enumerators("pageflags"),
        )  # fmt: skip


class _First:
    """The first of several (struct, member, bytes before it) that there is."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    def __call__(self, *choices: tuple[str, str, int]) -> int | None:
        for name, member, before in choices:
            if (found := self._btf.has(name, member)) is not None:
                return before + found
        return None


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that is followed, as bytes from the start of its struct; None: no such field."""

    folio: FolioLayout
    task_files: int
    files_fdt: int
    fdtable_fd: int
    file_private: int
    pipe_bufs: int
    pipe_buffer_page: int
    pgd: int
    pt_mm: int
    mm_id: int | None
    mm_flags: int
    mm_has_pinned: int | None
    mm_first_vma: int | None
    mm_maple_root: int | None
    vma_bytes: int
    vma_fields: tuple[int, ...]
    vma_next: int | None
    chain_bytes: int
    chain_same_vma: int
    chain_anon_vma: int

    @classmethod
    @lru_cache(maxsize=1)
    def of_this_kernel(cls) -> Layout:
        """What this kernel's BTF says; it is read once. `NotHidden` as in `of`."""
        return cls.of(Btf.of_this_kernel())

    @classmethod
    def of(cls, btf: Btf) -> Layout:
        """What a kernel's BTF says; `NotHidden` names a field that none is without."""
        try:
            return cls._of(btf)
        except KeyError as error:
            raise NotHidden(f"{error.args[0]}: such a kernel is not known") from None

    @classmethod
    def _of(cls, btf: Btf) -> Layout:
        owner = btf.has("ptdesc", "pt_mm")
        tree, root = btf.has("mm_struct", "mm_mt"), btf.has("maple_tree", "ma_root")
        fields = ("vm_start", "vm_end", "vm_flags", "vm_pgoff", "anon_vma", "anon_vma_chain")
        return cls(
            FolioLayout.of(btf), btf.offset("task_struct", "files"), btf.offset("files_struct", "fdt"),
            btf.offset("fdtable", "fd"), btf.offset("file", "private_data"), btf.offset("pipe_inode_info", "bufs"),
            btf.offset("pipe_buffer", "page"), btf.offset("mm_struct", "pgd"),
            btf.offset("page", "pt_mm") if owner is None else owner, btf.has("mm_struct", "mm_id"),
            btf.offset("mm_struct", "flags"), btf.has("mm_struct", "has_pinned"), btf.has("mm_struct", "mmap"),
            None if tree is None or root is None else tree + root, btf.size("vm_area_struct"),
            tuple(btf.offset("vm_area_struct", name) for name in fields), btf.has("vm_area_struct", "vm_next"),
            btf.size("anon_vma_chain"), btf.offset("anon_vma_chain", "same_vma"),
            btf.offset("anon_vma_chain", "anon_vma"),
        )  # fmt: skip
