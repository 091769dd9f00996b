"""Every operation of a program, each once: its arguments, what it does on the model, how it is said, who may use it.

Whatever handles steps reads this table: scenarios and recordings (what a step may be), the search and the random
programs (what they try), live runs (what a kernel can be asked), pictures and the playground (words). A new operation
is one `Op`, the kernel function that it calls, and its call in `anonfolio.witness.live.worker`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from ..kernel import given
from ..kernel.mmap import ADVICE as FLAGS_OF_ADVICE
from ..kernel.pagetable import PTE_WRITE
from ..kernel.sizes import ANON_ORDERS
from ..machine.machine import ADVICE, PROTECTIONS, Machine, Outcome, Process, SegmentationFault

Step = tuple[Any, ...]
"""One step as recordings write it: ``(op, process, argument, …)``."""

Answer = tuple[bool, int | None, str]
"""Whether a step was done, the value it returned, and why it was not."""
SEGV = "SIGSEGV"
"""What stands for an errno where an access hits a hole, or writes where that is not allowed."""

PAGES = ("page", "newpage", "place")
"""Arguments that are a page: an index in the scenario's arena, a page number for the machine."""
ANYWHERE = "-"
"""How a `place` is written that the kernel is to choose; in a recording it is null, in a step None."""
THP_DISABLED: dict[str, bool | str] = {"yes": True, "no": False, "except_advised": "except_advised"}
"""What PR_SET_THP_DISABLE is told, in words -> what `Process.thp_disable` is."""
WORDS: dict[str, tuple[str, ...]] = {
    "advice": ADVICE,
    "how": ("anywhere", "fixed", "noreplace", "noreserve", "populate", "growsdown"),
    "disabled": tuple(THP_DISABLED),
    "move": ("stay", "move", "keep"),
}
"""Arguments that are words, and which."""
PROTECTION_WORDS = {0: "inaccessible", 1: "read-only", 3: "readable and writable"}
MOST = (1 << 31) - 1
"""The largest number that an argument may be."""
MOST_STEPS = 100_000
"""So many steps has a scenario at most."""


class ScenarioError(ValueError):
    """A scenario that cannot be run: which step, what is wrong, what would be right."""


class Situation(NamedTuple):
    """Where the search stands: one process, and what it may do there.

    Attributes
    ----------
    pages, half : int
        Size of the mapping, which starts at page 0; advice and unmapping act on halves.
    entries : list of int
        Per page the bits of its page-table entry.
    room, others : bool
        Whether a further process may be made, and whether there is another one.
    word : str
        The name that was asked for: an operation, or an advice.
    tried : range
        The pages that operations on one page are tried with.
    """

    process: Process
    pages: int
    half: int
    entries: list[int]
    room: bool
    others: bool
    word: str
    tried: range


Tries = Callable[[Situation], Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes
    ----------
    name : str
        As recordings write it.
    arguments : tuple of str
        After the process. The names are kinds: see `PAGES`, `WORDS` and `_check_argument`.
    run : callable
        ``run(process, *arguments)`` on the model, pages being page numbers: a method of `Process`, or a function that
        first refuses, as the kernel does, what that method takes for misuse.
    says : str
        The step in words. May name its arguments, and ``who``, ``where`` (its pages), ``child`` (the new process).
    makes, uses : str
        ``"pin"`` or ``"reference"``: what its id names from now on, or must name already.
    tries : callable, optional
        What of it the search tries in a situation; None for what is not searched.
    drawn : mapping of str to int
        How often it is drawn, by the kind of random program (`random_programs.KINDS` has more).
    access : bool
        Whether it is one instruction that reads or writes a page.
    returns : bool
        Whether every witness tells the byte that it returned; of a device's read a recorder may or may not keep one.
    places : bool
        Whether it returns where a mapping is: a page, told as all page arguments are.
    gup : bool
        Whether the kernel takes pages for it (`get_user_pages`, mm/gup.c).
    not_live : str
        Why no running kernel can be asked; empty when it can.
    recorded : bool
        Whether a recording may hold it.
    """

    name: str
    arguments: tuple[str, ...]
    run: Callable[..., Any]
    says: str
    makes: str = ""
    uses: str = ""
    tries: Tries | None = None
    drawn: Mapping[str, int] = field(default_factory=dict)
    access: bool = False
    returns: bool = False
    places: bool = False
    gup: bool = False
    not_live: str = ""
    recorded: bool = True

    def absolute(self, arguments: Sequence[Any], base: int) -> list[Any]:
        """The arguments with page numbers for indices in the mapping, which starts at page `base`."""
        pairs = zip(self.arguments, arguments, strict=True)
        return [value + base if name in PAGES and value is not None else value for name, value in pairs]


# --- what they do ---------------------------------------------------------------------------------------------------


def _mmap(process: Process, place: int | None, n: int, prot: int, how: str) -> int | Outcome:
    kind = {"replace": how != "noreplace", "reserve": how != "noreserve"}
    return process.map(place, n, prot, **kind, populate=how == "populate", grows_down=how == "growsdown")


def _remap(process: Process, page: int, size: int, newsize: int, place: int | None, move: str) -> int | Outcome:
    return process.remap(page, size, newsize, place, may_move=move != "stay", keep=move == "keep")


def _answer(returned: Any) -> tuple[Answer, str]:
    """What came of a call, from what it returned: the kernel's word, a byte, or anything else that says it was done."""
    if isinstance(returned, Outcome):
        return (returned.ok, None, returned.why), returned.errno
    return (True, returned if isinstance(returned, int) else None, ""), ""


def _pin(process: Process, page: int, n: int, id: int, *, write: bool = True) -> Outcome:
    if ("pin", id) in process.pins():
        return Outcome(False, "EBUSY", f"EBUSY: process {process.number} holds pin {id} already")
    return process.pin(page, n, id, write=write)


def _ref(process: Process, page: int, id: int) -> Outcome:
    if ("reference", id) in process.pins():
        return Outcome(False, "EBUSY", f"EBUSY: process {process.number} holds reference {id} already")
    return process.ref(page, id)


def _forkfail(process: Process, page: int) -> Outcome:
    if not process.may_fork_fail_at(page):
        return Outcome(False, "", f"fork does not come past page {page}: no mapping there is copied and charged")
    return process.fork_fails(page)


def _gup(process: Process, page: int) -> int | Outcome:
    value = process.gup(page)
    return Outcome(False, "EFAULT", "EFAULT") if value is None else value


def _thp_disable(process: Process, disabled: str) -> Outcome:
    return process.thp_disable(THP_DISABLED[disabled])


def _dma_write(process: Process, id: int, k: int, byte: int) -> Outcome | None:
    pin = process.pins().get(("pin", id))
    if pin is None or not pin.writable or k >= len(pin.frames):
        return Outcome(False, "", f"process {process.number} holds no pin {id} for writing with a page {k}")
    process.dma_write(id, k, byte)
    return None


def _dma_read(process: Process, id: int, k: int) -> int | Outcome:
    pin = process.pins().get(("pin", id))
    if pin is None or k >= len(pin.frames):
        return Outcome(False, "", f"process {process.number} holds no pin {id} with a page {k}")
    return process.dma_read(id, k)


# --- what the search tries of them ----------------------------------------------------------------------------------


def _each_page(at: Situation) -> Iterable[tuple[Any, ...]]:
    return ((page,) for page in at.tried)


def _each_half(at: Situation) -> Iterable[tuple[Any, ...]]:
    return ((start, at.half) for start in range(0, at.pages, at.half))


def _advised(at: Situation) -> Iterable[tuple[Any, ...]]:
    """Advice that a mapping heeds already changes nothing."""
    on, off = FLAGS_OF_ADVICE.get(at.word, (0, 0))
    for start, n in _each_half(at):
        vmas = at.process.mm.vmas_in(start, start + n)
        if at.word not in FLAGS_OF_ADVICE or any(vma.flags & ~off | on != vma.flags for vma in vmas):
            yield start, n, at.word


def _disabled(at: Situation) -> Iterable[tuple[Any, ...]]:
    return (("no",),) if at.process.mm.thp_disabled else (("yes",), ("except_advised",))


def _unpinned(at: Situation) -> Iterable[tuple[Any, ...]]:
    return () if _holds(at, "pin") else ((page, 1, 0) for page in at.tried)


def _holds(at: Situation, kind: str) -> bool:
    """Whether the process holds a pin, or a reference; the search gives it one of each."""
    return (kind, 0) in at.process.pins()


def _each_move(at: Situation) -> Iterable[tuple[Any, ...]]:
    """Each half onto another."""
    starts = range(0, at.pages, at.half)
    return ((start, at.half, new) for start in starts for new in starts if start != new and new + at.half <= at.pages)


# --- the table ------------------------------------------------------------------------------------------------------

_OPS = (
    Op("write", ("page", "byte"), Process.write, "{who} writes page {page}", access=True,
       # Where a page is writable already, nothing but its byte would change.
       tries=lambda at: ((page, 1) for page in at.tried if not at.entries[page] & PTE_WRITE),
       drawn={"mixed": 40, "populate": 50, "refused": 25, "merge": 30, "huge": 26, "dma": 28, "forkfail": 36,
              "segv": 30, "mappings": 34}),
    Op("read", ("page",), Process.read, "{who} reads page {page}", access=True, returns=True,
       tries=lambda at: ((page,) for page in at.tried if not at.entries[page]),
       drawn={"mixed": 7, "populate": 2, "refused": 5, "merge": 3, "huge": 14, "dma": 12, "forkfail": 3, "segv": 12,
              "mappings": 8}),
    Op("fork", (), Process.fork, "{who} forks, which makes process {child}",
       tries=lambda at: [()] if at.room else [],
       drawn={"mixed": 12, "populate": 18, "refused": 4, "merge": 8, "huge": 14, "dma": 12, "forkfail": 8, "segv": 8,
              "mappings": 6}),
    Op("exit", (), Process.exit, "{who} exits: its mappings, pins and references are gone",
       tries=lambda at: [()] if at.others else [],
       drawn={"mixed": 9, "populate": 12, "refused": 2, "merge": 4, "huge": 7, "dma": 7, "forkfail": 5, "segv": 4,
              "mappings": 4}),
    Op("munmap", ("page", "n"), Process.munmap, "{who} unmaps {where}", tries=_each_half,
       drawn={"mixed": 6, "populate": 2, "refused": 12, "merge": 4, "huge": 8, "dma": 3, "forkfail": 5, "segv": 10,
              "mappings": 8}),
    Op("mmap", ("place", "n", "prot", "how"), _mmap, "{who} maps {where}, {prot} ({how})", returns=True, places=True,
       tries=lambda at: ((start, n, prot, "fixed") for start, n in _each_half(at) for prot in PROTECTIONS),
       drawn={"mappings": 24}),
    Op("mremap", ("page", "n", "newpage"), Process.mremap, "{who} moves {where} to page {newpage}", tries=_each_move,
       drawn={"mixed": 6, "refused": 16, "merge": 14, "huge": 8, "dma": 2, "forkfail": 8, "segv": 4, "mappings": 10}),
    Op("remap", ("page", "size", "newsize", "place", "move"), _remap,
       "{who} makes {size} pages from page {page} on {newsize} ({move})", returns=True, places=True,
       tries=lambda at: ((start, n, n, None, "keep") for start, n in _each_half(at)),
       drawn={"mappings": 12}),
    Op("brk", ("page",), Process.brk, "{who} moves the end of its heap to page {page}", drawn={"mappings": 10}),
    Op("mprotect", ("page", "n", "prot"), Process.mprotect, "{who} makes {where} {prot} (mprotect)",
       tries=lambda at: ((*half, prot) for half in _each_half(at) for prot in PROTECTIONS if prot),
       drawn={"mixed": 8, "refused": 16, "merge": 20, "huge": 8, "dma": 2, "forkfail": 10, "segv": 14, "mappings": 16}),
    Op("madvise", ("page", "n", "advice"), Process.madvise, "{who} advises {advice} for {where}", tries=_advised,
       drawn={"mixed": 12, "populate": 1, "refused": 14, "merge": 20, "huge": 12, "dma": 4, "forkfail": 12, "segv": 6,
              "mappings": 12}),
    Op("mlock", ("page", "n"), Process.mlock, "{who} locks {where} (mlock)", tries=_each_half, gup=True),
    Op("mlock_onfault", ("page", "n"), partial(Process.mlock, onfault=True),
       "{who} locks {where} as they come (mlock2)", tries=_each_half),
    Op("munlock", ("page", "n"), Process.munlock, "{who} unlocks {where} (munlock)", tries=_each_half),
    Op("thp_disable", ("disabled",), _thp_disable, "{who} has huge pages disabled: {disabled} (prctl)",
       tries=_disabled),
    Op("clear_refs", ("which",), lambda process, which: process.clear_refs(),
       "{who} forgets which pages were accessed (clear_refs)"),
    Op("pin", ("page", "n", "id"), _pin, "{who} pins {where} for a device (pin {id})",
       makes="pin", tries=_unpinned, gup=True,
       drawn={"mixed": 4, "refused": 12, "merge": 1, "huge": 4, "dma": 12, "forkfail": 3, "segv": 1, "mappings": 2}),
    Op("unpin", ("id",), Process.unpin, "{who} lets go of pin {id}",
       uses="pin", tries=lambda at: [(0,)] if _holds(at, "pin") else [],
       drawn={"mixed": 3, "refused": 5, "merge": 1, "huge": 3, "dma": 5, "forkfail": 2, "segv": 1, "mappings": 2}),
    Op("gup", ("page",), _gup, "{who} has page {page} read through a short pin", tries=_each_page,
       gup=True, returns=True,
       drawn={"mixed": 4, "populate": 1, "refused": 10, "huge": 4, "dma": 2, "forkfail": 2, "segv": 3, "mappings": 2}),
    Op("ref", ("page", "id"), _ref, "{who} takes a plain reference to page {page} (reference {id})",
       makes="reference", gup=True,
       tries=lambda at: () if _holds(at, "reference") else ((page, 0) for page in at.tried),
       drawn={"mixed": 2, "refused": 5, "huge": 1, "dma": 1}),
    Op("unref", ("id",), Process.unref, "{who} lets go of reference {id}",
       uses="reference", tries=lambda at: [(0,)] if _holds(at, "reference") else [],
       drawn={"mixed": 2, "refused": 3, "huge": 1, "dma": 1}),
    Op("dma_write", ("id", "k", "byte"), _dma_write,
       "The device writes byte {byte} into page {k} of pin {id} of process {process}", uses="pin", drawn={"dma": 18}),
    Op("dma_read", ("id", "k"), _dma_read, "The device reads page {k} of pin {id} of process {process}",
       uses="pin", drawn={"dma": 12}),
    Op("pin_ro", ("page", "n", "id"), partial(_pin, write=False),
       "{who} pins {where} for a device that only reads (pin {id})",
       makes="pin", tries=_unpinned, gup=True, not_live="no system call pins for reading and long without a driver"),
    Op("split", ("page", "n", "order"), Process.split,
       "The folios of {where} of process {process} are split to order {order} (debugfs)",
       tries=lambda at: ((*half, 0) for half in _each_half(at)), drawn={"split": 24}),
    Op("shrink", (), Process.shrink, "Memory gets short, and what is partly mapped is split",
       tries=lambda at: [()], drawn={"split": 14, "shrink": 24}),
    Op("forkfail", ("page",), _forkfail, "{who} forks, and that fails at the mapping of page {page}",
       drawn={"forkfail": 14}),
    Op("forkfail_after", ("pages",), Process.fork_fails_after, "{who} forks, and that fails after {pages} pages",
       tries=lambda at: ((pages,) for pages in range(1, at.pages) if at.room),
       not_live="it is fault injection", recorded=False),
)  # fmt: skip

TABLE: dict[str, Op] = {op.name: op for op in _OPS}
"""Every operation by its name."""


# --- doing one ------------------------------------------------------------------------------------------------------


def do_step(machine: Machine, step: Step, base: int = 0) -> Answer:
    """Do one step; `base` is added to page arguments. What the kernel refuses is an answer, misuse an exception."""
    return step_and_errno(machine, step, base)[0]


def step_and_errno(machine: Machine, step: Step, base: int = 0) -> tuple[Answer, str]:
    """The same, and the name of the errno with which the kernel refused it, `SEGV`, or nothing."""
    name, number, *arguments = step
    op = TABLE[name]
    process = machine.process(number)
    try:
        (ok, value, why), errno = _answer(op.run(process, *(op.absolute(arguments, base) if base else arguments)))
        return (ok, value - base if op.places and value is not None else value, why), errno
    except SegmentationFault as fault:
        return (False, None, str(fault)), SEGV


def said(step: Step, base: int = 0, child: int | None = None) -> str:
    """A step in plain English, its pages as page numbers; `child` is the process that a fork makes."""
    name, number, *arguments = step
    op = TABLE[name]
    values = dict(zip(op.arguments, op.absolute(arguments, base), strict=True))
    if "prot" in values:
        values["prot"] = PROTECTION_WORDS[values["prot"]]
    first, n = values.get("page", values.get("place", 0)), values.get("n", 1)
    where = f"{n} pages where the kernel likes" if first is None else pages_in_words(range(first, first + n))
    return op.says.format(who=f"Process {number}", process=number, child=child, where=where, **values)


def pages_in_words(pages: range) -> str:
    """``"page 3"`` or ``"pages 3–5"``."""
    return f"page {pages.start}" if len(pages) == 1 else f"pages {pages.start}–{pages.stop - 1}"


# --- checking one ---------------------------------------------------------------------------------------------------


def check_step(step: Step, pages: int, alive: list[bool]) -> None:
    """Raise ScenarioError unless the step makes sense for a mapping of `pages`; keeps `alive` up to date."""
    if not step or not isinstance(step[0], str) or step[0] not in TABLE:
        raise ScenarioError(
            f"there is no operation {given.said(step[0] if step else '')}; there are {', '.join(TABLE)}"
        )
    name, names = step[0], TABLE[step[0]].arguments
    if len(step) != 2 + len(names):
        raise ScenarioError(f"{name} takes {', '.join(('process', *names))}")
    process = step[1]
    if not _is_count(process) or process >= len(alive):
        raise ScenarioError(
            f"there is no process {given.said(process)}; so far there are {len(alive)}, numbered from 0"
        )
    if not alive[process]:
        raise ScenarioError(f"process {process} has exited")
    arguments = dict(zip(names, step[2:], strict=True))
    for kind, value in arguments.items():
        _check_argument(kind, value)
    if "how" in arguments and (arguments["place"] is None) != (arguments["how"] == "anywhere"):
        raise ScenarioError(f"place {ANYWHERE} (null, None) and how anywhere go together; any other how needs a page")
    n = arguments.get("n", max(1, arguments.get("size", 1), arguments.get("newsize", 1)))
    for start in PAGES:
        if arguments.get(start) is not None and arguments[start] + n > pages:
            last = arguments[start] + n - 1
            raise ScenarioError(f"page {last} is outside the mapping, which has pages 0..{pages - 1}")
    if name == "fork":
        alive.append(True)
    if name == "exit":
        alive[process] = False


def check_count(steps: int) -> None:
    """Raise ScenarioError for more steps than a scenario may have."""
    if steps > MOST_STEPS:
        raise ScenarioError(f"{steps:,} steps are too many for a scenario; at most {MOST_STEPS:,}")


def _check_argument(kind: str, value: Any) -> None:
    if kind in WORDS:
        if not isinstance(value, str) or value not in WORDS[kind]:
            raise ScenarioError(f"there is no {kind} {given.said(value)}; there are {', '.join(WORDS[kind])}")
    elif kind == "prot":
        if not _is_count(value) or value not in PROTECTIONS:
            raise ScenarioError(f"prot {given.said(value)} is none of 0 (nothing), 1 (read) and 3 (read and write)")
    elif kind == "place" and value is None:
        return
    elif not _is_count(value):
        raise ScenarioError(f"{kind} is {given.said(value)}, not a number from 0 to {MOST}")
    elif kind == "order" and value not in (0, *ANON_ORDERS):
        raise ScenarioError(f"order is {value}; folios are split to order 0 or to one of 2 to 9")
    elif kind == "which" and value != 1:
        raise ScenarioError(f"clear_refs takes 1, which is all pages, not {value}")
    elif kind == "byte" and value > 255:
        raise ScenarioError(f"byte {value} is not in 0..255")
    elif kind == "n" and value < 1:
        raise ScenarioError("a range has at least one page")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


# --- reading one ----------------------------------------------------------------------------------------------------


def parse_step(words: Sequence[str], pages: int) -> list[Step]:
    """The steps of one line of a scenario file over a mapping of `pages`: one, or an access to each page of a span."""
    name, *rest = words
    names = ("process", *TABLE[name].arguments)
    if TABLE[name].access and len(rest) in (2, len(names)) and (span := re.fullmatch(r"(\d+)\.\.(\d+)", rest[1])):
        process, first, last = (
            parse_number(*word) for word in ((rest[0], "process"), (span[1], "page"), (span[2], "page"))
        )
        if last < first:
            raise ScenarioError(f"{rest[1]} holds no page; a span goes from the lower page to the higher")
        if last >= pages:
            raise ScenarioError(f"page {last} is outside the mapping, which has pages 0..{pages - 1}")
        check_count(last + 1 - first)
        byte = parse_number(rest[2], "byte") if len(rest) == 3 else None
        own = [(page + 1) % 256 if byte is None else byte for page in range(first, last + 1)]
        return [(name, process, page, own[page - first])[: 1 + len(names)] for page in range(first, last + 1)]
    if len(rest) != len(names):
        raise ScenarioError(f"{name} takes {', '.join(names)}")
    pairs = zip(names, rest, strict=True)
    return [(name, *(_parse_word(word, kind) for kind, word in pairs))]


def _parse_word(word: str, kind: str) -> int | str | None:
    if kind in WORDS:
        return word
    if kind == "place" and word == ANYWHERE:
        return None
    return parse_number(word, f"{kind} (a page, or {ANYWHERE})" if kind == "place" else kind)


def in_text(argument: int | str | None) -> str:
    """An element of a step as a word of a scenario file."""
    return ANYWHERE if argument is None else str(argument)


def parse_number(word: str, what: str) -> int:
    """A word of a scenario file as the number that it should be."""
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise ScenarioError(f"{what} is {given.said(word)}, not a number")
    return int(word)
