"""What several test files need: a machine's state as one value, one with a folio, programs to draw and their cells."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import settings

import anonfolio as af
from anonfolio.draw.picture import Picture
from anonfolio.draw.table import Cell, Row, rows
from anonfolio.kernel.buddy import Buddy
from anonfolio.kernel.mm import Mm
from anonfolio.kernel.vma import Vma


def examples(count: int) -> int:
    """How many a property test draws: with --sample a third of `count`; HYPOTHESIS_PROFILE=explore says itself."""
    drawn = settings().max_examples
    return max(1, count * drawn // 100) if settings().derandomize else drawn


def freeze(thing: Any) -> Any:
    """Everything a machine holds, visible or not, as a value that can be compared: nothing is left out by name."""
    return _freeze(thing, {})


def _freeze(thing: Any, seen: dict[int, int]) -> Any:
    if isinstance(thing, np.ndarray):
        return ("array", thing.dtype.str, thing.shape, thing.tobytes())
    if isinstance(thing, (list, tuple, dict)) and _plain(thing):
        if isinstance(thing, defaultdict):
            # Counters that were only looked at hold zeros; they say the same as if they were absent.
            return tuple(sorted(item for item in thing.items() if item[1]))
        return tuple(sorted(thing.items())) if isinstance(thing, dict) else tuple(thing)
    if isinstance(thing, dict):
        return ("dict", tuple((_freeze(key, seen), _freeze(value, seen)) for key, value in thing.items()))
    if isinstance(thing, (set, frozenset)):
        return ("set", tuple(sorted(map(repr, thing))))
    if isinstance(thing, (list, tuple)):
        return ("list", tuple(_freeze(item, seen) for item in thing))
    if isinstance(thing, random.Random):
        return ("random", thing.getstate())
    if thing is None or isinstance(thing, (int, float, str, bool, range, np.generic, af.Policy)):
        # A policy is a value: what it has worked out of its fields is no state.
        return thing
    if id(thing) in seen:
        return ("again", seen[id(thing)])
    seen[id(thing)] = len(seen)
    names: Iterable[str] = getattr(thing, "__dict__", None) or getattr(type(thing), "__slots__", ())
    if isinstance(thing, Mm):
        # The machine's memory is frozen once, on its own: it is the same for all.
        names = set(names) - {"memory"}
    if isinstance(thing, Buddy):
        # Which blocks are free is state; a copy sorts them into heaps when it is first asked.
        names = set(names) - {"_heaps"}
    return (type(thing).__name__, tuple((name, _freeze(getattr(thing, name), seen)) for name in sorted(names)))


def _plain(thing: Any) -> bool:
    kinds = set(map(type, thing.values() if isinstance(thing, dict) else thing))
    return kinds <= {int, float, str, bool}


def machine_with_folio(
    policy: af.Policy | str = af.LINUX_6_15, pages: int = 16, **knobs: Any
) -> tuple[af.Machine, af.Process]:
    """One process with a mapping of `pages`, every page written with its number plus one."""
    machine = af.Machine(policy, **knobs)
    process = machine.spawn()
    process.mmap(pages)
    for page in range(pages):
        process.write(page, (page + 1) % 256)
    return machine, process


def folio(machine: af.Machine, process: af.Process, vpn: int) -> int:
    """The number of the folio that a page maps."""
    assert process.mm.pte[vpn], f"page {vpn} is not mapped"
    return int(machine.memory.folio_of[process.mm.pfn[vpn]])


def layout(process: af.Process) -> list[tuple[int, int]]:
    """The mappings of a process as (first page, end)."""
    return [(mapping.start, mapping.end) for mapping in process.mappings()]


def vma_at(process: af.Process, vpn: int) -> Vma:
    """The mapping that contains a page, which must be one."""
    vma = process.mm.find_vma(vpn)
    assert vma is not None
    return vma


COPY = af.Scenario(8, (("write", 0, 0, 7), ("fork", 0), ("write", 1, 2, 9), ("exit", 0)), orders=(3,), name="copy")
PINNED = af.Scenario(
    16,
    (("write", 0, 0, 1), ("pin", 0, 2, 3, 0), ("ref", 0, 3, 0), ("dma_write", 0, 0, 1, 77), ("fork", 0)),
    orders=(4,),
)


def drawn_rows(picture: Picture) -> list[Row]:
    """The rows of all processes, of 16 cells."""
    return [row for table in picture.scene.tables for row in rows(table, 16)]


def drawn_cells(picture: Picture) -> list[Cell]:
    """The cells of all processes."""
    return [cell for row in drawn_rows(picture) for cell in row.cells]
