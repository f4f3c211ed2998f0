"""SwAV and DINO with local views: their groups, their rows, their state on any devices."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssl_jax import recipes
from cssl_jax.data.input_spec import ImageSpec
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.methods import dino
from cssl_jax.methods.base import Context
from cssl_jax.planning import planner
from cssl_jax.planning.shapes import DataShapes
from cssl_jax.runtime import spmd
from helpers import method_cases, tiny
from helpers.comparison import run_differences
from helpers.products import products

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
LOCAL = {
    "method.local_views": 3,
    "method.local_size": 5,
    "method.local_area": (0.1, 0.3),
    "augment.crop_area": (0.4, 1.0),
}
METHODS = ("swav", "dino")


def config(name, *, encoder="tiny", **values):
    return method_cases.config(name, encoder=encoder, **values).replace(LOCAL)


def method_of(changed):
    return builders.make_method(changed, spmd.make_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("name", METHODS)
def test_local_views_have_their_size_area_and_blur_and_no_solarisation(name):
    changed = config(name).replace({"augment.solarize": (0.0, 0.2), "augment.blur": (1.0, 0.1)})
    groups = method_of(changed).views
    assert list(groups) == ["main", "local"]
    local = groups["local"]
    assert (local.count, local.size) == (3, 5)
    assert local.policy.crop_area == (0.1, 0.3)
    assert (local.policy.blur, local.policy.solarize) == ((0.5,), (0.0,))
    assert groups["main"].policy is None  # that of the run
    assert list(method_of(method_cases.config(name)).views) == ["main"]


def test_local_views_of_other_data_than_images_are_refused():
    series = recipes.with_method(recipes.load("series"), "swav")
    with pytest.raises(UserError, match=r"local_views is 3, and local views are those of images"):
        method_of(series.replace({"method.local_views": 3}))


def trained(name, devices, *, micro_batch=0, backend="shard_map", steps=3):
    group = 0 if micro_batch else method_cases.MICRO_BATCH
    changed = config(name, train__micro_batch=micro_batch, model__norm_group=group)
    with jax.enable_x64(True):
        return tiny.Run(changed, devices, backend).train(steps, np.float64)


one_device = functools.cache(functools.partial(trained, devices=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "micro_batch"),
    [
        ("dino", 4, method_cases.MICRO_BATCH),
        ("swav", 8, method_cases.MICRO_BATCH),
        ("dino", 8, 0),
    ],
)
def test_training_does_not_depend_on_devices_or_micro_batches(name, devices, micro_batch):
    found = run_differences(trained(name, devices, micro_batch=micro_batch), one_device(name))
    assert max(found.values()) < FLOAT64_BOUND, found


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_the_loops_over_all_pairs_of_views(name):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(method_cases.QUEUE, 5, method_cases.WIDTH))
    _, targets, rows = method_cases.draw(name, method_cases.QUEUE)
    method = method_of(config(name))
    with jax.enable_x64(True):
        params, state = method_cases.variables(name, rows)
        ctx = Context(jnp.int32(method_cases.STEP), 10, None)
        objective = jax.jit(
            lambda out: method.objective(params, state, out, {"targets": targets}, ctx)[0]
        )
        found = objective(outputs)
    assert float(found) == pytest.approx(method_cases.CASES[name].loss(outputs, targets, rows))


def test_the_plan_counts_local_views():
    vit = {"model.encoder": "vit_micro", "model.patch": 4, "model.width": 1 / 8}
    vit |= {"model.positions": "sincos_mae"}  # learned ones are resampled by small products
    changed = config("dino").replace({**vit, "method.local_size": 4})
    without = changed.replace({"method.local_views": 0})
    given = DataShapes(ImageSpec(8, 3, (0.5,) * 3, (0.25,) * 3), "tfdata", None, "")
    costs = [planner.cost_of(each, 1, given).encoder_flops for each in (changed, without)]
    batch = changed.train.batch_size
    views = {
        "main": jax.ShapeDtypeStruct((batch, 2, 8, 8, 3), "float32"),
        "local": jax.ShapeDtypeStruct((batch, 3, 4, 4, 3), "float32"),
    }
    counted = []
    for each in (changed, without):
        method = method_of(each)
        params, state = jax.eval_shape(method.init, jax.random.key(0), {"views": views})
        ctx = Context(jnp.int32(0), 10, None)
        encode = functools.partial(method.encode, method_state={}, ctx=ctx)
        traced = jax.make_jaxpr(
            lambda params, state, views, encode=encode: encode(
                params, state, batch={"views": views}
            )
        )(params, state, views)
        counted.append(products(traced.jaxpr))
    first = 3 * batch * 2 * 16 * 3 * 24  # one patch per local view, whose pixels need no gradient
    assert costs[0] - costs[1] == 3 * (counted[0] - counted[1]) - first


# ---------------------------------------------------------------------------- the state of DINO


@functools.cache
def two_steps():
    """States before the first step of DINO, after it and after the second."""
    rates = {"method__momentum": 0.9, "method__momentum_end": 0.9, "method__frozen_epochs": 1.0}
    changed = method_cases.config("dino", **rates)
    with jax.enable_x64(True):
        run = tiny.Run(changed, 1)
        states = [jax.device_get(run.first_state), *(run.train(n, np.float64)[1] for n in (1, 2))]
    return run.method, states


@pytest.mark.slow
def test_the_teacher_is_the_average_of_its_students():
    _, states = two_steps()
    for before, after in itertools.pairwise(states):
        for module in ("encoder", "projector", "prototypes"):
            expected = jax.tree.map(
                lambda old, new: 0.9 * old + 0.1 * new,
                before.method_state["params"][module],
                after.params[module],
            )
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6),
                after.method_state["params"][module],
                expected,
            )


def test_the_centre_starts_at_zero_and_moves_after_its_use():
    _, states = two_steps()
    centres = [state.method_state["centre"] for state in states]
    assert not centres[0].any()
    assert np.abs(centres[1]).max() > 0
    # Scores are cosines: a tenth of their mean.
    assert np.abs(centres[1]).max() <= 0.1
    assert np.abs(centres[2]).max() <= 0.19


def test_the_prototypes_stand_still_in_the_first_epoch():
    _, states = two_steps()  # an epoch has three steps
    for state in states[1:]:
        np.testing.assert_array_equal(
            state.params["prototypes"]["kernel"], states[0].params["prototypes"]["kernel"]
        )
    with jax.enable_x64(True):
        _, later = tiny.Run(
            method_cases.config("dino", train__epochs=4, method__frozen_epochs=1.0), 1
        ).train(5, np.float64)
    moved = later.params["prototypes"]["kernel"] - states[0].params["prototypes"]["kernel"]
    assert np.abs(moved).max() > 1e-9


def test_the_temperature_of_the_teacher_rises_along_a_line():
    method, _ = two_steps()
    contexts = [Context(jnp.int32(step), 30, None, steps_per_epoch=3) for step in (0, 3, 6, 29)]
    found = [float(method.target_temperature(ctx)) for ctx in contexts]
    np.testing.assert_allclose(found, [0.04, 0.055, 0.07, 0.07], rtol=1e-6)


@pytest.mark.slow
def test_a_centre_of_one_devices_rows_is_caught(monkeypatch):
    monkeypatch.setattr(dino, "lax", _WithoutMean())
    with pytest.raises(RuntimeError, match="replicas differ"), jax.enable_x64(True):
        tiny.Run(method_cases.config("dino"), 4).train(2, np.float64)


class _WithoutMean:
    """The module ``lax``, whose averages over devices are those of one device."""

    def __getattr__(self, name):
        return (lambda x, axis_name: x) if name == "pmean" else getattr(jax.lax, name)


@pytest.mark.slow
def test_the_teacher_draws_no_masks():
    changed = method_cases.config("dino").replace(
        {"model.encoder": "vit_micro", "model.patch": 4, "model.width": 1 / 8}
    )
    rates = {"model.drop_path": 0.5, "model.dropout": 0.5}
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 2, 8, 8, 3)).astype(np.float32)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 2))
    batch = {"views": {"main": jnp.asarray(views)}, "key": keys}
    results = []
    for values in ({}, rates):
        method = method_of(changed.replace(values))
        params, model_state = method.init(jax.random.key(1), {"views": batch["views"]})
        state = method.start(params, model_state)
        ctx = Context(jnp.int32(0), 10, None)
        results.append(
            (
                method.targets(params, model_state, state, batch, ctx)[0],
                method.encode(params, model_state, state, batch, ctx)[0],
            )
        )
    (teacher, student), (other_teacher, other_student) = results
    np.testing.assert_allclose(teacher, other_teacher, rtol=1e-6)
    assert np.abs(student - other_student).max() > 0.1 * np.abs(student).max()


@pytest.mark.slow
def test_local_views_draw_masks_of_their_own():
    changed = config("dino").replace(
        {
            "model.encoder": "vit_micro",
            "model.patch": 4,
            "model.width": 1 / 8,
            "model.drop_path": 0.5,
            "method.local_size": 8,
            "method.local_views": 2,
        }
    )
    method = method_of(changed)
    views = np.random.default_rng(0).normal(size=(4, 2, 8, 8, 3)).astype(np.float32)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 4))
    batch = {"views": {"main": jnp.asarray(views), "local": jnp.asarray(views)}}
    params, model_state = method.init(jax.random.key(1), batch)
    ctx = Context(jnp.int32(0), 10, None)
    projections, _ = method.encode(params, model_state, {}, {**batch, "key": keys}, ctx)
    assert projections.shape[1] == 4
    apart = np.abs(projections[:, :2] - projections[:, 2:])  # the same images
    assert apart.max() > 0.1 * np.abs(projections).max()
