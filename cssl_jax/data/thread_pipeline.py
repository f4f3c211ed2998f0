"""The policy applied on the host by threads: the twin of ``tf_pipeline`` without TensorFlow.

Pillow decodes, letting other threads work meanwhile; ``viewer`` does the rest.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cssl_jax.data import host
from cssl_jax.data.host import PREFETCH, Work
from cssl_jax.data.viewer import vectors, viewer

Feed = dict[str, np.ndarray]


def batches(work: Work, start: int, stop: int) -> Iterator[Feed]:
    """Yields what ``tf_pipeline.batches`` yields, by the same contract.

    Memory holds ``PREFETCH`` batches of views besides the one in use, and one decoded image a
    worker.
    """
    draw, make = host.draws(work, vectors(work.policy)), viewer(work)

    def views(index: int, halvings: int, boxes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        return make(work.source.image(index, int(halvings)), boxes, drawn)

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
