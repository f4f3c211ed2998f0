"""Prefetching: prepares each step's input on the devices before the step needs it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from jax.sharding import Mesh

from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.runtime import spmd

HANGING = 5.0  # maximum seconds to wait at the end of a run for a read that hangs


def place_host_batches(
    pipeline: Pipeline, mesh: Mesh, backend: str, start: int, stop: int
) -> Generator[Any]:
    """Yields the host batch of each step in [start, stop), placed on the devices.

    A background thread prepares the batches. If all host batches are identical (resident data), a
    single transfer serves all steps.

    Args:
        pipeline: Pipeline that makes the host batches.
        mesh: Device mesh over which the rows are divided.
        backend: Parallelism backend, as for ``spmd.data_parallel``.
        start: First step.
        stop: Last step plus one.
    """
    host_batches = pipeline.host_batches(start, stop)
    if pipeline.constant_host_batch:
        return _repeat(host_batches, mesh, backend)
    return prefetch(host_batches, lambda host_batch: spmd.put_batch(host_batch, mesh, backend))


def _repeat(host_batches: Iterator[Any], mesh: Mesh, backend: str) -> Generator[Any]:
    placed = None
    for host_batch in host_batches:
        if placed is None:
            placed = spmd.put_batch(host_batch, mesh, backend)
        yield placed


def prefetch(items: Generator[Any], place: Callable[[Any], Any], depth: int = 2) -> Generator[Any]:
    """Yields ``place(item)`` for each item, computed ahead by a thread.

    Errors in the thread are raised in the consumer. Closing the generator stops the thread and
    closes ``items``.

    Args:
        items: Source of items, which only the thread reads.
        place: Function applied to each item in the thread.
        depth: Maximum number of results that wait in the queue.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        # Waits in short intervals, so that a closed consumer stops a thread with a full queue.
        while not closed.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer("item", place(item)):
                    return
            offer("end", None)
        except BaseException as error:  # every kind of error is passed to the consumer
            offer("error", error)
        finally:
            items.close()

    thread = threading.Thread(target=work, name="cssl-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        closed.set()
        thread.join(timeout=HANGING)  # a read that hangs must not prevent a run from ending
