"""Questions of ``05_exclusive_reuse``: ``from anonfolio.exercises import exclusive_reuse as q``."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..draw.picture import Picture
from ..kernel.pagetable import PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from ..kernel.policy import LINUX_6_9, LINUX_6_15, RFC_V2, Policy
from ..kernel.record import COW_COPY, NO_FAULT, REUSE, Fault
from ..lesson.quiz import Case, Cases, Choice, Function, Mistake, Number, Pages
from ..machine.invariants import INVARIANTS, Invariant, Violation
from ..machine.machine import Machine
from ..program.scenario import Scenario, Timeline

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


marked = Pages(
    name="q.marked",
    prompt="All 16 pages are written, then mprotect makes all of them read-only. Which are marked exclusive now?",
    truth=lambda: _marked(PROTECTED),
    because="It is {truth}. mprotect changes entries. The mark is the page's, and nobody else has come to map it.",
    hints=(
        "The mark says how many map the page. Did that change?",
        "The right to write is in the entry; the mark is in `struct page`.",
    ),
    mistakes=(
        Mistake((), '"Writable = exclusive" is wrong. A page may be exclusive and read-only; only not the reverse.'),
    ),
)


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

_GONE = {
    "a": "no fault: the child is gone, and mprotect made the entries writable again",
    "b": "copy: the page is maybe shared",
    "c": "reuse of page 3 alone",
    "d": "reuse of all 16 pages",
}
_LETTERS = {(NO_FAULT, 0): "a", (COW_COPY, 1): "b", (REUSE, 1): "c", (REUSE, 16): "d"}


def _again(policy: Policy) -> str:
    faults = protect.run(policy)[AGAIN].faults
    return _LETTERS[(faults[-1].path, len(faults[-1].pages)) if faults else (NO_FAULT, 0)]


gone = Choice(
    name="q.gone",
    prompt="Fork, the child exits without a write, mprotect to read-only and back. Then page 3 is written (Linux 6.15 "
    "and later).",
    options=_GONE,
    truth=lambda: _again(LINUX_6_15),
    because="mprotect found no mark, so the entries stayed read-only and the write faults. The fault then looks, finds "
    "nobody else, marks this one page and makes it writable.",
    hints=("Who could have given the mark back?", "Not marked means: the kernel has to look. What does it find?"),
    mistakes=(
        Mistake(
            "a",
            "Fork took the mark. The exit lowers counts and gives no mark back; without it mprotect leaves an entry "
            "read-only.",
        ),
        Mistake(
            lambda: _again(LINUX_6_9),
            '"Maybe shared = shared" is wrong: it says that the kernel has to look. Only 6.9 to 6.14 never look, when '
            "the folio is large.",
        ),
        Mistake(lambda: _again(RFC_V2), "That is RFC v2, a proposal that was never merged."),
    ),
)

# --- how far --------------------------------------------------------------------------------------------------------

everything = Scenario.load("child-exits-parent-writes-all")
EXITED = 17
"""The step of `everything` in which the child exits; the parent's writes come after it."""


def _faults_of(policy: Policy) -> int:
    return sum(len(result.faults) for result in everything.run(policy).results[EXITED + 1 :])


def _faults_recorded() -> int:
    return sum(len(step["faults"]) for step in everything.recorded("6.18").steps[EXITED + 1 :])


faults = Number(
    name="q.faults",
    prompt="The child is gone, all 16 pages are the parent's alone, and it writes every one. How many faults "
    "(Linux 6.15 and later)?",
    unit="faults",
    truth=_faults_recorded,
    because="Each fault asks about the whole folio, and makes one page writable. Read from a recording of Linux 6.18.",
    hints=("The question is about the folio. What is the answer applied to?",),
    mistakes=(
        Mistake(lambda: _faults_of(RFC_V2), "One fault for all of them is what RFC v2 proposed; it was never merged."),
        Mistake(0, "The exit changes no entry of the parent: they are read-only until a fault."),
    ),
)

marked_half = Scenario.parse("""
# A read pin marks pages and leaves them read-only; then a fork takes the mark from the upper half.
scenario marked-half
pages 16
write 0 0..15
fork 0
exit 1
gup 0 4
madvise 0 0 8 wipeonfork
fork 0
madvise 0 0 8 keeponfork
write 0 2 102
""")

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


def last_fault(scenario: Scenario, policy: Policy = LINUX_6_15) -> Fault:
    """The last fault of a scenario."""
    return scenario.run(policy).faults()[-1]


# --- six walks through the tree -------------------------------------------------------------------------------------

_DECIDERS = {
    "PageAnonExclusive": "exclusive",
    "folio_large_mapcount > 1": "last page",
    "folio_test_large_maybe_mapped_shared": "shared",
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
    return Case(story, lambda: _decider(scenario), wrong, lambda: Picture.of(scenario.run(LINUX_6_15)))


walk = Cases(
    name="q.walk",
    prompt="All 16 pages are written first. Which check decides the last write (Linux 6.15 and later)? Each answer is "
    "right once.",
    answers={
        "no fault": (),
        **{short: (what.lower(),) for what, short in _DECIDERS.items()},
    },
    hints=(
        "Go down the tree: the first check whose answer ends the walk decides.",
        "The mark first; then the size of the folio; then what the folio counts, never what this page counts.",
    ),
    cases={
        "a": _case(
            "mprotect to read-only and back; write page 2",
            "mprotect 0 0 16 1\nmprotect 0 0 16 3\nwrite 0 2 102",
            {"exclusive": "The mark it was; but mprotect asked for it, and made the entry writable at once."},
        ),
        "b": _case(
            "fork; the child exits; a short pin for reading on page 4; write page 4",
            "fork 0\nexit 1\ngup 0 4\nwrite 0 4 104",
            {
                "no fault": "A pin for reading marks the page and leaves the entry read-only.",
                "counts": "That decided the pin's own fault, which set the mark. The write finds it.",
            },
        ),
        "c": _case(
            "fork; the child exits; vmsplice takes a plain reference to page 3; write page 4",
            "fork 0\nexit 1\nref 0 3 0\nwrite 0 4 104",
            {
                "shared": "Nobody else maps it. The pipe holds a reference, no mapping.",
                "one reference": "That is asked of a folio of one page.",
            },
        ),
        "d": _case(
            "pages 0 to 14 are unmapped; fork; the child exits; write page 15",
            "munmap 0 0 15\nfork 0\nexit 1\nwrite 0 15 115",
            {
                "counts": "One mapping and one reference: they agree. But something is asked before that.",
                "one reference": "Only one is left, but the folio still has 16 pages, and 15 of them are waste.",
            },
        ),
        "e": _case(
            "fork; the child unmaps pages 8 to 15, the parent 0 to 7; the parent writes page 9",
            "fork 0\nmunmap 1 8 8\nmunmap 0 0 8\nwrite 0 9 109",
            {
                "exclusive": "Page 9 is mapped once, but mapped once is not marked.",
                "counts": "8 + 8 mappings, 16 references: they agree, but two processes have them.",
            },
        ),
        "f": _case(
            "no size is enabled; fork; the child exits; write page 3",
            "fork 0\nexit 1\nwrite 0 3 103",
            {
                "counts": "That is asked of a large folio; here each page is a folio of its own.",
                "last page": "That is asked of a large folio; here each page is a folio of its own.",
            },
            orders="",
        ),
    },
)  # fmt: skip

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


def _library_says(page: Met) -> str:
    return {REUSE: "reuse", COW_COPY: "copy"}[page.program.end(LINUX_6_15, frames=_FRAMES).faults[-1].path]


def _says(reuse: bool) -> str:
    return "reuse" if reuse else "copy"


def _mark_only(page: Met) -> str:
    return _says(page.exclusive)


def _mapped_once(page: Met) -> str:
    return _says(page.exclusive or page.mapped == 1)


def _as_6_8(page: Met) -> str:
    return _says(page.exclusive or page.references == 1)


def _as_6_9(page: Met) -> str:
    return _says(page.exclusive or (page.order == 0 and page.references == 1))


def _no_mark(page: Met) -> str:
    return decide(Met(False, page.mapped, page.order, page.mappings, page.references, page.maybe_shared, page.program))


def _no_last_page(page: Met) -> str:
    return _says(page.exclusive or (not page.maybe_shared and page.mappings == page.references and _one(page)))


def _one(page: Met) -> bool:
    return page.order > 0 or page.references == 1


def _no_references(page: Met) -> str:
    return "reuse" if page.order and page.mappings > 1 and not page.maybe_shared else decide(page)


def _no_slots(page: Met) -> str:
    return "reuse" if page.order and page.mappings == page.references > 1 else decide(page)


def _all_large(page: Met) -> str:
    return _says(page.exclusive or (page.mappings > 1 and not page.maybe_shared and page.mappings == page.references))


decided = Function(
    name="q.decided",
    prompt='Write `decide(page)` as Linux 6.15 decides: "reuse" or "copy". `page` is mapped read-only and was written. '
    "Of the page: `page.exclusive`, and `page.mapped`, how many entries map it. Of its folio: `page.order`, "
    "`page.mappings` of all its pages together, `page.references`, and `page.maybe_shared` (False for a folio of one "
    "page). Not all of them are needed.",
    truth=_library_says,
    case=_random_case,
    worked=decide,
    picture=lambda page: Picture.of(page.program.run(LINUX_6_15)),
    count=200,
    hints=(
        "The order of the tree: the mark, then large or small.",
        "A folio of one page has one question, a large one has three.",
        "Large: more than one mapping, not maybe shared, as many mappings as references. How often this page is "
        "mapped is not asked.",
    ),
    wrong={
        '"Maybe shared = shared": without the mark the kernel has to look, and may find nobody.': _mark_only,
        "Mapped once is not exclusive: the question is about the folio, and about every reference to it.": _mapped_once,
        "That is 6.8's rule: one reference, whatever the size.": _as_6_8,
        "That is 6.9's rule: a page of a large folio is never reused without the mark.": _as_6_9,
        "A marked page is reused without further questions, whatever is counted.": _no_mark,
        "That reuses the last page of a large folio, and the rest of it stays allocated for nothing.": _no_last_page,
        "That forgets references that are no mappings: a pin, or a pipe that still has the page.": _no_references,
        "That forgets the other processes: their mappings and references agree as well.": _no_slots,
        "A folio of one page always has its last page mapped; it is asked for its references alone.": _all_large,
    },
)
