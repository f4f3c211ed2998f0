"""Runs a sweep: one training run per trial, one after another, resumable at any time."""

import hashlib
import pathlib

import jax

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import InterruptedRunError, UserError
from cssl_jax.runtime import multihost, process
from cssl_jax.sweeps import objective, study
from cssl_jax.sweeps.space import Space
from cssl_jax.sweeps.sweep_dir import claim, open_study
from cssl_jax.sweeps.sweep_results import Sweep
from cssl_jax.sweeps.trials import Say, Trials
from cssl_jax.train.run_dir import while_running


def sweep(  # noqa: PLR0913 - the options of the command, as keywords
    config: Config,
    workdir: str | pathlib.Path,
    space: str | pathlib.Path,
    *,
    trials: int = 20,
    seed: int = 0,
    sampler: str = "tpe",
    pruner: str = "median",
    prune_after: int = 0,
    storage: str = "",
    study_name: str = "",
    recipe: str = "",
    say: Say = lambda text: None,
) -> Sweep:
    """Runs trials until the sweep has ``trials`` of them; resumes a sweep that the folder holds.

    Each trial is a run folder, WORKDIR/trials/0000 and so on. A trial that a signal or a kill
    interrupted resumes from its checkpoint, with the same number and the same parameters. A trial
    is ranked by its best checkpoint on the seeded half of the validation examples that ranks
    checkpoints in any run. Its reported metrics are from the other half.

    Args:
        config: Base config; every trial has its values in all fields that the space does not set.
        workdir: Folder of the sweep.
        space: Python file with ``space(trial) -> {"section.field": value}``; see docs/sweeps.md.
        trials: Total number of trials, failed ones included.
        seed: Seed of all parameter draws; each trial draws from this seed and its own number.
        sampler: Name in ``study.SAMPLERS``.
        pruner: Name in ``study.PRUNERS``; "median" ends a trial that is worse than the median of
            the earlier trials at the same epoch.
        prune_after: Number of first epochs in which no trial is pruned.
        storage: Address of an Optuna storage, such as mysql://...; "" is a SQLite file in the
            folder.
        study_name: Name of the study in a shared storage; "" is the folder's name.
        recipe: Name of the config, for the report.
        say: Receives one line of text at the start and at the end of every trial.

    Returns:
        All trials of the study, ranked.

    Raises:
        UserError: The space, the config, the data or the folder do not fit each other.
        InterruptedRunError: A signal arrived; the finished part is saved.
        RunError: No trial was completed, or a file could not be written.
    """
    study.require()
    _check(trials, sampler, pruner)
    folder = pathlib.Path(workdir).expanduser().absolute()
    search_space = Space(space, recipes.canonical(config))
    search_space.check(seed)
    settings = {
        "config": recipes.config_hash(config),
        "space": hashlib.sha256(search_space.text.encode()).hexdigest()[:12],
        "seed": seed,
        "sampler": sampler,
        "pruner": pruner,
        "prune_after": prune_after,
    }
    about = {
        "recipe": recipe,
        "config": recipes.to_dict(search_space.base),
        "space": search_space.text,
        "settings": settings,
    }
    with process.catch_signals() as signals:
        try:
            # Opening the data may take long and leaves nothing behind: a signal may cut it short.
            with signals.breakable():
                metric = objective.metric(config, search_space)
        except InterruptedRunError as stopped:
            raise InterruptedRunError(f"{stopped} before the first trial") from stopped
        with while_running(folder), claim(folder):
            opened = open_study(folder, search_space, storage, study_name, settings)
            runner = Trials(folder, search_space, opened, signals, metric, trials, about, say)
            runner.write()
            return runner.run()


def _check(trials: int, sampler: str, pruner: str) -> None:
    """Raises UserError for the first option of the sweep that cannot work."""
    if not multihost.is_single_process():
        raise UserError(
            f"a sweep runs in one process, not in {jax.process_count()}; start several sweeps, "
            "each with its own --workdir, and one --storage for all"
        )
    if trials < 1:
        raise UserError(f"--trials is {trials}; give 1 or more")
    for name, value, known in (
        ("sampler", sampler, study.SAMPLERS),
        ("pruner", pruner, study.PRUNERS),
    ):
        if value not in known:
            raise UserError(f"--{name} is {value!r}; give one of {', '.join(known)}")
