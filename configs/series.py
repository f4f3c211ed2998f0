"""SimCLR on your own series: dilated convolutions, batch 128, 200 epochs.

Source: the settings are this project's own for small sets and small hardware; the method is SimCLR
(arXiv 2002.05709), the encoder that of TS2Vec (arXiv 2106.10466).
Expected: see docs/series.md for the sets that were measured.
Hardware and time: see docs/series.md.
Needs: data.source, an .npz file with values [N, T, C] or a .ts file; labels are not needed, and are
used for evaluation only.
Command: cssl-jax pretrain series --data.source series.npz --workdir RUN
"""

from cssl_jax.augment.series.policy import SeriesPolicy
from cssl_jax.config import (
    Config,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    SeriesData,
    SimCLRConfig,
    TrainConfig,
)


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=SeriesData(source="series.npz"),
        augment=SeriesPolicy(),
        model=ModelConfig(encoder="dilated"),
        method=SimCLRConfig(temperature=0.2),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            scaling="none",
            warmup_epochs=5.0,
            weight_decay=1e-4,
        ),
        train=TrainConfig(batch_size=128, epochs=200, evaluate_every=20, checkpoint_every=20),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
