"""Notebook 03: what it says of fork is what the library and the recordings say; its exercises know their mistakes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from anonfolio import LINUX_6_3, LINUX_6_15, Recorded, Scenario, policy_for_kernel
from anonfolio.exercises import fork_and_share as q

KERNELS = ("6.12", "6.18", "7.3")


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    asked = (q.held, q.alone, q.own, q.counts, q.child)
    for one in asked:
        one.forget()
    yield
    for one in asked:
        one.forget()


def cells(program: Scenario, kernel: str, step: int, process: int) -> list[Any]:
    found: list[Any] = program.recorded(kernel).steps[step]["view"][str(process)]
    return found


# --- what it says of fork -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "step", "operation"),
    [
        (q.shared, q.WRITTEN, "write 0 15"), (q.shared, q.FORK, "fork 0"), (q.shared, q.EXIT, "exit 1"),
        (q.shared, q.WRITE, "write 0 0"), (q.pinned, q.PINNED_FORK, "fork 0"), (q.pinned_small, q.SMALL_FORK, "fork 0"),
        (q.kinds, q.KINDS_FORK, "fork 0"), (q.three, q.FIRST, "fork 0"), (q.three, q.THIRD, "fork 1"),
        (q.three, q.GONE, "exit 3"),
    ],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_the_steps_are_what_their_names_say(scenario: Scenario, step: int, operation: str) -> None:
    assert " ".join(map(str, scenario.steps[step])).startswith(operation)


@pytest.mark.parametrize("kernel", KERNELS)
def test_fork_copied_no_frame_on_any_recorded_kernel(kernel: str) -> None:
    parent, child = (q.frames(cells(q.shared, kernel, q.FORK, process)) for process in (0, 1))
    assert parent == child
    assert len(parent) == q.held.answer == 16


@pytest.mark.parametrize("kernel", KERNELS)
def test_mapped_once_again_and_yet_every_first_write_faults(kernel: str) -> None:
    recorded = q.shared.recorded(kernel)
    once = [q.mapped_once(cells(q.shared, kernel, step, 0)) for step in (q.WRITTEN, q.FORK, q.EXIT)]
    assert once == [16, 0, 16]
    assert [seen["faults"] for seen in recorded.steps[q.WRITE : q.WRITE + 16]] == [[[page, 7]] for page in range(16)]
    assert q.alone.answer == 0


def test_the_counts_return_when_the_child_exits_but_mark_and_right_to_write_do_not() -> None:
    timeline = q.shared.run(LINUX_6_15)
    seen = []
    for step in (q.WRITTEN, q.FORK, q.EXIT):
        at = timeline[step].snapshot
        (folio,) = at.folios
        writable = int(at.processes[0].mappings[0].writable.sum())
        exclusive = int(folio.anon_exclusive.sum())
        seen.append((writable, exclusive, folio.refcount, set(folio.mapcount.tolist()), at.rss_pages, at.held_pages))
    assert seen == [(16, 16, 16, {1}, 16, 16), (0, 0, 32, {2}, 32, 16), (0, 0, 16, {1}, 16, 16)]


def test_five_kinds_of_memory_and_what_the_child_finds() -> None:
    timeline = q.kinds.run(LINUX_6_15)
    reads = timeline.results[q.KINDS_FORK + 1 :]
    assert [read.step[2] for read in reads] == list(q.KINDS.values())
    found = [(read.value, read.faults[-1].path if read.faults else "") for read in reads]
    zero = (0, "zero page read")
    assert found == [(1, ""), (0, ""), zero, zero, (None, "sigsegv")]
    at = timeline[q.KINDS_FORK].snapshot
    assert q.writable(at) == set(range(8, 16))
    assert at.processes[1].mappings[-1].end == 12
    exclusive = {int(folio.content[0]): set(folio.anon_exclusive.tolist()) for folio in at.folios}
    assert exclusive == {1: {False}, 9: {True}, 13: {True}}


@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_pages_are_passed_on_where_something_was_written(kernel: str) -> None:
    def zeros(name: str) -> list[int]:
        return [cells(Scenario.load(name), kernel, -1, process).count("z") for process in (0, 1)]

    assert zeros("only-reads-then-fork") == [2, 0]
    assert zeros("reads-one-write-then-fork") == [1, 1]


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_a_pinned_folio_all_is_copied_of_pinned_pages_one(kernel: str) -> None:
    def copied(name: str) -> int:
        program = Scenario.load(name)
        mine, theirs = (q.frames(cells(program, kernel, q.PINNED_FORK, process)) for process in (0, 1))
        return len(theirs - mine)

    assert copied("fork-while-pinned") == len(q.own.answer) == 16
    assert copied("fork-while-pinned-base-pages") == 1


def test_the_small_pinned_program_shows_both() -> None:
    held = {policy: q.pinned_small.run(policy)[q.SMALL_FORK].snapshot.held_pages for policy in (LINUX_6_15, LINUX_6_3)}
    assert held == {LINUX_6_15: 16, LINUX_6_3: 9}
    before, after = (q.pinned_small.run(LINUX_6_15)[q.SMALL_FORK - back].snapshot for back in (1, 0))
    assert before.processes[0].mappings[0].writable.all()
    assert after.processes[0].mappings[0].writable.all()
    assert not any(result.faults for result in q.pinned_small.run(LINUX_6_15).results[q.SMALL_FORK :])


def test_a_pmd_is_one_reference_and_one_count_until_a_pin_splits_it() -> None:
    before, after = (result.snapshot.folios[0] for result in q.huge.run(LINUX_6_15))
    assert [(folio.refcount, set(folio.mapcount.tolist())) for folio in (before, after)] == [(1, {1}), (2, {2})]
    at = q.huge_pinned.run(LINUX_6_15)[-1].snapshot
    parent, child = (process.mappings[0] for process in at.processes)
    folio = at.folio_at(int(parent.pfn[0]))
    assert folio is not None
    assert (folio.refcount, folio.pincount) == (513, 1)
    assert folio.anon_exclusive.all()
    assert parent.writable.all()
    assert not parent.huge.any()
    assert set(parent.pfn.tolist()).isdisjoint(child.pfn.tolist())


def test_the_recorded_pin_on_2_mib_copies_512_pages_and_the_model_agrees() -> None:
    recorded = q.recorded_program("huge-6.18.44", 3)
    assert [step[0] for step in recorded.scenario.steps[:2]] == ["pin", "fork"]
    before, view = recorded.steps[0]["view"]["0"], recorded.steps[1]["view"]
    assert sum(cell != 0 and cell[2] == 512 for cell in before) == 512
    assert len(q.frames(view["1"]) - q.frames(view["0"])) == 512
    begun = recorded.scenario.but(steps=recorded.scenario.steps[:2])
    assert not Recorded(recorded.kernel, begun, recorded.steps[:2]).replay()


def test_the_recorded_fork_that_failed_left_read_only_entries_and_no_child() -> None:
    recorded = q.recorded_program("forkfail-6.18.44", 43)
    steps = recorded.scenario.steps[:13]
    assert "fork" not in [step[0] for step in steps]
    assert steps[5] == ("write", 0, 5, 2)
    assert [cell[1:3] for cell in recorded.steps[5]["view"]["0"][4:8]] == [[at, 4] for at in range(4)]
    assert [recorded.steps[number]["faults"] for number in (8, 12)] == [[], [[6, 7]]]
    assert (steps[8][2], steps[11][:1], recorded.steps[11]["ok"], steps[12][2]) == (7, ("forkfail",), False, 6)
    assert not recorded.replay()


@pytest.mark.parametrize("name", ["fork-while-pinned", "dont-fork", "wipe-on-fork", "nested-fork"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_model_and_the_kernels_agree(name: str, kernel: str) -> None:
    program = Scenario.load(name)
    assert not list(program.run(policy_for_kernel(kernel)).compare(program.recorded(kernel)))


# --- the counts -----------------------------------------------------------------------------------------------------


def test_the_counts_worked_out_by_hand_are_right() -> None:
    # 0 and 2 map 16 pages, 1 and 3 map 8; nobody is left at the end but 0.
    by_hand = {"a": 8, "b": 0, "c": 4, "d": 2, "e": 48, "f": 16, "g": 48, "h": 1, "i": 0, "j": 0}
    said = q.counts.check(**by_hand)
    assert said.kind == "right"
    assert said.head == "10 of 10 right."


@pytest.mark.parametrize("letter", q.counts.cases)
def test_a_wrong_count_is_told_why_and_drawn(letter: str) -> None:
    case = q.counts.cases[letter]
    assert case.wrong
    for wrong, says in case.wrong.items():
        said = q.counts.check(**{letter: int(wrong)})
        assert said.kind == "wrong"
        assert said.lines[1] == f"You say {wrong}. {says}"
        assert said.picture is not None


def test_both_misconceptions_are_among_the_counts() -> None:
    assert "Mapcount 1 is not exclusive" in q.counts.check(i=16).lines[1]
    assert "if fork copied memory" in q.counts.check(f=64).lines[1]


def test_some_counts_may_stay_open() -> None:
    said = q.counts.check(a=8, b=..., c=None)
    assert said.kind == "right"
    assert said.lines == ("Still open: b, c, d, e, f, g, h, i, j.",)


@pytest.mark.parametrize("answer", ["8.0", 8.5, True, [8], "eight"])
def test_what_is_no_number_is_not_read(answer: Any) -> None:
    assert "is not a whole number" in q.counts.check(a=answer).head
    assert q.counts.kept == {}


def test_a_count_that_does_not_exist_is_told() -> None:
    assert "no count 'z'" in q.counts.check(z=1).head
    assert q.counts.check(a=8.0).kind == "right"


# --- the function ---------------------------------------------------------------------------------------------------


def test_the_worked_function_is_the_librarys() -> None:
    assert q.child.check(q.child_gets).head == "Right: the same as the library on all 200 cases."
    assert "def child_gets(" in q.child.solution().code


def test_the_cases_are_of_every_kind() -> None:
    assert {right for _, right in q.child.cases} == {q.NO_MAPPING, q.NOTHING, q.ZERO, q.SAME, q.COPY}
    folios = [case for case, _ in q.child.cases if isinstance(case["maps"], range)]
    assert {len(case["maps"]) for case in folios} == {1, 4, 16}
    assert {(case["exclusive"], bool(case["pins"].intersection(case["maps"]))) for case in folios} == {
        (True, True), (True, False), (False, True), (False, False),
    }  # fmt: skip


def test_the_cases_make_the_state_that_they_describe() -> None:
    for case, _ in q.child.cases:
        scenario = q._scenario(**case)
        machine = scenario.but(steps=scenario.steps[:-1]).end(LINUX_6_15)
        parent, memory, page = machine.process(0), machine.memory, case["page"]
        vma = parent.mm.find_vma(page)
        assert vma is not None
        assert bool(vma.anon_vma) == case["written"]
        assert {at for pin in parent.pins().values() for at in pin.expected} == case["pins"]
        if case["maps"] is None:
            assert not parent.mm.pte[page]
        elif case["maps"] == q.ZERO:
            assert memory.folio_of[parent.mm.pfn[page]] < 0
            assert parent.mm.pte[page]
        else:
            pfn = parent.mm.pfn[page]
            folio = memory.folio_of[pfn]
            mapped = [at for at in range(q.PAGES) if parent.mm.pte[at] and memory.folio_of[parent.mm.pfn[at]] == folio]
            assert mapped == list(case["maps"])
            assert bool(memory.anon_exclusive[pfn]) == case["exclusive"]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("says", q.child.wrong)
def test_a_function_with_a_known_mistake_is_told_which(says: str) -> None:
    wrong = q.child.wrong[says]
    said = q.child.check(lambda **case: wrong(**case))
    assert said.kind == "wrong"
    assert said.lines[-1] == says
    assert said.picture is not None


def test_known_mistakes_differ_from_each_other() -> None:
    answers = {
        says: tuple(wrong(**copy.deepcopy(case)) for case, _ in q.child.cases) for says, wrong in q.child.wrong.items()
    }
    assert len(set(answers.values())) == len(answers)
