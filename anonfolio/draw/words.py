"""Steps and states in plain English and kernel terms: one sentence each, as a screen reader says it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..kernel.record import (
    AGED,
    COW_COPY,
    FIRST_TOUCH,
    NO_FAULT,
    REUSE,
    SIGSEGV,
    UNSHARE_REUSE,
    ZERO_COPY,
    ZERO_READ,
    Fault,
)
from ..machine.snapshot import ProcessView, Snapshot
from ..program.ops import pages_in_words, said
from ..program.scenario import Result
from ..witness.comparing import Recorded

TRAILS = 2
"""So many faults of one step are told in full; a pin over many pages can take many."""


def sentence(result: Result, base: int = 0) -> str:
    """One step in plain English and kernel terms, as a screen reader says it.

    Parameters
    ----------
    base : int
        The page number of the scenario's page 0 (`Scenario.first_vpn`).
    """
    did = said(result.step, base, len(result.snapshot.processes) - 1)
    if result.step[0] == "fork":
        did += _fork_outcome(result)
    if result.faults and result.faults[-1].path == SIGSEGV:
        return f"{did}: SIGSEGV, {_no_access(result.faults[-1])}."
    if not result.ok:
        came = f" Before that, {_clauses(result.faults)}." if result.faults else ""
        return f"{did}: refused, {result.why or 'the kernel gives no reason'}.{came}"
    if result.step[0] in ("write", "read"):
        if result.faults:
            return f"{did}: {_clauses(result.faults)}."
        return f"{did}: {_no_fault_because(result)}, so there is no fault."
    tail = f" On the way, {_clauses(result.faults)}." if result.faults else ""
    return f"{did}.{tail}"


def fault_sentence(faults: Sequence[Fault]) -> str:
    """What an operation did as far as its faults tell; empty when there were none."""
    if not faults:
        return ""
    last = faults[-1]
    did = f"Process {last.process} {last.access}s page {last.vpn}" if last.user else f"Process {last.process}"
    return f"{did}: SIGSEGV, {_no_access(last)}." if last.path == SIGSEGV else f"{did}: {_clauses(faults)}."


def question(result: Result, base: int = 0) -> str:
    """The sentence of a read or a write as far as it can be said before its outcome is known."""
    return f"{said(result.step, base, len(result.snapshot.processes) - 1)}. Which path does it take?"


def path_taken(result: Result) -> str | None:
    """Which of `record.PATHS` a read or a write ended on; None for a step that is no access."""
    if result.step[0] not in ("write", "read"):
        return None
    return result.faults[-1].path if result.faults else NO_FAULT


def reason(result: Result) -> str:
    """Why a read or a write took its path: in words, then the check that decided as the kernel names it."""
    if not result.faults:
        return _no_fault_because(result)
    fault = result.faults[-1]
    if fault.path == SIGSEGV:
        return _no_access(fault)
    words = {
        FIRST_TOUCH: "nothing is mapped there and the access is a write",
        ZERO_READ: "nothing is mapped there and the access is a read",
        ZERO_COPY: "the zero page is mapped there and the access is a write",
        AGED: "the entry allows the access, and the processor does not mark it itself",
    }.get(fault.path) or _because(fault)
    check = fault.decided_by
    return f"{words} ({check.what}: {'yes' if check.outcome else 'no'})" if check else words


def _no_access(fault: Fault) -> str:
    check = fault.decided_by
    return check.saw if check and check.what != "vma_lookup" else "no mapping contains it"


def _no_fault_because(result: Result) -> str:
    return "the entry is writable" if result.step[0] == "write" else "the page is mapped"


def _fork_outcome(result: Result) -> str:
    parent, child = (_frames(result.snapshot.processes[number]) for number in (result.step[1], -1))
    shared = int(np.isin(child, parent).sum())
    copied = len(child) - shared
    many = "1 page is" if shared == 1 else f"{shared} pages are"
    told = [f"{many} shared, read-only in both and no longer exclusive"] if shared else ["no page is shared"]
    told += (
        [f"{copied} {'page of a pinned folio is' if copied == 1 else 'pages of a pinned folio are'} copied"]
        if copied
        else []
    )
    return ": " + ", and ".join(told)


def _frames(process: ProcessView) -> npt.NDArray[np.int32]:
    """The frames of folios that a process maps, one a page."""
    return np.concatenate([np.zeros(0, np.int32), *(view.pfn[view.present & ~view.zero] for view in process.mappings)])


def _clauses(faults: Sequence[Fault]) -> str:
    told = [_clause(fault, alone=len(faults) == 1) for fault in faults[:TRAILS]]
    more = more_faults(faults)
    return "; then ".join(told) + (f"; and {more}" if more else "")


def more_faults(faults: Sequence[Fault]) -> str:
    more = len(faults) - TRAILS
    return f"{more} more fault{'s' if more > 1 else ''}" if more > 0 else ""


def _clause(fault: Fault, *, alone: bool) -> str:
    at = "" if alone and fault.user else f"page {fault.vpn} faults ({fault.access}): "
    pages, where = len(fault.pages), pages_in_words(fault.pages)
    if fault.path == FIRST_TOUCH:
        return f"{at}nothing is mapped there, so {_new_folio(fault)} is zeroed and mapped at {where}"
    if fault.path == ZERO_READ:
        zero = "the shared zero page is" if pages == 1 else "the huge zero page is"
        return f"{at}nothing is mapped there, so {zero} mapped read-only"
    if fault.path == ZERO_COPY:
        return f"{at}the zero page is mapped there, so {_new_folio(fault)} takes its place at {where}"
    if fault.path == AGED:
        return f"{at}the access is allowed, so {where} {'is' if pages == 1 else 'are'} only marked {fault.path}"
    because = _because(fault)
    if fault.path == COW_COPY:
        count = "one page is" if pages == 1 else f"{pages} pages are"
        return f"{at}{because}, so {count} copied into {_new_folio(fault)}"
    if fault.path == REUSE:
        what = f"{where} {'is' if pages == 1 else 'are'}"
        return f"{at}{because}, so {what} made writable in place and nothing is copied"
    if fault.path == UNSHARE_REUSE:
        return f"{at}{because}, so it becomes exclusive in place and stays read-only"
    return f"{at}{fault.path}"


def _because(fault: Fault) -> str:
    check = fault.decided_by
    if check is None:
        return "no check was made"
    return check.words or f"{check.what} is {'true' if check.outcome else 'false'}"


def _new_folio(fault: Fault) -> str:
    return f"a new folio of order {fault.order}" + (f" ({1 << fault.order} pages)" if fault.order else "")


def state_sentence(snapshot: Snapshot) -> str:
    """What a state holds, where no step is told."""
    live = sum(process.alive for process in snapshot.processes)
    if not live:
        return "No process is alive."
    mapped = any(view.present.any() for process in snapshot.processes for view in process.mappings)
    folios, held = len(snapshot.folios), snapshot.held_pages
    pages = f"{held} page{'' if held == 1 else 's'}"
    holds = f"1 folio holds {pages}" if folios == 1 else f"{folios} folios hold {pages}"
    what = holds if mapped else "nothing is mapped yet"
    return f"{live} process{'es' if live > 1 else ''}; {what}."


def forks(recorded: Recorded, steps: int) -> int:
    return sum(step[0] == "fork" for step in recorded.scenario.steps[:steps])


_ERROR_CODES = {
    4: "read, nothing there",
    6: "write, nothing there",
    5: "read on an old page",
    7: "write on a present page",
}


def recorded_sentence(recorded: Recorded, at: int) -> str:
    step, seen, base = recorded.scenario.steps[at], recorded.steps[at], recorded.scenario.first_vpn
    faults = [f"page {page + base} ({_ERROR_CODES.get(code, f'error code {code}')})" for page, code in seen["faults"]]
    came = ("user fault on " + ", ".join(faults[:4]) + (" …" if len(faults) > 4 else "")) if faults else "no user fault"
    return f"{said(step, base, forks(recorded, at + 1))}: {came if seen['ok'] else f'refused, {came}'}."
