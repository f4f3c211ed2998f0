"""The config section ``method``: each method has its own options, in JSON and as arguments."""

import dataclasses
import json
import re
from typing import ClassVar

import pytest

from cssl_jax import recipes
from cssl_jax.cli import main as cli
from cssl_jax.config import Config, MethodConfig, SimCLRConfig
from cssl_jax.config.ranges import BELOW_ONE
from cssl_jax.errors import UserError
from cssl_jax.methods import simclr
from cssl_jax.methods.registry import METHODS


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumConfig(MethodConfig):
    """A teacher that follows the encoder.

    Attributes:
        decay: Fraction of the teacher that survives a step.
    """

    ranges: ClassVar = {"decay": BELOW_ONE}

    name: str = "momentum"
    decay: float = 0.99


@pytest.fixture(autouse=True)
def momentum(monkeypatch):
    entry = dataclasses.replace(
        simclr.ENTRY, config=MomentumConfig, check=lambda config: None, chance_level=lambda _: 0.0
    )
    monkeypatch.setitem(METHODS, "momentum", entry)


def test_another_method_has_its_own_defaults_whatever_the_recipe_says():
    config = recipes.override(recipes.load("digits"), {"method.name": "momentum"})
    assert config.method == MomentumConfig(decay=0.99)
    assert config.optimizer == recipes.load("digits").optimizer
    back = recipes.override(config, {"method.name": "simclr", "method.temperature": 0.3})
    assert back.method == SimCLRConfig(temperature=0.3)


def test_json_has_the_options_of_the_method_and_no_others():
    config = recipes.override(Config(), {"method.name": "momentum", "method.decay": 0.5})
    content = json.loads(recipes.to_json(config))
    assert content["method"] == {"name": "momentum", "decay": 0.5}
    assert not content.keys() & {"classifier", "adapt"}
    assert recipes.from_dict(content) == config
    with pytest.raises(UserError, match=r"no config field is called method.temperature"):
        recipes.from_dict({"method": {**content["method"], "temperature": 0.5}})


def test_sections_of_a_method_that_uses_them_stay_in_json():
    values = {"method.name": "classifier", "classifier.num_classes": 3}
    content = recipes.to_dict(recipes.override(Config(), values))
    assert content["classifier"]["num_classes"] == 3
    assert "adapt" not in content


def test_changed_options_that_the_method_does_not_use_are_kept():
    config = Config().replace({"classifier.label_fraction": 0.5})
    assert recipes.from_dict(recipes.to_dict(config)) == config


def test_json_from_before_methods_had_their_own_options_loads():
    old = {"name": "classifier", "temperature": 0.5, "tile_size": None}
    config = recipes.from_dict({"method": old, "classifier": {"num_classes": 3}})
    assert config.method == MethodConfig(name="classifier")
    assert recipes.from_dict({"method": {"temperature": 0.5}}).method.temperature == 0.5


def test_a_number_outside_its_range_is_refused():
    with pytest.raises(UserError, match=r"method.decay is 1.0; give a number within \[0, 1\)"):
        recipes.override(Config(), {"method.name": "momentum", "method.decay": 1.0})


def test_a_section_of_another_method_is_refused():
    with pytest.raises(UserError, match=r"options are a MomentumConfig, and config.method is a S"):
        recipes.validate(Config().replace({"method.name": "momentum"}))
    with pytest.raises(UserError, match="no method is called 'simclrr'; did you mean 'simclr'"):
        recipes.override(Config(), {"method.name": "simclrr"})


def test_two_methods_differ_in_the_options_of_both():
    a, b = Config(), recipes.with_method(Config(), "momentum")
    assert recipes.differing_fields(a, b) == {
        "method.name": ("simclr", "momentum"),
        "method.loss": ("nt_xent", None),
        "method.temperature": (0.1, None),
        "method.tile_size": ("auto", None),
        "method.decay": (None, 0.99),
    }


@pytest.mark.parametrize("words", [["--method.name", "momentum"], ["--method.name=momentum"]])
def test_the_help_lists_the_options_of_the_method_on_the_command_line(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "digits", *words, "--help-all"])
    shown = re.findall(r"--method\.[\w-]+", capsys.readouterr().out)
    assert shown == ["--method.name", "--method.decay"]


def test_the_command_line_takes_the_options_of_the_method(capsys):
    words = ["digits", "--output", "views.png", "--method.name", "momentum"]
    assert cli.main(["views", *words, "--method.decay", "2"]) == 2
    assert "method.decay is 2.0; give a number within [0, 1)" in capsys.readouterr().err
    assert cli.main(["views", *words, "--method.temperature", "0.5"]) == 2
    assert "unknown option --method.temperature" in capsys.readouterr().err


def test_an_option_that_the_method_does_not_use_is_refused(capsys):
    assert cli.main(["pretrain", "digits", "--workdir", "w", "--classifier.stages", "1"]) == 2
    message = capsys.readouterr().err
    assert "--classifier.stages has no effect on method 'simclr'" in message
    assert "cssl-jax finetune" in message


@pytest.mark.parametrize("command", ["pretrain digits", "plan digits"])
def test_the_help_omits_sections_that_the_method_does_not_use(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help-all"])
    assert "--classifier." not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--method.name", "classifier", "--help-all"])
    assert "--classifier.stages" in capsys.readouterr().out
