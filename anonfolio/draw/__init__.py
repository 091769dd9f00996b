"""Drawing: states, faults and rules as text and SVG, from values alone.

Holds pictures, what they are drawn with, decision trees.
Imports everything left of it: kernel to witness.
Guarded by test_picture, test_microsteps, test_exclusive_reuse.
"""

from . import micropicture, picture  # noqa: F401  (they register what draws: `machine.show`)
