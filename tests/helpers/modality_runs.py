"""Tiny runs of series, recordings and texts, with their data in files, as a user starts them."""

from cssl_jax import recipes
from helpers import recordings, sentences, sines, tiny

NAMES = ("series", "audio", "text")
RECIPES = {"series": "series", "audio": "speech", "text": "text"}
FEW = {"l2_values": (0.1,), "online_l2_values": (0.1,), "probe_seeds": 1, "draws": 2}
# Small encoders: one without statistics, one with those of BatchNorm, and one with dropout.
_VALUES = {
    "series": {"model.encoder": "gru", "model.width": 0.125},
    "audio": {
        "model.encoder": "spectrogram_resnet10",
        "model.width": 0.125,
        "data.rate": recordings.RATE,
        "data.mels": 12,
        "data.seconds": 0.15,
    },
    "text": {
        "model.encoder": "bert_tiny",
        "model.width": 0.125,
        "data.length": 12,
        "data.vocabulary": 300,
        "augment.delete": (0.2,),
    },
}


def write_source(name, folder, size=60, groups=False):
    """Value of ``data.source`` of labelled examples of three classes."""
    if name == "series":
        return sines.write(folder / "sines", size, groups=groups)
    if name == "audio":
        return recordings.write(folder / "clips", size, groups=groups)
    return sentences.write(folder / "corpus", size, groups=groups)


def config(name, source, **train):
    """Config of a run of two epochs on the examples of ``write_source``."""
    changed = recipes.with_modality(tiny.config(epochs=2, tensorboard=False, **train), name)
    if name == "text":
        changed = recipes.with_method(changed, "simcse")
    changed = changed.replace({**_VALUES[name], "data.source": source})
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16, **FEW)


def write_recipe(name, folder, size=60, groups=False, **train):
    """A recipe file of such a run, beside its data."""
    path = folder / "recipe.json"
    source = write_source(name, folder, size, groups)
    path.write_text(recipes.to_json(config(name, source, **train)))
    return path
