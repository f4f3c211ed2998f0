"""SimCLR on CIFAR-10, ResNet-18, batch 512, 200 epochs: the benchmark of Lightly.

Source: github.com/lightly-ai/lightly at e8d317f, docs/source/getting_started/benchmarks/
cifar10_benchmark.py: SGD 0.06 x N / 128 (0.12 x N / 256 here, the same number), momentum 0.9,
weight decay 5e-4 on everything, cosine without warm-up, temperature 0.5, head 512 -> 512 -> 128
with BatchNorm after both layers, jitter of strength 0.5, no blur, mean and deviation of ImageNet.
Different here: their ResNet-18 is a generator of its own; the head's last BatchNorm has no bias
(there it has); both views in one forward pass (joint BatchNorm statistics; there one pass a view);
the rate changed every step (there every epoch).
Expected there: kNN-200 84.8 % at 200 epochs, 87.9 at 800 (maximum over epochs, not the last).
Not run here.
Hardware and time there: one A6000, 87 minutes for 200 epochs, 4.9 GB.
Command: cssl-jax pretrain lightly_cifar10 --workdir RUN
    with cifar10_train.npz and cifar10_test.npz here, or --data.source tfds:cifar10@train
    --data.validation-source tfds:cifar10@test
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
        data=DataConfig(
            source="cifar10_train.npz",
            validation_source="cifar10_test.npz",
            size=32,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augment=ImagePolicy(interpolation="bilinear", jitter_strength=0.5, blur=(0.0,)),
        model=ModelConfig(
            encoder="resnet18", stem="cifar", projector_hidden=512, projector_dim=128
        ),
        method=SimCLRConfig(temperature=0.5),
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.12,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=5e-4,
            exclude_norm_and_bias=False,
        ),
        train=TrainConfig(batch_size=512, epochs=200),
        evaluate=EvaluateConfig(knn_k=200, knn_temperature=0.1, batch_size=512),
    )
