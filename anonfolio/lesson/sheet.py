"""What a browser needs to ask a question and to judge its answer, as JSON: `anonfolio.view.asked` shows it.

Open is what the reader may see. What is right, what is said of wrong answers and the hints are sealed, so that nobody
reads them in passing in the notebook's file or the page; it is no secret from who wants to know.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

WORD = 0xFFFFFFFF


def made(name: str, kind: str, prompt: str, asks: Mapping[str, Any], judges: Mapping[str, Any]) -> dict[str, Any]:
    """A sheet: the question `name`, what its kind shows, and sealed what it is judged by.

    A notebook stores the keys of every mapping sorted: where the reader is to see another order, ``keys`` says it.
    """
    keys = {field: list(value) for field, value in asks.items() if isinstance(value, Mapping)}
    told = {field: order for field, order in keys.items() if order != sorted(order)}
    return {
        "id": name, "kind": kind, "prompt": prompt, **asks, **({"keys": told} if told else {}),
        "sealed": seal(name, judges),
    }  # fmt: skip


def seal(name: str, value: Any) -> str:
    """JSON, deflated, made unreadable by bytes that begin with the question's name (xorshift of its FNV hash)."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    return base64.b64encode(_mixed(name, zlib.compress(text, 9))).decode()


def unseal(name: str, sealed: str) -> Any:
    """What was sealed under this name."""
    return json.loads(zlib.decompress(_mixed(name, base64.b64decode(sealed))))


def _mixed(name: str, text: bytes) -> bytes:
    state = 2166136261
    for byte in name.encode():
        state = (state ^ byte) * 16777619 & WORD
    found = bytearray()
    for byte in text:
        state ^= state << 13 & WORD
        state ^= state >> 17
        state ^= state << 5 & WORD
        found.append(byte ^ state & 255)
    return bytes(found)
