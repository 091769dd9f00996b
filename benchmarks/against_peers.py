"""Exact LRU against pycachesim, libcachesim and a plain loop in C; the miss curve against single runs."""

from __future__ import annotations

import ctypes
import importlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from results import LeftOut, Measured, Result, geomean

from anonfolio.hardware.lru import Lru, miss_curve

PART = "TLB: exact LRU (their time ÷ ours, geometric mean over five traces)"
CURVE = "TLB: the miss curve of 64 sizes (64 single runs ÷ one pass, geometric mean over five traces)"
GEOMETRIES = ((48, 48), (64, 4), (1280, 5), (2048, 16))
CURVE_SIZES = np.arange(1, 65) * 4
"""Small enough for a single run to be fast at each of them: against larger ones the curve would look better."""
NOW = time.process_time_ns
LINE = 64
"""pycachesim takes byte addresses; one of its lines stands for one key."""

Keys = npt.NDArray[np.int64]
Peer = Callable[[Keys, int, int], int]


def traces(accesses: int) -> dict[str, Keys]:
    """The five page streams, `accesses` long each."""
    random = np.random.default_rng(1)
    pages = 1 << 16
    weights = np.cumsum(1 / np.arange(1, pages + 1))
    zipf = random.permutation(pages)[np.searchsorted(weights, random.random(accesses) * weights[-1])]
    return {
        "zipf(1.0) over 65,536 pages": zipf,
        "uniform over 65,536 pages": random.integers(0, pages, accesses),
        "uniform over 1,024 pages": random.integers(0, 1024, accesses),
        "sequential, steps of 64 bytes": np.arange(accesses) * 64 // 4096,
        "5-point stencil": _stencil(accesses),
    }


def _stencil(accesses: int) -> Keys:
    """Row by row over a grid of doubles whose rows are 128 KiB apart: the point, above, below, left, right."""
    row, start = 32 * 4096, 10 * 32 * 4096
    points = start + np.arange(-(-accesses // 5)) * 8
    return (np.stack([points, points - row, points + row, points - 8, points + 8], axis=1) // 4096).ravel()[:accesses]


# --- the peers ------------------------------------------------------------------------------------------------------


def plain_c(folder: Path) -> Peer:
    """The loop of lru.c, compiled with -O2."""
    from anonfolio.witness.live.cost import build

    library = build(Path(__file__).with_name("lru.c"), folder / "lru.so", "-shared", "-fPIC")
    misses = ctypes.CDLL(str(library)).misses
    number, pointer = ctypes.c_long, ctypes.c_void_p
    misses.restype, misses.argtypes = number, [pointer, number, number, number, pointer]

    def run(keys: Keys, entries: int, ways: int) -> int:
        held = np.empty(entries, np.int64)
        return int(misses(keys.ctypes.data, len(keys), entries // ways, ways, held.ctypes.data))

    return run


def as_addresses(keys: Keys) -> list[int]:
    """What pycachesim takes; whoever has an array pays for this list, and for freeing it."""
    addresses: list[int] = (keys * LINE).tolist()
    return addresses


def bulk(cachesim: ModuleType, addresses: list[int], entries: int, ways: int) -> int:
    """pycachesim's bulk loads of addresses that are a list already."""
    memory = cachesim.MainMemory()
    cache = cachesim.Cache("L1", entries // ways, ways, LINE, "LRU")
    memory.load_to(cache)
    memory.store_from(cache)
    simulator = cachesim.CacheSimulator(cache, memory)
    simulator.load(addresses, length=1)
    return int(next(iter(simulator.stats()))["MISS_count"])


def through_a_file(libcachesim: ModuleType, keys: Keys, entries: int, ways: int, folder: Path) -> int:
    """libcachesim's LRU, which has one set: the sets one after the other.

    They share no keys, so that what the set before left behind is as good as empty.
    """
    sets = entries // ways
    record = [("time", "<u4"), ("key", "<u8"), ("size", "<u4"), ("next", "<i8")]
    rows = np.zeros(len(keys), record)
    rows["key"], rows["size"], rows["next"] = keys[np.argsort(keys % sets, kind="stable")], 1, -1
    path = folder / "trace.bin"
    rows.tofile(path)
    kind, ignore_size = libcachesim.TraceType.ORACLE_GENERAL_TRACE, libcachesim.ReaderInitParam(ignore_obj_size=True)
    ratio, _ = libcachesim.LRU(cache_size=ways).process_trace(libcachesim.TraceReader(str(path), kind, ignore_size))
    return round(float(ratio) * len(keys))


def ours(keys: Keys, entries: int, ways: int) -> int:
    """The library's misses."""
    return len(keys) - int(np.count_nonzero(Lru(entries, ways).access(keys)))


# --- rounds ---------------------------------------------------------------------------------------------------------


def run(accesses: int, rounds: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """All by turns; every count must be the same."""
    streams = traces(accesses)
    with tempfile.TemporaryDirectory(prefix="anonfolio-bench-") as name:
        folder = Path(name)
        c, cachesim, libcachesim = _found(folder)
        yield from (LeftOut(PART, why) for why in (c, cachesim, libcachesim) if isinstance(why, str))
        clock: dict[tuple[str, int, int], dict[str, list[float]]] = {}
        wrong = 0
        for number in range(rounds):
            tell(f"tlb, round {number + 1} of {rounds}")
            for trace, keys in streams.items():
                for entries, ways in GEOMETRIES:
                    times = clock.setdefault((trace, entries, ways), defaultdict(list))
                    counts = {_timed(times["ours"], ours, keys, entries, ways)}
                    if callable(c):
                        counts.add(_timed(times["plain C, -O2"], c, keys, entries, ways))
                    if isinstance(cachesim, ModuleType):
                        addresses = _timed(times["list made"], as_addresses, keys)
                        counts.add(_timed(times["pycachesim, bulk loads"], bulk, cachesim, addresses, entries, ways))
                        _timed(times["list freed"], addresses.clear)
                    if isinstance(libcachesim, ModuleType) and not number:
                        counts.add(through_a_file(libcachesim, keys, entries, ways, folder))
                    wrong += len(counts) != 1
    yield Measured(PART, "runs whose miss counts differ from a peer's", (float(wrong),), "", at_most=0)
    yield from _ratios(clock, rounds)


def _found(folder: Path) -> tuple[Peer | str, ModuleType | str, ModuleType | str]:
    """Each peer, or why it is not there."""
    try:
        c: Peer | str = plain_c(folder)
    except (ValueError, ImportError, OSError) as reason:
        c = f"plain C: {reason}"
    return c, _peer("cachesim", "pycachesim"), _peer("libcachesim", "libcachesim")


def _peer(module: str, name: str) -> ModuleType | str:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return f"{name} is not installed (make bench installs it where it can): {error}"


def _timed(times: list[float], action: Callable[..., Any], *arguments: object) -> Any:
    start = NOW()
    result = action(*arguments)
    times.append(float(NOW() - start))
    return result


GOALS = {"plain C, -O2": 0.3, "pycachesim, bulk loads": 1.2, "pycachesim, list conversion included": 3.0}


def _ratios(clock: dict[tuple[str, int, int], dict[str, list[float]]], rounds: int) -> Iterator[Result]:
    for times in clock.values():
        if "list made" in times:
            parts = zip(times.pop("list made"), times["pycachesim, bulk loads"], times.pop("list freed"), strict=True)
            times["pycachesim, list conversion included"] = [sum(part) for part in parts]
    for name, goal in GOALS.items():
        cases = {case: times for case, times in clock.items() if name in times}
        if not cases:
            continue
        for geometry in (None, *GEOMETRIES):
            mine = [times for case, times in cases.items() if geometry in (None, case[1:])]
            figures = [geomean(each[name][at] / max(each["ours"][at], 1) for each in mine) for at in range(rounds)]
            label = name if geometry is None else f"   {geometry[0]:,} entries, {geometry[1]} ways"
            detail = (
                {}
                if geometry
                else {
                    f"{trace}, {entries} entries, {ways} ways, ns": dict(times)
                    for (trace, entries, ways), times in cases.items()
                }
            )
            yield Measured(PART, label, tuple(figures), at_least=None if geometry else goal, detail=detail)


def run_curve(accesses: int, tell: Callable[[str], None]) -> Iterator[Result]:
    """One pass against one run a size, for each trace; the counts must be the same."""
    ratios, wrong = {}, 0
    for trace, keys in traces(accesses).items():
        tell(f"curve, {trace}")
        one: list[float] = []
        singles: list[float] = []
        curve = _timed(one, miss_curve, keys, CURVE_SIZES)
        half = len(CURVE_SIZES) // 2
        counts = [_timed(singles, ours, keys, size, size) for size in CURVE_SIZES.tolist()[:half]]
        # In the middle once more, so that both see the same machine.
        _timed(one, miss_curve, keys, CURVE_SIZES)
        counts += [_timed(singles, ours, keys, size, size) for size in CURVE_SIZES.tolist()[half:]]
        wrong += int(np.count_nonzero(curve != np.array(counts)))
        ratios[trace] = sum(singles) / (sum(one) / len(one))
    yield Measured(CURVE, "sizes whose miss counts differ", (float(wrong),), "", at_most=0)
    yield Measured(CURVE, "all five traces", (geomean(ratios.values()),), at_least=8, detail=ratios)
    for trace, ratio in ratios.items():
        yield Measured(CURVE, f"   {trace}", (ratio,))
