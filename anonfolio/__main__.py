"""The command line: step through scenarios, replay recordings, make them, compare with the kernel, search."""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from . import advising, commands, interrupted
from .console import make_readable
from .kernel.policy import POLICIES
from .program.formats import check_place
from .program.policy_file import blamed
from .program.random_programs import ANY, KINDS
from .program.search import DEFAULT, EXTRA_OPERATIONS, MEMORY_MIB, OPERATIONS
from .program.starts import STARTS

EQUAL, DIFFERENT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, interrupted.INTERRUPTED
"""Exit codes: it looked and found nothing; a difference or a bug; what was asked makes no sense; Ctrl-C."""
CUT_OFF = 141
"""Whoever read the output went away before the answer; what shells say of a program that SIGPIPE ended."""

Option = tuple[tuple[str, ...], dict[str, Any]]


class Command(NamedTuple):
    """One command, or with a space in its name one action of it."""

    name: str
    run: Callable[[argparse.Namespace], int]
    help: str
    options: tuple[Option, ...]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (see `EQUAL`, `DIFFERENT`, `WRONG_INPUT`, `INTERRUPTED`, `CUT_OFF`)."""
    interrupted.begun()
    if sys.stdout is None:
        return _told("standard output is closed; nobody would see the answer", WRONG_INPUT)
    if sys.stderr is None:
        # What is told besides goes nowhere then: not into the answer, and not into the next file that is opened.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    make_readable(sys.stdout, sys.stderr)
    words, program = _apart(sys.argv[1:] if arguments is None else arguments)
    chosen = _chosen(words, Namespace(program=program))
    code = CUT_OFF
    try:
        code = chosen.run(chosen)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _told("stopped", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough (| head): a known answer stays what it is.
        _forget(sys.stdout)
    except OSError as error:
        _forget(sys.stdout)
        return _told(": ".join(filter(None, (str(error.filename or ""), error.strerror))), WRONG_INPUT)
    except (ValueError, MemoryError) as error:
        return _told(blamed(error) or f"{str(error) or 'out of memory'}{_misplaced(chosen, words)}", WRONG_INPUT)
    except Exception as error:
        # A rule of the reader's own raised when it was asked; all else is a bug of ours, with its traceback.
        if not (where := blamed(error)):
            raise
        return _told(where, WRONG_INPUT)
    return code


def _chosen(words: list[str], chosen: Namespace) -> Namespace:
    """The words as options. What is left over is wrong; where it names a policy, how a policy is named is said."""
    parser = _parser()
    chosen, left = parser.parse_known_args(words, chosen)
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}{_misplaced(chosen, left)}")
    return chosen


def _misplaced(chosen: Namespace, words: list[str]) -> str:
    """Where a policy was named as another command takes it: how this one does."""
    if chosen.command == "lab":
        named = any(word.startswith("--policy") for word in words)
        return "; lab takes the policy itself, and --against another one" if named else ""
    # What an option has, or belongs to one, stands where it should.
    files = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word.endswith(".py") and not word.startswith("-") and not before.startswith("--")
    ]
    if not files or "policy" not in chosen:
        return ""
    # A long name would take the place of the reason before it.
    return f"; a policy in a file is named so: --policy {files[0] if len(files[0]) < LONGEST // 4 else 'FILE.py'}"


def _apart(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What is ours, and after two dashes the program to run, which has options of its own; None where there is none."""
    if words[:1] != ["advise"] or "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


LONGEST = 1000
"""What is wrong is said in so many characters at most, whatever a file is called or holds."""


def _line(what: str) -> str:
    """One line for a terminal: what is no character to see, line ends among it, as an escape."""
    return _short("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in _short(what)))


def _short(text: str) -> str:
    """Without its middle where it is too long: it begins with a name, and ends with the reason."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 4]} … {text[-3 * LONGEST // 4 :]}"


def _told(what: str, code: int) -> int:
    print(f"anonfolio: {_line(what)}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong with an option."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"anonfolio: {_line(message)}; see {self.prog} --help\n")


class _Once(argparse.Action):
    """What takes a value is said once: of two values one would be dropped, and nobody told."""

    said = False

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        if self.said:
            parser.error(f"{option_string} is said twice")
        self.said = True
        setattr(namespace, self.dest, values)


def _forget(stream: Any) -> None:
    """What could not be written: the interpreter must not try again when it ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> _Parser:
    parser = _Parser(prog="anonfolio", description=__doc__)
    groups = {"": parser.add_subparsers(dest="command", required=True)}
    for group, help in GROUPS.items():
        groups[group] = groups[""].add_parser(group, help=help).add_subparsers(dest="action", required=True)
    for command in COMMANDS:
        group, _, name = command.name.rpartition(" ")
        own = groups[group].add_parser(name, help=command.help)
        own.set_defaults(run=command.run)
        for names, how in command.options:
            once: dict[str, Any] = {"action": _Once} if names[0].startswith("-") and "action" not in how else {}
            own.add_argument(*names, **once, **how)
    return parser


# --- what options take ----------------------------------------------------------------------------------------------


def _count(text: str) -> int:
    """A number of things, one at least."""
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _whole(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no whole number")
    return int(text)


def _count_or_any(text: str) -> int | None:
    return None if text == "any" else _count(text)


def _bytes(text: str) -> int:
    """As people write sizes: 512k, 16M, 1GiB; without a letter it is bytes."""
    match = re.fullmatch(r"([1-9][0-9]{0,9})(?:([kmg])(?:i?b)?)?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no size such as 512K or 16M")
    return int(match[1]) << 10 * (" kmg".index(match[2] or " "))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds, which is above 0")
    return seconds


def _seed(text: str) -> int:
    """A seed, or one that nobody has chosen; it is printed."""
    if text == "fresh":
        return random.SystemRandom().randrange(10**6) * 1000
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is neither a number from 0 on nor 'fresh'")
    return int(text)


def _place(text: str) -> str:
    """Where a text is to be written, tried before anything else is."""
    return _tried(text, replaced=False)


def _new_place(text: str) -> str:
    """Where a file is to be written that appears when it is complete."""
    return _tried(text, replaced=True)


def _tried(text: str, replaced: bool) -> str:
    try:
        check_place(text, replaced)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


_FILE: dict[str, Any] = {"type": _place, "metavar": "FILE"}


def _option(*names: str, **how: Any) -> Option:
    return names, how


_MOST = _option("--most", type=_bytes, metavar="SIZE", help="record no more than that, 7 bytes an access (default 56M)")


def _policy(default: str, name: str | None = None) -> tuple[Option, Option]:
    return (
        _option(
            "--policy", default=name,
            help=f"one of {', '.join(POLICIES)}, a release such as 6.14, or a file FILE.py (default: {default})",
        ),
        _option(
            "--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE",
            help="change fields of it, such as copy_requires_ro=true",
        ),
    )  # fmt: skip


_PROGRAMS = (
    _option(
        "--seed", type=_seed, default=0, metavar="N", help='of the first program; the next has the next; or "fresh"'
    ),
    _option("--kind", choices=(*KINDS, ANY), default="mixed", help="what the programs are about (default mixed)"),
)  # fmt: skip
_ROUNDS = _option("--rounds", type=_count, default=3, help="how often each setting is measured (default 3)")


def _sizes(default: str) -> Option:
    return _option(
        "--sizes", nargs="+", metavar="SIZES", help=f"such as 64k,16k+1M,all or all+2M; by default {default}"
    )


# --- the commands ---------------------------------------------------------------------------------------------------

GROUPS = {
    "trace": "a real compile: record it, replay it, measure the kernel beside it",
    "cost": "what faults cost: a stored table, or this machine measured",
}
COMMANDS = (
    Command(
        "run", commands.run, "step through a scenario under a policy",
        (
            _option("scenario", help="a name (see: run list), or a scenario file (docs/OPERATIONS.md)"),
            *_policy("linux-6.15", "linux-6.15"),
            _option("--against", help="another policy, or a recorded kernel such as 6.18, to compare with"),
        ),
    ),
    Command(
        "replay", commands.replay, "run a recording against the model and compare every step",
        (
            _option("file", help="a recording (anonfolio-recording/1)"),
            *_policy("its kernel decides"),
            _option("--fields", action="store_true", help="tell what was compared of hidden state and raw entries"),
        ),
    ),
    Command(
        "search", commands.search, "look for the shortest program that breaks a promise of the kernel",
        (
            *_policy("rfc-v2", "rfc-v2"),
            _option(
                "--from", dest="start", metavar="FILE|NAME",
                help="begin where that program ends, over its mapping: a scenario's file or name (see run), or"
                f" {', '.join(STARTS)}",
            ),
            _option("--pages", type=_count, help="size of the mapping (default 4)"),
            _option("--steps", type=_count_or_any, default=6, help="longest program (default 6); any: all there are"),
            _option("--orders", type=_whole, nargs="*", help="enabled sizes (default 2)"),
            _option("--processes", type=_count, default=2, help="how many alive at once (default 2)"),
            _option(
                "--every", type=_count, default=1, metavar="N",
                help="of single pages try multiples of N alone (default 1: all)",
            ),
            _option(
                "--memory", type=_count, default=MEMORY_MIB, metavar="MIB",
                help=f"stop when it keeps more than so much (default {MEMORY_MIB})",
            ),
            _option("--jobs", type=_count, default=os.cpu_count() or 1, help="how many search (default: one a CPU)"),
            _option("--checkpoint", type=_new_place, metavar="FILE", help="keep FILE up to date, and go on from it"),
            _option(
                "--operations", nargs="+",
                help=f"from {', '.join(OPERATIONS + EXTRA_OPERATIONS)}; forkfail_after is fault injection (default:"
                " three searches, over "
                + "; over ".join(
                    " ".join(each.operations) + (f" (--steps less {each.fewer})" if each.fewer else "")
                    for each in DEFAULT
                )
                + ")",
            ),
        ),
    ),
    Command(
        "lab", commands.lab, "ask everything of a policy: what it changes, what it breaks, what it buys; a report",
        (
            _option("policy", help="FILE.py that makes one, a name such as rfc-v2, or a release"),
            _option("--against", help="the base (default: the release that differs in the fewest fields)"),
            _option("--quick", action="store_true", help="short bounds: a minute where else it is many"),
            _option("--steps", type=_count, metavar="N", help="search no longer programs, where the bounds are longer"),
            _option("--seed", type=_seed, default=0, metavar="N", help="of the first random program (default 0)"),
            _option("--jobs", type=_count, default=os.cpu_count() or 1, help="how many work (default: one a CPU)"),
            _option("-o", "--output", **_FILE, help="FILE.txt, FILE.md or FILE.html; by default it is printed"),
        ),
    ),
    Command(
        "record", commands.record, "run programs on this machine's kernel and write a recording",
        (
            _option("file", type=_new_place, help="the recording to write (NAME.json.gz)"),
            _option("scenarios", nargs="*", metavar="scenario", help="a name, a scenario file, a recording to redo"),
            _option("--random", type=_count, metavar="N", help="N random programs instead"),
            _option(
                "--counters", action="store_true",
                help="keep mapcounts and counters too; what else runs disturbs the latter",
            ),
            *_PROGRAMS,
        ),
    ),
    Command(
        "compare", commands.compare, "hold the model against this machine's kernel: random programs",
        (
            _option("--programs", type=_count, metavar="N", help="how many at most (default 100)"),
            _option("--seconds", type=_seconds, metavar="S", help="how long at most (default: until N programs ran)"),
            *_PROGRAMS,
            *_policy("the one that models this kernel"),
            _option(
                "--keep", metavar="FOLDER", help="where to keep a program that shows a difference, as a recording"
            ),
        ),
    ),
    Command(
        "selftest", commands.selftest, "the kernel's own selftests of private anonymous memory, on the model or live",
        (
            _option("names", nargs="*", metavar="NAME", help="a suite such as merge.c, or a part of cases' names"),
            *_policy("7.3; with --live, which cases a kernel has, this machine's"),
            _option("--live", action="store_true", help="ask this machine's kernel instead (root)"),
        ),
    ),
    Command(
        "advise", advising.advise, "which folio sizes a program should get, and why",
        (
            _option("what", nargs="*", metavar="FILE.npz", help="a stored trace; or -- PROGRAM, to run it (root)"),
            _sizes("4K, 64K, 16K+64K, all, 2M"),
            *_policy("the recorded kernel decides"),
            _option("--cost", metavar="TABLE", help="prices: a stored table, a file, or measure (now, here)"),
            _option("--pid", type=_count, metavar="PID", help="a process that runs already, and what it starts (root)"),
            _option("--seconds", type=_seconds, metavar="S", help="how long to follow it (default 10)"),
            _option("--verify", type=_count, metavar="N", help="run the program N times more under each set of sizes"),
            _option("--output", **_FILE, help="where the program's output goes (default: standard error)"),
            _option("--cpus", metavar="CPUS", help="where the program may run: all, or such as 0,2 (default: one)"),
            _option("--buffer", type=_count, metavar="MIB", help="room for events on each CPU at first (default 64)"),
            _MOST,
            _option("--save", metavar="NAME", help="write NAME.npz (default: as the program is called, .advise)"),
            _option("--figure", **_FILE, help="where to write the figure (default NAME.advise.svg)"),
            _option("--json", action="store_true", help="all numbers, curves too, as one line of JSON"),
            _option("-v", "--verbose", action="store_true", help="say what goes on, also where no terminal is"),
        ),
    ),
    Command(
        "trace record", commands.trace_record, "run a program under the tracepoints (root), and write its trace",
        (
            _MOST,
            _option("file", type=_new_place, help="the trace to write (NAME.npz)"),
            _option("program", nargs=argparse.REMAINDER, help="command and arguments; by default the compile"),
        ),
    ),
    Command(
        "trace replay", commands.trace_replay, "predict the faults under other sizes, and compare with the measured",
        (
            _option("file", nargs="?", help="a trace (anonfolio-trace/1); by default the compile in data/traces"),
            _sizes("the measured"),
            *_policy("the trace's kernel decides"),
            _option("--detail", action="store_true", help="by process and over time too, predicted beside measured"),
        ),
    ),
    Command(
        "trace measure", commands.trace_measure, "record the compile and measure this kernel beside it (root)",
        (
            _ROUNDS,
            _sizes("eleven"),
            _option("--save", metavar="NAME", help="write NAME.npz and NAME.json"),
        ),
    ),
    Command(
        "cost show", commands.cost_show, "print a table and the unit costs it gives",
        (_option("table", nargs="?", help="a stored table's name, or a file; by default all names"),),
    ),
    Command(
        "cost measure", commands.cost_measure, "measure this machine's kernel (root, a C compiler, a minute)",
        (
            _option("file", type=_place, nargs="?", help="where to store the table (NAME.json); else it is only shown"),
            _option("--pages", type=_count, default=1 << 16, help="base pages a mapping (default 65536, 256 MiB)"),
            _option("--rounds", type=_count, default=5, help="interleaved rounds (default 5)"),
        ),
    ),
    Command(
        "look", commands.look, "which folios back a running process, as the kernel has them (root); changes nothing",
        (
            _option("pids", nargs="+", type=_count, metavar="PID", help="the processes"),
            _option("--watch", type=_seconds, metavar="SECONDS", help="look again and again, so long apart"),
            _option("--json", action="store_true", help="every folio and every run of pages, one line a look"),
            _option("--svg", **_FILE, help="write the picture of one process, too"),
        ),
    ),
    Command(
        "homework", commands.homework, "questions drawn from the model, for everybody or for each student her own",
        (
            _option("--topic", required=True, help="touch, zero, fork, copy, reuse, pin or tlb"),
            _option("--seed", type=_seed, default=1, metavar="N", help='which questions (default 1); or "fresh"'),
            _option("--questions", type=_count, default=5, metavar="K", help="how many (default 5)"),
            _option("--answers", action="store_true", help="with what is right, and why the rest is wrong"),
            _option("--format", choices=("md", "ipynb", "gift", "json"), default="md", help="default md"),
            _option("--students", metavar="FILE", help="names, one a line: a paper of her own for each"),
            _option("--secret", metavar="FILE", help="what students' questions hang on; grade needs the same"),
            _option("--prove", action="store_true", help="the run behind each answer instead"),
            _option("-o", "--output", metavar="FILE", help="where to; with --students a folder"),
        ),
    ),
    Command(
        "grade", commands.grade, "judge what students handed in: files that notebooks and homework write",
        (
            _option("folder", help="NAME.json, or a folder NAME with such files, for each student"),
            _option("--secret", required=True, metavar="FILE", help="the one that homework was made with"),
            _option("--seconds", type=_seconds, default=10.0, metavar="S", help="for each function (default 10)"),
            _option("--only", nargs="+", default=[], metavar="NAME", help="what counts: first_touch, start_here.eight"),
            _option("-o", "--output", **_FILE, help="the scores, as CSV; by default they are printed"),
        ),
    ),
    Command(
        "figure", commands.figure, "a step of a scenario as SVG, for slides and papers",
        (
            _option("scenario", help="a name (see: run list), or a scenario file"),
            _option(
                "--step", type=_whole, default=-1, metavar="N", help="from 1; 0 is the start, -1 the last (default)"
            ),
            *_policy("linux-6.15", "linux-6.15"),
            _option("-o", "--output", **_FILE, help="NAME.svg; by default it is printed"),
        ),
    ),
    Command(
        "doctor", commands.doctor, "what this machine can show, and what to do about a no",
        (_option("--restore", action="store_true", help="put back what a killed live run left changed"),),
    ),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
