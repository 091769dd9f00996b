"""Hardware: what TLBs, caches of translations and CPUs make of the model's page tables, and what it costs.

Holds TLBs and exact LRU, traces of real programs, costs, which sizes to advise, micro-steps on several CPUs.
Imports everything left of it: kernel, stream, machine, program.
Guarded by test_tlb, test_lru, test_trace, test_cost, test_advice, test_microsteps.
"""
