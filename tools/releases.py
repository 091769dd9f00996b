"""Recordings of many releases, and what they tell: which fields of a release's policy some recording notices.

    python tools/releases.py programs [--into FOLDER] [--random N] VERSION …
        Writes the programs of these releases, as recordings of the model.
    python tools/releases.py record FOLDER [--into FOLDER] [--random N] [--programs FOLDER] [WORD …]
        Boots every kernel package of a folder in emulation (tools/record_in_qemu.sh), one after the other, records the
        programs of its release, and replays what came back. Says what it skipped, and why. WORDs choose packages.
    python tools/releases.py table [--anew]
        Flips every field of every release's policy, and looks for a recording of that release which then has a
        mismatch; writes data/noticed.json and docs/RELEASES.md.

The programs of a release are the named scenarios, random ones of every kind, and for each field of its policy some that
the model answers otherwise when the field is flipped: what tells its rules apart. Exit code 1: a recording differs from
the model; 2: nothing could be recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import anonfolio as af
from anonfolio.kernel.history import HISTORY, kernel_number
from anonfolio.kernel.policy import _CHOICES, Policy
from anonfolio.kernel.sizes import ANON_ORDERS, PMD_ORDER
from anonfolio.program.random_programs import KINDS, random_scenario
from anonfolio.program.scenario import Scenario, scenario_names
from anonfolio.witness.comparing import Recorded, iter_differences
from anonfolio.witness.recording import DATA_DIR, read_recording, write_recording

ROOT = Path(__file__).resolve().parent.parent

PACKAGE = re.compile(r"linux-(?:image|binary)-[^_]*_(\d+\.\d+\.\d+)[^_]*_(amd64|arm64)\.deb")
NOTICED, PAGE = ROOT / "data/noticed.json", ROOT / "docs/RELEASES.md"
FORMAT = "anonfolio-noticed/1"
UNREAD = {"name", "about", "zero_neighbours", "copy_respects_knobs", "copy_max_order", "copy_requires_maybe_shared",
          "copy_requires_ro", "cont_pte_order", "mkwrite_keeps_clean", "heap_joins_mmap"}  # fmt: skip
"""What no released kernel on x86-64 reads: parts of a proposal's rules, and what is arm64's."""
TELLERS, TRIED = 2, 110
"""Programs that a recording gets for each flip, and how many are tried to find them."""
TELLING = (
    "release-", "various-", "named-", "min-", "accounted-", "lost-", "random-", "kept-", "knobs-", "collapse-",
    "guarded-", "realigned-",
)  # fmt: skip
"""Recordings that a field is looked for in. The others are long walks of one kind, and would take an hour."""
MOST_CELLS = 2000
"""Steps times pages of a program that is recorded for what it tells: few bytes tell as much."""


_HELD = (("write", 0, 5, 1), ("ref", 0, 5, 0), ("mprotect", 0, 0, 512, 1), ("mprotect", 0, 0, 512, 3))
WRITTEN = (
    Scenario(520, (*_HELD, ("write", 0, 5, 2), ("write", 0, 6, 3)), (9,), 0, "huge-held"),
    Scenario(
        520, (("read", 0, 5), ("write", 0, 6, 1), ("fork", 0), ("read", 1, 7)), (PMD_ORDER,), 0, "huge-zero-written"
    ),
)
"""2 MiB that somebody refers to, written again: reused or split; and the huge zero page, written."""

# --- fields, and their other values ----------------------------------------------------------------------------------


def flips(policy: Policy) -> Iterator[tuple[str, Any, Policy]]:
    """Every field that a kernel reads, with each other value that it could have, and the policy that has it."""
    for field in fields(Policy):
        if field.name not in UNREAD:
            for value in _others(field.name, getattr(policy, field.name)):
                yield field.name, value, policy.but(**{field.name: value}, name=f"{policy.name}, {field.name}={value}")


def _others(field: str, now: Any) -> list[Any]:
    if isinstance(now, bool):
        return [not now]
    if field == "fixed_orders":
        return [(2, 3, 4)]
    dated = [row.fields[field] for row in HISTORY if field in row.fields]
    named = [*_CHOICES.get(field, ()), *Policy(name="")._names.get(field, {})]
    return [value for value in dict.fromkeys([*dated, *named]) if value != now]


# --- programs --------------------------------------------------------------------------------------------------------


def programs_of(version: str, each: int) -> Iterator[Scenario]:
    """What is recorded on a release: named scenarios, what tells its rules, `each` random programs of every kind."""
    policy = Policy.at(version)
    sizes = ANON_ORDERS if PMD_ORDER - 1 in policy.knob_orders else (PMD_ORDER,)
    named = [Scenario.load(name) for name in scenario_names()]
    fixed = [scenario for scenario in named if set(scenario.orders) <= set(sizes)]
    told = tellers(policy, sizes)
    wandering = (random_scenario(9000 + seed, kind, sizes) for kind in KINDS for seed in range(each))
    return _different(chain(fixed, WRITTEN, told, wandering))


def _different(scenarios: Iterable[Scenario]) -> Iterator[Scenario]:
    seen = set()
    for scenario in scenarios:
        key = (scenario.pages, scenario.orders, scenario.skew, scenario.steps)
        if key not in seen:
            seen.add(key)
            yield scenario


def tellers(policy: Policy, sizes: tuple[int, ...]) -> Iterator[Scenario]:
    """For each flip the first small programs that the model answers otherwise."""
    pool = list(_different(chain(_written(sizes), _drawn(sizes))))
    runs = {number: scenario.run(policy) for number, scenario in enumerate(pool)}
    for _, _, other in flips(policy):
        found = 0
        for number, scenario in enumerate(pool):
            if next(iter_differences(runs[number], scenario.run(other)), None):
                yield scenario
                found += 1
                if found == TELLERS:
                    break


def _written(sizes: tuple[int, ...]) -> Iterator[Scenario]:
    """Programs that were once written, or found, because they tell one rule from another."""
    for path in sorted((*DATA_DIR.glob("min-*.gz"), *DATA_DIR.glob("accounted-*.gz"), *DATA_DIR.glob("5.10/lost*.gz"))):
        yield from _fitting(sizes, (program.scenario for program in read_recording(path).programs))
    various = read_recording(DATA_DIR / "various-6.18.44.json.gz").programs
    yield from _fitting(sizes, (program.scenario for program in various))


def _drawn(sizes: tuple[int, ...]) -> Iterator[Scenario]:
    """Random programs, kind by kind in turn."""
    drawn = (random_scenario(seed, kind, sizes) for seed in range(TRIED // len(KINDS)) for kind in KINDS)
    return _fitting(sizes, drawn)


def _fitting(sizes: tuple[int, ...], scenarios: Iterable[Scenario]) -> Iterator[Scenario]:
    for scenario in scenarios:
        if set(scenario.orders) <= set(sizes) and scenario.pages * len(scenario.steps) <= MOST_CELLS:
            yield scenario


# --- recording -------------------------------------------------------------------------------------------------------


def write_programs(version: str, into: Path, each: int) -> Path:
    """The programs of a release as a recording of the model; what stands there already is taken."""
    path = into / f"programs-{version}.json.gz"
    if not path.exists():
        policy = Policy.at(version)
        write_recording(path, version, (scenario.run(policy) for scenario in programs_of(version, each)))
    return path


def record(folder: Path, into: Path, each: int, words: list[str], programs: Path | None) -> int:
    """All packages of a folder, oldest release first."""
    outcomes: dict[str, str] = {}
    done = wrong = 0
    with tempfile.TemporaryDirectory(prefix="anonfolio-releases-") as work:
        os.environ.setdefault("IMAGE", f"{work}/image")
        for package in sorted(folder.glob("*.deb"), key=_version_number):
            name = package.name
            if words and not any(word in name for word in words):
                continue
            why = _unsuitable(name)
            if not why:
                print(f"{name} …", flush=True)
                why, mismatches = _record_one(package, into, each, programs or Path(work))
                done, wrong = done + (mismatches is not None), wrong + bool(mismatches)
            outcomes[name] = why
    print("\n".join(f"{name}: {why}" for name, why in outcomes.items()))
    return 2 if not done else 1 if wrong else 0


def _version_number(package: Path) -> tuple[tuple[int, int, int], str]:
    match = PACKAGE.fullmatch(package.name)
    return (kernel_number(match[1]) if match else (0, 0, 0)), package.name


def _unsuitable(name: str) -> str:
    """Why a package is skipped; empty when it is not."""
    match = PACKAGE.fullmatch(name)
    if not match:
        return "skipped: no package of a kernel"
    if match[2] != "amd64":
        return f"skipped: {match[2]}, which this does not boot"
    try:
        Policy.at(match[1])
    except ValueError as error:
        return f"skipped: {error}"
    return ""


def _record_one(package: Path, into: Path, each: int, programs: Path) -> tuple[str, int | None]:
    """What came of it in words, and how many mismatches it has; None when there is no recording."""
    match = PACKAGE.fullmatch(package.name)
    assert match
    version = match[1]
    made = into / f"release-{version}.json.gz"
    wanted = write_programs(version, programs, each)
    command = [str(ROOT / "tools/record_in_qemu.sh"), str(package), str(made), str(wanted)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = [line for line in f"{ran.stdout}\n{ran.stderr}".splitlines() if line.strip()]
        return f"skipped: not recorded, {said[-1] if said else f'exit code {ran.returncode}'}", None
    found = af.replay(read_recording(made))
    left_out = [line for line in ran.stdout.splitlines() if "is left out" in line]
    print("\n".join(left_out), flush=True) if left_out else None
    return f"{made.name}, {str(found).splitlines()[0]}", len(found.mismatches)


# --- what is noticed -------------------------------------------------------------------------------------------------


def recordings_by_release() -> dict[str, list[str]]:
    """The x86-64 recordings that tell rules apart, small ones first, by their names below data/recordings.

    Releases of one series that have the same policy are one, and named after the newest that was recorded.
    """
    found: dict[tuple[tuple[int, int], Policy], list[tuple[int, str, str]]] = {}
    for path in sorted(DATA_DIR.rglob("*.json.gz")):
        if not path.name.startswith(TELLING):
            continue
        recording = read_recording(path)
        if recording.arch == "x86-64":
            key = kernel_number(recording.kernel)[:2], Policy.at(recording.kernel)
            row = path.stat().st_size, path.relative_to(DATA_DIR).as_posix(), recording.kernel
            found.setdefault(key, []).append(row)
    named = {max((version for *_, version in rows), key=kernel_number): rows for rows in found.values()}
    return {version: [name for _, name, _ in sorted(named[version])] for version in sorted(named, key=kernel_number)}


Noticed = dict[str, dict[str, str]]
"""Per field and other value the first program that has a mismatch then, as ``"FILE NUMBER"``; else ``""``."""


def noticed(version: str, names: list[str], since: list[str], before: Noticed, anew: bool) -> Noticed:
    """What these recordings notice; first is tried what noticed it before.

    If not anew, what nothing noticed is looked for only in recordings that were not there before (`since`).
    """
    found: Noticed = {}
    recordings = {name: read_recording(DATA_DIR / name) for name in names}
    programs = {f"{name} {at}": program for name in names for at, program in enumerate(recordings[name].programs)}
    for field, value, other in flips(Policy.at(version)):
        last = before.get(field, {}).get(str(value), "")
        order = [last, *programs] if last in programs else programs
        known = not anew and not last and str(value) in before.get(field, {})
        looks = [where for where in order if where.split()[0] not in since] if known else order
        where = next((where for where in looks if _differs(programs[where], other)), "")
        found.setdefault(field, {})[str(value)] = where
    return found


def _differs(program: Recorded, policy: Policy) -> bool:
    return next(iter_differences(program.scenario.run(policy), program), None) is not None


def table(anew: bool) -> int:
    """Write the table as data and as a page; what the last one says of the same recordings is believed if not anew."""
    releases: dict[str, Any] = {}
    last = json.loads(NOTICED.read_text(encoding="utf-8"))["releases"] if NOTICED.exists() else {}
    for version, names in recordings_by_release().items():
        print(f"{version} …", file=sys.stderr, flush=True)
        before = last.get(version, {"recordings": [], "noticed": {}})
        found = noticed(version, names, before["recordings"], before["noticed"], anew)
        releases[version] = {"recordings": sorted(names), "noticed": found}
        # What is known so far is kept, should this be stopped: each release takes a minute.
        content = {"format": FORMAT, "releases": releases}
        NOTICED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(content), encoding="utf-8")
    return 0


def page(content: dict[str, Any]) -> str:
    """The table for readers."""
    releases = content["releases"]
    names = list(dict.fromkeys(field for release in releases.values() for field in release["noticed"]))
    lines = [
        "# Releases, and what their recordings notice",
        "",
        "Written by `python tools/releases.py table`. A field is *noticed* (●) when each other value it might have",
        "gives a mismatch with some recording of that release; ◐ when some do; where none does (·) it rests on source,",
        "or on what other releases show. Looked through are the recordings release, various, named, min, accounted,",
        "random, kept, knobs, collapse, guarded, realigned. `data/noticed.json` names the program for each.",
        "",
        f"| field | {' | '.join(releases)} |",
        f"|---|{'---|' * len(releases)}",
    ]
    for field in names:
        marks = (_mark(release["noticed"].get(field, {})) for release in releases.values())
        lines.append(f"| `{field}` | {' | '.join(marks)} |")
    return "\n".join([*lines, ""])


def _mark(found: dict[str, str]) -> str:
    seen = [bool(where) for where in found.values()]
    return "●" if seen and all(seen) else "◐" if any(seen) else "·"


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Recordings of many releases, and what they tell.")
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="record every kernel package of a folder, in emulation")
    recording.add_argument("folder", type=Path, help="where the packages are")
    recording.add_argument("words", nargs="*", metavar="WORD", help="packages whose names contain one of them")
    recording.add_argument("--into", type=Path, default=DATA_DIR, help="where the recordings go")
    recording.add_argument("--programs", type=Path, help="where the programs lie that `programs` wrote")
    making = commands.add_parser("programs", help="write the programs of releases")
    making.add_argument("words", nargs="+", metavar="VERSION", help="releases, such as 6.18.5")
    making.add_argument("--into", type=Path, default=Path("."), help="where they go")
    for command in (recording, making):
        command.add_argument("--random", type=int, default=3, metavar="N", help="random programs of each kind (3)")
    noticing = commands.add_parser("table", help="which fields some recording notices")
    noticing.add_argument("--anew", action="store_true", help="believe nothing that the table says already")
    chosen = parser.parse_args(arguments)
    if chosen.command == "table":
        return table(chosen.anew)
    if chosen.command == "programs":
        for version in chosen.words:
            print(write_programs(version, chosen.into, chosen.random), flush=True)
        return 0
    if not chosen.folder.is_dir():
        print(f"error: {chosen.folder} is no folder with kernel packages", file=sys.stderr)
        return 2
    chosen.into.mkdir(parents=True, exist_ok=True)
    return record(chosen.folder, chosen.into, chosen.random, chosen.words, chosen.programs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
