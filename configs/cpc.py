"""CPC on your own series: a GRU predicts the next outputs of strided convolutions, 200 epochs.

Source: CPC (arXiv 1807.03748): InfoNCE over several future steps with the other series of the batch
as negatives, Adam 2e-4 without a schedule. Its encoder is for sound at 16 kHz; encoder, batch size
and number of epochs are this project's own for series of tens to hundreds of steps.
Expected: see docs/series.md for the sets that were measured.
Hardware and time: see docs/series.md.
Needs: data.source, an .npz file with values [N, T, C], a .csv or .parquet table or a .ts file;
labels are not needed, and are used for evaluation only.
Command: cssl-jax pretrain cpc --data.source series.npz --workdir RUN
"""

from cssl_jax.augment.series.policy import SeriesPolicy
from cssl_jax.config import (
    Config,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    SeriesData,
    TrainConfig,
)
from cssl_jax.methods.cpc import CPCConfig


def get_config() -> Config:
    """The recipe."""
    # The paper predicts a series from its own past, without augmentation.
    untouched = SeriesPolicy(crop=(0.0,), scaling=(0.0,), jitter=(0.0,), mask=(0.0,))
    return Config(
        data=SeriesData(source="series.npz"),
        augment=untouched,
        model=ModelConfig(encoder="conv_gru"),
        method=CPCConfig(),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=2e-4,
            scaling="none",
            schedule="constant",
            warmup_epochs=0.0,
            weight_decay=0.0,
        ),
        train=TrainConfig(batch_size=32, epochs=200, evaluate_every=50, checkpoint_every=50),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
