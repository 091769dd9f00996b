"""Side by side: the model against the kernel of this machine, its growth, a compile replayed, and the TLB against other
simulators; and a step in a browser.

    make bench
    python benchmarks/bench.py [--only kernel|growth|compile|advise|look|search|tlb|curve|stepper ...]

Everything that is compared runs by turns in one go, for only ratios taken together mean anything on a shared machine;
both sides are counted in processor time, a step in the browser by the clock. Prints a table, writes it as text and JSON
to benchmarks/out, and exits with 1 when a goal was missed. What this machine cannot run (no root, no compiler, no peer)
is left out, and told.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import advised
import against_kernel
import against_peers
import looked
import numpy as np
import replayed
import scaling
import searched
import stepper
from results import LeftOut, Measured, Result, missed, report, write

PARTS = ("kernel", "growth", "compile", "advise", "look", "search", "tlb", "curve", "stepper")
HERE = Path(__file__).parent


def run(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Iterator[Result]:
    """The chosen parts, one after the other."""
    wanted = chosen.only or PARTS
    if "kernel" in wanted:
        yield from against_kernel.run(chosen.pages, chosen.kernel_pages, chosen.rounds, tell)
    if "growth" in wanted:
        yield from scaling.run(chosen.largest, 3, tell)
    if "compile" in wanted:
        yield from replayed.run(chosen.rounds, tell)
    if "advise" in wanted:
        yield from advised.run(chosen.rounds, tell)
    if "look" in wanted:
        yield from looked.run(chosen.rounds, tell)
    if "search" in wanted:
        yield from searched.run(min(chosen.rounds, 3), tell)
    if "tlb" in wanted:
        yield from against_peers.run(chosen.accesses, chosen.rounds, tell)
    if "curve" in wanted:
        yield from against_peers.run_curve(chosen.accesses, tell)
    if "stepper" in wanted:
        yield from stepper.run(chosen.rounds, tell)


def about() -> dict[str, Any]:
    """Where and when."""
    return {
        "machine": f"{_cpu()}, {os.cpu_count()} CPUs",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()}, numpy {np.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    if sys.platform != "linux":
        return platform.processor() or platform.machine()
    from anonfolio.witness.live.cost import cpu_model

    return cpu_model()


def _growth(results: list[Result]) -> list[dict[str, Any]]:
    found = (each.detail.get("sizes") for each in results if isinstance(each, Measured))
    return next(filter(None, found), [])


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--pages", type=int, default=1 << 18, help="pages of the model's streams (default 262144)")
    parser.add_argument("--kernel-pages", type=int, default=1 << 16, help="pages of the kernel's (default 65536)")
    parser.add_argument("--accesses", type=int, default=1_000_000, help="length of the TLB traces (default 1000000)")
    parser.add_argument("--largest", type=int, default=scaling.TEBIBYTE, help="growth: log2 of pages (default 28)")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for text and JSON")
    parser.add_argument("--store", type=Path, metavar="FILE", help="store the growth's measurements as JSON")
    chosen = parser.parse_args(arguments)
    for name in ("rounds", "pages", "kernel_pages", "accesses"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    facts = about()
    results: list[Result] = []
    try:
        for result in run(chosen, lambda what: print(f"  {what}", file=sys.stderr, flush=True)):
            results.append(result)
    except KeyboardInterrupt:
        results.append(LeftOut("the rest", "stopped"))
    facts["load after"] = round(os.getloadavg()[0], 2)
    print(report(results, facts))
    write(chosen.out, results, facts)
    if chosen.store and (rows := _growth(results)):
        scaling.store(chosen.store, rows, facts)
    return 1 if missed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
