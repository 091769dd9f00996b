"""The live witness: what it needs is said in one line, what it changes is put back, and the kernel equals the model.

Tests marked `live` change kernel settings for a while; they skip, with the reason, where they cannot.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import anonfolio as af
from anonfolio.__main__ import main
from anonfolio.random_programs import KINDS, random_scenario, shrink, without
from anonfolio.scenario import Step
from anonfolio.witness import iter_differences

if sys.platform != "linux":
    pytest.skip("a live run needs Linux", allow_module_level=True)

from anonfolio import live_kernel
from anonfolio.live import FailingFork, live_run
from anonfolio.live_kernel import Knobs, LiveError, LiveKernel, NotLive, abilities, check_machine

# --- random programs ------------------------------------------------------------------------------------------------


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


def no_tracefs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_root(monkeypatch)
    monkeypatch.setattr(live_kernel, "THP", tmp_path)
    (tmp_path / "enabled").touch()
    monkeypatch.setattr(live_kernel, "TRACEFS", tmp_path / "tracing")


def hidden_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_root(monkeypatch)
    monkeypatch.setattr(live_kernel, "_shows_frames", lambda: False)


def another_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(live_kernel.platform, "machine", lambda: "aarch64")


def page_merging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_tracefs(monkeypatch, tmp_path)
    event = tmp_path / "tracing/events/exceptions/page_fault_user"
    event.mkdir(parents=True)
    (tmp_path / "run").write_text("1\n")
    monkeypatch.setattr(live_kernel, "KSM", tmp_path / "run")


def make_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(live_kernel.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(live_kernel, "_shows_frames", lambda: True)


LACKS = {
    ordinary_user: "it needs root: run it with sudo",
    no_huge_pages: "it needs knobs of huge pages: ",
    no_tracefs: "it needs page-fault tracepoint: none in ",
    hidden_frames: "it needs frame numbers in pagemap: be root on a machine",
    another_processor: "it needs Linux on x86-64: use such a machine",
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
        pytest.raises(LiveError, match="another live run is going on"),
        live_kernel.only_run(patience=0),
    ):
        pass


def test_lock_that_is_a_link_is_refused(lock: Path, tmp_path: Path) -> None:
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LiveError, match="cannot be opened"), live_kernel.only_run():
        pass


# --- live -----------------------------------------------------------------------------------------------------------


ASKED = os.environ.get("ANONFOLIO_LIVE") == "1"
"""Live tests change settings of the machine for a moment: only when asked to."""


def why_not() -> str:
    if not ASKED:
        return "changes settings of this machine for a moment; asked for with ANONFOLIO_LIVE=1"
    try:
        check_machine()
    except LiveError as error:
        return str(error)
    return ""


WHY_NOT = why_not()
needs_kernel = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
FAILING_FORKS = os.environ.get("ANONFOLIO_FAILING_FORKS") == "1"
without_failing_forks = pytest.mark.skipif(
    not FAILING_FORKS, reason="makes other programs' forks fail for moments; asked for with ANONFOLIO_FAILING_FORKS=1"
)


def settings() -> dict[str, str]:
    """Every value that a live run touches."""
    paths = [*live_kernel.THP.rglob("*"), Path("/proc/sys/vm/min_free_kbytes"), Path("/proc/sys/kernel/numa_balancing")]
    paths += [Path("/proc/sys/vm") / name for name in ("compaction_proactiveness", "user_reserve_kbytes")]
    paths += Path("/proc/sys/vm").glob("overcommit_*")
    return {str(path): path.read_text() for path in paths if path.is_file() and "stats" not in path.parts and
            not path.match("khugepaged/full_scans") and not path.match("khugepaged/pages_collapsed")}  # fmt: skip


def leftovers() -> list[str]:
    """Tracefs instances and processes of live runs."""
    found = [str(path) for path in (live_kernel.TRACEFS / "instances").glob(live_kernel.INSTANCES + "*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [str(path)] if any(word.endswith(b"live_worker.py") for word in words) else []
    return found


@pytest.fixture(scope="class")
def kernel() -> Iterator[LiveKernel]:
    with LiveKernel() as kernel:
        yield kernel


def differences(scenario: af.Scenario, kernel: LiveKernel) -> list[af.Difference]:
    return scenario.run(af.policy_for_kernel(kernel.version)).compare(live_run(scenario, kernel))


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
                assert differences(scenario, kernel) == [], name
                ran += 1
        assert ran >= (20 if len(kernel.sizes) > 1 else 1)

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "forkfail"])
    def test_random_programs_equal_the_model(self, kernel: LiveKernel, kind: str) -> None:
        for seed in range(5):
            assert differences(random_scenario(seed, kind, kernel.sizes), kernel) == [], seed

    @without_failing_forks
    def test_fork_fails_where_it_is_meant_to(self, kernel: LiveKernel) -> None:
        before = Knobs.read(Path("/proc/sys/vm/overcommit_memory"))
        steps: list[Step] = [("write", 0, page, page) for page in (0, 8, 12)]
        steps += [("mprotect", 0, 8, 4, 1), ("forkfail", 0, 12), ("write", 0, 0, 9), ("write", 0, 12, 9)]
        for orders in ((), (9,)):
            assert differences(af.Scenario(16, tuple(steps), orders), kernel) == []
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
        wrong = af.policy_for_kernel(kernel.version).but(name="wrong", large_reuse="never", huge_zero_write="page")
        if wrong == af.policy_for_kernel(kernel.version).but(name="wrong"):
            pytest.skip("this kernel never reuses a page of a large folio")

        def differs(scenario: af.Scenario) -> int | None:
            found = next(iter_differences(scenario.run(wrong), live_run(scenario, kernel)), None)
            return found.number if found else None

        programs = (random_scenario(seed, "populate", kernel.sizes) for seed in range(50))
        smallest = shrink(next(program for program in programs if differs(program) is not None), differs)
        assert len(smallest.steps) <= 6

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
        assert differences(random_scenario(1, "mixed", kernel.sizes), kernel) == []


@pytest.mark.live
@needs_kernel
class TestPuttingBack:
    """Each of these prepares the kernel itself, and looks at the machine when it is over."""

    def test_after_an_exception(self) -> None:
        before = settings()
        with suppress(LiveError), LiveKernel() as kernel:
            live_run(random_scenario(1, "huge", kernel.sizes), kernel)
            assert settings() != before
            raise LiveError("something went wrong")
        assert settings() == before
        assert leftovers() == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
    def test_after_a_signal(self, number: signal.Signals) -> None:
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
        assert settings() == before
        assert leftovers() == []
