"""Notebook 11: what it says of each field is what the stored experiments hold, and its questions know their answers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anonfolio import LINUX_6_8, LINUX_6_9, LINUX_6_15, Scenario, policy_for_kernel
from anonfolio.exercises import your_kernel as q
from anonfolio.witness import fields as library
from anonfolio.witness.comparing import iter_differences
from anonfolio.witness.counted import iter_count_differences, model_counts
from anonfolio.witness.fields import EXPERIMENTS, FieldsError, differing, read_fields, stored, write_fields

NAMES = tuple(EXPERIMENTS)


@pytest.fixture(autouse=True)
def nobody_has_answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(library.LIVE, raising=False)
    asked = (q.huge, q.faults, q.differs, q.tells, q.sizes, q.mine)
    for one in asked:
        one.forget()
    yield
    for one in asked:
        one.forget()


# --- the stored experiments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_is_stored_is_what_the_recorder_would_do(name: str) -> None:
    scenario, moments = EXPERIMENTS[name]
    kept = stored()[name]
    assert kept.scenario == scenario
    assert tuple(kept.looks) == tuple(kept.folios) == moments
    assert set(stored().experiments) == set(EXPERIMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_agrees_with_every_experiment(name: str) -> None:
    kept = stored()[name]
    timeline = kept.scenario.run(policy_for_kernel(stored().kernel))
    assert list(iter_differences(timeline, kept.recorded)) == []
    assert list(iter_count_differences(timeline, kept.recorded)) == []
    # Of several rounds the quietest count is kept: nobody else's reuse is left in it.
    for result, step in zip(timeline, kept.recorded.steps, strict=True):
        events = {
            key: count for key, count in step["counted"].items() if key.split("/")[0] in ("pgreuse", "anon_fault_alloc")
        }
        if result.step[0] in ("write", "read"):
            assert events == model_counts(result)


@pytest.mark.parametrize("name", NAMES)
def test_raw_words_say_what_the_recording_understood(name: str) -> None:
    kept = stored()[name]
    for done, looks in kept.looks.items():
        if not done:
            continue
        view = kept.recorded.steps[done - 1]["view"]
        for process, look in looks.items():
            cells = view[str(process)][: library.LOOK_PAGES]
            assert look.present.tolist() == [cell != 0 for cell in cells]
            assert look.once.tolist() == [isinstance(cell, list) and cell[3] == 1 for cell in cells]
            large = [isinstance(cell, list) and cell[2] > 1 for cell in cells]
            assert look.flag("thp").tolist() == large
            assert look.flag("tail").tolist() == [big and cell[1] > 0 for big, cell in zip(large, cells, strict=True)]
            assert look.flag("zero page").tolist() == [cell == "z" for cell in cells]


def test_a_file_survives_writing_and_a_broken_one_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "fields.json"
    write_fields(path, stored(), build="none")
    again = read_fields(path)
    assert str(again) == str(stored())
    for name in NAMES:
        assert again[name].recorded == stored()[name].recorded
        assert again[name].folios == stored()[name].folios
        for done, looks in stored()[name].looks.items():
            for process, look in looks.items():
                assert differing(look, again[name].look(done, process)) == []
    content = json.loads(path.read_text())
    large = json.loads(json.dumps(content["experiments"]["one folio"]))
    large["looks"]["0"]["0"]["pagemap"] = "f" * 40
    unseen = {**content["experiments"]["one folio"], "steps": [{}] * 16}
    experiments = [{"x": row} for row in ({}, large, unseen, [])]
    broken = [json.dumps({**content, "experiments": rows}) for rows in experiments]
    for damage in ("{", "[]", '{"format": "other"}', *broken):
        path.write_text(damage)
        with pytest.raises(FieldsError) as told:
            read_fields(path)
        assert "\n" not in str(told.value)
    with pytest.raises(FieldsError):
        read_fields(tmp_path / "nowhere.json")


# --- what the notebook says of the fields ---------------------------------------------------------------------------


def test_anon_huge_pages_counts_pmds_and_smaps_cannot_tell_one_folio_from_16() -> None:
    kept = stored()
    assert kept["one folio"].look(16).smaps["AnonHugePages"] == 0
    assert kept["2 MiB"].look(1).smaps["AnonHugePages"] == 2048
    assert kept["2 MiB"].look(2).smaps["AnonHugePages"] == 0
    assert [len(frames) for frames in kept["2 MiB"].folios[2]] == [512]
    found = differing(kept["one folio"].look(16), kept["16 folios"].look(32))
    assert found
    assert not [field for field in found if field.startswith(("smaps", "pagemap", "kpagecount"))]
    assert len(kept["one folio"].folios[16]) == 1
    assert len(kept["16 folios"].folios[32]) == 16
    # 16 reads and 16 writes, each a fault; one fault for the folio.
    assert kept["one folio"].counted("minflt") == 1
    assert kept["16 folios"].counted("minflt", 16) == 16


def test_the_zero_page_is_mapped_and_nobodys() -> None:
    look = stored()["zero page"].look(1)
    assert (look.present[3], look.flag("zero page")[3], look.once[3]) == (True, True, False)
    assert look.kpagecount[3] == look.smaps["Rss"] == 0


def test_bit_56_is_not_the_mark() -> None:
    gone = stored()["child gone"]
    assert not gone.look(17).once.any()
    assert gone.look(18).once.all()
    assert gone.counted("minflt", 18, 33) == gone.counted("pgreuse", 18, 33) == 15


def test_tails_show_the_flags_of_the_head() -> None:
    gone, head_first = stored()["child gone"], stored()["head first"]
    assert not gone.look(33).flag("exclusive").any()
    assert gone.counted("minflt", 33, 34) == 0  # page 1, which has the mark, is written freely
    assert gone.look(35).flag("exclusive").all()
    assert head_first.look(19).flag("exclusive").all()
    assert q.outcome(head_first, 19) == "reuse"  # page 1, which has not


def test_counters_tell_copy_reuse_and_no_fault() -> None:
    three = stored()["three writes"]
    assert [q.outcome(three, step) for step in (17, 19, 20)] == ["copy", "reuse", "no fault"]
    frames = [three.look(done).frames for done in (17, 18, 19, 21)]
    assert np.flatnonzero(frames[0] != frames[1]).tolist() == [4]
    assert (frames[2] == frames[3]).all()


def test_twins_read_the_same_and_go_on_differently() -> None:
    head, *rows = q.twins(stored()).splitlines()
    assert max(map(len, (head, *rows))) <= 106
    assert all(row.index("none") == head.index("fields that differ") for row in rows)
    assert [row.split("none")[1].split() for row in rows] == [
        ["copy", "/", "reuse"], ["copies", "16", "/", "copies", "0"], ["copy", "/", "reuse"],
    ]  # fmt: skip


def test_a_folio_is_held_whole_for_its_last_page() -> None:
    look = stored()["last page"].look(17)
    assert look.smaps["Rss"] == 4
    assert stored()["last page"].folios[17] == ((0,) * 15 + (1,),)
    assert stored()["last page"].counted("nr_anon_partially_mapped/4") == 1


def test_what_is_shown_has_the_models_marks_below_the_kernels() -> None:
    lines = q.shown(stored(), ("child gone", 33), ("head first", 19)).splitlines()
    rows = [line[27:].split() for line in lines if "exclusive" in line or "writable" in line]
    all_but_head, head = "." + 15 * "#", "#" + 15 * "."
    assert rows == [[16 * ".", 16 * "#"], [all_but_head, head], [all_but_head, head]]
    assert lines[-1].split() == ["references", "16", "16"]
    assert q.shown(stored(), ("one folio", 0)).endswith("no folio")
    assert q.shown(stored(), ("16 folios", 32)).endswith("1 each")


def test_differing_looks_both_ways_and_not_at_chance() -> None:
    one, other = stored()["one folio"].look(0), stored()["last page"].look(17)
    assert differing(one, other) == differing(other, one)
    assert {"smaps Rss", "pagemap 63", "kpagecount", "kpageflags 16"} <= set(differing(one, other))
    assert differing(one, one) == []
    other = stored()["one folio"].look(16)
    chance = np.uint64(1 << 5 | 1 << 25)
    later = replace(other, kpageflags=other.kpageflags ^ chance, pagemap=other.pagemap + np.uint64(16))
    assert differing(other, later) == []


# --- questions ------------------------------------------------------------------------------------------------------


def test_predictions_know_their_answers_and_their_mistakes() -> None:
    assert q.huge.check(0).kind == "right"
    assert "PMD" in q.huge.check(64).lines[0]
    assert q.faults.check(15).kind == "right"
    assert "mapped once" in q.faults.check(0).lines[0]
    assert q.differs.check("d").kind == "right"
    assert "smaps shows everything?" in q.differs.check("a").lines[0]
    for question in (q.huge, q.faults, q.differs):
        for mistake in question.mistakes:
            assert question.check(mistake.answer).lines[0] == mistake.says


def test_every_kind_of_field_tells_something_and_something_tells_nothing() -> None:
    right = {letter: case.truth() for letter, case in q.tells.cases.items()}
    assert set(right.values()) == set(q.tells.answers)
    assert q.tells.check(**right).head == "6 of 6 right."
    for case in q.tells.cases.values():
        assert set(case.wrong) == set(q.tells.answers) - {case.truth()}
        assert case.picture is not None
        assert case.picture().svg()


@pytest.mark.parametrize(
    ("letter", "answer", "told"),
    [
        ("c", "kpageflags", "Nothing that kpageflags shows differs."),
        ("f", "pagemap", "It tells, but an earlier file does, too."),
        ("c", "nothing", "Something does: smaps Pss"),
        ("a", "nothing", "Something does: kpageflags 15, kpageflags 16, kpageflags 22."),
    ],
)
def test_a_wrong_file_hears_what_differs(letter: str, answer: str, told: str) -> None:
    said = q.tells.check(**{letter: answer})
    assert said.kind == "wrong"
    assert said.lines[1].startswith(f"You say {answer}. {told}")


def test_words_of_flags_are_shown_as_bits_are_read_and_a_number_is_no_list() -> None:
    said = q.sizes.check(lambda flags: 4)
    assert re.match(r"`folio_sizes\(flags=\[0x[0-9a-f]+, ", said.lines[0])
    assert "A list is wanted; int is another kind." in said.lines
    assert "is wanted" not in repr(q.sizes.check(lambda flags: [len(flags)]))
    # They are numbers all the same.
    assert q.Word(1 << 16) >> 16 & 1 == 1


def test_below_smaps_stand_the_folios_of_another_file() -> None:
    lines = q.smaps(stored(), ("one folio", 16), ("last page", 17)).splitlines()
    assert lines[-4:-2] == ["", "from kpageflags"]
    assert [line.split()[-2:] for line in lines[-2:]] == [["1", "1"], ["16", "16"]]


def test_the_worked_walk_is_right_and_wrong_ones_are_recognised() -> None:
    assert q.sizes.check(q.folio_sizes).kind == "right"
    for says, wrong in q.sizes.wrong.items():
        assert q.sizes.check(wrong).lines[-1] == says
    real = stored()["one folio"].look(16).kpageflags.tolist()
    assert q.folio_sizes(real) == [16]
    assert q.folio_sizes(stored()["16 folios"].look(32).kpageflags.tolist()) == [1] * 16


def test_a_program_that_parts_the_two_is_right_and_hears_the_witness() -> None:
    said = q.mine.check(Scenario.load("one-page-left").text())
    assert said.kind == "right"
    assert said.lines == (
        "Linux 6.12.117, recorded: 1 step differs from linux-6.8, 0 from linux-6.9. Here it behaves like linux-6.9.",
    )
    # Which byte is written decides nothing.
    other = q.mine.check(Scenario.load("one-page-left").text().replace("write 0 15 115", "write 0 15 1"))
    assert other.lines == said.lines
    unknown = q.mine.check("pages 16\norders 4\nwrite 0 0..15\nfork 0\nexit 1\nmunmap 0 0 15\nwrite 0 15 1")
    assert unknown.kind == "right"
    assert "No recorded kernel ran this program" in unknown.lines[0]


def test_the_last_hint_is_a_program_that_recorded_kernels_ran() -> None:
    told = q.mine.hints[-1]
    assert told.index("munmap") < told.index("fork") < told.index("exit") < told.index("write 0 15 115")
    kinds = [step[0] for step in Scenario.load("one-page-left").steps]
    assert kinds == ["write"] * 16 + ["munmap", "fork", "exit", "write"]
    for kernel in ("6.12", "6.18"):
        assert q.witness(Scenario.load("one-page-left"), kernel=kernel) is not None
    assert policy_for_kernel(q.PAIR_KERNEL) == LINUX_6_9


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("pages 16\nwrite 0 0..15", "No such write is here"),
        (Scenario.load("child-writes-and-exits").text(), "one reference left"),
        ("pages 16\nfork 0\nunpin 0 0", "is refused"),
    ],
)
def test_a_program_that_does_not_is_told_why(program: str, told: str) -> None:
    said = q.mine.check(program)
    assert said.kind == "wrong"
    assert told in said.lines[0]


# --- whom to ask ----------------------------------------------------------------------------------------------------


def test_it_says_in_one_line_that_it_looks_at_recordings(capsys: pytest.CaptureFixture[str]) -> None:
    assert q.ask() is stored()
    told = capsys.readouterr().out
    assert told.startswith("Recorded on Linux 6.18.44.")
    assert told.count("\n") == 1


def test_where_nothing_can_run_live_it_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(library.LIVE, "1")
    monkeypatch.setattr(sys, "platform", "elsewhere")
    assert q.ask() is stored()
    told = capsys.readouterr().out
    assert told.startswith("Not live: ")
    assert told.count("\n") == 1
    assert q.against(q.one_folio, LINUX_6_15).startswith("Not live: ")
    said = q.mine.check(Scenario.load("one-page-left"))
    assert said.kind == "right"
    assert said.lines[0].startswith("Your kernel was not asked: ")


def test_the_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not library.live_wanted()
    assert library.live_wanted(True)
    for word, wanted in (("1", True), ("yes", True), ("0", False), ("", False), ("no", False)):
        monkeypatch.setenv(library.LIVE, word)
        assert library.live_wanted() is wanted
        assert not library.live_wanted(False)


def test_a_recorded_program_is_known_by_its_steps_whatever_it_is_called() -> None:
    known = Scenario.load("child-writes-and-exits")
    said = q.against(known.but(name="mine"), LINUX_6_15, LINUX_6_9).splitlines()
    assert said[0] == "Linux 6.18.15, recorded, 21 steps"
    assert said[1] == "linux-6.15   differs in 0 steps"
    assert said[2].startswith("linux-6.9    differs in 2 steps, first in 20: ")
    assert "not recorded" in q.against(known.but(steps=known.steps[:-1]), LINUX_6_8)
    last = next(at for at, step in reversed(list(enumerate(known.steps))) if step[0] == "write")
    steps = (*known.steps[:last], (*known.steps[last][:-1], 250), *known.steps[last + 1 :])
    assert q.against(known.but(steps=steps), LINUX_6_15, LINUX_6_9).splitlines() == said
    older = q.against(known, LINUX_6_9, kernel="6.12").splitlines()
    assert older == ["Linux 6.12.117, recorded, 21 steps", "linux-6.9    differs in 0 steps"]


@pytest.mark.live
def test_this_kernel_shows_what_the_stored_one_showed() -> None:
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live.fields import live_fields
    from anonfolio.witness.live.kernel import check_machine, kernel_version

    try:
        check_machine()
    except LiveError as error:
        pytest.skip(str(error))
    if kernel_version() != stored().kernel:
        pytest.skip(f"the stored fields are of {stored().kernel}")
    now = live_fields(rounds=2)
    for name in NAMES:
        assert [step["view"].keys() for step in now[name].recorded.steps] == [
            step["view"].keys() for step in stored()[name].recorded.steps
        ]
        for done, looks in stored()[name].looks.items():
            for process, look in looks.items():
                # The zero page is everybody's: whether somebody referenced it of late, bit 2, is not ours to say.
                others = {"kpageflags 2"} if look.flag("zero page").any() else set()
                assert set(differing(look, now[name].look(done, process))) <= others, (name, done, process)


def test_the_hidden_state_is_shown_page_by_page_and_this_process_only_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANONFOLIO_LIVE", raising=False)
    rows = {line[:15].strip(): line[15:].split() for line in q.hidden().splitlines()[1:]}
    assert rows["write 0 15 16"][-1] == "◆" * 16
    assert rows["write 0 5 9"][-1] == "." * 5 + "◆" + "." * 10
    assert rows["munmap 0 5 1"][-4:-1] == ["no", "yes", "yes"]
    assert "ANONFOLIO_LIVE=1" in q.myself()
