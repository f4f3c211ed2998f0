"""Config sections of the methods: objective, classifier, domain adaptation."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from cssl_jax.config.ranges import POSITIVE, Range

# Minimum number of steps of a fine-tuning: the SimCLR paper's shortest, 60 epochs of 1 % of
# ImageNet's labels in batches of 4,096 (arXiv 2002.05709, App. B.5).
FINETUNE_STEPS = 180


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The objective. A method with options of its own has a subclass, named by its registry entry.

    Attributes:
        name: Method: "simclr", "barlow_twins", "vicreg", "simsiam", "byol", "moco_v2", "moco_v3",
            "nnclr", "swav", "dino", "lejepa" or "mae" (Vision Transformers), see docs/methods.md;
            "ts2vec" or "cpc" (series, docs/series.md); "cola" (recordings, docs/audio.md); "simcse"
            (text, docs/text.md); "classifier" (fine-tuning, see classifier.*); "coral" or "dann" (a
            classifier adapted to another domain, see adapt.*); "distillation" (a classifier that
            imitates another one); or file.py:NAME of your own. Another method than the recipe's has
            that method's default options and projection head.
    """

    # Allowed values of the options that are numbers, by field.
    ranges: ClassVar[Mapping[str, Range]] = {}

    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLRConfig(MethodConfig):
    """Two views of every image, contrasted with the views of all others.

    It is defined here, and not beside its method, because a config is SimCLR's by default.

    Attributes:
        loss: Loss of two views: nt_xent, as in the paper, or another one of docs/losses.md; or
            file.py:NAME of your own.
        temperature: Temperature tau that divides the similarities in the loss.
        tile_size: Rows per tile of the similarity matrix, which then is never held as a whole; by
            default, "auto", tiles are used if the matrix is large; None disables them. See
            docs/losses.md.
    """

    ranges: ClassVar[Mapping[str, Range]] = {"temperature": POSITIVE, "tile_size": POSITIVE}

    name: str = "simclr"
    loss: str = "nt_xent"
    temperature: float = 0.1
    tile_size: int | Literal["auto"] | None = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Classifier of method "classifier" and of the domain-adaptation methods.

    Attributes:
        num_classes: Number of classes; `cssl-jax finetune` counts them.
        label_fraction: Fraction of each class's labelled training images to train on.
        stages: Number of encoder stages to train, counted from the last, or "all". 0 trains the
            classifier alone on frozen features: the linear probe by SGD. BatchNorm uses its running
            statistics unless it is "all".
        head_layers: Number of hidden layers of the projection head kept below the classifier;
            SimCLRv2 keeps one of three.
        layer_decay: Ratio of a stage's learning rate to that of the next stage; 1 trains all stages
            at the same rate.
        dropout: Fraction of the classifier's inputs that are set to 0.
        label_smoothing: Fraction of the label that is spread evenly over all classes.
    """

    num_classes: int = 0
    label_fraction: float = 1.0
    stages: int | Literal["all"] = "all"
    head_layers: int = 0
    layer_decay: float = 1.0
    dropout: float = 0.0
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Target domain of the methods "coral" and "dann"; data.source is the labelled domain.

    Attributes:
        target: Images of the target domain, given as data.source; their labels are not trained on.
        target_validation: Images of the target domain to report on, given as
            data.validation_source; "" holds out a split of the target by the size and seed that
            hold out a split of the source.
        target_labels: Labels of the target domain, given as data.labels; used to report only.
        coral_weight: Weight of the CORAL loss beside the cross entropy.
        coral_layer: Layer whose covariances are aligned: "logits", as in the paper, or "features".
        dann_weight: Weight of the reversed gradient; the paper's schedule from 0 to 1 multiplies
            it.
        dann_hidden: Width of the domain classifier's hidden layers; 0 is the feature width.
    """

    target: str = ""
    target_validation: str = ""
    target_labels: str = "auto"
    coral_weight: float = 1.0
    coral_layer: Literal["logits", "features"] = "logits"
    dann_weight: float = 1.0
    dann_hidden: int = 0
