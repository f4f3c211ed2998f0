"""Each step's input on the devices, made ahead of the step that takes it."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from jax.sharding import Mesh

from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.runtime import spmd

HANGING = 5.0  # seconds that a read which does not come is waited for at the end


def place_host_batches(
    pipeline: Pipeline, mesh: Mesh, backend: str, start: int, stop: int
) -> Generator[Any]:
    """What the steps [start, stop) are fed; for resident data one transfer serves them all.

    Args:
        pipeline: Where the input is made.
        mesh: Of devices.
        backend: As for ``spmd.data_parallel``.
        start: First step.
        stop: One past the last.
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
    """Yields ``place(item)`` made by a thread that keeps ``depth`` of them ready.

    An error in the thread is raised here; closing the generator ends the thread and ``items``.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(kind: str, value: Any) -> bool:
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
        except BaseException as error:  # handed over, whatever it is
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
        thread.join(timeout=HANGING)  # a read that hangs must not keep a run from ending
