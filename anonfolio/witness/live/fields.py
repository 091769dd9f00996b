"""The experiments of `fields`, done on the kernel of this machine (root, x86-64).

    python -m anonfolio.witness.live.fields [FILE]     do them, and store what was seen

Counters of the whole machine also count what other programs do, so each experiment is done several times: of every
counter and step the change nearest to none is kept. All else is of the first time.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ...program.scenario import Scenario
from ..comparing import Recorded
from ..fields import EXPERIMENTS, FRAME, LOOK_PAGES, PRESENT, Experiment, Fields, Look, Words, write_fields
from ..here import LiveError
from .kernel import LiveKernel, Remote, smaps
from .run import Frames, LiveRun, undisturbed
from .worker import PAGE, WINDOW_START

ROUNDS = 5
ATTEMPTS = 6
OF_THE_PROCESS = ("mapcount", "minflt", "held")
WINDOW_END = WINDOW_START + (1 << 30)


def live_fields(rounds: int = ROUNDS) -> Fields:
    """Do all experiments; LiveError says in one line what this machine lacks."""
    with LiveKernel() as kernel:
        done = {name: _several(kernel, *wanted, rounds) for name, wanted in EXPERIMENTS.items()}
        return Fields(kernel.version, True, done)


def _several(kernel: LiveKernel, scenario: Scenario, moments: tuple[int, ...], rounds: int) -> Experiment:
    kernel.enable(scenario.sizes, scenario.thp)
    runs = [undisturbed(kernel, lambda: _once(kernel, scenario, moments), ATTEMPTS) for _ in range(rounds)]
    steps = zip(*(run.recorded.steps for run in runs), strict=True)
    quiet = tuple({**step[0], "counted": _least([seen["counted"] for seen in step])} for step in steps)
    return replace(runs[0], recorded=replace(runs[0].recorded, steps=quiet))


def _least(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What belongs to the process as it stands; of each counter of the whole machine the change nearest to none."""
    own = {name: counts[0][name] for name in OF_THE_PROCESS if name in counts[0]}
    names = {name for count in counts for name in count} - set(OF_THE_PROCESS)
    least = {name: min((count.get(name, 0) for count in counts), key=abs) for name in sorted(names)}
    return own | {name: count for name, count in least.items() if count}


def _once(kernel: LiveKernel, scenario: Scenario, moments: tuple[int, ...]) -> Experiment:
    run = LiveRun(scenario, kernel)
    steps, looks, folios = [], {}, {}
    try:
        for done in range(len(scenario.steps) + 1):
            if done:
                steps.append(run.do(scenario.steps[done - 1]))
            if done in moments:
                looks[done] = {number: _look(kernel, remote, run.base) for number, remote in run.live.items()}
                folios[done] = _folios(kernel, looks[done])
    finally:
        run.close()
    return Experiment(Recorded(kernel.version, scenario, tuple(steps)), looks, folios)


def _look(kernel: LiveKernel, remote: Remote, base: int) -> Look:
    raw = os.pread(remote.pagemap, 8 * LOOK_PAGES, base // PAGE * 8)
    pagemap = np.frombuffer(raw, np.uint64)
    flags, counts = np.zeros_like(pagemap), np.zeros_like(pagemap)
    for at, word in enumerate(pagemap.tolist()):
        if word >> PRESENT & 1:
            flags[at] = kernel.frame_flags(word & FRAME, 1)[0]
            counts[at] = kernel.frame_mapcounts(word & FRAME, 1)[0]
    return Look(pagemap, flags, counts, _smaps(remote.pid))


def _smaps(pid: int) -> dict[str, int]:
    """The numbers of the mappings in the window, summed."""
    sums: Counter[str] = Counter()
    for row in smaps(pid):
        if WINDOW_START <= row.start < WINDOW_END:
            words = {name: value.removesuffix(" kB") for name, value in row.fields.items()}
            sums.update({name: int(word) for name, word in words.items() if word.isdecimal()})
    return dict(sums)


def _folios(kernel: LiveKernel, looks: Mapping[int, Look]) -> tuple[tuple[int, ...], ...]:
    """Per folio that somebody maps, in the order of pages, how often each of all its frames is mapped."""
    frames = Frames(kernel)
    found: dict[int, tuple[int, ...]] = {}
    for look in looks.values():
        for frame in _mapped_frames(look.pagemap):
            folio = frames.folio(frame)
            if folio:
                found.setdefault(folio[0], tuple(folio[1]))
    return tuple(found.values())


def _mapped_frames(pagemap: Words) -> list[int]:
    return [word & FRAME for word in pagemap.tolist() if word >> PRESENT & 1]


def main(arguments: list[str]) -> int:
    """Do the experiments, say on which kernel, and store them when a file is named."""
    try:
        found = live_fields()
    except LiveError as error:
        print(f"anonfolio: {error}", file=sys.stderr)
        return 2
    print(f"{len(found.experiments)} experiments, kernel {found.kernel}")
    if arguments:
        write_fields(arguments[0], found, build=os.uname().version, recorded=f"{datetime.now(UTC):%Y-%m-%d}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
