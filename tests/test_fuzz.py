"""Whatever a file or a command line says: a result, or one line that says what is wrong, soon and with no traceback.

Files that are right are changed a little, in any place, and read; the command gets any words. The examples are the
same every time; `make fuzz` draws new ones for minutes. What once failed stays as a row of `FAILED`.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from support import examples
from test_site import tool as site

import anonfolio as af
from anonfolio.__main__ import main
from anonfolio.hardware import trace as traces
from anonfolio.hardware.cost import DATA_DIR as COSTS
from anonfolio.hardware.cost import CostError, read_table
from anonfolio.hardware.trace import Call, Trace, TraceError, read_measured, read_trace, write_trace
from anonfolio.program.formats import MOST_BYTES, parsed_bytes
from anonfolio.program.scenario import Scenario, ScenarioError
from anonfolio.view.program import packed
from anonfolio.witness.fields import DATA_DIR as FIELDS
from anonfolio.witness.fields import FieldsError, read_fields
from anonfolio.witness.recording import DATA_DIR as RECORDINGS
from anonfolio.witness.recording import read_recording

SECONDS = 2.0
"""Of the processor's time, for one input."""
LONGEST = 2000
"""A screen of 25 lines has so many characters."""

FEW = 30
"""Examples of each target in every run of the tests; another profile has its own number."""
fuzz = settings(
    max_examples=examples(FEW),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=False,
)


def read_or_refused(read: Callable[[], object], error: type[ValueError]) -> str:
    """What is wrong with the input, in one line; empty when it was read."""
    begun = time.process_time()
    said = ""
    try:
        read()
    except error as refused:
        said = str(refused)
        assert said
        assert "\n" not in said
        assert len(said) < LONGEST
    assert time.process_time() - begun < SECONDS
    return said


# --- documents ------------------------------------------------------------------------------------------------------

atoms = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 20), st.sampled_from((1 << 31, 1 << 63, -(1 << 70), 10**400, 1e308, 3.0)),
    st.floats(), st.text(max_size=8), st.sampled_from(("x" * 300, "\ud800", "6.18.44", "6.1", "write", "z", "\n")),
)  # fmt: skip
values = st.recursive(
    atoms, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in a JSON document."""
    rows = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    return [path, *(place for key, inner in rows for place in places(inner, (*path, key)))]


def changed(document: Any, data: st.DataObject) -> Any:
    """A document with one to three of its values replaced, left out or doubled."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(document)[1:] or [("format",)]))
        holder = document
        for key in path:
            holder = holder[key]
        what = data.draw(st.sampled_from(("replace", "replace", "remove", "double")))
        if what == "replace":
            holder[last] = data.draw(values)
        elif what == "remove":
            del holder[last]
        elif isinstance(holder, list):
            holder.insert(last, holder[last])
    return document


def damaged(raw: bytes, data: st.DataObject) -> bytes:
    """A file with some of its bytes changed, cut off, or more of them."""
    what = data.draw(st.sampled_from(("flip", "cut", "add", "any")))
    if what == "any":
        return data.draw(st.binary(max_size=40))
    at = data.draw(st.integers(0, len(raw) - 1))
    if what == "cut":
        return raw[:at]
    more = data.draw(st.binary(min_size=1, max_size=4))
    return raw[:at] + more + raw[at + len(more) * (what == "flip") :]


@lru_cache
def documents() -> dict[str, Any]:
    """One that is right, and small, for each reader of JSON."""
    recording = json.loads(gzip.decompress((RECORDINGS / "min-6.18.44.json.gz").read_bytes()))
    recording["programs"] = recording["programs"][:2]
    fields = json.loads(next(iter(sorted(FIELDS.glob("*.json")))).read_text(encoding="utf-8"))
    fields["experiments"] = {"last page": fields["experiments"]["last page"]}
    return {
        "recording": recording,
        "fields": fields,
        "costs": json.loads((COSTS / "linux-6.18.44.json").read_text(encoding="utf-8")),
        "measured": json.loads(next(iter(sorted(traces.DATA_DIR.glob("*.json")))).read_text(encoding="utf-8")),
        "notebook": notebook(),
    }


def notebook() -> Any:
    """One cell of each kind, with an output of each kind, and widgets, one of them the library's own."""
    view = {site.VIEW: {"model_id": "box", "version_major": 2, "version_minor": 0}, "text/plain": "?"}
    own = {
        "_esm": max(site.own_fronts(), key=len),
        "_css": "",
        "frames": packed({"pieces": ["<path/>"], "panel": [""]}),
    }
    models = {
        "box": {"model_module": "@jupyter-widgets/controls", "state": {"children": [f"{site.REFERENCE}own"]}},
        "own": {"model_module": "anywidget", "state": own, "buffers": []},
    }
    said = [new_output("stream", text="a\n"), new_output("error", ename="E", evalue="e", traceback=["E: e"])]
    shown = [
        {"text/html": "<b>1</b>"},
        {"image/svg+xml": "<svg/>"},
        {"image/png": "QUJD"},
        {"application/json": [1]},
        view,
    ]
    outputs = [*said, *(new_output("display_data", data) for data in shown)]
    head = "# Why?\n\nAbout 20 minutes.\n\n**Afterwards you can** see.\n\n"
    text = head + "![a](a.png) [b](c.ipynb#d)\n\n| a |\n|---|\n| `b` |"
    asked = new_code_cell("q.a.predict(1)\n1", outputs=outputs, execution_count=1)
    nb = new_notebook(cells=[new_markdown_cell(text), asked, new_code_cell("q.a.compare(1)")])
    for at, cell in enumerate(nb.cells):
        cell.id = f"cell-{at}"  # else drawn anew each time
    nb.metadata["widgets"] = {site.STATE: {"version_major": 2, "version_minor": 0, "state": models}}
    return json.loads(json.dumps(nb))


def replayed(path: Path) -> object:
    """Not only read: what was read can be replayed."""
    return str(af.replay(read_recording(path)))


def page_of(path: Path) -> object:
    """Not only read: there is a page of what was read, and a file can hold it."""
    book = site.Book.read(path)
    return site.page_of(book, [book]).encode(errors="replace")


READERS: dict[str, tuple[Callable[[Path], object], type[ValueError]]] = {
    "recording": (replayed, ValueError),
    "fields": (read_fields, FieldsError),
    "costs": (lambda path: str(read_table(path)), CostError),
    "measured": (read_measured, TraceError),
    "notebook": (page_of, ValueError),
}


@pytest.mark.parametrize("kind", READERS)
def test_what_is_right_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(documents()[kind]))
    assert read_or_refused(lambda: READERS[kind][0](path), READERS[kind][1]) == ""


@pytest.mark.parametrize("kind", READERS)
@fuzz
@given(data=st.data())
def test_a_document_with_other_values_is_read_or_refused(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(changed(documents()[kind], data)), errors="surrogatepass")
    read, error = READERS[kind]
    read_or_refused(lambda: read(path), error)


@pytest.mark.parametrize("packed", [False, True], ids=["json", "gz"])
@fuzz
@given(data=st.data())
def test_a_file_with_other_bytes_is_read_or_refused(packed: bool, tmp_path: Path, data: st.DataObject) -> None:
    raw = json.dumps(documents()["recording"]).encode()
    path = tmp_path / "x.json.gz"
    path.write_bytes(damaged(gzip.compress(raw) if packed else raw, data))
    read_or_refused(lambda: replayed(path), ValueError)


# --- scenarios ------------------------------------------------------------------------------------------------------

words = st.one_of(
    st.sampled_from((
        "0", "1", "2", "3", "15", "16", "512", "99999999999", "1" * 5000, "-1", "0..3", "3..0", "0..99999999999", "9",
        "pages", "orders", "skew", "scenario", "unnamed", '"a b"', '"', "#", "write", "read", "fork", "exit", "munmap",
        "mremap", "mprotect", "madvise", "pin", "unpin", "gup", "ref", "unref", "dma_write", "dma_read", "pin_ro",
        "forkfail", "forkfail_after", "dontneed", "hugepage", "x" * 300, "٣", "\u2028", "\x1b[31m",
    )),
    st.text(max_size=6),
)  # fmt: skip
lines = st.lists(st.lists(words, max_size=5).map(" ".join), max_size=8).map("\n".join)
steps = st.lists(
    st.sampled_from((
        "write 0 0..15", "write 0 3 1", "fork 0", "exit 1", "read 1 2", "munmap 0 4 4", "mprotect 0 0 8 1",
        "mremap 0 0 4 12", "madvise 0 0 8 dontneed", "pin 0 2 3 0", "unpin 0 0", "dma_write 0 0 1 9", "gup 0 1",
        "ref 0 1 0", "unref 0 0", "forkfail 0 3", "forkfail_after 0 5", "pin_ro 0 5 1 1", "exit 0",
    )),
    max_size=12,
).map("\n".join)  # fmt: skip


@fuzz
@given(
    text=lines
    | steps.map("pages 16\norders 4 2\n{}".format)
    | st.tuples(steps, lines).map("pages 16\n{0[0]}\n{0[1]}".format)
)
def test_a_scenario_is_run_or_refused(text: str) -> None:
    def run() -> None:
        scenario = Scenario.parse(text, "x")
        if scenario.pages <= 512 and len(scenario.steps) <= 64:
            assert Scenario.parse(scenario.text()) == scenario
            str(scenario.run().show())

    said = read_or_refused(run, ScenarioError)
    assert not said or said.startswith("x")


# --- traces ---------------------------------------------------------------------------------------------------------


def a_trace() -> Trace:
    calls = [
        Call(0, "spawn", 0), Call(0, "map", 0, 600, 8, 3), Call(0, "populate", 0, 600, 2), Call(0, "map", 0, 0, 16, 3),
        Call(1, "fork", 0, 0, 0, 1), Call(2, "protect", 0, 0, 4, 1), Call(2, "move", 0, 8, 4, 40),
        Call(2, "advise", 0, 0, 4, 0), Call(2, "unmap", 0, 12, 2), Call(3, "exit", 1),
    ]  # fmt: skip
    vpn, process = np.array([0, 1, 5], np.int64), np.array([0, 1, 0], np.uint8)
    about = {"command": "cc"}
    return Trace("6.18.44", about, vpn, process, np.full(3, 6, np.uint8), tuple(calls), np.arange(4), ({}, {}), 9)


@pytest.fixture(scope="module")
def trace_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("trace") / "x.npz"
    write_trace(path, a_trace())
    return path.read_bytes()


def predicted(path: Path) -> object:
    return traces.replay(read_trace(path), (2,))


def test_the_trace_that_is_changed_is_right(trace_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(trace_file)
    assert read_or_refused(lambda: predicted(path), TraceError) == ""


numbers = st.sampled_from(
    (-1, 0, 1, 2, 3, 7, 8, 255, 511, 512, 2047, 2048, 1 << 27, (1 << 28) - 1, 1 << 40, (1 << 63) - 1)
)


@fuzz
@given(data=st.data())
def test_a_trace_with_other_bytes_or_numbers_is_replayed_or_refused(
    trace_file: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "x.npz"
    how = data.draw(st.sampled_from(("bytes", "header", "numbers", "numbers", "kind")))
    if how == "bytes":
        path.write_bytes(damaged(trace_file, data))
    else:
        with np.load(io.BytesIO(trace_file)) as archive:
            arrays = {name: archive[name] for name in archive.files}
        name = data.draw(st.sampled_from(sorted(set(arrays) - {"header"})))
        if how == "header":
            header = changed(json.loads(arrays["header"].tobytes()), data)
            arrays["header"] = np.frombuffer(json.dumps(header).encode("utf-8", "surrogatepass"), np.uint8)
        elif how == "numbers":
            array = arrays[name] = arrays[name].copy()
            for _ in range(data.draw(st.integers(1, 3))):
                at = data.draw(st.integers(0, array.size - 1))
                array.reshape(-1)[at : at + 1] = np.array([data.draw(numbers)]).astype(array.dtype)
        else:
            kind = data.draw(st.sampled_from(("f8", "U3", "?", "u8", "M8[s]", "c16", "i1")))
            shape = data.draw(st.sampled_from(((), (0,), (3,), (9,), (9, 6), (1, 6), (2, 2, 2))))
            arrays[name] = np.zeros(shape, kind)
        np.savez(path, **arrays)
    read_or_refused(lambda: predicted(path), TraceError)


# --- the command ----------------------------------------------------------------------------------------------------


def told(*command: str) -> tuple[int, str, str]:
    """The exit code and what was said, of a command that has so much time and no more."""
    out, err = io.StringIO(), io.StringIO()
    begun = time.process_time()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(command))
        except SystemExit as end:
            code = int(end.code or 0)
    assert time.process_time() - begun < SECONDS
    return code, out.getvalue(), err.getvalue()


def check_told(*command: str) -> None:
    code, _, err = told(*command)
    assert code in (0, 1, 2)
    if code == 2:
        assert err.startswith("anonfolio: ")
        assert err.count("\n") == 1
        assert len(err) < LONGEST


FIELD_NAMES = sorted(af.LINUX_6_15.__dataclass_fields__)
any_word = st.one_of(
    st.text(max_size=8),
    st.sampled_from(("0", "-1", "1e3", "nan", "x" * 300, "linux-6.15", "rfc-v2", "a\nb", "\x1b[31m", "list", "6.18",
                     "/", "/dev/null", ".", "--help", "--set", "--policy", "9" * 5000, "None", "\ud800")),
)  # fmt: skip
changes = st.tuples(
    st.sampled_from((*FIELD_NAMES, "x")), st.sampled_from(("=", "", "=="))  , any_word | st.sampled_from(
        ("true", "False", "2", "2,3", "4", "9", "10", "page", "source_order", "never", "range", "1,1", ",", "2,2"))
).map("".join)  # fmt: skip
sets = st.just([]) | st.lists(changes, min_size=1, max_size=2).map(lambda made: ["--set", *made])
policies = st.just([]) | (any_word | st.sampled_from(sorted(af.POLICIES))).map(lambda name: ["--policy", name])
SMALL = ["--steps", "2", "--memory", "8"]


def command(name: list[str], *parts: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    return st.tuples(*parts).map(lambda made: [*name, *(word for part in made for word in part)])


one = any_word.map(lambda word: [word])
commands = st.one_of(
    command(["run"], one, policies, sets, st.just([]) | one.map(lambda made: ["--against", *made])),
    command(["run", "first-write"], policies, sets),
    command(["search", *SMALL], policies, sets, st.sampled_from((
        [], ["--pages", "0"], ["--pages", "100000"], ["--pages", "2"], ["--operations"], ["--operations", "write", "x"],
        ["--orders", "1"], ["--orders", "x"], ["--orders", str(10**30)], ["--orders"], ["--processes", "99"],
        ["--memory", "0"], ["--memory", "1"], ["--from", "half-unmapped-one-copied"], ["--from", "x"],
    ))),
    command(["replay"], one, policies, sets),
    command(["trace", "replay"], one, policies, st.just([]) | one.map(lambda made: ["--sizes", *made])),
    command(["cost", "show"], one),
    command(["record"], st.sampled_from((["x", "--random", "0"], ["x"], ["x", "first-write", "--random", "1"]))),
    command([], one, one),
)  # fmt: skip
TOUCHING = {"compare", "doctor", "record", "measure"}
"""Commands that would change this machine for a moment, but for what is refused before."""


@fuzz
@given(words=commands)
def test_a_command_gives_a_result_or_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] in TOUCHING - {"record"}:
        return
    check_told(*words)


# --- what failed ----------------------------------------------------------------------------------------------------


def npz(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(f"{name}.npy", raw)
    return file.getvalue()


def head(shape: str, dtype: str = "|u1") -> bytes:
    """The head of an .npy file, with or without the numbers."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


FAILED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "npz of zeros": ("npz", lambda: npz(header=head(f"({MOST_BYTES},)") + bytes(MOST_BYTES)), "a trace has"),
    "npz that promises": (
        "npz",
        lambda: npz(header=head("(1000000000000,)")),
        "not a trace",
    ),
    "npz of objects": ("npz", lambda: npz(header=head("(1,)", "|O") + b"cos\nsystem\n"), "not a trace"),
    "npz of a bad head": ("npz", lambda: npz(header=head("(1,")), "not a trace"),
    "json nested": ("json", lambda: b"[" * 100_000, "not JSON"),
    "json number": ("json", lambda: b'{"format": ' + b"1" * 5000 + b"}", "not JSON"),
    "json not UTF-8": ("json", lambda: b'{"format": "\xff"}', "not JSON"),
    "gz of zeros": ("json", lambda: gzip.compress(bytes(MOST_BYTES + 1), 1), "holds more than"),
    "json of small lists": ("json", lambda: gzip.compress(b"[" + b"[]," * (21 << 20) + b"0]", 1), "MiB of memory"),
    "json of small objects": ("json", lambda: gzip.compress(b"[" + b"{}," * (21 << 20) + b"0]", 1), "MiB of memory"),
    "json of pages of emoji": (
        "json",
        lambda: gzip.compress(b'"' + b"x" * (60 << 20) + "\U0001f600".encode() + b'"', 1),
        "MiB of memory",
    ),
    "scenario of 64 MiB": ("scenario", lambda: b"\n" * (8 << 20) + b"#", "holds more than 8,388,608 bytes"),
    "gz and more": ("json", lambda: gzip.compress(b"{}") + b"more", "damaged or cut off"),
    "scenario of one span": ("scenario", lambda: b"pages 16\nwrite 0 0..99999999999", "line 2"),
    "scenario of many spans": (
        "scenario",
        lambda: b"pages 99999\n" + b"write 0 0..99998\n" * 1000,
        "steps are too many",
    ),
    "scenario of one number": ("scenario", lambda: b"pages " + b"1" * 5000, "line 1"),
    "scenario not UTF-8": ("scenario", lambda: b"pages 16\n# \xff", "not UTF-8"),
    "scenario of 2^28 pages": ("scenario", lambda: b"pages 268435454\nwrite 0 0 1", "at most"),
}


MIB = ("json of small lists", "json of pages of emoji")
"""What takes a second; small objects and other letters are looked at like these."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in MIB)) for name in FAILED])
def test_what_failed_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    kind, make, says = FAILED[name]
    path = tmp_path / f"x.{kind}"
    path.write_bytes(make())
    command = {"npz": ["trace", "replay"], "json": ["replay"], "scenario": ["run"]}[kind]
    code, out, err = told(*command, str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert path.name in err
    assert len(err) < LONGEST


@pytest.mark.parametrize(
    "value", [[None] * 2000, ["x" * 5000], {"x" * 5000: 1}, "x" * 5000], ids=["nones", "word", "name", "text"]
)
@pytest.mark.parametrize("where", [("measured", "2", "cow_copy"), ("measured", "2"), ("measured",), ("about",)])
def test_a_long_value_in_a_table_of_costs_is_cut(where: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    document = copy.deepcopy(documents()["costs"])
    *path, last = where
    holder = document
    for key in path:
        holder = holder[key]
    holder[last] = value
    (tmp_path / "x.json").write_text(json.dumps(document))
    said = read_or_refused(lambda: str(read_table(tmp_path / "x.json")), CostError)
    assert said or (where == ("about",) and isinstance(value, dict))
    # What would be right stands behind it.
    assert last != "cow_copy" or said.endswith("each is a number above 0")


SHAPES = (
    b"[],", b"{},", b'{"a":1},', b"1234,", b"1.5,", b"12,", b'"ab",', b"true,", b'{"a":{"b":[]}},', b"[[[[[[1]]]]]],",
    b'{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6},', b"[1234,5678,9123],", b'"\\u1234",', b"1e5,", b"123456789012345678901,",
)  # fmt: skip
"""What a small file can hold much of."""


@pytest.mark.sweep(8)
@pytest.mark.parametrize("shape", [*SHAPES, None], ids=lambda shape: shape.decode() if shape else "keys")
def test_what_json_takes_when_parsed_is_not_underestimated(shape: bytes | None) -> None:
    size = 1 << 20
    raw = b"[" + shape * (size // len(shape)) + b"0]" if shape else json.dumps({f"{n:x}": n for n in range(90_000)})
    raw = raw if isinstance(raw, bytes) else raw.encode()
    tracemalloc.start()
    try:
        json.loads(raw)
        assert tracemalloc.get_traced_memory()[1] < parsed_bytes(raw)
    finally:
        tracemalloc.stop()


def test_what_json_of_other_letters_takes_is_not_underestimated() -> None:
    raw = ('"' + "x" * (1 << 20) + '\U0001f600"').encode()
    tracemalloc.start()
    try:
        json.loads(raw)
        assert tracemalloc.get_traced_memory()[1] < parsed_bytes(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_what_recordings_take_is_not_much_overestimated() -> None:
    """Else they could not grow."""
    raw = gzip.decompress((RECORDINGS / "mixing-6.18.44.json.gz").read_bytes())
    tracemalloc.start()
    try:
        json.loads(raw)
        assert parsed_bytes(raw) < 2 * tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


TOLD: dict[str, tuple[str, ...]] = {
    "a name of 300 letters": ("run", "x" * 300),
    "a name of 5,000 letters": ("replay", "x" * 5000),
    "a name with line ends": ("run", "a\nb\nc"),
    "a name with a null": ("replay", "a\0b.json"),
    "a path with line ends": ("replay", "a\nb.json"),
    "a folder": ("replay", "/"),
    "no name of a trace": ("trace", "replay", ""),
    "no name of a table": ("cost", "show", ""),
    "no file at all": ("replay", "/dev/null"),
    "a policy of 5,000 letters": ("run", "first-write", "--policy", "x" * 5000),
    "a field of 5,000 letters": ("run", "first-write", "--set", "x" * 5000),
    "a value of 5,000 letters": ("run", "first-write", "--set", "copy_extent=" + "x" * 5000),
    "a value with line ends": ("run", "first-write", "--set", "copy_extent=a\nb"),
    "an option of 5,000 letters": ("run", "first-write", "--" + "x" * 5000),
    "an unknown command": ("x" * 5000,),
    "pages without end": ("search", "--pages", "100000"),
    "an order of 30 digits": ("search", "--orders", str(10**30)),
    "a size of 5,000 letters": ("trace", "replay", "--sizes", "x" * 5000),
    "a table of 5,000 letters": ("cost", "show", "x" * 5000),
    "a kernel of 5,000 letters": ("run", "first-write", "--against", "x" * 5000),
}


@pytest.mark.parametrize("name", TOLD)
def test_no_error_is_longer_than_a_screen(name: str) -> None:
    code, out, err = told(*TOLD[name])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("anonfolio: ")
    assert len(err) < LONGEST
    assert err[:-1].isprintable()
