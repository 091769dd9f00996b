"""A report as text, Markdown and HTML: it fits a mail, says where each number comes from, and needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from test_report import VMSPLICE, small  # noqa: F401

import anonfolio as af
from anonfolio.__main__ import DIFFERENT, EQUAL, main
from anonfolio.report import breaks, page, render
from anonfolio.report.blocks import Code, Command, Drawing, Page, Pair, Points, Rows, Section, Words
from anonfolio.report.breaks import Bound
from anonfolio.report.findings import Findings
from anonfolio.report.laboratory import renderer

LONG = (
    "a long sentence that goes on and on, and says nothing but how it is wrapped when it does not fit a line of a mail"
)
PAGE = Page(
    "mine <script> against 6.15", "Refuted: `this` & that.", True,
    (
        Section(
            "What <it> does",
            (
                Words(f"`code` & <b>{LONG}</b>"), Points((LONG, "two")),
                Rows("a table:", ("", "faults", "pages copied"), (("of a <long> name", "1,000", "2"), ("b", "3", "4"))),
                Code(f"def rule(folio, ask):\n    return ask('<x>', folio.mine == 1, 'is never cut: {LONG}')"),
                Command(f"anonfolio search --policy FILE.py --operations write fork exit {'munmap ' * 9}--steps 6"),
                Pair(Drawing("base", "copies.", "<svg>1</svg>"), Drawing("mine", "reuses.", "<svg>2</svg>")),
            ),
        ),
    ),
    "anonfolio lab FILE.py --against linux-6.15 --seed 0",
)  # fmt: skip


def test_a_program_says_what_each_step_does_and_can_be_parsed_again() -> None:
    steps = "write 0 0 1\nfork 0\nref 1 0 0\nfork 1\nwrite 2 0 221\n"
    scenario = af.Scenario.parse(f"scenario x\npages 4\norders 2\nskew 1\n{steps}")
    written = page._program(scenario)
    assert af.Scenario.parse(written) == scenario.but(name=af.Scenario.parse(written).name)
    assert "fork 1         # Process 1 forks, which makes process 2" in written
    assert "write 2 0 221  # Process 2 writes page 1" in written


@pytest.mark.parametrize("write", [render.text, render.markdown])
def test_what_goes_into_a_mail_fits_it(write: Any) -> None:
    lines = write(PAGE).splitlines()
    assert [line for line in lines if len(line) > 78] == [line for line in lines if "never cut: " in line]
    assert not [line for line in lines if line != line.rstrip()]
    text = "\n".join(lines)
    assert re.search(r"\n +\$ anonfolio search .* \\\n {8}\S", text), "a long command goes on where a shell goes on"
    assert "base: copies." in text
    assert "svg" not in text


def test_numbers_stand_under_their_heads() -> None:
    lines = render.text(PAGE).splitlines()
    head = next(at for at, line in enumerate(lines) if line.endswith("faults  pages copied"))
    assert lines[head + 2].endswith(" 1,000             2")
    assert len(lines[head]) == len(lines[head + 2])


def test_html_is_one_file_and_what_is_foreign_is_text() -> None:
    html = render.html(PAGE)
    assert html.startswith("<!DOCTYPE html>")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<b>a long" not in html
    assert not re.search(r"(src|href)=|url\(|@import|https?://", html)
    assert "<code>code</code>" in html
    assert html.count("<svg>") == 2
    assert "prefers-color-scheme:dark" in html
    assert '[data-jp-theme-light="false"]' in html
    assert 'class="verdict refuted"' in html


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_the_name_of_a_file_says_what_it_is(name: str) -> None:
    assert renderer(name)(PAGE)


@pytest.mark.parametrize("name", ["a.pdf", "a", "html"])
def test_another_ending_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"a report is a file NAME\.txt, NAME\.md, NAME\.html"):
        renderer(name)


@pytest.mark.usefixtures("small")
def test_a_report_tells_what_was_run_and_how_to_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = af.lab(VMSPLICE, "linux-6.15", quick=True, steps=2)
    text = report.text()
    assert "steps over 4 pages and write, fork" in text
    assert "up to 2 steps" in text
    assert "returned 255, not 1" in text
    assert "def nobody_else_maps_it" in text
    for again in ("anonfolio search --policy FILE.py --steps 2", "anonfolio selftest --policy FILE.py", report.command):
        assert again in " ".join(text.replace("\\\n", "").split())
    for unit in ("modelled time, ms", "memory held, MiB", "pages copied", "TLB reach, MiB"):
        assert unit in text
    for written in (text, report.markdown(), report.html()):
        assert f"run on anonfolio {af.__version__}, a model" in " ".join(written.split())
    bundle = report._repr_mimebundle_()
    assert bundle["text/html"].count("<svg") == 2 * len(report.changes.kinds())
    assert len(bundle["text/plain"].splitlines()) == 1
    assert report.html().count("Refuted: ") == 1
    rule = report.fields[0].source
    assert all(len(line) <= 78 or line.strip() in rule for line in report.markdown().splitlines())


@pytest.mark.long
def test_what_several_searches_find_is_shown_once_and_of_many_broken_kinds_some() -> None:
    found = af.search.counterexample("rfc-v2", operations=("write", "fork", "wipeonfork", "pin"))
    assert isinstance(found, af.search.Counterexample)
    again = (Bound(6, breaks.HOLDERS), Bound(5, breaks.UNSHARERS))
    broken = tuple(breaks.Broken(kind, 0, "it", found.scenario) for kind in ("mixed", "merge", "huge"))
    report = Findings(
        af.RFC_V2, af.LINUX_6_15, "rfc-v2", True, None, 0, (), None,
        breaks.Breaks(tuple(breaks.Found(bound, found) for bound in again), breaks.Random(9, 9, ("mixed",), 0, broken)),
        None,
    )  # fmt: skip
    assert [each.split()[0:2] for each in report.refutations] == [["a", "program"], ["a", "random"]]
    text = " ".join(render.text(page.page_of(report)).split())
    assert text.count("steps break pinned_page_stays") == 1
    assert text.count("Search: a program that is shown above breaks pinned_page_stays") == 1
    assert all(" ".join(bound.options().split()) in text.replace("\\ ", "") for bound in again)
    assert "Of these 3 kinds, the first 2:" in text
    assert "Kind huge" not in text
    assert "no kernel was built or run for it" in text


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_the_command_writes_the_report_and_says_with_its_code_whether_it_refutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(breaks, "QUICK", (Bound(2, breaks.HOLDERS),))
    assert main(["lab", "linux-6.9", "--against", "linux-6.15", "--quick", "--jobs", "1"]) == EQUAL
    assert "linux-6.9 against linux-6.15" in capsys.readouterr().out
    rule = "def alone(folio, ask):\n    return ask('alone', folio.mine == folio.mappings)\n"
    Path("mine.py").write_text(f"import anonfolio as af\n{rule}p = af.LINUX_6_15.but(large_reuse=alone)\n")
    assert main(["lab", "mine.py", "--quick", "--jobs", "1", "-o", "report.md"]) == DIFFERENT
    assert capsys.readouterr().out.startswith("mine against linux-6.15: Refuted: ")
    assert Path("report.md").read_text().startswith("# mine against linux-6.15\n")


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_a_report_says_where_a_search_began_and_how_to_do_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(breaks, "QUICK", ())
    monkeypatch.setattr(breaks, "BEGUN", breaks.BEGUN[:1])
    Path("once.py").write_text(
        "import anonfolio as af\n"
        "def once(around, ask):\n"
        "    return around.run(around.mapcount == 1) if around.mapcount[around.at] == 1 else around.page\n"
        "p = af.LINUX_6_15.but(reuse_extent=once)\n"
    )
    assert main(["lab", "once.py", "--against", "6.15", "--quick", "--jobs", "1", "-o", "report.md"]) == DIFFERENT
    assert "Refuted: a program of 10 steps breaks held_page_is_private" in capsys.readouterr().out
    report = Path("report.md").read_text()
    said = " ".join(report.split())
    assert "Search from child-maps-half (a folio half of which a child still maps; " in said
    assert "4 steps after the 6 of the program break held_page_is_private" in said
    # What is drawn is what the last of the ten steps did, not the fourth.
    assert "once: Process 0 writes page 0: the page is exclusive to it, so pages 0–2 are made writable" in said
    words = [word for word in said.partition("$ anonfolio ")[2].split() if word != "\\"]
    again = words[: words.index("keeponfork") + 1]
    assert again[0] == "search"
    assert main([*again, "--jobs", "1"]) == DIFFERENT
    out = capsys.readouterr().out
    assert "4 steps after the 6 of the program break held_page_is_private" in out
    # The lines of the report's program are those of the command's.
    program = [line for line in out.splitlines() if line.startswith(("write ", "fork ", "ref ", "madvise ", "munmap "))]
    assert len(program) >= 9
    assert all(line in report for line in program)
