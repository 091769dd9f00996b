"""Where members of the kernel's structs are: just enough of BTF (Documentation/bpf/btf.rst)."""

from __future__ import annotations

import struct
from pathlib import Path

from .bpf import NotHidden

VMLINUX = Path("/sys/kernel/btf/vmlinux")
MAGIC = 0xEB9F
INT, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, VOLATILE, CONST, RESTRICT = 1, 3, 4, 5, 6, 8, 9, 10, 11
FUNC_PROTO, VAR, DATASEC, DECL_TAG, TYPE_TAG, ENUM64 = 13, 14, 15, 17, 18, 19
ALIASES = (TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG)
_BEHIND = {
    INT: (4, 0), ARRAY: (12, 0), STRUCT: (0, 12), UNION: (0, 12), ENUM: (0, 8), FUNC_PROTO: (0, 8), VAR: (4, 0),
    DATASEC: (0, 12), DECL_TAG: (4, 0), ENUM64: (0, 12),
}  # fmt: skip
"""Bytes that follow a type's three words: so many, and so many for each of its members."""


class Btf:
    """The types of one kernel."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        try:
            magic, _, _, header, types, length, strings, strings_length = struct.unpack_from("<HBBIIIII", raw)
            if magic != MAGIC:
                raise NotHidden("the kernel's type information (BTF) is of another byte order")
            self._strings, self._strings_end = header + strings, header + strings + strings_length
            self._read_types(header + types, header + types + length)
        except (struct.error, IndexError):
            raise NotHidden("the kernel's type information (BTF) is cut off") from None

    @classmethod
    def of_this_kernel(cls, path: Path = VMLINUX) -> Btf:
        """What this kernel says of itself; `NotHidden` when it says nothing."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            reason = f"the kernel does not say where its fields are: {path}: {error.strerror}"
            raise NotHidden(f"{reason} (CONFIG_DEBUG_INFO_BTF)") from None

    def _read_types(self, at: int, end: int) -> None:
        self._at = [0]
        self._named: dict[tuple[int, int], list[int]] = {}
        unpack, behind, raw = struct.Struct("<II").unpack_from, _BEHIND, self._raw
        while at < end:
            name, info = unpack(raw, at)
            kind = info >> 24 & 31
            if kind in (STRUCT, ENUM):
                self._named.setdefault((kind, name), []).append(len(self._at))
            self._at.append(at)
            fixed, each = behind.get(kind, (0, 0))
            at += 12 + fixed + each * (info & 0xFFFF)

    def _string(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(b"\0", start)].decode(errors="replace")

    def _named_types(self, kind: int, name: str) -> list[int]:
        at = self._raw.find(b"\0" + name.encode() + b"\0", self._strings, self._strings_end)
        return self._named.get((kind, at + 1 - self._strings), []) if at >= 0 else []

    def _type(self, number: int) -> tuple[int, int, int, int]:
        """Kind, members, whether their places are packed with bit sizes, and size or type."""
        _, info, size = struct.unpack_from("<III", self._raw, self._at[number])
        return info >> 24 & 31, info & 0xFFFF, info >> 31, size

    def _struct(self, name: str) -> int:
        """The number of a struct of that name, the first that has members; KeyError."""
        for number in self._named_types(STRUCT, name):
            if self._type(number)[1]:
                return number
        raise KeyError(f"this kernel has no struct {name}")

    def size(self, name: str) -> int:
        """Bytes of struct `name`; KeyError."""
        return self._type(self._struct(name))[3]

    def offset(self, name: str, member: str) -> int:
        """Bytes from the start of struct `name` to a member, in whatever unnamed structs and unions; KeyError."""
        found = self._find(self._struct(name), member)
        if found is None:
            raise KeyError(f"this kernel's struct {name} has no {member}")
        return found // 8

    def has(self, name: str, member: str) -> int | None:
        """`offset`, or None."""
        try:
            return self.offset(name, member)
        except KeyError:
            return None

    def _find(self, number: int, member: str) -> int | None:
        _, members, packed, _ = self._type(number)
        at = self._at[number] + 12
        inner = []
        for index in range(members):
            name, kind, place = struct.unpack_from("<III", self._raw, at + 12 * index)
            bits = int(place & 0xFFFFFF if packed else place)
            if name and self._string(name) == member:
                return bits
            if not name:
                inner.append((self._unaliased(kind), bits))
        for number, bits in inner:
            if self._type(number)[0] in (STRUCT, UNION) and (found := self._find(number, member)) is not None:
                return bits + found
        return None

    def _unaliased(self, number: int) -> int:
        while self._type(number)[0] in ALIASES:
            number = self._type(number)[3]
        return number

    def enumerators(self, name: str) -> dict[str, int]:
        """What each name of an enum is worth; empty when there is no such enum."""
        for number in self._named_types(ENUM, name):
            at, count = self._at[number] + 12, self._type(number)[1]
            rows = (struct.unpack_from("<Ii", self._raw, at + 8 * row) for row in range(count))
            return {self._string(text): value for text, value in rows}
        return {}
