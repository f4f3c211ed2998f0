"""Projection and prediction heads: multilayer perceptrons built from a description."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from cssl_jax.models.normalization import BatchNorm, NormGroups

Norm = Literal["none", "bn", "bn_no_bias", "bn_plain"]
Activation = Literal["none", "relu", "gelu", "tanh"]
Initialisation = Literal["lecun", "torch", "trunc02"]


def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=False)


_ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "relu": nn.relu,
    "gelu": _gelu,
    "tanh": jnp.tanh,
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One dense layer of a head, with what follows it.

    Attributes:
        width: Width of the output; 0: the width of the head's input.
        bias: True if the dense layer has a bias.
        norm: BatchNorm after the dense layer: "none", "bn" with scale and bias, "bn_no_bias" with a
            scale, or "bn_plain" with neither.
        activation: Function after the norm; "gelu" is the exact one.
    """

    width: int
    bias: bool = True
    norm: Norm = "none"
    activation: Activation = "none"


class WeightNormDense(nn.Module):
    """Dense layer whose weights of each output have norm 1, or a learnt norm (arXiv 1602.07868).

    Attributes:
        features: Number of outputs.
        learn_scale: True to learn the norm per output, from 1; False: it is 1.
        use_bias: True to add a bias.
        kernel_init: Initializer of the weights before normalisation.
        bias_init: Initializer of the bias.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    features: int
    learn_scale: bool = False
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [..., D] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        kernel = unit_rows(kernel.T).T
        if self.learn_scale:
            kernel = kernel * self.param("scale", nn.initializers.ones_init(), (self.features,))
        bias = self.param("bias", self.bias_init, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y: jax.Array = x @ kernel
        return y if bias is None else y + bias


_DENSE: dict[str, Callable[..., nn.Module]] = {
    "none": nn.Dense,
    "fixed": WeightNormDense,
    "learnt": functools.partial(WeightNormDense, learn_scale=True),
}


class MLP(nn.Module):
    """Multilayer perceptron from a description, with parameters dense1, bn1, dense2, ...

    Two modules describe a head whose last layer follows an L2 normalisation, as in DINO and SwAV:
    one with ``unit_norm``, and one with the last layer alone.

    Attributes:
        layers: Description of each layer.
        unit_norm: True to divide each output by its L2 norm.
        weight_norm: Weight normalisation (arXiv 1602.07868) of the last layer's kernel: each output
            has the weights scale * v / norm(v), where v is the parameter ``kernel``. "fixed": the
            scale is 1. "learnt": the parameter ``scale``, which starts from 1.
        initialisation: Initial values of the dense layers. "lecun": truncated normal of variance
            1 / fan_in, biases 0 (Flax). "torch": weights and biases uniform within
            +-1 / sqrt(fan_in), as in ``torch.nn.Linear``. "trunc02": normal of standard deviation
            0.02, biases 0, as in DINO, whose truncation at +-2 lies at 100 standard deviations.
        axis_name: Mapped axis of cross-replica BatchNorm; None on a single device.
        norm_groups: Groups of the global batch with separate BatchNorm statistics, or their number.
        norm_momentum: Fraction of BatchNorm's running statistics that is retained per step.
        dtype: Compute dtype; None: promoted from the inputs and the parameters.
    """

    layers: tuple[Layer, ...]
    unit_norm: bool = False
    weight_norm: Literal["none", "fixed", "learnt"] = "none"
    initialisation: Initialisation = "lecun"
    axis_name: str | None = None
    norm_groups: int | NormGroups = 1
    norm_momentum: float = 0.9
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Maps features [n, ..., D] to outputs [n, ..., d], float32 or wider."""
        x = features
        for i, layer in enumerate(self.layers, start=1):
            weight_norm = self.weight_norm if i == len(self.layers) else "none"
            kernel_init, bias_init = _initializers(self.initialisation, x.shape[-1])
            x = _DENSE[weight_norm](
                layer.width or features.shape[-1],
                use_bias=layer.bias,
                dtype=self.dtype,
                kernel_init=kernel_init,
                bias_init=bias_init,
                name=f"dense{i}",
            )(x)
            if layer.norm != "none":
                x = BatchNorm(
                    axis_name=self.axis_name,
                    groups=self.norm_groups,
                    momentum=self.norm_momentum,
                    use_scale=layer.norm != "bn_plain",
                    use_bias=layer.norm == "bn",
                    dtype=self.dtype,
                    name=f"bn{i}",
                )(x, train=train)
            x = _ACTIVATIONS[layer.activation](x)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return unit_rows(x) if self.unit_norm else x


def projection_head(
    *,
    layers: int = 2,
    hidden: int = 0,
    out: int = 128,
    num_applied_layers: int | None = None,
    norm: bool = True,
    last: Norm = "bn_no_bias",
    last_bias: bool = False,
    activation: Activation = "relu",
    **options: Any,
) -> MLP:
    """Describes g(h) of SimCLR (arXiv 2002.05709, sec. 4.2) with 2 layers; SimCLRv2 uses 3.

    The heads of other methods differ in what follows the last layer.

    Args:
        layers: Number of dense layers, 1 (linear) to 3.
        hidden: Width of the hidden layers; 0: the width of the features, as in the paper.
        out: Width d of the projections.
        num_applied_layers: Number of leading layers to apply, hidden ones with their ReLU; None:
            all layers.
        norm: True for BatchNorm after every layer in place of biases, as in the paper's code.
        last: Norm after the last layer, if ``norm``; the paper's code has no bias there.
        last_bias: True for a bias of the last dense layer, if ``norm``; without norm every layer
            has one.
        activation: Function between the layers.
        options: Other attributes of ``MLP``.

    Example:
        >>> [layer.width for layer in projection_head(layers=3, hidden=512).layers]
        [512, 512, 128]
    """
    inner = Layer(hidden, bias=not norm, norm="bn" if norm else "none", activation=activation)
    outermost = Layer(out, bias=not norm or last_bias, norm=last if norm else "none")
    return MLP((*[inner] * (layers - 1), outermost)[:num_applied_layers], **options)


def unit_rows(x: jax.Array) -> jax.Array:
    """Divides each row of x [..., d] by its L2 norm; a row of zeros stays 0, without NaN."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1))


def _initializers(
    name: Initialisation, inputs: int
) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
    """Initializers of the kernel and the bias of a dense layer with this many inputs."""
    zeros = nn.initializers.zeros_init()
    if name == "lecun":
        return nn.initializers.lecun_normal(), zeros
    if name == "trunc02":
        return nn.initializers.normal(0.02), zeros
    bound = 1 / math.sqrt(inputs)

    def uniform(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return uniform, uniform
