"""Opens the source of examples that the text of data.source describes."""

import os
import pathlib

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.base import Records
from cssl_jax.data.formats.registry import (
    absolute_path,
    check_local,
    format_entries,
    split_scheme,
)
from cssl_jax.data.sources import arrays
from cssl_jax.data.sources.base import Images
from cssl_jax.data.sources.images import load_images
from cssl_jax.errors import MissingDataError, UserError
from cssl_jax.registries import is_file_name

# Rules for the labels of a folder. Any other value of data.labels is the path of a labels.csv.
LABEL_RULES = ("auto", "folder", "none")


def absolute_spec(spec: str) -> str:
    """Makes the paths of a source absolute, so that it can be opened from any folder.

    Names of data sets are kept.

    Raises:
        UserError: The source is on another machine, or its format is in a file that may not run.
    """
    if named := split_scheme(spec):
        scheme, entry, rest = named
        return f"{scheme}:{entry.absolute(rest)}"
    return spec if spec in ("", "digits") else absolute_path(spec)


def load_source(spec: str | os.PathLike[str], options: ImageOptions | None = None) -> Images:
    """Opens a data source.

    Args:
        spec: ``digits`` (embedded); the path of an .npz file with ``images`` and ``labels``, as
            text or as a ``pathlib.Path``; or encoded images, see ``open_records``.
        options: Options for reading encoded images; None takes the defaults. Arrays ignore them.

    Raises:
        MissingDataError: The source does not exist, or is a TFDS data set that is not prepared.
        UserError: The source is not a set of images.

    Example:
        >>> digits = load_source("digits")
        >>> len(digits), digits.num_classes
        (1797, 10)
    """
    spec = as_text(spec)
    if spec == "digits":
        return arrays.digits()
    if _is_npz(spec):
        return arrays.npz(pathlib.Path(spec).expanduser())
    options = options or ImageOptions()
    return load_images(open_records(spec, options), options)


def is_array_source(spec: str) -> bool:
    """True if a source is an array in memory: the embedded digits or an .npz file."""
    return spec == "digits" or _is_npz(spec)


def _is_npz(spec: str) -> bool:
    return pathlib.Path(spec).suffix == ".npz" and not is_file_name(spec)


def as_text(spec: str | os.PathLike[str]) -> str:
    """Text of a source that is given as text or as a path.

    Raises:
        UserError: The source has another type, such as an array.
    """
    if isinstance(spec, str | os.PathLike):
        return os.fsdecode(spec)
    raise UserError(
        f"the data source is of type {type(spec).__name__}; give a path or a name ({_kinds()}); "
        "pass an array of images to load_encoder(run)(images), or save it as an .npz file"
    )


def open_records(spec: str | os.PathLike[str], options: ImageOptions) -> Records:
    """Opens a set of encoded images. This reads names and labels, but no pixels.

    Args:
        spec: A folder of images; a .csv list of images; ``tfds:NAME@SPLIT`` or
            ``tfds:FOLDER@SPLIT``; ``wds:`` followed by a .tar file, a folder or a pattern; a
            .parquet file, a folder or a pattern; ``file.py:NAME:PLACE``, where NAME is a
            ``FormatEntry`` in a file and PLACE is what it opens.
        options: Options for reading the images. ``labels`` applies to a folder, ``image_key`` and
            ``label_key`` to the other formats.

    Raises:
        MissingDataError: The set does not exist, or is a TFDS data set that is not prepared.
        UserError: The source is not a set of images.
    """
    spec = as_text(spec)
    if not is_file_name(spec):  # a format in a file may read from another machine
        check_local(spec)
    if named := split_scheme(spec):
        _, entry, rest = named
        return entry.open(rest, options)
    entries = format_entries()
    path = pathlib.Path(spec).expanduser().absolute()
    for entry in entries:
        if path.suffix in entry.suffixes:
            return entry.open(str(path), options)
    if path.is_dir():
        _refuse_saved_to_disk(path)
        for entry in entries:
            if entry.recognises(path):
                return (entry.open_folder or entry.open)(str(path), options)
    if not path.exists():
        raise MissingDataError(f"data source {spec!r} does not exist; give {_kinds()}")
    raise UserError(f"data source {spec!r} is not a set of images; give {_kinds()}")


def _kinds() -> str:
    """How a source may be given, for messages."""
    *others, last = (entry.description for entry in format_entries())
    return ", ".join(("'digits'", "an .npz file", *others)) + f" or {last}"


def _refuse_saved_to_disk(folder: pathlib.Path) -> None:
    arrow = any(path.suffix == ".arrow" for path in folder.iterdir())
    if (folder / "dataset_dict.json").is_file() or (arrow and (folder / "state.json").is_file()):
        raise UserError(
            f"{folder} was written by save_to_disk of Hugging Face, whose Arrow files have no "
            'index of images; write a parquet file and give that: python -c "import datasets as d; '
            f"d.load_from_disk('{folder}').to_parquet('images.parquet')\" (of one split, such as "
            f"'{folder}/train')"
        )
