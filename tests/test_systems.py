"""What asks no kernel works on every system and console; what does says so in one line. Importing changes nothing.

Windows and macOS are stood in for by what they do not have: modules, calls, signals, /proc and /sys.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import anonfolio as af
from anonfolio.__main__ import main
from anonfolio.witness.recording import DATA_DIR

ROOT = Path(__file__).resolve().parent.parent

# What is not ours is imported first: it was made for the system that is really here.
ELSEWHERE = """
import sys
import ctypes, gzip, json, os, pathlib, platform, random, signal, socket, subprocess, tempfile, tomllib, traceback
import numpy, numpy.lib.format, numpy.random

system, *lacks = sys.argv[1:]
for name in lacks:
    where, _, what = name.rpartition(".")
    if where:
        vars(sys.modules[where]).pop(what, None)
    else:
        sys.modules[name] = None

def no_linux(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
        raise AssertionError(f"looked into {arguments[0]}")
    if event == "ctypes.dlopen":
        raise AssertionError("loaded a library of the system")

sys.addaudithook(no_linux)
sys.platform = system
"""
LINUX_ALONE = (
    "resource", "fcntl", "os.sched_setaffinity", "os.sched_getaffinity", "os.pidfd_open", "signal.pidfd_send_signal",
)  # fmt: skip
SYSTEMS = {
    "darwin": LINUX_ALONE,
    "win32": (
        *LINUX_ALONE, "pwd", "grp", "termios", "os.fork", "os.geteuid", "os.getuid", "os.uname", "os.killpg",
        "signal.SIGHUP", "signal.SIGKILL", "signal.pthread_sigmask", "socket.AF_UNIX",
    ),
}  # fmt: skip

WORKS = """
import importlib, pkgutil
import anonfolio as af
for module in pkgutil.walk_packages(af.__path__, "anonfolio."):
    if not module.name.startswith(("anonfolio.view", "anonfolio.witness.live.")):
        importlib.import_module(module.name)
from anonfolio.__main__ import main
assert main(["run", "wipe-on-fork", "--against", "6.18"]) == 0
assert main(["replay", "data/recordings/named-6.1.json.gz"]) == 0
assert main(["search", "--steps", "2", "--policy", "linux-6.15"]) == 0
assert main(["cost", "show"]) == 0
"""

LIVE = """
import anonfolio as af
from anonfolio.__main__ import main
for command in (["doctor"], ["doctor", "--restore"], ["compare"], ["record", "x.json.gz", "first-write"],
                ["trace", "record", "x.npz"], ["trace", "measure"], ["cost", "measure"]):
    assert main(command) == 2, command
try:
    af.Scenario.load("first-write").live()
except ValueError as error:
    print(error, file=sys.stderr)
"""


def elsewhere(system: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code as if on another system: without a home, and with the console of many a Windows."""
    command = [sys.executable, "-c", ELSEWHERE + code, system, *SYSTEMS[system]]
    homeless = {name: value for name, value in os.environ.items() if name not in ("HOME", "USERPROFILE")}
    return subprocess.run(
        command, cwd=ROOT, env=homeless | {"PYTHONIOENCODING": "cp1252"}, encoding="cp1252", capture_output=True,
        check=False,
    )  # fmt: skip


@pytest.mark.sweep(2)
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_asks_no_kernel_works(system: str) -> None:
    done = elsewhere(system, WORKS)
    assert done.returncode == 0, done.stderr
    assert "linux-6.15 against 6.18: 0 of" in done.stdout


@pytest.mark.sweep(2)
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_asks_the_kernel_says_in_one_line_that_there_is_none(system: str) -> None:
    done = elsewhere(system, LIVE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 8
    assert all("a live run needs Linux on x86-64" in line for line in lines)


def test_what_is_taken_away_is_missed() -> None:
    for code in ("import fcntl", "os.fork()", "open('/proc/self/maps')", "ctypes.CDLL(None)"):
        assert elsewhere("win32", code).returncode == 1, code


# --- consoles -------------------------------------------------------------------------------------------------------


def printed(monkeypatch: pytest.MonkeyPatch, codec: str, *words: str) -> str:
    """What a command writes to a console of a codec."""
    console = io.TextIOWrapper(io.BytesIO(), encoding=codec, write_through=True)
    monkeypatch.setattr(sys, "stdout", console)
    assert main(list(words)) == 0
    written: bytes = console.buffer.getvalue()  # type: ignore[attr-defined]
    return written.decode(codec)


@pytest.mark.sweep(20)
@pytest.mark.parametrize("name", af.scenario_names())
def test_every_scenario_can_be_read_on_a_console_without_any_letter_but_ascii(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text = printed(monkeypatch, "ascii", "run", name)
    assert af.Scenario.load(name).run("linux-6.15")[-1].step[0] in text
    assert "\\u" not in text, "an escape where a similar letter would do"


@pytest.mark.parametrize("codec", ["cp437", "cp1252", "shift_jis", "utf-8"])
def test_a_letter_that_the_codec_has_stays(monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    text = printed(monkeypatch, codec, "run", "wipe-on-fork")
    plain = printed(monkeypatch, "ascii", "run", "wipe-on-fork")
    assert len(text.splitlines()) == len(plain.splitlines())
    assert "·" in text or codec == "shift_jis"
    assert plain.isascii()


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_scenario_written_by_an_editor_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.scenario"
    path.write_bytes(b"\xef\xbb\xbf" + "# Grüße\r\nscenario mine\r\npages 4\r\norders 2\r\nwrite 0 1 7\r\n".encode())
    assert af.Scenario.load(path).steps == (("write", 0, 1, 7),)


def test_a_path_with_backslashes_is_a_path_and_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder\\mine").write_text("pages 4\norders 2\nwrite 0 1 7\n", encoding="utf-8")
    assert af.Scenario.load("folder\\mine").pages == 4


# --- importing ------------------------------------------------------------------------------------------------------

LOOK = """
import sys, os, signal, threading, warnings, atexit, locale, codecs
import numpy
def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
    return (
        dict(os.environ), os.getcwd(), os.umask(0o22), handlers, threading.active_count(), list(warnings.filters),
        atexit._ncallbacks(), locale.setlocale(locale.LC_ALL), list(sys.meta_path), list(sys.path), sys.flags,
        sys.getrecursionlimit(), numpy.geterr(), numpy.get_printoptions(), sys.excepthook, sys.displayhook, sys.stdout.errors,
        numpy.random.get_state()[1].tolist(), sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
    )
allocated = []
real = numpy.empty
numpy.empty = lambda shape, *a, **k: (allocated.append(shape), real(shape, *a, **k))[1]
before = state()
import anonfolio
assert [at for at, (x, y) in enumerate(zip(before, state())) if str(x) != str(y)] == []
assert not [shape for shape in allocated if numpy.prod(shape) > 1 << 20], allocated
print(*sorted(name for name in sys.modules if name.startswith("anonfolio.witness.live.") or name in ("ctypes.util", "socket", "subprocess", "multiprocessing")))
"""  # noqa: E501


def test_importing_changes_nothing_of_the_process_and_asks_no_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [name for name in done.stdout.split() if name.startswith("anonfolio")], done.stdout
    assert DATA_DIR.is_dir()


# --- an ordinary user ---------------------------------------------------------------------------------------------

AS_NOBODY = """
import contextlib, importlib, io, json, os, pkgutil, sys
import anonfolio
for module in pkgutil.walk_packages(anonfolio.__path__, "anonfolio."):
    if not module.name.startswith("anonfolio.view"):
        importlib.import_module(module.name)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
told = {}
for name, words in json.loads(sys.argv[1]).items():
    reader, writer = os.pipe()
    if not os.fork():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = anonfolio.__main__.main(words)
            except SystemExit as ended:
                code = ended.code
        os.write(writer, json.dumps([code, out.getvalue()[:2000], err.getvalue()]).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as said:
        told[name] = json.loads(said.read() or "null")
    os.wait()
print(json.dumps(told))
"""
"""All is imported first: an ordinary user may not be allowed to read where Python and this library lie."""
NOBODY: dict[str, tuple[list[str], int, str]] = {
    "run": (["run", "anyone's/x.scenario"], 0, ""),
    "search": (["search", "--policy", "linux-6.15", "--steps", "1"], 0, ""),
    "compare": (["compare", "--programs", "1"], 2, "root"),
    "record": (["record", "anyone's/x.json.gz", "anyone's/x.scenario"], 2, "root"),
    "record here": (["record", "x.json.gz", "anyone's/x.scenario"], 2, "nothing can be written in ."),
    "trace record": (["trace", "record", "anyone's/x.npz", "true"], 2, "root"),
    "cost measure": (["cost", "measure", "--pages", "512", "--rounds", "1"], 2, "root"),
    "look": (["look", "1"], 2, "root"),
    "doctor": (["doctor"], 1, ""),
    "doctor --restore": (["doctor", "--restore"], 2, "root"),
}


@pytest.fixture(scope="module")
def told_nobody(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Per command exit code and what was said, in a folder that is not the user's, where nothing may be written."""
    folder = tmp_path_factory.mktemp("not_his")
    folder.chmod(0o755)
    anyones = folder / "anyone's"
    anyones.mkdir()
    anyones.chmod(0o777)
    scenario = anyones / "x.scenario"
    scenario.write_text("pages 4\nwrite 0 1 7\n", encoding="utf-8")
    scenario.chmod(0o644)
    asked = json.dumps({name: words for name, (words, *_) in NOBODY.items()})
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, asked], capture_output=True, text=True, cwd=folder, check=True, timeout=300
    )
    assert sorted(folder.rglob("*")) == [anyones, scenario]
    told: dict[str, tuple[int, str, str]] = json.loads(done.stdout)
    return told


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("name", NOBODY)
def test_an_ordinary_user_gets_a_result_or_one_line(name: str, told_nobody: dict[str, tuple[int, str, str]]) -> None:
    _, code, says = NOBODY[name]
    returned, out, err = told_nobody[name]
    assert returned == code, err
    assert says in err
    if code == 2:
        assert err.startswith("anonfolio: ")
        assert (out, err.count("\n")) == ("", 1)
    else:
        assert out
