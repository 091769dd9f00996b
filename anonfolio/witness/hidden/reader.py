"""The hidden state of this machine's kernel, read as it stands (root, 4-level page tables, BTF).

    with Kernel() as kernel:
        look = kernel.look(pid)

Where a process's memory is, a file descriptor of our own says: /proc/PID/pagemap, whose private_data is the mm_struct.
Where struct pages are, a page of our own in a pipe. Only what these lead to is read, and nothing is written. Whoever
looks at a process that runs meanwhile sees pieces of different moments. `Kernel.entries` are as the
architecture has them; a look has those of arm64 in the bits of x86.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from .bpf import PAGE, Fault, KernelMemory, NotHidden
from .layout import MMF_HAS_PINNED, Layout
from .look import Bools, Folios, Look, Numbers, ProcessLook, VmaLook, Words
from .paging import LEVELS, PAGING, PMD_ORDER, PTRS_PER_PMD

PAGEMAP_FRAME = (1 << 55) - 1
PAGE_MAPPING_ANON, PAGE_MAPPING_FLAGS = 1, 3
NR_MAPPED = (1 << 23) - 1
"""Above it, `_nr_pages_mapped` notes that a PMD maps the folio (ENTIRELY_MAPPED, mm/internal.h)."""
MM_ID = (1 << 31) - 1
MAX_TASK_PAGES = 1 << 35
DIRECT_MAP_STEP = 1 << 30
DIRECT_MAP_GIB = 1 << 16
LONGEST_CHAIN = 10_000
CPUINFO = Path("/proc/cpuinfo")


def refused(cpuinfo: str, system: str = sys.platform, machine: str = platform.machine()) -> str:
    """Why page tables of such a processor are not read; empty when they are."""
    if system != "linux" or machine not in PAGING:
        return f"this needs Linux on {' or '.join(paging.name for paging in PAGING.values())}"
    if os.sysconf("SC_PAGE_SIZE") != PAGE:
        return "base pages are larger than 4 KiB: boot a kernel with those"
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.M)
    if flags and "la57" in flags[1].split():
        return "5-level page tables (la57): boot with no5lvl"
    return ""


def physical_bits(cpuinfo: str) -> int:
    """How wide physical addresses are; a kernel that encrypts memory has taken its bit off."""
    found = re.search(r"^address sizes\s*: (\d+) bits physical", cpuinfo, re.M)
    return int(found[1]) if found else 52


class Kernel:
    """Reads the hidden state; a context manager. `NotHidden` says in one line why it cannot be read here.

    Attributes
    ----------
    layout : Layout
        Where this kernel's fields are.
    """

    def __init__(self) -> None:
        cpuinfo = CPUINFO.read_text() if CPUINFO.exists() else ""
        if reason := refused(cpuinfo):
            raise NotHidden(reason)
        if os.geteuid() != 0:
            raise NotHidden("run it as root: only root may read the kernel's memory")
        self.paging = PAGING[platform.machine()]
        self._encrypted = self.paging.frame & ~((1 << physical_bits(cpuinfo)) - 1)
        self.layout = Layout.of_this_kernel()
        self.memory = KernelMemory()
        try:
            with _own_page() as (address, pagemap, frame):
                self._vmemmap = self._find_vmemmap(address, frame)
                self._page_offset = self._find_page_offset(address, pagemap, frame)
                self._check(address, pagemap, frame)
        except Fault as error:
            self.close()
            raise NotHidden(f"the kernel's memory is not where it was looked for ({error.strerror})") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload the program. May be called twice."""
        self.memory.close()

    def look(self, pid: int, start: int = 0, end: int = MAX_TASK_PAGES) -> Look:
        """One process, and the pages [start, end) of it; OSError when there is no such process.

        Returns
        -------
        Look
            With the process under its pid.
        """
        fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self.look_at({pid: fd}, start, end)
        finally:
            os.close(fd)

    def look_at(self, pagemaps: Mapping[int, int], start: int = 0, end: int = MAX_TASK_PAGES) -> Look:
        """Several processes at once, by what they shall be called: open descriptors of their /proc/PID/pagemap."""
        processes = {name: self._process(self.mm_of(fd), start, end) for name, fd in pagemaps.items()}
        frames = [vma.frames for process in processes.values() for vma in process.vmas]
        return Look(processes, self.folios(np.concatenate(frames) if frames else np.zeros(0, np.int64)))

    def flag(self, name: str) -> int:
        """The number of a page flag (``"PG_lru"``); KeyError when this kernel has none of that name."""
        return self.layout.folio.bits[name]

    def mappings(self, pagemap: int) -> tuple[VmaLook, ...]:
        """A process's mappings in order, without the entries under them, which may be more than memory has room for."""
        mm = self.mm_of(pagemap)
        nothing = np.zeros(0, np.uint64), np.zeros(0, np.bool_)
        return tuple(self._vma_of(address, 0, *nothing) for address in self._vmas(mm, 0, MAX_TASK_PAGES * PAGE))

    def present(self, pagemap: int, start: int, end: int) -> Iterator[tuple[int, Words, Bools]]:
        """Where there are tables for pages [start, end), 1 GiB at once: first page, entries, whether PMDs map them."""
        mm = self.mm_of(pagemap)
        for at in range(start & -(PTRS_PER_PMD**2), end, PTRS_PER_PMD**2):
            first, stop = max(at, start), min(at + PTRS_PER_PMD**2, end)
            if table := self._pmd_table(mm, first):
                entries, huge = np.zeros(stop - first, np.uint64), np.zeros(stop - first, np.bool_)
                self._entries_under(table, first, stop, entries, huge)
                yield first, entries, huge

    def mm_id(self, pagemap: int) -> int | None:
        """The number of a process's mm in the slots of folios; None before 6.15."""
        mm = self.mm_of(pagemap)
        return None if self.layout.mm_id is None else int(self.memory.read(mm + self.layout.mm_id, 4).cast("I")[0])

    # --- where things are ---------------------------------------------------------------------------------------

    def _private_of(self, fd: int) -> int:
        """private_data of the struct file behind a descriptor of ours."""
        word, layout = self.memory.word, self.layout
        files = word(self.memory.current() + layout.task_files)
        file = word(word(word(files + layout.files_fdt) + layout.fdtable_fd) + 8 * fd)
        return word(file + layout.file_private)

    def mm_of(self, pagemap: int) -> int:
        """The mm_struct behind an open /proc/PID/pagemap (`pagemap_open`); OSError when the process had none."""
        mm = self._private_of(pagemap)
        if not mm:
            raise ProcessLookupError(f"descriptor {pagemap} is of a process that has no memory of its own")
        return mm

    def _find_vmemmap(self, address: int, frame: int) -> int:
        """Where struct pages begin: a pipe holds our page (vmsplice), its `pipe_buffer` points to the struct page."""
        reading, writing = os.pipe()
        try:
            one_byte = ctypes.create_string_buffer(struct.pack("<QQ", address, 1), 16)
            if ctypes.CDLL(None, use_errno=True).vmsplice(writing, one_byte, ctypes.c_size_t(1), 0) != 1:
                raise OSError(ctypes.get_errno(), f"vmsplice: {os.strerror(ctypes.get_errno())}")
            buffers = self.memory.word(self._private_of(writing) + self.layout.pipe_bufs)
            page = self.memory.word(buffers + self.layout.pipe_buffer_page)
        finally:
            os.close(reading)
            os.close(writing)
        return page - self.layout.folio.page_bytes * frame

    def _find_page_offset(self, address: int, pagemap: int, frame: int) -> int:
        """Where the direct map begins, a multiple of 1 GiB (KASLR moves it by PUDs).

        mm->pgd lies in it. On x86 the right base of those below makes it a frame whose struct page names this mm
        (`pgd_set_mm`), and only struct pages are read. On arm64, where none does, the tables below the pgd must lead
        to our own page.
        """
        mm = self.mm_of(pagemap)
        pgd = self.memory.word(mm + self.layout.pgd)
        highest = pgd & -DIRECT_MAP_STEP
        for base in range(highest, highest - DIRECT_MAP_GIB * DIRECT_MAP_STEP, -DIRECT_MAP_STEP):
            # Where there is no memory there is no struct page.
            with suppress(Fault):
                if self.paging.pgd_names_mm:
                    if self.memory.word(self._page_at((pgd - base) // PAGE) + self.layout.pt_mm) == mm:
                        return base
                    continue
                self._page_offset = base
                if self._frame_at(mm, address) == frame:
                    return base
        raise NotHidden("the kernel's direct map of memory was not found")

    def _frame_at(self, mm: int, address: int) -> int:
        """The frame that the entry of an address leads to."""
        entries, _ = self.entries(mm, address // PAGE, 1)
        return (int(entries[0]) & self.paging.frame) // PAGE

    def _check(self, address: int, pagemap: int, frame: int) -> None:
        """Our own page must be where pagemap says; else all would be misread."""
        entries, huge = self.entries(self.mm_of(pagemap), address // PAGE, 1)
        folios = self.folios(np.array([frame]))
        entry = int(entries[0])
        if entry & self._encrypted:
            raise NotHidden("page tables carry a bit above physical addresses: this machine encrypts its memory")
        if huge[0] or (entry & self.paging.frame) // PAGE != frame or not len(folios) or folios.mapcount[0] != 1:
            raise NotHidden("page tables or struct pages are not laid out as they are known")

    # --- page tables --------------------------------------------------------------------------------------------

    def entries(self, mm: int, first: int, pages: int) -> tuple[Words, Bools]:
        """The entry of each page, 0 for none; for a page under a PMD that PMD's own, and true."""
        entries, huge = np.zeros(pages, np.uint64), np.zeros(pages, np.bool_)
        at, end = first, first + pages
        while at < end:
            # The reach of one table of PMDs.
            stop = min(end, (at | PTRS_PER_PMD**2 - 1) + 1)
            if table := self._pmd_table(mm, at):
                self._entries_under(table, at, stop, entries[at - first :], huge[at - first :])
            at = stop
        return entries, huge

    def _pmd_table(self, mm: int, vpn: int) -> int:
        """The address of the table of PMDs above a page; 0 when there is none."""
        table = self.memory.word(mm + self.layout.pgd)
        for level in range(LEVELS - 1, 1, -1):
            entry = self.memory.word(table + 8 * (vpn >> PMD_ORDER * level & PTRS_PER_PMD - 1))
            if not self.paging.is_table(entry):
                return 0
            table = self._table_of(entry)
        return table

    def _table_of(self, entry: int) -> int:
        if entry & self._encrypted:
            raise NotHidden("page tables carry a bit above physical addresses: this machine encrypts its memory")
        return self._page_offset + (entry & self.paging.frame)

    def _entries_under(self, table: int, first: int, end: int, entries: Words, huge: Bools) -> None:
        """Fill in what a table of PMDs leads to for pages [first, end)."""
        low, high = first // PTRS_PER_PMD, (end - 1) // PTRS_PER_PMD + 1
        pmds = self.memory.read(table + 8 * (low % PTRS_PER_PMD), 8 * (high - low)).cast("Q").tolist()
        for number, pmd in enumerate(pmds, low):
            at, stop = max(first, number * PTRS_PER_PMD), min(end, (number + 1) * PTRS_PER_PMD)
            here = slice(at - first, stop - first)
            if self.paging.is_leaf(pmd):
                entries[here], huge[here] = pmd, True
            elif self.paging.is_table(pmd):
                place = self._table_of(pmd) + 8 * (at % PTRS_PER_PMD)
                entries[here] = np.frombuffer(self.memory.read(place, 8 * (stop - at)), np.uint64)

    # --- processes ----------------------------------------------------------------------------------------------

    def _process(self, mm: int, start: int, end: int) -> ProcessLook:
        layout, memory = self.layout, self.memory
        if layout.mm_has_pinned is not None:
            pinned = bool(memory.read(mm + layout.mm_has_pinned, 4).cast("i")[0])
        else:
            pinned = bool(memory.word(mm + layout.mm_flags) >> MMF_HAS_PINNED & 1)
        mm_id = None if layout.mm_id is None else memory.read(mm + layout.mm_id, 4).cast("I")[0]
        vmas = tuple(self._vma(mm, address, start, end) for address in self._vmas(mm, start * PAGE, end * PAGE))
        return ProcessLook(mm_id, pinned, vmas)

    def _vmas(self, mm: int, start: int, end: int) -> Iterator[int]:
        """The VMAs that intersect addresses [start, end), in order."""
        if self.layout.mm_maple_root is not None:
            root = self.memory.word(mm + self.layout.mm_maple_root)
            yield from _walk_maple(self.memory, root, 0, (1 << 64) - 1, start, end)
            return
        assert self.layout.mm_first_vma is not None
        assert self.layout.vma_next is not None
        address = self.memory.word(mm + self.layout.mm_first_vma)
        while address:
            low, high = (self.memory.word(address + at) for at in self.layout.vma_fields[:2])
            if low < end and high > start:
                yield address
            address = self.memory.word(address + self.layout.vma_next)

    def _vma(self, mm: int, address: int, start: int, end: int) -> VmaLook:
        low, high = (self.memory.word(address + at) // PAGE for at in self.layout.vma_fields[:2])
        first = max(low, start)
        return self._vma_of(address, first, *self.entries(mm, first, min(high, end) - first))

    def _vma_of(self, address: int, first: int, entries: Words, huge: Bools) -> VmaLook:
        layout = self.layout
        raw = self.memory.read(address, layout.vma_bytes)
        low, high, flags, pgoff, anon_vma, link = (struct.unpack_from("<Q", raw, at)[0] for at in layout.vma_fields)
        chain = self._chain(link, address + layout.vma_fields[-1])
        entries = self.paging.as_x86(entries)
        return VmaLook(low // PAGE, high // PAGE, flags, pgoff, anon_vma, chain, first, entries, huge)

    def _chain(self, link: int, end: int) -> tuple[int, ...]:
        """The anon_vmas along a list of struct anon_vma_chain."""
        layout = self.layout
        chain: list[int] = []
        while link != end and len(chain) < LONGEST_CHAIN:
            raw = self.memory.read(link - layout.chain_same_vma, layout.chain_bytes)
            chain.append(struct.unpack_from("<Q", raw, layout.chain_anon_vma)[0])
            link = struct.unpack_from("<Q", raw, layout.chain_same_vma)[0]
        return tuple(chain)

    # --- folios -------------------------------------------------------------------------------------------------

    def _page_at(self, frame: int) -> int:
        return self._vmemmap + self.layout.folio.page_bytes * frame

    def folios(self, frames: Numbers) -> Folios:
        """The anonymous folios that frames belong to, each once; frames below 0 and those of files are passed over."""
        pages = _StructPages(self, np.unique(frames[frames >= 0]))
        return _folios(pages, self.layout)


class _StructPages:
    """Struct pages in whole blocks of 512: no anonymous folio is in two."""

    def __init__(self, kernel: Kernel, frames: Numbers) -> None:
        layout = kernel.layout.folio
        words = layout.page_bytes // 8
        blocks = np.unique(frames >> PMD_ORDER)
        # Three rows more, for the fields that large folios have in their tail pages.
        self.words = np.zeros((len(blocks) * PTRS_PER_PMD + 3, words), np.uint64)
        length = PTRS_PER_PMD * layout.page_bytes
        for at, block in enumerate(blocks.tolist()):
            raw = kernel.memory.read(kernel._page_at(block << PMD_ORDER), length)
            rows = slice(at << PMD_ORDER, (at + 1) << PMD_ORDER)
            self.words[rows] = np.frombuffer(raw, np.uint64).reshape(PTRS_PER_PMD, words)
        self.halves = self.words.view(np.int32)
        self._blocks = blocks
        heads = np.unique(self._heads(frames, kernel))
        heads = heads[np.isin(heads >> PMD_ORDER, blocks)]
        anon = self.word(heads, layout.mapping) & np.uint64(PAGE_MAPPING_FLAGS) == PAGE_MAPPING_ANON
        self.heads = heads[anon]
        self.deferred_at = np.uint64(kernel._vmemmap) + np.uint64(layout.page_bytes) * self.heads.astype(np.uint64)

    def _heads(self, frames: Numbers, kernel: Kernel) -> Numbers:
        """`compound_head`: a tail page has a pointer to it; in 7.3 the mask that makes its address the head's.

        (`compound_info`: where struct pages may be left out, so that a tail's address is not its own.)
        """
        layout = kernel.layout.folio
        info = self.word(frames, layout.compound_head)
        page = np.uint64(kernel._vmemmap & (1 << 64) - 1) + np.uint64(layout.page_bytes) * frames.astype(np.uint64)
        masked = info >> np.uint64(32) == 0xFFFF_FFFF
        head = np.where(masked, page & info, info - np.uint64(1))
        number = (head - np.uint64(kernel._vmemmap & (1 << 64) - 1)) // np.uint64(layout.page_bytes)
        return np.where(info & np.uint64(1), number.astype(np.int64), frames)

    def rows(self, frames: Numbers) -> npt.NDArray[np.intp]:
        """Where frames are in `words`."""
        return (np.searchsorted(self._blocks, frames >> PMD_ORDER) << PMD_ORDER) + (frames & PTRS_PER_PMD - 1)

    def word(self, heads: Numbers, at: int) -> Words:
        """Eight bytes, `at` bytes from each folio's first struct page."""
        size = 8 * self.words.shape[1]
        found: Words = self.words[self.rows(heads) + at // size, at % size // 8]
        return found

    def half(self, heads: Numbers, at: int) -> Numbers:
        """Four bytes as a number."""
        size = 8 * self.words.shape[1]
        found: Numbers = self.halves[self.rows(heads) + at // size, at % size // 4].astype(np.int64)
        return found


def _folios(pages: _StructPages, layout: Layout) -> Folios:
    at, heads = layout.folio, pages.heads
    flags = pages.word(heads, at.flags)
    large = _bit(flags, at.bits["PG_head"])
    order_word = pages.word(heads, at.order & ~7) >> np.uint64(8 * (at.order & 7))
    order = np.where(large, (order_word & np.uint64(0xFF)).astype(np.int64), 0)
    known = order <= PMD_ORDER
    heads, flags, large, order = heads[known], flags[known], large[known], order[known]

    def count(place: int | None, more: int) -> Numbers | None:
        return None if place is None else np.where(large, pages.half(heads, place) + more, 0)

    nr_mapped = count(at.nr_mapped, 0)
    mm_id = mm_id_mapcount = shared = partially = deferred = None
    if at.mm_ids is not None and at.mm_id_mapcount is not None:
        ids = pages.word(heads, at.mm_ids)
        pair = np.stack((ids & np.uint64(MM_ID), ids >> np.uint64(32) & np.uint64(MM_ID)), axis=1).astype(np.int64)
        mm_id = np.where(large[:, None], pair, 0)
        slots = np.stack([pages.half(heads, at.mm_id_mapcount + 4 * slot) for slot in (0, 1)], axis=1)
        mm_id_mapcount = np.where(large[:, None], slots + 1, 0)
        shared = large & _bit(ids, 63)
    if "PG_partially_mapped" in at.bits:
        partially = large & _bit(pages.word(heads, at.page_bytes + at.flags), at.bits["PG_partially_mapped"])
    if at.deferred_list is not None:
        own = pages.deferred_at[known] + np.uint64(at.deferred_list)
        following = pages.word(heads, at.deferred_list)
        deferred = (order > 1) & (following != own) & (following != 0)
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(1 << order)))
    frames = np.repeat(heads - first[:-1], 1 << order) + np.arange(first[-1])
    return Folios(
        heads, order, flags, pages.half(heads, at.refcount), count(at.large_mapcount, 1), count(at.entire_mapcount, 1),
        None if nr_mapped is None else nr_mapped & NR_MAPPED, count(at.pincount, 0), mm_id, mm_id_mapcount, shared,
        partially, deferred, first, _mapcounts(pages, frames, heads, order, layout), _exclusive(pages, frames, layout),
        ~_bit(flags, at.bits["PG_swapbacked"]),
    )  # fmt: skip


def _mapcounts(pages: _StructPages, frames: Numbers, heads: Numbers, order: Numbers, layout: Layout) -> Numbers:
    """`_mapcount` of each page. Up to 6.1 one more while PMDs and PTEs map a folio (PG_double_map)."""
    mapcount = pages.half(frames, layout.folio.mapcount) + 1
    double = layout.folio.bits.get("PG_double_map")
    if double is None:
        return mapcount
    flags = pages.word(heads, layout.folio.page_bytes + layout.folio.flags)
    return mapcount - np.repeat((order > 0) & _bit(flags, double), 1 << order)


def _exclusive(pages: _StructPages, frames: Numbers, layout: Layout) -> Bools | None:
    bit = layout.folio.bits.get("PG_anon_exclusive")
    return None if bit is None else _bit(pages.word(frames, layout.folio.flags), bit)


def _bit(words: Words, number: int) -> Bools:
    return (words >> np.uint64(number) & np.uint64(1)) > 0


def _walk_maple(memory: KernelMemory, node: int, low: int, high: int, start: int, end: int) -> Iterator[int]:
    """What a maple tree holds for addresses [start, end), in order (include/linux/maple_tree.h)."""
    kind = node >> 3 & 15
    slots = {1: 16, 2: 16, 3: 10}.get(kind)
    if slots is None:
        raise Fault(0, "a tree of mappings that is not as it is known")
    words = memory.read(node & ~255, 256).cast("Q").tolist()
    pivots, entries = words[1:slots], words[slots : 2 * slots]
    for at, entry in enumerate(entries):
        # A pivot of 0 after the first ends the node; its slot reaches to the node's end.
        last = pivots[at] if at < slots - 1 and pivots[at] else high
        if entry and low < end and last >= start:
            if kind == 1:
                yield entry
            else:
                yield from _walk_maple(memory, entry, low, last, start, end)
        if last >= high:
            return
        low = last + 1


@contextmanager
def _own_page() -> Iterator[tuple[int, int, int]]:
    """A touched page of ours: its address, a descriptor of our own pagemap, its frame."""
    with ExitStack() as undo:
        page = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        undo.callback(page.close)
        page[0] = 1
        byte = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(byte)
        del byte
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, pagemap)
        frame = int.from_bytes(os.pread(pagemap, 8, address // PAGE * 8), "little") & PAGEMAP_FRAME
        if not frame:
            raise NotHidden("/proc/self/pagemap hides frame numbers: be root, outside of a container")
        yield address, pagemap, frame
