"""Micro-batches and ``model.remat``: both save memory and leave every gradient unchanged."""

import json
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax.errors import UserError
from cssl_jax.losses import ntxent
from cssl_jax.losses.core.two_views import two_view_contrast
from cssl_jax.methods.simclr import SimCLR
from cssl_jax.models.heads import MLP, projection_head
from cssl_jax.models.normalization import NormGroups
from cssl_jax.models.registry import build_encoder
from cssl_jax.recipes import validate
from cssl_jax.runtime import spmd
from cssl_jax.step.grad_cache import StepOptions, make_gradient
from cssl_jax.step.state import TrainState
from helpers import tiny
from helpers.comparison import FLOAT32_BOUND, largest_difference
from helpers.stops import CrashError, crash_after
from tests.helpers.marks import slow

N, MICRO_BATCH = 32, 8
FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1; the measured difference is 3e-15


def assert_near(results, reference, bound=FLOAT64_BOUND):
    """Compares gradients, metrics and running statistics, each relative to its largest entry."""
    for result, expected in zip(results, reference, strict=True):
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        assert largest_difference(result, expected) <= bound


# ------------------------------------------------------------------------------------------ vectors


class VectorEncoder(MLP):
    """Encoder of vectors: a projection head, including its BatchNorm layers."""

    @nn.compact
    def __call__(self, x, train=False, keys=None, keep=None):
        return {"features": super().__call__(x, train)}


class Learned(SimCLR):
    """SimCLR with a learned temperature and a metric that pairs examples with outputs."""

    def init(self, key, batch):
        params, model_state = super().init(key, batch)
        return {**params, "temperature": jnp.float32(0.4)}, model_state

    def objective(self, params, method_state, outputs, examples, ctx):
        contrast = two_view_contrast(
            outputs[:, 0],
            outputs[:, 1],
            temperature=params["temperature"],
            axis_name=ctx.axis_name,
            tile_size=self.tile_size,
        )
        loss = ntxent.loss_from(contrast) + jnp.mean(examples["label"] * jnp.tanh(outputs[:, 0, 0]))
        paired = jnp.mean(examples["index"] * outputs[:, 1, 1])
        accuracy = ntxent.accuracy_from(contrast)
        return loss, {"loss": loss, "paired": paired, "contrastive_accuracy": accuracy}, {}


class Detached(Learned):
    """Faulty objective: the first rows of each device receive no cotangent."""

    def objective(self, params, method_state, outputs, examples, ctx):
        outputs = outputs.at[:2].set(jax.lax.stop_gradient(outputs[:2]))
        return super().objective(params, method_state, outputs, examples, ctx)


def vector_batch(dtype=np.float64):
    rng = np.random.default_rng(0)
    key = rng.integers(0, 2**32, (N, 2), dtype=np.uint32)
    index, label = np.arange(N, dtype=np.int32), rng.integers(0, 3, N, np.int32)
    return {"x": rng.normal(size=(N, 6)).astype(dtype), "index": index, "key": key, "label": label}


def make_batch(step, constants, host_batch):
    """Two views per example, by noise seeded with the example's key."""

    def noise(key):
        return jax.random.uniform(jax.random.wrap_key_data(key), (2, 6), host_batch["x"].dtype)

    examples = {name: host_batch[name] for name in ("index", "key", "label")}
    return {
        **examples,
        "views": {"main": host_batch["x"][:, None] + jax.vmap(noise)(host_batch["key"])},
    }


def method_and_state(method, dtype, **shared):
    encoder = VectorEncoder(projection_head(layers=1, out=8).layers, **shared)
    built = method(encoder, projection_head(hidden=8, out=4, **shared))
    views = {"main": np.zeros((2, 2, 6), np.float32)}
    params, statistics = built.init(jax.random.key(0), {"views": views})
    # Running statistics as after some training. The initial 0 and 1 would hide a fault when frozen.
    rng = np.random.default_rng(1)
    statistics = jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype(dtype), statistics)
    params = jax.tree.map(lambda p: np.asarray(p, dtype), params)
    return built, TrainState(np.int32(0), params, statistics, {}, {})


def vector_gradient(
    devices=1,
    backend="shard_map",
    *,
    micro_batch=0,
    norm_group=0,
    norm_views="joint",
    frozen=False,
    method=Learned,
    rows=None,
    dtype=np.float64,
):
    """(gradient, metrics, running statistics) of one step, as host arrays."""
    with jax.enable_x64(dtype == np.float64):
        mesh = spmd.make_mesh(jax.devices()[:devices])
        groups = NormGroups(
            count=spmd.norm_groups(N, norm_group, mesh, micro_batch),
            examples=micro_batch or N,
            views=norm_views,
        )
        built, state = method_and_state(method, dtype, axis_name="data", norm_groups=groups)
        gradient = make_gradient(
            built,
            make_batch,
            StepOptions(
                total_steps=1,
                axis_name="data",
                micro_batches=spmd.micro_batches(N, mesh, micro_batch),
                frozen_norm=frozen,
            ),
        )

        def function(*arguments):
            grads, outputs = gradient(*arguments)
            return grads, outputs.metrics, outputs.model_state

        rows = spmd.process_rows(N, mesh, micro_batch) if rows is None else rows
        host_batch = {name: value[rows] for name, value in vector_batch(dtype).items()}
        result = spmd.data_parallel(function, mesh, backend, donate=False)(
            spmd.replicate(state, mesh), {}, spmd.put_batch(host_batch, mesh, backend)
        )
        spmd.assert_replicated(result)
        return jax.device_get(result)


@pytest.fixture(scope="module")
def plain_step():
    """Step without micro-batches whose BatchNorm groups are the examples of a micro-batch."""
    return vector_gradient(norm_group=MICRO_BATCH)


@pytest.mark.parametrize(
    ("devices", "backend"),
    [
        *[slow(1, "shard_map"), slow(2, "shard_map"), slow(4, "shard_map"), (8, "shard_map")],
        *[slow(1, "pmap"), slow(2, "pmap"), slow(4, "pmap"), slow(8, "pmap")],
    ],
)
def test_micro_batches_give_the_plain_gradient_on_any_number_of_devices(
    plain_step, devices, backend
):
    result = vector_gradient(devices, backend, micro_batch=MICRO_BATCH)
    assert result[0]["temperature"].dtype == np.float64
    assert abs(result[0]["temperature"]) > 0.1  # parameters of the objective have gradients as well
    assert_near(result, plain_step)


def test_micro_batches_and_a_tiled_loss_give_the_plain_gradient(plain_step):
    def tiled(*modules):
        return Learned(*modules, tile_size=5)

    assert_near(vector_gradient(4, micro_batch=MICRO_BATCH, method=tiled), plain_step)


def test_views_are_normalised_apart_within_each_micro_batch(plain_step):
    apart = vector_gradient(norm_group=MICRO_BATCH, norm_views="apart")
    assert_near(vector_gradient(2, micro_batch=MICRO_BATCH, norm_views="apart"), apart)
    assert largest_difference(apart[0], plain_step[0]) > 0.01


def test_batch_norm_groups_may_be_smaller_than_a_micro_batch(plain_step):
    grouped = vector_gradient(norm_group=4)
    assert_near(vector_gradient(2, micro_batch=MICRO_BATCH, norm_group=4), grouped)
    assert largest_difference(grouped[0], plain_step[0]) > 0.01


def test_one_micro_batch_has_the_bits_of_the_plain_step():
    jax.tree.map(
        np.testing.assert_array_equal, vector_gradient(2, micro_batch=N), vector_gradient(2)
    )


def test_frozen_statistics_are_used_and_not_updated(plain_step):
    plain = vector_gradient(frozen=True)
    result = vector_gradient(4, micro_batch=MICRO_BATCH, frozen=True)
    assert_near(result, plain)
    assert largest_difference(result[0], plain_step[0]) > 0.01
    _, before = method_and_state(Learned, np.float64)
    jax.tree.map(np.testing.assert_array_equal, result[2], before.model_state)


def test_float32_loss_and_raw_gradient_do_not_depend_on_devices():
    one, eight = (
        vector_gradient(devices, micro_batch=MICRO_BATCH, dtype=np.float32) for devices in (1, 8)
    )
    assert one[1]["loss"].dtype == np.float32
    assert_near(eight, one, FLOAT32_BOUND)


def test_a_missing_gradient_of_a_micro_batch_is_detected(plain_step):
    result = vector_gradient(2, micro_batch=MICRO_BATCH, method=Detached)
    assert result[1]["loss"] == pytest.approx(
        plain_step[1]["loss"]
    )  # the loss alone does not reveal the fault
    assert largest_difference(result[0], plain_step[0]) > 0.01


def test_rows_in_the_wrong_order_are_detected(plain_step):
    result = vector_gradient(4, micro_batch=MICRO_BATCH, rows=np.arange(N))
    assert largest_difference(result[0], plain_step[0]) > 0.01


def test_gradients_are_summed_in_float32_or_wider():
    built, state = method_and_state(Learned, jnp.bfloat16, norm_groups=1)
    gradient = make_gradient(
        built, make_batch, StepOptions(total_steps=1, axis_name=None, micro_batches=4)
    )
    state = state.replace(model_state=jax.tree.map(np.float32, state.model_state))
    grads, _ = jax.eval_shape(gradient, state, {}, vector_batch(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


# ------------------------------------------------------------------------------------------- images


def image_run(devices=1, backend="shard_map", pipeline="resident", model=None, **train):
    config = tiny.config(**{"batch_size": N, "micro_batch": MICRO_BATCH, **train})
    config = tiny.replace(config, "model", **(model or {}))
    return tiny.Run(config, devices, backend, pipeline=pipeline)


def image_gradient(run, dtype=None):
    gradient = run.gradient()

    def function(*arguments):
        grads, outputs = gradient(*arguments)
        return grads, outputs.metrics, outputs.model_state

    arguments = run.state(dtype), run.constants, next(run.host_batches(0, 1))
    return jax.device_get(run.spread(function)(*arguments))


@pytest.fixture(scope="module")
def plain_image_step():
    with jax.enable_x64(True):
        run = image_run(micro_batch=0, model={"norm_group": MICRO_BATCH})
        return image_gradient(run, np.float64)


@pytest.mark.slow
def test_both_passes_and_the_plain_step_draw_the_same_views(plain_image_step):
    with jax.enable_x64(True):
        run = image_run(8, pipeline="stream")
        assert_near(image_gradient(run, np.float64), plain_image_step)


def program(run):
    host_batch = next(run.host_batches(0, 1))
    return jax.make_jaxpr(run.spread(run.gradient()))(run.state(), run.constants, host_batch).jaxpr


def maximum_images_held(run):
    """Maximum number of 8 x 8 images in one floating-point array of a step, per device."""
    maximum, programs = 0, [program(run)]
    while programs:
        for equation in programs.pop().eqns:
            inner = [getattr(leaf, "jaxpr", leaf) for leaf in jax.tree.leaves(equation.params)]
            programs += [leaf for leaf in inner if hasattr(leaf, "eqns")]
            for variable in equation.outvars:
                *images, height, width, _ = (0, 0, 0, *variable.aval.shape)
                if (height, width) == (8, 8) and jnp.issubdtype(variable.aval.dtype, jnp.floating):
                    maximum = max(maximum, int(np.prod(images[3:])))
    return maximum


@pytest.mark.parametrize(
    ("pipeline", "micro_batch", "examples"),
    [
        slow("resident", 0, N),
        ("resident", MICRO_BATCH, MICRO_BATCH),
        slow("stream", MICRO_BATCH, MICRO_BATCH),
    ],
)
def test_only_views_and_activations_of_one_micro_batch_are_held(pipeline, micro_batch, examples):
    run = image_run(2, pipeline=pipeline, micro_batch=micro_batch)
    assert maximum_images_held(run) == 2 * examples // 2  # 2 views on 2 devices


@pytest.mark.parametrize(
    "pipeline", ["resident", slow("stream"), "threads", slow("threads-split"), slow("tf")]
)
def test_every_loader_gives_each_device_its_rows_of_every_micro_batch(pipeline):
    if pipeline == "tf":
        pytest.importorskip("tensorflow")
    run = image_run(4, pipeline=pipeline)
    host_batch = next(run.host_batches(0, 1))
    rows = np.arange(N)
    name, expected = (
        ("row", rows) if "row" in host_batch else ("index", run.sampler.draw(0, rows)[0])
    )
    rows_per_device = np.reshape(
        host_batch[name], (4, N // MICRO_BATCH, MICRO_BATCH // 4)
    )  # device, micro-batch, row
    np.testing.assert_array_equal(rows_per_device.swapaxes(0, 1).ravel(), expected)


def test_a_process_provides_the_rows_of_its_own_devices():
    devices = [types.SimpleNamespace(process_index=i // 2) for i in range(4)]
    mesh = types.SimpleNamespace(devices=np.array(devices), size=4)
    assert spmd.process_rows(16, mesh, 8).tolist() == [0, 1, 8, 9, 2, 3, 10, 11]
    assert spmd.process_rows(16, mesh).tolist() == list(range(8))


# ------------------------------------------------------------------------------------ recomputation


@pytest.mark.slow
def test_remat_changes_no_gradient(plain_image_step):
    with jax.enable_x64(True):
        run = image_run(micro_batch=0, model={"norm_group": MICRO_BATCH, "remat": True})
        assert_near(image_gradient(run, np.float64), plain_image_step)


def residual_bytes(encoder):
    """Bytes that the forward pass on 64 images stores for the backward pass."""
    images = np.zeros((64, 8, 8, 1), np.float32)
    variables = jax.eval_shape(encoder.init, jax.random.key(0), images)

    def pull_back(variables):
        def features(params):
            inputs = {**variables, "params": params}
            return encoder.apply(inputs, images, True, mutable=["batch_stats"])[0]["features"]

        return jax.vjp(features, variables["params"])[1]

    residuals = jax.tree.leaves(jax.eval_shape(pull_back, variables))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals)


@pytest.mark.slow
def test_remat_does_not_store_activations():
    plain, remat = (
        build_encoder("resnet18", width=0.125, stem="cifar", remat=on) for on in (False, True)
    )
    assert residual_bytes(remat) < residual_bytes(plain) / 2


# -------------------------------------------------------------------------------------------- a run


@pytest.mark.slow
def test_an_interrupted_run_in_micro_batches_ends_with_the_same_bits(tmp_path):
    source = tiny.image_source(24)
    np.savez(tmp_path / "images.npz", images=source.images, labels=source.labels)
    config = tiny.config(batch_size=8, micro_batch=4, epochs=2, checkpoint_every=1)
    config = tiny.replace(config, "data", source=str(tmp_path / "images.npz"), augment_on="split")
    config = tiny.replace(config, "data", engine="threads")
    config = tiny.replace(config, "runtime", devices=2)
    config = tiny.replace(config, "evaluate", knn_k=5, batch_size=8)
    results = cssl_jax.pretrain(config, tmp_path / "whole")

    with pytest.raises(CrashError):
        cssl_jax.pretrain(config, tmp_path / "run", hooks=[crash_after(3)])
    assert cssl_jax.pretrain(config, tmp_path / "run") == results
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "run")]
    assert logs[0] == logs[1]
    assert len([json.loads(line) for line in logs[0].splitlines() if '"loss"' in line]) == 4


# -------------------------------------------------------------------------------- rejected settings


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "devices", "message"),
    [
        (256, 96, 1, "micro_batch 96 does not divide the global batch 256; use 64 or 128"),
        (256, 300, 1, "micro_batch 300 does not divide the global batch 256; use 256"),
        (256, 4, 8, "micro_batch 4 does not divide over 8 devices; use 8"),
        (96, 12, 8, "micro_batch 12 does not divide over 8 devices; use 8 or 16"),
        (250, 50, 8, "global batch 250 does not divide over 8 devices; use 248 or 256"),
    ],
)
def test_micro_batches_that_do_not_divide_are_rejected(batch_size, micro_batch, devices, message):
    mesh = spmd.make_mesh(jax.devices()[:devices])
    with pytest.raises(UserError, match=message):
        spmd.process_rows(batch_size, mesh, micro_batch)


def test_groups_that_do_not_divide_a_micro_batch_are_rejected():
    with pytest.raises(UserError, match=r"16 does not divide the train\.micro_batch 8"):
        image_run(model={"norm_group": 16})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"micro_batch": -1}, "train.micro_batch is -1; give zero or a positive number"),
        ({"micro_batch_norm": "frozen"}, "'frozen' and train.micro_batch 0; .*--train.micro-batch"),
        (
            {"micro_batch_norm": "frozen", "micro_batch": 8},
            "'frozen' and train.init empty: random weights",
        ),
    ],
)
def test_invalid_micro_batch_options_are_rejected(values, message):
    with pytest.raises(UserError, match=message):
        validate(tiny.config(**values))
    validate(tiny.config(micro_batch=8, micro_batch_norm="frozen", init="runs/first"))
