"""Questions of ``06_exclusive_pitfalls``: ``from anonfolio.exercises import exclusive_pitfalls as q``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from ..draw.picture import Picture
from ..kernel.policy import LINUX_6_15, RFC_V2, RFC_V2_FIXED, Policy
from ..lesson.quiz import Case, Cases, Choice, Function, Mistake, Number, Pages, Program, Verdict, refused
from ..machine.invariants import INVARIANTS
from ..machine.invariants import check as check_invariants
from ..machine.machine import Machine
from ..program.scenario import Scenario

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

device = Number(
    name="q.device",
    prompt="Page 10 holds byte 11 and is pinned for a device. The process forks and writes byte 110 to page 10; the "
    "child lives on. Which byte does the device read (Linux 6.15 and later)?",
    truth=lambda: handed.run(LINUX_6_15)[-1].value,
    because="The process kept its frame: fork copied the pinned folio for the child at once, and left the parent's "
    "pages writable and exclusive. So the write took no fault.",
    hints=("Somebody gets a copy. Who, and when?", "The device cannot be told that the page has moved."),
    mistakes=(
        Mistake(
            11,
            "That is plain copy-on-write: the writer gets a new frame, the device keeps the old one. It could happen "
            "before 5.9; since then fork copies a pinned page for the child.",
        ),
        Mistake(0, "The frame is not given back: a pin is a reference, too."),
    ),
)

half_wiped = Scenario.load("wipe-on-fork")
FORKED = 17
"""The step of `half_wiped` that forks."""


def _exclusive_after_fork() -> list[int]:
    at = half_wiped.run(LINUX_6_15)[FORKED].snapshot
    marks = at.folios[0].anon_exclusive
    return [page for page in range(half_wiped.pages) if marks[page]]


half = Pages(
    name="q.half",
    prompt="A folio backs pages 0 to 15, all exclusive. MADV_WIPEONFORK is given for the upper half, then the process "
    "forks. Which pages are still exclusive?",
    truth=_exclusive_after_fork,
    because="The child maps nothing of {truth}, so there fork had no reason to take the mark, nor the right to write.",
    hints=(
        "The mark is one per page, not one per folio.",
        "Fork takes the mark from the pages that it shares. Which pages does it share here?",
    ),
    mistakes=(
        Mistake(range(16), "Fork does take the mark from the pages that the child maps, too."),
        Mistake(range(8), "The other way round: those are the pages that the child maps, too."),
        Mistake((), "The mark belongs to a page, not to the folio: what is not shared keeps it."),
    ),
)

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


culprits = Choice(
    name="q.culprits",
    prompt="Which of the three can lose a byte?",
    options={letter: " and ".join(names) for letter, names in _CULPRITS.items()},
    truth=_culprits,
    because="For both there is a program; for the third, the search below finds none within its bound.",
    hints=("Run a program in which half of a folio is shared, and half is not.", "Not every pin is for writing."),
    mistakes=(
        Mistake("a", "That one does; but another one has only half of the repair."),
        Mistake("b", "That one does, with a pin for reading; the most careless one is not among yours."),
        Mistake("c", "That is the one that asks the right question before it copies."),
        Mistake("e", "One of these asks the right question before it copies."),
        Mistake("f", "One of these asks the right question before it copies; and one loses a byte more easily."),
        Mistake("g", "One of them asks the right question before it copies."),
    ),
)

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


program = Program(
    name="q.program",
    prompt="Write a program in which `birch` loses a byte: at the end, process and device see different bytes in a "
    "pinned page that the process has not unmapped.",
    judge=_loses_a_byte,
    worked=lambda: read_pin,
    hints=(
        "birch refuses a block in which any PTE is writable. So you need a page that is exclusive and read-only.",
        "`pin_ro` pins for reading: it makes the page exclusive and leaves the PTE read-only. With the child still "
        "there it copies the page into a folio of its own; when the child has gone, it stays where it is.",
        "Write all; fork; the child exits; `pin_ro` page 10; write page 2, which copies the block; then write page 10.",
    ),
)

# --- who kept the promise? ------------------------------------------------------------------------------------------

KEPT, GIVEN_UP, BROKEN, NEVER_MADE = "kept", "given up", "broken", "never made"


def _promise(policy: Policy, scenario: Scenario) -> str:
    machine = scenario.end(policy)
    pins = [pin for pin in machine.process(0).pins().values() if pin.pinned]
    if not pins:
        return NEVER_MADE
    if check_invariants(machine, [INVARIANTS["pinned_page_stays"]]):
        return BROKEN
    return KEPT if all(pin.expected for pin in pins) else GIVEN_UP


def _case(story: str, steps: str, wrong: Mapping[str, str], on: Policy = LINUX_6_15) -> Case:
    scenario = Scenario.parse(f"pages 16\nwrite 0 0..15\n{steps}")
    return Case(story, lambda: _promise(on, scenario), wrong, lambda: Picture.of(scenario.run(on)))


_HALF = "madvise 0 8 8 wipeonfork\nfork 0\nmadvise 0 8 8 keeponfork\npin 0 10 1 0\n"
_CHOSEN = "The process asked for it itself, and the device still has its frame: nobody was deceived."

promise = Cases(
    name="q.promise",
    prompt="All 16 pages are written first. What became of the promise at the end? "
    "Linux 6.15 and later unless another policy is named.",
    answers={KEPT: (), GIVEN_UP: ("given up by the process",), BROKEN: (), NEVER_MADE: ()},
    hints=(
        "Ask two things: does the PTE still map the frame that the device has? If not, who changed it?",
        "A plain reference (vmsplice) keeps a frame alive; only a pin promises that the PTE stays.",
    ),
    cases={
        "a": _case("pin page 10; munmap page 10", "pin 0 10 1 0\nmunmap 0 10 1", {BROKEN: _CHOSEN}),
        "b": _case(
            "pin page 10; fork; write page 10",
            "pin 0 10 1 0\nfork 0\nwrite 0 10 110",
            {BROKEN: "Fork copied the folio for the child; the parent kept its frames."},
        ),
        "c": _case(
            "half wiped on fork, pin page 10, write page 2",
            f"{_HALF}write 0 2 102",
            {BROKEN: "6.15 copies page 2 and no other."},
        ),
        "d": _case(
            "the same as c under rfc-v2 (never merged)",
            f"{_HALF}write 0 2 102",
            {KEPT: "The copy took the block, page 10 with it.", GIVEN_UP: "The process unmapped nothing."},
            on=RFC_V2,
        ),
        "e": _case(
            "pin page 10; MADV_DONTNEED pages 8 to 11; write page 10",
            "pin 0 10 1 0\nmadvise 0 8 4 dontneed\nwrite 0 10 110",
            {BROKEN: _CHOSEN, KEPT: "MADV_DONTNEED drops the entry; the write then gets a fresh frame."},
        ),
        "f": _case(
            "fork; vmsplice page 3 into a pipe (a reference, FOLL_GET); write page 3",
            "fork 0\nref 0 3 0\nwrite 0 3 103",
            {BROKEN: "The pipe keeps the old bytes, which is what vmsplice allows: a reference is not a pin."},
        ),
    },
)  # fmt: skip

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
    name="q.copied",
    prompt="Write `copy_range(page, mapping, folio, exclusive)`: the pages that a write on `page` may copy in one go, "
    "as a range. `page` must be copied. `mapping` is the VMA, a range; `folio` the set of pages that map, in step, the "
    "same folio of 16 as `page` does; `exclusive` the set of pages marked exclusive. Blocks have 16, 8 or 4 pages, "
    "aligned; else it is one page.",
    truth=_library_says,
    case=_random_case,
    worked=copy_range,
    picture=_drawn,
    count=200,
    hints=(
        "Go through the orders 4, 3, 2. The first whose block passes every test wins.",
        "The block of order n around a page is `range(page >> n << n, (page >> n << n) + (1 << n))`.",
        "Three tests: all of it lies in `mapping`, all of it is in `folio`, and none of it is in `exclusive`.",
    ),
    wrong={
        "That is RFC v2's rule as posted: it never asks whether a page is exclusive.": _as_posted,
        "That forgets the edges of the mapping.": _any_mapping,
        "That takes pages that map another folio, or nothing.": _any_folio,
        "That is safe, and what every released kernel does; but larger blocks are allowed here.": _one_page,
        "That is a run, not a block: a folio has 2ⁿ pages and starts at a multiple of its size.": _widest_run,
        "That gives up when the block of 16 does not fit; the smaller ones are tried, too.": _all_or_nothing,
        "Two pages, order 1, is the one size that anonymous folios never have.": _pairs_too,
    },
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
