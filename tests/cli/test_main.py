"""Every command, as a person types it."""

import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from cssl_jax import config
from cssl_jax.cli import main as cli
from cssl_jax.cli.brief_help import ESSENTIAL, fit, shorten
from cssl_jax.config.images import ImageOptions
from helpers import tiny
from tests.helpers.marks import slow

QUICK = ["--model.encoder", "tiny", "--train.batch-size", "256", "--evaluate.batch-size", "512"]


def words(text):
    """Text without the boxes that help and errors are drawn in."""
    return " ".join(re.sub(r"[│─╭╮╰╯]", " ", text).split())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(run folder, what the command printed beside its results)."""
    folder, errors = tmp_path_factory.mktemp("cli") / "run", io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert cli.main(["pretrain", "debug", "--workdir", str(folder), *QUICK]) == 0
    return folder, errors.getvalue()


@pytest.fixture(scope="module")
def run(pretrained):
    return pretrained[0]


def test_pretrain_ends_with_a_table_and_the_path_of_its_results(run, capsys):
    # The same command again finds the run finished and shows its results.
    assert cli.main(["pretrain", "debug", "--workdir", str(run), *QUICK]) == 0
    out = capsys.readouterr().out
    for row in ("trained encoder", "untrained encoder", "raw pixels"):
        assert re.search(rf"^{row} +[\d.]+ % ", out, re.MULTILINE)
    assert out.rstrip().endswith(str(run / "results.json"))
    config = json.loads((run / "config.json").read_text())
    assert config["train"]["batch_size"] == 256
    assert config["data"]["source"] == "digits"


def test_progress_shows_loss_chance_level_images_per_second_and_time_left(pretrained):
    _, bar = pretrained
    assert re.search(r"loss \d\.\d+ \(chance 6\.236\)", bar)  # ln(511)
    assert re.search(r"\d+ examples/s, \d+% waiting for input", bar)
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", bar)


@pytest.mark.parametrize(
    "protocol",
    [
        slow([]),
        ["--protocol", "knn"],
        slow(["--protocol", "linear"]),
    ],
)
def test_evaluate_shows_the_same_metrics(run, capsys, protocol):
    assert cli.main(["evaluate", str(run), *protocol]) == 0
    out = capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    for name in protocol[1:] or ["knn", "linear"]:
        assert f"{100 * results[name]['top1']:.1f} %" in out
    if protocol == ["--protocol", "knn"]:
        assert "linear" not in out


def test_embed_writes_features_and_labels(run, tmp_path, capsys):
    source, output = tmp_path / "mine.npz", tmp_path / "features.npz"
    labelled = tiny.image_source(13)
    np.savez(source, images=labelled.images, labels=labelled.labels)
    arguments = ["--data.source", str(source), "--output", str(output)]
    assert cli.main(["embed", str(run), *arguments]) == 0
    assert "[13, 16]" in capsys.readouterr().out
    content = np.load(output)
    assert content["features"].shape == (13, 16)
    assert content["features"].dtype == np.float32
    np.testing.assert_array_equal(content["labels"], labelled.labels)


def test_views_draws_a_sheet_of_the_recipe_with_its_overrides(tmp_path, capsys):
    output = tmp_path / "views.png"
    words = ["--output", str(output), "--examples", "2", "--step", "3", "--data.size", "10"]
    assert cli.main(["views", "digits", *words, "--augment.blur", "1.0"]) == 0
    assert capsys.readouterr().out == f"{output}: 2 images and their views at step 3\n"
    with PIL.Image.open(output) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 3 * 224
        assert sheet.height > 2 * 224


def test_doctor_reports_devices_versions_memory_and_tensorflow(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for fact in ("jax ", "flax", "tensorflow ", "device 0: cpu", "GiB of memory", "ready to train"):
        assert fact in out


def test_doctor_says_how_to_fix_what_is_wrong():
    # A platform that is not there, in a process of its own: JAX has started in this one.
    result = subprocess.run(
        [sys.executable, "-m", "cssl_jax", "doctor"],
        env={**__import__("os").environ, "JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    problem = "problem: JAX_PLATFORMS='nonsense' requests nonsense, which cannot be started: "
    assert problem in result.stdout
    assert "Give one of the platforms cpu, cuda, rocm, tpu, or JAX_PLATFORMS=cpu" in result.stdout


def test_recipes_lists_names_and_first_lines(capsys):
    assert cli.main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^digits +SimCLR on the embedded digits", out, re.MULTILINE)
    assert re.search(r"^cifar10_resnet18 +SimCLR on CIFAR-10", out, re.MULTILINE)


def test_recipes_with_a_name_shows_that_recipe(capsys):
    assert cli.main(["recipes", "debug"]) == 0
    out = capsys.readouterr().out
    assert "Command: cssl-jax pretrain debug" in out
    assert re.search(r"^data.size +8 +0$", out, re.MULTILINE)
    assert cli.main(["recipes", "debgu"]) == 2
    assert "did you mean 'debug'?" in capsys.readouterr().err


# contracts/test_wheel.py runs a recipe by its name.
def test_demo_runs_a_recipe_into_a_folder(tmp_path, capsys):
    recipe = str(tiny.write_recipe(tmp_path))
    assert cli.main(["demo", "--recipe", recipe, "--workdir", str(tmp_path / "demo")]) == 0
    assert "raw pixels" in capsys.readouterr().out
    assert (tmp_path / "demo" / "results.json").is_file()


def test_every_field_is_an_option_with_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["pretrain", "digits", "--help-all"])
    assert exit_.value.code == 0
    text = words(capsys.readouterr().out)
    for option, help_ in [
        ("--train.batch-size", "Global batch size N in examples, over all devices. (default: 128)"),
        ("--model.encoder", "Encoder of images: resnet10, 14, 18"),
        ("--augment.crop-area", "Minimum and maximum area of the crop"),
        ("--optimizer.weight-decay", "Factor of the weight decay."),
        ("--data.size", "Side of a view in pixels"),
        ("--runtime.backend", "How the step is spread over devices"),
    ]:
        assert option in text
        assert help_ in text


def options_in(text):
    return re.findall(r"^(?:│ |  )(--[a-z][\w.-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("command", ["pretrain digits", "finetune", "adapt", "plan digits"])
def test_help_shows_the_options_that_most_runs_need_and_help_all_the_rest(command, capsys):
    shown = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as exit_:
            cli.main([*command.split(), option])
        assert exit_.value.code == 0
        shown[option] = capsys.readouterr().out
    brief, full = (options_in(text) for text in shown.values())
    assert len(brief) <= 60
    assert set(brief) < set(full)
    assert next(name for name in brief if name.startswith("--data.")) == "--data.source"
    hidden = len(full) - len(brief)
    assert f"{hidden} more options are listed by --help-all" in shown["--help"]
    adapts = command == "adapt"
    assert ("--adapt.target" in brief) == adapts
    assert ("--classifier.stages" in brief) == (adapts or command == "finetune")


def test_the_essential_options_exist(capsys):
    for command in (["adapt"], ["pretrain", "digits"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help-all"])
    assert {f"--{name}" for name in ESSENTIAL} <= set(options_in(capsys.readouterr().out))


def test_the_help_of_another_modality_shows_its_own_options(capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "digits", "--data.modality", "series", "--help"])
    shown = options_in(capsys.readouterr().out)
    assert {"--data.length", "--augment.warp", "--augment.mask-length"} <= set(shown)
    assert "--augment.crop-area" not in shown


def test_help_is_plain_where_the_output_has_no_boxes():
    text = "╭─ data options ─╮\n│ --data.source  │\n│ --data.mean    │\n╰────────────────╯\n"
    assert fit(shorten(text), 80, "ascii") == (
        "+- data options -+\n| --data.source  |\n+----------------+\n\n"
        "1 more options are listed by --help-all\n"
    )


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_no_line_of_the_help_is_wider_than_the_terminal(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            cli.main([*command.split(), option])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= columns


def test_help_calls_what_is_named_first_by_its_word(capsys):
    for command, word in [
        ("pretrain", "RECIPE"),
        ("evaluate", "RUN"),
        ("report", "RUN [RUN ...]"),
        ("data check", "SOURCE"),
        ("recipes diff", "A B"),
    ]:
        with pytest.raises(SystemExit):
            cli.main([*command.split(), "--help"])
        usage = words(capsys.readouterr().out).split("╭")[0]
        assert re.match(rf"usage: cssl-jax {command} .*{re.escape(word)}", usage), usage


def test_no_help_starts_a_line_within_a_sentence_or_names_a_python_class():
    described = {command.options for command in cli.COMMANDS.values()}
    described |= {config.Config, *map(type, vars(config.Config()).values()), ImageOptions}
    for options in described:
        text = inspect.getdoc(options)
        assert not re.search(r"``|\w+Config\b|ImageOptions", text), options
        # tyro keeps a line break before whatever is no letter.
        starts = re.findall(r"^ {8}(.*)$", text, re.MULTILINE)
        assert all(start[0].isalpha() for start in starts), options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--train.epochs", "1", "debug"], "name the recipe first"),
        (["pretrian"], "no command 'pretrian'; did you mean 'pretrain'?"),
        (["pretrain", "digts", "--workdir", "x"], "did you mean 'digits'?"),
        (["pretrain", "debug", "--train.batch-size", "1"], "give 2+"),
        (["pretrain", "debug", "--train.batch-size", "2000"], "does not fit the 1438 training"),
        (["pretrain", "debug", "--train.batch-size", "30"], "does not divide over 8 devices"),
        (["pretrain", "debug", "--data.source", "no.npz"], "no.npz' does not exist"),
        (["pretrain", "debug", "--model.encoder", "resnet19"], "did you mean 'resnet1"),
        (["pretrain", "debug", "--runtime.devices", "99"], "but there are 8"),
        (["pretrain", "debug", "--train.init", "nowhere"], "holds no checkpoint"),
        (["pretrain", "debug", "--init", "nowhere"], "holds no checkpoint"),
        (["data", "check", "nowhere"], "'nowhere' does not exist"),
        (["data", "check", "nowhere", "--channels", "2"], "data.channels is 2; give 1, 3 or 4"),
        (["data", "split", "nowhere", "--output", "x", "--min-side", "0"], "a positive number"),
        (["views", "--output", "x.png"], "name the recipe first: cssl-jax views RECIPE --output"),
        (["views", "digts", "--output", "x.png"], "did you mean 'digits'?"),
        (["views", "digits", "--output", "x.jpg"], "--output x.jpg must end in .png"),
        (["views", "digits", "--output", "no/x.png"], "the folder does not exist; create it first"),
        (["views", "digits", "--output", "x.png", "--examples", "65"], "a sheet shows 1 to 64"),
        (["views", "digits", "--output", "x.png", "--step", "275"], "no step 275 in this run"),
        (["views", "digits", "--output", "x.png", "--data.source", "no.npz"], "does not exist"),
        (["pretrain", ".", "--workdir", "x"], "the images there: folder --data.source .; there"),
        (["evaluate", "nowhere"], "nowhere is no run folder"),
        (["evaluate", "--protocol", "knn", "x"], "name the run first: cssl-jax evaluate RUN [opt"),
        (["adapt", "--target", "x"], "name the run first: cssl-jax adapt RUN --target SOURCE"),
        (["embed", "nowhere", "--data.source", "digits", "--output", "f.npz"], "no run folder"),
        (["embed", "nowhere", "--data.source", "digits", "--output", "f.csv"], "end in .npz"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "pretrain" and "--workdir" not in arguments:
        arguments = [*arguments, "--workdir", "run"]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"cssl-jax {' '.join(arguments[: 2 if arguments[0] == 'data' else 1])}: "
    )
    assert message in error
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    if arguments[0] == "pretrain":
        assert not (tmp_path / "run").exists()  # nothing in the way of the corrected command


def test_a_word_that_begins_commands_shows_them(capsys):
    assert cli.main(["data"]) == 2
    assert cli.main(["data", "--help"]) == 0
    alone, asked = (text for text in capsys.readouterr().out.split("usage: ") if text)
    assert alone == asked
    assert "data check" in asked
    assert "pretrain" not in asked
    assert cli.main(["data", "splt", "images"]) == 2
    assert "did you mean 'data split'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        cli.main(["help", "recipes", "diff"])
    assert exit_.value.code == 0
    assert "usage: cssl-jax recipes diff" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["1-pretrained", "trials/0000"])
def test_a_folder_of_runs_is_answered_with_one_of_them(tmp_path, capsys, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "config.json").touch()
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    message = f"name one of the runs in it, such as {tmp_path / place}\n"
    assert capsys.readouterr().err.endswith(message)


@pytest.mark.slow
def test_data_check_writes_names_that_are_in_no_encoding(tmp_path):
    name = b"caf\xe9.jpg"  # Latin-1, as old archives have it
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write(b"no image")
    rejected = tmp_path / "rejected.csv"
    command = [sys.executable, "-m", "cssl_jax", "data", "check", tmp_path, "--rejected", rejected]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "CSSL_JAX_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=strict, capture_output=True, check=True)
    assert rb"caf\udce9.jpg" in done.stdout
    assert rejected.read_bytes().splitlines()[1].startswith(name + b",unreadable,")


def test_data_says_of_a_set_that_is_broken_what_a_run_would(tmp_path, capsys):
    images, lists = tmp_path / "images", tmp_path / "lists"
    images.mkdir()
    for name in ("1.jpg", "2.jpg"):
        (images / name).write_bytes(b"no image")
    assert cli.main(["data", "check", str(images)]) == 0
    out = capsys.readouterr().out
    assert "a run would stop: " in out
    assert "none of 2 images can be used (2 unreadable)" in out
    assert cli.main(["data", "split", str(images), "--output", str(lists)]) == 2
    assert "none of 2 images can be used (2 unreadable)" in capsys.readouterr().err
    assert not lists.exists()


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path, capsys):
    images, target = tmp_path / "images", tmp_path / "target"
    for folder in (images, target):
        folder.mkdir()
    (images / "1.jpg").write_bytes(b"no image")
    assert cli.main(["data", "check", str(images), "--json", str(target)]) == 2
    assert (
        f"--json {target} is a folder; name a file, such as {target}/out" in capsys.readouterr().err
    )
    assert {path.name for path in tmp_path.iterdir()} == {"images", "target"}


def test_without_a_command_the_commands_are_shown(capsys):
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    for command in ("pretrain", "evaluate", "embed", "doctor", "demo", "recipes"):
        assert re.search(rf"^  {command} +\w", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80
    assert cli.main(["--version"]) == 0
    assert re.match(r"cssl-jax \d+\.\d+", capsys.readouterr().out)
