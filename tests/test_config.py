import dataclasses
import json

import pytest

import tiny
from cssl_jax import recipes
from cssl_jax.config import Config, validate
from cssl_jax.errors import UserError


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


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"batch_size": 0}, "train.batch_size is 0; give a positive number"),
        ("train", {"batch_size": 1}, "a contrastive loss needs other examples"),
        ("train", {"epochs": -1}, "train.epochs"),
        ("method", {"temperature": 0.0}, "method.temperature is 0.0"),
        ("method", {"temperature": float("nan")}, "method.temperature is nan"),
        ("optimizer", {"warmup_epochs": 50.0}, "exceeds train.epochs"),
        ("optimizer", {"weight_decay": -1.0}, "optimizer.weight_decay"),
        ("model", {"projector_layers": 4}, "give 1, 2 or 3"),
        ("data", {"mean": (0.5,)}, "data.mean and data.std together"),
        ("augment", {"flip": 1}, None),
        ("augment", {"blur": (0.1, 0.2, 0.3)}, "SimCLR has two views"),
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


def test_the_hash_tells_results_apart_and_ignores_where_a_run_runs():
    config = tiny.config()
    assert recipes.config_hash(config) != recipes.config_hash(tiny.config(seed=1))
    moved = tiny.replace(config, "runtime", backend="pmap", devices=4)
    assert recipes.config_hash(moved) == recipes.config_hash(config)
    assert recipes.differences(config, moved) == []
    assert recipes.differences(config, tiny.config(seed=1)) == ["train.seed: 0 -> 1"]


def test_configs_are_frozen_and_json_is_plain():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.seed = 3
    assert json.loads(recipes.to_json(Config()))["augment"]["crop_area"] == [0.08, 1.0]
