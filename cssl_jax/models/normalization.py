"""BatchNorm with statistics over a given number of images, independent of the number of devices."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormGroups:
    """Rows of the global batch that share BatchNorm statistics.

    Rows are example-major: all views of an example are adjacent. With micro-batches, "the global
    batch" is the global micro-batch, because only its rows are encoded together.

    Attributes:
        count: Number of equal groups of examples.
        examples: Number of examples of the global batch. Rows divided by examples is the number of
            views per example. Only "apart" and "strided" need it; 0: not known.
        views: "joint": all views of a group's examples share statistics. "apart": each view of a
            group has its own, as if the views were encoded one after another.
        order: "contiguous": group g has the examples from g examples / count on. "strided": group g
            has the examples i with i % count == g. A momentum encoder with strided groups beside
            an encoder with contiguous ones replaces the shuffled BatchNorm of MoCo (arXiv
            1911.05722, sec. 3.3): no image moves between devices.
    """

    count: int = 1
    examples: int = 0
    views: Literal["joint", "apart"] = "joint"
    order: Literal["contiguous", "strided"] = "contiguous"

    @property
    def are_row_blocks(self) -> bool:
        """True if every group is a contiguous block of rows."""
        return self.views == "joint" and self.order == "contiguous"


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167, Alg. 1) over groups of the global batch.

    Rows must be example-major over the axis, with all views of an example adjacent. The running
    statistics are the average over groups, identical on every device. If views are normalised
    apart, the running statistics are updated once per view, in the order of the views. Methods that
    encode one view after the other do the same: two views retain ``momentum`` ** 2 of the
    earlier statistics.

    In micro-batches, groups are those of a micro-batch; see ``step.grad_cache`` for the running
    statistics.

    Attributes:
        axis_name: Mapped axis that the batch is split over; None on a single device. Evaluation
            does not use it.
        groups: Rows that share statistics. A number is that many contiguous groups of the global
            batch with joint views; 1: statistics of the whole batch.
        momentum: Fraction of the running statistics retained per update; 0.9 in SimCLR and torch.
        epsilon: Constant added to the variance before the square root.
        use_scale: True to learn a scale per channel.
        use_bias: True to learn a bias per channel. The paper's code omits the bias in the last
            layer of the projector.
        scale_init: Initializer of the scale; zeros in the last BatchNorm of a residual block.
        dtype: Dtype of the outputs; None: promoted from the inputs and the parameters.
    """

    axis_name: str | None = None
    groups: int | NormGroups = 1
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Normalises x per channel.

        Args:
            x: Inputs, float [rows, ..., C].
            train: True to use batch statistics and to update the running statistics.
            mask: bool [rows] or [rows, T], True where x counts in the statistics; None: everywhere.
                Inputs at other positions must be finite. They are normalised too, but influence
                no other output. A group without a counted position uses the running statistics.

        Returns:
            Normalised inputs, [rows, ..., C]. Statistics are float32 or wider.

        Raises:
            UserError: The groups do not divide evenly over rows, examples or devices.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        values = x.astype(jnp.promote_types(x.dtype, running_mean.value.dtype))
        members = None
        if train:
            # Initialisation runs outside the mapped axis, and usually without a whole batch.
            initializing = self.is_initializing()
            axis_name, groups = (None, 1) if initializing else (self.axis_name, self.groups)
            if isinstance(groups, int):
                groups = NormGroups(count=groups)
            before = running_mean.value, running_var.value
            if mask is None and groups.are_row_blocks:
                mean, var = group_statistics(values, before[0], axis_name, groups.count)
            else:
                members = _memberships(len(values), axis_name, groups, values.dtype)
                mean, var = _cell_statistics(values, before, mask, members, axis_name)
            if not initializing:
                for running, new in ((running_mean, mean), (running_var, var)):
                    new = jax.lax.stop_gradient(new)
                    # With members, every device has the statistics of all cells.
                    for average in (
                        [_average_of_devices(new, axis_name)]
                        if members is None
                        else _averages_of_views(new, groups.count)
                    ):
                        running.value = (
                            self.momentum * running.value + (1 - self.momentum) * average
                        )
        else:
            mean, var = running_mean.value[None], running_var.value[None]
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor = factor * self.param("scale", self.scale_init, (channels,))
        if members is not None:
            mean, factor = _matmul(members, mean), _matmul(members, factor)  # one row per row of x
        grouped = values.reshape(len(mean), -1, channels)  # one group per row of statistics
        y = ((grouped - mean[:, None]) * factor[:, None]).reshape(x.shape)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (channels,))
        return y.astype(self.dtype or y.dtype)


def _average_of_devices(statistics: jax.Array, axis_name: str | None) -> jax.Array:
    """Average of the statistics [groups, C] of all groups on all devices, [C]."""
    average = statistics.mean(axis=0)
    return average if axis_name is None else jax.lax.pmean(average, axis_name)


def _averages_of_views(statistics: jax.Array, groups: int) -> list[jax.Array]:
    """Average over the groups for each view, [C] each, of statistics [groups x views, C]."""
    return list(statistics.reshape(groups, -1, statistics.shape[-1]).mean(axis=0))


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


def _memberships(
    rows: int, axis_name: str | None, groups: NormGroups, dtype: jnp.dtype
) -> jax.Array:
    """One-hot matrix [rows, cells] from this device's rows to their cells.

    A cell is the set of all rows that share statistics: a group or, if views are normalised apart,
    a view of a group. Cells are ordered by group, then by view.

    Raises:
        UserError: The rows do not divide evenly over examples, or the examples over groups.
    """
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    total = rows * devices
    examples = total if groups.are_row_blocks else groups.examples
    if not examples or total % examples or examples % groups.count:
        raise UserError(
            f"{groups.count} BatchNorm groups ({groups.order}, views {groups.views}) do not split "
            f"evenly over {examples} examples in {total} rows; give groups that divide the "
            "examples, and examples that divide the rows"
        )
    views = total // examples
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
    example, view = jnp.divmod(first + jnp.arange(rows), views)
    if groups.order == "strided":
        cell, cells = example % groups.count, groups.count
    else:
        cell, cells = example // (examples // groups.count), groups.count
    if groups.views == "apart":
        cell, cells = cell * views + view, cells * views
    return jax.nn.one_hot(cell, cells, dtype=dtype)


def _cell_statistics(
    x: jax.Array,
    running: tuple[jax.Array, jax.Array],
    mask: jax.Array | None,
    members: jax.Array,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of every cell of the global batch, identical on every device.

    Args:
        x: Rows of this device, float [rows, ..., C].
        running: Running (mean, variance), float [C] each. The mean is subtracted before squaring,
            see ``group_statistics``. Both replace the statistics of a cell whose mask is False
            everywhere.
        mask: bool [rows] or [rows, T], True where x counts; None: everywhere.
        members: Matrix of ``_memberships``, [rows, cells].
        axis_name: Mapped axis that the batch is split over; None on a single device.

    Returns:
        (mean, variance), float [cells, C] each.
    """
    shift, fallback = map(jax.lax.stop_gradient, running)
    shifted = x.reshape(len(x), -1, x.shape[-1]) - shift
    kept = None
    if mask is not None:
        kept = mask.reshape(*mask.shape, *[1] * (x.ndim - 1 - mask.ndim))
        kept = jnp.broadcast_to(kept, x.shape[:-1]).reshape(shifted.shape[:2])
        shifted = jnp.where(kept[:, :, None], shifted, 0)
    # Matrix products instead of scatter-adds, whose order of additions varies between runs on GPUs.
    sums: jax.Array = jnp.stack(
        [_matmul(members.T, part.sum(axis=1)) for part in (shifted, jnp.square(shifted))]
    )
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    if kept is None:
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        mean, square = sums / (devices * shifted[..., 0].size / members.shape[1])
        return mean + shift, jnp.maximum(square - jnp.square(mean), 0.0)
    counts = _matmul(members.T, kept.sum(axis=1, keepdims=True).astype(x.dtype))
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    mean, square = sums / jnp.maximum(counts, 1)
    # Rounding can make the difference slightly negative.
    var = jnp.maximum(square - jnp.square(mean), 0.0)
    return mean + shift, jnp.where(counts > 0, var, fallback)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
