"""Where a policy takes sizes that sysfs, madvise and prctl do not enable: no kernel may, whatever it gains.

After madvise(MADV_NOHUGEPAGE) memory "will not be backed by transparent hugepages" (madvise(2)), nor after
prctl(PR_SET_THP_DISABLE), nor in a size whose ``hugepages-*kB/enabled`` says never (`thp_vma_allowable_orders`, 6.8+).
"""

from __future__ import annotations

from collections.abc import Callable

from ..kernel.honest import arounds, wheres
from ..kernel.policy import Policy
from ..kernel.rules import Where, knobs, one_page, silently
from ..kernel.sizes import PMD_ORDER

_WHY: dict[str, Callable[[Where], bool]] = {
    "under MADV_NOHUGEPAGE": lambda where: where.advice == "nohugepage",
    "after PR_SET_THP_DISABLE": lambda where: where._replace(prctl="").enabled() > where.enabled(),
    "without a knob for the size": lambda where: not where.knobs,
    "against the knobs": lambda where: True,
}
"""What a rule goes against, the strongest first."""


def ignored(policy: Policy) -> list[str]:
    """What the policy takes although it is not enabled, in a sentence each, with a case; none where it asks."""
    return [*_first_touches(policy), *_copies(policy)]


def _first_touches(policy: Policy) -> list[str]:
    rule = policy.rules.allowed_orders
    if rule is knobs:
        fixed = _sizes(set(policy.fixed_orders))
        return [f"a first touch takes {fixed} whatever sysfs, madvise and prctl say (`fixed_orders`)"] if fixed else []
    found: dict[str, str] = {}
    for where in wheres():
        if more := set(rule(where)) - where.enabled():
            why = next(why for why, holds in _WHY.items() if holds(where))
            found.setdefault(why, f"a first touch takes {_sizes(more)} {why}: `allowed_orders` gives it for {where}")
    return list(found.values())


def _copies(policy: Policy) -> list[str]:
    if policy.copy_respects_knobs:
        return []
    found = []
    for field, what in (("copy_extent", "a copy"), ("unshare_extent", "an unshare")):
        rule = getattr(policy.rules, field)
        reached = {len(rule(around, silently)) for around in arounds()} if rule is not one_page else set()
        if orders := {pages.bit_length() - 1 for pages in reached} - {0}:
            found.append(
                f"{what} takes {_sizes(orders)} where neither sysfs nor madvise enables it, under MADV_NOHUGEPAGE too"
                " (`copy_respects_knobs=True` would ask)"
            )
    return found


def _sizes(orders: set[int]) -> str:
    return " or ".join("2 MiB" if order == PMD_ORDER else f"{4 << order} KiB" for order in sorted(orders))
