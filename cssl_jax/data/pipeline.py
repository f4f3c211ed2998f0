"""From the sampler to a batch on the device: resident, streamed, or augmented by tf.data."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment import image
from cssl_jax.augment.policy import ImagePolicy, sample_views
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources import ArraySource
from cssl_jax.errors import UserError

Batch = dict[str, Any]
Feed = dict[str, np.ndarray]
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

    source: ArraySource
    sampler: Sampler
    policy: ImagePolicy
    views: dict[str, int]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows: np.ndarray
    constant_feed: ClassVar[bool] = False  # every step is fed the same: one transfer does

    @property
    def constants(self) -> Feed:
        """Arrays to put on every device once."""
        return {}

    def feeds(self, start: int, stop: int) -> Generator[Feed]:
        """What each step in [start, stop) is fed, this process's rows."""
        raise NotImplementedError

    def make_batch(self, step: jax.Array, constants: Any, feed: Any) -> Batch:
        """The batch of this device's rows; runs in the compiled step."""
        raise NotImplementedError

    def _labelled(self, feed: Feed) -> Feed:
        if self.source.labels is None:
            return feed
        return {**feed, "label": self.source.labels[feed["index"]].astype(np.int32)}

    def _augment(self, images: jax.Array, key: jax.Array) -> jax.Array:
        (count,) = self.views.values()
        # Without the barriers XLA fuses the draws into what reads them and repeats them a pixel.
        drawn = jax.lax.optimization_barrier(sample_views(key, self.policy, count))
        return image.apply_views(images, drawn, policy=self.policy, size=self.size)

    def _batch(self, views: jax.Array, feed: Any) -> Batch:
        (group,) = self.views
        x = image.normalize(image.to_float(views), self.mean, self.std)
        batch = {name: feed[name] for name in ("index", "key", "label") if name in feed}
        return {**batch, "views": {group: x}, "mask": jnp.ones(feed["index"].shape, bool)}


class ResidentPipeline(Pipeline):
    """Images lie on the device; the whole way from row number to view is in the compiled step."""

    constant_feed = True

    @property
    def constants(self) -> Feed:
        """Images and, where there are some, labels."""
        constants = {"images": self.source.images}
        if self.source.labels is not None:
            constants["labels"] = self.source.labels.astype(np.int32)
        return constants

    def feeds(self, start: int, stop: int) -> Generator[Feed]:
        """Row numbers, the same at every step."""
        for _ in range(start, stop):
            yield {"row": self.rows.astype(np.int32)}

    def make_batch(self, step: jax.Array, constants: Any, feed: Any) -> Batch:
        """Draws, gathers and augments."""
        drawn = self.sampler.draw(step, feed["row"], jnp)
        index, key = jax.lax.optimization_barrier(drawn)
        views = self._augment(constants["images"][index], key)
        labels = {"label": constants["labels"][index]} if "labels" in constants else {}
        return self._batch(views, {"index": index, "key": key, **labels})


class StreamPipeline(Pipeline):
    """The host gathers images, the device augments them."""

    def feeds(self, start: int, stop: int) -> Generator[Feed]:
        """Images with their numbers and keys."""
        for step in range(start, stop):
            index, key = self.sampler.draw(step, self.rows)
            yield self._labelled({"images": self.source.images[index], "index": index, "key": key})

    def make_batch(self, step: jax.Array, constants: Any, feed: Any) -> Batch:
        """Augments."""
        return self._batch(self._augment(feed["images"], feed["key"]), feed)


class HostPipeline(Pipeline):
    """tf.data augments on the host; the device normalises."""

    def feeds(self, start: int, stop: int) -> Generator[Feed]:
        """Finished views, uint8, with their numbers and keys."""
        from cssl_jax.data import tf_pipeline  # TensorFlow is loaded by those who use it only

        (count,) = self.views.values()
        for feed in tf_pipeline.batches(
            self.source.images,
            self.sampler,
            policy=self.policy,
            views=count,
            size=self.size,
            start_step=start,
            stop_step=stop,
            rows=self.rows,
        ):
            yield self._labelled(feed)

    def make_batch(self, step: jax.Array, constants: Any, feed: Any) -> Batch:
        """Normalises."""
        return self._batch(feed["views"], feed)


PIPELINES: dict[str, type[Pipeline]] = {
    "resident": ResidentPipeline,
    "stream": StreamPipeline,
    "tf": HostPipeline,
}


def choose(
    source: ArraySource, *, augment_on: str, resident: bool | None, memory: int | None
) -> tuple[str, str]:
    """Picks a pipeline by name, with the reason.

    Args:
        source: The training part.
        augment_on: "auto", "device" or "host".
        resident: Keep the images on the device; None decides by size.
        memory: Bytes of one device, or None where it does not tell.

    Raises:
        UserError: The wishes contradict each other.
    """
    size = f"{source.images.nbytes / 2**20:.1f} MiB of images"
    if augment_on == "host":
        if resident:
            raise UserError(
                "data.resident and data.augment_on=host exclude each other: resident images are "
                "augmented on the device; drop one of the two"
            )
        return "tf", "augmentation on the host was asked for"
    if resident is not None:
        wish = "resident data was asked for" if resident else "resident data was turned off"
        return ("resident" if resident else "stream"), wish
    limit = HOST_LIMIT if memory is None else int(memory * RESIDENT_SHARE)
    within = source.images.nbytes <= limit
    relation = "fit" if within else "exceed"
    name = "resident" if within else "stream"
    return name, f"{size} {relation} the {limit / 2**20:.0f} MiB allowed on a device"


def prefetch(items: Generator[Any], place: Callable[[Any], Any], depth: int = 2) -> Generator[Any]:
    """Yields ``place(item)`` made by a thread that keeps ``depth`` of them ready.

    An error in the thread is raised here; closing the generator ends the thread and ``items``.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer("item", place(item)):
                    return
            offer("end", None)
        except BaseException as error:  # handed over, whatever it is
            offer("error", error)
        finally:
            items.close()

    thread = threading.Thread(target=work, name="cssl-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        closed.set()
        thread.join()
