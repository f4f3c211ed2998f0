"""Evaluation of runs: ranking and reporting images, frozen encoder, other data, leaking splits."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.errors import RunError, UserError
from cssl_jax.evaluate.encoders.encoder_hash import variables_hash
from cssl_jax.evaluate.encoders.load import load_encoder
from cssl_jax.evaluate.evaluator import Checkpoint, Evaluator
from cssl_jax.evaluate.protocols import run as protocols
from cssl_jax.evaluate.ranking_split import split_ranking_reporting
from cssl_jax.experiment import data_splits
from cssl_jax.report.results_table import format_results
from helpers import tiny

FEW = {"knn_k": 5, "knn_ks": (1, 5), "l2_values": (0.01, 1.0), "probe_seeds": 2}
FEW |= {"shots": (1, 2), "draws": 3, "recall_at": (1, 2), "batch_size": 16}


def save(path, source):
    np.savez(path, images=source.images, labels=source.labels)
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    source = save(tmp_path_factory.mktemp("data") / "images.npz", tiny.image_source(60))
    config = tiny.config(epochs=2, evaluate_every=1, tensorboard=False)
    config = tiny.replace(config, "evaluate", **FEW)
    return tiny.replace(config, "data", source=source)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, cssl_jax.pretrain(config, folder)


@pytest.fixture(scope="module")
def parts(run, config):
    """Encoder of the last checkpoint, training split, validation split, and their evaluator."""
    encoder = load_encoder(run[0])
    train, validation = data_splits.load_data(config)
    evaluator = Evaluator(
        config, encoder.method.encoder, encoder.spec, train, validation, encoder.mesh
    )
    return encoder, train, validation, evaluator


def scikit_learn_knn(encoder, train, validation, rows):
    """Top-1 of the weighted vote of 5 neighbours on the given validation rows."""

    def unit(source):
        x = np.float64(encoder.embed(source))
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)

    model = KNeighborsClassifier(5, weights=lambda d: np.exp((1 - d**2 / 2) / 0.1))
    model.fit(unit(train), train.labels)
    return model.score(unit(validation)[rows], validation.labels[rows])


def test_half_of_the_validation_images_rank_checkpoints_and_the_other_half_reports(run, parts):
    folder, results = run
    _, train, validation, evaluator = parts
    chose, report = evaluator._selection, evaluator._reporting
    assert sorted([*chose, *report]) == list(range(12))
    assert (len(chose), len(report)) == (6, 6)
    best = load_encoder(folder, checkpoint="best")
    online = {
        line["step"]: line["knn.selection_top1"]
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "knn.top1" in line
    }
    assert len(online) == 2
    assert online[best.step] == max(online.values())
    assert online[best.step] == pytest.approx(scikit_learn_knn(best, train, validation, chose))
    assert results["best"]["step"] == best.step
    assert results["best"]["images"] == 6
    assert results["best"]["knn"]["top1"] == pytest.approx(
        scikit_learn_knn(best, train, validation, report)
    )
    last = load_encoder(folder)
    assert results["knn"]["top1"] == pytest.approx(
        scikit_learn_knn(last, train, validation, np.arange(12))
    )


def test_the_same_images_rank_with_labels_and_without():
    labelled = tiny.image_source(21)
    chose, report = split_ranking_reporting(labelled, 3)
    bare = split_ranking_reporting(dataclasses.replace(labelled, labels=None), 3)
    np.testing.assert_array_equal(bare[0], chose)
    np.testing.assert_array_equal(bare[1], report)
    labels = labelled.labels.copy()
    labels[::3] = -1  # some images have no label
    some = dataclasses.replace(labelled, labels=labels)
    kept = np.flatnonzero(labels >= 0)
    ranked, reported = split_ranking_reporting(some, 3)
    np.testing.assert_array_equal(kept[ranked], np.intersect1d(chose, kept))
    np.testing.assert_array_equal(kept[reported], np.intersect1d(report, kept))


def test_the_last_and_the_best_stand_side_by_side_where_they_differ(parts):
    encoder, train, _, evaluator = parts
    last = Checkpoint(encoder.step, encoder.model)
    best = Checkpoint(1, encoder.untrained(train))
    found = evaluator.report(last, best, encoder.untrained, ("knn",))
    assert found["best"]["last"]["knn"].keys() == found["best"]["knn"].keys()
    text = format_results(found)
    assert "on 6 examples that were not used for selection" in text
    assert "best checkpoint: step 1, selected by online kNN top-1 on 6 of the 12" in text
    elsewhere = evaluator.report(last, best, encoder.untrained, ("knn",), chose_best=False)
    assert elsewhere["best"]["images"] == 12
    assert elsewhere["best"]["last"]["knn"]["top1"] == elsewhere["knn"]["top1"]
    assert "reported on all 12 here" in elsewhere["selection"]["words"]


def test_the_encoder_is_the_same_after_as_before(run, parts):
    encoder, *_ = parts
    assert run[1]["encoder_hash"]["last"] == variables_hash(encoder.model)
    assert run[1]["encoder_hash"]["unchanged"] is True
    assert f"unchanged by the evaluation, {variables_hash(encoder.model)[:12]}" in format_results(
        run[1]
    )


def test_a_hash_sees_a_changed_bit_an_exchange_and_a_type():
    values = np.arange(6, dtype=np.float32)

    def hashed(a, b):
        return variables_hash({"params": {"encoder": {"a": a, "b": b}},
                               "model_state": {"encoder": {}}})  # fmt: skip

    bit = values.copy()
    bit.view(np.uint32)[3] ^= 1
    hashes = [
        hashed(values, bit),
        hashed(bit, values),
        hashed(values, values),
        hashed(values, values.reshape(2, 3)),
        hashed(values, values.astype(np.float64)),
    ]
    assert len(set(hashes)) == 5
    assert hashed(values.copy(), bit.copy()) == hashes[0]


def test_a_protocol_that_trains_the_encoder_is_found_out(parts, monkeypatch):
    encoder, _, _, evaluator = parts
    model = jax.tree.map(np.array, jax.device_get(encoder.model))  # writable arrays
    honest = protocols.labelled

    def training(*arguments, **settings):
        jax.tree.leaves(model["params"]["encoder"])[0][...] += 1e-3
        return honest(*arguments, **settings)

    monkeypatch.setattr(protocols, "labelled", training)
    with pytest.raises(RunError, match="protocol changed the encoder of the last checkpoint"):
        evaluator.report(Checkpoint(6, model), None, encoder.untrained, ("knn",))


def test_other_data_is_fitted_and_reported_on_and_leaves_the_runs_metrics_alone(
    run, config, tmp_path
):
    folder, results = run
    train, test = tiny.image_source(30, seed=1), tiny.image_source(20, seed=2)
    data = dataclasses.replace(
        config.data,
        source=save(tmp_path / "other.npz", train),
        validation_source=save(tmp_path / "test.npz", test),
    )
    metrics = cssl_jax.evaluate_run(folder, "knn", data=data)
    encoder = load_encoder(folder)
    expected = scikit_learn_knn(encoder, train, test, np.arange(20))
    assert metrics["knn"]["top1"] == pytest.approx(expected)
    assert metrics["split"] == {"train": 30, "validation": 20}
    assert metrics["best"]["images"] == 20  # none of these images ranked checkpoints
    assert all("knn" in metrics[baseline] for baseline in ("random_init", "pixels"))
    assert set(metrics["leakage"]) == {"train", "pretraining"}
    saved = json.loads((folder / "results.json").read_text())
    assert saved.pop("transfer") == {data.source: json.loads(json.dumps(metrics.to_json()))}
    assert saved == results


@pytest.mark.parametrize("change", [{"split_seed": 5}, {"validation_fraction": 0.5}])
def test_images_that_chose_the_best_checkpoint_do_not_report_on_it_in_another_split(
    run, config, parts, change
):
    folder, _ = run
    *_, own, evaluator = parts
    chose = {image.tobytes() for image in own.images[evaluator._selection]}
    data = dataclasses.replace(config.data, **change)
    _, validation = data_splits.load_data(dataclasses.replace(config, data=data))
    among = [image.tobytes() in chose for image in validation.images]
    assert 0 < sum(among) < len(among)
    metrics = cssl_jax.evaluate_run(folder, "knn", data=data)
    assert metrics["best"]["images"] == len(among) - sum(among)
    words = f"reported on the {len(among) - sum(among)} of {len(among)} here that are not among"
    assert words in metrics["selection"]["words"]
    best = load_encoder(folder, checkpoint="best")
    train, _ = data_splits.load_data(dataclasses.replace(config, data=data))
    rows = np.flatnonzero(~np.array(among))
    expected = scikit_learn_knn(best, train, validation, rows)
    assert metrics["best"]["knn"]["top1"] == pytest.approx(expected)


def test_what_named_the_runs_own_validation_images_does_not_report_on_other_data(
    run, config, tmp_path
):
    own = tiny.replace(config, "data", validation_source=config.data.source).data
    other = save(tmp_path / "other.npz", tiny.image_source(40, seed=1))
    from cssl_jax.evaluate.run import _replace_data

    base = dataclasses.replace(config, data=own)
    moved = _replace_data(base, dataclasses.replace(own, source=other, labels="auto"), None)
    assert moved.data.validation_source == ""
    asked = dataclasses.replace(own, source=other, validation_source=other)
    assert _replace_data(base, asked, None).data.validation_source == other


def test_a_leaking_split_is_called_out_in_the_table_and_the_json(run, config, tmp_path, capsys):
    folder, _ = run
    train, test = tiny.image_source(30, seed=1), tiny.image_source(20, seed=2)
    test.images[:5] = train.images[10:15]
    output = tmp_path / "figures.json"
    command = ["evaluate", str(folder), "--protocol", "knn", "--json", str(output)]
    command += ["--data.source", save(tmp_path / "other.npz", train)]
    assert cli.main([*command, "--data.validation-source", save(tmp_path / "t.npz", test)]) == 0
    out = capsys.readouterr().out
    assert "LEAKAGE: 5 of 20 test images (25.0 %) are among the training images: 5 exactly" in out
    assert json.loads(output.read_text())["leakage"]["train"]["exact"] == 5


def test_every_protocol_has_its_table(run, capsys):
    folder, _ = run
    command = ["evaluate", str(folder), "--protocol", "knn", "few-shot", "retrieval"]
    assert cli.main([*command, "--evaluate.knn-ks", "1", "3", "--evaluate.shots", "2"]) == 0
    out = capsys.readouterr().out
    heads = [line.split() for line in out.splitlines()]
    assert ["knn", "top-1", "by", "k", "1", "3", "5"] in heads
    assert ["labels,", "top-1", "2", "per", "class"] in heads
    assert ["retrieval", "recall@1", "recall@2", "mAP"] in heads
    assert out.count("raw pixels") == 4
    results = json.loads((folder / "results.json").read_text())
    assert "linear" in results  # from the evaluation at the end of the run
    assert set(results["few_shot"]["shots"]) == {"2"}


def test_without_labels_checkpoints_are_ranked_by_views_of_one_half(config, run, parts):
    encoder, train, validation, _ = parts
    bare = [dataclasses.replace(part, labels=None) for part in (train, validation)]
    evaluator = Evaluator(config, encoder.method.encoder, encoder.spec, *bare, encoder.mesh)
    last = Checkpoint(encoder.step, encoder.model)
    flat = evaluator.evaluate(evaluator.features(last.model)).flat()
    assert 0 <= flat["selection_view_retrieval"] <= 1
    chosen = evaluator._describe_selection(last, last, True, 6)
    assert "online view retrieval on 6 of the 12" in chosen["words"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluate.draws", "1"], "evaluate.draws is 1; give 2 or more"),
        (["--evaluate.knn-ks", "5", "0"], "evaluate.knn_ks is (5, 0); give a positive number"),
        (["--json", "nowhere/x.json"], "the folder does not exist"),
        (["--data.source", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_what_does_not_fit_is_named(run, capsys, words, message):
    assert cli.main(["evaluate", str(run[0]), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_images_of_other_channels_are_refused(run, config, tmp_path):
    colour = save(tmp_path / "colour.npz", tiny.image_source(20, channels=3))
    data = dataclasses.replace(config.data, source=colour)
    with pytest.raises(UserError, match="images have 3 channels; this encoder takes 1"):
        cssl_jax.evaluate_run(run[0], "knn", data=data)


def test_channels_before_height_and_width_are_answered_with_the_transposition(parts):
    encoder, *_ = parts
    images = np.zeros((3, 1, 8, 8), np.uint8)
    with pytest.raises(UserError, match=r"numpy\.transpose\(images, \(0, 2, 3, 1\)\)"):
        encoder(images)
    assert encoder(np.transpose(images, (0, 2, 3, 1))).shape[0] == 3
