"""PyTorch files are read without torch, and nothing in them is ever called."""

import contextlib
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.interop import pytorch

# Files of torch.save and the arrays in them, see make_pytorch_files.py.
GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens" / "pytorch_files.npz"


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS) as content:
        return dict(content)


@pytest.fixture
def golden_file(goldens, tmp_path):
    def write(name):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(goldens[f"file/{name}"].tobytes())
        return path

    return write


@pytest.mark.parametrize("name", ["zip", "legacy", "protocol4"])
def test_every_array_of_a_checkpoint_is_that_of_torch(goldens, golden_file, name):
    content = pytorch.read(golden_file(name))
    assert content["epoch"] == 12
    assert content["arch"] == "resnet50"
    assert content.keys() == {"epoch", "arch", "state_dict"}
    expected = {k.removeprefix("array/"): v for k, v in goldens.items() if k.startswith("array/")}
    assert content["state_dict"].keys() == expected.keys()
    for key, array in content["state_dict"].items():
        if key == "module.bfloat16":
            assert array.dtype == "bfloat16"
            array = array.astype(np.float32)
        np.testing.assert_array_equal(array, expected[key], strict=True)


def test_a_whole_module_is_refused_with_the_remedy(golden_file):
    with pytest.raises(UserError, match="perhaps a whole module; save its state_dict"):
        pytorch.read(golden_file("module"))


# Pickles written by hand. Each class has the name under which the pickle looks for it.


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def named(text):
    module, _, name = text.rpartition(".")
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a" + bytes([9]) + value.to_bytes(9, "little", signed=True)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count=4, key="0", kind="torch.FloatStorage"):
    return b"(" + text("storage") + named(kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(size, stride, offset=0, **options):
    body = storage(**options) + number(offset) + numbers(size) + numbers(stride) + b"\x89" + b")"
    return named("torch._utils._rebuild_tensor_v2") + b"(" + body + b"tR"


def weights(value):
    return b"\x80\x02}" + text("a") + value + b"s."


def write_zip(path, pickled, values=bytes(16), **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", values)
    return path


def write_legacy(path, pickled, values=bytes(16), count=4):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(["0"], 2)
    path.write_bytes(content + struct.pack("<q", count) + values)
    return path


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@WRITERS
def test_a_file_written_by_hand_is_read(tmp_path, write):
    values = np.arange(4, dtype=np.float32).tobytes()
    content = pytorch.read(write(tmp_path / "a.pth", weights(tensor((2, 2), (1, 2))), values))
    np.testing.assert_array_equal(content["a"], [[0, 2], [1, 3]])


@WRITERS
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr")],
)
def test_a_call_of_a_function_is_refused_by_name(tmp_path, write, function, name):
    target = tmp_path / "executed"
    hostile = pickle.dumps({"a": Call(function, f"touch {target}")}, 2)
    with pytest.raises(UserError, match=rf"names \w+\.{name}, which no file of weights needs"):
        pytorch.read(write(tmp_path / "a.pth", hostile))
    assert not target.exists()


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_a_call_is_refused_in_every_protocol(tmp_path, protocol):
    hostile = pickle.dumps({"a": Call(os.system, f"touch {tmp_path}/executed")}, protocol)
    with pytest.raises(UserError, match=r"names .*system"):
        pytorch.read(write_zip(tmp_path / "a.pth", hostile))
    assert not (tmp_path / "executed").exists()


def test_a_name_below_a_known_library_reaches_no_other_module(tmp_path):
    hostile = b"\x80\x04}" + text("a") + text("torch") + text("os.system") + b"\x93)Rs."
    with pytest.raises(UserError, match=r"names torch\.os\.system"):
        pytorch.read(write_zip(tmp_path / "a.pth", hostile))


@WRITERS
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 1),
        ((2,), (2**40,), 0),
        ((2**40,), (0,), 0),
        ((2**62, 4), (1, 1), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 1),
        ((2,), (1, 1), 0),
        ((1,) * 40, (1,) * 40, 0),
        ((2,), (1,), -1),
    ],
)
def test_a_shape_beyond_the_values_is_refused(tmp_path, write, size, stride, offset):
    path = write(tmp_path / "a.pth", weights(tensor(size, stride, offset)))
    with pytest.raises(UserError, match=r"a has (no valid shape|shape .* more than its values)"):
        pytorch.read(path)


@WRITERS
def test_a_storage_beyond_the_file_is_refused(tmp_path, write):
    path = write(tmp_path / "a.pth", weights(tensor((9,), (1,), count=9)))
    with pytest.raises(UserError, match="shorter than the file says"):
        pytorch.read(path)


@pytest.mark.parametrize("count", [5, 2**40, -1])
def test_a_legacy_storage_beyond_the_file_is_refused(tmp_path, count):
    path = write_legacy(tmp_path / "a.pth", weights(tensor((4,), (1,))), count=count)
    with pytest.raises(UserError, match="a storage is larger than the file"):
        pytorch.read(path)


def test_a_compressed_member_is_refused(tmp_path):
    options = {"compression": zipfile.ZIP_DEFLATED}
    path = write_zip(tmp_path / "a.pth", weights(tensor((4,), (1,))), bytes(2**24), **options)
    with pytest.raises(UserError, match="compressed"):
        pytorch.read(path)


def test_many_tensors_of_one_storage_are_refused(tmp_path):
    body = b"".join(text(str(i)) + tensor((256, 256), (1, 1), count=2**16) for i in range(400))
    path = write_zip(tmp_path / "a.pth", b"\x80\x02}(" + body + b"u.", bytes(4 * 2**16))
    with pytest.raises(UserError, match="its tensors are larger than the file"):
        pytorch.read(path)


DEEP = 20_000


@pytest.mark.parametrize(
    "body",
    [
        b"(" * DEEP + b"t" * DEEP,  # nested tuples
        b"]" * DEEP + b"a" * (DEEP - 1),  # nested lists
        b"(" + (b"}" + text("a")) * DEEP + b"N" + b"s" * DEEP + b"1",  # dicts, then nothing
        b"]q\x00h\x00a",  # a list that contains itself
        b"}q\x00" + text("b") + b"h\x00s",  # a dict that contains itself
        # Each dict contains the one before a thousand times.
        b"}q\x00" + (b"}" + b"".join(text(f"{i}") + b"h\x00s" for i in range(1000)) + b"q\x00") * 6,
    ],
    ids=["tuples", "lists", "marks", "own list", "own dict", "repeated"],
)
def test_nested_containers_end(tmp_path, body):
    path = write_zip(tmp_path / "a.pth", weights(body))
    with contextlib.suppress(UserError):
        assert set(pytorch.read(path)) <= {"a"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or no PyTorch file"),
        (b"PK\x03\x04", "damaged or no PyTorch file"),
        (pickle.dumps({"a": 1}), "none that torch.save wrote"),
        (pickle.dumps(np.zeros(3)), "none that torch.save wrote"),
        (b"\x80\x02" + b"\x82\x01.", "opcode EXT1"),
        (b"\x80\x02(", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"0.", "damaged"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        pytorch.read(tmp_path / "a.pth")


def test_other_zip_files_are_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/constants.pkl", pickle.dumps(()))
    (tmp_path / "script.pt").write_bytes(file.getvalue())
    with pytest.raises(UserError, match="TorchScript"):
        pytorch.read(tmp_path / "script.pt")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"none that torch.save wrote"):
        pytorch.read(tmp_path / "a.npz")
