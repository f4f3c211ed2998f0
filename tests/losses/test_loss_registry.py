"""LOSSES: names, chance levels, agreement with the functions, files of a user's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax import losses, recipes
from cssl_jax.config import Config, SimCLRConfig
from cssl_jax.errors import UserError
from cssl_jax.losses.registry import LOSSES, loss_entry
from cssl_jax.methods.base import Context
from cssl_jax.methods.entry import Modules
from cssl_jax.methods.registry import method_entry
from cssl_jax.runtime import spmd
from helpers import tiny

PAIRS, TAU = 16, 0.5


def value_of(name, z1, z2, labels=None):
    entry = loss_entry(name)
    more = {"labels": labels} if entry.labelled else {}
    return entry.loss(z1, z2, temperature=TAU, axis_name=None, tile_size=None, **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_projections_that_hardly_differ_have_the_loss_of_the_chance_level(name):
    # Not identical: semi-hard negatives must be a little farther than the positive.
    rng = np.random.default_rng(0)
    z = (1 + 1e-3 * rng.normal(size=(PAIRS, 8))).astype(np.float32)
    labels = np.arange(PAIRS) % 4
    found = value_of(name, jnp.asarray(z), jnp.asarray(z), jnp.asarray(labels))
    assert float(found) == pytest.approx(loss_entry(name).chance_level(PAIRS, TAU), abs=2e-3)


def test_names_stand_for_the_losses_of_their_papers():
    rng = np.random.default_rng(1)
    z1, z2 = (jnp.asarray(rng.normal(size=(PAIRS, 8)), jnp.float32) for _ in range(2))
    labels = jnp.asarray(np.arange(PAIRS) % 4)
    both = jnp.stack([z1, z2], axis=1)
    expected = {
        "nt_xent": losses.nt_xent(z1, z2, temperature=TAU),
        "dcl": losses.dcl(z1, z2, temperature=TAU),
        "dcl_w": losses.dcl(z1, z2, temperature=TAU, sigma=0.5),
        "hard_nt_xent": losses.hard_nt_xent(z1, z2, temperature=TAU, beta=1.0, tau_plus=0.1),
        "debiased": losses.hard_nt_xent(z1, z2, temperature=TAU, beta=0.0, tau_plus=0.1),
        "sup_con": losses.sup_con(both, labels, temperature=TAU),
        "nt_logistic": losses.nt_logistic(z1, z2, temperature=TAU),
        "clip": losses.clip(z1, z2, temperature=TAU),
        "contrastive": losses.contrastive(z1, z2, margin=1.0),
        "triplet": losses.triplet(z1, z2, margin=0.5, mining="semi-hard"),
    }
    assert expected.keys() == LOSSES.keys()
    for name, value in expected.items():
        assert float(value_of(name, z1, z2, labels)) == float(value), name
    assert len({float(value) for value in expected.values()}) == len(expected)


def test_an_unknown_loss_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="no loss is called 'dcll'; did you mean 'dcl'"):
        recipes.override(Config(), {"method.loss": "dcll"})


def test_only_a_loss_of_labels_needs_labels():
    entry = method_entry("simclr")
    for name in LOSSES:
        config = Config(method=SimCLRConfig(loss=name))
        assert entry.labelled(config) == (name == "sup_con")


def objective_of(config, devices):
    """Loss of random projections by the config's method, whose batch is split over devices."""
    modules = Modules(encoder=nn.Dense(1), head=lambda: nn.Dense(1))  # neither is applied
    method = method_entry("simclr").build(config, modules)
    ctx = Context(step=jnp.int32(0), total_steps=1, axis_name="data")
    rng = np.random.default_rng(2)
    projections = rng.normal(size=(PAIRS, 2, 8))
    examples = {"label": np.arange(PAIRS) % 4}

    def local(projections, examples):
        loss, metrics, _ = method.objective({}, {}, projections, examples, ctx)
        return jax.lax.pmean((loss, metrics), "data")

    mesh = spmd.make_mesh(jax.devices()[:devices])
    rows = jax.sharding.PartitionSpec("data")
    with jax.enable_x64(True):
        split = jax.shard_map(
            local, mesh=mesh, in_specs=rows, out_specs=jax.sharding.PartitionSpec(), check_vma=False
        )
        return jax.device_get(jax.jit(split)(projections, examples))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_the_objective_is_the_same_on_any_number_of_devices(name):
    config = Config(method=SimCLRConfig(loss=name, temperature=TAU))
    (one, metrics), *others = (objective_of(config, devices) for devices in (1, 4))
    assert metrics["loss"] == one
    assert metrics.keys() == {"loss", "contrastive_accuracy", "contrastive_entropy"}
    for found, more in others:
        assert found == pytest.approx(one, abs=1e-9)
        assert more["contrastive_entropy"] == pytest.approx(metrics["contrastive_entropy"])


def test_a_loss_from_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cssl_jax.losses import LossEntry, nt_xent\n"
        "def twice(z1, z2, **options):\n"
        "    return 2 * nt_xent(z1, z2, **options)\n"
        "MINE = LossEntry(loss=twice, chance_level=lambda batch, tau: 1.0)\n"
    )
    values = {"method.loss": f"{path}:MINE"}
    with pytest.raises(UserError, match="--trust-code"):
        recipes.override(Config(), values)
    with cssl_jax.trusting_code(values["method.loss"]):
        config = recipes.override(Config(), values)
        assert method_entry("simclr").chance_level(config) == 1.0
        doubled, _ = objective_of(config, 1)
    assert doubled == pytest.approx(2 * objective_of(Config(), 1)[0])


@pytest.mark.slow
def test_a_step_with_another_loss_is_the_same_on_one_and_two_devices():
    config = recipes.override(tiny.config(), {"method.loss": "sup_con"})
    with jax.enable_x64(True):
        one, two = (tiny.Run(config, devices).train(2, np.float64)[0] for devices in (1, 2))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-9)
