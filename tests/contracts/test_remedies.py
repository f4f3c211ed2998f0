"""Every option that a message names is one that the command takes."""

import ast
import dataclasses
import pathlib
import re
import warnings

import pytest
import tyro

import cssl_jax
from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import FOLDER
from cssl_jax.cli import main as cli
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.methods.registry import METHODS
from cssl_jax.modalities.registry import MODALITIES
from cssl_jax.recipes import compare
from cssl_jax.train import run_dir
from helpers import tiny

PACKAGE = pathlib.Path(cssl_jax.__file__).parent
OPTION = re.compile(r"(?<![\w-])--([a-z][\w.-]*\w)")
# Options that every command takes beside its sections, and those of XLA, styles and the launcher.
FOREIGN = {
    "xla_force_host_platform_device_count",
    "trust-code",
    "help-all",
    "cols",
    "x",
    "y",
    "help",
    "version",
}
PROCESSES = {"coordinator", "num-processes", "process-id", "timeout"}
# Packages whose messages every command shows that reads images.
SPLITS = ("layout", "classes")
READERS = ("pretrain", "evaluate", "embed", "finetune", "adapt", "sweep", "views", "bench-input")


def options_of(command):
    """Names of all options of a command, as they are typed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way to ask tyro
        parser = tyro.extras.get_parser(cli.COMMANDS[command].options)
    names = {name for action in parser._actions for name in action.option_strings}
    return {name.removeprefix("--") for name in names}


def messages(path):
    """(line, text) of every string of a module that is no docstring; gaps of f-strings are {}."""
    tree = ast.parse(path.read_text())
    inner = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
        for part in node.values
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
                ),
            )
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
        ):
            yield node.lineno, node.value


def named(path):
    for line, text in messages(path):
        for match in OPTION.finditer(text):
            if not text[match.end() :].startswith(("{}", "-{}", ".{}")):  # the rest is computed
                yield line, match[1]


@pytest.fixture(scope="module")
def known():
    return {command: options_of(command) for command in cli.COMMANDS}


def test_every_option_in_a_message_exists(known):
    everywhere = set().union(*known.values()) | FOREIGN | PROCESSES
    for name in METHODS:  # each has options of its own
        fields = dataclasses.fields(recipes.with_method(Config(), name).method)
        everywhere |= {f"method.{field.name.replace('_', '-')}" for field in fields}
    for name in MODALITIES:
        fields = dataclasses.fields(recipes.with_modality(Config(), name).data)
        everywhere |= {f"data.{field.name.replace('_', '-')}" for field in fields}
    count = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, option in named(path):
            assert option in everywhere, f"{path}:{line} names --{option}"
            count += 1
    assert count > 80


def test_what_a_reader_of_images_advises_every_command_that_reads_them_takes(known):
    folders = ("cleaning", "formats", "sources")
    paths = [
        path for folder in folders for path in sorted((PACKAGE / "data" / folder).glob("*.py"))
    ]
    # These speak of splits and their classes, which embed has none of, or of another modality.
    others = re.compile("audio|text")
    paths = [path for path in paths if path.stem not in SPLITS and not others.search(path.stem)]
    found = [(path, *place) for path in paths for place in named(path)]
    assert len(found) > 10
    for path, line, option in found:
        for command in READERS:
            assert option in known[command], f"{path}:{line}: {command} has no --{option}"


def test_commands_in_messages_exist():
    pattern = re.compile(r"cssl-jax ((?:[a-z]+[ -]?)+)")
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in messages(path):
            for match in pattern.finditer(text):
                words = match[1].split()
                there = {" ".join(words[:2]), words[0]} & set(cli.COMMANDS)
                assert there or words[0] in ("data", "help"), f"{path}:{line}: {match[0]}"


@pytest.fixture
def begun(tmp_path):
    """The folder of a run with a checkpoint, as far as ``folder.check`` looks."""
    config = recipes.canonical(tiny.config())
    (tmp_path / FOLDER / "10").mkdir(parents=True)
    (tmp_path / "config.json").write_text(recipes.to_json(config))
    return tmp_path, config


@pytest.mark.parametrize("changes", [
    {"data": {"engine": "threads"}},  # a file that TensorFlow cannot decode
    {"data": {"max_rejected": 0.5}},  # too much is omitted
    {"data": {"max_pixels": 10**9}},  # an image or mask that is too large
    {"data": {"source": "/elsewhere/digits.npz"}},  # data that were moved
    {"data": {"labels": "/elsewhere/labels.csv"}},
    {"data": {"resident": True}},  # input that limits
    {"train": {"on_nonfinite": "skip"}},  # a loss that is not finite
    {"train": {"on_nonfinite": "rollback", "nonfinite_limit": 50}},
    {"train": {"log_every": 100, "keep": 5, "tensorboard": False}},
    {"model": {"remat": True}},  # memory that ran out
    {"evaluate": {"batch_size": 8}},
    {"runtime": {"devices": 1}},
], ids=str)  # fmt: skip
def test_what_a_message_advises_for_the_same_folder_is_accepted_on_resume(begun, changes):
    run, config = begun
    for section, values in changes.items():
        config = tiny.replace(config, section, **values)
    run_dir.check(run, config)


@pytest.mark.parametrize("changes", [
    {"train": {"batch_size": 32}}, {"train": {"micro_batch": 8}}, {"data": {"augment_on": "host"}},
    {"optimizer": {"learning_rate": 0.01}}, {"method": {"temperature": 0.7}},
], ids=str)  # fmt: skip
def test_what_changes_results_needs_another_folder(begun, changes):
    run, config = begun
    for section, values in changes.items():
        config = tiny.replace(config, section, **values)
    with pytest.raises(UserError, match="use another --workdir, or undo"):
        run_dir.check(run, config)


def test_the_weights_that_a_run_began_with_may_have_moved_but_not_be_others(begun):
    run, config = begun
    config = tiny.replace(config, "train", init="/old/place/first")
    (run / "config.json").write_text(recipes.to_json(config))
    run_dir.check(run, tiny.replace(config, "train", init="/new/first"))
    for other in ("/new/second", ""):
        with pytest.raises(UserError, match=r"train\.init"):
            run_dir.check(run, tiny.replace(config, "train", init=other))


def test_no_field_is_declared_free_that_does_not_exist():
    fields = dataclasses.asdict(recipes.load("debug"))
    for name in (*compare._NO_RESULT, *compare._SAME_RESULT, *compare._FOUND_BY_FINGERPRINT):
        section, _, field = name.partition(".")
        assert section in fields
        assert not field or field in fields[section]
    assert dataclasses.is_dataclass(tiny.config())
