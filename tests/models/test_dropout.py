"""Dropout and drop-path by key: masks depend on the example, the view and the layer only."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cssl_jax.models.dropout import Dropout, DropPath, view_keys
from cssl_jax.runtime.spmd import AXIS, make_mesh

EXAMPLES, VIEWS = 16, 2


def example_keys(examples=EXAMPLES, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, (examples, 2), dtype=np.uint32)


def dropped(module, keys, shape, train=True):
    """Dropped ones, [rows, *shape]."""
    return np.asarray(module.apply({}, jnp.ones((len(keys), *shape)), keys, train=train))


def by_hand(key, layer, rate, shape):
    """The mask of one row whose key is given, drawn alone."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), layer)
    return jax.random.uniform(key, shape, jnp.float32) < np.float32(1 - rate)


def test_each_row_has_the_mask_that_is_drawn_from_its_key_alone():
    keys = example_keys(3)
    for module, shape in ((Dropout(0.4, 7), (5, 2)), (DropPath(0.4, 7), (1, 1))):
        outputs = dropped(module, keys, (5, 2))
        for row, key in zip(outputs, keys, strict=True):
            mask = np.broadcast_to(by_hand(key, 7, 0.4, shape), (5, 2))
            np.testing.assert_allclose(row, mask / np.float32(0.6), rtol=1e-6)


def test_the_dropped_fraction_is_the_rate_and_the_mean_is_kept():
    keys = view_keys(example_keys(512), VIEWS)
    entries = dropped(Dropout(0.3, 0), keys, (64,))
    # Four standard errors of a fraction, sqrt(p (1 - p) / n).
    assert (entries == 0).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / entries.size))
    assert entries[entries > 0] == pytest.approx(1 / 0.7)
    rows = dropped(DropPath(0.3, 0), keys, (4, 2)).reshape(len(keys), -1)
    assert np.all(rows == rows[:, :1])
    assert (rows[:, 0] == 0).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / len(rows)))


def test_views_layers_and_examples_have_different_masks():
    keys = view_keys(example_keys(), 3)
    assert len({tuple(key) for key in keys.tolist()}) == 3 * EXAMPLES
    masks = dropped(Dropout(0.5, 0), keys, (64,)) > 0
    for other in (dropped(Dropout(0.5, 1), keys, (64,)) > 0, np.roll(masks, 1, axis=0)):
        # Independent bits agree in half of the entries.
        assert (masks == other).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(masks.size))


def test_view_numbers_run_across_groups_and_rows_are_example_major():
    keys = example_keys()
    every = view_keys(keys, 5).reshape(EXAMPLES, 5, 2)
    np.testing.assert_array_equal(every[:, :2], view_keys(keys, 2).reshape(EXAMPLES, 2, 2))
    np.testing.assert_array_equal(every[:, 2:], view_keys(keys, 3, first=2).reshape(EXAMPLES, 3, 2))


def test_masks_share_no_key_with_the_augmentation_of_the_same_view():
    """The augmentation folds the view number, and then slots, into the example's key."""
    keys = example_keys()
    augmentation = [
        tuple(np.asarray(jax.random.key_data(jax.random.fold_in(folded, slot))).tolist())
        for key in keys
        for view in range(VIEWS)
        for folded in [jax.random.fold_in(jax.random.wrap_key_data(key), view)]
        for slot in range(20)
    ]
    masks = {
        tuple(np.asarray(jax.random.key_data(jax.random.fold_in(folded, layer))).tolist())
        for key in view_keys(keys, VIEWS)
        for folded in [jax.random.wrap_key_data(key)]
        for layer in range(20)
    }
    assert masks.isdisjoint(augmentation)


class Network(nn.Module):
    """A dense layer, dropout, a residual branch with drop-path."""

    @nn.compact
    def __call__(self, x, keys=None, train=False):
        x = Dropout(0.3, 0)(nn.Dense(8, name="dense1")(x), keys, train=train)
        return x + DropPath(0.5, 1)(nn.Dense(8, name="dense2")(x), keys, train=train)


def gradient(devices, variables, x, keys, parts=1):
    """(outputs, gradient of their squares) on devices, in micro-batches."""

    def loss(variables, x, keys):
        y = Network().apply(variables, view_rows(x), view_keys(keys, VIEWS), train=True)
        return jnp.square(y).mean(), y

    def view_rows(x):
        return x.reshape(-1, x.shape[-1])

    def step(variables, x, keys):
        results = [
            jax.grad(loss, has_aux=True)(variables, *part)
            for part in zip(jnp.split(x, parts), jnp.split(keys, parts), strict=True)
        ]
        grads = jax.tree.map(lambda *leaves: sum(leaves) / parts, *(grad for grad, _ in results))
        return jax.lax.pmean(grads, AXIS), jnp.concatenate([y for _, y in results])

    mapped = jax.shard_map(
        step,
        mesh=make_mesh(jax.devices()[:devices]),
        in_specs=(P(), P(AXIS), P(AXIS)),
        out_specs=(P(), P(AXIS)),
        check_vma=False,
    )
    return jax.jit(mapped)(variables, x, keys)


@pytest.mark.slow
def test_masks_depend_neither_on_devices_nor_on_micro_batches():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(EXAMPLES, VIEWS, 6))
        variables = Network().init(jax.random.key(0), x[0])
        variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
        reference = gradient(1, variables, x, example_keys())
        for devices, parts in ((2, 1), (4, 2), (8, 2), (1, 4)):
            result = gradient(devices, variables, x, example_keys(), parts)
            for one, other in zip(*map(jax.tree.leaves, (reference, result)), strict=True):
                # Both sides are float64 and differ in the order of additions.
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_masks_are_the_same_in_every_precision():
    keys = example_keys()
    single = dropped(Dropout(0.3, 0), keys, (64,))
    half = Dropout(0.3, 0).apply({}, jnp.ones((EXAMPLES, 64), jnp.bfloat16), keys, train=True)
    assert half.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        ones = jnp.ones((EXAMPLES, 64), jnp.float64)
        double = Dropout(0.3, 0).apply({}, ones, keys, train=True)
        assert double.dtype == jnp.float64
    np.testing.assert_array_equal(single > 0, np.asarray(half) > 0)
    np.testing.assert_array_equal(single > 0, np.asarray(double) > 0)


def test_nothing_is_dropped_outside_training_or_at_rate_0():
    x = jnp.arange(6.0).reshape(2, 3)
    for module in (Dropout, DropPath):
        assert module(0.5, 0).apply({}, x, None, train=False) is x
        assert module(0.0, 0).apply({}, x, None, train=True) is x


def test_missing_keys_and_impossible_rates_are_named():
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="DropPath needs a key per row in training"):
        DropPath(0.5, 0).apply({}, x, None, train=True)
    with pytest.raises(ValueError, match=r"rate of Dropout is 1\.0; give a number within"):
        Dropout(1.0, 0).apply({}, x, example_keys(2), train=True)
