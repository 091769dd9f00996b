"""Every invariant sees what it is there for: a machine is broken by hand, and the rule of that name says so.

A rule that could not fail would make the property tests and the search worthless.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import folio, machine_with_folio

import anonfolio as af
from anonfolio.kernel.pagetable import PMD_TABLE, PTE_CONT, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from anonfolio.kernel.vma import VM_LOCKONFAULT

Break = Callable[[af.Machine, af.Process], object]


def entry(bits: int, vpn: int = 3) -> Break:
    def broken(machine: af.Machine, process: af.Process) -> None:
        process.mm.pte[vpn] = bits

    return broken


def column(name: str, change: int) -> Break:
    """Add to one of the folio's counters."""

    def broken(machine: af.Machine, process: af.Process) -> None:
        getattr(machine.memory, name)[folio(machine, process, 0)] += change

    return broken


def frame(name: str, value: int, vpn: int = 3) -> Break:
    def broken(machine: af.Machine, process: af.Process) -> None:
        getattr(machine.memory, name)[process.mm.pfn[vpn]] = value

    return broken


def shared_but_exclusive(machine: af.Machine, process: af.Process) -> None:
    process.fork()
    machine.memory.anon_exclusive[process.mm.pfn[3]] = True


def moved_under_the_pin(machine: af.Machine, process: af.Process) -> None:
    process.pin(3)
    process.mm.pfn[3], process.mm.pfn[4] = process.mm.pfn[4], process.mm.pfn[3]


def unmapped_under_the_pin(machine: af.Machine, process: af.Process) -> None:
    process.pin(3)
    process.mm.pte[3] = 0


def written_under_a_reference(machine: af.Machine, process: af.Process) -> None:
    child = process.fork()
    child.ref(3)
    child.munmap(3)
    process.mm.pte[3] |= PTE_WRITE


def written_by_another(machine: af.Machine, process: af.Process) -> None:
    process.fork()
    process.mm.pte[3] |= PTE_WRITE


def shared_and_silent(machine: af.Machine, process: af.Process) -> None:
    process.fork()
    machine.memory.maybe_mapped_shared[folio(machine, process, 0)] = False


def slot_too_large(machine: af.Machine, process: af.Process) -> None:
    machine.memory.mm_id_mapcount[folio(machine, process, 0)][0] += 1


def slot_of_nobody(machine: af.Machine, process: af.Process) -> None:
    number = folio(machine, process, 0)
    machine.memory.mm_id[number][1], machine.memory.mm_id_mapcount[number][1] = 7, 1


def overlapping(machine: af.Machine, process: af.Process) -> None:
    process.mmap(4, at=20)
    process.mm.vmas[1].start = 15


def without_a_mapping(machine: af.Machine, process: af.Process) -> None:
    process.mm.vmas[0].end = 15


def read_only_mapping(machine: af.Machine, process: af.Process) -> None:
    process.mm.vmas[0].flags &= ~2


def without_a_table(machine: af.Machine, process: af.Process) -> None:
    process.mm.pmd[0] = 0


def free_and_owned(machine: af.Machine, process: af.Process) -> None:
    machine.memory.buddy._push(int(process.mm.pfn[0]), 4)


def not_aligned(machine: af.Machine, process: af.Process) -> None:
    machine.memory.head[folio(machine, process, 0)] += 1


def ghost(machine: af.Machine, process: af.Process) -> None:
    machine.memory.folio_of.set_block(900, 0, 3)


def owned_by_nobody(machine: af.Machine, process: af.Process) -> None:
    machine.memory.folio_of.set_block(int(process.mm.pfn[0]) >> 4, 4, -1)


def locked_on_fault_alone(machine: af.Machine, process: af.Process) -> None:
    process.mm.vmas[0].flags |= VM_LOCKONFAULT


def undead(machine: af.Machine, process: af.Process) -> None:
    process.alive = False


def released_twice(machine: af.Machine, process: af.Process) -> None:
    process.ref(3)
    machine.memory.refcount[folio(machine, process, 0)] -= 1


def pin_uncounted(machine: af.Machine, process: af.Process) -> None:
    process.pin(3)
    machine.memory.pincount[folio(machine, process, 0)] = 0


def rss_off(machine: af.Machine, process: af.Process) -> None:
    process.mm.rss_pages += 1


def miscounted(machine: af.Machine, process: af.Process) -> None:
    machine.memory._held += 1


def leaked(machine: af.Machine, process: af.Process) -> None:
    machine.memory.buddy.alloc(2)


BREAKS: list[tuple[str, Break]] = [
    ("reads_what_it_wrote", written_by_another),
    ("pinned_page_stays", moved_under_the_pin),
    ("pinned_page_stays", unmapped_under_the_pin),
    ("held_page_is_private", written_under_a_reference),
    ("writable_is_exclusive", frame("anon_exclusive", 0)),
    ("exclusive_is_mapped_once", shared_but_exclusive),
    ("entries_lie_in_mappings", overlapping),
    ("entries_lie_in_mappings", without_a_mapping),
    ("entries_lie_in_mappings", read_only_mapping),
    ("entries_lie_in_mappings", without_a_table),
    ("entries_lie_in_mappings", entry(PTE_PRESENT | PTE_SPECIAL | PTE_WRITE)),
    ("contiguous_blocks_are_whole", entry(PTE_PRESENT | PTE_CONT)),
    ("mapcounts_match", entry(0)),
    ("mapcounts_match", frame("mapcount", 2)),
    ("mapcounts_match", column("large_mapcount", 1)),
    ("mapcounts_match", column("entire_mapcount", 1)),
    ("mapcounts_match", column("nr_mapped", -1)),
    ("references_match", column("refcount", 1)),
    ("references_match", column("pincount", 1)),
    ("references_match", released_twice),
    ("references_match", pin_uncounted),
    ("slots_never_lie", shared_and_silent),
    ("slots_never_lie", slot_too_large),
    ("slots_never_lie", slot_of_nobody),
    ("rss_matches", rss_off),
    ("frames_are_accounted_for", free_and_owned),
    ("frames_are_accounted_for", not_aligned),
    ("frames_are_accounted_for", ghost),
    ("frames_are_accounted_for", owned_by_nobody),
    ("frames_are_accounted_for", leaked),
    ("frames_are_accounted_for", miscounted),
    ("dead_hold_nothing", undead),
    ("locked_says_how", locked_on_fault_alone),
]


@pytest.mark.parametrize(("name", "broken"), BREAKS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_machine_is_seen(name: str, broken: Break) -> None:
    machine, process = machine_with_folio(frames=1 << 12)
    assert af.check(machine) == []
    broken(machine, process)
    found = af.check(machine, [af.INVARIANTS[name]])
    assert found
    assert {violation.invariant for violation in found} == {name}
    assert str(found[0]).startswith(f"{name}: ")


def huge() -> tuple[af.Machine, af.Process]:
    machine = af.Machine(orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    process.write(0)
    return machine, process


def one_entry_differs(process: af.Process) -> None:
    process.mm.pte[5] = PTE_PRESENT


def mapping_ends_inside(process: af.Process) -> None:
    process.mm.vmas[0].end = 511


@pytest.mark.parametrize("broken", [one_entry_differs, mapping_ends_inside])
def test_a_broken_huge_mapping_is_seen(broken: Callable[[af.Process], None]) -> None:
    machine, process = huge()
    assert af.check(machine) == []
    broken(process)
    assert af.check(machine, [af.INVARIANTS["huge_mappings_are_whole"]])


def test_a_pmd_whose_state_is_lost_is_seen() -> None:
    machine, process = huge()
    process.mm.pmd[0] = PMD_TABLE
    assert af.check(machine, [af.INVARIANTS["mapcounts_match"]])


def test_a_huge_mapping_without_its_head_s_flag_is_not_to_be_written() -> None:
    machine, process = huge()
    machine.memory.anon_exclusive[machine.memory.head[folio(machine, process, 0)]] = False
    assert af.check(machine, [af.INVARIANTS["writable_is_exclusive"]])


def test_every_invariant_is_broken_here_and_says_why_it_must_hold() -> None:
    assert {name for name, _ in BREAKS} | {"huge_mappings_are_whole"} == set(af.INVARIANTS)
    for name, rule in af.INVARIANTS.items():
        assert rule.name == name
        assert rule.why.endswith((".", ")."))


def test_a_reference_promises_nothing_and_a_page_that_was_let_go_neither() -> None:
    """Only a pin is looked at, and only where its owner has not unmapped the page itself."""
    machine, process = machine_with_folio()
    process.ref(3)
    process.fork()
    process.write(3)
    assert af.check(machine) == []


def test_the_lost_pin_names_process_page_and_pin() -> None:
    machine = af.Scenario.load("pinned-beside-shared").end(af.RFC_V2)
    (violation,) = af.check(machine)
    assert violation[:5] == (
        "pinned_page_stays", "process 0 page 10 no longer maps the frame that pin 0 holds", 0, 10, 0,
    )  # fmt: skip


def test_a_snapshot_and_a_timeline_are_detached_from_the_machine() -> None:
    machine, process = machine_with_folio()
    before = machine.snapshot()
    process.write(3, 99)
    process.munmap(8, 8)
    assert before.processes[0].mappings[0].present.all()
    assert before.folios[0].content.tolist() == list(range(1, 17))
    assert before.folio_at(0) is None
    assert before.folio_at(before.folios[0].head + 15) is before.folios[0]
    timeline = af.Scenario.load("first-write").run()
    assert not timeline.start.processes[0].mappings[0].present.any()
    assert timeline[0].snapshot.rss_pages == 16
