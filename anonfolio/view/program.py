"""Widgets whose program a notebook stores once, however many it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets
from ipywidgets import widget_serialization

HERE = Path(__file__).parent


class Program(anywidget.AnyWidget):
    """A front end's script and style sheet, which widgets refer to; itself it is never shown."""

    def __init__(self, name: str) -> None:
        self._esm = (HERE / f"{name}.js").read_text(encoding="utf-8")
        self._css = (HERE / f"{name}.css").read_text(encoding="utf-8")
        super().__init__()


class Sharing(anywidget.AnyWidget):
    """A widget whose program is ``NAME.js`` and ``NAME.css`` beside this file; `name` says which."""

    _esm = HERE / "loader.js"
    name: ClassVar[str]
    program = traitlets.Instance(Program).tag(sync=True, **widget_serialization)
    _programs: ClassVar[dict[str, Program]] = {}

    def __init__(self, **values: Any) -> None:
        stored = self._programs.get(self.name)
        if stored is None or stored.comm is None:  # it is closed
            stored = self._programs[self.name] = Program(self.name)
        super().__init__(program=stored, **values)
