"""Threads that work a little ahead, in order and in bounded memory."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def cores() -> int:
    """Of this process, which may be allowed fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ahead(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """``map`` by one thread a core, in order, no more than a few items ahead of the reader."""
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
