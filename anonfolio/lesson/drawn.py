"""Questions that are drawn from the model: a program, a kernel, one thing asked, and what others would answer.

The answer is drawn first, then programs until a kernel gives it, so that answers and their letters are balanced. What
is wrong among the options is what other kernels do, or what follows from a known misconception; each says why. Nothing
is written down: every option is computed by running a program (`prove` prints the run).

`draw` makes questions of a topic, the same for the same seed. The topics: `anonfolio.lesson.topics`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ..draw.words import sentence
from ..kernel.policy import Policy
from ..kernel.record import Fault
from ..machine.machine import Machine
from ..program.ops import do_step, pages_in_words, said
from ..program.scenario import Scenario, Step
from .quiz import Choice, Mistake, Note

LETTERS = "abcd"
FRAMES = 1 << 12
"""16 MiB: more than any question needs."""
TRIES = 3000
"""So many programs for one question; the topics need about three."""
OTHER_KERNELS_FIRST = 400
"""So many of these only with another kernel that answers otherwise."""
OF_LEVEL_FIRST = 120
"""So many programs only of the wanted level; some answers have next to none that is easy, or hard."""
LEVELS = ("easy", "medium", "hard")


class Kernel(NamedTuple):
    """A kernel as a question names it."""

    name: str
    policy: Policy


class Run(NamedTuple):
    """What an answer is read from: the machine at the end, and per step its faults and the byte it returned."""

    machine: Machine
    faults: tuple[tuple[Fault, ...], ...]
    values: tuple[int | None, ...]


def run(program: Scenario, policy: Policy) -> Run:
    """Run a program without keeping what is between its steps."""
    machine = program.machine(policy, frames=FRAMES)
    faults: list[tuple[Fault, ...]] = []
    values: list[int | None] = []
    for step in program.steps:
        _, value, _ = do_step(machine, step, program.first_vpn)
        faults.append(tuple(machine.faults))
        values.append(value)
    return Run(machine, tuple(faults), tuple(values))


Answer = Hashable
Wrong = Iterable[tuple[Answer, str]]
COUNT_AGAIN = "Count again"
"""The reason of a number that is only near: what was counted follows it."""


class Matter(NamedTuple):
    """A matter in which kernels differ: fields of `Policy`, and what a kernel does in it, after its name."""

    fields: tuple[str, ...]
    habit: Callable[[Policy], str]


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    Attributes
    ----------
    name : str
        Of the kind, within its topic.
    labels : tuple
        The answers that are drawn, equally often.
    program : callable (source, label) -> Scenario
        Makes a program that may have such an answer.
    answer : callable (Run, Scenario) -> answer
        What is right under the kernel that ran it.
    ask : callable (Scenario) -> str
        The question, in a sentence.
    say : callable (answer) -> str
        An answer in words.
    kernels : tuple of Kernel
        Who may be asked about.
    habit : callable (Policy) -> str
        What a kernel does in this matter, as a sentence after its name.
    wrong : callable (Scenario, answer) -> pairs of answer and reason
        Known misconceptions; those whose answer is right here are left out.
    label : callable (answer, Scenario) -> label
        Which of `labels` an answer is.
    trail : callable (Run, Scenario) -> str, optional
        Where what is asked is a number: what was counted, in a sentence.
    matters : tuple of Matter
        In what else than `habit` kernels may differ, for who answers otherwise.
    levels : tuple of int
        Up to how many points a question is easy, and up to how many it is medium, of its kind: about thirds.
    """

    name: str
    labels: tuple[Any, ...]
    program: Callable[[random.Random, Any], Scenario]
    answer: Callable[[Run, Scenario], Answer]
    ask: Callable[[Scenario], str]
    say: Callable[[Any], str]
    kernels: tuple[Kernel, ...]
    habit: Callable[[Policy], str]
    wrong: Callable[[Scenario, Any], Wrong] = lambda program, answer: ()
    label: Callable[[Any, Scenario], Any] = lambda answer, program: answer
    levels: tuple[int, int] = (1, 3)
    trail: Callable[[Run, Scenario], str] | None = None
    matters: tuple[Matter, ...] = ()

    def level(self, points: int) -> str:
        """One of `LEVELS`."""
        easy, medium = self.levels
        return LEVELS[(points > easy) + (points > medium)]


class Option(NamedTuple):
    """One option: the answer, its words, and, where it is wrong, why somebody would say so.

    `kernels` are those that do it.
    """

    answer: Answer
    words: str
    reason: str = ""
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """One question.

    Attributes
    ----------
    topic, kind : str
        What it is about.
    program : Scenario
        What is run.
    kernel : Kernel
        Under which kernel.
    prompt : str
        What is asked.
    options : tuple of Option
        In the order of their letters.
    right : int
        Which is right.
    habit : str
        What the kernel does in this matter, as a sentence.
    points : int
        How much there is to keep in mind (`points`).
    difficulty : str
        One of `LEVELS`, beside others of its kind.
    trail : str
        What was counted, in a sentence; empty where nothing was.
    """

    topic: str
    kind: str
    program: Scenario
    kernel: Kernel
    prompt: str
    options: tuple[Option, ...]
    right: int
    habit: str
    points: int
    difficulty: str
    trail: str = ""

    @cached_property
    def because(self) -> str:
        """Why it is right: what was counted, or what the last step did, and what this kernel does in such a matter."""
        if self.trail:
            return f"{self.trail} {self.habit}"
        last = self.program.run(self.kernel.policy, frames=FRAMES)[-1]
        return f"{sentence(last, self.program.first_vpn)} {self.habit}"

    @property
    def letter(self) -> str:
        """The letter of what is right."""
        return LETTERS[self.right]

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two questions the same: what is asked, of which program, under which kernel."""
        return self.prompt, self.program.text(), self.kernel.name

    def setting(self) -> str:
        """Kernel, mapping and sizes in a sentence."""
        first, last = self.program.first_vpn, self.program.first_vpn + self.program.pages - 1
        sizes = ", ".join(size(order) for order in sorted(self.program.orders)) or "none"
        return (
            f"{self.kernel.name}. One mapping, pages {first} to {last}, counted from a 2 MiB boundary; nothing is "
            f"touched yet. Sizes enabled above 4 KiB: {sizes}."
        )

    def lines(self) -> list[str]:
        """The program in words, one line a step."""
        return [f"{number}. {line}." for number, line in enumerate(listed(self.program), 1)]

    def prove(self) -> str:
        """The run as text: each step and the last picture, then what is right, and what each kernel says."""
        timeline = self.program.run(self.kernel.policy, frames=FRAMES)
        base = self.program.first_vpn
        told = [f"{number}. {sentence(result, base)}" for number, result in enumerate(timeline, 1)]
        kernels = [
            f"{name}: {option.words}" for option in self.options for name in option.kernels if name != self.kernel.name
        ]
        return "\n".join(
            [
                f"{self.setting()} (mapping from page {base} on)", *told, str(timeline.show()), "",
                f"{self.prompt} {self.options[self.right].words}: {self.because}", *kernels,
            ]
        )  # fmt: skip


def points(program: Scenario, said: Iterable[Answer]) -> int:
    """How much there is to keep in mind: processes, splits and odd starts, steps, and kernels that disagree."""
    steps = program.steps
    return (
        len({step[1] for step in steps} - {0})
        + bool(program.skew % 16)
        + (len(listed(program)) > 4)
        + (len(set(said)) > 2)
        + any(step[0] not in ("write", "read", "fork") for step in steps)
    )


def size(order: int) -> str:
    """A folio's size as sysfs says it."""
    kib = 4 << order
    return f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"


def listed(program: Scenario) -> list[str]:
    """The steps in words; reads or writes of consecutive pages in one line."""
    base, child = program.first_vpn, 0
    lines: list[str] = []
    for group in grouped(program.steps):
        first = group[0]
        child += first[0] == "fork"
        if len(group) == 1:
            byte = f", byte {first[3]}" if first[0] == "write" else ""
            line = said(first, base, child) + byte
            lines.append(line)
            continue
        pages = pages_in_words(range(first[2] + base, group[-1][2] + base + 1))
        bytes_ = f" (bytes {first[3]} to {group[-1][3]})" if first[0] == "write" else ""
        lines.append(f"Process {first[1]} {first[0]}s {pages}, one after the other{bytes_}")
    return lines


def grouped(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps, with accesses of one process to consecutive pages together."""
    group: list[Step] = []
    for step in steps:
        follows = (
            group
            and step[0] in ("write", "read")
            and step[:2] == group[-1][:2]
            and step[2] == group[-1][2] + 1
            and (step[0] == "read" or step[3] == step[2] % 255 + 1 == group[-1][3] % 255 + 1)
        )
        if not follows and group:
            yield group
            group = []
        group.append(step)
    if group:
        yield group


# --- drawing --------------------------------------------------------------------------------------------------------


def draw(topic: str, kinds: Sequence[Kind], seed: str | int, count: int) -> list[Drawn]:
    """So many different questions of a topic; the first ones of a larger count are those of a smaller.

    Raises
    ------
    ValueError
        There are not so many.
    """
    source = random.Random(f"anonfolio/{topic}/{seed}")
    cells = _in_turn(source, [(pool, label) for pool in map(_Pool, kinds) for label in pool.kind.labels])
    places, levels = _in_turn(source, range(len(LETTERS))), _in_turn(source, LEVELS)
    return [
        _one(source, topic, pool, label, place, level)
        for (pool, label), place, level, _ in zip(cells, places, levels, range(count), strict=False)
    ]


def _in_turn(source: random.Random, what: Iterable[Any]) -> Iterator[Any]:
    """Each of them once in every round, each round in an order of its own."""
    left = list(what)
    while True:
        source.shuffle(left)
        yield from tuple(left)


class _Tried(NamedTuple):
    """A program, and what each kernel says of it."""

    program: Scenario
    said: Mapping[Kernel, Answer]
    points: int


class _Pool:
    """Programs of one kind that were tried and are not used yet, by the answers that they can be asked for."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.waiting: dict[Any, list[_Tried]] = {label: [] for label in kind.labels}
        self.used: set[str] = set()

    def take(self, source: random.Random, label: Any, level: str) -> tuple[_Tried, Kernel]:
        """A program that some kernel answers so, of this level if one is soon found, and that kernel."""
        waiting = self.waiting[label]
        for tried in range(TRIES):
            of_level = [at for at, found in enumerate(waiting) if self.kind.level(found.points) == level]
            if not of_level and (not waiting or tried < OF_LEVEL_FIRST):
                self._try(source, label, all_may_agree=tried > OTHER_KERNELS_FIRST)
                continue
            found = waiting.pop(of_level[0] if of_level else 0)
            if found.program.text() not in self.used:
                self.used.add(found.program.text())
                return found, source.choice([who for who in self.kind.kernels if self._label(found, who) == label])
        raise ValueError(f"no further program with the answer {label!r} was found; ask for fewer questions")

    def _label(self, tried: _Tried, kernel: Kernel) -> Any:
        return self.kind.label(tried.said[kernel], tried.program)

    def _try(self, source: random.Random, label: Any, *, all_may_agree: bool) -> None:
        program = self.kind.program(source, label)
        said = {kernel: self.kind.answer(run(program, kernel.policy), program) for kernel in self.kind.kernels}
        if len(set(said.values())) == 1 and not all_may_agree:
            return
        tried = _Tried(program, said, points(program, said.values()))
        for each in dict.fromkeys(self._label(tried, kernel) for kernel in self.kind.kernels):
            if each in self.waiting:
                self.waiting[each].append(tried)


def _one(source: random.Random, topic: str, pool: _Pool, label: Any, place: int, level: str) -> Drawn:
    for _ in range(TRIES):
        tried, kernel = pool.take(source, label, level)
        question = _asked(source, topic, pool.kind, tried, kernel, place)
        if question:
            return question
    raise ValueError(f"{topic}: too few wrong answers can be found for {label!r}")


def _asked(source: random.Random, topic: str, kind: Kind, tried: _Tried, kernel: Kernel, place: int) -> Drawn | None:
    """The question with its options; None where there are too few wrong ones."""
    program, said, counted = tried
    right = said[kernel]
    others = [_other(kind, said, answer) for answer in dict.fromkeys(said.values()) if answer != right]
    trail = kind.trail(run(program, kernel.policy), program) if kind.trail else ""
    believed = [
        Option(answer, kind.say(answer), f"{COUNT_AGAIN}. {trail}" if reason == COUNT_AGAIN else reason)
        for answer, reason in _believed(kind, program, kernel, right)
        if answer not in said.values()
    ]
    believed = list({option.answer: option for option in reversed(believed)}.values())
    source.shuffle(others)
    source.shuffle(believed)
    # One other kernel at least, and a misconception where there is one.
    wrong = [*others[:1], *believed[:1], *others[1:], *believed[1:]][: len(LETTERS) - 1]
    if len(wrong) < len(LETTERS) - 1:
        return None
    source.shuffle(wrong)
    wrong = [_explained(kind, program, kernel, option) if option.kernels else option for option in wrong]
    same = tuple(other.name for other, answer in said.items() if answer == right)
    options = [*wrong[:place], Option(right, kind.say(right), "", same), *wrong[place:]]
    habit = f"{kernel.name} {kind.habit(kernel.policy)}."
    return Drawn(
        topic, kind.name, program, kernel, kind.ask(program), tuple(options), place, habit, counted,
        kind.level(counted), trail,
    )  # fmt: skip


def _other(kind: Kind, said: Mapping[Kernel, Answer], answer: Answer) -> Option:
    who = [kernel for kernel, its in said.items() if its == answer]
    who.sort(key=kind.kernels.index)
    return Option(answer, kind.say(answer), kernels=tuple(kernel.name for kernel in who))


def _explained(kind: Kind, program: Scenario, kernel: Kernel, option: Option) -> Option:
    """What others do, with the reason: the matter that alone makes the question's kernel answer as they do.

    Where no single one does, what they do in the kind's own matter, or in the first in which they differ.
    """
    other = next(who for who in kind.kernels if who.name == option.kernels[0])
    differ = [matter for matter in kind.matters if matter.habit(other.policy) != matter.habit(kernel.policy)]
    habit = kind.habit
    if habit(other.policy) == habit(kernel.policy) and differ:
        habit = differ[0].habit
    for matter in differ:
        mixed = kernel.policy.but(**{field: getattr(other.policy, field) for field in matter.fields})
        if _without(kind, program, Kernel(kernel.name, mixed)) == option.answer:
            habit = matter.habit
            break
    return option._replace(reason=f"So it is under {_and(option.kernels)}. {other.name} {habit(other.policy)}.")


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _believed(kind: Kind, program: Scenario, kernel: Kernel, right: Answer) -> Wrong:
    """What misconceptions give, and what follows when a step or the mapping's start is not looked at."""
    yield from ((answer, reason) for answer, reason in kind.wrong(program, right) if answer != right)
    groups = list(grouped(program.steps))
    for number, group in enumerate(groups[:-1], 1):
        if group[0][0] == "fork":
            continue
        without = [step for other in groups if other is not group for step in other]
        answer = _without(kind, program.but(steps=tuple(without)), kernel)
        if answer is not None and answer != right:
            yield answer, f"That would be so without step {number}."
    if program.skew % 64:
        answer = _without(kind, program.but(skew=program.skew & -64), kernel)
        if answer is not None and answer != right:
            yield answer, "That would be so if the mapping began at a multiple of 64: alignment counts page numbers."


def _without(kind: Kind, program: Scenario, kernel: Kernel) -> Answer | None:
    try:
        return kind.answer(run(program, kernel.policy), program)
    except ValueError:
        # A device's write without its pin, for instance.
        return None


# --- in a notebook --------------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True, repr=False)
class DrawnChoice(Choice):
    """A drawn question as a notebook asks it: the program stands below the question."""

    program: str = field(default="")

    def _asked(self, *more: str) -> Note:
        return Note("ask", self.prompt, (*self._choices(), *more), code=self.program)


def as_choice(question: Drawn, name: str) -> Choice:
    """A drawn question as one of a notebook; `name` is what the reader types to have it."""
    letters = dict(zip(LETTERS, question.options, strict=False))
    return DrawnChoice(
        name=name,
        prompt=question.prompt,
        program="\n".join([question.setting(), *question.lines()]),
        options={letter: option.words for letter, option in letters.items()},
        truth=lambda: question.letter,
        because=question.because,
        mistakes=tuple(Mistake(letter, option.reason) for letter, option in letters.items() if option.reason),
        hints=(f"It is {question.difficulty}. What does the kernel find at that page, and who else has it?",),
    )
