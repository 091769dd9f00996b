"""The kernel: what mm/ does to one address space, function by function, and which kernel does what.

Holds sizes, policies and their rules, frames and folios, the buddy allocator, rmap, VMAs, page tables, the fault
paths, fork, GUP, mmap and its kin, the contiguous bit, the record of a fault.
Imports numpy and the standard library.
Guarded by test_worked_scenarios, test_records, test_memory, test_mappings, test_fork_and_pins, test_mm_ids,
test_contpte, test_rules, test_history.
"""
