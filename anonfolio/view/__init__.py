"""Widgets. Importing this needs ipywidgets and anywidget (the ``lab`` extra); the rest of the library does not."""

from .playground import Playground
from .stepper import Stepper

__all__ = ["Playground", "Stepper"]
