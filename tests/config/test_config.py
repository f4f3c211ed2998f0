import dataclasses
import json
import math

import jax
import pytest

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.experiment import builders
from cssl_jax.models.normalization import NormGroups
from cssl_jax.recipes import validate
from cssl_jax.runtime import spmd
from helpers import tiny


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_every_recipe_loads_and_survives_json(name, tmp_path):
    config = recipes.load(name)
    path = tmp_path / "config.json"
    path.write_text(recipes.to_json(config))
    assert recipes.load(str(path)) == config
    assert recipes.config_hash(recipes.load(str(path))) == recipes.config_hash(config)
    assert recipes.recipe_summary(name)


def test_the_recipes_of_the_first_slice_are_there():
    assert {"digits", "cifar10_resnet18", "debug"} <= set(recipes.recipe_names())


def test_a_recipe_file_is_loaded_by_path(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cssl_jax.config import Config, TrainConfig\n"
        "def get_config():\n    return Config(train=TrainConfig(seed=7))\n"
    )
    assert recipes.load(str(path)).train.seed == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", r"no function get_config\(\)"),
        ("def get_config():\n    return 3", "returned int, not a Config"),
        ("x = 1\ndef get_config(:", r"bad.py, line 2: SyntaxError: "),
        ("\nimport no_such_module", r"line 2: ModuleNotFoundError: No module named 'no_such_"),
        ("def get_config():\n    return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        (
            "from cssl_jax.config import Config, TrainConfig\n\ndef get_config():\n"
            "    return Config(train=TrainConfig(bacth_size=3))",
            # Python 3.13 makes the suggestion itself, as a sentence.
            r"line 4: TypeError: .*unexpected keyword argument 'bacth_size'.*[Dd]id you mean "
            r"'batch_size'\?",
        ),
        (
            "from cssl_jax.augment.image.policy import ImagePolicy\nImagePolicy(fill=2.0)",
            "bad.py, line 2: augment.fill is 2.0",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.py"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        recipes.load(str(path))


def test_unknown_recipes_are_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match="did you mean 'digits'"):
        recipes.load("digit")
    with pytest.raises(UserError, match="does not exist"):
        recipes.load(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="cannot be read"):
        recipes.load(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": {"bacth_size": 3}}, r"train\.bacth_size; did you mean train\.batch_size\?"),
        ({"trian": {}}, "no config field is called trian; did you mean train"),
        ({"train": {"batch_size": "many"}}, "train.batch_size is 'many'; give a value of type int"),
        ({"train": {"tensorboard": 1}}, "train.tensorboard is 1"),
        ({"train": {"epochs": True}}, "train.epochs is True"),
        ({"model": {"stem": "tiny"}}, "model.stem is 'tiny'; give one of 'imagenet', 'cifar'"),
        ({"augment": {"crop_area": [0.1]}}, "augment.crop_area has 1 values; give 2"),
        ({"augment": {"blur": 0.5}}, "augment.blur is 0.5; give a list"),
        ({"data": []}, "config field data must hold named fields"),
    ],
)
def test_json_with_a_wrong_field_or_type_is_refused_by_name(content, message):
    with pytest.raises(UserError, match=message):
        recipes.from_dict(content)


def test_json_keeps_optional_values_and_integers_for_floats():
    assert recipes.from_dict({"data": {"resident": None}}).data.resident is None
    assert recipes.from_dict({"data": {"resident": True}}).data.resident is True
    assert recipes.from_dict({"optimizer": {"clip_norm": 1}}).optimizer.clip_norm == 1.0
    for tile_size in ("auto", None, 64):
        assert recipes.from_dict({"method": {"tile_size": tile_size}}).method.tile_size == tile_size
    with pytest.raises(UserError, match=r"method\.tile_size is 'all'"):
        recipes.from_dict({"method": {"tile_size": "all"}})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"batch_size": 0}, "train.batch_size is 0; give a positive number"),
        ("train", {"batch_size": 1}, "a contrastive loss needs other examples"),
        ("train", {"epochs": -1}, "train.epochs"),
        ("method", {"temperature": 0.0}, "method.temperature is 0.0"),
        ("method", {"tile_size": 0}, "method.tile_size is 0; give a positive number"),
        ("method", {"temperature": float("nan")}, "method.temperature is nan"),
        ("optimizer", {"warmup_epochs": 50.0}, "exceeds train.epochs"),
        ("optimizer", {"weight_decay": -1.0}, "optimizer.weight_decay"),
        ("model", {"projector_layers": 4}, "give 1, 2 or 3"),
        ("data", {"mean": (0.5,)}, "data.mean and data.std together"),
        ("data", {"mean": (math.nan,), "std": (1.0,)}, r"data.mean is \(nan,\)"),
        ("data", {"mean": (0.5,), "std": (math.inf,)}, r"data.std \(inf,\)"),
        ("data", {"validation_fraction": 1.0}, "data.validation_fraction is 1.0"),
        ("data", {"validation_fraction": 0.0}, "nothing would be left to measure on"),
        ("data", {"split_seed": -1}, "data.split_seed is -1; give a whole number from 0"),
        ("train", {"seed": 2**32}, "train.seed is 4294967296; give a whole number from 0 to 2"),
        ("model", {"width": 0.005}, "the smallest useful width is 1/64"),
        ("model", {"width": math.inf}, "model.width is inf; give a finite number"),
        ("optimizer", {"momentum": 1.0}, r"optimizer.momentum is 1.0; give .* within \[0, 1\)"),
        ("optimizer", {"b1": -0.1}, "optimizer.b1"),
        ("optimizer", {"b2": math.nan}, "optimizer.b2 is nan"),
        ("optimizer", {"trust_coefficient": 0.0}, "optimizer.trust_coefficient is 0.0"),
        ("optimizer", {"trust_eps": -1e-8}, "optimizer.trust_eps is -1e-08; give zero or a pos"),
        ("optimizer", {"clip_norm": 0.0}, "optimizer.clip_norm is 0.0"),
        ("optimizer", {"clip_norm": math.inf}, "optimizer.clip_norm is inf"),
        ("optimizer", {"learning_rate": math.inf}, "optimizer.learning_rate is inf"),
        ("optimizer", {"weight_decay": math.nan}, "optimizer.weight_decay is nan"),
        ("augment", {"flip": 1}, None),
    ],
)
def test_values_that_cannot_work_are_refused(section, values, message):
    if message is None:
        with pytest.raises(TypeError):  # Python's own answer to an unknown field
            tiny.replace(tiny.config(), section, **values)
        return
    with pytest.raises(UserError, match=message):
        validate(tiny.replace(tiny.config(), section, **values))


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("train", {"seed": 2**32 - 1}),
        ("data", {"split_seed": 0}),
        ("data", {"validation_fraction": 0.0, "validation_source": "other.npz"}),
        ("data", {"mean": (0.5,), "std": (0.2,)}),
        ("model", {"width": 1 / 64}),
        ("optimizer", {"momentum": 0.0, "b1": 0.0, "clip_norm": 1.0}),
    ],
)
def test_values_at_the_edge_of_what_works_are_taken(section, values):
    config = tiny.replace(tiny.config(), section, **values)
    assert validate(config) is config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blur": (1.5,)}, r"augment.blur is \(1.5,\); give probabilities"),
        ({"crop_area": (0.5, 0.1)}, "smallest <= largest"),
        ({"crop_area": (0.5, 1.1)}, "at most 1.0"),
        ({"hue": 0.6}, "turns the colour"),
    ],
)
def test_policies_that_cannot_work_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        tiny.replace(tiny.config(), "augment", **values)


def test_the_hash_distinguishes_results_and_ignores_where_a_run_runs():
    config = tiny.config()
    assert recipes.config_hash(config) != recipes.config_hash(tiny.config(seed=1))
    moved = tiny.replace(config, "runtime", backend="pmap", devices=4)
    assert recipes.config_hash(moved) == recipes.config_hash(config)
    recorded = tiny.replace(config, "train", record_views=True)
    assert recipes.config_hash(recorded) == recipes.config_hash(config)
    apart = tiny.replace(config, "model", norm_views="apart")
    live = tiny.replace(config, "model", zero_init_residual=False)
    assert len({recipes.config_hash(run) for run in (config, apart, live)}) == 3
    assert recipes.differences(config, recorded) == []
    assert recipes.differences(config, moved) == []
    assert recipes.differences(config, tiny.config(seed=1)) == ["train.seed: 0 -> 1"]


def test_switches_of_the_model_reach_its_modules():
    config = tiny.replace(tiny.config(), "model", norm_views="apart", zero_init_residual=False)
    method = builders.make_method(config, spmd.make_mesh(jax.devices()[:2]))
    groups = NormGroups(examples=config.train.batch_size, views="apart")
    assert method.encoder.norm_groups == method.projector.norm_groups == groups
    assert not method.encoder.zero_init_residual


def test_options_of_some_encoders_are_refused_for_the_others():
    config = tiny.replace(tiny.config(), "model", encoder="resnet18", patch=4)
    with pytest.raises(UserError, match=r"model.patch is 4, .*'resnet18' .*; omit it, or .* vit_"):
        validate(config)
    vit = tiny.replace(config, "model", encoder="vit_tiny")
    assert validate(vit) is vit
    plain = tiny.replace(tiny.config(), "model", encoder="vit_tiny")
    assert recipes.config_hash(vit) != recipes.config_hash(plain)


def test_configs_are_frozen_and_json_is_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.seed = 3
    assert json.loads(recipes.to_json(Config()))["augment"]["crop_area"] == [0.08, 1.0]


def test_a_message_quotes_the_start_of_a_long_name_or_value():
    for content in ({"[" * 5000: {}}, {"data": {"source": "x", "size": "9" * 5000}}):
        with pytest.raises(UserError) as error:
            recipes.from_dict(content)
        assert len(str(error.value)) < 400
