"""Views of one image, made on the host by compiled JAX; shared by both host backends.

The parameters of a view are passed as one vector: passing a dozen small arrays takes longer than
the arithmetic on them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.image import per_image
from cssl_jax.augment.image.policy import ImagePolicy, sample
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.host_draws import Drawn
from cssl_jax.data.pipeline.rendering import interpolation
from cssl_jax.data.sources import decode

Viewer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Finisher = Callable[[Any, np.ndarray], np.ndarray]


def pack(group: SizedGroup, drawn: Drawn) -> Drawn:
    """Packs the parameters of each view into a vector; a ``select`` of ``host_draws.draws``.

    Args:
        group: Group of the views; its policy determines the number K of parameters.
        drawn: Parameters, leaves [r, count, ...].

    Returns:
        box int32 [r, count, 4], in pixels of the reduced image, and vector float32 [r, count, K].
    """
    _, _, names = _layout(group.policy)
    parameters = {name: drawn[name] for name in names}
    vector = jax.vmap(jax.vmap(_raveled))(parameters).astype(np.float32)
    return {"box": drawn["reduced_box"], "vector": vector}


def _raveled(view: Drawn) -> jax.Array:
    """Parameters of one view as one vector [K]."""
    vector, _ = ravel_pytree(view)
    return vector


def parameters_of(policy: ImagePolicy) -> Callable[[np.ndarray], dict[str, Any]]:
    """Builds the inverse of ``pack`` for one view.

    Args:
        policy: Augmentation policy that the vectors were drawn from.

    Returns:
        A function from a vector float32 [K] to the parameters by name, NumPy scalars and vectors.
    """
    keys = jax.ShapeDtypeStruct((2,), np.uint32)
    shapes = jax.eval_shape(lambda key: sample(key, policy), keys)
    ends = np.cumsum([int(np.prod(x.shape)) for x in shapes.values()]).tolist()
    positions: dict[str, int | slice] = {
        name: slice(end - x.size, end) if x.shape else end - 1
        for (name, x), end in zip(shapes.items(), ends, strict=True)
    }
    return lambda vector: {name: vector[position] for name, position in positions.items()}


def viewer(group: SizedGroup, channels: int, *, whole: bool) -> Viewer:
    """Compiles the function that makes all views of one image in one group.

    Args:
        group: Group of the views.
        channels: Number of image channels.
        whole: True to apply the whole policy, False to only crop and resize.

    Returns:
        A function (image uint8 [h, w, C], boxes int [count, 4], vectors float32 [count, K]) ->
        views uint8 [count, size, size, C], rounded.
    """
    size, kernel, policy = group.size, group.policy.interpolation, group.policy
    if policy.antialias:
        planes = jax.ShapeDtypeStruct((group.count, channels, size, size), np.float32)
        finish = _finisher(policy, whole, lambda x: x, planes)

        def antialiased(image: np.ndarray, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
            crops = (image[y : y + height, x : x + width] for y, x, height, width in boxes)
            return finish(np.stack([decode.resample(crop, size, kernel) for crop in crops]), drawn)

        return antialiased
    weigh = _finisher(
        policy,
        whole,
        lambda taps: interpolation.weigh(taps, channels),
        interpolation.Taps.shapes(group.count, size, kernel),
    )

    def plain(image: np.ndarray, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return weigh(interpolation.gather(interpolation.pack(image), boxes, size, kernel), drawn)

    return plain


def finisher(group: SizedGroup, channels: int, examples: int) -> Finisher:
    """Compiles the function that applies the rest of the policy to resized crops of one group.

    One call handles several examples, since its overhead in Python does not depend on their number.

    Args:
        group: Group of the views.
        channels: Number of image channels.
        examples: Maximum number n of examples per call.

    Returns:
        A function (crops float32 [n, count, size, size, C] in [0, 255], vectors float32
        [n, count, K]) -> views uint8 of the shape of the crops.
    """
    side, capacity = group.size, examples * group.count
    crops = jax.ShapeDtypeStruct((capacity, side, side, channels), np.float32)
    finish = _finisher(group.policy, True, lambda x: jnp.moveaxis(x, -1, 0), crops)

    def function(crops: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        flat = [x.reshape(-1, *x.shape[2:]) for x in (crops, drawn)]
        missing = capacity - len(flat[0])
        if missing:  # the last group of a run may be smaller than the compiled shape
            flat = [np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for x in flat]
        return finish(*flat)[: capacity - missing].reshape(crops.shape)

    return function


def _finisher(
    policy: ImagePolicy, whole: bool, to_planes: Callable[[Any], jax.Array], inputs: Any
) -> Finisher:
    """Compiles the function that applies the rest of the policy to each view.

    Args:
        policy: Augmentation policy.
        whole: False to only round the values.
        to_planes: Traceable function from the input of one view to float [C, size, size].
        inputs: Shapes and dtypes of the inputs of all views, with a leading axis of views.
    """
    vector, unravel, _ = _layout(policy)

    def finish_view(view: tuple[Any, jax.Array]) -> jax.Array:
        x = to_planes(view[0])
        if whole:
            x = x.astype(float) / 255
            x = per_image.finish(x, unravel(view[1]), policy=policy) * 255
        return jnp.moveaxis(jnp.round(x).astype(np.uint8), 0, -1)

    count = jax.tree.leaves(inputs)[0].shape[0]
    vectors_shape = jax.ShapeDtypeStruct((count, *vector.shape), vector.dtype)
    # One view after the other: the code is compiled once, and the bits of a view do not depend on
    # the other views.
    return host_draws.on_cpu(lambda *views: lax.map(finish_view, views), inputs, vectors_shape)


def _layout(
    policy: ImagePolicy,
) -> tuple[jax.Array, Callable[[jax.Array], Parameters], tuple[str, ...]]:
    """Vector layout of one view: a vector float32 [K], its inverse map, and the parameter names."""
    keys = jax.ShapeDtypeStruct((2,), np.uint32)
    shapes = jax.eval_shape(lambda key: sample(key, policy), keys)
    # float32 under x64 too: the setting has no effect in the threads that pass the vectors.
    narrowed = {np.dtype(np.float64): np.dtype(np.float32)}
    zeros = {name: np.zeros(x.shape, narrowed.get(x.dtype, x.dtype)) for name, x in shapes.items()}
    return *ravel_pytree(zeros), tuple(zeros)
