"""What the kit of a teacher is generated from: figures and slides of the key steps, solutions, students' notebooks.

`python -m anonfolio.teach.kit slides|solutions|student FOLDER` writes them (``make teach``, ``make student``).
Solutions and students' notebooks are made from notebooks/ of a clone.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..draw.drawing import xml
from ..kernel.policy import Policy, policy_named
from ..lesson.quiz import Asked, Cases, Function, Question
from ..program.scenario import Scenario

NOTEBOOKS = Path("notebooks")


class KeyStep(NamedTuple):
    """A moment worth a slide: what is asked before it, what is seen after it, and in which notebook it is taught."""

    scenario: str
    step: int
    policy: str
    title: str
    ask: str
    see: str
    notebook: str


KEY_STEPS = (
    KeyStep(
        "first-write", 1, "linux-6.15", "One write, sixteen pages",
        "One byte of a fresh mapping is written. How many pages have memory afterwards?",
        "The largest enabled size whose aligned block lies in the mapping and is empty.", "00, 01",
    ),
    KeyStep(
        "mapping-ends-inside-block", 2, "linux-6.15", "A mapping that ends inside a block",
        "The mapping ends inside the block of 16. What does a write near its end get?",
        "The next smaller size that fits: a block never leaves its mapping.", "01",
    ),
    KeyStep(
        "read-then-write", 1, "linux-6.15", "A read leaves something behind",
        "Does a read cost memory?", "The shared zero page is mapped, read-only, at one page.", "02",
    ),
    KeyStep(
        "read-then-write", 2, "linux-6.15", "The write after a read",
        "What does a write on the zero page get today?", "One page. The block of a first write is lost.", "02",
    ),
    KeyStep(
        "read-then-write", 2, "rfc-v2", "The same write as RFC v2 proposed it (never merged)",
        "And if the kernel acted as if there had been no read?", "A block, as for a first touch.", "02, 10",
    ),
    KeyStep(
        "child-writes-and-exits", 17, "linux-6.15", "Fork shares, and takes the right to write from both",
        "What does fork copy?", "No page. Every entry is read-only now, and no page is exclusive.", "03",
    ),
    KeyStep(
        "child-writes-and-exits", 18, "linux-6.15", "The child writes",
        "How much is copied?", "One page, in every release from 6.1 to 7.3.", "04",
    ),
    KeyStep(
        "child-writes-and-exits", 18, "rfc-v2-fixed", "The same write under RFC v2, repaired (never merged)",
        "How much may be copied at once?", "A block, if all of it may be shared.", "04, 06",
    ),
    KeyStep(
        "child-writes-and-exits", 20, "linux-6.9", "The child is gone: Linux 6.12",
        "The child has exited, its parent writes: no fault, copy or reuse? On 6.12?",
        "A copy. A page of a large folio that lost its mark is never reused there.", "05, 07",
    ),
    KeyStep(
        "child-writes-and-exits", 20, "linux-6.15", "The child is gone: Linux 6.18",
        "And on 6.18?", "Reuse, of one page: every mapping and every reference is the parent's.", "05, 07",
    ),
    KeyStep(
        "third-process-alone", 21, "linux-6.15", "The third process",
        "Two others are gone. Does the kernel see that the third is alone?",
        "No: its slots named the two others, and the bit stays. It copies.", "07",
    ),
    KeyStep(
        "fork-while-pinned", 18, "linux-6.15", "Fork meets a pinned folio",
        "A device holds one page of the folio. What becomes of the folio at fork?",
        "Its exclusive pages are copied for the child at once; the parent keeps what the device writes into.", "03, 06",
    ),
)  # fmt: skip
"""In the order in which a lesson shows them."""


# --- figures ----------------------------------------------------------------------------------------------------------


def figure(name: str, step: int, policy: str | Policy = "linux-6.15") -> str:
    """The picture after a step of a scenario, as SVG: from 1, 0 for the start, -1 for the last.

    Raises
    ------
    ValueError
        There is no such scenario, step or policy.
    """
    scenario = Scenario.load(name)
    if not -1 <= step <= len(scenario.steps):
        raise ValueError(f"{name} has steps 1 to {len(scenario.steps)} (0 is the start, -1 the last), not {step}")
    timeline = scenario.run(policy_named(policy) if isinstance(policy, str) else policy)
    return timeline.show(None if step == 0 else step - 1 if step > 0 else -1).svg()


def slides(folder: Path) -> int:
    """figures/*.svg and slides.html, which needs no network; returns how many slides."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, key in enumerate(KEY_STEPS, 1):
        file = f"{number:02}-{key.scenario}-{key.policy}.svg"
        (figures / file).write_text(figure(key.scenario, key.step, key.policy), encoding="utf-8", newline="\n")
        parts.append(
            f"<section><h2>{xml(key.title)}</h2><p>{xml(key.ask)}</p></section>\n"
            f'<section><h2>{xml(key.title)}</h2><img src="figures/{file}" alt="{xml(key.see)}">'
            f"<p>{xml(key.see)}</p><footer>{xml(key.policy)} · notebook {key.notebook}</footer></section>"
        )
    page = _PAGE.replace("SLIDES", "\n".join(parts))
    (folder / "slides.html").write_text(page, encoding="utf-8", newline="\n")
    return 2 * len(parts)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>anonfolio: the key steps</title>
<style>
html{scroll-snap-type:y mandatory}body{margin:0;font:28px/1.4 system-ui,sans-serif}
section{box-sizing:border-box;height:100vh;padding:4vh 5vw;scroll-snap-align:start}
section{display:flex;flex-direction:column;gap:2vh}
img{flex:1;min-height:0;object-fit:contain;background:#fff}h2,p{margin:0}footer{font-size:16px;opacity:.7}
@media print{section{break-after:page}}
</style>
SLIDES
</html>
"""


# --- solutions --------------------------------------------------------------------------------------------------------


def asked_in(notebook: Path) -> list[Asked]:
    """The questions of a notebook, in its order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    found = re.search(r"from anonfolio\.exercises import (\w+) as q", code)
    if not found:
        return []
    bank = importlib.import_module(f"anonfolio.exercises.{found[1]}")
    names = dict.fromkeys(re.findall(r"\bq\.(\w+)\.(?:predict|check)\(", code))
    return [getattr(bank, name) for name in names]


def solution(question: Asked) -> str:
    """A question, its solution, and the mistakes that are known, as Markdown."""
    solve: Any = question.solution  # type: ignore[attr-defined]
    mistakes = "\n".join(f"- {line}" for line in _mistakes(question))
    told = repr(solve())
    return f"### `{question.name}`\n\n{question.prompt}\n\n```\n{told}\n```\n" + (
        f"\nWhat goes wrong:\n\n{mistakes}\n" if mistakes else ""
    )


def _mistakes(question: Asked) -> Iterator[str]:
    if isinstance(question, Question):
        for mistake in question.mistakes:
            yield f"{question._say(question._read(mistake.means))}: {mistake.says}"
    elif isinstance(question, Cases):
        for letter, case in question.cases.items():
            yield from (f"{letter}, {answer}: {says}" for answer, says in case.wrong.items())
    elif isinstance(question, Function):
        yield from question.wrong


def solutions(folder: Path, notebooks: Path = NOTEBOOKS) -> int:
    """One Markdown file a notebook; returns how many questions they solve."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for path in _books(notebooks):
        asked = asked_in(path)
        text = f"# {path.stem}: solutions and common mistakes\n\n" + "\n".join(map(solution, asked))
        (folder / f"{path.stem}.md").write_text(text, encoding="utf-8", newline="\n")
        total += len(asked)
    return total


# --- students' notebooks ----------------------------------------------------------------------------------------------


def without_outputs(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook as nobody has run it: no outputs, no numbers, no widgets' state."""
    plain = copy.deepcopy(notebook)
    plain["metadata"].pop("widgets", None)
    for cell in plain["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            cell["metadata"].get("jupyter", {}).pop("outputs_hidden", None)
    return plain


def student(folder: Path, notebooks: Path = NOTEBOOKS) -> int:
    """All notebooks without outputs into a folder; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    books = _books(notebooks)
    for path in books:
        plain = without_outputs(json.loads(path.read_text(encoding="utf-8")))
        text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
        (folder / path.name).write_text(text, encoding="utf-8", newline="\n")
    return len(books)


def _books(notebooks: Path) -> list[Path]:
    books = sorted(notebooks.glob("[0-9]*.ipynb"))
    if not books:
        raise ValueError(f"{notebooks} holds no notebook; run this in a clone")
    return books


MADE = {"slides": slides, "solutions": solutions, "student": student}
"""What can be written; each returns how many it wrote."""


def main(arguments: list[str]) -> int:
    """Write what is named into a folder."""
    if len(arguments) != 2 or arguments[0] not in MADE:
        print(f"python -m anonfolio.teach.kit {'|'.join(MADE)} FOLDER", file=sys.stderr)
        return 2
    what, folder = arguments
    try:
        number = MADE[what](Path(folder))
    except (ValueError, OSError) as error:
        print(f"anonfolio: {error}", file=sys.stderr)
        return 2
    print(f"{number} in {folder}: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
