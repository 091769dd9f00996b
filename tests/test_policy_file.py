"""A policy in a file of the reader's: one loader, one line for what is wrong and where, and every command takes it."""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
import signal
import time
from pathlib import Path

import pytest

import anonfolio as af
from anonfolio.__main__ import COMMANDS, DIFFERENT, EQUAL, WRONG_INPUT, main
from anonfolio.hardware.trace import read_trace, replay
from anonfolio.kernel import asked, honest
from anonfolio.kernel.asked import RuleError
from anonfolio.kernel.late import VIRTUAL, is_timed
from anonfolio.kernel.rules import Ask, Folio, mm_id
from anonfolio.program import policy_file
from anonfolio.program.policy_file import PolicyFileError, policy_called, policy_in
from anonfolio.witness.recording import DATA_DIR
from anonfolio.witness.suites import Verdict, disagreements, suites_named

RULE = """
def alone(folio, ask):
    return ask("nobody else maps it", folio.mine == folio.mappings, yes="nobody else maps a page of it")
"""
MINE = f'import anonfolio as af\n{RULE}\nmine = af.LINUX_6_15.but(name="mine", large_reuse=alone)\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own, so that files are named as a reader names them."""
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "mine.py") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_the_policy_that_a_file_makes() -> None:
    policy = policy_called(written(MINE))
    assert policy.name == "mine"
    assert callable(policy.large_reuse)
    assert policy.but(large_reuse="mm_id") == af.LINUX_6_15.but(name="mine")


def test_what_it_started_from_is_not_what_it_means() -> None:
    made = "import anonfolio as af\nfrom anonfolio import RFC_V2\nbase = af.Policy.at('7.3')\n"
    assert policy_in(written(f"{made}new = base.but(name='new', reuse_extent='range')\n")).name == "new"
    again = f"{made}one = base.but(name='one', reuse_extent='range')\npolicy = one.but(name='two', large_reuse='never')"
    assert policy_in(written(again)).name == "two"
    assert policy_in(written(f"{made}policy = RFC_V2\n")) is af.RFC_V2


@pytest.mark.parametrize("base", ["af.LINUX_6_15", "af.Policy.at('7.3')", "af.RFC_V2"])
def test_a_policy_is_not_called_like_a_kernel_that_does_something_else(base: str) -> None:
    text = f"import anonfolio as af\npolicy = {base}.but(large_reuse='refcount_one')\n"
    assert policy_in(written(text, "my-idea.py")).name == "my-idea"


def test_what_lies_beside_the_file_can_be_imported_and_replaces_nothing() -> None:
    written(RULE, "rules_beside.py")
    written("raise RuntimeError('a module of the reader stands in for one of Python')", "random.py")
    text = "import random\nimport anonfolio as af\nfrom rules_beside import alone\n"
    policy = policy_in(written(f"{text}p = af.RFC_V2.but(name='p', large_reuse=alone)\n"))
    assert callable(policy.large_reuse)


def test_rules_of_a_file_can_be_sent_to_other_processes() -> None:
    policy = policy_in(written(MINE))
    assert pickle.loads(pickle.dumps(policy)) == policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "mine.py, line 1: SyntaxError"),
        ("\nx = nowhere\n", "mine.py, line 2: NameError: name 'nowhere' is not defined"),
        ("import anonfolio as af\nbase = af.LINUX_6_15\n", "mine.py: makes no policy; it should end with"),
        ("\npolicy = 'rfc-v2'\n", "mine.py, line 2: `policy` is a str, and should be a Policy"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
        ("raise ValueError\n", "mine.py, line 1: ValueError"),
        ("import nowhere_at_all\n", "mine.py, line 1: ModuleNotFoundError: No module named"),
        (f"{MINE}other = mine.but(name='other')\n", "makes 2 policies: mine (line 6), other (line 7); call the one"),
        (f"{MINE}wrong = mine.but(speed=9)\n", "mine.py, line 7: a policy has no field 'speed'"),
        (
            MINE.replace("return ask", "if folio.shared:\n        return False\n    return ask"),
            "mine.py, line 8: policy 'mine': large_reuse=alone says copy for a folio of order 2, 1 reference",
        ),
        (
            MINE.replace("folio.mine ==", "1 // (folio.order - 4) ==", 1),
            "mine.py, line 4: policy 'mine': large_reuse=alone raises ZeroDivisionError",
        ),
        ("\x00", "mine.py"),
        ("# coding: latin-9000\n", "mine.py"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_one_line_that_says_where(
    text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "last-page", "--policy", written(text)]) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("anonfolio: ")
    assert said in err


@pytest.mark.parametrize("name", ["missing.py", "folder.py"])
def test_a_file_that_cannot_be_read_is_named(name: str) -> None:
    Path("folder.py").mkdir()
    with pytest.raises(PolicyFileError, match=f"^{name}: "):
        policy_in(name)


def test_a_name_that_is_none_tells_of_files() -> None:
    with pytest.raises(ValueError, match=r"there is no policy 'rfc-v3'; .*, or a file FILE\.py"):
        policy_called("rfc-v3")


def test_a_file_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_file, "MOST_SECONDS", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    # Nearly all of the time is spent where an Exception is caught: a loop that does nothing is left at its jump back.
    kept = "try:\n            sum(range(20_000))\n        except Exception:\n            pass\n"
    text = MINE.replace("    return", f"    for _ in range(9_999):\n        {kept}    return")
    with pytest.raises(PolicyFileError, match=r"mine\.py, line \d+: not done after 0\.2 s"):
        policy_in(written(text))
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


LATE = MINE.replace("    return", "    if folio.refcount == 14:\n        raise KeyError('late')\n    return")
FOURTEEN = "scenario fourteen\npages 8\norders 3\nwrite 0 0 1\nfork 0\nwrite 0 0 2\nwrite 0 1 2\nwrite 0 2 2\n"
"""The third copy meets a folio with 14 references, which no rule is shown when it is looked at."""


AT_RUN_TIME = {
    "raises": ("raise KeyError('late')", ", line 5: policy 'mine': large_reuse=alone raises KeyError ('late') for "),
    "hangs": ("while True: pass", ", line 5: policy 'mine': large_reuse=alone does not come to an end for "),
    "answers in words": ("return 'yes'", "policy 'mine': large_reuse=alone returns 'yes' for "),
}  # fmt: skip


@pytest.mark.parametrize("name", AT_RUN_TIME)
def test_what_is_wrong_with_a_rule_when_it_is_asked_is_told_with_rule_line_and_facts(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "MOST_SECONDS", 0.1)
    does, said = AT_RUN_TIME[name]
    mine = written(LATE.replace("raise KeyError('late')", does))
    before = signal.getsignal(signal.SIGVTALRM)
    assert main(["run", written(FOURTEEN, "fourteen.scenario"), "--policy", mine]) == WRONG_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert "a folio of order 3, 14 references, 14 mappings" in err
    assert (signal.getsignal(signal.SIGVTALRM), signal.getitimer(signal.ITIMER_VIRTUAL)) == (before, (0, 0))


def test_orders_and_ranges_are_looked_at_each_time_they_are_asked_for() -> None:
    program = written("scenario seven\npages 7\norders 2\nwrite 0 0 1\nfork 0\nwrite 0 0 2\n", "seven.scenario")
    for field, rule, said in (
        (
            "allowed_orders",
            "lambda where: {1} if where.pages == 7 else {2}",
            "returns {1} for a mapping of 7 pages, MADV_HUGEPAGE, knobs: inherit for orders [2]; global madvise; ",
        ),
        (
            "chosen_order",
            "lambda fits, ask: fits[0] if len(fits) > 2 or fits[0] > 2 else 3",
            "returns 3 for fits=(2, 0)",
        ),
        ("copy_extent", "lambda a, ask: range(0, 2) if a.mapping.stop == 7 else a.page", "an aligned block of 1, 4, 8"),
    ):
        policy = af.LINUX_6_15.but(name="p", large_reuse="never")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(honest, f"check_{field}" if field != "copy_extent" else "check_extent", lambda *a, **k: None)
            wrong = policy.but(**{field: eval(rule)})
        with pytest.raises(ValueError, match=rf"^policy 'p': {field}=<lambda> .*{re.escape(said)}"):
            af.Scenario.load(program).run(wrong)


def test_a_rule_that_wraps_one_of_ours_is_looked_at_each_time_too() -> None:
    @functools.wraps(mm_id)
    def late(folio: Folio, ask: Ask) -> bool:
        return "yes" if folio.refcount == 14 else mm_id(folio, ask)  # type: ignore[return-value]

    policy = af.LINUX_6_15.but(name="mine", large_reuse=late)
    with pytest.raises(RuleError, match=r"^policy 'mine': large_reuse=mm_id returns 'yes' for "):
        af.Scenario.load(written(FOURTEEN, "fourteen.scenario")).run(policy)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here, so no limit")
def test_a_rule_that_asks_another_again_and_again_has_no_more_time_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MOST_SECONDS", 0.1)
    end = time.process_time() + 5

    def again(facts: str) -> int:
        while time.process_time() < end:
            with contextlib.suppress(Exception):
                asked.answer(lambda facts: sum(range(20_000)), facts)
        return 0

    with pytest.raises(ValueError, match=r"^does not come to an end for a folio \(no answer after 0\.1 s\)$"):
        asked.answer(again, "a folio")
    assert not is_timed(VIRTUAL)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here, so no limit")
def test_a_rule_that_catches_everything_is_told_again_until_it_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MOST_SECONDS", 0.1)
    end = time.process_time() + 5

    def deaf(facts: str) -> int:
        try:
            while time.process_time() < end:
                pass
        except:  # noqa: E722
            while time.process_time() < end:
                pass
        return 0

    with pytest.raises(ValueError, match=r"^does not come to an end for a folio \(no answer after 0\.1 s\)$"):
        asked.answer(deaf, "a folio")
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer here, so no limit")
def test_whoever_has_that_timer_has_it_again_after_an_answer() -> None:
    handler = signal.signal(signal.SIGVTALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 7)
        asked.answer(len, "a folio")
        left, every = signal.getitimer(signal.ITIMER_VIRTUAL)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
    assert 900 < left <= 1001
    assert every == pytest.approx(7, abs=0.1)


def test_a_replay_does_not_blame_the_trace_for_a_rule() -> None:
    def few(folio: Folio, ask: Ask) -> bool:
        if folio.order == 3:
            raise LookupError("here")
        return ask("few", folio.refcount < 3)

    policy = af.LINUX_6_15.but(name="mine", large_reuse=few)
    with pytest.raises(RuleError, match=r"^policy 'mine': large_reuse=few raises LookupError"):
        replay(read_trace(DATA_DIR.parent / "traces" / "database-6.18.44-1.npz"), (3,), policy)


def test_what_a_rule_is_not_told_is_said_with_what_it_is_told() -> None:
    with pytest.raises(PolicyFileError, match=r"no attribute 'start'.*; it is told advice, .*; no address, for"):
        policy_in(written(FIRST + POLICY.format(field="allowed_orders", rule="lambda where: {where.start % 4}")))


FIRST, POLICY = "import anonfolio as af\n", "\np = af.LINUX_6_15.but(name='p', {field}={rule})\n"
STRANGE = {
    "uses order 1": ("allowed_orders", "lambda where: {1, 4}", "line 3: .*orders of anonymous folios are 2 to 9"),
    "copies two pages": ("copy_extent", "lambda around, ask: around.block(1)", "an aligned block of 1, 4, 8"),
    "leaves the folio": ("copy_extent", "lambda around, ask: around.block(4)", "and leaves the folio"),
    "changes what it is told": ("reuse_extent", "lambda a, ask: a.writable.fill(1) or a.page", "raises ValueError"),
    "returns words": ("large_reuse", "lambda folio, ask: 'yes' if ask('x', True) else 'no'", "returns 'yes'"),
    "asks nothing": ("large_reuse", "lambda folio, ask: True", "asks nothing"),
    "asks for ever": ("large_reuse", "lambda f, ask: [ask('a', f.order > 2) for _ in range(99)][0]", "come to an end"),
    "remembers": ("large_reuse", "lambda f, ask, n=[]: ask('odd', len(n.append(1) or n) % 2 == 1)", "asked again"),
    "takes too little": ("large_reuse", "lambda folio: True", r"it is called with \(folio, ask\)"),
    "chooses what does not fit": ("chosen_order", "lambda fits, ask: 9", "it returns one of them"),
    "is a list": ("large_reuse", "[1]", "no function and none of"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_rule_is_refused_with_its_line(name: str) -> None:
    field, rule, why = STRANGE[name]
    with pytest.raises(PolicyFileError, match=rf"^mine\.py, line 3: policy 'p': {field}=.*{why}|^mine\.py, {why}"):
        policy_in(written(FIRST + POLICY.format(field=field, rule=rule)))


@pytest.mark.parametrize(
    "rule",
    ["functools.partial(few, most=5)", "Few()", "lambda folio, ask: few(folio, ask)", "af.LINUX_6_9.rules.large_reuse"],
)
def test_whatever_can_be_called_may_be_a_rule(rule: str) -> None:
    made = (
        "import functools\nimport anonfolio as af\n\n\ndef few(folio, ask, most=2):\n"
        "    return ask('few', folio.refcount <= most)\n\n\nclass Few:\n    def __call__(self, folio, ask):\n"
        "        return few(folio, ask, 3)\n"
    )
    assert policy_in(written(made + POLICY.format(field="large_reuse", rule=rule))).name == "p"


# --- every command that takes a policy takes a file -----------------------------------------------------------------


def test_a_file_is_a_policy_for_run_search_and_selftest(capsys: pytest.CaptureFixture[str]) -> None:
    mine = written(MINE)
    assert main(["run", "reference-blocks-reuse", "--policy", "linux-6.15", "--against", mine]) == DIFFERENT
    assert "linux-6.15 against mine.py: " in capsys.readouterr().out
    assert main(["run", "first-write", "--policy", mine, "--set", "large_reuse=mm_id", "--against", "6.18"]) == EQUAL
    assert main(["search", "--policy", mine, "--steps", "2", "--jobs", "1"]) == EQUAL
    assert "mine: nothing found" in capsys.readouterr().out
    assert main(["selftest", "vmsplice", "--policy", mine]) == DIFFERENT
    assert "returned" in capsys.readouterr().out


def test_a_file_is_a_policy_for_replay_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    mine = written(MINE)
    recording = str(DATA_DIR / "named-6.18.json.gz")
    assert main(["replay", recording, "--policy", mine]) == DIFFERENT
    assert main(["trace", "replay", "--policy", mine, "--sizes", "4K"]) == EQUAL
    assert "against mine" in capsys.readouterr().out


def test_every_command_with_a_policy_says_that_it_takes_a_file() -> None:
    helps = [how["help"] for command in COMMANDS for names, how in command.options if "--policy" in names]
    assert len(helps) > 5
    assert all("FILE.py" in each for each in helps)


# --- a kernel held against a rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("compare mine.py", "; a policy in a file is named so: --policy mine.py;"),
        ("compare --programs 3 mine.py", "; a policy in a file is named so: --policy mine.py;"),
        ("selftest mine.py", "; a policy in a file is named so: --policy mine.py"),
        ("search mine.py --steps 2", "; a policy in a file is named so: --policy mine.py;"),
        ("run mine.py", "; a policy in a file is named so: --policy mine.py"),
        ("replay mine.py", "; a policy in a file is named so: --policy mine.py"),
        ("lab --policy mine.py", "; lab takes the policy itself, and --against another one;"),
        ("lab mine.py --policy=6.12", "; lab takes the policy itself, and --against another one;"),
    ],
)
def test_a_file_in_the_wrong_place_is_told_where_it_belongs(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(MINE)
    with contextlib.suppress(SystemExit):
        assert main(words.split()) == WRONG_INPUT
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "selftest nobody",
        "search --policy mine.py --steps 0",
        "search --policy mine.py x",
        "run nobody --policy=mine.py",
        "run nobody --against mine.py",
    ],
)
def test_nothing_is_told_of_files_where_none_is_in_the_wrong_place(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(MINE)
    with contextlib.suppress(SystemExit):
        assert main(words.split()) == WRONG_INPUT
    assert "a policy in a file" not in capsys.readouterr().err


@pytest.mark.long
def test_a_kernel_that_does_not_do_what_a_rule_says_is_told_case_by_case() -> None:
    policy = policy_in(written(MINE))
    (suite,) = suites_named(["cow.c"])
    fails = [case for case in suite.cases if case.on_model(policy)][:2]
    passes = next(case for case in suite.cases if not case.on_model(policy) and not case.lacks(policy))
    kernel = [
        Verdict(fails[0]),
        Verdict(fails[1], tuple(fails[1].on_model(policy))),
        Verdict(passes),
        Verdict(passes, ("no",)),
    ]
    said = list(disagreements([*kernel, Verdict(fails[0], skipped="not here")], policy))
    assert [line.split(": the kernel ")[0] for line in said] == [f"cow.c, {fails[0].name}", f"cow.c, {passes.name}"]
    assert "the kernel passes; mine fails (step " in said[0]
    assert said[1].endswith("the kernel fails (no); mine passes")
