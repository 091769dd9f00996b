"""Numbers as indices: numpy writes straight ahead where it gets a slice, and looks up every place where it does not."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)
Numbers = npt.NDArray[np.int32]
Index = npt.NDArray[np.intp] | slice


def as_slice(numbers: npt.NDArray[np.integer], *, rising: bool = False) -> Index:
    """The same numbers as an index: a slice, many times cheaper, where they count up or down by one.

    A numpy function that gets a slice writes straight ahead; an array of numbers makes it look up every place. `rising`
    says that each number is known to be larger than the one before: then the first and the last tell.
    """
    count = len(numbers)
    if count == 0:
        return slice(0, 0)
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first == count - 1 and (rising or count < 3 or bool((numbers[1:] > numbers[:-1]).all())):
        return slice(first, last + 1)
    if first - last == count - 1 and (count < 3 or bool((numbers[1:] < numbers[:-1]).all())):
        return slice(first, last - 1 if last else None, -1)
    return numbers.astype(np.intp, copy=False)


def as_run(numbers: npt.NDArray[np.integer]) -> Index:
    """Different numbers as an index where their order does not matter: a slice where they are a run in any order."""
    if not len(numbers):
        return slice(0, 0)
    low, high = int(numbers.min()), int(numbers.max())
    return slice(low, high + 1) if high - low == len(numbers) - 1 else numbers.astype(np.intp, copy=False)


def ascending(numbers: Numbers) -> Numbers:
    """Different numbers in order; sorts only what is in neither direction sorted already.

    Numbers that lie close together are not compared: each marks its place.
    """
    if len(numbers) < 2:
        return numbers
    if numbers[0] > numbers[-1]:
        numbers = numbers[::-1]
    if bool((numbers[1:] > numbers[:-1]).all()):
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    if high - low > 8 * len(numbers):
        return np.sort(numbers)
    marks = np.zeros(high - low + 1, np.bool_)
    marks[numbers - low] = True
    return (np.flatnonzero(marks) + low).astype(np.int32)


def in_pieces(numbers: Numbers) -> list[Index]:
    """Ascending numbers as indices: slices for the runs where there are few, else the numbers themselves."""
    cuts = np.flatnonzero(numbers[1:] - numbers[:-1] != 1) + 1
    if 64 * len(cuts) >= len(numbers):
        return [numbers.astype(np.intp, copy=False)]
    firsts = numbers[np.concatenate((np.zeros(1, np.intp), cuts))].tolist()
    lasts = numbers[np.concatenate((cuts, np.array([len(numbers)]))) - 1].tolist()
    return [slice(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]


def places_of(row: npt.NDArray[np.generic]) -> npt.NDArray[np.intp]:
    """Where a row is true, or not 0: `np.flatnonzero` without its detour, which is most of its time for short rows."""
    return row.nonzero()[0]


def numbers_of(index: Index) -> npt.NDArray[np.intp]:
    """The numbers that an index from `as_slice` stands for."""
    if not isinstance(index, slice):
        return index
    return np.arange(index.start, -1 if index.stop is None else index.stop, index.step or 1)


def is_forward(index: Index) -> TypeGuard[slice]:
    """Whether an index from `as_slice` is a run that counts up."""
    return isinstance(index, slice) and index.step is None


COPIED_AT_ONCE = 1 << 16
"""Entries of a column that grows are copied by as many, and not at all where all of them are zero."""

_COUNTING = np.arange(1 << 17, dtype=np.int32)


def count_up(out: Numbers, first: int, order: int = 0) -> None:
    """Fill with `first`, `first` + 1, ..., each 2**order times: several times quicker than from an array of numbers."""
    for at in range(0, len(out), len(_COUNTING)):
        part = out[at : at + len(_COUNTING)]
        if order:
            np.right_shift(_COUNTING[: len(part)], order, out=part)
            part += first + (at >> order)
        else:
            np.add(_COUNTING[: len(part)], first + at, out=part)


def blocks_of(column: npt.NDArray[Scalar], order: int) -> npt.NDArray[Scalar]:
    """A column cut into aligned blocks of 2**order, one a row: a view. A tail that fills no block is left out.

    Order 0 leaves the column as it is: rows of one cost numpy half as much again as no rows.
    """
    if order == 0:
        return column
    return column[: len(column) >> order << order].reshape(-1, 1 << order)


def rows_at(rows: npt.NDArray[Scalar], at: Index) -> npt.NDArray[Scalar]:
    """``rows[at]``, in the quickest of numpy's ways."""
    return rows[at] if isinstance(at, slice) else rows.take(at, axis=0)


def expanded(firsts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], step: int) -> Numbers:
    """The numbers of runs, `step` apart."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    if total and bool((firsts == firsts[0] + (ends - counts) * step).all()):
        return np.arange(firsts[0], firsts[0] + total * step, step, dtype=np.int32)
    numbers = np.arange(total) - np.repeat(ends - counts, counts)
    return (np.repeat(firsts, counts) + numbers * step).astype(np.int32)


def longer(column: npt.NDArray[Scalar], size: int) -> npt.NDArray[Scalar]:
    """The column with zeros behind it. Zeros come from the system untouched: what is never written costs nothing."""
    grown: npt.NDArray[Scalar] = np.zeros((size, *column.shape[1:]), column.dtype)
    for start in range(0, len(column), COPIED_AT_ONCE):
        part = column[start : start + COPIED_AT_ONCE]
        if bool(part.any()):
            grown[start : start + len(part)] = part
    return grown
