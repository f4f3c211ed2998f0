"""docs/extending.md: code of every kind from a user's file, and who may run it."""

import json
import pathlib
import re
import runpy

import numpy as np
import optax
import pytest

import cssl_jax
from cssl_jax.cli import main as cli
from cssl_jax.recipes import read_json
from cssl_jax.registries import trusted_code

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "extending.md"
FILE = re.compile(r"^```python title=(\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^cssl-jax (pretrain .*)$", re.MULTILINE)
SMALL = ["--train.epochs", "1", "--runtime.devices", "2", "--model.width", "0.25"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with the page's files, in which each of its commands has run."""
    folder = tmp_path_factory.mktemp("extending")
    text = PAGE.read_text()
    for name, content in FILE.findall(text):
        (folder / name).write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runpy.run_path("my_modality.py", run_name="__main__")  # writes its data
        commands = COMMAND.findall(text)
        assert len(commands) == 4
        for command in commands:
            assert cli.main([*command.split(), *SMALL]) == 0
    return folder


FIELDS = {
    "my_encoder": ("model", "encoder", "ENCODER"),
    "my_method": ("method", "name", "METHOD"),
    "my_optimizer": ("optimizer", "name", "OPTIMIZER"),
    "my_modality": ("data", "modality", "MODALITY"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_run_with_code_of_ones_own_is_trained_and_evaluated(runs, name):
    results = json.loads((runs / "runs" / name / "results.json").read_text())
    assert results["linear"]["top1"] > 0.3
    config = json.loads((runs / "runs" / name / "config.json").read_text())
    section, field, entry = FIELDS[name]
    assert config[section][field] == f"{runs}/{name}.py:{entry}"


@pytest.mark.parametrize("name", ["my_encoder", "my_method", "my_modality"])
def test_a_run_folder_runs_no_code_unless_it_is_trusted(runs, name, capsys):
    run = runs / "runs" / name
    with pytest.raises(cssl_jax.UserError, match=rf"{name}\.py:.* give --trust-code"):
        cssl_jax.load_encoder(run)
    assert cli.main(["evaluate", str(run), "--protocol", "knn"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run), "--protocol", "knn", "--trust-code"]) == 0
    with cssl_jax.trusting_code():
        assert cssl_jax.load_encoder(run).step > 0
    assert not trusted_code()


def test_the_page_trains_on_examples_of_its_own_kind(runs):
    assert "```bash\npython my_modality.py\n" in PAGE.read_text()
    with np.load(runs / "series.npz") as content, cssl_jax.trusting_code():
        encoder = cssl_jax.load_encoder(runs / "runs" / "my_modality")
        examples = {name: content[name] for name in ("values", "length")}
    features = encoder(examples)
    assert features.shape == (400, 32)
    assert set(encoder.modality.baselines) == {"mean"}
    results = json.loads((runs / "runs" / "my_modality" / "results.json").read_text())
    assert results["linear"]["top1"] > results["mean"]["linear"]["top1"]


def test_a_run_with_an_optimizer_of_ones_own_is_read_without_its_code_and_resumed_with_it(
    runs, monkeypatch, capsys
):
    run = runs / "runs" / "my_optimizer"
    with pytest.raises(cssl_jax.UserError, match=r"my_optimizer\.py:.* give --trust-code"):
        cssl_jax.pretrain(read_json(run / "config.json"), run)
    assert cssl_jax.load_encoder(run).step > 0  # an encoder needs no optimizer
    monkeypatch.chdir(runs)
    words = COMMAND.findall(PAGE.read_text())[2].split()
    path = runs / "my_optimizer.py"
    before = path.read_text()
    path.write_text(before + "\n# changed\n")
    try:
        assert cli.main([*words, *SMALL]) == 2
    finally:
        path.write_text(before)
    said = capsys.readouterr().err
    assert "the file of optimizer.name has changed since the run began" in said


def test_the_page_runs_a_hook(runs, monkeypatch, capfd):
    assert "```bash\npython my_hook.py\n```" in PAGE.read_text()
    monkeypatch.chdir(runs)
    runpy.run_path("my_hook.py", run_name="__main__")
    saves = re.findall(
        r"step (\d+): the norm of the projection head is (\S+)", capfd.readouterr().err
    )
    assert int(saves[-1][0]) == cssl_jax.load_encoder("runs/my_hook").step
    norm = optax.tree.norm(cssl_jax.load_encoder("runs/my_hook").model["params"]["projector"])
    assert float(saves[-1][1]) == pytest.approx(float(norm), abs=5e-4)  # three digits are printed


def test_a_recipe_in_json_runs_no_code_unless_it_is_trusted(runs, tmp_path, capsys):
    recipe = runs / "runs" / "my_method" / "config.json"
    copy = tmp_path / "recipe.json"
    copy.write_text(recipe.read_text())
    assert cli.main(["pretrain", str(copy), "--workdir", str(tmp_path / "run")]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_resumes_with_the_same_code_only(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    words = ["pretrain", "debug", "--model.encoder", "my_encoder.py:ENCODER", *SMALL]
    words += ["--workdir", "runs/my_encoder"]
    assert cli.main(words) == 0  # finished: shows its results
    path = runs / "my_encoder.py"
    before = path.read_text()
    path.write_text(before + "\n# changed\n")
    try:
        assert cli.main(words) == 2
    finally:
        path.write_text(before)
    assert "the file of model.encoder has changed since the run began" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "ENTRY is missing; define ENTRY = EncoderEntry"),
        ("ENTRY = 3", "ENTRY is int; define"),
        ("raise ValueError('no luck')", "ValueError: no luck"),
    ],
)
def test_a_file_without_an_entry_is_answered(tmp_path, capsys, content, message):
    (tmp_path / "own.py").write_text(content)
    name = f"{tmp_path}/own.py:ENTRY"
    words = ["pretrain", "debug", "--model.encoder", name, "--workdir", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_missing_is_named(tmp_path, capsys):
    words = ["--model.encoder", "none.py:ENTRY", "--workdir", str(tmp_path / "run")]
    assert cli.main(["pretrain", "debug", *words]) == 2
    assert "none.py does not exist" in capsys.readouterr().err
