"""Examples read and their views made by OpenCV: what both engines use where it is installed."""

import importlib.util
from collections.abc import Callable

import numpy as np
import PIL.Image

from cssl_jax.augment.geometry import KERNELS
from cssl_jax.augment.policy import ImagePolicy
from cssl_jax.data.host import Work
from cssl_jax.data.viewer import parameters_of

# (examples int [n], halvings [n], boxes [n, views, 4], vectors [n, views, K]) -> views uint8
# [n, views, size, size, C], written to the last argument where there is one.
Paint = Callable[..., np.ndarray]
TOGETHER = 8  # examples in one task: alone, each pays for going through a queue
_REACH = {"bilinear": 1, "bicubic": 2}  # pixels either side


def installed() -> bool:
    """Whether there is an OpenCV."""
    return importlib.util.find_spec("cv2") is not None


def kernels(policy: ImagePolicy, channels: int, *, whole: bool) -> str:
    """What makes views on this host: OpenCV where it is installed and exact, else compiled JAX.

    Args:
        policy: Of the augmentation.
        channels: Of the images; OpenCV handles up to 4.
        whole: The host applies the whole policy, an affine map among it.
    """
    if channels > 4 or not installed():
        return "jax"
    from cssl_jax.augment import opencv

    return "opencv" if opencv.EXACT_AFFINE or not (whole and policy.uses("affine")) else "jax"


def painter(work: Work) -> Paint:
    """A function that reads some examples and makes their views, rounded."""
    import cv2

    from cssl_jax.augment import opencv

    policy, size, views = work.policy, work.size, work.views
    parameters = parameters_of(policy)

    def paint(
        examples: np.ndarray,
        halvings: np.ndarray,
        boxes: np.ndarray,
        vectors: np.ndarray,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        if out is None:
            out = np.empty((len(examples), views, size, size, work.source.channels), np.uint8)
        for number, example in enumerate(examples):
            picture = work.source.image(int(example), int(halvings[number]))
            drawn = zip(boxes[number].tolist(), vectors[number], out[number], strict=True)
            for (top, left, height, width), vector, view in drawn:
                x = resized(picture[top : top + height, left : left + width], size, policy)
                if work.whole:
                    x = opencv.finish(x, parameters(vector), policy=policy)
                view[...] = cv2.convertScaleAbs(x).reshape(view.shape)
        return out

    return paint


def resized(cut: np.ndarray, size: int, policy: ImagePolicy) -> np.ndarray:
    """uint8 [h, w, C] -> float32 [size, size, C] in [0, 255], not rounded."""
    import cv2

    height, width, channels = cut.shape
    x = cut.astype(np.float32)
    if (height, width) == (size, size):
        return x
    shrinks = max(height, width) > size
    if policy.interpolation == "bilinear" and not (policy.antialias and shrinks):
        x = cv2.resize(x, (size, size), interpolation=cv2.INTER_LINEAR)
    elif policy.antialias:
        kernel = PIL.Image.Resampling[policy.interpolation.upper()]
        planes = [PIL.Image.fromarray(plane) for plane in cv2.split(x)]
        x = cv2.merge([np.asarray(plane.resize((size, size), kernel)) for plane in planes])
    else:  # OpenCV's own cubic kernel is another one
        for _ in range(2):  # rows, then columns
            x = cv2.transpose(_rows_weighed(x, size, policy.interpolation))
    if policy.interpolation == "bicubic":  # which overshoots
        x = np.clip(x, 0.0, 255.0)
    return np.ascontiguousarray(x).reshape(size, size, channels)


def _rows_weighed(x: np.ndarray, size: int, kernel: str) -> np.ndarray:
    """Interpolates the first axis without antialiasing: [n, ...] -> [size, ...].

    Half-pixel centres; taps beyond the border weigh nothing, the others more in their place.
    """
    reach, length = _REACH[kernel], len(x)
    centres = (np.arange(size) + 0.5) * (length / size) - 0.5
    taps = np.floor(centres).astype(int) + np.arange(1 - reach, reach + 1)[:, None]
    weights = KERNELS[kernel](np.abs(taps - centres), np)
    weights = np.where((taps >= 0) & (taps < length), weights, 0.0)
    weights = (weights / weights.sum(axis=0)).astype(np.float32)
    total = np.zeros((size, *x.shape[1:]), np.float32)
    row = np.empty_like(total)
    for tap, weight in zip(taps.clip(0, length - 1), weights, strict=True):
        x.take(tap, 0, out=row, mode="clip")  # all within; the default would copy
        total += np.multiply(row, weight.reshape(-1, *[1] * (x.ndim - 1)), out=row)
    return total
