"""The sections of ``benchmarks/accuracy.py``."""
