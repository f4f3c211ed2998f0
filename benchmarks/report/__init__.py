"""Sections of ``benchmarks/report.py``."""
