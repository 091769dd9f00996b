"""A fault explains itself: the checks it made in the kernel's names and order, which one decided, and what it did.

Pictures and quizzes show this trail and recompute nothing, so each path and each rule of reuse is pinned here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import folio, machine_with_folio

import anonfolio as af
from anonfolio.kernel.pagetable import WRPROTECT
from anonfolio.kernel.record import PATHS, Check, Trail

NONE, NORMAL, EXCLUSIVE = "pte_none", "vm_normal_page", "PageAnonExclusive"
SUITABLE, RANGE_NONE, ALLOC = "thp_vma_suitable_order", "pte_range_none", "vma_alloc_folio"
MAPCOUNT, SHARED = "folio_large_mapcount > 1", "FOLIO_MM_IDS_SHARED_BITNUM"
EQUAL, ONE = "folio_large_mapcount == folio_ref_count", "folio_ref_count == 1"
RANGE, SCAN = "calc_anon_folio_range_reuse", "folio_ref_count == pages of the range"
IN_STEP, NO_EXCLUSIVE = "consecutive pages of one folio", "no page PageAnonExclusive"

WP = [(NONE, False), (NORMAL, True)]
WP_SHARED = [*WP, (EXCLUSIVE, False)]


def trail(fault: af.Fault) -> list[tuple[str, bool]]:
    return [(check.what, check.outcome) for check in fault.checks]


def decided(fault: af.Fault) -> str:
    assert fault.decided_by is not None
    assert sum(check.decides for check in fault.checks) == 1
    return fault.decided_by.what


def work(fault: af.Fault) -> tuple[int, int, int, int]:
    """Zeroed, copied, scanned, flushed."""
    return fault.zeroed, fault.copied, fault.scanned, fault.flushed


# --- first touch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["linux-6.8", "linux-6.9", "linux-6.15", "rfc-v2", "rfc-v2-fixed"])
def test_a_first_touch_of_a_whole_block(policy: str) -> None:
    machine = af.Machine(policy)
    process = machine.spawn()
    process.mmap(32)
    fault = process.write(21)
    assert (fault.path, fault.code, fault.access, fault.error_code) == ("first touch", "alloc4", "write", 6)
    assert trail(fault) == [(NONE, True), (SUITABLE, True), (RANGE_NONE, True), (ALLOC, True)]
    assert decided(fault) == NONE
    assert fault.pages == range(16, 32)
    assert work(fault) == (16, 0, 16, 0)
    assert (fault.folio, fault.old_folio) == (folio(machine, process, 16), None)
    assert (fault.process, fault.vpn, fault.order, fault.user) == (0, 21, 4, True)


def test_a_first_touch_says_which_orders_did_not_fit_and_why() -> None:
    process = af.Machine().spawn()
    process.mmap(12)
    process.read(1)
    fault = process.write(5)
    assert trail(fault) == [
        (NONE, True), (SUITABLE, False), (SUITABLE, True), (RANGE_NONE, False), (RANGE_NONE, True), (ALLOC, True),
    ]  # fmt: skip
    seen = [check.saw for check in fault.checks]
    assert "order 4: pages 0..15 in mapping 0..11" in seen[1]
    assert "order 3: pages 0..7" in seen[3]
    assert "order 2: pages 4..7" in seen[4]
    assert fault.scanned == 2 + 4  # the look at the larger block ends at page 1
    assert fault.pages == range(4, 8)


@pytest.mark.parametrize("policy", ["linux-6.3", "linux-6.15"])
def test_a_first_touch_where_no_order_is_allowed(policy: str) -> None:
    process = af.Machine(policy, orders=()).spawn()
    process.mmap(16)
    fault = process.write(5)
    assert trail(fault) == [(NONE, True), ("thp_vma_allowable_orders", False)]
    assert (fault.code, fault.pages, work(fault)) == ("alloc0", range(5, 6), (1, 0, 0, 0))
    assert decided(fault) == NONE


def test_a_read_maps_one_zero_page_whatever_is_enabled() -> None:
    machine = af.Machine()
    process = machine.spawn()
    process.mmap(16)
    assert process.read(5) == 0
    (fault,) = machine.faults
    assert (fault.path, fault.code, fault.access, fault.error_code) == ("zero page read", "zeroread", "read", 4)
    assert trail(fault) == [(NONE, True), ("FAULT_FLAG_WRITE", False)]
    assert decided(fault) == "FAULT_FLAG_WRITE"
    assert (fault.pages, work(fault), fault.folio) == (range(5, 6), (0, 0, 0, 0), None)


# --- the zero page --------------------------------------------------------------------------------------------------


def test_a_write_on_the_zero_page_in_released_kernels() -> None:
    for policy in ("linux-6.3", "linux-6.8", "linux-6.9", "linux-6.15"):
        process = af.Machine(policy).spawn()
        process.mmap(16)
        process.read(5)
        fault = process.write(5)
        assert (fault.path, fault.code, fault.error_code) == ("zero page copy", "zero0", 7)
        assert trail(fault) == [(NONE, False), (NORMAL, False)]
        assert decided(fault) == NORMAL
        assert (fault.pages, work(fault), fault.old_folio) == (range(5, 6), (1, 0, 0, 1), None)


@pytest.mark.parametrize(
    ("neighbours", "name", "code", "flushed"),
    [("none_or_zero", "every entry none or zero page", "zero4", 3),
     ("none_only", "every other entry none", "zero2", 1)],
)  # fmt: skip
def test_a_write_on_the_zero_page_in_the_rfc_flushes_the_entries_that_were_there(
    neighbours: str, name: str, code: str, flushed: int
) -> None:
    process = af.Machine(af.RFC_V2.but(name="mine", zero_neighbours=neighbours)).spawn()
    process.mmap(16)
    for vpn in (2, 5, 9):
        process.read(vpn)
    fault = process.write(5)
    assert fault.code == code
    assert (fault.zeroed, fault.copied, fault.flushed) == (1 << int(code[-1]), 0, flushed)
    assert trail(fault)[:3] == [(NONE, False), (NORMAL, False), (SUITABLE, True)]
    assert trail(fault)[-2:] == [(name, True), (ALLOC, True)]
    assert decided(fault) == NORMAL
    assert process.rss_pages == 1 << int(code[-1])


def test_the_rfc_s_block_over_zero_pages_covers_no_page_with_content() -> None:
    process = af.Machine(af.RFC_V2).spawn()
    process.mmap(16)
    process.madvise(0, 16, "dontneed")
    process.read(0)
    process.read(5)
    process.write(0, 9)  # zero4
    process.madvise(1, 15, "dontneed")
    process.read(5)
    fault = process.write(5)
    assert fault.pages == range(4, 8)
    assert process.read(0) == 9


# --- reuse and copy, rule by rule -----------------------------------------------------------------------------------


def fork_and_exit(process: af.Process) -> None:
    process.fork().exit()


def fork_only(process: af.Process) -> None:
    process.fork()


def protect_and_back_by_page(process: af.Process) -> None:
    """Exclusive pages with read-only entries: a read pin leaves one such."""
    process.fork()
    process.pin(4, write=False)


def leave_one(process: af.Process) -> None:
    fork_and_exit(process)
    process.munmap(5, 11)
    process.munmap(0, 4)


def leave_two(process: af.Process) -> None:
    fork_and_exit(process)
    process.munmap(6, 10)
    process.munmap(0, 4)


def fork_exit_and_ref(process: af.Process) -> None:
    fork_and_exit(process)
    process.ref(9)


@pytest.mark.parametrize(
    ("policy", "prepare", "code", "checks"),
    [
        # 6.15: the checks of `__wp_can_reuse_large_anon_folio` in their order.
        ("linux-6.15", leave_one, "copy0", [*WP_SHARED, (MAPCOUNT, False)]),
        ("linux-6.15", fork_only, "copy0", [*WP_SHARED, (MAPCOUNT, True), (SHARED, True)]),
        ("linux-6.15", fork_exit_and_ref, "copy0", [*WP_SHARED, (MAPCOUNT, True), (SHARED, False), (EQUAL, False)]),
        ("linux-6.15", fork_and_exit, "reuse1", [*WP_SHARED, (MAPCOUNT, True), (SHARED, False), (EQUAL, True)]),
        ("linux-6.15", leave_two, "reuse1", [*WP_SHARED, (MAPCOUNT, True), (SHARED, False), (EQUAL, True)]),
        ("linux-6.15", protect_and_back_by_page, "reuse1", [*WP, (EXCLUSIVE, True)]),
        # 6.9: never.
        ("linux-6.9", fork_and_exit, "copy0", [*WP_SHARED, ("!folio_test_large", False)]),
        ("linux-6.9", leave_one, "copy0", [*WP_SHARED, ("!folio_test_large", False)]),
        ("linux-6.9", protect_and_back_by_page, "reuse1", [*WP, (EXCLUSIVE, True)]),
        # 6.8: the last reference.
        ("linux-6.8", fork_and_exit, "copy0", [*WP_SHARED, (ONE, False)]),
        ("linux-6.8", leave_two, "copy0", [*WP_SHARED, (ONE, False)]),
        ("linux-6.8", leave_one, "reuse1", [*WP_SHARED, (ONE, True)]),
        # 6.3: base pages, one reference.
        ("linux-6.3", fork_only, "copy0", [*WP_SHARED, (ONE, False)]),
        ("linux-6.3", fork_and_exit, "reuse1", [*WP_SHARED, (ONE, True)]),
        # The RFC: a scan, and a copy of the order of the source.
        ("rfc-v2", fork_and_exit, "reuse16", [*WP_SHARED, (RANGE, True), (SCAN, True)]),
        ("rfc-v2", leave_one, "reuse1", [*WP_SHARED, (RANGE, True), (SCAN, True)]),
        ("rfc-v2", fork_only, "copy4",
         [*WP_SHARED, (RANGE, True), (SCAN, False), (SUITABLE, True), (IN_STEP, True), (ALLOC, True)]),
        ("rfc-v2-fixed", fork_only, "copy4",
         [*WP_SHARED, (RANGE, True), (SCAN, False), (SUITABLE, True), (IN_STEP, True), (NO_EXCLUSIVE, True),
          (ALLOC, True)]),
    ],
)  # fmt: skip
def test_a_write_on_a_read_only_page_asks_in_order_and_the_last_answer_decides(
    policy: str, prepare: Callable[[af.Process], None], code: str, checks: list[tuple[str, bool]]
) -> None:
    machine, process = machine_with_folio(policy)
    prepare(process)
    fault = process.write(4, 99)
    assert (fault.code, fault.error_code) == (code, 7)
    assert trail(fault) == checks
    rfc = ("copy4", "copy0") if policy.startswith("rfc") else ()
    assert decided(fault) == (SCAN if fault.code in rfc else checks[-1][0])
    pages = len(fault.pages)
    assert (fault.zeroed, fault.copied, fault.flushed) == (0, pages if fault.path == "cow copy" else 0, pages)
    assert fault.old_folio is not None
    assert (fault.folio == fault.old_folio) == (fault.path == "exclusive reuse")
    assert fault.folio == folio(machine, process, 4)
    assert process.read(4) == 99


@pytest.mark.parametrize("policy", af.POLICIES)
def test_a_small_folio_asks_for_its_one_reference_in_every_kernel(policy: str) -> None:
    for exits, code in ((True, "reuse1"), (False, "copy0")):
        machine, process = machine_with_folio(af.POLICIES[policy].but(name="small", fixed_orders=()), orders=())
        child = process.fork()
        if exits:
            child.exit()
        fault = process.write(4)
        assert fault.code == code
        asked = dict(trail(fault))
        assert asked.get(ONE, asked.get(SCAN)) == exits
        process.write(5)
        assert af.check(machine) == []


def test_a_reference_or_a_pin_on_a_small_folio_blocks_its_reuse() -> None:
    for take in (lambda p: p.ref(4), lambda p: p.ref(4, id=1)):
        _, process = machine_with_folio(orders=())
        process.fork().exit()
        take(process)
        assert process.write(4).code == "copy0"


def test_the_trail_shows_what_each_check_saw() -> None:
    _, process = machine_with_folio()
    process.fork()
    fault = process.write(4)
    saw = {check.what: check.saw for check in fault.checks}
    assert saw[NORMAL] == "page 4 of a folio of order 4"
    assert saw[MAPCOUNT].startswith("32 mappings")
    assert saw[SHARED] == "tracked: process 0 16, process 1 16"


def test_a_reuse_in_the_rfc_ends_at_what_is_no_longer_exclusive() -> None:
    """The flag case: the run around the page whose pages are all marked."""
    machine, process = machine_with_folio(af.RFC_V2)
    process.madvise(4, 8, "dontfork")
    process.fork()
    process.madvise(4, 8, "dofork")
    process.mm.pte[4:12] &= WRPROTECT  # as soft-dirty or userfaultfd would: exclusive and read-only
    fault = process.write(6)
    assert (fault.code, fault.pages) == ("reuse8", range(4, 12))
    assert trail(fault) == [*WP, (EXCLUSIVE, True), (RANGE, True)]
    assert decided(fault) == EXCLUSIVE
    assert fault.scanned == 8 + 2
    assert process.write(4).code == "nf"
    assert process.write(11).code == "nf"
    assert process.write(3).code.startswith("copy")
    assert machine.counters.pgreuse == 1


@pytest.mark.parametrize(
    ("prepare", "pages", "scanned"),
    [
        (lambda p: p.munmap(0, 4), range(4, 16), 12),
        (lambda p: p.madvise(12, 4, "dontneed"), range(12), 12 + 1),
        (lambda p: (p.munmap(0, 2), p.madvise(9, 7, "dontneed")), range(2, 9), 7 + 1),
    ],
)
def test_the_rfc_s_scan_takes_the_run_around_the_page_when_it_is_all_there_is(
    prepare: Callable[[af.Process], object], pages: range, scanned: int
) -> None:
    _, process = machine_with_folio(af.RFC_V2)
    prepare(process)
    fork_and_exit(process)
    fault = process.write(5)
    assert (fault.pages, fault.code) == (pages, f"reuse{len(pages)}")
    assert fault.scanned == scanned  # an entry that ends the run is read too; a mapping's end is not


def test_the_rfc_s_ranges_stop_at_the_end_of_the_page_table() -> None:
    process = af.Machine(af.RFC_V2).spawn()
    process.mmap(32, at=496)
    for vpn in (496, 512):
        process.write(vpn)
    process.mremap(496, 16, 504 + 2048)  # half of the folio in one page table, half in the next
    fork_and_exit(process)
    fault = process.write(2048 + 507)
    assert fault.code == "copy3"
    assert fault.pages == range(2048 + 504, 2048 + 512)
    again = process.write(2048 + 515)
    assert (again.code, again.pages) == ("reuse8", range(2048 + 512, 2048 + 520))


@pytest.mark.parametrize(
    ("vpn", "code", "pages"), [(8, "copy2", range(8, 12)), (5, "copy0", range(5, 6)), (13, "copy2", range(12, 16))]
)
def test_the_rfc_s_copy_goes_down_until_the_block_is_whole(vpn: int, code: str, pages: range) -> None:
    """A hole at page 6, and a mapping that ends after page 11."""
    machine, process = machine_with_folio(af.RFC_V2_FIXED)
    process.fork()
    process.munmap(6, 1)
    process.madvise(12, 4, "wipeonfork")
    fault = process.write(vpn)
    assert (fault.code, fault.pages) == (code, pages)
    assert af.check(machine) == []


def test_the_fixed_rfc_refuses_a_block_with_one_exclusive_page_and_the_posted_one_does_not() -> None:
    for policy, code, pages in ((af.RFC_V2, "copy4", range(16)), (af.RFC_V2_FIXED, "copy2", range(12, 16))):
        _, process = machine_with_folio(policy)
        process.madvise(8, 1, "dontfork")
        process.fork()
        process.madvise(8, 1, "dofork")
        fault = process.write(13)
        assert (fault.code, fault.pages) == (code, pages)
        if policy is af.RFC_V2_FIXED:
            assert [check.outcome for check in fault.checks if check.what == NO_EXCLUSIVE] == [False, False, True]


@pytest.mark.parametrize(("orders", "code"), [((5,), "copy4"), ((3,), "copy3"), ((2,), "copy2")])
def test_the_rfc_s_copy_starts_at_the_source_s_order_and_ends_at_its_ceiling(
    orders: tuple[int, ...], code: str
) -> None:
    policy = af.RFC_V2_FIXED.but(name="any order", fixed_orders=orders)
    _, process = machine_with_folio(policy, pages=32)
    process.fork()
    assert process.write(5).code == code


def test_a_larger_ceiling_copies_more() -> None:
    policy = af.RFC_V2_FIXED.but(name="order 5", fixed_orders=(5,), copy_max_order=5)
    _, process = machine_with_folio(policy, pages=32)
    process.fork()
    assert process.write(5).code == "copy5"


def test_an_unshare_copies_one_page_or_as_a_write_would() -> None:
    for extent, code in (("page", "copy0"), ("source_order", "copy4")):
        machine, process = machine_with_folio(af.RFC_V2_FIXED.but(name="mine", unshare_extent=extent))
        process.fork()
        process.pin(4, write=False)
        assert [fault.code for fault in machine.faults] == [code]
        assert not process.mm.pte[4] & 2


# --- the PMD level --------------------------------------------------------------------------------------------------


def huge(policy: str = "linux-6.15") -> tuple[af.Machine, af.Process]:
    machine = af.Machine(policy, orders=(9,))
    process = machine.spawn()
    process.mmap(512)
    return machine, process


def test_a_first_touch_of_2_mib() -> None:
    _, process = huge()
    fault = process.write(7)
    assert (fault.code, fault.pages, work(fault)) == ("alloc9", range(512), (512, 0, 0, 0))
    assert trail(fault) == [("pmd_none", True), (SUITABLE, True), (ALLOC, True)]


def test_a_write_on_the_huge_zero_page_gets_2_mib_or_one_page() -> None:
    _, process = huge()
    process.read(0)
    fault = process.write(7)
    assert (fault.code, fault.pages, work(fault)) == ("zero9", range(512), (512, 0, 0, 512))
    assert trail(fault)[0] == ("is_huge_zero_pmd", True)
    _, process = huge("linux-6.9")
    process.read(0)
    fault = process.write(7)
    assert (fault.code, fault.pages, work(fault)) == ("zero0", range(7, 8), (1, 0, 0, 1))
    assert trail(fault) == [("is_huge_zero_pmd", True), (NONE, False), (NORMAL, False)]


def test_a_shared_pmd_is_split_and_one_page_copied() -> None:
    _, process = huge()
    process.write(0)
    process.fork()
    fault = process.write(7)
    assert (fault.code, work(fault)) == ("copy0", (0, 1, 0, 1))
    assert trail(fault)[:3] == [("is_huge_zero_pmd", False), (EXCLUSIVE, False), (ONE, False)]
    assert trail(fault)[3:] == [*WP_SHARED, (MAPCOUNT, True), (SHARED, True)]
    assert decided(fault) == SHARED


@pytest.mark.parametrize("policy", ["linux-6.3", "linux-6.8", "linux-6.9", "linux-6.15"])
def test_a_pmd_with_one_reference_is_reused_whole_in_every_kernel(policy: str) -> None:
    _, process = huge(policy)
    process.write(0)
    process.fork().exit()
    fault = process.write(7)
    assert (fault.code, fault.pages, fault.copied) == ("reuse512", range(512), 0)
    assert trail(fault) == [("is_huge_zero_pmd", False), (EXCLUSIVE, False), (ONE, True)]
    assert decided(fault) == ONE


def test_an_exclusive_pmd_is_reused_without_a_look_at_its_references() -> None:
    _, process = huge("linux-6.3")
    process.write(0)
    process.ref(3)
    process.mprotect(0, 512, 1)
    process.mprotect(0, 512, 3)
    fault = process.write(7)
    assert fault.code == "reuse512"
    assert trail(fault) == [("is_huge_zero_pmd", False), (EXCLUSIVE, True)]


def test_a_reference_on_a_pmd_stops_its_reuse() -> None:
    _, process = huge()
    process.write(0)
    process.fork().exit()
    process.ref(3)
    assert process.write(7).code == "copy0"


# --- no fault, SIGSEGV ----------------------------------------------------------------------------------------------


def test_an_access_that_faults_not_says_so() -> None:
    machine, process = machine_with_folio()
    fault = process.write(3)
    assert not fault
    assert (fault.path, fault.code, fault.error_code, len(fault.pages)) == ("no fault", "nf", 0, 0)
    assert (fault.folio, work(fault)) == (folio(machine, process, 3), (0, 0, 0, 0))
    assert machine.faults == []


@pytest.mark.parametrize(
    ("access", "code", "reason"),
    [
        (lambda p: p.write(20), 6, "no mapping contains it"), (lambda p: p.read(20), 4, "no mapping contains it"),
        (lambda p: p.write(3), 7, "the mapping is read-only"), (lambda p: p.write(12), 6, "the mapping is read-only"),
        (lambda p: p.write(-1), 6, "no mapping contains it"), (lambda p: p.read(1 << 40), 4, "no mapping contains it"),
    ],
)  # fmt: skip
def test_a_sigsegv_has_a_record_and_changes_nothing(
    access: Callable[[af.Process], object], code: int, reason: str
) -> None:
    machine, process = machine_with_folio()
    process.munmap(8, 8)
    process.mmap(8, at=8)
    process.mprotect(0, 16, 1)
    counted = dict(machine.counters.faults)
    with pytest.raises(af.SegmentationFault, match=reason) as raised:
        access(process)
    fault = raised.value.fault
    assert (fault.path, fault.code, fault.error_code) == ("sigsegv", "sigsegv", code)
    assert machine.faults == [fault]
    assert str(raised.value).startswith(f"SIGSEGV: process 0 {fault.access}s page {fault.vpn}")
    assert dict(machine.counters.faults) == counted


# --- the record itself ----------------------------------------------------------------------------------------------


def test_a_trail_marks_one_check_as_deciding() -> None:
    asked = Trail()
    assert asked("first", True, "saw this")
    asked.decide()
    assert not asked("second", False)
    asked.decide()
    assert list(asked) == [Check("first", True, "saw this", True), Check("second", False)]
    assert [str(check) for check in asked] == ["=> first: yes (saw this)", "   second: no"]


def test_a_fault_prints_itself_with_its_checks() -> None:
    process = af.Machine().spawn()
    process.mmap(16)
    text = str(process.write(5)).splitlines()
    assert text[0] == "process 0 write page 5: first touch [alloc4] pages 0..15"
    assert text[1].strip() == "=> pte_none: yes"
    assert len(text) == 5


def test_every_path_has_a_short_code() -> None:
    assert len(set(PATHS.values())) == len(PATHS) == 9


def test_counters_are_the_sum_of_the_records() -> None:
    for policy in af.POLICIES:
        for name in ("child-exits-parent-writes-all", "huge-fork-write-exit-write", "read-twice-then-write"):
            timeline = af.Scenario.load(name).run(policy)
            faults = timeline.faults()
            counters = timeline[-1].snapshot.counters
            for what in ("zeroed", "copied", "scanned", "flushed"):
                assert getattr(counters, what) == sum(getattr(fault, what) for fault in faults)
            assert sum(counters.faults.values()) == len(faults)
            assert counters.pgreuse == sum(fault.path == "exclusive reuse" for fault in faults)


def test_counts_by_key_are_zero_where_nothing_was_counted_and_have_a_total() -> None:
    counters = af.Scenario(16, (("read", 0, 3), ("write", 0, 3, 1), ("write", 0, 9, 1))).end().counters
    assert counters.faults.total() == sum(counters.faults.values()) == 3
    assert counters.faults["cow copy"] == 0


def test_copied_counters_are_independent() -> None:
    machine, process = machine_with_folio()
    twin = machine.counters.copy()
    process.munmap(0, 16)
    process.mmap(16, at=0)
    process.write(0)
    assert twin.anon_fault_alloc[4] == 1
    assert machine.counters.anon_fault_alloc[4] == 2
