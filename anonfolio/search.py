"""The name that notebooks use for `anonfolio.program.search`."""

from .program.search import *  # noqa: F403
