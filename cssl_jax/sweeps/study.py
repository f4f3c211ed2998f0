"""The Optuna room: storage, samplers, pruners, and whose a trial is."""

import hashlib
import importlib.util
import pathlib
import warnings
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.sweeps.results import Axis, Trial

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "none")
FILE = "optuna.sqlite3"
_SETTINGS, _WORKER = "settings", "worker"  # attributes of the study, of a trial
LEAST = 10  # completed trials below which an importance would be noise


def require() -> None:
    """Raises UserError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "a sweep needs Optuna, which is not installed: pip install 'cssl-jax[sweep]'"
        )


class Study:
    """A study, and the trials in it that this sweep's folder began.

    Several folders may share a study through one storage. A trial belongs to the folder that began
    it, by a mark that it has from its first moment on, so that no other takes it up and a killed
    one is found again.

    Raises:
        UserError: The storage cannot be opened, or the study is of another sweep.
    """

    def __init__(
        self, folder: pathlib.Path, url: str, name: str, worker: str, settings: dict[str, Any]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        own = not url
        url = url or f"sqlite:///{(folder / FILE).absolute()}"
        wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                storage = optuna.storages.RDBStorage(url, engine_kwargs=wait)
                self._study = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    direction="maximize",
                    load_if_exists=True,
                    pruner=_pruner(settings),
                )
        except Exception as error:  # of any database and its driver
            shown = str(folder / FILE) if own else "--storage"  # its address may hold a password
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{shown} cannot be opened: {reason.replace(url, '...')}") from error
        self._storage = self._study._storage  # the study's own view of it, which caches
        self._worker, self._settings = worker, settings
        known = self._study.user_attrs.get(_SETTINGS)
        if known is None:
            self._study.set_user_attr(_SETTINGS, settings)
        elif known != settings:
            changed = [f"{k}: {known.get(k)!r} -> {v!r}" for k, v in settings.items()
                       if known.get(k) != v]  # fmt: skip
            raise UserError(
                "this sweep was begun with other settings; use another --workdir"
                + ("" if own else " and --study")
                + ", or undo:\n  "
                + "\n  ".join(changed)
            )

    def next(self, most: int) -> Any | None:
        """An Optuna trial to go on with, or a new one; None once there are ``most``.

        A sweep that was killed draws what one that was left alone would; see ``_sampler``.
        """
        import optuna

        running = (optuna.trial.TrialState.RUNNING,)
        trials = self._study.get_trials(deepcopy=False)
        ours = [t for t in trials if t.state in running and self._is_ours(t)]
        if ours:
            found = min(ours, key=lambda trial: trial.number)
            trial_id, number = found._trial_id, found.number
        elif len(trials) < most:
            begun = optuna.trial.create_trial(state=running[0], user_attrs={_WORKER: self._worker})
            trial_id = self._storage.create_new_trial(self._study._study_id, begun)
            number = self._storage.get_trial(trial_id).number
        else:
            return None
        self._study.sampler = _sampler(self._settings, number)
        return optuna.trial.Trial(self._study, trial_id)

    def end(self, trial: Any, state: str, value: float | None = None, **attributes: Any) -> None:
        """Counts a trial as "complete" (with its value), "pruned" or "failed"."""
        import optuna

        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        states = optuna.trial.TrialState
        known = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        self._study.tell(trial.number, value, state=known[state])

    def trials(self) -> list[Trial]:
        """All trials of the study, of all folders."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        return [
            Trial(
                number=found.number,
                state=names.get(found.state.name, "running"),
                params=dict(found.params),
                curve=tuple(sorted(found.intermediate_values.items())),
                reported=found.user_attrs.get("reported", {}),
                run=self._place(found),
                message=found.user_attrs.get("message", ""),
            )
            for found in self._study.get_trials(deepcopy=False)
        ]

    def images(self) -> tuple[int, int]:
        """Validation images (that select, that report); 0 before the first complete trial."""
        for trial in self._study.get_trials(deepcopy=False):
            if counts := trial.user_attrs.get("images"):
                return counts[0], counts[1]
        return 0, 0

    def axes(self) -> list[Axis]:
        """What was suggested, in the order in which the space suggests it."""
        axes: dict[str, Axis] = {}
        dist: Any
        for trial in self._study.get_trials(deepcopy=False):
            for name, dist in trial.distributions.items():
                if choices := getattr(dist, "choices", None):
                    axes.setdefault(name, Axis(name, choices=tuple(map(str, choices))))
                    continue
                old = axes.get(name, Axis(name, dist.low, dist.high))
                low, high = min(old.low, dist.low), max(old.high, dist.high)
                axes[name] = Axis(name, low, high, logarithmic=dist.log)
        return list(axes.values())

    def importance(self) -> dict[str, float]:
        """Share of each parameter in the variance of the score, the largest first; sums to 1.

        fANOVA (Hutter et al., ICML 2014) over completed trials, as Optuna computes it, of the
        parameters that all of them have; empty where there are fewer than ``LEAST`` trials, or
        all have one score.
        """
        import optuna

        states = (optuna.trial.TrialState.COMPLETE,)
        trials = self._study.get_trials(deepcopy=False, states=states)
        if len(trials) < LEAST or len({trial.value for trial in trials}) < 2:
            return {}
        # Optuna's default looks at the best tenth alone: of 20 trials, at two.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}

    def _place(self, trial: Any) -> str:
        """Of a trial's run: within our folder, or absolute."""
        run, place = trial.user_attrs.get("run", ""), trial.user_attrs.get("folder", "")
        return run if self._is_ours(trial) or not run else f"{place}/{run}"

    def _is_ours(self, trial: Any) -> bool:
        return trial.user_attrs.get(_WORKER) == self._worker


def _sampler(settings: dict[str, Any], number: int) -> Any:
    """Draws by key: of the seed, the trial's number and, where drawn alone, the parameter's name.

    A sampler's own state would be lost in a kill, and draw otherwise for a trial that is gone on
    with after half of its parameters were drawn.
    """
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler

    def keyed(name: str) -> Any:
        words = f"{settings['seed']} {number} {name}".encode()
        seed = int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "big")
        if settings["sampler"] == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # options that Optuna calls experimental
            return TPESampler(seed=seed, warn_independent_sampling=False)

    together = keyed("")

    class Keyed(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return together.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return together.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return keyed(name).sample_independent(study, trial, name, distribution)

    return Keyed()


def _pruner(settings: dict[str, Any]) -> Any:
    import optuna

    if settings["pruner"] == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_warmup_steps=settings["prune_after"])
