"""Recordings of many releases: one command makes them, and a table says which fields of a policy they notice."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import anonfolio as af
from anonfolio.kernel.history import kernel_number
from anonfolio.witness.recording import DATA_DIR

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "releases.py"
if not TOOL.exists():
    pytest.skip("the tools are not part of what is tested here", allow_module_level=True)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("releases_tool", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


releases = load()
TABLE = json.loads(releases.NOTICED.read_text(encoding="utf-8"))
VERSIONS = list(TABLE["releases"])
RECORDED = sorted((path.name[8:-8] for path in DATA_DIR.glob("release-*.json.gz")), key=kernel_number)


def test_every_release_that_was_recorded_is_in_the_table() -> None:
    """What else there is of a kernel may be newer than the table: it can only notice more."""
    told = {name for release in TABLE["releases"].values() for name in release["recordings"]}
    assert {f"release-{version}.json.gz" for version in RECORDED} <= told


def test_the_page_is_what_the_table_says() -> None:
    assert releases.PAGE.read_text(encoding="utf-8") == releases.page(TABLE)


@pytest.mark.sweep(14)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_field_that_is_noticed_is_noticed_by_the_program_that_is_named(version: str) -> None:
    """And what stands in the table are fields of today's policy, with values that they might have.

    A field that is newer than the table is not in it, until `python tools/releases.py table` is run again.
    """
    flips = list(releases.flips(af.Policy.at(version)))
    noticed = TABLE["releases"][version]["noticed"]
    there = {(field, value) for field, values in noticed.items() for value in values}
    assert there <= {(field, str(value)) for field, value, _ in flips}
    recordings = {name: af.read_recording(DATA_DIR / name) for name in TABLE["releases"][version]["recordings"]}
    for field, value, other in flips:
        if where := noticed.get(field, {}).get(str(value)):
            name, number = where.split()
            assert recordings[name].programs[int(number)].replay(other), f"{version}: {field}={value}: {where}"


PARTS = 4
"""Of a long look: `make test` takes one of them."""
NEIGHBOURS = [pair for pair in pairwise(RECORDED) if af.Policy.at(pair[0]) != af.Policy.at(pair[1])]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("older", "newer"), NEIGHBOURS)
def test_a_release_is_told_from_the_next_that_was_recorded(older: str, newer: str) -> None:
    """Wherever the table says that some recording notices a field that changed between them."""
    for version, other in ((older, newer), (newer, older)):
        policy, own = af.Policy.at(other), af.Policy.at(version)
        values = {field: str(getattr(policy, field)) for field in noticed_of(version)}
        changed = [field for field, value in values.items() if value != str(getattr(own, field))]
        if not any("release-" in noticed_of(version)[field].get(values[field], "") for field in changed):
            continue
        recording = af.read_recording(DATA_DIR / f"release-{version}.json.gz")
        assert any(program.replay(policy) for program in recording.programs), f"{version} under {policy.name}"


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_what_no_recording_of_a_release_notices_is_looked_for_in_all_of_them(part: int) -> None:
    """The whole look, for the release with the fewest recordings that has a field which none notices."""
    missing = [version for version in VERSIONS if any("" in found.values() for found in noticed_of(version).values())]
    version = min(missing, key=lambda version: sum(map(size_of, TABLE["releases"][version]["recordings"])))
    recordings = [af.read_recording(DATA_DIR / name) for name in TABLE["releases"][version]["recordings"]]
    unnoticed = [
        (field, value, other)
        for field, value, other in releases.flips(af.Policy.at(version))
        if noticed_of(version).get(field, {}).get(str(value)) == ""
    ]
    assert len(unnoticed) >= PARTS
    for field, value, other in unnoticed[part::PARTS]:
        assert not any(af.replay(recording, other).mismatches for recording in recordings), (field, value)


def noticed_of(version: str) -> dict[str, dict[str, str]]:
    """Of a release, or of the newer one of its series that stands for both."""
    rows = TABLE["releases"]
    of = (
        version
        if version in rows
        else next(name for name, row in rows.items() if f"release-{version}.json.gz" in row["recordings"])
    )
    noticed: dict[str, dict[str, str]] = rows[of]["noticed"]
    return noticed


def size_of(name: str) -> int:
    return (DATA_DIR / name).stat().st_size


def test_what_is_skipped_is_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "linux-image-5.15.0-1-cloud-amd64_5.15.167-1_amd64.deb", "busybox-static_1.38_arm64.deb",
        "linux-binary-7.3.4+deb13-cloud-arm64_7.3.4-1_arm64.deb",
    )  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    assert releases.main(["record", str(tmp_path)]) == 2
    told = capsys.readouterr().out
    assert f"{names[0]}: skipped: kernel 5.15.167 is not covered" in told
    assert f"{names[1]}: skipped: no package of a kernel" in told
    assert f"{names[2]}: skipped: arm64" in told


def test_a_package_without_an_image_is_skipped_by_what_the_recorder_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb"
    package.write_bytes(b"!<arch>\n")
    monkeypatch.setattr(releases, "programs_of", lambda version, each: [af.Scenario.load("first-write")])
    assert releases.main(["record", str(tmp_path), "--into", str(tmp_path)]) == 2
    assert f"{package.name}: skipped: not recorded, " in capsys.readouterr().out


def test_the_programs_of_a_release_tell_its_rules_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a field that programs notice some are taken that do; 2 MiB that are held tell how PMDs are reused in 5.10."""
    policy = af.Policy.at("5.10")
    flips = {field: flip for field, value, other in releases.flips(policy) for flip in [(field, value, other)]}
    monkeypatch.setattr(releases, "flips", lambda policy: [flips["marks_exclusive"]])
    monkeypatch.setattr(releases, "TRIED", len(releases.KINDS))
    told = list(releases.tellers(policy, (9,)))
    assert 1 <= len(told) <= releases.TELLERS
    assert all(program.run(policy).compare(program.run(flips["marks_exclusive"][2])) for program in told)
    held = releases.WRITTEN[0]
    assert held.run(policy).compare(held.run(flips["huge_reuse"][2]))
