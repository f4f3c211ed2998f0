"""Which fields of a config determine a result, and how two configs differ."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any

from cssl_jax.config import Config
from cssl_jax.config.model import ENCODER_OPTIONS
from cssl_jax.recipes.io import canonical
from cssl_jax.recipes.sections import with_method, with_modality

# What a run may change when it is resumed: it determines no figure. on_nonfinite decides only how a
# run continues that would otherwise end there; results.json reports how many steps were skipped.
_NO_RESULT = (
    *("runtime", "train.checkpoint_every", "train.checkpoint_steps", "train.checkpoint_minutes"),
    *("train.keep", "train.tensorboard", "train.wandb", "train.record_views"),
    *("train.on_nonfinite", "train.nonfinite_limit", "train.check_replicas_every"),
)

# What a run may change besides, when it is resumed: how the same numbers are computed. These fields
# stay in the config's hash, which is older than the permission.
_SAME_RESULT = (
    *("train.log_every", "data.engine", "data.resident", "data.max_rejected"),
    *("evaluate.batch_size", "model.remat", "method.tile_size"),
)
# Fields that are newer than hashes in use: at their default they leave the hash as it was.
_NEWER = (
    *("data.modality", "method.loss", "model.norm_views", "model.zero_init_residual"),
    *("optimizer.weight_decay_end", "optimizer.clip_tensor_norm", "optimizer.layer_decay"),
    *("evaluate.blocks", "evaluate.patch_mean", "method.centring", "method.koleo_weight"),
    *(f"model.{name}" for name in ENCODER_OPTIONS),
)
# Where the data lie and how they are found: the fingerprint of the images and labels decides.
_FOUND_BY_FINGERPRINT = (
    *("data.source", "data.validation_source", "data.labels", "data.image_key", "data.label_key"),
    *("data.min_side", "data.max_pixels"),
    *("adapt.target", "adapt.target_validation", "adapt.target_labels"),
)


def config_hash(config: Config) -> str:
    """12 hexadecimal digits of all that determines the result.

    Sources, tables of labels and earlier runs count by their names, wherever they lie.

    Example:
        >>> from cssl_jax.config import Config
        >>> a, b = Config(), Config().replace({"train.epochs": 50})
        >>> config_hash(a) == config_hash(Config()), config_hash(a) == config_hash(b)
        (True, False)
    """
    content = dataclasses.asdict(canonical(config))
    for name in _NO_RESULT:
        section, _, field = name.partition(".")
        content[section].pop(field) if field else content.pop(section)
    default = dataclasses.asdict(Config())
    default["method"] = dataclasses.asdict(type(config.method)(name=config.method.name))
    for name in _NEWER:
        section, _, field = name.partition(".")
        own = content[section]
        if field in own and own[field] == default[section][field]:
            del own[field]
    places = {
        "data": ("source", "validation_source", "labels", "modality"),
        "adapt": ("target", "target_validation", "target_labels"),
        "train": ("init",),
        "method": ("name", "loss", "teacher"),
        "model": ("encoder",),
        "optimizer": ("name",),
    }
    for section, names in places.items():
        for name in names:
            if name in content[section]:
                content[section][name] = _name_of(content[section][name])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _name_of(place: str) -> str:
    """Last part of a path, the same for a relative and the absolute one; "" stays ""."""
    return place and pathlib.Path(os.path.abspath(os.path.expanduser(place))).name


def differing_fields(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """(value in a, value in b) of every field that determines the result and differs.

    None stands for the value of an option that only the method of the other config has.

    Example:
        >>> from cssl_jax.config import Config
        >>> differing_fields(Config(), Config().replace({"train.epochs": 50}))
        {'train.epochs': (100, 50)}
    """
    first, second = _flat(dataclasses.asdict(a)), _flat(dataclasses.asdict(b))
    return {
        name: (first.get(name), second.get(name))
        for name in first | second
        if first.get(name) != second.get(name) and not name.startswith(_NO_RESULT)
    }


def changed_fields(config: Config) -> dict[str, tuple[Any, Any]]:
    """(value, default) of every field that is not at the default of its method and modality.

    Example:
        >>> from cssl_jax.config import Config
        >>> changed_fields(Config().replace({"train.epochs": 50}))
        {'train.epochs': (50, 100)}
    """
    method, kind = config.method.name, config.data.modality
    default = _flat(dataclasses.asdict(with_modality(with_method(Config(), method), kind)))
    default |= {"method.name": Config().method.name, "data.modality": Config().data.modality}
    values = _flat(dataclasses.asdict(config))
    return {
        name: (value, default[name]) for name, value in values.items() if value != default[name]
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of a nested dictionary by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        leaves |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return leaves


def differences(old: Config, new: Config) -> list[str]:
    """Lines "field: old -> new" for every field that determines the result and differs.

    Example:
        >>> from cssl_jax.config import Config
        >>> differences(Config(), Config().replace({"train.epochs": 50}))
        ['train.epochs: 100 -> 50']
    """
    fields = differing_fields(old, new)
    return [f"{name}: {before!r} -> {after!r}" for name, (before, after) in fields.items()]


def resume_differences(old: Config, new: Config) -> list[str]:
    """``differences`` that keep a run from being resumed with the new config.

    A run's data may lie elsewhere, and be read otherwise: their fingerprints are compared. The run
    of ``train.init`` may lie in another folder under the same name; it is not read again.

    Example:
        >>> from cssl_jax.config import Config
        >>> resume_differences(Config(), Config().replace({"train.keep": 5}))
        []
    """
    fields = differing_fields(old, new)
    init = fields.get("train.init")
    if init and all(init) and len({pathlib.PurePath(place).name for place in init}) == 1:
        del fields["train.init"]
    for name in (*_SAME_RESULT, *_FOUND_BY_FINGERPRINT):
        fields.pop(name, None)
    return [f"{name}: {before!r} -> {after!r}" for name, (before, after) in fields.items()]


def facts(config: Config) -> dict[str, Any]:
    """What processes that compute together must have in common, by name; plain JSON."""
    return {
        f"{section}.{name}": value
        for section, fields in dataclasses.asdict(config).items()
        for name, value in fields.items()
        if section != "runtime" or name == "backend"
    }
