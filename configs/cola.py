"""COLA on your own recordings: two segments of a recording, bilinear similarity, batch 64.

Source: COLA (arXiv 2010.10915; github.com/google-research/google-research, folder cola at 0c1bbe5):
segments of 1 s at 16 kHz, 64 mel bands from 60 to 7,800 Hz, frames of 25 ms every 10 ms, one dense
layer of 512 with LayerNorm and tanh, a bilinear similarity, Adam 1e-3, batch 64, 100 epochs.
Different here: log power in place of log magnitude, noise of both views in place of the second, and
a ResNet in place of EfficientNet-B0. Recordings of less than 1 s enter whole.
Expected: not run here.
Hardware and time: not run here.
Needs: data.source, a folder of recordings or a .csv list with path and optionally label and group;
labels are not needed, and are used for evaluation only. pip install 'cssl-jax[audio]'
Command: cssl-jax pretrain cola --data.source recordings --workdir RUN
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
from cssl_jax.methods.cola import COLAConfig


def get_config() -> Config:
    """The recipe."""
    policy = AudioPolicy(
        crop_length=(1.0, 1.0),
        gain=(0.0,),
        noise_snr_db=(20.0, 60.0),
        stretch=(0.0,),
        warp=(0.0,),
        tilt=(0.0,),
        time_mask=(0.0,),
        mel_mask=(0.0,),
    )
    return Config(
        data=AudioData(source="recordings", seconds=1.0),
        augment=policy,
        model=ModelConfig(
            encoder="spectrogram_resnet18",
            projector_layers=1,
            projector_dim=512,
            projector_norm=False,
            zero_init_residual=False,
        ),
        method=COLAConfig(),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            scaling="none",
            warmup_epochs=0.0,
            schedule="constant",
            weight_decay=0.0,
        ),
        train=TrainConfig(batch_size=64, epochs=100, evaluate_every=10, checkpoint_every=10),
        evaluate=EvaluateConfig(knn_k=5, batch_size=256),
    )
