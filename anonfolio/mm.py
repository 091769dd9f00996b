"""The name that notebooks use for `anonfolio.kernel.mm`."""

from .kernel.mm import *  # noqa: F403
