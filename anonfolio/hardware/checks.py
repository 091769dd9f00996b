"""What callers give as numbers: refused in one line, before anything is done, where it is not what is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernel import given


def whole(name: str, value: Any, low: int = 0, high: int | None = None) -> int:
    """The value, if it is a whole number in low..high (no bool, no 2.0); ValueError says what would be one."""
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if number and value >= low and (high is None or value <= high):
        return int(value)
    right = f"of at least {low}" if high is None else f"in {low}..{high}"
    raise ValueError(f"{name}={given.said(value)} is not a whole number {right}")


def whole_row(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The values as one row of whole numbers; ValueError for any other shape or kind."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be one row of integers, not {array.ndim} dimensions of {array.dtype}")
    return array.astype(np.int64, copy=False)


def as_tuple(name: str, values: Any, what: str) -> tuple[Any, ...]:
    """The values of a list or of anything like it, but of no text; ValueError says what they should be."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}={given.said(values)} is not a tuple of {what}")
    return tuple(values)
