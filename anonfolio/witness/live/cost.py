"""Measures the table of costs on the kernel of this machine, with a C program that is built on the spot.

Knobs, lock and restoring are `LiveKernel`'s. Needs root and a C compiler (``cc``, or what CC names); says so in one
line when there is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ...hardware.cost import COLD, Table
from ..here import Disturbed, LiveError
from .kernel import PROC, LiveKernel, check_machine, memory_info
from .run import undisturbed

SOURCE = Path(__file__).with_suffix(".c")
PAGES = 1 << 16
"""256 MiB: a page costs the same from there on."""
ROUNDS = 5
ATTEMPTS = 3
HELD_PAGES, COLD_PAGES = 3 << 18, 1 << 13
"""What was freed last is had first: 3 GiB of it are held (or a third of what there is), then 32 MiB are looked at."""
AT_ONCE = 4
"""Of such mappings, at most so many hold memory at one time; half of that, and room to find large folios in."""


class Spent(NamedTuple):
    """Processor time and page faults for all pages together."""

    ns: int
    faults: int


def compiler() -> list[str]:
    """The command of the C compiler; LiveError when there is none."""
    command = os.environ.get("CC", "cc").split()
    if not command or not shutil.which(command[0]):
        raise LiveError(f"no C compiler here: {' '.join(command) or 'cc'} is not on the PATH; install one, or set CC")
    return command


def compiler_version() -> str:
    """Its first line about itself."""
    said = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False).stdout
    return said.splitlines()[0] if said else " ".join(compiler())


def build(source: Path, target: Path, *flags: str) -> Path:
    """Compile one C file; LiveError with the compiler's first complaint."""
    made = subprocess.run(
        [*compiler(), "-O2", *flags, "-o", str(target), str(source)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        complaint = next((line for line in made.stderr.splitlines() if "error" in line), made.stderr.strip())
        raise LiveError(f"{source.name} cannot be compiled: {complaint[-200:]}")
    return target


@contextmanager
def program() -> Iterator[Path]:
    """The C program, compiled into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="anonfolio-cost-") as folder:
        yield build(SOURCE, Path(folder) / "live_cost")


def check_possible(pages: int = PAGES) -> None:
    """Raise LiveError for the first thing that a measurement needs and does not find."""
    check_machine()
    compiler()
    needed_kib, free_kib = AT_ONCE * pages * 4, memory_info()["MemAvailable"]
    if free_kib < needed_kib:
        raise LiveError(f"{pages} pages need {needed_kib >> 10} MiB of memory, {free_kib >> 10} are free; take fewer")


def measure_once(executable: Path, kernel: LiveKernel, pages: int, order: int, seed: int = 0) -> dict[str, Spent]:
    """One round under folios of 2**order pages, or single pages (0): what each operation needed.

    Pages are read and written from the first to the last, or with a seed in random order.

    Raises
    ------
    LiveError
        The program failed, or large folios could not be had in several attempts.
    """
    kernel.enable({order: "madvise"} if order else {})
    return undisturbed(kernel, lambda: _attempt(executable, pages, order, str(seed)), ATTEMPTS)


def measure_cold(executable: Path, kernel: LiveKernel, order: int, number: int) -> float:
    """Nanoseconds a page for the first touch of memory that was free for long, in folios of that order.

    Of each round the memory is warm for the next, so that one holds more before it looks.
    """
    kernel.enable({order: "madvise"})
    held = min(HELD_PAGES, memory_info()["MemAvailable"] // 12) + 4 * COLD_PAGES * number
    spent = undisturbed(kernel, lambda: _attempt(executable, COLD_PAGES, order, "cold", str(held)), ATTEMPTS)
    return spent["first_touch"].ns / COLD_PAGES


def _attempt(executable: Path, pages: int, order: int, *words: str) -> dict[str, Spent]:
    command = [str(executable), str(pages), str(order), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise LiveError(f"the measuring program failed: {ran.stderr.strip() or f'exit code {ran.returncode}'}")
    rows = (line.split() for line in ran.stdout.splitlines())
    spent = {name: Spent(int(ns), int(faults)) for name, ns, faults in rows}
    expected, faults = pages >> order, spent["first_touch"].faults
    # Page tables of the program's own, and a page of the stack or of libc that it had not used yet.
    if not expected <= faults <= expected + max(8, expected // 1000):
        raise Disturbed(f"{faults} faults for {pages} pages under order {order}, {expected} were to be expected")
    return spent


def measure(
    *,
    pages: int = PAGES,
    rounds: int = ROUNDS,
    orders: Sequence[int] | None = None,
    cold_rounds: int = 2,
    progress: Callable[[int, int, str], None] | None = None,
) -> Table:
    """Measure a table of costs: all sizes that this kernel has, in interleaved rounds.

    Parameters
    ----------
    pages : int
        Base pages a mapping, a multiple of 512.
    orders : sequence of int, optional
        Sizes besides single pages; by default all of this kernel.
    cold_rounds : int
        In so many rounds more, the first touch of memory that was free for long (``first_touch_cold``), in the largest
        size: what a host takes back, and how it gives it, does not depend on the guest's.
    progress : callable, optional
        Called with (runs done, all runs, what comes next) before each run.

    Raises
    ------
    LiveError
        What this machine lacks, in one line.
    ValueError
        For numbers that make no sense.
    """
    if pages < 512 or pages % 512 or rounds < 1:
        raise ValueError(f"pages={pages}, rounds={rounds}: a multiple of 512 pages, and at least one round")
    check_possible(pages)
    load = os.getloadavg()[0]
    measured: dict[int, dict[str, list[float]]] = {}
    with program() as executable, LiveKernel() as kernel:
        sizes = (0, *(kernel.sizes if orders is None else orders))
        runs = [(number, order) for number in range(rounds) for order in sizes]
        for done, (number, order) in enumerate(runs):
            if progress:
                progress(done, len(runs) + cold_rounds, f"round {number + 1}, order {order}")
            for name, spent in measure_once(executable, kernel, pages, order).items():
                measured.setdefault(order, {}).setdefault(name, []).append(spent.ns / pages)
        for number in range(cold_rounds if max(sizes) else 0):
            if progress:
                progress(len(runs) + number, len(runs) + cold_rounds, f"cold memory, round {number + 1}")
            measured[max(sizes)].setdefault(COLD, []).append(measure_cold(executable, kernel, max(sizes), number))
        about = {
            "pages": pages,
            "rounds": rounds,
            "clock": "processor time of the thread, user and kernel",
            "cpus": os.cpu_count(),
            "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
            "build": os.uname().version,
        }
        date = datetime.now(UTC).date().isoformat()
        return Table(cpu_model(), kernel.version, date, compiler_version(), about, measured)


def cpu_model() -> str:
    """The processor's name, and the hypervisor's when there is one."""
    info = (PROC / "cpuinfo").read_text()
    rows = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in rows.items()}
    guest = ", virtual machine" if "hypervisor" in names.get("flags", "").split() else ""
    return f"{names.get('model name', os.uname().machine)}{guest}"
