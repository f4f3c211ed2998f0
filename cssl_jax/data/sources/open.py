"""From what a user writes as data.source to a source of examples."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.base import Records
from cssl_jax.data.sources import arrays
from cssl_jax.data.sources.base import Source
from cssl_jax.data.sources.images import load_images
from cssl_jax.errors import UserError

Opener = Callable[[str, ImageOptions], Records]
LABEL_RULES = ("auto", "folder", "none")  # of a folder; anything else is a labels.csv
KINDS = (
    "'digits', an .npz file, a folder of pictures, a .csv list of pictures, 'tfds:NAME@SPLIT', "
    "'wds:SHARDS.tar' or a .parquet file"
)
TAR_SUFFIXES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst")  # packed ones get the way to unpack


def absolute_spec(spec: str) -> str:
    """The same source by paths that hold from any folder; names of sets stay as they are."""
    scheme, colon, rest = spec.partition(":")
    if scheme == "wds" and colon:
        return f"wds:{_absolute(rest)}"
    if scheme == "tfds" and colon:
        place, at, part = rest.partition("@")
        is_path = place.startswith((".", "~", "/")) or pathlib.Path(place).is_dir()
        return f"tfds:{_absolute(place) if is_path else place}{at}{part}"
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
            text or as a ``pathlib.Path``; or pictures, see ``open_records``.
        options: Of pictures; arrays are what they are.

    Raises:
        UserError: Nothing is there, or what is there is no set of images.
    """
    spec = as_text(spec)
    if spec == "digits":
        return arrays.digits()
    if pathlib.Path(spec).suffix == ".npz":
        return arrays.npz(pathlib.Path(spec).expanduser())
    options = options or ImageOptions()
    return load_images(open_records(spec, options), options)


def as_text(spec: str | os.PathLike[str]) -> str:
    """The text of a source that is given as text or as a path.

    Raises:
        UserError: It is something else, such as an array.
    """
    if isinstance(spec, str | os.PathLike):
        return os.fsdecode(spec)
    raise UserError(
        f"the data source is of type {type(spec).__name__}; give a path or a name ({KINDS}); an "
        "array of images goes to load_encoder(run)(images), or into an .npz file"
    )


def open_records(spec: str | os.PathLike[str], options: ImageOptions) -> Records:
    """Opens encoded pictures; reads names, no pixels.

    Args:
        spec: A folder of pictures; a .csv list of them; ``tfds:NAME@SPLIT`` or
            ``tfds:FOLDER@SPLIT``; ``wds:`` and a .tar, a folder or a pattern of them; a .parquet
            file, a folder or a pattern of them.
        options: ``labels`` of a folder; ``image_key`` and ``label_key`` of the others.

    Raises:
        UserError: Nothing is there, or what is there is no set of pictures.
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
        return _opener_of(path)(str(path), options)
    trouble = "is no set of pictures" if path.exists() else "does not exist"
    raise UserError(f"data source {spec!r} {trouble}; give {KINDS}")


def _opener_of(folder: pathlib.Path) -> Opener:
    """By what lies in a folder: a prepared TFDS set, images, or shards.

    Images win where there are at least as many as shards: one archive beside folders of images must
    not take their place, nor a preview that of hundreds of shards.
    """
    from cssl_jax.data.formats.walk import has_images

    _refuse_saved_to_disk(folder)
    if (folder / "dataset_info.json").is_file():
        described = (folder / "features.json").is_file() or not has_images(folder, 1)
        return _tfds if described else _folder
    suffixes = [path.suffix for path in folder.iterdir() if not path.name.startswith(".")]
    shards = ".tar" if ".tar" in suffixes else ".parquet"
    count = suffixes.count(shards)
    if not count or has_images(folder, count):
        return _folder
    return _beside_images(_tar if shards == ".tar" else _parquet, folder)


def _beside_images(opener: Opener, folder: pathlib.Path) -> Opener:
    """Opens shards, and notes that images lie beside them."""

    def opened(path: str, options: ImageOptions) -> Records:
        from cssl_jax.data.formats.walk import has_images

        records: Any = opener(path, options)
        if not has_images(folder, 1):
            return records
        note = f"images that lie beside the shards of {folder} are not read"
        return dataclasses.replace(records, notes=(*records.notes, note))

    return opened


def _refuse_saved_to_disk(folder: pathlib.Path) -> None:
    arrow = any(path.suffix == ".arrow" for path in folder.iterdir())
    if (folder / "dataset_dict.json").is_file() or (arrow and (folder / "state.json").is_file()):
        raise UserError(
            f"{folder} was written by Hugging Face's save_to_disk, whose Arrow files hold no index "
            'of images; write parquet and give that file: python -c "import datasets as d; '
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


def _tar(spec: str, options: ImageOptions) -> Records:
    from cssl_jax.data.formats.tar import open_tar

    return open_tar(spec, image_key=options.image_key, label_key=options.label_key)


def _parquet(path: str, options: ImageOptions) -> Records:
    from cssl_jax.data.formats.parquet import open_parquet

    return open_parquet(path, image_key=options.image_key, label_key=options.label_key)
