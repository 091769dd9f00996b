"""The topics that questions are drawn from: what is asked, which programs, and what people wrongly believe.

A kind of question says which answers it wants; a program is drawn at random until a kernel gives the wanted one
(`anonfolio.lesson.drawn`). What a kernel does in a matter is said from its policy's fields.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

from ..kernel.pagetable import PTE_CONT, PTE_PRESENT, PTE_SPECIAL
from ..kernel.policy import RFC_V2, RFC_V2_FIXED, Policy
from ..kernel.sizes import PMD_ORDER
from ..program.ops import pages_in_words
from ..program.scenario import Scenario, Step
from .drawn import COUNT_AGAIN, Drawn, Kernel, Kind, Matter, Run, Wrong, as_choice, draw
from .quiz import Choice

# --- kernels ----------------------------------------------------------------------------------------------------------

RELEASES = tuple(Kernel(f"Linux {release}", Policy.at(release)) for release in ("6.1", "6.8", "6.12", "6.18", "7.3"))
PROPOSALS = (
    Kernel("RFC v2 (a proposal of 2023, never merged)", RFC_V2),
    Kernel("RFC v2 repaired (never merged)", RFC_V2_FIXED),
)
KERNELS = (*RELEASES, *PROPOSALS)
OLD = Kernel("Linux 5.10", Policy.at("5.10"))
ARM = (
    *(Kernel(f"Linux {release} on arm64", Policy.at(release, "arm64")) for release in ("6.1", "6.8", "6.12", "7.3")),
    Kernel("Linux 6.18 on x86-64", Policy.at("6.18")),
)


def _touches(policy: Policy) -> str:
    if policy.fixed_orders:
        return "gives a first touch 64, 32 or 16 KiB, whatever is enabled, and 2 MiB where that is"
    if policy.knob_orders == (PMD_ORDER,):
        return "knows single pages and 2 MiB only"
    return "gives a first touch the largest enabled size whose aligned block lies in the mapping and is empty"


def _zero(policy: Policy) -> str:
    if policy.zero_page_write == "first_touch":
        return "treats a write on the zero page as if it had not been read before"
    if policy.huge_zero_write == "huge":
        return "replaces one zero page by one page, and the huge zero page as a whole"
    return "replaces one zero page by one page, and splits the huge zero page first"


def _copies(policy: Policy) -> str:
    if policy.copy_extent == "page":
        return "copies one page a fault"
    if policy.copy_requires_maybe_shared:
        return "copies a block as large as the source's, up to 64 KiB, if none of its pages is exclusive"
    return "copies a block as large as the source's, up to 64 KiB, exclusive pages too"


_REUSES = {
    "refcount_one": "reuses a page that is not marked when one reference to its folio is left",
    "never": "reuses a page of a large folio only where it is marked exclusive",
    "mm_id": "reuses a page of a large folio when all its mappings, two at least, and references are this process's",
    "scan": "reuses pages when those mapped in a row around it make up every reference of the folio, all in one fault",
}


def _reuse_rule(policy: Policy) -> str:
    return _REUSES[str(policy.large_reuse)]


def _reuses(policy: Policy) -> str:
    return f"{_reuse_rule(policy)}, and {_copies(policy)}"


def _shares(policy: Policy) -> str:
    return f"{_touches(policy)}, and {_copies(policy)}"


def _pins(policy: Policy) -> str:
    if not policy.marks_exclusive:
        return (
            "marks no page exclusive, so that a pin is a reference like any other, and a write may copy the page away"
        )
    kept = "keeps a page that is pinned exclusive to its owner, whom fork and writes leave it"
    return (
        kept if policy.copy_extent == "page" or policy.copy_requires_maybe_shared else f"{kept}, but {_copies(policy)}"
    )


def _pins_at_fork(policy: Policy) -> str:
    return f"{_touches(policy)}, and at fork copies what is exclusive of a folio of which a page is pinned"


def _marks_16(policy: Policy) -> str:
    if not policy.cont_pte_order:
        return "sets no contiguous bit for anonymous memory"
    return "marks 16 aligned entries of one folio as one, as long as none of them changes alone"


def _folds(policy: Policy) -> str:
    return _marks_16(policy) if policy.cont_pte_order else f"{_marks_16(policy)}, and {_touches(policy)}"


MATTERS = (
    Matter(("fixed_orders", "knob_orders"), _touches),
    Matter(("zero_page_write", "zero_neighbours", "huge_zero_write"), _zero),
    Matter(("large_reuse", "reuse_extent", "keeps_mm_ids"), _reuse_rule),
    Matter(("copy_extent", "copy_max_order", "copy_requires_maybe_shared", "copy_requires_ro"), _copies),
)
ABOUT_PINS = (Matter(("marks_exclusive",), _pins), *MATTERS)
ABOUT_FOLDS = (Matter(("cont_pte_order",), _marks_16), *MATTERS)


# --- answers ----------------------------------------------------------------------------------------------------------

_PATHS = {
    "nf": "no page fault",
    "zeroread": "a fault that maps the shared zero page",
    "sigsegv": "SIGSEGV",
    "alloc": "first touch: {pages} of memory are mapped",
    "zero": "{pages} take the zero page's place",
    "copy": "{pages} are copied",
    "reuse": "reuse: {pages} become writable, nothing is copied",
    "unshare": "unshared in place",
}


def _code(ran: Run, program: Scenario) -> str:
    faults = ran.faults[-1]
    return faults[-1].code if faults else "nf"


def _path(code: str) -> str:
    name = code.rstrip("0123456789")
    number = int(code[len(name) :] or 0)
    count = number if name == "reuse" else 1 << number
    words = _PATHS[name].replace("{pages}", _pages(count))
    if count == 1:
        words = words.replace("page are", "page is").replace("page take", "page takes").replace("become", "becomes")
        words = words.replace("of memory are", "of memory is")
    return words


def _pages(count: int) -> str:
    return f"{count} page{'' if count == 1 else 's'}"


def _many(what: str) -> Callable[[int], str]:
    return lambda count: f"{count} {what}{'' if count == 1 else 's'}"


def _last_group(program: Scenario) -> tuple[int, list[int]]:
    """Who did the last accesses, and on which pages, one after the other."""
    steps, pages = program.steps, list[int]()
    for step in reversed(steps):
        if step[:2] != steps[-1][:2] or (pages and step[2] != pages[0] - 1):
            break
        pages.insert(0, step[2])
    return steps[-1][1], pages


def _loop_faults(ran: Run, program: Scenario) -> int:
    _, pages = _last_group(program)
    return sum(map(bool, ran.faults[-len(pages) :]))


def _loop_copied(ran: Run, program: Scenario) -> int:
    _, pages = _last_group(program)
    return sum(fault.copied for faults in ran.faults[-len(pages) :] for fault in faults)


def _in_runs(pages: list[int]) -> str:
    """Pages in words, those that follow each other together."""
    runs: list[range] = []
    for page in sorted(pages):
        runs = [*runs[:-1], range(runs[-1].start, page + 1)] if runs and runs[-1].stop == page else [
            *runs, range(page, page + 1),
        ]  # fmt: skip
    return ", ".join(map(pages_in_words, runs))


def _faults_told(ran: Run, program: Scenario) -> str:
    _, pages = _last_group(program)
    faults = [fault for faults in ran.faults[-len(pages) :] for fault in faults]
    told = ", ".join(f"page {fault.vpn} ({_path(fault.code)})" for fault in faults)
    return f"It faults at {told}." if told else "No write faults: all entries are writable."


def _copied_told(ran: Run, program: Scenario) -> str:
    _, pages = _last_group(program)
    copied = [fault.pages for faults in ran.faults[-len(pages) :] for fault in faults if fault.copied]
    told = "; ".join(pages_in_words(range(some[0], some[-1] + 1)) for some in copied)
    return f"Copied, fault by fault: {told}." if told else "Nothing is copied."


def _where(program: Scenario) -> str:
    who, pages = _last_group(program)
    first, last = pages[0] + program.skew, pages[-1] + program.skew
    return f"process {who} writes {pages_in_words(range(first, last + 1))}"


def _what_happens(program: Scenario) -> str:
    return f"What happens in the last step, when {_where(program)}?"


def _how_many_faults(program: Scenario) -> str:
    return f"How many page faults does the last step take, in which {_where(program)}?"


def _how_many_copied(program: Scenario) -> str:
    return f"How many pages does the kernel copy in the last step, in which {_where(program)}?"


# --- programs ---------------------------------------------------------------------------------------------------------


def _byte(page: int) -> int:
    return page % 255 + 1


def _write(process: int, page: int) -> Step:
    return "write", process, page, _byte(page)


def _writes(process: int, first: int, count: int) -> list[Step]:
    return [_write(process, page) for page in range(first, first + count)]


def _reads(process: int, first: int, count: int) -> list[Step]:
    return [("read", process, page) for page in range(first, first + count)]


def _sizes(source: random.Random, *, most: int = 6) -> tuple[int, ...]:
    orders = tuple(order for order in range(most, 1, -1) if source.random() < 0.55)
    return orders or (source.choice((2, 3, 4)),)


def _skew(source: random.Random) -> int:
    return source.choice((0, 0, 4, 8, 16)) if source.random() < 0.4 else source.randrange(1, 64)


def _span(source: random.Random, pages: int, most: int) -> tuple[int, int]:
    """The first page and the number of some pages in a row."""
    count = source.randint(1, min(most, pages))
    return source.randrange(pages - count + 1), count


def _first_touches(source: random.Random, label: Any) -> Scenario:
    big = source.random() < 0.1
    pages = source.randint(560, 1100) if big else source.randint(6, 80)
    orders = (9, *_sizes(source)) if big and source.random() < 0.8 else _sizes(source)
    steps: list[Step] = []
    page = source.randrange(pages)
    hole: range = range(0)
    for _ in range(source.randint(0, 2)):
        what = source.random()
        near = min(pages - 1, max(0, page + source.randint(-20, 20)))
        if what < 0.3:
            steps.append(("read", 0, near))
        elif what < 0.6:
            steps.append(_write(0, near))
        elif not any(step[0] in ("munmap", "madvise") for step in steps):
            count = source.randint(1, min(16, pages - near))
            if source.random() < 0.5:
                steps.append(("madvise", 0, near, count, "wipeonfork"))
            else:
                steps.append(("munmap", 0, near, count))
                hole = range(near, near + count)
    accessed = [step for step in steps if step[0] not in ("munmap",)]
    if page in hole or len(hole) == pages or any(step[2] in hole for step in accessed if step[0] != "madvise"):
        return _first_touches(source, label)
    return Scenario(pages, (*steps, _write(0, page)), orders, _skew(source))


def _touch_wrong(program: Scenario, right: Any) -> Wrong:
    page, orders = program.steps[-1][2], program.orders
    yield f"alloc{max(orders)}", "The largest enabled size is only taken where its aligned block fits."
    fits = [order for order in orders if page + (1 << order) <= program.pages]
    yield f"alloc{max(fits, default=0)}", "A block begins at a multiple of its size, not at the page that is written."
    if PMD_ORDER not in orders:
        yield "alloc9", "A large folio is not always 2 MiB; that size is not even enabled here."
    yield "alloc0", "One page for one write is what happens only where no enabled size fits."
    if right == "nf":
        yield f"alloc{min(orders)}", "An earlier write's folio reaches to this page: it is mapped already."
        yield "reuse1", "Nothing was write-protected: the entry is writable, and the hardware asks nobody."
        yield "zero0", "No zero page is mapped here; what is mapped can be written."
    else:
        yield "nf", "No earlier step has mapped this page."
        yield f"alloc{min(orders)}", "Of the sizes that a kernel has, a first touch takes the largest that fits."


def _touch_loop(source: random.Random, label: Any) -> Scenario:
    pages = source.randint(4, 48)
    steps: list[Step] = []
    first, count = _span(source, pages, 32)
    if source.random() < 0.4:
        steps.append(("read", 0, source.randrange(pages)))
    if source.random() < 0.3:
        at, some = _span(source, pages, 8)
        steps.append(("madvise", 0, at, some, "wipeonfork"))
    if source.random() < 0.3:
        steps.append(_write(0, source.randrange(pages)))
        if steps[-1][2] == first - 1:
            steps.pop()
    return Scenario(pages, (*steps, *_writes(0, first, count)), _sizes(source), _skew(source))


def _loop_wrong(program: Scenario, right: Any) -> Wrong:
    _, pages = _last_group(program)
    most = max(program.orders)
    yield len(pages), "One fault maps, or makes writable, more than one page where a block does."
    yield -(-len(pages) >> most), "Blocks of the largest size fit only where they are aligned and nothing is in them."
    first, last = pages[0] + program.skew, pages[-1] + program.skew
    yield (last >> most) - (first >> most) + 1, "Not every aligned block lies in the mapping and is empty."
    yield 1, "The first fault maps one block, not all that will be written."
    yield 0, "Something in that range is not writable yet."
    yield right + 1, COUNT_AGAIN
    yield right - 1 if right > 1 else right + 2, COUNT_AGAIN


def _zero_pages(source: random.Random, label: Any) -> Scenario:
    big = label == "zero9" or source.random() < 0.1
    pages = source.randint(560, 1100) if big else source.randint(4, 48)
    orders = (9, *_sizes(source, most=4)) if big else _sizes(source, most=5)
    page = source.randrange(pages)
    low = max(0, page - source.randint(0, 18))
    steps: list[Step] = _reads(0, low, min(pages, page + source.randint(1, 12)) - low)
    if source.random() < 0.5 or big:
        steps = [("read", 0, source.choice((page, page, max(0, page - 1))))]
    if source.random() < 0.5:
        steps.insert(source.choice((0, len(steps))), _write(0, min(pages - 1, max(0, page + source.randint(-9, 9)))))
    if source.random() < 0.35:
        at = max(0, page - source.randint(0, 3))
        steps.append(("madvise", 0, at, min(pages - at, source.randint(1, 8)), "dontneed"))
    return Scenario(pages, (*steps, _write(0, page)), orders, _skew(source))


def _zero_wrong(program: Scenario, right: Any) -> Wrong:
    read = any(step[0] == "read" for step in program.steps)
    orders = program.orders
    if read:
        yield f"alloc{max(orders)}", "A read maps the zero page: this is no first touch."
        yield "nf", "The zero page is mapped read-only; the first write on it always faults."
    yield "zero0", "What is there is not the zero page, or the kernel replaces more than one of them."
    yield (
        f"zero{max(orders)}",
        (
            "The largest enabled size does not decide: a release replaces one zero page, RFC v2 as much as a first "
            "touch would take."
        ),
    )
    yield "copy0", "Nothing is copied from the zero page: the new page is filled with zeros."
    yield "reuse1", "The zero page belongs to everybody; nobody may reuse it."


def _zero_loop(source: random.Random, label: Any) -> Scenario:
    pages = source.randint(4, 40)
    first, count = _span(source, pages, 20)
    at, some = _span(source, pages, 12)
    if source.random() < 0.4:
        at = first
        some = min(count, source.randint(1, 16))
    steps = _reads(0, at, some)
    if source.random() < 0.3:
        steps.append(("madvise", 0, *_span(source, pages, 6), "dontneed"))
    return Scenario(pages, (*steps, *_writes(0, first, count)), _sizes(source, most=4), _skew(source))


def _shared_memory(source: random.Random, *, most: int = 3, pages: int = 0) -> tuple[list[Step], int, list[int]]:
    """A process writes, and forks once or twice; returns steps, pages and who is alive."""
    pages = pages or source.randint(6, 28)
    first, count = _span(source, pages, 24)
    steps = [_write(0, first)] if source.random() < 0.3 else _writes(0, first, count)
    if source.random() < 0.25:
        steps.append(("madvise", 0, *_span(source, pages, 8), source.choice(("wipeonfork", "dontneed"))))
    alive = [0]
    for child in range(1, source.randint(2, most)):
        steps.append(("fork", source.choice(alive)))
        alive.append(child)
    return steps, pages, alive


def _forked(source: random.Random, label: Any) -> Scenario:
    steps, pages, alive = _shared_memory(source, most=4)
    for _ in range(source.randint(0, 3)):
        what, who = source.random(), source.choice(alive)
        if what < 0.5:
            steps.append(_write(who, source.randrange(pages)))
        elif what < 0.75:
            steps += _writes(who, *_span(source, pages, 6))
        elif what < 0.85 and len(alive) > 2 and who > 1:
            steps.append(("exit", who))
            alive.remove(who)
        else:
            steps.append(("madvise", who, *_span(source, pages, 8), "dontneed"))
    return Scenario(pages, tuple(steps), _sizes(source, most=4), _skew(source))


def _frames(ran: Run, process: int) -> dict[int, int]:
    """Per page that maps a folio, its frame."""
    mm = ran.machine.processes[process].mm
    found = (mm.pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT
    return {int(page): int(mm.pfn[page]) for page in found.nonzero()[0]}


def _in_common(ran: Run, program: Scenario) -> int:
    return len(set(_frames(ran, 0).values()) & set(_frames(ran, 1).values()))


def _exclusive(ran: Run, program: Scenario) -> int:
    return sum(bool(ran.machine.memory.anon_exclusive[frame]) for frame in _frames(ran, 0).values())


def _in_common_told(ran: Run, program: Scenario) -> str:
    theirs = set(_frames(ran, 1).values())
    told = _in_runs([page for page, frame in _frames(ran, 0).items() if frame in theirs])
    return f"In common at the end: {told} of process 0." if told else "They have no page in common at the end."


def _exclusive_told(ran: Run, program: Scenario) -> str:
    marks = ran.machine.memory.anon_exclusive
    told = _in_runs([page for page, frame in _frames(ran, 0).items() if marks[frame]])
    return f"Marked at the end: {told}." if told else "No page of process 0 is marked at the end."


def _fork_wrong(program: Scenario, right: Any) -> Wrong:
    written = {step[2] for step in program.steps if step[0] == "write" and step[1] == 0}
    yield 0, "Fork does not copy memory: until somebody writes, parent and child map the same pages."
    yield program.pages, "Fork shares what is mapped, and only what nobody has written since."
    yield len(written), "Also pages that nobody wrote are mapped, where a folio covers them."
    yield right + 1, COUNT_AGAIN
    yield right - 1 if right else 2, COUNT_AGAIN


def _exclusive_wrong(program: Scenario, right: Any) -> Wrong:
    written = {step[2] for step in program.steps if step[0] == "write" and step[1] == 0}
    yield 0, "Fork takes the mark from all pages that it shares; a write since, or a page not shared, has it."
    yield len(written), "Writable once is not exclusive now, and a first touch marks every page of its folio."
    yield program.pages, "What fork shared is not marked, until a write has made it the process's own again."
    yield right + 1, COUNT_AGAIN
    yield right - 1 if right else 2, COUNT_AGAIN


def _second_writes(source: random.Random, label: Any) -> Scenario:
    """Memory that was shared, some of it no more, and a last write on it."""
    steps, pages, alive = _shared_memory(source, most=4)
    for _ in range(source.randint(0, 2)):
        what, who = source.random(), source.choice(alive)
        if what < 0.35:
            steps.append(_write(who, source.randrange(pages)))
        elif what < 0.8 and len(alive) > 1:
            steps.append(("exit", who))
            alive.remove(who)
        else:
            steps.append(("madvise", who, *_span(source, pages, 8), "dontneed"))
    if source.random() < 0.15:
        steps.append(("ref", alive[0], source.randrange(pages), 1))
    steps.append(_write(source.choice(alive), source.randrange(pages)))
    return Scenario(pages, tuple(steps), _sizes(source, most=4), _skew(source))


def _second_loop(source: random.Random, label: Any) -> Scenario:
    program = _second_writes(source, label)
    who = program.steps[-1][1]
    first, count = _span(source, program.pages, 16)
    before = program.steps[:-1]
    if before and before[-1][:3] == ("write", who, first - 1):
        before = before[:-1]
    return program.but(steps=(*before, *_writes(who, first, count)))


_NO_SIZE_ASKED = (
    "Only what others may have is copied, and the largest enabled size does not say how much: a release copies one "
    "page, RFC v2 a block up to the source's size."
)


def _copy_wrong(program: Scenario, right: Any) -> Wrong:
    exits = any(step[0] == "exit" for step in program.steps)
    yield "copy0", "A page that may be shared is copied; here it is not, or more is copied at once."
    yield "copy9", "A write after fork does not copy 2 MiB; kernels before 5.8 did that with huge pages."
    yield f"copy{max(program.orders)}", _NO_SIZE_ASKED
    yield "reuse1", "Reuse needs that the kernel can see that nobody else has the page."
    yield "nf", (
        "Another's exit lowers counts; it touches nobody else's page table." if exits
        else "Fork made every entry read-only, in parent and child."
    )  # fmt: skip
    yield "alloc0", "Something is mapped there: this is no first touch."


def _copied_wrong(program: Scenario, right: Any) -> Wrong:
    _, pages = _last_group(program)
    yield len(pages), "Not every page that is written is shared; what is exclusive, or not mapped, is not copied."
    yield 0, "A page that somebody else may map is copied before it is written."
    yield 1 << max(program.orders), _NO_SIZE_ASKED
    yield program.pages, "Only what is written is copied, not the whole mapping."
    yield right + 1, COUNT_AGAIN
    yield right - 1 if right else 2, COUNT_AGAIN


def _reuse_label(answer: str, program: Scenario) -> str:
    if answer.startswith("reuse") and answer != "reuse1":
        return "reuse of several"
    return "copy of several" if answer.startswith("copy") and answer != "copy0" else answer


def _pinned(source: random.Random, label: Any) -> Scenario:
    """A device writes into a pinned page, and its owner reads it."""
    pages = source.randint(4, 24)
    page = source.randrange(pages)
    first, count = _span(source, pages, 20)
    steps = [_write(0, page)] if source.random() < 0.4 else _writes(0, first, count)
    if source.random() < 0.3:
        steps.append(("fork", 0))
    steps.append(("pin", 0, page, 1, 1))
    middle: list[list[Step]] = [[("fork", 0)], [_write(0, page)], [("write", 0, page, source.randint(100, 250))]]
    middle.append([("madvise", 0, 0, pages, "wipeonfork"), ("fork", 0)])
    middle.append([("mprotect", 0, 0, pages, 1), ("mprotect", 0, 0, pages, 3)])
    near = max(0, min(pages - 1, page + source.choice((-2, -1, 1, 2, 3))))
    if near < page < pages - 1 and source.random() < 0.7:
        middle = [
            [
                ("madvise", 0, page, 1, "wipeonfork"), ("fork", 0), ("madvise", 0, page, 1, "keeponfork"),
                _write(0, near),
            ],
        ]  # fmt: skip
    middle += [[_write(0, near)], [("madvise", 0, page, 1, "dontneed"), ("write", 0, page, source.randint(100, 250))]]
    chosen = source.sample(middle, source.randint(1, min(len(middle), 3)))
    for some in chosen:
        steps += some
    if any(step[0] == "fork" for step in steps) and source.random() < 0.4:
        steps.append(("write", 1, page, source.randint(60, 99)))
    device = source.randint(30, 59)
    steps.insert(source.choice((len(steps), len(steps), len(steps) - 1)), ("dma_write", 0, 1, 0, device))
    if steps.index(("dma_write", 0, 1, 0, device)) < steps.index(("pin", 0, page, 1, 1)):
        return _pinned(source, label)
    if source.random() < 0.6:
        steps.append(_write(0, near))
    return Scenario(pages, (*steps, ("read", 0, page)), _sizes(source, most=4), _skew(source))


def _pin_byte(ran: Run, program: Scenario) -> int:
    return -1 if (value := ran.values[-1]) is None else value


def _device_byte(program: Scenario) -> int:
    return next((step[4] for step in program.steps if step[0] == "dma_write"), -1)


def _written(program: Scenario) -> list[int]:
    page = program.steps[-1][2]
    return [step[3] for step in program.steps if step[0] == "write" and step[1] == 0 and step[2] == page]


def _pin_label(answer: int, program: Scenario) -> str:
    if answer == _device_byte(program):
        return "the device's"
    return "the process's" if answer in _written(program) else "another"


def _pin_wrong(program: Scenario, right: Any) -> Wrong:
    page = program.steps[-1][2]
    yield _device_byte(program), "The device writes into the page that was pinned, wherever the process's page is now."
    for byte in _written(program):
        yield byte, "That is what the process wrote; what the device wrote into the same page came later, or before."
    yield 0, "The page was not wiped: what is pinned keeps what it holds."
    for step in program.steps:
        if step[0] == "write" and step[1] == 1:
            yield step[3], "That is the child's byte, written into a page of its own."
        if step[0] == "write" and step[1] == 0 and step[2] != page:
            yield step[3], "That byte was written on another page."
            break
    yield _byte(page + 1), "Nobody wrote that byte here."
    yield 255, "No byte is lost in a way that leaves garbage."


def _pinned_fork(source: random.Random, label: Any) -> Scenario:
    pages = source.randint(4, 32)
    first, count = _span(source, pages, 24)
    steps = _writes(0, first, count)
    if source.random() < 0.3:
        steps.append(("fork", 0))
        if source.random() < 0.5:
            steps.append(("exit", 1))
    at, some = _span(source, pages, 3)
    steps.append(("pin", 0, at, some, 1))
    if source.random() < 0.3:
        steps.append(("madvise", 0, *_span(source, pages, 8), source.choice(("dontneed", "wipeonfork"))))
    if source.random() < 0.2:
        steps.append(("unpin", 0, 1))
    return Scenario(pages, (*steps, ("fork", 0)), _sizes(source, most=4), _skew(source))


def _fork_copied(ran: Run, program: Scenario) -> int:
    """What the child has for itself: fork copied it."""
    last = len(ran.machine.processes) - 1
    return len(set(_frames(ran, last).values()) - set(_frames(ran, 0).values()))


def _fork_copied_told(ran: Run, program: Scenario) -> str:
    mine = set(_frames(ran, 0).values())
    child = _frames(ran, len(ran.machine.processes) - 1)
    told = _in_runs([page for page, frame in child.items() if frame not in mine])
    return f"Copied for the child: {told}." if told else "Nothing is copied for the child."


def _pin_copied_wrong(program: Scenario, right: Any) -> Wrong:
    pins = sum(step[3] for step in program.steps if step[0] == "pin")
    yield 0, "A pinned page cannot be shared: the child gets a copy at once."
    yield pins, "The test is of the folio: one pinned page makes fork copy all its exclusive pages."
    yield program.pages, "Folios without a pin are shared as always."
    yield 1 << max(program.orders), "A folio may be smaller than the largest size, or partly gone, or not pinned."
    yield right + 1, COUNT_AGAIN
    yield right - 1 if right else 2, COUNT_AGAIN


def _mapped(source: random.Random, label: Any) -> Scenario:
    pages = source.randint(14, 56)
    first, count = _span(source, pages, 40)
    first = source.choice((0, first))
    steps = _writes(0, first, min(pages - first, max(count, source.randint(8, 34))))
    orders = source.choice(
        ((4,), (4,), (4,), (4, *_sizes(source, most=3)), (4, *_sizes(source, most=3)), _sizes(source))
    )
    forked = source.random() < 0.5
    if forked:
        steps.append(("fork", 0))
    who = source.choice((0, 1)) if forked else 0
    for _ in range(source.randint(0, 2)):
        what = source.random()
        if what < 0.45:
            steps.append(_write(source.choice((who, 0)), source.randrange(pages)))
        elif what < 0.6 and forked and ("exit", 1) not in steps and who == 0:
            steps.append(("exit", 1))
        elif what < 0.8:
            steps.append(("madvise", who, *_span(source, pages, 16), "dontneed"))
        else:
            steps.append(("munmap", who, *_span(source, pages, 8)))
    exited = any(step[0] == "exit" and any(later[1] == 1 for later in steps[at + 1 :]) for at, step in enumerate(steps))
    if exited or _writes_into_a_hole(steps):
        return _mapped(source, label)
    return Scenario(pages, tuple(steps), orders, source.choice((0, 0, 16, _skew(source))))


def _writes_into_a_hole(steps: list[Step]) -> bool:
    """Whether a process writes where it has unmapped: that would be a SIGSEGV."""
    holes: set[tuple[int, int]] = set()
    for op, who, *rest in steps:
        if op == "munmap":
            holes |= {(who, page) for page in range(rest[0], rest[0] + rest[1])}
        elif op == "write" and (who, rest[0]) in holes:
            return True
    return False


def _folded(ran: Run) -> tuple[int, int]:
    """Entries that the TLB needs for all that process 0 maps, and blocks that carry the contiguous bit."""
    mm = ran.machine.processes[0].mm
    mapped = int(((mm.pte & PTE_PRESENT) > 0).sum())
    marked = int(((mm.pte & PTE_CONT) > 0).sum())
    return mapped - marked + marked // 16, marked // 16


def _folded_told(ran: Run, program: Scenario) -> str:
    pte = ran.machine.processes[0].mm.pte
    blocks = ((pte & PTE_CONT) > 0).nonzero()[0].tolist()[::16]
    single = ((pte & (PTE_PRESENT | PTE_CONT)) == PTE_PRESENT).nonzero()[0].tolist()
    told = ", ".join(f"{page}–{page + 15}" for page in blocks) or "none"
    return f"Blocks with the bit: {told}; entries without it: {_in_runs(single) or 'none'}."


def _tlb_wrong(program: Scenario, right: Any) -> Wrong:
    yield program.pages, "Only what is mapped needs an entry, and a block of 16 that carries the bit needs one."
    yield (
        -(-program.pages // 16),
        "From 6.9 on arm64 marks aligned blocks of one folio, and these until one entry changes alone.",
    )
    written = len({step[2] for step in program.steps if step[0] == "write"})
    yield written, "Also pages that were not written are mapped, where a folio covers them."
    yield right + 15, COUNT_AGAIN
    yield right - 15 if right > 15 else right + 1, COUNT_AGAIN
    yield 1, "One entry covers one page, or one block of 16, not a whole mapping."


def _blocks_wrong(program: Scenario, right: Any) -> Wrong:
    written = len({step[2] for step in program.steps if step[0] == "write"})
    yield (
        -(-program.pages // 16),
        "From 6.9 on a block can be marked on arm64; not every 16 pages are an aligned one of one folio.",
    )
    yield written // 16, "A block, from 6.9 on, is aligned and lies in one folio; a change of one entry takes its bit."
    yield 0, "Alignment, one folio, equal rights: where all hold, the bit is set at once."
    yield right + 1, COUNT_AGAIN
    yield right + 2, COUNT_AGAIN
    yield right - 1 if right else 3, COUNT_AGAIN


# --- the topics -------------------------------------------------------------------------------------------------------

TOPICS: dict[str, tuple[Kind, ...]] = {
    "touch": (
        Kind(
            "path", ("nf", "alloc0", "alloc2", "alloc3", "alloc4", "alloc5"), _first_touches, _code,
            _what_happens, _path, KERNELS, _touches, _touch_wrong, levels=(0, 1), matters=MATTERS,
        ),
        Kind(
            "faults", (1, 2, 3, 4, 5, 6), _touch_loop, _loop_faults, _how_many_faults, _many("fault"), KERNELS,
            _touches, _loop_wrong, levels=(0, 1), trail=_faults_told, matters=MATTERS,
        ),
    ),
    "zero": (
        Kind(
            "path", ("nf", "zero0", "zero2", "zero3", "zero4", "zero9"), _zero_pages, _code, _what_happens, _path,
            KERNELS, _zero, _zero_wrong, levels=(0, 1), matters=MATTERS,
        ),
        Kind(
            "faults", (1, 2, 3, 4, 6), _zero_loop, _loop_faults, _how_many_faults, _many("fault"), KERNELS, _zero,
            _loop_wrong, levels=(0, 1), trail=_faults_told, matters=MATTERS,
        ),
    ),
    "fork": (
        Kind(
            "shared", (0, 1, 3, 4, 7, 8, 15), _forked, _in_common,
            lambda program: "How many pages of memory do processes 0 and 1 have in common at the end?",
            _pages, KERNELS, _shares, _fork_wrong, levels=(2, 3), trail=_in_common_told, matters=MATTERS,
        ),
        Kind(
            "exclusive", (1, 2, 3, 4, 8), _forked, _exclusive,
            lambda program: "How many pages that process 0 maps are marked PageAnonExclusive at the end?",
            _pages, KERNELS, _shares, _exclusive_wrong, levels=(2, 3), trail=_exclusive_told, matters=MATTERS,
        ),
    ),
    "copy": (
        Kind(
            "path", ("copy0", "copy2", "copy3", "copy4"), _second_writes, _code, _what_happens, _path, KERNELS,
            _copies, _copy_wrong, levels=(2, 4), matters=MATTERS,
        ),
        Kind(
            "copied", (0, 1, 2, 3, 4, 8), _second_loop, _loop_copied, _how_many_copied, _pages, KERNELS, _copies,
            _copied_wrong, levels=(2, 4), trail=_copied_told, matters=MATTERS,
        ),
    ),
    "reuse": (
        Kind(
            "path", ("nf", "copy0", "reuse1", "reuse of several", "copy of several"), _second_writes, _code,
            _what_happens, _path, KERNELS, _reuses, _copy_wrong, _reuse_label, levels=(3, 4), matters=MATTERS,
        ),
        Kind(
            "faults", (1, 2, 3, 4, 5), _second_loop, _loop_faults, _how_many_faults, _many("fault"), KERNELS,
            _reuses, _loop_wrong, levels=(3, 4), trail=_faults_told, matters=MATTERS,
        ),
    ),
    "pin": (
        Kind(
            "read", ("the device's", "the process's"), _pinned, _pin_byte,
            lambda program: f"Which byte does process 0 read from page {program.steps[-1][2] + program.skew} at last?",
            lambda byte: f"byte {byte}", (OLD, *KERNELS), _pins, _pin_wrong, _pin_label, levels=(2, 3),
            matters=ABOUT_PINS,
        ),
        Kind(
            "copied", (1, 2, 3, 4, 8), _pinned_fork, _fork_copied,
            lambda program: "How many pages does the last fork copy for the child at once?",
            _pages, KERNELS, _pins_at_fork, _pin_copied_wrong, levels=(1, 2), trail=_fork_copied_told, matters=MATTERS,
        ),
    ),
    "tlb": (
        Kind(
            "entries", (1, 2, 3, 8, 16, 17, 18), _mapped, lambda ran, program: _folded(ran)[0],
            lambda program: (
                "How many TLB entries cover all that process 0 maps at the end? (The TLB holds 4 KiB, blocks of 16 "
                "pages that carry arm64's contiguous bit, and 2 MiB.)"
            ),
            lambda count: f"{count} entr{'y' if count == 1 else 'ies'}", ARM, _folds, _tlb_wrong, levels=(0, 1),
            trail=_folded_told, matters=ABOUT_FOLDS,
        ),
        Kind(
            "blocks", (0, 1, 2), _mapped, lambda ran, program: _folded(ran)[1],
            lambda program: "How many blocks of 16 entries of process 0 carry the contiguous bit at the end?",
            _many("block"), ARM, _folds, _blocks_wrong, levels=(0, 1),
            trail=_folded_told, matters=ABOUT_FOLDS,
        ),
    ),
}  # fmt: skip
"""What may be asked about, each in two ways."""


def questions(topic: str, seed: str | int, count: int) -> list[Drawn]:
    """Questions of a topic (`draw`); ValueError for a topic that there is not."""
    if topic not in TOPICS:
        raise ValueError(f"there is no topic {topic!r:.60}; there are {', '.join(TOPICS)}")
    return draw(topic, TOPICS[topic], seed, count)


# --- in a notebook ----------------------------------------------------------------------------------------------------


def asking(*topics: str) -> Callable[[int], Choice]:
    """What a notebook calls ``q.more``: a question of one of these topics, another for each seed."""

    @cache
    def made(seed: int) -> Choice:
        (question,) = questions(topics[seed % len(topics)], seed, 1)
        return as_choice(question, f"q.more({seed})")

    def more(seed: int = 1) -> Choice:
        """Another question of the same kind, drawn from the model: ``q.more(2)``, then ``q.more(2).check("b")``."""
        if type(seed) is not int or seed < 0:
            raise ValueError(f"q.more({seed!r:.60}): a seed is a whole number from 0 on, such as q.more(2)")
        return made(seed)

    return more
