"""The folios of a running process: what is said of them is what the kernel has, and who cannot be looked at is told."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_support import PATIENCE_S, needs_kernel

if sys.platform != "linux":
    pytest.skip("looks at processes of Linux", allow_module_level=True)

from anonfolio.__main__ import main
from anonfolio.draw.looked import look_picture, look_scene, look_text
from anonfolio.draw.scene import owner_name
from anonfolio.witness import looking
from anonfolio.witness.hidden.bpf import NotHidden
from anonfolio.witness.hidden.look import Folios
from anonfolio.witness.looking import (
    ZERO_PAGE,
    Area,
    FoundFolios,
    Looker,
    Pages,
    Process,
    as_json,
    runs_of,
)

# --- what is said ---------------------------------------------------------------------------------------------------


def numbers(*values: int) -> Any:
    return np.array(values, np.int64)


def a_process() -> Process:
    """Four folios of order 2 and a page, mapped in 512 pages and in 16: two alike, one in part, one pinned."""
    first = numbers(0, 4, 8, 12, 16, 17)
    mapcount = numbers(*[2] * 8, 1, 1, 0, 0, *[1] * 4, 1)
    exclusive = np.array([False] * 8 + [True, True, False, False, True, True, False, True, True])
    folios = FoundFolios(
        numbers(100, 200, 300, 400, 500), numbers(2, 2, 2, 2, 0), numbers(8, 8, 3, 1028, 1), numbers(8, 8, 2, 4, 1),
        numbers(0, 0, 0, 1, 0), np.array([[7, 9], [7, 9], [7, 0], [7, 0], [0, 0]]),
        np.array([[4, 4], [4, 4], [2, 0], [4, 0], [0, 0]]), np.array([True, True, False, False, False]),
        np.array([False, False, True, False, False]), np.array([False, False, True, False, False]), first, mapcount,
        exclusive,
    )  # fmt: skip
    page = numbers(*range(1024, 1032), 1032, 1033, 1040, *range(2052, 2056), 2056)
    mapping = numbers(*[0] * 11, *[1] * 5)
    folio = numbers(*[0] * 4, *[1] * 4, 2, 2, ZERO_PAGE, *[3] * 4, 4)
    offset = numbers(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 0, 1, 2, 3, 0)
    writable = np.array([False] * 8 + [True, True, False, True, True, False, True, True])
    areas = (Area(1024, 1536, "rw-p", ""), Area(2050, 2066, "rw-p", "[heap]"))
    return Process(41, "cc", areas, Pages(page, mapping, folio, offset, folio == -9, writable), folios, {7: 41}, "")


def test_neighbours_that_say_the_same_are_one_line() -> None:
    assert look_text(a_process()).splitlines() == [
        "P41 cc: 16 pages in 5 folios, 2 mappings",
        "0x400000  512 pages  rw-p",
        "            0-7  2 × order 2, refs 8, mapped 8×, each page 2×, not exclusive, not writable, "
        "slots P41:4 mm#9:4, maybe mapped shared",
        "            8-9  order 2 pages 0-1, refs 3, mapped 2×, each page 1×, exclusive, writable, "
        "slots P41:2, partially mapped, deferred, 2 held and not mapped",
        "             16  zero page",
        "0x802000  16 pages  rw-p  [heap]",
        "            2-5  order 2, refs 1028, mapped 4×, each page 1×, exclusive 0-1 3, writable 0-1 3, "
        "slots P41:4, pins 1",
        "              6  order 0, refs 1, each page 1×, exclusive, writable",
        "in all",
        "  order 0: 1 folio, 1 of 1 pages mapped here",
        "  order 2: 4 folios, 14 of 16 pages mapped here, 2 held and mapped by nobody, 2 maybe mapped shared, "
        "1 partially mapped, 1 deferred, 1 pinned",
        "  zero page: mapped at 1 page",
    ]


FIELDS = ("refcount", "mappings", "pins", "shared", "partially_mapped", "deferred")


@pytest.mark.parametrize("field", FIELDS)
def test_neighbours_that_differ_in_one_number_are_two_lines(field: str) -> None:
    seen = a_process()
    column = getattr(seen.folios, field).copy()
    column[1] = column[1] + 1 if column.dtype == np.int64 else not column[1]
    assert "2 × order 2" not in look_text(replace(seen, folios=replace(seen.folios, **{field: column})))


@pytest.mark.parametrize("field", ["mm_id", "mm_id_mapcount", "mapcount"])
def test_neighbours_that_differ_in_a_slot_or_a_page_are_two_lines(field: str) -> None:
    seen = a_process()
    column = getattr(seen.folios, field).copy()
    column[1 if column.ndim > 1 else 5] += 1
    text = look_text(replace(seen, folios=replace(seen.folios, **{field: column})))
    assert "2 × order 2" not in text
    if field == "mapcount":
        assert "pages 2× 3× 2× (2 pages)" in text


def test_what_cannot_be_seen_is_not_said() -> None:
    seen = a_process()
    nothing = dict.fromkeys(("mm_id", "mm_id_mapcount", "exclusive", *FIELDS))
    bare = replace(
        seen, folios=replace(seen.folios, **nothing), pages=seen.pages._replace(writable=None), missing="it is hidden"
    )
    text = look_text(bare)
    assert "it is hidden" in text.splitlines()[1]
    assert not re.search(r"refs|exclusive|slots|pins|writable|deferred|partially|shared", text)
    assert "2 × order 2, each page 2×" in text
    assert "2 held and mapped by nobody" in text
    assert as_json(bare)["folios"][0]["refcount"] is None
    assert look_scene(bare).tables_only
    ET.fromstring(look_picture(bare).svg())


def test_a_hole_in_a_folio_parts_its_pages() -> None:
    zero = np.zeros(3, np.int64)
    pages = Pages(numbers(1024, 1025, 1027), zero, zero, numbers(0, 1, 3), zero > 0, zero > 0)
    assert runs_of(pages) == [(0, 2), (2, 3)]
    text = look_text(replace(a_process(), pages=pages))
    assert "0-1  order 2 pages 0-1," in text
    assert " 3  order 2 page 3," in text


def test_pages_of_files_are_left_out_and_mappings_of_nothing_else() -> None:
    no, folio = np.zeros(3, np.bool_), numbers(looking.NO_FOLIO, 4, ZERO_PAGE)
    found = looking._kept(
        numbers(7, 8, 9), numbers(0, 1, 2), numbers(9, 500, ZERO_PAGE), folio, no, no, a_process().folios, [7, 8, 9]
    )
    assert (found[0].page.tolist(), found[0].mapping.tolist(), found[0].folio.tolist()) == (
        [8, 9],
        [0, 1],
        [4, ZERO_PAGE],
    )
    assert (found[0].offset.tolist(), found[2]) == ([0, 0], [8, 9])


def test_what_struct_pages_say_is_told_of_pages() -> None:
    """Pins of a single page are 1,024 of its references; a PMD maps every page, and the first page's flag says all."""
    first = numbers(0, 1, 5)
    none = np.zeros((2, 2), np.int64)
    folios = Folios(
        numbers(10, 20), numbers(0, 2), numbers(0, 0).astype(np.uint64), numbers(2049, 9), numbers(0, 3), numbers(0, 1),
        numbers(0, 2), numbers(0, 5), none, none, none[0] > 0, none[0] > 0, none[0] > 0, first,
        numbers(1, 1, 1, 0, 0), np.array([True, True, False, True, False]),
    )  # fmt: skip
    found = looking._found(folios)
    assert found.pins is not None
    assert found.mappings is not None
    assert found.exclusive is not None
    assert (found.pins.tolist(), found.mappings.tolist()) == ([2, 5], [1, 3])
    assert found.mapcount.tolist() == [1, 2, 2, 1, 1]
    assert found.exclusive.tolist() == [True, True, False, True, False]
    by_pmd = looking._found(replace(folios, mapcount=numbers(1, 0, 0, 0, 0)))
    assert by_pmd.exclusive is not None
    assert by_pmd.exclusive.tolist() == [True] * 5


def test_json_holds_every_folio_and_every_run() -> None:
    told = json.loads(json.dumps(as_json(a_process())))
    assert [len(area["runs"]) for area in told["mappings"]] == [4, 2]
    assert told["mappings"][0]["runs"][2:] == [[1032, 2, 2, 0, False, 2], [1040, 1, None, 0, False, 0]]
    assert told["folios"][2] == {
        "frame": 300, "order": 2, "refcount": 3, "mappings": 2, "pins": 0, "maybe_mapped_shared": False,
        "partially_mapped": True, "deferred": True, "slots": [[41, 7, 2]], "mapcount": [1, 1, 0, 0],
        "exclusive": [True, True, False, False],
    }  # fmt: skip
    assert told["folios"][0]["slots"] == [[41, 7, 4], [None, 9, 4]]


def test_the_picture_is_that_of_the_suite() -> None:
    scene = look_scene(a_process())
    (table,) = scene.tables
    assert (table.process, len(scene.folios), [folio.name for folio in scene.folios]) == (41, 5, list("ABCDE"))
    # Each mapping begins at the next 2 MiB, and keeps its place in them.
    assert [place[:2] for place in table.mappings] == [(0, 512), (514, 530)]
    assert table.entries.vpn[table.entries.folio >= 0].tolist() == [*range(10), *range(516, 521)]
    assert "mm_id P41:4 mm#9:4" in look_picture(a_process()).text()
    drawn = look_picture(a_process()).svg()
    assert "waits to be split" in drawn
    # Every page is there, joined to its folio; and a process that runs has a number of its own.
    assert drawn.count('data-process="41"') == len(table.entries.vpn)
    assert set(re.findall(r'data-of="41 (\w)"', drawn)) == set("ABCDE")
    assert "not there yet" not in drawn
    assert len({folio.place for folio in scene.folios}) == len(scene.folios)
    assert (owner_name(3), owner_name(-3)) == ("P3", "mm#3")


def test_mappings_lie_behind_each_other_in_the_picture() -> None:
    zero = np.zeros(3, np.int64)
    pages = Pages(numbers(1000, 5000, 9000), np.arange(3), zero + ZERO_PAGE, zero, zero > 0, zero > 0)
    areas = tuple(Area(start, start + 600, "rw-p", "") for start in (1000, 5000, 9000))
    (table,) = look_scene(replace(a_process(), pages=pages, mappings=areas)).tables
    assert all(left[1] <= right[0] for left, right in zip(table.mappings, table.mappings[1:], strict=False))
    assert [start % 512 for start, _, _ in table.mappings] == [1000 % 512, 5000 % 512, 9000 % 512]


def test_a_process_of_very_many_pages_is_drawn_in_part() -> None:
    pages = 5000
    zero = np.zeros(pages, np.int64)
    many = Pages(np.arange(pages), zero, zero + ZERO_PAGE, zero, zero > 0, zero > 0)
    seen = replace(a_process(), pages=many, mappings=(Area(0, pages, "rw-p", ""),))
    assert "shows the first 2,048 pages" in look_picture(seen).sentence
    assert len(look_scene(seen).tables[0].entries.vpn) == 2048
    assert "0-4999  zero page" in look_text(seen)


def test_a_process_without_anonymous_memory_is_no_error() -> None:
    none = FoundFolios(*[numbers()] * 2, *[None] * 8, numbers(0), numbers(), None)
    seen = Process(1, "x", (), Pages(*[numbers()] * 4, numbers() > 0, None), none, {}, "")
    assert "no anonymous page" in look_text(seen)
    assert as_json(seen)["folios"] == []
    assert runs_of(seen.pages) == []
    ET.fromstring(look_picture(seen).svg())


def test_a_foreign_name_cannot_break_text_or_picture() -> None:
    name = "<script>alert(1)</script>\x1b[31m\u202e"
    seen = replace(a_process(), name=name, mappings=(Area(1024, 1536, "rw-p", name), Area(2050, 2066, "rw-p", name)))
    assert "\x1b" not in look_text(seen) + look_picture(seen).text()
    root = ET.fromstring(look_picture(seen).svg())
    assert not [tag for tag in root.iter() if "script" in tag.tag]


# --- who cannot be looked at ----------------------------------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root sees frames")


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["look", *words]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert not out
    return err


def test_without_root_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "run it with sudo" in refused("1", capsys=capsys)


def test_a_picture_is_of_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the picture of one process, not of 2" in refused("1", "2", "--svg", "x", capsys=capsys)


@pytest.fixture
def without_bpf(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None:
        raise NotHidden("the kernel has no bpf(2)")

    monkeypatch.setattr(looking, "Kernel", nothing)


@as_root
def test_nobody_there_is_one_line(without_bpf: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no process 999999999" in refused("999999999", capsys=capsys)


@as_root
def test_a_mapping_that_grows_downwards_meanwhile_keeps_its_pages(
    without_bpf: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Struct pages are read after /proc/PID/maps: the mapping was not found by its start, and each took the next's."""
    seen = a_process()
    heap = seen.mappings[1]
    looks = [[Area(1030, 1536, "rw-p", ""), heap], [Area(1000, 1536, "rw-p", ""), heap]]
    monkeypatch.setattr(looking, "_areas", lambda _: looks.pop(0))
    monkeypatch.setattr(Looker, "_seen", lambda *_: (seen.pages, seen.folios, [1024, 2050]))
    assert main(["look", str(os.getpid())]) == 0
    assert re.findall(r"^0x\w+  \d+ pages", capsys.readouterr().out, re.MULTILINE) == [
        "0x3e8000  536 pages", "0x802000  16 pages",
    ]  # fmt: skip
    looks += [[heap], [heap]]
    assert "changed while it was looked at; look again" in refused(str(os.getpid()), capsys=capsys)


@as_root
def test_a_thread_of_the_kernel_is_one_line(without_bpf: None, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text()
        except OSError:  # has ended meanwhile
            continue
        if int(stat.rpartition(")")[2].split()[6]) & looking.PF_KTHREAD:
            assert "is a thread of the kernel" in refused(path.name, capsys=capsys)
            return
    pytest.skip("sees no threads of the kernel")


@as_root
def test_a_process_that_has_ended_is_one_line(without_bpf: None, capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert f"process {ended.pid} has ended" in refused(str(ended.pid), capsys=capsys)
    ended.wait()


@as_root
def test_a_process_that_ends_while_it_is_looked_at_is_one_line(
    without_bpf: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:

        def end(*arguments: Any) -> Any:
            process.kill()
            process.wait()
            return shown(*arguments)

        shown = looking._as_shown
        monkeypatch.setattr(looking, "_as_shown", end)
        assert f"no process {process.pid}, or it has ended" in refused(str(process.pid), capsys=capsys)


# --- live -----------------------------------------------------------------------------------------------------------

VICTIM = """
import mmap, os, sys
memory = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(14)
for page in range(1024):
    memory[page << 12] = 1
ready, told = os.pipe()
if child := os.fork():
    os.read(ready, 1)
    memory.madvise(4, 768 << 12, 40 << 12)
    print(child, flush=True)
    sys.stdin.read()
else:
    for page in range(0, 512, 5):
        memory[page << 12] = 2
    os.write(told, b"x")
    os.close(0)
    import signal
    signal.pause()
"""


@pytest.fixture(scope="class")
def family() -> Iterator[tuple[int, int]]:
    """A python3 with a forked child on folios of 64 KiB, of which it wrote some pages, and the parent dropped some."""
    from anonfolio.witness.live.kernel import LiveKernel

    with LiveKernel(PATIENCE_S) as kernel:
        if 4 not in kernel.sizes:
            pytest.skip("this kernel has no folios of 64 KiB")
        kernel.enable({4: "madvise"})
        command = [sys.executable, "-c", VICTIM]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout
            child = int(parent.stdout.readline())
            wait_until_still(parent.pid, child)
            yield parent.pid, child
            os.kill(child, signal.SIGKILL)
            parent.kill()


def wait_until_still(*pids: int) -> None:
    """What they do on their way to sleep faults, too; on a busy machine that takes a while."""

    def now() -> list[tuple[str, str]]:
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return [(fields[0], fields[7]) for fields in stats]

    last: list[tuple[str, str]] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(0.3)
        last, before = now(), last
        if last == before and all(state == "S" for state, _ in last):
            return


def of_frames(name: str, frames: np.ndarray[Any, Any]) -> list[int]:
    with open(f"/proc/{name}", "rb", buffering=0) as file:
        return [struct.unpack("Q", os.pread(file.fileno(), 8, 8 * int(frame)))[0] for frame in frames]


def check_against_proc(told: dict[str, Any], pid: int) -> int:
    """Every page and every folio that is told, asked of pagemap, kpagecount and kpageflags one by one."""
    checked = 0
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for area in told["mappings"]:
            for first, count, folio, offset, *_ in area["runs"]:
                for at in range(count):
                    entry = struct.unpack("Q", os.pread(pagemap.fileno(), 8, 8 * (first + at)))[0]
                    if folio is not None:
                        row = told["folios"][folio]
                        assert entry & looking.PM_FRAME == row["frame"] + offset + at
                        assert (entry >> 56 & 1) == (row["mapcount"][offset + at] == 1)
                        checked += 1
    for row in told["folios"]:
        frames = np.arange(row["frame"], row["frame"] + (1 << row["order"]))
        assert of_frames("kpagecount", frames) == row["mapcount"]
        flags = of_frames("kpageflags", np.append(frames, frames[-1] + 1))
        assert all(flag & looking.KPF_ANON for flag in flags[: 1 if row["order"] else None][:1])
        kinds = [bool(flag & looking.KPF_TAIL) for flag in flags]
        assert kinds[:-1] == [False] + [True] * (len(frames) - 1)
        assert not kinds[-1]
        assert bool(flags[0] & looking.KPF_HEAD) == (row["order"] > 0)
        if row["mappings"] is not None:
            assert row["mappings"] == sum(row["mapcount"])
            assert row["refcount"] >= row["mappings"]
            assert sum(count for *_, count in row["slots"] or []) <= row["mappings"]
    return checked


@pytest.mark.live
@needs_kernel
class TestRunning:
    """A process that runs, and stands still while it is looked at."""

    @pytest.mark.parametrize("hidden", [True, False], ids=["struct pages", "proc"])
    def test_what_is_told_is_what_proc_shows(
        self, family: tuple[int, int], hidden: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not hidden:
            monkeypatch.setattr(looking, "Kernel", lambda: (_ for _ in ()).throw(NotHidden("not asked")))
        with Looker() as looker:
            if hidden and looker.missing:
                pytest.skip(looker.missing)
            for pid in family:
                assert check_against_proc(as_json(looker.look(pid)), pid) > 1024

    def test_the_parts_of_the_family_are_told_apart(
        self, family: tuple[int, int], capsys: pytest.CaptureFixture[str]
    ) -> None:
        parent, child = family
        with Looker() as looker:
            if looker.missing:
                pytest.skip(looker.missing)
            told = [as_json(looker.look(pid)) for pid in family]
        (mine,), (its,) = ([area for area in one["mappings"] if area["end"] - area["start"] >= 1024] for one in told)
        own = sum(count for _, count, folio, *_ in its["runs"] if told[1]["folios"][folio]["order"] == 0)
        assert own == len(range(0, 512, 5))
        assert all(
            told[1]["folios"][folio]["exclusive"] == [True]
            for _, _, folio, *_ in its["runs"]
            if told[1]["folios"][folio]["order"] == 0
        )
        shared = [told[0]["folios"][folio] for _, _, folio, *_ in mine["runs"]]
        assert {row["order"] for row in shared} == {4}
        assert not any(flag for row in shared for flag in row["exclusive"])
        assert {owner for row in shared for owner, _, _ in row["slots"]} == {parent, child}
        # 40 pages were dropped: two folios and a half.
        assert sum(count for _, count, *_ in mine["runs"]) == 1024 - 40
        assert main(["look", str(parent)]) == 0
        said = capsys.readouterr().out
        assert re.search(r"order 4: 6[24] folios, 984 of ", said)
        assert re.search(rf"768-|808-\d+ .*order 4.*slots P{parent}:\d+ P{child}:\d+, maybe mapped shared", said)

    def test_nothing_of_the_process_is_changed(self, family: tuple[int, int]) -> None:
        def state() -> list[bytes]:
            names = ("maps", "smaps_rollup", "status")
            kept = [Path(f"/proc/{pid}/{name}").read_bytes() for pid in family for name in names]
            # Who else maps a library is other programs' doing.
            others = rb"(?m)^(.*ctxt_switches|Pss|Shared_Clean|Private_Clean).*$"
            return [re.sub(others, b"", text) for text in kept]

        def settled() -> list[bytes]:
            """On a busy machine they are still on their way to sleep."""
            deadline, before = time.monotonic() + 20, state()
            while time.monotonic() < deadline:
                time.sleep(0.3)
                last, before = before, state()
                if last == before:
                    break
            return before

        # Other programs reference pages of libraries, too, and DAMON clears bits: once in three times nobody does.
        for _ in range(3):
            before = settled()
            with Looker() as looker:
                for pid in family:
                    looker.look(pid)
            lines = [
                sorted(set(one.splitlines()) ^ set(two.splitlines())) for one, two in zip(state(), before, strict=True)
            ]
            if lines == [[]] * len(before):
                break
        assert lines == [[]] * len(before)

    def test_again_and_again_until_it_ends(self, family: tuple[int, int]) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            command = [sys.executable, "-m", "anonfolio", "look", str(process.pid), "--watch", "0.2", "--json"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
                assert watching.stdout
                assert watching.stderr
                assert [json.loads(watching.stdout.readline())["pid"] for _ in range(2)] == [process.pid] * 2
                process.kill()
                process.wait()
                assert watching.wait(20) == 2
                assert watching.stderr.read().count("\n") == 1

    def test_a_program_of_32_bits_is_looked_at_too(self, tmp_path: Path, family: tuple[int, int]) -> None:
        # mmap2(0, 64 KiB, read and write, private and anonymous), one write, pause().
        code = bytes.fromhex("b8c000000031dbb900000100ba03000000be22000000bfffffffff31edcd80c60001b81d000000cd80ebf7")
        size = 84 + len(code)
        head = b"\x7fELF\x01\x01\x01" + bytes(9)
        head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        path = tmp_path / "small"
        path.write_bytes(head + struct.pack("<8I", 1, 0, 0x8048000, 0x8048000, size, size, 5, 4096) + code)
        path.chmod(0o755)
        try:
            process = subprocess.Popen([str(path)])
        except OSError:
            pytest.skip("this kernel runs no programs of 32 bits")
        with process, Looker() as looker:
            try:
                while Path(f"/proc/{process.pid}/wchan").read_text() == "0" and process.poll() is None:
                    pass
                assert check_against_proc(as_json(looker.look(process.pid)), process.pid) >= 1
            finally:
                process.kill()
