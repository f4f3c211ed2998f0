"""Files of weights: each function breaks one and reads it."""

import io
import zipfile

import numpy as np
from hypothesis import strategies as st

from helpers.fuzzing.contract import one_message
from helpers.fuzzing.samples import safetensors_files, tf_checkpoints, torch_files


def fuzz_safetensors(draw, broken, folder):
    from cssl_jax.interop import safetensors

    content = draw(st.sampled_from(safetensors_files()))
    (folder / "a.safetensors").write_bytes(broken(draw, content, content))
    check_arrays(one_message(safetensors.read, folder / "a.safetensors"), len(content))


def fuzz_pytorch(draw, broken, folder):
    """A PyTorch file; half of the zip files are whole to zip, with broken members."""
    from cssl_jax.interop import pytorch

    content = draw(st.sampled_from(torch_files()))
    if content[:2] == b"PK" and draw(st.booleans()):
        with (
            zipfile.ZipFile(io.BytesIO(content)) as whole,
            zipfile.ZipFile(folder / "a.pth", "w") as file,
        ):
            for name in whole.namelist():
                member = whole.read(name)
                is_broken = name.endswith("data.pkl") or draw(st.booleans())
                file.writestr(name, broken(draw, member, member) if is_broken else member)
    else:
        (folder / "a.pth").write_bytes(broken(draw, content, draw(st.sampled_from(torch_files()))))
    check_arrays(one_message(pytorch.read, folder / "a.pth"), 2 * len(content))


def fuzz_tf_checkpoint(draw, broken, folder):
    """A TensorFlow checkpoint; half of the indices have right checksums around a broken block."""
    from cssl_jax.interop.tf_files import tf_checkpoint

    index, block, values = draw(st.sampled_from(tf_checkpoints()))
    if draw(st.booleans()):
        index = make_table(broken(draw, block, block), packed=draw(st.booleans()))
    else:
        index = broken(draw, index, index)
    values = broken(draw, values, index) if draw(st.booleans()) else values
    (folder / "a.index").write_bytes(index)
    (folder / "a.data-00000-of-00001").write_bytes(values)
    check_arrays(one_message(lambda: dict(tf_checkpoint.read(folder / "a.index"))), len(values))


def make_table(block, *, packed):
    """Index with one block of entries, whose checksums are right; packed by Snappy's literals."""
    from cssl_jax.interop.tf_files.crc32c import masked_crc32c

    def varint(number):
        return (
            bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)
        )

    def stored(content, kind):
        checksum = masked_crc32c(content + bytes([kind]))
        return content + bytes([kind]) + checksum.to_bytes(4, "little")

    if packed:
        pieces = [block[i : i + 60] for i in range(0, len(block), 60)]
        literals = b"".join(bytes([(len(piece) - 1) << 2]) + piece for piece in pieces)
        first = stored(varint(len(block)) + literals, 1)
    else:
        first = stored(block, 0)
    handle = varint(0) + varint(len(first) - 5)
    restarts = bytes(4) + (1).to_bytes(4, "little")
    second = stored(varint(0) + varint(1) + varint(len(handle)) + b"~" + handle + restarts, 0)
    footer = varint(0) * 2 + varint(len(first)) + varint(len(second) - 5)
    magic = 0xDB4775248B80FB57
    return first + second + footer.ljust(40, b"\0") + magic.to_bytes(8, "little")


def check_arrays(content, most):
    """Arrays in nested dicts are readable, and not much larger than the file."""
    for value in content.values():
        if isinstance(value, dict):
            check_arrays(value, most)
        elif isinstance(value, np.ndarray):
            assert value.nbytes <= 4 * most + 4096
            assert len(value.tobytes()) == value.nbytes
