"""Stored files are JSON objects that name their format; what is wrong with one is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
DATA = next(filter(Path.is_dir, (_PACKAGE / "data", _PACKAGE.parent / "data")), _PACKAGE / "data")
"""Where recordings, traces and costs are stored: in an installed package inside it, in a checkout beside it."""


def read_json(path: str | Path, form: str, error: type[ValueError]) -> dict[str, Any]:
    """The object in a JSON file of a format; an `error` when the file holds none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"{path}: {reason.strerror or reason}") from None
    except ValueError as reason:
        raise error(f"{path}: not JSON ({reason})") from None
    return of_format(content, path, form, error)


def of_format(content: object, path: str | Path, form: str, error: type[ValueError]) -> dict[str, Any]:
    """What a file holds, when that is an object of a format; else an `error` that names the file."""
    if not isinstance(content, dict) or content.get("format") != form:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise error(f"{path}: format is {found!r}, not {form!r}")
    return content
