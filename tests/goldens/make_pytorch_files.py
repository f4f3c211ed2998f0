"""Writes pytorch_files.npz: small files of torch.save, and the arrays in them. Needs torch.

    python tests/goldens/make_pytorch_files.py

Written with torch 2.13.0. The archive holds each file as bytes, so that a test writes it again.
"""

import argparse
import collections
import io
import pathlib

import numpy as np
import torch


def tensors():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator)
    return collections.OrderedDict(
        {
            "module.conv1.weight": torch.randn(2, 3, 3, 3, generator=generator),
            "module.transposed": base.T,
            "module.columns": base[:, 1:3],
            "module.last_rows": base[4:],
            "module.half": torch.tensor([1.5, -2.0]).half(),
            "module.bfloat16": torch.tensor([1.5, -3.0]).bfloat16(),
            "module.double": torch.tensor([0.1], dtype=torch.float64),
            "module.parameter": torch.nn.Parameter(torch.ones(2)),
            "module.empty": torch.zeros(0, 3),
            "module.bn1.num_batches_tracked": torch.tensor(7),
        }
    )


def checkpoint():
    state = tensors()
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(3)
    optimizer.step()
    return {
        "epoch": 12,
        "arch": "resnet50",
        "args": argparse.Namespace(lr=0.1, schedule=[120, 160]),
        "best": np.float64(0.5),
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return np.frombuffer(file.getvalue(), np.uint8)


def as_array(tensor):
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


if __name__ == "__main__":
    files = {
        "zip": saved(checkpoint()),
        "legacy": saved(checkpoint(), _use_new_zipfile_serialization=False),
        "protocol4": saved(checkpoint(), pickle_protocol=4),
        "module": saved(torch.nn.Linear(2, 2)),
    }
    arrays = {f"array/{name}": as_array(tensor) for name, tensor in tensors().items()}
    path = pathlib.Path(__file__).with_name("pytorch_files.npz")
    np.savez_compressed(path, **{f"file/{name}": file for name, file in files.items()}, **arrays)
