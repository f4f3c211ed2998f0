"""SupCon on CIFAR-10, ResNet-18, batch 256, 1000 epochs: solo-learn's recipe.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/supcon.yaml and
augmentations/symmetric.yaml: SGD at 0.4 x N / 256, weight decay 1e-5 on all parameters, 10 epochs
of warm-up, cosine, head 2048 -> 256 without BatchNorm, temperature 0.2; it trains on the labels,
jitter 0.8, 0.8, 0.8, 0.2, grey 0.2, blur 0.5 with Pillow's kernel.
Different here: the loss averages the positives outside of the logarithm, as the paper advises
(inside there), the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), padding 1 in the stem's convolution (2 there), float32 (16-bit mixed there;
--model.dtype bfloat16 is near).
Expected there: 93.82 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_sup_con --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config, SimCLRConfig
from cssl_jax.configs import solo_cifar10


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(base, method=SimCLRConfig(loss="sup_con", temperature=0.2))
    return config.replace(
        {
            "model.norm_views": "apart",
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 0.4,
            "optimizer.weight_decay": 1e-5,
            "optimizer.exclude_norm_and_bias": False,
            "optimizer.trust_coefficient": 0.001,
            "optimizer.trust_clip": False,
            "optimizer.trust_eps": 0.0,
        }
    )
