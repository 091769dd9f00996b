"""What tests on the kernel of this machine share: whether they may, and what a run could leave behind."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

import anonfolio as af

if TYPE_CHECKING:
    from anonfolio.witness.live.kernel import LiveKernel

ASKED = os.environ.get("ANONFOLIO_LIVE") == "1"
"""Live tests change settings of the machine for a moment: only when asked to."""
PATIENCE_S = 120.0
"""Another live run may be going on. A test waits up to four times, and make ends it after ten minutes."""
Found = TypeVar("Found")


def why_not() -> str:
    """Why no live test runs here; nothing when they can. Only what a run really needs is asked, by making it ready."""
    if not ASKED:
        return "changes settings of this machine for a moment; asked for with ANONFOLIO_LIVE=1"
    if sys.platform != "linux":
        return "a live run needs Linux"
    from anonfolio.witness.here import LiveError
    from anonfolio.witness.live.kernel import LiveKernel

    try:
        with LiveKernel(PATIENCE_S):
            return ""
    except LiveError as error:
        return str(error)


WHY_NOT = why_not()
needs_kernel = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def undisturbed(run: Callable[[], Found]) -> Found:
    """A live run's result; a machine that is too busy for it skips the test, and is given three chances."""
    from anonfolio.witness.here import TooDisturbed

    for _ in range(3):
        try:
            return run()
        except TooDisturbed as error:
            why = str(error)
            time.sleep(1)
    pytest.skip(why)


def difference(scenario: af.Scenario, kernel: LiveKernel, policy: af.Policy | None = None) -> af.Difference | None:
    """Where kernel and model differ, when they do so in every one of several runs."""
    from anonfolio.witness.live.compare import Tally, repeated_difference

    chosen = policy or af.policy_for_kernel(kernel.version)
    return undisturbed(lambda: repeated_difference(scenario, kernel, chosen, Tally()))


def settings() -> dict[str, str]:
    """Every value that a live run touches."""
    from anonfolio.witness.live.kernel import THP

    paths = [*THP.rglob("*"), Path("/proc/sys/vm/min_free_kbytes"), Path("/proc/sys/kernel/numa_balancing")]
    paths += [Path("/proc/sys/vm") / name for name in ("compaction_proactiveness", "user_reserve_kbytes")]
    paths += Path("/proc/sys/vm").glob("overcommit_*")
    return {str(path): path.read_text() for path in paths if path.is_file() and "stats" not in path.parts and
            not path.match("khugepaged/full_scans") and not path.match("khugepaged/pages_collapsed")}  # fmt: skip


def command_lines() -> list[str]:
    """What every process on the machine was started as."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def leftovers() -> list[str]:
    """Tracefs instances and processes of live runs."""
    from anonfolio.witness.live.kernel import INSTANCES, TRACEFS

    found = [str(path) for path in (TRACEFS / "instances").glob(INSTANCES + "*")]
    return found + ["/proc/" + words for words in command_lines() if "live/worker.py " in words]


def loaded_programs() -> list[int]:
    """Numbers of BPF programs of ours that the kernel still has: none is pinned, so each goes with its descriptor."""
    from anonfolio.witness.hidden.bpf import NAME, bpf

    next_program, program_of_number, about_program = 11, 13, 15
    found, number = [], 0
    while True:
        asked = ctypes.create_string_buffer(struct.pack("<II", number, 0), 128)
        if ctypes.CDLL(None).syscall(321, next_program, asked, 128) < 0:
            return found
        number = struct.unpack_from("<I", asked, 4)[0]
        try:
            fd = bpf(program_of_number, struct.pack("<I", number))
        except FileNotFoundError:
            continue
        about = ctypes.create_string_buffer(256)
        try:
            bpf(about_program, struct.pack("<IIQ", fd, len(about), ctypes.addressof(about)))
        finally:
            os.close(fd)
        # struct bpf_prog_info: the name stands behind 64 bytes of other things.
        found += [number] if about.raw[64:80].rstrip(b"\0") == NAME else []


def pinned_pages() -> int:
    """Pins of the whole machine that are held: FOLL_PIN taken less released (/proc/vmstat)."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"])


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether something comes to hold: rings of killed processes let go of their pins a little later."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
