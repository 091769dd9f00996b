"""Widgets. Importing this needs ipywidgets and anywidget (the ``lab`` extra); the rest of the library does not.

Holds the stepper, the playground, plots, and their JavaScript.
Imports everything left of it: kernel to draw; ipywidgets, anywidget, matplotlib.
Guarded by test_stepper, test_playground, test_browser, test_playground_browser.
"""

from .playground import Playground
from .stepper import Stepper

__all__ = ["Playground", "Stepper"]
