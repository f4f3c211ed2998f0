"""What a measured input says: every stage's cost, what limits it, and what to change."""

import collections
import dataclasses
from typing import Literal

from cssl_jax.data.pipeline.base import HostPipeline, Pipeline, StreamPipeline
from cssl_jax.data.pipeline.thread_map import cores
from cssl_jax.data.profile.advice import PLAIN_RESIZE, change, host_cores

Side = Literal["host", "transfer", "device"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of the input.

    Attributes:
        name: In words.
        side: Where it runs.
        seconds: A view, with all workers at it; 0 where it is lost in the noise of a difference.
        workers: Cores of the host, or devices; a CPU device counts its cores.
    """

    name: str
    side: Side
    seconds: float
    workers: int


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Where the time of a pipeline goes.

    Attributes:
        pipeline: What was measured.
        platform: Of the devices; on "cpu" they are the host's cores.
        devices: How many of them.
        stages: In the order in which a view takes them.
        whole: Seconds a view of all of it, as the train loop takes it but without a model.
    """

    pipeline: Pipeline
    platform: str
    devices: int
    stages: tuple[Stage, ...]
    whole: float

    @property
    def limit(self) -> Stage:
        """The dearest stage of the side that holds up the others.

        Host, transfer and device work at the same time, so only the slowest of them counts; where
        the device is the host's CPU they share its cores, and the dearest stage of all counts.
        """
        stages: list[Stage] = list(self.stages)
        if self.platform != "cpu":
            total: dict[Side, float] = collections.defaultdict(float)
            for stage in stages:
                total[stage.side] += stage.seconds
            slowest = max(total, key=lambda side: total[side])
            stages = [stage for stage in stages if stage.side == slowest]
        return max(stages, key=lambda stage: stage.seconds)


def table(measured: Measurement) -> str:
    """Every stage in views/s and in what one core or device pays for a view."""
    lines = [f"{'stage':<16}{'on':<16}{'views/s':>10}{'ms a view-core':>16}"]
    for stage in measured.stages:
        lines.append(_line(stage.name, _place(stage, measured), stage.seconds, stage.workers))
    lines.append(_line("the whole", "all", measured.whole, cores()))
    lines.append("")
    lines.append("ms a view-core: milliseconds of one core (of one device) a view")
    return "\n".join(lines)


def _place(stage: Stage, measured: Measurement) -> str:
    if stage.side == "host":
        return host_cores()
    to = "to " if stage.side == "transfer" else ""
    return f"{to}{measured.devices} x {measured.platform}"


def _line(name: str, place: str, seconds: float, workers: int) -> str:
    if not seconds:
        return f"{name:<16}{place:<16}{'-':>10}{'about 0':>16}"
    return f"{name:<16}{place:<16}{1 / seconds:>10,.0f}{1000 * seconds * workers:>16.3f}"


def verdict(measured: Measurement) -> str:
    """What limits the input and what to change, in one sentence."""
    stage, pipeline = measured.limit, measured.pipeline
    if stage.side == "host":
        words = f"{_WORDS[stage.name]} on {host_cores()} is the limit; "
        cheaper, way_out = _cheaper(stage, pipeline), change(pipeline)
        said = not cheaper or cheaper in way_out
        return words + (way_out if said else f"{cheaper}, or {way_out}")
    smaller = f"smaller views (--data.size, now {pipeline.size}) cost less"
    if stage.side == "transfer":
        streams = isinstance(pipeline, StreamPipeline)
        way = change(pipeline) if streams else smaller
        return f"sending {'images' if streams else 'views'} to the device is the limit; {way}"
    words = f"{_WORDS[stage.name]} on the device is the limit; "
    if measured.platform == "cpu":
        return f"{words}the device is this host's CPU: use an accelerator, or {smaller}"
    ways = [_cheaper(stage, pipeline), smaller]
    return words + ", or ".join(filter(None, ways))


_WORDS = {
    "gather": "gathering images",
    "read": "reading",
    "decode": "decoding",
    "crop + resize": "cropping and resizing",
    "augment": "augmentation",
    "normalise": "normalising",
}


def _cheaper(stage: Stage, pipeline: Pipeline) -> str:
    """A way to make this very stage cheaper; "" is none."""
    if stage.name == "read":
        return "put the pictures on a local disk or into shards (wds:)"
    if stage.name != "crop + resize":
        return ""
    engine = pipeline.engine if isinstance(pipeline, HostPipeline) else None
    if engine == "tf" and pipeline.policy.antialias:
        return PLAIN_RESIZE
    if pipeline.policy.interpolation == "bicubic":
        return "resize with --augment.interpolation bilinear"
    return ""
