"""BatchNorm whose statistics are over a stated number of images, not over what a device holds."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167, Alg. 1) over contiguous groups of the global batch.

    Rows must be laid out so that a group is contiguous over the axis: example-major, all views of
    an example together. Running statistics are the groups' average, the same on every device.

    Attributes:
        axis_name: Mapped axis that the batch is split over, or None; unused at evaluation.
        groups: Equal groups the global batch falls into; 1 is statistics of the whole batch.
        momentum: Share of the running statistics that survives a step; 0.9 in SimCLR and torch.
        epsilon: Added to the variance.
        use_scale: Learn a scale.
        use_bias: Learn a bias; the paper's code leaves it out of the projector's last layer.
        scale_init: Of the scale; zeros for the last one of a residual block.
        dtype: Of the output; None is the input's, promoted with the parameters'.
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
        """Normalises x [rows, ..., C]; statistics are at least float32."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        values = x.astype(jnp.promote_types(x.dtype, running_mean.value.dtype))
        if train:
            # Initialisation sees neither the axis nor, as a rule, a whole batch.
            starting = self.is_initializing()
            axis_name, groups = (None, 1) if starting else (self.axis_name, self.groups)
            mean, var = group_statistics(values, running_mean.value, axis_name, groups)
            if not starting:
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
        grouped = values.reshape(len(mean), -1, channels)  # statistics broadcast over their rows
        y = ((grouped - mean[:, None]) * factor[:, None]).reshape(x.shape)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (channels,))
        return y.astype(self.dtype or y.dtype)


def group_statistics(
    x: jax.Array, shift: jax.Array, axis_name: str | None, groups: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of every group that has rows on this device.

    Args:
        x: Local rows [rows, ..., C].
        shift: [C], subtracted before squaring. The running mean is near the batch's, so that
            E[d^2] - E[d]^2 does not cancel, and one collective instead of two is enough.
        axis_name: Mapped axis, or None.
        groups: Of the whole batch over the axis; a multiple or a divisor of the axis size.

    Returns:
        (mean, var), [groups here, C] each.

    Raises:
        UserError: A group would hold parts of images, or unequal shares of devices.
    """
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    local_groups = max(1, groups // devices)
    if len(x) % local_groups or (groups % devices and devices % groups):
        raise UserError(
            f"{groups} BatchNorm groups do not split evenly over {devices} devices of {len(x)} "
            "rows each; use 1, or a divisor of both"
        )
    shift = jax.lax.stop_gradient(shift)
    d = x.reshape(local_groups, -1, x.shape[-1]) - shift
    moments = jnp.stack([d.mean(axis=1), jnp.square(d).mean(axis=1)])
    if groups < devices:
        share = devices // groups
        members = [list(range(g * share, (g + 1) * share)) for g in range(groups)]
        moments = jax.lax.pmean(
            moments, axis_name, axis_index_groups=None if groups == 1 else members
        )
    mean, square = moments
    return mean + shift, jnp.maximum(square - jnp.square(mean), 0.0)
