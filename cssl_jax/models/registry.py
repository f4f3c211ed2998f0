"""Encoders by name; a new one is a file in this package and a line here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from cssl_jax.registries import look_up


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """Registry entry of an encoder.

    The module that it builds is called as ``(x, train=False, keys=None, keep=None)``:

    - ``x``: normalised inputs, float [n, ...]; images are [n, H, W, C]. Of another modality a tree
      of arrays, such as {"values": float [n, T, C], "length": int32 [n]}, whose lengths become a
      padding mask;
    - ``train``: True to use batch statistics and to draw random masks;
    - ``keys``: uint32 [n, 2], a key per row for ``models.dropout``, from ``view_keys``. The result
      depends on nothing else that is random. None where nothing is drawn;
    - ``keep``: bool mask over the patches or steps of each row, [n, T], False where one is omitted
      or padded; None: all of them are encoded. An encoder without patches or steps refuses a mask.
      An encoder of patches also takes the numbers of those that are kept, int32 [n, V]: only they
      are encoded, and "tokens" has V rows in their order.

    It returns a dict with "features", float [n, D], float32 or wider, and where they exist
    "tokens", features of each patch or step [n, T, D], and "stages", the list of feature maps after
    each stage. It provides:

    - ``num_stages``: number of its stages;
    - ``depth_of(path)``: stage of a parameter, from its path below the encoder; 0 is the stem;
    - fields ``axis_name``, ``norm_groups`` (``models.normalization.NormGroups`` or a number) and
      ``norm_momentum`` of its BatchNorm layers, which ``clone`` replaces where statistics are
      estimated again;
    - where it has parameters that are never trained, ``is_frozen(path)``, True for these;
    - where other libraries store arrays among the parameters that are none here,
      ``constants(size)``, these arrays by name for images of this side;
    - ``with_live_branches()``: the same module, initialised so that every residual branch
      contributes to the output, for the untrained baseline.

    Attributes:
        build: Keyword arguments width, stem, remat, axis_name, norm_groups, zero_init_residual and
            dtype (see ``models.resnet.ResNet``) -> module. Those without a meaning for the encoder
            are ignored. Further ones are ``options``, and those of ``Modality.encoder_options``,
            such as the vocabulary of text.
        reduced: Name of an encoder with the same kinds of layers that is as small as possible, for
            ``cssl-jax selfcheck``; "" is the encoder itself.
        modalities: Names of the package's modalities whose examples it takes; (): not stated, and
            not checked before the encoder sees its first input.
        options: Names of further fields of config section ``model`` that ``build`` takes, such as
            the side of a patch. Other encoders refuse values of these fields.
    """

    build: Callable[..., nn.Module]
    reduced: str = ""
    modalities: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


ENCODERS: dict[str, str | EncoderEntry] = {
    "resnet10": "cssl_jax.models.resnet:RESNET10",
    "resnet14": "cssl_jax.models.resnet:RESNET14",
    "resnet18": "cssl_jax.models.resnet:RESNET18",
    "resnet34": "cssl_jax.models.resnet:RESNET34",
    "resnet50": "cssl_jax.models.resnet:RESNET50",
    "resnet101": "cssl_jax.models.resnet:RESNET101",
    "resnet152": "cssl_jax.models.resnet:RESNET152",
    "resnet200": "cssl_jax.models.resnet:RESNET200",
    "vit_micro": "cssl_jax.models.vit.vit:VIT_MICRO",
    "vit_tiny": "cssl_jax.models.vit.vit:VIT_TINY",
    "vit_small": "cssl_jax.models.vit.vit:VIT_SMALL",
    "vit_base": "cssl_jax.models.vit.vit:VIT_BASE",
    "vit_large": "cssl_jax.models.vit.vit:VIT_LARGE",
    "resnet1d": "cssl_jax.models.sequence.resnets:RESNET1D",
    "spectrogram_resnet10": "cssl_jax.models.sequence.resnets:SPECTROGRAM_RESNET10",
    "spectrogram_resnet18": "cssl_jax.models.sequence.resnets:SPECTROGRAM_RESNET18",
    "dilated": "cssl_jax.models.sequence.dilated:DILATED",
    "gru": "cssl_jax.models.sequence.recurrent:GRU",
    "lstm": "cssl_jax.models.sequence.recurrent:LSTM",
    "bigru": "cssl_jax.models.sequence.recurrent:BIGRU",
    "bilstm": "cssl_jax.models.sequence.recurrent:BILSTM",
    "conv_gru": "cssl_jax.models.sequence.conv_gru:CONV_GRU",
    "wave_gru": "cssl_jax.models.sequence.conv_gru:WAVE_GRU",
    "transformer": "cssl_jax.models.sequence.transformer:TRANSFORMER",
    "bert_tiny": "cssl_jax.models.text.bert:BERT_TINY",
    "bert_mini": "cssl_jax.models.text.bert:BERT_MINI",
    "bert_small": "cssl_jax.models.text.bert:BERT_SMALL",
    "bert_base": "cssl_jax.models.text.bert:BERT_BASE",
    "minilm": "cssl_jax.models.text.bert:MINILM",
}


def encoder_entry(name: str) -> EncoderEntry:
    """Returns the entry of an encoder.

    Args:
        name: Key of ``ENCODERS``, or "file.py:NAME" of an ``EncoderEntry`` in a file.

    Raises:
        UserError: There is no such encoder.

    Example:
        >>> encoder_entry("resnet18").modalities
        ('image',)
    """
    return look_up("encoder", name, ENCODERS, EncoderEntry)


def encoders_for(modality: str) -> list[str]:
    """Names of the registered encoders that take the examples of a modality of the package."""
    return [name for name in ENCODERS if modality in encoder_entry(name).modalities]


def build_encoder(name: str, **options: Any) -> nn.Module:
    """Builds an encoder by name; ``options`` are those of ``EncoderEntry.build``.

    Raises:
        UserError: There is no such encoder.

    Example:
        >>> build_encoder("resnet18", axis_name=None, norm_groups=1).num_stages
        4
    """
    return encoder_entry(name).build(**options)
