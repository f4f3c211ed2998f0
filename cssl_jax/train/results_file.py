"""Results of a finished run: results.json."""

import dataclasses
import json

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.evaluate.evaluator import Checkpoint
from cssl_jax.evaluate.results import Results, SplitSizes
from cssl_jax.evaluate.scores import Scores
from cssl_jax.files import write_json
from cssl_jax.runtime import multihost, process
from cssl_jax.train.hooks import Run
from cssl_jax.train.initial_state import untrained_of
from cssl_jax.train.online import OnlineEvaluation
from cssl_jax.train.resume import ORIGIN


def write_results(
    run: Run,
    evaluation: OnlineEvaluation,
    checkpoints: Checkpoints,
    metrics: Scores | None,
) -> Results:
    """Writes results.json, unless a finished run has it, and returns its content.

    Args:
        run: The run after its last step.
        evaluation: Evaluators of the model.
        checkpoints: Checkpoints of the run.
        metrics: Metrics of the last evaluation; None if this process has trained no step.
    """
    path, experiment, config = run.folder / "results.json", run.experiment, run.config
    if multihost.broadcast_from_primary(lambda: metrics is None and path.is_file()):
        return Results.from_json(json.loads(path.read_text()))
    last = Checkpoint(run.total_steps, run.state.evaluated(experiment.method))
    best = _best(last, run, checkpoints)
    results = dataclasses.replace(
        evaluation.evaluator.report(last, best, untrained_of(experiment), metrics=metrics),
        config_hash=recipes.config_hash(config),
        seed=config.train.seed,
        skipped_steps=int(run.state.skipped[0]),
        epochs=config.train.epochs,
        source=config.data.source,
        validation_source=config.data.validation_source or "held out of source",
        split=SplitSizes(train=len(experiment.train), validation=len(experiment.validation)),
        notes=list(dict.fromkeys((*experiment.train.notes, *experiment.validation.notes))),
        init=experiment.meta.get(ORIGIN),
        versions=process.versions(),
    )
    multihost.run_on_primary(lambda: write_json(path, results.to_json()))
    return results


def _best(last: Checkpoint, run: Run, checkpoints: Checkpoints) -> Checkpoint:
    """The checkpoint that the online evaluations ranked first."""
    checkpoints.wait()  # the last checkpoint may still be being written
    step = checkpoints.best
    if step is None or step == last.step:
        return last
    return Checkpoint(step, checkpoints.restore_model(last.model, run.experiment.mesh, step))
