"""The live witness: what it needs is said in one line, what it changes is put back, and the kernel equals the model.

Tests marked `live` change kernel settings for a while; they skip, with the reason, where they cannot.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from live_support import (
    PATIENCE_S,
    command_lines,
    difference,
    eventually,
    leftovers,
    loaded_programs,
    needs_kernel,
    pinned_pages,
    settings,
    undisturbed,
)

import anonfolio as af
from anonfolio.__main__ import main
from anonfolio.program.random_programs import ANY, KINDS, random_scenario, shrink, united, without
from anonfolio.program.scenario import Step
from anonfolio.witness.comparing import iter_differences
from anonfolio.witness.counted import EVENTS, held_byte, iter_count_differences, least, model_counts
from anonfolio.witness.recording import DATA_DIR

if sys.platform != "linux":
    pytest.skip("a live run needs Linux", allow_module_level=True)

from anonfolio.witness.here import LiveError, NotLive, TooDisturbed
from anonfolio.witness.live import compare as live_compare
from anonfolio.witness.live import kernel as live_kernel
from anonfolio.witness.live.compare import Tally, repeated_difference
from anonfolio.witness.live.kernel import Knobs, LiveKernel, abilities
from anonfolio.witness.live.run import FailingFork, live_run

# --- random programs ------------------------------------------------------------------------------------------------


@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", KINDS)
def test_programs_are_the_same_for_the_same_seed_and_run_to_their_end(kind: str) -> None:
    programs = [random_scenario(seed, kind) for seed in range(8)]
    assert programs == [random_scenario(seed, kind) for seed in range(8)]
    assert len({program.steps for program in programs}) == 8
    used = {step[0] for program in programs for step in program.steps}
    assert used <= set(KINDS[kind])
    assert {"write", "fork"} <= used
    for program in programs:
        assert len(program.run()) == len(program.steps) >= 1


def test_kinds_are_about_what_they_say() -> None:
    def refused(kind: str) -> float:
        results = [result for seed in range(12) for result in random_scenario(seed, kind).run()]
        return sum(not result.ok for result in results) / len(results)

    assert refused("populate") == 0
    assert refused("mixed") < 0.05 < refused("refused")
    assert any(step[0] == "forkfail" for step in random_scenario(1, "forkfail").steps)
    assert any(step[0] == "dma_write" for seed in range(9) for step in random_scenario(seed, "dma").steps)
    assert all(9 in random_scenario(seed, "huge").orders for seed in range(5))


def test_programs_use_the_sizes_there_are() -> None:
    orders = {random_scenario(seed, kind, sizes=(9,)).orders for seed in range(20) for kind in ("mixed", "huge")}
    assert orders == {(), (9,)}


def test_any_takes_the_kinds_in_turn_but_for_failing_forks() -> None:
    names = [random_scenario(seed, ANY).name for seed in range(2 * len(KINDS))]
    assert {name.split("-")[0] for name in names} == {*KINDS} - {"forkfail", "split", "shrink"}
    assert random_scenario(9, ANY) == random_scenario(9, names[9].split("-")[0])


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="there is no kind 'wild'; there are mixed, populate"):
        random_scenario(1, "wild")


# --- shrinking ------------------------------------------------------------------------------------------------------


def model_differs(mine: str, other: str, scenario: af.Scenario) -> int | None:
    """The first step at which two policies differ: two witnesses that run anywhere."""
    found = next(iter_differences(scenario.run(mine), scenario.run(other)), None)
    return found.number if found else None


@pytest.mark.parametrize("seed", range(1, 5))
def test_smallest_program_differs_and_no_step_of_it_can_go(seed: int) -> None:
    def differs(scenario: af.Scenario) -> int | None:
        return model_differs("linux-6.15", "linux-6.9", scenario)

    program = next(
        p for p in (random_scenario(s, "populate") for s in range(100 * seed, 999)) if differs(p) is not None
    )
    smallest = shrink(program, differs)
    last = len(smallest.steps) - 1
    assert differs(smallest) == last
    assert all(differs(without(smallest, range(at, at + 1))) is None for at in range(last))
    assert last < 8


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_a_difference_does_not_need_go(seed: int) -> None:
    """What 6.9 copies and 6.15 reuses takes four steps: write, fork, one of the two exits, the other writes."""

    def differs(scenario: af.Scenario) -> int | None:
        return model_differs("linux-6.15", "linux-6.9", scenario)

    steps = (("write", 0, 5, 1), ("fork", 0), ("exit", 0), ("fork", 1), ("exit", 1), ("fork", 2), ("exit", 2))
    program = af.Scenario(16, (*steps, ("write", 3, seed, 9)))
    assert differs(program) == 7
    smallest = shrink(program, differs)
    assert [step[0] for step in smallest.steps] == ["write", "fork", "exit", "write"]


def test_uniting_a_child_with_its_parent_keeps_the_others() -> None:
    steps: tuple[Step, ...] = (
        ("fork", 0), ("write", 1, 0, 1), ("fork", 1), ("exit", 1), ("write", 2, 0, 2), ("fork", 0), ("write", 3, 1, 3),
        ("exit", 2), ("write", 3, 2, 4),
    )  # fmt: skip
    program = af.Scenario(4, steps)
    assert united(program, 2).steps == (
        ("fork", 0), ("write", 1, 0, 1), ("write", 1, 0, 2), ("fork", 0), ("write", 2, 1, 3), ("exit", 1),
        ("write", 2, 2, 4),
    )  # fmt: skip
    assert len(united(program, 3).run()) == len(steps) - 1


def test_program_without_a_difference_stays() -> None:
    program = random_scenario(1)
    assert shrink(program, lambda _: None) is program


def test_what_depends_on_a_removed_step_goes_too() -> None:
    steps: tuple[Step, ...] = (
        ("write", 0, 0, 1), ("fork", 0), ("fork", 0), ("fork", 1), ("write", 3, 1, 2), ("pin", 2, 0, 1, 5),
        ("dma_write", 2, 5, 0, 9), ("exit", 1), ("unpin", 2, 5), ("write", 2, 3, 4),
    )  # fmt: skip
    program = af.Scenario(4, steps)
    assert without(program, range(1, 2)).steps == (
        ("write", 0, 0, 1), ("fork", 0), ("pin", 1, 0, 1, 5), ("dma_write", 1, 5, 0, 9), ("unpin", 1, 5),
        ("write", 1, 3, 4),
    )  # fmt: skip
    assert [step[0] for step in without(program, range(5, 6)).steps[4:]] == ["write", "exit", "write"]
    assert without(program, range(7, 8)).steps == steps[:7] + steps[8:]


# --- what is missing is said in one line ----------------------------------------------------------------------------


def ordinary_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def no_huge_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_root(monkeypatch)
    monkeypatch.setattr(live_kernel, "THP", tmp_path / "transparent_hugepage")


def no_mapcounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page_merging(monkeypatch, tmp_path)
    (tmp_path / "run").write_text("0\n")
    monkeypatch.setattr(live_kernel, "_configured", lambda option: option == "NO_PAGE_MAPCOUNT")


def hidden_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_root(monkeypatch)
    monkeypatch.setattr(live_kernel, "_shows_frames", lambda: False)


def another_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live_kernel.platform, "machine", lambda: "riscv64")


def page_merging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_root(monkeypatch)
    monkeypatch.setattr(live_kernel, "THP", tmp_path)
    (tmp_path / "enabled").touch()
    (tmp_path / "run").write_text("1\n")
    monkeypatch.setattr(live_kernel, "KSM", tmp_path / "run")


def make_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(live_kernel.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(live_kernel, "_shows_frames", lambda: True)


LACKS = {
    ordinary_user: "it needs root: run it with sudo",
    no_huge_pages: "it needs knobs of huge pages: ",
    no_mapcounts: "it needs mapcounts of single pages: CONFIG_NO_PAGE_MAPCOUNT has no such count: boot a kernel",
    hidden_frames: "it needs frame numbers in pagemap: be root on a machine",
    another_processor: "it needs Linux on x86-64 or arm64, base pages of 4 KiB: use such a machine",
    page_merging: "it needs KSM off: echo 0 > ",
}
COMMANDS = (["compare", "--programs", "1"], ["record", "never.json.gz", "wipe-on-fork"])


@pytest.mark.parametrize("lack", LACKS)
def test_a_lack_is_a_live_error_that_says_what_to_do(
    lack: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lack(monkeypatch, tmp_path)  # type: ignore[operator]
    with pytest.raises(LiveError, match=LACKS[lack]) as caught:  # type: ignore[index]
        live_run(af.Scenario.load("wipe-on-fork"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_end_with_2_and_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ordinary_user(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("anonfolio: no live run here")
    assert not list(tmp_path.iterdir())


def test_doctor_says_no_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ordinary_user(monkeypatch, tmp_path)
    assert main(["doctor"]) == 1
    assert "no   root: run it with sudo, or look at recordings\n" in capsys.readouterr().out


def test_doctor_says_that_faults_are_only_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live_kernel, "TRACEFS", tmp_path / "tracing")
    assert not live_kernel.trace_ability().ok
    assert not live_kernel.trace_ability().needed
    assert "faults are counted instead (minflt)" in live_kernel.trace_ability().says


def test_configuration_of_the_kernel_is_read_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import gzip

    monkeypatch.setattr(live_kernel, "PROC", tmp_path)
    monkeypatch.setattr(live_kernel.platform, "release", lambda: "none")
    assert not live_kernel._configured("THIS")
    (tmp_path / "config.gz").write_bytes(gzip.compress(b"CONFIG_THIS=y\n# CONFIG_THAT is not set\n"))
    assert live_kernel._configured("THIS")
    assert not live_kernel._configured("THAT")


@pytest.mark.parametrize("command", [["record", "f.json.gz"], ["record", "f.json.gz", "wipe-on-fork", "--random", "1"]])
def test_record_takes_scenarios_or_random_programs(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert capsys.readouterr().err == "anonfolio: record takes either scenarios or --random N\n"


@pytest.mark.parametrize("step", [("pin_ro", 0, 0, 1, 0), ("forkfail_after", 0, 1)], ids=lambda step: step[0])
def test_what_only_the_model_does_is_refused_before_anything_changes(step: Step) -> None:
    with pytest.raises(NotLive, match=f"step 1, {step[0]}, cannot be run live"):
        live_run(af.Scenario(1, (step,)))


# --- knobs and the lock ---------------------------------------------------------------------------------------------


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    monkeypatch.setattr(live_kernel, "LOCK", path)
    monkeypatch.setattr(live_kernel, "TRACEFS", tmp_path / "tracing")
    return path


def test_knobs_are_journalled_and_put_back(lock: Path, tmp_path: Path) -> None:
    choice, number = tmp_path / "enabled", tmp_path / "sleep"
    choice.write_text("always [madvise] never\n")
    number.write_text("10000\n")
    with live_kernel.only_run() as journal:
        knobs = Knobs(journal)
        assert not knobs.set(choice, "madvise")
        assert knobs.set(number, 7)
        knobs.set(number, 8)
        assert number.read_text() == "8"
        assert str(number) in lock.read_text()
        knobs.restore()
        assert (number.read_text(), choice.read_text()) == ("10000", "always [madvise] never\n")
        assert lock.read_text() == ""


def test_knob_that_cannot_be_put_back_is_told_and_stays_in_the_journal(
    lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, kept = tmp_path / "lost", tmp_path / "kept"
    lost.write_text("1")
    kept.write_text("1")
    with live_kernel.only_run() as journal:
        knobs = Knobs(journal)
        knobs.set(kept, 2)
        knobs.set(lost, 2)
        lost.unlink()
        knobs.restore()
        assert kept.read_text() == "1"
        assert f"{lost} could not be put back to '1'" in capsys.readouterr().err
        assert str(lost) in lock.read_text()


@pytest.mark.parametrize(
    "text", ["", "no json", "[1]", '{"/etc/passwd": "x"}', '{"/sys/kernel/mm/../../x": "1"}', '{"/proc/sys/vm": 3']
)
def test_journal_that_is_not_ours_changes_nothing(lock: Path, text: str) -> None:
    lock.write_text(text)
    fd = os.open(lock, os.O_RDWR)
    assert live_kernel.read_journal(fd) == {}
    os.close(fd)


def test_two_runs_at_once_are_refused(lock: Path) -> None:
    with (
        live_kernel.only_run(),
        pytest.raises(LiveError, match=rf"another live run is going on \(process {os.getpid()}: .*\); try again"),
        live_kernel.only_run(patience=0),
    ):
        pass


def left_behind() -> live_kernel.Ability:
    return next(ability for ability in live_kernel._further_abilities() if ability.name.startswith("nothing left"))


def test_the_lock_is_one_for_the_machine_whatever_the_environment_says(tmp_path: Path) -> None:
    say = "from anonfolio.witness.live.kernel import LOCK; print(LOCK)"
    places = {
        subprocess.run(
            [sys.executable, "-c", say],
            env={**os.environ, "TMPDIR": folder},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder in ("/tmp", str(tmp_path))
    }
    assert places == {f"{live_kernel.LOCK}\n"}
    assert not live_kernel.LOCK.is_relative_to(tmp_path)


def test_doctor_says_of_a_killed_run_what_it_left_and_of_a_running_one_that_it_runs(lock: Path) -> None:
    assert left_behind().ok
    with live_kernel.only_run():
        assert not left_behind().ok
        assert "another live run is going on" in left_behind().says
    lock.write_text('{"/proc/sys/vm/compaction_proactiveness": "20"}')
    assert not left_behind().ok
    assert left_behind().says == "/proc/sys/vm/compaction_proactiveness: anonfolio doctor --restore"


def test_doctor_without_root_looks_before_it_says_that_nothing_is_left(
    lock: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert left_behind().ok
    assert not lock.exists()
    lock.write_text("")
    assert left_behind().ok
    lock.write_text('{"/proc/sys/vm/compaction_proactiveness": "20"}')
    assert not left_behind().ok
    assert "sudo anonfolio doctor --restore" in left_behind().says
    (tmp_path / "file").touch()
    monkeypatch.setattr(live_kernel, "LOCK", tmp_path / "file" / "lock")
    assert not left_behind().ok
    assert "cannot be looked at" in left_behind().says


def test_lock_that_is_a_link_is_refused(lock: Path, tmp_path: Path) -> None:
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LiveError, match="cannot be opened"), live_kernel.only_run():
        pass


# --- a difference is believed when it repeats -----------------------------------------------------------------------


def found_by(monkeypatch: pytest.MonkeyPatch, *runs: str) -> tuple[af.Difference | None, Tally]:
    """What is reported when single runs find this ("" for no difference)."""
    answers = iter(runs)

    def one_run(*_: object) -> af.Difference | None:
        what, _, step = next(answers).partition("@")
        return af.Difference(int(step or 9), ("write", 0, 0, 1), what, "1", "2") if what else None

    monkeypatch.setattr(live_compare, "live_difference", one_run)
    monkeypatch.setattr(live_compare, "LATER_S", 0)
    tally = Tally()
    return repeated_difference(af.Scenario(1, ()), None, af.LINUX_6_15, tally), tally  # type: ignore[arg-type]


def test_difference_that_repeats_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    found, tally = found_by(monkeypatch, "size", "size", "size", "size")
    assert found
    assert tally.disturbed == 0


@pytest.mark.parametrize(
    "runs",
    [("size", "present@3", "size", "size", "size"), ("present@3", "size", "size", "present@3", "size", "size"),
     ("size", "size", "size", "bytes", "size")],
)  # fmt: skip
def test_what_disturbs_a_run_hides_no_difference_that_comes_later(
    monkeypatch: pytest.MonkeyPatch, runs: tuple[str, ...]
) -> None:
    """On a busy machine, runs that differed by chance at an earlier step made a real difference go unsaid."""
    found, tally = found_by(monkeypatch, *runs)
    assert found
    assert (found.number, found.what, tally.disturbed) == (9, "size", 0)


def test_a_difference_that_cannot_be_made_small_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a program may be disturbed, or impossible; that it differs was seen."""
    whole = af.Scenario(2, (("write", 0, 0, 1), ("fork", 0), ("write", 0, 0, 2)))

    def run(scenario: af.Scenario, *_: object) -> af.Difference | None:
        if scenario.steps != whole.steps:
            raise TooDisturbed("busy")
        return af.Difference(2, scenario.steps[2], "size", "1", "2")

    monkeypatch.setattr(live_compare, "live_difference", run)
    monkeypatch.setattr(live_compare, "LATER_S", 0)
    found = live_compare.smallest_difference(whole, None, af.LINUX_6_15)  # type: ignore[arg-type]
    assert found
    assert (found[0].steps, found[1].number) == (whole.steps, 2)


@pytest.mark.parametrize(
    "runs",
    [("size", ""), ("size", "size", ""), ("size@3", "size", "size@3", "size@3", "size@3", ""),
     ("size@1", "size@2", "size@3", "size@4", "size@5", "size@6", "size@7", "size@8", "size@9", "size@10", "size@11",
      "size@12")],
)  # fmt: skip
def test_difference_that_does_not_repeat_is_counted_as_disturbed(
    monkeypatch: pytest.MonkeyPatch, runs: tuple[str, ...]
) -> None:
    found, tally = found_by(monkeypatch, *runs)
    assert found is None
    assert tally.disturbed == 1
    assert "1 disturbed (no difference when they ran again)" in str(tally)


def test_going_on_after_a_difference_that_did_not_last(monkeypatch: pytest.MonkeyPatch) -> None:
    different = af.Difference(0, ("write", 0, 0, 1), "size", "1", "2")
    monkeypatch.setattr(live_compare, "LiveKernel", OneKernel)
    monkeypatch.setattr(live_compare, "repeated_difference", lambda scenario, *_: different if scenario.name else None)
    monkeypatch.setattr(live_compare, "PAUSE_S", 0)
    tally = Tally()
    programs = iter([af.Scenario(1, (), name=name) for name in ("a", "", "b", "")])
    found = live_compare.live_differences(lambda _: programs, af.LINUX_6_15, tally, programs=4)
    assert [(scenario.name, tally.programs) for scenario, _ in found] == [("a", 1), ("b", 3)]
    assert tally.programs == 4


class OneKernel:
    """Stands in for the prepared kernel; the runs themselves stand in too."""

    entered = 0

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> OneKernel:
        OneKernel.entered += 1
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_busy_machine_leaves_programs_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(scenario: af.Scenario, *_: object) -> None:
        time.sleep(0.005)
        if scenario.name.endswith("3"):
            raise TooDisturbed("busy")

    monkeypatch.setattr(live_compare, "LiveKernel", OneKernel)
    monkeypatch.setattr(live_compare, "repeated_difference", run)
    monkeypatch.setattr(live_compare, "BUSY_S", 0)
    monkeypatch.setattr(live_compare, "PAUSE_S", 0)
    monkeypatch.setattr(live_compare, "TURN_S", 0.02)
    OneKernel.entered, tally = 0, Tally()
    programs = (af.Scenario(1, (("write", 0, 0, 1),), name=f"a-{seed}") for seed in range(100))
    assert not list(live_compare.live_differences(lambda _: programs, af.LINUX_6_15, tally, programs=10))
    assert (tally.programs, tally.steps, tally.left_out) == (10, 10, 1)
    assert OneKernel.entered > 1
    assert "1 left out" in str(tally)


# --- what is counted ------------------------------------------------------------------------------------------------


def test_model_counts_what_the_kernel_counts() -> None:
    steps = (("write", 0, 0, 1), ("fork", 0), ("exit", 1), ("write", 0, 3, 2), ("write", 0, 20, 1))
    timeline = af.Scenario(24, steps, (2, 4)).run()
    assert [model_counts(result) for result in timeline] == [
        {"anon_fault_alloc/4": 1}, {}, {}, {"pgreuse": 1}, {"anon_fault_alloc/2": 1},
    ]  # fmt: skip


def as_counted(timeline: af.Timeline) -> af.Recorded:
    """A kernel that counts exactly what the model says."""
    scenario = timeline.scenario
    steps = []
    for result in timeline:
        counts = live_compare_counts(result, scenario)
        steps.append({"ok": result.ok, "value": result.value, "faults": [], "view": {}, "counted": counts})
    return af.Recorded("6.18.44", scenario, tuple(steps))


def live_compare_counts(result: af.Result, scenario: af.Scenario) -> dict[str, object]:
    from anonfolio.witness.counted import model_mapcounts

    mapcounts = model_mapcounts(result.snapshot, scenario.first_vpn, scenario.pages)
    counts: dict[str, object] = {"mapcount": {str(number): row.tolist() for number, row in mapcounts.items()}}
    return {**counts, "minflt": len(result.user_faults), "held": 7, **model_counts(result)}


COUNTED = af.Scenario(
    16, (("write", 0, 0, 7), ("ref", 0, 0, 1), ("fork", 0), ("exit", 1), ("unref", 0, 1), ("write", 0, 3, 2)), (4,)
)


def test_counts_that_agree_are_no_difference_and_more_is_none_either() -> None:
    timeline = COUNTED.run()
    other = as_counted(timeline)
    assert list(iter_count_differences(timeline, other)) == []
    for step in other.steps:
        step["counted"]["pgreuse"] = 5 + step["counted"].get("pgreuse", 0)
    assert list(iter_count_differences(timeline, other)) == []
    assert list(iter_count_differences(timeline, other.without_counts())) == []


@pytest.mark.parametrize(
    ("step", "name", "value", "what"),
    [
        (0, "minflt", 2, "minor faults"),
        (5, "minflt", 0, "minor faults"),
        (5, "pgreuse", 0, "pgreuse, counted by the whole machine"),
        (0, "anon_fault_alloc/4", 0, "anon_fault_alloc/4, counted by the whole machine"),
        (4, "held", 8, "byte behind the reference"),
        (2, "mapcount", {"0": [1] * 16, "1": [2] * 16}, "process 0 page 0: mapcount"),
    ],
)
def test_count_that_differs_is_told(step: int, name: str, value: object, what: str) -> None:
    timeline = COUNTED.run()
    other = as_counted(timeline)
    other.steps[step]["counted"][name] = value
    assert [(found.number, found.what) for found in iter_count_differences(timeline, other)] == [(step, what)]


def test_least_of_several_runs_is_nearest() -> None:
    runs = [as_counted(COUNTED.run()) for _ in range(2)]
    runs[0].steps[5]["counted"]["pgreuse"] = 4
    runs[1].steps[1]["counted"]["pgreuse"] = 2
    assert least(runs) == [
        {"anon_fault_alloc/4": 1}, {"pgreuse": 0}, {}, {}, {}, {"pgreuse": 1},
    ]  # fmt: skip


def test_byte_behind_a_reference_is_the_old_one_after_a_copy() -> None:
    timeline = af.Scenario(4, (("write", 0, 1, 7), ("ref", 0, 1, 2), ("fork", 0), ("write", 0, 1, 9)), ()).run()
    assert held_byte(timeline[3].snapshot, 0, 2) == 7


# --- programs that showed a difference ------------------------------------------------------------------------------

FAILING = DATA_DIR.parent / "failing"


def test_programs_that_once_showed_a_difference_replay() -> None:
    for path in sorted(FAILING.glob("*.json.gz")):
        assert af.replay(af.read_recording(path)).mismatches == (), path.name


def test_program_that_is_kept_can_show_its_difference(tmp_path: Path) -> None:
    """The rule that one of them found, turned round."""
    recording = af.read_recording(FAILING / "read-only-before-any-write-6.18.44.json.gz")
    wrong = af.policy_for_kernel(recording.kernel).but(unaccounts_read_only=False)
    assert af.replay(recording, wrong).mismatches


# --- live -----------------------------------------------------------------------------------------------------------


FAILING_FORKS = os.environ.get("ANONFOLIO_FAILING_FORKS") == "1"
without_failing_forks = pytest.mark.skipif(
    not FAILING_FORKS, reason="makes other programs' forks fail for moments; asked for with ANONFOLIO_FAILING_FORKS=1"
)


@pytest.fixture(scope="class")
def kernel() -> Iterator[LiveKernel]:
    with LiveKernel(PATIENCE_S) as kernel:
        yield kernel


@pytest.mark.live
@needs_kernel
class TestPreparedKernel:
    """With the kernel prepared once for all."""

    def test_named_scenarios_equal_the_model(self, kernel: LiveKernel) -> None:
        ran = 0
        for name in af.scenario_names():
            scenario = af.Scenario.load(name)
            if not FAILING_FORKS and any(step[0] == "forkfail" for step in scenario.steps):
                continue
            with suppress(NotLive):
                assert difference(scenario, kernel) is None, name
                ran += 1
        assert ran >= (20 if len(kernel.sizes) > 1 else 1)

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "forkfail"])
    def test_random_programs_equal_the_model(self, kernel: LiveKernel, kind: str) -> None:
        for seed in range(5):
            try:
                found = difference(random_scenario(seed, kind, kernel.sizes), kernel)
            except NotLive as refused:
                # debugfs is closed where the kernel is locked down.
                if kind != "split":
                    raise
                pytest.skip(str(refused))
            assert found is None, seed

    def test_a_page_taken_twice_has_no_reference_left(self, kernel: LiveKernel) -> None:
        taken = "pages 16\norders 2\nskew 3\nwrite 0 0 6\nfork 0\ngup 1 0\nwrite 1 0 13\ngup 1 0\nfork 1\n"
        scenario = af.Scenario.parse(f"scenario taken\n{taken}write 1 0 14\nwrite 2 0 20\n")
        assert difference(scenario, kernel) is None
        held = "write 0 0 6\npin 0 0 1 0\nunpin 0 0\npin 0 0 1 0\nunpin 0 0\nref 0 0 0\nunref 0 0\nfork 0\nexit 1\n"
        assert difference(af.Scenario.parse(f"scenario held\npages 2\n{held}write 0 0 7\n"), kernel) is None

    @without_failing_forks
    def test_fork_fails_where_it_is_meant_to(self, kernel: LiveKernel) -> None:
        before = Knobs.read(Path("/proc/sys/vm/overcommit_memory"))
        steps: list[Step] = [("write", 0, page, page) for page in (0, 8, 12)]
        steps += [("mprotect", 0, 8, 4, 1), ("forkfail", 0, 12), ("write", 0, 0, 9), ("write", 0, 12, 9)]
        for orders in ((), (9,)):
            assert difference(af.Scenario(16, tuple(steps), orders), kernel) is None
        assert Knobs.read(Path("/proc/sys/vm/overcommit_memory")) == before

    def test_recording_of_it_replays(self, kernel: LiveKernel, tmp_path: Path) -> None:
        path = tmp_path / "made.json.gz"
        programs = [random_scenario(seed, "mixed", kernel.sizes) for seed in range(3)]
        written = af.write_recording(path, kernel.version, (live_run(program, kernel) for program in programs), seed=0)
        recording = af.read_recording(path)
        assert [program.scenario for program in recording.programs] == [program.but(about="") for program in programs]
        assert written == (3, sum(len(program.steps) for program in programs))
        assert af.replay(recording).mismatches == ()

    def test_wrong_policy_is_seen_and_made_small(self, kernel: LiveKernel) -> None:
        """6.9 for this kernel: no step of what is left over can go, and no process."""
        if af.policy_for_kernel(kernel.version) != af.LINUX_6_15:
            pytest.skip("this kernel is no 6.15 or later")

        def differs(scenario: af.Scenario) -> int | None:
            found = difference(scenario, kernel, af.LINUX_6_9)
            return found.number if found else None

        for kind in ("populate", "mixed"):
            programs = (random_scenario(seed, kind, kernel.sizes) for seed in range(50))
            smallest = shrink(next(program for program in programs if differs(program) is not None), differs)
            last = len(smallest.steps) - 1
            assert last < 5
            assert differs(smallest) == last
            assert all(differs(without(smallest, range(at, at + 1))) is None for at in range(last))

    def test_counters_are_the_models_when_nothing_else_counts(self, kernel: LiveKernel) -> None:
        """Other programs only add, so that the least of some runs is this program's own."""
        order = 4 if 4 in kernel.sizes else 9
        pages = 1 << order
        steps: tuple[Step, ...] = (
            ("write", 0, 0, 1), ("fork", 0), ("write", 1, 1, 2), ("exit", 1), ("write", 0, 3, 2), ("write", 0, 1, 2),
            ("munmap", 0, pages // 2, 1), ("write", 0, pages, 1),
        )  # fmt: skip
        scenario = af.Scenario(2 * pages, steps, (order,))
        wanted = [model_counts(result) for result in scenario.run(af.policy_for_kernel(kernel.version))]
        sized = (live_kernel.size_knobs().get(order, Path("none")) / "stats/anon_fault_alloc").exists()
        runs = []
        while len(runs) < 40:
            runs.append(undisturbed(lambda: live_run(scenario, kernel)))
            seen = [{name: count for name, count in counts.items() if count} for counts in least(runs)]
            if seen == wanted:
                break
        events = EVENTS if sized else ("pgreuse",)
        kept = [{name: n for name, n in counts.items() if name.split("/")[0] in events} for counts in wanted]
        assert seen == kept

    def test_part_of_a_folio_that_is_unmapped_is_counted_as_such(self, kernel: LiveKernel) -> None:
        counter = live_kernel.size_knobs().get(4, Path("none")) / "stats/nr_anon_partially_mapped"
        if not counter.exists():
            pytest.skip("this kernel does not count partially mapped folios")
        scenario = af.Scenario(16, (("write", 0, 0, 1), ("munmap", 0, 3, 2)), (4,))
        recorded = undisturbed(lambda: live_run(scenario, kernel))
        assert recorded.steps[1]["counted"]["nr_anon_partially_mapped/4"] == 1
        assert recorded.steps[1]["counted"]["split_deferred/4"] == 1
        assert recorded.steps[1]["counted"]["mapcount"] == {"0": [1, 1, 1, 0, 0, *[1] * 11]}

    def test_recording_keeps_counters_only_when_asked(self, kernel: LiveKernel, tmp_path: Path) -> None:
        recorded = undisturbed(lambda: live_run(af.Scenario(1, (("write", 0, 0, 1),), ()), kernel))
        for name, run in (("with", recorded), ("without", recorded.without_counts())):
            af.write_recording(tmp_path / name, kernel.version, [run])
            read = af.read_recording(tmp_path / name).programs[0]
            assert ("counted" in read.steps[0]) == (name == "with")
            assert read.replay() == []

    def test_size_that_this_kernel_lacks_is_named(self, kernel: LiveKernel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernel, "sizes", (9,))
        with pytest.raises(NotLive, match=r"has no size of order 4; it has 9"):
            live_run(af.Scenario(4, (("write", 0, 0, 1),), (4,)), kernel)

    def test_child_that_is_killed_is_one_line(self, kernel: LiveKernel, monkeypatch: pytest.MonkeyPatch) -> None:
        def die(failing: FailingFork, address: int) -> None:
            os.kill(failing.remote.pid, signal.SIGKILL)
            assert failing.remote.gone()

        monkeypatch.setattr(FailingFork, "run", die)
        monkeypatch.setattr(FailingFork, "__init__", lambda self, kernel, remote: setattr(self, "remote", remote))
        program = af.Scenario(1, (("write", 0, 0, 1), ("fork", 0), ("forkfail", 1, 0), ("write", 1, 0, 1)), ())
        with pytest.raises(LiveError, match=r"process \d+ of the live run was killed"):
            live_run(program, kernel)
        assert difference(random_scenario(1, "mixed", kernel.sizes), kernel) is None


@pytest.fixture(scope="class")
def untraced() -> Iterator[LiveKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_kernel, "TRACEFS", Path("/sys/kernel/no-tracing"))
        with LiveKernel(PATIENCE_S) as kernel:
            yield kernel


@pytest.mark.live
@needs_kernel
class TestWithoutTracefs:
    """Faults are counted then, not placed, and everything else is the same."""

    @pytest.mark.parametrize("kind", ["mixed", "populate", "huge", "segv", "dma"])
    def test_counts_of_faults_equal_the_model(self, untraced: LiveKernel, kind: str) -> None:
        assert not untraced.traces
        for seed in range(10):
            scenario = random_scenario(seed, kind, untraced.sizes)
            assert difference(scenario, untraced) is None, seed
        recorded = undisturbed(lambda: live_run(scenario, untraced))
        assert all(isinstance(step["faults"], int) for step in recorded.steps)

    def test_wrong_count_is_a_difference(self, untraced: LiveKernel) -> None:
        scenario = af.Scenario(1, (("write", 0, 0, 1),), ())
        recorded = undisturbed(lambda: live_run(scenario, untraced))
        recorded.steps[0]["faults"] += 1
        found = next(iter_differences(scenario.run(), recorded))
        assert (found.what, found.mine, found.theirs) == ("page faults", "page 0 (write, nothing there)", "2, counted")

    def test_failing_fork_is_not_live(self, untraced: LiveKernel) -> None:
        scenario = af.Scenario(1, (("write", 0, 0, 1), ("forkfail", 0, 0)), ())
        with pytest.raises(NotLive, match="only where page faults can be traced"):
            live_run(scenario, untraced)


@pytest.mark.live
@needs_kernel
class TestCommand:
    """The command line, as a reader runs it."""

    def test_recording_is_refused_where_faults_are_only_counted(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(live_kernel, "TRACEFS", tmp_path / "none")
        assert main(["record", str(tmp_path / "f.json.gz"), "first-write"]) == 2
        assert "a recording says where page faults happened" in capsys.readouterr().err

    def test_difference_is_kept_as_a_recording(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        if af.policy_for_kernel(live_kernel.kernel_version()) != af.LINUX_6_15:
            pytest.skip("this kernel is no 6.15 or later")
        command = ["compare", "--kind", "populate", "--policy", "linux-6.9", "--keep", str(tmp_path / "kept")]
        assert main(command) == 1
        said = capsys.readouterr().out
        assert re.search(r"\d+ programs, \d+ steps, a difference in populate-\d+: step", said)
        kept = next((tmp_path / "kept").iterdir())
        assert f"replay {kept} --policy linux-6.9" in said
        assert af.replay(af.read_recording(kept)).mismatches == ()
        assert len(af.replay(af.read_recording(kept), af.LINUX_6_9).mismatches) == 1

    def test_time_is_a_bound_and_seed_kernel_and_steps_are_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        started = time.monotonic()
        assert main(["compare", "--seconds", "2", "--kind", ANY, "--seed", "fresh"]) == 0
        assert time.monotonic() - started < 120
        said = capsys.readouterr().out
        version = re.escape(live_kernel.kernel_version())
        assert re.match(
            rf"kernel {version} against linux-\S+, any programs from seed \d+ on\n\d+ programs, \d+ steps", said
        )


KILLED = (
    ("compare", "--programs", "100000", "--kind", "dma", "--seed", "{seed}"),
    ("record", "{folder}/x.json.gz", "--random", "100000", "--kind", "dma", "--seed", "{seed}"),
    ("trace record", "{folder}/x.npz", sys.executable, "-c", "while True: bytearray(1 << 21)", "{folder}"),
)


@pytest.mark.live
@needs_kernel
class TestPuttingBack:
    """Each of these prepares the kernel itself, and looks at the machine when it is over."""

    def test_after_an_exception(self) -> None:
        with live_kernel.only_run(PATIENCE_S):
            before = settings()
        with suppress(LiveError), LiveKernel(PATIENCE_S) as kernel:
            live_run(random_scenario(1, "huge", kernel.sizes), kernel)
            assert settings() != before
            raise LiveError("something went wrong")
        with live_kernel.only_run(PATIENCE_S):
            assert settings() == before
            assert leftovers() == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
    def test_after_a_signal(self, number: signal.Signals) -> None:
        with live_kernel.only_run(PATIENCE_S):
            before = settings()
        command = [sys.executable, "-m", "anonfolio", "compare", "--programs", "100000", "--seed", "7"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout
        with process, process.stdout:
            assert process.stdout.readline().startswith("kernel ")
            process.send_signal(number)
            assert process.wait(30) != 0
        if number == signal.SIGKILL:
            assert settings() != before
            assert "no   nothing left by a killed run" in "\n".join(map(str, abilities()))
            assert main(["doctor", "--restore"]) == 0
        with live_kernel.only_run(PATIENCE_S):
            assert settings() == before
            # Its processes end by themselves.
            assert eventually(lambda: leftovers() == [])

    @pytest.mark.parametrize("seed", range(int(os.environ.get("ANONFOLIO_KILLS", "3"))))
    def test_after_being_killed_at_a_random_moment(self, seed: int, tmp_path: Path) -> None:
        """Not only the settings: no process, tracefs instance, BPF program, pinned page or half a file stays either.

        Two are started at once, each with its own place for temporary files: one runs, the other is refused.
        ANONFOLIO_KILLS=100 kills as often (`make kills`).
        """
        moment = random.Random(seed)
        delay, number = moment.uniform(0.2, 4), moment.choice([*4 * [signal.SIGKILL], signal.SIGTERM, signal.SIGINT])
        name, *words = KILLED[seed % len(KILLED)]
        command = [sys.executable, "-m", "anonfolio", *name.split()]
        command += [word.format(seed=1000 * seed, folder=tmp_path) for word in words]
        with live_kernel.only_run(PATIENCE_S):
            before, pinned = settings(), pinned_pages()
        runs = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            own = os.environ | {"TMPDIR": str(tmp_path / name)}
            runs.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=own))
        time.sleep(delay)
        refused = [run.poll() for run in runs]
        assert refused.count(None) >= 1
        assert set(refused) <= {None, 2}
        for run in runs:
            run.send_signal(number)
        for run in runs:
            said = run.communicate(timeout=30)[1].decode()
            assert run.returncode != 0
            # Python itself tells of a Ctrl-C that comes before the command has begun.
            assert "Traceback" not in said or number == signal.SIGINT
        with live_kernel.only_run(PATIENCE_S) as journal:
            changed = sum(settings()[path] != value for path, value in before.items())
            instances = sum(path.startswith("/sys/") for path in leftovers())
            print(f"{number.name} after {delay:.1f} s left {changed} settings, {instances} tracefs instances")
            assert number == signal.SIGKILL or changed == instances == 0
            # Its processes end by themselves.
            assert eventually(lambda: not any(path.startswith("/proc/") for path in leftovers()))
            assert eventually(lambda: not any(str(tmp_path) in words for words in command_lines()))
            live_kernel.restore_leftovers(journal)
            assert settings() == before
            assert leftovers() == []
            # The ring of a killed process lets go of its pins in a worker of the kernel (`io_ring_exit_work`).
            assert eventually(lambda: pinned_pages() <= pinned, 60)
            assert not [path for path in tmp_path.iterdir() if path.is_file()]
            assert eventually(lambda: loaded_programs() == [])
