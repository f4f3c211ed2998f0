"""Writes huggingface.npz: what transformers' Vision Transformers compute from seeded weights.

Run by hand, in an environment that has torch and transformers:

    python tests/goldens/make_huggingface_goldens.py

Per case: the shapes of all arrays by the names that ``save_pretrained`` writes, the content of
config.json, the seed, and the class token after the last norm, computed in float64.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from seeded_weights import seeded_images, seeded_weights  # noqa: E402

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 8,
    "patch_size": 4,
}
CASES = {
    "vit": transformers.ViTConfig(intermediate_size=96, **SIZES),
    "dinov2": transformers.Dinov2Config(mlp_ratio=4, **SIZES),
}
SHAPE = (2, 8, 8, 3)


def case(config: transformers.PretrainedConfig, seed: int) -> dict[str, np.ndarray]:
    images = torch.from_numpy(seeded_images(SHAPE, seed)).permute(0, 3, 1, 2).contiguous()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        transformers.AutoModel.from_config(config).save_pretrained(path)
        shapes = {k: tuple(v.shape) for k, v in load_file(path / "model.safetensors").items()}
        weights = seeded_weights(shapes, seed)
        arrays = {key: torch.from_numpy(array).float() for key, array in weights.items()}
        save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
        model = transformers.AutoModel.from_pretrained(path).double().eval()
        stated = (path / "config.json").read_text()
    with torch.no_grad():
        tokens = model(images).last_hidden_state
    return {
        "shapes": np.array(json.dumps(shapes)),
        "config": np.array(stated),
        "seed": np.array(seed),
        "features": tokens[:, 0].numpy(),
    }


def main() -> None:
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    goldens = {"versions": np.array(versions), "input_shape": np.array(SHAPE)}
    for seed, (name, config) in enumerate(CASES.items()):
        goldens.update({f"{name}/{what}": value for what, value in case(config, seed).items()})
    path = HERE / "huggingface.npz"
    np.savez_compressed(path, **goldens)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {versions}")


if __name__ == "__main__":
    main()
