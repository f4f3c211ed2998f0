"""TS2Vec and CPC as methods: their crops, their averages, and equality on several devices."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.data import sampler
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.series import series_examples
from cssl_jax.errors import UserError
from cssl_jax.methods.ts2vec import draw_crops, shifted
from cssl_jax.selfcheck.short_run import compare
from helpers import tiny
from helpers.stops import CrashError, crash_after
from tests.helpers.marks import fast

STEPS = 12
FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
ENCODERS = {"ts2vec": "dilated", "cpc": "conv_gru"}


def arrays(size=60, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 3
    phase = rng.uniform(0, 2 * np.pi, (size, 1, 2))
    values = np.sin(phase + 0.5 * np.arange(STEPS)[None, :, None] * (1 + labels[:, None, None]))
    values[rng.random(values.shape) < 0.02] = np.nan
    return {
        "values": values.astype(np.float32),
        "lengths": rng.integers(1, STEPS + 1, size),
        "labels": labels,
    }


def source():
    made = arrays()
    return ArraySource("x", series_examples(made["values"], "x", made["lengths"]), made["labels"])


def config(method, encoder="", data=None, options=None, **train):
    changed = recipes.with_modality(tiny.config(epochs=2, **train), "series")
    changed = recipes.with_method(changed, method)
    changed = tiny.replace(changed, "method", **(options or {}))
    changed = tiny.replace(changed, "data", **(data or {}))
    changed = tiny.replace(changed, "model", encoder=encoder or ENCODERS[method], width=1 / 32)
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)


# ------------------------------------------------------------------------------------------ crops


def test_crops_overlap_within_the_series_and_reach_all_lengths():
    size = 400
    length = np.random.default_rng(0).integers(1, 20, size).astype(np.int32)
    keys = np.asarray(sampler.example_key(0, 0, np.arange(size)))
    drawn = [
        jax.device_get(jax.jit(draw_crops)(keys, length, np.float32(fraction)))
        for fraction in (0.0, 0.5, 1 - 2**-24)
    ]
    for crops in drawn:
        assert (crops.first >= 0).all()
        assert (crops.first <= crops.overlap).all()
        assert (crops.overlap + crops.steps <= crops.last).all()
        assert (crops.last <= length).all()
    smallest, middle, largest = drawn
    np.testing.assert_array_equal(smallest.steps, np.minimum(length, 2))
    np.testing.assert_array_equal(largest.steps, length)
    long = length > 10
    assert len({(a, b) for a, b in zip(middle.first[long], middle.last[long], strict=True)}) > 20
    # A first step of 0 and a last one at the end occur: the draws reach the bounds.
    assert (middle.first[long] == 0).any()
    assert (middle.last[long] == length[long]).any()


def test_rows_are_shifted_to_their_start():
    x = np.arange(2 * 5).reshape(2, 5, 1)
    found = np.asarray(jax.jit(shifted)(x, np.array([0, 3])))[..., 0]
    assert found.tolist() == [[0, 1, 2, 3, 4], [8, 9, 9, 9, 9]]


# ------------------------------------------------------------------------------------------- runs


def outcome(method, devices, norm_group=0, augment=None, **train):
    with jax.enable_x64(True):
        changed = tiny.replace(config(method, **train), "model", norm_group=norm_group)
        changed = dataclasses.replace(changed, augment=augment or changed.augment)
        return tiny.Run(changed, devices, source=source()).run(5, np.float64)


@functools.cache
def alone(method):
    return outcome(method, 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", fast(ENCODERS, ["ts2vec"]))
def test_float64_training_does_not_depend_on_the_number_of_devices(method):
    one, eight = alone(method), outcome(method, 8)
    assert max(compare(eight, one)._replace(scale=0.0)) < FLOAT64_BOUND
    assert compare(eight, one).scale == pytest.approx(1.0, abs=FLOAT64_BOUND)


@pytest.mark.slow
@pytest.mark.parametrize("method", ENCODERS)
def test_micro_batches_on_two_devices_give_the_plain_step_of_one(method):
    # Places of cropped windows are float32 and round otherwise where an example lies elsewhere in
    # the batch: CPC's gradient then differs by 7e-8. The recipes of both methods crop nothing.
    augment = recipes.load(method).augment
    found = outcome(method, 2, augment=augment, micro_batch=8)
    plain = outcome(method, 1, augment=augment)
    assert max(compare(found, plain)._replace(scale=0.0)) < FLOAT64_BOUND


@pytest.fixture(scope="module", params=fast(ENCODERS, ["ts2vec"]))
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    np.savez(folder / "x.npz", **arrays())
    trained = config(request.param, data={"source": str(folder / "x.npz")}, checkpoint_steps=2)
    return folder / "run", trained, cssl_jax.pretrain(trained, folder / "run")


@pytest.mark.slow
def test_a_run_logs_the_chance_level_of_each_step_and_embeds(run):
    folder, _, results = run
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    levels = [line["chance_level"] for line in map(json.loads, lines) if "chance_level" in line]
    assert len(set(levels)) > 1  # the series have different lengths
    assert list(results.baselines) == ["random_init", "raw", "moments"]
    features = cssl_jax.load_encoder(folder)(arrays(7, seed=1)["values"])
    assert features.shape[0] == 7
    assert np.isfinite(features).all()


@pytest.mark.slow
def test_a_run_resumes_with_the_same_bits(run, tmp_path):
    folder, trained, _ = run
    with pytest.raises(CrashError):
        cssl_jax.pretrain(trained, tmp_path / "run", hooks=[crash_after(3)])
    cssl_jax.pretrain(trained, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_the_evaluated_weights_are_the_mean_of_all_weights():
    made = tiny.Run(config("ts2vec"), 1, source=source())
    step, state = made.train_step(), made.state()
    weights = [jax.device_get(state.params["encoder"])]
    for host_batch in made.host_batches(0, 3):
        state, _ = step(state, made.constants, host_batch)
        weights.append(jax.device_get(state.params["encoder"]))
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *weights)
    evaluated = made.method.evaluated(state.params, state.model_state, state.method_state)
    # float32: one rounding per step.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        jax.device_get(evaluated["params"]["encoder"]),
        mean,
    )


@pytest.mark.parametrize(
    ("method", "encoder", "options", "way_out"),
    [
        ("ts2vec", "resnet1d", {"mask_rate": 0.0}, "give --model.encoder dilated"),
        ("ts2vec", "gru", {}, "or --method.mask-rate 0"),
        ("cpc", "gru", {}, "give --model.encoder conv_gru"),
    ],
)
def test_an_encoder_without_what_the_method_needs_is_refused(method, encoder, options, way_out):
    with pytest.raises(UserError, match=way_out):
        tiny.Run(config(method, encoder, options=options), 1, source=source()).state()


@pytest.mark.parametrize("method", ENCODERS)
def test_images_are_refused(method):
    with pytest.raises(UserError, match=f"method {method} needs examples with steps"):
        recipes.canonical(recipes.with_method(tiny.config(), method))
