"""The name that notebooks use for `anonfolio.draw.tree`."""

from ..draw.tree import *  # noqa: F403
