"""The picture says what the state is: in text, in SVG, and in a sentence."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from support import COPY, PINNED, drawn_cells, drawn_rows

from anonfolio.draw import scene
from anonfolio.draw.drawing import lean, measure, wrap
from anonfolio.draw.picture import Picture, pictures, side_by_side, texts
from anonfolio.draw.plan import LABEL, PITCH
from anonfolio.draw.scene import folio_numbers
from anonfolio.draw.table import FOLD_ROWS, letter, spans
from anonfolio.draw.words import sentence, state_sentence
from anonfolio.kernel.policy import LINUX_6_9, POLICIES
from anonfolio.machine.machine import Machine
from anonfolio.program.scenario import Scenario
from anonfolio.witness.recording import DATA_DIR, read_recording, read_scenarios

SVG = "{http://www.w3.org/2000/svg}"

HUGE = Scenario(512, (("write", 0, 0, 1), ("fork", 0), ("write", 0, 5, 105), ("exit", 1)), orders=(9,), name="huge")


def titles(picture: Picture) -> list[str]:
    """What every cell and frame of the SVG says of itself."""
    root = ET.fromstring(picture.svg())
    return [found.text or "" for found in root.iter(f"{SVG}title")][1:]


def cells(picture: Picture) -> dict[int, str]:
    """Page -> what its cell says, for a picture of one process."""
    return {int(found[1]): found[2] for said in titles(picture) if (found := re.match(r"page (\d+): (.*)", said))}


def outlined(picture: Picture, what: str) -> bool:
    """Whether the cell or frame that says `what` of itself is inside the outline of something that changed."""
    pieces = picture.sheet.keyed().values()
    x, y, *_ = _box(next(piece for piece in pieces if f"<title>{what}" in piece))
    changed = [_box(piece) for piece in pieces if piece.startswith("<rect") and 'class="afp-new"' in piece]
    return any(left <= x < left + width and y == top for left, top, width in changed)


def _box(piece: str) -> tuple[float, float, float]:
    found = re.search(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([-\d.]+)"', piece)
    assert found
    return float(found[1]), float(found[2]), float(found[3])


# --- letters --------------------------------------------------------------------------------------------------------


def test_letters_count_as_spreadsheets_do() -> None:
    assert [letter(number) for number in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


def test_a_folio_keeps_its_letter_and_no_other_gets_it() -> None:
    # Every drop frees a folio: its number comes back, its letter does not.
    steps = (("write", 0, 1, 1), *[("write", 0, 0, 1), ("madvise", 0, 0, 1, "dontneed")] * 3, ("write", 0, 0, 2))
    timeline = Scenario(2, steps, orders=()).run("linux-6.15")
    assert [set(map(letter, numbers.values())) for numbers in folio_numbers(timeline)] == [
        set(), {"A"}, {"A", "B"}, {"A"}, {"A", "C"}, {"A"}, {"A", "D"}, {"A"}, {"A", "E"},
    ]  # fmt: skip
    assert {folio.id for result in timeline for folio in result.snapshot.folios} == {0, 1}


def test_a_number_that_comes_back_within_one_step_is_another_folio() -> None:
    # The pin copies page by page; once folio A has no page left, its number goes to the copy of page 4.
    steps = (("write", 0, 0, 1), ("write", 0, 4, 1), ("fork", 0), ("exit", 0), ("pin", 1, 0, 8, 0))
    timeline = Scenario(8, steps, orders=(2,)).run("linux-6.9")
    before, now = folio_numbers(timeline)[-2:]
    assert set(map(letter, before.values())) == {"A", "B"}
    assert set(map(letter, now.values())) == set("CDEFGHIJ")
    assert set(before) & set(now)


# --- text -----------------------------------------------------------------------------------------------------------


def test_the_text_picture_of_a_copy() -> None:
    assert Picture.of(COPY.run("linux-6.15"), 2).text() == textwrap.dedent("""\
        linux-6.15 · step 3 of 4 · write 1 2 9
        Process 1 writes page 2: the folio may be mapped by more than one process, so one page is copied
        into a new folio of order 0.
        P0  RSS 8
           0  A0-  A1-  A2-  A3-  A4-  A5-  A6-  A7-
        P1  RSS 8
           0  A0-  A1-  >Bw  A3-  A4-  A5-  A6-  A7-
        memory
          A  order 3  refs 16→15, mapped 16→15×, mm_id P0:8 P1:7, maybe mapped shared
               mapcount  2 2 1 2×5
               exclusive none
               bytes     7 0×7
          B  order 0  refs 1, mapped 1×, exclusive, byte 9, new
        faults: first touch 1, cow copy 1 (+1)
        pages zeroed 8, pages copied 1 (+1), pages scanned 8, pages flushed 1 (+1), RSS 16, held 9 (+1),
          waste 0
        why: process 1 write page 2: cow copy [copy0]
             pte_none: no
             vm_normal_page: yes (page 2 of a folio of order 3)
             PageAnonExclusive: no
             folio_large_mapcount > 1: yes (16 mappings)
          => FOLIO_MM_IDS_SHARED_BITNUM: yes (tracked: process 0 8, process 1 8)
        [w writable, - read-only, z zero page, . nothing mapped, > faulted, * changed by this step]""")


@pytest.mark.parametrize("policy", POLICIES)
def test_slots_are_shown_where_the_kernel_has_them(policy: str) -> None:
    shown = Picture.of(COPY.run(policy), 2)
    for drawn in (shown.text(), "".join(ET.fromstring(shown.svg()).itertext())):
        assert ("mm_id P0:8 P1:7" in drawn) is (policy == "linux-6.15")
        assert ("maybe mapped shared" in drawn) is (policy == "linux-6.15")


def test_a_policy_of_ones_own_has_slots_when_it_says_so() -> None:
    mine = LINUX_6_9.but(name="mine", keeps_mm_ids=True)
    assert "mm_id P0:8 P1:7" in Picture.of(COPY.run(mine), 2).text()


def test_a_machine_shows_itself() -> None:
    machine = Machine("linux-6.15", orders=(2,))
    process = machine.spawn()
    assert "nothing is mapped yet" in repr(machine.show())
    process.mmap(4)
    process.write(1, 5)
    assert "A1w" in repr(machine.show())
    assert set(machine.show()._repr_mimebundle_()) == {"image/svg+xml", "text/plain"}


# --- the SVG --------------------------------------------------------------------------------------------------------


NAMED = read_scenarios(DATA_DIR / "named-6.18.json.gz")


@pytest.mark.sweep(5)
@pytest.mark.parametrize("scenario", NAMED, ids=lambda scenario: scenario.name)
def test_every_moment_is_well_formed_and_complete(scenario: Scenario) -> None:
    for picture in pictures(scenario.run("rfc-v2"))[-6:]:
        root = ET.fromstring(picture.svg())
        assert root.findtext(f"{SVG}title") == picture.sentence
        assert root.findtext(f"{SVG}desc") == picture.text()
        assert max(map(len, picture.text().splitlines())) <= 100
        said = titles(picture)
        for folio in picture.scene.folios:
            if folio.pages <= 32 and len(picture.scene.folios) <= 16:
                names = [f"{folio.name}{at}" if folio.order else folio.name for at in range(folio.pages)]
                assert all(sum(words.startswith(f"{page}: byte ") for words in said) == 1 for page in names)


def test_the_box_that_says_why_lies_within_the_picture() -> None:
    # A line of this fault's reason fits where one counts its lines, and not in two pixels less.
    for name in ("child-exits-parent-writes-all", "wipe-on-fork"):
        for picture in pictures(Scenario.load(name).run("linux-6.15")):
            found = re.search(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', picture.sheet.pieces.get("9why", ""))
            assert not found or float(found[1]) + float(found[2]) < picture.sheet.height


def test_every_page_has_a_cell_that_tells_its_state() -> None:
    scenario = Scenario(
        12, (("read", 0, 9), ("write", 0, 1, 5), ("munmap", 0, 5, 2), ("mprotect", 0, 0, 1, 1)), orders=(2,)
    )
    seen = cells(Picture.of(scenario.run("linux-6.15")))
    assert seen == {
        0: "A0, read-only", 1: "A1, writable", 2: "A2, writable", 3: "A3, writable", 4: "nothing mapped",
        7: "nothing mapped", 8: "nothing mapped", 9: "the zero page, read-only", 10: "nothing mapped",
        11: "nothing mapped",
    }  # fmt: skip


def test_mapping_boundaries_carry_their_flags() -> None:
    steps = (("madvise", 0, 2, 3, "wipeonfork"), ("madvise", 0, 8, 1, "dontfork"), ("mprotect", 0, 12, 4, 1))
    svg = Picture.of(Scenario(16, steps, orders=(2,)).run("linux-6.15")).svg()
    labels = re.findall(r"<title>([a-z -]+)</title><text[^>]*>([^<]+)</text>", svg)
    # A few pages are too narrow for the words; they are in the tooltip.
    assert labels == [("wipe-on-fork", "wipe"), ("dont-fork", "dont"), ("read-only", "read-only")]


def test_what_a_step_changed_is_outlined_and_nothing_else() -> None:
    picture = Picture.of(COPY.run("linux-6.15"), 2)
    assert outlined(picture, "page 2: B, writable")
    assert not outlined(picture, "page 2: A2")
    assert not outlined(picture, "page 1: A1")
    assert outlined(picture, "A2: byte 0, mapped 2→1×")
    assert not outlined(picture, "A1: byte 0")
    assert [cell.vpn for cell in drawn_cells(picture) if cell.faulting] == [2]


def outlines(picture: Picture) -> list[tuple[float, float]]:
    """From which column to which each outline of something that changed reaches, by row and column."""
    drawn = re.findall(r'<rect [^>]*class="afp-new"', picture.sheet.body())
    boxes = sorted(map(_box, drawn), key=lambda box: (box[1], box[0]))
    return [((x - LABEL) / PITCH, (x + width + 2 - LABEL) / PITCH) for x, _, width in boxes]


@pytest.mark.parametrize(
    ("name", "step", "runs"),
    [
        ("half-dropped-child-gone", 18, [(0, 8), (8, 16)]),
        ("two-children", 20, [(0, 1), (1, 2), (2, 16)]),
        ("lazy-free-part", 1, [(0, 1), (1, 16)]),
    ],
)
def test_an_outline_holds_pages_of_one_kind(name: str, step: int, runs: list[tuple[int, int]]) -> None:
    """In memory what nobody maps any longer, and in a process what is the zero page now, stand apart."""
    assert outlines(Picture.of(Scenario.load(name).run("linux-6.15"), step)) == runs


def test_a_fork_changes_both_sides() -> None:
    picture = Picture.of(COPY.run("linux-6.15"), 1)
    assert [cell.changed for cell in drawn_cells(picture)] == [True] * 16


def test_a_device_write_shows_in_the_frame_only() -> None:
    picture = Picture.of(PINNED.run("linux-6.15"), 3)
    assert outlined(picture, "A3: byte 77, mapped 1×, exclusive (PageAnonExclusive), pinned 1×, referenced 1×")
    assert not any(cell.changed for cell in drawn_cells(picture))
    assert picture.scene.tables[0].holdings == ("pin 0: A2–A4", "ref 0: A3")


def test_freed_folios_are_named() -> None:
    scenario = Scenario(8, (("write", 0, 0, 1), ("write", 0, 4, 1), ("madvise", 0, 0, 4, "dontneed")), orders=(2,))
    picture = Picture.of(scenario.run("linux-6.15"))
    assert [letter(number) for number in picture.scene.freed] == ["A"]
    assert "freed by this step: A" in picture.svg()


def test_classes_and_ids_are_its_own() -> None:
    svg = Picture.of(HUGE.run("linux-6.15")).svg()
    assert re.findall(r'\bid="', svg) == []
    assert all(name.startswith("afp") for names in re.findall(r'class="([^"]*)"', svg) for name in names.split())
    style = re.search("<style>(.*)</style>", svg)
    assert style
    assert all(".afp" in rule for rule in re.findall(r"(?:^|[{}])([^{}@]+)\{", style[1]) if "prefers" not in rule)


def test_without_the_style_sheet_the_light_theme_remains() -> None:
    svg = Picture.of(COPY.run("linux-6.15")).svg()
    body = re.sub("<style>.*</style>", "", svg)
    assert all('fill="' in tag or 'stroke="' in tag for tag in re.findall(r"<(?:rect|text|path|circle)[^>]*>", body))
    assert "var(" not in body
    assert 'fill="' not in re.sub("<style>.*</style>", "", lean(svg))


def test_equal_runs_draw_equal_bytes() -> None:
    assert Picture.of(COPY.run("rfc-v2")).svg() == Picture.of(COPY.run("rfc-v2")).svg()


def test_nothing_leaves_the_drawing() -> None:
    for timeline in (COPY.run("linux-6.15"), HUGE.run("linux-6.15"), PINNED.run("rfc-v2")):
        for picture in pictures(timeline):
            root = ET.fromstring(picture.svg())
            # Text that starts at its x; the others are centred on short names.
            for text in root.iter(f"{SVG}text"):
                if text.get("text-anchor") is None and text.get("font-family") is None:
                    size = float(text.get("font-size", "0px")[:-2])
                    width = measure(text.text or "", size, text.get("font-weight") is not None)
                    assert float(text.get("x", "0")) + width <= picture.sheet.width + 2, text.text


def test_a_page_of_a_process_and_of_a_folio_has_one_key_at_all_moments() -> None:
    """What has the same key is moved, so it must be the same thing; and nothing else takes its place."""
    seen: dict[str, tuple[str | None, ...]] = {}
    for picture in pictures(COPY.run("linux-6.15")):
        for key, piece in picture.sheet.keyed().items():
            page = re.search(r'data-process="(\d+)" data-page="(\d+)"', piece)
            frame = re.search(r'<g data-frame="(\w+)"', piece)
            name = (page[0] if page else None, frame[1] if frame else None)
            assert seen.setdefault(key, name) == name
    assert len([name for name in seen.values() if name[0]]) == 16
    assert {name[1] for name in seen.values()} >= {"A0", "A7", "B"}


def test_nothing_jumps_from_step_to_step() -> None:
    """A page, a folio and all that is written stand at one place in all moments of all runs that are shown together."""
    steps = (("write", 0, 0, 7), ("fork", 0), ("write", 1, 2, 9), ("fork", 1), ("exit", 0), ("write", 2, 2, 9))
    runs = [Scenario(8, steps, orders=(2, 3)).run(name) for name in ("linux-6.15", "rfc-v2")]
    for pane in side_by_side(runs):
        assert len({(picture.sheet.width, picture.sheet.height) for picture in pane}) == 1
        places: dict[str, tuple[float, float, float]] = {}
        for picture in pane:
            for key, piece in picture.sheet.keyed().items():
                if "data-page" in piece or "data-frame" in piece:
                    assert places.setdefault(key, _box(piece)) == _box(piece)
    assert len({picture.sheet.height for pane in side_by_side(runs) for picture in pane}) == 1


def test_no_text_is_smaller_than_12_px() -> None:
    """Two panes beside each other in 848 px are no smaller than they are drawn."""
    picture = Picture.of(COPY.run("linux-6.15"), 2)
    sizes = {text.get("font-size") for text in ET.fromstring(picture.svg()).iter(f"{SVG}text")}
    assert sizes == {"12px", "13px"}
    assert 2 * picture.sheet.width + 32 <= 848
    assert picture.sheet.width <= 390 - 32


# --- ribbons --------------------------------------------------------------------------------------------------------


def ribbons(picture: Picture) -> list[tuple[str, float, float, str]]:
    """Towards which side, from where to where, and what they say of the pages."""
    told = []
    for key, piece in picture.sheet.keyed().items():
        found = re.search(r'data-ribbon="(\d)" data-of="[^"]*" d="M([\d.]+) .*?H([\d.]+).*class="afp-to_(\w+)"', piece)
        if key.startswith("1r"):
            assert found
            told.append((found[1], float(found[2]), float(found[3]), found[4]))
    return told


def test_a_ribbon_joins_each_run_of_pages_with_its_folio() -> None:
    first, pitch, gap = 27, 20, 2
    whole = (first, first + 8 * pitch - gap)
    shared = pictures(COPY.run("linux-6.15"))
    assert ribbons(shared[1]) == [("0", *whole, "new")]
    assert ribbons(shared[2]) == [("0", *whole, "shared"), ("1", *whole, "shared")]
    # The copy of page 2 lets go of the old folio and holds the new one.
    assert ribbons(shared[3]) == [
        ("0", *whole, "shared"),
        ("1", first, first + 2 * pitch - gap, "shared"),
        ("1", first + 2 * pitch, first + 3 * pitch - gap, "new"),
        ("1", first + 3 * pitch, first + 8 * pitch - gap, "shared"),
    ]


def test_three_processes_have_two_ribbons_and_the_third_has_letters() -> None:
    steps = (("write", 0, 0, 7), ("fork", 0), ("fork", 0), ("write", 1, 0, 8), ("write", 2, 1, 9))
    forked, _, second, third = pictures(Scenario(4, steps, orders=(2,)).run("linux-6.15"))[2:]
    letters = [
        {
            int(found[1])
            for piece in picture.sheet.keyed().values()
            if (found := re.search(r'data-process="(\d+)" data-page="\d+".*<text', piece))
        }
        for picture in (forked, second, third)
    ]
    # P0 and P2 stand above, P1 below: who acts has a ribbon, and one across.
    assert letters == [set(), {2}, {0}]


def test_a_moved_folio_stands_at_a_multiple_of_its_size_and_its_ribbon_leans() -> None:
    steps = (("write", 0, 0, 7), ("mremap", 0, 0, 4, 9))
    picture = Picture.of(Scenario(16, steps, orders=(2,)).run("linux-6.15"))
    (folio,) = picture.scene.folios
    assert folio.place.home == 8
    piece = next(piece for key, piece in picture.sheet.keyed().items() if key.startswith("1r"))
    assert re.search(r'd="M207 [\d.]+C207 .* 187 [\d.]+H265', piece)


# --- counters -------------------------------------------------------------------------------------------------------


def test_counters_say_what_the_step_added() -> None:
    steps = (("write", 0, 0, 7), ("write", 0, 4, 7), ("fork", 0), ("write", 1, 2, 9), ("write", 1, 5, 9), ("exit", 1))
    shown = pictures(Scenario(8, steps, orders=(2,)).run("linux-6.15"))
    assert "cow copy 1 (+1)" in shown[4].text()
    assert "held 8 (-2)" in shown[6].text()
    assert "cow copy" not in shown[3].text()


# --- folding --------------------------------------------------------------------------------------------------------


def test_a_huge_mapping_is_one_bar_and_a_copy_opens_its_row() -> None:
    timeline = HUGE.run("linux-6.15")
    forked = Picture.of(timeline, 1)
    whole = drawn_rows(forked)
    assert [(row.pages, row.folded, row.huge) for row in whole] == [(512, True, True), (512, True, True)]
    assert outlines(forked) == 3 * [(0, 16)], "both processes' entries, and the folio that they share from now on"
    opened = Picture.of(timeline, 2)
    first, rest = drawn_rows(opened)[:2]
    assert [(row.pages, row.folded) for row in (first, rest)] == [(16, False), (496, True)]
    assert [cell.name for cell in first.cells[4:7]] == ["A4", "B", "A6"]
    assert (rest.cells[0].name, rest.cells[-1].name) == ("A16", "A511")
    assert "A16–A511, 496 pages" in opened.svg()
    assert outlined(opened, "page 5: B, writable")


def test_folding_keeps_rows_that_differ_inside() -> None:
    index, keys = np.arange(160), np.zeros((160, 1), np.int64)
    keys[70] = 1
    found = spans(index, keys, 16)
    assert [(span.lo, span.hi, span.folded) for span in found] == [(0, 64, True), (64, 80, False), (80, 160, True)]


def test_few_rows_are_not_folded_and_holes_end_a_run() -> None:
    few = 16 * (FOLD_ROWS - 1)
    assert not any(span.folded for span in spans(np.arange(few), np.zeros((few, 1), np.int64), 16))
    index = np.r_[np.arange(0, 64), np.arange(100, 196)]
    found = spans(index, np.zeros((160, 1), np.int64), 16)
    assert [(int(index[span.lo]), int(index[span.hi - 1]), span.folded) for span in found] == [
        (0, 63, True), (100, 195, True),
    ]  # fmt: skip


def test_rows_are_aligned_to_the_page_number() -> None:
    picture = Picture.of(Scenario(16, (), orders=(), skew=3).run("linux-6.15"), None)
    assert [(row.cells[0].vpn, row.cells[-1].vpn) for row in drawn_rows(picture)] == [(3, 15), (16, 18)]


# --- sentences ------------------------------------------------------------------------------------------------------

SENTENCES = [
    (COPY, "linux-6.15", 0, "so a new folio of order 3 (8 pages) is zeroed and mapped at pages 0–7."),
    (COPY, "linux-6.15", 1, "makes process 1: 8 pages are shared, read-only in both and no longer exclusive."),
    (
        COPY,
        "linux-6.15",
        2,
        "may be mapped by more than one process, so one page is copied into a new folio of order 0.",
    ),
    (COPY, "linux-6.9", 2, "this kernel never reuses a page of a large folio then, so one page is copied"),
    (COPY, "rfc-v2", 2, "8 pages are copied into a new folio of order 3 (8 pages)."),
    (COPY, "linux-6.15", 3, "Process 0 exits: its mappings, pins and references are gone."),
    (PINNED, "linux-6.15", 1, "Process 0 pins pages 2–4 for a device (pin 0)."),
    (PINNED, "linux-6.15", 3, "The device writes byte 77 into page 1 of pin 0 of process 0."),
    (PINNED, "linux-6.15", 4, "no page is shared, and 16 pages of a pinned folio are copied."),
]


@pytest.mark.parametrize(("scenario", "policy", "step", "words"), SENTENCES)
def test_sentences(scenario: Scenario, policy: str, step: int, words: str) -> None:
    assert words in sentence(scenario.run(policy)[step])


def test_one_page_is_not_told_as_many() -> None:
    timeline = Scenario(1, (("write", 0, 0, 1), ("fork", 0)), orders=()).run()
    assert "makes process 1: 1 page is shared, read-only" in sentence(timeline[1])
    assert state_sentence(timeline[1].snapshot) == "2 processes; 1 folio holds 1 page."


def test_a_refusal_says_why() -> None:
    scenario = Scenario(4, (("munmap", 0, 1, 1), ("write", 0, 1, 1), ("pin", 0, 0, 2, 0)), orders=(), skew=5)
    timeline = scenario.run("linux-6.15")
    assert sentence(timeline[1], 5) == "Process 0 writes page 6: SIGSEGV, no mapping contains it."
    assert sentence(timeline[2], 5).startswith("Process 0 pins pages 5–6 for a device (pin 0): refused, page 6 ")


@pytest.mark.sweep(3)
@pytest.mark.parametrize("policy", POLICIES)
def test_no_sentence_falls_back_to_a_bare_check(policy: str) -> None:
    """Every reason for a copy or a reuse that the named scenarios meet has words of its own."""
    for program in read_recording(DATA_DIR / "named-6.18.json.gz").programs:
        for result in program.scenario.run(policy):
            said = sentence(result)
            assert said.endswith(".")
            assert " is true" not in said
            assert " is false" not in said


# --- recordings, and the house --------------------------------------------------------------------------------------


def test_a_recording_shows_what_user_space_sees() -> None:
    recorded = read_recording(DATA_DIR / "named-6.18.json.gz").named("fork-both-write")
    shown = pictures(recorded)
    assert len(shown) == len(recorded.steps) + 1
    assert shown[0].sentence == "Nothing is mapped yet."
    last = shown[-1]
    assert "refs" not in last.svg()
    assert "writable" not in last.svg()
    # The same cells as the model's, letter for letter.
    model = pictures(recorded.scenario.run("linux-6.15"))[-1]
    names = [[(cell.vpn, cell.name) for cell in drawn_cells(picture)] for picture in (last, model)]
    assert names[0] == names[1]


def test_wrapping_keeps_words_and_room() -> None:
    lines = wrap("folio_test_large_maybe_mapped_shared and some words", 120)
    assert lines == ["folio_test_large_", "maybe_mapped_", "shared and some", "words"]
    assert all(measure(line) <= 120 for line in lines)


def test_the_core_imports_no_view() -> None:
    code = "import sys, anonfolio.draw.picture, anonfolio.draw.drawing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "ipywidgets", "anywidget", "IPython", "traitlets"} & {
        name.split(".")[0] for name in loaded
    }


@pytest.mark.sweep(2)
@pytest.mark.parametrize("policy", ["linux-6.15", "rfc-v2"])
def test_a_terminal_is_shown_each_step_as_it_is_shown_alone(policy: str) -> None:
    for name in ("fork-both-write", "pin-blocks-reuse"):
        timeline = Scenario.load(name).run(policy)
        assert [*texts(timeline)] == [timeline.show(step).text() for step in range(len(timeline))]


def test_the_steps_before_are_not_drawn_again_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    after = scene.after
    monkeypatch.setattr(scene, "after", lambda *told, **more: drawn.append(told) or after(*told, **more))
    timeline = Scenario.load("fork-both-write").run()
    assert len([*texts(timeline)]) == len(drawn) == len(timeline)


def test_a_picture_asks_where_pages_are_once_a_process_however_many_mappings_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apart = tuple(("mprotect", 0, page, 1, 1) for page in range(1, 40, 2))
    timeline = Scenario(40, (*apart, ("fork", 0), ("fork", 0))).run()
    asked: list[Any] = []
    located = scene._Frames.located
    monkeypatch.setattr(scene._Frames, "located", lambda *told: asked.append(told) or located(*told))
    timeline.show().svg()
    assert len(asked) == sum(len(each.processes) for each in (timeline.start, *(step.snapshot for step in timeline)))
