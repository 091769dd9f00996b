"""The laboratory: ideas of kernel developers as rules, what each changes, breaks and buys, found by running it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import anonfolio as af
from anonfolio.__main__ import INTERRUPTED, WRONG_INPUT, main
from anonfolio.hardware.cost import Work
from anonfolio.hardware.microsteps import RANGE, THREADS
from anonfolio.kernel.rules import Around, Ask, Folio, Where
from anonfolio.program.pools import WorkerLost
from anonfolio.program.search import Counterexample
from anonfolio.program.starts import STARTS as BEGINNINGS
from anonfolio.report import breaks, changes, prices
from anonfolio.report.breaks import Bound, Breaks
from anonfolio.report.knobs import ignored
from anonfolio.report.laboratory import nearest_release
from anonfolio.report.spread import spread
from anonfolio.witness.suites import suites

# --- the ideas ------------------------------------------------------------------------------------------------------


def nobody_else_maps_it(folio: Folio, ask: Ask) -> bool:
    """The vmsplice leak: references are not asked for."""
    return ask("nobody else maps it", folio.mine == folio.mappings, yes="nobody else maps a page of it")


def walks_the_rmap(folio: Folio, ask: Ask) -> bool:
    """All mappings are this process's by a walk of the reverse map, and there is no other reference."""
    if not ask("all mappings are mine", folio.mine == folio.mappings, no="another process maps it"):
        return False
    return ask("mappings == references", folio.mappings == folio.refcount, yes="all of it is this process's")


def sixteen_kib(around: Around, ask: Ask) -> range:
    """Copy 16 KiB at once where all of it is maybe shared, and where the mapping may have 16 KiB."""
    block = around.block(2)
    if 2 not in around.orders or not around.suitable(2, ask):
        return around.page
    whole = bool(around.same_folio[block.start : block.stop].all())
    if not ask("all four map the folio", whole):
        return around.page
    none = not around.exclusive[block.start : block.stop].any()
    return block if ask("none of the four is exclusive", none, around.pages(block)) else around.page


def by_mapping(where: Where) -> Iterable[int]:
    """64 KiB in mappings of 256 KiB and more, 16 KiB in smaller ones, of what the knobs allow."""
    return where.enabled() & ({4} if where.pages >= 64 else {2})


VMSPLICE = af.LINUX_6_15.but(name="vmsplice", large_reuse=nobody_else_maps_it)
RMAP = af.LINUX_6_15.but(name="rmap", large_reuse=walks_the_rmap)
SIXTEEN = af.LINUX_6_15.but(name="16K copies", copy_extent=sixteen_kib, copy_respects_knobs=True)
BY_VMA = af.LINUX_6_15.but(name="by mapping", allowed_orders=by_mapping)
IDEAS = (VMSPLICE, RMAP, SIXTEEN, BY_VMA, af.RFC_V2)


def selftests_of(policy: af.Policy, monkeypatch: pytest.MonkeyPatch, part: str) -> breaks.Selftests:
    """Of those cases alone whose name has that part."""
    suite = suites()["cow.c"]
    some = breaks.Suite(suite.name, tuple(case for case in suite.cases if part in case.name), {})
    monkeypatch.setattr(breaks, "suites", lambda: {"cow.c": some})
    return breaks.selftests(policy, af.LINUX_6_15)


# --- what each breaks -----------------------------------------------------------------------------------------------


def test_the_leak_through_a_pipe_is_found_by_the_search_and_by_selftests(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = af.Scenario(4, (("write", 0, 0, 1), ("fork", 0), ("munmap", 0, 0, 2)), (2,))
    found = breaks.counterexample(VMSPLICE, start=shared, steps=3, operations=breaks.HOLDERS)
    assert isinstance(found, Counterexample)
    assert found.said == "process 1 wrote 0xdd, and process 0 reads 0xdd through reference 0"
    assert not breaks.counterexample(RMAP, start=shared, steps=3, operations=breaks.HOLDERS)
    judged = selftests_of(VMSPLICE, monkeypatch, "vmsplice() + unmap in child ... with PTE-mapped THP (16 kB)")
    assert (judged.run, judged.passed, judged.base_passed) == (1, 0, 1)
    assert judged.newly_failing[0].mine.endswith("returned 255, not 1")
    refuted = Breaks((), breaks.Random(0, 0, (), 0, ()), judged, ()).refutations()
    assert refuted == ["1 case of the kernel's selftests that the base passes fails"]


def test_what_the_base_fails_too_is_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = selftests_of(VMSPLICE, monkeypatch, "vmsplice() + unmap in child ... with PTE-mapped THP (16 kB)")
    assert len(judged.newly_failing) == 1
    assert not breaks.selftests(VMSPLICE, VMSPLICE.but(name="base")).newly_failing


def test_a_pin_for_reading_that_keeps_the_zero_page_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases came with the mend (6.2), and kernels before skip them: who goes back behind it fails them."""
    keeps = af.LINUX_6_15.but(name="keeps the zero page", unshares_zero_page=False)
    judged = selftests_of(keeps, monkeypatch, "R/O longterm GUP pin ... with shared zeropage")
    assert (judged.run, judged.passed, judged.base_passed, judged.skipped) == (1, 0, 1, ())
    assert len(judged.newly_failing) == 1
    assert not breaks.selftests(keeps, af.LINUX_6_3).newly_failing


@pytest.mark.parametrize("policy", [RMAP, SIXTEEN, BY_VMA], ids=lambda policy: policy.name)
def test_ideas_that_keep_the_promises_survive(policy: af.Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [breaks.counterexample(policy, steps=3, operations=some) for some in (breaks.OPERATIONS, breaks.HOLDERS)]
    assert not any(found)
    monkeypatch.setattr(breaks, "QUICK_PROGRAMS", 2)
    monkeypatch.setattr(breaks, "KINDS", dict.fromkeys(("mixed", "dma", "merge")))
    assert not breaks.random_programs(policy, af.LINUX_6_15, 0, quick=True).broken
    judged = selftests_of(policy, monkeypatch, "after fork() ... with PTE-mapped THP (64 kB)")
    # A kernel that gives no 64 KiB there skips the case, as the kernel's own test does.
    assert (judged.run > 0) == (policy is not BY_VMA)
    assert judged.passed == judged.run


def test_a_case_that_wants_another_size_refutes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suites()["prctl_thp_disable.c"]
    monkeypatch.setattr(breaks, "suites", lambda: {suite.name: suite})
    found = breaks.selftests(BY_VMA, af.LINUX_6_15)
    assert (len(found.newly_failing), len(found.other_sizes) > 0) == (0, True)
    assert "PMDs of process 0 map 0 folios, not 1" in found.other_sizes[0].mine
    assert not Breaks((), breaks.Random(0, 0, (), 0, ()), found, ()).refutations()


def test_the_proposal_as_posted_loses_writes_in_the_search_and_in_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaks, "RACES", (RANGE,))
    (race,) = breaks.races(af.RFC_V2, af.LINUX_6_15)
    assert list(race.new) == ["lost write"]
    (race,) = breaks.races(af.RFC_V2_FIXED, af.LINUX_6_15)
    assert not race.new
    # What a race does under the base too is nothing that the policy brings.
    (race,) = breaks.races(af.RFC_V2, af.RFC_V2.but(name="base"))
    assert "lost write" in race.mine.found
    assert not race.new
    assert not Breaks(races=(race,)).refutations()
    wiped = af.Scenario(4, (("write", 0, 0, 1), ("madvise", 0, 0, 2, "wipeonfork"), ("fork", 0)), (2,))
    found = breaks.counterexample(af.RFC_V2, start=wiped, steps=3, operations=breaks.QUICK[0].operations)
    assert isinstance(found, Counterexample)
    assert found.violation.invariant == "pinned_page_stays"


def test_a_copy_that_takes_what_was_pinned_for_reading_is_found() -> None:
    def all_that_is_read_only(around: Around, ask: Ask) -> range:
        block = around.block(2)
        fits = around.suitable(2, ask) and around.all_of(around.same_folio & ~around.writable, block)
        return block if ask("all four are read-only", fits) else around.page

    shared = af.Scenario(4, (("write", 0, 0, 1), ("fork", 0), ("write", 0, 0, 1)), (2,))
    policy = af.LINUX_6_15.but(name="read-only", copy_extent=all_that_is_read_only)
    found = breaks.counterexample(policy, start=shared, steps=2, operations=breaks.UNSHARERS)
    assert all(breaks.UNSHARERS in {bound.operations for bound in each} for each in (breaks.QUICK, breaks.WHOLE))
    assert isinstance(found, Counterexample)
    assert found.violation.invariant == "pinned_page_stays"
    assert found.scenario.steps[3][0] == "pin_ro"
    assert not breaks.counterexample(SIXTEEN, start=shared, steps=2, operations=breaks.UNSHARERS)


def test_an_unshare_that_takes_the_pinned_page_beside_it_is_found() -> None:
    """No process of a search holds two pins: it takes a short one beside the one that stays."""

    def whole(marked: bool) -> Callable[[Around, Ask], range]:
        def block_of(around: Around, ask: Ask) -> range:
            block = around.block(2)
            good = around.same_folio & ~around.exclusive if marked else around.same_folio
            fits = around.suitable(2, ask) and around.all_of(good, block)
            return block if ask("all four are good", fits) else around.page

        return block_of

    alone = af.Scenario(4, (("write", 0, 0, 1), ("fork", 0), ("exit", 0)), (2,))
    assert all(breaks.BESIDE_A_PIN in {bound.operations for bound in each} for each in (breaks.QUICK, breaks.WHOLE))

    def found(marked: bool) -> Any:
        policy = af.LINUX_6_15.but(name="unshares", unshare_extent=whole(marked))
        return breaks.counterexample(policy, start=alone, steps=2, operations=breaks.BESIDE_A_PIN)

    assert found(marked=False).violation.invariant == "pinned_page_stays"
    assert found(marked=False).said == "the device wrote 0xdd, the process reads 0x01"
    assert not found(marked=True)


def test_no_search_goes_further_than_it_was_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        breaks, "QUICK", (Bound(None, breaks.OPERATIONS[:3]), Bound(5, breaks.HOLDERS), Bound(1, breaks.HOLDERS))
    )
    found = [each.answer.steps for each in breaks.searches(af.LINUX_6_15, quick=True, steps=2)]
    assert found == [2, 2, 1]
    assert Bound(5, ("write",)).up_to(None) == Bound(5, ("write",))


# Rules as strangers write them, and whether one may be believed.
ONE_PAGE: dict[str, tuple[Callable[[Folio], bool], bool]] = {
    "mapped once": (lambda folio: folio.mapcount == 1, False),
    "mapped once and no device": (lambda folio: folio.mapcount == 1 and not folio.pinned, False),
    "no other process": (lambda folio: not folio.shared, False),
    "one more is the LRU's": (lambda folio: not folio.shared and folio.refcount <= folio.mappings + 1, False),
    "as many references as pages": (lambda folio: folio.mapcount == 1 and folio.refcount == 1 << folio.order, False),
    "every reference is a mapping": (lambda folio: folio.refcount == folio.mappings, False),
    "most are mine": (lambda folio: 2 * folio.mine > folio.mappings == folio.refcount, False),
    "whatever": (lambda folio: True, False),
    "mapped once, no other reference": (lambda folio: folio.mapcount == 1 and folio.refcount == folio.mappings, True),
    "not shared, no other reference": (lambda folio: not folio.shared and folio.refcount == folio.mappings, True),
    "all references are mine": (lambda folio: folio.mine >= folio.refcount, True),
    "the only reference": (lambda folio: folio.refcount == 1, True),
    "as many mappings as in a row": (lambda folio: folio.run == folio.mappings, False),
    "mapped whole": (lambda folio: folio.mappings == folio.refcount == 1 << folio.order, False),
    "no more references than pages": (lambda folio: not folio.shared and folio.refcount <= 1 << folio.order, False),
    "a device has it": (lambda folio: folio.pinned and folio.mapcount == 1, False),
    "as many references as in a row": (lambda folio: folio.run == folio.refcount, True),
}  # fmt: skip
SHARED = (("write", 0, 0, 1), ("fork", 0))
STARTS: tuple[tuple[Any, ...], ...] = (
    (*SHARED, ("ref", 0, 0, 0)),
    (*SHARED, ("munmap", 0, 0, 2)),
    (("write", 0, 0, 1), ("munmap", 0, 0, 2), ("fork", 0), ("ref", 0, 2, 0)),
    (("write", 0, 0, 1), ("munmap", 0, 0, 2), ("fork", 0), ("ref", 1, 3, 0), ("munmap", 1, 2, 2)),
    (("write", 0, 0, 1), ("madvise", 0, 0, 2, "wipeonfork"), ("fork", 0), ("pin", 0, 0, 1, 0), ("ref", 1, 2, 0)),
)
"""What leads there is the same for all of them: searches of three steps stand for one of six and more."""


@pytest.mark.sweep(8)
@pytest.mark.parametrize("name", ONE_PAGE)
def test_rules_of_strangers_are_refuted_where_they_are_wrong(name: str) -> None:
    says, good = ONE_PAGE[name]
    policy = af.LINUX_6_15.but(name=name, large_reuse=lambda folio, ask: ask("is it mine?", says(folio)))
    starts = (af.Scenario(4, steps, (2,)) for steps in STARTS)
    found = [breaks.counterexample(policy, start=start, steps=3, operations=breaks.HOLDERS) for start in starts]
    assert any(found) != good


def block_of(order: int, shared: bool) -> Callable[[Around, Ask], range]:
    """A block of that order where all of it maps the folio, and where none of it is exclusive."""

    def rule(around: Around, ask: Ask) -> range:
        block = around.block(order)
        good = around.same_folio & ~around.exclusive if shared else around.same_folio
        fits = order <= around.order and around.suitable(order, ask) and around.all_of(good, block)
        return block if ask("all of it", fits) else around.page

    return rule


def row(around: Around, ask: Ask) -> range:
    return around.run(around.same_folio)


def exclusive_row(around: Around, ask: Ask) -> range:
    return around.run(around.exclusive) if around.exclusive[around.at] else around.page


def row_mapped_once(around: Around, ask: Ask) -> range:
    """Who maps a page is not all who hold it: right wherever all of a row is exclusive, or none."""
    return around.run(around.mapcount == 1) if around.mapcount[around.at] == 1 else around.page


REACHES: dict[str, tuple[dict[str, Callable[[Around, Ask], range]], bool]] = {
    "copies 64 KiB as RFC v2 did": ({"copy_extent": block_of(4, shared=False)}, False),
    "copies 64 KiB that is shared": ({"copy_extent": block_of(4, shared=True)}, True),
    "unshares 64 KiB": ({"unshare_extent": block_of(4, shared=False)}, False),
    "unshares 16 KiB, reuses a row": ({"unshare_extent": block_of(2, shared=True), "reuse_extent": row}, False),
    "reuses a row": ({"reuse_extent": row}, False),
    "reuses a row that is exclusive": ({"reuse_extent": exclusive_row}, True),
    "reuses a row that is mapped once": ({"reuse_extent": row_mapped_once}, False),
}
"""What reaches further, for sizes that four pages do not have, and two of them at once. A page that is exclusive and
read-only, beside others that are shared, is rare: a short pin marked it, and half of its folio was kept from a fork.
"""


@pytest.mark.long
@pytest.mark.parametrize("name", REACHES)
def test_reaches_of_strangers_are_refuted_where_they_are_wrong(name: str) -> None:
    rules, good = REACHES[name]
    policy = af.LINUX_6_15.but(name=name, **rules)
    asked = [bound for bound in breaks.bounds(policy, quick=True) if bound.every > 1 or bound.start]
    found = (begun_by(policy, each) for each in sorted(asked, key=lambda bound: (not bound.start, -bound.pages)))
    assert any(found) != good


def begun_by(policy: af.Policy, bound: Bound) -> Any:
    """What the search of that bound finds."""
    return breaks.counterexample(
        policy, pages=bound.pages, orders=bound.orders, steps=bound.steps, every=bound.every,
        operations=bound.operations, start=BEGINNINGS[bound.start] if bound.start else None,
    )  # fmt: skip


# Wrong for what no search from an empty machine comes to, in the order of `breaks.BEGUN`.


def one_was_copied_away(folio: Folio, ask: Ask) -> bool:
    """One reference more is held to be that of the page that was copied away."""
    left = folio.mappings + 1 == folio.refcount == 1 << folio.order
    mine = ask("all mappings are mine", folio.mine == folio.mappings)
    return mine and ask("all references are", left or folio.refcount == folio.mappings)


def whole_of_a_child(around: Around, ask: Ask) -> range:
    """Copy all that is read-only where somebody else maps some: pages held for reading are read-only, too."""
    block = around.block(2)
    fits = around.suitable(2, ask) and around.all_of(around.same_folio & ~around.writable, block)
    others = fits and bool((around.mapcount[block.start : block.stop] > 1).any())
    return block if ask("another process maps some", others) else around.page


def last_page_of_the_folio(folio: Folio, ask: Ask) -> bool:
    return ask("the last page, and whoever looks at it", folio.mappings == 1 and folio.refcount <= 2)


def the_mark_is_stale(folio: Folio, ask: Ask) -> bool:
    """Marked as shared while all mappings are its own: a third process was not tracked. It forgets references then."""
    mine = ask("all mappings are mine", folio.mine == folio.mappings)
    return mine and ask("the mark is stale", folio.shared or folio.refcount == folio.mappings)


NEEDS: dict[str, dict[str, Callable[..., Any]]] = {
    "child-maps-half": {"reuse_extent": row_mapped_once},
    "copied-and-referenced": {"large_reuse": one_was_copied_away},
    "pinned-for-reading": {"copy_extent": whole_of_a_child},
    "half-unmapped-one-copied": {"large_reuse": last_page_of_the_folio},
    "one-of-three-gone": {"large_reuse": the_mark_is_stale},
}
"""Of each start, a wrong rule that is found from there alone."""


def test_every_start_is_searched_from() -> None:
    assert [*NEEDS] == [bound.start for bound in breaks.BEGUN] == [*BEGINNINGS]
    assert {*breaks.BEGUN} <= {*breaks.bounds(af.LINUX_6_15, quick=True)}


@pytest.mark.long
@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", NEEDS)
def test_each_start_is_one_that_a_wrong_rule_needs(name: str) -> None:
    policy = af.LINUX_6_15.but(name=name, **NEEDS[name])
    found = {bound.start: begun_by(policy, bound) for bound in breaks.BEGUN}
    assert [start for start, answer in found.items() if answer] == [name]
    assert found[name].after == len(BEGINNINGS[name].steps)
    assert f"{found[name].steps} steps after the {found[name].after} of the program break " in str(found[name])
    # It is the program that breaks it, not how the search got there.
    assert af.check(found[name].scenario.end(policy))
    assert not af.check(found[name].scenario.end(af.LINUX_6_15))


@pytest.mark.long
@pytest.mark.parametrize("name", NEEDS)
def test_no_quick_search_from_an_empty_machine_comes_there(name: str) -> None:
    policy = af.LINUX_6_15.but(name=name, **NEEDS[name])
    asked = [bound for bound in breaks.bounds(policy, quick=True) if not bound.start]
    assert not any(begun_by(policy, bound) for bound in asked)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", ["6.1", "6.12", "6.18", "7.3", "rfc-v2-fixed"])
def test_kernels_hold_from_every_start(name: str) -> None:
    assert not any(begun_by(af.Policy.at(name) if name[0].isdigit() else af.POLICIES[name], bound)
                   for bound in breaks.BEGUN)  # fmt: skip


def test_one_step_breaks_and_more_break() -> None:
    found = begun_by(af.Policy.at("5.10"), breaks.BEGUN[2])
    assert found.breaking == "1 step after the 4 of the program breaks"


def test_a_start_as_long_as_programs_may_be_is_left_out() -> None:
    def longest(steps: int) -> Iterator[tuple[str, int | None]]:
        bounds = breaks.bounds(af.LINUX_6_15, quick=True, steps=steps)
        return ((each.start, each.steps) for each in bounds if each.start)

    assert not [*longest(4)]
    assert {steps for _, steps in longest(5)} == {1}
    assert dict(longest(8)) == {**dict(longest(100)), "child-maps-half": 2}


def test_a_begun_search_says_from_where_in_report_and_command() -> None:
    bound = breaks.BEGUN[0]
    assert bound.options() == (
        "--steps 4 --from child-maps-half --processes 2 --every 2 --operations write munmap ref keeponfork"
    )
    policy = af.LINUX_6_15.but(name="once", reuse_extent=row_mapped_once)
    (said,) = Breaks((breaks.Found(bound, begun_by(policy, bound)),)).refutations()
    assert said.startswith("a program of 10 steps breaks held_page_is_private (process 0 wrote 0xdd, and process 2")


def test_sizes_that_a_policy_copies_are_searched() -> None:
    copies = af.LINUX_6_15.but(name="64K", copy_extent=block_of(4, shared=True))
    assert breaks.sizes(copies) == [4]
    asked = [bound for bound in breaks.bounds(copies, quick=True) if bound.every > 1 and not bound.start]
    assert [bound.pages for bound in asked] == [4, 16]
    assert (breaks.sizes(af.LINUX_6_15), breaks.sizes(SIXTEEN), breaks.sizes(af.RFC_V2)) == ([], [], [3, 4])
    (bound,) = (bound for bound in breaks.bounds(copies, quick=False, steps=3) if bound.pages == 16 and bound.every > 1)
    assert bound.options() == (
        "--steps 3 --pages 16 --orders 4 --processes 2 --every 8"
        " --operations write fork exit wipeonfork munmap pin gup ref"
    )


def test_a_random_program_that_breaks_something_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaks, "KINDS", {"mixed": {}})
    monkeypatch.setattr(breaks, "QUICK_PROGRAMS", 300)
    monkeypatch.setattr(breaks, "random_scenario", lambda seed, kind: LEAKS if seed == 7 else EMPTY)
    found = breaks.random_programs(VMSPLICE, af.LINUX_6_15, 5, quick=True)
    (broken,) = found.broken
    assert (broken.kind, broken.seed, found.programs) == ("mixed", 7, 300)
    assert broken.what.startswith("held_page_is_private")
    assert len(broken.smallest.steps) == 5 < len(LEAKS.steps)


EMPTY = af.Scenario(1, ())
LEAKS = af.Scenario(
    16,
    (
        ("write", 0, 0, 1), ("write", 0, 1, 1), ("fork", 0), ("read", 1, 2), ("ref", 1, 0, 0), ("read", 0, 3),
        ("munmap", 1, 0, 16), ("write", 0, 0, 99), ("read", 0, 0),
    ),
    (4,),
)  # fmt: skip


def test_a_byte_that_differs_from_the_base_s_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = af.Scenario(
        4,
        (("write", 0, 0, 1), ("madvise", 0, 0, 2, "wipeonfork"), ("fork", 0), ("madvise", 0, 0, 2, "keeponfork"),
         ("pin", 0, 0, 1, 0), ("write", 0, 2, 1), ("dma_write", 0, 0, 0, 221), ("read", 0, 0)),
        (2,),
    )  # fmt: skip
    monkeypatch.setattr(breaks, "check", lambda machine: [])
    assert breaks._broken(af.RFC_V2, af.LINUX_6_15, lost) == (7, "read 0 0 returns 1, under the base 221")
    assert breaks._broken(af.RFC_V2_FIXED, af.LINUX_6_15, lost) is None


# --- what each changes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "name", "at", "kind"),
    [
        (RMAP, "third-process-alone", 20, ("cow copy of 4 KiB", "exclusive reuse of one page")),
        (SIXTEEN, "child-exits-parent-writes-all", None, None),
        (SIXTEEN, "two-children", 19, ("cow copy of 4 KiB", "cow copy of 16 KiB")),
        (BY_VMA, "first-write", 0, ("first touch of 64 KiB", "first touch of 16 KiB")),
        (af.LINUX_6_9, "read-twice-then-write", None, None),
        (af.LINUX_6_9, "child-exits-parent-writes-all", 18, ("exclusive reuse of one page", "cow copy of 4 KiB")),
    ],
)
def test_the_first_step_that_differs_and_how(policy: af.Policy, name: str, at: int | None, kind: Any) -> None:
    found = changes.differs(policy, af.LINUX_6_15, af.Scenario.load(name))
    assert found == (None if at is None else (at, changes.Kind(*kind)))


def test_a_course_differs_where_nothing_but_what_is_left_does() -> None:
    """mprotect of an older kernel makes no clean entry writable: no fault, and another state."""
    read, both = 1, 3
    program = af.Scenario(
        4, (("write", 0, 0, 1), ("madvise", 0, 0, 4, "free"), ("mprotect", 0, 0, 4, read), ("mprotect", 0, 0, 4, both))
    )
    older = af.LINUX_6_15.but(name="older", mprotect_needs_dirty=True)
    assert changes.differs(older, af.LINUX_6_15, program) == (3, changes.Kind("one state", "another state"))


def test_every_stored_program_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "QUICK_RECORDINGS", ("named-6.18.json.gz", "named-7.3.json.gz", "min-6.18.44.json.gz"))
    found = changes.changes(RMAP, af.LINUX_6_15, quick=True)
    # The named scenarios of two kernels are the scenarios themselves, but for those that changed since.
    assert found.scenarios == len(af.scenario_names())
    assert found.recorded < 10
    third = [course for course in found.courses if course.program.source == "third-process-alone"]
    assert [course.at for course in third] == [20]
    (shown,) = [course for kind, (_, course) in found.kinds().items() if kind == third[0].kind]
    assert shown.at == min(course.at for course in found.courses if course.kind == third[0].kind)
    assert not changes.changes(af.LINUX_6_15, af.LINUX_6_15, quick=True).courses


# --- what each buys -------------------------------------------------------------------------------------------------


def test_copies_of_16_kib_show_their_price_under_forks() -> None:
    plain, mine = prices.under_forks("snapshot", af.LINUX_6_15), prices.under_forks("snapshot", SIXTEEN)
    assert mine.faults < plain.faults
    assert mine.copied > plain.copied
    assert (plain.zeroed, plain.never_written_pages) == (4096, 0)
    assert prices.under_forks("helper", af.LINUX_6_9).copied == 64 + 4096


def test_a_walk_of_the_reverse_map_saves_copies_of_the_third_process() -> None:
    plain, mine = prices.under_forks("workers", af.LINUX_6_15), prices.under_forks("workers", RMAP)
    assert plain.copied - mine.copied > 3000
    assert mine.faults == plain.faults
    # The others are laid beside it, none twice.
    assert [each.name for each in prices.beside(RMAP, af.LINUX_6_15)] == [
        "rmap",
        "linux-6.15",
        "linux-6.9",
        "rfc-v2-fixed",
    ]


def test_forks_have_their_price(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = prices.under_forks("helper", af.LINUX_6_15)
    monkeypatch.setattr(prices, "forking", lambda _: Work(Counter({"forked page": 10**6})))
    assert prices.under_forks("helper", af.LINUX_6_15).time_ms > plain.time_ms + 1


def test_a_heap_in_whole_folios_is_reached_in_whole() -> None:
    whole = prices.under_forks("helper", af.RFC_V2_FIXED)
    assert (whole.walks, whole.mapped_pages, whole.reach_pages) == (4096 // 16, 4096, 1280 * 16)
    assert prices.under_forks("helper", af.LINUX_6_9).walks == 4096


# --- the base, and the whole ----------------------------------------------------------------------------------------


def test_the_base_is_the_released_kernel_that_is_nearest() -> None:
    assert nearest_release(RMAP) == af.LINUX_6_15
    assert nearest_release(af.Policy.at("7.3").but(name="mine", large_reuse="never")).name == af.Policy.at("7.3").name
    assert nearest_release(af.LINUX_6_9.but(name="mine", copy_extent="source_order")) == af.LINUX_6_9
    assert nearest_release(af.RFC_V2).name not in af.POLICIES or nearest_release(af.RFC_V2) == af.LINUX_6_3
    # Not itself, and of those that are as near the newest.
    newest = nearest_release(af.LINUX_6_15).name.removeprefix("linux-")
    assert tuple(map(int, newest.split("."))) > (6, 15)


def test_work_that_is_shared_is_the_same_work() -> None:
    offset = 3
    assert spread(lambda number: number * offset, range(50), 2) == [number * offset for number in range(50)]
    # Nor need what it is about have a name that another process could find it by.
    rules = [lambda number=number: number * offset for number in range(50)]
    assert spread(lambda rule: rule(), rules, 2) == [number * offset for number in range(50)]


def killed_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.skipif(not hasattr(os, "fork"), reason="work is shared by forked processes")
def test_who_shares_work_and_is_killed_is_not_waited_for() -> None:
    with pytest.raises(WorkerLost, match="was killed, as happens when memory runs out"):
        spread(killed_at_five, range(50), 2)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="work is shared by forked processes")
def test_what_is_left_of_shared_work_ends_with_it() -> None:
    def stopped(*_: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        spread(lambda number: time.sleep(60 if number > 9 else 0), range(50), 2, stopped)
    assert time.monotonic() - began < 30
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="work is shared by forked processes")
def test_who_shares_work_ends_with_the_one_that_asked_even_if_it_is_killed() -> None:
    asks = "def ask(number):\n    print(number, flush=True)\n    time.sleep(600)\n"
    program = f"import time\nfrom anonfolio.report.spread import spread\n{asks}spread(ask, range(8), 2)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline()
        process.kill()
        # It is open as long as one of them lives.
        process.communicate(timeout=120)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole laboratory, with next to nothing to do."""
    monkeypatch.setattr(breaks, "QUICK", (Bound(3, breaks.OPERATIONS), Bound(2, breaks.HOLDERS)))
    monkeypatch.setattr(breaks, "BEGUN", breaks.BEGUN[:1])
    monkeypatch.setattr(breaks, "KINDS", {"mixed": {}})
    monkeypatch.setattr(breaks, "RACES", (THREADS,))
    suite = suites()["cow.c"]
    unmapped = tuple(case for case in suite.cases if case.name.startswith("vmsplice()"))[:4]
    monkeypatch.setattr(breaks, "suites", lambda: {"cow.c": breaks.Suite("cow.c", unmapped, {})})
    monkeypatch.setattr(changes, "QUICK_RECORDINGS", ("min-6.18.44.json.gz",))
    monkeypatch.setattr(changes, "scenario_names", lambda: ["third-process-alone", "reference-blocks-reuse"])
    monkeypatch.setattr(prices, "QUICK_FAULTS", 0)
    monkeypatch.setattr(prices, "FORKS", {"helper": prices.FORKS["helper"]})
    monkeypatch.setattr(prices, "HEAP_PAGES", 512)


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_the_same_arguments_give_the_same_report_and_it_is_frozen() -> None:
    first, again = (af.lab(RMAP, quick=True, seed=3) for _ in range(2))
    assert first == again
    assert not first
    assert first.refutations == []
    assert first.command == "anonfolio lab FILE.py --against linux-6.15 --quick --seed 3"
    assert first.prices
    assert first.prices.left_out
    with pytest.raises(FrozenInstanceError):
        first.seed = 4  # type: ignore[misc]
    assert af.lab(VMSPLICE, "6.9", quick=True).base == af.Policy.at("6.9")


@pytest.mark.parametrize("words", [("missing.py",), ("rfc-v3",), ("rfc-v2", "--against", "nothing.py"),
                                   ("rfc-v2", "-o", "report.pdf"), ("rfc-v2", "-o", "nowhere/report.md"),
                                   ("rfc-v2", "--seed", "-1")])  # fmt: skip
def test_what_makes_no_sense_is_said_before_anything_is_run(words: tuple[str, ...], capsys: Any) -> None:
    try:
        code = main(["lab", *words])
    except SystemExit as end:
        code = int(str(end.code))
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (WRONG_INPUT, "", 1)


def test_numbers_that_are_none_are_refused() -> None:
    for wrong in ({"seed": -1}, {"seed": True}, {"jobs": 0}, {"jobs": 1.5}):
        with pytest.raises(ValueError, match="is no whole number from"):
            af.lab(RMAP, **wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small")
@pytest.mark.usefixtures("small")
def test_ctrl_c_tells_what_is_known_so_far_and_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(breaks, "selftests", stopped)
    assert main(["lab", "linux-6.15", "--quick", "--jobs", "1"]) == INTERRUPTED
    out, err = capsys.readouterr()
    assert " ".join(out.split()).partition("Stopped at: what it breaks: the kernel's selftests. Nothing refutes it")[1]
    assert "Search: linux-6.15: nothing found" in out
    assert "Random programs: " in out
    assert out.count("Not run: it was stopped before.") == 2
    assert "cases ran" not in out
    assert err == "anonfolio: stopped\n"


def test_sizes_that_the_knobs_do_not_enable_are_told() -> None:
    def big(where: Where) -> Iterable[int]:
        return {4}

    def whole(around: Around, ask: Ask) -> range:
        fits = around.suitable(2, ask) and around.all_of(around.same_folio, around.block(2))
        return around.block(2) if ask("fits", fits) else around.page

    mine = af.LINUX_6_15.but(name="big", allowed_orders=big)
    first, *others = ignored(mine)
    assert first.startswith("a first touch takes 64 KiB")
    assert {each.partition("64 KiB ")[2].partition(":")[0] for each in (first, *others)} == {
        "under MADV_NOHUGEPAGE", "after PR_SET_THP_DISABLE", "without a knob for the size", "against the knobs",
    }  # fmt: skip
    # prctl is the reason where it takes something away: not after PR_THP_DISABLE_EXCEPT_ADVISED in what was advised.
    inherits = af.LINUX_6_15.but(name="inherits", allowed_orders=lambda where: where._replace(thp="always").enabled())
    assert [each.partition("2 MiB ")[2].partition(":")[0] for each in ignored(inherits)] == ["against the knobs"]
    copies = af.LINUX_6_15.but(name="copies", copy_extent=whole)
    assert [each[:28] for each in ignored(copies)] == ["a copy takes 16 KiB where ne"]
    assert ignored(copies.but(copy_respects_knobs=True)) == ignored(BY_VMA) == ignored(RMAP) == []
    assert [each[:20] for each in ignored(af.RFC_V2)] == ["a first touch takes ", "a copy takes 16 KiB "]
    assert not any(ignored(af.POLICIES[name]) for name in af.POLICIES if name.startswith("linux"))


def test_cases_that_no_longer_run_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = selftests_of(BY_VMA, monkeypatch, "after fork() ... with PTE-mapped THP (64 kB)")
    assert judged.skipped == (("this kernel has no folio of that size", judged.base_run - judged.run),)
    assert judged.base_run > judged.run
