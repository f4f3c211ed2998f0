"""The photos that the input is measured with: 500 x 375 JPEGs of quality 90."""

import io
import pathlib
import tarfile
from collections.abc import Iterator

import numpy as np
import PIL.Image

SIZE, QUALITY = (500, 375), 90  # width and height
ABSENT = "scikit-learn's two sample photos, in random crops; no --photos"


def make(
    folder: pathlib.Path,
    source: pathlib.Path | None,
    count: int,
    size: tuple[int, int] = SIZE,
) -> str:
    """Writes ``count`` JPEGs of a width and height; describes what they were made from."""
    photos = _from_tar(source) if source else _samples()
    for number in range(count):
        try:
            photo = next(photos)
        except StopIteration:
            raise SystemExit(f"{source} has {number} photos; give --count {number}") from None
        resized = photo.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)
        resized.save(folder / f"{number:05}.jpg", quality=QUALITY)
    return source.name if source else ABSENT


def _from_tar(path: pathlib.Path) -> Iterator[PIL.Image.Image]:
    """Every image below a folder "train"; all others where there is none."""
    with tarfile.open(path) as archive:
        members = [m for m in archive if m.isfile() and m.name.lower().endswith((".jpg", ".jpeg"))]
        for member in [m for m in members if "/train/" in m.name] or members:
            yield PIL.Image.open(io.BytesIO(archive.extractfile(member).read()))


def _samples() -> Iterator[PIL.Image.Image]:
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    images = [PIL.Image.fromarray(image) for image in load_sample_images().images]
    while True:
        image = images[rng.integers(len(images))]
        height = int(rng.integers(240, image.height + 1))
        width = min(height * 4 // 3, image.width)
        left = int(rng.integers(image.width - width + 1))
        top = int(rng.integers(image.height - height + 1))
        yield image.crop((left, top, left + width, top + height))
