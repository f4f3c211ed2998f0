"""Batched L-BFGS: agreement with closed forms and SciPy, independence of the problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from cssl_jax.evaluate.solvers import lbfgs

LIMITS = {"tolerance": 0.0, "precision": 1e-10, "max_trials": 500, "enough": 0}


def quadratics(count=5, size=12, seed=0):
    """Matrices [B, P, P] and vectors [B, P] of 1/2 x'Ax - b'x + 1, condition numbers 1 to 1e4."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(count, size, size)))[0]
    spread = np.logspace(0, np.linspace(0, 4, count), size).T
    return np.einsum("bij,bj,bkj->bik", axes, spread, axes), rng.normal(size=(count, size))


def evaluator(matrices, vectors):
    def evaluate(points):
        product = jnp.einsum("bij,bj->bi", matrices, points)
        value = jnp.sum(points * (0.5 * product - vectors), axis=1) + 1
        return value, product - vectors, jnp.ones(len(points))

    return evaluate


def plain(vectors, _):
    return vectors


def minimiser(evaluate, precondition=plain):
    """A function from a start and limits to the final state, compiled once."""

    @jax.jit
    def run(start, limits):
        first = lbfgs.begin(evaluate, precondition, start)
        return lbfgs.advance(evaluate, precondition, first, **limits)

    def minimise(start, **limits):
        with jax.enable_x64(True):
            return jax.device_get(run(jnp.asarray(start, jnp.float64), {**LIMITS, **limits}))

    return minimise


def minimise(evaluate, start, precondition=plain, **limits):
    return minimiser(evaluate, precondition)(start, **limits)


def test_quadratics_reach_their_closed_form_whatever_their_condition():
    matrices, vectors = quadratics()
    state = minimise(evaluator(matrices, vectors), np.zeros_like(vectors), precision=1e-16)
    expected = np.linalg.solve(matrices, vectors[..., None])[..., 0]
    assert state.done.all()
    np.testing.assert_allclose(state.point, expected, rtol=1e-5, atol=1e-6)  # value to 1e-16
    # Ill-conditioned problems need more trials. The easy ones stop without waiting for them.
    assert state.trials[0] < 10 < state.trials[-1]


def test_a_problem_ends_where_it_ends_alone():
    matrices, vectors = quadratics()
    together = minimise(evaluator(matrices, vectors), np.zeros_like(vectors))
    for i in range(len(vectors)):
        alone = minimise(
            evaluator(matrices[i : i + 1], vectors[i : i + 1]), np.zeros_like(vectors[:1])
        )
        assert alone.trials[0] == together.trials[i]
        np.testing.assert_allclose(alone.point[0], together.point[i], rtol=1e-9, atol=1e-12)


def test_with_the_hessian_as_preconditioner_a_quadratic_takes_a_step_or_two():
    matrices, vectors = quadratics()
    inverse = np.linalg.inv(matrices)

    def newton(v, _):
        return jnp.einsum("bij,bj->bi", inverse, v)

    state = minimise(evaluator(matrices, vectors), np.zeros_like(vectors), newton)
    assert state.trials.max() <= 2


def test_a_function_that_is_no_quadratic_ends_where_scipy_does():
    """Sums of softplus, whose first full step is far too long."""
    rng = np.random.default_rng(0)
    rows, signs = rng.normal(size=(3, 40, 6)), rng.choice([-1.0, 1.0], (3, 40))
    scale = np.array([1.0, 30.0, 1000.0])[:, None, None]

    def single(x, i):
        margins = signs[i] * (scale[i] * rows[i] @ x)
        return np.logaddexp(0, margins).sum() + 0.5 * x @ x

    def objective(x, rows, signs, scale):
        return jnp.sum(jnp.logaddexp(0.0, signs * (scale * rows @ x))) + 0.5 * x @ x

    def evaluate(points):
        both = jax.vmap(jax.value_and_grad(objective))(points, rows, signs, scale)
        return *both, jnp.ones(len(points))

    state = minimise(evaluate, np.ones((3, 6)), precision=1e-12)
    for i in range(3):
        reference = scipy.optimize.minimize(single, np.ones(6), args=(i,), method="BFGS")
        assert state.value[i] <= reference.fun + 1e-6 * abs(reference.fun)


def test_the_value_never_rises_from_trial_to_trial():
    matrices, vectors = quadratics()
    run = minimiser(evaluator(matrices, vectors))
    ones = np.ones_like(vectors)
    values = [run(ones, max_trials=trials).value for trials in range(12)]
    assert np.all(np.diff(values, axis=0) <= 1e-12)
    # Without a trial the point stays at the start.
    np.testing.assert_allclose(values[0], 0.5 * matrices.sum(axis=(1, 2)) - vectors.sum(axis=1) + 1)


def test_it_stops_when_enough_problems_are_done():
    matrices, vectors = quadratics()
    state = minimise(evaluator(matrices, vectors), np.zeros_like(vectors), enough=2)
    assert (~state.done).sum() == 2


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_problem_that_is_no_number_is_given_up_and_harms_no_other(broken):
    matrices, vectors = quadratics()
    spoilt = vectors.copy()
    spoilt[1] = broken
    state = minimise(evaluator(matrices, spoilt), np.zeros_like(vectors))
    whole = minimise(evaluator(matrices, vectors), np.zeros_like(vectors))
    assert state.done.all()
    others = [0, 2, 3, 4]
    np.testing.assert_allclose(state.value[others], whole.value[others])
