"""What the search keeps of states and steps: a machine made of a state behaves as the one it was taken of, and a second
program, written apart, counts the same.
"""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import plain_search
import pytest

import anonfolio as af
from anonfolio.kernel.policy import policy_named
from anonfolio.machine.invariants import INVARIANTS
from anonfolio.program import explore
from anonfolio.program.exploration import Exploration, Limits, Stopped
from anonfolio.program.explore import Miscounted, Share, Space, expand, first_broken, joined
from anonfolio.program.ops import do_step
from anonfolio.program.search import EXTRA_OPERATIONS, OPERATIONS, Exhausted, counterexample, tried_pages
from anonfolio.program.states import (
    NAME_BYTES,
    Maker,
    State,
    _kind,
    canonical,
    from_bytes,
    mapped_of,
    order_of,
    state_of,
    to_bytes,
)

ROOT = Path(__file__).parent.parent
ALL = (*OPERATIONS, *EXTRA_OPERATIONS)
APART = {"remap"}
"""What moves pages to the end of the address space: slow, and like mremap."""


def mapcount_one(folio: af.rules.Folio, ask: af.rules.Ask) -> bool:
    return ask("page_mapcount == 1", folio.mapcount == 1)


def several(folio: af.rules.Folio, ask: af.rules.Ask) -> bool:
    return ask("mapped", folio.mappings > 0)


def counted(policy: str, *operations: str) -> tuple[int, int, int]:
    found = counterexample(policy, steps=None, operations=operations)
    assert not found
    assert found.complete
    return found.states, found.transitions, found.steps


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("policy", "pins"),
    [("rfc-v2-fixed", False), ("linux-6.3", False), pytest.param("rfc-v2-fixed", True, marks=pytest.mark.long)],
)
def test_a_second_search_that_was_written_apart_counts_the_same(policy: str, pins: bool) -> None:
    more = ("pin", "unpin") if pins else ()
    assert plain_search.explore(policy, pins=pins) == counted(policy, "write", "fork", "exit", *more)


@pytest.mark.parametrize("policy", ["linux-6.15", "linux-6.9", "rfc-v2", "linux-6.3", "5.10"])
def test_a_machine_made_of_a_state_does_what_the_first_one_does(policy: str) -> None:
    """Random programs of everything that can be searched; after each step one more on both, and all names agree."""
    operations = tuple(name for name in ALL if name not in APART)
    source = random.Random(policy)
    found = policy_named(policy)
    for pages, orders in ((4, (2,)), (4, (2,)), (6, (2,))):
        space = Space(found, af.Scenario(pages, (), orders), operations, 3, ())
        machine = space.begin()
        maker = Maker(space.begin())
        for _ in range(25):
            state = state_of(machine, content=True)
            assert from_bytes(to_bytes(state)) == state
            made = maker.machine(state)
            assert state_of(made, content=True) == state
            ours, theirs = space.possible(order_of(machine)), space.possible(made.processes)
            assert [step[2:] for step in ours] == [step[2:] for step in theirs]
            at = source.randrange(len(ours))
            answers = do_step(machine, ours[at])[0], do_step(made, theirs[at])[0]
            assert answers[0] == answers[1]
            assert canonical(state_of(made)) == canonical(state_of(machine))
            assert not af.check(made)


def test_a_machine_made_of_a_state_knows_which_folios_wait_for_their_split() -> None:
    first = af.Scenario(4, (("write", 0, 0, 1), ("munmap", 0, 0, 2)), (2,)).end("linux-6.15")
    before = state_of(first)
    made = Maker(af.Scenario(4, (), (2,)).end("linux-6.15")).machine(before)
    for machine in (first, made):
        do_step(machine, ("shrink", 0))
    assert canonical(state_of(made)) == canonical(state_of(first)) != canonical(before)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("policy", ["linux-6.15", "rfc-v2-fixed", "5.10"])
def test_what_is_kept_of_a_step_is_what_it_does_to_all_of_a_state(policy: str) -> None:
    """Every step of every state, once by what was kept of its view and once on the whole machine."""
    operations = ("write", "fork", "exit", "pin", "unpin", "ref", "munmap", "wipeonfork")
    space = Space(policy_named(policy), af.Scenario(4, (), (2,)), operations, 2, ())
    known = explore._Known(space)
    waiting, seen = [state_of(space.begin())], set()
    source = random.Random(1)
    for _ in range(150):
        state = waiting.pop(source.randrange(len(waiting)))
        afters = list(known.successors(state))
        machine = known.make(state)
        for step, after in zip(space.possible(machine.processes), afters, strict=True):
            done = machine.copy()
            do_step(done, step)
            assert canonical(state_of(done)) == canonical(after)
            if canonical(after) not in seen:
                seen.add(canonical(after))
                waiting.append(after)


ONCE, ANY = (af.LINUX_6_15.but(name="mine", large_reuse=rule) for rule in (mapcount_one, several))
WIPED = (("write", 0, 0, 1), ("madvise", 0, 0, 2, "wipeonfork"), ("fork", 0))
HELD = (("write", 0, 0, 1), ("fork", 0), ("ref", 1, 0, 0))
BROKEN = {
    "pinned_page_stays": (af.RFC_V2, WIPED, ("pin", "wipeonfork", "write")),
    "held_page_is_private": (ONCE, HELD, ("write", "munmap", "fork", "exit")),
    "reads_what_it_wrote": (ANY, (), ("write", "fork", "munmap")),
    "exclusive_is_mapped_once": (ANY, (), ("write", "fork", "munmap")),
    "writable_is_exclusive": (af.LINUX_6_15, (), ("write", "fork", "pin")),
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("promise", BROKEN)
def test_promises_asked_of_many_states_at_once_are_those_of_each(promise: str) -> None:
    """States that rules which break something lead to, and a few whose marks are wrong: once a machine is made of each,
    and once they are looked at as they are kept.
    """
    policy, program, operations = BROKEN[promise]
    rule = INVARIANTS[promise]
    space = Space(policy, af.Scenario(4, program, (2,)), operations, 2, (rule,))
    search = Exploration(replace(space, invariants=()), Limits(steps=3))
    search.run()
    forms = search._waiting[:: max(1, len(search._waiting) // 100)]
    forms += [to_bytes(marked_wrongly(from_bytes(form))) for form in forms[:20]]
    make = Maker(space.begin()).machine
    wrong = [list(rule.broken(make(from_bytes(form)))) for form in forms]
    assert any(wrong)
    assert not all(wrong)
    for form, expected in zip(forms, wrong, strict=True):
        found = list(rule.breaches(mapped_of([from_bytes(form)], marks_exclusive=True)))
        assert [bool(found), len(found)] == [bool(expected), len(expected)]
        assert first_broken(space, [form]) == (0 if expected else None)
    sound = [form for form, expected in zip(forms, wrong, strict=True) if not expected]
    assert first_broken(space, sound) is None
    first = next(form for form, expected in zip(forms, wrong, strict=True) if expected)
    assert first_broken(space, [*sound, first, *sound]) == len(sound)


def marked_wrongly(state: State) -> State:
    """The same, and what was marked exclusive is not, and the other way round."""
    kinds = []
    for kind in state.kinds:
        counts, marks, rest = (
            kind.named[: kind.size],
            kind.named[kind.size : 2 * kind.size],
            kind.named[2 * kind.size :],
        )
        kinds.append(_kind((*counts, *(1 - mark for mark in marks), *rest), kind.hidden))
    return state._replace(kinds=tuple(kinds))


def test_a_step_that_does_something_else_than_was_kept_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(af.LINUX_6_15, af.Scenario(2, (), ()), ("write", "fork"), 2, ())
    form = to_bytes(state_of(space.begin()))
    monkeypatch.setattr(explore, "_latest", None)
    expand(space, [form])
    effects = next(iter(explore._latest.effects.values()))
    effects[:] = [effects[-1]] * len(effects)
    explore._latest._audits = 0
    with pytest.raises(Miscounted, match="does something else"):
        expand(space, [form])


def test_what_several_find_each_its_share_is_what_one_finds() -> None:
    """In the same order, every step counted once; each looks at its own processes only."""
    space = Space(af.LINUX_6_15, af.Scenario(4, (), (2,)), ("write", "fork", "exit", "pin"), 2, ())
    search = Exploration(space, Limits(steps=4))
    search.run()
    forms = search._waiting[-64:]
    whole = expand(space, forms)
    shares = [expand(space, forms, share=Share(number, 3)) for number in range(3)]
    together = joined(shares)
    assert together.transitions == whole.transitions
    assert max(len(share.forms) for share in shares) < len(whole.forms) <= len(together.forms)
    rows = {}
    for at, row in enumerate(zip(together.parents, together.steps, together.tried, together.forms, strict=True)):
        rows.setdefault(together.names[NAME_BYTES * at : NAME_BYTES * (at + 1)], row)
    assert b"".join(rows) == whole.names
    assert [*rows.values()] == [*zip(whole.parents, whole.steps, whole.tried, whole.forms, strict=True)]


def test_a_checkpoint_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    """A state that no search found would make the rest of it worthless."""
    path = tmp_path / "search.npz"
    bound = {"pages": 2, "steps": 2, "operations": ("write", "fork"), "checkpoint": path}
    counterexample("7.3", **bound)
    with np.load(path) as kept:
        content = dict(kept)
    for name, change in (
        ("seen", content["seen"][::-1]), ("forms", content["forms"] ^ 1), ("numbers", content["numbers"] + 1),
        ("parents", content["parents"][:-1]), ("steps", content["steps"] + 1), ("sizes", content["sizes"][:-1]),
    ):  # fmt: skip
        np.savez(path, **{**content, name: change})
        with pytest.raises(ValueError, match="was changed since the search wrote it"):
            counterexample("7.3", **bound)


# --- what is claimed --------------------------------------------------------------------------------------------------


def proofs() -> dict[str, dict]:
    return json.loads((ROOT / "data" / "proofs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["6.1: write, fork, exit", "rfc-v2: write, fork, exit"])
def test_a_stored_proof_comes_out_again(name: str) -> None:
    """The small ones; `make search` compares all of them."""
    stored = proofs()[name]
    found = counterexample(stored["policy"], steps=None, operations=tuple(stored["operations"]))
    assert not found
    assert found.complete
    assert (found.states, found.transitions, found.steps, found.digest) == tuple(
        stored[key] for key in ("states", "transitions", "steps", "sha256")
    )
    assert list(found.promises) == stored["promises"]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proofs_tool", ROOT / "tools" / "proofs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_says_what_the_stored_proofs_say(tool: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    stored = proofs()
    assert {*stored} <= {proof.name for proof in tool.PROOFS}
    assert tool.with_table(readme, stored) == readme
    for name, proof in stored.items():
        row = next(line for line in readme.splitlines() if line.startswith(f"| {name.replace(': ', ' | ', 1)} | "))
        counts = (proof["steps"], proof["states"], proof["transitions"], proof["cpu_seconds"], proof["peak_mib"])
        assert row.endswith(f"| {' | '.join(f'{count:,}' for count in counts)} |")
        verdict = row.split(" | ")[2]
        if proof["verdict"] == tool.BOUNDED:
            within = f"nothing breaks within {proof['steps']} steps"
            assert verdict == f"not to the end: {within}; then {proof['why']}"
            assert proof["why"]
            assert len(proof["levels"]) == proof["steps"] + 1
            assert sum(proof["levels"]) <= proof["states"]
        else:
            assert verdict == proof["verdict"]
    assert readme.count(" | holds in programs of any length | ") == sum(
        proof["verdict"] == "holds in programs of any length" for proof in stored.values()
    )
    assert f"({stored['6.15: write, fork, exit']['states']:,} states)" in readme


@pytest.mark.long
def test_a_stopped_proof_is_kept_with_what_does_not_hang_on_when(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was stopped is chance; how many states each number of steps leads to is not."""

    def stops(search: Exploration) -> None:
        if search.depth == 6:
            raise Stopped("720 s are over")

    proof = tool.Proof("6.1", tool.FORK)
    whole = tool.run(proof, 1, 64, None, None)
    with monkeypatch.context() as patched:
        patched.setattr(Exploration, "_check_limits", stops)
        early = tool.run(proof, 1, 64, None, None)
    assert (early["verdict"], early["why"], early["steps"]) == (tool.BOUNDED, "720 s are over", 5)
    assert sum(early["levels"]) < early["states"] < whole["states"]
    found = counterexample("6.1", steps=None, operations=tool.FORK)
    assert isinstance(found, Exhausted)
    assert early["levels"] == found.levels[: early["steps"] + 1]
    assert (sum(found.levels), len(found.levels)) == (whole["states"], whole["steps"] + 1)
    assert "levels" not in whole
    assert tool.differences(early, early) == tool.differences(whole, whole) == tool.differences(whole, early) == []
    other = {**early, "levels": (1, 5, 13)}
    assert tool.differences(early, other) == ["states 2 steps away: 14, was 13"]
    broken = {**whole, "verdict": "breaks pinned_page_stays", "steps": early["steps"]}
    assert tool.differences(broken, early) == [
        f"breaks pinned_page_stays at {early['steps']} steps, was {tool.BOUNDED} at {early['steps']}"
    ]
    assert not tool.differences({**broken, "steps": early["steps"] + 1}, early)
    assert tool.differences({**whole, "states": 1}, whole) == [f"states 1, was {whole['states']}"]
    # What was stopped does not take the place of what came further, unless they differ.
    further = {**early, "steps": early["steps"] + 1}
    assert [tool.is_less(early, stored) for stored in (whole, further, early, other)] == [True, True, False, False]
    assert not tool.is_less(whole, early)


def test_of_single_pages_those_are_tried_that_are_asked_for() -> None:
    """Of a 64 KiB folio the first page of each half stands for all: as many states as of two pages of four."""
    over = ("write", "fork", "exit", "wipeonfork", "pin")
    small, large = (
        counterexample("7.3", pages=4 * big, orders=(order,), every=2 * big, steps=4, operations=over)
        for big, order in ((1, 2), (4, 4))
    )
    assert isinstance(small, Exhausted)
    assert isinstance(large, Exhausted)
    assert (small.states, small.transitions) == (large.states, large.transitions)
    assert "over 16 pages (single pages: 0, 8) and write" in str(large)
    assert [tried_pages(16, every) for every in (1, 4, 16)] == [
        "16 pages", "16 pages (single pages: 0, 4, 8, …)", "16 pages (single pages: 0)",
    ]  # fmt: skip
    every = counterexample("7.3", steps=4, operations=over)
    assert every.states > small.states
    with pytest.raises(ValueError, match="every=0"):
        counterexample("7.3", every=0)


def test_dask_can_do_the_work() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        bound = {"steps": None, "operations": ("write", "fork", "exit")}
        assert counterexample("rfc-v2", executor=client.get_executor(), **bound) == counterexample("rfc-v2", **bound)
