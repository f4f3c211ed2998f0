"""Losses of steps (TS2Vec, CPC) against NumPy loops, for series of different lengths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax import losses
from cssl_jax.losses.hierarchical import hierarchical_terms
from cssl_jax.losses.predictive import predictive_terms
from cssl_jax.runtime import spmd
from helpers import losses_numpy
from tests.helpers.marks import slow

N, T, D, K = 8, 6, 2, 2
LENGTHS = np.array([6, 4, 1, 5, 0, 6, 2, 3], np.int32)  # two are too short for most levels
RNG = np.random.default_rng(5)
Z1 = RNG.normal(size=(N, T, D))
Z2 = Z1 + 0.5 * RNG.normal(size=(N, T, D))
PREDICTIONS = RNG.normal(size=(N, K, T, D))


def log_sum_exp(values):
    return np.log(sum(np.exp(value) for value in values))


def hierarchical(z1, z2, weight=0.3, lengths=LENGTHS):
    """Equations 1 to 3 of arXiv 2106.10466 and Algorithm 1, one pair of steps at a time."""
    views = [[z[i, :length] for i, length in enumerate(lengths)] for z in (z1, z2)]
    levels = []
    while any(len(one) for one in views[0]):
        terms = []
        for i, t in [(i, t) for i, one in enumerate(views[0]) for t in range(len(one))]:
            positive = np.sum(views[0][i][t] * views[1][i][t])
            instance, temporal = 0, 0
            for anchor in (0, 1):
                row = views[anchor][i][t]
                others = [
                    (view, j)
                    for view in (0, 1)
                    for j in range(len(views[0]))
                    if t < len(views[0][j]) and (view, j) != (anchor, i)
                ]
                instance += log_sum_exp(np.sum(row * views[v][j][t]) for v, j in others) / 2
                steps = [
                    (view, s)
                    for view in (0, 1)
                    for s in range(len(views[0][i]))
                    if (view, s) != (anchor, t)
                ]
                temporal += log_sum_exp(np.sum(row * views[v][i][s]) for v, s in steps) / 2
            terms.append(weight * (instance - positive) + (1 - weight) * (temporal - positive))
        levels.append(sum(terms) / len(terms))
        views = [[halved(one) for one in view] for view in views]
    return sum(levels) / len(levels)


def halved(series):
    """Maximum of neighbouring steps by the real parts, which complex steps of 1e-30 leave alone."""
    pairs = [(series[2 * t], series[2 * t + 1]) for t in range(len(series) // 2)]
    return np.array([np.where(a.real >= b.real, a, b) for a, b in pairs]).reshape(-1, D)


def predictive(predictions, targets, same_series=False, lengths=LENGTHS):
    """Equation 4 of arXiv 1807.03748 with dot products, one prediction at a time."""
    terms = []
    for i, length in enumerate(lengths):
        for k in range(1, K + 1):
            for t in range(length - k):
                at = [j for j in range(N) if t + k < lengths[j]]
                candidates = [targets[j, t + k] for j in at]
                if same_series:
                    candidates += [targets[i, s] for s in range(length) if s != t + k]
                logits = [np.sum(predictions[i, k - 1, t] * one) for one in candidates]
                terms.append(log_sum_exp(logits) - logits[at.index(i)])
    return sum(terms) / len(terms)


CASES = {
    "hierarchical": (
        lambda a, b, n, axis: losses.hierarchical_contrast(
            a, b, n, instance_weight=0.3, axis_name=axis
        ),
        hierarchical,
        (Z1, Z2),
    ),
    "predictive": (
        lambda a, b, n, axis: losses.predictive_contrast(a, b, n, axis_name=axis),
        predictive,
        (PREDICTIONS, Z2),
    ),
    "predictive, same series": (
        lambda a, b, n, axis: losses.predictive_contrast(a, b, n, same_series=True, axis_name=axis),
        functools.partial(predictive, same_series=True),
        (PREDICTIONS, Z2),
    ),
}


@functools.cache
def expected(name):
    _, loop, arrays = CASES[name]
    return loop(*arrays), losses_numpy.gradient(loop, *arrays)


@functools.cache
def computed(devices):
    """(loss, gradients) of all cases in float64, compiled as one program; padding is NaN."""

    def local(lengths, arrays):
        results = {}
        for name, (ours, _, _) in CASES.items():
            loss, grads = jax.value_and_grad(
                lambda a, b, ours=ours: ours(a, b, lengths, "data"), argnums=(0, 1)
            )(*arrays[name])
            results[name] = jax.lax.pmean(loss, "data"), tuple(g / devices for g in grads)
        return results

    mesh = spmd.make_mesh(jax.devices()[:devices])
    specs = {name: (P(), (P("data"), P("data"))) for name in CASES}
    step = jax.shard_map(
        local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=specs, check_vma=False
    )
    padded = {
        name: tuple(with_padding(one, np.nan) for one in arrays)
        for name, (_, _, arrays) in CASES.items()
    }
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(step)(LENGTHS, padded))


def with_padding(x, value):
    """X [N, ..., T, D] with a value from each length on."""
    outside = np.arange(T) >= LENGTHS[:, None]
    outside = outside.reshape(N, *(1,) * (x.ndim - 3), T, 1)
    return np.where(outside, value, x)


@pytest.mark.parametrize(
    "devices",
    [slow(1), slow(2), slow(4), 8],
)
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_float64_loops(name, devices):
    loss, grads = computed(devices)[name]
    reference, reference_grads = expected(name)
    # Both sides are float64. Only the order of a few hundred additions differs.
    assert loss == pytest.approx(reference, rel=1e-11)
    for ours, theirs in zip(grads, reference_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * np.abs(theirs).max())


def test_identical_rows_have_the_chance_level():
    ones = jnp.ones((N, T, D))
    found = jax.device_get(jax.jit(hierarchical_terms)(ones, ones, LENGTHS))
    assert found.loss == pytest.approx(found.chance_level, rel=1e-5)
    # The closed form for series of one length: the logarithm of the number of candidates.
    found = jax.device_get(jax.jit(hierarchical_terms)(ones, ones, np.full(N, 4, np.int32)))
    temporal = (np.log(7) + np.log(3) + np.log(1)) / 3
    assert found.temporal == pytest.approx(temporal, rel=1e-5)
    assert found.instance == pytest.approx(np.log(2 * N - 1), rel=1e-5)
    predictions = jnp.ones((N, K, T, D))
    found = jax.device_get(jax.jit(predictive_terms)(predictions, ones, np.full(N, T, np.int32)))
    assert found.loss == pytest.approx(np.log(N), rel=1e-5)
    assert found.chance_level == pytest.approx(np.log(N), rel=1e-5)
    assert found.accuracy == 0


def test_series_of_one_step_have_no_prediction():
    def value(targets):
        predictions = PREDICTIONS.astype(np.float32)
        return losses.predictive_contrast(predictions, targets, np.ones(N, np.int32))

    loss, gradient = jax.device_get(jax.jit(jax.value_and_grad(value))(Z2.astype(np.float32)))
    assert loss == 0
    assert not gradient.any()


def test_the_accuracy_is_the_fraction_of_steps_whose_positive_is_nearest():
    apart = 10 * np.eye(N)[:, None].repeat(T, axis=1)
    found = jax.device_get(jax.jit(hierarchical_terms)(apart, apart, LENGTHS))
    assert found.accuracy == pytest.approx(1.0)
    found = jax.device_get(jax.jit(hierarchical_terms)(apart, -apart, LENGTHS))
    # Only a step that no other series has is nearest to its positive: none here.
    assert found.accuracy == 0
