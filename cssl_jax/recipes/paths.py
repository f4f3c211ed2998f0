"""Absolute paths in a config."""

import operator

from cssl_jax.config import Config, code_names
from cssl_jax.config.config import SOURCE_FIELDS
from cssl_jax.data.sources.open import LABEL_RULES, absolute_spec
from cssl_jax.registries import absolute_name


def with_absolute_paths(config: Config) -> Config:
    """Makes paths absolute, so that the run can be evaluated from any working directory.

    Raises:
        UserError: A source is on another machine, or its format is in a file that may not run.
    """
    names = [*SOURCE_FIELDS]
    if config.data.labels not in LABEL_RULES:
        names.append("data.labels")
    if config.adapt.target_labels not in LABEL_RULES:
        names.append("adapt.target_labels")
    if config.train.init and not config.train.init.startswith("zoo:"):
        names.append("train.init")
    absolute = {name: absolute_spec(operator.attrgetter(name)(config)) for name in names}
    code = {name: absolute_name(value) for name, value in code_names(config).items()}
    return config.replace({**code, **absolute})  # the formats of sources are absolute already
