"""The two mm_id slots of a large folio, rule by rule (include/linux/rmap.h, 6.15 and later).

`Tracked` calls the rmap functions as faults, fork and unmapping do, with numbers for address spaces, so that each rule
is seen alone. What follows from them for processes is at the end.
"""

from __future__ import annotations

import pytest
from support import folio, machine_with_folio

import anonfolio as af
from anonfolio.kernel.frames import Memory
from anonfolio.kernel.rmap import folio_add_new_anon_rmap, folio_dup_anon_rmap_ptes, folio_remove_rmap_ptes

P, C, X, Y = 11, 22, 33, 44
FREE = (0, 0)


class Tracked:
    """A folio of sixteen pages that mm `P` has mapped whole."""

    def __init__(self, pages_order: int = 4) -> None:
        self.memory = Memory(1 << 11)
        found = self.memory.folio_alloc(pages_order)
        assert found is not None
        self.folio = found
        self.head = int(self.memory.head[found])
        folio_add_new_anon_rmap(self.memory, found, P)

    def add(self, mm: int, pages: int = 16, first: int = 0) -> Tracked:
        folio_dup_anon_rmap_ptes(self.memory, self.folio, self.head + first, pages, mm)
        return self

    def sub(self, mm: int, pages: int = 16, first: int = 0) -> Tracked:
        folio_remove_rmap_ptes(self.memory, self.folio, self.head + first, pages, mm)
        return self

    @property
    def slots(self) -> list[tuple[int, int]]:
        return list(
            zip(self.memory.mm_id[self.folio].tolist(), self.memory.mm_id_mapcount[self.folio].tolist(), strict=True)
        )

    @property
    def shared(self) -> bool:
        return bool(self.memory.maybe_mapped_shared[self.folio])

    @property
    def total(self) -> int:
        return int(self.memory.large_mapcount[self.folio])


# --- a new folio ----------------------------------------------------------------------------------------------------


def test_a_new_folio_takes_slot_0_and_is_not_shared() -> None:
    new = Tracked()
    assert (new.slots, new.shared, new.total) == ([(P, 16), FREE], False, 16)


# --- add ------------------------------------------------------------------------------------------------------------


def test_a_second_mm_takes_slot_1_and_shares() -> None:
    both = Tracked().add(C)
    assert (both.slots, both.shared, both.total) == ([(P, 16), (C, 16)], True, 32)


def test_one_page_more_is_enough_to_share() -> None:
    both = Tracked().add(C, 1)
    assert (both.slots, both.shared, both.total) == ([(P, 16), (C, 1)], True, 17)


def test_an_mm_that_has_a_slot_grows_it() -> None:
    both = Tracked().add(C, 4).add(C, 2, first=4)
    assert (both.slots, both.total) == ([(P, 16), (C, 6)], 22)
    both.add(P, 3)
    assert (both.slots, both.total) == ([(P, 19), (C, 6)], 25)


def test_an_mm_that_is_alone_and_grows_stays_not_shared() -> None:
    assert not Tracked().add(P, 2).shared


def test_slot_0_is_taken_before_slot_1_when_both_are_free() -> None:
    again = Tracked().sub(P).add(C)
    assert (again.slots, again.shared, again.total) == ([(C, 16), FREE], False, 16)


def test_slot_0_that_became_free_is_taken_and_shares_because_others_map_the_folio() -> None:
    again = Tracked().add(C).sub(P)
    assert (again.slots, again.shared) == ([FREE, (C, 16)], False)
    again.add(X, 2)
    assert (again.slots, again.shared, again.total) == ([(X, 2), (C, 16)], True, 18)


def test_the_third_mm_is_recorded_nowhere_but_counted() -> None:
    three = Tracked().add(C).add(X, 5)
    assert (three.slots, three.shared, three.total) == ([(P, 16), (C, 16)], True, 37)


def test_an_untracked_mm_that_maps_more_takes_a_slot_that_became_free_meanwhile() -> None:
    three = Tracked().add(C).add(X, 5).sub(C).add(X, 2, first=5)
    assert (three.slots, three.shared, three.total) == ([(P, 16), (X, 2)], True, 23)


# --- sub ------------------------------------------------------------------------------------------------------------


def test_a_partial_unmapping_shrinks_the_slot_and_keeps_everything_else() -> None:
    both = Tracked().add(C).sub(C, 15)
    assert (both.slots, both.shared, both.total) == ([(P, 16), (C, 1)], True, 17)


def test_the_last_page_frees_the_slot_and_clears_the_bit() -> None:
    both = Tracked().add(C).sub(C, 15).sub(C, 1, first=15)
    assert (both.slots, both.shared, both.total) == ([(P, 16), FREE], False, 16)


def test_it_clears_for_the_survivor_in_slot_1_too() -> None:
    both = Tracked().add(C, 3).sub(P)
    assert (both.slots, both.shared, both.total) == ([FREE, (C, 3)], False, 3)


def test_a_freed_slot_does_not_clear_the_bit_while_an_untracked_mm_maps() -> None:
    three = Tracked().add(C).add(X, 1).sub(C)
    assert (three.slots, three.shared, three.total) == ([(P, 16), FREE], True, 17)


def test_the_bit_is_looked_at_again_when_an_untracked_mm_goes() -> None:
    three = Tracked().add(C).add(X).sub(C).sub(X, 15)
    assert three.shared
    three.sub(X, 1, first=15)
    assert (three.slots, three.shared, three.total) == ([(P, 16), FREE], False, 16)


def test_the_bit_sticks_when_an_untracked_mm_alone_is_left_down_to_its_last_page() -> None:
    three = Tracked().add(C).add(X).sub(C).sub(P)
    assert (three.slots, three.shared, three.total) == ([FREE, FREE], True, 16)
    three.sub(X, 15)
    assert (three.shared, three.total) == (True, 1)


def test_the_bit_clears_when_nothing_is_mapped_any_more() -> None:
    three = Tracked().add(C).add(X).sub(C).sub(P).sub(X)
    assert (three.slots, three.shared, three.total) == ([FREE, FREE], False, 0)


def test_a_slot_that_would_go_below_zero_is_freed() -> None:
    """Mappings added while untracked, removed while tracked: the count is too small, and is clamped."""
    three = Tracked().add(C).add(X, 5).sub(C).add(X, 2, first=5).sub(X, 4)
    assert (three.slots, three.total) == ([(P, 16), FREE], 19)
    assert three.shared  # three mappings of X are left that no slot knows


def test_what_a_clamped_slot_forgot_still_clears_when_it_is_gone() -> None:
    three = Tracked().add(C).add(X, 5).sub(C).add(X, 2, first=5).sub(X, 4).sub(X, 3, first=4)
    assert (three.slots, three.shared, three.total) == ([(P, 16), FREE], False, 16)


def test_a_slot_that_counts_too_few_does_not_clear_the_bit_for_its_mm() -> None:
    """Conservative: the folio reads as shared although one mm maps all of it."""
    three = Tracked().add(C).add(X, 5).sub(C).add(X, 2, first=5).sub(P)
    assert (three.slots, three.shared, three.total) == ([FREE, (X, 2)], True, 7)


def test_a_small_folio_has_no_slots() -> None:
    small = Tracked(0).add(C, 1)
    assert (small.slots, small.shared, small.total) == ([FREE, FREE], False, 0)
    small.sub(C, 1)
    assert (small.slots, small.shared, small.total) == ([FREE, FREE], False, 0)


# --- what follows for processes -------------------------------------------------------------------------------------


def slots(machine: af.Machine, process: af.Process, vpn: int = 0) -> tuple[tuple[tuple[int, int], ...], bool]:
    view = machine.snapshot().folio_at(int(process.mm.pfn[vpn]))
    assert view is not None
    return view.mm_ids, view.maybe_mapped_shared


def test_two_processes_are_exact_at_all_times() -> None:
    machine, parent = machine_with_folio()
    assert slots(machine, parent) == (((0, 16),), False)
    child = parent.fork()
    assert slots(machine, parent) == (((0, 16), (1, 16)), True)
    child.munmap(0, 10)
    child.madvise(10, 5, "dontneed")
    assert slots(machine, parent) == (((0, 16), (1, 1)), True)
    child.munmap(15)
    assert slots(machine, parent) == (((0, 16),), False)
    assert parent.write(3).code == "reuse1"


def test_copies_of_the_other_process_clear_the_bit_as_well() -> None:
    machine, parent = machine_with_folio()
    child = parent.fork()
    for vpn in range(15):
        child.write(vpn)
    assert slots(machine, parent) == (((0, 16), (1, 1)), True)
    child.write(15)
    assert slots(machine, parent) == (((0, 16),), False)


def test_a_tracked_process_that_is_left_alone_reuses() -> None:
    machine, parent = machine_with_folio()
    first, second = parent.fork(), parent.fork()
    assert slots(machine, parent) == (((0, 16), (1, 16)), True)
    parent.exit()
    second.exit()
    assert slots(machine, first) == (((1, 16),), False)
    assert first.write(0).code == "reuse1"


def test_an_untracked_process_that_is_left_alone_copies_for_ever() -> None:
    _, parent = machine_with_folio()
    first, second = parent.fork(), parent.fork()
    parent.exit()
    first.exit()
    assert [second.write(vpn).code for vpn in range(16)] == ["copy0"] * 16


def test_a_freed_slot_goes_to_the_next_that_adds_and_not_to_the_one_that_waits() -> None:
    machine, parent = machine_with_folio()
    first, second = parent.fork(), parent.fork()
    first.exit()
    assert slots(machine, second) == (((0, 16),), True)
    grandchild = second.fork()
    assert slots(machine, second) == (((0, 16), (3, 16)), True)
    parent.exit()
    second.exit()
    assert slots(machine, grandchild) == (((3, 16),), False)


def test_a_fork_that_fails_frees_the_slot_it_took() -> None:
    machine, parent = machine_with_folio()
    parent.fork_fails_after(16)
    assert slots(machine, parent) == (((0, 16),), False)


def test_a_pmd_mapping_counts_one_and_its_split_512() -> None:
    machine = af.Machine(orders=(9,))
    parent = machine.spawn()
    parent.mmap(512)
    parent.write(0)
    assert slots(machine, parent) == (((0, 1),), False)
    child = parent.fork()
    assert slots(machine, parent) == (((0, 1), (1, 1)), True)
    child.madvise(7, 1, "dontneed")
    assert slots(machine, parent) == (((0, 1), (1, 511)), True)
    child.exit()
    assert slots(machine, parent) == (((0, 1),), False)


@pytest.mark.parametrize("policy", ["linux-6.9", "linux-6.8", "rfc-v2"])
def test_policies_that_do_not_ask_the_slots_reuse_or_copy_whatever_they_say(policy: str) -> None:
    machine, parent = machine_with_folio(policy)
    first, second = parent.fork(), parent.fork()
    parent.exit()
    first.exit()
    assert slots(machine, second)[1]
    assert second.write(0).code == ("reuse16" if policy == "rfc-v2" else "copy0")


def test_a_folio_that_is_allocated_again_starts_with_clean_slots() -> None:
    machine, parent = machine_with_folio()
    child = parent.fork()
    number = folio(machine, parent, 0)
    parent.munmap(0, 16)
    child.munmap(0, 16)
    process = machine.spawn()
    process.mmap(16)
    process.write(0)
    assert folio(machine, process, 0) == number
    assert slots(machine, process) == (((2, 16),), False)
