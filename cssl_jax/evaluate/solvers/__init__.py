"""Convex solvers for the linear probes: batched L-BFGS and logistic regression."""

from cssl_jax.lazy import submodules

__getattr__ = submodules(__name__)
