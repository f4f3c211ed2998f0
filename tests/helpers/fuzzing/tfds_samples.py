"""Prepared TFDS sets, written by hand: without TensorFlow or TFDS."""

import functools
import json
import os
import pathlib
import tempfile

from helpers.fuzzing.samples import GOOD, make_tfrecord


@functools.cache
def prepared_sets():
    """Prepared sets in two formats: TFDS's own files, written without TensorFlow."""
    from array_record.python import array_record_module

    examples = [example(content, i % 2) for i, content in enumerate(GOOD)]
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {
            "image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
                      "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8",
                                "encodingFormat": "png"}},
            "label": {
                "pythonClassName":
                    "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "2"}},
        }},
    }  # fmt: skip
    found = []
    for kind, suffix in (("tfrecord", "tfrecord"), ("array_record", "array_record")):
        about = {
            "name": "set", "version": "1.0.0", "fileFormat": kind,
            "splits": [{"name": "train", "shardLengths": [str(len(examples))], "numBytes": "999",
                        "filepathTemplate":
                            "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}],
        }  # fmt: skip
        if kind == "tfrecord":
            records = make_tfrecord(examples)
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "a")
                writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
                for content in examples:
                    writer.write(content)
                writer.close()
                records = pathlib.Path(path).read_bytes()
        found.append(
            {
                "dataset_info.json": json.dumps(about).encode(),
                "features.json": json.dumps(features).encode(),
                "label.labels.txt": b"cat\ndog\n",
                f"set-train.{suffix}-00000-of-00001": records,
            }
        )
    return found


def example(image, label):
    """A tf.train.Example, serialised by hand."""

    def field(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    def varint(value):
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    parts = {
        "image": field(1, field(1, image)),
        "label": field(3, field(1, varint(label))),
    }
    entries = [field(1, field(1, name.encode()) + field(2, value)) for name, value in parts.items()]
    return field(1, b"".join(entries))
