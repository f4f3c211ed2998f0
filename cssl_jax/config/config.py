"""The whole config: all sections."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from cssl_jax.augment.base import Policy
from cssl_jax.augment.image.policy import ImagePolicy
from cssl_jax.config.data import DataConfig, ImageData
from cssl_jax.config.evaluate import EvaluateConfig
from cssl_jax.config.method import AdaptConfig, ClassifierConfig, MethodConfig, SimCLRConfig
from cssl_jax.config.model import ModelConfig
from cssl_jax.config.optimizer import OptimizerConfig
from cssl_jax.config.runtime import RuntimeConfig
from cssl_jax.config.train import TrainConfig
from cssl_jax.errors import UserError
from cssl_jax.registries import is_file_name, split_place

# Fields that may name code in a file, as file.py:NAME.
CODE_FIELDS = ("data.modality", "method.name", "method.loss", "model.encoder", "optimizer.name")
# Fields that name a source of images, whose format may be in a file: file.py:NAME:PLACE.
SOURCE_FIELDS = (
    "data.source",
    "data.validation_source",
    "adapt.target",
    "adapt.target_validation",
)


# The sections data, augment and method have the classes that the modality and the method name:
# `recipes.with_modality` and `recipes.with_method` exchange them. A comment beside the fields would
# become their help.
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that defines a run; defaults are the SimCLR paper's for ImageNet, at batch 256."""

    data: DataConfig = dataclasses.field(default_factory=ImageData)
    augment: Policy = dataclasses.field(default_factory=ImagePolicy)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    method: MethodConfig = dataclasses.field(default_factory=SimCLRConfig)
    classifier: ClassifierConfig = dataclasses.field(default_factory=ClassifierConfig)
    adapt: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)

    def replace(self, values: Mapping[str, Any]) -> "Config":
        """Returns a copy with other values of some fields.

        >>> Config().replace({"train.epochs": 5, "model.width": 0.5}).train.epochs
        5

        Args:
            values: Values by "section.field". They are not checked; see ``recipes.canonical``.

        Raises:
            UserError: A name is no field of a config; the message has the nearest one.
        """
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, _, field = str(name).partition(".")
            if field not in _fields_of(self).get(section, ()):
                raise UserError(f"no config field is called {name}; {self._hint(str(name))}")
            sections.setdefault(section, {})[field] = value
        changed: dict[str, Any] = {
            section: dataclasses.replace(getattr(self, section), **fields)
            for section, fields in sections.items()
        }
        return dataclasses.replace(self, **changed)

    def _hint(self, name: str) -> str:
        fields_of = _fields_of(self)
        known = [f"{section}.{field}" for section in fields_of for field in fields_of[section]]
        by_field = [full for full in known if full.endswith(f".{name}")]
        near = by_field or difflib.get_close_matches(name, known, n=1)
        return f"did you mean {near[0]}?" if near else "give section.field"


def code_names(config: Config) -> dict[str, str]:
    """Names of the config's extensions that are code in a file, "file.py:NAME", by field.

    Example:
        >>> code_names(Config().replace({"model.encoder": "mine.py:Mine"}))
        {'model.encoder': 'mine.py:Mine'}
    """
    names = {}
    for field in (*CODE_FIELDS, *SOURCE_FIELDS):
        section, _, name = field.partition(".")
        value, _ = split_place(getattr(getattr(config, section), name, ""))
        if is_file_name(value):
            names[field] = value
    return names


def _fields_of(config: Config) -> dict[str, tuple[str, ...]]:
    """Field names by section."""
    sections = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: tuple(field.name for field in dataclasses.fields(section))
        for name, section in sections.items()
    }
