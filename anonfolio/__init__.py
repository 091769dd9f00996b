"""anonfolio: how Linux backs anonymous memory with large folios, as a small model checked against real kernels."""

__version__ = "0.1.0"

from . import interrupted  # noqa: F401, I001  (before all that takes time)
from . import draw, search, witness  # noqa: F401  (what shows, compares and recalls: filled in here)
from .kernel.buddy import OutOfMemory
from .kernel.policy import (
    LINUX_6_3,
    LINUX_6_8,
    LINUX_6_9,
    LINUX_6_15,
    POLICIES,
    RFC_V2,
    RFC_V2_FIXED,
    Policy,
    policy_for_kernel,
    policy_named,
)
from .kernel.record import Check, Counters, Fault
from .machine.invariants import INVARIANTS, Violation, check
from .machine.machine import Machine, Outcome, Process, SegmentationFault
from .machine.snapshot import Snapshot
from .program.scenario import Scenario, ScenarioError, Timeline, scenario_names
from .program.witnesses import Difference
from .report.laboratory import Report, lab
from .witness.comparing import Recorded, compare
from .witness.recording import Recording, RecordingError, read_recording, replay, write_recording

__all__ = [
    "INVARIANTS",
    "LINUX_6_3",
    "LINUX_6_8",
    "LINUX_6_9",
    "LINUX_6_15",
    "POLICIES",
    "RFC_V2",
    "RFC_V2_FIXED",
    "Check",
    "Counters",
    "Difference",
    "Fault",
    "Machine",
    "OutOfMemory",
    "Outcome",
    "Policy",
    "Process",
    "Recorded",
    "Recording",
    "RecordingError",
    "Report",
    "Scenario",
    "ScenarioError",
    "SegmentationFault",
    "Snapshot",
    "Timeline",
    "Violation",
    "check",
    "compare",
    "lab",
    "policy_for_kernel",
    "policy_named",
    "read_recording",
    "replay",
    "scenario_names",
    "write_recording",
]
