"""Views made by OpenCV, for both host backends (tf.data and threads), if OpenCV is installed."""

import importlib.util
import threading
from collections.abc import Callable

import numpy as np
import PIL.Image

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.data.pipeline.host_draws import Drawn, ViewJob
from cssl_jax.data.pipeline.interpolation import tap_positions
from cssl_jax.data.pipeline.render import parameters_of

# Function (examples int [n], halvings int [n], drawn, out) that writes the views of n examples to
# ``out``, uint8 [n, count, size, size, C] by group. ``drawn`` has by group what ``render.pack``
# gives: box int [n, count, 4] and vector float32 [n, count, K].
Paint = Callable[[np.ndarray, np.ndarray, dict[str, Drawn], dict[str, np.ndarray]], None]
DECODED = 2**24  # bytes that each thread reserves for a decoded image; larger images are allocated
TASK_EXAMPLES = 8  # examples per task, which spreads the cost of the queue over several examples


def installed() -> bool:
    """True if OpenCV is installed."""
    return importlib.util.find_spec("cv2") is not None


def kernels(policy: ImagePolicy, channels: int, *, whole: bool) -> str:
    """Chooses the library that makes views on this host.

    Args:
        policy: Augmentation policy.
        channels: Number of image channels; OpenCV handles up to 4.
        whole: True if the host applies the whole policy, which may include an affine map.

    Returns:
        "opencv" if OpenCV is installed and computes the policy exactly, else "jax".
    """
    if channels > 4 or not installed():
        return "jax"
    from cssl_jax.augment.image import opencv

    return "opencv" if opencv.EXACT_AFFINE or not (whole and policy.uses("affine")) else "jax"


def painter(job: ViewJob) -> Paint:
    """Builds the function that reads examples and writes their views, rounded to uint8.

    Several threads may call the function at the same time: the buffers are per thread.

    Args:
        job: Description of the views.
    """
    parameters = {name: parameters_of(group.policy) for name, group in job.groups.items()}
    buffers = threading.local()

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        drawn: dict[str, Drawn],
        out: dict[str, np.ndarray],
    ) -> None:
        if not hasattr(buffers, "painters"):
            channels = job.source.channels
            buffers.painters = {
                name: _ViewPainter(group, channels, parameters[name] if job.whole else None)
                for name, group in job.groups.items()
            }
            buffers.decoded = np.empty(DECODED, np.uint8)
        for number, example in enumerate(examples):
            image = job.source.image(int(example), int(halvings[number]), buffers.decoded)
            for name, paint_views in buffers.painters.items():
                boxes, vectors = drawn[name]["box"][number], drawn[name]["vector"][number]
                paint_views(image, boxes, vectors, out[name][number])

    return paint


class _ViewPainter:
    """Paints the views of one group, in buffers that it reuses; it belongs to one thread.

    Args:
        group: Group of the views.
        channels: Number of image channels.
        parameters: Function from a vector to the parameters of a view; None to only crop and
            resize.
    """

    def __init__(
        self,
        group: SizedGroup,
        channels: int,
        parameters: Callable[[np.ndarray], Drawn] | None,
    ) -> None:
        from cssl_jax.augment.image.opencv import Canvas

        self._canvas = Canvas(group.policy, group.size, channels)
        self._resizer, self._parameters = Resizer(group.policy), parameters

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, vectors: np.ndarray, out: np.ndarray
    ) -> None:
        """Writes the views of an image uint8 [h, w, C] to ``out``, uint8 [count, s, s, C]."""
        canvas = self._canvas
        drawn = zip(boxes.tolist(), vectors, out, strict=True)
        for (top, left, height, width), vector, view in drawn:
            self._resizer(image[top : top + height, left : left + width], canvas.pixels)
            if self._parameters is None:
                canvas.write(view)
            else:
                view_parameters = self._parameters(vector)
                canvas.finish(view_parameters)
                canvas.write(view, view_parameters)


class Resizer:
    """Resizes crops of any size to squares.

    The object reuses its own buffers between calls, so it belongs to one thread.

    Args:
        policy: Augmentation policy, which names the kernel and the antialiasing.
    """

    def __init__(self, policy: ImagePolicy) -> None:
        self._kernel, self._antialias = policy.interpolation, policy.antialias
        self._memory = np.empty((2, 0), np.float32)

    def __call__(self, crop: np.ndarray, out: np.ndarray) -> None:
        """Resizes a crop without rounding.

        Args:
            crop: uint8 [h, w, C].
            out: float32 [size, size, C], receives the result in [0, 255].
        """
        import cv2

        (height, width, channels), size = crop.shape, len(out)
        if (height, width) == (size, size):
            out[...] = crop
            return
        if crop.size > self._memory.shape[1]:
            self._memory = np.empty((2, crop.size), np.float32)
        x, planes = self._memory[:, : crop.size]
        x = x.reshape(crop.shape)
        x[...] = crop
        shrinks = max(height, width) > size
        if self._kernel == "bilinear" and not (self._antialias and shrinks):
            cv2.resize(x, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
        elif self._antialias:
            kernel = PIL.Image.Resampling[self._kernel.upper()]
            images = [
                PIL.Image.fromarray(x)
                for x in cv2.split(x, [*planes.reshape(channels, height, width)])
            ]
            resized = [np.asarray(image.resize((size, size), kernel)) for image in images]
            cv2.merge(resized, dst=out)
        else:  # not cv2.resize: the cubic kernel of OpenCV is a different one
            for _ in range(2):  # rows, then columns
                x = cv2.transpose(_resize_rows(x, size, self._kernel))
            out[...] = x.reshape(out.shape)
        if self._kernel == "bicubic":  # the bicubic kernel overshoots
            np.clip(out, 0.0, 255.0, out=out)


def _resize_rows(x: np.ndarray, size: int, kernel: str) -> np.ndarray:
    """Interpolates the first axis without antialiasing: [n, ...] -> float32 [size, ...]."""
    total = np.zeros((size, *x.shape[1:]), np.float32)
    row = np.empty_like(total)
    for tap, weight in zip(*tap_positions(len(x), size, kernel), strict=True):
        # Every index is valid; the default mode "raise" would buffer the output.
        x.take(tap, 0, out=row, mode="clip")
        total += np.multiply(row, weight.reshape(-1, *[1] * (x.ndim - 1)), out=row)
    return total
