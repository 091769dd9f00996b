"""Hidden state: model and kernel agree, a break that user space cannot see is seen, files that hold it are checked."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anonfolio as af
from anonfolio.__main__ import main
from anonfolio.kernel import gup, mm, mmap, rmap
from anonfolio.witness.comparing import iter_differences
from anonfolio.witness.hidden import look
from anonfolio.witness.hidden.state import (
    FIELDS,
    SOMEBODY,
    HiddenState,
    NotAState,
    as_json,
    compared,
    first_difference,
    from_json,
    kept_pins,
    state_of_look,
    state_of_snapshot,
)
from anonfolio.witness.recording import RecordingError, as_program, read_program, read_recording, write_recording

NAMED = Path(__file__).resolve().parent.parent / "data/recordings/hidden-named-6.18.44.json.gz"
RECORDING = read_recording(NAMED)


def state_of(text: str, orders: tuple[int, ...] = (4,), pages: int = 16, kernel: str = "6.18.44") -> HiddenState:
    """What the model holds after a program."""
    scenario = af.Scenario.parse(f"pages {pages}\norders {' '.join(map(str, orders))}\n{text}")
    return state_of_snapshot(scenario.run()[-1].snapshot, scenario.first_vpn, pages, kernel)


FOLIO = state_of("write 0 0..15\nfork 0")


def test_every_field_is_compared_with_a_kernel() -> None:
    tally: Counter[str] = Counter()
    for program in RECORDING.programs:
        assert not list(iter_differences(program.scenario.run(), program, tally))
    assert tally.keys() == set(FIELDS)
    assert min(tally.values()) > 200


def test_every_field_is_seen_when_it_is_wrong() -> None:
    for cells in compared(FOLIO, copy.deepcopy(FOLIO)):
        other = copy.deepcopy(FOLIO)
        there = next(same for same in compared(FOLIO, other) if same.field == cells.field)
        assert np.array_equal(there.mine, there.theirs)
    wrong = set()
    for field in FIELDS:
        content = as_json(FOLIO)
        where, _, name = field.partition(": ")
        if where == "folio":
            content["folios"][name][0] += 1 if name != "order" else 0
            if name == "order":
                content["folios"]["order"] = [3]
                content["pages"] = {"mapcount": [8, 2], "PageAnonExclusive": [8, 0]}
        elif where == "page":
            content["pages"][name] = [16, 1] if name == "PageAnonExclusive" else [15, 2, 1, 3]
        elif where == "mapping":
            names = ("start", "end", "flags", "page offset", "anon_vma", "anon_vma chain")
            content["processes"]["0"]["mappings"][0][names.index(name)] += 1
        elif where == "entry":
            bit = {"present": 1, "write": 2, "dirty": 4, "accessed": 8, "special": 16, "by PMD": 64, "guard": 128}[name]
            content["processes"]["0"]["entries"][1] ^= bit
        else:
            content["processes"]["0"]["pinned"] = 1
        found = first_difference(FOLIO, from_json(content, 16))
        assert found, field
        assert found[0].startswith(field), (field, found)
        wrong.add(field)
    assert wrong == set(FIELDS)


def test_replay_says_what_it_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(NAMED), "--fields"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(" 0 mismatches")
    assert [line[2:30].strip() for line in said[2:]] == list(FIELDS)
    assert all(line.split()[-1] == "0" and int(line.split()[-2].replace(",", "")) > 200 for line in said[2:])
    assert main(["replay", str(NAMED.parent / "min-6.18.44.json.gz"), "--fields"]) == 0
    assert "was not compared: the recording does not have it" in capsys.readouterr().out
    assert main(["replay", str(NAMED), "--fields", "--policy", "linux-6.9"]) == 1


# --- breaks that user space cannot see ------------------------------------------------------------------------------


def around(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: Callable[..., None]) -> None:
    """After a kernel function, something else happens as well."""
    kept = getattr(module, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        result = kept(*arguments, **named)
        after(*arguments)
        return result

    monkeypatch.setattr(module, name, broken)


def swap_slots(memory: Any, folio: int, *_: object) -> None:
    memory.mm_id[folio], memory.mm_id_mapcount[folio] = memory.mm_id[folio][::-1], memory.mm_id_mapcount[folio][::-1]


def lose_a_mapping_of_the_second(memory: Any, folio: int, *_: object) -> None:
    if memory.mm_id_mapcount[folio, 1] > 2:
        memory.mm_id_mapcount[folio, 1] -= 1


def forget_partially_mapped(memory: Any, folio: int, *_: object) -> None:
    memory.partially_mapped[folio] = False


def clear_exclusive(memory: Any, folio: int, pfn: int, pages: int, *_: object) -> None:
    gone = np.flatnonzero(memory.mapcount[pfn : pfn + pages] == 0) + pfn
    if memory.refcount[folio] > pages:
        memory.anon_exclusive[gone] = False


def count_one_page_less(memory: Any, folio: int, *_: object) -> None:
    memory.nr_mapped[folio] -= 1


def keep_a_reference(memory: Any, pin: Any) -> None:
    for pfn in {*pin.frames}:
        memory.folio_get(int(memory.folio_of[pfn]))


def forget_that_it_pinned(process: Any, *_: object) -> None:
    process.has_pinned = False


def restart_offsets(process: Any, vma: Any, start: int, end: int, new_start: int, *_: object) -> None:
    moved = process.find_vma(new_start)
    moved.pgoff = moved.start


def hold_a_reference_of_a_pin(memory: Any, pfn: int) -> None:
    if memory.pincount[memory.folio_of[pfn]] == 1:
        memory.folio_get(int(memory.folio_of[pfn]))


def count_a_pin_more(memory: Any, pfn: int) -> None:
    if memory.pincount[memory.folio_of[pfn]] == 1:
        memory.pincount[memory.folio_of[pfn]] += 1


BREAKS: tuple[tuple[str, Any, str, Callable[..., None], str], ...] = (
    ("a slot", rmap, "folio_add_large_mapcount", swap_slots, "folio: mm_id slot 0"),
    ("a count", rmap, "folio_add_large_mapcount", lose_a_mapping_of_the_second, "folio: mappings of slot 1"),
    ("the bit of a folio", mmap, "folio_remove_rmap_ptes", forget_partially_mapped, "folio: partially mapped"),
    ("the bit of a page", mmap, "folio_remove_rmap_ptes", clear_exclusive, "page: PageAnonExclusive"),
    ("how many pages", mm, "folio_split_rmap_pmd", count_one_page_less, "folio: mapped pages"),
    ("a reference", gup, "try_grab_folio", hold_a_reference_of_a_pin, "folio: refcount"),
    ("a pin", gup, "try_grab_folio", count_a_pin_more, "folio: pins"),
    ("an offset", mmap, "move_vma", restart_offsets, "mapping: page offset"),
)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("row", BREAKS, ids=[row[0] for row in BREAKS])
def test_a_break_of_the_model_is_seen_by_what_it_breaks(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    around(monkeypatch, *row[1:4])
    programs = RECORDING.programs
    seen = [each for program in programs for each in iter_differences(program.scenario.run(), program)]
    assert any(difference.what.startswith(row[4]) for difference in seen), [str(difference) for difference in seen[:3]]


INVISIBLE = [row for row in BREAKS if row[0] in ("a slot", "how many pages", "the bit of a page")]


@pytest.mark.parametrize("row", INVISIBLE, ids=[row[0] for row in INVISIBLE])
def test_without_the_hidden_state_nobody_sees_it(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    around(monkeypatch, *row[1:4])
    for program in RECORDING.programs:
        plain = tuple({key: seen for key, seen in step.items() if key != "hidden"} for step in program.steps)
        assert not list(iter_differences(program.scenario.run(), replace(program, steps=plain)))


# --- what was read of a kernel, in these terms ------------------------------------------------------------------------

ENTRY = look.PRESENT | look.WRITE | look.ACCESSED | look.DIRTY
KERNEL_FLAGS = 0x1 | 0x2 | 0x70 | 0x10_0000 | 0x800_0000


def one_vma(frames: list[int], entry: int = ENTRY, anon_vma: int = 0xFFFF_8880_0000_1000) -> look.VmaLook:
    """A mapping of pages 100 on; frame 0 is a hole."""
    entries = np.array([frame << 12 | entry if frame else 0 for frame in frames], np.uint64)
    huge = np.zeros(len(frames), np.bool_)
    chain = (anon_vma, anon_vma + 64)
    return look.VmaLook(100, 100 + len(frames), KERNEL_FLAGS, 100, anon_vma, chain, 100, entries, huge)


def folios(mm_id: list[list[int]]) -> look.Folios:
    """Two folios of four pages, at frames 8 and 40."""
    two, no = np.array([2, 2]), np.zeros(2, np.bool_)
    pages, none = np.arange(8), np.zeros(8, np.bool_)
    return look.Folios(
        np.array([8, 40]), two, two.astype(np.uint64), np.array([5, 7]), two, two, two, two, np.array(mm_id),
        np.array([[1, 2], [3, 4]]), no, no, no, np.array([0, 4, 8]), pages, none, no,
    )  # fmt: skip


def test_folios_come_as_they_are_met_and_slots_name_processes() -> None:
    seen = look.Look(
        {
            0: look.ProcessLook(31, True, (one_vma([41, 0, 9]),)),
            1: look.ProcessLook(30, False, (one_vma([8, 41]),)),
        },
        folios([[30, 77], [0, 31]]),
    )
    state = state_of_look(seen, 100, 4)
    assert state.folios[:, 1].tolist() == [7, 5]
    assert state.folios[:, 6:10].tolist() == [[0, 1, 3, 4], [2, SOMEBODY, 1, 2]]
    assert state.mapcount.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert state.processes[0].entries.tolist() == [15, 0, 15, 0]
    assert state.processes[0].has_pinned
    assert state.processes[0].vmas.tolist() == [[0, 3, 3, 0, 1, 2]]
    assert state.processes[1].vmas[0, 4] == 1


def test_what_is_there_and_not_present_is_a_marker_and_what_prot_none_hides_is_present() -> None:
    hidden = one_vma([8], look.PROTNONE)
    hidden.entries[:] = ~np.uint64(8 << 12) & np.uint64(look.FRAME) | np.uint64(look.PROTNONE)
    seen = look.Look({0: look.ProcessLook(1, False, (hidden,))}, folios([[1, 0], [0, 0]]))
    assert state_of_look(seen, 100, 1).processes[0].entries.tolist() == [1]
    assert len(state_of_look(seen, 100, 1).folios) == 1
    marked = look.Look({0: look.ProcessLook(1, False, (one_vma([8], 0),))}, folios([[1, 0], [0, 0]]))
    assert state_of_look(marked, 100, 1).processes[0].entries.tolist() == [128]
    assert len(state_of_look(marked, 100, 1).folios) == 0


# --- what is the witness's own --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "frames", "heads", "size", "kept"),
    [
        ("6.1.192", range(16, 20), [16] * 4, 16, 4),
        ("6.6", range(16, 20), [16] * 4, 16, 1),
        ("6.6", range(28, 36), [16] * 4 + [32] * 4, 16, 8),
        ("6.12", range(28, 36), [16] * 4 + [32] * 4, 16, 2),
        ("6.12", range(28, 68), [16] * 4 + [32] * 16 + [48] * 16 + [64] * 4, 16, 4),
        # Not to the end of the first folio, not from the start of the second, not all of one in between.
        ("6.18", [28, 29, 32, 33], [16] * 2 + [32] * 2, 16, 4),
        ("6.18", [30, 31, 33, 34], [16] * 2 + [32] * 2, 16, 4),
        ("6.18", [30, 31, *range(32, 47), 64, 65], [16] * 2 + [32] * 15 + [64] * 2, 16, 19),
        ("6.18", [3, 9, 4], [3, 9, 4], 1, 3),
        ("7.3.4", [5], [0], 16, 1),
    ],
)
def test_io_uring_keeps_one_pin_a_folio_where_folios_lie_in_order(
    kernel: str, frames: Any, heads: list[int], size: int, kept: int
) -> None:
    assert sum(kept_pins([*frames], heads, [size] * len(heads), kernel)) == kept


def test_folios_of_two_sizes_keep_every_pin() -> None:
    assert sum(kept_pins([14, 15, 16, 17], [0, 0, 16, 16], [16, 16, 8, 8], "6.18")) == 4


def test_pins_that_were_dropped_are_no_references_either() -> None:
    pinned = "write 0 0..15\npin 0 2 8 0"
    old, new = state_of(pinned, kernel="6.1"), state_of(pinned)
    assert (old.folios[0, 1], old.folios[0, 5]) == (24, 8)
    assert (new.folios[0, 1], new.folios[0, 5]) == (17, 1)


def test_special_of_the_huge_zero_page_is_not_compared() -> None:
    huge = state_of("read 0 3", (9,), 512)
    content = as_json(huge)
    content["processes"]["0"]["entries"][1] &= ~16
    assert first_difference(huge, from_json(content, 512)) is None


def test_what_a_kernel_has_no_field_for_is_not_compared() -> None:
    content = as_json(FOLIO)
    del content["folios"]["mm_id slot 0"], content["pages"]["PageAnonExclusive"]
    tally: Counter[str] = Counter()
    assert first_difference(FOLIO, from_json(content, 16), tally) is None
    assert set(FIELDS) - tally.keys() == {"folio: mm_id slot 0", "page: PageAnonExclusive"}


# --- kept and read --------------------------------------------------------------------------------------------------


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_recording(tmp_path / "again.json", RECORDING.kernel, RECORDING.programs)
    again = read_recording(tmp_path / "again.json").programs
    assert all(mine.steps == theirs.steps for mine, theirs in zip(RECORDING.programs, again, strict=True))
    assert all("hidden" in step for program in again for step in program.steps)


def broken(change: Callable[[dict[str, Any]], Any]) -> Any:
    content = json.loads(json.dumps(as_json(FOLIO)))
    return change(content) or content


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of these where the others lead."""

    def change(content: dict[str, Any]) -> None:
        *steps, name, value = path
        place: Any = content
        for step in steps:
            place = place[step]
        place[name] = value

    return change


BAD = {
    "a list": lambda _: [1],
    "no pages": put("pages", None),
    "another process": put("processes", "x", {}),
    "a process that is no object": put("processes", "0", []),
    "pinned is a word": put("processes", "0", "pinned", "yes"),
    "entries of fewer pages": put("processes", "0", "entries", [15, 1]),
    "entries of too many": put("processes", "0", "entries", [1 << 40, 1]),
    "half a run": put("processes", "0", "entries", [16]),
    "a negative run": put("processes", "0", "entries", [17, 1, -1, 1]),
    "bits that no entry has": put("processes", "0", "entries", [16, 32]),
    "a mapping that is short": put("processes", "0", "mappings", [[1, 2]]),
    "an order above the largest": put("folios", "order", [10]),
    "an order that is a text": put("folios", "order", ["4"]),
    "a boolean": put("folios", "refcount", [True]),
    "a huge number": put("folios", "refcount", [1 << 70]),
    "a column of another length": put("folios", "refcount", [1, 2]),
    "too many folios": put("folios", "order", [0] * 40),
    "mapcounts of fewer pages": put("pages", "mapcount", [15, 2]),
}


def test_no_array_is_made_as_large_as_a_file_asks_for() -> None:
    content = as_json(FOLIO)
    content["folios"]["order"], content["pages"] = [40], {"mapcount": [1 << 40, 1]}
    with pytest.raises(NotAState, match="from 0 to 9"):
        from_json(content, 16)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_hidden_state_is_refused_in_one_line(name: str) -> None:
    content = broken(BAD[name])
    with pytest.raises(NotAState) as refused:
        from_json(content, 16)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_recording_says_where_it_is_wrong() -> None:
    program = json.loads(json.dumps({
        "orders": [4], "pages": 16, "skew": 0, "program": [["write", 0, 0, 1]],
        "steps": [{"ok": True, "value": None, "faults": [], "view": {"0": [0] * 16}, "hidden": {}}],
    }))  # fmt: skip
    with pytest.raises(RecordingError, match="here, step 0: hidden: is no object"):
        read_program("6.18.44", "x86-64", program, "here")
    program["steps"][0]["hidden"] = as_json(FOLIO)
    with pytest.raises(RecordingError, match="not of the processes that the view has"):
        read_program("6.18.44", "x86-64", program, "here")


def test_what_a_step_populates_may_get_back_the_frame_that_it_freed() -> None:
    text = "pages 24\norders\nwrite 0 20 3\nmlock 0 0 8\nremap 0 0 7 9 12 move\n"
    scenario = af.Scenario.parse(text)
    program = json.loads(json.dumps(as_program(scenario.run(), "6.18.44")))
    cells = program["steps"][-1]["view"]["0"]
    assert program["steps"][-1]["faults"] == []
    for page, differs in ((20, False), (7, True)):
        kept = cells[page]
        cells[page] = [99, 0, 1, 1]
        assert bool(read_program("6.18.44", "x86-64", program, "here").replay()) == differs, page
        cells[page] = kept
