"""What a policy breaks, as far as it was looked: the search, random programs, the kernel's selftests, races."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from ..hardware.interleavings import Searched
from ..hardware.interleavings import search as interleave
from ..hardware.microsteps import CHILD, FORKING, RANGE, THREADS
from ..kernel.honest import arounds
from ..kernel.policy import Policy
from ..kernel.rules import Extent, many, one_page, silently
from ..kernel.sizes import ANON_ORDERS
from ..machine.invariants import check
from ..program.ops import do_step
from ..program.random_programs import KINDS, random_scenario, shrink
from ..program.scenario import Scenario
from ..program.search import CTRL_C, OPERATIONS, Counterexample, Exhausted, counterexample
from ..program.starts import STARTS
from ..witness.suites import Suite, Verdict, judged, suites
from .spread import Progress, spread

RACES = (THREADS, CHILD, FORKING, RANGE)
"""Those of notebook 04, each with the steps in the order that kernels have."""
FRAMES = 1 << 16


class Bound(NamedTuple):
    """One search: how long programs are at most (None: any length), of what, over which mapping.

    With `start`, a name of `STARTS`, it searches what may follow that program, over its mapping.
    """

    steps: int | None
    operations: tuple[str, ...]
    pages: int = 4
    orders: tuple[int, ...] = (2,)
    processes: int = 2
    every: int = 1
    start: str = ""

    def options(self) -> str:
        """As the command takes them."""
        length = "any" if self.steps is None else self.steps
        some = f" --every {self.every}" if self.every > 1 else ""
        mapping = f"--pages {self.pages} --orders {' '.join(map(str, self.orders))}"
        return (
            f"--steps {length} {f'--from {self.start}' if self.start else mapping}"
            f" --processes {self.processes}{some} --operations {' '.join(self.operations)}"
        )

    @property
    def begun(self) -> int:
        """How many steps its programs have before the search adds one."""
        return len(STARTS[self.start].steps) if self.start else 0

    def up_to(self, steps: int | None) -> Bound:
        """The same with programs of so many steps at most, those that it begins with counted."""
        if steps is None or (self.steps is not None and self.steps + self.begun <= steps):
            return self
        return self._replace(steps=steps - self.begun)


HOLDERS = ("write", "fork", "munmap", "ref")
"""Who takes a page by reference, and unmaps it: what a pipe or a device may read then."""
UNSHARERS = ("write", "fork", "exit", "wipeonfork", "pin", "pin_ro")
"""Who pins for reading makes a page exclusive that stays read-only, beside pages that may be shared."""
BESIDE_A_PIN = ("write", "fork", "exit", "pin", "gup")
"""Who unshares a page beside one that stays pinned: the search gives a process one pin, and a short one counts not."""
HALVES = ("write", "fork", "exit", "wipeonfork", "keeponfork", "gup")
"""Who shares half of a folio and keeps half, in one mapping again: it takes long programs, of few pages."""
LARGE = ("write", "fork", "exit", "wipeonfork", "munmap", "pin", "gup", "ref")
"""What is asked of a size that a policy copies: of each half's first page alone."""
QUICK = (
    Bound(6, ("write", "fork", "exit", "wipeonfork", "pin")),
    Bound(6, HOLDERS),
    Bound(5, BESIDE_A_PIN),
    Bound(5, UNSHARERS),
    Bound(8, HALVES, every=2),
)
WHOLE = (
    Bound(None, ("write", "fork", "exit")),
    Bound(7, OPERATIONS),
    Bound(7, (*HOLDERS, "exit", "unref")),
    Bound(6, BESIDE_A_PIN),
    Bound(6, UNSHARERS),
    Bound(9, HALVES, every=2),
    Bound(7, (*HOLDERS, "wipeonfork", "pin"), every=2),
    Bound(4, (*HOLDERS, "exit", "pin", "read", "gup", "pin_ro", "mremap", "dontneed", "mprotect")),
    Bound(5, ("write", "fork", "exit"), processes=3),
    Bound(4, ("write", "fork", "exit", "munmap", "pin", "ref"), 16, (4,)),
)
"""What is searched, from what must never break for any length to many operations for a few steps."""
BEGUN = (
    Bound(4, ("write", "munmap", "ref", "keeponfork"), every=2, start="child-maps-half"),
    Bound(4, ("write", "munmap", "ref"), start="copied-and-referenced"),
    Bound(3, ("write", "fork", "exit", "unpin", "gup", "munmap"), start="pinned-for-reading"),
    Bound(4, ("write", "munmap", "ref", "exit"), start="half-unmapped-one-copied"),
    Bound(4, ("write", "munmap", "ref", "exit"), every=2, start="one-of-three-gone"),
)
"""What is searched from where short programs do not come, for one step more where it need not be quick."""
QUICK_PROGRAMS, WHOLE_PROGRAMS = 8, 100
"""Random programs of each kind."""


class Found(NamedTuple):
    """A search and its answer."""

    bound: Bound
    answer: Counterexample | Exhausted


class Broken(NamedTuple):
    """A random program that broke something: its kind and seed, what broke, and it made small."""

    kind: str
    seed: int
    what: str
    smallest: Scenario


@dataclass(frozen=True)
class Random:
    """Random programs: how many, their steps, and the first of each kind that broke something."""

    programs: int
    steps: int
    kinds: tuple[str, ...]
    seed: int
    broken: tuple[Broken, ...]


class Judged(NamedTuple):
    """A case of the kernel's selftests that ends otherwise than under the base."""

    case: str
    mine: str
    base: str


@dataclass(frozen=True)
class Selftests:
    """The kernel's selftests: how many ran and passed, under both, and the cases that end otherwise.

    `other_sizes` are those that fail for nothing but the size of a folio: a test relies on it, and no byte is wrong.
    `skipped` says why how many cases did not run that do under the base.
    """

    run: int
    passed: int
    base_run: int
    base_passed: int
    newly_failing: tuple[Judged, ...]
    other_sizes: tuple[Judged, ...]
    newly_passing: tuple[Judged, ...]
    skipped: tuple[tuple[str, int], ...] = ()


class Raced(NamedTuple):
    """A race under the policy and under the base."""

    mine: Searched
    base: Searched

    @property
    def new(self) -> dict[str, str]:
        """The damage that the base does not do, and by which interleaving."""
        return {
            kind: ", ".join(" ".join(map(str, event)) for event in events)
            for kind, events in self.mine.found.items()
            if kind not in self.base.found
        }


@dataclass(frozen=True)
class Breaks:
    """All that was looked at to refute the policy; None, or fewer, where it was stopped before."""

    searches: tuple[Found, ...] = ()
    random: Random | None = None
    selftests: Selftests | None = None
    races: tuple[Raced, ...] = ()

    def refutations(self) -> list[str]:
        """What refutes the policy, in a sentence each; none where nothing was found. Often searches find the same."""
        return list(dict.fromkeys(self._refutations()))

    def _refutations(self) -> Iterator[str]:
        for _, answer in self.searches:
            if isinstance(answer, Counterexample):
                shown = f" ({answer.said})" if answer.said else ""
                yield f"a program of {answer.after + answer.steps} steps breaks {answer.violation.invariant}{shown}"
        if self.random and self.random.broken:
            first = self.random.broken[0]
            yield f"a random program ({first.kind}, seed {first.seed}): {first.what}"
        if self.selftests and (failing := len(self.selftests.newly_failing)):
            yield f"{many(failing, 'case')} of the kernel's selftests that the base passes {_fail(failing)}"
        for race in self.races:
            for kind in race.new:
                yield f"the race {race.mine.race.name!r} ends in a {kind}, which under the base it does not"


def _fail(count: int) -> str:
    return "fails" if count == 1 else "fail"


def sizes(policy: Policy) -> list[int]:
    """The orders above the smallest that it copies or unshares at once; and the first whose pages it reuses together.

    A rule may be right for 16 KiB and wrong for 64 KiB: what is searched over four pages never asks it.
    """

    def reached(rule: Extent) -> list[tuple[int, int]]:
        if rule is one_page:
            return []
        asked = ((around.order, len(rule(around, silently))) for around in arounds(ANON_ORDERS))
        return [(order, pages.bit_length() - 1) for order, pages in asked if pages > 1]

    rules = policy.rules
    copied = {taken for rule in (rules.copy_extent, rules.unshare_extent) for _, taken in reached(rule)}
    reused = {min(folio for folio, _ in found)} if (found := reached(rules.reuse_extent)) else set()
    return sorted((copied | reused) - {min(ANON_ORDERS)})


def bounds(policy: Policy, *, quick: bool, steps: int | None = None) -> list[Bound]:
    """What is searched for a policy, no program longer than `steps`."""
    orders = sizes(policy)
    some, longest = ({*orders[:1], *orders[-1:]}, 5) if quick else ({*orders}, 6)
    large = [Bound(longest, LARGE, 1 << order, (order,), every=1 << order >> 1) for order in sorted(some)]
    begun = [each if quick else each._replace(steps=(each.steps or 0) + 1) for each in BEGUN]
    # A start that is as long as programs may be leaves nothing to search.
    begun = [each for each in begun if steps is None or each.begun < steps]
    return list(dict.fromkeys(bound.up_to(steps) for bound in (*(QUICK if quick else WHOLE), *large, *begun)))


def searches(
    policy: Policy, *, quick: bool, steps: int | None = None, jobs: int = 1, tell: Callable[[str], None] | None = None
) -> Iterator[Found]:
    """Each search in turn, no program longer than `steps`; Ctrl-C after the one that it stops."""
    wanted = bounds(policy, quick=quick, steps=steps)
    for number, bound in enumerate(wanted, 1):

        def progress(depth: int, states: int, transitions: int, which: str = f"{number} of {len(wanted)}") -> None:
            if tell:
                tell(f"{which}, {depth} steps: {states:,} states, {transitions:,} transitions")

        answer = counterexample(
            policy, pages=bound.pages, steps=bound.steps, orders=bound.orders, processes=bound.processes,
            every=bound.every, operations=bound.operations, jobs=jobs, progress=progress,
            start=STARTS[bound.start] if bound.start else None,
        )  # fmt: skip
        yield Found(bound, answer)
        if isinstance(answer, Exhausted) and answer.why == CTRL_C:
            raise KeyboardInterrupt


def random_programs(
    policy: Policy, base: Policy, seed: int, *, quick: bool, jobs: int = 1, progress: Progress | None = None
) -> Random:
    """Random programs of every kind, with every invariant after every step, and every byte read held to the base's."""
    each = QUICK_PROGRAMS if quick else WHOLE_PROGRAMS
    asked = [(kind, seed + number) for kind in KINDS for number in range(each)]
    found = spread(partial(_random, policy, base), asked, jobs, progress)
    broken: dict[str, Broken] = {}
    for (kind, number), (_, what) in zip(asked, found, strict=True):
        if what and kind not in broken:
            broken[kind] = _smallest(policy, base, kind, number)
    return Random(len(asked), sum(steps for steps, _ in found), tuple(KINDS), seed, tuple(broken.values()))


def _random(policy: Policy, base: Policy, asked: tuple[str, int]) -> tuple[int, str]:
    kind, seed = asked
    scenario = random_scenario(seed, kind)
    broken = _broken(policy, base, scenario)
    return len(scenario.steps), broken[1] if broken else ""


def _broken(policy: Policy, base: Policy, scenario: Scenario) -> tuple[int, str] | None:
    """The step at which a program breaks an invariant, or reads another byte than under the base; and what is wrong."""
    mine, other = (scenario.machine(each, frames=FRAMES) for each in (policy, base))
    for at, step in enumerate(scenario.steps):
        (done, value, _), (base_done, base_value, _) = (
            do_step(each, step, scenario.first_vpn) for each in (mine, other)
        )
        if violations := check(mine):
            return at, str(violations[0])
        if done and base_done and step[0] in READS and value != base_value:
            return at, f"{' '.join(map(str, step))} returns {value}, under the base {base_value}"
    return None


READS = ("read", "gup", "dma_read")
"""Operations that return a byte."""


def _smallest(policy: Policy, base: Policy, kind: str, seed: int) -> Broken:
    def first(scenario: Scenario) -> int | None:
        broken = _broken(policy, base, scenario)
        return broken[0] if broken else None

    small = shrink(random_scenario(seed, kind), first)
    broken = _broken(policy, base, small)
    return Broken(kind, seed, broken[1] if broken else "", small)


NO_SELFTESTS = ("heaps",)
"""What stands among them and says what one kernel did, not what every kernel promises."""


def selftests(policy: Policy, base: Policy, jobs: int = 1) -> Selftests:
    """All cases under both."""
    wanted = [suite for name, suite in suites().items() if name not in NO_SELFTESTS]
    mine, other = (spread(partial(_verdicts, each), wanted, jobs) for each in (policy, base))
    pairs = [pair for left, right in zip(mine, other, strict=True) for pair in zip(left, right, strict=True)]
    ran, base_ran = ([verdict for verdict in side if not verdict.skipped] for side in zip(*pairs, strict=True))
    unlike = [
        (Judged(f"{left.case.suite}, {left.case.name}", _said(left), _said(right)), _ending(left))
        for left, right in pairs
        if not left.skipped and not right.skipped and bool(left.problems) != bool(right.problems)
    ]
    failing, other_sizes, passing = (
        tuple(case for case, ends in unlike if ends == ending) for ending in ("fails", "other size", "passes")
    )
    skipped = Counter(left.skipped for left, right in pairs if left.skipped and not right.skipped)
    return Selftests(
        len(ran), sum(not verdict.problems for verdict in ran),
        len(base_ran), sum(not verdict.problems for verdict in base_ran),
        failing, other_sizes, passing, tuple(skipped.items()),
    )  # fmt: skip


_OF_SIZE = re.compile(r"PMDs of process \d+ map \d+ folios, not|maps a folio of order \d+, not a folio of order")


def _ending(verdict: Verdict) -> str:
    if not verdict.problems:
        return "passes"
    return "other size" if all(_OF_SIZE.search(problem) for problem in verdict.problems) else "fails"


def first_of_each(cases: tuple[Judged, ...]) -> list[Judged]:
    """The first case of each kind: cases of one name differ in the size that stands in brackets at its end."""
    found: dict[str, Judged] = {}
    for case in cases:
        found.setdefault(case.case.rpartition(" (")[0] or case.case, case)
    return list(found.values())


def _verdicts(policy: Policy, suite: Suite) -> list[Verdict]:
    return list(judged(suite.cases, policy))


def _said(verdict: Verdict) -> str:
    return verdict.problems[0] if verdict.problems else "passes"


def races(policy: Policy, base: Policy) -> tuple[Raced, ...]:
    """Every interleaving of the races of notebook 04, up to two accesses by other CPUs."""
    return tuple(Raced(*(interleave(replace(race, policy=each)) for each in (policy, base))) for race in RACES)
