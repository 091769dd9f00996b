"""A prediction beside what a kernel counted: by process, and over the run's time."""

from __future__ import annotations

from collections.abc import Iterator

from ..hardware.advice import MIB, faults_so_far
from ..hardware.trace import Compared, Trace
from .advised import file_copies_told, in_columns, measured_faults, peak_kib
from .drawing import printable

QUARTERS = (0.25, 0.5, 0.75, 1.0)


def compared_text(trace: Trace, comparison: Compared) -> str:
    """Two tables under one set of sizes; each number is predicted, then measured."""
    return "\n".join(map(printable, (*by_process(trace, comparison), *over_time(trace, comparison))))


def by_process(trace: Trace, comparison: Compared) -> Iterator[str]:
    """Faults, copies, the peak of what is mapped and what is held at the exit."""
    parts = comparison.predicted.processes
    counted = comparison.measured.counted([part.name for part in parts])
    rows = [["", "faults", "kernel", "copies", "peak MiB", "kernel", "held MiB at exit"]]
    for number, (part, told) in enumerate(zip(parts, counted, strict=True)):
        kib = peak_kib(trace, number, told) if told else 0
        peak = f"{kib / 1024:,.2f}" if kib > 0 else "-"
        rows.append([
            f"P{number} {part.name}", f"{part.anonymous:,}", f"{told.anonymous:,}" if told else "-",
            f"{part.counters.faults['cow copy']:,}", f"{part.rss_peak_pages / MIB:,.2f}", peak,
            f"{part.held_pages / MIB:,.2f}",
        ])  # fmt: skip
    yield from in_columns(rows)
    if any(counted):
        yield from file_copies_told(trace, range(len(parts)))


def over_time(trace: Trace, comparison: Compared) -> Iterator[str]:
    """Faults so far and memory mapped by all processes, at quarters of each run's own time; at the end what those had
    that were left then."""
    found, measured = comparison.predicted, comparison.measured.without_file_copies(trace)
    if not trace.clock or not measured.curves:
        return
    faults, kernel_faults = faults_so_far(trace, found), measured_faults(measured)
    rows = [["time", "faults so far", "kernel", "MiB mapped", "kernel"]]
    for quarter in QUARTERS:
        so_far = max((count for at, count in faults if trace.part(at) <= quarter), default=0)
        moments = [moment for moment in found.curve if trace.part(moment.at) <= quarter]
        left = moments[-1].rss_pages if moments else {}
        ends = found.ends if quarter == 1 else {}
        mapped = sum(ends[number].anonymous_pages if number in ends else pages for number, pages in left.items())
        kernel = max((count for part, count in kernel_faults if part <= quarter), default=0)
        theirs = sum(
            max((point for point in curve if point.part <= quarter), default=curve[0]).rss_pages
            for curve in measured.curves
            if curve and curve[0].part <= quarter
        )
        rows.append([
            f"{quarter:.0%}", f"{so_far:,}", f"{kernel:,.0f}", f"{mapped / MIB:,.2f}", f"{theirs / MIB:,.2f}"
        ])  # fmt: skip
    yield from in_columns(rows)
