"""The registry of formats: a new format is one entry, found by scheme, suffix and content."""

import dataclasses
import io
import zipfile

import numpy as np
import PIL.Image
import pytest

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.registry import FORMATS, FormatEntry, format_entries
from cssl_jax.data.sources.open import absolute_spec, load_source, open_records
from cssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ZipRecords:
    """Images of a .zip file, without labels."""

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def read(self, index):
        with zipfile.ZipFile(self.name) as archive:
            return archive.read(self.names[index])


def open_zip(path, options):
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
    return ZipRecords(path, tuple(x.filename for x in found), tuple(f"{x.CRC:x}" for x in found))


def write_zip(path, count=3):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            content = io.BytesIO()
            PIL.Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"{number}.png", content.getvalue())
    return images


@pytest.fixture
def zip_format():
    entry = FormatEntry(
        open=open_zip,
        description="a .zip file",
        scheme="zip",
        suffixes=(".zip",),
        recognises=lambda folder: (folder / "all.zip").is_file(),
        open_folder=lambda folder, options: open_zip(f"{folder}/all.zip", options),
    )
    before = dict(FORMATS)
    FORMATS.clear()
    FORMATS.update({"zip": entry, **before})
    yield
    FORMATS.clear()
    FORMATS.update(before)


def test_a_new_format_is_found_by_suffix_scheme_and_content(zip_format, tmp_path, monkeypatch):
    images = write_zip(tmp_path / "all.zip")
    options = ImageOptions(channels=1, min_side=1)
    monkeypatch.chdir(tmp_path)
    for spec in (str(tmp_path / "all.zip"), absolute_spec("zip:all.zip"), str(tmp_path)):
        source = load_source(spec, options)
        assert len(source) == 3
        np.testing.assert_array_equal(source.image(1)[..., 0], images[1])
    with pytest.raises(UserError, match=r"give 'digits', .* a \.zip file, .* or a fold"):
        open_records(tmp_path / "none", options)


def test_every_format_but_the_last_recognises_only_its_own_folders(tmp_path):
    *others, folder = format_entries()
    assert not any(entry.recognises(tmp_path) for entry in others)
    assert folder.recognises(tmp_path)
