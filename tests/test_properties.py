"""Random programs, every policy: invariants after every step, one plain dictionary per process as the oracle of data.

The oracle knows nothing of folios: a process is a dictionary of pages, a page a `Cell` with the byte it holds. mremap
moves cells, fork copies them, a pin keeps the cell it pinned, whatever becomes of the page. What the kernel refuses
must have exactly the effects that the dictionary got; what is misuse must leave the machine as it was, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import examples, freeze

import anonfolio as af
from anonfolio.kernel.pagetable import PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from anonfolio.kernel.vma import (
    VM_DONTCOPY,
    VM_HUGEPAGE,
    VM_NOHUGEPAGE,
    VM_READ,
    VM_UNACCOUNTED,
    VM_WIPEONFORK,
    VM_WRITE,
)

POLICIES = {
    **af.POLICIES,
    "none_only": af.RFC_V2_FIXED.but(name="none_only", zero_neighbours="none_only", copy_requires_ro=True),
    "everything large": af.LINUX_6_15.but(
        name="everything large", copy_extent="source_order", copy_max_order=9, unshare_extent="source_order",
        zero_page_write="first_touch", reuse_extent="range",
    ),
    "mm_id, range": af.RFC_V2.but(name="mm_id, range", large_reuse="mm_id", copy_requires_ro=True),
}  # fmt: skip

MAY_LOSE_A_PIN = {"rfc-v2", "mm_id, range"}
"""Copies that do not ask whether a page is exclusive may replace a pinned one; that is the bug they are here for."""

ADVICE_FLAGS = {
    "wipeonfork": (VM_WIPEONFORK, 0),
    "keeponfork": (0, VM_WIPEONFORK),
    "dontfork": (VM_DONTCOPY, 0),
    "dofork": (0, VM_DONTCOPY),
    "hugepage": (VM_HUGEPAGE, VM_NOHUGEPAGE),
    "nohugepage": (VM_NOHUGEPAGE, VM_HUGEPAGE),
}


@dataclass(eq=False)
class Cell:
    """One page of one process: the byte it holds (0 before it is touched) and the flags of its mapping."""

    flags: int
    value: int = 0


@dataclass
class Expected:
    """One process as the oracle sees it: its pages, and the cells that its pins hold."""

    pages: dict[int, Cell] = field(default_factory=dict)
    pins: dict[int, list[Cell]] = field(default_factory=dict)
    writable_pins: set[int] = field(default_factory=set)
    references: set[int] = field(default_factory=set)


process_numbers = st.integers(0, 3)
places = st.integers(0, 63)
lengths = st.sampled_from((1, 1, 2, 4, 8, 16, 24))
few = st.integers(0, 2)
bytes_ = st.integers(1, 255)


class Programs(RuleBasedStateMachine):
    """Subclasses name a policy and how large mappings are."""

    policy: af.Policy
    huge: bool

    # Places and lengths are drawn small and stretched: over 64 pages that cross a 2 MiB boundary, or over 2,048.
    def at(self, place: int) -> int:
        return place * 32 + (place % 4 == 3) * 5 if self.huge else 480 + place

    def span(self, place: int, length: int) -> tuple[int, int]:
        pages = {1: 1, 2: 5, 4: 128, 8: 256, 16: 512, 24: 1024}[length] if self.huge else length
        return self.at(place), min(pages, (2048 if self.huge else 544) - self.at(place))

    @initialize(
        orders=st.sampled_from(((4, 3, 2), (4,), (3, 2), (), (2, 4, 5))),
        thp=st.sampled_from(("always", "always", "madvise")),
        largest_order=st.sampled_from((None, None, 3, 2, 0)),
        gap=st.booleans(),
    )
    def begin(self, orders: tuple[int, ...], thp: str, largest_order: int | None, gap: bool) -> None:
        orders = (*orders, 9) if self.huge else orders
        self.machine = af.Machine(self.policy, orders=orders, thp=thp, frames=1 << 15 if self.huge else 1 << 11)
        if largest_order is not None:
            # 0: no block is left but base pages (huge: nothing of PMD size); else a few larger ones.
            largest, fraction = (8, 1.0) if self.huge else (largest_order, 0.5 if largest_order else 1.0)
            self.machine.memory.buddy.fragment(largest, fraction)
        self.expected = [Expected()]
        process = self.machine.spawn()
        small = ((0, 16), (20, 16), (36, 24)) if gap else ((0, 24), (24, 24))
        huge = ((0, 16), (19, 16), (48, 16)) if gap else ((0, 24), (32, 24))
        for place, length in huge if self.huge else small:
            start, pages = self.span(place, length)
            process.mmap(pages, at=start)
            self.expected[0].pages |= {vpn: Cell(VM_READ | VM_WRITE) for vpn in range(start, start + pages)}

    # --- helpers ---

    def pick(self, number: int) -> tuple[af.Process, Expected]:
        live = self.machine.live()
        process = live[number % len(live)]
        return process, self.expected[process.number]

    def bits(self, process: af.Process, vpn: int) -> int:
        return int(process.mm.pte[vpn]) if vpn < len(process.mm.pte) else 0

    def refused(self, outcome: af.Outcome, because: bool, *errnos: str) -> None:
        assert bool(outcome) == (not because), outcome
        if because:
            assert outcome.errno in errnos
            assert outcome.why

    # --- accesses ---

    @rule(number=process_numbers, place=places, value=bytes_)
    def write(self, number: int, place: int, value: int) -> None:
        process, expected = self.pick(number)
        vpn = self.at(place)
        cell = expected.pages.get(vpn)
        if cell is None or not cell.flags & VM_WRITE:
            self.nothing_changes(af.SegmentationFault, process.write, vpn, value)
            return
        fault = process.write(vpn, value)
        cell.value = value
        assert bool(fault) == bool(self.machine.faults)
        assert vpn in fault.pages or not fault
        assert self.bits(process, vpn) & PTE_WRITE

    @rule(number=process_numbers, place=places)
    def read(self, number: int, place: int) -> None:
        process, expected = self.pick(number)
        vpn = self.at(place)
        if vpn not in expected.pages:
            self.nothing_changes(af.SegmentationFault, process.read, vpn)
            return
        assert process.read(vpn) == expected.pages[vpn].value
        assert len(self.machine.faults) <= 1

    @rule(number=process_numbers, place=places, length=lengths, value=bytes_)
    def write_many(self, number: int, place: int, length: int, value: int) -> None:
        """Fills folios, which single writes at random places seldom do."""
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        for vpn in range(start, start + min(pages, 24)):
            if vpn in expected.pages and expected.pages[vpn].flags & VM_WRITE:
                process.write(vpn, value)
                expected.pages[vpn].value = value

    # --- processes ---

    @precondition(lambda self: len(self.machine.live()) < 4)
    @rule(number=process_numbers)
    def fork(self, number: int) -> None:
        process, expected = self.pick(number)
        child = process.fork()
        copied = Expected()
        for vpn, cell in expected.pages.items():
            if not cell.flags & VM_DONTCOPY:
                copied.pages[vpn] = Cell(cell.flags, 0 if cell.flags & VM_WIPEONFORK else cell.value)
        assert child.number == len(self.expected)
        self.expected.append(copied)

    @rule(number=process_numbers, place=places)
    def fork_fails(self, number: int, place: int) -> None:
        process, expected = self.pick(number)
        cell = expected.pages.get(self.at(place))
        if cell is None or cell.flags & VM_DONTCOPY or process.mm.find_vma(self.at(place)).flags & VM_UNACCOUNTED:
            self.nothing_changes(ValueError, process.fork_fails, self.at(place))
            return
        self.refused(process.fork_fails(self.at(place)), True, "ENOMEM")

    @rule(number=process_numbers, place=places)
    def fork_fails_after(self, number: int, place: int) -> None:
        process, _ = self.pick(number)
        pages = place * 16 if self.huge else place
        self.refused(process.fork_fails_after(pages), True, "ENOMEM")

    @precondition(lambda self: len(self.machine.live()) > 1)
    @rule(number=process_numbers)
    def exit(self, number: int) -> None:
        process, expected = self.pick(number)
        process.exit()
        expected.pages.clear()
        expected.pins.clear()
        self.nothing_changes(ValueError, process.read, self.at(0))
        self.nothing_changes(ValueError, process.fork)

    # --- mappings ---

    @rule(number=process_numbers, place=places, length=lengths, advice=st.sampled_from((None, None, "hugepage")))
    def mmap(self, number: int, place: int, length: int, advice: str | None) -> None:
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        if any(vpn in expected.pages for vpn in range(start, start + pages)):
            self.nothing_changes(ValueError, process.mmap, pages, start)
            return
        assert process.mmap(pages, at=start, advice=advice) == range(start, start + pages)
        flags = VM_READ | VM_WRITE | (VM_HUGEPAGE if advice else 0)
        expected.pages |= {vpn: Cell(flags) for vpn in range(start, start + pages)}

    @rule(number=process_numbers, place=places, length=lengths)
    def munmap(self, number: int, place: int, length: int) -> None:
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        assert process.munmap(start, pages)
        for vpn in range(start, start + pages):
            expected.pages.pop(vpn, None)

    @rule(number=process_numbers, place=places, length=lengths, to=places)
    def mremap(self, number: int, place: int, length: int, to: int) -> None:
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        target, room = self.span(to, length)
        pages = min(pages, room)
        source = range(start, start + pages)
        first = process.mm.find_vma(start)
        if first is None or (start < target + pages and target < start + pages):
            self.outcome_changes_nothing(process.mremap, start, pages, target)
            return
        spans_many = first.end < start + pages
        outcome = process.mremap(start, pages, target)
        if spans_many and not self.policy.moves_many_vmas:
            self.refused(outcome, True, "EFAULT")
            for vpn in range(target, target + pages):
                expected.pages.pop(vpn, None)
            return
        self.refused(outcome, False)
        for vpn in source:
            if vpn in expected.pages:
                expected.pages[vpn - start + target] = expected.pages.pop(vpn)
            elif not spans_many:
                raise AssertionError("a mapping has a hole")

    @rule(number=process_numbers, place=places, length=lengths, prot=st.sampled_from((1, 3, 3)))
    def mprotect(self, number: int, place: int, length: int, prot: int) -> None:
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        access = {1: VM_READ, 3: VM_READ | VM_WRITE}[prot]
        outcome = process.mprotect(start, pages, prot)
        for vpn in range(start, start + pages):
            if vpn not in expected.pages:
                self.refused(outcome, True, "ENOMEM")
                return
            expected.pages[vpn].flags = expected.pages[vpn].flags & ~(VM_READ | VM_WRITE) | access
        self.refused(outcome, False)

    @rule(
        number=process_numbers,
        place=places,
        length=lengths,
        advice=st.sampled_from(("dontneed", "dontneed", *ADVICE_FLAGS)),
    )
    def madvise(self, number: int, place: int, length: int, advice: str) -> None:
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        here = [vpn for vpn in range(start, start + pages) if vpn in expected.pages]
        self.refused(process.madvise(start, pages, advice), len(here) < pages, "ENOMEM")
        for vpn in here:
            if advice == "dontneed":
                expected.pages[vpn] = Cell(expected.pages[vpn].flags)
                assert not self.bits(process, vpn)
            else:
                on, off = ADVICE_FLAGS[advice]
                expected.pages[vpn].flags = expected.pages[vpn].flags & ~off | on

    # --- pins and references ---

    @rule(number=process_numbers, place=places, length=lengths, id=few, write=st.sampled_from((True, True, False)))
    def pin(self, number: int, place: int, length: int, id: int, write: bool) -> None:
        process, expected = self.pick(number)
        start, pages = self.span(place, length)
        pages = min(pages, 6)
        if id in expected.pins:
            self.nothing_changes(ValueError, process.pin, start, pages, id)
            return
        outcome = process.pin(start, pages, id, write=write)
        had: list[Cell] = []
        for vpn in range(start, start + pages):
            cell = expected.pages.get(vpn)
            if cell is None or (write and not cell.flags & VM_WRITE):
                break
            assert self.bits(process, vpn) & (PTE_WRITE if write else PTE_PRESENT)
            zero = bool(self.bits(process, vpn) & PTE_SPECIAL)
            assert not zero or not (write or self.policy.unshares_zero_page), "a long-term pin took the zero page"
            # A device that reads the zero page reads zeros for ever: 6.1 pins it as it is.
            had.append(Cell(0) if zero else cell)
        self.refused(outcome, len(had) < pages, "EFAULT")
        if outcome:
            expected.pins[id] = had
            (expected.writable_pins.add if write else expected.writable_pins.discard)(id)
        else:
            assert ("pin", id) not in process.pins()
        assert not any(fault.user for fault in self.machine.faults)

    @rule(number=process_numbers, id=few)
    def unpin(self, number: int, id: int) -> None:
        process, expected = self.pick(number)
        if id not in expected.pins:
            self.outcome_changes_nothing(process.unpin, id)
            return
        assert process.unpin(id)
        del expected.pins[id]

    @rule(number=process_numbers, place=places, id=few)
    def ref(self, number: int, place: int, id: int) -> None:
        process, expected = self.pick(number)
        vpn = self.at(place)
        if id in expected.references:
            self.nothing_changes(ValueError, process.ref, vpn, id)
        elif vpn not in expected.pages:
            self.outcome_changes_nothing(process.ref, vpn, id)
        else:
            assert process.ref(vpn, id)
            expected.references.add(id)

    @rule(number=process_numbers, id=few)
    def unref(self, number: int, id: int) -> None:
        process, expected = self.pick(number)
        if id not in expected.references:
            self.outcome_changes_nothing(process.unref, id)
            return
        assert process.unref(id)
        expected.references.remove(id)

    @rule(number=process_numbers, place=places)
    def gup(self, number: int, place: int) -> None:
        process, expected = self.pick(number)
        cell = expected.pages.get(self.at(place))
        assert process.gup(self.at(place)) == (None if cell is None else cell.value)

    @rule(number=process_numbers, id=few, page=st.integers(0, 6), value=bytes_)
    def dma_write(self, number: int, id: int, page: int, value: int) -> None:
        process, expected = self.pick(number)
        if page >= len(expected.pins.get(id, [])) or id not in expected.writable_pins:
            self.nothing_changes(ValueError, process.dma_write, id, page, value)
            return
        process.dma_write(id, page, value)
        expected.pins[id][page].value = value

    @rule(number=process_numbers, id=few, page=st.integers(0, 6))
    def dma_read(self, number: int, id: int, page: int) -> None:
        process, expected = self.pick(number)
        if page >= len(expected.pins.get(id, [])):
            self.nothing_changes(ValueError, process.dma_read, id, page)
            return
        assert process.dma_read(id, page) == expected.pins[id][page].value

    # --- misuse, copies ---

    def nothing_changes(self, error: type[Exception], call: Any, *arguments: Any) -> None:
        before = freeze(self.state())
        with pytest.raises(error) as raised:
            call(*arguments)
        assert str(raised.value)
        assert "\n" not in str(raised.value)
        assert freeze(self.state()) == before

    def outcome_changes_nothing(self, call: Any, *arguments: Any) -> None:
        before = freeze(self.state())
        self.refused(call(*arguments), True, "EFAULT", "EINVAL", "ENXIO")
        assert freeze(self.state()) == before

    def state(self) -> list[Any]:
        machine = self.machine
        return [machine.memory, machine.counters, machine.processes[-1].alive, *(
            [process.mm, process.alive, process.pins()] for process in machine.processes
        )]  # fmt: skip

    @rule(number=process_numbers, which=st.integers(0, 11))
    def misuse(self, number: int, which: int) -> None:
        process, _ = self.pick(number)
        call, *arguments = [
            (process.munmap, -1, 2), (process.munmap, 3, 0), (process.mremap, 0, 1, 1 << 40),
            (process.mprotect, 480, 4, 2), (process.madvise, 480, 4, "pageout"), (process.write, 480, 256),
            (process.pin, -4, 2, 7), (process.mmap, 0, 5), (process.fork_fails_after, -1), (process.dma_read, 9, 0),
            (process.mmap, 1, 5000, "dontneed"), (self.machine.process, 99),
        ][which]  # fmt: skip
        self.nothing_changes(ValueError, call, *arguments)

    # What comes first by name is what the first example does again and again: nothing that takes long.
    @rule(on_with_copy=st.booleans())
    def twin(self, on_with_copy: bool) -> None:
        """A copy is equal, and what happens to the one does not reach the other."""
        twin = self.machine.copy()
        before = freeze(self.machine.memory), [freeze(process.mm) for process in self.machine.processes]
        assert (freeze(twin.memory), [freeze(process.mm) for process in twin.processes]) == before
        assert freeze(twin.snapshot()) == freeze(self.machine.snapshot())
        other = self.machine if on_with_copy else twin
        for process in list(other.live()):
            for vma in list(process.mm.vmas):
                if vma.flags & VM_WRITE:
                    process.write(vma.start, 99)
                    process.pin(vma.start, 1, 99 + vma.start)
            process.fork()
            process.exit()
        if on_with_copy:
            self.machine = twin
        assert (freeze(self.machine.memory), [freeze(process.mm) for process in self.machine.processes]) == before

    # --- what holds after every step ---

    def teardown(self) -> None:
        """When the last process and its pins are gone, no frame is held."""
        if not hasattr(self, "machine"):
            return
        for process in self.machine.live():
            process.exit()
        assert self.machine.memory.held_pages() == 0
        assert not af.check(self.machine)
        assert not self.machine.memory.mapcount.any()
        assert not self.machine.memory.anon_exclusive.any()

    @invariant()
    def no_invariant_is_broken(self) -> None:
        broken = af.check(self.machine)
        if self.policy.name in MAY_LOSE_A_PIN:
            lost = [violation for violation in broken if violation.invariant == "pinned_page_stays"]
            broken = [violation for violation in broken if violation not in lost]
            self.let_go_of_lost_pages()
        assert not broken, broken[0]

    def let_go_of_lost_pages(self) -> None:
        """A pinned page was replaced: device and process work on different bytes from here on."""
        for process in self.machine.live():
            expected = self.expected[process.number]
            where = {id(cell): vpn for vpn, cell in expected.pages.items()}
            for number, cells in expected.pins.items():
                for at, (cell, frame) in enumerate(zip(cells, process.pins()["pin", number].frames, strict=True)):
                    if id(cell) in where and process.mm.pfn[where[id(cell)]] != frame:
                        cells[at] = Cell(0, int(self.machine.memory.content[frame]))

    @invariant()
    def every_process_holds_what_it_last_wrote(self) -> None:
        """Seen in the frames, without a read that would fault; and mappings are where the oracle has them."""
        assert [process.alive for process in self.machine.processes].count(True) == len(self.machine.live())
        for process in self.machine.live():
            pages = self.expected[process.number].pages
            mm = process.mm
            assert sum(vma.end - vma.start for vma in mm.vmas) == len(pages)
            for vma in mm.vmas:
                cells = [pages[vpn] for vpn in range(vma.start, vma.end)]
                # What is accounted hangs on whether anything was written there: no business of the oracle's.
                assert {cell.flags for cell in cells} == {vma.flags & ~VM_UNACCOUNTED}, vma
                present = mm.pte[vma.start : vma.end] != 0
                content = np.where(present, self.machine.memory.content[mm.pfn[vma.start : vma.end]], 0)
                assert content.tolist() == [cell.value for cell in cells]

    @invariant()
    def refusals_and_steps_count_no_process(self) -> None:
        assert len(self.machine.processes) == len(self.expected)


# CI replays the same programs and stops at the first that fails, which is red soon. HYPOTHESIS_PROFILE=explore runs as
# many examples as the profile says, and shrinks what it finds.
THOROUGH = not settings().derandomize
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink) if THOROUGH else (Phase.explicit, Phase.generate)


def case_for(name: str, huge: bool, count: int, steps: int) -> Any:
    machine = type(f"Programs_{name}", (Programs,), {"policy": POLICIES[name], "huge": huge, "__module__": __name__})
    case = machine.TestCase  # type: ignore[attr-defined]
    case.settings = settings(
        # The first example is the simplest there is, and shows next to nothing.
        max_examples=max(2, examples(count)),
        stateful_step_count=steps,
        deadline=None,
        phases=PHASES,
    )
    return case


for _name in POLICIES:
    _id = "".join(ch if ch.isalnum() else "_" for ch in _name)
    globals()[f"TestSmall_{_id}"] = case_for(_name, huge=False, count=15, steps=40)
    globals()[f"TestHuge_{_id}"] = case_for(_name, huge=True, count=4, steps=30)
