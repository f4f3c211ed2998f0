"""An encoder of any kind in one safetensors file, under this package's own names."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import encoder_variables
from cssl_jax.evaluate.encoders.load import Encoder, load_encoder
from cssl_jax.evaluate.encoders.own_file import LAYOUT
from cssl_jax.interop import safetensors
from cssl_jax.interop.preprocessing import KEY
from cssl_jax.registries import is_file_name

FILE = "model.safetensors"


def writer(
    encoder: Encoder, features_of: Callable[[Encoder], np.ndarray]
) -> Callable[[pathlib.Path], tuple[np.ndarray, str, tuple[str, ...]]]:
    """Function that writes model.safetensors and computes the features of what was written.

    The file has one array per variable, such as "params/layer1_0/conv1/kernel", and in its metadata
    the config sections ``data`` and ``model``, the input and the step.

    Args:
        encoder: Encoder of the run.
        features_of: Function from an encoder to its features of the check's examples.

    Raises:
        UserError: The encoder is defined in a file of the user's, which the file cannot hold.
    """
    name = encoder.config.model.encoder
    if is_file_name(name):
        raise UserError(
            f"model.encoder {name} is a file of your own, which a file of weights cannot hold; "
            "pass on the run folder with it"
        )

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        write_file(folder / FILE, encoder)
        usage = f'import cssl_jax\n\nencode = cssl_jax.load_encoder("{FILE}")'
        return features_of(load_encoder(folder / FILE)), usage, ()

    return write


def write_file(path: pathlib.Path, encoder: Encoder) -> None:
    """Writes the encoder's variables with what is needed to build it again."""
    places = {"data.source": "", "data.validation_source": "", "data.labels": "auto"}
    sections = recipes.to_dict(encoder.config.replace(places))
    stored = {
        "layout": LAYOUT,
        "data": sections["data"],
        "model": sections["model"],
        "input": dataclasses.asdict(encoder.spec),
        "step": encoder.step,
    }
    variables: Any = jax.device_get(encoder_variables(encoder.model))
    arrays = dict(_leaves(variables, ""))
    safetensors.write(path, arrays, {"format": "np", KEY: json.dumps(stored)})


def _leaves(node: Mapping[str, Any], path: str) -> list[tuple[str, np.ndarray]]:
    found: list[tuple[str, np.ndarray]] = []
    for name, value in node.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{path}{name}/")
        else:
            found.append((path + name, np.asarray(value)))
    return found
