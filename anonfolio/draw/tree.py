"""The checks of `do_wp_page` as a tree, with the branch that a fault took lit.

The branch is read from the fault's own record (`Fault.checks`); nothing is decided again here. What a `Policy` adds is
the shape: which questions its kernel asks of a large folio. SVG in a notebook, text in a terminal; `decisions`
gives one per step for the panel of a `Stepper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ..kernel.honest import Node, tree
from ..kernel.policy import LINUX_6_15, Policy
from ..kernel.record import COW_COPY, FIRST_TOUCH, REUSE, UNSHARE_REUSE, ZERO_COPY, ZERO_READ, Check, Fault
from ..kernel.rules import Reuse, refcount_one
from ..program.scenario import Timeline
from .drawing import Drawn, Sheet, measure, measure_mono, sized, svg_path, wrap

# --- the questions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Question:
    """A check by its kernel name, what it asks in plain words, and per answer the path it ends with or what follows.

    One that only looks something up has no answers, and one thing that follows.
    """

    what: str
    asks: str
    ends: Mapping[bool, str] = field(default_factory=dict)
    then: Mapping[bool, Question] = field(default_factory=dict)
    looks: bool = False

    def below(self) -> tuple[Question, ...]:
        """It and all that may follow, each before what follows it, "yes" first."""
        return (self, *(one for answer in (True, False) if answer in self.then for one in self.then[answer].below()))


def _asked_by(node: Node) -> Question:
    """A rule's questions, found by answering them: they are written down nowhere else."""
    answers = {True: node.yes, False: node.no}
    question = Question(
        node.what,
        node.asks,
        {answer: REUSE if end else COW_COPY for answer, end in answers.items() if isinstance(end, bool)},
        {answer: _asked_by(follows) for answer, follows in answers.items() if isinstance(follows, Node)},
    )
    for what, asks in reversed(node.before):
        question = Question(what, asks, then={True: question}, looks=True)
    return question


def _first_asked(rule: Reuse) -> Question:
    node = tree(rule)
    assert isinstance(node, Node), "a policy takes no rule that asks nothing"
    return _asked_by(node)


_LEAVES = {
    FIRST_TOUCH: ("first touch", "do_anonymous_page", "is_new"),
    ZERO_COPY: ("zero page copy", "wp_page_copy", "is_new"),
    COW_COPY: ("copy", "wp_page_copy", "is_new"),
    REUSE: ("reuse", "wp_page_reuse", "is_alone"),
}
"""Path -> its short name, the function that does it, the class that paints it."""
_LEAF_OF = {ZERO_READ: FIRST_TOUCH, UNSHARE_REUSE: REUSE}
"""The paths that end where another one does: a read on nothing, and an unshare that finds it may keep the page."""

PTE_NONE = "pte_none"
"""The first question of the tree."""
LEFT_OUT = "Left out: KSM, the swap cache, the folio lock, userfaultfd, shared mappings, PMD entries."


class Walk(NamedTuple):
    """The way of one fault: the checks it met in the tree, from the top down, which they are there, and its path."""

    fault: Fault
    checks: tuple[Check, ...]
    questions: tuple[Question, ...]
    leaf: str


@dataclass(frozen=True)
class Tree:
    """What a policy's kernel asks: the questions one under the other, and what a small folio is asked instead."""

    main: tuple[Question, ...]
    small: Question | None

    @property
    def questions(self) -> tuple[Question, ...]:
        """All of them, a small folio's last."""
        return (*self.main, self.small) if self.small else self.main

    @property
    def exclusive(self) -> Question:
        """Where small and large folios part."""
        return self.main[2]

    def before(self, question: Question) -> list[Question]:
        """The question whose "no" goes on here, where its "yes" goes on above; none for most."""
        return [one for one in self.main if len(one.then) == 2 and one.then[False] is question]

    @classmethod
    def of(cls, policy: Policy) -> Tree:
        """The tree of `do_wp_page`, 6.1-7.3, with what it asks of a folio (inline in 6.1)."""
        rule = policy.rules.large_reuse
        marked = Question(
            "PageAnonExclusive", "is this page marked exclusive?", {True: REUSE}, {False: _first_asked(rule)}
        )
        normal = Question("vm_normal_page", "a page of a folio, not the zero page?", {False: ZERO_COPY}, {True: marked})
        first = Question(PTE_NONE, "is nothing mapped here?", {True: FIRST_TOUCH}, {False: normal})
        return cls(first.below(), None if rule is refcount_one else _first_asked(refcount_one))

    def walk(self, fault: Fault) -> Walk:
        """Follow the fault's record through the tree.

        Raises
        ------
        ValueError
            The record does not fit: the fault was settled at the PMD level, or happened under another policy.
        """
        asked = list(fault.checks)
        while asked and asked[0].what != PTE_NONE:
            del asked[0]
        if not asked:
            raise ValueError(f"no check of this fault is in the tree (was it settled at the PMD level?): {fault}")
        small = any(check.what == "vm_normal_page" and check.saw.endswith("a folio of order 0") for check in asked)
        leaf = _LEAF_OF.get(fault.path, fault.path)
        met = self._follow(self.main[0], asked, leaf, small)
        if not met:
            raise ValueError(f"the checks of this fault are not those of this tree (another policy?): {fault}")
        return Walk(fault, tuple(check for _, check in met), tuple(question for question, _ in met), leaf)

    def _follow(self, question: Question, asked: list[Check], leaf: str, small: bool) -> list[tuple[Question, Check]]:
        """What this question and those after it were asked, if that ends at the leaf; else nothing."""
        met: list[tuple[Question, Check]] = []
        if question.looks:
            # It leaves what the policy's range notes: its own check, others, or none.
            follows = question.then[True]
            at = next((at for at, check in enumerate(asked) if check.what == follows.what), len(asked))
            met = [(question, check) for check in asked[:at] if check.what == question.what]
            question, asked = follows, asked[at:]
        if not asked or asked[0].what != question.what:
            return []
        check = asked[0]
        met.append((question, check))
        if check.outcome in question.ends:
            return met if question.ends[check.outcome] == leaf else []
        follows = question.then[check.outcome]
        if question is self.exclusive and small and self.small:
            follows = self.small
        rest = self._follow(follows, asked[1:], leaf, small)
        return [*met, *rest] if rest else []


# --- the picture ----------------------------------------------------------------------------------------------------

BOX_X, BOX_WIDTH = 16, 330
LEAF_X, LEAF_WIDTH, LEAF_HEIGHT = 452, 152, 42
WIDTH, WIDEST = LEAF_X + LEAF_WIDTH + 16, 848
"""How wide it is drawn, and at most shown."""
GAP, INDENT = 26, 40
"""Between a question and the next; how far a question to the side stands in."""


@dataclass(frozen=True)
class Decision(Drawn):
    """The tree of one policy with the branches of one or several faults lit: ``Decision(fault, policy)``.

    Parameters
    ----------
    faults : Fault or mapping of str to Fault
        One fault, or several by a short label that is drawn where each ends; none leaves the tree unlit.
    policy : Policy
        Whose tree: the one that the faults happened under.
    title : str
        What it is called, before what it says of itself.

    Raises
    ------
    ValueError
        A fault whose record is no walk through this tree.
    """

    faults: Fault | Mapping[str, Fault]
    policy: Policy = LINUX_6_15
    title: str = ""

    def __post_init__(self) -> None:
        self.walks  # noqa: B018 - a fault that does not fit is refused here, not when it is drawn.

    @cached_property
    def tree(self) -> Tree:
        """The questions that this policy's kernel asks."""
        return Tree.of(self.policy)

    @cached_property
    def walks(self) -> dict[str, Walk]:
        """By label, what each fault was asked."""
        faults = {"": self.faults} if isinstance(self.faults, Fault) else self.faults
        return {label: self.tree.walk(fault) for label, fault in faults.items()}

    @property
    def heading(self) -> str:
        """Whose tree it is."""
        name = self.policy.name + (" (a proposal, never merged)" if "never merged" in self.policy.about.lower() else "")
        return f"{name} · {self.title or 'do_wp_page'}"

    @property
    def sentences(self) -> list[str]:
        """One sentence for each fault, as a screen reader says it."""
        if not self.walks:
            return ["No fault, so nothing is asked."]
        return [_sentence(label, walk) for label, walk in self.walks.items()]

    @property
    def sentence(self) -> str:
        """All of them, after the title."""
        return " ".join([self.title, *self.sentences]).strip()

    def text(self) -> str:
        """The tree as text, one question a line, for terminals."""
        asked = [line for question in self.tree.questions for line in self._lines(question)]
        return "\n".join([self.heading, *self.sentences, *asked, LEFT_OUT])

    def _lines(self, question: Question) -> list[str]:
        met = [
            (label, check)
            for label, walk in self.walks.items()
            for asked, check in zip(walk.questions, walk.checks, strict=True)
            if asked is question
        ]
        mark = "=>" if any(check.decides for _, check in met) else "  "
        answers = []
        for outcome in (True, False):
            labels = [label for label, check in met if check.outcome is outcome]
            if labels:
                saw = [check.saw for _, check in met] if len(self.walks) == 1 else labels
                answers.append(f"{'' if question.looks else _yes(outcome):3}  {', '.join(saw)}".rstrip())
        line = f"{mark} {question.what:40} {'   '.join(answers) or 'not asked'}"
        return [*(f"   if {one.what} is no:" for one in self.tree.before(question)), line]

    def __repr__(self) -> str:
        return self.text()

    def _draw(self) -> Sheet:
        return _TreeSheet(self)


def _sentence(label: str, walk: Walk) -> str:
    fault = walk.fault
    does = {"write": "writes", "read": "reads", "unshare": "has to own"}[fault.access]
    decided = fault.decided_by
    why = f", because {decided.what} is {_yes(decided.outcome)}" if decided else ""
    who = f"{label}: process" if label else "Process"
    reach = f" of {_pages(fault.pages)}" if len(fault.pages) > 1 else ""
    return f"{who} {fault.process} {does} page {fault.vpn}: {_LEAVES[walk.leaf][0]}{reach}{why}."


def _pages(pages: Sequence[int]) -> str:
    return f"page {pages[0]}" if len(pages) == 1 else f"pages {pages[0]}–{pages[-1]}"


def _yes(outcome: bool) -> str:
    return "yes" if outcome else "no"


def decisions(timeline: Timeline) -> list[str]:
    """One picture per moment of a timeline, for a stepper's panel: the start, then after each step its last fault.

    A fault that was settled at the PMD level is told in words: its questions are not in this tree.
    """
    last = [None, *(result.faults[-1] if result.faults else None for result in timeline)]
    return [_moment(fault, timeline.policy) for fault in last]


def _moment(fault: Fault | None, policy: Policy) -> str:
    if fault is None:
        return Decision({}, policy).svg()
    if all(check.what != PTE_NONE for check in fault.checks):
        return f"Settled at the PMD level, before the checks of this tree: {fault}"
    return Decision(fault, policy).svg()


class _TreeSheet(Sheet):
    """Lays a `Decision` out: the questions down the left, and beside each where it ends."""

    width, shown_px = WIDTH, WIDEST

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.tree = decision.tree
        self.lit: dict[tuple[Question, bool], list[str]] = {}
        self.decides: set[tuple[Question, bool]] = set()
        self.saw: dict[Question, str] = {}
        walks = decision.walks
        for label, walk in walks.items():
            for question, check in zip(walk.questions, walk.checks, strict=True):
                self.lit.setdefault((question, check.outcome), []).append(label)
                if check.decides:
                    self.decides.add((question, check.outcome))
                if len(walks) == 1:
                    self.saw[question] = check.saw
        self.pages = _pages(next(iter(walks.values())).fault.pages) if len(walks) == 1 else ""
        self.text(16, 21, decision.heading, "h")
        name, size, pitch = ("f", 12, 16) if len(walks) > 1 else ("s", 13, 17)
        told = [line for said in decision.sentences for line in wrap(said, WIDTH - 32, sized(size, size == 13))]
        self.lines(16, 42, told, name, pitch)
        y = self._questions(38.0 + pitch * len(told))
        lit = "Filled: what was asked, as the fault's own record has it. Thick frame: the check that decided."
        notes = [line for words in (lit, LEFT_OUT) for line in wrap(words, WIDTH - 32, sized(12))]
        self.lines(16, y + 24, notes, "h", 16)
        self.height = y + 20 + 16 * len(notes)

    def _questions(self, y: float) -> float:
        for question in self.tree.main:
            for one in self.tree.before(question):
                self.text(BOX_X + 10, y + 14, f"{one.what}: no", "h")
                y += 20
            bottom = self._question(question, BOX_X, y)
            y = bottom + GAP if question is not self.tree.main[-1] else bottom
            if not question.then:
                continue
            outcome = next(answer for answer in (True, False) if answer in question.then)
            small = self.tree.small if question is self.tree.exclusive else None
            lit = (question, outcome) in self.lit
            if small:
                # Of a page that is not marked: the branch of large folios is lit when one was asked.
                lit = self._asked(question.then[outcome])
                y = self._small(small, bottom) + GAP
            self._down(BOX_X + 20, bottom, y, lit)
            words = "" if question.looks else "no, large folio" if small else _yes(outcome)
            self.text(BOX_X + 32, y - 9, words + self._decided(question, outcome), "fb" if lit else "h")
        return y

    def _small(self, small: Question, y: float) -> float:
        """A small folio leaves the column under the mark's question, and is asked one thing."""
        lit = self._asked(small)
        self._down(BOX_X + INDENT + 20, y, y + GAP, lit)
        self.text(BOX_X + INDENT + 32, y + GAP - 9, "no, small folio", "fb" if lit else "h")
        return self._question(small, BOX_X + INDENT, y + GAP)

    def _question(self, question: Question, x: float, y: float) -> float:
        """A question, and beside it where it ends; returns where the next may begin."""
        wide, asked = BOX_WIDTH - (x - BOX_X), self._asked(question)
        lines = [(line, "q" if asked else "k") for line in wrap(question.what, wide - 20, _mono)]
        for words, name in ((question.asks, "f" if asked else "h"), (self.saw.get(question, ""), "h")):
            lines += [(line, name) for line in wrap(words, wide - 20, sized(12)) if line]
        sides = [(outcome, question.ends[outcome]) for outcome in (True, False) if outcome in question.ends]
        step = LEAF_HEIGHT + 6
        high = max(14.0 + 16 * len(lines), step * len(sides) - 6)
        self.rect(x, y, wide, high, "say" if asked else "box", 5)
        if any((question, outcome) in self.decides for outcome in (True, False)):
            self.rect(x, y, wide, high, "new", 5)
        begin = y + (high - 16 * len(lines)) / 2 + 11
        for at, (line, name) in enumerate(lines):
            self.text(x + 10, begin + 16 * at, line, name)
        top = y + (high - step * len(sides) + 6) / 2
        for at, (outcome, path) in enumerate(sides):
            self._end(question, outcome, path, top + step * at)
        if len(question.then) == 2:
            lit = (question, False) in self.lit
            self._aside(question, False, y + high / 2)
            for at, line in enumerate(wrap(f"below: {question.then[False].what}", LEAF_WIDTH, sized(12, True))):
                self.text(LEAF_X + 4, y + high / 2 + 4 + 16 * at, line, "fb" if lit else "h")
        return y + high

    def _end(self, question: Question, outcome: bool, path: str, y: float) -> None:
        self._aside(question, outcome, y + LEAF_HEIGHT / 2)
        labels = self.lit.get((question, outcome))
        name, function, colour = _LEAVES[path]
        self.rect(LEAF_X, y, LEAF_WIDTH, LEAF_HEIGHT, "soft" if labels is None else colour, 12)
        if labels is not None:
            self.rect(LEAF_X, y, LEAF_WIDTH, LEAF_HEIGHT, "new", 12)
            told = f"{name}: {self.pages or ', '.join(labels)}"
            name = told if measure(told, 12, True) <= LEAF_WIDTH - 20 else f"{name}: {len(labels)} faults"
        self.text(LEAF_X + 12, y + 18, name, "h" if labels is None else "fb")
        self.text(LEAF_X + 12, y + 34, function, "k")

    # --- lines --------------------------------------------------------------------------------------------------

    def _asked(self, question: Question) -> bool:
        return (question, True) in self.lit or (question, False) in self.lit

    def _decided(self, question: Question, outcome: bool) -> str:
        return ": decides" if (question, outcome) in self.decides else ""

    def _aside(self, question: Question, outcome: bool, y: float) -> None:
        start, lit = BOX_X + BOX_WIDTH, (question, outcome) in self.lit
        self.add(svg_path(f"M{start:g} {y:g}H{LEAF_X - 8:g}", "pen" if lit else "vma"))
        self.add(svg_path(f"M{LEAF_X - 9:g} {y - 5:g}v10l8 -5z", "mark" if lit else "vma"))
        self.text(start + 8, y - 6, _yes(outcome) + self._decided(question, outcome), "fb" if lit else "h")

    def _down(self, x: float, y: float, end: float, lit: bool) -> None:
        self.add(svg_path(f"M{x:g} {y:g}V{end - 8:g}", "pen" if lit else "vma"))
        self.add(svg_path(f"M{x - 5:g} {end - 9:g}h10l-5 8z", "mark" if lit else "vma"))


def _mono(words: str) -> float:
    return measure_mono(words, 12)
