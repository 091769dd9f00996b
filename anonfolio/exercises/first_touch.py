"""Questions of ``01_first_touch``: ``from anonfolio.exercises import first_touch as q``."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from ..draw.picture import Picture
from ..kernel.policy import LINUX_6_3, LINUX_6_15, Policy
from ..lesson.quiz import Function, Mistake, Number, Pages, Sizes
from ..machine.machine import Machine
from ..program.scenario import Scenario


def _faults(policy: Policy = LINUX_6_15, orders: tuple[int, ...] = (2, 3, 4), largest_free: int | None = None) -> int:
    """Faults of 1,024 writes, page after page, into 4 MiB, on a machine with 64 MiB."""
    machine = Machine(policy, orders=orders, frames=1 << 14)
    if largest_free is not None:
        machine.memory.buddy.fragment(largest_free)
    process = machine.spawn()
    return sum(bool(process.write(page)) for page in process.mmap(1024))


faults = Number(
    name="q.faults",
    prompt="1,024 writes, one on each page of a fresh mapping of 4 MiB; 16, 32 and 64 KiB enabled. How many faults?",
    unit="faults",
    truth=_faults,
    because="Every fault maps 64 KiB, 16 pages, so the next 15 writes need none.",
    hints=("After the first write, which pages are writable?", "1,024 pages in blocks of 16."),
    mistakes=(
        Mistake(
            lambda: _faults(LINUX_6_3),
            "One fault a page is right up to 6.7 without 2 MiB pages, and today where no size is enabled.",
        ),
        Mistake(
            lambda: _faults(orders=(9,)), "That is what 2 MiB pages would do; here the largest enabled size is 64 KiB."
        ),
        Mistake(
            lambda: _faults(orders=(2,)), "That would be so with 16 KiB alone; the kernel tries the largest size first."
        ),
        Mistake(1, "A fault maps one folio, and no folio is 4 MiB."),
    ),
)


def _pages(name: str, step: int) -> range:
    return Scenario.load(name).run(LINUX_6_15)[step].faults[-1].pages


edge = Pages(
    name="q.edge",
    prompt="A mapping of 12 pages, 0 to 11; 16, 32 and 64 KiB enabled. Page 9 is written. Which pages are mapped then?",
    truth=lambda: _pages("mapping-ends-inside-block", 1),
    because="The aligned block of 16 and the one of 8 around page 9 leave the mapping; the one of 4 fits.",
    hints=(
        "A block of n pages starts at a multiple of n.",
        "The block of 8 around page 9 is 8–15. Does all of it lie in the mapping?",
    ),
    mistakes=(
        Mistake(range(9, 12), "Blocks start at a multiple of their size, and there are none of three pages."),
        Mistake(range(8, 16), "Right block for 8 pages, but 12–15 are not in the mapping."),
        Mistake(range(16), "The block of 16 leaves the mapping: 12–15 are not in it."),
        Mistake(range(12), "Sizes are powers of two; 12 pages are no folio."),
        Mistake(range(8, 10), "Two pages, order 1, is the one size that anonymous folios never have."),
        Mistake([9], "One page is the last resort; a smaller large block still fits."),
    ),
)

neighbour = Number(
    name="q.neighbour",
    prompt="Page 3 was read. Now page 0 is written; 16, 32 and 64 KiB enabled. How many pages does its folio have?",
    unit="pages",
    truth=lambda: len(_pages("zero-page-neighbour", 2)),
    because="Every aligned block around page 0 that is larger contains page 3, where the zero page is mapped.",
    hints=(
        "List the aligned blocks around page 0: 0–15, 0–7, 0–3.",
        "A block is taken only when nothing at all is mapped in it.",
    ),
    mistakes=(
        Mistake(16, "The largest enabled size, but page 3 lies in that block and has an entry already."),
        Mistake(8, "Page 3 lies in 0–7 and has an entry already."),
        Mistake(4, "Page 3 lies in 0–3. The zero page is an entry too: not none."),
        Mistake(2, "Two pages, order 1, is the one size that anonymous folios never have."),
        Mistake(3, "Pages 0–2 are free, but sizes are powers of two, and aligned."),
    ),
)

scarce = Number(
    name="q.scarce",
    prompt="The same 1,024 writes and sizes, but no free block of memory is larger than 4 pages. How many faults?",
    unit="faults",
    truth=lambda: _faults(largest_free=2),
    because="Each fault asks for 16 pages, then 8, and gets 4.",
    hints=("The kernel does not give up when a block of 16 is not free.", "1,024 pages in blocks of 4."),
    mistakes=(
        Mistake(_faults, "That needs free blocks of 16 pages, and there are none."),
        Mistake(
            lambda: _faults(orders=()), "It does not fall to single pages at once: the next smaller size is tried."
        ),
    ),
)


# --- blocks at both edges -------------------------------------------------------------------------------------------

skewed = Scenario(20, tuple(("write", 0, page, page) for page in range(20)), skew=3, name="both-edges")
"""Pages 3 to 22, written in order: no block fits at either edge."""


def _block_sizes() -> list[int]:
    return [len(fault.pages) for fault in skewed.run(LINUX_6_15).faults()]


blocks = Sizes(
    name="q.blocks",
    prompt="A mapping of pages 3 to 22; 16, 32 and 64 KiB enabled. All pages are written, from 3 up. "
    "How many pages does each new folio have, in order?",
    truth=_block_sizes,
    because="Sizes grow while alignment allows, and shrink again towards the end of the mapping.",
    hints=(
        "Page 3: the aligned block of 4 around it is 0–3, and 0–2 are not in the mapping.",
        "Page 4: the aligned blocks around it are 4–7, 0–7 and 0–15. Only one lies in the mapping.",
        "Page 16: 16–31 and 16–23 leave the mapping. And what is left for page 20?",
    ),
    mistakes=(
        Mistake([16, 4], "Blocks do not start where the mapping starts, but at multiples of their own size."),
        Mistake([1, 4, 8, 4, 3], "Three pages are no folio: sizes are powers of two."),
        Mistake([1, 4, 8, 4, 2, 1], "Two pages, order 1, is the one size that anonymous folios never have."),
        Mistake([1, 4, 8, 7], "Sizes are powers of two; 16–22 is no block."),
        Mistake([1, 4, 8, 8], "The block 16–23 leaves the mapping by one page."),
    ),
)


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


def _library_says(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return _scenario(page, mapping, used, enabled).end(LINUX_6_15).faults[-1].order


def _drawn(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> Picture:
    return Picture.of(_scenario(page, mapping, used, enabled).run(LINUX_6_15))


def _random_case(source: random.Random) -> Mapping[str, Any]:
    start = source.choice((0, 0, 1, 3, 4, 6, 8))
    mapping = range(start, start + source.randint(4, 40))
    page = source.choice(mapping)
    others = [at for at in mapping if at != page]
    used = set(source.sample(others, source.choice((0, 0, 0, 1, 1, 2))))
    enabled = tuple(order for order in (4, 3, 2) if source.random() < 0.75)
    return {"page": page, "mapping": mapping, "used": used, "enabled": enabled}


def _biggest(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return max(enabled, default=0)


def _no_mapping(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return choose_order(page, range(-512, 512), used, enabled)


def _no_neighbours(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return choose_order(page, mapping, set(), enabled)


def _unaligned(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    fits = [n for n in enabled if page + (1 << n) <= mapping.stop and used.isdisjoint(range(page, page + (1 << n)))]
    return max(fits, default=0)


def _aligned_to_mapping(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    moved = {at - mapping.start for at in used}
    return choose_order(page - mapping.start, range(len(mapping)), moved, enabled)


def _all_or_nothing(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return choose_order(page, mapping, used, enabled[:1])


def _any_order(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return choose_order(page, mapping, used, (4, 3, 2, 1))


def _smallest(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return min((order for order in enabled if choose_order(page, mapping, used, (order,))), default=0)


def _in_pages(page: int, mapping: range, used: set[int], enabled: tuple[int, ...]) -> int:
    return 1 << choose_order(page, mapping, used, enabled)


order = Function(
    name="q.order",
    prompt="Write `choose_order(page, mapping, used, enabled)`: the order of the folio that a write on `page` gets. "
    "`mapping` is a range of pages, `used` the set of pages that map something already, `enabled` the enabled orders, "
    "largest first. 0 is one page.",
    truth=_library_says,
    case=_random_case,
    worked=choose_order,
    picture=_drawn,
    hints=(
        "Go through the enabled orders from the largest. The first whose block passes every test wins.",
        "The block of order n around a page starts at `page >> n << n` and has `1 << n` pages.",
        "Two tests: the block lies in `mapping`, and no page of it is in `used`. Nothing fits: 0.",
    ),
    wrong={
        "That is the largest enabled size, whether its block fits or not.": _biggest,
        "That forgets the edges of the mapping.": _no_mapping,
        "That forgets the pages that map something already.": _no_neighbours,
        "That lets a block start at the page itself; blocks start at multiples of their size.": _unaligned,
        "That counts blocks from the start of the mapping; they are aligned in the address space.": _aligned_to_mapping,
        "That gives up when the largest size does not fit; the kernel tries the smaller ones.": _all_or_nothing,
        "That uses sizes that are not enabled.": _any_order,
        "That starts from the smallest size; the kernel starts from the largest.": _smallest,
        "That is the number of pages; the order is its logarithm, 2 for 4 pages.": _in_pages,
    },
)
