"""The checks of `do_wp_page` as a tree, with the branch that a fault took lit.

The branch is read from the fault's own record (`Fault.checks`); nothing is decided again here. What a `Policy` adds is
the shape: which questions its kernel asks of a large folio. SVG in a notebook, text in a terminal; `decisions`
gives one per step for the panel of a `Stepper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import NamedTuple

from ..kernel.honest import Node, tree
from ..kernel.policy import LINUX_6_15, Policy
from ..kernel.record import COW_COPY, FIRST_TOUCH, REUSE, UNSHARE_REUSE, ZERO_COPY, ZERO_READ, Check, Fault
from ..kernel.rules import Reuse, refcount_one
from ..program.scenario import Timeline
from .drawing import RIGHT, SANS, WIDTH, measure, paint, stylesheet, svg_path, svg_rect, svg_text, wrap, xml

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
    FIRST_TOUCH: ("first touch", "do_anonymous_page", "c0"),
    ZERO_COPY: ("zero page copy", "wp_page_copy", "c1"),
    COW_COPY: ("copy", "wp_page_copy", "c4"),
    REUSE: ("reuse", "wp_page_reuse", "c2"),
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

_WIDE = ".afs-panel:has(.afp-tree){flex-basis:620px}"
"""In a stepper's panel: below the pictures rather than too small beside them."""

BOX_X, BOX_WIDTH, BOX_HEIGHT = 16, 318, 54
LEAF_X, LEAF_WIDTH, LEAF_HEIGHT = 436, 150, 44
SMALL_X = 622
SMALL_WIDTH = RIGHT - SMALL_X
PITCH = 80


@dataclass(frozen=True)
class Decision:
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

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": self.text()}

    def svg(self) -> str:
        """The tree as one SVG document, 900 wide."""
        return _Drawn(self).svg()


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


class _Drawn:
    """Lays a `Decision` out: the questions down the left, where each ends on the right, small folios far right."""

    def __init__(self, decision: Decision) -> None:
        self.decision, self.tree = decision, decision.tree
        walks = decision.walks
        self.lit: dict[tuple[Question, bool], list[str]] = {}
        self.decides: set[tuple[Question, bool]] = set()
        for label, walk in walks.items():
            for question, check in zip(walk.questions, walk.checks, strict=True):
                self.lit.setdefault((question, check.outcome), []).append(label)
                if check.decides:
                    self.decides.add((question, check.outcome))
        self.alone = next(iter(walks.values())) if len(walks) == 1 else None
        self.parts: list[str] = []
        top = self._header()
        bottom = self._questions(top)
        self.height = self._footer(bottom)

    def svg(self) -> str:
        size = f'viewBox="0 0 {WIDTH} {self.height:g}" width="100%" style="max-width:{WIDTH}px;height:auto"'
        said = xml(" ".join([self.decision.title, *self.decision.sentences]).strip())
        return "".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} class="afp afp-tree" role="img"',
                f' font-family="{escape(SANS)}">',
                f"<title>{said}</title>",
                f"<desc>{xml(self.decision.text())}</desc>",
                f"<style>{stylesheet()}{_WIDE}</style>",
                svg_rect(0.5, 0.5, WIDTH - 1, self.height - 1, "bg", 6),
                *self.parts,
                "</svg>",
            ]
        )

    def _header(self) -> float:
        self.parts.append(svg_text(16, 21, self.decision.heading, "m"))
        name, size, pitch = ("p", 11.5, 15) if len(self.decision.walks) > 1 else ("t", 14.0, 18)
        y = 41.0
        for said in self.decision.sentences:
            for line in wrap(said, RIGHT - 16, lambda words: measure(words, size, name == "t")):
                self.parts.append(svg_text(16, y, line, name))
                y += pitch
        return y + 2

    def _footer(self, y: float) -> float:
        told = "Lit: what was asked, as the fault's own record has it. Thick frame: the check that decided."
        self.parts.append(svg_text(16, y + 22, told, "m"))
        self.parts.append(svg_text(16, y + 38, LEFT_OUT, "m"))
        return y + 50

    # --- questions and answers ----------------------------------------------------------------------------------

    def _questions(self, top: float) -> float:
        y = top
        for question in self.tree.main:
            for one in self.tree.before(question):
                self.parts.append(svg_text(BOX_X + 10, y - 9, f"{one.what}: no", "m"))
            self._question(question, BOX_X, y, BOX_WIDTH)
            y = self._ends_below(question, y) if len(question.ends) == 2 else self._goes_on(question, y)
        return y

    def _goes_on(self, question: Question, y: float) -> float:
        """What follows one answer stands below; the other ends beside it, or goes on further down."""
        goes_on, below = next(answer for answer in (True, False) if answer in question.then), y + PITCH
        for outcome, path in question.ends.items():
            self._sideways(question, outcome, y)
            self._leaf(question, outcome, path, LEAF_X, y + (BOX_HEIGHT - LEAF_HEIGHT) / 2)
        if len(question.then) == 2:
            self._sideways(question, False, y)
            lit = "b" if (question, False) in self.lit else "m"
            self.parts.append(svg_text(LEAF_X + 6, y + BOX_HEIGHT / 2 + 4, f"below: {question.then[False].what}", lit))
        parts = question is self.tree.exclusive and self.tree.small is not None
        self._down(question, goes_on, BOX_X + BOX_WIDTH / 2, y + BOX_HEIGHT, below, large=parts)
        if parts:
            self._small(y, below)
        return below

    def _ends_below(self, question: Question, y: float) -> float:
        """Both answers end: yes below, no beside it; one leaf if they end alike. More questions stand under that."""
        differ = question.ends[True] != question.ends[False]
        down = differ or (question, True) in self.lit
        self._down(question, down, BOX_X + BOX_WIDTH / 2, y + BOX_HEIGHT, y + PITCH)
        self._leaf(question, down, question.ends[down], BOX_X + (BOX_WIDTH - LEAF_WIDTH) / 2, y + PITCH)
        if differ:
            self._sideways(question, False, y)
            self._leaf(question, False, question.ends[False], LEAF_X, y + (BOX_HEIGHT - LEAF_HEIGHT) / 2)
        end = y + PITCH + LEAF_HEIGHT
        return end if question is self.tree.main[-1] else end + PITCH - BOX_HEIGHT

    def _asked(self, question: Question) -> bool:
        return (question, True) in self.lit or (question, False) in self.lit

    def _question(self, question: Question, x: float, y: float, width: float) -> None:
        asked = self._asked(question)
        walk = self.alone
        met = zip(walk.questions, walk.checks, strict=True) if walk else ()
        check = next((check for one, check in met if one is question), None)
        self.parts.append(svg_rect(x, y, width, BOX_HEIGHT, "say" if asked else "box", 5))
        if any((question, outcome) in self.decides for outcome in (True, False)):
            self.parts.append(svg_rect(x, y, width, BOX_HEIGHT, "new", 5))
        self.parts.append(svg_text(x + 10, y + 17, question.what, "kb" if asked else "k"))
        self.parts.append(svg_text(x + 10, y + 32, question.asks, "p" if asked else "m"))
        if check and check.saw:
            self.parts.append(svg_text(x + 10, y + 46, wrap(check.saw, width - 20)[0], "m"))

    def _sideways(self, question: Question, outcome: bool, y: float) -> None:
        middle = y + BOX_HEIGHT / 2
        start, end = BOX_X + BOX_WIDTH, LEAF_X
        lit = (question, outcome) in self.lit
        self._line(f"M{start:g} {middle:g}H{end - 7:g}", lit)
        self._head(end, middle, lit, down=False)
        self._answer(question, outcome, start + 8, middle - 7)

    def _down(self, question: Question, outcome: bool, x: float, y: float, end: float, *, large: bool = False) -> None:
        # Of a page that is not marked: the branch of large folios is lit when one was asked.
        lit = (question, outcome) in self.lit and (not large or self._asked(question.then[outcome]))
        self._line(f"M{x:g} {y:g}V{end - 7:g}", lit)
        self._head(x, end, lit, down=True)
        self._answer(question, outcome, x + 10, y + 17, "large folio" if large else "")

    def _small(self, y: float, below: float) -> None:
        """A small folio leaves the column under the mark's question, and is asked one thing."""
        small = self.tree.small
        assert small is not None
        lit = self._asked(small)
        middle = SMALL_X + SMALL_WIDTH / 2
        # Under the leaf of the row above, over that of the row below.
        turn = y + BOX_HEIGHT + 4
        self._line(f"M{BOX_X + BOX_WIDTH / 2:g} {y + BOX_HEIGHT:g}V{turn:g}H{middle:g}V{below - 7:g}", lit)
        self._head(middle, below, lit, down=True)
        self.parts.append(svg_text(middle + 10, turn + 15, "no, small folio", "b" if lit else "m"))
        self._question(small, SMALL_X, below, SMALL_WIDTH)
        wide = (SMALL_WIDTH - 14) / 2
        for outcome, x in ((True, SMALL_X), (False, SMALL_X + wide + 14)):
            at = x + wide / 2
            self._down(small, outcome, at, below + BOX_HEIGHT, below + PITCH)
            self._leaf(small, outcome, small.ends[outcome], x, below + PITCH, wide)

    def _leaf(
        self, question: Question, outcome: bool, path: str, x: float, y: float, width: float = LEAF_WIDTH
    ) -> None:
        labels = self.lit.get((question, outcome))
        name, function, colour = _LEAVES[path]
        self.parts.append(svg_rect(x, y, width, LEAF_HEIGHT, "soft" if labels is None else colour, 12))
        if labels is None:
            self.parts.append(svg_text(x + 12, y + 19, name, "m"))
            self.parts.append(svg_text(x + 12, y + 35, function, "k"))
            return
        self.parts.append(svg_rect(x, y, width, LEAF_HEIGHT, "new", 12))
        told = f"{name}: {', '.join(labels) if self.alone is None else _pages(self.alone.fault.pages)}"
        if measure(told, 11.5, True) > width - 16:
            told = f"{name}: {len(labels)} faults"
        self.parts.append(svg_text(x + 12, y + 19, told, "b"))
        self.parts.append(svg_text(x + 12, y + 35, function, "k"))

    # --- lines --------------------------------------------------------------------------------------------------

    def _answer(self, question: Question, outcome: bool, x: float, y: float, to: str = "") -> None:
        key = (question, outcome)
        words = ", ".join(filter(None, ("" if question.looks else _yes(outcome), to)))
        if key in self.decides:
            words += ": decides"
        self.parts.append(svg_text(x, y, words, "b" if key in self.lit else "m"))

    def _line(self, d: str, lit: bool) -> None:
        self.parts.append(svg_path(d, "pen" if lit else "vma"))

    def _head(self, x: float, y: float, lit: bool, *, down: bool) -> None:
        d = f"M{x - 5:g} {y - 8:g}h10l-5 8z" if down else f"M{x - 8:g} {y - 5:g}v10l8 -5z"
        self.parts.append(f'<path d="{d}" {paint("mark")}/>' if lit else svg_path(d, "vma"))
