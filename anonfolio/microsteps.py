"""The name that notebooks use for `anonfolio.hardware.microsteps`."""

from .hardware.microsteps import *  # noqa: F403
