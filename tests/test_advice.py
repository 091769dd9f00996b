"""advise: sizes as people write them, what is suggested and when nothing is, the CPU it is for, its figure, errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from live_support import needs_kernel

from anonfolio.__main__ import _bytes as room
from anonfolio.__main__ import main
from anonfolio.advising import called, cpus_named, input_again
from anonfolio.commands import progress_line
from anonfolio.draw.advised import advice_svg, advice_text, measured_faults
from anonfolio.draw.compared import compared_text
from anonfolio.hardware.advice import (
    GOOD_ENOUGH,
    LEAST_MS,
    MEMORY_PAGES,
    SETTINGS,
    Advice,
    Ahead,
    Option,
    advise,
    faults_so_far,
    in_pieces,
    reason,
    replayed,
    suggested,
)
from anonfolio.hardware.cost import COLD, ns, read_table
from anonfolio.hardware.cpu import cpu_told, this_cpu
from anonfolio.hardware.tlb import CORTEX_A76, GOLDEN_COVE, NEOVERSE_N1, ZEN_2
from anonfolio.hardware.trace import (
    ALL_SIZES,
    DATA_DIR,
    POINTS,
    Compared,
    Counted,
    Point,
    Replay,
    Setting,
    Trace,
    read_measured,
    read_trace,
    replay,
    settings_named,
    size_names,
    sizes_named,
    write_trace,
)
from anonfolio.hardware.trust import Trust, trust
from anonfolio.kernel.policy import policy_for_kernel, policy_named
from anonfolio.program.pools import LOST
from anonfolio.witness.here import LiveError

COMPILE = DATA_DIR / "compile-6.18.44.npz"
XEON = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {}\nmodel name\t: A Xeon\n\nvendor_id\t: another\n"


@pytest.fixture(scope="module")
def advice() -> Advice:
    return advise(read_trace(COMPILE), table=read_table("linux-6.18.44"), cpu=cpu_told(XEON.format(207)))


@pytest.fixture(scope="module")
def short() -> Trace:
    """How the compile begins."""
    whole, accesses = read_trace(COMPILE), 3000
    first = slice(0, accesses)
    processes = tuple({"name": about["name"], "elsewhere": 0} for about in whole.processes)
    return replace(
        whole, vpn=whole.vpn[first], process=whole.process[first], code=whole.code[first], processes=processes,
        calls=tuple(call for call in whole.calls if call.at <= accesses), kernel_faults=accesses,
    )  # fmt: skip


@pytest.fixture(scope="module")
def empty() -> Replay:
    """A replay to make others of."""
    trace = read_trace(COMPILE)
    return replay(replace(trace, vpn=trace.vpn[:0], process=trace.process[:0], code=trace.code[:0], calls=()))


def option(of: Replay, orders: tuple[int, ...], time_ms: float, held: int, never: int) -> Option:
    changed = replace(of, orders=orders, held_peak_pages=held, touched_pages=held - never)
    return Option(changed, time_ms, None)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "orders"),
    [
        ("64k", (4,)), ("64K", (4,)), ("64kB", (4,)), ("64KiB", (4,)), ("16k+64k", (2, 4)), ("64k + 16k", (2, 4)),
        ("all", ALL_SIZES), ("All", ALL_SIZES), ("2M", (9,)), ("2048k", (9,)), ("1m", (8,)), ("1024K", (8,)),
        ("all+2M", (*ALL_SIZES, 9)), ("4k", ()), ("4k+64k", (4,)), ("64k+64k", (4,)),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str, orders: tuple[int, ...]) -> None:
    assert sizes_named(text) == orders
    assert sizes_named(size_names(orders)) == orders


@pytest.mark.parametrize("text", ["", "8k", "0k", "64", "64g", "+", "64k+", "٦٤k", "3k", "4096k", "64k;2M", "-64k"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; there are 4K alone, 16K, 32K"):
        sizes_named(text)


def test_settings_are_listed_with_commas_or_spaces_and_each_is_taken_once() -> None:
    assert settings_named(["64k,16k+64k", "all", "64K,"]) == [(4,), (2, 4), ALL_SIZES]


# --- what is suggested ------------------------------------------------------------------------------------------------


def test_of_what_saves_nearly_as_much_time_the_one_with_least_memory_is_suggested(empty: Replay) -> None:
    base = option(empty, (), 100, 64000, 0)
    small, mid, fast = (
        option(empty, orders, time, 64000 + never, never)
        for orders, time, never in (((4,), 43, 200), ((2, 4), 41.9, 250), (ALL_SIZES, 39, 460))
    )
    assert suggested(base, (small, mid, fast)) is mid
    assert 100 - mid.time_ms >= GOOD_ENOUGH * 61 > 100 - small.time_ms
    assert reason(base, mid, (small, mid, fast)).endswith("never written; all saves 2.9 ms more for 0.8 MiB more.")


def test_memory_that_is_far_above_that_of_4k_is_not_worth_the_time(empty: Replay) -> None:
    base = option(empty, (), 100, 4000, 0)
    sparse = option(empty, (9,), 10, 4000 + MEMORY_PAGES + 1, MEMORY_PAGES + 1)
    assert suggested(base, (base, sparse)) is base
    assert "without much more memory (2M takes 10.0 ms instead of 100.0 ms" in reason(base, base, (base, sparse))
    fits = replace(sparse, replay=replace(sparse.replay, held_peak_pages=4000 + MEMORY_PAGES))
    assert suggested(base, (base, fits)) is fits


def test_a_program_that_hardly_faults_has_nothing_to_save(advice: Advice) -> None:
    few = replace(advice.base, time_ms=LEAST_MS / 2)
    options = tuple(replace(each, time_ms=each.time_ms / 1e6) for each in advice.options)
    told = replace(advice, base=few, options=options)
    assert told.suggested is few
    assert len(told.sentences) == 1
    assert told.sentences[0].endswith("anonymous faults take 0.25 ms, so that there is nothing to save.")
    assert replace(told, base=replace(few, time_ms=LEAST_MS)).suggested is not few


def test_what_saves_next_to_nothing_is_not_suggested(empty: Replay) -> None:
    base, other = option(empty, (), 100, 4000, 0), option(empty, (4,), 96, 4000, 0)
    assert suggested(base, (other,)) is base
    assert reason(base, base, (other,)) == "Suggest 4K: no set of sizes saves enough time (64K: 96.0 ms, 4K: 100.0 ms)."
    nothing = option(empty, (), 0, 0, 0)
    assert suggested(nothing, (nothing,)) is nothing


def test_2m_is_remarked_on_where_most_memory_comes_in_smaller_pieces(advice: Advice, empty: Replay) -> None:
    huge = next(each for each in advice.options if each.replay.orders == (9,))
    allocated = huge.replay.allocated
    assert (allocated[9] << 9) > sum(count << order for order, count in allocated.items()) / 2
    assert list(in_pieces(advice.base, [huge])) == []
    counters = replace_allocated(empty, {0: 3 << 9, 9: 1})
    pieces = Option(replace(counters, orders=(9,)), 1, None)
    assert list(in_pieces(pieces, [pieces])) == [
        "2M alone: 75 % of the memory first touched still comes as 4K (areas too short for more)."
    ]
    # A program whose zero pages were huge has few faults left, whatever it touched first.
    assert list(in_pieces(advice.base, [pieces])) == []


def replace_allocated(of: Replay, allocated: dict[int, int]) -> Replay:
    counters = of.counters.copy()
    for order, count in allocated.items():
        counters.anon_fault_alloc[order] += count
    return replace(of, counters=counters)


# --- the advice -------------------------------------------------------------------------------------------------------


def test_an_option_is_the_replay_of_the_trace_priced(advice: Advice) -> None:
    assert [each.replay.orders for each in advice.options] == list(SETTINGS)
    found = replay(read_trace(COMPILE), (2, 4))
    mine = advice.options[2]
    assert mine.replay.faults == found.faults
    assert (mine.faults, mine.peak_mib) == (found.anonymous, found.held_peak_pages / 256)
    assert mine.never_written_mib == found.never_written_pages / 256
    assert mine.time_ms == pytest.approx(ns(found, read_table("linux-6.18.44")) / 1e6)
    # A Golden Cove keeps 2,048 entries for 4K or 2M pages: folios between them reach no further.
    assert [each.reach_mib for each in advice.options[:4]] == [8.0] * 4
    assert advice.options[4].reach_mib is not None
    assert advice.options[4].reach_mib > 8
    assert advice.base is advice.options[0]


def test_prices_of_cold_memory_stand_beside_those_of_warm(short: Trace) -> None:
    warm = read_table("linux-6.18.44")
    row = warm.measured[9] | {COLD: [warm.ns_per_page("first_touch", 9) + 4000]}
    found = advise(short, [(), (9,)], table=replace(warm, measured={**warm.measured, 9: row}), cpu=cpu_told("rubbish"))
    for each in found.options:
        pages = each.replay.counters.zeroed
        assert each.cold_ms == pytest.approx(each.time_ms + pages * 4000 / 1e6, rel=0.03)
    lines = advice_text(found).splitlines()
    assert "cold ms" in lines[2]
    assert "cold: where the host had taken free memory back, and adds 4,000 ns a page" in lines
    assert "--cost measure" in advice_text(advise(short, [()], table=warm, cpu=found.cpu))


def test_a_curve_ends_where_the_row_does(advice: Advice) -> None:
    for each in advice.options:
        points = faults_so_far(advice.trace, each.replay)
        assert points[-1] == (len(advice.trace), each.faults)
        assert points == sorted(points)
        assert points[0][1] < points[len(points) // 2][1] < each.faults
        assert max(moment.held_pages for moment in each.replay.curve) <= each.replay.held_peak_pages


def test_the_recorded_kernel_is_trusted_whatever_policy_is_asked_for(
    short: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []

    def noted(trace: Trace, single: Replay) -> Trust:
        held.append(single.policy)
        return trust(trace, single)

    monkeypatch.setattr("anonfolio.hardware.advice.trust", noted)
    found = advise(short, [(4,)], policy_named("rfc-v2"), table=read_table("linux-6.18.44"), cpu=this_cpu())
    assert held == ["linux-6.15"]
    assert found.trust
    assert (found.policy, len(found.options)) == ("rfc-v2", 1)
    assert found.base.replay.policy == "rfc-v2"
    assert found.options[0].faults != replay(short, (4,)).anonymous


def test_no_advice_is_given_where_the_trace_does_not_hold(advice: Advice, short: Trace) -> None:
    trace = replace(short, kernel_faults=2 * short.kernel_faults)
    found = advise(trace, [()], table=advice.table, cpu=advice.cpu)
    assert found.sentences == ("No advice: the prediction does not hold (see Trust).",)
    assert "the prediction is void" in advice_text(found)
    assert "Suggest" not in advice_svg(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes to fork here")
def test_replays_in_processes_of_their_own_are_the_same_in_the_same_order(short: Trace) -> None:
    policy = policy_for_kernel(short.kernel)
    tasks = [(orders, policy) for orders in ((4,), (), ALL_SIZES)]
    assert list(replayed(short, tasks, 2)) == list(replayed(short, tasks, 1))


# --- the CPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "core"),
    [
        (XEON.format(143), GOLDEN_COVE),
        (XEON.format(207), GOLDEN_COVE),
        (XEON.format(85), None),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 49\nmodel name\t: AMD EPYC 7R32\n", ZEN_2),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 1\nmodel name\t: AMD EPYC 7571\n", None),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 49\nmodel name\t: AMD EPYC\n", None),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", NEOVERSE_N1),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n", CORTEX_A76),
        ("processor\t: 0\nCPU implementer\t: 0x61\nCPU part\t: 0xd0c\n", None),
        ("rubbish", None),
    ],
)  # fmt: skip
def test_a_cpu_is_known_by_what_cpuinfo_says_or_said_to_be_unknown(info: str, core: object) -> None:
    cpu = cpu_told(info)
    assert cpu.core is core
    assert core or "not known" in cpu.note


def test_where_the_tlb_is_not_known_no_reach_is_made_up(advice: Advice, short: Trace) -> None:
    unknown = advise(short, [()], table=advice.table, cpu=cpu_told("rubbish"))
    assert unknown.options[0].reach_mib is None
    row = next(line for line in advice_text(unknown).splitlines() if line.startswith("4K"))
    assert row.split()[-1] == "?"
    assert this_cpu(Path("/no such file")).core is None


# --- what is printed and drawn ----------------------------------------------------------------------------------------


def test_the_figure_is_one_svg_for_light_and_dark_that_names_all_it_shows(advice: Advice) -> None:
    drawn = advice_svg(advice)
    root = ElementTree.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in drawn
    said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for each in advice.options:
        assert said.count(each.name) == 2  # beside its bars, and at the end of its curve
        assert f"{each.faults:,}" in said
    assert advice.sentences[0] in said
    assert all(f"P{number} {about['name']}" in said for number, about in enumerate(advice.trace.processes))
    high = float(root.attrib["viewBox"].split()[3])
    assert all(0 < float(element.attrib["y"]) < high for element in root.iter("{http://www.w3.org/2000/svg}text"))


def test_of_several_processes_each_has_its_faults_and_its_peak(advice: Advice) -> None:
    lines = advice_text(advice).splitlines()
    at = lines.index("by process under all, the largest 3:")
    rows = [line.split() for line in lines[at + 2 : at + 5]]
    assert [row[:2] for row in rows] == [["P1", "cc1"], ["P2", "as"], ["P0", "gcc"]]
    suggested_faults = [part.anonymous + part.elsewhere for part in advice.suggested.replay.processes]
    assert [int(row[2].replace(",", "")) for row in rows] == [suggested_faults[number] for number in (1, 2, 0)]
    measured = Setting(
        advice.suggested.replay.orders,
        [9],
        [9],
        [9],
        [9],
        [9],
        ((Counted(1, 1, 1), Counted(2, 2, 2, 2048), Counted(3, 3, 3)),),
    )
    beside = advice_text(replace(advice, measured=(measured,))).splitlines()
    assert [line.split()[-2:] for line in beside[at + 2 : at + 5]] == [["2", "2.0"], ["3", "-"], ["1", "-"]]
    assert beside[at + 5].startswith("copies of file pages")
    assert beside[at + 5].endswith("of P1, P2, P0")
    # Where they are known they are taken off; and a process is found by its name, whoever came first.
    about = tuple(each | {"file_copies": 256} for each in advice.trace.processes)
    known = replace(advice, trace=replace(advice.trace, processes=about))
    swapped = measured._replace(
        processes=((measured.processes[0][1], measured.processes[0][0]),), names=(("cc1", "gcc"),)
    )
    beside = advice_text(replace(known, measured=(swapped,))).splitlines()
    assert [line.split()[-2:] for line in beside[at + 2 : at + 5]] == [["2", "1.0"], ["-", "-"], ["1", "-"]]
    assert not any(line.startswith("copies") for line in beside)


def test_what_was_measured_over_time_lies_as_dots_on_what_is_predicted(advice: Advice) -> None:
    """Whatever the clock: a run under other sizes takes another time, and goes from left to right all the same."""
    option = advice.suggested
    timed = replace(advice, trace=replace(advice.trace, clock=((1000, 400), (len(advice.trace), 2000))))
    exact = tuple(
        tuple(
            Point(timed.trace.part(moment.at), moment.faults[number], moment.rss_pages[number])
            for moment in option.replay.curve
            if number in moment.faults
        )
        for number in range(3)
    )
    counts = [option.replay.total]
    setting = Setting(option.replay.orders, counts, counts, [option.faults], [9], [0], (), exact)
    figure = advice_svg(replace(timed, measured=(setting,)))
    assert "the run&#x27;s time: 0 to 2.0 s as recorded" in figure or "the run's time: 0 to 2.0 s as recorded" in figure
    assert "dots: measured" in figure
    dots = {(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', figure)}
    lines = {(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", figure)}
    assert len(dots) > 64
    assert len(dots - lines) < len(dots) // 8
    assert "<circle" not in advice_svg(timed)
    # The kernel counts copies of file pages, too: they are no memory that a size of folios could change.
    copying = tuple(each | {"file_copies": 64} for each in timed.trace.processes)
    more = tuple(tuple(point._replace(rss_pages=point.rss_pages + 64) for point in curve) for curve in exact)
    known = replace(timed, trace=replace(timed.trace, processes=copying))
    assert advice_svg(replace(known, measured=(setting._replace(curves=more),))) == figure
    assert measured_faults(setting)[-1][1] <= option.faults


def test_a_detailed_comparison_has_processes_and_quarters_of_the_run(advice: Advice) -> None:
    option = advice.suggested
    timed = replace(advice.trace, clock=((len(advice.trace), 2000),))
    parts = tuple(Counted(part.anonymous + part.elsewhere, part.anonymous, 9, 2048) for part in option.replay.processes)
    curve = (Point(0.25, 7, 256), Point(0.5, 9, 512))
    counts = [option.replay.total]
    setting = Setting(option.replay.orders, counts, counts, [option.faults], [9], [0], (parts,), (curve, (), ()))
    head, *lines = compared_text(timed, Compared(setting, option.replay)).splitlines()
    assert head.split() == ["faults", "kernel", "copies", "peak", "MiB", "kernel", "held", "MiB", "at", "exit"]
    for number, part in enumerate(option.replay.processes):
        name, _, faults, kernel, _, _, peak, _ = lines[number].split()
        assert (name, faults, kernel, peak) == (f"P{number}", f"{part.anonymous:,}", f"{part.anonymous:,}", "2.00")
    quarters = [line.split() for line in lines[-4:]]
    assert [(row[0], row[2], row[4]) for row in quarters] == [
        ("25%", "7", "1.00"), ("50%", "9", "2.00"), ("75%", "9", "2.00"), ("100%", "9", "2.00"),
    ]  # fmt: skip
    assert quarters[-1][1] == f"{option.faults:,}"
    left = sum(option.replay.ends[number].anonymous_pages for number in option.replay.curve[-1].rss_pages)
    assert 0 < left < sum(option.replay.curve[-1].rss_pages.values())
    assert quarters[-1][3] == f"{left / 256:,.2f}"
    assert lines[len(parts)].startswith("copies of file pages")
    # As in the table of an advice: by name, whoever came first, and without copies of file pages where they are known.
    names = ["gcc", "cc1", "as"]
    found = replace(option.replay, processes=tuple(map(named, option.replay.processes, names)))
    swapped = setting._replace(processes=(parts[::-1],), names=(tuple(names[::-1]),))
    copies = zip(timed.processes, names, (256, 256, 128), strict=True)
    known = replace(timed, processes=tuple(each | {"name": name, "file_copies": pages} for each, name, pages in copies))
    _, *lines = compared_text(known, Compared(swapped, found)).splitlines()
    told = [line.split() for line in lines[: len(parts)]]
    assert [(row[1], row[3], row[6]) for row in told] == [
        (name, f"{part.anonymous:,}", peak)
        for name, part, peak in zip(names, option.replay.processes, ("1.00", "1.00", "1.50"), strict=True)
    ]
    assert "copies of file pages" not in "".join(lines)
    # Over time, too: who has come first has the curve here, and is called as the last of the prediction.
    assert [line.split()[4] for line in lines[-4:]] == ["0.50", "1.50", "1.50", "1.50"]


def named(part: Any, name: str) -> Any:
    return replace(part, name=name)


def test_what_a_kernel_counted_stands_beside_and_a_wrong_prediction_is_said(advice: Advice) -> None:
    measured = tuple(read_measured(COMPILE.with_suffix(".json")))
    beside = replace(advice, measured=measured)
    assert "43,296 (43,302)" in advice_text(beside)
    assert not beside.wrong
    off = tuple(each._replace(faults=[(2 if each.orders else 1) * count for count in each.faults]) for each in measured)
    wrong = replace(advice, measured=off)
    assert len(wrong.wrong) == len(SETTINGS) - 1
    assert "64K: the prediction is -50.0 % from what the kernel counted" in advice_text(wrong)
    assert "varies" not in advice_text(wrong)
    # Under 4K the program was recorded: where the kernel counts otherwise then, it does something else each time.
    single, *others = off
    assert not single.orders
    varies = replace(advice, measured=(single._replace(faults=[2 * count for count in single.faults]), *others))
    assert "The program itself varies: runs under the same sizes are 50.0 % apart" in advice_text(varies)
    assert not varies.wrong
    rounds = replace(advice, measured=(single, *(each._replace(faults=[98, 100, 101]) for each in others)))
    assert round(rounds.spread, 4) == 0.03
    assert len(rounds.wrong) == len(SETTINGS) - 1


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path, short: Trace) -> Path:
    write_trace(tmp_path / "mine.npz", short)
    return tmp_path / "mine.npz"


def test_a_stored_trace_gives_a_table_and_a_figure_beside_it(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(stored), "--sizes", "64k,all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["sizes", "64K", "all"]
    assert lines[-1] == str(stored.with_name("mine.advise.svg"))
    assert stored.with_name("mine.advise.svg").read_text(encoding="utf-8").startswith("<svg")


def test_the_table_is_there_before_the_figure_is_drawn(
    stored: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def drawn(_: Advice) -> str:
        told.append(capsys.readouterr().out)
        return "<svg/>"

    monkeypatch.setattr("anonfolio.advising.advice_svg", drawn)
    assert main(["advise", str(stored), "--sizes", "64k"]) == 0
    assert "\n64K " in told[0]


def test_prices_are_measured_once_nothing_is_left_to_refuse(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes two minutes: a slip of a key was told after them."""

    def measured(**_: object) -> None:
        raise LiveError("measured")

    for name in ("advising.need_linux", "witness.live.cost.check_possible", "witness.live.trace.check_traced"):
        monkeypatch.setattr(f"anonfolio.{name}", lambda *_: None)
    monkeypatch.setattr("anonfolio.witness.live.cost.measure", measured)
    monkeypatch.chdir(stored.parent)
    wrong = (
        "", "mine.txt", "other.npz", "mine.npz --verify 2", "mine.npz --save x",
        "mine.npz --policy nobody", "mine.npz --set x", "--pid 1 mine.npz", "--pid 1 -- true", "--pid 1 --cpus 0",
        f"--pid {os.getpid()}", "--pid 1 --save no/x", "--", "-- no-such-program", "--save no/x -- true",
        "--seconds 3 -- true", "--cpus x -- true", "mine.npz -- true",
    )  # fmt: skip
    for words in wrong:
        assert main(["advise", "--cost", "measure", *words.split()]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, words
        assert "measured" not in said, words
    for words in ("mine.npz", "-- true"):
        assert main(["advise", "--cost", "measure", *words.split()]) == 2
        assert capsys.readouterr().err == "anonfolio: measured\n"


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_recorder_has_replayed_is_not_replayed_again(
    short: Trace, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, done = short.single, []
    monkeypatch.setattr("anonfolio.hardware.advice.replay", lambda *_, **__: done.append(1))
    recorded = policy_for_kernel(short.kernel)
    assert list(replayed(short, [((), recorded)] * jobs, jobs)) == [single] * jobs
    assert not done
    assert short.single is single


def test_replays_begin_while_the_recorder_settles_its_trace(short: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves as it is has all been replayed by then; what it changes is replayed anew."""
    table, cpu = read_table("linux-6.18.44"), cpu_told("")
    settings = [(4,), (2, 4)]
    wanted = advise(short, settings, table=table, cpu=cpu)
    fresh, unseen = replace(short), np.zeros(len(short), np.int64)
    with Ahead(settings, jobs=2) as ahead:
        assert ahead.settle(fresh, unseen) is fresh
        with monkeypatch.context() as patched:
            patched.setattr("anonfolio.hardware.advice.replay", None)
            patched.setattr("anonfolio.hardware.advice.replayed", None)
            found = advise(fresh, settings, table=table, cpu=cpu, jobs=2, ahead=ahead)
        assert (found.options, found.base, found.trust) == (wanted.options, wanted.base, wanted.trust)
        # Other sizes than those that were begun.
        (other,) = advise(fresh, [(9,)], table=table, cpu=cpu, ahead=ahead).options
        assert other.replay == replay(fresh, (9,), points=POINTS)
    # The last access a second time, which takes no fault: the recorder leaves it out.
    twice = {name: np.append(getattr(short, name), getattr(short, name)[-1:]) for name in ("vpn", "process", "code")}
    with Ahead(settings, jobs=2) as ahead:
        changed = ahead.settle(replace(short, **twice | {"code": twice["code"] & 3}), np.append(unseen, 0))
        assert len(changed) == len(short)
        assert advise(changed, settings, table=table, cpu=cpu, jobs=2, ahead=ahead).options == wanted.options


def as_if_recorded(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever program is run, that is its trace; two processes replay it."""

    def recorded(*told: Any) -> Trace:
        settle = told[-1]
        found: Trace = settle(replace(trace), np.zeros(len(trace), np.int64))
        return found

    monkeypatch.setattr("anonfolio.witness.live.trace.record", recorded)
    monkeypatch.setattr("anonfolio.witness.live.kernel.kernel_version", lambda: trace.kernel)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.mark.skipif(sys.platform != "linux", reason="a program is recorded on Linux")
def test_what_began_under_a_policy_of_a_file_is_not_done_again(
    short: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rule = "def never(folio, ask):\n    return ask('never', False)\n"
    Path("mine.py").write_text(
        f"import anonfolio as af\n{rule}mine = af.LINUX_6_15.but(name='mine', large_reuse=never)\n"
    )
    as_if_recorded(short, monkeypatch)
    monkeypatch.setattr("anonfolio.hardware.advice.replayed", None)
    assert main(["advise", "--policy", "mine.py", "--sizes", "64k", "--", "true"]) in (0, 1)
    assert "64K" in capsys.readouterr().out


@pytest.mark.parametrize("error", [BlockingIOError, BrokenProcessPool])
def test_a_recording_outlives_that_no_process_is_to_be_had(
    short: Trace, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise error

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", none)
    fresh = replace(short)
    with Ahead([(4,)], jobs=2) as ahead:
        assert ahead.settle(fresh, np.zeros(len(fresh), np.int64)) is fresh
        assert threading.active_count() == 1
        (found,) = advise(fresh, [(4,)], table=read_table("linux-6.18.44"), cpu=cpu_told(""), ahead=ahead).options
    assert found.replay == replay(short, (4,), points=POINTS)


DIES_ELSEWHERE = """import os, signal
import anonfolio as af
def orders(where):
    if os.getpid() != {}:
        os.kill(os.getpid(), signal.SIGKILL)
    return where.enabled()
policy = af.LINUX_6_15.but(name="dies", allowed_orders=orders)
"""
"""A rule that is killed wherever another process than this one asks it, as one that takes too much memory is."""


@pytest.mark.skipif(sys.platform != "linux", reason="a program is recorded on Linux")
def test_a_replay_that_is_killed_is_told_in_a_line_and_the_recording_is_kept(
    short: Trace, stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dies.py").write_text(DIES_ELSEWHERE.format(os.getpid()))
    as_if_recorded(short, monkeypatch)
    asked = ("--policy", "dies.py", "--sizes", "64k,all")
    assert main(["advise", *asked, "--", "true"]) == 2
    told = f"anonfolio: {LOST}; the trace is kept: anonfolio advise true.advise.npz\n"
    assert capsys.readouterr() == ("", told)
    assert len(read_trace("true.advise.npz")) == len(short)
    assert main(["advise", str(stored), *asked]) == 2
    assert capsys.readouterr() == ("", f"anonfolio: {LOST}\n")
    assert (multiprocessing.active_children(), threading.active_count()) == ([], 1)


def test_json_has_all_numbers_in_one_line(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", str(stored), "--sizes", "4k,all", "--json", "--figure", str(stored) + ".svg"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    said = json.loads(out)
    assert (said["format"], said["suggested"], said["trust"]["doubts"]) == ("anonfolio-advice/1", "4K", [])
    assert [row["sizes"] for row in said["settings"]] == ["4K", "all"]
    assert said["settings"][0]["faults"] == 3000
    assert said["settings"][1]["curve"][-1]["accesses"] == 3000
    assert Path(str(stored) + ".svg").exists()


def test_a_trace_that_does_not_hold_is_told_by_the_exit_code(
    stored: Path, short: Trace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trace(stored, replace(short, left_out={"userfaultfd": 1}))
    assert main(["advise", str(stored), "--sizes", "4k"]) == 1
    assert "No advice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("ls", "-l"), "unrecognized arguments: -l"),
        (("ls",), "or a program after two dashes: -- ls"),
        ((), "or a program after two dashes: -- PROGRAM"),
        (("no.npz",), "no.npz: No such file"),
        (("--sizes", "8k", "--", "true"), "'8k' is no size"),
        (("--sizes", "64k", "--cost", "nosuch", "x.npz"), "nosuch: no such table; stored are linux-6.18.44"),
    ],
)
def test_a_wrong_request_gets_one_line(words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["advise", *words])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert why in err


@pytest.mark.parametrize("text", ["0", "k", "16q", "1.5M", "-1M", "16 M", "٦M"])
def test_what_is_no_room_for_a_recording_is_named(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    test_a_wrong_request_gets_one_line((f"--most={text}", "--", "true"), "is no size such as 512K or 16M", capsys)


def test_a_terminal_obeys_no_name_of_a_program_that_runs_or_of_a_file(
    stored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_line() as tell:
        tell("running a\x1b[2Jb")
    assert capsys.readouterr().err == "\r\x1b[Krunning a\ufffd[2Jb\r\x1b[K"
    foreign = stored.rename(stored.with_name("a\x1b[2Jb.npz"))
    assert main(["advise", str(foreign), "--sizes", "64k"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("compile.npz --output table", "--output is for a recording, and a trace is one already"),
        ("compile.npz --most 1M", "--most is for a recording, and a trace is one already"),
        ("compile.npz --save mine", "--save is for a recording, and a trace is one already"),
        ("compile.npz --seconds 5", "--seconds is for a recording, and a trace is one already"),
        (
            "--seconds 5 -- true",
            "--seconds is for a process that runs already (--pid), and a program runs to its end",
        ),
        ("--pid 1 --cpus all", "--cpus is for a program that is started, and a process runs already"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *words.split()]) == 2
    assert capsys.readouterr().err == f"anonfolio: {told}\n"


def test_room_for_a_recording_is_read_as_people_write_it() -> None:
    sizes = {"512k": 1 << 19, "16M": 1 << 24, "16MiB": 1 << 24, "1g": 1 << 30, "700": 700, "2kB": 2048}
    assert {text: room(text) for text in sizes} == sizes


# --- a program --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python3", "np.py", "x"], "np"), (["/usr/bin/sort", "-S", "20M", "nums"], "sort"), (["perl", "np.py"], "np"),
        (["awk", "{ print }", "data.txt"], "awk"),
        (["python3", "missing.py"], "python3"), (["./a.out"], "a"), (["xz", "-k", "text"], "xz"),
    ],
)  # fmt: skip
def test_files_are_called_as_the_script_or_the_program(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("np.py", "text", "nums", "data.txt"):
        (tmp_path / file).touch()
    assert called(command) == name


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--",), "nothing stands after the two dashes"),
        (("x.npz", "--", "true"), "advise takes one thing: x.npz, or the program"),
        (("--save", "no/folder/x", "--", "true"), "no/folder/x: there is no folder no/folder"),
        (("--policy", "nosuch", "--", "true"), "nosuch"),
        (("--figure", "no/x.svg", "--", "true"), "no/x.svg: there is no folder no"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="a program is recorded on Linux")
def test_what_is_wrong_with_a_program_is_said_before_it_runs(
    words: tuple[str, ...],
    why: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    test_a_wrong_request_gets_one_line(words, why, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="a program is recorded on Linux")
def test_a_file_that_is_no_trace_is_not_written_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "true.advise.npz").write_bytes(b"PK precious")
    test_a_wrong_request_gets_one_line(("--", "true"), "is there already, and no trace; say with --save", capsys)
    assert (tmp_path / "true.advise.npz").read_bytes() == b"PK precious"


def test_elsewhere_than_on_linux_one_line_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    test_a_wrong_request_gets_one_line(("--", "true"), "a live run needs Linux", capsys)


def test_what_a_pipe_gives_once_cannot_be_given_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def begins_with(descriptor: int, rounds: int | None) -> Callable[[], None]:
        kept = os.dup(0)
        os.dup2(descriptor, 0)
        try:
            return input_again(rounds)
        finally:
            os.dup2(kept, 0)
            os.close(kept)

    ends = os.pipe()
    with pytest.raises(ValueError, match="its input is a pipe"):
        begins_with(ends[0], 1)
    begins_with(ends[0], None)()
    for end in ends:
        os.close(end)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPUs to choose from here")
def test_cpus_are_all_or_numbers_that_there_are() -> None:
    there = os.sched_getaffinity(0)
    assert cpus_named(None) == frozenset()
    assert cpus_named("all") == there
    assert cpus_named(str(min(there))) == {min(there)}
    for wrong in ("none", "-1", "0-1", ""):
        with pytest.raises(ValueError, match="is neither all nor numbers such as 0,2"):
            cpus_named(wrong)
    with pytest.raises(ValueError, match="there is no CPU 99999 for us"):
        cpus_named("99999")


@pytest.mark.live
@needs_kernel
def test_a_program_is_run_told_and_measured_by_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAID", "from the environment")
    script = "import os; print(os.environ['SAID']); a = bytearray(8 << 20); raise SystemExit(3)"
    options = ["--sizes", "4k,64k", "--verify", "1", "--output", "out", "--cpus", "all"]
    assert main(["advise", *options, "--", sys.executable, "-c", script]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "exit code 3" in lines[1]
    assert "final maps equal" in lines[2]
    assert [line.split()[0] for line in lines[4:6]] == ["4K", "64K"]
    assert (tmp_path / "out").read_text() == "from the environment\n"
    python = Path(sys.executable).stem
    assert lines[-1] == f"{python}.advise.svg  {python}.advise.npz"
    assert read_trace(tmp_path / f"{python}.advise.npz").status == 3
