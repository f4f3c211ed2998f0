"""BYOL on your own recordings: the predictions of BYOL-A, batch 256, 100 epochs.

Source: BYOL-A (arXiv 2204.07402; github.com/nttcslab/byol-a at faab529, config.yaml): windows of
0.95 s at 16 kHz, 64 mel bands from 60 to 7,800 Hz, frames of 64 ms every 10 ms, heads of 4,096 and
256, momentum 0.99, Adam 3e-4, batch 256, 100 epochs, sections of 0.6 to 1.5 of the spectrogram.
Different here: no mixing with other recordings, whose place noise takes; the bands are resized
without leaving the spectrum; the momentum rises to 1 along a cosine (constant there); the encoder
is a ResNet (three convolutions and an MLP per frame there).
Expected: not run here.
Hardware and time: not run here.
Needs: data.source, a folder of recordings or a .csv list with path and optionally label and group;
labels are not needed, and are used for evaluation only. pip install 'cssl-jax[audio]'
Command: cssl-jax pretrain byol_a --data.source recordings --workdir RUN
"""

from cssl_jax.augment.audio.policy import AudioPolicy
from cssl_jax.config import (
    AudioData,
    Config,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from cssl_jax.methods.byol import BYOLConfig


def get_config() -> Config:
    """The recipe."""
    policy = AudioPolicy(
        crop_length=(1.0, 1.0),
        gain=(0.0,),
        noise=(1.0,),
        noise_snr_db=(5.0, 30.0),
        stretch_factor=(0.6, 1.5),
        warp_factor=(0.6, 1.0),
        tilt=(0.0,),
        time_mask=(0.0,),
        mel_mask=(0.0,),
    )
    return Config(
        data=AudioData(source="recordings", seconds=0.95, window_ms=64.0),
        augment=policy,
        model=ModelConfig(
            encoder="spectrogram_resnet18",
            norm_views="apart",
            projector_hidden=4096,
            projector_dim=256,
            zero_init_residual=False,
        ),
        method=BYOLConfig(predictor_hidden=4096, momentum=0.99, momentum_end=1.0),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=3e-4,
            scaling="none",
            warmup_epochs=0.0,
            schedule="constant",
            weight_decay=0.0,
        ),
        train=TrainConfig(batch_size=256, epochs=100, evaluate_every=10, checkpoint_every=10),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
