"""One table says what an operation is: everything that handles steps agrees with it, the live worker's own table too.

And whatever can be made can be written and read again, while a file from elsewhere is held to bounds before it grows.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import os
import random
import re
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

import anonfolio as af
from anonfolio.kernel.rules import KNOBS
from anonfolio.machine.machine import ADVICE, PROTECTIONS
from anonfolio.program import formats, ops, random_programs
from anonfolio.program import scenario as scenario_module
from anonfolio.program.explore import Space
from anonfolio.program.ops import TABLE, Op, Step
from anonfolio.program.random_programs import KINDS, random_scenario
from anonfolio.program.scenario import ADVISED, THP
from anonfolio.program.search import EXTRA_OPERATIONS, OPERATIONS, counterexample
from anonfolio.witness.live import worker

SAID = {
    ("write", 1, 5, 9): "Process 1 writes page 8",
    ("read", 0, 5): "Process 0 reads page 8",
    ("fork", 0): "Process 0 forks, which makes process 2",
    ("exit", 1): "Process 1 exits: its mappings, pins and references are gone",
    ("munmap", 0, 4, 4): "Process 0 unmaps pages 7–10",
    ("mmap", 0, 4, 2, 0, "fixed"): "Process 0 maps pages 7–8, inaccessible (fixed)",
    (
        "mmap",
        0,
        None,
        16,
        3,
        "anywhere",
    ): ("Process 0 maps 16 pages where the kernel likes, readable and writable (anywhere)"),
    ("remap", 0, 4, 8, 16, None, "move"): "Process 0 makes 8 pages from page 7 on 16 (move)",
    ("brk", 0, 4): "Process 0 moves the end of its heap to page 7",
    ("mremap", 0, 4, 1, 9): "Process 0 moves page 7 to page 12",
    ("mprotect", 0, 0, 2, 1): "Process 0 makes pages 3–4 read-only (mprotect)",
    ("mlock", 0, 4, 2): "Process 0 locks pages 7–8 (mlock)",
    ("mlock_onfault", 0, 4, 1): "Process 0 locks page 7 as they come (mlock2)",
    ("munlock", 0, 0, 2): "Process 0 unlocks pages 3–4 (munlock)",
    ("thp_disable", 1, "except_advised"): "Process 1 has huge pages disabled: except_advised (prctl)",
    ("mprotect", 0, 0, 2, 3): "Process 0 makes pages 3–4 readable and writable (mprotect)",
    ("madvise", 0, 0, 2, "dontneed"): "Process 0 advises dontneed for pages 3–4",
    ("pin", 0, 1, 2, 7): "Process 0 pins pages 4–5 for a device (pin 7)",
    ("unpin", 0, 7): "Process 0 lets go of pin 7",
    ("gup", 0, 2): "Process 0 has page 5 read through a short pin",
    ("ref", 0, 2, 6): "Process 0 takes a plain reference to page 5 (reference 6)",
    ("unref", 0, 6): "Process 0 lets go of reference 6",
    ("dma_write", 1, 7, 2, 9): "The device writes byte 9 into page 2 of pin 7 of process 1",
    ("dma_read", 1, 7, 2): "The device reads page 2 of pin 7 of process 1",
    ("clear_refs", 0, 1): "Process 0 forgets which pages were accessed (clear_refs)",
    ("pin_ro", 0, 1, 1, 7): "Process 0 pins page 4 for a device that only reads (pin 7)",
    ("split", 0, 4, 8, 2): "The folios of pages 7–14 of process 0 are split to order 2 (debugfs)",
    ("shrink", 0): "Memory gets short, and what is partly mapped is split",
    ("forkfail", 0, 3): "Process 0 forks, and that fails at the mapping of page 6",
    ("forkfail_after", 0, 3): "Process 0 forks, and that fails after 3 pages",
}


@pytest.mark.parametrize("step", SAID, ids=lambda step: f"{step[0]}-{step[-1]}")
def test_each_step_is_said_with_page_numbers(step: Step) -> None:
    assert ops.said(step, base=3, child=2) == SAID[step]


def test_every_operation_is_said() -> None:
    assert {step[0] for step in SAID} == set(TABLE)


OPERATIONS_PAGE = (Path(__file__).parent.parent / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")


def test_the_page_of_operations_has_each_once_with_its_arguments() -> None:
    """docs/OPERATIONS.md is where a newcomer looks; README and the recordings' README lead there."""
    page = OPERATIONS_PAGE[OPERATIONS_PAGE.index("## All operations") :]
    rows = re.findall(r"^\| `([a-z_ ]+)` \| (.*)$", page[: page.index("## Advice")], re.M)
    assert sorted(row for row, _ in rows) == sorted(
        " ".join((op.name, "process", *op.arguments)) for op in TABLE.values()
    )
    for row, meaning in rows:
        for kind in TABLE[row.split()[0]].arguments:
            if kind in ops.WORDS and kind != "advice":
                assert set(ops.WORDS[kind]) <= set(re.findall(r"`([a-z_]+)`", meaning)), row
    advice = re.findall(r"^\| (`.*`) \|", page[page.index("## Advice") :], re.M)
    assert sorted(re.findall(r"`([a-z_]+)`", " ".join(advice))) == sorted(ADVICE)
    kinds = {kind for op in TABLE.values() for kind in op.arguments} - set(ops.WORDS)
    arguments = OPERATIONS_PAGE[OPERATIONS_PAGE.index("## What arguments are") : OPERATIONS_PAGE.index("## All")]
    assert kinds | {"process"} == set(
        re.findall(r"`([a-z]+)`", " ".join(re.findall(r"^\| (`.*?) \|", arguments, re.M)))
    )
    for leads in ("README.md", "data/README.md"):
        assert "docs/OPERATIONS.md" in (Path(__file__).parent.parent / leads).read_text(encoding="utf-8")


def test_the_scenario_on_the_page_of_operations_runs() -> None:
    example = re.search(r"```\n(.*?)```", OPERATIONS_PAGE, re.S)
    assert example
    scenario = af.Scenario.parse(example[1])
    results = scenario.run("7.3").results
    assert [result.why for result in results if not result.ok] == []
    assert results[1].value == 512


def test_pages_become_page_numbers_once() -> None:
    """What the kernel's reason names is where the page lies, as everything below a program does."""
    program = (("write", 0, 2, 7), ("munmap", 0, 3, 1), ("forkfail", 0, 3), ("read", 0, 3), ("mremap", 0, 2, 1, 5))
    _, _, failed, hole, moved = af.Scenario(8, program, skew=100).run()
    assert "page 103" in failed.why
    assert "page 103" in hole.why
    assert [fault.vpn for fault in hole.user_faults] == [103]
    assert any(vma.start == 105 and vma.present[0] for vma in moved.snapshot.processes[0].mappings)


# --- who reads the table --------------------------------------------------------------------------------------------


def test_the_worker_does_what_a_kernel_can_be_asked_and_nothing_else() -> None:
    """It runs alone, with the standard library: its calls are its own, and equal to the table."""
    calls = {name.removeprefix("do_"): call for name, call in vars(worker.Worker).items() if name.startswith("do_")}
    by_others = {"gup", "forkfail", "split", "shrink"}  # another process reads, or writes to files of the kernel
    assert {name for name, op in TABLE.items() if not op.not_live} - by_others <= set(calls)
    assert not {name for name, op in TABLE.items() if op.not_live} & set(calls)
    for name in set(calls) & set(TABLE):
        assert len(inspect.signature(calls[name]).parameters) == 1 + len(TABLE[name].arguments), name
    assert tuple(sorted(worker.ADVICE)) == tuple(sorted(ADVICE))
    assert set(worker.ACCESSES) == {name for name, op in TABLE.items() if op.access}
    untouched = {"fork", "exit", "gup", "forkfail", "split", "shrink"}
    assert set(worker.COUNTED) == {name for name, op in TABLE.items() if not op.not_live} - untouched


def test_what_lets_go_of_batches_is_what_takes_pages() -> None:
    """A live run drains the LRU's batches after these, or the next write copies where the model reuses."""
    assert {name for name, op in TABLE.items() if op.gup} == {"gup", "mlock", "pin", "pin_ro", "ref"}


def test_what_no_kernel_can_be_asked_says_why() -> None:
    from anonfolio.witness.here import NotLive
    from anonfolio.witness.live.run import live_run

    steps = {"pin_ro": ("pin_ro", 0, 0, 1, 0), "forkfail_after": ("forkfail_after", 0, 1)}
    assert set(steps) == {name for name, op in TABLE.items() if op.not_live}
    for name, step in steps.items():
        with pytest.raises(NotLive, match=re.escape(f"step 1, {name}, cannot be run live: {TABLE[name].not_live}")):
            live_run(af.Scenario(4, (step,)))


def test_a_recording_holds_everything_but_what_is_injected(tmp_path: Path) -> None:
    assert {name for name, op in TABLE.items() if not op.recorded} == {"forkfail_after"}
    path = tmp_path / "injected.json.gz"
    with pytest.raises(af.RecordingError, match="step 1, forkfail_after"):
        af.write_recording(path, "6.18.44", [af.Scenario(4, (("forkfail_after", 0, 1),)).run()])
    assert list(tmp_path.iterdir()) == []


def possible(machine: af.Machine, operations: tuple[str, ...], processes: int) -> list[af.Step]:
    return Space(machine.policy, af.Scenario(4, ()), operations, processes, ()).possible(machine.live())


def test_the_search_tries_what_the_table_says() -> None:
    names = {name for name, op in TABLE.items() if op.tries} - {"madvise"}
    assert {*OPERATIONS, *EXTRA_OPERATIONS} == names | set(ADVICE)
    machine = af.Scenario(4, (), (2,)).machine(frames=128)
    process = machine.process(0)
    process.write(0)
    process.fork()
    process.mprotect(2, 2, 1)
    found = possible(machine, ("read", "munmap", "mprotect", "hugepage", "dontneed"), 3)
    mine = [step for step in found if step[1] == 0]
    assert [step for step in mine if step[0] in ("read", "munmap")] == [("munmap", 0, 0, 2), ("munmap", 0, 2, 2)]
    assert [step for step in mine if step[0] == "mprotect"] == [
        ("mprotect", 0, at, 2, prot) for at in (0, 2) for prot in (1, 3)
    ]
    # MADV_HUGEPAGE is heeded already.
    assert [step for step in mine if step[0] == "madvise"] == [("madvise", 0, at, 2, "dontneed") for at in (0, 2)]
    assert ("read", 1, 3) not in found
    for processes, forks in ((3, 2), (2, 0)):
        assert len(possible(machine, ("fork", "forkfail_after"), processes)) == 4 * forks
    assert len(possible(machine, ("pin", "unpin"), 2)) == 8
    process.pin(0)
    assert [step for step in possible(machine, ("pin", "unpin"), 2) if step[1] == 0] == [("unpin", 0, 0)]


def test_what_the_search_or_random_programs_leave_out_is_named_here() -> None:
    untried = {"brk", "clear_refs", "dma_write", "dma_read", "forkfail"}
    assert {name for name, op in TABLE.items() if not op.tries} == untried
    assert set(TABLE) - {name for kind in KINDS.values() for name in kind} == {"pin_ro", "clear_refs", "forkfail_after"}


def test_a_new_operation_is_drawn_by_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry is enough: random programs draw it, scenarios read it, it runs, and it is said."""
    asked: list[tuple[int, int]] = []

    def populate(process: af.Process, page: int, n: int) -> af.Outcome:
        asked.append((page, n))
        return af.Outcome()

    op = Op("populate", ("page", "n"), populate, "{who} populates {where}", drawn={"mixed": 500})
    monkeypatch.setitem(TABLE, "populate", op)
    monkeypatch.setitem(random_programs.KINDS, "mixed", {**KINDS["mixed"], "populate": 500})
    scenario = random_scenario(3, "mixed")
    drawn = [step for step in scenario.steps if step[0] == "populate"]
    assert len(drawn) > 2
    asked.clear()
    assert af.Scenario.parse(scenario.text()) == scenario
    scenario.run()
    assert asked == [(page + scenario.skew, n) for _, _, page, n in drawn]
    assert ops.said(("populate", 0, 1, 2)) == "Process 0 populates pages 1–2"


def test_the_lowest_free_number_is_drawn() -> None:
    generator = random_programs._Generator(1, "mixed", frozenset((2,)))
    process = generator.machine.process(0)
    process.write(generator.base)
    for number in range(3):
        process.ref(generator.base, number)
    process.unref(1)
    generator.random.seed(0)
    generator._draw("ref", process)
    assert [step[:2] + step[3:] for step in generator.steps] == [("ref", 0, 1)]


def test_a_seed_names_the_same_program_for_good() -> None:
    """Whoever reports a difference names kind and seed."""
    programs = [random_scenario(seed, kind).text() for kind in KINDS if kind not in LATER for seed in range(12)]
    assert digest(programs) == "8e68ce0f8155eb21"
    for kind, told in LATER.items():
        assert digest(random_scenario(seed, kind).text() for seed in range(12)) == told, kind


def test_what_moves_away_and_back_reaches_the_merge_that_loses_an_anon_vma() -> None:
    """The bug of 6.16 to 6.18.7, which a hundred thousand programs of the older kinds never met."""
    early, late = af.Policy.at("6.17"), af.Policy.at("6.18.8")
    programs = [random_scenario(seed, "moved") for seed in range(40)]
    assert any(program.run(early).compare(program.run(late)) for program in programs)


LATER = {
    "mappings": "ef2df208de733abf",
    "free": "ef3a4d228582fd0f",
    "guard": "a2e9da39ea6413d1",
    "moved": "1a886c8f998d9aad",
    "knobs": "f4b05712bb55f795",
    "collapse": "37f2f3f1acdc5148",
    "locked": "cc6f932de054dfbe",
    "split": "09c3e8afe4a13f5a",
    "shrink": "c2ab3faa8e28b15b",
}
"""Kinds that came later, each with what its first seeds name."""


def digest(programs: Iterable[str]) -> str:
    return hashlib.sha256("".join(programs).encode()).hexdigest()[:16]


# --- what can be made can be read again -----------------------------------------------------------------------------

REFUSABLE = ("munmap", "mremap", "mprotect", "madvise", "pin", "unpin", "gup", "ref", "unref", "dma_read", "dma_write")


def draw_step(draw: Callable[[Any], Any], pages: int, alive: list[bool]) -> Step:
    name = draw(st.sampled_from([name for name, op in TABLE.items() if op.recorded]))
    number = draw(st.sampled_from([number for number, lives in enumerate(alive) if lives]))
    if name == "exit" and sum(alive) == 1:
        name = "fork"
    n, how = draw(st.integers(1, pages)), draw(st.sampled_from(ops.WORDS["how"]))
    n = n if {"n", "size"} & set(TABLE[name].arguments) else 1
    kinds = {
        "page": st.integers(0, pages - n), "newpage": st.integers(0, pages - n), "n": st.just(n),
        "byte": st.integers(0, 255), "prot": st.sampled_from(list(PROTECTIONS)), "advice": st.sampled_from(ADVICE),
        "disabled": st.sampled_from(list(ops.THP_DISABLED)),
        "which": st.just(1), "id": st.integers(0, 3), "k": st.integers(0, 3), "how": st.just(how),
        "order": st.sampled_from((0, 2, 4)),
        "place": st.none() if how == "anywhere" else st.integers(0, pages - n),
        "size": st.integers(0, n), "newsize": st.integers(0, n), "move": st.sampled_from(ops.WORDS["move"]),
    }  # fmt: skip
    step = (name, number, *(draw(kinds[kind]) for kind in TABLE[name].arguments))
    ops.check_step(step, pages, alive)
    return step


@st.composite
def scenarios(draw: Callable[[Any], Any]) -> af.Scenario:
    pages = draw(st.integers(1, 40))
    alive = [True]
    steps = [draw_step(draw, pages, alive) for _ in range(draw(st.integers(0, 12)))]
    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
    orders = tuple(draw(st.lists(st.integers(2, 9), max_size=3)))
    return af.Scenario(
        pages, tuple(steps), orders, draw(st.integers(0, 511)), draw(text), draw(text),
        draw(st.dictionaries(st.integers(2, 9), st.sampled_from(KNOBS), max_size=3)),
        draw(st.sampled_from(THP)), draw(st.sampled_from(ADVISED)),
    )  # fmt: skip


@settings(max_examples=examples(60), deadline=None, derandomize=True, database=None)
@given(scenarios())
def test_every_scenario_can_be_written_and_read_again(scenario: af.Scenario) -> None:
    assert af.Scenario.parse(scenario.text()) == scenario
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.scenario"
        path.write_text(scenario.text(), encoding="utf-8")
        assert af.Scenario.load(path) == scenario


@settings(max_examples=examples(30), deadline=None, derandomize=True, database=None)
@given(scenarios(), st.sampled_from(("6.1.192", "6.12.117", "6.18.44")))
def test_every_run_of_the_model_can_be_recorded_and_replays_against_itself(scenario: af.Scenario, kernel: str) -> None:
    policy = af.policy_for_kernel(kernel)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.json.gz"
        assert af.write_recording(path, kernel, [scenario.run(policy, frames=1 << 12)]) == (1, len(scenario.steps))
        recording = af.read_recording(path)
    assert recording.programs[0].scenario == scenario.but(about="")
    assert af.replay(recording).mismatches == ()


def test_a_pmd_that_another_process_has_split_replays_against_itself(tmp_path: Path) -> None:
    """One process maps 2 MiB by a PMD, the other by PTEs and less: bit 56 is written as pagemap would show it."""
    program = (("write", 0, 0, 1), ("fork", 0), ("munmap", 1, 100, 1), ("write", 1, 200, 2), ("read", 0, 0))
    scenario = af.Scenario(512, program, (9,))
    for kernel in ("6.1.192", "6.12.117", "6.18.44"):
        path = tmp_path / f"{kernel}.json.gz"
        af.write_recording(path, kernel, [scenario.run(af.policy_for_kernel(kernel))])
        recording = af.read_recording(path)
        assert af.replay(recording).mismatches == ()
        once = recording.programs[0].steps[3]["view"]["0"][100][3]
        assert once == (kernel == "6.12.117")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain-name_1.2+x", "scenario plain-name_1.2+x"),
        ("", "scenario unnamed"),
        ("unnamed", 'scenario "unnamed"'),
        ("two words", 'scenario "two words"'),
        ("x\nexit 0", 'scenario "x\\nexit 0"'),
        ("a # b", 'scenario "a # b"'),
        ('say "so"', 'scenario "say \\"so\\""'),
        ("line\u2028break", 'scenario "line\\u2028break"'),
    ],
)
def test_a_name_makes_no_step(name: str, line: str) -> None:
    scenario = af.Scenario(4, (("write", 0, 0, 1),), name=name)
    assert scenario.text().splitlines()[0] == line
    assert af.Scenario.parse(scenario.text()) == scenario


@pytest.mark.parametrize(
    ("about", "kept"),
    [
        ("  two lines,\n   and more  \n\n", "two lines,\nand more"),
        ("a\n\n  b", "a\n\nb"),
        ("a\x0bb\u2028 c\r\nd", "a\nb\nc\nd"),
        ("# no comment", "# no comment"),
        ("scenario x\nexit 0", "scenario x\nexit 0"),
    ],
)
def test_what_a_scenario_shows_is_lines(about: str, kept: str) -> None:
    scenario = af.Scenario(4, (("write", 0, 0, 1),), about=about)
    assert scenario.about == kept
    assert af.Scenario.parse(scenario.text()) == scenario


# --- what is read is held to bounds ---------------------------------------------------------------------------------


def one_line(error: type[ValueError], call: Callable[[], object], *words: str) -> None:
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert all(word in message for word in words), message


READ_ERRORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "span": ("pages 16\nwrite 0 0..99999999999\n", ("line 2", "page 99999999999 is outside")),
    "span before pages": ("read 0 0..99999999999\npages 16\n", ("line 1", "page 99999999999 is outside")),
    "long span": ("pages 200000\nread 0 0..199999\n", ("line 2", "200,000 steps", "100,000")),
    "pages": ("pages 268435454\n", ("line 1", "pages=268435454", "1,048,576")),
    "digits": (f"pages 16\nread 0 {'9' * 5000}\n", ("line 2", "not a number")),
    "digits of pages": (f"pages {'9' * 5000}\n", ("line 1", "not a number")),
    "foreign digits": ("pages \u0661\u0662\n", ("line 1", "not a number")),
    "id": ("pages 16\npin 0 0 1 99999999999\n", ("line 2", "id is 99999999999")),
    "word": (f"pages 16\n{'x' * 5000}\n", ("line 2", "neither a field nor an operation")),
    "twice": ("pages 16\npages 20\n", ("line 2", "pages is said twice")),
    "quotes": ('scenario "no end\npages 4\n', ("line 1",)),
    "no string": ('scenario "\\x"\npages 4\n', ("line 1", "JSON string")),
    "skew": ("pages 4\nskew 512\n", ("line 2", "skew=512")),
    "knobs": ("pages 4\nknobs 4:always\n", ("line 2", "4=always 9=inherit")),
    "knobs twice": ("pages 4\nknobs 4=always 4=never\n", ("line 2", "once a size")),
    "knobs and orders": ("pages 4\norders 4\nknobs 4=always\n", ("orders and knobs",)),
    "thp": ("pages 4\nthp sometimes\n", ("thp='sometimes'", "'madvise'")),
}


@pytest.mark.parametrize("which", READ_ERRORS)
def test_a_scenario_file_does_not_grow_and_names_the_line(which: str) -> None:
    text, words = READ_ERRORS[which]
    tracemalloc.start()
    begun = time.process_time()
    try:
        one_line(af.ScenarioError, lambda: af.Scenario.parse(text, "mine.scenario"), "mine.scenario", *words)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 5


def test_a_byte_behind_a_span_is_the_byte_of_each_page() -> None:
    steps = af.Scenario.parse("pages 4\nwrite 0 1..3 9\nwrite 0 2..3\n").steps
    assert steps == (*(("write", 0, page, 9) for page in (1, 2, 3)), ("write", 0, 2, 3), ("write", 0, 3, 4))


def test_spans_together_have_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "MOST_STEPS", 100)
    text = "pages 60\n" + 2 * "read 0 0..59\n"
    one_line(af.ScenarioError, lambda: af.Scenario.parse(text, "mine"), "mine, line 3", "120 steps", "at most 100")
    assert len(af.Scenario.parse("pages 60\nread 0 0..59\nread 0 0..39\n").steps) == 100


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"skew": True}, ("skew=True",)),
        ({"pages": True}, ("pages=True",)),
        ({"pages": 1 << 21}, ("pages=2097152", "1,048,576")),
        ({"steps": (("mprotect", 0, 0, 1, 3.0),)}, ("prot 3.0",)),
        ({"steps": (("mprotect", 0, 0, 1, True),)}, ("prot True",)),
        ({"steps": (("mprotect", 0, 0, 1, [3]),)}, ("prot [3]",)),
        ({"steps": (("madvise", 0, 0, 1, ["dontneed"]),)}, ("advice ['dontneed']",)),
        ({"steps": (("read", 0, 1 << 70),)}, ("page is 1180591620717411303424",)),
        ({"steps": (("unpin", 0, 1 << 31),)}, ("id is 2147483648",)),
        ({"steps": (("x" * 5000, 0),)}, ("there is no operation",)),
        ({"steps": (("fork", 0),) * 100_001}, ("100,001 steps", "100,000")),
        ({"orders": ("4" * 5000,)}, ("order '444",)),
        ({"knobs": {4: "on"}}, ("knobs={4: 'on'}", "order 4", "always, madvise, inherit, never")),
        ({"knobs": {1: "always"}}, ("order 1", "2 to 9")),
        ({"knobs": 4}, ("knobs=4",)),
        ({"knobs": ((4, "always", 0),)}, ("knobs=",)),
        ({"thp": "inherit"}, ("thp='inherit'", "'never'")),
        ({"advice": "dontneed"}, ("advice='dontneed'", "'nohugepage'")),
        ({"steps": (("thp_disable", 0, "maybe"),)}, ("no disabled 'maybe'", "yes, no, except_advised")),
        ({"name": 7}, ("7", "no text")),
        ({"name": None}, ("None", "no text")),
        ({"name": "\ud800"}, ("no text",)),
        ({"about": "\ud800"}, ("no text",)),
    ],
)
def test_a_scenario_that_could_not_be_read_again_cannot_be_made(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    one_line(af.ScenarioError, lambda: af.Scenario(**{"pages": 16, "steps": (), **fields}), *words)


def test_a_scenario_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    one_line(af.ScenarioError, lambda: af.Scenario.load("x" * 300), "there is no scenario")
    # A path that is none is told as every reader tells it: no permission is no reason to look among the names.
    one_line(af.ScenarioError, lambda: af.Scenario.load(f"{tmp_path}/{'x' * 300}.scenario"), "File name too long")
    one_line(af.ScenarioError, lambda: af.Scenario.load(f"{tmp_path}/none.scenario"), "No such file")
    one_line(ValueError, lambda: af.Scenario.load(f"{tmp_path}/\0.scenario"), "null byte")
    path = tmp_path / "latin.scenario"
    path.write_bytes(b"# \xe9t\xe9\npages 4\n")
    one_line(af.ScenarioError, lambda: af.Scenario.load(path), str(path), "UTF-8")
    path.write_bytes(b"\xef\xbb\xbfpages 4\n")
    assert af.Scenario.load(path).pages == 4


def bomb(path: Path, head: bytes, mebibytes: int = 512) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("read", "error"),
    [(af.read_recording, af.RecordingError), (af.Scenario.load, af.ScenarioError)],
    ids=["recording", "scenario"],
)
def test_a_small_file_that_unpacks_to_much_is_not_unpacked(
    read: Callable[[Path], object], error: type[ValueError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most in ("MOST_BYTES", "MOST_TEXT_BYTES"):
        monkeypatch.setattr(formats, most, 1 << 20)
    path = tmp_path / "bomb.json.gz"
    bomb(path, b'{"format": "anonfolio-recording/1", "x": "', 64)
    tracemalloc.start()
    try:
        one_line(error, lambda: read(path), str(path), "more than 1,048,576 bytes")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


RECORDING_ERRORS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nested": (b"[" * 100_000, ("not JSON",)),
    "digits": (b'{"format": ' + b"9" * 5000 + b"}", ("not JSON",)),
    "trailing": (gzip.compress(b"{}") + b"more", ("damaged",)),
    "no programs": (b'{"format": "anonfolio-recording/1", "kernel": "6.18", "programs": []}', ("holds no program",)),
    "format": (json.dumps({"format": "x" * 10_000}).encode(), ("format is 'xxx",)),
    "long kernel": (
        json.dumps({"format": "anonfolio-recording/1", "kernel": "6." * 9999, "programs": [0]}).encode(),
        ("kernel is",),
    ),
    "machine": (
        b'{"format": "anonfolio-recording/1", "kernel": "6.18", "machine": ["x"], "programs": [0]}',
        ("machine is ['x']",),
    ),
    "page": (
        b'{"format": "anonfolio-recording/1", "kernel": "7.3", "machine": "aarch64", "page": 65536, "programs": [0]}',
        ("page is 65536", "4096", "16384"),
    ),
    "kernel": (json.dumps({"format": "anonfolio-recording/1", "kernel": ["x"] * 9999}).encode(), ("kernel is",)),
}


@pytest.mark.parametrize("which", RECORDING_ERRORS)
def test_a_recording_that_is_none_is_one_line_that_names_the_file(which: str, tmp_path: Path) -> None:
    content, words = RECORDING_ERRORS[which]
    path = tmp_path / "bad.json.gz"
    path.write_bytes(content)
    one_line(af.RecordingError, lambda: af.read_recording(path), str(path), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(skew=True), ("skew=True",)),
        (lambda p: p["program"].__setitem__(0, ["mprotect", 0, 0, 1, 3.0]), ("prot 3.0",)),
        (lambda p: p["program"].__setitem__(0, ["mprotect", 0, 0, 1, [3]]), ("prot [3]",)),
        (lambda p: p.update(name=["a"]), ("no text",)),
        (lambda p: p.update(knobs=[4]), ("knobs is [4]", "{'4': 'always'}")),
        (lambda p: p.update(knobs={"x": "always"}), ("knobs is",)),
        (lambda p: p.update(knobs={"4": ["always"]}), ("order 4",)),
        (lambda p: p.update(thp=3), ("thp=3",)),
        (lambda p: p["steps"][0].update(value=True), ("'value'", "True")),
        (lambda p: p["steps"][0]["view"]["0"].__setitem__(1, [0, 0, 1 << 61, 1]), ("page 1", str(1 << 61))),
        (lambda p: p["steps"][0]["view"]["0"].__setitem__(1, [0, 0, 3, 1]), ("page 1", "[0, 0, 3, 1]")),
        (lambda p: p["steps"][0]["view"]["0"].__setitem__(1, [0, 4, 4, 1]), ("page 1", "[0, 4, 4, 1]")),
        (lambda p: p["steps"][0]["view"]["0"].__setitem__(1, [0, 0, 4, 2]), ("page 1", "[0, 0, 4, 2]")),
        (lambda p: p["steps"][0]["view"].update({"\u0661": [0] * 4}), ("\u0661",)),
    ],
)
def test_a_recorded_program_that_none_can_be_is_told(
    change: Callable[[dict[str, Any]], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "changed.json.gz"
    af.write_recording(path, "6.18.44", [af.Scenario(4, (("write", 0, 0, 1),), name="one").run()])
    content = json.loads(gzip.decompress(path.read_bytes()))
    assert af.read_recording(path).programs[0].scenario.name == "one"
    change(content["programs"][0])
    path.write_text(json.dumps(content), encoding="utf-8")
    one_line(af.RecordingError, lambda: af.read_recording(path), f"{path}, program 0", *words)


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files have a name from the beginning here")
def test_nothing_is_seen_of_a_file_until_it_is_complete(tmp_path: Path) -> None:
    """So that nothing stays of it when its writer is killed."""
    path = tmp_path / "x"
    for content in (b"one", b"another"):
        (tmp_path / "x.part").write_bytes(b"of a run that was killed by another system")
        with formats.new_file(path) as file:
            file.write(content)
            file.flush()
            assert {each.name: each.stat().st_size for each in tmp_path.iterdir()}.get("x.part") != len(content)
        assert (list(tmp_path.iterdir()), path.read_bytes()) == ([path], content)


def test_a_recording_without_programs_is_not_written(tmp_path: Path) -> None:
    one_line(af.RecordingError, lambda: af.write_recording(tmp_path / "none.json.gz", "6.18.44", []), "no program")
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_grows_too_large_to_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anonfolio.witness.recording.MOST_BYTES", 2000)
    runs = [af.Scenario(16, tuple(("write", 0, page, 1) for page in range(16))).run()]
    one_line(af.RecordingError, lambda: af.write_recording(tmp_path / "big.json.gz", "6.18.44", runs), "1 programs")
    assert list(tmp_path.iterdir()) == []


def test_a_search_from_a_program_with_large_numbers_names_its_states() -> None:
    """Pin numbers and references count beyond 16 bits; a state's name holds them."""
    pins = tuple(("pin", 0, 0, 1, number) for number in range(40, 80))
    start = af.Scenario(2, (("write", 0, 0, 1), *pins, ("pin", 0, 1, 1, 1 << 20)), ())
    found = counterexample("linux-6.15", start=start, steps=1, operations=("fork", "write"))
    assert not found
    assert found.states > 1


@pytest.mark.parametrize(
    "bound", [{"pages": 100_000}, {"steps": 10**9}, {"processes": 7}, {"pages": 2.5}, {"steps": True}]
)
def test_a_search_that_cannot_end_is_refused(bound: dict[str, Any]) -> None:
    name, value = next(iter(bound.items()))
    one_line(ValueError, lambda: counterexample("rfc-v2", **bound), f"{name}={value}", "at most")


def test_a_search_over_nothing_is_refused() -> None:
    one_line(ValueError, lambda: counterexample("rfc-v2", operations=()), "'nothing'", "write")


def test_random_lines_are_a_scenario_or_one_line() -> None:
    source = random.Random(5)
    words = [
        "pages",
        "orders",
        "skew",
        "scenario",
        "write",
        "read",
        "fork",
        "exit",
        "0",
        "0",
        "1",
        "4",
        "0..3",
        '"',
        "#",
    ]
    read = 0
    for _ in range(3000):
        lines = [" ".join(source.choices(words, k=source.randint(1, 4))) for _ in range(source.randint(0, 3))]
        try:
            scenario = af.Scenario.parse("\n".join(["pages 8", *lines]), "some.scenario")
        except ValueError as error:
            one_line(af.ScenarioError, partial(_raise, error), "some.scenario")
            continue
        read += 1
        assert af.Scenario.parse(scenario.text()) == scenario
    assert read > 100


def _raise(error: Exception) -> None:
    raise error


def test_what_a_run_keeps_of_its_moments_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    program = af.Scenario(512, tuple(("write", 0, page, 1) for page in range(200)))
    monkeypatch.setattr(scenario_module, "MOST_KEPT_BYTES", 1 << 20)
    with pytest.raises(af.ScenarioError, match=r"^step \d+ of 200: .* more than 1 MiB; take fewer .* than 512$"):
        program.run()
    # It is what it keeps that counts, not how many steps there are.
    assert len(af.Scenario(16, program.steps[:16] * 12).run("linux-6.15")) == 192
