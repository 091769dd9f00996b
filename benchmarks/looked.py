"""look: how many processor seconds it takes to see and say 100 MiB of 64 KiB folios that a forked child shares."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from results import LeftOut, Measured, Result

PART = "look: a Python with 100 MiB in 64 KiB folios, and a forked child that wrote half of it"
FOLIOS = 1600
PROGRAM = """
import mmap, os, sys
memory = mmap.mmap(-1, 100 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
for at in range(0, len(memory), 4096):
    memory[at] = 1
reading, writing = os.pipe()
if not os.fork():
    for at in range(0, len(memory) // 2, 3 * 4096):
        memory[at] = 2
    os.write(writing, b"!")
    sys.exit(sys.stdin.read())
os.read(reading, 1)
print("ready", flush=True)
sys.stdin.read()
"""


def run(rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Seconds of this process; left out where large folios or struct pages cannot be had."""
    try:
        spent = _rounds(rounds, tell)
    except (ValueError, ImportError) as reason:
        yield LeftOut(PART, str(reason))
        return
    yield Measured(PART, "seen and said, processor time", spent, "s", at_most=0.1)


def _rounds(rounds: int, tell: Callable[[str], None]) -> tuple[float, ...]:
    from anonfolio.draw.looked import look_text
    from anonfolio.witness.live.kernel import LiveKernel
    from anonfolio.witness.looking import Looker

    spent = []
    with LiveKernel() as live:
        live.enable({4: "madvise"})
        with _running() as pid, Looker() as looker:
            if looker.missing:
                raise ValueError(looker.missing)
            # The first is a warm-up.
            for number in range(rounds + 1):
                tell(f"look, round {number} of {rounds}")
                start = time.process_time()
                seen = looker.look(pid)
                text = look_text(seen)
                spent.append(time.process_time() - start)
                if (seen.folios.order == 4).sum() < FOLIOS // 2 or not text:
                    raise ValueError("the kernel had too few large folios: run it again on a machine with free memory")
    return tuple(spent[1:])


@contextmanager
def _running() -> Iterator[int]:
    """The program, once it is ready; it ends with its standard input, and its child with it."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            program.stdout.readline()
            yield program.pid
        finally:
            assert program.stdin is not None
            program.stdin.close()
