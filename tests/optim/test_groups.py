"""Parameter groups: own rates and weight decay, frozen epochs, schedules, layer-wise decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cssl_jax.config import SimCLRConfig
from cssl_jax.experiment import builders
from cssl_jax.methods.entry import MethodEntry
from cssl_jax.methods.parameter_group import FROZEN, ParameterGroup
from cssl_jax.methods.registry import METHODS
from cssl_jax.optim import optimizers
from cssl_jax.optim.groups import Groups, without_frozen
from cssl_jax.optim.registry import OptimizerOptions
from cssl_jax.optim.schedules import cosine_between
from cssl_jax.optim.step_counter import is_schedule
from helpers import momentum_queue, tiny
from tests.helpers.marks import fast

NAMES = ("sgd", "lars", "adam", "adamw")
PEAK, STEPS_PER_EPOCH = 0.1, 4


def schedule(step):
    return PEAK * (1 - step / 20)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "bias": jnp.ones(4)}
        for name in ("a", "b", "c")
    }


def train(optimizer, steps=8, skip=(), frozen=None):
    """Parameters after each step, with gradients that depend on the step only."""
    params = parameters()
    state, history = optimizer.init(params), []
    for step in range(steps):
        grads = parameters(seed=1 + step)
        if frozen is not None:
            grads = without_frozen(grads, jnp.int32(step), frozen)
        updates, new = optimizer.update(grads, state, params)
        state = new
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history, state


def make(name, of, options=None, rates=schedule):
    groups = Groups(
        group_of=lambda path: of.get(path[0].key, ParameterGroup()),
        steps_per_epoch=STEPS_PER_EPOCH,
        peak=PEAK,
    )
    options = options or OptimizerOptions(weight_decay=0.05)
    return optimizers.make_optimizer(name, rates, options, groups), groups


def plain(name, options=None, rates=schedule):
    return optimizers.make_optimizer(name, rates, options or OptimizerOptions(weight_decay=0.05))


@pytest.mark.parametrize("name", fast(NAMES, ["lars", "adamw"]))
def test_a_group_is_trained_as_by_an_optimizer_of_its_own(name):
    optimizer, _ = make(
        name,
        {
            "a": ParameterGroup(learning_rate=0.5),
            "b": ParameterGroup(weight_decay=0.0, constant=True),
        },
    )
    history, _ = train(optimizer)
    alone = {
        "a": plain(name, rates=lambda step: 0.5 * schedule(step)),
        "b": plain(name, OptimizerOptions(), lambda step: PEAK),
        "c": plain(name),
    }
    for part, other in alone.items():
        expected, _ = train(other)
        for mine, theirs in zip(history, expected, strict=True):
            np.testing.assert_allclose(
                mine[part]["kernel"], theirs[part]["kernel"], rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("name", NAMES)
def test_without_groups_the_state_and_the_bits_are_those_of_the_optimizer_alone(name):
    optimizer, _ = make(name, {})
    history, state = train(optimizer)
    expected, expected_state = train(plain(name))
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)
    jax.tree.map(np.testing.assert_array_equal, history, expected)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_epochs_leave_parameters_and_moments_and_start_as_if_new(name):
    optimizer, groups = make(name, {"a": ParameterGroup(frozen_epochs=0.5), "b": FROZEN})
    history, state = train(optimizer, frozen=groups)
    first = parameters()
    for step, params in enumerate(history):
        for leaf in ("kernel", "bias"):
            np.testing.assert_array_equal(params["b"][leaf], first["b"][leaf])
            if step < 2:
                np.testing.assert_array_equal(params["a"][leaf], first["a"][leaf])
    # After two frozen steps the moments are new, and the schedule is at its third step.
    start = optax.ScaleByScheduleState(jnp.int32(2))
    other = plain(name)
    params, state = first, other.init(first)
    state = jax.tree.map(lambda x: start if is_schedule(x) else x, state, is_leaf=is_schedule)
    for step in range(2, 8):
        updates, state = other.update(parameters(seed=1 + step), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(
            history[step]["a"]["kernel"], params["a"]["kernel"], rtol=1e-5, atol=1e-6
        )
    moments = [x for x in jax.tree.leaves(state) if x.ndim]
    assert len([x for x in moments if x.shape == (3, 4)]) <= 2 * 3


def test_frozen_parameters_take_no_part_in_the_global_norm():
    groups = Groups(group_of=lambda path: FROZEN if path[0].key == "a" else ParameterGroup(),
                    steps_per_epoch=1)  # fmt: skip
    grads = without_frozen(parameters(), jnp.int32(3), groups)
    assert all(not np.any(x) for x in jax.tree.leaves(grads["a"]))
    jax.tree.map(np.testing.assert_array_equal, grads["b"], parameters()["b"])
    later = Groups(group_of=lambda path: ParameterGroup(frozen_epochs=2.0), steps_per_epoch=2)
    assert not np.any(without_frozen(parameters(), jnp.int32(3), later)["a"]["kernel"])
    assert np.any(without_frozen(parameters(), jnp.int32(4), later)["a"]["kernel"])


@pytest.mark.parametrize("name", NAMES)
def test_scheduled_weight_decay_is_that_of_each_step(name):
    decay = cosine_between(0.04, 0.4, 8)
    optimizer, _ = make(name, {}, OptimizerOptions(weight_decay=decay))
    params = parameters()
    state = optimizer.init(params)
    for step in range(5):
        value = 0.04 + 0.36 * (1 - np.cos(np.pi * step / 8)) / 2
        one = plain(name, OptimizerOptions(weight_decay=value))
        # The other state of this step, in the structure of a constant weight decay.
        others = jax.tree.leaves(state, is_leaf=is_schedule)
        if name != "adamw":
            others = [x for i, x in enumerate(others) if not (i == 0 and is_schedule(x))]
        else:
            others = [x for i, x in enumerate(others) if i != len(others) - 2]
        structure = jax.tree.structure(one.init(params), is_leaf=is_schedule)
        updates, state = optimizer.update(parameters(seed=step), state, params)
        expected, _ = one.update(
            parameters(seed=step), jax.tree.unflatten(structure, others), params
        )
        for mine, theirs in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
        params = optax.apply_updates(params, updates)


def test_each_tensor_is_clipped_to_its_own_norm():
    clip = optimizers.clip_by_tensor_norm(1.0)
    grads = {"long": jnp.array([3.0, 4.0]), "short": jnp.array([0.3, 0.4]), "zero": jnp.zeros(2)}
    clipped, _ = clip.update(grads, clip.init(grads))
    np.testing.assert_allclose(clipped["long"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(clipped["short"], grads["short"])
    np.testing.assert_array_equal(clipped["zero"], 0)


# -------------------------------------------------------------------------------- in a training run


class Frozen(momentum_queue.MomentumQueue):
    """The prototypes are frozen for one epoch, and the projector has a constant rate."""

    def parameter_group(self, path):
        if path[0].key == "prototypes":
            return ParameterGroup(frozen_epochs=1.0)
        return ParameterGroup(constant=True) if path[0].key == "projector" else ParameterGroup()


def build(config, modules):
    return momentum_queue.method_of(config, modules, Frozen)


METHODS["frozen"] = MethodEntry(build=build, config=SimCLRConfig, chance_level=lambda config: 0.0)


def config(**optimizer):
    changed = tiny.replace(tiny.config(epochs=4), "method", name="frozen")
    return tiny.replace(changed, "optimizer", **optimizer)


@pytest.mark.slow
def test_prototypes_start_to_move_after_their_epoch():
    run = tiny.Run(config(), 2)
    step, state = run.train_step(), run.state()
    moved = []
    for host_batch in run.host_batches(0, 5):
        before = np.asarray(state.params["prototypes"])
        state, _ = step(state, run.constants, host_batch)
        moved.append(float(np.abs(np.asarray(state.params["prototypes"]) - before).max()))
    assert max(moved[:3]) < 1e-6  # project rounds
    assert min(moved[3:]) > 1e-5


def test_stages_learn_at_rates_that_decay_towards_the_stem():
    changed = config(layer_decay=0.5)
    method = tiny.Run(changed, 1).method
    paths = {"conv1": 0.25, "layer1_0": 0.5, "layer2_0": 1.0}
    for name, expected in paths.items():
        path = (jax.tree_util.DictKey("encoder"), jax.tree_util.DictKey(name))
        assert builders._group_of(method, 0.5, path).learning_rate == expected
    path = (jax.tree_util.DictKey("projector"), jax.tree_util.DictKey("dense1"))
    assert builders._group_of(method, 0.5, path) == ParameterGroup(constant=True)


@pytest.mark.slow
def test_weight_decay_moves_along_the_config_s_cosine():
    run = tiny.Run(config(name="lars", weight_decay=0.1, weight_decay_end=0.5), 1)
    state, _ = run.train_step()(run.state(), run.constants, next(run.host_batches(0, 1)))
    counts = [x.count for x in jax.tree.leaves(state.opt_state, is_leaf=is_schedule)
              if is_schedule(x)]  # fmt: skip
    assert len(counts) >= 2
    assert all(int(count) == 1 for count in counts)
