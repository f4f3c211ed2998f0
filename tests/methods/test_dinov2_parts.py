"""Parts of DINOv2 in DINO: targets by Sinkhorn, and KoLeo; of the global batch on any devices."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.experiment import builders
from cssl_jax.methods.base import Context
from cssl_jax.runtime import spmd
from helpers import method_cases, methods_numpy, tiny
from helpers.comparison import run_differences
from helpers.losses_numpy import unit

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
PARTS = {
    "sinkhorn": {"method__centring": "sinkhorn"},
    "koleo": {"method__koleo_weight": 0.1},
    "both": {"method__centring": "sinkhorn", "method__koleo_weight": 0.1},
}


def config(part, **values):
    return method_cases.config("dino", **PARTS[part], **values)


def method_of(changed):
    return builders.make_method(changed, spmd.make_mesh(jax.devices()[:1]))


def loss_of(part, outputs, targets, rows):
    with jax.enable_x64(True):
        params, state = method_cases.variables("dino", rows)
        ctx = Context(jnp.int32(method_cases.STEP), 10, None)
        objective = jax.jit(
            lambda out: method_of(config(part)).objective(
                params, state, out, {"targets": targets}, ctx
            )[:2]
        )
        loss, metrics = objective(outputs)
    return float(loss), {key: float(value) for key, value in metrics.items()}


def even_targets(scores, temperature):
    """Sinkhorn-Knopp of [B, K] in three iterations, by loops over columns and rows."""
    weights = np.exp(scores / temperature)
    for _ in range(3):
        for k in range(weights.shape[1]):
            weights[:, k] /= sum(weights[:, k])
        for b in range(len(weights)):
            weights[b] /= sum(weights[b])
    return weights


def test_targets_are_spread_evenly_over_both_views_of_the_batch():
    outputs, targets, rows = method_cases.draw("dino", 16)
    loss, metrics = loss_of("sinkhorn", outputs, targets, rows)
    prototypes, copies = rows[0], rows[0][::-1]
    scores = np.concatenate([unit(targets[:, view]) @ copies.T for view in (0, 1)])
    even = np.split(even_targets(scores, 0.07), 2)
    student = [unit(outputs[:, view]) @ prototypes.T for view in (0, 1)]
    expected = methods_numpy._cross_entropy_of_pairs(even, student, 0.1)
    assert loss == pytest.approx(expected, rel=1e-9)
    entropy = -np.mean([sum(p * np.log(p)) for p in np.concatenate(even)])
    assert metrics["target_entropy"] == pytest.approx(entropy, rel=1e-9)


def test_koleo_is_added_for_the_features_of_each_global_view():
    outputs, targets, rows = method_cases.draw("dino", 16)
    features = np.random.default_rng(1).normal(size=(16, 2, 7))
    plain = method_cases.CASES["dino"].loss(outputs, targets, rows)
    loss, metrics = loss_of("koleo", {"projections": outputs, "features": features}, targets, rows)
    spread = 0.0
    for view in (0, 1):
        z = unit(features[:, view])
        for i in range(16):
            spread -= np.log(min(np.linalg.norm(z[i] - z[j]) for j in range(16) if j != i)) / 16
    assert metrics["koleo"] == pytest.approx(spread, rel=1e-9)
    assert loss == pytest.approx(plain + 0.1 * spread, rel=1e-9)


def test_a_part_that_compares_examples_takes_the_two_passes_of_gradcache():
    assert method_of(method_cases.config("dino")).separable
    for part in PARTS:
        assert not method_of(config(part)).separable


def trained(part, devices, *, micro_batch=0, backend="shard_map"):
    group = 0 if micro_batch else method_cases.MICRO_BATCH
    changed = config(part, train__micro_batch=micro_batch, model__norm_group=group)
    with jax.enable_x64(True):
        return tiny.Run(changed, devices, backend).train(3, np.float64)


one_device = functools.cache(functools.partial(trained, devices=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "micro_batch", "backend"),
    [
        (4, method_cases.MICRO_BATCH, "shard_map"),
        (2, 0, "pmap"),
        (8, 0, "shard_map"),
    ],
)
def test_training_does_not_depend_on_devices_or_micro_batches(devices, micro_batch, backend):
    results = trained("both", devices, micro_batch=micro_batch, backend=backend)
    found = run_differences(results, one_device("both"))
    assert max(found.values()) < FLOAT64_BOUND, found


@pytest.mark.slow
def test_neighbours_among_the_rows_of_a_device_are_caught(monkeypatch):
    koleo = importlib.import_module("cssl_jax.losses.koleo")
    monkeypatch.setattr(koleo, "gather", lambda x, axis_name: x)
    monkeypatch.setattr(koleo, "first_row", lambda rows, axis_name: 0)
    found = run_differences(trained("both", 4), one_device("both"))
    assert found["loss"] > 1e-4
