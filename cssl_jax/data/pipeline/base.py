"""Input pipelines: resident examples, streamed examples, or views of images made on the host."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Generator, Hashable
from typing import Any, ClassVar, Literal, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image import batched, geometry
from cssl_jax.augment.image.policy import Parameters
from cssl_jax.augment.view_group import CROP_BOX, Groups, SizedGroup, first_group
from cssl_jax.data.input_spec import ImageSpec, InputSpec
from cssl_jax.data.pipeline import host_draws, painter
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.sources.base import ArraySource, Examples, Images, Source
from cssl_jax.errors import UserError
from cssl_jax.runtime import spmd

Batch = dict[str, Any]
HostBatch = dict[str, Any]
RESIDENT_FRACTION = 0.25  # maximum fraction of a device's memory that resident images may use
HOST_LIMIT = 2**30  # bytes; used where a device does not report its memory (CPU)


class ViewFunctions(Protocol):
    """Functions of a modality that turn examples into views; see ``modalities.base.Modality``."""

    @property
    def sample_views(self) -> Callable[[jax.Array, Any, int, int], Parameters]: ...  # noqa: D102
    @property
    def apply_views(self) -> Callable[[Examples, Parameters, SizedGroup, Any], Any]: ...  # noqa: D102
    @property
    def view_examples(self) -> Callable[[Examples, Parameters, SizedGroup], Examples]: ...  # noqa: D102
    @property
    def kept(self) -> Callable[[Examples, Parameters, SizedGroup], Parameters]: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Base class: turns example indices into batches of views.

    The subclasses differ in which work is done on the host and which on the device.

    Attributes:
        source: Training split.
        sampler: Order of the examples of ``source``.
        groups: View groups by name.
        spec: Size and normalisation of the encoder's input.
        modality: Functions that turn examples into views.
        rows: int [r], rows of the global batch that this process provides.
        constant_host_batch: True if every step has the same host batch, so that one transfer to the
            devices serves all steps.
        split_constants: True if each device holds a part of the constants, not a copy; see
            ``spmd.put_constants``.
    """

    source: Source
    sampler: Sampler
    groups: Groups
    spec: InputSpec
    modality: ViewFunctions
    rows: np.ndarray
    constant_host_batch: ClassVar[bool] = False
    split_constants: ClassVar[bool] = False

    @property
    def constants(self) -> HostBatch:
        """Arrays that are put on the devices once, before the first step."""
        return {}

    @property
    def first_group(self) -> SizedGroup:
        """The group that stands for all where only one can be used; "main" in SimCLR."""
        return first_group(self.groups)

    @property
    def view_job(self) -> ViewJob:
        """Description of the views, for the host backends and for code that repeats the draws."""
        source: Any = self.source  # only images have view jobs
        return ViewJob(source=source, sampler=self.sampler, groups=self.groups, rows=self.rows)

    @property
    def identity(self) -> Hashable:
        """Value that is equal for pipelines whose ``make_batch`` computes the same."""
        names = {field.name for field in dataclasses.fields(self)} - {"source", "groups", "rows"}
        facts = tuple((name, getattr(self, name)) for name in sorted(names))
        return type(self), tuple(self.groups.items()), facts

    def without_examples(self) -> "Pipeline":
        """Copy for ``make_batch`` alone, which keeps no training data in memory."""
        return dataclasses.replace(self, source=cast(Source, None), rows=np.zeros(0, int))

    @property
    def kernels(self) -> str:
        """Library that makes the views, "opencv" or "jax"; always "jax" in the compiled step."""
        return "jax"

    def with_kernels(self, kernels: str) -> "Pipeline":
        """Copy whose host makes views by ``kernels``; unchanged if the device makes the views."""
        return self

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields the host batch of each step in [start, stop), with this process's rows."""
        raise NotImplementedError

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Builds the batch of this device's rows; runs inside the compiled step.

        Args:
            step: int32 scalar, step number.
            constants: ``constants`` on the device.
            host_batch: This device's rows r of an item of ``host_batches``.

        Returns:
            views: tree of arrays [r, k, ...] per group, of images a normalized float [r, k, size,
            size, C]; index int32 [r]; key uint32 [r, 2]; mask bool [r]; label int32 [r] if the
            source has labels; and drawn, if a group keeps parameters: [r, k, ...] by group and
            name. The crop box of an image has top, left, height and width as fractions of its
            height and width.

        Raises:
            UserError: A group keeps a parameter that is not sampled.
        """
        raise NotImplementedError

    def _labelled(self, host_batch: HostBatch) -> HostBatch:
        if self.source.labels is None:
            return host_batch
        return {**host_batch, "label": self.source.labels[host_batch["index"]].astype(np.int32)}

    def _sample(self, key: jax.Array) -> dict[str, Parameters]:
        sample = self.modality.sample_views
        drawn = {
            name: sample(key, group.policy, group.count, group.first)
            for name, group in self.groups.items()
        }
        # Without the barrier XLA fuses the draws into their consumers and repeats them per pixel.
        separate: dict[str, Parameters] = jax.lax.optimization_barrier(drawn)
        return separate

    def _batch(self, views: dict[str, Any], drawn: dict[str, Parameters], host_batch: Any) -> Batch:
        batch = {name: host_batch[name] for name in ("index", "key", "label") if name in host_batch}
        batch["views"] = views
        batch["mask"] = jnp.ones(host_batch["index"].shape, bool)
        if any(group.keep for group in self.groups.values()):
            batch["drawn"] = {
                name: _kept(group, drawn[name]) for name, group in self.groups.items() if group.keep
            }
        return batch


def _kept(group: SizedGroup, drawn: Parameters) -> Parameters:
    if unknown := set(group.keep) - drawn.keys():
        raise UserError(
            f"a view group keeps {', '.join(sorted(unknown))}; keep some of "
            f"{', '.join(sorted({*drawn, CROP_BOX}))}"
        )
    return {name: drawn[name] for name in group.keep}


class ArrayPipeline(Pipeline):
    """Base class for examples in host arrays that are augmented on the device."""

    def _augmented(self, examples: Examples, host_batch: Any) -> Batch:
        drawn = self._sample(host_batch["key"])
        views = {
            name: self.modality.apply_views(examples, drawn[name], group, self.spec)
            for name, group in self.groups.items()
        }
        kept = {
            name: self.modality.kept(examples, drawn[name], group)
            for name, group in self.groups.items()
            if group.keep
        }
        return self._batch(views, kept, host_batch)

    @property
    def examples(self) -> Examples:
        """All training examples, tree of arrays [n, ...]."""
        assert isinstance(self.source, ArraySource)  # see ``choose``
        return self.source.examples


class ResidentPipeline(ArrayPipeline):
    """All examples are on every device; sampling and augmentation run in the compiled step."""

    constant_host_batch = True

    @property
    def constants(self) -> HostBatch:
        """Examples, tree of arrays [n, ...], and labels int32 [n] if the source has labels."""
        constants = {"examples": self.examples}
        if self.source.labels is not None:
            constants["labels"] = self.source.labels.astype(np.int32)
        return constants

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields the same row numbers, int32 [r], at every step."""
        for _ in range(start, stop):
            yield {"row": self.rows.astype(np.int32)}

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Samples example indices, gathers their examples and augments them."""
        drawn = self.sampler.draw(step, host_batch["row"], jnp)
        index, key = jax.lax.optimization_barrier(drawn)
        rows = self._rows(constants, index)
        labels = {"label": rows["labels"]} if "labels" in rows else {}
        return self._augmented(rows["examples"], {"index": index, "key": key, **labels})

    def _rows(self, constants: Any, index: jax.Array) -> Any:
        return jax.tree.map(lambda x: x[index], constants)


class SplitResidentPipeline(ResidentPipeline):
    """Each device stores a part of the examples; every step fetches its rows from all devices."""

    split_constants = True

    def _rows(self, constants: Any, index: jax.Array) -> Any:
        return spmd.fetch_rows(constants, index)


class StreamPipeline(ArrayPipeline):
    """The host gathers the examples of each step, and the device augments them."""

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields examples, tree of arrays [r, ...], with their indices, keys and labels."""
        for step in range(start, stop):
            index, key = self.sampler.draw(step, self.rows)
            examples = jax.tree.map(lambda x, rows=index: x[rows], self.examples)
            yield self._labelled({"examples": examples, "index": index, "key": key})

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Augments and normalizes the examples of a host batch."""
        return self._augmented(host_batch["examples"], host_batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostPipeline(Pipeline):
    """The host reads, decodes, crops and resizes images, and may apply the rest of the policy.

    Attributes:
        engine: Backend that runs the work on the host, "tf" (tf.data) or "threads".
        whole: True if the host applies the whole policy and the device only normalizes.
        requested_kernels: Library that makes the views, "opencv" or "jax". The default "" selects
            the best one that is installed; see ``painter.kernels``.
    """

    source: Images
    spec: ImageSpec
    engine: Literal["tf", "threads"]
    whole: bool
    requested_kernels: str = ""

    @property
    def kernels(self) -> str:
        """Library that makes the views; "opencv" only if OpenCV supports all policies exactly."""
        supported = {
            painter.kernels(group.policy, self.source.channels, whole=self.whole)
            for group in self.groups.values()
        }
        return "jax" if "jax" in {self.requested_kernels, *supported} else "opencv"

    def with_kernels(self, kernels: str) -> "HostPipeline":
        """Copy that requests other kernels."""
        return dataclasses.replace(self, requested_kernels=kernels)

    @property
    def view_job(self) -> ViewJob:
        """Description of the views, including the kernels and the host's part of the policy."""
        return dataclasses.replace(super().view_job, whole=self.whole, kernels=self.kernels)

    def host_batches(self, start: int, stop: int) -> Generator[HostBatch]:
        """Yields views uint8 [r, k, size, size, C] by group with their indices, keys and labels.

        If a group keeps its crop boxes, there are also box int32 [r, k, 4] by group, in pixels, and
        image_size int32 [r, 2].
        """
        batches: Any
        if self.engine == "tf":  # imported here: other backends run without TensorFlow
            # Without GPUs TensorFlow logs "CUDA error", although it computes on the CPU alone.
            if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX's default
                os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
            from cssl_jax.data.pipeline.tf import batches
        else:
            from cssl_jax.data.pipeline.threads import batches
        draw_boxes = self._box_draws()
        for host_batch in batches(self.view_job, start, stop):
            boxes = draw_boxes(host_batch["index"], host_batch["key"])
            yield self._labelled({**host_batch, **boxes})

    @property
    def boxed(self) -> Groups:
        """Groups that keep their crop boxes."""
        return {name: group for name, group in self.groups.items() if CROP_BOX in group.keep}

    def _box_draws(self) -> Callable[[np.ndarray, np.ndarray], HostBatch]:
        """Function from indices and keys to the crop boxes, which depend on the images' sizes."""
        if not self.boxed:
            return lambda index, key: {}
        job = dataclasses.replace(self.view_job, groups=self.boxed)
        draw = host_draws.draws(job, lambda group, drawn: drawn["box"])

        def boxes(index: np.ndarray, key: np.ndarray) -> HostBatch:
            _, box = draw(index, key)
            return {"box": box, "image_size": self.source.sizes[index]}

        return boxes

    def make_batch(self, step: jax.Array, constants: Any, host_batch: Any) -> Batch:
        """Applies the operations that the host skipped, and normalizes."""
        views, drawn = host_batch["views"], {}
        if not self.whole or any(group.keep for group in self.groups.values()):
            drawn = self._sample(host_batch["key"])
        if not self.whole:
            views = {
                name: batched.finish_views(x, drawn[name], policy=self.groups[name].policy)
                for name, x in views.items()
            }
        for name in self.boxed:
            height, width = jnp.moveaxis(host_batch["image_size"], -1, 0)
            box = host_batch["box"][name]
            drawn[name][CROP_BOX] = geometry.box_fractions(box, height, width)
        views = {
            name: batched.normalize(batched.to_float(x), self.spec.mean, self.spec.std)
            for name, x in views.items()
        }
        return self._batch(views, drawn, host_batch)


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
