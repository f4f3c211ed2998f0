"""The policy applied on the host by threads: the twin of ``tf_pipeline`` without TensorFlow.

Pillow decodes and resizes, letting other threads work meanwhile. The rest of the policy, where it
is asked for, is JAX's, compiled for the CPU, one view at a time.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment import single
from cssl_jax.augment.policy import sample_views
from cssl_jax.data import host, pictures
from cssl_jax.data.host import PREFETCH, Drawn, Work

Feed = dict[str, np.ndarray]


def batches(work: Work, start: int, stop: int) -> Iterator[Feed]:
    """Yields what ``tf_pipeline.batches`` yields, by the same contract.

    Memory holds ``PREFETCH`` batches of views besides the one in use, and one decoded image a
    worker.
    """
    draw, view = host.draws(work), _viewer(work)

    def views(index: int, drawn: Drawn) -> np.ndarray:
        picture = work.source.image(index)
        return np.stack([view(picture, _part(drawn, v)) for v in range(work.views)])

    pool = ThreadPoolExecutor(work.workers, thread_name_prefix="cssl-views")
    pending: collections.deque = collections.deque()
    try:
        for step in range(start, stop):
            index, key = work.sampler.draw(step, work.rows)
            drawn = draw(key, work.source.sizes[index])
            rows = [pool.submit(views, int(n), _part(drawn, i)) for i, n in enumerate(index)]
            pending.append((index, key, rows))
            if len(pending) > PREFETCH:
                yield _collect(*pending.popleft())
        while pending:
            yield _collect(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _collect(index: np.ndarray, key: np.ndarray, rows: list) -> Feed:
    return {"views": np.stack([row.result() for row in rows]), "index": index, "key": key}


def _part(drawn: Drawn, i: int) -> Drawn:
    return {name: value[i] for name, value in drawn.items()}


def _viewer(work: Work) -> Callable[[np.ndarray, Drawn], np.ndarray]:
    """One view of one image, uint8 [h, w, C] -> [size, size, C]."""
    finish = _finisher(work) if work.whole else None
    kernel = work.policy.interpolation, work.policy.antialias

    def view(picture: np.ndarray, drawn: Drawn) -> np.ndarray:
        top, left, height, width = drawn["box"]
        picture = picture[top : top + height, left : left + width]
        if finish is None:
            return pictures.resize(picture, work.size, *kernel)
        return finish(pictures.resample(picture, work.size, *kernel), drawn)

    return view


def _finisher(work: Work) -> Callable[[np.ndarray, Drawn], np.ndarray]:
    """Float [size, size, C] in [0, 255] and one view's parameters -> finished uint8."""
    keys = jax.ShapeDtypeStruct((1, 2), np.uint32)
    drawn = jax.eval_shape(lambda keys: sample_views(keys, work.policy, 1), keys)
    # One view at a time: its bits then depend on nothing but itself.
    shapes = {name: jax.ShapeDtypeStruct(x.shape[2:], x.dtype) for name, x in drawn.items()}
    shape = (work.size, work.size, work.source.channels)

    def finish(x: jax.Array, parameters: Drawn) -> jax.Array:
        x = single.finish(x.astype(float) / 255, parameters, policy=work.policy)
        return jnp.round(x * 255).astype(np.uint8)

    compiled = host.on_cpu(finish, jax.ShapeDtypeStruct(shape, np.float32), shapes)
    return lambda x, one: compiled(x, {name: one[name] for name in shapes})
