"""Measures the cost of each input stage by running the code of the pipeline itself in pieces.

No stage is implemented a second time. A host backend runs with one more stage each time, and the
cost of a stage is the difference: images decoded beforehand give the cost of cropping, the split
pipeline adds decoding, and the whole policy adds augmentation. On the device the policy runs once
with the crop alone and once complete.
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
from cssl_jax.augment.view_group import count_views
from cssl_jax.data.pipeline.array_pipelines import ResidentPipeline, StreamPipeline
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_draws import PREFETCH
from cssl_jax.data.pipeline.host_pipeline import HostPipeline
from cssl_jax.data.pipeline.prefetch import place_host_batches
from cssl_jax.data.pipeline.thread_map import cores, map_ahead
from cssl_jax.data.profile.result import Measurement, Stage
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.images import ImageSource
from cssl_jax.runtime import spmd

FOREVER = 2**30  # steps; more than any measurement runs
DECODED_LIMIT = 2**27  # maximum bytes of images decoded beforehand
IN_FLIGHT = 2  # dispatched steps that are not awaited, as in training
TURNS = 3  # turns of each pipeline when several are compared


def measure(
    pipeline: Pipeline, mesh: Mesh, *, backend: str = "shard_map", seconds: float = 3.0
) -> Measurement:
    """Measures every stage separately and the entire pipeline.

    Args:
        pipeline: Pipeline to measure; its ``rows`` are the batch of each measurement.
        mesh: Device mesh over which the rows are divided.
        backend: Parallelism backend, as for ``spmd.data_parallel``.
        seconds: Duration of each measurement in seconds, after warming up. At least one batch is
            measured.

    Returns:
        The cost of every stage and of the entire pipeline, in seconds per view.
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
    """Cost of every stage on the host, in seconds per view."""
    if isinstance(pipeline, StreamPipeline):
        return {"gather": _host_batch_cost({"all": pipeline}, seconds)["all"]}
    if not isinstance(pipeline, HostPipeline):
        return {}
    pieces = {"split": dataclasses.replace(pipeline, whole=False)}
    if isinstance(pipeline.source, ImageSource):
        pieces["crop"] = _with_decoded(pipeline, pipeline.source)
    if pipeline.whole:
        pieces["all"] = pipeline
    cost = _host_batch_cost(pieces, seconds)
    stages = {"crop + resize": cost["split"]}
    if isinstance(pipeline.source, ImageSource):
        read = _read_cost(pipeline.source, pipeline, seconds)
        decode = max(cost["split"] - cost["crop"] - read, 0.0)  # noise may make it negative
        stages = {"read": read, "decode": decode, "crop + resize": cost["crop"]}
    if pipeline.whole:
        stages["augment"] = max(cost["all"] - cost["split"], 0.0)
    return stages


def _host_batch_cost(pipelines: dict[str, Any], seconds: float) -> dict[str, float]:
    """Cost of making host batches, in seconds per view, by pipeline.

    The pipelines take turns, and the fastest turn of each counts, so that other load on the machine
    affects all of them equally. This matters because the caller uses their differences.
    """
    host_batches = {name: pipeline.host_batches(0, FOREVER) for name, pipeline in pipelines.items()}
    best = dict.fromkeys(pipelines, np.inf)
    try:
        for _ in range(TURNS):
            for name, batches in host_batches.items():
                # Discards the batches that were queued during the turns of the other pipelines.
                batch_seconds = _seconds_per_batch(batches, seconds / TURNS, PREFETCH + 1)
                best[name] = min(best[name], batch_seconds / _batch_views(pipelines[name]))
    finally:
        for batches in host_batches.values():
            batches.close()
    return best


def _read_cost(source: ImageSource, pipeline: Pipeline, seconds: float) -> float:
    """Cost of reading encoded images in the order of the run, in seconds per view."""
    steps = (pipeline.sampler.draw(step, pipeline.rows)[0] for step in range(FOREVER))
    files = map_ahead(source.encoded, (int(n) for index in steps for n in index))
    with contextlib.closing(files):  # type: ignore[type-var]
        batches = iter(lambda: [next(files) for _ in pipeline.rows], None)
        return _seconds_per_batch(batches, seconds, 1) / _batch_views(pipeline)


def _with_decoded(pipeline: HostPipeline, source: ImageSource) -> HostPipeline:
    """Copy of the pipeline whose source holds decoded images in memory.

    Every image is cut or tiled to the median height and width of the source.
    """
    height, width = np.median(source.sizes, axis=0).astype(int)
    count = DECODED_LIMIT // (int(height) * int(width) * source.channels)
    count = int(np.clip(count, 1, min(len(pipeline.rows), len(source))))
    images = np.empty((count, height, width, source.channels), np.uint8)
    for image, number in zip(images, pipeline.sampler.draw(0, pipeline.rows)[0], strict=False):
        decoded = source.image(int(number))
        tiled = np.arange(height) % len(decoded), np.arange(width) % decoded.shape[1]
        image[:] = decoded[np.ix_(*tiled)]
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
    """Cost of the transfer from host memory to device memory, in seconds per view."""

    def transfers() -> Iterator[None]:
        while True:
            jax.block_until_ready(spmd.put_batch(host_batch, mesh, backend))
            yield

    return _seconds_per_batch(transfers(), seconds, 1) / _batch_views(pipeline)


def _on_device(
    pipeline: Pipeline, mesh: Mesh, backend: str, host_batch: Any, seconds: float
) -> dict[str, float]:
    """Cost of every stage on the devices, in seconds per view."""
    placed = spmd.put_batch(host_batch, mesh, backend)

    def cost(measured: Pipeline) -> float:
        run, constants = _runner(measured, mesh, backend)

        def views() -> Iterator[None]:
            for step in itertools.count():
                jax.block_until_ready(run(np.int32(step), constants, placed))
                yield

        return _seconds_per_batch(views(), seconds, 1) / _batch_views(measured)

    whole = cost(pipeline)
    if isinstance(pipeline, HostPipeline):
        return {"normalise" if pipeline.whole else "augment": whole}
    groups = {
        name: dataclasses.replace(group, policy=crop_alone(group.policy))
        for name, group in pipeline.groups.items()
    }
    crop = cost(dataclasses.replace(pipeline, groups=groups))
    return {"crop + resize": crop, "augment": max(whole - crop, 0.0)}


def crop_alone(policy: ImagePolicy) -> ImagePolicy:
    """Copy of the policy in which every operation but the crop is off."""
    never = {name: (0.0,) for name in PROBABILITIES if name != "crop"}
    return dataclasses.replace(policy, **never, **NEUTRAL_AFFINE)  # type: ignore[arg-type]


def _runner(pipeline: Pipeline, mesh: Mesh, backend: str) -> tuple[Any, Any]:
    """Compiled function (step, constants, host batch) -> views, and the placed constants."""

    def make_views(step: Any, constants: Any, host_batch: Any) -> Any:
        return pipeline.make_batch(step, constants, host_batch)["views"]

    split = pipeline.split_constants
    run = spmd.data_parallel(make_views, mesh, backend, donate=False, split_constants=split)
    return run, spmd.put_constants(pipeline.constants, mesh, backend, split)


def _whole(pipeline: Pipeline, mesh: Mesh, backend: str, seconds: float) -> float:
    """Cost of the entire pipeline with all stages overlapping, in seconds per view."""
    run, constants = _runner(pipeline, mesh, backend)

    def steps(host_batches: Iterator[Any]) -> Iterator[None]:
        pending: collections.deque[Any] = collections.deque()
        for step, host_batch in enumerate(host_batches):
            pending.append(run(np.int32(step), constants, host_batch))
            if len(pending) > IN_FLIGHT:
                jax.block_until_ready(pending.popleft())
            yield

    warm_up = PREFETCH + IN_FLIGHT + 2  # batches in the queues must not count
    with contextlib.closing(
        place_host_batches(pipeline, mesh, backend, 0, FOREVER)
    ) as host_batches:
        return _seconds_per_batch(steps(host_batches), seconds, warm_up) / _batch_views(pipeline)


# ------------------------------------------------------------------------------------------- timing


def _seconds_per_batch(batches: Iterator[Any], seconds: float, warm_up: int) -> float:
    """Mean seconds per batch after ``warm_up`` batches (compilation, batches in the queues)."""
    for _ in range(warm_up):
        next(batches)
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    return (time.perf_counter() - start) / count


def _batch_views(pipeline: Pipeline) -> int:
    """Number of views per batch."""
    return len(pipeline.rows) * count_views(pipeline.groups)
