"""Adaptation of a run: what is refused, what is shown, and that it resumes to the bit."""

import jax
import numpy as np
import pytest

import tiny
from cssl_jax import adapt, cli, load_encoder, pretrain
from cssl_jax.errors import UserError
from cssl_jax.train import journal
from cssl_jax.train.adapt import spread, table


@pytest.mark.slow
def test_a_run_that_crashed_ends_with_the_same_bits(tmp_path, monkeypatch):
    for name, seed in (("source", 0), ("target", 1)):
        pictures = tiny.pictures(60, seed=seed)
        np.savez(tmp_path / f"{name}.npz", images=pictures.images, labels=pictures.labels)
    chosen = tiny.replace(tiny.config(epochs=3), "data", source=str(tmp_path / "source.npz"))
    chosen = tiny.replace(chosen, "method", name="dann")
    chosen = tiny.replace(chosen, "classifier", num_classes=3)
    chosen = tiny.replace(chosen, "adapt", target=str(tmp_path / "target.npz"))
    pretrain(chosen, tmp_path / "whole")
    add = journal.Journal.add

    def crash(self, done, metrics, wait):
        add(self, done, metrics, wait)
        if done == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", crash)
        with pytest.raises(KeyboardInterrupt):
            pretrain(chosen, tmp_path / "run")
    pretrain(chosen, tmp_path / "run")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    models = [jax.device_get(load_encoder(folder).model) for folder in (run, whole)]
    jax.tree.map(np.testing.assert_array_equal, *models)
    pictures = tiny.pictures(60, seed=2)
    np.savez(tmp_path / "target.npz", images=pictures.images, labels=pictures.labels)
    with pytest.raises(UserError, match="the target images have changed since the run began"):
        pretrain(chosen, run)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"methods": ("svm",)}, "'svm' is unknown; use bn or coral or dann"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({"target": ""}, {}, r"adapt\.target is empty"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes, options, words, tmp_path):
    chosen = tiny.replace(tiny.config(), "adapt", **{"target": "digits", **changes})
    with pytest.raises(UserError, match=words):
        adapt(tmp_path, tmp_path / "out", config=chosen, **options)


def test_domains_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path):
    rgb, more = tmp_path / "rgb.npz", tmp_path / "more.npz"
    np.savez(rgb, images=tiny.pictures(channels=3).images)
    np.savez(more, images=tiny.pictures(20).images, labels=np.arange(20))
    for target, words in (
        (rgb, r"3 channel\(s\) and data\.source of 1"),
        (more, "labels up to 19"),
    ):
        chosen = tiny.replace(tiny.config(), "adapt", target=str(target))
        with pytest.raises(UserError, match=words):
            adapt(tmp_path, tmp_path / "out", config=chosen)
    assert not (tmp_path / "out").exists()


def test_the_table_gives_mean_and_deviation_in_percent():
    results = {
        "images": {"target_test": 200, "source_test": 1000},
        "seeds": 3,
        "rows": {
            "source": {"target": spread([0.5, 0.6, 0.7]), "source": spread([0.9])},
            "bn": {"source": spread([0.25])},
        },
        "leakage": {"source": {"words": "no leakage found"}},
    }
    head, source, bn, *_, last = table(results).splitlines()
    assert head.split() == [
        "top-1",
        "on",
        "held-out",
        "images",
        "target",
        "(200)",
        "source",
        "(1,000)",
    ]
    assert source.split()[-6:] == ["60.0", "+-", "10.0", "%", "90.0", "%"]
    assert bn.split()[-4:] == ["no", "labels", "25.0", "%"]
    assert last == "no leakage found"


def test_the_command_tells_what_is_missing(capsys, tmp_path):
    assert cli.main(["adapt"]) == 2
    assert "name the run first" in capsys.readouterr().err
    assert cli.main(["adapt", str(tmp_path), "--workdir", str(tmp_path / "x")]) == 2
    assert "is no run folder" in capsys.readouterr().err
