"""Momentum copies and queues: schedules and contents in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax.methods.core.momentum import Momentum, follow, start_copy
from cssl_jax.methods.core.queue import enqueue, start_queue
from tests.helpers.marks import slow

WIDTH = 3


@pytest.mark.parametrize(("start", "end"), [(0.99, 1.0), (0.99, 0.999), (0.9, 0.9)])
def test_momentum_is_half_a_cosine_between_its_ends(start, end):
    rate = jax.jit(lambda step: Momentum(start, end).rate(step, 200))
    found = [1 - float(rate(step)) for step in (0, 50, 100, 200)]
    quarter = end - (end - start) * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(found, [start, quarter, (start + end) / 2, end], atol=1e-7)


def copies(momentum, steps, theta=2.0, xi=5.0):
    """The copy of a weight that stays at theta, after steps from xi."""
    params, state = {"encoder": {"w": jnp.float32(theta)}}, {"encoder": {}}
    copy = start_copy({"encoder": {"w": jnp.float32(xi)}}, state, ["encoder"])
    step = jax.jit(lambda copy: follow(copy, params, state, jnp.float32(1 - momentum)))
    for _ in range(steps):
        copy = step(copy)
    return float(copy["params"]["encoder"]["w"])


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_a_copy_of_fixed_weights_decays_geometrically(momentum):
    assert copies(momentum, 7) == pytest.approx(2 + momentum**7 * (5 - 2), rel=1e-6)


@pytest.mark.parametrize(("size", "batch"), [slow(12, 4), (10, 4), slow(4, 4), slow(3, 4), (5, 16)])
def test_a_queue_holds_the_last_rows_in_the_order_of_arrival(size, batch):
    queue = start_queue(jax.random.key(0), size, WIDTH)
    rng = np.random.default_rng(0)
    arrived = list(np.array(queue["rows"]))
    step = jax.jit(enqueue)
    for _ in range(6):
        new = rng.normal(size=(batch, WIDTH)).astype(np.float32)
        queue = step(queue, new)
        arrived += list(new / np.linalg.norm(new, axis=1, keepdims=True))
        pointer = int(queue["pointer"])
        oldest_first = np.roll(np.array(queue["rows"]), -pointer, axis=0)
        np.testing.assert_allclose(oldest_first, arrived[-size:], rtol=1e-6)
        assert pointer == (len(arrived) - size) % size


def test_a_queue_starts_with_random_unit_rows():
    rows = start_queue(jax.random.key(0), 1000, WIDTH)["rows"]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert np.abs(np.mean(rows, axis=0)).max() < 0.1
