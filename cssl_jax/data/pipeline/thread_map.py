"""Ordered parallel map on threads, in bounded memory."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """Number of CPU cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ahead(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Applies a function to items in threads and yields the results in order.

    There is one thread per core. At most four items per thread are processed ahead of the consumer,
    which bounds the memory.
    """
    workers = cores()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cssl-ahead")
    pending: collections.deque[Future[B]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
