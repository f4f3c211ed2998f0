"""The encoder of a run in the terms of other libraries, whatever kind of network it is."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cssl_jax.interop.resnet_export import ResNetExport
from cssl_jax.interop.vit.vit_export import ViTExport
from cssl_jax.interop.vit.vit_weights import SIZES


class PeerExport(Protocol):
    """An encoder as other libraries build and store it."""

    @property
    def stored(self) -> dict[str, Any]:
        """Options of the model for the metadata of the file."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on a file with torchvision's names."""

    def refusal(self, format: str) -> str:
        """Why a format of other libraries has no such module, and the way out; "" if it has."""

    def state_dict(self, format: str) -> dict[str, np.ndarray]:
        """State dict with the names of a format."""

    def torchvision_lines(self) -> str:
        """Python lines that build the module with torchvision and load model.safetensors."""

    def timm_config(self) -> dict[str, Any]:
        """What timm's config.json states of the model."""

    def transformers_config(self) -> dict[str, Any]:
        """What transformers' config.json states of the model."""

    @property
    def transformers_call(self) -> tuple[str, str]:
        """(further arguments of ``from_pretrained``, features as a part of ``outputs``)."""


def peer_export(
    model: Mapping[str, Any], *, channels: int, size: int, variables: Mapping[str, Any]
) -> PeerExport:
    """The encoder of a run for other libraries.

    Args:
        model: Values of the config section ``model``.
        channels: Number of image channels.
        size: Side of the encoder's input in pixels.
        variables: {"params", "batch_stats"} of the encoder, and constants that other libraries
            store among the parameters.

    Raises:
        UserError: The encoder is none that other libraries have.
    """
    kind = ViTExport if model["encoder"] in SIZES else ResNetExport
    return kind(model=model, channels=channels, size=size, variables=variables)
