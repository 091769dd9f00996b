"""What a recorder of page faults can take for something else: a small C program for each kind (recorder/kinds.c).

Stored are the traces and what the kernel counted under other sizes. Either the prediction is the kernel's number, or
the trust line says that it is void.
"""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest
from live_support import needs_kernel

from anonfolio.hardware.trace import Replay, Trace, read_measured, read_trace, replay, size_names, write_trace
from anonfolio.hardware.trust import trust

HERE = Path(__file__).parent / "recorder"
MODELLED = {
    "populate": {}, "madvise_populate": {}, "mlock": {}, "mlockall": {}, "thp_disable": {}, "dontunmap": {},
    "grow": {}, "free": {}, "fails": {}, "killed": {}, "many": {},
    "guards": {"accesses that were refused": 1}, "refused": {"accesses that were refused": 128},
}  # fmt: skip
"""Kind -> what of it is left out by name."""
VOID = {
    "direct": ("open with O_DIRECT", "were not traced"),
    "vmwrite": ("process_vm_writev", "were not traced"),
    "userfaultfd": ("userfaultfd", "userfaultfd: not modelled"),
}
"""Kind -> what is left out by name, and why its prediction is void."""
STATUS = {"fails": 3, "killed": -9}
CALLS = {"dontunmap": "move_keep", "grow": "grow", "mlock": "lock", "thp_disable": "thp_disable"}
WHOLE_PROCESS = 24
"""Pages of files that mlockall faults in unseen: they are none of ours, and untraced."""


@lru_cache
def replayed(kind: str, orders: tuple[int, ...] = ()) -> Replay:
    """The kind under these sizes."""
    return replay(read_trace(HERE / "traces" / f"{kind}.npz"), orders)


def test_every_kind_is_stored() -> None:
    stored = {path.stem for path in (HERE / "traces").glob("*.npz")}
    assert stored == {*MODELLED, *VOID}
    source = (HERE / "kinds.c").read_text()
    assert all(f"KIND({kind})" in source for kind in stored)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.long] * (kind == "many")) for kind in MODELLED])
def test_a_kind_that_is_modelled_is_predicted_and_trusted(kind: str) -> None:
    trace = read_trace(HERE / "traces" / f"{kind}.npz")
    for setting in read_measured(HERE / "traces" / f"{kind}.json"):
        assert [replayed(kind, setting.orders).total] == setting.faults, setting.name
    found = trust(trace, replayed(kind))
    assert found.doubts == ()
    # exec counts a fault or two of its own.
    assert abs(found.untraced) < (WHOLE_PROCESS if kind == "mlockall" else len(trace.processes))
    assert trace.left_out == MODELLED[kind]
    assert trace.status == STATUS.get(kind, 0)
    assert kind not in CALLS or CALLS[kind] in {call.name for call in trace.calls}


@pytest.mark.parametrize("kind", VOID)
def test_a_kind_that_is_not_modelled_is_predicted_wrong_and_said_to_be(kind: str) -> None:
    trace = read_trace(HERE / "traces" / f"{kind}.npz")
    name, says = VOID[kind]
    measured = {setting.orders: setting for setting in read_measured(HERE / "traces" / f"{kind}.json")}
    assert abs(replay(trace, (4,)).total / measured[4,].faults[0] - 1) > 0.5
    found = trust(trace)
    assert not found
    assert any(says in doubt for doubt in found.doubts)
    assert name in found.left_out
    assert name in str(found)


def test_each_of_300_processes_has_its_counts() -> None:
    trace = read_trace(HERE / "traces" / "many.npz")
    found = replayed("many", (4,))
    assert len(found.processes) == 301
    assert {part.anonymous for part in found.processes[2:]} == {found.processes[1].anonymous}
    for number, process in enumerate(trace.processes):
        mine = int((trace.process == number).sum())
        assert process["kernel_faults"] == mine + process["elsewhere"]
    assert sum(process["kernel_faults"] for process in trace.processes) == trace.kernel_faults


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("kinds") / "kinds"
    subprocess.run([compiler, "-O1", "-w", "-o", str(made), str(HERE / "kinds.c")], check=True)
    return made


def recorded(program: Path, kind: str) -> Trace:
    from anonfolio.witness.live.trace import record

    return record([str(program), kind], program.parent, {"command": kind})


@needs_kernel
@pytest.mark.live
@pytest.mark.parametrize("kind", MODELLED)
def test_the_recorder_knows_the_kind_on_this_kernel(program: Path, kind: str, tmp_path: Path) -> None:
    from anonfolio.witness.live.trace import measure

    trace = recorded(program, kind)
    if trace.status not in (0, STATUS.get(kind, 0)):
        pytest.skip(f"this kernel refuses what {kind} does")
    write_trace(tmp_path / "kept.npz", trace)
    assert trace.status == STATUS.get(kind, 0)
    assert trust(trace)
    (setting,) = measure([str(program), kind], program.parent, [(4,)], 1)
    predicted = replay(trace, (4,)).total
    assert abs(predicted / setting.faults[0] - 1) < 0.01, f"{size_names((4,))}: {predicted}, {setting.faults}"


@needs_kernel
@pytest.mark.live
@pytest.mark.parametrize("kind", VOID)
def test_the_recorder_doubts_the_kind_on_this_kernel(program: Path, kind: str) -> None:
    trace = recorded(program, kind)
    if trace.status:
        pytest.skip(f"this kernel or file system refuses what {kind} does")
    assert not trust(trace)
    assert VOID[kind][0] in trace.left_out
