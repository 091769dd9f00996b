"""The name that notebooks use for `anonfolio.witness.recording`."""

from .witness.recording import *  # noqa: F403
