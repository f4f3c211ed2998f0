"""A whole run, from top to bottom: build, resume, train, evaluate, write the results."""

import contextlib
import dataclasses
import json
import operator
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jax

from cssl_jax import recipes
from cssl_jax.checkpoint.checkpoints import Checkpoints
from cssl_jax.config import CODE_FIELDS, Config
from cssl_jax.data.cleaning.scan import write_rejected
from cssl_jax.data.sources.open import LABEL_RULES, absolute_spec
from cssl_jax.errors import InterruptedRunError, RunError, UserError
from cssl_jax.evaluate.evaluator import Checkpoint
from cssl_jax.evaluate.results import Results
from cssl_jax.experiment import builders
from cssl_jax.experiment.experiment import KERNELS, Experiment
from cssl_jax.files import write_json
from cssl_jax.optim import optimizers
from cssl_jax.planning import exhaustion
from cssl_jax.registries import absolute_name
from cssl_jax.runtime import multihost, process
from cssl_jax.step.state import TrainState
from cssl_jax.train import run_dir
from cssl_jax.train.initial_state import first_state, untrained_of
from cssl_jax.train.intervals import Intervals
from cssl_jax.train.online import OnlineEvaluation, online_evaluation
from cssl_jax.train.profile import FOLDER as TRACES
from cssl_jax.train.profile import Profile
from cssl_jax.train.trainer import UNSCORED, EvaluationCallback, Trainer

ORIGIN = "init"  # key in a checkpoint's meta and in results.json: run of the initial weights


def pretrain(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    profile_steps: str = "",
    watch: EvaluationCallback | None = None,
    report_startup: bool = False,
) -> Results:
    """Trains an encoder into a run folder, or resumes the run that is in it.

    Several processes that call this together (``distributed.start``) compute what one process
    would with all their devices. Only the primary process writes.

    Args:
        config: The run; see ``recipes.load``.
        workdir: Run folder: config.json, metrics.jsonl, timings.jsonl, checkpoints/, results.json.
        profile_steps: "FIRST:LAST", steps to trace into RUN/profile; "" traces none.
        watch: Called with the epoch and the metrics of every online evaluation but the last, after
            they are saved; a non-empty string that it returns stops the run with that reason.
        report_startup: Whether to print the time from the start of the process to the first step,
            which means something only if the process has done nothing else before.

    Returns:
        The content of results.json: ``results.linear.top1``, or as a mapping
        ``results["linear"]["top1"]``. ``results.to_json()`` is a dictionary.

    Raises:
        UserError: The config, the data or the folder do not fit each other.
        InterruptedRunError: A signal arrived; the progress is saved.
        StoppedRunError: ``watch`` stopped the run; the progress is saved.
        RunError: The loss is not finite, replicas differ, a file cannot be written, or another
            process has ended.
    """
    process.join_processes("pretrain")
    run = pathlib.Path(workdir).expanduser().absolute()
    config, profile = multihost.run_on_all(
        lambda: (
            _with_absolute_paths(recipes.canonical(config)),
            Profile(run / TRACES, profile_steps if multihost.is_primary() else ""),
        )
    )
    multihost.require_same({"workdir": str(run), **recipes.facts(config)})
    multihost.run_on_all(lambda: run_dir.check(run, config))
    with process.catch_signals() as signals, multihost.raise_if_peer_lost():
        try:
            with (
                _memory_explained(config, run),
                run_dir.while_running(run),
                run_dir.Claim(run) as claim,
            ):
                return _pretrain(config, run, claim, signals, profile, watch, report_startup)
        except InterruptedRunError as stopped:
            *_, name = str(stopped).split()
            if name not in signal.Signals.__members__:
                raise
            raise InterruptedRunError(  # before the first step, or after the last
                f"{name} outside the steps: nothing is lost; run the same command to resume"
            ) from None


@contextlib.contextmanager
def _memory_explained(config: Config, run: pathlib.Path) -> Iterator[None]:
    """Within it, running out of memory raises a RunError that lists the ways to need less."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not exhaustion.is_out_of_memory(error):
            raise
        if exhaustion.is_in_evaluation(error):
            raise RunError(exhaustion.evaluation_message(error, "--evaluate.batch-size")) from error
        saved = run_dir.has_checkpoint(run)
        raise RunError(exhaustion.training_message(config, error, saved=saved)) from error


def _pretrain(
    config: Config,
    run: pathlib.Path,
    claim: run_dir.Claim,
    signals: process.SignalRecorder,
    profile: Profile,
    watch: EvaluationCallback | None,
    report_startup: bool,
) -> Results:
    def build() -> tuple[str | None, Experiment, OnlineEvaluation]:
        with signals.breakable():
            cache = process.set_compile_cache(config.runtime.compile_cache)
            experiment = Experiment.from_config(config)
            return cache, experiment, online_evaluation(config, experiment)

    cache, experiment, evaluation = multihost.run_on_all(build)
    multihost.require_same(experiment.facts)
    run_dir.begin(run, config, claim)
    regular = Intervals(config.train, experiment.sampler.steps_per_epoch).regular
    evaluated = experiment.method.evaluated
    with Checkpoints(
        run, keep=config.train.keep, regular=regular, evaluated=evaluated
    ) as checkpoints:
        with signals.breakable(shared=True):
            start, unscored = 0, False
            if checkpoints.latest:
                state, unscored = _resume(experiment, checkpoints)
                experiment = with_kernels_of(experiment, checkpoints)
                start = int(state.step)
            else:
                state, origin = first_state(config, experiment)
                experiment.meta.update({ORIGIN: origin} if origin else {})
            run_dir.confirm(run, config)
            if rejected := {*experiment.train.rejected, *experiment.validation.rejected}:
                multihost.run_on_primary(lambda: write_rejected(run / "rejected.csv", rejected))
            _announce(config, run, experiment, evaluation, cache, start)
            if not start:
                options = config.optimizer
                _say(
                    optimizers.describe_exclusions(
                        state.params,
                        options.exclude_norm_and_bias,
                        adapts=options.name == "lars",
                    )
                )
        metrics = None
        if start < experiment.total_steps or unscored:
            training = multihost.run_on_all(
                lambda: Trainer(
                    config,
                    run,
                    experiment,
                    evaluation,
                    checkpoints,
                    signals,
                    first=lambda: first_state(config, experiment)[0],
                    state=state,
                    start=start,
                    unscored=unscored,
                    profile=profile,
                    watch=watch,
                    report_startup=report_startup,
                )
            )
            state, metrics = training.run()
        with signals.breakable(shared=True):
            return _results(config, run, experiment, evaluation, checkpoints, state, metrics)


def _results(
    config: Config,
    run: pathlib.Path,
    experiment: Experiment,
    evaluation: OnlineEvaluation,
    checkpoints: Checkpoints,
    state: TrainState,
    metrics: dict[str, Any] | None,
) -> Results:
    """Writes results.json, unless a finished run has it, and returns its content."""
    results_path = run / "results.json"
    if multihost.broadcast_from_primary(lambda: metrics is None and results_path.is_file()):
        return Results.from_json(json.loads(results_path.read_text()))
    last = Checkpoint(experiment.total_steps, state.evaluated(experiment.method))
    best = _best(last, experiment, checkpoints)
    results = {
        "config_hash": recipes.config_hash(config),
        "seed": config.train.seed,
        "skipped_steps": int(state.skipped[0]),
        "epochs": config.train.epochs,
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(experiment.train), "validation": len(experiment.validation)},
        "notes": list(dict.fromkeys((*experiment.train.notes, *experiment.validation.notes))),
        **{name: experiment.meta[name] for name in (ORIGIN,) if name in experiment.meta},
        **evaluation.evaluator.report(
            last, best, untrained_of(config, experiment), metrics=metrics
        ),
        "versions": process.versions(),
    }
    multihost.run_on_primary(lambda: write_json(results_path, results))
    return Results.from_json(results)


def _best(last: Checkpoint, experiment: Experiment, checkpoints: Checkpoints) -> Checkpoint:
    """The checkpoint that the online evaluations ranked first."""
    checkpoints.wait()  # the last checkpoint may still be being written
    step = checkpoints.best
    if step is None or step == last.step:
        return last
    return Checkpoint(step, checkpoints.restore_model(last.model, experiment.mesh, step))


def _resume(experiment: Experiment, checkpoints: Checkpoints) -> tuple[TrainState, bool]:
    """The newest state of this run, and whether its evaluation was interrupted."""
    shapes = builders.state_shapes(experiment.method, experiment.optimizer, experiment.spec)
    state, meta = checkpoints.resume(shapes, experiment.mesh)
    for split, fingerprint in experiment.meta["data"].items():
        if meta["data"][split] != fingerprint:
            raise UserError(
                f"the {split} images have changed since the run began: {meta['data'][split]}, now "
                f"{fingerprint}; restore them, or start from scratch in another --workdir"
            )
    for field, digest in experiment.meta["code"].items():
        if meta.get("code", {}).get(field) != digest:
            raise UserError(
                f"the file of {field} has changed since the run began; restore it, or start from "
                "scratch in another --workdir"
            )
    if ORIGIN in meta:
        experiment.meta[ORIGIN] = meta[ORIGIN]
    return state, meta.get(UNSCORED, False)


def with_kernels_of(experiment: Experiment, checkpoints: Checkpoints) -> Experiment:
    """The experiment with the host kernels that the run began with; others round differently."""
    began = checkpoints.read_meta().get(KERNELS, "jax")
    pipeline = experiment.pipeline.with_kernels(began)
    if pipeline.kernels != began:
        _say(
            "views       the run began with OpenCV, which is not installed here: from now on they "
            "differ in rounding; pip install opencv-python-headless simplejpeg"
        )
    experiment.meta[KERNELS] = pipeline.kernels
    return dataclasses.replace(experiment, pipeline=pipeline)


def _with_absolute_paths(config: Config) -> Config:
    """Makes paths absolute, so that the run can be evaluated from any working directory."""
    names = ["data.source", "data.validation_source", "adapt.target", "adapt.target_validation"]
    if config.data.labels not in LABEL_RULES:
        names.append("data.labels")
    if config.adapt.target_labels not in LABEL_RULES:
        names.append("adapt.target_labels")
    if config.train.init:
        names.append("train.init")
    absolute = {name: absolute_spec(operator.attrgetter(name)(config)) for name in names}
    for name in CODE_FIELDS:
        absolute[name] = absolute_name(operator.attrgetter(name)(config))
    return config.replace(absolute)


# ---------------------------------------------------------------------------------------- messages


def _announce(
    config: Config,
    run: pathlib.Path,
    experiment: Experiment,
    evaluation: OnlineEvaluation,
    cache: str | None,
    start: int,
) -> None:
    device = experiment.mesh.devices.flat[0]
    rejected = len({*experiment.train.rejected, *experiment.validation.rejected})
    excluded = f"{rejected} excluded (rejected.csv), " if rejected else ""
    shared = "" if multihost.is_single_process() else f" of {jax.process_count()} processes"
    how = "by labels" if evaluation.evaluator.labelled else "without labels"
    _say(
        f"run       {run}" + (f" (resumed at step {start})" if start else "") + "\n"
        f"devices   {experiment.mesh.size} x {device.device_kind}{shared}, "
        f"{config.runtime.backend}\n"
        f"compiled  {cache or 'not kept'}\n"
        f"data      {config.data.source}: {len(experiment.train)} to train on, "
        f"{len(experiment.validation)} to validate on, {excluded}evaluated {how}\n"
        f"input     {experiment.input_reason}"
        + "".join(f"\nnote      {note}" for note in _notes(experiment))
        + _origin(experiment.meta.get(ORIGIN))
    )


def _notes(experiment: Experiment) -> list[str]:
    """Notes on what was read and what was not, from both splits without duplicates."""
    return list(dict.fromkeys((*experiment.train.notes, *experiment.validation.notes)))


def _origin(init: dict[str, Any] | None) -> str:
    if not init:
        return ""
    modules = " and ".join(init["modules"])
    return f"\nweights   {modules} of {init['run']}, step {init['step']}; the rest from the seed"


def _say(text: str) -> None:
    if multihost.is_primary():
        print(text, file=sys.stderr, flush=True)
