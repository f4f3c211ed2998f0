"""Every self-supervised method: its formula, its gradient, its state, on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.experiment import builders
from cssl_jax.methods.base import Context
from cssl_jax.runtime import spmd
from helpers import losses_numpy, method_cases, tiny
from helpers.comparison import largest_difference, run_differences
from helpers.method_cases import CASES, MICRO_BATCH
from tests.helpers.marks import fast, slow

N = 8  # rows of the comparison with loops
FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
FAULTS = [(name, fault) for name, case in CASES.items() for fault in case.faults]


# ------------------------------------------------------------------------------------- the formula


def local_results(method, constants, outputs, targets, devices):
    """(loss, gradients of outputs, state and targets) of the global batch; per-device code."""
    ctx = Context(jnp.int32(method_cases.STEP), 10, "data")
    params, state = constants

    def loss_of(outputs, state, targets):
        loss, metrics, _ = method.objective(params, state, outputs, {"targets": targets}, ctx)
        return loss, metrics

    (loss, metrics), (own, of_state, of_targets) = jax.value_and_grad(
        loss_of, argnums=(0, 1, 2), has_aux=True
    )(outputs, state, targets)
    own = jax.tree.map(lambda g: g / devices, own)
    return jax.lax.pmean((loss, metrics), "data"), own, (of_state, of_targets)


@functools.cache
def computed(devices):
    """Results of every method without and with its faults, from one compiled program."""
    mesh = spmd.make_mesh(jax.devices()[:devices])
    drawn = {name: method_cases.draw(name, N) for name in CASES}
    methods = {
        name: builders.make_method(method_cases.config(name, train__batch_size=N), mesh)
        for name in CASES
    }
    variants = {(name, ""): method_cases.unfaulty for name in CASES}
    variants |= {(name, fault): CASES[name].faults[fault] for name, fault in FAULTS}

    def local(rows):
        results = {}
        for (name, fault), patched in variants.items():
            outputs, targets = rows[name]
            constants = method_cases.variables(name, drawn[name][2])
            with patched():
                results[f"{name} {fault}"] = local_results(
                    methods[name], constants, outputs, targets, devices
                )
        return results

    rows = {name: (outputs, targets) for name, (outputs, targets, _) in drawn.items()}
    specs = {f"{name} {fault}": (P(), P("data"), P("data")) for name, fault in variants}
    step = jax.shard_map(local, mesh=mesh, in_specs=(P("data"),), out_specs=specs, check_vma=False)
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(step)(rows))


@functools.cache
def expected(name):
    """(loss, gradient of the outputs) by NumPy loops and complex steps."""
    outputs, targets, rows = method_cases.draw(name, N)
    leaves, structure = jax.tree.flatten(outputs)

    def loop(*arrays):
        return CASES[name].loss(jax.tree.unflatten(structure, arrays), targets, rows)

    return loop(*leaves), losses_numpy.gradient(loop, *leaves)


def is_near(result, name, bound=1e-11):
    """Whether loss and gradient are those of the loops, whose sums have another order."""
    (loss, _), own, _ = result
    reference, gradients = expected(name)
    pairs = zip(jax.tree.leaves(own), gradients, strict=True)
    largest = max(np.abs(g).max() for g in gradients)
    return abs(loss - reference) <= bound * abs(reference) and all(
        np.abs(ours - theirs).max() <= bound * largest for ours, theirs in pairs
    )


@pytest.mark.parametrize("devices", [slow(1), slow(2), 4, slow(8)])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_those_of_the_float64_loops(name, devices):
    assert is_near(computed(devices)[f"{name} "], name)


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_faulty_objective_is_caught_on_several_devices(name, fault):
    assert is_near(computed(1)[f"{name} {fault}"], name)
    assert not is_near(computed(4)[f"{name} {fault}"], name, bound=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_neither_state_nor_targets_receive_a_gradient(name):
    _, _, others = computed(4)[f"{name} "]
    assert all(np.all(g == 0) for g in jax.tree.leaves(others))


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_examples_and_of_views_does_not_matter(name):
    outputs, targets, rows = method_cases.draw(name, N)
    order = np.random.default_rng(1).permutation(N)
    moved = jax.tree.map(lambda x: x[order], outputs)
    assert CASES[name].loss(moved, targets[order], rows) == pytest.approx(expected(name)[0])
    metrics = [computed(devices)[f"{name} "][0][1] for devices in (1, 4)]
    for metric in metrics[0]:
        assert metrics[1][metric] == pytest.approx(metrics[0][metric], rel=1e-9), metric


# -------------------------------------------------------------------------------- the whole step


def trained(name, devices, *, micro_batch=0, backend="shard_map", steps=5):
    """(losses, state) in float64; the BatchNorm groups are as large as micro-batches."""
    group = 0 if micro_batch else MICRO_BATCH
    values = {"train__micro_batch": micro_batch, "model__norm_group": group}
    if name == "moco_v2":  # strided groups of the batch are not those of micro-batches
        values["method__strided_keys"] = False
    with jax.enable_x64(True):
        run = tiny.Run(method_cases.config(name, **values), devices, backend)
        return run.train(steps, np.float64)


@functools.cache
def plain(name, steps=5):
    """One device, no micro-batches."""
    return trained(name, 1, steps=steps)


def differences(name, results):
    """Largest relative difference of losses and of each part of the state from ``plain``."""
    return run_differences(results, plain(name))


@pytest.mark.parametrize(
    ("name", "devices", "micro_batch", "backend"),
    [
        ("moco_v2", 4, MICRO_BATCH, "shard_map"),
        *[
            slow(name, *how)
            for name in CASES
            for how in [
                # Whole batches on eight devices are those of the twenty steps below.
                *[(8, MICRO_BATCH, "shard_map"), (2, MICRO_BATCH, "pmap")],
            ]
        ],
        slow("moco_v2", 1, MICRO_BATCH, "shard_map"),
        slow("moco_v2", 4, 0, "pmap"),
    ],
)
def test_training_does_not_depend_on_devices_or_micro_batches(name, devices, micro_batch, backend):
    found = differences(name, trained(name, devices, micro_batch=micro_batch, backend=backend))
    assert max(found.values()) < FLOAT64_BOUND, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco_v2", "nnclr"])
def test_a_queue_of_one_devices_rows_is_caught(name):
    with method_cases.unsynchronised(), pytest.raises(RuntimeError, match="replicas differ"):
        trained(name, 4, micro_batch=MICRO_BATCH)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_statistics_of_one_devices_rows_are_caught(name):
    with method_cases.local_norms():
        if method_cases.config(name).model.norm_views == "apart":
            with pytest.raises(RuntimeError, match="replicas differ"):
                trained(name, 4, micro_batch=MICRO_BATCH)
        else:  # running statistics are averaged over the devices, so only the result is another
            found = differences(name, trained(name, 4, micro_batch=MICRO_BATCH))
            assert min(found["loss"], found["params"]) > 1e3 * FLOAT64_BOUND, found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_agree_on_eight_devices(name):
    config = method_cases.config(name, encoder="tiny", train__epochs=20)
    with jax.enable_x64(True):
        results, wanted = (tiny.Run(config, devices).train(20, np.float64) for devices in (8, 1))
    for part, found in run_differences(results, wanted).items():
        assert found < FLOAT64_BOUND, part


# ------------------------------------------------------------------------------- momentum copies


@pytest.mark.parametrize("name", fast([x for x in CASES if CASES[x].copies], ["moco_v2"]))
def test_a_copy_starts_as_the_weights_and_follows_their_first_update(name):
    _, state = plain(name)
    run = tiny.Run(method_cases.config(name), 1)
    first = jax.device_get(run.first_state)
    for module, copy in first.method_state["params"].items():
        jax.tree.map(np.testing.assert_array_equal, copy, first.params[module])
    copied = {"encoder", "projector", *CASES[name].weights}
    assert set(first.method_state["params"]) == copied
    for module, copy in state.method_state["params"].items():
        assert largest_difference(copy, state.params[module]) > 1e-4  # it lags behind
        assert largest_difference(copy, first.params[module]) > 1e-6  # and moves
    statistics = state.method_state["model_state"]
    assert largest_difference(statistics["encoder"], state.model_state["encoder"]) > 1e-6
    assert "predictor" not in statistics


@pytest.mark.parametrize("name", fast(CASES, ["moco_v2", "dino"]))
def test_the_trained_weights_are_evaluated_or_the_teacher(name):
    _, state = plain(name)
    method = tiny.Run(method_cases.config(name), 1).method
    weights = {"params": state.params, "model_state": state.model_state}
    copy = {part: state.method_state.get(part) for part in weights}
    assert state.evaluated(method) == (copy if CASES[name].evaluates_copy else weights)


@pytest.mark.parametrize("name", fast([x for x in CASES if CASES[x].queues], ["moco_v2"]))
def test_queues_hold_the_newest_rows_in_the_order_of_the_global_batch(name):
    _, state = plain(name)  # 5 steps of 16 rows into 20 places
    for queue in CASES[name].queues:
        rows, pointer = (state.method_state[queue][key] for key in ("rows", "pointer"))
        assert int(pointer) == 5 * 16 % method_cases.QUEUE
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
        assert len(np.unique(rows.round(8), axis=0)) == method_cases.QUEUE
