"""The first thing that a newcomer tries: a recipe with few epochs, and then with more of them."""

import dataclasses
import pathlib

import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.cli.parsing import fit_warmup
from cssl_jax.errors import UserError
from cssl_jax.files import write_text
from cssl_jax.recipes import validate
from cssl_jax.train import pretrain as pretrain_module
from cssl_jax.train import run_dir
from helpers import tiny

RECIPE = recipes.load("folder")  # 10 epochs of warm-up, 200 in all


def shortened(epochs, *words, run=None):
    config = tiny.replace(RECIPE, "train", epochs=epochs)
    return fit_warmup(config, RECIPE, ["folder", *words], run).optimizer.warmup_epochs


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.05), (4, 0.2), (19, 0.95)])
def test_a_recipes_warmup_scales_with_fewer_epochs_and_a_line_says_so(epochs, warmup, capsys):
    assert shortened(epochs) == pytest.approx(warmup)
    line = capsys.readouterr().err
    assert f"{warmup:g} of {epochs} epochs, scaled from the recipe's 10 of 200" in line
    assert "--optimizer.warmup-epochs" in line


@pytest.mark.parametrize("epochs", [20, 25, 200, 1000])
def test_a_warmup_that_fits_stays_what_it_was(epochs, capsys):
    assert shortened(epochs) == 10
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words", [("--optimizer.warmup-epochs", "10"), ("--optimizer.warmup_epochs=10",)]
)
def test_a_warmup_that_is_given_stays(words):
    assert shortened(4, *words) == 10


def test_a_run_that_began_with_another_warmup_resumes_with_it(tmp_path):
    begun = tiny.replace(RECIPE, "train", epochs=12)
    write_text(tmp_path / "config.json", recipes.to_json(begun))
    assert shortened(12, run=tmp_path) == 10
    assert shortened(12, run=tmp_path / "other") == pytest.approx(0.6)


def test_pretrain_folder_with_one_epoch_is_accepted(monkeypatch, tmp_path, capsys):
    class SeenError(Exception):
        pass

    def train(config, workdir, **options):
        assert validate(config).optimizer.warmup_epochs == pytest.approx(0.05)
        raise SeenError

    monkeypatch.setattr(pretrain_module, "pretrain", train)
    words = ["pretrain", "folder", "--workdir", str(tmp_path / "run"), "--train.epochs", "1"]
    with pytest.raises(SeenError):
        cli.main(words)
    assert "0.05 of 1 epochs" in capsys.readouterr().err


def test_more_epochs_on_a_run_are_answered_with_the_way_to_train_on(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "3").mkdir(parents=True)
    write_text(run / "config.json", recipes.to_json(tiny.config(epochs=3)))
    with pytest.raises(UserError, match=rf"train\.epochs: 3 -> 9[^$]*--init {run}"):
        run_dir.check(run, tiny.config(epochs=9))
    with pytest.raises(UserError) as refused:
        run_dir.check(run, tiny.config(epochs=2))
    assert "--init" not in str(refused.value)
    # What the message says to type is accepted.
    run_dir.check(tmp_path / "next", tiny.config(epochs=9, init=str(run)))


@pytest.mark.parametrize(
    ("section", "field", "place"),
    [
        ("data", "source", "photos"),
        ("data", "validation_source", "photos"),
        ("data", "labels", "labels.csv"),
        ("adapt", "target", "photos"),
        ("adapt", "target_validation", "photos"),
        ("adapt", "target_labels", "labels.csv"),
        ("train", "init", "runs/first"),
    ],
)
def test_a_configs_hash_does_not_depend_on_where_its_files_lie(section, field, place, monkeypatch):
    def hashed(value):
        changed = dataclasses.replace(getattr(RECIPE, section), **{field: value})
        return recipes.config_hash(dataclasses.replace(RECIPE, **{section: changed}))

    assert hashed(f"/home/a/{place}") == hashed(f"/mnt/b/{place}") == hashed(place)
    assert hashed(place) != hashed(f"{place}2")
    assert hashed("") != hashed(place)
    monkeypatch.chdir(pathlib.Path(__file__).parent)
    assert hashed(".") == hashed("/elsewhere/config")
