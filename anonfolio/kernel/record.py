"""What a fault says of itself, and what a machine counts. Pictures, quizzes and costs read these; nobody recomputes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

from .sizes import NO_FOLIO

_Key = TypeVar("_Key")


class Tally(dict[_Key, int]):
    """Counts by key, 0 for a key that was never counted. Copied five times as fast as a `Counter`."""

    def __missing__(self, key: _Key) -> int:
        return 0

    def total(self) -> int:
        """All counts together."""
        return sum(self.values())


FIRST_TOUCH = "first touch"
ZERO_READ = "zero page read"
ZERO_COPY = "zero page copy"
COW_COPY = "cow copy"
REUSE = "exclusive reuse"
UNSHARE_REUSE = "unshare in place"
AGED = "accessed or dirty"
NO_FAULT = "no fault"
SIGSEGV = "sigsegv"

PATHS = {
    FIRST_TOUCH: "alloc",
    ZERO_READ: "zeroread",
    ZERO_COPY: "zero",
    COW_COPY: "copy",
    REUSE: "reuse",
    UNSHARE_REUSE: "unshare",
    AGED: "age",
    NO_FAULT: "nf",
    SIGSEGV: "sigsegv",
}
"""Every path a fault can take, with its short code. The four that the suite is about are alloc, zero, copy, reuse."""

PF_PROT, PF_WRITE, PF_USER = 1, 2, 4
"""x86 page-fault error code: the page was present, the access a write, the access from user space."""


class Check(NamedTuple):
    """One question that the kernel asked: its name there, the answer, what it saw, and whether it settled the path.

    `words` say what follows from the answer, as the end of a sentence; empty where nobody put it into words.
    """

    what: str
    outcome: bool
    saw: str = ""
    decides: bool = False
    words: str = ""

    @property
    def answer(self) -> str:
        """The question and its answer."""
        return f"{self.what}: {'yes' if self.outcome else 'no'}"

    def __str__(self) -> str:
        mark = "=>" if self.decides else "  "
        return f"{mark} {self.answer}{f' ({self.saw})' if self.saw else ''}"


class Fault(NamedTuple):
    """One page fault, explained.

    Attributes
    ----------
    process, vpn : int
        Who faulted, and on which page number.
    access : str
        ``"read"``, ``"write"``, or ``"unshare"`` (before a read-only pin).
    path : str
        One of `PATHS`.
    error_code : int
        As the x86 tracepoint reports it: 4 read, 6 write, 7 write on a present page.
    order : int
        log2 of the pages it acted on as one folio (of the folio it allocated, for the copying paths).
    pages : range
        The pages whose entries it changed.
    checks : tuple of Check
        What was asked, in order.
    folio, old_folio : int or None
        The folio that the page maps afterwards, and the one it mapped before.
    zeroed, copied, scanned, flushed : int
        Pages zeroed and copied, page-table entries read to find a range, entries flushed from the TLB.
    user : bool
        False for faults that the kernel raised on a process's behalf (pins and other GUP).
    """

    process: int
    vpn: int
    access: str
    path: str
    error_code: int
    order: int = 0
    pages: range = range(0)
    checks: tuple[Check, ...] = ()
    folio: int | None = None
    old_folio: int | None = None
    zeroed: int = 0
    copied: int = 0
    scanned: int = 0
    flushed: int = 0
    user: bool = True

    def __bool__(self) -> bool:
        """Whether there was a fault at all."""
        return self.path != NO_FAULT

    @property
    def code(self) -> str:
        """The result as the worked scenarios write it: alloc4, zero0, copy0, reuse16, nf."""
        short = PATHS[self.path]
        if self.path == REUSE:
            return f"{short}{len(self.pages)}"
        if self.path in (FIRST_TOUCH, ZERO_COPY, COW_COPY):
            return f"{short}{self.order}"
        return short

    @property
    def decided_by(self) -> Check | None:
        """The check that settled which path was taken."""
        return next((check for check in self.checks if check.decides), None)

    def __str__(self) -> str:
        pages = f"{self.pages.start}..{self.pages.stop - 1}" if len(self.pages) > 1 else f"{self.vpn}"
        head = f"process {self.process} {self.access} page {self.vpn}: {self.path} [{self.code}] pages {pages}"
        return "\n".join([head, *(f"  {check}" for check in self.checks)])


class Trail(list[Check]):
    """Collects checks while a fault is handled: ``if check("PageAnonExclusive", …): …``."""

    decided = False

    def __call__(self, what: str, outcome: bool, saw: str = "", *, asks: str = "", yes: str = "", no: str = "") -> bool:
        outcome = bool(outcome)
        self.append(Check(what, outcome, saw, False, yes if outcome else no))
        return outcome

    def decide(self) -> None:
        """The last check asked is the one that settled the path, unless an earlier one did."""
        if self and not self.decided:
            self[-1] = self[-1]._replace(decides=True)
            self.decided = True


class Effect:
    """What a fault has done so far; when it is over, a `Fault` has it under the same names."""

    __slots__ = ("copied", "flushed", "folio", "old_folio", "order", "pages", "path", "scanned", "zeroed")

    def __init__(self, pages: range) -> None:
        self.path, self.order, self.pages = "", 0, pages
        self.folio = self.old_folio = NO_FOLIO
        self.zeroed = self.copied = self.scanned = self.flushed = 0

    def maps(self, folio: int, order: int, pages: range) -> None:
        """These pages map this folio now."""
        self.folio, self.order, self.pages = folio, order, pages


@dataclass(slots=True)
class Counters:
    """What a machine has done so far, in pages unless said otherwise.

    `faults` counts by path; `pgreuse` is the vm event; `anon_fault_alloc` and `anon_fault_fallback` count by order,
    as ``hugepages-*kB/stats`` do. `copied` are pages that faults copied, and fork for the child, where they may be
    pinned.
    """

    faults: Tally[str] = field(default_factory=Tally)
    zeroed: int = 0
    copied: int = 0
    scanned: int = 0
    flushed: int = 0
    pgreuse: int = 0
    anon_fault_alloc: Tally[int] = field(default_factory=Tally)
    anon_fault_fallback: Tally[int] = field(default_factory=Tally)

    def add(self, fault: Fault) -> None:
        """Count one fault."""
        self.faults[fault.path] += 1
        self.zeroed += fault.zeroed
        self.copied += fault.copied
        self.scanned += fault.scanned
        self.flushed += fault.flushed
        if fault.path == REUSE:
            self.pgreuse += 1
        if fault.path == FIRST_TOUCH:
            self.anon_fault_alloc[fault.order] += 1

    def add_many(self, path: str, order: int, faults: int) -> None:
        """Count faults that took the same path and acted on 2**order pages each; what they scanned is added apart."""
        pages = faults << order
        self.faults[path] += faults
        if path in (FIRST_TOUCH, ZERO_COPY):
            self.zeroed += pages
        if path == COW_COPY:
            self.copied += pages
        if path in (ZERO_COPY, COW_COPY, REUSE):
            self.flushed += pages
        if path == REUSE:
            self.pgreuse += faults
        if path == FIRST_TOUCH:
            self.anon_fault_alloc[order] += faults

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(
            Tally(self.faults), self.zeroed, self.copied, self.scanned, self.flushed, self.pgreuse,
            Tally(self.anon_fault_alloc), Tally(self.anon_fault_fallback),
        )  # fmt: skip
