"""docs/extending.md: its files and commands run, and code in a file runs where it may."""

import io
import json
import pathlib
import re
import runpy
import zipfile

import jax
import numpy as np
import optax
import PIL.Image
import pytest

import cssl_jax
from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.data.formats.registry import FORMATS
from cssl_jax.data.sources.open import load_source
from cssl_jax.losses.registry import loss_entry
from cssl_jax.methods.registry import METHODS, method_entry
from cssl_jax.models.registry import ENCODERS, encoder_entry
from cssl_jax.optim.registry import OPTIMIZERS, optimizer_entry
from cssl_jax.registries import trusted_code, trusting_code
from helpers import tiny

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "extending.md"
FILE = re.compile(r"^```python title=(\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^cssl-jax (pretrain .*)$", re.MULTILINE)
# Words of the page's training commands, by the name of the run.
COMMANDS = {line.rpartition("/")[2]: line.split() for line in COMMAND.findall(PAGE.read_text())}
SMALL = ["--train.epochs", "1", "--runtime.devices", "2", "--model.width", "0.25"]
FIELDS = {
    "model.encoder": "my_encoder.py:ENCODER",
    "method.name": "my_method.py:METHOD",
    "optimizer.name": "my_optimizer.py:OPTIMIZER",
    "data.source": "my_format.py:FORMAT:images.zip",
}
NEEDED = ("model.encoder", "method.name")  # by an encoder, which has no optimizer and no images


def write_files(folder):
    """Writes the page's files and images.zip, 60 images of three classes."""
    for name, content in FILE.findall(PAGE.read_text()):
        (folder / name).write_text(content)
    source = tiny.image_source(60)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, label in enumerate(source.labels):
            content = io.BytesIO()
            PIL.Image.fromarray(source.images[number, ..., 0]).save(content, "PNG")
            archive.writestr(f"{label}/{number}.png", content.getvalue())


def options_of(words):
    """The options of the words of a command, without the run's directory."""
    return words[2 : words.index("--workdir")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the page's files."""
    folder = tmp_path_factory.mktemp("extending")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def words(folder):
    """A command that trains with the options of four of the page's commands at once."""
    recipe = tiny.write_recipe(folder, epochs=1)
    options = [
        option
        for name in ("my_encoder", "my_method", "my_optimizer", "my_format")
        for option in options_of(COMMANDS[name])
    ]
    return ["pretrain", str(recipe), *options, "--data.channels", "1", "--workdir", "runs/mine"]


@pytest.fixture(scope="module")
def run(folder, words):
    """The run of ``words``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(words) == 0
    return folder / "runs" / "mine"


@pytest.fixture
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)


def test_every_section_has_a_command_and_the_commands_name_the_files():
    files = dict(FILE.findall(PAGE.read_text()))
    started = {f"{name}.py" for name in COMMANDS} | {"my_hook.py", "my_program.py"}
    assert set(files) == started
    for name in FIELDS.values():
        assert any(name in words for words in COMMANDS.values()), name
    for name in ("my_hook", "my_program"):
        assert f"```bash\npython {name}.py\n```" in PAGE.read_text()


def test_a_run_records_the_absolute_names_of_the_code_that_it_used(folder, run):
    assert json.loads((run / "results.json").read_text())["linear"]["top1"] >= 0
    config = json.loads((run / "config.json").read_text())
    for name, value in FIELDS.items():
        section, _, field = name.partition(".")
        expected = f"{folder}/{value}".replace(":images", f":{folder}/images")
        assert config[section][field] == expected


def test_a_run_folder_runs_no_code_unless_it_is_trusted(run, capsys):
    with pytest.raises(cssl_jax.UserError, match=r"my_method\.py:.* give --trust-code"):
        cssl_jax.load_encoder(run)
    assert cli.main(["evaluate", str(run), "--protocol", "knn"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert cli.main(["evaluate", str(run), "--protocol", "knn", "--trust-code"]) == 0
    with trusting_code(*(f"{run.parents[1]}/{FIELDS[name]}" for name in NEEDED)):
        assert cssl_jax.load_encoder(run).step > 0
    assert not trusted_code()


def test_a_recipe_in_json_runs_no_code_unless_it_is_trusted(run, tmp_path, capsys):
    copy = tmp_path / "recipe.json"
    copy.write_text((run / "config.json").read_text())
    assert cli.main(["pretrain", str(copy), "--workdir", str(tmp_path / "run")]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_loss_in_a_file_is_that_of_the_global_batch(folder):
    values = {"method.loss": f"{folder}/my_loss.py:LOSS", "method.temperature": 0.5}
    with pytest.raises(cssl_jax.UserError, match=r"my_loss\.py:.* give --trust-code"):
        recipes.override(tiny.config(), values)
    with trusting_code(values["method.loss"]):
        recipes.override(tiny.config(), values)
        loss = loss_entry(values["method.loss"]).loss
    z1, z2 = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)
    whole = loss(z1, z2, temperature=0.5, axis_name=None, tile_size=None)
    split = jax.vmap(
        lambda a, b: loss(a, b, temperature=0.5, axis_name="data", tile_size=None),
        axis_name="data",
    )(z1.reshape(2, 4, 4), z2.reshape(2, 4, 4))
    assert float(split.mean()) == pytest.approx(float(whole), abs=1e-6)


def test_a_modality_in_a_file_is_not_read_unless_it_is_trusted(folder):
    content = {"data": {"modality": f"{folder}/my_modality.py:MODALITY"}}
    with pytest.raises(cssl_jax.UserError, match=r"my_modality\.py:.* give --trust-code"):
        recipes.from_dict(content)
    with trusting_code(content["data"]["modality"]):
        assert recipes.from_dict(content).augment.noise == 0.3


@pytest.mark.parametrize("field", FIELDS)
def test_code_of_one_field_is_refused_where_the_code_of_the_others_is_trusted(
    folder, run, field, tmp_path, capsys
):
    others = [f"{folder}/{name}" for name in set(FIELDS.values()) - {FIELDS[field]}]
    with trusting_code():
        config = recipes.read_json(run / "config.json")
    refused = FIELDS[field].partition(":")[0]
    with (
        trusting_code(*others),
        pytest.raises(cssl_jax.UserError, match=rf"{refused}:.* give --trust-code"),
    ):
        cssl_jax.pretrain(config, tmp_path / "run")


@pytest.mark.parametrize("field", FIELDS)
def test_a_run_resumes_with_the_same_code_only(folder, run, words, field, inside, capsys):
    if field == "model.encoder":
        assert cli.main(words) == 0  # finished: shows its results
    path = folder / FIELDS[field].partition(":")[0]
    before = path.read_text()
    path.write_text(before + "\n# changed\n")
    try:
        assert cli.main(words) == 2
    finally:
        path.write_text(before)
    message = capsys.readouterr().err
    assert f"the file of {field} has changed since the run began" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my_momentum", "my_augmentation"])
def test_a_method_computes_the_same_on_one_and_on_two_devices(folder, name):
    names = {"method.name": f"{folder}/{name}.py:METHOD"}
    names["model.encoder"] = f"{folder}/{FIELDS['model.encoder']}"
    with trusting_code():
        one, two = (
            tiny.Run(tiny.config().replace(names), devices).train(3)[0] for devices in (1, 2)
        )
    np.testing.assert_allclose(one, two, rtol=1e-4)  # sums in another order, enlarged by Adam
    assert len(set(one)) == 3


def test_the_page_runs_a_hook(folder, run, inside, monkeypatch, capfd):
    train = cssl_jax.pretrain
    with trusting_code():
        config = recipes.read_json(run / "config.json")  # its programs are compiled
        monkeypatch.setattr(
            cssl_jax, "pretrain", lambda _, workdir, hooks: train(config, workdir, hooks=hooks)
        )
        check_hook_run(capfd)


def check_hook_run(capfd):
    runpy.run_path("my_hook.py", run_name="__main__")
    saves = re.findall(
        r"step (\d+): the norm of the projection head is (\S+)", capfd.readouterr().err
    )
    assert int(saves[-1][0]) == cssl_jax.load_encoder("runs/my_hook").step
    norm = optax.tree.norm(cssl_jax.load_encoder("runs/my_hook").model["params"]["projector"])
    assert float(saves[-1][1]) == pytest.approx(float(norm), abs=5e-4)  # three digits are printed


@pytest.fixture
def registries():
    """Restores the registries at the end."""
    before = [(registry, dict(registry)) for registry in (ENCODERS, METHODS, OPTIMIZERS, FORMATS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def test_entries_from_python_are_found_by_the_names_of_a_config(inside, registries, monkeypatch):
    trained = []
    monkeypatch.setattr(cssl_jax, "pretrain", lambda config, workdir: trained.append(config))
    runpy.run_path("my_program.py", run_name="__main__")
    config = recipes.validate(trained[0])
    assert encoder_entry(config.model.encoder).build.__module__ == "my_encoder"
    assert method_entry(config.method.name).build.__module__ == "my_method"
    assert optimizer_entry(config.optimizer.name).build.__module__ == "my_optimizer"
    assert load_source(config.data.source).classes == ("0", "1", "2")


# The others train together in the fixture ``run``, or step on one and on two devices.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["my_modality", "my_loss", "my_momentum"])
def test_a_command_of_the_page_trains_a_run(name, tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    if name == "my_modality":
        assert "```bash\npython my_modality.py\n" in PAGE.read_text()
        runpy.run_path("my_modality.py", run_name="__main__")  # writes its data
    words = ["pretrain", "debug", *options_of(COMMANDS[name])]
    assert cli.main([*words, *SMALL, "--workdir", "run"]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["linear"]["top1"] > 0.3
    if name == "my_modality":
        with np.load("series.npz") as content, trusting_code():
            examples = {key: content[key] for key in ("values", "length")}
            assert cssl_jax.load_encoder("run")(examples).shape == (400, 32)
        assert results["linear"]["top1"] > results["mean"]["linear"]["top1"]


@pytest.mark.slow
def test_the_programs_of_the_page_train_runs(folder, inside, registries, capfd):
    check_hook_run(capfd)
    with pytest.MonkeyPatch.context() as patch:
        config = cssl_jax.load_recipe("debug").replace({"train.batch_size": 16})
        patch.setattr(cssl_jax, "load_recipe", lambda name: config)
        runpy.run_path("my_program.py", run_name="__main__")
    assert (folder / "runs" / "my_program" / "results.json").is_file()


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
