"""What CPU 0 does in a race, as data: a write that copies or a fork, each as the names of its steps in some order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..kernel.faults import COPY_ORDER
from .checks import as_tuple, whole

COPY_STEPS = {
    "allocate": "look at the entry, take a reference on the old folio (`do_wp_page`), allocate a new one",
    "copy": "copy the bytes",
    "recheck": "take the page-table lock; if the entries are not what the fault saw, give up (`pte_same`)",
    "clear": "clear the entries (first half of `ptep_clear_flush`)",
    "flush": "make every CPU that runs this process drop them from its TLB (second half of `ptep_clear_flush`)",
    "set": "count the new folio as mapped and exclusive, write the new entries (`set_pte_at`)",
    "drop": "no longer count the old folio as mapped (`folio_remove_rmap_pte`), drop both references (`folio_put`)",
    "store": "back in the program: the store is done again",
}
"""The steps of a write that copies, by name."""

FORK_STEPS = {
    "write-protect": "take the write bit from the parent's entries",
    "share": "give the child the same entries, count references and mappings, take the exclusive marks",
    "flush": "make every CPU that runs the parent drop its entries (`flush_tlb_mm`, at the end of `dup_mmap`)",
}
"""The steps of a fork, by name. The child runs when the last one is done."""

KERNEL_COPY = (*COPY_ORDER, "store")
"""`wp_page_copy` in 6.1, 6.12, 6.17 and 7.3, all read."""
KERNEL_FORK = ("write-protect", "share", "flush")
"""`dup_mmap` and `copy_present_ptes` in 6.12."""

_LOCKED = ("recheck", "clear", "set", "drop")
"""The page-table lock is held from the first of these to the last: others of the process that fault then must wait."""
_FOUND = "it compares the entry with what the fault saw, and would find the kernel's own change"
_HANDLED = "the program goes on when the fault is handled"
BEFORE = {
    "copy": {"allocate": "there is nothing to copy to yet"},
    "recheck": {"allocate": "'allocate' is the step that looks at the entry first"},
    "clear": {"recheck": _FOUND},
    "flush": {"allocate": "'allocate' is the step that looks at the entry first"},
    "set": {"allocate": "there is no new page yet", "recheck": _FOUND},
    "drop": {"allocate": "the reference that it drops is taken there", "recheck": _FOUND},
    "store": dict.fromkeys(("allocate", "copy", "set", "drop"), _HANDLED),
}
"""What must have been done before, when it is done at all, for a step to make sense, and why."""
NEEDED = (*BEFORE["store"], "store")


class OrderError(ValueError):
    """An order of steps that nobody could carry out: which step, and what it lacks."""


@dataclass(frozen=True)
class Write:
    """A store by CPU 0 that meets a read-only entry, as steps in an order."""

    page: int
    byte: int
    order: tuple[str, ...] = KERNEL_COPY

    def __post_init__(self) -> None:
        whole("page", self.page)
        whole("byte", self.byte, 0, 255)
        object.__setattr__(self, "order", as_tuple("order", self.order, "the names of steps"))
        check_order(self.order)

    def locked(self, at: int) -> bool:
        """Whether the page-table lock is held when `at` steps are done."""
        inside = [place for place, step in enumerate(self.order) if step in _LOCKED]
        return inside[0] < at <= inside[-1]


@dataclass(frozen=True)
class Fork:
    """A fork by CPU 0. Without ``flush`` the entries stay in the TLBs of the parent's threads."""

    order: tuple[str, ...] = KERNEL_FORK

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", as_tuple("order", self.order, "the names of steps"))
        if tuple(step for step in self.order if step != "flush") != KERNEL_FORK[:2]:
            raise OrderError(f"a fork write-protects, then shares; it may flush: {', '.join(KERNEL_FORK)}")

    def locked(self, at: int) -> bool:
        """fork holds mmap_lock for writing to its end: a fault of another thread waits (`dup_mmap`, 6.12)."""
        return 0 < at < len(self.order)


def check_order(order: Sequence[str]) -> None:
    """Raise OrderError unless the steps of a copy can be carried out in that order."""
    for at, step in enumerate(order):
        if step not in COPY_STEPS:
            raise OrderError(f"there is no step {step!r}; there are {', '.join(COPY_STEPS)}")
        if step in order[:at]:
            raise OrderError(f"{step!r} comes twice")
        for earlier, why in BEFORE.get(step, {}).items():
            if earlier in order[at:]:
                raise OrderError(f"{step!r} comes before {earlier!r}: {why}")
    missing = [step for step in NEEDED if step not in order]
    if missing:
        raise OrderError(f"without {', '.join(map(repr, missing))} the fault is never finished")
    if order[-1] not in ("store", "flush"):
        raise OrderError("the program's store comes when the kernel is done; only a late flush may follow it")
