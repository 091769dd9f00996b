"""Random programs, the same for the same seed, and making one smaller that shows a difference.

A generator knows which accesses make sense because the model runs along; it looks at mappings, never at frames.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..kernel.rules import KNOBS
from ..kernel.sizes import ANON_ORDERS, PMD_ORDER, PTRS_PER_PMD
from ..kernel.vma import VM_DONTCOPY, VM_GROWSDOWN, VM_READ, VM_WRITE, Vma
from ..machine.machine import Machine, Process
from .ops import TABLE, Step, do_step
from .scenario import THP, Scenario

FRAMES = 1 << 14
ORDER_SETS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (4,), (2, 4), (2, 3, 4), (4, 5), (2, 3, 4, 5, 6))
PMD_ORDER_SETS: tuple[tuple[int, ...], ...] = ((9,), (9,), (4, 9), (4, 9), (2, 3, 4, 9))
UNDO = {"wipeonfork": "keeponfork", "dontfork": "dofork", "nohugepage": "hugepage"}
MIXED_ADVICE = ("dontneed", "dontneed", "wipeonfork", "keeponfork", "dontfork", "dofork", "hugepage", "nohugepage")
FREEING_ADVICE = (*8 * ("free",), *2 * ("cold",), *2 * ("dontneed",), "dontfork", "wipeonfork")
MERGING_ADVICE = ("dontneed", "wipeonfork", *2 * ("keeponfork",), "dontfork", *2 * ("dofork", "hugepage"), "nohugepage")

FREE = {
    "write": 34, "read": 8, "fork": 12, "exit": 6, "munmap": 5, "mremap": 4, "mprotect": 8, "madvise": 30, "pin": 3,
    "unpin": 2, "gup": 3, "ref": 1, "unref": 1,
}  # fmt: skip
MOVED = {
    "move_away_and_back": 20, "fork_and_look": 14, "protect_and_back": 14, "write": 24, "read": 6, "fork": 3, "exit": 8,
    "munmap": 3, "mremap": 6, "mprotect": 4, "madvise": 8, "pin": 2, "unpin": 2, "gup": 2,
}  # fmt: skip
"""With several steps in a row that each alone would hardly ever follow the other."""
GUARD = {
    "write": 36, "read": 10, "fork": 10, "exit": 5, "munmap": 6, "mremap": 10, "mprotect": 10, "madvise": 34, "pin": 4,
    "unpin": 2, "gup": 5, "ref": 2, "unref": 1,
}  # fmt: skip
COLLAPSE = {
    "write": 34, "read": 8, "fork": 8, "exit": 4, "munmap": 6, "mremap": 6, "mprotect": 8, "madvise": 36, "pin": 4,
    "unpin": 3, "gup": 2, "ref": 2, "unref": 2,
}  # fmt: skip
SPLIT = {
    "write": 36, "read": 8, "fork": 12, "exit": 6, "munmap": 14, "mremap": 6, "mprotect": 6, "madvise": 12, "pin": 4,
    "unpin": 3, "gup": 2, "ref": 2, "unref": 2,
}  # fmt: skip
COLLAPSING_ADVICE = (*8 * ("collapse",), *2 * ("dontneed",), "free", "guard_install", "guard_remove", "dontfork")
GUARDING_ADVICE = (
    *5 * ("guard_install",), *4 * ("guard_remove",), *2 * ("dontneed",), "free", "wipeonfork", "keeponfork", "dontfork",
    "dofork",
)  # fmt: skip
LOCKED = {
    "write": 34, "read": 8, "fork": 10, "exit": 5, "munmap": 5, "mmap": 6, "mremap": 6, "remap": 6, "mprotect": 14,
    "madvise": 22, "mlock": 10, "mlock_onfault": 4, "munlock": 7, "pin": 2, "unpin": 1, "gup": 2,
}  # fmt: skip
LOCKING_ADVICE = (
    *5 * ("populate_read",), *6 * ("populate_write",), *2 * ("dontneed",), "cold", "wipeonfork", "keeponfork",
    "dontfork", "dofork", "hugepage", "nohugepage", "guard_install", "guard_remove",
)  # fmt: skip
KNOBS_KIND = {
    "write": 36, "read": 10, "fork": 9, "exit": 5, "munmap": 5, "mremap": 3, "mprotect": 3, "madvise": 22,
    "thp_disable": 10,
}  # fmt: skip
KINDS: dict[str, dict[str, int]] = {
    kind: {op.name: op.drawn[kind] for op in TABLE.values() if kind in op.drawn}
    for kind in ("mixed", "populate", "refused", "merge", "huge", "dma", "forkfail", "segv", "mappings")
} | {"free": FREE, "guard": GUARD, "moved": MOVED, "knobs": KNOBS_KIND, "collapse": COLLAPSE, "locked": LOCKED}
KINDS |= {
    kind: SPLIT | {op.name: op.drawn[kind] for op in TABLE.values() if kind in op.drawn} for kind in ("split", "shrink")
}
"""What programs may be about, with how often they do what.

``mixed`` wanders through everything; ``populate`` writes, forks and exits; ``refused`` asks for what is not there;
``merge`` cuts mappings up so that they merge again; ``huge`` has 2 MiB; ``dma`` has a device; ``forkfail`` has forks
that fail (each makes other programs' forks fail for a moment, when it is run live); ``segv`` touches holes;
``mappings`` makes many, accessible or not, where it likes or where the kernel does;
``free`` frees lazily, which splits folios; ``guard`` puts guard pages among others, and touches them; ``moved`` moves
away and back beside neighbours that have become alike, reads after fork, and protects and unprotects whole blocks;
``knobs`` has other words in the knobs, other advice, and prctl;
``collapse`` has pages made one folio of 2 MiB; ``locked`` locks and populates;
``shrink`` has the shrinker split folios (and drops the machine's
slab caches, when it is run live); ``split`` debugfs, too.
"""


ANY = "any"
"""All kinds in turn, but for those that do something to other programs, too, when they are run live."""


def random_scenario(seed: int, kind: str = "mixed", sizes: Iterable[int] = ANON_ORDERS) -> Scenario:
    """A random program, the same for the same arguments.

    Parameters
    ----------
    kind : str
        One of `KINDS`, or `ANY`.
    sizes : iterable of int
        Orders that may be enabled; before 6.8 only 9.
    """
    if kind == ANY:
        gentle = [kind for kind in KINDS if kind not in ("forkfail", "split", "shrink")]
        kind = gentle[seed % len(gentle)]
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")
    return _Generator(seed, kind, frozenset(sizes)).scenario()


class _Generator:
    """Chooses steps one by one, each with the model as it stands after the steps before."""

    def __init__(self, seed: int, kind: str, sizes: frozenset[int]) -> None:
        self.random, self.kind, self.name = random.Random(f"{kind}/{seed}"), kind, f"{kind}-{seed}"
        self._choose_shape(sizes)
        self.cuts = self._choose_cuts()
        self.empty = Scenario(self.pages, (), self.orders, self.skew, self.name, **self._choose_knobs(sizes))
        self.base = self.empty.first_vpn
        self.machine: Machine = self.empty.machine(frames=FRAMES)
        self.steps: list[Step] = []
        self.recent: list[int] = []
        self.byte = 0
        self.pinned: dict[tuple[int, int], tuple[int, int]] = {}
        self.undo: list[Step] = []
        self.placed = 0
        self.moves_back: list[Step] = []

    def _choose_shape(self, sizes: frozenset[int]) -> None:
        choose, huge = self.random.choice, self.kind == "huge"
        sets = PMD_ORDER_SETS if huge else ORDER_SETS
        if self.kind in (
            "mixed",
            "populate",
            "mappings",
            "free",
            "guard",
            "collapse",
            "split",
            "shrink",
            "knobs",
            "locked",
        ):
            sets += ((4, 9), (9,))
        self.orders = choose([orders for orders in sets if sizes.issuperset(orders)] or [()])
        if huge:
            self.pages = choose([520, 520, 530, 600, 700, 1030, 1100])
            self.skew = choose([0, 0, 0, 3, 4, 8, 16, 200, 256, 500, 511])
        elif self.kind == "collapse":
            self.pages, self.skew = choose([512, 520, 600, 1100, 1600]), choose([0, 0, 0, 0, 3, 256, 500])
        elif self.kind == "mappings":
            self.pages = choose([600, 1100, 1700] if PMD_ORDER in self.orders else [32, 48, 64, 96])
            self.skew = choose([0, 0, 0, 4, 8, 13, 500])
        else:
            self.pages = choose([40, 520, 520] if PMD_ORDER in self.orders else [16, 16, 24, 40, 40, 48])
            self.skew = choose([0, 0, 0, 3, 4, 5, 8, 11, 12, 16, 500])
        self.large = self.pages > 100
        # A live run waits for each process, and a large mapping takes long to look at.
        self.max_steps = self.random.randint(6, 18 if self.large else 30) + (20 if self.kind == "mappings" else 0)
        self.max_live = 3 if self.large else 5

    def _choose_knobs(self, sizes: frozenset[int]) -> dict[str, Any]:
        """What the knobs say and the mapping is given; all but two kinds leave it at what `orders` means."""
        choose = self.random.choice
        if self.kind == "locked":
            # What mmap populates is advised by nobody yet.
            return {"thp": choose(("always", "madvise"))}
        if self.kind != "knobs":
            return {}
        # 2 MiB only where the shape was chosen for it: other mappings hold none.
        orders = self.orders if PMD_ORDER in self.orders else sorted(sizes & {2, 3, 4, 5})
        knobs = {order: choose(KNOBS) for order in orders}
        return {"knobs": knobs, "thp": choose(THP), "advice": choose(("none", "none", "hugepage", "nohugepage"))}

    def _choose_cuts(self) -> list[int]:
        """Where mappings are cut and met again by the programs about merging; half of them on block bounds."""
        cuts = self.random.sample(range(self.pages + 1), self.random.randint(2, 5))
        if self.random.random() < 0.5:
            cuts = [min(self.pages, max(0, cut // 4 * 4 - self.skew % 4)) for cut in cuts]
        return sorted({0, self.pages, *cuts})

    def scenario(self) -> Scenario:
        """Begin, go on, and at the end write: that shows what is exclusive, and which block fits."""
        self._begin()
        for _ in range(400):
            if len(self.steps) >= self.max_steps:
                break
            weights = KINDS[self.kind]
            operation = self.random.choices(list(weights), list(weights.values()))[0]
            process = self.random.choice(self.machine.live())
            getattr(self, "_" + operation, partial(self._draw, operation))(process)
        for process in self.machine.live():
            for _ in range(1 if self.kind == "huge" else self.random.randint(0, 3)):
                self._write(process)
        return self.empty.but(steps=tuple(self.steps))

    def _begin(self) -> None:
        first, chance = self.machine.process(0), self.random.random()
        if self.kind == "populate":
            for page in self.random.sample(range(self.pages), 2 if chance < 0.3 else 0):
                self._do("read", first, page)
            if 0.3 <= chance < 0.5 and not self.large:
                for page in range(0, self.pages, self.random.choice([2, 4, 8])):
                    self._write_at(first, page)
        elif self.kind == "merge":
            for cut in self.cuts[:-1]:
                if self.random.random() < 0.5:
                    self._write_at(first, cut)
        elif self.kind == "huge" and chance < 0.7:
            page = min(self.pages - 1, self._pmd_bound() + self.random.randrange(PTRS_PER_PMD))
            if chance < 0.3:
                self._do("read", first, page)
            else:
                self._write_at(first, page)
        elif self.kind == "mappings":
            if chance < 0.8:
                self._do("munmap", first, 0, self.pages)
            for _ in range(self.random.randint(1, 4)):
                self._mmap(first)
        if self.kind in ("populate", "mixed") or chance < 0.7:
            for _ in range(self.random.randint(1, 3)):
                self._write(first)

    # --- choosing pages -----------------------------------------------------------------------------------------

    def _pmd_bound(self) -> int:
        """The first page of the mapping that starts a 2 MiB block."""
        return -self.skew % PTRS_PER_PMD

    def _loose(self) -> bool:
        """Whether this step may ask for what will be refused."""
        return self.kind == "refused" or self.random.random() < 0.1

    def _vmas(self, process: Process) -> list[Vma]:
        return process.mm.vmas_in(self.base, self.base + self.pages)

    def _access(self, process: Process) -> list[int]:
        """Per page the access that its mapping allows: 0, VM_READ, or both."""
        access = [0] * self.pages
        for vma in self._vmas(process):
            start, end = vma.start - self.base, vma.end - self.base
            access[start:end] = [vma.flags & (VM_READ | VM_WRITE)] * (end - start)
        return access

    def _page(self, process: Process, need: int) -> int | None:
        """A page that may be accessed so, by preference near one that something was done with."""
        fits = [page for page, access in enumerate(self._access(process)) if access & need]
        if not fits:
            return None
        near: list[int] = []
        if self.recent and self.random.random() < 0.5:
            center = self.random.choice(self.recent)
            near = [page for page in fits if abs(page - center) <= 4]
        elif self.large and self.random.random() < 0.4:
            bound = self._pmd_bound()
            edges = {0, self.pages - 1, *(bound + at for at in (-1, 0, 1, 255, 256, 511, 512))}
            near = [page for page in fits if page in edges]
        return self.random.choice(near or fits)

    def _range(self) -> tuple[int, int]:
        choose, chance = self.random.choice, self.random.random()
        if self.kind == "merge" and chance < 0.75:
            start, end = sorted(self.random.sample(self.cuts, 2))
            return start, end - start
        if self.kind == "mappings" and chance < 0.6:
            start, end = sorted(self.random.sample(self._bounds(), 2))
            return start, end - start
        if self.large:
            n = choose([1, 1, 2, 8, 16, 100, 256, 300, 511, 512, 512, 513, self.pages])
            bound = self._pmd_bound()
            places = [bound, bound, bound + 512, bound + 256, bound - n, bound + 512 - n]
            start = choose([*places, self.random.randrange(self.pages)]) + choose([0, 0, 0, 0, 1, -1, 4, 16])
        else:
            n = choose([1, 1, 2, 3, 4, 4, 5, 8, 8, 8, 12, 16, 16, self.pages])
            start = self.random.randrange(self.pages)
            if chance < 0.6:
                block = choose([4, 8, 16])
                start = start // block * block - self.skew % block
        n = min(n, self.pages)
        return max(0, min(start, self.pages - n)), n

    def _bounds(self) -> list[int]:
        """Where mappings of some process begin and end, and what else cuts."""
        vmas = self._vmas(self.random.choice(self.machine.live()))
        return sorted({*self.cuts, *(end - self.base for vma in vmas for end in (vma.start, vma.end))})

    def _has_hole(self, process: Process, start: int, n: int) -> bool:
        first, end = self.base + start, self.base + start + n
        return sum(min(vma.end, end) - max(vma.start, first) for vma in process.mm.vmas_in(first, end)) < n

    # --- doing --------------------------------------------------------------------------------------------------

    def _do(self, operation: str, process: Process, *arguments: int | str | None) -> bool:
        step = (operation, process.number, *arguments)
        self.steps.append(step)
        if TABLE[operation].arguments[:1] == ("page",):
            self.recent = [*self.recent[-5:], int(arguments[0] or 0)]
        ok, value, _ = do_step(self.machine, step, self.base)
        if TABLE[operation].places and value is not None:
            self.placed = value
        return ok

    def _do_if_alive(self, step: Step) -> None:
        operation, number, *arguments = step
        if self.machine.process(number).alive:
            self._do(operation, self.machine.process(number), *arguments)

    def _held(self, process: Process, kind: str) -> list[int]:
        return sorted(number for what, number in process.pins() if what == kind)

    def _some_held(self, kind: str) -> tuple[Process, int] | None:
        """A pin or reference of any process."""
        held = [(process, id) for process in self.machine.live() for id in self._held(process, kind)]
        return self.random.choice(held) if held else None

    def _write_at(self, process: Process, page: int) -> None:
        self.byte = self.byte % 255 + 1
        self._do("write", process, page, self.byte)

    def _write(self, process: Process) -> None:
        page = self._page(process, VM_WRITE)
        if self.kind == "segv" and self.random.random() < 0.3:
            page = self.random.randrange(self.pages)
        if self.kind == "mappings" and self.random.random() < 0.2:
            page = self._stack(process) or page
        if page is not None:
            self._write_at(process, page)

    def _read(self, process: Process) -> None:
        page = self._page(process, VM_READ)
        if self.kind == "segv" and self.random.random() < 0.4:
            page = self.random.randrange(self.pages)
        if page is not None:
            self._do("read", process, page)

    def _draw(self, operation: str, process: Process) -> None:
        """An operation that needs no more care than its arguments do."""
        op, n = TABLE[operation], 1
        held = self._held(process, op.makes)
        page = self.random.randrange(self.pages) if self._loose() else self._page(process, VM_READ)
        if "n" in op.arguments:
            page, n = self._range()
        if page is not None:
            values = {"page": page, "n": n, "id": min(set(range(len(held) + 1)) - set(held))}
            self._do(operation, process, *(values[name] for name in op.arguments))

    def _fork(self, process: Process) -> None:
        if len(self.machine.live()) < self.max_live:
            self._do("fork", process)

    def _forkfail(self, process: Process) -> None:
        copied = [vma for vma in self._vmas(process) if not vma.flags & VM_DONTCOPY]
        if copied:
            vma = self.random.choice(copied)
            self._do("forkfail", process, self.random.randrange(vma.start, vma.end) - self.base)

    def _split(self, process: Process) -> None:
        self._do("split", process, *self._range(), self.random.choice([0, 0, 0, 2, 2, 3, 4, 8]))

    def _exit(self, process: Process) -> None:
        if len(self.machine.live()) > 1:
            self._do("exit", process)

    def _munmap(self, process: Process) -> None:
        start, n = self._range()
        if self.kind in ("merge", "segv", "refused"):
            n = min(n, self.random.choice([1, 2, 4, 8]))
        # A program without memory soon has nothing to do.
        if n < self.pages - 2 or self.random.random() < 0.2:
            self._do("munmap", process, start, n)

    def _mmap(self, process: Process) -> None:
        """Then, often, what makes it fit its neighbours: the sizes' advice."""
        start, n = self._range()
        stack = ["growsdown"] if self.kind == "mappings" else []
        how = self.random.choice([*3 * ["anywhere"], *2 * ["fixed"], "noreplace", *stack])
        if self.kind == "locked":
            how = "populate"
        if how == "anywhere":
            n = self.random.choice(
                [1, 2, 3, 4, 4, 5, 8, 8, 12, 16, *(3 * [100, 512, 512, 520, 1024] if self.large else [])]
            )
            n = min(n, self.pages)
        prot = self.random.choice([0, 0, 1, 3, 3, 3, 3])
        if how in ("fixed", "growsdown") and n > self.pages // 2 and self.random.random() < 0.7:
            return
        if not self._do("mmap", process, None if how == "anywhere" else start, n, prot, how):
            return
        if self.orders and self.random.random() < 0.7:
            self._do("madvise", process, self.placed, n, "hugepage")
        if self.random.random() < 0.3 and prot != 3:
            self._do("mprotect", process, self.placed, n, 3)

    def _brk(self, process: Process) -> None:
        """Page by page, by what an allocator asks for, or anywhere in the lower half."""
        more = self.random.choice([1, 1, 1, 4, 16, 33, 33, -1, -4, self.random.randrange(self.pages)])
        end = process.mm.brk - self.base + more
        if 0 <= end < self.pages * 3 // 4:
            self._do("brk", process, end)

    def _stack(self, process: Process) -> int | None:
        """A page below one that may grow down to it."""
        stacks = [vma.start - self.base for vma in self._vmas(process) if vma.flags & VM_GROWSDOWN]
        start = max(stacks, default=0)
        return self.random.randrange(max(0, start - 40), start) if start > 0 else None

    def _remap(self, process: Process) -> None:
        """One mapping, or a part of it, or more; to another size, or kept; where the kernel likes, or to a place."""
        choose, vmas = self.random.choice, self._vmas(process)
        if not vmas:
            return
        vma = choose(vmas)
        start, end = max(0, vma.start - self.base), min(self.pages, vma.end - self.base)
        if self.random.random() < 0.3:
            start = self.random.randrange(start, end)
        size = end - start if self.random.random() < 0.7 else self.random.randint(1, end - start)
        if self._loose():
            size = choose([0, size + 1, size + 4])
        new = max(0, size + choose([0, 0, 1, 2, 4, 8, 16, -1, -2, -4, -8]))
        move = choose(["stay", "move", "move", "move", "keep", "keep"])
        if move == "keep" and not self._loose():
            new = size
        place = self.random.randrange(self.pages) if self.random.random() < 0.4 else None
        if max(start, place or 0) + max(size, new, 1) <= self.pages:
            self._do("remap", process, start, size, new, place, move)

    def _mprotect(self, process: Process) -> None:
        start, n = self._range()
        access = self._access(process)[start : start + n]
        if self._has_hole(process, start, n) and not self._loose():
            return
        if self.kind in ("mappings", "locked"):
            self._do("mprotect", process, start, n, self.random.choice([0, 0, 1, 3, 3, 3]))
            return
        undo = VM_READ in access and self.random.random() < 0.75
        self._do("mprotect", process, start, n, 3 if undo else self.random.choice([1, 1, 3]))

    def _madvise(self, process: Process) -> None:
        if self.undo and self.random.random() < 0.4:
            return self._do_if_alive(self.undo.pop(self.random.randrange(len(self.undo))))
        start, n = self._range()
        if self._has_hole(process, start, n) and not self._loose():
            return
        choices: tuple[str, ...] = MERGING_ADVICE if self.kind in ("merge", "forkfail", "mappings") else MIXED_ADVICE
        if self.kind == "free":
            choices = FREEING_ADVICE
        if self.kind == "guard":
            choices = GUARDING_ADVICE
        if self.kind == "collapse":
            choices = COLLAPSING_ADVICE
        if self.kind == "locked":
            choices = LOCKING_ADVICE
        advice = self.random.choice([advice for advice in choices if advice != "hugepage" or self.orders])
        self._do("madvise", process, start, n, advice)
        if advice in UNDO and (UNDO[advice] != "hugepage" or self.orders):
            self.undo.append(("madvise", process.number, start, n, UNDO[advice]))

    def _mremap(self, process: Process) -> None:
        if self.moves_back and self.random.random() < 0.35:
            return self._do_if_alive(self.moves_back.pop())
        start, n = self._range()
        n = min(n, self.pages // 2)
        start = min(start, self.pages - n)
        to = self._destination(start, n)
        if abs(start - to) < n and not (self.kind == "refused" and self.random.random() < 0.3):
            # Ranges that overlap are EINVAL; these touch.
            n = abs(start - to)
        if n < 1 or not 0 <= to <= self.pages - n or not self._may_move(process, start, n):
            return
        self._do("mremap", process, start, n, to)
        self.moves_back.append(("mremap", process.number, to, n, start))

    def _block(self) -> tuple[list[int], int]:
        """Where the blocks of a size begin that lie whole in the window, and that size."""
        n = min(self.random.choice([4, 8, 16]), self.pages // 3)
        return list(range(-self.skew % n, self.pages - n + 1, n)), n

    def _move_away_and_back(self, process: Process) -> None:
        """Away from a neighbour with other flags, which then loses them: what comes back may merge with it."""
        starts, n = self._block()
        if len(starts) < 3:
            return
        at = self.random.randrange(len(starts) - 1)
        start, beside = self.random.sample(starts[at : at + 2], 2)
        away = self.random.choice([other for other in starts if other not in (start, beside)])
        advice = self.random.choice([on for on, off in UNDO.items() if off != "hugepage" or self.orders])
        apart = self.random.random() < 0.8
        if apart:
            self._do("madvise", process, beside, n, advice)
        if self.random.random() < 0.85:
            self._write_at(process, start + self.random.randrange(n))
        self._do("mremap", process, start, n, away)
        if apart:
            self._do("madvise", process, beside, n, UNDO[advice])
        self._do("mremap", process, away, n, start)
        if self.random.random() < 0.6:
            self._fork_and_look(process)

    def _fork_and_look(self, process: Process) -> None:
        """Some pages near one that something was done with, read by parent and child."""
        self._fork(process)
        for reader in (self.machine.processes[-1], process):
            for _ in range(self.random.randint(0, 2)):
                if reader.alive:
                    self._read(reader)

    def _protect_and_back(self, process: Process) -> None:
        """A whole block, read-only and back, with a look or a write between; then a write shows what was kept."""
        starts, n = self._block()
        start = self.random.choice(starts)
        if self.random.random() < 0.6:
            self._write_at(process, start + self.random.randrange(n))
        for prot in (1, 3):
            self._do("mprotect", process, start, n, prot)
            if self.random.random() < 0.4:
                self._read(process)
        if self.random.random() < 0.8:
            self._write_at(process, start + self.random.randrange(n))

    def _destination(self, start: int, n: int) -> int:
        choose = self.random.choice
        if self.kind == "merge" and self.random.random() < 0.7:
            return choose(self.cuts) - choose([0, n])
        if self.large:
            return start + choose([512, -512, 1, 4, 16, 256, 300, -300, -1, -16])
        return start + choose([n, -n, 16, -16, 8, -8, 1, 4, self.random.randint(-self.pages, self.pages)])

    def _may_move(self, process: Process, start: int, n: int) -> bool:
        """Whether the move makes sense: mostly within one mapping, holes only where refusals are wanted."""
        if self.kind == "merge" or self._loose():
            return True
        if self._has_hole(process, start, n):
            return False
        first, end = self.base + start, self.base + start + n
        inside = any(vma.start <= first and end <= vma.end for vma in self._vmas(process))
        return inside or self.random.random() < 0.3

    def _thp_disable(self, process: Process) -> None:
        self._do("thp_disable", process, self.random.choice(("yes", "no", "no", "except_advised")))

    def _pin(self, process: Process) -> None:
        start, n = self._range()
        held = self._held(process, "pin")
        if len(held) >= 3:
            return
        if not self._loose():
            n = min(n, self.random.choice([1, 1, 2, 4, 8, 16]))
            if any(not access & VM_WRITE for access in self._access(process)[start : start + n]):
                return
        id = min(set(range(4)) - set(held))
        if self._do("pin", process, start, n, id):
            self.pinned[process.number, id] = (start, n)

    def _unpin(self, _: Process) -> None:
        if found := self._some_held("pin"):
            self._do("unpin", *found)

    def _unref(self, _: Process) -> None:
        if found := self._some_held("reference"):
            self._do("unref", *found)

    def _dma_write(self, _: Process) -> None:
        self._device(writes=True)

    def _dma_read(self, _: Process) -> None:
        self._device(writes=False)

    def _device(self, *, writes: bool) -> None:
        """The device at some page of some pin; then, often, the process looks whether it sees that."""
        found = self._some_held("pin")
        if found is None:
            return
        process, id = found
        start, n = self.pinned[process.number, id]
        k = self.random.randrange(n)
        if writes:
            self.byte = self.byte % 255 + 1
            self._do("dma_write", process, id, k, self.byte)
        else:
            self._do("dma_read", process, id, k)
        if self.random.random() < 0.6 and self._access(process)[start + k]:
            self._do("read", process, start + k)


# --- making one smaller ---------------------------------------------------------------------------------------------


def shrink(scenario: Scenario, first_difference: Callable[[Scenario], int | None]) -> Scenario:
    """A program as small as this can make it that still shows a difference: none of its steps can be left out.

    Steps are left out, many at once first, and processes are made one with their parents.

    Parameters
    ----------
    scenario : Scenario
        One that shows a difference.
    first_difference : callable
        Runs a scenario on both witnesses; the index of the first step at which they differ, or None.
    """
    found = first_difference(scenario)
    if found is None:
        return scenario
    scenario = _up_to(scenario, found)
    size = max(1, len(scenario.steps) // 2)
    while size:
        smaller = _remove_some(scenario, size, first_difference)
        if smaller is None and size == 1:
            smaller = _unite_some(scenario, first_difference)
        if smaller is None:
            size //= 2
        else:
            scenario = smaller
    return scenario


def _remove_some(scenario: Scenario, size: int, first_difference: Callable[[Scenario], int | None]) -> Scenario | None:
    """The first that still differs without `size` steps in a row, from the end; the last step shows it and stays."""
    for start in range(len(scenario.steps) - 1 - size, -1, -1):
        smaller = without(scenario, range(start, start + size))
        found = first_difference(smaller)
        if found is not None:
            return _up_to(smaller, found)
    return None


def _unite_some(scenario: Scenario, first_difference: Callable[[Scenario], int | None]) -> Scenario | None:
    """The first that still differs when a child's steps are its parent's."""
    forks = sum(step[0] == "fork" for step in scenario.steps)
    for child in range(forks, 0, -1):
        smaller = united(scenario, child)
        found = first_difference(smaller)
        if found is not None:
            return _up_to(smaller, found)
    return None


def united(scenario: Scenario, child: int) -> Scenario:
    """A scenario without one fork: what the child did its parent does, and the first of the two to exit does not."""
    made = [at for at, step in enumerate(scenario.steps) if step[0] == "fork"][child - 1]
    parent: int = scenario.steps[made][1]
    exits = [at for at, step in enumerate(scenario.steps) if step[0] == "exit" and step[1] in (parent, child)]
    dropped = {made, *exits[:1]}

    def number_of(process: int) -> int:
        return parent if process == child else process - (process > child)

    steps = tuple(
        (operation, number_of(process), *arguments)
        for at, (operation, process, *arguments) in enumerate(scenario.steps)
        if at not in dropped
    )
    return scenario.but(steps=steps)


def _up_to(scenario: Scenario, index: int) -> Scenario:
    return scenario.but(steps=scenario.steps[: index + 1])


def without(scenario: Scenario, removed: range) -> Scenario:
    """A scenario less some steps, and less what only makes sense after them; processes are numbered anew."""
    numbers: dict[int, int] = {0: 0}
    forks = 0
    made: set[tuple[str, int, int]] = set()
    steps: list[Step] = []
    for index, (operation, process, *arguments) in enumerate(scenario.steps):
        forks += operation == "fork"
        if index in removed or process not in numbers:
            continue
        op = TABLE[operation]
        if op.makes:
            made.add((op.makes, process, arguments[op.arguments.index("id")]))
        elif op.uses and (op.uses, process, arguments[op.arguments.index("id")]) not in made:
            continue
        steps.append((operation, numbers[process], *arguments))
        if operation == "fork":
            numbers[forks] = len(numbers)
    return scenario.but(steps=tuple(steps))
