"""What a browser judges interleavings by: every state that a race can come to, as a table. `asked.js` walks through it.

The states are those of `anonfolio.hardware.microsteps`, the lines of a picture those of `MicroPicture.text`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ..draw.micropicture import MicroPicture, held, rows
from ..hardware.microsteps import Event, Impossible, Moment, Race, Run, State, looked_after
from ..hardware.stores import Damage


class _Numbered(dict[Any, int]):
    """Values by number, each once."""

    def __missing__(self, value: Any) -> int:
        self[value] = len(self)
        return self[value]


class _Table:
    """What is gathered of a race."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self.texts, self.damage, self.held = _Numbered(), _Numbered(), _Numbered()

    def harm(self, found: Iterable[Damage]) -> list[int]:
        return [self.damage[one.kind, one.says] for one in found]

    def holds(self, moments: tuple[Moment, ...]) -> int:
        return self.held[tuple(self.texts[line] for line in held(MicroPicture(Run(self.race, moments))))]


def accesses(race: Race, byte: int) -> list[Event]:
    """What the other CPUs may do in a table: read a page of the race, or write this byte to it."""
    cpus = [f"cpu{number}" for number in range(1, len(race.cpus))]
    return [event for cpu in cpus for page in race.pages for event in ((cpu, "read", page), (cpu, "write", page, byte))]


def table(race: Race, byte: int, most: int) -> dict[str, Any]:
    """Every state that CPU 0's steps and up to `most` accesses by the others lead to, as JSON.

    Returns
    -------
    dict
        ``name``, ``rows`` and ``accesses`` of the race; ``texts`` are its sentences and lines, ``damage`` pairs of kind
        and sentence, ``held`` lists of texts, a state's lines. ``nodes`` are the states, the start first: how many
        steps CPU 0 has done, whether it holds the lock, which of ``held``, and an edge for its next step and for each
        access: ``[node, text, damage]``, the number of the text that says why it cannot happen, or null where the table
        ends.
        ``ends``: by node without a next step the text, damage and ``held`` of the look afterwards.
    """
    told = _Table(race)
    events = accesses(race, byte)
    begun = race.begin()
    start = Moment(None, "Before the first step.", begun.view(), ())
    numbers = {begun.key(): 0}
    nodes: list[Any] = [None]
    ends: dict[str, Any] = {}
    # What has met fewer accesses comes first, so that every state goes on as far as any way to it could.
    waiting: deque[tuple[int, State, tuple[Moment, ...], int]] = deque([(0, begun, (start,), 0)])
    while waiting:
        number, state, moments, spent = waiting.popleft()
        if nodes[number] is not None:
            continue
        edges: list[Any] = []
        if state.finished:
            ends[str(number)] = _end(told, state.copy(), moments)
        for event in (None if state.finished else ("cpu0", state.next_step), *events):
            if event is None or (event in events and spent == most):
                edges.append(None)
                continue
            twin = state.copy()
            try:
                said, found = twin.do(event)
            except Impossible as error:
                edges.append(told.texts[str(error)])
                continue
            key = twin.key()
            if key not in numbers:
                numbers[key] = len(nodes)
                nodes.append(None)
            edges.append([numbers[key], told.texts[said], told.harm(found)])
            after = (numbers[key], twin, (*moments, Moment(event, said, twin.view(), tuple(found))), spent)
            if event in events:
                waiting.append((*after[:3], spent + 1))
            else:
                waiting.appendleft(after)
        nodes[number] = [state.done, int(state.locked), told.holds(moments), edges]
    return {
        "name": race.name,
        "rows": rows(Run(race, (start,))),
        "accesses": events,
        "nodes": nodes,
        "ends": ends,
        "texts": list(told.texts),
        "damage": list(told.damage),
        "held": list(told.held),
    }


def _end(told: _Table, state: State, moments: tuple[Moment, ...]) -> list[Any]:
    """What everybody finds when all TLBs are empty."""
    looked = looked_after(state)
    return [told.texts[looked.says], told.harm(looked.damage), told.holds((*moments, looked))]
