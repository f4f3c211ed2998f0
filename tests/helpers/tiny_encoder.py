"""Small encoders as a user's file, which a command in a child process can name."""

import functools

import flax.linen as nn

from cssl_jax.models.normalization import BatchNorm, NormGroups
from cssl_jax.models.registry import EncoderEntry
from cssl_jax.models.resnet import BasicBlock, ResNet


class Linear(nn.Module):
    """A dense layer with BatchNorm and ReLU: the smallest encoder with batch statistics."""

    axis_name: str | None = None
    norm_groups: int | NormGroups = 1
    norm_momentum: float = 0.9
    num_stages = 1

    def depth_of(self, path):
        return 1

    def with_live_branches(self):
        return self

    @nn.compact
    def __call__(self, x, train=False, keys=None, keep=None):
        x = nn.Dense(12, name="dense")(x.reshape(len(x), -1))
        x = BatchNorm(self.axis_name, self.norm_groups, self.norm_momentum, name="norm")(
            x, train=train
        )
        return {"features": nn.relu(x)}


def build_linear(*, axis_name=None, norm_groups=1, **others):
    return Linear(axis_name, norm_groups)


# Two stages have all that deeper encoders have, a downsampling shortcut included.
TINY = EncoderEntry(build=functools.partial(ResNet, (1, 1), BasicBlock))
LINEAR = EncoderEntry(build=build_linear)
