"""Examples read and their views made by OpenCV: what both engines use where it is installed."""

import importlib.util
import threading
from collections.abc import Callable

import numpy as np
import PIL.Image

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.data.pipeline.host_draws import Work
from cssl_jax.data.pipeline.interpolation import places
from cssl_jax.data.pipeline.render import parameters_of

# (examples int [n], halvings [n], boxes [n, views, 4], vectors [n, views, K], out uint8
# [n, views, size, size, C]): the views are written to ``out``.
Paint = Callable[..., None]
DECODED = 2**24  # bytes that each thread reserves for a decoded image; larger images are allocated
TOGETHER = 8  # examples in one task: alone, each pays for going through a queue


def installed() -> bool:
    """Whether there is an OpenCV."""
    return importlib.util.find_spec("cv2") is not None


def kernels(policy: ImagePolicy, channels: int, *, whole: bool) -> str:
    """What makes views on this host: OpenCV where it is installed and exact, else compiled JAX.

    Args:
        policy: Augmentation policy.
        channels: Number of image channels; OpenCV handles up to 4.
        whole: Whether the host applies the whole policy, which may have an affine map.
    """
    if channels > 4 or not installed():
        return "jax"
    from cssl_jax.augment.image import opencv

    return "opencv" if opencv.EXACT_AFFINE or not (whole and policy.uses("affine")) else "jax"


def painter(work: Work) -> Paint:
    """A function that reads some examples and makes their views, rounded; for several threads."""
    from cssl_jax.augment.image.opencv import Canvas

    policy, size, channels = work.policy, work.size, work.source.channels
    parameters = parameters_of(policy)
    own = threading.local()

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        boxes: np.ndarray,
        vectors: np.ndarray,
        out: np.ndarray,
    ) -> None:
        if not hasattr(own, "canvas"):
            own.canvas, own.resizer = Canvas(policy, size, channels), Resizer(policy)
            own.picture = np.empty(DECODED, np.uint8)
        canvas = own.canvas
        for number, example in enumerate(examples):
            picture = work.source.image(int(example), int(halvings[number]), own.picture)
            drawn = zip(boxes[number].tolist(), vectors[number], out[number], strict=True)
            for (top, left, height, width), vector, view in drawn:
                own.resizer(picture[top : top + height, left : left + width], canvas.pixels)
                if work.whole:
                    of_view = parameters(vector)
                    canvas.finish(of_view)
                    canvas.write(view, of_view)
                else:
                    canvas.write(view)

    return paint


class Resizer:
    """Resizes cuts of any size to squares, in memory of its own; for one thread."""

    def __init__(self, policy: ImagePolicy) -> None:
        self._kernel, self._antialias = policy.interpolation, policy.antialias
        self._memory = np.empty((2, 0), np.float32)

    def __call__(self, cut: np.ndarray, out: np.ndarray) -> None:
        """Cut uint8 [h, w, C] -> out float32 [size, size, C] in [0, 255], not rounded."""
        import cv2

        (height, width, channels), size = cut.shape, len(out)
        if (height, width) == (size, size):
            out[...] = cut
            return
        if cut.size > self._memory.shape[1]:
            self._memory = np.empty((2, cut.size), np.float32)
        x, planes = self._memory[:, : cut.size]
        x = x.reshape(cut.shape)
        x[...] = cut
        shrinks = max(height, width) > size
        if self._kernel == "bilinear" and not (self._antialias and shrinks):
            cv2.resize(x, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
        elif self._antialias:
            kernel = PIL.Image.Resampling[self._kernel.upper()]
            parts = [
                PIL.Image.fromarray(x)
                for x in cv2.split(x, [*planes.reshape(channels, height, width)])
            ]
            resized = [np.asarray(part.resize((size, size), kernel)) for part in parts]
            cv2.merge(resized, dst=out)
        else:  # OpenCV's own cubic kernel is another one
            for _ in range(2):  # rows, then columns
                x = cv2.transpose(_rows_weighed(x, size, self._kernel))
            out[...] = x.reshape(out.shape)
        if self._kernel == "bicubic":  # which overshoots
            np.clip(out, 0.0, 255.0, out=out)


def _rows_weighed(x: np.ndarray, size: int, kernel: str) -> np.ndarray:
    """Interpolates the first axis without antialiasing: [n, ...] -> [size, ...]."""
    total = np.zeros((size, *x.shape[1:]), np.float32)
    row = np.empty_like(total)
    for tap, weight in zip(*places(len(x), size, kernel), strict=True):
        x.take(tap, 0, out=row, mode="clip")  # all within; the default would copy
        total += np.multiply(row, weight.reshape(-1, *[1] * (x.ndim - 1)), out=row)
    return total
