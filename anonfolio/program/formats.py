"""Stored files, gzipped or plain: read up to a bound, and what is wrong with one is said in one line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
DATA = next(filter(Path.is_dir, (_PACKAGE / "data", _PACKAGE.parent / "data")), _PACKAGE / "data")
"""Where recordings, traces and costs are stored: in an installed package inside it, in a checkout beside it."""
MOST_BYTES = 64 << 20
"""No file holds more, unpacked; a few kilobytes of gzip could hold terabytes."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _read(path: str | Path, error: type[ValueError]) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if raw[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
                raw = packed.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error(f"{path}: the gzip file is damaged or cut off; fetch it again") from None
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    if len(raw) > MOST_BYTES:
        raise error(f"{path}: holds more than {MOST_BYTES:,} bytes, which no file of ours does")
    return raw


def read_text(path: str | Path, error: type[ValueError]) -> str:
    """The text of a file; an `error` that names the file when it holds none."""
    try:
        return _read(path, error).decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 ({reason})") from None


def read_json(path: str | Path, form: str, error: type[ValueError]) -> dict[str, Any]:
    """The object in a JSON file of a format; an `error` that names the file when it holds none."""
    raw = _read(path, error)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path}: not JSON ({reason})") from None
    return of_format(content, path, form, error)


def of_format(content: object, path: str | Path, form: str, error: type[ValueError]) -> dict[str, Any]:
    """What a file holds, when that is an object of a format; else an `error` that names the file."""
    if not isinstance(content, dict) or content.get("format") != form:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise error(f"{path}: format is {found!r:.60}, not {form!r}")
    return content
