"""What the host's two engines, TensorFlow and threads, share: draws made by JAX on the CPU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image import geometry
from cssl_jax.augment.image.policy import ImagePolicy, sample_views
from cssl_jax.data.pipeline.thread_map import cores
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.errors import UserError

PREFETCH = 2  # batches; a fixed number bounds the memory
Drawn = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What an engine makes of a source: views uint8 [rows, views, size, size, C] a step.

    Attributes:
        source: The training part.
        sampler: Says which example goes where, and its key.
        policy: Of the augmentation.
        views: Views an example.
        size: Side of a view, in pixels.
        whole: Apply the whole policy; else crop and resize only, the rest is the device's.
        rows: Rows of the global batch that this process feeds.
        parallelism: Examples worked on at a time; 0 is one a core.
        kernels: What makes the views: "opencv", or "jax" (compiled JAX, and TensorFlow's operations
            where tf.data reads); see ``painter.kernels``.
    """

    source: Source
    sampler: Sampler
    policy: ImagePolicy
    views: int
    size: int
    whole: bool = True
    rows: np.ndarray
    parallelism: int = 0
    kernels: str = "jax"

    @property
    def workers(self) -> int:
        """Examples worked on at a time."""
        return self.parallelism or cores()


def draws(
    work: Work, also: Callable[[Drawn], Drawn] = lambda drawn: drawn
) -> Callable[[np.ndarray, np.ndarray], Drawn]:
    """Compiles (index int32 [r], keys uint32 [r, 2]) -> parameters, leaves [r, views, ...].

    Beside what ``policy.sample`` gives there are box int32 [r, views, 4]: top, left, height, width;
    halvings int32 [r], with which a JPEG is to be decoded; and reduced_box, the box in what that
    gives. ``also`` maps the parameters to what the engine takes.
    """
    source = work.source
    reducible = np.zeros(len(source), bool)
    if isinstance(source, ImageSource) and work.policy.dct_scaling:
        reducible = source.plain_jpeg

    def draw(keys: jax.Array, sizes: jax.Array, reducible: jax.Array) -> Drawn:
        drawn = sample_views(keys, work.policy, work.views)
        height, width = sizes[:, :1], sizes[:, 1:]
        box = jnp.stack(geometry.crop_box(drawn, height, width, policy=work.policy), -1)
        halvings = jnp.where(reducible, _halvings(box, work.size), 0)
        reduced = _reduced(box, halvings[:, None, None])
        return also({**drawn, "box": box, "halvings": halvings, "reduced_box": reduced})

    rows = len(work.rows)
    compiled = on_cpu(
        draw,
        jax.ShapeDtypeStruct((rows, 2), np.uint32),
        jax.ShapeDtypeStruct((rows, 2), np.int32),
        jax.ShapeDtypeStruct((rows,), bool),
    )
    return lambda index, keys: compiled(keys, source.sizes[index], reducible[index])


def _halvings(box: jax.Array, size: int) -> jax.Array:
    """int32 [r]: how often a picture's sides halve with no window [r, views, 4] below ``size``.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size from fewer coefficients of its blocks.
    """
    smallest = jnp.min(box[..., 2:], axis=(-2, -1))
    return sum((smallest >= size << n).astype(jnp.int32) for n in (1, 2, 3))  # type: ignore[return-value]


def _reduced(box: jax.Array, halvings: jax.Array) -> jax.Array:
    """The whole pixels of the reduced picture that hold the box: less than one more on a side."""
    start = box[..., :2] >> halvings
    end = -(-(box[..., :2] + box[..., 2:]) >> halvings)
    return jnp.concatenate([start, end - start], -1)


def on_cpu(function: Callable[..., Any], *shapes: Any) -> Callable[..., Any]:
    """Compiles for the CPU, whatever JAX's default is; NumPy in, NumPy out.

    Compiled by the caller, since ``jax.enable_x64`` and other settings that hold for a thread would
    not be seen in the threads that run it.

    Args:
        function: To compile.
        shapes: Of its arguments, pytrees of ``jax.ShapeDtypeStruct``.

    Raises:
        UserError: JAX was told to leave out its CPU backend.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            f"JAX runs without its CPU backend, which the host pipeline draws on ({error}); "
            "add ',cpu' to JAX_PLATFORMS, or augment on the device"
        ) from error
    placement = jax.sharding.SingleDeviceSharding(cpu)
    placed = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=placement), shapes
    )
    compiled = jax.jit(function).lower(*placed).compile()
    return lambda *arrays: jax.device_get(compiled(*arrays))
