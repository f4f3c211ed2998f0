"""safetensors files: both directions against the format's own library, and damaged headers."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop import safetensors

library = pytest.importorskip("safetensors.numpy")


def arrays():
    rng = np.random.default_rng(0)
    return {
        "conv1.weight": rng.normal(size=(4, 3, 2)).astype(np.float32),
        "half": rng.normal(size=5).astype(np.float16),
        "double": rng.normal(size=(2, 2)),
        "count": np.array(7, np.int64),
        "none": np.zeros((0, 3), np.uint8),
        "mask": np.array([True, False, True]),
    }


def file_of(header, values=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def test_files_of_the_library_are_read(tmp_path):
    library.save_file(arrays(), tmp_path / "a.safetensors", metadata={"format": "np"})
    read = safetensors.read(tmp_path / "a.safetensors")
    assert read.keys() == arrays().keys()
    for name, array in arrays().items():
        assert read[name].dtype == array.dtype
        assert read[name].flags.writeable
        np.testing.assert_array_equal(read[name], array, strict=True)
    assert safetensors.read_metadata(tmp_path / "a.safetensors") == {"format": "np"}


def test_the_library_reads_what_is_written(tmp_path):
    transposed = {**arrays(), "transposed": np.arange(6.0).reshape(2, 3).T}
    safetensors.write(tmp_path / "a.safetensors", transposed, {"recipe": "digits"})
    read = library.load_file(tmp_path / "a.safetensors")
    assert read.keys() == transposed.keys()
    for name, array in transposed.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_narrow_floats_keep_their_bits(tmp_path, dtype):
    array = np.array([1.5, -2.0, 0.0, 448.0], dtype)
    safetensors.write(tmp_path / "a.safetensors", {"a": array})
    read = safetensors.read(tmp_path / "a.safetensors")["a"]
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()


def test_big_endian_arrays_are_written_little_endian(tmp_path):
    safetensors.write(tmp_path / "a.safetensors", {"a": np.array([1.0, 2.0], ">f4")})
    np.testing.assert_array_equal(library.load_file(tmp_path / "a.safetensors")["a"], [1.0, 2.0])


def test_a_dtype_without_a_name_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"names is <U1, which a safetensors file cannot hold"):
        safetensors.write(tmp_path / "a.safetensors", {"names": np.array(["a"])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"PK\x03\x04 and more than eight bytes", "no safetensors file"),
        (file_of(b"{}", length=2**63), "no safetensors file"),
        (file_of(b"[" * 100_000), "header is no JSON"),
        (file_of(b"\xff{}"), "header is no JSON"),
        (file_of(b"[1]"), "no JSON object"),
        (file_of(b'{"a": 1, "a": 2}'), "header is no JSON"),
        (file_of({"a": 3}), "unknown dtype None"),
        (file_of(one(dtype="F33"), bytes(8)), "unknown dtype 'F33'"),
        (file_of(one(dtype=["F32"]), bytes(8)), "unknown dtype"),
        (file_of(one(shape=(-2,)), bytes(8)), "no valid shape"),
        (file_of(one(shape=(2.0,)), bytes(8)), "no valid shape"),
        (file_of(one(shape=(1,) * 99), bytes(8)), "no valid shape"),
        (file_of(one(shape=(2**40, 2**40), offsets=(0, 8)), bytes(8)), "does not fit"),
        (file_of(one(offsets=(0, 8, 9)), bytes(8)), "does not fit"),
        (file_of(one(offsets=(8, 0)), bytes(8)), "does not fit"),
        (file_of(one(), bytes(4)), "truncated or damaged: .* 8 bytes .* has 4"),
        (file_of(one(), bytes(12)), "truncated or damaged"),
        (file_of(one(offsets=(4, 12)), bytes(12)), "overlap or leave a gap"),
        (file_of({**one(), "b": one()["a"]}, bytes(8)), "overlap or leave a gap"),
        (file_of({"__metadata__": {"a": 1}}), "must hold texts"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=message):
        safetensors.read(tmp_path / "a.safetensors")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        safetensors.read(tmp_path / "none.safetensors")
