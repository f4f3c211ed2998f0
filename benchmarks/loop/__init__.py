"""Sections of ``benchmarks/loop.py``."""
