"""What a view must look like, one image at a time: Pillow, SciPy, colorsys and float64 loops."""

import colorsys
import math

import numpy as np
import PIL.Image
import scipy.ndimage

from cssl_jax.augment.image.policy import ImagePolicy

# The house's bound between any two placements and any oracle, borders included. Rounding to uint8
# alone is 0.5 / 255 at most and 0.25 / 255 on average.
LARGEST, MEAN = 2 / 255, 0.3 / 255

LUMA = np.array([0.299, 0.587, 0.114])


def assert_agree(views, expected, largest=LARGEST, mean=MEAN):
    """On the scale [0, 1]; uint8 is brought to it."""
    views = np.asarray(views)
    difference = np.abs((views / 255 if views.dtype == np.uint8 else views) - np.stack(expected))
    assert difference.max() <= largest
    assert difference.mean() <= mean


def only(**changes):
    """A policy with every operation off but those named."""
    off = {"crop": (0.0,), "horizontal_flip": (0.0,), "jitter": (0.0,)}
    return ImagePolicy(**{**off, "grayscale": (0.0,), "blur": (0.0,), **changes})


# Each operation for itself, always on, with ranges that reach far; and everything together.
POLICIES = {
    "crop bilinear": only(crop=(1.0,), interpolation="bilinear"),
    "crop bicubic": only(crop=(1.0,)),
    "crop bilinear, plain": only(crop=(1.0,), interpolation="bilinear", antialias=False),
    "crop bicubic, plain": only(crop=(1.0,), antialias=False),
    "horizontal flip": only(horizontal_flip=(1.0,)),
    "vertical flip": only(vertical_flip=(1.0,)),
    "affine": only(
        affine=(1.0,), rotation=180.0, translation=0.3, scaling=(0.5, 2.0), shear=40.0, fill=0.4
    ),
    "brightness": only(jitter=(1.0,), contrast=0.0, saturation=0.0, hue=0.0),
    "brightness added": only(
        jitter=(1.0,), contrast=0.0, saturation=0.0, hue=0.0, brightness_mode="additive"
    ),
    "contrast": only(jitter=(1.0,), brightness=0.0, saturation=0.0, hue=0.0),
    "saturation": only(jitter=(1.0,), brightness=0.0, contrast=0.0, hue=0.0),
    "hue": only(jitter=(1.0,), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.5),
    "grayscale": only(grayscale=(1.0,)),
    "blur": only(blur=(1.0,), blur_kernel=0.3),
    "solarize": only(solarize=(1.0,)),
    "everything": ImagePolicy(
        crop=(0.8,),
        affine=(0.5,),
        rotation=30.0,
        translation=0.1,
        scaling=(0.8, 1.25),
        shear=10.0,
        vertical_flip=(0.3,),
        blur_kernel=0.25,
        blur=(0.9, 0.1),
        solarize=(0.0, 0.4),
    ),
}


def noise(n, height, width, channels, seed=0):
    """uint8 white noise: the hardest image for interpolation and for borders."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def view(image, drawn, policy, size):
    """Float64 [size, size, C]: one view of uint8 [H, W, C], as the policy's documentation says."""
    color = image.shape[-1] == 3
    x = image / 255
    if policy.uses("crop") or image.shape[:2] != (size, size):
        x = crop_and_resize(x, crop_box(drawn, *image.shape[:2], policy), size, policy)
    if drawn["horizontal_flip"]:
        x = np.fliplr(x)
    if drawn["vertical_flip"]:
        x = np.flipud(x)
    x = affine(x, drawn, policy.fill)
    for operation in drawn["order"] if policy.uses("jitter") else ():
        x = jitter(x, operation, drawn)
    if drawn["grayscale"] and color:
        x = np.repeat((x @ LUMA)[..., None], 3, -1)
    if drawn["blur_sigma"] > 0:
        x = blur(x, float(drawn["blur_sigma"]), max(1, int(policy.blur_kernel * size) // 2))
    if drawn["solarize"]:
        x = np.where(x >= policy.solarize_threshold, 1 - x, x)
    return x


def crop_box(drawn, height, width, policy):
    """(top, left, height, width) by the steps of torchvision's ``RandomResizedCrop.get_params``."""
    if not drawn["crop"]:
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side
    for share, log_ratio in zip(drawn["crop_area"], drawn["crop_log_ratio"], strict=True):
        area, ratio = float(share) * height * width, math.exp(log_ratio)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = math.floor(float(drawn["crop_y"]) * (height - h + 1))
            left = math.floor(float(drawn["crop_x"]) * (width - w + 1))
            return top, left, h, w
    if width / height < policy.crop_ratio[0]:
        w, h = width, round(width / policy.crop_ratio[0])
    elif width / height > policy.crop_ratio[1]:
        w, h = round(height * policy.crop_ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def interpolate(line, size, kind):
    """Plain interpolation of numbers a pixel apart; cubic as Keys (1981) with a = -1/2."""
    points = []
    for i in range(size):
        at = (i + 0.5) * len(line) / size - 0.5
        total, weights = 0.0, 0.0
        for k, value in enumerate(line):
            t = abs(k - at)
            if kind == "bilinear":
                weight = max(0.0, 1 - t)
            elif t < 1:
                weight = 3 / 2 * t**3 - 5 / 2 * t**2 + 1
            else:
                weight = -1 / 2 * t**3 + 5 / 2 * t**2 - 4 * t + 2 if t < 2 else 0.0
            total, weights = total + weight * value, weights + weight
        points.append(total / weights)
    return np.array(points)


def crop_and_resize(x, box, size, policy):
    """Pillow's crop, then resize, in its float mode: its 8-bit mode rounds and clips in between."""
    top, left, height, width = box
    if not policy.antialias:  # which Pillow's resize always does
        cut = x[top : top + height, left : left + width].astype(float)
        lines = interpolate(cut, size, policy.interpolation)
        lines = interpolate(lines.swapaxes(0, 1), size, policy.interpolation).swapaxes(0, 1)
        return np.clip(lines, 0, 1)
    kernel = {"bilinear": PIL.Image.BILINEAR, "bicubic": PIL.Image.BICUBIC}[policy.interpolation]
    channels = []
    for channel in np.moveaxis(x, -1, 0):
        cut = PIL.Image.fromarray(channel.astype(np.float32)).crop(
            (left, top, left + width, top + height)
        )
        channels.append(np.asarray(cut.resize((size, size), kernel, reducing_gap=None)))
    return np.clip(np.stack(channels, -1).astype(float), 0, 1)


def affine(x, drawn, fill):
    """Shear along x, zoom, turn counter-clockwise, shift: on the plane, then SciPy's inverse map.

    Points are complex numbers about the centre, x to the right and y *up*.
    """
    size = x.shape[0]
    down, right = np.asarray(drawn["translation"], float)

    def forward(point):
        sheared = complex(point.real - math.tan(drawn["shear"]) * point.imag, point.imag)
        turned = float(drawn["scaling"]) * sheared * np.exp(1j * float(drawn["rotation"]))
        return turned + size * complex(right, -down)

    origin = forward(0j)
    # Columns: where a step of one pixel down, and one to the right, goes, as (row, column).
    steps = [forward(-1j) - origin, forward(1 + 0j) - origin]
    matrix = np.linalg.inv(np.array([[-s.imag for s in steps], [s.real for s in steps]]))
    centre = np.full(2, (size - 1) / 2)
    offset = centre - matrix @ (centre + np.array([-origin.imag, origin.real]))
    channels = [
        scipy.ndimage.affine_transform(c, matrix, offset, order=1, mode="grid-constant", cval=fill)
        for c in np.moveaxis(x, -1, 0)
    ]
    return np.stack(channels, -1)


def jitter(x, operation, drawn):
    """One of brightness, contrast, saturation and hue (0 to 3), clipped."""
    color = x.shape[-1] == 3
    brightness, contrast, saturation, hue = (
        float(drawn[name]) for name in ("brightness", "contrast", "saturation", "hue")
    )
    if operation == 0:
        x = brightness * x + float(drawn["brightness_shift"])
    elif operation == 1:
        x = contrast * x + (1 - contrast) * np.mean(x @ LUMA if color else x)
    elif operation == 2 and color:
        x = saturation * x + (1 - saturation) * (x @ LUMA)[..., None]
    elif operation == 3 and color:
        x = np.apply_along_axis(_turn_hue, -1, x, hue)
    return np.clip(x, 0, 1)


def _turn_hue(rgb, turn):
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    return colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)


def blur(x, sigma, radius):
    """SciPy's correlation with float64 Gaussian taps, mirrored without repeating the border."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in (0, 1):
        x = scipy.ndimage.correlate1d(x, taps / taps.sum(), axis=axis, mode="mirror")
    return x
