"""SwAV on ImageNet, ResNet-50, batch 256, 400 epochs: the authors' recipe.

Source: github.com/facebookresearch/swav, scripts/swav_400ep_bs256_pretrain.sh and main_swav.py
(arXiv 2006.09882, section 4 and appendix A): SGD under LARC with trust coefficient 0.001 at 0.6,
cosine, no warm-up, weight decay 1e-6, both on all parameters, head 2048 -> 128, 3,000 prototypes
that stand still for an epoch, queue of 3,840 from epoch 15, temperature 0.1, epsilon 0.05, three
iterations, two views of 14 to 100 % of the area at 224 px, six of 5 to 14 % at 96 px, flip, jitter
0.8, 0.8, 0.8, 0.2, grey 0.2, blur 0.5.
Different here: LARS in place of LARC, whose learning rate is outside the momentum buffer; the rate
ends at 0 (at 6e-4 there); the head's BatchNorm covers the views of one size (of all views there);
the queue is filled from the start (from epoch 15 there, and used once it is full); the kernel of
the blur has 10 % of a view's side (23 px there); float32 (16-bit mixed there; --model.dtype
bfloat16 is near).
Expected there: 74.3 % top-1 by a linear classifier. Not run here: it needs several accelerators.
Hardware and time there: 4 GPUs; a limit of 72 hours.
Command: cssl-jax pretrain imagenet_resnet50_swav --workdir RUN
    with the prepared TFDS set, or --data.source and --data.validation-source a folder each
"""

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import Config, ImageData, ModelConfig, OptimizerConfig, TrainConfig
from cssl_jax.methods.swav import SwAVConfig


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=ImageData(
            source="tfds:imagenet2012@train",
            validation_source="tfds:imagenet2012@validation",
            size=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.228, 0.224, 0.225),
        ),
        augment=ImagePolicy(
            interpolation="bilinear",
            crop_area=(0.14, 1.0),
            brightness=0.8,
            contrast=0.8,
            saturation=0.8,
            hue=0.2,
            grayscale=(0.2,),
            blur=(0.5,),
        ),
        model=ModelConfig(
            encoder="resnet50", projector_layers=2, projector_hidden=2048, projector_dim=128
        ),
        method=SwAVConfig(
            prototypes=3000,
            queue=3840,
            queue_epochs=15.0,
            local_views=6,
            local_size=96,
            local_area=(0.05, 0.14),
        ),
        optimizer=OptimizerConfig(
            name="lars",
            learning_rate=0.6,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=0.0,
            weight_decay=1e-6,
            exclude_norm_and_bias=False,
        ),
        train=TrainConfig(batch_size=256, epochs=400, evaluate_every=50, checkpoint_every=10),
    )
