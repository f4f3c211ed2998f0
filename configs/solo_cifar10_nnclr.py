"""NNCLR on CIFAR-10, ResNet-18, batch 256, 1000 epochs: solo-learn's recipe.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/nnclr.yaml and
augmentations/asymmetric.yaml: LARS at 0.4 x N / 256 with trust coefficient 0.02 and clip_lr,
BatchNorm and biases excluded, weight decay 1e-5, 10 epochs of warm-up, cosine, head 2048 -> 2048 ->
256, predictor 4096 -> 256, temperature 0.2, support set of 65,536 projections, more than there are
images, jitter 0.4, 0.4, 0.2, 0.1, grey 0.2, no blur, solarisation 0.2 of the second view.
Different here: the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), the trust ratio's norm of g + wd w (the sum of norms there), padding 1 in the stem's
convolution (2 there), float32 (16-bit mixed there; --model.dtype bfloat16 is near).
Expected there: 91.88 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_nnclr --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import solo_cifar10
from cssl_jax.methods.nnclr import NNCLRConfig


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(
        base, method=NNCLRConfig(temperature=0.2, predictor_hidden=4096, queue=65536)
    )
    return config.replace(
        {
            **solo_cifar10.ASYMMETRIC,
            "model.norm_views": "apart",
            "model.projector_layers": 3,
            "model.projector_norm": True,
            "optimizer.learning_rate": 0.4,
            "optimizer.weight_decay": 1e-5,
        }
    )
