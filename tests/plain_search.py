"""A second search, written apart: breadth first over plain dictionaries, for four pages in one folio and two processes.

It imports nothing of the library. What a kernel does is written down once more, as briefly as it can be for these
operations alone: write, fork, exit, pin, unpin; and states are named by trying both orders of the processes. So what it
counts holds the search, its states and the fault paths to somebody else's arithmetic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

PAGES = 4
PIN_BIAS = 1024
State = dict[str, Any]
"""``{"procs": {pid: proc}, "folios": {number: folio}, "count": numbers given away}``."""


def start() -> State:
    """One process that has touched nothing."""
    return {"procs": {1: new_process([None] * PAGES, anon=False, child=False)}, "folios": {}, "count": 1}


def new_process(pages: list[Any], *, anon: bool, child: bool) -> dict[str, Any]:
    """`pages`: per page None, or what it maps: ``{"folio", "at", "write"}``."""
    return {"pages": pages, "anon": anon, "child": child, "pinned": False, "pin": None}


def copied(state: State) -> State:
    """Another state that is the same."""
    return {
        "procs": {
            pid: {**process, "pages": [entry and dict(entry) for entry in process["pages"]]}
            for pid, process in state["procs"].items()
        },
        "folios": {
            number: {
                **folio, "mapped": [*folio["mapped"]], "exclusive": [*folio["exclusive"]],
                "slots": [[*slot] for slot in folio["slots"]],
            }
            for number, folio in state["folios"].items()
        },
        "count": state["count"],
    }  # fmt: skip


def take(state: State, pid: int, size: int) -> int:
    """A new folio that the process maps whole and alone."""
    number: int = state["count"] + 1
    state["count"] = number
    state["folios"][number] = {
        "mapped": [1] * size, "exclusive": [True] * size, "refs": size, "pins": 0, "shared": False,
        "slots": [[pid, size], [0, 0]] if size > 1 else [[0, 0], [0, 0]],
    }  # fmt: skip
    return number


def map_again(folio: dict[str, Any], at: int, pid: int) -> None:
    folio["mapped"][at] += 1
    folio["refs"] += 1
    folio["exclusive"][at] = False
    if len(folio["mapped"]) == 1:
        return
    slots = folio["slots"]
    mine = next((slot for slot in slots if slot[0] == pid), None) or next((slot for slot in slots if not slot[0]), None)
    assert mine is not None, "two processes have two slots"
    mine[0] = pid
    mine[1] += 1
    folio["shared"] = folio["shared"] or mine[1] != sum(folio["mapped"])


def unmap(state: State, entry: dict[str, Any], pid: int) -> None:
    folio = state["folios"][entry["folio"]]
    folio["mapped"][entry["at"]] -= 1
    if not folio["mapped"][entry["at"]]:
        folio["exclusive"][entry["at"]] = False
    if len(folio["mapped"]) > 1:
        for slot in folio["slots"]:
            if slot[0] == pid:
                slot[1] -= 1
                if not slot[1]:
                    slot[0] = 0
        if any(slot[1] == sum(folio["mapped"]) for slot in folio["slots"] if slot[0]):
            folio["shared"] = False
    put(state, entry["folio"], 1)


def put(state: State, number: int, refs: int) -> None:
    folio = state["folios"][number]
    folio["refs"] -= refs
    if not folio["refs"]:
        del state["folios"][number]


# --- rules: may a page of a large folio that is not exclusive be written where it is? ---------------------------------


def rule_615(folio: dict[str, Any], run: int) -> bool:
    total = sum(folio["mapped"])
    return total > 1 and not folio["shared"] and total == folio["refs"]


def rule_69(folio: dict[str, Any], run: int) -> bool:
    return False


def rule_63(folio: dict[str, Any], run: int) -> bool:
    return bool(folio["refs"] == 1)


def rule_rfc(folio: dict[str, Any], run: int) -> bool:
    return bool(folio["refs"] == run)


RULES: dict[str, tuple[Callable[[dict[str, Any], int], bool], bool, bool]] = {
    "linux-6.15": (rule_615, False, True),
    "linux-6.9": (rule_69, False, True),
    "linux-6.3": (rule_63, False, False),
    "rfc-v2-fixed": (rule_rfc, True, True),
}
"""Per policy its rule for large folios; whether reuse and copy take ranges; whether a first touch takes four pages."""


def run_around(state: State, pages: list[Any], page: int, *, marked: bool) -> list[int]:
    """Pages around this one that map the same folio in step; `marked`: as long as they are exclusive."""
    entry = pages[page]
    folio = state["folios"][entry["folio"]]

    def goes_on(other: int) -> bool:
        there = pages[other]
        same = there and there["folio"] == entry["folio"] and there["at"] - entry["at"] == other - page
        return bool(same) and (not marked or folio["exclusive"][there["at"]])

    first = last = page
    while first and goes_on(first - 1):
        first -= 1
    while last + 1 < PAGES and goes_on(last + 1):
        last += 1
    return list(range(first, last + 1))


def make_writable(state: State, pid: int, page: int, policy: str) -> None:
    """What a write fault does."""
    rule, ranges, large = RULES[policy]
    process = state["procs"][pid]
    pages = process["pages"]
    entry = pages[page]
    if entry is None:
        process["anon"] = True
        whole = large and not any(pages)
        number = take(state, pid, PAGES if whole else 1)
        for at, where in enumerate(range(PAGES) if whole else [page]):
            pages[where] = {"folio": number, "at": at, "write": True}
        return
    folio = state["folios"][entry["folio"]]
    exclusive = folio["exclusive"][entry["at"]]
    run = run_around(state, pages, page, marked=exclusive) if ranges else [page]
    small = len(folio["mapped"]) == 1
    if exclusive or (folio["refs"] == 1 if small else rule(folio, len(run))):
        for where in run:
            pages[where]["write"] = True
            folio["exclusive"][pages[where]["at"]] = True
        return
    process["anon"] = True
    whole = ranges and run == list(range(PAGES)) and not any(folio["exclusive"])
    number = take(state, pid, PAGES if whole else 1)
    for at, where in enumerate(run if whole else [page]):
        unmap(state, pages[where], pid)
        pages[where] = {"folio": number, "at": at, "write": True}


# --- operations -------------------------------------------------------------------------------------------------------


def fork(state: State, pid: int) -> None:
    parent = state["procs"][pid]
    new = state["count"] = state["count"] + 1
    pages: list[Any] = [None] * PAGES
    for page, entry in enumerate(parent["pages"]):
        if entry is None:
            continue
        folio = state["folios"][entry["folio"]]
        held = folio["pins"] if len(folio["mapped"]) > 1 else folio["refs"] >= PIN_BIAS
        if parent["pinned"] and held and folio["exclusive"][entry["at"]]:
            pages[page] = {"folio": take(state, new, 1), "at": 0, "write": True}
            continue
        entry["write"] = False
        map_again(folio, entry["at"], new)
        pages[page] = {"folio": entry["folio"], "at": entry["at"], "write": False}
    state["procs"][new] = new_process(pages, anon=parent["anon"], child=parent["anon"])


def leave(state: State, pid: int) -> None:
    process = state["procs"].pop(pid)
    if process["pin"]:
        unpin(state, process)
    for entry in process["pages"]:
        if entry:
            unmap(state, entry, pid)


def pin(state: State, pid: int, page: int, policy: str) -> None:
    process = state["procs"][pid]
    process["pinned"] = True
    if not process["pages"][page] or not process["pages"][page]["write"]:
        make_writable(state, pid, page, policy)
    entry = process["pages"][page]
    folio = state["folios"][entry["folio"]]
    large = len(folio["mapped"]) > 1
    folio["refs"] += 1 if large else PIN_BIAS
    folio["pins"] += large
    process["pin"] = {"page": page, "folio": entry["folio"], "at": entry["at"]}


def unpin(state: State, process: dict[str, Any]) -> None:
    held, process["pin"] = process["pin"], None
    folio = state["folios"][held["folio"]]
    large = len(folio["mapped"]) > 1
    folio["pins"] -= large
    put(state, held["folio"], 1 if large else PIN_BIAS)


def steps(state: State, policy: str, pins: bool) -> Iterator[State]:
    """Where each step leads that could change something."""
    for pid, process in state["procs"].items():
        for page, entry in enumerate(process["pages"]):
            if not entry or not entry["write"]:
                after = copied(state)
                make_writable(after, pid, page, policy)
                yield after
        after = copied(state)
        if len(state["procs"]) < 2:
            fork(after, pid)
        else:
            leave(after, pid)
        yield after
        if not pins:
            continue
        for page in range(PAGES) if not process["pin"] else ():
            after = copied(state)
            pin(after, pid, page, policy)
            yield after
        if process["pin"]:
            after = copied(state)
            unpin(after, after["procs"][pid])
            yield after


def name(state: State) -> str:
    """The least of what it looks like, over both orders of the processes."""
    pids = list(state["procs"])
    return min(told(state, order) for order in (pids, pids[::-1]))


def told(state: State, pids: list[int]) -> str:
    numbers: dict[int, int] = {}
    lines: list[Any] = []
    for pid in pids:
        process = state["procs"][pid]
        lines.append((process["anon"], process["child"], process["pinned"]))
        for entry in (*process["pages"], process["pin"]):
            folio = entry and numbers.setdefault(entry["folio"], len(numbers))
            lines.append(entry and (folio, entry["at"], entry.get("write"), entry.get("page")))
    for number in numbers:
        folio = dict(state["folios"][number])
        folio["slots"] = [(pids.index(pid) if pid else None, count) for pid, count in folio["slots"]]
        lines.append(sorted(folio.items()))
    return repr(lines)


def explore(policy: str, *, pins: bool) -> tuple[int, int, int]:
    """States, transitions, and how many steps the farthest state takes."""
    seen = {name(first := start())}
    waiting = deque([(first, 0)])
    transitions = deepest = 0
    while waiting:
        state, depth = waiting.popleft()
        deepest = max(deepest, depth)
        for after in steps(state, policy, pins):
            transitions += 1
            if (called := name(after)) not in seen:
                seen.add(called)
                waiting.append((after, depth + 1))
    return len(seen), transitions, deepest
