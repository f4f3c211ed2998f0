"""Writes torchvision.npz: what torchvision's ResNets compute from seeded weights and images.

Run by hand, in an environment that has torch and torchvision:

    python tests/goldens/make_torchvision_goldens.py

Per case: the input's shape, the seed, the features [n, D], 64 entries and the shape of every stage
(channels last), both with running (eval) and with batch statistics (train), and the running
statistics of the first and of the last BatchNorm after the train forward. Computed in float64,
stored in float32.
"""

import pathlib
import sys

import numpy as np
import torch
import torchvision

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from seeded_weights import sample, seeded_images, seeded_weights  # noqa: E402

CASES = {
    # Paddings differ in even sizes only, rounding of sizes in odd ones only.
    "resnet18": ("resnet18", "imagenet", (2, 67, 50, 3)),
    "resnet18_cifar": ("resnet18", "cifar", (2, 32, 32, 3)),
    "resnet50": ("resnet50", "imagenet", (2, 64, 64, 3)),
}


def build(name: str, stem: str, seed: int) -> torch.nn.Module:
    model = getattr(torchvision.models, name)(weights=None)
    if stem == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        model.maxpool = torch.nn.Identity()
    model.fc = torch.nn.Identity()
    shapes = {
        key: tuple(value.shape)
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    weights = {key: torch.from_numpy(w) for key, w in seeded_weights(shapes, seed).items()}
    problems = model.double().load_state_dict(weights, strict=False)
    assert not problems.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in problems.missing_keys)
    return model


@torch.no_grad()
def forward(model: torch.nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    found = {}
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    for i in range(4):
        x = getattr(model, f"layer{i + 1}")(x)
        channels_last = x.permute(0, 2, 3, 1).contiguous().numpy()
        found[f"stage{i + 1}"] = sample(channels_last)
        found[f"stage{i + 1}_shape"] = np.array(channels_last.shape)
    found["features"] = torch.flatten(model.avgpool(x), 1).numpy()
    return found


def main() -> None:
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    goldens = {"versions": np.array(f"{versions}, numpy {np.__version__}")}
    for seed, (case, (name, stem, shape)) in enumerate(CASES.items()):
        model = build(name, stem, seed)
        images = torch.from_numpy(seeded_images(shape, seed)).permute(0, 3, 1, 2).contiguous()
        goldens[f"{case}/seed"] = np.array(seed)
        goldens[f"{case}/input_shape"] = np.array(shape)
        for mode in ("eval", "train"):
            model.train(mode == "train")
            for what, value in forward(model, images).items():
                goldens[f"{case}/{mode}/{what}"] = value
        last = "layer4.1.bn2" if name == "resnet18" else "layer4.2.bn3"
        for module in ("bn1", last):
            for leaf in ("running_mean", "running_var"):
                value = model.state_dict()[f"{module}.{leaf}"].numpy()
                goldens[f"{case}/train/{module}.{leaf}"] = value
    path = HERE / "torchvision.npz"
    halved = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in goldens.items()}
    np.savez_compressed(path, **halved)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {goldens['versions']}")


if __name__ == "__main__":
    main()
