"""Questions of ``03_fork_and_share``: ``from anonfolio.exercises import fork_and_share as q``."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..draw.picture import Picture
from ..kernel.policy import LINUX_6_15
from ..lesson.looking import Unreadable, shown
from ..lesson.quiz import GOES_ON, Case, Cases, Function, Note, Number, Pages, but, is_open, modelled, whole
from ..lesson.topics import asking
from ..lesson.words import Words
from ..machine.machine import Machine
from ..machine.snapshot import Snapshot
from ..program.scenario import Scenario
from ..witness.comparing import Recorded
from ..witness.recording import DATA_DIR, read_recording

words = Words(__file__)
more = asking("fork")


@cache
def recorded_program(file: str, number: int) -> Recorded:
    """One of the programs without a name in a recording."""
    return read_recording(DATA_DIR / f"{file}.json.gz").programs[number]


def frames(cells: list[Any]) -> set[tuple[int, int]]:
    """The frames that a recorded page table maps, each as (folio, page of the folio)."""
    return {(cell[0], cell[1]) for cell in cells if isinstance(cell, list)}


def mapped_once(cells: list[Any]) -> int:
    """How many pages of a recorded page table bit 56 says are mapped exactly once."""
    return sum(cell[3] for cell in cells if isinstance(cell, list))


def writable(at: Snapshot) -> set[int]:
    """The pages that process 0 can write without a fault."""
    return {
        vma.start + index
        for vma in at.processes[0].mappings
        for index, may_write in enumerate(vma.writable.tolist())
        if may_write
    }


# --- predictions ----------------------------------------------------------------------------------------------------

shared = Scenario.load("child-exits-parent-writes-all")
WRITTEN, FORK, EXIT, WRITE = 15, 16, 17, 18
"""Steps of `shared`: the last page is written, fork, the child exits, the parent writes page 0."""


def _held_after_fork() -> int:
    view = shared.recorded("6.18").steps[FORK]["view"]
    return len(frames(view["0"]) | frames(view["1"]))


held = Number(**words("held"), truth=_held_after_fork)

alone = Number(
    **words("alone"), truth=lambda: int(shared.run(LINUX_6_15)[EXIT].snapshot.folios[0].anon_exclusive.sum())
)

pinned = Scenario.load("fork-while-pinned")
PINNED_FORK = 17
"""The step of `pinned` that forks."""

pinned_small = Scenario.parse("""
# As fork-while-pinned, with half as many pages.
scenario fork-while-pinned-8-pages
pages 8
write 0 0..7
pin 0 4 1 0
fork 0
write 0 4 104
write 1 5 105
""")
SMALL_FORK = 9
"""The step of `pinned_small` that forks."""


def _copied_for_the_child() -> list[int]:
    view = pinned.recorded("6.18").steps[PINNED_FORK]["view"]
    parent = frames(view["0"])
    return [page for page, cell in enumerate(view["1"]) if isinstance(cell, list) and (cell[0], cell[1]) not in parent]


own = Pages(**words("own"), truth=_copied_for_the_child)

# --- what becomes of five kinds of memory ---------------------------------------------------------------------------

kinds = Scenario.parse("""
# Five kinds of memory, one fork; then the child reads one page of each.
scenario five-kinds
pages 16
orders 2
write 0 0..3
read 0 4
read 0 5
write 0 8..15
madvise 0 8 4 wipeonfork
madvise 0 12 4 dontfork
fork 0
read 1 0
read 1 4
read 1 6
read 1 8
read 1 12
""")
KINDS_FORK = 16
"""The step of `kinds` that forks."""

KINDS = {"written": 0, "only read": 4, "untouched": 6, "written, WIPEONFORK": 8, "written, DONTFORK": 12}
"""The kinds in `kinds`, and the page of each that the child reads."""

huge = Scenario.parse("pages 512\norders 9\nwrite 0 0 1\nfork 0")
huge_pinned = Scenario.parse("pages 512\norders 9\nwrite 0 0 1\npin 0 4 1 0\nfork 0")

# --- the counts after three forks -----------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True, repr=False)
class Counts(Cases):
    """Several small questions, each with a number for an answer: ``check(a=16, b=...)``."""

    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def check(self, **given: Any) -> Note:
        """Judge the numbers that are given; the first wrong one is shown."""
        if all(map(is_open, given.values())):
            note = self._asked(f"Not answered yet: put a number in place of each `...`, such as `a=7`. {GOES_ON}")
            return self._by_hand(note, "check")
        return super().check(**given)

    def _asked(self, *more: str) -> Note:
        return Note("ask", self.prompt, (*(f"- {letter}: {case.story}" for letter, case in self.cases.items()), *more))

    def _read(self, letter: str, answer: Any) -> str:
        if letter not in self.cases:
            raise Unreadable(f"there is no count {shown(letter)}; there are {', '.join(self.cases)}.")
        try:
            return str(whole(int(answer) if _digits(answer) else answer))
        except Unreadable as error:
            raise Unreadable(f"{letter}={error}") from None


def _digits(answer: Any) -> bool:
    """Whether it is a number as text: so it stands in files, and so browsers have it."""
    return isinstance(answer, str) and bool(re.fullmatch(r"-?\d{1,18}", answer))


THREE = """\
pages 16
write 0 0..15
madvise 0 8 8 dontfork
fork 0
madvise 0 8 8 dofork
fork 0
fork 1
exit 1
exit 2
exit 3
"""
"""Three forks: a child without the upper half, a child with all, a grandchild. Then all three exit."""

three = Scenario.parse(THREE)
FIRST, THIRD, GONE = 17, 20, 23
"""Steps of `three`: the first fork, the third, the last exit."""

LOW, HIGH = 3, 12
"""A page that every child gets, and one that the first does not."""


def _count(step: int, of: Callable[[Snapshot], int], story: str, wrong: Mapping[str, str]) -> Case:
    timeline = three.run(LINUX_6_15)
    return Case(story, lambda: str(of(timeline[step].snapshot)), wrong, lambda: Picture.of(timeline, step))


def _exclusive(at: Snapshot) -> int:
    return sum(int(folio.anon_exclusive.sum()) for folio in at.folios)


_COUNTED: dict[str, tuple[int, Callable[[Snapshot], int]]] = {
    "a": (FIRST, _exclusive),
    "b": (THIRD, _exclusive),
    "c": (THIRD, lambda at: int(at.folios[0].mapcount[LOW])),
    "d": (THIRD, lambda at: int(at.folios[0].mapcount[HIGH])),
    "e": (THIRD, lambda at: at.folios[0].refcount),
    "f": (THIRD, lambda at: at.held_pages),
    "g": (THIRD, lambda at: at.rss_pages),
    "h": (GONE, lambda at: int(at.folios[0].mapcount[LOW])),
    "i": (GONE, _exclusive),
    "j": (GONE, lambda at: len(writable(at))),
}
"""By letter: after which step what is counted."""

counts = Counts(**words("counts"), cases=words.cases("counts", _count, _COUNTED))

# --- fork as a function ---------------------------------------------------------------------------------------------

NO_MAPPING, NOTHING, ZERO, SAME, COPY = "no mapping", "nothing", "zero page", "same frame", "copy"
PAGES = 32
Maps = range | str | None


def child_gets(page: int, advice: str, written: bool, maps: Maps, exclusive: bool, pins: set[int]) -> str:
    """What the child has at a page, right after fork."""
    if advice == "dontfork":
        return "no mapping"
    if advice == "wipeonfork" or not written or maps is None:
        return "nothing"
    if isinstance(maps, str):
        return "zero page"
    folio_is_pinned = not pins.isdisjoint(maps)
    return "copy" if exclusive and folio_is_pinned else "same frame"


def _scenario(page: int, advice: str, written: bool, maps: Maps, exclusive: bool, pins: set[int]) -> Scenario:
    """A program that makes this state and forks. Pages that are to be pinned stay exclusive in the fork before."""
    steps: list[tuple[Any, ...]] = []
    if isinstance(maps, range):
        steps += [("write", 0, at, at + 1) for at in maps]
        if not exclusive:
            steps += [("madvise", 0, at, 1, "wipeonfork") for at in sorted(pins)]
            steps.append(("fork", 0))
            steps += [("madvise", 0, at, 1, "keeponfork") for at in sorted(pins)]
    elif maps == ZERO:
        steps.append(("read", 0, page))
    if written and not isinstance(maps, range):
        steps.append(("write", 0, PAGES - 1, PAGES))
    steps += [("pin", 0, at, 1, at) for at in sorted(pins)]
    if advice:
        steps.append(("madvise", 0, 0, PAGES, advice))
    orders = {1: (), 4: (2,), 16: (4,)}[len(maps) if isinstance(maps, range) else 16]
    return Scenario(PAGES, (*steps, ("fork", 0)), orders, name="what-the-child-gets")


def _in_words(machine: Machine, page: int, **_: Any) -> str:
    """What the last child has at a page, as the library says."""
    parent, child = machine.process(0).mm, machine.processes[-1].mm
    if child.find_vma(page) is None:
        return NO_MAPPING
    if not child.pte[page]:
        return NOTHING
    if machine.memory.folio_of[child.pfn[page]] < 0:
        return ZERO
    return SAME if child.pfn[page] == parent.pfn[page] else COPY


def _random_case(source: random.Random) -> Mapping[str, Any]:
    page = source.randrange(16)
    advice = source.choice(("", "", "", "", "wipeonfork", "dontfork"))
    maps: Maps = source.choice((None, ZERO, ZERO, "folio", "folio", "folio", "folio", "folio"))
    if maps != "folio":
        written = source.random() < 0.5
        pins = {source.randrange(16, PAGES)} if written and source.random() < 0.3 else set()
        return {
            "page": page, "advice": advice, "written": written, "maps": maps, "exclusive": False, "pins": pins,
        }  # fmt: skip
    size = source.choice((1, 4, 16))
    start = page // size * size
    maps = range(start, start + size)
    exclusive = source.random() < 0.6
    # A page that is pinned is exclusive, so one that is maybe shared has its pins next door.
    near = [at for at in maps if exclusive or at != page]
    far = [at for at in range(PAGES) if at not in maps]
    pins = set(source.sample(near, min(len(near), source.choice((0, 1, 1)))))
    pins |= set(source.sample(far, source.choice((0, 0, 1))))
    return {"page": page, "advice": advice, "written": True, "maps": maps, "exclusive": exclusive, "pins": pins}


def _only_the_pinned_page(page: int, pins: set[int], **case: Any) -> str:
    return child_gets(page=page, pins=pins & {page}, **case)


def _any_pin(page: int, pins: set[int], **case: Any) -> str:
    return child_gets(page=page, pins=pins and {page}, **case)


def _instead(right: str, wrong: str, **only: Any) -> Callable[..., str]:
    """The worked function, but it says `wrong` for `right` in the cases that have these arguments."""

    def says(**case: Any) -> str:
        answer = child_gets(**case)
        return wrong if answer == right and all(case[name] == value for name, value in only.items()) else answer

    return says


child = Function(
    **words(
        "child",
        copies_all=_instead(SAME, COPY),
        only_the_pinned_page=_only_the_pinned_page,
        any_pin=_any_pin,
        shares_no_less=but(child_gets, exclusive=True),
        no_pins=but(child_gets, pins=set()),
        always_written=but(child_gets, written=True),
        no_zero_page=_instead(ZERO, NOTHING),
        zero_page_when_wiped=_instead(NOTHING, ZERO, advice="wipeonfork"),
        nothing_without_mapping=_instead(NO_MAPPING, NOTHING),
        no_advice=but(child_gets, advice=""),
    ),
    **modelled(_scenario, LINUX_6_15, _in_words),
    case=_random_case,
    worked=child_gets,
    count=200,
)
