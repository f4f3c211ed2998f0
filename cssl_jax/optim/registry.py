"""Optimizers by name; a new one is a file in this package and a line here."""

import dataclasses
from collections.abc import Callable

import optax

from cssl_jax.registries import look_up

Chain = tuple[optax.GradientTransformation, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options of the optimizers; each uses those that it has.

    Attributes:
        weight_decay: Weight decay λ, or a function from the step to it. SimCLR's paper uses 1e-6,
            the README of its code 1e-4.
        exclude_norm_and_bias: True to exclude the parameters selected by ``is_norm_or_bias`` from
            decay in all optimizers and from adaptation in "lars". False decays and adapts every
            parameter.
        momentum: Momentum coefficient of "lars" and "sgd".
        nesterov: True for Nesterov momentum in "lars" and "sgd".
        b1: Decay rate of the first moment in "adam" and "adamw".
        b2: Decay rate of the second moment in "adam" and "adamw".
        eps: Constant added to the root of the second moment in "adam" and "adamw".
        trust_coefficient: Trust coefficient η of "lars".
        trust_clip: True to replace trust by min(trust / lr, 1) in "lars", as ``clip_lr`` of
            solo-learn's LARS (after LARC). No tensor then moves faster than lr.
        trust_eps: Constant ε in the denominator of the trust ratio of "lars". The TensorFlow code
            uses 0, solo-learn 1e-8.
        clip_norm: Maximum global norm of the raw gradient, before decay; None: no clipping.
        clip_tensor_norm: Maximum norm of the raw gradient of each tensor; None: no clipping.
    """

    weight_decay: float | optax.Schedule = 0.0
    exclude_norm_and_bias: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    trust_coefficient: float = 0.001
    trust_clip: bool = False
    trust_eps: float = 0.0
    clip_norm: float | None = None
    clip_tensor_norm: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """Registry entry of an optimizer.

    It builds a chain of transformations, weight decay and learning rate included. Each ``update``
    receives the parameters. Parameters and gradients are float32 or wider, and the gradient is
    clipped before. The step of the schedule must be counted in optax's ``ScaleByScheduleState``, as
    ``optax.scale_by_learning_rate`` does: it also counts the steps whose update is skipped.

    Attributes:
        build: (learning-rate schedule, options) -> transformations in the order of application.
        trust_ratios: True if it scales the update of each tensor by ``trust_ratio.trust_ratios``:
            then ``trust_clip`` is accepted and the ratios are logged.
        nesterov: True if it has Nesterov momentum.
    """

    build: Callable[[optax.Schedule, OptimizerOptions], Chain]
    trust_ratios: bool = False
    nesterov: bool = False


OPTIMIZERS: dict[str, str | OptimizerEntry] = {
    "lars": "cssl_jax.optim.optimizers:LARS",
    "sgd": "cssl_jax.optim.optimizers:SGD",
    "adam": "cssl_jax.optim.optimizers:ADAM",
    "adamw": "cssl_jax.optim.optimizers:ADAMW",
}


def optimizer_entry(name: str) -> OptimizerEntry:
    """Returns the entry of an optimizer.

    Args:
        name: Key of ``OPTIMIZERS``, or "file.py:NAME" of an ``OptimizerEntry`` in a file.

    Raises:
        UserError: There is no such optimizer.

    Example:
        >>> optimizer_entry("lars").trust_ratios
        True
    """
    return look_up("optimizer", name, OPTIMIZERS, OptimizerEntry)
