"""What a fault needs to know of the machine it happens on, and nothing of who runs there."""

from __future__ import annotations

from types import MappingProxyType

from .frames import Memory
from .mm import Mm
from .policy import Policy
from .record import Counters
from .rules import Where
from .sizes import PMD_ORDER
from .vma import VM_HUGEPAGE, VM_NOHUGEPAGE, Vma

ADVISED = {0: "", VM_HUGEPAGE: "hugepage", VM_NOHUGEPAGE: "nohugepage"}
"""What a mapping's flags say of large folios."""


class System:
    """A kernel on its memory: the policy, the knobs, and what was counted so far.

    Attributes
    ----------
    policy : Policy
        Which kernel.
    knobs : dict of int to str
        Per order that this kernel has a ``hugepages-*kB/enabled`` for, what it says: always, madvise, inherit, never.
    thp : {"always", "madvise", "never"}
        The global knob.
    use_zero_page : bool
        Whether a read may map the huge zero page.
    memory : Memory
        Frames and folios.
    counters : Counters
        What was done so far.
    """

    policy: Policy
    knobs: dict[int, str]
    thp: str
    use_zero_page: bool
    memory: Memory
    counters: Counters
    _orders: dict[tuple[int, int, str], tuple[int, ...]]

    def orders_of(self, mm: Mm, vma: Vma) -> tuple[int, ...]:
        """Orders above 0 that a first touch may use in this mapping, largest first (`thp_vma_allowable_orders`, 6.8+).

        Decided once for all mappings that are alike, by `Policy.allowed_orders`.
        """
        key = (vma.flags & (VM_HUGEPAGE | VM_NOHUGEPAGE), vma.end - vma.start, mm.thp_disabled)
        orders = self._orders.get(key)
        if orders is None:
            advice, pages, prctl = key
            knobs = MappingProxyType(self.knobs)
            where = Where(ADVISED[advice], pages, knobs, self.thp, prctl, self.policy.fixed_orders)
            rule = self.policy.rules.allowed_orders
            orders = self._orders[key] = tuple(sorted(rule(where), reverse=True))
        return orders

    @property
    def may_map_huge(self) -> bool:
        """Whether any mapping may get 2 MiB at once, as far as one can say without looking at mappings."""
        return self.policy.allowed_orders != "knobs" or self.knobs.get(PMD_ORDER, "never") != "never"
