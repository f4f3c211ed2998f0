"""Encoders from files with this package's own names (``export --format safetensors``)."""

from typing import Any

import jax
import numpy as np
import optax

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.data.input_spec import InputSpec
from cssl_jax.errors import UserError, cut
from cssl_jax.evaluate.encoders.features import Model
from cssl_jax.experiment import builders, data_splits, train_state
from cssl_jax.interop.weight_files import WeightFile
from cssl_jax.registries import is_file_name
from cssl_jax.runtime import spmd

LAYOUT = "own names"  # value of "layout" in the file's metadata


def is_own(file: WeightFile) -> bool:
    """True for a file of this package's own names."""
    return file.stored.get("layout") == LAYOUT


def open_own(file: WeightFile) -> tuple[Config, InputSpec, Model]:
    """Config, input and {"params", "model_state"} of an encoder, from its file.

    The config has the stored sections ``data`` and ``model``. Others have their defaults.

    Raises:
        UserError: The metadata are damaged, name an encoder in a file of code, or describe another
            encoder than the arrays.
    """
    stored = file.stored
    try:
        name = stored["model"]["encoder"]
        if not isinstance(name, str) or is_file_name(name):
            raise UserError(f"{file.path}: the encoder {name!r} is none of this package")
        config = recipes.from_dict({"data": stored["data"], "model": stored["model"]})
        modality = data_splits.modality_of(config)
        spec = modality.spec.from_dict(stored["input"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file.path}: its metadata are damaged: {error!r}") from error
    variables: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for key, array in file.tree.items():
        *parents, leaf = key.split("/")
        node: dict[str, Any] = variables
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{file.path}: {cut(key)} is below an array")
        node[leaf] = array
    model = {
        "params": {"encoder": variables["params"]},
        "model_state": {"encoder": variables["batch_stats"]},
    }
    _check(file, config, spec, model)
    return config, spec, model


def _check(file: WeightFile, config: Config, spec: InputSpec, model: Model) -> None:
    """Raises UserError for a variable that is missing, unknown or of another shape."""
    method = builders.make_method(config, spmd.make_mesh(jax.devices()[:1]))
    state = train_state.state_shapes(method, optax.identity(), spec)
    wanted, given = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (
            [state.params["encoder"], state.model_state.get("encoder", {})],
            [model["params"]["encoder"], model["model_state"]["encoder"]],
        )
    )
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise UserError(
                f"{file.path}: variable {cut(name)} has shape {given.get(name)}, and that of a "
                f"{config.model.encoder} of width {config.model.width:g} is {wanted.get(name)}"
            )
