"""Misuse is told in one line that names the value and what would be right, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from support import freeze, machine_with_folio

import anonfolio as af
from anonfolio.hardware import lru, tlb
from anonfolio.hardware import microsteps as ms
from anonfolio.kernel.sizes import MAX_VPN


def expect_refusal(
    error: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], object], *words: str
) -> None:
    """The call raises, in one line that contains every word."""
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert message
    assert "\n" not in message
    assert len(message) < 1200
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


# --- Machine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: af.Machine("linux-7"), ("'linux-7'", "linux-6.15", "rfc-v2-fixed", "a release such as 6.14")),
        (lambda: af.Machine(orders=(4, 1)), ("order 1", "2 to 9 (16 KiB to 2 MiB)")),
        (lambda: af.Machine(orders=(0,)), ("order 0", "2 to 9")),
        (lambda: af.Machine(orders=(10,)), ("order 10", "2 to 9")),
        (lambda: af.Machine(orders="4"), ("'4'", "2 to 9")),
        (lambda: af.Machine(orders=(4.0,)), ("4.0",)),
        (lambda: af.Machine(thp="never"), ("'never'", "'always'", "'madvise'", "orders=()", "knobs={4: 'always'}")),
        (lambda: af.Machine(frames=1), ("frames=1",)),
        (lambda: af.Machine(frames=0), ("frames=0",)),
        (lambda: af.Machine(frames=2.5), ("2.5",)),  # type: ignore[arg-type]
        (lambda: af.Machine(frames=1 << 70), ("frames", "71 bits", "at most 63")),
        (lambda: af.Machine(frames=10**5000), ("frames", "at most 63")),
        (lambda: af.Machine(orders=4), ("orders=4", "(2, 4)")),  # type: ignore[arg-type]
        (lambda: af.Machine(knobs=4), ("knobs=4", "dict")),  # type: ignore[arg-type]
        (lambda: af.Machine(use_zero_page="no"), ("use_zero_page='no'", "True nor False")),  # type: ignore[arg-type]
        (lambda: af.Machine(use_zero_page=1), ("use_zero_page=1",)),  # type: ignore[arg-type]
        (lambda: af.Machine(None), ("policy=None",)),  # type: ignore[arg-type]
        (lambda: af.Machine().process("0"), ("process='0'",)),  # type: ignore[arg-type]
        (lambda: af.Machine().process(0), ("no process 0", "there are 0")),
        (lambda: machine_with_folio()[0].process(1), ("no process 1", "there are 1")),
        (lambda: machine_with_folio()[0].process(-1), ("no process -1",)),
    ],
)
def test_a_machine_that_cannot_be(make: Callable[[], object], words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, make, *words)


# --- Process --------------------------------------------------------------------------------------------------------


def prepared() -> tuple[af.Machine, af.Process]:
    """Sixteen pages with a pin and a reference, a read pin of one page, and a child that has exited."""
    machine, process = machine_with_folio()
    process.fork().exit()
    process.pin(4, 2, id=3)
    process.pin(9, 1, id=5, write=False)
    process.ref(8, id=3)
    return machine, process


class Raising:
    """Says that it is a whole number, and is none."""

    def __index__(self) -> int:
        raise RuntimeError("not today")


VALUE_ERRORS: dict[str, tuple[Callable[[af.Process], object], tuple[str, ...]]] = {
    "mmap no pages": (lambda p: p.mmap(0), ("pages=0", "at least one")),
    "mmap fewer": (lambda p: p.mmap(-4), ("pages=-4",)),
    "mmap below": (lambda p: p.mmap(4, at=-1), ("-1..2", f"0..{MAX_VPN - 1}")),
    "mmap above": (lambda p: p.mmap(4, at=MAX_VPN - 3), (f"{MAX_VPN - 3}", f"0..{MAX_VPN - 1}")),
    "mmap too large": (lambda p: p.mmap(MAX_VPN + 1), (f"0..{MAX_VPN - 1}",)),
    "mmap overlap": (lambda p: p.mmap(4, at=14), ("14..17", "overlap")),
    "mmap inside": (lambda p: p.mmap(1, at=7), ("7..7", "overlap")),
    "mmap advice": (lambda p: p.mmap(4, at=99, advice="dontfork"), ("'dontfork'", "'hugepage'", "'nohugepage'")),
    "munmap no pages": (lambda p: p.munmap(3, 0), ("pages=0",)),
    "munmap below": (lambda p: p.munmap(-1, 2), ("-1..0",)),
    "munmap above": (lambda p: p.munmap(MAX_VPN, 1), (f"{MAX_VPN}",)),
    "mremap no pages": (lambda p: p.mremap(0, 0, 40), ("pages=0",)),
    "mremap from": (lambda p: p.mremap(-1, 1, 40), ("-1",)),
    "mremap to": (lambda p: p.mremap(0, 2, -1), ("-1..0",)),
    "mremap beyond": (lambda p: p.mremap(0, 2, MAX_VPN - 1), (f"{MAX_VPN - 1}..{MAX_VPN}",)),
    "mprotect prot": (lambda p: p.mprotect(0, 1, 2), ("prot=2", "1 (read)", "3 (read and write)")),
    "mprotect list": (lambda p: p.mprotect(0, 1, [1]), ("prot=[1]", "1 (read)")),
    "mprotect True": (lambda p: p.mprotect(0, 1, True), ("prot=True",)),
    "write 71 bits": (lambda p: p.write(1 << 70), ("page", "71 bits", "at most 63")),
    "write 5,000 digits": (lambda p: p.write(10**5000), ("at most 63",)),
    "munmap 71 bits": (lambda p: p.munmap(0, 1 << 70), ("pages", "71 bits")),
    "touch 71 bits": (lambda p: p.touch(range(1 << 70)), ("vpns.stop", "71 bits")),
    "touch slice of 71 bits": (lambda p: p.touch(slice(0, 1 << 70)), ("vpns.stop", "71 bits")),
    "touch slice of words": (lambda p: p.touch(slice("a", "b")), ("vpns.start='a'",)),
    "pin id list": (lambda p: p.pin(0, 1, id=[]), ("id=[]",)),
    "an index that raises": (lambda p: p.write(Raising()), ("page is a Raising", "whole number")),
    "mprotect 4": (lambda p: p.mprotect(0, 1, 4), ("prot=4", "0 (nothing)")),
    "map prot": (lambda p: p.map(0, 1, 2), ("prot=2", "0 (nothing)", "3 (read and write)")),
    "map pages": (lambda p: p.map(None, 0), ("pages=0",)),
    "map page": (lambda p: p.map(-1, 1), ("pages -1..-1", "outside")),
    "spawn arena": (lambda p: p.machine.spawn(range(4, 4)), ("arena=range(4, 4)", "range(512)")),
    "mprotect pages": (lambda p: p.mprotect(0, 0, 1), ("pages=0",)),
    "madvise advice": (lambda p: p.madvise(0, 1, "pageout"), ("'pageout'", "dontneed", "wipeonfork")),
    "madvise pages": (lambda p: p.madvise(0, -2, "dontneed"), ("pages=-2",)),
    "write 256": (lambda p: p.write(0, 256), ("value=256", "0..255")),
    "write negative": (lambda p: p.write(0, -1), ("value=-1", "0..255")),
    "fork fails in a hole": (lambda p: p.fork_fails(16), ("page 16",)),
    "fork fails after": (lambda p: p.fork_fails_after(-1), ("pages=-1",)),
    "pin no pages": (lambda p: p.pin(0, 0), ("pages=0",)),
    "pin below": (lambda p: p.pin(-3, 2), ("-3..-2",)),
    "pin twice": (lambda p: p.pin(0, 1, id=3), ("pin 3",)),
    "ref twice": (lambda p: p.ref(0, id=3), ("reference 3",)),
    "dma no pin": (lambda p: p.dma_write(4, 0, 1), ("no pin 4", "[3, 5]")),
    "dma page": (lambda p: p.dma_write(3, 2, 1), ("0..1", "2")),
    "dma page below": (lambda p: p.dma_read(3, -1), ("0..1", "-1")),
    "dma byte": (lambda p: p.dma_write(3, 0, 256), ("value=256", "0..255")),
    "dma read-only": (lambda p: p.dma_write(5, 0, 1), ("pin 5", "reading")),
    "dma read no pin": (lambda p: p.dma_read(0, 0), ("no pin 0",)),
}


@pytest.mark.parametrize("which", VALUE_ERRORS)
def test_a_call_that_cannot_be_meant_changes_nothing(which: str) -> None:
    machine, process = prepared()
    call, words = VALUE_ERRORS[which]
    before = freeze([machine.memory, process.mm, machine.counters, process.pins()])
    expect_refusal(ValueError, lambda: call(process), *words)
    assert freeze([machine.memory, process.mm, machine.counters, process.pins()]) == before
    assert len(machine.processes) == 2


WRONG_TYPES: dict[str, Callable[[Any], object]] = {
    "mmap float": lambda p: p.mmap(2.5),
    "mmap str": lambda p: p.mmap("4"),
    "mmap at float": lambda p: p.mmap(4, at=600.5),
    "munmap float": lambda p: p.munmap(0.5, 1),
    "write page float": lambda p: p.write(1.5),
    "write page str": lambda p: p.write("1"),
    "write value float": lambda p: p.write(0, 1.5),
    "write value str": lambda p: p.write(0, "1"),
    "read float": lambda p: p.read(0.5),
    "mremap float": lambda p: p.mremap(0, 2, 40.5),
    "mprotect list": lambda p: p.mprotect(0, 1, [1]),
    "pin float": lambda p: p.pin(0.5),
    "gup float": lambda p: p.gup(0.5),
    "fork fails after float": lambda p: p.fork_fails_after(1.5),
    "dma float": lambda p: p.dma_write(3, 0, 1.5),
}


@pytest.mark.parametrize("which", WRONG_TYPES)
def test_a_value_of_the_wrong_type_changes_nothing(which: str) -> None:
    machine, process = prepared()
    before = freeze([machine.memory, process.mm, machine.counters, process.pins()])
    expect_refusal((ValueError, TypeError), lambda: WRONG_TYPES[which](process))
    assert freeze([machine.memory, process.mm, machine.counters, process.pins()]) == before


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.mmap(4), lambda p: p.munmap(0), lambda p: p.mremap(0, 1, 40), lambda p: p.mprotect(0, 1, 1),
        lambda p: p.madvise(0, 1, "dontneed"), lambda p: p.read(0), lambda p: p.write(0), lambda p: p.fork(),
        lambda p: p.fork_fails(0), lambda p: p.fork_fails_after(0), lambda p: p.exit(), lambda p: p.pin(0),
        lambda p: p.unpin(), lambda p: p.ref(0), lambda p: p.unref(), lambda p: p.gup(0),
        lambda p: p.dma_write(0, 0, 1), lambda p: p.dma_read(0, 0),
    ],
)  # fmt: skip
def test_an_exited_process_does_nothing_any_more(call: Callable[[af.Process], object]) -> None:
    machine, process = machine_with_folio()
    child = process.fork()
    child.exit()
    before = freeze([machine.memory, process.mm, child.mm, machine.counters])
    expect_refusal(ValueError, lambda: call(child), "process 1 has exited", "[0]")
    assert freeze([machine.memory, process.mm, child.mm, machine.counters]) == before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.write(16), ("SIGSEGV", "process 0 writes page 16", "no mapping")),
        (lambda p: p.read(16), ("SIGSEGV", "process 0 reads page 16", "no mapping")),
        (lambda p: p.read(-1), ("SIGSEGV", "page -1")),
        (lambda p: p.write(MAX_VPN * 2), ("SIGSEGV",)),
        (lambda p: (p.mprotect(0, 16, 1), p.write(3)), ("SIGSEGV", "page 3", "read-only")),
    ],
)
def test_an_access_outside_is_a_sigsegv(call: Callable[[af.Process], object], words: tuple[str, ...]) -> None:
    _, process = machine_with_folio()
    expect_refusal(af.SegmentationFault, lambda: call(process), *words)


def test_a_hole_is_told_apart_from_a_mapping_before_and_after_it() -> None:
    _, process = machine_with_folio()
    process.munmap(7)
    assert [process.read(vpn) for vpn in (6, 8)] == [7, 9]
    expect_refusal(af.SegmentationFault, lambda: process.read(7), "page 7", "no mapping")


def test_what_the_kernel_refuses_is_a_false_outcome_with_its_errno() -> None:
    _, process = machine_with_folio()
    for outcome, errno in (
        (process.pin(14, 4), "EFAULT"), (process.ref(16), "EFAULT"), (process.unpin(), "ENXIO"),
        (process.unref(), "ENXIO"),
        (process.mprotect(14, 4, 1), "ENOMEM"), (process.madvise(14, 4, "dontneed"), "ENOMEM"),
        (process.mremap(0, 4, 2), "EINVAL"), (process.mremap(20, 4, 40), "EFAULT"), (process.fork_fails(0), "ENOMEM"),
    ):  # fmt: skip
        assert not outcome
        assert (outcome.ok, outcome.errno) == (False, errno)
        assert outcome.why
    assert process.gup(16) is None
    assert process.munmap(300, 4)


# --- Policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x" * 5000: 1}, ("no field 'xxx",)),
        ({"copy_extent": "x" * 5000}, ("copy_extent='xxx", "source_order")),
        ({"larg_reuse": "never"}, ("'larg_reuse'", "large_reuse")),
        ({"large_reuse": "sometimes"}, ("large_reuse='sometimes'", "refcount_one", "never", "mm_id", "scan")),
        ({"reuse_extent": "folio"}, ("reuse_extent='folio'", "page", "range")),
        ({"copy_extent": 4}, ("copy_extent=4", "source_order")),
        ({"unshare_extent": None}, ("unshare_extent=None", "page")),
        ({"zero_page_write": "block"}, ("zero_page_write='block'", "first_touch")),
        ({"zero_neighbours": "any"}, ("zero_neighbours='any'", "none_or_zero", "none_only")),
        ({"huge_zero_write": "small"}, ("huge_zero_write='small'", "huge")),
        ({"fixed_orders": (1,)}, ("fixed_orders", "order 1", "2 to 9")),
        ({"knob_orders": (2, 11)}, ("knob_orders", "order 11", "2 to 9")),
    ],
)
def test_a_policy_that_cannot_be(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    expect_refusal(ValueError, lambda: af.LINUX_6_15.but(**changes), *words)


def test_a_policy_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        af.LINUX_6_15.name = "mine"  # type: ignore[misc]


def test_a_policy_of_one_s_own_is_one_expression() -> None:
    mine = af.LINUX_6_15.but(name="mine", copy_extent="source_order")
    assert (mine.name, mine.large_reuse, af.LINUX_6_15.copy_extent) == ("mine", "mm_id", "page")
    _, process = machine_with_folio(mine)
    process.fork()
    assert process.write(4).code == "copy4"


def test_an_unknown_policy_lists_those_there_are() -> None:
    expect_refusal(ValueError, lambda: af.policy_named("rfc"), "'rfc'", *af.POLICIES)
    expect_refusal(ValueError, lambda: af.Scenario.load("first-write").run("rfc"), "'rfc'")


# --- Scenario -------------------------------------------------------------------------------------------------------

STEP_ERRORS = {
    "no operation": (("wriet", 0, 1, 2), ("'wriet'", "write")),
    "empty": ((), ("''",)),
    "too few": (("write", 0, 1), ("write takes process, page, byte",)),
    "too many": (("fork", 0, 1), ("fork takes process",)),
    "no process": (("write", 1, 0, 0), ("no process 1", "1, numbered from 0")),
    "process a word": (("write", "0", 0, 0), ("no process '0'",)),
    "process true": (("exit", False), ("no process False",)),
    "page outside": (("read", 0, 16), ("page 16", "0..15")),
    "page negative": (("read", 0, -1), ("page is -1",)),
    "page a word": (("read", 0, "3"), ("page is '3'",)),
    "range outside": (("munmap", 0, 12, 5), ("page 16", "0..15")),
    "target outside": (("mremap", 0, 0, 4, 13), ("page 16", "0..15")),
    "no range": (("munmap", 0, 12, 0), ("at least one page",)),
    "byte": (("write", 0, 0, 256), ("byte 256", "0..255")),
    "advice": (("madvise", 0, 0, 1, "pageout"), ("'pageout'", "dontneed")),
    "prot": (("mprotect", 0, 0, 1, 4), ("prot 4", "1 (read)")),
    "id": (("pin", 0, 0, 1, -1), ("id is -1",)),
    "dma byte": (("dma_write", 0, 0, 0, 300), ("byte 300",)),
    "fail page": (("forkfail", 0, 16), ("page 16",)),
}


@pytest.mark.parametrize("which", STEP_ERRORS)
def test_a_step_that_cannot_be_is_told_with_its_number(which: str) -> None:
    step, words = STEP_ERRORS[which]
    expect_refusal(af.ScenarioError, lambda: af.Scenario(16, (("write", 0, 0, 1), step)), "step 2", *words)


def test_an_operation_that_is_no_word_is_told_too() -> None:
    expect_refusal(af.ScenarioError, lambda: af.Scenario(16, ((["write"], 0, 0, 1),)), "step 1", "['write']")


def test_processes_that_exited_or_are_yet_to_come_do_nothing() -> None:
    expect_refusal(
        af.ScenarioError,
        lambda: af.Scenario(4, (("fork", 0), ("exit", 1), ("read", 1, 0))),
        "step 3",
        "process 1 has exited",
    )
    expect_refusal(af.ScenarioError, lambda: af.Scenario(4, (("read", 1, 0), ("fork", 0))), "step 1", "no process 1")
    assert len(af.Scenario(4, (("fork", 0), ("fork", 1), ("read", 2, 0))).run()) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pages": 0}, ("pages=0", "at least one page")),
        ({"pages": -3}, ("pages=-3",)),
        ({"pages": "16"}, ("pages='16'",)),
        ({"pages": 2.0}, ("pages=2.0",)),
        ({"pages": 4, "skew": 512}, ("skew=512", "0..511")),
        ({"pages": 4, "skew": -1}, ("skew=-1",)),
        ({"pages": 4, "orders": (1,)}, ("order 1", "2 to 9")),
        ({"pages": 4, "orders": (4.0,)}, ("4.0",)),
        ({"pages": 4, "orders": 5}, ("orders=5 is no tuple",)),
        ({"pages": 4, "orders": np.array(0)}, ("orders=array(0) is no tuple",)),
        ({"pages": 4, "steps": (5,)}, ("steps are tuples of an operation",)),
        ({"pages": 4, "advice": np.array([1, 2])}, ("advice=array([1, 2]) is none of",)),
    ],
)
def test_a_scenario_that_cannot_be(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    expect_refusal(af.ScenarioError, lambda: af.Scenario(**{"steps": (), **fields}), *words)


PARSE_ERRORS = {
    "operation": ("pages 16\n\nwirte 0 3 1\n", 3, ("'wirte'", "write")),
    "field": ("pages 16\norder 4\n", 2, ("'order'",)),
    "number": ("pages sixteen\n", 1, ("'sixteen'",)),
    "page": ("pages 16\n# a comment\nread 0 x\n", 3, ("'x'",)),
    "arguments": ("pages 16\nfork\n", 2, ("fork takes process",)),
    "more arguments": ("pages 16\nread 0 1 2\n", 2, ("read takes process, page",)),
    "negative": ("pages 16\nread 0 -1\n", 2, ("'-1'",)),
    "order": ("pages 16\norders 4 x\n", 2, ("'x'",)),
    "order 1": ("pages 16\norders 4 1\n", 2, ("order 1", "2 to 9")),
    "span": ("pages 16\nwrite 0 5..2\n", 2, ("5..2",)),
    "span of a word": ("pages 16\nwrite 0 0..x\n", 2, ()),
    "span outside": ("pages 16\nwrite 0 0..16\n", 2, ("page 16", "0..15")),
    "page outside": ("pages 16\n\n\nread 0 20\n", 4, ("page 20", "0..15")),
    "process": ("pages 16\nfork 0\nread 2 0\n", 3, ("no process 2",)),
    "exited": ("pages 16\nfork 0\nexit 1\nread 1 0\n", 4, ("process 1 has exited",)),
    "advice": ("pages 16\nmadvise 0 0 1 forget\n", 2, ("'forget'",)),
    "prot": ("pages 16\nmprotect 0 0 1 7\n", 2, ("7",)),
    "name": ("scenario two words\npages 16\n", 1, ("scenario",)),
}


@pytest.mark.parametrize("which", PARSE_ERRORS)
def test_a_typo_in_a_scenario_file_is_told_with_its_line(which: str) -> None:
    text, line, words = PARSE_ERRORS[which]
    expect_refusal(
        af.ScenarioError, lambda: af.Scenario.parse(text, "mine.scenario"), f"mine.scenario, line {line}: ", *words
    )


def test_a_scenario_file_without_a_size_is_told() -> None:
    expect_refusal(
        af.ScenarioError, lambda: af.Scenario.parse("write 0 0 1\n", "mine.scenario"), "mine.scenario", "pages 16"
    )
    expect_refusal(af.ScenarioError, lambda: af.Scenario.parse("", "mine.scenario"), "mine.scenario", "pages")


def test_a_scenario_that_is_not_there_names_similar_ones(tmp_path: Any) -> None:
    expect_refusal(af.ScenarioError, lambda: af.Scenario.load("wipe-on-frok"), "'wipe-on-frok'", "wipe-on-fork")
    expect_refusal(af.ScenarioError, lambda: af.Scenario.load("zzz"), "'zzz'", "scenario_names()")
    expect_refusal(af.ScenarioError, lambda: af.Scenario.load(tmp_path / "x.scenario"), "x.scenario")
    expect_refusal(af.ScenarioError, lambda: af.Scenario.load(tmp_path), str(tmp_path))


@pytest.mark.parametrize("name", af.scenario_names())
def test_a_scenario_is_what_its_text_says(name: str, tmp_path: Any) -> None:
    scenario = af.Scenario.load(name)
    assert scenario.name == name
    assert af.Scenario.parse(scenario.text()) == scenario
    path = tmp_path / "mine.scenario"
    path.write_text(scenario.text(), encoding="utf-8")
    assert af.Scenario.load(path) == scenario
    assert af.Scenario.load(str(path)) == scenario


def test_a_span_writes_each_page_its_number_plus_one() -> None:
    scenario = af.Scenario.parse("pages 300\nwrite 0 253..256\nread 0 1..2\n")
    assert scenario.steps == (
        ("write", 0, 253, 254), ("write", 0, 254, 255), ("write", 0, 255, 0), ("write", 0, 256, 1),
        ("read", 0, 1), ("read", 0, 2),
    )  # fmt: skip


def test_a_recording_of_a_kernel_that_there_is_none_of() -> None:
    expect_refusal(af.RecordingError, lambda: af.Scenario.load("first-write").recorded("6.5"), "'6.5'", "6.18")
    mine = af.Scenario.load("first-write").but(name="mine")
    expect_refusal(af.RecordingError, lambda: mine.recorded("6.18"), "'mine'", "6.18")
    changed = af.Scenario.load("first-write").but(steps=(("read", 0, 0),))
    expect_refusal(af.RecordingError, lambda: changed.recorded("6.18"), "'first-write'", "6.18")


def test_an_access_outside_is_a_result_of_a_scenario_and_no_exception() -> None:
    timeline = af.Scenario(4, (("munmap", 0, 1, 1), ("write", 0, 1, 5), ("read", 0, 1))).run()
    assert [result.ok for result in timeline] == [True, False, False]
    assert "SIGSEGV" in timeline[1].why
    assert [[fault.vpn, fault.error_code] for fault in timeline[1].user_faults] == [[1, 6]]


@pytest.mark.parametrize("number", [np.int64, np.array], ids=["int64", "array of no dimension"])
def test_numbers_of_numpy_do_what_whole_numbers_do(number: Callable[[int], Any]) -> None:
    def machine(number: Callable[[int], Any]) -> af.Machine:
        made = af.Machine("7.3", orders=(4,))
        process = made.spawn(range(2048))
        process.mmap(1024, at=32)
        process.touch(range(32, 64))
        process.remap(number(32), number(16), number(20), number(1040))
        process.brk(number(5))
        process.pin(48, 2, number(1))
        process.dma_write(number(1), number(0), 9)
        process.unpin(number(1))
        process.fork_fails(number(48))
        return made

    made = machine(number)
    assert af.check(made) == []
    assert freeze(made) == freeze(machine(int))
    assert type(made.processes[0].mm.brk) is int


@pytest.mark.parametrize("wrong", [None, "1", [1], 1.5, np.array([1, 2])], ids=repr)
@pytest.mark.parametrize("call", ["fork_fails", "may_fork_fail_at", "unpin", "unref"])
def test_what_is_no_whole_number_is_refused_in_one_line(call: str, wrong: Any) -> None:
    process = af.Machine().spawn()
    process.mmap(16)
    with pytest.raises(ValueError, match=r"^\w+(=| is a ).* is not a whole number|that is not a whole number"):
        getattr(process, call)(wrong)


# --- what is of another kind ----------------------------------------------------------------------------------------


def a_table(start: object = 0, pages: int = 4) -> tlb.PageTable:
    row = np.full(pages, 13, np.uint8)
    return tlb.PageTable(start, row, np.arange(pages, dtype=np.int32), row > 99)  # type: ignore[arg-type]


OTHER_KINDS: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
    "replace": (lambda: machine_with_folio()[1].map(20, 4, replace="no"), ("replace='no'", "True nor False")),
    "reserve": (lambda: machine_with_folio()[1].map(20, 4, reserve=0), ("reserve=0",)),
    "populate": (lambda: machine_with_folio()[1].map(20, 4, populate=None), ("populate=None",)),
    "grows_down": (lambda: machine_with_folio()[1].map(20, 4, grows_down=[]), ("grows_down=[]",)),
    "may_move": (lambda: machine_with_folio()[1].remap(0, 4, 8, may_move="no"), ("may_move='no'",)),
    "keep": (lambda: machine_with_folio()[1].remap(0, 4, 4, keep=1), ("keep=1",)),
    "onfault": (lambda: machine_with_folio()[1].mlock(0, 4, onfault="false"), ("onfault='false'",)),
    "pin for writing": (lambda: machine_with_folio()[1].pin(0, write="no"), ("write='no'",)),
    "thp_disable": (lambda: machine_with_folio()[1].thp_disable(1.0), ("how=1.0",)),
    "mmap advice": (lambda: machine_with_folio()[1].mmap(4, 99, np.array([None])), ("advice=array",)),
    "madvise row": (lambda: machine_with_folio()[1].madvise(0, 1, np.array(["free"])), ("no advice array",)),
    "madvise long": (lambda: machine_with_folio()[1].madvise(0, 1, "x" * 5000), ("no advice 'xxx",)),
    "a page that is True": (lambda: machine_with_folio()[1].read(True), ("page=True", "whole number")),
    "a byte that is False": (lambda: machine_with_folio()[1].write(0, False), ("value=False",)),
    "pages that are True": (lambda: machine_with_folio()[1].mmap(True), ("pages=True",)),
    "process True": (lambda: machine_with_folio()[0].process(True), ("process=True",)),
    "progress": (lambda: machine_with_folio()[1].touch([1], progress=5), ("progress=5", "a function")),
    "later": (lambda: machine_with_folio()[1].touch([1], later=5), ("later=5",)),
    "one of later": (lambda: machine_with_folio()[1].touch([1], later=[(1, 2)]), ("one of later=(1, 2)", "Later")),
    "thp long": (lambda: af.Machine(thp="x" * 5000), ("thp='xxx",)),
    "thp row": (lambda: af.Machine(thp=np.array(["always"])), ("thp=array",)),  # type: ignore[arg-type]
    "knob row": (lambda: af.Machine(knobs={4: np.array(["always"])}), ("order 4",)),  # type: ignore[dict-item]
    "arch long": (lambda: af.Policy.at("6.18", "x" * 5000), ("arch='xxx", "x86-64")),
    "check": (lambda: af.check(None), ("machine=None", "Machine")),  # type: ignore[arg-type]
    "replay": (lambda: af.replay("x.json"), ("recording='x.json'", "Recording")),  # type: ignore[arg-type]
    "compare": (lambda: af.compare(None, None), ("mine=None", "Timeline")),  # type: ignore[arg-type]
    "compare with": (
        lambda: af.Scenario.load("first-write").run().compare("6.18"),  # type: ignore[arg-type]
        ("other='6.18'", "Timeline or Recorded"),
    ),
    "prepare": (lambda: af.Scenario.load("first-write").run(prepare="no"), ("prepare='no'",)),  # type: ignore[arg-type]
    "parse": (lambda: af.Scenario.parse(b"pages 4"), ("text=b'pages 4'", "str")),  # type: ignore[arg-type]
    "load": (lambda: af.Scenario.load(5), ("name=5", "str or Path")),  # type: ignore[arg-type]
    "show": (lambda: af.Scenario.load("first-write").run().show("1"), ("step='1'",)),  # type: ignore[arg-type]
    "result": (lambda: af.Scenario.load("first-write").run()[1.0], ("step=1.0",)),  # type: ignore[index]
    "a file that is open": (lambda: af.read_recording(1), ("1 is no name of a file",)),  # type: ignore[arg-type]
    "no file": (lambda: af.read_recording(None), ("None is no name of a file",)),  # type: ignore[arg-type]
    "page table": (lambda: tlb.page_table(None, 0, 4), ("process=None", "Process")),  # type: ignore[arg-type]
    "core": (lambda: tlb.Tlb("zen"), ("core='zen'", "Core")),  # type: ignore[arg-type]
    "coalescing": (lambda: tlb.Tlb(tlb.ZEN_2, "hpa"), ("coalescing='hpa'", "Hpa()")),  # type: ignore[arg-type]
    "coalescing class": (lambda: tlb.Tlb(tlb.ZEN_2, tlb.Hpa), ("coalescing=<class", "Hpa()")),  # type: ignore[arg-type]
    "levels": (lambda: tlb.Core("c", [(tlb.Entries(4),)]), ("levels=[", "tuple")),  # type: ignore[arg-type]
    "a level": (lambda: tlb.Core("c", (tlb.Entries(4),)), ("level 1=Entries", "tuple")),  # type: ignore[arg-type]
    "an array": (lambda: tlb.Core("c", ((64,),)), ("an array of level 1=64", "Entries")),  # type: ignore[arg-type]
    "name of a core": (lambda: tlb.Core(5, tlb.ZEN_2.levels), ("name=5", "str")),  # type: ignore[arg-type]
    "orders": (lambda: tlb.Entries(4, orders="x" * 5000), ("orders='xxx",)),  # type: ignore[arg-type]
    "entries": (lambda: tlb.Entries(1 << 40), ("entries=1099511627776", f"1..{lru.MOST_ENTRIES}")),
    "entries of a cache": (lambda: lru.Lru(1 << 70), ("entries=", f"1..{lru.MOST_ENTRIES}")),
    "ways": (lambda: lru.hits_by_place([1], 4, 1 << 40), ("ways=1099511627776",)),
    "sets": (lambda: lru.hits_by_place([1], 1 << 70, 4), ("sets=",)),
    "table": (lambda: tlb.Tlb(tlb.ZEN_2).access([1], None), ("table=None", "PageTable")),  # type: ignore[arg-type]
    "table of a word": (lambda: tlb.Tlb(tlb.ZEN_2).access([1], a_table("0")), ("table.start='0'",)),
    "table beyond": (lambda: tlb.Tlb(tlb.ZEN_2).access([1 << 40], a_table(1 << 40)), ("table.start=1099511627776",)),
    "table of two sizes": (
        lambda: tlb.Tlb(tlb.ZEN_2).access([1], a_table()._replace(pfn=np.zeros(3, np.int32))),
        ("shapes [(3,), (4,)]",),
    ),
    "fault": (lambda: tlb.Tlb(tlb.ZEN_2).flush_for(None), ("fault=None", "Fault")),  # type: ignore[arg-type]
    "shootdown beyond": (lambda: tlb.Tlb(tlb.ZEN_2).shootdown(MAX_VPN), (f"page={MAX_VPN}",)),
    "shootdown of much": (lambda: tlb.Tlb(tlb.ZEN_2).shootdown(2, MAX_VPN), (f"pages={MAX_VPN}",)),
}
"""What was taken as something else, or ended in an error of Python's or numpy's own."""


@pytest.mark.parametrize("which", OTHER_KINDS)
def test_what_is_of_another_kind_is_refused(which: str) -> None:
    call, words = OTHER_KINDS[which]
    expect_refusal(ValueError, call, *words)


def test_a_refused_flag_changes_nothing() -> None:
    machine, process = prepared()
    before = freeze([machine.memory, process.mm, machine.counters, process.pins()])
    for call in (
        lambda: process.map(0, 4, replace="no"), lambda: process.map(0, 4, populate="no"),
        lambda: process.remap(0, 4, 8, 100, keep="no"), lambda: process.mlock(0, onfault="no"),
        lambda: process.pin(0, id=7, write="no"),
    ):  # fmt: skip
        expect_refusal(ValueError, call, "'no'")
    assert freeze([machine.memory, process.mm, machine.counters, process.pins()]) == before


def test_a_step_that_is_not_there_is_told_by_its_number() -> None:
    timeline = af.Scenario.load("first-write").run()
    expect_refusal(IndexError, lambda: timeline[9], "no step 9", "there are 2")
    expect_refusal(IndexError, lambda: timeline.show(-9), "no step -9")
    assert timeline[np.int64(-1)] is timeline[1]
    assert str(timeline.show(None)) != str(timeline.show())


def test_different_programs_are_not_compared() -> None:
    one, other = (af.Scenario(4, (("write", 0, page, 1),), name=f"page {page}") for page in (0, 1))
    expect_refusal(ValueError, lambda: af.compare(one.run(), other.run()), "'page 0'", "'page 1'", "different programs")
    expect_refusal(ValueError, lambda: af.compare(one.run(), one.but(pages=5).run()), "different programs")
    assert af.compare(one.run(), one.but(name="x", orders=(4,)).run()) is not None


def test_a_shootdown_of_everything_drops_everything_at_once() -> None:
    cache = tlb.Tlb(tlb.GOLDEN_COVE, tlb.Hpa())
    cache.access(np.arange(64), a_table(pages=64))
    cache.shootdown(0, MAX_VPN)
    assert [cache.held(level) for level in (1, 2)] == [[], []]


def wordless() -> Any:
    """An object whose words raise."""

    def raises(_: object) -> str:
        raise RuntimeError("no words")

    return type("Wordless", (), {"__repr__": raises, "__str__": raises})()


ODD: dict[str, Callable[[], Any]] = {
    "two rows": lambda: np.zeros((2, 2)), "no words": wordless, "many": lambda: range(10**12),
    "ten thousand": lambda: [wordless] * 10_000, "long text": lambda: "x\n" * 10**5, "set": lambda: {1.5},
}  # fmt: skip
TAKES: dict[str, Callable[[Any], object]] = {
    **{
        f"Machine({name})": lambda odd, name=name: af.Machine(**{name: odd})
        for name in ("policy", "orders", "thp", "knobs", "frames")
    },
    **{
        f"Scenario({name})": lambda odd, name=name: af.Scenario(**{"pages": 4, "steps": (), name: odd})
        for name in ("pages", "steps", "orders", "skew", "knobs", "thp", "advice", "name")
    },
    "a step": lambda odd: af.Scenario(4, (odd,)),
    "steps as text": lambda _: af.Scenario(4, "x" * 10**6),  # type: ignore[arg-type]
    "an operation": lambda odd: af.Scenario(4, ((odd, 0, 1),)),
    "an argument": lambda odd: af.Scenario(4, (("read", 0, odd),)),
    **{
        f"Policy({field.name})": lambda odd, name=field.name: af.LINUX_6_15.but(**{name: odd})
        for field in fields(af.Policy)
    },
    "a policy's name": af.policy_named,
    "a release": af.Policy.at,
    "an architecture": lambda odd: af.Policy.at("6.12", odd),
    "pages of mmap": lambda odd: prepared()[1].mmap(odd),
    "advice": lambda odd: prepared()[1].madvise(0, 1, odd),
    "prot": lambda odd: prepared()[1].mprotect(0, 1, odd),
    "a race": lambda odd: ms.THREADS.run([odd]),
}


@pytest.mark.parametrize("which", TAKES)
def test_whatever_is_given_is_refused_in_one_short_line(which: str) -> None:
    """An array has several lines, an object of one's own may have no words, and a range more than memory holds."""
    for kind, odd in ODD.items():
        if (which, kind) in TEXTS:
            continue
        with pytest.raises((ValueError, TypeError)) as refused:
            TAKES[which](odd())
        told = str(refused.value)
        assert "\n" not in told, kind
        assert len(told) < 1000, kind


TEXTS = {(which, "long text") for which in ("Scenario(name)", "Policy(name)", "Policy(about)")}
"""Where a text is what is asked for, however long."""
