"""Recipes: one file each, with ``get_config() -> Config``; its header says what to expect of it."""
