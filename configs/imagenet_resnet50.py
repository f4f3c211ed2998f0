"""SimCLR on ImageNet, ResNet-50, batch 4096, 100 epochs: the paper's recipe.

Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations
(arXiv 2002.05709), sections 2 to 4 and appendices A and B.1: LARS at 0.3 x N / 256 = 4.8, weight
decay 1e-6, 10 epochs of warm-up, cosine without restarts, temperature 0.1, head 2048 -> 128, random
crop of 8 to 100 % of the area, flip, colour jitter of strength 1 (brightness added, as in appendix
A; the authors' later code multiplies), grey 0.2, blur 0.5, global BatchNorm. Its code has images in
[0, 1] without mean and deviation.
Square root: imagenet_resnet50_small --train.batch-size 4096 (0.075 x sqrt(N), also 4.8 at 4096).
Colours are those of its code (augment.color_mode "tf").
Different here: initialisation of this library's ResNet; the crop's aspect ratio is drawn log-
uniformly (there uniformly); blur mirrors at the border (there zeros); test images are the centre
square resized bilinearly, not the central 87.5 % resized bicubically; the probe is a logistic
regression on the features of 100,000 images (--evaluate.train-limit 0: all), theirs SGD for 90
epochs on crops of all.
Expected there (appendix B.1, linear probe on the validation set): 64.6 % top-1 at 100 epochs
(64.5 % with square root), 66.5 at 200, 68.2 at 400, 68.9 at 800; 69.3 at 1000 (table 6). Not run
here: it needs a pod.
Hardware and time there: 128 TPU v3 cores, 1.5 hours for 100 epochs; batch 4096 needs 32 or more.
Command: cssl-jax pretrain imagenet_resnet50 --workdir RUN
    with the prepared TFDS set, or --data.source and --data.validation-source a folder each
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
            source="tfds:imagenet2012@train",
            validation_source="tfds:imagenet2012@validation",
            size=224,
            normalize="unit",
        ),
        # Other defaults are the paper's; its code decodes whole and resizes without antialiasing.
        augment=ImagePolicy(
            brightness_mode="additive", color_mode="tf", antialias=False, dct_scaling=False
        ),
        model=ModelConfig(
            encoder="resnet50", projector_layers=2, projector_hidden=2048, projector_dim=128
        ),
        method=SimCLRConfig(temperature=0.1),
        optimizer=OptimizerConfig(
            name="lars",
            learning_rate=0.3,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=10.0,
            weight_decay=1e-6,
        ),
        train=TrainConfig(batch_size=4096, epochs=100),
        evaluate=EvaluateConfig(knn_k=200, batch_size=2048, train_limit=100_000),
    )
