"""Questions of ``06_exclusive_pitfalls``: ``from anonfolio.exercises import exclusive_pitfalls as q``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from ..draw.picture import Picture
from ..kernel.policy import LINUX_6_15, RFC_V2_FIXED, Policy
from ..lesson.quiz import Case, Cases, Choice, Function, Number, Pages, Program, Verdict, refused
from ..lesson.words import Words
from ..machine.invariants import INVARIANTS
from ..machine.invariants import check as check_invariants
from ..machine.machine import Machine
from ..program.scenario import Scenario

words = Words(__file__)

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


def loses(policy: Policy, program: Scenario) -> bool:
    """Whether process and device see different bytes in a page that is still promised to both."""
    return any(process != device for _, process, device in both_sides(program.end(policy)))


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

handed = Scenario.parse("""
pages 16
write 0 0..15
pin 0 10 1 0
fork 0
write 0 10 110
dma_read 0 0 0
""")

device = Number(**words("device"), truth=lambda: handed.run(LINUX_6_15)[-1].value)

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


def _loses_a_byte(program: Scenario) -> Verdict:
    timeline = program.run(birch)
    impossible = refused(timeline)
    if impossible:
        return impossible
    machine = program.end(birch)
    lost = [side for side in both_sides(machine) if side[1] != side[2]]
    if not lost:
        return Verdict(False, _missed(program, machine), timeline.show(), "No byte is lost under birch.")
    page, process, device = lost[0]
    elsewhere = "it is the same" if loses(LINUX_6_15, program) else "the same program is harmless"
    told = f"And nobody was told. Under linux-6.15 {elsewhere}."
    head = f"Right: in page {page} the process sees {process}, the device {device}."
    return Verdict(True, (told,), timeline.show(), head)


def _missed(program: Scenario, machine: Machine) -> tuple[str, ...]:
    if check_invariants(machine, [INVARIANTS["pinned_page_stays"]]):
        return ("Nearly: the page moved away from its pin. Now let the process or the device write, so that it shows.",)
    if loses(ash, program):
        return (_ONLY_ASH,)
    if not both_sides(machine):
        return ("At the end no page is both pinned and still mapped, so there is nothing to lose.",)
    return ("The pinned page is where it was pinned; `q.program.hint()` helps.",)


program = Program(**words("program"), judge=_loses_a_byte, worked=lambda: read_pin)

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


def _as_runs(pages: Iterable[int]) -> list[tuple[int, int]]:
    """Pages as (first, how many)."""
    found: list[tuple[int, int]] = []
    for page in sorted(pages):
        if found and page == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((page, 1))
    return found


def _scenario(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> Scenario:
    """A program that makes this state: the pages out of `folio` are dropped, and every other one written anew."""
    everything = set(range(PAGES))
    replaced = everything - folio
    steps: list[tuple[Any, ...]] = [("write", 0, at, at + 1) for at in range(PAGES)]
    steps += [("madvise", 0, at, n, "dontneed") for at, n in _as_runs(replaced)]
    steps += [("write", 0, at, at + 101) for at in sorted(replaced) if at % 2]
    steps += [("madvise", 0, at, n, "wipeonfork") for at, n in _as_runs(exclusive)]
    steps.append(("fork", 0))
    steps += [("madvise", 0, at, n, "keeponfork") for at, n in _as_runs(exclusive)]
    steps += [("mprotect", 0, at, n, 1) for at, n in _as_runs(everything - set(mapping))]
    steps.append(("write", 0, page, 201))
    return Scenario(PAGES, tuple(steps), name="repaired-range")


def _library_says(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    return _scenario(page, mapping, folio, exclusive).end(RFC_V2_FIXED).faults[-1].pages


def _drawn(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> Picture:
    return Picture.of(_scenario(page, mapping, folio, exclusive).run(RFC_V2_FIXED))


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


def _as_posted(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    return copy_range(page, mapping, folio, set())


def _any_mapping(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    return copy_range(page, range(PAGES), folio, exclusive)


def _any_folio(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    return copy_range(page, mapping, set(range(PAGES)), exclusive)


def _one_page(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    return range(page, page + 1)


def _may(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> bool:
    return page in mapping and page in folio and page not in exclusive


def _widest_run(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    start = stop = page
    while _may(start - 1, mapping, folio, exclusive):
        start -= 1
    while _may(stop, mapping, folio, exclusive):
        stop += 1
    return range(start, stop)


def _all_or_nothing(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    whole = copy_range(page, mapping, folio, exclusive)
    return whole if len(whole) == PAGES else range(page, page + 1)


def _pairs_too(page: int, mapping: range, folio: set[int], exclusive: set[int]) -> range:
    pair = range(page & ~1, (page & ~1) + 2)
    found = copy_range(page, mapping, folio, exclusive)
    return pair if len(found) == 1 and all(_may(at, mapping, folio, exclusive) for at in pair) else found


copied = Function(
    **words(
        "copied",
        as_posted=_as_posted,
        any_mapping=_any_mapping,
        any_folio=_any_folio,
        one_page=_one_page,
        widest_run=_widest_run,
        all_or_nothing=_all_or_nothing,
        pairs_too=_pairs_too,
    ),
    truth=_library_says,
    case=_random_case,
    worked=copy_range,
    picture=_drawn,
    count=200,
)

# --- found by search ------------------------------------------------------------------------------------------------

six = Scenario.parse("""
# Found by search: the shortest program without an injected failure that breaks a promise of RFC v2 as posted.
scenario six-steps
pages 4
orders 2
write 0 0 1
madvise 0 0 2 wipeonfork
fork 0
madvise 0 2 2 wipeonfork
pin 0 0 1 0
write 0 2 1
dma_write 0 0 0 221
read 0 0
""")
