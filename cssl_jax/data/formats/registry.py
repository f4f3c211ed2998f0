"""Formats of encoded images by name; a new one is a file in this package and a line here."""

import dataclasses
import pathlib
from collections.abc import Callable

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.base import Records
from cssl_jax.errors import UserError
from cssl_jax.registries import absolute_name, is_file_name, look_up, split_place

Opener = Callable[[str, ImageOptions], Records]


def check_local(spec: str) -> None:
    """Raises UserError if a source is on another machine."""
    if "://" in spec:
        raise UserError(f"{spec} is not on this machine; copy it here, or mount it")


def absolute_path(path: str) -> str:
    """The absolute form of a path, with "~" expanded.

    Raises:
        UserError: The path is on another machine.
    """
    check_local(path)
    return str(pathlib.Path(path).expanduser().absolute())


def _none(folder: pathlib.Path) -> bool:
    return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class FormatEntry:
    """Registry entry of a format.

    Attributes:
        open: (source, options) -> records; the source is an absolute path, or the text after
            "scheme:" or "file.py:NAME:". Raises UserError if it cannot be read.
        description: How a source of this format is given, for messages.
        scheme: Text before the colon in ``data.source``, such as "tfds"; "" for none.
        suffixes: Suffixes of the files that it reads, such as (".csv",).
        recognises: Existing folder -> True if it holds this format. The entries are asked in the
            order of ``FORMATS``.
        open_folder: Opener of a folder that was recognised; None uses ``open``.
        absolute: Text after "scheme:" or "file.py:NAME:" -> the same source, whatever the working
            directory is. The default takes the text for a path.
    """

    open: Opener
    description: str
    scheme: str = ""
    suffixes: tuple[str, ...] = ()
    recognises: Callable[[pathlib.Path], bool] = _none
    open_folder: Opener | None = None
    absolute: Callable[[str], str] = absolute_path


# "folder" recognises every folder, so that it is the last.
FORMATS: dict[str, str | FormatEntry] = {
    "list": "cssl_jax.data.formats.image_folder:LIST",
    "tfds": "cssl_jax.data.formats.tfds:FORMAT",
    "tar": "cssl_jax.data.formats.tar:FORMAT",
    "parquet": "cssl_jax.data.formats.parquet:FORMAT",
    "folder": "cssl_jax.data.formats.image_folder:FOLDER",
}


def format_entries() -> tuple[FormatEntry, ...]:
    """All entries, in the order of ``FORMATS``."""
    return tuple(look_up("format", name, FORMATS, FormatEntry) for name in FORMATS)


def split_scheme(spec: str) -> tuple[str, FormatEntry, str] | None:
    """(scheme, its entry, the text behind it) of a source that names its format; None for paths.

    A scheme is one of the entries', such as "tfds", or "file.py:NAME" of a ``FormatEntry`` in a
    file; that file's path is made absolute.

    Raises:
        UserError: The file may not run, holds no such entry, or the text behind it is missing.
    """
    if is_file_name(spec):
        name, place = split_place(spec)
        if place:
            return absolute_name(name), look_up("format", name, FORMATS, FormatEntry), place
        if not pathlib.Path(spec).exists():
            raise UserError(
                f"data source {spec!r} does not say what to open; give file.py:NAME:PLACE, such as "
                f"{spec.rstrip(':')}:my_images"
            )
    scheme, _, rest = spec.partition(":")
    for entry in format_entries():
        if rest and scheme == entry.scheme:
            return scheme, entry, rest
    return None
