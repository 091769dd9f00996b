"""Where a command reads and writes: the place is tried before the work; what is no plain file is not waited for.

Each row is a command that would take minutes, root or a kernel's answer: it ends at once, in one line, with exit code
2, and nothing is left at the place.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anonfolio.__main__ import LONGEST, WRONG_INPUT, main
from anonfolio.hardware.trace import DATA_DIR as TRACES

posix = pytest.mark.skipif(os.name != "posix", reason="no such files here")
TRACE = str(next(iter(sorted(TRACES.glob("*.npz")))))

WRITERS: dict[str, tuple[str, ...]] = {
    "lab": ("lab", "rfc-v2", "--quick", "-o", "{}/x.html"),
    "search": ("search", "--steps", "7", "--checkpoint", "{}/x.npz"),
    "record": ("record", "{}/x.json.gz", "--random", "1000"),
    "compare": ("compare", "--keep", "{}/new/folder"),
    "trace record": ("trace", "record", "{}/x.npz"),
    "trace measure": ("trace", "measure", "--save", "{}/x"),
    "cost measure": ("cost", "measure", "{}/x.json"),
    "advise, save": ("advise", "--save", "{}/x", "--", "true"),
    "advise, figure": ("advise", "--figure", "{}/x.svg", TRACE),
    "advise, output": ("advise", "--output", "{}/x", "--", "true"),
    "look": ("look", "1", "--svg", "{}/x.svg"),
    "homework": ("homework", "--topic", "touch", "-o", "{}/x.md"),
    "grade": ("grade", ".", "--secret", "none", "-o", "{}/x.csv"),
    "figure": ("figure", "first-write", "-o", "{}/x.svg"),
}
"""Commands with a place to write in."""


def refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says, which it does not do."""
    try:
        code = main(list(words))
    except SystemExit as ended:
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    assert (code, out) == (WRONG_INPUT, "")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here in which nobody can write")
def test_where_nothing_can_be_written_is_told_before_the_work(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nothing can be written in /proc" in refused(tuple(word.format("/proc") for word in words), capsys)


@pytest.mark.parametrize("words", [WRITERS[name] for name in WRITERS if name != "compare"])
def test_a_folder_that_is_not_there_is_told_before_the_work(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no folder" in refused(tuple(word.format(tmp_path / "no") for word in words), capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_tried_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.md").write_text("kept")
    assert main(["homework", "--topic", "nothing", "-o", str(tmp_path / "x.md")]) == WRONG_INPUT
    assert main(["homework", "--topic", "nothing", "-o", str(tmp_path / "y.md")]) == WRONG_INPUT
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.md", "kept")]


MOUNT = """mount -t tmpfs tmpfs "$1" && mkdir "$1/papers" && mount -o remount,ro "$1" && cd "$1" || exit 77
exec "$2" -c "$3" """
EACH = """
import sys
from anonfolio.__main__ import main
for words in {!r}:
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    print(code)
    print(file=sys.stderr)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no mount namespaces here")
def test_root_on_a_file_system_that_is_read_only_gets_one_line_of_each_command(tmp_path: Path) -> None:
    students = tmp_path / "students"
    students.write_text("Ann\n")
    papers = ("homework", "--topic", "touch", "--students", str(students), "--secret", str(students), "-o", "{}/papers")
    own = {"homework, students": papers, "advise, by name": ("advise", "--", "true")}
    place = tmp_path / "mounted"
    place.mkdir()
    commands = [[word.format(place) for word in words] for words in (WRITERS | own).values()]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", MOUNT, "sh", place, sys.executable, EACH.format(commands)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"no mount namespace for us: {done.stderr[:100]}")
    assert done.stdout.split() == [str(WRONG_INPUT)] * len(commands), done.stderr
    for line in done.stderr.split("\n\n")[:-1]:
        assert "Read-only file system" in line
        assert line.count("\n") == 0


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listens(path: Path) -> None:
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


READERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "policy": ("x.py", ("run", "first-write", "--policy", "{}")),
    "against": ("x.py", ("run", "first-write", "--against", "{}")),
    "lab": ("x.py", ("lab", "{}", "--quick")),
    "scenario": ("x.scenario", ("run", "{}")),
    "figure": ("x.scenario", ("figure", "{}", "-o", "f.svg")),
    "recording": ("x.json.gz", ("replay", "{}")),
    "recording to redo": ("x.json.gz", ("record", "new.json.gz", "{}")),
    "trace": ("x.npz", ("trace", "replay", "{}")),
    "advise": ("x.npz", ("advise", "{}")),
    "prices": ("x.json", ("advise", "--cost", "{}", TRACE)),
    "costs": ("x.json", ("cost", "show", "{}")),
    "checkpoint": ("x.npz", ("search", "--checkpoint", "{}")),
    "secret": ("x", ("grade", ".", "--secret", "{}")),
    "students": ("x", ("homework", "--topic", "touch", "--students", "{}", "--secret", "s", "-o", "papers")),
}
"""Commands that read a file, by the option that names it."""


@posix
@pytest.mark.parametrize("kind", [pipe, listens, device], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("name", "words"), READERS.values(), ids=READERS)
def test_what_is_no_plain_file_is_told_and_not_waited_for(
    kind: Callable[[Path], None], name: str, words: tuple[str, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").write_text("a secret that is long enough")
    kind(tmp_path / name)
    assert name in refused(tuple(word.format(name) for word in words), capsys)


@pytest.mark.parametrize(("name", "words"), [*READERS.values(), *(("x", words) for words in WRITERS.values())])
def test_a_name_of_100000_characters_is_told_without_its_middle(
    name: str,
    words: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").write_text("a secret that is long enough")
    said = refused(tuple(word.format(100_000 * "x" + name) for word in words), capsys)
    assert len(said) < LONGEST + 100
    assert any(reason in said for reason in ("too long", "no scenario", "is no file", "no folder"))


def test_a_figure_is_not_poured_into_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["figure", "first-write"]) == 0
    assert capsys.readouterr().out.startswith("<svg")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "-o NAME.svg" in refused(("figure", "first-write"), capsys)
