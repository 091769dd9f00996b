"""Notebook 06: what it says of its three kernels, its stored program and its exercises is what the library does."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from anonfolio import LINUX_6_3, LINUX_6_15, RFC_V2, RFC_V2_FIXED, Policy, Scenario, replay
from anonfolio.exercises import exclusive_pitfalls as q
from anonfolio.kernel.record import COW_COPY
from anonfolio.program.search import Counterexample, counterexample


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    asked = (q.device, q.half, q.culprits, q.program, q.promise, q.copied)
    for one in asked:
        one.forget()
    yield
    for one in asked:
        one.forget()


# --- the three kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "beside", "read_pin"),
    [
        (q.ash, True, True), (q.birch, False, True), (q.cedar, False, False),
        (LINUX_6_15, False, False), (RFC_V2, True, False), (RFC_V2_FIXED, False, False),
    ],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_who_loses_which_byte(policy: Policy, beside: bool, read_pin: bool) -> None:
    assert q.loses(policy, q.beside) is beside
    assert q.loses(policy, q.read_pin) is read_pin


def test_5_10_loses_a_write_and_the_search_finds_how() -> None:
    old = Policy.at("5.10")
    device, _, process = [result.value for result in q.moment.run(old).results[7:]]
    assert (device, process) == (11, 99)
    assert q.device.check(device).kind == "right"
    assert [result.value for result in q.moment.run(LINUX_6_3).results[7:]] == [99, None, 221]
    assert replay(q.lost_on_5_10).mismatches == ()
    found = counterexample(old, pages=1, steps=4, operations=("write", "pin", "mprotect"))
    assert isinstance(found, Counterexample)
    assert found.steps == 4


def test_from_a_half_wiped_folio_the_search_breaks_the_proposal_in_three_steps_and_not_its_repair() -> None:
    operations = ("write", "pin", "keeponfork")
    found = counterexample(RFC_V2, start=q.begun, steps=3, operations=operations)
    assert isinstance(found, Counterexample)
    end = found.scenario.run(RFC_V2)[-1]
    assert end.value != found.scenario.run(LINUX_6_15)[-1].value == found.scenario.steps[-2][-1]
    assert not counterexample(RFC_V2_FIXED, start=q.begun, steps=3, operations=operations)


def test_the_hunt_says_what_is_lost_and_what_is_refused() -> None:
    said = q.hunt(q.beside).splitlines()
    assert said[:2] == ["ash    faults: alloc4 copy4", "       page 10: the process sees 11, the device 221  <- lost"]
    assert sum("<- lost" in line for line in said) == 1
    assert q.hunt("pages 16\nread 0 3\nunpin 0 0").count("step 2 is refused: ") == len(q.KERNELS)


def test_what_the_owner_unmapped_is_nobodys_loss() -> None:
    machine = Scenario.parse("pages 16\nwrite 0 0..15\npin 0 9 2 0\nmunmap 0 10 1\nref 0 3 0").end()
    assert [page for page, _, _ in q.both_sides(machine)] == [9]


# --- the program ----------------------------------------------------------------------------------------------------


def test_the_worked_program_is_right_and_drawn() -> None:
    said = q.program.check(q.read_pin.text())
    assert said.kind == "right"
    assert "process sees 110, the device 11" in said.head
    assert "Under linux-6.15 the same program is harmless." in said.lines[0]
    assert said.picture is not None
    assert "pin_ro 0 10 1 0" in q.program.solution().code


def test_a_scenario_is_as_good_as_its_text() -> None:
    assert q.program.check(q.read_pin).kind == "right"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (q.beside.text(), "Under ash it does"),
        ("pages 16\nwrite 0 0..15", "no page is both pinned and still mapped"),
        ("pages 16\nwrite 0 0..15\npin 0 10 1 0\nmunmap 0 10 1", "no page is both pinned and still mapped"),
        ("pages 16\nwrite 0 0..15\npin 0 10 1 0\nwrite 0 2 9", "is where it was pinned"),
        (q.read_pin.but(steps=q.read_pin.steps[:-1]).text(), "Nearly"),
    ],
)
def test_a_program_that_loses_nothing_is_told_how_far_it_came(program: str, told: str) -> None:
    said = q.program.check(program)
    assert said.kind == "wrong"
    assert said.head == "No byte is lost under birch."
    assert told in said.lines[0]
    assert said.picture is not None


def test_a_program_that_cannot_run_is_told_why() -> None:
    assert "says how many pages" in q.program.check("write 0 0 1").lines[0]
    refused = q.program.check("pages 16\nwrite 0 0..15\nexit 0\nwrite 0 3 1")
    assert refused.kind == "wrong"
    assert "Step 2" in q.program.check("pages 16\nread 0 3\nunpin 0 0").lines[0]


def test_an_unwritten_program_is_asked_for() -> None:
    assert q.program.check(...).kind == q.program.check(None).kind == "ask"


# --- the other exercises --------------------------------------------------------------------------------------------


def test_every_fate_of_a_promise_is_some_cases_answer() -> None:
    right = {letter: case.truth() for letter, case in q.promise.cases.items()}
    assert set(right.values()) == set(q.promise.answers)
    assert q.promise.check(**right).head == "6 of 6 right."
    for case in q.promise.cases.values():
        assert set(case.wrong) <= set(q.promise.answers) - {case.truth()}


def test_the_worked_range_is_the_librarys() -> None:
    assert q.copied.check(q.copy_range).head == "Right: the same as the library on all 200 cases."
    assert "def copy_range(" in q.copied.solution().code


def test_the_cases_make_the_state_that_they_describe() -> None:
    sizes = set()
    for case, right in q.copied.cases:
        scenario = q._scenario(**case)
        before = scenario.but(steps=scenario.steps[:-1]).end(RFC_V2_FIXED)
        mm, memory = before.process(0).mm, before.memory
        vma = mm.find_vma(case["page"])
        assert vma is not None
        assert range(vma.start, vma.end) == case["mapping"]
        folio = memory.folio_of[mm.pfn[case["page"]]]
        in_step = mm.pfn[case["page"]] - case["page"]
        mapped = [at for at in range(q.PAGES) if mm.pte[at] and memory.folio_of[mm.pfn[at]] == folio]
        assert set(mapped) == case["folio"]
        assert all(mm.pfn[at] == in_step + at for at in mapped)
        assert {at for at in mapped if memory.anon_exclusive[mm.pfn[at]]} == case["exclusive"]
        assert scenario.end(RFC_V2_FIXED).faults[-1].path == COW_COPY
        sizes.add(len(right))
    assert sizes == {1, 4, 8, 16}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("says", q.copied.wrong)
def test_a_range_with_a_known_mistake_is_told_which(says: str) -> None:
    said = q.copied.check(q.copied.wrong[says])
    assert said.kind == "wrong"
    assert said.lines[-1] == says
    assert said.picture is not None


def test_known_mistakes_differ_from_each_other() -> None:
    answers = {
        says: tuple(wrong(**copy.deepcopy(case)) for case, _ in q.copied.cases)
        for says, wrong in q.copied.wrong.items()
    }
    assert len(set(answers.values())) == len(answers)
