"""Witnesses: recordings, running kernels, and how they are held against the model.

Holds recordings, comparing, what /proc shows, the kernel's selftests; `live` asks the kernel of this machine,
`hidden` reads its own state, `looking` that of any process.
Imports everything left of it: kernel to hardware.
Guarded by test_replay, test_hidden, test_hidden_state, test_live, test_your_kernel, test_selftests, test_look,
test_attach.
"""

from . import comparing, live, recording  # noqa: F401  (they register what compares, asks, recalls: `program.witnesses`)
