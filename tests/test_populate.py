"""Pages that the kernel faults in itself: MADV_POPULATE_*, MAP_POPULATE, mlock; and what a locked mapping does."""

from __future__ import annotations

import numpy as np
import pytest

import anonfolio as af
from anonfolio.kernel.pagetable import PTE_SPECIAL, PTE_WRITE
from anonfolio.kernel.vma import VM_LOCKED, VM_LOCKED_MASK
from anonfolio.witness.comparing import seen_by_model


def process_of(pages: int = 32, policy: str = "linux-6.15", orders: tuple[int, ...] = (2, 4)) -> af.Process:
    return af.Scenario(pages, (), orders).machine(policy).process(0)


def present(process: af.Process, pages: int = 32) -> list[int]:
    return np.flatnonzero(process.mm.pte[:pages]).tolist()


def locks(process: af.Process) -> list[tuple[int, int, str]]:
    words = {0: "", VM_LOCKED: "locked", VM_LOCKED_MASK: "on fault"}
    return [(vma.start, vma.end, words[vma.flags & VM_LOCKED_MASK]) for vma in process.mm.vmas]


# --- MADV_POPULATE_READ and _WRITE ----------------------------------------------------------------------------------


def test_populating_for_reads_maps_the_zero_page_and_for_writes_what_writes_get() -> None:
    process = process_of()
    assert process.madvise(3, 4, "populate_read")
    assert present(process) == [3, 4, 5, 6]
    assert (process.mm.pte[3:7] & PTE_SPECIAL).all()
    assert [(fault.vpn, fault.access, fault.user) for fault in process.machine.faults] == [
        (page, "read", False) for page in range(3, 7)
    ]
    process.madvise(3, 4, "populate_read")
    assert process.machine.faults == []
    assert process.madvise(0, 32, "populate_write")
    assert [(fault.vpn, fault.code) for fault in process.machine.faults] == [
        (0, "alloc0"), (1, "alloc0"), (2, "alloc0"), (3, "zero0"), (4, "zero0"), (5, "zero0"), (6, "zero0"),
        (7, "alloc0"), (8, "alloc2"), (12, "alloc2"), (16, "alloc4"),
    ]  # fmt: skip
    assert (process.mm.pte[:32] & PTE_WRITE).all()


def test_populating_for_writes_breaks_copy_on_write_and_for_reads_does_not() -> None:
    process = process_of()
    process.write(0, 7)
    child = process.fork()
    assert child.madvise(0, 16, "populate_read")
    assert child.machine.faults == []
    assert child.madvise(0, 16, "populate_write")
    assert {fault.code for fault in child.machine.faults} == {"copy0"}
    assert len(child.machine.faults) == 16
    assert (child.read(0), process.read(0)) == (7, 7)
    assert process.madvise(0, 16, "populate_write")
    assert {fault.code for fault in process.machine.faults} == {"reuse1"}


def test_faults_that_the_kernel_takes_are_none_of_the_users() -> None:
    scenario = af.Scenario(16, (("madvise", 0, 0, 16, "populate_write"), ("mlock", 0, 0, 16)))
    populated, locked = scenario.run()
    assert populated.faults
    assert populated.user_faults == []
    assert seen_by_model(populated, 0, 16).faults == []
    assert locked.faults == ()


def test_a_pmd_is_touched_once_for_all_its_pages() -> None:
    process = process_of(1024, orders=(9,))
    assert process.madvise(500, 30, "populate_write")
    assert [fault.code for fault in process.machine.faults] == ["alloc9", "alloc9"]
    assert process.madvise(500, 30, "populate_read")
    assert process.machine.faults == []


@pytest.mark.parametrize(
    ("policy", "errno", "pages"),
    [("linux-6.15", "ENOMEM", [4, 5, 6, 7]), ("6.10", "ENOMEM", [4, 5, 6, 7]), ("5.10", "EINVAL", []),
     ("6.9", "ENOMEM", [*range(4, 8), *range(12, 24)]), ("6.1", "ENOMEM", [*range(4, 8), *range(12, 24)])],
)  # fmt: skip
def test_a_hole_ends_it_or_is_passed_over_as_the_kernel_s_release_does(
    policy: str, errno: str, pages: list[int]
) -> None:
    process = process_of(policy=policy, orders=())
    process.munmap(8, 4)
    refused = process.madvise(4, 20, "populate_write")
    assert refused.errno == errno
    assert present(process) == pages


@pytest.mark.parametrize(
    ("before", "advice", "errno", "pages"),
    [
        (("mprotect", 1), "populate_write", "EINVAL", 4),
        (("mprotect", 1), "populate_read", "", 20),
        (("mprotect", 0), "populate_read", "EINVAL", 4),
        (("guard", 0), "populate_read", "EFAULT", 4),
        (("guard", 0), "populate_write", "EFAULT", 4),
    ],
)
def test_what_a_mapping_does_not_allow_is_refused_and_what_lies_before_stays(
    before: tuple[str, int], advice: str, errno: str, pages: int
) -> None:
    process = process_of(orders=())
    if before[0] == "guard":
        process.madvise(8, 4, "guard_install")
    else:
        process.mprotect(8, 4, before[1])
    said = process.madvise(4, 20, advice)
    assert (said.errno, bool(said)) == (errno, not errno)
    assert process.rss_pages + np.count_nonzero(process.mm.pte[:32] & PTE_SPECIAL) == pages


# --- mlock ----------------------------------------------------------------------------------------------------------


def test_mlock_populates_and_splits_and_munlock_merges_again() -> None:
    process = process_of()
    assert process.mlock(8, 8)
    assert locks(process) == [(0, 8, ""), (8, 16, "locked"), (16, 32, "")]
    assert present(process) == [*range(8, 16)]
    # The largest folio that fits is one that fits the locked mapping.
    assert {fault.code for fault in process.machine.faults} == {"alloc2"}
    assert process.munlock(8, 8)
    assert locks(process) == [(0, 32, "")]
    assert process.write(9).code == "nf"


def test_mlock_on_fault_only_says_so() -> None:
    process = process_of()
    assert process.mlock(0, 32, onfault=True)
    assert locks(process) == [(0, 32, "on fault")]
    assert present(process) == []
    assert process.mlock(16, 16)
    assert locks(process) == [(0, 16, "on fault"), (16, 32, "locked")]
    assert present(process) == [*range(16, 32)]
    assert process.mlock(16, 16, onfault=True)
    assert locks(process) == [(0, 32, "on fault")]


def test_a_hole_is_refused_when_all_before_it_is_locked_and_nothing_is_populated() -> None:
    process = process_of()
    process.munmap(8, 4)
    assert process.mlock(0, 32).errno == "ENOMEM"
    assert locks(process) == [(0, 8, "locked"), (12, 32, "")]
    assert present(process) == []
    assert process.munlock(0, 32).errno == "ENOMEM"
    assert locks(process) == [(0, 8, ""), (12, 32, "")]


@pytest.mark.parametrize("kind", ["no access", "guard"])
def test_what_cannot_be_populated_is_locked_and_told(kind: str) -> None:
    process = process_of()
    if kind == "guard":
        process.madvise(8, 4, "guard_install")
    else:
        process.mprotect(8, 4, 0)
    assert process.mlock(0, 32).errno == "ENOMEM"
    assert {word for *_, word in locks(process)} == {"locked"}
    assert present(process, 8) == [*range(8)]
    assert not (process.mm.pfn[12:32]).any()


def test_a_mapping_without_access_is_refused_though_all_its_pages_are_there() -> None:
    process = process_of(orders=())
    process.madvise(0, 8, "populate_write")
    process.mprotect(0, 8, 0)
    assert process.mlock(0, 4).errno == "ENOMEM"
    assert process.mlock(4, 4, onfault=True)
    assert locks(process)[:2] == [(0, 4, "locked"), (4, 8, "on fault")]


def test_what_is_locked_may_not_be_dropped() -> None:
    process = process_of(orders=())
    process.madvise(0, 32, "populate_write")
    process.mlock(8, 8)
    for advice in ("dontneed", "free", "cold", "guard_install"):
        assert process.madvise(8, 4, advice).errno == "EINVAL"
    refused = process.madvise(0, 32, "dontneed")
    assert refused.errno == "EINVAL"
    # What lies below is gone, what lies above was not reached.
    assert present(process) == [*range(8, 32)]
    assert process.madvise(8, 8, "guard_remove")
    assert process.munmap(8, 8)


def test_a_child_has_nothing_locked() -> None:
    process = process_of()
    process.mlock(0, 8)
    process.mlock(8, 8, onfault=True)
    child = process.fork()
    assert {word for *_, word in locks(child)} == {""}
    assert child.madvise(0, 16, "dontneed")
    assert locks(process)[0] == (0, 8, "locked")


def test_a_locked_mapping_that_becomes_writable_is_populated_so_that_no_write_faults() -> None:
    process = process_of(orders=())
    process.write(1, 9)
    process.mprotect(0, 8, 1)
    process.mlock(0, 8)
    assert (process.mm.pte[2:8] & PTE_SPECIAL).all()
    child = process.fork()
    assert process.mprotect(0, 8, 3)
    codes = [fault.code for fault in process.machine.faults]
    assert codes == ["zero0", "copy0", "zero0", "zero0", "zero0", "zero0", "zero0", "zero0"]
    assert {process.write(page).code for page in range(8)} == {"nf"}
    assert child.mprotect(0, 8, 1)
    assert child.mprotect(0, 8, 3)
    assert child.machine.faults == []
    # Writable already, or locked as they come: nothing.
    assert process.mprotect(0, 8, 3)
    assert process.machine.faults == []
    process.mprotect(0, 8, 1)
    process.mlock(0, 8, onfault=True)
    process.fork()
    assert process.mprotect(0, 8, 3)
    assert process.machine.faults == []


def test_what_moves_stays_locked_and_what_is_left_behind_is_not() -> None:
    process = process_of(48)
    process.munmap(16, 32)
    process.mlock(0, 16)
    assert process.mremap(0, 16, 16)
    assert locks(process) == [(16, 32, "locked")]
    assert process.remap(16, 16, 16, 0, keep=True) == 0
    assert locks(process) == [(0, 16, "locked"), (16, 32, "")]


def test_a_locked_mapping_that_grows_is_populated_there() -> None:
    process = process_of(48)
    process.munmap(16, 32)
    process.mlock(0, 16)
    assert process.remap(0, 16, 24) == 0
    assert present(process, 48) == [*range(24)]
    assert [fault.vpn for fault in process.machine.faults] == [16, 20]
    process.mlock(0, 24, onfault=True)
    assert process.remap(0, 24, 32) == 0
    assert present(process, 48) == [*range(24)]
    process.munlock(0, 32)
    assert process.remap(0, 32, 40) == 0
    assert process.machine.faults == []


# --- MAP_POPULATE ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prot", "codes"), [(3, ["alloc4"]), (1, ["zeroread"] * 16), (0, [])])
def test_a_new_mapping_is_populated_as_its_access_allows(prot: int, codes: list[str]) -> None:
    step = ("mmap", 0, 16, 16, prot, "populate")
    result = af.Scenario(48, (("munmap", 0, 16, 16), step), (4,), thp="always").run()[-1]
    assert result.ok
    assert [fault.code for fault in result.faults] == codes
    assert result.user_faults == []


def test_what_it_takes_the_place_of_is_no_longer_populated() -> None:
    process = process_of(48)
    process.mmap(16, at=64)
    assert process.map(0, 8, populate=True) == 0
    assert present(process, 80) == [*range(8)]
