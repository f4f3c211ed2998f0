"""What a sweep may change: a user's Python file with a function ``space(trial)``."""

import pathlib
from collections.abc import Callable
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.models.registry import build_encoder

Fields = dict[str, Any]
PROBES = 32  # random draws that are looked at before the first trial
# What decides on which images trials are judged and how: all trials have that in common, or the
# images that chose one would report on another.
_SHARED = (
    *("evaluate.", "train.seed", "train.evaluate_every", "method.name", "classifier.num_classes"),
    *("data.source", "data.validation_source", "data.validation_fraction", "data.split_seed"),
    *("data.labels", "data.image_key", "data.label_key"),
    *("data.min_side", "data.max_pixels", "data.max_rejected"),
)


class Space:
    """A space and the config that it starts from.

    Attributes:
        path: Of the file.
        text: Its content.
        base: Config whose other fields every trial has.
        fields: Names of the config fields that it sets, known after ``check``.
    """

    def __init__(self, path: str | pathlib.Path, base: Config) -> None:
        """Loads the file.

        Raises:
            UserError: There is none, it cannot run, or has no function ``space``.
        """
        self.path, self.base = pathlib.Path(path).expanduser(), base
        self.fields: tuple[str, ...] = ()
        if self.path.suffix != ".py" or not self.path.is_file():
            raise UserError(f"--space {path} is no Python file; give one with a space(trial)")
        self.text = self.path.read_text()
        try:
            function = getattr(recipes.import_file(self.path), "space", None)
        except Exception as error:  # whatever a user's code may raise
            raise self._error(error) from error
        if not callable(function):
            raise UserError(f"space {path}: there is no function space(trial) that returns a dict")
        self._function: Callable[[Any], Fields] = function

    def values(self, trial: Any) -> Fields:
        """What the user's function gives for an Optuna trial.

        Raises:
            UserError: It fails, or gives no fields that a sweep may change.
        """
        try:
            values = self._function(trial)
        except Exception as error:
            raise self._error(error) from error
        if not isinstance(values, dict) or not values:
            raise UserError(
                f"space {self.path}: space() returned {values!r}; return a dict of config fields, "
                'such as {"optimizer.learning_rate": 0.1}'
            )
        for name in values:
            if str(name).startswith(_SHARED):
                raise UserError(
                    f"space {self.path} sets {name}, which decides by what trials are judged; "
                    f"all have that in common: give it as an option of the sweep, --{name} VALUE"
                )
        return values

    def config(self, trial: Any) -> Config:
        """The config of a trial.

        Raises:
            UserError: See ``values``; an unknown field, or a value that cannot work.
        """
        values = self.values(trial)
        try:
            config = recipes.override(self.base, values)
            build_encoder(config.model.encoder)
        except UserError as error:
            raise UserError(f"space {self.path}: {error}") from error
        return config

    def check(self, seed: int) -> None:
        """Tries the ends and choices of the space, and random draws, without training.

        Raises:
            UserError: One gives no config, or nothing is suggested.
        """
        from optuna import create_study
        from optuna.samplers import RandomSampler

        study = create_study(sampler=_ends()())
        fields: dict[str, None] = {}
        number = most = 0
        while number <= most + PROBES:
            if number == most + 1:
                study.sampler = RandomSampler(seed=seed)
            trial = study.ask()
            values, params = self.values(trial), trial.params
            try:
                self.config(trial)
            except UserError as error:
                raise UserError(f"{error} (of {_shown(params)})") from error
            if number <= most:
                sizes = [len(getattr(d, "choices", "ab")) for d in trial.distributions.values()]
                most = max([most, *sizes])
            fields |= dict.fromkeys(map(str, values))
            number += 1
            if not params:
                raise UserError(
                    f"space {self.path} suggests nothing, so that all trials were the same; use "
                    "trial.suggest_float, suggest_int or suggest_categorical"
                )
        self.fields = tuple(fields)

    def _error(self, error: Exception) -> UserError:
        return recipes.code_error(f"space {self.path}", self.path, error)


def _shown(params: Fields) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in params.items())


def _ends() -> Any:
    """A sampler class: low and high ends of numbers in turn, one choice after another."""
    from optuna.samplers import BaseSampler

    class Ends(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            if hasattr(distribution, "choices"):
                return distribution.choices[trial.number % len(distribution.choices)]
            return distribution.high if trial.number % 2 else distribution.low

    return Ends
