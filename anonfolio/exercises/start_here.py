"""Questions of ``00_start_here``: ``from anonfolio.exercises import start_here as q``."""

from __future__ import annotations

from ..draw.picture import Picture, pictures
from ..kernel.policy import LINUX_6_9, LINUX_6_15
from ..kernel.record import COW_COPY, FIRST_TOUCH, NO_FAULT, REUSE, ZERO_COPY, ZERO_READ
from ..lesson.quiz import Case, Cases, Choice, Mistake, Number, Pages
from ..program.scenario import Scenario, Timeline

four_paths = Scenario.parse(
    """
# One program, all four paths: each write meets a page in a different state.
scenario four-paths
pages 16
orders 4 3 2

read 0 3
write 0 3 103
write 0 8 108
fork 0
write 1 8 208
exit 1
write 0 8 118
write 0 9 119
"""
)
"""All four paths under ``linux-6.15``; its parts are recorded as read-then-write and child-writes-and-exits."""


def figure(timeline: Timeline) -> str:
    """Every fault of a timeline in a line: the step, the path, and the page table of who faulted, before and after.

    One character a page: ``.`` nothing mapped, ``z`` zero page, ``a`` read-only and ``A`` writable page of folio A.
    """
    shown = pictures(timeline)
    lines = [f"{'step':<14}{'path':<18}{'before':<18}after"]
    for number, result in enumerate(timeline):
        for fault in result.faults:
            before, after = (_strip(shown[at], fault.process) for at in (number, number + 1))
            lines.append(f"{number + 1} {' '.join(map(str, result.step[:3])):<12}{fault.path:<18}{before:<18}{after}")
    return "\n".join(lines)


def _strip(picture: Picture, process: int) -> str:
    (row,) = picture.strips(16)[process].rows
    cells = ((cell.folio or cell.name or ".", cell.writable) for cell in row.cells)
    return "".join(name if writable or not name.isalpha() else name.lower() for name, writable in cells)


LAST_OF_8 = 6
"""The step of `four_paths` in which the parent writes page 8 again."""


def _present_after_one_write() -> int:
    recorded = Scenario.load("first-write").recorded("6.18")
    return sum(cell != 0 for cell in recorded.steps[0]["view"]["0"])


backed = Number(
    name="q.backed",
    prompt="One byte is written. How many of the 16 pages have memory behind them afterwards?",
    unit="pages",
    truth=_present_after_one_write,
    because="The kernel took one folio of 16 pages and mapped all of it. Read from a recording of Linux 6.18.",
    hints=("The kernel may hand out memory in larger pieces than one page.", "Here it may use up to 64 KiB at once."),
    mistakes=(
        Mistake(1, "One page for one write is what kernels up to 6.7 do, and today's where no size is enabled."),
        Mistake(512, "512 pages are 2 MiB, the size of a huge page; this mapping is far smaller than that."),
    ),
)


def _pages_of_folio(orders: tuple[int, ...]) -> int:
    end = Scenario(1024, (("write", 0, 700, 1),), orders=orders).end(LINUX_6_15)
    return 1 << end.faults[-1].order


size = Number(
    name="q.size",
    prompt="A mapping of 4 MiB, only 64 KiB enabled, one write on page 700. How many pages does its folio have?",
    unit="pages",
    truth=lambda: _pages_of_folio((4,)),
    because="A folio has the size that is enabled and fits; 2 MiB is one size among eight.",
    hints=("How many 4 KiB pages make 64 KiB?",),
    mistakes=(
        Mistake(lambda: _pages_of_folio((9,)), "THP is not 2 MiB: since 6.8 it comes in every size that is enabled."),
        Mistake(
            lambda: _pages_of_folio(()), "A folio need not be a huge page: 64 KiB alone is enough for a large one."
        ),
    ),
)


def _path(timeline: Timeline, step: int = -1) -> str:
    faults = timeline[step].faults
    return faults[-1].path if faults else NO_FAULT


LAST_OPTIONS = {
    "a": "no fault: the child is gone, so the page is writable again",
    "b": "copy: the page was shared, so it is copied",
    "c": "reuse: a fault, but no copy",
    "d": "first touch: the kernel hands out a fresh page",
}
_LETTERS = {NO_FAULT: "a", COW_COPY: "b", REUSE: "c", FIRST_TOUCH: "d"}

last = Choice(
    name="q.last",
    prompt="The child has written page 8 and exited. Now the parent writes page 8 (Linux 6.15 and later). What then?",
    options=LAST_OPTIONS,
    truth=lambda: _LETTERS[_path(four_paths.run(LINUX_6_15), LAST_OF_8)],
    because="The entry is still read-only, so there is a fault; it finds that every mapping and every reference "
    "of the folio is the parent's, and makes this one page writable.",
    hints=("What did fork do to the parent's own entries?", "Who else still maps the folio?"),
    mistakes=(
        Mistake("a", "The child's exit lowers counts. It does not touch the parent's page table."),
        Mistake(
            lambda: _LETTERS[_path(four_paths.run(LINUX_6_9), LAST_OF_8)],
            "That is what 6.9 to 6.14 do: there, a page of a large folio that was shared once is always copied.",
        ),
        Mistake("d", "First touch is for pages where nothing is mapped; page 8 is mapped all the time."),
    ),
)


def _writable(step: int) -> set[int]:
    mapping = four_paths.run(LINUX_6_15)[step].snapshot.processes[0].mappings[0]
    return set(mapping.writable.nonzero()[0].tolist())


def _folio_of_page_8() -> range:
    return four_paths.run(LINUX_6_15)[2].faults[-1].pages


writable = Pages(
    name="q.writable",
    prompt="After step 7, which pages can the parent write without a fault (Linux 6.15 and later)?",
    truth=lambda: _writable(LAST_OF_8),
    because="Fork made every entry read-only; one reuse fault makes one page writable. Step 8 shows the next fault.",
    hints=(
        "Step the first stepper to step 7 and look for writable entries in the row of P0.",
        "In released kernels one reuse fault makes one page writable.",
    ),
    mistakes=(
        Mistake(
            _folio_of_page_8, "One reuse does not reach the whole folio. RFC v2 proposed that; it was never merged."
        ),
        Mistake(lambda: {3, *_writable(LAST_OF_8)}, "Page 3 was writable before the fork; fork made it read-only too."),
        Mistake(
            lambda: {3, *_folio_of_page_8()},
            "That is what was writable before the fork; fork made all of it read-only.",
        ),
        Mistake(range(16), "Pages that nothing is mapped at are not writable either: the first write on them faults."),
    ),
)


# --- eight small cases ----------------------------------------------------------------------------------------------


def _case(story: str, steps: str, wrong: dict[str, str], *, orders: str = "4 3 2", on: str = "linux-6.15") -> Case:
    def timeline() -> Timeline:
        return Scenario.parse(f"pages 16\norders {orders}\n{steps}").run(on)

    return Case(story, lambda: _path(timeline()), wrong, lambda: Picture.of(timeline()))


_FILL = "write 0 0..15\n"
eight = Cases(
    name="q.eight",
    prompt="Name the path of the last step of each case. Linux 6.15 and later unless another kernel is named; "
    "16 pages, sizes 16, 32 and 64 KiB enabled.",
    answers={
        FIRST_TOUCH: ("alloc",),
        ZERO_READ: ("zero read", "zeroread"),
        ZERO_COPY: ("zero copy", "zero"),
        COW_COPY: ("copy",),
        REUSE: ("reuse",),
        NO_FAULT: ("nf", "none", "nothing"),
    },
    hints=(
        "Ask in this order: is anything mapped? is the entry writable? is it the zero page? may others have the page?",
        "A read needs only that something is mapped. A write needs a writable entry.",
        "Fork takes the right to write from parent and child, whatever they do next.",
    ),
    cases={
        "a": _case(
            "write page 5; write page 6",
            "write 0 5 1\nwrite 0 6 1",
            {FIRST_TOUCH: "The first write mapped a folio of 16 pages, all writable; page 6 is one of them."},
        ),
        "b": _case(
            "read page 5",
            "read 0 5",
            {
                FIRST_TOUCH: "A read takes no memory: the shared zero page is enough until somebody writes.",
                NO_FAULT: "Nothing was mapped there, so even a read has to ask the kernel.",
            },
        ),
        "c": _case(
            "read page 5; write page 5",
            "read 0 5\nwrite 0 5 1",
            {
                FIRST_TOUCH: "Not any more: the read has left the zero page there.",
                NO_FAULT: "The read left the zero page there, and that is mapped read-only.",
                COW_COPY: "A copy, but of no process's page: it has a path of its own.",
            },
        ),
        "d": _case(
            "read page 3; write page 8",
            "read 0 3\nwrite 0 8 1",
            {ZERO_COPY: "Page 8 itself was not read: nothing is mapped there. Page 3 only limits the size."},
        ),
        "e": _case(
            "write all; fork; the parent writes page 4",
            _FILL + "fork 0\nwrite 0 4 1",
            {
                NO_FAULT: "Fork made the parent's entries read-only too.",
                REUSE: "The child still maps the folio.",
                FIRST_TOUCH: "Something is mapped at page 4: the folio that both share.",
            },
        ),
        "f": _case(
            "write all; fork; the child reads page 4",
            _FILL + "fork 0\nread 1 4",
            {
                COW_COPY: "Reading copies nothing: copy-on-write waits for a write.",
                ZERO_READ: "Fork copied the entry: the child maps the parent's page, not nothing.",
            },
        ),
        "g": _case(
            "write all; fork; the child exits; the parent writes page 4",
            _FILL + "fork 0\nexit 1\nwrite 0 4 1",
            {
                NO_FAULT: "Nobody made the entry writable again when the child left.",
                COW_COPY: "That is 6.9 to 6.14. From 6.15 on the kernel can tell that the folio is the parent's alone.",
            },
        ),
        "h": _case(
            "the same as g, on Linux 6.9 to 6.14",
            _FILL + "fork 0\nexit 1\nwrite 0 4 1",
            {
                REUSE: "From 6.15 on. In 6.9 to 6.14 a page of a large folio is reused only when marked exclusive.",
                NO_FAULT: "Nobody made the entry writable again when the child left.",
            },
            on="linux-6.9",
        ),
    },
)
