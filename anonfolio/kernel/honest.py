"""Rules that a reader wrote, looked at before a policy takes them; and the tree of questions of any rule.

A rule that decides by what it did not ask would be drawn wrong, explained wrong, and planned wrong in a stream. So it
is run over a grid of facts and compared with its own tree; the case that shows it is part of the refusal.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, combinations, product
from typing import Any, NamedTuple, cast

import numpy as np

from . import given
from .asked import Endless, Open, RuleError, answer
from .pagetable import PTE_PRESENT, PTE_WRITE
from .rules import ANY_ORDER, KNOBS, PRCTL, AllowedOrders, Around, ChosenOrder, Extent, Folio, Reuse, Where, silently
from .sizes import ANON_ORDERS, PTRS_PER_PMD

MOST_QUESTIONS = 12
"""No rule asks more on one way through: what asks more never ends."""


# --- the tree of a reuse rule ---------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A question of a rule, what it looked up before, and what follows each answer: a question, or the end."""

    what: str
    asks: str
    before: tuple[tuple[str, str], ...]
    yes: Node | bool
    no: Node | bool


LOOKED = ("calc_anon_folio_range_reuse", "which of its pages are mapped in a row?")
"""What a rule that takes `Folio.run` does first."""


def tree(rule: Reuse, script: tuple[bool, ...] = ()) -> Node | bool:
    """Every way through a rule, found by answering its questions for it: no second copy of what it asks.

    ValueError for a rule that goes on asking.
    """
    asked: list[tuple[str, str]] = []
    looked: list[tuple[str, str]] = []

    def ask(what: str, outcome: bool, saw: str = "", *, asks: str = "", yes: str = "", no: str = "") -> bool:
        asked.append((what, asks))
        if len(asked) > len(script):
            raise Open
        return script[len(asked) - 1]

    def run() -> int:
        if len(asked) == len(script):
            looked.append(LOOKED)
        return 4

    if len(script) > MOST_QUESTIONS:
        raise Endless(f"asks more than {MOST_QUESTIONS} questions one after the other; a rule has to come to an end")
    try:
        return bool(rule(Folio(2, 4, 4, False, run, str, lambda: 4, lambda: 1, False), ask))
    except Open:
        return Node(*asked[-1], tuple(looked), tree(rule, (*script, True)), tree(rule, (*script, False)))


# --- what a policy is asked to take ---------------------------------------------------------------------------------


def check_reuse(rule: Reuse) -> None:
    """Raise ValueError unless a reuse rule takes (folio, ask), returns a bool, and branches on what it asks alone."""
    _check_call(rule, "folio", "ask")
    expected = answer(tree, rule, case="a folio of order 2, 4 references, 4 mappings, with every answer")
    for folio in folios():
        node: Node | bool = expected
        said, asked = _answered(rule, folio)
        reuse_of(said, folio)
        if _answered(rule, folio.told(SLOTS)) != (said, asked):
            raise ValueError(f"answers differently when it is asked again for {folio!r}; {_BY_FACTS}")
        for what, outcome in asked:
            if not isinstance(node, Node) or node.what != what:
                raise ValueError(_dishonest(folio, f"asks {what!r}", node))
            node = node.yes if outcome else node.no
        if node is not bool(said):
            raise ValueError(_dishonest(folio, f"says {'reuse' if said else 'copy'}", node))
    if not isinstance(expected, Node):
        raise ValueError("asks nothing, so nobody can say why; put what it decides by into ask(name, test)")


def reuse_of(found: Any, folio: Folio) -> bool:
    """What a reuse rule said; ValueError unless it is yes or no."""
    if not isinstance(found, bool | np.bool_):
        raise ValueError(f"returns {given.said(found)} for {folio!r}; a rule returns True (reuse) or False (copy)")
    return bool(found)


SLOTS = "tracked: process 0 4, process 1 2"
"""Words for a picture, such as `Folio.slots` holds: a stream has none, and so no rule may go by them."""
_BY_FACTS = "a rule decides by what it is given alone: not by words (slots), time, chance, or what it was asked before"


def _answered(rule: Reuse, folio: Folio) -> tuple[Any, list[tuple[str, bool]]]:
    """What a rule says of a folio, and what it asked before that, with the answers."""
    asked: list[tuple[str, bool]] = []

    def ask(what: str, outcome: bool, saw: str = "", *, asks: str = "", yes: str = "", no: str = "") -> bool:
        if not all(isinstance(words, str) for words in (what, saw, asks, yes, no)):
            raise TypeError(f"what is said in ask({what!r}, …) is text, all of it")
        asked.append((what, bool(outcome)))
        return bool(outcome)

    return answer(rule, folio, ask), asked


def _same_again(first: Any, again: Any, case: object) -> None:
    if first != again:
        raise ValueError(
            f"returns {given.said(first)} for {case}, and {given.said(again)} when it is asked again; {_BY_FACTS}"
        )


def _dishonest(folio: Folio, did: str, node: Node | bool) -> str:
    other = f"asks {node.what!r}" if isinstance(node, Node) else f"says {'reuse' if node else 'copy'}"
    return (
        f"{did} for {folio!r}, and with the same answers elsewhere {other}: "
        "it branches on what it did not ask; put each test into ask(name, test)"
    )


def folios() -> Iterator[Folio]:
    """Folios as a reuse rule may meet them: small and large, with mappings and references as they can be."""
    for order in (2, 4, 9):
        size = 1 << order
        counts = sorted({1, 2, 3, 4, 5, size - 1, size, size + 1, 2 * size})
        for refcount, mappings, shared in product(counts, counts, (False, True)):
            if mappings <= refcount:
                most = min(size, mappings)
                for run, mine in {(1, 1), (1, most), (most, most)}:
                    for mapcount, pinned in product({1, min(2, mappings)}, {False, mappings < refcount}):
                        lazy = partial(int, run), str, partial(int, mine), partial(int, mapcount)
                        yield Folio(order, refcount, mappings, shared, *lazy, pinned)


def check_allowed_orders(rule: AllowedOrders) -> None:
    """Raise ValueError unless a rule takes (where) and returns orders, wherever it is asked."""
    _check_call(rule, "where")
    for where in wheres():
        first, again = (set(orders_of(answer(rule, where), where)) for _ in range(2))
        _same_again(first, again, where)


def wheres() -> Iterator[Where]:
    """Mappings as the kernel may meet them: small and large, advised and not, knobs and prctl as they can be set."""
    for advice, pages, said, thp, prctl in product(
        ("", "hugepage", "nohugepage"), (1, 16, 512, 4096), KNOBS, ("always", "madvise", "never"), PRCTL
    ):
        for knobs in (dict.fromkeys(ANON_ORDERS, said), {}):
            yield Where(advice, pages, knobs, thp, prctl)


def orders_of(found: Any, where: Where) -> frozenset[int]:
    """What a rule returned, as a set; ValueError unless they are orders of anonymous folios."""
    try:
        orders = frozenset(map(operator.index, found))
    except TypeError:
        raise ValueError(f"returns {given.said(found)} for {where}; it returns orders, such as {{4}}") from None
    if not orders <= frozenset(ANON_ORDERS):
        raise ValueError(f"returns {given.said(found)} for {where}; orders of anonymous folios are 2 to 9")
    return orders


def check_chosen_order(rule: ChosenOrder) -> None:
    """Raise ValueError unless a rule takes (fits, ask) and returns one of the orders that fit, whatever they are."""
    _check_call(rule, "fits", "ask")
    for some in chain.from_iterable(combinations(ANY_ORDER, n) for n in range(1, len(ANY_ORDER) + 1)):
        fits = (*some, 0)
        chosen, again = (chosen_of(answer(rule, fits, silently, case=f"fits={fits}"), fits) for _ in range(2))
        _same_again(chosen, again, f"fits={fits}")


def chosen_of(found: Any, fits: tuple[int, ...]) -> int:
    """What a rule chose; ValueError unless it is one of those that fit."""
    if type(found) is not int or found not in fits:
        raise ValueError(f"returns {given.said(found)} for fits={fits}; it returns one of them, a plain int")
    return found


def check_extent(rule: Extent, *, block: bool) -> None:
    """Raise ValueError unless a rule takes (around, ask) and returns a range that a fault can act on."""
    _check_call(rule, "around", "ask")
    for around in arounds():
        found, again = (answer(rule, around, silently) for _ in range(2))
        check_range(around, found, block=block)
        _same_again(found, again, around)


def check_range(around: Around, found: Any, *, block: bool) -> None:
    """Raise ValueError unless a fault can act on `found`: around the page, in reach, one folio; a block for a copy."""
    page = around.first + around.at
    if not isinstance(found, range) or found.step != 1 or around.at not in found:
        raise ValueError(
            f"returns {given.said(found)} for place {around.at}; it returns a range of places that contains it"
        )
    what = f"gives {around.pages(found)} for page {page}"
    for whose, limit in (("mapping", around.vma), ("page table", range(PTRS_PER_PMD)), ("folio", around.folio)):
        if found.start < limit.start or found.stop > limit.stop:
            raise ValueError(f"{what}, and leaves the {whose}; allowed is what lies in {around.pages(around.reach)}")
    good = around.same_folio[found.start : found.stop]
    if not good.all():
        bad = around.first + found.start + int(good.argmin())
        raise ValueError(f"{what}, and page {bad} maps no page of that folio in step; allowed is what same_folio marks")
    if block and (found != around.block(len(found).bit_length() - 1) or len(found) == 2):
        raise ValueError(f"{what}; a copy takes an aligned block of 1, 4, 8, … pages, such as around.block(2)")


def arounds(orders: tuple[int, ...] = (2, 4, 9)) -> Iterator[Around]:
    """Page tables that map a folio whole, cut by the mapping, with holes, with other frames, marked and not."""
    for order, at, cut, state in product(orders, (0, 5, 100, 511), (0, 3), range(5)):
        size = 1 << order
        start = at & -size
        bits = np.zeros(PTRS_PER_PMD, np.uint8)
        bits[start : start + size] = PTE_PRESENT
        pfns = np.arange(PTRS_PER_PMD, dtype=np.int32) - start + size
        marked = np.zeros(4 * PTRS_PER_PMD, np.bool_)
        other = start if at != start else start + size - 1
        if state == 1:
            bits[other] = 0
        if state == 2:
            pfns[other] = 0
        if state == 3:
            marked[size : 2 * size] = True
        if state == 4:
            marked[size + other - start] = True
            bits[other] |= PTE_WRITE
        mapping = range(max(start, at - cut) if cut else 0, at + 1 + cut if cut else PTRS_PER_PMD)
        counts = np.full(size, 1 + (state > 2))
        counts[other - start] = 1
        yield Around(
            at, mapping, (bits, pfns), range(size, 2 * size), marked, ANY_ORDER,
            mapcounts=partial(np.copy, counts), pinned=state > 3,
        )  # fmt: skip


def _check_call(rule: Callable[..., Any], *names: str) -> None:
    try:
        inspect.signature(rule).bind(*names)
    except (TypeError, ValueError):
        try:
            takes = f"takes {inspect.signature(rule)}"
        except (TypeError, ValueError):
            takes = "cannot be called so"
        raise ValueError(f"{takes}; it is called with ({', '.join(names)})") from None


# --- when a machine asks it -----------------------------------------------------------------------------------------


class Asked:
    """A reader's rule as machines ask it: what it says is looked at each time, for no grid holds every case.

    Parameters
    ----------
    rule : function
    whose : str
        The policy and the field, for what is said of a wrong answer.
    check : function (found, facts) -> what the machine takes
        Raises ValueError for what it cannot take.
    """

    def __init__(self, rule: Callable[..., Any], whose: str, check: Callable[[Any, Any], Any]) -> None:
        self.__wrapped__, self._whose, self._check = rule, whose, check

    def __call__(self, facts: Any, *ask: Any) -> Any:
        try:
            return self._check(answer(self.__wrapped__, facts, *ask), facts)
        except ValueError as error:
            raise RuleError(f"{self._whose} {error}") from error.__cause__


def _block_of(found: Any, around: Around) -> range:
    check_range(around, found, block=True)
    return cast(range, found)


def _run_of(found: Any, around: Around) -> range:
    check_range(around, found, block=False)
    return cast(range, found)


CHECKS: dict[str, Callable[[Any, Any], Any]] = {
    "large_reuse": reuse_of,
    "allowed_orders": orders_of,
    "chosen_order": chosen_of,
    "copy_extent": _block_of,
    "unshare_extent": _block_of,
    "reuse_extent": _run_of,
}
"""What a machine takes of each rule."""
