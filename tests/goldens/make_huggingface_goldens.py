"""Writes huggingface.npz: what transformers' Vision Transformers compute from seeded weights.

Run by hand, in an environment that has torch and transformers:

    python tests/goldens/make_huggingface_goldens.py

Per case: the shapes of all arrays by the names that ``save_pretrained`` writes, the content of
config.json, the seed, and the class token after the last norm, computed in float64. For "mae", the
masked autoencoder: also the noise whose order hides patches, predictions and loss.
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


def table_of_positions(side: int, channels: int) -> torch.Tensor:
    """Sines and cosines of column and row, [1, 1 + side side, channels]; 0 for the class token."""
    table = np.zeros((1, 1 + side * side, channels))
    quarter = channels // 4
    for row in range(side):
        for column in range(side):
            for i in range(quarter):
                rate = 10000.0 ** (-i / quarter)
                for part, (place, wave) in enumerate(
                    ((column, np.sin), (column, np.cos), (row, np.sin), (row, np.cos))
                ):
                    table[0, 1 + side * row + column, part * quarter + i] = wave(place * rate)
    return torch.from_numpy(table)


def masked_autoencoder(seed: int) -> dict[str, np.ndarray]:
    config = transformers.ViTMAEConfig(
        **{**SIZES, "patch_size": 2},
        intermediate_size=96,
        layer_norm_eps=1e-6,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
        mask_ratio=0.75,
        norm_pix_loss=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        transformers.ViTMAEForPreTraining(config).save_pretrained(path)
        stored = load_file(path / "model.safetensors")
        fixed = ("position_embeddings", "decoder_pos_embed")  # tables of sines and cosines
        shapes = {k: tuple(v.shape) for k, v in stored.items() if not k.endswith(fixed)}
        weights = {k: torch.from_numpy(w).float() for k, w in seeded_weights(shapes, seed).items()}
        save_file({**stored, **weights}, path / "model.safetensors", metadata={"format": "pt"})
        model = transformers.ViTMAEForPreTraining.from_pretrained(path).double().eval()
    # transformers 5.24 leaves both tables at 0.
    model.vit.embeddings.position_embeddings.data = table_of_positions(4, 24)
    model.decoder.decoder_pos_embed.data = table_of_positions(4, 16)
    images = torch.from_numpy(seeded_images(SHAPE, seed)).permute(0, 3, 1, 2).contiguous()
    noise = np.random.RandomState(seed).uniform(size=(2, 16))
    with torch.no_grad():
        output = model(images, noise=torch.from_numpy(noise))
    return {
        "shapes": np.array(json.dumps(shapes)),
        "seed": np.array(seed),
        "noise": noise,
        "mask": output.mask.numpy(),
        "predictions": output.logits.numpy(),
        "loss": output.loss.numpy(),
    }


def main() -> None:
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    goldens = {"versions": np.array(versions), "input_shape": np.array(SHAPE)}
    for seed, (name, config) in enumerate(CASES.items()):
        goldens.update({f"{name}/{what}": value for what, value in case(config, seed).items()})
    goldens.update({f"mae/{what}": value for what, value in masked_autoencoder(2).items()})
    path = HERE / "huggingface.npz"
    np.savez_compressed(path, **goldens)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, {versions}")


if __name__ == "__main__":
    main()
