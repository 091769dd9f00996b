"""What a system call returns when the kernel will not do it."""

from __future__ import annotations


class Refused(Exception):
    """The kernel says no. `errno` names the error; the partial effects of the call stay."""

    def __init__(self, errno: str, why: str) -> None:
        super().__init__(f"{errno}: {why}")
        self.errno = errno
        self.why = why
