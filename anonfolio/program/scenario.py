"""The program: a short list of steps over one mapping, the same for every witness.

A `Scenario` runs on the model under any policy and gives a `Timeline`; a recording of a real kernel is the same
list of steps with what that kernel's page tables held. `compare` puts two of them beside each other.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..kernel import given
from ..kernel.given import check_call, check_kind, said
from ..kernel.policy import LINUX_6_15, Policy, check_orders
from ..kernel.record import Fault
from ..kernel.sizes import PTRS_PER_PMD
from ..machine.machine import MOST_ORDERS, Machine, check_knobs
from ..machine.show import Shown, show
from ..machine.snapshot import Snapshot
from .formats import is_file, read_text
from .ops import TABLE, ScenarioError, Step, check_count, check_step, do_step, in_text, parse_number, parse_step
from .witnesses import Difference, Witnessed, compare, live_run, recorded_run

__all__ = [
    "OPS", "Result", "Scenario", "ScenarioError", "Step", "Timeline", "check_step", "do_step", "run_step",
    "scenario_names",
]  # fmt: skip

OPS: dict[str, tuple[str, ...]] = {name: op.arguments for name, op in TABLE.items()}
"""Every operation and its arguments after the process (`anonfolio.program.ops` says all else of them)."""
MOST_PAGES = 1 << 20
"""4 GiB. Each step of a run keeps what the whole mapping holds."""
MOST_STEPS, MOST_WORDS = 1 << 20, 64
"""More than any program has that is written down, and any step."""
MOST_KEPT_BYTES = 1 << 28
"""So much of all its moments does a run keep, about: 15,000 of 512 pages in folios of 64 KiB."""


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
        try:
            return self.results[operator.index(step)]
        except IndexError:
            raise IndexError(f"there is no step {step!s:.60}; there are {len(self)}, numbered from 0") from None
        except Exception:
            raise ValueError(f"step={said(step)} is not a whole number") from None

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
        if step is not None and self.results:
            self[step]
        return show(self, step if self.results else None)

    def compare(self, other: Timeline | Witnessed) -> list[Difference]:
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
        Enabled sizes, whose knobs say inherit. With `knobs`, the sizes that those do not switch off.
    skew : int
        The mapping starts that many pages after a 2 MiB boundary.
    name, about : str
        What it is called, and what it shows in a sentence.
    knobs : mapping of int to str, or tuple of pairs
        In place of `orders`, what each ``hugepages-*kB/enabled`` says: always, madvise, inherit or never (which the
        others do). Kept as pairs, lowest order first.
    thp : {"madvise", "always", "never"}
        What the global knob says.
    advice : {"", "hugepage", "nohugepage", "none"}
        What the mapping was given at once; by default MADV_HUGEPAGE, or MADV_NOHUGEPAGE where `orders` is empty.
    """

    pages: int
    steps: tuple[Step, ...]
    orders: tuple[int, ...] = (4, 3, 2)
    skew: int = 0
    name: str = ""
    about: str = ""
    knobs: tuple[tuple[int, str], ...] = ()
    thp: str = "madvise"
    advice: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", self.knobs or ())
        if self.knobs:
            _say_by_size(self)
        for field, most in (("steps", MOST_STEPS), ("orders", MOST_ORDERS)):
            try:
                object.__setattr__(self, field, given.items(field, getattr(self, field), most))
            except ValueError as error:
                raise ScenarioError(str(error)) from None
        try:
            steps = tuple(_as_step(step) for step in self.steps)
            object.__setattr__(self, "steps", steps)
        except ValueError:
            raise ScenarioError(
                "steps are tuples of an operation and what it takes, such as ('write', 0, 5, 7)"
            ) from None
        _check_scenario(self)
        lines = [line.strip() for line in self.about.splitlines()]
        object.__setattr__(self, "about", "\n".join(lines).strip())

    @property
    def first_vpn(self) -> int:
        """The page number at which the mapping starts; the 2 MiB boundary before it is page 0."""
        return self.skew

    def but(self, **changes: Any) -> Scenario:
        """This scenario with some fields changed."""
        return replace(self, **changes)

    def machine(self, policy: Policy | str = LINUX_6_15, *, frames: int = 1 << 20) -> Machine:
        """A machine as the scenario finds it: one process with the mapping, nothing touched."""
        machine = Machine(policy, knobs=self.sizes, thp=self.thp, frames=frames)
        first = machine.spawn(range(self.first_vpn, self.first_vpn + self.pages))
        first.mmap(self.pages, at=self.first_vpn, advice=self.advised)
        return machine

    @property
    def sizes(self) -> dict[int, str]:
        """What each size's knob says, of those that are not off."""
        return dict(self.knobs) if self.knobs else dict.fromkeys(self.orders, "inherit")

    @property
    def advised(self) -> str | None:
        """The advice that the mapping is given at once."""
        default = "hugepage" if self.orders else "nohugepage"
        return None if self.advice == "none" else self.advice or default

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
        check_call("prepare", prepare)
        machine = self.machine(policy, frames=frames)
        if prepare:
            prepare(machine)
        start = machine.snapshot()
        results, kept_bytes = [], 0
        for number, step in enumerate(self.steps, 1):
            results.append(run_step(machine, step, self.first_vpn))
            kept_bytes += _kept_bytes(results[-1].snapshot)
            if kept_bytes > MOST_KEPT_BYTES:
                raise ScenarioError(
                    f"step {number:,} of {len(self.steps):,}: what each step left is by now more than"
                    f" {MOST_KEPT_BYTES >> 20} MiB; take fewer steps, or fewer pages than {self.pages:,}"
                )
        return Timeline(self, machine.policy, start, tuple(results))

    def recorded(self, kernel: str) -> Witnessed:
        """What a kernel did with this scenario, by the first numbers of its version (``"6.18"``)."""
        return recorded_run(self, kernel)

    def live(self) -> Witnessed:
        """What the kernel of this machine does with it; LiveError says what is missing, root for instance."""
        return live_run(self)

    def text(self) -> str:
        """The scenario as a small readable file (see `Scenario.parse`)."""
        head = [f"# {line}" for line in self.about.splitlines()]
        head += [f"scenario {_quoted(self.name)}", f"pages {self.pages}"]
        if self.knobs:
            head.append(" ".join(["knobs", *(f"{order}={said}" for order, said in self.knobs)]))
        else:
            head.append(" ".join(map(str, ("orders", *self.orders))))
        defaults = {"skew": 0, "thp": "madvise", "advice": ""}
        head += [f"{name} {value}" for name in defaults if (value := getattr(self, name)) != defaults[name]]
        return "\n".join([*head, "", *(" ".join(map(in_text, step)) for step in self.steps)]) + "\n"

    @classmethod
    def parse(cls, text: str, source: str = "scenario") -> Scenario:
        """Read a small readable file.

        A line is ``scenario NAME``, ``pages N``, ``orders N …``, ``skew N``, or a step as recordings write it, words
        separated by spaces. In place of orders, ``knobs 4=always 9=inherit`` says it per size; ``thp never`` sets the
        global knob, ``advice none`` what the mapping is given. A name that is not one word is quoted as in JSON. ``#``
        starts a comment; comments before the first line are the sentence that says what it shows. ``write 0 0..15``
        writes pages 0 to 15, byte = page + 1; ``read 0 0..15`` reads them.
        """
        check_kind("text", text, str)
        fields: dict[str, Any] = {}
        about: list[str] = []
        lines: list[tuple[str, list[str]]] = []
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{source}, line {number}"
            with _located(where):
                words = _words(line)
                if not words:
                    if line.startswith("#") and not (fields or lines):
                        about.append(line[1:])
                elif words[0] in TABLE:
                    lines.append((where, words))
                else:
                    name, value = _field(words)
                    if name in fields:
                        raise ScenarioError(f"{words[0]} is said twice")
                    fields[name] = value
        if "orders" in fields and "knobs" in fields:
            raise ScenarioError(f"{source}: says orders and knobs; knobs stand in place of orders")
        if "pages" not in fields:
            raise ScenarioError(f"{source}: no line says how many pages the mapping has (pages 16)")
        alive, steps = [True], list[Step]()
        for where, words in lines:
            with _located(where):
                made = parse_step(words, fields["pages"])
                check_count(len(steps) + len(made))
                for step in made:
                    check_step(step, fields["pages"], alive)
            steps += made
        with _located(source):
            return cls(steps=tuple(steps), about="\n".join(about), **fields)

    @classmethod
    def load(cls, name: str | Path) -> Scenario:
        """A named scenario of the library, or a file (anything with a slash of any kind or a suffix, or a `Path`)."""
        check_kind("name", name, str, Path)
        path = Path(name) if is_path(name) else SCENARIO_DIR / f"{name}.scenario"
        if not is_path(name) and not is_file(path):
            close = ", ".join(other for other in scenario_names() if str(name)[:4] in other) or "see scenario_names()"
            raise ScenarioError(f"there is no scenario {name!r:.200}; similar: {close}")
        return cls.parse(read_text(path, ScenarioError), path.name)


SCENARIO_DIR = Path(__file__).parent.parent / "scenarios"


def is_path(name: str | Path) -> bool:
    """Whether a scenario that is called so is a file of the reader's, not one of the library."""
    return isinstance(name, Path) or any(mark in name for mark in "/\\.")


def scenario_names() -> list[str]:
    """The named scenarios of the library, in the order of the worked scenarios."""
    return [path.stem for path in sorted(SCENARIO_DIR.glob("*.scenario"), key=lambda path: path.stem)]


# --- running --------------------------------------------------------------------------------------------------------


def run_step(machine: Machine, step: Step, base: int = 0) -> Result:
    """Do one step and look: what it did, and what everything holds afterwards."""
    ok, value, why = do_step(machine, step, base)
    return Result(step, ok, value, why, tuple(machine.faults), machine.snapshot())


def _kept_bytes(snapshot: Snapshot) -> int:
    """About what a moment takes: arrays of six bytes a page and four a frame, and some objects a folio."""
    pages = sum(mapping.end - mapping.start for process in snapshot.processes for mapping in process.mappings)
    return 6 * pages + sum(400 + (4 << folio.order) for folio in snapshot.folios)


# --- checking and reading -------------------------------------------------------------------------------------------


@contextmanager
def _located(where: str) -> Iterator[None]:
    """What is wrong in here is wrong there."""
    try:
        yield
    except ScenarioError as error:
        raise ScenarioError(f"{where}: {error}") from None


def _as_step(step: Any) -> Step:
    """A step as a tuple; ValueError for what is none, and for text, of which each letter would be one."""
    if isinstance(step, str):
        raise ValueError("a step is text")
    return given.items("a step", step, MOST_WORDS)


def _check_scenario(scenario: Scenario) -> None:
    _check_mapping(scenario.pages, scenario.skew, scenario.orders)
    for field, words in (("thp", THP), ("advice", ADVISED)):
        value = getattr(scenario, field)
        if not isinstance(value, str) or value not in words:
            raise ScenarioError(f"{field}={given.said(value)} is none of {', '.join(map(repr, words))}")
    _check_words(scenario.name, scenario.about)
    check_count(len(scenario.steps))
    alive = [True]
    for number, step in enumerate(scenario.steps, 1):
        try:
            check_step(step, scenario.pages, alive)
        except ScenarioError as error:
            raise ScenarioError(f"step {number} {given.said(list(step))}: {error}") from None


def _check_mapping(pages: int, skew: int, orders: tuple[int, ...]) -> None:
    if type(pages) is not int or not 1 <= pages <= MOST_PAGES:
        raise ScenarioError(f"pages={given.said(pages)}: a mapping has at least one page and at most {MOST_PAGES:,}")
    if type(skew) is not int or not 0 <= skew < PTRS_PER_PMD:
        raise ScenarioError(f"skew={given.said(skew)} must lie in 0..{PTRS_PER_PMD - 1}")
    try:
        check_orders(orders, "orders")
    except ValueError as error:
        raise ScenarioError(f"{error!s:.200}") from None


THP = ("always", "madvise", "never")
ADVISED = ("", "none", "hugepage", "nohugepage")


def _say_by_size(scenario: Scenario) -> None:
    """Keep what the knobs say as sorted pairs, and as orders those that they do not switch off."""
    try:
        knobs = check_knobs(dict(scenario.knobs), "madvise")
    except (ValueError, TypeError) as error:
        raise ScenarioError(f"knobs={given.said(scenario.knobs)}: {error!s:.200}") from None
    object.__setattr__(scenario, "knobs", tuple(sorted(knobs.items())))
    object.__setattr__(scenario, "orders", tuple(sorted(order for order, said in knobs.items() if said != "never")))


def _check_words(*words: str) -> None:
    for word in words:
        try:
            word.encode()
        except (AttributeError, UnicodeEncodeError):
            raise ScenarioError(f"{given.said(word)} is no text, which a name and a description are") from None


UNNAMED = "unnamed"


def _quoted(name: str) -> str:
    """A name as one word, or as a JSON string; the word for none is quoted where it is a name."""
    if not name:
        return UNNAMED
    return name if re.fullmatch(r"[\w.+-]+", name) and name != UNNAMED else json.dumps(name)


def _words(line: str) -> list[str]:
    """The words of a line without its comment; a quoted name is one of them."""
    if quoted := re.fullmatch(r'scenario\s+("(?:[^"\\]|\\.)*")\s*(?:#.*)?', line.strip()):
        try:
            return ["scenario", json.loads(quoted[1])]
        except ValueError:
            raise ScenarioError(f"{quoted[1]:.60} is no name: a quoted one is a JSON string") from None
    words = line.split("#", 1)[0].split()
    return ["scenario", ""] if words == ["scenario", UNNAMED] else words


def _field(words: Sequence[str]) -> tuple[str, Any]:
    """A field of a scenario and its value, from a line that is no step."""
    name, *rest = words
    if name == "scenario" and len(rest) == 1:
        return "name", rest[0]
    if name == "orders":
        orders = tuple(parse_number(word, "an order") for word in rest)
        _check_mapping(1, 0, orders)
        return "orders", orders
    if name == "knobs" and rest:
        pairs = [re.fullmatch(r"(\d{1,9})=([a-z]+)", word) for word in rest]
        if not all(pairs) or len({pair[1] for pair in pairs if pair}) < len(rest):
            raise ScenarioError(
                f"{given.said(' '.join(rest))} does not say a word once a size, such as 4=always 9=inherit"
            )
        return "knobs", tuple((int(pair[1]), pair[2]) for pair in pairs if pair)
    if name in ("thp", "advice") and len(rest) == 1:
        return name, rest[0]
    if name in ("pages", "skew") and len(rest) == 1:
        value = parse_number(rest[0], name)
        _check_mapping(*((value, 0) if name == "pages" else (1, value)), ())
        return name, value
    raise ScenarioError(f"{given.said(name)} is neither a field nor an operation ({', '.join(TABLE)})")
