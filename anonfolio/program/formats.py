"""Stored files, gzipped or plain: read up to a bound, and what is wrong with one is said in one line."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..kernel import given

_PACKAGE = Path(__file__).resolve().parent.parent
DATA = next(filter(Path.is_dir, (_PACKAGE / "data", _PACKAGE.parent / "data")), _PACKAGE / "data")
"""Where recordings, traces and costs are stored: in an installed package inside it, in a checkout beside it."""
MOST_BYTES = 64 << 20
"""No file holds more, unpacked; a few kilobytes of gzip could hold terabytes."""
MOST_TEXT_BYTES = 8 << 20
"""No scenario has more text; its steps are counted apart."""
MOST_PARSED_BYTES = 400 << 20
"""No JSON takes more when it is parsed: a file of 64 MiB that holds nothing but small objects would take gigabytes."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def plain_file(path: str | Path, error: type[ValueError]) -> BinaryIO:
    """A file, open; an `error` for a pipe, which one would wait for, and a device, which may never end."""
    # A number would be a file that is open already, such as 1: it would be read, and closed.
    if not isinstance(path, str | os.PathLike):
        raise error(f"{given.said(path)} is no name of a file")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise error(f"{path}: no plain file, but a {_kind(mode)}; name a file")
    return open(path, "rb")


def _kind(mode: int) -> str:
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def _read(path: str | Path, error: type[ValueError], most: int) -> bytes:
    try:
        with plain_file(path, error) as file:
            raw = file.read(most + 1)
        if raw[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
                raw = packed.read(most + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error(f"{path}: the gzip file is damaged or cut off; fetch it again") from None
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    if len(raw) > most:
        raise error(f"{path}: holds more than {most:,} bytes, which no file of ours does")
    return raw


def read_text(path: str | Path, error: type[ValueError]) -> str:
    """The text of a file; an `error` that names the file when it holds none."""
    try:
        return _read(path, error, MOST_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 ({reason})") from None


def read_json(path: str | Path, form: str, error: type[ValueError]) -> dict[str, Any]:
    """The object in a JSON file of a format; an `error` that names the file when it holds none."""
    return of_format(read_value(path, error), path, form, error)


def read_value(path: str | Path, error: type[ValueError]) -> Any:
    """What is in a JSON file of whatever format; an `error` that names the file when it is none."""
    raw = _read(path, error, MOST_BYTES)
    if (needed := parsed_bytes(raw)) > MOST_PARSED_BYTES:
        room = f"{needed >> 20:,} MiB of memory; {MOST_PARSED_BYTES >> 20:,} MiB is the most"
        raise error(f"{path}: holds so many values that they would take {room}")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not JSON ({reason})") from None


def parsed_bytes(raw: bytes) -> int:
    """About what a JSON text and its values take when it is parsed, in bytes, and rather more than less.

    By the sizes of CPython's objects on 64 bits (3.11): a list 56 bytes and room to grow, a small dict 184, a key in a
    large one about 100 while it grows, a short string 56, and a number 32 that is none of the first 256; and a pointer
    to each value. The text is there twice, and of other letters than ASCII each may take four bytes.
    """
    digit = np.frombuffer(raw, np.uint8) - np.uint8(ord("0")) < 10
    long = digit[2:] & digit[1:-1] & digit[:-2]
    numbers = int(np.count_nonzero(long)) - int(np.count_nonzero(long[1:] & long[:-1]))
    numbers += raw.count(b".") + raw.count(b"e")
    text = (3 if raw.isascii() else 9) * len(raw)
    inner = 96 * raw.count(b"[") + 184 * raw.count(b"{") + 100 * raw.count(b":") + 28 * raw.count(b'"')
    return text + inner + 10 * raw.count(b",") + 32 * numbers


def check_place(path: str | Path, replaced: bool = False) -> None:
    """That a file can be written at `path`, tried before the work that makes it; ValueError says why not.

    With `replaced` it is one that `new_file` writes, in place of what is there. Nothing is changed.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return check_folder(path.parent, path)
    except OSError as reason:
        raise ValueError(f"{path}: {reason.strerror}") from None
    if replaced and not stat.S_ISREG(mode):
        raise ValueError(f"{path}: no plain file, but a {'folder' if stat.S_ISDIR(mode) else _kind(mode)}")
    try:
        # A pipe that nobody reads is told and not waited for.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)))
    except OSError as reason:
        raise ValueError(f"{path}: {reason.strerror}") from None
    if replaced:
        check_folder(path.parent, path)
    return None


def check_folder(folder: Path, path: Path) -> None:
    """That files can be made in a folder, for the sake of `path`; ValueError says why not."""
    if not folder.is_dir():
        raise ValueError(f"{path}: there is no folder {folder}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as reason:
        raise ValueError(f"{path}: nothing can be written in {folder} ({reason.strerror})") from None


def check_new_folder(path: str | Path) -> None:
    """That a folder can be made, or written into where there is one; ValueError says why not."""
    path = Path(path)
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as reason:
        raise ValueError(f"{path}: {reason.strerror}") from None
    check_folder(there, path)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when it is complete, in place of what was there; OSError as `open` has it.

    Where a file can be without a name (O_TMPFILE, Linux) nothing of it stays, not even when the program is killed.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    unfinished = path.with_name(path.name + ".part")
    nameless = _nameless(path.parent)
    try:
        with nameless or unfinished.open("wb") as file:
            yield file
            file.flush()
            if nameless:
                unfinished.unlink(missing_ok=True)
                # With a folder's descriptor alone Python follows the link (linkat).
                os.link(f"/proc/self/fd/{file.fileno()}", unfinished, src_dir_fd=file.fileno())
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _nameless(folder: Path) -> BinaryIO | None:
    """A file without a name, where there are such: not on every system, nor on every file system."""
    try:
        return open(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb")
    except (AttributeError, OSError):
        return None


def of_format(content: object, path: str | Path, form: str, error: type[ValueError]) -> dict[str, Any]:
    """What a file holds, when that is an object of a format; else an `error` that names the file."""
    if not isinstance(content, dict) or content.get("format") != form:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise error(f"{path}: format is {given.said(found)}, not {form!r}")
    return content
