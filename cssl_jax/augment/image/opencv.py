"""OpenCV implementation of ``batched.finish`` for one image, in float32.

It is several times as fast as ``per_image``. OpenCV releases Python's global lock, so several
threads can run at the same time. OpenCV's internal threads are off, since the callers already
process several images at a time.
"""

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from cssl_jax.augment.image import batched, geometry
from cssl_jax.augment.image.color import LUMA
from cssl_jax.augment.image.policy import ImagePolicy

cv2.setNumThreads(0)

WHITE = 255.0
# OpenCV 4 rounds the positions that an affine map samples to 1/32 of a pixel.
EXACT_AFFINE = int(cv2.__version__.split(".")[0]) >= 5
_REACH = 3.5  # radius of the blur in standard deviations; 5e-4 of the weight lies beyond
Values = Mapping[str, Any]  # sampled parameters of one view as NumPy values, by name


class Canvas:
    """Applies a policy to views of one shape, one after another, in buffers that it reuses.

    New memory for every operation would cost as much as the operation, since the operating system
    allocates each page on first access. A canvas belongs to one thread.

    Args:
        policy: Augmentation policy.
        size: Side of a view in pixels.
        channels: Number of image channels, at most 4.

    Attributes:
        pixels: Current view, float32 [size, size, channels] in [0, 255]. The caller writes the
            resized crop to it; the array object changes between calls.
    """

    def __init__(self, policy: ImagePolicy, size: int, channels: int) -> None:
        self._policy, self._size, self._channels = policy, size, channels
        self.pixels, self._spare = np.empty((2, size, size, channels), np.float32)
        self._bytes = np.empty((size, size, channels), np.uint8)
        self._radius = batched.blur_radius(policy, size) if policy.uses("blur") else 0
        self._identity = np.eye(channels, channels + 1)

    def finish(self, parameters: Values) -> None:
        """Applies the operations that keep the size to ``pixels``, in place.

        Flips are applied only if the policy has an affine map; ``write`` does them otherwise.

        Args:
            parameters: Parameters of one view from ``policy.sample``, as NumPy values.
        """
        policy = self._policy
        if policy.uses("affine"):
            self._affine(parameters)
        self._colors(parameters)
        if parameters["blur_sigma"] > 0:
            weights = _blur_weights(float(parameters["blur_sigma"]), self._radius)
            border = cv2.BORDER_REFLECT_101
            cv2.sepFilter2D(self.pixels, -1, weights, weights, dst=self._spare, borderType=border)
            self._swap()
        if parameters["solarize"]:
            x = self.pixels
            x[...] = np.where(x >= policy.solarize_threshold * WHITE, WHITE - x, x)

    def write(self, out: np.ndarray, parameters: Values | None = None) -> None:
        """Rounds ``pixels`` to uint8 and flips them, unless the affine map has done so.

        Flips may come last, since every other operation of ``finish`` commutes with them.

        Args:
            out: uint8 [s, s, C], receives the view.
            parameters: Parameters of the view; None for a view that is not flipped.
        """
        flip = None if parameters is None else _flip(parameters)
        if flip is None or self._policy.uses("affine"):
            cv2.convertScaleAbs(self.pixels, dst=out)
        else:
            cv2.flip(cv2.convertScaleAbs(self.pixels, dst=self._bytes), flip, dst=out)

    def _swap(self) -> None:
        self.pixels, self._spare = self._spare, self.pixels

    def _affine(self, parameters: Values) -> None:
        flip = _flip(parameters)
        if flip is not None:
            cv2.flip(self.pixels, flip, dst=self._spare)
            self._swap()
        matrix = geometry.affine_matrix(parameters, self._size, np)
        if not np.array_equal(matrix, [[1, 0, 0], [0, 1, 0]]):
            cv2.warpAffine(
                self.pixels,
                matrix,
                (self._size, self._size),
                dst=self._spare,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(self._policy.fill * WHITE,) * 4,
            )
            self._swap()

    def _colors(self, parameters: Values) -> None:
        """Applies colour jitter and grayscale.

        Each operation except the hue (and the saturation in mode "tf") is a linear map of a pixel's
        channels. If a factor is at most 1, no value can leave [0, 255] and no clipping is needed.
        Consecutive maps are therefore combined up to the next one that needs clipping.
        """
        # In the order of the numbers in ``policy.JITTER_ORDERS``.
        operations = (self._brightness, self._contrast, self._saturation, self._hue)
        linear = self._identity.copy()
        for number in parameters["order"] if self._policy.uses("jitter") else ():
            linear, needs_clip = operations[int(number)](linear, parameters)
            if needs_clip:
                linear = self._apply(linear)
                np.clip(self.pixels, 0.0, WHITE, out=self.pixels)
        if parameters["grayscale"] and self._channels == 3:
            linear = np.array([LUMA[self._policy.color_mode]] * 3) @ linear
        self._apply(linear)

    # Each jitter operation takes the linear map that is not applied yet. It returns the map that
    # includes the operation, and whether a value may then leave [0, 255].

    def _brightness(self, linear: np.ndarray, parameters: Values) -> tuple[np.ndarray, bool]:
        factor, shift = float(parameters["brightness"]), parameters["brightness_shift"]
        linear *= factor
        linear[:, -1] += shift * WHITE
        return linear, factor > 1 or bool(shift != 0)

    def _contrast(self, linear: np.ndarray, parameters: Values) -> tuple[np.ndarray, bool]:
        factor, count = float(parameters["contrast"]), self._channels
        if factor == 1:
            return linear, False
        means = linear @ np.append(cv2.mean(self.pixels)[:count], 1.0)
        mode = self._policy.color_mode
        if mode != "tf":  # the mean of the grey image is the grey value of the mean colour
            means = means @ LUMA[mode] if count == 3 else means.mean()
        linear *= factor
        linear[:, -1] += (1 - factor) * means
        return linear, factor > 1

    def _saturation(self, linear: np.ndarray, parameters: Values) -> tuple[np.ndarray, bool]:
        factor, mode = float(parameters["saturation"]), self._policy.color_mode
        if self._channels != 3:
            return linear, False
        if mode != "tf":
            blend = factor * np.eye(3) + (1 - factor) * np.array(LUMA[mode])
            return blend @ linear, factor > 1
        if factor != 1:
            linear = self._apply(linear)
            self._in_hsv(saturation=factor)
        return linear, False

    def _hue(self, linear: np.ndarray, parameters: Values) -> tuple[np.ndarray, bool]:
        if self._channels == 3 and parameters["hue"] != 0:
            linear = self._apply(linear)
            self._in_hsv(turn=float(parameters["hue"]))
        return linear, False

    def _apply(self, linear: np.ndarray) -> np.ndarray:
        """Applies a linear map [C, C + 1] to every pixel, and returns the identity map."""
        if linear.tobytes() != self._identity.tobytes():  # ten times as fast as np.array_equal
            cv2.transform(self.pixels, linear.astype(np.float32), dst=self._spare)
            self._swap()
        return self._identity.copy()

    def _in_hsv(self, turn: float = 0.0, saturation: float = 1.0) -> None:
        hsv = self._spare
        cv2.cvtColor(self.pixels, cv2.COLOR_RGB2HSV, dst=hsv)
        if turn:
            hsv[..., 0] += 360 * (turn % 1)  # degrees; OpenCV reduces them modulo 360
        if saturation != 1:
            np.clip(hsv[..., 1] * np.float32(saturation), 0, 1, out=hsv[..., 1])
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=self.pixels)


def _flip(parameters: Values) -> int | None:
    """OpenCV's code for the flips of a view; None if the view is not flipped."""
    codes = {(False, False): None, (True, False): 1, (False, True): 0, (True, True): -1}
    return codes[bool(parameters["horizontal_flip"]), bool(parameters["vertical_flip"])]


def _blur_weights(sigma: float, radius: int) -> np.ndarray:
    """Weights of ``batched.blur_weights``, truncated where they are negligible; float32 [taps]."""
    reach = min(radius, max(1, math.ceil(_REACH * sigma)))
    offsets = np.arange(-reach, reach + 1)
    weights: np.ndarray = np.exp(-0.5 * np.square(offsets / max(sigma, 0.05)))
    weights /= weights.sum()
    return weights.astype(np.float32)
