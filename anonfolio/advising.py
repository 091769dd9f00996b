"""What ``anonfolio advise`` does: record a program or read its trace, replay it, say which sizes to take."""

from __future__ import annotations

import json
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import policy_of, progress_line, say
from .draw.advised import advice_json, advice_svg, advice_text
from .hardware.advice import SETTINGS, Advice, Ahead
from .hardware.advice import advise as advised
from .hardware.cost import Table, read_table, tables, write_table
from .hardware.cpu import Cpu, this_cpu
from .hardware.trace import (
    Setting,
    Trace,
    TraceError,
    joined,
    read_measured,
    read_trace,
    settings_named,
    size_names,
    write_measured,
    write_trace,
)
from .kernel.policy import Policy
from .program.formats import check_place
from .witness.here import need_linux

if TYPE_CHECKING:
    from .witness.live.trace import Launch

MEASURE = "measure"
"""The word for prices of this machine, measured now."""
COSTS, MEASURED_PAGES = "here.costs.json", 1 << 15
FOLLOWED_S = 10.0
"""So long is a process followed, unless told otherwise."""
Tell = Callable[[str], None]


def advise(chosen: Namespace) -> int:
    """Which sizes a program should get: 0, or 1 where the prediction does not hold or the kernel counted otherwise."""
    settings = settings_named(chosen.sizes) if chosen.sizes else list(SETTINGS)
    cpu = this_cpu()
    prices = _prices(chosen, cpu)
    if chosen.pid is not None:
        return _of_process(chosen, settings, prices, cpu)
    if chosen.program is None:
        return _of_file(chosen, settings, prices, cpu)
    return _of_program(chosen, settings, prices, cpu)


Prices = Callable[[Tell], Table]
"""What gives the table: to be called once nothing is left that could be refused, for it may measure for minutes."""


def _prices(chosen: Namespace, cpu: Cpu) -> Prices:
    """The table that is named; by default the stored one of this CPU's maker."""
    if chosen.cost != MEASURE:
        table = read_table(chosen.cost or stored_for(cpu.name))
        return lambda _: table
    need_linux()
    from .witness.live.cost import check_possible

    check_place(COSTS)
    check_possible(MEASURED_PAGES)
    return _measured_prices


def _measured_prices(tell: Tell) -> Table:
    """This machine's, for warm and for cold memory; kept in a file, for they take a minute."""
    from .witness.live.cost import measure

    table = measure(
        pages=MEASURED_PAGES, rounds=3,
        progress=lambda done, runs, what: tell(f"costs: {done} of {runs} runs; {what}"),
    )  # fmt: skip
    tell("")
    write_table(COSTS, table)
    print(f"prices of this machine are kept: --cost {COSTS} uses them again", file=sys.stderr)
    return table


def stored_for(cpu: str) -> str:
    """The stored table that comes nearest to a CPU: of its maker, else the first."""
    stored = {name: read_table(name).machine for name in tables()}
    maker = next((word for word in ("AMD", "Intel") if word in cpu), "")
    return next((name for name, machine in stored.items() if maker in machine), next(iter(stored)))


# --- a stored trace ---------------------------------------------------------------------------------------------------


def _of_file(chosen: Namespace, settings: list[tuple[int, ...]], prices: Prices, cpu: Cpu) -> int:
    path = _one_trace(chosen.what)
    if chosen.verify:
        raise ValueError("--verify runs the program again, and a trace is none: advise --verify N -- PROGRAM")
    recording = ("output", "cpus", "buffer", "most", "save", "seconds")
    _refuse(chosen, recording, "is for a recording, and a trace is one already")
    check_place(_figure(chosen, path.with_suffix("")))
    trace, known = read_trace(path), path.with_suffix(".json")
    measured = read_measured(known) if known.exists() else []
    policy = _policy(chosen, trace.kernel)
    with progress_line(chosen.verbose) as tell:
        table = prices(tell)
        found = _judged(trace, settings, policy, table, cpu, tell)
    return _told(chosen, replace(found, measured=tuple(measured)), path.with_suffix(""))


def _refuse(chosen: Namespace, names: Sequence[str], why: str) -> None:
    """Whoever gives an option that changes nothing expects something of it."""
    given = [name for name in names if getattr(chosen, name) is not None]
    if given:
        raise ValueError(f"--{given[0]} {why}")


def _one_trace(words: Sequence[str]) -> Path:
    if len(words) != 1 or not words[0].endswith(".npz"):
        named = " ".join(words) or "PROGRAM"
        raise ValueError(f"advise takes a trace (NAME.npz), or a program after two dashes: -- {named}")
    return Path(words[0])


# --- a process --------------------------------------------------------------------------------------------------------


def _of_process(chosen: Namespace, settings: list[tuple[int, ...]], prices: Prices, cpu: Cpu) -> int:
    """Follow it for some time, write its trace, advise."""
    if chosen.what or chosen.program is not None:
        raise ValueError("advise takes one thing: a process (--pid), a trace, or a program after two dashes")
    if chosen.verify:
        raise ValueError(
            "--verify runs a program again, and a process cannot be run again: advise --verify N -- PROGRAM"
        )
    _refuse(chosen, ("output", "cpus"), "is for a program that is started, and a process runs already")
    need_linux()
    from .witness.live.attach import check_process, follow
    from .witness.live.kernel import kernel_version
    from .witness.live.trace import check_traced

    check_traced()
    policy = _policy(chosen, kernel_version())
    named = _new_name(chosen, [check_process(chosen.pid)])
    with progress_line(chosen.verbose) as tell, _launch(chosen) as launch:
        table = prices(tell)
        trace = follow(chosen.pid, chosen.seconds or FOLLOWED_S, tell, launch)
        with _kept(f"{named}.npz", trace):
            found = _judged(trace, settings, policy, table, cpu, tell)
    return _told(chosen, found, named)


# --- a program --------------------------------------------------------------------------------------------------------


def _of_program(chosen: Namespace, settings: list[tuple[int, ...]], prices: Prices, cpu: Cpu) -> int:
    """Record it, write its trace, advise; with --verify run it again under each set of sizes."""
    command = _command(chosen)
    _refuse(chosen, ("seconds",), "is for a process that runs already (--pid), and a program runs to its end")
    need_linux()
    from .witness.live.kernel import kernel_version
    from .witness.live.trace import check_program, check_traced, record

    # A policy that makes no sense should be told before the program runs.
    policy = _policy(chosen, kernel_version())
    named = _new_name(chosen, command)
    again = input_again(chosen.verify)
    check_program(command[0], Path.cwd(), os.environ)
    check_traced(settings if chosen.verify else ())
    ahead = Ahead(settings, policy, os.cpu_count() or 1)
    with progress_line(chosen.verbose) as tell, _launch(chosen) as launch, ahead:
        table = prices(tell)
        trace = record(command, Path.cwd(), {"command": " ".join(command)}, tell, launch, ahead.settle)
        with _kept(f"{named}.npz", trace):
            found = _judged(trace, settings, policy, table, cpu, tell, ahead)
        if chosen.verify:
            measured = tuple(_measured(command, settings, chosen.verify, again, launch, tell))
            write_measured(f"{named}.json", measured, kernel=trace.kernel, rounds=chosen.verify)
            found = replace(found, measured=measured)
    return _told(chosen, found, named)


def _measured(
    command: list[str],
    settings: list[tuple[int, ...]],
    rounds: int,
    again: Callable[[], None],
    launch: Launch,
    tell: Tell,
) -> list[Setting]:
    """What the kernel counts, in interleaved rounds. The program's output was seen already."""
    from .witness.live.trace import measure

    measured: list[Setting] = []
    with open(os.devnull, "wb") as nowhere:
        silent = replace(launch, output=nowhere.fileno(), errors=nowhere.fileno())
        for number in range(1, rounds + 1):
            for orders in settings:
                tell(f"round {number} of {rounds}: {size_names(orders)}")
                again()
                measured += measure(command, Path.cwd(), [orders], 1, None, silent)
    return [joined([each for each in measured if each.orders == orders]) for orders in settings]


def _command(chosen: Namespace) -> list[str]:
    if chosen.what:
        raise ValueError(f"advise takes one thing: {chosen.what[0]}, or the program after the two dashes")
    if not chosen.program:
        raise ValueError("nothing stands after the two dashes; write the program there: advise -- PROGRAM ARGUMENTS")
    return list(chosen.program)


def _new_name(chosen: Namespace, command: Sequence[str]) -> Path:
    """What the files are called that come of it: as --save says, or as what runs, in this folder."""
    named = Path(chosen.save) if chosen.save else Path(f"{called(command)}.advise")
    if not named.parent.is_dir():
        raise ValueError(f"{named}: there is no folder {named.parent}")
    there = Path(f"{named}.npz")
    check_place(there, replaced=True)
    check_place(_figure(chosen, named))
    if there.exists():
        try:
            read_trace(there)
        except TraceError:
            raise ValueError(f"{there} is there already, and no trace; say with --save where to write") from None
    return named


SCRIPTS = (".py", ".pl", ".rb", ".js", ".mjs", ".sh", ".lua", ".php", ".R", ".r", ".jl", ".tcl", ".awk", ".sql", ".jar")
"""How names of files end that an interpreter is given."""


def called(command: Sequence[str]) -> str:
    """A word for a command: the script that an interpreter is given, else the program."""
    scripts = [word for word in command[1:3] if Path(word).suffix in SCRIPTS and Path(word).is_file()]
    return Path(scripts[0] if scripts else command[0]).stem or "program"


def input_again(rounds: int | None) -> Callable[[], None]:
    """What gives the program its input from the start once more."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return lambda: None
    if stat.S_ISREG(mode):
        start = os.lseek(0, 0, os.SEEK_CUR)
        return lambda: void(os.lseek(0, start, os.SEEK_SET))
    if rounds and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise ValueError("--verify runs the program again, and its input is a pipe, which it reads once: give a file")
    return lambda: None


def void(_: object) -> None:
    """Nothing comes of it."""


@contextmanager
def _launch(chosen: Namespace) -> Iterator[Launch]:
    """How to run it: the environment as it is; its output where ours is not."""
    from .witness.live.trace import BUFFER_KIB, Launch, most_bytes

    cpus, most = cpus_named(chosen.cpus), most_bytes(chosen.most)
    room_kib = chosen.buffer << 10 if chosen.buffer else BUFFER_KIB
    launch = Launch(dict(os.environ), cpus=cpus, buffer_kib=room_kib, most_bytes=most)
    if chosen.output is None:
        sys.stderr.flush()
        yield replace(launch, output=2)
        return
    with open(chosen.output, "wb", buffering=0) as file:
        yield replace(launch, output=file.fileno(), errors=file.fileno())


def cpus_named(text: str | None) -> frozenset[int]:
    """``all``, or numbers such as 0,2; nothing is the one of a live run."""
    there = os.sched_getaffinity(0)
    if text is None:
        return frozenset()
    if text == "all":
        return frozenset(there)
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 6 for word in words):
        raise ValueError(f"--cpus {text!r:.40} is neither all nor numbers such as 0,2")
    missing = {int(word) for word in words} - there
    if missing:
        raise ValueError(f"there is no CPU {min(missing)} for us; there are {', '.join(map(str, sorted(there)))}")
    return frozenset(map(int, words))


# --- what both end with -----------------------------------------------------------------------------------------------


def _policy(chosen: Namespace, kernel: str) -> Policy | None:
    """What is asked for, else none. Once: whenever a file of policies is read, its functions are others."""
    policy = policy_of(chosen, kernel)
    return policy if chosen.policy is not None or chosen.set else None


def _judged(
    trace: Trace, settings: list[tuple[int, ...]], policy: Policy | None, table: Table, cpu: Cpu, tell: Tell,
    ahead: Ahead | None = None,
) -> Advice:  # fmt: skip
    def progress(done: int, total: int) -> None:
        tell(f"replayed {done} of {total}")

    jobs = os.cpu_count() or 1
    return advised(trace, settings, policy, table=table, cpu=cpu, jobs=jobs, progress=progress, ahead=ahead)


@contextmanager
def _kept(path: str, trace: Trace) -> Iterator[None]:
    """Write the trace; where there is no memory to replay it, say that it is there."""
    write_trace(path, trace)
    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"{str(error) or 'out of memory'}; the trace is kept: anonfolio advise {path}") from error


def _figure(chosen: Namespace, named: Path) -> Path:
    return Path(chosen.figure or f"{str(named).removesuffix('.advise')}.advise.svg")


def _told(chosen: Namespace, found: Advice, named: Path) -> int:
    """Print it, and then write the figure: who waits for the table should not wait for that."""
    figure = _figure(chosen, named)
    print(json.dumps(advice_json(found)) if chosen.json else advice_text(found), flush=True)
    figure.write_text(advice_svg(found), encoding="utf-8")
    if not chosen.json:
        say(figure if chosen.what else f"{figure}  {named}.npz")
    return 1 if found.wrong or not found.trust else 0
