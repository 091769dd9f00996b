"""The command: fields of a policy by their type, exit codes that mean what they say, one line for what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import anonfolio as af
from anonfolio import commands
from anonfolio.__main__ import COMMANDS, CUT_OFF, DIFFERENT, EQUAL, INTERRUPTED, WRONG_INPUT, Command, main
from anonfolio.commands import policy_of
from anonfolio.program.formats import new_file
from anonfolio.program.search import CTRL_C, OPERATIONS, Exhausted
from anonfolio.program.starts import STARTS
from anonfolio.witness.recording import DATA_DIR

DIFFERS = ("replay", str(DATA_DIR / "named-6.1.json.gz"), "--policy", "linux-6.15")


def exit_code(*words: str) -> int | str | None:
    """Of a command that may not even pass the parser."""
    try:
        return main(list(words))
    except SystemExit as end:
        return end.code


def with_set(*changes: str, policy: str = "rfc-v2") -> af.Policy:
    return policy_of(Namespace(policy=policy, set=list(changes)), "")


# --- fields of a policy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "value"),
    [(("true", "True", "yes", "on", "1", "TRUE"), True), (("false", "False", "no", "off", "0", "FALSE"), False)],
)
def test_a_word_for_yes_or_no_is_what_it_says(words: tuple[str, ...], value: bool) -> None:
    for word in words:
        for policy in ("rfc-v2", "rfc-v2-fixed"):
            changed = with_set(f"copy_requires_maybe_shared={word}", policy=policy)
            assert changed.copy_requires_maybe_shared is value


def test_each_field_is_read_as_what_it_holds() -> None:
    changed = with_set("copy_max_order=3", "fixed_orders=2,3", "knob_orders=", "copy_extent=page")
    assert (changed.copy_max_order, changed.fixed_orders, changed.knob_orders) == (3, (2, 3), ())
    assert changed.copy_extent == "page"
    assert changed.name == "rfc-v2 copy_max_order=3 fixed_orders=2,3 knob_orders= copy_extent=page"
    assert with_set("cont_pte_order=4").cont_pte_order == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("copy_requires_ro=maybe", "neither true nor false"),
        ("copy_requires_ro=", "neither true nor false"),
        ("copy_requires_ro=2", "neither true nor false"),
        ("copy_requires_ro", "is not FIELD=VALUE"),
        ("copy_max_order=large", "is no number"),
        ("copy_max_order=٣", "is no number"),
        ("copy_max_order=-1", "is no number"),
        ("fixed_orders=2;3", "is no number"),
        ("fixed_orders=1", "no anonymous folio of order 1"),
        ("copy_extent=all", "copy_extent"),
        ("speed=9", "a policy has no field 'speed'"),
        ("rules=mm_id", "a policy has no field 'rules'"),
        ("name=x", "is only what it is called"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(change: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "first-write", "--set", change]) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert why in err


def test_what_is_set_in_two_places_counts_and_what_is_set_twice_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = ["--set", "copy_requires_ro=true", "--set", "reuse_extent=page"]
    assert main(["run", "first-write", "--policy", "rfc-v2", "--against", "rfc-v2", *both]) == EQUAL
    assert "rfc-v2 copy_requires_ro=true reuse_extent=page against rfc-v2" in capsys.readouterr().out
    assert exit_code("run", "first-write", "--set", "copy_requires_ro=true", "--set", "copy_requires_ro=true") == 2
    assert exit_code("run", "first-write", "--set", "copy_requires_ro=true", "copy_requires_ro=false") == 2


def test_every_command_that_takes_a_policy_takes_changes_of_it() -> None:
    options = {command.name: {name for names, _ in command.options for name in names} for command in COMMANDS}
    takers = {name for name, names in options.items() if "--policy" in names}
    assert takers == {"run", "replay", "search", "compare", "selftest", "trace replay", "advise", "figure"}
    assert all("--set" in options[name] for name in takers)


SAID_TWICE = [
    (command, names, how)
    for command in COMMANDS
    for names, how in command.options
    if names[0].startswith("-") and how.get("action") not in ("store_true", "extend")
]


@pytest.mark.parametrize(
    ("command", "names", "how"), SAID_TWICE, ids=[f"{command.name} {names[-1]}" for command, names, _ in SAID_TWICE]
)
def test_what_is_said_twice_is_refused(
    command: Command, names: tuple[str, ...], how: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = how.get("choices")
    value = choices[0] if isinstance(choices, tuple) else "1" if names[-1] != "--output" else str(tmp_path / "x.md")
    value = str(tmp_path / "x.svg") if names[-1] in ("--svg", "--figure", "--checkpoint") else value
    assert exit_code(*command.name.split(), names[0], value, names[-1], value) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{names[-1]} is said twice" in err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("number", ["٣", "2.0", "1" * 5000, "", "1_0", " 2"])
def test_a_number_is_written_in_digits(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("search", "--orders", number), ("figure", "first-write", "--step", number)):
        assert exit_code(*words) == WRONG_INPUT
        assert "is no whole number" in capsys.readouterr().err


# --- exit codes -----------------------------------------------------------------------------------------------------


def test_0_is_for_what_was_looked_at_and_found_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "wipe-on-fork", "--against", "6.18"]) == EQUAL
    assert main(["run", "wipe-on-fork", "--against", "rfc-v2"]) == DIFFERENT
    # Not only the words of a change arrive, but the change.
    recording = str(DATA_DIR / "named-6.12.json.gz")
    assert main(["replay", recording, "--set", "large_reuse=never"]) == EQUAL
    assert main(["replay", recording, "--set", "large_reuse=mm_id"]) == DIFFERENT
    # Page tables are freed from 7.0 on there, from 6.14 on on x86-64.
    recording = str(DATA_DIR / "arm64" / "reclaim6.17.json.gz")
    assert main(["replay", recording]) == EQUAL
    assert main(["replay", recording, "--set", "large_reuse=mm_id"]) == EQUAL


def test_a_scenario_without_steps_says_that_there_is_nothing_to_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.scenario").write_text("scenario nothing\npages 8\norders\n")
    assert main(["run", str(tmp_path / "empty.scenario")]) == EQUAL
    assert capsys.readouterr().out == "linux-6.15: nothing has no steps, so there is nothing to show\n"


def test_a_missing_folder_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"there is no such folder: '.*missing'$"),
        new_file(tmp_path / "missing" / "x.json.gz"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--programs", "0"), ("compare", "--programs", "-1"), ("compare", "--programs", "1e3"),
        ("compare", "--seconds", "0"), ("compare", "--seconds", "-1"), ("compare", "--seconds", "nan"),
        ("compare", "--seconds", "inf"), ("search", "--operations"), ("search", "--steps", "0"),
        ("search", "--from", "no-such-start"), ("search", "--from", ""), ("search", "--from", "."),
        ("search", "--from", "child-maps-half", "--pages", "4"), ("search", "--from", "first-write", "--orders"),
        ("search", "--pages", "9999999999"), ("run", "first-write", "--against", ""),
        ("run", "first-write", "--policy", ""),
        ("replay", DIFFERS[1], "--policy", ""), ("run", ""), ("record", "never.json.gz", "--random", "0"),
        ("record", "never.json.gz"), ("trace", "measure", "--rounds", "0"), ("cost",), (), ("run", "x" * 300),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_looked_at_is_wrong_input(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*words) == WRONG_INPUT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pinned-for-readng", "fork", "x" * 300, ""])
def test_a_start_that_is_none_is_refused_with_those_that_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--from", name]) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"there are {', '.join(STARTS)}, or a scenario" in err


@pytest.mark.parametrize("seed", ["x", "-1", "1.5", "", "²", "9" * 5000])
def test_a_seed_that_is_none_is_refused_with_what_would_be_one(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("compare", f"--seed={seed}") == WRONG_INPUT
    assert "neither a number from 0 on nor 'fresh'" in capsys.readouterr().err


def test_an_option_behind_the_file_of_a_recording_is_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "record", "new.npz", "--most", "1M", "--", "true"]) == 2
    assert "--most stands behind new.npz, where the program does: options come first" in capsys.readouterr().err


def test_memory_that_is_not_there_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("anonfolio.commands.Scenario.load", none)
    assert main(["run", "mine.py"]) == 2
    assert capsys.readouterr().err.startswith("anonfolio: out of memory; a policy")


def test_a_recording_without_programs_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none.json"
    path.write_text(json.dumps({"format": "anonfolio-recording/1", "kernel": "6.18.44", "programs": []}))
    assert main(["replay", str(path)]) == WRONG_INPUT
    assert capsys.readouterr().err.count("\n") == 1


def test_a_search_that_is_stopped_says_what_it_knows_and_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = Exhausted("rfc-v2", 4, 3, ("write",), 12, 34, interrupted=True, why=CTRL_C)
    monkeypatch.setattr(commands, "counterexample", lambda *_, **__: stopped)
    assert main(["search"]) == INTERRUPTED
    out, err = capsys.readouterr()
    assert "stopped early (Ctrl-C)" in out
    assert err == "anonfolio: stopped\n"


def test_a_search_goes_on_from_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["search", "--policy", "rfc-v2", "--steps", "3", "--jobs", "1", "--operations", *OPERATIONS]
    assert main(asked) == EQUAL
    assert "of up to 3 steps over 4 pages" in capsys.readouterr().out
    path = tmp_path / "wiped.scenario"
    path.write_text("pages 4\norders 2\nwrite 0 0 1\nmadvise 0 0 2 wipeonfork\nfork 0\n")
    assert main([*asked, "--from", str(path)]) == DIFFERENT
    assert "3 steps after the 3 of the program break pinned_page_stays" in capsys.readouterr().out
    # A scenario's name, and one of the laboratory's; the sizes are the program's own.
    for name, pages in (("first-write", 16), ("one-of-three-gone", 4)):
        assert main(["search", "--policy", "6.15", "--jobs", "1", "--from", name, "--steps", "1"]) == EQUAL
        assert f"of the program over {pages} pages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is neither a field nor an operation"),
        ("pages 4\nskew 1\n", "skew=1"),
        ("pages 600\n", "pages=600"),
        ("pages 4\norders 2\n" + "fork 0\n" * 6, "7 processes are alive where it begins"),
    ],
)
def test_what_no_search_goes_on_from_is_refused_in_a_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "no.scenario"
    path.write_text(text)
    assert main(["search", "--from", str(path), "--steps", "1", "--jobs", "1"]) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_search_without_room_says_what_it_knows_and_that_it_could_not_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["search", "--policy", "linux-6.15", "--memory", "1"]) == WRONG_INPUT
    out, err = capsys.readouterr()
    assert out.startswith("linux-6.15: stopped early (1 MiB of memory are used): nothing found in ")
    # Where it takes more than a second, it has said how far it is.
    said = "anonfolio: the search stopped early (1 MiB of memory are used); --memory gives it more"
    assert err.splitlines()[-1] == said


STOPPED_AT = """
import signal, sys
stopped_at, how = sys.argv[1:]
def stop():
    if how == "signal":
        signal.raise_signal(signal.SIGINT)
    raise KeyboardInterrupt
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == stopped_at:
            stop()
sys.meta_path.insert(0, Stop())
import runpy
sys.argv = ["anonfolio", "search", "--steps", "2"]
runpy.run_module("anonfolio", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell says how a program ended")
@pytest.mark.parametrize("module", ["numpy", "anonfolio.kernel.policy", "anonfolio.commands"])
def test_ctrl_c_while_it_is_being_imported_is_130_to_a_shell(module: str) -> None:
    script = f'"{sys.executable}" -c "$1" {module} exception; echo $?'
    done = subprocess.run(["sh", "-c", script, "sh", STOPPED_AT], capture_output=True, text=True, check=False)
    assert done.stdout == "130\n"


@pytest.mark.parametrize("module", ["numpy", "anonfolio.kernel.policy", "anonfolio.commands"])
def test_ctrl_c_while_it_is_being_imported_is_one_line(module: str) -> None:
    command = [sys.executable, "-c", STOPPED_AT, module, "signal"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "anonfolio: stopped\n")


@pytest.mark.parametrize("started", [["-m", "anonfolio"], ["-c", "import anonfolio"]], ids=["command", "library"])
def test_who_imports_the_library_keeps_its_own_ctrl_c(started: list[str]) -> None:
    """Only the command's own is taken, and given back before it begins."""
    look = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    # What a shell starts in the background ignores Ctrl-C, and all that it starts.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += f"; sys.argv[0] = {started[0]!r}; sys.orig_argv[1:] = {started!r}; import anonfolio; {look}"
    code += "; import anonfolio.__main__ as main; main.main(['cost', 'show']); " + look
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == (f"{started[0] == '-c'}", "True")


# --- output that goes nowhere ---------------------------------------------------------------------------------------


def closed_early(*words: str, unbuffered: bool) -> int:
    """The exit code of a command whose reader is gone before it begins."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": "1" if unbuffered else ""}
    command = [sys.executable, "-m", "anonfolio", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writer)
    assert done.stderr == ""
    return done.returncode


def test_a_closed_pipe_makes_no_difference_equal() -> None:
    assert closed_early(*DIFFERS, unbuffered=False) == DIFFERENT
    assert closed_early(*DIFFERS, unbuffered=True) == CUT_OFF
    assert closed_early("replay", DIFFERS[1], unbuffered=False) == EQUAL


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor in a shell")
def test_a_closed_output_is_said_in_one_line() -> None:
    command = f'"{sys.executable}" -m anonfolio replay "{DIFFERS[1]}" >&-'
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (WRONG_INPUT, 1)


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor in a shell")
@pytest.mark.parametrize("words", ["cost show", "trace replay --sizes 4k", "run nothing-such"])
def test_where_nobody_hears_what_is_told_besides_the_answer_is_what_it_is(words: str) -> None:
    """It was a traceback to nowhere, and the code that says that something differs."""
    command = f'"{sys.executable}" -m anonfolio {words}'
    heard = subprocess.run(command, shell=True, capture_output=True, check=False)
    unheard = subprocess.run(f"{command} 2>&-", shell=True, capture_output=True, check=False)
    assert (unheard.returncode, unheard.stdout, unheard.stderr) == (heard.returncode, heard.stdout, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "anonfolio", "replay", DIFFERS[1]]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (WRONG_INPUT, "anonfolio: No space left on device\n")
