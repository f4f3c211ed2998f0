"""ResNet weights to and from torchvision's names and layouts; NumPy only, torch is not needed."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cssl_jax.errors import UserError

_MODULE = re.compile(r"(?:layer\d+\.\d+\.)?(?:conv\d+|bn\d+|downsample\.[01])")
_NORM_LEAVES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def from_torchvision(
    state_dict: Mapping[str, np.ndarray], expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Variables of our ResNet from a torchvision (or timm) ResNet's state dict.

    The classifier ``fc.*`` and ``num_batches_tracked`` are omitted. Dtypes are kept. torch's
    running variance is the unbiased estimate and ours the biased one; it is taken as it is.

    Args:
        state_dict: Key -> array; convolutions [O, I, H, W] become [H, W, I, O].
        expected: Variables, or their shapes as ``jax.eval_shape`` gives them, that the result
            must match leaf for leaf; None checks nothing.

    Returns:
        {"params": ..., "batch_stats": ...}.

    Raises:
        UserError: A key is no weight of a ResNet, or keys or shapes are not the expected ones.
    """
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for key, value in state_dict.items():
        if key.startswith("fc.") or key.endswith(".num_batches_tracked"):
            continue
        array = np.asarray(value)
        *parents, leaf = _path(key, array)
        node = variables
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
    if expected is not None:
        _check(_leaves(variables), _leaves(expected))
    return variables


def to_torchvision(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A torchvision state dict of our ResNet's variables, as contiguous arrays of their dtypes.

    Load it with ``strict=False``: ``fc.*`` and ``num_batches_tracked`` are not written.

    Args:
        variables: {"params": ..., "batch_stats": ...} of arrays.

    Raises:
        UserError: A leaf is no weight of a ResNet encoder.
    """
    arrays = {key: np.asarray(leaf) for key, leaf in _leaves(variables).items()}
    return {
        key: np.ascontiguousarray(a.transpose(3, 2, 0, 1) if a.ndim == 4 else a)
        for key, a in arrays.items()
    }


def _path(key: str, array: np.ndarray) -> tuple[str, ...]:
    """`layer1.0.bn1.weight` -> (params, layer1_0, bn1, scale)."""
    module, _, leaf = key.rpartition(".")
    is_norm = "bn" in module or module.endswith("downsample.1")
    known = leaf in _NORM_LEAVES if is_norm else leaf == "weight"
    if not (known and _MODULE.fullmatch(module)):
        raise UserError(f"{key!r} is no weight of a torchvision ResNet; drop it or rename it")
    if array.ndim != (1 if is_norm else 4):
        raise UserError(f"{key!r} has shape {array.shape}; expected {1 if is_norm else 4} axes")
    collection, name = _NORM_LEAVES[leaf] if is_norm else ("params", "kernel")
    module = module.replace("downsample.0", "downsample_conv").replace(
        "downsample.1", "downsample_bn"
    )
    return (collection, *re.sub(r"^(layer\d+)\.", r"\1_", module).split("."), name)


def _leaves(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Torch key -> leaf, of arrays or of shapes."""
    leaf_names = {ours: theirs for theirs, ours in _NORM_LEAVES.items()}
    leaf_names["params", "kernel"] = "weight"
    leaves = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for name, child in node.items():
                visit(child, (*path, name))
            return
        module = re.sub(r"^(layer\d+)_", r"\1.", ".".join(path[1:-1]))
        module = module.replace("downsample_conv", "downsample.0")
        module = module.replace("downsample_bn", "downsample.1")
        leaf = leaf_names.get((path[0], path[-1]))
        if leaf is None or not _MODULE.fullmatch(module):
            raise UserError(
                f"{'/'.join(path)!r} is no weight of a ResNet encoder; give the encoder's variables"
            )
        leaves[f"{module}.{leaf}"] = node

    visit(variables, ())
    return leaves


def _check(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for problem, keys in (
        ("lacks", wanted.keys() - found.keys()),
        ("has, but the encoder does not,", found.keys() - wanted.keys()),
    ):
        if keys:
            names = ", ".join(sorted(keys)[:4])
            raise UserError(f"the state dict {problem} {names} ({len(keys)} in all)")
    for key in wanted:
        given, own = (
            tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else tuple(shape)
            for shape in (found[key].shape, wanted[key].shape)
        )
        if given != own:
            raise UserError(
                f"{key!r} has shape {given}; this encoder's is {own}: check the encoder's name, "
                "width and stem"
            )
