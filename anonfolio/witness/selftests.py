"""A selftest of the kernel as a value: a scenario, and what must hold on the way; asked of the model or of a kernel.

What a kernel's own test asserts is here a plain `Check`: what a step returns or with which errno it is refused, the
bounds of a mapping, how many there are, what pages map. `ModelWitness` answers from the model's state,
`anonfolio.witness.live.selftests` from /proc; both are asked by `problems`. `suites` holds the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..kernel import vma as flags
from ..kernel.pagetable import PMD_HUGE, PTE_PRESENT, PTE_SPECIAL
from ..kernel.policy import Policy, policy_named
from ..machine.machine import Machine
from ..program.ops import TABLE, Step, step_and_errno
from ..program.scenario import Scenario

NOTHING, ZERO = 0, -1
"""In the place of a folio's size: a page that maps nothing, and one that maps the zero page."""
DONE = ""
FLAG_WORDS = {
    "rd": flags.VM_READ, "wr": flags.VM_WRITE, "wf": flags.VM_WIPEONFORK, "dc": flags.VM_DONTCOPY,
    "hg": flags.VM_HUGEPAGE, "nh": flags.VM_NOHUGEPAGE, "nr": flags.VM_NORESERVE,
    "lo": flags.VM_LOCKED,
}  # fmt: skip
"""Flags of a mapping as the VmFlags line of /proc/PID/smaps calls them."""


class Mapped(NamedTuple):
    """One mapping: pages [first, end) of the arena, and its flags in the words of /proc/PID/smaps."""

    first: int
    end: int
    words: frozenset[str]


class Came(NamedTuple):
    """What came of a step: the byte or page that it returned, and the errno (or SIGSEGV) that refused it, or `DONE`."""

    value: int | None
    refused: str


class Witness(Protocol):
    """Who does steps and can be looked at: the model, or processes of a running kernel."""

    def do(self, step: Step) -> Came:
        """Do one step; of an unref the byte that the pipe held is the value."""

    def mappings(self, process: int) -> Sequence[Mapped]:
        """What lies in the arena, in order."""

    def sizes(self, process: int) -> Sequence[int]:
        """Per page of the arena the pages of the folio that it maps, `NOTHING` or `ZERO`."""

    def huge(self, process: int) -> int:
        """How many folios a PMD maps."""


@dataclass(frozen=True)
class Check:
    """What must hold when `after` steps are done.

    `what` names a function of `CHECKS`, or ``"came"``: how the last step ended. `needed`: where it does not hold the
    kernel's test skips, for a folio of some size could not be had.
    """

    after: int
    what: str
    arguments: tuple[Any, ...]
    needed: bool = False


@dataclass(frozen=True)
class Selftest:
    """One case.

    Attributes
    ----------
    suite, name : str
        As the kernel calls the test program and the case.
    scenario : Scenario
    checks : tuple of Check
        In order of `after`. A step of which nothing is said must be done.
    needs : tuple of str
        Fields of `Policy` that must be so (``!FIELD`` not so, ``FIELD!=VALUE``): another kernel fails this case.
    """

    suite: str
    name: str
    scenario: Scenario
    checks: tuple[Check, ...]
    needs: tuple[str, ...] = ()

    @property
    def not_live(self) -> str:
        """Why no running kernel can be asked, or nothing."""
        reasons = (f"{step[0]}: {TABLE[step[0]].not_live}" for step in self.scenario.steps if TABLE[step[0]].not_live)
        return next(reasons, "")

    def lacks(self, policy: Policy, asked: Collection[str] = ()) -> str:
        """The first of its needs that a kernel does not meet, or nothing; not one of those that are `asked` for."""
        return next((need for need in self.needs if need not in asked and not _met(need, policy)), "")

    def on_model(self, policy: Policy | str) -> list[str]:
        """What is wrong under a policy, in a sentence each; `NotBacked` when it has no folio of a size it takes."""
        chosen = policy_named(policy) if isinstance(policy, str) else policy
        return problems(self, ModelWitness(self.scenario, chosen))


def _met(need: str, policy: Policy) -> bool:
    field, unequal, value = need.partition("!=")
    if unequal:
        return bool(getattr(policy, field) != value)
    return bool(getattr(policy, need.lstrip("!"))) != need.startswith("!")


class NotBacked(ValueError):
    """This kernel gives no folio of that size: the kernel's own test skips such a case."""


def problems(selftest: Selftest, witness: Witness) -> list[str]:
    """Do the steps and ask each check when it is due; what is wrong, in a sentence each."""
    return list(_problems(selftest, witness))


def _problems(selftest: Selftest, witness: Witness) -> Iterator[str]:
    due: dict[int, list[Check]] = {}
    for check in selftest.checks:
        due.setdefault(check.after, []).append(check)
    for number in range(len(selftest.scenario.steps) + 1):
        step = selftest.scenario.steps[number - 1] if number else ()
        checks = due.get(number, [])
        if number:
            came = witness.do(step)
            expected = [check.arguments for check in checks if check.what == "came"]
            refused, values = expected[0] if expected else (DONE, None)
            if came.refused != refused:
                yield f"step {number} {list(step)} {_how(came.refused)}, not {_how(refused)}"
                # What follows would speak of another state.
                return
            if values is not None and came.value != values:
                yield f"step {number} {list(step)} returned {came.value}, not {values}"
        for check in checks:
            found = "" if check.what == "came" else CHECKS[check.what](witness, *check.arguments)
            if found and check.needed:
                raise NotBacked(f"{selftest.name}: {found}")
            if found:
                yield f"after step {number} {list(step)}: {found}"


def _how(refused: str) -> str:
    return f"was refused ({refused})" if refused else "was done"


# --- what can be checked: each says what is wrong, or nothing -------------------------------------------------------


def _vma(witness: Witness, process: int, page: int, pages: range) -> str:
    """The mapping with that page spans exactly those pages; an empty range: there is none."""
    found = next((range(at.first, at.end) for at in witness.mappings(process) if at.first <= page < at.end), range(0))
    return "" if found == pages else f"the mapping of page {page} of process {process} is {found}, not {pages}"


def _vmas(witness: Witness, process: int, count: int) -> str:
    found = len(witness.mappings(process))
    return "" if found == count else f"process {process} has {found} mappings, not {count}"


def _maps(witness: Witness, process: int, pages: range, kind: str | int) -> str:
    """Those pages map ``"nothing"``, the ``"zero"`` page, ``"something"``, or folios of an order."""
    sizes = witness.sizes(process)
    fits: Callable[[int], bool] = {
        "nothing": lambda size: size == NOTHING, "zero": lambda size: size == ZERO,
        "something": lambda size: size != NOTHING,
    }.get(str(kind), lambda size: size == 1 << int(kind))  # fmt: skip
    wrong = next((page for page in pages if not fits(sizes[page])), None)
    if wrong is None:
        return ""
    names = {NOTHING: "nothing", ZERO: "the zero page"}
    has = names.get(sizes[wrong], f"a folio of order {sizes[wrong].bit_length() - 1}")
    wanted = f"a folio of order {kind}" if isinstance(kind, int) else kind
    return f"page {wrong} of process {process} maps {has}, not {wanted}"


def _huge(witness: Witness, process: int, count: int) -> str:
    found = witness.huge(process)
    return "" if found == count else f"PMDs of process {process} map {found} folios, not {count}"


def _flags(witness: Witness, process: int, page: int, words: tuple[str, ...]) -> str:
    """The mapping with that page has these flags, those after ``!`` it has not."""
    has = next((at.words for at in witness.mappings(process) if at.first <= page < at.end), frozenset[str]())
    wrong = [word for word in words if (word.lstrip("!") in has) == word.startswith("!")]
    return f"the mapping of page {page} of process {process} has not {' '.join(wrong)}" if wrong else ""


CHECKS: dict[str, Callable[..., str]] = {"vma": _vma, "vmas": _vmas, "maps": _maps, "huge": _huge, "flags": _flags}


# --- the model ------------------------------------------------------------------------------------------------------


class ModelWitness:
    """A scenario on the model under a policy."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self.machine: Machine = scenario.machine(policy)
        self.base, self.pages = scenario.first_vpn, scenario.pages

    def do(self, step: Step) -> Came:
        """See `Witness`."""
        held = self._held(step)
        (done, value, why), errno = step_and_errno(self.machine, step, self.base)
        return Came(value if held is None else held, DONE if done else errno or why)

    def _held(self, step: Step) -> int | None:
        if step[0] != "unref":
            return None
        frame = self.machine.process(step[1]).pins()["reference", step[2]].frames[0]
        return int(self.machine.memory.content[frame])

    def mappings(self, process: int) -> list[Mapped]:
        """See `Witness`."""
        return [
            Mapped(
                max(vma.start - self.base, 0), min(vma.end - self.base, self.pages),
                frozenset(word for word, flag in FLAG_WORDS.items() if vma.flags & flag),
            )
            for vma in self.machine.process(process).mm.vmas_in(self.base, self.base + self.pages)
        ]  # fmt: skip

    def sizes(self, process: int) -> list[int]:
        """See `Witness`."""
        mm, memory = self.machine.process(process).mm, self.machine.memory
        bits = mm.pte[self.base : self.base + self.pages]
        zero = (bits & PTE_SPECIAL) > 0
        mapped = np.flatnonzero((bits & PTE_PRESENT > 0) & ~zero)
        found = np.full(self.pages, NOTHING)
        found[np.flatnonzero(zero)] = ZERO
        found[mapped] = 1 << memory.order[memory.folio_of[mm.pfn[self.base + mapped]]].astype(int)
        sizes: list[int] = found.tolist()
        return sizes

    def huge(self, process: int) -> int:
        """See `Witness`."""
        mm = self.machine.process(process).mm
        return sum(not mm.pte[at << 9] & PTE_SPECIAL for at, state in enumerate(mm.pmd) if state == PMD_HUGE)
