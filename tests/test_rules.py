"""A reader's own rules: one function decides for a fault, a stream, the search and pictures; a broken one is refused.

The three rules at the top are written as a reader would write them, from the docstrings of `anonfolio.kernel.rules`.
"""

from __future__ import annotations

import copy
import dataclasses
import pickle
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from test_misuse import expect_refusal
from test_touch import difference, state_of

import anonfolio as af
from anonfolio.draw.tree import Decision, Tree, decisions
from anonfolio.kernel import honest, rules
from anonfolio.kernel.honest import Node
from anonfolio.kernel.rules import Around, Ask, Folio, Where
from anonfolio.search import counterexample
from anonfolio.view import Stepper

# --- three rules, as a reader writes them ---------------------------------------------------------------------------


def last_page_too(folio: Folio, ask: Ask) -> bool:
    """6.15, but a last page is reused as well."""
    if ask("maybe shared?", folio.shared, yes="another process may map the folio"):
        return False
    return ask(
        "mappings == references",
        folio.mappings == folio.refcount,
        f"{folio.mappings} and {folio.refcount}",
        asks="is every reference one of its mappings?",
        yes="all of it is this process's",
        no="somebody holds a reference",
    )


def walks_the_rmap(folio: Folio, ask: Ask) -> bool:
    """All mappings are this process's by a walk of the reverse map instead of mm_id slots."""
    if not ask("all mappings are mine", folio.mine == folio.mappings, no="another process maps it"):
        return False
    return ask("mappings == references", folio.mappings == folio.refcount, yes="all of it is this process's")


def sixteen_kib(around: Around, ask: Ask) -> range:
    """Copy 16 KiB at once where all of it is maybe shared."""
    block = around.block(2)
    if not around.suitable(2, ask):
        return around.page
    whole = bool(around.same_folio[block.start : block.stop].all())
    if not ask("all four map the folio", whole):
        return around.page
    none = not around.exclusive[block.start : block.stop].any()
    return block if ask("none of the four is exclusive", none, around.pages(block)) else around.page


def by_mapping(where: Where) -> Iterable[int]:
    """64 KiB in large mappings that were not advised against, 16 KiB in small ones, 2 MiB only where asked for."""
    if where.advice == "nohugepage":
        return ()
    if where.advice == "hugepage":
        return (9, 4)
    return {4} if where.pages >= 64 else {2}


REUSE = af.LINUX_6_15.but(name="mine", large_reuse=last_page_too)
COPY = af.LINUX_6_15.but(name="mine", copy_extent=sixteen_kib)
ORDERS = af.LINUX_6_15.but(name="mine", allowed_orders=by_mapping)


def one_folio(policy: af.Policy, pages: int = 8, order: int = 3) -> af.Process:
    """A process with one folio, of all its pages."""
    parent = af.Machine(policy, orders=(order,)).spawn()
    parent.mmap(pages)
    parent.write(0)
    return parent


# --- as single faults -----------------------------------------------------------------------------------------------


def test_a_last_page_is_reused_too_and_says_why() -> None:
    parent = one_folio(REUSE)
    child = parent.fork()
    codes = [parent.write(page).code for page in range(1, 8)]
    assert codes == ["copy0"] * 7
    child.exit()
    fault = parent.write(0)
    assert fault.code == "reuse1"
    assert [(check.what, check.outcome, check.decides) for check in fault.checks[-2:]] == [
        ("maybe shared?", False, False),
        ("mappings == references", True, True),
    ]
    assert fault.decided_by is not None
    assert fault.decided_by.words == "all of it is this process's"
    plain = one_folio(af.LINUX_6_15)
    child = plain.fork()
    for page in range(1, 8):
        plain.write(page)
    child.exit()
    assert plain.write(0).code == "copy0"


WALK = af.LINUX_6_15.but(name="walk", large_reuse=walks_the_rmap)


def left_alone(policy: af.Policy) -> af.Process:
    """The third process to map a folio, whose first page it has copied, when the other two are gone."""
    parent = one_folio(policy)
    other, third = parent.fork(), parent.fork()
    third.write(0)
    # In two mappings now, the upper one elsewhere: a walk finds all of them.
    third.mremap(6, 2, 20)
    parent.exit()
    other.exit()
    return third


@pytest.mark.parametrize(("policy", "codes"), [(af.LINUX_6_15, ["copy0"] * 7), (WALK, ["reuse1"] * 7)])
def test_a_walk_of_the_reverse_map_ends_the_third_process_s_copying(policy: af.Policy, codes: list[str]) -> None:
    third, twin = left_alone(policy), left_alone(policy)
    pages = [1, 2, 3, 4, 5, 20, 21]
    faults = [third.write(page, 7) for page in pages]
    assert [fault.code for fault in faults] == codes
    if policy is WALK:
        assert faults[0].decided_by is not None
        assert faults[0].decided_by.words == "all of it is this process's"
    assert twin.touch(pages, value=7).stepped == 0
    third.machine.faults = twin.machine.faults = []
    assert not difference(state_of(third.machine), state_of(twin.machine))


def test_a_walk_of_the_reverse_map_counts_only_the_own_mappings() -> None:
    parent = one_folio(WALK)
    child = parent.fork()
    parent.munmap(4, 4)
    assert [parent.write(page).code for page in range(4)] == ["copy0"] * 4
    assert [child.write(page).code for page in range(8)] == ["reuse1"] * 8


def test_what_is_mine_is_less_by_each_copy() -> None:
    def half(folio: Folio, ask: Ask) -> bool:
        return ask("few are mine", folio.mine <= 3, f"{folio.mine}")

    machines = []
    for stream in (False, True):
        parent = one_folio(af.LINUX_6_15.but(name="half", large_reuse=half))
        parent.fork()
        if stream:
            assert parent.touch(range(8), value=5).faults == {"cow copy": 5, "exclusive reuse": 3}
        else:
            assert [parent.write(page, 5).code for page in range(8)] == ["copy0"] * 5 + ["reuse1"] * 3
        parent.machine.faults = []
        machines.append(parent.machine)
    assert not difference(*map(state_of, machines))


def test_a_rule_sees_how_often_the_page_is_mapped_and_whether_a_device_holds_the_folio() -> None:
    seen: list[tuple[int, bool]] = []

    def looks(folio: Folio, ask: Ask) -> bool:
        seen.append((folio.mapcount, folio.pinned))
        return ask("mapped once", folio.mapcount == 1)

    parent = one_folio(af.LINUX_6_15.but(name="looks", large_reuse=looks))
    child = parent.fork()
    child.munmap(4, 4)
    seen.clear()
    assert [parent.write(page).code for page in (3, 4)] == ["copy0", "reuse1"]
    parent.pin(5)
    assert parent.write(6).code == "reuse1"
    assert seen == [(2, False), (1, False), (1, False), (1, True)]


def test_a_pmd_counts_in_the_mapcount_of_each_page() -> None:
    machine = af.Machine(orders=(9,))
    parent = machine.spawn()
    parent.mmap(1024)
    parent.write(512)
    child = parent.fork()
    child.munmap(600, 1)
    pfns = parent.mm.pfn[[512, 600]]
    assert machine.memory.mapcounts_of(pfns).tolist() == [2, 1]


def test_a_copy_may_go_by_mapcounts() -> None:
    """A page that the child no longer maps is left out, and so is the folio that a device holds."""

    def where_mapped_twice(around: Around, ask: Ask) -> range:
        block = around.block(2)
        inside = around.suitable(2, ask) and not ask("pinned", around.pinned)
        return block if inside and around.all_of(around.mapcount == 2, block) else around.page

    def mapped_once(folio: Folio, ask: Ask) -> bool:
        return ask("mapped once", folio.mapcount == 1)

    twice = af.LINUX_6_15.but(name="twice", copy_extent=where_mapped_twice, large_reuse=mapped_once)
    for held in (False, True):
        parent = one_folio(twice)
        child = parent.fork()
        child.munmap(7, 1)
        if held:
            parent.pin(7)
        assert parent.write(5).pages == range(5, 6)
        assert parent.write(1).pages == (range(1, 2) if held else range(4))


def test_a_copy_of_16_kib_stops_at_an_exclusive_page() -> None:
    parent = one_folio(COPY)
    child = parent.fork()
    fault = child.write(5)
    assert (fault.code, fault.pages) == ("copy2", range(4, 8))
    assert [check.what for check in fault.checks[-4:]] == [
        "thp_vma_suitable_order", "all four map the folio", "none of the four is exclusive", "vma_alloc_folio",
    ]  # fmt: skip
    assert parent.write(0).pages == range(4)
    small = af.Machine(COPY, orders=()).spawn()
    small.mmap(4)
    small.write(1)
    small.fork()
    assert small.write(1).code == "copy0"


def test_a_copy_that_asks_for_more_than_is_free_gets_one_page() -> None:
    parent = af.Machine(COPY, orders=(3,), frames=16).spawn()
    parent.mmap(8)
    parent.write(0)
    parent.mmap(4, at=512, advice="nohugepage")
    for page in range(512, 516):
        parent.write(page)
    parent.fork()
    fault = parent.write(0)
    assert (fault.code, fault.pages) == ("copy0", range(1))
    assert ("vma_alloc_folio", False, "order 2") in [check[:3] for check in fault.checks]


def test_orders_hang_on_the_mapping() -> None:
    process = af.Machine(ORDERS, orders=()).spawn()
    process.mmap(64, at=0)
    process.mmap(16, at=512)
    process.mmap(512, at=1024, advice="hugepage")
    process.mmap(64, at=2048, advice="nohugepage")
    assert [process.write(page).code for page in (0, 512, 1024, 2048)] == ["alloc4", "alloc2", "alloc9", "alloc0"]


def test_which_of_the_orders_that_fit_is_taken() -> None:
    def smallest(fits: tuple[int, ...], ask: Ask) -> int:
        ask("two sizes fit", len(fits) > 2, str(fits))
        return fits[-2]

    process = af.Machine(af.LINUX_6_15.but(name="mine", chosen_order=smallest), orders=(2, 4, 9)).spawn()
    process.mmap(1024)
    fault = process.write(20)
    assert (fault.code, fault.pages) == ("alloc2", range(20, 24))
    assert ("two sizes fit", True, "(4, 2, 0)") in [check[:3] for check in fault.checks]
    # Four are mapped already: what the rule does not decide is planned.
    assert process.touch(range(1024)).why_stepped == {"mine: chosen_order": 1020}
    one = af.Machine(af.LINUX_6_15.but(name="one", chosen_order=lambda fits, ask: 0)).spawn()
    one.mmap(16)
    assert one.write(3).code == "alloc0"


def test_a_reuse_reaches_what_its_function_says() -> None:
    def pair(around: Around, ask: Ask) -> range:
        block = around.block(1)
        return block if around.all_of(around.same_folio, block) else around.page

    parent = one_folio(af.LINUX_6_15.but(name="mine", reuse_extent=pair))
    parent.fork().exit()
    fault = parent.write(5)
    assert (fault.code, fault.pages, fault.scanned) == ("reuse2", range(4, 6), 2)


def test_an_unshare_reaches_what_its_function_says() -> None:
    parent = one_folio(af.LINUX_6_15.but(name="mine", unshare_extent=sixteen_kib))
    parent.fork()
    parent.pin(6, write=False)
    assert (parent.machine.faults[-1].code, parent.machine.faults[-1].pages) == ("copy2", range(4, 8))


# --- knobs, prctl, and a copy that respects them -------------------------------------------------------------------


def test_per_size_knobs_say_always_madvise_inherit_never() -> None:
    sizes = {4: "always", 9: "madvise", 3: "inherit", 2: "never"}
    seen = {}
    for thp in ("always", "madvise", "never"):
        process = af.Machine(knobs=sizes, thp=thp).spawn()
        process.mmap(8, at=0)
        process.mmap(512, at=512)
        process.mmap(512, at=1024, advice="hugepage")
        process.mmap(8, at=2048, advice="hugepage")
        process.mmap(512, at=2560, advice="nohugepage")
        seen[thp] = " ".join(process.write(page).code for page in (0, 512, 1024, 2048, 2560))
    assert seen == {
        "always": "alloc3 alloc4 alloc9 alloc3 alloc0",
        "madvise": "alloc0 alloc4 alloc9 alloc3 alloc0",
        "never": "alloc0 alloc4 alloc9 alloc0 alloc0",
    }


def test_a_scenario_says_what_the_knobs_say_and_what_its_mapping_was_given() -> None:
    program = (("write", 0, 0, 1), ("write", 0, 16, 1), ("thp_disable", 0, "yes"), ("fork", 0), ("write", 1, 36, 1))
    knobs = {4: "madvise", 3: "inherit", 2: "always"}
    cases = {("always", ""): "alloc4 alloc4", ("always", "none"): "alloc3 alloc3", ("madvise", "none"): "alloc2 alloc2",
             ("madvise", "nohugepage"): "alloc0 alloc0", ("never", "hugepage"): "alloc4 alloc4"}  # fmt: skip
    for (thp, advice), codes in cases.items():
        scenario = af.Scenario(40, program, knobs=knobs, thp=thp, advice=advice)
        assert scenario.orders == (2, 3, 4)
        assert scenario.knobs == ((2, "always"), (3, "inherit"), (4, "madvise"))
        assert scenario.run().codes() == [*codes.split(), "alloc0"]
    assert af.Scenario(16, (), knobs={4: "never"}).advised == af.Scenario(16, (), ()).advised == "nohugepage"
    inherit = af.Scenario(16, (("write", 0, 0, 1),), (4,), thp="never")
    assert inherit.run().codes() == ["alloc0"]
    assert inherit.but(thp="always", advice="none").run().codes() == ["alloc4"]


def test_a_kernel_before_6_8_has_no_such_knobs() -> None:
    process = af.Machine("linux-6.3", knobs={4: "always", 9: "inherit"}).spawn()
    process.mmap(512, at=512)
    process.mmap(16, at=0)
    assert [process.write(page).code for page in (512, 0)] == ["alloc9", "alloc0"]


def test_prctl_turns_large_folios_off_for_a_process_and_its_children() -> None:
    process = af.Machine(orders=(2,)).spawn()
    process.mmap(16, at=0)
    process.mmap(16, at=64, advice="hugepage")
    older = af.Machine("6.17", orders=(2,)).spawn()
    assert older.thp_disable("except_advised").errno == "EINVAL"
    assert older.mm.thp_disabled == ""
    assert older.thp_disable()
    assert process.thp_disable()
    assert [process.write(page).code for page in (0, 64)] == ["alloc0", "alloc0"]
    child = process.fork()
    assert child.write(4).code == "alloc0"
    child.thp_disable("except_advised")
    assert [child.write(page).code for page in (8, 68)] == ["alloc0", "alloc2"]
    assert process.write(8).code == "alloc0"
    child.thp_disable(False)
    assert child.write(12).code == "alloc2"
    expect_refusal(ValueError, lambda: child.thp_disable("advised"), "'advised'", "'except_advised'")


def test_rfc_v2_s_fixed_orders_ask_nobody() -> None:
    process = af.Machine("rfc-v2", orders=()).spawn()
    process.mmap(16, advice="nohugepage")
    process.thp_disable()
    assert process.write(0).code == "alloc4"


@pytest.mark.parametrize(("knob", "code"), [("always", "copy2"), ("madvise", "copy0")])
def test_a_copy_may_respect_the_knobs(knob: str, code: str) -> None:
    wide = af.LINUX_6_15.but(name="mine", copy_extent="source_order", copy_respects_knobs=True)
    machine = af.Machine(wide, knobs={2: knob, 4: "madvise"})
    parent = machine.spawn()
    parent.mmap(16)
    parent.madvise(0, 16, "hugepage")
    assert parent.write(0).code == "alloc4"
    parent.madvise(0, 16, "nohugepage")
    child = parent.fork()
    assert child.write(3).code == "copy0"
    plain = af.Machine(wide, knobs={2: knob, 4: "madvise"}).spawn()
    plain.mmap(32, advice="hugepage")
    plain.write(0)
    child = plain.fork()
    assert child.write(5).code == "copy4"
    # 64 KiB are allowed where they were advised only: of the rest of the mapping, 16 KiB at most.
    other = af.Machine(wide, knobs={2: knob, 4: "inherit"}, thp="always").spawn()
    other.mmap(16)
    other.write(0)
    other.machine.knobs[4] = "madvise"
    other.machine._orders.clear()
    assert other.fork().write(5).code == code


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.sweep(4)
@pytest.mark.parametrize(
    "changes",
    [
        {"large_reuse": last_page_too},
        {"large_reuse": walks_the_rmap},
        {"large_reuse": walks_the_rmap, "copy_extent": "source_order", "reuse_extent": "range"},
        {"copy_extent": sixteen_kib},
        {"allowed_orders": by_mapping},
        {"chosen_order": lambda fits, ask: fits[-1]},
        {"reuse_extent": lambda around, ask: around.run(around.same_folio)},
        {"copy_extent": "source_order", "copy_respects_knobs": True},
        {"large_reuse": last_page_too, "copy_extent": sixteen_kib, "allowed_orders": by_mapping},
    ],
    ids=lambda changes: " ".join(changes),
)
@pytest.mark.parametrize("seed", range(3))
def test_a_stream_does_what_single_faults_do(changes: dict[str, Any], seed: int) -> None:
    random = np.random.default_rng(seed)
    policy = af.LINUX_6_15.but(name="mine", **changes)
    machines = [af.Machine(policy, orders=(2, 4), thp="madvise" if seed % 2 else "always") for _ in range(2)]
    for machine in machines:
        process = machine.spawn()
        process.mmap(160)
        process.mmap(40, at=512, advice="hugepage")
        process.mmap(24, at=600, advice="nohugepage")
    for _ in range(4):
        number = int(random.integers(len(machines[0].live())))
        pages = np.concatenate((np.arange(160), np.arange(512, 552), np.arange(600, 624)))
        stream = random.choice(pages, 120)
        writes = random.random(120) < 0.7
        machines[0].live()[number].touch(stream, writes, 3)
        process = machines[1].live()[number]
        for page, write in zip(stream.tolist(), writes.tolist(), strict=True):
            if write:
                process.write(page, 3)
            else:
                process.read(page)
        machines[1].faults = []
        assert not difference(*map(state_of, machines))
        for machine in machines:
            if len(machine.live()) < 3:
                machine.live()[number].fork()
            else:
                machine.live()[0].exit()


# --- the search -----------------------------------------------------------------------------------------------------


def test_the_search_finds_no_fault_in_the_three() -> None:
    everything = af.LINUX_6_15.but(
        name="mine", large_reuse=last_page_too, copy_extent=sixteen_kib, allowed_orders=by_mapping
    )
    for policy in (REUSE, everything):
        assert not counterexample(policy, steps=4, operations=("write", "fork", "exit", "pin"))


def test_the_search_finds_what_a_careless_rule_breaks() -> None:
    def trusting(folio: Folio, ask: Ask) -> bool:
        return ask("it has references", folio.refcount > 0)

    found = counterexample(af.LINUX_6_15.but(name="trusting", large_reuse=trusting), steps=4)
    assert found
    assert [step[0] for step in found.scenario.steps] == ["write", "fork", "write"]

    def greedy(around: Around, ask: Ask) -> range:
        return around.block(2) if around.suitable(2, ask) and around.same_folio.sum() >= 4 else around.page

    assert counterexample(
        af.LINUX_6_15.but(name="greedy", copy_extent=greedy), steps=6, operations=("write", "fork", "exit", "pin")
    )


# --- pictures -------------------------------------------------------------------------------------------------------

LAST = af.Scenario(
    pages=4, steps=(("write", 0, 0, 7), ("fork", 0), ("exit", 1), ("write", 0, 2, 9)), orders=(2,), name="last"
)


def test_a_stepper_shows_the_trail_and_the_tree_of_a_reader_s_rule() -> None:
    timeline = LAST.run(REUSE)
    assert "all of it is this process's, so page 2 is made writable" in timeline.show(3).text()
    panes = decisions(timeline)
    assert "mappings == references" in panes[-1]
    assert "is every reference one of its mappings?" in panes[-1]
    shown = Stepper(timeline, panel=panes)
    assert "maybe shared?" in shown.svg()


def test_the_tree_is_found_by_answering_the_rule_s_questions() -> None:
    assert honest.tree(rules.mm_id) == Node(
        "folio_large_mapcount > 1",
        "has it more than one mapping?",
        (),
        Node(
            "FOLIO_MM_IDS_SHARED_BITNUM", "may another process map it?", (), False,
            Node("folio_large_mapcount == folio_ref_count", "is every reference a mapping?", (), True, False),
        ),
        False,
    )  # fmt: skip
    scanned = honest.tree(rules.scan)
    assert isinstance(scanned, Node)
    assert scanned.before == (honest.LOOKED,)


def both_ways(folio: Folio, ask: Ask) -> bool:
    """Goes on whatever the first answer is, and asks the same again on both sides."""
    if ask("order > 3", folio.order > 3):
        return ask("one mapping", folio.mappings == 1, yes="a large folio has one") and folio_free(folio, ask)
    return ask("one mapping", folio.mappings == 1) or folio_free(folio, ask)


def folio_free(folio: Folio, ask: Ask) -> bool:
    return ask("no sharer", not folio.shared, yes="nobody else has it", no="somebody may have it")


@pytest.mark.parametrize("order", [2, 4])
def test_a_rule_that_branches_is_drawn_and_walked(order: int) -> None:
    policy = af.LINUX_6_15.but(name="both ways", large_reuse=both_ways)
    tree = Tree.of(policy)
    assert [question.what for question in tree.main[3:]] == [
        "order > 3", "one mapping", "no sharer", "one mapping", "no sharer",
    ]  # fmt: skip
    parent = one_folio(policy, 1 << order, order)
    child = parent.fork()
    for page in range(1, 1 << order):
        child.write(page)
    fault = child.write(0)
    walk = tree.walk(fault)
    assert walk.questions[3] is tree.main[3]
    assert walk.questions[4] is tree.main[4 if order > 3 else 6]
    decision = Decision(fault, policy)
    ET.fromstring(decision.svg())
    assert "if order > 3 is no:" in decision.text()
    assert "below: one mapping" in decision.svg()


def test_a_small_folio_is_not_taken_for_a_large_one_that_is_asked_the_same() -> None:
    def counts(folio: Folio, ask: Ask) -> bool:
        if ask("folio_ref_count == 1", folio.refcount == 1):
            return True
        return ask("no sharer", not folio.shared)

    policy = af.LINUX_6_15.but(name="mine", large_reuse=counts)
    process = af.Machine(policy, orders=()).spawn()
    process.mmap(4)
    process.write(0)
    child = process.fork()
    shared = child.write(0)
    tree = Tree.of(policy)
    assert tree.walk(shared).questions[-1] is tree.small
    child.exit()
    assert tree.walk(process.write(0)).questions[-1] is tree.small


def test_the_tree_of_a_scan_of_one_page_leaves_out_the_look() -> None:
    policy = af.RFC_V2.but(name="scan one", reuse_extent="page")
    look, _ = honest.LOOKED
    assert look in [question.what for question in Tree.of(af.RFC_V2).main]
    parent = one_folio(policy, 4, 2)
    parent.fork().exit()
    fault = parent.write(0)
    assert look not in [check.what for check in fault.checks]
    # Whoever walks the tree passes over what was not looked up; a record that is no walk raises.
    drawn = Decision(fault, policy).svg()
    assert "folio_ref_count == pages of the range" in drawn


# --- refused --------------------------------------------------------------------------------------------------------


def branches_unasked(folio: Folio, ask: Ask) -> bool:
    if folio.refcount > 3:
        return False
    return ask("one reference", folio.refcount == 1)


def asks_and_looks_elsewhere(folio: Folio, ask: Ask) -> bool:
    ask("maybe shared?", folio.shared)
    return folio.mappings == folio.refcount


def looks_at_the_run(folio: Folio, ask: Ask) -> bool:
    return folio.run > 1 and ask("not shared", not folio.shared)


def looks_whose_it_is(folio: Folio, ask: Ask) -> bool:
    return folio.mine > 1 and ask("not shared", not folio.shared)


def looks_how_often_the_page_is_mapped(folio: Folio, ask: Ask) -> bool:
    return folio.mapcount == 1 and ask("not shared", not folio.shared)


def looks_for_a_device(folio: Folio, ask: Ask) -> bool:
    return not folio.pinned and ask("not shared", not folio.shared)


def no_end(folio: Folio, ask: Ask) -> bool:
    while not ask("again?", False):
        pass
    return True


@dataclasses.dataclass
class Unhashable:
    limit: int = 1

    def __call__(self, folio: Folio, ask: Ask) -> bool:
        return ask("few references", folio.refcount <= self.limit)


class EveryOther:
    """Has a memory."""

    asked = 0

    def __call__(self, given: Any, ask: Any = None) -> Any:
        self.asked += 1
        if isinstance(given, Folio):
            return ask("every other time", self.asked % 2 == 0)
        if isinstance(given, Around):
            return given.run(given.same_folio) if self.asked % 2 else given.page
        return {2, 3, 4, *range(5, 5 + self.asked % 2)} if isinstance(given, Where) else given[-(self.asked % 2)]


def goes_by_words(folio: Folio, ask: Ask) -> bool:
    return ask("nobody else is tracked", folio.slots.count("process") < 2)


def changes_what_it_is_told(around: Around, ask: Ask) -> range:
    good = around.same_folio
    good &= ~around.exclusive
    return around.run(good)


def breaks(folio: Folio, ask: Ask) -> bool:
    return ask("half", folio.mappings // (folio.refcount - folio.mappings) > 2)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (branches_unasked, ("large_reuse=branches_unasked", "order 2, 1 reference", "'one reference'")),
        (asks_and_looks_elsewhere, ("says", "references", "did not ask")),
        (looks_at_the_run, ("in a row", "did not ask")),
        (looks_whose_it_is, ("(1 of this process)", "did not ask")),
        (looks_how_often_the_page_is_mapped, ("the page mapped 2 times", "did not ask")),
        (looks_for_a_device, (", pinned", "did not ask")),
        (no_end, ("asks more than 12 questions", "come to an end")),
        (breaks, ("ZeroDivisionError", "order 2")),
        (lambda folio, ask: True, ("asks nothing", "ask(name, test)")),
        (lambda folio: True, ("takes (folio)", "called with (folio, ask)")),
        (lambda folio, ask, more: True, ("takes (folio, ask, more)", "called with (folio, ask)")),
        (lambda folio, ask: ask("x", folio.shared) and 1, ("returns 1", "True (reuse) or False (copy)")),
        (lambda folio, ask: ask("x", folio.shared) or None, ("returns None", "True (reuse) or False (copy)")),
        (lambda folio, ask: int("x"), ("ValueError", "invalid literal", "order 2")),
        (Unhashable(), ("Unhashable", "cannot be hashed", "give a function")),
        (EveryOther(), ("answers differently", "asked again", "order 2", "not by words (slots), time, chance")),
        (lambda folio, ask: ask(5, folio.shared), ("TypeError", "ask(5, …) is text", "order 2")),
        (lambda folio, ask: ask("x", folio.shared, None), ("TypeError", "ask('x', …) is text", "order 2")),
        (goes_by_words, ("answers differently", "asked again", "order 2", "not by words (slots)")),
        (7, ("large_reuse=7", "no function", "mm_id")),
    ],
)  # fmt: skip
def test_a_reuse_rule_that_cannot_be_trusted(rule: Any, words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, lambda: af.LINUX_6_15.but(name="mine", large_reuse=rule), "policy 'mine'", *words)


@pytest.mark.parametrize("field", ["copy_extent", "unshare_extent"])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda around, ask: around.block(5), ("leaves the", "allowed is what lies in pages")),
        (lambda around, ask: range(around.at, around.at + 2), ("pages 0..1 for page 0", "around.block(2)")),
        (lambda around, ask: around.run(around.same_folio), ("aligned block", "around.block(2)")),
        (lambda around, ask: range(0, 1), ("returns range(0, 1) for place 5", "contains it")),
        (lambda around, ask: 2, ("returns 2", "a range of places")),
        (lambda around: around.page, ("takes (around)", "called with (around, ask)")),
        (lambda around, ask: around.no_such_fact, ("AttributeError", "no_such_fact", "page 0 of a folio of order 2")),
    ],
)  # fmt: skip
def test_a_copy_that_reaches_too_far(field: str, rule: Any, words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, lambda: af.LINUX_6_15.but(name="mine", **{field: rule}), "policy 'mine'", field, *words)


def test_a_range_too_far_that_no_trial_shows_is_refused_by_the_fault_and_changes_nothing() -> None:
    def far(around: Around, ask: Ask) -> range:
        return around.block(4) if around.order == 3 else around.page

    parent = one_folio(af.LINUX_6_15.but(name="mine", copy_extent=far), 16, 3)
    machine = parent.machine
    parent.fork()
    before = machine.copy()
    expect_refusal(
        ValueError, lambda: parent.write(2), "policy 'mine': copy_extent=far", "pages 0..15 for page 2",
        "leaves the folio", "pages 0..7",
    )  # fmt: skip
    assert not difference(state_of(machine), state_of(before))


@pytest.mark.parametrize(
    ("field", "rule", "words"),
    [
        ("allowed_orders", lambda where: {1}, ("returns {1}", "2 to 9")),
        ("allowed_orders", lambda where: 4, ("returns 4", "such as {4}")),
        ("allowed_orders", lambda where: None, ("returns None", "such as {4}")),
        ("allowed_orders", lambda where, ask: (), ("takes (where, ask)", "called with (where)")),
        ("allowed_orders", lambda where: where.knobs[2] and (), ("KeyError", "knobs: none; global")),
        ("allowed_orders", "sizes", ("allowed_orders='sizes'", "no function", "knobs")),
        ("allowed_orders", lambda where: {4.0}, ("returns {4.0}", "such as {4}")),
        ("allowed_orders", EveryOther(), ("and {2, 3, 4} when it is asked again", "chance")),
        ("chosen_order", EveryOther(), ("returns 0 for fits=(9, 0)", "and 9 when it is asked again", "chance")),
        ("reuse_extent", EveryOther(), ("returns range(0, 4)", "and range(0, 1) when it is asked again", "chance")),
        ("reuse_extent", changes_what_it_is_told, ("ValueError", "read-only")),
        ("chosen_order", lambda fits, ask: np.int64(fits[0]), ("np.int64(9)", "fits=(9, 0)", "a plain int")),
        ("chosen_order", lambda fits, ask: 3, ("returns 3", "fits=(9, 0)", "one of them")),
        ("chosen_order", lambda fits, ask: fits[2], ("IndexError", "fits=(9, 0)")),
        ("chosen_order", lambda fits, ask: fits, ("returns (9, 0)", "one of them")),
        ("chosen_order", "smallest", ("chosen_order='smallest'", "largest")),
        ("reuse_extent", lambda around, ask: around.block(9), ("leaves the", "allowed is what lies in")),
        ("reuse_extent", lambda around, ask: around.reach, ("maps no page of that folio in step", "same_folio")),
    ],
)
def test_other_rules_that_cannot_be(field: str, rule: Any, words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, lambda: af.LINUX_6_15.but(name="mine", **{field: rule}), "policy 'mine'", field, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"copy_requires_ro": "no"}, ("copy_requires_ro='no'", "True nor False")),
        ({"keeps_mm_ids": 1}, ("keeps_mm_ids=1", "True nor False")),
        ({"copy_max_order": 99}, ("copy_max_order=99", "0, or 2 to 9")),
        ({"copy_max_order": True}, ("copy_max_order=True", "0, or 2 to 9")),
        ({"copy_max_order": "4"}, ("copy_max_order='4'", "0, or 2 to 9")),
        ({"cont_pte_order": 4.0}, ("cont_pte_order=4.0", "is none of 0, 4, 7")),
        ({"fixed_orders": [2, 3]}, ("fixed_orders=[2, 3]", "such as (2, 4)")),
        ({"knob_orders": 4}, ("knob_orders=4", "such as (2, 4)")),
        ({"fixed_orders": (2.0,)}, ("fixed_orders", "order 2.0", "2 to 9")),
        ({"fixed_orders": ([2],)}, ("fixed_orders", "order [2]", "2 to 9")),
        ({"name": 6.15}, ("name=6.15", "text")),
        ({"about": None}, ("about=None", "text")),
        ({"large_reuse": ["mm_id"]}, ("large_reuse=['mm_id']", "no function", "mm_id")),
        ({"zero_neighbours": ["any"]}, ("zero_neighbours=['any']", "none_only")),
        ({"copy_extend": "page"}, ("no field 'copy_extend'", "copy_extent")),
    ],
)
def test_every_field_of_a_policy_has_a_type(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, lambda: af.LINUX_6_15.but(**changes), *words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: af.Machine(knobs={1: "always"}), ("knobs", "order 1", "2 to 9")),
        (lambda: af.Machine(orders=4), ("orders=4", "such as (2, 4)")),
        (lambda: af.Machine(knobs=[4]), ("knobs=[4]", "{4: 'always'}")),
        (lambda: af.Machine(6.12), ("6.12", "neither a Policy nor")),
        (lambda: counterexample(6.12), ("6.12", "neither a Policy nor")),
        (lambda: af.Machine(knobs={4: "on"}), ("order 4 is 'on'", "always, madvise, inherit, never")),
        (lambda: af.Machine(knobs={4: "always"}, thp="off"), ("thp='off'", "'never'")),
    ],
)
def test_knobs_that_cannot_be(make: Callable[[], object], words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, make, *words)


# --- policies are values --------------------------------------------------------------------------------------------


def test_policies_are_compared_hashed_copied_and_pickled() -> None:
    for policy in (*af.POLICIES.values(), REUSE):
        assert policy.rules
        assert pickle.loads(pickle.dumps(policy)) == policy == copy.deepcopy(policy)
        assert hash(policy) == hash(policy.but())
    assert af.LINUX_6_15.but(name="mine") != REUSE
    assert REUSE.but(name="other").large_reuse is last_page_too


def test_the_function_of_a_name_is_the_name() -> None:
    assert af.LINUX_6_15.but(large_reuse=rules.mm_id) == af.LINUX_6_15
    assert af.LINUX_6_15.but(copy_extent=rules.one_page) == af.LINUX_6_15


def test_parameters_of_the_rfc_s_functions_are_fields() -> None:
    assert af.RFC_V2.rules.copy_extent == rules.SourceOrder(4, maybe_shared=False, read_only=False)
    changed = af.RFC_V2.but(copy_max_order=9, copy_requires_maybe_shared=True, copy_requires_ro=True)
    assert changed.rules.copy_extent == rules.SourceOrder(9, maybe_shared=True, read_only=True)
    assert changed.rules.reuse_extent == rules.Run(read_only=True)


def test_a_kernel_before_6_15_keeps_no_mm_ids() -> None:
    kept = {name for name, policy in af.POLICIES.items() if policy.keeps_mm_ids}
    assert kept == {"linux-6.15"}


def test_after_copies_a_folio_has_fewer_mappings_and_references() -> None:
    folio = Folio(3, 8, 8, False, lambda: 1, str, lambda: 8, lambda: 1, False)
    assert rules.copies_before_reuse(rules.refcount_one, folio, 8) == 7
    assert rules.copies_before_reuse(rules.mm_id, folio, 8) == 0
    assert rules.copies_before_reuse(rules.never, folio, 8) == 8


def test_orders_may_come_as_numpy_has_them() -> None:
    machine = af.Machine(af.LINUX_6_15.but(name="mine", allowed_orders=lambda where: np.array([2, 4])), orders=())
    process = machine.spawn()
    process.mmap(16)
    assert process.write(5).code == "alloc4"
    assert type(machine.counters.zeroed) is int
