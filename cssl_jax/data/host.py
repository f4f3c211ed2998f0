"""What the host's two engines, TensorFlow and threads, share: draws made by JAX on the CPU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment import geometry
from cssl_jax.augment.policy import ImagePolicy, sample_views
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources import Source
from cssl_jax.data.threads import cores
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
    """

    source: Source
    sampler: Sampler
    policy: ImagePolicy
    views: int
    size: int
    whole: bool = True
    rows: np.ndarray
    parallelism: int = 0

    @property
    def workers(self) -> int:
        """Examples worked on at a time."""
        return self.parallelism or cores()


def draws(
    work: Work, also: Callable[[Drawn], Drawn] = lambda drawn: drawn
) -> Callable[[np.ndarray, np.ndarray], Drawn]:
    """Compiles (keys uint32 [r, 2], sizes int32 [r, 2]) -> parameters, leaves [r, views, ...].

    Beside what ``policy.sample`` gives there is box int32 [r, views, 4]: top, left, height, width.
    ``also`` maps the parameters to what the engine takes.
    """

    def draw(keys: jax.Array, sizes: jax.Array) -> Drawn:
        drawn = sample_views(keys, work.policy, work.views)
        height, width = sizes[:, :1], sizes[:, 1:]
        box = geometry.crop_box(drawn, height, width, policy=work.policy)
        return also({**drawn, "box": jnp.stack(box, -1)})

    rows = len(work.rows)
    keys = jax.ShapeDtypeStruct((rows, 2), np.uint32)
    return on_cpu(draw, keys, jax.ShapeDtypeStruct((rows, 2), np.int32))


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
    return lambda *arrays: jax.device_get(compiled(*jax.device_put(arrays, placement)))
