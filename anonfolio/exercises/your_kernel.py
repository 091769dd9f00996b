"""Questions of ``11_your_kernel``: ``from anonfolio.exercises import your_kernel as q``."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..draw.looked import look_text
from ..kernel.policy import LINUX_6_8, LINUX_6_9, LINUX_6_15, Policy, policy_for_kernel
from ..lesson.quiz import Case, Cases, Choice, Function, Number, Program, Verdict, judged_under
from ..lesson.topics import asking
from ..lesson.words import Words
from ..program.scenario import Result, Scenario, Step, Timeline
from ..witness.comparing import Recorded
from ..witness.fields import FLAGS, Experiment, Fields, Look, differing, live_wanted, stored
from ..witness.fields import folio_sizes as library_sizes
from ..witness.here import need_linux
from ..witness.hidden.state import FOLIO_COLUMNS
from ..witness.live import live_run
from ..witness.looking import Looker
from ..witness.recording import DATA_DIR, read_recording

words = Words(__file__)
more = asking("touch", "zero", "fork")

RECORDED_KERNEL, PAIR_KERNEL = "6.18", "6.12"
"""Which recordings stand in where nothing runs live; for exercise 3 one of a linux-6.9 kernel. 6.8 was never run."""


# --- whom to ask ----------------------------------------------------------------------------------------------------


def ask(live: bool | None = None) -> Fields:
    """The experiments of this notebook, from whoever can be asked; says who that is in one line."""
    try:
        found = fields(live)
    except ValueError as reason:
        found = stored()
        print(f"Not live: {reason}. {found}")
    else:
        print(found)
    return found


def witness(scenario: Scenario, live: bool | None = None, kernel: str = RECORDED_KERNEL) -> Recorded | None:
    """What a real kernel does with a program: this machine's when asked for, else a recorded one; None if none ran it.

    A recorded program may have written other bytes: which byte decides nothing. So compare its own scenario with it.

    Raises
    ------
    ValueError
        It was asked for live, and that cannot be; one line that says what is missing.
    """
    if live_wanted(live):
        need_linux()
        return live_run(scenario)
    return next((program for program in _programs(kernel) if _same_program(program.scenario, scenario)), None)


def fields(live: bool | None = None) -> Fields:
    """The experiments: stored ones, or done now on this machine when asked to, by the argument or by `LIVE`.

    Raises
    ------
    ValueError
        They were asked for live, and this machine cannot; one line that says what is missing.
    """
    if not live_wanted(live):
        return stored()
    need_linux()
    from ..witness.live.fields import live_fields

    return live_fields()


@lru_cache(maxsize=2)
def _programs(kernel: str) -> tuple[Recorded, ...]:
    return read_recording(DATA_DIR / f"named-{kernel}.json.gz").programs


def _same_program(one: Scenario, other: Scenario) -> bool:
    return _without_bytes(one) == _without_bytes(other) and all(
        getattr(one, name) == getattr(other, name) for name in ("pages", "orders", "skew")
    )


def _without_bytes(scenario: Scenario) -> list[Step]:
    return [step[:-1] if step[0] in ("write", "dma_write") else step for step in scenario.steps]


def against(scenario: Scenario, *policies: Policy, live: bool | None = None, kernel: str = RECORDED_KERNEL) -> str:
    """A real kernel beside some policies: in how many steps each differs from it, and where first."""
    try:
        seen = witness(scenario, live, kernel)
    except ValueError as reason:
        return f"Not live: {reason}"
    if seen is None:
        return f"This program was not recorded; {NOT_ASKED}"
    lines = [f"Linux {seen.kernel}, {'live' if live_wanted(live) else 'recorded'}, {len(scenario.steps)} steps"]
    for policy in policies:
        found = seen.scenario.run(policy).compare(seen)
        first = (
            f", first in {found[0].number + 1}: {found[0].what} {found[0].mine}, not {found[0].theirs}" if found else ""
        )
        lines.append(f"{policy.name:12} differs in {_steps(len(found))}{first}")
    return "\n".join(lines)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


NOT_ASKED = "start the notebook with ANONFOLIO_LIVE=1, as root, to ask yours."


# --- how fields are shown -------------------------------------------------------------------------------------------


def shown(asked: Fields, *moments: tuple[str, int]) -> str:
    """The fields of process 0 after some steps of some experiments, a character a page; below, what the model holds."""
    columns = [_column(asked, name, done) for name, done in moments]
    lines = [f"{file:11}{row:16}" + "".join(f"{column[at]:24}" for column in columns) for at, (file, row) in ROWS]
    return "\n".join(line.rstrip() for line in lines)


ROWS = tuple(
    enumerate(
        (
            ("", ""), ("", ""), ("", "page"),
            ("pagemap", "63 present"), ("", "56 once"), ("kpagecount", ""),
            ("kpageflags", "15 head"), ("", "16 tail"), ("", "22 thp"), ("", "34 exclusive"),
            ("the model", "exclusive"), ("", "writable"), ("", "references"),
        )
    )
)  # fmt: skip


def _column(asked: Fields, name: str, done: int) -> list[str]:
    experiment = asked[name]
    look = experiment.look(done)
    return [
        name,
        "after " + " ".join(map(str, experiment.scenario.steps[done - 1])) if done else "at the start",
        "0   4   8   12",
        _marks(look.present),
        _marks(look.once),
        "".join(str(count) if there else "." for count, there in zip(look.kpagecount, look.present, strict=True)),
        *(_marks(look.flag(flag)) for flag in ("head", "tail", "thp", "exclusive")),
        *_model_column(experiment, asked.kernel, done),
    ]


def _marks(bits: Any) -> str:
    return "".join("#" if bit else "." for bit in bits)


def _model_column(experiment: Experiment, kernel: str, done: int) -> tuple[str, str, str]:
    """Marks, write bits and references: what no field shows."""
    timeline = experiment.scenario.run(model_of(kernel))
    at = timeline[done - 1].snapshot if done else timeline.start
    exclusive = np.zeros(experiment.scenario.pages, bool)
    writable = exclusive.copy()
    base = experiment.scenario.first_vpn
    for mapping in at.processes[0].mappings:
        writable[mapping.start - base : mapping.end - base] = mapping.writable
        for page in np.flatnonzero(mapping.present & ~mapping.zero).tolist():
            folio = at.folio_at(int(mapping.pfn[page]))
            if folio:
                exclusive[mapping.start - base + page] = folio.anon_exclusive[mapping.pfn[page] - folio.head]
    pages = len(experiment.look(done).present)
    references = [folio.refcount for folio in at.folios]
    each = f"{references[0]} each" if len(references) > 1 and len(set(references)) == 1 else ""
    return (
        _marks(exclusive[:pages]), _marks(writable[:pages]), each or ", ".join(map(str, references)) or "no folio",
    )  # fmt: skip


def model_of(kernel: str) -> Policy:
    """The policy of a kernel; that of the recordings when there is none for it."""
    try:
        return policy_for_kernel(kernel)
    except ValueError:
        return LINUX_6_15


SMAPS = ("Rss", "Pss", "Anonymous", "AnonHugePages")


def smaps(asked: Fields, *moments: tuple[str, int], rows: tuple[str, ...] = SMAPS) -> str:
    """Numbers of smaps, in kB, for process 0 of some experiments after so many steps; below, its folios."""
    looks = [asked[name].look(done) for name, done in moments]
    lines = [
        " " * 15 + "".join(f"{name:>13}" for name, _ in moments),
        f"{'smaps, kB':15}" + "".join(f"{f'step {done}':>13}" for _, done in moments),
    ]
    lines += [f"{row:15}" + "".join(f"{look.smaps.get(row, 0):13}" for look in looks) for row in rows]
    held = [asked[name].folios[done] for name, done in moments]
    lines += ["", "from kpageflags"]
    lines.append(f"{'folios':15}" + "".join(f"{len(folios):13}" for folios in held))
    lines.append(f"{'their pages':15}" + "".join(f"{sum(map(len, folios)):13}" for folios in held))
    return "\n".join(lines)


def outcome(experiment: Experiment, step: int) -> str:
    """What a write did to a page that a PTE maps, by the counters alone.

    It must not be the zero page, nor mapped by a PMD: `do_huge_pmd_wp_page` reuses without counting pgreuse.
    """
    if not experiment.counted("minflt", step, step + 1):
        return "no fault"
    return "reuse" if experiment.counted("pgreuse", step, step + 1) else "copy"


def counters(asked: Fields, name: str, *steps: int) -> str:
    """What each of some steps did to the counters, and what that means."""
    experiment = asked[name]
    lines = [f"{'step':17}{'minflt':>7}{'pgreuse':>9}   so"]
    for step in steps:
        words = " ".join(map(str, experiment.scenario.steps[step]))
        counts = [experiment.counted(counter, step, step + 1) for counter in ("minflt", "pgreuse")]
        lines.append(f"{words:17}{counts[0]:7}{counts[1]:9}   {outcome(experiment, step)}")
    return "\n".join(lines)


def copied_by_fork(experiment: Experiment, done: int) -> int:
    """In how many pages the child maps a frame that its parent does not."""
    parent, child = experiment.look(done, 0), experiment.look(done, 1)
    return int((child.present & (parent.frames != child.frames)).sum())


def twins(asked: Fields) -> str:
    """Pairs of states: the fields that differ, and what comes next."""
    lines = [f"{'states':56}{'fields that differ':20}next step"]
    for says, (name, done, process), (other, other_done, other_process), fork in TWINS:
        mine, theirs = asked[name], asked[other]
        found = differing(mine.look(done, process), theirs.look(other_done, other_process))
        if fork:
            then = " / ".join(f"copies {copied_by_fork(e, at + 1)}" for e, at in ((mine, done), (theirs, other_done)))
        else:
            then = f"{outcome(mine, done)} / {outcome(theirs, other_done)}"
        lines.append(f"{says:56}{', '.join(found) or 'none':20}{then}")
    return "\n".join(lines)


TWINS = (
    ("a pipe holds page 3 (vmsplice) / closed; page 5 written", ("pipe", 19, 0), ("pipe closed", 20, 0), False),
    ("page 4 is pinned / unpinned; then a fork", ("pin", 17, 0), ("pin over", 18, 0), True),
    ("a third process is alone / the parent is; a write", ("third", 36, 2), ("child gone", 18, 0), False),
)


# --- predictions ----------------------------------------------------------------------------------------------------


def hidden(first: int = 15) -> str:
    """What 6.18.44 held of a folio of 16 pages after each step of a program: read by bpf(2), recorded."""
    (ran,) = (one for one in read_recording(DATA_DIR / "hidden-named-6.18.44.json.gz").programs if _is_exclusive(one))
    lines = [f"{'after':15}{'refs':>5}{'pins':>5}  {'slots':10}{'shared':7}{'partly':7}{'deferred':9}exclusive"]
    for step, seen in list(zip(ran.scenario.steps, ran.steps, strict=True))[first:]:
        folio = dict(zip(FOLIO_COLUMNS, seen["hidden"].folios[0].tolist(), strict=True))
        slots = " ".join(f"{folio[f'mappings of slot {at}']:2}" for at in (0, 1) if folio[f"mm_id slot {at}"])
        shared, partly, deferred = (
            "yes" if folio[what] else "no" for what in ("shared bit", "partially mapped", "deferred")
        )
        marks = "".join("◆" if mark else "." for mark in seen["hidden"].exclusive[:16])
        said = f"{' '.join(map(str, step)):15}{folio['refcount']:5}{folio['pins']:5}  {slots:10}"
        lines.append(f"{said}{shared:7}{partly:7}{deferred:9}{marks}")
    return "\n".join(lines)


def _is_exclusive(ran: Recorded) -> bool:
    return ran.scenario.name == "exclusive pages"


def myself() -> str:
    """The folios of this very process, when the kernel may be asked; else how to ask."""
    if not live_wanted(None):
        return f"Of this process itself: {NOT_ASKED}"
    try:
        with Looker() as looker:
            return look_text(looker.look(os.getpid()))
    except ValueError as reason:
        return f"Not live: {reason}"


def _look(name: str, done: int) -> Look:
    return stored()[name].look(done)


one_folio = Scenario.parse("pages 16\norders 4\nwrite 0 0..15")

huge = Number(**words("huge"), truth=lambda: _look("one folio", 16).smaps.get("AnonHugePages", 0))

CHILD_EXITED, NEXT = 18, 33
"""Steps done in "child gone": when the child has exited, and when pages 1 to 15 have been written after that."""

faults = Number(**words("faults"), truth=lambda: stored()["child gone"].counted("minflt", CHILD_EXITED, NEXT))

_DIFFERS = {
    "a": ("smaps", "a number in smaps"),
    "b": ("pagemap", "a bit of pagemap"),
    "c": ("kpagecount", "kpagecount"),
    "d": ("kpageflags", "a bit of kpageflags"),
    "e": ("", "nothing that can be read"),
}


def _first_difference() -> str:
    found = differing(_look("one folio", 16), _look("child gone", CHILD_EXITED))
    files = {field.split()[0] for field in found}
    return next(letter for letter, (file, _) in _DIFFERS.items() if file in files or not file)


differs = Choice(**words("differs"), truth=_first_difference)

# --- which field tells? ---------------------------------------------------------------------------------------------

NOTHING = "nothing"
_FILES = ("smaps", "pagemap", "kpageflags")


def _first_that_tells(one: Look, other: Look) -> str:
    files = {field.split()[0] for field in differing(one, other)}
    return next((file for file in _FILES if file in files), NOTHING)


def _pair(story: str, one: tuple[str, int, int], other: tuple[str, int, int], wrong: Mapping[str, str]) -> Case:
    looks = [stored()[name].look(done, process) for name, done, process in (one, other)]
    right = _first_that_tells(*looks)
    told = {**_told(looks[0], looks[1], right), **wrong}
    return Case(story, lambda: _first_that_tells(*looks), told, lambda: _timeline(one[0]).show(one[1] - 1))


def _told(one: Look, other: Look, right: str) -> dict[str, str]:
    """What to say of each wrong answer to which file tells first, by what really differs."""
    fields = differing(one, other)
    told = {}
    for file in _FILES:
        own = [field for field in fields if field.split()[0] == file]
        told[file] = "It tells, but an earlier file does, too." if own else f"Nothing that {file} shows differs."
    few = [field for field in fields if field.split()[0] in _FILES][:3]
    told[NOTHING] = f"Something does: {', '.join(few)}."
    return {file: says for file, says in told.items() if file != right}


def _timeline(name: str) -> Timeline:
    return stored()[name].scenario.run(LINUX_6_15)


tells = Cases(**words("tells"), cases=words.cases("tells", _pair))

# --- folios from kpageflags -----------------------------------------------------------------------------------------


def folio_sizes(flags: list[int]) -> list[int]:
    """Sizes in pages of the folios in a row of frames."""
    sizes: list[int] = []
    for word in flags:
        if word >> 16 & 1:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


class Word(int):
    """A word of kpageflags. It is shown in hexadecimal: one reads bits from that."""

    def __repr__(self) -> str:
        return hex(self)


def _word(size: int, at: int, shared: int) -> Word:
    bits = shared
    if size > 1:
        bits |= 1 << FLAGS["thp"] | 1 << (FLAGS["tail"] if at else FLAGS["head"])
    return Word(bits)


def _random_frames(source: random.Random) -> Mapping[str, Any]:
    flags: list[int] = []
    for _ in range(source.randrange(1, 5)):
        size = source.choice((1, 1, 4, 4, 16))
        exclusive = source.choice((0, 1 << FLAGS["exclusive"]))
        flags += [_word(size, at, 1 << FLAGS["anon"] | exclusive) for at in range(size)]
    return {"flags": flags}


def _by_thp(flags: list[int]) -> list[int]:
    sizes: list[int] = []
    inside = False
    for word in flags:
        large = bool(word >> FLAGS["thp"] & 1)
        if large and inside:
            sizes[-1] += 1
        else:
            sizes.append(1)
        inside = large
    return sizes


def _tails_only(flags: list[int]) -> list[int]:
    return [size - 1 if size > 1 else size for size in library_sizes(flags)]


def _large_only(flags: list[int]) -> list[int]:
    return [size for size in library_sizes(flags) if size > 1]


def _every_frame(flags: list[int]) -> list[int]:
    return [1] * len(flags)


def _head_starts(flags: list[int]) -> list[int]:
    sizes = [0]
    for word in flags:
        if word >> FLAGS["head"] & 1 and sizes[-1]:
            sizes.append(0)
        sizes[-1] += 1
    return sizes


sizes = Function(
    **words(
        "sizes",
        by_thp=_by_thp,
        tails_only=_tails_only,
        large_only=_large_only,
        every_frame=_every_frame,
        head_starts=_head_starts,
    ),
    truth=library_sizes,
    case=_random_frames,
    worked=folio_sizes,
)

# --- a program of her own -------------------------------------------------------------------------------------------

PAIR = (LINUX_6_8, LINUX_6_9)


def _parts_them(newer: Timeline) -> Verdict:
    program = newer.scenario
    older = program.run(PAIR[0])
    found = older.compare(newer)
    names = " and ".join(policy.name for policy in PAIR)
    if not found:
        return Verdict(False, (_missed(newer),), newer.show(), f"{names} do the same in all {len(newer)} steps.")
    head = f"Right: {names} part at step {found[0].number + 1}, {found[0].what}: {found[0].mine} and {found[0].theirs}."
    return Verdict(True, (_testimony(program),), newer.show(found[0].number), head)


def _testimony(program: Scenario) -> str:
    try:
        seen = witness(program, kernel=PAIR_KERNEL)
    except ValueError as reason:
        return f"Your kernel was not asked: {reason}."
    if seen is None:
        return f"So says the model. No recorded kernel ran this program; {NOT_ASKED}"
    older, newer = (len(seen.scenario.run(policy).compare(seen)) for policy in PAIR)
    how = "your own" if live_wanted() else "recorded"
    verb = "differs" if older == 1 else "differ"
    told = f"Linux {seen.kernel}, {how}: {_steps(older)} {verb} from {PAIR[0].name}, {newer} from {PAIR[1].name}."
    like = PAIR[0].name if older < newer else PAIR[1].name if newer < older else "neither more than the other"
    return f"{told} Here it behaves like {like}."


def _missed(newer: Timeline) -> str:
    if not any(_copies_large(result) for result in newer):
        return (
            "They part over one thing only: a write to a page of a large folio that is mapped read-only and not marked "
            "exclusive. No such write is here."
        )
    return "linux-6.8 reuses such a page only when the folio has one reference left. How would it come to that?"


def _copies_large(result: Result) -> bool:
    return any(check.what == "!folio_test_large" and not check.outcome for f in result.faults for check in f.checks)


mine = Program(**words("mine"), judge=judged_under(PAIR[1], _parts_them), worked=lambda: Scenario.load("one-page-left"))
