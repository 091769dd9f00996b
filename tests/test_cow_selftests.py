"""The kernel's own copy-on-write selftests hold on the model under every policy, and on the kernel of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from live_support import PATIENCE_S, difference, needs_kernel, undisturbed

import anonfolio as af
from anonfolio.kernel import faults, fork
from anonfolio.kernel.policy import POLICIES
from anonfolio.kernel.sizes import ANON_ORDERS
from anonfolio.witness.selftests import BACKINGS, CASES, LEFT_OUT, NEEDS_GUP_TEST, NotBacked, Selftest, cow_selftests

if TYPE_CHECKING:
    from anonfolio.witness.live.kernel import LiveKernel

SELFTESTS = list(cow_selftests())
BEFORE_6_2 = "R/O longterm"
"""Cases that were added together with the fix they test: a long-term pin for reading saw the zero page until 6.2."""


def failing(policy: af.Policy | str) -> dict[str, str]:
    """By name what fails under a policy; what it has no folios for is left out."""
    found = {}
    for selftest in SELFTESTS:
        try:
            problems = selftest.on_model(policy)
        except NotBacked:
            continue
        if problems:
            found[selftest.name] = problems[0]
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_selftests_hold_under_every_policy(policy: str) -> None:
    """RFC v2 too: none of these pins a page that was never shared beside one that is, which is what its copy loses."""
    found = failing(policy)
    if policy == "linux-6.3":
        assert len(found) == 4
        found = {name: problem for name, problem in found.items() if not name.startswith(BEFORE_6_2)}
    assert found == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_size_that_a_policy_has_is_tested(policy: str) -> None:
    """What is skipped is skipped for its size alone."""
    chosen = af.policy_named(policy)
    sizes = {*chosen.fixed_orders, *chosen.knob_orders, 0}
    for selftest in SELFTESTS:
        if selftest.order in sizes:
            selftest.on_model(chosen)
        else:
            with pytest.raises(NotBacked, match="the first write got order"):
                selftest.on_model(chosen)


def test_names_are_those_of_the_selftest_on_each_backing() -> None:
    names = [selftest.name for selftest in SELFTESTS]
    assert len(set(names)) == len(names) == len(CASES) * (2 + 4 * len(ANON_ORDERS)) + 6
    assert "vmsplice() + unmap in child ... with single PTE of THP (64 kB)" in names
    assert "Basic COW after fork() ... with base page" in names
    assert "fork() with an iouring fixed buffer ... with THP (2048 kB)" in names
    assert not any("with THP (64 kB)" in name for name in names)
    assert len(CASES) == 14
    assert len(BACKINGS) == 5
    assert all(LEFT_OUT.values())
    assert {selftest.needs for selftest in SELFTESTS} == {"", NEEDS_GUP_TEST}
    assert [selftest.name for selftest in cow_selftests(sizes=())] == [
        name for name in names if name.endswith(("base page", "shared zeropage"))
    ]


def test_program_that_breaks_a_promise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def cases(found: dict[str, str]) -> set[str]:
        return {name.split(" ... ")[0] for name in found}

    with monkeypatch.context() as broken:
        # A pinned page is shared like any other: what the process writes next, the device does not see.
        broken.setattr(fork, "folio_needs_cow_for_dma", lambda mm, folio: False)
        assert cases(failing(af.LINUX_6_15)) == {"fork() with an iouring fixed buffer"}
    with monkeypatch.context() as broken:
        # Every page is reused, shared or not.
        broken.setattr(faults, "wp_can_reuse_anon_folio", lambda vmf: range(vmf.vpn, vmf.vpn + 1))
        assert {"Basic COW after fork()", "vmsplice() + unmap in child"} <= cases(failing(af.LINUX_6_15))


# --- live -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel() -> Iterator[LiveKernel]:
    from anonfolio.witness.live.kernel import LiveKernel

    with LiveKernel(PATIENCE_S) as kernel:
        yield kernel


def group(selftest: Selftest) -> str:
    """Those that run together: one case, or what needs more than user space has."""
    return selftest.needs or selftest.name.split(" ... ")[0]


GROUPS = {name: list(tests) for name, tests in groupby(sorted(SELFTESTS, key=group), key=group)}


@pytest.mark.live
@needs_kernel
@pytest.mark.parametrize("name", GROUPS)
def test_selftests_hold_on_this_kernel(name: str, kernel: LiveKernel) -> None:
    from anonfolio.witness.live.run import live_run

    if name == NEEDS_GUP_TEST:
        pytest.skip(f"{len(GROUPS[name])} selftests: {name}")
    for selftest in GROUPS[name]:
        if selftest.order and selftest.order not in kernel.sizes:
            continue
        recorded = undisturbed(lambda scenario=selftest.scenario: live_run(scenario, kernel))
        assert selftest.on_kernel(recorded) == [], selftest.name
        assert difference(selftest.scenario, kernel) is None, selftest.name
