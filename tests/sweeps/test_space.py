"""Files of search spaces: their content, and one clear error before training for invalid ones."""

import pathlib

import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.errors import UserError
from cssl_jax.sweeps.space import Space
from helpers import tiny

optuna = pytest.importorskip("optuna")
EXAMPLE = pathlib.Path(__file__).parents[2] / "docs" / "digits_space.py"
LEARNING_RATE = '"optimizer.learning_rate": trial.suggest_float("lr", 1e-3, 1.0, log=True)'


def write(path, body):
    path.write_text(f'"""A space."""\n\n\ndef space(trial):\n    return {{{body}}}\n')
    return path


def test_the_example_in_the_docs_sets_its_fields(tmp_path):
    base = recipes.load("digits")
    space = Space(EXAMPLE, base)
    space.check(seed=0)
    assert {"optimizer.learning_rate", "augment.shear"} <= set(space.fields)
    fixed = {
        "affine_strength": 0.5,
        "learning_rate": 0.01,
        "weight_decay": 1e-4,
        "temperature": 0.1,
        "batch_size": 64,
        "encoder": "resnet10",
    }
    config = space.config(optuna.trial.FixedTrial(fixed))
    differing = {name: new for name, (_, new) in recipes.differing_fields(base, config).items()}
    assert differing == {
        "optimizer.learning_rate": 0.01,
        "method.temperature": 0.1,
        "train.batch_size": 64,
        "model.encoder": "resnet10",
        "augment.rotation": 7.5,
        "augment.translation": 0.075,
        "augment.shear": 7.5,
    }


@pytest.mark.parametrize(("body", "message"), [
    ('"optimizer.learning_rat": trial.suggest_float("lr", 0.1, 1.0)',
     "did you mean optimizer.learning_rate?"),
    ('"learning_rate": trial.suggest_float("lr", 0.1, 1.0)', "mean optimizer.learning_rate?"),
    ('"augment": {"rotation": trial.suggest_float("r", 0.1, 1.0)}', "no config field is called"),
    ('"train.batch_size": trial.suggest_float("n", 16.0, 64.0)', "give a value of type int"),
    ('"model.encoder": trial.suggest_categorical("e", ["resnet18", "resnet19"])',
     "no encoder is called 'resnet19'"),
    ('"augment.hue": trial.suggest_float("hue", 0.0, 0.9)', "turns the colour circle"),
    ('"method.temperature": trial.suggest_float("tau", 0.0, 1.0)', "give a positive number"),
    ('"train.seed": trial.suggest_int("seed", 0, 9)', "determines how trials are evaluated"),
    ('"evaluate.knn_k": trial.suggest_int("k", 1, 9)', "give it as an option of the sweep"),
    ('"data.source": trial.suggest_categorical("s", ["a", "b"])', "--data.source VALUE"),
    ('"optimizer.learning_rate": 0.1', "suggests nothing"),
    ("", "return a dict of config fields"),
    ('"optimizer.learning_rate": trial.suggest_flot("lr", 0.1, 1.0)', "line 5: AttributeError"),
    ('"optimizer.learning_rate": trial.suggest_float("lr", 1.0, 0.1)', "line 5: ValueError"),
])  # fmt: skip
def test_a_bad_space_is_one_error_before_any_training(tmp_path, body, message):
    space = Space(write(tmp_path / "space.py", body), tiny.config())
    with pytest.raises(UserError) as error:
        space.check(seed=0)
    assert message in str(error.value)
    assert "space.py" in str(error.value)


def test_the_error_names_the_drawn_values(tmp_path):
    body = '"method.temperature": trial.suggest_float("tau", 0.0, 1.0)'
    with pytest.raises(UserError, match=r"method\.temperature is 0\.0; .*\(drawn: tau = 0\.0\)"):
        Space(write(tmp_path / "space.py", body), tiny.config()).check(seed=0)


@pytest.mark.parametrize(("text", "message"), [
    ("def spaces(trial): ...", "there is no function space(trial)"),
    ("import nonsense_of_nobody", "line 1: ModuleNotFoundError"),
    ("def space(trial)\n", "line 1: SyntaxError"),
])  # fmt: skip
def test_a_file_without_a_space_is_refused(tmp_path, text, message):
    path = tmp_path / "space.py"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        Space(path, tiny.config())
    assert message in str(error.value)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--space", "none.py"], "--space none.py is no Python file"),
    (["--space", "space.txt"], "--space space.txt is no Python file"),
    (["--space", "space.py", "--trials", "0"], "--trials is 0; give 1 or more"),
    (["--space", "space.py", "--workdir", "full"], "holds no sweep, but letter.txt"),
    (["--space", "space.py", "--workdir", "space.py"], "is a file; give --workdir a folder"),
    (["--space", "space.py", "--data.source", "no.npz"], "no.npz' does not exist"),
    (["--space", "space.py", "--storage", "nonsense://u:secret@h/d"], "--storage cannot be opened"),
])  # fmt: skip
def test_wrong_options_print_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "space.py", LEARNING_RATE)
    (tmp_path / "space.txt").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("")
    assert cli.main(["sweep", "debug", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cssl-jax sweep: ")
    assert message in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("**/trials"))


def test_without_optuna_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else find(name)
    )
    assert cli.main(["sweep", "debug", "--space", str(write(tmp_path / "s.py", "")), "--workdir",
                     str(tmp_path / "sweep")]) == 2  # fmt: skip
    assert "pip install 'cssl-jax[sweep]'" in capsys.readouterr().err


def test_augmentation_is_no_parameter_of_a_sweep_ranked_by_view_retrieval(tmp_path):
    import numpy as np

    from cssl_jax.sweeps.sweep import sweep

    np.savez(tmp_path / "bare.npz", images=tiny.image_source(60).images)
    config = tiny.replace(tiny.config(), "data", source=str(tmp_path / "bare.npz"))
    body = '"augment.jitter_strength": trial.suggest_float("strength", 0.0, 1.0)'
    with pytest.raises(UserError, match="which easier views raise by themselves"):
        sweep(config, tmp_path / "sweep", write(tmp_path / "space.py", body))
    assert not (tmp_path / "sweep").exists()
