"""The kernel's copy-on-write selftests (tools/testing/selftests/mm/cow.c) as scenarios, by their names.

A case is a short program over a range of pages, a backing says what those pages are beforehand; every case runs on
every backing, as there. What a case asserts is a byte that some later step must return: a child must not see what its
parent writes after fork, a device must see what its process writes. All of it concerns private anonymous memory: what
needs swap, files or hugetlb is in `LEFT_OUT`, with the reason.

Two things differ from the C program. Of a range of more than 16 pages a few are written and looked at (its ends, its
middle, one between), not each. And there is no soft-dirty tracking, so that mprotect to read-only and back lets a page
be written at once where cow.c makes it fault: what those cases assert holds either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..kernel.sizes import ANON_ORDERS, PMD_ORDER
from ..program.scenario import Scenario, Step
from .selftests import DONE, Check, Selftest

OLD, NEW = 1, 255
"""The byte that populates the range, and the one that is written later."""
READ_ONLY, READ_WRITE = 1, 3
LEFT_OUT = {
    "... with swapped out base page, swapped-out THP": "swap is not modelled",
    "... with hugetlb": "hugetlb is not modelled",
    "... with memfd, tmpfile, memfd hugetlb": "memory of files is not modelled",
}
"""What else cow.c runs on private mappings, and why it is not here."""


@dataclass
class Program:
    """Steps that are being put together, and which of them must return which byte."""

    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def do(self, *step: Any) -> None:
        """One more step."""
        self.steps.append(step)

    def expect(self, byte: int, *step: Any) -> None:
        """One more step, which must return that byte."""
        self.do(*step)
        self.checks.append(Check(len(self.steps), "came", (DONE, byte)))

    def each(self, operation: str, process: int, pages: Iterable[int], *rest: Any) -> None:
        """The same with each page."""
        for page in pages:
            self.do(operation, process, page, *rest)

    def expect_each(self, byte: int, process: int, pages: Iterable[int]) -> None:
        """Each page read, and what must be in it."""
        for page in pages:
            self.expect(byte, "read", process, page)

    def expect_device(self, byte: int, process: int, pages: Iterable[int]) -> None:
        """Each page read by the device, through pin 0 of a range that starts at page 0."""
        for page in pages:
            self.expect(byte, "dma_read", process, 0, page)

    def protect_and_back(self, process: int, first: int, n: int) -> None:
        """mprotect to read-only, and back."""
        self.do("mprotect", process, first, n, READ_ONLY)
        self.do("mprotect", process, first, n, READ_WRITE)


# --- cases: what is done with pages [0, n) --------------------------------------------------------------------------


def _parent_writes(program: Program, parent: int, child: int, n: int, *, protect: bool = False) -> None:
    program.do("fork", parent)
    program.expect_each(OLD, child, looked_at(n))
    if protect:
        program.protect_and_back(parent, 0, n)
    program.each("write", parent, looked_at(n), NEW)
    program.expect_each(OLD, child, looked_at(n))
    program.expect_each(NEW, parent, looked_at(n))


def _vmsplice_in_child(program: Program, parent: int, child: int, n: int, *, protect: bool = False) -> None:
    program.do("fork", parent)
    for page in looked_at(n):
        program.do("ref", child, page, page)
    program.do("munmap", child, 0, n)
    if protect:
        program.protect_and_back(parent, 0, n)
    program.each("write", parent, looked_at(n), NEW)
    for page in looked_at(n):
        program.expect(OLD, "unref", child, page)


def _vmsplice_in_parent(program: Program, parent: int, child: int, n: int, *, before: bool) -> None:
    if not before:
        program.do("fork", parent)
    for page in looked_at(n):
        program.do("ref", parent, page, page)
    if before:
        program.do("fork", parent)
    program.do("munmap", parent, 0, n)
    program.each("write", child, looked_at(n), NEW)
    for page in looked_at(n):
        program.expect(OLD, "unref", parent, page)


def _pinned_read_only(program: Program, parent: int, child: int, n: int) -> None:
    program.do("pin", parent, 0, n, 0)
    program.protect_and_back(parent, 0, n)
    _device_sees(program, parent, n)


def _pinned_and_forked(program: Program, parent: int, child: int, n: int) -> None:
    program.do("pin", parent, 0, n, 0)
    program.do("fork", parent)
    _device_sees(program, parent, n)


def _device_sees(program: Program, parent: int, n: int) -> None:
    program.each("write", parent, looked_at(n), NEW)
    program.expect_device(NEW, parent, looked_at(n))
    program.expect_each(NEW, parent, looked_at(n))
    program.do("unpin", parent, 0)


def _read_pin(program: Program, parent: int, child: int, n: int, *, shared: bool, exits: bool = False) -> None:
    if shared:
        program.do("fork", parent)
    else:
        program.protect_and_back(parent, 0, n)
    if exits:
        program.do("exit", child)
    program.do("pin_ro", parent, 0, n, 0)
    _device_sees(program, parent, n)


@dataclass(frozen=True)
class Case:
    """One case of cow.c: its name and its program."""

    name: str
    add: Callable[..., None]
    arguments: tuple[tuple[str, bool], ...] = ()


def _read_pin_cases() -> Iterator[Case]:
    # The model has one kind of GUP, so that both names run the same program.
    for gup in ("GUP", "GUP-fast"):
        for what, arguments in (
            ("shared", (("shared", True),)),
            ("previously-shared", (("shared", True), ("exits", True))),
            ("exclusive", (("shared", False),)),
        ):
            yield Case(f"R/O {gup} pin on R/O-mapped {what} page", _read_pin, arguments)


CASES = (
    Case("Basic COW after fork()", _parent_writes),
    Case("Basic COW after fork() with mprotect() optimization", _parent_writes, (("protect", True),)),
    Case("vmsplice() + unmap in child", _vmsplice_in_child),
    Case("vmsplice() + unmap in child with mprotect() optimization", _vmsplice_in_child, (("protect", True),)),
    Case("vmsplice() before fork(), unmap in parent after fork()", _vmsplice_in_parent, (("before", True),)),
    Case("vmsplice() + unmap in parent after fork()", _vmsplice_in_parent, (("before", False),)),
    Case("R/O-mapping a page registered as iouring fixed buffer", _pinned_read_only),
    Case("fork() with an iouring fixed buffer", _pinned_and_forked),
    *_read_pin_cases(),
)


# --- backings: what the pages are beforehand ------------------------------------------------------------------------


def looked_at(n: int) -> list[int]:
    """The pages of [0, n) that are written and read: all of up to 16, else some."""
    if n <= 16:
        return list(range(n))
    return [0, 1, n // 4 + 1, n // 2 - 1, n // 2, n - 1]


def _single_pte(program: Program, pages: int) -> int:
    program.do("madvise", 0, 1, pages - 1, "dontneed")
    return 1


def _half_moved(program: Program, pages: int) -> int:
    program.do("mremap", 0, pages // 2, pages // 2, pages)
    return pages // 2


def _partly_shared(program: Program, pages: int) -> int:
    program.do("madvise", 0, 1, pages - 1, "dontfork")
    program.do("fork", 0)
    program.do("exit", 1)
    program.do("madvise", 0, 1, pages - 1, "dofork")
    return pages


def _pte_mapped(program: Program, pages: int) -> int:
    program.protect_and_back(0, 1, 1)
    return pages


BACKINGS: dict[str, Callable[[Program, int], int]] = {
    "THP": lambda program, pages: pages,
    "PTE-mapped THP": _pte_mapped,
    "single PTE of THP": _single_pte,
    "partially mremap()'ed THP": _half_moved,
    "partially shared THP": _partly_shared,
}
"""Each changes a folio of so many pages and returns how many pages of it the case is about. "THP": PMD size only."""


def cow_selftests(sizes: Iterable[int] = ANON_ORDERS) -> Iterator[Selftest]:
    """Every case on every backing: a base page, and folios of the given orders."""
    for case in CASES:
        yield _selftest(case, "base page", 0, lambda program, pages: pages)
        for order in sorted(sizes):
            for backing, prepare in BACKINGS.items():
                if order == PMD_ORDER or backing != "THP":
                    yield _selftest(case, f"{backing} ({4 << order} kB)", order, prepare)
    if PMD_ORDER in sizes:
        yield from _collapse_selftests()
    yield from _zero_page_selftests(PMD_ORDER in sizes)


def _selftest(case: Case, backing: str, order: int, prepare: Callable[[Program, int], int]) -> Selftest:
    program, pages = Program(), 1 << order
    # Some cases are about the lower half.
    program.each("write", 0, sorted({*looked_at(pages), *looked_at(pages // 2)}), OLD)
    program.checks.append(Check(1, "maps", (0, range(1), order), needed=True))
    n = prepare(program, pages)
    child = 1 + sum(step[0] == "fork" for step in program.steps)
    case.add(program, 0, child, n, **dict(case.arguments))
    return _named(f"{case.name} ... with {backing}", program, pages + pages // 2, order)


def _collapse_selftests() -> Iterator[Selftest]:
    """Those that collapse a PTE-mapped huge page; of the parts that are not to be shared fork is told."""
    half, all_pages = 1 << PMD_ORDER - 1, range(1 << PMD_ORDER)
    for when, shared in (
        ("before fork()", all_pages),
        ("after fork() (fully shared)", all_pages),
        ("after fork() (lower shared)", range(half)),
        ("after fork() (upper shared)", range(half, 2 * half)),
    ):
        program, alone = Program(), half - shared.start
        looked = [shared.start + page for page in looked_at(len(shared))]
        program.each("write", 0, looked_at(2 * half), OLD)
        program.each("write", 0, looked, OLD)
        program.checks.append(Check(1, "maps", (0, range(1), PMD_ORDER), needed=True))
        program.protect_and_back(0, 1, 1)
        if when == "before fork()":
            program.do("madvise", 0, 0, 2 * half, "collapse")
            program.checks.append(Check(len(program.steps), "huge", (0, 1)))
        if shared != all_pages:
            program.do("madvise", 0, alone, half, "dontfork")
        program.do("fork", 0)
        program.expect_each(OLD, 1, looked)
        if shared != all_pages:
            program.do("madvise", 0, 0, 2 * half, "dofork")
        if when != "before fork()":
            program.do("madvise", 0, 0, 2 * half, "collapse")
            program.checks.append(Check(len(program.steps), "huge", (0, 1)))
        program.each("write", 0, looked_at(2 * half), NEW)
        program.each("write", 0, looked, NEW)
        program.expect_each(OLD, 1, looked)
        name = f"Basic COW after fork() when collapsing {when} ... with THP ({4 << PMD_ORDER} kB)"
        # Before 6.18 it collapses nothing that has no writable entry, and cow.c skips.
        writable = ("!collapse_needs_writable",) if "fully" in when else ()
        yield _named(name, program, 2 * half, PMD_ORDER, needs=("has_collapse", *writable))


def _zero_page_selftests(huge: bool) -> Iterator[Selftest]:
    """Those of cow.c's cases that are not about anonymous pages but about the zero page in a private mapping.

    Two mappings there are two halves of one here.
    """
    for backing, pages in (("shared zeropage", 1), ("huge zeropage", 512))[: 1 + huge]:
        order = PMD_ORDER if pages > 1 else 0
        program = Program()
        program.expect(0, "read", 0, 0)
        program.expect(0, "read", 0, pages)
        program.each("write", 0, looked_at(pages), NEW)
        program.expect_each(0, 0, [pages + page for page in looked_at(pages)])
        yield _named(f"Basic COW ... with {backing}", program, 2 * pages, order)
        for gup in ("GUP", "GUP-fast"):
            program = Program()
            program.expect(0, "read", 0, 0)
            program.do("pin_ro", 0, 0, pages, 0)
            _device_sees(program, 0, pages)
            yield _named(
                f"R/O longterm {gup} pin ... with {backing}", program, 2 * pages, order, needs=("unshares_zero_page",)
            )


def _named(name: str, program: Program, pages: int, order: int, needs: tuple[str, ...] = ()) -> Selftest:
    scenario = Scenario(pages, tuple(program.steps), (order,) if order else (), about=name)
    return Selftest("cow.c", name, scenario, tuple(program.checks), needs)
