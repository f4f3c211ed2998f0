"""Bounds and differences of gradients."""

import jax
import numpy as np

FLOAT32_BOUND = 1e-5  # of the tree's largest gradient; docs/architecture.md, rule 1


def largest_difference(tree, reference):
    """Largest |a - b| over the tree, in units of the reference's largest magnitude."""
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (tree, reference))
    return np.abs(a - b).max() / np.abs(b).max()


def run_differences(results, reference):
    """``largest_difference`` of the losses of two short runs and of each part of their states.

    Args:
        results: (losses, state) of one run, as ``tiny.Run.train`` returns them.
        reference: (losses, state) of the other. Parts of the state that it lacks are left out.
    """
    (losses, state), (expected_losses, wanted) = results, reference
    found = {"loss": largest_difference(losses, expected_losses)}
    for part in ("params", "model_state", "method_state"):
        if jax.tree.leaves(getattr(wanted, part)):
            found[part] = largest_difference(getattr(state, part), getattr(wanted, part))
    return found
