"""Drawn questions: right by a second model, distinct, balanced; papers that other programs read and nobody else's."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from plain_kernel import RULES
from plain_kernel import answer as plain_answer

from anonfolio.__main__ import COMMANDS, main
from anonfolio.exercises import (
    cost_and_memory,
    cow_copy_order,
    exclusive_pitfalls,
    exclusive_reuse,
    first_touch,
    fork_and_share,
    laboratory,
    playground,
    postfork_reuse_scan,
    rfc_to_mainline,
    start_here,
    tlb_reach,
    your_kernel,
    zero_page_copy,
)
from anonfolio.lesson.drawn import COUNT_AGAIN, LETTERS, LEVELS, Drawn, run
from anonfolio.lesson.topics import TOPICS, questions
from anonfolio.teach import papers

COUNT = 300 if os.environ.get("HYPOTHESIS_PROFILE") == "explore" else 24
"""``make fuzz`` draws all."""
SEED = 5
SOME = ("touch", "reuse")
"""With --sample only these are drawn, which takes seconds for each."""


@cache
def bank(topic: str) -> list[Drawn]:
    return questions(topic, SEED, COUNT)


@pytest.fixture(params=[pytest.param(topic, marks=[] if topic in SOME else pytest.mark.long) for topic in TOPICS])
def drawn(request: pytest.FixtureRequest) -> list[Drawn]:
    return bank(request.param)


@pytest.fixture
def of_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paper of `SEED` is not drawn again: a smaller count has the first questions of a larger one (tested below)."""

    def first(topic: str, seed: int, count: int) -> list[Drawn]:
        assert seed == SEED
        return bank(topic)[:count]

    monkeypatch.setattr(papers, "questions", first)


def test_questions_differ(drawn: list[Drawn]) -> None:
    assert len({question.identity for question in drawn}) == len(drawn) == COUNT
    for kind in {question.kind for question in drawn}:
        programs = [question.program.text() for question in drawn if question.kind == kind]
        assert len(set(programs)) == len(programs), "a program is asked about twice"


def test_what_is_right_and_what_other_kernels_do_is_what_a_second_model_says(drawn: list[Drawn]) -> None:
    compared = 0
    for question in drawn:
        program = question.program
        facts = program.pages, program.orders, program.skew, program.steps
        for option in question.options:
            for kernel in option.kernels:
                compared += 1
                assert plain_answer(question.topic, question.kind, kernel, *facts) == option.answer, program.text()
    assert compared > 3 * COUNT


def test_the_kernel_that_is_asked_about_gives_the_right_option_and_no_wrong_one(drawn: list[Drawn]) -> None:
    for question in drawn:
        for number, option in enumerate(question.options):
            assert (question.kernel.name in option.kernels) == (number == question.right)


def test_answers_and_letters_are_balanced_within_15_percent(drawn: list[Drawn]) -> None:
    letters = Counter(question.letter for question in drawn)
    assert all(abs(count - COUNT / 4) <= max(1, 0.15 * COUNT / 4) for count in letters.values())
    kinds = {kind.name: kind for kind in TOPICS[drawn[0].topic]}
    cells: Counter[Any] = Counter()
    for question in drawn:
        right = question.options[question.right].answer
        cells[question.kind, kinds[question.kind].label(right, question.program)] += 1
    wanted = {(kind.name, label) for kind in kinds.values() for label in kind.labels}
    assert set(cells) == wanted
    mean = COUNT / len(wanted)
    assert all(abs(count - mean) <= max(1, 0.15 * mean) for count in cells.values())


def test_eight_of_ten_have_another_kernels_answer_among_the_wrong_ones(drawn: list[Drawn]) -> None:
    some = [any(option.kernels for option in question.options if option.reason) for question in drawn]
    assert sum(some) >= 0.8 * COUNT


def test_every_wrong_option_says_why_and_the_options_differ(drawn: list[Drawn]) -> None:
    for question in drawn:
        assert [not option.reason for option in question.options].index(True) == question.right
        assert sum(not option.reason for option in question.options) == 1
        assert len({option.words for option in question.options}) == len(question.options) == 4


def told(trail: str) -> int:
    """How many pages a sentence names, ranges whole."""
    found = re.findall(r"pages? (\d+)(?:–(\d+))?", trail)
    return sum(int(last or first) - int(first) + 1 for first, last in found)


def test_what_was_counted_is_named_and_is_as_many(drawn: list[Drawn]) -> None:
    """Not what the last of its steps did, which says nothing of a number."""
    for question in drawn:
        right = question.options[question.right].answer
        assert bool(question.trail) == (question.kind not in ("path", "read"))
        if question.trail:
            assert question.because.startswith(question.trail)
        if question.kind == "faults":
            assert right == len(re.findall(r"page \d+ \(", question.trail))
        elif question.kind in ("shared", "exclusive", "copied"):
            assert right == told(question.trail)
        elif question.kind in ("entries", "blocks"):
            marked, single = question.trail.split("; ")
            blocks = len(re.findall(r"\d+–\d+", marked))
            assert right == (blocks if question.kind == "blocks" else blocks + told(single))
        for option in question.options:
            assert not option.reason.startswith(COUNT_AGAIN) or option.reason == f"{COUNT_AGAIN}. {question.trail}"


def test_the_reason_of_another_kernel_is_no_rule_that_the_right_one_has_too(drawn: list[Drawn]) -> None:
    for question in drawn:
        kind = next(kind for kind in TOPICS[question.topic] if kind.name == question.kind)
        for option in question.options:
            if option.reason and option.kernels:
                other = next(who for who in kind.kernels if who.name == option.kernels[0])
                habit = option.reason.split(f". {other.name} ")[1]
                assert f"{question.kernel.name} {habit}" not in question.habit
                assert "Mainline" not in option.reason


def test_a_reason_names_the_matter_that_alone_makes_the_difference() -> None:
    """Linux 6.1 faults so often for its single pages; it reuses as 6.8 does, and otherwise than RFC v2."""
    asked = bank("reuse")[:2]
    assert [question.kernel.name[:9] for question in asked] == ["Linux 6.8", "RFC v2 (a"]
    for question in asked:
        (reason,) = [option.reason for option in question.options if option.kernels[:1] == ("Linux 6.1",)]
        assert reason == "So it is under Linux 6.1. Linux 6.1 knows single pages and 2 MiB only."


def test_kernels_sizes_and_starts_vary(drawn: list[Drawn]) -> None:
    assert len({question.kernel.name for question in drawn}) >= 4
    assert len({question.program.orders for question in drawn}) >= 4
    assert len({question.program.skew for question in drawn}) >= 5
    assert len({question.program.pages for question in drawn}) >= 10
    assert all(question.difficulty in LEVELS for question in drawn)


def test_the_levels_are_balanced_in_every_topic(drawn: list[Drawn]) -> None:
    """Some answers have no easy question, others no hard one: so not quite a third each."""
    levels = Counter(question.difficulty for question in drawn)
    assert set(levels) == set(LEVELS)
    assert min(levels.values()) >= COUNT / 5
    assert max(levels.values()) <= COUNT / 2
    kinds = {kind.name: kind for kind in TOPICS[drawn[0].topic]}
    assert all(question.difficulty == kinds[question.kind].level(question.points) for question in drawn)


def test_the_second_model_is_one_that_can_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES["Linux 6.18"], "rule", "never")
    differ = 0
    for question in bank("reuse")[:8]:
        program, kernel = question.program, "Linux 6.18"
        facts = program.pages, program.orders, program.skew, program.steps
        said = [option.answer for option in question.options if kernel in option.kernels]
        differ += said != [plain_answer("reuse", question.kind, kernel, *facts)]
    assert differ


def test_a_seed_names_the_same_questions_and_another_seed_others() -> None:
    first = [question.identity for question in questions("zero", 1, 3)]
    assert first == [question.identity for question in questions("zero", 1, 3)]
    assert first[:2] == [question.identity for question in questions("zero", 1, 2)]
    assert not set(first) & {question.identity for question in questions("zero", 2, 3)}
    assert bank("touch")[:3] == questions("touch", SEED, 3)


def test_prove_prints_the_run_and_what_every_other_kernel_says() -> None:
    question = bank("reuse")[0]
    proof = question.prove()
    assert proof.count("\n1. ") == 1
    assert f"{len(question.program.steps)}. " in proof
    assert question.options[question.right].words in proof
    ran = run(question.program, question.kernel.policy)
    assert len(ran.faults) == len(question.program.steps)
    for option in question.options:
        for name in option.kernels:
            assert name in proof


@pytest.mark.sweep(14)
@pytest.mark.parametrize(
    "module",
    [
        start_here, first_touch, zero_page_copy, fork_and_share, cow_copy_order, exclusive_reuse, exclusive_pitfalls,
        postfork_reuse_scan, tlb_reach, cost_and_memory, rfc_to_mainline, your_kernel, playground, laboratory,
    ],
)  # fmt: skip
def test_each_notebook_can_ask_another(module: Any) -> None:
    asked = module.more(2)
    assert asked is module.more(2)
    assert module.more(3).program != asked.program
    assert asked.name == "q.more(2)"
    assert asked.check(asked.answer).head.startswith("Right")
    wrong = next(letter for letter in LETTERS if letter != asked.answer)
    note = asked.check(wrong)
    assert note.kind == "wrong"
    assert len(note.lines[0]) > 20
    assert all(line in repr(asked) for line in asked.program.splitlines())
    with pytest.raises(ValueError, match="whole number"):
        module.more("2")


# --- papers -----------------------------------------------------------------------------------------------------------

SECRET = b"a secret that is long enough"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["homework", "--seed", str(SEED), *arguments]) == 0
    return capsys.readouterr().out


def test_the_topics_that_the_command_names_are_those_there_are() -> None:
    command = next(command for command in COMMANDS if command.name == "homework")
    help = next(how["help"] for names, how in command.options if "--topic" in names)
    assert re.findall(r"\w+", help.replace(" or ", " ")) == list(TOPICS)


@pytest.mark.usefixtures("of_the_bank")
def test_markdown_has_answers_only_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    asked = said(capsys, "--topic", "touch", "--questions", "3")
    assert asked.count("## Question") == 3
    made = papers.paper("touch", SEED, 3)
    for question in made.drawn:
        assert question.because not in asked
        for option in question.options:
            assert not option.reason or option.reason not in asked
    told = said(capsys, "--topic", "touch", "--questions", "3", "--answers")
    assert [question.letter for question in made.drawn] == re.findall(r"^\*\*(\w)\.\*\*", told, re.M)


@pytest.mark.usefixtures("of_the_bank")
def test_json_is_what_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(said(capsys, "--topic", "reuse", "--questions", "2", "--format", "json"))
    assert set(made) == {"format", "topic", "seed", "count", "questions"}
    assert "answer" not in json.dumps(made)
    told = json.loads(said(capsys, "--topic", "reuse", "--questions", "2", "--format", "json", "--answers"))
    documented = (Path(__file__).parent.parent / "teach" / "README.md").read_text(encoding="utf-8")
    for key in {*told, *told["questions"][0], "student", "ticket"}:
        assert f"`{key}`" in documented
    for question in told["questions"]:
        assert set(question["wrong"]) == set(question["options"]) - {question["answer"]}


def gift_questions(text: str) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """GIFT as Moodle reads it: title, text, and (mark, answer, feedback) of each option; raises where it is not."""
    found = []
    lines = [line for line in text.splitlines() if not line.startswith("//")]
    for block in filter(str.strip, "\n".join(lines).split("\n\n")):
        marks = re.split(r"(?<!\\)((?:\\\\)*)(::|[{}=~#])", block)
        tokens, held = [], ""
        for at, part in enumerate(marks):
            if at % 3 == 2:
                tokens += [held, part]
                held = ""
            else:
                held += part
        tokens.append(held)
        assert tokens[1] == tokens[3] == "::", block
        assert tokens[5] == "{", block
        assert tokens[-2] == "}", block
        title, asked, options = tokens[2], tokens[4], []
        for at in range(7, len(tokens) - 2, 4):
            assert tokens[at] in "=~", block
            assert tokens[at + 2] == "#", block
            options.append((tokens[at], tokens[at + 1], tokens[at + 3].strip()))
        found.append((title, asked, options))
    return found


def unescaped(text: str) -> str:
    return re.sub(r"\\([\\~=#{}:])", r"\1", text)


@pytest.mark.usefixtures("of_the_bank")
def test_gift_reads_back_as_what_was_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--topic", "reuse", "--questions", "8", "--format", "gift")
    read = gift_questions(text)
    made = papers.paper("reuse", SEED, 8).drawn
    assert len(read) == 8
    for (_, asked, options), question in zip(read, made, strict=True):
        assert question.prompt in unescaped(asked)
        assert [mark == "=" for mark, _, _ in options] == [letter == question.letter for letter in LETTERS]
        assert [unescaped(words) for _, words, _ in options] == [option.words for option in question.options]


def test_gift_marks_in_a_name_are_no_marks() -> None:
    odd = "a::b{c}=d~e#f\\g"
    made = papers.paper("touch", 1, 1, odd.replace("\\", "").replace("::", ""), SECRET)
    assert gift_questions(papers.gift(made, False))
    assert unescaped(papers._gift(odd)) == odd
    assert re.sub(r"\\[\\~=#{}:]", "", papers._gift(odd)) == "abcdefg"


def test_a_notebook_is_valid_runs_without_anonfolio_and_does_not_have_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nbformat = pytest.importorskip("nbformat")
    made = papers.paper("touch", 1, 3, "ada", SECRET)
    text = papers.notebook(made, False)
    nbformat.validate(nbformat.reads(text, as_version=4))
    for question in made.drawn:
        assert question.habit not in text
        assert not any(option.reason and option.reason in text for option in question.options)
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert not any("anonfolio" in line for cell in cells for line in cell.splitlines() if "import" in line)
    run_cells(cells)
    stored = json.loads((tmp_path / "anonfolio-answers.json").read_text())
    assert stored["answers"] == {}
    run_cells([cell.replace("answers[2] = ...", 'answers[2] = "b"') for cell in cells])
    stored = json.loads((tmp_path / "anonfolio-answers.json").read_text())
    assert stored["answers"]["homework.2"]["given"] == ["b"]
    assert stored["paper"]["ticket"] == made.ticket
    assert "1 of 3 answered" in capsys.readouterr().out


def run_cells(cells: list[str]) -> None:
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell, names)


def test_students_have_questions_of_their_own_that_hang_on_the_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names").write_text("# a class\nada, 1\nGrace Hopper\n\n", encoding="utf-8")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "other").write_bytes(SECRET + b"!")
    common = ["--topic", "touch", "--questions", "2", "--students", str(tmp_path / "names")]
    for secret, folder in (("secret", "one"), ("secret", "two"), ("other", "three")):
        told = said(capsys, *common, "--secret", str(tmp_path / secret), "-o", str(tmp_path / folder))
        assert told.startswith("2 papers")
    read = {
        folder: [(tmp_path / folder / f"{name}.md").read_text() for name in ("ada", "Grace Hopper")]
        for folder in ("one", "two", "three")
    }
    assert read["one"] == read["two"]
    ada, grace = (text.split("\n", 1)[1] for text in read["one"])
    assert ada != grace
    assert ada != read["three"][0].split("\n", 1)[1]


def test_a_ticket_is_the_hmac_that_is_documented() -> None:
    words = json.dumps(["ticket", "touch", 1, 2, "ada"]).encode()
    expected = hmac.new(SECRET, words, hashlib.sha256).hexdigest()[:32]
    assert papers.paper("touch", 1, 2, "ada", SECRET).ticket == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--topic", "tuoch"], "there is no topic 'tuoch'; there are touch"),
        (["--topic", "touch", "--questions", "301"], "1 to 300"),
        (["--topic", "touch", "--students", "{names}"], "go together"),
        (["--topic", "touch", "--students", "{names}", "--secret", "{secret}"], "needs -o FOLDER"),
        (["--topic", "touch", "--students", "{names}", "--secret", "{names}", "-o", "x"], "at least 16 characters"),
        (["--topic", "touch", "--students", "{bad}", "--secret", "{secret}", "-o", "x"], "no name for a file"),
        (["--topic", "touch", "--students", "{twice}", "--secret", "{secret}", "-o", "x"], "there twice"),
        (["--topic", "touch", "--students", "{missing}", "--secret", "{secret}", "-o", "x"], "is no file"),
    ],
)
def test_what_makes_no_sense_gets_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"names": "ada", "secret": "s" * 20, "bad": "../ada", "twice": "ada\nAda"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: str(tmp_path / name) for name in [*files, "missing"]}
    assert main(["homework", *(argument.format(**paths) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("names", "topic"), [("ada", "nope"), ("\U0001f600" * 64, "touch"), ("\u00e9\ne\u0301", "touch")]
)
def test_papers_that_cannot_be_made_leave_no_folder(tmp_path: Path, names: str, topic: str) -> None:
    (tmp_path / "names").write_text(names, encoding="utf-8")
    (tmp_path / "secret").write_text("a secret that is long enough")
    asked = ["--topic", topic, "--questions", "1", "--students", str(tmp_path / "names")]
    assert main(["homework", *asked, "--secret", str(tmp_path / "secret"), "-o", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
