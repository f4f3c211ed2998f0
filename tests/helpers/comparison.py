"""Bounds and differences of gradients."""

import jax
import numpy as np

FLOAT32_BOUND = 1e-5  # of the tree's largest gradient; docs/architecture.md, rule 1


def largest_difference(tree, reference):
    """Largest |a - b| over the tree, in units of the reference's largest magnitude."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (tree, reference))
    return np.abs(a - b).max() / np.abs(b).max()
