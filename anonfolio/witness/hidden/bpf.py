"""Kernel memory, read by a BPF program of twelve instructions: bpf(2) with nothing but the standard library.

The program is loaded for this process alone: neither it nor its buffer is pinned or attached to anything, so that both
are gone when their file descriptors are, however the process ends. It writes nothing but its buffer.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from contextlib import suppress

from ..here import LiveError

ROOM = 1 << 16
"""Bytes that one call can read."""
PAGE = 4096

# include/uapi/linux/bpf.h
MAP_CREATE, PROG_LOAD, PROG_TEST_RUN = 0, 5, 10
MAP_TYPE_ARRAY, MMAPABLE = 2, 1 << 10
PROG_TYPE_RAW_TRACEPOINT, PROG_TYPE_SYSCALL, SLEEPABLE = 17, 31, 1 << 4
GET_CURRENT_TASK, PROBE_READ_KERNEL = 35, 113
PSEUDO_MAP_VALUE = 2
ATTRIBUTES = 128
NAME = b"anonfolio"
"""What program and buffer are called (``bpftool prog``)."""
SYSTEM_CALL = {"x86_64": 321, "aarch64": 280}


class NotHidden(LiveError):
    """The hidden state of this machine's kernel cannot be read: why, in one line."""


class Fault(OSError):
    """Nothing is mapped at that kernel address."""


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2); OSError for what it refuses."""
    number = SYSTEM_CALL.get(platform.machine())
    if number is None:
        raise NotHidden(f"reading the kernel's memory was written for {', '.join(SYSTEM_CALL)}")
    buffer = ctypes.create_string_buffer(attributes, ATTRIBUTES)
    result = _library().syscall(number, command, buffer, ATTRIBUTES)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _instruction(op: int, dst: int, src: int, off: int, imm: int) -> bytes:
    return struct.pack("<BBhi", op, dst | src << 4, off, imm)


def program(buffer: int) -> bytes:
    """What is loaded: ctx is (address, length); the bytes go to the buffer, and behind them who is asking.

    ``buffer`` is the descriptor of an array with one entry of ROOM + 8 bytes.
    """
    insn = _instruction
    return b"".join((
        insn(0xBF, 6, 1, 0, 0),                              # r6 = ctx
        insn(0x85, 0, 0, 0, GET_CURRENT_TASK),
        insn(0x18, 1, PSEUDO_MAP_VALUE, 0, buffer), insn(0, 0, 0, 0, ROOM),
        insn(0x7B, 1, 0, 0, 0),                              # buffer[ROOM:] = current
        insn(0x79, 3, 6, 0, 0),                              # r3 = address
        insn(0x79, 2, 6, 8, 0),                              # r2 = length
        insn(0xB7, 0, 0, 0, -errno.E2BIG),
        insn(0x25, 2, 0, 3, ROOM),                           # longer than the room: return
        insn(0x18, 1, PSEUDO_MAP_VALUE, 0, buffer), insn(0, 0, 0, 0, 0),
        insn(0x85, 0, 0, 0, PROBE_READ_KERNEL),
        insn(0x95, 0, 0, 0, 0),                              # return what that said
    ))  # fmt: skip


class KernelMemory:
    """Kernel memory, up to ROOM bytes at once. Who makes one closes it."""

    def __init__(self) -> None:
        try:
            # type, sizes of key and value, entries, flags, inner map, node, name
            array = struct.pack("<7I16s", MAP_TYPE_ARRAY, 4, ROOM + PAGE, 1, MMAPABLE, 0, 0, NAME)
            self._map = bpf(MAP_CREATE, array)
        except OSError as error:
            raise NotHidden(_refused(error)) from None
        try:
            self._room = mmap.mmap(self._map, ROOM + PAGE, mmap.MAP_SHARED, mmap.PROT_READ)
            self._program = self._load()
        except BaseException:
            os.close(self._map)
            raise
        self._view = memoryview(self._room)
        self._asked = ctypes.create_string_buffer(16)
        # prog_fd, retval, data sizes and places, repeat, duration, ctx_size_in, ctx_size_out, ctx_in
        run = struct.pack("<IIIIQQIIIIQQ", self._program, 0, 0, 0, 0, 0, 0, 0, 16, 0, ctypes.addressof(self._asked), 0)
        self._run = ctypes.create_string_buffer(run, ATTRIBUTES)
        self._syscall = _library().syscall
        self._number = SYSTEM_CALL[platform.machine()]

    def _load(self) -> int:
        """From 5.14 on there are programs that are called like a system call; 5.10 test-runs those of tracepoints."""
        code, gpl = ctypes.create_string_buffer(program(self._map)), ctypes.create_string_buffer(b"GPL")
        places = ctypes.addressof(code), ctypes.addressof(gpl)
        for kind, flags in ((PROG_TYPE_SYSCALL, SLEEPABLE), (PROG_TYPE_RAW_TRACEPOINT, 0)):
            # type, instructions and where they are, license, log level, size and place, version, flags, name
            attributes = struct.pack("<IIQQIIQII16s", kind, (len(code) - 1) // 8, *places, 0, 0, 0, 0, flags, NAME)
            try:
                return bpf(PROG_LOAD, attributes)
            except OSError as error:
                refused = error
                if error.errno != errno.EINVAL:
                    break
        raise NotHidden(_refused(refused)) from None

    def close(self) -> None:
        """Let go of the program and its buffer. May be called twice."""
        if self._map < 0:
            return
        os.close(self._program)
        os.close(self._map)
        self._program = self._map = -1
        self._view.release()
        # Who still holds what was read keeps the buffer a little longer; it goes with this process at the latest.
        with suppress(BufferError):
            self._room.close()

    def read(self, address: int, length: int) -> memoryview:
        """`length` bytes, valid until the next call; `Fault` where nothing is mapped."""
        if self._call(address, length):
            raise Fault(errno.EFAULT, f"nothing to read at {address:#x}")
        return self._view[:length]

    def _call(self, address: int, length: int) -> int:
        """Run the program; returns 0, or what `bpf_probe_read_kernel` says is wrong."""
        struct.pack_into("<QQ", self._asked, 0, address, length)
        if self._syscall(self._number, PROG_TEST_RUN, self._run, ATTRIBUTES) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(struct.unpack_from("<i", self._run, 4)[0])

    def word(self, address: int) -> int:
        """Eight bytes as a number."""
        return int.from_bytes(self.read(address, 8), "little")

    def current(self) -> int:
        """The task_struct of this thread."""
        self._call(0, 0)
        return int.from_bytes(self._view[ROOM : ROOM + 8], "little")


def _refused(error: OSError) -> str:
    if error.errno == errno.ENOSYS:
        return "the kernel has no bpf(2) (CONFIG_BPF_SYSCALL)"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "bpf(2) is refused: be root (CAP_BPF, CAP_PERFMON), outside of a container, the kernel not locked down"
    return f"bpf(2) is refused: {error.strerror}"
