"""Config section model: encoder and projection head."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Encoder and projection head.

    Attributes:
        encoder: Encoder of images: resnet10, 14, 18, 34, 50, 101, 152 or 200, or vit_tiny,
            vit_small, vit_base or vit_large (Vision Transformers). Encoder of series:
            resnet1d, dilated (the convolutions of TS2Vec), gru, lstm, bigru, bilstm, conv_gru (the
            encoder of CPC) or transformer. Encoder of recordings: those of series,
            spectrogram_resnet10 or 18, or wave_gru (CPC on waveforms). Encoder of text: bert_tiny,
            bert_mini, bert_small, bert_base or minilm. Or file.py:NAME of your own.
        width: Multiplier of every channel count of the encoder.
        patch: Side of a patch of a Vision Transformer in pixels: 16, or 4 or 8 for small images.
        heads: Number of attention heads of a Vision Transformer; 0: one per 64 channels, as in timm
            and DINO. vit_small of MoCo v3 has 12.
        pool: Features of a Vision Transformer: "token" (its class token) or "mean" (of the patches,
            without a class token).
        positions: Positions of a Vision Transformer's patches: "learned", or a fixed table of sines
            and cosines. Three incompatible tables are in use: "sincos_moco_v3", "sincos_mae" (of
            I-JEPA too) and "sincos_big_vision".
        dropout: Rate of dropout in a Vision Transformer.
        drop_path: Rate at which a branch of the last block of a Vision Transformer is dropped per
            example; the rate grows linearly from 0 in the first block.
        layer_scale: Initial factor of both branches of each block of a Vision Transformer,
            such as 1e-5; 0: there is no factor.
        freeze_patch_projection: Leave the random projection of a Vision Transformer's patches as it
            is, as in MoCo v3.
        stem: First layers of a ResNet: "imagenet" (7x7 stride 2 and max-pool) or "cifar" (3x3
            stride 1); of resnet1d with kernels of 7 and 3 steps.
        norm_group: Number of images that share BatchNorm statistics; 0 is the global batch, or the
            micro-batch (train.micro_batch).
        norm_views: Whether the views of an example share BatchNorm statistics: "joint" (all views
            of a group together, as in SimCLR) or "apart" (statistics of each view's own, as if the
            views were encoded one after another, as in BYOL and SimSiam).
        zero_init_residual: Start the scale of the last BatchNorm of each residual block from 0, as
            in SimCLR, instead of 1, as in BYOL.
        remat: Recompute activations in the backward pass: less memory, a second forward pass. XLA
            undoes it on a CPU.
        dtype: Compute precision; parameters, statistics and losses stay float32.
        projector_layers: Number of layers of the projection head, 1 to 3: 2 in SimCLR, 3 in
            SimCLRv2.
        projector_hidden: Width of the projection head's hidden layers; 0 is the feature width.
        projector_dim: Width of the projections.
        projector_norm: Use BatchNorm in the projection head, as in the paper's code.
    """

    encoder: str = "resnet50"
    width: float = 1.0
    patch: int = 16
    heads: int = 0
    pool: Literal["token", "mean"] = "token"
    positions: Literal["learned", "sincos_moco_v3", "sincos_mae", "sincos_big_vision"] = "learned"
    dropout: float = 0.0
    drop_path: float = 0.0
    layer_scale: float = 0.0
    freeze_patch_projection: bool = False
    stem: Literal["imagenet", "cifar"] = "imagenet"
    norm_group: int = 0
    norm_views: Literal["joint", "apart"] = "joint"
    zero_init_residual: bool = True
    remat: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    projector_layers: int = 2
    projector_hidden: int = 0
    projector_dim: int = 128
    projector_norm: bool = True


# Fields that only the encoders take whose registry entries name them.
ENCODER_OPTIONS = (
    *("patch", "heads", "pool", "positions", "dropout", "drop_path", "layer_scale"),
    "freeze_patch_projection",
)
