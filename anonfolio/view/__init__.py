"""Widgets. Importing this needs ipywidgets and anywidget (the ``lab`` extra); the rest of the library does not."""

from .stepper import Stepper

__all__ = ["Stepper"]
