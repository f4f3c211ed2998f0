"""The loss of DINO: identities of the cross entropy, its collapses, and loops over all pairs."""

import functools

import jax
import numpy as np
import pytest

from cssl_jax import losses
from cssl_jax.errors import UserError
from helpers import methods_numpy

ROWS, VIEWS, K, WIDTH = 6, 5, 7, 4
RNG = np.random.default_rng(0)
SCORES = RNG.uniform(-1, 1, size=(ROWS, VIEWS, K))
TEACHER = RNG.uniform(-1, 1, size=(ROWS, 2, K))
CENTRE = RNG.uniform(-1, 1, size=K)


@functools.cache
def function(temperature, target_temperature):
    rates = {"temperature": temperature, "target_temperature": target_temperature}
    loss = functools.partial(losses.self_distillation, **rates)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def computed(scores, teacher, centre, temperature=0.1, target_temperature=0.04):
    """(loss, metrics, gradients of the three arguments) in float64."""
    with jax.enable_x64(True):
        given = [np.asarray(x, np.float64) for x in (scores, teacher, centre)]
        (loss, metrics), gradients = function(temperature, target_temperature)(*given)
    return float(loss), {k: float(v) for k, v in metrics.items()}, jax.device_get(gradients)


def entropy(p):
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1)


def softmax(x):
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_all_pairs_of_a_teachers_view_and_another_view_are_compared():
    found, _, _ = computed(SCORES, TEACHER, CENTRE)
    total, pairs = 0.0, 0
    for i in range(2):
        for v in range(VIEWS):
            if i != v:
                target = softmax((TEACHER[:, i] - CENTRE) / 0.04)
                total -= np.sum(target * np.log(softmax(SCORES[:, v] / 0.1))) / ROWS
                pairs += 1
    assert pairs == 2 * (VIEWS - 1)
    assert found == pytest.approx(total / pairs, rel=1e-12)


def test_teacher_and_centre_receive_no_gradient():
    _, _, (student, teacher, centre) = computed(SCORES, TEACHER, CENTRE)
    assert np.abs(student).max() > 0
    assert not teacher.any()
    assert not centre.any()


def test_a_student_that_predicts_its_targets_pays_their_entropy_and_has_no_gradient():
    same = np.repeat(TEACHER[:, :1], 3, axis=1)  # one distribution for all views of an image
    loss, metrics, (gradient, _, _) = computed(same, same[:, :2], np.zeros(K), 0.1, 0.1)
    wanted = entropy(softmax(TEACHER[:, 0] / 0.1)).mean()
    assert loss == pytest.approx(wanted, rel=1e-12)
    assert metrics["target_entropy"] == pytest.approx(wanted, rel=1e-12)
    assert np.abs(gradient).max() < 1e-15
    worse, _, _ = computed(SCORES[:, :3], same[:, :2], np.zeros(K), 0.1, 0.1)
    assert worse > loss


def test_a_constant_in_the_centre_changes_nothing():
    loss, _, _ = computed(SCORES, TEACHER, CENTRE)
    assert computed(SCORES, TEACHER, CENTRE + 3.0)[0] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("sharpness", [0.0, 1e3], ids=["uniform", "one prototype"])
def test_targets_that_are_alike_have_no_information_about_their_images(sharpness):
    alike = np.broadcast_to(sharpness * CENTRE, (ROWS, 2, K))
    _, metrics, _ = computed(SCORES, alike, np.zeros(K))
    assert metrics["target_information"] == pytest.approx(0, abs=1e-9)
    assert metrics["target_entropy"] == pytest.approx(0 if sharpness else np.log(K), abs=1e-9)


def test_images_with_a_prototype_each_are_distinguished():
    own = 10.0 * np.eye(ROWS, K)[:, None].repeat(2, axis=1)
    _, metrics, _ = computed(SCORES, own, np.zeros(K))
    assert metrics["target_information"] == pytest.approx(np.log(ROWS), rel=1e-9)


def test_large_scores_stay_finite_in_float32():
    scores = np.float32([[[1e4, -1e4, 0.0]] * 2] * 2)
    loss, metrics = jax.jit(losses.self_distillation)(scores, scores, np.zeros(3, np.float32))
    assert np.isfinite([loss, *metrics.values()]).all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(UserError, match="temperature"):
        losses.self_distillation(SCORES, TEACHER, CENTRE, temperature=0.0)


def test_the_loops_of_the_contract_agree_for_local_views():
    rows = {name: RNG.normal(size=(ROWS, n, WIDTH)) for name, n in (("s", VIEWS), ("t", 2))}
    prototypes, copies = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in RNG.normal(size=(2, K, WIDTH))
    )
    unit = {name: x / np.linalg.norm(x, axis=-1, keepdims=True) for name, x in rows.items()}
    found, _, _ = computed(unit["s"] @ prototypes.T, unit["t"] @ copies.T, CENTRE)
    loops = methods_numpy.dino(rows["s"], rows["t"], prototypes, copies, CENTRE, 0.1, 0.04)
    assert found == pytest.approx(loops, rel=1e-12)
