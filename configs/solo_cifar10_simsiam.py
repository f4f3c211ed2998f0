"""SimSiam on CIFAR-10, ResNet-18, batch 256, 1000 epochs: solo-learn's recipe.

Source: github.com/vturrisi/solo-learn at 9187ea3, scripts/pretrain/cifar/simsiam.yaml and
augmentations/symmetric_weak.yaml: SGD at 0.5 x N / 256, weight decay 1e-5 on all parameters, 10
epochs of warm-up, cosine, head 2048 -> 2048 -> 2048, predictor 512 at a constant learning rate,
jitter 0.4, 0.4, 0.4, 0.1, grey 0.2, blur 0.5 with Pillow's kernel.
Different here: the learning rate inside the momentum buffer (outside there: the same where the rate
stands still), padding 1 in the stem's convolution (2 there), float32 (16-bit mixed there;
--model.dtype bfloat16 is near).
Expected there: 90.51 % top-1 by an online linear classifier. Not run here.
Hardware and time: not stated there.
Command: cssl-jax pretrain solo_cifar10_simsiam --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

import dataclasses

from cssl_jax.config import Config
from cssl_jax.configs import solo_cifar10
from cssl_jax.methods.simsiam import SimSiamConfig


def get_config() -> Config:
    """The recipe."""
    base: Config = solo_cifar10.get_config()
    config = dataclasses.replace(
        base, method=SimSiamConfig(predictor_hidden=512, constant_predictor_rate=True)
    )
    return config.replace(
        {
            "augment.brightness": 0.4,
            "augment.contrast": 0.4,
            "augment.saturation": 0.4,
            "augment.hue": 0.1,
            "model.norm_views": "apart",
            "model.projector_layers": 3,
            "model.projector_dim": 2048,
            "model.projector_norm": True,
            "optimizer.name": "sgd",
            "optimizer.learning_rate": 0.5,
            "optimizer.weight_decay": 1e-5,
            "optimizer.exclude_norm_and_bias": False,
            "optimizer.trust_coefficient": 0.001,
            "optimizer.trust_clip": False,
            "optimizer.trust_eps": 0.0,
        }
    )
