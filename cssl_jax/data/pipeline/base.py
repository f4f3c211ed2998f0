"""From the sampler to a batch on the device: resident, streamed, or with views from the host."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image import batched
from cssl_jax.augment.image.policy import ImagePolicy, sample_views
from cssl_jax.data.pipeline import painter
from cssl_jax.data.pipeline.host_draws import Work
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource, Source
from cssl_jax.errors import UserError
from cssl_jax.runtime import spmd

Batch = dict[str, Any]
HostBatch = dict[str, np.ndarray]
RESIDENT_SHARE = 0.25  # of a device's memory that resident images may take
HOST_LIMIT = 2**30  # bytes, where a device does not tell its memory (CPU)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One way from example numbers to views; the subclasses differ in where the work is done.

    Attributes:
        source: The training part.
        sampler: Its order.
        policy: Of the augmentation.
        views: Group -> views an example; one group for now.
        size: Side of a view in pixels.
        mean: A channel, on the scale [0, 1].
        std: A channel.
        rows: Rows of the global batch that this process feeds.
    """

    source: Source
    sampler: Sampler
    policy: ImagePolicy
    views: dict[str, int]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows: np.ndarray
    constant_host_batch: ClassVar[bool] = False  # every step is fed the same: one transfer does
    split_constants: ClassVar[bool] = False  # a part a device, see ``spmd.put_constants``

    @property
    def constants(self) -> HostBatch:
        """Arrays to put on the devices once."""
        return {}

    @property
    def work(self) -> Work:
        """What the host's engines, and whoever repeats the draws, need to know."""
        (count,) = self.views.values()
        return Work(
            source=self.source,
            sampler=self.sampler,
            policy=self.policy,
            views=count,
            size=self.size,
            rows=self.rows,
        )

    @property
    def kernels(self) -> str:
        """What makes the views, "opencv" or "jax"; the compiled step is JAX."""
        return "jax"

    def with_kernels(self, kernels: str) -> "Pipeline":
        """The same whose host makes views by ``kernels``, where a host does."""
        return self

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """What each step in [start, stop) is fed, this process's rows."""
        raise NotImplementedError

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """The batch of this device's rows; runs in the compiled step."""
        raise NotImplementedError

    def _labelled(self, host_batch: HostBatch) -> HostBatch:
        if self.source.labels is None:
            return host_batch
        return {**host_batch, "label": self.source.labels[host_batch["index"]].astype(np.int32)}

    def _augment(self, images: jax.Array, key: jax.Array) -> jax.Array:
        (count,) = self.views.values()
        # Without the barriers XLA fuses the draws into what reads them and repeats them a pixel.
        drawn = jax.lax.optimization_barrier(sample_views(key, self.policy, count))
        return batched.apply_views(images, drawn, policy=self.policy, size=self.size)

    def _batch(self, views: jax.Array, host_batch: Any) -> Batch:
        (group,) = self.views
        x = batched.normalize(batched.to_float(views), self.mean, self.std)
        batch = {name: host_batch[name] for name in ("index", "key", "label") if name in host_batch}
        return {**batch, "views": {group: x}, "mask": jnp.ones(host_batch["index"].shape, bool)}


class ArrayPipeline(Pipeline):
    """Images lie in an array and are augmented on the device."""

    @property
    def images(self) -> np.ndarray:
        """uint8 [size, H, W, C]."""
        assert isinstance(self.source, ArraySource)  # see ``choose``
        return self.source.images


class ResidentPipeline(ArrayPipeline):
    """Images lie on the device; the whole way from row number to view is in the compiled step."""

    constant_host_batch = True

    @property
    def constants(self) -> HostBatch:
        """Images and, where there are some, labels."""
        constants = {"images": self.images}
        if self.source.labels is not None:
            constants["labels"] = self.source.labels.astype(np.int32)
        return constants

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Row numbers, the same at every step."""
        for _ in range(start, stop):
            yield {"row": self.rows.astype(np.int32)}

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Draws, gathers and augments."""
        drawn = self.sampler.draw(step, host_batch["row"], jnp)
        index, key = jax.lax.optimization_barrier(drawn)
        rows = self._rows(constants, index)
        views = self._augment(rows["images"], key)
        labels = {"label": rows["labels"]} if "labels" in rows else {}
        return self._batch(views, {"index": index, "key": key, **labels})

    def _rows(self, constants: Any, index: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[index], constants)


class SplitResidentPipeline(ResidentPipeline):
    """The same with a part of the images on each device: each step fetches its rows from all."""

    split_constants = True

    def _rows(self, constants: Any, index: jax.Array) -> Any:
        return spmd.fetch_rows(constants, index)


class StreamPipeline(ArrayPipeline):
    """The host gathers images, the device augments them."""

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Images with their numbers and keys."""
        for step in range(start, stop):
            index, key = self.sampler.draw(step, self.rows)
            yield self._labelled({"images": self.images[index], "index": index, "key": key})

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Augments."""
        return self._batch(self._augment(host_batch["images"], host_batch["key"]), host_batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostPipeline(Pipeline):
    """The host reads, decodes, crops and resizes, and by choice does the rest as well.

    Attributes:
        engine: "tf" (tf.data) or "threads".
        whole: The host applies the whole policy and the device normalises only.
        asked: Kernels to make the views by, see ``Work``; "" is the best that is installed.
    """

    engine: Literal["tf", "threads"]
    whole: bool
    asked: str = ""

    @property
    def kernels(self) -> str:
        """What makes the views; OpenCV only where it can, whatever was asked for."""
        best = painter.kernels(self.policy, self.source.channels, whole=self.whole)
        return "jax" if self.asked == "jax" else best

    def with_kernels(self, kernels: str) -> "HostPipeline":
        """The same with other kernels."""
        return dataclasses.replace(self, asked=kernels)

    @property
    def work(self) -> Work:
        """With what makes the views."""
        return dataclasses.replace(super().work, whole=self.whole, kernels=self.kernels)

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Views, uint8, with their numbers and keys."""
        batches: Any
        if self.engine == "tf":  # TensorFlow is loaded by those who use it only
            from cssl_jax.data.pipeline.tf import batches
        else:
            from cssl_jax.data.pipeline.threads import batches
        for host_batch in batches(self.work, start, stop):
            yield self._labelled(host_batch)

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Finishes what the host left, and normalises."""
        views = host_batch["views"]
        if not self.whole:
            drawn = sample_views(host_batch["key"], self.policy, views.shape[1])
            drawn = jax.lax.optimization_barrier(drawn)
            views = batched.finish_views(views, drawn, policy=self.policy)
        return self._batch(views, host_batch)


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
    source: Source,
    *,
    augment_on: str,
    resident: bool | Literal["split"] | None,
    engine: str,
    memory: int | None,
    devices: int,
) -> tuple[str, str]:
    """Picks a pipeline by name, with the reason.

    Args:
        source: The training part.
        augment_on: "auto", "device", "host" or "split".
        resident: Keep the images on the devices, all on each or "split"; None decides by size.
        engine: "auto", "tf" or "threads".
        memory: Bytes of one device, or None where it does not tell.
        devices: Of all processes.

    Raises:
        UserError: The wishes contradict each other.
    """
    arrays = isinstance(source, ArraySource)
    if resident and (not arrays or augment_on in ("host", "split")):
        kind = f"data.augment_on={augment_on}" if arrays else "pictures that the host decodes"
        raise UserError(
            f"data.resident and {kind} exclude each other: resident images are an array that the "
            "device augments; drop one of the two"
        )
    if augment_on == "device" and not arrays:
        raise UserError(
            "data.augment_on=device needs pictures of one size that fit in memory; these are "
            "decoded and cropped on the host: leave data.augment_on out, or set it to split"
        )
    if augment_on in ("host", "split") or not arrays:
        return _choose_engine(engine, augment_on)
    assert isinstance(source, ArraySource)
    if resident == "split":
        split = devices > 1
        return ("resident-split" if split else "resident"), "resident data, split, were asked for"
    if resident is not None:
        request = "resident data was asked for" if resident else "resident data was turned off"
        return ("resident" if resident else "stream"), request
    limit = HOST_LIMIT if memory is None else int(memory * RESIDENT_SHARE)
    nbytes = source.images.nbytes
    what = f"{nbytes / 2**20:.1f} MiB of images"
    allowed = f"the {limit / 2**20:.0f} MiB allowed on a device"
    if nbytes <= limit:
        return "resident", f"{what} fit {allowed}"
    # Simulated devices, which do not tell their memory, share it.
    if memory is not None and spmd.rows_held(nbytes, devices) <= limit:
        return "resident-split", f"{what} exceed {allowed}; a part on each of {devices} fits"
    return "stream", f"{what} exceed {allowed}"


def _choose_engine(engine: str, augment_on: str) -> tuple[str, str]:
    installed = importlib.util.find_spec("tensorflow") is not None
    if engine == "tf" and not installed:
        raise UserError(
            "data.engine=tf needs TensorFlow, which is not installed; leave data.engine out for "
            "the threads that do the same, or `pip install tensorflow`"
        )
    if engine == "auto":
        engine = "tf" if installed else "threads"
    by = "tf.data" if engine == "tf" else "threads"
    if not painter.installed():
        by += " without OpenCV (several times as slow: pip install opencv-python-headless)"
    if augment_on == "host":
        return engine, f"augmentation on the host was asked for; {by} does it"
    return f"{engine}-split", f"{by} decodes, crops and resizes; the device does the rest"
