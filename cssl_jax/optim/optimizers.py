"""Optimizers, learning-rate schedules and the masks of weight decay and LARS.

Every optimizer is a plain optax transformation. ``update`` requires the parameters, which both
weight decay and LARS read. One rule, ``is_norm_or_bias``, decides which parameters are decayed and,
for LARS, which are adapted.
"""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssl_jax.errors import UserError
from cssl_jax.methods.parameter_group import ParameterGroup
from cssl_jax.optim.groups import Groups, partitioned
from cssl_jax.optim.norms import square_sum
from cssl_jax.optim.registry import (
    OPTIMIZERS,
    Chain,
    OptimizerEntry,
    OptimizerOptions,
    optimizer_entry,
)
from cssl_jax.optim.schedules import by_step

T = TypeVar("T")
PyTree = Any


def scaled_learning_rate(base: float, batch_size: int, rule: str) -> float:
    """Return the peak learning rate for a global batch of ``batch_size`` examples.

    Args:
      base: Learning rate of the recipe. SimCLR uses 0.3 with "linear" and 0.075 with "sqrt". Both
        give 4.8 at N = 4096. "sqrt" is better with small batches and few epochs (Appendix B.1).
      batch_size: Global batch size N in examples (not views, not examples per device).
      rule: Scaling rule: "none" (base), "linear" (base N / 256; Goyal et al. 2017, section 2.1) or
        "sqrt" (base sqrt(N)).

    Returns:
      Peak learning rate.

    Raises:
      UserError: The rule is unknown.
    """
    rates = {"none": base, "linear": base * batch_size / 256, "sqrt": base * math.sqrt(batch_size)}
    return _choose("learning-rate scaling rule", rates, rule)


def warmup_cosine(
    peak: float, warmup_steps: int, total_steps: int, end: float = 0.0
) -> optax.Schedule:
    """Return a linear warm-up from 0 to ``peak``, then half a cosine down to ``end``.

    Step 0 gives 0 unless ``warmup_steps`` is 0. Step ``warmup_steps`` gives ``peak``. Step
    ``total_steps`` and later steps give ``end``. This is SimCLR's schedule (section 2.3), with the
    corner values of its TensorFlow code. If the warm-up lasts the whole run, ``end`` is reached one
    step after ``peak``.

    Args:
      peak: Learning rate at the end of the warm-up.
      warmup_steps: Length of the warm-up in steps; 0: no warm-up.
      total_steps: Length of the run in steps, warm-up included.
      end: Final learning rate.

    Returns:
      Function from the step to the learning rate, a scalar of JAX's default float type (float64
      under x64).

    Raises:
      UserError: The run has no steps, or the warm-up is negative or longer than the run.
    """
    unit = optax.cosine_decay_schedule(1.0, max(total_steps - warmup_steps, 1))
    return _with_warmup(
        peak, warmup_steps, total_steps, lambda step: end + (peak - end) * unit(step)
    )


def make_schedule(name: str, peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Return the schedule called ``name``: "cosine" or "constant", each after a linear warm-up.

    The arguments ``peak``, ``warmup_steps`` and ``total_steps`` are those of ``warmup_cosine``.

    Raises:
      UserError: The name is unknown, or ``warmup_cosine`` rejects the numbers of steps.
    """
    builders: dict[str, Callable[[], optax.Schedule]] = {
        "cosine": lambda: warmup_cosine(peak, warmup_steps, total_steps),
        "constant": lambda: _with_warmup(
            peak, warmup_steps, total_steps, optax.constant_schedule(peak)
        ),
    }
    return _choose("learning-rate schedule", builders, name)()


def is_norm_or_bias(path: jax.tree_util.KeyPath[Any], leaf: Any) -> bool:
    """Return True if a parameter is excluded from weight decay and LARS adaptation.

    Biases and the scales of normalisation layers are excluded, as in SimCLR's TensorFlow code. They
    are recognised by the last key of the path, "bias" or "scale". Every parameter with at most one
    axis is excluded as well.
    """
    return _leaf_name(path) in ("bias", "scale") or np.ndim(leaf) <= 1


def decay_mask(params: PyTree) -> PyTree:
    """Return the tree of ``params`` with True where a parameter is decayed and adapted."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: not is_norm_or_bias(path, leaf), params
    )


def describe_exclusions(
    params: PyTree, exclude_norm_and_bias: bool = True, *, adapts: bool = True
) -> str:
    """Return a table of the parameters to which weight decay and LARS adaptation apply.

    The table counts tensors and parameters, applied and excluded. Excluded tensors are also counted
    by name.

    Args:
      params: Tree of arrays or ``jax.ShapeDtypeStruct``.
      exclude_norm_and_bias: Value passed to ``make_optimizer``.
      adapts: True if the optimizer is LARS; False names weight decay only.
    """
    tensors: collections.Counter[bool] = collections.Counter()
    parameters: collections.Counter[bool] = collections.Counter()
    names: collections.Counter[str] = collections.Counter()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        excluded = exclude_norm_and_bias and is_norm_or_bias(path, leaf)
        tensors[excluded] += 1
        parameters[excluded] += int(np.size(leaf))
        if excluded:
            names[_leaf_name(path)] += 1
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(names.items()))
    title = "weight decay, LARS adaptation" if adapts else "weight decay"
    rows = [f"{title:<30} {'tensors':>8} {'parameters':>13}"]
    for label, excluded, note in (("applied", False, ""), ("excluded", True, kinds)):
        row = f"{label:<30} {tensors[excluded]:>8,} {parameters[excluded]:>13,}"
        rows.append(f"{row}  ({note})" if note else row)
    return "\n".join(rows)


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


def _with(feature: str) -> str:
    """The optimizers with a feature of ``OptimizerEntry``, for messages."""
    names = [name for name in OPTIMIZERS if getattr(optimizer_entry(name), feature)]
    return " or ".join(f'"{name}"' for name in names)


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


def mask_of(options: OptimizerOptions) -> Callable[[PyTree], PyTree]:
    """Return the function from parameters to True where one is decayed and adapted."""
    return decay_mask if options.exclude_norm_and_bias else _full_mask


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

    def clip(u: jax.Array) -> jax.Array:
        norm = jnp.sqrt(square_sum(u))
        return u * jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1), 1)

    return optax.stateless(lambda updates, _: jax.tree.map(clip, updates))


def trust_ratio(
    w: jax.Array, u: jax.Array, trust_coefficient: float, eps: float = 0.0
) -> jax.Array:
    """Return the LARS trust ratio η ‖w‖ / (‖u‖ + ε) of tensor w with update u; 1 if a norm is 0."""
    weight_norm, update_norm = jnp.sqrt(square_sum(w)), jnp.sqrt(square_sum(u))
    adapted = (weight_norm > 0) & (update_norm > 0)
    return jnp.where(adapted, trust_coefficient * weight_norm / (update_norm + eps), 1)


def adapted_by_trust_ratio(
    trust_coefficient: float, eps: float = 0.0
) -> optax.GradientTransformation:
    """Return a transformation that scales each tensor's update by its ``trust_ratio``."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, w: u * trust_ratio(w, u, trust_coefficient, eps), updates, params
        )
    )


def clipped_trust_ratio(
    schedule: optax.Schedule, trust_coefficient: float, eps: float = 0.0
) -> optax.GradientTransformation:
    """Return a transformation that scales each tensor's update u by min(η ‖w‖ / ((‖u‖ + ε) lr), 1).

    The scale is 1 where a norm or lr is 0. This is ``clip_lars_lr`` of solo-learn's LARS, named
    ``clip_lr`` in its configs. After multiplication by lr, a tensor moves at the rate
    min(η ‖w‖ / (‖u‖ + ε), lr).
    """

    def adapt(updates: PyTree, params: PyTree, step: jax.Array) -> PyTree:
        rate = schedule(step)

        def scale(u: jax.Array, w: jax.Array) -> jax.Array:
            weight_norm, update_norm = jnp.sqrt(square_sum(w)), jnp.sqrt(square_sum(u))
            adapted = (weight_norm > 0) & (update_norm > 0) & (rate > 0)
            ratio = (
                trust_coefficient * weight_norm / jnp.where(adapted, (update_norm + eps) * rate, 1)
            )
            return u * jnp.where(adapted, jnp.minimum(ratio, 1), 1)

        return jax.tree.map(scale, updates, params)

    return by_step(adapt)


def _choose(kind: str, table: Mapping[str, T], name: str) -> T:
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}; choose one of: {', '.join(sorted(table))}")
    return table[name]


def _leaf_name(path: jax.tree_util.KeyPath[Any]) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _full_mask(params: PyTree) -> PyTree:
    return jax.tree.map(lambda _: True, params)


def _with_warmup(
    peak: float, warmup_steps: int, total_steps: int, after: optax.Schedule
) -> optax.Schedule:
    """Return a linear warm-up from 0 to ``peak``, then ``after``, which counts steps from 0."""
    if total_steps < 1:
        raise UserError(
            f"a run of {total_steps} steps has no schedule; train for at least one step"
        )
    if warmup_steps < 0:
        raise UserError(f"the warm-up has {warmup_steps} steps; use 0 for no warm-up")
    if warmup_steps > total_steps:
        raise UserError(
            f"the warm-up of {warmup_steps} steps is longer than the run of {total_steps}; "
            "use fewer warm-up epochs or more training epochs"
        )
    schedule = after
    if warmup_steps:
        rise = optax.linear_schedule(0.0, peak, warmup_steps)
        schedule = optax.join_schedules([rise, after], [warmup_steps])

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        # An int32 count would make the rate float32 even under x64.
        dtype = jnp.result_type(float)
        return jnp.asarray(schedule(jnp.asarray(step, dtype)), dtype)

    return rate


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
