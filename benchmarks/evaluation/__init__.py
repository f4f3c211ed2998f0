"""Sections of ``benchmarks/evaluation.py``."""
