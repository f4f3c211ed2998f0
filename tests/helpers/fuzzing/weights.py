"""Files of weights: each function breaks one and reads it."""

import io
import zipfile

import numpy as np
from hypothesis import strategies as st

from helpers.fuzzing.contract import one_message
from helpers.fuzzing.samples import safetensors_files, torch_files


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


def check_arrays(content, most):
    """Arrays in nested dicts are readable, and not much larger than the file."""
    for value in content.values():
        if isinstance(value, dict):
            check_arrays(value, most)
        elif isinstance(value, np.ndarray):
            assert value.nbytes <= 4 * most + 4096
            assert len(value.tobytes()) == value.nbytes
