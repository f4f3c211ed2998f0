"""Writes timm.npz: what timm's Vision Transformers compute from seeded weights and images.

Run by hand, in an environment that has torch and timm:

    python tests/goldens/make_timm_goldens.py

Per case: the options of ``timm.create_model``, the input's shape, the seed, the features [n, D], 64
entries of the normalised tokens and of the tokens after every block. Also a learned table of
positions at other sizes, by timm's ``resample_abs_pos_embed``. Computed in float64 (the table in
float32, as timm does), stored in float32.
"""

import json
import pathlib
import sys

import numpy as np
import timm
import torch
from timm.layers import resample_abs_pos_embed

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from seeded_weights import sample, seeded_images, seeded_weights  # noqa: E402

# Case: (timm's name, its options, shape of the images). 3 blocks of the stated width and heads.
CASES = {
    "tiny": ("vit_tiny_patch16_224", {"patch_size": 8}, (2, 32, 32, 3)),
    "small": ("vit_small_patch16_224", {}, (2, 48, 48, 3)),
    "small_12_heads": ("vit_small_patch16_224", {"num_heads": 12}, (2, 48, 48, 3)),
    "tiny_mean": (
        "vit_tiny_patch16_224",
        {"patch_size": 4, "class_token": False, "global_pool": "avg", "init_values": 0.1},
        (2, 16, 16, 1),
    ),
}
RESAMPLED = ((3, 3), (7, 7), (5, 8), (2, 6))  # rows and columns, from 5 x 5


def build(name: str, options: dict, shape: tuple[int, ...], seed: int) -> torch.nn.Module:
    model = timm.create_model(
        name, num_classes=0, img_size=shape[1], in_chans=shape[3], depth=3, **options
    )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    weights = {key: torch.from_numpy(w) for key, w in seeded_weights(shapes, seed).items()}
    model.double().load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def forward(model: torch.nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    found = {"features": model(images).numpy()}
    count = model.num_prefix_tokens
    # With the mean, timm's last norm follows the mean; ours normalises the tokens as well.
    norm = model.norm if model.fc_norm.__class__ is torch.nn.Identity else model.fc_norm
    depth = len(model.blocks)
    maps = model.get_intermediate_layers(images, n=depth, reshape=True, norm=False)
    for i, stage in enumerate(maps):
        found[f"stage{i + 1}"] = sample(stage.permute(0, 2, 3, 1).contiguous().numpy())
    tokens = norm(model.get_intermediate_layers(images, n=1, return_prefix_tokens=False)[0])
    found["tokens"] = sample(tokens.numpy())
    found["prefix_tokens"] = np.array(count)
    return found


def resampled() -> dict[str, np.ndarray]:
    table = torch.from_numpy(np.random.RandomState(0).standard_normal((1, 26, 12))).float()
    found = {"positions/table": table[0].numpy()}
    for rows, columns in RESAMPLED:
        new = resample_abs_pos_embed(table, [rows, columns], num_prefix_tokens=1)
        found[f"positions/{rows}x{columns}"] = new[0].numpy()
    return found


def main() -> None:
    versions = f"torch {torch.__version__}, timm {timm.__version__}, numpy {np.__version__}"
    goldens = {"versions": np.array(versions), **resampled()}
    for seed, (case, (name, options, shape)) in enumerate(CASES.items()):
        model = build(name, options, shape, seed)
        images = torch.from_numpy(seeded_images(shape, seed)).permute(0, 3, 1, 2).contiguous()
        goldens[f"{case}/name"] = np.array(name)
        goldens[f"{case}/options"] = np.array(json.dumps(options))
        goldens[f"{case}/seed"] = np.array(seed)
        goldens[f"{case}/input_shape"] = np.array(shape)
        for what, value in forward(model, images).items():
            goldens[f"{case}/{what}"] = value
    path = HERE / "timm.npz"
    halved = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in goldens.items()}
    np.savez_compressed(path, **halved)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {goldens['versions']}")


if __name__ == "__main__":
    main()
