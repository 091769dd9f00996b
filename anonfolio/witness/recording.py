"""Recordings of real kernels (``anonfolio-recording/1``): read, write, replay against the model."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..kernel import given
from ..kernel.given import check_kind
from ..kernel.history import ARCHITECTURES
from ..kernel.policy import Policy
from ..kernel.sizes import PMD_ORDER, PTRS_PER_PMD
from ..program import witnesses
from ..program.formats import DATA, MOST_BYTES, MOST_PARSED_BYTES, is_file, new_file, parsed_bytes, read_json
from ..program.ops import TABLE, ScenarioError
from ..program.scenario import Result, Scenario, Timeline
from ..program.witnesses import Difference
from .comparing import Recorded, cells_of_page_view, once_as_shown, seen_by_model
from .entries import wrong_entries
from .hidden.state import NotAState, as_json, from_json

FORMAT = "anonfolio-recording/1"
DATA_DIR = DATA / "recordings"
PAGE_16K, BOUNDARY_16K = 16384, 128


class RecordingError(ValueError):
    """A file that is no recording, or a broken one; the message names the file, the place and what is wrong."""


@dataclass(frozen=True)
class Recording:
    """A file: the kernel's version and the programs that ran on it."""

    kernel: str
    programs: tuple[Recorded, ...]
    path: str = ""
    arch: str = "x86-64"

    def named(self, name: str) -> Recorded:
        """The program of that name."""
        for program in self.programs:
            if program.scenario.name == name:
                return program
        raise RecordingError(f"{self.path or 'the recording'} has no program named {name!r}")


@dataclass(frozen=True)
class Replay:
    """What a replay found: how much was compared, and every difference with the program it is in.

    `cells` are those of the kernel's own state and of raw entries that were compared, by field: none where none were
    recorded.
    """

    programs: int
    steps: int
    mismatches: tuple[tuple[int, Recorded, Difference], ...]
    cells: Mapping[str, int]

    def __str__(self) -> str:
        lines = [f"{self.programs} programs, {self.steps} steps, {len(self.mismatches)} mismatches"]
        if self.mismatches:
            number, recorded, difference = self.mismatches[0]
            name = f" ({recorded.scenario.name})" if recorded.scenario.name else ""
            scenario = recorded.scenario
            lines += [
                f"first: program {number}{name}, step {difference.number + 1}, {difference.what}",
                f"  model:    {difference.mine}",
                f"  recorded: {difference.theirs} (kernel {recorded.kernel})",
                f"  {_settings(scenario)}, {scenario.pages} pages, skew {scenario.skew}; the steps up to it:",
                *(f"  {at:3} {' '.join(map(str, step))}" for at, step in enumerate(scenario.steps, 1)),
            ]
            # What comes after the first difference explains nothing.
            del lines[6 + difference.number :]
        return "\n".join(lines)


def _settings(scenario: Scenario) -> str:
    said = f"knobs {dict(scenario.knobs)}" if scenario.knobs else f"orders {list(scenario.orders)}"
    said += f", thp {scenario.thp}" if scenario.thp != "madvise" else ""
    return said + (f", advice {scenario.advice}" if scenario.advice else "")


def replay(recording: Recording, policy: Policy | None = None) -> Replay:
    """Run every program on the model and compare every step.

    Parameters
    ----------
    policy : Policy, optional
        Which kernel to be; by default the one that models the recording's version.

    Raises
    ------
    ValueError
        The version is older than any that was checked, or unreadable, and no policy is named.
    """
    check_kind("recording", recording, Recording)
    cells: Counter[str] = Counter()
    mismatches = tuple(
        (number, program, difference)
        for number, program in enumerate(recording.programs)
        for difference in program.replay(policy, cells)
    )
    steps = sum(len(program.steps) for program in recording.programs)
    return Replay(len(recording.programs), steps, mismatches, cells)


def read_recording(path: str | Path) -> Recording:
    """Read a recording, gzipped or plain JSON; RecordingError says in one line what is wrong with it."""
    kernel, arch, programs = read_head(path)
    recorded = (read_program(kernel, arch, program, f"{path}, program {at}") for at, program in enumerate(programs))
    return Recording(kernel, tuple(recorded), str(path), arch)


def read_scenarios(path: str | Path) -> list[Scenario]:
    """The programs of a recording alone, without what was seen of them: for whoever runs them under other policies."""
    _, arch, programs = read_head(path)
    return [_read_scenario(arch, program, f"{path}, program {at}") for at, program in enumerate(programs)]


def read_head(path: str | Path) -> tuple[str, str, list[Any]]:
    """Kernel, architecture and programs of a recording, the latter not looked at yet."""
    content = read_json(path, FORMAT, RecordingError)
    kernel, programs = content.get("kernel"), content.get("programs")
    if not isinstance(kernel, str) or len(kernel) > 100:
        raise RecordingError(f"{path}: kernel is {given.said(kernel)}, not a version such as '6.18.44'")
    if not isinstance(programs, list):
        raise RecordingError(f"{path}: programs is {type(programs).__name__}, not a list")
    if not programs:
        raise RecordingError(f"{path}: holds no program")
    arch = content.get("machine", "x86-64")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise RecordingError(f"{path}: machine is {given.said(arch)}, none of {', '.join(ARCHITECTURES)}")
    page = content.get("page", 4096)
    if page == PAGE_16K and ARCHITECTURES[arch] == "arm64":
        arch = "arm64-16k"
    elif page != 4096:
        raise RecordingError(
            f"{path}: page is {given.said(page)}; what is modelled is kernels with base pages of 4096 bytes,"
            " and of 16384 on arm64"
        )
    return kernel, arch, programs


def read_program(kernel: str, arch: str, program: Any, where: str) -> Recorded:
    """A program of a recording from its JSON; RecordingError says where it is and what is wrong."""
    scenario = _read_scenario(arch, program, where)
    for at, seen in enumerate(program["steps"]):
        _check_seen(seen, scenario.pages, f"{where}, step {at}")
    steps = (_with_hidden(seen, scenario.pages, f"{where}, step {at}") for at, seen in enumerate(program["steps"]))
    return Recorded(kernel, scenario, tuple(steps), arch)


def _read_scenario(arch: str, program: Any, where: str) -> Scenario:
    """What ran, without what was seen of it."""
    if not isinstance(program, dict):
        raise RecordingError(f"{where}: is {type(program).__name__}, not an object")
    for key in ("orders", "pages", "skew", "program", "steps"):
        if key not in program:
            raise RecordingError(f"{where}: has no {key!r}")
    for key in ("orders", "program", "steps"):
        if not isinstance(program[key], list):
            raise RecordingError(f"{where}: {key} is {given.said(program[key])}, not a list")
    if len(program["program"]) != len(program["steps"]):
        raise RecordingError(f"{where}: {len(program['program'])} operations but {len(program['steps'])} steps")
    for at, step in enumerate(program["program"]):
        known = isinstance(step, list) and step and isinstance(step[0], str) and step[0] in TABLE
        if not known or not TABLE[step[0]].recorded:
            raise RecordingError(f"{where}, step {at}: {given.said(step)} is no operation of {FORMAT}")
    try:
        # Of 16 KiB pages 128 are 2 MiB: such recordings begin at an odd multiple of that, where no order 8 begins.
        more = BOUNDARY_16K if arch == "arm64-16k" and type(program["skew"]) is int else 0
        scenario = Scenario(
            program["pages"], tuple(map(tuple, program["program"])), tuple(program["orders"]),
            program["skew"] + more if more else program["skew"], program.get("name") or "",
            knobs=_knobs_of(program), thp=program.get("thp", "madvise"), advice=program.get("advice", ""),
        )  # fmt: skip
    except (ScenarioError, TypeError) as error:
        raise RecordingError(f"{where}: {error}") from None
    if arch == "arm64-16k" and (PMD_ORDER in scenario.orders or scenario.skew + scenario.pages > PTRS_PER_PMD):
        raise RecordingError(
            f"{where}: with base pages of 16384 bytes a program is modelled within {PTRS_PER_PMD} pages of one page"
            f" table, and with orders below {PMD_ORDER}"
        )
    return scenario


def _knobs_of(program: dict[str, Any]) -> tuple[tuple[int, str], ...]:
    """What a program says per size: in JSON a key is text."""
    knobs = program.get("knobs", {})
    if not isinstance(knobs, dict) or not all(re.fullmatch(r"[0-9]{1,9}", order) for order in knobs):
        raise ScenarioError(f"knobs is {given.said(knobs)}, not an object such as {{'4': 'always'}}")
    return tuple((int(order), said) for order, said in knobs.items())


def _check_seen(seen: Any, pages: int, where: str) -> None:
    if not isinstance(seen, dict):
        raise RecordingError(f"{where}: what was seen is {type(seen).__name__}, not an object")
    for key, kinds in (("ok", bool), ("value", int | None), ("faults", list), ("view", dict)):
        value = seen.get(key)
        if key not in seen or not isinstance(value, kinds) or (key == "value" and isinstance(value, bool)):
            raise RecordingError(f"{where}: {key!r} is missing or {given.said(value)}")
    for fault in seen["faults"]:
        if not _are_numbers(fault, 2):
            raise RecordingError(f"{where}: fault {given.said(fault)} is not [page, error code]")
    for number, cells in seen["view"].items():
        if not re.fullmatch(r"[0-9]{1,9}", number) or not isinstance(cells, list) or len(cells) != pages:
            raise RecordingError(f"{where}: the view of process {given.said(number)} is not a list of {pages} cells")
        for page, cell in enumerate(cells):
            if cell not in ("z", "g", 0) and not _is_cell(cell):
                cells = "0, 'z', 'g' or [folio, offset, size, once]"
                raise RecordingError(f"{where}: process {number} page {page} is {given.said(cell)}, not {cells}")
    if wrong := wrong_entries(seen, pages):
        raise RecordingError(f"{where}: {wrong}")


def _with_hidden(seen: dict[str, Any], pages: int, where: str) -> dict[str, Any]:
    """The step with its hidden state, where it was kept, as what it means."""
    if "hidden" not in seen:
        return seen
    try:
        state = from_json(seen["hidden"], pages)
    except NotAState as error:
        raise RecordingError(f"{where}: hidden: {error}") from None
    if {*map(str, state.processes)} != seen["view"].keys():
        raise RecordingError(f"{where}: hidden: not of the processes that the view has")
    return {**seen, "hidden": state}


def _are_numbers(row: Any, count: int) -> bool:
    if not isinstance(row, list) or len(row) != count or {*map(type, row)} != {int}:
        return False
    return bool(min(row) >= 0 and max(row) < 1 << 62)


def _is_cell(cell: Any) -> bool:
    """Whether it is a page of a folio of 1 to 512 pages, a power of two."""
    return _are_numbers(cell, 4) and _is_place(*cell[1:])


def _is_place(offset: int, size: int, once: int) -> bool:
    return offset < size <= PTRS_PER_PMD and size & size - 1 == 0 and once < 2


def write_recording(
    path: str | Path, kernel: str, runs: Iterable[Timeline | Recorded], **notes: Any
) -> tuple[int, int]:
    """Write runs to a recording one by one as they come; returns how many, and their steps.

    The file appears when it is complete, and its bytes depend on its content alone. `notes` become further keys of it.
    RecordingError for what `read_recording` would not read: no run at all, an operation that no recording holds.
    """
    path = Path(path)
    count = steps = parsed = 0
    try:
        with new_file(path) as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            file.write(_compact({"format": FORMAT, "kernel": kernel, **notes})[:-1] + b',"programs":[')
            for run in runs:
                program = as_program(run, kernel)
                line = _compact(program)
                file.write((b",\n" if count else b"\n") + line)
                count, steps = count + 1, steps + len(program["steps"])
                parsed += parsed_bytes(line)
                if file.tell() > MOST_BYTES or parsed > MOST_PARSED_BYTES:
                    raise RecordingError(f"{path}: {count} programs are more than a recording holds; make several")
            if not count:
                raise RecordingError(f"{path}: there is no program to write")
            file.write(b"]}\n")
    except OSError as error:
        raise RecordingError(f"{error.filename or path}: {error.strerror or error}") from None
    return count, steps


def _compact(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def as_program(run: Timeline | Recorded, kernel: str) -> dict[str, Any]:
    """A run as `read_program` reads it: what that kernel would show, where it is the model's."""
    scenario = run.scenario
    for number, step in enumerate(scenario.steps, 1):
        if not TABLE[step[0]].recorded:
            raise RecordingError(f"step {number}, {step[0]}, is no operation of {FORMAT}")
    return {
        **({"name": scenario.name} if scenario.name else {}),
        "orders": scenario.orders,
        "pages": scenario.pages,
        "skew": scenario.skew,
        **({"knobs": {str(order): said for order, said in scenario.knobs}} if scenario.knobs else {}),
        **({"thp": scenario.thp} if scenario.thp != "madvise" else {}),
        **({"advice": scenario.advice} if scenario.advice else {}),
        "program": scenario.steps,
        "steps": [*map(_plain, run.steps)]
        if isinstance(run, Recorded)
        else [_as_seen(result, scenario, kernel) for result in run],
    }


def _plain(seen: dict[str, Any]) -> dict[str, Any]:
    """A step as JSON can hold it."""
    return {**seen, "hidden": as_json(seen["hidden"])} if "hidden" in seen else seen


def _as_seen(result: Result, scenario: Scenario, kernel: str) -> dict[str, Any]:
    """What that kernel would show of a model's step."""
    seen = seen_by_model(result, scenario.first_vpn, scenario.pages)
    shown = {
        str(number): cells_of_page_view(pages._replace(once=once_as_shown(pages, scenario.first_vpn, kernel)))
        for number, pages in seen.view.items()
    }
    return {"ok": seen.ok, "value": seen.value, "faults": seen.faults, "view": shown}


@witnesses.recorded_run.register
def recorded_run(scenario: Scenario, kernel: str) -> Recorded:
    """What a recorded kernel did with a named scenario, by the first numbers of its version (``"6.18"``)."""
    path = DATA_DIR / f"named-{kernel}.json.gz"
    if not is_file(path):
        there = ", ".join(sorted(found.name[6:-8] for found in DATA_DIR.glob("named-*.json.gz"))) or "none"
        raise RecordingError(f"the named scenarios were not recorded on kernel {given.said(kernel)}, but on {there}")
    recorded = _named(path).get(scenario.name)
    if recorded is None or recorded.scenario.steps != scenario.steps:
        raise RecordingError(f"scenario {scenario.name!r} was not recorded on kernel {kernel}")
    return recorded


@lru_cache(maxsize=8)
def _named(path: Path) -> dict[str, Recorded]:
    return {program.scenario.name: program for program in read_recording(path).programs}
