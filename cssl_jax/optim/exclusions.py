"""Parameters that weight decay and LARS exclude.

One rule, ``is_norm_or_bias``, decides which parameters are decayed and, for LARS, which are
adapted.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cssl_jax.optim.registry import OptimizerOptions

PyTree = Any
_EXCLUDED = ("bias", "scale", "class_token", "mask_token", "positions")


def is_norm_or_bias(path: jax.tree_util.KeyPath[Any], leaf: Any) -> bool:
    """Return True if a parameter is excluded from weight decay and LARS adaptation.

    Biases and the scales of normalisation layers are excluded, as in SimCLR's TensorFlow code. They
    are recognised by the last key of the path, "bias" or "scale". Every parameter with at most one
    axis is excluded as well. So are class and mask tokens and learned positions, which are added to
    activations as biases are; timm and big_vision exclude them too.
    """
    return _leaf_name(path) in _EXCLUDED or np.ndim(leaf) <= 1


def decay_mask(params: PyTree) -> PyTree:
    """Return the tree of ``params`` with True where a parameter is decayed and adapted."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: not is_norm_or_bias(path, leaf), params
    )


def mask_of(options: OptimizerOptions) -> Callable[[PyTree], PyTree]:
    """Return the function from parameters to True where one is decayed and adapted."""
    return decay_mask if options.exclude_norm_and_bias else _full_mask


def describe_exclusions(
    params: PyTree, exclude_norm_and_bias: bool = True, *, adapts: bool = True
) -> str:
    """Return a table of the parameters to which weight decay and LARS adaptation apply.

    The table counts tensors and parameters, applied and excluded. Excluded tensors are also counted
    by name.

    Args:
      params: Tree of arrays or ``jax.ShapeDtypeStruct``.
      exclude_norm_and_bias: Value passed to ``make_optimizer``.
      adapts: True if the optimizer is LARS; False names weight decay only.
    """
    tensors: collections.Counter[bool] = collections.Counter()
    parameters: collections.Counter[bool] = collections.Counter()
    names: collections.Counter[str] = collections.Counter()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        excluded = exclude_norm_and_bias and is_norm_or_bias(path, leaf)
        tensors[excluded] += 1
        parameters[excluded] += int(np.size(leaf))
        if excluded:
            names[_leaf_name(path)] += 1
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    title = "weight decay, LARS adaptation" if adapts else "weight decay"
    rows = [f"{title:<30} {'tensors':>8} {'parameters':>13}"]
    for label, excluded, note in (("applied", False, ""), ("excluded", True, kinds)):
        row = f"{label:<30} {tensors[excluded]:>8,} {parameters[excluded]:>13,}"
        rows.append(f"{row}  ({note})" if note else row)
    return "\n".join(rows)


def _leaf_name(path: jax.tree_util.KeyPath[Any]) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _full_mask(params: PyTree) -> PyTree:
    return jax.tree.map(lambda _: True, params)
