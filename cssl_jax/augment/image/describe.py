"""Text description of a view's parameters, and the region of the image that the view shows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.image.geometry import affine_matrix
from cssl_jax.augment.image.policy import ImagePolicy

_JITTER = ("brightness", "contrast", "saturation", "hue")  # by their numbers in ``order``
One = dict[str, Any]  # parameters of one view, leaves without leading axes; see ``policy.sample``


def describe(one: One, height: int, width: int, channels: int, *, policy: ImagePolicy) -> list[str]:
    """Describes the operations that a view undergoes, in the order of application.

    Args:
        one: Parameters of one view, with box int [4] (top, left, height, width, in pixels).
        height: Height of the original image in pixels.
        width: Width of the original image in pixels.
        channels: Number of image channels; unless it is 3, colour operations are not applied.
        policy: Policy that the parameters were drawn from.

    Returns:
        One text per operation; ["unchanged"] if the view is the original image.
    """
    flips = {"horizontal_flip": "flipped left-right", "vertical_flip": "flipped top-bottom"}
    operations = [
        _crop(one, height, width),
        *(text for name, text in flips.items() if one[name]),
        _affine(one),
        _jitter(one, channels),
        "grey" if one["grayscale"] and channels == 3 else "",
        f"blur, sigma {one['blur_sigma']:.2f} px" if one["blur_sigma"] > 0 else "",
        f"solarised from {policy.solarize_threshold:g}" if one["solarize"] else "",
    ]
    return [text for text in operations if text] or ["unchanged"]


def _crop(one: One, height: int, width: int) -> str:
    top, left, h, w = map(int, one["box"])
    if (h, w) == (height, width):
        return ""
    kind = "crop" if one["crop"] else "centre"
    return f"{kind} {w} x {h} at {left}, {top} ({100 * h * w / (height * width):.0f} %)"


def _affine(one: One) -> str:
    down, right = (round(100 * float(fraction)) for fraction in one["translation"])
    turn, shear = (round(math.degrees(one[name])) for name in ("rotation", "shear"))
    shifts = (_toward(right, " %", "right", "left"), _toward(down, " %", "down", "up"))
    zoom = f"{float(one['scaling']):.2f}"
    texts = (
        "turned " + turned if (turned := _toward(turn, "°", "left", "right")) else "",
        "shifted " + ", ".join(filter(None, shifts)) if any(shifts) else "",
        f"zoomed x{zoom}" if zoom != "1.00" else "",
        f"sheared {shear:+d}°" if shear else "",
    )
    return ", ".join(filter(None, texts))


def _toward(amount: int, unit: str, positive: str, negative: str) -> str:
    """Text for a signed amount, such as "12 % right"; "" for 0."""
    return f"{abs(amount)}{unit} {positive if amount > 0 else negative}" if amount else ""


def _jitter(one: One, channels: int) -> str:
    amounts = {name: f"x{float(one[name]):.2f}" for name in _JITTER[:3]}
    amounts["hue"] = f"{float(one['hue']):+.2f}"
    if one["brightness_shift"]:
        amounts["brightness"] = f"{float(one['brightness_shift']):+.2f}"
    applied = _JITTER if channels == 3 else _JITTER[:2]
    ordered = [_JITTER[number] for number in one["order"]]
    return ", ".join(
        f"{name} {amounts[name]}"
        for name in ordered
        if name in applied and amounts[name] not in ("x1.00", "+0.00", "-0.00")
    )


def outline(one: One, *, size: int, policy: ImagePolicy) -> np.ndarray:
    """Corners of the region of the original image that a view shows.

    The region is a box, or with an affine map a parallelogram that may extend beyond the image.

    Args:
        one: Parameters of one view, with box int [4] (top, left, height, width, in pixels).
        size: Side of the view in pixels.
        policy: Policy that the parameters were drawn from.

    Returns:
        float [4, 2], corners (x, y) in pixels of the original image.
    """
    corners = np.array([(0, 0), (size, 0), (size, size), (0, size)], float)
    if policy.uses("affine"):
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            names = ("rotation", "shear", "scaling", "translation")
            drawn = {name: jnp.asarray(one[name]) for name in names}
            matrix = np.asarray(affine_matrix(drawn, size), float)
        centres = corners - 0.5  # the matrix maps pixel centres, which have integer coordinates
        corners = centres @ matrix[:, :2].T + matrix[:, 2] + 0.5
    if one["vertical_flip"]:
        corners[:, 1] = size - corners[:, 1]
    if one["horizontal_flip"]:
        corners[:, 0] = size - corners[:, 0]
    top, left, height, width = map(int, one["box"])
    return corners / size * (width, height) + (left, top)
