"""Images: square views of one size, normalised per channel."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssl_jax.augment.base import Parameters
from cssl_jax.augment.image import batched, geometry
from cssl_jax.augment.image.policy import COLOR_OPERATIONS, ImagePolicy, sample_views
from cssl_jax.augment.view_group import CROP_BOX, SizedGroup
from cssl_jax.config.data import ImageData
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.data.sources.base import Examples, Images
from cssl_jax.data.sources.open import is_array_source, load_source
from cssl_jax.errors import UserError
from cssl_jax.modalities import image_files
from cssl_jax.modalities.base import EXACT_SIDE, SHOWN_SIDE, Baseline, Modality
from cssl_jax.modalities.pixels import pixel_sides, pixels


def checked_images(images: Any, spec: ImageSpec) -> Examples:
    """{"image": uint8 [N, H, W, C]} of what a user passes to an encoder.

    Raises:
        UserError: The images have the wrong dtype, shape or order of axes.
    """
    try:
        images = np.asarray(images)
    except ValueError as error:  # NumPy raises it for a list of images of different sizes
        raise UserError(
            "the images have several sizes; give one array uint8 [N, H, W, C], one image at a "
            "time as image[None], or a folder of images to .embed(path)"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, C] in [0, 255]"
        )
    if images.shape[3] != spec.channels == images.shape[1]:
        raise UserError(
            f"images have shape {images.shape}, with the {images.shape[1]} channel(s) before "
            "height and width; give numpy.transpose(images, (0, 2, 3, 1))"
        )
    return {"image": images}


def input_spec(data: ImageData, train: Images) -> ImageSpec:
    """Size and normalisation of the encoder's input, from the config or the training split.

    Raises:
        UserError: There is not one statistic per channel, or images of several sizes have no
            data.size.
    """
    size = data.size or _common_height(train)
    if data.mean:
        mean, std = data.mean, data.std
        if not len(mean) == len(std) == train.channels:
            raise UserError(
                f"data.mean and data.std have {len(mean)} and {len(std)} values, the images "
                f"{train.channels} channels; give one value per channel"
            )
    elif data.normalize == "dataset":
        mean, std = train.statistics()
    else:
        mean, std = (0.0,) * train.channels, (1.0,) * train.channels
    return ImageSpec(size=size, channels=train.channels, mean=mean, std=std)


def _common_height(source: Images) -> int:
    heights = source.sizes[:, 0]
    if heights.min() != heights.max():
        raise UserError(
            f"data.size is 0 and the heights of the images range from {heights.min()} to "
            f"{heights.max()} px; give the side of a view, e.g. --data.size 128"
        )
    return int(heights[0])


def layout(source: Images) -> str:
    """Sides of the raw-pixel baseline, and channels."""
    return f"images of {pixel_sides(source)} px for pixel features and {source.channels} channel(s)"


def misfit(source: Images, spec: ImageSpec) -> str:
    """Reason why an encoder cannot take the images: their number of channels."""
    if source.channels == spec.channels:
        return ""
    return f"images have {source.channels} channels; this encoder takes {spec.channels}"


def apply_views(
    examples: Examples, drawn: Parameters, group: SizedGroup, spec: ImageSpec
) -> jax.Array:
    """Normalised views, float [n, k, size, size, C]."""
    views = batched.apply_views(examples["image"], drawn, policy=group.policy, size=group.size)
    return batched.normalize(views, spec.mean, spec.std)


def view_examples(examples: Examples, drawn: Parameters, group: SizedGroup) -> Examples:
    """Views as images, {"image": uint8 [n, k, size, size, C]}."""
    views = batched.apply_views(examples["image"], drawn, policy=group.policy, size=group.size)
    return {"image": (views * 255 + 0.5).astype(np.uint8)}  # + 0.5 rounds: the cast truncates


def kept(examples: Examples, drawn: Parameters, group: SizedGroup) -> Parameters:
    """Sampled parameters, and the crop box as fractions of the image's height and width."""
    if CROP_BOX not in group.keep:
        return drawn
    height, width = examples["image"].shape[1:3]
    box = jnp.stack(geometry.crop_box(drawn, height, width, policy=group.policy), -1)
    return {**drawn, CROP_BOX: geometry.box_fractions(box, height, width)}


def prepare(examples: Examples, spec: ImageSpec) -> jax.Array:
    """Test-time preprocessing: crops a centre square, resizes and normalises it.

    Squares of side ``spec.size`` are only normalised, squares of side ``spec.resized`` are cropped
    without resizing. Of other images the square of ``spec.crop_fraction`` is resized.

    Args:
        examples: Images, {"image": uint8 [n, H, W, C]}.
        spec: Size and normalisation of the encoder's input.

    Returns:
        Normalised images, float [n, size, size, C].
    """
    x, size = batched.to_float(examples["image"]), spec.size
    height, width = x.shape[1:3]
    if (height, width) == (spec.resized, spec.resized):
        start = (spec.resized - size) // 2
        x = x[:, start : start + size, start : start + size]
    elif (height, width) != (size, size):
        side = round(min(height, width) * spec.crop_fraction)
        box = ((height - side) // 2, (width - side) // 2, side, side)
        boxes = tuple(jnp.full(len(x), value) for value in box)
        x = geometry.crop_and_resize(x, boxes, size, spec.interpolation)
    return batched.normalize(x, spec.mean, spec.std)


def zeros(spec: ImageSpec, size: int, n: int, k: int) -> np.ndarray:
    """Views of zeros, float32 [n, k, size, size, C]."""
    return np.zeros((n, k, size, size, spec.channels), np.float32)


def show(source: Images) -> tuple[int, Any]:
    """Images of a source for a report.

    If no image is larger than 32 px, the images keep their pixels and the side is the largest one.
    Otherwise encoded images become their centre square of 48 px.

    Returns:
        (side of a thumbnail in pixels, iterator over the images, uint8 [h, w, C] each).
    """
    largest = source.sizes.max()
    side = int(largest) if largest <= EXACT_SIDE else SHOWN_SIDE
    return side, (image for block in source.blocks(256, side) for image in block["image"])


def check(data: ImageData, policy: ImagePolicy) -> None:
    """Refuses statistics that cannot normalise an image.

    Raises:
        UserError: Only one of data.mean and data.std is given, or a number is not finite.
    """
    mean, std = data.mean, data.std
    finite = all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std)
    if bool(mean) != bool(std) or not finite:
        raise UserError(
            f"data.mean is {mean} and data.std {std}; give data.mean and data.std together, every "
            "number finite and every standard deviation positive"
        )


def supervised(spec: ImageSpec) -> dict[str, Any]:
    """The same size and statistics, and the run's policy without colour operations."""
    return {
        "data.size": spec.size,
        "data.mean": spec.mean,
        "data.std": spec.std,
        **{f"augment.{name}": (0.0,) for name in COLOR_OPERATIONS},
    }


IMAGE = Modality(
    noun="images",
    one="image",
    data=ImageData,
    augment=ImagePolicy,
    spec=ImageSpec,
    open=load_source,
    examples=checked_images,
    input_spec=input_spec,
    layout=layout,
    misfit=misfit,
    sample_views=sample_views,
    apply_views=apply_views,
    view_examples=view_examples,
    prepare=prepare,
    zeros=zeros,
    baselines={"pixels": Baseline(label="raw pixels", features=pixels)},
    show=show,
    kept=kept,
    check=check,
    supervised=supervised,
    reduced=image_files.reduced,
    write=image_files.write,
    examine=image_files.examine,
    divide=image_files.divide,
    encoded=lambda data: not is_array_source(data.source),
    assumed=image_files.assumed,
    images=True,
)
