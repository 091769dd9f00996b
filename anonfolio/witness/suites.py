"""The kernel's selftests by suite: what there is, what is left out and why, and how they come out under a policy.

Those of `cow.c` are made (`cow`); all others are files in ``anonfolio/selftests``, one a suite, of such lines:

    suite merge.c                   what follows are cases of tools/testing/selftests/mm/merge.c
    pages 16                        fields of a scenario; here they hold for all cases, in a case for it alone
    case NAME                       a case begins; its steps are written as in scenario files
    each K 2 3 4                    it is as many cases: with 2, 3 and 4 where its name and lines say $K
    each K,N 2,3 4,5                the same with two at once
    needs FIELD !FIELD FIELD!=VALUE fields of a policy: kernels where they are not so are older than the case
    write 0 0..3 7                  a span of pages is as many accesses; without a byte it is the page's number + 1
    read 0 2 -> 7                   the step returns 7; -> 1..4 for the span 0..3: 1, 2, 3 and 4
    madvise 0 0 4 free -> EINVAL    it is refused with that errno (SIGSEGV, for an access)
    vma 0 2 0..3                    the mapping of process 0 with page 2 is pages 0..3 (``-``: there is none)
    vmas 0 2                        process 0 has two mappings
    maps 0 0..3 2                   these pages map folios of order 2 (or: nothing, zero, something)
    huge 0 1                        one folio is mapped by a PMD
    flags 0 2 wr !nh                VmFlags of /proc/PID/smaps that its mapping has, and has not
    need maps 0 0 9                 where that does not hold the case is skipped
    left NAME: why                  a case that is not here

Written in words of our own after what the C programs do; the kernel's text is under another licence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ..kernel.policy import Policy, released
from ..program.formats import read_text
from ..program.ops import TABLE, ScenarioError
from ..program.scenario import Scenario
from .cow import LEFT_OUT, cow_selftests
from .here import NotLive
from .selftests import CHECKS, DONE, Check, NotBacked, Selftest

DIRECTORY = Path(__file__).parent.parent / "selftests"


@dataclass(frozen=True)
class Suite:
    """One of the kernel's test programs: what of it is here, and by name why the rest is not."""

    name: str
    cases: tuple[Selftest, ...]
    left_out: Mapping[str, str]


@cache
def suites() -> dict[str, Suite]:
    """All of them by name, in the order of the files' names, `cow.c` first."""
    found = [Suite("cow.c", tuple(cow_selftests()), LEFT_OUT)]
    found += [read_suite(path) for path in sorted(DIRECTORY.glob("*.selftest"))]
    return {suite.name: suite for suite in found}


def suites_named(names: Sequence[str]) -> list[Suite]:
    """Suites by name, all without one. The name of a case, or a part of such names, means these cases alone."""
    if not names:
        return list(suites().values())
    return [suite for name in names for suite in _named(name)]


def _named(name: str) -> list[Suite]:
    if name in suites():
        return [suites()[name]]
    found = [
        Suite(suite.name, cases, {})
        for suite in suites().values()
        if (cases := tuple(case for case in suite.cases if name.strip() and name in case.name))
    ]
    if not found:
        raise ValueError(
            f"there is no selftest {name!r:.60}; there are {', '.join(suites())}, or a part of a case's name"
        )
    return found


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass
class _Block:
    """Lines of a case, or those before the first, each with its number."""

    name: str
    fields: dict[str, str] = field(default_factory=dict)
    variables: dict[str, list[str]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    lines: list[tuple[int, str]] = field(default_factory=list)


def read_suite(path: Path) -> Suite:
    """Read one file; ScenarioError names the line that is wrong."""
    head = _Block("")
    blocks, left, name = [head], dict[str, str](), ""
    for number, line in enumerate(read_text(path, ScenarioError).splitlines(), 1):
        word, _, rest = line.split("#", 1)[0].strip().partition(" ")
        block = blocks[-1]
        if word == "suite":
            name = rest
        elif word == "case":
            blocks.append(_Block(rest, dict(head.fields), {}, head.needs))
        elif word == "left":
            case, _, why = rest.partition(": ")
            left[case] = why
        elif word == "each":
            variable, *values = rest.split()
            block.variables[variable] = values
        elif word == "needs":
            block.needs += tuple(rest.split())
        elif word in TABLE or word in CHECKS or word == "need":
            block.lines.append((number, f"{word} {rest}"))
        elif word:
            block.fields[word] = rest
    return Suite(name, tuple(case for block in blocks[1:] for case in _cases(name, block, path.name)), left)


def _cases(suite: str, block: _Block, source: str) -> Iterator[Selftest]:
    for values in product(*block.variables.values()):
        known = {
            variable: value
            for variables, row in zip(block.variables, values, strict=True)
            for variable, value in zip(variables.split(","), row.split(","), strict=True)
        }

        def said(text: str, known: dict[str, str] = known) -> str:
            return re.sub(r"\$(\w+)", lambda found: known.get(found[1], found[0]), text)

        steps, checks = list[str](), list[Check]()
        for number, line in block.lines:
            try:
                _read_line(said(line), steps, checks)
            except (ValueError, IndexError, KeyError) as error:
                raise ScenarioError(f"{source}, line {number}: {error}") from None
        fields = [f"{name} {said(value)}" for name, value in block.fields.items()]
        name = said(block.name)
        scenario = Scenario.parse("\n".join([*fields, *steps]), f"{source}, case {name}").but(
            name=f"{suite}: {name}", about=""
        )
        yield Selftest(suite, name, scenario, tuple(checks), block.needs)


def _read_line(line: str, steps: list[str], checks: list[Check]) -> None:
    words = line.split()
    if words[0] not in TABLE:
        needed = words[0] == "need"
        what, *rest = words[needed:]
        checks.append(Check(len(steps), what, _ARGUMENTS[what](*rest), needed))
        return
    text, arrow, outcome = line.partition("->")
    words = text.split()
    pages = _span(words[2]) if TABLE[words[0]].access else range(1)
    values = _values(outcome.strip(), len(pages)) if arrow else [None] * len(pages)
    for page, value in zip(pages, values, strict=True):
        step = list(words)
        if TABLE[words[0]].access:
            step[2] = str(page)
            if words[0] == "write" and len(words) == 3:
                step.append(str((page + 1) % 256))
        steps.append(" ".join(step))
        if arrow:
            came = (value, None) if isinstance(value, str) else (DONE, value)
            checks.append(Check(len(steps), "came", came))


def _values(outcome: str, count: int) -> Sequence[int | str]:
    """What each of so many steps returns, or which errno refuses it."""
    if not outcome[:1].isdigit():
        return [outcome] * count
    values = _span(outcome)
    return values if len(values) == count else [values.start] * count


def _span(text: str) -> range:
    """``3`` or ``3..5`` as a range; ``-`` is empty."""
    if text == "-":
        return range(0)
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


_ARGUMENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "vma": lambda process, page, span: (int(process), int(page), _span(span)),
    "vmas": lambda process, count: (int(process), int(count)),
    "maps": lambda process, span, kind: (int(process), _span(span), int(kind) if kind.isdigit() else kind),
    "huge": lambda process, count: (int(process), int(count)),
    "flags": lambda process, page, *words: (int(process), int(page), words),
}


# --- judging --------------------------------------------------------------------------------------------------------

MENDED = ("unshares_zero_page",)
"""What some cases came with, and test (6.2): a released kernel without it is older than they are, others fail them."""

Problems = Callable[[Selftest], list[str]]


class Verdict(NamedTuple):
    """How one case came out: it ran and these are its problems, or it did not, and why."""

    case: Selftest
    problems: tuple[str, ...] = ()
    skipped: str = ""


def judged(cases: Iterable[Selftest], policy: Policy, ask: Problems | None = None) -> Iterator[Verdict]:
    """Each case under a policy, or as `ask` answers for a kernel that the policy models."""
    mended = () if ask or released(policy) else MENDED
    for case in cases:
        if field := case.lacks(policy, mended):
            yield Verdict(case, skipped=f"not in this kernel ({field})")
        elif ask and case.not_live:
            yield Verdict(case, skipped=case.not_live)
        else:
            try:
                yield Verdict(case, tuple(ask(case) if ask else case.on_model(policy)))
            except NotBacked:
                yield Verdict(case, skipped="this kernel has no folio of that size")
            except NotLive as reason:
                yield Verdict(case, skipped=str(reason))


def disagreements(of_kernel: Iterable[Verdict], policy: Policy) -> Iterator[str]:
    """The cases that end otherwise on a kernel than the model says under a policy, those alone that both can run."""
    for verdict in of_kernel:
        if verdict.skipped:
            continue
        (model,) = judged([verdict.case], policy)
        if not model.skipped and model.problems != verdict.problems:
            case = f"{verdict.case.suite}, {verdict.case.name}"
            yield f"{case}: the kernel {_ended(verdict)}; {policy.name} {_ended(model)}"


def _ended(verdict: Verdict) -> str:
    return f"fails ({verdict.problems[0]})" if verdict.problems else "passes"


class Row(NamedTuple):
    """One line of the table: how many cases a suite has, how many ran and passed, and by reason how many did not."""

    suite: str
    cases: int
    run: int
    passed: int
    left_out: Counter[str]


def row(suite: Suite, verdicts: Sequence[Verdict]) -> Row:
    """The counts of a suite."""
    ran = [verdict for verdict in verdicts if not verdict.skipped]
    reasons = Counter([verdict.skipped for verdict in verdicts if verdict.skipped] + list(suite.left_out.values()))
    passed = sum(not verdict.problems for verdict in ran)
    return Row(suite.name, len(verdicts) + len(suite.left_out), len(ran), passed, reasons)


def table(rows: Sequence[Row]) -> str:
    """The rows as text, and under them why cases are left out."""
    cases, run, passed = (sum(numbers) for numbers in zip(*(each[1:4] for each in rows), strict=True))
    total = Row("all", cases, run, passed, Counter())
    width = max(len(each.suite) for each in (*rows, total))
    lines = [f"{'suite':{width}}  cases    run  passed  left out"]
    lines += [
        f"{each.suite:{width}}  {each.cases:5}  {each.run:5}  {each.passed:6}  {each.cases - each.run:8}"
        for each in (*rows, *([total] if len(rows) > 1 else ()))
    ]
    for each in rows:
        lines += [f"{each.suite}: {count} left out: {why}" for why, count in sorted(each.left_out.items())]
    return "\n".join(lines)
