"""DINO on CIFAR-10, ResNet-18, batch 256, 1000 epochs: solo-learn's recipe.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/dino.yaml and
augmentations/asymmetric.yaml: LARS at 0.3 x N / 256 with trust coefficient 0.02 and clip_lr,
BatchNorm and biases excluded, weight decay 1e-6, 10 epochs of warm-up, cosine, head 2048 -> 2048 ->
256 without BatchNorm, 4,096 prototypes, teacher's temperature 0.07 throughout, momentum 0.9995 to 1
along a cosine, jitter 0.4, 0.4, 0.2, 0.1, grey 0.2, no blur, solarisation 0.2 of the second view.
Different here: the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), the trust ratio's norm of g + wd w (the sum of norms there), padding 1 in the
stem's convolution (2 there), float32 (16-bit mixed there; --model.dtype bfloat16 is near).
Expected there: 89.52 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_dino --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import solo_cifar10
from cssl_jax.methods.dino import DINOConfig


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(
        base,
        method=DINOConfig(
            prototypes=4096,
            target_temperature=0.07,
            target_temperature_end=0.07,
            target_warmup_epochs=0.0,
            momentum=0.9995,
        ),
    )
    return config.replace(
        {
            **solo_cifar10.ASYMMETRIC,
            "model.projector_layers": 3,
            "model.norm_views": "apart",
            "model.projector_hidden": 2048,
            "optimizer.learning_rate": 0.3,
            "optimizer.weight_decay": 1e-6,
        }
    )
