"""The laboratory: everything that is asked of a policy, and what came of it as one frozen value."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..kernel.history import HISTORY, LAST_RECORDED
from ..kernel.policy import POLICIES, Policy, differing
from ..program.policy_file import policy_called
from . import breaks, changes, prices, render
from .blocks import Page
from .breaks import Breaks, Found, Raced, Random, Selftests
from .changes import Changes
from .findings import Field, Findings
from .page import page_of
from .prices import Prices

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Report(Findings):
    """What was found of a policy, to be written as `text`, `markdown` or `html`; a notebook shows the latter."""

    @cached_property
    def page(self) -> Page:
        """It in words, not yet written as anything."""
        return page_of(self)

    def text(self) -> str:
        """For a terminal, 78 columns wide."""
        return render.text(self.page)

    def markdown(self) -> str:
        """For a cover letter, 78 columns wide."""
        return render.markdown(self.page)

    def html(self) -> str:
        """One file with pictures that needs nothing else."""
        return render.html(self.page)

    def save(self, path: str | Path) -> None:
        """Write it to a file FILE.txt, FILE.md or FILE.html; ValueError for another ending, OSError as it comes."""
        Path(path).write_text(renderer(path)(self.page), encoding="utf-8")

    def __str__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        short = f"{self.page.title}: {self.page.verdict}"
        return {"text/html": render.fragment(self.page), "text/plain": short}


def lab(
    policy: Policy | str | Path,
    against: Policy | str | Path | None = None,
    *,
    quick: bool = False,
    steps: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    progress: Tell | None = None,
) -> Report:
    """Ask everything of a policy: what it changes, what it breaks, what it buys.

    Parameters
    ----------
    policy : Policy, str or Path
        One of your own, a name, a release, or a file ``FILE.py`` that makes one.
    against : Policy, str or Path, optional
        The base; by default the released kernel that differs from it in the fewest fields.
    quick : bool
        Short bounds: a minute on an idle machine, where else it is many.
    steps : int, optional
        The longest program that is searched, where that is shorter than the bounds are.
    seed : int
        Of the first random program; the next has the next.
    jobs : int
        How many processes share the work, where processes can be forked safely.
    progress : callable, optional
        Told what is looked at.

    Returns
    -------
    Report
        True where something refutes the policy. The same arguments give the same report. Ctrl-C ends it with what is
        known so far: `Report.stopped` says where.

    Raises
    ------
    ValueError
        There is no such policy, or a number makes no sense. What a rule raises when it is asked comes as it is.
    """
    for name, value, least in (("seed", seed, 0), ("jobs", jobs, 1), ("steps", 1 if steps is None else steps, 1)):
        if type(value) is not int or not least <= value < 10**18:
            raise ValueError(f"{name}={value!r:.60} is no whole number from {least} on")
    mine = policy if isinstance(policy, Policy) else policy_called(policy)
    base = nearest_release(mine) if against is None else against
    base = base if isinstance(base, Policy) else policy_called(base)
    run = _Run(mine, base, quick, steps, seed, jobs, progress or (lambda _: None))
    stopped = ""
    try:
        run.all()
    except KeyboardInterrupt:
        stopped = run.part
    return Report(
        mine, base, _called(policy, mine), quick, steps, seed, tuple(_fields(mine, base)), run.changes,
        Breaks(tuple(run.searches), run.random, run.selftests, run.races), run.prices, stopped,
    )  # fmt: skip


@dataclass
class _Run:
    """What is asked of a policy, in turn; what is known stands there when it is stopped."""

    mine: Policy
    base: Policy
    quick: bool
    steps: int | None
    seed: int
    jobs: int
    tell: Tell
    part: str = ""
    changes: Changes | None = None
    searches: list[Found] = field(default_factory=list)
    random: Random | None = None
    selftests: Selftests | None = None
    races: tuple[Raced, ...] = ()
    prices: Prices | None = None

    def all(self) -> None:
        """Everything; KeyboardInterrupt leaves what was known before."""
        mine, base, jobs, quick = self.mine, self.base, self.jobs, self.quick
        self._begin("what it changes")
        self.changes = changes.changes(mine, base, quick=quick, jobs=jobs, progress=self._count)
        self._begin("what it breaks: the search")
        for found in breaks.searches(mine, quick=quick, steps=self.steps, jobs=jobs, tell=self._say):
            self.searches.append(found)
        self._begin("what it breaks: random programs")
        self.random = breaks.random_programs(mine, base, self.seed, quick=quick, jobs=jobs, progress=self._count)
        self._begin("what it breaks: the kernel's selftests")
        self.selftests = breaks.selftests(mine, base, jobs)
        self._begin("what it breaks: races")
        self.races = breaks.races(mine, base)
        self._begin("what it buys")
        self.prices = prices.prices(mine, base, self.seed, quick=quick, jobs=jobs, progress=self._count)

    def _begin(self, part: str) -> None:
        self.part = part
        self.tell(part)

    def _say(self, how_far: str) -> None:
        self.tell(f"{self.part}, {how_far}")

    def _count(self, done: int, total: int) -> None:
        self._say(f"{done:,} of {total:,}")


def renderer(path: str | Path) -> Callable[[Page], str]:
    """What writes a file of that name; ValueError says which endings there are."""
    ending = Path(path).suffix.removeprefix(".")
    if ending not in render.RENDERERS:
        raise ValueError(f"{path}: a report is a file {', '.join(f'NAME.{each}' for each in render.RENDERERS)}")
    return render.RENDERERS[ending]


def _called(asked: Policy | str | Path, policy: Policy) -> str:
    """As the command line takes it; a policy that was made in a cell has to be put into a file first."""
    if not isinstance(asked, Policy):
        return str(asked)
    return policy.name if POLICIES.get(policy.name) == policy else "FILE.py"


def nearest_release(policy: Policy) -> Policy:
    """The released kernel that differs in the fewest fields, and is another one; of several the newest."""
    releases = dict.fromkeys((*(change.release for change in HISTORY), LAST_RECORDED))
    kernels = {kernel.name: kernel for kernel in map(Policy.at, releases)}
    others = [kernel for kernel in kernels.values() if differing(policy, kernel)]
    return min(reversed(others), key=lambda kernel: len(differing(policy, kernel)))


def _fields(policy: Policy, base: Policy) -> list[Field]:
    return [
        Field(name, _said(getattr(base, name)), _said(mine := getattr(policy, name)), _source(mine))
        for name in differing(policy, base)
    ]


def _said(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__) if callable(value) else str(value)


def _source(rule: Any) -> str:
    """The text of a rule, where Python knows it."""
    if not callable(rule):
        return ""
    try:
        return inspect.getsource(rule if inspect.isfunction(rule) else type(rule)).rstrip()
    except (OSError, TypeError):
        return ""
