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
    results = _Results(depth)
    thread = threading.Thread(
        target=_produce, args=(items, place, results), name="cssl-prefetch", daemon=True
    )
    thread.start()
    try:
        yield from results
    finally:
        results.close()
        thread.join(timeout=HANGING)  # a read that hangs must not prevent a run from ending


class _Results:
    """Results that a thread offers and its consumer iterates over.

    Args:
        depth: Maximum number of results that wait.
    """

    def __init__(self, depth: int) -> None:
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()

    def offer(self, kind: str, value: Any) -> bool:
        """Adds an "item", "error" or "end" when there is room; False if the consumer has closed."""
        # Waits in short intervals, so that a closed consumer stops a thread with a full queue.
        while not self._closed.is_set():
            try:
                self._ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Any]:
        while True:
            kind, value = self._ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        """Stops the thread at its next offer."""
        self._closed.set()


def _produce(items: Generator[Any], place: Callable[[Any], Any], results: _Results) -> None:
    try:
        for item in items:
            if not results.offer("item", place(item)):
                return
        results.offer("end", None)
    except BaseException as error:  # every kind of error is passed to the consumer
        results.offer("error", error)
    finally:
        items.close()
