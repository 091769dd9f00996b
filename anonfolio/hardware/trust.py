"""How far a prediction from a trace holds: what the recorder missed, by three checks that need no run of the program.

1. Faults of the kernel's own count that no event told of (`Trace.untraced`). Pages that come without an event, as where
   the kernel takes them for somebody (get_user_pages) unseen, are missing from the accesses: the model then touches
   them later, or never.
2. The end of each process: mappings and anonymous pages by the kernel's own account, against those of a replay under
   single pages. What the recorder did not follow, or took for something else, shows here.
3. What was met and left out, by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .trace import LATE_ACCESSES, LATE_CALLS, Replay, Trace

UNTRACED_PART = 0.01
"""Up to this part of all faults may be untraced: as much as a prediction may be off."""
LOADERS_HANDFUL = 8
"""A process begins and ends in the kernel; a fault or two there may go uncounted on one side."""
VOIDING = frozenset({
    "userfaultfd", "hugetlb mmap", "faults in another process", "unsharing faults", "faults of other tasks",
})  # fmt: skip
"""What changes faults or pages in anonymous memory in a way that a replay does not know."""
NAMED = 4
"""So many names stand in a line."""
TAKING = frozenset({
    "open with O_DIRECT", "process_vm_readv", "process_vm_writev", "vmsplice", "io_uring_setup", "process_madvise",
})  # fmt: skip
"""Where the kernel may fault in pages of a buffer that no argument of the call names (get_user_pages)."""


@dataclass(frozen=True)
class Ending:
    """A process whose end differs: its number and name, and whether its mappings do; anonymous pages by both."""

    process: int
    name: str
    mappings_differ: bool
    kernel_pages: int
    model_pages: int

    def __str__(self) -> str:
        pages = self.kernel_pages != self.model_pages
        what = [
            "mappings" if self.mappings_differ else "",
            f"{self.kernel_pages:,} anonymous pages, by the model {self.model_pages:,}" if pages else "",
        ]
        return f"process {self.process} ({self.name}): {', '.join(filter(None, what))}"


@dataclass(frozen=True)
class Trust:
    """What the checks found.

    Attributes
    ----------
    kernel_faults, untraced : int
        The kernel's own count, and how many of it no event told of.
    processes, ended : int
        All processes of the trace, and those whose end was seen.
    differ : tuple of Ending
        Those whose end differs.
    left_out : dict of str to int
        What was met and is not part of the trace.
    became : tuple of str
        Of those that ran another program instead of exiting, so that nobody saw their end: which.
    """

    kernel_faults: int
    untraced: int
    processes: int
    ended: int
    differ: tuple[Ending, ...]
    left_out: dict[str, int]
    became: tuple[str, ...] = ()

    @property
    def untraced_part(self) -> float:
        """Untraced faults as a part of all."""
        return self.untraced / max(self.kernel_faults, 1)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why a prediction may be wrong, one line each; empty when nothing speaks against it."""
        found = []
        few = LOADERS_HANDFUL * self.processes
        late = self.left_out.get(LATE_ACCESSES, 0) + self.left_out.get(LATE_CALLS, 0)
        # What a full recording lacks is told as that.
        if not late and abs(self.untraced) > max(few, UNTRACED_PART * self.kernel_faults):
            taking = ", ".join(sorted(TAKING & set(self.left_out)))
            why = f" (the kernel takes pages for {taking})" if taking else ""
            missed = f"{self.untraced:,} of {self.kernel_faults:,} faults were not traced"
            found.append(f"{missed}{why}: the prediction is void")
        if self.differ:
            more = f", and {len(self.differ) - 1} more" if len(self.differ) > 1 else ""
            found.append(f"at the end the kernel has something else than the model: {self.differ[0]}{more}")
        if late:
            found.append(f"the recording was full before the end: {late:,} later accesses and calls are missing")
        voiding = sorted(VOIDING & set(self.left_out))
        if voiding:
            found.append(f"{', '.join(voiding)}: not modelled, the prediction is void")
        return tuple(found)

    def __bool__(self) -> bool:
        """Whether nothing speaks against a prediction."""
        return not self.doubts

    def __str__(self) -> str:
        maps = "equal" if not self.differ else f"differ in {len(self.differ)} of {self.ended}"
        unseen = "" if self.ended == self.processes else f" ({', '.join(self._ends())})"
        left = ", ".join(f"{name} ({times})" for name, times in self.left_out.items()) or "none"
        line = f"Trust: untraced {100 * self.untraced_part:.1f} %, final maps {maps}{unseen}, left out: {left}"
        return "\n".join([line, *(f"  {doubt}" for doubt in self.doubts)])

    def _ends(self) -> Iterator[str]:
        """How many of the processes could be checked, and which of the others ran another program."""
        yield f"{self.ended} of {self.processes} seen to exit"
        if self.became:
            names = [name for name, _ in Counter(self.became).most_common(NAMED + 1)]
            more = ", …" if len(names) > NAMED else ""
            yield f"{len(self.became)} ran another program: {', '.join(names[:NAMED])}{more}"


def trust(trace: Trace, single: Replay | None = None) -> Trust:
    """Check a trace. `single` is its replay under single pages, made when it is not given."""
    single = single or trace.single
    if single.orders:
        raise ValueError(f"the ends are compared under single pages, not under orders {single.orders}")
    named = list(enumerate(trace.processes))
    ends = [(number, about) for number, about in named if "mappings" in about and number in single.ends]
    differ = tuple(
        Ending(number, about.get("name", ""), mappings, about["anonymous_pages"], single.ends[number].anonymous_pages)
        for number, about in ends
        if (mappings := [tuple(each) for each in about["mappings"]] != list(single.ends[number].mappings))
        or about["anonymous_pages"] != single.ends[number].anonymous_pages
    )
    became = tuple(about["became"] for about in trace.processes if "became" in about)
    return Trust(
        trace.kernel_faults, trace.untraced, len(trace.processes), len(ends), differ, dict(trace.left_out), became
    )
