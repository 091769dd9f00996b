"""What the search has shown of whole state spaces, kept in data/proofs.json: run it again, or write it anew.

    python tools/proofs.py [NAME …]                      the quick ones again; exit code 1 is a difference
    python tools/proofs.py --slow [NAME …]               the others too: minutes to hours each
    python tools/proofs.py --record [--slow] [NAME …]    write what comes out into the file, and its row into the README
    python tools/proofs.py --table                       the README's table as the file says it
    options: --jobs N, --memory MIB, --seconds S (each), --checkpoints FOLDER (stopped ones go on from there)

A proof is one policy and one set of operations, four pages in one folio and two processes: every program of any length,
or the shortest that breaks a promise, or how far the search came and why. NAME is a part of its name.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import anonfolio
from anonfolio.kernel.policy import policy_named
from anonfolio.program.search import Counterexample, counterexample

ROOT = Path(__file__).resolve().parent.parent
FILE, README = ROOT / "data" / "proofs.json", ROOT / "README.md"
HEAD = "| policy | over | verdict | steps | states | transitions | processor s | MiB |\n" + "|---" * 8 + "|\n"
FORK = ("write", "fork", "exit")
PIN = (*FORK, "pin", "unpin")
ADVICE = (*PIN, "wipeonfork", "keeponfork")
POLICIES = ("5.10", "6.1", "6.12", "6.15", "7.3", "rfc-v2", "rfc-v2-fixed")
COMPARED = ("verdict", "steps", "states", "transitions", "sha256")
HOLDS, BOUNDED = "holds in programs of any length", "not to the end"
QUICK_TRANSITIONS = 60_000
"""What takes no more is run again by `make search`."""


class Proof(NamedTuple):
    """What is searched to its end."""

    policy: str
    operations: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it stands in the file."""
        return f"{self.policy}: {', '.join(self.operations)}"


PROOFS = (
    *(Proof(policy, operations) for operations in (FORK, PIN, ADVICE) for policy in POLICIES),
    # Before pages were marked exclusive, mprotect was enough.
    *(Proof(policy, (*PIN, "mprotect")) for policy in ("5.10", "6.1")),
)


def run(proof: Proof, jobs: int, memory_mib: int, seconds: float | None, checkpoints: Path | None) -> dict[str, Any]:
    """Search, and say what came out as the file keeps it."""
    kept = checkpoints / f"{proof.policy}-{len(proof.operations)}.npz" if checkpoints else None
    began, worked = time.monotonic(), _worked_s()
    found = counterexample(
        policy_named(proof.policy), steps=None, operations=proof.operations, jobs=jobs, memory_mib=memory_mib,
        seconds=seconds, checkpoint=kept,
    )  # fmt: skip
    said: dict[str, Any] = {
        "policy": proof.policy, "operations": proof.operations, "pages": 4, "orders": [2], "processes": 2,
        "model": anonfolio.__version__,
    }  # fmt: skip
    if isinstance(found, Counterexample):
        said |= {"verdict": f"breaks {found.violation.invariant}", "program": found.scenario.steps, "sha256": ""}
    else:
        said |= {"promises": found.promises, "verdict": HOLDS if found.complete else BOUNDED}
        # Where the last level was cut is chance; what lies before it is not.
        said |= {"sha256": found.digest} if found.complete else {"why": found.why, "levels": found.levels, "sha256": ""}
    said |= {"steps": found.steps, "states": found.states, "transitions": found.transitions}
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    said |= {"seconds": round(time.monotonic() - began), "cpu_seconds": round(_worked_s() - worked)}
    return said | {"jobs": jobs, "peak_mib": max(usage) >> 10}


def _worked_s() -> float:
    """Processor time of this process and of those that helped it."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in usage)


def load() -> dict[str, Any]:
    """What the file holds, by name."""
    proofs: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return proofs


def differences(said: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """How a run differs from the stored one. Of one that was stopped, what both tried to the end has to agree."""
    if BOUNDED not in (said["verdict"], stored["verdict"]):
        return [f"{key} {said[key]}, was {stored[key]}" for key in COMPARED if said[key] != stored[key]]
    if any(each["verdict"].startswith("breaks") and each["steps"] <= other["steps"]
           for each, other in ((said, stored), (stored, said))):  # fmt: skip
        return [f"{said['verdict']} at {said['steps']} steps, was {stored['verdict']} at {stored['steps']}"]
    pairs = zip(said.get("levels", ()), stored.get("levels", ()), strict=False)
    return [f"states {at} steps away: {one}, was {other}" for at, (one, other) in enumerate(pairs) if one != other]


def is_less(said: dict[str, Any], stored: dict[str, Any]) -> bool:
    """Whether a run was stopped before it came as far as the stored one, with which it agrees."""
    further = stored["verdict"] != BOUNDED or stored["steps"] > said["steps"]
    return said["verdict"] == BOUNDED and further and not differences(said, stored)


def row(stored: dict[str, Any]) -> str:
    """A line of the README's table."""
    verdict = stored["verdict"]
    if verdict == BOUNDED:
        verdict += f": nothing breaks within {stored['steps']} steps; then {stored['why']}"
    cells = (
        stored["policy"], ", ".join(stored["operations"]), verdict, stored["steps"], f"{stored['states']:,}",
        f"{stored['transitions']:,}", f"{stored['cpu_seconds']:,}", f"{stored['peak_mib']:,}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |\n"


def table(stored: dict[str, Any]) -> str:
    """What the README says of all proofs that are stored, in the order in which they are listed here."""
    return HEAD + "".join(row(stored[proof.name]) for proof in PROOFS if proof.name in stored)


def with_table(text: str, stored: dict[str, Any]) -> str:
    """A README with its table as the proofs are now."""
    before, after = text.split(HEAD)
    rows = re.match(r"(\|.*\n)*", after)
    assert rows
    return before + table(stored) + after[rows.end() :]


def main() -> int:
    """0 as it stands in the file, 1 a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.table:
        README.write_text(with_table(README.read_text(encoding="utf-8"), load()), encoding="utf-8")
        return 0
    differ = 0
    for proof in PROOFS:
        stored = load().get(proof.name)
        quick = stored is not None and stored["transitions"] <= QUICK_TRANSITIONS
        if not (quick or asked.slow) or (asked.name and not any(word in f"{proof.name}." for word in asked.name)):
            continue
        said = json.loads(json.dumps(run(proof, asked.jobs, asked.memory, asked.seconds, asked.checkpoints)))
        print(f"{row(said)[2:-3]}; {said['seconds']} s", flush=True)
        if asked.record and stored and is_less(said, stored):
            print("  not kept: the stored one came further", flush=True)
        elif asked.record:
            kept = {**load(), proof.name: said}
            FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            README.write_text(with_table(README.read_text(encoding="utf-8"), kept), encoding="utf-8")
        elif stored:
            changed = differences(said, stored)
            differ += bool(changed)
            print("".join(f"  differs: {text}\n" for text in changed), end="")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
