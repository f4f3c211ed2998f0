"""SimCLR on CIFAR-10, ResNet-18, batch 512, 1000 epochs: dkobak's recipe.

Source: github.com/dkobak/simclr-cifar10 at 44b2500, README: SGD 0.03 x N / 256 (0.06 for 100
epochs: see cifar10_resnet18), weight decay 5e-4 on everything, cosine without warm-up, temperature
0.5, head 1024 -> 128 without BatchNorm, crop area from 0.2, jitter 0.4, 0.4, 0.4, 0.1, grey 0.1
(called important there), no blur, images in [0, 1] without mean and deviation.
Different here: both views in one forward pass (joint BatchNorm statistics; there one pass a view),
the initialisation of the SimCLR code, the rate changed every step (there every epoch), an epoch
without its incomplete batch (97 steps; 98 there); kNN votes are weighted by similarity (there every
neighbour counts the same).
Expected there (3 runs, last epoch, frozen features): kNN-10 91.4 +- 0.0, linear 91.7 +- 0.1.
Not run here.
Hardware and time there: one A100 with 16 CPU workers, 11.9 s an epoch, 3.3 hours.
Command: cssl-jax pretrain dkobak_cifar10 --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
"""

from cssl_jax.config import Config
from cssl_jax.configs import cifar10_resnet18


def get_config() -> Config:
    """The recipe."""
    short: Config = cifar10_resnet18.get_config()
    return short.replace(
        {
            "data.normalize": "unit",
            "optimizer.learning_rate": 0.03,
            "train.epochs": 1000,
            "train.evaluate_every": 50,
            "train.checkpoint_every": 50,
        }
    )
