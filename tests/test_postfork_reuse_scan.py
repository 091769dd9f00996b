"""Notebook 07: what it says of five answers, their costs and their misses is what the library and the recordings do."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from anonfolio import LINUX_6_3, LINUX_6_8, LINUX_6_9, LINUX_6_15, RFC_V2, RFC_V2_FIXED, Machine, Policy, Scenario
from anonfolio.exercises import postfork_reuse_scan as q
from anonfolio.kernel.pagetable import PTE_SPECIAL
from anonfolio.kernel.record import COW_COPY, REUSE
from anonfolio.program.random_programs import random_scenario
from anonfolio.program.scenario import do_step

LARGE_AWARE = (LINUX_6_8, LINUX_6_9, RFC_V2, RFC_V2_FIXED, LINUX_6_15)


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    everything = (q.freed, q.copies, q.alone_at_last, q.scanned, q.blind, q.moments)
    for one in everything:
        one.forget()
    yield
    for one in everything:
        one.forget()


def random_moments(programs: int) -> Iterator[tuple[Machine, Any, int]]:
    """Every moment of random programs at which a write is about to ask whether it is alone."""
    for seed in range(programs):
        scenario = random_scenario(seed, "mixed", sizes=(2, 3, 4))
        machine = scenario.machine(LINUX_6_15)
        for step in scenario.steps:
            if step[0] == "write":
                page = scenario.first_vpn + step[2]
                if q._may_ask(machine.process(step[1]), page):
                    yield machine, step, page
            do_step(machine, step, scenario.first_vpn)


# --- after the exit -------------------------------------------------------------------------------------------------


def test_the_exit_makes_nothing_exclusive_and_the_misconception_is_known() -> None:
    assert q.freed.answer == "c"
    said = q.freed.check("b")
    assert said.kind == "wrong"
    assert "the child's exit makes it exclusive again" in said.lines[0]
    assert q.freed.check("c").kind == "right"
    assert {mistake.answer for mistake in q.freed.mistakes} == {"a", "b", "d"}


@pytest.mark.parametrize("kernel", ["6.18", "7.3"])
def test_bit_56_comes_back_with_the_exit_and_the_write_still_faults(kernel: str) -> None:
    rows = [line.split()[-5:] for line in q.seen(kernel).splitlines()[2:]]
    assert rows == [
        ["1x", "yes", "yes", "1", "0"],
        ["2x", "no", "no", "0", "0"],
        ["1x", "no", "no", "1", "0"],
        ["1x", "yes", "yes", "1", "1"],
    ]


def test_a_page_that_is_mapped_once_may_still_be_in_a_pipe_and_every_kernel_copies_it() -> None:
    timeline = q.piped.run(LINUX_6_15)
    folio = timeline[18].snapshot.folios[0]
    assert (folio.mapcount[3], folio.refcount) == (1, 17)
    assert [q.piped.run(policy)[-1].faults[-1].path for policy in q.FIVE] == [COW_COPY] * 5
    assert q.asked(q.piped, 19).count("copies") == 5


# --- five answers ---------------------------------------------------------------------------------------------------


def test_each_policy_asks_its_own_question() -> None:
    _, *lines = q.asked(q.gone, q.EXITED + 1).splitlines()
    wanted = [
        ("linux-6.3", "folio_ref_count == 1", "refcount 1", "reuses 1"),
        ("linux-6.8", "folio_ref_count == 1", "refcount 16", "copies 1"),
        ("linux-6.9", "!folio_test_large", "order 4", "copies 1"),
        ("rfc-v2", "folio_ref_count == pages of the range", "16 references, 16 pages", "reuses 16"),
        ("linux-6.15", "folio_large_mapcount == folio_ref_count", "mappings 16, references 16", "reuses 1"),
    ]
    for line, row in zip(lines, wanted, strict=True):
        assert " ".join(line.split()) == " ".join(row)


def test_what_the_answers_cost() -> None:
    found = q.answers(q.gone, since=q.EXITED + 1)
    assert found.pages == tuple(range(16))
    assert [row.letters for row in found.rows] == ["R" * 16, "C" * 15 + "R", "C" * 16, "R" + "·" * 15, "R" * 16]
    assert [row.faults for row in found.rows] == [16, 16, 16, 1, 16]
    assert [row.copied for row in found.rows] == [0, 15, 16, 0, 0]
    assert [row.scanned for row in found.rows] == [0, 0, 0, 16, 0]
    assert [(row.held, row.unmapped) for row in found.rows] == [(16, 0), (31, 15), (16, 0), (16, 0), (16, 0)]


def test_the_small_folios_of_6_3_took_16_faults_to_fill() -> None:
    filled = q.gone.run(LINUX_6_3).results[:16]
    assert [len(result.faults) for result in filled] == [1] * 16


def test_answers_say_the_same_in_text_and_in_html() -> None:
    found = q.answers(q.hole, since=18)
    assert "linux-6.15  RR" in repr(found)
    html = found._repr_html_()
    for row in found.rows:
        assert html.count(f">{row.policy}<") == 1
    assert html.count(">C</td>") == sum(row.letters.count("C") for row in found.rows) == 6
    assert ">5</th>" in html
    assert ">10</th>" in html


def test_a_2_mib_folio_split_before_the_exit_is_copied_by_6_1_and_6_12_and_reused_since_6_18() -> None:
    huge = Scenario.load("huge-fork-write-exit-write")
    assert [q.copied_by(kernel, huge, 0) for kernel in ("6.1", "6.12", "6.18", "7.3")] == [3, 3, 1, 1]
    writes = [("write", 0, page, 1) for page in range(512)]
    rows = q.answers(huge.but(steps=[*huge.steps[:4], *writes]), since=4).rows
    assert [(row.faults, row.copied, row.held) for row in rows] == [
        (511, 510, 1023), (511, 510, 1023), (511, 511, 512), (1, 0, 528), (511, 0, 513),
    ]  # fmt: skip


def test_the_recorded_kernel_copies_all_16_and_other_counts_are_known() -> None:
    assert q.copies.answer == 16
    assert "6.8, by its source" in q.copies.check(15).lines[0]
    assert q.copies.check(0).kind == "wrong"
    assert len({mistake.answer() if callable(mistake.answer) else mistake.answer for mistake in q.copies.mistakes}) == 3


def test_the_hole_stops_the_scan_at_11_of_15() -> None:
    check = q.hole.run(RFC_V2)[19].faults[-1].decided_by
    assert check is not None
    assert check.saw == "15 references, 11 pages"
    assert q.hole.run(LINUX_6_15)[19].faults[-1].path == REUSE


# --- the slots ------------------------------------------------------------------------------------------------------


def test_the_slots_of_the_third_process() -> None:
    rows = q.slots(q.third).splitlines()
    assert rows[3].split()[-7:] == ["P0:", "16,", "P1:", "16", "P2:", "16", "set"]
    assert rows[5].startswith("munmap 0 0 16")
    assert rows[5].split()[-4:] == ["-", "P2:", "16", "set"]
    assert rows[-1].endswith("the folio is free")
    assert "P0: 15" in q.slots(Scenario.load("two-children")).splitlines()[-1]
    assert q.slots(Scenario.load("two-children")).splitlines()[-1].endswith("clear")


def test_the_panel_has_a_text_for_every_moment_of_a_stepper() -> None:
    timeline = q.third.run(LINUX_6_15)
    panel = q.slot_panel(timeline)
    assert len(panel) == len(timeline) + 1
    assert "no slot  P2" in panel[21]
    assert "shared   yes" in panel[21]
    assert panel[-1] == "folio A is free"


def test_the_third_process_copies_all_on_the_recorded_kernel() -> None:
    assert q.alone_at_last.answer == 16
    for wrong in (0, 1, 15):
        assert q.alone_at_last.check(wrong).lines[0] != "`q.alone_at_last.hint()` helps."


def test_only_who_came_third_can_be_unknown() -> None:
    found = q.survivors(steps=6)
    assert found.unknown[0] == found.unknown[1] == 0
    assert found.unknown[2] > 0
    assert all(found.known[process] > 0 for process in range(4))
    assert repr(found).startswith(f"{found.programs:,} programs")


# --- the rules against the truth ------------------------------------------------------------------------------------


def test_asking_a_rule_is_what_a_write_would_do_and_changes_nothing() -> None:
    asked = 0
    for machine, (_, number, _, byte), page in random_moments(60):
        process = machine.process(number)
        before = machine.memory.refcount.copy(), machine.counters.copy()
        for policy in LARGE_AWARE:
            twin = machine.copy()
            twin.policy = policy
            path = twin.process(number).write(page, byte).path
            assert q.says_alone(policy, process, page) is (path == REUSE)
            assert path in (REUSE, COW_COPY)
            asked += 1
        assert (machine.memory.refcount == before[0]).all()
        assert machine.counters == before[1]
    assert asked > 200


def test_alone_is_that_nobody_else_maps_or_holds_the_folio() -> None:
    seen = Counter[bool]()
    for machine, (_, number, _, _), page in random_moments(60):
        process = machine.process(number)
        frames = machine.memory.frames_of(int(machine.memory.folio_of[process.mm.pfn[page]]))
        others = sum(
            int(((other.mm.pte > 0) & (other.mm.pte & PTE_SPECIAL == 0)
                 & (other.mm.pfn >= frames.start) & (other.mm.pfn < frames.stop)).sum())
            for other in machine.live() if other is not process
        )  # fmt: skip
        held = any(
            frames.start <= pfn < frames.stop
            for other in machine.live()
            for pin in other.pins().values()
            for pfn in pin.frames
        )
        assert q.alone(process, page) is (others == 0 and not held)
        seen[q.alone(process, page)] += 1
    assert min(seen.values()) > 10


def test_no_rule_ever_reuses_what_somebody_else_has_and_they_miss_more_or_less() -> None:
    found = q.tally(120)
    reused = Counter[str]()
    for policy, count in found.counts.items():
        for (own, says), times in count.items():
            assert own or not says, policy
            reused[policy] += times * says
    assert reused["linux-6.15"] > reused["rfc-v2"] > reused["linux-6.8"] >= reused["linux-6.9"] == 0
    assert all(line.endswith(" 0") for line in repr(found).splitlines()[2:])


@pytest.mark.long
def test_what_6_15_misses_is_a_last_page_or_a_process_without_a_slot() -> None:
    missed = Counter[str]()
    for machine, (_, number, _, _), page in random_moments(300):
        process = machine.process(number)
        if not q.alone(process, page) or q.says_alone(LINUX_6_15, process, page):
            continue
        folio = int(machine.memory.folio_of[process.mm.pfn[page]])
        if machine.memory.large_mapcount[folio] == 1:
            missed["last page"] += 1
            continue
        assert process.mm.id not in machine.memory.mm_id[folio]
        missed["no slot"] += 1
    assert missed == {"last page": 2, "no slot": 4}


def test_what_each_misses_and_the_kernels_that_ran() -> None:
    found = q.matrix()
    assert found.policies == ("6.3", "6.8", "6.9", "rfc-v2", "6.15")
    for _, letters in found.rows.values():
        assert letters[5] == letters[2], "6.12 as 6.9"
        assert letters[6] == letters[4], "6.18 as 6.15"
    missed = {
        policy: {name for name, (is_alone, letters) in found.rows.items() if is_alone and letters[at] == "C"}
        for at, policy in enumerate(found.policies)
    }
    assert missed["6.15"] == {"one page is left", "third process, alone"}
    assert missed["rfc-v2"] == {"one page was dropped", "half is read-only", "half was moved away"}
    assert missed["6.3"] == set()
    leaks = [name for name, (is_alone, letters) in found.rows.items() if not is_alone and "R" in letters[1:]]
    assert leaks == []
    assert {name for name, (_, letters) in found.rows.items() if letters[1] == "R"} == {"one page is left"}
    assert found._repr_html_().count(">R</td>") == sum(letters.count("R") for _, letters in found.rows.values())
    assert repr(found).splitlines()[2].split()[-8:] == ["yes", "R", "C", "C", "R", "R", "C", "R"]


def test_a_program_that_is_told_beside_the_table_is_the_one_that_was_run() -> None:
    head, *lines = q.programs().splitlines()
    assert head.split() == ["write", "0", "0..15,", "then"]
    letters = {moment: letters for moment, (_, letters) in q.matrix().rows.items()}
    for line in lines:
        moment, steps = line[:23].strip(), line[23:].replace(" · ", "\n")
        told = Scenario.parse(f"pages 40\norders 4\nwrite 0 0..15\n{steps}")
        path = told.run(LINUX_6_15)[-1].faults[-1].path
        assert q.LETTERS[path] == letters.pop(moment)[4]
    assert not letters


@pytest.mark.parametrize(
    ("policy", "waste"), [(LINUX_6_8, 15), (LINUX_6_9, 0), (RFC_V2, 15), (LINUX_6_15, 0)], ids=lambda value: str(value)
)
def test_who_keeps_15_pages_for_the_last_one(policy: Policy, waste: int) -> None:
    assert Scenario.load("one-page-left").run(policy)[-1].snapshot.waste_pages == waste


def test_where_each_keeps_a_half_every_page_is_mapped_once() -> None:
    scenario = Scenario.load("each-keeps-a-half")
    before = scenario.but(steps=scenario.steps[:-3]).run(LINUX_6_15)[-1].snapshot.folios[0]
    assert set(before.mapcount.tolist()) == {1}
    assert len(before.mm_ids) == 2


# --- the scan -------------------------------------------------------------------------------------------------------


def test_the_worked_scan_is_the_librarys() -> None:
    assert q.scanned.check(q.scan).head == "Right: the same as the library on all 200 cases."
    assert "def scan(" in q.scanned.solution().code
    assert q.scanned.check(lambda **_: None).kind == "ask"


def test_the_cases_make_the_state_that_they_describe() -> None:
    sizes = Counter[int]()
    for case, right in q.scanned.cases:
        scenario = q._scenario(**case)
        before = scenario.but(steps=scenario.steps[:-1]).end(RFC_V2)
        mm, memory = before.process(0).mm, before.memory
        vma = mm.find_vma(case["page"])
        assert vma is not None
        assert range(vma.start, vma.end) == case["mapping"]
        folio = memory.folio_of[mm.pfn[case["page"]]]
        mapped = {at for at in range(q.PAGES) if mm.pte[at] and memory.folio_of[mm.pfn[at]] == folio}
        assert mapped == case["folio"]
        assert memory.refcount[folio] == case["references"]
        assert not memory.anon_exclusive[memory.frames_of(int(folio))].any()
        assert scenario.end(RFC_V2).faults[-1].path in (REUSE, COW_COPY)
        sizes[len(right)] += 1
    assert sizes[0] > 50
    assert sum(sizes.values()) - sizes[0] > 40
    assert len(sizes) > 4


@pytest.mark.sweep(3)
@pytest.mark.parametrize("says", q.scanned.wrong)
def test_a_scan_with_a_known_mistake_is_told_which(says: str) -> None:
    said = q.scanned.check(q.scanned.wrong[says])
    assert said.kind == "wrong"
    assert said.lines[-1] == says
    assert said.picture is not None


def test_known_mistakes_differ_from_each_other() -> None:
    answers = {
        says: tuple(wrong(**copy.deepcopy(case)) for case, _ in q.scanned.cases)
        for says, wrong in q.scanned.wrong.items()
    }
    assert len(set(answers.values())) == len(answers)


# --- blinding mm_id -------------------------------------------------------------------------------------------------


def test_the_worked_program_blinds_6_15_and_nobody_else() -> None:
    said = q.blind.check(q.daemon.text())
    assert said.kind == "right"
    assert "process 2 is alone" in said.head
    assert said.picture is not None
    assert q.daemon.run(LINUX_6_15)[-1].faults[-1].path == COW_COPY
    assert q.daemon.run(RFC_V2)[-1].faults[-1].path == REUSE
    assert "fork 1" in q.blind.solution().code


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ("fork 0\nfork 0\nexit 1\nexit 0", "Process 0 forks 2 times"),
        ("fork 0\nexit 0\nfork 1\nexit 1", "a slot names it"),
        ("fork 0\nexit 1", "a slot names it"),
        ("fork 0\nfork 1\nexit 0", "Processes 1, 2 map the folio"),
        ("fork 0\nwrite 0 0..14\nexit 1", "One page is left"),
        ("write 0 3 1", "nobody ever shared"),
        ("exit 0", "nobody maps a large folio"),
    ],
)
def test_a_program_that_blinds_nobody_is_told_why(steps: str, told: str) -> None:
    said = q.blind.check(f"pages 16\nwrite 0 0..15\n{steps}")
    assert said.kind == "wrong"
    assert told in said.lines[0]
    assert said.picture is not None or "forks" in told


def test_other_operations_are_not_allowed() -> None:
    assert "only write, fork, exit" in q.blind.check(q.third).lines[0]
    assert q.blind.check(...).kind == "ask"


# --- six moments ----------------------------------------------------------------------------------------------------


def test_every_answer_is_some_moments_and_wrong_ones_are_answers() -> None:
    right = {letter: case.truth() for letter, case in q.moments.cases.items()}
    assert set(right.values()) == set(q.moments.answers)
    assert q.moments.check(**right).head == "6 of 6 right."
    for case in q.moments.cases.values():
        assert set(case.wrong) <= set(q.moments.answers) - {case.truth()}
        assert case.picture is not None
        assert "<svg" in case.picture().svg()


def test_needed_means_that_somebody_else_has_the_very_page() -> None:
    def moment(steps: str) -> str:
        return q._moment(Scenario.parse(f"pages 16\nwrite 0 0..15\n{steps}"))

    assert moment("fork 0\nexit 1\nref 0 3 0\nwrite 0 3 103") == q.NEEDED
    assert moment("fork 0\nexit 1\nref 0 3 0\nwrite 0 4 104") == q.NOT_NEEDED
    assert moment("fork 0\nwrite 0 3 103") == q.NEEDED
    assert moment("fork 0\nexit 1\nwrite 0 3 103") == q.REUSED
