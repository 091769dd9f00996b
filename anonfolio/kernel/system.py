"""What a fault needs to know of the machine it happens on, and nothing of who runs there."""

from __future__ import annotations

from .frames import Memory
from .policy import Policy
from .record import Counters


class System:
    """A kernel on its memory: the policy, the knobs, and what was counted so far.

    Attributes
    ----------
    policy : Policy
        Which kernel.
    knob_orders : frozenset of int
        Orders that are switched on in ``hugepages-*kB/enabled``, as far as this kernel has such a knob.
    thp : {"always", "madvise"}
        What those knobs are set to.
    use_zero_page : bool
        Whether a read may map the huge zero page.
    memory : Memory
        Frames and folios.
    counters : Counters
        What was done so far.
    """

    policy: Policy
    knob_orders: frozenset[int]
    thp: str
    use_zero_page: bool
    memory: Memory
    counters: Counters
