"""Search space of a sweep: a user's Python file with a function ``space(trial)``."""

import pathlib
from collections.abc import Callable
from typing import Any

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import UserError
from cssl_jax.models.registry import build_encoder

Fields = dict[str, Any]
PROBES = 32  # random draws that are checked before the first trial
# Fields that determine which images evaluate a trial, and how. They are identical for all trials:
# otherwise the images that selected one trial would report on another.
_SHARED = (
    *("evaluate.", "train.seed", "train.evaluate_every", "method.name", "classifier.num_classes"),
    *("data.modality", "data.source", "data.validation_source", "data.validation_fraction"),
    "data.split_seed",
    *("data.labels", "data.image_key", "data.label_key"),
    *("data.min_side", "data.max_pixels", "data.max_rejected"),
)


class Space:
    """A search space and its base config.

    Attributes:
        path: Path of the Python file.
        text: Content of the Python file.
        base: Config that gives the fields which the space does not set.
        fields: Names of the config fields that the space sets; empty before ``check``.
    """

    def __init__(self, path: str | pathlib.Path, base: Config) -> None:
        """Loads and runs the file.

        Raises:
            UserError: The file does not exist, cannot run, or has no function ``space``.
        """
        self.path, self.base = pathlib.Path(path).expanduser(), base
        self.fields: tuple[str, ...] = ()
        if self.path.suffix != ".py" or not self.path.is_file():
            raise UserError(f"--space {path} is no Python file; give one with a space(trial)")
        self.text = self.path.read_text()
        try:
            function = getattr(recipes.import_file(self.path), "space", None)
        except Exception as error:  # a user's code may raise anything
            raise self._error(error) from error
        if not callable(function):
            raise UserError(
                f"space {path}: there is no function space(trial); define one that returns a dict"
            )
        self._function: Callable[[Any], Fields] = function

    def values(self, trial: Any) -> Fields:
        """Calls the user's function with an Optuna trial. Returns config fields and their values.

        Raises:
            UserError: The function fails, returns no dict of fields, or sets a field that all
                trials must share.
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
                    f"space {self.path} sets {name}, which determines how trials are evaluated and "
                    "must be the same for all of them; give it as an option of the sweep, "
                    f"--{name} VALUE"
                )
        return values

    def config(self, trial: Any) -> Config:
        """Returns the config of a trial.

        Raises:
            UserError: See ``values``; also for an unknown field, or a value that cannot work.
        """
        values = self.values(trial)
        try:
            config = recipes.override(self.base, values)
            build_encoder(config.model.encoder)
        except UserError as error:
            raise UserError(f"space {self.path}: {error}") from error
        return config

    def check(self, seed: int) -> None:
        """Builds configs from all range ends, all choices and ``PROBES`` random draws.

        Nothing is trained. ``fields`` is known afterwards.

        Args:
            seed: Seed of the random draws.

        Raises:
            UserError: A draw gives no valid config, or the space suggests no parameter.
        """
        from optuna import create_study
        from optuna.samplers import RandomSampler

        study = create_study(sampler=_extremes_sampler()())
        fields: dict[str, None] = {}
        # Trials 0 to ``last_extreme`` visit range ends and choices; its value is known only while
        # they run, since a space may suggest further parameters in some of its branches.
        number = last_extreme = 0
        while number <= last_extreme + PROBES:
            if number == last_extreme + 1:
                study.sampler = RandomSampler(seed=seed)
            trial = study.ask()
            values, params = self.values(trial), trial.params
            try:
                self.config(trial)
            except UserError as error:
                raise UserError(f"{error} (drawn: {_format_params(params)})") from error
            if number <= last_extreme:
                sizes = [len(getattr(d, "choices", "ab")) for d in trial.distributions.values()]
                last_extreme = max([last_extreme, *sizes])
            fields |= dict.fromkeys(map(str, values))
            number += 1
            if not params:
                raise UserError(
                    f"space {self.path} suggests nothing, so that all trials would be the same; "
                    "use trial.suggest_float, suggest_int or suggest_categorical"
                )
        self.fields = tuple(fields)

    def _error(self, error: Exception) -> UserError:
        return recipes.code_error(f"space {self.path}", self.path, error)


def _format_params(params: Fields) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in params.items())


def _extremes_sampler() -> Any:
    """Sampler class that alternates between low and high ends and cycles through choices."""
    # Optuna is an optional dependency: the class can be defined only where Optuna is installed.
    from optuna.samplers import BaseSampler

    class ExtremesSampler(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            if hasattr(distribution, "choices"):
                return distribution.choices[trial.number % len(distribution.choices)]
            return distribution.high if trial.number % 2 else distribution.low

    return ExtremesSampler
