"""Writer of a folder that ``transformers.AutoModel.from_pretrained`` opens."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.files import write_json
from cssl_jax.interop.peer_export import PeerExport

_UNCROPPED = 384  # side in pixels from which transformers' ConvNextImageProcessor does not crop
_RESAMPLING = {"bilinear": 2, "bicubic": 3}  # PIL.Image.Resampling


def writer(
    peer: PeerExport,
    spec: ImageSpec,
    write_weights: Callable[[pathlib.Path], None],
    read_back: Callable[[pathlib.Path], np.ndarray],
) -> Callable[[pathlib.Path], tuple[np.ndarray, str, tuple[str, ...]]]:
    """Function that writes the folder and computes the features of what was written.

    Args:
        peer: Encoder of the run.
        spec: Input of the encoder.
        write_weights: Function that writes the weights to a folder.
        read_back: Function that computes the features of the check from that folder.
    """

    def write(folder: pathlib.Path) -> tuple[np.ndarray, str, tuple[str, ...]]:
        write_weights(folder)
        write_json(folder / "config.json", peer.transformers_config())
        write_json(folder / "preprocessor_config.json", _preprocessor(spec))
        arguments, features = peer.transformers_call
        usage = (
            "from transformers import AutoImageProcessor, AutoModel\n\n"
            f'processor = AutoImageProcessor.from_pretrained("{folder.name}")\n'
            f'model = AutoModel.from_pretrained("{folder.name}"{arguments}).eval()\n'
            'outputs = model(**processor(image, return_tensors="pt"))\n'
            f"features = outputs.{features}"
        )
        notes: tuple[str, ...] = ()
        if spec.size >= _UNCROPPED and spec.crop_fraction < 1:
            notes = (
                f"transformers' processor does not crop images for {spec.size} px; this encoder "
                f"takes the centre {spec.crop_fraction:g}",
            )
        return read_back(folder), usage, notes

    return write


def _preprocessor(spec: ImageSpec) -> dict[str, Any]:
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": spec.size},
        "crop_pct": spec.crop_fraction,
        "resample": _RESAMPLING[spec.interpolation],
        "image_mean": spec.mean,
        "image_std": spec.std,
    }
