"""Replay is the judge of the model: every recording agrees, and a comparison that could not see would be worthless.

So beside "0 mismatches" this file asserts that each compared aspect is seen when it is wrong, that a wrong policy is
seen, and that a bad file is refused in one line that names the value.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anonfolio as af
from anonfolio.__main__ import main

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
FILES = {
    "mixed-6.1.json.gz": ("linux-6.3", 180, 2003),
    "mixed-6.12.json.gz": ("linux-6.9", 180, 1881),
    "mixed-6.18.json.gz": ("linux-6.15", 180, 1881),
    "mixed-7.3.json.gz": ("linux-7.3", 180, 1881),
    "mixing-6.18.44.json.gz": ("linux-6.15", 120, 1344),
    "named-6.1.json.gz": ("linux-6.3", 4, 34),
    "named-6.12.json.gz": ("linux-6.9", 45, 811),
    "named-6.18.json.gz": ("linux-6.15", 45, 811),
    "named-7.3.json.gz": ("linux-7.3", 45, 811),
    "refused-6.18.44.json.gz": ("linux-6.15", 80, 824),
}


THERE = sorted(
    path.relative_to(RECORDINGS).as_posix()
    for folder in (".", "arm64", "5.10")
    for path in (RECORDINGS / folder).glob("*.json.gz")
)
LARGE = 100_000
"""Files of so many bytes take seconds: `make test` replays some of the others."""


def test_the_ten_shared_recordings_are_there() -> None:
    assert set(FILES) <= set(THERE)


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    "recording",
    [pytest.param(name, marks=[pytest.mark.long] * ((RECORDINGS / name).stat().st_size > LARGE)) for name in THERE],
)
def test_the_model_equals_the_kernel_at_every_step(recording: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["replay", str(RECORDINGS / recording)])
    out, err = capsys.readouterr()
    counts = re.fullmatch(r"(\d+) programs, (\d+) steps, 0 mismatches\n", out)
    assert counts, out
    assert (code, err) == (0, "")
    programs, steps = map(int, counts.groups())
    assert programs
    assert steps
    if recording in FILES:
        assert (programs, steps) == FILES[recording][1:]


@pytest.mark.parametrize("recording", FILES)
def test_a_recording_s_kernel_chooses_its_policy(recording: str) -> None:
    kernel = recording.split("-")[1].removesuffix(".json.gz")
    assert af.policy_for_kernel(kernel).name == FILES[recording][0]


def test_a_replay_counts_what_the_file_holds() -> None:
    recording = af.read_recording(RECORDINGS / "named-6.1.json.gz")
    found = af.replay(recording)
    assert recording.kernel == "6.1.192"
    assert found.programs == len(recording.programs) == 4
    assert found.steps == sum(len(program.scenario.steps) for program in recording.programs) == 34


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("mixed-6.12.json.gz", "linux-6.15"),
        ("named-6.12.json.gz", "linux-6.15"),
        ("named-6.12.json.gz", "linux-6.8"),
        ("named-6.12.json.gz", "rfc-v2"),
        ("mixing-6.18.44.json.gz", "linux-6.9"),
        ("named-6.18.json.gz", "linux-6.9"),
        ("named-6.18.json.gz", "linux-6.8"),
        ("named-6.18.json.gz", "linux-6.3"),
        ("named-6.18.json.gz", "rfc-v2-fixed"),
        ("named-6.1.json.gz", "linux-6.15"),
    ],
)
def test_a_wrong_policy_is_seen(name: str, policy: str) -> None:
    recording = af.read_recording(RECORDINGS / name)
    wrong = (af.Recording(recording.kernel, (program,)) for program in recording.programs)
    seen = next(
        (found for found in (af.replay(one, af.policy_named(policy)) for one in wrong) if found.mismatches), None
    )
    assert seen is not None
    first, *_ = str(seen).splitlines()
    assert first.endswith(f"{len(seen.mismatches)} mismatches")


@pytest.mark.parametrize(
    ("version", "policy"),
    [
        ("6.1", "linux-6.3"), ("6.1.192", "linux-6.3"), ("6.3", "linux-6.2"), ("6.7", "linux-6.7"),
        ("6.7.12", "linux-6.7"), ("6.8", "linux-6.8"), ("6.8.0-41-generic", "linux-6.8"), ("6.9", "linux-6.9.0"),
        ("6.12.117", "linux-6.9"), ("6.14", "linux-6.14"), ("6.14.11", "linux-6.14"), ("6.15", "linux-6.15.0"),
        ("6.15.0-rc1", "linux-6.15.0"), ("6.18.44", "linux-6.15"), ("7.0", "linux-7.0"), ("7.3", "linux-7.3"),
        ("7.3.4", "linux-7.3"), ("10.1", "linux-7.3"), ("6.18.5", "linux-6.18"), ("6.16.12", "linux-6.16"),
        ("6.8-rc1", "linux-6.8"), ("6.12-rc7", "linux-6.9"), ("6.1+deb12", "linux-6.3"),
    ],
)  # fmt: skip
def test_the_kernel_s_version_chooses_the_policy(version: str, policy: str) -> None:
    assert af.policy_for_kernel(version).name == policy


@pytest.mark.parametrize("version", ["6.0", "6.0.19", "5.19", "2.6.39"])
def test_a_kernel_older_than_any_checked_asks_for_a_policy(version: str) -> None:
    why = r"older than any that was checked \(5\.10\)|not covered: 5\.10 was .*6\.1 .*"
    said = rf"^kernel {version} is ({why}); name a policy"
    with pytest.raises(ValueError, match=said):
        af.policy_for_kernel(version)


@pytest.mark.parametrize("version", ["", "garbage", "6", "six.one", "6.", ".6", "6.x"])
def test_a_version_that_is_none_asks_for_a_policy(version: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read .* as a kernel version; name a policy"):
        af.policy_for_kernel(version)


# --- what the comparison sees ---------------------------------------------------------------------------------------


def recorded(scenario: af.Scenario, kernel: str = "6.18.0", policy: af.Policy = af.LINUX_6_15) -> af.Recorded:
    """What the model does, as if a kernel had done it: the place to plant one wrong fact."""
    from anonfolio.witness.recording import as_program

    program = json.loads(json.dumps(as_program(scenario.run(policy), kernel)))
    return af.Recorded(kernel, scenario, tuple(program["steps"]))


PROGRAM = af.Scenario(
    16,
    (
        ("read", 0, 9),  # 0: a zero page, so the next write gets eight pages
        ("write", 0, 5, 105),  # 1
        ("fork", 0),  # 2
        ("write", 0, 4, 104),  # 3: a copy
        ("exit", 1),  # 4
        ("write", 0, 5, 6),  # 5: a reuse
        ("read", 0, 5),  # 6
        ("munmap", 0, 15, 1),  # 7
        ("pin", 0, 13, 3, 0),  # 8: refused at the hole
    ),
)


def with_step(change: Callable[[dict[str, Any]], None], *numbers: int) -> list[af.Difference]:
    one = recorded(PROGRAM)
    steps = copy.deepcopy(one.steps)
    for number in numbers:
        change(steps[number])
    return af.Recorded(one.kernel, one.scenario, steps).replay()


def cell(page: int, at: int, value: Any, process: str = "0") -> Callable[[dict[str, Any]], None]:
    """Change one entry of one cell."""

    def change(step: dict[str, Any]) -> None:
        step["view"][process][page][at] = value

    return change


def whole_cell(page: int, value: Any, process: str = "0") -> Callable[[dict[str, Any]], None]:
    def change(step: dict[str, Any]) -> None:
        step["view"][process][page] = value

    return change


def test_the_untouched_program_agrees() -> None:
    assert recorded(PROGRAM).replay() == []


@pytest.mark.parametrize(
    ("step", "change", "what", "mine", "theirs"),
    [
        (8, lambda s: s.update(ok=True), "done or refused", "refused", "done"),
        (5, lambda s: s.update(ok=False), "done or refused", "done", "refused"),
        (6, lambda s: s.update(value=7), "value", "6", "7"),
        (6, lambda s: s.update(value=None), "value", "6", "None"),
        (5, lambda s: s.update(faults=[]), "page faults", "page 5 (write, read-only there)", "none"),
        (
            5,
            lambda s: s.update(faults=[[5, 6]]),
            "page faults",
            "page 5 (write, read-only there)",
            "page 5 (write, nothing there)",
        ),
        (
            5,
            lambda s: s.update(faults=[[4, 7]]),
            "page faults",
            "page 5 (write, read-only there)",
            "page 4 (write, read-only there)",
        ),
        (6, lambda s: s.update(faults=[[5, 4]]), "page faults", "none", "page 5 (read, nothing there)"),
        (2, lambda s: s["view"].pop("1"), "live processes", "[0, 1]", "[0]"),
        (4, lambda s: s["view"].update({"1": [0] * 16}), "live processes", "[0]", "[0, 1]"),
        (1, whole_cell(7, 0), "process 0 page 7: present", "yes", "no"),
        (1, whole_cell(8, "z"), "process 0 page 8: present", "no", "yes"),
        (2, whole_cell(3, 0, "1"), "process 1 page 3: present", "yes", "no"),
        (1, whole_cell(9, [77, 0, 1, 1]), "process 0 page 9: zero page", "yes", "no"),
        (1, whole_cell(6, "z"), "process 0 page 6: zero page", "no", "yes"),
        (1, cell(6, 2, 16), "process 0 page 6: size of its folio", "8", "16"),
        (1, cell(6, 1, 5), "process 0 page 6: offset in its folio", "6", "5"),
        (3, cell(4, 3, 0), "process 0 page 4: mapped exactly once", "yes", "no"),
        (3, cell(6, 3, 1), "process 0 page 6: mapped exactly once", "no", "yes"),
    ],
)
def test_one_wrong_fact_is_seen_and_named(
    step: int, change: Callable[[dict[str, Any]], None], what: str, mine: str, theirs: str
) -> None:
    differences = with_step(change, step)
    first = differences[0]
    assert first.number == step
    assert (first.what, first.mine, first.theirs) == (what, mine, theirs)
    assert first.step == PROGRAM.steps[step]
    assert what in str(first)


def renumber(pages: range, folio: int, process: str = "0") -> Callable[[dict[str, Any]], None]:
    def change(step: dict[str, Any]) -> None:
        for page in pages:
            if isinstance(step["view"].get(process, [0] * 16)[page], list):
                step["view"][process][page][0] = folio

    return change


def test_a_reuse_that_was_a_copy_is_seen() -> None:
    """From step 5 on page 5's folio is another: what a kernel shows that copied all of it to a new place."""
    one = recorded(PROGRAM)
    steps = copy.deepcopy(one.steps)
    for step in steps[5:]:
        for page in (0, 1, 2, 3, 5, 6, 7):
            step["view"]["0"][page][0] = 4711
    (difference,) = af.Recorded(one.kernel, one.scenario, steps).replay()
    assert (difference.number, difference.what) == (5, "process 0 page 0: maps")
    assert (difference.mine, difference.theirs) == ("the same frame as before", "another frame than before")


def test_a_copy_that_was_a_reuse_is_seen() -> None:
    program = af.Scenario(2, (("write", 0, 0, 1), ("fork", 0), ("write", 0, 0, 2)), orders=())
    one = recorded(program)
    steps = copy.deepcopy(one.steps)
    steps[2]["view"]["0"][0][0] = steps[1]["view"]["0"][0][0]
    steps[2]["view"]["1"][0][0] = 4711
    (difference,) = af.Recorded(one.kernel, one.scenario, steps).replay()
    assert (difference.number, difference.what) == (2, "process 0 page 0: maps")
    assert (difference.mine, difference.theirs) == ("another frame than before", "the same frame as before")


def test_processes_that_do_not_share_a_folio_are_seen() -> None:
    differences = with_step(renumber(range(16), 4711, "1"), 2)
    first = differences[0]
    assert (first.number, first.what, first.mine) == (2, "sharing of folios", "pages share one folio")
    assert first.theirs == "the same pages are in different folios"


def test_pages_that_share_a_folio_and_should_not_are_seen() -> None:
    program = af.Scenario(2, (("write", 0, 0, 1), ("write", 0, 1, 2)), orders=())
    one = recorded(program)
    steps = copy.deepcopy(one.steps)
    steps[1]["view"]["0"][1][0] = steps[1]["view"]["0"][0][0]
    (difference,) = af.Recorded(one.kernel, one.scenario, steps).replay()
    assert (difference.number, difference.what) == (1, "sharing of folios")
    assert difference.mine == "the same pages are in different folios"


def test_frame_numbers_themselves_mean_nothing() -> None:
    one = recorded(PROGRAM)
    steps = copy.deepcopy(one.steps)
    for step in steps:
        for cells in step["view"].values():
            for page in cells:
                if isinstance(page, list):
                    page[0] += 123_456
    assert af.Recorded(one.kernel, one.scenario, steps).replay() == []


def test_what_a_refused_step_returned_is_not_compared() -> None:
    assert with_step(lambda s: s.update(value=9), 8) == []


def test_every_step_that_differs_is_reported_once() -> None:
    differences = with_step(lambda s: s.update(faults=[[0, 4]]), 2, 4, 6)
    assert [difference.number for difference in differences] == [2, 4, 6]


def test_a_value_that_a_device_read_is_compared_when_the_recorder_kept_it() -> None:
    program = af.Scenario(1, (("pin", 0, 0, 1, 0), ("write", 0, 0, 5), ("dma_read", 0, 0, 0)))
    one = recorded(program)
    for value, differs in ((5, False), (None, False), (6, True)):
        steps = copy.deepcopy(one.steps)
        steps[2]["value"] = value
        assert bool(af.Recorded(one.kernel, one.scenario, steps).replay()) == differs


def test_a_value_that_a_program_reads_is_never_missing() -> None:
    one = recorded(af.Scenario(1, (("write", 0, 0, 5), ("read", 0, 0))))
    steps = copy.deepcopy(one.steps)
    steps[1]["value"] = None
    (difference,) = af.Recorded(one.kernel, one.scenario, steps).replay()
    assert (difference.what, difference.mine, difference.theirs) == ("value", "5", "None")


# --- bit 56 under a PMD ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [0, 3])
@pytest.mark.parametrize(
    ("kernel", "whole_pmd"),
    [("6.1.192", True), ("6.10.0", True), ("6.11.0", False), ("6.12.117", False), ("6.14.9", False), ("6.15.0", True),
     ("6.18.15", True), ("7.3.4", True)],
)  # fmt: skip
def test_a_window_that_asks_the_first_page_only_is_allowed_for_where_kernels_do_so(
    kernel: str, whole_pmd: bool, skew: int
) -> None:
    """The child copied one page: it is mapped once, here by a PMD whose other 511 pages are mapped twice.

    What the model writes as that kernel's recording replays against itself; the other answer is seen.
    """
    start = (512 - skew) % 512
    program = (("write", 0, start, 1), ("fork", 0), ("write", 1, start + 5, 2))
    scenario = af.Scenario(start + 512, program, (9,), skew)
    policy = af.policy_for_kernel(kernel)
    one = recorded(scenario, kernel, policy)
    assert one.steps[2]["view"]["0"][start + 5][3] == int(not whole_pmd)
    assert one.steps[2]["view"]["0"][start][3] == 0
    assert one.replay() == []
    steps = copy.deepcopy(one.steps)
    steps[2]["view"]["0"][start + 5][3] = int(whole_pmd)
    assert af.Recorded(kernel, scenario, steps).replay()


def test_the_window_is_for_pmd_mappings_only() -> None:
    """By PTE each page answers for itself in every kernel."""
    (difference, *_) = with_step(cell(4, 3, 0), 3)
    assert difference.what.endswith("mapped exactly once")


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", af.POLICIES.values(), ids=lambda policy: policy.name)
def test_what_is_written_is_read_and_replays(policy: af.Policy, tmp_path: Path) -> None:
    names = ["wipe-on-fork", "mapping-starts-inside-block", "huge-fork-write-exit-write", "fork-fails", "hole-refilled"]
    timelines = [af.Scenario.load(name).run(policy) for name in names]
    first, second = tmp_path / "first.json.gz", tmp_path / "second.json.gz"
    af.write_recording(first, "6.18.44", timelines, seed=7, build="the model")
    af.write_recording(second, "6.18.44", timelines, seed=7, build="the model")
    assert first.read_bytes() == second.read_bytes()
    content = json.loads(gzip.decompress(first.read_bytes()))
    assert (content["format"], content["kernel"], content["seed"]) == ("anonfolio-recording/1", "6.18.44", 7)
    recording = af.read_recording(first)
    for name, program in zip(names, recording.programs, strict=True):
        scenario = af.Scenario.load(name)
        assert (program.scenario.name, program.scenario.steps) == (name, scenario.steps)
        assert (program.scenario.pages, program.scenario.orders) == (scenario.pages, scenario.orders)
        assert program.scenario.skew == scenario.skew
    plain = [program for program in recording.programs if 9 not in program.scenario.orders]
    assert af.replay(af.Recording("6.18.44", tuple(plain)), policy).mismatches == ()


def test_a_recording_may_be_plain_json(tmp_path: Path) -> None:
    packed = RECORDINGS / "named-6.1.json.gz"
    plain = tmp_path / "plain.json"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    assert af.read_recording(plain).programs == af.read_recording(packed).programs


def test_a_recording_finds_its_programs_by_name() -> None:
    recording = af.read_recording(RECORDINGS / "named-6.1.json.gz")
    assert recording.named("huge-zero-page").scenario.pages == 512
    with pytest.raises(af.RecordingError, match="has no program named 'nope'"):
        recording.named("nope")


def test_two_policies_are_compared_like_two_kernels() -> None:
    scenario = af.Scenario.load("wipe-on-fork")
    assert scenario.run(af.LINUX_6_15).compare(scenario.run(af.LINUX_6_9)) == []
    (difference,) = scenario.run(af.RFC_V2).compare(scenario.run(af.RFC_V2_FIXED))
    assert difference.number == len(scenario.steps) - 1


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_line_and_succeeds() -> None:
    command = [sys.executable, "-m", "anonfolio", "replay", str(RECORDINGS / "named-6.1.json.gz")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RECORDINGS.parent.parent, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 programs, 34 steps, 0 mismatches\n", "")


def test_the_command_shows_the_first_mismatch_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(RECORDINGS / "named-6.1.json.gz"), "--policy", "linux-6.15"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("4 programs, 34 steps, ")
    assert lines[0].endswith(" mismatches")
    assert not lines[0].startswith("4 programs, 34 steps, 0 ")
    assert lines[1] == "first: program 1 (huge-fork-write-exit-write), step 5, process 0 page 6: size of its folio"
    assert any(line.startswith("  model:") for line in lines)
    assert any(line.startswith("  recorded:") and "kernel 6.1.192" in line for line in lines)
    assert err == ""


def bad_file(change: Callable[[dict[str, Any]], Any]) -> bytes:
    content: dict[str, Any] = {
        "format": "anonfolio-recording/1",
        "kernel": "6.18.44",
        "programs": [
            {
                "orders": [2],
                "pages": 4,
                "skew": 0,
                "program": [["write", 0, 1, 7], ["fork", 0]],
                "steps": [
                    {"ok": True, "value": None, "faults": [[1, 6]],
                     "view": {"0": [[8, page, 4, 1] for page in range(4)]}},
                    {"ok": True, "value": None, "faults": [],
                     "view": {str(p): [[8, page, 4, 0] for page in range(4)] for p in (0, 1)}},
                ],
            }
        ],
    }  # fmt: skip
    change(content)
    return gzip.compress(json.dumps(content).encode())


def setting(*path: Any, to: Any) -> bytes:
    """The good file with the value at `path` replaced."""

    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return bad_file(change)


def without(*path: Any) -> bytes:
    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return bad_file(change)


GOOD = bad_file(lambda content: None)
P = ("programs", 0)
STEP0 = (*P, "steps", 0)

BAD = {
    "empty": (b"", "not JSON"),
    "not gzip and not JSON": (b"\x7fELF\x02\x01", "not JSON"),
    "text": (b"hello\n", "not JSON"),
    "truncated gzip": (GOOD[: len(GOOD) // 2], "damaged or cut off"),
    "gzip without its end": (GOOD[:-6], "damaged or cut off"),
    "only the gzip header": (GOOD[:10], "damaged or cut off"),
    "gzip of no JSON": (gzip.compress(b"{"), "not JSON"),
    "gzip of no text": (gzip.compress(b"\xff\xfe\x00"), "not JSON"),
    "damaged gzip": (GOOD[:20] + b"\x00\x00\x00" + GOOD[23:], ""),
    "a list": (gzip.compress(b"[1]"), "'list'"),
    "a number": (gzip.compress(b"7"), "'int'"),
    "foreign format": (setting("format", to="other/2"), "'other/2'"),
    "newer format": (setting("format", to="anonfolio-recording/2"), "'anonfolio-recording/2'"),
    "no format": (without("format"), "None"),
    "no kernel": (without("kernel"), "kernel is None"),
    "kernel a number": (setting("kernel", to=6.18), "kernel is 6.18"),
    "kernel too old": (setting("kernel", to="5.15.1"), "5.15.1"),
    "kernel unreadable": (setting("kernel", to="mine"), "'mine'"),
    "no programs": (without("programs"), "programs is NoneType"),
    "programs an object": (setting("programs", to={}), "programs is dict"),
    "program a string": (setting(*P, to="x"), "program 0: is str"),
    **{f"no {key}": (without(*P, key), f"program 0: has no '{key}'")
       for key in ("orders", "pages", "skew", "program", "steps")},
    "orders a number": (setting(*P, "orders", to=4), "orders is 4"),
    "order 1": (setting(*P, "orders", to=[1]), "order 1"),
    "order 10": (setting(*P, "orders", to=[10]), "order 10"),
    "order a string": (setting(*P, "orders", to=["4"]), "order '4'"),
    "order a list": (setting(*P, "orders", to=[[4]]), "[4]"),
    "order a float": (setting(*P, "orders", to=[4.0]), "4.0"),
    "pages a string": (setting(*P, "pages", to="4"), "'4'"),
    "pages none": (setting(*P, "pages", to=0), "pages=0"),
    "skew negative": (setting(*P, "skew", to=-1), "skew=-1"),
    "skew too large": (setting(*P, "skew", to=512), "skew=512"),
    "skew a float": (setting(*P, "skew", to=1.5), "skew=1.5"),
    "program an object": (setting(*P, "program", to={}), "program is {}"),
    "steps a number": (setting(*P, "steps", to=2), "steps is 2"),
    "step counts differ": (without(*P, "steps", 1), "2 operations but 1 steps"),
    "unknown operation": (setting(*P, "program", 0, to=["wrote", 0, 1, 7]), "'wrote'"),
    "operation not recorded": (setting(*P, "program", 1, to=["forkfail_after", 0, 1]), "'forkfail_after'"),
    "operation a number": (setting(*P, "program", 0, to=3), "step 0: 3"),
    "operation empty": (setting(*P, "program", 0, to=[]), "step 0: []"),
    "operation a list": (setting(*P, "program", 0, to=[["write"], 0, 1, 7]), "step 0: [['write']"),
    "too few arguments": (setting(*P, "program", 0, to=["write", 0, 1]), "write takes process, page, byte"),
    "too many arguments": (setting(*P, "program", 1, to=["fork", 0, 1]), "fork takes process"),
    "process that never was": (setting(*P, "program", 1, to=["fork", 3]), "there is no process 3"),
    "process a string": (setting(*P, "program", 1, to=["fork", "0"]), "there is no process '0'"),
    "process negative": (setting(*P, "program", 1, to=["fork", -1]), "there is no process -1"),
    "page outside": (setting(*P, "program", 0, to=["write", 0, 4, 7]), "page 4 is outside the mapping"),
    "range outside": (setting(*P, "program", 0, to=["munmap", 0, 2, 3]), "page 4 is outside the mapping"),
    "new place outside": (setting(*P, "program", 0, to=["mremap", 0, 0, 2, 3]), "page 4 is outside the mapping"),
    "page a string": (setting(*P, "program", 0, to=["write", 0, "1", 7]), "page is '1'"),
    "page true": (setting(*P, "program", 0, to=["write", 0, True, 7]), "page is True"),
    "byte too large": (setting(*P, "program", 0, to=["write", 0, 1, 256]), "byte 256"),
    "range empty": (setting(*P, "program", 0, to=["munmap", 0, 1, 0]), "at least one page"),
    "advice unknown": (setting(*P, "program", 0, to=["madvise", 0, 1, 1, "pageout"]), "'pageout'"),
    "prot unknown": (setting(*P, "program", 0, to=["mprotect", 0, 1, 1, 2]), "prot 2"),
    "seen a list": (setting(*STEP0, to=[]), "step 0: what was seen is list"),
    **{f"step without {key}": (without(*STEP0, key), f"step 0: '{key}' is missing")
       for key in ("ok", "value", "faults", "view")},
    "ok a number": (setting(*STEP0, "ok", to=1), "'ok' is missing or 1"),
    "value a string": (setting(*STEP0, "value", to="7"), "'value' is missing or '7'"),
    "faults an object": (setting(*STEP0, "faults", to={}), "'faults' is missing or {}"),
    "fault a number": (setting(*STEP0, "faults", to=[1]), "fault 1 is not"),
    "fault too long": (setting(*STEP0, "faults", to=[[1, 6, 0]]), "fault [1, 6, 0] is not"),
    "view a list": (setting(*STEP0, "view", to=[]), "'view' is missing or []"),
    "view of no process": (setting(*STEP0, "view", to={"first": [0] * 4}), "'first'"),
    "too few cells": (setting(*STEP0, "view", "0", to=[0] * 3), "list of 4 cells"),
    "too many cells": (setting(*STEP0, "view", "0", to=[0] * 5), "list of 4 cells"),
    "cell a word": (setting(*STEP0, "view", "0", 2, to="x"), "page 2 is 'x'"),
    "cell too short": (setting(*STEP0, "view", "0", 2, to=[8, 2, 4]), "page 2 is [8, 2, 4]"),
    "cell of strings": (setting(*STEP0, "view", "0", 2, to=[8, "2", 4, 1]), "page 2 is [8, '2', 4, 1]"),
    "cell outside its folio": (setting(*STEP0, "view", "0", 2, to=[8, 4, 4, 1]), "page 2 is [8, 4, 4, 1]"),
    "cell of six pages": (setting(*STEP0, "view", "0", 2, to=[8, 2, 6, 1]), "page 2 is [8, 2, 6, 1]"),
    "cell of 1024 pages": (setting(*STEP0, "view", "0", 2, to=[8, 2, 1024, 1]), "page 2 is [8, 2, 1024, 1]"),
    "cell mapped twice once": (setting(*STEP0, "view", "0", 2, to=[8, 2, 4, 2]), "page 2 is [8, 2, 4, 2]"),
    "cell null": (setting(*STEP0, "view", "0", 2, to=None), "page 2 is None"),
    "cell beyond 64 bits": (setting(*STEP0, "view", "0", 2, to=[1 << 70, 2, 4, 1]), str(1 << 70)),
}  # fmt: skip


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("anonfolio: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert "Traceback" not in err
    return err


def test_the_file_that_bad_ones_are_made_of_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "good.json.gz"
    path.write_bytes(GOOD)
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == "1 programs, 2 steps, 0 mismatches\n"


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_that_names_the_value(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, named = BAD[kind]
    path = tmp_path / "bad.json.gz"
    path.write_bytes(content)
    assert main(["replay", str(path)]) == 2
    assert named in one_line(capsys)


def test_a_missing_file_a_directory_and_an_unknown_policy_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.json.gz"
    assert main(["replay", str(missing)]) == 2
    assert str(missing) in one_line(capsys)
    assert main(["replay", str(tmp_path)]) == 2
    assert str(tmp_path) in one_line(capsys)
    assert main(["replay", str(RECORDINGS / "named-6.1.json.gz"), "--policy", "linux-7"]) == 2
    message = one_line(capsys)
    assert "'linux-7'" in message
    assert all(name in message for name in af.POLICIES)


def test_a_bad_command_line_exits_2() -> None:
    for arguments in ([], ["play"], ["replay"], ["replay", "x", "--polcy", "y"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_no_traceback_reaches_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "bad.json.gz"
    path.write_bytes(GOOD[:-6])
    command = [sys.executable, "-m", "anonfolio", "replay", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=RECORDINGS.parent.parent, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_named_policy_stands_in_for_a_version_that_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.json.gz"
    path.write_bytes(setting("kernel", to="mine"))
    assert main(["replay", str(path), "--policy", "linux-6.15"]) == 0


def test_a_device_s_operations_that_cannot_be_are_refused_like_the_kernel_would(tmp_path: Path) -> None:
    """A DMA through a pin that is not there, and an unpin of nothing, are results of a step, not crashes."""
    program = af.Scenario(4, (("dma_read", 0, 0, 0), ("unpin", 0, 3), ("unref", 0, 1)))
    timeline = program.run()
    assert [result.ok for result in timeline] == [False, False, False]
    path = tmp_path / "device.json.gz"
    af.write_recording(path, "6.18", [timeline])
    assert af.replay(af.read_recording(path)).mismatches == ()
