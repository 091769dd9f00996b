"""An advice (`hardware.advice`) as text: a table, a sentence, how far to trust it; as numbers; and as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..hardware.advice import CLOSE, MIB, Advice, Option, faults_so_far
from ..hardware.trace import Counted, Moment, Setting, Trace
from .drawing import RIGHT, Sheet, document, paint, printable, sized, wrap

FORMAT = "anonfolio-advice/1"
HEADING = ("sizes", "faults", "time ms*", "peak MiB", "never written", "reach MiB")
LONGEST = 60
"""Of a command in a heading."""
LISTED_PROCESSES = 6
SHOWN_PROCESSES = 4
"""As many curves of single processes."""


# --- as text ----------------------------------------------------------------------------------------------------------


def advice_text(advice: Advice) -> str:
    """All of it in a terminal, which obeys nothing that a program's name holds."""
    lines = (*_head(advice), *_table(advice), *advice.sentences, *_processes(advice), *_notes(advice))
    return "\n".join(map(printable, lines))


def _head(advice: Advice) -> Iterator[str]:
    trace = advice.trace
    processes = "1 process" if len(trace.processes) == 1 else f"{len(trace.processes)} processes"
    yield f"{_short(str(trace.about.get('command', 'a program')))}: kernel {trace.kernel}, the model as {advice.policy}"
    if "there_before" in trace.about:
        seconds, there = trace.about.get("seconds"), trace.about["there_before"]
        yield f"Followed for {seconds} s. {there:,} pages were there before: taken as written one after the other."
    if trace.status:
        yield f"It ended with {trace.ending}; what it did until then is told."
    yield f"{processes}, {trace.kernel_faults:,} faults ({len(trace):,} anonymous). {advice.trust}"


def _short(command: str) -> str:
    return command if len(command) <= LONGEST else f"{command[:LONGEST]}…"


def _table(advice: Advice) -> Iterator[str]:
    """One line a set of sizes."""
    heading = [*HEADING[:3], *(["cold ms"] if advice.table.cold else []), *HEADING[3:]]
    heading += ["measured (predicted)"] if advice.measured else []
    rows = [heading, *(_cells(advice, option) for option in advice.options)]
    return in_columns(rows)


def in_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they need, the first to the left, the others to the right."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [first.ljust(wide[0]), *(cell.rjust(room) for cell, room in zip(others, wide[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _processes(advice: Advice) -> Iterator[str]:
    """Of several processes the largest: all faults and peak RSS under what is suggested, beside what was measured."""
    option = advice.base if advice.trust.doubts else advice.suggested
    parts = option.replay.processes
    if len(parts) < 2:
        return
    setting = advice.counted(option)
    beside = setting.counted([part.name for part in parts]) if setting else []
    beside = beside if any(beside) else []
    largest = sorted(range(len(parts)), key=lambda number: -parts[number].rss_peak_pages)[:LISTED_PROCESSES]
    yield f"by process under {option.name}, the largest {len(largest)}:"
    rows = [["", "faults", "at 4K", "copies", "peak MiB", *(["measured faults", "peak MiB"] if beside else [])]]
    for number in largest:
        part, single = parts[number], advice.base.replay.processes[number]
        cells = [
            f"P{number} {part.name}",
            f"{part.anonymous + part.elsewhere:,}",
            f"{single.anonymous + single.elsewhere:,}",
        ]
        cells += [f"{part.counters.faults['cow copy']:,}", f"{part.rss_peak_pages / MIB:,.1f}"]
        if beside:
            counted = beside[number] or Counted(0, 0, 0)
            kib = peak_kib(advice.trace, number, counted)
            cells += [f"{counted.faults:,}" if counted.faults else "-", f"{kib / 1024:,.1f}" if kib > 0 else "-"]
        rows.append(cells)
    yield from in_columns(rows)
    if beside:
        yield from file_copies_told(advice.trace, largest)


def peak_kib(trace: Trace, number: int, counted: Counted) -> int:
    """The measured peak of a process, without copies of file pages where it is known how many it had at its end."""
    return counted.peak_anonymous_kib - 4 * int(trace.processes[number].get("file_copies", 0))


def file_copies_told(trace: Trace, numbers: Iterable[int]) -> Iterator[str]:
    """In whose measured memory they are."""
    copying = [number for number in numbers if "file_copies" not in trace.processes[number]]
    if copying:
        who = ", ".join(f"P{number}" for number in copying)
        yield f"copies of file pages, which the kernel counts as anonymous, are in the measured memory of {who}"


def _measured_on(advice: Advice) -> str:
    """What the prices are of. Those that know of cold memory were measured by the reader, or where she said so."""
    return "warm memory" if advice.table.cold else "warm memory (this machine's, cold too: --cost measure)"


def _cells(advice: Advice, option: Option) -> list[str]:
    reach = "?" if option.reach_mib is None else f"{option.reach_mib:,.0f}"
    cells = [
        option.name, f"{option.faults:,}", f"{option.time_ms:,.1f}", f"{option.peak_mib:,.1f}",
        f"{option.never_written_mib:,.1f}", reach,
    ]  # fmt: skip
    if option.cold_ms is not None:
        cells.insert(3, f"{option.cold_ms:,.1f}")
    if advice.measured:
        setting = advice.counted(option)
        cells.append(f"{setting.median_faults:,} ({option.replay.total:,})" if setting else "")
    return cells


def _notes(advice: Advice) -> Iterator[str]:
    table, cpu = advice.table, advice.cpu
    yield f"* page faults alone; prices of Linux {table.kernel}, {table.machine}, {_measured_on(advice)}"
    if table.cold:
        yield f"cold: where the host had taken free memory back, and adds {table.host_ns:,.0f} ns a page"
    yield "khugepaged and reclaim are not modelled"
    core = cpu.core.name if cpu.core else "not known"
    yield f"Reach: {cpu.name}, TLB {core}" + (f" ({cpu.note})" if cpu.note else "")
    if advice.spread > CLOSE:
        yield f"The program itself varies: runs under the same sizes are {100 * advice.spread:.1f} % apart"
    for each in advice.wrong:
        yield f"{each.measured.name}: the prediction is {100 * each.difference:+.1f} % from what the kernel counted"


# --- as numbers -------------------------------------------------------------------------------------------------------


def advice_json(advice: Advice) -> dict[str, Any]:
    """All of it for a program."""
    trace, trust = advice.trace, advice.trust
    return {
        "format": FORMAT,
        "command": trace.about.get("command"), "kernel": trace.kernel, "policy": advice.policy,
        "status": trace.status,
        "processes": len(trace.processes), "kernel_faults": trace.kernel_faults, "anonymous": len(trace),
        "trust": {
            "doubts": list(trust.doubts), "untraced": trust.untraced, "ended": trust.ended,
            "differ": list(map(str, trust.differ)), "left_out": trust.left_out,
        },
        "costs": {
            "machine": advice.table.machine, "kernel": advice.table.kernel,
            "memory": advice.table.about.get("memory", "warm"),
        },
        "cpu": {"name": advice.cpu.name, "tlb": advice.cpu.core.name if advice.cpu.core else None},
        "processes_by_name": [about.get("name", "") for about in trace.processes],
        "settings": [_numbers(advice, option) for option in advice.options],
        "suggested": None if trust.doubts else advice.suggested.name,
        "says": list(advice.sentences),
    }  # fmt: skip


def _numbers(advice: Advice, option: Option) -> dict[str, Any]:
    setting, found, trace = advice.counted(option), option.replay, advice.trace
    return {
        "sizes": option.name, "orders": list(found.orders), "faults": option.faults, "all_faults": found.total,
        "cold_ms": option.cold_ms,
        "paths": {path: count for path, count in found.faults.items() if count}, "time_ms": round(option.time_ms, 3),
        "peak_pages": found.held_peak_pages, "never_written_pages": found.never_written_pages,
        "reach_pages": option.reach_pages, "measured": setting.faults if setting else None,
        "processes": [
            {
                "faults": part.anonymous, "elsewhere": part.elsewhere, "copies": part.counters.faults["cow copy"],
                "rss_peak_pages": part.rss_peak_pages, "held_pages": part.held_pages,
            }
            for part in found.processes
        ],
        "measured_names": [list(each) for each in setting.names] if setting else None,
        "measured_processes": [[list(each) for each in one] for one in setting.processes] if setting else None,
        "curve": [
            {"part": trace.part(at), "accesses": at, "faults": faults, "rss_pages": rss, "held_pages": held}
            for at, held, faults, rss in found.curve
        ],
        "measured_curves": [[list(point) for point in curve] for curve in setting.curves] if setting else None,
    }  # fmt: skip


# --- as a figure ------------------------------------------------------------------------------------------------------

Place = tuple[float, float]
"""Of a curve: which part of the run was over, and the value."""


class Curve(NamedTuple):
    """What is predicted as a line, what was measured as dots."""

    name: str
    points: list[Place]
    hue: int
    dots: Sequence[Place] = ()


BAR, LEFT = 18, 100
HIGH = 150
"""Of a curve's frame."""


def advice_svg(advice: Advice) -> str:
    """Bars for faults, time and memory of each set of sizes; curves of faults and of memory over the program's life."""
    said = " ".join(advice.sentences)
    return document(AdviceSheet(advice), 0, said, advice_text(advice))


class AdviceSheet(Sheet):
    """An advice laid out, top to bottom."""

    def __init__(self, advice: Advice) -> None:
        super().__init__()
        self.advice = advice
        head, *lines = "\n".join(_head(advice)).splitlines()
        y = self._said(head, 24, "t", 14)
        for line in lines:
            y = self._said(line, y, "h", 12)
        for sentence in advice.sentences:
            y = self._said(sentence, y, "fb", 12)
        y = self._bars(y + 14)
        y = self._curves(y + 18)
        for note in _notes(advice):
            y = self._said(note, y, "h", 12)
        self.height = y

    def _said(self, words: str, y: float, name: str, size: float) -> float:
        found = wrap(words, RIGHT - 16, sized(size, name in ("t", "fb")))
        self.lines(16, y, found, name, size + 5)
        return y + (size + 5) * len(found) + 2

    def _bars(self, y: float) -> float:
        """Three columns of bars; what is suggested has a frame."""
        options = self.advice.options
        room = (RIGHT - LEFT) / 3
        columns: list[tuple[str, list[float], str, list[float] | None]] = [
            ("anonymous faults", [option.faults for option in options], "{:,.0f}", None),
            ("time of faults, ms", [option.time_ms for option in options], "{:,.1f}", None),
            ("peak MiB, of it never written", [option.peak_mib for option in options], "{:,.1f}",
             [option.never_written_mib for option in options]),
        ]  # fmt: skip
        for at, option in enumerate(options):
            self.text(16, y + 22 + BAR * at, option.name, "q" if option is self._chosen else "k")
        for column, (title, values, form, inner) in enumerate(columns):
            x = LEFT + column * room
            self.text(x, y + 4, title, "fb")
            most = max(values, default=0) or 1
            for at, value in enumerate(values):
                told = form.format(value) + (f", {inner[at]:,.1f}" if inner else "")
                self._bar(x, y + 11 + BAR * at, (room - 118) * value / most, told, at)
                if inner and (part := (room - 118) * inner[at] / most) > 0:
                    self.rect(x, y + 11 + BAR * at, max(part, 1), 13, "was", 1)
        return y + 22 + BAR * len(options)

    @property
    def _chosen(self) -> Option | None:
        return None if self.advice.trust.doubts else self.advice.suggested

    def _bar(self, x: float, y: float, width: float, told: str, at: int) -> None:
        self.rect(x, y, max(width, 1), 13, _hue(at), 2)
        if self.advice.options[at] is self._chosen:
            self.rect(x, y, max(width, 1), 13, "new", 2)
        self.text(x + max(width, 1) + 6, y + 10.5, told, "k")

    def _curves(self, y: float) -> float:
        """Faults of each set of sizes on the left; on the right memory of the processes under what is suggested."""
        advice, middle = self.advice, (16 + RIGHT) / 2
        faults = [
            Curve(option.name, self._over_time(faults_so_far(advice.trace, option.replay)), at,
                  measured_faults(advice.counted(option)))
            for at, option in enumerate(advice.options)
        ]  # fmt: skip
        dotted = ", dots: measured" if advice.measured else ""
        self._plot(16, y, middle - 40, f"faults so far{dotted}", faults, "{:,.0f}")
        shown = self._chosen or advice.base
        title = f"MiB mapped under {shown.name}{dotted}"
        self._plot(middle + 20, y, RIGHT - middle - 110, title, self._memory(shown), "{:,.0f} MiB")
        return y + HIGH + 46

    def _over_time(self, points: Iterable[tuple[int, float]]) -> list[Place]:
        return [(self.advice.trace.part(at), value) for at, value in points]

    def _memory(self, option: Option) -> list[Curve]:
        """Held by all, and mapped by the processes that have most."""
        moments, setting = option.replay.curve, self.advice.counted(option)
        names = [part.name for part in option.replay.processes]
        counted = setting.without_file_copies(self.advice.trace).curves_of(names) if setting else []
        most: Counter[int] = Counter()
        for moment in moments:
            for process, pages in moment.rss_pages.items():
                most[process] = max(most[process], pages)
        held = [(moment.at, moment.held_pages / MIB) for moment in moments]
        lines = [Curve("all, held", self._over_time(held), 0)]
        for at, (process, _) in enumerate(most.most_common(SHOWN_PROCESSES), 1):
            name = self.advice.trace.processes[process].get("name", "")
            dots = [(point.part, point.rss_pages / MIB) for point in (counted[process] or ())] if counted else []
            lines.append(Curve(f"P{process} {name}"[:18], self._over_time(_mapped(moments, process)), at, dots))
        return lines

    def _plot(self, x: float, y: float, width: float, title: str, lines: Sequence[Curve], form: str) -> None:
        """Curves over the run, each with its name at its end, names apart from each other."""
        self.text(x, y + 4, title, "fb")
        top, room = y + 14, width - 90
        self.rect(x, top, room, HIGH, "rule", 0)
        most = max((value for line in lines for _, value in (*line.points, *line.dots)), default=0) or 1
        self.text(x + 4, top + 12, form.format(most), "h")
        self.text(x, top + HIGH + 15, self._axis(), "h")

        def placed(places: Iterable[Place]) -> list[Place]:
            return [(x + room * part, top + HIGH * (1 - value / most)) for part, value in places]

        ends = []
        for name, points, hue, dots in lines:
            curve = placed(((0.0, 0.0), *points))
            self.add(_line(curve, hue))
            self.add("".join(_dot(across, down, hue) for across, down in placed(dots)))
            ends.append((curve[-1][1], name))
        below = top - 4
        for height, name in sorted(ends):
            below = max(height + 4, below + 14)
            self.text(x + room + 5, min(below, top + HIGH + 24), name, "k")

    def _axis(self) -> str:
        """What the curves go over. A run under other sizes takes another time: each has its own from left to right."""
        trace = self.advice.trace
        if not trace.clock:
            return f"pages touched: 0 to {len(trace):,}"
        return f"the run's time: 0 to {trace.clock[-1][1] / 1000:,.1f} s as recorded"


def measured_faults(setting: Setting | None) -> list[Place]:
    """Faults of all processes together, at the moments when any was looked at."""
    curves = setting.curves if setting else ()
    last = [0] * len(curves)
    found: dict[float, float] = {}
    for point, process in sorted((point, process) for process, curve in enumerate(curves) for point in curve):
        last[process] = point.faults
        found[point.part] = sum(last)
    return list(found.items())


def _mapped(moments: Iterable[Moment], process: int) -> list[tuple[int, float]]:
    """From a process's first page to its exit."""
    points = [(moment.at, moment.rss_pages.get(process, 0) / MIB) for moment in moments]
    there = [at for at, (_, mib) in enumerate(points) if mib]
    return points[max(there[0] - 1, 0) : there[-1] + 2] if there else points


def _hue(at: int) -> str:
    return f"c{at % 7}"


def _dot(x: float, y: float, hue: int) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" {paint(_hue(hue))}/>'


_DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 4")


def _line(points: Sequence[tuple[float, float]], hue: int) -> str:
    """A curve. Its style says what the class of a folio, which is filled, has otherwise."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dash = _DASHES[hue % len(_DASHES)]
    style = "fill:none;stroke-width:2" + (f";stroke-dasharray:{dash}" if dash else "")
    return f'<path d="{path}" {paint(_hue(hue))} style="{style}"/>'
