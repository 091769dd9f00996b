"""The command line: replay recordings, search for counterexamples, step through a scenario in the terminal."""

from __future__ import annotations

import argparse
import os
import sys

from .policy import POLICIES, policy_named
from .recording import read_recording, replay
from .scenario import Scenario, scenario_names
from .search import EXTRA_OPERATIONS, OPERATIONS, counterexample


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a difference or a bug found, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m anonfolio", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_replay(commands.add_parser("replay", help="run a recording against the model and compare every step"))
    _add_search(commands.add_parser("search", help="look for the shortest program that breaks a promise of the kernel"))
    _add_run(commands.add_parser("run", help="step through a scenario under a policy"))
    chosen = parser.parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except ValueError as error:
        print(f"anonfolio: {error}", file=sys.stderr)
        return 2
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
    found = counterexample(
        chosen.policy,
        pages=chosen.pages,
        steps=chosen.steps,
        orders=tuple(chosen.orders),
        processes=chosen.processes,
        operations=tuple(chosen.operations),
        progress=_tell,
    )
    print(found)
    return 1 if found else 0


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


if __name__ == "__main__":
    sys.exit(main())
