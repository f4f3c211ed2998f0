"""``image.finish`` of one image by OpenCV in float32: several times as fast as ``single``.

OpenCV's kernels release Python's lock, so that threads work side by side. Its own threads are
switched off: whoever makes views works on several images at a time.
"""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from cssl_jax.augment import geometry, image
from cssl_jax.augment.color import LUMA
from cssl_jax.augment.policy import ImagePolicy

cv2.setNumThreads(0)

WHITE = 255.0
# OpenCV 4 rounds the places that an affine map reads to 1/32 of a pixel.
EXACT_AFFINE = int(cv2.__version__.split(".")[0]) >= 5
_REACH = 4.0  # standard deviations of a blur; beyond lie 6e-5 of the weight


def finish(x: np.ndarray, parameters: Mapping[str, Any], *, policy: ImagePolicy) -> np.ndarray:
    """All of the policy that keeps the size.

    Args:
        x: float32 [s, s, C] in [0, 255], C at most 4; it may be overwritten.
        parameters: NumPy numbers of one view, from ``policy.sample``.
        policy: The policy they were drawn from.

    Returns:
        float32 [s, s, C] in [0, 255].
    """
    shape = x.shape
    if parameters["horizontal_flip"]:
        x = cv2.flip(x, 1)
    if parameters["vertical_flip"]:
        x = cv2.flip(x, 0)
    if policy.uses("affine"):
        x = _affine(x, geometry.affine_matrix(parameters, shape[0], np), policy.fill * WHITE)
    x = x.reshape(shape)  # OpenCV leaves out a last axis of 1
    if policy.uses("jitter"):
        for number in parameters["order"]:
            x = _JITTER[int(number)](x, parameters, policy.color_mode)
    if parameters["grayscale"] and shape[-1] == 3:
        x = cv2.transform(x, np.float32([LUMA[policy.color_mode]] * 3))
    if parameters["blur_sigma"] > 0:
        weights = _blur_weights(
            float(parameters["blur_sigma"]), image.blur_radius(policy, shape[0])
        )
        x = cv2.sepFilter2D(x, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)
    if parameters["solarize"]:
        x = np.where(x >= policy.solarize_threshold * WHITE, WHITE - x, x)
    return x.reshape(shape)


def _affine(x: np.ndarray, matrix: np.ndarray, fill: float) -> np.ndarray:
    if np.array_equal(matrix, [[1, 0, 0], [0, 1, 0]]):
        return x
    return cv2.warpAffine(
        x,
        matrix,
        x.shape[:2],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(fill,) * 4,
    )


def _within(x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0.0, WHITE, out=x)


def _brightness(x: np.ndarray, parameters: Mapping[str, Any], mode: str) -> np.ndarray:
    factor, shift = np.float32(parameters["brightness"]), parameters["brightness_shift"]
    if factor == 1 and shift == 0:
        return x
    return _within(np.add(x * factor, np.float32(shift * WHITE)))


def _contrast(x: np.ndarray, parameters: Mapping[str, Any], mode: str) -> np.ndarray:
    factor = np.float32(parameters["contrast"])
    if factor == 1:
        return x
    means = np.array(cv2.mean(x)[: x.shape[-1]])
    if mode != "tf":  # the mean of the grey image is the grey value of the means
        means = means @ LUMA[mode] if len(means) == 3 else means.mean()
    return _within(np.add(x * factor, ((1 - factor) * means).astype(np.float32)))


def _saturation(x: np.ndarray, parameters: Mapping[str, Any], mode: str) -> np.ndarray:
    factor = float(parameters["saturation"])
    if factor == 1 or x.shape[-1] != 3:
        return x
    if mode != "tf":
        blend = factor * np.eye(3) + (1 - factor) * np.array(LUMA[mode])
        return _within(cv2.transform(x, blend.astype(np.float32)))
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    np.clip(hsv[..., 1] * np.float32(factor), 0, 1, out=hsv[..., 1])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _hue(x: np.ndarray, parameters: Mapping[str, Any], mode: str) -> np.ndarray:
    turn = float(parameters["hue"])
    if turn == 0 or x.shape[-1] != 3:
        return x
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[..., 0] += np.float32(360 * (turn % 1))  # OpenCV takes it modulo 360
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


_JITTER = (_brightness, _contrast, _saturation, _hue)  # by the numbers in ``policy.JITTER_ORDERS``


def _blur_weights(sigma: float, radius: int) -> np.ndarray:
    """``image.blur_weights`` as far as they matter."""
    reach = min(radius, max(1, math.ceil(_REACH * sigma)))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * np.square(offsets / max(sigma, 0.05)))
    return (weights / weights.sum()).astype(np.float32)
