"""Out-of-memory errors: the message, and the options that it names."""

import importlib
import re

import jax.numpy as jnp
import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.errors import RunError
from cssl_jax.planning import exhaustion
from cssl_jax.planning.plan import GIB
from cssl_jax.planning.planner import shapes_of
from cssl_jax.planning.shapes import data_shapes
from cssl_jax.train import run_dir
from cssl_jax.train.pretrain import pretrain
from helpers import tiny
from helpers.stops import AfterStep
from tests.helpers.marks import fast

WAY = re.compile(r"^  (--[\w.-]+)(?: (\d+))?: ([\d.]+) GiB(.*)$", re.MULTILINE)


def exhaust(*_, **__):
    """Asks JAX for more memory than there is."""
    jnp.zeros(2**46, jnp.uint8).block_until_ready()


def changed(config, option, number):
    section, field = option.removeprefix("--").replace("-", "_").split(".")
    return tiny.replace(config, section, **{field: int(number) if number else True})


def small():
    """A recipe with an encoder that the planner's formulas know, traced in half a second."""
    config = tiny.replace(recipes.load("debug"), "model", encoder="resnet10", width=0.0625)
    off = dict.fromkeys(("affine", "jitter"), (0.0,))
    off |= {"rotation": 0.0, "translation": 0.0, "shear": 0.0, "scaling": (1.0, 1.0)}
    config = tiny.replace(config, "augment", **off)
    config = tiny.replace(config, "runtime", devices=2)
    return tiny.replace(config, "train", batch_size=64)


@pytest.mark.slow
def test_the_message_has_the_sizes_and_three_options_with_the_memory_by_plan(tmp_path):
    config = tiny.replace(small(), "train", epochs=1)
    with pytest.raises(RunError, match="RESOURCE_EXHAUSTED: Out of memory") as raised:
        pretrain(config, tmp_path / "run", hooks=[AfterStep(1, exhaust)])
    message = str(raised.value)
    assert message.startswith("out of memory at batch 64 on 2 device(s), where a step needs")
    ways = WAY.findall(message)
    assert [option for option, *_ in ways] == [
        "--train.batch-size",
        "--model.remat",
        "--train.micro-batch",
    ]
    for option, number, held, _ in ways:
        other = recipes.canonical(changed(config, option, number))
        expected = shapes_of(other, 2, data_shapes(other, None, 2)).held
        assert float(held) == round(expected / GIB, 2)
        assert "another --workdir" not in message  # nothing is saved: the folder can be reused
        run_dir.check(tmp_path / "run", other)  # the folder accepts the config


@pytest.mark.slow
def test_a_run_that_was_saved_keeps_its_batch_and_the_message_says_so():
    config = recipes.canonical(small())
    message = exhaustion.training_message(config, MemoryError(), saved=True)
    assert "(MemoryError)" in message
    rest = {option: rest for option, _, _, rest in WAY.findall(message)}
    assert "in another --workdir" in rest["--train.batch-size"]
    assert "in another --workdir" in rest["--train.micro-batch"]
    assert "workdir" not in rest["--model.remat"]


def test_an_evaluation_that_runs_out_names_its_own_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("cssl_jax.evaluate.evaluator.Evaluator.features", _features)
    config = tiny.config(batch_size=64, epochs=1)
    with pytest.raises(RunError, match=r"out of memory \(.*; give --evaluate\.batch-size a lower"):
        pretrain(config, tmp_path / "run")


# A function whose module seems to be in the package cssl_jax.evaluate.
_features = eval("lambda *_: exhaust()", {"exhaust": exhaust, "__name__": "cssl_jax.evaluate.new"})


@pytest.mark.parametrize(
    "command", fast(["evaluate", "embed", "report", "recipes"], ["embed", "recipes"])
)
def test_no_command_ends_in_a_traceback_where_memory_runs_out(command, monkeypatch, capsys):
    for error in (exhaust, lambda *_: [0] * 2**60):
        defined = cli.COMMANDS[command]
        module = importlib.import_module(f"cssl_jax.cli.commands.{defined.module}")
        monkeypatch.setattr(module, defined.function, error)
        assert cli.main([command]) == 1
        message = capsys.readouterr().err
        assert message.startswith(f"cssl-jax {command}: out of memory (")
        option = defined.batch_option or ("stop other programs that use the memory")
        assert option in message


@pytest.mark.parametrize(
    "command", [name for name in cli.COMMANDS if cli.COMMANDS[name].batch_option]
)
def test_the_option_that_is_named_exists(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert cli.COMMANDS[command].batch_option in capsys.readouterr().out
