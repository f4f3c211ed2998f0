"""Barlow Twins on CIFAR-10, ResNet-18, batch 256, 1000 epochs, of solo-learn.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/barlow.yaml and
augmentations/asymmetric.yaml: LARS at 0.3 x N / 256 with trust coefficient 0.02 and clip_lr,
BatchNorm and biases excluded, weight decay 1e-4, 10 epochs of warm-up, cosine, head 2048 -> 2048 ->
2048, lambda 0.0051, the loss times 0.1, jitter 0.4, 0.4, 0.2, 0.1, grey 0.2, no blur, solarisation
0.2 of the second view.
Different here: the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), the trust ratio's norm of g + wd w (the sum of norms there), padding 1 in the stem's
convolution (2 there), float32 (16-bit mixed there; --model.dtype bfloat16 is near).
Expected there: 92.10 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_barlow --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import solo_cifar10
from cssl_jax.methods.barlow_twins import BarlowTwinsConfig


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(base, method=BarlowTwinsConfig(off_diagonal=0.0051, scale=0.1))
    return config.replace(
        {
            **solo_cifar10.ASYMMETRIC,
            "model.norm_views": "apart",
            "model.projector_layers": 3,
            "model.projector_dim": 2048,
            "model.projector_norm": True,
            "optimizer.learning_rate": 0.3,
            "optimizer.weight_decay": 1e-4,
        }
    )
