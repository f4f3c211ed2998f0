"""The modality text: tokens, baselines, SimCSE, and whole runs from files."""

import json
import math

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.config import TextData
from cssl_jax.data.sources.base import ArraySource
from cssl_jax.data.sources.text import open_text, text_examples
from cssl_jax.data.text import tokenizer
from cssl_jax.errors import UserError
from cssl_jax.interop.sentence_transformers import read_sentence_transformer
from cssl_jax.modalities import text
from cssl_jax.modalities.text import TEXT, TextSpec
from cssl_jax.selfcheck.short_run import compare
from helpers import tiny
from helpers.sentences import sentences, source
from helpers.stops import CrashError, crash_after

FLOAT64_BOUND = 1e-9  # docs/architecture.md, rule 1


def config(data=None, method=None, **train):
    changed = recipes.with_modality(tiny.config(epochs=2, **train), "text")
    changed = recipes.with_method(changed, "simcse")
    changed = tiny.replace(changed, "method", **(method or {}))
    given = {"length": 12, "vocabulary": 300, **(data or {})}
    changed = tiny.replace(changed, "data", **given)
    changed = tiny.replace(changed, "augment", delete=(0.2,))
    changed = tiny.replace(changed, "model", encoder="bert_tiny", width=0.125)
    return tiny.replace(changed, "evaluate", knn_k=5, knn_ks=(1, 5), batch_size=16)


# -------------------------------------------------------------------------------------- functions


def test_the_tokenizer_is_trained_on_the_training_split_and_kept_in_the_specification():
    data, train = TextData(length=12, vocabulary=300), source()
    spec = text.input_spec(data, train)
    assert tokenizer.vocabulary_size(spec.tokenizer) <= 300
    assert (spec.kind, spec.size, spec.vocabulary) == ("text", 12, 300)
    assert TextSpec.from_dict(json.loads(json.dumps(vars(spec)))) == spec
    assert text.input_spec(data, train.take(np.arange(3))).tokenizer != spec.tokenizer


def test_a_given_tokenizer_must_fit_the_vocabulary(tmp_path):
    spec = text.input_spec(TextData(vocabulary=300), source())
    (tmp_path / "tokenizer.json").write_text(spec.tokenizer)
    given = TextData(vocabulary=300, tokenizer=str(tmp_path))
    assert text.input_spec(given, source(9)).tokenizer == spec.tokenizer
    count = tokenizer.vocabulary_size(spec.tokenizer)
    with pytest.raises(UserError, match=f"--data.vocabulary {count}"):
        text.input_spec(TextData(vocabulary=261, tokenizer=str(tmp_path)), source())


def test_texts_become_arrays_and_come_back():
    spec = text.input_spec(TextData(length=32, vocabulary=300), source())
    arrays = text.to_arrays(source(), spec)
    assert set(arrays.examples) == {"tokens", "length"}
    back = text.from_arrays(arrays, spec).examples["text"].tolist()
    assert back == [one.lower() for one in sentences()[0]]
    assert text.to_arrays(arrays, spec) is arrays


def test_baselines_are_fitted_on_the_training_split():
    train = source()
    for baseline in TEXT.baselines.values():
        features = baseline.fitted_on(train)(source(7))
        assert (len(features), features.dtype) == (7, np.float32)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
        assert not baseline.fitted_on(train)(ArraySource("x", text_examples(["zzz"]))).any()


def test_every_text_is_drawn():
    side, images = text.show(ArraySource("x", text_examples(["a dog", "日本 \n\t" * 50, "x"])))
    drawn = list(images)
    assert [image.shape for image in drawn] == [(side, side, 3)] * 3
    assert all((image < 128).any() for image in drawn)


@pytest.mark.parametrize("with_source", [True, False])
def test_a_source_that_is_written_is_read(with_source, tmp_path):
    given = source(8) if with_source else None
    path = TEXT.write(given, TextData(), 8, tmp_path / "corpus")
    found = open_text(path)
    assert len(found) == 8
    if with_source:
        assert found.fingerprint() == given.fingerprint()


# ----------------------------------------------------------------------------------------- method


def outcome(devices, source_size=60, method=None, **train):
    with jax.enable_x64(True):
        made = tiny.Run(config(method=method, **train), devices, source=source(source_size))
        return made.run(5, np.float64)


@pytest.mark.slow
def test_float64_training_does_not_depend_on_the_number_of_devices():
    one, four = outcome(1), outcome(4)
    assert max(compare(four, one)._replace(scale=0.0)) < FLOAT64_BOUND
    assert compare(four, one).scale == pytest.approx(1.0, abs=FLOAT64_BOUND)


@pytest.mark.slow
def test_micro_batches_give_the_plain_step():
    found, plain = (outcome(1, micro_batch=size) for size in (8, 0))
    assert max(compare(found, plain)._replace(scale=0.0)) < FLOAT64_BOUND


# ------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    path = TEXT.write(source(), TextData(), 0, folder / "corpus")
    trained = config(data={"source": path}, checkpoint_steps=2)
    return folder / "run", trained, cssl_jax.pretrain(trained, folder / "run")


@pytest.mark.slow
def test_a_run_has_results_beside_the_baselines_of_text(run):
    folder, trained, results = run
    assert list(results.baselines) == ["random_init", "tfidf_words", "tfidf_characters"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    chance = [line["chance_loss"] for line in lines if "chance_loss" in line]
    assert not chance or chance[0] == pytest.approx(math.log(trained.train.batch_size))


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_bits(run, tmp_path):
    folder, trained, _ = run
    with pytest.raises(CrashError):
        cssl_jax.pretrain(trained, tmp_path / "run", hooks=[crash_after(5)])
    cssl_jax.pretrain(trained, tmp_path / "run")
    for name in ("metrics.jsonl", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_a_loaded_encoder_takes_a_list_of_texts(run, tmp_path):
    encoder = cssl_jax.load_encoder(run[0])
    texts = ["The man sees it.", "Something else 😀", "", "horse " * 40]
    features = encoder(texts)
    assert features.shape == (4, 16)
    # A text's features do not depend on the other texts, though its padding does.
    np.testing.assert_allclose(encoder(texts[:1]), features[:1], atol=1e-6)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    np.testing.assert_allclose(
        encoder.embed(tmp_path / "texts.txt"), features[[0, 1, 3]], atol=1e-6
    )
    for wrong in ("a text", [], [b"bytes"], 3):
        with pytest.raises(UserError, match="give a list"):
            encoder(wrong)


def test_the_command_evaluates_pairs_of_sentences(run, tmp_path, capsys):
    texts = sentences()[0]
    pairs = [(a, b, float(a.split()[1] == b.split()[1])) for a in texts[:6] for b in texts[6:12]]
    rows = ["sentence1\tsentence2\tscore", *("\t".join(map(str, pair)) for pair in pairs)]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows))
    words = ["--protocol", "sts", "--data.source", str(tmp_path / "pairs.tsv")]
    assert cli.main(["evaluate", str(run[0]), *words]) == 0
    shown = capsys.readouterr().out
    for part in ("36 pairs", "untrained encoder", "TF-IDF of words", "LEAKAGE"):
        assert part in shown
    saved = json.loads((run[0] / "results.json").read_text())["transfer"]
    found = saved[str(tmp_path / "pairs.tsv")]
    assert found["tfidf_words"]["sts"]["spearman"] > 0.5  # the subject is one of few words
    assert found["sts"]["pairs"] == 36
    assert cli.main(["evaluate", str(run[0]), *words, "--protocol", "sts", "knn"]) == 2


def test_a_run_is_exported_to_a_folder_of_sentence_transformers(run, tmp_path, capsys):
    words = ["--output", str(tmp_path / "out"), "--format", "sentence-transformers"]
    assert cli.main(["export", str(run[0]), *words]) == 0
    assert "features differ by 0.0e+00" in capsys.readouterr().out
    written = read_sentence_transformer(tmp_path / "out")
    encoder = cssl_jax.load_encoder(run[0])
    assert (written.tokenizer, written.length) == (encoder.spec.tokenizer, encoder.spec.size)
    assert (written.hidden, written.heads, written.layers) == (16, 2, 2)
    params = encoder.model["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, written.params, jax.device_get(params))
    with pytest.raises(UserError, match="takes encoders of images; this is one of text"):
        cssl_jax.export_run(run[0], tmp_path / "other", format="stablehlo")


@pytest.mark.slow
def test_weights_are_taken_together_with_their_tokenizer(run, tmp_path):
    path = TEXT.write(source(30).take(np.arange(30)[::-1]), TextData(), 0, tmp_path / "other")
    changed = run[1].replace({"data.source": path, "train.init": str(run[0]), "train.epochs": 1})
    cssl_jax.pretrain(changed, tmp_path / "run")
    found, expected = (cssl_jax.load_encoder(folder).spec for folder in (tmp_path / "run", run[0]))
    assert found.tokenizer == expected.tokenizer


def test_a_series_encoder_is_refused_for_text():
    with pytest.raises(UserError, match=r"--model\.encoder bert_tiny"):
        recipes.canonical(tiny.replace(config(data={"source": "x.txt"}), "model", encoder="gru"))
