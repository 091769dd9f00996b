"""A real compile, replayed: the prediction is close, and close for the right reason; bad traces are refused.

The recorded run says what the kernel's own maps held at the end; the measured counts say what it did under each size.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_support import needs_kernel

from anonfolio.__main__ import main
from anonfolio.hardware import trace as hardware_trace
from anonfolio.hardware.cost import Work, ns, read_table
from anonfolio.hardware.trace import (
    ADVICE,
    ALL_SIZES,
    ALONE,
    CALLS,
    DATA_DIR,
    LATE_ACCESSES,
    LATE_CALLS,
    NO_ACCESS,
    NO_HUGE,
    READ_ONLY,
    READ_WRITE,
    Call,
    Compared,
    Counted,
    Point,
    Replay,
    Setting,
    Trace,
    TraceError,
    joined,
    read_measured,
    read_trace,
    replay,
    size_names,
    sizes_named,
    write_measured,
    write_trace,
)
from anonfolio.hardware.trust import trust
from anonfolio.machine.machine import Process
from anonfolio.stream.run import NotYetMapped
from anonfolio.stream.window import Window

COMPILE = DATA_DIR / "compile-6.18.44.npz"
MEASURED = COMPILE.with_suffix(".json")
GENERATOR = Path(__file__).parent.parent / "tools" / "make_c_source.py"
WANTED = ((), (2,), (3,), (4,), (5,), (6,), (7,), (8,), (2, 4), ALL_SIZES)
ALL_WANTED = (*WANTED, (9,))


@pytest.fixture(scope="module")
def compile_trace() -> Trace:
    return read_trace(COMPILE)


@lru_cache
def replayed(orders: tuple[int, ...] = ()) -> Replay:
    """The compile under these sizes."""
    return replay(read_trace(COMPILE), orders)


def measured(orders: tuple[int, ...]) -> Setting:
    """What the kernel did under them."""
    (found,) = (setting for setting in read_measured(MEASURED) if setting.orders == orders)
    return found


# --- the recorded compile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orders", ALL_WANTED, ids=size_names)
def test_prediction_is_within_one_per_cent_of_the_kernel(orders: tuple[int, ...]) -> None:
    found = Compared(measured(orders), replayed(orders))
    assert abs(found.difference) < 0.01, str(found)


@pytest.mark.parametrize("orders", ALL_WANTED, ids=size_names)
def test_faults_in_anonymous_memory_are_the_kernels_to_the_last_one(orders: tuple[int, ...]) -> None:
    assert set(measured(orders).anonymous) == {replayed(orders).anonymous}


@pytest.mark.parametrize("orders", ALL_WANTED, ids=size_names)
def test_memory_grows_as_the_kernels_did(orders: tuple[int, ...]) -> None:
    grown_kib = min(measured(orders).peak_rss_kib) - min(measured(()).peak_rss_kib)
    assert abs(4 * (replayed(orders).rss_peak_pages - replayed().rss_peak_pages) - grown_kib) < 256


def test_measured_settings_are_those_that_were_promised() -> None:
    settings = read_measured(MEASURED)
    assert set(WANTED) <= {setting.orders for setting in settings}
    for setting in settings:
        assert len(setting.faults) == len(setting.traced) == len(setting.peak_rss_kib) >= 3
        assert not any(setting.fallbacks)
        # Two ways to count: the kernel's own, and the tracepoints'.
        assert all(abs(own - seen) <= 8 for own, seen in zip(setting.faults, setting.traced, strict=True))


def test_every_recorded_fault_is_one_under_4k(compile_trace: Trace) -> None:
    found = replayed()
    assert len(compile_trace) > 30_000
    assert found.anonymous == len(compile_trace)
    assert found.total == compile_trace.kernel_faults
    assert found.never_written_pages == 0
    assert found.stepped == 0


def test_mappings_and_pages_at_exit_are_the_kernels(compile_trace: Trace) -> None:
    assert [process["name"] for process in compile_trace.processes] == ["gcc", "cc1", "as"]
    for number, process in enumerate(compile_trace.processes):
        end = replayed().ends[number]
        assert [list(mapping) for mapping in end.mappings] == process["mappings"]
        assert end.anonymous_pages == process["anonymous_pages"]


def test_mappings_at_exit_do_not_depend_on_sizes() -> None:
    small, large = replayed(), replayed((4,))
    for number, end in small.ends.items():
        assert large.ends[number].mappings == end.mappings
    assert large.held_peak_pages > small.held_peak_pages
    assert large.touched_pages >= small.touched_pages
    assert large.rss_peak_pages <= large.held_peak_pages
    assert sum(count << order for order, count in large.allocated.items()) >= large.rss_peak_pages


def test_one_stream_a_stretch_equals_one_access_at_a_time(compile_trace: Trace) -> None:
    some = 1500
    calls = tuple(call for call in compile_trace.calls if call.at <= some)
    cut = replace(
        compile_trace, vpn=compile_trace.vpn[:some], process=compile_trace.process[:some],
        code=compile_trace.code[:some], calls=calls, kernel_faults=some,
    )  # fmt: skip
    single = tuple(call._replace(at=at) for at, call in _one_by_one(cut))
    for orders in ((), (2, 4), ALL_SIZES):
        at_once = replay(cut, orders)
        assert replay(replace(cut, calls=single), orders).faults == at_once.faults
        assert at_once.elsewhere == 0


def _one_by_one(trace: Trace) -> list[tuple[int, Call]]:
    """The calls, and between them for each access a call that does nothing but end the stream."""
    nothing = Call(0, "advise", 0, 0, 1, ADVICE.index("dofork"))
    calls = [(call.at, call) for call in trace.calls]
    started = next(call for call in trace.calls if call.name == "map")
    first = next(at for at, owner in enumerate(trace.process) if owner == started.process)
    ends = {call.process: call.at for call in trace.calls if call.name == "exit"}
    stop = ends.get(started.process, len(trace))
    # At equal places the trace's own calls come first.
    calls += [(at, nothing._replace(process=started.process, vpn=started.vpn)) for at in range(first + 1, stop)]
    return sorted(calls, key=lambda call: call[0])


@pytest.mark.skipif(not GENERATOR.exists(), reason="the generator is not part of this copy")
def test_source_is_the_one_that_was_compiled(compile_trace: Trace, tmp_path: Path) -> None:
    subprocess.run([sys.executable, GENERATOR, tmp_path / "program.c"], check=True)
    assert hashlib.sha256((tmp_path / "program.c").read_bytes()).hexdigest() in compile_trace.about["source"]


@pytest.mark.skipif(sys.platform != "linux", reason="the recorder needs Linux")
@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("echo 'cc1: no space left' >&2; exit 4", "ended with 4 and said: cc1: no space left"),
        ("exit 0", "ended with 0 and said: nothing"),
    ],
)
def test_what_the_compiler_says_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, says: str
) -> None:
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live.trace import COMPILE, write_program

    program = tmp_path / COMPILE[0]
    program.write_text(f"#!/bin/sh\n{compiler}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(LiveError, match=says):
        write_program(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="the recorder needs Linux")
def test_a_32_bit_program_is_refused(tmp_path: Path) -> None:
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live.trace import check_64_bit

    check_64_bit(Path("/proc/self/exe"))
    program = tmp_path / "old"
    program.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(45))
    with pytest.raises(LiveError, match=r"old is no 64-bit program"):
        check_64_bit(program)


def test_data_is_compact() -> None:
    assert COMPILE.stat().st_size + MEASURED.stat().st_size < 1_500_000


def test_command_line_compares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "replay", "--sizes", "64K", "64K+1M"]) == 0
    said = capsys.readouterr().out
    assert f"64K+1M: {replayed((4, 8)).total:,} faults" in said
    assert said.endswith("1 of 1 within 1 %\n")


def test_command_line_says_where_it_is_off(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, compile_trace: Trace
) -> None:
    write_trace(tmp_path / "x.npz", compile_trace)
    write_measured(tmp_path / "x.json", [measured(())._replace(faults=[40_000] * 3)])
    assert main(["trace", "replay", str(tmp_path / "x.npz")]) == 1
    assert "0 of 1 within 1 %; not 4K" in capsys.readouterr().out


# --- one call at a time -----------------------------------------------------------------------------------------------


def small(calls: list[Call], accesses: list[tuple[int, int, bool]], **changes: Any) -> Trace:
    """A trace of (process, page, write) accesses."""
    rows = accesses or [(0, 0, False)][:0]
    fields: dict[str, Any] = {
        "kernel": "6.18.44", "about": {}, "calls": tuple(calls), "blocks": np.arange(8), "processes": ({},),
        "vpn": np.array([page for _, page, _ in rows], np.int64),
        "process": np.array([process for process, _, _ in rows], np.uint8),
        "code": np.array([6 if write else 4 for _, _, write in rows], np.uint8),
        "kernel_faults": len(rows),
    }  # fmt: skip
    return Trace(**(fields | changes))


def writes(*pages: int, process: int = 0) -> list[tuple[int, int, bool]]:
    return [(process, page, True) for page in pages]


SPAWN = Call(0, "spawn", 0)


def test_neighbouring_maps_are_one_mapping_and_take_one_block() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 8, READ_WRITE), Call(0, "map", 0, 8, 8, READ_WRITE)]
    assert replay(small(calls, writes(0, 9, 15)), (4,)).faults == {"first touch": 1}


def test_a_growing_program_is_replayed_in_few_streams_and_comes_out_the_same(
    monkeypatch: pytest.MonkeyPatch, compile_trace: Trace
) -> None:
    streams = []
    touch = Process.touch
    monkeypatch.setattr(Process, "touch", lambda *args, **words: streams.append(1) or touch(*args, **words))
    quick, quick_streams = replay(compile_trace, (2, 4), points=64), len(streams)
    monkeypatch.setattr("anonfolio.hardware.trace.runs_ahead", lambda policy: False)
    assert quick == replay(compile_trace, (2, 4), points=64)
    assert 3 * quick_streams < len(streams) - quick_streams


def test_a_replay_that_went_ahead_too_far_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 8, READ_WRITE), Call(1, "map", 0, 8, 8, READ_WRITE)]
    trace = small(calls, writes(0, 9, 15))
    wanted = replay(trace, (4,))
    assert wanted.faults == {"first touch": 3}

    def refuse(window: Window, order: int) -> np.bool_:
        if window.stream.later:
            raise NotYetMapped
        return np.bool_(True)

    monkeypatch.setattr("anonfolio.stream.plan._mapped_in_time", refuse)
    assert replay(trace, (4,)) == wanted


def test_first_brk_joins_no_neighbour() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 8, READ_WRITE), Call(0, "map", 0, 8, 8, READ_WRITE | ALONE)]
    found = replay(small([*calls, Call(3, "exit", 0)], writes(0, 9, 15)), (4,))
    assert found.faults == {"first touch": 3}
    assert found.ends[0].mappings == ((0, 8), (8, 8))


def test_next_brk_extends_the_first() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 8, READ_WRITE | ALONE), Call(0, "map", 0, 8, 8, READ_WRITE)]
    assert replay(small(calls, writes(0, 9)), (4,)).faults == {"first touch": 1}


def test_exec_populates_the_stack_page_by_page_and_nobody_counts_it() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(0, "populate", 0, 14, 2)]
    found = replay(small(calls, writes(15, 13, 0)), (4, 2))
    # The top block of 4 is not all none; below it one of 4 fits.
    assert found.faults == {"first touch": 2}
    assert found.allocated == {0: 1, 2: 1}
    assert (found.held_peak_pages, found.touched_pages, found.never_written_pages) == (7, 4, 3)


def test_reads_map_the_zero_page_that_a_block_then_avoids() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE)]
    found = replay(small(calls, [(0, 3, False), *writes(5, 3)]), (4, 2))
    assert found.faults == {"zero page read": 1, "first touch": 1, "zero page copy": 1}
    assert found.allocated == {2: 1}


def test_map_stack_has_no_large_folios() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE | NO_HUGE)]
    assert replay(small(calls, writes(0, 1, 2)), (4,)).allocated == {0: 3}


def test_unmapped_and_dropped_pages_fault_again() -> None:
    calls = [
        SPAWN, Call(0, "map", 0, 0, 32, READ_WRITE),
        Call(2, "advise", 0, 0, 16, ADVICE.index("dontneed")),
        Call(3, "unmap", 0, 16, 16), Call(3, "map", 0, 16, 16, READ_WRITE),
    ]  # fmt: skip
    found = replay(small(calls, writes(0, 16, 1, 17)), (4,))
    assert found.faults == {"first touch": 4}
    assert (found.held_peak_pages, found.rss_peak_pages, found.touched_pages) == (32, 32, 2)


def test_moved_pages_come_along() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(1, "move", 0, 0, 16, 512)]
    found = replay(small([*calls, Call(2, "exit", 0)], writes(0, 513)), (4,))
    assert found.faults == {"first touch": 1}
    assert found.ends[0].mappings == ((512, 16),)


def test_a_read_only_map_becomes_writable() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_ONLY), Call(1, "protect", 0, 0, 16, READ_WRITE)]
    found = replay(small(calls, [(0, 0, False), *writes(0)]), (4,))
    assert found.faults == {"zero page read": 1, "zero page copy": 1}


def test_fork_shares_until_a_write() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(1, "fork", 0, argument=1)]
    found = replay(small(calls, [*writes(0), *writes(1, process=1), *writes(2)]), (4,))
    assert found.faults == {"first touch": 1, "cow copy": 2}
    # The turns of the two processes are streams of their own.
    assert found.rss_peak_pages == 32


def test_peak_is_before_memory_is_given_back() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 32, READ_WRITE), Call(2, "unmap", 0, 0, 32), Call(2, "exit", 0)]
    found = replay(small(calls, writes(0, 1)), (4,))
    assert (found.held_peak_pages, found.touched_pages, found.never_written_pages) == (16, 2, 14)
    assert found.ends[0].anonymous_pages == 0


def test_no_peak_is_missed_between_calls_that_release_memory() -> None:
    begin = [SPAWN, Call(0, "map", 0, 0, 32, READ_WRITE)]
    unmaps = [Call(2, "unmap", 0, 31, 1), Call(5, "unmap", 0, 0, 30), Call(5, "exit", 0)]
    found = replay(small([*begin, *unmaps], writes(0, 1, 2, 3, 4)))
    assert (found.held_peak_pages, found.rss_peak_pages, found.touched_pages) == (5, 5, 5)
    # A child that does nothing maps as much as its parent.
    child = [Call(2, "unmap", 0, 31, 1), Call(2, "fork", 0, argument=1), Call(2, "exit", 1), Call(2, "exit", 0)]
    assert replay(small([*begin, *child], writes(0, 1))).rss_peak_pages == 4


def test_frames_given_back_are_not_counted_as_written() -> None:
    calls = [
        SPAWN, Call(0, "map", 0, 0, 2, READ_WRITE | NO_HUGE), Call(2, "unmap", 0, 1, 1),
        Call(2, "map", 0, 512, 16, READ_WRITE),
    ]  # fmt: skip
    found = replay(small(calls, writes(0, 1, 512)), (4,))
    assert (found.held_peak_pages, found.touched_pages) == (17, 2)


def test_elsewhere_is_what_the_kernel_counted_more() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE)]
    found = replay(small(calls, writes(0, 1), kernel_faults=10), (4,))
    assert (found.anonymous, found.elsewhere, found.total) == (1, 8, 9)


def test_progress_goes_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(2, "exit", 0)]
    replay(small(calls, writes(0, 1)), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2, 2)


def test_growth_in_place_is_the_same_mapping_under_every_release() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 8, READ_WRITE), Call(1, "grow", 0, 8, 8), Call(3, "exit", 0)]
    for policy in ("linux-6.3", "linux-6.9", "linux-6.15", "rfc-v2"):
        found = replay(small(calls, writes(0, 8, 15)), (2,), policy)
        assert found.ends[0].mappings == ((0, 16),)
    moved = [*calls[:2], Call(1, "move", 0, 0, 8, 512), Call(1, "grow", 0, 520, 8), Call(3, "exit", 0)]
    found = replay(small(moved, writes(0, 512 + 8, 512 + 15)), (3,))
    # One block of 8 came along, and one more was touched.
    assert (found.faults, found.ends[0].mappings) == ({"first touch": 2}, ((512, 16),))


def test_what_moves_and_leaves_its_mapping_faults_again_there() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(1, "move_keep", 0, 0, 16, 512), Call(3, "exit", 0)]
    found = replay(small(calls, writes(0, 512, 1)), (4,))
    assert found.faults == {"first touch": 2}
    assert (found.ends[0].mappings, found.ends[0].anonymous_pages) == (((0, 16), (512, 16)), 32)


def test_a_locked_part_is_a_mapping_of_its_own() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 32, READ_WRITE), Call(0, "lock", 0, 8, 8, 1)]
    found = replay(small([*calls, Call(3, "exit", 0)], writes(0, 8, 16)), (4,))
    assert found.ends[0].mappings == ((0, 8), (8, 8), (16, 16))
    assert found.allocated == {0: 2, 4: 1}
    again = [*calls, Call(0, "lock", 0, 8, 8, 0), Call(3, "exit", 0)]
    assert replay(small(again, writes(0, 8, 16)), (4,)).ends[0].mappings == ((0, 32),)


def test_a_process_that_wants_no_large_folios_gets_none() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 32, READ_WRITE), Call(0, "thp_disable", 0, argument=1)]
    assert replay(small(calls, writes(0, 1)), (4,)).allocated == {0: 2}
    again = [*calls, Call(1, "thp_disable", 0)]
    assert replay(small(again, writes(0, 16)), (4,)).allocated == {0: 1, 4: 1}
    spared = [*calls[:2], Call(0, "thp_disable", 0, argument=2), Call(0, "advise", 0, 0, 16, ADVICE.index("hugepage"))]
    assert replay(small(spared, writes(0, 16)), (4,)).allocated == {0: 1, 4: 1}


def test_no_access_is_no_access() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, NO_ACCESS), Call(0, "map", 0, 16, 16, READ_ONLY)]
    found = replay(small([*calls, Call(0, "protect", 0, 0, 8, READ_WRITE), Call(1, "exit", 0)], writes(3)), (2,))
    assert found.ends[0].mappings == ((0, 8), (8, 8), (16, 16))
    with pytest.raises(TraceError, match="SIGSEGV"):
        replay(small(calls, writes(3)))


def test_guard_markers_take_pages_away_and_stand_in_the_way_of_a_block() -> None:
    advice = [Call(1, "advise", 0, 0, 4, ADVICE.index(name)) for name in ("guard_install", "guard_remove")]
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), advice[0]]
    assert replay(small(calls, writes(0, 8)), (4,)).held_peak_pages == 16
    assert replay(small([*calls[:2], advice[0]._replace(at=0)], writes(8)), (4, 2)).allocated == {2: 1}
    assert replay(small([*calls, advice[1]], writes(0, 1)), (4,)).allocated == {0: 1, 4: 1}


def test_each_process_has_its_own_counts() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(1, "fork", 0, argument=1), Call(3, "exit", 1)]
    trace = small(
        calls, [*writes(0), *writes(1, 2, process=1), *writes(3)], processes=({"name": "a"}, {"elsewhere": 5})
    )
    found = replay(trace, (4,), "rfc-v2-fixed")
    parent, child = found.processes
    assert (parent.name, parent.counters.faults, child.counters.faults) == (
        "a", {"first touch": 1, "exclusive reuse": 1}, {"cow copy": 1},
    )  # fmt: skip
    assert (child.counters.copied, child.elsewhere, child.rss_peak_pages, child.held_pages) == (16, 5, 16, 16)
    assert (parent.rss_peak_pages, parent.held_pages, parent.anonymous) == (16, 16, 2)
    assert found.anonymous == parent.anonymous + child.anonymous
    assert found.counters.copied == 16


def test_a_block_that_is_copied_costs_what_its_pages_cost() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(1, "fork", 0, argument=1)]
    trace = small(calls, [*writes(0), *writes(1, process=1)])
    block, page = (replay(trace, (4,), policy) for policy in ("rfc-v2-fixed", "linux-6.15"))
    assert block.faults == page.faults
    assert (Work.of(block).units["copied page"], Work.of(page).units["copied page"]) == (16, 1)
    table = read_table("linux-6.18.44")
    assert ns(block, table) - ns(page, table) > 15 * table.units["copied page"]


def test_a_curve_has_the_moments_that_were_asked_for() -> None:
    calls = [SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE), Call(1, "fork", 0, argument=1), Call(3, "exit", 1)]
    found = replay(small(calls, [*writes(0), *writes(1, 2, process=1), *writes(3)]), points=4)
    assert [moment.at for moment in found.curve] == [1, 2, 3, 4]
    assert [moment.held_pages for moment in found.curve] == [1, 2, 3, 2]
    assert found.curve[2].faults == {0: 1, 1: 2}
    assert found.curve[2].rss_pages == {0: 1, 1: 3}
    assert replay(small(calls, writes(0, 1, 2, 3))).curve == ()


# --- how far to trust it ----------------------------------------------------------------------------------------------


def ending(trace: Trace, **changes: Any) -> Trace:
    return replace(trace, processes=(dict(trace.processes[0]) | changes, *trace.processes[1:]))


def test_nothing_speaks_against_the_compile(compile_trace: Trace) -> None:
    found = trust(compile_trace, replayed())
    assert found
    assert str(found) == "Trust: untraced 0.0 %, final maps equal, left out: none"


def test_a_trace_with_something_wrong_is_doubted_for_it(compile_trace: Trace) -> None:
    first = compile_trace.processes[0]
    bad = {
        "faults were not traced": replace(compile_trace, kernel_faults=compile_trace.kernel_faults + 2000),
        r"not traced \(the kernel takes pages for open with O_DIRECT\): the prediction is void": replace(
            compile_trace,
            kernel_faults=compile_trace.kernel_faults + 2000,
            left_out={"open with O_DIRECT": 1, "shmat": 1},
        ),
        "userfaultfd: not modelled": replace(compile_trace, left_out={"userfaultfd": 1}),
        r"process 0 \(gcc\): mappings": ending(compile_trace, mappings=first["mappings"][:-1]),
        "anonymous pages, by the model": ending(compile_trace, anonymous_pages=first["anonymous_pages"] + 1),
    }
    for says, trace in bad.items():
        found = trust(trace, replayed())
        assert not found
        assert re.search(says, str(found)), says
    assert trust(replace(compile_trace, left_out={"shmat": 3}), replayed())
    with pytest.raises(ValueError, match="under single pages"):
        trust(compile_trace, replayed((4,)))


@pytest.mark.parametrize(
    ("calls", "accesses", "says"),
    [
        ([SPAWN, Call(1, "exit", 0)], writes(3), r"call 1 \(exit\).*page 3: no mapping"),
        ([SPAWN], writes(3), r"call 1 \(end\).*page 3: no mapping"),
        ([SPAWN, Call(0, "map", 0, 0, 4, 3), Call(0, "map", 0, 3, 4, 3)], [], r"call 2 \(map\).*overlap"),
        ([SPAWN, Call(0, "map", 0, 0, 4, 3), Call(0, "map", 0, 3, 4, 3 | ALONE)], [], r"call 2 \(map\).*overlap"),
        ([SPAWN, Call(0, "protect", 0, 0, 4, 3)], [], r"call 1 \(protect\).*ENOMEM"),
        ([Call(0, "exit", 0)], [], r"call 0 \(exit\)"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(
    calls: list[Call], accesses: list[tuple[int, int, bool]], says: str
) -> None:
    with pytest.raises(TraceError, match=says):
        replay(small(calls, accesses))


def test_addresses_are_kept_within_two_mib() -> None:
    trace = small([], [], blocks=np.array([7, -1, 1 << 20]))
    assert trace.address(3) == 7 << 21 | 3 << 12
    assert trace.address(1024 + 5) == 1 << 41 | 5 << 12
    with pytest.raises(ValueError, match="gap"):
        trace.address(600)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_written_trace_reads_back_the_same_bytes(tmp_path: Path, compile_trace: Trace) -> None:
    write_trace(tmp_path / "a.npz", compile_trace)
    again = read_trace(tmp_path / "a.npz")
    write_trace(tmp_path / "b.npz", again)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes() == COMPILE.read_bytes()
    assert again.calls == compile_trace.calls
    assert np.array_equal(again.vpn, compile_trace.vpn)


def test_more_than_256_processes_have_two_bytes(tmp_path: Path) -> None:
    calls = [Call(0, "spawn", number) for number in range(300)]
    calls += [Call(0, "map", 299, 0, 4, READ_WRITE), *(Call(1, "exit", number) for number in range(300))]
    wide = {"process": np.array([299], np.uint16), "processes": ({},) * 300, "status": -9}
    trace = small(calls, writes(3), **wide)
    write_trace(tmp_path / "many.npz", trace)
    again = read_trace(tmp_path / "many.npz")
    assert (again.process.tolist(), again.status, replay(again).processes[299].anonymous) == ([299], -9, 1)
    with pytest.raises(TraceError, match="process has shape"):
        write_trace(tmp_path / "narrow.npz", replace(trace, process=np.array([43], np.uint8)))


def arrays_of(trace: Trace, path: Path) -> dict[str, Any]:
    write_trace(path, trace)
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a trace|cut off"),
        (b"PK\x03\x04 half an archive", "cut off"),
        (b"%PDF-1.7 something else", "not a trace"),
        (b'{"format": "anonfolio-recording/1"}', "not a trace"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=says) as refused:
        read_trace(path)
    assert "x.npz" in str(refused.value)
    assert "\n" not in str(refused.value)


WRONG_TRACES: dict[str, tuple[dict[str, Any], str]] = {
    "a page outside": ({"vpn": np.array([0, 1 << 40])}, "pages outside 0"),
    "a page beyond the blocks": ({"vpn": np.array([0, 9 * 512])}, "pages outside the 8 blocks"),
    "too few codes": ({"code": np.zeros(1, np.uint8)}, "code has shape"),
    "a call of no name": ({"calls": (SPAWN, Call(0, "clone", 0))}, "there is no call 'clone'; there are spawn"),
    "calls out of order": ({"calls": (SPAWN, Call(2, "exit", 0), Call(1, "exit", 0))}, "not in the order"),
    "a call's argument": ({"calls": (SPAWN, Call(0, "advise", 0, 0, 4, 99))}, "cannot have 99"),
    "a call's half page": ({"calls": (SPAWN, Call(0, "map", 0, 0, 4, 1 << 70))}, "cannot have"),
    "calls without end": ({"calls": (SPAWN,) * 500_001}, "500,001 calls"),
    "a kernel of no name": ({"kernel": 6.18}, "kernel in the header is 6.18, no str"),
    "a note that is no JSON": ({"about": {"x": {1, 2}}}, "the header is no JSON"),
    "processes without end": ({"processes": ({},) * 65537}, "processes in the header|process has shape"),
    "blocks of another shape": ({"blocks": np.zeros((8, 8), np.int64)}, "blocks has shape"),
    "more bytes than a trace has": ({"about": {"x": "y" * (64 << 20)}}, "more than a trace has"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name == "calls without end")) for name in WRONG_TRACES]
)
def test_a_trace_that_could_not_be_read_again_is_not_written(tmp_path: Path, name: str) -> None:
    change, says = WRONG_TRACES[name]
    right = small([SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE)], writes(0, 1))
    write_trace(tmp_path / "right.npz", right)
    with pytest.raises(TraceError, match=says) as refused:
        write_trace(tmp_path / "wrong.npz", replace(right, **change))
    assert "wrong.npz" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["right.npz"]


@pytest.mark.parametrize("place", ["none/x.npz", "right.npz/x.npz"])
def test_a_trace_with_no_place_to_be_written_is_told_in_one_line(tmp_path: Path, place: str) -> None:
    right = small([SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE)], writes(0, 1))
    write_trace(tmp_path / "right.npz", right)
    with pytest.raises(TraceError, match=r"x\.npz: (No|there is no)"):
        write_trace(tmp_path / place, right)


def test_a_truncated_trace_is_refused(tmp_path: Path) -> None:
    whole = COMPILE.read_bytes()
    path = tmp_path / "cut.npz"
    for length in (10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TraceError, match=r"cut off|not a trace"):
            read_trace(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(TraceError, match="damaged"):
        read_trace(path)


def test_a_single_numpy_array_is_no_trace(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(TraceError, match="not a trace"):
        read_trace(tmp_path / "x.npy")


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "replay", str(tmp_path / "none.npz")]) == 2
    assert "none.npz: No such file" in capsys.readouterr().err


def header(**changes: Any) -> bytes:
    right: dict[str, Any] = {"format": "anonfolio-trace/1", "kernel": "6.18.44", "about": {}}
    right |= {"processes": [{}], "kernel_faults": 2, "left_out": {}}
    return json.dumps(right | changes).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"header": b'{"format": "anonfolio-trace/2"}'}, "format is 'anonfolio-trace/2'"),
        ({"header": b'{"format": "anonfolio-trace/1"}'}, "the header has no 'kernel'"),
        ({"header": b"[1]"}, "format is 'list'"),
        ({"steps": None}, "steps missing"),
        ({"code": np.zeros(1, np.uint8)}, "code has shape"),
        ({"process": np.zeros(2, np.int64)}, "process has shape"),
        ({"process": np.full(2, 9, np.uint8)}, "process 9 is never started"),
        ({"steps": np.array([5, -9], np.int32)}, "pages outside"),
        ({"calls": np.zeros((1, 3), np.int64)}, "a call is 6 whole numbers"),
        ({"calls": np.array([[0, len(CALLS), 0, 0, 0, 0]])}, "newer version"),
        ({"calls": np.array([[2, 0, 0, 0, 0, 0], [1, 2, 0, 0, 4, 3]])}, "not in the order"),
        ({"calls": np.array([[3, 0, 0, 0, 0, 0]])}, "not in the order"),
        ({"calls": np.array([[0, 2, 0, 1 << 28, 4, 3]])}, "a call has pages outside"),
        ({"calls": np.array([[0, 2, 0, 8 * 512, 4, 3]])}, "pages outside the 8 blocks"),
        ({"calls": np.array([[0, 1, 0, 0, 1 << 17, 0]]), "blocks": np.arange(512)}, "exec populates 131,072 pages"),
        ({"calls": np.array([[0, 6, 0, 0, 4, len(ADVICE)]])}, f"advise of process 0 cannot have {len(ADVICE)}"),
        ({"calls": np.array([[0, 7, 0, 0, 0, 65536]])}, "fork of process 0 cannot have 65536"),
        ({"calls": np.array([[0, 11, 0, 0, 4, 3]])}, "lock of process 0 cannot have 3"),
        ({"calls": np.array([[0, 12, 0, 0, 0, 3]])}, "thp_disable of process 0 cannot have 3"),
        ({"calls": np.array([[0, 10, 0, 0, 4, 8 * 512 - 3]])}, "move_keep of process 0 cannot have 4093"),
        ({"calls": np.zeros((500_001, 6), np.int64)}, "500,001 calls; a trace has 500,000 at most"),
        ({"blocks": np.zeros(1 << 16, np.int64)}, "65,536 blocks; a trace has 32,768 at most"),
        ({"blocks": np.zeros((2, 2), np.int64)}, "blocks has shape"),
        ({"steps": np.zeros(2)}, "steps has shape"),
        ({"header": header(kernel=6.18)}, "kernel in the header is 6.18, no str"),
        ({"header": header(processes={})}, "processes in the header is {}, no list"),
        ({"header": header(processes=[1])}, "processes in the header are not at most 65536 objects"),
        (
            {"header": header(processes=[{"mappings": [[1]]}])},
            r"a mapping of process 0 in the header is \[1\], not two",
        ),
        ({"header": header(processes=[{"name": 7}])}, "name of process 0 in the header is 7, no str"),
        ({"header": header(status="0")}, "status in the header is '0', no int"),
        ({"header": header(left_out={"brk": "x"})}, "left_out in the header"),
        ({"header": header(clock=[[1, "x"]])}, "clock in the header"),
        ({"header": header(clock=[[1, -1]])}, "clock in the header"),
        ({"header": header(clock=[[1, 5], [2, 4]])}, "the clock in the header goes back"),
    ],
)
def test_what_is_wrong_inside_is_said(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    trace = small([SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE)], writes(0, 1))
    arrays = arrays_of(trace, tmp_path / "good.npz")
    for name, value in change.items():
        arrays[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    np.savez_compressed(tmp_path / "bad.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(TraceError, match=says):
        read_trace(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"orders": [1]}, "order 1"), ({"orders": 2}, "not iterable"), ({"faults": 2}, "faults is 2"),
        ({"faults": []}, "not one count a round"), ({"traced": [1.5]}, r"traced is \[1.5\]"),
        ({"faults": [0]}, "a round without a fault"), ({"anonymous": [-1]}, "anonymous is"),
        ({"fallbacks": None}, "fallbacks is None"), ({"processes": [[[1, 2]]]}, r"processes has \[1, 2\]"),
        ({"curves": [[[1, 2]]]}, r"curves has \[1, 2\]"), ({"names": [[1]]}, r"names has \[\[1\]\]"),
        ({"names": [["a"]], "processes": []}, "names are not as many as processes"),
    ],
)  # fmt: skip
def test_a_measurement_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    content = json.loads(MEASURED.read_text())
    content["settings"][1].update(change)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(TraceError, match=rf"x\.json: a setting is not whole: .*{says}"):
        read_measured(tmp_path / "x.json")


def test_measured_counts_read_back(tmp_path: Path) -> None:
    each = ((Counted(9, 3, 1), Counted(1, 1, 1)),) * 3
    settings = [
        Setting((), [10, 12, 11], [10, 12, 11], [4, 4, 4], [1, 1, 1], [0, 0, 0]),
        Setting((4,), [10, 12, 11], [10, 12, 11], [4, 4, 4], [1, 1, 1], [0, 0, 0], each, ((Point(0.5, 3, 16),), ())),
    ]
    write_measured(tmp_path / "m.json", settings, kernel="6.18.44")
    assert read_measured(tmp_path / "m.json") == settings
    assert settings[0].median_faults == 11
    for text, says in (("{", "not JSON"), ("[]", "format is 'list'"), ('{"format": "x"}', "format is 'x'")):
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(TraceError, match=says):
            read_measured(tmp_path / "m.json")
    head = json.loads((MEASURED).read_text())
    del head["settings"][0]["traced"]
    (tmp_path / "m.json").write_text(json.dumps(head))
    with pytest.raises(TraceError, match="traced"):
        read_measured(tmp_path / "m.json")


def test_a_clock_tells_how_much_of_the_run_was_over(tmp_path: Path) -> None:
    trace = small([SPAWN, Call(0, "map", 0, 0, 16, READ_WRITE)], writes(0, 1, 2, 3))
    assert [trace.part(at) for at in (0, 1, 4)] == [0, 0.25, 1]
    timed = replace(trace, clock=((2, 10), (4, 40)))
    assert [timed.part(at) for at in (0, 1, 2, 3, 4)] == [0, 0.125, 0.25, 0.625, 1]
    write_trace(tmp_path / "timed.npz", timed)
    assert read_trace(tmp_path / "timed.npz").clock == timed.clock


def test_rounds_of_the_same_sizes_are_put_together_with_the_last_ones_curves() -> None:
    one = Setting((4,), [1], [2], [3], [4], [0], ((Counted(1, 1, 1),),), ((Point(0.5, 1, 1),),))
    two = Setting((4,), [5], [6], [7], [8], [1], ((Counted(2, 2, 2),),), ((Point(0.5, 2, 2),),))
    assert joined([one, two]) == Setting(
        (4,), [1, 5], [2, 6], [3, 7], [4, 8], [0, 1], one.processes + two.processes, two.curves
    )


def test_processes_of_another_run_are_found_by_name_whoever_came_first(tmp_path: Path) -> None:
    one, two, three = Counted(1, 1, 1), Counted(2, 2, 2), Counted(3, 3, 3)
    lines = tuple((Point(0.5, number, number),) for number in (1, 2, 3))
    setting = Setting((4,), [6], [6], [6], [3], [0], ((one, two, three),), lines, (("sh", "sh", "server"),))
    assert setting.counted(["sh", "server", "sh", "awk"]) == [one, three, two, None]
    assert setting.curves_of(["server", "sh"]) == [lines[2], lines[0]]
    write_measured(tmp_path / "x.json", [setting])
    assert read_measured(tmp_path / "x.json") == [setting]
    # An older file has no names: then the order is all there is, if there are as many.
    unnamed = setting._replace(names=())
    assert unnamed.counted(["a", "b", "c"]) == [one, two, three]
    assert unnamed.counted(["a", "b"]) == [None, None]
    twice = joined([setting, setting._replace(names=(("server", "sh", "sh"),))])
    assert twice.counted(["server"]) == [three]
    assert twice.curves_of(["server"]) == [lines[0]]


def test_sizes_have_names() -> None:
    assert [size_names(orders) for orders in WANTED] == [
        "4K", "16K", "32K", "64K", "128K", "256K", "512K", "1M", "16K+64K", "all",
    ]  # fmt: skip
    assert [sizes_named(size_names(orders)) for orders in WANTED] == list(WANTED)
    assert sizes_named("64K+2M") == (4, 9)
    with pytest.raises(ValueError, match="'8K' is no size"):
        sizes_named("8K")


# --- the recorder -----------------------------------------------------------------------------------------------------

if sys.platform == "linux":
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live import kernel as live_kernel
    from anonfolio.witness.live import trace as live_trace
    from anonfolio.witness.live.cost import build
    from anonfolio.witness.live.kernel import LiveKernel
    from anonfolio.witness.live.trace import (
        ACCESS_BYTES,
        CALL_BYTES,
        CLONE_VM,
        LAUNCHER,
        MOST_RECORDED,
        Converter,
        Ended,
        Events,
        EventsLost,
        Image,
        Launch,
        Run,
        Spans,
        _counted,
        check_program,
        converter_of,
        events_of,
        measure,
        most_bytes,
        record,
        trace_of,
    )

linux = pytest.mark.skipif(sys.platform != "linux", reason="the recorder needs Linux")
STACK = 0x7FFFF000  # the page of the stack's start


def line(pid: int, event: str, rest: str) -> str:
    return f"  some name-{pid}   [001] d.... 13723.519886: {event}: {rest}"


def fault(page: int, code: int = 6, pid: int = 7, event: str = "page_fault_user") -> str:
    return line(pid, event, f"address={page * 4096 + 8:#x} ip=0x7f499cc3fb70 error_code={code:#x}")


def call(number: int, arguments: list[int], result: int, pid: int = 7) -> list[str]:
    words = ", ".join(f"{word:x}" for word in [*arguments, 0, 0, 0, 0, 0, 0][:6])
    return [line(pid, "sys_enter", f"NR {number} ({words})"), line(pid, "sys_exit", f"NR {number} = {result}")]


def run_of(lines: list[str], images: int = 1) -> Run:
    """A program whose exec maps two pages of bss up to its break, and a stack with one page present."""
    anonymous = [(1022, 1024), (STACK, STACK + 33)]
    image = Image(7, "program", anonymous, STACK, 1024 * 4096, [(STACK + 32, STACK + 33)], 100)
    start = [line(7, "sched_process_exec", "filename=/bin/program pid=7 old_pid=7")]
    end = [line(7, "sched_process_exit", "comm=program pid=7 prio=120 group_dead=true")]
    return Run([*start, *lines, *end], [image] * images, [Ended(7, 7, [], 0, 0, 150)], 0)


def converted(lines: list[str]) -> tuple[Trace, list[Call]]:
    """The trace, and those of its calls that exec and exit did not make."""
    trace = trace_of(run_of(lines), "6.18.44")
    return trace, list(trace.calls[4:-1])


@linux
def test_a_run_becomes_a_trace() -> None:
    trace, calls = converted([fault(1023), fault(1022, 4), fault(5), fault(STACK, 2, event="page_fault_kernel")])
    assert [trace.address(vpn) >> 12 for vpn in trace.vpn.tolist()] == [1023, 1022, STACK]
    assert trace.code.tolist() == [6, 4, 2]
    assert trace.kernel_faults == 50
    assert trace.processes[0]["elsewhere"] == 1
    assert not calls
    assert [call.name for call in trace.calls] == ["spawn", "map", "map", "populate", "exit"]
    assert replay(trace).anonymous == 3


@linux
def test_the_kernels_own_faults_are_nobodys() -> None:
    trace, _ = converted([line(7, "page_fault_kernel", "address=0xffff888000000000 ip=x error_code=0x0")])
    assert trace.processes[0]["elsewhere"] == 0


@linux
def test_a_fault_that_the_kernel_repeats_was_not_handled_the_first_time() -> None:
    frame = fault(STACK, 3, event="page_fault_kernel")
    trace, _ = converted([fault(STACK), frame, frame, fault(1022), frame, fault(1022), fault(1022), fault(5, 4)])
    # What is told again of a page that is there by then was given up, too.
    assert [trace.address(vpn) >> 12 for vpn in trace.vpn.tolist()] == [STACK, 1022, 1022, 1022]
    assert trace.code.tolist() == [6, 6, 6, 6]
    assert trace.left_out == {"faults that were given up": 2}
    elsewhere = fault(5, 0, event="page_fault_kernel")
    trace, _ = converted([elsewhere, fault(5, 0, 8, "page_fault_kernel"), elsewhere])
    assert trace.processes[0]["elsewhere"] == 1


@linux
def test_brk_begins_alone_and_grows_and_shrinks() -> None:
    _, calls = converted([
        *call(12, [0], 1024 * 4096), *call(12, [0], 1030 * 4096 + 5), *call(12, [0], 1032 * 4096),
        *call(12, [0], 1028 * 4096),
    ])  # fmt: skip
    assert [(name, pages, argument) for _, name, _, _, pages, argument in calls] == [
        ("map", 7, READ_WRITE | ALONE), ("map", 1, READ_WRITE), ("unmap", 4, 0),
    ]  # fmt: skip


def test_all_that_a_trace_says_of_a_process_is_explained() -> None:
    assert [name for name in hardware_trace._PROCESS if f"``{name}``" not in (hardware_trace.__doc__ or "")] == []


@linux
def test_a_heap_that_is_freed_from_its_top_a_page_a_call_is_one_call() -> None:
    ends = [1024, 1040, *range(1039, 1027, -1)]
    trace, calls = converted([*(told for end in ends for told in call(12, [0], end * 4096)), fault(1025)])
    assert [(each.name, each.pages, trace.address(each.vpn) >> 12) for each in calls] == [
        ("map", 16, 1024), ("unmap", 12, 1028),
    ]  # fmt: skip
    # An access between two of them, or a hole, makes two calls.
    _, calls = converted([*call(11, [1022 * 4096, 4096], 0), fault(1023), *call(11, [1023 * 4096, 4096], 0)])
    assert [each.pages for each in calls] == [1, 1]
    _, calls = converted([*call(11, [STACK * 4096, 4096], 0), *call(11, [(STACK + 2) * 4096, 4096], 0)])
    assert [each.pages for each in calls] == [1, 1]
    _, calls = converted([*call(11, [STACK * 4096, 4096], 0), *call(11, [(STACK + 1) * 4096, 8192], 0)])
    assert [(each.name, each.pages) for each in calls] == [("unmap", 3)]


@linux
def test_a_recording_keeps_to_its_bound_and_tells_what_came_later() -> None:
    newtask = line(7, "task_newtask", "pid=8 comm=program clone_flags=1200000 oom_score_adj=0")
    lines = [fault(1022), fault(1023), *call(12, [0], 1024 * 4096), *call(12, [0], 1040 * 4096), newtask]
    run = run_of([*lines, *(fault(page) for page in range(1024, 1034)), fault(5)])
    # exec makes four calls; then there is room for two accesses more.
    read = Converter(run.images, run.ended, most_bytes=4 * CALL_BYTES + 2 * ACCESS_BYTES)
    read.feed(events_of(run.lines))
    read.finish()
    trace = trace_of(run._replace(read=read), "6.18.44")
    assert trace.left_out == {LATE_CALLS: 4, LATE_ACCESSES: 10}
    assert (len(trace), [each.name for each in trace.calls]) == (2, ["spawn", "map", "map", "populate"])
    assert trace.untraced == 50 - 2 - 10 - 1
    # A run that is measured has no accesses to lose, only counts: all but the one elsewhere.
    assert [each.anonymous for each in _counted(read)] == [50 - 1, 0]
    assert [each.anonymous for each in _counted(converter_of(run))] == [12, 0]
    found = trust(replace(trace, kernel_faults=13))
    assert found.doubts == ("the recording was full before the end: 14 later accesses and calls are missing",)
    # However many faults it lacks then: they are told once.
    assert trust(replace(trace, kernel_faults=10**6)).doubts == found.doubts
    # Whoever is not seen to exit in the trace is not held against its end.
    assert (found.ended, found.processes) == (0, 2)
    assert "the recording was full" not in str(trust(trace_of(run, "6.18.44")))
    # Pages that the kernel looked for late were faults where they were missing, and nobody knows where that was.
    run = run_of([*lines, *call(28, [1024 * 4096, 8 * 4096, 23], 0), *(fault(page) for page in (1024, 1033, 1035))])
    read = Converter(run.images, run.ended, most_bytes=6 * CALL_BYTES + 6 * ACCESS_BYTES)
    read.feed(events_of(run.lines))
    read.finish()
    trace = trace_of(run._replace(read=read), "6.18.44")
    assert (len(trace), trace.left_out) == (6, {LATE_CALLS: 3, LATE_ACCESSES: 3})
    assert trace.untraced == 50 - 6 - 3
    assert [doubt.partition(":")[0] for doubt in trust(trace).doubts] == ["the recording was full before the end"]


@linux
def test_more_than_a_traces_file_holds_cannot_be_recorded() -> None:
    assert most_bytes(None) == MOST_RECORDED
    assert most_bytes(1 << 20) == 1 << 20
    with pytest.raises(LiveError, match="56M at most, 8,388,608 accesses"):
        most_bytes(MOST_RECORDED + 1)


@linux
def test_the_stack_grows_to_the_page_that_was_touched() -> None:
    trace, calls = converted([fault(STACK - 3), fault(STACK - 1), fault(STACK - 4096)])
    assert [(name, trace.address(vpn) >> 12, pages) for _, name, _, vpn, pages, _ in calls] == [
        ("grow_down", STACK - 3, 3)
    ]
    assert trace.processes[0]["elsewhere"] == 1


@linux
def test_maps_of_files_are_holes_even_over_memory() -> None:
    private_anonymous = [0, 8 * 4096, 3, 0x22, 2**64 - 1, 0]
    file_over_it = [2050 * 4096, 4096, 3, 0x12, 3, 0]
    maps = [*call(9, private_anonymous, 2048 * 4096), *call(9, file_over_it, 2050 * 4096)]
    trace, calls = converted([*maps, fault(2050)])
    assert [(name, pages) for _, name, _, _, pages, _ in calls] == [("map", 8), ("unmap", 1)]
    assert trace.processes[0]["elsewhere"] == 1
    assert not len(trace)


@linux
def test_calls_that_failed_did_nothing_and_those_not_followed_are_counted() -> None:
    trace, calls = converted([
        *call(9, [0, 8192, 3, 0x22], -12), *call(9, [0, 8192, 3, 0x21], 2048 * 4096), *call(323, [0], 5),
        *call(257, [2**64 - 100, 0, 0o40002], 3), *call(257, [2**64 - 100, 0, 2], 3), *call(28, [0, 0, 20], 0),
        *call(28, [1022 * 4096, 4096, 12], 0), *call(28, [1022 * 4096, 4096, 4], 0),
    ])  # fmt: skip
    assert [call.name for call in calls] == ["advise"]
    assert trace.left_out == {
        "shared anonymous mmap": 1, "userfaultfd": 1, "open with O_DIRECT": 1, "madvise mergeable": 1,
    }  # fmt: skip


@linux
def test_mremap_moves_grows_and_shrinks() -> None:
    _, calls = converted([
        *call(9, [0, 4 * 4096, 3, 0x22], 2048 * 4096),
        *call(25, [2048 * 4096, 4 * 4096, 6 * 4096, 1], 4096 * 4096),
        *call(25, [4096 * 4096, 6 * 4096, 2 * 4096, 0], 4096 * 4096),
    ])  # fmt: skip
    assert [(name, pages) for _, name, _, _, pages, _ in calls] == [("map", 4), ("move", 4), ("grow", 2), ("unmap", 4)]
    assert calls[1].argument + 4 == calls[2].vpn


@linux
@pytest.mark.parametrize("pages", [1, 2, 5], ids=["shrinks", "moves", "grows"])
def test_mremap_takes_a_part_out_of_neighbours(pages: int) -> None:
    """What was mapped apart stands as one span; beyond the part, only what shrinking leaves is unmapped."""
    low, part, target = (page * 4096 for page in (5000, 5002, 6000))
    _, calls = converted([
        *call(9, [low, 2 * 4096, 3, 0x22], low),
        *call(9, [part, 6 * 4096, 3, 0x22], part),
        *call(25, [part, 2 * 4096, pages * 4096, 1, 0], target),
    ])  # fmt: skip
    names = ["map", "map", *(["unmap"] if pages < 2 else []), "move", *(["grow"] if pages > 2 else [])]
    assert [call.name for call in calls] == names
    assert all(call.pages > 0 for call in calls)
    assert sum(call.pages for call in calls if call.name == "unmap") == max(0, 2 - pages)


@linux
def test_protect_reaches_only_anonymous_memory() -> None:
    _, calls = converted(call(10, [1000 * 4096, 23 * 4096, 0], 0))
    assert [(name, pages, argument) for _, name, _, _, pages, argument in calls] == [("protect", 1, NO_ACCESS)]


@linux
def test_a_vfork_child_lives_in_its_parents_memory_and_a_fork_child_in_its_own() -> None:
    newtask = [
        line(7, "task_newtask", "pid=8 comm=program clone_flags=4100 oom_score_adj=0"),
        line(7, "task_newtask", "pid=9 comm=program clone_flags=1200000 oom_score_adj=0"),
    ]
    leave = [line(pid, "sched_process_exit", f"comm=program pid={pid} prio=120") for pid in (8, 9)]
    trace, calls = converted([*newtask, fault(1023, pid=8), fault(1023, pid=9), *leave, fault(1022)])
    assert trace.process.tolist() == [0, 1, 0]
    assert [(call.name, call.process, call.argument) for call in calls] == [("fork", 0, 1), ("exit", 1, 0)]
    assert replay(trace, (2,)).faults["first touch"] == 3


@linux
def test_what_exec_writes_on_its_own_stack_is_a_fault_of_the_new_program() -> None:
    exec_again = [
        line(7, "sys_enter", "NR 59 (0, 0, 0, 0, 0, 0)"),
        fault(5, 0, event="page_fault_kernel"),
        fault(STACK + 32, 2, event="page_fault_kernel"),
        line(7, "sched_process_exec", "filename=/bin/program pid=7 old_pid=7"),
        line(7, "sys_exit", "NR 59 = 0"),
    ]
    trace = trace_of(run_of(exec_again, images=2), "6.18.44")
    begin = ["spawn", "map", "map"]
    assert [call.name for call in trace.calls] == [*begin, "populate", "exit", *begin, "exit"]
    assert trace.process.tolist() == [1]
    assert [process["elsewhere"] for process in trace.processes] == [0, 1]
    assert ["mappings" in process for process in trace.processes] == [False, True]
    assert [process.get("became") for process in trace.processes] == ["program", None]
    assert "(1 of 2 seen to exit, 1 ran another program: program)" in str(trust(trace))


@linux
def test_an_exec_by_another_thread_than_the_first_is_told_by_the_recorder() -> None:
    newtask = line(7, "task_newtask", f"pid=8 comm=program clone_flags={CLONE_VM:x} oom_score_adj=0")
    leave = line(7, "sched_process_exit", "comm=program pid=7 prio=120")
    tried = line(8, "sys_enter", "NR 59 (0, 0)")
    told = line(7, "sched_process_exec", "filename=/bin/program pid=7 old_pid=8")
    ours = line(99, "tracing_mark_write", "anonfolio: ran 7 old_pid=8")
    for events in ([newtask, tried, leave, told, ours], [newtask, tried, leave, ours]):
        trace = trace_of(run_of([*events, fault(1023)], images=2), "6.18.44")
        assert [call.name for call in trace.calls if call.name in ("spawn", "exit")] == [
            "spawn",
            "exit",
            "spawn",
            "exit",
        ]
        assert trace.process.tolist() == [1]


@linux
def test_a_failed_exec_leaves_the_program_as_it_is() -> None:
    tried = [line(7, "sys_enter", "NR 59 (0, 0)"), fault(1023, 2), line(7, "sys_exit", "NR 59 = -2")]
    trace, calls = converted([*tried, fault(1022)])
    assert len(trace) == 2
    assert not calls


@linux
@pytest.mark.parametrize("bad", ["rubbish", line(7, "page_fault_user", "address=?"), line(7, "sys_enter", "?")])
def test_unreadable_events_are_named(bad: str) -> None:
    with pytest.raises(LiveError, match="cannot be read"):
        converted([bad])


@linux
def test_a_trace_without_a_program_is_refused() -> None:
    with pytest.raises(LiveError, match="no exec"):
        trace_of(Run([], [], [], 0), "6.18.44")


@linux
def test_more_programs_than_a_byte_can_number_take_two() -> None:
    again = [line(7, "sched_process_exec", "filename=/bin/program pid=7 old_pid=7")] * 256
    trace = trace_of(run_of([*again, fault(1022)], images=257), "6.18.44")
    assert (trace.process.tolist(), trace.process.dtype, len(trace.processes)) == ([256], np.uint16, 257)
    assert replay(trace).processes[256].anonymous == 1


@linux
def test_of_a_process_with_threads_the_last_to_exit_has_the_count() -> None:
    ended = [Ended(pid, process, [], 0, 0, faults) for pid, process, faults in ((8, 7, 120), (9, 9, 30), (7, 7, 150))]
    assert run_of([])._replace(ended=ended).kernel_faults == 150 + 30 - 100


@linux
def test_nothing_is_run_when_the_recorder_has_gone(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", LAUNCHER, str(theirs.fileno()), str(tmp_path), "touch", "was-here"]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True) as launcher:
        theirs.close()
        assert ours.recv(1) == b"?"
        ours.close()
        assert launcher.communicate(timeout=30)[1] == "the recorder is gone\n"
    assert launcher.returncode == 1
    assert list(tmp_path.iterdir()) == []


@linux
def test_copies_of_file_pages_are_counted_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(16 * 4096))
    with (
        (tmp_path / "file").open("r+b") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private,
        mmap.mmap(file.fileno(), 0) as shared,
    ):
        before = live_trace.ended_of(os.getpid())
        for page in range(10):
            private[page * 4096] = shared[page * 4096] = 1
        after = live_trace.ended_of(os.getpid())
    assert after.file_copies - before.file_copies == 10


@linux
def test_spans() -> None:
    spans = Spans([(10, 20)])
    spans.add(30, 40)
    spans.remove(12, 15)
    spans.remove(38, 50)
    assert spans.spans == [(10, 12), (15, 20), (30, 38)]
    spans.add(12, 15)
    assert spans.spans == [(10, 20), (30, 38)]
    spans.remove(12, 15)
    assert spans.within(11, 31) == [(11, 12), (15, 20), (30, 31)]
    assert spans.within(17, 17) == spans.within(18, 16) == []
    before = spans.spans
    spans.remove(17, 17)
    spans.remove(18, 16)
    assert spans.spans == before
    assert 11 in spans
    assert 12 not in spans


@linux
@pytest.mark.parametrize("seed", range(20))
def test_spans_are_what_a_set_of_pages_is(seed: int) -> None:
    choose = random.Random(seed)
    spans, pages = Spans(), set[int]()
    for _ in range(200):
        start = choose.randrange(60)
        end = start + choose.randrange(-1 if pages else 1, 12)
        if choose.random() < 0.5 and start < end:
            spans.add(start, end)
            pages |= {*range(start, end)}
        else:
            parts = spans.within(start, end)
            assert all(low < high for low, high in parts)
            assert {page for low, high in parts for page in range(low, high)} == pages & {*range(start, end)}
            spans.remove(start, end)
            pages -= {*range(start, end)}
        assert {page for page in range(80) if page in spans} == pages
        # In order, none empty, none that touches the next.
        assert all(low < high for low, high in spans.spans)
        assert all(one[1] < next_one[0] for one, next_one in pairwise(spans.spans))


@pytest.mark.live
@needs_kernel
def test_a_program_recorded_now_is_explained_by_the_model(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("".join(f"{number * 7919 % 20011} line\n" for number in range(20011)))
    # The shell forks before it runs sort: both parts of a fork are in the trace.
    command = ["/bin/sh", "-c", "(sort --parallel=1 -S 4M lines > sorted; true); true"]
    trace = record(command, tmp_path, {"command": "sort"})
    found = replay(trace)
    assert len(trace) > 300
    assert found.anonymous == len(trace)
    assert 0 <= trace.elsewhere - sum(process["elsewhere"] for process in trace.processes) <= 8
    for number, process in enumerate(trace.processes):
        if "mappings" in process:
            assert [list(mapping) for mapping in found.ends[number].mappings] == process["mappings"]
            assert found.ends[number].anonymous_pages == process["anonymous_pages"]
    (live,) = measure(command, tmp_path, [(4,)], rounds=1)
    assert abs(Compared(live, replay(trace, (4,))).difference) < 0.01


@pytest.mark.live
@needs_kernel
def test_who_records_is_told_how_the_program_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.npz"
    for script, says in (("exit 3", "exit code 3"), ("kill -9 $$", "signal 9"), ("true", "exit code 0")):
        assert main(["trace", "record", "--most", "1M", str(file), "sh", "-c", script]) == 0
        assert capsys.readouterr().out.endswith(f"the program ended with {says}\n")
    assert main(["trace", "record", "--most", "1K", str(file), sys.executable, "-S", "-c", "pass"]) == 0
    assert LATE_ACCESSES in capsys.readouterr().err


RUNS_FROM_A_THREAD = r"""
#include <pthread.h>
#include <unistd.h>
static void *run(void *command) { execl("/bin/sh", "sh", "-c", command, (char *)0); return 0; }
int main(int count, char **words)
{
	pthread_t other;
	pthread_create(&other, 0, run, words[1]);
	pthread_join(other, 0);
	return 1;
}
"""


@pytest.mark.live
@needs_kernel
def test_a_thread_may_run_another_program_whose_environment_output_and_cpus_are_given(tmp_path: Path) -> None:
    (tmp_path / "runs.c").write_text(RUNS_FROM_A_THREAD)
    program = build(tmp_path / "runs.c", tmp_path / "runs", "-pthread")
    launch = Launch({"SAID": "a word"}, cpus=frozenset(os.sched_getaffinity(0)), buffer_kib=4096)
    with (tmp_path / "out").open("wb") as out, (tmp_path / "errors").open("wb") as errors:
        launch = replace(launch, output=out.fileno(), errors=errors.fileno())
        trace = record([str(program), "echo $SAID; echo no >&2; nproc"], tmp_path, {}, launch=launch)
    assert (tmp_path / "out").read_text() == f"a word\n{len(os.sched_getaffinity(0))}\n"
    assert (tmp_path / "errors").read_text() == "no\n"
    # Whether the shell forks for the last command is its own affair.
    names = [process["name"] for process in trace.processes]
    assert (names[:2], names[-1]) == (["runs", "sh"], "nproc")
    assert 0 <= trace.elsewhere - sum(process["elsewhere"] for process in trace.processes) <= 16
    assert replay(trace).anonymous == len(trace)


@linux
def test_a_program_that_cannot_be_run_is_named_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("no program")
    old = tmp_path / "old"
    contents = {"old": b"\x7fELF\x01" + bytes(60), "bare": b"echo a\n", "lost": b"#!/no/sh -e\necho\n", "odd": b"#!\n"}
    for name, content in {**contents, "good": b"#! /bin/sh\n"}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(live_trace, "BINFMT", tmp_path / "none")
    for program, says in (
        ("nosuch", "nosuch: there is no such program"), ("./nosuch", "there is no such program"),
        ("./text", "is no program that can be run"), (".", "is no"), (str(old), "old is no 64-bit program"),
        ("./bare", "./bare: its first line names no interpreter .* sh ./bare"), ("", "a program of no name"),
        ("./lost", "its interpreter /no/sh is not there"), ("./odd", "its interpreter of no name is not there"),
    ):  # fmt: skip
        with pytest.raises(LiveError, match=says):
            check_program(program, tmp_path, os.environ)
    check_program("sh", tmp_path, {})
    check_program("./good", tmp_path, {})
    # Where the kernel was taught other formats it may know this one.
    (tmp_path / "none").mkdir()
    (tmp_path / "none/status").touch()
    with pytest.raises(LiveError, match="names no interpreter"):
        check_program("./bare", tmp_path, {})
    (tmp_path / "none/rosetta").touch()
    check_program("./bare", tmp_path, {})


@pytest.mark.live
@needs_kernel
def test_threads_are_one_process(tmp_path: Path) -> None:
    work = "import threading as t; all = [t.Thread(target=bytearray, args=(1 << 20,)) for _ in range(4)]"
    trace = record(
        [sys.executable, "-c", f"{work}; [one.start() for one in all]; [one.join() for one in all]"], tmp_path, {}
    )
    assert len(trace.processes) == 1
    assert 0 <= trace.elsewhere - trace.processes[0]["elsewhere"] <= 8


@pytest.mark.live
@needs_kernel
def test_a_name_may_be_cut_off_within_a_letter(tmp_path: Path) -> None:
    program = tmp_path / ("ä" * 8)
    shutil.copy("/bin/true", program)
    trace = record([str(program)], tmp_path, {})
    assert trace.processes[0]["name"] == "ä" * 7 + "\N{REPLACEMENT CHARACTER}"


RECORDER = """
import os, sys
from pathlib import Path
from anonfolio.witness.live import trace as live_trace

def record(*command):
    return live_trace.record(command, Path(sys.argv[1]), {}, lambda text: print(text, flush=True))

"""


def recorder(script: str, folder: Path) -> subprocess.Popen[str]:
    """A recorder in a process of its own: one that hangs does not hang the tests."""
    command = [sys.executable, "-c", RECORDER + script, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(script: str, folder: Path) -> tuple[str, str]:
    """What a recorder says until it ends."""
    with recorder(script, folder) as process:
        try:
            return process.communicate(timeout=60)
        finally:
            process.kill()


LEAVES = "import os; child = os.fork(); os.waitpid(child, 0) if child else os.setsid()"


@pytest.mark.live
@needs_kernel
def test_a_child_that_leaves_the_process_group_is_followed_too(tmp_path: Path) -> None:
    out, error = said(f"print(len(record(sys.executable, '-c', {LEAVES!r}).processes))", tmp_path)
    assert (out.splitlines()[-1:], error) == (["2"], "")


@pytest.mark.live
@needs_kernel
@pytest.mark.parametrize("moment", ["image_of", "ended_of"])
def test_what_goes_wrong_at_a_stop_ends_the_program(tmp_path: Path, moment: str) -> None:
    """A process that stands right before its exit cannot be killed: it must be sent on."""
    broken = f"def broken(pid): raise OSError('no maps')\nlive_trace.{moment} = broken\nrecord('sleep', '0.1')"
    out, error = said(broken, tmp_path)
    assert out.splitlines() == ([] if moment == "image_of" else ["running sleep"])
    assert error.splitlines()[-1].endswith("LiveError: the run was cut short: no maps; run it again")


@pytest.mark.live
@needs_kernel
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_recorder_leaves_no_program_and_no_tracing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with recorder("record('sleep', '600')", tmp_path) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running sleep\n"
            (program,) = (pid for pid in _children(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
            ours = list((live_kernel.TRACEFS / "instances").glob(f"{live_kernel.INSTANCES}{process.pid}*"))
            assert len(ours) == 2
            process.send_signal(number)
            assert process.wait(30) in (143, -number)
        finally:
            process.kill()
    if number != signal.SIGKILL:
        assert not any(path.exists() for path in ours)
    deadline = time.monotonic() + 10
    while _runs(program) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(program)
    # After a kill the next run tidies up.
    with LiveKernel():
        assert not any(path.exists() for path in ours)


def _children(pid: int) -> list[str]:
    """Of all its threads."""
    return [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def _runs(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
def test_the_kernel_faults_in_what_is_lacking_where_it_was_asked_to() -> None:
    base = 2048 * 4096
    trace, calls = converted([
        *call(9, [0, 8 * 4096, 3, 0x22], base), fault(2050), *call(149, [base, 4 * 4096], 0),
        *call(9, [0, 2 * 4096, 1, 0x8022], base - 2 * 4096), *call(28, [base + 4 * 4096, 8192, 22], 0),
        fault(2052), *call(28, [base + 4 * 4096, 8192, 23], 0),
    ])  # fmt: skip
    found = [
        (trace.address(vpn) >> 12, code) for vpn, code in zip(trace.vpn.tolist(), trace.code.tolist(), strict=True)
    ]
    locked = [(2050, 6), (2048, 2), (2049, 2), (2051, 2)]
    assert found == [*locked, (2046, 0), (2047, 0), (2052, 0), (2053, 0), (2052, 6), (2053, 2)]
    assert [call.name for call in calls] == ["map", "lock", "map"]
    assert replay(trace).anonymous == len(trace)


@linux
def test_an_access_that_no_mapping_allows_is_left_out_by_name() -> None:
    trace, _ = converted([*call(9, [0, 8192, 1, 0x22], 2048 * 4096), fault(2048), fault(2049, 4), fault(2048)])
    assert (len(trace), trace.left_out) == (1, {"accesses that were refused": 2})


@linux
def test_each_process_has_the_kernels_count() -> None:
    newtask = line(7, "task_newtask", "pid=8 comm=program clone_flags=1200000 oom_score_adj=0")
    leave = line(8, "sched_process_exit", "comm=program pid=8 prio=120")
    run = run_of([newtask, fault(1022, pid=8), leave, fault(1023)])
    trace = trace_of(run._replace(ended=[Ended(8, 8, [], 0, 4, 30), *run.ended]), "6.18.44")
    assert [process["kernel_faults"] for process in trace.processes] == [50, 30]
    assert trace.kernel_faults == 80
    again = [line(7, "sys_enter", "NR 59 (0, 0)"), fault(5, 4), line(7, "sched_process_exec", "pid=7 old_pid=7")]
    run = run_of(again, images=2)
    second = run.images[1]._replace(faults=120)
    trace = trace_of(run._replace(images=[run.images[0], second]), "6.18.44")
    assert [process["kernel_faults"] for process in trace.processes] == [19, 31]


@linux
def test_a_fault_that_the_kernel_gave_up_and_took_again_later_counts_once() -> None:
    in_kernel = [fault(page, code, event="page_fault_kernel") for code in (0, 0, 2) for page in (1022, 1023)]
    trace, _ = converted([*in_kernel, fault(STACK)])
    pages = [trace.address(vpn) >> 12 for vpn in trace.vpn.tolist()]
    assert list(zip(pages, trace.code.tolist(), strict=True)) == [
        (1022, 0),
        (1023, 0),
        (1022, 2),
        (1023, 2),
        (STACK, 6),
    ]
    assert trace.left_out == {"faults that were given up": 2}


def test_the_stack_of_a_child_grows_and_stays_one_mapping() -> None:
    calls = [SPAWN, Call(0, "map", 0, 8, 8, READ_WRITE), Call(1, "fork", 0, argument=1)]
    grown = [*calls, Call(1, "grow_down", 1, 4, 4), Call(2, "exit", 1)]
    found = replay(small(grown, [*writes(12), *writes(5, process=1)]))
    assert found.ends[1].mappings == ((4, 12),)
    with pytest.raises(TraceError, match="not the free ones below"):
        replay(small([*calls, Call(1, "grow_down", 1, 9, 2), Call(2, "exit", 1)], [*writes(12), *writes(9, process=1)]))


# --- events that are read while the program runs ----------------------------------------------------------------------


def instance_of(folder: Path, room_kib: int = 64, stats: str = "overrun: 0\nbytes: 0\n") -> Path:
    """A folder like a tracefs instance; what is written into its pipe is what the kernel would tell."""
    for name in ("tracing_on", "set_event_pid", "trace", "events/enable"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "buffer_size_kb").write_text(f"{room_kib}\n")
    (folder / "per_cpu/cpu0").mkdir(parents=True)
    (folder / "per_cpu/cpu0/stats").write_text(stats)
    os.mkfifo(folder / "trace_pipe")
    return folder


def at(seconds: float, text: str) -> bytes:
    return text.replace("13723.519886", f"{seconds:.6f}").encode() + b"\n"


@linux
def test_events_of_two_cpus_come_in_order_and_the_newest_later(tmp_path: Path) -> None:
    events = Events(instance_of(tmp_path), "-- true")
    with open(tmp_path / "trace_pipe", "wb", buffering=0) as pipe:
        pipe.write(at(1.0, fault(1)) + at(3.0, fault(4)) + at(2.99, fault(3))[:20])
        assert [event.time for event in events.read()] == [1.0]
        pipe.write(at(2.99, fault(3))[20:] + b"CPU:1 [LOST 9 EVENTS]\n" + at(3.5, fault(5)))
        assert [event.time for event in events.read()] == [2.99, 3.0]
        with pytest.raises(EventsLost, match="9 events of the trace were lost"):
            events.rest()
    events.close()


@linux
def test_the_room_for_events_grows_when_reading_falls_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_trace, "READS_A_TURN", 1)
    events = Events(instance_of(tmp_path, 64, "overrun: 0\nbytes: 40000\n"), "-- true")
    with open(tmp_path / "trace_pipe", "wb", buffering=0) as pipe:
        pipe.write(at(1.0, fault(1)) + at(2.0, fault(2)))
        assert events.read() == []
        assert (tmp_path / "buffer_size_kb").read_text() == "128"
        pipe.write(at(2.5, fault(3)))
        assert events.read() == []  # Less than half of it is full now.
        assert (tmp_path / "buffer_size_kb").read_text() == "128"
        assert [event.time for event in events.read()] == [1.0, 2.0]
    events.close()


@linux
def test_memory_that_the_kernel_tells_of_is_remembered_with_the_faults_until_then() -> None:
    def memory(seconds: float, pages: int) -> str:
        told = line(7, "rss_stat", f"mm_id=5 curr=1 type=MM_ANONPAGES size={pages * 4096}B")
        return at(seconds, told).decode()

    told = [
        memory(13723.6, 9), fault(1022), memory(13724.1, 10), fault(1023), memory(13724.4, 26), memory(13724.5, 4),
        at(13725.519886, call(39, [], 7)[0]).decode(),
    ]  # fmt: skip
    found = converter_of(run_of(told))
    (space,) = found.spaces
    assert [(faults, pages) for _, faults, pages in space.memory] == [
        (0, 9), (1, 9), (1, 10), (2, 10), (2, 26), (2, 4), (2, 0),
    ]  # fmt: skip
    # A child that only copies has what it was given, which its parent is told to have changed for another.
    of_child = memory(13724.0, 7).replace("curr=1", "curr=0")
    fork = line(7, "task_newtask", "pid=8 comm=program clone_flags=1200011 oom_score_adj=0")
    _, child = converter_of(run_of([memory(13723.9, 9), of_child, fork, fault(1022, pid=8)])).spaces
    assert [(faults, pages) for _, faults, pages in child.memory] == [(0, 7), (1, 7), (1, 0)]
    exited = [*space.memory[:-1], (13725.0, 2, 0)]
    assert live_trace._curve(exited, 13723.5, 13725.0)[-1].rss_pages == 4
    assert live_trace._curve(exited, 13723.5, 13727.0)[-1].rss_pages == 0
    assert live_trace._counted(found)[0].peak_anonymous_kib == 4 * 26
    trace = trace_of(run_of(told), "6.18.44")
    assert trace.clock[-1][0] == len(trace) == 2


@linux
def test_lost_events_end_the_run_with_the_command_that_has_more_room(tmp_path: Path) -> None:
    events = Events(instance_of(tmp_path, 1 << 17, "overrun: 1234\ndropped events: 0\nbytes: 0\n"), "-- job 'a b'")
    with (
        open(tmp_path / "trace_pipe", "wb", buffering=0),
        pytest.raises(EventsLost, match=r"1,234 events .* 128 MiB .*: anonfolio advise --buffer 512 -- job 'a b'$"),
    ):
        events.rest()
    events.close()


@linux
def test_an_exec_that_is_read_before_it_was_looked_at_waits_and_what_follows_with_it() -> None:
    whole = run_of([fault(1023)])
    images: list[Image] = []
    found = Converter(images, whole.ended)
    found.feed(events_of(whole.lines))
    assert not found.spaces
    images += whole.images
    found.feed(())
    assert found.accesses.rows[:, 1].tolist() == [1023]
    found.finish()
    with pytest.raises(LiveError, match="process 7 ran a program that was not seen to start"):
        trace_of(whole._replace(images=[]), "6.18.44")
