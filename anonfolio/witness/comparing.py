"""Compare two witnesses of one scenario: the model under two policies, or the model and a recorded kernel.

What is compared, at every step: whether it was done, the value, the user faults, and for every page of every process
whether it is present, the zero page, at which place of how large a folio, with which other pages it shares that
folio, whether it is mapped exactly once, and whether it still maps the frame it mapped before the step. Frame numbers
themselves mean nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel import given
from ..kernel.given import check_kind
from ..kernel.history import kernel_number
from ..kernel.policy import Policy, policy_for_kernel
from ..kernel.record import FIRST_TOUCH
from ..kernel.sizes import PTRS_PER_PMD
from ..machine.snapshot import FolioView, ProcessView, Snapshot
from ..program import witnesses
from ..program.ops import TABLE, Step
from ..program.scenario import Result, Scenario, Timeline
from ..program.witnesses import Difference
from .entries import converts_difference, raw_difference, sets_age
from .hidden.state import HiddenState, first_difference, state_of_snapshot

NONE, ZERO, GUARD = -1, -2, -3
NO_FOLIO_CELLS: dict[int | str, int] = {0: NONE, "z": ZERO, "g": GUARD}
"""A recording's cells of pages without a folio, and what stands for them here."""
FAULTED = {4: "read, nothing there", 6: "write, nothing there", 7: "write, read-only there"}
"""x86 page-fault error codes in words."""


class PageView(NamedTuple):
    """What one process's mapping holds, page by page.

    Parameters
    ----------
    folio : ndarray of shape (pages,), int64
        A number that stands for the folio, NONE, ZERO, or GUARD for a guard marker.
    offset, size : ndarray of shape (pages,), int64
        Which page of the folio, and the folio's pages.
    once : ndarray of shape (pages,), bool
        Mapped exactly once (pagemap bit 56).
    huge : ndarray of shape (pages,), bool
        Mapped by a PMD; a recording does not say, its `huge` is all false.
    """

    folio: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    once: npt.NDArray[np.bool_]
    huge: npt.NDArray[np.bool_]


class Seen(NamedTuple):
    """What one witness says of one step. Of the faults only how many, when it could not see where."""

    ok: bool
    value: int | None
    faults: list[list[int]] | int
    view: dict[int, PageView]


@dataclass(frozen=True)
class Recorded:
    """One program that ran on a real kernel: the scenario, and per step what was seen (the format's dicts).

    A step may have ``"hidden"``, a `HiddenState`, which a file holds as numbers.
    """

    kernel: str
    scenario: Scenario
    steps: tuple[dict[str, Any], ...]
    arch: str = "x86-64"

    def seen(self) -> Iterator[Seen]:
        """Per step what the kernel's page tables held."""
        for step in self.steps:
            view = {int(number): page_view_of_cells(cells) for number, cells in step["view"].items()}
            faults = step["faults"]
            # A live run that could not trace faults counted them.
            yield Seen(step["ok"], step["value"], faults if isinstance(faults, int) else list(map(list, faults)), view)

    def without_counts(self) -> Recorded:
        """Without what a live run counted beside page tables: a recording that is the same every time."""
        steps = ({key: seen for key, seen in step.items() if key != "counted"} for step in self.steps)
        return replace(self, steps=tuple(steps))

    def replay(self, policy: Policy | None = None, tally: Counter[str] | None = None) -> list[Difference]:
        """Where the model, under that policy or the kernel's own, differs; `tally` is as for `iter_differences`."""
        return list(iter_differences(self.scenario.run(policy or self.policy), self, tally))

    @property
    def policy(self) -> Policy:
        """The policy that models its kernel, on a processor such as it ran on; ValueError when none does."""
        policy = policy_for_kernel(self.kernel, self.arch)
        if sets_age(self.scenario.steps, self.steps):
            return policy
        return policy.but(name=f"{policy.name}, accessed and dirty by faults", hardware_age=False)


def seen_by_model(result: Result, base: int, pages: int) -> Seen:
    """A model's step as a witness sees it: page numbers relative to the mapping, frames as folio and offset."""
    faults = [[fault.vpn - base, fault.error_code] for fault in result.user_faults]
    return Seen(result.ok, result.value, faults, model_view(result.snapshot, base, pages))


def mapped_frames(process: ProcessView, base: int, pages: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Of each page of [base, base + pages) the frame that it maps, ZERO, GUARD or NONE; and whether a PMD maps it."""
    frames, huge = np.full(pages, NONE, np.int64), np.zeros(pages, np.bool_)
    for mapping in process.mappings:
        lo, hi = max(mapping.start, base), min(mapping.end, base + pages)
        if lo < hi:
            here, there = slice(lo - base, hi - base), slice(lo - mapping.start, hi - mapping.start)
            mapped = np.where(mapping.present[there], mapping.pfn[there], NONE)
            frames[here] = np.where(mapping.zero[there], ZERO, np.where(mapping.guarded[there], GUARD, mapped))
            huge[here] = mapping.huge[there]
    return frames, huge


def of_frames(snapshot: Snapshot, what: Callable[[FolioView], npt.ArrayLike]) -> npt.NDArray[np.int64]:
    """Something of each folio as an array by frame; 0 where there is none. Its last element is such a frame."""
    found = np.zeros(1 + max((folio.head + folio.pages for folio in snapshot.folios), default=0), np.int64)
    for folio in snapshot.folios:
        found[folio.head : folio.head + folio.pages] = what(folio)
    return found


def model_view(snapshot: Snapshot, base: int, pages: int) -> dict[int, PageView]:
    """Per live process what [base, base + pages) maps."""
    head, size, mapcount = (
        of_frames(snapshot, what)
        for what in (lambda folio: folio.head, lambda folio: folio.pages, lambda folio: folio.mapcount)
    )

    def view(process: ProcessView) -> PageView:
        frames, huge = mapped_frames(process, base, pages)
        counted = frames >= 0
        at = np.where(counted, frames, -1)
        folio = np.where(counted, head[at], frames)
        return PageView(folio, np.where(counted, frames - folio, 0), size[at], mapcount[at] == 1, huge)

    return {process.number: view(process) for process in snapshot.processes if process.alive}


@witnesses.compare.register
def compare(mine: Timeline, other: Timeline | Recorded) -> list[Difference]:
    """Every step at which the model and another witness differ, with the first difference of each."""
    check_kind("mine", mine, Timeline)
    check_kind("other", other, Timeline, Recorded)
    ours, theirs = mine.scenario, other.scenario
    if (ours.pages, ours.skew, ours.steps) != (theirs.pages, theirs.skew, theirs.steps):
        named = f"{given.said(ours.name or 'unnamed')} and {given.said(theirs.name or 'unnamed')}"
        raise ValueError(f"{named} are different programs: what is compared are runs of one")
    return list(iter_differences(mine, other))


def iter_differences(
    mine: Timeline, other: Timeline | Recorded, tally: Counter[str] | None = None
) -> Iterator[Difference]:
    """As `compare`, one at a time. `tally` counts the cells of hidden state and of raw entries that were compared."""
    scenario = mine.scenario
    base = scenario.first_vpn
    kernel = other.kernel if isinstance(other, Recorded) else None
    mine_before = model_view(mine.start, base, scenario.pages)
    theirs_before: dict[int, PageView] = {}
    converts = mine.start.contpte_converts
    theirs_all = _seen_steps(other)
    for number, (result, theirs) in enumerate(zip(mine, theirs_all, strict=True)):
        seen = seen_by_model(result, base, scenario.pages)
        fresh = _populated(result, base)
        before = _forgetting(mine_before, fresh), _forgetting(theirs_before, fresh)
        difference = _first_difference(result.step, seen, theirs, *before, kernel, base)
        if isinstance(other, Recorded):
            hidden = _hidden_difference(result.snapshot, other, number, tally)
            entries = _entries_difference(result.snapshot, converts, other, number, tally)
            difference = difference or entries or hidden
            converts = result.snapshot.contpte_converts
        if difference:
            yield Difference(number, result.step, *difference)
        mine_before, theirs_before = seen.view, theirs.view


def _hidden_difference(
    snapshot: Snapshot, other: Recorded, number: int, tally: Counter[str] | None
) -> tuple[str, str, str] | None:
    """What differs in what the kernel shows to nobody, where that was read."""
    theirs: HiddenState | None = other.steps[number].get("hidden")
    if theirs is None:
        return None
    first, pages = other.scenario.first_vpn, other.scenario.pages
    return first_difference(state_of_snapshot(snapshot, first, pages, other.kernel), theirs, tally)


def _entries_difference(
    snapshot: Snapshot, converts: int, other: Recorded, number: int, tally: Counter[str] | None
) -> tuple[str, str, str] | None:
    """What differs in arm64's raw entries, where they were kept."""
    step, scenario = other.steps[number], other.scenario
    found = raw_difference(snapshot, step, scenario.first_vpn, scenario.pages, tally)
    # Recorders of before 29 November 2026 counted with a first step what the end of the program before had repainted.
    if found or not number:
        return found
    return converts_difference(snapshot, converts, step, tally)


def _seen_steps(other: Timeline | Recorded) -> Iterator[Seen]:
    if isinstance(other, Timeline):
        scenario = other.scenario
        return (seen_by_model(result, scenario.first_vpn, scenario.pages) for result in other)
    return other.seen()


def once_as_shown(view: PageView, base: int, kernel: str | None) -> npt.NDArray[np.bool_]:
    """A model's "mapped once" as that kernel's pagemap shows it; None for another model.

    Under a PMD most kernels answer for all its pages from the first; 6.11 to 6.14 ask for each (`pagemap_pmd_range`;
    6.1, 6.12, 6.18). A model always knows.
    """
    if kernel is None or not view.huge.any() or _asks_each_page(kernel):
        return view.once
    once = view.once.copy()
    huge = np.flatnonzero(view.huge)
    once[huge] = view.once[(huge + base) // PTRS_PER_PMD * PTRS_PER_PMD - base]
    return once


def _asks_each_page(kernel: str) -> bool:
    try:
        return (6, 11) <= kernel_number(kernel)[:2] <= (6, 14)
    except ValueError:
        # Whoever names a policy for a kernel of unreadable version gets what most kernels do.
        return False


def _first_difference(
    step: Step,
    mine: Seen,
    theirs: Seen,
    mine_before: dict[int, PageView],
    theirs_before: dict[int, PageView],
    kernel: str | None,
    base: int,
) -> tuple[str, str, str] | None:
    if mine.ok != theirs.ok:
        return "done or refused", "done" if mine.ok else "refused", "done" if theirs.ok else "refused"
    # A refused step returns nothing: recorders leave what was in the buffer.
    compared = mine.ok and (TABLE[step[0]].returns or theirs.value is not None)
    if compared and mine.value != theirs.value:
        return "value", str(mine.value), str(theirs.value)
    counted = isinstance(theirs.faults, int)
    if (_count(mine.faults) if counted else mine.faults) != theirs.faults:
        return "page faults", _faults_in_words(mine.faults), _faults_in_words(theirs.faults)
    if mine.view.keys() != theirs.view.keys():
        return "live processes", str(sorted(mine.view)), str(sorted(theirs.view))
    for number in sorted(mine.view):
        here, there = mine.view[number], theirs.view[number]
        once = once_as_shown(here, base, kernel)
        for what, left, right in (
            ("present", here.folio != NONE, there.folio != NONE),
            ("zero page", here.folio == ZERO, there.folio == ZERO),
            ("guard page", here.folio == GUARD, there.folio == GUARD),
            ("size of its folio", here.size, there.size),
            ("offset in its folio", here.offset, there.offset),
            ("mapped exactly once", once, there.once),
        ):
            if not np.array_equal(left, right):
                page = int(np.flatnonzero(left != right)[0])
                return f"process {number} page {page}: {what}", _word(left[page]), _word(right[page])
        if number in mine_before and number in theirs_before:
            left, right = _same_frame(mine_before[number], here), _same_frame(theirs_before[number], there)
            if not np.array_equal(left, right):
                page = int(np.flatnonzero(left != right)[0])
                words = {True: "the same frame as before", False: "another frame than before"}
                return f"process {number} page {page}: maps", words[bool(left[page])], words[bool(right[page])]
    return _sharing_difference(mine.view, theirs.view)


def _count(faults: list[list[int]] | int) -> int:
    return faults if isinstance(faults, int) else len(faults)


def _faults_in_words(faults: list[list[int]] | int) -> str:
    if isinstance(faults, int):
        return f"{faults}, counted"
    return ", ".join(f"page {page} ({FAULTED.get(code, f'error code {code}')})" for page, code in faults) or "none"


def _word(value: np.generic) -> str:
    return {True: "yes", False: "no"}[bool(value)] if value.dtype == np.bool_ else str(value)


def _populated(result: Result, base: int) -> set[tuple[int, int]]:
    """Processes and pages that a step made anew by itself (mmap that populates, a locked range that grows)."""
    faults = [fault for fault in result.faults if fault.path == FIRST_TOUCH and not fault.user]
    return {(fault.process, page - base) for fault in faults for page in fault.pages}


def _forgetting(views: dict[int, PageView], pages: set[tuple[int, int]]) -> dict[int, PageView]:
    """As if nothing had been mapped there: the frame that the same step frees may come back, or not."""
    views = dict(views)
    for process, page in pages:
        if process in views and 0 <= page < len(views[process].folio):
            folio = views[process].folio.copy()
            folio[page] = NONE
            views[process] = views[process]._replace(folio=folio)
    return views


def _same_frame(before: PageView, after: PageView) -> npt.NDArray[np.bool_]:
    both = (before.folio >= 0) & (after.folio >= 0)
    same: npt.NDArray[np.bool_] = both & (before.folio == after.folio) & (before.offset == after.offset)
    return same


def _sharing_difference(mine: dict[int, PageView], theirs: dict[int, PageView]) -> tuple[str, str, str] | None:
    """Do the same pages of the same processes share folios? Equal iff folio numbers translate one to one."""
    left = np.concatenate([mine[number].folio for number in sorted(mine)] or [np.zeros(0, np.int64)])
    right = np.concatenate([theirs[number].folio for number in sorted(mine)] or [np.zeros(0, np.int64)])
    counted = left >= 0
    left, right = left[counted], right[counted]
    for one, other, who in ((left, right, "the model"), (right, left, "the other witness")):
        order = np.argsort(one, kind="stable")
        split = np.flatnonzero((np.diff(one[order]) == 0) & (np.diff(other[order]) != 0))
        if len(split):
            shared = "pages share one folio", "the same pages are in different folios"
            return ("sharing of folios", *(shared if who == "the model" else shared[::-1]))
    return None


def page_view_of_cells(cells: list[Any]) -> PageView:
    """A recording's cells of one process as arrays."""
    rows = [(NO_FOLIO_CELLS[cell], 0, 0, 0) if isinstance(cell, int | str) else cell for cell in cells]
    table = np.array(rows, np.int64).reshape(len(rows), 4)
    return PageView(table[:, 0], table[:, 1], table[:, 2], table[:, 3] == 1, np.zeros(len(rows), np.bool_))


def cells_of_page_view(view: PageView) -> list[Any]:
    """Arrays as a recording's cells."""
    words = {number: cell for cell, number in NO_FOLIO_CELLS.items()}
    return [
        words.get(folio, [folio, offset, size, once])
        for folio, offset, size, once in zip(
            view.folio.tolist(), view.offset.tolist(), view.size.tolist(), view.once.astype(int).tolist(), strict=True
        )
    ]
