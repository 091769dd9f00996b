"""What the words say of a release is so: names stand in its sources, and "and later" is run on what came later.

The stored list (data/kernel/names.json, by tools/kernel_names.py) has names alone, of the releases that were read.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from anonfolio import LINUX_6_15, Policy, Scenario
from anonfolio.kernel.history import HISTORY, kernel_number
from anonfolio.kernel.rules import OLDER_NAMES

ROOT = Path(__file__).resolve().parent.parent
STORED = json.loads((ROOT / "data/kernel/names.json").read_text())
HAS = {release: frozenset(names) for release, names in STORED["releases"].items()}
READ = tuple(HAS)
NEWEST = READ[-1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KNOWN = frozenset().union(*HAS.values())
NAME = re.compile(r"[A-Za-z_]\w{3,}")
RELEASE = r"\d\.\d+(?!\d|\.\d)"
PROPOSED = {"calc_anon_folio_order_copy", "calc_anon_folio_range_reuse"}
"""Names from the mails of RFC v2: no release has them."""


def kernel_names(text: str) -> list[str]:
    """What stands between backticks and looks like a kernel's function or flag."""
    quoted = " ".join(re.findall(r"`([^`\n]+)`", text))
    names = [name for name in NAME.findall(quoted) if "_" in name or name.startswith("Page")]
    return [name for name in names if not name.startswith("test_")]  # a selftest's: tools/ is not read


def from_on(release: str) -> list[str]:
    """The releases read that are not older."""
    return [read for read in READ if kernel_number(read) >= kernel_number(release)]


def rows() -> Iterator[tuple[str, str, str]]:
    """Of every table "Where in the kernel": notebook, the cell with functions, the cells after it."""
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            found = re.search(r"^## Where in the kernel\n.*?(?=^## |\Z)", cell.source, re.DOTALL | re.MULTILINE)
            for line in re.findall(r"^\|(.*)\|$", found[0] if found else "", re.MULTILINE)[2:]:
                cells = [part.strip() for part in line.split("|")]
                yield path.stem, " ".join(cells[:2]), " ".join(cells[2:])


def test_every_notebook_has_a_table_that_is_read_here() -> None:
    assert {name for name, *_ in rows()} >= {path.stem for path in NOTEBOOKS}
    assert len(list(rows())) > 80


@pytest.mark.parametrize(("name", "functions", "when"), list(rows()))
def test_a_function_of_the_table_stands_in_the_releases_it_is_named_for(name: str, functions: str, when: str) -> None:
    """`new` (6.1: `old`): new from the row's oldest release on (from 6.1 at most), but for 6.1, which has old."""
    others = dict(re.findall(rf"({RELEASE}): (`[^)]*)", functions + "; " + when))
    for release, text in others.items():
        assert not [one for one in kernel_names(text) if one not in HAS[release]], (name, release)
    plain = re.sub(rf"\({RELEASE}: `[^)]*\)", "", functions)
    said = [
        release for release in re.findall(RELEASE, re.sub(r"\([^)]*\)", "", when)) if kernel_number(release) > (6, 1)
    ]
    inline = re.findall(rf"({RELEASE}) has it inline", when)
    since = min(said, key=kernel_number, default="6.1" if re.search(RELEASE, when) else NEWEST)
    until = re.search(rf"up to ({RELEASE})", when)
    for function in kernel_names(plain):
        if function in PROPOSED:
            assert "never merged" in functions + when or "RFC v2" in functions
            continue
        where = [read for read in from_on(since) if read not in (*others, *inline)]
        where = [read for read in where if not until or kernel_number(read) <= kernel_number(until[1])] or [NEWEST]
        assert [read for read in where if function not in HAS[read]] == [], (name, function, when)


def claims(text: str) -> Iterator[tuple[str, str, str]]:
    """`name`, 6.1-7.3 and its like, in running text: the name, the first and the last release of the claim."""
    pattern = (
        rf"((?:`\w+`(?:, | and )?)+),? \(?(?:from |in )?({RELEASE})(?!:)(?:(?:-| to )({RELEASE})|( and later| on))?"
    )
    for found in re.finditer(pattern, re.sub(r"\s+", " ", text)):
        for name in kernel_names(found[1]):
            yield name, found[2], found[3] or (NEWEST if found[4] else found[2])


def test_a_function_that_a_sentence_names_for_releases_stands_in_them() -> None:
    texts = {path: path.read_text() for path in ROOT.glob("anonfolio/**/*.py")}
    for pattern in ("docs/*.md", "*.md", "anonfolio/**/*.toml"):
        texts |= {path: path.read_text() for path in ROOT.glob(pattern)}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    checked, wrong = 0, []
    for path, text in texts.items():
        for name, since, until in claims(text):
            for read in from_on(since):
                if kernel_number(read) <= kernel_number(until):
                    checked += 1
                    wrong += [(path.name, name, read)] if name not in HAS[read] else []
    assert wrong == []
    assert checked > 60


def test_no_notebook_names_what_only_an_old_kernel_had_without_saying_so() -> None:
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
                for name in set(kernel_names(line)) & KNOWN - HAS[NEWEST]:
                    assert re.search(RELEASE, line), (path.stem, name, line)


@pytest.mark.parametrize("release", READ)
def test_what_a_fault_is_said_to_have_asked_is_a_name_of_its_kernel(release: str) -> None:
    policy, asked = Policy.at(release), set()
    for path in (ROOT / "anonfolio/scenarios").glob("*.scenario"):
        for fault in Scenario.load(path.stem).run(policy).faults():
            asked |= {name for check in fault.checks for name in NAME.findall(check.what)}
    names = {OLDER_NAMES.get(release, {}).get(name, name) for name in asked}
    assert {name for name in names if "_" in name or name.startswith("Page")} <= HAS[release]
    assert len(names) > 5


def exercises() -> Iterator[tuple[str, Scenario]]:
    """Every scenario that a module of exercises holds, by its name there."""
    for path in sorted((ROOT / "anonfolio/exercises").glob("[a-z]*.py")):
        module = importlib.import_module(f"anonfolio.exercises.{path.stem}")
        yield from ((f"{path.stem}.{name}", held) for name, held in vars(module).items() if isinstance(held, Scenario))


@pytest.mark.long
def test_6_15_and_later_is_so_in_every_program_of_the_exercises() -> None:
    """Each is run under what stands for 6.15 to 6.18, and under each release since that differs in something."""
    later = [Policy.at(release) for release in ("6.15", "6.16", "6.17", "6.19", "7.0", NEWEST)]
    ran = 0
    for name, program in exercises():
        if name == "rfc_to_mainline.moved_back":  # the one that is there because releases differ in it
            continue
        codes = program.run(LINUX_6_15).codes()
        for policy in later:
            assert program.run(policy).codes() == codes, (name, policy.name)
            ran += 1
    assert ran > 100


# --- releases that history knows, where words name them ---------------------------------------------------------------

DATED = (
    ("00_start_here", "`linux-6.3` stands for 6.1 to {knob_orders<}, `linux-6.15` for {mm_id} to 6.18"),
    ("00_start_here", "from {never} to {mm_id<}, path 4 asked less"),
    ("01_first_touch", "| up to {knob_orders<} (`linux-6.3`)"),
    ("01_first_touch", "| {knob_orders} and later (`linux-6.8`"),
    ("01_first_touch", "(`MADV_GUARD_INSTALL`, {has_guard_markers}:"),
    (
        "01_first_touch",
        "its whole 2 MiB only from {reclaims_page_tables} on, on arm64 from {reclaims_page_tables@arm64}.",
    ),
    ("01_first_touch", "from {larger} on 2 MiB or more begin at a 2 MiB boundary, from {multiples} on only multiples"),
    ("02_zero_page_copy", "but for 2 MiB alone, since {huge_zero_write} by the commit below"),
    ("02_zero_page_copy", "since {split_maps_zero_page}, when an anonymous folio of any size is split"),
    ("05_exclusive_reuse", "Since {mm_id} it asks three questions about the *folio*"),
    ("05_exclusive_reuse", "Larger ones were never reused from {never} to {mm_id<}."),
    ("07_postfork_reuse_scan", "- **{never}** to {mm_id<}: is the folio large? Then copy."),
    ("07_postfork_reuse_scan", "- **{mm_id}** and later:"),
    ("07_postfork_reuse_scan", "With 16 pages (since {knob_orders}) it has 16"),
    ("08_tlb_reach", "Linux: since {cont_pte_order@arm64} for anonymous memory"),
    (
        "08_tlb_reach",
        "Up to {batches_ptes<} mprotect goes entry by entry; from {batches_ptes}, as in our model, by batches",
    ),
    ("10_rfc_to_mainline", "`6.3` stands for 6.1 to {knob_orders<}, `6.9` for {never} to {mm_id<}"),
    ("10_rfc_to_mainline", "since {huge_zero_write} a write on the **huge zero page** gets 2 MiB"),
    ("10_rfc_to_mainline", "Until {merges_into_unfaulted<} the moved mapping and its untouched neighbour stayed apart"),
    ("10_rfc_to_mainline", "Mended in {moved_keeps_anon_vma} and 6.19"),
    ("10_rfc_to_mainline", "by mm_id since {mm_id}; one page a fault"),
    ("12_playground", "(before {ages_whole_folios}: every large one)"),
    ("12_playground", "| `collapse` ({has_collapse})"),
    ("12_playground", "before {collapse_needs_writable} also a writable entry"),
    ("12_playground", "from {split_maps_zero_page} on pages of zeros become zero pages"),
    ("12_playground", "or of several mappings ({moves_many_vmas}: if they grow)"),
    ("anonfolio/exercises/start_here.toml", "That is what {never} to {mm_id<} do: there, a page of a large folio"),
    ("anonfolio/exercises/postfork_reuse_scan.toml", "From {never} to {mm_id<} a page of a large folio is reused only"),
    ("anonfolio/exercises/playground.toml", "{never} to {mm_id<} never reuse a page of a large folio"),
    ("teach/LESSON.md", "Since {knob_orders} every size can be enabled by itself"),
    ("README.md", "| `linux-6.9` | 6.12, and {never} to {mm_id<} but for small things"),
)
"""Sentences as they stand. In braces what history says: the release that last set a field, or gave it a value; `<` is
the one before it, and `@` names the processor."""
VALUES = {"never": "large_reuse", "mm_id": "large_reuse", "larger": "thp_aligns_mmap", "multiples": "thp_aligns_mmap"}


def dated(what: str) -> str:
    """What stands for a pair of braces."""
    name, _, arch = what.rstrip("<").partition("@")
    field = VALUES.get(name, name)
    rows = [
        row.release
        for row in HISTORY[1:]
        if row.arch in ("", arch or "x86-64")
        and (row.fields.get(field) == name if name in VALUES else field in row.fields)
    ]
    assert rows, f"history says nothing of {what}"
    major, _, minor = rows[-1].partition(".")
    return f"{major}.{int(minor) - 1}" if what.endswith("<") else rows[-1]


@pytest.mark.parametrize(("name", "sentence"), DATED)
def test_a_release_that_words_name_is_the_one_that_history_knows(name: str, sentence: str) -> None:
    said = re.sub(r"\{(.*?)\}", lambda found: dated(found[1]), sentence)
    if "." in name:
        words = (ROOT / name).read_text(encoding="utf-8")
    else:
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        words = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert said in " ".join(words.split())
