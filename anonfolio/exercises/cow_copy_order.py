"""Questions of ``04_cow_copy_order``: ``from anonfolio.exercises import cow_copy_order as q``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..hardware.interleavings import searched
from ..hardware.microsteps import (
    CHILD,
    DROP_BEFORE_FLUSH,
    FLUSH_BEFORE_CLEAR,
    FORK_WITHOUT_FLUSH,
    FORKING,
    NO_RECHECK,
    SET_BEFORE_FLUSH,
    THREADS,
    Event,
    Impossible,
    Race,
    Run,
)
from ..hardware.orders import BEFORE, COPY_STEPS, KERNEL_COPY, NEEDED, OrderError, check_order
from ..hardware.stores import LEAK, LOST_WRITE, STALE_READ
from ..kernel.policy import LINUX_6_3, LINUX_6_15, RFC_V2, Policy
from ..lesson import races
from ..lesson.looking import Unreadable, looking, shown
from ..lesson.quiz import GOES_ON, Asked, Choice, Note, Number, is_open
from ..program.scenario import Scenario

if TYPE_CHECKING:
    from ..machine.show import Shown
from ..lesson.topics import asking
from ..lesson.words import Words

words = Words(__file__)
more = asking("copy")

KIB = 4
PAGES = 16

# --- how much -------------------------------------------------------------------------------------------------------

FILL = tuple(("write", 0, page, page + 1) for page in range(PAGES))
FORKED = len(FILL)
"""The step of the programs below that forks."""

written = Scenario.load("parent-copies-all-child-is-sole")
"""One folio of 16 pages, a fork, then the parent writes all of them; at last the child writes two."""

first_writes = written.but(steps=written.steps[: FORKED + 4], name="three writes after a fork")

moved = Scenario.load("moved-off-alignment")
halves = Scenario.load("each-keeps-a-half")
huge = Scenario.load("huge-fork-write-exit-write")

_BELOW_2_MIB = (written.name, moved.name, halves.name)
RECORDED = {"6.1": (huge.name,), **dict.fromkeys(("6.12", "6.18", "7.3"), (*_BELOW_2_MIB, huge.name))}
"""Per kernel the programs of this notebook that were recorded on it; 6.1 has no size between a page and 2 MiB."""

BEFORE_5_8 = LINUX_6_3.but(
    name="as before 5.8",
    about="No recorded kernel: a shared 2 MiB folio is copied whole, as before 3917c80280c9 (5.8); else linux-6.3.",
    copy_extent="source_order",
    copy_max_order=9,
)


class Cost(NamedTuple):
    """Faults after the fork, KiB copied, and KiB copied of pages that were never written."""

    faults: int
    copied_kib: int
    for_nothing_kib: int


def after_fork(policy: Policy, pages: Iterable[int]) -> Cost:
    """A folio of 16 pages, a fork, the child lives on: what the parent's writes to these pages cost."""
    pages = list(pages)
    steps = (*FILL, ("fork", 0), *(("write", 0, page, 100 + page) for page in pages))
    faults = [fault for result in Scenario(PAGES, steps).run(policy).results[FORKED + 1 :] for fault in result.faults]
    copied = sum(fault.copied for fault in faults)
    return Cost(len(faults), copied * KIB, (copied - len(set(pages))) * KIB)


def huge_write(policy: Policy) -> tuple[str, int]:
    """What a write on a shared 2 MiB folio does under a policy: its fault's code, and the KiB it copied."""
    (fault,) = huge.run(policy)[2].faults
    return fault.code, fault.copied * KIB


@cache
def recorded_copies(kernel: str, names: tuple[str, ...]) -> Counter[tuple[int, int]]:
    """Of recorded programs, the writes after which a page of a large folio is mapped to another frame.

    Counted by the pages of the folio before and of the folio after: what the kernel allocated for the copy.
    """
    found: Counter[tuple[int, int]] = Counter()
    for name in names:
        scenario = Scenario.load(name)
        before: Mapping[str, Any] = {}
        for step, seen in zip(scenario.steps, scenario.recorded(kernel).steps, strict=True):
            if step[0] == "write" and str(step[1]) in before:
                was, now = before[str(step[1])][step[2]], seen["view"][str(step[1])][step[2]]
                if _large(was) and isinstance(now, list) and now[0] != was[0]:
                    found[was[2], now[2]] += 1
            before = seen["view"]
    return found


def _large(cell: Any) -> bool:
    return isinstance(cell, list) and cell[2] > 1


faults = Number(
    **words("faults", rfc_v2=lambda: after_fork(RFC_V2, range(PAGES)).faults),
    truth=lambda: after_fork(LINUX_6_15, range(PAGES)).faults,
)

thp = Number(
    **words("thp", before_5_8=lambda: huge_write(BEFORE_5_8)[1], rfc_v2=lambda: huge_write(RFC_V2)[1]),
    truth=lambda: huge_write(LINUX_6_15)[1],
)

# --- in which order -------------------------------------------------------------------------------------------------

KINDS = {"a": "", "b": STALE_READ, "c": LEAK, "d": LOST_WRITE}


def _late_flush() -> str:
    found = set(searched(SET_BEFORE_FLUSH, 3).found)
    return next(letter for letter, kind in KINDS.items() if found == ({kind} if kind else set()))


late = Choice(**words("late"), truth=_late_flush)

ORDERS = {
    "kernel's order, threads": THREADS,
    "kernel's order, child": CHILD,
    "kernel's fork": FORKING,
    "set before flush": SET_BEFORE_FLUSH,
    "drop before flush": DROP_BEFORE_FLUSH,
    "no recheck": NO_RECHECK,
    "fork without flush": FORK_WITHOUT_FLUSH,
}
"""The orders that the notebook puts side by side."""

ORDER_ACCESSES = 3
RACES = (THREADS, CHILD)
"""What an order of the copy's steps must stand: threads of the same process, and the other process."""


@dataclass(eq=False, kw_only=True, repr=False)
class Order(Asked):
    """Put the steps of a copy in order; every interleaving of that order is tried."""

    kind = "order"

    def check(self, order: Any = None) -> Note:
        """Try an order of step names. A wrong one is shown by its shortest interleaving that does damage."""
        names = () if is_open(order) else _listed(order)
        if names is None:
            return Note("wrong", "Cannot read that answer.", ("A list of step names is asked for.",))
        steps = tuple(shown(step, str).lower() for step in names)
        if is_open(order) or steps == AS_FOUND:
            note = self._asked(f"Not answered yet: change the order of the seven names. {GOES_ON}")
            return self._by_hand(note, "check")
        steps = steps if "store" in steps else (*steps, "store")
        return self._noted(lambda: list(steps), self._judged(steps))

    def _judged(self, steps: tuple[str, ...]) -> Note:
        try:
            check_order(steps)
        except OrderError as error:
            return Note("wrong", "Nobody can do it in that order.", (f"{str(error).capitalize()}.",))
        missing = [step for step in KERNEL_COPY if step not in steps]
        if missing:
            return Note("wrong", f"Some steps are missing: {', '.join(missing)}.", (f"`{self.name}.hint()` helps.",))
        return _verdict(steps, tried(steps))

    def solution(self) -> Note:
        """The kernel's order, folded where HTML is shown."""
        code = f"{self.name}.check({list(KERNEL_COPY[:-1])})"
        told = (KERNELS_OWN,)
        return self._solved(Note("tell", f"Solution of `{self.name}`", told, code=code, fold=True))

    def _asked(self, *more: str) -> Note:
        return Note("ask", self.prompt, (*_steps_told(), *more))

    def _asks(self) -> dict[str, Any]:
        return {"steps": {step: COPY_STEPS[step] for step in AS_FOUND}, "last": "store"}

    def _solved_lines(self) -> tuple[str, ...]:
        return (KERNELS_OWN, ", ".join(f"`{step}`" for step in KERNEL_COPY[:-1]))

    def _judges(self) -> dict[str, Any]:
        notes: dict[str, list[Any]] = {}
        for steps, found in all_tried().items():
            said = _verdict(steps, found)
            picture = said.picture.text() if said.picture is not None else ""
            notes[" ".join(steps)] = [said.kind, said.head, said.lines, picture]
        return {**super()._judges(), "before": BEFORE, "needed": NEEDED, "asked": KERNEL_COPY, "orders": notes}


KERNELS_OWN = "The kernel's own order:"


class Tried(NamedTuple):
    """What comes of an order: how many states all interleavings lead through, or the first that does damage."""

    states: int = 0
    race: int = 0
    kind: str = ""
    events: tuple[Event, ...] = ()


def tried(steps: tuple[str, ...]) -> Tried:
    """Try every interleaving of an order."""
    states = 0
    for number, race in enumerate(RACES):
        found = searched(race.but_order(*steps), ORDER_ACCESSES)
        states += found.states
        for kind, events in found.found.items():
            return Tried(0, number, kind, events)
    return Tried(states)


def possible_orders() -> list[tuple[str, ...]]:
    """Every order of all steps that somebody could carry out."""
    return [(*order, "store") for order in permutations(AS_FOUND) if _can_be_done((*order, "store"))]


def _can_be_done(order: tuple[str, ...]) -> bool:
    try:
        check_order(order)
    except OrderError:
        return False
    return True


TRIED = Path(__file__).with_suffix(".json")
"""What `tried` says of all of them, for browsers: to find that out takes a minute. ``tools/orders.py`` writes it."""


def all_tried() -> dict[tuple[str, ...], Tried]:
    """What stands in `TRIED`."""
    stored = json.loads(TRIED.read_text(encoding="utf-8"))
    return {
        tuple(order.split()): Tried(states, race, kind, tuple(tuple(event) for event in events))
        for order, (states, race, kind, events) in stored.items()
    }


def _verdict(steps: tuple[str, ...], found: Tried) -> Note:
    if found.kind:
        run = RACES[found.race].but_order(*steps).run(found.events)
        harm = next(one for one in run.damage if one.kind == found.kind)
        head = f"{found.kind.capitalize()}: {harm.says}"
        return Note("wrong", head, (_told(found.events),), picture=_drawn(run, run.first(found.kind)))
    tried_all = (
        f"{found.states:,} states, every interleaving with up to {ORDER_ACCESSES} accesses by others: no damage."
    )
    if steps == KERNEL_COPY:
        return Note("right", "Right: the kernel's own order.", (tried_all,))
    return Note("right", "Right: no damage, though it is not the kernel's order.", (tried_all, *_remark(steps)))


AS_FOUND = tuple(sorted(step for step in COPY_STEPS if step != "store"))
"""The steps as the reader finds them."""


def _listed(order: Any) -> tuple[Any, ...] | None:
    """The names that a reader gives, no more than can be of use; None where it is no list."""
    try:
        with looking():
            one_by_one = isinstance(order, (str, Iterator))  # What gives its items one by one may never give one.
            return None if one_by_one else tuple(islice(order, 2 * len(COPY_STEPS)))
    except Unreadable:
        return None


def _steps_told() -> tuple[str, ...]:
    return tuple(f"- `{step}`: {COPY_STEPS[step]}" for step in AS_FOUND)


def _remark(steps: Sequence[str]) -> tuple[str, ...]:
    told = []
    if steps.index("copy") > steps.index("recheck"):
        told.append("It copies under the page-table lock, so other faults wait longer; a range would need just that.")
    if steps.index("drop") < steps.index("set"):
        told.append("It drops before it sets: no harm once the flush is done, as no TLB holds the old page then.")
    return tuple(told)


order = Order(**words("order"))


# --- find the interleaving ------------------------------------------------------------------------------------------


class Hunt(NamedTuple):
    """A wrong order, and the damage that is asked for."""

    race: Race
    kind: str
    nearly: str
    worked: tuple[Event | str, ...]


HUNTS = {
    "stale": Hunt(
        FLUSH_BEFORE_CLEAR,
        STALE_READ,
        "After `flush` no TLB holds the page. But its entry is in the page table until `clear`: who may load it again?",
        ("flush", ("cpu1", "read", 0), "set", ("cpu2", "write", 0, 66), ("cpu1", "read", 0)),
    ),
    "leak": Hunt(
        DROP_BEFORE_FLUSH,
        LEAK,
        "After `drop` the child is the only one counted, so its write reuses the old page. Who can still read that?",
        ("drop", ("cpu2", "write", 0, 66), ("cpu1", "read", 0)),
    ),
    "lost": Hunt(
        FORK_WITHOUT_FLUSH,
        LOST_WRITE,
        "CPU 1 can still write the old page after the fork. Its store is lost if the bytes have been copied already.",
        ("copy", ("cpu1", "write", 0, 66)),
    ),
}


@dataclass(eq=False, kw_only=True, repr=False)
class Interleavings(Asked):
    """Per wrong order an interleaving that shows its damage: ``check(stale=[…], leak=[…], lost=[…])``."""

    kind = "events"

    hunts: Mapping[str, Hunt]

    def check(self, **given: Any) -> Note:
        """Run what is given; the first that does not show what is asked is drawn, else the last that does."""
        unknown = [name for name in given if name not in self.hunts]
        if unknown:
            return Note("wrong", f"There is no {shown(unknown[0])}; there are {', '.join(self.hunts)}.")
        said = {name: events for name, events in given.items() if not is_open(events)}
        if not said:
            note = self._asked(f"Not answered yet: put a list in place of each `...`. {GOES_ON}")
            return self._by_hand(note, "check")
        return self._noted(lambda: {name: _kept(events) for name, events in said.items()}, self._judged(said))

    def _judged(self, said: dict[str, Any]) -> Note:
        shown: list[str] = []
        run: Run | None = None
        for name, events in said.items():
            hunt = self.hunts[name]
            try:
                with looking(Impossible):
                    run = hunt.race.run(_readable(events))
            except Impossible as error:
                return Note("wrong", f"{name}: this cannot happen.", (f"{error}.", *_so_far(shown)))
            except Unreadable as error:
                return Note("wrong", f"{name}: this cannot be read.", (str(error).capitalize(), *_so_far(shown)))
            if hunt.kind not in run.kinds:
                return self._missed(name, run, shown)
            found = next(one for one in run.damage if one.kind == hunt.kind)
            shown.append(f"- {name}: {found.says}")
        rest = [name for name in self.hunts if name not in said]
        assert run is not None
        kind = self.hunts[next(reversed(said))].kind
        more = (f"Still open: {', '.join(rest)}.",) if rest else ()
        head = f"{len(said)} of {len(self.hunts)} shown."
        return Note("right", head, (*shown, *more), picture=_drawn(run, run.first(kind)))

    def _missed(self, name: str, run: Run, shown: Sequence[str]) -> Note:
        hunt = self.hunts[name]
        other = run.damage
        told = f"It shows a {other[0].kind}: {other[0].says}" if other else "Nobody is harmed by that."
        head = f"{name}: no {hunt.kind} yet."
        return Note("wrong", head, (told, hunt.nearly, *_so_far(shown)), picture=_drawn(run, run.first()))

    def solution(self) -> Note:
        """One interleaving of each, folded where HTML is shown."""
        lines = [f"    {name}={list(hunt.worked)}," for name, hunt in self.hunts.items()]
        code = "\n".join([f"{self.name}.check(", *lines, ")"])
        told = ("One way to show each:",)
        return self._solved(Note("tell", f"Solution of `{self.name}`", told, code=code, fold=True))

    def _asked(self, *more: str) -> Note:
        lines = [f"- `{name}`, a {hunt.kind}: {_order_told(hunt.race)}" for name, hunt in self.hunts.items()]
        return Note("ask", self.prompt, (*lines, *more))

    def _asks(self) -> dict[str, Any]:
        hunts = {
            name: {
                "story": f"a {hunt.kind}: {_order_told(hunt.race)}",
                "steps": [step for _, step in hunt.race.steps()],
                "accesses": races.accesses(hunt.race, BYTE),
            }
            for name, hunt in self.hunts.items()
        }
        return {"hunts": hunts, "most": HUNT_ACCESSES}

    def _solved_lines(self) -> tuple[str, ...]:
        return tuple(f"- {name}: {_listed_events(hunt.worked)}" for name, hunt in self.hunts.items())

    def _judges(self) -> dict[str, Any]:
        hunts = {
            name: {"kind": hunt.kind, "nearly": hunt.nearly, "race": races.table(hunt.race, BYTE, HUNT_ACCESSES)}
            for name, hunt in self.hunts.items()
        }
        return {**super()._judges(), "hunts": hunts}


BYTE, HUNT_ACCESSES = 66, 3
"""What others write, and how often they read or write, where one answers by click; in Python both are free."""


def _listed_events(events: Iterable[Event | str]) -> str:
    return ", ".join(f"`{event if isinstance(event, str) else ' '.join(map(str, event))}`" for event in events)


def _kept(events: Any) -> list[Any]:
    """The events as JSON has them; what nobody can read is kept as nothing."""
    try:
        with looking():
            return [event if isinstance(event, str) else [shown(part, str) if not isinstance(part, int) else part
                    for part in event] for event in _readable(events)]  # fmt: skip
    except Unreadable:
        return []


def _order_told(race: Race) -> str:
    return f"CPU 0 does {' '.join(step for _, step in race.steps())}; CPUs run P{', P'.join(map(str, race.cpus))}"


def _readable(events: Any) -> list[Event | str]:
    if isinstance(events, str) or not isinstance(events, Sequence):
        raise Impossible(f"{shown(events):.40} is not a list of events")
    for event in events:
        if not isinstance(event, (str, tuple, list)):
            raise Impossible(f"{shown(event):.40} is neither a step's name nor ('cpu1', 'read', 0)")
    return list(events)


def _so_far(shown: Sequence[str]) -> tuple[str, ...]:
    return ("Shown so far:", *shown) if shown else ()


def _told(events: Iterable[Event]) -> str:
    return f"So: {_listed_events(events)}."


def _drawn(run: Run, at: int | None = None) -> Shown:
    return run.show(at)


damage = Interleavings(**words("damage"), hunts=HUNTS)
