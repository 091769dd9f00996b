"""Which cells of a notebook answer a question before its reader has: what they show stays closed until she asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

ASKS = re.compile(r"\bq\.(\w+)\.predict\(")
TELLS = re.compile(r"\bq\.(\w+)\.compare\(")
ASKS_ITSELF = re.compile(r"\bq\.\w+\.(?:predict|check)\(|\bPlayground\(")
"""Another question shows no answer before it has one, a playground nothing but what its reader does."""


def spoilers(sources: Sequence[str]) -> dict[int, tuple[str, ...]]:
    """The code cells between a question and its comparison, that one included, with the names of those questions.

    Parameters
    ----------
    sources : sequence of str
        What the cells of a notebook hold, in order; of a cell without outputs the empty text.
    """
    found: dict[int, tuple[str, ...]] = {}
    waiting: list[str] = []
    for at, source in enumerate(sources):
        told = TELLS.findall(source)
        if waiting and source.strip() and (told or not ASKS_ITSELF.search(source)):
            found[at] = tuple(waiting)
        waiting = [name for name in waiting if name not in told] + ASKS.findall(source)
    return found
