"""Every interleaving of a race, shortest first: what the steps of CPU 0 can meet, and which damage that does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from .checks import whole
from .microsteps import Event, Impossible, Race, State


@dataclass(frozen=True)
class Searched:
    """What all interleavings of a race show.

    Attributes
    ----------
    states : int
        How many different states they lead through.
    found : dict of str to tuple of Event
        Per kind of damage a shortest interleaving that shows it; empty when none does.
    """

    race: Race
    accesses: int
    states: int
    found: dict[str, tuple[Event, ...]]

    def __bool__(self) -> bool:
        return bool(self.found)

    def __str__(self) -> str:
        bound = f"{self.states:,} states, up to {self.accesses} accesses by other CPUs"
        if not self.found:
            return f"{self.race.name}: no damage ({bound})"
        lines = [f"{self.race.name}: {bound}"]
        for kind, events in self.found.items():
            lines.append(f"  {kind}: " + ", ".join(" ".join(map(str, event)) for event in events))
        return "\n".join(lines)


def search(race: Race, accesses: int = 2) -> Searched:
    """Try every interleaving of CPU 0's steps with up to that many loads and stores by the other CPUs.

    Shortest first, so what is found is shortest. Loads and stores go to `Race.pages`; each store writes a byte of its
    own. Loads that hit and change nothing are tried all the same: they may be the one that sees damage.
    """
    whole("accesses", accesses)
    start = race.begin()
    queue: deque[tuple[State, tuple[Event, ...], int]] = deque([(start, (), 0)])
    met = {(0, start.key())}
    found: dict[str, tuple[Event, ...]] = {}
    while queue:
        state, events, used = queue.popleft()
        if state.finished:
            for damage in state.copy().settle():
                found.setdefault(damage.kind, events)
        for event in _possible(state, used < accesses):
            twin = state.copy()
            try:
                _, seen = twin.do(event)
            except Impossible:
                continue
            for damage in seen:
                found.setdefault(damage.kind, (*events, event))
            spent = used + (event[1] in ("read", "write"))
            key = (spent, twin.key())
            if key not in met:
                met.add(key)
                queue.append((twin, (*events, event), spent))
    return Searched(race, accesses, len(met), found)


def _possible(state: State, accesses: bool) -> Iterator[Event]:
    if not state.finished:
        yield ("cpu0", state.next_step)
    if not accesses:
        return
    for cpu in range(1, len(state.race.cpus)):
        for page in state.race.pages:
            yield (f"cpu{cpu}", "read", page)
            yield (f"cpu{cpu}", "write", page, 60 + len(state.stores.done))


@cache
def searched(race: Race, accesses: int = 2) -> Searched:
    """`search`, remembered."""
    return search(race, accesses)
