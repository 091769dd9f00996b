"""The command line: step through scenarios, replay recordings, make them, compare with the kernel, search."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hardware.cost import read_table, tables, write_table
from .kernel.policy import POLICIES, Policy, policy_for_kernel, policy_named
from .program.random_programs import ANY, KINDS, random_scenario
from .program.scenario import Scenario, scenario_names
from .program.search import EXTRA_OPERATIONS, OPERATIONS, counterexample
from .witness.comparing import Recorded
from .witness.recording import read_recording, replay, write_recording

if TYPE_CHECKING:
    from .hardware.trace import Setting, Trace
    from .witness.live.compare import Tally
    from .witness.live.kernel import LiveKernel


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a difference or a bug found, 2 bad input."""
    parser = argparse.ArgumentParser(prog="anonfolio", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_replay(commands.add_parser("replay", help="run a recording against the model and compare every step"))
    _add_search(commands.add_parser("search", help="look for the shortest program that breaks a promise of the kernel"))
    _add_run(commands.add_parser("run", help="step through a scenario under a policy"))
    _add_record(commands.add_parser("record", help="run programs on this machine's kernel and write a recording"))
    _add_compare(commands.add_parser("compare", help="hold the model against this machine's kernel: random programs"))
    _add_trace(commands.add_parser("trace", help="a real compile: record it, replay it, measure the kernel beside it"))
    _add_cost(commands.add_parser("cost", help="what faults cost: a stored table, or this machine measured"))
    _add_doctor(commands.add_parser("doctor", help="what this machine can show, and what to do about a no"))
    chosen = parser.parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except ValueError as error:
        print(f"anonfolio: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("anonfolio: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough (| head); the interpreter must not flush into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a recording (anonfolio-recording/1)")
    parser.add_argument("--policy", help=f"one of {', '.join(POLICIES)}; by default the recording's kernel decides")
    parser.set_defaults(run=_replay)


def _replay(chosen: argparse.Namespace) -> int:
    policy = policy_named(chosen.policy) if chosen.policy else None
    found = replay(read_recording(chosen.file), policy)
    print(found)
    return 1 if found.mismatches else 0


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="rfc-v2", help=f"one of {', '.join(POLICIES)} (default rfc-v2)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="change fields of it, such as copy_requires_ro=true"
    )
    parser.add_argument("--pages", type=int, default=4, help="size of the mapping (default 4)")
    parser.add_argument("--steps", type=int, default=6, help="longest program (default 6)")
    parser.add_argument("--orders", type=int, nargs="*", default=[2], help="enabled sizes (default 2)")
    parser.add_argument("--processes", type=int, default=2, help="how many alive at once (default 2)")
    parser.add_argument(
        "--operations",
        nargs="*",
        default=list(OPERATIONS),
        help=f"from {', '.join(OPERATIONS + EXTRA_OPERATIONS)}; forkfail_after is fault injection",
    )
    parser.set_defaults(run=_search)


def _search(chosen: argparse.Namespace) -> int:
    policy = policy_named(chosen.policy)
    found = counterexample(
        policy.but(name=" ".join([policy.name, *chosen.set]), **dict(map(_setting, chosen.set))),
        pages=chosen.pages,
        steps=chosen.steps,
        orders=tuple(chosen.orders),
        processes=chosen.processes,
        operations=tuple(chosen.operations),
        progress=_tell,
    )
    print(found)
    return 1 if found else 0


def _setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not FIELD=VALUE, such as copy_requires_ro=true")
    if value in ("true", "false"):
        return field, value == "true"
    return field, int(value) if value.isdecimal() else value


def _tell(depth: int, states: int, transitions: int) -> None:
    print(f"  {depth} steps: {states:,} states, {transitions:,} transitions", file=sys.stderr)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", help="a name (see: run list), or a scenario file")
    parser.add_argument("--policy", default="linux-6.15", help=f"one of {', '.join(POLICIES)} (default linux-6.15)")
    parser.add_argument("--against", help="another policy, or a recorded kernel such as 6.18, to compare with")
    parser.set_defaults(run=_run)


def _run(chosen: argparse.Namespace) -> int:
    if chosen.scenario == "list":
        print("\n".join(scenario_names()))
        return 0
    scenario = Scenario.load(chosen.scenario)
    timeline = scenario.run(chosen.policy)
    for number in range(len(timeline)):
        print(timeline.show(number), end="\n\n")
    if not chosen.against:
        return 0
    other = scenario.run(chosen.against) if chosen.against in POLICIES else scenario.recorded(chosen.against)
    differences = timeline.compare(other)
    print(f"{chosen.policy} against {chosen.against}: {len(differences)} of {len(timeline)} steps differ")
    for difference in differences:
        print(difference)
    return 1 if differences else 0


# --- the kernel of this machine -------------------------------------------------------------------------------------


def _live_kernel() -> LiveKernel:
    _need_linux()
    from .witness.live.kernel import LiveKernel

    return LiveKernel()


def _need_linux() -> None:
    if sys.platform != "linux":
        raise ValueError("a live run needs Linux on x86-64; recordings show it anywhere (python -m anonfolio replay)")


def _add_programs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help='of the first program; the next has the next; or "fresh"'
    )
    parser.add_argument(
        "--kind", choices=(*KINDS, ANY), default="mixed", help="what the programs are about (default mixed)"
    )


def _seed(text: str) -> int:
    """A seed, or one that nobody has chosen; it is printed."""
    return random.SystemRandom().randrange(10**6) * 1000 if text == "fresh" else int(text)


def _random_scenarios(chosen: argparse.Namespace, kernel: LiveKernel) -> Iterator[Scenario]:
    return (random_scenario(seed, chosen.kind, kernel.sizes) for seed in count_from(chosen.seed))


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the recording to write (NAME.json.gz)")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help="a name, a scenario file, a recording to redo")
    parser.add_argument("--random", type=int, metavar="N", help="N random programs instead")
    parser.add_argument(
        "--counters", action="store_true", help="keep mapcounts and counters too; what else runs disturbs the latter"
    )
    _add_programs(parser)
    parser.set_defaults(run=_record)


def _record(chosen: argparse.Namespace) -> int:
    if bool(chosen.scenarios) == (chosen.random is not None):
        raise ValueError("record takes either scenarios or --random N")
    named = [scenario for name in chosen.scenarios for scenario in _named_scenarios(name)]
    with _live_kernel() as kernel:
        if not kernel.traces:
            raise ValueError(
                "a recording says where page faults happened, and here they can only be counted; see doctor"
            )
        notes = {"build": os.uname().version}
        if not named:
            notes |= {"seed": chosen.seed, "kind": chosen.kind}
        scenarios = named or islice(_random_scenarios(chosen, kernel), chosen.random)
        runs = _recorded(scenarios, kernel)
        if not chosen.counters:
            runs = (recorded.without_counts() for recorded in runs)
        programs, steps = write_recording(chosen.file, kernel.version, runs, **notes)
    print(f"{programs} programs, {steps} steps, kernel {kernel.version}")
    return 0 if programs else 2


def _named_scenarios(name: str) -> list[Scenario]:
    if name.endswith((".json", ".json.gz")):
        return [program.scenario for program in read_recording(name).programs]
    return [Scenario.load(name)]


def _recorded(scenarios: Iterable[Scenario], kernel: LiveKernel) -> Iterator[Recorded]:
    from .witness.live.kernel import NotLive
    from .witness.live.run import live_run

    for scenario in scenarios:
        try:
            yield live_run(scenario, kernel)
        except NotLive as reason:
            print(f"{scenario.name or 'a program'} is left out: {reason}", file=sys.stderr)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--programs", type=int, metavar="N", help="how many at most (default 100)")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long at most (default: until N programs ran)")
    _add_programs(parser)
    parser.add_argument("--policy", help=f"one of {', '.join(POLICIES)}; by default the one that models this kernel")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="where to keep a program that shows a difference, as a recording"
    )
    parser.set_defaults(run=_compare)


def _compare(chosen: argparse.Namespace) -> int:
    _need_linux()
    from .witness.live.compare import Tally, first_live_difference
    from .witness.live.kernel import kernel_version

    version, tally = kernel_version(), Tally()
    policy = policy_named(chosen.policy) if chosen.policy else policy_for_kernel(version)
    programs = 100 if chosen.programs is None and chosen.seconds is None else chosen.programs

    def scenarios(kernel: LiveKernel) -> Iterator[Scenario]:
        about = f"{chosen.kind} programs from seed {chosen.seed} on"
        faults = "" if kernel.traces else "; faults are counted, not placed"
        print(f"kernel {version} against {policy.name}, {about}{faults}", flush=True)
        return _random_scenarios(chosen, kernel)

    found = first_live_difference(
        scenarios, policy, tally, programs=programs, seconds=chosen.seconds, progress=_tell_tally
    )
    if not found:
        print(f"{tally}, 0 differences")
        return 0
    scenario, difference = found
    print(f"{tally}, a difference in {scenario.name}: {difference}", flush=True)
    _show_smallest(scenario, policy, chosen.keep)
    return 1


def _tell_tally(tally: Tally) -> None:
    if tally.programs % 1000 == 0:
        print(f"  {tally}", file=sys.stderr, flush=True)


def _show_smallest(scenario: Scenario, policy: Policy, keep: str | None) -> None:
    from .witness.live.compare import Tally, repeated_difference, smallest_program
    from .witness.live.run import live_run

    with _live_kernel() as kernel:
        smallest = smallest_program(scenario, kernel, policy)
        print(f"no step of this can be left out:\n\n{smallest.text()}")
        print(
            f"{policy.name} against kernel {kernel.version}, {repeated_difference(smallest, kernel, policy, Tally())}"
        )
        recorded = live_run(smallest, kernel)
    print(smallest.run(policy).show())
    if keep:
        path = Path(keep) / f"{smallest.name}-{recorded.kernel}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_recording(path, recorded.kernel, [recorded])
        print(f"kept as {path}: python -m anonfolio replay {path} --policy {policy.name}")


# --- a real compile -------------------------------------------------------------------------------------------------


def _add_trace(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="trace_command", required=True)
    record = commands.add_parser("record", help="run a program under the tracepoints (root), and write its trace")
    record.add_argument("file", help="the trace to write (NAME.npz)")
    record.add_argument("program", nargs=argparse.REMAINDER, help="command and arguments; by default the compile")
    record.set_defaults(run=_trace_record)
    replay = commands.add_parser("replay", help="predict the faults under other sizes, and compare with the measured")
    replay.add_argument("file", nargs="?", help="a trace (anonfolio-trace/1); by default the compile in data/traces")
    replay.add_argument("--sizes", nargs="+", metavar="SIZES", help="such as 64K 16K+1M all; by default the measured")
    replay.add_argument("--policy", help=f"one of {', '.join(POLICIES)}; by default the trace's kernel decides")
    replay.set_defaults(run=_trace_replay)
    measure = commands.add_parser("measure", help="record the compile and measure this kernel beside it (root)")
    measure.add_argument("--rounds", type=int, default=3, help="how often each setting is measured (default 3)")
    measure.add_argument("--sizes", nargs="+", metavar="SIZES", help="such as 64K 16K+1M all; by default eleven")
    measure.add_argument("--save", metavar="NAME", help="write NAME.npz and NAME.json")
    measure.set_defaults(run=_trace_measure)


def _trace_record(chosen: argparse.Namespace) -> int:
    _need_linux()
    from .hardware.trace import write_trace
    from .witness.live.trace import COMPILE, record, write_program

    _check_folder(chosen.file)
    with tempfile.TemporaryDirectory() as name, _progress_line() as tell:
        command, folder = chosen.program, Path.cwd()
        if command:
            about = {"command": " ".join(command)}
        else:
            command, folder = list(COMPILE), Path(name)
            about = write_program(folder)
        trace = record(command, folder, about, tell)
    write_trace(chosen.file, trace)
    print(f"{len(trace.processes)} processes, {trace.kernel_faults} faults, {len(trace)} of them in anonymous memory")
    _print_left_out(trace)
    return 0


def _trace_replay(chosen: argparse.Namespace) -> int:
    from .hardware.trace import DATA_DIR, read_measured, read_trace, sizes_named

    path = Path(chosen.file) if chosen.file else next(iter(sorted(DATA_DIR.glob("*.npz"))), DATA_DIR)
    trace = read_trace(path)
    policy = policy_named(chosen.policy) if chosen.policy else policy_for_kernel(trace.kernel)
    _print_left_out(trace)
    known = path.with_suffix(".json")
    measured = read_measured(known) if known.exists() else []
    wanted = [sizes_named(name) for name in chosen.sizes or []]
    chosen_settings = [setting for setting in measured if not wanted or setting.orders in wanted]
    for orders in wanted or ([] if measured else [(), (4,)]):
        _print_replay(trace, orders, policy)
    return _print_comparison(trace, chosen_settings, policy) if chosen_settings else 0


def _trace_measure(chosen: argparse.Namespace) -> int:
    _need_linux()
    from .hardware.trace import sizes_named, write_measured, write_trace
    from .witness.live.trace import COMPILE, SETTINGS, measure, record, write_program

    if chosen.save:
        _check_folder(chosen.save)
    settings = [sizes_named(name) for name in chosen.sizes] if chosen.sizes else SETTINGS
    with tempfile.TemporaryDirectory() as name, _progress_line() as tell:
        about = write_program(Path(name))
        trace = record(COMPILE, Path(name), about, tell)
        measured = measure(COMPILE, Path(name), settings, chosen.rounds, tell)
    if chosen.save:
        write_trace(f"{chosen.save}.npz", trace)
        write_measured(f"{chosen.save}.json", measured, kernel=trace.kernel, rounds=chosen.rounds, **about)
    _print_left_out(trace)
    return _print_comparison(trace, measured, policy_for_kernel(trace.kernel))


def _check_folder(path: str) -> None:
    """A run of minutes should not end with nowhere to write."""
    if not Path(path).parent.is_dir():
        raise ValueError(f"{path}: there is no folder {Path(path).parent}")


def _print_comparison(trace: Trace, measured: list[Setting], policy: Policy) -> int:
    from .hardware.trace import HEADING, compared

    print(f"kernel {trace.kernel} against {policy.name}: {trace.about.get('command', '')}\n{HEADING}")
    found = []
    with _progress_line() as tell:
        for comparison in compared(trace, measured, policy, _percent(tell)):
            tell("")
            print(comparison)
            found.append(comparison)
    off = [comparison.measured.name for comparison in found if abs(comparison.difference) > 0.01]
    says = f"; not {', '.join(off)}" if off else ""
    print(f"{len(found) - len(off)} of {len(found)} within 1 %{says}")
    return 1 if off else 0


def _print_replay(trace: Trace, orders: tuple[int, ...], policy: Policy) -> None:
    from .hardware.trace import replay, size_names

    with _progress_line() as tell:
        found = replay(trace, orders, policy, progress=_percent(tell))
    paths = ", ".join(f"{count:,} {path}" for path, count in found.faults.items())
    print(f"{size_names(orders)}: {found.total:,} faults ({paths}, {found.elsewhere:,} elsewhere)")
    print(f"  at the peak {found.held_peak_pages:,} pages held, {found.never_written_pages:,} of them never written")


def _print_left_out(trace: Trace) -> None:
    for what, times in trace.left_out.items():
        print(f"left out: {times} times {what}", file=sys.stderr)


def _percent(tell: Callable[[str], None]) -> Callable[[int, int], None]:
    return lambda done, total: tell(f"{100 * done // max(total, 1)} %")


@contextmanager
def _progress_line() -> Iterator[Callable[[str], None]]:
    """One line on a terminal that says what goes on; nothing elsewhere."""
    shown = sys.stderr.isatty()
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if shown and text != last:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            last = text

    try:
        yield tell
    finally:
        tell("")


def _add_cost(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    show = actions.add_parser("show", help="print a table and the unit costs it gives")
    show.add_argument("table", nargs="?", help="a stored table's name, or a file; by default all names")
    show.set_defaults(run=_cost_show)
    measure = actions.add_parser("measure", help="measure this machine's kernel (root, a C compiler, a minute)")
    measure.add_argument("file", nargs="?", help="where to store the table (NAME.json); by default it is only shown")
    measure.add_argument("--pages", type=int, default=1 << 16, help="base pages a mapping (default 65536, 256 MiB)")
    measure.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    measure.set_defaults(run=_cost_measure)


def _cost_show(chosen: argparse.Namespace) -> int:
    print(read_table(chosen.table) if chosen.table else "\n".join(tables()))
    return 0


def _cost_measure(chosen: argparse.Namespace) -> int:
    _need_linux()
    from .witness.live.cost import measure

    if chosen.file and not chosen.file.endswith(".json"):
        raise ValueError(f"{chosen.file}: a table is a file NAME.json")
    table = measure(pages=chosen.pages, rounds=chosen.rounds, progress=_tell_run)
    print(table)
    if chosen.file:
        write_table(chosen.file, table)
    return 0


def _tell_run(done: int, runs: int, what: str) -> None:
    print(f"  {done} of {runs} runs; {what}", file=sys.stderr)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--restore", action="store_true", help="put back what a killed live run left changed")
    parser.set_defaults(run=_doctor)


def _doctor(chosen: argparse.Namespace) -> int:
    _need_linux()
    from .witness.live.kernel import abilities, only_run, restore_leftovers

    if chosen.restore and os.geteuid() != 0:
        raise ValueError("doctor --restore needs root: run it with sudo")
    if chosen.restore:
        with only_run() as journal:
            restore_leftovers(journal)
    found = list(abilities())
    print("\n".join(map(str, found)))
    able = all(ability.ok for ability in found if ability.needed)
    print("this machine can run scenarios live" if able else "no live runs here; recordings show them instead")
    return 0 if able else 1


if __name__ == "__main__":
    sys.exit(main())
