"""MoCo v2+ on CIFAR-10, ResNet-18, batch 256, 1000 epochs: solo-learn's recipe.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/mocov2plus.yaml and
augmentations/symmetric_weak.yaml: SGD at 0.3 x N / 256, weight decay 1e-4 on all parameters, 10
epochs of warm-up, cosine, head 2048 -> 256 without BatchNorm, two queues of 32,768 keys,
temperature 0.2, momentum 0.99 to 0.999 along a cosine, jitter 0.4, 0.4, 0.4, 0.1, grey 0.2, blur
0.5 with Pillow's kernel.
Different here: the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), padding 1 in the stem's convolution (2 there), float32 (16-bit mixed there;
--model.dtype bfloat16 is near).
Expected there: 92.94 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_moco_v2 --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import solo_cifar10
from cssl_jax.methods.moco_v2 import MoCoV2Config


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(
        base,
        method=MoCoV2Config(
            temperature=0.2, queue=32768, momentum=0.99, momentum_end=0.999, symmetric=True
        ),
    )
    return config.replace(
        {
            "augment.brightness": 0.4,
            "augment.contrast": 0.4,
            "augment.saturation": 0.4,
            "augment.hue": 0.1,
            "model.norm_views": "apart",
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 0.3,
            "optimizer.weight_decay": 1e-4,
            "optimizer.exclude_norm_and_bias": False,
            "optimizer.trust_coefficient": 0.001,
            "optimizer.trust_clip": False,
            "optimizer.trust_eps": 0.0,
        }
    )
