"""BatchNorm with statistics over a given number of images, independent of the number of devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167, Alg. 1) over contiguous groups of the global batch.

    Rows must be ordered so that a group is contiguous over the axis: example-major, with all views
    of an example adjacent. The running statistics are the average over groups, identical on every
    device.

    Attributes:
        axis_name: Mapped axis that the batch is split over; None on a single device. Evaluation
            does not use it.
        groups: Number of equal groups of the global batch; 1: statistics of the whole batch.
        momentum: Fraction of the running statistics retained per step; 0.9 in SimCLR and torch.
        epsilon: Constant added to the variance before the square root.
        use_scale: True to learn a scale per channel.
        use_bias: True to learn a bias per channel. The paper's code omits the bias in the last
            layer of the projector.
        scale_init: Initializer of the scale; zeros in the last BatchNorm of a residual block.
        dtype: Dtype of the outputs; None: promoted from the inputs and the parameters.
    """

    axis_name: str | None = None
    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalises x per channel.

        Args:
            x: Inputs, float [rows, ..., C].
            train: True to use batch statistics and to update the running statistics.

        Returns:
            Normalised inputs, [rows, ..., C]. Statistics are float32 or wider.

        Raises:
            UserError: The groups do not divide evenly over rows or devices.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        values = x.astype(jnp.promote_types(x.dtype, running_mean.value.dtype))
        if train:
            # Initialisation runs outside the mapped axis, and usually without a whole batch.
            initializing = self.is_initializing()
            axis_name, groups = (None, 1) if initializing else (self.axis_name, self.groups)
            mean, var = group_statistics(values, running_mean.value, axis_name, groups)
            if not initializing:
                for running, new in ((running_mean, mean), (running_var, var)):
                    average = jax.lax.stop_gradient(new).mean(axis=0)
                    if axis_name is not None:
                        average = jax.lax.pmean(average, axis_name)
                    running.value = self.momentum * running.value + (1 - self.momentum) * average
        else:
            mean, var = running_mean.value[None], running_var.value[None]
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor = factor * self.param("scale", self.scale_init, (channels,))
        grouped = values.reshape(len(mean), -1, channels)  # one group per row of statistics
        y = ((grouped - mean[:, None]) * factor[:, None]).reshape(x.shape)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (channels,))
        return y.astype(self.dtype or y.dtype)


def group_statistics(
    x: jax.Array, shift: jax.Array, axis_name: str | None, groups: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of every group that has rows on this device.

    Args:
        x: Rows of this device, float [rows, ..., C].
        shift: Value per channel that is subtracted before squaring, float [C]. The running mean is
            close to the batch mean, so E[d^2] - E[d]^2 does not cancel. One collective call is then
            enough instead of two.
        axis_name: Mapped axis that the batch is split over; None on a single device.
        groups: Number of groups of the global batch; a multiple or a divisor of the axis size.

    Returns:
        (mean, variance), float [groups on this device, C] each.

    Raises:
        UserError: The groups do not divide evenly over rows or devices.
    """
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    local_groups = max(1, groups // devices)
    if len(x) % local_groups or (groups % devices and devices % groups):
        raise UserError(
            f"{groups} BatchNorm groups do not split evenly over {devices} devices of {len(x)} "
            "rows each; use 1, or a divisor of both"
        )
    shift = jax.lax.stop_gradient(shift)
    shifted = x.reshape(local_groups, -1, x.shape[-1]) - shift
    moments = jnp.stack([shifted.mean(axis=1), jnp.square(shifted).mean(axis=1)])
    if groups < devices:
        size = devices // groups
        members = [list(range(g * size, (g + 1) * size)) for g in range(groups)]
        moments = jax.lax.pmean(
            moments, axis_name, axis_index_groups=None if groups == 1 else members
        )
    mean, square = moments
    # Rounding can make the difference slightly negative.
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0.0)
