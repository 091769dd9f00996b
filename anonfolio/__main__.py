"""The command line: step through scenarios, replay recordings, make them, compare with the kernel, search."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .policy import POLICIES, Policy, policy_for_kernel, policy_named
from .random_programs import KINDS, random_scenario, shrink
from .recording import Recorded, read_recording, replay, write_recording
from .scenario import Scenario, scenario_names
from .search import EXTRA_OPERATIONS, OPERATIONS, counterexample
from .witness import Difference, iter_differences

if TYPE_CHECKING:
    from .live_kernel import LiveKernel


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a difference or a bug found, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m anonfolio", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_replay(commands.add_parser("replay", help="run a recording against the model and compare every step"))
    _add_search(commands.add_parser("search", help="look for the shortest program that breaks a promise of the kernel"))
    _add_run(commands.add_parser("run", help="step through a scenario under a policy"))
    _add_record(commands.add_parser("record", help="run programs on this machine's kernel and write a recording"))
    _add_compare(commands.add_parser("compare", help="hold the model against this machine's kernel: random programs"))
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
    from .live_kernel import LiveKernel

    return LiveKernel()


def _need_linux() -> None:
    if sys.platform != "linux":
        raise ValueError("a live run needs Linux on x86-64; recordings show it anywhere (python -m anonfolio replay)")


def _add_programs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of the first program; the next has the next (default 0)")
    parser.add_argument("--kind", choices=KINDS, default="mixed", help="what the programs are about (default mixed)")


def _random_scenarios(chosen: argparse.Namespace, count: int, kernel: LiveKernel) -> Iterator[tuple[int, Scenario]]:
    for seed in range(chosen.seed, chosen.seed + count):
        yield seed, random_scenario(seed, chosen.kind, kernel.sizes)


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the recording to write (NAME.json.gz)")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help="a name, a scenario file, a recording to redo")
    parser.add_argument("--random", type=int, metavar="N", help="N random programs instead")
    _add_programs(parser)
    parser.set_defaults(run=_record)


def _record(chosen: argparse.Namespace) -> int:
    if bool(chosen.scenarios) == (chosen.random is not None):
        raise ValueError("record takes either scenarios or --random N")
    named = [scenario for name in chosen.scenarios for scenario in _named_scenarios(name)]
    with _live_kernel() as kernel:
        notes = {"build": os.uname().version}
        if not named:
            notes |= {"seed": chosen.seed, "kind": chosen.kind}
        scenarios = named or (scenario for _, scenario in _random_scenarios(chosen, chosen.random, kernel))
        count, steps = write_recording(chosen.file, kernel.version, _recorded(scenarios, kernel), **notes)
    print(f"{count} programs, {steps} steps, kernel {kernel.version}")
    return 0 if count else 2


def _named_scenarios(name: str) -> list[Scenario]:
    if name.endswith((".json", ".json.gz")):
        return [program.scenario for program in read_recording(name).programs]
    return [Scenario.load(name)]


def _recorded(scenarios: Iterable[Scenario], kernel: LiveKernel) -> Iterator[Recorded]:
    from .live import live_run
    from .live_kernel import NotLive

    for scenario in scenarios:
        try:
            yield live_run(scenario, kernel)
        except NotLive as reason:
            print(f"{scenario.name or 'a program'} is left out: {reason}", file=sys.stderr)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--programs", type=int, default=100, metavar="N", help="how many at most (default 100)")
    _add_programs(parser)
    parser.add_argument("--policy", help=f"one of {', '.join(POLICIES)}; by default the one that models this kernel")
    parser.set_defaults(run=_compare)


def _compare(chosen: argparse.Namespace) -> int:
    policy = policy_named(chosen.policy) if chosen.policy else None
    programs = steps = 0
    with _live_kernel() as kernel:
        policy = policy or policy_for_kernel(kernel.version)
        about = f"{chosen.kind} programs from seed {chosen.seed} on"
        print(f"kernel {kernel.version} against {policy.name}, {about}", flush=True)
        for seed, scenario in _random_scenarios(chosen, chosen.programs, kernel):
            found = _live_difference(scenario, kernel, policy)
            programs, steps = programs + 1, steps + len(scenario.steps)
            if found:
                print(f"{programs} programs, {steps} steps, a difference at seed {seed}: {found}")
                _show_smallest(scenario, kernel, policy)
                return 1
            if programs % 1000 == 0:
                print(f"  {programs:,} programs, {steps:,} steps", file=sys.stderr)
    print(f"{programs} programs, {steps} steps, 0 differences")
    return 0


def _live_difference(scenario: Scenario, kernel: LiveKernel, policy: Policy) -> Difference | None:
    from .live import live_run

    return next(iter_differences(scenario.run(policy), live_run(scenario, kernel)), None)


def _show_smallest(scenario: Scenario, kernel: LiveKernel, policy: Policy) -> None:
    def first_difference(candidate: Scenario) -> int | None:
        found = _live_difference(candidate, kernel, policy)
        return found.number if found else None

    smallest = shrink(scenario, first_difference)
    print(f"no step of this can be left out:\n\n{smallest.text()}")
    print(f"{policy.name} against kernel {kernel.version}, {_live_difference(smallest, kernel, policy)}")
    print(smallest.run(policy).show())


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--restore", action="store_true", help="put back what a killed live run left changed")
    parser.set_defaults(run=_doctor)


def _doctor(chosen: argparse.Namespace) -> int:
    _need_linux()
    from .live_kernel import abilities, only_run, restore_leftovers

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
