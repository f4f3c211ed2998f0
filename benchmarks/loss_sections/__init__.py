"""The sections of ``benchmarks/loss.py`` and the fresh processes that they measure in."""
