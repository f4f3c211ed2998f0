"""A few steps of a tiny encoder on the embedded digits: seconds; for trying commands out.

Source: this project's own.
Expected: no accuracy; seconds on any machine.
Command: cssl-jax pretrain debug --workdir RUN
"""

from cssl_jax.config import Config
from cssl_jax.configs import digits


def get_config() -> Config:
    """The recipe."""
    config: Config = digits.get_config()
    return config.replace(
        {
            "data.size": 8,
            "model.width": 0.125,
            "model.projector_dim": 16,
            "optimizer.warmup_epochs": 0.0,
            "train.batch_size": 64,
            "train.epochs": 1,
            "train.evaluate_every": 1,
            "train.checkpoint_every": 1,
            "evaluate.l2_values": config.evaluate.online_l2_values,
            "evaluate.probe_seeds": 1,
            "evaluate.knn_ks": (1, 5),
            "evaluate.draws": 10,
        }
    )
