"""What is computed depends on the config, not on the number of devices."""

import jax
import numpy as np
import pytest

from cssl_jax.errors import UserError
from cssl_jax.losses.core import two_views
from cssl_jax.runtime import spmd
from helpers import tiny
from helpers.comparison import FLOAT32_BOUND, largest_difference
from tests.helpers.marks import slow


def gradient_on(devices, backend="shard_map", mutate=lambda grads: grads, **options):
    config = tiny.replace(tiny.config(), "model", **options)
    run = tiny.Run(config, devices, backend)
    gradient = run.gradient()

    def mutated(state, constants, host_batch):
        grads, outputs = gradient(state, constants, host_batch)
        return mutate(grads), outputs.metrics

    grads, metrics = run.spread(mutated)(run.state(), run.constants, next(run.host_batches(0, 1)))
    return jax.device_get(grads), float(metrics["loss"])


@pytest.fixture(scope="module")
def one_device():
    return gradient_on(1)


@pytest.mark.parametrize(
    ("devices", "backend"),
    [
        *[slow(1, "shard_map"), (2, "shard_map"), slow(4, "shard_map"), slow(8, "shard_map")],
        *[slow(1, "pmap"), slow(2, "pmap"), slow(4, "pmap"), (8, "pmap")],
    ],
)
def test_float32_loss_and_raw_gradient_do_not_depend_on_devices(one_device, devices, backend):
    grads, loss = gradient_on(devices, backend)
    assert largest_difference(grads, one_device[0]) <= FLOAT32_BOUND
    assert loss == pytest.approx(one_device[1], rel=1e-6)


@pytest.mark.slow
def test_both_backends_give_the_same_bits():
    shard_map, pmap = gradient_on(4, "shard_map"), gradient_on(4, "pmap")
    jax.tree.map(np.testing.assert_array_equal, shard_map, pmap)


@pytest.mark.slow
def test_groups_of_batch_statistics_do_not_depend_on_devices():
    grads = [gradient_on(devices, norm_group=4)[0] for devices in (1, 8)]
    assert largest_difference(grads[1], grads[0]) <= FLOAT32_BOUND


@pytest.mark.slow
def test_statistics_of_each_view_do_not_depend_on_devices(one_device):
    grads = [gradient_on(devices, norm_views="apart")[0] for devices in (1, 8)]
    assert largest_difference(grads[1], grads[0]) <= FLOAT32_BOUND
    assert largest_difference(grads[0], one_device[0]) > 0.01  # joint statistics are others


@pytest.mark.parametrize("backend", ["shard_map", slow("pmap")])
def test_a_gradient_scaled_by_the_number_of_devices_is_caught(one_device, backend):
    def sum_instead_of_mean(grads):
        return jax.tree.map(lambda g: g * jax.lax.axis_size("data"), grads)

    grads, _ = gradient_on(4, backend, sum_instead_of_mean)
    assert largest_difference(grads, one_device[0]) > 1.0


def test_a_gather_without_its_gradient_is_caught(one_device, monkeypatch):
    gather = two_views.gather
    monkeypatch.setattr(two_views, "gather", lambda x, axis: jax.lax.stop_gradient(gather(x, axis)))
    grads, loss = gradient_on(4)
    assert loss == pytest.approx(one_device[1], rel=1e-6)  # the loss alone does not tell
    assert largest_difference(grads, one_device[0]) > 0.01


def test_statistics_of_what_a_device_holds_are_caught(one_device):
    grads, _ = gradient_on(4, norm_group=4)
    assert largest_difference(grads, one_device[0]) > 0.01


@pytest.mark.slow
def test_float64_training_agrees_after_20_steps():
    with jax.enable_x64(True):
        config = tiny.config(epochs=7)
        results = [tiny.Run(config, n).train(20, np.float64) for n in (1, 2, 4, 8)]
        results.append(tiny.Run(config, 4, "pmap").train(20, np.float64))
    losses, state = results[0]
    assert losses.dtype == np.float64
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(state.params))
    assert len(set(losses.tolist())) == 20
    for other_losses, other_state in results[1:]:
        np.testing.assert_allclose(other_losses, losses, rtol=1e-9)
        assert largest_difference(other_state.params, state.params) < 1e-9
        assert largest_difference(other_state.model_state, state.model_state) < 1e-9


def test_determinism_is_requested_of_gpus_by_an_option_that_xla_knows():
    options = spmd.deterministic_options("gpu")
    compiled = jax.jit(lambda x: 2 * x, compiler_options=options)
    assert compiled(1.0) == 2.0
    (name,) = options
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: 3 * x, compiler_options={name + "x": True})(1.0)
    assert spmd.deterministic_options("cpu") == spmd.deterministic_options("tpu") == {}


def test_the_same_step_gives_the_same_bits_twice():
    run = tiny.Run(tiny.replace(tiny.config(), "runtime", deterministic=True), 4)
    step, host_batch = run.train_step(), next(run.host_batches(0, 1))
    first, again = (
        jax.device_get(step(run.state(), run.constants, host_batch)[0]) for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_a_batch_that_does_not_divide_is_refused_with_those_that_do():
    mesh = spmd.make_mesh(jax.devices()[:8])
    with pytest.raises(UserError, match="250 does not divide over 8 devices; use 248 or 256"):
        spmd.per_device_batch(250, mesh)


def test_groups_that_fit_no_device_layout_are_refused():
    with pytest.raises(UserError, match="3 does not divide the global batch 16"):
        spmd.norm_groups(16, 3, spmd.make_mesh(jax.devices()[:2]))
    with pytest.raises(UserError, match=r"gives 3 groups .* 4 devices"):
        spmd.norm_groups(12, 4, spmd.make_mesh(jax.devices()[:4]))


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="'jit' is unknown; use one of shard_map, pmap"):
        spmd.data_parallel(lambda *a: a, spmd.make_mesh(), "jit")


def test_replicas_that_differ_are_named():
    mesh = spmd.make_mesh(jax.devices()[:4])

    def drift(state, constants, host_batch):
        return {"a": state, "b": state + jax.lax.axis_index("data")}

    result = spmd.data_parallel(drift, mesh, donate=False)(
        spmd.replicate(np.zeros(3), mesh), {}, spmd.put_batch(np.zeros(4), mesh)
    )
    spmd.assert_replicated(result["a"])
    with pytest.raises(RuntimeError, match=r"replicas differ at \['b'\]"):
        spmd.assert_replicated(result)
