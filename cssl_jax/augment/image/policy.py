"""Augmentation policy for images, and sampling of the parameters of a view."""

import dataclasses
import itertools
import math
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.base import Parameters, Policy, sample_each_view
from cssl_jax.errors import UserError

CROP_ATTEMPTS = 10  # candidates per crop, as in torchvision's RandomResizedCrop
JITTER_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)

# One uniform number per slot. With JAX's partitionable threefry, the i-th number of a draw depends
# only on the key and on i, so a slot appended at the end does not change the earlier draws.
_SLOTS = (
    *(f"area{i}" for i in range(CROP_ATTEMPTS)),
    *(f"ratio{i}" for i in range(CROP_ATTEMPTS)),
    *("crop", "crop_y", "crop_x", "horizontal_flip", "vertical_flip"),
    *("affine", "rotation", "translation_y", "translation_x", "scaling", "shear"),
    *("jitter", "order", "brightness", "contrast", "saturation", "hue"),
    *("grayscale", "blur", "blur_sigma", "solarize"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePolicy(Policy):
    """SimCLR's policy (arXiv 2002.05709, App. A) with the paper's ImageNet defaults, and more.

    A probability is one number for all views, or one number per view (asymmetric, as in BYOL).

    Attributes:
        crop: Probability of a random resized crop; without it the centre square is resized.
        crop_area: Minimum and maximum area of the crop, as a fraction of the image's area.
        crop_ratio: Minimum and maximum aspect ratio (width over height), drawn log-uniformly.
        interpolation: Kernel of the resize; the paper's code uses bicubic.
        antialias: Widen the resize kernel in proportion to the reduction, as Pillow and torchvision
            do. Without it, as in the paper's code, the resize is several times faster in tf.data.
        dct_scaling: Decode a JPEG at 1/2, 1/4 or 1/8 of its size if the crops of all its views stay
            larger than a view. Large photos then take a fraction of the time. The crops are widened
            to whole pixels of the reduced image.
        horizontal_flip: Probability of a left-right flip.
        vertical_flip: Probability of a top-bottom flip.
        affine: Probability of an affine map (rotation, translation, scaling and shear together).
        rotation: Maximum rotation in either direction, in degrees.
        translation: Maximum shift in either direction, as a fraction of the image's side.
        scaling: Minimum and maximum zoom factor, drawn log-uniformly.
        shear: Maximum shear along x in either direction, in degrees.
        fill: Value in [0, 1] of pixels that an affine map samples outside the image.
        jitter: Probability of the colour jitter (brightness, contrast, saturation, hue together).
        jitter_strength: Factor on the ranges of brightness, contrast, saturation and hue (the
            paper's s). CIFAR uses 0.5.
        brightness: Range of the brightness change at strength 1.
        contrast: Range of the contrast change at strength 1.
        saturation: Range of the saturation change at strength 1; skipped unless there are 3
            channels.
        hue: Range of the hue rotation at strength 1, as a fraction of the colour circle; skipped
            unless there are 3 channels.
        brightness_mode: "multiplicative" (SimCLRv2 code, torchvision) or "additive" (paper, v1).
        color_mode: "pillow" (Pillow, torchvision: contrast blends with the mean of the grey image,
            saturation with the grey image) or "tf" (tf.image, as in the SimCLR code: contrast
            blends with the mean of each channel, saturation is scaled in HSV).
        grayscale: Probability of converting to grey; skipped unless there are 3 channels.
        blur: Probability of a Gaussian blur.
        blur_sigma: Minimum and maximum standard deviation of the blur in pixels, drawn per view.
        blur_kernel: Side of the blur kernel as a fraction of the view's side.
        solarize: Probability of inverting the values at or above solarize_threshold.
        solarize_threshold: Minimum value, in [0, 1], that solarize inverts.
    """

    crop: tuple[float, ...] = (1.0,)
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    antialias: bool = True
    dct_scaling: bool = True
    horizontal_flip: tuple[float, ...] = (0.5,)
    vertical_flip: tuple[float, ...] = (0.0,)
    affine: tuple[float, ...] = (0.0,)
    rotation: float = 0.0
    translation: float = 0.0
    scaling: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    fill: float = 0.0
    jitter: tuple[float, ...] = (0.8,)
    jitter_strength: float = 1.0
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    brightness_mode: Literal["multiplicative", "additive"] = "multiplicative"
    color_mode: Literal["pillow", "tf"] = "pillow"
    grayscale: tuple[float, ...] = (0.2,)
    blur: tuple[float, ...] = (0.5,)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: float = 0.1
    solarize: tuple[float, ...] = (0.0,)
    solarize_threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_intervals()
        self._check_numbers()
        self._check_hue()
        self._check_affine()

    def _check_intervals(self) -> None:
        for name in ("crop_area", "crop_ratio", "scaling", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high < math.inf:
                raise UserError(
                    f"augment.{name} is ({low}, {high}); give 0 < smallest <= largest, both finite"
                )
        if self.crop_area[1] > 1.0:
            raise UserError(f"augment.crop_area ends at {self.crop_area[1]}; a crop is at most 1.0")

    def _check_numbers(self) -> None:
        for name in ("brightness", "contrast", "saturation", "jitter_strength", "blur_kernel"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"augment.{name} is {getattr(self, name)}; give 0 or more, finite")
        for name, limit in (("rotation", math.inf), ("translation", math.inf), ("shear", 90.0)):
            if not abs(getattr(self, name)) < limit:
                raise UserError(
                    f"augment.{name} is {getattr(self, name)}; give a number between "
                    f"-{limit:g} and {limit:g}"
                )
        for name in ("fill", "solarize_threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"augment.{name} is {getattr(self, name)}; give 0 to 1")

    def _check_hue(self) -> None:
        if not 0.0 <= self.hue * self.jitter_strength <= 0.5:
            raise UserError(
                f"augment.hue {self.hue} at strength {self.jitter_strength} turns the colour "
                "circle by more than half; keep their product within [0, 0.5]"
            )

    def _check_affine(self) -> None:
        for name, neutral in NEUTRAL_AFFINE.items():
            if getattr(self, name) != neutral and not self.uses("affine"):
                raise UserError(
                    f"augment.{name} is {getattr(self, name)}, but no view undergoes an affine "
                    "map; set augment.affine, e.g. --augment.affine 1.0, or leave "
                    f"augment.{name} at {neutral}"
                )

    @property
    def per_view(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return PROBABILITIES


# Operations on values; the others move pixels. Fine-tuning omits them.
COLOR_OPERATIONS = ("jitter", "grayscale", "blur", "solarize")
PROBABILITIES = (
    *("crop", "horizontal_flip", "vertical_flip", "affine"),
    *COLOR_OPERATIONS,
)
NEUTRAL_AFFINE = {"rotation": 0.0, "translation": 0.0, "scaling": (1.0, 1.0), "shear": 0.0}


def sample(
    key: jax.Array, policy: ImagePolicy, view: jax.Array | int = 0, first: int = 0
) -> Parameters:
    """Draws the augmentation parameters of one view of one example.

    The parameters do not depend on the image's size. An operation that is off in this draw gets
    neutral parameters (a factor 1, an angle 0), so that applying it needs no branch.

    Args:
        key: uint32 [2], key of the example (``cssl_jax.data.sampler.example_key``).
        policy: Policy to draw from.
        view: Number of the view within its group, from 0; traced or concrete. It selects the
            probability in a policy with one probability per view.
        first: Number of the group's first view among all views of the example. The random numbers
            are those of view ``first + view``.

    Returns:
        Scalars and short vectors by name, for ``batched.apply``: crop, horizontal_flip,
        vertical_flip, grayscale, solarize (bool); crop_area [10] and crop_log_ratio [10]
        (candidates, of which the first that fits is used); crop_y, crop_x in [0, 1); rotation and
        shear (radians); translation [2] (y, x; fraction of the side); scaling (factor); brightness,
        contrast and saturation (factors), brightness_shift; hue (fraction of the colour circle);
        order [4] (int32, numbers of the four jitter operations); blur_sigma (pixels; 0: no blur).
    """
    chex.assert_shape(key, (2,))
    view_key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), first + view)
    drawn = jax.random.uniform(view_key, (len(_SLOTS),), float)
    uniform: dict[str, jax.Array] = dict(zip(_SLOTS, drawn, strict=True))

    def happens(name: str) -> jax.Array:
        values = jnp.asarray(getattr(policy, name))
        return uniform[name] < values[view if len(getattr(policy, name)) > 1 else 0]

    def between(slot: str, low: float, high: float) -> jax.Array:
        return low + uniform[slot] * (high - low)

    affine, jitter = happens("affine"), happens("jitter")
    log_ratio = (math.log(policy.crop_ratio[0]), math.log(policy.crop_ratio[1]))
    log_scaling = (math.log(policy.scaling[0]), math.log(policy.scaling[1]))
    degrees = math.pi / 180

    def factor(slot: str, strength: float) -> jax.Array:
        reach = strength * policy.jitter_strength
        return jnp.where(jitter, between(slot, max(0.0, 1.0 - reach), 1.0 + reach), 1.0)

    shift = policy.brightness * policy.jitter_strength
    additive = policy.brightness_mode == "additive"
    hue = policy.hue * policy.jitter_strength
    order = jnp.floor(uniform["order"] * len(JITTER_ORDERS)).astype(jnp.int32)
    candidates = range(CROP_ATTEMPTS)
    return {
        "crop": happens("crop"),
        "crop_area": jnp.stack([between(f"area{i}", *policy.crop_area) for i in candidates]),
        "crop_log_ratio": jnp.stack([between(f"ratio{i}", *log_ratio) for i in candidates]),
        "crop_y": uniform["crop_y"],
        "crop_x": uniform["crop_x"],
        "horizontal_flip": happens("horizontal_flip"),
        "vertical_flip": happens("vertical_flip"),
        "rotation": affine * between("rotation", -policy.rotation, policy.rotation) * degrees,
        "translation": affine
        * jnp.stack(
            [
                between("translation_y", -policy.translation, policy.translation),
                between("translation_x", -policy.translation, policy.translation),
            ]
        ),
        "scaling": jnp.exp(affine * between("scaling", *log_scaling)),
        "shear": affine * between("shear", -policy.shear, policy.shear) * degrees,
        "order": jnp.asarray(JITTER_ORDERS)[order],
        "brightness": jnp.ones(()) if additive else factor("brightness", policy.brightness),
        "brightness_shift": jitter * between("brightness", -shift, shift) * additive,
        "contrast": factor("contrast", policy.contrast),
        "saturation": factor("saturation", policy.saturation),
        "hue": jitter * between("hue", -hue, hue),
        "grayscale": happens("grayscale"),
        "blur_sigma": happens("blur") * between("blur_sigma", *policy.blur_sigma),
        "solarize": happens("solarize"),
    }


def sample_views(keys: jax.Array, policy: ImagePolicy, views: int, first: int = 0) -> Parameters:
    """Draws the parameters of every view of one group, for every example.

    Args:
        keys: uint32 [n, 2], keys of the examples.
        policy: Policy to draw from.
        views: Number of views per example in the group.
        first: Number of the group's first view among all views of an example.

    Returns:
        Parameters as in ``sample``, leaves [n, views, ...].

    Example:
        >>> keys = jax.random.bits(jax.random.key(0), (4, 2), "uint32")  # four examples
        >>> drawn = sample_views(keys, ImagePolicy(), views=2)
        >>> {leaf.shape[:2] for leaf in drawn.values()}
        {(4, 2)}
    """
    return sample_each_view(lambda key, view: sample(key, policy, view, first), keys, views)
