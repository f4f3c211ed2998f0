"""Encoders by name; a new one is a file in this package and a line here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from cssl_jax.registries import look_up


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """Registry entry of an encoder.

    The module that it builds maps images float [n, H, W, C] and ``train`` to a dict with "features"
    [n, D] and "stages", the feature map after each stage. It provides:

    - ``num_stages``: number of its stages;
    - ``depth_of(path)``: stage of a parameter, from its path below the encoder; 0 is the stem;
    - fields ``axis_name``, ``norm_groups`` and ``norm_momentum`` of its BatchNorm layers, which
      ``clone`` replaces where statistics are estimated again;
    - ``with_live_branches()``: the same module, initialised so that every residual branch
      contributes to the output, for the untrained baseline.

    Attributes:
        build: Keyword arguments width, stem, remat, axis_name, norm_groups and dtype (see
            ``models.resnet.ResNet``) -> module.
        reduced: Name of an encoder with the same kinds of layers that is as small as possible, for
            ``cssl-jax selfcheck``; "" is the encoder itself.
    """

    build: Callable[..., nn.Module]
    reduced: str = ""


ENCODERS: dict[str, str | EncoderEntry] = {
    "resnet10": "cssl_jax.models.resnet:RESNET10",
    "resnet14": "cssl_jax.models.resnet:RESNET14",
    "resnet18": "cssl_jax.models.resnet:RESNET18",
    "resnet34": "cssl_jax.models.resnet:RESNET34",
    "resnet50": "cssl_jax.models.resnet:RESNET50",
    "resnet101": "cssl_jax.models.resnet:RESNET101",
    "resnet152": "cssl_jax.models.resnet:RESNET152",
    "resnet200": "cssl_jax.models.resnet:RESNET200",
}


def encoder_entry(name: str) -> EncoderEntry:
    """Returns the entry of an encoder.

    Args:
        name: Key of ``ENCODERS``, or "file.py:NAME" of an ``EncoderEntry`` in a file.

    Raises:
        UserError: There is no such encoder.
    """
    return look_up("encoder", name, ENCODERS, EncoderEntry)


def build_encoder(name: str, **options: Any) -> nn.Module:
    """Builds an encoder by name; ``options`` are those of ``EncoderEntry.build``.

    Raises:
        UserError: There is no such encoder.
    """
    return encoder_entry(name).build(**options)
