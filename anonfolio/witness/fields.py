"""Experiments on what a kernel shows to user space: small programs, and the raw fields at chosen moments.

A recording holds what page tables map, already understood. An experiment keeps what was read as it stands: words of
/proc/PID/pagemap, /proc/kpageflags and /proc/kpagecount, sums of /proc/PID/smaps, and what counters grew by. So what a
field means can be asked of the data. Stored ones lie in ``data/fields`` (``anonfolio-fields/1``); `live_fields` makes
them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..program.formats import DATA, read_json
from ..program.scenario import Scenario
from .comparing import Recorded
from .recording import as_program, read_program

FORMAT = "anonfolio-fields/1"
DATA_DIR = DATA / "fields"
LIVE = "ANONFOLIO_LIVE"
"""The environment variable with which a reader asks the kernel of her machine."""
LOOK_PAGES = 16
"""Raw words are kept for so many pages of the mapping, from its first on."""

Words = npt.NDArray[np.uint64]

PRESENT, ONCE, FRAME = 63, 56, (1 << 55) - 1
FLAGS = {"anon": 12, "head": 15, "tail": 16, "thp": 22, "zero page": 24, "exclusive": 34}
"""Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h). Bit 34 is the one that PG_anon_exclusive uses."""
LRU, IDLE = 5, 25


class FieldsError(ValueError):
    """A file that holds no experiments; the message says what is wrong."""


@dataclass(frozen=True)
class Look:
    """The fields of one process at one moment.

    Attributes
    ----------
    pagemap, kpageflags, kpagecount : ndarray of shape (LOOK_PAGES,) or fewer, uint64
        One word per page; those of /proc/kpage* are of its frame, and 0 where nothing is mapped.
    smaps : dict of str to int
        Each number of /proc/PID/smaps, in kB, summed over the mappings of the window.
    """

    pagemap: Words
    kpageflags: Words
    kpagecount: Words
    smaps: Mapping[str, int]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Pages that map anything."""
        return _bit(self.pagemap, PRESENT)

    @property
    def once(self) -> npt.NDArray[np.bool_]:
        """Bit 56 of pagemap."""
        return _bit(self.pagemap, ONCE)

    @property
    def frames(self) -> Words:
        """Frame numbers, 0 where nothing is mapped."""
        return np.where(self.present, self.pagemap & np.uint64(FRAME), np.uint64(0))

    def flag(self, name: str) -> npt.NDArray[np.bool_]:
        """A bit of kpageflags, by its name in `FLAGS`."""
        return _bit(self.kpageflags, FLAGS[name])


def _bit(words: Words, bit: int) -> npt.NDArray[np.bool_]:
    return (words >> np.uint64(bit) & np.uint64(1)) > 0


@dataclass(frozen=True)
class Experiment:
    """A program that ran on a kernel, and the fields after some of its steps.

    Attributes
    ----------
    recorded : Recorded
        What recordings hold, and per step what was counted.
    looks : dict of int to dict of int to Look
        By how many steps were done (0 is before the first), then by process.
    folios : dict of int to tuple of tuple of int
        By how many steps were done: per folio that somebody maps, the mapcounts of *all* its frames.
    """

    recorded: Recorded
    looks: Mapping[int, Mapping[int, Look]]
    folios: Mapping[int, tuple[tuple[int, ...], ...]]

    @property
    def scenario(self) -> Scenario:
        """The program."""
        return self.recorded.scenario

    def look(self, done: int, process: int = 0) -> Look:
        """The fields of a process after so many steps."""
        return self.looks[done][process]

    def counted(self, name: str, first: int = 0, end: int | None = None) -> int:
        """What a counter (``"minflt"``, ``"pgreuse"``, ``"anon_fault_alloc/4"``) grew by in steps [first, end)."""
        return sum(step["counted"].get(name, 0) for step in self.recorded.steps[first:end])


@dataclass(frozen=True)
class Fields:
    """All experiments of one kernel: a mapping by name."""

    kernel: str
    live: bool
    experiments: Mapping[str, Experiment]

    def __getitem__(self, name: str) -> Experiment:
        return self.experiments[name]

    def __str__(self) -> str:
        if self.live:
            return f"Just now, on the kernel of this machine: Linux {self.kernel}."
        return f"Recorded on Linux {self.kernel}. {LIVE}=1 asks the kernel of your machine instead (root, x86-64)."


# --- the experiments ------------------------------------------------------------------------------------------------


def _program(text: str, orders: str = "4", pages: int = 16) -> Scenario:
    return Scenario.parse(f"pages {pages}\norders {orders}\n{text}")


_FILL = "write 0 0..15\n"
_CHILD_GONE = f"{_FILL}fork 0\nexit 1\n"
_REWRITTEN = "".join(f"write 0 {page} 101\n" for page in range(1, 16))

EXPERIMENTS: dict[str, tuple[Scenario, tuple[int, ...]]] = {
    "one folio": (_program(_FILL), (0, 1, 16)),
    "16 folios": (_program(f"read 0 0..15\n{_FILL}"), (16, 32)),
    "2 MiB": (_program("write 0 0 1\nmunmap 0 256 256", "9", 512), (1, 2)),
    "zero page": (_program("read 0 3\nwrite 0 3 103"), (0, 1, 2)),
    "child gone": (_program(f"{_CHILD_GONE}{_REWRITTEN}write 0 1 102\nwrite 0 0 101"), (16, 17, 18, 33, 35)),
    "head first": (_program(f"{_CHILD_GONE}write 0 0 101\nwrite 0 1 101"), (18, 19, 20)),
    "three writes": (_program(f"{_FILL}fork 0\nwrite 0 4 101\nexit 1\nwrite 0 5 101\nwrite 0 5 102"), (17, 18, 19, 21)),
    "pipe": (_program(f"{_CHILD_GONE}ref 0 3 0\nwrite 0 5 101"), (19, 20)),
    "pipe closed": (_program(f"{_CHILD_GONE}ref 0 3 0\nunref 0 0\nwrite 0 5 101"), (20, 21)),
    "pin": (_program(f"{_FILL}pin 0 4 1 0\nfork 0"), (17, 18)),
    "pin over": (_program(f"{_FILL}pin 0 4 1 0\nunpin 0 0\nfork 0"), (18, 19)),
    "third": (_program(f"{_FILL}fork 0\nfork 0\nexit 1\nmunmap 0 0 16\nread 2 0..15\nwrite 2 5 101"), (36, 37)),
    "last page": (_program(f"{_FILL}munmap 0 0 15"), (16, 17)),
}
"""By name: the program, and after how many steps the fields are read."""


# --- reading --------------------------------------------------------------------------------------------------------


def live_wanted(live: bool | None = None) -> bool:
    """Whether the reader wants her own kernel: the argument decides, else the environment variable."""
    return os.environ.get(LIVE, "0").strip().lower() not in ("", "0", "no", "false") if live is None else live


@lru_cache(maxsize=1)
def stored() -> Fields:
    """The experiments that come along."""
    return read_fields(next(iter(sorted(DATA_DIR.glob("*.json"))), DATA_DIR))


def read_fields(path: str | Path) -> Fields:
    """Read a file of experiments; FieldsError says in one line what is wrong with it."""
    content = read_json(path, FORMAT, FieldsError)
    try:
        kernel = content["kernel"]
        made = {name: _experiment(kernel, row, name) for name, row in content["experiments"].items()}
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FieldsError(f"{path}: an experiment cannot be read ({error!r:.160})") from None
    return Fields(kernel, False, made)


def _experiment(kernel: str, row: dict[str, Any], where: str) -> Experiment:
    looks = {
        int(done): {int(process): _look(fields) for process, fields in look.items()}
        for done, look in row["looks"].items()
    }
    folios = {int(done): tuple(map(tuple, counts)) for done, counts in row["folios"].items()}
    return Experiment(read_program(kernel, "x86-64", row, where), looks, folios)


def _look(row: dict[str, Any]) -> Look:
    pagemap, kpageflags, kpagecount = (
        np.array([int(word, 16) for word in row[name].split()], np.uint64) for name in WORDS
    )
    return Look(pagemap, kpageflags, kpagecount, row["smaps"])


WORDS = ("pagemap", "kpageflags", "kpagecount")


def write_fields(path: str | Path, found: Fields, **notes: Any) -> None:
    """Write experiments, one a line; `notes` (where and how they were made) become further keys."""
    head = json.dumps({"format": FORMAT, "kernel": found.kernel, **notes})[:-1]
    rows = [f"{json.dumps(name)}: {json.dumps(_row(made))}" for name, made in found.experiments.items()]
    Path(path).write_text(f'{head}, "experiments": {{\n' + ",\n".join(rows) + "\n}}\n", encoding="utf-8")


def _row(made: Experiment) -> dict[str, Any]:
    looks = {
        done: {
            process: {**{name: _hex(getattr(look, name)) for name in WORDS}, "smaps": look.smaps}
            for process, look in looks.items()
        }
        for done, looks in made.looks.items()
    }
    return {**as_program(made.recorded, made.recorded.kernel), "looks": looks, "folios": made.folios}


def _hex(words: Words) -> str:
    return " ".join(f"{int(word):x}" for word in words)


# --- understanding --------------------------------------------------------------------------------------------------


def folio_sizes(flags: Sequence[int]) -> list[int]:
    """Sizes in pages of the folios in a row of frames, by their kpageflags; the first frame is no tail."""
    sizes: list[int] = []
    for word in flags:
        if word >> FLAGS["tail"] & 1:
            sizes[-1] += 1
        else:
            sizes.append(1)
    return sizes


def differing(one: Look, other: Look) -> list[str]:
    """Which fields differ: ``"smaps Pss"``, ``"pagemap 56"``, ``"kpagecount"``, ``"kpageflags 34"``.

    Left out are frame numbers, which are never the same, and of kpageflags what is set whatever the program does: bit
    5, for a small folio comes on the LRU list when its CPU's batch is full (mm/swap.c), and bit 25, by which DAMON
    marks pages that it watches (damon_ptep_mkold, 6.18).
    """
    found = [
        f"smaps {name}" for name in {**one.smaps, **other.smaps} if one.smaps.get(name, 0) != other.smaps.get(name, 0)
    ]
    apart = np.uint64(FRAME)
    found += _bits("pagemap", (one.pagemap | apart) ^ (other.pagemap | apart))
    found += ["kpagecount"] if not np.array_equal(one.kpagecount, other.kpagecount) else []
    return found + _bits("kpageflags", (one.kpageflags ^ other.kpageflags) & ~np.uint64(1 << LRU | 1 << IDLE))


def _bits(name: str, words: Words) -> list[str]:
    together = int(np.bitwise_or.reduce(words))
    return [f"{name} {bit}" for bit in range(64) if together >> bit & 1]
