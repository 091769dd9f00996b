"""Questions and challenges of ``12_playground``: ``from anonfolio.exercises import playground as q``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from ..kernel.policy import LINUX_6_8, LINUX_6_9, LINUX_6_15, RFC_V2, Policy
from ..kernel.record import COW_COPY, FIRST_TOUCH, REUSE, ZERO_COPY, Fault
from ..lesson.quiz import Choice, Number, Program, Verdict, judged_under, runs
from ..lesson.topics import asking
from ..lesson.words import Words
from ..machine.invariants import INVARIANTS
from ..machine.invariants import check as check_invariants
from ..machine.machine import Machine
from ..machine.show import Shown
from ..machine.snapshot import FolioView, Snapshot
from ..program.scenario import Result, Scenario, Timeline
from .exclusive_pitfalls import both_sides, loses, lost_bytes

words = Words(__file__)
more = asking("touch", "zero", "fork", "copy", "reuse", "pin")


def _written(policy: Policy, judge: Callable[[Timeline], Verdict]) -> Callable[[Scenario], Verdict]:
    """A judge of a program under a policy; one without steps is told so."""

    def judged(timeline: Timeline) -> Verdict:
        return judge(timeline) if len(timeline) else Verdict(False, ("Nothing is written so far.",))

    return judged_under(policy, judged)


def _write_all(process: int, pages: range) -> tuple[tuple[str, int, int, int], ...]:
    return tuple(("write", process, page, page + 1) for page in pages)


# --- predictions ----------------------------------------------------------------------------------------------------

occupied = Scenario(64, (("read", 0, 9),), orders=(4,), name="occupied")
"""Page 9 of 64 is read and nothing else: the zero page is mapped there."""


def _write_faults(timeline: Timeline) -> list[Fault]:
    return [fault for fault in timeline.faults() if fault.access == "write"]


faults = Number(
    **words("faults"),
    truth=lambda: len(_write_faults(occupied.but(steps=(*occupied.steps, *_write_all(0, range(64)))).run(LINUX_6_15))),
)

alone = Scenario(
    16, (("write", 0, 0, 1), ("fork", 0), ("exit", 1), ("write", 0, 3, 4)), orders=(4,), name="alone"
)  # fmt: skip
"""A folio, a fork, the child exits, and the parent writes: alone again."""

_DOES = {"a": (COW_COPY, COW_COPY), "b": (COW_COPY, REUSE), "c": (REUSE, COW_COPY), "d": (REUSE, REUSE)}


def _each_does() -> str:
    paths = tuple(alone.run(policy)[-1].faults[-1].path for policy in (LINUX_6_9, LINUX_6_15))
    return next(letter for letter, does in _DOES.items() if does == paths)


again = Choice(**words("again"), truth=_each_does)

kept = Scenario(16, (("write", 0, 0, 1), ("munmap", 0, 1, 15)), orders=(4,), name="kept")
"""A folio of 16 pages of which one is still mapped."""

held = Number(**words("held"), truth=lambda: kept.run(LINUX_6_15)[-1].snapshot.held_pages)

# --- 1: fewest faults -----------------------------------------------------------------------------------------------


def _fewest() -> int:
    return len(_write_faults(fewest_worked().run(LINUX_6_15)))


def fewest_worked() -> Scenario:
    """Drop the zero page first."""
    return occupied.but(steps=(*occupied.steps, ("madvise", 0, 9, 1, "dontneed"), *_write_all(0, range(64))))


def _judge_fewest(timeline: Timeline) -> Verdict:
    if timeline.scenario.steps[: len(occupied.steps)] != occupied.steps:
        return Verdict(False, ("It has to begin with the read of page 9.",), head="That is another beginning.")
    missing = _unwritten(timeline)
    if missing:
        count = f"{len(missing)} pages are not written yet" if len(missing) > 1 else "One page is not written yet"
        return Verdict(False, (f"{count}: {runs(missing)}. Drag over them.",), timeline.show(), "Not all 64 pages yet.")
    taken = _write_faults(timeline)
    head = f"{len(taken)} faults for 64 pages"
    if len(taken) <= _fewest():
        why = "MADV_DONTNEED dropped the zero page, so its block was untouched again: one fault per block of 16."
        return Verdict(True, (why,), timeline.show(), f"Right: {head}.")
    if any(fault.path == ZERO_COPY for fault in taken):
        why = "When the block 0–15 was first written, the zero page was still mapped at 9. What unmaps it, and leaves "
        return Verdict(False, (f"{why}the mapping?",), timeline.show(), f"{head}; fewer are possible.")
    return Verdict(False, ("`q.fewest.hint()` helps.",), timeline.show(), f"{head}; fewer are possible.")


def _unwritten(timeline: Timeline) -> list[int]:
    written = {step[2] for step in timeline.scenario.steps if step[:2] == ("write", 0)}
    now = timeline[-1].snapshot if len(timeline) else timeline.start
    there = {vpn for vpn, _ in _entries(now, 0)}
    return [page for page in range(timeline.scenario.pages) if page not in written & there]


fewest = Program(**words("fewest"), judge=judged_under(LINUX_6_15, _judge_fewest), worked=fewest_worked, start=occupied)

# --- 2: memory that nobody maps -------------------------------------------------------------------------------------

WASTED = 15


def wasted_worked() -> Scenario:
    """The parent copies all pages but one, and the child, which kept the folio, exits."""
    return Scenario(
        16, (("write", 0, 0, 1), ("fork", 0), *_write_all(0, range(1, 16)), ("exit", 1)), orders=(4,), name="wasted"
    )


def _judge_wasted(timeline: Timeline) -> Verdict:
    now = timeline[-1].snapshot
    more = now.held_pages - now.rss_pages
    said = f"{now.held_pages} pages are held, RSS is {now.rss_pages}"
    if more >= WASTED:
        why = "Nobody unmapped anything. The pages that were copied are still in the old folio, and one page keeps it."
        return Verdict(True, (why, "Only a split of the folio, or the end of that page, gives them back."),
                       timeline.show(), f"Right: {said}.")  # fmt: skip
    return Verdict(False, (_not_wasted(timeline, now),), timeline.show(), f"{said}: {_difference(more)}.")


def _difference(more: int) -> str:
    return f"{more} more" if more > 0 else f"{-more} fewer" if more < 0 else "the same"


def _not_wasted(timeline: Timeline, now: Snapshot) -> str:
    copies = [fault for fault in timeline.faults() if fault.path == COW_COPY]
    if len(now.processes) == 1:
        return "With one process every page of a folio stays mapped. Who could keep a folio that another one leaves?"
    if not copies:
        return "Nothing is copied so far, so every process still maps the folio it began with."
    if sum(process.alive for process in now.processes) > 1:
        return "RSS counts a shared page once per process, and while both live every page has somebody. Who should go?"
    if any(fault.path == REUSE for fault in timeline.faults()):
        return "Some pages were made writable in place: the other one was gone too early. Copy while it lives."
    if not any(folio.order for folio in now.folios):
        return "The old folio is free: no page of it was mapped any more. One is enough to keep it."
    return "Nearly. Each page that is copied while the other one lives is one more that nobody will map."


wasted = Program(
    **words("wasted"),
    prompt=f"Without unmapping anything: make the memory held exceed RSS by {WASTED} pages or more (Linux 6.15 and "
    "later). Only reads, writes, forks and exits.",
    judge=_written(LINUX_6_15, _judge_wasted),
    worked=wasted_worked,
    start=Scenario(16, (), orders=(4,), name="wasted"),
    may=("read", "write", "fork", "exit"),
)

# --- 3: a lost byte -------------------------------------------------------------------------------------------------


def lost_worked() -> Scenario:
    """Half a folio is wiped on fork and stays exclusive; a page of it is pinned, and a page of the other is written."""
    return Scenario(
        16,
        (
            ("write", 0, 0, 1), ("madvise", 0, 8, 8, "wipeonfork"), ("fork", 0), ("madvise", 0, 8, 8, "keeponfork"),
            ("pin", 0, 10, 1, 0), ("write", 0, 2, 6), ("dma_write", 0, 0, 0, 7),
        ),
        orders=(4,),
        name="lost",
    )  # fmt: skip


def _judge_lost(timeline: Timeline) -> Verdict:
    program = timeline.scenario
    machine = program.end(RFC_V2)
    lost = lost_bytes(machine)
    if not lost:
        return Verdict(False, (_not_lost(program, machine),), timeline.show(), "No byte is lost under rfc-v2.")
    page, process, device = lost[0]
    mainline = "loses it as well" if loses(LINUX_6_15, program) else "the same program loses nothing"
    told = f"No error, no signal. Under linux-6.15 {mainline}: a copy there is one page."
    head = f"Right: in page {page} the process sees {process}, the device {device}."
    return Verdict(True, (told,), timeline.show(), head)


def _not_lost(program: Scenario, machine: Machine) -> str:
    if check_invariants(machine, [INVARIANTS["pinned_page_stays"]]):
        return "Nearly: the page has left its pin. Now let the process or the device write it, so that it shows."
    if not any(step[0] in ("pin", "pin_ro") for step in program.steps):
        return "Nothing is pinned. A byte can be lost only where a process and a device both have a page."
    if not both_sides(machine):
        return "No pinned page is still mapped. What a process unmaps itself, it has given up."
    if not any(fault.path == COW_COPY and len(fault.pages) > 1 for fault in program.run(RFC_V2).faults()):
        return "The pinned page is where it was. rfc-v2 copies whole blocks: which write would take this one along?"
    return "A block was copied, but the pinned page was not in it, or the pin came after it."


lost = Program(
    **words("lost"),
    judge=_written(RFC_V2, _judge_lost),
    worked=lost_worked,
    start=Scenario(16, (), orders=(4,), name="lost"),
    may=(
        "write",
        "read",
        "fork",
        "exit",
        "munmap",
        "mremap",
        "mprotect",
        "madvise",
        "pin",
        "pin_ro",
        "unpin",
        "dma_write",
        "dma_read",
        "gup",
        "ref",
        "unref",
    ),
)

# --- 4: blind -------------------------------------------------------------------------------------------------------


def blind_worked() -> Scenario:
    """Three processes, two slots: the third is in neither, and survives."""
    return Scenario(
        16,
        (("write", 0, 0, 1), ("fork", 0), ("fork", 0), ("exit", 0), ("exit", 1), ("write", 2, 3, 6)),
        orders=(4,),
        name="blind",
    )


def _judge_blind(timeline: Timeline) -> Verdict:
    last = timeline[-1]
    before = timeline[-2].snapshot if len(timeline) > 1 else timeline.start
    if last.step[0] != "write" or not last.faults or last.faults[-1].path != COW_COPY:
        return Verdict(False, (_no_copy(last),), timeline.show(), "The last step is not a write that copies.")
    fault = last.faults[-1]
    folio = before.folio_at(dict(_entries(before, fault.process))[fault.vpn])
    assert folio is not None, "what is copied is a folio"
    why = _not_blind(before, folio, fault)
    if why:
        return Verdict(False, (why,), timeline.show(), "It copies, and it has to.")
    told = (
        f"Process {fault.process} is the only one that maps the folio, {folio.large_mapcount} times, with "
        f"{folio.refcount} references. The two slots held others when it came, so the folio stays maybe shared.",
        "Every page of it will be copied, to the last.",
    )
    return Verdict(True, told, timeline.show(), "Right: alone with its folio, and it copies all the same.")


def _no_copy(last: Result) -> str:
    if last.faults and last.faults[-1].path == REUSE:
        return "It was alone and the kernel saw it. The survivor was in one of the folio's two slots (mm_id)."
    if last.faults and last.faults[-1].path == FIRST_TOUCH:
        return "There was nothing to share yet. Write first, then fork."
    return "End with a write of the process that is left."


def _not_blind(before: Snapshot, folio: FolioView, fault: Fault) -> str:
    inside = range(folio.head, folio.head + folio.pages)
    mapping = {
        process.number for process in before.processes for _, pfn in _entries(before, process.number) if pfn in inside
    }
    if mapping != {fault.process}:
        others = ", ".join(map(str, sorted(mapping - {fault.process})))
        return f"It is not alone: process {others} still maps the folio. That is no blindness."
    if not folio.order:
        return "That folio has one page. The slots (mm_id) are a matter of large folios."
    if folio.large_mapcount == 1:
        return "One page of the folio is left, and a last page is always copied, seen or not. Leave it more."
    if folio.refcount != folio.large_mapcount:
        return "Nobody else maps the folio, but somebody holds it: a pin or a reference. Then it must copy."
    return ""


def _entries(snapshot: Snapshot, process: int) -> list[tuple[int, int]]:
    """(page, frame) of everything that a process maps, the zero page left out."""
    return [
        (view.start + at, int(view.pfn[at]))
        for view in snapshot.processes[process].mappings
        for at in range(view.end - view.start)
        if view.present[at] and not view.zero[at]
    ]


blind = Program(
    **words("blind"),
    judge=_written(LINUX_6_15, _judge_blind),
    worked=blind_worked,
    start=Scenario(16, (), orders=(4,), name="blind"),
)

# --- 5: three kernels, three answers --------------------------------------------------------------------------------

THREE = (LINUX_6_8, LINUX_6_9, LINUX_6_15)
CODES = "alloc4 is a new folio of 16 pages, copy0 a copied page, reuse1 a page made writable in place, nf no fault."


def apart_worked() -> Scenario:
    """A write with the whole folio left, and a write with one page left."""
    return Scenario(
        16,
        (
            ("write", 0, 0, 1), ("fork", 0), ("exit", 1), ("write", 0, 0, 4),
            ("munmap", 0, 0, 15), ("write", 0, 15, 6),
        ),
        orders=(4,),
        name="apart",
    )  # fmt: skip


def _judge_apart(timeline: Timeline) -> Verdict:
    program = timeline.scenario
    codes = {policy.name: program.run(policy).codes() for policy in THREE}
    lines = tuple(f"- {name}: {_tail(code)}" for name, code in codes.items())
    same = [pair for pair in combinations(codes, 2) if codes[pair[0]] == codes[pair[1]]]
    if not same:
        return Verdict(True, (*lines, CODES), head="Right: three kernels, three answers.")
    head = "All three do the same." if len(same) == 3 else f"{same[0][0]} and {same[0][1]} do the same."
    return Verdict(False, (*lines, CODES, _bring_apart(program, same)), _first_reuse(program), head)


def _tail(codes: list[str], most: int = 8) -> str:
    return ("… " if len(codes) > most else "") + " ".join(codes[-most:])


def _bring_apart(program: Scenario, same: list[tuple[str, str]]) -> str:
    if not any(step[0] == "fork" for step in program.steps):
        return "Without a fork every page keeps its mark, and no kernel has to ask anything."
    if len(same) == 3:
        return "They differ only where a process is alone again with a folio that was shared."
    if same[0] == (LINUX_6_8.name, LINUX_6_9.name):
        return "linux-6.8 takes a page over when the folio has a single reference left. Come down to one page."
    return "linux-6.15 takes a page over when every mapping is the writer's own, unless it is the last. Write earlier."


def _first_reuse(program: Scenario) -> Shown | None:
    def show(policy: Policy) -> Shown | None:
        timeline = program.run(policy)
        at = [number for number, result in enumerate(timeline) if any(f.path == REUSE for f in result.faults)]
        return timeline.show(at[0]) if at else None

    return next((picture for policy in THREE if (picture := show(policy))), None)


apart = Program(
    **words("apart"),
    judge=_written(LINUX_6_15, _judge_apart),
    worked=apart_worked,
    start=Scenario(16, (), orders=(4,), name="apart"),
)
