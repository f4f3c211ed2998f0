"""Pipeline of images that the host reads, decodes, crops and resizes."""

import dataclasses
import os
from collections.abc import Callable, Generator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image import batched, geometry
from cssl_jax.augment.view_group import CROP_BOX, Groups
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.pipeline import host_draws
from cssl_jax.data.pipeline.base import Batch, HostBatch, Pipeline
from cssl_jax.data.pipeline.host_draws import ViewJob
from cssl_jax.data.pipeline.rendering import painter
from cssl_jax.data.sources.base import Images


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
