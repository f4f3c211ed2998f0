"""A whole run, readable from top to bottom: data, parts, resume, steps, evaluation, results."""

import dataclasses
import json
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import optax

from cssl_jax import parallel, recipes, runtime
from cssl_jax.config import Config
from cssl_jax.data.feeds import placed_feeds
from cssl_jax.data.loading import LABEL_RULES, absolute_spec
from cssl_jax.data.sampler import Sampler
from cssl_jax.data.scan import write_rejected
from cssl_jax.errors import RunError, UserError
from cssl_jax.files import write_json, write_text
from cssl_jax.train import optimizers, setup
from cssl_jax.train.checkpoints import FOLDER, Checkpoints
from cssl_jax.train.journal import Journal, finite
from cssl_jax.train.parts import Parts, assemble
from cssl_jax.train.state import TrainState
from cssl_jax.train.step import make_train_step


def pretrain(config: Config, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Trains an encoder into a run folder; on a folder with a run in it, goes on where it stopped.

    Args:
        config: The run; see ``recipes.load``.
        workdir: Run folder: config.json, metrics.jsonl, timings.jsonl, checkpoints/, results.json.

    Returns:
        The content of results.json.

    Raises:
        UserError: The config, the data or the folder do not fit each other.
        RunError: The loss is no longer finite, a checkpoint could not be written, or a signal came.
    """
    runtime.refuse_several_processes("pretraining")
    config = _with_absolute_paths(recipes.canonical(config))
    run = pathlib.Path(workdir).expanduser().absolute()
    _check_folder(run, config)
    cache = runtime.set_compile_cache(config.runtime.compile_cache)
    parts = assemble(config)
    _write_config(run, config)
    if rejected := {*parts.train.rejected, *parts.validation.rejected}:
        write_rejected(run / "rejected.csv", rejected)
    with Checkpoints(run, keep=config.train.keep) as checkpoints:
        start = checkpoints.latest or 0
        state = _resume(parts, checkpoints) if start else _begin(config, parts)
        _announce(config, run, parts, cache, start)
        if not start:
            options = config.optimizer
            _say(optimizers.describe_exclusions(state.params, options.exclude_norm_and_bias))
        figures = None
        if start < parts.total_steps:
            state, figures = _train(config, run, parts, state, start, checkpoints)

    results_path = run / "results.json"
    if figures is None and results_path.is_file():
        return json.loads(results_path.read_text())
    if figures is None:
        figures = parts.evaluator.judge(parts.evaluator.features(state.model))
    untrained = setup.init_state(parts.method, optax.identity(), parts.spec, config.train.seed)
    results = {
        "config_hash": recipes.config_hash(config),
        "seed": config.train.seed,
        "step": parts.total_steps,
        "epochs": config.train.epochs,
        "source": config.data.source,
        "validation_source": config.data.validation_source or "held out of source",
        "split": {"train": len(parts.train), "validation": len(parts.validation)},
        **parts.evaluator.beside_floors(figures, parallel.replicate(untrained.model, parts.mesh)),
        "versions": runtime.versions(),
    }
    write_json(results_path, results)
    return results


def _begin(config: Config, parts: Parts) -> TrainState:
    """The state before the first step, from the seed or from an earlier run's weights."""
    state = setup.init_state(parts.method, parts.optimizer, parts.spec, config.train.seed)
    if not config.train.init:
        return parallel.replicate(state, parts.mesh)
    with Checkpoints(pathlib.Path(config.train.init), read_only=True) as checkpoints:
        try:
            model = checkpoints.restore_model(state.model, parts.mesh)
        except ValueError as error:
            raise UserError(
                f"train.init {config.train.init} holds other parameters than this model's; give a "
                f"run with the same model.* fields: {error}"
            ) from error
    return parallel.replicate(state, parts.mesh).replace(**model)


def _resume(parts: Parts, checkpoints: Checkpoints) -> TrainState:
    """The newest state of this very run."""
    known = checkpoints.meta()["data"]
    for part, fingerprint in parts.meta["data"].items():
        if known[part] != fingerprint:
            raise UserError(
                f"the {part} images have changed since the run began: {known[part]}, now "
                f"{fingerprint}; restore them, or begin anew in another --workdir"
            )
    init = setup.initializer(parts.method, parts.optimizer, parts.spec)
    return checkpoints.restore(jax.eval_shape(init, jax.random.key(0)), parts.mesh)


def _train(
    config: Config,
    run: pathlib.Path,
    parts: Parts,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, Any]]:
    """All steps from ``start`` on; returns the last state and its figures."""
    train_step = make_train_step(
        parts.method,
        parts.optimizer,
        parts.schedule,
        parts.pipeline.make_batch,
        total_steps=parts.total_steps,
        axis_name=parallel.AXIS,
        micro_batches=parts.micro_batches,
        frozen_norm=config.train.micro_batch_norm == "frozen",
    )
    step = parallel.data_parallel(train_step, parts.mesh, config.runtime.backend)
    constants = parallel.replicate(parts.pipeline.constants, parts.mesh)
    feeds = placed_feeds(
        parts.pipeline, parts.mesh, config.runtime.backend, start, parts.total_steps
    )
    journal = Journal(run, config, parts.pipeline, start, parts.total_steps)
    figures: dict[str, Any] = {}
    with journal, runtime.catch_signals() as interruption:
        for done, (feed, wait) in enumerate(_timed(feeds), start + 1):
            state, metrics = step(state, constants, feed)
            journal.add(done, metrics, wait)
            last, number = done == parts.total_steps, interruption.signal_number
            evaluate = last or _due(done, config.train.evaluate_every, parts.sampler)
            save = evaluate or number or _due(done, config.train.checkpoint_every, parts.sampler)
            if not save:
                continue
            journal.flush()
            finite(done, metrics)  # a state that is no longer finite replaces no good one
            scores: dict[str, float] = {}
            if evaluate:
                figures = parts.evaluator.judge(parts.evaluator.features(state.model))
                scores = parts.evaluator.flat(figures)
                journal.scores(done, scores)
            checkpoints.save(state, parts.meta, scores)
            if number and not last:
                feeds.close()
                raise RunError(
                    f"{signal.Signals(number).name} at step {done} of {parts.total_steps}: saved; "
                    "run the same command to go on"
                )
    return state, figures


# ------------------------------------------------------------------------------------------- folder


def _with_absolute_paths(config: Config) -> Config:
    """Paths that hold from any folder, so that the run can be evaluated from any."""
    data: dict[str, Any] = {
        name: absolute_spec(getattr(config.data, name)) for name in ("source", "validation_source")
    }
    if config.data.labels not in LABEL_RULES:
        data["labels"] = absolute_spec(config.data.labels)
    init: dict[str, Any] = {"init": absolute_spec(config.train.init)} if config.train.init else {}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        train=dataclasses.replace(config.train, **init),
    )


def _check_folder(run: pathlib.Path, config: Config) -> None:
    """Makes sure that the folder is new, empty, this config's run, or a run that saved nothing."""
    path = run / "config.json"
    begun = _has_checkpoint(run)
    if config.train.init and not begun and not _has_checkpoint(pathlib.Path(config.train.init)):
        raise UserError(
            f"train.init {config.train.init} holds no checkpoint; give the folder of a run, or "
            "leave it out to start from random weights"
        )
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file; give --workdir a folder")
    if path.is_file():
        changed = recipes.differences(recipes.read_json(path), config)
        if changed and begun:
            raise UserError(
                f"{run} holds a run with another config; use another --workdir, or undo:\n  "
                + "\n  ".join(changed)
            )
    elif run.is_dir() and any(run.iterdir()):
        raise UserError(f"{run} is not empty and holds no run; use another --workdir")


def _has_checkpoint(run: pathlib.Path) -> bool:
    return any((run / FOLDER).glob("[0-9]*"))


def _write_config(run: pathlib.Path, config: Config) -> None:
    """Only after all parts stand: a config that is refused leaves no folder behind."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_text(run / "config.json", recipes.to_json(config))
    except OSError as error:
        raise UserError(
            f"cannot write to {run}: {error.strerror}; use another --workdir"
        ) from error


# -------------------------------------------------------------------------------------------- input


def _timed(items: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    while True:
        start = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, time.perf_counter() - start


def _due(step: int, every_epochs: int, sampler: Sampler) -> bool:
    """At the end of every so many epochs; 0 is never."""
    interval = every_epochs * sampler.steps_per_epoch
    return interval > 0 and step % interval == 0


# ------------------------------------------------------------------------------------------- words


def _announce(
    config: Config, run: pathlib.Path, parts: Parts, cache: str | None, start: int
) -> None:
    device = parts.mesh.devices.flat[0]
    rejected = len({*parts.train.rejected, *parts.validation.rejected})
    left_out = f"{rejected} left out (rejected.csv), " if rejected else ""
    judged = "by labels" if parts.evaluator.labelled else "without labels"
    _say(
        f"run       {run}" + (f" (resumed at step {start})" if start else "") + "\n"
        f"devices   {parts.mesh.size} x {device.device_kind}, {config.runtime.backend}\n"
        f"compiled  {cache or 'not kept'}\n"
        f"data      {config.data.source}: {len(parts.train)} to train on, "
        f"{len(parts.validation)} to validate on, {left_out}judged {judged}\n"
        f"input     {parts.input_reason}"
    )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
