"""Prepared TensorFlow Datasets as records: random access without TensorFlow."""

import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image

from cssl_jax.data import tfrecord
from cssl_jax.errors import UserError
from cssl_jax.files import cached_json

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TfdsRecords:
    """One split of a prepared set; ``Records``.

    Attributes:
        name: As it was asked for.
        names: "split:number".
        stamps: One for the whole split: of its files' sizes and modification times.
        labels: int64 [size]; or None.
        classes: Names of the labels.
        example: Number -> features, the picture still encoded where the set allows.
        image_key: Feature of the picture.
    """

    name: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    example: Callable[[int], Example]
    image_key: str

    def read(self, index: int) -> bytes:
        """The encoded picture."""
        image = self.example(index)[self.image_key]
        return image if isinstance(image, bytes) else _png(np.asarray(image))


def open_tfds(spec: str, *, image_key: str = "", label_key: str = "") -> TfdsRecords:
    """Opens NAME[/config][:version][@split] or FOLDER[@split] of a set that is prepared already.

    Sets in ArrayRecord are read by ``tfds.data_source``; in TFRecord, TFDS's default, by an index
    of offsets that is made once.

    Raises:
        UserError: The set is unknown, not prepared, or has no picture; with the way out.
    """
    place, _, split = spec.partition("@")
    split = split or "train"
    builder = _builder(place)
    features = builder.info.features
    image = _key(features, "Image", image_key, "image", place)
    label = _key(features, "ClassLabel", label_key, "label", place)
    if not image:
        raise UserError(f"tfds:{place} has no picture among {', '.join(features)}")
    example, size, files = _access(builder, split, image, place)
    stamp = "|".join(f"{f.name}-{f.stat().st_size}-{f.stat().st_mtime_ns}" for f in files)
    labels, classes = None, ()
    if label:
        found = cached_json(
            f"tfds|{builder.data_path}|{split}|{label}|{stamp}|{size}",
            lambda: [int(example(i)[label]) for i in range(size)],
        )
        labels, classes = np.array(found, np.int64), tuple(features[label].names)
    names = tuple(f"{split}:{i:08d}" for i in range(size))
    name = f"tfds:{place}@{split}"
    return TfdsRecords(name, names, (stamp,) * size, labels, classes, example, image)


def _builder(place: str) -> Any:
    import tensorflow_datasets as tfds

    folder = pathlib.Path(place).expanduser()
    try:
        if folder.is_dir():
            return tfds.builder_from_directory(folder)
        return tfds.builder(place, try_gcs=False)
    except Exception as error:  # TFDS and its file systems raise of many kinds
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"tfds:{place} cannot be opened ({words}); give the name of a set or the folder that "
            "holds its dataset_info.json"
        ) from error


def _key(features: Any, kind: str, wanted: str, usual: str, place: str) -> str:
    """The one feature of a kind, the usual one of several, or the one that was asked for."""
    keys = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if wanted:
        if wanted not in keys:
            raise UserError(f"tfds:{place}: {wanted!r} is no {kind}; there are {keys or 'none'}")
        return wanted
    if len(keys) > 1 and usual not in keys:
        raise UserError(
            f"tfds:{place} has {len(keys)} features of kind {kind}: {', '.join(keys)}; choose one "
            f"by --data.{usual}-key"
        )
    return usual if usual in keys else "".join(keys)


def _access(
    builder: Any, split: str, image: str, place: str
) -> tuple[Callable[[int], Example], int, list[pathlib.Path]]:
    """(number -> example, number of examples, files)."""
    import tensorflow_datasets as tfds

    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split=split, decoders=decoders)
        return source.__getitem__, len(source), []
    except NotImplementedError:
        pass  # a format without random access of its own
    except Exception as error:  # TFDS asserts that the set is prepared
        raise _not_prepared(builder, split, place, error) from error
    try:
        instructions = builder.info.splits[split].file_instructions
    except Exception as error:
        raise _not_prepared(builder, split, place, error) from error
    if str(getattr(builder.info.file_format, "value", "")) != "tfrecord":
        raise UserError(
            f"tfds:{place} is prepared as {builder.info.file_format}, which has no random access; "
            f"prepare it again: tfds build {place} --file_format=array_record --overwrite"
        )
    index = [
        (pathlib.Path(step.filename), offset, length)
        for step in instructions
        for offset, length in tfrecord.offsets(pathlib.Path(step.filename))[
            step.skip : step.skip + step.take if step.take >= 0 else None
        ]
    ]

    def example(i: int) -> Example:
        return builder.info.features.deserialize_example_np(
            tfrecord.read(*index[i]), decoders=decoders
        )

    files = [pathlib.Path(step.filename) for step in instructions]
    return example, len(index), files


def _not_prepared(builder: Any, split: str, place: str, error: Exception) -> UserError:
    words = " ".join(str(error).split())[:160]
    return UserError(
        f"tfds:{place}@{split} cannot be read from {builder.data_path} ({words}); prepare it once "
        f"on a machine with network: tfds build {place} --file_format=array_record, or set "
        "TFDS_DATA_DIR to where it lies"
    )


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    image = image[..., 0] if image.shape[-1] == 1 else image
    PIL.Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()
