"""Input pipelines by name, and the choice among them."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Literal

from cssl_jax.data.pipeline.array_pipelines import (
    ResidentPipeline,
    SplitResidentPipeline,
    StreamPipeline,
)
from cssl_jax.data.pipeline.base import Pipeline
from cssl_jax.data.pipeline.host_pipeline import HostPipeline
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.runtime import spmd

RESIDENT_FRACTION = 0.25  # maximum fraction of a device's memory that resident images may use
HOST_LIMIT = 2**30  # bytes; used where a device does not report its memory (CPU)

PIPELINES: dict[str, Callable[..., Pipeline]] = {
    "resident": ResidentPipeline,
    "resident-split": SplitResidentPipeline,
    "stream": StreamPipeline,
    "tf": functools.partial(HostPipeline, engine="tf", whole=True),
    "tf-split": functools.partial(HostPipeline, engine="tf", whole=False),
    "threads": functools.partial(HostPipeline, engine="threads", whole=True),
    "threads-split": functools.partial(HostPipeline, engine="threads", whole=False),
}


def choose(
    source: Source | None,
    *,
    augment_on: str,
    resident: bool | Literal["split"] | None,
    engine: str,
    memory: int | None,
    devices: int,
    noun: str = "images",
) -> tuple[str, str]:
    """Chooses a pipeline for a source and the data options.

    Args:
        source: Training split; None: encoded images that are not opened.
        augment_on: Placement of the augmentation: "auto", "device", "host" or "split".
        resident: True keeps all images on each device, "split" keeps a part on each, False keeps
            them on the host. None decides by size.
        engine: Host backend: "auto", "tf" or "threads".
        memory: Memory of one device in bytes; None if the device does not report it.
        devices: Number of devices of all processes.
        noun: Plural noun for the examples, for the reason.

    Returns:
        Name of the pipeline (a key of ``PIPELINES``), and the reason for the choice.

    Raises:
        UserError: The options contradict each other, or TensorFlow is requested but not installed.
    """
    arrays = isinstance(source, ArraySource)
    if resident and (not arrays or augment_on in ("host", "split")):
        kind = f"data.augment_on={augment_on}" if arrays else "images that the host decodes"
        raise UserError(
            f"data.resident and {kind} exclude each other: resident images are an array that the "
            "device augments; remove one of the two options"
        )
    if augment_on == "device" and not arrays:
        raise UserError(
            "data.augment_on=device needs images of one size that fit in memory; these images are "
            "decoded and cropped on the host: omit data.augment_on, or set it to split"
        )
    if augment_on in ("host", "split") or not arrays:
        return _choose_engine(engine, augment_on)
    assert isinstance(source, ArraySource)
    if resident == "split":
        split = devices > 1
        return ("resident-split" if split else "resident"), "split resident data is requested"
    if resident is not None:
        request = "resident data is requested" if resident else "resident data is turned off"
        return ("resident" if resident else "stream"), request
    limit = HOST_LIMIT if memory is None else int(memory * RESIDENT_FRACTION)
    nbytes = source.nbytes
    needed = f"{nbytes / 2**20:.1f} MiB of {noun}"
    allowed = f"the {limit / 2**20:.0f} MiB allowed per device"
    if nbytes <= limit:
        return "resident", f"{needed} fit {allowed}"
    # Simulated devices do not report their memory and share the host's, so splitting saves nothing.
    if memory is not None and spmd.rows_held(nbytes, devices) <= limit:
        return "resident-split", f"{needed} exceed {allowed}; a part on each of {devices} fits"
    return "stream", f"{needed} exceed {allowed}"


def _choose_engine(engine: str, augment_on: str) -> tuple[str, str]:
    installed = importlib.util.find_spec("tensorflow") is not None
    if engine == "tf" and not installed:
        raise UserError(
            "data.engine=tf needs TensorFlow, which is not installed; omit data.engine to use "
            "threads, which do the same work, or `pip install tensorflow`"
        )
    if engine == "auto":
        engine = "tf" if installed else "threads"
    backend = "tf.data" if engine == "tf" else "threads"
    if not painter.installed():
        backend += " without OpenCV (several times as slow: pip install opencv-python-headless)"
    if augment_on == "host":
        return engine, f"augmentation on the host is requested; {backend} does it"
    return f"{engine}-split", f"{backend} decodes, crops and resizes; the device does the rest"
