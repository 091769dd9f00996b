"""The laboratory: what a rule changes, what it breaks, what it buys, found by running it, as one report.

Holds the findings as frozen values, and what writes them as text, Markdown and HTML.
Imports everything left of it: kernel to draw.
Guarded by test_report, test_report_page.
"""
