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

from cssl_jax.augment.image import per_image
from cssl_jax.augment.image.policy import ImagePolicy, Parameters, sample
from cssl_jax.data.pipeline import host_draws, interpolation
from cssl_jax.data.pipeline.host_draws import Drawn, ViewJob
from cssl_jax.data.sources import decode

Viewer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Finisher = Callable[[Any, np.ndarray], np.ndarray]


def vectors(policy: ImagePolicy) -> Callable[[Drawn], Drawn]:
    """Builds the ``select`` function for ``host_draws.draws`` that packs parameters into vectors.

    Args:
        policy: Augmentation policy, which determines the number K of parameters.

    Returns:
        A function from leaves [r, views, ...] to halvings int32 [r], box int32 [r, views, 4] (in
        pixels of the reduced image) and vector float32 [r, views, K].
    """
    _, _, names = _layout(policy)

    def ravel(drawn: Drawn) -> Drawn:
        parameters = {name: drawn[name] for name in names}
        vector = jax.vmap(jax.vmap(_raveled))(parameters).astype(np.float32)
        return {"halvings": drawn["halvings"], "box": drawn["reduced_box"], "vector": vector}

    return ravel


def _raveled(view: Drawn) -> jax.Array:
    """Parameters of one view as one vector [K]."""
    vector, _ = ravel_pytree(view)
    return vector


def parameters_of(policy: ImagePolicy) -> Callable[[np.ndarray], dict[str, Any]]:
    """Builds the inverse of ``vectors`` for one view.

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


def viewer(job: ViewJob) -> Viewer:
    """Compiles the function that makes all views of one image.

    Args:
        job: Description of the views.

    Returns:
        A function (image uint8 [h, w, C], boxes int [views, 4], vectors float32 [views, K]) ->
        views uint8 [views, size, size, C], rounded.
    """
    channels, size, kernel = job.source.channels, job.size, job.policy.interpolation
    if job.policy.antialias:
        planes = jax.ShapeDtypeStruct((job.views, channels, size, size), np.float32)
        finish = _finisher(job, lambda x: x, planes)

        def antialiased(image: np.ndarray, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
            crops = (image[y : y + height, x : x + width] for y, x, height, width in boxes)
            return finish(np.stack([decode.resample(crop, size, kernel) for crop in crops]), drawn)

        return antialiased
    weigh = _finisher(
        job,
        lambda taps: interpolation.weigh(taps, channels),
        interpolation.Taps.shapes(job.views, size, kernel),
    )

    def plain(image: np.ndarray, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return weigh(interpolation.gather(interpolation.pack(image), boxes, size, kernel), drawn)

    return plain


def finisher(job: ViewJob, examples: int) -> Finisher:
    """Compiles the function that applies the rest of the policy to resized crops.

    One call handles several examples, since its overhead in Python does not depend on their number.

    Args:
        job: Description of the views, with ``whole`` set.
        examples: Maximum number n of examples per call.

    Returns:
        A function (crops float32 [n, views, size, size, C] in [0, 255], vectors float32
        [n, views, K]) -> views uint8 of the shape of the crops.
    """
    side, channels, capacity = job.size, job.source.channels, examples * job.views
    crops = jax.ShapeDtypeStruct((capacity, side, side, channels), np.float32)
    finish = _finisher(job, lambda x: jnp.moveaxis(x, -1, 0), crops)

    def function(crops: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        flat = [x.reshape(-1, *x.shape[2:]) for x in (crops, drawn)]
        missing = capacity - len(flat[0])
        if missing:  # the last group of a run may be smaller than the compiled shape
            flat = [np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for x in flat]
        return finish(*flat)[: capacity - missing].reshape(crops.shape)

    return function


def _finisher(job: ViewJob, to_planes: Callable[[Any], jax.Array], inputs: Any) -> Finisher:
    """Compiles the function that applies the rest of the policy to each view.

    Args:
        job: Description of the views.
        to_planes: Traceable function from the input of one view to float [C, size, size].
        inputs: Shapes and dtypes of the inputs of all views, with a leading axis of views.
    """
    vector, unravel, _ = _layout(job.policy)

    def finish_view(view: tuple[Any, jax.Array]) -> jax.Array:
        x = to_planes(view[0])
        if job.whole:
            x = x.astype(float) / 255
            x = per_image.finish(x, unravel(view[1]), policy=job.policy) * 255
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
