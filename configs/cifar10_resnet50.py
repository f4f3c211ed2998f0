"""SimCLR on CIFAR-10, ResNet-50, batch 1024, 1000 epochs: the paper's appendix.

Source: the SimCLR paper (arXiv 2002.05709), appendix B.9: 3x3 stem without max-pool, jitter of
strength 0.5, no blur, the rest as on ImageNet (LARS, weight decay 1e-6, 10 epochs of warm-up,
cosine); batch 1024 and temperature 0.5 did best of long runs. Of their learning rates 0.5, 1.0 and
1.5 (x N / 256) the middle one stands here; the paper gives a plot, no table.
Colours are those of the authors' code (augment.color_mode "tf").
Different here: initialisation of this library's ResNet; the crop's aspect ratio is drawn
log-uniformly (there uniformly); the probe is a logistic regression on the
features of unaugmented images.
Expected there: 94.0 % top-1 by linear evaluation (supervised 95.1 %); others reproduced 93.4 to
93.7 % (dkobak, SupContrast, AndrewAtanov). Not run here.
Hardware and time: AndrewAtanov's run took 13 hours on two V100.
Command: cssl-jax pretrain cifar10_resnet50 --workdir RUN
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
            normalize="unit",
        ),
        augment=ImagePolicy(
            jitter_strength=0.5,
            brightness_mode="additive",
            color_mode="tf",
            blur=(0.0,),
            antialias=False,
            dct_scaling=False,
        ),
        model=ModelConfig(
            encoder="resnet50",
            stem="cifar",
            projector_layers=2,
            projector_hidden=2048,
            projector_dim=128,
        ),
        method=SimCLRConfig(temperature=0.5),
        optimizer=OptimizerConfig(
            name="lars",
            learning_rate=1.0,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=10.0,
            weight_decay=1e-6,
        ),
        train=TrainConfig(batch_size=1024, epochs=1000, evaluate_every=50, checkpoint_every=50),
        evaluate=EvaluateConfig(knn_k=200, batch_size=1024),
    )
