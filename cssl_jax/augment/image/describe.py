"""One view's drawn parameters in words, and the part of its picture that it shows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image.geometry import affine_matrix
from cssl_jax.augment.image.policy import ImagePolicy

_JITTER = ("brightness", "contrast", "saturation", "hue")  # as ``order`` numbers them
One = dict[str, Any]  # parameters of one view, leaves without leading axes; see ``policy.sample``


def describe(one: One, height: int, width: int, channels: int, *, policy: ImagePolicy) -> list[str]:
    """What the view undergoes, an operation a line, in the order of application.

    Args:
        one: Parameters of one view, with box int [4] (top, left, height, width).
        height: Of the picture, in pixels.
        width: Likewise.
        channels: Of the picture; without 3, colour operations do not happen.
        policy: From which the parameters were drawn.
    """
    flips = {"horizontal_flip": "flipped left-right", "vertical_flip": "flipped top-bottom"}
    happened = [
        _crop(one, height, width),
        *(word for name, word in flips.items() if one[name]),
        _affine(one),
        _jitter(one, channels),
        "grey" if one["grayscale"] and channels == 3 else "",
        f"blur, sigma {one['blur_sigma']:.2f} px" if one["blur_sigma"] > 0 else "",
        f"solarised from {policy.solarize_threshold:g}" if one["solarize"] else "",
    ]
    return [words for words in happened if words] or ["as it is"]


def _crop(one: One, height: int, width: int) -> str:
    top, left, h, w = map(int, one["box"])
    if (h, w) == (height, width):
        return ""
    kind = "crop" if one["crop"] else "centre"
    return f"{kind} {w} x {h} at {left}, {top} ({100 * h * w / (height * width):.0f} %)"


def _affine(one: One) -> str:
    down, right = (round(100 * float(share)) for share in one["translation"])
    turn, shear = (round(math.degrees(one[name])) for name in ("rotation", "shear"))
    shifts = (_toward(right, " %", "right", "left"), _toward(down, " %", "down", "up"))
    zoom = f"{float(one['scaling']):.2f}"
    parts = (
        "turned " + turned if (turned := _toward(turn, "°", "left", "right")) else "",
        "shifted " + ", ".join(filter(None, shifts)) if any(shifts) else "",
        f"zoomed x{zoom}" if zoom != "1.00" else "",
        f"sheared {shear:+d}°" if shear else "",
    )
    return ", ".join(filter(None, parts))


def _toward(amount: int, unit: str, positive: str, negative: str) -> str:
    return f"{abs(amount)}{unit} {positive if amount > 0 else negative}" if amount else ""


def _jitter(one: One, channels: int) -> str:
    words = {name: f"x{float(one[name]):.2f}" for name in _JITTER[:3]}
    words["hue"] = f"{float(one['hue']):+.2f}"
    if one["brightness_shift"]:
        words["brightness"] = f"{float(one['brightness_shift']):+.2f}"
    applied = _JITTER if channels == 3 else _JITTER[:2]
    turns = [_JITTER[turn] for turn in one["order"]]
    return ", ".join(
        f"{name} {words[name]}"
        for name in turns
        if name in applied and words[name] not in ("x1.00", "+0.00", "-0.00")
    )


def outline(one: One, *, size: int, policy: ImagePolicy) -> np.ndarray:
    """Corners of what a view of ``size`` pixels shows of its picture: float [4, 2], (x, y) pixels.

    A box, or with an affine map a parallelogram that may reach beyond the picture.
    """
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], float)
    if policy.uses("affine"):
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            names = ("rotation", "shear", "scaling", "translation")
            drawn = {name: jnp.asarray(one[name]) for name in names}
            matrix = np.asarray(affine_matrix(drawn, size), float)
        centres = corners - 0.5  # the matrix maps centres of pixels
        corners = centres @ matrix[:, :2].T + matrix[:, 2] + 0.5
    if one["vertical_flip"]:
        corners[:, 1] = size - corners[:, 1]
    if one["horizontal_flip"]:
        corners[:, 0] = size - corners[:, 0]
    top, left, height, width = map(int, one["box"])
    return corners / size * (width, height) + (left, top)
