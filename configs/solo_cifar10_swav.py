"""SwAV on CIFAR-10, ResNet-18, batch 256, 1000 epochs: solo-learn's recipe.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/swav.yaml and
augmentations/symmetric.yaml: LARS at 0.6 x N / 256 with trust coefficient 0.02 and clip_lr,
BatchNorm and biases excluded, weight decay 1e-6, 10 epochs of warm-up, cosine, head 2048 -> 128,
3,000 prototypes that stand still for 2 epochs, queue of 3,840 from epoch 50, temperature 0.1,
jitter 0.8, 0.8, 0.8, 0.2, grey 0.2, blur 0.5.
Different here: prototypes have norm 1 after every update (weight normalisation there, whose scale
is learnt), the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), the trust ratio's norm of g + wd w (the sum of norms there), padding 1 in the
stem's convolution (2 there), float32 (16-bit mixed there; --model.dtype bfloat16 is near).
Expected there: 89.17 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_swav --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import solo_cifar10
from cssl_jax.methods.swav import SwAVConfig


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(
        base,
        method=SwAVConfig(prototypes=3000, frozen_epochs=2.0, queue=3840, queue_epochs=50.0),
    )
    return config.replace(
        {
            "model.norm_views": "apart",
            "model.projector_hidden": 2048,
            "model.projector_dim": 128,
            "model.projector_norm": True,
            "optimizer.learning_rate": 0.6,
            "optimizer.weight_decay": 1e-6,
        }
    )
