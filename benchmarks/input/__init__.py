"""The sections of ``benchmarks/input.py``."""
