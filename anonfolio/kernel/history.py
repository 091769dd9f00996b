"""What changed in which release: a policy is the sum of the changes up to it (`Policy.at`).

Each row sets fields of `Policy` and says how we know. *Recorded* names kernels that were run: the change lies between
the last without and the first with it, and the commit says where. *Source* was read there. *Inferred* is neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import given
from .sizes import ANON_ORDERS, PMD_ORDER

ARCHITECTURES = {"x86-64": "x86-64", "x86_64": "x86-64", "arm64": "arm64", "aarch64": "arm64", "arm64-16k": "arm64-16k"}
"""What may be asked for -> what the table calls it."""


@dataclass(frozen=True)
class Change:
    """One row: from `release` on `fields` are so, by `commit`; `evidence` says how we know. `arch` "" is all."""

    release: str
    fields: Mapping[str, Any]
    commit: str
    evidence: str
    arch: str = ""


FIRST_KERNEL: dict[str, Any] = {
    "knob_orders": (PMD_ORDER,),
    "marks_exclusive": False,
    "huge_reuse": "mapped_once",
    "mremap_looks_first": False,
    "unshares_zero_page": False,
    "large_reuse": "refcount_one",
    "keeps_mm_ids": False,
    "huge_zero_write": "page",
    "mprotect_needs_dirty": True,
    "split_keeps_dirty": False,
    "pmd_modify_keeps_dirty": True,
    "read_ages_pmd": False,
    "mkwrite_keeps_clean": True,
    "heap_joins_mmap": True,
    "reclaims_page_tables": False,
    "moves_many_vmas": False,
    "merges_into_unfaulted": False,
    "mmap_asks_upper_first": True,
    "thp_aligns_mmap": "nothing",
    "dontunmap_joins": "nothing",
    "dontunmap_splits_locked": False,
    "dontunmap_keeps_account": True,
    "realigns_moves": False,
    "batches_ptes": False,
    "ages_whole_folios": False,
    "splits_to_any_order": False,
    "split_maps_zero_page": False,
    "has_guard_markers": False,
    "fork_copies_guarded": False,
    "has_collapse": False,
    "collapse_needs_writable": True,
    "collapse_stops_at_hole": True,
    "collapse_takes_small_ranges": False,
    "madvise_populate": "unknown",
    "unaccounts_read_only": False,
    "thp_disable_except_advised": False,
}

HISTORY = (
    Change("5.10", FIRST_KERNEL, "", "recorded on 5.10.223; source of 5.10"),
    Change(
        "5.10", {"read_ages_pmd": True}, "none: always so", "source of 6.12 and 7.3 (arch/arm64/mm/fault.c)",
        arch="arm64",
    ),
    Change(
        "5.10", {"heap_joins_mmap": False}, "none: as old as memory tagging",
        "recorded on 6.16.12; source of 5.10, 6.12 and 7.3", arch="arm64",
    ),
    Change(
        "5.10", {"mkwrite_keeps_clean": False}, "none: before it was mended", "source of the mending", arch="arm64"
    ),
    # The mending came to 6.18, and to these stable releases by their lists of changes; 6.6's was not looked up.
    Change("5.10.246", {"mkwrite_keeps_clean": True}, "143937ca51cc", "source: ChangeLog-5.10.246", arch="arm64"),
    Change("6.1", {"mkwrite_keeps_clean": False}, "none: before it was mended", "source of the mending", arch="arm64"),
    # Between them nobody looked: the releases in brackets are those that the commits were merged for, from memory.
    Change("6.1", {"marks_exclusive": True}, "6c287605fd56 (5.19)", "recorded: 5.10.223 no, 6.1.192 yes"),
    Change("6.1", {"huge_reuse": "refcount_one"}, "3bff7e3f1f16 (5.18)", "source of 5.10 and 6.1"),
    Change("6.1", {"mremap_looks_first": True}, "550a7d60bd5e (5.16)", "recorded: 5.10.223 no, 6.1.192 yes"),
    Change("6.1", {"has_collapse": True}, "7d8faaf15545", "source of 5.10 and 6.1"),
    Change("6.1", {"madvise_populate": "past_holes"}, "4ca9b3859dac (5.14)", "source of 5.10 and 6.1"),
    Change("6.1.158", {"mkwrite_keeps_clean": True}, "143937ca51cc", "source of 6.1.192", arch="arm64"),
    Change("6.1.191", {"dontunmap_splits_locked": True}, "a stable release's", "source: ChangeLog-6.1.191"),
    Change("6.2", {"mkwrite_keeps_clean": False}, "none: before it was mended", "source of the mending", arch="arm64"),
    Change("6.2", {"dontunmap_splits_locked": False}, "none: before it was mended", "source of the mending"),
    Change("6.2", {"unshares_zero_page": True}, "84209e87c696", "source of 6.12; no recording can see it"),
    Change("6.2", {"mprotect_needs_dirty": False}, "d84887739d5c, c27f479ef542", "recorded: 6.1.192 no, 6.12.117 yes"),
    Change("6.4", {"split_keeps_dirty": True}, "5436d6556937", "recorded: 6.1.192 no, 6.12.117 yes"),
    Change("6.7", {"unaccounts_read_only": True}, "9b9143298585", "recorded: 6.1.192 no, 6.12.117 yes"),
    Change("6.7", {"thp_aligns_mmap": "larger"}, "efa7df3e3bb5", "inferred from the message of d4148aeab412"),
    Change("6.7", {"realigns_moves": True}, "af8ca1c14906", "recorded: 6.1.192 no, 6.12.118 yes"),
    Change("6.8", {"knob_orders": ANON_ORDERS}, "19eaf44954df", "source; recorded on 6.12.117"),
    Change("6.9", {"large_reuse": "never"}, "cd197c3a2040", "source; recorded on 6.12.117"),
    Change("6.9", {"splits_to_any_order": True}, "fc4d182316bd", "source of 6.1 and 6.12"),
    Change("6.9", {"cont_pte_order": 4}, "4602e5757bcc", "recorded on 6.12.118 and later", arch="arm64"),
    Change("6.9", {"cont_pte_order": 7}, "4602e5757bcc", "recorded on 7.3.4 with pages of 16 KiB", arch="arm64-16k"),
    # Both are in the list of what was merged for 6.10-rc1 (mail of 17 May 2024).
    Change(
        "6.10", {"madvise_populate": "to_hole"}, "mail 20240314161300.382526-3 (no VMA walk for MADV_POPULATE)",
        "source of 6.1 and 6.12",
    ),
    Change(
        "6.10", {"ages_whole_folios": True}, "3931b871c494 (MADV_COLD), dce7d10be4bb (MADV_FREE)",
        "recorded: 6.1.192 no, 6.12.118 yes",
    ),
    Change("6.12", {"split_maps_zero_page": True}, "b1f202060afe", "recorded: 6.1.192 no, 6.12.118 yes"),
    Change("6.12", {"mmap_asks_upper_first": False}, "cacded5e42b9", "recorded: 6.1.192 no, 6.12.117 yes"),
    Change("6.12", {"thp_aligns_mmap": "multiples"}, "d4148aeab412", "recorded: 6.1.192 no, 6.12.118 yes"),
    # The mending of it came back to stable releases: 6.1.192 has it, 6.12.118 and 7.3 another one, 6.16 to 6.18.44 not.
    Change("6.12", {"dontunmap_joins": "others"}, "a stable release's", "recorded: 6.1.192 no, 6.12.118 yes"),
    Change(
        "6.12.56", {"mkwrite_keeps_clean": True}, "143937ca51cc", "recorded: 6.16.12 no, 6.12.118 yes", arch="arm64",
    ),
    Change("6.12.114", {"dontunmap_splits_locked": True}, "a stable release's", "source of 6.12.118"),
    Change("6.13", {"dontunmap_splits_locked": False}, "none: before it was mended", "source of the mending"),
    Change(
        "6.13", {"mkwrite_keeps_clean": False}, "none: before it was mended",
        "recorded: 6.16.12 no, 6.12.118 and 6.17.13 yes", arch="arm64",
    ),
    # In mainline since 6.6's shadow stacks; 6.12.118 and 6.18.44 have the mending. What is between was not looked up.
    Change(
        "6.13", {"pmd_modify_keeps_dirty": False},
        "shadow stacks (6.6)", "recorded: 6.12.118 yes, 6.17.13 and 6.18.5 no", arch="x86-64",
    ),
    Change("6.13", {"huge_zero_write": "huge"}, "1ced09e0331f", "recorded: 6.12.117 no, 6.16.12 yes"),
    Change("6.13", {"has_guard_markers": True}, "662df3e5c376", "source of 6.12 and 7.3"),
    Change("6.14", {"reclaims_page_tables": True}, "6375e95f381e", "recorded: 6.12.117 no, 6.16.12 yes", arch="x86-64"),
    Change("6.15", {"large_reuse": "mm_id", "keeps_mm_ids": True}, "1da190f4d0a6", "recorded: 6.12.117 no, 6.16 yes"),
    Change("6.15", {"dontunmap_keeps_account": False}, "b714ccb02a76", "recorded: 6.12.118 no, 6.16.12 yes"),
    Change(
        "6.16", {"merges_into_unfaulted": True, "moved_keeps_anon_vma": False}, "879bca0a2c4f",
        "recorded: 6.12.117 no, 6.16.12, 6.17.13 and 6.18.5 yes",
    ),
    Change("6.16", {"dontunmap_joins": "itself"}, "none: before it was mended", "recorded: 6.12.118 no, 6.16.12 yes"),
    Change("6.17", {"moves_many_vmas": True}, "d23cb648e365", "recorded: 6.16.12 no, 6.17.13 yes"),
    Change("6.17", {"batches_ptes": True}, "cac1db8c3aad, f822a9a81a31", "recorded on arm64: 6.16.12 no, 6.17.13 yes"),
    Change(
        "6.17.6", {"mkwrite_keeps_clean": True}, "143937ca51cc", "recorded: 6.16.12 no, 6.17.13 yes", arch="arm64",
    ),
    Change(
        "6.17.6", {"dontunmap_keeps_account": True}, "mail (correctly account old mapping after MREMAP_DONTUNMAP)",
        "recorded: 6.16.12 no, 6.17.13 yes",
    ),
    Change("6.18", {"thp_disable_except_advised": True}, "9dc21bbd62ed", "recorded: 6.17.13 no, 6.18.44 yes"),
    Change(
        "6.18", {"collapse_needs_writable": False}, "mail 20250901074817.73012-1 (khugepaged on non-writable VMAs)",
        "recorded: 6.17.13 no, 6.18.44 yes",
    ),
    Change(
        "6.18.8", {"moved_keeps_anon_vma": True}, "a4d9dbfc1bab (61f67c230a5e), 5b0caf3913e7 (3b617fd3d317)",
        "recorded: 6.18.5 no, 6.18.9 yes; the stable release's list of changes",
    ),
    # 6.19's, and back in 6.18 by the stable release's review mail (25 June 2026).
    Change(
        "6.18.37", {"fork_copies_guarded": True}, "ab04b530e7e8, 49e14dabed7a (6.19)",
        "recorded: 6.17.13 and 6.18.15 no, 6.18.44, 6.19.6 and later yes",
    ),
    Change(
        "6.18.44", {"pmd_modify_keeps_dirty": True},
        "f7491d7c81db", "recorded: 6.18.5 no, 6.18.44 yes", arch="x86-64",
    ),
    Change(
        "6.19", {"pmd_modify_keeps_dirty": False},
        "not mended here", "recorded: 6.19.14, 7.0.13 and 7.1.13 no, 7.2.13 yes", arch="x86-64",
    ),
    Change(
        "7.0", {"collapse_stops_at_hole": False}, "mail (khugepaged: continue to collapse on SCAN_PMD_NONE)",
        "recorded: 6.18.44 no, 7.0.13 yes",
    ),
    Change(
        "7.0", {"reclaims_page_tables": True}, "mail 83b034810935 (PT_RECLAIM on all 64-bit)",
        "recorded: 6.17.13 and 6.19.14 no, 7.0.13 yes", arch="arm64",
    ),
    Change(
        "7.2", {"collapse_takes_small_ranges": True}, "not looked up", "source of 7.2.13 and 7.3; run on 7.0.13 no"
    ),
    Change(
        "7.2.11", {"dontunmap_joins": "others", "dontunmap_splits_locked": True}, "mails (fix locked_vm leak)",
        "recorded: 7.1.13 no, 7.2.13 and 7.3.4 yes; ChangeLog-7.2.11",
    ),
    Change(
        "7.2.13", {"pmd_modify_keeps_dirty": True},
        "f7491d7c81db", "recorded: 7.1.13 no, 7.2.13 and 7.3.4 yes", arch="x86-64",
    ),
)  # fmt: skip
"""Oldest first."""

LAST_RECORDED = "7.3"
"""Names the policies of this release and of later ones that change nothing, though what last changed may be a stable
release before it."""

NOT_COVERED = ("5.11", "6.1")
"""From the one up to the other nobody looked: when 5.10's rules went, one by one, is known from commits alone."""


NEWEST = 1 << 16
"""Whoever says "6.18" means the series, as its newest stable release is."""


_VERSION = r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9})(?:\.\d{1,9})*)?(?=$|[-+~_ ]|rc\d)"
"""A distribution or a builder adds to it behind a sign; a letter at once is a slip of a key."""


def kernel_number(version: str, unsaid: int = 0) -> tuple[int, int, int]:
    """A version's numbers, whatever follows: (6, 8, `unsaid`) for ``"6.8-rc1"``, (6, 8, 9) for ``"6.8.9-x"``."""
    # Text, for as a number 6.10 is 6.1; nine digits, for longer ones are no version and Python reads no such number.
    match = isinstance(version, str) and re.match(_VERSION, version, re.ASCII)
    if not match:
        raise ValueError(
            f"cannot read {given.said(version)} as a kernel version; name a policy, or a release such as '6.12'"
        )
    return int(match[1]), int(match[2]), int(match[3] or unsaid)


def changes_up_to(version: str, arch: str) -> Iterator[Change]:
    """The changes that a release has; ValueError for one that is not covered, or of another architecture."""
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise ValueError(f"arch={given.said(arch)}: nothing is known of it; there are {', '.join(ARCHITECTURES)}")
    number = kernel_number(version, NEWEST)
    first = HISTORY[0].release
    if number < kernel_number(first):
        raise ValueError(f"kernel {version} is older than any that was checked ({first}); name a policy instead")
    since, until = map(kernel_number, NOT_COVERED)
    if since <= number < until:
        raise ValueError(
            f"kernel {version} is not covered: {first} was checked, and {NOT_COVERED[1]} and later; name a policy"
        )
    # What holds on arm64 holds with larger base pages, unless a row of their own says otherwise.
    where = ARCHITECTURES[arch]
    whose = ("", where.removesuffix("-16k"), where)
    return (row for row in HISTORY if kernel_number(row.release) <= number and row.arch in whose)


def changes_between(older: str, newer: str, arch: str = "x86-64") -> list[Change]:
    """What `newer` has and `older` has not, oldest first; versions as `Policy.at` takes them. ValueError as there."""
    had = list(changes_up_to(older, arch))
    return [row for row in changes_up_to(newer, arch) if row not in had]
