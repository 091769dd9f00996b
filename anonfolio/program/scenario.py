"""The program: a short list of steps over one mapping, the same for every witness.

A `Scenario` runs on the model under any policy and gives a `Timeline`; a recording of a real kernel is the same
list of steps with what that kernel's page tables held. `compare` puts two of them beside each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..kernel.policy import LINUX_6_15, Policy, check_orders
from ..kernel.record import Fault
from ..kernel.sizes import PTRS_PER_PMD
from ..machine.machine import ADVICE, PROTECTIONS, Machine, Outcome, Process, SegmentationFault
from ..machine.show import Shown, show
from ..machine.snapshot import Snapshot
from .witnesses import Differing, Witnessed, compare, live_run, recorded_run

Step = tuple[Any, ...]
"""One step as recordings write it: ``(op, process, argument, …)``."""

OPS: dict[str, tuple[str, ...]] = {
    "write": ("page", "byte"),
    "read": ("page",),
    "fork": (),
    "exit": (),
    "munmap": ("page", "n"),
    "mremap": ("page", "n", "newpage"),
    "mprotect": ("page", "n", "prot"),
    "madvise": ("page", "n", "advice"),
    "pin": ("page", "n", "id"),
    "unpin": ("id",),
    "gup": ("page",),
    "ref": ("page", "id"),
    "unref": ("id",),
    "dma_write": ("id", "k", "byte"),
    "dma_read": ("id", "k"),
    "pin_ro": ("page", "n", "id"),
    "forkfail": ("page",),
    "forkfail_after": ("pages",),
}
"""Every operation and its arguments after the process. ``forkfail_after`` is fault injection: the model's alone."""


class ScenarioError(ValueError):
    """A scenario that cannot be run: which step, what is wrong, what would be right."""


@dataclass(frozen=True)
class Result:
    """What one step did.

    Attributes
    ----------
    step : Step
        The step itself.
    ok : bool
        False when the kernel refused it, or the access was a SIGSEGV; `why` says the reason.
    value : int or None
        What read, gup and dma_read returned.
    faults : tuple of Fault
        Its faults, those that the kernel took on the process's behalf included.
    snapshot : Snapshot
        What everything holds after it.
    """

    step: Step
    ok: bool
    value: int | None
    why: str
    faults: tuple[Fault, ...]
    snapshot: Snapshot

    @property
    def user_faults(self) -> list[Fault]:
        """The faults that a user access took, as the kernel's tracepoint sees them."""
        return [fault for fault in self.faults if fault.user]


@dataclass(frozen=True)
class Timeline:
    """A scenario run on the model: one `Result` per step, and the state before the first. Going back is indexing."""

    scenario: Scenario
    policy: Policy
    start: Snapshot
    results: tuple[Result, ...]

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, step: int) -> Result:
        return self.results[step]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def faults(self) -> list[Fault]:
        """Every fault of the run, in order."""
        return [fault for result in self.results for fault in result.faults]

    def codes(self) -> list[str]:
        """Per write and read, what came of it: ``["alloc4", "nf", …]``, as the worked scenarios write it."""
        return [
            result.faults[-1].code if result.faults else "nf"
            for result in self.results
            if result.step[0] in ("write", "read")
        ]

    def show(self, step: int | None = -1) -> Shown:
        """The picture after a step (the last by default; None for the state before the first), changes marked."""
        return show(self, step)

    def compare(self, other: Timeline | Witnessed) -> list[Differing]:
        """Where another witness of the same scenario differs, step by step; empty when it agrees."""
        return compare(self, other)


@dataclass(frozen=True)
class Scenario:
    """A program over one mapping.

    Attributes
    ----------
    pages : int
        Size of the mapping. A page argument is an index in it.
    steps : tuple of Step
        ``(op, process, …)`` with the arguments that `OPS` names. Process 0 is the first, fork makes the next number.
    orders : tuple of int
        Enabled sizes; none means MADV_NOHUGEPAGE, else the mapping has MADV_HUGEPAGE and the knobs say madvise.
    skew : int
        The mapping starts that many pages after a 2 MiB boundary.
    name, about : str
        What it is called, and what it shows in a sentence.
    """

    pages: int
    steps: tuple[Step, ...]
    orders: tuple[int, ...] = (4, 3, 2)
    skew: int = 0
    name: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(tuple(step) for step in self.steps))
        object.__setattr__(self, "orders", tuple(self.orders))
        _check_scenario(self)

    @property
    def first_vpn(self) -> int:
        """The page number at which the mapping starts; the 2 MiB boundary before it is page 0."""
        return self.skew

    def but(self, **changes: Any) -> Scenario:
        """This scenario with some fields changed."""
        return replace(self, **changes)

    def machine(self, policy: Policy | str = LINUX_6_15, *, frames: int = 1 << 20) -> Machine:
        """A machine as the scenario finds it: one process with the mapping, nothing touched."""
        machine = Machine(policy, orders=self.orders, thp="madvise", frames=frames)
        machine.spawn().mmap(self.pages, at=self.first_vpn, advice="hugepage" if self.orders else "nohugepage")
        return machine

    def end(self, policy: Policy | str = LINUX_6_15, *, frames: int = 1 << 20) -> Machine:
        """The machine after the last step, to go on from."""
        machine = self.machine(policy, frames=frames)
        for step in self.steps:
            do_step(machine, step, self.first_vpn)
        return machine

    def run(
        self,
        policy: Policy | str = LINUX_6_15,
        *,
        frames: int = 1 << 20,
        prepare: Callable[[Machine], None] | None = None,
    ) -> Timeline:
        """Run on the model.

        Parameters
        ----------
        policy : Policy or str
            Which kernel.
        frames : int
            Base pages of memory.
        prepare : callable, optional
            Called with the machine before the first step, to fragment its memory for instance.
        """
        machine = self.machine(policy, frames=frames)
        if prepare:
            prepare(machine)
        start = machine.snapshot()
        results = tuple(run_step(machine, step, self.first_vpn) for step in self.steps)
        return Timeline(self, machine.policy, start, results)

    def recorded(self, kernel: str) -> Witnessed:
        """What a kernel did with this scenario, by the first numbers of its version (``"6.18"``)."""
        return recorded_run(self, kernel)

    def live(self) -> Witnessed:
        """What the kernel of this machine does with it; LiveError says what is missing, root for instance."""
        return live_run(self)

    def text(self) -> str:
        """The scenario as a small readable file (see `Scenario.parse`)."""
        head = [f"# {line}" for line in self.about.splitlines()]
        head += [f"scenario {self.name or 'unnamed'}", f"pages {self.pages}"]
        head.append(" ".join(map(str, ("orders", *self.orders))))
        if self.skew:
            head.append(f"skew {self.skew}")
        return "\n".join([*head, "", *(" ".join(map(str, step)) for step in self.steps)]) + "\n"

    @classmethod
    def parse(cls, text: str, source: str = "scenario") -> Scenario:
        """Read a small readable file.

        A line is ``scenario NAME``, ``pages N``, ``orders N …``, ``skew N``, or a step as recordings write it, words
        separated by spaces. ``#`` starts a comment; comments before the first line are the sentence that says what
        it shows. ``write 0 0..15`` writes pages 0 to 15, byte = page + 1; ``read 0 0..15`` reads them.
        """
        fields: dict[str, Any] = {"orders": (4, 3, 2), "skew": 0, "name": "", "pages": None}
        about: list[str] = []
        steps: list[tuple[int, Step]] = []
        seen_any = False
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split("#", 1)[0].split()
            if not words:
                if line.startswith("#") and not seen_any:
                    about.append(line[1:].strip())
                continue
            seen_any = True
            try:
                if words[0] in OPS:
                    steps.extend((number, step) for step in _parse_step(words))
                elif words[0] == "scenario" and len(words) == 2:
                    fields["name"] = words[1]
                elif words[0] == "orders":
                    fields["orders"] = tuple(_number(word, "an order") for word in words[1:])
                    _check_mapping(1, 0, fields["orders"])
                elif words[0] in ("pages", "skew") and len(words) == 2:
                    fields[words[0]] = _number(words[1], words[0])
                else:
                    raise ScenarioError(f"{words[0]!r} is neither a field nor an operation ({', '.join(OPS)})")
            except ScenarioError as error:
                raise ScenarioError(f"{source}, line {number}: {error}") from None
        if fields["pages"] is None:
            raise ScenarioError(f"{source}: no line says how many pages the mapping has (pages 16)")
        alive = [True]
        for number, step in steps:
            try:
                check_step(step, fields["pages"], alive)
            except ScenarioError as error:
                raise ScenarioError(f"{source}, line {number}: {error}") from None
        try:
            return cls(steps=tuple(step for _, step in steps), about="\n".join(about), **fields)
        except ScenarioError as error:
            raise ScenarioError(f"{source}: {error}") from None

    @classmethod
    def load(cls, name: str | Path) -> Scenario:
        """A named scenario of the library, or a file (anything with a slash or a suffix, or a `Path`)."""
        path = Path(name) if isinstance(name, Path) or "/" in name or "." in name else SCENARIO_DIR / f"{name}.scenario"
        if not path.is_file():
            close = ", ".join(other for other in scenario_names() if str(name)[:4] in other) or "see scenario_names()"
            raise ScenarioError(f"there is no scenario {str(name)!r}; similar: {close}")
        return cls.parse(path.read_text(encoding="utf-8"), path.name)


SCENARIO_DIR = Path(__file__).parent.parent / "scenarios"


def scenario_names() -> list[str]:
    """The named scenarios of the library, in the order of the worked scenarios."""
    return [path.stem for path in sorted(SCENARIO_DIR.glob("*.scenario"), key=lambda path: path.stem)]


# --- running --------------------------------------------------------------------------------------------------------


Answer = tuple[bool, int | None, str]
"""Whether a step was done, the value it returned, and why it was not."""


def run_step(machine: Machine, step: Step, base: int = 0) -> Result:
    """Do one step and look: what it did, and what everything holds afterwards."""
    ok, value, why = do_step(machine, step, base)
    return Result(step, ok, value, why, tuple(machine.faults), machine.snapshot())


def do_step(machine: Machine, step: Step, base: int = 0) -> Answer:
    """Do one step; `base` is added to page arguments. What the kernel refuses is an answer, misuse an exception."""
    op, number, *arguments = step
    process = machine.process(number)
    try:
        return _RUN[op](process, base, *arguments)
    except SegmentationFault as fault:
        return False, None, str(fault)


DONE: Answer = (True, None, "")


def _answer(outcome: Outcome) -> Answer:
    return outcome.ok, None, outcome.why


def _write(process: Process, base: int, page: int, byte: int) -> Answer:
    process.write(base + page, byte)
    return DONE


def _fork(process: Process, base: int) -> Answer:
    process.fork()
    return DONE


def _exit(process: Process, base: int) -> Answer:
    process.exit()
    return DONE


def _pin(process: Process, base: int, page: int, n: int, id: int, *, write: bool = True) -> Answer:
    if ("pin", id) in process.pins():
        return False, None, f"EBUSY: process {process.number} holds pin {id} already"
    return _answer(process.pin(base + page, n, id, write=write))


def _ref(process: Process, base: int, page: int, id: int) -> Answer:
    if ("reference", id) in process.pins():
        return False, None, f"EBUSY: process {process.number} holds reference {id} already"
    return _answer(process.ref(base + page, id))


def _forkfail(process: Process, base: int, page: int) -> Answer:
    if not process.may_fork_fail_at(base + page):
        return False, None, f"fork does not come past page {page}: it is in no mapping that fork copies"
    return _answer(process.fork_fails(base + page))


def _gup(process: Process, base: int, page: int) -> Answer:
    value = process.gup(base + page)
    return value is not None, value, "" if value is not None else "EFAULT"


def _dma_write(process: Process, base: int, id: int, k: int, byte: int) -> Answer:
    pin = process.pins().get(("pin", id))
    if pin is None or not pin.writable or k >= len(pin.frames):
        return False, None, f"process {process.number} holds no pin {id} for writing with a page {k}"
    process.dma_write(id, k, byte)
    return DONE


def _dma_read(process: Process, base: int, id: int, k: int) -> Answer:
    pin = process.pins().get(("pin", id))
    if pin is None or k >= len(pin.frames):
        return False, None, f"process {process.number} holds no pin {id} with a page {k}"
    return True, process.dma_read(id, k), ""


_RUN: dict[str, Callable[..., Answer]] = {
    "write": _write,
    "read": lambda p, base, page: (True, p.read(base + page), ""),
    "fork": _fork,
    "exit": _exit,
    "munmap": lambda p, base, page, n: _answer(p.munmap(base + page, n)),
    "mremap": lambda p, base, page, n, new: _answer(p.mremap(base + page, n, base + new)),
    "mprotect": lambda p, base, page, n, prot: _answer(p.mprotect(base + page, n, prot)),
    "madvise": lambda p, base, page, n, advice: _answer(p.madvise(base + page, n, advice)),
    "pin": _pin,
    "pin_ro": partial(_pin, write=False),
    "unpin": lambda p, base, id: _answer(p.unpin(id)),
    "gup": _gup,
    "ref": _ref,
    "unref": lambda p, base, id: _answer(p.unref(id)),
    "dma_write": _dma_write,
    "dma_read": _dma_read,
    "forkfail": _forkfail,
    "forkfail_after": lambda p, base, pages: _answer(p.fork_fails_after(pages)),
}


# --- checking -------------------------------------------------------------------------------------------------------


def _check_scenario(scenario: Scenario) -> None:
    _check_mapping(scenario.pages, scenario.skew, scenario.orders)
    alive = [True]
    for number, step in enumerate(scenario.steps, 1):
        try:
            check_step(step, scenario.pages, alive)
        except ScenarioError as error:
            raise ScenarioError(f"step {number} {list(step)}: {error}") from None


def _check_mapping(pages: int, skew: int, orders: tuple[int, ...]) -> None:
    if not isinstance(pages, int) or pages < 1:
        raise ScenarioError(f"pages={pages!r}: a mapping has at least one page")
    if not isinstance(skew, int) or not 0 <= skew < PTRS_PER_PMD:
        raise ScenarioError(f"skew={skew!r} must lie in 0..{PTRS_PER_PMD - 1}")
    try:
        check_orders(orders, "orders")
    except ValueError as error:
        raise ScenarioError(str(error)) from None


def check_step(step: Step, pages: int, alive: list[bool]) -> None:
    """Raise ScenarioError unless the step makes sense for a mapping of `pages`; keeps `alive` up to date."""
    if not step or not isinstance(step[0], str) or step[0] not in OPS:
        raise ScenarioError(f"there is no operation {step[0] if step else ''!r}; there are {', '.join(OPS)}")
    op, names = step[0], OPS[step[0]]
    if len(step) != 2 + len(names):
        raise ScenarioError(f"{op} takes {', '.join(('process', *names))}")
    process = step[1]
    if not _is_count(process) or process >= len(alive):
        raise ScenarioError(f"there is no process {process!r}; so far there are {len(alive)}, numbered from 0")
    if not alive[process]:
        raise ScenarioError(f"process {process} has exited")
    arguments = dict(zip(names, step[2:], strict=True))
    for name, value in arguments.items():
        _check_argument(name, value, pages)
    for start in ("page", "newpage"):
        if start in arguments and arguments[start] + arguments.get("n", 1) > pages:
            last = arguments[start] + arguments.get("n", 1) - 1
            raise ScenarioError(f"page {last} is outside the mapping, which has pages 0..{pages - 1}")
    if op == "fork":
        alive.append(True)
    if op == "exit":
        alive[process] = False


def _check_argument(name: str, value: Any, pages: int) -> None:
    if name == "advice":
        if value not in ADVICE:
            raise ScenarioError(f"there is no advice {value!r}; there are {', '.join(ADVICE)}")
    elif name == "prot":
        if value not in PROTECTIONS:
            raise ScenarioError(f"prot {value!r} is neither 1 (read) nor 3 (read and write)")
    elif not _is_count(value):
        raise ScenarioError(f"{name} is {value!r}, not a number from 0")
    elif name == "byte" and value > 255:
        raise ScenarioError(f"byte {value} is not in 0..255")
    elif name == "n" and value < 1:
        raise ScenarioError("a range has at least one page")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(word: str, what: str) -> int:
    if not word.isdecimal():
        raise ScenarioError(f"{what} is {word!r}, not a number")
    return int(word)


def _parse_step(words: Sequence[str]) -> list[Step]:
    op, *rest = words
    if op in ("write", "read") and len(rest) == 2 and (span := re.fullmatch(r"(\d+)\.\.(\d+)", rest[1])):
        process, first, last = _number(rest[0], "process"), int(span[1]), int(span[2])
        if last < first:
            raise ScenarioError(f"{rest[1]} holds no page; a span goes from the lower page to the higher")
        pages = range(first, last + 1)
        return [(op, process, page, (page + 1) % 256) if op == "write" else (op, process, page) for page in pages]
    names = ("process", *OPS[op])
    if len(rest) != len(names):
        raise ScenarioError(f"{op} takes {', '.join(names)}")
    return [(op, *(word if name == "advice" else _number(word, name) for name, word in zip(names, rest, strict=True)))]
