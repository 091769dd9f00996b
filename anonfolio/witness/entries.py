"""Raw page-table entries of arm64, which recordings may keep: bit by bit what the model's entries say, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernel.pagetable import PTE_CONT, PTE_DIRTY, PTE_PRESENT, PTE_SPECIAL, PTE_WRITE, PTE_YOUNG
from ..machine.snapshot import Snapshot
from .hidden import look
from .hidden.paging import PAGING

Entries = npt.NDArray[np.uint8]

FIELDS = {
    "raw: present": PTE_PRESENT, "raw: contiguous": PTE_CONT, "raw: writable": PTE_WRITE, "raw: zero page": PTE_SPECIAL,
    "raw: accessed": PTE_YOUNG, "raw: dirty": PTE_DIRTY,
}  # fmt: skip
"""What is compared of each entry."""
CONVERTS = "contpte_convert"
CONT = np.uint64(1 << 52)
_BITS = {look.WRITE: PTE_WRITE, look.ACCESSED: PTE_YOUNG, look.DIRTY: PTE_DIRTY, look.SPECIAL: PTE_SPECIAL}
WORD = 1 << 64


def entries_of_words(words: list[Any]) -> Entries:
    """Raw words in the model's bits; a page under a PMD that maps memory itself comes as ``["H1", word]``."""
    raw = np.array([word if isinstance(word, int) else word[1] for word in words], np.uint64)
    known = PAGING["aarch64"].as_x86(raw)
    present = (known & np.uint64(look.PRESENT | look.PROTNONE)) > 0
    found = np.where(present & ((raw & CONT) > 0), PTE_CONT, 0)
    for theirs, mine in _BITS.items():
        found |= np.where((known & np.uint64(theirs)) > 0, mine, 0)
    return np.where(present, found | PTE_PRESENT, 0).astype(np.uint8)


def raw_difference(
    snapshot: Snapshot, step: dict[str, Any], base: int, pages: int, tally: Counter[str] | None = None
) -> tuple[str, str, str] | None:
    """The first bit in which the model's entries of [base, base + pages) differ from a step's raw ones.

    Nothing where none were kept. `tally` counts the entries that were compared, by what of them.
    """
    for number, words in step.get("raw", {}).items():
        mine, theirs = _entries(snapshot, int(number), base, pages), entries_of_words(words)
        # Older kernels do not mark the huge zero page (6.16.12), newer do (6.18.15).
        huge = np.array([not isinstance(word, int) for word in words])
        mine, theirs = (np.where(huge, entries & (0xFF ^ PTE_SPECIAL), entries) for entries in (mine, theirs))
        for what, bit in FIELDS.items():
            if tally is not None:
                tally[what] += pages
            differ = np.flatnonzero((mine ^ theirs) & bit)
            if len(differ):
                page = int(differ[0])
                here, there = ("yes" if entries[page] & bit else "no" for entries in (mine, theirs))
                return f"{what} of process {number} page {page}", here, there
    return None


def _entries(snapshot: Snapshot, number: int, base: int, pages: int) -> Entries:
    found = np.zeros(pages, np.uint8)
    for mapping in snapshot.processes[number].mappings:
        low, high = max(mapping.start, base), min(mapping.end, base + pages)
        if low < high:
            found[low - base : high - base] = mapping.pte[low - mapping.start : high - mapping.start]
    return found


def converts_difference(
    snapshot: Snapshot, before: int, step: dict[str, Any], tally: Counter[str] | None = None
) -> tuple[str, str, str] | None:
    """Whether as many blocks were folded or unfolded by repainting as a step says; nothing where nobody counted."""
    if step.get("converts") is None:
        return None
    mine, theirs = snapshot.contpte_converts - before, len(step["converts"])
    if tally is not None:
        tally[CONVERTS] += theirs
    return None if mine == theirs else (f"{CONVERTS} of the step", str(mine), str(theirs))


def wrong_entries(step: dict[str, Any], pages: int) -> str:
    """What is wrong with the raw entries or the converts that a step keeps; empty when nothing is."""
    raw, converts = step.get("raw", {}), step.get("converts")
    if not isinstance(raw, dict) or (raw and raw.keys() != step["view"].keys()):
        return "raw: not of the processes that the view has"
    for number, words in raw.items():
        if not isinstance(words, list) or len(words) != pages:
            return f"raw: process {number} has no {pages} entries"
        for page, word in enumerate(words):
            value = word[1] if isinstance(word, list) and len(word) == 2 and word[0] == "H1" else word
            if type(value) is not int or not 0 <= value < WORD:
                return f"raw: process {number} page {page} is {word!r:.40}, neither a word nor ['H1', word]"
    if converts is not None and not isinstance(converts, list):
        return f"converts: {converts!r:.40} is no list of pages"
    return ""


def sets_age(program: Sequence[tuple[Any, ...]], steps: Sequence[dict[str, Any]]) -> bool:
    """Whether the processor marked entries accessed and dirty itself: no access faulted that its entry allowed.

    Where nothing tells, it makes no difference either: an access to an old entry, or a write to a clean one, does.
    """
    before: dict[str, list[Any]] = {}
    for (_, number, *_), seen in zip(program, steps, strict=True):
        words = before.get(str(number))
        entries = None if words is None else entries_of_words(words)
        for page, code in seen["faults"] if isinstance(seen["faults"], list) else ():
            if code == READ_PRESENT:
                return False
            if code == WRITE_PRESENT and entries is not None and entries[page] & PTE_WRITE:
                return False
        before = seen.get("raw", {})
    return True


READ_PRESENT, WRITE_PRESENT = 5, 7
"""x86 error codes of a fault on what is present."""
