"""Widgets whose program a notebook stores once, however many it shows, and what they show, packed."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets
from ipywidgets import widget_serialization

HERE = Path(__file__).parent
MOST_UNPACKED = 1 << 26
"""Bytes; a stepper of many panes has a hundredth of that."""


def packed(value: Any, _widget: object = None) -> str:
    """A value as text for `unpack` of stepper.js: JSON, deflated, in base64."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    # Half of a surrogate pair is no character, and a notebook is a file in UTF-8.
    return base64.b64encode(zlib.compress(text.encode(errors="replace"), 9)).decode()


def unpacked(text: str, _widget: object = None) -> Any:
    """What `packed` packed; ValueError where a text is nothing of the kind, or more than `MOST_UNPACKED`."""
    unzip = zlib.decompressobj()
    try:
        told = unzip.decompress(base64.b64decode(text, validate=True), MOST_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"not packed: {error}") from None
    if not unzip.eof:
        raise ValueError(f"cut off, or more than {MOST_UNPACKED} bytes")
    return json.loads(told)


class Program(anywidget.AnyWidget):
    """A front end's script and style sheet, which widgets refer to; itself it is never shown."""

    def __init__(self, name: str, style: str) -> None:
        self._esm = (HERE / f"{name}.js").read_text(encoding="utf-8")
        self._css = (HERE / f"{name}.css").read_text(encoding="utf-8") + style
        # A page keeps one style sheet for each id, which would be the class's name: the last program's alone.
        super().__init__(_anywidget_id=f"{__name__}.{name}")


class Sharing(anywidget.AnyWidget):
    """A widget whose program is ``NAME.js`` and ``NAME.css`` beside this file; `name` says which.

    `style` is what it needs beyond that sheet.
    """

    _esm = HERE / "loader.js"
    name: ClassVar[str]
    style: ClassVar[str] = ""
    program = traitlets.Instance(Program).tag(sync=True, **widget_serialization)
    _programs: ClassVar[dict[str, Program]] = {}

    def __init__(self, **values: Any) -> None:
        stored = self._programs.get(self.name)
        if stored is None or stored.comm is None:  # it is closed
            stored = self._programs[self.name] = Program(self.name, self.style)
        super().__init__(program=stored, **values)
