"""What ``anonfolio advise`` does: record a program or read its trace, replay it, say which sizes to take."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .commands import policy_of, progress_line
from .draw.advised import advice_json, advice_svg, advice_text
from .hardware.advice import SETTINGS, Advice
from .hardware.advice import advise as advised
from .hardware.cost import Table, read_table, tables
from .hardware.cpu import Cpu, this_cpu
from .hardware.trace import Setting, Trace, read_measured, read_trace, settings_named

MEASURE = "measure"
"""The word for costs of this machine, measured now."""


def advise(chosen: Namespace) -> int:
    """Which sizes a program should get: 0, or 1 where the prediction is void or not what the kernel counted."""
    settings = settings_named(chosen.sizes) if chosen.sizes else list(SETTINGS)
    cpu = this_cpu()
    path = _one_trace(chosen.what)
    table = _prices(chosen.cost, cpu)
    trace, measured = read_trace(path), _measured_with(path)
    found = _judged(chosen, trace, settings, table, cpu)
    found = replace(found, measured=tuple(measured))
    return _told(chosen, found, path.with_name(f"{path.stem}.advise.svg"))


def _one_trace(words: Sequence[str]) -> Path:
    if len(words) != 1 or not words[0].endswith(".npz"):
        named = " ".join(words) or "PROGRAM"
        raise ValueError(f"advise takes a trace (NAME.npz), --pid N, or a program after two dashes: -- {named}")
    return Path(words[0])


def _measured_with(path: Path) -> list[Setting]:
    known = path.with_suffix(".json")
    return read_measured(known) if known.exists() else []


def _prices(named: str | None, cpu: Cpu) -> Table:
    """The table that is named; by default the stored one of this CPU's maker."""
    return read_table(named or stored_for(cpu.name))


def stored_for(cpu: str) -> str:
    """The stored table that comes nearest to a CPU: of its maker, else the first."""
    stored = {name: read_table(name).machine for name in tables()}
    maker = next((word for word in ("AMD", "Intel") if word in cpu), "")
    return next((name for name, machine in stored.items() if maker in machine), next(iter(stored)))


def _judged(chosen: Namespace, trace: Trace, settings: list[tuple[int, ...]], table: Table, cpu: Cpu) -> Advice:
    policy = policy_of(chosen, trace.kernel) if chosen.policy is not None or chosen.set else None
    with progress_line(chosen.verbose) as tell:
        return advised(
            trace, settings, policy, table=table, cpu=cpu, jobs=os.cpu_count() or 1,
            progress=lambda done, total: tell(f"replayed {done} of {total}"),
        )  # fmt: skip


def _told(chosen: Namespace, found: Advice, figure: Path) -> int:
    """Print it, and write the figure."""
    figure = Path(chosen.figure) if chosen.figure else figure
    if chosen.json:
        print(json.dumps(advice_json(found)))
    else:
        print(advice_text(found))
    figure.write_text(advice_svg(found), encoding="utf-8")
    if not chosen.json:
        print(f"{figure}")
    return 1 if not found.trust or found.wrong else 0
