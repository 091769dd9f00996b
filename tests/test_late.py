"""What a reader wrote is ended in any thread when its time is over, and what ended it leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from anonfolio.kernel.late import TooLong, watched

AFTERWARDS = """
import sys, time
from anonfolio.kernel.late import TooLong, watched

def works(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "done"

said = [watched(60, lambda: works(0))]
for wait in (0.01, *100 * [0.001]):
    try:
        said.append(watched(wait, lambda: works(wait)))
    except TooLong:
        said.append("late")
# Nothing that was on its way may come here,
works(0.2)
# nor may the interpreter look for it forever: a thread with a profiler would stay in this call (CPython 3.11).
sys.setprofile(lambda *_: None)
works(0)
sys.setprofile(None)
print(said[0], {*said} <= {"done", "late"}, len(said))
"""


def test_what_was_ended_leaves_nothing_to_come_and_a_profiler_works() -> None:
    # Apart, for what goes wrong here never ends.
    run = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, timeout=120)
    assert (run.stdout, run.stderr) == ("done True 102\n", "")


@pytest.mark.parametrize("swallows", [False, True])
def test_a_thread_that_does_not_come_to_its_end_is_ended(swallows: bool) -> None:
    told: list[str] = []

    def endless() -> None:
        end = time.monotonic() + 30
        try:
            while time.monotonic() < end:
                time.sleep(0.001)
        except TooLong:
            if not swallows:
                raise
            told.append("swallowed")
        while time.monotonic() < end:
            time.sleep(0.001)

    def runs() -> None:
        try:
            watched(0.05, endless)
        except TooLong:
            told.append("ended")

    thread = threading.Thread(target=runs)
    thread.start()
    thread.join(20)
    assert told == [*swallows * ["swallowed"], "ended"]
