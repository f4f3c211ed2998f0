"""TensorFlow Datasets that were prepared on this machine, read without TensorFlow."""

import dataclasses
import hashlib
import os
import pathlib
import re
import resource
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax.data.formats.parquet import BinaryColumn, read_metadata
from cssl_jax.data.formats.schema import note_on_no_label, number_labels
from cssl_jax.data.formats.shards import Shard, open_shard
from cssl_jax.data.formats.tfds_features import choose_features, image_decoder, read_labels
from cssl_jax.data.formats.tfrecord import open_tfrecords
from cssl_jax.data.pipeline.thread_map import ahead
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

_OTHER_FILES = 256  # descriptors that a process has for all else
_Reader = Callable[[int], bytes]
_Split = tuple[tuple[str, ...], tuple[str, ...], _Reader]  # names, stamps, serialised examples
_Pieces = Sequence[Any]  # FileInstruction of tensorflow_datasets
_Shards = dict[str, Shard]


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """Pictures of a TFDS split; ``Records`` of them.

    Attributes:
        name: What was opened, with "tfds:" and the split.
        names: "shard:position".
        stamps: Of the shard, the position, and the feature.
        labels: int64 [size], -1 for none; or None.
        classes: Names of the labels.
        serialized: From a number to its tf.train.Example, serialised.
        picture: From that to the encoded picture.
        notes: Sentences on what was read and what was not.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    serialized: _Reader
    picture: Callable[[bytes], bytes]
    notes: tuple[str, ...] = ()

    def read(self, index: int) -> bytes:
        """The picture's bytes; of a feature that is stored as an array, as PNG.

        Raises:
            OSError: They cannot be read.
        """
        try:
            return self.picture(self.serialized(index))
        except OSError:
            raise
        except Exception as error:  # of whatever kind ArrayRecord and protobuf raise
            raise OSError(f"{self.names[index]}: {error}") from error


def open_tfds(spec: str, *, image_key: str = "", label_key: str = "") -> TfdsRecords:
    """Opens a split of a prepared set; nothing is downloaded.

    The examples are those of TFDS's own ``as_data_source``, in its order. Labels lie beside the
    pictures in the same records, so that all of them are read once; the labels are cached.

    Args:
        spec: ``NAME[/config][:version][@split]`` in $TFDS_DATA_DIR (~/tensorflow_datasets), or
            ``FOLDER[@split]`` with a set's dataset_info.json. The split may be a slice,
            ``train[:10%]``, and is ``train`` by default.
        image_key: Feature of the picture; "" takes the only Image, or that named "image".
        label_key: Feature of the label; "" takes the only ClassLabel, or that named "label".

    Raises:
        UserError: There is no such set or split, it is not prepared, or has no such features.
    """
    place, at, split = spec.rpartition("@")
    # A folder may have an @ in its name.
    if not at or "/" in split or pathlib.Path(spec).expanduser().is_dir():
        place, split = spec, "train"
    builder = _builder(place)
    where = f"tfds:{place}@{split}"
    features = builder.info.features
    image, label = choose_features(features, image_key, label_key, f"tfds:{place}")
    picture = image_decoder(features, image, f"tfds:{place}")
    records = names, stamps, serialized = _open_split(builder, split, where)
    labels, classes = _labels(builder, split, label, records, where) if label else (None, ())
    return TfdsRecords(
        name=where,
        names=names,
        stamps=tuple(f"{stamp}-{image}" for stamp in stamps),
        labels=labels,
        classes=classes,
        serialized=serialized,
        picture=picture,
        notes=()
        if label
        else note_on_no_label(
            "features",
            [name for name in features if name != image],
            "name it by --data.label-key",
        ),
    )


def _labels(
    builder: Any, split: str, label: str, records: _Split, where: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    names, stamps, serialized = records
    features = builder.info.features

    def read() -> list[Any]:
        return read_labels(features, label, serialized, names, where)

    if builder.info.splits:
        stamp = hashlib.blake2b("\n".join([*names, *stamps]).encode(), digest_size=16).hexdigest()
        values = cached_json(f"tfds labels|{builder.data_dir}|{split}|{label}|{stamp}", read)
    else:
        values = read()
    known = getattr(features[label], "num_classes", None)  # else its names are an error
    return number_labels(values, where, features[label].names if known else None)


# -------------------------------------------------------------------------------- set and split


def _builder(place: str) -> Any:
    import tensorflow_datasets as tfds

    for path in (place, _data_dir()):
        if "://" in path:
            raise UserError(f"{path} is not on this machine; copy it here, or mount it")
    folder = pathlib.Path(place).expanduser()
    is_path = place.startswith((".", "~", "/")) or folder.is_dir()
    if not is_path and not re.fullmatch(r"\w+(/[^:@]+)?(:[\d.*]+)?", place):
        raise UserError(f"tfds:{place} is no set; give NAME, NAME/config:1.0.0, or a folder")
    try:
        if is_path:
            return tfds.builder_from_directory(folder)
        return tfds.builder(place, data_dir=_data_dir(), try_gcs=False)
    except Exception as error:  # TFDS's own, assertions, protobuf's
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        if is_path:
            raise UserError(
                f"{folder} is no prepared TFDS set, which has dataset_info.json and "
                f"features.json: {reason}; give the folder that holds these"
            ) from error
        raise UserError(
            f"tfds:{place} is not in {_data_dir()}: {reason}; set TFDS_DATA_DIR to where it is, "
            "or give the folder of its dataset_info.json"
        ) from error


def _data_dir() -> str:
    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _prepare(builder: Any, data_dir: str) -> str:
    config = builder.builder_config
    name = f"{builder.name}/{config.name}" if config else builder.name
    return (
        f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{data_dir}').download_and_prepare(file_format='array_record')\""
    )


def _open_split(builder: Any, split: str, where: str) -> _Split:
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if not builder.info.splits:
        return _without_files(builder, split, where)
    kind = next((kind for kind in _READERS if kind in formats), None)
    if kind is None:
        raise UserError(
            f"{where} is prepared as {', '.join(formats) or 'an unknown format'}, which leaves no "
            f"way to any one picture; prepare it again: {_prepare(builder, '/another/folder')}"
        )
    if builder.info.file_format.value != kind:
        builder.info.set_file_format(kind, override=True, override_if_initialized=True)
    try:
        instructions = builder.info.splits[split].file_instructions
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{where}: {reason}; give {' or '.join(builder.info.splits)}") from error
    pieces = [piece for piece in instructions if piece.take > 0]
    shards = {piece.filename: _shard(piece.filename) for piece in pieces}
    places = [(p.filename, i) for p in pieces for i in range(p.skip, p.skip + p.take)]
    names = tuple(f"{shards[file].name}:{i}" for file, i in places)
    if not names:
        raise UserError(f"{where} has no examples; choose another slice")
    if len(set(names)) < len(names):
        raise UserError(f"{where} takes some examples twice; choose parts that do not overlap")
    stamps = tuple(f"{shards[file].stamp}-{i}" for file, i in places)
    return names, stamps, _READERS[kind](builder, split, pieces, shards)


def _shard(file: str) -> Shard:
    path = pathlib.Path(file)
    return open_shard(path, path.parent)


def _without_files(builder: Any, split: str, where: str) -> _Split:
    """A set that is not prepared, or whose examples are made up (``tfds.testing.mock_data``)."""
    try:
        source = _data_source(builder, split)
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"{where} is not prepared in {_data_dir()}; set TFDS_DATA_DIR to where it is, or "
            f"prepare it: {_prepare(builder, _data_dir())}"
        ) from error
    names = tuple(f"{split}:{number}" for number in range(len(source)))
    return names, tuple(str(builder.version) for _ in names), source.__getitem__


# ----------------------------------------------------------------- formats: serialised examples


def _data_source(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return builder.as_data_source(split, deserialize_method=raw)


def _array_record(builder: Any, split: str, pieces: _Pieces, shards: _Shards) -> _Reader:
    allow_files(len(shards))
    try:
        source = _data_source(builder, split)
        _check_counts(
            pieces, dict(zip(shards, ahead(_array_record_count, shards.values()), strict=True))
        )
    except ImportError as error:
        raise UserError(
            f"{builder.data_dir} is prepared as array_record, and the package of that name cannot "
            f"be imported ({error}); `pip install array_record`, or prepare the set as tfrecord"
        ) from error
    return source.__getitem__


def _array_record_count(shard: Shard) -> int:
    """Records of a file; of one that is cut short 0, without an error, as of 0.8."""
    from array_record.python import array_record_module

    def count() -> int:
        reader = array_record_module.ArrayRecordReader(str(shard.path))
        try:
            return reader.num_records()
        finally:
            reader.close()

    try:
        return cached_json(f"array_record|{shard.path}|{shard.stamp}", count)
    except RuntimeError as error:
        raise UserError(
            f"{shard.path} is damaged or cut short{f': {error}' if str(error) else ''}; copy it "
            "again or prepare the set anew"
        ) from error


def _tfrecord(builder: Any, split: str, pieces: _Pieces, shards: _Shards) -> _Reader:
    files = open_tfrecords(tuple(shards.values()))
    _check_counts(pieces, {file: len(size) for file, size in zip(shards, files.sizes, strict=True)})
    numbers = {file: number for number, file in enumerate(shards)}
    shard = np.repeat([numbers[p.filename] for p in pieces], [p.take for p in pieces])
    position = _positions(pieces)
    return lambda index: files.read(int(shard[index]), int(position[index]))


def _parquet(builder: Any, split: str, pieces: _Pieces, shards: _Shards) -> _Reader:
    # TFDS's own data source holds whole files in memory and ignores slices (4.9.10).
    metadata = {file: read_metadata(shard.path) for file, shard in shards.items()}
    counts = {file: data.num_rows for file, data in metadata.items()}
    _check_counts(pieces, counts)
    column = BinaryColumn(tuple(shards.values()), tuple(metadata.values()), "data")
    first = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
    rows = np.repeat([first[p.filename] for p in pieces], [p.take for p in pieces])
    rows += _positions(pieces)
    return lambda index: column.read(int(rows[index]))


_READERS = {"array_record": _array_record, "tfrecord": _tfrecord, "parquet": _parquet}


def _positions(pieces: _Pieces) -> np.ndarray:
    return np.concatenate([np.arange(p.skip, p.skip + p.take) for p in pieces])


def _check_counts(pieces: _Pieces, counts: dict[str, int]) -> None:
    for piece in pieces:
        if counts[piece.filename] != piece.examples_in_shard:
            raise UserError(
                f"{piece.filename} has {counts[piece.filename]} records and dataset_info.json says "
                f"{piece.examples_in_shard}; copy it again or prepare the set anew"
            )


def allow_files(count: int) -> None:
    """Lets the process keep so many files open: ArrayRecord's reader keeps every shard so.

    Raises:
        UserError: The machine allows it fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise UserError(
                f"{count} shards have to be open at once, and the machine allows a process {hard} "
                f"files; `ulimit -Hn {wanted}` as its administrator, or prepare fewer shards"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
