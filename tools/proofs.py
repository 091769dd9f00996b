"""What the search has shown of whole state spaces, kept in data/proofs.json: run it again, or write it anew.

    python tools/proofs.py [NAME …]                      the quick ones again; exit code 1 is a difference
    python tools/proofs.py --slow [NAME …]               the others too: minutes to hours each
    python tools/proofs.py --record [--slow] [NAME …]    write what comes out into the file
    options: --jobs N, --memory MIB, --checkpoints FOLDER

A proof is one policy and one set of operations, four pages in one folio and two processes: every program of any length,
or the shortest that breaks a promise, or how far the search came and why. NAME is a part of its name.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import anonfolio
from anonfolio.kernel.policy import policy_named
from anonfolio.program.search import Counterexample, counterexample

FILE = Path(__file__).resolve().parent.parent / "data" / "proofs.json"
FORK = ("write", "fork", "exit")
PIN = (*FORK, "pin", "unpin")
ADVICE = (*PIN, "wipeonfork", "keeponfork")
POLICIES = ("5.10", "6.1", "6.12", "6.15", "7.3", "rfc-v2", "rfc-v2-fixed")
COMPARED = ("verdict", "steps", "states", "transitions", "sha256")
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


def run(proof: Proof, jobs: int, memory_mib: int, checkpoints: Path | None) -> dict[str, Any]:
    """Search, and say what came out as the file keeps it."""
    kept = checkpoints / f"{proof.policy}-{len(proof.operations)}.npz" if checkpoints else None
    began, worked = time.monotonic(), _worked_s()
    found = counterexample(
        policy_named(proof.policy), steps=None, operations=proof.operations, jobs=jobs, memory_mib=memory_mib,
        checkpoint=kept,
    )  # fmt: skip
    said: dict[str, Any] = {
        "policy": proof.policy, "operations": proof.operations, "pages": 4, "orders": [2], "processes": 2,
        "model": anonfolio.__version__,
    }  # fmt: skip
    if isinstance(found, Counterexample):
        said |= {"verdict": f"breaks {found.violation.invariant}", "program": found.scenario.steps, "sha256": ""}
    else:
        said |= {"promises": found.promises, "sha256": found.digest}
        said["verdict"] = "holds in programs of any length" if found.complete else f"nothing found so far: {found.why}"
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


def main() -> int:
    """0 as it stands in the file, 1 a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--checkpoints", type=Path)
    asked = parser.parse_args()
    differ = 0
    for proof in PROOFS:
        stored = load().get(proof.name)
        quick = stored is not None and stored["transitions"] <= QUICK_TRANSITIONS
        if not (quick or asked.slow) or (asked.name and not any(word in f"{proof.name}." for word in asked.name)):
            continue
        said = json.loads(json.dumps(run(proof, asked.jobs, asked.memory, asked.checkpoints)))
        line = f"{proof.name}: {said['verdict']}; {said['states']:,} states, {said['transitions']:,} transitions"
        print(f"{line}, {said['seconds']} s, {said['peak_mib']} MiB", flush=True)
        if asked.record:
            kept = {**load(), proof.name: said}
            FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        elif stored:
            changed = [f"{key} {said[key]}, was {stored[key]}" for key in COMPARED if said[key] != stored[key]]
            differ += bool(changed)
            print("".join(f"  differs: {text}\n" for text in changed), end="")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
