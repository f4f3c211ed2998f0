"""SimCLR's policy as one writes it for speed: OpenCV on bytes, a few threads, eight photos a task.

Sums stay in 8 bits, whose rounding adds up, and reductions are by area, which is no bilinear
kernel: another policy to some grey levels, and faster than what the package promises.
"""

import collections
import math
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import simplejpeg

from input.contenders import VIEWS

TOGETHER, AHEAD = 8, 3  # photos a task; batches made ahead
LEVELS = np.arange(256, dtype=np.float32)


def batches(
    files: list[str], policy: dict, size: int, examples: int, *, threads: int, whole: bool
) -> Iterator[np.ndarray]:
    """Yields uint8 [examples, 2, size, size, 3] without end; ``whole`` applies the whole policy."""
    cv2.setNumThreads(0)
    antialias = policy.get("antialias", True)

    def fill(numbers: range, out: np.ndarray) -> None:
        for number, views in zip(numbers, out, strict=True):
            draw = np.random.default_rng(number)
            path = pathlib.Path(files[draw.integers(len(files))])
            image = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
            for view in views:
                x = _cut(image, size, draw, antialias)
                view[...] = _finish(x, draw) if whole else x

    pending: collections.deque = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        start = 0
        while True:
            out = np.empty((examples, VIEWS, size, size, 3), np.uint8)
            tasks = [
                pool.submit(fill, range(start + i, start + min(i + TOGETHER, examples)),
                            out[i : i + TOGETHER])
                for i in range(0, examples, TOGETHER)
            ]  # fmt: skip
            start += examples
            pending.append((out, tasks))
            if len(pending) > AHEAD:
                made, tasks = pending.popleft()
                for task in tasks:
                    task.result()
                yield made


def _cut(image: np.ndarray, size: int, draw: np.random.Generator, antialias: bool) -> np.ndarray:
    height, width, _ = image.shape
    for _ in range(10):
        area = draw.uniform(0.08, 1.0) * height * width
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            break
    else:
        w = h = min(height, width)
    top, left = draw.integers(height - h + 1), draw.integers(width - w + 1)
    cut = image[top : top + h, left : left + w]
    shrinks = antialias and max(h, w) > size
    kernel = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(cut, (size, size), interpolation=kernel)


def _finish(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    if draw.random() < 0.5:
        x = cv2.flip(x, 1)
    if draw.random() < 0.8:
        for turn in draw.permutation(4):
            x = JITTER[turn](x, draw)
    if draw.random() < 0.2:
        x = cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if draw.random() < 0.5:
        sigma = draw.uniform(0.1, 2.0)
        side = 2 * min(11, max(1, math.ceil(3 * sigma))) + 1
        x = cv2.GaussianBlur(x, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    return x


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _brightness(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return cv2.LUT(x, _table(LEVELS * draw.uniform(0.2, 1.8)))


def _contrast(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    factor = draw.uniform(0.2, 1.8)
    mean = np.dot(cv2.mean(x)[:3], (0.299, 0.587, 0.114))
    return cv2.LUT(x, _table(factor * LEVELS + (1 - factor) * mean))


def _saturation(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    factor = draw.uniform(0.2, 1.8)
    grey = cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(x, factor, grey, 1 - factor, 0)


def _hue(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * draw.uniform(-0.2, 0.2)) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


JITTER = (_brightness, _contrast, _saturation, _hue)
