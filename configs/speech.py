"""SimCLR on your own recordings: log-mel spectrograms, narrow ResNet-10, batch 128, 60 epochs.

Source: the settings are this project's own for short recordings and small hardware; the method is
SimCLR (arXiv 2002.05709). The views resize the spectrogram along time and bands, as BYOL-A does
(arXiv 2204.07402), tilt it and mask it (SpecAugment, arXiv 1904.08779).
Expected: not measured yet; benchmarks/audio.py is the measurement.
Hardware and time: not measured yet.
Needs: data.source, a folder of recordings or a .csv list with path and optionally label and group;
labels are not needed, and are used for evaluation only. pip install 'cssl-jax[audio]'
Command: cssl-jax pretrain speech --data.source recordings --workdir RUN
"""

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
        model=ModelConfig(encoder="spectrogram_resnet10", width=0.25, zero_init_residual=False),
        method=SimCLRConfig(temperature=0.1),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=2e-3,
            scaling="none",
            warmup_epochs=2.0,
            weight_decay=1e-4,
        ),
        train=TrainConfig(batch_size=128, epochs=60, evaluate_every=10, checkpoint_every=10),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
