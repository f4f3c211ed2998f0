"""The modality audio: inputs, statistics, baselines, drawings, and whole runs from files."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.augment.audio.policy import AudioPolicy
from cssl_jax.augment.view_group import SizedGroup
from cssl_jax.cli import main as cli
from cssl_jax.config import AudioData
from cssl_jax.data.sampler import example_key
from cssl_jax.errors import UserError
from cssl_jax.modalities import audio
from cssl_jax.modalities.audio import AUDIO, AudioSpec
from cssl_jax.selfcheck.short_run import compare
from helpers import recordings, tiny
from helpers.recordings import RATE
from helpers.stops import CrashError, crash_after

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1
DATA = AudioData(rate=RATE, mels=12, seconds=0.15)


def config(encoder="gru", data=None, **train):
    changed = recipes.with_modality(tiny.config(epochs=2, **train), "audio")
    values = {"rate": RATE, "mels": 12, "seconds": 0.15, **(data or {})}
    changed = tiny.replace(changed, "data", **values)
    changed = tiny.replace(changed, "model", encoder=encoder, width=0.125)
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)


def prepared(examples, spec):
    return jax.device_get(jax.jit(lambda x: audio.prepare(x, spec))(examples))


# -------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize("front_end", ["log_mel", "wave"])
def test_statistics_normalise_the_inputs_without_the_padding(front_end):
    train = recordings.source()
    spec = audio.input_spec(dataclasses.replace(DATA, front_end=front_end), train)
    found = prepared(train.examples, spec)
    inside = np.arange(found["values"].shape[1]) < found["length"][:, None]
    values = found["values"][inside].astype(np.float64)
    # float32 sums of some 10,000 values
    assert values.mean() == pytest.approx(0, abs=1e-3)
    assert values.std() == pytest.approx(1, abs=1e-3)
    assert not found["values"][~inside].any()
    assert (spec.kind, spec.size) == ("audio", 600)
    assert AudioSpec.from_dict(json.loads(json.dumps(vars(spec)))) == spec


def test_the_mean_of_each_band_of_a_recording_is_removed_on_request():
    train = recordings.source(12)
    spec = audio.input_spec(dataclasses.replace(DATA, normalize="example"), train)
    found = prepared(train.examples, spec)
    louder = {**train.examples, "wave": (train.examples["wave"] // 2).astype(np.int16)}
    for row, number in zip(found["values"], found["length"], strict=True):
        np.testing.assert_allclose(row[:number].mean(axis=0), 0, atol=1e-4)
    # A factor is a constant of the logarithm; the added power of 1e-6 and rounding remain.
    np.testing.assert_allclose(prepared(louder, spec)["values"], found["values"], atol=0.1)


@pytest.mark.parametrize("front_end", ["log_mel", "wave"])
def test_padding_changes_no_input(front_end):
    train = recordings.source(9)
    spec = audio.input_spec(dataclasses.replace(DATA, front_end=front_end), train)
    rubbish = np.full((9, 333), 999, np.int16)
    longer = {**train.examples, "wave": np.hstack([train.examples["wave"], rubbish])}
    found, again = prepared(train.examples, spec), prepared(longer, spec)
    np.testing.assert_array_equal(found["length"], again["length"])
    steps = found["values"].shape[1]
    np.testing.assert_allclose(again["values"][:, :steps], found["values"], atol=1e-6)
    assert not again["values"][:, steps:].any()


def test_views_are_inputs_of_the_views_as_examples():
    train = recordings.source(6)
    spec = audio.input_spec(DATA, train)
    group = SizedGroup(count=2, size=spec.size, policy=AudioPolicy())
    keys = example_key(1, 0, np.arange(6))

    @jax.jit
    def both(examples):
        drawn = audio.sample_views(keys, group.policy, 2, 0)
        views = audio.apply_views(examples, drawn, group, spec)
        return views, audio.prepare(audio.view_examples(examples, drawn, group), spec)

    views, inputs = jax.device_get(both(train.examples))
    jax.tree.map(np.testing.assert_array_equal, views, inputs)
    shapes = jax.tree.map(np.shape, audio.zeros(spec, spec.size, 6, 2))
    assert jax.tree.map(np.shape, views) == shapes
    assert (views["values"][:, 0] != views["values"][:, 1]).any()


def test_baselines_and_drawings_are_of_the_spectrogram():
    train = recordings.source(9)
    found = {name: row.features(train) for name, row in AUDIO.baselines.items()}
    assert {name: x.shape for name, x in found.items()} == {"log_mel": (9, 640), "moments": (9, 80)}
    assert all(np.isfinite(x).all() for x in found.values())
    # The band of the highest mean is higher for a higher pitch.
    assert (np.diff(found["moments"][:3, :40].argmax(axis=1)) > 0).all()
    side, images = AUDIO.show(train)
    images = list(images)
    assert [image.shape for image in images] == [(side, side, 1)] * 9
    assert all(image.dtype == np.uint8 and image.min() == 0 for image in images)
    darkest = [image[..., 0].mean(axis=1).argmin() for image in images[:3]]
    assert darkest[0] > darkest[1] > darkest[2]  # low frequencies are at the bottom


@pytest.mark.parametrize(
    ("data", "augment", "message"),
    [
        ({"front_end": "wave"}, {}, r"front_end is wave; give --augment.stretch 0 .*mel-mask 0"),
        ({"high_hz": 3000.0}, {}, r"high_hz 3000; give low < high <= 2000, half of data.rate"),
        ({"mels": 80}, {}, r"of 80 mel bands lie between two frequencies"),
    ],
)
def test_options_that_do_not_fit_are_refused(data, augment, message):
    with pytest.raises(UserError, match=message):
        recipes.canonical(config(data={"source": "x", **data}))


def test_a_user_may_pass_waves_of_any_rate_and_number_of_channels():
    spec = audio.input_spec(DATA, recordings.source())
    wave = recordings.tones(1)[0]
    found = audio.checked_audio((wave, RATE), spec)
    np.testing.assert_array_equal(found["wave"][0], wave)
    stereo = np.stack([wave, wave], axis=1) / np.float32(2**15)
    again = audio.checked_audio([(stereo, RATE), (wave[:50], RATE)], spec)
    np.testing.assert_array_equal(again["wave"][0], wave)
    assert again["length"].tolist() == [len(wave), 50]
    pytest.importorskip("soxr")
    faster = audio.checked_audio((wave, 2 * RATE), spec)
    assert faster["length"][0] == pytest.approx(len(wave) / 2, abs=1)
    for wrong, message in (
        (wave, "a recording is a int16; give"),
        ((wave * 1.0, RATE), "samples are float64 up to .*finite floats in"),
        ((wave[:0], RATE), r"a recording has shape \(0,\)"),
        ({"wave": wave[None]}, r"recordings have \['wave'\]"),
    ):
        with pytest.raises(UserError, match=message):
            audio.checked_audio(wrong, spec)


# ------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    path = recordings.write(folder / "clips", groups=True)
    trained = config(data={"source": path})
    return folder / "run", trained, cssl_jax.pretrain(trained, folder / "run")


def test_a_run_has_results_beside_the_baselines_of_audio(run):
    folder, _, results = run
    assert list(results.baselines) == ["random_init", "log_mel", "moments"]
    assert results.baselines["log_mel"].linear.top1 > 0.9  # pitches
    labels = json.loads((folder / "results.json").read_text())["baseline_labels"]
    assert labels["log_mel"] == "log-mel spectrogram, 16 steps"
    cssl_jax.write_report([folder], folder / "report.html", figures=False)
    assert "log-mel spectrogram, 16 steps" in (folder / "report.html").read_text()


def test_a_loaded_encoder_takes_waves_and_rates_whatever_their_padding(run):
    encoder = cssl_jax.load_encoder(run[0])
    source = recordings.source(7, seed=1)
    waves = [(wave, RATE) for wave in recordings.tones(7, seed=1)]
    features = encoder(waves)
    assert features.shape[0] == 7
    np.testing.assert_allclose(encoder(waves[2]), features[2:3], atol=1e-6)
    padded = np.pad(source.examples["wave"], ((0, 0), (0, 500)), constant_values=77)
    found = encoder({**source.examples, "wave": padded})
    np.testing.assert_allclose(found, features, atol=1e-6)
    with pytest.raises(UserError, match="a recording is a"):
        encoder([wave for wave, _ in waves])


def test_the_command_embed_writes_features_and_labels(run, tmp_path):
    path = recordings.write(tmp_path / "others", 9, seed=2)
    words = ["--data.source", path, "--output", str(tmp_path / "f.npz")]
    assert cli.main(["embed", str(run[0]), *words]) == 0
    with np.load(tmp_path / "f.npz") as content:
        assert content["labels"].tolist() == [0, 1, 2] * 3
        assert content["features"].shape[0] == 9


def test_the_command_evaluates_one_held_out_speaker_after_another(run, capsys):
    assert cli.main(["evaluate", str(run[0]), "--protocol", "groups"]) == 0
    assert "log-mel spectrogram" in capsys.readouterr().out
    content = json.loads((run[0] / "results.json").read_text())
    assert content["groups"]["by_group"].keys() == {f"speaker {i}" for i in range(5)}


@pytest.mark.slow
def test_a_run_that_crashed_within_an_epoch_ends_with_the_same_bits(run, tmp_path):
    trained = tiny.replace(run[1], "train", checkpoint_steps=2)
    cssl_jax.pretrain(trained, tmp_path / "whole")
    with pytest.raises(CrashError):
        cssl_jax.pretrain(trained, tmp_path / "run", hooks=[crash_after(5)])
    cssl_jax.pretrain(trained, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == whole


def outcome(encoder, devices, pipeline="resident", data=None, norm_group=0, augment=None, **train):
    with jax.enable_x64(True):
        changed = config(encoder, data, **train)
        changed = tiny.replace(changed, "model", norm_group=norm_group)
        changed = tiny.replace(changed, "augment", **(augment or {}))
        made = tiny.Run(changed, devices, source=recordings.source(), pipeline=pipeline)
        return made.run(5, np.float64)


WAVE = {
    "data": {"front_end": "wave"},
    "augment": dict.fromkeys(audio.SPECTROGRAM_OPERATIONS, (0.0,)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "options", "devices"),
    [
        ("gru", {}, 4),
        ("spectrogram_resnet10", {}, 2),
        ("spectrogram_resnet10", {}, 8),
        ("wave_gru", WAVE, 4),
        ("gru", {"pipeline": "stream"}, 2),
    ],
)
def test_float64_training_does_not_depend_on_the_number_of_devices(encoder, options, devices):
    fixed = {name: value for name, value in options.items() if name != "pipeline"}
    one, several = outcome(encoder, 1, **fixed), outcome(encoder, devices, **options)
    assert max(compare(several, one)._replace(scale=0.0)) < FLOAT64_BOUND
    assert compare(several, one).scale == pytest.approx(1.0, abs=FLOAT64_BOUND)
