"""What each command does: it prints, and returns the exit code. Options and codes: `anonfolio.__main__`."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain, islice
from itertools import count as count_from
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .draw.drawing import printable
from .draw.picture import texts
from .hardware.cost import read_table, tables, write_table
from .hardware.trace import (
    DATA_DIR,
    HEADING,
    Setting,
    Trace,
    compared,
    read_measured,
    read_trace,
    settings_named,
    size_names,
    write_measured,
    write_trace,
)
from .hardware.trace import replay as replay_trace
from .kernel.policy import POLICIES, Policy, policy_for_kernel
from .program.formats import check_new_folder, check_place
from .program.policy_file import policy_called
from .program.pools import LOST
from .program.random_programs import random_scenario
from .program.scenario import Scenario, scenario_names
from .program.search import CTRL_C, DEFAULT, Exhausted, Tried, counterexample, rests_on
from .program.starts import start_named
from .report.laboratory import lab as laboratory
from .report.laboratory import renderer
from .witness.comparing import Recorded
from .witness.entries import CONVERTS
from .witness.entries import FIELDS as RAW_FIELDS
from .witness.here import NotLive, need_linux
from .witness.hidden.state import FIELDS
from .witness.recording import read_recording, write_recording
from .witness.recording import replay as replay_recording
from .witness.suites import Problems, Suite, disagreements, judged, row, suites_named, table

if TYPE_CHECKING:
    from .program.witnesses import Difference
    from .witness.live.compare import Tally
    from .witness.live.kernel import LiveKernel


def say(told: object, *, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print it. What files and programs are called is foreign: a terminal obeys nothing of that."""
    print(printable(str(told)), end=end, file=file, flush=flush)


# --- which kernel ---------------------------------------------------------------------------------------------------

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def policy_of(chosen: Namespace, kernel: str, arch: str = "x86-64") -> Policy:
    """The policy that --policy and --set name; without --policy the one that models `kernel` on that architecture."""
    policy = policy_for_kernel(kernel, arch) if chosen.policy is None else policy_called(chosen.policy)
    if not chosen.set:
        return policy
    changes = [_setting(text, policy) for text in chosen.set]
    twice = [field for field, times in Counter(field for field, _ in changes).items() if times > 1]
    if twice:
        raise ValueError(f"--set names {twice[0]} more than once; give it one value")
    return policy.but(name=" ".join([policy.name, *chosen.set]), **dict(changes))


def _setting(text: str, policy: Policy) -> tuple[str, Any]:
    """What FIELD=VALUE changes, the value read as what the field holds."""
    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not FIELD=VALUE, such as copy_requires_ro=true")
    if field in ("name", "about"):
        raise ValueError(f"--set changes what a kernel does, and {field} is only what it is called")
    held = getattr(policy, field) if field in {known.name for known in fields(policy)} else None
    if isinstance(held, bool):
        if value.lower() not in _WORDS:
            raise ValueError(f"{field}={value!r} is neither true nor false")
        return field, _WORDS[value.lower()]
    if isinstance(held, int):
        return field, _number(field, value)
    if isinstance(held, tuple):
        return field, tuple(_number(field, each) for each in value.split(",") if each)
    return field, value


def _number(field: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError(f"{field}={text!r} is no number")
    return int(text)


# --- the model ------------------------------------------------------------------------------------------------------


def run(chosen: Namespace) -> int:
    """Step through a scenario, and compare it with another witness."""
    if chosen.scenario == "list":
        say("\n".join(scenario_names()))
        return 0
    policy = policy_of(chosen, "")
    scenario = Scenario.load(chosen.scenario)
    against = chosen.against
    other = None
    if against is not None:
        policies = against in POLICIES or against.endswith(".py")
        other = scenario.run(policy_called(against)) if policies else scenario.recorded(against)
    timeline = scenario.run(policy)
    if not scenario.steps:
        say(f"{policy.name}: {scenario.name or 'the scenario'} has no steps, so there is nothing to show")
    for text in texts(timeline):
        say(text, end="\n\n")
    if other is None:
        return 0
    differences = timeline.compare(other)
    say(f"{policy.name} against {against}: {len(differences)} of {len(timeline)} steps differ")
    for difference in differences:
        say(difference)
    return 1 if differences else 0


def replay(chosen: Namespace) -> int:
    """Hold the model against a recording."""
    recording = read_recording(chosen.file)
    named = chosen.policy is not None or chosen.set
    found = replay_recording(recording, policy_of(chosen, recording.kernel, recording.arch) if named else None)
    say(found)
    if chosen.fields:
        differences = [difference for _, _, difference in found.mismatches]
        _print_fields(found.cells, differences, "the recording does not have it")
    return 1 if found.mismatches else 0


def _print_fields(cells: Mapping[str, int], differences: Sequence[Difference], why_not: str) -> None:
    """What was compared of the kernel's own state, and where it differs."""
    if not cells:
        say(f"the kernel's own state was not compared: {why_not}")
        return
    say(f"  {'own state of the kernel':28}{'cells':>12}  differences")
    # What only arm64's recordings have is not missed elsewhere.
    for field in (*FIELDS, *(name for name in (*RAW_FIELDS, CONVERTS) if name in cells)):
        found = sum(difference.what.startswith(f"{field} of ") for difference in differences)
        say(f"  {field:28}{cells.get(field, 0):>12,}  {found if field in cells else 'not on this kernel'}")


def search(chosen: Namespace) -> int:
    """Look for the shortest program that breaks a promise."""
    policy = policy_of(chosen, "")
    start = start_named(chosen.start) if chosen.start is not None else None
    if start and (chosen.pages is not None or chosen.orders is not None):
        raise ValueError("--from brings its mapping and sizes; leave out --pages and --orders")
    tried = (Tried(tuple(chosen.operations)),) if chosen.operations is not None else DEFAULT
    nothing: list[Exhausted] = []
    for number, (operations, fewer) in enumerate(tried, 1):
        found = counterexample(
            policy,
            start=start,
            pages=4 if chosen.pages is None else chosen.pages,
            steps=chosen.steps and max(1, chosen.steps - fewer),
            orders=(2,) if chosen.orders is None else tuple(chosen.orders),
            processes=chosen.processes,
            every=chosen.every,
            operations=operations,
            memory_mib=chosen.memory,
            jobs=chosen.jobs,
            checkpoint=chosen.checkpoint and chosen.checkpoint + (f".{number}" if number > 1 else ""),
            progress=_tell_search,
        )
        say(found)
        if not isinstance(found, Exhausted):
            return 1
        nothing.append(found)
        if found.interrupted:
            break
    say(rests_on(nothing))
    if nothing[-1].why == CTRL_C:
        raise KeyboardInterrupt
    if nothing[-1].interrupted:
        more = "--jobs 1 takes less of it" if nothing[-1].why == LOST else "--memory gives it more"
        raise ValueError(f"the search stopped early ({nothing[-1].why}); {more}")
    return 0


def _tell_search(depth: int, states: int, transitions: int) -> None:
    say(f"  {depth} steps: {states:,} states, {transitions:,} transitions", file=sys.stderr)


def lab(chosen: Namespace) -> int:
    """Ask everything of a policy, and write the report."""
    if chosen.output:
        # After minutes it should not turn out that nothing can be written.
        renderer(chosen.output)
    with progress_line() as tell:
        report = laboratory(
            chosen.policy,
            chosen.against,
            quick=chosen.quick,
            steps=chosen.steps,
            seed=chosen.seed,
            jobs=chosen.jobs,
            progress=tell,
        )
    if chosen.output:
        report.save(chosen.output)
        say(f"{report.page.title}: {report.page.verdict}")
    else:
        say(report.text(), end="")
    if report.stopped:
        raise KeyboardInterrupt
    return 1 if report else 0


SELFTESTED = "7.3"
"""Whose selftests they are, and the release that must pass them when no policy is named."""


# --- the kernel of this machine -------------------------------------------------------------------------------------


def _live_kernel() -> LiveKernel:
    need_linux()
    from .witness.live.kernel import LiveKernel

    return LiveKernel()


def _random_scenarios(chosen: Namespace, kernel: LiveKernel) -> Iterator[Scenario]:
    return (random_scenario(seed, chosen.kind, kernel.sizes) for seed in count_from(chosen.seed))


def record(chosen: Namespace) -> int:
    """Run programs and write what the kernel did; without one that runs, no file."""
    if bool(chosen.scenarios) == (chosen.random is not None):
        raise ValueError("record takes either scenarios or --random N")
    named = [scenario for name in chosen.scenarios for scenario in _named_scenarios(name)]
    with _live_kernel() as kernel:
        if not kernel.traces:
            raise ValueError(
                "a recording says where page faults happened, and here they can only be counted; see doctor"
            )
        if kernel.hidden is None:
            say(f"recorded without the kernel's own state: {kernel.not_hidden}", file=sys.stderr)
        notes: dict[str, Any] = {"build": os.uname().version}
        if kernel.arch != "x86-64":
            notes |= {"machine": kernel.arch, "page": os.sysconf("SC_PAGE_SIZE")}
        if not named:
            notes |= {"seed": chosen.seed, "kind": chosen.kind}
        runs = _recorded(named or islice(_random_scenarios(chosen, kernel), chosen.random), kernel)
        if not chosen.counters:
            runs = (recorded.without_counts() for recorded in runs)
        first = next(runs, None)
        if first is None:
            raise ValueError(f"{chosen.file} is not written: no program could be run")
        programs, steps = write_recording(chosen.file, kernel.version, chain([first], runs), **notes)
    say(f"{programs} programs, {steps} steps, kernel {kernel.version}")
    return 0


def _named_scenarios(name: str) -> list[Scenario]:
    if name.endswith((".json", ".json.gz")):
        return [program.scenario for program in read_recording(name).programs]
    return [Scenario.load(name)]


def _recorded(scenarios: Iterable[Scenario], kernel: LiveKernel) -> Iterator[Recorded]:
    from .witness.live.run import live_run

    for scenario in scenarios:
        try:
            yield live_run(scenario, kernel)
        except NotLive as reason:
            say(f"{scenario.name or 'a program'} is left out: {reason}", file=sys.stderr)


def compare(chosen: Namespace) -> int:
    """Hold the model against this kernel until a difference repeats."""
    if chosen.keep:
        check_new_folder(chosen.keep)
    need_linux()
    from .witness.live.compare import Tally, live_differences
    from .witness.live.kernel import kernel_version

    version, tally = kernel_version(), Tally()
    policy = policy_of(chosen, version, platform.machine())
    programs = 100 if chosen.programs is None and chosen.seconds is None else chosen.programs

    def scenarios(kernel: LiveKernel) -> Iterator[Scenario]:
        about = f"{chosen.kind} programs from seed {chosen.seed} on"
        faults = "" if kernel.traces else "; faults are counted, not placed"
        say(f"kernel {version} against {policy.name}, {about}{faults}", flush=True)
        return _random_scenarios(chosen, kernel)

    differences = live_differences(
        scenarios, policy, tally, programs=programs, seconds=chosen.seconds, progress=_tell_tally
    )
    for scenario, difference in differences:
        say(f"{tally}, a difference in {scenario.name}: {difference}", flush=True)
        if _show_smallest(scenario, policy, chosen):
            _print_fields(tally.cells, [difference], "see doctor")
            return 1
        tally.disturbed += 1
    if not tally.programs:
        raise ValueError(f"{tally}: none was compared")
    say(f"{tally}, 0 differences")
    _print_fields(tally.cells, [], "see doctor")
    return 0


def _tell_tally(tally: Tally) -> None:
    if tally.programs % 1000 == 0:
        say(f"  {tally}", file=sys.stderr, flush=True)


def _show_smallest(scenario: Scenario, policy: Policy, chosen: Namespace) -> bool:
    """Print, and keep, what is left of a program that differs; false where it does no more."""
    from .witness.live.compare import smallest_difference
    from .witness.live.run import live_run

    with _live_kernel() as kernel:
        found = smallest_difference(scenario, kernel, policy)
        if not found:
            say("  which does not show again: something disturbed it; going on")
            return False
        smallest, difference = found
        small = "the whole program, for its parts were disturbed" if smallest is scenario else _SMALL
        say(f"{small}:\n\n{smallest.text()}")
        say(f"{policy.name} against kernel {kernel.version}, {difference}")
        recorded = live_run(smallest, kernel)
    say(smallest.run(policy).show())
    if chosen.keep:
        path = Path(chosen.keep) / f"{smallest.name}-{recorded.kernel}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_recording(path, recorded.kernel, [recorded])
        named = [] if chosen.policy is None else ["--policy", chosen.policy]
        again = [str(path), *named, *(["--set", *chosen.set] if chosen.set else [])]
        say(f"kept as {path}: anonfolio replay {' '.join(again)}")
    return True


_SMALL = "no step of this can be left out"


def selftest(chosen: Namespace) -> int:
    """The kernel's selftests, on the model or on this machine's kernel: which fail, and a table."""
    wanted = suites_named(chosen.names)
    if not chosen.live:
        return _judge(wanted, policy_of(chosen, SELFTESTED))
    named = chosen.policy is not None or chosen.set
    with _live_kernel() as kernel:
        from .witness.live.selftests import problems_live

        policy = policy_of(chosen, kernel.version)
        return _judge(wanted, policy, lambda case: problems_live(case, kernel), held_against=policy if named else None)


def _judge(wanted: list[Suite], policy: Policy, ask: Problems | None = None, held_against: Policy | None = None) -> int:
    """Print what fails and the table; with `held_against` also what a kernel does that this policy does not say."""
    rows, unlike = [], list[str]()
    for suite in wanted:
        verdicts = list(judged(suite.cases, policy, ask))
        for verdict in verdicts:
            for problem in verdict.problems:
                say(f"{suite.name}, {verdict.case.name}: {problem}")
        rows.append(row(suite, verdicts))
        if held_against:
            unlike += disagreements(verdicts, held_against)
    if held_against:
        say("".join(f"{each}\n" for each in unlike), end="")
        say(f"{len(unlike)} cases end otherwise than under {held_against.name}")
    say(table(rows))
    return 0 if not unlike and all(each.passed == each.run for each in rows) else 1


def doctor(chosen: Namespace) -> int:
    """What this machine can show."""
    need_linux()
    from .witness.live.kernel import abilities, only_run, restore_leftovers

    if chosen.restore and os.geteuid() != 0:
        raise ValueError("doctor --restore needs root: run it with sudo")
    if chosen.restore:
        with only_run() as journal:
            restore_leftovers(journal)
    found = list(abilities())
    say("\n".join(map(str, found)))
    able = all(ability.ok for ability in found if ability.needed)
    say("this machine can run scenarios live" if able else "no live runs here; recordings show them instead")
    return 0 if able else 1


# --- a running process ----------------------------------------------------------------------------------------------


def look(chosen: Namespace) -> int:
    """The folios behind running processes, once or again and again."""
    need_linux()
    from .draw.looked import look_picture, look_text
    from .witness.looking import Looker, as_json

    if chosen.svg and len(chosen.pids) > 1:
        raise ValueError(f"--svg holds the picture of one process, not of {len(chosen.pids)}")
    with Looker() as looker:
        while True:
            for pid in chosen.pids:
                seen = looker.look(pid)
                say(json.dumps(as_json(seen)) if chosen.json else look_text(seen), flush=True)
            if chosen.svg:
                Path(chosen.svg).write_text(look_picture(seen).svg(), encoding="utf-8")
            if chosen.watch is None:
                return 0
            time.sleep(chosen.watch)


# --- a real compile -------------------------------------------------------------------------------------------------


def trace_record(chosen: Namespace) -> int:
    """Record a program under the tracepoints."""
    if chosen.program and chosen.program[0].startswith("-"):
        raise ValueError(f"{chosen.program[0]} stands behind {chosen.file}, where the program does: options come first")
    need_linux()
    from .witness.live.kernel import check_machine
    from .witness.live.trace import COMPILE, Launch, most_bytes, record, write_program

    check_machine()
    launch = Launch(most_bytes=most_bytes(chosen.most))
    with tempfile.TemporaryDirectory() as name, progress_line() as tell:
        command, folder = chosen.program, Path.cwd()
        if command:
            about = {"command": " ".join(command)}
        else:
            command, folder = list(COMPILE), Path(name)
            about = write_program(folder)
        trace = record(command, folder, about, tell, launch)
    write_trace(chosen.file, trace)
    processes = "1 process" if len(trace.processes) == 1 else f"{len(trace.processes)} processes"
    say(f"{processes}, {trace.kernel_faults} faults, {len(trace)} of them in anonymous memory")
    say(f"the program ended with {trace.ending}")
    _print_left_out(trace)
    return 0


def trace_replay(chosen: Namespace) -> int:
    """Predict a trace's faults under other sizes."""
    path = Path(chosen.file) if chosen.file is not None else next(iter(sorted(DATA_DIR.glob("*.npz"))), DATA_DIR)
    trace = read_trace(path)
    policy = policy_of(chosen, trace.kernel)
    _print_left_out(trace)
    known = path.with_suffix(".json")
    measured = read_measured(known) if known.exists() else []
    wanted = settings_named(chosen.sizes or [])
    chosen_settings = [setting for setting in measured if not wanted or setting.orders in wanted]
    for orders in wanted or ([] if measured else [(), (4,)]):
        _print_replay(trace, orders, policy)
    return _print_comparison(trace, chosen_settings, policy, chosen.detail) if chosen_settings else 0


def trace_measure(chosen: Namespace) -> int:
    """Record the compile, and measure this kernel beside it."""
    need_linux()
    from .witness.live.trace import COMPILE, SETTINGS, check_traced, measure, record, write_program

    if chosen.save:
        check_place(f"{chosen.save}.npz", replaced=True)
        check_place(f"{chosen.save}.json")
    settings = settings_named(chosen.sizes) if chosen.sizes else SETTINGS
    check_traced(settings)
    with tempfile.TemporaryDirectory() as name, progress_line() as tell:
        about = write_program(Path(name))
        trace = record(COMPILE, Path(name), about, tell)
        measured = measure(COMPILE, Path(name), settings, chosen.rounds, tell)
    if chosen.save:
        write_trace(f"{chosen.save}.npz", trace)
        write_measured(f"{chosen.save}.json", measured, kernel=trace.kernel, rounds=chosen.rounds, **about)
    _print_left_out(trace)
    return _print_comparison(trace, measured, policy_for_kernel(trace.kernel))


def _print_comparison(trace: Trace, measured: list[Setting], policy: Policy, detail: bool = False) -> int:
    say(f"kernel {trace.kernel} against {policy.name}: {trace.about.get('command', '')}\n{HEADING}")
    found = []
    with progress_line() as tell:
        for comparison in compared(trace, measured, policy, _percent(tell)):
            tell("")
            say(comparison)
            if detail:
                # What draws is slow to import, and only this asks for it.
                from .draw.compared import compared_text

                say(compared_text(trace, comparison))
            found.append(comparison)
    off = [comparison.measured.name for comparison in found if abs(comparison.difference) > 0.01]
    says = f"; not {', '.join(off)}" if off else ""
    say(f"{len(found) - len(off)} of {len(found)} within 1 %{says}")
    return 1 if off else 0


def _print_replay(trace: Trace, orders: tuple[int, ...], policy: Policy) -> None:
    with progress_line() as tell:
        found = replay_trace(trace, orders, policy, progress=_percent(tell))
    paths = ", ".join(f"{count:,} {path}" for path, count in found.faults.items())
    say(f"{size_names(orders)}: {found.total:,} faults ({paths}, {found.elsewhere:,} elsewhere)")
    say(f"  at the peak {found.held_peak_pages:,} pages held, {found.never_written_pages:,} of them never written")


def _print_left_out(trace: Trace) -> None:
    for what, times in trace.left_out.items():
        say(f"left out: {times} times {what}", file=sys.stderr)


def _percent(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, total: tell(f"{100 * done // max(total, 1)} %")


@contextmanager
def progress_line(always: bool = False) -> Iterator[Callable[[str], None]]:
    """One line on a terminal that says what goes on; elsewhere nothing, or with `always` a line each time."""
    terminal = sys.stderr.isatty()
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if text == last:
            return
        last = text
        if terminal:
            print(f"\r\x1b[K{printable(text)}", end="", file=sys.stderr, flush=True)
        elif always and text:
            say(f"  {text}", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        tell("")


# --- what faults cost -----------------------------------------------------------------------------------------------


def cost_show(chosen: Namespace) -> int:
    """A stored table, or what tables there are."""
    say(read_table(chosen.table) if chosen.table is not None else "\n".join(tables()))
    return 0


def cost_measure(chosen: Namespace) -> int:
    """Measure this machine's kernel."""
    need_linux()
    from .witness.live.cost import measure

    if chosen.file and not chosen.file.endswith(".json"):
        raise ValueError(f"{chosen.file}: a table is a file NAME.json")
    table = measure(pages=chosen.pages, rounds=chosen.rounds, progress=_tell_run)
    say(table)
    if chosen.file:
        write_table(chosen.file, table)
    return 0


def _tell_run(done: int, runs: int, what: str) -> None:
    say(f"  {done} of {runs} runs; {what}", file=sys.stderr)


# --- teaching -------------------------------------------------------------------------------------------------------


def homework(chosen: Namespace) -> int:
    """Draw questions: one paper, or one a student."""
    from .teach import papers

    suffix, write = papers.FORMATS[chosen.format]
    if chosen.output:
        (check_place if chosen.students is None else check_new_folder)(chosen.output)
    if (chosen.students is None) != (chosen.secret is None):
        raise ValueError("--students FILE and --secret FILE go together: each student's questions hang on the secret")
    if chosen.students is None:
        made = papers.paper(chosen.topic, chosen.seed, chosen.questions)
        return _told_or_kept(papers.prove(made) if chosen.prove else write(made, chosen.answers), chosen.output)
    if chosen.output is None:
        raise ValueError("--students needs -o FOLDER, where each student's paper goes")
    names, secret = papers.read_students(chosen.students), papers.read_secret(chosen.secret)
    own = (papers.paper(chosen.topic, chosen.seed, chosen.questions, name, secret) for name in names)
    if chosen.prove:
        return _told_or_kept("\n".join(f"{made.student}\n\n{papers.prove(made)}" for made in own), chosen.output)
    number = papers.write_papers(own, chosen.format, chosen.output, chosen.answers)
    say(f"{number} papers in {chosen.output}, NAME{suffix}")
    return 0


def _told_or_kept(text: str, file: str | None) -> int:
    if file is None:
        say(text, end="")
    else:
        Path(file).write_text(text, encoding="utf-8", newline="\n")
    return 0


def grade(chosen: Namespace) -> int:
    """Judge what students handed in."""
    if os.name != "posix":
        raise ValueError("grade runs functions of others under limits that only Linux, macOS and their kin have")
    from .teach import papers
    from .teach.grade import Grader, graded, table

    grader = Grader(papers.read_secret(chosen.secret), chosen.seconds, tuple(chosen.only))
    try:
        with progress_line() as tell:
            rows = graded(chosen.folder, grader, tell)
    finally:
        grader.close()
    code = _told_or_kept(table(rows), chosen.output)
    if chosen.output is not None:
        say(f"{len(rows)} students in {chosen.output}")
    return code


def figure(chosen: Namespace) -> int:
    """A step of a scenario as a picture."""
    from .teach.kit import figure as drawn

    if chosen.output is not None and not chosen.output.endswith(".svg"):
        raise ValueError(f"{chosen.output}: a figure is a file NAME.svg")
    if chosen.output is None and sys.stdout.isatty():
        raise ValueError("a figure is SVG, which a terminal does not show: -o NAME.svg writes it, a pipe passes it on")
    return _told_or_kept(drawn(chosen.scenario, chosen.step, policy_of(chosen, "")), chosen.output)
