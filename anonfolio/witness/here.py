"""Whether the kernel of this machine can be asked at all, and what is raised where it cannot: known on every system."""

from __future__ import annotations

import sys


class LiveError(ValueError):
    """This machine, or this scenario, cannot be shown live: what is missing, and what to do, in one line."""


class NotLive(LiveError):
    """A scenario that no live kernel can run, or not this one; others can."""


class TooDisturbed(LiveError):
    """Something else on the machine got in the way, again and again."""


class Disturbed(Exception):
    """Something else on the machine got in the way; running the program again helps."""


def need_linux() -> None:
    """Raise LiveError where no kernel can be asked, before anything is imported that only Linux has."""
    if sys.platform != "linux":
        raise LiveError("a live run needs Linux on x86-64; recordings show it anywhere (anonfolio replay)")
