"""Positions of patches: the three tables by loops, and learned tables at other sizes by timm."""

import math
import pathlib

import jax
import numpy as np
import pytest

from cssl_jax.models.vit import ViT, position_table
from cssl_jax.models.vit.positions import TABLES, resample_positions

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "goldens" / "timm.npz"
ROWS, COLUMNS, CHANNELS = 3, 4, 12


def by_loops(name):
    """The table from the definitions of the three code bases, entry by entry."""
    quarter = CHANNELS // 4
    table = np.zeros((ROWS * COLUMNS, CHANNELS))
    for row in range(ROWS):
        for column in range(COLUMNS):
            for i in range(quarter):
                exponent = i / (quarter - 1) if name == "sincos_big_vision" else i / quarter
                w = 10_000**-exponent
                first, second = (row, column) if name == "sincos_moco_v3" else (column, row)
                entry = table[row * COLUMNS + column]
                entry[i], entry[quarter + i] = math.sin(first * w), math.cos(first * w)
                entry[2 * quarter + i] = math.sin(second * w)
                entry[3 * quarter + i] = math.cos(second * w)
    return table


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_its_definition(name):
    table = position_table(name, ROWS, COLUMNS, CHANNELS)
    np.testing.assert_allclose(table, by_loops(name), rtol=0, atol=1e-14)


def test_the_three_tables_differ():
    tables = [position_table(name, 4, 4, CHANNELS) for name in TABLES]
    for i in range(3):
        assert np.abs(tables[i] - tables[i - 1]).max() > 0.1


@pytest.mark.parametrize("size", [(3, 3), (7, 7), (5, 8), (2, 6)])
def test_other_sizes_are_those_of_timm(size):
    rows, columns = size
    with np.load(GOLDENS) as goldens:
        table, expected = goldens["positions/table"], goldens[f"positions/{rows}x{columns}"]
    found = jax.jit(resample_positions, static_argnums=(1, 2))(table[1:], rows, columns)
    np.testing.assert_array_equal(expected[0], table[0])  # the class token's
    np.testing.assert_allclose(found, expected[1:], rtol=0, atol=2e-6)  # float32 on both sides


def test_the_own_size_keeps_every_bit():
    table = np.random.default_rng(0).normal(size=(25, 8))
    assert resample_positions(table, 5, 5) is table


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["learned", *TABLES])
def test_images_of_other_sizes_are_encoded(positions):
    encoder = ViT(layers=1, hidden=12, heads=3, patch=4, positions=positions)
    weights = jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 16, 16, 3)))
    assert ("positions" in weights["params"]) == (positions == "learned")
    apply = jax.jit(encoder.apply)
    for shape in ((1, 16, 16, 3), (1, 8, 24, 3), (1, 20, 20, 3)):
        out = apply(weights, np.ones(shape, np.float32))
        assert out["tokens"].shape == (1, shape[1] * shape[2] // 16, 12)
        assert np.isfinite(out["features"]).all()


def test_a_fixed_table_is_added_to_patches_and_not_to_the_class_token():
    options = {"layers": 1, "hidden": 12, "heads": 3, "patch": 4}
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    fixed, learned = ViT(positions="sincos_mae", **options), ViT(**options)
    params = dict(jax.jit(fixed.init)(jax.random.key(0), x)["params"])
    table = position_table("sincos_mae", 2, 2, 12)
    with_table = {**params, "positions": np.concatenate([np.zeros((1, 12)), table])}
    found = jax.jit(fixed.apply)({"params": params}, x)
    expected = jax.jit(learned.apply)({"params": jax.tree.map(np.float32, with_table)}, x)
    np.testing.assert_allclose(found["features"], expected["features"], rtol=1e-5, atol=1e-5)
