"""SimCLR on recordings."""

from cssl_jax.augment.audio.policy import AudioPolicy
from cssl_jax.config import (
    AudioData,
    Config,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    SimCLRConfig,
    TrainConfig,
)


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=AudioData(source="recordings"),
        augment=AudioPolicy(),
        model=ModelConfig(encoder="spectrogram_resnet10", width=0.25),
        method=SimCLRConfig(temperature=0.1),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=2e-3,
            scaling="none",
            warmup_epochs=2.0,
            weight_decay=1e-4,
        ),
        train=TrainConfig(batch_size=128, epochs=60, evaluate_every=0, checkpoint_every=10),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
