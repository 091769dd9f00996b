"""The bench: what it compares is equal in counts, goals are judged, and what a machine cannot run is left out and told.

With sizes this small no ratio means anything: only that everything runs, and how the report comes about.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run_bench(out: Path, *arguments: str, **environment: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code, text, and the results of the JSON."""
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--out", str(out), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "", **environment})
    assert ran.returncode in (0, 1), ran.stderr
    assert (out / "bench.txt").read_text() == ran.stdout
    return ran.returncode, ran.stdout, json.loads((out / "bench.json").read_text())["results"]


@pytest.mark.long
def test_without_compiler_root_or_peers_it_runs_the_rest_and_says_what_is_left_out(tmp_path: Path) -> None:
    code, text, results = run_bench(
        tmp_path, "--accesses", "3000", "--rounds", "2", "--pages", "1024", "--largest", "10",
        "--only", "kernel", "growth", "compile", "tlb", "curve",
    )  # fmt: skip
    left_out = [each["left_out"] for each in results if "left_out" in each]
    assert any("plain C" in why for why in left_out)
    assert any("pycachesim is not installed" in why for why in left_out)
    assert any("model" in each["part"] for each in results if "left_out" in each)
    assert all(f"left out: {why}" in text for why in left_out)
    ran = {each["part"].split(" (")[0] for each in results if "median" in each}
    assert len(ran) == 4
    missed = [each["name"] for each in results if each.get("missed")]
    assert code == (1 if missed else 0)
    assert all(f": {name}," in text for name in missed)


@pytest.mark.long
def test_one_part_can_run_alone(tmp_path: Path) -> None:
    _, _, results = run_bench(tmp_path, "--only", "growth", "--largest", "12", "--store", str(tmp_path / "s.json"))
    assert len({each["part"] for each in results}) == 1
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["format"] == "anonfolio-scaling/1"
    assert [row["pages"] for row in stored["sizes"]] == [256, 1024, 4096]
    assert all(row["warm_s"]["first_touch"] for row in stored["sizes"])


def test_numbers_that_make_no_sense_are_refused() -> None:
    from bench import main

    with pytest.raises(SystemExit, match="2"):
        main(["--rounds", "0"])


def test_exit_code_says_whether_a_goal_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench
    from results import Measured

    for figure, code in ((1.0, 1), (3.0, 0)):
        found = [Measured("part", "ratio", (figure,), at_least=2)]
        monkeypatch.setattr(bench, "run", lambda *_, found=found: iter(found))
        assert bench.main(["--out", str(tmp_path)]) == code
        assert ("missed: part: ratio" in capsys.readouterr().out) == bool(code)


def test_a_bench_that_is_stopped_reports_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench
    from results import Measured

    def stopped(*_: object) -> Any:
        yield Measured("part", "ratio", (3.0,))
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", stopped)
    assert bench.main(["--out", str(tmp_path)]) == 0
    text = (tmp_path / "bench.txt").read_text()
    assert "ratio" in text
    assert "left out: stopped" in text


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_goal_is_judged_by_the_median() -> None:
    from results import LeftOut, Measured, missed, report

    fast = Measured("part", "fast", (60.0, 40.0, 55.0), at_least=50)
    slow = Measured("part", "slow", (60.0, 40.0, 45.0), at_least=50)
    large = Measured("part", "large", (5.0,), "GiB", at_most=4)
    never = Measured("part", "never", (float("nan"),), at_least=1)
    free = Measured("part", "free", (1.0,))
    assert missed([fast, slow, large, never, free, LeftOut("part", "no root")]) == [slow, large, never]
    assert (slow.median, slow.worst, slow.goal) == (45, 40, "≥ 50")
    text = report([fast, slow, LeftOut("other", "no root")], {"machine": "mine"})
    assert "missed: part: slow, 45, goal ≥ 50" in text
    assert "left out: no root" in text
    assert "no goal was missed, of those that ran" in report([fast, LeftOut("other", "no root")], {})


def test_every_goal_stands_in_the_bench() -> None:
    from against_kernel import OPERATIONS
    from against_peers import CURVE_SIZES, GEOMETRIES, GOALS, traces
    from scaling import judged

    goals = {operation.name: operation.goal for operation in OPERATIONS if operation.goal}
    assert goals == {
        "first touch 4K": 50, "first touch 64K": 20, "zero page read": 50, "zero page write": 50, "CoW copy 4K": 50,
        "reuse 4K": 30, "fork 4K": 5, "fork 64K": 20,
    }  # fmt: skip
    assert sorted(GOALS.values()) == [0.3, 1.2, 3.0]
    assert (len(GEOMETRIES), len(traces(100)), len(CURVE_SIZES)) == (4, 5, 64)
    warm = {"first_touch": [1.5, 1.5], "fork": [0.5, 0.5]}
    row = {"pages": 1 << 28, "warm_s": warm, "peak_gib": 5.0, "empty_gib": 0.0}
    assert [each.name for each in judged([row]) if each.missed] == [  # type: ignore[union-attr]
        "1 TiB, first touch, warm", "1 TiB, memory at most",
    ]  # fmt: skip


def test_the_compile_is_replayed_as_a_whole_and_in_one_stream() -> None:
    from replayed import run

    whole, *streams = run(1, lambda _: None)
    assert (whole.at_most, whole.unit) == (0.5, "s")  # type: ignore[union-attr]
    assert [each.name for each in streams] == ["in one stream, 4K", "in one stream, 64K", "in one stream, all"]  # type: ignore[union-attr]
    assert {(each.at_least, each.unit, len(each.rounds)) for each in streams} == {(10, "M accesses/s", 1)}  # type: ignore[union-attr]


def test_advise_is_measured_on_a_program_that_does_twice_what_the_compile_does() -> None:
    from advised import TASKS, twice

    from anonfolio.hardware.trace import DATA_DIR, read_measured, read_trace, replay

    once = read_trace(DATA_DIR / "compile-6.18.44.npz")
    assert len(read_measured(DATA_DIR / "compile-6.18.44.json")) == TASKS
    both = twice(once)
    assert len(both) == 2 * len(once) > 80_000
    assert replay(both, (8,)).faults == {path: 2 * count for path, count in replay(once, (8,)).faults.items()}


@pytest.mark.long
def test_advise_is_measured_from_the_end_of_a_program_on() -> None:
    from advised import _table_of, repeated

    from anonfolio.hardware.trace import DATA_DIR, read_trace, replay

    once = read_trace(DATA_DIR / "database-6.18.44-1.npz")
    many = repeated(once, 100)
    assert (len(many), len(many.processes), many.process.dtype) == (100 * len(once), 300, np.uint16)
    few = repeated(once, 3)
    assert replay(few, (4,)).faults == {path: 3 * count for path, count in replay(once, (4,)).faults.items()}
    assert "\n16K+64K " in _table_of(few)


def test_growth_that_is_not_linear_is_noticed() -> None:
    from scaling import _linear

    sizes = [1 << order for order in range(8, 20, 2)]
    assert not _linear("time", [(size, 1e-4 + size * 1e-8) for size in sizes]).missed
    assert not _linear("memory", [(size, 0.0) for size in sizes]).missed
    humped = [(size, 1e-4 + size * (1e-6 if size == 1 << 16 else 1e-8)) for size in sizes]
    assert _linear("time", humped).missed


# --- what is compared -------------------------------------------------------------------------------------------------


def test_traces_are_what_they_are_called() -> None:
    from against_peers import traces

    made = traces(20_000)
    assert all(len(keys) == 20_000 and keys.min() >= 0 for keys in made.values())
    zipf, uniform, small, sequential, stencil = made.values()
    most = np.bincount(zipf).max() / len(zipf)
    assert 0.05 < most < 0.15  # 1 / H(65,536) is 0.086
    assert np.bincount(uniform).max() < 10
    assert small.max() < 1024
    assert (np.diff(sequential) >= 0).all()
    assert sequential[-1] == 20_000 // 64
    assert len(np.unique(stencil[:500])) < 10


def test_plain_c_and_peers_count_the_same_misses(tmp_path: Path) -> None:
    import importlib.util

    from against_peers import GEOMETRIES, bulk, ours, plain_c, through_a_file, traces

    try:
        c = plain_c(tmp_path)
    except (ValueError, ImportError) as reason:
        pytest.skip(str(reason))
    peers = [name for name in ("cachesim", "libcachesim") if importlib.util.find_spec(name)]
    for keys in traces(5000).values():
        for entries, ways in GEOMETRIES:
            counts = {ours(keys, entries, ways), c(keys, entries, ways)}
            if "cachesim" in peers:
                counts.add(bulk(importlib.import_module("cachesim"), (keys * 64).tolist(), entries, ways))
            if "libcachesim" in peers:
                counts.add(through_a_file(importlib.import_module("libcachesim"), keys, entries, ways, tmp_path))
            assert len(counts) == 1


def test_the_models_side_measures_every_operation_that_is_compared() -> None:
    from against_kernel import OPERATIONS, _Model

    model = _Model(512)
    model.round(warm=False)
    assert not model.clock
    model.round()
    for operation in OPERATIONS:
        for how in model.streams:
            assert len(model.clock[f"{operation.name}, {how}"]) == 1
