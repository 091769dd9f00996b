"""A second, plain model of anonymous memory: dictionaries, one page at a time, written apart from the first.

It knows what drawn questions need: reads, writes, fork, exit, munmap, mprotect of everything, some advice, pins, plain
references, a device's writes, and arm64's contiguous bit. Nothing of anonfolio's kernel is imported.
"""

from __future__ import annotations

from typing import Any

ZERO = "zero page"
PLAIN = {
    "large": (), "always": (), "marks": True, "rule": "mm_id", "range": False, "copy": "page", "zero": "page",
    "huge_zero": True, "cont": False,
}  # fmt: skip
ALL = (2, 3, 4, 5, 6, 7, 8, 9)
RFC: dict[str, Any] = {
    "large": (9,), "always": (2, 3, 4), "rule": "scan", "range": True, "copy": "block", "zero": "block",
    "huge_zero": False,
}  # fmt: skip
RULES: dict[str, dict[str, Any]] = {
    "Linux 5.10": {"large": (9,), "marks": False, "rule": "one", "huge_zero": False},
    "Linux 6.1": {"large": (9,), "rule": "one", "huge_zero": False},
    "Linux 6.8": {"large": ALL, "rule": "one", "huge_zero": False},
    "Linux 6.12": {"large": ALL, "rule": "never", "huge_zero": False},
    "Linux 6.18": {"large": ALL},
    "Linux 7.3": {"large": ALL},
    "RFC v2 (a proposal of 2023, never merged)": RFC,
    "RFC v2 repaired (never merged)": RFC | {"copy": "shared block"},
}
for release, cont in (("6.1", False), ("6.8", False), ("6.12", True), ("7.3", True)):
    RULES[f"Linux {release} on arm64"] = RULES[f"Linux {release}"] | {"cont": cont}
RULES["Linux 6.18 on x86-64"] = RULES["Linux 6.18"]


class Folio:
    """Some frames that were allocated together; two slots for who maps it."""

    def __init__(self, order: int) -> None:
        self.order, self.refs, self.pins, self.shared = order, 0, 0, False
        self.frames = [Frame(self, number) for number in range(1 << order)]
        self.slots: list[list[int]] = [[-1, 0], [-1, 0]]

    @property
    def mappings(self) -> int:
        return sum(frame.maps for frame in self.frames)

    @property
    def references(self) -> int:
        return self.mappings + self.refs + self.pins * (1 if self.order else 1024)

    def mapped_by(self, who: int) -> None:
        for slot in self.slots:
            if slot[0] == who:
                slot[1] += 1
                return
        for slot in self.slots:
            if slot[0] == -1:
                slot[:] = [who, 1]
                self.shared = self.shared or self.mappings > 1
                return

    def unmapped_by(self, who: int) -> None:
        for slot in self.slots:
            if slot[0] == who:
                slot[1] -= 1
                if slot[1] > 0:
                    return
                slot[:] = [-1, 0]
                break
        if self.mappings == 0 or any(slot[1] == self.mappings for slot in self.slots):
            self.shared = False


class Frame:
    """One page of memory."""

    def __init__(self, folio: Folio, number: int) -> None:
        self.folio, self.number, self.byte, self.maps, self.exclusive = folio, number, 0, 0, False


class Process:
    """What it maps, per page: flags of the mapping, and an entry [frame or ZERO, writable]."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.flags: dict[int, frozenset[str]] = {}
        self.anon: set[int] = set()
        self.entries: dict[int, list[Any]] = {}
        self.tables: set[int] = set()
        self.huge: set[int] = set()
        self.folded: set[int] = set()
        self.pins: dict[int, list[Frame]] = {}
        self.refs: dict[int, Frame | None] = {}
        self.pinned = False

    def piece(self, page: int) -> tuple[int, int]:
        """The mapping around a page: as far as there is one with the same flags."""
        low = high = page
        while self.flags.get(low - 1) == self.flags[page]:
            low -= 1
        while self.flags.get(high + 1) == self.flags[page]:
            high += 1
        return low, high


class PlainKernel:
    """One machine under the rules of one kernel."""

    def __init__(self, kernel: str, pages: int, orders: tuple[int, ...], skew: int) -> None:
        self.rules = PLAIN | RULES[kernel]
        self.sizes = sorted({*self.rules["always"], *(set(orders) & set(self.rules["large"]))}, reverse=True)
        self.base = skew
        first = Process(0)
        first.flags = {page: frozenset() for page in range(skew, skew + pages)}
        self.processes = [first]
        self.codes: list[str] = []
        self.copied = 0

    # --- steps

    def do(self, step: tuple[Any, ...]) -> int | None:
        """One step; the byte that it returns. `codes` are its faults, `copied` what they copied."""
        op, who, *rest = step
        process = self.processes[who]
        self.codes, self.copied = [], 0
        if op in ("write", "read"):
            return self.access(process, rest[0] + self.base, rest[1] if op == "write" else None)
        if op == "fork":
            self.fork(process)
        elif op == "exit":
            self.exit(process)
        elif op in ("munmap", "mprotect", "madvise"):
            span = range(rest[0] + self.base, rest[0] + self.base + rest[1])
            self.change(process, op, span, rest[2] if len(rest) > 2 else None)
        elif op == "pin":
            self.pin(process, rest[0] + self.base, rest[1], rest[2])
        elif op == "unpin":
            for frame in process.pins.pop(rest[0]):
                frame.folio.pins -= 1
        elif op == "ref":
            page = rest[0] + self.base
            if page not in process.entries:
                self.fault(process, page, write=False)
            what = process.entries[page][0]
            process.refs[rest[1]] = None if what == ZERO else what
            if what != ZERO:
                what.folio.refs += 1
        elif op == "dma_write":
            process.pins[rest[0]][rest[1]].byte = rest[2]
        else:
            raise AssertionError(op)
        return None

    def access(self, process: Process, page: int, byte: int | None) -> int | None:
        if page not in process.entries or (byte is not None and not process.entries[page][1]):
            self.fault(process, page, write=byte is not None)
        what = process.entries[page][0]
        if byte is None:
            return 0 if what == ZERO else what.byte
        what.byte = byte
        return None

    def pin(self, process: Process, page: int, count: int, id: int) -> None:
        process.pinned = True
        for each in range(page, page + count):
            if each not in process.entries or not process.entries[each][1]:
                self.fault(process, each, write=True)
            frame = process.entries[each][0]
            frame.folio.pins += 1
            process.pins.setdefault(id, []).append(frame)

    def fork(self, parent: Process) -> None:
        child = Process(len(self.processes))
        self.processes.append(child)
        for page, flags in sorted(parent.flags.items()):
            child.flags[page] = flags
            if "wipe" in flags or page not in parent.anon:
                continue
            child.anon.add(page)
            if page not in parent.entries:
                continue
            what = parent.entries[page][0]
            if what == ZERO:
                child.entries[page] = [ZERO, False]
            elif parent.pinned and what.folio.pins and (what.exclusive or not self.rules["marks"]):
                copy = Folio(0).frames[0]
                copy.byte = what.byte
                self.map(child, page, copy)
                child.entries[page][1] = "read-only" not in flags
            else:
                parent.entries[page][1] = False
                what.exclusive = False
                self.map(child, page, what, exclusive=False)
        self.fold(child, set(child.entries))

    def exit(self, process: Process) -> None:
        for page in list(process.entries):
            self.unmap(process, page)
        for frames in process.pins.values():
            for frame in frames:
                frame.folio.pins -= 1
        for frame in process.refs.values():
            if frame:
                frame.folio.refs -= 1

    def change(self, process: Process, op: str, span: range, how: Any) -> None:
        pages = [page for page in span if page in process.flags]
        if op == "munmap" or how == "dontneed":
            for page in pages:
                process.huge.discard(page >> 9)
                if page in process.entries:
                    self.unfold(process, page)
                    self.unmap(process, page)
                if op == "munmap":
                    del process.flags[page]
                    process.anon.discard(page)
            return
        for page in pages:
            old = process.flags[page]
            if op == "madvise":
                process.flags[page] = old | {"wipe"} if how == "wipeonfork" else old - {"wipe"}
                continue
            process.flags[page] = old - {"read-only"} if how == 3 else old | {"read-only"}
            if page in process.entries:
                what = process.entries[page][0]
                mine = how == 3 and what != ZERO and self.rules["marks"] and what.exclusive
                process.entries[page][1] = mine

    # --- faults

    def fault(self, process: Process, page: int, *, write: bool) -> None:
        entry = process.entries.get(page)
        if entry is None:
            self.first_touch(process, page, write=write)
        elif entry[0] == ZERO:
            self.replace_zero(process, page)
        else:
            self.write_protected(process, page, entry[0])

    def first_touch(self, process: Process, page: int, *, write: bool) -> None:
        low, high = process.piece(page)
        block = page >> 9
        if 9 in self.sizes and block not in process.tables and low <= block << 9 and (block << 9) + 511 <= high:
            process.tables.add(block)
            process.anon |= set(range(low, high + 1))
            process.huge.add(block)
            if write:
                self.give(process, block << 9, 9, "alloc")
            else:
                process.entries |= {each: [ZERO, False] for each in range(block << 9, (block + 1) << 9)}
                self.codes.append("zeroread")
            return
        process.tables.add(block)
        if not write:
            process.entries[page] = [ZERO, False]
            self.codes.append("zeroread")
            return
        process.anon |= set(range(low, high + 1))
        order = self.largest(process, page, self.sizes, lambda each: each not in process.entries)
        self.give(process, page >> order << order, order, "alloc")

    def largest(self, process: Process, page: int, orders: Any, good: Any) -> int:
        low, high = process.piece(page)
        for order in orders:
            first = page >> order << order
            block = range(first, first + (1 << order))
            if order < 9 and low <= first and block[-1] <= high and all(good(each) for each in block):
                return order
        return 0

    def give(self, process: Process, first: int, order: int, code: str, bytes_: list[int] | None = None) -> None:
        folio = Folio(order)
        pages = range(first, first + (1 << order))
        if first & 15:
            self.unfold(process, first)
        if (pages[-1] + 1) & 15:
            self.unfold(process, pages[-1])
        for page, frame in zip(pages, folio.frames, strict=True):
            frame.byte = bytes_[frame.number] if bytes_ else 0
            if page in process.entries:
                self.unmap(process, page)
            self.map(process, page, frame)
        if order:
            self.fold(process, set(pages))
        self.codes.append(f"{code}{order}")

    def replace_zero(self, process: Process, page: int) -> None:
        low, high = process.piece(page)
        process.anon |= set(range(low, high + 1))
        if page >> 9 in process.huge:
            if self.rules["huge_zero"]:
                self.give(process, page >> 9 << 9, 9, "zero")
                return
            process.huge.discard(page >> 9)
        order = 0
        if self.rules["zero"] == "block":
            order = self.largest(
                process, page, self.sizes, lambda each: process.entries.get(each, [ZERO])[0] == ZERO
            )  # fmt: skip
        self.give(process, page >> order << order, order, "zero")

    def write_protected(self, process: Process, page: int, frame: Frame) -> None:
        if (self.rules["marks"] and frame.exclusive) or self.alone(process, page, frame):
            pages = self.run(process, page, frame)
            for each in pages:
                process.entries[each][1] = True
                process.entries[each][0].exclusive = self.rules["marks"]
                self.unfold(process, each)
            self.codes.append(f"reuse{len(pages)}")
            return
        order = 0
        if self.rules["copy"] != "page":
            top = min(frame.folio.order, 4)
            order = self.largest(
                process, page, range(top, 1, -1), lambda each: self.may_copy(process, page, frame, each)
            )
        first = page >> order << order
        old = [process.entries[each][0].byte for each in range(first, first + (1 << order))]
        self.copied += 1 << order
        self.give(process, first, order, "copy", old)

    def alone(self, process: Process, page: int, frame: Frame) -> bool:
        folio, rule = frame.folio, self.rules["rule"]
        if folio.order == 0 or rule == "one":
            return folio.references == 1
        if rule == "mm_id":
            return folio.mappings > 1 and not folio.shared and folio.mappings == folio.references
        return rule == "scan" and folio.references == len(self.run(process, page, frame))

    def run(self, process: Process, page: int, frame: Frame) -> list[int]:
        """What one reuse makes writable."""
        pages = [page]
        if not self.rules["range"]:
            return pages
        low, high = process.piece(page)
        for way in (-1, 1):
            at = page + way
            while low <= at <= high and at >> 9 == page >> 9 and self.follows(process, page, frame, at):
                if frame.exclusive and not process.entries[at][0].exclusive:
                    break
                pages.append(at)
                at += way
        return sorted(pages)

    def follows(self, process: Process, page: int, frame: Frame, at: int) -> bool:
        what = process.entries.get(at, [ZERO])[0]
        return what != ZERO and what.folio is frame.folio and what.number - frame.number == at - page

    def may_copy(self, process: Process, page: int, frame: Frame, at: int) -> bool:
        if not self.follows(process, page, frame, at):
            return False
        return self.rules["copy"] == "block" or not process.entries[at][0].exclusive

    # --- entries

    def map(self, process: Process, page: int, frame: Frame, *, exclusive: bool = True) -> None:
        process.entries[page] = [frame, exclusive]
        frame.maps += 1
        frame.exclusive = exclusive and self.rules["marks"]
        frame.folio.mapped_by(process.number)

    def unmap(self, process: Process, page: int) -> None:
        what = process.entries.pop(page)[0]
        if what != ZERO:
            what.maps -= 1
            what.folio.unmapped_by(process.number)

    def fold(self, process: Process, pages: set[int]) -> None:
        """Several entries were set at once: which aligned blocks among them are alike, in one folio?"""
        for block in {page >> 4 for page in pages} if self.rules["cont"] else ():
            span = range(block << 4, (block + 1) << 4)
            if not pages.issuperset(span) or ZERO in (process.entries[page][0] for page in span):
                continue
            first = process.entries[span[0]][0]
            alike = all(self.follows(process, span[0], first, page) for page in span)
            if alike and first.number % 16 == 0 and len({process.entries[page][1] for page in span}) == 1:
                process.folded.add(block)

    def unfold(self, process: Process, page: int) -> None:
        process.folded.discard(page >> 4)


def answer(topic: str, kind: str, kernel: str, pages: int, orders: tuple[int, ...], skew: int, steps: Any) -> Any:
    """What is right, by the plain model."""
    machine = PlainKernel(kernel, pages, orders, skew)
    did = []
    for step in steps:
        value = machine.do(step)
        did.append((machine.codes, machine.copied, value))
    if kind == "path":
        return did[-1][0][-1] if did[-1][0] else "nf"
    first, *others = machine.processes
    mine = [what for what, _ in first.entries.values() if what != ZERO]
    if kind in ("faults", "copied") and topic != "pin":
        loop = 0
        while loop < len(steps) and steps[-1 - loop][:2] == steps[-1][:2]:
            if loop and steps[-1 - loop][2] != steps[-loop][2] - 1:
                break
            loop += 1
        return sum(len(codes) > 0 if kind == "faults" else copied for codes, copied, _ in did[-loop:])
    if kind == "copied":
        theirs = [what for what, _ in others[-1].entries.values() if what != ZERO]
        return len(set(map(id, theirs)) - set(map(id, mine)))
    if kind == "shared":
        theirs = [what for what, _ in others[0].entries.values() if what != ZERO] if others else []
        return len(set(map(id, theirs)) & set(map(id, mine)))
    if kind == "exclusive":
        return sum(what.exclusive for what in mine)
    if kind == "read":
        return did[-1][2]
    if kind == "entries":
        return len(first.entries) - 15 * len(first.folded)
    if kind == "blocks":
        return len(first.folded)
    raise AssertionError(kind)
