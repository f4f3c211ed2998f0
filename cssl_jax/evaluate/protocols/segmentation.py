"""Segmentation: a linear (1x1) probe on an encoder's dense maps, and its figures."""

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
from cssl_jax.data.input_spec import PIXEL_SIDE, InputSpec
from cssl_jax.data.sampler import epoch_key, permute
from cssl_jax.data.sources.masks import IGNORED, MaskedSource
from cssl_jax.errors import UserError
from cssl_jax.evaluate.features import area_matrix, own_blocks, preprocess
from cssl_jax.evaluate.protocols.linear import choose_penalty, held_out_part, standardisation
from cssl_jax.evaluate.solvers.logistic import fit_all
from cssl_jax.runtime import multihost, spmd

PyTree = Any
Maps = Callable[[PyTree, jax.Array], Sequence[jax.Array]]  # (variables, images) -> [n, h, w, c]s
ROWS = 32  # images at a time: their scores are held at full size
NEIGHBOURHOOD = 5  # pixels a side, of the floor of raw pixels
_HIGHEST = jax.lax.Precision.HIGHEST


def stage_maps(encoder: nn.Module, spec: InputSpec, stages: Sequence[int] = ()) -> Maps:
    """The encoder's map after each stage, of those that are named from 1; () is all."""

    def maps(variables: PyTree, images: jax.Array) -> list[jax.Array]:
        x = preprocess(images, size=spec.size, mean=spec.mean, std=spec.std)
        encoded: Any = encoder.apply(variables, x, train=False)
        found = encoded["stages"]
        return [found[stage - 1] for stage in stages] if stages else found

    return maps


def pixel_maps(spec: InputSpec) -> Maps:
    """Raw pixels, area-resized to at most 32 a side: each with its neighbours, 5 x 5 in all."""
    side, channels = min(spec.size, PIXEL_SIDE), spec.channels
    area, reach = area_matrix(spec.size, side), NEIGHBOURHOOD // 2

    def maps(variables: PyTree, images: jax.Array) -> list[jax.Array]:
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        x = preprocess(images, size=spec.size, mean=zeros, std=ones)
        x = jnp.einsum("sh,nhwc,tw->nstc", area, x, area, precision=_HIGHEST)
        x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
        shifts = [(i, j) for i in range(NEIGHBOURHOOD) for j in range(NEIGHBOURHOOD)]
        return [jnp.concatenate([x[:, i : i + side, j : j + side] for i, j in shifts], axis=-1)]

    return maps


class SegmentProbe:
    """Logistic regression from maps, resized to the input by bilinear interpolation, to classes.

    It is fitted on pixels that are drawn from every training image alike. As the interpolation is
    linear, and its weights sum to 1, it is the 1x1 convolution of the maps whose scores are
    interpolated, and is applied as that. Each of several processes reads its own rows only; all fit
    on the pixels of all, and get the same figures.

    Args:
        maps: Of images uint8; traced once for all variables.
        mesh: Devices to spread images over.
        size: Side of the encoder's input, at which masks are compared, in pixels.
    """

    def __init__(self, maps: Maps, mesh: Mesh, *, size: int) -> None:
        self._mesh, self._size = mesh, size
        self._rows = -(-ROWS // mesh.size) * mesh.size
        self._mine = spmd.process_rows(self._rows, mesh)

        @jax.jit
        def sample(
            variables: PyTree, images: jax.Array, masks: jax.Array, pixels: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            parts = [_at(x, pixels, size) for x in maps(variables, images)]
            classes = jnp.take_along_axis(masks.reshape(len(masks), -1), pixels, axis=1)
            return jnp.concatenate(parts, axis=-1), classes

        @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec(spmd.AXIS)))
        def predict(
            variables: PyTree, images: jax.Array, kernel: jax.Array, bias: jax.Array
        ) -> jax.Array:
            scores, start = bias, 0
            for x in maps(variables, images):
                own = kernel[:, start : start + x.shape[-1]]
                start += x.shape[-1]
                x = x.astype(kernel.dtype)
                scores = scores + _resized(jnp.matmul(x, own.T, precision=_HIGHEST), size)
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
    ) -> dict[str, Any]:
        """Fits on training masks and reports on test masks.

        Args:
            variables: Of the maps.
            train: Images and masks to fit on.
            test: To report on.
            num_classes: C; a mask's ``IGNORED`` belongs to none and counts nowhere.
            pixels: Of all training images that are fitted on, about; as many of each.
            l2_values: Penalties, of which the one with the lowest cross entropy on the pixels of a
                held-out fifth of the training images is fitted again on all.
            seed: Of the pixels and of that fifth.

        Returns:
            ``figures`` on the test masks, with "l2" and "pixels" (that were fitted on).

        Raises:
            UserError: All pixels of the training or of the test masks are ``IGNORED``.
        """
        x, labels, image = self._drawn(variables, train, pixels, seed)
        if not len(labels):
            raise UserError(_all_ignored("training", len(train)))
        mean, scale = standardisation(x)
        normal = ((x - mean) * scale).astype(np.float32)
        l2 = l2_values[0]
        if len(l2_values) > 1:
            held_out = held_out_part(len(train), seed)[image]
            l2 = choose_penalty(normal, labels, num_classes, l2_values, held_out)
        kernels, biases = fit_all(normal, labels, num_classes=num_classes, l2_values=(l2,))
        kernel = kernels[0].astype(np.float64) * scale  # takes maps as they are
        bias = biases[0] - kernel @ mean
        own = np.zeros((num_classes, num_classes), np.int64)
        weights = spmd.replicate((np.float32(kernel), np.float32(bias)), self._mesh)
        for start, images, masks in self._blocks(test):
            scored = spmd.own_rows(self._predict(variables, self._put(images), *weights))
            there = np.count_nonzero(start + self._mine < len(test))
            own += confusion_of(masks[:there], scored[:there], num_classes)
        confusion = np.sum(multihost.gather(own.tolist()), axis=0)
        if not confusion.sum():
            raise UserError(_all_ignored("validation", len(test)))
        return {**figures(confusion), "l2": float(l2), "pixels": len(labels)}

    def _drawn(
        self, variables: PyTree, train: MaskedSource, pixels: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features [P, D], classes [P] and images' numbers [P] of keyed pixels of every image."""
        whole = self._size**2
        each = min(whole, max(1, pixels // len(train)))
        found, labels = [], []
        for start, images, masks in self._blocks(train):
            places = np.stack(
                [
                    permute(np.arange(each), epoch_key(seed, image), whole).astype(np.int32)
                    for image in start + self._mine
                ]
            )
            drawn = self._sample(variables, *map(self._put, (images, masks, places)))
            features, classes = multihost_utils.process_allgather(drawn, tiled=True)
            found.append(np.asarray(features, np.float32)[: len(train) - start])
            labels.append(classes[: len(train) - start])
        of_all = np.concatenate(labels).ravel()
        known = of_all != IGNORED
        x = np.concatenate(found)
        x = x.reshape(-1, x.shape[-1])[known]
        return x, of_all[known].astype(np.int32), np.repeat(np.arange(len(train)), each)[known]

    def _blocks(self, source: MaskedSource) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(first row of a batch, this process's images of it, and their masks)."""
        starts = range(0, len(source), self._rows)
        blocks = own_blocks(source, starts, self._mine, self._size)
        for start, (images, masks) in zip(starts, blocks, strict=False):
            yield start, images, masks

    def _put(self, block: np.ndarray) -> jax.Array:
        """On the devices; the last block is padded, so that one program serves all."""
        padding = [(0, len(self._mine) - len(block))] + [(0, 0)] * (block.ndim - 1)
        return spmd.put_batch(np.pad(block, padding), self._mesh)


def _all_ignored(split: str, images: int) -> str:
    return (
        f"every pixel of the {images:,} {split} masks is {IGNORED}, which is no class; give masks "
        "with classes, or another split: --data.split-seed, --data.validation-source"
    )


def _resized(x: jax.Array, size: int) -> jax.Array:
    """[n, h, w, C] -> [n, size, size, C] by bilinear interpolation."""
    rows, columns = (
        resize_matrix(jnp.array(0), jnp.array(side), side, size, "bilinear").astype(x.dtype)
        for side in x.shape[1:3]
    )
    return jnp.einsum("sh,nhwc,tw->nstc", rows, x, columns, precision=_HIGHEST)


def _at(x: jax.Array, pixels: jax.Array, size: int) -> jax.Array:
    """[n, p, c]: what ``_resized`` of maps [n, h, w, c] gives at pixels int [n, p], row-major."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    sides = []
    for place, side in ((pixels // size, x.shape[1]), (pixels % size, x.shape[2])):
        centre = jnp.clip((place + 0.5) * side / size - 0.5, 0, side - 1).astype(x.dtype)
        low = jnp.floor(centre).astype(jnp.int32)
        sides.append((low, jnp.minimum(low + 1, side - 1), (centre - low)[..., None]))
    (top, bottom, down), (left, right, across) = sides
    image = jnp.arange(len(x))[:, None]
    upper = x[image, top, left] * (1 - across) + x[image, top, right] * across
    lower = x[image, bottom, left] * (1 - across) + x[image, bottom, right] * across
    return upper * (1 - down) + lower * down


def confusion_of(masks: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [C, C] of pixels, a row a true class; ``IGNORED`` and classes beyond C are none.

    Args:
        masks: uint8, any shape.
        predicted: Likewise, in [0, C).
        num_classes: C.
    """
    known = masks < num_classes
    pairs = masks[known].astype(np.int64) * num_classes + predicted[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def figures(confusion: np.ndarray) -> dict[str, Any]:
    """What a confusion of pixels [C, C] says, ready for JSON.

    Returns:
        {"pixel_accuracy"; "per_class_iou": of each class its intersection over union, None of one
        that is neither there nor predicted; "mean_iou" of the others; "per_class_accuracy";
        "confusion"}, shares in [0, 1]; None for means over no pixel or class.
    """
    right, true, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    union = true + predicted - right
    found = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    known = [iou for iou in found if iou is not None]
    return {
        "mean_iou": float(np.mean(known)) if known else None,
        "pixel_accuracy": float(right.sum() / confusion.sum()) if confusion.sum() else None,
        "per_class_iou": found,
        "per_class_accuracy": [
            float(r / t) if t else None for r, t in zip(right, true, strict=True)
        ],
        "confusion": confusion.tolist(),
    }
