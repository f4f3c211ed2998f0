"""MAE on ImageNet, vit_base, batch 4096, 800 epochs: the authors' recipe.

Source: github.com/facebookresearch/mae at efb2a80, PRETRAIN.md, main_pretrain.py and models_mae.py
(arXiv 2111.06377, appendix A.1): ViT-B/16 with fixed positions, AdamW at 1.5e-4 x N / 256, betas
0.9 and 0.95, weight decay 0.05 of all but norms, biases and tokens, 40 epochs of warm-up, cosine,
75 % of the patches hidden, decoder of 8 blocks of 512 channels and 16 heads, loss on the pixels of
a patch without its mean and deviation, random crop of 20 to 100 % of the area, flip.
Different here: initial weights of timm's ViT in the encoder (Xavier uniform there), float32 (16-bit
mixed there; --model.dtype bfloat16 is near).
Expected there: after 1600 epochs 68.0 % top-1 by a linear classifier (67.8 by the PyTorch code),
83.6 % after fine-tuning. Not run here: it needs a pod.
Hardware and time there: 64 V100, 42 hours for 800 epochs of ViT-L.
Command: cssl-jax pretrain imagenet_vit_base_mae --workdir RUN
    with the prepared TFDS set, or --data.source and --data.validation-source a folder each
"""

from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config import Config, ImageData, ModelConfig, OptimizerConfig, TrainConfig
from cssl_jax.methods.mae import MAEConfig


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
            crop_area=(0.2, 1.0),
            jitter=(0.0,),
            grayscale=(0.0,),
            blur=(0.0,),
        ),
        model=ModelConfig(encoder="vit_base", patch=16, positions="sincos_mae"),
        method=MAEConfig(
            masked=0.75,
            normalize_pixels=True,
            decoder_layers=8,
            decoder_hidden=512,
            decoder_heads=16,
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=1.5e-4,
            scaling="linear",
            schedule="cosine",
            warmup_epochs=40.0,
            weight_decay=0.05,
            b1=0.9,
            b2=0.95,
        ),
        train=TrainConfig(batch_size=4096, epochs=800, evaluate_every=50, checkpoint_every=10),
    )
