"""From the sampler to a batch on the device: resident, streamed, or augmented by tf.data."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

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


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """One way from example numbers to views.

    Attributes:
        name: "resident" (all on the device), "stream" (images from the host, augmented on the
            device) or "tf" (augmented by tf.data on the host).
        reason: Why it was chosen, in words.
        constants: Arrays to put on every device once.
        feeds: (start, stop) -> what each step is fed, this process's rows.
        make_batch: (step, constants, feed) -> batch; runs in the compiled step.
        constant_feed: Whether every step is fed the same, so that one transfer does.
    """

    name: str
    reason: str
    constants: Feed
    feeds: Callable[[int, int], Generator[Feed]]
    make_batch: Callable[[jax.Array, Any, Any], Batch]
    constant_feed: bool = False


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


def build(
    name: str,
    reason: str,
    source: ArraySource,
    sampler: Sampler,
    policy: ImagePolicy,
    *,
    views: dict[str, int],
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    rows: np.ndarray,
) -> Pipeline:
    """Builds a pipeline.

    Args:
        name: "resident", "stream" or "tf".
        reason: For the log.
        source: The training part.
        sampler: Its order.
        policy: Of the augmentation.
        views: Group -> views an example; one group for now.
        size: Side of a view in pixels.
        mean: A channel, on the scale [0, 1].
        std: A channel.
        rows: Rows of the global batch that this process feeds.
    """
    ((group, count),) = views.items()

    def finish(views_: jax.Array, index: jax.Array, key: jax.Array, label: Any) -> Batch:
        batch = {
            "views": {group: image.normalize(image.to_float(views_), mean, std)},
            "index": index,
            "key": key,
            "mask": jnp.ones(index.shape, bool),
        }
        return batch if label is None else {**batch, "label": label}

    def augment(images: jax.Array, key: jax.Array) -> jax.Array:
        # Without the barriers XLA fuses the draws into what reads them and repeats them a pixel.
        drawn = jax.lax.optimization_barrier(sample_views(key, policy, count))
        return image.apply_views(images, drawn, policy=policy, size=size)

    def resident_batch(step: jax.Array, constants: Any, feed: Any) -> Batch:
        index, key = jax.lax.optimization_barrier(sampler.draw(step, feed["row"], jnp))
        label = constants["labels"][index] if "labels" in constants else None
        return finish(augment(constants["images"][index], key), index, key, label)

    def stream_batch(step: jax.Array, constants: Any, feed: Any) -> Batch:
        views_ = augment(feed["images"], feed["key"])
        return finish(views_, feed["index"], feed["key"], feed.get("label"))

    def tf_batch(step: jax.Array, constants: Any, feed: Any) -> Batch:
        return finish(feed["views"], feed["index"], feed["key"], feed.get("label"))

    def with_labels(feed: Feed) -> Feed:
        if source.labels is None:
            return feed
        return {**feed, "label": source.labels[feed["index"]].astype(np.int32)}

    def resident_feeds(start: int, stop: int) -> Generator[Feed]:
        for _ in range(start, stop):
            yield {"row": rows.astype(np.int32)}

    def stream_feeds(start: int, stop: int) -> Generator[Feed]:
        for step in range(start, stop):
            index, key = sampler.draw(step, rows)
            yield with_labels({"images": source.images[index], "index": index, "key": key})

    def tf_feeds(start: int, stop: int) -> Generator[Feed]:
        from cssl_jax.data import tf_pipeline  # TensorFlow is loaded by those who use it only

        for feed in tf_pipeline.batches(
            source.images,
            sampler,
            policy=policy,
            views=count,
            size=size,
            start_step=start,
            stop_step=stop,
            rows=rows,
        ):
            yield with_labels(feed)

    if name == "resident":
        constants = {"images": source.images}
        if source.labels is not None:
            constants["labels"] = source.labels.astype(np.int32)
        return Pipeline(name, reason, constants, resident_feeds, resident_batch, True)
    if name == "stream":
        return Pipeline(name, reason, {}, stream_feeds, stream_batch)
    return Pipeline(name, reason, {}, tf_feeds, tf_batch)


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
