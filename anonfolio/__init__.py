"""Large folios for anonymous memory in Linux: a model checked against real page tables."""
