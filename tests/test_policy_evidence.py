"""The recordings can tell: each rule of a policy, turned round, is noticed in what some kernel did.

A rule that no recording notices would be an opinion. The programs at the head of the `various-*` files were written for
this: random programs hardly ever meet some of these rules.
"""

from __future__ import annotations

from typing import Any

import pytest

import anonfolio as af
from anonfolio.witness.recording import DATA_DIR

WRITTEN = 24
"""How many programs at the head of a file were written for the purpose."""

NOTICED = [
    ("kept-6.12.118", {"dontunmap_joins": "nothing"}),
    ("kept-6.16.12", {"dontunmap_joins": "others"}),
    ("kept-6.1.192", {"dontunmap_joins": "others"}),
    ("kept-7.3.4", {"dontunmap_joins": "itself"}),
    ("kept-7.3.4", {"thp_aligns_mmap": "larger"}),
    ("kept-6.1.192", {"thp_aligns_mmap": "larger"}),
    ("kept-6.12.118", {"thp_aligns_mmap": "nothing"}),
    ("min-6.17.13", {"moved_keeps_anon_vma": True}),
    ("knobs-6.18.44", {"thp_disable_except_advised": False}),
    ("min-6.18.9", {"moved_keeps_anon_vma": False}),
    ("various-6.1.192", {"mprotect_needs_dirty": False}),
    ("various-6.1.192", {"split_keeps_dirty": True}),
    ("huge-dirty-6.17.13", {"pmd_modify_keeps_dirty": True}),
    ("various-6.1.192", {"merges_into_unfaulted": True}),
    ("accounted-6.1.192", {"unaccounts_read_only": True}),
    ("various-6.1.192", {"reclaims_page_tables": True}),
    ("various-6.1.192", {"moves_many_vmas": True}),
    ("various-6.1.192", {"large_reuse": "never"}),
    ("various-6.1.192", {"huge_zero_write": "huge"}),
    ("various-6.12.117", {"mprotect_needs_dirty": True}),
    ("various-6.12.117", {"merges_into_unfaulted": True}),
    ("accounted-6.12.117", {"unaccounts_read_only": False}),
    ("various-6.12.117", {"reclaims_page_tables": True}),
    ("various-6.12.117", {"moves_many_vmas": True}),
    ("various-6.12.117", {"huge_zero_write": "huge"}),
    ("named-6.12", {"large_reuse": "mm_id"}),
    ("named-6.12", {"large_reuse": "refcount_one"}),
    ("named-6.12", {"zero_page_write": "first_touch"}),
    ("named-6.12", {"copy_extent": "source_order"}),
    ("named-6.18", {"large_reuse": "never"}),
    ("named-6.18", {"large_reuse": "scan", "reuse_extent": "range"}),
    ("named-6.18", {"unshare_extent": "source_order"}),
    ("named-6.18", {"huge_zero_write": "page"}),
    ("named-6.18", {"fixed_orders": (5,)}),
    ("huge-touched-6.18.44", {"read_ages_pmd": True}),
    ("various-6.18.44", {"merges_into_unfaulted": False}),
    ("accounted-6.18.44", {"unaccounts_read_only": False}),
    ("merge-6.18.44", {"moves_many_vmas": False}),
    ("various-6.18.44", {"reclaims_page_tables": False}),
    ("various-6.18.44", {"mprotect_needs_dirty": True}),
]


@pytest.mark.sweep(20)
@pytest.mark.parametrize(("file", "changes"), NOTICED, ids=lambda value: str(value))
def test_a_rule_turned_round_is_noticed(file: str, changes: dict[str, Any]) -> None:
    recording = af.read_recording(DATA_DIR / f"{file}.json.gz")
    policy = af.policy_for_kernel(recording.kernel)
    assert all(getattr(policy, field) != value for field, value in changes.items())
    programs = recording.programs[: WRITTEN if file in ("various-6.1.192", "various-6.12.117") else None]
    assert any(program.replay(policy.but(**changes)) for program in programs)
