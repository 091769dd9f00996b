"""Which stores reached which frame, who knows of them, and what a load that sees too many or too few of them proves.

Of a frame the model keeps one byte, the latest. Here every store is remembered as if each went to a byte of its own,
and a copy copies them all. So a load sees which stores are there, and whether one is missing that its process has done
or seen.
"""

from __future__ import annotations

from typing import NamedTuple

STALE_READ, LEAK, LOST_WRITE = "stale read", "leak", "lost write"
DAMAGE = {
    STALE_READ: "a thread misses a store that its process has done or seen: its TLB entry is stale",
    LEAK: "a process reads a byte that another process wrote after the fork",
    LOST_WRITE: "a store was done, and the frame that its process maps has no trace of it",
}
"""What can go wrong, and what each word means here."""


class Damage(NamedTuple):
    """One kind of `DAMAGE`, where it showed, and a sentence."""

    kind: str
    process: int
    page: int
    says: str


class Store(NamedTuple):
    """A store: whose, where, what."""

    process: int
    page: int
    byte: int


class Stores:
    """All stores so far, numbered in their order.

    Attributes
    ----------
    done : list of Store
        Every store.
    held : dict of int to tuple of int
        Per frame the stores that reached it, in order.
    known : dict of (int, int) to frozenset of int
        Per process and page the stores that its threads have done or seen.
    forks : dict of int to (int, int)
        Per child its parent, and how many stores there were when its fork was done.
    """

    def __init__(self) -> None:
        self.done: list[Store] = []
        self.held: dict[int, tuple[int, ...]] = {}
        self.known: dict[tuple[int, int], frozenset[int]] = {}
        self.forks: dict[int, tuple[int, int]] = {}

    def copy(self) -> Stores:
        """The same stores, to go on from."""
        twin = Stores()
        twin.done, twin.held = self.done.copy(), self.held.copy()
        twin.known, twin.forks = self.known.copy(), self.forks.copy()
        return twin

    def store(self, process: int, page: int, byte: int, pfn: int) -> None:
        """A process stores a byte, and it reaches that frame."""
        self.held[pfn] = (*self.held.get(pfn, ()), len(self.done))
        self.known[process, page] = self.known.get((process, page), frozenset()) | {len(self.done)}
        self.done.append(Store(process, page, byte))

    def copied(self, new: int, old: int) -> None:
        """A frame was copied, and with it what had reached the old one."""
        self.held[new] = self.held.get(old, ())

    def zeroed(self, pfn: int) -> None:
        """A frame is fresh: no store has reached it."""
        self.held[pfn] = ()

    def forked(self, parent: int, child: int) -> None:
        """A fork is done: what the parent stores from now on is not the child's."""
        self.forks[child] = parent, len(self.done)

    def know_own(self, process: int, page: int, pfn: int) -> None:
        """Of the stores in the frame that it maps there, a process knows its own."""
        own = frozenset(store for store in self.held.get(pfn, ()) if self.done[store].process == process)
        if own:
            self.known[process, page] = own

    def bytes(self, pfn: int) -> str:
        """The bytes stored in a frame, in order."""
        return " ".join(str(self.done[store].byte) for store in self.held.get(pfn, ())) or "0"

    def may_see(self, reader: int, store: int) -> bool:
        """Whether it is the reader's own store, or one that came to it by the forks that it descends from."""
        while reader != self.done[store].process:
            reader, before = self.forks.get(reader, (-1, 0))
            if store >= before:
                return False
        return True

    def read(self, process: int, page: int, pfn: int, mapped: int | None) -> list[Damage]:
        """A load from a frame, where the page table maps `mapped`: the damage that it shows.

        What it rightly sees is known from now on.
        """
        held, known = frozenset(self.held.get(pfn, ())), self.known.get((process, page), frozenset())
        foreign = frozenset(store for store in held if not self.may_see(process, store))
        found = []
        for store in sorted(foreign):
            writer, _, byte = self.done[store]
            says = f"P{process} reads {byte} in page {page}, which P{writer} wrote after the fork."
            found.append(Damage(LEAK, process, page, says))
        for store in sorted(known - held):
            writer, _, byte = self.done[store]
            if mapped != pfn:
                says = f"P{process} reads page {page} in a frame that it maps no longer: it misses the {byte}."
                found.append(Damage(STALE_READ, process, page, says))
            else:
                did = "stored" if writer == process else "saw"
                says = f"P{process} {did} {byte} in page {page}, and the frame that it maps there has no {byte}."
                found.append(Damage(LOST_WRITE, process, page, says))
        self.known[process, page] = known | (held - foreign)
        return found
