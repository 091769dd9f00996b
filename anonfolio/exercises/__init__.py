"""The questions of the notebooks, one module each. Every answer is computed from the model or read from a recording.

Holds what a notebook asks, and what it says to wrong answers.
Imports everything left of it: kernel to lesson; nothing of view at import.
Guarded by test_quiz, test_fork_and_share, test_cow_copy_order, test_exclusive_reuse, test_exclusive_pitfalls,
test_postfork_reuse_scan, test_tlb_reach, test_cost_and_memory, test_rfc_to_mainline, test_your_kernel.
"""
