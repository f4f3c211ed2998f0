"""State of a method: momentum copies, queues, centres and constraints in the one training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.experiment import train_state
from cssl_jax.methods.base import Context
from cssl_jax.methods.registry import METHODS
from cssl_jax.runtime import spmd
from cssl_jax.step.state import join_state, split_state, trained_model
from helpers import momentum_queue, tiny
from helpers.comparison import largest_difference

METHODS |= {"queue": momentum_queue.QUEUE, "in_batch": momentum_queue.IN_BATCH}
N, MICRO_BATCH, QUEUE = 16, 8, 20
FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1


def config(method, *, micro_batch=0, norm_group=0, **train):
    changed = tiny.replace(tiny.config(micro_batch=micro_batch, **train), "method", name=method)
    changed = tiny.replace(changed, "augment", jitter=(0.0,), blur=(0.0,), solarize=(0.0,))
    return tiny.replace(changed, "model", encoder="linear", norm_group=norm_group)


def trained(method, devices, *, backend="shard_map", steps=5, **options):
    """(losses, state) after steps in float64."""
    with jax.enable_x64(True):
        return tiny.Run(config(method, **options), devices, backend).train(steps, np.float64)


@functools.cache
def plain(method):
    """One device, no micro-batches; BatchNorm groups as large as the micro-batches."""
    return trained(method, 1, norm_group=MICRO_BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["queue", "in_batch"])
@pytest.mark.parametrize(
    ("devices", "micro_batch", "backend"),
    [
        (4, MICRO_BATCH, "shard_map"),
        (1, MICRO_BATCH, "shard_map"),
        (2, MICRO_BATCH, "pmap"),
        (2, 0, "shard_map"),
        (4, 0, "pmap"),
        (8, MICRO_BATCH, "shard_map"),
    ],
)
def test_state_does_not_depend_on_devices_or_micro_batches(method, devices, micro_batch, backend):
    group = 0 if micro_batch else MICRO_BATCH
    losses, state = trained(
        method, devices, micro_batch=micro_batch, norm_group=group, backend=backend
    )
    expected_losses, expected = plain(method)
    np.testing.assert_allclose(losses, expected_losses, rtol=FLOAT64_BOUND)
    for name in ("params", "model_state", "method_state"):
        difference = largest_difference(getattr(state, name), getattr(expected, name))
        assert difference < FLOAT64_BOUND, name


@pytest.mark.slow
def test_rows_in_the_order_of_devices_are_caught(monkeypatch):
    def in_device_order(x, axis_name, micro_batches):
        return jax.lax.all_gather(x, axis_name, tiled=True)

    monkeypatch.setattr(spmd, "global_rows", in_device_order)
    _, state = trained("queue", 4, micro_batch=MICRO_BATCH)
    expected = plain("queue")[1].method_state["queue"]
    assert largest_difference(state.method_state["queue"], expected) > 0.01


@pytest.mark.slow
def test_a_target_state_of_one_micro_batch_is_caught(monkeypatch):
    after_update = momentum_queue.MomentumQueue.after_update

    def mutant(self, params, method_state, step, ctx):
        noise = jax.tree.map(lambda x: x * (1 + 1e-6 * ctx.step), step.target_state)
        return after_update(self, params, method_state, step._replace(target_state=noise), ctx)

    monkeypatch.setattr(momentum_queue.MomentumQueue, "after_update", mutant)
    _, state = trained("queue", 1, norm_group=MICRO_BATCH)
    assert largest_difference(state.method_state, plain("queue")[1].method_state) > FLOAT64_BOUND


# ------------------------------------------------------------------------------------ closed forms


@pytest.fixture(scope="module")
def history():
    """(method, states before and after each of 3 steps on 2 devices), float32 on the host."""
    run = tiny.Run(config("queue"), 2)
    step, state = run.train_step(), run.state()
    states = [jax.device_get(state)]
    for host_batch in run.host_batches(0, 3):
        state, _ = step(state, run.constants, host_batch)
        states.append(jax.device_get(state))
    return run.method, states


def test_the_momentum_copy_starts_as_the_weights_and_follows_its_closed_form(history):
    _, states = history
    first = states[0]
    for name in ("encoder", "projector"):
        own, copy = first.params[name], first.method_state["params"][name]
        jax.tree.map(np.testing.assert_array_equal, own, copy)
    expected = first.method_state["params"]
    for state in states[1:]:
        modules = {name: state.params[name] for name in expected}
        expected = jax.tree.map(lambda xi, theta: 0.9 * xi + 0.1 * theta, expected, modules)
        assert largest_difference(state.method_state["params"], expected) < 1e-6
        assert largest_difference(state.method_state["params"], modules) > 1e-4


def test_the_queue_holds_the_newest_keys_in_order_and_wraps(history):
    _, states = history
    queues = [state.method_state["queue"] for state in states]
    assert [int(state.method_state["pointer"]) for state in states] == [0, 16, 12, 8]
    np.testing.assert_array_equal(queues[1][16:], queues[0][16:])  # the first 16 rows are new
    for old, new, start in zip(queues[1:], queues[2:], (16, 12), strict=False):
        written = (start + np.arange(N)) % QUEUE
        kept = np.setdiff1d(np.arange(QUEUE), written)
        np.testing.assert_array_equal(new[kept], old[kept])
        assert np.all(np.abs(new[written] - old[written]).max(axis=1) > 0)
    np.testing.assert_allclose(np.linalg.norm(queues[-1], axis=1), 1, rtol=1e-6)


def test_the_constraint_holds_after_every_step_and_statistics_of_the_copy_are_its_own(history):
    _, states = history
    for state in states[1:]:
        rows = np.linalg.norm(state.params["prototypes"], axis=1)
        np.testing.assert_allclose(rows, 1, rtol=1e-6)
        difference = largest_difference(state.method_state["model_state"], state.model_state)
        assert difference > 1e-4  # view 2 and other weights
    assert np.abs(states[1].params["prototypes"] - states[0].params["prototypes"]).max() > 0


def test_keys_of_steps_and_purposes_differ_and_repeat():
    def key(step, purpose, seed=0):
        context = Context(jnp.int32(step), 10, None, seed=seed)
        return tuple(jax.random.key_data(context.key(purpose)).tolist())

    drawn = [key(step, purpose) for step in range(3) for purpose in range(3)]
    assert len(set(drawn)) == 9
    assert key(2, 1) == key(2, 1) != key(2, 1, seed=1)


# ---------------------------------------------------------------------------- skips and checkpoints


def test_a_value_that_is_not_finite_does_not_enter_the_state(monkeypatch):
    after_update = momentum_queue.MomentumQueue.after_update

    def poisoned(self, params, method_state, step, ctx):
        new = after_update(self, params, method_state, step, ctx)
        return {**new, "centre": jnp.where(ctx.step == 1, jnp.nan, new["centre"])}

    monkeypatch.setattr(momentum_queue.MomentumQueue, "after_update", poisoned)
    run = tiny.Run(config("queue", on_nonfinite="skip"), 2)
    step, state = run.train_step(), run.state()
    states = [jax.device_get(state)]
    for host_batch in run.host_batches(0, 3):
        state, metrics = step(state, run.constants, host_batch)
        states.append(jax.device_get(state))
        assert np.isfinite(metrics["loss"])
    assert [state.skipped.tolist() for state in states] == [[0, 0], [0, 0], [1, 1], [1, 0]]
    for name in ("params", "model_state", "method_state"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(states[1], name), getattr(states[2], name)
        )
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(states[3].method_state))


def test_a_checkpoint_holds_every_array_once_and_its_model_is_the_evaluated_one(history):
    method, states = history
    state = states[-1]
    model, rest = split_state(state, method.evaluated)
    assert model["params"] is state.method_state["params"]
    count = len(jax.tree.leaves(state))
    assert len(jax.tree.leaves((model, rest))) == count
    assert {id(x) for x in jax.tree.leaves((model, rest))} == {
        id(x) for x in jax.tree.leaves(state)
    }
    joined = join_state(states[0], method.evaluated, model, rest)
    assert jax.tree.structure(joined) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, joined, state)
    online, others = split_state(state, trained_model)
    assert online == {"params": state.params, "model_state": state.model_state}
    assert set(others) == {"step", "opt_state", "skipped", "method_state"}


@pytest.mark.slow
def test_a_run_resumes_within_an_epoch_to_the_same_bits(history, tmp_path):
    method, states = history
    run = tiny.Run(config("queue"), 2)
    with Checkpoints(tmp_path, evaluated=method.evaluated) as checkpoints:
        checkpoints.save(spmd.replicate(states[2], run.mesh), {}, {})
    like = jax.eval_shape(lambda: run.first_state)
    with Checkpoints(tmp_path, evaluated=method.evaluated) as checkpoints:
        state, _ = checkpoints.resume(like, run.mesh)
        shapes = like.evaluated(method)
        model = checkpoints.restore_model(shapes, run.mesh)
    jax.tree.map(np.testing.assert_array_equal, model, states[2].evaluated(method))
    state, _ = run.train_step()(state, run.constants, next(run.host_batches(2, 3)))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), states[3])


def test_pretrained_weights_start_the_momentum_copy_as_well(history):
    method, states = history
    first, donor = states[0], states[-1]
    model = method.adopt(first.model, donor.model)
    state = train_state.with_model(method, first, model)
    for name in ("encoder", "projector"):
        jax.tree.map(
            np.testing.assert_array_equal, state.method_state["params"][name], donor.params[name]
        )
    assert int(state.method_state["pointer"]) == 0


def test_copies_are_buffers_of_their_own():
    run = tiny.Run(config("queue"), 1)
    first = train_state.with_model(run.method, run.first_state, run.first_state.model)
    own, copy = first.params["encoder"], first.method_state["params"]["encoder"]
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(copy), strict=True):
        assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()
