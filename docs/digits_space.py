"""Search space of `cssl-jax sweep digits --space docs/digits_space.py`."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    """Values of one trial by config field; ``trial`` is an Optuna trial."""
    strength = trial.suggest_float("affine_strength", 0.25, 1.5)
    return {
        "optimizer.learning_rate": trial.suggest_float("learning_rate", 2e-4, 2e-2, log=True),
        "optimizer.weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True),
        "method.temperature": trial.suggest_float("temperature", 0.05, 0.5, log=True),
        # With SimCLR this also sets the number of negatives: 2N - 2 per anchor.
        "train.batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "model.encoder": trial.suggest_categorical("encoder", ["resnet10", "resnet14"]),
        # One number may set several fields.
        "augment.rotation": 15.0 * strength,
        "augment.translation": 0.15 * strength,
        "augment.shear": 15.0 * strength,
    }
