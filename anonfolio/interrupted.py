"""Ctrl-C while the command is still being imported ends it as later: one line and 130, not a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130


def watch() -> None:
    """From now on, if this is the command; a program that imports the library keeps its own way."""
    if _is_command() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _stop)


def begun() -> None:
    """All is imported: KeyboardInterrupt as usual."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    # As long as runpy imports the package, the first argument of python -m anonfolio is "-m".
    started = sys.argv[0] if sys.argv else ""
    return (started == "-m" and "anonfolio" in sys.orig_argv) or Path(started).stem == "anonfolio"


def _stop(*_: object) -> NoReturn:
    # An exception could be taken for another one on its way out of an extension module.
    os.write(2, b"anonfolio: stopped\n")
    os._exit(INTERRUPTED)


watch()
