"""Every state that a small mapping can be in, computed beforehand: the toy on the site's first page asks no kernel.

    python tools/toy.py [--policy NAME …] [--output FILE]

Four pages, backed by folios of up to four, and at most two processes that write, read, fork and exit: under each policy
that is a finite graph. Walked breadth first, with the library itself, it is written as one file that a page unpacks
(tools/site/toy.js). `tests/test_toy.py` walks at random through file and model side by side.

A state is known by all that its next faults can ask: entries, and of each folio its order, mapcounts, exclusive pages,
references and owners; bytes and names of frames are not part of it. Of a state and its mirror image one is stored, so
each step says whether it leads to the stored one or to its mirror image.

The file (JSON) has per policy: ``name``, ``title``, ``sentences`` (with ``{who}``, ``{other}`` and ``{page}`` open),
``renames`` (for each folio of a state after a step, which one it was before, or -1 for a new one), the number of
``states``, and ``table``: arrays one after the other, deflated together, in base64; all but the last transposed.

====================  =================  =============================================================================
``cells``             states × 2 × 4     per page: 0 nothing, 1 zero page, else 128 + 16 folio + 4 place + 2 w + excl.
``folios``            states × 8         per folio: 0 none, else 1 + order + 16 when it counts as maybe shared
``targets``           states × 2 × 18    the state after each step, less the state's own number, modulo 2^16: the low
                                         bytes of all steps, then the high ones
``says``              states × 18        the sentence's number, plus 128 when the target is the mirror image
``renamed``           states × 18, u16   the number of what became of the folios (``renames``); state after state
====================  =================  =============================================================================

Steps are write 0…3, read 0…3, and fork or exit, of the first process, then of the second; where there is one process
its exit is no step, and where there are two none forks.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from anonfolio.draw.words import fault_sentence
from anonfolio.kernel.pagetable import PTE_PRESENT, PTE_SPECIAL, PTE_WRITE
from anonfolio.kernel.policy import Policy, policy_named
from anonfolio.kernel.record import Fault
from anonfolio.machine.machine import Machine, Process
from anonfolio.machine.page import Page
from anonfolio.program.ops import do_step
from anonfolio.program.scenario import Scenario

ROOT = Path(__file__).resolve().parent.parent

FORMAT = "anonfolio-toy-1"
FILE = ROOT / "tools" / "site" / "toy.json"
POLICIES = {
    "linux-6.9": "Linux 6.9 to 6.14",
    "linux-6.15": "Linux 6.15 to 6.18",
    "rfc-v2": "RFC v2, April 2023, never merged",
}
PAGES, FOLIOS = 4, 8
STEPS = (*(("write", page) for page in range(PAGES)), *(("read", page) for page in range(PAGES)), ("fork or exit", 0))
FRAMES = 128
MIRROR, SHARED, MAPPED = 128, 16, 128

Steps = npt.NDArray[np.uint16]


@dataclass
class Graph:
    """The states met so far, numbered as they were met."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    sentences: dict[str, int] = field(default_factory=dict)
    cells: list[list[int]] = field(default_factory=list)
    folios: list[list[int]] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    says: list[list[int]] = field(default_factory=list)
    renames: dict[tuple[int, ...], int] = field(default_factory=dict)
    renamed: list[list[int]] = field(default_factory=list)

    def meet(self, machine: Machine) -> tuple[int, bool, bool]:
        """A state's number, whether its mirror image is what is stored, and whether it is new."""
        names = [in_order(machine, order) for order in orders(machine)]
        mirrored = names[-1] < names[0]
        name = min(names)
        new = name not in self.numbers
        number = self.numbers.setdefault(name, len(self.numbers))
        if new:
            cells, folios = seen(machine, stored_order(machine, mirrored))
            self.cells.append(cells)
            self.folios.append(folios)
        return number, mirrored, new

    def sentence(self, words: str) -> int:
        return self.sentences.setdefault(words, len(self.sentences))

    def rename(self, came: tuple[int, ...]) -> int:
        return self.renames.setdefault(came, len(self.renames))


def orders(machine: Machine) -> list[list[Process]]:
    """As its processes came, and the other way round."""
    live = machine.live()
    return [live, live[::-1]] if len(live) > 1 else [live]


def start(policy: Policy) -> Machine:
    """One process and its untouched pages."""
    return Scenario(PAGES, (), (2,)).end(policy, frames=FRAMES)


def explore(policy: Policy) -> Graph:
    """Walk through all states; the machines of one level are kept, no more."""
    graph = Graph()
    machine = start(policy)
    graph.meet(machine)
    level = [(machine, False)]
    while level:
        after: list[tuple[Machine, bool]] = []
        for machine, mirrored in level:
            rows = [
                _row(graph, machine, mirrored, process, what, page, after)
                for process in stored_order(machine, mirrored)
                for what, page in STEPS
            ]
            rows += [(0, graph.sentence(""), graph.rename(()))] * (2 * len(STEPS) - len(rows))
            for column, into in zip(zip(*rows, strict=True), (graph.targets, graph.says, graph.renamed), strict=True):
                into.append(list(column))
        level = after
    return graph


def _row(
    graph: Graph, machine: Machine, mirrored: bool, process: Process, what: str, page: int,
    after: list[tuple[Machine, bool]],
) -> tuple[int, int, int]:  # fmt: skip
    """One step from a state: the target, what is said, what became of the folios."""
    then, words = taken(machine, process.number, what, page)
    before = list(folios_met(machine, stored_order(machine, mirrored)))
    if then is machine:
        return 0, graph.sentence(words), graph.rename(tuple(range(len(before))))
    number, flipped, new = graph.meet(then)
    if new:
        after.append((then, flipped))
    # Processes keep their places from two to two; one process has no mirror image.
    swapped = flipped != (mirrored and len(then.live()) > 1 and len(machine.live()) > 1)
    came = tuple(
        before.index(folio) if folio in before else -1 for folio in folios_met(then, stored_order(then, flipped))
    )
    return (number - len(graph.targets)) % (1 << 16), graph.sentence(words) + MIRROR * swapped, graph.rename(came)


def stored_order(machine: Machine, mirrored: bool) -> list[Process]:
    """The processes in the order of the state that is stored."""
    return orders(machine)[-1] if mirrored else machine.live()


def folios_met(machine: Machine, processes: list[Process]) -> dict[int, int]:
    """The folios that are mapped, numbered as they are met."""
    met: dict[int, int] = {}
    for process in processes:
        for page in range(PAGES):
            if (folio := process.page(page).folio) is not None:
                met.setdefault(folio, len(met))
    return met


def taken(machine: Machine, number: int, what: str, page: int) -> tuple[Machine, str]:
    """The machine after a step, the same one where nothing changes, and the step's sentence."""
    others = [process.number for process in machine.live() if process.number != number]
    if what == "fork or exit":
        then = machine.copy()
        do_step(then, ("exit" if others else "fork", number))
        return then, "{who} exits." if others else "{who} forks: all that it maps is shared, and read-only for both."
    bits = int(machine.process(number).mm.pte[page])
    if bits & (PTE_WRITE if what == "write" else PTE_PRESENT):
        return machine, template([], number, others, what, page)
    then = machine.copy()
    do_step(then, (what, number, page, 1) if what == "write" else (what, number, page))
    return then, template(then.faults, number, others, what, page)


def template(faults: list[Fault], number: int, others: list[int], what: str, page: int) -> str:
    """What the step did, in a sentence that names neither this process nor this page."""
    words = (
        fault_sentence(faults) or f"Process {number} {what}s page {page}: its entry allows it, so there is no fault."
    )
    words = words.replace(f"Process {number} ", "{who} ").replace(f"page {page}:", "page {page}:")
    for other in others:
        words = words.replace(f"process {other}", "{other}")
    return words


def in_order(machine: Machine, processes: list[Process]) -> bytes:
    """A state's name, its processes and folios numbered as they are met in this order."""
    memory, flat = machine.memory, [len(processes)]
    met: dict[int, int] = {}
    owners = {process.mm.id: at + 1 for at, process in enumerate(processes)}
    for process in processes:
        for page in range(PAGES):
            bits, pfn = int(process.mm.pte[page]), int(process.mm.pfn[page])
            folio = int(memory.folio_of[pfn]) if bits & PTE_PRESENT else -1
            place = pfn - int(memory.head[folio]) if folio >= 0 else 0
            flat += (
                bits & (PTE_PRESENT | PTE_WRITE | PTE_SPECIAL),
                met.setdefault(folio, len(met)) if folio >= 0 else 99,
                place,
            )
    for folio in met:
        head, order = int(memory.head[folio]), int(memory.order[folio])
        frames = slice(head, head + (1 << order))
        slots = sorted(
            zip(
                (owners.get(mm, 0) for mm in memory.mm_id[folio].tolist()),
                memory.mm_id_mapcount[folio].tolist(),
                strict=True,
            )
        )
        flat += (order, int(memory.refcount[folio]), bool(memory.maybe_mapped_shared[folio]), *np.ravel(slots).tolist())
        flat += (*memory.mapcount[frames].tolist(), *memory.anon_exclusive[frames].tolist())
    return np.array(flat, np.int32).tobytes()


def seen(machine: Machine, processes: list[Process]) -> tuple[list[int], list[int]]:
    """Cells and folios as the page draws them, folios numbered as they are met."""
    met: dict[int, int] = {}
    cells = [cell(process.page(page), met) for process in processes for page in range(PAGES)]
    memory = machine.memory
    folios = [1 + int(memory.order[folio]) + SHARED * bool(memory.maybe_mapped_shared[folio]) for folio in met]
    return cells + [0] * (2 * PAGES - len(cells)), folios + [0] * (FOLIOS - len(folios))


def cell(page: Page, met: dict[int, int]) -> int:
    """One page of a process in a byte."""
    if page.folio is None:
        return int(page.present)
    folio = met.setdefault(page.folio, len(met))
    return MAPPED + 16 * folio + 4 * (page.frame - page.head) + 2 * page.writable + page.exclusive


def as_json(name: str) -> dict[str, Any]:
    """The graph of a policy, as it is stored."""
    policy = policy_named(name)
    graph = explore(policy)
    targets = np.array(graph.targets, "<u2")
    by_kind = (
        np.array(graph.cells, np.uint8), np.array(graph.folios, np.uint8), (targets & 0xFF).astype(np.uint8),
        (targets >> 8).astype(np.uint8), np.array(graph.says, np.uint8),
    )  # fmt: skip
    # Each kind of number by itself is better to deflate; what becomes of the folios is alike for a state's steps.
    arrays = (*(array.T for array in by_kind), np.array(graph.renamed, np.uint16).astype("<u2"))
    table = zlib.compress(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays), 9)
    return {
        "name": policy.name, "title": POLICIES.get(name, policy.name), "states": len(graph.cells),
        "sentences": list(graph.sentences), "renames": list(graph.renames), "table": base64.b64encode(table).decode(),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--policy", nargs="+", default=list(POLICIES))
    parser.add_argument("--output", type=Path, default=FILE)
    chosen = parser.parse_args(arguments)
    graphs = [as_json(name) for name in chosen.policy]
    chosen.output.write_text(json.dumps({"format": FORMAT, "policies": graphs}) + "\n", encoding="utf-8")
    for graph in graphs:
        print(f"{graph['name']}: {graph['states']} states, {len(graph['table']) >> 10} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
