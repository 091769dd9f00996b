"""The kernel of this machine as the witness of a selftest: its processes do the steps, /proc says what they hold."""

from __future__ import annotations

import errno

from ...program.ops import SEGV, TABLE, Step
from ..selftests import DONE, NOTHING, ZERO, Came, Mapped, Selftest, problems
from .kernel import LiveKernel, smaps
from .run import LiveRun, undisturbed
from .worker import PAGE


def problems_live(selftest: Selftest, kernel: LiveKernel) -> list[str]:
    """What is wrong with a case on this kernel, in a sentence each; `NotBacked` and `LiveError` as they come."""
    kernel.enable(selftest.scenario.sizes, selftest.scenario.thp)

    def attempt() -> list[str]:
        run = LiveRun(selftest.scenario, kernel)
        try:
            return problems(selftest, LiveWitness(run))
        finally:
            run.close()

    return undisturbed(kernel, attempt)


class LiveWitness:
    """Processes of a live run; see `anonfolio.witness.selftests.Witness`."""

    def __init__(self, run: LiveRun) -> None:
        self.run = run
        self._view = run.view()[0]

    def do(self, step: Step) -> Came:
        """Do one step, and look."""
        seen = self.run.do(step)
        self._view = seen["view"]
        if seen["ok"]:
            return Came(seen["counted"]["held"] if step[0] == "unref" else seen["value"], DONE)
        if TABLE[step[0]].access:
            return Came(None, SEGV)
        return Came(None, errno.errorcode.get(seen["counted"].get("errno", 0), "refused"))

    def mappings(self, process: int) -> list[Mapped]:
        """What /proc/PID/smaps shows of the arena."""
        base, pages = self.run.base, self.run.scenario.pages
        rows = [row for row in smaps(self.run.live[process].pid) if row.start < base + pages * PAGE and row.end > base]
        return [
            Mapped(
                max(row.start - base, 0) // PAGE, min((row.end - base) // PAGE, pages),
                frozenset(row.fields["VmFlags"].split()),
            )
            for row in rows
        ]  # fmt: skip

    def sizes(self, process: int) -> list[int]:
        """What pagemap and kpageflags showed after the last step."""
        cells = self._view[str(process)]
        return [NOTHING if cell == 0 else ZERO if isinstance(cell, str) else cell[2] for cell in cells]  # type: ignore[index]

    def huge(self, process: int) -> int:
        """AnonHugePages of the arena."""
        base, end = self.run.base, self.run.base + self.run.scenario.pages * PAGE
        rows = [row for row in smaps(self.run.live[process].pid) if row.start < end and row.end > base]
        return sum(int(row.fields["AnonHugePages"].split()[0]) for row in rows) // 2048
