"""A scene is what there is to see, as a value: it says what changed and why, and everything is written from it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from support import COPY, PINNED, drawn_cells

from anonfolio.draw.drawing import stacked
from anonfolio.draw.picture import Picture, pictures
from anonfolio.draw.scene import Copied, Scene, lined_up, scenes
from anonfolio.draw.svg import to_svg
from anonfolio.draw.text import to_text
from anonfolio.draw.tree import Decision
from anonfolio.kernel.policy import LINUX_6_9
from anonfolio.machine.machine import Machine, SegmentationFault
from anonfolio.program.scenario import Scenario
from anonfolio.witness.recording import DATA_DIR, read_recording

SVG = "{http://www.w3.org/2000/svg}"

# --- what a machine shows of its latest operation -------------------------------------------------------------------


def test_a_machine_says_why_and_marks_what_changed() -> None:
    machine = Machine("linux-6.15", orders=(4,))
    parent = machine.spawn()
    parent.mmap(16)
    parent.write(5)
    text = repr(machine.show())
    assert "Process 0 writes page 5: nothing is mapped there, so a new folio of order 4 (16 pages) is zeroed" in text
    assert "=> pte_none: yes" in text
    assert ">A5w" in text
    assert "*A6w" in text
    assert "  A  order 4  refs 16, mapped 16×, mm_id P0:16, new" in text
    child = parent.fork()
    child.write(3, 8)
    shown = machine.show()
    assert shown.sentence.startswith(
        "Process 1 writes page 3: the folio may be mapped by more than one process, so one"
    )
    assert [(cell.vpn, cell.name) for cell in drawn_cells(shown) if cell.changed] == [(3, "B")]
    assert [folio.name for folio in shown.scene.folios if folio.fresh] == ["B"]


def test_a_machine_that_was_shown_before_an_operation_marks_all_that_it_changed() -> None:
    machine = Machine("linux-6.15", orders=(2,))
    parent = machine.spawn()
    parent.mmap(4)
    parent.write(0)
    machine.show()
    child = parent.fork()
    forked = machine.show()
    assert [cell.changed for cell in drawn_cells(forked)] == [True] * 8
    assert "refs 4→8, mapped 4→8×" in repr(forked)
    # To look again changes nothing; to look after two operations shows what is known of the second.
    assert repr(machine.show()) == repr(forked)
    child.write(1)
    child.write(2)
    shown = machine.show()
    assert [cell.vpn for cell in drawn_cells(shown) if cell.changed] == [2]
    assert "→" not in repr(shown)
    parent.exit()
    assert "freed by this step" not in repr(machine.show())
    child.exit()
    assert "freed by this step: A, B, C" in repr(machine.show())


def test_a_copy_of_a_machine_shows_what_it_does_itself() -> None:
    machine = Machine("linux-6.15", orders=(2,))
    process = machine.spawn()
    process.mmap(4)
    process.write(0)
    machine.show()
    twin = machine.copy()
    twin.processes[0].munmap(0)
    assert "mapped 4→3×" in repr(twin.show())
    assert "mapped 4×" in repr(machine.show())


def test_what_the_kernel_faults_in_is_told_without_an_access() -> None:
    machine = Machine("linux-6.15", orders=())
    process = machine.spawn()
    process.mmap(2)
    process.pin(0, 2)
    assert machine.show().sentence.startswith("Process 0: page 0 faults (write): nothing is mapped there, so")
    with pytest.raises(SegmentationFault):
        process.read(5)
    assert machine.show().sentence == "Process 0 reads page 5: SIGSEGV, no mapping contains it."


# --- the scene ------------------------------------------------------------------------------------------------------


def test_a_scene_says_who_maps_what_and_what_each_page_is() -> None:
    shown = Picture.of(COPY.run("linux-6.15"), 2).scene
    parent, child = (table.entries for table in shown.tables)
    assert (parent.folio.tolist(), parent.offset.tolist()) == ([0] * 8, list(range(8)))
    assert child.folio.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert shown.copied == (Copied(0, 2, 1, 0),)
    old, new = shown.folios
    assert (old.roles(), new.roles()) == (["shared"] * 8, ["new"])
    gone = Picture.of(COPY.run("linux-6.15"), 3).scene
    assert [folio.roles() for folio in gone.folios] == [["shared"] * 2 + ["held"] + ["shared"] * 5, ["alone"]]


def test_the_mark_of_a_page_that_nobody_maps_means_nothing() -> None:
    timeline = Scenario(4, (("write", 0, 0, 1), ("munmap", 0, 1, 1)), orders=(2,)).run("linux-6.15")
    assert timeline[1].snapshot.folios[0].anon_exclusive.all()
    (folio,) = scenes(timeline)[-1].folios
    assert folio.exclusive.tolist() == [True, False, True, True]
    assert folio.roles() == ["alone", "held", "alone", "alone"]


def test_a_scene_says_from_where_to_where_content_went() -> None:
    assert Picture.of(COPY.run("rfc-v2"), 2).scene.copied == tuple(Copied(0, at, 1, at) for at in range(8))
    # A fork copies the pages of a pinned folio without a fault.
    assert [copy[:2] for copy in Picture.of(PINNED.run("linux-6.15"), 4).scene.copied] == [(0, at) for at in range(16)]
    # What takes the zero page's place is zeroed, not copied.
    steps = (("read", 0, 1), ("write", 0, 1, 5))
    assert [one.copied for one in scenes(Scenario(4, steps, orders=()).run("linux-6.15"))] == [()] * 3


def test_a_copy_comes_from_a_folio_that_the_step_freed() -> None:
    # The last page of a large folio is copied, and that frees the folio.
    steps = (("write", 0, 0, 1), ("munmap", 0, 1, 3), ("fork", 0), ("exit", 1), ("write", 0, 0, 2))
    shown = scenes(Scenario(4, steps, orders=(2,)).run("linux-6.15"))[-1]
    assert shown.copied == (Copied(0, 0, 1, 0),)
    assert shown.freed == (0,)
    assert [folio.number for folio in shown.folios] == [1]


def test_a_scene_is_a_value_and_is_written_twice_alike() -> None:
    shown = scenes(COPY.run("linux-6.15"))[3]
    with pytest.raises(AttributeError):
        shown.sentence = "another"  # type: ignore[misc]
    assert to_svg(shown) == Picture(shown).svg() == to_svg(shown)
    assert to_text(shown) == repr(Picture(shown))


def test_a_recording_is_drawn_from_its_page_view() -> None:
    recorded = read_recording(DATA_DIR / "named-6.18.json.gz").named("fork-both-write")
    shown: list[Scene] = [picture.scene for picture in pictures(recorded)]
    assert all(one.tables_only and not one.counters for one in shown)
    assert all(folio.counts is None for one in shown for folio in one.folios)
    assert {role for one in shown for folio in one.folios for role in folio.roles()} == {"new", "mapped", "held"}


# --- foreign names --------------------------------------------------------------------------------------------------

FOREIGN = "<b>&\"'mine\x00\x1b[31m\u202e\ud800\r</b>"


def test_foreign_names_cannot_break_the_picture() -> None:
    policy = LINUX_6_9.but(name=FOREIGN)
    picture = Picture.of(COPY.run(policy))
    root = ET.fromstring(picture.svg())
    heading = next(text for text in root.iter(f"{SVG}text")).text or ""
    assert heading.startswith("<b>&\"'mine\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m")
    assert not root.findall(f".//{SVG}b")
    assert "\x1b" not in picture.text()
    picture.svg().encode()
    ET.fromstring(stacked(FOREIGN, [(FOREIGN, picture)], (FOREIGN, FOREIGN), told=FOREIGN))
    assert ET.fromstring(Decision(COPY.run(policy)[2].faults[-1], policy).svg()) is not None


def test_every_number_of_a_folio_is_said_in_words() -> None:
    """Who meets ``refs 30→29`` for the first time has no table at hand."""
    for name in ("two-children", "pin-blocks-reuse", "lazy-free-part", "half-unmapped", "huge-fork-write-exit-write"):
        for picture in pictures(Scenario.load(name).run("linux-6.15")):
            for folio in picture.scene.folios:
                told = folio.told()
                assert told.startswith(f"folio {folio.name} (")
                for fact in folio.facts()[1:]:
                    explained = told.partition(f"{fact}{' (before the step → now)' * ('→' in fact)}: ")[2]
                    assert len(explained.partition(";")[0]) > 20, fact


def test_bytes_and_page_numbers_say_which_they_are() -> None:
    svg = Scenario.parse("pages 16\norders 4\nwrite 0 5 105").run("linux-6.15").show().svg()
    assert (svg.count(">byte<"), svg.count(">page<")) == (1, 1)
    untouched = Scenario.parse("pages 16\norders 4\nread 0 5").run("linux-6.15").show().svg()
    assert untouched.count(">byte<") == 0


@pytest.mark.parametrize("other", ["linux-6.9", "rfc-v2"])
def test_counters_of_two_runs_stand_in_the_same_rows_at_every_step(other: str) -> None:
    """Each takes a path first that the other takes later, or never."""
    for name in ("child-unmaps-most", "pin-blocks-reuse"):
        program = Scenario.load(name)
        panes = lined_up([scenes(program.run(policy)) for policy in ("linux-6.15", other)])
        rows = {tuple(counter.what for counter in one.counters) for pane in panes for one in pane}
        assert len(rows) == 1
        assert [{counter.what: counter.now for counter in one.counters}["faults"] for one in panes[0]][-1] > 0
