"""Sections of the benchmark of methods."""
