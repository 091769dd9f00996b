"""Policies are dated: a release is the sum of the changes up to it, and recordings tell releases apart."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

import anonfolio as af
from anonfolio.kernel import history
from anonfolio.kernel.history import ARCHITECTURES, HISTORY, Change, changes_between, kernel_number
from anonfolio.kernel.policy import released
from anonfolio.witness.recording import DATA_DIR

FIELDS = {field.name for field in fields(af.Policy)}


def test_the_table_is_in_order_and_every_row_changes_something_and_says_how_it_is_known() -> None:
    assert all(kernel_number(old.release) <= kernel_number(new.release) for old, new in pairwise(HISTORY))
    for row in HISTORY[1:]:
        assert set(row.fields) <= FIELDS
        assert row.commit
        assert row.evidence.split(":")[0].split()[0] in ("recorded", "source", "source;", "inferred")
        arch = row.arch or "x86-64"
        before = [other for other in HISTORY[: HISTORY.index(row)] if other.arch in ("", arch)]
        was = {field: value for other in before for field, value in other.fields.items()}
        default = af.Policy(name="")
        assert all(was.get(field, getattr(default, field)) != value for field, value in row.fields.items()), row


def test_the_newest_is_what_a_policy_is_by_default() -> None:
    newest = af.Policy.at("7.3")
    assert af.Policy(name="linux-7.3", about=newest.about) == newest


def test_a_release_after_the_newest_that_changes_something_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "HISTORY", (*HISTORY, Change("7.4", {"has_collapse": False}, "none", "source of 7.4")))
    policies = [af.Policy.at(version) for version in ("7.3", "7.4")]
    assert [policy.name for policy in policies] == ["linux-7.3", "linux-7.4"]
    assert [policy.has_collapse for policy in policies] == [True, False]


@pytest.mark.parametrize(
    ("version", "known"),
    [("6.1", af.LINUX_6_3), ("6.8", af.LINUX_6_8), ("6.12.117", af.LINUX_6_9), ("6.18.44-cloud", af.LINUX_6_15)],
)
def test_a_sum_that_has_a_name_is_the_policy_of_that_name(version: str, known: af.Policy) -> None:
    assert af.Policy.at(version) is known
    assert af.policy_for_kernel(version) is known
    assert af.POLICIES[known.name] is known


def test_sums_without_a_name_are_named_after_their_last_change_and_never_like_a_known_one() -> None:
    for minor in range(1, 20):
        policy = af.Policy.at(f"6.{minor}")
        assert af.POLICIES.get(policy.name, policy) == policy
    assert [af.Policy.at(version).name for version in ("6.13", "6.14", "6.15", "6.16", "6.17")] == [
        "linux-6.13", "linux-6.14", "linux-6.15.0", "linux-6.16", "linux-6.17.6",
    ]  # fmt: skip
    assert af.Policy.at("6.2") == af.Policy.at("6.3.13")


@pytest.mark.parametrize(
    ("field", "since", "before", "after"),
    [
        ("huge_zero_write", ("6.12.99", "6.13"), "page", "huge"),
        ("reclaims_page_tables", ("6.13", "6.14"), False, True),
        ("large_reuse", ("6.8", "6.9"), "refcount_one", "never"),
        ("large_reuse", ("6.14.11", "6.15"), "never", "mm_id"),
        ("merges_into_unfaulted", ("6.15", "6.16"), False, True),
        ("moves_many_vmas", ("6.16.12", "6.17"), False, True),
        ("thp_disable_except_advised", ("6.17.13", "6.18.0"), False, True),
        ("dontunmap_keeps_account", ("6.14", "6.15"), True, False),
        ("dontunmap_keeps_account", ("6.17.5", "6.17.6"), False, True),
        ("dontunmap_splits_locked", ("7.2.10", "7.2.11"), False, True),
        ("dontunmap_splits_locked", ("6.12.114", "6.13"), True, False),
        ("moved_keeps_anon_vma", ("6.15.9", "6.16"), True, False),
        ("moved_keeps_anon_vma", ("6.18.7", "6.18.8"), False, True),
        ("mprotect_needs_dirty", ("6.1.200", "6.2"), True, False),
        ("mmap_asks_upper_first", ("6.11", "6.12"), True, False),
        ("ages_whole_folios", ("6.9", "6.10"), False, True),
        ("split_maps_zero_page", ("6.11", "6.12"), False, True),
        ("has_guard_markers", ("6.12", "6.13"), False, True),
        ("fork_copies_guarded", ("6.18.36", "6.18.37"), False, True),
        ("realigns_moves", ("6.6", "6.7"), False, True),
    ],
)
def test_what_changed_when(field: str, since: tuple[str, str], before: object, after: object) -> None:
    assert [getattr(af.Policy.at(version), field) for version in since] == [before, after]


def test_a_release_is_named_like_a_policy() -> None:
    assert af.policy_named("6.14") == af.Machine("6.14").policy == af.Policy.at("6.14")
    assert af.policy_named("6.9") != af.policy_named("linux-6.9") == af.Policy.at("6.12")
    with pytest.raises(ValueError, match="cannot read '6' as a kernel version"):
        af.policy_named("6")


def test_what_changed_between_two_releases_is_listed_with_its_evidence() -> None:
    rows = changes_between("6.12", "6.14")
    assert [(row.release, *row.fields) for row in rows] == [
        ("6.13", "dontunmap_splits_locked"), ("6.13", "pmd_modify_keeps_dirty"), ("6.13", "huge_zero_write"),
        ("6.13", "has_guard_markers"), ("6.14", "reclaims_page_tables"),
    ]  # fmt: skip
    assert all(row.commit and row.evidence for row in rows)
    assert [row.release for row in changes_between("6.12", "6.14", "arm64")] == 4 * ["6.13"]
    assert changes_between("6.14", "6.12") == changes_between("6.14", "6.14") == []


def test_two_numbers_name_the_series_as_its_newest_release_is() -> None:
    assert af.Policy.at("6.18") is af.LINUX_6_15
    assert af.Policy.at("6.18.0") == af.Policy.at("6.18.7") != af.Policy.at("6.17")


def test_what_a_release_does_is_released_whatever_it_is_called() -> None:
    versions = [str(row.release) for row in HISTORY] + ["6.1", "6.18", "6.18.36", "6.18.99", "7.9"]
    for arch in ("x86-64", "arm64", "arm64-16k"):
        assert [each for each in versions if not released(af.Policy.at(each, arch).but(name="mine", about=""))] == []
    assert not any(map(released, (af.RFC_V2, af.RFC_V2_FIXED, af.LINUX_6_15.but(name="x", unshares_zero_page=False))))


def test_arm64_has_its_own_dates() -> None:
    assert [af.Policy.at(version, arch="arm64").cont_pte_order for version in ("6.8", "6.9", "7.3")] == [0, 4, 4]
    frees = [af.Policy.at(version, arch="aarch64").reclaims_page_tables for version in ("6.14", "6.19.14", "7.0")]
    assert frees == [False, False, True]
    assert af.Policy.at("6.19", arch="arm64").name == "linux-6.18.37, arm64"
    assert af.Policy.at("6.19").cont_pte_order == 0
    mended = ("5.10.246", "6.1.158", "6.12.56", "6.17.6", "6.18.0")
    unmended = ("5.10.245", "6.1.157", "6.12.55", "6.16.12", "6.17.5")
    for keeps, versions in ((True, mended), (False, unmended)):
        assert {af.Policy.at(version, arch="arm64").mkwrite_keeps_clean for version in versions} == {keeps}
    assert af.Policy.at("6.16.12").mkwrite_keeps_clean


def test_the_proposal_stands_on_the_release_that_it_was_posted_on() -> None:
    old = af.Policy.at("6.3")
    proposed = {"fixed_orders", "zero_page_write", "copy_extent", "copy_requires_maybe_shared", "large_reuse"}
    differ = {name for name in FIELDS if getattr(old, name) != getattr(af.RFC_V2, name)}
    assert differ == proposed | {"reuse_extent", "name", "about"}
    assert not af.RFC_V2.mprotect_needs_dirty


def test_a_release_tells_all_that_changed_there() -> None:
    about = af.Policy.at("6.17.0").about
    assert "moves_many_vmas (d23cb648e365)" in about
    assert "batches_ptes (cac1db8c3aad, f822a9a81a31)" in about


@pytest.mark.parametrize(
    "version",
    ["", "six", "6", "v6.12", "6.x", "६.१", "9" * 5000 + ".1", 6.10, None, b"6.12", "6.12x", "6.8.9x", "6.8."],
)
def test_an_unreadable_release_is_one_line_with_what_would_be_right(version: Any) -> None:
    with pytest.raises(ValueError, match=r"^cannot read .{,60} as a kernel version; name a policy, .* '6\.12'$"):
        af.Policy.at(version)


@pytest.mark.parametrize("more", ["-rc3", "rc3", "-cloud-amd64", ".4-microsoft-standard-WSL2", "+", ".1-1~bpo12"])
def test_what_a_builder_adds_to_a_release_is_no_part_of_it(more: str) -> None:
    assert kernel_number(f"6.12.9{more}") == (6, 12, 9)


def test_a_release_before_the_first_and_another_architecture_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^kernel 5\.4\.281 is older than any that was checked \(5\.10\); name a policy"
    ):
        af.Policy.at("5.4.281")
    for version in ("5.11", "5.15.167", "6.0.19"):
        with pytest.raises(ValueError, match=rf"^kernel {version} is not covered: 5\.10 was .* 6\.1 and later"):
            af.Policy.at(version)
    arch: Any
    for arch in ("riscv", None, ["arm64"]):
        with pytest.raises(ValueError, match=r"^arch=.*(riscv|None|arm64).*: .* x86-64, .*arm64"):
            af.Policy.at("6.12", arch=arch)


SEEN = [
    ("5.10/lost-write-5.10.223", "6.1"),
    ("various-6.1.192", "6.2"), ("accounted-6.1.192", "6.7"), ("various-6.12.117", "6.1"), ("various-6.12.117", "6.3"),
    ("accounted-6.12.117", "6.6"), ("named-6.12", "6.8"), ("various-6.12.117", "6.13"), ("various-6.12.117", "6.14"),
    ("named-6.12", "6.15"), ("min-6.17.13", "6.16.12"), ("min-6.17.13", "6.18.8"), ("min-6.18.5", "6.18.8"),
    ("min-6.18.9", "6.18.7"), ("various-6.18.44", "6.13"), ("named-6.18", "6.14"), ("various-6.18.44", "6.15"),
    ("merge-6.18.44", "6.16"), ("free-6.12.118", "6.9"), ("free-6.12.118", "6.11"),
    ("kept-6.12.118", "6.11"), ("kept-6.16.12", "6.15"), ("kept-7.3.4", "7.1"),
    ("free-7.3.4", "6.14"), ("arm64/reclaim6.17", "7.0"), ("arm64/reclaim7.0", "6.19.14"),
    ("collapse-6.17.13", "6.18.7"), ("collapse-7.0.13", "6.19"),
    ("knobs-6.18.44", "6.17"), ("knobs-6.17.13", "6.18.0"),
    ("arm64/mkwrite-6.12.118", "6.12.55"), ("arm64/mkwrite-6.16.12", "6.12.56"), ("arm64/mkwrite-6.17.13", "6.17.5"),
    ("random-6.16.12", "6.14"), ("random-6.16.12", "6.17.6"), ("random-7.2.13", "7.2.10"),
    ("guarded-6.18.44", "6.18.36"), ("guarded-6.18.15", "6.18.37"), ("guarded-6.19.6", "6.18.36"),
    ("guarded-6.17.13", "6.19"), ("realigned-6.12.118", "6.6"),
    ("arm64/around-6.16.12", "6.17"), ("arm64/around-6.17.13", "6.16"),
]  # fmt: skip
"""A recording, and a release beside its own that it is not of."""


@cache
def recorded(file: str) -> af.Recording:
    return af.read_recording(DATA_DIR / f"{file}.json.gz")


@pytest.mark.sweep(9)
@pytest.mark.parametrize(("file", "wrong"), SEEN)
def test_a_recording_tells_its_release_from_its_neighbour(file: str, wrong: str) -> None:
    recording = recorded(file)
    policy = af.Policy.at(wrong, recording.arch)
    assert any(program.replay(policy) for program in recording.programs)


@pytest.mark.long
def test_a_change_that_is_called_recorded_is_told_by_a_recording() -> None:
    """One of `SEEN` is of a release with it and is held against one without, or the other way round."""
    pairs = []
    for file, wrong in SEEN:
        recording = recorded(file)
        releases = sorted((kernel_number(recording.kernel), kernel_number(wrong, 1 << 16)))
        pairs.append((releases, ARCHITECTURES[recording.arch]))
    for row in HISTORY[1:]:
        if row.evidence.startswith("recorded:"):
            released = kernel_number(row.release)
            assert any(old < released <= new and row.arch in ("", arch) for (old, new), arch in pairs), row


def test_the_loss_of_a_write_on_5_10_is_the_model_s_too() -> None:
    recording = af.read_recording(DATA_DIR / "5.10" / "lost-write-5.10.223.json.gz")
    assert not af.replay(recording).mismatches
    lost = recording.programs[0].scenario.run(af.Policy.at(recording.kernel))
    assert [(result.step[0], result.value) for result in lost if result.value is not None] == [
        ("dma_read", 11), ("read", 99),
    ]  # fmt: skip
    assert af.replay(recording, af.LINUX_6_3).mismatches
