"""Questions of ``00_start_here``: ``from anonfolio.exercises import start_here as q``."""

from __future__ import annotations

from ..draw.picture import Picture, pictures
from ..draw.table import letter, rows
from ..kernel.policy import LINUX_6_9, LINUX_6_15
from ..kernel.record import COW_COPY, FIRST_TOUCH, NO_FAULT, REUSE
from ..lesson.quiz import Case, Cases, Choice, Number, Pages
from ..lesson.topics import asking
from ..lesson.words import Words
from ..program.scenario import Scenario, Timeline

words = Words(__file__)
more = asking("touch", "zero", "copy", "reuse")

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
    (row,) = rows(picture.scene.tables[process], 16)
    names = (letter(cell.folio) if cell.folio >= 0 else cell.name or "." for cell in row.cells)
    return "".join(name if cell.writable else name.lower() for name, cell in zip(names, row.cells, strict=True))


LAST_OF_8 = 6
"""The step of `four_paths` in which the parent writes page 8 again."""


def _present_after_one_write() -> int:
    recorded = Scenario.load("first-write").recorded("6.18")
    return sum(cell != 0 for cell in recorded.steps[0]["view"]["0"])


backed = Number(**words("backed"), truth=_present_after_one_write)


def _pages_of_folio(orders: tuple[int, ...]) -> int:
    end = Scenario(1024, (("write", 0, 700, 1),), orders=orders).end(LINUX_6_15)
    return 1 << end.faults[-1].order


size = Number(
    **words("size", only_2_mib=lambda: _pages_of_folio((9,)), no_size=lambda: _pages_of_folio(())),
    truth=lambda: _pages_of_folio((4,)),
)


def _path(timeline: Timeline, step: int = -1) -> str:
    faults = timeline[step].faults
    return faults[-1].path if faults else NO_FAULT


_LETTERS = {NO_FAULT: "a", COW_COPY: "b", REUSE: "c", FIRST_TOUCH: "d"}

last = Choice(
    **words("last", linux_6_9=lambda: _LETTERS[_path(four_paths.run(LINUX_6_9), LAST_OF_8)]),
    truth=lambda: _LETTERS[_path(four_paths.run(LINUX_6_15), LAST_OF_8)],
)


def _writable(step: int) -> set[int]:
    mapping = four_paths.run(LINUX_6_15)[step].snapshot.processes[0].mappings[0]
    return set(mapping.writable.nonzero()[0].tolist())


def _folio_of_page_8() -> range:
    return four_paths.run(LINUX_6_15)[2].faults[-1].pages


writable = Pages(
    **words(
        "writable",
        whole_folio=_folio_of_page_8,
        page_3_too=lambda: {3, *_writable(LAST_OF_8)},
        before_the_fork=lambda: {3, *_folio_of_page_8()},
    ),
    truth=lambda: _writable(LAST_OF_8),
)


# --- eight small cases ----------------------------------------------------------------------------------------------


def _case(story: str, steps: str, wrong: dict[str, str], *, orders: str = "4 3 2", on: str = "linux-6.15") -> Case:
    def timeline() -> Timeline:
        return Scenario.parse(f"pages 16\norders {orders}\n{steps}").run(on)

    return Case(story, lambda: _path(timeline()), wrong, lambda: Picture.of(timeline()))


_FILL = "write 0 0..15\n"
eight = Cases(**words("eight"), cases=words.cases("eight", _case))
