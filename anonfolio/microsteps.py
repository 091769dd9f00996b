"""The names that notebooks use for micro-steps: of `anonfolio.hardware` all that a race needs."""

from .hardware.interleavings import *  # noqa: F403
from .hardware.microsteps import *  # noqa: F403
from .hardware.orders import *  # noqa: F403
from .hardware.stores import *  # noqa: F403
