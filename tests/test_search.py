"""The search finds the RFC's corruption by itself, says honestly what it exhausted, and can be stopped."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anonfolio as af
from anonfolio import commands
from anonfolio.__main__ import main
from anonfolio.machine.invariants import INVARIANTS
from anonfolio.program.exploration import Exploration, Limits
from anonfolio.program.explore import Space
from anonfolio.program.pools import LOST
from anonfolio.program.search import (
    EXTRA_OPERATIONS,
    HOLDERS,
    MOVERS,
    OPERATIONS,
    SHOWN_BYTE,
    Counterexample,
    Exhausted,
    counterexample,
    rests_on,
)
from anonfolio.program.states import canonical, forget, state_of

CORRECT = [policy for policy in af.POLICIES if policy != "rfc-v2"]


@pytest.fixture(scope="module")
def found() -> Counterexample:
    result = counterexample("rfc-v2", steps=6)
    assert isinstance(result, Counterexample)
    return result


def test_rfc_v2_loses_a_pinned_page_within_six_steps(found: Counterexample) -> None:
    assert found.steps == 6
    assert found.violation.invariant == "pinned_page_stays"
    assert found.written == SHOWN_BYTE
    assert found.read != found.written


def test_before_pages_were_marked_exclusive_a_pinned_page_is_lost_by_mprotect_alone() -> None:
    """5.10, where the recording `lost-write` shows it; 6.1 and later keep the page, whatever a program does."""
    chosen = ("write", "pin", "mprotect")
    found = counterexample(af.Policy.at("5.10"), pages=2, steps=4, orders=(), operations=chosen)
    assert isinstance(found, Counterexample)
    assert [step[0] for step in found.scenario.steps[:4]] == ["pin", "mprotect", "mprotect", "write"]
    assert found.violation.invariant == "pinned_page_stays"
    assert (found.written, found.read) == (SHOWN_BYTE, 1)
    assert not counterexample(af.Policy.at("6.1"), pages=2, steps=4, orders=(), operations=chosen)


def test_the_program_can_be_run_by_anyone(found: Counterexample) -> None:
    text = str(found)
    scenario = af.Scenario.parse(found.scenario.text())
    assert scenario.steps == found.scenario.steps
    for step in scenario.steps:
        assert " ".join(map(str, step)) in text
    assert f"the device wrote {found.written:#04x}, the process reads {found.read:#04x}" in text
    assert scenario.run("rfc-v2")[-1].value == found.read


@pytest.mark.long
def test_the_counterexample_is_a_shortest_one(found: Counterexample) -> None:
    assert isinstance(counterexample("rfc-v2", steps=found.steps - 1), Exhausted)


@pytest.mark.parametrize("policy", CORRECT)
def test_other_policies_read_what_the_device_wrote(found: Counterexample, policy: str) -> None:
    timeline = found.scenario.run(policy)
    assert all(result.ok for result in timeline)
    assert timeline[-1].value == found.written


@pytest.mark.sweep(4)
@pytest.mark.parametrize("policy", CORRECT)
def test_other_policies_are_exhausted_without_a_find(policy: str) -> None:
    """Two steps short of the find, to be fast; `make search` goes one step beyond it, which takes minutes."""
    result = counterexample(policy, steps=4)
    assert isinstance(result, Exhausted)
    assert not result.interrupted
    # Fewer would mean that states were pruned that are not the same.
    assert result.states > 1_000
    assert f"{result.states:,} distinct states" in str(result)
    assert "4 steps over 4 pages and write, fork, exit, wipeonfork, keeponfork, pin, unpin" in str(result)


def test_a_policy_of_ones_own_is_searched() -> None:
    mine = af.LINUX_6_15.but(name="mine", copy_extent="source_order", copy_requires_maybe_shared=False)
    result = counterexample(mine, steps=6)
    assert isinstance(result, Counterexample)
    assert result.policy == "mine"


def test_an_injected_failure_shortens_the_program() -> None:
    """A fork that fails inside the folio leaves the mix at once: no advice is needed. No kernel does that by itself."""
    result = counterexample("rfc-v2", steps=4, operations=("write", "pin", "forkfail_after"))
    assert isinstance(result, Counterexample)
    assert result.steps == 4
    assert "forkfail_after" not in str(counterexample("rfc-v2", steps=1))


def test_a_lost_read_pin_is_shown_by_what_the_device_reads() -> None:
    """A device that may only read cannot show the loss by a write of its own."""
    mine = af.LINUX_6_15.but(name="mine", copy_extent="source_order", copy_requires_maybe_shared=False)
    result = counterexample(mine, steps=4, operations=("write", "pin_ro", "forkfail_after"))
    assert isinstance(result, Counterexample)
    assert result.scenario.steps[-1][0] == "dma_read"
    assert "the process wrote 0xdd, the device reads" in str(result)
    assert all(step.ok for step in result.scenario.run(mine) if step.step[0] != "forkfail_after")
    assert result.read != result.written


@pytest.mark.long
def test_a_child_without_any_mapping_is_searched_too() -> None:
    result = counterexample("linux-6.15", steps=4, operations=("write", "read", "fork", "dontfork", "pin"))
    assert isinstance(result, Exhausted)


def test_a_weaker_invariant_finds_nothing() -> None:
    rules = (INVARIANTS["writable_is_exclusive"],)
    assert not counterexample("rfc-v2", steps=3, invariants=rules)


def test_symmetric_states_are_one() -> None:
    """Two children of one process are alike until one of them does something (a child and its parent are not)."""
    left = af.Scenario(4, (("write", 0, 0, 1), ("fork", 0), ("fork", 0), ("exit", 0)), ()).end()
    right = left.copy()
    alike = canonical(state_of(left))
    left.processes[1].write(1, 7)
    assert canonical(state_of(left)) != alike
    right.processes[2].write(1, 9)
    # Neither the numbers of processes and frames nor the bytes make another state; a pin does.
    assert canonical(state_of(left)) == canonical(state_of(right))
    left.processes[1].pin(1)
    assert canonical(state_of(left)) != canonical(state_of(right))


@pytest.mark.parametrize(
    "program",
    [
        (("write", 0, 0, 1), ("fork", 0), ("write", 1, 0, 2)),
        (("write", 0, 0, 1), ("fork", 0), ("pin", 0, 1, 1, 0), ("ref", 1, 0, 0)),
        (("write", 0, 0, 1), ("fork", 0), ("munmap", 1, 2, 2), ("madvise", 0, 0, 2, "wipeonfork")),
    ],
)
def test_what_tells_two_states_apart_is_in_their_names(program: tuple[af.Step, ...]) -> None:
    """Every step of these makes a state that there was not before."""
    names = [canonical(state_of(af.Scenario(4, program[:length], (2,)).end())) for length in range(len(program) + 1)]
    assert len(set(names)) == len(names)


def test_only_steps_that_can_change_something_are_tried() -> None:
    machine = af.Scenario(4, (("write", 0, 0, 1),), (2,)).end()
    space = Space(af.LINUX_6_15, af.Scenario(4, ()), ("write", "keeponfork", "wipeonfork", "unpin", "exit"), 2, ())
    steps = space.possible(machine.live())
    assert steps == [("madvise", 0, 0, 2, "wipeonfork"), ("madvise", 0, 2, 2, "wipeonfork")]


def test_ctrl_c_ends_a_search_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(depth: int, states: int, transitions: int) -> None:
        raise KeyboardInterrupt

    ticks = iter(range(0, 10_000, 2))
    monkeypatch.setattr("anonfolio.program.exploration.time.monotonic", lambda: next(ticks))
    result = counterexample("linux-6.15", steps=6, progress=interrupt)
    assert isinstance(result, Exhausted)
    assert result.interrupted
    assert "stopped early (Ctrl-C)" in str(result)
    # The first step was tried in all its ways, but nobody had said so yet.
    assert (result.steps, result.transitions) == (0, 11)


@pytest.mark.long
def test_a_search_ends_when_it_keeps_more_than_it_may() -> None:
    """What is not counted: what is there whatever the bound."""
    tracemalloc.start()
    result = counterexample("linux-6.15", steps=6, memory_mib=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(result, Exhausted)
    assert (result.interrupted, result.why) == (True, "2 MiB of memory are used")
    assert 1 < peak / (1 << 20) < 16
    # What it knows: everything up to so many steps was tried.
    whole = counterexample("linux-6.15", steps=result.steps)
    assert isinstance(whole, Exhausted)
    assert 10 < whole.states <= result.states


@pytest.mark.long
def test_what_a_search_keeps_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of states, how each was found, and those that wait; what is kept of steps by about what they take."""
    space = Space(af.LINUX_6_15, af.Scenario(4, (), (2,)), ("write", "fork", "exit"), 2, ())
    monkeypatch.setattr("anonfolio.program.explore._latest", None)
    exploration = Exploration(space, Limits(steps=6))
    # What searches before this one left is forgotten when it begins.
    forget()
    before = exploration.kept_bytes()
    tracemalloc.start()
    exploration.run()
    took = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert exploration.states > 300
    assert 0.5 * took < exploration.kept_bytes() - before < 2 * took


def test_names_and_what_waits_are_counted_beside_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is most of it in a short search."""
    space = Space(af.LINUX_6_15, af.Scenario(4, (), (2,)), ("write", "fork", "exit"), 2, ())
    exploration = Exploration(space, Limits(steps=6))
    exploration.run()
    exploration._helpers.clear()
    monkeypatch.setattr("anonfolio.program.exploration.kept_bytes", lambda: 0)
    waiting = sum(map(sys.getsizeof, exploration._waiting))
    assert waiting > 0
    assert exploration.kept_bytes() > waiting + sys.getsizeof(exploration._seen)


def test_what_helpers_keep_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anonfolio.program.workers.POOLED_STATES", 20)
    monkeypatch.setattr("anonfolio.program.workers.forks_safely", lambda: True)
    space = Space(af.LINUX_6_15, af.Scenario(4, (), (2,)), ("write", "fork", "exit"), 2, ())
    exploration = Exploration(space, Limits(steps=6, jobs=2))
    exploration.run()
    helpers = {who: kept for who, kept in exploration._helpers.items() if who != os.getpid()}
    assert len(helpers) == 2
    # What either had learnt before it was alone, and more.
    assert all(kept > 100_000 for kept in helpers.values())
    assert exploration.kept_bytes() > sum(helpers.values())


WRITE_FORK_EXIT = ("write", "fork", "exit")


def test_nothing_breaks_in_programs_of_any_length() -> None:
    result = counterexample("rfc-v2", steps=None, operations=WRITE_FORK_EXIT)
    assert isinstance(result, Exhausted)
    assert (result.complete, result.states, result.steps) == (True, 20, 6)
    assert "all programs of any length (no state is more than 6 steps away)" in str(result)
    assert "pinned_page_stays" in rests_on([result])
    assert "not searched: wipeonfork" in rests_on([result])
    # There are no longer ones.
    assert rests_on([result]).endswith("\nnot searched: other sizes, mappings, numbers of processes")
    assert "not searched: longer programs; " in rests_on([counterexample("rfc-v2", steps=2)])


def test_a_bound_that_reaches_every_state_says_so_only_when_it_looked_beyond() -> None:
    short, just, beyond = (counterexample("rfc-v2", steps=steps, operations=WRITE_FORK_EXIT) for steps in (5, 6, 7))
    assert [result.complete for result in (short, just, beyond)] == [False, False, True]
    assert short.states < just.states == beyond.states


@pytest.mark.long
def test_however_many_search_they_see_the_same_states(found: Counterexample, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, two of its own (with a rule that cannot be pickled), and somebody else's executor."""
    monkeypatch.setattr("anonfolio.program.workers.POOLED_STATES", 20)
    monkeypatch.setattr("anonfolio.program.workers.forks_safely", lambda: True)
    policy = af.LINUX_6_15.but(name="mine", large_reuse=lambda folio, ask: ask("never", False))
    bound = {"steps": 4, "operations": WRITE_FORK_EXIT}
    alone, together = counterexample(policy, **bound), counterexample(policy, jobs=2, **bound)
    assert isinstance(alone, Exhausted)
    assert alone == together
    with ThreadPoolExecutor(1) as executor:
        assert counterexample(policy, executor=executor, **bound) == alone
    assert counterexample("rfc-v2", steps=6, jobs=2) == found


def test_a_search_outlives_a_process_of_its_own_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what it knows, ends the other processes, and goes on from its checkpoint."""
    monkeypatch.setattr("anonfolio.program.workers.POOLED_STATES", 0)
    monkeypatch.setattr("anonfolio.program.workers.forks_safely", lambda: True)
    monkeypatch.chdir(tmp_path)
    Path("dies.py").write_text(
        "import os, signal\nimport anonfolio as af\ndef rule(folio, ask):\n"
        f"    if os.getpid() != {os.getpid()}:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return ask('never', False)\n"
        "policy = af.LINUX_6_15.but(name='dies', large_reuse=rule)\n"
    )
    asked = [
        "search",
        "--policy",
        "dies.py",
        "--steps",
        "4",
        "--checkpoint",
        "it.npz",
        "--operations",
        *WRITE_FORK_EXIT,
    ]
    assert main([*asked, "--jobs", "2"]) == 2
    out, err = capsys.readouterr()
    assert f"stopped early ({LOST}): nothing found in" in out
    assert err.endswith(f"anonfolio: the search stopped early ({LOST}); --jobs 1 takes less of it\n")
    assert multiprocessing.active_children() == []
    assert main([*asked, "--jobs", "1"]) == 0
    assert "nothing found; exhausted" in capsys.readouterr().out


def test_a_search_that_was_stopped_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    bound = {"pages": 2, "steps": None, "operations": ("write", "fork", "exit", "munmap"), "checkpoint": path}
    whole = counterexample("rfc-v2-fixed", **{**bound, "checkpoint": None})
    assert isinstance(whole, Exhausted)
    assert whole.complete
    stops = 0
    while (result := counterexample("rfc-v2-fixed", seconds=0.001, **bound)).interrupted:
        stops += 1
        assert stops < 100
    assert stops
    assert (result.states, result.digest, result.transitions) == (whole.states, whole.digest, whole.transitions)
    with pytest.raises(ValueError, match="is the checkpoint of another search"):
        counterexample("rfc-v2", **bound)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="is not the checkpoint of a search"):
        counterexample("rfc-v2-fixed", **bound)


def test_whatever_is_in_the_file_of_a_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "search.npz"
    bound = {"pages": 2, "steps": 2, "operations": ("write", "fork"), "checkpoint": path}
    counterexample("7.3", **bound)
    whole = path.read_bytes()
    with np.load(path) as kept:
        content = dict(kept)

    def changed(**arrays: Any) -> bytes:
        file = io.BytesIO()
        np.savez(file, **{**content, **arrays})
        return file.getvalue()

    alone = io.BytesIO()
    np.save(alone, np.zeros(3))
    breaks = [
        b"", whole[: len(whole) // 2], alone.getvalue(), changed(waiting=np.zeros(3, np.uint16)),
        changed(seal=np.zeros(3)), changed(numbers=np.array(5)), changed(numbers=np.array(["a"] * 3)),
    ]  # fmt: skip
    for broken in breaks:
        path.write_bytes(broken)
        with pytest.raises(
            ValueError, match=r"is not the checkpoint of a search|was changed since the search wrote it"
        ):
            counterexample("7.3", **bound)
    path.write_bytes(whole)
    assert counterexample("7.3", **bound) == counterexample("7.3", **{**bound, "checkpoint": None})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not the checkpoint of a search"):
        counterexample("7.3", pages=2, steps=1, checkpoint=tmp_path / "pipe")


def test_a_search_never_goes_beyond_its_steps_whatever_its_checkpoint_has(tmp_path: Path) -> None:
    bound = {"pages": 2, "operations": ("write", "fork", "munmap"), "checkpoint": tmp_path / "search.npz"}
    three = counterexample("7.3", steps=3, **bound)
    assert isinstance(three, Exhausted)
    assert not three.complete
    # Nothing is tried: what is told is what the checkpoint knows.
    assert counterexample("7.3", steps=2, **bound) == three


def test_where_no_checkpoint_can_be_is_said_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        # A search that finds something has nothing to keep at its end.
        counterexample("rfc-v2", steps=6, checkpoint=tmp_path / "none" / "x")


def test_a_reuse_that_asks_for_no_references_leaks_into_what_another_process_holds() -> None:
    """The leak of CVE-2020-29374: a child that had a page spliced into a pipe lets go of its mapping."""

    def not_shared(folio: af.rules.Folio, ask: af.rules.Ask) -> bool:
        return ask("nobody else maps it", not folio.shared)

    start = af.Scenario(4, (("write", 0, 0, 1), ("fork", 0), ("ref", 1, 0, 0)), (2,))
    bound = {"operations": ("write", "munmap", "unref"), "start": start, "steps": 4}
    found = counterexample(af.LINUX_6_15.but(name="mine", large_reuse=not_shared), **bound)
    assert isinstance(found, Counterexample)
    assert (found.steps, found.violation.invariant) == (3, "held_page_is_private")
    assert found.said == "process 0 wrote 0xdd, and process 1 reads 0xdd through reference 0"
    assert not counterexample("linux-6.15", **bound)


def mapcount_one(folio: af.rules.Folio, ask: af.rules.Ask) -> bool:
    return ask("page_mapcount == 1", folio.mapcount == 1)


def mapcount_and_references(folio: af.rules.Folio, ask: af.rules.Ask) -> bool:
    return mapcount_one(folio, ask) and ask("every reference is a mapping", folio.mappings == folio.refcount)


def test_a_reuse_by_the_mapcount_of_the_page_leaks_and_asking_for_references_mends_it() -> None:
    """The vmsplice leak; whoever asks for references too is sound."""
    start = af.Scenario(4, (("write", 0, 0, 1), ("fork", 0)), (2,))
    bound = {"operations": ("write", "fork", "ref", "munmap"), "steps": 3, "start": start}
    found = counterexample(af.LINUX_6_15.but(name="mine", large_reuse=mapcount_one), **bound)
    assert isinstance(found, Counterexample)
    assert (found.steps, found.violation.invariant) == (3, "held_page_is_private")
    assert re.fullmatch(r"process (\d) wrote 0xdd, and process (?!\1)\d reads 0xdd through reference 0", found.said)
    assert not counterexample(af.LINUX_6_15.but(name="mine", large_reuse=mapcount_and_references), **bound)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0: the search needs at least one"),
        ({"pages": 0}, "pages=0: the search needs at least one"),
        ({"processes": 0}, "processes=0: the search needs at least one"),
        ({"jobs": 0}, "jobs=0: the search needs at least one"),
        ({"memory_mib": 0}, "memory_mib=0: the search needs at least one"),
        ({"memory_mib": 1.5}, "memory_mib=1.5: the search needs at least one"),
        ({"pages": 100_000}, "pages=100000: the search needs at least one and takes 512 at most"),
        ({"operations": ("write", "swap")}, "cannot search over 'swap'"),
        ({"orders": (1,)}, "there is no anonymous folio of order 1"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counterexample("rfc-v2", **arguments)


def test_command_line_prints_the_program_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "--policy", "rfc-v2", "--steps", "4", "--jobs", "1", "--operations"]
    assert main([*command, "write", "pin", "forkfail_after"]) == 1
    found = capsys.readouterr().out
    assert "4 steps break pinned_page_stays" in found
    assert "dma_write" in found
    assert main([*command, "write", "fork"]) == 0
    nothing = capsys.readouterr().out
    assert "nothing found; exhausted" in nothing
    assert "not searched: exit" in nothing
    assert main([*command, "swap"]) == 2
    assert capsys.readouterr().err.startswith("anonfolio: cannot search over 'swap'")


@pytest.mark.parametrize(("steps", "longest"), [("2", [2, 1, 1]), ("6", [6, 5, 3]), ("any", [None, None, None])])
def test_the_command_searches_who_holds_pages_and_who_moves_them_too(
    steps: str, longest: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what none of its searches tried, and how to ask for it."""
    asked = []

    def nothing(policy: af.Policy, **bound: object) -> Exhausted:
        asked.append(bound)
        return Exhausted(policy.name, 4, 9, bound["operations"], 1, 1, promises=("reads_what_it_wrote",))

    monkeypatch.setattr(commands, "counterexample", nothing)
    assert main(["search", "--policy", "6.18", "--steps", steps, "--checkpoint", "kept"]) == 0
    assert [each["operations"] for each in asked] == [OPERATIONS, HOLDERS, MOVERS]
    assert [each["steps"] for each in asked] == longest
    assert len({each["checkpoint"] for each in asked}) == 3, "each goes on from its own"
    *_, promises, left_out, beyond = capsys.readouterr().out.splitlines()
    assert promises == "looked for: reads_what_it_wrote"
    tried = {*OPERATIONS, *HOLDERS, *MOVERS}
    named = left_out.removeprefix("not searched: ").split(" (--operations takes them)")[0]
    assert set(named.split(", ")) == set(EXTRA_OPERATIONS) - tried
    assert "clear_refs, dma_write" in left_out
    assert "mix operations of several searches" in beyond


@pytest.mark.long
def test_the_vmsplice_rule_is_refuted_by_what_the_command_searches() -> None:
    """Nobody has to know that references must be searched for it."""
    found = counterexample(af.LINUX_6_15.but(name="mine", large_reuse=mapcount_one), operations=HOLDERS, steps=5)
    assert isinstance(found, Counterexample)
    assert re.fullmatch(r"process (\d) wrote 0xdd, and process (?!\1)\d reads 0xdd through reference 0", found.said)


def test_a_field_can_be_changed_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "--policy", "rfc-v2", "--steps", "4", "--jobs", "1"]
    injected = [*command, "--operations", "write", "pin", "forkfail_after", "--set"]
    assert main([*injected, "copy_requires_ro=true"]) == 0
    assert capsys.readouterr().out.startswith("rfc-v2 copy_requires_ro=true: nothing found; exhausted")
    for wrong, message in (("copy_requires_ro", "is not FIELD=VALUE"), ("speed=9", "a policy has no field 'speed'")):
        assert main([*injected, wrong]) == 2
        assert message in capsys.readouterr().err
