"""What a device or a pipe holds of a process's memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Pin:
    """Frames that a device, or a pipe, holds on to.

    Attributes
    ----------
    process, vpn : int
        Whose pages, and the first of them.
    frames : list of int
        The frames, one a page.
    writable : bool
        Whether the device may write (FOLL_WRITE).
    pinned : bool
        FOLL_PIN; False for a plain reference (FOLL_GET), which promises nothing about staying in step.
    expected : dict of int to int
        Pages whose entry must still map the pinned frame, because their owner has not unmapped them since.
    """

    process: int
    vpn: int
    frames: list[int]
    writable: bool
    pinned: bool = True
    expected: dict[int, int] = field(default_factory=dict)

    def forget(self, start: int, end: int) -> None:
        """The owner itself unmaps [start, end): the pin no longer promises anything there."""
        if self.expected:
            self.expected = {vpn: pfn for vpn, pfn in self.expected.items() if not start <= vpn < end}

    def copy(self) -> Self:
        """An independent copy."""
        return type(self)(self.process, self.vpn, self.frames.copy(), self.writable, self.pinned, self.expected.copy())
