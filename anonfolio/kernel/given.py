"""What callers give, refused in one line, before anything is done, where it is not what is asked for."""

from __future__ import annotations

import reprlib
from itertools import islice
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxdict = 20


def said(value: Any) -> str:
    """A value as an error names it: in one line, and a short one, whatever it is."""
    try:
        return f"{' '.join(_SHORT.repr(value).split()):.60}"
    except Exception:
        # A repr of anybody's own may raise whatever it likes.
        return f"<{type(value).__name__}>"


def items(name: str, value: Any, most: int) -> tuple[Any, ...]:
    """What a value holds; ValueError for what holds nothing, or more than `most`: a range may, and memory does not."""
    try:
        found = tuple(islice(value, most + 1))
    except TypeError:
        raise ValueError(f"{name}={said(value)} is no tuple") from None
    if len(found) > most:
        raise ValueError(f"{name}={said(value)} has more than {most:,}")
    return found


def flag(name: str, value: Any) -> bool:
    """The value, if it is True or False; ValueError for anything else, of which "no" would be true."""
    if type(value) is not bool:
        raise ValueError(f"{name}={said(value)} is neither True nor False")
    return value


def check_kind(name: str, value: Any, *kinds: type) -> None:
    """ValueError unless the value is of one of these kinds."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name}={said(value)} is no {' or '.join(kind.__name__ for kind in kinds)}")


def check_call(name: str, value: Any) -> None:
    """ValueError unless the value can be called, or is None."""
    if value is not None and not callable(value):
        raise ValueError(f"{name}={said(value)} is neither None nor a function")
