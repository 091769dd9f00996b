"""Questions of ``13_laboratory``: ``from anonfolio.exercises import laboratory as q``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

from ..kernel.policy import LINUX_6_15, Policy
from ..kernel.record import COW_COPY, REUSE
from ..kernel.rules import Ask, Folio
from ..lesson.quiz import Choice, Function, Number, Program, Verdict, but, refused
from ..lesson.topics import asking
from ..lesson.words import Words
from ..program.scenario import Scenario, Timeline
from ..program.search import Counterexample, counterexample
from ..report.prices import FORKS, Bill, under_forks
from ..witness.suites import judged, suites_named

words = Words(__file__)
more = asking("reuse", "copy")


def nobody_else_maps_it(folio: Folio, ask: Ask) -> bool:
    """The rule that the notebook begins with: mappings are counted, references are not."""
    return ask("nobody else maps it", folio.mine == folio.mappings, yes="nobody else maps a page of it")


def walks_the_rmap(folio: Folio, ask: Ask) -> bool:
    """The rule repaired: no other reference, either."""
    if not ask("nobody else maps it", folio.mine == folio.mappings, no="another process maps it"):
        return False
    return ask("mappings == references", folio.mappings == folio.refcount, yes="all of it is this process's")


LEAKY = LINUX_6_15.but(name="leaky", large_reuse=nobody_else_maps_it)
WALK = LINUX_6_15.but(name="walk", large_reuse=walks_the_rmap)

# --- the leak -------------------------------------------------------------------------------------------------------

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
WROTE = len(piped.steps)


def in_the_pipe(policy: Policy) -> int:
    """The byte that the child's pipe holds at the end."""
    machine = piped.end(policy)
    (frame,) = machine.process(1).pins()["reference", 0].frames
    return int(machine.memory.content[frame])


leaked = Number(**words("leaked", as_it_was=lambda: in_the_pipe(LINUX_6_15)), truth=lambda: in_the_pipe(LEAKY))

shared = Scenario(4, (("write", 0, 0, 1), ("fork", 0)), (2,), name="shared")
"""Four pages in a folio of 16 KiB, shared with a child: what the search goes on from."""
HOLDERS = ("write", "munmap", "ref")


@cache
def found() -> Counterexample:
    """The shortest program after `shared` that breaks a promise under the first rule."""
    answer = counterexample(LEAKY, start=shared, steps=5, operations=HOLDERS)
    assert isinstance(answer, Counterexample)
    return answer


shortest = Number(**words("shortest"), truth=lambda: found().steps)

SELFTESTS = (
    "vmsplice() + unmap in child ... with PTE-mapped THP (64 kB)",
    "vmsplice() before fork(), unmap in parent after fork() ... with PTE-mapped THP (64 kB)",
    "vmsplice() + unmap in parent after fork() ... with PTE-mapped THP (64 kB)",
    "R/O gup of a page",
    "Basic COW after fork() ... with PTE-mapped THP (64 kB)",
    "Basic COW after fork() with mprotect() optimization ... with PTE-mapped THP (64 kB)",
)


def selftests(policy: Policy) -> str:
    """Some of the kernel's own tests (cow.c) of folios of 64 KiB, on the model."""
    return "\n".join(_told(policy))


def _told(policy: Policy) -> Iterator[str]:
    (suite,) = suites_named(["cow.c"])
    for verdict in judged((case for case in suite.cases if case.name in SELFTESTS), policy):
        yield f"{verdict.case.name}\n  {verdict.problems[0] if verdict.problems else 'passes'}"


# --- exercise: the decision ----------------------------------------------------------------------------------------


def decides(mine: int, mappings: int, references: int) -> bool:
    return mine == mappings and mappings == references


def _facts(source: random.Random) -> dict[str, Any]:
    mappings = source.randint(1, 20)
    mine = mappings if source.random() < 0.6 else source.randint(1, mappings)
    return {"mine": mine, "mappings": mappings, "references": mappings + source.choice((0, 0, 1, 3))}


decided = Function(
    **words(
        "decided",
        no_references=lambda mine, mappings, **_: mine == mappings,
        last_reference=lambda references, **_: references == 1,
        no_mappings=lambda mine, references, **_: mine == references or references == 1,
        others=but(decides, mine=lambda mine: mine + 1),
        never=lambda **_: False,
        always=lambda **_: True,
    ),
    truth=lambda mine, mappings, references: references == mappings == mine,
    case=_facts,
    worked=decides,
)  # fmt: skip

# --- exercise: where they part --------------------------------------------------------------------------------------


def _parts(program: Scenario) -> Verdict:
    """Whether 6.15 copies where the walk finds that the process is alone."""
    plain, walk = program.run(LINUX_6_15), program.run(WALK)
    if wrong := refused(plain):
        return wrong
    at = next((at for at in range(len(plain)) if _paths(plain, at) == [COW_COPY] and _paths(walk, at) == [REUSE]), None)
    if at is not None:
        return Verdict(True, (f"Step {at + 1}: 6.15 copies, a walk of the reverse map reuses.",), walk.show(at))
    copies = sum(_paths(plain, at) == [COW_COPY] for at in range(len(plain)))
    return Verdict(False, (f"{copies} writes copy under 6.15, and under the walk the same writes copy.",), plain.show())


def _paths(timeline: Timeline, at: int) -> list[str]:
    return [fault.path for fault in timeline[at].faults]


parts = Program(**words("parts"), judge=_parts, worked=lambda: Scenario.load("third-process-alone"))

# --- the price ------------------------------------------------------------------------------------------------------

_OF = {"a": "snapshot", "b": "helper", "c": "workers"}
_bill = cache(under_forks)


def bills(*policies: Policy) -> str:
    """What the three workloads with forks cost under policies: faults, pages copied, modelled ms, MiB held."""
    lines = [f"{'':22}{'faults':>8}{'copied':>8}{'ms':>8}{'MiB held':>10}"]
    for name in FORKS:
        lines += [f"{name:10}{policy.name:12}{_row(_bill(name, policy))}" for policy in policies]
    return "\n".join(lines)


def _row(bill: Bill) -> str:
    return f"{bill.faults:8,}{bill.copied:8,}{bill.time_ms:8.2f}{bill.held_pages / 256:10.1f}"


def _saves() -> str:
    saving = [letter for letter, name in _OF.items() if _bill(name, WALK).copied < _bill(name, LINUX_6_15).copied]
    return saving[0] if len(saving) == 1 else "d"


saves = Choice(**words("saves"), truth=_saves)
