"""The sections of ``benchmarks/loss.py``."""
