"""SimCLR on CIFAR-10, ResNet-18, batch 512, 100 epochs: the affordable benchmark.

Source: the recipe that David Kobak documents for 100 epochs (github.com/dkobak/simclr-cifar10):
SGD 0.06 x N / 256, weight decay 5e-4 on everything, cosine without warm-up, temperature 0.5, head
1024 -> 128 without BatchNorm, crop area from 0.2, jitter 0.4, 0.4, 0.4, 0.1, grey 0.1, batch 512.
Different here: mean and deviation of the training images (images in [0, 1] there), both views in
one forward pass (joint BatchNorm statistics; there one pass a view), the initialisation of the
SimCLR code, the rate changed every step (there every epoch), an epoch without its incomplete batch,
kNN votes weighted by similarity (there every neighbour counts the same).
Expected there (3 runs): kNN 83.2 +- 0.2, linear 85.6 +- 0.2 on the 10,000 test images.
Hardware and time there: one A100, 20 minutes.
Command: cssl-jax pretrain cifar10_resnet18 --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source and --data.validation-source
"""

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    OptimizerConfig,
    SimCLRConfig,
    TrainConfig,
)


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=DataConfig(source="cifar10_train.npz", validation_source="cifar10_test.npz"),
        augment=ImagePolicy(
            crop_area=(0.2, 1.0),
            interpolation="bilinear",
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
            hue=0.1,
            grayscale=(0.1,),
            blur=(0.0,),
        ),
        model=ModelConfig(
            encoder="resnet18",
            stem="cifar",
            projector_hidden=1024,
            projector_dim=128,
            projector_norm=False,
        ),
        method=SimCLRConfig(temperature=0.5),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.06,
            scaling="linear",
            warmup_epochs=0.0,
            weight_decay=5e-4,
            exclude_norm_and_bias=False,
        ),
        train=TrainConfig(batch_size=512, epochs=100),
        evaluate=EvaluateConfig(knn_k=10, batch_size=512),
    )
