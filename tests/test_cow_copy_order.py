"""Notebook 04: what it says of copies and of their steps is what the library does, and its exercises judge rightly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anonfolio import LINUX_6_3, LINUX_6_15, POLICIES, RFC_V2, policy_for_kernel, read_recording
from anonfolio import microsteps as ms
from anonfolio.exercises import cow_copy_order as q
from anonfolio.lesson.quiz import Number
from anonfolio.witness.recording import DATA_DIR


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    asked = (q.faults, q.thp, q.late, q.order, q.damage)
    for one in asked:
        one.forget()
    yield
    for one in asked:
        one.forget()


# --- how much -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "mainline", "rfc"),
    [
        ([5], (1, 4, 0), (1, 64, 60)),
        (range(0, 16, 4), (4, 16, 0), (1, 64, 48)),
        (range(4), (4, 16, 0), (1, 64, 48)),
        (range(16), (16, 64, 0), (1, 64, 0)),
    ],
)
def test_faults_saved_against_bytes_copied(pages: list[int], mainline: tuple[int, ...], rfc: tuple[int, ...]) -> None:
    assert q.after_fork(LINUX_6_15, pages) == mainline
    assert q.after_fork(RFC_V2, pages) == rfc


def test_a_shared_huge_page_was_copied_whole_before_5_8_and_one_page_of_it_since() -> None:
    assert q.huge_write(q.BEFORE_5_8) == ("copy9", 2048)
    assert q.huge_write(LINUX_6_15) == q.huge_write(LINUX_6_3) == ("copy0", 4)
    assert q.BEFORE_5_8.name not in POLICIES
    assert "No recorded kernel" in q.BEFORE_5_8.about


def test_the_first_writes_are_those_of_the_parent_after_the_fork() -> None:
    assert q.first_writes.steps[q.FORKED] == ("fork", 0)
    after = q.first_writes.steps[q.FORKED + 1 :]
    assert [step[:2] for step in after] == [("write", 0)] * 3
    assert q.first_writes.run(LINUX_6_15).codes()[-3:] == ["copy0"] * 3
    assert q.first_writes.run(RFC_V2).codes()[-3:] == ["copy4", "nf", "nf"]


def test_a_moved_source_is_copied_in_aligned_parts_by_the_proposal() -> None:
    copies = [fault.pages for fault in q.moved.run(RFC_V2).faults() if fault.copied]
    assert copies == [range(20, 24), range(24, 32), range(18, 19)]
    assert all(len(fault.pages) == 1 for fault in q.moved.run(LINUX_6_15).faults() if fault.copied)
    assert [f.pages for f in q.halves.run(RFC_V2).faults() if f.copied] == [range(8, 16)]
    assert q.moved.steps[19][:3] == ("write", 0, 22)


@pytest.mark.parametrize("kernel", q.RECORDED)
def test_every_recorded_copy_is_one_page_and_the_model_agrees(kernel: str) -> None:
    copies = q.recorded_copies(kernel, q.RECORDED[kernel])
    assert {copy for _, copy in copies} == {1}
    assert 512 in {source for source, _ in copies}
    for name in q.RECORDED[kernel]:
        again = q.Scenario.load(name)
        assert not again.run(policy_for_kernel(kernel)).compare(again.recorded(kernel))


def test_no_named_program_on_any_kernel_was_seen_to_copy_more() -> None:
    for kernel in ("6.12", "6.18", "7.3"):
        recording = read_recording(DATA_DIR / f"named-{kernel}.json.gz")
        names = tuple(program.scenario.name for program in recording.programs)
        copies = q.recorded_copies(kernel, names)
        assert copies.total() > 50
        assert {copy for _, copy in copies} == {1}


@pytest.mark.parametrize("asked", [q.faults, q.thp], ids=lambda one: one.name)
def test_known_wrong_numbers_are_recognised(asked: Number) -> None:
    assert asked.check(asked.answer).kind == "right"
    for mistake in asked.mistakes:
        wrong = mistake.answer() if callable(mistake.answer) else mistake.answer
        assert wrong != asked.answer
        assert asked.check(wrong).lines[0] == mistake.says
    assert str(asked.answer) in repr(asked.solution())


def test_what_people_believe_of_thp_is_told_when_it_was_true() -> None:
    assert "until 5.8 (3917c80280c9)" in q.thp.check(2048).lines[0]
    assert "RFC v2" in q.thp.check(64).lines[0]
    assert "never merged" in q.faults.check(1).lines[0]


@pytest.mark.long
def test_the_orders_side_by_side_show_what_the_prose_says() -> None:
    found = {name: set(ms.searched(race, 3).found) for name, race in q.ORDERS.items()}
    assert not any(kinds for name, kinds in found.items() if name.startswith("kernel's"))
    assert found["set before flush"] == {ms.STALE_READ}
    assert found["drop before flush"] == {ms.LEAK}
    assert found["no recheck"] == {ms.LOST_WRITE}
    assert found["fork without flush"] == {ms.LEAK, ms.LOST_WRITE}


def test_a_late_flush_shows_stale_reads_and_nothing_else() -> None:
    assert q.late.answer == "b"
    for letter in "acd":
        assert q.late.check(letter).kind == "wrong"
        assert q.late.check(letter).lines


# --- the order ------------------------------------------------------------------------------------------------------


def test_the_kernels_order_is_right_and_the_solution() -> None:
    right = list(ms.KERNEL_COPY[:-1])
    said = q.order.check(right)
    assert (said.kind, said.head) == ("right", "Right: the kernel's own order.")
    assert str(right) in q.order.solution().code
    assert q.order.check(list(ms.KERNEL_COPY)).kind == "right"


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("allocate recheck clear flush copy set drop", "under the page-table lock"),
        ("allocate copy recheck clear flush drop set", "drops before it sets"),
    ],
)
def test_another_harmless_order_is_right_too(order: str, told: str) -> None:
    said = q.order.check(order.split())
    assert said.kind == "right"
    assert "not the kernel's" in said.head
    assert told in said.lines[-1]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ("allocate copy recheck clear set flush drop", "Stale read"),
        ("allocate copy recheck flush clear set drop", "Stale read"),
        ("allocate copy recheck drop clear flush set", "Leak"),
        ("allocate copy recheck clear drop flush set", "Leak"),
        ("allocate recheck clear flush set copy drop", "Lost write"),
    ],
)
def test_a_harmful_order_is_shown_by_an_interleaving_and_its_picture(order: str, kind: str) -> None:
    said = q.order.check(order.split())
    assert said.kind == "wrong"
    assert said.head.startswith(kind)
    assert said.lines[0].startswith("So: `cpu0 allocate`")
    assert said.picture is not None
    assert said.head in said.picture.text().replace("!! ", "")
    assert "<svg" in said._repr_html_()


@pytest.mark.long
def test_what_browsers_judge_orders_by_is_what_the_search_says() -> None:
    orders = q.possible_orders()
    assert list(q.all_tried()) == orders
    assert len(orders) == 180
    harmless = [order for order, found in q.all_tried().items() if not found.kind]
    # One of each race and damage: the leak is in the second race alone.
    of_each = {(found.race, found.kind): order for order, found in q.all_tried().items() if found.kind}
    assert len(of_each) == 3
    for order in (*harmless[:2], *of_each.values(), *orders[3::20]):
        assert q.all_tried()[order] == q.tried(order), order


def test_an_order_that_cannot_be_is_told_why() -> None:
    assert (
        "nothing to copy to" in q.order.check(["copy", "allocate", "recheck", "clear", "flush", "set", "drop"]).lines[0]
    )
    assert "no step 'paste'" in q.order.check(["allocate", "paste"]).lines[0]
    assert q.order.check(["allocate", "copy", "recheck", "set", "drop"]).head == "Some steps are missing: clear, flush."
    assert q.order.check("allocate").kind == "wrong"


@pytest.mark.parametrize("unanswered", [None, ..., list(q.AS_FOUND)])
def test_the_steps_as_found_are_no_answer(unanswered: object) -> None:
    said = q.order.check(unanswered)
    assert said.kind == "ask"
    assert all(any(f"`{step}`:" in line for line in said.lines) for step in q.AS_FOUND)


# --- the interleavings ----------------------------------------------------------------------------------------------

WORKED = {name: list(hunt.worked) for name, hunt in q.HUNTS.items()}


def test_the_worked_interleavings_are_right_and_the_solution() -> None:
    said = q.damage.check(**WORKED)
    assert (said.kind, said.head) == ("right", "3 of 3 shown.")
    assert len(said.lines) == 3
    assert said.picture is not None
    for events in WORKED.values():
        assert str(events) in q.damage.solution().code


@pytest.mark.parametrize("name", q.HUNTS)
def test_one_at_a_time_leaves_the_others_open(name: str) -> None:
    said = q.damage.check(**{name: WORKED[name]})
    assert said.kind == "right"
    assert said.lines[-1] == "Still open: " + ", ".join(other for other in q.HUNTS if other != name) + "."


@pytest.mark.parametrize("name", q.HUNTS)
def test_what_the_search_finds_is_right_too(name: str) -> None:
    hunt = q.HUNTS[name]
    assert q.damage.check(**{name: ms.searched(hunt.race).found[hunt.kind]}).kind == "right"


@pytest.mark.parametrize("name", q.HUNTS)
def test_harmless_accesses_are_told_what_is_nearly_there(name: str) -> None:
    said = q.damage.check(**{name: [("cpu1", "read", 0)]})
    assert said.kind == "wrong"
    assert said.lines[:2] == ("Nobody is harmed by that.", q.HUNTS[name].nearly)


def test_another_kind_of_damage_is_named() -> None:
    said = q.damage.check(stale=WORKED["stale"], lost=["share", ("cpu1", "write", 0, 66)])
    assert said.head == "lost: no lost write yet."
    assert said.lines[0].startswith("It shows a leak")
    assert any(line.startswith("- stale") for line in said.lines)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([("cpu2", "write", 0)], "a page and a byte"),
        (["paste"], "no step 'paste'"),
        ([7], "neither a step's name"),
        ("set", "not a list"),
        (["set", ("cpu1", "write", 0, 300)], "0..255"),
    ],
)
def test_an_interleaving_that_cannot_be_is_told_why(events: object, told: str) -> None:
    said = q.damage.check(leak=events)
    assert said.head == "leak: this cannot happen."
    assert told in said.lines[0]


def test_unanswered_and_unknown_are_no_errors() -> None:
    assert q.damage.check(stale=..., leak=None).kind == q.damage.check().kind == "ask"
    assert "there are stale, leak, lost" in q.damage.check(hurt=[]).head


def test_hints_lead_on_and_name_no_answer_at_first() -> None:
    for asked in (q.faults, q.thp, q.late, q.order, q.damage):
        assert len({asked.hint().lines[0] for _ in asked.hints}) == len(asked.hints)
