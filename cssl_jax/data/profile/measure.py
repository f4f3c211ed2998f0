"""What each part of the input costs, taken apart by running a pipeline's own code in pieces.

No stage is written a second time. A host engine runs with one stage more each time, and a stage is
what it adds: pictures that are decoded already give cropping, the split gives decoding with it, the
whole policy gives the augmentation. On the device the policy runs without and with all but the
crop.
"""

import collections
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cssl_jax.augment.image.policy import NEUTRAL_AFFINE, PROBABILITIES, ImagePolicy
from cssl_jax.data.pipeline.base import HostPipeline, Pipeline, ResidentPipeline, StreamPipeline
from cssl_jax.data.pipeline.host_draws import PREFETCH
from cssl_jax.data.pipeline.prefetch import place_host_batches
from cssl_jax.data.pipeline.thread_map import ahead, cores
from cssl_jax.data.profile.result import Measurement, Stage
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.runtime import spmd

FOREVER = 2**30  # steps
DECODED_LIMIT = 2**27  # bytes of pictures decoded beforehand
IN_FLIGHT = 2  # steps, as in training
TURNS = 3


def measure(
    pipeline: Pipeline, mesh: Mesh, *, backend: str = "shard_map", seconds: float = 3.0
) -> Measurement:
    """Measures every stage apart and the whole; each takes ``seconds`` besides warming up.

    Args:
        pipeline: Its ``rows`` are the batch that is measured with.
        mesh: Devices that the rows divide over.
        backend: As for ``spmd.data_parallel``.
        seconds: Of each measurement; at least one batch.
    """
    platform = mesh.devices.flat[0].platform
    workers = cores() if platform == "cpu" else mesh.size
    costs = [(name, "host", cost, cores()) for name, cost in _on_host(pipeline, seconds).items()]
    (host_batch,) = itertools.islice(pipeline.host_batches(0, 1), 1)
    if not isinstance(pipeline, ResidentPipeline):
        cost = _transfer(pipeline, mesh, backend, host_batch, seconds)
        costs.append(("transfer", "transfer", cost, workers))
    device = _on_device(pipeline, mesh, backend, host_batch, seconds)
    costs += [(name, "device", cost, workers) for name, cost in device.items()]
    return Measurement(
        pipeline=pipeline,
        platform=platform,
        devices=mesh.size,
        stages=tuple(Stage(name, side, cost, workers) for name, side, cost, workers in costs),  # type: ignore[arg-type]
        whole=_whole(pipeline, mesh, backend, seconds),
    )


# --------------------------------------------------------------------------------------------- host


def _on_host(pipeline: Pipeline, seconds: float) -> dict[str, float]:
    """Seconds a view of every stage that the host does."""
    if isinstance(pipeline, StreamPipeline):
        return {"gather": _feeding({"all": pipeline}, seconds)["all"]}
    if not isinstance(pipeline, HostPipeline):
        return {}
    pieces = {"split": dataclasses.replace(pipeline, whole=False)}
    if isinstance(pipeline.source, ImageSource):
        pieces["crop"] = _with_decoded(pipeline, pipeline.source)
    if pipeline.whole:
        pieces["all"] = pipeline
    cost = _feeding(pieces, seconds)
    stages = {"crop + resize": cost["split"]}
    if isinstance(pipeline.source, ImageSource):
        read = _reading(pipeline.source, pipeline, seconds)
        decode = max(cost["split"] - cost["crop"] - read, 0.0)
        stages = {"read": read, "decode": decode, "crop + resize": cost["crop"]}
    if pipeline.whole:
        stages["augment"] = max(cost["all"] - cost["split"], 0.0)
    return stages


def _feeding(pipelines: dict[str, Any], seconds: float) -> dict[str, float]:
    """Seconds a view of making feeds and nothing else.

    Pipelines whose difference counts take turns, and of each the quickest turn counts: a busy
    machine then slows all of them alike.
    """
    host_batches = {name: pipeline.host_batches(0, FOREVER) for name, pipeline in pipelines.items()}
    best = dict.fromkeys(pipelines, np.inf)
    try:
        for _ in range(TURNS):
            for (
                name,
                batches,
            ) in host_batches.items():  # the queue filled while the others had their turn
                pace = _pace(batches, seconds / TURNS, PREFETCH + 1)
                best[name] = min(best[name], pace / _batch_views(pipelines[name]))
    finally:
        for batches in host_batches.values():
            batches.close()
    return best


def _reading(source: ImageSource, pipeline: Pipeline, seconds: float) -> float:
    """Seconds a view of reading encoded pictures in the order of the run."""
    steps = (pipeline.sampler.draw(step, pipeline.rows)[0] for step in range(FOREVER))
    files = ahead(source.encoded, (int(n) for index in steps for n in index))
    with contextlib.closing(files):  # type: ignore[type-var]
        batches = iter(lambda: [next(files) for _ in pipeline.rows], None)
        return _pace(batches, seconds, 1) / _batch_views(pipeline)


def _with_decoded(pipeline: HostPipeline, source: ImageSource) -> HostPipeline:
    """The same with some pictures decoded, all brought to their median height and width."""
    height, width = np.median(source.sizes, axis=0).astype(int)
    count = DECODED_LIMIT // (int(height) * int(width) * source.channels)
    count = int(np.clip(count, 1, min(len(pipeline.rows), len(source))))
    images = np.empty((count, height, width, source.channels), np.uint8)
    for image, number in zip(images, pipeline.sampler.draw(0, pipeline.rows)[0], strict=False):
        picture = source.image(int(number))
        repeated = np.arange(height) % len(picture), np.arange(width) % picture.shape[1]
        image[:] = picture[np.ix_(*repeated)]
    return dataclasses.replace(
        pipeline,
        source=ArraySource(source.name, images),
        sampler=Sampler(count, count, pipeline.sampler.seed),
        rows=np.arange(count),
        whole=False,
    )


# ------------------------------------------------------------------------------------------- device


def _transfer(
    pipeline: Pipeline, mesh: Mesh, backend: str, host_batch: Any, seconds: float
) -> float:
    """Seconds a view from the host's memory to the devices'."""

    def placed() -> Iterator[None]:
        while True:
            jax.block_until_ready(spmd.put_batch(host_batch, mesh, backend))
            yield

    return _pace(placed(), seconds, 1) / _batch_views(pipeline)


def _on_device(
    pipeline: Pipeline, mesh: Mesh, backend: str, host_batch: Any, seconds: float
) -> dict[str, float]:
    """Seconds a view of every stage that the devices do."""
    placed = spmd.put_batch(host_batch, mesh, backend)

    def cost(of: Pipeline) -> float:
        run, constants = _runner(of, mesh, backend)

        def views() -> Iterator[None]:
            for step in itertools.count():
                jax.block_until_ready(run(np.int32(step), constants, placed))
                yield

        return _pace(views(), seconds, 1) / _batch_views(of)

    whole = cost(pipeline)
    if isinstance(pipeline, HostPipeline):
        return {"normalise" if pipeline.whole else "augment": whole}
    crop = cost(dataclasses.replace(pipeline, policy=crop_alone(pipeline.policy)))
    return {"crop + resize": crop, "augment": max(whole - crop, 0.0)}


def crop_alone(policy: ImagePolicy) -> ImagePolicy:
    """The policy with nothing but its crop."""
    never = {name: (0.0,) for name in PROBABILITIES if name != "crop"}
    return dataclasses.replace(policy, **never, **NEUTRAL_AFFINE)  # type: ignore[arg-type]


def _runner(pipeline: Pipeline, mesh: Mesh, backend: str) -> tuple[Any, Any]:
    """(a compiled function of (step, constants, feed) that makes the views, constants)."""

    def make_views(step: Any, constants: Any, host_batch: Any) -> Any:
        return pipeline.make_batch(step, constants, host_batch)["views"]

    split = pipeline.split_constants
    run = spmd.data_parallel(make_views, mesh, backend, donate=False, split_constants=split)
    return run, spmd.put_constants(pipeline.constants, mesh, backend, split)


def _whole(pipeline: Pipeline, mesh: Mesh, backend: str, seconds: float) -> float:
    """Seconds a view of everything at once."""
    run, constants = _runner(pipeline, mesh, backend)

    def steps(host_batches: Iterator[Any]) -> Iterator[None]:
        pending: collections.deque[Any] = collections.deque()
        for step, host_batch in enumerate(host_batches):
            pending.append(run(np.int32(step), constants, host_batch))
            if len(pending) > IN_FLIGHT:
                jax.block_until_ready(pending.popleft())
            yield

    with contextlib.closing(
        place_host_batches(pipeline, mesh, backend, 0, FOREVER)
    ) as host_batches:
        return _pace(steps(host_batches), seconds, PREFETCH + IN_FLIGHT + 2) / _batch_views(
            pipeline
        )


# ---------------------------------------------------------------------------------------- the clock


def _pace(batches: Iterator[Any], seconds: float, warm_up: int) -> float:
    """Seconds a batch, once ``warm_up`` are gone (compiling, filled queues)."""
    for _ in range(warm_up):
        next(batches)
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    return (time.perf_counter() - start) / count


def _batch_views(pipeline: Pipeline) -> int:
    return len(pipeline.rows) * sum(pipeline.views.values())
