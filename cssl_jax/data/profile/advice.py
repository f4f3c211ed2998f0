"""What to change where a run waits for its input, by the pipeline that makes it."""

import importlib.util

import numpy as np

from cssl_jax.data.pipeline.base import HostPipeline, Pipeline, ResidentPipeline
from cssl_jax.data.pipeline.paired import PairPipeline
from cssl_jax.data.pipeline.thread_map import cores
from cssl_jax.data.sources.base import ArraySource

PLAIN_RESIZE = "resize without antialiasing by --augment.no-antialias in a new run"


def advice(pipeline: Pipeline) -> str:
    """What limits the input and what to change, in words that end a sentence."""
    pipeline = pipeline.first if isinstance(pipeline, PairPipeline) else pipeline
    return f"{_limit(pipeline)}; {change(pipeline)}"


def host_cores() -> str:
    """How many there are, in words."""
    count = cores()
    return f"{count} host core{'s' if count > 1 else ''}"


def _limit(pipeline: Pipeline) -> str:
    """The likely one; ``profile.measure`` measures it."""
    on = host_cores()
    if isinstance(pipeline, HostPipeline):
        if isinstance(pipeline.source, ArraySource):
            work = "augmentation" if pipeline.whole else "cropping and resizing"
            return f"{work} on {on} is the limit"
        if pipeline.whole:
            return f"decoding and augmentation on {on} are the limit"
        return f"decoding on {on} is the limit"
    if isinstance(pipeline, ResidentPipeline):
        return f"the images lie on the device, so the {on} cannot send off steps fast enough"
    return "gathering images and sending them to the device is the limit"


def change(pipeline: Pipeline) -> str:
    """What to change where the host is the limit."""
    if isinstance(pipeline, HostPipeline):
        return _change_of_host(pipeline)
    if isinstance(pipeline, ResidentPipeline):
        return "stop what else runs on them"
    return f"keep them there with --data.resident True ({_mebibytes(pipeline)} MiB)"


def _change_of_host(pipeline: HostPipeline) -> str:
    if isinstance(pipeline.source, ArraySource):
        return "leave it to the device with --data.augment-on device in a new run"
    if pipeline.whole:
        return (
            "leave all but decoding and cropping to the device with --data.augment-on split in a "
            "new run"
        )
    ways = []
    shorter = int(np.median(pipeline.source.sizes.min(axis=1)))
    if shorter > 2.5 * pipeline.size:
        ways.append(
            f"store pictures at about twice the view's side ({2 * pipeline.size} px; now {shorter})"
        )
    if (pipeline.source.sizes == pipeline.source.sizes[0]).all():
        ways.append(
            f"decode them once with --data.in-memory True ({_mebibytes(pipeline)} MiB) in a new run"
        )
    if pipeline.engine == "threads":
        installed = importlib.util.find_spec("tensorflow") is not None
        ways.append(
            "decode by tf.data with --data.engine tf" if installed else "pip install tensorflow"
        )
    if pipeline.engine == "tf" and pipeline.policy.antialias:
        ways.append(PLAIN_RESIZE)
    ways.append("use more host cores")
    return ", or ".join(ways)


def _mebibytes(pipeline: Pipeline) -> str:
    """Of all training images, decoded."""
    pixels = pipeline.source.sizes.astype(np.int64).prod(axis=1).sum()
    return f"{pixels * pipeline.source.channels / 2**20:.0f}"
