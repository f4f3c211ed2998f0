"""A modality of masked series goes through every layer of the package without a change of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.errors import UserError
from cssl_jax.evaluate import leakage
from cssl_jax.evaluate.results import Results
from cssl_jax.methods.core import two_view_methods
from cssl_jax.modalities.registry import MODALITIES
from cssl_jax.models.dropout import view_keys
from cssl_jax.models.registry import ENCODERS
from cssl_jax.selfcheck.short_run import compare
from cssl_jax.transfer.transfer_tables import format_results
from helpers import tiny, waves
from helpers.stops import CrashError, crash_after

MODALITIES["waves"] = waves.WAVES
ENCODERS["waves"] = waves.ENCODER
MICRO_BATCH = 8
FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1


def config(*, micro_batch=0, norm_group=0, **train):
    changed = tiny.config(micro_batch=micro_batch, epochs=7, **train)
    changed = recipes.with_modality(changed, "waves")
    changed = tiny.replace(changed, "model", encoder="waves", norm_group=norm_group)
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)


def outcome(devices, steps=20, pipeline="resident", **options):
    """Losses, raw gradient of the first step and last parameters, in float64."""
    with jax.enable_x64(True):
        run = tiny.Run(config(**options), devices, source=waves.source(), pipeline=pipeline)
        return run.run(steps, np.float64)


@pytest.fixture(scope="module")
def one_device():
    return outcome(1)


def differences(found, reference):
    return compare(found, reference)._replace(scale=0.0)


# ------------------------------------------------------------------------------------- invariance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "pipeline"),
    [
        (2, "resident"),
        (4, "resident"),
        (8, "resident"),
        (4, "resident-split"),
        (2, "stream"),
    ],
)
def test_20_float64_steps_do_not_depend_on_devices_or_pipeline(one_device, devices, pipeline):
    found = outcome(devices, pipeline=pipeline)
    assert max(differences(found, one_device)) < FLOAT64_BOUND
    assert compare(found, one_device).scale == pytest.approx(1.0, abs=FLOAT64_BOUND)
    assert len(set(found.loss.tolist())) == 20


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_micro_batches_give_the_plain_step(devices):
    plain = outcome(1, steps=5, norm_group=MICRO_BATCH)
    found = outcome(devices, steps=5, micro_batch=MICRO_BATCH)
    # The average of the statistics of micro-batches is summed in another order.
    assert max(differences(found, plain)) < FLOAT64_BOUND


@pytest.mark.slow
def test_dropout_keys_of_a_device_are_caught(one_device, monkeypatch):
    def of_device(batch, views, first=0):
        if "key" not in batch:
            return None
        rows = jnp.arange(len(batch["key"])) + 1000 * jax.lax.axis_index("data")
        keys = jax.vmap(lambda row: jax.random.key_data(jax.random.key(row)))(rows)
        return view_keys(keys, views, first)

    monkeypatch.setattr(two_view_methods, "mask_keys", of_device)
    found = [outcome(devices, steps=2) for devices in (1, 4)]
    assert differences(found[1], found[0]).loss > 1e-4


# ---------------------------------------------------------------------------------------- padding


def features_of(examples):
    encoder = waves.WaveEncoder()
    spec = waves.input_spec(waves.WaveData(modality="waves"), waves.source())
    variables = encoder.init(jax.random.key(0), waves.prepare(waves.source(4).examples, spec))
    return np.asarray(encoder.apply(variables, waves.prepare(examples, spec))["features"])


def padded_by_seven(examples):
    rubbish = np.full((len(examples["length"]), 7, waves.CHANNELS), -3.0, np.float32)
    return {**examples, "values": np.concatenate([examples["values"], rubbish], axis=1)}


def test_padding_does_not_change_the_features():
    examples = waves.source(20).examples
    found, expected = features_of(padded_by_seven(examples)), features_of(examples)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_mask_that_is_ignored_is_caught(monkeypatch):
    examples = waves.source(20).examples
    monkeypatch.setattr(waves, "padding_mask", lambda x: jnp.ones(x["values"].shape[:-1], bool))
    found, expected = features_of(padded_by_seven(examples)), features_of(examples)
    assert np.abs(found - expected).max() > 0.01


# ------------------------------------------------------------------------------------- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    trained = tiny.replace(config(), "train", epochs=2, evaluate_every=1, checkpoint_steps=2)
    path = waves.write(waves.source(60), None, 60, folder.parent / "waves")
    trained = tiny.replace(trained, "data", source=path)
    return folder, trained, cssl_jax.pretrain(trained, folder)


@pytest.mark.slow
def test_a_run_reports_the_baselines_of_its_modality(run):
    folder, _, results = run
    saved = json.loads((folder / "results.json").read_text())
    labels = {"random_init": "untrained encoder", "mean": "mean over time"}
    assert saved["baseline_labels"] == labels
    assert "pixels" not in saved
    for row in (results, results.baselines["random_init"], results.baselines["mean"]):
        assert 0 <= row.linear.top1 <= 1
    assert [label for label, _ in Results.from_json(saved).rows][1:] == list(labels.values())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("features.view_retrieval" in line for line in lines)


@pytest.mark.slow
def test_a_loaded_encoder_embeds_examples(run):
    folder, trained, _ = run
    encoder = cssl_jax.load_encoder(folder)
    assert encoder.config == recipes.with_absolute_paths(trained)
    assert (encoder.spec.kind, encoder.spec.size) == ("waves", waves.STEPS)
    examples = waves.source(21, seed=1).examples
    features = encoder(examples)
    assert features.shape == (21, 16)
    np.testing.assert_allclose(encoder(padded_by_seven(examples)), features, atol=1e-6)
    # Rows depend on their own example only; sums may be ordered otherwise.
    alone = encoder(jax.tree.map(lambda x: x[:1], examples))
    np.testing.assert_allclose(alone, features[:1], atol=1e-6)
    with pytest.raises(UserError, match="series have 2 channels; this encoder takes 3"):
        encoder({**examples, "values": examples["values"][..., :2]})


def test_features_for_images_are_refused_by_name(run, tmp_path):
    folder, trained, _ = run
    with pytest.raises(UserError, match=r"a sheet of views takes images only, .* of series"):
        cssl_jax.draw_views(trained)
    with pytest.raises(UserError, match="bench-input takes images only"):
        cssl_jax.bench_input(trained)
    with pytest.raises(UserError, match="protocol 'segment' takes images only"):
        cssl_jax.evaluate_run(folder, "segment")


def test_a_report_shows_the_series(run, tmp_path):
    page = tmp_path / "report.html"
    cssl_jax.write_report([run[0]], page, figures=False)
    assert "mean over time" in page.read_text()


def test_copies_are_found_by_their_bytes(run):
    results = cssl_jax.evaluate_run(run[0], "knn")
    found = results.leakage["train"]
    assert (found.exact, found.near) == (0, None)
    assert found.words.endswith("is among the training series, exactly")
    train, test = waves.source(20), waves.source(30).take(np.arange(17, 30))
    train.examples["values"][4:7] = test.examples["values"][3:6]
    train.examples["length"][4:6] = test.examples["length"][3:5]
    train.examples["length"][6] = 1 + test.examples["length"][5] % waves.STEPS
    assert leakage.find(train, test, waves.WAVES)["exact"] == 2  # one differs in its length


@pytest.mark.slow
def test_fine_tuning_and_adaptation_compare_with_the_baselines(run, tmp_path):
    options = {"train.epochs": 1, "runtime.devices": 2}
    tuned = cssl_jax.finetune_config(run[0]).replace(options)
    results = cssl_jax.finetune(run[0], tmp_path / "tuned", min_steps=0, config=tuned)
    assert "mean" in results["fractions"]["1"]
    assert "logistic regression on mean over time" in format_results(results)
    target = waves.write(waves.source(50, seed=3), None, 50, tmp_path / "target")
    adapted = tuned.replace({"adapt.target": target})
    results = cssl_jax.adapt(run[0], tmp_path / "adapted", seeds=1, methods=["bn"], config=adapted)
    assert list(results["rows"]) == ["source", "bn", "target", "random", "mean"]
    assert "source only, on mean over time" in format_results(results)


@pytest.mark.slow
def test_a_run_that_crashed_within_an_epoch_ends_with_the_same_bits(run, tmp_path):
    folder, trained, _ = run
    with pytest.raises(CrashError):
        cssl_jax.pretrain(trained, tmp_path / "run", hooks=[crash_after(5)])  # saved: 4 of 3 + 3
    cssl_jax.pretrain(trained, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


def test_json_of_a_modality_has_its_own_options_and_loads(run):
    content = json.loads((run[0] / "config.json").read_text())
    assert content["augment"] == {"scale": 0.3, "erase": [0.5]}
    assert "size" not in content["data"]
    assert recipes.from_dict(content) == recipes.read_json(run[0] / "config.json")


def test_sections_of_another_modality_are_refused():
    images = tiny.config()
    mixed = dataclasses.replace(images, augment=waves.WavePolicy())
    with pytest.raises(UserError, match=r"options are a ImagePolicy, and config\.augment"):
        recipes.validate(mixed)
    with pytest.raises(UserError, match="no modality is called 'wave'; did you mean 'waves'"):
        recipes.override(images, {"data.modality": "wave"})
