"""What a kernel counts beside what its page tables hold, and how that stands against the model.

A step of a live run has a further key, ``"counted"``: ``mapcount`` per process and page (/proc/kpagecount, exact), for
an access ``minflt``, the minor faults of that one instruction (exact), for unref ``held``, the byte that was read
through the reference (exact), and what counters of the whole machine grew by: ``pgreuse`` (/proc/vmstat) and per size
``"anon_fault_alloc/4"`` and its siblings (``hugepages-64kB/stats``), those that did not change left out. Other programs
use the same machine. They can only add to a count of events, so a kernel that counted less than the model differs from
it; one that counted more may have been disturbed: `least` of several runs comes closer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernel.record import FIRST_TOUCH, REUSE
from ..kernel.sizes import PMD_ORDER
from ..machine.snapshot import Snapshot
from ..program.ops import TABLE
from ..program.scenario import Result, Timeline
from ..program.witnesses import Difference
from .comparing import Recorded, mapped_frames, of_frames

Counts = dict[str, Any]
EVENTS = ("pgreuse", "anon_fault_alloc")
"""Counts of events, which a model has too. The other counters go up and down, or depend on which memory is free."""


def model_counts(result: Result) -> dict[str, int]:
    """What the kernel should count in one step, other programs apart: events that happened, 0 left out.

    A PMD that is made writable again counts no PGREUSE (`do_huge_pmd_wp_page`), a base page no anon_fault_alloc.
    """
    counts: dict[str, int] = {}
    for fault in result.faults:
        if fault.path == REUSE and fault.order < PMD_ORDER:
            counts["pgreuse"] = counts.get("pgreuse", 0) + 1
        if fault.path == FIRST_TOUCH and fault.order:
            name = f"anon_fault_alloc/{fault.order}"
            counts[name] = counts.get(name, 0) + 1
    return counts


def model_mapcounts(snapshot: Snapshot, base: int, pages: int) -> dict[int, npt.NDArray[np.int64]]:
    """Per live process how often each page of [base, base + pages) is mapped; 0 where there is no folio."""
    mapcount = of_frames(snapshot, lambda folio: folio.mapcount)
    return {
        process.number: mapcount[np.maximum(mapped_frames(process, base, pages)[0], -1)]
        for process in snapshot.processes
        if process.alive
    }


def least(runs: Sequence[Recorded]) -> list[dict[str, int]]:
    """Per step the least that any of several runs of one program counted of each event."""
    return [
        {
            name: min(step["counted"].get(name, 0) for step in steps)
            for name in {name for step in steps for name in step["counted"] if name.split("/")[0] in EVENTS}
        }
        for steps in zip(*(run.steps for run in runs), strict=True)
    ]


def iter_count_differences(mine: Timeline, other: Recorded) -> Iterator[Difference]:
    """Every step at which the model and what a kernel counted cannot both be right (see the module)."""
    scenario = mine.scenario
    before = mine.start
    for number, (result, step) in enumerate(zip(mine, other.steps, strict=True)):
        if counted := step.get("counted"):
            found = _mapcount_difference(result, counted, scenario.first_vpn, scenario.pages)
            found = found or _event_difference(result, counted) or _held_difference(before, result, counted)
            if found:
                yield Difference(number, result.step, *found)
        before = result.snapshot


def held_byte(snapshot: Snapshot, process: int, id: int) -> int:
    """What is behind a reference: content of the frame that it holds."""
    held = next(pin for pin in snapshot.processes[process].pins if (pin.kind, pin.id) == ("reference", id))
    folio = snapshot.folio_at(held.frames[0])
    return int(folio.content[held.frames[0] - folio.head]) if folio else 0


def _held_difference(before: Snapshot, result: Result, counted: Counts) -> tuple[str, str, str] | None:
    operation, process, *arguments = result.step
    if operation != "unref" or not result.ok:
        return None
    held = held_byte(before, process, arguments[0])
    return None if held == counted["held"] else ("byte behind the reference", str(held), str(counted["held"]))


def _mapcount_difference(result: Result, counted: Counts, base: int, pages: int) -> tuple[str, str, str] | None:
    for process, mapcounts in model_mapcounts(result.snapshot, base, pages).items():
        seen = np.array(counted["mapcount"][str(process)], np.int64)
        if not np.array_equal(mapcounts, seen):
            page = int(np.flatnonzero(mapcounts != seen)[0])
            return f"process {process} page {page}: mapcount", str(mapcounts[page]), str(seen[page])
    return None


def _event_difference(result: Result, counted: Counts) -> tuple[str, str, str] | None:
    if not TABLE[result.step[0]].access or not result.ok:
        return None
    faults = len(result.user_faults)
    if counted["minflt"] != faults:
        return "minor faults", str(faults), str(counted["minflt"])
    for name, count in model_counts(result).items():
        if counted.get(name, 0) < count:
            return f"{name}, counted by the whole machine", f"at least {count}", str(counted.get(name, 0))
    return None
