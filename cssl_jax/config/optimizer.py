"""Config section optimizer: optimizer and learning-rate schedule."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and learning-rate schedule.

    Attributes:
        name: Optimizer: "lars", "sgd", "adam" (coupled weight decay) or "adamw" (decoupled); or
            file.py:NAME of your own.
        learning_rate: Learning rate before it is scaled by the batch size.
        scaling: Factor of the learning rate for the global batch size N: "linear" is N / 256;
            the other choices are "sqrt" for the square root of N, and "none".
        schedule: Learning rate after the warm-up: "cosine" decays to zero, "constant" stays.
        warmup_epochs: Number of epochs, fractions allowed, of linear warm-up from zero.
        weight_decay: Factor of the weight decay.
        weight_decay_end: Factor of the weight decay at the end of the run, approached along half a
            cosine; None keeps weight_decay.
        exclude_norm_and_bias: Exclude parameters of norms, biases, class tokens and learned
            positions from weight decay and from LARS adaptation.
        momentum: Momentum of LARS and SGD.
        nesterov: Nesterov momentum in LARS and SGD.
        b1: Decay rate of Adam's first moment.
        b2: Decay rate of Adam's second moment.
        trust_coefficient: Trust coefficient eta of LARS.
        trust_clip: Limit LARS's rate per tensor to the learning rate (solo-learn's clip_lr).
        trust_eps: Constant added to the norm in the denominator of LARS's ratio: 0 in the paper's
            code, 1e-8 in solo-learn.
        clip_norm: Maximum global norm of the gradient; None does not clip.
        clip_tensor_norm: Maximum norm of the gradient of each tensor; None does not clip.
        layer_decay: Ratio of the learning rate of an encoder's stage to that of the next stage; 1
            treats all stages alike.
    """

    name: str = "lars"
    learning_rate: float = 0.3
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 10.0
    weight_decay: float = 1e-6
    weight_decay_end: float | None = None
    exclude_norm_and_bias: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    trust_coefficient: float = 0.001
    trust_clip: bool = False
    trust_eps: float = 0.0
    clip_norm: float | None = None
    clip_tensor_norm: float | None = None
    layer_decay: float = 1.0
