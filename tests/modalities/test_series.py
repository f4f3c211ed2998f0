"""The modality series: normalisation, baselines, drawings, and whole runs from files."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.config import SeriesData
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.errors import UserError
from cssl_jax.modalities import series
from cssl_jax.modalities.series import SERIES, SeriesSpec
from cssl_jax.selfcheck.short_run import compare
from helpers import tiny
from helpers.sines import arrays, source

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1


def config(encoder="gru", data=None, **train):
    changed = recipes.with_modality(tiny.config(epochs=2, **train), "series")
    changed = tiny.replace(changed, "data", **(data or {}))
    changed = tiny.replace(changed, "model", encoder=encoder, width=0.125)
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)


# -------------------------------------------------------------------------------------- functions


def test_statistics_skip_padding_and_missing_values():
    data, train = SeriesData(), source()
    spec = series.input_spec(data, train)
    made = arrays()
    known = np.concatenate(
        [row[:length] for row, length in zip(made["values"], made["lengths"], strict=True)]
    )
    np.testing.assert_allclose(spec.mean, np.nanmean(known, axis=0), rtol=1e-5)
    np.testing.assert_allclose(spec.std, np.nanstd(known, axis=0), rtol=1e-5)
    assert (spec.kind, spec.size) == ("series", made["lengths"].max())
    assert series.input_spec(dataclasses.replace(data, length=10), train).size == 10
    assert SeriesSpec.from_dict(json.loads(json.dumps(vars(spec)))) == spec


@pytest.mark.parametrize("normalize", ["dataset", "example", "none"])
def test_inputs_are_normalised_and_missing_values_are_the_mean(normalize):
    train = source()
    spec = series.input_spec(SeriesData(normalize=normalize), train)
    found = jax.device_get(jax.jit(lambda x: series.prepare(x, spec))(train.examples))
    for row, values, length in zip(found["values"], *train.examples.values(), strict=True):
        known, gone = values[:length], np.isnan(values[:length])
        mean, std = {
            "dataset": (np.array(spec.mean), np.array(spec.std)),
            "example": (np.nanmean(known, axis=0), np.nanstd(known, axis=0)),
            "none": (0, 1),
        }[normalize]
        expected = np.where(gone, 0, (known - mean) / std)
        np.testing.assert_allclose(row[:length], expected, atol=1e-5)
        assert not row[length:].any()


def test_baselines_are_the_stretched_values_and_the_moments():
    ramps = [np.linspace(0, 7, 8)[:, None], np.linspace(1, 3, 3)[:, None]]
    ramps[0][3] = np.nan
    examples = series.series_examples(ramps, "ramps")
    found = {
        name: row.features(ArraySource("x", examples)) for name, row in SERIES.baselines.items()
    }
    np.testing.assert_allclose(found["raw"][0], np.linspace(0, 7, series.RAW_STEPS), atol=1e-5)
    np.testing.assert_allclose(found["raw"][1], np.linspace(1, 3, series.RAW_STEPS), atol=1e-5)
    known = np.array([0, 1, 2, 4, 5, 6, 7])
    np.testing.assert_allclose(found["moments"], [[known.mean(), known.std()], [2, (2 / 3) ** 0.5]])


def test_a_series_without_any_value_has_finite_inputs_baselines_and_drawing():
    values = np.zeros((3, 5, 1), np.float32)
    values[1] = np.nan
    empty = ArraySource("x", {"values": values, "length": np.full(3, 5, np.int32)})
    spec = series.input_spec(SeriesData(), empty)
    for baseline in SERIES.baselines.values():
        assert np.isfinite(baseline.features(empty)).all()
    assert np.isfinite(series.prepare(empty.examples, spec)["values"]).all()
    side, images = series.show(empty)
    assert [image.shape for image in images] == [(side, side, 3)] * 3


def test_a_drawing_follows_the_values():
    rising = {"values": np.linspace(-1, 1, 30)[None, :, None], "length": np.array([30])}
    _, (image,) = series.show(ArraySource("x", rising))
    blue = np.array(image[..., 0] < 50)
    assert blue[-1, 0]
    assert blue[0, -1]
    assert not blue[0, 0]
    assert blue.any(axis=0).all()


# ------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    np.savez(folder / "sines.npz", **arrays(), groups=np.arange(60) // 12)
    trained = config(data={"source": str(folder / "sines.npz"), "length": 16})
    return folder / "run", trained, cssl_jax.pretrain(trained, folder / "run")


@pytest.mark.slow
def test_a_run_has_results_beside_the_baselines_of_series(run):
    folder, _, results = run
    assert list(results.baselines) == ["random_init", "raw", "moments"]
    labels = json.loads((folder / "results.json").read_text())["baseline_labels"]
    assert labels["raw"] == "raw values, 64 steps"
    assert "none of the 12 test series is among the training series" in str(
        json.loads((folder / "results.json").read_text())["leakage"]
    )


def test_a_loaded_encoder_takes_arrays_lists_and_trees(run):
    encoder = cssl_jax.load_encoder(run[0])
    made = arrays(7, seed=1)
    rows = [row[:length] for row, length in zip(made["values"], made["lengths"], strict=True)]
    features = encoder(rows)
    assert features.shape[0] == 7
    tree = {"values": made["values"], "length": made["lengths"]}
    np.testing.assert_allclose(encoder(tree), features, atol=1e-5)
    with pytest.raises(UserError, match="series have 1 channels; this encoder takes 2"):
        encoder(made["values"][..., 0])
    with pytest.raises(UserError, match=r"series have \['values'\]; give values"):
        encoder({"values": made["values"]})


def test_the_command_embed_writes_features_and_labels(run, tmp_path, capsys):
    np.savez(tmp_path / "others.npz", **arrays(9, seed=2))
    words = ["--data.source", str(tmp_path / "others.npz"), "--output", str(tmp_path / "f.npz")]
    assert cli.main(["embed", str(run[0]), *words]) == 0
    with np.load(tmp_path / "f.npz") as content:
        assert content["labels"].tolist() == [0, 1, 2] * 3
        expected = cssl_jax.load_encoder(run[0]).embed(tmp_path / "others.npz")
        np.testing.assert_array_equal(content["features"], expected)
    assert cli.main(["embed", str(run[0]), *words, "--data.channels", "1"]) == 2
    assert "unknown option --data.channels" in capsys.readouterr().err


def test_the_command_evaluates_one_held_out_group_after_another(run, capsys):
    before = json.loads((run[0] / "results.json").read_text())
    assert cli.main(["evaluate", str(run[0]), "--protocol", "groups"]) == 0
    text = capsys.readouterr().out
    for part in ("held-out groups", "untrained encoder", "raw values, 64 steps"):
        assert part in text
    content = json.loads((run[0] / "results.json").read_text())
    groups = content["groups"]["by_group"]
    assert {name: row["examples"] for name, row in groups.items()} == dict.fromkeys("01234", 12)
    assert content["raw"]["groups"]["top1"] > 1 / 3  # sines of three frequencies
    assert (content["linear"], content["split"]) == (before["linear"], before["split"])
    assert cli.main(["evaluate", str(run[0]), "--protocol", "groups", "linear"]) == 2
    assert "request it alone" in capsys.readouterr().err


def test_an_image_encoder_and_images_are_refused_for_series(tmp_path):
    with pytest.raises(UserError, match="resnet18"):
        recipes.canonical(config("resnet18", data={"source": "x.npz"}))
    np.savez(tmp_path / "images.npz", images=np.zeros((20, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="needs an array named 'values'"):
        cssl_jax.pretrain(config(data={"source": str(tmp_path / "images.npz")}), tmp_path / "run")


def outcome(encoder, devices, norm_group=0, **train):
    with jax.enable_x64(True):
        changed = tiny.replace(config(encoder, **train), "model", norm_group=norm_group)
        made = tiny.Run(changed, devices, source=source())
        return made.run(5, np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["gru", "resnet1d", "dilated", "bilstm", "transformer"])
def test_float64_training_does_not_depend_on_the_number_of_devices(encoder):
    one, four = outcome(encoder, 1), outcome(encoder, 4)
    assert max(compare(four, one)._replace(scale=0.0)) < FLOAT64_BOUND
    assert compare(four, one).scale == pytest.approx(1.0, abs=FLOAT64_BOUND)


@pytest.mark.slow
def test_micro_batches_give_the_plain_step():
    # The projection head has BatchNorm, whose groups are then those of the micro-batches.
    found, plain = (outcome("gru", 1, norm_group=8, micro_batch=size) for size in (8, 0))
    assert max(compare(found, plain)._replace(scale=0.0)) < FLOAT64_BOUND
