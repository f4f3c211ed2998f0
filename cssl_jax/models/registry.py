"""From a name to an encoder."""

import difflib
import functools
from typing import Any

import flax.linen as nn

from cssl_jax.errors import UserError
from cssl_jax.models.resnet import BasicBlock, Bottleneck, ResNet

ENCODERS = {
    "resnet10": functools.partial(ResNet, (1, 1, 1, 1), BasicBlock),
    "resnet14": functools.partial(ResNet, (1, 1, 1, 1), Bottleneck),
    "resnet18": functools.partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet34": functools.partial(ResNet, (3, 4, 6, 3), BasicBlock),
    "resnet50": functools.partial(ResNet, (3, 4, 6, 3), Bottleneck),
    "resnet101": functools.partial(ResNet, (3, 4, 23, 3), Bottleneck),
    "resnet152": functools.partial(ResNet, (3, 8, 36, 3), Bottleneck),
    "resnet200": functools.partial(ResNet, (3, 24, 36, 3), Bottleneck),
}


def build_encoder(name: str, **options: Any) -> nn.Module:
    """Builds an encoder; ``options`` are the attributes of ``ResNet`` (width, stem, ...).

    Raises:
        UserError: No encoder has that name.
    """
    if name not in ENCODERS:
        near = difflib.get_close_matches(name, ENCODERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"no encoder is called {name!r}; {hint}there are {', '.join(ENCODERS)}")
    return ENCODERS[name](**options)
