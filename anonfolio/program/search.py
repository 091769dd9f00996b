"""The shortest program that breaks a promise of the kernel, or the statement that within a bound there is none.

Breadth first over short programs on one small mapping, so the first counterexample is a shortest one. States that
differ only in the names of processes, frames and folios, or in bytes, are one state: they are explored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..kernel import given
from ..kernel.policy import Policy, policy_named
from ..machine.invariants import KERNEL_PROMISES, Invariant, Violation
from ..machine.machine import ADVICE
from .exploration import Exploration, Limits, Progress, Stopped
from .explore import Broken, Space
from .ops import TABLE, Step
from .pools import WorkerLost
from .scenario import Scenario

if TYPE_CHECKING:
    # It brings logging, which has something to do at exit.
    from concurrent.futures import Executor

OPERATIONS = ("write", "fork", "exit", "wipeonfork", "keeponfork", "pin", "unpin")
"""What programs are made of by default. Nothing in it needs a failure to be injected."""

EXTRA_OPERATIONS = tuple(
    name
    for op in TABLE.values()
    if op.tries
    for name in (ADVICE if op.name == "madvise" else (op.name,))
    if name not in OPERATIONS
)
"""More that can be asked for. `forkfail_after` is fault injection: a fork that fails inside a folio."""

HOLDERS = ("write", "fork", "exit", "munmap", "ref", "unref")
"""Who takes a page by reference, and lets go of its mapping: what a pipe may read then."""
MOVERS = (*OPERATIONS, "ref", "unref", "munmap", "mremap", "gup", "pin_ro", "mprotect", "dontneed")
"""Most of what changes whose page is whose."""


class Tried(NamedTuple):
    """One search of several: over what, and by how many steps its programs are shorter than is asked for."""

    operations: tuple[str, ...]
    fewer: int = 0


DEFAULT = (Tried(OPERATIONS), Tried(HOLDERS, 1), Tried(MOVERS, 3))
"""What is searched, one after the other, where nobody says over what. All together would take too long: these are some
ten seconds of a processor for six steps.
"""

MEMORY_MIB = 2048
"""So much memory a search takes at most, unless told otherwise."""
MOST = {"pages": 512, "steps": 100, "processes": 6, "every": 512, "memory_mib": 1 << 20, "jobs": 1024}
"""Far beyond what can be searched; every renaming of processes is tried for each state."""
SHOWN_BYTE = 0xDD
CTRL_C = "Ctrl-C"
"""What stops a search besides its bounds."""


@dataclass(frozen=True)
class Counterexample:
    """A shortest program that breaks an invariant.

    Attributes
    ----------
    scenario : Scenario
        The program; after a lost pin, with a write on one side and a read on the other appended.
    violation : Violation
        What its last step before those broke.
    steps : int
        How many steps it takes to break it, the appended ones not counted.
    after : int
        How many steps the program has that the search went on from; `steps` does not count them.
    read, written : int or None
        Where a pin was lost: the byte that was written on one side, and the byte that the other side reads.
    said : str
        The same as a sentence. A device with a pin for reading cannot write: then the process does.
    """

    policy: str
    scenario: Scenario
    violation: Violation
    steps: int
    states: int
    transitions: int
    read: int | None = None
    written: int | None = None
    said: str = ""
    after: int = 0

    def __bool__(self) -> bool:
        return True

    @property
    def breaking(self) -> str:
        """How many steps break it, and after how many others, up to the verb."""
        after = f" after the {self.after} of the program" if self.after else ""
        return f"1 step{after} breaks" if self.steps == 1 else f"{self.steps} steps{after} break"

    def __str__(self) -> str:
        lines = [
            f"{self.policy}: {self.breaking} {self.violation}",
            f"(found after {self.transitions:,} transitions, {self.states:,} distinct states)",
            "",
            self.scenario.text().rstrip(),
        ]
        if self.said:
            lines += ["", self.said]
        return "\n".join(lines)


@dataclass(frozen=True)
class Exhausted:
    """No program within the bound breaks an invariant; or the search was stopped before it could say so.

    Attributes
    ----------
    steps : int
        All programs of up to so many steps were tried.
    complete : bool
        Whether no state is left to go on from: then `steps` is how far the farthest state is, and what is said holds
        for programs of any length.
    interrupted : bool
        Whether it was stopped, and `why` by what.
    after : int
        How many steps the program has that the search went on from.
    promises : tuple of str
        What was looked for: names of invariants.
    digest : str
        SHA-256 of the names of all states, in order: equal for searches that saw the same states.
    levels : tuple of int
        How many states take 0, 1, … up to `steps` steps to reach: the same wherever a search is stopped later.
    every : int
        Operations on one page were tried with multiples of it.
    """

    policy: str
    pages: int
    steps: int
    operations: tuple[str, ...]
    states: int
    transitions: int
    interrupted: bool = False
    after: int = 0
    why: str = ""
    complete: bool = False
    promises: tuple[str, ...] = ()
    digest: str = ""
    levels: tuple[int, ...] = ()
    every: int = 1

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        early = f"stopped early ({self.why})" if self.why else "stopped early"
        verdict = f"{early}: nothing found in" if self.interrupted else "nothing found; exhausted"
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        lengths = f"of any length (no state is more than {steps} away)" if self.complete else f"of up to {steps}"
        after = f" after the {self.after} of the program" if self.after else ""
        return (
            f"{self.policy}: {verdict} {self.states:,} distinct states, {self.transitions:,} transitions,"
            f" all programs {lengths}{after} over {tried_pages(self.pages, self.every)} and"
            f" {', '.join(self.operations)}"
        )


def tried_pages(pages: int, every: int) -> str:
    """A mapping in words, and with which of its pages operations on one page are tried where that is not each."""
    some = range(0, pages, every)
    named = ", ".join(map(str, some[:3])) + (", …" if len(some) > 3 else "")
    return f"{pages} pages" + (f" (single pages: {named})" if every > 1 else "")


def rests_on(found: Sequence[Exhausted]) -> str:
    """What the verdict of some searches rests on, and what it says nothing about: three lines."""
    known = OPERATIONS + EXTRA_OPERATIONS
    searched = {name for each in found for name in each.operations}
    left_out = [name for name in known if name not in searched]
    never = [op.name for op in TABLE.values() if not op.tries]
    beyond = [] if all(each.complete for each in found) else ["longer programs"]
    beyond += ["programs that mix operations of several searches"] if len(found) > 1 else []
    asked = f"{', '.join(left_out)} (--operations takes them), and " if left_out else ""
    return (
        f"looked for: {', '.join(dict.fromkeys(chain.from_iterable(each.promises for each in found)))}\n"
        f"not searched: {asked}{', '.join(never)} (no search takes them)\n"
        f"not searched: {'; '.join([*beyond, 'other sizes, mappings, numbers of processes'])}"
    )


def counterexample(
    policy: Policy | str,
    *,
    pages: int = 4,
    steps: int | None = 6,
    orders: tuple[int, ...] = (2,),
    processes: int = 2,
    every: int = 1,
    operations: tuple[str, ...] = OPERATIONS,
    invariants: tuple[Invariant, ...] = KERNEL_PROMISES,
    progress: Progress | None = None,
    start: Scenario | None = None,
    seconds: float | None = None,
    memory_mib: int = MEMORY_MIB,
    jobs: int = 1,
    executor: Executor | None = None,
    checkpoint: str | Path | None = None,
) -> Counterexample | Exhausted:
    """Search all programs of up to `steps` steps, starting with one process and an untouched mapping.

    Parameters
    ----------
    policy : Policy or str
        Which kernel.
    pages, orders : int, tuple of int
        The mapping, and the sizes that are enabled.
    steps : int or None
        The longest program; None goes on until no state is left, and so speaks of programs of any length.
    processes : int
        How many may be alive at once.
    every : int
        Operations on one page are tried with multiples of it alone: of a large folio, few pages stand for all.
    operations : tuple of str
        From `OPERATIONS` and `EXTRA_OPERATIONS`. Advice, unmapping and moving act on halves of the mapping.
    invariants : tuple of Invariant
        What must not break.
    progress : callable, optional
        Told about once a second how far it is.
    start : Scenario, optional
        Search what may follow this program instead, over its mapping: `pages` and `orders` are then its own, and
        `steps` counts what is added to it. Its skew must be 0.
    seconds : float, optional
        Stop after so long, as Ctrl-C does.
    memory_mib : int
        Stop when what the search keeps takes more than so many MiB, by its own count: names of the states it has seen
        and those it has to go on from.
    jobs : int
        How many processes share the work. A policy with rules of its own can be shared where processes fork.
    executor : concurrent.futures.Executor, optional
        Who does the work instead. It gets functions and values that can be pickled.
    checkpoint : str or Path, optional
        A file that is kept up to date, and gone on from if it is there: of the same search, by the same version.

    Returns
    -------
    Counterexample or Exhausted
        True or false in an ``if``. Ctrl-C, or that a worker was killed, ends it with what is known so far.
    """
    policy = policy if isinstance(policy, Policy) else policy_named(policy)
    if start:
        pages = start.pages
    bound = {"pages": pages, "processes": processes, "every": every, "memory_mib": memory_mib, "jobs": jobs}
    _check_bound(operations, **bound, **({} if steps is None else {"steps": steps}))
    scenario = start or Scenario(pages, (), orders)
    if scenario.skew:
        raise ValueError(
            f"skew={scenario.skew}: the search names pages from 0, so a program that it goes on from has none"
        )
    space = Space(policy, scenario, tuple(operations), processes, tuple(invariants), every)
    if (alive := len(space.begin().live())) > MOST["processes"]:
        raise ValueError(f"{alive} processes are alive where it begins; the search takes {MOST['processes']} at most")
    limits = Limits(steps, seconds, memory_mib, executor, jobs, Path(checkpoint) if checkpoint else None)
    search = Exploration(space, limits, progress)
    why = ""
    try:
        found = search.run()
    except (KeyboardInterrupt, Stopped, WorkerLost) as stop:
        found, why = None, str(stop) or CTRL_C
    if found:
        return _explain(policy, scenario, found, search.states, search.transitions)
    return Exhausted(
        policy.name, scenario.pages, max(0, search.depth - (1 if why or search.complete else 0)), space.operations,
        search.states, search.transitions, bool(why), len(scenario.steps), why, search.complete,
        tuple(rule.name for rule in space.invariants), search.digest(), search.levels, every,
    )  # fmt: skip


def _explain(policy: Policy, start: Scenario, broken: Broken, states: int, transitions: int) -> Counterexample:
    program, violation = broken
    name = f"{violation.invariant.replace('_', '-')}-{policy.name}"
    about = f"Found by search: breaks {violation.invariant} under {policy.name}."
    scenario = start.but(steps=(*start.steps, *program), name=name, about=about)
    found = Counterexample(policy.name, scenario, violation, len(program), states, transitions, after=len(start.steps))
    process, vpn, number, holder = violation.process, violation.vpn, violation.pin, violation.holder
    if number is None or process is None or vpn is None:
        return found
    if holder is not None and violation.kind == "page":
        return _overwritten_shown(policy, found, (process, vpn), (holder, number))
    if holder is None:
        return _loss_shown(policy, found, process, vpn, number)
    return _leak_shown(policy, found, process, vpn, (holder, violation.kind, number))


def _loss_shown(policy: Policy, found: Counterexample, process: int, vpn: int, number: int) -> Counterexample:
    """A pin was lost: what one side writes the other does not read."""
    pin = found.scenario.end(policy).process(process).pins()["pin", number]
    where, through = (process, vpn), (process, number, vpn - pin.vpn)
    shown: tuple[Step, ...]
    if pin.writable:
        writer, reader, shown = "device", "process", (("dma_write", *through, SHOWN_BYTE), ("read", *where))
    else:
        writer, reader, shown = "process", "device", (("write", *where, SHOWN_BYTE), ("dma_read", *through))
    scenario = found.scenario.but(steps=(*found.scenario.steps, *shown))
    read = scenario.run(policy)[-1].value
    said = f"the {writer} wrote {SHOWN_BYTE:#04x}, the {reader} reads {read:#04x}"
    return replace(found, scenario=scenario, read=read, written=SHOWN_BYTE, said=said)


def _leak_shown(
    policy: Policy, found: Counterexample, process: int, vpn: int, held: tuple[int, str, int]
) -> Counterexample:
    """A page that another process holds can be written: what is written is read there."""
    holder, kind, number = held
    scenario = found.scenario.but(steps=(*found.scenario.steps, ("write", process, vpn, SHOWN_BYTE)))
    machine = scenario.end(policy)
    frames = list(machine.process(holder).pins()[kind, number].frames)
    written = machine.process(process).mm.pfn.item(vpn)
    read = machine.memory.content.item(frames[frames.index(written)])
    said = f"process {process} wrote {SHOWN_BYTE:#04x}, and process {holder} reads {read:#04x} through {kind} {number}"
    return replace(found, scenario=scenario, read=read, written=SHOWN_BYTE, said=said)


def _overwritten_shown(
    policy: Policy, found: Counterexample, writes: tuple[int, int], reads: tuple[int, int]
) -> Counterexample:
    """A page that another process maps can be written: that one reads what it did not write."""
    shown: tuple[Step, ...] = (("write", *writes, SHOWN_BYTE), ("read", *reads))
    scenario = found.scenario.but(steps=(*found.scenario.steps, *shown))
    read = scenario.run(policy)[-1].value
    said = (
        f"process {writes[0]} wrote {SHOWN_BYTE:#04x}, and process {reads[0]} reads {read:#04x} in its page {reads[1]}"
    )
    return replace(found, scenario=scenario, read=read, written=SHOWN_BYTE, said=said)


def _check_bound(operations: tuple[str, ...], **bound: int) -> None:
    for name, value in bound.items():
        if type(value) is not int or not 1 <= value <= MOST[name]:
            raise ValueError(
                f"{name}={given.said(value)}: the search needs at least one and takes {MOST[name]:,} at most"
            )
    known = OPERATIONS + EXTRA_OPERATIONS
    for op in operations or ("nothing",):
        if op not in known:
            raise ValueError(f"cannot search over {given.said(op)}; it knows {', '.join(known)}")
