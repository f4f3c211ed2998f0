"""A source format outside the package: the images of a .zip file, without labels."""

import dataclasses
import io
import zipfile

import numpy as np
import PIL.Image

from cssl_jax.data.formats.registry import FormatEntry


@dataclasses.dataclass(frozen=True)
class ZipRecords:
    """Images of a .zip file."""

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self, index):
        """Reads one encoded image."""
        with zipfile.ZipFile(self.name) as archive:
            return archive.read(self.names[index])


def open_zip(path, options):
    """Opens a .zip file."""
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
    return ZipRecords(path, tuple(x.filename for x in found), tuple(f"{x.CRC:x}" for x in found))


def write_zip(path, count=3):
    """Writes a .zip file of random grayscale images; returns them, uint8 [count, 8, 8]."""
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            content = io.BytesIO()
            PIL.Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"{number}.png", content.getvalue())
    return images


FORMAT = FormatEntry(
    open=open_zip,
    description="a .zip file",
    scheme="zip",
    suffixes=(".zip",),
    recognises=lambda folder: (folder / "all.zip").is_file(),
    open_folder=lambda folder, options: open_zip(f"{folder}/all.zip", options),
)
