"""Questions of ``08_tlb_reach``: ``from anonfolio.exercises import tlb_reach as q``."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..hardware.lru import miss_curve
from ..hardware.tlb import (
    CORES,
    CORTEX_A76,
    UNMAPPED,
    Coalescing,
    Contiguous,
    Core,
    Entries,
    Hpa,
    PageTable,
    Plain,
    Tlb,
    page_table,
)
from ..kernel.contpte import CONT_PTE_ORDER, foldable
from ..kernel.pagetable import PTE_CONT, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from ..kernel.policy import LINUX_6_15, RFC_V2_FIXED
from ..lesson.quiz import Choice, Function, Note, Number, is_open, runs
from ..machine.machine import Machine
from ..machine.snapshot import ProcessView
from ..program.scenario import Scenario, Timeline
from ..witness.entries import entries_of_words
from ..witness.recording import DATA_DIR, read_recording

if TYPE_CHECKING:
    from ..witness.comparing import Recorded
from ..lesson.topics import asking
from ..lesson.words import Words

words = Words(__file__)
more = asking("tlb")

ARM64 = LINUX_6_15.but(
    name="linux-6.15 on arm64",
    about="As linux-6.15, with arm64's contiguous bit: what 7.3 did there, running.",
    cont_pte_order=4,
)
ARM64_RFC = RFC_V2_FIXED.but(
    name="rfc-v2-fixed on arm64",
    about="RFC v2 with the repair, never merged; what its range calls did to the contiguous bit is inferred.",
    cont_pte_order=4,
)

MACHINES: dict[str, Coalescing] = {"plain x86": Plain(), "HPA, up to 4": Hpa(), "contiguous bit": Contiguous()}
SETUPS: dict[str, tuple[int, Coalescing]] = {
    "4 KiB": (0, Plain()), "64 KiB, HPA": (4, Hpa()), "64 KiB, bit": (4, Contiguous()), "2 MiB": (9, Plain()),
}  # fmt: skip
"""What memory is made of, and what the TLB makes of that."""

PAGES_PER_MIB = 256
ACCESSES = 40_000

folio16 = Scenario.parse("""
# One folio of 16 pages.
scenario folio16
pages 16
orders 4
write 0 5 5
""")
copied = Scenario.parse("""
# A child is alive; the parent writes page 5.
scenario copied
pages 16
orders 4
write 0 5 5
fork 0
write 0 5 105
""")
middle = Scenario.parse("""
# A few accesses, a fork, a write in the middle, the child's exit, another write.
scenario middle
pages 16
orders 4
write 0 5 5
read 0 6
read 0 12
fork 0
read 0 12
write 0 5 105
read 0 6
read 0 12
exit 1
write 0 12 112
read 0 5
""")
gone = Scenario.load("child-exits-parent-writes-all")


# --- what entries cover ---------------------------------------------------------------------------------------------


def pieces(table: PageTable, coalescing: Coalescing) -> list[tuple[int, int]]:
    """The entries that the mapped pages of a table need: (first page, pages) of each."""
    orders = coalescing.orders(table)
    found = []
    at = 0
    while at < len(orders):
        count = 1 if orders[at] == UNMAPPED else 1 << int(orders[at])
        if orders[at] != UNMAPPED:
            found.append((table.start + at, count))
        at += count
    return found


def rows(scenario: Scenario, process: int = 0) -> list[tuple[str, list[tuple[int, int]]]]:
    """How each machine covers a process's pages at the end of a scenario."""
    table = page_table(scenario.end(ARM64).process(process), scenario.first_vpn, scenario.pages)
    return [(name, pieces(table, coalescing)) for name, coalescing in MACHINES.items()]


def needed(scenario: Scenario, coalescing: Coalescing, policy: Any = ARM64) -> int:
    """Entries that process 0 needs for all its pages at the end of a scenario."""
    return len(pieces(page_table(scenario.end(policy).process(0), scenario.first_vpn, scenario.pages), coalescing))


# --- how often it walks ---------------------------------------------------------------------------------------------


@cache
def _memory(mib: int, order: int) -> PageTable:
    machine = Machine(ARM64, orders=(order,) if order else (), frames=max(2 * mib * PAGES_PER_MIB, 1 << 10))
    process = machine.spawn()
    process.mmap(mib * PAGES_PER_MIB)
    process.touch(range(mib * PAGES_PER_MIB))
    return page_table(process, 0, mib * PAGES_PER_MIB)


def memory(mib: int, order: int) -> PageTable:
    """A process's page table after it has written so many MiB, in folios of that order where they fit."""
    held = _memory(mib, order)
    return PageTable(held.start, held.pte.copy(), held.pfn.copy(), held.huge.copy())


def visits(pattern: str, mib: int, count: int = ACCESSES) -> npt.NDArray[np.int64]:
    """Which pages a program visits one after the other.

    ``in order``: all, again and again. ``every 16th``: one page of each 64 KiB. ``random``: any. ``hot``: page k as
    often as 1 / k, the hot ones scattered.
    """
    pages = mib * PAGES_PER_MIB
    source = np.random.default_rng(mib)
    if pattern == "in order":
        return np.arange(count) % pages
    if pattern == "every 16th":
        return np.arange(count) * 16 % pages
    if pattern == "random":
        return source.integers(0, pages, count)
    if pattern == "hot":
        weight = np.cumsum(1 / np.arange(1, pages + 1))
        ranks = np.searchsorted(weight, source.random(count) * weight[-1])
        scattered: npt.NDArray[np.int64] = source.permutation(pages)[ranks]
        return scattered
    raise ValueError(f"there is no pattern {pattern!r}; there are in order, every 16th, random, hot")


def walks(setup: str, mib: int, pattern: str = "random", core: Core = CORTEX_A76) -> float:
    """Page-table walks per 100 visits, in the long run: the first pass only fills the TLB."""
    order, coalescing = SETUPS[setup]
    table = _memory(mib, order)
    tlb = Tlb(core, coalescing)
    trace = visits(pattern, mib, max(ACCESSES, 2 * mib * PAGES_PER_MIB if pattern == "in order" else 0))
    half = len(trace) // 2
    tlb.access(trace[:half], table)
    return 100 * tlb.access(trace[half:], table).walks / (len(trace) - half)


def fewer(mib: int, pattern: str, core: Core = CORTEX_A76) -> float:
    """How many times fewer walks the contiguous bit leaves; infinite when it leaves none."""
    before, after = walks("4 KiB", mib, pattern, core), walks("64 KiB, bit", mib, pattern, core)
    return before / after if after else float("inf")


def patterns(mib: int) -> str:
    """A table: walks per 100 visits, by pattern and by what memory is made of."""
    lines = [f"{f'{mib} MiB':12}{'4 KiB':>8}{'HPA':>8}{'bit':>8}{'fewer by':>14}"]
    for pattern in ("in order", "every 16th", "random", "hot"):
        plain, hpa, bit = (walks(setup, mib, pattern) for setup in ("4 KiB", "64 KiB, HPA", "64 KiB, bit"))
        told = f"{plain / bit:.1f} times" if bit else "all"
        lines.append(f"{pattern:12}{plain:8.1f}{hpa:8.1f}{bit:8.1f}{told:>14}")
    return "\n".join(lines)


def tags(pages: npt.NDArray[np.int64], setup: str, mib: int) -> npt.NDArray[np.int64]:
    """For each visit the number of the entry that it needs."""
    order, coalescing = SETUPS[setup]
    orders = coalescing.orders(_memory(mib, order)).astype(np.int64)[pages]
    return (pages >> orders) | (orders << 40)


def curve(setup: str, mib: int, pattern: str, sizes: Sequence[int]) -> list[float]:
    """Misses per 100 visits of a fully associative TLB of each of these sizes, from one pass over the trace."""
    trace = visits(pattern, mib)
    misses = miss_curve(tags(trace, setup, mib), np.array(sizes))
    return [100 * int(missed) / len(trace) for missed in misses]


# --- a write in the middle ------------------------------------------------------------------------------------------


def _table(view: ProcessView) -> PageTable:
    """All mappings of a process as one table; what lies between them maps nothing."""
    start = view.mappings[0].start
    pages = view.mappings[-1].end - start
    table = PageTable(start, np.zeros(pages, np.uint8), np.zeros(pages, np.int32), np.zeros(pages, np.bool_))
    for mapping in view.mappings:
        here = slice(mapping.start - start, mapping.end - start)
        table.pte[here], table.pfn[here], table.huge[here] = mapping.pte, mapping.pfn, mapping.huge
    return table


def tlb_panel(*timelines: Timeline) -> list[str]:
    """For a stepper: what process 0's TLB holds at every moment under each policy, and how many entries it needs."""
    by_policy = [_held(timeline) for timeline in timelines]
    names = [f"{timeline.policy.name}:" for timeline in timelines]
    return [
        "\n".join(f"{name} {told}" for name, told in zip(names, moment, strict=True))
        for moment in zip(*by_policy, strict=True)
    ]


def _held(timeline: Timeline) -> list[str]:
    tlb = Tlb(CORTEX_A76, Contiguous())
    told = ["holds nothing"]
    for result in timeline:
        op, who, *where = result.step
        for fault in result.faults:
            if fault.process == 0:
                tlb.flush_for(fault)
        if (op, who) == ("fork", 0):
            tlb.flush()
        table = _table(result.snapshot.processes[0])
        if op in ("read", "write") and who == 0:
            tlb.access([table.start + where[0]], table)
        held = sorted((first - table.start, 1 << order) for first, order in tlb.held())
        told.append(f"holds {_told(held)}; needs {len(pieces(table, Contiguous()))} in all")
    return told


def _told(held: Iterable[tuple[int, int]]) -> str:
    return ", ".join(str(first) if count == 1 else f"{first}–{first + count - 1}" for first, count in held) or "nothing"


_WRITTEN = "orders 4\nwrite 0 5 5"
_HALVES = "    and then of 8 to 15"
BITS: dict[str, tuple[int, str]] = {
    "two folios of 8 pages, written": (0, "orders 3\nwrite 0 5 5\nwrite 0 8 8"),
    "one folio of 16 pages, written": (0, _WRITTEN),
    "the same, then fork: the parent": (0, f"{_WRITTEN}\nfork 0"),
    "the same, then fork: the child": (1, f"{_WRITTEN}\nfork 0"),
    "the same, moved by 32 pages": (0, f"{_WRITTEN}\nmremap 0 0 16 32"),
    "the same, moved by 33 pages": (0, f"{_WRITTEN}\nmremap 0 0 16 33"),
    "the same, page 3 unmapped": (0, f"{_WRITTEN}\nmunmap 0 3 1"),
    "the same, mprotect of 0 to 7": (0, f"{_WRITTEN}\nmprotect 0 0 8 1"),
    f"{_HALVES}, up to 6.16": (0, f"{_WRITTEN}\nmprotect 0 0 8 1\nmprotect 0 8 8 1"),
    f"{_HALVES}, from 6.17": (0, f"{_WRITTEN}\nmprotect 0 0 8 1\nmprotect 0 8 8 1"),
}
"""What was done; whose pages are looked at, and the program that does it."""


def bits() -> str:
    """After each of `BITS`, whether the 16 pages carry the bit, and how many entries they need."""
    rows = []
    for story, (who, steps) in BITS.items():
        scenario = Scenario.parse(f"pages 64\n{steps}")
        process = scenario.end(ARM64.but(batches_ptes=False) if "up to 6.16" in story else ARM64).process(who)
        found = pieces(page_table(process, 0, len(process.mm.pte)), Contiguous())
        rows.append((story, any(count == 1 << CONT_PTE_ORDER for _, count in found), len(found)))
    lines = [f"{'':38}{'bit':5}{'entries':>7}"]
    lines += [f"{story:38}{'yes' if bit else 'no':5}{count:7}" for story, bit, count in rows]
    return "\n".join(lines)


_ARM64_RUNS = {"6.12": "exp612n1", "6.16": "exp616n1", "6.17": "exp617n1", "7.3": "exp73n1"}
_REAL = {
    "first-touch-64K": "written",
    "fork-whole": "then forked",
    "cow-middle": "page 7 of it copied",
    "reuse-after-exit-page-by-page": "the child gone, each page written",
    "mprotect-all-reused-refolds": "then mprotect: read-only, and back",
    "mprotect-quarters": "mprotect by quarters",
    "mremap-tail-back": "pages 8 to 15 moved away and back",
}
"""Names of recorded programs, and what they do with a block of 16 pages."""


def real_entries() -> str:
    """Of recorded arm64 kernels: a raw entry, and how many of pages 0 to 15 have the contiguous bit at the end."""
    ran = {
        kernel: {one.scenario.name: one.steps[-1]["raw"]["0"][:16] for one in read_recording(path).programs}
        for kernel, path in ((kernel, DATA_DIR / "arm64" / f"{file}.json.gz") for kernel, file in _ARM64_RUNS.items())
    }
    word = ran["7.3"]["first-touch-64K"][5]
    frame = (word & ((1 << 48) - 1)) >> 12
    bits = f"bit 52 (contiguous) {word >> 52 & 1}, bit 10 (accessed) {word >> 10 & 1}"
    lines = [f"7.3, page 5: {word:#018x}: frame {frame:#x}, {bits}", f"{'of 16 entries, with bit 52':38}"]
    lines[-1] += "".join(f"{kernel:>7}" for kernel in ran)
    for name, story in _REAL.items():
        counts = (
            ((entries_of_words(words[name]) & PTE_CONT) > 0).sum() if name in words else "-" for words in ran.values()
        )
        lines.append(f"{story:38}" + "".join(f"{count!s:>7}" for count in counts))
    return "\n".join([*lines, "(-: not run there. 6.12 copies where the later ones reuse.)"])


def reach(cores: Iterable[Core] = CORES) -> str:
    """MiB that each core's last level covers with entries of each size it has, and what of that is inferred."""
    widths = {0: 7, 2: 10, 4: 8, 9: 8}
    lines = [f"{'MiB covered by':16}{'4 KiB':>7}{'(16 KiB)':>10}{'64 KiB':>8}{'2 MiB':>8}"]
    for core in cores:
        known = {order for array in core.levels[-1] for order in array.orders}
        cells = {order: f"{core.reach_pages(order) / PAGES_PER_MIB:g}" if order in known else "-" for order in widths}
        lines.append(f"{core.name:16}" + "".join(f"{cells[order]:>{width}}" for order, width in widths.items()))
    told = [
        "(16 KiB): only with base pages of 16 KiB, unless hardware joins 4. 64 KiB: 16 pages with the contiguous bit.",
        *(f"Inferred for {core.name}: {core.inferred}." for core in cores if core.inferred),
    ]
    return "\n".join([*lines, *(textwrap.fill(line, 100, subsequent_indent="  ") for line in told)])


# --- what kernels left ----------------------------------------------------------------------------------------------


def in_a_row(cells: Sequence[Any]) -> bool:
    """Whether 16 recorded pages map 16 pages of one folio in order, from an aligned one on."""
    if not all(isinstance(cell, list) for cell in cells) or cells[0][1] % 16:
        return False
    return all(cell[:3] == [cells[0][0], cells[0][1] + at, cells[0][2]] for at, cell in enumerate(cells))


def left(recorded: Recorded) -> list[bool]:
    """After each step, whether the parent's 16 pages lie in a row on that kernel."""
    return [in_a_row(step["view"]["0"][:16]) for step in recorded.steps]


def entries(timeline: Timeline) -> list[int]:
    """After each step, the entries that the parent's pages need with the contiguous bit."""
    return [len(pieces(_table(result.snapshot.processes[0]), Contiguous())) for result in timeline]


# --- predictions ----------------------------------------------------------------------------------------------------

alike = Number(**words("alike"), truth=lambda: needed(folio16, Plain()))


def _fewer_at_512() -> str:
    times = fewer(512, "random")
    return "a" if times > 12 else "b" if times > 3 else "c" if times > 1.6 else "d"


sixteen = Choice(**words("sixteen"), truth=_fewer_at_512)

refold = Number(**words("refold"), truth=lambda: entries(gone.run(ARM64))[-1])


# --- exercises ------------------------------------------------------------------------------------------------------

MY_CORE = Core("yours", ((Entries(64),), (Entries(512, 8),)))
SIZES_MIB = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def _stops_helping() -> int:
    return next(mib for mib in SIZES_MIB if _walks_much(mib) and fewer(mib, "random", MY_CORE) < 1.5)


def _walks_much(mib: int) -> bool:
    return walks("4 KiB", mib, "random", MY_CORE) > 1


stops = Number(**words("stops"), truth=_stops_helping)

Page = tuple[int, int | None, bool]


def _arrays(pages: Sequence[Page | None]) -> tuple[Any, Any, Any]:
    pte = np.zeros(len(pages), np.uint8)
    pfn = np.zeros(len(pages), np.int32)
    folio_of = np.full(1 + max([page[0] for page in pages if page], default=0), -1, np.int32)
    for at, page in enumerate(pages):
        if page is None:
            continue
        frame, folio, writable = page
        pfn[at] = frame
        pte[at] = PTE_PRESENT | PTE_YOUNG | (PTE_WRITE | PTE_DIRTY if writable else 0)
        if folio is None:
            pte[at] |= PTE_SPECIAL
        else:
            folio_of[frame] = folio
    return pte, pfn, folio_of


def may_fold(pages: Sequence[Page | None]) -> list[int]:
    """What the library says: the first pages of the blocks that may carry the bit."""
    return [int(block) << CONT_PTE_ORDER for block in np.flatnonzero(foldable(*_arrays(pages)))]


def fold(pages: Sequence[Page | None]) -> list[int]:
    """A right answer, as one would write it."""
    found = []
    for first in range(0, len(pages), 16):
        head = pages[first]
        if head is None or head[1] is None or head[0] % 16:
            continue
        frame, folio, writable = head
        if list(pages[first : first + 16]) == [(frame + at, folio, writable) for at in range(16)]:
            found.append(first)
    return found


def _fold_unless(pages: Sequence[Page | None], forgets: Sequence[str]) -> list[int]:
    """A wrong answer: consecutive frames are asked for, and of `_IGNORES` what is not forgotten."""
    aligned, one_folio, alike = (name not in forgets for name in _IGNORES)
    found = []
    for first in range(0, len(pages), 16):
        block = [page for page in pages[first : first + 16] if page and page[1] is not None]
        if len(block) < 16 or (aligned and block[0][0] % 16):
            continue
        in_a_row = all(page[0] == block[0][0] + at for at, page in enumerate(block))
        same = (not one_folio or len({page[1] for page in block}) == 1) and (
            not alike or len({page[2] for page in block}) == 1
        )
        if in_a_row and same:
            found.append(first)
    return found


def _a_block(source: random.Random, number: int) -> list[Page | None]:
    """16 pages of some folio, spoilt in one way or in none. Blocks of different numbers share no frame."""
    folio, head = 10 * number, 16 * (1 + 20 * number + source.randrange(18))
    writable = source.random() < 0.6
    pages: list[Page | None] = [(head + at, folio, writable) for at in range(16)]
    at = source.randrange(16)
    match source.choice(("whole", "whole", "moved", "two", "hole", "copy", "protected", "zero", "reversed")):
        case "moved":
            shift = source.choice((1, 4, 8))
            pages = [(head + shift + each, folio, writable) for each in range(16)]
        case "two":
            pages = [(head + each, folio + each // 8, writable) for each in range(16)]
        case "hole":
            pages[at] = None
        case "copy":
            pages[at] = (2000 + folio, folio + 9, True)
        case "protected":
            pages[at] = (head + at, folio, not writable)
        case "zero":
            pages[at] = (0, None, False)
        case "reversed":
            pages.reverse()
    return pages


def _fold_case(source: random.Random) -> Mapping[str, Any]:
    return {"pages": [page for number in range(2) for page in _a_block(source, number)]}


_IGNORES = {
    "aligned": "whose frames do not begin at a multiple of 16 (an entry holds one frame number, the block's)",
    "one_folio": "of two folios (their accessed bit would be one, and each folio wants to know its own)",
    "alike": "in which one page may be written and another not (an entry has one permission)",
}


def _wrong_folds() -> dict[str, Callable[..., list[int]]]:
    """Every way to forget some of what must hold besides consecutive frames, by what to say of it."""
    found: dict[str, Callable[..., list[int]]] = {}
    for count in (1, 2):
        for names in combinations(_IGNORES, count):
            says = "It folds blocks " + ", and blocks ".join(_IGNORES[name] for name in names) + "."
            found[says] = partial(_fold_unless, forgets=names)
    found[
        "Contiguity is enough, you say: consecutive frames. They must also begin at a multiple of 16, be of one folio "
        "and have equal protection."
    ] = partial(_fold_unless, forgets=tuple(_IGNORES))
    return found


def _block_in_words(first: int, block: Sequence[Page | None]) -> str:
    """What 16 pages map, in stretches that go on alike: ``page 0–11: frames 336–347 of folio 0, read-only``."""
    stretches: list[list[int]] = []
    for at, page in enumerate(block):
        before = block[at - 1] if at else ()
        alike = page == before if page is None or page[1] is None else before == (page[0] - 1, *page[1:])
        if stretches and alike:
            stretches[-1].append(at)
        else:
            stretches.append([at])
    told = []
    for ats in stretches:
        page = block[ats[0]]
        where = "pages" if len(ats) > 1 else "page"
        if page is None:
            says = "nothing"
        elif page[1] is None:
            says = "the zero page"
        else:
            frames = "frames" if len(ats) > 1 else "frame"
            access = "writable" if page[2] else "read-only"
            says = f"{frames} {runs(page[0] + at for at in range(len(ats)))} of folio {page[1]}, {access}"
        told.append(f"{where} {runs(first + at for at in ats)}: {says}")
    return "; ".join(told)


@dataclass(eq=False, kw_only=True, repr=False)
class Folding(Function):
    """A function that returns a list of blocks; a case is told block by block, a mistake by what is most like it."""

    def _unfit(self, answers: list[Any]) -> Note | None:
        other = [each for each in answers if not is_open(each) and not isinstance(each, list)]
        if not other:
            return None
        told = f"Return a list, such as `[0, 16]` or `[]`; yours returns a {type(other[0]).__name__}."
        return Note("wrong", "That is no list.", (told,))

    def _called(self, case: Mapping[str, Any]) -> str:
        pages = case["pages"]
        told = (_block_in_words(first, pages[first : first + 16]) for first in range(0, len(pages), 16))
        return f"`{self.worked.__name__}` of: " + ". ".join(told) + "."


may_carry = Folding(**words("may_carry"), truth=may_fold, case=_fold_case, worked=fold, wrong=_wrong_folds(), count=200)
