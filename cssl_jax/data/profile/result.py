"""Result of measuring an input pipeline: cost of each stage, the limit, and what to change."""

import collections
import dataclasses
from typing import Literal

from cssl_jax.data.pipeline.array_pipelines import StreamPipeline
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_pipeline import HostPipeline
from cssl_jax.data.pipeline.thread_map import cores
from cssl_jax.data.profile.advice import PLAIN_RESIZE, change, host_cores

Side = Literal["host", "transfer", "device"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Measured cost of one stage of the input.

    Attributes:
        name: Name of the stage: "gather", "read", "decode", "crop + resize", "augment", "transfer"
            or "normalise".
        side: Place where the stage runs: "host", "transfer" or "device".
        seconds: Seconds per view with all workers in parallel; 0 if the cost is below the noise of
            the measurement.
        workers: Number of host cores or of devices; for a CPU device, the number of its cores.
    """

    name: str
    side: Side
    seconds: float
    workers: int


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Measured cost of every stage of a pipeline.

    Attributes:
        pipeline: Pipeline that was measured.
        platform: Platform of the devices; devices of the platform "cpu" use the host's cores.
        devices: Number of devices.
        stages: Stages in the order in which a view passes through them.
        whole: Seconds per view of the entire pipeline, run as in training but without a model.
    """

    pipeline: Pipeline
    platform: str
    devices: int
    stages: tuple[Stage, ...]
    whole: float

    @property
    def limit(self) -> Stage:
        """Most expensive stage on the slowest side.

        Host, transfer and device run in parallel, so the slowest of the three is the limit. If the
        device is the host's CPU, they share its cores, and the most expensive of all stages is the
        limit.
        """
        stages: list[Stage] = list(self.stages)
        if self.platform != "cpu":
            total: dict[Side, float] = collections.defaultdict(float)
            for stage in stages:
                total[stage.side] += stage.seconds
            slowest = max(total, key=lambda side: total[side])
            stages = [stage for stage in stages if stage.side == slowest]
        return max(stages, key=lambda stage: stage.seconds)

    @property
    def views_per_core(self) -> float:
        """Views per second that one host core supplies; 0 if no stage on the host has a cost."""
        core_seconds = sum(
            stage.seconds * stage.workers for stage in self.stages if stage.side == "host"
        )
        return 1 / core_seconds if core_seconds else 0.0


def format_table(measured: Measurement) -> str:
    """Table of all stages, with views per second and milliseconds per view on one worker."""
    lines = [f"{'stage':<16}{'on':<16}{'views/s':>10}{'core-ms/view':>16}"]
    lines += [
        _line(stage.name, _location(stage, measured), stage.seconds, stage.workers)
        for stage in measured.stages
    ]
    lines.append(_line("entire pipeline", "all", measured.whole, cores()))
    lines.append("")
    lines.append("core-ms/view: milliseconds of one core (or of one device) per view")
    if measured.views_per_core:
        lines.append(
            f"one host core supplies {measured.views_per_core:,.0f} views/s; `cssl-jax plan RECIPE "
            f"--target ... --views-per-core {measured.views_per_core:.0f}` counts the cores that a "
            "target needs"
        )
    return "\n".join(lines)


def _location(stage: Stage, measured: Measurement) -> str:
    if stage.side == "host":
        return host_cores()
    to = "to " if stage.side == "transfer" else ""
    return f"{to}{measured.devices} x {measured.platform}"


def _line(name: str, location: str, seconds: float, workers: int) -> str:
    if not seconds:
        return f"{name:<16}{location:<16}{'-':>10}{'about 0':>16}"
    return f"{name:<16}{location:<16}{1 / seconds:>10,.0f}{1000 * seconds * workers:>16.3f}"


def verdict(measured: Measurement) -> str:
    """Sentence that names the limit of the input and what to change, without full stop."""
    stage, pipeline = measured.limit, measured.pipeline
    if stage.side == "host":
        limit = f"{_STAGE_TEXTS[stage.name]} on {host_cores()} is the limit; "
        cheaper, way_out = _stage_change(stage, pipeline), change(pipeline)
        included = not cheaper or cheaper in way_out  # both may advise the plain resize
        return limit + (way_out if included else f"{cheaper}, or {way_out}")
    smaller = f"smaller views (--data.size, now {pipeline.first_group.size}) cost less"
    if stage.side == "transfer":
        streams = isinstance(pipeline, StreamPipeline)
        way = change(pipeline) if streams else smaller
        return f"sending {'images' if streams else 'views'} to the device is the limit; {way}"
    limit = f"{_STAGE_TEXTS[stage.name]} on the device is the limit; "
    if measured.platform == "cpu":
        return f"{limit}the device is this host's CPU: use an accelerator, or {smaller}"
    ways = [_stage_change(stage, pipeline), smaller]
    return limit + ", or ".join(filter(None, ways))


_STAGE_TEXTS = {
    "gather": "gathering images",
    "read": "reading",
    "decode": "decoding",
    "crop + resize": "cropping and resizing",
    "augment": "augmentation",
    "normalise": "normalising",
}


def _stage_change(stage: Stage, pipeline: Pipeline) -> str:
    """Change that makes this stage cheaper, as text; "" if there is none."""
    if stage.name == "read":
        return "put the images on a local disk or into shards (wds:)"
    if stage.name != "crop + resize":
        return ""
    engine = pipeline.engine if isinstance(pipeline, HostPipeline) else None
    if engine == "tf" and pipeline.first_group.policy.antialias:
        return PLAIN_RESIZE
    if pipeline.first_group.policy.interpolation == "bicubic":
        return "resize with --augment.interpolation bilinear"
    return ""
