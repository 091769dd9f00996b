"""Streams: whole arrays of accesses at once, equal to one fault at a time.

Holds the window that a plan sees, the plan, its installation, and the run over a stream.
Imports kernel.
Guarded by test_touch, test_properties.
"""
