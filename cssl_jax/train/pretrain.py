"""A whole run, from top to bottom: distributed start, build, resume, loop, evaluate, report."""

import pathlib
from collections.abc import Sequence

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import Config
from cssl_jax.data.cleaning.scan import write_rejected
from cssl_jax.evaluate.results import Results
from cssl_jax.experiment.experiment import Experiment
from cssl_jax.runtime import multihost, process
from cssl_jax.train import resume, run_dir
from cssl_jax.train.announcement import announce
from cssl_jax.train.guards.replica_check import ReplicaCheck
from cssl_jax.train.guards.run_guards import guarded
from cssl_jax.train.hooks import Hook
from cssl_jax.train.intervals import Intervals
from cssl_jax.train.logging.logger import RunLogger
from cssl_jax.train.online import OnlineEvaluation, online_evaluation
from cssl_jax.train.profile import FOLDER as TRACES
from cssl_jax.train.profile import Profile
from cssl_jax.train.results_file import write_results
from cssl_jax.train.trainer import Trainer


def pretrain(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    profile_steps: str = "",
    hooks: Sequence[Hook] = (),
    report_startup: bool = False,
) -> Results:
    """Trains an encoder into a run folder, or resumes the run that is in it.

    Several processes that call this together (``distributed.start``) compute what one process
    would with all their devices. Only the primary process writes.

    Args:
        config: The run; see ``recipes.load``.
        workdir: Run folder: config.json, metrics.jsonl, timings.jsonl, checkpoints/, results.json.
        profile_steps: "FIRST:LAST", steps to trace into RUN/profile; "" traces none.
        hooks: Duties of your own at steps, evaluations and saves; see ``train.hooks``. A run that
            is finished calls none.
        report_startup: Whether to print the time from the start of the process to the first step,
            which means something only if the process has done nothing else before.

    Returns:
        The content of results.json: ``results.linear.top1``, or as a mapping
        ``results["linear"]["top1"]``. ``results.to_json()`` is a dictionary.

    Raises:
        UserError: The config, the data or the folder do not fit each other.
        InterruptedRunError: A signal arrived; the progress is saved.
        StoppedRunError: A hook stopped the run; the progress is saved.
        RunError: The loss is not finite, replicas differ, a file cannot be written, or another
            process has ended.
    """
    # ------------------------------------------------------------------------ distributed start
    process.join_processes("pretrain")
    folder = pathlib.Path(workdir).expanduser().absolute()
    config, profile = multihost.run_on_all(
        lambda: (
            recipes.with_absolute_paths(recipes.canonical(config)),
            Profile(folder / TRACES, profile_steps if multihost.is_primary() else ""),
        )
    )
    multihost.require_same({"workdir": str(folder), **recipes.facts(config)})
    multihost.run_on_all(lambda: run_dir.check(folder, config))
    with guarded(config, folder) as (signals, claim):
        # ---------------------------------------------------------------------------------- build
        def build() -> tuple[str | None, Experiment, OnlineEvaluation]:
            with signals.breakable():
                cache = process.set_compile_cache(config.runtime.compile_cache)
                experiment = Experiment.from_config(config)
                return cache, experiment, online_evaluation(experiment)

        cache, experiment, evaluation = multihost.run_on_all(build)
        multihost.require_same(experiment.facts)
        run_dir.begin(folder, config, claim)
        regular = Intervals(config.train, experiment.sampler.steps_per_epoch).regular
        evaluated, keep = experiment.method.evaluated, config.train.keep
        with Checkpoints(folder, keep=keep, regular=regular, evaluated=evaluated) as checkpoints:
            # ----------------------------------------------------------------------------- resume
            with signals.breakable(shared=True):
                run = resume.start(folder, experiment, checkpoints)
                run_dir.confirm(folder, config)
                if rejected := {*experiment.train.rejected, *experiment.validation.rejected}:
                    path = folder / "rejected.csv"
                    multihost.run_on_primary(lambda: write_rejected(path, rejected))
                announce(run, evaluation, cache)
            # ------------------------------------------------------------------- loop and evaluate
            metrics = None
            if run.step < run.total_steps or run.unscored:
                trainer = multihost.run_on_all(
                    lambda: Trainer(
                        run,
                        evaluation,
                        checkpoints,
                        signals,
                        # In this order: a message on a trace before the lines of its last steps.
                        [profile, RunLogger(run, report_startup), ReplicaCheck(run), *hooks],
                    )
                )
                metrics = trainer.train()
            # ----------------------------------------------------------------------------- report
            with signals.breakable(shared=True):
                return write_results(run, evaluation, checkpoints, metrics)
