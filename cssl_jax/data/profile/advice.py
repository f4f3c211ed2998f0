"""Advice for a run that waits for its input, by kind of input pipeline."""

import importlib.util
from typing import Any

import numpy as np

from cssl_jax.data.pipeline.array_pipelines import ResidentPipeline
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_pipeline import HostPipeline
from cssl_jax.data.pipeline.paired import PairPipeline
from cssl_jax.data.pipeline.thread_map import cores
from cssl_jax.data.sources.base import ArraySource

PLAIN_RESIZE = "resize without antialiasing by --augment.no-antialias in a new run"


def advice(pipeline: Pipeline) -> str:
    """Likely limit of the input and what to change, as the end of a sentence without full stop."""
    pipeline = pipeline.first if isinstance(pipeline, PairPipeline) else pipeline
    return f"{_limit(pipeline)}; {change(pipeline)}"


def host_cores() -> str:
    """Number of host cores of this process as text, such as "2 host cores"."""
    count = cores()
    return f"{count} host core{'s' if count > 1 else ''}"


def _limit(pipeline: Pipeline) -> str:
    """Likely limit of the input as text; ``profile.measure`` measures the actual one."""
    host = host_cores()
    if isinstance(pipeline, HostPipeline):
        if isinstance(pipeline.source, ArraySource):
            work = "augmentation" if pipeline.whole else "cropping and resizing"
            return f"{work} on {host} is the limit"
        if pipeline.whole:
            return f"decoding and augmentation on {host} are the limit"
        return f"decoding on {host} is the limit"
    if isinstance(pipeline, ResidentPipeline):
        return f"the images are on the device, so the {host} cannot dispatch steps fast enough"
    return "gathering images and sending them to the device is the limit"


def change(pipeline: Pipeline) -> str:
    """What to change if the host is the limit, as the end of a sentence without full stop."""
    if isinstance(pipeline, HostPipeline):
        return _host_change(pipeline)
    if isinstance(pipeline, ResidentPipeline):
        return "stop other programs on these cores"
    return f"keep the images on the device with --data.resident True ({_mebibytes(pipeline)} MiB)"


def _host_change(pipeline: HostPipeline) -> str:
    if isinstance(pipeline.source, ArraySource):
        return "do it on the device with --data.augment-on device in a new run"
    if pipeline.whole:
        return (
            "do everything but decoding and cropping on the device with --data.augment-on split in "
            "a new run"
        )
    ways = []
    # Decoding time grows with the pixels of the file, whatever the size of the view.
    shorter = int(np.median(pipeline.source.sizes.min(axis=1)))
    size = pipeline.first_group.size
    if shorter > 2.5 * size:
        ways.append(f"store images at about twice the view's side ({2 * size} px; now {shorter})")
    if (pipeline.source.sizes == pipeline.source.sizes[0]).all():
        ways.append(
            f"decode them once with --data.in-memory True ({_mebibytes(pipeline)} MiB) in a new run"
        )
    if pipeline.engine == "threads":
        installed = importlib.util.find_spec("tensorflow") is not None
        ways.append(
            "decode by tf.data with --data.engine tf" if installed else "pip install tensorflow"
        )
    if pipeline.engine == "tf" and pipeline.first_group.policy.antialias:
        ways.append(PLAIN_RESIZE)
    ways.append("use more host cores")
    return ", or ".join(ways)


def _mebibytes(pipeline: Pipeline) -> str:
    """Size of all training examples in MiB, decoded, as text."""
    if isinstance(pipeline.source, ArraySource):
        return f"{pipeline.source.nbytes / 2**20:.0f}"
    source: Any = pipeline.source  # encoded images
    pixels = source.sizes.astype(np.int64).prod(axis=1).sum()
    return f"{pixels * source.channels / 2**20:.0f}"
