"""A sweep: one run after another, each judged by the images that select, to be gone on with."""

import hashlib
import pathlib

import jax

from cssl_jax import recipes
from cssl_jax.config import Config
from cssl_jax.errors import InterruptedRunError, UserError
from cssl_jax.runtime import multihost, process
from cssl_jax.sweeps import objective, study
from cssl_jax.sweeps.results import Sweep
from cssl_jax.sweeps.space import Space
from cssl_jax.sweeps.sweep_dir import claim, open_study
from cssl_jax.sweeps.trials import Say, Trials
from cssl_jax.train.run_dir import while_running


def sweep(
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
    """Runs trials until there are so many; on a folder with a sweep in it, goes on with that.

    Each trial is a run folder, WORKDIR/trials/0000 and so on. A trial that was broken off, by a
    signal or a kill, is gone on with from its checkpoint, under the same number and with the same
    parameters. A trial is ranked by its best checkpoint on the keyed half of the validation images
    that ranks checkpoints in any run, and reports on the other half.

    Args:
        config: What all trials have in common.
        workdir: Folder of the sweep.
        space: Python file with ``space(trial) -> {"section.field": value}``; see docs/sweeps.md.
        trials: In all, those that failed included.
        seed: Of what is drawn; each trial's own depends on it and on the trial's number.
        sampler: Of ``study.SAMPLERS``.
        pruner: Of ``study.PRUNERS``: whether a trial ends once it is worse than the median of the
            earlier ones at the same epoch.
        prune_after: Epochs before which none is pruned.
        storage: Of Optuna, such as mysql://...; "" is a SQLite file in the folder.
        study_name: In a storage that is shared; "" is the folder's name.
        recipe: What to call the config.
        say: Is told of every trial.

    Raises:
        UserError: The space, the config, the data or the folder do not fit each other.
        InterruptedRunError: A signal came; what was done is saved.
        RunError: No trial was completed, or something could not be written.
    """
    study.require()
    _check(trials, sampler, pruner)
    place = pathlib.Path(workdir).expanduser().absolute()
    tried = Space(space, recipes.canonical(config))
    tried.check(seed)
    settings = {
        "config": recipes.config_hash(config),
        "space": hashlib.sha256(tried.text.encode()).hexdigest()[:12],
        "seed": seed,
        "sampler": sampler,
        "pruner": pruner,
        "prune_after": prune_after,
    }
    about = {
        "recipe": recipe,
        "config": recipes.to_dict(tried.base),
        "space": tried.text,
        "settings": settings,
    }
    with process.catch_signals() as interruption:
        try:
            with interruption.breakable():
                metric = objective.metric(config, tried)
        except InterruptedRunError as stopped:
            raise InterruptedRunError(f"{stopped} before the first trial") from stopped
        with while_running(place), claim(place):
            opened = open_study(place, tried, storage, study_name, settings)
            left = Trials(place, tried, opened, interruption, metric, trials, about, say)
            left.write()
            return left.run()


def _check(trials: int, sampler: str, pruner: str) -> None:
    """Raises UserError at the first of a sweep's own options that cannot work."""
    if not multihost.is_single_process():
        raise UserError(
            f"a sweep runs in one process, not in {jax.process_count()}; start several, each with "
            "its own --workdir and a --storage that they share"
        )
    if trials < 1:
        raise UserError(f"--trials is {trials}; give 1 or more")
    for name, value, known in (
        ("sampler", sampler, study.SAMPLERS),
        ("pruner", pruner, study.PRUNERS),
    ):
        if value not in known:
            raise UserError(f"--{name} is {value!r}; give one of {', '.join(known)}")
