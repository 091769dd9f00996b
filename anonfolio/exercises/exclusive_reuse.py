"""Questions of ``05_exclusive_reuse``: ``from anonfolio.exercises import exclusive_reuse as q``."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..draw.picture import Picture
from ..kernel.pagetable import PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.policy import LINUX_6_9, LINUX_6_15, RFC_V2, Policy
from ..kernel.record import COW_COPY, NO_FAULT, REUSE, Fault
from ..kernel.rules import Ask, Folio, Reuse, mm_id, never, refcount_one, silently
from ..lesson.quiz import Case, Cases, Choice, Function, Number, Pages, but, modelled
from ..lesson.topics import asking
from ..lesson.words import Words
from ..machine.invariants import INVARIANTS, Invariant, Violation
from ..machine.machine import Machine
from ..program.scenario import Scenario, Timeline

words = Words(__file__)
more = asking("reuse")

_BITS = PTE_PRESENT | PTE_WRITE | PTE_SPECIAL
"""Of them, a page of a folio that is mapped read-only has the first alone."""

# --- the right to write, and the mark -------------------------------------------------------------------------------

protect = Scenario.load("protect-and-back")
"""Write-protected and back, with a fork and the child's exit in between."""

FILLED, PROTECTED, AGAIN = 15, 16, 23
"""Steps of `protect`: the last page is written, mprotect to read-only, the first write that faults."""


def table(timeline: Timeline, first: int = 0) -> str:
    """Per step how many pages process 0 may write, how many are marked exclusive, and what its faults did."""
    lines = [f"{'':22}{'writable':>8}{'exclusive':>11}"]
    for result in timeline.results[first:]:
        process = result.snapshot.processes[0]
        writable = sum(int(mapping.writable.sum()) for mapping in process.mappings)
        exclusive = sum(int(folio.anon_exclusive.sum()) for folio in result.snapshot.folios)
        faults = " ".join(fault.code for fault in result.faults)
        lines.append(f"{' '.join(map(str, result.step)):22}{writable:8}{exclusive:11}   {faults}".rstrip())
    return "\n".join(lines)


def _marked(step: int) -> list[int]:
    (folio,) = protect.run(LINUX_6_15)[step].snapshot.folios
    return [page for page in range(protect.pages) if folio.anon_exclusive[page]]


marked = Pages(**words("marked"), truth=lambda: _marked(PROTECTED))


def _exclusive_but_read_only(machine: Machine) -> Iterator[Violation]:
    for process in machine.live():
        mm = process.mm
        for vpn in np.flatnonzero((mm.pte & _BITS) == PTE_PRESENT).tolist():
            if machine.memory.anon_exclusive[mm.pfn[vpn]]:
                where = f"process {process.number} may not write page {vpn}, which is marked exclusive"
                yield Violation("exclusive_is_writable", where, process.number, vpn)


writable_is_exclusive = INVARIANTS["writable_is_exclusive"]
exclusive_is_writable = Invariant(
    "exclusive_is_writable",
    "No rule of the kernel: what one thinks who takes the two for one.",
    _exclusive_but_read_only,
)

_LETTERS = {(NO_FAULT, 0): "a", (COW_COPY, 1): "b", (REUSE, 1): "c", (REUSE, 16): "d"}


def _again(policy: Policy) -> str:
    faults = protect.run(policy)[AGAIN].faults
    return _LETTERS[(faults[-1].path, len(faults[-1].pages)) if faults else (NO_FAULT, 0)]


gone = Choice(
    **words("gone", linux_6_9=lambda: _again(LINUX_6_9), rfc_v2=lambda: _again(RFC_V2)),
    truth=lambda: _again(LINUX_6_15),
)

# --- how far --------------------------------------------------------------------------------------------------------

everything = Scenario.load("child-exits-parent-writes-all")
EXITED = 17
"""The step of `everything` in which the child exits; the parent's writes come after it."""


def _faults_of(policy: Policy) -> int:
    return sum(len(result.faults) for result in everything.run(policy).results[EXITED + 1 :])


def _faults_recorded() -> int:
    return sum(len(step["faults"]) for step in everything.recorded("6.18").steps[EXITED + 1 :])


faults = Number(**words("faults", rfc_v2=lambda: _faults_of(RFC_V2)), truth=_faults_recorded)

walks = Scenario.parse("""
# One program that comes to every end of the tree below the zero page.
scenario walks
pages 4
orders 2
write 0 0..3
fork 0
write 0 1 101
gup 0 2
write 0 2 102
exit 1
write 0 3 103
ref 0 0 0
write 0 0 100
fork 0
exit 2
write 0 3 113
write 0 1 111
""")
FORKED = 4
"""The step of `walks` that forks; every write from then on is answered by the tree."""


_THERE = {
    "untouched": "",
    "zero page": "read 0 3",
    "shared": "write 0 0..15\nfork 0",
    "alone, not marked": "write 0 0..15\nfork 0\nexit 1",
    "exclusive": "write 0 0..15",
    "exclusive, read-only": "write 0 0..15\nfork 0\nexit 1\ngup 0 3",
}
_COMES = {
    "read": "read 0 3", "write": "write 0 3 9", "short pin": "gup 0 3", "reference": "ref 0 3 0",
    "long pin": "pin 0 3 1 0", "long read pin": "pin_ro 0 3 1 0",
}  # fmt: skip


def who_faults(policy: Policy | str = LINUX_6_15) -> str:
    """By what is at a page, and who comes to it: the codes of the faults that this takes, on 16 pages and 64 KiB."""
    lines = [f"{'':22}" + "".join(f"{who:11}" for who in _COMES)]
    for there, before in _THERE.items():
        cells = []
        for comes in _COMES.values():
            faults = Scenario.parse(f"pages 16\norders 4\n{before}\n{comes}").run(policy)[-1].faults
            cells.append(" ".join(fault.code for fault in faults) or "-")
        lines.append(f"{there:22}" + "".join(f"{cell:11}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def last_fault(scenario: Scenario, policy: Policy = LINUX_6_15) -> Fault:
    """The last fault of a scenario."""
    return scenario.run(policy).faults()[-1]


# --- six walks through the tree -------------------------------------------------------------------------------------

_DECIDERS = {
    "PageAnonExclusive": "exclusive",
    "folio_large_mapcount > 1": "last page",
    "FOLIO_MM_IDS_SHARED_BITNUM": "shared",
    "folio_large_mapcount == folio_ref_count": "counts",
    "folio_ref_count == 1": "one reference",
}


def _decider(scenario: Scenario) -> str:
    faults = scenario.run(LINUX_6_15)[-1].faults
    if not faults:
        return "no fault"
    decided = faults[-1].decided_by
    assert decided is not None
    return _DECIDERS[decided.what]


def _case(story: str, steps: str, wrong: Mapping[str, str], orders: str = "4 3 2") -> Case:
    scenario = Scenario.parse(f"pages 16\norders {orders}\nwrite 0 0..15\n{steps}")
    return Case(
        story,
        lambda: _decider(scenario),
        wrong,
        lambda: Picture.of(scenario.run(LINUX_6_15)),
        lambda answer: _not_decided(scenario, answer),
    )


def _not_decided(scenario: Scenario, answer: str) -> str:
    """Where a question stands on the way to the one that decided."""
    faults = scenario.run(LINUX_6_15)[-1].faults
    if answer == "no fault":
        return "The entry is read-only, so the hardware stops the write."
    if not faults:
        return "Nothing is asked: the entry is writable."
    asked = [_DECIDERS.get(check.what) for check in faults[-1].checks]
    if answer in asked:
        return "That is asked, but its answer does not end the walk: another question follows."
    return "The walk never comes to that question: another answer ends it before, or the folio is of the other kind."


walk = Cases(**words("walk"), cases=words.cases("walk", _case))

# --- the decision as a function -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Met:
    """What a write meets: a page mapped read-only, its folio, and the program that led there (not shown).

    Attributes
    ----------
    exclusive : bool
        PageAnonExclusive of this page.
    mapped : int
        How many entries map this page.
    order : int
        Of its folio, which has ``1 << order`` pages.
    mappings, references : int
        Of the whole folio: entries that map a page of it, and its refcount.
    maybe_shared : bool
        Whether the folio's mm_id slots say that more than one process may map it; False for a folio of one page.
    """

    exclusive: bool
    mapped: int
    order: int
    mappings: int
    references: int
    maybe_shared: bool
    program: Scenario = field(repr=False, compare=False)


def decide(page: Met) -> str:
    """What a write does on Linux 6.15: "reuse" or "copy"."""
    if page.exclusive:
        return "reuse"
    if page.order == 0:
        return "reuse" if page.references == 1 else "copy"
    if page.mappings == 1 or page.maybe_shared:
        return "copy"
    return "reuse" if page.mappings == page.references else "copy"


_PAGES, _FRAMES = 8, 256


def _met(machine: Machine, number: int, page: int, program: Scenario) -> Met:
    memory = machine.memory
    pfn = int(machine.process(number).mm.pfn[page])
    folio = int(memory.folio_of[pfn])
    frames = memory.frames_of(folio)
    return Met(
        bool(memory.anon_exclusive[pfn]),
        int(memory.mapcount[pfn]),
        int(memory.order[folio]),
        int(memory.mapcount[frames.start : frames.stop].sum()),
        int(memory.refcount[folio]),
        bool(memory.is_large(folio) and memory.maybe_mapped_shared[folio]),
        program,
    )


def _random_step(source: random.Random, at: int, alive: list[int], born: int) -> tuple[Any, ...]:
    # Few pages, so that one step meets what another has done.
    who, page = source.choice(alive), source.choice((0, 3, 7))
    kinds = ["write", "gup", "gup", "ref", "ref", "dontneed", "fork", "fork"] + (["exit"] * 3 if len(alive) > 1 else [])
    match source.choice(kinds):
        case "write":
            return ("write", who, page, at + 100)
        case "gup":
            return ("gup", who, page)
        case "ref":
            return ("ref", who, page, at)
        case "dontneed":
            start, pages = source.choice(((0, 7), (1, 7), (1, 3), (4, 4), (5, 2)))
            return ("madvise", who, start, pages, "dontneed")
        case "exit":
            return ("exit", source.choice(alive[1:]))
    return ("fork", who) if born < 4 else ("write", who, page, at + 100)


def _random_program(source: random.Random) -> Scenario:
    steps: list[tuple[Any, ...]] = [("write", 0, page, page + 1) for page in range(_PAGES)]
    alive, born = [0], 1
    if source.random() < 0.3:
        steps += [("fork", 0), ("exit", 1), ("gup", 0, 3)]
        born = 2
    for at in range(source.randint(2, 8)):
        step = _random_step(source, at, alive, born)
        steps.append(step)
        if step[0] == "fork":
            alive.append(born)
            born += 1
        if step[0] == "exit":
            alive.remove(step[1])
    return Scenario(_PAGES, tuple(steps), orders=source.choice(((), (2,), (3,), (3, 2))))


def _random_case(source: random.Random) -> Mapping[str, Any]:
    """What a write meets somewhere in a random program; rare states first, else they would hardly come up."""
    while True:
        program = _random_program(source)
        machine = program.end(LINUX_6_15, frames=_FRAMES)
        met = [
            (_met(machine, process.number, page, program), process.number, page)
            for process in machine.live()
            for page in range(_PAGES)
            if process.mm.pte[page] & _BITS == PTE_PRESENT
        ]
        rare = [one for one in met if one[0].exclusive or one[0].mappings == 1 or not one[0].maybe_shared]
        if rare or (met and source.random() < 0.3):
            found, number, page = source.choice(rare or met)
            written = program.but(steps=(*program.steps, ("write", number, page, 201)))
            return {"page": replace(found, program=written)}


def _says(reuse: bool) -> str:
    return "reuse" if reuse else "copy"


def _by_rules(large: Reuse = mm_id, small: Reuse = refcount_one, ask: Ask = silently) -> Callable[[Met], str]:
    """What somebody says who asks one rule of large folios and one of small ones; `ask` may mishear an answer."""

    def says(page: Met) -> str:
        lazy = int, str, int, lambda: page.mapped
        folio = Folio(page.order, page.references, page.mappings, page.maybe_shared, *lazy, False)
        return _says(page.exclusive or (large if page.order else small)(folio, ask))

    return says


def _forgets(question: str, answer: bool) -> Callable[[Met], str]:
    """6.15's rule without one of its questions: as if that were always answered so."""

    def ask(what: str, outcome: bool, saw: str = "", **_: str) -> bool:
        return answer if what == question else outcome

    return _by_rules(ask=ask)


decided = Function(
    **words(
        "decided",
        mark_only=_by_rules(never, never),
        mapped_once=lambda page: _says(page.exclusive or page.mapped == 1),
        as_6_8=_by_rules(refcount_one),
        as_6_9=_by_rules(never),
        no_mark=but(decide, page=lambda page: replace(page, exclusive=False)),
        no_last_page=_forgets("folio_large_mapcount > 1", True),
        no_references=_forgets("folio_large_mapcount == folio_ref_count", True),
        no_slots=_forgets("FOLIO_MM_IDS_SHARED_BITNUM", False),
        all_large=_by_rules(mm_id, mm_id),
    ),
    **modelled(
        lambda page: page.program, LINUX_6_15, lambda machine, **_: _says(machine.faults[-1].path == REUSE),
        frames=_FRAMES,
    ),
    case=_random_case,
    worked=decide,
    count=200,
)  # fmt: skip
