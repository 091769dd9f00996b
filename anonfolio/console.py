"""What is printed reaches every console: what its codec lacks is written in ASCII."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

_PLAIN = {"–": "-", "—": "-", "−": "-", "·": ".", "×": "x", "→": "->", "…": "...", "≤": "<=", "≥": ">="}


def make_readable(*streams: TextIO) -> None:
    """Let streams write characters that their codec lacks as similar ones, or as escapes where there are none."""
    codecs.register_error("anonfolio.plain", _plain)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="anonfolio.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter) or ascii(letter)[1:-1] for letter in letters), error.end
