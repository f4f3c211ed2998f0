"""TensorFlow Datasets (TFDS) prepared on this machine, read without TensorFlow."""

import dataclasses
import hashlib
import os
import pathlib
import re
import resource
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssl_jax.config.images import ImageOptions
from cssl_jax.data.formats.parquet import BinaryColumn, read_metadata
from cssl_jax.data.formats.registry import FormatEntry, absolute_path
from cssl_jax.data.formats.schema import note_on_no_label, number_labels
from cssl_jax.data.formats.shards import Shard, open_shard
from cssl_jax.data.formats.tfds_features import choose_features, image_extractor, read_labels
from cssl_jax.data.formats.tfrecord import open_tfrecords
from cssl_jax.data.formats.walk import has_images
from cssl_jax.data.pipeline.thread_map import map_ahead
from cssl_jax.errors import MissingDataError, UserError
from cssl_jax.files import cached_json

_OTHER_FILES = 256  # file descriptors reserved for the rest of the process
_Reader = Callable[[int], bytes]
_Split = tuple[tuple[str, ...], tuple[str, ...], _Reader]  # names, stamps, reader of the examples
_Instructions = Sequence[Any]  # FileInstruction of tensorflow_datasets: a range of one file
_Shards = dict[str, Shard]


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """Images of a TFDS split, as ``Records``.

    Attributes:
        name: "tfds:", the name or folder of the set, and the split.
        names: "shard:position" of every image.
        stamps: Stamp of the shard, position and feature, for every image.
        labels: int64 [size], class number of every image, -1 for no label; None if no image has a
            label.
        classes: Class names in the order of the class numbers.
        read_serialized: Function from the index of an example to its serialised tf.train.Example.
        extract_image: Function from a serialised example to the encoded image.
        notes: Sentences for the user about features that are not read.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    read_serialized: _Reader
    extract_image: Callable[[bytes], bytes]
    notes: tuple[str, ...] = ()

    def read(self, index: int) -> bytes:
        """Reads the bytes of one encoded image; a feature that is stored as an array becomes a PNG.

        Raises:
            OSError: The example cannot be read.
        """
        try:
            return self.extract_image(self.read_serialized(index))
        except OSError:
            raise
        except Exception as error:  # ArrayRecord and protobuf raise many types of exceptions
            raise OSError(f"{self.names[index]}: {error}") from error


def open_tfds(spec: str, *, image_key: str = "", label_key: str = "") -> TfdsRecords:
    """Opens a split of a prepared set; nothing is downloaded.

    The examples and their order are those of ``as_data_source`` of TFDS. A label is stored in the
    same record as its image, so that reading the labels reads all records once. The labels are
    cached.

    Args:
        spec: ``NAME[/config][:version][@split]`` in $TFDS_DATA_DIR (default
            ~/tensorflow_datasets), or ``FOLDER[@split]`` with the dataset_info.json of a set. The
            split may be a slice such as ``train[:10%]``. The default split is ``train``.
        image_key: Feature of the image. "": the only Image feature, or the one named "image".
        label_key: Feature of the label. "": the only ClassLabel feature, or the one named "label".

    Raises:
        MissingDataError: The set is not prepared.
        UserError: The set, split or feature does not exist.
    """
    location, at, split = spec.rpartition("@")
    # A folder may have an @ in its name.
    if not at or "/" in split or pathlib.Path(spec).expanduser().is_dir():
        location, split = spec, "train"
    builder = _builder(location)
    where = f"tfds:{location}@{split}"
    features = builder.info.features
    image, label = choose_features(features, image_key, label_key, f"tfds:{location}")
    extract_image = image_extractor(features, image, f"tfds:{location}")
    records = names, stamps, read_serialized = _open_split(builder, split, where)
    labels, classes = _labels(builder, split, label, records, where) if label else (None, ())
    return TfdsRecords(
        name=where,
        names=names,
        stamps=tuple(f"{stamp}-{image}" for stamp in stamps),
        labels=labels,
        classes=classes,
        read_serialized=read_serialized,
        extract_image=extract_image,
        notes=()
        if label
        else note_on_no_label(
            "features",
            [name for name in features if name != image],
            "give its name by --data.label-key",
        ),
    )


def _labels(
    builder: Any, split: str, label: str, records: _Split, where: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    names, stamps, read_serialized = records
    features = builder.info.features

    def read() -> list[Any]:
        return read_labels(features, label, read_serialized, names, where)

    if builder.info.splits:
        stamp = hashlib.blake2b("\n".join([*names, *stamps]).encode(), digest_size=16).hexdigest()
        values = cached_json(f"tfds labels|{builder.data_dir}|{split}|{label}|{stamp}", read)
    else:
        values = read()
    # ``names`` raises an error for a ClassLabel without classes, and for other types of features.
    named = getattr(features[label], "num_classes", None)
    return number_labels(values, where, features[label].names if named else None)


# -------------------------------------------------------------------------------- set and split


def _builder(location: str) -> Any:
    """Builder of a set that is given by its folder or its name."""
    import tensorflow_datasets as tfds

    for path in (location, _data_dir()):
        if "://" in path:
            raise UserError(f"{path} is not on this machine; copy it here, or mount it")
    folder = pathlib.Path(location).expanduser()
    is_path = location.startswith((".", "~", "/")) or folder.is_dir()
    if not is_path and not re.fullmatch(r"\w+(/[^:@]+)?(:[\d.*]+)?", location):
        raise UserError(
            f"tfds:{location} is not a data set; give NAME, NAME/config:1.0.0, or a folder"
        )
    try:
        if is_path:
            return tfds.builder_from_directory(folder)
        return tfds.builder(location, data_dir=_data_dir(), try_gcs=False)
    except Exception as error:  # exceptions of TFDS and protobuf, and assertions
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        if is_path:
            raise UserError(
                f"{folder} is not a prepared TFDS set, which has dataset_info.json and "
                f"features.json: {reason}; give the folder that contains these files"
            ) from error
        raise UserError(
            f"tfds:{location} is not in {_data_dir()}: {reason}; set TFDS_DATA_DIR to the folder "
            "that contains the set, or give the folder of its dataset_info.json"
        ) from error


def _data_dir() -> str:
    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _prepare_command(builder: Any, data_dir: str) -> str:
    """Shell command that prepares a set in a format with random access."""
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
        command = _prepare_command(builder, "/another/folder")
        raise UserError(
            f"{where} is prepared as {', '.join(formats) or 'an unknown format'}, so that single "
            f"images cannot be read; prepare it again: {command}"
        )
    if builder.info.file_format.value != kind:
        builder.info.set_file_format(kind, override=True, override_if_initialized=True)
    try:
        instructions = builder.info.splits[split].file_instructions
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{where}: {reason}; give {' or '.join(builder.info.splits)}") from error
    instructions = [p for p in instructions if p.take > 0]
    shards = {p.filename: _shard(p.filename) for p in instructions}
    positions = [(p.filename, i) for p in instructions for i in range(p.skip, p.skip + p.take)]
    names = tuple(f"{shards[file].name}:{i}" for file, i in positions)
    if not names:
        raise UserError(f"{where} has no examples; choose another slice")
    if len(set(names)) < len(names):
        raise UserError(f"{where} contains some examples twice; choose slices that do not overlap")
    stamps = tuple(f"{shards[file].stamp}-{i}" for file, i in positions)
    return names, stamps, _READERS[kind](builder, split, instructions, shards)


def _shard(file: str) -> Shard:
    path = pathlib.Path(file)
    return open_shard(path, path.parent)


def _without_files(builder: Any, split: str, where: str) -> _Split:
    """Opens a set without files, whose examples ``tfds.testing.mock_data`` generates.

    Raises:
        MissingDataError: The set is not prepared.
    """
    try:
        source = _data_source(builder, split)
    except (NotImplementedError, ValueError) as error:
        raise MissingDataError(
            f"{where} is not prepared in {_data_dir()}; set TFDS_DATA_DIR to the folder that "
            f"contains it, or prepare it: {_prepare_command(builder, _data_dir())}"
        ) from error
    names = tuple(f"{split}:{number}" for number in range(len(source)))
    return names, tuple(str(builder.version) for _ in names), source.__getitem__


# ----------------------------------------------------------------- formats: serialised examples


def _data_source(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return builder.as_data_source(split, deserialize_method=raw)


def _array_record(
    builder: Any, split: str, instructions: _Instructions, shards: _Shards
) -> _Reader:
    raise_file_limit(len(shards))
    try:
        source = _data_source(builder, split)
        _check_counts(
            instructions,
            dict(zip(shards, map_ahead(_array_record_count, shards.values()), strict=True)),
        )
    except ImportError as error:
        raise UserError(
            f"{builder.data_dir} is prepared as array_record, but the package array_record cannot "
            f"be imported ({error}); `pip install array_record`, or prepare the set as tfrecord"
        ) from error
    read: _Reader = source.__getitem__
    return read


def _array_record_count(shard: Shard) -> int:
    """Number of records of a file.

    array_record 0.8 returns 0 for a file that is cut short and raises no error, so that the caller
    has to compare the number with dataset_info.json.

    Raises:
        UserError: The file is damaged or cut short.
    """
    from array_record.python import array_record_module

    def count() -> int:
        reader = array_record_module.ArrayRecordReader(str(shard.path))
        try:
            return int(reader.num_records())
        finally:
            reader.close()

    try:
        return cached_json(f"array_record|{shard.path}|{shard.stamp}", count)
    except RuntimeError as error:
        raise UserError(
            f"{shard.path} is damaged or cut short{f': {error}' if str(error) else ''}; copy it "
            "again or prepare the set again"
        ) from error


def _tfrecord(builder: Any, split: str, instructions: _Instructions, shards: _Shards) -> _Reader:
    files = open_tfrecords(tuple(shards.values()))
    counts = {file: len(sizes) for file, sizes in zip(shards, files.sizes, strict=True)}
    _check_counts(instructions, counts)
    numbers = {file: number for number, file in enumerate(shards)}
    shard = np.repeat([numbers[p.filename] for p in instructions], [p.take for p in instructions])
    position = _positions(instructions)
    return lambda index: files.read(int(shard[index]), int(position[index]))


def _parquet(builder: Any, split: str, instructions: _Instructions, shards: _Shards) -> _Reader:
    # The data source of TFDS 4.9.10 keeps whole files in memory and ignores slices.
    metadata = {file: read_metadata(shard.path) for file, shard in shards.items()}
    counts = {file: data.num_rows for file, data in metadata.items()}
    _check_counts(instructions, counts)
    column = BinaryColumn(tuple(shards.values()), tuple(metadata.values()), "data")
    # Rows are counted over all files, so that every file has the offset of its first row.
    first = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
    rows = np.repeat([first[p.filename] for p in instructions], [p.take for p in instructions])
    rows += _positions(instructions)
    return lambda index: column.read(int(rows[index]))


_READERS = {"array_record": _array_record, "tfrecord": _tfrecord, "parquet": _parquet}


def _positions(instructions: _Instructions) -> np.ndarray:
    """int64 [size], position of every example in its file."""
    return np.concatenate([np.arange(p.skip, p.skip + p.take) for p in instructions])


def _check_counts(instructions: _Instructions, counts: dict[str, int]) -> None:
    for instruction in instructions:
        file, expected = instruction.filename, instruction.examples_in_shard
        if counts[file] != expected:
            raise UserError(
                f"{file} has {counts[file]} records, but dataset_info.json says {expected}; copy "
                "it again or prepare the set again"
            )


def raise_file_limit(count: int) -> None:
    """Allows the process to keep ``count`` files open, and 256 more for everything else.

    The reader of ArrayRecord keeps every shard open.

    Raises:
        UserError: The hard limit of the machine is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    required = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < required:
        if hard != resource.RLIM_INFINITY and hard < required:
            raise UserError(
                f"{count} shards have to be open at once, but the machine allows {hard} open files "
                f"per process; run `ulimit -Hn {required}` as administrator, or prepare fewer "
                "shards"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (required, hard))


def _open(spec: str, options: ImageOptions) -> TfdsRecords:
    return open_tfds(spec, image_key=options.image_key, label_key=options.label_key)


def _recognises(folder: pathlib.Path) -> bool:
    """True for a prepared set; a folder of images may contain a dataset_info.json, too."""
    if not (folder / "dataset_info.json").is_file():
        return False
    return (folder / "features.json").is_file() or not has_images(folder, 1)


def _absolute(spec: str) -> str:
    """Makes the folder of a set absolute; the name of a set is kept."""
    location, at, split = spec.partition("@")
    is_path = location.startswith((".", "~", "/")) or pathlib.Path(location).is_dir()
    return f"{absolute_path(location) if is_path else location}{at}{split}"


FORMAT = FormatEntry(
    open=_open,
    description="'tfds:NAME@SPLIT'",
    scheme="tfds",
    recognises=_recognises,
    absolute=_absolute,
)
