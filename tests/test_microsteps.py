"""A copy, step by step: the kernel's order harms nobody, and each wrong order does its own kind of damage."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

import pytest
from support import freeze

import anonfolio as af
from anonfolio.draw.drawing import measure
from anonfolio.draw.micropicture import MicroPicture, micropictures
from anonfolio.hardware import interleavings
from anonfolio.hardware import microsteps as ms
from anonfolio.hardware.microsteps import Impossible, Race
from anonfolio.hardware.orders import KERNEL_COPY, Fork, OrderError, Write
from anonfolio.hardware.stores import LEAK, LOST_WRITE, STALE_READ
from anonfolio.machine.invariants import INVARIANTS
from anonfolio.program.scenario import do_step
from anonfolio.view.micro import MicroStepper

KERNEL = {"threads": ms.THREADS, "child": ms.CHILD, "fork": ms.FORKING}
WRONG = {
    "set before flush": (ms.SET_BEFORE_FLUSH, {STALE_READ}),
    "flush before clear": (ms.FLUSH_BEFORE_CLEAR, {STALE_READ}),
    "flush after the store": (
        ms.THREADS.but_order("allocate", "copy", "recheck", "clear", "set", "drop", "store", "flush"),
        {STALE_READ},
    ),
    "drop before flush": (ms.DROP_BEFORE_FLUSH, {LEAK}),
    "drop before clear, as until 2008": (
        ms.CHILD.but_order("allocate", "copy", "recheck", "drop", "clear", "flush", "set", "store"),
        {LEAK},
    ),
    "no recheck": (ms.NO_RECHECK, {LOST_WRITE}),
    "copy after set": (
        ms.THREADS.but_order("allocate", "recheck", "clear", "flush", "set", "copy", "drop", "store"),
        {LOST_WRITE},
    ),
    "fork without flush": (ms.FORK_WITHOUT_FLUSH, {LEAK, LOST_WRITE}),
    "fork without flush, seen by threads": (
        Race(name="no child looks", start=ms.FORKING.start, cpus=(0, 0), warm=ms.FORKING.warm,
             work=(Fork(("write-protect", "share")), Write(0, 20))),
        {LEAK, LOST_WRITE},
    ),
    "a range with a writable neighbour": (ms.RANGE, {LOST_WRITE}),
}  # fmt: skip


# --- what is claimed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("race", KERNEL.values(), ids=KERNEL)
def test_no_interleaving_of_the_kernels_order_does_damage(race: Race) -> None:
    tried = interleavings.searched(race, 3)
    assert not tried.found
    assert not tried
    assert tried.states > 400
    assert "no damage" in str(tried)


@pytest.mark.parametrize(("race", "kinds"), WRONG.values(), ids=WRONG)
def test_each_wrong_order_does_its_own_kind_of_damage(race: Race, kinds: set[str]) -> None:
    assert set(interleavings.searched(race, 2).found) == kinds


@pytest.mark.parametrize(("race", "kinds"), WRONG.values(), ids=WRONG)
def test_what_the_search_finds_does_the_damage_when_it_is_run_and_needs_each_access(
    race: Race, kinds: set[str]
) -> None:
    for kind, events in interleavings.searched(race, 2).found.items():
        assert kind in race.run(events).kinds
        for at, event in enumerate(events):
            if event[0] != "cpu0" and event[1] == "write":
                fewer = [*events[:at], *events[at + 1 :]]
                assert kind not in race.run(fewer).kinds


def every_interleaving(state: ms.State, events: tuple[ms.Event, ...], accesses: int) -> Iterator[tuple[str, int]]:
    """Each kind of damage and after how many events it shows, with nothing remembered and nothing left out."""
    if state.finished:
        yield from ((damage.kind, len(events)) for damage in state.copy().settle())
    for event in interleavings._possible(state, accesses > 0):
        twin = state.copy()
        try:
            _, seen = twin.do(event)
        except Impossible:
            continue
        yield from ((damage.kind, len(events) + 1) for damage in seen)
        yield from every_interleaving(twin, (*events, event), accesses - (event[1] in ("read", "write")))


@pytest.mark.sweep(4)
@pytest.mark.parametrize("name", ["set before flush", "drop before flush", "no recheck", "fork without flush"])
def test_the_search_leaves_out_only_states_that_it_has_met(name: str) -> None:
    race = WRONG[name][0]
    shortest: dict[str, int] = {}
    for kind, events in every_interleaving(race.begin(), (), 2):
        shortest[kind] = min(events, shortest.get(kind, events))
    assert shortest == {kind: len(events) for kind, events in interleavings.searched(race, 2).found.items()}


@pytest.mark.parametrize(
    "policy",
    [af.RFC_V2_FIXED, af.LINUX_6_15, af.LINUX_6_3, af.RFC_V2.but(name="read-only only", copy_requires_ro=True)],
    ids=lambda policy: policy.name,
)
def test_a_range_without_writable_neighbours_loses_nothing(policy: af.Policy) -> None:
    race = Race(name="fixed", start=ms.RANGE.start, work=ms.RANGE.work, cpus=ms.RANGE.cpus, policy=policy,
                warm=ms.RANGE.warm, pages=(0, 3))  # fmt: skip
    assert not interleavings.searched(race, 2).found


def test_a_range_that_is_cleared_and_flushed_before_it_is_copied_loses_nothing() -> None:
    assert not interleavings.searched(ms.RANGE_CLEARED_FIRST, 3).found


# --- the steps are the model's --------------------------------------------------------------------------------------


def played(race: Race, events: list[ms.Event]) -> ms.State:
    state = race.begin()
    for event in events:
        state.do(event)
    while not state.finished:
        state.do(("cpu0", state.next_step))
    return state


STARTS = {
    "one page": af.Scenario(1, (("write", 0, 0, 11), ("fork", 0)), orders=()),
    "of a large folio": af.Scenario(16, (*(("write", 0, at, at) for at in range(16)), ("fork", 0))),
    "moved": af.Scenario.load("moved-off-alignment").but(
        steps=af.Scenario.load("moved-off-alignment").steps[:19], skew=3
    ),
    "half shared": ms.RANGE.start,
    "child gone": af.Scenario(4, (("write", 0, 2, 9), ("fork", 0), ("exit", 1)), orders=(2,)),
}


@pytest.mark.parametrize("policy", [*af.POLICIES.values()], ids=af.POLICIES)
@pytest.mark.parametrize("name", STARTS)
def test_the_steps_one_after_the_other_are_the_fault_of_the_model(name: str, policy: af.Policy) -> None:
    start = STARTS[name]
    page = 22 if name == "moved" else 0 if name in ("one page", "half shared") else 2
    race = Race(name=name, start=start, work=(Write(page, 77),), cpus=(0,), policy=policy)
    stepped = played(race, []).machine
    whole = start.but(steps=(*start.steps, ("write", 0, page, 77))).end(policy)
    for machine in (stepped, whole):
        # A fault done step by step leaves no record, so nothing is counted.
        machine.counters, machine.faults = af.Counters(), []
    assert freeze(stepped.snapshot()) == freeze(whole.snapshot())


@pytest.mark.parametrize("policy", [*af.POLICIES.values()], ids=af.POLICIES)
@pytest.mark.parametrize("writer", [0, 1])
def test_a_copy_before_the_race_takes_the_stores_along(policy: af.Policy, writer: int) -> None:
    """What was written before the copy is in it: of all its pages, nobody has lost anything."""
    steps = (*(("write", 0, at, 11 + at) for at in range(4)), ("fork", 0), ("write", writer, 1, 20))
    start = af.Scenario(4, steps, orders=(2,))
    run = Race(name="copied before", start=start, work=(Write(2, 77),), cpus=(0, 0, 1), policy=policy).run([])
    assert run.damage == []


def test_a_fork_names_the_process_that_forks() -> None:
    start = af.Scenario(1, (("write", 0, 0, 11), ("fork", 0)), orders=())
    run = Race(name="the child's", start=start, work=(Fork(),), cpus=(1,)).run([])
    assert run.moments[1].says == "CPU 0 forks: it takes the write bit from every entry of P1."


def test_a_fork_in_steps_is_the_fork_of_the_model() -> None:
    start = ms.FORKING.start
    stepped = played(Race(name="fork", start=start, work=(Fork(),), cpus=(0,)), []).machine
    assert freeze(stepped.snapshot()) == freeze(start.but(steps=(*start.steps, ("fork", 0))).end().snapshot())


@pytest.mark.parametrize("seed", range(12))
def test_random_interleavings_of_the_kernels_order_keep_every_invariant(seed: int) -> None:
    source = random.Random(seed)
    for race in KERNEL.values():
        state = race.begin()
        for _ in range(40):
            event = source.choice([*interleavings._possible(state, True)])
            try:
                _, found = state.do(event)
            except Impossible:
                continue
            assert not found
        while not state.finished:
            state.do(("cpu0", state.next_step))
        assert not state.settle()
        assert not af.check(state.machine)


# --- on every kind of page table ------------------------------------------------------------------------------------

WHOLE_BLOCKS = INVARIANTS["contiguous_blocks_are_whole"]
FOLDED = af.LINUX_6_15.but(name="arm64", cont_pte_order=4)
FILLED = tuple(("write", 0, at, 11 + at) for at in range(16))
BLOCKS = {
    "one page of a folded block": (af.Scenario(16, (*FILLED, ("fork", 0))), Write(3, 77)),
    "fork of a folded block": (af.Scenario(16, FILLED), Fork()),
    "fork of a part of one": (af.Scenario(16, (*FILLED, ("madvise", 0, 0, 8, "dontfork"))), Fork()),
    "fork of what a child wiped": (af.Scenario(16, (*FILLED, ("madvise", 0, 8, 8, "wipeonfork"))), Fork()),
    "fork with a pin": (af.Scenario(16, (*FILLED, ("pin", 0, 5, 1, 1))), Fork()),
    "the zero page": (af.Scenario(16, (("read", 0, 3), ("read", 0, 4))), Write(3, 77)),
    "nothing there": (af.Scenario(16, ()), Write(3, 77)),
    "a shared PMD": (af.Scenario(512, (("write", 0, 0, 1), ("fork", 0)), orders=(9,)), Write(300, 77)),
    "a PMD of its own": (
        af.Scenario(512, (("write", 0, 0, 1), ("fork", 0), ("exit", 1)), orders=(9,)), Write(300, 77),
    ),
    "the huge zero page": (af.Scenario(512, (("read", 0, 0),), orders=(9,)), Write(300, 77)),
    "fork of a PMD": (af.Scenario(512, (("write", 0, 0, 1),), orders=(9,)), Fork()),
}  # fmt: skip


@pytest.mark.parametrize("policy", [af.LINUX_6_15, FOLDED, af.RFC_V2.but(name="RFC, folded", cont_pte_order=4)],
                         ids=lambda policy: policy.name)  # fmt: skip
@pytest.mark.parametrize("name", BLOCKS)
def test_steps_end_where_the_model_does_whatever_the_entries_are(name: str, policy: af.Policy) -> None:
    start, work = BLOCKS[name]
    state = Race(name=name, start=start, work=(work,), cpus=(0,), policy=policy).begin()
    while not state.finished:
        state.do(("cpu0", state.next_step))
        assert not af.check(state.machine, [WHOLE_BLOCKS])
    assert not state.settle()
    whole = start.end(policy)
    do_step(whole, ("write", 0, work.page, 77) if isinstance(work, Write) else ("fork", 0), start.first_vpn)
    for machine in (state.machine, whole):
        machine.counters, machine.faults = af.Counters(), []
        # A fork in steps writes whole entries, so it repaints blocks another number of times.
        machine.memory.contpte_converts = 0
    assert freeze(state.machine.snapshot()) == freeze(whole.snapshot())


def test_bytes_of_copied_and_fresh_frames_are_followed_wherever_the_start_put_them() -> None:
    """What is missed was there when the race began: not what the start had unmapped, moved or thrown away."""
    steps = (*FILLED, ("mremap", 0, 0, 4, 20), ("madvise", 0, 4, 4, "dontneed"), ("munmap", 0, 8, 2), ("fork", 0))
    race = Race(name="moved", start=af.Scenario(24, steps), work=(Write(20, 77),), cpus=(0, 0, 1))
    assert race.run([("cpu1", "read", 21), ("cpu2", "read", 20)]).damage == []


# --- several forks --------------------------------------------------------------------------------------------------


def test_of_two_forks_each_child_sees_what_was_written_before_its_own() -> None:
    start = af.Scenario(1, (("write", 0, 0, 11),), orders=())
    race = Race(name="two forks", start=start, work=(Fork(), Write(0, 20), Fork()), cpus=(0, 1, 2))
    run = race.run(["store", "flush", ("cpu2", "read", 0), ("cpu1", "read", 0)])
    assert [run.moments[-3].says, run.moments[-2].says] == [
        "CPU 2 (P2) reads page 0 after a walk of the page table: 11 20.",
        "CPU 1 (P1) reads page 0 after a walk of the page table: 11.",
    ]
    assert not run.damage


def test_what_one_child_writes_is_not_its_siblings() -> None:
    """The first child writes before the second fork, into a frame that the parent still maps: dropped too early."""
    start = af.Scenario(1, (("write", 0, 0, 11), ("fork", 0)), orders=())
    wrong = Write(0, 20, ("allocate", "copy", "recheck", "drop", "clear", "flush", "set", "store"))
    race = Race(name="siblings", start=start, work=(wrong, Fork()), cpus=(0, 1, 2, 0), warm=(("cpu3", "read", 0),))
    stores = race.begin().stores
    stores.forked(0, 1)
    stores.store(1, 0, 66, 5)
    stores.forked(0, 2)
    stores.store(2, 0, 77, 6)
    by_child, by_sibling = len(stores.done) - 2, len(stores.done) - 1
    assert [stores.may_see(reader, by_child) for reader in (0, 1, 2)] == [False, True, False]
    assert [stores.may_see(reader, by_sibling) for reader in (0, 1, 2)] == [False, False, True]


def test_a_grandchild_sees_what_came_down_to_it() -> None:
    start = af.Scenario(1, (("write", 0, 0, 11), ("fork", 0), ("write", 1, 0, 22), ("fork", 1)), orders=())
    race = Race(name="generations", start=start, work=(Write(0, 20),), cpus=(0, 1, 2))
    run = race.run([("cpu1", "read", 0), ("cpu2", "read", 0)])
    assert "11 22" in run.moments[2].says
    assert not run.damage
    stores = race.begin().stores
    stores.store(1, 0, 33, 5)
    assert [stores.may_see(reader, 2) for reader in (0, 1, 2)] == [False, True, False]


@pytest.mark.parametrize("policy", [af.LINUX_6_15, FOLDED], ids=lambda policy: policy.name)
def test_two_forks_in_a_race_do_no_damage(policy: af.Policy) -> None:
    race = Race(name="two forks", start=ms.FORKING.start, work=(Fork(), Write(0, 20), Fork()), cpus=(0, 0, 1, 2),
                warm=ms.FORKING.warm, policy=policy)  # fmt: skip
    assert not interleavings.search(race, 1).found


# --- TLBs, locks, giving up -----------------------------------------------------------------------------------------


def test_a_tlb_entry_outlives_its_page_table_entry_until_the_flush() -> None:
    run = ms.THREADS.run(["clear"])
    cleared = next(at for at, moment in enumerate(run.moments) if moment.event == ("cpu0", "clear"))
    ((page, entry, stale),) = run.moments[cleared].view.tlbs[1]
    assert (page, entry.writable, stale) == (0, False, True)
    assert run.moments[cleared].view.tables[0] == (0, (None,))
    assert run.moments[cleared + 1].view.tlbs == ((), (), ())


def test_reading_the_old_page_through_a_stale_entry_is_no_damage_by_itself() -> None:
    run = ms.THREADS.run(["clear", ("cpu1", "read", 0)])
    assert not run.damage
    assert "through its TLB entry: 11" in run.moments[5].says


def test_a_flush_leaves_the_tlbs_of_other_processes_alone() -> None:
    run = ms.CHILD.run([("cpu2", "read", 0), "flush"])
    assert [len(entries) for entries in run.moments[6].view.tlbs] == [0, 0, 1]


@pytest.mark.parametrize("event", [("cpu1", "write", 0, 66), ("cpu2", "read", 0)])
def test_a_fault_of_the_same_process_waits_while_the_lock_is_held(event: ms.Event) -> None:
    with pytest.raises(Impossible, match="waits"):
        ms.THREADS.run(["flush", event])
    assert not ms.THREADS.run(["drop", event]).damage


def test_a_fault_waits_for_a_fork_to_end() -> None:
    race = Race(name="fork", start=ms.FORKING.start, work=(Fork(), Write(0, 20)), cpus=(0, 0))
    for step in ("write-protect", "share"):
        with pytest.raises(Impossible, match="waits"):
            race.run([step, ("cpu1", "write", 0, 66)])
    assert not race.run(["flush", ("cpu1", "write", 0, 66)]).damage


def test_the_other_process_has_a_lock_of_its_own() -> None:
    run = ms.CHILD.run(["flush", ("cpu2", "write", 0, 66)])
    assert "cow copy" in run.moments[6].says
    assert not run.damage


def test_who_finds_the_entry_changed_gives_up_and_frees_its_copy() -> None:
    run = ms.THREADS.run(["copy", ("cpu1", "write", 0, 66), "recheck"])
    assert "gives up" in run.moments[4].says
    assert "skips 'clear'" in run.moments[5].says
    assert not run.damage
    held = [frame for frame in run.moments[-1].view.frames if frame.folio >= 0]
    assert [(frame.told, frame.refcount) for frame in held] == [("11", 1), ("11 66 20", 1)]


def test_write_protecting_an_entry_leaves_the_writable_one_in_the_tlb() -> None:
    run = ms.FORKING.run(["write-protect", ("cpu1", "write", 0, 66)])
    ((_, (entry,)),) = run.moments[1].view.tables
    assert entry is not None
    assert not entry.writable
    assert [(held.writable, stale) for _, held, stale in run.moments[1].view.tlbs[1]] == [(True, True)]
    assert "through its TLB entry" in run.moments[2].says


def test_the_child_runs_only_when_the_fork_is_done() -> None:
    with pytest.raises(Impossible, match="before the fork is done"):
        ms.FORKING.run(["share", ("cpu2", "read", 0)])
    assert not ms.FORKING.run(["flush", ("cpu2", "read", 0)]).damage


def test_a_store_during_a_fork_belongs_to_both_and_leaks_to_nobody() -> None:
    run = ms.FORKING.run(["share", ("cpu1", "write", 0, 66), "flush", ("cpu2", "read", 0)])
    assert not run.damage
    assert "11 12 66" in run.moments[5].says


def test_dropping_too_early_lets_the_child_reuse_the_page() -> None:
    run = ms.DROP_BEFORE_FLUSH.run(["drop", ("cpu2", "write", 0, 66), ("cpu1", "read", 0)])
    assert "exclusive reuse" in run.moments[6].says
    assert run.first() == run.first(LEAK) == 7
    assert run.first(LOST_WRITE) is None


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (("copy", "allocate", "recheck", "clear", "flush", "set", "drop", "store"), "nothing to copy to"),
        (("allocate", "copy", "clear", "recheck", "flush", "set", "drop", "store"), "kernel's own change"),
        (("allocate", "copy", "recheck", "clear", "flush", "store", "set", "drop"), "when the fault is handled"),
        (("allocate", "copy", "recheck", "clear", "flush", "set", "store"), "never finished"),
        (("allocate", "copy", "copy", "recheck", "clear", "flush", "set", "drop", "store"), "twice"),
        (("allocate", "paste"), "no step 'paste'"),
    ],
)
def test_an_order_that_nobody_can_carry_out_is_refused(order: tuple[str, ...], told: str) -> None:
    with pytest.raises(OrderError, match=told):
        Write(0, 1, order)


def test_every_order_is_carried_out_or_refused() -> None:
    done = 0
    for order in itertools.permutations(KERNEL_COPY[:-1]):
        with contextlib.suppress(OrderError):
            race = ms.THREADS.but_order(*order, "store")
            done += race.run(()).moments[-2].says.startswith("The fault is handled.")
    assert done == 180


def test_a_fork_shares_after_it_has_write_protected() -> None:
    with pytest.raises(OrderError, match="write-protects, then shares"):
        Fork(("share", "write-protect", "flush"))


def test_an_order_is_put_on_the_last_piece_of_work_of_its_kind() -> None:
    race = dataclasses.replace(ms.THREADS, work=(Fork(), Write(0, 20), Fork(), Write(0, 21)))
    late = ("allocate", "copy", "recheck", "set", "flush", "drop", "store")
    assert [work.order for work in race.but_order(*late).work[1::2]] == [KERNEL_COPY, late]
    assert [work.order for work in race.but_order("write-protect", "share").work[::2]] == [
        ("write-protect", "share", "flush"),
        ("write-protect", "share"),
    ]


@pytest.mark.parametrize(
    ("race", "order", "told"),
    [
        (ms.THREADS, ("write-protect", "share"), "'three threads' has no fork; CPU 0 does: a write"),
        (
            Race(name="forks", start=ms.FORKING.start, work=(Fork(),), cpus=(0,)),
            KERNEL_COPY,
            "has no write; CPU 0 .* a fork",
        ),
        (Race(name="idle", start=ms.FORKING.start, work=(), cpus=(0,)), KERNEL_COPY, "no write; CPU 0 does: nothing"),
        (ms.THREADS, (), "without 'allocate'"),
    ],
)
def test_an_order_for_work_that_the_race_does_not_do_is_refused(race: Race, order: tuple[str, ...], told: str) -> None:
    with pytest.raises(OrderError, match=told):
        race.but_order(*order)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Write(0.5, 1), "page=0.5"),
        (lambda: Write(0, 256), "byte=256"),
        (lambda: Write(0, True), "byte=True"),
        (lambda: Write(0, 1, 5), "order=5"),
        (lambda: Fork(None), "order=None"),
        (lambda: race_but(start="a"), "start='a' is no Scenario"),
        (lambda: race_but(policy="linux-6.15"), "policy='linux-6.15' is no Policy"),
        (lambda: race_but(work=("write",)), "work: 'write' is neither a Write nor a Fork"),
        (lambda: race_but(work=Fork()), "work=Fork.* is not a tuple"),
        (lambda: race_but(work=(Write(1, 1),)), r"page=1 is not a whole number in 0\.\.0"),
        (lambda: race_but(cpus=()), "cpus=.* CPU 0 runs a process"),
        (lambda: race_but(cpus=(0, -1)), "cpus.*-1"),
        (lambda: race_but(cpus=(0, 1.0)), r"cpus.*1\.0"),
        (lambda: race_but(pages=(1,)), "page=1"),
        (lambda: race_but(pages=0), "pages=0"),
        (lambda: race_but(warm=7), "warm=7"),
        (lambda: interleavings.search(ms.THREADS, -1), "accesses=-1"),
        (lambda: interleavings.search(ms.THREADS, 1.5), r"accesses=1\.5"),
        (lambda: ms.THREADS.run([5]), "5 is neither a step's name nor"),
        (lambda: ms.THREADS.run(7), "events=7 is not a tuple of"),
    ],
)
def test_a_race_that_is_none_is_refused_in_one_line(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        make()
    assert "\n" not in str(caught.value)


def race_but(**changes: object) -> Race:
    return dataclasses.replace(ms.THREADS, **changes)  # type: ignore[arg-type]


def test_a_race_of_lists_is_one_of_tuples() -> None:
    """`searched` remembers races, so that they must be hashable."""
    race = Race(name="lists", start=ms.FORKING.start, work=[Fork()], cpus=[0, 0], warm=[["cpu1", "read", 0]], pages=[0])
    assert not interleavings.searched(race, 1)


@pytest.mark.parametrize(
    ("step", "told"), [(("mprotect", 0, 0, 1, 1), "read-only"), (("munmap", 0, 0, 1), "not mapped")]
)
def test_an_access_that_would_be_a_sigsegv_cannot_happen(step: ms.Event, told: str) -> None:
    start = af.Scenario(2, (("write", 0, 0, 11), step))
    with pytest.raises(Impossible, match=f"page 0 of process 0 is {told}: SIGSEGV"):
        Race(name="gone", start=start, work=(), cpus=(0, 0)).run([("cpu1", "write", 0, 5)])
    with pytest.raises(Impossible, match="SIGSEGV"):
        Race(name="gone", start=start, work=(Write(0, 5),), cpus=(0,)).run([])


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (("cpu7", "read", 0), "does not begin with"),
        (("cpu1", "copy"), "only CPU 0"),
        (("cpu0", "read", 0), "in the kernel"),
        (("cpu0", "copy"), "next step is 'allocate'"),
        (("cpu1", "read"), "takes a page"),
        (("cpu1", "read", 1), "pages 0..0"),
        (("cpu1", "read", "0"), "a page is a number"),
        (("cpu1", "write", 0, 256), "0..255"),
        (("cpu1", ["read"], 0), "what it does"),
        ("share", "no step 'share' left"),
    ],
)
def test_an_event_that_cannot_happen_is_told_why(event: ms.Event | str, told: str) -> None:
    with pytest.raises(Impossible, match=told):
        ms.THREADS.run([event])


def test_nothing_is_left_to_do_after_the_last_step() -> None:
    with pytest.raises(Impossible, match="has done all its steps"):
        ms.THREADS.run(["store", ("cpu0", "copy")])


# --- pictures -------------------------------------------------------------------------------------------------------

RUNS = {
    "kernel": ms.THREADS.run([("cpu1", "read", 0), "clear", ("cpu1", "read", 0), "set", ("cpu2", "write", 0, 66)]),
    "leak": ms.DROP_BEFORE_FLUSH.run(["drop", ("cpu2", "write", 0, 66), ("cpu1", "read", 0)]),
    "fork": ms.FORK_WITHOUT_FLUSH.run(["copy", ("cpu1", "write", 0, 66)]),
    "range": ms.RANGE.run(["copy", ("cpu1", "write", 3, 66)]),
}


SVG = "{http://www.w3.org/2000/svg}"


def ends_of_texts(element: ET.Element, x: float, y: float) -> Iterator[tuple[float, float]]:
    """Where every text ends, to the right and below, by a measure that is never too narrow."""
    moved = re.match(r"translate\(([\d.]+) ([\d.]+)\)", element.get("transform", ""))
    if moved:
        x, y = x + float(moved[1]), y + float(moved[2])
    if element.tag == f"{SVG}text":
        size = float(element.attrib["font-size"].removesuffix("px"))
        wide = measure(element.text or "", size, element.get("font-weight") is not None)
        start = float(element.attrib["x"]) - (wide / 2 if element.get("text-anchor") == "middle" else 0)
        yield x + start + wide, y + float(element.attrib["y"])
    for child in element:
        yield from ends_of_texts(child, x, y)


@pytest.mark.parametrize("name", RUNS)
def test_every_moment_is_drawn_within_its_frame(name: str) -> None:
    shown = micropictures(RUNS[name])
    assert len({picture.sheet.height for picture in shown}) == 1
    for picture in shown:
        root = ET.fromstring(picture.svg())
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for rect in root.iter(f"{SVG}rect"):
            assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
            assert float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height
        for right, bottom in ends_of_texts(root, 0, 0):
            assert right <= width
            assert bottom <= height
        assert picture.moment.says in picture.text()
        assert max(map(len, picture.text().splitlines())) <= 140


@pytest.mark.parametrize("name", RUNS)
def test_damage_is_marked_once_where_it_first_shows(name: str) -> None:
    run = RUNS[name]
    told = [alarm for picture in micropictures(run) for alarm in picture.alarms]
    assert len(told) == len(run.damage) == len(set(told))
    shown = run.show()
    assert shown.at == (len(run.moments) - 1 if run.first() is None else run.first())
    for alarm in shown.alarms:
        assert alarm in shown.sentence
        assert f"!! {alarm}" in repr(shown)
        assert alarm.split(": ", 1)[1].replace("'", "&#x27;") in shown.svg()


def test_a_stale_entry_is_said_to_be_stale() -> None:
    cleared = MicroPicture(ms.THREADS.run([]), 4)
    assert "0→A read-only STALE" in cleared.text()
    assert ">stale<" in cleared.svg()


def pieces(picture: MicroPicture, layer: str) -> list[str]:
    return [piece for key, piece in sorted(picture.sheet.pieces.items()) if key.startswith(layer)]


def test_a_line_leads_from_a_tlb_to_the_frame_that_its_cpu_uses() -> None:
    run = ms.THREADS.run([])
    fits, stale, flushed = (pieces(MicroPicture(run, at), "6t") for at in (3, 4, 5))
    assert [("afp-hollow" in line, "afp-differs" in line) for line in fits + stale] == [(True, False), (False, True)]
    assert flushed == []


@pytest.mark.parametrize("name", RUNS)
def test_every_entry_has_a_ribbon_and_every_page_in_memory_says_what_it_is(name: str) -> None:
    for picture in micropictures(RUNS[name]):
        mapped = [entry.pfn for _, table in picture.view.tables for entry in table if entry]
        assert len(pieces(picture, "1r")) == len(mapped)
        frames = {frame.pfn: frame for frame in picture.view.frames if frame.folio >= 0}
        drawn = pieces(picture, "3f")
        assert len(drawn) == len(frames)
        for (pfn, frame), piece in zip(sorted(frames.items()), drawn, strict=True):
            assert ("afp-is_held" in piece) <= (not frame.mapcount)
            assert ("afp-is_alone" in piece) <= frame.exclusive
            assert ("afp-is_shared" in piece) <= (frame.mapcount > 0 and not frame.exclusive)
            assert f'data-frame="{picture.names[pfn]}"' in piece


@pytest.mark.parametrize("name", RUNS)
def test_the_stepper_walks_through_every_moment(name: str) -> None:
    run = RUNS[name]
    stepper = MicroStepper(run, title="micro")
    assert len(stepper.frames["panes"][0]["moments"]) == len(run.moments)
    assert stepper.frames["said"][0] == [picture.sentence for picture in micropictures(run)]
    assert stepper.step == run.show().at
    assert stepper.svg().startswith("<svg")
    assert repr(stepper).startswith(f"Stepper micro: step {stepper.step} of {len(run.moments) - 1}")
    assert MicroStepper(run, key=0).step == 0
