"""How images were prepared for weights: read from the files beside them, or assumed."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from cssl_jax.errors import UserError

# Values that torchvision and timm state for their ImageNet weights.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Statistics of the CIFAR-10 training set, as solo-learn and lightly state them.
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
_PILLOW = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling, as Hugging Face stores it
KEY = "cssl_jax"  # key of the JSON text in the metadata of a safetensors file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preparation of an image for an encoder.

    Attributes:
        size: Side of the encoder's input in pixels.
        mean: Mean per channel on [0, 1].
        std: Standard deviation per channel on [0, 1].
        interpolation: Kernel of the resizing, "bilinear" or "bicubic".
        crop_fraction: Side of the centre crop as a fraction of the image's shorter side.
        origin: Where the values are from.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_fraction: float = 1.0
    origin: str = ""

    def changed(self, **values: Any) -> "Preprocessing":
        """The preparation with other values of some fields.

        Raises:
            UserError: The values cannot be right.
        """
        values = {**dataclasses.asdict(self), **values, "origin": "given"}
        try:
            return _checked(*(values[field.name] for field in dataclasses.fields(self)))
        except ValueError as error:
            raise UserError(f"the preprocessing is wrong: {error}") from error


def assumed(stem: str, channels: int) -> Preprocessing:
    """The usual preparation for a ResNet of this stem, for files that state none."""
    if channels != 3:
        return Preprocessing(
            size=224 if stem == "imagenet" else 32,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            origin=f"assumed, as for {channels} channels nothing is usual",
        )
    if stem == "imagenet":
        mean, std = _IMAGENET
        return Preprocessing(
            size=224, mean=mean, std=std, crop_fraction=0.875, origin="assumed: torchvision's"
        )
    mean, std = _CIFAR
    return Preprocessing(size=32, mean=mean, std=std, origin="assumed: CIFAR-10's")


def of_simclr(stem: str, channels: int) -> Preprocessing:
    """The preparation of SimCLR's code: pixels on [0, 1], without mean and deviation.

    Source: ``preprocess_for_eval`` in ``data_util.py``; images of the CIFAR stem are not cropped.
    """
    is_large = stem == "imagenet"
    return Preprocessing(
        size=224 if is_large else 32,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        interpolation="bicubic",
        crop_fraction=0.875 if is_large else 1.0,
        origin="SimCLR's: pixels on [0, 1]",
    )


def stored_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object that ``cssl-jax export`` stored in a safetensors file; {} without one.

    Raises:
        UserError: It is damaged.
    """
    try:
        content = json.loads(metadata.get(KEY, "{}"))
        parts = [content.get(name, {}) for name in ("data", "input", "model")]
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"the metadata {KEY!r} of the file is damaged: {error!r}") from error
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"the metadata {KEY!r} of the file is damaged: a part is no object")
    found: dict[str, Any] = content
    return found


def from_metadata(metadata: Mapping[str, str]) -> Preprocessing | None:
    """The preparation that ``cssl-jax export`` stored in a safetensors file; None without one."""
    if KEY not in metadata:
        return None
    try:
        content = json.loads(metadata[KEY])["input"]
        return _checked(
            content["size"],
            content["mean"],
            content["std"],
            content.get("interpolation", "bilinear"),
            content.get("crop_fraction", 1.0),
            "stored in the file",
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"the metadata {KEY!r} of the file is damaged: {error!r}") from error


def from_folder(folder: pathlib.Path) -> Preprocessing | None:
    """The preparation that timm's config.json or Hugging Face's preprocessor_config.json state."""
    for name, convert in (
        ("preprocessor_config.json", _from_huggingface),
        ("config.json", _from_timm),
    ):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text())
            found = convert(content, name) if isinstance(content, dict) else None
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: {error!r}; correct or remove it") from error
        if found is not None:
            return found
    return None


def _from_timm(content: dict[str, Any], origin: str) -> Preprocessing | None:
    config = content.get("pretrained_cfg", content)
    if "mean" not in config or "input_size" not in config:
        return None
    return _checked(
        config["input_size"][-1],
        config["mean"],
        config["std"],
        config.get("interpolation", "bicubic"),
        config.get("crop_pct") or 1.0,
        origin,
    )


def _from_huggingface(content: dict[str, Any], origin: str) -> Preprocessing | None:
    if "image_mean" not in content:
        return None
    size, crop = _side(content["size"]), 1.0
    kernel = _PILLOW.get(content.get("resample", 2), "bilinear")
    named = str(content.get("image_processor_type", content.get("feature_extractor_type", "")))
    if "ConvNext" in named or "crop_pct" in content:
        # ResNets use it; below 384 px it crops from size / crop_pct.
        crop = content.get("crop_pct") or (0.875 if size < 384 else 1.0)
    elif content.get("do_center_crop"):
        size, resized = _side(content["crop_size"]), size
        crop = size / resized
    return _checked(size, content["image_mean"], content["image_std"], kernel, crop, origin)


def _side(size: Any) -> Any:
    """Side in pixels from any form of a size; ViTs' processors state height and width."""
    return size.get("shortest_edge") or size["height"] if isinstance(size, dict) else size


def _checked(
    size: Any, mean: Any, std: Any, interpolation: Any, fraction: Any, origin: str
) -> Preprocessing:
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation {interpolation!r} is not bilinear or bicubic")
    if not (type(size) is int and 0 < size < 2**14 and 0 < float(fraction) <= 1):
        raise ValueError(f"size {size!r} or crop fraction {fraction!r} cannot be right")
    means, stds = (tuple(map(float, values)) for values in (mean, std))
    if len(means) != len(stds) or not all(s > 0 for s in stds):
        raise ValueError("mean and standard deviation do not fit each other")
    return Preprocessing(
        size=size,
        mean=means,
        std=stds,
        interpolation=interpolation,
        crop_fraction=float(fraction),
        origin=origin,
    )
