"""The questions of the notebooks, one module each. Every answer is computed from the model or read from a recording."""
