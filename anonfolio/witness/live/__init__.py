"""The kernel of this machine as a witness. What asks it is not imported before somebody does."""

from ...program import witnesses
from ...program.scenario import Scenario
from ..comparing import Recorded
from ..here import need_linux


@witnesses.live_run.register
def live_run(scenario: Scenario) -> Recorded:
    """What the kernel of this machine does with a scenario; LiveError says what is missing."""
    need_linux()
    from .run import live_run

    return live_run(scenario)
