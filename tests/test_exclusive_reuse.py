"""Notebook 05: its decision tree lights what a fault recorded, and what it says and asks is what the library does."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from anonfolio import LINUX_6_9, LINUX_6_15, POLICIES, RFC_V2, Policy, Scenario, policy_for_kernel, scenario_names
from anonfolio.draw.tree import BOX_X, INDENT, Decision, Tree, decisions
from anonfolio.exercises import exclusive_reuse as q
from anonfolio.kernel.record import FIRST_TOUCH, REUSE, UNSHARE_REUSE, Check, Fault
from anonfolio.program.search import Counterexample, counterexample
from anonfolio.view import Stepper

SVG = "{http://www.w3.org/2000/svg}"
MAINLINE = ("6.12", "6.18", "7.3")


@pytest.fixture(autouse=True)
def nobody_has_answered() -> Iterator[None]:
    asked = (q.marked, q.gone, q.faults, q.walk, q.decided)
    for one in asked:
        one.forget()
    yield
    for one in asked:
        one.forget()


def fault_of(name: str, policy: Policy = LINUX_6_15, step: int = -1) -> Fault:
    return Scenario.load(name).run(policy)[step].faults[-1]


# --- the tree -------------------------------------------------------------------------------------------------------


@pytest.mark.sweep(3)
@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_fault_of_every_scenario_is_a_walk_to_the_leaf_of_its_path(policy: Policy) -> None:
    walked = 0
    for name in scenario_names():
        for fault in Scenario.load(name).run(policy).faults():
            if all(check.what != "pte_none" for check in fault.checks):
                continue  # Settled at the PMD level.
            walk = Tree.of(policy).walk(fault)
            first = fault.checks.index(walk.checks[0])
            assert walk.checks == fault.checks[first : first + len(walk.checks)]
            assert fault.decided_by in walk.checks or fault.access == "read"
            walked += 1
    assert walked > 100


def test_the_lit_branch_is_the_record_and_nothing_is_decided_again() -> None:
    fault = fault_of("child-writes-and-exits")
    lied = tuple(check._replace(outcome=False, saw="told so") if check.decides else check for check in fault.checks)
    shown = Decision(fault._replace(path="cow copy", checks=lied))
    assert "=> folio_large_mapcount == folio_ref_count  no   told so" in shown.text()


def test_a_record_that_fits_no_walk_is_refused() -> None:
    fault = fault_of("child-writes-and-exits")
    with pytest.raises(ValueError, match="another policy"):
        Decision(fault, LINUX_6_9)
    with pytest.raises(ValueError, match="another policy"):
        Decision(fault._replace(path="cow copy"))
    with pytest.raises(ValueError, match="PMD level"):
        Decision(fault_of("huge-child-gone-first", step=3))
    with pytest.raises(ValueError, match="another policy"):
        Decision(fault._replace(checks=fault.checks[:3]))
    strayed = (*fault.checks[:4], Check("folio_ref_count == 1", True))
    with pytest.raises(ValueError, match="another policy"):
        Decision(fault._replace(checks=strayed))
    swapped = (fault.checks[0], fault.checks[2], fault.checks[1], *fault.checks[3:])
    with pytest.raises(ValueError, match="another policy"):
        Decision(fault._replace(checks=swapped))


def test_checks_before_the_tree_are_skipped() -> None:
    fault = fault_of("first-write", step=0)
    assert fault.path == FIRST_TOUCH
    before = Check("pmd_none", True), Check("thp_vma_suitable_order", False)
    assert Tree.of(LINUX_6_15).walk(fault._replace(checks=(*before, *fault.checks))).checks == fault.checks[:1]


def test_an_unshare_in_place_ends_where_a_reuse_does() -> None:
    fault = fault_of("read-pin-child-gone", step=-2)
    assert fault.path == UNSHARE_REUSE
    assert "has to own page 4" in Decision(fault).sentences[0]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.name)
def test_every_question_of_the_tree_is_in_the_picture_once(policy: Policy) -> None:
    decision = Decision(fault_of("child-writes-and-exits", policy, step=-2), policy)
    texts = [element.text for element in ET.fromstring(decision.svg()).iter(f"{SVG}text")]
    for question in decision.tree.questions:
        assert texts.count(question.what) == 1
        assert texts.count(question.asks) == 1
    assert sum("decides" in (text or "") for text in texts) == 1
    assert ("never merged" in decision.heading) is policy.name.startswith("rfc")


def test_the_picture_lights_the_way_and_what_was_seen_and_no_more() -> None:
    svg = ET.fromstring(Decision(fault_of("fork-both-write")).svg())
    texts = {element.text: element.get("class") for element in svg.iter(f"{SVG}text")}
    assert texts["FOLIO_MM_IDS_SHARED_BITNUM"] == "afp-q"
    assert texts["folio_large_mapcount == folio_ref_count"] == texts["folio_ref_count == 1"] == "afp-k"
    assert texts["30 mappings"] == "afp-h"
    assert texts["copy: page 5"] == texts["yes: decides"] == "afp-fb"
    assert sum(path.get("class") == "afp-pen" for path in svg.iter(f"{SVG}path")) == 5
    assert not any((text or "").startswith("reuse: ") for text in texts)


def test_the_small_branch_is_lit_only_for_a_small_folio() -> None:
    small = ET.fromstring(Decision(q.last_fault(q.walks)).svg())
    large = ET.fromstring(Decision(fault_of("child-writes-and-exits")).svg())
    told = [{element.text: element.get("class") for element in svg.iter(f"{SVG}text")} for svg in (small, large)]
    assert [words["no, small folio"] for words in told] == ["afp-fb", "afp-h"]
    lit = [
        [path.get("d", "") for path in svg.iter(f"{SVG}path") if path.get("class") == "afp-pen"]
        for svg in (small, large)
    ]
    aside = f"M{BOX_X + INDENT + 20} "
    assert sum(d.startswith(aside) for d in lit[0]) == 1
    assert sum(d.startswith(aside) for d in lit[1]) == 0
    assert len(lit[0]) == 4


def test_several_faults_share_a_tree_and_are_named_where_they_end() -> None:
    decision = Decision({"a": fault_of("fork-both-write"), "b": q.last_fault(q.walks), "c": fault_of("last-page")})
    texts = [element.text for element in ET.fromstring(decision.svg()).iter(f"{SVG}text")]
    assert {"copy: a", "reuse: b", "copy: c"} <= set(texts)
    assert "=> folio_large_mapcount > 1                 yes  a   no   c" in decision.text()
    assert len(decision.sentences) == 3
    many = Decision({str(number): fault for number, fault in enumerate(q.everything.run(LINUX_6_15).faults()[1:], 100)})
    assert "reuse: 16 faults" in many.svg()


def test_it_is_heard_as_it_is_seen() -> None:
    decision = Decision(fault_of("fork-both-write"), title="both live")
    svg = ET.fromstring(decision.svg())
    assert svg.get("role") == "img"
    assert svg.findtext(f"{SVG}title") == f"both live {decision.sentences[0]}"
    assert svg.findtext(f"{SVG}desc") == repr(decision) == decision.text()
    assert decision.sentences == ["Process 1 writes page 5: copy, because FOLIO_MM_IDS_SHARED_BITNUM is yes."]
    assert max(map(len, decision.text().splitlines())) <= 110
    assert set(decision._repr_mimebundle_()) == {"image/svg+xml", "text/plain"}


@pytest.mark.parametrize("name", ["read-then-write", "last-page", "nested-fork", "pin-blocks-reuse"])
def test_no_word_leaves_the_picture(name: str) -> None:
    from anonfolio.draw.drawing import WIDTH, measure, measure_mono

    for policy in POLICIES.values():
        faults = Scenario.load(name).run(policy).faults()
        several = {str(number): fault for number, fault in enumerate(faults, 100)}
        alone: list[Fault | dict[str, Fault]] = [*faults[:3]]
        for shown in [*alone, several]:
            for element in ET.fromstring(Decision(shown, policy).svg()).iter(f"{SVG}text"):
                mono = element.get("class") in ("afp-k", "afp-q")
                wide = (measure_mono if mono else measure)(element.text or "")
                assert float(element.get("x") or 0) + wide <= WIDTH, element.text


# --- what the notebook says -----------------------------------------------------------------------------------------


def test_the_right_to_write_and_the_mark_part_and_meet() -> None:
    lines = q.table(q.protect.run(LINUX_6_15), q.FILLED).splitlines()[1:]
    counts = [tuple(map(int, line[22:41].split())) for line in lines]
    assert counts == [
        (16, 16), (0, 16), (16, 16), (16, 16), (0, 0), (0, 0), (0, 0), (0, 0), (1, 1), (0, 1), (1, 1), (1, 1), (2, 2),
    ]  # fmt: skip
    assert all(writable <= exclusive for writable, exclusive in counts)
    assert [line[41:].strip() for line in lines if line[41:].strip()] == ["reuse1", "reuse1"]


def test_one_implication_holds_in_the_search_and_its_reverse_does_not() -> None:
    operations = ("write", "fork", "exit", "gup")
    assert not counterexample(LINUX_6_15, steps=3, operations=operations, invariants=(q.writable_is_exclusive,))
    found = counterexample(LINUX_6_15, steps=3, operations=operations, invariants=(q.exclusive_is_writable,))
    assert isinstance(found, Counterexample)
    assert [step[0] for step in found.scenario.steps] == ["write", "fork", "gup"]


def test_the_kernels_say_mapped_once_and_fault_all_the_same() -> None:
    for kernel in MAINLINE:
        recorded = q.protect.recorded(kernel)
        gone, written = recorded.steps[20], recorded.steps[q.AGAIN]
        assert all(cell[3] for cell in gone["view"]["0"])
        assert written["faults"] == [[3, 7]]
        assert written["view"]["0"][3][2] == (1 if kernel == "6.12" else 16)
        assert recorded.steps[26]["faults"] == []
        assert not q.protect.run(policy_for_kernel(kernel)).compare(recorded)


def test_one_program_goes_every_way_through_the_tree() -> None:
    run = q.walks.run(LINUX_6_15)
    decided = {
        number: (fault.decided_by.what, fault.code)
        for number, result in enumerate(run, 1)
        for fault in result.faults
        if fault.decided_by
    }
    shared, counts = "FOLIO_MM_IDS_SHARED_BITNUM", "folio_large_mapcount == folio_ref_count"
    assert decided == {
        1: ("pte_none", "alloc2"), 6: (shared, "copy0"), 7: (shared, "copy0"), 8: ("PageAnonExclusive", "reuse1"),
        10: (counts, "reuse1"), 12: (counts, "copy0"), 15: ("folio_large_mapcount > 1", "copy0"),
        16: ("folio_ref_count == 1", "reuse1"),
    }  # fmt: skip
    assert {what for what, _ in decided.values()} == {question.what for question in Tree.of(LINUX_6_15).questions} - {
        "vm_normal_page"
    }
    assert run[q.FORKED].step == ("fork", 0)
    assert q.walks.steps[6] == ("gup", 0, 2)


def test_a_stepper_shows_the_way_of_each_step_and_hides_it_while_it_asks() -> None:
    run = q.walks.run(LINUX_6_15)
    shown = decisions(run)
    assert len(shown) == len(run) + 1
    assert [number for number, svg in enumerate(shown) if 'class="afp-say"' in svg] == [1, 6, 7, 8, 10, 12, 15, 16]
    assert shown[0] == shown[5] == Decision({}).svg()
    assert "No fault, so nothing is asked." in Decision({}).text()
    asks = Stepper(run, panel=shown, panel_title="asked", key=q.FORKED + 1, predict=True)
    assert "Which path does it take?" in repr(asks)
    assert "=>" not in repr(asks).split("asked", 1)[1].split("\n", 2)[2].partition("Left out")[0]
    tells = Stepper(run, panel=shown, panel_title="asked", key=q.FORKED + 1)
    assert "=> FOLIO_MM_IDS_SHARED_BITNUM               yes" in repr(tells)


def test_a_fault_of_the_pmd_level_is_told_in_words() -> None:
    told = [not shown.startswith("<svg") for shown in decisions(Scenario.load("huge-child-gone-first").run(LINUX_6_15))]
    assert told == [False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("name", "mainline", "proposal"),
    [
        ("half-unmapped", "reuse1", "reuse8"), ("half-moved-away", "reuse1", "copy3"),
        ("mapping-split-inside-folio", "reuse1", "copy3"), ("hole-defeats-the-scan", "reuse1", "copy0"),
    ],
)  # fmt: skip
def test_where_a_run_ends(name: str, mainline: str, proposal: str) -> None:
    for policy, code in ((LINUX_6_15, mainline), (RFC_V2, proposal)):
        assert next(f for f in Scenario.load(name).run(policy).faults() if f.path != FIRST_TOUCH).code == code


MARKED_HALF = Scenario.parse("""
# A read pin marks pages and leaves them read-only; then a fork takes the mark from the upper half.
scenario marked-half
pages 16
write 0 0..15
fork 0
exit 1
gup 0 4
madvise 0 0 8 wipeonfork
fork 0
madvise 0 0 8 keeponfork
write 0 2 102
""")


def test_the_run_of_marked_pages_ends_where_the_mark_does() -> None:
    proposed, merged = q.last_fault(MARKED_HALF, RFC_V2), q.last_fault(MARKED_HALF)
    assert proposed.path == REUSE
    assert proposed.pages == range(8)
    assert proposed.decided_by == Check("PageAnonExclusive", True, "", True, "the page is exclusive to it")
    assert merged.code == "copy0"
    before = [MARKED_HALF.run(policy)[18].snapshot.folios[0].anon_exclusive for policy in (RFC_V2, LINUX_6_15)]
    assert [int(marks.sum()) for marks in before] == [16, 1]


def test_who_faults_is_what_the_model_does() -> None:
    rows = {line[:22].strip(): line[22:].split() for line in q.who_faults().splitlines()[1:]}
    assert rows["untouched"] == ["zeroread", "alloc4", "zeroread", "zeroread", "alloc4", "zeroread", "zero0"]
    assert rows["shared"] == ["-", "copy0", "copy0", "-", "copy0", "copy0"]
    assert rows["alone, not marked"] == ["-", "reuse1", "unshare", "-", "reuse1", "unshare"]
    assert rows["exclusive"] == ["-"] * 6
    assert q.who_faults("6.12").splitlines()[4].split()[3:] == ["-", "copy0", "copy0", "-", "copy0", "copy0"]


# --- questions ------------------------------------------------------------------------------------------------------


def test_predictions_know_the_misconceptions() -> None:
    assert q.marked.answer == frozenset(range(16))
    assert "Writable = exclusive" in q.marked.check(set()).lines[0]
    assert q.gone.answer == "c"
    told = {letter: q.gone.check(letter).lines[0] for letter in "abd"}
    assert "Fork took the mark" in told["a"]
    assert "Maybe shared = shared" in told["b"]
    assert "never merged" in told["d"]
    assert q.faults.answer == 16
    assert "never merged" in q.faults.check(1).lines[0]
    assert "read-only until a fault" in q.faults.check(0).lines[0]


def test_each_of_the_six_walks_ends_elsewhere() -> None:
    right = {letter: case.truth() for letter, case in q.walk.cases.items()}
    assert sorted(right.values()) == sorted(q.walk.answers)
    assert q.walk.check(**right).head == "6 of 6 right."
    assert q.walk.check(b="PageAnonExclusive").kind == "right"
    for letter, case in q.walk.cases.items():
        assert set(case.wrong) <= set(q.walk.answers) - {case.truth()}
        for wrong, says in case.wrong.items():
            said = q.walk.check(**{letter: wrong})
            assert said.kind == "wrong"
            assert says in said.lines[1]
            assert said.picture is not None


def test_the_worked_decision_is_the_librarys() -> None:
    assert q.decided.check(q.decide).head == "Right: the same as the library on all 200 cases."
    assert "def decide(" in q.decided.solution().code


def test_the_states_are_those_of_their_programs_and_settle_the_answer() -> None:
    seen: dict[q.Met, str] = {}
    for case, right in q.decided.cases:
        page = case["page"]
        fault = page.program.end(LINUX_6_15, frames=q._FRAMES).faults[-1]
        asked = {check.what: check for check in fault.checks}
        assert asked["PageAnonExclusive"].outcome is page.exclusive
        assert asked["vm_normal_page"].saw.endswith(f"order {page.order}")
        if "folio_large_mapcount > 1" in asked:
            assert asked["folio_large_mapcount > 1"].saw == f"{page.mappings} mapping{'s' * (page.mappings > 1)}"
        if "FOLIO_MM_IDS_SHARED_BITNUM" in asked:
            assert asked["FOLIO_MM_IDS_SHARED_BITNUM"].outcome is page.maybe_shared
        if "folio_ref_count == 1" in asked:
            assert asked["folio_ref_count == 1"].saw == f"refcount {page.references}"
        assert seen.setdefault(page, right) == right
    assert {(page.exclusive, page.order > 0, right) for page, right in seen.items()} == {
        (True, True, "reuse"), (True, False, "reuse"), (False, True, "reuse"), (False, False, "reuse"),
        (False, True, "copy"), (False, False, "copy"),
    }  # fmt: skip


@pytest.mark.sweep(3)
@pytest.mark.parametrize("says", q.decided.wrong)
def test_a_decision_with_a_known_mistake_is_told_which(says: str) -> None:
    said = q.decided.check(q.decided.wrong[says])
    assert said.kind == "wrong"
    assert said.lines[-1] == says
    assert said.picture is not None


def test_known_mistakes_differ_from_each_other() -> None:
    answers = {
        says: tuple(wrong(**copy.deepcopy(case)) for case, _ in q.decided.cases)
        for says, wrong in q.decided.wrong.items()
    }
    assert len(set(answers.values())) == len(answers)
