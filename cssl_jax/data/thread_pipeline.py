"""The policy applied on the host by threads: the twin of ``tf_pipeline`` without TensorFlow.

Pillow decodes, and resizes where that is antialiased, letting other threads work meanwhile. The
rest is JAX's, compiled for the CPU, one view at a time.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from cssl_jax.augment import single
from cssl_jax.augment.policy import ImagePolicy, sample
from cssl_jax.data import host, pictures, taps
from cssl_jax.data.host import PREFETCH, Drawn, Work

Feed = dict[str, np.ndarray]
Viewer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def batches(work: Work, start: int, stop: int) -> Iterator[Feed]:
    """Yields what ``tf_pipeline.batches`` yields, by the same contract.

    Memory holds ``PREFETCH`` batches of views besides the one in use, and one decoded image a
    worker.
    """
    parameters = _Parameters(work.policy)
    draw, view = host.draws(work, parameters.ravel), _viewer(work, parameters)

    def views(index: int, halvings: int, boxes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        picture = work.source.image(index, int(halvings))
        if not work.policy.antialias:
            picture = taps.pack(picture)
        return np.stack([view(picture, *one) for one in zip(boxes, vectors, strict=True)])

    pool = ThreadPoolExecutor(work.workers, thread_name_prefix="cssl-views")
    pending: collections.deque = collections.deque()
    try:
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            drawn = draw(index, key)
            each = zip(index, drawn["halvings"], drawn["box"], drawn["vector"], strict=True)
            rows = [pool.submit(views, int(number), *one) for number, *one in each]
            pending.append((index, key, rows))
            if len(pending) > PREFETCH:
                yield _collect(*pending.popleft())
        while pending:
            yield _collect(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(index: np.ndarray, key: np.ndarray, rows: list) -> Feed:
    return {"views": np.stack([row.result() for row in rows]), "index": index, "key": key}


class _Parameters:
    """A view's parameters as one vector: handing over a dozen small arrays takes longer to compute.

    Attributes:
        shape: Of the vector, as ``jax.ShapeDtypeStruct``.
        unravel: The vector to parameters; traceable.
    """

    def __init__(self, policy: ImagePolicy) -> None:
        keys = jax.ShapeDtypeStruct((2,), np.uint32)
        one = jax.eval_shape(lambda key: sample(key, policy), keys)
        zeros = {name: np.zeros(x.shape, x.dtype) for name, x in one.items()}
        vector, self.unravel = ravel_pytree(zeros)
        self.shape = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        self._names = tuple(zeros)

    def ravel(self, drawn: Drawn) -> Drawn:
        """Leaves [r, views, ...] to halvings, box (in what they leave) and vector [r, views, K]."""
        parameters = {name: drawn[name] for name in self._names}
        one = lambda view: ravel_pytree(view)[0]  # noqa: E731
        vector = jax.vmap(jax.vmap(one))(parameters)
        return {"halvings": drawn["halvings"], "box": drawn["reduced_box"], "vector": vector}


def _viewer(work: Work, parameters: _Parameters) -> Viewer:
    """One view of one image: (picture made ready, box [4], vector [K]) -> uint8 [size, size, C]."""
    channels, size, kernel = work.source.channels, work.size, work.policy.interpolation

    def finished(planes: jax.Array, vector: jax.Array) -> jax.Array:
        if work.whole:
            x = planes.astype(float) / 255
            planes = single.finish(x, parameters.unravel(vector), policy=work.policy) * 255
        return jnp.moveaxis(jnp.round(planes).astype(np.uint8), 0, -1)

    if work.policy.antialias:
        planes = jax.ShapeDtypeStruct((channels, size, size), np.float32)
        finish = host.on_cpu(finished, planes, parameters.shape)

        def view(picture: np.ndarray, box: np.ndarray, vector: np.ndarray) -> np.ndarray:
            top, left, height, width = box
            cut = picture[top : top + height, left : left + width]
            return finish(pictures.resample(cut, size, kernel), vector)

        return view

    weighed = host.on_cpu(
        lambda seen, vector: finished(taps.weigh(seen, channels), vector),
        taps.Taps.shapes(size, kernel),
        parameters.shape,
    )
    return lambda packed, box, vector: weighed(taps.gather(packed, box, size, kernel), vector)
