"""Curves, galleries, projections and plots of a report."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
