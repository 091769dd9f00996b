"""The process that a live run watches: it does what it is told, one step at a time, and forks when told to.

`live_kernel` starts this file as a script, in a fresh interpreter without site-packages: small, with one thread, none
of the caller's files open, and none of its memory to be copied at every fork. That first process never has the
scenario's mapping; each of its children is process 0 of one run. Requests and answers are JSON on a socket.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

PAGE = 4096
WINDOW_START = 0x20_0000_0000
"""A 2 MiB boundary far from everything an interpreter maps: where a scenario's page 0 with skew 0 lies."""
MESSAGE_BYTES = 1 << 16

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_POPULATE = 0x01, 0x8000
MAP_ANONYMOUS_PRIVATE, MAP_FIXED, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x22, 0x10, 0x4000, 0x10_0000
MAP_FAILED = (1 << 64) - 1
LOWEST, HIGHEST = 0x1_0000, 1 << 48 if os.uname().machine == "aarch64" else 0x7FFF_FFFF_F000
"""The addresses of a process's memory: above vm.mmap_min_addr, below TASK_SIZE (arm64's DEFAULT_MAP_WINDOW)."""
STACK_GUARD = 1 << 20
"""Below a stack the kernel places nothing (stack_guard_gap)."""
HOW = {
    "fixed": MAP_FIXED,
    "noreplace": MAP_FIXED_NOREPLACE,
    "noreserve": MAP_FIXED | MAP_NORESERVE,
    "populate": MAP_FIXED | MAP_POPULATE,
    "growsdown": MAP_FIXED | 0x100,
}
"""How a mapping is made at a place."""
MREMAP_FIXED, MREMAP_MAYMOVE_FIXED = 2, 3
MOVES = {"stay": 0, "move": 1, "keep": 5}
"""MREMAP_MAYMOVE, and with MREMAP_DONTUNMAP."""
ADVICE = {
    "dontneed": 4, "free": 8, "dontfork": 10, "dofork": 11, "hugepage": 14, "nohugepage": 15, "wipeonfork": 18,
    "keeponfork": 19, "cold": 20, "collapse": 25, "guard_install": 102, "guard_remove": 103,
    "populate_read": 22, "populate_write": 23,
}  # fmt: skip
SYS_IO_URING_SETUP, SYS_IO_URING_ENTER, SYS_IO_URING_REGISTER = 425, 426, 427
REGISTER_BUFFERS, UNREGISTER_BUFFERS = 0, 1
READ_FIXED, WRITE_FIXED = 4, 5
MLOCK_ONFAULT = 1
SYS_BRK = {"aarch64": 214}.get(os.uname().machine, 12)
PR_SET_MM, PR_SET_MM_MAP = 35, 14
PR_SET_CHILD_SUBREAPER, PR_SET_THP_DISABLE = 36, 41
PR_THP_DISABLE = {"yes": (1, 0), "no": (0, 0), "except_advised": (1, 2)}
OVERCOMMIT_MEMORY = "/proc/sys/vm/overcommit_memory"
RUSAGE_BYTES, RUSAGE_MINFLT = 144, 64
COUNTER_BYTES = 1 << 14
VMSTAT = ("pgreuse",)
"""Counters that are lines of /proc/vmstat; every other one is a file with one number."""
ACCESSES = ("write", "read")
COUNTED = frozenset((
    *ACCESSES, "clear_refs", "mmap", "munmap", "mremap", "remap", "brk", "mprotect", "madvise", "mlock",
    "mlock_onfault", "munlock", "thp_disable", "pin", "unpin", "ref", "unref", "dma_write", "dma_read",
))  # fmt: skip

Answer = dict[str, Any]


class IoVec(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class SigAction(ctypes.Structure):
    """struct sigaction, as glibc and musl lay it out on x86-64 and arm64."""

    _fields_ = (
        ("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * 128), ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )  # fmt: skip


def c_library() -> ctypes.CDLL:
    """The C library with the types of what is called here and in `live`."""
    pointer, size, number, long = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_long
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype, library.mmap.argtypes = pointer, [pointer, size, number, number, number, long]
    library.munmap.argtypes = library.mlock.argtypes = library.munlock.argtypes = [pointer, size]
    library.mprotect.argtypes = library.madvise.argtypes = [pointer, size, number]
    library.mremap.restype, library.mremap.argtypes = pointer, [pointer, size, size, number, pointer]
    library.syscall.restype = long
    library.vmsplice.restype = library.process_vm_readv.restype = ctypes.c_ssize_t
    library.vmsplice.argtypes = [number, pointer, size, ctypes.c_uint]
    library.process_vm_readv.argtypes = [number, pointer, ctypes.c_ulong, pointer, ctypes.c_ulong, ctypes.c_ulong]
    return library


if sys.platform == "linux":
    libc = c_library()


def _system_call(number: int, *arguments: object, what: str) -> int:
    longs = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = libc.syscall(number, *longs)
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


LOAD, STORE, FAILED, HANDLER, BETWEEN, CODE_BYTES = 0, 8, 24, 32, 96, 256
"""Where in the machine code each piece begins. What faults within the first 16 bytes is one of the two accesses."""


def _x86_64(page: int) -> dict[int, bytes]:
    getrusage = b"\x31\xff\xb8\x62\x00\x00\x00\x0f\x05"  # xor edi, edi; mov eax, 98; syscall
    return {
        LOAD: b"\x0f\xb6\x07\xc3",  # movzx eax, byte [rdi]; ret
        STORE: b"\x40\x88\x37\x31\xc0\xc3",  # mov [rdi], sil; xor eax, eax; ret
        FAILED: b"\xb8\xff\xff\xff\xff\xc3",  # mov eax, -1; ret
        HANDLER: (
            b"\x48\x8b\x82\xa8\x00\x00\x00"  # mov rax, [rdx + 168]: the saved RIP in the ucontext
            + (b"\x48\xb9" + struct.pack("<Q", page))  # mov rcx, page
            + b"\x48\x29\xc8\x48\x3d\x10\x00\x00\x00"  # sub rax, rcx; cmp rax, 16
            + b"\x77\x0c"  # ja crash
            + (b"\x48\x83\xc1" + bytes([FAILED]))  # add rcx, failed
            + b"\x48\x89\x8a\xa8\x00\x00\x00\xc3"  # mov [rdx + 168], rcx; ret
            + b"\x0f\x0b"  # crash: ud2
        ),
        BETWEEN: (
            b"\x53\x41\x54\x41\x55\x41\x56\x41\x57"  # push rbx, r12, r13, r14, r15
            + b"\x48\x89\xfb\x49\x89\xf4\x49\x89\xcd\x4d\x89\xc6"  # mov rbx, rdi; r12, rsi; r13, rcx; r14, r8
            + (b"\x48\x89\xd6" + getrusage)  # mov rsi, rdx
            + b"\x48\x89\xdf\x4c\x89\xe6\x41\xff\xd6\x41\x89\xc7"  # mov rdi, rbx; rsi, r12; call r14; mov r15d, eax
            + (b"\x4c\x89\xee" + getrusage)  # mov rsi, r13
            + b"\x44\x89\xf8"  # mov eax, r15d
            + b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5b\xc3"  # pop r15, r14, r13, r12, rbx; ret
        ),
    }


def _aarch64(page: int) -> dict[int, bytes]:
    getrusage = (0xD2800000, 0xD28014A8, 0xD4000001)  # mov x0, 0; mov x8, 165; svc 0
    words = {
        LOAD: (0x39400000, 0xD65F03C0),  # ldrb w0, [x0]; ret
        STORE: (0x39000001, 0x52800000, 0xD65F03C0),  # strb w1, [x0]; mov w0, 0; ret
        FAILED: (0x12800000, 0xD65F03C0),  # mov w0, -1; ret
        HANDLER: (
            0xF940DC40,  # ldr x0, [x2 + 440]: the saved PC in the ucontext
            0x58000121,  # ldr x1, page
            0xCB010000, 0xF100401F, 0x54000082,  # sub x0, x0, x1; cmp x0, 16; b.hs crash
            0x91000021 | FAILED << 10, 0xF900DC41, 0xD65F03C0,  # add x1, x1, failed; str x1, [x2 + 440]; ret
            0, 0,  # crash: udf
            page & 0xFFFFFFFF, page >> 32,
        ),
        BETWEEN: (
            0xA9BC7BFD, 0xA90153F3, 0xA9025BF5, 0xF9001BF7,  # push x29, x30, x19 to x23
            0xAA0003F3, 0xAA0103F4, 0xAA0303F5, 0xAA0403F6,  # mov x19, x0; x20, x1; x21, x3; x22, x4
            0xAA0203E1, *getrusage,  # mov x1, x2
            0xAA1303E0, 0xAA1403E1, 0xD63F02C0, 0x2A0003F7,  # mov x0, x19; x1, x20; blr x22; mov w23, w0
            0xAA1503E1, *getrusage,  # mov x1, x21
            0x2A1703E0, 0xA94153F3, 0xA9425BF5, 0xF9401BF7, 0xA8C47BFD, 0xD65F03C0,  # mov w0, w23; pop all; ret
        ),
    }  # fmt: skip
    return {at: struct.pack(f"<{len(piece)}I", *piece) for at, piece in words.items()}


MACHINE_CODE = {"x86_64": _x86_64, "aarch64": _aarch64}
"""By what ``uname -m`` says."""


def byte_access() -> tuple[int, int, Callable[..., int]]:
    """Addresses of ``load(address)`` -> byte and ``store(address, byte)`` -> 0, and who calls them.

    ``between(address, byte, usage, usage, function)`` calls one between two getrusage(RUSAGE_SELF) and returns its
    result: -1 after a SIGSEGV, which it survives.

    Machine code, because each must be one instruction that touches the page, and nothing else may: the handler moves
    the instruction pointer from either of them to the code that returns -1, and lets any other SIGSEGV crash.
    """
    page = libc.mmap(None, PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS_PRIVATE, -1, 0)
    code = bytearray(CODE_BYTES)
    for at, instructions in MACHINE_CODE[os.uname().machine](page).items():
        code[at : at + len(instructions)] = instructions
    ctypes.memmove(page, bytes(code), len(code))
    libc.mprotect(page, PAGE, PROT_READ | PROT_EXEC)
    action = SigAction(handler=page + HANDLER, flags=4)  # SA_SIGINFO
    libc.sigaction(int(signal.SIGSEGV), ctypes.byref(action), None)
    pointer = ctypes.c_void_p
    caller = ctypes.CFUNCTYPE(ctypes.c_int, pointer, ctypes.c_int, pointer, pointer, pointer)
    return page + LOAD, page + STORE, caller(page + BETWEEN)


class Ring:
    """An io_uring with one registered buffer: a pin by FOLL_PIN | FOLL_WRITE | FOLL_LONGTERM."""

    def __init__(self, address: int, pages: int) -> None:
        self.address, self.pages = address, pages
        self._params = ctypes.create_string_buffer(120)
        self.fd = _system_call(SYS_IO_URING_SETUP, 4, self._params, what="io_uring_setup")
        buffer = IoVec(address, pages * PAGE)
        try:
            self._register(REGISTER_BUFFERS, ctypes.byref(buffer), 1)
        except OSError:
            os.close(self.fd)
            raise

    def _register(self, operation: int, argument: object, count: int) -> None:
        _system_call(SYS_IO_URING_REGISTER, self.fd, operation, argument, count, what="io_uring_register")

    def release(self) -> None:
        """Unregister, then close: closing alone lets go of the pin from a work queue, some time later."""
        self._register(UNREGISTER_BUFFERS, None, 0)
        os.close(self.fd)

    def transfer(self, operation: int, fd: int, page: int) -> int:
        """One byte between a file and page `page` of the buffer, by the device's way; returns 1 or -errno."""
        sq_entries, cq_entries = struct.unpack_from("<II", self._params.raw, 0)
        _, sq_tail, sq_mask, _, _, _, sq_array, _ = struct.unpack_from("<8I", self._params.raw, 40)
        cq_head, cq_tail, cq_mask, _, _, cqes, _, _ = struct.unpack_from("<8I", self._params.raw, 80)
        size = max(sq_array + 4 * sq_entries, cqes + 16 * cq_entries)
        ring = libc.mmap(None, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.fd, 0)
        entries = libc.mmap(
            None, 64 * sq_entries, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.fd, 0x1000_0000
        )

        def field(offset: int) -> ctypes.c_uint32:
            return ctypes.c_uint32.from_address(ring + offset)

        tail = field(sq_tail).value
        slot = tail & field(sq_mask).value
        address = self.address + page * PAGE
        entry = struct.pack("<BBHiQQIIQH", operation, 0, 0, fd, (1 << 64) - 1, address, 1, 0, 7, 0)
        ctypes.memmove(entries + 64 * slot, entry.ljust(64, b"\0"), 64)
        field(sq_array + 4 * slot).value = slot
        field(sq_tail).value = tail + 1
        _system_call(SYS_IO_URING_ENTER, self.fd, 1, 1, 1, None, 0, what="io_uring_enter")
        head = field(cq_head).value
        if field(cq_tail).value != head + 1:
            raise OSError("io_uring_enter came back without an answer")
        result = ctypes.c_int32.from_address(ring + cqes + 16 * (head & field(cq_mask).value) + 8).value
        field(cq_head).value = head + 1
        # The next fork must not find them.
        libc.munmap(ring, size)
        libc.munmap(entries, 64 * sq_entries)
        return result


class Counters:
    """Some counters of the whole machine, read before and after one request.

    Buffers are there beforehand: what this process faulted in for itself would be counted with the request.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self.files = {name: os.open(path, os.O_RDONLY) for name, path in files.items()}
        self.before, self.after = ({name: [bytearray(COUNTER_BYTES)] for name in files} for _ in range(2))

    def read(self, buffers: dict[str, list[bytearray]]) -> None:
        """Note how they stand."""
        for name, fd in self.files.items():
            os.preadv(fd, buffers[name], 0)

    def differences(self) -> dict[str, int]:
        """What each counter grew by, less those that did not change."""
        found = {}
        for name in self.files:
            before, after = (_counter(name, buffers[name][0]) for buffers in (self.before, self.after))
            if before != after:
                found[name] = after - before
        return found


def _counter(name: str, text: bytearray) -> int:
    """From a file of one number, or from /proc/vmstat, which has a name and a number on each line."""
    if name not in VMSTAT:
        return int(text.split(b"\n", 1)[0])
    start = text.find(b"\n" + name.encode() + b" ") + len(name) + 2
    return int(text[start : text.find(b"\n", start)])


class Worker:
    """One process of a run: every ``do_…`` is a request that `serve` answers."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.load, self.store, self.between = byte_access()
        self.usage = ctypes.create_string_buffer(RUSAGE_BYTES), ctypes.create_string_buffer(RUSAGE_BYTES)
        self.base = self.end = 0
        self.heap = False
        self.scratch: int = libc.mmap(None, PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS_PRIVATE, -1, 0)
        self.counters: Counters | None = None
        self.rings: dict[int, Ring] = {}
        self.pipes: dict[int, tuple[int, int]] = {}
        self.keeper: int | None = None

    def serve(self) -> None:
        """Answer requests until the other end is closed."""
        while request := self.sock.recv(MESSAGE_BYTES):
            operation, *arguments = json.loads(request)
            try:
                if self.counters and operation in COUNTED:
                    answer = self._counted(self.counters, operation, arguments)
                else:
                    answer = getattr(self, "do_" + operation)(*arguments)
            except Exception as error:  # told, never hidden
                answer = {"error": repr(error)}
            if answer is not None:
                self.sock.send(json.dumps(answer).encode())
        self._let_go()

    def _let_go(self) -> None:
        for ring in self.rings.values():
            ring.release()
        for ends in self.pipes.values():
            _close(*ends)

    def _counted(self, counters: Counters, operation: str, arguments: list[Any]) -> Answer:
        """Do it between two readings. An access is rehearsed on a page of our own: then all else it needs is there."""
        handler: Callable[..., Answer] = getattr(self, "do_" + operation)
        base = self.base
        for last in (False, False, True):
            if operation not in ACCESSES and not last:
                continue
            # The same arguments, so that the interpreter takes the same steps.
            self.base = base if last else self.scratch - arguments[0] * PAGE
            counters.read(counters.before)
            answer = handler(*arguments)
            counters.read(counters.after)
        found = counters.differences()
        if operation not in ACCESSES:
            # Nothing made sure that this process itself reused no page meanwhile.
            found.pop("pgreuse", None)
        return {**answer, "counted": found}

    def do_watch(self, files: dict[str, str]) -> Answer:
        """From now on, in this process and its children, count around every step: counter names and their files."""
        self.counters = Counters(files)
        return {"ok": True}

    def _at(self, page: int) -> int:
        return self.base + page * PAGE

    def _mmap_at(self, address: int, pages: int) -> None:
        flags = MAP_ANONYMOUS_PRIVATE | MAP_FIXED_NOREPLACE
        if libc.mmap(address, pages * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) != address:
            raise OSError(ctypes.get_errno(), f"nothing could be mapped at {address:#x}")

    def do_map(self, pages: int, skew: int, advice: str | None) -> Answer:
        self.base = WINDOW_START + skew * PAGE
        self.end = self.base + pages * PAGE
        self._mmap_at(self.base, pages)
        return _result(libc.madvise(self.base, pages * PAGE, ADVICE[advice])) if advice else {"ok": True}

    def do_keep_khugepaged(self) -> Answer:
        """Give khugepaged an mm it always knows: the first one that it comes to know would wake it, amid a program."""
        if self.keeper is None:
            self.keeper = libc.mmap(None, 8 << 20, PROT_READ | PROT_WRITE, MAP_ANONYMOUS_PRIVATE, -1, 0)
            libc.madvise(self.keeper, 8 << 20, ADVICE["dontfork"])
        return _result(libc.madvise(self.keeper, 8 << 20, ADVICE["hugepage"]))

    # --- processes ----------------------------------------------------------------------------------------------

    def do_fork(self) -> Answer | None:
        mine, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError as error:
            mine.close()
            childs.close()
            return {"ok": False, "errno": error.errno}
        if pid:
            childs.close()
            socket.send_fds(self.sock, [json.dumps({"ok": True, "pid": pid}).encode()], [mine.fileno()])
            mine.close()
            return None
        self.sock.close()
        mine.close()
        # Pins and references belong to the parent; open files are all that the child got of them.
        _close(*(ring.fd for ring in self.rings.values()), *(end for ends in self.pipes.values() for end in ends))
        self.sock, self.rings, self.pipes = childs, {}, {}
        return {"ok": True}

    def do_exit(self) -> NoReturn:
        self._let_go()
        self.sock.send(b'{"ok": true}')
        os._exit(0)

    def do_pads(self, *pads: tuple[int, int]) -> Answer:
        """Map what makes a fork fail (`live.FailingFork`): (address, pages) each, never touched."""
        for address, pages in pads:
            self._mmap_at(address, pages)
        return {"ok": True}

    def do_pads_off(self, *pads: tuple[int, int]) -> Answer:
        for address, pages in pads:
            libc.munmap(address, pages * PAGE)
        return {"ok": True}

    def do_failing_fork(self) -> Answer:
        """Fork under strict overcommit, which lasts as short as it can: other processes suffer from it too."""
        fd = os.open(OVERCOMMIT_MEMORY, os.O_RDWR)
        before = os.read(fd, 16)
        try:
            os.pwrite(fd, b"2", 0)
            if not os.fork():
                os._exit(0)
        except OSError as error:
            return {"ok": False, "errno": error.errno}
        finally:
            os.pwrite(fd, before, 0)
            os.close(fd)
        return {"ok": True}

    def access(self, function: int, address: int, byte: int = 0) -> tuple[int, int]:
        """Load or store a byte; what came of it, and the minor faults that this one instruction took.

        Twice, the first time on a page of our own: what it needs of stack and buffers is there and writable then.
        """
        self.between(self.scratch, byte, *self.usage, function)
        result = self.between(address, byte, *self.usage, function)
        before, after = (struct.unpack_from("<q", usage, RUSAGE_MINFLT)[0] for usage in self.usage)
        return result, after - before

    # --- memory -------------------------------------------------------------------------------------------------

    def do_write(self, page: int, byte: int) -> Answer:
        result, faults = self.access(self.store, self._at(page), byte)
        return {"ok": result == 0, "minflt": faults}

    def do_read(self, page: int) -> Answer:
        value, faults = self.access(self.load, self._at(page))
        return {"ok": value >= 0, "value": value if value >= 0 else None, "minflt": faults}

    def do_mmap(self, place: int | None, n: int, prot: int, how: str) -> Answer:
        if place is None:
            with self._arena_alone():
                address = libc.mmap(None, n * PAGE, prot, MAP_ANONYMOUS_PRIVATE, -1, 0)
        else:
            flags = MAP_ANONYMOUS_PRIVATE | HOW[how]
            address = libc.mmap(self._at(place), n * PAGE, prot, flags, -1, 0)
        return self._placed(address)

    def _placed(self, address: int) -> Answer:
        if address == MAP_FAILED:
            return {"ok": False, "errno": ctypes.get_errno()}
        if not self.base <= address < self.end:
            raise OSError(f"the kernel chose {address:#x}, outside the arena")
        return {"ok": True, "value": (address - self.base) // PAGE}

    @contextmanager
    def _arena_alone(self) -> Iterator[None]:
        """All addresses but the arena are taken meanwhile: where the kernel chooses, it chooses there.

        By mappings that merge with none of a program's (they may be executed) and take no memory.
        """
        with open("/proc/self/maps", "rb") as maps:
            rows = [line.split(maxsplit=5) for line in maps.read().splitlines()]
        taken = [(self.base, self.end)]
        for row in rows:
            first, last = (int(address, 16) for address in row[0].split(b"-"))
            if not self.base <= first < self.end:
                taken.append((first - (STACK_GUARD if row[-1] == b"[stack]" else 0), last))
        taken.sort()
        bounds = zip([LOWEST, *(last for _, last in taken)], [*(first for first, _ in taken), HIGHEST], strict=True)
        gaps = [(start, min(end, HIGHEST)) for start, end in bounds if start < min(end, HIGHEST)]
        flags = MAP_ANONYMOUS_PRIVATE | MAP_FIXED_NOREPLACE | MAP_NORESERVE
        # Below mmap_min_addr root may map, and up to 6.1 at least the kernel looks there too.
        lowest = libc.mmap(PAGE, LOWEST - PAGE, PROT_READ | PROT_EXEC, flags, -1, 0)
        if lowest == PAGE:
            gaps.append((PAGE, LOWEST))
        try:
            for start, end in [gap for gap in gaps if gap[0] != PAGE]:
                if libc.mmap(start, end - start, PROT_READ | PROT_EXEC, flags, -1, 0) != start:
                    raise OSError(ctypes.get_errno(), f"{start:#x} to {end:#x} could not be taken")
            yield
        finally:
            for start, end in gaps:
                libc.munmap(start, end - start)

    def do_munmap(self, page: int, n: int) -> Answer:
        return _result(libc.munmap(self._at(page), n * PAGE))

    def do_mremap(self, page: int, n: int, new: int) -> Answer:
        moved = libc.mremap(self._at(page), n * PAGE, n * PAGE, MREMAP_MAYMOVE_FIXED, self._at(new))
        return _result(0 if moved == self._at(new) else -1)

    def do_remap(self, page: int, size: int, newsize: int, place: int | None, move: str) -> Answer:
        if place is not None:
            flags, to = MOVES[move] | MREMAP_FIXED, self._at(place)
            return self._placed(libc.mremap(self._at(page), size * PAGE, newsize * PAGE, flags, to))
        with self._arena_alone():
            return self._placed(libc.mremap(self._at(page), size * PAGE, newsize * PAGE, MOVES[move], None))

    def do_brk(self, page: int) -> Answer:
        if not self.heap:
            self._move_heap()
        return _result(0 if libc.syscall(SYS_BRK, ctypes.c_void_p(self._at(page))) == self._at(page) else -1)

    def _move_heap(self) -> None:
        """The heap is the arena from now on, empty; the C library, which cannot grow its own any more, maps instead."""
        with open("/proc/self/stat") as stat:
            fields = [int(word) for word in stat.read().rpartition(")")[2].split()[1:]]
        # Numbers as in proc(5), less the three that are gone; data must end below the heap.
        code, stack, arguments = fields[22:24], fields[24], fields[44:48]
        placed = (*code, LOWEST, LOWEST, self.base, self.base, stack, *arguments)
        mm_map = struct.pack("<11QQIi", *placed, 0, 0, -1)
        if libc.prctl(PR_SET_MM, PR_SET_MM_MAP, mm_map, ctypes.c_ulong(len(mm_map)), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_MM_MAP), which wants CONFIG_CHECKPOINT_RESTORE")
        self.heap = True

    def do_mprotect(self, page: int, n: int, prot: int) -> Answer:
        return _result(libc.mprotect(self._at(page), n * PAGE, prot))

    def do_madvise(self, page: int, n: int, advice: str) -> Answer:
        return _result(libc.madvise(self._at(page), n * PAGE, ADVICE[advice]))

    def do_mlock(self, page: int, n: int) -> Answer:
        return _result(libc.mlock(self._at(page), n * PAGE))

    def do_mlock_onfault(self, page: int, n: int) -> Answer:
        return _result(libc.mlock2(ctypes.c_void_p(self._at(page)), ctypes.c_size_t(n * PAGE), MLOCK_ONFAULT))

    def do_munlock(self, page: int, n: int) -> Answer:
        return _result(libc.munlock(self._at(page), n * PAGE))

    def do_thp_disable(self, disabled: str) -> Answer:
        return _result(libc.prctl(PR_SET_THP_DISABLE, *map(ctypes.c_ulong, (*PR_THP_DISABLE[disabled], 0, 0))))

    def do_clear_refs(self, which: int) -> Answer:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY)
        os.write(fd, str(which).encode())
        os.close(fd)
        return {"ok": True}

    # --- pins and references ------------------------------------------------------------------------------------

    def do_pin(self, page: int, n: int, id: int) -> Answer:
        if id in self.rings:
            return {"ok": False}
        try:
            self.rings[id] = Ring(self._at(page), n)
        except OSError as error:
            if error.strerror == "io_uring_setup":
                raise
            return {"ok": False}
        return {"ok": True}

    def do_unpin(self, id: int) -> Answer:
        if id not in self.rings:
            return {"ok": False}
        self.rings.pop(id).release()
        return {"ok": True}

    def do_dma_write(self, id: int, k: int, byte: int) -> Answer:
        """The device writes memory: a read from a pipe into the fixed buffer."""
        return self._device(id, k, READ_FIXED, byte)

    def do_dma_read(self, id: int, k: int) -> Answer:
        """The device reads memory: a write from the fixed buffer to a pipe."""
        return self._device(id, k, WRITE_FIXED)

    def _device(self, id: int, k: int, operation: int, byte: int | None = None) -> Answer:
        ring = self.rings.get(id)
        if ring is None or k >= ring.pages:
            return {"ok": False}
        reading, writing = os.pipe()
        if byte is not None:
            os.write(writing, bytes([byte]))
        ok = ring.transfer(operation, reading if operation == READ_FIXED else writing, k) == 1
        value = os.read(reading, 1)[0] if ok and byte is None else None
        _close(reading, writing)
        return {"ok": ok, "value": value}

    def do_ref(self, page: int, id: int) -> Answer:
        """A pipe holds the page: a plain reference, no pin."""
        if id in self.pipes:
            return {"ok": False}
        ends = os.pipe()
        one_byte = IoVec(self._at(page), 1)
        if libc.vmsplice(ends[1], ctypes.byref(one_byte), 1, 0) != 1:
            _close(*ends)
            return {"ok": False}
        self.pipes[id] = ends
        return {"ok": True}

    def do_unref(self, id: int) -> Answer:
        if id not in self.pipes:
            return {"ok": False}
        reading, writing = self.pipes.pop(id)
        held = os.read(reading, 1)[0]
        _close(reading, writing)
        return {"ok": True, "held": held}


def _result(code: int) -> Answer:
    return {"ok": True} if code == 0 else {"ok": False, "errno": ctypes.get_errno()}


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def main() -> NoReturn:
    """Serve on the socket whose number is the argument, and outlive every descendant."""
    gc.disable()
    # Exited children vanish by themselves, and those whose parent is gone become this process's.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Worker(socket.socket(fileno=int(sys.argv[1]))).serve()
    try:
        os.waitpid(-1, 0)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
