"""Questions of ``01_first_touch``: ``from anonfolio.exercises import first_touch as q``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..kernel.policy import LINUX_6_3, LINUX_6_15, Policy
from ..lesson.quiz import Function, Number, Pages, Sizes, but, modelled
from ..lesson.topics import asking
from ..lesson.words import Words
from ..machine.machine import Machine
from ..program.scenario import Scenario

words = Words(__file__)
more = asking("touch")


def _faults(policy: Policy = LINUX_6_15, orders: tuple[int, ...] = (2, 3, 4), largest_free: int | None = None) -> int:
    """Faults of 1,024 writes, page after page, into 4 MiB, on a machine with 64 MiB."""
    machine = Machine(policy, orders=orders, frames=1 << 14)
    if largest_free is not None:
        machine.memory.buddy.fragment(largest_free)
    process = machine.spawn()
    return sum(bool(process.write(page)) for page in process.mmap(1024))


faults = Number(
    **words(
        "faults",
        linux_6_3=lambda: _faults(LINUX_6_3),
        only_2_mib=lambda: _faults(orders=(9,)),
        only_16_kib=lambda: _faults(orders=(2,)),
    ),
    truth=_faults,
)


def _pages(name: str, step: int) -> range:
    return Scenario.load(name).run(LINUX_6_15)[step].faults[-1].pages


edge = Pages(**words("edge"), truth=lambda: _pages("mapping-ends-inside-block", 1))

neighbour = Number(**words("neighbour"), truth=lambda: len(_pages("zero-page-neighbour", 2)))

scarce = Number(
    **words("scarce", not_scarce=_faults, no_size=lambda: _faults(orders=())), truth=lambda: _faults(largest_free=2)
)


# --- blocks at both edges -------------------------------------------------------------------------------------------

skewed = Scenario(20, tuple(("write", 0, page, page) for page in range(20)), skew=3, name="both-edges")
"""Pages 3 to 22, written in order: no block fits at either edge."""


def _block_sizes() -> list[int]:
    return [len(fault.pages) for fault in skewed.run(LINUX_6_15).faults()]


blocks = Sizes(**words("blocks"), truth=_block_sizes)


# --- the order choice as a function ---------------------------------------------------------------------------------


def choose_order(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    """The order of the folio that a write on `page` gets."""
    for order in sorted(enabled, reverse=True):
        start = page >> order << order
        block = range(start, start + (1 << order))
        inside = block.start >= mapping.start and block.stop <= mapping.stop
        if inside and used.isdisjoint(block):
            return order
    return 0


def _scenario(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> Scenario:
    reads = tuple(("read", 0, at - mapping.start) for at in sorted(used))
    write = ("write", 0, page - mapping.start, 1)
    return Scenario(len(mapping), (*reads, write), enabled, skew=mapping.start, name="order-choice")


def _random_case(source: random.Random) -> Mapping[str, Any]:
    start = source.choice((0, 0, 1, 3, 4, 6, 8))
    mapping = range(start, start + source.randint(4, 40))
    page = source.choice(mapping)
    others = [at for at in mapping if at != page]
    used = set(source.sample(others, source.choice((0, 0, 0, 1, 1, 2))))
    enabled = tuple(order for order in (4, 3, 2) if source.random() < 0.75)
    return {"page": page, "mapping": mapping, "used": used, "enabled": enabled}


def _unaligned(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    fits = [n for n in enabled if page + (1 << n) <= mapping.stop and used.isdisjoint(range(page, page + (1 << n)))]
    return max(fits, default=0)


def _aligned_to_mapping(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    moved = {at - mapping.start for at in used}
    return choose_order(page - mapping.start, range(len(mapping)), moved, enabled)


def _smallest(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return min((order for order in enabled if choose_order(page, mapping, used, (order,))), default=0)


order = Function(
    **words(
        "order",
        biggest=lambda enabled, **_: max(enabled, default=0),
        no_mapping=but(choose_order, mapping=range(-512, 512)),
        no_neighbours=but(choose_order, used=set()),
        unaligned=_unaligned,
        aligned_to_mapping=_aligned_to_mapping,
        all_or_nothing=but(choose_order, enabled=lambda orders: orders[:1]),
        any_order=but(choose_order, enabled=(4, 3, 2, 1)),
        smallest=_smallest,
        in_pages=lambda **case: 1 << choose_order(**case),
    ),
    **modelled(_scenario, LINUX_6_15, lambda machine, **_: machine.faults[-1].order),
    case=_random_case,
    worked=choose_order,
)
