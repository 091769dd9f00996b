"""Questions of ``06_exclusive_pitfalls``: ``from anonfolio.exercises import exclusive_pitfalls as q``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..draw.picture import Picture
from ..kernel.policy import LINUX_6_15, RFC_V2_FIXED, Policy
from ..lesson.quiz import (
    Case,
    Cases,
    Choice,
    Function,
    Number,
    Pages,
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
from ..machine.invariants import INVARIANTS
from ..machine.invariants import check as check_invariants
from ..machine.machine import Machine
from ..program.scenario import Scenario, Timeline
from ..witness.recording import DATA_DIR, read_recording

words = Words(__file__)
more = asking("pin")

# --- three kernels that never existed -------------------------------------------------------------------------------

_wide = LINUX_6_15.but(
    about="Never existed: 6.15, but a copy is as large as the source folio.", copy_extent="source_order"
)
ash = _wide.but(name="ash", copy_requires_maybe_shared=False)
birch = _wide.but(name="birch", copy_requires_maybe_shared=False, copy_requires_ro=True)
cedar = _wide.but(name="cedar")

KERNELS = (ash, birch, cedar)


def both_sides(machine: Machine) -> list[tuple[int, int, int]]:
    """Per page that is pinned and that its process has not unmapped: the byte the process sees, and the device's."""
    content = machine.memory.content
    return [
        (page, int(content[process.mm.pfn[page]]), int(content[pfn]))
        for process in machine.live()
        for pin in process.pins().values()
        for page, pfn in pin.expected.items()
        if pin.pinned
    ]


def lost_bytes(machine: Machine) -> list[tuple[int, int, int]]:
    """Of `both_sides`, where process and device see different bytes in a page that is still promised to both."""
    return [(page, process, device) for page, process, device in both_sides(machine) if process != device]


def loses(policy: Policy, program: Scenario) -> bool:
    """Whether a program ends with `lost_bytes` under a policy."""
    return bool(lost_bytes(program.end(policy)))


def hunt(program: str | Scenario) -> str:
    """A program under each of the three: what its faults did, and both sides of every pinned page at the end."""
    scenario = program if isinstance(program, Scenario) else Scenario.parse(program)
    lines = []
    for policy in KERNELS:
        run = scenario.run(policy)
        lines.append(f"{policy.name:6} faults: {' '.join(fault.code for fault in run.faults())}")
        lines += [
            f"       step {number} is refused: {result.why}" for number, result in enumerate(run, 1) if not result.ok
        ]
        for page, process, device in both_sides(scenario.end(policy)):
            lost = "" if process == device else "  <- lost"
            lines.append(f"       page {page}: the process sees {process}, the device {device}{lost}")
    return "\n".join(lines)


# --- predictions ----------------------------------------------------------------------------------------------------

lost_on_5_10 = read_recording(DATA_DIR / "5.10" / "lost-write-5.10.223.json.gz")
"""Three programs that Debian 11's kernel ran, in which a page is copied away from whoever holds it."""

_RAN = lost_on_5_10.programs[0]
moment = _RAN.scenario
"""A pinned buffer is read-only for a moment, then it is written."""

device = Number(**words("device"), truth=lambda: _RAN.steps[7]["value"])

half_wiped = Scenario.load("wipe-on-fork")
FORKED = 17
"""The step of `half_wiped` that forks."""


def _exclusive_after_fork() -> list[int]:
    at = half_wiped.run(LINUX_6_15)[FORKED].snapshot
    marks = at.folios[0].anon_exclusive
    return [page for page in range(half_wiped.pages) if marks[page]]


half = Pages(**words("half"), truth=_exclusive_after_fork)

beside = Scenario.parse("""
# A page of the exclusive half is pinned, then a page of the shared half is written, then the device writes.
scenario beside
pages 16
write 0 0..15
madvise 0 8 8 wipeonfork
fork 0
madvise 0 8 8 keeponfork
pin 0 10 1 0
write 0 2 102
dma_write 0 0 0 221
read 0 10
""")

read_pin = Scenario.parse("""
# A pin for reading, taken when the child has gone: exclusive, and still read-only.
scenario read-pin
pages 16
write 0 0..15
fork 0
exit 1
pin_ro 0 10 1 0
write 0 2 102
write 0 10 110
""")

_CULPRITS = {
    "a": ("ash",),
    "b": ("birch",),
    "c": ("cedar",),
    "d": ("ash", "birch"),
    "e": ("ash", "cedar"),
    "f": ("birch", "cedar"),
    "g": ("ash", "birch", "cedar"),
}


def _culprits() -> str:
    found = tuple(policy.name for policy in KERNELS if loses(policy, beside) or loses(policy, read_pin))
    return next(letter for letter, names in _CULPRITS.items() if names == found)


culprits = Choice(**words("culprits"), truth=_culprits)

# --- write a program ------------------------------------------------------------------------------------------------


_ONLY_ASH = "Under ash it does. birch did not copy a block in which a PTE is writable; which exclusive page is not?"


def _loses_a_byte(timeline: Timeline) -> Verdict:
    program = timeline.scenario
    machine = program.end(birch)
    lost = lost_bytes(machine)
    if not lost:
        return Verdict(False, (_missed(program, machine),), timeline.show(), "No byte is lost under birch.")
    page, process, device = lost[0]
    elsewhere = "it is the same" if loses(LINUX_6_15, program) else "the same program is harmless"
    told = f"And nobody was told. Under linux-6.15 {elsewhere}."
    head = f"Right: in page {page} the process sees {process}, the device {device}."
    return Verdict(True, (told,), timeline.show(), head)


def _missed(program: Scenario, machine: Machine) -> str:
    if check_invariants(machine, [INVARIANTS["pinned_page_stays"]]):
        return "Nearly: the page moved away from its pin. Now let the process or the device write, so that it shows."
    if loses(ash, program):
        return _ONLY_ASH
    if not both_sides(machine):
        return "At the end no page is both pinned and still mapped, so there is nothing to lose."
    return "The pinned page is where it was pinned; `q.program.hint()` helps."


program = Program(**words("program"), judge=judged_under(birch, _loses_a_byte), worked=lambda: read_pin)

# --- who kept the promise? ------------------------------------------------------------------------------------------

KEPT, GIVEN_UP, BROKEN, NEVER_MADE = "kept", "given up", "broken", "never made"


def _promise(policy: str, scenario: Scenario) -> str:
    machine = scenario.end(policy)
    pins = [pin for pin in machine.process(0).pins().values() if pin.pinned]
    if not pins:
        return NEVER_MADE
    if check_invariants(machine, [INVARIANTS["pinned_page_stays"]]):
        return BROKEN
    return KEPT if all(pin.expected for pin in pins) else GIVEN_UP


def _case(story: str, steps: str, wrong: Mapping[str, str], on: str = LINUX_6_15.name) -> Case:
    scenario = Scenario.parse(f"pages 16\nwrite 0 0..15\n{steps}")
    return Case(story, lambda: _promise(on, scenario), wrong, lambda: Picture.of(scenario.run(on)))


promise = Cases(**words("promise"), cases=words.cases("promise", _case))

# --- the repaired range as a function -------------------------------------------------------------------------------


def copy_range(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    """The pages that a write on `page` may copy in one go."""
    for order in (4, 3, 2):
        start = page >> order << order
        block = range(start, start + (1 << order))
        inside = block.start >= mapping.start and block.stop <= mapping.stop
        if inside and folio.issuperset(block) and exclusive.isdisjoint(block):
            return block
    return range(page, page + 1)


PAGES = 16


def _scenario(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> Scenario:
    """A program that makes this state: the pages out of `folio` are dropped, and every other one written anew."""
    everything = set(range(PAGES))
    replaced = everything - folio
    steps: list[tuple[Any, ...]] = [("write", 0, at, at + 1) for at in range(PAGES)]
    steps += over(replaced, "madvise", "dontneed")
    steps += [("write", 0, at, at + 101) for at in sorted(replaced) if at % 2]
    steps += over(exclusive, "madvise", "wipeonfork")
    steps.append(("fork", 0))
    steps += over(exclusive, "madvise", "keeponfork")
    steps += over(everything - set(mapping), "mprotect", 1)
    steps.append(("write", 0, page, 201))
    return Scenario(PAGES, tuple(steps), name="repaired-range")


def _random_case(source: random.Random) -> Mapping[str, Any]:
    mapping = source.choice((range(16), range(16), range(16), range(3, 16), range(14), range(4, 16), range(8)))
    block = range(16)
    exclusive: set[int] = set(source.choice(((), (), (), (), block[8:], block[:8], block[4:8], block[12:])))
    exclusive |= set(source.sample(block, source.choice((0, 0, 0, 0, 1, 2))))
    folio = set(block) - set(source.sample(block, source.choice((0, 0, 0, 0, 1, 2))))
    pages = sorted(folio & set(mapping) - exclusive)
    if not pages:
        return _random_case(source)
    return {"page": source.choice(pages), "mapping": mapping, "folio": folio, "exclusive": exclusive & folio}


def _may(mapping: range, folio: set[int], exclusive: set[int]) -> set[int]:
    return folio.intersection(mapping) - exclusive


def _widest_run(page: int, **state: Any) -> range:
    return next(run for run in in_a_row(_may(**state)) if page in run)


def _all_or_nothing(page: int, **state: Any) -> range:
    whole = copy_range(page, **state)
    return whole if len(whole) == PAGES else range(page, page + 1)


def _pairs_too(page: int, **state: Any) -> range:
    found = copy_range(page, **state)
    pair = range(page & ~1, (page & ~1) + 2)
    return pair if len(found) == 1 and _may(**state).issuperset(pair) else found


copied = Function(
    **words(
        "copied",
        as_posted=but(copy_range, exclusive=set()),
        any_mapping=but(copy_range, mapping=range(PAGES)),
        any_folio=but(copy_range, folio=set(range(PAGES))),
        one_page=lambda page, **_: range(page, page + 1),
        widest_run=_widest_run,
        all_or_nothing=_all_or_nothing,
        pairs_too=_pairs_too,
    ),
    **modelled(_scenario, RFC_V2_FIXED, lambda machine, **_: machine.faults[-1].pages),
    case=_random_case,
    worked=copy_range,
    count=200,
)

# --- to be searched on from ------------------------------------------------------------------------------------------

begun = Scenario.parse("""
# A folio of four pages, the lower half wiped on fork: half exclusive, half maybe shared.
scenario begun
pages 4
orders 2
write 0 0 1
madvise 0 0 2 wipeonfork
fork 0
""")
