"""A few steps of a tiny encoder on the embedded digits: seconds; for trying commands out.

Source: this project's own.
Expected: no accuracy; seconds on any machine.
Command: cssl-jax pretrain debug --workdir RUN
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import digits


def get_config() -> Config:
    """The recipe."""
    config: Config = digits.get_config().replace({"data.size": 8})
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, width=0.125, projector_dim=16),
        optimizer=dataclasses.replace(config.optimizer, warmup_epochs=0.0),
        train=dataclasses.replace(
            config.train, batch_size=64, epochs=1, evaluate_every=1, checkpoint_every=1
        ),
        evaluate=dataclasses.replace(
            config.evaluate,
            l2_values=config.evaluate.online_l2_values,
            probe_seeds=1,
            knn_ks=(1, 5),
            draws=10,
        ),
    )
