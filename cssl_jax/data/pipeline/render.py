"""Views of one picture, made on the host by compiled JAX; what both engines share.

A view's parameters travel as one vector: handing over a dozen small arrays takes longer than the
arithmetic.
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
from cssl_jax.data.pipeline.host_draws import Drawn, Work
from cssl_jax.data.sources import decode

Viewer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Finisher = Callable[[Any, np.ndarray], np.ndarray]


def vectors(policy: ImagePolicy) -> Callable[[Drawn], Drawn]:
    """A map for ``host_draws.draws``: leaves [r, views, ...] to what an engine takes of them.

    Which is halvings int32 [r], box int32 [r, views, 4] (in what the halvings leave) and vector
    float32 [r, views, K].
    """
    _, _, names = _layout(policy)

    def ravel(drawn: Drawn) -> Drawn:
        parameters = {name: drawn[name] for name in names}
        one = lambda view: ravel_pytree(view)[0]  # noqa: E731
        vector = jax.vmap(jax.vmap(one))(parameters).astype(np.float32)
        return {"halvings": drawn["halvings"], "box": drawn["reduced_box"], "vector": vector}

    return ravel


def parameters_of(policy: ImagePolicy) -> Callable[[np.ndarray], dict[str, Any]]:
    """The way back for one view: float32 [K] -> parameters by name, NumPy numbers and vectors."""
    keys = jax.ShapeDtypeStruct((2,), np.uint32)
    shapes = jax.eval_shape(lambda key: sample(key, policy), keys)
    ends = np.cumsum([int(np.prod(x.shape)) for x in shapes.values()]).tolist()
    places: dict[str, int | slice] = {
        name: slice(end - x.size, end) if x.shape else end - 1
        for (name, x), end in zip(shapes.items(), ends, strict=True)
    }
    return lambda vector: {name: vector[place] for name, place in places.items()}


def viewer(work: Work) -> Viewer:
    """Compiles (picture uint8 [h, w, C], boxes [views, 4], vectors [views, K]) -> views.

    Returns:
        A function whose result is uint8 [views, size, size, C], rounded.
    """
    channels, size, kernel = work.source.channels, work.size, work.policy.interpolation
    if work.policy.antialias:
        planes = jax.ShapeDtypeStruct((work.views, channels, size, size), np.float32)
        finish = _finisher(work, lambda x: x, planes)

        def antialiased(picture: np.ndarray, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
            cuts = (picture[y : y + height, x : x + width] for y, x, height, width in boxes)
            return finish(np.stack([decode.resample(cut, size, kernel) for cut in cuts]), drawn)

        return antialiased
    weigh = _finisher(
        work,
        lambda seen: interpolation.weigh(seen, channels),
        interpolation.Taps.shapes(work.views, size, kernel),
    )

    def plain(picture: np.ndarray, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return weigh(interpolation.gather(interpolation.pack(picture), boxes, size, kernel), drawn)

    return plain


def finisher(work: Work, examples: int) -> Finisher:
    """Compiles (crops float32 [n, views, size, size, C], vectors [n, views, K]) -> views.

    Of several examples in one call, which costs as much Python as that of one.

    Args:
        work: With ``whole``.
        examples: The largest n.

    Returns:
        A function of crops in [0, 255] whose result is uint8, of the shape of the crops.
    """
    side, channels, most = work.size, work.source.channels, examples * work.views
    crops = jax.ShapeDtypeStruct((most, side, side, channels), np.float32)
    finish = _finisher(work, lambda x: jnp.moveaxis(x, -1, 0), crops)

    def function(crops: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        flat = [x.reshape(-1, *x.shape[2:]) for x in (crops, drawn)]
        missing = most - len(flat[0])
        if missing:  # at the end of a run
            flat = [np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) for x in flat]
        return finish(*flat)[: most - missing].reshape(crops.shape)

    return function


def _finisher(work: Work, planes: Callable[[Any], jax.Array], seen: Any) -> Finisher:
    """Finishes every view, which ``planes`` makes, [C, size, size], of its part of ``seen``."""
    vector, unravel, _ = _layout(work.policy)

    def finished(one: tuple[Any, jax.Array]) -> jax.Array:
        x = planes(one[0])
        if work.whole:
            x = x.astype(float) / 255
            x = per_image.finish(x, unravel(one[1]), policy=work.policy) * 255
        return jnp.moveaxis(jnp.round(x).astype(np.uint8), 0, -1)

    each = jax.ShapeDtypeStruct((jax.tree.leaves(seen)[0].shape[0], *vector.shape), vector.dtype)
    # One view after the other, so that it is compiled once and its bits don't hang on the others.
    return host_draws.on_cpu(lambda *of_views: lax.map(finished, of_views), seen, each)


def _layout(
    policy: ImagePolicy,
) -> tuple[jax.Array, Callable[[jax.Array], Parameters], tuple[str, ...]]:
    """(a vector float32 [K], what makes parameters of it, their names) of one view."""
    keys = jax.ShapeDtypeStruct((2,), np.uint32)
    one = jax.eval_shape(lambda key: sample(key, policy), keys)
    # Under x64 too: the threads that hand vectors over do not see the setting.
    exact = {np.dtype(np.float64): np.dtype(np.float32)}
    zeros = {name: np.zeros(x.shape, exact.get(x.dtype, x.dtype)) for name, x in one.items()}
    return *ravel_pytree(zeros), tuple(zeros)
