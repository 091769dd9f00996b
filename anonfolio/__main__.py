"""``python -m anonfolio replay FILE``: hold the model against recordings of real kernels."""

from __future__ import annotations

import argparse
import sys

from .policy import POLICIES, policy_named
from .recording import read_recording, replay


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a difference or a bug found, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m anonfolio", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_replay(commands.add_parser("replay", help="run a recording against the model and compare every step"))
    chosen = parser.parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except ValueError as error:
        print(f"anonfolio: {error}", file=sys.stderr)
        return 2
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


if __name__ == "__main__":
    sys.exit(main())
