"""TensorFlow checkpoints are read bit for bit without TensorFlow, and damaged ones are refused."""

import ml_dtypes
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop.tf_files import tf_checkpoint
from cssl_jax.interop.tf_files.crc32c import masked_crc32c
from cssl_jax.interop.tf_files.snappy import decompress

tf = pytest.importorskip("tensorflow")


def values():
    rng = np.random.default_rng(0)
    numbers = {f"layer_{i}/kernel": rng.standard_normal((3, i + 1)) for i in range(40)}
    return {
        **numbers,
        "half": rng.standard_normal(5).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
        "step": np.int64(7),  # the last one in the file
    }


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Prefix of a checkpoint that TensorFlow wrote, with a text beside the arrays."""
    prefix = tmp_path_factory.mktemp("checkpoint") / "model.ckpt-7"
    content = {"graph": np.array(b"a text"), **values()}
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(content),
        shape_and_slices=[""] * len(content),
        tensors=[tf.constant(value) for value in content.values()],
    )
    return prefix


def test_arrays_are_those_that_tensorflow_wrote(prefix):
    found = tf_checkpoint.read(f"{prefix}.index")
    assert found.keys() == values().keys()  # without the text
    for name, value in values().items():
        np.testing.assert_array_equal(found[name], value, strict=True)
        assert found.shapes[name] == value.shape


def test_a_damaged_value_is_found_by_its_checksum(prefix, tmp_path):
    for path in tf_checkpoint.files(prefix.with_name(f"{prefix.name}.index")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = tmp_path / f"{prefix.name}.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[-5] ^= 1
    data.write_bytes(content)
    found = tf_checkpoint.read(tmp_path / f"{prefix.name}.index")
    with pytest.raises(UserError, match="is damaged: the checksum of step is another"):
        dict(found)
    data.write_bytes(content[:-9])
    with pytest.raises(UserError, match="is truncated: mask ends after the end of the file"):
        tf_checkpoint.read(tmp_path / f"{prefix.name}.index")
    data.unlink()
    with pytest.raises(UserError, match=r"data-00000-of-00001: No such file .* the index and its"):
        tf_checkpoint.read(tmp_path / f"{prefix.name}.index")


def test_a_damaged_index_is_refused(prefix, tmp_path):
    content = bytearray(prefix.with_name(f"{prefix.name}.index").read_bytes())
    path = tmp_path / "a.index"
    content[20] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the checksum of a block is another"):
        tf_checkpoint.read(path)
    path.write_bytes(b"no index")
    with pytest.raises(UserError, match="it does not end as an index does"):
        tf_checkpoint.read(path)


@pytest.mark.parametrize("size", [0, 9, 5000, 100_003])
def test_the_checksum_is_that_of_tfrecord_files(size, tmp_path):
    """TensorFlow's writer stores the masked checksum of a record behind it."""
    content = np.random.default_rng(size).bytes(size)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        writer.write(content)
    stored = int.from_bytes((tmp_path / "a").read_bytes()[-4:], "little")
    assert masked_crc32c(content) == stored


def test_blocks_of_snappy_are_unpacked():
    # Literal "abcd", then a copy of 8 bytes from 4 back, one of 4 from 12 back by a longer offset,
    # and a literal of 61 bytes, whose size follows its tag.
    packed = bytes([77, 3 << 2]) + b"abcd" + bytes([1 | 4 << 2, 4]) + bytes([2 | 3 << 2, 12, 0])
    packed += bytes([60 << 2, 60]) + bytes(61)
    assert decompress(packed) == b"abcd" * 4 + bytes(61)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xff\xff\xff\xff\x7f" + bytes(9),
        bytes([4, 0, 65, 1, 9]),  # a copy from before the start
        bytes([4, 3 << 2]) + b"ab",  # fewer bytes than the literal has
        bytes([1, 3 << 2]) + b"abcd",  # more bytes than stated
        bytes([9, 3 << 2]) + b"abcd",  # fewer bytes than stated
    ],
)
def test_damaged_blocks_of_snappy_are_refused(packed):
    with pytest.raises(ValueError, match="a compressed block"):
        decompress(packed)
