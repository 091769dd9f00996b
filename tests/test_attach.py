"""A process that runs already: what it has is looked at, what it does is followed, and it is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_support import eventually, needs_kernel

from anonfolio.__main__ import main
from anonfolio.hardware.trace import ALONE, NO_ACCESS, NO_HUGE, READ_ONLY, READ_WRITE, replay
from anonfolio.hardware.trust import trust

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="follows a process on Linux")

if sys.platform == "linux":
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live.attach import _area, _in_memory, check_process, follow
    from anonfolio.witness.live.kernel import Mapping, smaps
    from anonfolio.witness.live.trace import Ended, Found, Image, Run, is_ours, trace_of

BUSY = """
import mmap, subprocess, sys, threading, time
held = [bytearray(4 << 20)]
only_read = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(only_read), 4096):
    only_read[at]
print("ready", flush=True)
def work():
    while True:
        held.append(bytearray(300_000)); time.sleep(0.05)
threading.Thread(target=work, daemon=True).start()
while True:
    subprocess.run(["/bin/sh", "-c", "(true); true"]); time.sleep(0.2)
"""


@pytest.fixture
def busy() -> Iterator[int]:
    """A process with two threads that takes memory and runs others."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def state_of(task: Path) -> str:
    """R, S, T, …: what follows the name in stat."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def test_pages_that_were_only_read_are_told_from_those_that_were_written(busy: int) -> None:
    if os.geteuid():
        pytest.skip("frames are shown to root")
    # Else it would go on between the two looks, on a busy machine for long.
    os.kill(busy, signal.SIGSTOP)
    assert eventually(lambda: {state_of(task) for task in Path(f"/proc/{busy}/task").iterdir()} == {"T"})
    rows = [row for row in smaps(busy) if is_ours(row)]
    pages, written = _in_memory(busy, rows)
    anonymous = sum(int(row.fields["Anonymous"].split()[0]) for row in rows) // 4
    assert int(written.sum()) == anonymous
    assert 64 <= len(pages) - int(written.sum()) < 100


def test_what_a_mapping_allows_and_was_advised_becomes_a_call() -> None:
    def row(access: str, flags: str) -> Mapping:
        return Mapping(0x10000, 0x30000, access, "0", "", {"VmFlags": flags})

    assert _area(row("rw-p", "rd wr mr mw me ac")) == (16, 48, READ_WRITE | ALONE, "")
    assert _area(row("r--p", "rd mr hg")) == (16, 48, READ_ONLY, "hugepage")
    assert _area(row("---p", "mr mw nh")) == (16, 48, NO_ACCESS | NO_HUGE, "")


def test_what_was_there_is_mapped_and_touched_before_the_first_event() -> None:
    image = Image(7, "server", [], 0x7FFFF000, 100, [], 500)
    areas = [(100, 110, READ_WRITE, ""), (512, 1024, READ_WRITE, "hugepage")]
    found = Found(image, 110 * 4096, [7, 8], areas, [100, 103, 512], [True, True, False])
    events = ["  a name-8   [001] d.... 1.5: page_fault_user: address=0x65008 ip=0x1 error_code=0x6"]
    ended = [Ended(7, 7, [(100, 110), (512, 1024)], 3, 12, 501)]
    trace = trace_of(Run(events, [], ended, 0, found), "6.18.44")
    assert [call.name for call in trace.calls] == ["spawn", "map", "map", "advise", "exit"]
    assert trace.code.tolist() == [6, 6, 4, 6]
    assert trace.process.tolist() == [0] * 4
    assert trace.kernel_faults == 4
    assert trust(trace)
    assert replay(trace, (2,)).faults == {"first touch": 1, "zero page read": 1}


@pytest.mark.parametrize(
    ("pid", "says"),
    [(os.getpid(), "is the recorder itself"), (99999999, "there is no process 99999999"), (2, "no memory of its own")],
    ids=["itself", "nobody", "a thread of the kernel"],
)
def test_who_cannot_be_followed_is_told_why(pid: int, says: str) -> None:
    if pid == 2 and not Path("/proc/2").exists():
        pytest.skip("the kernel's threads are not shown here")
    with pytest.raises(LiveError, match=says):
        check_process(pid)


def test_a_thread_is_not_taken_for_a_process(busy: int) -> None:
    deadline = time.monotonic() + 10
    while len(threads := os.listdir(f"/proc/{busy}/task")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    (other,) = {*map(int, threads)} - {busy}
    with pytest.raises(LiveError, match=f"{other} is a thread of process {busy}"):
        check_process(other)


def test_one_thing_at_a_time_is_advised_on(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--pid", "1", "--", "true"], ["--pid", "1", "x.npz"], ["--pid", "1", "--verify", "1"]):
        assert main(["advise", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.live
@needs_kernel
def test_a_running_process_is_followed_and_left_as_it_was(busy: int) -> None:
    trace = follow(busy, 1.5)
    assert trace.about["there_before"] > 1500
    assert trace.processes[0]["name"] == Path(sys.executable).resolve().name[:15] or trace.processes[0]["name"]
    assert {"sh"} <= {process["name"] for process in trace.processes}
    assert trust(trace), str(trust(trace))
    assert trace.calls[0].name == "spawn"
    status = Path(f"/proc/{busy}/status").read_text()
    assert "TracerPid:\t0\n" in status
    assert "(stopped)" not in status


@pytest.mark.live
@needs_kernel
def test_ctrl_c_ends_the_following_and_what_was_seen_is_told(
    busy: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt() -> None:
        while "TracerPid:\t0\n" in Path(f"/proc/{busy}/status").read_text():
            time.sleep(0.02)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main(["advise", "--pid", str(busy), "--seconds", "30", "--sizes", "64k"]) == 0
    out = capsys.readouterr().out
    assert "Trust: untraced" in out
    assert "final maps equal" in out
    assert Path(f"/proc/{busy}").exists()
