"""TS2Vec on your own series: two overlapping crops, contrasted step by step, about 600 steps.

Source: TS2Vec (arXiv 2106.10466) and its code: batch 8, AdamW 1e-3 without a schedule, weight decay
0.01 (the default of torch), steps masked with probability 0.5, evaluation of averaged weights. The
paper trains 200 steps on at most 100,000 values, else 600; here the length is stated in epochs.
Expected: see docs/series.md for the sets that were measured.
Hardware and time: see docs/series.md.
Needs: data.source, an .npz file with values [N, T, C], a .csv or .parquet table or a .ts file;
labels are not needed, and are used for evaluation only.
Command: cssl-jax pretrain ts2vec --data.source series.npz --workdir RUN
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
from cssl_jax.methods.ts2vec import TS2VecConfig


def get_config() -> Config:
    """The recipe."""
    # The method crops and masks by itself, and the paper has no other augmentation.
    untouched = SeriesPolicy(crop=(0.0,), scaling=(0.0,), jitter=(0.0,), mask=(0.0,))
    return Config(
        data=SeriesData(source="series.npz"),
        augment=untouched,
        model=ModelConfig(encoder="dilated"),
        method=TS2VecConfig(),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            scaling="none",
            schedule="constant",
            warmup_epochs=0.0,
            weight_decay=1e-2,
            exclude_norm_and_bias=False,
        ),
        train=TrainConfig(batch_size=8, epochs=24, evaluate_every=8, checkpoint_every=8),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
