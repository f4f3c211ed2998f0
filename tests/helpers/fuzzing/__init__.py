"""Broken files of every format for every reader; ``tests/fuzz.py`` is the command."""
