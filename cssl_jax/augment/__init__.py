"""Augmentation policies: ``sample(key, policy) -> parameters`` and ``apply(x, parameters)``."""
