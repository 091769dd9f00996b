"""Looking at what a reader gives: her own object may raise anything, hide its class, or have words without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from ..kernel.late import TooLong

SHOWN, LOOKED_AT = 300, 10_000
"""How much of an answer is repeated in a line, and how many of its characters are looked at."""


class Unreadable(ValueError):
    """An answer of the wrong kind: what it is, and what would be right."""


@contextmanager
def looking(*known: type[Exception]) -> Iterator[None]:
    """Whatever is raised in this block is Unreadable, SystemExit too; those that are `known` and interrupts are not."""
    passed: tuple[type[BaseException], ...] = (Unreadable, KeyboardInterrupt, TooLong, *known)
    try:
        yield
    except passed:
        raise
    except BaseException as error:
        raise Unreadable(f"looking at it raised {kind_of(error)}.") from None


def kind_of(value: Any) -> str:
    """What its class is called, whatever a metaclass of the reader's says."""
    return str(type.__dict__["__name__"].__get__(type(value)))


def shown(answer: Any, how: Callable[[Any], str] = repr) -> str:
    """Something that a reader gives, for one line."""
    try:
        with looking():
            words = " ".join(str.strip(_said(answer, how))[:LOOKED_AT].split())
    except Unreadable:
        words = f"a {kind_of(answer)}"
    return words if len(words) <= SHOWN else f"{words[: SHOWN - 1]}…"


def _said(answer: Any, how: Callable[[Any], str]) -> str:
    if isinstance(answer, str):
        return how(answer[:LOOKED_AT])
    return f"a long {kind_of(answer)}" if is_long(answer) else how(answer)


def is_long(answer: Any) -> bool:
    """Whether lists, and what lies in them, hold more than is looked at: the words for that take seconds."""
    left, there = LOOKED_AT, [answer]
    while there and left >= 0:
        each = there.pop()
        if isinstance(each, (str, bytes, bytearray, list, tuple, set, frozenset, dict)):
            left -= len(each) + 1
        if isinstance(each, (list, tuple, set, frozenset)):
            there += islice(each, max(left, 0))
        elif isinstance(each, dict):
            there += islice(chain.from_iterable(each.items()), max(left, 0))
    return left < 0
