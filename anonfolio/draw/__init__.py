"""Drawing: states, faults and rules as text and SVG, from values alone.

Holds scenes (what there is to see, as values), what writes them as text and as SVG, pictures, decision trees, advice.
Imports everything left of it: kernel to witness.
Guarded by test_scene, test_picture, test_microsteps, test_exclusive_reuse, test_look, test_advice.
"""

from . import micropicture, picture  # noqa: F401  (they register what draws: `machine.show`)
