"""What callers give, refused in one line, before anything is done, where it is not what is asked for."""

from __future__ import annotations

import reprlib
from typing import Any


def said(value: Any) -> str:
    """A value as an error names it: in one line, and a short one, whatever it is."""
    try:
        return f"{reprlib.repr(value):.60}".replace("\n", " ")
    except Exception:
        # A repr of anybody's own may raise whatever it likes.
        return f"<{type(value).__name__}>"


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
