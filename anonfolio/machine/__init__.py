"""The machine: processes and their system calls, the public API of the model.

Holds machines and processes, snapshots of them, and what must hold in every state.
Imports kernel, stream.
Guarded by test_misuse, test_invariants, test_properties.
"""
