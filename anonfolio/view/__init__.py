"""Widgets. Importing this needs ipywidgets and anywidget (the ``lab`` extra); the rest of the library does not.

Holds the stepper, the playground, plots, the cards of questions, and their JavaScript.
Imports everything left of it: kernel to draw; ipywidgets, anywidget, matplotlib.
Guarded by test_stepper, test_playground, test_browser, test_playground_browser,
test_asked_browser.
"""

try:
    from .playground import Playground
    from .stepper import Stepper
except ModuleNotFoundError as error:
    if (error.name or "").startswith("anonfolio"):
        raise
    told = f"{error.name} is not installed: anonfolio.view needs the lab extra, pip install '.[lab]' in the clone"
    raise ModuleNotFoundError(told, name=error.name) from None

__all__ = ["Playground", "Stepper"]
