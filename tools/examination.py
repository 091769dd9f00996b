"""Draw an examination from the recordings: this program, this kernel, what does step N do, and why?

    python tools/examination.py [SEED]     writes teach/EXAMINATION.md

Each kind of case names files of `data/recordings`, and what must come of the step that is asked about. The answer is
the model's and equal to the recording, up to that step. What one has to know for it is found out, not written down:
what the kernel asked (the checks of the faults), the setting, and every earlier step without which the outcome is
another. `LESSONS` says where each of these is taught; what has no lesson stops the drawing.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from anonfolio import Policy, Scenario
from anonfolio.draw.words import sentence
from anonfolio.kernel.pagetable import PTE_CONT
from anonfolio.kernel.policy import policy_named
from anonfolio.program.ops import TABLE, Step
from anonfolio.program.scenario import Result
from anonfolio.recording import DATA_DIR
from anonfolio.witness.comparing import GUARD, NONE, ZERO, Recorded, compare, model_view
from anonfolio.witness.recording import read_head, read_program

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "teach" / "EXAMINATION.md"
NOTEBOOKS = ROOT / "notebooks"
SEED = 17
MOST_TRIES = 1000
"""After so many programs that do not show it a kind is given up."""
MOST_STEPS, MOST_PAGES = 20, 1200
"""So long may a program be up to the step that is asked about, and its arena, that one can follow it on paper."""

SPLITTING = ("split", "shrink", "free", "cold")
"""Operations that may split a folio."""

LESSONS = {
    # What the kernel asks in a fault.
    "nothing mapped": ("00", "is anything mapped there?"),
    "pmd_none": ("01", "2 MiB want an empty PMD entry"),
    "thp_vma_suitable_order": ("01", "a block must fit the piece"),
    "pte_range_none": ("01", "the biggest one in whose block no entry is used"),
    "thp_vma_allowable_orders": ("01", "Each other size has its knob"),
    "vma_alloc_folio": ("01", "One fault maps one whole folio"),
    "FAULT_FLAG_WRITE": ("00", "A read of untouched memory maps it, read-only"),
    "vm_normal_page": ("02", "The zero page is none (no folio, no counts, nothing to reuse)"),
    "is_huge_zero_pmd": ("02", "6.1 and 6.12 split the mapping and replace one page"),
    "PageAnonExclusive": ("05", "**To the write fault:** no more questions"),
    "PageAnonExclusive: no": ("05", "Not marked means *maybe shared*"),
    "PageAnonExclusive of a PMD": ("02", "all become writable by one fault"),
    "!folio_test_large": ("05", "Larger ones were never reused from 6.9 to 6.14"),
    "folio_ref_count == 1": ("05", "A folio of one page has one question, in every release: is there one reference?"),
    "folio_ref_count == 1 of a large folio": ("07", "With 16 pages (since 6.8) it has 16"),
    "folio_ref_count == 1, 5.10": ("06", "That fault asked one thing, `page_count`"),
    "folio_large_mapcount > 1": ("05", "**More than one mapping?**"),
    "FOLIO_MM_IDS_SHARED_BITNUM": ("07", "When a second process maps it, the bit is set"),
    "FOLIO_MM_IDS_SHARED_BITNUM: no": ("07", "An unmapping clears it when one slot's count then equals all mappings"),
    "folio_large_mapcount == folio_ref_count": ("05", "**Is every reference a mapping?**"),
    "reuse_swap_page": ("06", "in 5.10 only a fault gives it back"),
    "vma_lookup": ("12", "A forbidden access is SIGSEGV"),
    "VM_WRITE": ("12", "A forbidden access is SIGSEGV"),
    "VM_READ": ("12", "A forbidden access is SIGSEGV"),
    "softleaf_is_guard_marker": ("01", "whoever touches one dies"),
    "arch_has_hw_pte_young": ("08", "**accessed** and **dirty** bits (was it used, was it written)"),
    # What came of it.
    "one page is copied": ("04", "copies **one page** (order 0), whatever the order of the folio it comes from"),
    "one page becomes writable": ("05", "makes **one** entry writable, in every release that was read"),
    "one page for the zero page": ("02", "by *one* zeroed page, in all releases that were read, 6.1 to 7.3"),
    "no fault": ("00", "A write is free where the PTE is writable"),
    "unshare": ("05", "Only a marked page may be pinned, and this one is shared"),
    # RFC v2.
    "RFC v2: zero page": ("02", "as if the write fault had happened without the previous read fault"),
    "RFC v2: copy": (
        "04",
        "a block aligned *in virtual memory*, without a hole, that maps consecutive pages of the folio",
    ),
    "RFC v2: reuse": ("07", "it walks from the page both ways over my PTEs while each maps the next page of the folio"),
    "RFC v2: sizes": ("01", "natural alignment, the step down 4, 3, 2, no order 1"),
    "RFC v2: the mark": ("06", "asks each page for the mark, and tries a smaller block if it finds one"),
    # The setting.
    "skew": ("01", "That is about *addresses*, not about the beginning of the mapping"),
    "knobs": ("01", "A knob says `always`, `madvise`"),
    "2 MiB": ("00", "A **huge page** is mapped by a PMD entry, without PTEs"),
    # Operations.
    "write": ("00", "A write is free where the PTE is writable"),
    "read": ("00", "A read of untouched memory maps it, read-only"),
    "fork": ("03", "The parent's entry loses the right to write; the child gets the same entry, read-only"),
    "fork, nothing to copy": ("02", "Fork copies the entries of a VMA only where it has an **anon_vma**"),
    "fork, zero pages": ("02", "zero pages are copied if their VMA has one"),
    "fork, pinned": ("03", "May this *folio* be pinned now? Is this page exclusive?"),
    "exit": ("03", "An exiting process takes down its own page table, nobody else's"),
    "munmap": ("12", "go; a folio stays until its last page goes"),
    "mprotect": ("05", "`mprotect` back to writable gave the right to write to all marked pages at once"),
    "mprotect, less": ("12", "*Make read-only*, *Advise* | stay | a part is split off"),
    "mremap": ("12", "move as they are, zero pages too; frames, counts and marks stay"),
    "remap": ("01", "`mremap` to a larger size grows a mapping where it is, if there is room; else it moves"),
    "remap, kept": ("02", "MREMAP_DONTUNMAP has moved all, and left the mapping empty"),
    "split VMA": ("01", "when they take a *part* of it, and a block must fit the piece"),
    "wipeonfork": ("03", "the child has the mapping, empty. *DONTFORK*: it has no mapping"),
    "keeponfork": ("01", "Where pieces are alike again, they merge"),
    "dontfork": ("03", "the child has the mapping, empty. *DONTFORK*: it has no mapping"),
    "dofork": ("01", "Where pieces are alike again, they merge"),
    "dontneed": ("12", "stays: the next access is a first touch"),
    "free": ("12", "a folio that is advised in part is split, unless others seem to map it"),
    "cold": ("12", "a folio that is advised in part is split, unless others seem to map it"),
    "collapse": ("12", "2 MiB are copied into one new folio, whatever the knobs say"),
    "hugepage": ("01", "only where the mapping was advised MADV_HUGEPAGE"),
    "nohugepage": ("01", "MADV_NOHUGEPAGE forbids all sizes for a mapping"),
    "populate_write": ("01", "fault in what is missing, by these rules, and copy what is shared"),
    "populate_read": ("01", "for MADV_POPULATE_READ, as reads would"),
    "guard_install": ("01", "whoever touches one dies"),
    "guard_remove": ("01", "whoever touches one dies"),
    "thp_disable": ("01", "prctl's PR_SET_THP_DISABLE for a process"),
    "shrink": ("12", "a folio mapped in part is split; what nobody maps is free"),
    "split": ("12", "a folio mapped in part is split; what nobody maps is free"),
    "split, zeros": ("02", "those that hold only zeros may become zero pages"),
    "mlock": ("12", "a flag: a part is split off, a child lacks it"),
    "mlock, faults": ("01", "fault in what is missing, by these rules"),
    "mlock_onfault": ("01", "with MLOCK_ONFAULT waits for the touch"),
    "munlock": ("12", "a flag: a part is split off, a child lacks it"),
    "brk": ("01", "`brk` moves the end of one mapping"),
    "mmap": ("01", "Where `mmap` chooses the place, it takes the highest gap"),
    "mmap, placed": ("01", "So `mprotect`, `munmap`, `mmap`, `mremap` and a `madvise` whose advice stays **split** it"),
    "pin": ("06", "Only an exclusive page is pinned. A maybe-shared one is first copied, or taken over"),
    "unpin": ("06", "**A pinned page stays mapped where it was pinned"),
    "gup": ("05", "The copy is marked; its entry stays read-only"),
    "ref": ("06", "keeps a frame alive and promises nothing else"),
    "unref": ("06", "keeps a frame alive and promises nothing else"),
    "dma_write": ("06", "it hands the device the *frame*, and the frame stays until the pin is released"),
    "dma_read": ("06", "it hands the device the *frame*, and the frame stays until the pin is released"),
    "forkfail": ("03", "But mark and right to write do not return"),
    "clear_refs": ("08", "To find cold ones it clears the accessed bits and looks again later"),
    "refused": ("12", "Where nothing is mapped, `mprotect` and `mlock` stop with ENOMEM"),
    "refused, locked": ("12", "`dontneed` and `free` are refused"),
    "lost anon_vma": ("10", "whoever moved had to hand over its anon_vma, which nobody did"),
    # arm64.
    "folds": ("08", "It folds when one call sets all 16"),
    "unfolds": ("08", "Before one changes alone, other than in accessed or dirty, the kernel must unfold all"),
}
"""What there is to know -> the notebook, and words of the cell that teaches it."""
SAYS = {
    "nothing mapped": "is anything mapped at the page?", "pmd_none": "may a PMD map 2 MiB here at once?",
    "thp_vma_suitable_order": "does the aligned block lie in the mapping?",
    "pte_range_none": "is the block untouched?", "thp_vma_allowable_orders": "is any size allowed here?",
    "vma_alloc_folio": "a folio of that size is taken and mapped", "FAULT_FLAG_WRITE": "a read maps the zero page",
    "vm_normal_page": "is it a folio's page, or the zero page?",
    "is_huge_zero_pmd": "is it the huge zero page, and what replaces it?",
    "PageAnonExclusive": "is the page marked exclusive?", "PageAnonExclusive: no": "is the page marked exclusive?",
    "FOLIO_MM_IDS_SHARED_BITNUM: no": "may another process map the folio?", "mprotect, less": "`mprotect`",
    "remap, kept": "`remap`, the mapping kept", "mmap, placed": "`mmap` over a part",
    "skew": "blocks are aligned by address",
    "PageAnonExclusive of a PMD": "2 MiB under one PMD: reuse all of it, or split",
    "!folio_test_large": "a large folio's page without the mark", "knobs": "what knobs and advice allow",
    "folio_ref_count == 1": "is there one reference?", "2 MiB": "what a PMD maps",
    "folio_ref_count == 1 of a large folio": "is there one reference to all of the folio?",
    "folio_ref_count == 1, 5.10": "5.10 asks the count alone", "no fault": "the entry allows it: no fault",
    "folio_large_mapcount > 1": "is more than one page mapped?",
    "FOLIO_MM_IDS_SHARED_BITNUM": "may another process map the folio?",
    "folio_large_mapcount == folio_ref_count": "is every reference a mapping?", "reuse_swap_page": "5.10's 2 MiB",
    "vma_lookup": "is there a mapping?", "VM_WRITE": "may the mapping be written?", "VM_READ": "may it be read?",
    "softleaf_is_guard_marker": "a guard page", "arch_has_hw_pte_young": "who marks entries accessed",
    "one page is copied": "how much is copied", "one page becomes writable": "how far a reuse reaches",
    "one page for the zero page": "what replaces the zero page", "unshare": "a pin for reading unshares first",
    "RFC v2: zero page": "what RFC v2 puts in the zero page's place", "RFC v2: copy": "which block RFC v2 copies",
    "RFC v2: reuse": "what RFC v2's scan counts", "RFC v2: sizes": "which sizes RFC v2 takes",
    "RFC v2: the mark": "what the repaired copy asks", "fork": "what fork does to entries and marks",
    "fork, nothing to copy": "whether fork copies entries at all", "fork, pinned": "what fork does with a pinned folio",
    "fork, zero pages": "whether a child has its parent's zero pages", "mlock, faults": "what locking faults in",
    "split, zeros": "what becomes of zeros in a folio that is split",
    "exit": "what an exit changes", "refused": "what is refused, and what stays", "split VMA": "VMAs split and merge",
    "refused, locked": "what is locked cannot be dropped", "lost anon_vma": "a release that lost an anon_vma",
    "folds": "when 16 entries fold", "unfolds": "when they unfold",
}  # fmt: skip
"""What there is to know, in words; an operation is called by its own name."""


# --- a case -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One program up to the step that is asked about, on one kernel; `policy` is that kernel's, or a proposal's."""

    kind: str
    file: str
    program: int
    step: int
    recorded: Recorded
    policy: Policy
    result: Result
    before: Result | None

    @property
    def scenario(self) -> Scenario:
        """Setting and steps, the one that is asked about last."""
        return self.recorded.scenario

    @property
    def proposed(self) -> bool:
        """Whether no kernel ran what is asked about: the recording is of another kernel."""
        return self.policy.name.startswith("rfc")


def cut(recorded: Recorded, steps: int) -> Recorded:
    """The first steps of a recorded program."""
    scenario = recorded.scenario
    return replace(recorded, scenario=scenario.but(steps=scenario.steps[:steps]), steps=recorded.steps[:steps])


@lru_cache(maxsize=8)
def programs(file: str) -> tuple[str, str, list[Any]]:
    """Kernel, architecture and programs of a recording, by its name below `data/recordings`, without the ending."""
    return read_head(DATA_DIR / f"{file}.json.gz")


def recorded_program(file: str, number: int) -> Recorded:
    """One program of it, with what was seen: the others need not be read."""
    kernel, arch, found = programs(file)
    return read_program(kernel, arch, found[number], f"{file}, program {number}")


def case_of(kind: str, file: str, program: int, step: int, policy: str = "") -> Case:
    """A case by where it stands: step from 1. ValueError where the model and the recording differ up to it."""
    recorded = cut(recorded_program(file, program), step)
    own = policy_named(policy) if policy else recorded.policy
    timeline = recorded.scenario.run(own)
    if not policy and (differ := compare(timeline, recorded)):
        raise ValueError(f"{file}, program {program}: {differ[0]}")
    return Case(kind, file, program, step, recorded, own, timeline[-1], timeline[-2] if step > 1 else None)


def answer(case: Case) -> str:
    """What the step does, and what it leaves mapped where that changed."""
    base = case.scenario.first_vpn
    told = [sentence(case.result, base)]
    if case.result.value is not None and "place" not in TABLE[case.result.step[0]].arguments:
        told.append(f"The byte is {case.result.value}.")
    for process in sorted(changed(case)):
        told.append(f"Process {process} then maps {mapped(case, process)}.")
    return " ".join(told)


def changed(case: Case) -> set[int]:
    """The processes whose pages are mapped otherwise than before the step; for an access its fault says it all."""
    if case.result.step[0] in ("write", "read", "dma_read", "dma_write", "exit"):
        return set() if not folded(case) else {int(case.result.step[1])}
    base, pages = case.scenario.first_vpn, case.scenario.pages
    after = model_view(case.result.snapshot, base, pages)
    before = model_view(case.before.snapshot, base, pages) if case.before else {}
    return {
        process
        for process, view in after.items()
        if process not in before or any(not np.array_equal(a, b) for a, b in zip(view, before[process], strict=True))
    }


def mapped(case: Case, process: int) -> str:
    """What a process maps, run by run, in page numbers of the machine."""
    base, pages = case.scenario.first_vpn, case.scenario.pages
    view = model_view(case.result.snapshot, base, pages)[process]
    marks = folded(case)
    rows: list[tuple[int, int, str]] = []
    for page in range(pages):
        folio, size = int(view.folio[page]), int(view.size[page])
        if folio == NONE:
            continue
        what = {ZERO: "the zero page", GUARD: "guard pages"}.get(folio) or (
            f"folios of 1{'' if view.once[page] else ', shared'}"
            if size == 1
            else f"a folio of {size} (number {folio})"
        )
        what += ", folded" if page in marks else ""
        if rows and rows[-1][1] == page - 1 and rows[-1][2] == what:
            rows[-1] = (rows[-1][0], page, what)
        else:
            rows.append((page, page, what))
    told = [f"{a + base}{f'–{b + base}' if b > a else ''}: {what}" for a, b, what in rows]
    return "; ".join(told[:8]) + (" …" if len(told) > 8 else "") if told else "nothing"


def folded(case: Case) -> set[int]:
    """The pages whose entries carry arm64's contiguous bit, of the process that acted; none on x86-64."""
    if not case.policy.cont_pte_order:
        return set()
    base = case.scenario.first_vpn
    process = case.result.snapshot.processes[case.result.step[1]]
    return {view.start + int(at) - base for view in process.mappings for at in np.flatnonzero(view.pte & PTE_CONT)}


# --- what one has to know ---------------------------------------------------------------------------------------------


def outcome(result: Result, policy: Policy) -> tuple[Any, ...]:
    """What came of a step, to be compared with what would have come of it otherwise."""
    faults = tuple(
        (fault.code, fault.vpn, fault.pages, fault.decided_by and fault.decided_by.what) for fault in result.faults
    )
    access = result.step[0] in ("write", "read")
    bits = 0 if access and not policy.cont_pte_order else PTE_CONT if access else 0xFF
    process = result.snapshot.processes[min(result.step[1], len(result.snapshot.processes) - 1)]
    entries = {
        view.start + at: int(view.pte[at] & bits)
        for view in process.mappings
        for at in np.flatnonzero(view.pte & bits).tolist()
    }
    return result.ok, result.value, result.why, faults, entries


def matters(case: Case) -> Iterator[Step]:
    """The earlier steps, accesses apart, without which the outcome is another."""
    steps, mine = case.scenario.steps, outcome(case.result, case.policy)
    for at, step in enumerate(steps[:-1]):
        if step[0] in ("write", "read"):
            continue
        try:
            other = case.scenario.but(steps=steps[:at] + steps[at + 1 :]).run(case.policy)[-1]
        except (ValueError, IndexError, AssertionError):
            yield step  # the rest stands on it
            continue
        if outcome(other, case.policy) != mine:
            yield step


def operation(step: Step) -> str:
    """The lesson of an operation: of advice, its own."""
    if step[0] == "madvise":
        return str(step[4])
    if step[0] == "mprotect" and step[4] != 3:
        return "mprotect, less"
    if step[0] == "mmap" and step[2] is not None:
        return "mmap, placed"
    return "remap, kept" if step[0] == "remap" and step[-1] == "keep" else str(step[0])


def needed(case: Case) -> list[str]:
    """Keys of `LESSONS`, in the order in which one thinks: setting, earlier steps, the step, its checks, what came."""
    scenario, result, policy = case.scenario, case.result, case.policy
    touched = any(fault.path == "first touch" for fault in result.faults)
    earlier = list(matters(case))
    if not any(step[0] == "fork" for step in earlier) and any(fault.old_folio is not None for fault in result.faults):
        earlier += [step for step in scenario.steps[:-1] if step[0] == "fork"][:1]  # one of several that do the same
    keys = ["skew"] if scenario.skew % 512 and (touched or policy.cont_pte_order) else []
    keys += ["knobs"] if (scenario.knobs or scenario.thp != "madvise" or scenario.advice) and touched else []
    keys += ["2 MiB"] if any(fault.order == 9 or len(fault.pages) > 256 for fault in result.faults) else []
    for step in earlier:
        keys.append(operation(step))
        if step[0] in ("munmap", "mprotect", "mremap") or operation(step) in ("wipeonfork", "dontfork", "mmap, placed"):
            keys.append("split VMA")
    if result.step[0] not in ("write", "read"):
        keys.append(operation(result.step))
    if result.step[0] == "mlock" and result.faults:
        keys.append("mlock, faults")
    if result.step[0] == "fork":
        keys += fork_lessons(case)
    # A process but the first was forked, and what it has of zero pages it may have from there.
    if result.step[1] and any(fault.path == "zero page copy" for fault in result.faults):
        keys.append("fork, zero pages")
    if operation(result.step) in SPLITTING and zero_pages(result) > (zero_pages(case.before) if case.before else 0):
        keys.append("split, zeros")
    if not result.ok and not result.faults:
        keys.append("refused, locked" if "locked" in result.why else "refused")
    if result.step[0] in ("write", "read") and not result.faults:
        keys.append("no fault")
    for fault in result.faults:
        keys += fault_lessons(case, fault)
    keys += ["folds" if folded(case) else "unfolds"] if policy.cont_pte_order else []
    keys += ["lost anon_vma"] if not policy.moved_keeps_anon_vma and "mremap" in keys else []
    return list(dict.fromkeys(keys))


def zero_pages(result: Result) -> int:
    """How many entries of all processes map the zero page."""
    return sum(int(view.zero.sum()) for process in result.snapshot.processes for view in process.mappings)


def fork_lessons(case: Case) -> list[str]:
    """What else a fork turns on."""
    child = case.result.snapshot.processes[-1]
    parent = case.result.snapshot.processes[case.result.step[1]]
    keys = ["fork, pinned"] if parent.pins else []
    has, got = (sum(int(view.present.sum()) for view in process.mappings) for process in (parent, child))
    return keys + (["fork, nothing to copy"] if got < has else [])


def fault_lessons(case: Case, fault: Any) -> list[str]:
    """The checks of a fault, and what came of it."""
    proposed, huge = case.proposed, any(check.what in ("is_huge_zero_pmd",) for check in fault.checks)
    keys = []
    for check in fault.checks:
        key = {"pte_none": "nothing mapped"}.get(check.what, check.what)
        if check.what in ("PageAnonExclusive", "FOLIO_MM_IDS_SHARED_BITNUM") and not check.outcome:
            key += ": no"
        if check.what == "PageAnonExclusive" and huge:
            key = "PageAnonExclusive of a PMD"
        if check.what == "folio_ref_count == 1":
            old = case.before and next((f for f in case.before.snapshot.folios if f.id == fault.old_folio), None)
            key += ", 5.10" if not case.policy.marks_exclusive else ""
            key += " of a large folio" if old and old.order and case.policy.marks_exclusive else ""
        if check.what in LESSONS or key in LESSONS:
            keys.append(key)
        elif proposed:
            copy = "copy" in fault.path or "consecutive" in check.what or "order" in check.what
            keys.append(
                "RFC v2: the mark" if "PageAnonExclusive" in check.what else "RFC v2: copy" if copy else "RFC v2: reuse"
            )
        else:
            raise KeyError(f"no lesson for the check {check.what}")
    after = {
        "cow copy": "RFC v2: copy" if proposed else "one page is copied",
        "exclusive reuse": "RFC v2: reuse" if proposed else "one page becomes writable",
        "zero page copy": "RFC v2: zero page" if proposed else "one page for the zero page",
        "first touch": "RFC v2: sizes" if proposed else "",
        "unshare in place": "unshare",
    }.get(fault.path, "")
    if fault.access == "unshare":
        keys.append("unshare")
    if after and not (fault.order == 9 or len(fault.pages) > 256):
        keys.append(after)
    return keys


# --- drawing ----------------------------------------------------------------------------------------------------------

Wanted = Callable[[Result, Result | None, Scenario], bool]
"""Whether a step will do: what it did, what the one before it did, and the program up to it."""


def path(*paths: str) -> Wanted:
    """The step's last fault took one of these."""
    return lambda result, *_: bool(result.faults) and result.faults[-1].path in paths


def op(*names: str, ok: bool | None = None, faults: bool | None = None) -> Wanted:
    """The step is one of these operations, or of this advice."""
    return lambda result, *_: (
        operation(result.step) in names
        and (ok is None or result.ok is ok)
        and (faults is None or bool(result.faults) is faults)
    )


def after(name: str, *paths: str) -> Wanted:
    """An access that took one of these paths in a program that did `name` before."""
    return lambda result, _, scenario: (
        result.step[0] in ("write", "read")
        and (result.faults[-1].path if result.faults else "no fault") in paths
        and any(operation(step) == name for step in scenario.steps)
    )


def splits(result: Result, before: Result | None) -> bool:
    """Whether there are more folios than before."""
    return before is not None and len(result.snapshot.folios) > len(before.snapshot.folios)


def refolds(result: Result, before: Result | None) -> bool:
    """Whether more or fewer entries carry arm64's contiguous bit than before."""
    counts = [
        sum(
            int(np.count_nonzero(view.pte & PTE_CONT))
            for process in state.snapshot.processes
            for view in process.mappings
        )
        for state in (result, before)
        if state
    ]
    return len(set(counts)) == 2 or (before is None and counts[0] > 0)


@dataclass(frozen=True)
class Kind:
    """So many cases of this kind, from the recordings that the pattern names, under a proposal where one is named."""

    name: str
    files: str
    wants: Wanted
    count: int = 1
    policy: str = ""


KINDS = (
    Kind("a first touch", r"mixed-6.1[28]|mixed-7.3|release-6.19.14", path("first touch"), 2),
    Kind("off a boundary", r"merge-.*|mixing-.*|various-6.1[28].*",
         lambda r, b, s: s.skew % 16 > 0 and path("first touch")(r, b, s)),
    Kind("knobs", r"knobs-.*", path("first touch", "zero page read"), 2),
    Kind("the zero page", r"mixed-.*|named-.*", path("zero page copy"), 2),
    Kind("2 MiB", r"huge-.*|heaps-.*|various-6.1.192|release-7.3.4",
         lambda r, *_: any(f.order == 9 or len(f.pages) > 256 for f in r.faults), 2),
    Kind("2 MiB, shared", r"huge-6.18.44|various-6.1.192|mixed-6.1$",
         lambda r, b, s: s.orders == (9,) and path("cow copy")(r, b, s)),
    Kind("a copy", r"mixed-6.12|mixing-.*|mixed-7.3", path("cow copy"), 2),
    Kind("a reuse", r"mixed-6.18|mixing-.*|release-7.0.13|mixed-6.1$", path("exclusive reuse"), 2),
    Kind("5.10", r"5.10/.*", path("cow copy", "exclusive reuse"), 2),
    Kind("a pin", r"dma-.*|various-6.12.*", op("pin", faults=True)),
    Kind("a fork of what is pinned", r"dma-.*|named-6.12|release-6.17.13",
         lambda r, *_: r.step[0] == "fork" and bool(r.snapshot.processes[r.step[1]].pins)),
    Kind("a device", r"dma-.*|5.10/lost.*", op("dma_read")),
    Kind("a short pin", r"mixed-6.1$|mixed-7.3", op("gup", faults=True)),
    Kind("mremap", r"mixed-.*|merge-.*|kinds-7.3.4",
         after("mremap", "first touch", "zero page copy", "cow copy", "exclusive reuse"), 2),
    Kind("mprotect", r"mixed-6.1$|mixed-6.12|merge-.*", after("mprotect", "no fault", "exclusive reuse")),
    Kind("wiped", r"mixed-.*|mixing-.*", after("wipeonfork", "zero page read", "first touch")),
    Kind("collapse", r"collapse-.*", op("collapse")),
    Kind("memory gets short", r"shrink-.*|kinds-6.12.118", lambda r, b, _: r.step[0] == "shrink" and splits(r, b)),
    Kind("lazily freed", r"free-.*", lambda r, b, _: operation(r.step) in ("free", "cold") and splits(r, b)),
    Kind("locked", r"locked-.*", op("mlock", "mlock_onfault", "populate_write", faults=True), 2),
    Kind("guard pages", r"guard-.*", path("sigsegv")),
    Kind("a heap", r"heaps-.*|mappings-.*", after("brk", "first touch")),
    Kind("a fork that fails", r"forkfail-.*", after("forkfail", "exclusive reuse")),
    Kind("refused", r"refused-.*|release-6.16.12", lambda r, *_: not r.ok and not r.faults),
    Kind("a lost anon_vma", r"min-6.17.13|min-6.18.5", path("zero page read")),
    Kind("arm64", r"arm64/(bits|exp6|exp7|conty|mixed|random|merge|any).*", lambda r, b, _: refolds(r, b), 3),
    Kind("RFC v2", r"mixing-.*|named-6.18|mixed-6.18",
         path("cow copy", "exclusive reuse", "zero page copy"), 2, "rfc-v2"),
    Kind("RFC v2, repaired", r"mixing-.*", path("cow copy"), 1, "rfc-v2-fixed"),
)  # fmt: skip


def files() -> list[str]:
    """All recordings by name."""
    return sorted(str(path.relative_to(DATA_DIR))[:-8] for path in DATA_DIR.rglob("*.json.gz"))


def drawn(seed: int) -> Iterator[Case]:
    """The cases, kind by kind, different ones for another seed; LookupError where a kind is not found so often."""
    rng = random.Random(seed)
    for kind in KINDS:
        names = [name for name in files() if re.fullmatch(kind.files, name)]
        seen: set[tuple[str, int]] = set()
        tries = 0
        while len(seen) < kind.count:
            tries += 1
            if not names or tries > MOST_TRIES:
                raise LookupError(f"{kind.name}: {len(seen)} of {kind.count} found in recordings named {kind.files}")
            file = rng.choice(names)
            program = rng.randrange(len(programs(file)[2]))
            recorded = recorded_program(file, program)
            if (file, program) in seen or recorded.scenario.pages > MOST_PAGES:
                continue
            short = cut(recorded, min(MOST_STEPS, len(recorded.steps)))
            timeline = short.scenario.run(policy_named(kind.policy) if kind.policy else recorded.policy)
            found = [
                at
                for at, result in enumerate(timeline, 1)
                if kind.wants(
                    result, timeline[at - 2] if at > 1 else None, short.scenario.but(steps=short.scenario.steps[:at])
                )
            ]
            if found:
                seen.add((file, program))
                yield case_of(kind.name, file, program, rng.choice(found), kind.policy)


# --- the page ---------------------------------------------------------------------------------------------------------


@cache
def cells(number: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A notebook's file name, and of its cells of words the id and the words, spaces as one."""
    (file,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    found = json.loads(file.read_text(encoding="utf-8"))["cells"]
    words = [
        (cell["id"], " ".join("".join(cell["source"]).split())) for cell in found if cell["cell_type"] == "markdown"
    ]
    return file.name, tuple(words)


def cited(key: str) -> tuple[str, str, str]:
    """File, cell id and words of a lesson; LookupError where no cell says so."""
    number, words = LESSONS[key]
    name, found = cells(number)
    for cell, text in found:
        if words in text:
            return name, cell, words
    raise LookupError(f"no cell of {name} says: {words}")


def program_text(scenario: Scenario) -> str:
    """Setting and steps as a scenario file has them."""
    lines = scenario.but(name="", about="").text().splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("scenario"))


def told(number: int, case: Case) -> str:
    """One case as Markdown."""
    kernel = case.recorded.kernel.split("+")[0] + (" on arm64" if "arm64" in case.recorded.arch else "")
    where = f"`{case.file}`, program {case.program}, step {case.step}"
    who = f"{case.policy.name} (never merged)" if case.proposed else f"Linux {kernel}"
    lines = [f"### {number}. {case.kind}: {who}", "", f"({where})", "", "```", program_text(case.scenario), "```", ""]
    lines += [f"**The last step does what, and why?** {answer(case)}"]
    faults = [
        f"page {page + case.scenario.first_vpn}, error code {code}" for page, code in case.recorded.steps[-1]["faults"]
    ]
    if case.proposed:
        lines += ["", f"(By the model alone; Linux {kernel} ran the same program.)"]
    else:
        lines += [
            "",
            f"(Recorded: {'; '.join(faults[:3]) if faults else 'no user fault'}; page tables as the model's.)",
        ]
    lines += [""]
    for at, key in enumerate(needed(case), 1):
        name, cell, words = cited(key)
        lines.append(f"{at}. {SAYS.get(key, f'`{key}`')}: [{name[:2]}](../notebooks/{name}), `{cell}`: “{words}”")
    return "\n".join(lines) + "\n"


def page(seed: int) -> str:
    """teach/EXAMINATION.md."""
    cases = list(drawn(seed))
    kinds = ", ".join(dict.fromkeys(case.kind for case in cases))
    head = f"""# An examination, drawn from recordings

{len(cases)} cases: programs that ran on real kernels, up to the step that is asked about.
`python tools/examination.py {seed}` draws these, another seed others. Kinds: {kinds}.

Each answer is the model's; page tables, values and faults were compared with the recording up to that step, and are
equal. (RFC v2 was never merged and runs in the model alone.) Page numbers in answers count from a 2 MiB boundary.

Under each answer stands what one has to know, and the cell that teaches it: notebook, the cell's id, its words. The
list is computed: the checks of the faults, the setting, and each earlier step, accesses apart, without which the
outcome would be another. `tests/test_examination.py` looks up the words, and runs the programs.
"""
    return head + "\n" + "\n".join(told(number, case) for number, case in enumerate(cases, 1))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", default=SEED)
    PAGE.write_text(page(parser.parse_args().seed), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
