"""What single faults cost: 16,384 first touches of order 4 (a gibibyte), and whether the mapping's size matters.

    python benchmarks/faults.py

Times are of this machine and of this moment; the ratio, taken in alternating rounds of one run, is what counts.
"""

from __future__ import annotations

import statistics
import time

import anonfolio as af

FAULTS = 16_384
ROUNDS = 7
ORDER = 4


def touch(mapping_pages: int, faults: int) -> float:
    """Seconds for `faults` first touches, one per block, at the end of a mapping of that size."""
    process = af.Machine("linux-6.15", orders=(ORDER,)).spawn()
    process.mmap(mapping_pages)
    first = mapping_pages - (faults << ORDER)
    start = time.perf_counter()
    for block in range(faults):
        process.write(first + (block << ORDER))
    return time.perf_counter() - start


def main() -> None:
    """Print both figures."""
    whole = touch(FAULTS << ORDER, FAULTS)
    print(f"{FAULTS:,} first touches of order {ORDER}: {whole:.2f} s, {whole / FAULTS * 1e6:.0f} µs each")
    small, large = 512 << ORDER, 1 << 28
    ratios = [touch(large, 512) / touch(small, 512) for _ in range(ROUNDS)]
    print(f"a fault in a tebibyte ÷ a fault in 32 MiB: {statistics.median(ratios):.2f} (median of {ROUNDS} rounds)")


if __name__ == "__main__":
    main()
