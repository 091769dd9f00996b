"""Where searches begin besides an empty machine: programs that lead where short ones do not come by themselves.

A rule may be wrong for what takes six steps to set up and four to break; all programs of ten steps are too many. From
here the last four are few.
"""

from __future__ import annotations

from ..kernel import given
from .ops import ScenarioError
from .scenario import Scenario, is_path, scenario_names

_STARTS = (
    Scenario(
        4, (("write", 0, 0, 1), ("fork", 0), ("exit", 1), ("madvise", 0, 0, 2, "wipeonfork"), ("gup", 0, 0),
            ("fork", 0)),
        (2,), name="child-maps-half",
        about="a folio half of which a child still maps; a short pin made the other half exclusive, and read-only",
    ),
    Scenario(
        4, (("write", 0, 0, 1), ("fork", 0), ("write", 0, 3, 1), ("ref", 1, 0, 0)),
        (2,), name="copied-and-referenced",
        about="a folio of which one page was copied away, and another is held by a plain reference of a child",
    ),
    Scenario(
        4, (("write", 0, 0, 1), ("fork", 0), ("exit", 1), ("pin_ro", 0, 0, 1, 0)),
        (2,), name="pinned-for-reading",
        about="a folio whose first page a device holds for reading, the others maybe shared as after any fork",
    ),
    Scenario(
        4, (("write", 0, 0, 1), ("munmap", 0, 0, 2), ("fork", 0), ("write", 0, 3, 1)),
        (2,), name="half-unmapped-one-copied",
        about="a folio split by a partial munmap; a child maps the rest, of which its parent copied one page away",
    ),
    Scenario(
        4, (("write", 0, 0, 1), ("fork", 0), ("fork", 0), ("exit", 1)),
        (2,), name="one-of-three-gone",
        about="a folio that three processes mapped, until the second exited: the third was never tracked",
    ),
)  # fmt: skip
STARTS = {start.name: start for start in _STARTS}
"""By name: what each holds is its `about`. Each is one that some wrong rule needs (tests/test_report.py)."""


def start_named(name: str) -> Scenario:
    """One of `STARTS`, a named scenario of the library, or a file; ScenarioError where it is none."""
    if name in STARTS:
        return STARTS[name]
    if not is_path(name) and name not in scenario_names():
        raise ScenarioError(
            f"there is no start {given.said(name)}; there are {', '.join(STARTS)}, or a scenario: its file, or its name"
            " (see: run list)"
        )
    return Scenario.load(name)
