"""The playground: a program built by clicking pages, run under any policy, drawn and checked after every step.

Python keeps the program, runs it and draws it; the browser sends what was clicked and shows what comes back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import chain, count
from pathlib import Path
from threading import RLock, Thread
from typing import Any, ClassVar, Concatenate, NamedTuple, ParamSpec, TypeVar

import traitlets

from ..draw.drawing import stylesheet, unstyled
from ..draw.picture import Picture
from ..draw.plan import LABEL, PITCH
from ..draw.scene import after, folio_numbers, scene
from ..draw.svg import legend
from ..kernel.buddy import OutOfMemory
from ..kernel.late import TooLong, watched
from ..kernel.policy import POLICIES, Policy, policy_named
from ..kernel.sizes import ANON_ORDERS, PTRS_PER_PMD
from ..machine.invariants import INVARIANTS, KERNEL_PROMISES, Violation, check
from ..machine.machine import ADVICE, Machine
from ..machine.snapshot import Snapshot
from ..program.exploration import Stopped
from ..program.ops import TABLE, WORDS, in_text
from ..program.scenario import OPS, Result, Scenario, ScenarioError, Step, Timeline, run_step
from ..program.search import Counterexample, Exhausted, counterexample
from .program import Sharing

MOST_PAGES = PTRS_PER_PMD
CELLS = 64
"""Of more pages, rows that go on alike are one bar; a click in it takes the page that lies there."""
FRAMES = 1 << 14
SEARCHED_PAGES, SEARCHED_ORDERS = 4, (2,)
"""The small mapping on which a search from nothing ends before one loses patience."""
SEARCHED_PROCESSES, SEARCHED_STEPS = 4, 6
LATE_S = 5
"""So long after its time a search may still be busy with one step; then it is stopped."""
PLACES = ("use", "do", "change", "save", "search")
"""Where an answer is shown: beside what asked for it."""


# --- tools ----------------------------------------------------------------------------------------------------------


class Tool(NamedTuple):
    """What a click on pages does: the group it stands in, its name on the button, what it is, and what of it is chosen.

    `op` is the operation, where that has another name; `fixed` are arguments that the tool itself says.
    """

    name: str
    group: str
    label: str
    help: str
    choices: tuple[str, ...] = ()
    op: str = ""
    fixed: Mapping[str, Any] = {}


_RESIZED = {"double": (2, 1), "halve": (1, 2), "keep": (1, 1)}
"""What `remap` makes of so many pages; ``keep`` moves them, and the old mapping stays, empty."""
TOOLS = (
    Tool("write", "", "Write", "write one byte to each page; the byte is the number of the step"),
    Tool("read", "", "Read", "read each page"),
    Tool("munmap", "", "Unmap", "munmap the pages"),
    Tool("madvise", "", "Advise", "madvise with the advice chosen beside", ADVICE),
    Tool("pin", "", "Pin", "pin the pages for a device that reads and writes (FOLL_PIN)"),
    Tool("gup", "access", "Read via kernel", "have the kernel read each page through a short pin (get user pages)"),
    Tool("protect", "mapping", "Make read-only", "mprotect(PROT_READ)", op="mprotect", fixed={"prot": 1}),
    Tool("unprotect", "mapping", "Make writable", "mprotect(PROT_READ | PROT_WRITE)", op="mprotect",
         fixed={"prot": 3}),
    Tool("forbid", "mapping", "Forbid", "mprotect(PROT_NONE)", op="mprotect", fixed={"prot": 0}),
    Tool("mremap", "mapping", "Move", "mremap: first the pages, then the page where they begin anew"),
    Tool("remap", "mapping", "Resize", "mremap to another size, or with MREMAP_DONTUNMAP (keep)", tuple(_RESIZED)),
    Tool("mmap", "mapping", "Map", "mmap the pages, readable and writable; MAP_FIXED but for noreplace",
         tuple(how for how in WORDS["how"] if how != "anywhere"), fixed={"prot": 3}),
    Tool("brk", "mapping", "End the heap here", "brk: the heap goes up to this page"),
    Tool("mlock", "memory", "Lock", "mlock: all pages are faulted in and stay"),
    Tool("mlock_onfault", "memory", "Lock on fault", "mlock2(MLOCK_ONFAULT): pages stay once they have come"),
    Tool("munlock", "memory", "Unlock", "munlock"),
    Tool("split", "memory", "Split", "split the folios of these pages to the order chosen beside (debugfs)",
         tuple(map(str, (0, *ANON_ORDERS)))),
    Tool("shrink", "memory", "Memory gets short", "the shrinker splits what is partly mapped; the pages do not matter"),
    Tool("clear_refs", "memory", "Forget accesses", "clear_refs of the whole process", fixed={"which": 1}),
    Tool("thp_disable", "memory", "Disable huge pages", "prctl(PR_SET_THP_DISABLE) for the whole process",
         WORDS["disabled"]),
    Tool("pin_ro", "device", "Pin to read", "pin the pages for a device that only reads"),
    Tool("dma_write", "device", "Device writes", "the device writes a byte to the pinned pages"),
    Tool("dma_read", "device", "Device reads", "the device reads the pinned pages"),
    Tool("unpin", "device", "Unpin", "let go of every pin on these pages"),
    Tool("ref", "reference", "Take", "take a plain reference to each page (FOLL_GET, as vmsplice does)"),
    Tool("unref", "reference", "Drop", "let go of every plain reference to these pages"),
    Tool("forkfail", "fork", "Fork that fails here", "a fork that comes no further than the mapping of this page"),
    Tool("forkfail_after", "fork", "Fork that fails after so many",
         "a fork that fails after as many pages as are chosen"),
)  # fmt: skip
TOOL_NAMES = tuple(tool.name for tool in TOOLS)
EACH = ("write", "read", "gup", "ref")
"""Operations on one page, which are done to each of several."""


def _holding(machine: Machine, process: int, kind: str, page: int) -> list[int]:
    """The numbers of the pins or references through which a process holds what it had at a page."""
    pins = machine.process(process).pins().items()
    return [number for (its, number), pin in pins if its == kind and pin.vpn <= page < pin.vpn + len(pin.frames)]


def _free_numbers(machine: Machine, process: int, kind: str, count: int) -> list[int]:
    taken = {number for its, number in machine.process(process).pins() if its == kind}
    return [number for number in range(len(taken) + count) if number not in taken][:count]


def _let_go(machine: Machine, base: int, process: int, pages: range, op: str, kind: str) -> list[Step]:
    held = sorted({number for page in pages for number in _holding(machine, process, kind, base + page)})
    if not held:
        raise ScenarioError(f"process {process} holds no {kind} on {_these(pages, base)}")
    return [(op, process, number) for number in held]


def _by_device(machine: Machine, base: int, process: int, pages: range, op: str, more: tuple[int, ...]) -> list[Step]:
    """The device's access to those of the pages that it has a pin on, through the latest pin that allows it."""
    steps: list[Step] = []
    for page in pages:
        pins = machine.process(process).pins()
        held = _holding(machine, process, "pin", base + page)
        fit = [number for number in held if op == "dma_read" or pins["pin", number].writable]
        if fit:
            steps.append((op, process, fit[-1], base + page - pins["pin", fit[-1]].vpn, *more))
    if not steps:
        what = "pin for writing" if op == "dma_write" else "pin"
        raise ScenarioError(f"no device has a {what} on {_these(pages, base)} of process {process}")
    return steps


def _these(pages: range, base: int) -> str:
    first, last = pages[0] + base, pages[-1] + base
    return f"page {first}" if first == last else f"pages {first}–{last}"


# --- a program that has been run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A program, the machine after it, and per step its result and the promises that are broken then."""

    scenario: Scenario
    policy: Policy
    machine: Machine
    start: Snapshot
    results: tuple[Result, ...]
    broken: tuple[tuple[Violation, ...], ...]

    @classmethod
    def of(cls, scenario: Scenario, policy: Policy) -> Run:
        """A program run from the start."""
        machine = scenario.machine(policy, frames=FRAMES)
        return cls(scenario.but(steps=()), policy, machine, machine.snapshot(), (), ()).to(scenario)

    def to(self, scenario: Scenario) -> Run:
        """Another program over the same mapping; what the two have in common is not run again."""
        kept = self._common(scenario.steps)
        if kept == len(self.results):
            machine = self.machine.copy()
        else:
            machine = scenario.but(steps=scenario.steps[:kept]).end(self.policy, frames=FRAMES)
        results, broken = list(self.results[:kept]), list(self.broken[:kept])
        for step in scenario.steps[kept:]:
            results.append(run_step(machine, step, scenario.first_vpn))
            broken.append(tuple(check(machine, KERNEL_PROMISES)))
        return Run(scenario, self.policy, machine, self.start, tuple(results), tuple(broken))

    def _common(self, steps: Sequence[Step]) -> int:
        pairs = zip(self.scenario.steps, steps, strict=False)
        return next((at for at, (mine, other) in enumerate(pairs) if mine != other), min(len(self.results), len(steps)))

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.scenario, self.policy, self.start, self.results)

    @cached_property
    def picture(self) -> Picture:
        """The state after the last step; of at most `CELLS` pages each is a cell of its own."""
        numbers, at, base = folio_numbers(self.timeline), len(self.results), self.scenario.first_vpn
        where = f" · page 0 of the program is page {base}" if base else ""
        words = f"step {at} · {' '.join(map(in_text, self.results[-1].step))}" if at else "start"
        heading = f"{self.policy.name} · {words}{where}"
        folds = self.scenario.pages > CELLS
        if not at:
            return Picture(scene(self.start, heading=heading, folds=folds))
        before = scene(self.results[-2].snapshot if at > 1 else self.start, numbers=numbers[-2])
        return Picture(after(self.results[-1], before, numbers[-1], heading, base=base, folds=folds))

    def first_broken(self) -> tuple[int, Violation] | None:
        """The first step, numbered from 1, after which a promise was broken, and which."""
        return next(((number, found[0]) for number, found in enumerate(self.broken, 1) if found), None)


class Place(NamedTuple):
    """A place in the history, which undo and redo go through: the program, and which kernel runs it."""

    scenario: Scenario
    policy: Policy


# --- the widget -----------------------------------------------------------------------------------------------------


_Given = ParamSpec("_Given")
_Gives = TypeVar("_Gives")


def _alone(
    method: Callable[Concatenate[Playground, _Given], _Gives],
) -> Callable[Concatenate[Playground, _Given], _Gives]:
    """A method that changes the program: it waits for a click, or a search that ends, to be done with that."""

    @wraps(method)
    def waits(play: Playground, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Gives:
        with play._lock:
            return method(play, *args, **kwargs)

    return waits


class Playground(Sharing):
    """Build a program by clicking: a process reads, writes, forks, unmaps, pins, and every step is drawn and checked.

    All that can be clicked can be called, too. A step that the kernel refuses belongs to the program; a step that
    makes no sense (a process that has exited, a page outside) is an error, and nothing changes.

    Parameters
    ----------
    policy : Policy or str
        Which kernel.
    pages : int
        Size of the mapping, 1 to 512.
    orders : tuple of int
        Enabled sizes.
    skew : int
        The mapping starts that many pages after a 2 MiB boundary.
    scenario : Scenario or str, optional
        The program to begin with, or its name in the library; pages, orders and skew are then its own.
    title : str
        What it is called.

    Examples
    --------
    >>> play = Playground(pages=16, orders=(4,))
    >>> play.write(0, 5)
    'Process 0 writes page 5: nothing is mapped there, so a new folio of order 4 (16 pages) is zeroed and mapped at pages 0–15.'
    """  # noqa: E501

    name: ClassVar[str] = "playground"
    style: ClassVar[str] = stylesheet()
    fixed = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        policy: Policy | str = "linux-6.15",
        *,
        pages: int = 16,
        orders: Iterable[int] = (4,),
        skew: int = 0,
        scenario: Scenario | str | None = None,
        title: str = "",
    ) -> None:
        policy = _told_apart(policy_named(policy) if isinstance(policy, str) else policy, POLICIES)
        self.title = title
        self.policies = {**POLICIES, policy.name: policy}
        program = Scenario.load(scenario) if isinstance(scenario, str) else scenario
        program = program or Scenario(pages, (), tuple(orders), skew)
        _check_pages(program)
        self._history = _places(program, policy)
        self._at = len(self._history) - 1
        self._run = Run.of(program, policy)
        self._turn, self._place = 0, "use"
        self._lock = RLock()
        self._hunt: Thread | None = None
        self._cancelled = False
        super().__init__(fixed=self._fixed(), view=self._view("", ""))
        self.on_msg(self._heard)

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def scenario(self) -> Scenario:
        """The program as far as it is shown."""
        return self._history[self._at].scenario

    @property
    def policy(self) -> Policy:
        """Which kernel runs it; `change` chooses another."""
        return self._history[self._at].policy

    @property
    def timeline(self) -> Timeline:
        """What every step did."""
        return self._run.timeline

    @property
    def picture(self) -> Picture:
        """The state shown."""
        return self._run.picture

    @property
    def violations(self) -> list[Violation]:
        """The kernel's promises that are broken now."""
        return list(self._run.broken[-1]) if self._run.broken else []

    def code(self) -> str:
        """Python that builds the program anew and shows how it ends."""
        run = f'"{self.policy.name}"' if self.policy.name in POLICIES else "policy"
        own = "" if self.policy.name in POLICIES else f"# policy: your own {self.policy.name!r}\n"
        # What a file says of its program must not end the string that it stands in.
        text = self.scenario.text().rstrip().replace("\\", r"\\").replace('"""', r"\"\"\"")
        program = f'scenario = af.Scenario.parse("""\n{text}\n""")'
        return f"import anonfolio as af\n\n{program}\n{own}scenario.run({run}).show()\n"

    # --- steps ------------------------------------------------------------------------------------------------------

    @_alone
    def do(self, *steps: str | Step) -> str:
        """Do steps, as tuples or as a scenario file writes them (``"write 0 0..15"``); gives the last one's sentence.

        ScenarioError when one of them makes no sense; then none is done.
        """
        made: list[Step] = []
        for step in steps:
            made += self._parsed(step, made) if isinstance(step, str) else [tuple(step)]
        return self._append(made)

    @_alone
    def use(
        self, tool: str, process: int = 0, first: int = 0, last: int | None = None, *, to: int = 0, choice: str = ""
    ) -> str:
        """What a click does: a tool of `TOOLS` on the pages `first` to `last` of a process; gives the sentence.

        `to` is where pages are moved, `choice` one of the tool's `choices`, by default the first.
        """
        pages = range(first, (first if last is None else last) + 1)
        if not pages:
            raise ScenarioError(f"pages {first} to {last}: the first comes first")
        if pages[-1] >= self.scenario.pages:
            most = self.scenario.pages - 1
            raise ScenarioError(f"page {pages[-1]} is outside the mapping, which has pages 0..{most}")
        return self._append(self._steps(tool, process, pages, to, choice))

    def write(self, process: int, first: int, last: int | None = None) -> str:
        """A process writes pages; the byte is the number of the step."""
        return self.use("write", process, first, last)

    def read(self, process: int, first: int, last: int | None = None) -> str:
        """A process reads pages."""
        return self.use("read", process, first, last)

    @_alone
    def fork(self, process: int = 0) -> str:
        """A process forks."""
        return self._append([("fork", process)])

    @_alone
    def exit(self, process: int) -> str:
        """A process exits."""
        return self._append([("exit", process)])

    def _append(self, steps: Sequence[Step]) -> str:
        self._show(self.scenario.but(steps=(*self.scenario.steps, *steps)))
        sentence = self.picture.sentence
        more = f"{len(steps)} steps; the picture shows the last." if len(steps) > 1 else ""
        self._tell("did" if more else "", more)
        return sentence

    def _parsed(self, text: str, before: Sequence[Step]) -> tuple[Step, ...]:
        lines = [line.split("#")[0].split() for line in text.splitlines()]
        for words in lines:
            if words and words[0] not in OPS:
                raise ScenarioError(f"there is no operation {words[0]!r}; there are {', '.join(OPS)}")
        now = self.scenario.but(steps=(*self.scenario.steps, *before))
        try:
            return Scenario.parse(f"{now.text()}\n{text}").steps[len(now.steps) :]
        except ScenarioError as error:
            raise ScenarioError(re.sub(r"^scenario(, line \d+)?: ", "", str(error))) from None

    def _steps(self, tool: str, process: int, pages: range, to: int, choice: str) -> list[Step]:
        machine, base = self._run.machine, self.scenario.first_vpn
        if not machine.process(process).alive:
            raise ScenarioError(f"process {process} has exited")
        found = next((one for one in TOOLS if one.name == tool), None)
        if found is None:
            raise ScenarioError(f"there is no tool {tool!r}; there are {', '.join(TOOL_NAMES)}")
        choice = choice or next(iter(found.choices), "")
        if found.choices and choice not in found.choices:
            raise ScenarioError(f"{tool} has no {choice!r}; there are {', '.join(found.choices)}")
        op = TABLE[found.op or tool]
        if op.uses and "k" in op.arguments:
            return _by_device(machine, base, process, pages, tool, (self._byte(),) if "byte" in op.arguments else ())
        if op.uses:
            return _let_go(machine, base, process, pages, tool, op.uses)
        each = pages if op.name in EACH else pages[:1]
        free = _free_numbers(machine, process, op.makes, len(each))
        times, parts = _RESIZED.get(choice, (1, 1))
        said = {
            "n": len(pages), "pages": len(pages), "newpage": to, "advice": choice, "how": choice, "disabled": choice,
            "order": int(choice) if choice.isdigit() else 0, "size": len(pages), "place": pages[0],
            "newsize": len(pages) * times // parts, "move": "keep" if choice == "keep" else "move", **found.fixed,
        }  # fmt: skip
        if op.name == "remap":
            said["place"] = None
        values = ({**said, "page": page, "id": free[at], "byte": self._byte(at)} for at, page in enumerate(each))
        return [(op.name, process, *(value[name] for name in op.arguments)) for value in values]

    def _byte(self, later: int = 0) -> int:
        """The number of the step that writes it: one sees in the memory who wrote what when. Never 0."""
        return 1 + (len(self.scenario.steps) + later) % 255

    # --- back, forth, another program, another kernel ------------------------------------------------------------

    @_alone
    def undo(self) -> bool:
        """Take back the last thing done; False when there is none."""
        return self._move(self._at - 1)

    @_alone
    def redo(self) -> bool:
        """Do again what was taken back; False when there is nothing."""
        return self._move(self._at + 1)

    @_alone
    def reset(self) -> None:
        """Begin again with an untouched mapping; `undo` takes that back."""
        self._show(self.scenario.but(steps=(), name="", about=""))
        self._tell("did", "Begun again; undo brings the program back.")

    @_alone
    def load(self, scenario: Scenario | str) -> None:
        """Another program, or its text: all its steps done, to be undone one by one."""
        program = Scenario.parse(scenario, "program") if isinstance(scenario, str) else scenario
        _check_pages(program)
        self._go_on(Run.of(program, self.policy), *_places(program, self.policy))
        self._tell("did", f"Loaded, {len(program.steps)} steps. Undo goes back through them one by one.")

    @_alone
    def change(
        self,
        *,
        policy: Policy | str | None = None,
        pages: int | None = None,
        orders: Iterable[int] | None = None,
        skew: int | None = None,
    ) -> str:
        """The same program under another kernel or over another mapping; says where it differs from before.

        `undo` takes it back like a step.
        """
        now, before = self.scenario, self.timeline
        scenario = now.but(
            pages=now.pages if pages is None else pages,
            orders=now.orders if orders is None else tuple(sorted(orders, reverse=True)),
            skew=now.skew if skew is None else skew,
        )
        _check_pages(scenario)
        rule = self.policies.get(policy, None) or policy_named(policy) if isinstance(policy, str) else policy
        place = Place(scenario, _told_apart(rule or self.policy, self.policies))
        run = Run.of(*place)
        self.policies[place.policy.name] = place.policy
        self._go_on(run, place)
        said = _differences(run.timeline, before)
        self._tell("did" if said else "", said)
        return said

    def _show(self, scenario: Scenario) -> None:
        """One more program in the history."""
        self._go_on(self._run.to(scenario), Place(scenario, self.policy))

    def _go_on(self, run: Run, *places: Place) -> None:
        """More places in the history, and the last one's run; what had been taken back is forgotten."""
        if places == (self._history[self._at],):
            return
        self._history = [*self._history[: self._at + 1], *places]
        self._at, self._run = len(self._history) - 1, run

    def _move(self, at: int) -> bool:
        if not 0 <= at < len(self._history):
            return False
        now, then = self._history[self._at], self._history[at]
        self._run = self._run.to(then.scenario) if _kin(now) == _kin(then) else Run.of(*then)
        self._at = at
        changed = now.policy != then.policy
        self._tell("did" if changed else "", f"The kernel is {then.policy.name} again." if changed else "")
        return True

    # --- out of here ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the program as a file that `Scenario.load` reads; FileExistsError when it may not replace one."""
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".scenario")
        if not re.fullmatch(r"[\w.+-]+", path.stem):
            raise ValueError(f"{path.stem!r} is no name for a scenario: letters, digits and - _ . + only")
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(self.scenario.but(name=path.stem).text())
        return path

    def search(
        self, steps: int = 3, *, seconds: float = 10, here: bool = True, **bound: Any
    ) -> Counterexample | Exhausted:
        """Look for the fewest steps that break a promise of the kernel, and load the program that does.

        Parameters
        ----------
        steps : int
            How many at most.
        seconds : float
            When to give up.
        here : bool
            What may follow this program; else programs over an untouched mapping of 4 pages.
        **bound
            More for `anonfolio.program.search.counterexample`, such as `operations`.
        """
        found = counterexample(self.policy, steps=steps, seconds=seconds, **self._searched(here), **bound)
        self._found(found, here)
        return found

    def _searched(self, here: bool) -> dict[str, Any]:
        """Where a search begins."""
        if not here:
            return {"pages": SEARCHED_PAGES, "orders": SEARCHED_ORDERS}
        alive = len(self._run.machine.live())
        if alive > SEARCHED_PROCESSES:
            told = f"{alive} processes are alive; the search tries every renaming of them"
            raise ValueError(f"{told}, and so takes {SEARCHED_PROCESSES} at most")
        return {"start": self.scenario, "processes": max(2, alive)}

    def _found(self, found: Counterexample | Exhausted, here: bool) -> None:
        if isinstance(found, Exhausted):
            self._tell("did", f"{found}. Nothing within a bound is no proof.")
        elif not found.steps:
            self._tell("did", f"This program breaks it already: {found.violation}.")
        else:
            self.load(found.scenario)
            shown = f" At the end {found.said}." if found.said else ""
            count = f"{found.steps} more step{'s' * (found.steps > 1)}" if here else f"{found.steps} steps"
            self._tell("did", f"Found: {count} break {found.violation}.{shown} Undo goes back step by step.")

    def _search_aside(self, steps: int, seconds: float, here: bool) -> None:
        """Search in a thread of its own: meanwhile clicks are heard, one on Cancel among them."""
        if not 1 <= steps <= SEARCHED_STEPS:
            raise ValueError(f"a search of {steps} steps: 1 to {SEARCHED_STEPS} are offered here")
        self._cancelled = False
        policy, bound = self.policy, self._searched(here)
        self._hunt = Thread(target=self._hunted, args=(policy, steps, seconds, here, bound), daemon=True)
        self._tell("ask", f"Searching, for at most {seconds:g} seconds …")
        self._hunt.start()

    def _hunted(self, policy: Policy, steps: int, seconds: float, here: bool, bound: dict[str, Any]) -> None:
        wrong = "The search ended with an error. Nothing was changed."
        found: Counterexample | Exhausted | None = None
        try:
            # The search itself looks at the clock between steps; a rule of the reader's may never come to an end.
            found = watched(
                seconds + LATE_S,
                lambda: counterexample(policy, steps=steps, seconds=seconds, progress=self._progress, **bound),
            )
        except (ValueError, OutOfMemory) as error:
            wrong = f"{_capital(_told(error))}. Nothing was changed."
        except TooLong:
            wrong = f"The search did not end within {seconds + LATE_S:g} seconds, and was stopped. Nothing was changed."
        finally:
            with self._lock:
                self._hunt, self._place = None, "search"
                if found is None:
                    self._tell("wrong", wrong)
                else:
                    self._found(found, here)
                self._place = "use"

    def _progress(self, depth: int, states: int, transitions: int) -> None:
        if self._cancelled:
            raise Stopped("cancelled")
        self.send({"searched": f"Searching: {states:,} states, {depth} steps deep …"})

    def _cancel(self) -> None:
        self._cancelled = True

    # --- what the browser gets and sends ----------------------------------------------------------------------------

    def _fixed(self) -> dict[str, Any]:
        return {
            "title": self.title or "Playground",
            "tools": [
                {"name": one.name, "group": one.group, "label": one.label, "help": one.help, "choices": one.choices}
                for one in TOOLS
            ],
            "sizes": [[order, f"{4 << order} KiB" if order < 8 else f"{1 << order - 8} MiB"] for order in ANON_ORDERS],
            "most": MOST_PAGES,
        }

    def _view(self, kind: str, words: str) -> dict[str, Any]:
        run, scenario = self._run, self.scenario
        picture = run.picture
        last = run.results[-1] if run.results else None
        broken = run.first_broken()
        return {
            "turn": self._turn,
            "svg": unstyled(picture.svg()),
            "columns": 32 if picture.scene.wide else 16,
            "left": LABEL,
            "pitch": PITCH,
            "sentence": picture.sentence,
            "refused": bool(last and not last.ok),
            "note": [kind, words, self._place],
            "searching": self._hunt is not None,
            "broken": f"step {broken[0]} breaks {broken[1]}" if broken else "",
            "why": INVARIANTS[broken[1].invariant].why.replace("`", "") if broken else "",
            "policy": self.policy.name,
            "policies": list(self.policies),
            "about": self.policy.about,
            "pages": scenario.pages,
            "orders": list(scenario.orders),
            "skew": scenario.skew,
            "processes": [process.alive for process in run.machine.processes],
            "undo": self._at,
            "redo": len(self._history) - 1 - self._at,
            "steps": len(scenario.steps),
            "text": scenario.text(),
            "code": self.code(),
        }

    def _tell(self, kind: str, words: str) -> None:
        self._turn += 1
        self.view = self._view(kind, words)

    def _heard(self, _: Any, message: Any, __: Any) -> None:
        """A click. What is wrong with it is said where it was made."""
        verb = message.get("verb") if isinstance(message, dict) else None
        if verb == "legend":
            self.send({"legend": unstyled(legend())})
        elif verb in _VERBS:
            with self._lock:
                self._answer(verb, message)
        # Also where nothing has changed: the browser asks whether anybody is there.
        self.send({"turn": self._turn})

    def _answer(self, verb: str, message: dict[str, Any]) -> None:
        if self._hunt and verb != "cancel":
            self._tell("wrong", "A search is going on: wait for its end, or cancel it. Nothing was changed.")
            return
        # The kernel is chosen beside the picture.
        self._place = verb if verb in PLACES and "policy" not in message else "use"
        try:
            _VERBS[verb](self, message)
        except (ValueError, TypeError, KeyError, OSError, OutOfMemory) as error:
            self._tell("wrong", f"{_capital(_told(error))}. Nothing was changed.")
        finally:
            self._place = "use"

    def _save_here(self, name: str) -> None:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError(f"{name!r} is no name for a scenario: letters, digits and - _ . + only")
        path = self.save(f"{name.removesuffix('.scenario')}.scenario")
        self._tell("did", f"Saved as {path.name}, beside the notebook. Scenario.load({path.name!r}) reads it.")

    def __repr__(self) -> str:
        scenario = self.scenario
        orders = ", ".join(map(str, scenario.orders)) or "none"
        head = f"{self.title or 'Playground'}: {self.policy.name}, {scenario.pages} pages, orders {orders}"
        count = len(scenario.steps)
        lines = [f"{head}, {count} step{'' if count == 1 else 's'}"]
        broken = self._run.first_broken()
        lines += [f"broken: step {broken[0]} breaks {broken[1]}"] if broken else []
        return "\n".join([*lines, "", self.picture.text()])

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Front ends with a widget manager prefer the widget; the others find a picture in the same output.
        bundle, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**bundle, "image/svg+xml": self.picture.svg(), "text/plain": repr(self)}, metadata


_VERBS: dict[str, Callable[[Playground, dict[str, Any]], object]] = {
    "use": lambda play, said: play.use(
        said["tool"], said["process"], said["first"], said["last"], to=said.get("to", 0), choice=said.get("choice", "")
    ),
    "do": lambda play, said: play.do(said["step"]),
    "fork": lambda play, said: play.fork(said["process"]),
    "exit": lambda play, said: play.exit(said["process"]),
    "undo": lambda play, said: play.undo(),
    "redo": lambda play, said: play.redo(),
    "reset": lambda play, said: play.reset(),
    "change": lambda play, said: play.change(
        **{key: said[key] for key in ("policy", "pages", "orders", "skew") if key in said}
    ),
    "load": lambda play, said: play.load(said["text"]),
    "save": lambda play, said: play._save_here(said["name"]),
    "search": lambda play, said: play._search_aside(said["steps"], said["seconds"], said["here"]),
    "cancel": lambda play, said: play._cancel(),
}
"""What the browser may ask for."""


def _told_apart(policy: Policy, known: Mapping[str, Policy]) -> Policy:
    """A policy under a name that no other one has: the second ``mine`` is ``mine (2)``."""
    names = chain([policy.name], (f"{policy.name} ({number})" for number in count(2)))
    candidates = (policy if name == policy.name else policy.but(name=name) for name in names)
    return next(named for named in candidates if known.get(named.name, named) == named)


def _check_pages(scenario: Scenario) -> None:
    if scenario.pages > MOST_PAGES:
        raise ScenarioError(f"pages={scenario.pages}: the playground has room for {MOST_PAGES}")


def _places(scenario: Scenario, policy: Policy) -> list[Place]:
    """A program's way from its untouched mapping, step by step."""
    return [Place(scenario.but(steps=scenario.steps[:count]), policy) for count in range(len(scenario.steps) + 1)]


def _kin(place: Place) -> tuple[Policy, int, tuple[int, ...], int]:
    """Equal for places of which one's run can be gone on with for the other."""
    return place.policy, place.scenario.pages, place.scenario.orders, place.scenario.skew


def _differences(now: Timeline, before: Timeline) -> str:
    """Where the same program, run again, did something else: other faults, or other page tables after the same ones."""
    if not now.scenario.steps:
        return ""
    names = now.policy.name, before.policy.name
    mine, theirs = names if names[0] != names[1] else ("now", "before")
    found: dict[int, str] = {}
    if _window(now) == _window(before):
        for seen in now.compare(before):
            found[seen.number] = f"{seen.what}: {mine} {seen.mine}, {theirs} {seen.theirs}"
    for number, (result, other) in enumerate(zip(now, before, strict=True)):
        told, was = _came_of(result), _came_of(other)
        if told != was:
            found[number] = f"{mine} {told}, {theirs} {was}"
    if not found:
        return f"The same program: no step does anything else, {mine} or {theirs}."
    first = min(found)
    count = f"{len(found)} steps differ, the first is" if len(found) > 1 else "one step differs,"
    step = " ".join(map(in_text, now.scenario.steps[first]))
    return f"The same program: {count} step {first + 1} ({step}): {found[first]}."


def _window(timeline: Timeline) -> tuple[int, int]:
    return timeline.scenario.pages, timeline.scenario.first_vpn


def _came_of(result: Result) -> str:
    """The faults of a step in a few words."""
    if not result.ok and not result.faults:
        return f"refused ({result.why})"
    told = [f"{fault.path} ({len(fault.pages)} page{'s' * (len(fault.pages) > 1)})" for fault in result.faults]
    return " and ".join(told) or "no fault"


def _told(error: Exception) -> str:
    if isinstance(error, FileExistsError):
        return f"the file {Path(str(error.filename)).name} exists already; choose another name"
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, KeyError):
        return f"the message names no {error}"
    return re.sub(r"^step \d+ \[.*?\]: ", "", str(error)).rstrip(".")


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
