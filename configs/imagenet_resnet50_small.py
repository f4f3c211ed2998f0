"""SimCLR on ImageNet, ResNet-50, batch 256, 100 epochs: for small hardware.

Source: the SimCLR paper (arXiv 2002.05709), appendix B.1: with small batches and few epochs the
learning rate 0.075 x sqrt(N) (1.2 at 256) does better than 0.3 x N / 256. All else as in
imagenet_resnet50.
Different here: as there.
Expected there (table B.1, linear probe on the validation set): 62.8 % top-1 at 100 epochs, 64.3 at
200 (linear scaling: 57.5 and 61.9). Not run here.
Hardware and time: not stated there; Lightly document 4 days on two RTX 4090 for the like (63.2 %).
Command: cssl-jax pretrain imagenet_resnet50_small --workdir RUN
    with the prepared TFDS set, or --data.source and --data.validation-source a folder each
"""

from cssl_jax.config import Config
from cssl_jax.configs import imagenet_resnet50


def get_config() -> Config:
    """The recipe."""
    large: Config = imagenet_resnet50.get_config()
    return large.replace(
        {
            "optimizer.learning_rate": 0.075,
            "optimizer.scaling": "sqrt",
            "train.batch_size": 256,
        }
    )
