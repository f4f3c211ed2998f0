"""Access to Optuna: storage, samplers, pruners, and which folder a trial belongs to."""

import hashlib
import importlib.util
import pathlib
import warnings
from typing import Any

from cssl_jax.errors import UserError
from cssl_jax.sweeps.sweep_results import Axis, Trial

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "none")
FILE = "optuna.sqlite3"
_SETTINGS, _WORKER = "settings", "worker"  # names of a study attribute and of a trial attribute
MIN_TRIALS = 10  # complete trials that an importance needs; estimates from fewer are noise


def require() -> None:
    """Raises UserError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "a sweep needs Optuna, which is not installed: pip install 'cssl-jax[sweep]'"
        )


class Study:
    """An Optuna study, and access to the trials in it that this sweep's folder started.

    Several folders may share a study through one storage. A trial belongs to the folder that
    started it. The trial carries the folder's worker id from its creation on. No other folder
    therefore resumes it, and the same folder finds it again after a kill.

    Args:
        folder: Folder of the sweep.
        url: Address of the storage; "" is the SQLite file ``FILE`` in the folder.
        name: Name of the study.
        worker: Id of the folder that marks its trials.
        settings: Seed, sampler, pruner and hashes; identical for all folders of the study.

    Raises:
        UserError: The storage cannot be opened, or the study belongs to another sweep.
    """

    def __init__(
        self, folder: pathlib.Path, url: str, name: str, worker: str, settings: dict[str, Any]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        in_folder = not url
        url = url or f"sqlite:///{(folder / FILE).absolute()}"
        # SQLite allows one writer at a time: wait up to 60 s for the lock instead of failing.
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
        except Exception as error:  # each database and driver has its own exception types
            # The address of a storage may contain a password: no message shows it.
            shown = str(folder / FILE) if in_folder else "--storage"
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{shown} cannot be opened: {reason.replace(url, '...')}") from error
        self._storage = self._study._storage  # noqa: SLF001 - Optuna has no public name
        self._worker, self._settings = worker, settings
        stored = self._study.user_attrs.get(_SETTINGS)
        if stored is None:
            self._study.set_user_attr(_SETTINGS, settings)
        elif stored != settings:
            changed = [f"{k}: {stored.get(k)!r} -> {v!r}" for k, v in settings.items()
                       if stored.get(k) != v]  # fmt: skip
            raise UserError(
                "this sweep was started with other settings; use another --workdir"
                + ("" if in_folder else " and --study")
                + ", or undo:\n  "
                + "\n  ".join(changed)
            )

    def next(self, most: int) -> Any | None:
        """Returns an interrupted Optuna trial of this folder, or a new one.

        A sweep that was killed draws the same parameters as an uninterrupted one; see ``_sampler``.

        Args:
            most: Maximum number of trials in the study, over all folders.

        Returns:
            An ``optuna.trial.Trial``; None once the study has ``most`` trials.
        """
        import optuna

        running = (optuna.trial.TrialState.RUNNING,)
        trials = self._study.get_trials(deepcopy=False)
        ours = [t for t in trials if t.state in running and self._is_ours(t)]
        if ours:
            interrupted = min(ours, key=lambda trial: trial.number)
            trial_id, number = interrupted._trial_id, interrupted.number  # noqa: SLF001 - Optuna has no public name
        elif len(trials) < most:
            # ``study.ask`` would create the trial first and mark it later: a kill between the two
            # would leave a trial that belongs to no folder.
            new = optuna.trial.create_trial(state=running[0], user_attrs={_WORKER: self._worker})
            trial_id = self._storage.create_new_trial(self._study._study_id, new)  # noqa: SLF001 - Optuna has no public name
            number = self._storage.get_trial(trial_id).number
        else:
            return None
        self._study.sampler = _sampler(self._settings, number)
        return optuna.trial.Trial(self._study, trial_id)

    def end(self, trial: Any, state: str, value: float | None = None, **attributes: Any) -> None:
        """Stores the end state of a trial.

        Args:
            trial: Trial that ``next`` returned.
            state: "complete", "pruned" or "failed".
            value: Score of a complete trial in [0, 1]; None for other states.
            attributes: Further values to store with the trial.
        """
        import optuna

        for name, attribute in attributes.items():
            trial.set_user_attr(name, attribute)
        states = optuna.trial.TrialState
        end_states = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}
        self._study.tell(trial.number, value, state=end_states[state])

    def trials(self) -> list[Trial]:
        """Returns all trials of the study, started by any folder, in the order of their numbers."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        return [
            Trial(
                number=trial.number,
                state=names.get(trial.state.name, "running"),
                params=dict(trial.params),
                curve=tuple(sorted(trial.intermediate_values.items())),
                reported=trial.user_attrs.get("reported", {}),
                run=self._run_path(trial),
                message=trial.user_attrs.get("message", ""),
            )
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def images(self) -> tuple[int, int]:
        """Returns the number of selection and of reporting images.

        Both are 0 before the first complete trial.
        """
        for trial in self._study.get_trials(deepcopy=False):
            if counts := trial.user_attrs.get("images"):
                return counts[0], counts[1]
        return 0, 0

    def axes(self) -> list[Axis]:
        """Returns the range of every suggested parameter, in the order of the suggestions."""
        axes: dict[str, Axis] = {}
        distribution: Any
        for trial in self._study.get_trials(deepcopy=False):
            for name, distribution in trial.distributions.items():
                if choices := getattr(distribution, "choices", None):
                    axes.setdefault(name, Axis(name, choices=tuple(map(str, choices))))
                    continue
                # A range may depend on another parameter of the trial: the axis covers all of them.
                previous = axes.get(name, Axis(name, distribution.low, distribution.high))
                low = min(previous.low, distribution.low)
                high = max(previous.high, distribution.high)
                axes[name] = Axis(name, low, high, logarithmic=distribution.log)
        return list(axes.values())

    def importance(self) -> dict[str, float]:
        """Returns each parameter's fraction of the score's variance, largest first; they sum to 1.

        The method is fANOVA (Hutter et al., ICML 2014) over complete trials, as Optuna computes
        it. It covers the parameters that all complete trials have. The result is empty if there
        are fewer than ``MIN_TRIALS`` complete trials, or if all of them have the same score.
        """
        import optuna

        states = (optuna.trial.TrialState.COMPLETE,)
        trials = self._study.get_trials(deepcopy=False, states=states)
        if len(trials) < MIN_TRIALS or len({trial.value for trial in trials}) < 2:
            return {}
        # Optuna's default, PED-ANOVA, uses the best tenth only: two trials of 20.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importances = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {name: float(fraction) for name, fraction in importances.items()}

    def _run_path(self, trial: Any) -> str:
        """Path of a trial's run: relative to this sweep's folder, absolute for another folder."""
        run, folder = trial.user_attrs.get("run", ""), trial.user_attrs.get("folder", "")
        return run if self._is_ours(trial) or not run else f"{folder}/{run}"

    def _is_ours(self, trial: Any) -> bool:
        return bool(trial.user_attrs.get(_WORKER) == self._worker)


def _sampler(settings: dict[str, Any], number: int) -> Any:
    """Sampler without state: each draw is seeded from the sweep's seed and the trial's number.

    A parameter that is drawn independently is seeded from its name as well. A stateful sampler
    would lose its state in a kill. It would also draw other values for a trial that is resumed
    after half of its parameters were drawn.
    """
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler

    def seeded(name: str) -> Any:
        message = f"{settings['seed']} {number} {name}".encode()
        seed = int.from_bytes(hashlib.blake2b(message, digest_size=4).digest(), "big")
        if settings["sampler"] == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna marks some of these options experimental
            return TPESampler(seed=seed, warn_independent_sampling=False)

    joint = seeded("")

    class SeededSampler(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return joint.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return joint.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return seeded(name).sample_independent(study, trial, name, distribution)

    return SeededSampler()


def _pruner(settings: dict[str, Any]) -> Any:
    import optuna

    if settings["pruner"] == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_warmup_steps=settings["prune_after"])
