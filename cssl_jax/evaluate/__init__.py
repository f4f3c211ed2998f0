"""Evaluation of encoders on frozen features: protocols, diagnostics, verdicts, leakage."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
