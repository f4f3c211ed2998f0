"""Of a config: what is learnt, from which labels and for which domain."""

import dataclasses
from typing import Literal

# Least steps of a fine-tuning: the SimCLR paper's shortest, 60 epochs of 1 % of ImageNet's labels
# in batches of 4,096 (arXiv 2002.05709, App. B.5).
FINETUNE_STEPS = 180


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """The objective.

    Attributes:
        name: "simclr"; "classifier" (fine-tuning, see classifier.*); or "coral" and "dann", a
            classifier that is adapted to another domain (see adapt.*).
        temperature: tau of NT-Xent.
        tile_size: Rows of a tile of the similarity matrix, which then is never held as a whole; or
            when to take tiles: "auto" where it is large, None never. See docs/losses.md.
    """

    name: Literal["simclr", "classifier", "coral", "dann"] = "simclr"
    temperature: float = 0.1
    tile_size: int | Literal["auto"] | None = "auto"

    @property
    def supervised(self) -> bool:
        """Whether it trains a classifier, on labels."""
        return self.name != "simclr"

    @property
    def adapts(self) -> bool:
        """Whether it sees images of a second domain."""
        return self.name in ("coral", "dann")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What method.name "classifier", and every other that has labels, trains.

    Attributes:
        num_classes: Of the labels.
        label_fraction: Share of each class's labelled training images that are trained on.
        stages: Of the encoder that are trained, from the last: "all", or a number; 0 trains the
            classifier alone on frozen features, the linear probe by SGD. BatchNorm uses its running
            statistics unless it is "all".
        head_layers: Hidden layers of the projection head that are kept below the classifier;
            SimCLRv2 keeps one of three.
        layer_decay: Learning rate of a stage over that of the stage after it.
        dropout: Share of the classifier's inputs that are set to 0.
        label_smoothing: Share of the label that goes to all classes alike.
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
    """The domain that method.name "coral" and "dann" adapt to; labels are those of data.source.

    Attributes:
        target: Images of it, as data.source; their labels are not trained on.
        target_validation: Images of it to report on, as data.validation_source; "" holds out a part
            of the target, of the size and by the seed that hold out a part of the source.
        target_labels: As data.labels, of the target.
        coral_weight: Of the CORAL loss beside the cross entropy.
        coral_layer: Whose covariances are aligned: "logits", as the paper does, or "features".
        dann_weight: Of the reversed gradient; it is multiplied by the paper's schedule from 0 to 1.
        dann_hidden: Width of the domain classifier's hidden layers; 0 is the feature width.
    """

    target: str = ""
    target_validation: str = ""
    target_labels: str = "auto"
    coral_weight: float = 1.0
    coral_layer: Literal["logits", "features"] = "logits"
    dann_weight: float = 1.0
    dann_hidden: int = 0
