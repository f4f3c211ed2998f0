"""MoCo v3 on ImageNet, vit_small, batch 4096, 300 epochs: the authors' recipe.

Source: github.com/facebookresearch/moco-v3 at c349e6e, main_moco.py, moco/builder.py and vits.py
(arXiv 2104.02057, section 4): ViT-S/16 with 12 heads, fixed positions, a frozen random projection
of patches, AdamW at 1.5e-4 x N / 256, weight decay 0.1 of every parameter, 40 epochs of warm-up,
cosine, head of 3 layers of 4096 -> 256, predictor 4096 -> 256, temperature 0.2, momentum 0.99 to 1
along a cosine, random crop of 8 to 100 % of the area, flip, jitter 0.4, 0.4, 0.2, 0.1, grey 0.2,
blur of all first and 10 % of the second views, solarisation of 20 % of the second.
Different here: initial weights of timm's ViT (Xavier uniform there, and a range of its own for the
patch projection); no BatchNorm after the predictor (one without scale and bias there); float32
(16-bit mixed there; --model.dtype bfloat16 is near).
Expected there: 73.2 % top-1 by a linear classifier after 300 epochs; 76.7 with vit_base. Not run
here: it needs a pod.
Hardware and time: not stated there; a batch of 1024 is said to work for this size.
Command: cssl-jax pretrain imagenet_vit_small_moco_v3 --workdir RUN
    with the prepared TFDS set, or --data.source and --data.validation-source a folder each
"""

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import Config, ImageData, ModelConfig, OptimizerConfig, TrainConfig
from cssl_jax.methods.moco_v3 import MoCoV3Config


def get_config() -> Config:
    """The recipe."""
    return Config(
        data=ImageData(
            source="tfds:imagenet2012@train",
            validation_source="tfds:imagenet2012@validation",
            size=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        augment=ImagePolicy(
            interpolation="bilinear",
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
            grayscale=(0.2,),
            blur=(1.0, 0.1),
            solarize=(0.0, 0.2),
        ),
        model=ModelConfig(
            encoder="vit_small",
            patch=16,
            heads=12,
            positions="sincos_moco_v3",
            freeze_patch_projection=True,
            norm_views="apart",
            projector_layers=3,
            projector_hidden=4096,
            projector_dim=256,
            projector_norm=True,
        ),
        method=MoCoV3Config(
            temperature=0.2, predictor_hidden=4096, momentum=0.99, momentum_end=1.0
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1.5e-4,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=40.0,
            weight_decay=0.1,
            exclude_norm_and_bias=False,
            b1=0.9,
            b2=0.999,
        ),
        train=TrainConfig(batch_size=4096, epochs=300, evaluate_every=50, checkpoint_every=10),
    )
