"""Configs of the methods at equal compute."""

import cssl_jax
from cssl_jax import recipes
from cssl_jax.methods.registry import method_entry

# Learning rates of AdamW, and options that differ from the method's defaults.
METHODS = {
    "simclr": {"optimizer.learning_rate": 1e-3, "method.temperature": 0.2},
    "barlow_twins": {"optimizer.learning_rate": 1e-3},
    "vicreg": {"optimizer.learning_rate": 1e-3},
    "simsiam": {"optimizer.learning_rate": 1e-3},
    "byol": {"optimizer.learning_rate": 1e-3},
    "moco_v2": {"optimizer.learning_rate": 1e-3},
    "moco_v3": {"optimizer.learning_rate": 1e-3},
    "nnclr": {"optimizer.learning_rate": 1e-3, "method.queue": 4096},
    "lejepa": {"optimizer.learning_rate": 1e-3},
    "swav": {"optimizer.learning_rate": 1e-3, "method.prototypes": 256},
    "dino": {
        "optimizer.learning_rate": 1e-3,
        "method.prototypes": 1024,
        "method.target_warmup_epochs": 10.0,
    },
}


def passes(config) -> int:
    """Passes of one example through the encoder per step: a gradient costs three."""
    step = method_entry(config.method.name).cost(config)
    local = step.local.count * (step.local.size / config.data.size) ** 2 if step.local else 0
    return 3 * (step.views + round(local)) + step.targets


def config_of(name: str, options, seed: int = 0):
    """A run of a method with as many passes through the encoder as SimCLR's epochs have."""
    base = cssl_jax.load_recipe(options["recipe"])
    named = recipes.override(base, {"method.name": name})
    widths = ("projector_hidden", "projector_dim")
    heads = {
        f"model.{width}": min(getattr(named.model, width), options["head"]) for width in widths
    }
    if hasattr(named.method, "predictor_hidden"):
        heads["method.predictor_hidden"] = min(named.method.predictor_hidden, options["head"])
    epochs = round(options["epochs"] * 6 / passes(named))
    return recipes.override(
        named,
        {
            **heads,
            **METHODS[name],
            "data.source": options["train"],
            "data.validation_source": options["test"],
            "data.size": options["size"],
            "model.width": options["width"],
            "optimizer.name": "adamw",
            "optimizer.scaling": "none",
            "optimizer.weight_decay": 1e-4,
            "optimizer.exclude_norm_and_bias": True,
            "optimizer.warmup_epochs": epochs / 10,
            "train.batch_size": options["batch_size"],
            "train.epochs": epochs,
            "train.seed": seed,
            "train.evaluate_every": epochs,
            "train.checkpoint_every": epochs,
            "train.tensorboard": False,
            "evaluate.batch_size": 512,
            "evaluate.probe_seeds": 1,
        },
    )
