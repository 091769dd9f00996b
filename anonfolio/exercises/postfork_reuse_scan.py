"""Questions of ``07_postfork_reuse_scan``: ``from anonfolio.exercises import postfork_reuse_scan as q``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..draw.drawing import xml
from ..draw.picture import Picture
from ..kernel.faults import WRITE, VmFault, wp_can_reuse_anon_folio
from ..kernel.pagetable import PTE_SPECIAL, PTE_WRITE
from ..kernel.policy import LINUX_6_3, LINUX_6_8, LINUX_6_9, LINUX_6_15, RFC_V2, Policy
from ..kernel.record import COW_COPY, NO_FAULT, REUSE, Fault
from ..lesson.quiz import (
    Case,
    Cases,
    Choice,
    Function,
    Number,
    Program,
    Verdict,
    but,
    in_a_row,
    judged_under,
    modelled,
    over,
)
from ..lesson.topics import asking
from ..lesson.words import Words
from ..machine.machine import Machine, Process
from ..machine.snapshot import FolioView, ProcessView
from ..program.random_programs import random_scenario
from ..program.scenario import Scenario, Timeline, do_step

words = Words(__file__)
more = asking("reuse")

FIVE = (LINUX_6_3, LINUX_6_8, LINUX_6_9, RFC_V2, LINUX_6_15)
"""One policy for each answer to "is this page mine alone?"."""

PAGES = 16
EXITED = 17
"""The step of `gone` in which the child exits."""

gone = Scenario.load("child-exits-parent-writes-all")
third = Scenario.load("third-process-alone")
hole = Scenario.load("hole-defeats-the-scan")
daemon = Scenario.parse("""
# A shell forks, its child forks, both exit: the daemon that is left is alone, and no slot names it.
scenario daemon
pages 16
write 0 0..15
fork 0
fork 1
exit 0
exit 1
write 2 5 205
""")
piped = Scenario.parse("""
# The child puts page 3 into a pipe and unmaps everything; the pipe keeps the frame.
scenario piped
pages 16
write 0 0..15
fork 0
ref 1 3 0
munmap 1 0 16
write 0 3 103
""")


# --- who is alone? --------------------------------------------------------------------------------------------------


def own_mappings(process: Process, folio: int) -> int:
    """How many of the folio's pages this process maps, wherever in its address space."""
    mm = process.mm
    frames = process.machine.memory.frames_of(folio)
    mapped = (mm.pte > 0) & (mm.pte & PTE_SPECIAL == 0)
    return int(np.count_nonzero(mapped & (mm.pfn >= frames.start) & (mm.pfn < frames.stop)))


def alone(process: Process, page: int) -> bool:
    """The truth that every kernel is after: is each reference of the page's folio one of this process's entries?"""
    memory = process.machine.memory
    folio = int(memory.folio_of[process.mm.pfn[page]])
    return int(memory.refcount[folio]) == own_mappings(process, folio)


def says_alone(policy: Policy, process: Process, page: int) -> bool:
    """What a policy's test answers for a page as it is now; nothing changes. The page is mapped and has a folio."""
    mm = process.mm
    vma = mm.find_vma(page)
    if vma is None:
        raise ValueError(f"process {process.number} maps nothing at page {page}")
    vmf = VmFault.at(process.machine, mm, vma, page, WRITE)._replace(policy=policy)
    vmf.effect.old_folio = int(process.machine.memory.folio_of[mm.pfn[page]])
    return len(wp_can_reuse_anon_folio(vmf)) > 0


def _may_ask(process: Process, page: int) -> bool:
    """Whether a write would come to the question: a read-only page of a large folio, mapped by PTE, not exclusive."""
    mm, memory = process.mm, process.machine.memory
    if page >= len(mm.pte) or not mm.pte[page] or mm.pte[page] & (PTE_SPECIAL | PTE_WRITE) or mm.is_huge(page):
        return False
    pfn = mm.pfn[page]
    return memory.is_large(int(memory.folio_of[pfn])) and not memory.anon_exclusive[pfn]


# --- tables ---------------------------------------------------------------------------------------------------------


def told(step: Iterable[Any]) -> str:
    """A step as one writes it."""
    return " ".join(map(str, step))


def _cell(process: ProcessView, page: int) -> tuple[bool, int]:
    for mapping in process.mappings:
        if mapping.start <= page < mapping.end:
            at = page - mapping.start
            return bool(mapping.writable[at]), int(mapping.pfn[at])
    raise ValueError(f"process {process.number} maps nothing at page {page}")


def seen(kernel: str = "6.18", page: int = 0) -> str:
    """A page of the parent in `gone`, step by step: what the model knows, then what a kernel let one see."""
    lines = [f"{'':14}{'the model:':31}Linux {kernel}:"]
    lines.append(f"{'after':14}{'mapped':8}{'exclusive':11}{'writable':12}{'bit 56':8}page faults")
    recorded = gone.recorded(kernel).steps
    for number, result in list(enumerate(gone.run(LINUX_6_15)))[PAGES - 1 : EXITED + 2]:
        writable, pfn = _cell(result.snapshot.processes[0], page)
        folio = result.snapshot.folio_at(pfn)
        assert folio is not None
        at = pfn - folio.head
        lines.append(
            f"{told(result.step):14}{f'{folio.mapcount[at]}x':8}{_yes(folio.anon_exclusive[at]):11}{_yes(writable):12}"
            f"{recorded[number]['view']['0'][page][3]:<8}{len(recorded[number]['faults'])}"
        )
    return "\n".join(lines)


def _yes(value: object) -> str:
    return "yes" if value else "no"


def asked(scenario: Scenario, step: int, policies: Sequence[Policy] = FIVE) -> str:
    """What settled one write under each policy: the kernel's question, what it saw, what came of it."""
    lines = [f"{'':12}{'asked last':42}{'saw':28}so"]
    for policy in policies:
        fault = scenario.run(policy)[step].faults[-1]
        check = fault.decided_by
        assert check is not None
        lines.append(f"{policy.name:12}{check.what:42}{check.saw:28}{_so(fault)}")
    return "\n".join(lines)


def _so(fault: Fault) -> str:
    verb = {REUSE: "reuses", COW_COPY: "copies"}.get(fault.path, fault.path)
    return f"{verb} {len(fault.pages)}"


@dataclass(frozen=True)
class Answer:
    """One policy's row of `Answers`: each write in a letter, and what it all cost."""

    policy: str
    letters: str
    faults: int
    copied: int
    scanned: int
    held: int
    unmapped: int


LETTERS = {COW_COPY: "C", REUSE: "R", NO_FAULT: "·"}
WORDS = {"C": "copy", "R": "reuse", "·": "no fault"}
_TINTS = {"C": "rgba(213,94,0,.35)", "R": "rgba(0,114,178,.30)"}
_COLUMNS = ("faults", "pages copied", "PTEs scanned", "pages held", "mapped by nobody")


@dataclass(frozen=True)
class Answers:
    """Several policies under one program: a letter for each write after a step, and the cost of these writes.

    Text in a terminal, a table in a notebook; the letters say what the colours say.
    """

    pages: tuple[int, ...]
    rows: tuple[Answer, ...]

    def __repr__(self) -> str:
        width = max(len(self.pages), 6)
        heads = ("faults", "copied", "scanned", "held", "unmapped")
        lines = [f"{'':12}{'writes':{width + 2}}" + "".join(f"{head:>9}" for head in heads)]
        for row in self.rows:
            costs = (row.faults, row.copied, row.scanned, row.held, row.unmapped)
            lines.append(f"{row.policy:12}{row.letters:{width + 2}}" + "".join(f"{cost:9,}" for cost in costs))
        return "\n".join([*lines, f"[{', '.join(f'{letter} {word}' for letter, word in WORDS.items())}]"])

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="{_LETTER}">{page}</th>' for page in self.pages) + "".join(
            f"<th>{column}</th>" for column in _COLUMNS
        )
        body = ""
        for row in self.rows:
            costs = (row.faults, row.copied, row.scanned, row.held, row.unmapped)
            body += f'<tr><th style="{_NAME}">{xml(row.policy)}</th>'
            body += "".join(_letter(letter) for letter in row.letters)
            body += "".join(f'<td style="text-align: right">{cost:,}</td>' for cost in costs) + "</tr>"
        return _html_table(head, body, WORDS)


_NAME = "text-align: left; white-space: nowrap"
_LETTER = "text-align: center; padding: 2px 5px; min-width: 1.2em"


def _letter(letter: str) -> str:
    tint = f"; background: {_TINTS[letter]}" if letter in _TINTS else ""
    return f'<td style="{_LETTER}; font-weight: 600{tint}">{letter}</td>'


def _html_table(head: str, body: str, key: Mapping[str, str]) -> str:
    words = ", ".join(f"<b>{letter}</b> {word}" for letter, word in key.items())
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table><p>{words}</p>"


def answers(scenario: Scenario, since: int, policies: Sequence[Policy] = FIVE) -> Answers:
    """Run a scenario under several policies; letters and costs are those of the steps after the first `since`."""
    pages = tuple(step[2] for step in scenario.steps[since:] if step[0] == "write")
    return Answers(pages, tuple(_answer(scenario, policy, since) for policy in policies))


def _answer(scenario: Scenario, policy: Policy, since: int) -> Answer:
    machine = scenario.but(steps=scenario.steps[:since]).end(policy)
    before = machine.counters.copy()
    paths = []
    for step in scenario.steps[since:]:
        do_step(machine, step, scenario.first_vpn)
        if step[0] == "write":
            paths.append(machine.faults[-1].path if machine.faults else NO_FAULT)
    letters = "".join(LETTERS.get(path, "?") for path in paths)
    faults = sum(path != NO_FAULT for path in paths)
    copied, scanned = machine.counters.copied - before.copied, machine.counters.scanned - before.scanned
    after = machine.snapshot()
    return Answer(policy.name, letters, faults, copied, scanned, after.held_pages, after.waste_pages)


# --- the slots of 6.15 ----------------------------------------------------------------------------------------------


def slots(scenario: Scenario) -> str:
    """The first folio's counts and slots after each step; of several writes in a row the first and the last."""
    lines = [f"{'after':18}{'mappings':>9}{'references':>12}  {'in a slot':18}{'in none':10}shared bit"]
    timeline = scenario.run(LINUX_6_15)
    head = timeline[0].snapshot.folios[0].head
    for number, result in enumerate(timeline):
        folio = result.snapshot.folio_at(head)
        if not _ends_a_run(timeline, number):
            continue
        if folio is None:
            lines.append(f"{told(result.step):18}{'the folio is free':>21}")
            continue
        tracked = {number for number, _ in folio.mm_ids}
        others = [process for process in result.snapshot.processes if process.number not in tracked]
        rest = [f"P{process.number}: {count}" for process in others if (count := _maps(process, folio))]
        told_slots = ", ".join(f"P{process}: {count}" for process, count in folio.mm_ids)
        lines.append(
            f"{told(result.step):18}{folio.large_mapcount:9}{folio.refcount:12}  {told_slots or '-':18}"
            f"{', '.join(rest) or '-':10}{'set' if folio.maybe_mapped_shared else 'clear'}"
        )
    return "\n".join(lines)


def slot_panel(timeline: Timeline) -> list[str]:
    """For a stepper, the first folio's slots at every moment, in a few lines."""
    head = timeline[0].snapshot.folios[0].head
    return [
        "no folio yet",
        *(_slots_now(result.snapshot.folio_at(head), result.snapshot.processes) for result in timeline),
    ]


def _slots_now(folio: FolioView | None, processes: Sequence[ProcessView]) -> str:
    if folio is None:
        return "folio A is free"
    held = [f"P{process}: {count} mappings" for process, count in folio.mm_ids] + ["free"] * 2
    tracked = [process for process, _ in folio.mm_ids]
    rest = [f"P{process.number}" for process in processes if process.number not in tracked and _maps(process, folio)]
    return "\n".join(
        [
            f"slot     {held[0]}", f"slot     {held[1]}", f"no slot  {', '.join(rest) or '-'}",
            f"all      {folio.large_mapcount} mappings", f"shared   {'yes' if folio.maybe_mapped_shared else 'no'}",
        ]
    )  # fmt: skip


def _ends_a_run(timeline: Timeline, number: int) -> bool:
    """Whether a step is no write, or the last of several writes, or the first after something else happened."""
    ops = [result.step[0] for result in timeline]
    if ops[number] != "write" or number + 1 == len(ops) or ops[number + 1] != "write":
        return True
    return number > 0 and ops[number - 1] != "write"


def _maps(process: ProcessView, folio: FolioView) -> int:
    frames = range(folio.head, folio.head + folio.pages)
    return sum(
        int(np.count_nonzero(view.present & ~view.zero & (view.pfn >= frames.start) & (view.pfn < frames.stop)))
        for view in process.mappings
    )


@dataclass(frozen=True)
class Survivors:
    """Of all programs up to a length in which one process is left alone: how often 6.15 knows it, by process."""

    steps: int
    programs: int
    known: Counter[int]
    unknown: Counter[int]

    def __repr__(self) -> str:
        lines = [f"{self.programs:,} programs of up to {self.steps} forks and exits", "left alone   known   unknown"]
        for process in sorted(self.known | self.unknown):
            lines.append(f"process {process:<5}{self.known[process]:5,}{self.unknown[process]:10,}")
        return "\n".join(lines)


def survivors(steps: int) -> Survivors:
    """Every program of forks and exits after one folio was written: who is left alone, and does 6.15 see it?"""
    start = Scenario.parse("pages 4\norders 2\nwrite 0 0 1").end(LINUX_6_15, frames=16)
    known, unknown = Counter[int](), Counter[int]()
    programs = 0
    machines = [start]
    for _ in range(steps):
        machines = [machine for before in machines for machine in _one_step_on(before)]
        programs += len(machines)
        for machine in machines:
            live = machine.live()
            if len(live) == 1 and _may_ask(live[0], 0):
                count = known if says_alone(LINUX_6_15, live[0], 0) else unknown
                count[live[0].number] += 1
    return Survivors(steps, programs, known, unknown)


def _one_step_on(machine: Machine) -> Iterator[Machine]:
    for process in machine.live():
        for op in ("fork", "exit"):
            twin = machine.copy()
            do_step(twin, (op, process.number))
            yield twin


# --- the rules against the truth ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """How often each rule was right about the same pages: per policy (mappings if alone, else 0; says alone?)."""

    programs: int
    counts: Mapping[str, Counter[tuple[int, bool]]]

    def __repr__(self) -> str:
        lines = [f"{'':12}{'alone:':>8}{'':22}{'not alone:':>12}"]
        lines.append(f"{'':12}{'reuse':>8}{'copy':>8}{'copy, 1 left':>14}{'copy':>12}{'reuse':>8}")
        for policy, count in self.counts.items():
            cells = (
                _total(count, lambda own, says: own > 0 and says),
                _total(count, lambda own, says: own > 1 and not says),
                _total(count, lambda own, says: own == 1 and not says),
                _total(count, lambda own, says: own == 0 and not says),
                _total(count, lambda own, says: own == 0 and says),
            )
            lines.append(f"{policy:12}{cells[0]:8,}{cells[1]:8,}{cells[2]:14,}{cells[3]:12,}{cells[4]:8,}")
        return "\n".join(lines)


def _total(count: Counter[tuple[int, bool]], which: Callable[[int, bool], bool]) -> int:
    return sum(times for (own, says), times in count.items() if which(own, says))


def tally(programs: int, kind: str = "mixed", policies: Sequence[Policy] = FIVE) -> Tally:
    """Ask every rule before each write of random programs that comes to the question, and compare with the truth.

    The programs run under 6.15; the rules are asked about the same state, and what they answer changes nothing.
    """
    counts: dict[str, Counter[tuple[int, bool]]] = {policy.name: Counter() for policy in policies}
    for seed in range(programs):
        scenario = random_scenario(seed, kind, sizes=(2, 3, 4))
        machine = scenario.machine(LINUX_6_15)
        for step in scenario.steps:
            if step[0] == "write":
                _ask_all(machine.process(step[1]), scenario.first_vpn + step[2], policies, counts)
            do_step(machine, step, scenario.first_vpn)
    return Tally(programs, counts)


def _ask_all(
    process: Process, page: int, policies: Sequence[Policy], counts: dict[str, Counter[tuple[int, bool]]]
) -> None:
    if not _may_ask(process, page):
        return
    folio = int(process.machine.memory.folio_of[process.mm.pfn[page]])
    own = own_mappings(process, folio) if alone(process, page) else 0
    for policy in policies:
        counts[policy.name][own, says_alone(policy, process, page)] += 1


# --- ten moments, five policies, two kernels -----------------------------------------------------------------------

MOMENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "the child is gone": ("child-exits-parent-writes-all", ("write", 0, 0, 100)),
    "one page was dropped": ("hole-defeats-the-scan", ("write", 0, 5, 105)),
    "half is read-only": ("mapping-split-inside-folio", ("write", 0, 2, 102)),
    "half was moved away": ("half-moved-away", ("write", 0, 1, 101)),
    "one page is left": ("one-page-left", ("write", 0, 15, 115)),
    "third process, alone": ("third-process-alone", ("write", 2, 0, 100)),
    "its child, alone": ("grandchild-takes-the-slot", ("write", 3, 2, 102)),
    "each keeps a half": ("each-keeps-a-half", ("write", 0, 9, 109)),
    "a pipe has a page": ("reference-blocks-reuse", ("write", 0, 4, 104)),
    "a child is alive": ("two-children", ("write", 0, 1, 101)),
}
"""What the moment is, the scenario that has it, and the write that asks."""


def programs() -> str:
    """The programs of `MOMENTS` up to the write that asks; all begin with ``write 0 0..15``, which the head says."""
    lines = [f"{'':23}write 0 0..15, then"]
    for moment, (name, asks) in MOMENTS.items():
        steps = Scenario.load(name).steps
        lines.append(f"{moment:23}{' · '.join(map(told, steps[PAGES : steps.index(asks) + 1]))}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Matrix:
    """Per moment whether the writer is alone with the folio, and a letter for each policy and each recorded kernel."""

    policies: tuple[str, ...]
    kernels: tuple[str, ...]
    rows: Mapping[str, tuple[bool, str]]

    def __repr__(self) -> str:
        heads = "".join(f"{name:9}" for name in (*self.policies, *self.kernels)).rstrip()
        lines = [f"{'':23}{'':7}{'model:':{9 * len(self.policies)}}recorded:", f"{'':23}{'alone':7}{heads}"]
        for moment, (is_alone, letters) in self.rows.items():
            lines.append(f"{moment:23}{_yes(is_alone):7}" + "".join(f"{letter:9}" for letter in letters).rstrip())
        return "\n".join([*lines, "[R reuse, C copy]"])

    def _repr_html_(self) -> str:
        heads = ["alone?", *self.policies, *(f"{kernel}, recorded" for kernel in self.kernels)]
        head = "".join(f'<th style="{_LETTER}">{xml(name)}</th>' for name in heads)
        body = ""
        for moment, (is_alone, letters) in self.rows.items():
            body += f'<tr><th style="{_NAME}">{xml(moment)}</th><td style="{_LETTER}">{_yes(is_alone)}</td>'
            body += "".join(map(_letter, letters)) + "</tr>"
        return _html_table(head, body, {"R": "reuse", "C": "copy"})


def matrix(policies: Sequence[Policy] = FIVE, kernels: Sequence[str] = ("6.12", "6.18")) -> Matrix:
    """What each policy does at each of `MOMENTS`, and what kernels did in their recordings."""
    rows = {}
    for moment, (name, step) in MOMENTS.items():
        scenario = Scenario.load(name)
        at = scenario.steps.index(step)
        before = scenario.but(steps=scenario.steps[:at]).end(LINUX_6_15)
        letters = [_letter_of(scenario.run(policy), at) for policy in policies]
        letters += [_letter_recorded(scenario, at, kernel) for kernel in kernels]
        rows[moment] = alone(before.process(step[1]), step[2]), "".join(letters)
    return Matrix(tuple(policy.name.removeprefix("linux-") for policy in policies), tuple(kernels), rows)


def _letter_of(timeline: Timeline, at: int) -> str:
    return LETTERS[timeline[at].faults[-1].path if timeline[at].faults else NO_FAULT]


def _letter_recorded(scenario: Scenario, at: int, kernel: str) -> str:
    """As the page tables tell: no fault, or the page left its large folio, or it stayed where it was."""
    steps = scenario.recorded(kernel).steps
    if not steps[at]["faults"]:
        return LETTERS[NO_FAULT]
    return LETTERS[COW_COPY if _left_its_folio(scenario, steps, at) else REUSE]


def _left_its_folio(scenario: Scenario, steps: Sequence[Mapping[str, Any]], at: int) -> bool:
    """Whether a recorded write took its page out of a large folio: it had one before and is small after."""
    _, process, page, *_ = scenario.steps[at]
    before, after = (steps[where]["view"].get(str(process)) for where in (at - 1, at))
    return bool(before and isinstance(before[page], list) and before[page][2] > 1 and after[page][2] == 1)


# --- predictions ----------------------------------------------------------------------------------------------------


def _after_exit() -> str:
    after = gone.run(LINUX_6_15)[EXITED].snapshot
    folio = after.folios[0]
    if folio.mapcount[5] > 1:
        return "d"
    writable, _ = _cell(after.processes[0], 5)
    if writable:
        return "a"
    return "b" if folio.anon_exclusive[5] else "c"


freed = Choice(**words("freed"), truth=_after_exit)


def copied_by(kernel: str, scenario: Scenario, process: int) -> int:
    """How many pages a recorded kernel copied out of large folios for a process."""
    steps = scenario.recorded(kernel).steps
    writes = (at for at, step in enumerate(scenario.steps) if at and step[:2] == ("write", process))
    return sum(_left_its_folio(scenario, steps, at) for at in writes)


copies = Number(
    **words("copies", linux_6_8=lambda: _answer(gone, LINUX_6_8, EXITED + 1).copied),
    truth=lambda: copied_by("6.12", gone, 0),
)

alone_at_last = Number(**words("alone_at_last"), truth=lambda: copied_by("6.18", third, 2))


# --- exercise: write the scan ---------------------------------------------------------------------------------------


def scan(page: int, mapping: range, folio: set[int], references: int) -> range:
    """The pages that a write on `page` may make writable."""
    start = stop = page
    while start - 1 in mapping and start - 1 in folio:
        start -= 1
    while stop in mapping and stop in folio:
        stop += 1
    if stop - start == references:
        return range(start, stop)
    return range(0)


def _scenario(page: int, mapping: range, folio: set[int], references: int) -> Scenario:
    """A program that makes this state: a child keeps as many pages as there are references too many."""
    everything = set(range(PAGES))
    others = references - len(folio)
    steps: list[tuple[Any, ...]] = [("write", 0, at, at + 1) for at in range(PAGES)]
    steps.append(("fork", 0))
    if not others:
        steps.append(("exit", 1))
    elif others < PAGES:
        steps.append(("munmap", 1, others, PAGES - others))
    steps += over(everything - folio, "madvise", "dontneed")
    steps += over(everything - set(mapping), "mprotect", 1)
    steps.append(("write", 0, page, 201))
    return Scenario(PAGES, tuple(steps), name="the-scan")


def _library_says(machine: Machine, **_: Any) -> range:
    fault = machine.faults[-1]
    return fault.pages if fault.path == REUSE else range(0)


def _random_case(source: random.Random) -> Mapping[str, Any]:
    everything = range(PAGES)
    mapping = source.choice((range(16), range(16), range(16), range(16), range(8), range(8, 16), range(3, 16)))
    holes = set(source.choice(((), (), (), everything[12:], everything[:4], everything[1:])))
    holes |= set(source.sample(everything, source.choice((0, 0, 0, 1, 2))))
    folio = set(everything) - holes
    pages = sorted(folio & set(mapping))
    if not pages:
        return _random_case(source)
    others = source.choice((0, 0, 0, 0, 1, len(holes), source.randrange(1, PAGES)))
    return {"page": source.choice(pages), "mapping": mapping, "folio": folio, "references": len(folio) + others}


def _run(page: int, mapping: range, folio: set[int]) -> range:
    """The run that the scan finds, whatever the references say."""
    return next(run for run in in_a_row(folio.intersection(mapping)) if page in run)


def _if(reuses: bool, pages: range) -> range:
    return pages if reuses else range(0)


scanned = Function(
    **words(
        "scanned",
        counts_everywhere=lambda references, **at: _if(len(at["folio"]) == references, _run(**at)),
        any_mapping=but(scan, mapping=range(PAGES)),
        over_holes=lambda page, mapping, folio, references: _if(len(folio & set(mapping)) == references, mapping),
        pre_check_only=lambda references, **at: _if(references <= PAGES, _run(**at)),
        never_asks=lambda references, **at: _run(**at),
        one_page=lambda page, **at: _if(len(scan(page, **at)) > 0, range(page, page + 1)),
        refcount_one=lambda page, references, **_: _if(references == 1, range(page, page + 1)),
        whole_folio=lambda **at: _if(len(scan(**at)) == PAGES, range(PAGES)),
        never=lambda **_: range(0),
    ),
    **modelled(_scenario, RFC_V2, _library_says),
    case=_random_case,
    worked=scan,
    count=200,
)


# --- exercise: blind mm_id ------------------------------------------------------------------------------------------


def _blinds(timeline: Timeline) -> Verdict:
    program = timeline.scenario
    forks = Counter(step[1] for step in program.steps if step[0] == "fork")
    if forks and max(forks.values()) > 1:
        twice = max(forks, key=lambda process: forks[process])
        return Verdict(False, (f"Process {twice} forks {forks[twice]} times.",), head="Each may fork once.")
    machine = program.end(LINUX_6_15)
    picture = timeline.show()
    left = list(_left_on_large_folios(machine))
    for process, folio in left:
        own, memory = own_mappings(process, folio), machine.memory
        if own == int(memory.refcount[folio]) and own > 1 and memory.maybe_mapped_shared[folio]:
            lines = (
                f"All {own} references of its folio are its own, no slot names it, and the shared bit is set. "
                "RFC v2's scan, which was never merged, needs no slot.",
            )
            return Verdict(True, lines, picture, f"Right: process {process.number} is alone and will copy every page.")
    return Verdict(False, (_why_not(machine, left),), picture, "Nobody is blind here.")


def _left_on_large_folios(machine: Machine) -> Iterator[tuple[Process, int]]:
    """Every live process with every large folio that it maps."""
    for folio in map(int, machine.memory.live_folios()):
        if machine.memory.is_large(folio):
            for process in machine.live():
                if own_mappings(process, folio):
                    yield process, folio


def _why_not(machine: Machine, left: Sequence[tuple[Process, int]]) -> str:
    memory = machine.memory
    if not left:
        return "At the end nobody maps a large folio."
    for process, folio in left:
        own = own_mappings(process, folio)
        if own != int(memory.refcount[folio]):
            continue
        if own == 1:
            return "One page is left of that folio. Its copy is no mistake: it lets the folio go."
        pages = memory.frames_of(folio)
        if memory.anon_exclusive[pages].all():
            return f"Process {process.number} has the mark on every page: nobody ever shared that folio."
        return (
            f"Process {process.number} is alone, and known: a slot names it. Was one free when it was forked? "
            "Then it took that one."
        )
    users = sorted({process.number for process, _ in left})
    return f"Processes {', '.join(map(str, users))} map the folio at the end: it is shared, so a copy is right."


blind = Program(
    **words("blind"), judge=judged_under(LINUX_6_15, _blinds), worked=lambda: daemon, may=("write", "fork", "exit")
)


# --- exercise: six moments ------------------------------------------------------------------------------------------

REUSED, NEEDED, NOT_NEEDED = "reuse", "copy, needed", "copy, not needed"


def _moment(scenario: Scenario) -> str:
    """What 6.15 does at the last step, and whether anybody else had the page."""
    end = scenario.end(LINUX_6_15)
    if end.faults[-1].path == REUSE:
        return REUSED
    before = scenario.but(steps=scenario.steps[:-1]).end(LINUX_6_15)
    _, number, page, _ = scenario.steps[-1]
    pfn = int(before.process(number).mm.pfn[page])
    held = any(pfn in pin.frames for process in before.live() for pin in process.pins().values())
    return NEEDED if held or int(before.memory.mapcount[pfn]) > 1 else NOT_NEEDED


def _case(story: str, steps: str, wrong: Mapping[str, str]) -> Case:
    scenario = Scenario.parse(f"pages 16\nwrite 0 0..15\n{steps}")
    return Case(story, lambda: _moment(scenario), wrong, lambda: Picture.of(scenario.run(LINUX_6_15)))


moments = Cases(**words("moments"), cases=words.cases("moments", _case))
