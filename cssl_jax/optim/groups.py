"""Parameter groups of a method inside the optimizer: own rates, own weight decay, frozen steps."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cssl_jax.methods.parameter_group import ParameterGroup
from cssl_jax.optim.registry import Chain, OptimizerOptions
from cssl_jax.optim.step_counter import select_state

PyTree = Any
GroupOf = Callable[[tuple[Any, ...]], ParameterGroup]  # of a parameter, by its path
Build = Callable[[optax.Schedule, OptimizerOptions], Chain]
_DEFAULT = ParameterGroup()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Parameter groups of a run.

    Attributes:
        group_of: ``Method.parameter_group``.
        steps_per_epoch: Number of steps per epoch.
        peak: Peak learning rate, for groups with a constant one.
    """

    group_of: GroupOf
    steps_per_epoch: int
    peak: float = 0.0

    def frozen_steps(self, group: ParameterGroup) -> float:
        """Number of steps in which the group does not change; infinity: always."""
        return group.frozen_epochs * self.steps_per_epoch


class FrozenState(NamedTuple):
    """State of ``_frozen_until``.

    Attributes:
        counter: Number of steps, skipped ones included.
        inner: State of the wrapped transformation.
    """

    counter: optax.ScaleByScheduleState
    inner: optax.OptState


def partitioned(
    build: Build,
    schedule: optax.Schedule,
    options: OptimizerOptions,
    groups: Groups,
    before: Chain = (),
) -> optax.GradientTransformation:
    """Returns one transformation that applies an optimizer to each parameter group.

    If all parameters belong to the default group, the state has the structure of the optimizer
    without groups. Otherwise it holds the state of each group by the group's description.

    Args:
        build: Builds the transformations of the optimizer from its learning rate and its options.
        schedule: Learning rate of the default group.
        options: Options of the default group.
        groups: Groups of the parameters.
        before: Transformations of the gradients of all groups together, such as clipping.
    """

    def transformation(params: PyTree) -> optax.GradientTransformation:
        labels = jax.tree_util.tree_map_with_path(
            lambda path, _: _describe(groups.group_of(path)), params
        )
        found = {_describe(group): group for group in _groups_in(params, groups.group_of)}
        if set(found.values()) == {_DEFAULT}:
            return optax.chain(*before, *build(schedule, options))
        chains = {
            label: _of_group(group, build, schedule, options, groups)
            for label, group in found.items()
        }
        return optax.chain(*before, optax.partition(chains, labels))

    def init(params: PyTree) -> optax.OptState:
        return transformation(params).init(params)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree = None
    ) -> tuple[PyTree, optax.OptState]:
        result: tuple[PyTree, optax.OptState] = transformation(params).update(
            updates, state, params
        )
        return result

    return optax.GradientTransformation(init, update)


def without_frozen(grads: PyTree, step: jax.Array, groups: Groups) -> PyTree:
    """The gradient with zeros for parameters that are frozen at ``step``."""

    def keep(path: tuple[Any, ...], gradient: jax.Array) -> jax.Array:
        steps = groups.frozen_steps(groups.group_of(path))
        if steps == 0:
            return gradient
        if math.isinf(steps):  # the compiler then drops what only this gradient needs
            return jnp.zeros_like(gradient)
        return jnp.where(step < steps, jnp.zeros_like(gradient), gradient)

    return jax.tree_util.tree_map_with_path(keep, grads)


def _groups_in(params: PyTree, group_of: GroupOf) -> list[ParameterGroup]:
    return [group_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _describe(group: ParameterGroup) -> str:
    """Name of a group in the state of the optimizer: its fields that differ from the default."""
    return ", ".join(
        f"{field.name} {getattr(group, field.name):g}"
        for field in dataclasses.fields(group)
        if getattr(group, field.name) != getattr(_DEFAULT, field.name)
    ) or "default"  # fmt: skip


def _of_group(
    group: ParameterGroup,
    build: Build,
    schedule: optax.Schedule,
    options: OptimizerOptions,
    groups: Groups,
) -> optax.GradientTransformation:
    steps = groups.frozen_steps(group)
    if math.isinf(steps):
        return optax.set_to_zero()  # without moments
    base = optax.constant_schedule(groups.peak) if group.constant else schedule
    rate = _scaled(base, group.learning_rate)
    decay = options.weight_decay
    if group.weight_decay != 1.0:
        factor = group.weight_decay
        decay = _scaled(decay, factor) if callable(decay) else decay * factor
    chain = optax.chain(*build(rate, dataclasses.replace(options, weight_decay=decay)))
    return _frozen_until(steps, chain) if steps else chain


def _scaled(schedule: optax.Schedule, factor: float) -> optax.Schedule:
    return schedule if factor == 1.0 else lambda step: factor * schedule(step)


def _frozen_until(
    steps: float, inner: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Returns ``inner`` with zero updates and an unchanged state before the given step.

    Schedules inside of ``inner`` count all steps.
    """

    def init(params: PyTree) -> FrozenState:
        counter = optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))
        return FrozenState(counter, inner.init(params))

    def update(
        updates: PyTree, state: FrozenState, params: PyTree = None
    ) -> tuple[PyTree, FrozenState]:
        frozen = state.counter.count < steps
        updates, after = inner.update(updates, state.inner, params)
        updates = jax.tree.map(lambda u: jnp.where(frozen, jnp.zeros_like(u), u), updates)
        after = select_state(~frozen, after, state.inner)
        count = optax.safe_increment(state.counter.count)
        return updates, FrozenState(optax.ScaleByScheduleState(count), after)

    return optax.GradientTransformation(init, update)
