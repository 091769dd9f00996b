"""A report in words: which section says what, and where each number comes from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from textwrap import wrap

from .. import __version__
from ..draw.picture import side_by_side
from ..hardware.cost import read_table
from ..kernel.honest import folios
from ..kernel.policy import POLICIES, Policy
from ..kernel.rules import Folio, answers, many, one_page
from ..machine.invariants import INVARIANTS, KERNEL_PROMISES
from ..program.ops import in_text, said
from ..program.random_programs import shrink
from ..program.scenario import Scenario
from ..program.search import EXTRA_OPERATIONS, OPERATIONS, Counterexample, tried_pages
from ..program.starts import STARTS
from .blocks import Block, Code, Command, Drawing, Page, Pair, Points, Rows, Section, Words
from .breaks import Found, Random, Selftests, first_of_each
from .changes import Course, Kind, differs
from .findings import Findings
from .knobs import ignored
from .prices import CORE, Prices, Workload
from .render import PROSE

MOST_DRAWN, MOST_NAMED, MOST_BROKEN = 4, 8, 2
"""So many kinds of difference are drawn, failing cases named, broken programs shown; of how many is said."""
MIB = 256
"""Base pages of 4 KiB in a MiB."""


def page_of(report: Findings) -> Page:
    """The whole report."""
    sections = (
        Section("What was tried", tuple(_tried(report))),
        Section("What it changes", tuple(_changes(report))),
        Section("What it breaks", tuple(_breaks(report))),
        Section("What it buys", tuple(_buys(report))),
        Section("What it assumes, and what the model leaves out", tuple(_assumes(report))),
    )
    title = f"{report.policy.name} against {report.base.name}"
    return Page(title, _verdict(report), bool(report), sections, report.command)


def _verdict(report: Findings) -> str:
    stopped = f"Stopped at: {report.stopped}. " if report.stopped else ""
    against = f" {_AGAINST_KNOBS}" if ignored(report.policy) else ""
    if found := report.refutations:
        return f"{stopped}Refuted: {'; '.join(found)}.{against}"
    return f"{stopped}Nothing refutes it as far as was looked: {'; '.join(_looked(report)) or 'not yet'}.{against}"


_AGAINST_KNOBS = "It takes sizes that sysfs, madvise or prctl did not enable, which no kernel may."


def _looked(report: Findings) -> Iterator[str]:
    """How far each part looked that refuted nothing."""
    found = report.breaks
    yield from (_bound_words(each) for each in found.searches)
    if found.random:
        yield f"{found.random.programs:,} random programs"
    if found.selftests:
        yield f"{found.selftests.run:,} cases of the kernel's selftests"
    if found.races:
        yield f"{len(found.races)} races"


def _bound_words(found: Found) -> str:
    answer = found.answer
    if isinstance(answer, Counterexample):
        return f"programs of {answer.steps} steps{_after(found)}"
    length = "any length" if answer.complete else f"up to {many(answer.steps, 'step')}"
    by = f" by {found.bound.processes} processes" if found.bound.processes != 2 else ""
    pages = tried_pages(found.bound.pages, found.bound.every)
    return f"programs of {length}{_after(found)}{by} over {pages} and {', '.join(found.bound.operations)}"


def _after(found: Found) -> str:
    """From where a search began, if not from an empty machine."""
    return f" after {found.bound.start}" if found.bound.start else ""


# --- what was tried -------------------------------------------------------------------------------------------------


def _tried(report: Findings) -> Iterator[Block]:
    policy, base = report.policy, report.base
    yield Words(
        f"All of this was run on anonfolio {__version__}, a model of the kernel's anonymous memory: both policies are"
        " the model's, and no kernel was built or run for it. Traces and prices were recorded on kernels before, and"
        " say on which."
    )
    if policy.about != base.about and all(policy.about != known.about for known in POLICIES.values()):
        yield Words(policy.about)
    if not report.fields:
        yield Words(f"{policy.name} decides nothing otherwise than {base.name}.")
        return
    plain = [each for each in report.fields if not each.source]
    yield Words(
        f"Against {base.name} it differs in {many(len(report.fields), 'field')}:"
        f" {', '.join(f'`{each.name}` {each.mine} (was {each.base})' for each in report.fields)}."
    )
    for each in report.fields:
        if each not in plain:
            yield Code(each.source)


# --- what it changes ------------------------------------------------------------------------------------------------


def _changes(report: Findings) -> Iterator[Block]:
    found, mine, base = report.changes, report.policy, report.base
    if not found:
        yield Words(_NOT_RUN)
        return
    kinds = found.kinds()
    part = "a part of the stored recordings; without `--quick` all" if report.quick else "all that are stored"
    yield Words(
        f"{found.scenarios} named scenarios and {found.recorded:,} recorded programs ({part}) were run under both."
        f" {many(len(found.courses), 'program')} {'takes' if len(found.courses) == 1 else 'take'} another course."
    )
    if not kinds:
        return
    rows = tuple(
        (f"{kind.base} → {kind.mine}", f"{count:,}", f"{course.at + 1}", course.program.source)
        for kind, (count, course) in kinds.items()
    )
    yield Rows(
        f"The first step that differs, as under {base.name} → under {mine.name}; how many programs differ first so;"
        " and the one that does after the fewest steps:",
        ("first difference", "programs", "step", "shortest"),
        rows[:MOST_NAMED],
    )
    if len(rows) > MOST_NAMED:
        yield Words(f"{len(rows) - MOST_NAMED} further kinds of difference are rarer.")
    for number, (kind, (_, course)) in enumerate(kinds.items(), 1):
        if number > MOST_DRAWN:
            break
        yield from _drawn(mine, base, kind, course, number)


def _drawn(mine: Policy, base: Policy, kind: Kind, course: Course, number: int) -> Iterator[Block]:
    """The shortest program of a kind, less every step that the difference does not need, at the step that differs."""

    def first(scenario: Scenario) -> int | None:
        found = differs(mine, base, scenario)
        return found[0] if found and found[1] == kind else None

    small = shrink(course.shortest(), first)
    runs = [small.run(policy) for policy in (base, mine)]
    left, right = side_by_side(runs)
    yield Words(
        f"Kind {number}: {kind.base} → {kind.mine}, found in {course.program.source}; here made as small as it goes:"
    )
    yield Code(_program(small))
    yield Pair(
        *(
            Drawing(policy.name, pictures[-1].sentence, pictures[-1].svg())
            for policy, pictures in ((base, left), (mine, right))
        )
    )


def _program(scenario: Scenario) -> str:
    """A scenario without its sentence and its name, to be parsed again; beside each step what it does in words."""
    head, _, _ = scenario.but(about="", name="").text().partition("\n\n")
    lines = [line for line in head.splitlines() if not line.startswith("scenario")]
    written = [" ".join(map(in_text, step)) for step in scenario.steps]
    wide = max(map(len, written), default=0)
    made = accumulate(step[0] == "fork" for step in scenario.steps)
    for line, step, child in zip(written, scenario.steps, made, strict=True):
        first, *more = wrap(said(step, scenario.first_vpn, child), max(PROSE - wide - 4, 30))
        lines += [f"{line:{wide}}  # {first}", *(f"{'':{wide}}  #   {words}" for words in more)]
    return "\n".join(lines)


# --- what it breaks -------------------------------------------------------------------------------------------------


def _breaks(report: Findings) -> Iterator[Block]:
    found = report.breaks
    if against := ignored(report.policy):
        yield Words(
            f"{_AGAINST_KNOBS} After MADV_NOHUGEPAGE memory “will not be backed by transparent hugepages”"
            " (madvise(2)); so it is after PR_SET_THP_DISABLE, and for a size whose `hugepages-*kB/enabled` says never."
            " The rule was asked about mappings of each kind:"
        )
        yield Points(tuple(f"{each}." for each in against))
    shown: set[str] = set()
    for search in found.searches:
        answer = search.answer
        program = answer.scenario.text() if isinstance(answer, Counterexample) else ""
        yield from _search(search, report, again=program in shown)
        shown |= {program} - {""}
    searched = {name for each in found.searches for name in each.bound.operations}
    yield Words(
        f"All searches looked for: {', '.join(rule.name for rule in KERNEL_PROMISES)}"
        " (`anonfolio.INVARIANTS` says what each means). None of them searched:"
        f" {', '.join(name for name in (*OPERATIONS, *EXTRA_OPERATIONS) if name not in searched)}; other sizes,"
        " mappings, numbers of processes."
    )
    if found.random:
        yield from _random(found.random, report)
    if found.selftests:
        yield from _selftests(found.selftests, report)
    if not found.races:
        yield Words(f"{_NOT_RUN} What is not named here was not looked at.")
        return
    yield Words(
        "Races (notebook 04), the steps of a copy in the kernel's order, every interleaving with two accesses by other"
        f" CPUs: {'; '.join(_race(each.mine.race.name, each.mine.states, each.new) for each in found.races)}."
        " Again: this report; `anonfolio.microsteps` has the races."
    )


def _race(name: str, states: int, new: dict[str, str]) -> str:
    damage = ", ".join(f"{kind} by {how}" for kind, how in new.items())
    return f"{name}, {states} states: {damage or 'no damage that the base does not do'}"


def _search(found: Found, report: Findings, *, again: bool) -> Iterator[Block]:
    """What it found; a program that was shown before is not shown again."""
    command = Command(f"anonfolio search --policy {report.called} {found.bound.options()}")
    answer = found.answer
    where = f" from {found.bound.start} ({STARTS[found.bound.start].about})" if found.bound.start else ""
    if not isinstance(answer, Counterexample):
        yield Words(f"Search{where}: {answer}.")
        yield command
        return
    seen = f"(found after {answer.transitions:,} transitions, {answer.states:,} states)"
    if again:
        yield Words(f"Search{where}: a program that is shown above breaks {answer.violation.invariant} {seen}.")
        yield command
        return
    yield Words(
        f"Search{where}: {answer.breaking} {answer.violation.invariant}: {answer.violation.where}"
        f" {seen}."
        f" What is broken: {INVARIANTS[answer.violation.invariant].why}"
        f"{f' Then {answer.said}.' if answer.said else ''}"
    )
    yield command
    yield Code(_program(answer.scenario))
    run = answer.scenario.run(report.policy)
    at = answer.after + answer.steps
    picture = side_by_side([run])[0][at]
    other = side_by_side([answer.scenario.run(report.base)])[0][at]
    yield Pair(
        Drawing(report.base.name, other.sentence, other.svg()),
        Drawing(report.policy.name, picture.sentence, picture.svg()),
    )


_NOT_RUN = "Not run: it was stopped before."


def _random(found: Random, report: Findings) -> Iterator[Block]:
    yield Words(
        f"Random programs: {found.programs:,} of {len(found.kinds)} kinds, {found.steps:,} steps, seeds from"
        f" {found.seed} on; after every step all invariants, and every byte that is read held to {report.base.name}'s:"
        f" {'nothing broken' if not found.broken else many(len(found.broken), 'kind') + ' broken'}."
    )
    yield Command(report.command)
    if len(found.broken) > MOST_BROKEN:
        yield Words(f"Of these {len(found.broken)} kinds, the first {MOST_BROKEN}:")
    for broken in found.broken[:MOST_BROKEN]:
        yield Words(f"Kind {broken.kind}, seed {broken.seed}: {broken.what}. Made as small as it goes:")
        yield Code(_program(broken.smallest))


def _selftests(found: Selftests, report: Findings) -> Iterator[Block]:
    failing = found.newly_failing
    yield Words(
        f"The kernel's selftests (of Linux 7.3, as programs of the model): {found.run:,} cases ran,"
        f" {found.passed:,} passed; under {report.base.name} {found.base_run:,} ran, {found.base_passed:,} passed."
        f" {many(len(failing), 'case') if failing else 'No case'} {'fails' if len(failing) < 2 else 'fail'} that"
        f" {'passes' if len(failing) < 2 else 'pass'} there; {len(found.newly_passing)} the other way round."
    )
    yield Command(f"anonfolio selftest --policy {report.called}")
    for why, count in found.skipped:
        yield Words(f"{many(count, 'case')} that {report.base.name} runs did not: {why}.")
    if found.other_sizes:
        yield Words(
            f"{many(len(found.other_sizes), 'case')} more would have a folio of another size, and nothing else is"
            " wrong: no promise is broken, and somebody relies on the size."
        )
        yield Points(tuple(f"{each.case}: {each.mine}" for each in first_of_each(found.other_sizes)[:3]))
    if any("'unref'" in each.mine for each in failing):
        yield Words(
            "What `unref` returns is the byte that a pipe or a device holds: one that another process wrote after the"
            " fork has leaked."
        )
    if failing:
        shown = first_of_each(failing)[:MOST_NAMED]
        yield Points(tuple(f"{each.case}: {each.mine}" for each in shown))
        if len(failing) > len(shown):
            yield Words(f"And {len(failing) - len(shown)} more; cases of one name for several sizes are named once.")


# --- what it buys ---------------------------------------------------------------------------------------------------

_LINES: tuple[tuple[str, str], ...] = (
    ("faults", "faults"),
    ("pages copied", "copied"),
    ("pages zeroed", "zeroed"),
    ("entries scanned", "scanned"),
    ("entries flushed", "flushed"),
)


def _buys(report: Findings) -> Iterator[Block]:
    bought = report.prices
    if not bought:
        yield Words(_NOT_RUN)
        return
    table = read_table(bought.table)
    yield Words(
        "Counts are the model's; pages are of 4 KiB. Time is counts times prices that were measured on"
        f" {table.machine}, Linux {table.kernel}, {table.date} (`anonfolio cost show {bought.table}`): faults in"
        " anonymous memory; in the workloads with forks (snapshot, helper, workers) the forks and exits too."
        " Memory, never-written memory, pages mapped and TLB are of the moment when a trace holds most, and of the end"
        " of a workload with forks. rfc-v2-fixed is a proposal that no kernel runs."
    )
    yield Words(
        f"TLB: a {CORE.name} as modelled in `anonfolio.hardware.tlb`, with arm64's contiguous bit (no x86 has it), one"
        " for each process, empty at first. Reach is what its last level covers with entries as they are then on"
        " average. A trace holds the accesses that faulted under single pages: first touches, and first writes after a"
        " fork. It does not hold what the program did with its pages after that, so how often the program itself missed"
        " cannot be said. Counted are page-table walks of the recorded accesses alone, each made once (`walks of` so"
        " many); and walks when each page that is mapped is read once in a random order of ours (`walks, each read`,"
        f" seed {bought.seed})."
    )
    yield _summary(bought, report)
    for workload in bought.workloads:
        yield _workload(workload)
        if workload.again:
            yield Command(f"anonfolio {workload.again} --policy {report.called}")
    yield Words("The workloads with forks are run anew by this report alone:")
    yield Command(report.command)
    if bought.left_out:
        yield Words(f"Not replayed here, for their size: {', '.join(bought.left_out)}; without `--quick` they are.")


def _summary(bought: Prices, report: Findings) -> Rows:
    """The policy against its base, in per cent."""
    mine, base = report.policy.name, report.base.name
    rows = []
    for workload in bought.workloads:
        here, there = workload.bills[mine], workload.bills[base]
        pairs = [(getattr(here, name), getattr(there, name)) for name in _COMPARED.values()]
        rows.append((f"{workload.name} ({workload.sizes})", *(_change(*pair) for pair in pairs)))
    return Rows(
        f"{mine} against {base}, more or less in per cent: faults, pages copied, modelled time, memory held, TLB reach"
        " (after each workload the sizes that are enabled):",
        ("", *_COMPARED), tuple(rows),
    )  # fmt: skip


_COMPARED = {
    "faults": "faults", "copied": "copied", "time": "time_ms", "memory": "held_pages", "reach": "reach_pages",
}  # fmt: skip


def _change(mine: float, base: float) -> str:
    if mine == base:
        return "same"
    return f"{100 * (mine / base - 1):+,.1f} %" if base else f"{mine:,.0f}, was 0"


def _workload(workload: Workload) -> Rows:
    bills = workload.bills
    rows = [(name, *(f"{getattr(bill, field):,}" for bill in bills.values())) for name, field in _LINES]
    rows.append(("modelled time, ms", *(f"{bill.time_ms:,.2f}" for bill in bills.values())))
    rows.append(("memory held, MiB", *(_mib(bill.held_pages) for bill in bills.values())))
    rows.append(("never written, MiB", *(_mib(bill.never_written_pages) for bill in bills.values())))
    rows.append(("TLB reach, MiB", *(_mib(bill.reach_pages) for bill in bills.values())))
    rows.append(("pages mapped", *(f"{bill.mapped_pages:,}" for bill in bills.values())))
    rows.append(("walks, each read", *(f"{bill.walks:,}" for bill in bills.values())))
    if recorded := next(iter(bills.values())).recorded:
        rows.append((f"walks of {recorded:,}", *(f"{bill.recorded_walks:,}" for bill in bills.values())))
    return Rows(f"{workload.name} ({workload.sizes}): {workload.about}.", ("", *bills), tuple(rows))


def _mib(pages: int) -> str:
    return f"{pages / MIB:,.2f}"


# --- what it assumes ------------------------------------------------------------------------------------------------


def _assumes(report: Findings) -> Iterator[Block]:
    if _sees_one_page(report.policy):
        yield Words(
            "Its `large_reuse` looks at `folio.run`, which here is 1 each time: it is what `reuse_extent` reaches, one"
            ' page. `reuse_extent="range"` gives the pages in a row.'
        )
    yield Points((
        "A rule decides by the facts that it is handed and asks for (`anonfolio.kernel.rules`); that it does was"
        " checked on a grid of facts when the policy was made. Where a kernel would get a fact from, under which lock,"
        " and what it costs to get it, is left to whoever writes the C.",
        "All else is as in the base: every fault path, fork, exit, pins, and the buddy allocator with memory at hand.",
        "Not modelled: reclaim, swap, khugepaged, KSM, memory of files and shared memory, NUMA, several CPUs outside"
        " the races, device mappings. A trace holds faults under single pages, not what a program does between them.",
        "A search speaks of its mapping, its sizes and so many processes; what no program within its bound shows, a"
        " longer one may. Selftests and random programs show faults, never that there is none.",
        "Time leaves out waiting for locks, other CPUs' TLBs and the program's own work; a walk of the reverse map"
        " (`folio.mine`) has no price.",
    ))  # fmt: skip


def _sees_one_page(policy: Policy) -> bool:
    """Whether its reuse rule looks at the pages in a row where no reuse reaches further than the page."""

    def looks(folio: Folio) -> bool:
        answers(policy.rules.large_reuse, folio)
        return folio.looked

    return policy.rules.reuse_extent is one_page and any(map(looks, folios()))
