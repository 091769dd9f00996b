"""The kernel's selftests, suite by suite: what each check means, that released kernels pass, and what is written of it.

``python tests/test_selftests.py`` writes the tables of docs/SELFTESTS.md anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from live_support import PATIENCE_S, needs_kernel, undisturbed

import anonfolio as af
from anonfolio.__main__ import DIFFERENT, EQUAL, WRONG_INPUT, main
from anonfolio.kernel import faults, fork
from anonfolio.kernel.history import HISTORY
from anonfolio.kernel.policy import POLICIES
from anonfolio.kernel.sizes import ANON_ORDERS
from anonfolio.program.ops import TABLE
from anonfolio.witness import suites as shelf
from anonfolio.witness.cow import BACKINGS, CASES, cow_selftests
from anonfolio.witness.selftests import CHECKS, NotBacked, Selftest
from anonfolio.witness.suites import Suite, Verdict, judged, read_suite, row, suites

if TYPE_CHECKING:
    from anonfolio.witness.live.kernel import LiveKernel

DOCUMENT = Path(__file__).parent.parent / "docs" / "SELFTESTS.md"
RELEASES = sorted({change.release for change in HISTORY}, key=lambda name: [int(part) for part in name.split(".")])
FILES = [suite for suite in suites().values() if suite.name != "cow.c"]
FILED = {f"{suite.name}: {case.name}": case for suite in FILES for case in suite.cases}


def passes(case: Selftest, policy: af.Policy) -> bool:
    """Whether a case passes; where its kernel has no folio of that size it does not."""
    try:
        return case.on_model(policy) == []
    except NotBacked:
        return False


# --- what comes out -------------------------------------------------------------------------------------------------


@pytest.mark.sweep(20)
@pytest.mark.parametrize("release", RELEASES)
def test_each_released_kernel_passes_what_it_has(release: str) -> None:
    policy = af.Policy.at(release)
    verdicts = [verdict for suite in FILES for verdict in judged(suite.cases, policy)]
    assert [(verdict.case.name, verdict.problems) for verdict in verdicts if verdict.problems] == []
    assert any(not verdict.skipped for verdict in verdicts)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", [name for name, case in FILED.items() if case.needs])
def test_releases_without_what_a_case_needs_fail_it(name: str) -> None:
    """All of them, and there is one for each field: otherwise what is needed would only hide the case."""
    case = FILED[name]
    without = [policy for release in RELEASES if case.lacks(policy := af.Policy.at(release))]
    assert {policy.name: False for policy in without} == {policy.name: passes(case, policy) for policy in without}
    for field in case.needs:
        assert any(replace(case, needs=(field,)).lacks(policy) for policy in without), f"every release has {field}"


@cache
def came_out(policy: str) -> dict[str, list[Verdict]]:
    return {name: list(judged(suite.cases, af.policy_named(policy))) for name, suite in suites().items()}


# --- cow.c ----------------------------------------------------------------------------------------------------------

COW = suites()["cow.c"].cases


@pytest.mark.sweep(9)
@pytest.mark.parametrize("policy", POLICIES)
def test_cow_holds_under_every_policy(policy: str) -> None:
    """RFC v2 too: none of these pins a page that was never shared beside one that is, which is what its copy loses."""
    assert [verdict for verdict in came_out(policy)["cow.c"] if verdict.problems] == []


@pytest.mark.sweep(9)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_size_of_cow_that_a_policy_has_is_tested(policy: str) -> None:
    """What is skipped is skipped for its size alone, or for a long-term pin that saw the zero page until 6.2."""
    chosen = af.policy_named(policy)
    sizes = {*chosen.fixed_orders, *chosen.knob_orders, 0}
    for verdict in came_out(policy)["cow.c"]:
        order = next((check.arguments[2] for check in verdict.case.checks if check.needed), 0)
        assert bool(verdict.skipped) == (order not in sizes or bool(verdict.case.lacks(chosen)))


def test_long_pins_for_reading_fail_before_6_2() -> None:
    """They came together with the fix that they test."""
    found = [case for case in COW if case.needs == ("unshares_zero_page",)]
    assert len(found) == 4
    assert all(case.on_model(af.LINUX_6_3) for case in found)


def test_names_of_cow_are_those_of_the_selftest_on_each_backing() -> None:
    names = [case.name for case in COW]
    assert len(names) == len(CASES) * (2 + 4 * len(ANON_ORDERS)) + 4 + 6
    assert "vmsplice() + unmap in child ... with single PTE of THP (64 kB)" in names
    assert "Basic COW after fork() ... with base page" in names
    assert "fork() with an iouring fixed buffer ... with THP (2048 kB)" in names
    assert not any("with THP (64 kB)" in name for name in names)
    assert len(CASES) == 14
    assert len(BACKINGS) == 5
    assert {case.not_live for case in COW} == {"", f"pin_ro: {TABLE['pin_ro'].not_live}"}
    assert [case.name for case in cow_selftests(sizes=())] == [
        name for name in names if name.endswith(("base page", "shared zeropage"))
    ]


def test_kernel_that_breaks_a_promise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    some = [case for case in COW if case.name.endswith(("with base page", "with PTE-mapped THP (64 kB)"))]

    def failing() -> set[str]:
        return {verdict.case.name.split(" ... ")[0] for verdict in judged(some, af.LINUX_6_15) if verdict.problems}

    with monkeypatch.context() as broken:
        # A pinned page is shared like any other: what the process writes next, the device does not see.
        broken.setattr(fork, "folio_needs_cow_for_dma", lambda mm, folio: False)
        assert failing() == {"fork() with an iouring fixed buffer"}
    with monkeypatch.context() as broken:
        # Every page is reused, shared or not.
        broken.setattr(faults, "wp_can_reuse_anon_folio", lambda vmf: range(vmf.vpn, vmf.vpn + 1))
        assert {"Basic COW after fork()", "vmsplice() + unmap in child"} <= failing()


# --- the document ---------------------------------------------------------------------------------------------------


def document() -> str:
    """The tables: what each policy passes, what fails, what is left out."""
    names = ["5.10", *POLICIES]
    lines = [f"| suite | cases | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for suite in suites().values():
        counts = [row(suite, came_out(name)[suite.name]) for name in names]
        cells = " | ".join(f"{each.passed} of {each.run}" for each in counts)
        lines.append(f"| `{suite.name}` | {counts[0].cases} | {cells} |")
    lines += ["", "| suite | case | not passed by | on |", "|---|---|---|---|"]
    for suite in suites().values():
        failing: dict[tuple[str, str], list[str]] = {}
        for name in names:
            for verdict in came_out(name)[suite.name]:
                if verdict.problems:
                    case, _, backing = verdict.case.name.partition(" ... with ")
                    failing.setdefault((case, name), []).append(backing)
        lines += [
            f"| `{suite.name}` | {case} | {name} | {', '.join(found)} |" for (case, name), found in failing.items()
        ]
    lines += ["", "| suite | left out | why |", "|---|---|---|"]
    for suite in suites().values():
        lines += [f"| `{suite.name}` | {name} | {why} |" for name, why in suite.left_out.items()]
    return "\n".join(lines) + "\n"


TABLES_BEGIN = "<!-- tables -->\n"


@pytest.mark.long
def test_the_document_says_what_comes_out() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.partition(TABLES_BEGIN)[2] == document(), "make it anew with: python tests/test_selftests.py"


def test_no_case_is_both_here_and_left_out_and_each_that_is_out_says_why() -> None:
    for suite in suites().values():
        names = Counter(case.name for case in suite.cases)
        assert max(names.values()) == 1
        assert not set(names) & set(suite.left_out)
        assert all(len(why) > 10 for why in suite.left_out.values())
        assert all(case.checks for case in suite.cases)


# --- what is written, and what it means -----------------------------------------------------------------------------

HEAD = "suite mine.c\npages 8\norders 2\n"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of selftests that is the only suite beside cow.c."""
    monkeypatch.setattr(shelf, "DIRECTORY", tmp_path)
    monkeypatch.setattr(shelf, "cow_selftests", lambda: COW)
    monkeypatch.setattr(shelf, "suites", cache(suites.__wrapped__))
    return tmp_path / "mine.selftest"


def suite_of(path: Path, text: str) -> Suite:
    path.write_text(HEAD + text, encoding="utf-8")
    return read_suite(path)


RIGHT_AND_WRONG = (
    ("read 0 2 -> 0", "read 0 2 -> 1", "returned 0, not 1"),
    ("write 0 0..3\nread 0 0..3 -> 1..4", "write 0 0..3\nread 0 0..3 -> 1..4\nread 0 1 -> 1", "returned 2, not 1"),
    ("munmap 0 2 1\nread 0 2 -> SIGSEGV", "munmap 0 2 1\nread 0 2", "was refused (SIGSEGV), not was done"),
    ("munmap 0 2 1\nmadvise 0 0 8 dontneed -> ENOMEM", "madvise 0 0 8 dontneed -> ENOMEM", "was done, not was refused"),
    ("munmap 0 2 1\nmadvise 0 0 8 dontneed -> ENOMEM", "munmap 0 2 1\nmadvise 0 0 8 dontneed -> EINVAL", "(EINVAL)"),
    ("munmap 0 2 1\nvma 0 0 0..1", "munmap 0 2 1\nvma 0 0 0..2", "range(0, 2), not range(0, 3)"),
    ("munmap 0 2 1\nvma 0 2 -", "vma 0 2 -", "range(0, 8), not range(0, 0)"),
    ("munmap 0 2 1\nvmas 0 2", "munmap 0 2 1\nvmas 0 1", "process 0 has 2 mappings, not 1"),
    ("write 0 0\nmaps 0 0..3 2", "write 0 0\nmaps 0 0..4 2", "page 4 of process 0 maps nothing, not a folio of order"),
    ("write 0 0\nmaps 0 4..7 nothing", "write 0 0\nmaps 0 3 nothing", "page 3 of process 0 maps a folio of order 2"),
    ("read 0 0\nmaps 0 0 zero", "write 0 0\nmaps 0 0 zero", "page 0 of process 0 maps a folio of order 2, not zero"),
    ("read 0 0\nmaps 0 0 something", "maps 0 0 something", "page 0 of process 0 maps nothing, not something"),
    ("write 0 0\nhuge 0 0", "write 0 0\nhuge 0 1", "PMDs of process 0 map 0 folios, not 1"),
    ("flags 0 0 wr hg !nh", "flags 0 0 wr hg nh", "has not nh"),
    ("mprotect 0 0 8 1\nflags 0 3 rd !wr", "flags 0 3 rd !wr", "has not !wr"),
)  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "says"), RIGHT_AND_WRONG)
def test_each_check_holds_where_it_is_so_and_says_where_not(right: str, wrong: str, says: str, written: Path) -> None:
    [good, bad] = suite_of(written, f"case good\n{right}\ncase bad\n{wrong}\n").cases
    assert good.on_model(af.LINUX_6_15) == []
    [problem] = bad.on_model(af.LINUX_6_15)
    assert says in problem


def test_every_kind_of_check_is_tried() -> None:
    words = {line.split()[0] for right, _, _ in RIGHT_AND_WRONG for line in right.splitlines()}
    assert set(CHECKS) <= words


def test_variables_make_cases_and_a_case_has_fields_of_its_own(written: Path) -> None:
    made = suite_of(
        written, "case folios of order $K\norders $K\neach K 2 3\nneed maps 0 0 $K\nwrite 0 0 9\nmaps 0 0 $K\n"
    )
    assert [case.name for case in made.cases] == ["folios of order 2", "folios of order 3"]
    assert [case.scenario.orders for case in made.cases] == [(2,), (3,)]


def test_what_is_needed_skips_and_what_came_later_is_not_in_this_kernel(written: Path) -> None:
    made = suite_of(
        written, "case sized\nwrite 0 0\nneed maps 0 0 2\ncase later\nneeds moves_many_vmas\nread 0 0 -> 0\n"
    )
    verdicts = list(judged(made.cases, af.Policy.at("6.1")))
    reasons = ["this kernel has no folio of that size", "not in this kernel (moves_many_vmas)"]
    assert [verdict.skipped for verdict in verdicts] == reasons
    assert row(made, verdicts)[1:4] == (2, 0, 0)


WRONG_LINES = {
    "case a\nread 0": "mine.selftest, line 5: ",
    "case a\nvmas 0 x": "mine.selftest, line 5: ",
    "case a\nread 0 9": "mine.selftest, case a, line 3: page 9 is outside the mapping",
    "case a\nfly 0 1": "mine.selftest, case a, line 3: 'fly' is neither a field nor an operation",
    "case a\nwrite 0 $K": "mine.selftest, line 5: ",
}


@pytest.mark.parametrize("text", WRONG_LINES)
def test_a_wrong_line_is_one_line(text: str, written: Path) -> None:
    with pytest.raises(af.ScenarioError) as caught:
        suite_of(written, text)
    assert str(caught.value).startswith(WRONG_LINES[text])
    assert "\n" not in str(caught.value)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_its_code_says_whether_all_passed(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite_of(written, "case good\nread 0 0 -> 0\ncase bad\nread 0 0 -> 1\nleft other: no such thing is modelled\n")
    assert main(["selftest", "mine.c"]) == DIFFERENT
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mine.c, bad: step 1 ['read', 0, 0] returned 0, not 1"
    assert said[2].split() == ["mine.c", "3", "2", "1", "1"]
    assert said[3] == "mine.c: 1 left out: no such thing is modelled"
    assert main(["selftest", "good", "--policy", "rfc-v2"]) == EQUAL
    assert capsys.readouterr().out.splitlines()[1].split() == ["mine.c", "1", "1", "1", "0"]
    assert main(["selftest", "nobody"]) == WRONG_INPUT
    assert "there is no selftest 'nobody'" in capsys.readouterr().err
    # A part of every name.
    assert main(["selftest", ""]) == WRONG_INPUT
    assert "there is no selftest ''" in capsys.readouterr().err


LONG_PINS = "R/O longterm GUP pin ... with shared zeropage"


def test_a_case_that_came_with_a_mend_is_skipped_by_older_kernels_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command judges what the laboratory did, whose report names it."""
    mine = tmp_path / "mine.py"
    mine.write_text("import anonfolio as af\npolicy = af.LINUX_6_15.but(name='mine', unshares_zero_page=False)\n")
    for asked in (["--policy", str(mine)], ["--set", "unshares_zero_page=false"]):
        assert main(["selftest", LONG_PINS, *asked]) == DIFFERENT
        assert f"cow.c, {LONG_PINS}: step " in capsys.readouterr().out
    mine.write_text("import anonfolio as af\npolicy = af.LINUX_6_3.but(name='mine')\n")
    for asked in (["--policy", "6.1"], ["--policy", str(mine)]):
        assert main(["selftest", LONG_PINS, *asked]) == EQUAL
        assert "1 left out: not in this kernel (unshares_zero_page)" in capsys.readouterr().out


# --- live -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel() -> Iterator[LiveKernel]:
    from anonfolio.witness.live.kernel import LiveKernel

    with LiveKernel(PATIENCE_S) as kernel:
        yield kernel


@pytest.mark.live
@needs_kernel
@pytest.mark.parametrize("name", suites())
def test_selftests_hold_on_this_kernel(name: str, kernel: LiveKernel) -> None:
    from anonfolio.witness.live.selftests import problems_live

    policy = af.policy_for_kernel(kernel.version)
    verdicts = judged(suites()[name].cases, policy, lambda case: undisturbed(lambda: problems_live(case, kernel)))
    assert [(verdict.case.name, verdict.problems) for verdict in verdicts if verdict.problems] == []


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.partition(TABLES_BEGIN)[0] + TABLES_BEGIN + document(), encoding="utf-8")
