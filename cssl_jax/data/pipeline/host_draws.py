"""Augmentation parameters that JAX draws on the CPU for both host backends, tf.data and threads."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image import geometry
from cssl_jax.augment.image.policy import sample_views
from cssl_jax.augment.view_group import Groups, SizedGroup
from cssl_jax.data.pipeline.thread_map import cores
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Images
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.errors import UserError

_HALVINGS = (1, 2, 3)  # of a JPEG's sides, which libjpeg supports
PREFETCH = 2  # batches that are made ahead; a fixed number bounds the memory
Drawn = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewJob:
    """Description of the views, uint8 [rows, count, size, size, C] per group, that the host makes.

    Attributes:
        source: Training split.
        sampler: Order of the examples and their keys.
        groups: View groups by name. An image is read and decoded once for all of them.
        whole: True if the host applies the whole policy. False if it only crops and resizes, and
            the device applies the rest.
        rows: int [r], rows of the global batch that this process provides.
        parallelism: Number of examples processed at the same time. The default 0 means one per
            core.
        kernels: Library that makes the views: "opencv", or "jax" (compiled JAX, plus TensorFlow
            operations in the tf.data backend); see ``painter.kernels``.
    """

    source: Images
    sampler: Sampler
    groups: Groups
    whole: bool = True
    rows: np.ndarray
    parallelism: int = 0
    kernels: str = "jax"

    @property
    def workers(self) -> int:
        """Number of examples processed at the same time."""
        return self.parallelism or cores()

    def empty_views(self) -> dict[str, np.ndarray]:
        """Uninitialised arrays for the views of one step, by group."""
        rows, channels = len(self.rows), self.source.channels
        return {
            name: np.empty((rows, group.count, group.size, group.size, channels), np.uint8)
            for name, group in self.groups.items()
        }


def take_rows(tree: Any, first: int, count: int) -> Any:
    """Rows [first, first + count) of every array of a tree."""
    return jax.tree.map(lambda x: x[first : first + count], tree)


def draws(
    job: ViewJob, select: Callable[[SizedGroup, Drawn], Drawn] = lambda group, drawn: drawn
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, dict[str, Drawn]]]:
    """Compiles the function that draws the parameters of all views of a host batch.

    Args:
        job: Description of the views.
        select: Traceable function that maps all parameters of a group to those that the backend
            needs. The default keeps all of them.

    Returns:
        A function (index int32 [r], keys uint32 [r, 2]) -> (halvings, parameters by group).
        Halvings are int32 [r]: a JPEG is decoded at 2**-halvings of its size, once for all groups.
        Parameters have leaves [r, count, ...]. In addition to the entries of ``policy.sample``
        there are box int32 [r, count, 4] (top, left, height, width, in pixels) and reduced_box
        int32 [r, count, 4] (the box in the reduced image).

    Raises:
        UserError: JAX runs without its CPU backend.
    """
    source = job.source
    reducible = np.zeros(len(source), bool)
    policies = [group.policy for group in job.groups.values()]
    if isinstance(source, ImageSource) and all(policy.dct_scaling for policy in policies):
        reducible = source.plain_jpeg

    def draw(
        keys: jax.Array, sizes: jax.Array, reducible: jax.Array
    ) -> tuple[jax.Array, dict[str, Drawn]]:
        height, width = sizes[:, :1], sizes[:, 1:]
        all_drawn, halvings = {}, jnp.full(reducible.shape, max(_HALVINGS), jnp.int32)
        for name, group in job.groups.items():
            drawn = sample_views(keys, group.policy, group.count, group.first)
            box = jnp.stack(geometry.crop_box(drawn, height, width, policy=group.policy), -1)
            # The image is decoded once, so the group that needs the most pixels decides.
            halvings = jnp.minimum(halvings, _max_halvings(box, group.size))
            all_drawn[name] = {**drawn, "box": box}
        halvings = jnp.where(reducible, halvings, 0)
        return halvings, {
            name: select(
                job.groups[name],
                {**drawn, "reduced_box": _reduce_box(drawn["box"], halvings[:, None, None])},
            )
            for name, drawn in all_drawn.items()
        }

    rows = len(job.rows)
    compiled = on_cpu(
        draw,
        jax.ShapeDtypeStruct((rows, 2), np.uint32),
        jax.ShapeDtypeStruct((rows, 2), np.int32),
        jax.ShapeDtypeStruct((rows,), bool),
    )
    return lambda index, keys: compiled(keys, source.sizes[index], reducible[index])


def _max_halvings(box: jax.Array, size: int) -> jax.Array:
    """Maximum number of halvings that keep every crop at least ``size`` pixels high and wide.

    A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size from fewer DCT coefficients per block.

    Args:
        box: int32 [r, views, 4], crops (top, left, height, width).
        size: Side of a view in pixels.

    Returns:
        int32 [r], 0 to 3.
    """
    smallest = jnp.min(box[..., 2:], axis=(-2, -1))
    return sum((smallest >= size << n).astype(jnp.int32) for n in _HALVINGS)  # type: ignore[return-value]


def _reduce_box(box: jax.Array, halvings: jax.Array) -> jax.Array:
    """Smallest box of whole pixels of the reduced image that contains the box.

    Each side is widened by less than one pixel of the reduced image.
    """
    start = box[..., :2] >> halvings
    end = -(-(box[..., :2] + box[..., 2:]) >> halvings)
    return jnp.concatenate([start, end - start], -1)


def on_cpu(function: Callable[..., Any], *shapes: Any) -> Callable[..., Any]:
    """Compiles a function for the CPU, whatever the default backend of JAX is.

    Compilation happens in the calling thread, since ``jax.enable_x64`` and other thread-local
    settings have no effect in the threads that run the compiled function.

    Args:
        function: Traceable function to compile.
        shapes: Shapes and dtypes of the arguments, pytrees of ``jax.ShapeDtypeStruct``.

    Returns:
        The compiled function, from NumPy arrays to NumPy arrays.

    Raises:
        UserError: JAX runs without its CPU backend.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            f"JAX runs without its CPU backend, which the host pipeline needs ({error}); "
            "add ',cpu' to JAX_PLATFORMS, or augment on the device"
        ) from error
    placement = jax.sharding.SingleDeviceSharding(cpu)
    placed = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=placement), shapes
    )
    compiled = jax.jit(function).lower(*placed).compile()
    return lambda *arrays: jax.device_get(compiled(*arrays))
