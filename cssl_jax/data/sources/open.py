"""Opens the source of examples that the text of data.source describes."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.base import Records
from cssl_jax.data.sources import arrays
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.images import load_images
from cssl_jax.errors import MissingDataError, UserError

if TYPE_CHECKING:  # each format is imported when it is opened
    from cssl_jax.data.formats.parquet import ParquetRecords
    from cssl_jax.data.formats.tar import TarRecords

Opener = Callable[[str, ImageOptions], Records]
# Rules for the labels of a folder. Any other value of data.labels is the path of a labels.csv.
LABEL_RULES = ("auto", "folder", "none")
KINDS = (
    "'digits', an .npz file, a folder of images, a .csv list of images, 'tfds:NAME@SPLIT', "
    "'wds:SHARDS.tar' or a .parquet file"
)
# Compressed files are refused by the reader of tar files, with the command that decompresses them.
TAR_SUFFIXES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")


def absolute_spec(spec: str) -> str:
    """Makes the paths of a source absolute, so that it can be opened from any folder.

    Names of data sets are kept.

    Raises:
        UserError: The source is on another machine.
    """
    scheme, colon, rest = spec.partition(":")
    if scheme == "wds" and colon:
        return f"wds:{_absolute(rest)}"
    if scheme == "tfds" and colon:
        location, at, split = rest.partition("@")
        is_path = location.startswith((".", "~", "/")) or pathlib.Path(location).is_dir()
        return f"tfds:{_absolute(location) if is_path else location}{at}{split}"
    return spec if spec in ("", "digits") else _absolute(spec)


def _absolute(path: str) -> str:
    _check_local(path)
    return str(pathlib.Path(path).expanduser().absolute())


def _check_local(spec: str) -> None:
    if "://" in spec:
        raise UserError(f"{spec} is not on this machine; copy it here, or mount it")


def load_source(spec: str | os.PathLike[str], options: ImageOptions | None = None) -> Source:
    """Opens a data source.

    Args:
        spec: ``digits`` (embedded); the path of an .npz file with ``images`` and ``labels``, as
            text or as a ``pathlib.Path``; or encoded images, see ``open_records``.
        options: Options for reading encoded images; None takes the defaults. Arrays ignore them.

    Raises:
        MissingDataError: The source does not exist, or is a TFDS data set that is not prepared.
        UserError: The source is not a set of images.
    """
    spec = as_text(spec)
    if spec == "digits":
        return arrays.digits()
    if pathlib.Path(spec).suffix == ".npz":
        return arrays.npz(pathlib.Path(spec).expanduser())
    options = options or ImageOptions()
    return load_images(open_records(spec, options), options)


def as_text(spec: str | os.PathLike[str]) -> str:
    """Text of a source that is given as text or as a path.

    Raises:
        UserError: The source has another type, such as an array.
    """
    if isinstance(spec, str | os.PathLike):
        return os.fsdecode(spec)
    raise UserError(
        f"the data source is of type {type(spec).__name__}; give a path or a name ({KINDS}); pass "
        "an array of images to load_encoder(run)(images), or save it as an .npz file"
    )


def open_records(spec: str | os.PathLike[str], options: ImageOptions) -> Records:
    """Opens a set of encoded images. This reads names and labels, but no pixels.

    Args:
        spec: A folder of images; a .csv list of images; ``tfds:NAME@SPLIT`` or
            ``tfds:FOLDER@SPLIT``; ``wds:`` followed by a .tar file, a folder or a pattern; a
            .parquet file, a folder or a pattern.
        options: Options for reading the images. ``labels`` applies to a folder, ``image_key`` and
            ``label_key`` to the other formats.

    Raises:
        MissingDataError: The set does not exist, or is a TFDS data set that is not prepared.
        UserError: The source is not a set of images.
    """
    spec = as_text(spec)
    _check_local(spec)
    scheme, _, rest = spec.partition(":")
    openers = {"tfds": _tfds, "wds": _tar}
    if scheme in openers and rest:
        return openers[scheme](rest, options)
    path = pathlib.Path(spec).expanduser().absolute()
    by_suffix = {".csv": _list, ".parquet": _parquet, **dict.fromkeys(TAR_SUFFIXES, _tar)}
    if path.suffix in by_suffix:
        return by_suffix[path.suffix](str(path), options)
    if path.is_dir():
        return _opener_for(path)(str(path), options)
    if not path.exists():
        raise MissingDataError(f"data source {spec!r} does not exist; give {KINDS}")
    raise UserError(f"data source {spec!r} is not a set of images; give {KINDS}")


def _opener_for(folder: pathlib.Path) -> Opener:
    """Chooses the reader of a folder by its content: a prepared TFDS set, images, or shards.

    A folder with images and shards is read as images if it has at least as many images as shards.
    One archive next to folders of images must not replace them, nor a preview image hundreds of
    shards.

    Raises:
        UserError: The folder was written by ``save_to_disk`` of Hugging Face.
    """
    from cssl_jax.data.formats.walk import has_images

    _refuse_saved_to_disk(folder)
    if (folder / "dataset_info.json").is_file():
        # A folder of images may also contain a dataset_info.json.
        is_tfds = (folder / "features.json").is_file() or not has_images(folder, 1)
        return _tfds if is_tfds else _folder
    suffixes = [path.suffix for path in folder.iterdir() if not path.name.startswith(".")]
    shards = ".tar" if ".tar" in suffixes else ".parquet"
    count = suffixes.count(shards)
    if not count or has_images(folder, count):
        return _folder
    return _with_note_on_images(_tar if shards == ".tar" else _parquet, folder)


def _with_note_on_images(
    opener: Callable[[str, ImageOptions], "TarRecords | ParquetRecords"], folder: pathlib.Path
) -> Opener:
    """Reader of shards that adds a note if there are images next to the shards."""

    def open_with_note(path: str, options: ImageOptions) -> Records:
        from cssl_jax.data.formats.walk import has_images

        records = opener(path, options)
        if not has_images(folder, 1):
            return records
        note = f"images next to the shards of {folder} are not read"
        return dataclasses.replace(records, notes=(*records.notes, note))

    return open_with_note


def _refuse_saved_to_disk(folder: pathlib.Path) -> None:
    arrow = any(path.suffix == ".arrow" for path in folder.iterdir())
    if (folder / "dataset_dict.json").is_file() or (arrow and (folder / "state.json").is_file()):
        raise UserError(
            f"{folder} was written by save_to_disk of Hugging Face, whose Arrow files have no "
            'index of images; write a parquet file and give that: python -c "import datasets as d; '
            f"d.load_from_disk('{folder}').to_parquet('images.parquet')\" (of one split, such as "
            f"'{folder}/train')"
        )


def _folder(path: str, options: ImageOptions) -> Records:
    from cssl_jax.data.formats.image_folder import open_folder

    return open_folder(path, labels=options.labels)


def _list(path: str, options: ImageOptions) -> Records:
    from cssl_jax.data.formats.image_folder import open_list

    return open_list(path)


def _tfds(spec: str, options: ImageOptions) -> Records:
    from cssl_jax.data.formats.tfds import open_tfds

    return open_tfds(spec, image_key=options.image_key, label_key=options.label_key)


def _tar(spec: str, options: ImageOptions) -> "TarRecords":
    from cssl_jax.data.formats.tar import open_tar

    return open_tar(spec, image_key=options.image_key, label_key=options.label_key)


def _parquet(path: str, options: ImageOptions) -> "ParquetRecords":
    from cssl_jax.data.formats.parquet import open_parquet

    return open_parquet(path, image_key=options.image_key, label_key=options.label_key)
