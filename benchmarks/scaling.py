"""From a mebibyte to a tebibyte: seconds and memory of a first touch of 64K folios, and of a fork.

Each size runs in a process of its own, once cold and then warm, on memory that was in use before.
``python benchmarks/scaling.py LOG2_PAGES ROUNDS`` is one.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import streams
from results import LeftOut, Measured, Result

import anonfolio as af

PART = "growth (64K folios: first touch, then fork)"
FORMAT = "anonfolio-scaling/1"
TEBIBYTE = 28
"""log2 of its base pages."""
MODEL_BYTES_PER_PAGE = 12
"""What a page of a 64K folio costs the model in two processes."""
SMALLEST = 8
STEP = 2


def run(largest: int, rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """Every size; the goals of the tebibyte when it is among them."""
    rows: list[dict[str, Any]] = []
    for size in range(SMALLEST, largest + 1, STEP):
        tell(f"{1 << size} pages")
        try:
            rows.append(_in_a_process(size, rounds))
        except (subprocess.SubprocessError, ValueError) as error:
            yield LeftOut(PART, f"2**{size} pages: {str(error).strip()[-200:]}")
            break
    yield from judged(rows)


def judged(rows: list[dict[str, Any]]) -> Iterator[Result]:
    """Figures and goals of measured sizes."""
    if not rows:
        return
    last = rows[-1]
    tebi = last["pages"] == 1 << TEBIBYTE
    size = size_name(last["pages"])
    for name in ("first_touch", "fork"):
        seconds = tuple(last["warm_s"][name])
        label = f"{size}, {name.replace('_', ' ')}, warm"
        yield Measured(PART, label, seconds, "s", at_most=1 if tebi else None)
    yield Measured(
        PART, f"{size}, memory at most", (last["peak_gib"],), "GiB", at_most=4 if tebi else None, detail={"sizes": rows}
    )
    yield _linear("time of a first touch", [(row["pages"], _typical(row, "first_touch")) for row in rows])
    yield _linear("time of a fork", [(row["pages"], _typical(row, "fork")) for row in rows])
    grown = [(row["pages"], row["peak_gib"] - row["empty_gib"]) for row in rows]
    yield _linear("memory", grown)


def _typical(row: dict[str, Any], name: str) -> float:
    return float(statistics.median(row["warm_s"][name]))


def _linear(name: str, points: list[tuple[int, float]]) -> Measured:
    """Each size against the smallest one's cost plus the largest one's cost per page: 1 when it is a straight line."""
    most_pages, most = points[-1]
    base = points[0][1]
    over = [cost / max(base + most * pages / most_pages, 1e-9) for pages, cost in points]
    detail = {"pages": [pages for pages, _ in points], "cost": [cost for _, cost in points], "over": over}
    return Measured(PART, f"{name}, most above a straight line", (max(over),), at_most=2, detail=detail)


def size_name(pages: int) -> str:
    """``1 TiB``."""
    kib = pages * 4
    for unit in ("KiB", "MiB", "GiB"):
        if kib < 1024:
            return f"{kib} {unit}"
        kib //= 1024
    return f"{kib} TiB"


def _in_a_process(size: int, rounds: int) -> dict[str, Any]:
    bring_in(1 << size)
    command = [sys.executable, __file__, str(size), str(rounds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ValueError(ran.stderr or f"exit code {ran.returncode}")
    row: dict[str, Any] = json.loads(ran.stdout)
    return row


def bring_in(pages: int) -> None:
    """Write to some memory and give it back: a virtual machine has to find its own first, far slower than any use.

    Three times what so many pages of the model take, at most half of what is available, by a process that then ends.
    """
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return
    size = min(3 * MODEL_BYTES_PER_PAGE * pages, available // 2)
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.ones({size}, numpy.uint8)"], check=False)


def one_size(size: int, rounds: int) -> dict[str, Any]:
    """Touch and fork 2**size pages, once cold and `rounds` times warm."""
    streams.NOW = time.process_time_ns
    pages = 1 << size
    empty = streams.peak_gib()
    machine = af.Machine(orders=(4,), frames=pages + (1 << 11))
    cold: streams.Clock = defaultdict(list)
    warm: streams.Clock = defaultdict(list)
    peak = streams.tebibyte(cold, machine, pages)
    for _ in range(rounds):
        peak = streams.tebibyte(warm, machine, pages)
    return {
        "pages": pages,
        "cold_s": _seconds(cold, pages),
        "warm_s": _seconds(warm, pages),
        "peak_gib": round(peak, 4),
        "empty_gib": round(empty, 4),
    }


def _seconds(clock: streams.Clock, pages: int) -> dict[str, list[float]]:
    return {
        name.replace(" ", "_"): [round(ns * pages / 1e9, 6) for ns in clock[name]] for name in ("first touch", "fork")
    }


def store(path: Path, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write what a notebook plots, one size a line."""
    head = json.dumps({"format": FORMAT, "what": PART, "about": about}, indent=1)[:-2]
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    path.write_text(f'{head},\n "sizes": [\n  {lines}\n ]\n}}\n')


if __name__ == "__main__":
    print(json.dumps(one_size(int(sys.argv[1]), int(sys.argv[2]))))
