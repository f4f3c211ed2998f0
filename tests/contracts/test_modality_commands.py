"""The commands on runs of series, recordings and texts, as a user calls them."""

import json

import jax
import numpy as np
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.modalities.registry import modality_entry
from cssl_jax.selfcheck.reduced_config import examples_of, reduced
from cssl_jax.selfcheck.run import Row, check_outcome
from cssl_jax.selfcheck.short_run import Trial
from helpers import modality_runs

pytestmark = pytest.mark.slow
SPACE = '''"""A space."""


def space(trial):
    return {"method.temperature": trial.suggest_float("tau", 0.1, 0.5)}
'''
SHORT = ["--train.epochs", "1"]


class Run:
    """A finished run with labels and groups, and a second set of examples."""

    def __init__(self, name, folder):
        self.name, self.noun = name, modality_entry(name).noun
        self.baselines = modality_entry(name).baselines
        self.recipe = str(modality_runs.write_recipe(name, folder, groups=True))
        self.source = json.loads((folder / "recipe.json").read_text())["data"]["source"]
        (folder / "other").mkdir()
        self.other = modality_runs.write_source(name, folder / "other", 30)
        self.run = str(folder / "run")
        assert cli.main(["pretrain", self.recipe, "--workdir", self.run]) == 0


@pytest.fixture(scope="module", params=modality_runs.NAMES)
def made(request, tmp_path_factory):
    return Run(request.param, tmp_path_factory.mktemp(request.param))


def test_finetune_compares_with_the_baselines_of_the_modality(made, tmp_path, capsys):
    words = ["--data.source", made.other, "--min-steps", "2", *SHORT]
    assert cli.main(["finetune", made.run, "--workdir", str(tmp_path / "out"), *words]) == 0
    shown = capsys.readouterr()
    for baseline in made.baselines.values():
        assert f"logistic regression on {baseline.label}" in shown.out
    assert "images" not in shown.out + shown.err
    # The weights see the input that they were trained on.
    own = cssl_jax.load_encoder(tmp_path / "out" / "1-pretrained").spec
    theirs = cssl_jax.load_encoder(made.run).spec
    for field in ("mean", "std", "tokenizer"):
        assert getattr(own, field, None) == getattr(theirs, field, None)


def test_adapt_names_what_it_compares(made, tmp_path, capsys):
    words = ["--target", made.other, "--methods", "coral", "--seeds", "1", *SHORT]
    words = ["--data.source", made.source, "--workdir", str(tmp_path / "out"), *words]
    assert cli.main(["adapt", made.run, *words]) == 0
    shown = capsys.readouterr().out
    assert "Deep CORAL" in shown
    assert f"test {made.noun}" in shown
    assert "image" not in shown
    found = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    assert set(found["baseline_labels"]) == set(made.baselines)
    assert set(made.baselines) <= set(found["rows"])


def test_a_sweep_and_its_report_are_written(made, tmp_path):
    (tmp_path / "space.py").write_text(SPACE)
    words = ["--space", str(tmp_path / "space.py"), "--workdir", str(tmp_path / "sweep")]
    words += ["--trials", "2", "--no-figures", *SHORT]
    assert cli.main(["sweep", made.recipe, *words]) == 0
    assert (tmp_path / "sweep" / "report.html").is_file()
    trials = json.loads((tmp_path / "sweep" / "trials.json").read_text())["trials"]
    assert len(trials) == 2


def test_a_report_shows_the_examples(made, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert cli.main(["report", made.run, "--output", str(output), "--no-figures"]) == 0
    page = output.read_text()
    assert f'"noun":"{made.noun}"' in page
    if made.name == "text":
        assert "The dog eats an apple." in page or "The man" in page
    assert "image 0" not in page
    assert "image" not in capsys.readouterr().out


def test_plan_gives_memory_and_the_largest_batch(made, capsys):
    assert cli.main(["plan", made.recipe, "--memory-gb", "1"]) == 0
    assert "GiB" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["speech"], ["text", "--method.hard-negatives"]])
def test_plan_assumes_the_shapes_of_data_that_are_absent(words, capsys):
    assert cli.main(["plan", *words, "--memory-gb", "16", "--no-compile"]) == 0
    shown = capsys.readouterr().out
    assert "does not exist: assumed to be " in shown
    assert "GiB" in shown


def test_embed_writes_what_the_loaded_encoder_computes(made, tmp_path):
    words = ["--data.source", made.other, "--output", str(tmp_path / "f.npz")]
    assert cli.main(["embed", made.run, *words]) == 0
    encoder = cssl_jax.load_encoder(made.run)
    with np.load(tmp_path / "f.npz") as content:
        np.testing.assert_allclose(content["features"], encoder.embed(made.other), atol=1e-6)
        assert len(content["labels"]) == 30


def test_the_recipes_own_step_on_two_devices_is_that_of_one(made, tmp_path):
    config = recipes.load(modality_runs.RECIPES[made.name])
    config = config.replace({"data.source": made.source, "train.batch_size": 16})
    config, shown = examples_of(reduced(recipes.canonical(config), 2)[0], tmp_path / "data")
    assert f"training examples of {made.source}" in shown
    source = modality_entry(made.name).open(config.data.source, config.data)
    one, two = (
        Trial(config, source, jax.devices()[:devices], backend).run(1)
        for devices, backend in ((1, "shard_map"), (2, "pmap"))
    )
    assert check_outcome(Row("float32", 2, 1, "pmap", None, ""), two, one).problem == ""


# The whole command compiles ten steps, so that it runs on one recipe: the one with dropout. The
# tests of each modality compare float64 on several devices, and two processes with one.
@pytest.mark.parametrize("made", ["text"], indirect=True)
def test_a_recipes_own_step_passes_the_self_check(made, capsys):
    words = ["--data.source", made.source, "--devices", "2", "--steps", "3"]
    words += ["--train.batch-size", "16"]
    assert cli.main(["selfcheck", modality_runs.RECIPES[made.name], *words]) == 0
    shown = capsys.readouterr().out
    assert f"training examples of {made.source}" in shown
    assert "PASSED" in shown
    assert " 2  shard_map" in shown  # two processes
