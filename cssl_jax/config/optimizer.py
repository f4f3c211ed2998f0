"""Of a config: the update."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The update.

    Attributes:
        name: "lars", "sgd", "adam" (coupled decay) or "adamw" (decoupled).
        learning_rate: Before scaling by the batch size.
        scaling: "linear" (x N / 256), "sqrt" (x sqrt N) or "none".
        schedule: "cosine" to zero or "constant", after the warm-up.
        warmup_epochs: Of linear warm-up; fractions allowed.
        weight_decay: Its factor.
        exclude_norm_and_bias: Leave BatchNorm and biases out of decay and of LARS adaptation.
        momentum: Of LARS and SGD.
        nesterov: Of LARS and SGD.
        b1: Of Adam.
        b2: Of Adam.
        trust_coefficient: eta of LARS.
        trust_clip: Of LARS: no tensor moves faster than the learning rate (solo-learn's clip_lr).
        trust_eps: Of LARS: added to the norm under its ratio; the paper's code 0, solo-learn 1e-8.
        clip_norm: Largest global norm of the gradient; None does not clip.
    """

    name: Literal["lars", "sgd", "adam", "adamw"] = "lars"
    learning_rate: float = 0.3
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 10.0
    weight_decay: float = 1e-6
    exclude_norm_and_bias: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    trust_coefficient: float = 0.001
    trust_clip: bool = False
    trust_eps: float = 0.0
    clip_norm: float | None = None
