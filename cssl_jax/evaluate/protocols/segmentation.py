"""Segmentation protocol: a linear (1x1) probe on an encoder's dense maps, and its metrics."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cssl_jax.augment.image.geometry import resize_matrix
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.base import Examples
from cssl_jax.data.sources.segmentation_masks import IGNORED, MaskedSource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.encoders.features import own_blocks
from cssl_jax.evaluate.protocols.linear import choose_penalty, held_out_mask, standardisation
from cssl_jax.evaluate.scores import SegmentScores
from cssl_jax.evaluate.solvers.logistic import fit_all
from cssl_jax.modalities.image import prepare
from cssl_jax.modalities.pixels import PIXEL_SIDE, area_matrix
from cssl_jax.runtime import multihost, spmd

PyTree = Any
# (variables, examples) -> list of maps, of images float [n, h, w, c] each
Maps = Callable[[PyTree, Examples], Sequence[jax.Array]]
ROWS = 32  # images per batch, few since their class scores are computed at full resolution
NEIGHBOURHOOD = 5  # side in pixels of the patch that the raw-pixel baseline sees
_HIGHEST = jax.lax.Precision.HIGHEST


def stage_maps(
    encoder: nn.Module, prepare: Callable[[Examples], Any], stages: Sequence[int] = ()
) -> Maps:
    """Returns a function that computes the encoder's map after each requested stage.

    Args:
        encoder: Encoder module whose output has the list "stages".
        prepare: Function from examples to the encoder's inputs.
        stages: Numbers of the stages, from 1; (): all stages.
    """

    def maps(variables: PyTree, examples: Examples) -> list[jax.Array]:
        encoded: Any = encoder.apply(variables, prepare(examples), train=False)
        all_stages = encoded["stages"]
        return [all_stages[stage - 1] for stage in stages] if stages else all_stages

    return maps


def pixel_maps(spec: ImageSpec) -> Maps:
    """Returns a function that computes the map of the raw-pixel baseline.

    Images are area-resized to at most 32 x 32 pixels. The features of a position are the values of
    the 5 x 5 pixels around it.
    """
    side, channels = min(spec.size, PIXEL_SIDE), spec.channels
    area, reach = area_matrix(spec.size, side), NEIGHBOURHOOD // 2

    unit = dataclasses.replace(spec, mean=(0.0,) * channels, std=(1.0,) * channels)

    def maps(variables: PyTree, examples: Examples) -> list[jax.Array]:
        x = prepare(examples, unit)
        x = jnp.einsum("sh,nhwc,tw->nstc", area, x, area, precision=_HIGHEST)
        x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
        shifts = [(i, j) for i in range(NEIGHBOURHOOD) for j in range(NEIGHBOURHOOD)]
        return [jnp.concatenate([x[:, i : i + side, j : j + side] for i, j in shifts], axis=-1)]

    return maps


class SegmentProbe:
    """Logistic regression from maps, resized to the input by bilinear interpolation, to classes.

    The probe is fitted on pixels drawn from all training images, the same number per image. The
    interpolation is linear and its weights sum to 1. The probe therefore equals a 1x1 convolution
    of the maps whose scores are interpolated afterwards, and is applied in this cheaper form. With
    several processes, each one reads only its rows of a batch. All processes fit on the pixels of
    all images and return the same metrics.

    Args:
        maps: Function from variables and images uint8 to maps, traced once for all variables.
        mesh: Devices that images are sharded over.
        size: Side in pixels of the encoder's input, the resolution at which masks are compared.
    """

    def __init__(self, maps: Maps, mesh: Mesh, *, size: int) -> None:
        self._mesh, self._size = mesh, size
        self._rows = -(-ROWS // mesh.size) * mesh.size
        self._process_rows = spmd.process_rows(self._rows, mesh)

        @jax.jit
        def sample(
            variables: PyTree, images: jax.Array, masks: jax.Array, pixels: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            features = [
                _interpolate_at(x, pixels, size) for x in maps(variables, {"image": images})
            ]
            classes = jnp.take_along_axis(masks.reshape(len(masks), -1), pixels, axis=1)
            return jnp.concatenate(features, axis=-1), classes

        @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec(spmd.AXIS)))
        def predict(
            variables: PyTree, images: jax.Array, kernel: jax.Array, bias: jax.Array
        ) -> jax.Array:
            scores, start = bias, 0
            # Each map is multiplied by its columns of the kernel at its own resolution. The full
            # feature map of all stages at ``size`` is never in memory.
            for x in maps(variables, {"image": images}):
                columns = kernel[:, start : start + x.shape[-1]]
                start += x.shape[-1]
                x = x.astype(kernel.dtype)
                scores = scores + _resize(jnp.matmul(x, columns.T, precision=_HIGHEST), size)
            return jnp.argmax(scores, axis=-1).astype(jnp.uint8)

        self._sample, self._predict = sample, predict

    def __call__(
        self,
        variables: PyTree,
        train: MaskedSource,
        test: MaskedSource,
        *,
        num_classes: int,
        pixels: int,
        l2_values: tuple[float, ...],
        seed: int,
    ) -> SegmentScores:
        """Fits on training masks and evaluates on test masks.

        Args:
            variables: Variables that the maps are computed with.
            train: Images and masks to fit on.
            test: Images and masks to evaluate on.
            num_classes: Number of classes C. Mask pixels with the value ``IGNORED`` have no class
                and are excluded.
            pixels: Approximate total number of training pixels, divided equally among the images.
            l2_values: Penalties to choose from. The one with the lowest cross entropy on the pixels
                of a held-out fifth of the training images is fitted again on all of them.
            seed: Seed of the pixels and of the held-out fifth.

        Returns:
            The ``segmentation_metrics`` on the test masks, with "l2" (the chosen penalty) and
            "pixels" (number of pixels fitted on).

        Raises:
            UserError: All pixels of the training masks or of the test masks are ``IGNORED``.
        """
        x, labels, image = self._draw_pixels(variables, train, pixels, seed)
        if not len(labels):
            raise UserError(_all_ignored("training", len(train)))
        mean, scale = standardisation(x)
        normal = ((x - mean) * scale).astype(np.float32)
        l2 = l2_values[0]
        if len(l2_values) > 1:
            # Whole images are held out: pixels of one image resemble each other.
            held_out = held_out_mask(len(train), seed)[image]
            l2 = choose_penalty(normal, labels, num_classes, l2_values, held_out)
        kernels, biases = fit_all(normal, labels, num_classes=num_classes, l2_values=(l2,))
        # The standardisation is folded into the weights, so that they apply to the maps directly.
        kernel = kernels[0].astype(np.float64) * scale
        bias = biases[0] - kernel @ mean
        process_confusion = np.zeros((num_classes, num_classes), np.int64)
        weights = spmd.replicate((np.float32(kernel), np.float32(bias)), self._mesh)
        for start, images, masks in self._blocks(test):
            predicted = spmd.own_rows(self._predict(variables, self._put(images), *weights))
            count = np.count_nonzero(start + self._process_rows < len(test))  # without padding
            process_confusion += pixel_confusion(masks[:count], predicted[:count], num_classes)
        confusion = np.sum(multihost.gather(process_confusion.tolist()), axis=0)
        if not confusion.sum():
            raise UserError(_all_ignored("validation", len(test)))
        metrics = segmentation_metrics(confusion)
        return dataclasses.replace(metrics, l2=float(l2), pixels=len(labels))

    def _draw_pixels(
        self, variables: PyTree, train: MaskedSource, pixels: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seeded random pixels of every image that have a class.

        Returns:
            Features float32 [P, D], classes int32 [P] and image numbers int [P].
        """
        area = self._size**2
        per_image = min(area, max(1, pixels // len(train)))
        feature_blocks, class_blocks = [], []
        for start, images, masks in self._blocks(train):
            # Seeded per image, so that the pixels do not depend on batches, devices or processes.
            positions = np.stack(
                [
                    permute(np.arange(per_image), epoch_key(seed, image), area).astype(np.int32)
                    for image in start + self._process_rows
                ]
            )
            sampled = self._sample(variables, *map(self._put, (images, masks, positions)))
            features, classes = multihost_utils.process_allgather(sampled, tiled=True)
            feature_blocks.append(np.asarray(features, np.float32)[: len(train) - start])
            class_blocks.append(classes[: len(train) - start])
        labels = np.concatenate(class_blocks).ravel()
        has_class = labels != IGNORED
        x = np.concatenate(feature_blocks)
        x = x.reshape(-1, x.shape[-1])[has_class]
        image_numbers = np.repeat(np.arange(len(train)), per_image)[has_class]
        return x, labels[has_class].astype(np.int32), image_numbers

    def _blocks(self, source: MaskedSource) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields per batch its first row, this process's images and their masks."""
        starts = range(0, len(source), self._rows)
        blocks = own_blocks(source, starts, self._process_rows, self._size)
        for start, (images, masks) in zip(starts, blocks, strict=False):
            yield start, images, masks

    def _put(self, block: np.ndarray) -> jax.Array:
        """Puts a block on the devices, padded to a whole batch so that one program serves all."""
        padding = [(0, len(self._process_rows) - len(block))] + [(0, 0)] * (block.ndim - 1)
        placed: jax.Array = spmd.put_batch(np.pad(block, padding), self._mesh)
        return placed


def _all_ignored(split: str, images: int) -> str:
    return (
        f"every pixel of the {images:,} {split} masks is {IGNORED}, which marks ignored pixels; "
        "give masks with classes, or another split: --data.split-seed, --data.validation-source"
    )


def _resize(x: jax.Array, size: int) -> jax.Array:
    """Resizes maps [n, h, w, C] to [n, size, size, C] by bilinear interpolation."""
    rows, columns = (
        resize_matrix(jnp.array(0), jnp.array(side), side, size, "bilinear").astype(x.dtype)
        for side in x.shape[1:3]
    )
    return jnp.einsum("sh,nhwc,tw->nstc", rows, x, columns, precision=_HIGHEST)


def _interpolate_at(x: jax.Array, pixels: jax.Array, size: int) -> jax.Array:
    """Values [n, p, c] of ``_resize(x, size)`` at single pixels, without resizing the whole map.

    Args:
        x: Maps, float [n, h, w, c].
        pixels: Row-major positions in the resized maps, int [n, p] in [0, size^2).
        size: Side of the resized maps in pixels.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    sides = []
    for position, side in ((pixels // size, x.shape[1]), (pixels % size, x.shape[2])):
        centre = jnp.clip((position + 0.5) * side / size - 0.5, 0, side - 1).astype(x.dtype)
        low = jnp.floor(centre).astype(jnp.int32)
        sides.append((low, jnp.minimum(low + 1, side - 1), (centre - low)[..., None]))
    (top, bottom, bottom_weight), (left, right, right_weight) = sides
    image = jnp.arange(len(x))[:, None]
    upper = x[image, top, left] * (1 - right_weight) + x[image, top, right] * right_weight
    lower = x[image, bottom, left] * (1 - right_weight) + x[image, bottom, right] * right_weight
    return upper * (1 - bottom_weight) + lower * bottom_weight


def pixel_confusion(masks: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixel counts int64 [C, C], one row per true class and one column per predicted class.

    Args:
        masks: True classes, uint8 of any shape. ``IGNORED`` and classes of at least C are excluded.
        predicted: Predicted classes in [0, C), uint8 of the same shape.
        num_classes: Number of classes C.
    """
    counted = masks < num_classes
    pairs = masks[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def segmentation_metrics(confusion: np.ndarray) -> SegmentScores:
    """Metrics of a confusion matrix of pixels, int [C, C].

    Returns:
        ``mean_iou``, the mean of the IoUs that are not None; ``pixel_accuracy``;
        ``per_class_iou``, None for a class that neither occurs nor is predicted;
        ``per_class_accuracy``, None for a class that does not occur; ``confusion``. Metrics are
        fractions in [0, 1]. A mean over no class or no pixel is None.
    """
    correct, true, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    union = true + predicted - correct
    ious = [float(c / u) if u else None for c, u in zip(correct, union, strict=True)]
    defined = [iou for iou in ious if iou is not None]
    # ``from_json`` keeps null for a mean over nothing, so that results.json has its key.
    return SegmentScores.from_json(
        {
            "mean_iou": float(np.mean(defined)) if defined else None,
            "pixel_accuracy": float(correct.sum() / confusion.sum()) if confusion.sum() else None,
            "per_class_iou": ious,
            "per_class_accuracy": [
                float(c / t) if t else None for c, t in zip(correct, true, strict=True)
            ],
            "confusion": confusion.tolist(),
        }
    )
