"""Programs: scenarios, and what runs, makes and searches them on the model.

Holds scenarios and their operations, random programs, the search for a counterexample, stored files, policies in them.
Imports kernel, stream, machine.
Guarded by test_ops, test_worked_scenarios, test_search, test_properties, test_policy_file.
"""
