"""Questions of ``10_rfc_to_mainline``: ``from anonfolio.exercises import rfc_to_mainline as q``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from html import escape
from itertools import groupby
from typing import Any

from ..draw.drawing import xml
from ..draw.picture import Picture
from ..kernel.policy import (
    LINUX_6_3,
    LINUX_6_8,
    LINUX_6_9,
    LINUX_6_15,
    POLICIES,
    RFC_V2,
    RFC_V2_FIXED,
    Policy,
    policy_for_kernel,
    policy_named,
)
from ..lesson.quiz import Case, Cases, Choice, Number, Program, Verdict, judged_under, refused
from ..lesson.topics import asking
from ..lesson.words import Words
from ..program.scenario import Scenario, ScenarioError, Step, Timeline, scenario_names
from ..witness.comparing import Recorded, iter_differences
from ..witness.recording import DATA_DIR, RecordingError, read_recording, recorded_run
from .start_here import four_paths

words = Words(__file__)
more = asking("touch", "zero", "copy", "reuse", "pin")

SIX = (RFC_V2, RFC_V2_FIXED, LINUX_6_3, LINUX_6_8, LINUX_6_9, LINUX_6_15)
"""The proposal, the proposal with the check its review asked for, and the four behaviours that were released."""

KERNELS = ("6.1", "6.12", "6.18", "7.3")
"""Kernels whose runs of named scenarios are recorded."""

four = four_paths
gone = Scenario.load("child-exits-parent-writes-all")
half = Scenario.load("wipe-on-fork")


def known_policy(kernel: str) -> Policy:
    """The policy that a kernel of the table is held against: its own, or the newest that is well known.

    7.3's own has another MREMAP_DONTUNMAP and MADV_COLLAPSE, which no scenario of the table uses.
    """
    own = policy_for_kernel(kernel)
    return own if own.name in POLICIES else LINUX_6_15


@cache
def ran(name: str, policy: str) -> Timeline:
    """A named scenario under a policy, run once."""
    return Scenario.load(name).run(policy_named(policy))


@cache
def recorded(name: str, kernel: str) -> Recorded | None:
    """What a kernel did with a named scenario, or None where it was not recorded."""
    try:
        return recorded_run(Scenario.load(name), kernel)
    except RecordingError:
        return None


@cache
def equal(name: str, policy: str, kernel: str) -> bool:
    """Whether a recorded kernel did at every step what a policy says; not so where it was not recorded."""
    real = recorded(name, kernel)
    return real is not None and next(iter_differences(ran(name, policy), real), None) is None


# --- what a write became, on the model and on a kernel --------------------------------------------------------------


def code_of(timeline: Timeline, at: int) -> str:
    """What came of a write: ``alloc4``, ``zero0``, ``copy0``, ``reuse16`` (pages), or ``nf``."""
    faults = timeline[at].faults
    return faults[-1].code if faults else "nf"


def code_recorded(real: Recorded, at: int) -> str:
    """The same of a kernel's write, from its page tables before and after. How far a reuse reached they cannot show."""
    _, process, page, *_ = real.scenario.steps[at]
    if not real.steps[at]["faults"]:
        return "nf"
    before: Any = real.steps[at - 1]["view"][str(process)][page] if at else 0
    after: Any = real.steps[at]["view"][str(process)][page]
    order = int(after[2]).bit_length() - 1
    if before == 0:
        return f"alloc{order}"
    if before == "z":
        return f"zero{order}"
    return "reuse" if before[:2] == after[:2] else f"copy{order}"


def pages_of(code: str) -> int:
    """How many pages a code of the model is about: 16 for ``alloc4`` and for ``reuse16``."""
    name = code.rstrip("0123456789")
    number = int(code.removeprefix(name) or 0)
    return number if name == "reuse" else 1 << number


# --- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of a table: which of the four paths, the state that a write finds, and a scenario that has it."""

    path: str
    state: str
    scenario: str
    step: Step

    @property
    def at(self) -> int:
        """Which step of the scenario the write is."""
        return Scenario.load(self.scenario).steps.index(self.step)


FOUR = (
    Row("1 first touch", "nothing there", "first-write", ("write", 0, 5, 105)),
    Row("2 zero page", "zero page there", "read-then-write", ("write", 0, 3, 103)),
    Row("3 copy", "child alive", "fork-both-write", ("write", 0, 4, 104)),
    Row("4 reuse", "child gone", "child-exits-parent-writes-all", ("write", 0, 0, 100)),
)
"""The four write faults that RFC v2 wanted to change, each in its plainest state."""

ROWS = (
    FOUR[0],
    Row("1 first touch", "no size allowed", "fork-while-pinned-base-pages", ("write", 0, 0, 1)),
    Row("1 first touch", "hole, 64 KiB on", "hole-refilled-64k-only", ("write", 0, 5, 105)),
    FOUR[1],
    Row("2 zero page", "huge zero page", "huge-zero-page", ("write", 0, 3, 103)),
    FOUR[2],
    Row("3 copy", "half is exclusive", "wipe-on-fork", ("write", 0, 2, 102)),
    Row("3 copy", "2 MiB, child alive", "huge-fork-write-exit-write", ("write", 0, 5, 105)),
    FOUR[3],
    Row("4 reuse", "gone, one page left", "one-page-left", ("write", 0, 15, 115)),
    Row("4 reuse", "gone, a hole", "hole-defeats-the-scan", ("write", 0, 5, 105)),
    Row("4 reuse", "third process alone", "third-process-alone", ("write", 2, 0, 100)),
    Row("4 reuse", "gone, 2 MiB", "huge-child-gone-first", ("write", 0, 6, 106)),
)
"""The four again with states that tell versions apart."""

_SHORT = {"rfc-v2-fixed": "rfc-fixed"}
_BLOCK = "rgba(0,114,178,.26)"
_LEFT = "text-align: left; white-space: nowrap; padding: 3px 6px; min-width: 0"
_WRAPPED = "text-align: left; white-space: normal; padding: 3px 6px; min-width: 14em"
_CENTRE = "text-align: center; white-space: nowrap; padding: 3px 4px; min-width: 0"
_MARKS = {True: "✓", False: "≠"}


@dataclass(frozen=True)
class Cell:
    """What one kernel did in a row, and whether all of the scenario went as its own policy says."""

    code: str
    agrees: bool | None

    @property
    def text(self) -> str:
        """The code with its mark; a dash where nothing was recorded."""
        return f"{self.code} {_MARKS[self.agrees]}" if self.agrees is not None else "–"


@dataclass(frozen=True)
class Table:
    """Rows of scenarios against policies and recorded kernels. Text in a terminal, a table in a notebook."""

    rows: tuple[Row, ...]
    policies: tuple[Policy, ...]
    kernels: tuple[str, ...]

    def codes(self, row: Row) -> list[str]:
        """What the write becomes under each policy."""
        return [code_of(ran(row.scenario, policy.name), row.at) for policy in self.policies]

    def cells(self, row: Row) -> list[Cell]:
        """What each kernel did."""
        return [_cell(row, kernel) for kernel in self.kernels]

    def __repr__(self) -> str:
        heads = [_SHORT.get(policy.name, policy.name.removeprefix("linux-")) for policy in self.policies]
        lines = [f"{'':38}{'model:':{10 * len(heads)}}recorded:"]
        lines.append(f"{'':38}" + "".join(f"{head:10}" for head in (*heads, *self.kernels)).rstrip())
        for row in self.rows:
            cells = [*self.codes(row), *(cell.text for cell in self.cells(row))]
            lines.append(f"{row.path:15}{row.state:23}" + "".join(f"{cell:10}" for cell in cells).rstrip())
        return "\n".join([*lines, f"[{_KEY}]"])

    def _repr_html_(self) -> str:
        heads = [_SHORT.get(policy.name, policy.name.removeprefix("linux-")) for policy in self.policies]
        groups = (
            f'<th></th><th></th><th style="text-align: center" colspan="2">proposed, never merged</th>'
            f'<th style="{_CENTRE}" colspan="{len(heads) - 2}">released: the model</th>'
            f'<th style="{_CENTRE}" colspan="{len(self.kernels)}">recorded</th>'
        )
        names = "".join(f'<th style="{_CENTRE}">{xml(head)}</th>' for head in (*heads, *self.kernels))
        paths = ", ".join(dict.fromkeys(row.path for row in self.rows))
        body = ""
        for at, row in enumerate(self.rows):
            first = at == 0 or self.rows[at - 1].path != row.path
            body += f'<tr><th style="{_LEFT}">{row.path[0] if first else ""}</th>'
            body += f'<td style="{_LEFT}" title="{xml(row.scenario)}">{xml(row.state)}</td>'
            body += "".join(_code_html(code, code) for code in self.codes(row))
            body += "".join(_code_html(cell.code, cell.text) for cell in self.cells(row)) + "</tr>"
        return (
            f'<div style="overflow-x: auto; font-size: 92%"><table><thead><tr>{groups}</tr>'
            f"<tr><th></th><th></th>{names}</tr></thead><tbody>{body}</tbody></table></div>"
            f"<p>{paths}. {_KEY}; blue: several pages</p>"
        )


_KEY = (
    "Last number: order of the new folio, of a reuse pages; ✓ the whole scenario equals the kernel's own policy, ≠ not"
)


def _code_html(code: str, text: str) -> str:
    tint = f"; background: {_BLOCK}" if code.rstrip("0123456789") in _PATHS and pages_of(code) > 1 else ""
    return f'<td style="{_CENTRE}{tint}">{xml(text)}</td>'


_PATHS = ("alloc", "zero", "copy", "reuse")


def _cell(row: Row, kernel: str) -> Cell:
    real = recorded(row.scenario, kernel)
    if real is None:
        return Cell("", None)
    return Cell(code_recorded(real, row.at), equal(row.scenario, known_policy(kernel).name, kernel))


def table(rows: Sequence[Row] = ROWS) -> Table:
    """Each row under each policy, and on each kernel that ran it."""
    return Table(tuple(rows), SIX, KERNELS)


# --- all scenarios, all kernels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Per policy and kernel: of how many recorded scenarios not one step differs."""

    recorded: Mapping[str, int]
    equal: Mapping[str, Mapping[str, int]]

    def __repr__(self) -> str:
        lines = [f"{'recorded on':14}" + "".join(f"{kernel:>10} " for kernel in self.recorded)]
        lines.append(f"{'scenarios':14}" + "".join(f"{count:>10} " for count in self.recorded.values()))
        lines = [line.rstrip() for line in lines]
        for policy, counts in self.equal.items():
            cells = (_star(counts[kernel], known_policy(kernel).name == policy) for kernel in self.recorded)
            lines.append(f"{policy:14}" + "".join(f"{cell:>11}" for cell in cells).rstrip())
        return "\n".join([*lines, "[* the kernel's own policy]"])


def _star(count: int, own: bool) -> str:
    return f"{count}*" if own else f"{count} "


def agreement() -> Agreement:
    """Every named scenario that a kernel ran, under every policy."""
    counts = {kernel: recorded_scenarios(kernel) for kernel in KERNELS}
    equal = {policy.name: {kernel: equal_scenarios(policy, kernel) for kernel in KERNELS} for policy in SIX}
    return Agreement(counts, equal)


def recorded_scenarios(kernel: str) -> int:
    """How many named scenarios a kernel ran."""
    return sum(recorded(name, kernel) is not None for name in scenario_names())


def equal_scenarios(policy: Policy, kernel: str) -> int:
    """In how many named scenarios a recorded kernel did, page by page, what a policy says."""
    return sum(equal(name, policy.name, kernel) for name in scenario_names())


# --- what one merged path cost --------------------------------------------------------------------------------------


def costs(name: str) -> str:
    """Faults, pages copied and pages held at the end of a scenario: every policy, and the kernels that ran it."""
    lines = [f"{'':16}{'faults':>8}{'copied':>8}{'held':>8}"]
    for policy in SIX:
        end = Scenario.load(name).end(policy)
        held = end.snapshot().held_pages
        lines.append(f"{policy.name:16}{len(ran(name, policy.name).faults()):8}{end.counters.copied:8}{held:8}")
    for kernel in KERNELS:
        real = recorded(name, kernel)
        if real is not None:
            copied = sum(code.startswith("copy") for code in _codes_recorded(real))
            lines.append(f"{f'recorded {kernel}':16}{faults_recorded(real):8}{copied:8}{'-':>8}")
    return "\n".join(lines)


def _codes_recorded(real: Recorded) -> Iterator[str]:
    return (code_recorded(real, at) for at, step in enumerate(real.scenario.steps) if step[0] == "write")


def faults_recorded(real: Recorded) -> int:
    """How many page faults a kernel took for a program."""
    return sum(len(step["faults"]) for step in real.steps)


# --- the history ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Something posted or released: the day, what, how to find it (a mail's id or a commit), and in which release."""

    day: date
    what: str
    found: str = ""
    where: str = ""


RELEASES = {
    "6.3": date(2023, 4, 23), "6.4": date(2023, 6, 25), "6.5": date(2023, 8, 27), "6.6": date(2023, 10, 29),
    "6.7": date(2024, 1, 7), "6.8": date(2024, 3, 10), "6.9": date(2024, 5, 12), "6.10": date(2024, 7, 14),
    "6.11": date(2024, 9, 15), "6.12": date(2024, 11, 17), "6.13": date(2025, 1, 19), "6.14": date(2025, 3, 24),
    "6.15": date(2025, 5, 25), "6.16": date(2025, 7, 27), "6.17": date(2025, 9, 28), "6.18": date(2025, 11, 30),
    "6.19": date(2026, 2, 8), "7.0": date(2026, 4, 12), "7.1": date(2026, 6, 14), "7.2": date(2026, 8, 16),
}  # fmt: skip
"""Days of release. Those of 2026 are as news reported them (7.1: two weeks before 7.2-rc1); 7.3's was not found."""


def _in(release: str, what: str, commit: str = "") -> Event:
    return Event(RELEASES[release], what, commit, release)


POSTED = (
    Event(date(2023, 3, 17), "RFC v1: partial, and a plea for help with a bug", "20230317105802.2634004-1"),
    Event(date(2023, 4, 14), "RFC v2: all four write paths, 17 patches", "20230414130303.2345383-1"),
    Event(date(2023, 4, 17), "review, in reply: a copy must not take exclusive pages; is it worth it? (id not found)"),
    Event(
        date(2023, 6, 26),
        'v1: "bare minimum", without three of the four paths; behind CONFIG_LARGE_ANON_FOLIO, off',
        "20230626171430.3167004-1",
    ),
    Event(
        date(2023, 7, 3),
        "v2: no memory for the block? One page, nothing between; option FLEXIBLE_THP",
        "20230703135330.1865927-1",
    ),
    Event(date(2023, 7, 14), "v3: three sizes are tried: preferred, 32 KiB, one page", "20230714160407.4142030-1"),
    Event(date(2023, 7, 26), "v4: the option is renamed back, LARGE_ANON_FOLIO; selftests", "20230726095146.2826796-1"),
    Event(date(2023, 8, 10), "v5: 32 KiB by default, on arm64 too", "20230810142942.3169679-1"),
    Event(date(2023, 9, 29), "v6: no built-in order any more, user space chooses", "20230929114421.3761121-1"),
    Event(date(2023, 11, 22), 'v7: one knob per size in sysfs; called "small-sized THP"', "20231122162950.3854897-1"),
    Event(date(2023, 12, 4), 'v8: called "multi-size THP" (mTHP)', "20231204102027.57185-1"),
    Event(date(2023, 12, 7), "v9: the last one, merged for 6.8", "20231207161211.2374093-1"),
)
"""The series, from the first request for comments to the version that was merged."""

MERGED = (
    _in("6.8", "knobs, one per size, all off but 2 MiB", "3485b88390b0"),
    _in("6.8", "path 1: a first touch takes a large folio", "19eaf44954df"),
    _in("6.9", "path 4: no page of a large folio is reused unless it is marked", "cd197c3a2040"),
    _in("6.13", "path 2, 2 MiB only: a write on the huge zero page", "1ced09e0331f"),
    _in("6.15", "mm_id slots in each large folio", "6af8cb80d3a9"),
    _in("6.15", "path 4: reuse by mm_id, one page a fault", "1da190f4d0a6"),
)
"""What came into releases and changes the four paths; commits as in Linus's tree."""

AROUND = (
    _in("6.9", "arm64 contpte; fork in batches", "4602e5757bcc, f8d937761d65"),
    _in("6.14", "empty page tables freed", "6375e95f381e"),
    _in("6.16", "more VMA merges", "879bca0a2c4f"),
    _in("6.17", "mremap of several VMAs", "d23cb648e365"),
)
"""What came beside them and may show in a scenario: the figure has these, in a word or two."""


@dataclass(frozen=True)
class Events:
    """A list of events, one a line; `found_by` says what the last column holds."""

    events: tuple[Event, ...]
    found_by: str

    def __repr__(self) -> str:
        width = 2 + max(len(event.found) for event in self.events)
        lines = (f"{event.day:%Y-%m}  {event.where:6}{event.found:{width}}{event.what}" for event in self.events)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        heads = ("when", "in", "what", self.found_by)
        rows = [(f"{event.day:%b %Y}", event.where, event.what, event.found) for event in self.events]
        columns = [(head, cells) for head, cells in zip(heads, zip(*rows, strict=True), strict=True) if any(cells)]
        head = "".join(f'<th style="{_LEFT}">{xml(head)}</th>' for head, _ in columns)
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="{_WRAPPED if head == "what" else _LEFT}">{escape(cells[row], quote=False)}</td>'
                for head, cells in columns
            )
            + "</tr>"
            for row in range(len(rows))
        )
        return f'<div style="overflow-x: auto"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


mails = Events(POSTED, "Message-Id begins")
merged = Events(MERGED, "commit")


release_policy = cache(policy_for_kernel)
"""The policy of a release."""


@dataclass(frozen=True)
class Lane:
    """One line of the figure: a row whose outcome is computed for every release, and said in a word.

    `proviso` is when a release gives a block. `inferred` says that no source tells what RFC v2 does there.
    """

    name: str
    row: Row
    says: Callable[[Timeline, int], tuple[str, str]]
    proviso: str = ""
    inferred: bool = False


def _pages_at_once(timeline: Timeline, at: int) -> tuple[str, str]:
    pages = pages_of(code_of(timeline, at))
    return ("one", "one page at a time") if pages == 1 else ("block", f"{pages} pages at once")


def _needless_copies(timeline: Timeline, at: int) -> tuple[str, str]:
    """Of the writes from `at` on, by the only process left: how many copy?"""
    codes = [code_of(timeline, number) for number in range(at, len(timeline))]
    copied = sum(code.startswith("copy") for code in codes)
    if copied:
        return "copies", f"copies {copied} of {len(codes)}"
    return _pages_at_once(timeline, at)


LANES = (
    Lane("1 first touch", FOUR[0], _pages_at_once, "if the size is enabled"),
    Lane("2 zero page", FOUR[1], _pages_at_once),
    Lane("  huge zero page", ROWS[4], _pages_at_once, "if 2 MiB are free", inferred=True),
    Lane("3 copy", FOUR[2], _pages_at_once),
    Lane("4 reuse", FOUR[3], _needless_copies),
)


@cache
def spans(lane: Lane) -> list[tuple[str, str, str, str]]:
    """What a lane's row does from release to release: first release of each stretch, last, kind, words."""
    scenario = Scenario.load(lane.row.scenario)
    outcomes = {policy: lane.says(scenario.run(policy), lane.row.at) for policy in set(map(release_policy, RELEASES))}
    found = []
    for outcome, stretch in groupby(RELEASES, key=lambda release: outcomes[release_policy(release)]):
        releases = list(stretch)
        kind, words = outcome
        found.append((releases[0], releases[-1], kind, f"{words}, {lane.proviso}" if kind == "block" else words))
    return found


@dataclass(frozen=True)
class History:
    """The figure: four paths from the proposal to now. Bars are what the model of each release does, computed."""

    def __repr__(self) -> str:
        lines = ["What a write does, from which release on:"]
        for lane in LANES:
            told = "; ".join(f"{first}: {words}" for first, _, _, words in spans(lane))
            lines.append(f"{lane.name:18} RFC v2 (never merged): {_proposed(lane)}; {told}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x: auto">{self.svg()}</div>'

    def svg(self) -> str:
        """One SVG; text takes the page's colour, so that it reads on light and dark."""
        return _history_svg()


def _proposed(lane: Lane) -> str:
    words = lane.says(ran(lane.row.scenario, RFC_V2.name), lane.row.at)[1]
    return f"{words} (inferred)" if lane.inferred else words


history = History()

_WIDTH, _LANES_AT, _LANE, _START, _END = 848, 70, 44, date(2023, 3, 1), date(2026, 12, 1)
_PROPOSED, _LEFT_EDGE, _RIGHT_EDGE = 158, 196, 840
"""The middle of the column that has RFC v2, and where the time axis begins and ends."""
_FILL = {"one": "rgba(128,128,128,.28)", "block": "rgba(0,114,178,.45)", "copies": "rgba(213,94,0,.45)"}
_COLOURS = {"one": "one page a fault", "block": "a block a fault", "copies": "copies of pages that nobody else has"}


def _x(day: date) -> float:
    share = (day - _START).days / (_END - _START).days
    return round(_LEFT_EDGE + share * (_RIGHT_EDGE - _LEFT_EDGE), 1)


def _text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}"{more}>{escape(words, quote=False)}</text>'


_BOLD = ' font-weight="600"'


def _history_svg() -> str:
    bottom = _LANES_AT + _LANE * len(LANES)
    height = bottom + 184
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" '
        f'style="max-width: 100%; height: auto; min-width: {_WIDTH}px; font-family: sans-serif" fill="currentColor">',
        f"<title>{escape(repr(history), quote=False)}</title>",
        *_years(bottom),
        *_series(),
        *_proposal(bottom),
    ]
    for number, lane in enumerate(LANES):
        parts += _lane(lane, _LANES_AT + _LANE * number)
    parts += [*_releases(bottom), *_around(bottom), *_key(bottom), "</svg>"]
    return "".join(parts)


def _years(bottom: int) -> Iterator[str]:
    for year in (2024, 2025, 2026):
        x = _x(date(year, 1, 1))
        yield f'<line x1="{x}" y1="16" x2="{x}" y2="{bottom}" stroke="currentColor" stroke-opacity=".18"/>'
    for year in (2023, 2024, 2025, 2026):
        yield _text(_x(max(date(year, 1, 1), _START)) + 4, 14, str(year), more=_BOLD)


def _series() -> Iterator[str]:
    """The mails, a tick each."""
    posted = {event.what.partition(":")[0]: _x(event.day) for event in POSTED}
    yield _text(4, 48, "posted", more=_BOLD)
    yield _text(posted["RFC v1"], 48, "RFCs", size=12)
    yield _text(posted["v1"], 48, "v1 … v9", size=12)
    for event in POSTED:
        x = _x(event.day)
        told = f"<title>{event.day:%d %b %Y}: {escape(event.what, quote=False)}</title>"
        yield f'<line x1="{x}" y1="53" x2="{x}" y2="{_LANES_AT - 4}" stroke="currentColor">{told}</line>'


def _proposal(bottom: int) -> Iterator[str]:
    """The column of RFC v2. It stands before the time axis: no release did this."""
    yield _text(_PROPOSED, 30, "RFC v2:", size=12, anchor="middle", more=_BOLD)
    yield _text(_PROPOSED, 45, "never", size=12, anchor="middle")
    yield _text(_PROPOSED, 59, "merged", size=12, anchor="middle")
    yield (
        f'<rect x="{_PROPOSED - 26}" y="{_LANES_AT - 4}" width="52" height="{bottom - _LANES_AT}" fill="none" '
        'stroke="currentColor" stroke-dasharray="4 3"/>'
    )


def _lane(lane: Lane, y: int) -> Iterator[str]:
    yield _text(4, y + 20, lane.name, more=_BOLD + ' xml:space="preserve"')
    pages = pages_of(code_of(ran(lane.row.scenario, RFC_V2.name), lane.row.at))
    yield _text(_PROPOSED, y + 20, f"{pages}{'?' if lane.inferred else ''}", anchor="middle")
    for number, (first, last, kind, words) in enumerate(spans(lane)):
        # The first stretch goes on from before the figure.
        start = _x(RELEASES[first]) if number else float(_LEFT_EDGE)
        later = [day for day in RELEASES.values() if day > RELEASES[last]]
        stop = _x(min(later)) if later else float(_RIGHT_EDGE)
        told = f"{f'{first} to' if number else 'up to'} {last}: {words}"
        yield from _bar(start, stop, y, kind, told, words)


def _bar(start: float, stop: float, y: int, kind: str, told: str, words: str) -> Iterator[str]:
    width = round(stop - start - 2, 1)
    yield f'<rect x="{start}" y="{y + 3}" width="{width}" height="24" rx="3" fill="{_FILL[kind]}">'
    yield f"<title>{xml(told)}</title></rect>"
    fits = len(words) * 7 < width
    yield _text(start + 6, y + 20, words) if fits else _text(start, y + 40, words, size=12)


def _releases(bottom: int) -> Iterator[str]:
    yield _text(4, bottom + 16, "released", more=_BOLD)
    for number, (release, day) in enumerate(RELEASES.items()):
        ran_here = release in KERNELS
        weight = ' font-weight="700"' if ran_here else ' fill-opacity=".8"'
        # In two rows: the numbers are wider than nine weeks are.
        y = bottom + 16 + 15 * (number % 2)
        yield _text(_x(day), y, f"[{release}]" if ran_here else release, size=12, anchor="middle", more=weight)
    yield _text(_RIGHT_EDGE, bottom + 16, "→ [7.3]", size=12, anchor="end", more=' font-weight="700"')


def _around(bottom: int) -> Iterator[str]:
    """Changes beside the four paths that a scenario may see, each under its release."""
    yield _text(4, bottom + 56, "around them", more=_BOLD)
    for number, event in enumerate(AROUND):
        # The leftmost hang lowest: no line then runs through another's words.
        x, y = _x(event.day), bottom + 56 + 17 * (len(AROUND) - 1 - number)
        yield f'<line x1="{x}" y1="{bottom + 35}" x2="{x}" y2="{y - 12}" stroke="currentColor" stroke-opacity=".5">'
        yield f"<title>{event.where}: {xml(event.what)}, {event.found}</title></line>"
        yield _text(x, y, f"{event.where} {event.what}", size=12)


def _key(bottom: int) -> Iterator[str]:
    x, y = 4.0, bottom + 142
    for kind, words in _COLOURS.items():
        yield f'<rect x="{x}" y="{y - 11}" width="22" height="14" rx="3" fill="{_FILL[kind]}"/>'
        yield _text(x + 28, y, words, size=12)
        x += 28 + 6.6 * len(words) + 24
    told = (
        "Bars: the model of each release, computed, sizes enabled. [ ]: recorded from a real kernel, too. 7.3 is "
        "later; its day was not found.",
        "RFC v2: pages at once. 16?: what it would do with the huge zero page is inferred.",
    )
    for number, words in enumerate(told):
        yield _text(4, y + 20 + 17 * number, words, size=12)


# --- predictions ----------------------------------------------------------------------------------------------------


def _paths_taken() -> int:
    return sum(pages_of(code_of(ran(row.scenario, LINUX_6_15.name), row.at)) > 1 for row in FOUR)


taken = Number(**words("taken"), truth=_paths_taken)


def _faults_on_6_18() -> int:
    real = recorded(gone.name, "6.18")
    assert real is not None
    return faults_recorded(real)


faults = Number(
    **words(
        "faults",
        rfc_v2=lambda: len(ran(gone.name, RFC_V2.name).faults()),
        linux_6_3=lambda: len(ran(gone.name, LINUX_6_3.name).faults()),
    ),
    truth=_faults_on_6_18,
)

_SHARES = {"a": ("none", 0.0), "b": ("about a third", 1 / 3), "c": ("most", 0.75), "d": ("all", 1.0)}


# --- a kernel that was wrong ----------------------------------------------------------------------------------------

_RAN = {
    kernel: read_recording(DATA_DIR / f"min-{kernel}.json.gz").programs[0]
    for kernel in ("6.17.13", "6.18.5", "6.18.9", "6.18.44")
}
moved_back = _RAN["6.17.13"].scenario
"""A written mapping is moved away and back, beside a neighbour that nobody has touched; then its process forks."""

lost = Number(**words("lost"), truth=lambda: _RAN["6.17.13"].steps[-1]["value"])

_MOVES = range(1, 5)
"""The steps of `moved_back` after which `anon_vmas` looks: from the write to the move back."""


def _what_is_missing() -> str:
    """By the mapping of page 20 before the fork, on 6.17: the first of the four that it has not."""
    vma = moved_back.run(Policy.at("6.17")).results[_MOVES[-1]].snapshot.processes[0].mappings[0]
    has = {"a": vma.pte.any(), "b": vma.pte.any(), "c": vma.anon_vma, "d": vma.writable.any()}
    return next(letter for letter, there in has.items() if not there)


missing = Choice(**words("missing"), truth=_what_is_missing)


def _vmas(timeline: Timeline, at: int) -> str:
    """The mappings of process 0 after a step, in pages of the program; a star where one has an anon_vma."""
    first = timeline[0].snapshot.processes[0].mappings[0].start
    mappings = timeline[at].snapshot.processes[0].mappings
    return " ".join(f"{vma.start - first}-{vma.end - 1 - first}{'*' if vma.anon_vma else ''}" for vma in mappings)


def anon_vmas(*releases: str) -> str:
    """`moved_back` under releases: per step the mappings, a star for an anon_vma; then what the child reads."""
    runs = [moved_back.run(Policy.at(release)) for release in releases]
    lines = [f"{'':29}" + "".join(f"{release:18}" for release in releases)]
    for at in _MOVES:
        said = " ".join(map(str, moved_back.steps[at]))
        lines.append(f"{said:29}" + "".join(f"{_vmas(run, at):18}" for run in runs))
    lines.append(f"{'fork; the child reads':29}" + "".join(f"{run[-1].value!s:18}" for run in runs))
    return "\n".join(line.rstrip() for line in lines)


def child_read_on() -> dict[str, int]:
    """Per kernel that ran `moved_back` the byte that the child read."""
    return {kernel: ran.steps[-1]["value"] for kernel, ran in _RAN.items()}


def _share(policy: Policy) -> str:
    """Which of the shares is nearest to how many of 7.3's scenarios a policy does alike."""
    alike = equal_scenarios(policy, "7.3") / recorded_scenarios("7.3")
    return min(_SHARES, key=lambda letter: abs(_SHARES[letter][1] - alike))


agrees = Choice(**words("agrees"), truth=lambda: _share(RFC_V2))


# --- exercise: six behaviours ---------------------------------------------------------------------------------------


def transcript(timeline: Timeline) -> str:
    """What came of each write and read, in a line: ``alloc4, nf ×15, copy0 ×16``. Other steps begin a new run."""
    codes: list[tuple[int, str]] = []
    others = 0
    for at, result in enumerate(timeline):
        if result.step[0] in ("write", "read"):
            codes.append((others, code_of(timeline, at)))
        else:
            others += 1
    runs = ((code, len(list(same))) for (_, code), same in groupby(codes))
    return ", ".join(f"{code} ×{times}" if times > 1 else code for code, times in runs)


def who_does(name: str, told: str) -> str:
    """The one policy under which a scenario goes like this."""
    found = [policy.name for policy in SIX if transcript(ran(name, policy.name)) == told]
    if len(found) != 1:
        raise ValueError(f"{told!r} of {name} is what {', '.join(found) or 'no policy'} does")
    return found[0]


def _case(program: str, name: str, policy: str) -> Case:
    told = transcript(ran(name, policy))
    wrong = {other.name: f"`{other.name}` gives: {transcript(ran(name, other.name))}." for other in SIX}
    return Case(
        f"{program} (`{name}`): {told}", lambda: who_does(name, told), wrong, lambda: Picture.of(ran(name, policy))
    )


six = Cases(**words("six"), cases=words.cases("six", _case))

# --- exercise: a bug hunt -------------------------------------------------------------------------------------------

_PLAIN = LINUX_6_9
_CHANGES: dict[str, dict[str, Any]] = {
    "mm_id": {"large_reuse": "mm_id"},
    "last page": {"large_reuse": "refcount_one"},
    "zero page": {"zero_page_write": "first_touch", "fixed_orders": RFC_V2.fixed_orders},
    "copy": {"copy_extent": "source_order", "copy_requires_maybe_shared": False},
    "nothing": {},
}
"""What may have been put into a 6.12, by the word that answers for it."""

_VENDORS = {
    "a": _PLAIN.but(name="vendor a", large_reuse="mm_id"),
    "b": _PLAIN.but(name="vendor b", copy_extent="source_order", copy_requires_maybe_shared=False),
    "c": _PLAIN,
    "d": _PLAIN.but(name="vendor d", large_reuse="refcount_one"),
}

_SHOWS = {
    "zero page": "read 0 3; write 0 3 103",
    "copy": "write 0 0..15; fork 0; write 0 4 104",
    "mm_id": "write 0 0..15; fork 0; exit 1; write 0 4 104",
    "last page": "write 0 0..15; munmap 0 0 15; fork 0; exit 1; write 0 15 115",
}
"""For each change the steps of a program that goes differently with it."""


@cache
def _show(word: str, kernel: Policy) -> Timeline:
    return Scenario.parse("pages 16\n" + _SHOWS[word].replace("; ", "\n")).run(kernel)


def vendor(letter: str, program: str) -> str:
    """What came of each write and read of a program on one of the four kernels, beside a plain 6.12."""
    try:
        scenario = Scenario.parse(program, "your program")
    except ScenarioError as error:
        return f"Cannot run that program: {error}"
    theirs, plain = scenario.run(_VENDORS[letter]), scenario.run(_PLAIN)
    if impossible := refused(plain):
        return impossible.lines[0]
    found = plain.compare(theirs)
    where = f"they part at step {found[0].number + 1}" if found else "no difference in this program"
    return f"plain 6.12   {transcript(plain)}\nvendor {letter:5} {transcript(theirs)}\n{where}"


@cache
def _what_was_put_in(letter: str) -> str:
    """The one change with which a plain 6.12 does what a vendor's kernel does, in every program that shows one."""
    kernel = _VENDORS[letter]
    return next(
        word
        for word, change in _CHANGES.items()
        if not any(_show(show, kernel).compare(_show(show, _PLAIN.but(**change))) for show in _SHOWS)
    )


def _vendor_case(letter: str) -> Case:
    def told(word: str) -> str:
        if word == "nothing":
            return "Something is in it. Try each state of the first table, and a folio that has one page left."
        changed = _PLAIN.but(**_CHANGES[word])
        with_it, without = (transcript(_show(word, kernel)) for kernel in (changed, _VENDORS[letter]))
        return f"With that, `{_SHOWS[word]}` gives {with_it}. Here it gives {without}."

    wrong = {word: told(word) for word in _CHANGES if word != _what_was_put_in(letter)}
    return Case(f"vendor {letter}", lambda: _what_was_put_in(letter), wrong)


hunt = Cases(**words("hunt"), cases={letter: _vendor_case(letter) for letter in _VENDORS})


# --- exercise: a fingerprint ----------------------------------------------------------------------------------------

told_apart = Scenario.parse("""
# One program that goes differently under each of six policies.
scenario fingerprint
pages 16
write 0 0..15
madvise 0 8 8 wipeonfork
fork 0
madvise 0 8 8 keeponfork
write 0 2 102
exit 1
write 0 5 105
munmap 0 8 8
munmap 0 4 4
munmap 0 0 3
write 0 3 103
""")


def alike(program: Scenario) -> list[list[str]]:
    """The policies in groups that nobody could tell apart by a program's faults and page tables."""
    groups: list[list[Timeline]] = []
    for policy in SIX:
        timeline = program.run(policy)
        same = next((group for group in groups if not group[0].compare(timeline)), None)
        if same is None:
            groups.append([timeline])
        else:
            same.append(timeline)
    return [[timeline.policy.name for timeline in group] for group in groups]


def _tells_apart(timeline: Timeline) -> Verdict:
    program = timeline.scenario
    groups = alike(program)
    if len(groups) == len(SIX):
        return Verdict(True, (f"{len(program.steps)} steps.",), timeline.show(), "Right: all six are told apart.")
    lines = [f"- alike: {', '.join(group)}" for group in groups if len(group) > 1]
    told = (*lines, *_advice(groups, _leaves_two_vmas(program)))
    return Verdict(False, told, timeline.show(), f"It tells {len(groups)} of {len(SIX)} apart.")


def _leaves_two_vmas(program: Scenario) -> bool:
    """Whether the program marks a part for wiping and never takes it back."""
    advice = {step[-1] for step in program.steps if step[0] == "madvise"}
    return "wipeonfork" in advice and "keeponfork" not in advice


_PAIRS = (
    (LINUX_6_3, LINUX_6_15, "6.3 has no 16-page folios by a first touch: write something."),
    (RFC_V2, LINUX_6_15, "RFC v2, never merged, copies and reuses blocks: fork, and write."),
    (RFC_V2, RFC_V2_FIXED, "The check matters where exclusive pages lie beside shared ones: see `wipe-on-fork`."),
    (LINUX_6_9, LINUX_6_15, "6.15 finds out that a child is gone, 6.9 does not."),
    (LINUX_6_8, LINUX_6_9, "6.8 reuses the last page that is left of a folio: see `one-page-left`."),
)


def _advice(groups: Iterable[Sequence[str]], two_vmas: bool) -> Iterator[str]:
    """What to do about the first pair that is still alike."""
    groups = list(groups)
    for one, other, says in _PAIRS:
        if any(one.name in group and other.name in group for group in groups):
            yield _EDGE if two_vmas and one is RFC_V2 and other is RFC_V2_FIXED else says
            return


_EDGE = (
    "Your two halves are two VMAs, and no block crosses a VMA edge. Make them one again after the fork: "
    "`madvise 0 8 8 keeponfork`."
)


fingerprint = Program(**words("fingerprint"), judge=judged_under(LINUX_6_15, _tells_apart), worked=lambda: told_apart)
