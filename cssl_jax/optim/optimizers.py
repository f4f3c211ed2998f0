"""Optimizers: LARS, SGD, Adam, AdamW, and what precedes them.

Every optimizer is a plain optax transformation. ``update`` requires the parameters, which both
weight decay and LARS read.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cssl_jax.errors import UserError
from cssl_jax.methods.parameter_group import ParameterGroup
from cssl_jax.optim.exclusions import mask_of
from cssl_jax.optim.groups import Groups, partitioned
from cssl_jax.optim.norms import leaf_norms, scale_leaves
from cssl_jax.optim.registry import (
    OPTIMIZERS,
    Chain,
    OptimizerEntry,
    OptimizerOptions,
    optimizer_entry,
)
from cssl_jax.optim.step_counter import by_step
from cssl_jax.optim.trust_ratio import adapted_by_trust_ratio, clipped_trust_ratio

PyTree = Any


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    options: OptimizerOptions | None = None,
    groups: Groups | None = None,
) -> optax.GradientTransformation:
    """Return the optimizer called ``name``.

    Let g be the gradient, w the parameter, λ the weight decay (0 for excluded parameters), lr the
    learning rate and v the momentum buffer:

    - "lars" (You et al. 2017, as in SimCLR's TensorFlow code): u = g + λw;
      trust = ``trust_coefficient`` ‖w‖ / (‖u‖ + ``trust_eps``) per tensor, and 1 for excluded
      parameters or where a norm is 0; v = momentum v + lr trust u; w = w - v. The learning rate is
      inside the buffer.
    - "sgd" (as ``torch.optim.SGD``): v = momentum v + g + λw; w = w - lr v.
    - "adam" (as ``torch.optim.Adam``): Adam on g + λw.
    - "adamw" (Loshchilov & Hutter 2019, as ``torch.optim.AdamW``): w = w - lr (Adam(g) + λw).

    Args:
      name: Optimizer in ``registry.OPTIMIZERS``, or "file.py:NAME".
      schedule: Function from the number of completed updates to the learning rate.
      options: Options of the optimizer; None takes the defaults of ``OptimizerOptions``.
      groups: Parameter groups; None treats all parameters alike.

    Returns:
      Transformation whose state and updates have the parameters' dtype or float32, whichever is
      wider. ``optax.apply_updates`` preserves the dtype of the parameters.

    Raises:
      UserError: The name is unknown, a maximum norm is not positive, or the optimizer has no
        Nesterov momentum or no trust ratios and they are requested.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = make_optimizer("sgd", lambda step: 0.1, OptimizerOptions(weight_decay=0.0))
        >>> weights = {"kernel": jnp.ones((1, 1))}
        >>> updates, _ = optimizer.update(weights, optimizer.init(weights), weights)
        >>> round(float(updates["kernel"][0, 0]), 4)  # the gradient is 1
        -0.1
    """
    entry, options = optimizer_entry(name), options or OptimizerOptions()
    if options.nesterov and not entry.nesterov:
        raise UserError(
            f'nesterov=True has no effect in "{name}"; use {_with("nesterov")}, or False'
        )
    if options.trust_clip and not entry.trust_ratios:
        raise UserError(
            f'trust_clip=True has no effect in "{name}"; use {_with("trust_ratios")}, or False'
        )
    before: Chain = ()
    for field, clip in (
        ("clip_norm", optax.clip_by_global_norm),
        ("clip_tensor_norm", clip_by_tensor_norm),
    ):
        limit = getattr(options, field)
        if limit is not None:
            if limit <= 0:
                raise UserError(f"{field} {limit} would stop training; use None for no clipping")
            before = (*before, clip(limit))
    groups = groups or Groups(group_of=lambda path: ParameterGroup(), steps_per_epoch=1)
    return _in_float32_or_wider(partitioned(entry.build, schedule, options, groups, before))


def lars(schedule: optax.Schedule, options: OptimizerOptions) -> Chain:
    """Return the parts of "lars", see ``make_optimizer``."""
    adapt = adapted_by_trust_ratio(options.trust_coefficient, options.trust_eps)
    if options.trust_clip:
        adapt = clipped_trust_ratio(schedule, options.trust_coefficient, options.trust_eps)
    return (
        decayed_weights(options),
        optax.masked(adapt, mask_of(options)),
        optax.scale_by_learning_rate(schedule),
        optax.trace(options.momentum, options.nesterov),
    )


def sgd(schedule: optax.Schedule, options: OptimizerOptions) -> Chain:
    """Return the parts of "sgd", see ``make_optimizer``."""
    return (
        decayed_weights(options),
        optax.trace(options.momentum, options.nesterov),
        optax.scale_by_learning_rate(schedule),
    )


def adam(schedule: optax.Schedule, options: OptimizerOptions) -> Chain:
    """Return the parts of "adam", see ``make_optimizer``."""
    return (
        decayed_weights(options),
        optax.scale_by_adam(options.b1, options.b2, options.eps),
        optax.scale_by_learning_rate(schedule),
    )


def adamw(schedule: optax.Schedule, options: OptimizerOptions) -> Chain:
    """Return the parts of "adamw", see ``make_optimizer``."""
    return (
        optax.scale_by_adam(options.b1, options.b2, options.eps),
        decayed_weights(options),
        optax.scale_by_learning_rate(schedule),
    )


LARS = OptimizerEntry(build=lars, trust_ratios=True, nesterov=True)
SGD = OptimizerEntry(build=sgd, nesterov=True)
ADAM = OptimizerEntry(build=adam)
ADAMW = OptimizerEntry(build=adamw)


def decayed_weights(options: OptimizerOptions) -> optax.GradientTransformation:
    """Return a transformation that adds λw to the update of every decayed parameter w."""
    decay, mask = options.weight_decay, mask_of(options)
    if not callable(decay):
        return optax.add_decayed_weights(decay, mask)

    def add(updates: PyTree, params: PyTree, step: jax.Array) -> PyTree:
        current = decay(step)
        return jax.tree.map(
            lambda u, w, applies: u + current * w if applies else u, updates, params, mask(params)
        )

    return by_step(add)


def clip_by_tensor_norm(limit: float) -> optax.GradientTransformation:
    """Return a transformation that scales each tensor down to an L2 norm of at most ``limit``.

    DINO clips in this way (``clip_gradients`` of its code), with a limit of 3.
    """

    def clip(updates: PyTree, params: PyTree | None) -> PyTree:
        norms = leaf_norms(updates)
        scales = jnp.where(norms > limit, limit / jnp.where(norms > 0, norms, 1), 1)
        return scale_leaves(updates, scales)

    return optax.stateless(clip)


def _with(feature: str) -> str:
    """The optimizers with a feature of ``OptimizerEntry``, for messages."""
    names = [name for name in OPTIMIZERS if getattr(optimizer_entry(name), feature)]
    return " or ".join(f'"{name}"' for name in names)


def _in_float32_or_wider(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return ``inner`` applied to parameters and gradients promoted to float32 or wider."""

    def promote(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

    def init(params: PyTree) -> optax.OptState:
        return inner.init(promote(params))

    def update(
        grads: PyTree, state: optax.OptState, params: PyTree = None
    ) -> tuple[PyTree, optax.OptState]:
        result: tuple[PyTree, optax.OptState] = inner.update(promote(grads), state, promote(params))
        return result

    return optax.GradientTransformation(init, update)
