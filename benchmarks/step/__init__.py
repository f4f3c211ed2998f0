"""Sections of ``benchmarks/step.py``."""
