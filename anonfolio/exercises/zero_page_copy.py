"""Questions of ``02_zero_page_copy``: ``from anonfolio.exercises import zero_page_copy as q``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..draw.picture import Picture
from ..kernel.policy import LINUX_6_15, RFC_V2, Policy
from ..kernel.record import FIRST_TOUCH, ZERO_COPY, ZERO_READ, Fault
from ..lesson.quiz import Function, Number, Pages, Program, Sizes, Verdict, but
from ..lesson.topics import asking
from ..lesson.words import Words
from ..program.scenario import Scenario, Step, do_step

words = Words(__file__)
more = asking("zero")

PAGES = 1024
Access = tuple[str, int]
"""``("read", page)`` or ``("write", page)``."""


# --- what a program costs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a program did: its faults by path, memory held, which pages were a zero when read, the bytes at the end.

    `single` are the pages whose first touch got one page and no more, `replaced` those where a zero page was.
    """

    faults: Counter[str]
    single: tuple[int, ...]
    replaced: tuple[int, ...]
    held: int
    zeros: frozenset[int]
    bytes: tuple[int, ...]


def run(scenario: Scenario, policy: Policy = LINUX_6_15) -> Run:
    """Run a program of one process and count; no snapshots, so that long ones are quick."""
    machine = scenario.machine(policy, frames=1 << 14)
    taken: list[Fault] = []
    zeros = set()
    for step in scenario.steps:
        _, value, _ = do_step(machine, step, scenario.first_vpn)
        taken += machine.faults
        if step[0] == "read" and value == 0:
            zeros.add(step[2])
    held = machine.memory.held_pages()
    process = machine.process(0)
    end = tuple(process.read(scenario.first_vpn + page) for page in range(scenario.pages))
    return Run(
        faults=Counter(fault.path for fault in taken),
        single=tuple(fault.vpn for fault in taken if fault.path == FIRST_TOUCH and not fault.order),
        replaced=tuple(fault.vpn for fault in taken if fault.path == ZERO_COPY),
        held=held,
        zeros=frozenset(zeros),
        bytes=end,
    )


def _program(accesses: Iterable[Access], pages: int = PAGES, orders: tuple[int, ...] = (4, 3, 2)) -> Scenario:
    steps = tuple((op, 0, page) if op == "read" else (op, 0, page, page % 255 + 1) for op, page in accesses)
    return Scenario(pages, steps, orders, name="accesses")


def _faults(accesses: Iterable[Access], policy: Policy = LINUX_6_15, **how: Any) -> int:
    return run(_program(accesses, **how), policy).faults.total()


READS = [("read", page) for page in range(PAGES)]
WRITES = [("write", page) for page in range(PAGES)]


# --- predictions ----------------------------------------------------------------------------------------------------

faults = Number(
    **words(
        "faults",
        writes_alone=lambda: _faults(WRITES),
        writes_twice=lambda: 2 * _faults(WRITES),
        rfc_v2=lambda: _faults(READS + WRITES, RFC_V2),
        reads_alone=lambda: _faults(READS),
    ),
    truth=lambda: _faults(READS + WRITES),
)

calloc = Number(**words("calloc", written=lambda: run(_program(WRITES)).held), truth=lambda: run(_program(READS)).held)


def _own_pages() -> set[int]:
    recorded = Scenario.load("read-then-write").recorded("6.18")
    return {page for page, cell in enumerate(recorded.steps[1]["view"]["0"]) if isinstance(cell, list)}


own = Pages(**words("own"), truth=_own_pages)

one_stray_read = Scenario(
    16, (("read", 0, 0), *(("write", 0, page, page) for page in range(16))), name="one-stray-read"
)  # fmt: skip


def _new_folios(policy: Policy = LINUX_6_15, orders: tuple[int, ...] = (4, 3, 2)) -> list[int]:
    timeline = one_stray_read.but(orders=orders).run(policy)
    return [len(fault.pages) for fault in timeline.faults() if fault.access == "write"]


stray = Sizes(
    **words("stray", rfc_v2=lambda: _new_folios(RFC_V2), only_64_kib=lambda: _new_folios(orders=(4,))),
    truth=_new_folios,
)


# --- counting faults as a function ----------------------------------------------------------------------------------


def count_faults(accesses: list[Access]) -> int:
    """How many faults these accesses take; only 64 KiB enabled."""
    mapped: dict[int, str] = {}
    faults = 0
    for access, page in accesses:
        start = page // 16 * 16
        block = range(start, start + 16)
        if mapped.get(page) == "own" or (access == "read" and page in mapped):
            continue
        faults += 1
        if access == "read":
            mapped[page] = "zero"
        elif any(other in mapped for other in block):
            mapped[page] = "own"
        else:
            mapped.update(dict.fromkeys(block, "own"))
    return faults


def _scenario(accesses: list[Access]) -> Scenario:
    return _program(accesses, pages=32, orders=(4,))


def _random_case(source: random.Random) -> Mapping[str, Any]:
    # Few pages, so that they meet: a page again, a neighbour in its block, the block beside it.
    pages = source.sample(range(32), 4)
    return {"accesses": [(source.choice(("read", "write")), source.choice(pages)) for _ in range(source.randint(2, 8))]}


Maps = Callable[[dict[int, str], range, int], Iterable[int]]
"""What one fault maps, by what is mapped, the block of 16 around the page, and the page."""


def _this_page(mapped: dict[int, str], block: range, page: int) -> Iterable[int]:
    return [page]


def _block_if_untouched(mapped: dict[int, str], block: range, page: int) -> Iterable[int]:
    return [page] if any(at in mapped for at in block) else block


def _block_over_zeros(mapped: dict[int, str], block: range, page: int) -> Iterable[int]:
    return [page] if "own" in map(mapped.get, block) else block


def _rest_of_block(mapped: dict[int, str], block: range, page: int) -> Iterable[int]:
    return [page] if page in mapped else [at for at in block if mapped.get(at) != "zero"]


def _counting(
    read: Maps = _this_page, write: Maps = _block_if_untouched, read_leaves: str = "zero"
) -> Callable[[list[Access]], int]:
    """A wrong `count_faults`, by what one read fault and one write fault map."""

    def count(accesses: list[Access]) -> int:
        mapped: dict[int, str] = {}
        faults = 0
        for access, page in accesses:
            if mapped.get(page) == "own" or (access == "read" and page in mapped):
                continue
            faults += 1
            block = range(page // 16 * 16, page // 16 * 16 + 16)
            if access == "read":
                mapped.update((at, read_leaves) for at in read(mapped, block, page) if at not in mapped)
            else:
                mapped.update(dict.fromkeys(write(mapped, block, page), "own"))
        return faults

    return count


count = Function(
    **words(
        "count",
        writes_only=but(count_faults, accesses=lambda accesses: [each for each in accesses if each[0] == "write"]),
        read_maps_block=_counting(read=lambda mapped, block, page: block),
        read_leaves_nothing=_counting(read=lambda mapped, block, page: ()),
        rfc_v2=_counting(write=_block_over_zeros),
        rest_of_block=_counting(write=_rest_of_block),
        one_page=_counting(write=_this_page),
        writable_after_read=_counting(read_leaves="own"),
        all_accesses=lambda accesses: len(accesses),
    ),
    truth=lambda accesses: run(_scenario(accesses)).faults.total(),
    picture=lambda accesses: _scenario(accesses).run(LINUX_6_15).show(),
    case=_random_case,
    worked=count_faults,
)


# --- a program to make cheap ----------------------------------------------------------------------------------------


def _over_pages(steps: Iterable[Step]) -> Scenario:
    return Scenario(PAGES, tuple(steps), (4, 3, 2))


def reading_loop(reads: Iterable[int] = range(PAGES), writes: Iterable[int] = range(PAGES)) -> list[Step]:
    """Read these pages, then write those: page p gets byte p % 255 + 1."""
    return [("read", 0, page) for page in reads] + [("write", 0, page, page % 255 + 1) for page in writes]


def _touched_first(blocks: Iterable[int], writes: Iterable[int]) -> list[Step]:
    touches: list[Step] = [("write", 0, page, 0) for page in blocks]
    return touches + reading_loop(writes=writes)


def _cost(did: Run) -> str:
    paths = ", ".join(f"{path} {number:,}" for path, number in did.faults.items())
    return f"It takes {did.faults.total():,} faults ({paths}) and holds {did.held:,} pages."


@dataclass(frozen=True)
class Cheap:
    """What a program must do, and what it may cost: as many faults and pages held as the worked one.

    It must read a zero from every page, and leave in every page of `writes` the page's byte.
    """

    name: str
    worked: Scenario
    writes: range

    @cached_property
    def _most(self) -> Run:
        return run(self.worked)

    def limits(self) -> str:
        """What it may cost, in words."""
        return f"At most {self._most.faults.total():,} faults and {self._most.held:,} pages held."

    def judge(self, program: Scenario) -> Verdict:
        """Does it still do its work, and what does it cost?"""
        did = run(program)
        short = self._left_undone(did)
        if short:
            return Verdict(False, (short,), head="Cheap or not, it does not do its work.")
        if did.faults.total() <= self._most.faults.total() and did.held <= self._most.held:
            return Verdict(True, (_cost(did),), head="Right.")
        says, page = self._cause(did, program)
        lines = (_cost(did), says, f"`{self.name}.hint()` helps.")
        return Verdict(False, lines, _block(program, page), "It does its work, but costs too much.")

    def _left_undone(self, did: Run) -> str:
        unread = [page for page in range(PAGES) if page not in did.zeros]
        if unread:
            return f"It must read page {unread[0]} while a zero is there, and never does."
        lost = [page for page in self.writes if did.bytes[page] != page % 255 + 1]
        if lost:
            page = lost[0]
            return f"In the end page {page} holds {did.bytes[page]}; it must hold {page % 255 + 1}."
        return ""

    def _cause(self, did: Run, scenario: Scenario) -> tuple[str, int | None]:
        """Why it costs too much, and a page where that can be seen."""
        if did.held > self._most.held:
            needless = [step[2] for step in scenario.steps if step[0] == "write" and step[2] not in self.writes]
            says = f"{did.held - self._most.held:,} pages too many are held: memory was taken where nobody must write."
            return says, needless[0] if needless else None
        if did.replaced:
            says = f"{len(did.replaced):,} writes met a zero page, so each got one page. What mapped it?"
            return says, did.replaced[0]
        if did.single:
            return f"{len(did.single):,} first touches got one page: a zero page lies in their block.", did.single[0]
        return f"The writes get blocks, but {did.faults[ZERO_READ]:,} reads mapped the zero page all the same.", None


def _block(scenario: Scenario, page: int | None) -> Picture | None:
    """The block of 16 around a page, after those steps that lie in it."""
    if page is None or any(step[0] == "madvise" for step in scenario.steps):
        return None
    start = page // 16 * 16
    steps = tuple((op, 0, at - start, *byte) for op, _, at, *byte in scenario.steps if start <= at < start + 16)
    block = Scenario(16, steps, scenario.orders, name=f"pages {start} to {start + 15}")
    return Picture.of(block.run(LINUX_6_15))


def _cheap_program(name: str, start: Scenario, worked: Scenario, writes: range) -> Program:
    cheap = Cheap(f"q.{name}", worked, writes)
    return Program(
        **words(name),
        judge=cheap.judge,
        worked=lambda: worked,
        start=start,
        may=("read", "write", "madvise"),
        limits=cheap.limits,
    )


SOME = range(256, 512)

cheap = _cheap_program(
    "cheap", _over_pages(reading_loop()), _over_pages(_touched_first(range(0, PAGES, 16), range(PAGES))), range(PAGES)
)
sparse = _cheap_program(
    "sparse", _over_pages(reading_loop(writes=SOME)), _over_pages(_touched_first(SOME[::16], SOME)), SOME
)
