"""The kernel's own state: what is read, and where it is refused in one line instead of misread."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from live_support import PATIENCE_S, eventually, loaded_programs, needs_kernel, undisturbed

import anonfolio as af
from anonfolio.kernel.policy import policy_for_kernel
from anonfolio.program.random_programs import KINDS, random_scenario
from anonfolio.witness.recording import read_recording, write_recording

if sys.platform != "linux":
    pytest.skip("reads the memory of a Linux kernel", allow_module_level=True)

from anonfolio.witness.here import NotLive
from anonfolio.witness.hidden import bpf, look, paging, reader
from anonfolio.witness.hidden.bpf import NotHidden
from anonfolio.witness.hidden.btf import Btf
from anonfolio.witness.hidden.state import FIELDS
from anonfolio.witness.live import kernel as live_kernel
from anonfolio.witness.live.compare import Tally, repeated_difference
from anonfolio.witness.live.kernel import LiveKernel
from anonfolio.witness.live.run import live_run

CPU = "flags\t\t: fpu vme lm nx\naddress sizes\t: 46 bits physical, 48 bits virtual\n"


def btf(*structs: tuple[str, int, list[tuple[str, int, int]]]) -> bytes:
    """BTF of some structs: (name, bytes, members as (name or "", type, bit))."""
    names, types = b"\0", b""

    def name(text: str) -> int:
        nonlocal names
        if not text:
            return 0
        names += text.encode() + b"\0"
        return len(names) - len(text) - 1

    for called, size, members in structs:
        types += struct.pack("<III", name(called), 4 << 24 | len(members), size)
        types += b"".join(struct.pack("<III", name(member), kind, bit) for member, kind, bit in members)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names)) + types + names


TWO = btf(("", 16, [("inner", 0, 64)]), ("outer", 32, [("first", 0, 0), ("", 1, 64)]))


def test_a_member_is_found_in_what_has_no_name() -> None:
    assert (Btf(TWO).size("outer"), Btf(TWO).offset("outer", "first"), Btf(TWO).offset("outer", "inner")) == (32, 0, 16)


def test_what_a_kernel_has_not_is_said() -> None:
    assert Btf(TWO).has("outer", "third") is None
    with pytest.raises(KeyError, match="struct outer has no third"):
        Btf(TWO).offset("outer", "third")
    with pytest.raises(KeyError, match="no struct folio"):
        Btf(TWO).size("folio")


@pytest.mark.parametrize("raw", [b"", TWO[:20], TWO[:30], b"\xeb\x9f" + TWO[2:]])
def test_what_is_no_type_information_is_refused_in_one_line(raw: bytes) -> None:
    with pytest.raises(NotHidden, match=r"BTF"):
        Btf(raw).size("outer")


def test_a_kernel_without_btf_is_refused_in_one_line(tmp_path) -> None:
    with pytest.raises(NotHidden, match="CONFIG_DEBUG_INFO_BTF"):
        Btf.of_this_kernel(tmp_path / "vmlinux")


def test_a_machine_of_another_kind_is_refused() -> None:
    assert not reader.refused(CPU, "linux", "x86_64")
    assert not reader.refused(CPU, "linux", "aarch64")
    assert "x86-64 or arm64" in reader.refused(CPU, "linux", "riscv64")
    assert "5-level" in reader.refused(CPU.replace("nx", "nx la57"), "linux", "x86_64")


def test_how_wide_addresses_are() -> None:
    assert reader.physical_bits(CPU) == 46
    assert reader.physical_bits("") == 52


def test_what_bpf_is_refused_for_is_said() -> None:
    assert "root" in bpf._refused(PermissionError(1, ""))
    assert "CONFIG_BPF_SYSCALL" in bpf._refused(OSError(38, ""))


def test_frames_of_entries_that_prot_none_hides_are_inverted_and_those_of_a_pmd_go_on() -> None:
    hidden = ~np.uint64(7 << 12) & np.uint64(look.FRAME) | np.uint64(look.PROTNONE)
    entries = np.array([5 << 12 | look.PRESENT, 0, hidden, 512 << 12 | look.PRESENT | look.LEAF], np.uint64)
    vma = look.VmaLook(600, 604, 0, 0, 0, (), 600, entries, np.array([False, False, False, True]))
    assert vma.frames.tolist() == [5, -1, 7, 512 + 603 - 512]


@needs_kernel
@pytest.mark.live
def test_what_is_read_of_a_process_is_what_proc_says_of_it() -> None:
    with reader.Kernel() as kernel, mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for page in (0, 1, 5, 900):
            memory[page << 12] = 1
        byte = ctypes.c_char.from_buffer(memory)
        first = ctypes.addressof(byte) >> 12
        del byte
        found = kernel.look(os.getpid(), first, first + 1024)
        with open("/proc/self/pagemap", "rb") as pagemap, open("/proc/kpagecount", "rb") as counts:
            pagemap.seek(first * 8)
            entries = np.frombuffer(pagemap.read(8 * 1024), np.uint64)
            frames = np.concatenate([vma.frames for vma in found.processes[os.getpid()].vmas])
            there = entries >> np.uint64(63) > 0
            assert np.array_equal(frames >= 0, there)
            assert np.array_equal(frames[there], (entries[there] & np.uint64((1 << 55) - 1)).astype(np.int64))
            at = found.folios.of(frames[there])
            assert (at >= 0).all()
            places = found.folios.first[at] + frames[there] - found.folios.head[at]
            entire = found.folios.entire_mapcount
            mapped = found.folios.mapcount[places] + (0 if entire is None else entire[at])
            for frame, count in zip(frames[there].tolist(), mapped.tolist(), strict=True):
                counts.seek(8 * frame)
                assert int.from_bytes(counts.read(8), "little") == count == 1


@needs_kernel
@pytest.mark.live
def test_the_program_is_gone_with_the_reader() -> None:
    before, others = len(os.listdir("/proc/self/fd")), loaded_programs()
    kernel = reader.Kernel()
    assert len(os.listdir("/proc/self/fd")) == before + 3
    # What readers before it had may go meanwhile: the kernel frees a program a little later.
    (ours,) = {*loaded_programs()}.difference(others)
    kernel.close()
    kernel.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert eventually(lambda: ours not in loaded_programs())


@needs_kernel
@pytest.mark.live
@pytest.mark.parametrize("seed", range(3))
def test_the_program_goes_with_a_process_that_is_killed_while_it_reads(seed: int) -> None:
    code = "import os; from anonfolio.witness.hidden.reader import Kernel\nwith Kernel() as k:\n print(flush=True)\n"
    others = loaded_programs()
    reading = [sys.executable, "-c", code + " while True: k.look(os.getpid())"]
    with subprocess.Popen(reading, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (its,) = {*loaded_programs()}.difference(others)
        time.sleep(random.Random(seed).uniform(0, 0.3))
        process.kill()
    assert eventually(lambda: its not in loaded_programs())


@needs_kernel
@pytest.mark.live
def test_a_live_run_keeps_its_hidden_state(tmp_path: Path) -> None:
    """Fixed programs of every kind, which the kernel equals in every field."""
    tally = Tally()
    with LiveKernel(PATIENCE_S) as kernel:
        if kernel.hidden is None:
            pytest.skip("the hidden state cannot be read here: see doctor")
        for kind in KINDS:
            scenario = random_scenario(77, kind, kernel.sizes)
            found = partial(repeated_difference, scenario, kernel, policy_for_kernel(kernel.version), tally)
            try:
                assert undisturbed(found) is None, kind
            except NotLive:
                # debugfs is closed where the kernel is locked down.
                assert kind == "split"
        recorded = live_run(af.Scenario.load("wipe-on-fork"), kernel)
    assert set(FIELDS) == tally.cells.keys()
    write_recording(tmp_path / "kept.json.gz", recorded.kernel, [recorded.without_counts()])
    again = read_recording(tmp_path / "kept.json.gz").programs[0]
    assert [step["hidden"] for step in again.steps] == [step["hidden"] for step in recorded.steps]
    assert again.replay() == []


def test_an_entry_of_arm64_is_said_in_the_bits_of_x86() -> None:
    valid, table, read_only, young, writable, cont, dirty, special = (1 << at for at in (0, 1, 7, 10, 51, 52, 55, 56))
    page = valid | table | young | 5 << 12
    frame = look.PRESENT | look.ACCESSED | 5 << 12
    for entry, wanted in (
        (0, 0),
        (page | read_only, frame),
        (page | read_only | cont | special, frame | look.SPECIAL),
        (page | writable | read_only, frame | look.WRITE),
        (page | writable, frame | look.WRITE | look.DIRTY),
        (page | read_only | dirty, frame | look.DIRTY),
        (page & ~young, frame & ~look.ACCESSED),
        (page & ~table, frame | look.LEAF),
    ):
        assert int(paging.PAGING["aarch64"].as_x86(np.array([entry], np.uint64))[0]) == wanted, hex(entry)


def test_what_leads_to_a_table_maps_nothing_itself() -> None:
    for machine, entries in {"x86_64": (0x67, 0xE7, 0), "aarch64": (0x1003, 0x1001, 0)}.items():
        known = paging.PAGING[machine]
        assert [known.is_table(entry) for entry in entries] == [True, False, False]
        assert [known.is_leaf(entry) for entry in entries] == [False, True, False]


# --- page tables that are made up: the walk, without a kernel ---------------------------------------------------------

BASE = 0xFFFF_8880_0000_0000
MM = 0x1000
PGD = BASE + 0x10_0000


class MadeUp:
    """Kernel memory of which some words are known; the rest are zeros."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {MM: PGD}

    def read(self, address: int, length: int) -> memoryview:
        words = [self.words.get(address + at, 0) for at in range(0, length, 8)]
        return memoryview(struct.pack(f"<{len(words)}Q", *words))

    def word(self, address: int) -> int:
        return self.words.get(address, 0)

    def map(self, vpn: int, entry: int, levels: int = 4) -> None:
        """Put an entry there; tables are made as they are needed."""
        table = PGD
        for level in range(3, 4 - levels, -1):
            place = table + 8 * (vpn >> 9 * level & 511)
            frame = 0x200 + len(self.words)
            self.words.setdefault(place, frame << 12 | look.PRESENT | 2)
            table = BASE + (self.words[place] & look.FRAME)
        self.words[table + 8 * (vpn >> 9 * (4 - levels) & 511)] = entry


def walker(memory: MadeUp) -> reader.Kernel:
    kernel = object.__new__(reader.Kernel)
    kernel.memory = memory  # type: ignore[assignment]
    kernel.layout = SimpleNamespace(pgd=0)  # type: ignore[assignment]
    kernel.paging = paging.PAGING["x86_64"]
    kernel._page_offset, kernel._encrypted = BASE, look.FRAME & ~((1 << 46) - 1)
    return kernel


def test_a_walk_finds_pages_pmds_and_holes_across_tables() -> None:
    memory = MadeUp()
    first = (7 << 18) - 512 - 3
    memory.map(first, 5 << 12 | look.PRESENT)
    memory.map(first + 3, 1024 << 12 | look.PRESENT | look.LEAF, levels=3)
    memory.map(first + 3 + 512 + 2, 9 << 12 | look.PRESENT)
    entries, huge = walker(memory).entries(MM, first, 600)
    assert np.flatnonzero(entries).tolist() == [0, *range(3, 515), 517]
    assert np.flatnonzero(huge).tolist() == [*range(3, 515)]
    vma = look.VmaLook(first, first + 600, 0, 0, 0, (), first, entries, huge)
    assert vma.frames[[0, 1, 3, 514, 517]].tolist() == [5, -1, 1024, 1024 + 511, 9]


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_encrypted_memory_is_refused_and_not_misread(levels: int) -> None:
    memory = MadeUp()
    memory.map(0, 5 << 12 | look.PRESENT)
    place = next(place for place, entry in memory.words.items() if entry & look.PRESENT and place != MM)
    memory.words[place] |= 1 << 47
    with pytest.raises(NotHidden, match="encrypts its memory"):
        walker(memory).entries(MM, 0, 1)


def test_a_mark_for_1_gib_is_passed_over() -> None:
    memory = MadeUp()
    memory.map(0, 1 << 18 << 12 | look.PRESENT | look.LEAF, levels=2)
    assert not walker(memory).entries(MM, 0, 4)[0].any()


def test_doctor_says_why_the_kernels_own_state_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise NotHidden("5-level page tables (la57): boot with no5lvl")

    monkeypatch.setattr(live_kernel, "HiddenKernel", refuses)
    assert live_kernel._no_hidden_state() == "5-level page tables (la57): boot with no5lvl"


def test_doctor_says_who_clears_accessed_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live_kernel, "PROC", tmp_path)
    monkeypatch.setattr(live_kernel, "DAMON_STAT", tmp_path / "enabled")
    assert live_kernel._damon() == ""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/comm").write_text("kdamond.0\n")
    assert live_kernel._damon() == "kdamond.0"
    # That one a live run stops by itself.
    (tmp_path / "enabled").write_text("Y\n")
    assert live_kernel._damon() == ""


def test_a_run_that_stopped_damon_puts_it_back(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text(json.dumps({str(live_kernel.DAMON_STAT): "Y", "/sys/module/other/parameters/enabled": "Y"}))
    with journal.open() as file:
        assert live_kernel.read_journal(file.fileno()) == {str(live_kernel.DAMON_STAT): "Y"}
