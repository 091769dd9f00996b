"""Runs a student's function on cases: `python -I -S sandbox.py`, in a process of its own that holds no answer.

It gets the text of the function and the cases on standard input, and writes what the function says to standard output,
which the grader compares with what the library says. anonfolio cannot be imported here, nor anything but `MODULES`. No
file, network or process may be opened (an audit hook, which cannot be taken away, and limits of the system where it
has them); time and memory are limited, the former by the grader too.

What a function prints is lost. What it does to this process is its own harm: an answer that is forged here is only
another answer.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
from typing import Any, NoReturn

MODULES = (
    "__future__", "abc", "bisect", "collections", "collections.abc", "copy", "dataclasses", "enum", "fractions",
    "functools", "heapq", "itertools", "math", "numbers", "operator", "random", "re", "statistics", "string", "types",
    "typing",
)  # fmt: skip
REFUSED = (
    "open", "import", "os.", "subprocess.", "socket.", "ctypes.", "shutil.", "resource.", "signal.", "fcntl.", "mmap.",
    "pty.", "tempfile.", "glob.", "pathlib.", "sqlite3.", "urllib.", "syslog.", "setopencodehook", "gc.", "sys.set",
    "cpython.", "_posixsubprocess.", "_winapi.", "winreg.", "msvcrt.", "time.sleep",
)  # fmt: skip
MOST_OUTPUT = 1 << 22


def main() -> None:
    """Read the request, lock the door, run."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "lesson"))
    # Also where the system has its own, there is none of this name: it stands in the room of lessons.
    plain = importlib.import_module("plain")
    asked = json.load(sys.stdin)
    for name in MODULES:
        importlib.import_module(name)
    cases = [{name: plain.unpacked(value) for name, value in case.items()} for case in asked["cases"]]
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _limit(asked["bytes"], asked["seconds"])
    sys.path.clear()
    sys.addaudithook(_refuse)
    said: dict[str, Any] = {"answers": []}
    try:
        function = _defined(asked["source"], asked["name"])
        ask = plain.asked(function, cases[0])
        for case in cases:
            said["answers"].append(plain.packed(ask(case)))
    except BaseException as error:  # Whatever it does is part of the answer.
        said["error"] = f"{type(error).__name__}: {_words(error)}"
    os.write(out, json.dumps(said).encode()[:MOST_OUTPUT])


def _words(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:200]
    except BaseException:
        return ""


def _defined(source: str, name: str) -> Any:
    names: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": _import}, "__name__": "submission"}
    exec(compile(source, "submission", "exec"), names)
    return names[name]


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    if name not in MODULES or level:
        raise ImportError(f"{name} is not there when a function is judged; there are {', '.join(MODULES[1:])}")
    return __import__(name, globals, locals, fromlist, level)


def _refuse(event: str, arguments: Any) -> None:
    if event.startswith(REFUSED):
        _no(event)


def _no(event: str) -> NoReturn:
    raise PermissionError(f"{event} is not allowed when a function is judged")


def _limit(most_bytes: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:
        return
    for what, most in (("AS", most_bytes), ("CPU", seconds), ("FSIZE", MOST_OUTPUT), ("NOFILE", 0), ("NPROC", 0)):
        limit = getattr(resource, f"RLIMIT_{what}")
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(limit, (most, most))
        except (ValueError, OSError):
            # A system that does not limit this; the grader's own limit of time holds.
            continue


if __name__ == "__main__":
    main()
